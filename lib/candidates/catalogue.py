"""The items that may be recommended at a moment, and what is known of each."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lib.candidates.known import HALF_LIVES, ITEM_SUMS
from lib.tables.silver import LEVELS

FEW = 100  # ids are searched for one by one where the catalogue has more than so many times as many


@dataclass(frozen=True)
class Catalogue:
    """The items that somebody had interacted with, in the order of their ids, then those that nobody had touched, in theirs.

    Every array is (items,).
    """

    item_ids: pa.StringArray
    names: pa.StringArray  # the title, else the id
    sums: pl.DataFrame  # rows of ITEM_SUMS (lib/candidates/known.py)
    tag: NDArray[np.int32]  # the item's finest category; the last number stands for none
    num_tags: int  # with that of none
    log_price: NDArray[np.float32]  # NaN where unknown
    tag_paths: tuple[tuple[str, ...], ...] = ()  # the category of each tag but that of none, coarse to fine

    def __len__(self) -> int:
        return len(self.item_ids)

    @cached_property
    def num_buyers(self) -> NDArray[np.float64]:
        """Distinct users with a relevant event."""
        return self.sums["num_buyers"].to_numpy().astype(np.float64)

    @cached_property
    def features(self) -> NDArray[np.float32]:
        """(items, len(ITEM_FEATURES)), see lib/candidates/features.py."""
        sums = self.sums
        columns = [
            *(sums[f"bought_{days}"] for days in HALF_LIVES),
            *(sums[name] for name in ("weight_14", "num_recent_buyers", "num_buyers", "age_days", "silence_days")),
            (sums[f"bought_{HALF_LIVES[0]}"] + 1) / (sums[f"bought_{HALF_LIVES[-1]}"] + 1),
        ]
        return np.column_stack([*(column.to_numpy().astype(np.float32) for column in columns), self.log_price])

    @cached_property
    def lately_first(self) -> NDArray[np.int64]:
        """The items that somebody bought, by buyers of the last days, then of all time, then by position."""
        order = np.lexsort((-self.num_buyers, -self.sums["num_recent_buyers"].to_numpy()))
        return order[self.num_buyers[order] > 0]

    @cached_property
    def place_of(self) -> dict[str, int]:
        """Where each id stands."""
        return {item: place for place, item in enumerate(self.item_ids.to_pylist())}

    def positions(self, item_ids: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
        """Where the ids stand; -1 where they do not."""
        if len(item_ids) * FEW < len(self):
            return np.array([self.place_of.get(item, -1) for item in item_ids.to_pylist()], np.int64)
        found = pc.fill_null(pc.index_in(item_ids, value_set=self.item_ids), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), dtype=np.int64)


def with_untouched(sums: pl.DataFrame, item_ids: pl.Series) -> pl.DataFrame:
    """The sums with those of items that nobody had touched at the end: nobody bought them, and their age is unknown."""
    untouched = pl.DataFrame({"item_id": item_ids}).unique().join(sums, on="item_id", how="anti").sort("item_id")
    none = {"age_days": pl.lit(None), "silence_days": pl.lit(None)}
    columns = [
        none.get(name, pl.lit(0)).cast(kind).alias(name) for name, kind in ITEM_SUMS.items() if name != "item_id"
    ]
    return pl.concat([sums, untouched.select("item_id", *columns)])


def catalogue_of(sums: pl.DataFrame, items: pa.Table | None) -> Catalogue:
    """The catalogue of a moment.

    Args:
        sums: what is known of its items, from `added_items`, and `with_untouched`.
        items: silver/items with item_id, title, category and price; None where the log describes no item.
    """
    described = sums.select("item_id")
    if items is None:
        none = pl.DataFrame(
            schema={"item_id": pl.String, "title": pl.String, "category": pl.List(pl.String), "price": pl.Float64}
        )
        described = described.join(none, on="item_id", how="left", maintain_order="left")
    else:
        given = pl.DataFrame(items.select(["item_id", "title", "category", "price"])).unique("item_id", keep="first")
        described = described.join(given, on="item_id", how="left", maintain_order="left")
    path = described["category"].list.join(LEVELS).fill_null("")
    numbers = path.rank("dense").cast(pl.Int32) - 1
    num_tags = int(numbers.to_numpy().max(initial=-1)) + 2
    is_tagged = (path != "").to_numpy()
    price = described["price"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    with np.errstate(invalid="ignore", divide="ignore"):
        log_price = np.where(price > 0, np.log(price), np.nan).astype(np.float32)
    return Catalogue(
        item_ids=sums["item_id"].to_arrow().cast(pa.string()),
        names=described.select(pl.coalesce("title", "item_id")).to_series().to_arrow().cast(pa.string()),
        sums=sums,
        tag=np.where(is_tagged, numbers.to_numpy(), num_tags - 1).astype(np.int32),
        num_tags=num_tags,
        log_price=log_price,
        tag_paths=tuple(tuple(name.split(LEVELS)) if name else () for name in path.unique().sort().to_list()),
    )
