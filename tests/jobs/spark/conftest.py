"""A lake of tiny tables: a test puts rows in, runs a job by its `main`, and reads the whole output."""

from pathlib import Path

import pytest

from tests.lakes import SmallLake


@pytest.fixture
def small_lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path)
