"""What the tests of the Ray jobs share: one local Ray for all of them."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package")
def ray_cluster() -> Iterator[None]:
    """A local Ray of two CPUs; a job that finds one running starts none of its own."""
    import ray

    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("RAY_AUTH_MODE", "disabled")
        patched.setenv("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # one process less to start
        sizes = {"num_cpus": 2, "object_store_memory": 200_000_000}
        ray.init(address="local", include_dashboard=False, log_to_driver=False, **sizes)
        yield
        ray.shutdown()
