"""Two teams' jobs share one quota, Ray's and Spark's alike: what does not fit waits, and the urgent goes first."""

import json
import shutil
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import yaml

from lib.engines.ray_train import STATE_FILE
from lib.pipeline import ROOT
from lib.runs.errors import ExitCode
from tests.object_store import BUCKET
from tests.on_kubernetes.conftest import Command, Shop
from tests.on_kubernetes.test_bad_input import assert_refused
from tests.on_kubernetes.test_metrics import scraped
from tests.on_kubernetes.times import Run
from tests.one_node.control_plane import kubectl
from tests.same import differences

QUEUES = ROOT / "conf" / "kubernetes" / "queues"
QUOTA = "1200m"  # cores: one of the three jobs below, or the smaller Spark job with nothing else
TEAMS = ("team-a", "team-b")


@pytest.fixture(scope="module")
def queues(shop: Shop) -> None:
    """The shipped queues with a small quota, and a queue for each of two teams."""
    objects = list(yaml.safe_load_all(kubectl("kustomize", str(QUEUES))))
    (shared,) = (each for each in objects if each["kind"] == "ClusterQueue")
    (cpu,) = (
        resource
        for group in shared["spec"]["resourceGroups"]
        for flavor in group["flavors"]
        for resource in flavor["resources"]
        if resource["name"] == "cpu"
    )
    cpu["nominalQuota"] = QUOTA
    (own,) = (each for each in objects if each["kind"] == "LocalQueue")
    objects += [{**own, "metadata": {**own["metadata"], "name": team}} for team in TEAMS]
    kubectl("apply", "-f", "-", given=yaml.safe_dump_all(objects))


def queued(shop: Shop, job: str, team: str, priority: str, lake: str) -> Command:
    """A submission to a team's queue; returns when it has its name."""
    queue = (f"--kubernetes.queue={team}", f"--kubernetes.priority=cartwheel-{priority}")
    command = shop.submit(job, "--wait", *queue, lake=lake)
    assert command.name
    return command


def state_of(shop: Shop, name: str) -> str:
    """What `cartwheel status` says of a submission."""
    shown = shop.start("status")
    assert shown.end() == 0, shown.output
    (line,) = (line for line in shown.said if name in line)
    return line.split()[2]


def admitted_at(shop: Shop, name: str) -> str | None:
    """When a submission's quota was given to it."""
    workloads = json.loads(shop.kubectl("get", "workloads", "-o", "json"))["items"]
    for workload in workloads:
        owner = workload["metadata"]["ownerReferences"][0]["name"]
        for condition in workload.get("status", {}).get("conditions", ()):
            if owner == name and condition["type"] == "Admitted" and condition["status"] == "True":
                return str(condition["lastTransitionTime"])
    return None


@pytest.mark.timeout(900)
def test_what_does_not_fit_waits_the_urgent_goes_first_and_a_lost_ray_worker_is_replaced(
    shop: Shop, local: Path, queues: None
) -> None:
    pafs.copy_files(str(local), f"{BUCKET}/by-queue", destination_filesystem=shop.store.filesystem())
    training = queued(shop, "train_encoder", "team-a", "urgent", "by-queue")
    daily = queued(shop, "ingest", "team-b", "daily", "of-team-b")
    urgent = queued(shop, "als", "team-b", "urgent", "of-team-b")  # which finds nothing to do yet
    assert state_of(shop, daily.name) == "queued"
    assert state_of(shop, urgent.name) == "queued"
    lose_worker(shop, training)
    assert training.end() == 0, training.output
    shop.times.runs.append(Run("train_encoder", "KubeRay", training.begun, time.time(), what="a worker deleted"))
    assert urgent.end() == 0, urgent.output
    assert daily.end() == 0, daily.output
    moments = [admitted_at(shop, each.name) for each in (training, urgent, daily)]
    assert None not in moments
    assert moments == sorted(moments), "the urgent one went first, though it came last"
    assert differences(trained_here(shop, local), shop.lake("by-queue")) == []


def lose_worker(shop: Shop, training: Command) -> None:
    """Delete one of the two workers of a training job once it has kept a checkpoint."""
    assert training.line_of("train_encoder")
    store = shop.store.filesystem()
    everything = pafs.FileSelector(f"{BUCKET}/by-queue/files", recursive=True)
    shop.wait_for(lambda: any(each.base_name == STATE_FILE for each in store.get_file_info(everything)), "a checkpoint")
    assert "ray_node_mem_total" in scraped(shop, f"app.kubernetes.io/instance={training.name},ray.io/node-type=head")
    assert_no_answer_without_the_token(shop, training.name)
    first, _ = shop.pods(training.name, **{"ray.io/node-type": "worker"})
    shop.kubectl("delete", "pod", first["metadata"]["name"], "--grace-period=0", "--force", "--wait=false")


def assert_no_answer_without_the_token(shop: Shop, name: str) -> None:
    """A job's cluster takes no jobs from anybody else."""
    (head,) = shop.pods(name, **{"ray.io/node-type": "head"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"http://{head['status']['podIP']}:8265/api/jobs/", timeout=30)
    assert refused.value.code == 401


def test_what_no_quota_of_its_queue_could_ever_hold_is_refused(shop: Shop, queues: None) -> None:
    flags = ("--kubernetes.queue=team-a", "--kubernetes.num-workers=20")
    assert_refused(shop, "als", *flags, code=ExitCode.WRONG_SETTING, told=["als asks for", "the queue team-a has 1.2"])


@pytest.mark.timeout(900)
def test_without_a_queue_workers_come_when_the_job_asks_for_them(shop: Shop, local: Path) -> None:
    pafs.copy_files(str(local), f"{BUCKET}/by-autoscaler", destination_filesystem=shop.store.filesystem())
    training = shop.submit("train_gan", "--wait", lake="by-autoscaler")
    (group,) = shop.wait_for(lambda: worker_groups(shop, training.name), "the cluster")
    assert (group["minReplicas"], group["maxReplicas"]) == (0, 2)
    shop.wait_for(lambda: len(shop.pods(training.name, **{"ray.io/node-type": "worker"})) == 2, "two workers")
    assert training.end() == 0, training.output
    shop.times.runs.append(Run("train_gan", "KubeRay", training.begun, time.time(), what="workers by the autoscaler"))


def worker_groups(shop: Shop, name: str) -> list[dict[str, Any]]:
    """The groups of workers of a training job's cluster, as soon as there is one."""
    clusters = json.loads(shop.kubectl("get", "rayclusters", "-o", "json"))["items"]
    of_job = [each for each in clusters if each["metadata"]["ownerReferences"][0]["name"] == name]
    return [group for each in of_job for group in each["spec"]["workerGroupSpecs"]]


def trained_here(shop: Shop, local: Path) -> Path:
    """The lake of the local pipeline, after its own training."""
    lake = shop.folder / "trained"
    shutil.copytree(local, lake)
    shop.run_here(lake, "--from", "train_encoder", "--to", "train_encoder")
    return lake
