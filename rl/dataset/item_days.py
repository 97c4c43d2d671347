"""Reads counts of items by date from gold/item_days: a task those of its candidates, the driver those of the whole shop."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lib.lake.lake import Lake
from rl.dataset.logged import ItemDays, ShopDays
from rl.observation import COUNTED, Floats, Ints

COUNT_COLUMNS = tuple(f"num_{name}" for name in COUNTED)


def read_item_days(items: Ints, *, lake: Lake, version: int, item_ids: pa.Array) -> ItemDays:
    """The counts of some items, given by their indices among `item_ids`, from gold/item_days."""
    asked = item_ids.take(pa.array(items))
    columns = ["item_id", "event_date", *COUNT_COLUMNS]
    rows = lake.dataset("gold/item_days", version).to_table(
        columns=columns, filter=pc.field("item_id").isin(asked), use_threads=False
    )
    place = pc.index_in(rows["item_id"], value_set=asked).to_numpy()
    return ItemDays(items[place], _dates(rows["event_date"]), _counts(rows))


def read_shop_days(lake: Lake, version: int) -> ShopDays:
    """The counts of all items together, from gold/item_days, of which only a batch at a time is in memory."""
    found = ShopDays(np.zeros(0, dtype=np.int64), np.zeros((0, len(COUNTED))))
    dataset = lake.dataset("gold/item_days", version)
    for batch in dataset.to_batches(columns=["event_date", *COUNT_COLUMNS], use_threads=False):
        day = np.r_[found.day, _dates(batch["event_date"])]
        found = ShopDays.of(ItemDays(np.zeros_like(day), day, np.vstack([found.counts, _counts(batch)])))
    return found


def _dates(column: pa.Array | pa.ChunkedArray) -> Ints:
    """Dates as days since 1970."""
    days: Ints = column.cast(pa.int32()).to_numpy().astype(np.int64)
    return days


def _counts(rows: pa.Table | pa.RecordBatch) -> Floats:
    """[n, 5] the counts of rows of gold/item_days."""
    return np.column_stack([rows[name].to_numpy() for name in COUNT_COLUMNS]).astype(np.float64)
