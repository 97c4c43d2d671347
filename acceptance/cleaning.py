"""On the market: each kind of dirt is found, and nothing else.

The simulator writes beside its log which records are dirty and how. What clean made of each record stands in bronze/rejects (a
reason, and the record as received) and in silver/events (flagged as a bot's, or without a user). The kind that a reject is
of is read from its reason, its file and what the refused field held, never from the truth. A record written again with its
fields in another order is told as a duplicate, as that with the same bytes is. A clock that was corrected by whole hours is
told as a mistaken zone.
"""

import json
from pathlib import Path

import polars as pl

from acceptance import lakes
from acceptance.claims import Claim
from lib.cleaning.pseudonyms import load_key, pseudonyms
from lib.formats.mapping import load_mapping
from lib.formats.money import rates_of
from lib.lake.lake import Lake
from lib.settings import PrivacySettings
from rl.market.effects import RATES, on_day
from rl.market.log_files import LOG_FOLDER, TRUTH_FOLDER
from rl.market.market import MANIFEST, Market
from rl.market.shoppers import DAY_MS
from rl.market.visitors import CLOCK_SKEW, HOUR_MS, LATE_SIGN_IN, ZONE_MISTAKE
from rl.observation import PURCHASE

LEAST, LEAST_OF_BOTS = 0.99, 0.95
MOST_SECONDS_OFF = 2  # the way of a record from a device to the server, at most
MOST_ROUNDED = 0.005 * max(RATES.values())  # euros, of one price
BOTS = ("bot", "bot_farm")
BY_VALUE = ("event_time", "event_type", "price", "quantity")
RECORD = ("file", "record_number")


def check() -> list[Claim]:
    """Precision and recall of every kind of dirt, on the default market and on one with every effect."""
    full = lakes.full_market()
    return [*claims_of(lakes.market()), *claims_of(full, "a market with every effect"), paid(full)]


def claims_of(lake: Path, name: str = "the market") -> list[Claim]:
    """Precision and recall of every kind of dirt on a market's lake."""
    truth, found = true_dirt(lake), found_dirt(Lake(str(lake)))
    kinds = truth["kind"].unique().sort().to_list()
    claims = [claim_of(kind, truth, found, name) for kind in kinds]
    other = found.filter(~pl.col("kind").is_in(kinds))
    return [
        *claims,
        lifted(Lake(str(lake)), truth, name),
        mended(lake, truth, name),
        *([recognised(lake, truth, name)] if LATE_SIGN_IN in kinds else []),
        Claim(
            f"on {name} nothing is refused for a reason that was not planted",
            f"{other.height} records",
            other.is_empty(),
        ),
    ]


def claim_of(kind: str, truth: pl.DataFrame, found: pl.DataFrame, name: str) -> Claim:
    """Precision and recall of one kind, by record."""
    planted, told = (frame.filter(pl.col("kind") == kind).select(RECORD) for frame in (truth, found))
    right = planted.join(told, on=RECORD, how="semi").height
    precision, recall = right / max(told.height, 1), right / planted.height
    least = LEAST_OF_BOTS if kind in BOTS else LEAST
    return Claim(
        f"on {name} precision and recall of {kind} are at least {least}",
        f"precision {precision:.4f}, recall {recall:.4f} ({planted.height:,} planted, {told.height:,} found, {right:,} of them right)",
        min(precision, recall) >= least,
    )


def lifted(lake: Lake, truth: pl.DataFrame, name: str) -> Claim:
    """The place by views of the item that the bot farm views: with the farm, as clean has it, and without the farm."""
    columns = ["source_record", "item_id", "event_type", "is_bot"]
    events = pl.DataFrame(pl.from_arrow(lake.dataset("silver/events").to_table(columns=columns)))
    views = in_log(events.filter(event_type="view")).join(truth, on=RECORD, how="left")
    is_farmed, is_other_bot = (pl.col("kind").eq_missing(pl.lit(kind)) for kind in ("bot_farm", "bot"))
    item = str(views.filter(is_farmed)["item_id"].mode().first())
    with_farm, found, without = (
        place_of(item, rows["item_id"])
        for rows in (
            views.filter(~is_other_bot),
            views.filter(~pl.col("is_bot")),
            views.filter(~is_farmed & ~is_other_bot),
        )
    )
    return Claim(
        f"on {name} the bot farm does not lift its item",
        f"place {found:,} by views without flagged events, {without:,} in truth; {with_farm:,} if the farm counted",
        found == without > with_farm,
    )


def mended(lake: Path, truth: pl.DataFrame, name: str) -> Claim:
    """How far the times of wrong clocks are from the true ones, as they were written and as clean has them."""
    market = json.loads((lake / "raw" / LOG_FOLDER / MANIFEST).read_text())["market"]
    start = pl.lit(market["end_ms"] - market["days"] * DAY_MS).cast(pl.Datetime("ms", "UTC"))
    wrong = truth.filter(pl.col("kind").is_in([CLOCK_SKEW, ZONE_MISTAKE]))
    times = (
        with_record(Lake(str(lake)))
        .join(wrong, on=RECORD)
        .with_columns(true=start + pl.duration(milliseconds="time_ms"))
    )
    off = [(times[name] - times["true"]).dt.total_milliseconds().abs() / 1000 for name in ("stated", "event_time")]
    before, after = (float(seconds.max() or 0) for seconds in off)  # type: ignore[arg-type]
    return Claim(
        f"on {name} the times of wrong clocks are within {MOST_SECONDS_OFF} s of the true ones",
        f"{times.height:,} events: at most {after:.2f} s off, {before:,.0f} s as written",
        times.height > 0 and after <= MOST_SECONDS_OFF,
    )


def recognised(lake: Path, truth: pl.DataFrame, name: str) -> Claim:
    """Whether what users did before they signed in is theirs, and nobody else's."""
    late = truth.filter(kind=LATE_SIGN_IN).with_columns(
        user_id=pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(8))
    )
    keyed = late.select(*RECORD, pseudonyms(late["user_id"], key_of_lake(lake)).alias("true_key"))
    events = with_record(Lake(str(lake))).join(keyed, on=RECORD)
    right = int((events["user_key"] == events["true_key"]).sum())
    return Claim(
        f"on {name} what users did before they signed in is theirs",
        f"{right:,} of {events.height:,} events",
        0 < events.height == right,
    )


def paid(lake: Path) -> Claim:
    """What shoppers paid, in euros: in silver by the mapping's rates, and in the market itself."""
    market, rates = Market.read(lake / "raw" / LOG_FOLDER), rates_of(load_mapping("market"), ())
    log = market.log()
    day, item = (column[log.kind == PURCHASE] for column in (log.time_ms // DAY_MS, log.item))
    true = float((market.attributes.price[item] * on_day(market.world.price_levels, day, item)).sum())
    sums = "SELECT currency, count(*) AS n, sum(price * quantity) AS amount FROM silver.events WHERE event_type = 'purchase' GROUP BY ALL"
    sold = lakes.rows(Lake(str(lake)), sums)
    found = float(sum(of["amount"] * rates[of["currency"]] for of in sold))
    num_sold = sum(of["n"] for of in sold)
    return Claim(
        "purchases at prices of their day, in several currencies, add up to what shoppers paid",
        f"{num_sold:,} purchases in {len(sold)} currencies, {found:,.2f} EUR; in truth {len(item):,} and {true:,.2f} EUR, before "
        "each is rounded to a hundredth",
        num_sold == len(item) and len(sold) > 1 and abs(found - true) <= MOST_ROUNDED * num_sold,
    )


def key_of_lake(lake: Path) -> bytes:
    """The pseudonym key of a lake."""
    return load_key(PrivacySettings(create_key=False), str(lake))


def place_of(item: str, viewed: pl.Series) -> int:
    """The place of an item among those that were viewed, from 1; items viewed equally often share it."""
    counts = viewed.value_counts(name="views")
    own = counts.filter(item_id=item)["views"]
    return 1 + counts.filter(pl.col("views") > (own.item() if len(own) else 0)).height


def true_dirt(lake: Path) -> pl.DataFrame:
    """file, record_number, kind, true user and time_ms of every dirty record, as the simulator wrote it."""
    written = pl.read_parquet(lake / "raw" / TRUTH_FOLDER / "part-*.parquet").select(*RECORD, "kind", "user", "time_ms")
    return written.with_columns(pl.col("kind").replace({"rewritten": "duplicate"}))


def found_dirt(lake: Lake) -> pl.DataFrame:
    """file, record_number, kind of every record that clean refused, flagged or mended, or that it kept without a user."""
    return pl.concat([refused(lake), kept_but_marked(with_record(lake))])


def refused(lake: Lake) -> pl.DataFrame:
    """The refused records of the events, by what their reason and the refused value say."""
    rejects = pl.DataFrame(
        pl.from_arrow(lake.dataset("bronze/rejects").to_table(columns=["source", "source_record", "reason", "raw"]))
    )
    of_events = rejects.filter(pl.col("source") == "events")
    reason, column = pl.col("reason"), pl.col("reason").str.extract("^bad_value:(.*)$")
    values = [
        pl.when(column == name).then(pl.col("raw").str.json_path_match(f"$.{name}")) for name in (*BY_VALUE, "item_id")
    ]
    value = pl.coalesce(values)
    is_time = value.str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", strict=False).is_not_null()
    is_number = value.cast(pl.Float64, strict=False).is_not_null()
    kind = (
        pl.when((reason == "duplicate") & pl.col("source_record").str.starts_with("events/resent")).then(pl.lit("resent"))
        .when(column.is_null()).then(reason.replace({"malformed": "broken_text", "ignored": "removed"}))
        .when(value.is_null()).then(pl.lit("null_field"))
        .when(column == "event_type").then(pl.lit("unknown_type"))
        .when((column == "event_time") & value.str.starts_with("1970")).then(pl.lit("clock_reset"))
        .when((column == "event_time") & is_time).then(pl.lit("after_end"))
        .when(column == "event_time").then(pl.lit("unparsable_time"))
        .when((column == "price") & is_number).then(pl.lit("negative_price"))
        .when(column.is_in(["price", "quantity"])).then(pl.lit("text_for_number"))
        .otherwise(reason)
    )  # fmt: skip
    return placed(of_events.with_columns(kind=kind)).select(*RECORD, "kind")


def kept_but_marked(events: pl.DataFrame) -> pl.DataFrame:
    """The records that silver keeps as a bot's, without a user, at another time or with a user that they do not name."""
    off = (pl.col("stated") - pl.col("event_time")).dt.total_milliseconds()
    from_hour = (off + HOUR_MS // 2) % HOUR_MS - HOUR_MS // 2
    kind = (
        pl.when(pl.col("bot_reason").str.contains("one item")).then(pl.lit("bot_farm"))
        .when("is_bot").then(pl.lit("bot"))
        .when(pl.col("user_key").is_null()).then(pl.lit("no_user"))
        .when(pl.col("user_id").is_null()).then(pl.lit(LATE_SIGN_IN))
        .when((off != 0) & (from_hour.abs() <= MOST_SECONDS_OFF * 1000)).then(pl.lit(ZONE_MISTAKE))
        .when(off != 0).then(pl.lit(CLOCK_SKEW))
    )  # fmt: skip
    return events.with_columns(kind=kind).filter(pl.col("kind").is_not_null()).select(*RECORD, "kind")


def with_record(lake: Lake) -> pl.DataFrame:
    """Events with what their record says of user and time: user_id and `stated`."""
    columns = ["source_record", "event_time", "user_key", "is_bot", "bot_reason"]
    events = pl.DataFrame(pl.from_arrow(lake.dataset("silver/events").to_table(columns=columns)))
    columns = ["source_file", "record_number", "user_id", "event_time"]
    received = pl.DataFrame(pl.from_arrow(lake.dataset("bronze/events").to_table(columns=columns)))
    stated = pl.col("event_time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.3fZ", time_zone="UTC", strict=False)
    records = received.select("user_id", "record_number", file="source_file", stated=stated)
    return in_log(events).join(records, on=RECORD)


def in_log(events: pl.DataFrame) -> pl.DataFrame:
    """Events with the file and the number of their record."""
    return placed(events.with_columns(pl.col("source_record").str.strip_prefix("events/")))


def placed(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with their `source_record` as file and record number."""
    record = pl.col("source_record")
    return rows.with_columns(
        file=record.str.replace(r":\d+$", ""), record_number=record.str.extract(r":(\d+)$").cast(pl.Int64)
    )
