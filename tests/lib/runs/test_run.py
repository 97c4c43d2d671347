import ast
import json
import subprocess
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pydantic import Field

from lib.lake.lake import CONTRACT_VERSION, Lake, require_writable
from lib.pipeline import JOBS, ROOT
from lib.runs import history, model_registry
from lib.runs.errors import ExitCode, PrivateValueError, ending_of, one_line
from lib.runs.freshness import outcome_if_unchanged
from lib.runs.logs import job_logger
from lib.runs.run import InputFile, Run, start_run
from lib.settings import JobSettings
from lib.tables import contract
from tests.lakes import arrow_rows, put
from tests.object_store import BUCKET, ObjectStore

EVENTS = contract("silver/events")
DAY_ZERO = datetime(2026, 1, 1, tzinfo=UTC)


class ExperimentSettings(JobSettings):
    """Stands for any job that reads silver/events."""

    confidence: float = Field(0.95, description="of the intervals")


class IngestSettings(JobSettings):
    """Stands for the job that reads files."""


def event(number: int) -> dict[str, Any]:
    time = DAY_ZERO + timedelta(days=number)
    given = {
        "event_id": f"e{number}",
        "item_id": "i",
        "event_type": "view",
        "event_time": time,
        "event_date": date(2026, 1, 1),
    }
    return given | {"is_bot": False, "source_record": "f:1", "context": []}


def put_events(lake: Lake, *, days: int = 101) -> None:
    put(lake, "silver/events", *(event(day) for day in range(days)))


def result(metric: str = "ctr") -> pa.Table:
    table = contract("gold/experiments")
    given = {"experiment": "x", "arm": "a", "control": "b", "metric": metric, "num_arm": 1, "num_control": 1}
    return arrow_rows(table, {"verdict": "undecided", "reason": "too few"}, base=given)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake(str(tmp_path / "lake"))
    put_events(lake)
    return lake


def settings_for(lake: Lake, **given: Any) -> ExperimentSettings:
    return ExperimentSettings(lake={"path": lake.path}, log={"format": "rees46"}, **given)


def only_row(lake: Lake) -> dict[str, Any]:
    (row,) = history.runs(lake)
    return row


def test_a_run_records_what_it_consumed_and_what_it_wrote(lake: Lake) -> None:
    with start_run("experiment", settings_for(lake)) as run:
        run.commit_arrow("gold/experiments", result())

    row = only_row(lake)
    assert (row["run_id"], row["status"], row["rows"]) == ("experiment-000001", "done", 1)
    assert row["inputs"] == [{"table": "silver/events", "version": lake.data_version("silver/events")}]
    assert row["outputs"] == [{"table": "gold/experiments", "version": lake.data_version("gold/experiments")}]


def test_the_times_stand_at_80_and_90_percent_of_the_span_and_as_of_follows_them(lake: Lake) -> None:
    with start_run("experiment", settings_for(lake)) as run:
        times = run.times
        assert run.as_of == times.test_from
        run.commit_arrow("gold/experiments", result())
    assert (times.start, times.valid_from, times.test_from) == (
        DAY_ZERO,
        DAY_ZERO + timedelta(days=80),
        DAY_ZERO + timedelta(days=90),
    )
    assert times.window == times.end - times.test_from
    assert times.end > DAY_ZERO + timedelta(days=100)


def test_a_failed_run_that_has_committed_is_taken_up_with_its_inputs(lake: Lake) -> None:
    pinned = lake.data_version("silver/events")
    with pytest.raises(RuntimeError, match="power"), start_run("experiment", settings_for(lake)) as run:
        run.commit_arrow("gold/experiments", result())
        raise RuntimeError("power cut")
    put_events(lake)

    with start_run("experiment", settings_for(lake)) as again:
        assert (again.run_id, again.inputs["silver/events"], again.as_of) == (run.run_id, pinned, run.as_of)
        again.commit_arrow("gold/experiments", result("conversion"))

    assert only_row(lake)["status"] == "done"
    held = lake.dataset("gold/experiments").to_table().column("metric").to_pylist()
    assert held == ["ctr"], "what the run had committed stays: it commits each output once"


def shares() -> list[tuple[str, str, dict[str, str]]]:
    """Every commit in a job's file that replaces a share of a table: job, table, share."""
    found = []
    for job in JOBS.values():
        module = ast.parse((ROOT / job.path).read_text())
        constants = {
            node.targets[0].id: node.value.value
            for node in module.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
        }
        for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
            where = next((keyword.value for keyword in call.keywords if keyword.arg == "where"), None)
            if isinstance(where, ast.Dict) and isinstance(call.args[0], ast.Constant):
                column, value = where.keys[0], where.values[0]
                assert isinstance(column, ast.Constant)
                name = value.value if isinstance(value, ast.Constant) else constants.get(getattr(value, "id", ""))
                found.append((job.name, str(call.args[0].value), {str(column.value): str(name or "encoder")}))
            if getattr(call.func, "id", "") == "commit_beside":  # replaces a model's share
                _, table, model, *_ = call.args
                assert isinstance(table, ast.Constant)
                name = model.value if isinstance(model, ast.Constant) else constants.get(getattr(model, "id", ""))
                found.append((job.name, str(table.value), {"model": str(name or "encoder")}))
    return found


def test_the_jobs_that_replace_a_share_of_a_table_are_found() -> None:
    assert {job for job, *_ in shares()} >= {"ingest", "clean", "als", "train_encoder", "train_gan"}


@pytest.mark.parametrize(("job", "table", "share"), shares())
def test_a_failed_run_that_has_committed_a_share_of_a_table_is_taken_up(
    lake: Lake, job: str, table: str, share: dict[str, str]
) -> None:
    name = "".join(word.capitalize() for word in job.split("_")) + "Settings"
    kind = type(name, (JobSettings,), {"__doc__": "Stands for the job's."})
    for required in JOBS[job].reads:
        if "*" not in required and required != "silver/events":
            lake.ensure(contract(required))
    settings = kind(lake={"path": lake.path}, log={"format": "rees46"})
    with pytest.raises(RuntimeError, match="power"), start_run(job, settings) as run:
        run.commit_arrow(table, contract(table).schema.empty_table(), where=share)
        raise RuntimeError("power cut")
    for newer in ("silver/events", "bronze/images"):  # at which a run without a commit would start anew
        put(lake, newer)

    with start_run(job, settings) as again:
        assert (again.run_id, again.inputs) == (run.run_id, run.inputs)


def test_a_failed_run_without_a_commit_is_abandoned_when_there_is_newer_data(lake: Lake) -> None:
    with pytest.raises(ValueError, match="limit"), start_run("experiment", settings_for(lake)):
        raise ValueError("over the limit")
    put_events(lake)
    with start_run("experiment", settings_for(lake)) as run:
        assert (run.number, run.inputs["silver/events"]) == (2, lake.data_version("silver/events"))
    assert [row["status"] for row in history.runs(lake)] == ["abandoned", "done"]


def test_a_failure_keeps_its_traceback_and_goes_on_to_the_caller(lake: Lake) -> None:
    with pytest.raises(ValueError, match="the reason"), start_run("experiment", settings_for(lake)) as run:
        raise ValueError("the reason")
    assert only_row(lake)["message"] == "ValueError: the reason"
    assert "the reason" in (lake.folder / "logs" / f"{run.run_id}.txt").read_text()


def test_the_traceback_of_a_run_on_a_store_lies_there_and_its_place_is_told(bucket: ObjectStore) -> None:
    lake = Lake(f"s3://{BUCKET}/failed")
    settings = IngestSettings(lake={"path": lake.path}, log={"format": "rees46"})
    with pytest.raises(KeyError) as failure, start_run("ingest", settings):
        raise KeyError("x")
    assert one_line(failure.value) == f"KeyError: 'x' (traceback: {lake.path}/logs/ingest-000001.txt)"
    assert b'raise KeyError("x")' in bucket.contents("failed/logs")[f"{BUCKET}/failed/logs/ingest-000001.txt"]


def test_the_lines_of_a_run_name_it_and_its_stage(lake: Lake, caplog: pytest.LogCaptureFixture) -> None:
    job_logger("experiment").addHandler(caplog.handler)
    with start_run("experiment", settings_for(lake)) as run:
        run.commit_arrow("gold/experiments", result())
    job_logger("experiment").removeHandler(caplog.handler)
    record = caplog.records[-1]
    assert (record.run_id, record.stage) == (run.run_id, "wrote gold/experiments")  # type: ignore[attr-defined]
    assert record.figures["rows"] == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "recorded"),
    [
        (ValueError("3 of 9 records"), "ValueError: 3 of 9 records"),
        (PrivateValueError("first: ann@shop", recorded="first: 1.csv:1"), "ValueError: first: 1.csv:1"),
        (pa.ArrowInvalid("cannot parse ann@shop"), "ArrowInvalid"),
        (json.JSONDecodeError("not JSON", "ann@shop", 0), "JSONDecodeError"),
        (RuntimeError("a task says: ann@shop"), "RuntimeError"),
    ],
)
def test_no_value_that_an_error_quotes_is_recorded(lake: Lake, error: Exception, recorded: str) -> None:
    with pytest.raises(type(error)), start_run("experiment", settings_for(lake)):
        raise error
    assert only_row(lake)["message"] == recorded


def test_a_new_lake_is_its_owners_alone_and_git_ignores_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "lake"
    require_writable(Lake(str(folder)))
    assert folder.stat().st_mode & 0o777 == 0o700
    assert folder.parent.stat().st_mode & 0o777 != 0o700
    subprocess.run(["git", "init", "--quiet", str(folder.parent)], check=True)
    (folder / "silver.parquet").touch()
    seen = subprocess.run(["git", "status", "--short"], cwd=folder.parent, capture_output=True, text=True, check=True)
    assert seen.stdout == ""


def test_a_job_is_fresh_until_inputs_or_settings_change(lake: Lake) -> None:
    job = JOBS["experiment"]
    assert outcome_if_unchanged(job, settings_for(lake)) is None
    with start_run("experiment", settings_for(lake)) as run:
        run.commit_arrow("gold/experiments", result())
    assert outcome_if_unchanged(job, settings_for(lake)) == "done"
    assert outcome_if_unchanged(job, settings_for(lake, confidence=0.9)) is None
    put_events(lake)
    assert outcome_if_unchanged(job, settings_for(lake)) is None


def test_a_job_without_its_input_is_skipped_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = Lake(str(tmp_path / "lake"))
    with start_run("experiment", settings_for(empty)) as run:
        run.read_arrow("silver/events")
        pytest.fail("the job goes no further")
    assert only_row(empty)["status"] == "skipped"
    assert "there is no silver/events" in capsys.readouterr().out


def test_a_skip_inside_a_run_says_why_and_counts_as_fresh(lake: Lake) -> None:
    with start_run("experiment", settings_for(lake)) as run:
        run.skip("no experiment in this log")
    assert outcome_if_unchanged(JOBS["experiment"], settings_for(lake)) == "no experiment in this log"


def test_files_are_pinned_before_the_first_write_and_known_after_the_run(tmp_path: Path) -> None:
    path = str(tmp_path / "lake")
    settings = IngestSettings(lake={"path": path}, log={"format": "rees46"})
    first, second = InputFile("a.csv", "1" * 64, "behaviour"), InputFile("b.csv", "2" * 64, "behaviour")

    with pytest.raises(RuntimeError), start_run("ingest", settings) as run:
        run.take_files([first])
        raise RuntimeError("power cut")
    with start_run("ingest", settings) as run:
        assert (run.number, run.input_files) == (1, [first]), "a second attempt commits nothing twice"
        assert run.known_files() == set(), "they were not committed"
        run.take_files([second])
    assert [row["status"] for row in history.runs(Lake(path))] == ["done"]
    with start_run("ingest", settings) as run:
        assert run.known_files() == {second.sha256}


def test_a_run_that_has_committed_keeps_its_files_until_it_ends(tmp_path: Path) -> None:
    path = str(tmp_path / "lake")
    settings = IngestSettings(lake={"path": path}, log={"format": "rees46"})
    file = InputFile("a.csv", "1" * 64, "behaviour")
    refused = contract("bronze/rejects").schema.empty_table()

    with pytest.raises(RuntimeError), start_run("ingest", settings) as run:
        run.take_files([file])
        run.commit_arrow("bronze/rejects", refused, where={"stage": "ingest"})
        raise RuntimeError("power cut")
    with start_run("ingest", settings) as run:
        assert (run.number, run.input_files, list(run.outputs)) == (1, [file], ["bronze/rejects"])


def test_a_run_that_fails_again_when_it_is_taken_up_starts_anew_on_newer_data(lake: Lake) -> None:
    started = []
    for _ in range(3):
        with pytest.raises(ValueError, match="one class"), start_run("experiment", settings_for(lake)) as run:
            started.append((run.number, run.inputs["silver/events"]))
            run.commit_arrow("gold/experiments", result())
            raise ValueError("one class of labels")
    older = lake.data_version("silver/events")
    assert started == [(1, older)] * 3, "there is nothing newer"
    put_events(lake)
    with start_run("experiment", settings_for(lake)) as run:
        assert (run.number, run.inputs["silver/events"]) == (2, lake.data_version("silver/events"))
    assert [row["status"] for row in history.runs(lake)] == ["abandoned", "done"]


def test_a_run_whose_inputs_were_vacuumed_away_starts_anew(lake: Lake) -> None:
    with pytest.raises(RuntimeError, match="power"), start_run("experiment", settings_for(lake)) as run:
        run.commit_arrow("gold/experiments", result())
        raise RuntimeError("power cut")
    put_events(lake, days=90)
    DeltaTable(lake.uri("silver/events")).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    with start_run("experiment", settings_for(lake)) as again:
        assert (again.number, again.inputs["silver/events"]) == (2, lake.data_version("silver/events"))
        assert again.read_arrow("silver/events").num_rows == 90
        again.commit_arrow("gold/experiments", result("conversion"))
    assert [row["status"] for row in history.runs(lake)] == ["abandoned", "done"]
    assert lake.dataset("gold/experiments").to_table().column("metric").to_pylist() == ["conversion"]


@pytest.mark.bad_input("a full disk")
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_one_line_and_the_run_is_taken_up_when_there_is_room(
    lake: Lake,
) -> None:
    logs = lake.folder / "logs"
    logs.mkdir()
    with pytest.raises(OSError, match="No space left") as failure, start_run("experiment", settings_for(lake)) as run:
        (logs / f"{run.run_id}.txt").symlink_to("/dev/full")  # the traceback cannot be kept either
        with Path("/dev/full").open("w") as file:
            file.write("a row")
    assert ending_of(failure.value) == ("the disk is full", ExitCode.FAILED)
    with start_run("experiment", settings_for(lake)) as again:
        assert again.run_id == run.run_id


@pytest.mark.bad_input("an unwritable lake")
def test_a_lake_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ValueError, match="cannot be written"),
        start_run("ingest", IngestSettings(lake={"path": str(tmp_path / "file" / "lake")}, log={"format": "rees46"})),
    ):
        pass


@pytest.mark.bad_input("a table of another contract version")
def test_a_table_of_another_contract_version_is_refused_before_the_run_begins(lake: Lake) -> None:
    events = DeltaTable(lake.uri("silver/events"))
    events.alter.set_table_properties({CONTRACT_VERSION: "7"}, raise_if_not_exists=False)
    before = DeltaTable(lake.uri("silver/events")).version()
    with (
        pytest.raises(
            ValueError, match=r"^silver/events has contract version 7, but this release needs version 2; use"
        ),
        start_run("experiment", settings_for(lake)),
    ):
        pytest.fail("the job goes no further")
    assert DeltaTable(lake.uri("silver/events")).version() == before
    assert not lake.exists("ops/runs")


def test_a_promoted_model_retires_the_one_before(lake: Lake) -> None:
    def promote() -> Run:
        with start_run("experiment", settings_for(lake)) as run:
            checkpoint = run.files("policy") / "weights.bin"
            checkpoint.write_bytes(b"weights")
            run.register_model("policy", run.files("policy"), checkpoint=checkpoint, num_parameters=3)
        return run

    first, second = promote(), promote()
    assert {row["version"]: row["status"] for row in model_registry.models(lake)} == {
        first.run_id: "retired",
        second.run_id: "promoted",
    }
    assert second.current_model("policy")["uri"] == f"files/policy/{second.run_id}"
    assert second.current_model("gan") is None
