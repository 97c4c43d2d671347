"""What tests share: a small lake, one local Ray, the folder of real data, and which case of bad input a test shows."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lib.live.kafka_broker import KafkaBroker, NoKafkaError, kafka_broker
from tests import object_store as stores
from tests.lakes import SmallLake
from tests.redis_servers import NoRedisError, RedisServer
from tests.redis_servers import redis_server as started_redis

ROOT = Path(__file__).parent.parent
SHARED_DATA = ROOT.parent / "shared" / "data"
FAULTS = ROOT.parent / "shared" / "faults"


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Write into the test report which case of bad input a test is of."""
    for item in items:
        item.user_properties += [("bad_input", mark.args[0]) for mark in item.iter_markers("bad_input")]


@pytest.fixture
def small_lake(tmp_path: Path) -> SmallLake:
    """A lake of tiny tables: a test puts rows in, runs a job by its `main`, and reads the whole output."""
    return SmallLake(tmp_path)


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
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stores.ObjectStore]:
    """A real object store; its tests are skipped where its server cannot be had."""
    try:
        with stores.object_store(tmp_path_factory.mktemp("store")) as store:
            yield store
    except stores.NoObjectStoreError as reason:
        warnings.warn(f"NO TEST OF OBJECT STORES RUNS: {reason}", stacklevel=1)
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaBroker]:
    """A real Kafka, which a test that stops it starts again; tests with it are skipped where its jars cannot be had."""
    try:
        with kafka_broker(tmp_path_factory.mktemp("kafka")) as broker:
            yield broker
    except NoKafkaError as reason:
        warnings.warn(f"NO TEST OF KAFKA RUNS: {reason}", stacklevel=1)
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A real Redis, which a test that stops it starts again; tests with it are skipped where it is not installed."""
    try:
        with started_redis(tmp_path_factory.mktemp("redis")) as server:
            yield server
    except NoRedisError as reason:
        warnings.warn(f"NO TEST OF REDIS RUNS: {reason}", stacklevel=1)
        pytest.skip(str(reason))


@pytest.fixture
def bucket(object_store: stores.ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> stores.ObjectStore:
    """The store, reachable from this process and those that it starts; local copies of files lie in the test's folder."""
    for name, value in {**object_store.environment(), "XDG_CACHE_HOME": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return object_store


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
