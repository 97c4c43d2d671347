"""Tasks that run together, in processes of this machine and in Spark: what they exchange, and what becomes of a loss."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from pyspark import SparkConf, cloudpickle

from lib.engines import exchange, local_tasks
from lib.engines.arrow_tasks import Broadcast, packed
from lib.engines.exchange import Exchange
from lib.engines.local_tasks import LocalEngine, LocalGang
from lib.engines.parts import PEER_IS_LOST, Engine, Gang, in_a_gang, slots_of
from lib.engines.spark import SparkEngine, require_fixed_executors, session
from lib.runs.errors import ExitCode, RetryableError, SettingError, ending_of
from lib.settings import JobSettings

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Spark's workers do not find the tests
FILES = pa.table({"shard": pa.array([0, 1], pa.int32()), "num_bytes": [10, 10]})


class AlsSettings(JobSettings):
    """Stands for als's."""


@pytest.fixture(params=["local", pytest.param("spark", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    is_local = request.param == "local"
    found = LocalEngine(2) if is_local else SparkEngine(session(AlsSettings(cluster={"driver_memory": "1g"})))
    yield found
    found.close()


def own_rows(files: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """A part for each shard."""
    for _ in files:
        yield from packed(pl.DataFrame({"n": [1, 2]}), "n", pl.Series([0, 1], dtype=pl.Int32))


def tells_all(
    parts: Iterable[pa.RecordBatch], *, gang: Gang, token: Broadcast[str], trouble: str = "", mark: Path | None = None
) -> Iterator[pa.RecordBatch]:
    """Tells each task both ranks, a hundred times; meets trouble, once, in the last of the tasks."""
    list(parts)
    with Exchange(gang, token.value) as end:
        for number in range(100):
            outgoing = [pa.table({"told": [f"{end.rank} to {peer}"]}) for peer in range(end.size)]
            told = [rows["told"].to_pylist() for rows in end.swap(f"{number}", outgoing)]
            assert told == [[f"{peer} to {end.rank}"] for peer in range(end.size)]
            if trouble and end.rank == 1 and number == 50 and (mark is None or not mark.exists()):
                if mark is not None:
                    mark.touch()
                if trouble == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise RetryableError("try again")
    yield from packed(pl.DataFrame({"rank": [gang.rank]}), "rank")


def ranks(engine: Engine, num_tasks: int = 2, **given: Any) -> list[int]:
    """The ranks of the tasks that came to their end."""
    parts = engine.over(FILES, task_bytes=10).then(own_rows)
    found = in_a_gang(parts, tells_all, num_tasks, token=engine.broadcast("token"), **given).collected()
    return sorted(pl.read_ipc_stream(content)["rank"].item() for _, content in found)


def test_more_tasks_than_an_earlier_engine_had_processes_run_together_all_the_same() -> None:
    for number in (2, 3):
        engine = LocalEngine(number)
        assert ranks(engine, num_tasks=number) == list(range(number))
        engine.close()


def test_tasks_that_run_together_tell_each_other(engine: Engine) -> None:
    assert ranks(engine) == [0, 1]
    assert ranks(engine, num_tasks=1) == [0]


def test_more_tasks_than_there_is_room_for_are_refused_at_once(engine: Engine) -> None:
    assert slots_of(engine) == 2
    with pytest.raises(SettingError, match="3 tasks must run at once, but there is room for 2: give Spark more"):
        ranks(engine, num_tasks=3)


def test_where_spark_takes_executors_as_it_needs_them_no_tasks_run_together() -> None:
    given = SparkConf(loadDefaults=False)
    require_fixed_executors(given.set("spark.dynamicAllocation.enabled", "false"))
    with pytest.raises(SettingError, match="choose another engine of this job"):
        require_fixed_executors(given.set("spark.dynamicAllocation.enabled", "true"))


def test_the_error_of_one_is_told_and_not_that_the_other_misses_it() -> None:
    engine = LocalEngine(2)
    with pytest.raises(Exception) as error:
        ranks(engine, trouble="raises")
    assert ending_of(error.value) == ("try again", ExitCode.FAILED)
    with pytest.raises(Exception) as killed:
        ranks(engine, trouble="killed")
    assert ending_of(killed.value).told == "a worker was killed or crashed, perhaps for want of memory"
    assert ranks(engine) == [0, 1]
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["raises", "killed"])
def test_spark_begins_all_tasks_again_when_one_is_lost(trouble: str, tmp_path: Path) -> None:
    engine = SparkEngine(session(AlsSettings(cluster={"driver_memory": "1g"})))
    assert ranks(engine, trouble=trouble, mark=tmp_path / "met") == [0, 1]
    assert (tmp_path / "met").exists()


def test_what_is_more_than_one_call_brings_comes_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "BYTES_AT_ONCE", 80)
    monkeypatch.setattr(exchange, "BYTES_OF_MESSAGE", 16)
    rows = [pa.table({"n": range(number)}, metadata={"of": str(number)}) for number in (0, 1, 10, 25)]
    found: list[list[pa.Table]] = [[], []]

    def work(rank: int) -> None:
        with Exchange(LocalGang(rank, 2, tmp_path), "token") as end:
            for name, table in enumerate(rows):
                found[rank].append(end.swap(str(name), [table, table])[1 - rank])

    in_threads(work)
    for received in found:
        assert [table["n"].to_pylist() for table in received] == [list(range(number)) for number in (0, 1, 10, 25)]
        assert [table.schema.metadata[b"of"] for table in received] == [b"0", b"1", b"10", b"25"]


def test_who_shows_another_token_gets_nothing(tmp_path: Path) -> None:
    errors = run_pair(tmp_path, ("token", "another"))
    assert all(isinstance(error, RetryableError) for error in errors)
    assert any("another token" in str(error) for error in errors)  # who asks later may find that the other is gone


def test_a_peer_that_says_nothing_is_lost_in_bounded_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(exchange, "WAIT_SECONDS", 60.0)  # the peer answers later than that it is lost
    errors = run_pair(tmp_path, ("token", "token"), silent=1)
    assert PEER_IS_LOST in str(errors[0])


def run_pair(folder: Path, tokens: tuple[str, str], *, silent: int | None = None) -> list[BaseException | None]:
    """What two ends in threads of this process end with, one of which may offer nothing."""
    errors: list[BaseException | None] = [None, None]
    may_end = threading.Event()

    def work(rank: int) -> None:
        try:
            with Exchange(LocalGang(rank, 2, folder), tokens[rank]) as end:
                if rank == silent:
                    may_end.wait(60)
                    raise RetryableError("it ends")
                end.swap("first", [pa.table({"a": [1]})] * 2)
        except RetryableError as error:
            errors[rank] = error
        finally:
            may_end.set()

    in_threads(work)
    return errors


def in_threads(work: Callable[[int], None]) -> None:
    """Do the work of both ranks at once."""
    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def test_who_waits_for_one_that_has_failed_waits_no_longer(tmp_path: Path) -> None:
    gangs = [LocalGang(rank, 2, tmp_path) for rank in range(2)]
    gangs[1].fail()
    with pytest.raises(RetryableError, match=PEER_IS_LOST):
        gangs[0].gather("here")
    assert local_tasks.MEETING_SECONDS > 60
