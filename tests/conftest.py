"""What tests share: jobs loaded by path, as spark-submit and the job API run them, one local Ray, and the folder of real data."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def load_job() -> Callable[[str], ModuleType]:
    """`load_job("spark/clean")` is the module of jobs/spark/clean.py; `jobs/` itself never stands on sys.path."""

    def load(name: str) -> ModuleType:
        module_name = "job_" + name.replace("/", "_")
        if module_name not in sys.modules:
            spec = importlib.util.spec_from_file_location(module_name, ROOT / "jobs" / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        return sys.modules[module_name]

    return load


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
