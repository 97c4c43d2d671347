"""The exporter as a pod of the cluster, from its shipped manifest: Prometheus would find the lake's metrics there."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import yaml

from lib.pipeline import ROOT
from lib.settings import kubernetes_settings
from tests.object_store import BUCKET
from tests.on_kubernetes.conftest import SETTINGS, Shop
from tests.one_node.control_plane import kubectl

PRODUCTION = ROOT / "conf" / "kubernetes" / "overlays" / "production"


def test_the_exporter_runs_as_a_restricted_pod_and_tells_of_the_lake(shop: Shop, local: Path) -> None:
    pafs.copy_files(
        str(local), f"{BUCKET}/lake", destination_filesystem=shop.store.filesystem()
    )  # as the overlay has it
    rendered = yaml.safe_load_all(kubectl("kustomize", str(PRODUCTION)))
    of_metrics = [each for each in rendered if each["metadata"]["name"] == "metrics"]
    (deployment,) = (each for each in of_metrics if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["image"] = kubernetes_settings(["--config", str(SETTINGS)]).spark_image
    shop.kubectl("apply", "-f", "-", given=yaml.safe_dump_all(of_metrics))
    try:
        shop.kubectl("rollout", "status", "deployment/metrics", "--timeout=120s")
        told = scraped(shop, "app.kubernetes.io/name=metrics")
    finally:
        shop.kubectl("delete", "deployment,service", "metrics")
    assert "cartwheel_lake_up 1.0" in told
    assert 'cartwheel_run_state{job_name="als",state="done"} 1.0' in told
    assert 'cartwheel_table_rows{table="silver/events"}' in told


def scraped(shop: Shop, selector: str) -> str:
    """What a pod answers where its annotations tell Prometheus to ask."""
    pod: dict[str, Any] = json.loads(shop.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"][0]
    told = {name.partition("/")[2]: value for name, value in pod["metadata"]["annotations"].items()}
    assert told["scrape"] == "true"
    address = f"http://{pod['status']['podIP']}:{told['port']}{told['path']}"
    with urllib.request.urlopen(address, timeout=30) as answer:
        return str(answer.read().decode())
