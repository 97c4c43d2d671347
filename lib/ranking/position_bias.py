"""Position bias: how much less often what is shown at a position is looked at, and what its finds therefore count.

The position-based model says that an item is clicked on if it is looked at and wanted, and that the first depends on the position alone
(Richardson, Dominowska and Ragno 2007). Where a log shows the same item at several positions, its click rates there tell how often these are
looked at, by the first one's measure (intervention harvesting with the first position as pivot: Agarwal et al. 2019, "Estimating
position bias without intrusive interventions"). The rates of all items are brought together as Mantel and Haenszel did, each item a
stratum, with the interval of Greenland and Robins (1985). What a user wanted and found through an impression then counts by the inverse of
its chance to be looked at, at most `MOST_WEIGHT` (Joachims, Swaminathan and Schnabel 2017, "Unbiased learning-to-rank with biased
feedback"). Whatever else makes clicks rarer from position to position, such as a visitor who tires, is taken for position.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import packed, rows_of, shards_by, table_rows, unpacked
from lib.tables.silver import EVENTS

READ = ("event_type", "user_key", "item_id", "event_time", "request_id", "position", "is_bot")
CATEGORICAL = ("event_type", "user_key", "item_id")
IMPRESSION, ANSWER, COUNT, LED, STRATUM = "impression", "answer", "position_count", "led", "stratum"
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    STRATUM: {
        **{"position": pl.Int32, "num_shown": pl.Int64, "num_clicked": pl.Int64},
        **{"clicked_here": pl.Float64, "clicked_first": pl.Float64, "variance": pl.Float64},
    }
}
ORGANIC = 0  # the position of what a user found through no impression
MOST_POSITIONS = 100  # later ones are left out of the curve
LEAST_CLICKS = 20  # on both positions of items, below which nothing is said of a position
MOST_WEIGHT = 10.0
Z = 1.959963984540054  # of a 95 % interval


@dataclass(frozen=True)
class ShownWork:
    """What the tasks need to know."""

    begin: datetime  # from here on impressions tell how often a position is looked at
    as_of: datetime  # until here; from here on what users wanted may have been found through one
    until: datetime
    relevance: str  # type of the events that users are judged by
    num_shards: int  # of users, and of items


class Examined(NamedTuple):
    """How often what is shown at a position is looked at, the first position being 1."""

    position: int
    value: float
    low: float
    high: float
    num_shown: int


def spread_shown(files: Iterable[pa.RecordBatch], *, work: ShownWork, num_shards: int) -> Iterator[pa.RecordBatch]:
    """Read files of silver/events, and pack impressions with a position and what answers them by shard of requests, of which there are `num_shards`."""
    schema = pa.schema([EVENTS.schema.field(name) for name in READ])
    is_impression = pl.col("event_type") == "impression"
    has_request, has_position = pl.col("request_id").is_not_null(), pl.col("position").is_not_null()
    is_relevant = (pl.col("event_type") == work.relevance) & (pl.col("event_time") >= work.as_of)
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema, categorical=CATEGORICAL):
            meant = rows.filter(
                ~pl.col("is_bot"), pl.col("event_time") >= work.begin, pl.col("event_time") < work.until
            )
            shown = meant.filter(is_impression, has_request, has_position)
            shown = shown.select("request_id", "item_id", "position", is_early=pl.col("event_time") < work.as_of)
            yield from packed(shown, IMPRESSION, shards_by(shown["request_id"], num_shards))
            wanted = is_relevant & pl.col("user_key").is_not_null()
            answers = meant.filter(~is_impression, has_request | wanted).select(
                "request_id",
                "item_id",
                user_key=pl.when(wanted).then(pl.col("user_key")),
                is_early=pl.col("event_time") < work.as_of,
            )
            yield from packed(answers, ANSWER, shards_by(answers["request_id"], num_shards))


def join_answers(parts: Iterable[pa.RecordBatch], *, work: ShownWork) -> Iterator[pa.RecordBatch]:
    """Of a shard of requests, how often an item was shown and clicked at a position, and at which users found what they wanted.

    The first is told of the time before `as_of` and packed by shard of items, the second of the time after it, by shard of users.
    """
    found = unpacked(parts)
    key = ["request_id", "item_id"]
    if ANSWER not in found and IMPRESSION not in found:
        return
    nothing = {"request_id": pl.String, "item_id": pl.Categorical, "is_early": pl.Boolean}
    shown = found.get(IMPRESSION, pl.DataFrame(schema={**nothing, "position": pl.Int32}))
    answers = found.get(ANSWER, pl.DataFrame(schema={**nothing, "user_key": pl.Categorical}))
    shown = shown.group_by(key).agg(pl.min("position"), pl.max("is_early"))
    early = shown.filter(pl.col("is_early"), pl.col("position") <= MOST_POSITIONS)
    clicked = answers.filter(pl.col("is_early")).select(key).unique().with_columns(is_clicked=True)
    counts = (
        early.join(clicked, on=key, how="left")
        .group_by("item_id", "position")
        .agg(num_shown=pl.len().cast(pl.Int64), num_clicked=pl.col("is_clicked").count().cast(pl.Int64))
    )
    yield from packed(counts, COUNT, shards_by(counts["item_id"], work.num_shards))
    wanted = answers.filter(~pl.col("is_early"), pl.col("user_key").is_not_null())
    led = wanted.join(shown.select(*key, "position"), on=key, how="left", nulls_equal=False)
    led = led.select("user_key", "item_id", pl.col("position").fill_null(ORGANIC).cast(pl.Int32)).unique()
    yield from packed(led, LED, shards_by(led["user_key"], work.num_shards))


def strata(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Of a shard of items, for each position what the items that were also shown at the first one add to its estimate."""
    found = unpacked(parts)
    if COUNT not in found:
        return
    counts = found[COUNT].group_by("item_id", "position").agg(pl.sum("num_shown", "num_clicked"))
    first = counts.filter(position=1).select("item_id", n1="num_shown", c1="num_clicked")
    n, c, n1, c1 = (pl.col(name).cast(pl.Float64) for name in ("num_shown", "num_clicked", "n1", "c1"))
    both = n + n1
    met = counts.join(first, on="item_id", how="inner").sort("item_id", "position")
    sums = met.group_by("position").agg(
        pl.sum("num_shown", "num_clicked"),
        clicked_here=(c * n1 / both).sum(),
        clicked_first=(c1 * n / both).sum(),
        variance=(((c + c1) * n * n1 - c * c1 * both) / both**2).sum(),
    )
    yield from packed(sums.with_columns(pl.col("position").cast(pl.Int32)), STRATUM)


def curve(sums: pl.DataFrame) -> list[Examined]:
    """How often each position is looked at, from what `strata` gives of all shards; nothing where too little was clicked.

    A position without LEAST_CLICKS on items that were shown there and first is left out.
    """
    added = sums.group_by("position").agg(pl.exclude("position").sum()).sort("position")
    rows = []
    for row in added.to_dicts():
        here, first = row["clicked_here"], row["clicked_first"]
        if row["num_clicked"] < LEAST_CLICKS or not first:
            continue
        value = here / first
        spread = 0.0 if row["position"] == 1 else Z * math.sqrt(row["variance"] / (here * first))
        rows.append(
            Examined(row["position"], value, value * math.exp(-spread), value * math.exp(spread), int(row["num_shown"]))
        )
    return rows if rows and rows[0].position == 1 else []


def weights_of(examined: Sequence[Examined], position: pl.Series) -> pl.Series:
    """What a find at each position counts: the inverse of its chance to be looked at, 1 for what no impression led to.

    A position of which nothing is known is taken to be looked at as the last one before it of which something is.
    """
    chances = pl.DataFrame(
        {"position": [ORGANIC, *(row.position for row in examined)], "chance": [1.0, *(row.value for row in examined)]},
        schema={"position": pl.Int32, "chance": pl.Float64},
    )
    asked = pl.DataFrame({"position": position.fill_null(ORGANIC).cast(pl.Int32)}).with_row_index("row")
    met = asked.sort("position").join_asof(chances, on="position", strategy="backward").sort("row")
    return (1 / met["chance"].clip(1 / MOST_WEIGHT)).alias("weight")
