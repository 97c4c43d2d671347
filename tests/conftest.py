"""What tests share: one local Ray, the folder of real data, and which case of bad input a test shows."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
FAULTS = ROOT.parent / "shared" / "faults"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Write into the test report which case of bad input a test is of."""
    for item in items:
        item.user_properties += [("bad_input", mark.args[0]) for mark in item.iter_markers("bad_input")]


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray of two CPUs; a job that finds one running starts none of its own."""
    import ray  # seconds that a test without Ray need not wait for

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less to start
        sizes = {"num_cpus": 2, "object_store_memory": 200_000_000}
        ray.init(address="local", include_dashboard=False, log_to_driver=False, **sizes)
        yield
        ray.shutdown()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the checkout; a test that needs it is skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data (../shared/data) is absent")
    return SHARED_DATA


@pytest.fixture(scope="session")
def faults() -> Path:
    """The folder of small inputs that once failed, beside the checkout; a test that needs it is skipped without it."""
    if not FAULTS.is_dir():
        pytest.skip("the folder of small faulty inputs (../shared/faults) is absent")
    return FAULTS
