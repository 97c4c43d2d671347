import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lib.engines.spark_properties import PACKAGES
from lib.kubernetes.plain_job import plain_job
from lib.kubernetes.pods import CONTAINER_SECURITY, POD_SECURITY, Submission
from lib.kubernetes.ray_job import ray_job
from lib.kubernetes.ray_service import ray_service
from lib.kubernetes.spark_application import scheduled_spark_application, spark_application, spark_submit
from lib.kubernetes.submission import asked_of_queue, manifest_of, new_submission, quotas_of
from lib.pipeline import JOBS, ROOT
from lib.runs.errors import SettingError
from lib.settings import KubernetesSettings, flags_of


def submission(job: str, *flags: str, **settings: Any) -> Submission:
    return Submission(JOBS[job], f"{job.replace('_', '-')}-1", flags, KubernetesSettings(**settings))


def pods_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod's spec in a manifest, wherever it stands."""
    if isinstance(manifest, dict):
        own = [manifest] if "containers" in manifest else []
        return own + [pod for part in manifest.values() for pod in pods_of(part)]
    return [pod for part in manifest for pod in pods_of(part)] if isinstance(manifest, list) else []


@pytest.mark.parametrize("job", JOBS)
def test_every_pod_keeps_to_the_restricted_standard_and_holds_secrets_by_reference_only(job: str) -> None:
    manifest = manifest_of(submission(job, secrets=("keys", "store")))
    pods = pods_of(manifest)
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            referred = [each["secretRef"]["name"] for each in container.get("envFrom", ())]
            assert referred in ([], ["keys", "store"])
        assert all("secret" not in volume for volume in pod["volumes"])


def of_metrics() -> dict[str, dict[str, Any]]:
    """The objects of conf/kubernetes/metrics by kind."""
    text = (ROOT / "conf" / "kubernetes" / "metrics" / "exporter.yaml").read_text()
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


def test_the_pod_of_metrics_is_as_restricted_as_the_others_and_may_ask_nothing_of_the_api_server() -> None:
    objects = of_metrics()
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (pod["securityContext"], container["securityContext"]) == (POD_SECURITY, CONTAINER_SECURITY)
    assert container["resources"]["limits"].keys() == {"memory"}
    assert pod["automountServiceAccountToken"] is objects["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
    assert not {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"} & objects.keys()
    keys = {each["valueFrom"]["secretKeyRef"]["key"] for each in container["env"] if "valueFrom" in each}
    assert all(key.startswith("AWS_") for key in keys), "the pseudonym key is not its business"


def test_prometheus_finds_the_metrics_of_spark_ray_and_the_lake_and_is_let_in() -> None:
    def scraped(pod: dict[str, Any]) -> tuple[str, str]:
        found = pod["metadata"]["annotations"]
        assert found["prometheus.io/scrape"] == "true"
        return found["prometheus.io/port"], found["prometheus.io/path"]

    spark = spark_application(submission("als"))["spec"]
    assert scraped(spark["driver"]["template"]) == ("4040", "/metrics/executors/prometheus")
    assert spark["sparkConf"]["spark.ui.port"] == "4040"
    assert spark["sparkConf"]["spark.ui.prometheus.enabled"] == "true"
    cluster = ray_job(submission("train_gan"))["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert scraped(group["template"]) == (group["rayStartParams"]["metrics-export-port"], "/metrics")
    objects = of_metrics()
    port, path = scraped(objects["Deployment"]["spec"]["template"])
    (container,) = objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert (port, path) == (container["args"][-1], "/metrics")

    network = (ROOT / "conf" / "kubernetes" / "base" / "network.yaml").read_text()
    policies = [*yaml.safe_load_all(network), objects["NetworkPolicy"]]
    let_in = {
        str(opened["port"])
        for policy in policies
        for rule in policy["spec"].get("ingress", ())
        if "monitoring" in str(rule["from"])
        for opened in rule["ports"]
    }
    assert let_in == {"4040", "8080", port}


@pytest.mark.parametrize("job", JOBS)
def test_what_a_job_asks_for_is_what_the_pipeline_declares(job: str) -> None:
    declared = JOBS[job]
    manifest = manifest_of(submission(job))
    if declared.engine == "spark":
        for role, size in (("driver", declared.driver), ("executor", declared.workers.size)):  # type: ignore[union-attr]
            asked = manifest["spec"][role]
            assert asked["coreRequest"] == f"{size.cores * 1000:g}m"
            assert int(asked["memory"][:-1]) + int(asked["memoryOverhead"][:-1]) == size.memory * 1024
            assert int(asked["memory"][:-1]) == size.heap * 1024
    elif declared.engine == "ray":
        cluster = manifest["spec"]["rayClusterConfig" if manifest["kind"] == "RayService" else "rayClusterSpec"]
        head = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["resources"]
        assert head["limits"]["memory"] == f"{declared.driver.memory * 1024}Mi"
        assert [group["maxReplicas"] for group in cluster["workerGroupSpecs"]] == (
            [declared.workers.at_most] if declared.workers else []
        )
    else:
        container = manifest["spec"]["template"]["spec"]["containers"][0]
        assert container["resources"]["requests"]["memory"] == f"{declared.driver.memory * 1024}Mi"


def test_a_small_cluster_gives_a_part_of_every_size() -> None:
    spec = spark_application(submission("clean", cpu_frac=0.1, memory_frac=0.5, num_workers=2))["spec"]
    assert (spec["driver"]["coreRequest"], spec["driver"]["cores"]) == ("100m", 1)
    assert (spec["executor"]["memory"], spec["executor"]["memoryOverhead"]) == ("512m", "2560m")
    assert spec["sparkConf"]["spark.dynamicAllocation.maxExecutors"] == "2"


def test_a_gpu_worker_asks_for_its_gpu_and_bears_the_taint_of_its_nodes() -> None:
    manifest = ray_job(submission("train_gan", gpu_node_selector={"pool": "gpu"}))
    (group,) = manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert pod["nodeSelector"] == {"pool": "gpu"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "--cluster.use-gpu=true" in manifest["spec"]["entrypoint"]
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    assert "tolerations" not in head
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]


def test_a_cluster_without_gpus_is_asked_for_none() -> None:
    manifest = ray_job(submission("train_gan", use_gpus=False))
    assert "nvidia.com/gpu" not in json.dumps(manifest)
    assert "--cluster.use-gpu=false" in manifest["spec"]["entrypoint"]


def test_a_shuffle_has_a_few_tasks_for_each_that_runs_at_once() -> None:
    for settings in ({}, {"cpu_frac": 0.1, "num_workers": 2}):
        given = submission("als", **settings)
        spec = spark_application(given)["spec"]
        at_once = given.num_workers * spec["executor"]["cores"]
        assert spec["sparkConf"]["spark.sql.shuffle.partitions"] == str(4 * at_once)


def test_training_workers_are_as_many_as_the_cluster_has_pods_for() -> None:
    manifest = ray_job(submission("train_gan", num_workers=5))
    assert "--cluster.num-workers=5" in manifest["spec"]["entrypoint"]
    assert manifest["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"] == 5
    for flag in ("--cluster.num-workers=8", "--cluster.num_workers", "--cluster.use-gpu=false"):
        with pytest.raises(SettingError, match="declared"):
            ray_job(submission("train_gan", flag))


def test_without_a_queue_workers_come_and_go_and_with_one_all_come_at_once() -> None:
    free, queued = submission("clean"), submission("clean", queue="cartwheel", priority="cartwheel-urgent")
    assert spark_application(free)["spec"]["sparkConf"]["spark.dynamicAllocation.enabled"] == "true"
    manifest = spark_application(queued)
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "cartwheel"
    assert manifest["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "cartwheel-urgent"
    assert manifest["spec"]["sparkConf"]["spark.dynamicAllocation.enabled"] == "false"
    assert manifest["spec"]["executor"]["instances"] == 8
    cluster = ray_job(submission("train_encoder", queue="cartwheel"))["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] is False
    assert cluster["workerGroupSpecs"][0]["replicas"] == 2


def test_what_a_submission_asks_of_a_queue_is_that_of_all_its_pods() -> None:
    asked = asked_of_queue(submission("train_encoder"))
    assert asked == {"cpu": 2 + 2 * 4, "memory": (8 + 2 * 16) * 2**30, "nvidia.com/gpu": 2}
    flavor = {"resources": [{"name": "cpu", "nominalQuota": "1500m"}, {"name": "memory", "nominalQuota": "1Gi"}]}
    queue = {"spec": {"resourceGroups": [{"flavors": [flavor, flavor]}]}}
    assert quotas_of(queue) == {"cpu": 3, "memory": 2**31}


def test_token_authentication_of_ray_is_on() -> None:
    assert ray_job(submission("train_policy"))["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    assert ray_service(submission("serve"))["spec"]["rayClusterConfig"]["authOptions"] == {"mode": "token"}


def test_a_stream_is_always_started_again_is_never_removed_and_keeps_its_executors() -> None:
    manifest = spark_application(submission("stream", "--live.kafka=kafka:9092", num_workers=3))
    spec = manifest["spec"]
    assert (spec["restartPolicy"]["type"], spec["restartPolicy"]["onFailureRetryInterval"]) == ("Always", 10)
    assert "timeToLiveSeconds" not in spec
    assert (spec["sparkConf"]["spark.dynamicAllocation.enabled"], spec["executor"]["instances"]) == ("false", 3)
    assert spec["driver"]["template"]["spec"]["terminationGracePeriodSeconds"] == 180
    assert "terminationGracePeriodSeconds" not in spec["executor"]["template"]["spec"]
    assert "spark.jars" not in json.dumps(manifest), "its jars are in the image"


def test_a_stream_of_what_is_there_now_ends_and_may_have_a_schedule() -> None:
    ending = new_submission(JOBS["stream"], ["--stream.available-now=true"], KubernetesSettings(), ends=True)
    spec = manifest_of(ending, "*/10 * * * *")["spec"]["template"]
    assert (spec["restartPolicy"]["type"], spec["timeToLiveSeconds"]) == ("OnFailure", 86_400)
    assert ending.name.startswith("stream-")
    with pytest.raises(SettingError, match="stream goes on until it is cancelled"):
        manifest_of(submission("stream"), "*/10 * * * *")


@pytest.mark.parametrize("job", ["stream", "serve"])
def test_what_goes_on_is_one_in_a_namespace_and_in_no_queue(job: str, tmp_path: Path) -> None:
    asked = new_submission(JOBS[job], [], KubernetesSettings(queue="cartwheel", priority="cartwheel-daily"))
    manifest = manifest_of(asked)
    assert manifest["metadata"]["name"] == job
    assert not [label for label in manifest["metadata"]["labels"] if "kueue" in label]
    if job == "stream":
        with pytest.raises(SettingError, match="nothing would start it again: use --with operator"):
            spark_submit(asked, "https://api", tmp_path)


def served(*flags: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The server's manifest, and what Ray Serve gets of it."""
    manifest = ray_service(submission("serve", *flags))
    return manifest, yaml.safe_load(manifest["spec"]["serveConfigV2"])


def test_a_server_is_the_jobs_own_application_with_the_jobs_own_flags() -> None:
    manifest, config = served("--lake.path=s3://b/lake")
    (app,) = config["applications"]
    module, _, name = app["import_path"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert app["args"] == {"arguments": ["--config", "/etc/cartwheel/settings.yaml", "--lake.path=s3://b/lake"]}
    assert manifest["spec"]["excludeHeadPodFromServeSvc"] is True
    (workers,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = workers["template"]["spec"]["containers"]
    assert workers["minReplicas"] == 1, "there is somebody to ask before anybody does"
    assert container["ports"] == [{"name": "serve", "containerPort": config["http_options"]["port"]}]
    assert container["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "serve"}
    assert {"name": "RAY_SERVE_ENABLE_HA_PROXY", "value": "1"} in container["env"]


def test_whatever_changes_of_a_server_changes_its_pods_so_that_another_cluster_takes_over() -> None:
    def pods(*flags: str) -> list[Any]:
        cluster = served(*flags)[0]["spec"]["rayClusterConfig"]
        return [cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"][0]["template"]]

    assert pods("--serve.num-replicas=2") == pods("--serve.num-replicas=2")
    for before, after in zip(pods("--serve.num-replicas=2"), pods("--serve.num-replicas=3"), strict=True):
        assert before != after


@pytest.mark.parametrize("flag", ["--serve.port=80", "--serve.host", "--serve.port"])
def test_where_a_server_listens_is_no_flag_there(flag: str) -> None:
    with pytest.raises(SettingError, match=f"{flag}: on Kubernetes the server listens at port 8000 of its Service"):
        served(flag)


def test_what_reaches_the_server_and_what_the_live_parts_reach_is_let_through() -> None:
    network = (ROOT / "conf" / "kubernetes" / "base" / "network.yaml").read_text()
    policies = {each["metadata"]["name"]: each["spec"] for each in yaml.safe_load_all(network)}
    (rule,) = policies["askers"]["ingress"]
    assert [port["port"] for port in rule["ports"]] == [served()[1]["http_options"]["port"]]
    labels = served()[0]["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["metadata"]["labels"]
    chosen = policies["askers"]["podSelector"]["matchLabels"].items()
    assert chosen - labels.items() == {("ray.io/node-type", "worker")}, "which KubeRay adds"
    (names,) = policies["live-log-and-state"]["podSelector"]["matchExpressions"]
    assert {JOBS[name].name for name in names["values"]} == {"stream", "serve", "publish", "erase"}


def test_plain_spark_submit_says_the_same_as_the_operator_gets(tmp_path: Path) -> None:
    asked = submission("als", "--als.rank=32", context="shop", event_log="s3://b/events")
    command = spark_submit(asked, "https://api:6443", tmp_path)
    given = dict(word.split("=", 1) for word in command if "=" in word and word.startswith("spark."))
    manifest = spark_application(asked)
    assert command[:5] == ["spark-submit", "--master", "k8s://https://api:6443", "--deploy-mode", "cluster"]
    assert command[-4:] == [manifest["spec"]["mainApplicationFile"], *manifest["spec"]["arguments"]]
    assert manifest["spec"]["sparkConf"].items() <= given.items()
    assert given["spark.executor.memory"] == manifest["spec"]["executor"]["memory"]
    assert given["spark.eventLog.dir"] == "s3a://b/events"
    assert given["spark.kubernetes.context"] == "shop"
    for role in ("driver", "executor"):
        pod = json.loads(Path(given[f"spark.kubernetes.{role}.podTemplateFile"]).read_text())
        assert pod == manifest["spec"][role]["template"]


def test_nothing_is_resolved_when_a_job_starts() -> None:
    assert PACKAGES not in spark_application(submission("clean"))["spec"]["sparkConf"]


def test_a_queue_takes_no_plain_spark_submit(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--with operator"):
        spark_submit(submission("als", queue="q"), "https://api", tmp_path)


def test_a_schedule_starts_one_at_a_time_and_is_sparks_alone() -> None:
    manifest = scheduled_spark_application(submission("clean"), "0 3 * * *")
    assert manifest["spec"]["concurrencyPolicy"] == "Forbid"
    assert manifest["spec"]["template"] == spark_application(submission("clean"))["spec"]
    with pytest.raises(SettingError, match="no Spark job"):
        manifest_of(submission("report"), "0 3 * * *")


def test_a_plain_job_is_not_tried_again_where_that_cannot_help() -> None:
    (rule,) = plain_job(submission("report"))["spec"]["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2, 3, 4]


def test_names_are_those_that_kubernetes_takes() -> None:
    name = new_submission(JOBS["train_encoder"], [], KubernetesSettings()).name
    assert name.startswith("train-encoder-")
    assert len(f"{name}-driver-svc") <= 63


def test_a_settings_file_becomes_flags_and_what_is_of_the_cluster_stays_here(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(
        "lake: {path: s3://b/lake}\nclean: {session_gap_minutes: 45}\nals: {rank: 8}\nkubernetes: {queue: q}\n"
    )
    given = ["--config", str(file), "--kubernetes.namespace", "shop", "--clean.rebuild=true", "--as-of", "end"]
    assert flags_of("clean", given) == [
        "--lake.path=s3://b/lake",
        "--clean.session-gap-minutes=45",
        "--clean.rebuild=true",
        "--time.as-of",
        "end",
    ]
