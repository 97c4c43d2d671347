"""Random bytes, CSV, JSON lines and Parquet of every type under random mappings: read, or set aside with a reason.

Nothing raises but our ValueError, no record is lost (accepted and rejected add up to what was read), and no file stops
another. Takes about 20 s in all; CARTWHEEL_FUZZ_SECONDS=60 sets another time, and the same examples come first.
"""

import gzip
import json
import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lib.cleaning.batches import COUNTS, ShardWork, clean_event_shard, clean_item_shard, spread_records
from lib.cleaning.thresholds import Thresholds
from lib.cleaning.whole_log import WholeLog
from lib.engines.arrow_tasks import TABLE_FILES, InProcess, unpacked
from lib.formats.arrow_texts import arrow_texts
from lib.formats.files import find_files
from lib.formats.log_files import LogFile, sha256_of
from lib.formats.mapping import LogMapping, parse_mapping
from lib.ingestion.staged import FoundFile
from lib.ingestion.tasks import FILES, FOUND, IngestWork, stage_files
from lib.lake.lake import Lake
from tests import any_files as drawn

SECONDS = float(os.environ.get("CARTWHEEL_FUZZ_SECONDS", "20"))
RULES = Thresholds(
    double_click_seconds=2,
    session_gap_minutes=30,
    bot_actions_per_day=50,
    bot_actions_per_hour=40,
    bot_regular_actions=10,
    bot_gap_variation=0.1,
)


def for_seconds(fraction: float, *strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Any]:
    """Run a test on examples of the strategies until its fraction of SECONDS is over."""

    def decorate(check: Callable[..., None]) -> Callable[[], None]:
        def test() -> None:
            end = time.monotonic() + fraction * SECONDS
            quick = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
            few = settings(max_examples=25, phases=[Phase.generate], **quick)  # no shrinking: it takes minutes
            for number in count():
                seed(number)(few(given(*strategies)(check)))()
                if time.monotonic() > end:
                    return

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate


def parsed(mapping: Any) -> LogMapping | None:
    """The mapping, or None if it was refused in one line."""
    try:
        return parse_mapping(yaml.safe_dump(mapping, allow_unicode=True), "own.yaml")
    except ValueError as error:
        assert str(error).startswith("own.yaml: "), error
        assert "\n" not in str(error), error
        return None


GOOD = {
    "files": "good/*.csv",
    "names": {"user_id": "user", "item_id": "item", "event_time": "time"},
    "events": [{"type": "view"}],
}
GOOD_FILE = b"user,item,time\nu,i,2024-01-01\nv,j,2024-01-02\n"


def is_accounted_for(files: dict[str, bytes], source: Any) -> None:
    """Every file of a log is read or set aside with its reason, and every record accepted or rejected."""
    name = "images" if isinstance(source, dict) and source["kind"] == "images" else "log"
    mapping = parsed({"name": "own", "sources": {"good": GOOD, name: source}})
    if mapping is None:
        return
    with TemporaryDirectory() as folder:
        for name, content in {"good/1.csv": GOOD_FILE, **files}.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        bronze = staged(folder, mapping)
    assert bronze["good"] is not None
    for kind in ("events", "items"):
        records = {name: table for name in mapping.of_kind(kind) if (table := bronze[name]) is not None}
        if records:
            is_cleaned(records, kind, mapping)


def staged(folder: str, mapping: LogMapping) -> dict[str, pa.Table | None]:
    """The records of each source's files, as ingest's tasks write them for its table of bronze."""
    files = find_files(folder, mapping)[0]
    rows = pa.Table.from_pylist([vars(file) | {"sha256": sha256_of(file)} for file in files], schema=FILES)
    lake = Lake(f"{folder}/.lake")
    work = IngestWork(lake, mapping, "ingest-000001", datetime(2026, 1, 1, tzinfo=UTC), columns={})
    found: list[FoundFile] = []
    tables: dict[str, list[pa.Table]] = {}
    for part in pa.Table.from_batches(stage_files(rows.to_batches(), work=work)).to_pylist():
        content = json.loads(part["content"])
        if part["kind"] == FOUND:
            found.append(FoundFile.of_json(content))
        else:
            written = pq.read_table(f"{lake.uri(part['kind'])}/{content['path']}")
            tables.setdefault(part["kind"].removeprefix("bronze/"), []).append(written)
    assert [file.path for file in found] == [file.path for file in files]
    for file in found:
        assert all(line and "\n" not in line for line in [*file.notes, file.problem or "none"])
    for file in files:
        told = next(other for other in found if other.path == file.path)
        is_whole(file, told, mapping, tables.get(file.source, []))
    return {
        name: pa.concat_tables(tables[name], promote_options="default") if name in tables else None
        for name in mapping.sources
    }


def is_whole(file: LogFile, told: FoundFile, mapping: LogMapping, tables: list[pa.Table]) -> None:
    """Every record of a file that can be read is in a table, and none of another."""
    of_file = [table.filter(pc.equal(table["source_file"], file.path)) for table in tables]
    if told.problem is not None:
        assert not sum(map(len, of_file))
        return
    numbers = [
        n for table in of_file if "record_number" in table.column_names for n in table["record_number"].to_pylist()
    ]
    num_rows = sum(map(len, of_file))
    for table in of_file:
        table.validate(full=True)
    assert num_rows > 0
    if mapping.sources[file.source].kind != "images":
        assert numbers == list(range(1, num_rows + 1))
    if file.path.endswith(".parquet"):
        assert num_rows + len(told.refused) == pq.read_metadata(file.location).num_rows
    if file.path.endswith(".json_lines") and mapping.sources[file.source].reader.encoding == "utf-8":
        lines = gunzipped(Path(file.location).read_bytes().removeprefix(b"\xef\xbb\xbf")).split(b"\n")
        assert num_rows + len(told.refused) >= sum(bool(line.strip()) for line in lines)


def gunzipped(content: bytes) -> bytes:
    return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content


def is_cleaned(records: dict[str, pa.Table], kind: str, mapping: LogMapping) -> None:
    """Accepted and rejected records add up to those of bronze."""
    with TemporaryDirectory() as folder:
        files = []
        for name, table in records.items():
            pq.write_table(table, f"{folder}/{name}.parquet")
            files.append({"location": f"{folder}/{name}.parquet", "num_bytes": 1, "kind": name})
        schemas = {name: table.schema for name, table in records.items()}
        work = ShardWork(Lake(folder), mapping, RULES, schemas, num_shards=1, records_per_shard=1000, num_item_shards=1)
        key = InProcess(b"a key of the tests")
        parts = spread_records(pa.Table.from_pylist(files, schema=TABLE_FILES).to_batches(), work=work, key=key)
        if kind == "events":
            stated = {name: source.clock for name, source in mapping.sources.items() if source.clock is not None}
            log = WholeLog(clocks=stated)
            cleaned = unpacked_but_files(clean_event_shard(parts, work=work, key=key, log=log))
        else:
            cleaned = unpacked_but_files(clean_item_shard(parts, work=work))
    counts = cleaned[COUNTS].group_by("source").agg(pl.col("num_records").sum())
    assert dict(counts.rows()) == {name: table.num_rows for name, table in records.items()}
    good = cleaned[COUNTS].filter((pl.col("source") == "good") & (pl.col("outcome") == "accepted"))
    assert good["num_records"].sum() == (2 if "good" in records else 0)


def unpacked_but_files(parts: Iterable[pa.RecordBatch]) -> dict[str, pl.DataFrame]:
    return unpacked(batch for batch in parts if "/" not in batch["kind"][0].as_py())


@for_seconds(0.2, drawn.csv_files(), drawn.csv_files(), drawn.sources("csv"))
def test_any_csv(one: bytes, other: bytes, source: Any) -> None:
    is_accounted_for({"1.csv": one, "shop/2.csv": other}, source)


@for_seconds(0.2, drawn.json_files(), drawn.json_files(), drawn.sources("json_lines"))
def test_any_json_lines(one: bytes, other: bytes, source: Any) -> None:
    is_accounted_for({"1.json_lines": one, "shop/2.json_lines": other}, source)


@for_seconds(0.2, drawn.tables(), drawn.sources("parquet"))
def test_any_parquet(table: pa.Table, source: Any) -> None:
    is_accounted_for({"1.parquet": drawn.as_parquet(table)}, source)


@for_seconds(
    0.15,
    st.one_of(
        st.tuples(drawn.csv_files(), drawn.pictures("csv")),
        st.tuples(drawn.json_files(), drawn.pictures("json_lines")),
        st.tuples(drawn.tables().map(drawn.as_parquet), drawn.pictures("parquet")),
    ),
)
def test_any_pictures(drawn_file: tuple[bytes, Any]) -> None:
    content, source = drawn_file
    is_accounted_for({f"1.{source['files'][0].removeprefix('*.')}": content}, source)


@for_seconds(
    0.1,
    st.sampled_from(["csv", "json_lines", "parquet"]).flatmap(lambda t: st.tuples(st.just(t), drawn.sources(t))),
    drawn.raw_bytes,
)
def test_any_bytes(typed: tuple[str, Any], content: bytes) -> None:
    is_accounted_for({f"1.{typed[0]}": content}, typed[1])


@for_seconds(0.1, drawn.types, st.data())
def test_any_arrow_type_becomes_text(type_: pa.DataType, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, 3))
    found = arrow_texts(drawn.arrays(data.draw, type_, length))
    found.validate(full=True)
    assert (found.type, len(found)) == (pa.string(), length)
