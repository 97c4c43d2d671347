"""The three engines: the same parts, the same errors, nothing left behind. Tasks here are small; those of jobs are tested with them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from pyspark import cloudpickle
from ray import cloudpickle as ray_cloudpickle
from threadpoolctl import threadpool_info

from lib.engines import held_parts, local_tasks
from lib.engines.arrow_tasks import Broadcast, packed, unpacked
from lib.engines.local_tasks import LocalEngine
from lib.engines.parts import Engine, spread
from lib.engines.ray_tasks import RayEngine
from lib.engines.spark import SparkEngine, session
from lib.pipeline import ROOT
from lib.runs.errors import ExitCode, RetryableError, ending_of, recordable_traceback
from lib.settings import JobSettings
from tests.processes import await_end, descendants, wait_for
from tests.shops import Shop

for pickle in (cloudpickle, ray_cloudpickle):
    pickle.register_pickle_by_value(sys.modules[__name__])  # the workers of Spark and Ray do not find the tests
QUOTED = "secret of the log"
FILES = pa.table({"first": [0, 10, 20, 30, 40], "num_bytes": [50, 10, 10, 10, 10]})


class CleanSettings(JobSettings):
    """Stands for clean's."""


def engine_of(name: str, request: pytest.FixtureRequest) -> Engine:
    if name == "ray":
        request.getfixturevalue("ray_cluster")
        return RayEngine()
    return LocalEngine(2) if name == "local" else SparkEngine(session(CleanSettings(cluster={"driver_memory": "1g"})))


@pytest.fixture(params=["local", "spark", "ray"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setattr(held_parts, "HERE_BYTES", 0)  # even small work goes to other processes
    found = engine_of(request.param, request)
    yield found
    found.close()


def numbers(files: Iterable[pa.RecordBatch], *, factor: Broadcast[int]) -> Iterator[pa.RecordBatch]:
    """Ten numbers a file, by their last digit modulo 3, and how many there are."""
    for batch in files:
        for first in batch["first"].to_pylist():
            rows = pl.DataFrame({"n": [factor.value * number for number in range(first, first + 10)]})
            yield from packed(rows, "n", pl.Series([number % 10 % 3 for number in range(10)], dtype=pl.Int32))
            yield from packed(rows.select(number=pl.len()), "count")


def sizes(files: Iterable[pa.RecordBatch], *, told: Broadcast[bytes]) -> Iterator[pa.RecordBatch]:
    """How long what is broadcast is, which process this is, and which object it has got."""
    list(files)
    row = {"length": len(told.value), "last": told.value[-1], "process": os.getpid(), "place": id(told.value)}
    yield from packed(pl.DataFrame([row]), "size")


def sums(parts: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The sum of a shard's numbers."""
    found = unpacked(parts)
    if found:
        assert set(found) == {"n"}
        yield from packed(found["n"].sum(), "sum")


def fails(files: Iterable[pa.RecordBatch], *, kind: str) -> Iterator[pa.RecordBatch]:
    """Ends in one way or another."""
    list(files)
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "ours":
        raise RetryableError("try again")
    yield pa.RecordBatch.from_pylist([{"n": int(QUOTED)}])


def regions(files: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The store's region, as the task's process knows it."""
    list(files)
    yield from packed(pl.DataFrame({"region": [os.environ.get("AWS_REGION")]}), "region")


def sleeps(files: Iterable[pa.RecordBatch], *, mark: Path) -> Iterator[pa.RecordBatch]:
    """Stays at work."""
    mark.touch()
    time.sleep(600)
    yield from files


def test_parts_are_brought_together_by_shard_and_chosen_by_kind(engine: Engine) -> None:
    made = engine.over(FILES, task_bytes=50).then(numbers, factor=engine.broadcast(2)).keep()
    counts = [unpack(content)["number"].item() for _, content in made.of("count").collected()]
    assert counts == [10] * 5
    shards = made.but("count").to_shards(3)
    totals = {unpack(content)["n"].item() for kind, content in shards.then(sums).collected() if kind == "sum"}
    expected = [[2 * n for n in range(50) if n % 10 % 3 == shard] for shard in range(3)]
    assert totals == {sum(shard) for shard in expected}
    twice = shards.union(shards).to_shards(1).then(sums).collected()
    assert [unpack(content)["n"].item() for _, content in twice] == [2 * sum(2 * n for n in range(50))]
    made.drop()


def unpack(content: bytes) -> pl.DataFrame:
    return pl.read_ipc_stream(content)


@pytest.mark.parametrize(
    ("kind", "told", "code"),
    [
        ("ours", "try again", ExitCode.FAILED),
        ("theirs", "invalid literal for int() with base 10: 'secret of the log'", ExitCode.REFUSED),
        ("killed", "a worker was killed or crashed, perhaps for want of memory", ExitCode.FAILED),
    ],
)
def test_the_error_of_a_task_is_told_alike_and_its_words_are_not_recorded(
    engine: Engine, kind: str, told: str, code: ExitCode
) -> None:
    with pytest.raises(Exception) as error:
        engine.over(FILES, task_bytes=50).then(fails, kind=kind).collected()
    assert ending_of(error.value) == (told, code)
    recorded = recordable_traceback(error.value)
    assert "secret" not in recorded
    assert kind == "killed" or "in fails" in recorded
    assert len(engine.over(FILES, task_bytes=50).then(numbers, factor=engine.broadcast(1)).of("count").collected()) == 5


def test_processes_that_are_kept_know_the_store_of_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_parts, "HERE_BYTES", 0)
    engine = LocalEngine(2)
    for region in ("north", "south"):
        monkeypatch.setenv("AWS_REGION", region)
        found = engine.over(FILES, task_bytes=50).then(regions).collected()
        assert {unpack(content)["region"].item() for _, content in found} == {region}
    engine.close()


def num_threads(files: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """How many threads the libraries of this process take that multiply matrices."""
    for _ in files:
        most = max(library["num_threads"] for library in threadpool_info())
        yield from packed(pl.DataFrame({"threads": [most]}), "threads")


def test_processes_that_share_the_cores_take_one_thread_each_whatever_started_them() -> None:
    script = (
        "from tests.lib.engines.test_parts import *\n"
        "if __name__ == '__main__':\n"
        "    held_parts.HERE_BYTES = 0\n"
        "    made = LocalEngine(2).over(FILES, task_bytes=50).then(num_threads).collected()\n"
        "    print({pl.read_ipc_stream(content)['threads'].item() for _, content in made})\n"
    )
    without = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=without, capture_output=True, text=True, check=True
    )
    assert found.stdout.splitlines()[-1] == "{1}"


def test_files_are_spread_so_that_tasks_read_about_equally_much() -> None:
    assert spread([50, 10, 10, 10, 10], task_bytes=1000, parallelism=2) == [0, 1, 1, 1, 1]
    assert sorted(spread([10] * 6, task_bytes=20, parallelism=2)) == [0, 0, 1, 1, 2, 2]
    assert spread([], task_bytes=20, parallelism=2) == []


def test_nothing_is_left_behind_and_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    mark = tmp_path / "began"
    script = (
        "from pathlib import Path\nfrom lib.engines import held_parts, local_tasks\nfrom tests.lib.engines.test_parts import FILES, sleeps\n"
        "if __name__ == '__main__':\n    held_parts.HERE_BYTES = 0\n"
        f"    local_tasks.LocalEngine(2).over(FILES, task_bytes=50).then(sleeps, mark=Path({str(mark)!r}))\n"
    )
    (tmp_path / "script.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "script.py")], env=environment)
    wait_for(lambda: mark.exists() or None, seconds=60, what="a task", started=process)
    left = local_tasks.FOLDER / str(process.pid)
    workers = [worker.pid for worker in descendants(process.pid)]
    assert len(workers) >= 2
    assert left.is_dir()
    process.kill()
    process.wait()
    await_end(workers)
    engine = LocalEngine(2)
    engine.over(FILES, task_bytes=50)
    assert not left.exists()
    engine.close()
    assert not engine.folder.exists()


@pytest.mark.slow
def test_both_engines_give_the_same_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_parts, "HERE_BYTES", 0)
    mapping = """
name: own
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time, price: price, title: item}
    events: [{type: purchase}]
"""
    shops = [Shop.with_key(tmp_path / master, mapping) for master in ("local[2]", "local[2,1]")]
    for shop in shops:
        for part in range(3):
            rows = [f"u{n % 17},i{n % 5},2024-01-{n % 28 + 1:02d} 10:{part}{n % 10}:00,{n % 7}" for n in range(200)]
            shop.put(f"{part}.csv", "\n".join(["user,item,time,price", *rows]) + "\n")
        told = shop.run(
            f"--cluster.spark-master={shop.folder.name}", "--clean.records-per-shard=1000", last="featurize"
        )
        assert told.code == 0, told.text
    one, other = shops
    for table in one.lake.tables():
        if not table.startswith("ops/"):
            columns = [column for column in one.table(table).column_names if column not in ("batch_id", "arrived_at")]
            rows = [sorted(map(str, shop.table(table, *columns).to_pylist())) for shop in shops]
            assert rows[0] == rows[1], table
    assert one.lake.tables() == other.lake.tables()


@pytest.mark.parametrize(("length", "num_files"), [(9, 0), (local_tasks.SENT_BYTES, 1)])
def test_what_is_broadcast_is_left_in_a_file_once_if_it_is_large_and_read_once_by_each_process(
    length: int, num_files: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_parts, "HERE_BYTES", 0)
    engine = LocalEngine(2)
    told = engine.broadcast(bytes(length - 1) + b"x")
    for _ in range(2):
        made = engine.over(FILES, task_bytes=10).then(sizes, told=told)
        found = unpacked(made.batches())["size"]
        assert found["length"].to_list() == [length] * 5
        assert found["last"].to_list() == [ord("x")] * 5
        files = list(engine.folder.rglob("broadcast*"))
        assert len(files) == num_files
        if num_files:
            assert found.select("process", "place").n_unique() == found["process"].n_unique()
    engine.close()
