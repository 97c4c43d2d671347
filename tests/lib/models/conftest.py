from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.engines.local_tasks import LocalEngine
from tests.lakes import SmallLake


@pytest.fixture
def lake(tmp_path: Path) -> SmallLake:
    return SmallLake(tmp_path)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    found = LocalEngine(1)
    yield found
    found.close()
