"""What clean's tasks do around the cleaning: clocks of times wherever a source keeps them, shards, the latest items."""

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.cleaning.batches import (
    CLOCKS,
    ShardWork,
    count_clocks,
    day_shards,
    latest_items,
    spread_marked_records,
    spread_records,
)
from lib.cleaning.fields import SUPERSEDED
from lib.cleaning.shard import DESCRIPTION
from lib.cleaning.thresholds import Thresholds
from lib.engines.arrow_tasks import TABLE_FILES, InProcess, unpacked
from lib.formats.mapping import LogMapping
from lib.lake.lake import Lake
from lib.tables.bronze import SOURCE

KEY = b"a key of the tests"
ORIGIN = {"source_file": "2024/a.csv", "source_file_sha256": "0", "malformed": None, "batch_id": "b"}


def records(*rows: dict[str, Any]) -> pa.Table:
    """Records as bronze holds them."""
    arrived = {"arrived_at": datetime(2026, 1, 1, tzinfo=UTC)}
    full = [row | ORIGIN | arrived | {"record_number": number} for number, row in enumerate(rows, start=1)]
    return pa.Table.from_pylist(full, schema=SOURCE.with_source_columns(tuple(rows[0])).schema)


def stored(folder: Path, *tables: pa.Table) -> list[pa.RecordBatch]:
    """The tables in files of their own, as the tasks are told of them."""
    files = []
    for number, table in enumerate(tables):
        location = str(folder / f"{number}.parquet")
        pq.write_table(table, location)
        files.append({"location": location, "num_bytes": 1, "kind": "clicks"})
    return pa.Table.from_pylist(files, schema=TABLE_FILES).to_batches()


def work(given: LogMapping, schema: pa.Schema, num_shards: int = 1) -> ShardWork:
    return ShardWork(Lake("unused"), given, Thresholds(), {"clicks": schema}, num_shards, 1000, num_item_shards=1)


def mapping(**source: Any) -> LogMapping:
    given = {"files": "{year}/*.csv", "events": [{"type": "view"}], "names": {"item_id": "item"}, **source}
    return LogMapping(name="own", timezone="Europe/Berlin", sources={"clicks": given})


def clocks(folder: Path, rows: list[dict[str, Any]], **source: Any) -> dict[str, int]:
    table = records(*rows)
    parts = count_clocks(stored(folder, table), work=work(mapping(**source), table.schema), every={"clicks": 1})
    return dict(unpacked(parts)[CLOCKS].select("clock", "num_times").rows())


@pytest.mark.parametrize(
    ("rows", "source"),
    [
        ([{"at": "2024-01-01"}, {"at": "2024-07-01"}, {"at": "soon"}], {"names": {"event_time": "at"}}),
        ([{"at": "2023-12-31T23:00:00Z"}, {"at": "2024-06-30T22:00:00Z"}], {"names": {"event_time": "at"}}),
        ([{"m": '{"at": "01.01.2024"}'}, {"m": '{"at": "02.01.2024"}'}], {"names": {"event_time": "m.at"}}),
        ([{"at": "01-01"}, {"at": "07-01"}], {"names": {"event_time": {"template": "{year}-{at}"}}}),
        (
            [{"seen": '[{"at": "01.01.2024"}, {"at": "02.01.2024"}]'}],
            {"names": {"event_time": "seen.at"}, "explode": "seen"},
        ),
    ],
)
def test_the_clock_of_times_is_counted_wherever_they_are_kept(
    tmp_path: Path, rows: list[dict[str, Any]], source: dict[str, Any]
) -> None:
    names = {"item_id": "item", **source["names"]}
    pattern = {"time_format": "%d.%m.%Y"} if "01.01.2024" in str(rows) else {}
    assert clocks(tmp_path, rows, **{**source, "names": names}, **pattern) == {"day": 2}


def test_records_of_a_shard_come_back_whole_with_what_supersedes_them(tmp_path: Path) -> None:
    given = mapping(names={"item_id": "item", "event_time": "at"}, record_key="line")
    rows = [{"line": "1", "item": item, "at": "2024-01-01"} for item in ("i", "j")]
    table = records(*rows, {"line": "2", "item": "i", "at": "2024-01-01"})
    task = work(given, table.schema)
    by_key = spread_records(stored(tmp_path, table), work=task, key=InProcess(KEY), by="record_key")
    marked = unpacked(spread_marked_records(by_key, work=task, key=InProcess(KEY)))["clicks"]
    assert marked[SUPERSEDED].to_list() == [True, False, False]
    assert marked.drop(SUPERSEDED).to_dicts() == table.to_pylist()
    assert not list(spread_marked_records([], work=task, key=InProcess(KEY)))


def test_records_of_several_files_go_to_shards_by_user_and_equal_ones_without_a_user_too(tmp_path: Path) -> None:
    given = mapping(names={"item_id": "item", "event_time": "at", "user_id": "user"})
    rows = [{"user": user, "item": item} for user in ("u", " u ", "v", None, "") for item in "abcdef"]
    first, second = records(*rows), records(*rows).drop_columns("item")
    parts = [
        *spread_records(
            stored(tmp_path, first, second), work=work(given, first.schema, num_shards=7), key=InProcess(KEY)
        )
    ]
    found = pl.concat(
        frame.with_columns(shard=pl.lit(batch["shard"][0].as_py()))
        for batch in parts
        for frame in unpacked([batch]).values()
    )
    assert found.height == 2 * len(rows), "nothing is lost, and a column that a file lacks is null"
    user = pl.col("user").str.strip_chars().replace("", None)
    by_user = found.group_by(user).agg(pl.col("shard").n_unique())
    assert dict(by_user.filter(pl.col("user").is_not_null()).rows()) == {"u": 1, "v": 1}
    nobody = found.filter(user.is_null())
    assert nobody.group_by("user", "item").agg(pl.col("shard").n_unique())["shard"].unique().to_list() == [1]
    assert nobody["shard"].n_unique() > 1, "they do not all gather in one"


def test_an_item_has_each_property_as_last_described_and_a_catalogue_takes_precedence() -> None:
    nothing = dict.fromkeys(DESCRIPTION)
    rows = [
        nothing | {"item_id": "i", "event_time": datetime(2024, 1, 2, tzinfo=UTC), "title": "New", "currency": "EUR"},
        nothing | {"item_id": "i", "event_time": datetime(2024, 1, 1, tzinfo=UTC), "title": "Old", "brand": "B"},
        nothing | {"item_id": "j", "event_time": None, "title": "Listed"},
        nothing | {"item_id": "j", "event_time": datetime(2024, 1, 9, tzinfo=UTC), "title": "Seen", "image_uri": "x"},
    ]
    is_catalogue = [row["event_time"] is None for row in rows]
    described = pl.DataFrame(
        [row | {"described_by": "d", "is_catalogue": flag} for row, flag in zip(rows, is_catalogue, strict=True)],
        schema_overrides={name: pl.String for name in DESCRIPTION if name not in ("category", "attributes")},
    )
    found = {row["item_id"]: row for row in latest_items(described, pl.Series(["j", "k"])).to_dicts()}
    assert (found["i"]["title"], found["i"]["brand"], found["i"]["currency"]) == ("New", "B", None)
    assert (found["j"]["title"], found["j"]["image_uri"]) == ("Listed", "bronze/images#j")
    assert found["i"]["image_uri"] is None
    assert {*found} == {"i", "j"}, "a picture alone makes no item"


def test_a_day_is_written_by_one_task_or_by_its_users_where_it_is_large() -> None:
    given = work(
        mapping(names={"event_time": "at", "item_id": "item"}), pa.schema([]), num_shards=7
    )  # of a thousand records each
    users = [f"u{number % 50}" for number in range(6_000)]
    rows = pl.DataFrame(
        {
            "event_date": [date(2024, 1, 1)] * 2_000 + [date(2024, 1, 2)] * 4_000,
            "user_key": [user if number % 10 else None for number, user in enumerate(users)],
            "source_record": [f"clicks/a.csv:{number}" for number in range(6_000)],
        }
    )
    shards = rows.with_columns(shard=day_shards(rows, pl.len().over("day"), given))
    of_day = shards.group_by("event_date").agg(pl.col("shard").n_unique()).sort("event_date")
    assert of_day["shard"].to_list() == [1, 2]
    of_user = shards.drop_nulls("user_key").group_by("event_date", "user_key").agg(pl.col("shard").n_unique())
    assert of_user["shard"].unique().to_list() == [1]
    assert (
        shards.filter(pl.col("user_key").is_null() & (pl.col("event_date") == date(2024, 1, 2)))["shard"].n_unique()
        == 2
    )
