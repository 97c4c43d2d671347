"""What a RayService gives Ray Serve to serve: Ray's own controller builds it by its import path, and it answers behind HAProxy."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from lib.kubernetes import pods, ray_service
from lib.kubernetes.submission import manifest_of, new_submission
from lib.lake.lake import Lake
from lib.live.kafka_broker import free_ports
from lib.pipeline import JOBS, ROOT
from lib.settings import KubernetesSettings, flags_of
from tests.lib.serving.served import AS_OF, MAPPING, publish, small_release
from tests.redis_servers import RedisServer

TOKEN, VARIABLE = "a-token-of-a-test-0002", "TOKENS_OF_A_TEST"
KEY_VARIABLE = "KEY_OF_A_TEST"
START_SECONDS = 120
# As the dashboard does with what KubeRay sends it.
DEPLOY = """
import sys, time
import ray, yaml
from ray import serve
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

config = ServeDeploySchema.model_validate(yaml.safe_load(sys.stdin.read()))
ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
serve.start(http_options=config.http_options.model_dump())
_get_global_client().deploy_apps(config)
while True:
    print({name: (app.status, app.message) for name, app in serve.status().applications.items()}, flush=True)
    time.sleep(1)
"""


@pytest.fixture
def short_folder() -> Iterator[str]:
    """A folder of a short path, since it holds sockets."""
    with tempfile.TemporaryDirectory(prefix="serve-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


@pytest.mark.slow
def test_what_the_manifest_serves_is_built_from_it_alone_and_answers(
    tmp_path: Path, short_folder: str, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake, port, kafka = Lake(str(tmp_path / "lake")), *free_ports(2)
    publish(lake, small_release())
    (tmp_path / "live.yaml").write_text(MAPPING)
    of_cluster = {"lake": {"path": lake.path}, "serve": {"look_seconds": 0.2, "num_replicas": 3}}  # its ConfigMap
    (tmp_path / pods.SETTINGS_FILE).write_text(yaml.safe_dump(of_cluster))
    monkeypatch.setattr(pods, "SETTINGS_FOLDER", str(tmp_path))
    monkeypatch.setattr(ray_service, "HAPROXY_FOLDER", short_folder)
    monkeypatch.setattr(ray_service, "PORT", port)
    flags = {
        "log.format": tmp_path / "live.yaml",
        "live.kafka": f"127.0.0.1:{kafka}",  # which is away: it answers all the same
        "live.state": redis_server.address,
        "privacy.key-variable": KEY_VARIABLE,
        "serve.token-variable": VARIABLE,
        "serve.starts-at": AS_OF.isoformat(),
        "serve.num-replicas": 1,  # before what the cluster says
    }
    given = flags_of("serve", [f"--{name}={value}" for name, value in flags.items()])
    manifest = manifest_of(new_submission(JOBS["serve"], given, KubernetesSettings()))
    (container,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]["containers"]
    of_pod = {each["name"]: each["value"] for each in container["env"]}
    secret = {VARIABLE: TOKEN, KEY_VARIABLE: "0123456789abcdef"}
    assert TOKEN not in json.dumps(manifest) and secret[KEY_VARIABLE] not in json.dumps(manifest)
    environment = {**os.environ, **of_pod, **secret, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled"}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "HOME": os.environ["HOME"]}
    environment.pop("RAY_ADDRESS", None)
    log = tmp_path / "told"
    with (
        log.open("w") as told,
        subprocess.Popen(
            [sys.executable, "-c", DEPLOY],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=told,
            stderr=told,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdin is not None
            process.stdin.write(manifest["spec"]["serveConfigV2"])
            process.stdin.close()
            url = f"http://127.0.0.1:{port}"
            healthy = wait_for_answer(f"{url}{container['readinessProbe']['httpGet']['path']}", log)
            assert healthy["release"] == "first"
            asked = {"user_id": "somebody", "k": 3}
            assert requests.post(f"{url}/recommendations", json=asked, timeout=20).status_code == 401
            bearer = {"Authorization": f"Bearer {TOKEN}"}
            answer = requests.post(f"{url}/recommendations", json=asked, headers=bearer, timeout=20)
            assert answer.status_code == 200, answer.text
            assert (answer.json()["release"], len(answer.json()["items"])) == ("first", 3)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                process.kill()


def wait_for_answer(url: str, log: Path) -> dict[str, Any]:
    """What is answered, as soon as it is good."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            answer = requests.get(url, timeout=5)
            if answer.status_code == 200:
                return dict(answer.json())
        except requests.RequestException:
            pass
        assert time.monotonic() < end, log.read_text()[-3000:]
        time.sleep(0.2)
