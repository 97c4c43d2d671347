"""What a user is told, in one line and by the exit code, of a submission that cannot be; nothing is left of it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from lib.runs.errors import ExitCode
from tests.on_kubernetes.conftest import Shop
from tests.one_node import operators
from tests.one_node.control_plane import kubeconfig, kubectl
from tests.one_node.programs import SPARK_OPERATOR, sources

KINDS = "sparkapplications,scheduledsparkapplications,rayjobs,rayservices,jobs,pods"


def assert_refused(
    shop: Shop,
    job: str,
    *flags: str,
    code: ExitCode,
    told: Sequence[str],
    identity: Path | None = None,
    kinds: str = KINDS,
) -> None:
    """A submission ends with the exit code and one line with these words, and leaves nothing in the namespace."""
    before = shop.kubectl("get", kinds, "-o", "name")
    command = shop.submit(job, *flags, identity=identity)
    assert command.end() == code, command.output
    errors = [line for line in command.said if line.startswith("error")]
    assert len(errors) == 1, command.output
    assert all(words in errors[0] for words in told), errors[0]
    shop.wait_for(lambda: shop.kubectl("get", kinds, "-o", "name") == before, "nothing to be left")


def identity_of(shop: Shop, account: str, folder: Path) -> Path:
    """A file by which one asks as a service account."""
    token = shop.kubectl("create", "token", account).strip()
    config = json.loads(kubeconfig("admin").read_text())
    config["users"][0]["user"] = {"token": token}
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    return file


def test_no_kubeconfig(shop: Shop, tmp_path: Path) -> None:
    assert_refused(shop, "clean", identity=tmp_path / "missing", code=ExitCode.WRONG_SETTING, told=["KUBECONFIG"])


def test_a_server_that_does_not_answer(shop: Shop, tmp_path: Path) -> None:
    config = json.loads(kubeconfig("admin").read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://{operators.NODE_IP}:6444"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    assert_refused(
        shop, "clean", identity=tmp_path / "kubeconfig", code=ExitCode.FAILED, told=["no API server answers", "6444"]
    )


def test_no_permission(shop: Shop, tmp_path: Path) -> None:
    assert_refused(
        shop,
        "clean",
        identity=identity_of(shop, "default", tmp_path),
        code=ExitCode.WRONG_SETTING,
        told=["not allowed to create", "submitter"],
    )


def test_one_who_submits_needs_no_more_than_the_role(shop: Shop, tmp_path: Path) -> None:
    command = shop.submit("maintain", "--wait", identity=identity_of(shop, "submitter", tmp_path))
    assert command.end() == 0, command.output


def test_a_missing_operator(shop: Shop) -> None:
    kind = sources(SPARK_OPERATOR) / operators.DEFINITIONS / "sparkoperator.k8s.io_scheduledsparkapplications.yaml"
    kubectl("delete", "-f", str(kind))
    try:
        known = KINDS.replace("scheduledsparkapplications,", "")
        assert_refused(
            shop, "clean", "--schedule", "0 3 * * *", kinds=known, code=ExitCode.WRONG_SETTING, told=["spark-operator"]
        )
    finally:
        operators.define(SPARK_OPERATOR)


@pytest.mark.parametrize("job", ["ingest", "maintain", "train_gan"])
def test_an_image_that_does_not_exist(shop: Shop, job: str) -> None:
    image = "registry.example.com/none:1"
    flags = (f"--kubernetes.spark-image={image}", f"--kubernetes.ray-image={image}")
    assert_refused(shop, job, *flags, code=ExitCode.WRONG_SETTING, told=["image cannot be fetched", image])


def test_a_quota_of_the_namespace_that_is_too_small_for_one_pod(shop: Shop) -> None:
    shop.kubectl("create", "quota", "small", "--hard=requests.cpu=1m")
    try:
        assert_refused(shop, "clean", code=ExitCode.FAILED, told=["quota", "small"])
    finally:
        shop.kubectl("delete", "quota", "small")


def test_no_node_has_room(shop: Shop) -> None:
    command = shop.submit("maintain", "--wait", '--kubernetes.node-selector={"pool": "of-nobody"}')
    told = command.line_of(f"pod {command.name}")
    assert "no node has room for it" in told
    assert "add nodes" in told
    cancelled = shop.start("cancel", command.name)
    assert cancelled.end() == 0, cancelled.output
    assert command.end() == ExitCode.FAILED, command.output
    shop.wait_for(lambda: not shop.pods(command.name), "nothing to be left")


def test_a_missing_secret(shop: Shop) -> None:
    assert_refused(
        shop,
        "clean",
        '--kubernetes.secrets=["none-of-that-name"]',
        code=ExitCode.WRONG_SETTING,
        told=["no Secret none-of-that-name"],
    )


def test_a_namespace_that_does_not_exist(shop: Shop) -> None:
    assert_refused(shop, "clean", "--kubernetes.namespace=nowhere", code=ExitCode.WRONG_SETTING, told=["nowhere"])


@pytest.mark.parametrize("job", ["ingest", "maintain"])
def test_a_bucket_that_does_not_exist(shop: Shop, job: str) -> None:
    command = shop.submit(job, "--wait", "--lake.path=s3://no-such-bucket/lake")
    code = command.end()
    errors = [line for line in command.said if line.startswith("error")]
    assert code == ExitCode.WRONG_SETTING, command.output
    assert len(errors) == 1, command.output
    assert "no-such-bucket" in errors[0]
