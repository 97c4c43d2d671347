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
from lib.ranking.evaluation import SEGMENTS, SUMS_SCHEMA, segment_of, shard_sums, summarised
from lib.ranking.known_pairs import INTERACTION, interaction_schema, known_pairs
from lib.statistics.bootstrap import keys_of
from lib.tables.gold import QUESTIONS, RECOMMENDATIONS

COMPOSED = "rebuy_then_popularity"
SHOWN = ("coverage", "novelty", "head_exposure", "diversity")  # figures of what lists show, without intervals
HEAD_FRAC = 0.1  # of the items, those that most users knew
READ = ("user_key", "item_id", "event_time", "split", "weight", "num_relevant")
READ_OF_LISTS = ("as_of", "strategy", "question", "user_key", "rank", "item_id")
# Kinds of parts.
LIST, ASKED, WANTED, ITEM, COUNT, STRATEGY = "list", "asked", "wanted", "item", "count", "strategy"
SUMS, PLACE, FIGURE, SUMMARY, COVERED = "sums", "place", "figure", "summary", "covered"
LIST_COLUMNS = pl.Schema(
    {"strategy": pl.String, "question": pl.String, "user_key": pl.String, "rank": pl.Int32, "item_id": pl.String}
)
KEY = ("question", "segment", "strategy")
KEY_COLUMNS = {"question": pl.String, "segment": pl.String, "strategy": pl.String}
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    ITEM: {"item_id": pl.String, "num_users": pl.Int64},
    COUNT: {"num_known_users": pl.Int64, "num_asked": pl.Int64},
    STRATEGY: {"strategy": pl.String},
    FIGURE: {
        **{"shard": pl.Int64, **KEY_COLUMNS, "surprise": pl.Float64, "num_known": pl.Int64, "num_head": pl.Int64},
        **{"variety": pl.Float64, "num_varied": pl.Int64},
    },
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


@dataclass(frozen=True)
class ItemFacts:
    """What a place in a list is worth, of every item that somebody knew.

    Columns: `item_id`; `surprise`, -log2 of the share of users who knew it; `is_head`, whether it is of the tenth that most users knew,
    ties with its last among them; `tag`, its category, null where the log tells none.
    """

    rows: pl.DataFrame
    strategies: tuple[str, ...]  # that have a list of anybody

    @classmethod
    def of(
        cls, num_users: pl.DataFrame, num_known_users: int, strategies: Iterable[str], described: pl.DataFrame | None
    ) -> "ItemFacts":
        """From how many users knew each item, and from `item_id` and `category` of silver/items."""
        counted = num_users.group_by("item_id").agg(pl.sum("num_users")).sort("item_id")
        head_from = counted["num_users"].quantile(1 - HEAD_FRAC, interpolation="higher")
        rows = counted.select(
            "item_id",
            surprise=-(pl.col("num_users") / num_known_users).log(2),
            is_head=pl.col("num_users") >= head_from,
        )
        path = pl.when(pl.col("category").list.len() > 0).then(pl.col("category").list.join("\x1f"))
        if described is None:
            return cls(rows.with_columns(tag=pl.lit(None, pl.String)), tuple(sorted(strategies)))
        tags = described.select("item_id", tag=path)
        return cls(rows.join(tags, on="item_id", how="left"), tuple(sorted(strategies)))


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
    yield from packed(known.group_by("item_id").agg(num_users=pl.len().cast(pl.Int64)), ITEM)
    yield from packed(lists.select("strategy").unique(), STRATEGY)
    yield from packed(lists, LIST)
    yield from packed(asked, ASKED)
    yield from packed(wanted, WANTED)


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
    judged = judged_lists(lists, found[WANTED], asked, with_composed_name(facts.value.strategies))
    if judged.is_empty():
        return  # nobody has a list
    number = int(
        judged["user_hash"].to_numpy().min() >> np.uint64(33)
    )  # shards are added up in this order in every run
    given = {"k": work.k, "num_resamples": work.num_resamples, "seed": work.seed}
    sums = pl.DataFrame(shard_sums(judged, number=number, **given))
    places = {(question, segment): place for place, (question, segment) in enumerate(product(QUESTIONS, SEGMENTS))}
    place = [places[row] for row in sums.select("question", "segment").iter_rows()]
    yield from packed(sums, SUMS, pl.Series(place, dtype=pl.Int32))
    shown = lists.with_columns(segment=segment_of(pl.col("num_known"))).join(facts.value.rows, on="item_id", how="left")
    yield from packed(figures_of(shown).with_columns(shard=pl.lit(number, pl.Int64)), FIGURE)
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


def with_composed_name(strategies: Sequence[str]) -> list[str]:
    """The names of strategies with lists, and of what is composed of these."""
    return [*strategies, *([COMPOSED] if {"rebuy", "popularity"} & {*strategies} else [])]


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


def figures_of(shown: pl.DataFrame) -> pl.DataFrame:
    """Sums by question, part of the users and strategy: of the surprise and the head's share of places, and of the users' variety.

    The variety of a list is how many categories it has for each of its items with a category; unknown where it has none.
    """
    tag = pl.col("tag").drop_nulls()
    of_users = shown.group_by(*KEY, "user_key").agg(
        pl.sum("surprise"),
        num_known=pl.col("surprise").count().cast(pl.Int64),
        num_head=pl.col("is_head").sum().cast(pl.Int64),
        variety=pl.when(tag.len() > 0).then(tag.n_unique() / tag.len()),
    )
    return (
        of_users.sort("user_key")
        .group_by(KEY, maintain_order=True)
        .agg(
            pl.sum("surprise", "num_known", "num_head", "variety"), num_varied=pl.col("variety").count().cast(pl.Int64)
        )
    )


def sum_up(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Values and intervals of a segment of a question from the sums of all shards; how many items of a shard of them lists show."""
    found = unpacked(parts)
    if SUMS in found:
        yield from packed(pl.DataFrame(summarised(found[SUMS].to_arrow().cast(SUMS_SCHEMA))), SUMMARY)
    for segment, of_parts in SEGMENTS.items() if PLACE in found else ():
        shown = found[PLACE].filter(pl.col("segment").is_in(of_parts)).with_columns(segment=pl.lit(segment))
        yield from packed(shown.group_by(KEY).agg(num_items=pl.col("item_id").n_unique().cast(pl.Int64)), COVERED)


def with_shown(summary: pl.DataFrame, figures: pl.DataFrame, covered: pl.DataFrame, *, num_items: int) -> pl.DataFrame:
    """The summary, and a row for each figure of what is shown.

    `coverage`: the share of items that are in a list, zero if no user of the segment has one. `novelty`: the mean surprise of a place, in bits.
    `head_exposure`: the share of places that the tenth of items gets which most users knew. `diversity`: the mean over users
    of a list's categories by its items, of those with a category; null where there are none.

    Args:
        summary: rows of SUMMARY_SCHEMA.
        figures: what `figures_of` gives of each shard.
        covered: items in lists of a shard of the items.
        num_items: all of them.
    """
    each = summary.select(*KEY, "num_users", "num_without_list").unique(KEY, keep="first", maintain_order=True)
    in_order = figures.sort("shard", *KEY)
    of_segments = [
        in_order.filter(pl.col("segment").is_in(parts)).with_columns(segment=pl.lit(segment))
        for segment, parts in SEGMENTS.items()
    ]
    sums = pl.concat(of_segments).group_by(KEY, maintain_order=True).sum()
    counts = covered.group_by(KEY).agg(pl.sum("num_items"))
    of_each = each.join(sums, on=KEY, how="left").join(counts, on=KEY, how="left")
    known, varied = pl.col("num_known"), pl.col("num_varied")
    has_users = pl.col("num_users") > 0
    values = {
        "coverage": pl.when(has_users & (num_items > 0)).then(pl.col("num_items").fill_null(0) / num_items),
        "novelty": pl.when(known > 0).then(pl.col("surprise") / known),
        "head_exposure": pl.when(known > 0).then(pl.col("num_head") / known),
        "diversity": pl.when(varied > 0).then(pl.col("variety") / varied),
    }
    assert tuple(values) == SHOWN
    unknown = pl.lit(None, pl.Float64)
    rows = [
        of_each.select(
            *KEY,
            pl.lit(name).alias("metric"),
            value.cast(pl.Float64).alias("value"),
            unknown.alias("low"),
            unknown.alias("high"),
            "num_users",
            "num_without_list",
        )
        for name, value in values.items()
    ]
    return pl.concat([summary, *rows])
