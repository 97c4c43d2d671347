"""Stored lists, judged by tasks: whole users in a shard, of whom each strategy's lists are set against what they wanted.

A task reads files of lists and of interactions and packs them by shard of users; `describe` counts who is asked for, and how many
knew each item; with the facts of all items `judge` reduces a shard to sums, which `sum_up` adds. Does not import Spark.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import product

import numpy as np
import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import Broadcast, packed, rows_of, shards_by, table_rows, unpacked
from lib.ranking.evaluation import (
    NEW_ITEMS,
    SEGMENTS,
    SEGMENTS_OF_USERS,
    SUMS_SCHEMA,
    segment_of,
    shard_sums,
    summarised,
)
from lib.ranking.known_pairs import INTERACTION, interaction_schema, known_pairs
from lib.ranking.shown import COMPOSED, FIGURES, KEY, KEY_COLUMNS, ItemFacts, figures_of
from lib.statistics.bootstrap import keys_of
from lib.tables.gold import QUESTIONS, RECOMMENDATIONS

READ = ("user_key", "item_id", "event_time", "split", "weight", "num_relevant")
READ_OF_LISTS = ("as_of", "strategy", "question", "user_key", "rank", "item_id")
# Kinds of parts.
LIST, ASKED, WANTED, KNOWN, ITEM, COUNT, STRATEGY = "list", "asked", "wanted", "known", "item", "count", "strategy"
SUMS, PLACE, FIGURE, SUMMARY, COVERED = "sums", "place", "figure", "summary", "covered"
LIST_COLUMNS = pl.Schema(
    {"strategy": pl.String, "question": pl.String, "user_key": pl.String, "rank": pl.Int32, "item_id": pl.String}
)
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    ITEM: {"item_id": pl.String, "num_users": pl.Int64, "age_days": pl.Float64},
    COUNT: {"num_known_users": pl.Int64, "num_asked": pl.Int64},
    STRATEGY: {"strategy": pl.String},
    FIGURE: {"shard": pl.Int64, **KEY_COLUMNS, **FIGURES},
    COVERED: {**KEY_COLUMNS, "num_items": pl.Int64},
    SUMMARY: {
        **{"question": pl.String, "segment": pl.String, "strategy": pl.String, "metric": pl.String},
        **{"value": pl.Float64, "low": pl.Float64, "high": pl.Float64},
        **{"num_users": pl.Int64, "num_without_list": pl.Int64},
    },
}
NUM_SEGMENTS = len(QUESTIONS) * len(SEGMENTS)  # each of which one task adds up


@dataclass(frozen=True)
class ListsWork:
    """What the tasks of one run need to know."""

    as_of: datetime
    split: str  # of what users wanted
    k: int
    num_resamples: int
    seed: int
    num_shards: int


def spread_lists(files: Iterable[pa.RecordBatch], *, work: ListsWork) -> Iterator[pa.RecordBatch]:
    """Read files of gold/recommendations (rows of TABLE_FILES), and pack the first k ranks of the lists by shard of users."""
    schema = pa.schema([RECOMMENDATIONS.schema.field(name) for name in READ_OF_LISTS])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema):
            chosen = rows.filter(pl.col("as_of") == work.as_of, pl.col("rank") <= work.k).drop("as_of")
            yield from packed(chosen, LIST, shards_by(chosen["user_key"], work.num_shards))


def describe(parts: Iterable[pa.RecordBatch], *, work: ListsWork) -> Iterator[pa.RecordBatch]:
    """Pack a shard's lists, who is asked for and what they wanted; count how many knew each item, and name the strategies."""
    found = unpacked(parts)
    interactions = found.get(INTERACTION, pl.DataFrame(interaction_schema(READ).empty_table()))
    lists = found.get(LIST, pl.DataFrame(schema=LIST_COLUMNS))
    known = known_pairs(interactions, as_of=work.as_of).select("user_key", "item_id")
    wanted = wanted_items(interactions, known, split=work.split)
    asked = asked_users(wanted, known)
    counts = {"num_known_users": known["user_key"].n_unique(), "num_asked": len(asked)}
    yield from packed(pl.DataFrame([counts], schema=GATHERED[COUNT]), COUNT)
    age = (pl.lit(work.as_of) - pl.min("event_time")).dt.total_seconds() / 86_400
    ages = interactions.group_by("item_id").agg(age_days=age)
    of_items = known.group_by("item_id").agg(num_users=pl.len().cast(pl.Int64)).join(ages, on="item_id", how="left")
    yield from packed(of_items, ITEM)
    yield from packed(lists.select("strategy").unique(), STRATEGY)
    yield from packed(lists, LIST)
    yield from packed(asked, ASKED)
    yield from packed(wanted, WANTED)
    yield from packed(known.join(asked, on="user_key", how="semi"), KNOWN)


def wanted_items(interactions: pl.DataFrame, known: pl.DataFrame, *, split: str) -> pl.DataFrame:
    """One row per question, user and relevant item of the split.

    The question `new` leaves out items that the user knew.
    """
    bought = interactions.filter(pl.col("split") == split, pl.col("num_relevant") > 0)
    wanted = bought.select("user_key", "item_id").unique()
    new = wanted.join(known, on=["user_key", "item_id"], how="anti")
    return pl.concat(
        [rows.with_columns(question=pl.lit(name)) for name, rows in zip(QUESTIONS, (wanted, new), strict=True)]
    )


def asked_users(wanted: pl.DataFrame, known: pl.DataFrame) -> pl.DataFrame:
    """One row per question and user with a wanted item: their number, and how many items the user knew before."""
    num_known = known.group_by("user_key").agg(num_known=pl.len().cast(pl.Int64))
    users = wanted.group_by("question", "user_key").agg(num_relevant=pl.len().cast(pl.Int64))
    return users.join(num_known, on="user_key", how="left").with_columns(pl.col("num_known").fill_null(0))


def judge(parts: Iterable[pa.RecordBatch], *, facts: Broadcast[ItemFacts], work: ListsWork) -> Iterator[pa.RecordBatch]:
    """Reduce a shard: its sums of metrics by segment, sums of what its lists show, and which items these show by the item's shard."""
    found = unpacked(parts)
    if ASKED not in found:
        return
    asked = found[ASKED]
    lists = with_composed(found.get(LIST, pl.DataFrame(schema=LIST_COLUMNS)), k=work.k)
    lists = lists.join(asked, on=["question", "user_key"], how="inner")
    history = found.get(KNOWN, pl.DataFrame(schema={"user_key": pl.String, "item_id": pl.String}))
    of_users = judged_lists(lists, found[WANTED], asked, facts.value.strategies)
    if of_users.is_empty():
        return  # nobody has a list
    new = facts.value.new_among(found[WANTED])
    of_new_items = judged_lists(lists, new, asked_users(new, history), facts.value.strategies)
    part = segment_of(pl.col("num_known"))
    judged = pl.concat([of_users.with_columns(part=part), of_new_items.with_columns(part=pl.lit(NEW_ITEMS))])
    number = int(
        judged["user_hash"].to_numpy().min() >> np.uint64(33)
    )  # shards are added up in this order in every run
    given = {"k": work.k, "num_resamples": work.num_resamples, "seed": work.seed}
    sums = pl.DataFrame(shard_sums(judged, number=number, **given))
    places = {(question, segment): place for place, (question, segment) in enumerate(product(QUESTIONS, SEGMENTS))}
    place = [places[row] for row in sums.select("question", "segment").iter_rows()]
    yield from packed(sums, SUMS, pl.Series(place, dtype=pl.Int32))
    shown = lists.with_columns(segment=segment_of(pl.col("num_known"))).join(facts.value.rows, on="item_id", how="left")
    figures = figures_of(shown, history, facts.value)
    yield from packed(figures.with_columns(shard=pl.lit(number, pl.Int64)), FIGURE)
    items = shown.select(*KEY, "item_id").unique()
    yield from packed(items, PLACE, shards_by(items["item_id"], NUM_SEGMENTS))


def with_composed(lists: pl.DataFrame, *, k: int) -> pl.DataFrame:
    """The lists, and those of `rebuy_then_popularity`: items bought before first, then popular ones, up to k ranks.

    k popular items are always enough: each one that is left out as a duplicate is already in the list.
    """
    own, popular = lists.filter(strategy="rebuy"), lists.filter(strategy="popularity")
    rest = popular.join(own, on=["question", "user_key", "item_id"], how="anti")
    both = pl.concat([own.with_columns(part=0), rest.with_columns(part=1)]).sort("question", "user_key", "part", "rank")
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("question", "user_key")
    composed = both.with_columns(rank=place, strategy=pl.lit(COMPOSED)).filter(pl.col("rank") <= k)
    return pl.concat([lists, composed.select(lists.columns)])


def judged_lists(
    lists: pl.DataFrame, wanted: pl.DataFrame, asked: pl.DataFrame, strategies: Sequence[str]
) -> pl.DataFrame:
    """One row per question, strategy and user who is asked for: `hit_ranks`, the ranks that hold a wanted item.

    Null if the strategy has no list for the user, who stays among them and scores zero.
    """
    hits = lists.join(wanted.with_columns(is_wanted=True), on=["question", "user_key", "item_id"], how="left")
    ranks = hits.group_by("question", "strategy", "user_key").agg(
        hit_ranks=pl.col("rank").filter(pl.col("is_wanted").fill_null(False))
    )
    everyone = asked.with_columns(user_hash=pl.Series(keys_of(asked["user_key"]), dtype=pl.UInt64))
    each = everyone.join(pl.DataFrame({"strategy": strategies}, schema={"strategy": pl.String}), how="cross")
    return each.join(ranks, on=["question", "strategy", "user_key"], how="left")


def sum_up(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Values and intervals of a segment of a question from the sums of all shards; how many items of a shard of them lists show."""
    found = unpacked(parts)
    if SUMS in found:
        yield from packed(pl.DataFrame(summarised(found[SUMS].to_arrow().cast(SUMS_SCHEMA))), SUMMARY)
    for segment, of_parts in SEGMENTS_OF_USERS.items() if PLACE in found else ():
        shown = found[PLACE].filter(pl.col("segment").is_in(of_parts)).with_columns(segment=pl.lit(segment))
        yield from packed(shown.group_by(KEY).agg(num_items=pl.col("item_id").n_unique().cast(pl.Int64)), COVERED)
