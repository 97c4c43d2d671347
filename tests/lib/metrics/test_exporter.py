"""What Prometheus is told of small lakes: as text, through its own parser, and over a socket; what dashboard and alerts ask."""

import json
import shutil
import socket
import sys
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import promql_parser
import pytest
import yaml
from deltalake import DeltaTable
from prometheus_client.parser import text_string_to_metric_families

from lib.cli.main import main
from lib.lake.lake import CONTRACT_VERSION, Lake
from lib.metrics import exporter, reading
from lib.pipeline import ROOT
from lib.runs.errors import SettingError
from lib.runs.run import start_run
from lib.settings import JobSettings
from lib.tables import contract
from tests.lakes import END, EVENT, START, SmallLake, arrow_rows, put
from tests.object_store import BUCKET, ObjectStore

DAY = "2026-01-05"
REJECT = {"source": "lines", "stage": "clean", "source_file": "1.csv", "day": DAY, "batch_id": "ingest-000001"}
REJECT |= {"arrived_at": datetime(2026, 2, 1, tzinfo=UTC)}
REASONS = ("malformed", "bad_value:price", "bad_value:price", "file:no such column as ann@shop", "file:it is empty")
RESULT = {"experiment": "x", "arm": "a", "control": "b", "metric": "ctr", "num_arm": 1, "num_control": 1}
RESULT |= {"verdict": "undecided", "reason": "too few"}
Values = dict[tuple[str, ...], float]
# The metrics of others that the dashboard shows, as a driver of Spark 4.2.0 and a head of Ray 2.60.0 gave them.
OF_ENGINES = {
    *("metrics_executor_activeTasks", "metrics_executor_failedTasks_total", "metrics_executor_JVMHeapMemory_bytes"),
    *("metrics_executor_totalShuffleWrite_bytes_total", "ray_node_cpu_utilization", "ray_node_mem_total"),
    *("ray_node_mem_used", "ray_object_store_memory", "ray_resources"),
}
DASHBOARD = json.loads((ROOT / "conf" / "grafana" / "cartwheel.json").read_text())
RULES = yaml.safe_load((ROOT / "conf" / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]


class ExperimentSettings(JobSettings):
    """Of the job that reads silver/events and writes gold/experiments."""


def values(text: str) -> Values:
    """Each metric's value by its name and the values of its labels, which Prometheus sorts by name."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def put_drift(lake: Lake) -> None:
    """A feature that has drifted, one that has not, and clicks of all policies and of one."""
    put(
        lake,
        "gold/drift",
        {"kind": "feature", "name": "due", "psi": 0.5, "statistic": 0.25, "is_drifted": True},
        {"kind": "feature", "name": "als", "psi": 0.125, "statistic": 0.0625},
        {"kind": "reward", "name": "click", "reference": 0.25, "now": 0.125, "statistic": 2.0, "is_drifted": True},
        {"kind": "reward", "name": "click/ann@shop", "reference": 0.25, "now": 0.125, "is_drifted": True},
        base={"release": "publish-000001", "released_as_of": START, "as_of": END, "num_reference": 9, "num_now": 9}
        | {"is_drifted": False, "reason": "x"},
    )


def put_rejects(lake: Lake, *reasons: str) -> None:
    rows = ({"reason": reason, "source_record": f"1.csv:{number}"} for number, reason in enumerate(reasons))
    put(lake, "bronze/rejects", *rows, base=REJECT)


@pytest.fixture
def small_lake(tmp_path: Path) -> SmallLake:
    """A lake with two events, five refusals, and the runs of a job: one that failed and one that is done."""
    lake = SmallLake(tmp_path)
    put_rejects(lake.lake, *REASONS)
    settings = ExperimentSettings(**lake.shared_settings)
    with pytest.raises(KeyError), start_run("experiment", settings):
        raise KeyError("ann@shop")
    lake.put_events(
        {"event_time": datetime(2026, 1, 1, tzinfo=UTC)},
        {"event_time": END.replace(day=30)},
        {"event_time": END.replace(day=29)},
    )
    with start_run("experiment", settings) as run:
        run.commit_arrow("gold/experiments", arrow_rows(contract("gold/experiments"), RESULT))
    return lake


def test_tables_runs_and_refusals_are_told_without_a_value_of_the_log(small_lake: SmallLake) -> None:
    before = datetime.now(UTC).timestamp()
    text = exporter.text(small_lake.lake)
    told = values(text)
    assert told["cartwheel_lake_up",] == 1
    assert told["cartwheel_table_rows", "silver/events"] == 3
    assert told["cartwheel_table_files", "silver/events"] == 3  # a day each
    assert (
        told["cartwheel_table_version", "gold/experiments"]
        == DeltaTable(small_lake.lake.uri("gold/experiments")).version()
    )
    assert told["cartwheel_table_newest_event_timestamp_seconds", "silver/events"] == END.replace(day=30).timestamp()
    assert before - 60 < told["cartwheel_table_last_commit_timestamp_seconds", "gold/experiments"] < before + 1
    assert [told["cartwheel_run_state", "experiment", state] for state in exporter.STATES] == [0, 1, 0, 0, 0]
    assert [told["cartwheel_runs", "experiment", state] for state in exporter.STATES] == [0, 1, 0, 0, 1]
    assert (told["cartwheel_run_rows", "experiment"], told["cartwheel_run_input_rows", "experiment"]) == (1, 3)
    assert before - 60 < told["cartwheel_run_success_timestamp_seconds", "experiment"] < before + 1
    assert {key[1:]: value for key, value in told.items() if key[0] == "cartwheel_refused_records"} == {
        ("malformed", "lines", "clean"): 1,
        ("bad_value:price", "lines", "clean"): 2,
        ("file", "lines", "clean"): 2,
    }
    assert "ann@shop" not in text


def test_drift_is_told_by_measure_and_counted_and_policies_are_not_named(small_lake: SmallLake) -> None:
    put_drift(small_lake.lake)
    text = exporter.text(small_lake.lake)
    assert {key: value for key, value in values(text).items() if key[0].startswith("cartwheel_drift")} == {
        ("cartwheel_drift_measures", "feature"): 2,
        ("cartwheel_drift_measures", "reward"): 2,
        ("cartwheel_drift_drifted_measures", "feature"): 1,
        ("cartwheel_drift_drifted_measures", "reward"): 2,
        ("cartwheel_drift_psi", "feature", "due"): 0.5,
        ("cartwheel_drift_psi", "feature", "als"): 0.125,
        ("cartwheel_drift_distance", "feature", "due"): 0.25,
        ("cartwheel_drift_distance", "feature", "als"): 0.0625,
        ("cartwheel_drift_reward_rate", "reward", "click"): 0.125,
        ("cartwheel_drift_reward_rate_before", "reward", "click"): 0.25,
        ("cartwheel_drift_as_of_timestamp_seconds",): END.timestamp(),
    }
    assert "ann@shop" not in text


def test_a_table_is_read_again_only_when_its_log_has_a_newer_entry(
    small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    open_table = Lake.open

    def opening(lake: Lake, table: str, version: int | None = None) -> DeltaTable:
        opened.append(table)
        return open_table(lake, table, version)

    monkeypatch.setattr(Lake, "open", opening)
    reader = reading.LakeReader(small_lake.lake)
    reader.read()
    assert set(opened) == {"silver/events", "bronze/rejects", "ops/runs", "gold/experiments"}
    opened.clear()
    reader.read()
    assert opened == []
    put_rejects(small_lake.lake, "malformed")
    opened.clear()
    reader.read()
    assert set(opened) == {"bronze/rejects"}
    assert reader.refused == {("clean", "lines", "malformed"): 1}


def test_a_table_that_was_removed_and_made_again_is_read_anew(small_lake: SmallLake) -> None:
    reader = reading.LakeReader(small_lake.lake)
    small_lake.put("silver/items", {"item_id": "a"})
    small_lake.put("silver/items", {"item_id": "a"}, {"item_id": "b"})
    reader.read()
    shutil.rmtree(small_lake.lake.folder / "silver" / "items")
    small_lake.put("silver/items", {"item_id": "c"})
    reader.read()
    assert reader.tables["silver/items"].rows == 1
    shutil.rmtree(small_lake.lake.folder / "silver" / "items")
    reader.read()
    assert "silver/items" not in reader.tables


def test_a_table_that_cannot_be_read_hides_no_other_and_a_lake_that_cannot_says_so(
    small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lake = small_lake.lake
    DeltaTable(lake.uri("silver/events")).alter.set_table_properties({CONTRACT_VERSION: "9"}, raise_if_not_exists=False)
    told = values(exporter.text(lake))
    assert (told["cartwheel_table_up", "silver/events"], told["cartwheel_table_up", "gold/experiments"]) == (0, 1)
    assert "cannot read silver/events: ValueError" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    told = values(exporter.text(Lake("s3://shop/lake")))
    assert told == {("cartwheel_lake_up",): 0}


def test_prometheus_gets_the_same_over_a_socket_and_a_port_in_use_is_one_line(small_lake: SmallLake) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingError, match=f"cannot listen on 127.0.0.1:{port}: .*--port"):
            exporter.serve(small_lake.lake, "127.0.0.1", port)
    exporter.serve(small_lake.lake, "127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        served = values(answer.read().decode())
    printed = values(exporter.text(small_lake.lake))
    of_the_moment = ("cartwheel_lake_read_seconds",)
    assert {**served, of_the_moment: 0} == {**printed, of_the_moment: 0}


def test_the_command_reads_a_bucket_that_a_settings_file_names(
    bucket: ObjectStore, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(f"s3://{BUCKET}/measured")
    put(lake, "silver/events", {**EVENT, "event_id": "e", "event_time": END})
    put_rejects(lake, *REASONS)
    file = tmp_path / "settings.yaml"
    file.write_text(f"lake: {{path: {lake.path}}}\nkubernetes: {{namespace: shop}}\n")
    monkeypatch.setattr(sys, "argv", ["cartwheel", "metrics", "--config", str(file), "--once"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    told = values(capsys.readouterr().out)
    assert told["cartwheel_table_rows", "silver/events"] == 1
    assert told["cartwheel_refused_records", "malformed", "lines", "clean"] == 1


def asked_by(query: str) -> list[tuple[str, set[str]]]:
    """The metrics that a query asks for, each with the labels by which it picks."""
    found: list[tuple[str, set[str]]] = []

    def visit(part: promql_parser.Expr) -> None:
        if isinstance(part, promql_parser.VectorSelector):
            found.append((part.name, {matcher.name for matcher in part.matchers.matchers}))

    promql_parser.walk(promql_parser.parse(query), visit)
    return found


def test_the_dashboard_and_the_alerts_ask_only_for_what_is_told(small_lake: SmallLake) -> None:
    put_drift(small_lake.lake)
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(exporter.text(small_lake.lake)):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    queries = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    asked = [each for query in (*queries, *(rule["expr"] for rule in RULES)) for each in asked_by(query)]
    assert {name for name, _ in asked} <= labels.keys() | OF_ENGINES | recorded
    assert [(name, picks) for name, picks in asked if name in labels and not picks <= labels[name]] == []


def test_what_to_do_at_each_alert_stands_in_the_operations() -> None:
    operations = (ROOT / "docs" / "operations.md").read_text()
    for rule in RULES:
        if "alert" in rule:
            assert rule["annotations"]["runbook"] == f"docs/operations.md, Watch, {rule['alert']}"
            assert f"`{rule['alert']}`" in operations
