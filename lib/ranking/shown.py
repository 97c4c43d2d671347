"""What lists show, right or wrong: how much of the shop, how well known it is, how varied, and how like the history.

Sums over a shard's users, by question, part of the users and strategy, become figures once those of all shards are added.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import polars as pl

from lib.ranking.evaluation import SEGMENTS_OF_USERS
from lib.tables.gold import YOUNG_DAYS
from lib.tables.silver import LEVELS

COMPOSED, COMPOSED_OF = "rebuy_then_popularity", ("rebuy", "popularity")
SHOWN = ("coverage", "novelty", "head_exposure", "diversity", "miscalibration")
HEAD_FRAC = 0.1  # of the items, those that most users knew
SMOOTHING = (
    0.01  # of a list's categories towards those of the history, so that one that it lacks does not count without end
)
KEY = ("question", "segment", "strategy")
KEY_COLUMNS = {"question": pl.String, "segment": pl.String, "strategy": pl.String}
# The sums of a shard.
FIGURES: dict[str, type[pl.DataType]] = {
    **{"surprise": pl.Float64, "num_known": pl.Int64, "num_head": pl.Int64},
    **{"variety": pl.Float64, "num_varied": pl.Int64, "divergence": pl.Float64, "num_diverging": pl.Int64},
}


@dataclass(frozen=True)
class ItemFacts:
    """What a place in a list is worth, of every item that somebody knew.

    Columns: `item_id`; `surprise`, -log2 of the share of users who knew it; `is_head`, whether it is of the tenth that most users knew,
    ties with its last among them; `is_young`, whether it was first known within YOUNG_DAYS; `tag`, its category, null where the log tells
    none.
    """

    rows: pl.DataFrame
    strategies: tuple[str, ...]  # that have a list of anybody, and what is composed of these

    @classmethod
    def of(
        cls,
        items: pl.DataFrame,
        num_known_users: int,
        strategies: Iterable[str],
        described: pl.DataFrame | None,
    ) -> "ItemFacts":
        """From how many users of each shard knew an item, and how long ago first, and from `item_id` and `category` of silver/items."""
        counted = items.group_by("item_id").agg(pl.sum("num_users"), pl.max("age_days")).sort("item_id")
        head_from = counted["num_users"].quantile(1 - HEAD_FRAC, interpolation="higher")
        rows = counted.select(
            "item_id",
            surprise=-(pl.col("num_users") / num_known_users).log(2),
            is_head=pl.col("num_users") >= head_from,
            is_young=pl.col("age_days") <= YOUNG_DAYS,
        )
        named = {*strategies}
        names = tuple(sorted(named | ({COMPOSED} if named.intersection(COMPOSED_OF) else set())))
        path = pl.when(pl.col("category").list.len() > 0).then(pl.col("category").list.join(LEVELS))
        if described is None:
            return cls(rows.with_columns(tag=pl.lit(None, pl.String)), names)
        tags = described.select("item_id", tag=path)
        return cls(rows.join(tags, on="item_id", how="left"), names)


def new_among(wanted: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The rows of `wanted` whose `item_id` is young in the shop by what is known of `items`, or was not known yet."""
    old = items.filter(~pl.col("is_young")).select("item_id")
    return wanted.join(old, on="item_id", how="anti")


def figures_of(shown: pl.DataFrame, history: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """The sums of a shard, FIGURES by KEY.

    Args:
        shown: places of lists of users who are asked for: KEY, user_key, item_id and what the facts say of the item.
        history: user_key and item_id of what these users knew.
        items: item_id and its category, `tag`.
    """
    lists = shown.select(*KEY, "user_key").unique().sort(*KEY, "user_key").with_row_index("list")
    places = shown.join(lists, on=[*KEY, "user_key"], how="left").select("list", "surprise", "is_head", "tag")
    tag = pl.col("tag").drop_nulls()
    of_lists = places.group_by("list").agg(
        pl.sum("surprise"),
        num_known=pl.col("surprise").count().cast(pl.Int64),
        num_head=pl.col("is_head").sum().cast(pl.Int64),
        variety=pl.when(tag.len() > 0).then(tag.n_unique() / tag.len()),
    )
    of_lists = of_lists.join(_divergences(places, lists, history, items), on="list", how="left")
    return (
        lists.join(of_lists, on="list", how="left", maintain_order="left")
        .group_by(KEY, maintain_order=True)
        .agg(
            pl.sum("surprise", "num_known", "num_head", "variety", "divergence"),
            num_varied=pl.col("variety").count().cast(pl.Int64),
            num_diverging=pl.col("divergence").count().cast(pl.Int64),
        )
        .select(*KEY, *FIGURES)
    )


def _divergences(places: pl.DataFrame, lists: pl.DataFrame, history: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """`list` and its `divergence`: of the categories of a user's history from those of the list, in bits.

    Kullback and Leibler's, from p of the history to (1 - SMOOTHING) q of the list + SMOOTHING p (Steck 2018, "Calibrated
    recommendations"). Only where both have an item with a category. A category that the list lacks is worth p log2(1 / SMOOTHING),
    so that only those which it has need be looked at one by one.
    """
    tagged = history.join(items.select("item_id", "tag").drop_nulls(), on="item_id", how="inner")
    of_history = tagged.group_by("user_key", "tag").agg(p=pl.len())
    of_history = of_history.with_columns(pl.col("p") / pl.col("p").sum().over("user_key"))
    counts = places.select("list", "tag").drop_nulls().group_by("list", "tag").agg(q=pl.len())
    of_lists = counts.with_columns(pl.col("q") / pl.col("q").sum().over("list"))
    of_lists = of_lists.join(lists.select("list", "user_key"), on="list", how="left")
    of_lists = of_lists.join(of_history.select("user_key").unique(), on="user_key", how="semi")
    met = of_lists.join(of_history, on=["user_key", "tag"], how="left").sort("list", "tag")
    p, q = pl.col("p"), pl.col("q")
    term = p * (p / ((1 - SMOOTHING) * q + SMOOTHING * p)).log(2)
    lacking = (1 - p.sum()).clip(0) * -math.log2(SMOOTHING)
    return met.group_by("list").agg(divergence=term.sum() + lacking)


def with_shown(summary: pl.DataFrame, figures: pl.DataFrame, covered: pl.DataFrame, *, num_items: int) -> pl.DataFrame:
    """The summary, and for segments of users a row for each figure of what is shown.

    `coverage`: the share of items that are in a list, zero if no user of the segment has one. `novelty`: the mean surprise of a place, in bits.
    `head_exposure`: the share of places that the tenth of items gets which most users knew. `diversity`: the mean over users
    of a list's categories by its items, of those with a category; null where there are none. `miscalibration`: the mean over users of how far
    the list's categories are from those of the history, in bits.

    Args:
        summary: rows of SUMMARY_SCHEMA.
        figures: what `figures_of` gives of each shard.
        covered: items in lists of a shard of the items.
        num_items: all of them.
    """
    of_users = summary.filter(pl.col("segment").is_in([*SEGMENTS_OF_USERS]))
    each = of_users.select(*KEY, "num_users", "num_without_list").unique(KEY, keep="first", maintain_order=True)
    in_order = figures.sort("shard", *KEY)
    of_segments = [
        in_order.filter(pl.col("segment").is_in(parts)).with_columns(segment=pl.lit(segment))
        for segment, parts in SEGMENTS_OF_USERS.items()
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
        "miscalibration": pl.when(pl.col("num_diverging") > 0).then(pl.col("divergence") / pl.col("num_diverging")),
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
