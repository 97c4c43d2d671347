"""What tasks read of gold/decisions: all of a small log, and of a larger one whole users, no more of them than are asked for."""

from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lib.engines.arrow_tasks import TABLE_FILES
from lib.engines.local_tasks import LocalEngine
from lib.lake.lake import Lake
from rl.dataset.decisions import Decisions
from rl.dataset.sample import decisions_of_some, drawn
from tests.jobs.ray.test_train_policy import bandit, rows_of
from tests.lakes import put

SPLITS = ("train", "valid", "test")


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    found = LocalEngine(1)
    yield found
    found.close()


def read(engine: LocalEngine, lake: Lake, *, user_frac: float) -> pa.Table:
    def files(split: str) -> pa.Table:
        found = lake.data_files("gold/decisions", holding={"split": [split]})
        rows = [{"location": path, "num_bytes": size, "kind": split} for path, size in found]
        return pa.Table.from_pylist(rows, schema=TABLE_FILES)

    parts = reduce(lambda one, other: one.union(other), (engine.over(files(split), task_bytes=1) for split in SPLITS))
    return drawn(parts.then(decisions_of_some, user_frac=user_frac).collected())


def put_log(lake: Lake, num_rows: int) -> Decisions:
    log = bandit(num_rows, click_rate=0.5)
    put(lake, "gold/decisions", *rows_of(log, np.array(SPLITS)[np.arange(num_rows) % 3]))
    return log


def test_all_decisions_are_read_as_they_were_logged_with_their_splits(tmp_path: Path, engine: LocalEngine) -> None:
    lake = Lake(str(tmp_path))
    log, rows = put_log(lake, 30), read(engine, lake, user_frac=1.0)
    found = Decisions.from_arrow(rows)
    for column in ("episodes", "states", "candidates", "mask", "actions", "propensities", "rewards", "is_last"):
        np.testing.assert_array_equal(getattr(found, column), getattr(log, column))
    assert rows["split"].to_pylist() == [SPLITS[number % 3] for number in range(30)]


def test_a_draw_holds_as_many_decisions_whatever_the_log_and_is_the_same_again(
    tmp_path: Path, engine: LocalEngine
) -> None:
    lake, sizes = Lake(str(tmp_path)), []
    for num_rows in (600, 2400):
        put_log(lake, num_rows)
        rows = read(engine, lake, user_frac=300 / num_rows)
        assert rows.equals(read(engine, lake, user_frac=300 / num_rows))
        sizes.append(len(rows))
    assert sizes == pytest.approx([300, 300], abs=60)  # four standard deviations
