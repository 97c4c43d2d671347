from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture
def on_workers(job: ModuleType, ray_cluster: None) -> Iterator[None]:
    """Ray's workers get the job's functions by value, for they cannot import its file."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(job)
    yield
    cloudpickle.unregister_pickle_by_value(job)
