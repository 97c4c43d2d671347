"""What the fits of a model's version know, each of what happened before a moment (lib/runs/promotion.py)."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

import polars as pl
import pyarrow as pa

from lib.engines.arrow_tasks import gathered, packed, unpacked
from lib.engines.parts import Parts, Task
from lib.runs.promotion import moments_of_fits
from lib.runs.run import Run

COUNT, ITEM = "count", "item"  # kinds of parts


class KnownByFit(NamedTuple):
    """What was known before a moment."""

    version: str
    as_of: datetime
    item_ids: pl.Series  # sorted
    counts: dict[str, int]


def known_by_fit(
    run: Run,
    shares: Parts,
    model: str,
    count: Task,
    columns: Mapping[str, Mapping[str, type[pl.DataType]]],
    *,
    num_fits_before: int = 1,
) -> dict[str, KnownByFit]:
    """By the name of the fit, the model's with what it is for, what it knows; that may be nothing. The oldest first, last the one that serves.

    Args:
        run: whose version it is.
        shares: of the training workers.
        model: the model.
        count: the task that counts a share, given the `moments` of the fits by name: parts COUNT and ITEM.
        columns: of these parts, `fit` and the counts, `fit` and `item_id`.
        num_fits_before: fits beside the one that serves.
    """
    moments = moments_of_fits(run, model, num_fits_before)
    counted = shares.then(count, moments=moments)
    items = counted.of(ITEM).to_shards(1).then(distinct_items).collected()
    item_ids = gathered(items, ITEM, columns)
    known = gathered(counted.of(COUNT).collected(), COUNT, columns)
    return {
        fit: KnownByFit(
            run.run_id + fit.removeprefix(model),
            as_of,
            item_ids.filter(fit=fit)["item_id"],
            known.filter(fit=fit).drop("fit").sum().row(0, named=True),
        )
        for fit, as_of in moments.items()
    }


def fit_before(fits: Mapping[str, object], fit: str) -> str | None:
    """The fit from whose weights one goes on: that before it, of fits of which the oldest is first; None for the oldest."""
    names = [*fits]
    place = names.index(fit)
    return names[place - 1] if place else None


def distinct_items(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Bring the items of all shares together."""
    found = unpacked(parts)
    if ITEM in found:
        yield from packed(found[ITEM].unique().sort("fit", "item_id"), ITEM)
