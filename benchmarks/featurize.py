"""From silver to gold's profiles, interactions and examples: featurize beside a DuckDB program of equal results."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import peers
from benchmarks.measured import Run, measure
from lib.cli.jobs import load_job
from lib.features.examples import example_dates
from lib.formats.mapping import load_mapping
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.runs.log_times import log_times

CARTWHEEL = str(Path(sys.executable).parent / "cartwheel")
PROGRAM = Path(__file__).parent / "featurize_duckdb.py"
KEYS = {
    "interactions": ("user_key", "item_id", "event_time"),
    "user_profiles": ("user_key",),
    "item_profiles": ("item_id",),
    "examples": ("user_key", "split"),
}
TOLERANCE = 1e-6  # features are stored as 32-bit numbers


def cartwheel(lake: Path) -> Run:
    """Featurize, a process from its start, on a lake that has no gold yet."""
    command = [CARTWHEEL, "run", "--lake", str(lake), "--logs", str(lake), "--format", "market"]
    return Run(measure([*command, "--from", "featurize", "--to", "featurize"]))


def duckdb(lake: Path, out: Path) -> Run:
    """The DuckDB program, on the same files and cores."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / "given.json").write_text(json.dumps(_given(Lake(str(lake)))))
    return Run(measure([peers.python(), str(PROGRAM), str(out / "given.json"), str(out)]))


def differences(lake: Path, out: Path) -> list[str]:
    """What differs between the tables of both programs: keys, or values beyond TOLERANCE."""
    return [line for table, key in KEYS.items() for line in _differences(Lake(str(lake)), out, table, key)]


def _differences(lake: Lake, out: Path, table: str, key: tuple[str, ...]) -> list[str]:
    ours = pl.DataFrame(lake.dataset(f"gold/{table}").to_table()).sort(key)
    theirs = pl.read_parquet(out / f"{table}.parquet").sort(key)
    if ours.height != theirs.height:
        return [f"{table}: {ours.height:,} rows, and {theirs.height:,} by DuckDB"]
    shared = [column for column in ours.columns if column in theirs.columns]
    assert {*key} <= {*shared}
    return [
        f"{table}.{column}: {number:,} of {ours.height:,} values differ"
        for column in shared
        if (number := _num_different(ours[column], theirs[column]))
    ]


def _num_different(ours: pl.Series, theirs: pl.Series) -> int:
    if ours.dtype == pl.List(pl.Struct):
        ours, theirs = (column.list.eval(pl.element().struct.field("weight")) for column in (ours, theirs))
    if isinstance(ours.dtype, pl.List):
        lengths = (ours.list.len() != theirs.list.len()).fill_null(False).sum()
        if lengths:
            return int(lengths)
        ours, theirs = ours.explode(), theirs.explode()
    if ours.dtype.is_numeric() or ours.dtype.is_decimal():
        a, b = ours.cast(pl.Float64), theirs.cast(pl.Float64)
        is_far = (a - b).abs() > TOLERANCE * (1 + b.abs())
        return int(is_far.fill_null(False).sum() + (a.is_null() != b.is_null()).sum())
    if ours.dtype == pl.Datetime("us", "UTC"):
        theirs = theirs.cast(pl.Datetime("us")).dt.replace_time_zone("UTC") if theirs.dtype != ours.dtype else theirs
    return int((~ours.eq_missing(theirs)).sum())


def _given(lake: Lake) -> Mapping[str, Any]:
    """What the program needs to know: files, settings, dates."""
    settings = load_job(JOBS["featurize"]).FeaturizeSettings()
    mapping = load_mapping("market")
    version = lake.data_version("silver/events")
    assert version is not None
    times = log_times(lake, mapping, version)
    as_of = times.test_from
    split_at = {"valid_from": times.valid_from, "test_from": times.test_from}
    return {
        "events": [name for name, _ in lake.data_files("silver/events")],
        "items": [name for name, _ in lake.data_files("silver/items")],
        "threads": len(os.sched_getaffinity(0)),
        "as_of": as_of.isoformat(),
        **{name: moment.isoformat() for name, moment in split_at.items()},
        "dates": [
            {
                "split": date.split,
                "as_of": date.as_of.isoformat(),
                "label_until": date.label_until.isoformat() if date.label_until else None,
            }
            for date in example_dates(**split_at, end=times.end, as_of=as_of)
        ],
        "weights": settings.event_weights,
        "relevant": mapping.relevance,
        **{
            name: getattr(settings, name) for name in ("half_life_days", "max_tags", "prior_views", "prior_impressions")
        },
    }
