"""On the market: each kind of dirt is found, and nothing else.

The simulator writes beside its log which records are dirty and how. What clean made of each record stands in bronze/rejects (a
reason, and the record as received) and in silver/events (flagged as a bot's, or without a user). The kind that a reject is
of is read from its reason and from what the refused field held, never from the truth.
"""

from pathlib import Path

import polars as pl

from acceptance import lakes
from acceptance.claims import Claim
from lib.lake.lake import Lake

LEAST, LEAST_OF_BOTS = 0.98, 0.9
BY_VALUE = ("event_time", "event_type", "price", "quantity")
RECORD = ("file", "record_number")


def check() -> list[Claim]:
    """Precision and recall of every kind of dirt on the default market."""
    lake = lakes.market()
    truth, found = true_dirt(lake), found_dirt(Lake(str(lake)))
    kinds = truth["kind"].unique().sort().to_list()
    claims = [claim_of(kind, truth, found) for kind in kinds]
    other = found.filter(~pl.col("kind").is_in(kinds))
    return [
        *claims,
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
    least = LEAST_OF_BOTS if kind == "bot" else LEAST
    return Claim(
        f"on the market precision and recall of {kind} are at least {least}",
        f"precision {precision:.4f}, recall {recall:.4f} ({planted.height:,} planted, {told.height:,} found, {right:,} of them right)",
        min(precision, recall) >= least,
    )


def true_dirt(lake: Path) -> pl.DataFrame:
    """file, record_number, kind of every dirty record, as the simulator wrote it."""
    return pl.read_parquet(lake / "raw" / "market-truth" / "part-*.parquet").select(*RECORD, "kind")


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
        pl.when(column.is_null()).then(reason)
        .when(value.is_null()).then(pl.lit("null_field"))
        .when(column == "event_type").then(pl.lit("unknown_type"))
        .when((column == "event_time") & is_time).then(pl.lit("after_end"))
        .when(column == "event_time").then(pl.lit("unparsable_time"))
        .when((column == "price") & is_number).then(pl.lit("negative_price"))
        .when(column.is_in(["price", "quantity"])).then(pl.lit("text_for_number"))
        .otherwise(reason)
    )  # fmt: skip
    return placed(of_events.with_columns(kind=kind))


def kept_but_marked(lake: Lake) -> pl.DataFrame:
    """The records that silver keeps as a bot's, or without a user."""
    columns = ["source_record", "user_key", "is_bot"]
    events = pl.DataFrame(pl.from_arrow(lake.dataset("silver/events").to_table(columns=columns)))
    kind = pl.when("is_bot").then(pl.lit("bot")).when(pl.col("user_key").is_null()).then(pl.lit("no_user"))
    marked = events.with_columns(kind=kind, source_record=pl.col("source_record").str.strip_prefix("events/"))
    return placed(marked.filter(pl.col("kind").is_not_null()))


def placed(rows: pl.DataFrame) -> pl.DataFrame:
    """`source_record` as file and record number."""
    number = pl.col("source_record").str.extract(r":(\d+)$").cast(pl.Int64)
    return rows.select(
        pl.col("source_record").str.replace(r":\d+$", "").alias("file"), number.alias("record_number"), "kind"
    )
