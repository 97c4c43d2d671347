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
    PARTS,
    SEGMENTS,
    SEGMENTS_OF_USERS,
    SUMS_SCHEMA,
    segment_of,
    shard_sums,
    summarised,
)
from lib.ranking.known_pairs import INTERACTION, interaction_schema, which_are_known
from lib.ranking.position_bias import LED, ORGANIC, Examined, weights_of
from lib.ranking.shown import COMPOSED, COMPOSED_OF, FIGURES, KEY, KEY_COLUMNS, ItemFacts, figures_of, new_among
from lib.statistics.bootstrap import keys_of
from lib.tables.gold import QUESTIONS, RECOMMENDATIONS

READ = ("user_key", "item_id", "event_time", "split", "weight", "num_relevant")
CATEGORICAL = ("user_key", "item_id")
READ_OF_LISTS = ("as_of", "strategy", "question", "user_key", "rank", "item_id")
# Kinds of parts.
LIST, ASKED, WANTED, KNOWN, ITEM, COUNT, STRATEGY = "list", "asked", "wanted", "known", "item", "count", "strategy"
SUMS, PLACE, FIGURE, SUMMARY, COVERED = "sums", "place", "figure", "summary", "covered"
ID: pl.DataType = pl.Categorical()  # of users and items within a shard
QUESTION: pl.DataType = pl.Enum(QUESTIONS)
PART = pl.Enum(PARTS)
LIST_COLUMNS = pl.Schema({"strategy": ID, "question": QUESTION, "user_key": ID, "rank": pl.Int32(), "item_id": ID})
INTERACTION_COLUMNS = {
    name: ID if name in CATEGORICAL else of_type
    for name, of_type in pl.DataFrame(interaction_schema(READ).empty_table()).schema.items()
}
GATHERED: Mapping[str, Mapping[str, type[pl.DataType]]] = {
    ITEM: {"item_id": pl.String, "num_users": pl.Int64, "age_days": pl.Float64},
    COUNT: {"num_known_users": pl.Int64, "num_asked": pl.Int64, "num_led": pl.Int64},
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
    examined: tuple[Examined, ...] = ()  # of positions; none where nothing can be corrected by them


def spread_lists(files: Iterable[pa.RecordBatch], *, work: ListsWork) -> Iterator[pa.RecordBatch]:
    """Read files of gold/recommendations (rows of TABLE_FILES), and pack the first k ranks of the lists by shard of users."""
    schema = pa.schema([RECOMMENDATIONS.schema.field(name) for name in READ_OF_LISTS])
    for file in rows_of(files):
        for rows in table_rows(file["location"], schema, categorical=(*CATEGORICAL, "question")):
            chosen = rows.filter(pl.col("as_of") == work.as_of, pl.col("rank") <= work.k).select(*LIST_COLUMNS)
            asked = chosen.with_columns(pl.col("question").cast(QUESTION), pl.col("strategy").cast(ID))
            yield from packed(asked, LIST, shards_by(asked["user_key"], work.num_shards))


def describe(parts: Iterable[pa.RecordBatch], *, work: ListsWork) -> Iterator[pa.RecordBatch]:
    """Pack the lists of a shard's users who are asked for, and what they wanted; count how many knew each item, and name the strategies."""
    found = unpacked(parts)
    interactions = found.get(INTERACTION, pl.DataFrame(schema=INTERACTION_COLUMNS))
    lists = found.get(LIST, pl.DataFrame(schema=LIST_COLUMNS))
    known = which_are_known(interactions, as_of=work.as_of)
    wanted = wanted_items(interactions, known, split=work.split).with_columns(pl.col("question").cast(QUESTION))
    asked = asked_users(wanted, known)
    if LED in found:
        position = found[LED].group_by("user_key", "item_id").agg(pl.min("position"))
        wanted = wanted.join(position, on=["user_key", "item_id"], how="left")
    counts = {"num_known_users": known["user_key"].n_unique(), "num_asked": len(asked)}
    counts["num_led"] = (
        wanted.filter(pl.col("position") > ORGANIC).select("user_key", "item_id").n_unique() if LED in found else 0
    )
    yield from packed(pl.DataFrame([counts], schema=GATHERED[COUNT]), COUNT)
    age = (pl.lit(work.as_of) - pl.min("event_time")).dt.total_seconds() / 86_400
    ages = interactions.group_by("item_id").agg(age_days=age)
    of_items = known.group_by("item_id").agg(num_users=pl.len().cast(pl.Int64)).join(ages, on="item_id", how="left")
    of_items = of_items.with_columns(pl.col("item_id").cast(pl.String))
    yield from packed(of_items, ITEM, shards_by(of_items["item_id"], work.num_shards))
    yield from packed(lists.select(pl.col("strategy").unique().cast(pl.String)), STRATEGY)
    yield from packed(lists.join(asked, on=["question", "user_key"], how="semi"), LIST)
    yield from packed(asked, ASKED)
    yield from packed(wanted, WANTED)
    yield from packed(known.join(asked, on="user_key", how="semi"), KNOWN)


def add_up_items(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """How many users knew each item of a shard of the items, and how long ago it was first known, from all shards of users."""
    found = unpacked(parts)
    if ITEM in found:
        yield from packed(found[ITEM].group_by("item_id").agg(pl.sum("num_users"), pl.max("age_days")), ITEM)


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
    shard = Shard.of(found, facts.value, work.examined)
    lists = with_composed(shard.lists, k=work.k)
    of_users = judged_lists(lists, shard.wanted, shard.asked, facts.value.strategies)
    if of_users.is_empty():
        return  # nobody has a list
    new = new_among(shard.wanted, shard.items)
    asked_for_new = asked_users(new, shard.known).join(shard.users, on="user_key", how="left")
    of_new_items = judged_lists(lists, new, asked_for_new, facts.value.strategies)
    part = segment_of(pl.col("num_known")).cast(PART)
    judged = pl.concat([of_users.with_columns(part=part), of_new_items.with_columns(part=pl.lit(NEW_ITEMS, PART))])
    # Shards are added up in this order in every run.
    number = int(judged["user_hash"].to_numpy().min() >> np.uint64(33))
    given = {"k": work.k, "num_resamples": work.num_resamples, "seed": work.seed}
    sums = pl.DataFrame(shard_sums(judged, number=number, **given))
    places = {(question, segment): place for place, (question, segment) in enumerate(product(QUESTIONS, SEGMENTS))}
    place = [places[row] for row in sums.select("question", "segment").iter_rows()]
    yield from packed(sums, SUMS, pl.Series(place, dtype=pl.Int32))
    shown = lists.join(shard.asked, on=["question", "user_key"], how="left").with_columns(segment=part)
    figures = figures_of(shown.join(shard.items, on="item_id", how="left"), shard.known, shard.items)
    texts = pl.col(KEY).cast(pl.String)
    yield from packed(figures.with_columns(texts, shard=pl.lit(number, pl.Int64)), FIGURE)
    names = shard.items.select("item_id", "name", place=shards_by(shard.items["name"], NUM_SEGMENTS))
    items = shown.select(*KEY, "item_id").unique().join(names, on="item_id", how="left")
    yield from packed(items.select(texts, item_id="name"), PLACE, items["place"])


@dataclass(frozen=True)
class Shard:
    """The rows of a shard with numbers for users, by the order of their keys, and for items, since numbers are joined in no time."""

    users: pl.DataFrame  # user_key, and user_hash that decides which resamples draw the user
    items: pl.DataFrame  # item_id, its name, and what the facts say of it
    asked: pl.DataFrame  # question, user_key, num_relevant, num_known, user_hash
    wanted: pl.DataFrame  # question, user_key, item_id; the weight of each, where positions are known
    known: pl.DataFrame  # user_key, item_id
    lists: pl.DataFrame  # question, strategy, user_key, rank, item_id

    @classmethod
    def of(cls, found: Mapping[str, pl.DataFrame], facts: ItemFacts, examined: Sequence[Examined]) -> "Shard":
        """From the parts of a shard, in which somebody is asked for."""
        asked, wanted = found[ASKED], found[WANTED]
        if examined:
            position = (
                wanted["position"] if "position" in wanted.columns else pl.repeat(ORGANIC, len(wanted), eager=True)
            )
            wanted = wanted.with_columns(weights_of(examined, position))
        known = found.get(KNOWN, pl.DataFrame(schema={"user_key": ID, "item_id": ID}))
        lists = found.get(LIST, pl.DataFrame(schema=LIST_COLUMNS)).with_columns(
            pl.col("strategy").cast(pl.Enum(sorted({*facts.strategies, *COMPOSED_OF, COMPOSED})))
        )
        users = _numbered(asked["user_key"])
        items = _numbered(pl.concat([rows["item_id"].unique() for rows in (wanted, known, lists)]))
        numbers = {"user_key": users.select("id", "number"), "item_id": items.select("id", "number")}
        wanted, known, lists = (_with_numbers(rows, numbers) for rows in (wanted, known, lists))
        hashes = pl.Series(keys_of(users["name"]), dtype=pl.UInt64)
        hashed = users.select(user_key="number", user_hash=hashes)
        return cls(
            users=hashed,
            items=items.select("name", item_id="number").join(
                facts.rows.rename({"item_id": "name"}), on="name", how="left"
            ),
            asked=_with_numbers(asked, {"user_key": numbers["user_key"]}).join(hashed, on="user_key", how="left"),
            wanted=wanted,
            known=known,
            lists=lists,
        )


def _numbered(ids: pl.Series) -> pl.DataFrame:
    """Each `id` of the categories with its `name` and `number`, by which they are sorted."""
    named = pl.DataFrame({"id": ids.unique()}).with_columns(name=pl.col("id").cast(pl.String))
    return named.sort("name").with_row_index("number")


def _with_numbers(rows: pl.DataFrame, numbers: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The rows with the number of each id of a column in its place."""
    for name, of_ids in numbers.items():
        found = rows.join(of_ids, left_on=name, right_on="id", how="left", maintain_order="left")
        rows = found.with_columns(pl.col("number").alias(name)).drop("number")
    return rows


def with_composed(lists: pl.DataFrame, *, k: int) -> pl.DataFrame:
    """The lists, and those of `rebuy_then_popularity`: items bought before first, then popular ones, up to k ranks.

    k popular items are always enough: each one that is left out as a duplicate is already in the list.
    """
    own, popular = (lists.filter(strategy=name) for name in COMPOSED_OF)
    rest = popular.join(own, on=["question", "user_key", "item_id"], how="anti")
    both = pl.concat([own.with_columns(part=0), rest.with_columns(part=1)]).sort("question", "user_key", "part", "rank")
    named = pl.lit(COMPOSED, lists.schema["strategy"])
    place = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("question", "user_key")
    composed = both.with_columns(rank=place, strategy=named).filter(pl.col("rank") <= k)
    return pl.concat([lists, composed.select(lists.columns)])


def judged_lists(
    lists: pl.DataFrame, wanted: pl.DataFrame, asked: pl.DataFrame, strategies: Sequence[str]
) -> pl.DataFrame:
    """One row per question, strategy and user who is asked for: `hit_ranks`, the ranks that hold a wanted item.

    Where what was wanted has a `weight`, also `hit_weights` and `weight_wanted`, of all that the user wanted.
    Null if the strategy has no list for the user, who stays among them and scores zero.
    """
    hits = lists.join(wanted.with_columns(is_wanted=True), on=["question", "user_key", "item_id"], how="left")
    is_hit = pl.col("is_wanted").fill_null(False)
    weights = [pl.col("weight").filter(is_hit).alias("hit_weights")] if "weight" in wanted.columns else []
    ranks = hits.group_by("question", "strategy", "user_key").agg(*weights, hit_ranks=pl.col("rank").filter(is_hit))
    named = pl.DataFrame({"strategy": strategies}, schema={"strategy": lists.schema["strategy"]})
    if weights:
        total = wanted.group_by("question", "user_key").agg(weight_wanted=pl.sum("weight"))
        asked = asked.join(total, on=["question", "user_key"], how="left")
    each = asked.join(named, how="cross")
    return each.join(ranks, on=["question", "strategy", "user_key"], how="left")


def sum_up(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Values and intervals of a segment of a question from the sums of all shards; how many items of a shard of them lists show."""
    found = unpacked(parts)
    if SUMS in found:
        yield from packed(pl.DataFrame(summarised(found[SUMS].to_arrow().cast(SUMS_SCHEMA))), SUMMARY)
    for segment, of_parts in SEGMENTS_OF_USERS.items() if PLACE in found else ():
        shown = found[PLACE].filter(pl.col("segment").is_in(of_parts)).with_columns(segment=pl.lit(segment))
        yield from packed(shown.group_by(KEY).agg(num_items=pl.col("item_id").n_unique().cast(pl.Int64)), COVERED)
