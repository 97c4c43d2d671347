"""The stream and the server before the real API server: each is one object that is changed where it is, by a role of few rights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.runs.errors import ExitCode
from tests.on_kubernetes.conftest import Command, Shop
from tests.on_kubernetes.test_bad_input import assert_refused, identity_of

LIVE = ("--live.kafka=kafka.elsewhere:9092", "--live.state=redis://redis.elsewhere:6379/0")
KINDS = {"stream": "sparkapplication", "serve": "rayservice"}


@pytest.fixture(params=sorted(KINDS))
def live_part(shop: Shop, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a part, of which nothing is left afterwards."""
    yield request.param
    shop.kubectl("delete", KINDS[request.param], request.param, "--ignore-not-found", "--wait=false")


def submitted(shop: Shop, name: str, identity: Path, *flags: str) -> Command:
    """A submission that has been taken; it still waits for what never comes here."""
    command = shop.submit(name, *LIVE, *flags, identity=identity)
    assert command.name == name
    return command


def object_of(shop: Shop, name: str) -> dict[str, Any]:
    """The one object of a part."""
    (only,) = json.loads(shop.kubectl("get", KINDS[name], "-o", "json"))["items"]
    return dict(only)


def test_a_part_is_one_object_that_the_role_of_submitters_may_change_and_end(
    shop: Shop, live_part: str, tmp_path: Path
) -> None:
    identity = identity_of(shop, "submitter", tmp_path)
    first = submitted(shop, live_part, identity)
    before = object_of(shop, live_part)
    same = submitted(shop, live_part, identity)
    assert object_of(shop, live_part)["metadata"]["generation"] == before["metadata"]["generation"], "nothing is new"
    images = (f"--kubernetes.{kind}-image=registry.example.com/of-another-day:1" for kind in ("spark", "ray"))
    other = submitted(shop, live_part, identity, *images)
    after = object_of(shop, live_part)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["metadata"]["generation"] > before["metadata"]["generation"]
    assert "of-another-day" in json.dumps(after["spec"])
    cancelled = shop.start("cancel", live_part, identity=identity)
    assert cancelled.end() == 0, cancelled.output
    for command in (first, same, other):
        command.process.kill()
        command.end()


def test_the_server_holds_no_secret_and_a_change_of_its_flags_is_one_of_its_pods(shop: Shop, tmp_path: Path) -> None:
    identity = identity_of(shop, "submitter", tmp_path)
    pods: list[Any] = []
    try:
        for replicas in (1, 2):
            submitted(shop, "serve", identity, f"--serve.num-replicas={replicas}").process.kill()
            spec = object_of(shop, "serve")["spec"]
            (app,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
            assert f"--serve.num-replicas={replicas}" in app["args"]["arguments"]
            pods.append(spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"])
        assert pods[0] != pods[1]
        assert pods[0]["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "cartwheel"}}]
    finally:
        shop.kubectl("delete", "rayservice", "serve", "--wait=false")


def test_a_stream_whose_driver_is_lost_gets_another(shop: Shop, tmp_path: Path) -> None:
    def driver() -> str | None:
        found = shop.pods("stream", **{"spark-role": "driver"})
        return str(found[0]["metadata"]["uid"]) if found else None

    command = submitted(shop, "stream", identity_of(shop, "submitter", tmp_path))
    command.process.kill()
    try:
        lost = shop.wait_for(driver, "a driver")
        shop.kubectl("delete", "pod", "stream-driver", "--grace-period=0", "--force", "--wait=false")
        shop.wait_for(lambda: driver() not in (None, lost), "another driver")
    finally:
        shop.kubectl("delete", "sparkapplication", "stream", "--wait=false")


def test_kuberay_makes_the_servers_pods_as_its_service_and_policies_look_for_them(shop: Shop, tmp_path: Path) -> None:
    submitted(shop, "serve", identity_of(shop, "submitter", tmp_path)).process.kill()
    try:
        (worker,) = shop.wait_for(lambda: shop.pods("serve", **{"ray.io/node-type": "worker"}), "a worker")
        labels = worker["metadata"]["labels"]
        assert (labels["ray.io/serve"], labels["app.kubernetes.io/name"]) == ("true", "serve")
        (container,) = worker["spec"]["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/healthz", (
            "not one of its own, by a program that is not in the image"
        )
        assert {"serve"} <= {port["name"] for port in container["ports"]}
    finally:
        shop.kubectl("delete", "rayservice", "serve", "--wait=false")


@pytest.mark.parametrize(
    ("name", "flags", "told"),
    [
        ("serve", (*LIVE, "--serve.token-variable=NO_SUCH_KEY"), "no Secret of cartwheel has the key NO_SUCH_KEY"),
        ("serve", LIVE[1:], "serve on Kubernetes needs the live log: set live.kafka"),
        ("serve", LIVE[:1], "set live.state to redis://host:6379/0"),
        ("stream", LIVE[:1], "set live.state to redis://host:6379/0"),
        ("stream", (*LIVE, "--schedule=0 3 * * *"), "stream goes on until it is cancelled"),
    ],
)
def test_what_a_part_lacks_is_one_line_and_nothing_is_left(
    shop: Shop, name: str, flags: tuple[str, ...], told: str
) -> None:
    assert_refused(shop, name, *flags, code=ExitCode.WRONG_SETTING, told=[told])
