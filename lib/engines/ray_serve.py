"""Ray Serve for a job: an application in replicas, to which HAProxy passes requests straight (docs/decisions/0037).

Imports ray only inside the function that needs it.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lib.engines.ports import free_ports
from lib.engines.ray_train import ray_session
from lib.settings import ClusterSettings

NO_ACCESS_LOG = {"enable_access_log": False, "log_level": "WARNING"}  # a path or a line of it may be of a person
DRAIN_SECONDS, END_SECONDS = 10, 5


@contextmanager
def served(
    build: Callable[[], Any],
    cluster: ClusterSettings,
    *,
    name: str,
    host: str,
    port: int,
    num_replicas: int,
    cpus_per_replica: float,
    max_ongoing: int,
    before: Callable[[], None] = lambda: None,
) -> Iterator[None]:
    """Serve an ASGI application, which each replica builds for itself, until the block ends.

    `before` is called when Ray has begun, and has set its own handlers of signals, and nothing answers yet.
    """
    with (
        tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp", ignore_cleanup_errors=True) as folder,  # a short path
        ray_session(cluster, variables=variables(folder)),
    ):
        from ray import serve  # noqa: PLC0415 - it reads the variables when it is imported

        serve.start(http_options={"host": host, "port": port}, logging_config=NO_ACCESS_LOG)
        app = application(
            build, name=name, num_replicas=num_replicas, cpus_per_replica=cpus_per_replica, max_ongoing=max_ongoing
        )
        before()
        try:
            serve.run(app, name=name)
            yield
        finally:
            _shut_down()


def _shut_down() -> None:
    """End Ray Serve: replicas have DRAIN_SECONDS to answer what they were asked. Not waited for longer than that and END_SECONDS.

    Ray's own `shutdown` waits half a minute where the controller does not tell its end, although nothing is answered any more; what
    is left then ends with this process's Ray, or on a cluster by its controller.
    """
    from ray import serve  # noqa: PLC0415

    with suppress(TimeoutError):
        asyncio.run(asyncio.wait_for(serve.shutdown_async(), DRAIN_SECONDS + END_SECONDS))  # type: ignore[no-untyped-call]


def application(
    build: Callable[[], Any], *, name: str, num_replicas: int, cpus_per_replica: float, max_ongoing: int
) -> Any:
    """An application of Ray Serve whose replicas each build an ASGI application for themselves."""
    from ray import serve  # noqa: PLC0415

    deployment: Any = serve.deployment(
        serve.ingress(build)(),
        name=name,
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": cpus_per_replica},
        max_ongoing_requests=max_ongoing,
        graceful_shutdown_timeout_s=DRAIN_SECONDS,
        logging_config=NO_ACCESS_LOG,
    )
    return deployment.bind()


def variables(folder: str) -> dict[str, str]:
    """How Ray Serve is to carry requests: by HAProxy, whose files are in `folder`, to handlers in the replicas' own loop."""
    stats_port, metrics_port = free_ports(2)
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{folder}/haproxy.cfg",
        "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{folder}/admin.sock",
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": folder,
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{folder}/server-state",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAIN_SECONDS / 2),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "OMP_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": "1",
    }
