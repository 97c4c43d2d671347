"""Two samples of whole units (users), then and now: how far measures have moved, and whether that is more than chance.

Rows of one unit hang together: candidates of a user share the user's features. So chance is told by a permutation test in
which whole units change sides (Good 2005, "Permutation, Parametric and Bootstrap Tests of Hypotheses"): with rows alone every
difference would be significant. Of many measures, Benjamini and Hochberg's correction (statsmodels) bounds the share of false ones;
and since with many units the smallest difference is beyond chance, one must also be as large as the field's rule says: a population stability
index (PSI) of 0.2, of which what chance alone would make is taken off.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from statsmodels.stats.multitest import multipletests

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
NUM_BINS = 10  # of the PSI: tenths of what was then
MOST_CELLS = 128  # at whose ends the permutation test compares distributions
MOST_UNITS = 2_000  # of a side, drawn where there are more
LEAST_UNITS = 10  # of a side, below which nothing can be told
PERMUTATIONS_AT_ONCE = 500
ROUNDING = 1e-9


class Measure(NamedTuple):
    """Values of a measure, (rows,) of each side, NaN where unknown; of a category, the number of it."""

    name: str
    then: Floats
    now: Floats
    is_category: bool = False


class Sides(NamedTuple):
    """Which unit each row is of, numbered from 0, of the rows of both sides."""

    then: Ints
    now: Ints


class Found(NamedTuple):
    """How far one measure has moved."""

    name: str
    then: float | None  # mean of what is known
    now: float | None
    missing_then: float  # shares of rows
    missing_now: float
    statistic: (
        float  # Kolmogorov and Smirnov's, unknown values below all others; of categories the total variation distance
    )
    psi: float
    psi_by_chance: float  # its mean where units change sides
    p: float


def ks_statistic(then: Floats, now: Floats) -> float:
    """The largest distance of two distribution functions (Kolmogorov, Smirnov); unknown values stand below all others."""
    with np.errstate(divide="ignore"):  # of a p value that nobody asks for, of a side of one row
        return float(ks_2samp(_lowest(then), _lowest(now), method="asymp").statistic)


def psi(then: Floats, now: Floats, *, is_category: bool = False, rows_per_unit: float = 1) -> float:
    """The population stability index: sum of (now - then) ln(now / then) over the shares of bins.

    Bins are the tenths of what was then, and one for what is unknown; of categories each is one. Half a unit's rows are added to
    each bin of both sides, so that one that is empty by chance counts as no more than chance is.
    """
    bins = _psi_cells(then, now, is_category)
    width = max(map(np.max, bins)) + 1
    of_then, of_now = (np.bincount(cells, minlength=width)[None].astype(np.float64) for cells in bins)
    return float(_psi_of(of_then, of_now, rows_per_unit / 2)[0])


def compare(measures: Sequence[Measure], sides: Sides, *, num_permutations: int, seed: int) -> list[Found]:
    """Each measure, of the same rows."""
    draw = np.random.default_rng(seed)
    kept, units = _drawn(sides, draw)
    measures = [one._replace(then=one.then[kept.then], now=one.now[kept.now]) for one in measures]
    counts = [(_counts(_ks_cells(one), units), _counts(_psi_cells(*one[1:]), units)) for one in measures]
    num_then = int(units.then.max(initial=-1)) + 1
    num_all = num_then + int(units.now.max(initial=-1)) + 1
    seen = np.zeros((1, num_all), np.float32)
    seen[0, :num_then] = 1
    of_seen = [_distances(one, found[0], seen)[0] for one, found in zip(measures, counts, strict=True)]
    rows_per_unit = (len(units.then) + len(units.now)) / num_all
    beyond, chance = np.zeros(len(measures)), np.zeros(len(measures))
    for first in range(0, num_permutations, PERMUTATIONS_AT_ONCE):
        number = min(PERMUTATIONS_AT_ONCE, num_permutations - first)
        labels = np.zeros((number, num_all), np.float32)
        order = draw.random((number, num_all)).argpartition(num_then - 1, axis=1)[:, :num_then]
        np.put_along_axis(labels, order, 1, axis=1)
        for place, (one, (of_ks, of_psi)) in enumerate(zip(measures, counts, strict=True)):
            beyond[place] += np.count_nonzero(_distances(one, of_ks, labels) >= of_seen[place] - ROUNDING)
            chance[place] += _psi_of(*_both(of_psi, labels), rows_per_unit / 2).sum()
    return [
        _found(one, rows_per_unit, (1 + beyond[place]) / (1 + num_permutations), chance[place] / num_permutations)
        for place, one in enumerate(measures)
    ]


def corrected(p: Sequence[float]) -> list[float]:
    """P values corrected for their number by Benjamini and Hochberg (1995)."""
    return [float(value) for value in multipletests(p, method="fdr_bh")[1]] if len(p) else []


def num_units(units: Ints) -> int:
    """How many units rows are of."""
    return len(np.unique(units))


def _found(one: Measure, rows_per_unit: float, p: float, chance: float) -> Found:
    statistic = _variation(one) if one.is_category else ks_statistic(one.then, one.now)
    return Found(
        one.name,
        _mean(one.then),
        _mean(one.now),
        float(np.isnan(one.then).mean()),
        float(np.isnan(one.now).mean()),
        statistic,
        psi(one.then, one.now, is_category=one.is_category, rows_per_unit=rows_per_unit),
        chance,
        p,
    )


def _drawn(sides: Sides, draw: np.random.Generator) -> tuple[Sides, Sides]:
    """The rows that are compared, of MOST_UNITS units a side at most, and their units, numbered without gaps."""
    kept, units = [], []
    for side in sides:
        names = np.unique(side)
        chosen = np.sort(draw.permutation(names)[:MOST_UNITS])
        rows = np.flatnonzero(np.isin(side, chosen))
        kept.append(rows)
        units.append(np.searchsorted(chosen, side[rows]))
    return Sides(*kept), Sides(*units)


def _lowest(values: Floats) -> Floats:
    return np.where(np.isnan(values), -np.inf, values)


def _ks_cells(one: Measure) -> tuple[Ints, Ints]:
    """Cells of the values: each distinct one where they are few, else quantiles of both sides together."""
    if one.is_category:
        return _psi_cells(*one[1:])
    then, now = _lowest(one.then), _lowest(one.now)
    ends = np.unique(np.concatenate([then, now]))
    if len(ends) > MOST_CELLS:
        both = np.sort(np.concatenate([then, now]))
        ends = np.unique(both[np.linspace(0, len(both) - 1, MOST_CELLS).astype(np.int64)])
    return np.searchsorted(ends, then), np.searchsorted(ends, now)


def _psi_cells(then: Floats, now: Floats, is_category: bool) -> tuple[Ints, Ints]:
    """Bins of the values, 0 that of unknown ones."""
    known = then[~np.isnan(then)]
    if is_category:
        every = np.concatenate([then, now])
        ends = np.unique(every[~np.isnan(every)])
    else:
        inner = np.linspace(0, 1, NUM_BINS + 1)[1:-1]
        ends = np.unique(np.quantile(known, inner, method="lower")) if len(known) else np.zeros(0)
    found = [np.where(np.isnan(side), 0, 1 + np.searchsorted(ends, side)) for side in (then, now)]
    return found[0], found[1]


def _counts(cells: tuple[Ints, Ints], units: Sides) -> NDArray[np.float32]:
    """(units, cells): rows of each unit in each cell, those of then first."""
    num_cells = 1 + max(int(side.max(initial=0)) for side in cells)
    found = []
    for of_side, unit in zip(cells, units, strict=True):
        num = int(unit.max(initial=-1)) + 1
        found.append(np.bincount(unit * num_cells + of_side, minlength=num * num_cells).reshape(num, num_cells))
    return np.concatenate(found).astype(np.float32)


def _both(counts: NDArray[np.float32], labels: NDArray[np.float32]) -> tuple[Floats, Floats]:
    """Rows in each cell of then and of now, (permutations, cells), where the labelled units are those of then."""
    then = (labels @ counts).astype(np.float64)
    return then, counts.sum(axis=0, dtype=np.float64) - then


def _distances(one: Measure, counts: NDArray[np.float32], labels: NDArray[np.float32]) -> Floats:
    then, now = (side / np.maximum(side.sum(axis=1, keepdims=True), 1) for side in _both(counts, labels))
    if one.is_category:
        return np.asarray(np.abs(then - now).sum(axis=1) / 2)
    return np.asarray(np.abs(np.cumsum(then - now, axis=1)).max(axis=1))


def _psi_of(then: Floats, now: Floats, added: float) -> Floats:
    """Of rows in each bin, (..., bins), and what is added to each; a bin that neither has says nothing."""
    used = (then + now).sum(axis=0) > 0
    shares = [(side[:, used] + added) / (side.sum(axis=1, keepdims=True) + added * used.sum()) for side in (then, now)]
    return np.asarray(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum(axis=1))


def _variation(one: Measure) -> float:
    """Half the sum of the differences of the shares of categories."""
    cells = _psi_cells(*one[1:])
    width = 1 + max(int(side.max(initial=0)) for side in cells)
    then, now = (np.bincount(side, minlength=width) / max(1, len(side)) for side in cells)
    return float(np.abs(then - now).sum() / 2)


def _mean(values: Floats) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
