"""A Spark job as the spark-operator takes it, and as plain spark-submit does: both from the same parts."""

import json
import math
from pathlib import Path
from typing import Any

from lib.engines.spark_properties import PACKAGES, address_for_spark, shipped_properties
from lib.kubernetes.pods import CODE, KEPT_SECONDS, RETRIES, Submission, millicores, scraped_at, template
from lib.pipeline import Size
from lib.runs.errors import SettingError

DRIVER, EXECUTOR = "spark-kubernetes-driver", "spark-kubernetes-executor"  # the names that Spark gives its containers
DRIVER_ACCOUNT, EXECUTOR_ACCOUNT = "spark-driver", "spark-executor"
PYTHON = "/opt/venv/bin/python"  # of the images
SPARK_VERSION = "4.2.0"
RETRY_SECONDS = 10
STOP_SECONDS = 180  # that a stream may take to end its batches and its last clean
WAVES = 4  # tasks of a shuffle for each that runs at once: a late one holds up little
API_VERSION = "sparkoperator.k8s.io/v1beta2"
UI_PORT, EXECUTOR_METRICS = 4040, "/metrics/executors/prometheus"  # the driver tells of all its executors
# What Prometheus reads of a driver: there, and of its stages at the servlet's path, under names without the application's id.
METRICS = {
    "spark.ui.port": str(UI_PORT),
    "spark.ui.prometheus.enabled": "true",
    "spark.metrics.namespace": "cartwheel",
    "spark.metrics.conf.*.sink.prometheusServlet.class": "org.apache.spark.metrics.sink.PrometheusServlet",
    "spark.metrics.conf.*.sink.prometheusServlet.path": "/metrics/prometheus",
}


def spark_application(submission: Submission) -> dict[str, Any]:
    """The SparkApplication of one run of a job."""
    return {
        "apiVersion": API_VERSION,
        "kind": "SparkApplication",
        "metadata": submission.metadata,
        "spec": _spec(submission),
    }


def scheduled_spark_application(submission: Submission, schedule: str) -> dict[str, Any]:
    """The ScheduledSparkApplication that starts one after another by a cron line in UTC, never two at once."""
    return {
        "apiVersion": API_VERSION,
        "kind": "ScheduledSparkApplication",
        "metadata": submission.metadata,
        "spec": {
            "schedule": schedule,
            "timeZone": "UTC",
            "concurrencyPolicy": "Forbid",
            "successfulRunHistoryLimit": 3,
            "failedRunHistoryLimit": 3,
            "template": _spec(submission),
        },
    }


def spark_submit(submission: Submission, server: str, folder: Path) -> list[str]:
    """The `spark-submit` that makes the driver's pod itself; the templates of the pods are files in `folder`.

    `server` is the API server's address. Nothing starts a driver again that was lost.

    Raises:
        SettingError: the settings name a queue, which admits only what an operator can hold back.
    """
    if submission.queue:
        raise SettingError(f"a queue ({submission.queue}) takes no plain spark-submit: use --with operator")
    if submission.goes_on:
        raise SettingError(f"{submission.job.name} goes on, and nothing would start it again: use --with operator")
    settings = submission.settings
    folder.mkdir(parents=True, exist_ok=True)
    given = {
        **properties(submission),
        "spark.kubernetes.namespace": settings.namespace,
        "spark.kubernetes.container.image": submission.image,
        "spark.kubernetes.authenticate.driver.serviceAccountName": DRIVER_ACCOUNT,
        "spark.kubernetes.authenticate.executor.serviceAccountName": EXECUTOR_ACCOUNT,
        "spark.kubernetes.driver.pod.name": f"{submission.name}-driver",
        "spark.kubernetes.submission.waitAppCompletion": "false",
    }
    if settings.context:
        given["spark.kubernetes.context"] = settings.context
    given |= _sized("driver", submission.driver) | _sized("executor", submission.worker)
    for role, pod in _templates(submission).items():
        file = folder / f"{submission.name}-{role}.json"  # JSON is YAML
        file.write_text(json.dumps(pod, indent=1))
        given[f"spark.kubernetes.{role}.podTemplateFile"] = str(file)
    confs = (word for name, value in sorted(given.items()) for word in ("--conf", f"{name}={value}"))
    where = ("--master", f"k8s://{server}", "--deploy-mode", "cluster", "--name", submission.name)
    return ["spark-submit", *where, *confs, main_file(submission), *submission.flags]


def main_file(submission: Submission) -> str:
    """The job's file in the image."""
    return f"local://{CODE}/{submission.job.path}"


def properties(submission: Submission) -> dict[str, str]:
    """The shipped properties, for an image that has all jars, and what differs on Kubernetes."""
    of_packages = PACKAGES.rpartition(".")[0]  # spark.jars
    shipped = {name: value for name, value in shipped_properties().items() if not name.startswith(f"{of_packages}.")}
    own = {
        "spark.driver.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{CODE}/conf/log4j2.properties",
        "spark.kubernetes.executor.podNamePrefix": submission.name,
        "spark.sql.shuffle.partitions": str(submission.num_workers * _tasks_at_once(submission.worker) * WAVES),
        "spark.pyspark.python": PYTHON,  # whoever submits may have set another in their environment
        "spark.pyspark.driver.python": PYTHON,
    }
    if submission.settings.event_log:
        place = address_for_spark(submission.settings.event_log)
        own |= {"spark.eventLog.enabled": "true", "spark.eventLog.dir": place}
    return {**shipped, **own, **METRICS, **_allocation(submission)}


def _spec(submission: Submission) -> dict[str, Any]:
    templates = _templates(submission)
    spec = {
        "type": "Python",
        "mode": "cluster",
        "sparkVersion": SPARK_VERSION,
        "image": submission.image,
        "mainApplicationFile": main_file(submission),
        "arguments": [*submission.flags],
        "sparkConf": properties(submission),
        "restartPolicy": _restarts(submission),
        "driver": {
            **_process(submission.driver),
            "serviceAccount": DRIVER_ACCOUNT,
            "template": templates["driver"],
        },
        "executor": {
            **_process(submission.worker),
            "instances": 1 if _is_elastic(submission) else submission.num_workers,
            "serviceAccount": EXECUTOR_ACCOUNT,
            "template": templates["executor"],
        },
    }
    return spec if submission.goes_on else {**spec, "timeToLiveSeconds": KEPT_SECONDS}


def _restarts(submission: Submission) -> dict[str, Any]:
    """When the operator starts the driver again, the later the more often it has failed."""
    intervals = {"onFailureRetryInterval": RETRY_SECONDS, "onSubmissionFailureRetryInterval": RETRY_SECONDS}
    if submission.goes_on:
        return {"type": "Always", **intervals}
    return {
        "type": "OnFailure",
        "onFailureRetries": RETRIES,
        "onSubmissionFailureRetries": RETRIES,
        **intervals,
    }


def _templates(submission: Submission) -> dict[str, dict[str, Any]]:
    driver = template(submission, DRIVER, size=submission.driver, account=DRIVER_ACCOUNT)
    driver["metadata"]["annotations"] = scraped_at(UI_PORT, EXECUTOR_METRICS)
    if submission.goes_on:
        driver["spec"]["terminationGracePeriodSeconds"] = STOP_SECONDS
    executor = template(submission, EXECUTOR, size=submission.worker, account=EXECUTOR_ACCOUNT)
    return {"driver": driver, "executor": executor}


def _allocation(submission: Submission) -> dict[str, str]:
    if not _is_elastic(submission):
        return {"spark.dynamicAllocation.enabled": "false"}
    return {
        "spark.dynamicAllocation.enabled": "true",
        "spark.dynamicAllocation.shuffleTracking.enabled": "true",  # one whose shuffled rows are still needed stays
        "spark.dynamicAllocation.minExecutors": "1",
        "spark.dynamicAllocation.maxExecutors": str(submission.num_workers),
    }


def _is_elastic(submission: Submission) -> bool:
    """Whether executors come and go as they are needed.

    Not where a queue has to find room for all of them at once, and not for a stream: its next batch is there before any
    of them would be given back, and should wait for none.
    """
    return submission.queue is None and not submission.goes_on


def _sized(role: str, size: Size) -> dict[str, str]:
    """What a driver or executor asks for, as properties."""
    process = _process(size)
    return {
        f"spark.{role}.cores": str(process["cores"]),
        f"spark.kubernetes.{role}.request.cores": process["coreRequest"],
        f"spark.{role}.memory": process["memory"],
        f"spark.{role}.memoryOverhead": process["memoryOverhead"],
    }


def _process(size: Size) -> dict[str, Any]:
    """A driver or executor: of its memory a part is Java's heap, and what Python's processes take is beside it."""
    heap = math.ceil(size.heap * 1024)
    return {
        "cores": _tasks_at_once(size),
        "coreRequest": millicores(size.cores),
        "memory": f"{heap}m",
        "memoryOverhead": f"{math.ceil(size.memory * 1024) - heap}m",
    }


def _tasks_at_once(size: Size) -> int:
    return max(1, math.floor(size.cores))
