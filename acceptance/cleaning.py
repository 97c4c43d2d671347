"""On the market: each kind of dirt is found, and nothing else.

The simulator writes beside its log which records are dirty and how. What clean made of each record stands in bronze/rejects (a
reason, and the record as received) and in silver/events (flagged as a bot's, or without a user). The kind that a reject is
of is read from its reason, its file and what the refused field held, never from the truth. A record written again with its
fields in another order is told as a duplicate, as that with the same bytes is.
"""

from pathlib import Path

import polars as pl

from acceptance import lakes
from acceptance.claims import Claim
from lib.lake.lake import Lake

LEAST, LEAST_OF_BOTS = 0.99, 0.95
BOTS = ("bot", "bot_farm")
BY_VALUE = ("event_time", "event_type", "price", "quantity")
RECORD = ("file", "record_number")


def check() -> list[Claim]:
    """Precision and recall of every kind of dirt on the default market."""
    return claims_of(lakes.market())


def claims_of(lake: Path) -> list[Claim]:
    """Precision and recall of every kind of dirt on a market's lake."""
    truth, found = true_dirt(lake), found_dirt(Lake(str(lake)))
    kinds = truth["kind"].unique().sort().to_list()
    claims = [claim_of(kind, truth, found) for kind in kinds]
    other = found.filter(~pl.col("kind").is_in(kinds))
    return [
        *claims,
        lifted(Lake(str(lake)), truth),
        Claim(
            "on the market nothing is refused for a reason that was not planted",
            f"{other.height} records",
            other.is_empty(),
        ),
    ]


def claim_of(kind: str, truth: pl.DataFrame, found: pl.DataFrame) -> Claim:
    """Precision and recall of one kind, by record."""
    planted, told = (frame.filter(pl.col("kind") == kind).select(RECORD) for frame in (truth, found))
    right = planted.join(told, on=RECORD, how="semi").height
    precision, recall = right / max(told.height, 1), right / planted.height
    least = LEAST_OF_BOTS if kind in BOTS else LEAST
    return Claim(
        f"on the market precision and recall of {kind} are at least {least}",
        f"precision {precision:.4f}, recall {recall:.4f} ({planted.height:,} planted, {told.height:,} found, {right:,} of them right)",
        min(precision, recall) >= least,
    )


def lifted(lake: Lake, truth: pl.DataFrame) -> Claim:
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
        "the bot farm does not lift its item",
        f"place {found:,} by views without flagged events, {without:,} in truth; {with_farm:,} if the farm counted",
        found == without > with_farm,
    )


def place_of(item: str, viewed: pl.Series) -> int:
    """The place of an item among those that were viewed, from 1; items viewed equally often share it."""
    counts = viewed.value_counts(name="views")
    own = counts.filter(item_id=item)["views"]
    return 1 + counts.filter(pl.col("views") > (own.item() if len(own) else 0)).height


def true_dirt(lake: Path) -> pl.DataFrame:
    """file, record_number, kind of every dirty record, as the simulator wrote it."""
    written = pl.read_parquet(lake / "raw" / "market-truth" / "part-*.parquet").select(*RECORD, "kind")
    return written.with_columns(pl.col("kind").replace({"rewritten": "duplicate"}))


def found_dirt(lake: Lake) -> pl.DataFrame:
    """file, record_number, kind of every record that clean refused or flagged, or that it kept without a user."""
    return pl.concat([refused(lake), kept_but_marked(lake)])


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


def kept_but_marked(lake: Lake) -> pl.DataFrame:
    """The records that silver keeps as a bot's, or without a user."""
    columns = ["source_record", "user_key", "is_bot", "bot_reason"]
    events = pl.DataFrame(pl.from_arrow(lake.dataset("silver/events").to_table(columns=columns)))
    kind = (
        pl.when(pl.col("bot_reason").str.contains("one item")).then(pl.lit("bot_farm"))
        .when("is_bot").then(pl.lit("bot"))
        .when(pl.col("user_key").is_null()).then(pl.lit("no_user"))
    )  # fmt: skip
    return in_log(events.with_columns(kind=kind).filter(pl.col("kind").is_not_null())).select(*RECORD, "kind")


def in_log(events: pl.DataFrame) -> pl.DataFrame:
    """Events with the file and the number of their record."""
    return placed(events.with_columns(pl.col("source_record").str.strip_prefix("events/")))


def placed(rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with their `source_record` as file and record number."""
    record = pl.col("source_record")
    return rows.with_columns(
        file=record.str.replace(r":\d+$", ""), record_number=record.str.extract(r":(\d+)$").cast(pl.Int64)
    )
