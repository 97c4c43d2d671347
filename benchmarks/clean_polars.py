"""The simulated market's log to bronze and silver by Polars alone: a peer of ingest and clean.

    python clean_polars.py <lake>/raw/market/events <output folder>

Does what the DuckDB yardstick does, with the same outcomes: bronze with every record as received; types, UTC, refusals
with reasons, exact duplicates, double clicks, sessions, bots by fixed thresholds, keyed pseudonyms, ids by SHA-256
(hashlib's: Polars has none). The log is streamed once into bronze, split by user; then one part of the users at a time
is cleaned in memory. Prints the seconds of each step, counts by outcome, and how many events are bots' and how many
sessions there are.
"""

import hashlib
import hmac
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl

PART_BYTES = 40 << 20  # of the compressed log: about a million records
TEXTS = (
    *("event_time", "event_type", "user_id", "item_id", "session", "quantity", "price", "order_id", "request_id"),
    *("position", "propensity", "policy", "experiment", "arm"),
)
SCHEMA = {**dict.fromkeys(TEXTS, pl.String()), "candidates": pl.List(pl.String)}
EVENT_TYPES = ("impression", "view", "cart", "favourite", "purchase", "return", "rating")
MARKET_CLOSES = pl.datetime(2026, 7, 1, time_zone="UTC")
DOUBLE_CLICK, SESSION_GAP = pl.duration(seconds=2), pl.duration(minutes=30)
KEY = b"the secret of a shop"
USER_DAY = ("user_key", "event_date")


def main(source: Path, out: Path) -> None:
    """Write bronze, silver and rejects, each in one file or more for each part of the users."""
    began = time.perf_counter()
    write_bronze(source, out / "bronze")
    received = time.perf_counter()
    print(f"bronze: every record as received {received - began:.1f} s", flush=True)
    outcomes, num_of_bots, num_sessions = Counter[str](), 0, 0
    (out / "silver").mkdir()
    (out / "rejects").mkdir()
    for part in sorted((out / "bronze").iterdir()):
        records = pl.read_parquet(part)
        events = decided(typed(records))
        outcome = events["outcome"]
        records.with_columns(outcome).filter(outcome != "accepted").write_parquet(
            out / "rejects" / f"{part.name}.parquet"
        )
        silver = cleaned(events.filter(outcome == "accepted").drop("outcome"))
        silver.write_parquet(out / "silver" / f"{part.name}.parquet", compression="zstd", compression_level=1)
        outcomes.update(dict(outcome.value_counts().iter_rows()))
        num_of_bots += silver["is_bot"].sum()
        num_sessions += silver["session_id"].drop_nulls().n_unique()
    print(f"silver and rejects {time.perf_counter() - received:.1f} s")
    print(dict(sorted(outcomes.items())))
    print("bots", (num_of_bots, num_sessions))


def write_bronze(source: Path, folder: Path) -> None:
    """Every record as received, those of a user in one part, in the order of the log."""
    files = sorted(source.glob("*.jsonl*"))
    num_parts = 1 + sum(file.stat().st_size for file in files) // PART_BYTES
    pl.scan_ndjson(files, schema=SCHEMA, include_file_paths="source_file").sink_parquet(
        pl.PartitionBy(folder, key={"part": pl.col("user_id").hash() % num_parts}, include_key=False),
        compression="zstd",
        compression_level=1,
        mkdir=True,
    )


def typed(records: pl.DataFrame) -> pl.DataFrame:
    """The records' values in their types, with event_id, user_key, and refusal: why it cannot be an event, or null."""
    values = pl.col(*TEXTS), pl.col("candidates").list.join(" ")
    identities = records.select(pl.concat_str([value.fill_null("") for value in values], separator="\x1f")).to_series()
    event_time = pl.col("event_time").str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    price = pl.col("price").cast(pl.Decimal(18, 4), strict=False)
    quantity = pl.col("quantity").cast(pl.Int64, strict=False)
    is_fit = {
        "event_type": pl.col("event_type").is_in(EVENT_TYPES),
        "event_time": event_time < MARKET_CLOSES,
        "item_id": pl.col("item_id") != "",
        "quantity": pl.col("quantity").is_null() | (quantity > 0),
        "price": pl.col("price").is_null() | (price >= 0),
    }
    refusals = [pl.when(~fit.fill_null(False)).then(pl.lit(f"bad_value:{name}")) for name, fit in is_fit.items()]
    return records.with_columns(
        event_time,
        quantity,
        price,
        pl.col("position").cast(pl.Int32, strict=False),
        pl.col("propensity").cast(pl.Float64, strict=False),
        user_key=pseudonyms(records["user_id"]),
        event_id=sha256(identities),
        refusal=pl.coalesce(refusals),
    ).drop("user_id", "session")


def decided(events: pl.DataFrame) -> pl.DataFrame:
    """Add `outcome`: refusal, duplicate, double_click or accepted."""
    first = pl.col("event_id").is_first_distinct()
    fit = events.with_columns(
        outcome=pl.coalesce("refusal", pl.when(~first).then(pl.lit("duplicate")), pl.lit("accepted"))
    ).with_row_index("row")
    views = fit.filter(pl.col("user_key").is_not_null(), outcome="accepted", event_type="view")
    ordered = views.select("user_key", "item_id", "event_time", "event_id", "row").sort(pl.all())
    is_soon = pl.col("event_time").diff() <= DOUBLE_CLICK
    again = ordered.filter(is_same("user_key"), is_same("item_id"), is_soon)["row"]
    outcome = pl.when(pl.col("row").is_in(again.implode())).then(pl.lit("double_click")).otherwise("outcome")
    return fit.with_columns(outcome=outcome).drop("row", "refusal")


def cleaned(accepted: pl.DataFrame) -> pl.DataFrame:
    """The rows of silver: accepted events with sessions and bots, sorted by user and time."""
    events = accepted.with_columns(event_date=pl.col("event_time").dt.date()).sort("user_key", "event_time", "event_id")
    known = events.filter(pl.col("user_key").is_not_null())
    known = known.with_columns(gap=pl.when(is_same("user_key")).then(pl.col("event_time").diff()))
    is_first = known.select(pl.col("gap").is_null() | (pl.col("gap") > SESSION_GAP)).to_series()
    named = known.filter(is_first).select(pl.concat_str("user_key", "event_id", separator=" ")).to_series()
    sessions = sha256(named).str.head(32)
    return pl.concat(
        [
            known.with_columns(session_id=sessions[is_first.cum_sum() - 1])
            .join(bots(known), on=USER_DAY, how="left", maintain_order="left")
            .drop("gap"),
            events.filter(pl.col("user_key").is_null()),
        ],
        how="diagonal",
    ).with_columns(pl.col("user_key").cast(pl.String), is_bot=pl.col("bot_reason").is_not_null())


def bots(known: pl.DataFrame) -> pl.DataFrame:
    """The days of users who act too often or too evenly: USER_DAY, bot_reason. Events at one moment are one action."""
    seconds = pl.col("gap").dt.total_microseconds() / 1e6
    short = seconds.filter((pl.col("gap") > pl.duration()) & (pl.col("gap") <= SESSION_GAP))
    hours = known.group_by(*USER_DAY, hour=pl.col("event_time").dt.hour()).agg(
        num_actions=(pl.col("gap").is_null() | (pl.col("gap") > pl.duration())).sum(),
        num=short.len(),
        total=short.sum(),
        squares=(short**2).sum(),
    )
    days = hours.group_by(USER_DAY).agg(
        pl.col("num", "total", "squares").sum(), in_day=pl.col("num_actions").sum(), in_hour=pl.col("num_actions").max()
    )
    mean = pl.col("total") / pl.col("num")
    is_regular = (pl.col("num") >= 30) & (pl.col("squares") / pl.col("num") - mean**2 <= (0.1 * mean) ** 2)
    reason = (
        pl.when(pl.col("in_day") > 500)
        .then(pl.lit("many a day"))
        .when(pl.col("in_hour") > 200)
        .then(pl.lit("many an hour"))
        .when(is_regular)
        .then(pl.lit("regular"))
    )
    return days.select(*USER_DAY, bot_reason=reason).drop_nulls()


def is_same(column: str) -> pl.Expr:
    """Whether a row has the value of the row before."""
    return pl.col(column) == pl.col(column).shift()


def pseudonyms(users: pl.Series) -> pl.Series:
    """The users' ids, keyed; of a type by which they sort and group as numbers."""
    known = users.unique().drop_nulls()
    keys = [hmac.digest(KEY, user.encode(), "sha256").hex()[:32] for user in known]
    return users.replace_strict(known, pl.Series(keys, dtype=pl.Enum(keys)))


def sha256(texts: pl.Series) -> pl.Series:
    """The SHA-256 of each text, in hex."""
    return pl.Series([hashlib.sha256(text.encode()).hexdigest() for text in texts], dtype=pl.String)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
