"""The simulator's files, below the lake's folder of raw logs.

`market` holds what a shop would deliver: events (gzip JSON lines), catalogue (CSV), pictures (Parquet), and the manifest.
`market-truth` holds, for each file of events, what is wrong with its dirty records.
"""

import csv
import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lib.engines.arrow_tasks import part
from rl.market.market import CATALOGUE_FILE, MANIFEST, Market
from rl.market.products import COLUMNS, Attributes
from rl.market.records import DirtRates, Record, records
from rl.market.visitors import Visitors

LOG_FOLDER, TRUTH_FOLDER = "market", "market-truth"


def make_folders(raw: Path) -> None:
    """The folders of a log below `raw`."""
    for folder in ("market/events", "market/items", "market/images", TRUTH_FOLDER):
        (raw / folder).mkdir(parents=True, exist_ok=True)


def write_catalogue(raw: Path, attributes: Attributes) -> None:
    """The products as CSV."""
    with (raw / LOG_FOLDER / CATALOGUE_FILE).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *attributes.rows()])


def write_pictures(raw: Path, item_ids: Sequence[str], pictures: Sequence[bytes], *, side: int) -> None:
    """The products' pictures, PNG or JPEG, each `side` x `side` pixels, as Parquet."""
    sides = pa.array([side] * len(item_ids), pa.int32())
    table = pa.table(
        {"item_id": list(item_ids), "bytes": pa.array(pictures, pa.binary()), "width": sides, "height": sides}
    )
    pq.write_table(table, raw / LOG_FOLDER / "images" / "images.parquet")


def write_manifest(raw: Path, content: dict[str, Any]) -> None:
    """Mark the log as finished, with the settings that it was made with."""
    unfinished = raw / LOG_FOLDER / f"{MANIFEST}.part"
    unfinished.write_text(json.dumps(content, indent=1), encoding="utf-8")
    unfinished.replace(raw / LOG_FOLDER / MANIFEST)


def read_manifest(raw: Path) -> dict[str, Any] | None:
    """The manifest of a finished log; None where there is none."""
    manifest = raw / LOG_FOLDER / MANIFEST
    if not manifest.is_file():
        return None
    content: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
    return content


def write_events(
    batches: Iterator[pa.RecordBatch],
    *,
    market: Market,
    rates: DirtRates,
    visitors: Visitors,
    raw: Path,
    keep: Callable[[Path], None],
) -> Iterator[pa.RecordBatch]:
    """Write the log of users [first, last) for each row (file, first, last).

    The records go to a file `part-*`, what is sent again to a file `resent-*`, the truth about the dirty ones to another;
    `keep` is called for each. Yields a part (lib/engines/arrow_tasks.py) for each row, whose content is JSON with
    `num_records` and `num_dirty`.
    """
    make_folders(raw)  # where the log goes to an object store, a task has local ones of its own
    for batch in batches:
        for row in batch.to_pylist():
            made = records(market, row["first"], row["last"], rates, visitors)
            by_file = {
                f"events/part-{row['file']:05d}.jsonl.gz": [record for record in made if record.kind != "resent"]
            }
            if resent := [record for record in made if record.kind == "resent"]:
                by_file[f"events/resent-{row['file']:05d}.jsonl.gz"] = resent
            for name, of_file in by_file.items():
                _write_lines(raw / LOG_FOLDER / name, of_file)
                keep(raw / LOG_FOLDER / name)
            truth = pa.concat_tables([_truth(name, of_file) for name, of_file in by_file.items()])
            of_truth = raw / TRUTH_FOLDER / f"part-{row['file']:05d}.parquet"
            pq.write_table(truth, of_truth)
            keep(of_truth)
            yield part(of_truth.name, json.dumps({"num_records": len(made), "num_dirty": len(truth)}).encode())


def _write_lines(target: Path, of_file: Sequence[Record]) -> None:
    """A file of events; one that is written anew is complete or not there."""
    unfinished = target.with_suffix(".part")
    with gzip.GzipFile(unfinished, "wb", compresslevel=3, mtime=0) as file:
        file.write("".join(f"{record.line}\n" for record in of_file).encode(errors="surrogateescape"))
    unfinished.replace(target)


def _truth(name: str, of_file: Sequence[Record]) -> pa.Table:
    """The dirty records of a file, and what is wrong with them."""
    dirty = [(number, record) for number, record in enumerate(of_file, 1) if record.kind is not None]
    return pa.table(
        {
            "file": pa.array([name] * len(dirty), pa.string()),
            "record_number": pa.array([number for number, _ in dirty], pa.int64()),
            "kind": pa.array([record.kind for _, record in dirty], pa.string()),
            "column": pa.array([record.column for _, record in dirty], pa.string()),
            "user": pa.array([record.user for _, record in dirty], pa.int64()),
            "time_ms": pa.array([record.time_ms for _, record in dirty], pa.int64()),
        }
    )
