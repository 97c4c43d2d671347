"""Spark jobs as pods of a real cluster make the tables of the local pipeline, also when pods and the store are lost meanwhile."""

import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.object_store import BUCKET
from tests.on_kubernetes.conftest import Shop
from tests.on_kubernetes.test_metrics import scraped
from tests.same import differences

JOBS = ("ingest", "clean", "featurize", "als")
DOWN_SECONDS = 5


def wait_for_work(shop: Shop, name: str) -> str:
    """Wait until an executor works; returns its pod's name."""

    def working() -> str | None:
        running = [pod for pod in shop.pods(name, **{"spark-role": "executor"}) if pod["status"]["phase"] == "Running"]
        return str(running[0]["metadata"]["name"]) if running else None

    executor = str(shop.wait_for(working, "an executor"))
    time.sleep(4)  # it registers, and gets its first tasks
    return executor


@pytest.mark.timeout(900)
def test_by_spark_submit_driver_and_executors_are_pods_apart_and_the_tables_those_of_the_local_pipeline(
    shop: Shop, local: Path
) -> None:
    for job in JOBS:
        run = shop.run(job, "--with", "spark-submit", lake="by-submit")
        assert run.executors >= 1
    assert differences(local, shop.lake("by-submit")) == []


def test_a_market_is_simulated_in_the_bucket_as_it_is_here(shop: Shop, local: Path) -> None:
    shop.run("simulate", lake="by-simulate")

    def files(store: pafs.FileSystem, folder: str) -> dict[str, bytes]:
        found = store.get_file_info(pafs.FileSelector(folder, recursive=True))
        files = (each.path for each in found if each.is_file)
        return {path.removeprefix(folder): store.open_input_file(path).read() for path in files}

    here = files(pafs.LocalFileSystem(), str(local / "raw"))
    assert files(shop.store.filesystem(), f"{BUCKET}/by-simulate/raw") == here


@pytest.mark.timeout(900)
def test_by_the_operator_a_lost_executor_a_lost_driver_and_a_store_that_starts_again_leave_the_tables_right(
    shop: Shop, local: Path
) -> None:
    def delete(pod: str) -> None:
        shop.kubectl("delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    def lose_executor(name: str) -> None:
        executor = wait_for_work(shop, name)
        told = scraped(shop, f"app.kubernetes.io/instance={name},spark-role=driver")
        assert "metrics_executor_totalShuffleWrite_bytes_total" in told
        delete(executor)

    def lose_driver(name: str) -> None:
        wait_for_work(shop, name)
        delete(f"{name}-driver")

    def restart_store(name: str) -> None:
        wait_for_work(shop, name)
        shop.store.kill()
        time.sleep(DOWN_SECONDS)
        shop.store.start()

    lake = "by-operator"
    lost = shop.run("ingest", lake=lake, injure=lose_executor, what="an executor deleted")
    assert lost.executors >= 2, "another took its place"
    shop.run("clean", lake=lake, injure=lose_driver, what="the driver deleted")
    shop.run("featurize", lake=lake, injure=restart_store, what=f"the store away for {DOWN_SECONDS} s")
    shop.run("als", lake=lake)
    assert differences(local, shop.lake(lake)) == []


def test_a_schedule_starts_the_job_until_it_is_cancelled(shop: Shop, local: Path) -> None:
    command = shop.submit("experiment", "--schedule", "* * * * *", lake="by-schedule")
    assert command.end() == 0, command.output

    def objects(kind: str) -> list[str]:
        return [name for name in shop.kubectl("get", kind, "-o", "name").split() if command.name in name]

    (application,) = shop.wait_for(lambda: objects("sparkapplications"), "the first run")
    done = "--for=jsonpath={.status.applicationState.state}=COMPLETED"
    shop.kubectl("wait", application, done, "--timeout=120s")
    cancelled = shop.start("cancel", command.name)
    assert cancelled.end() == 0, cancelled.output
    assert objects("scheduledsparkapplications") == []
    shop.wait_for(lambda: not objects("sparkapplications"), "its runs to go too")
