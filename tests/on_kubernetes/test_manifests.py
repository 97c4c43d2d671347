"""The manifests before the real API server, with the operators' own kinds of objects: taken whole, restricted, least rights."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
import yaml

from lib.kubernetes.submission import manifest_of, new_submission
from lib.pipeline import JOBS, ROOT, Job
from lib.settings import kubernetes_settings
from tests.on_kubernetes.conftest import NAMESPACE, SETTINGS, Shop
from tests.one_node.control_plane import kubectl

OVERLAYS = ROOT / "conf" / "kubernetes" / "overlays"
TRY = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
SPARK, RAY, KUEUE, BATCH, RBAC = (
    *("sparkoperator.k8s.io", "ray.io", "kueue.x-k8s.io", "batch"),
    "rbac.authorization.k8s.io",
)
# What each account needs and what it must not be able to do: verb, kind of object, which one, and its group.
NEEDED = {
    "spark-driver": ("create pods", "delete pods", "watch pods", "create services", "create configmaps"),
    "ray-head": ("list pods", f"patch rayclusters {RAY}"),
    "submitter": (
        *(f"create sparkapplications {SPARK}", f"create scheduledsparkapplications {SPARK}"),
        *(f"create rayservices {RAY}", f"patch rayservices=serve {RAY}", f"patch sparkapplications=stream {SPARK}"),
        *(f"create rayjobs {RAY}", f"delete rayjobs {RAY}", f"create jobs {BATCH}", "create pods", "get pods/log"),
        *("get secrets=cartwheel", "list events", f"get localqueues {KUEUE}"),
    ),
}
REFUSED_TO_ALL = ("get secrets", "list secrets", "create secrets", "create pods/exec", f"create rolebindings {RBAC}")
REFUSED = {
    "spark-driver": ("get pods/log", f"create jobs {BATCH}", f"create rayjobs {RAY}", "update serviceaccounts"),
    "spark-executor": ("get pods", "list pods", "create pods", "get configmaps"),
    "ray-head": ("create pods", "delete pods", f"create rayclusters {RAY}", "get configmaps"),
    "ray-worker": ("get pods", "list pods", "create pods", "get configmaps"),
    "metrics": ("get pods", "list pods", "create pods", "get configmaps"),
    "submitter": (
        *("get secrets=other", "update secrets=cartwheel", f"patch sparkapplications {SPARK}"),
        *(f"patch sparkapplications=als {SPARK}", f"patch rayservices {RAY}", f"patch rayclusters {RAY}"),
    ),
    "default": ("get pods", "list pods", "create pods", "get configmaps"),
}
ELSEWHERE = ("list pods", "create pods", "get secrets", f"create sparkapplications {SPARK}")


def allowed(shop: Shop, asked: Iterable[tuple[str, str]], namespace: str = NAMESPACE) -> list[tuple[str, str]]:
    """Which of these deeds, each of an account, the API server would allow."""
    asked = [*asked]
    reviews = [review(account, what, namespace) for account, what in asked]
    told = shop.kubectl("create", "-o", "jsonpath={.status.allowed} ", "-f", "-", given=yaml.safe_dump_all(reviews))
    return [each for each, answer in zip(asked, told.split(), strict=True) if answer == "true"]


def review(account: str, what: str, namespace: str) -> dict[str, Any]:
    """The question whether an account may do something."""
    verb, kind, *group = what.split()
    kind, _, name = kind.partition("=")
    resource, _, part = kind.partition("/")
    deed = {"namespace": namespace, "verb": verb, "group": "".join(group), "resource": resource, "subresource": part}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {
            "user": f"system:serviceaccount:{NAMESPACE}:{account}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}", "system:authenticated"],
            "resourceAttributes": {**deed, "name": name},
        },
    }


def manifest(job: Job, schedule: str | None = None) -> dict[str, Any]:
    """A job's object, as the local overlay's settings make it."""
    settings = kubernetes_settings(["--config", str(SETTINGS)])
    return manifest_of(new_submission(job, (), settings), schedule)


@pytest.mark.parametrize("overlay", ["local", "production"])
def test_an_overlay_is_taken_whole_and_no_field_is_unknown(shop: Shop, overlay: str) -> None:
    said = kubectl("apply", "--dry-run=server", "--validate=strict", "-k", str(OVERLAYS / overlay))
    rendered = list(yaml.safe_load_all(kubectl("kustomize", str(OVERLAYS / overlay))))
    assert len(said.splitlines()) == len(rendered)


@pytest.mark.parametrize("job", sorted(JOBS))
def test_the_object_of_every_job_is_taken_and_no_field_is_unknown(shop: Shop, job: str) -> None:
    assert "created" in shop.kubectl(*TRY, given=json.dumps(manifest(JOBS[job])))


def test_a_schedule_is_taken_and_no_field_is_unknown(shop: Shop) -> None:
    assert "created" in shop.kubectl(*TRY, given=json.dumps(manifest(JOBS["clean"], "0 3 * * *")))


def test_an_unknown_field_would_be_refused(shop: Shop) -> None:
    misspelt = manifest(JOBS["als"])
    misspelt["spec"]["excutor"] = misspelt["spec"].pop("executor")
    with pytest.raises(RuntimeError, match="excutor"):
        shop.kubectl(*TRY, given=json.dumps(misspelt))


def test_the_namespace_takes_no_pod_that_is_not_restricted(shop: Shop) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "root"}}
    pod["spec"] = {"containers": [{"name": "root", "image": "docker.io/local/pause:1"}]}
    with pytest.raises(RuntimeError, match='violates PodSecurity "restricted'):
        shop.kubectl(*TRY, given=json.dumps(pod))


def test_each_account_may_do_what_it_needs(shop: Shop) -> None:
    asked = [(account, what) for account, needed in NEEDED.items() for what in needed]
    assert allowed(shop, asked) == asked


def test_no_account_may_do_more(shop: Shop) -> None:
    asked = [(account, what) for account, refused in REFUSED.items() for what in (*REFUSED_TO_ALL, *refused)]
    assert allowed(shop, asked) == []


def test_no_account_has_rights_elsewhere(shop: Shop) -> None:
    asked = [(account, what) for account in REFUSED for what in ELSEWHERE]
    assert allowed(shop, asked, namespace="default") == []
