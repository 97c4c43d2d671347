"""The drift job on a small shop with a release: what it tells, when it tells nothing, and that it has the pipeline run once."""

import hashlib
import json
import subprocess
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute as pc
import pytest

from lib.cli.jobs import load_job
from lib.drift import retraining
from lib.drift.candidates import candidates_now, users_of_rows
from lib.drift.compare import num_units
from lib.pipeline import JOBS
from lib.runs.model_registry import current_model
from lib.runs.run import start_run
from lib.serving.reference import reference_of
from lib.serving.release import REFERENCE
from lib.tables.ops import RETRAININGS
from tests.jobs.spark.test_publish import WEIGHTS, key, published
from tests.lakes import END, PROPERTIES, START, TEST_FROM, SmallLake, content

SECOND = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def weights_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROPERTIES, "gold/interactions", {"cartwheel.eventWeights": json.dumps(WEIGHTS)})


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["drift"])


def run(job: ModuleType, lake: SmallLake, **own: Any) -> None:
    job.main(job.DriftSettings(**lake.shared_settings, num_permutations=599, **own))


def put_log(lake: SmallLake, *, price_since: float, click_since: float) -> None:
    """Shoppers look at items at a price of about 10, and are shown some by a policy; both may change when the release was made."""
    draw, rows = np.random.default_rng(0), []
    for number in range(1_600):
        at = START + (END - START) * float(draw.random())
        user, item = key(int(draw.integers(1, 41))), f"i{int(draw.integers(0, 30)):02}"
        is_since = at >= TEST_FROM
        base = {"user_key": user, "item_id": item, "request_id": f"r{number}"}
        price = Decimal(f"{draw.lognormal(np.log(price_since if is_since else 10), 0.3):.2f}")
        rows.append({**base, "event_time": at, "event_type": "impression", "policy": "shelf"})
        if draw.random() < (click_since if is_since else 0.4):
            rows.append({**base, "event_time": at + SECOND, "event_type": "view", "price": price, "currency": "EUR"})
    ends = [{"event_time": START}, {"event_time": END - SECOND}]
    lake.put_events(*ends, *(row for row in rows if row["event_time"] < END))


def verdicts(lake: SmallLake) -> dict[str, bool]:
    return {row["name"]: row["is_drifted"] for row in lake.read("gold/drift")}


def test_what_was_changed_on_purpose_has_drifted_and_a_second_run_gives_equal_rows(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    published(small_lake, load_job(JOBS["publish"]))
    put_log(small_lake, price_since=20, click_since=0.2)
    run(job, small_lake)
    rows = {(row["kind"], row["name"]): row for row in small_lake.read("gold/drift")}
    drifted = {name for (_, name), row in rows.items() if row["is_drifted"]}
    assert {"price", "click", "click/shelf"} <= drifted
    # Views are 0.4 / 1.4 of the events, then 0.2 / 1.2: a PSI of 0.119 ln(0.286 / 0.167) + 0.119 ln(0.833 / 0.714) = 0.08.
    of_types = rows["events", "event_type"]
    assert 0.03 < of_types["psi"] < 0.15 and not of_types["is_drifted"]
    assert "less than PSI 0.2 beyond chance" in of_types["reason"] and "most by " in of_types["reason"]
    price, click = rows["events", "price"], rows["reward", "click/shelf"]
    assert 9 < price["reference"] < 12 and 19 < price["now"] < 23
    assert 0.35 < click["reference"] < 0.45 and 0.15 < click["now"] < 0.25 and click["high"] < -0.1
    assert ("score", "score") in rows and {row["release"] for row in rows.values()} == {"publish-000001"}
    assert {(row["released_as_of"], row["as_of"]) for row in rows.values()} == {(TEST_FROM, END)}
    told = capsys.readouterr().out.splitlines()[-1]
    assert "release publish-000001 has drifted: " in told and "run --from featurize --to publish" in told
    run(job, small_lake)
    assert {(row["kind"], row["name"]): row for row in small_lake.read("gold/drift")} == rows


def test_a_shop_that_goes_on_as_before_has_not_drifted(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    published(small_lake, load_job(JOBS["publish"]))
    put_log(small_lake, price_since=10, click_since=0.4)
    run(job, small_lake)
    found = verdicts(small_lake)
    assert not any(found[name] for name in ("price", "event_type", "unknown_item", "click", "click/shelf", "purchase"))
    assert "user_age_days" in found and not found["user_age_days"]
    assert "impressions of a policy" in capsys.readouterr().out


def pipeline_that_ends(monkeypatch: pytest.MonkeyPatch, *endings: int | BaseException) -> list[list[str]]:
    """Have the pipeline's process end so, each time that it is started; returns the commands that started it."""
    started: list[list[str]] = []
    left = list(endings)

    def ended(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        started.append(command)
        ending = left.pop(0)
        if isinstance(ending, BaseException):
            raise ending
        return subprocess.CompletedProcess(command, ending)

    monkeypatch.setattr(retraining.subprocess, "run", ended)
    return started


def test_with_when_drifted_the_pipeline_runs_once_for_a_release_also_after_a_kill_or_a_failure(
    job: ModuleType, small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published(small_lake, load_job(JOBS["publish"]))
    put_log(small_lake, price_since=20, click_since=0.2)
    started = pipeline_that_ends(monkeypatch, KeyboardInterrupt(), 1, 0)

    def retrainings() -> list[tuple[str, str, int | None]]:
        return [(row["release"], row["status"], row["exit_code"]) for row in content(small_lake.lake, RETRAININGS.name)]

    run(job, small_lake)
    assert not started and not retrainings()  # never is the default
    with pytest.raises(KeyboardInterrupt):
        run(job, small_lake, retrain="when_drifted")
    assert retrainings() == [("publish-000001", "running", None)]
    with pytest.raises(Exception, match="ended with exit code 1"):
        run(job, small_lake, retrain="when_drifted")
    assert retrainings() == [("publish-000001", "failed", 1)]
    run(job, small_lake, retrain="when_drifted")
    assert retrainings() == [("publish-000001", "done", 0)]
    run(job, small_lake, retrain="when_drifted")
    assert len(started) == 3
    assert started[0][1:9] == ["-m", "lib.cli", "run", "--from", "featurize", "--to", "publish", "--lake"]
    assert "the pipeline has run for it already" in capsys.readouterr().out


@pytest.mark.bad_input("no release, one without a reference, or nothing since")
def test_without_a_release_a_reference_or_events_since_the_job_is_skipped_in_a_line(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(**own: Any) -> str:
        run(job, small_lake, **own)
        assert not small_lake.lake.exists("gold/drift")
        return capsys.readouterr().out.splitlines()[-1]

    small_lake.put("gold/interactions", {"user_key": key(1), "item_id": "a", "event_time": START, "weight": 1.0,
                                         "count": 1, "num_relevant": 1, "split": "train"})  # fmt: skip
    assert "skipped: no release was published: run publish" in told()
    release = published(small_lake, load_job(JOBS["publish"]))
    assert "nothing has happened since release publish-000001, as of 2026-01-21 00:00" in told(
        until=datetime.isoformat(TEST_FROM)
    )
    row = current_model(small_lake.lake, "release")
    assert row is not None and release.version == "publish-000001"
    folder: Path = small_lake.lake.local(row["uri"])
    manifest = json.loads((folder / "release.json").read_text())
    del manifest["files"][REFERENCE]
    (folder / "release.json").write_text(json.dumps(manifest))
    (folder / REFERENCE).unlink()
    assert "release publish-000001 keeps no reference (reference.parquet): publish again" in told()


def test_what_is_told_of_a_release_goes_when_another_serves_of_which_there_is_nothing_to_tell_yet(
    job: ModuleType, small_lake: SmallLake
) -> None:
    publish = load_job(JOBS["publish"])
    published(small_lake, publish)
    put_log(small_lake, price_since=20, click_since=0.2)
    run(job, small_lake)
    assert {row["release"] for row in small_lake.read("gold/drift")} == {"publish-000001"}
    run(job, small_lake, until=datetime.isoformat(TEST_FROM))  # nothing since, and it is the same release
    assert small_lake.read("gold/drift")
    publish.main(publish.PublishSettings(**small_lake.shared_settings, time={"as_of": "end"}))
    run(job, small_lake)
    assert small_lake.read("gold/drift") == []


@pytest.mark.bad_input("no impression of a policy, or a single user")
def test_without_impressions_and_with_a_single_user_nothing_drifts(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    published(small_lake, load_job(JOBS["publish"]))
    small_lake.put_events(
        *(
            {"event_time": START + n * timedelta(hours=7), "user_key": key(1), "item_id": "i01", "event_type": "view"}
            for n in range(100)
        ),
        {"event_time": END - SECOND},
    )
    run(job, small_lake)
    assert "impressions of a policy  before=0  since=0" in capsys.readouterr().out
    rows = small_lake.read("gold/drift")
    assert {row["kind"] for row in rows} == {"feature", "score", "events"}
    assert not any(row["is_drifted"] for row in rows if row["kind"] == "events")
    assert {row["reason"].partition(";")[0] for row in rows if row["kind"] == "events" and row["name"] != "price"} == {
        "too few users to tell (1 and 2 of at least 10)"
    }


def test_the_pipelines_command_has_the_settings_that_bear_on_it_and_its_jobs_take_them(
    small_lake: SmallLake,
) -> None:
    arguments = [
        "--lake.path",
        "x",
        "--drift.retrain",
        "when_drifted",
        "--as-of",
        "end",
        "--als.rank=8",
        "--drift.seed=2",
    ]
    command = retraining.command_of(small_lake.lake, arguments)
    assert command[:9] == [
        "-m",
        "lib.cli",
        "run",
        "--from",
        "featurize",
        "--to",
        "publish",
        "--lake",
        small_lake.lake.path,
    ]
    assert command[9:] == ["--as-of", "end", "--als.rank=8"]
    assert "when_drifted" not in command


def test_a_pipeline_that_refuses_its_settings_is_recorded_as_failed(small_lake: SmallLake) -> None:
    code = retraining.retrain(small_lake.lake, "publish-000001", "drift-000001", "price", ["--als.no-such", "1"])
    (row,) = content(small_lake.lake, RETRAININGS.name)
    assert code == row["exit_code"] == 2 and row["status"] == "failed" and row["drifted"] == "price"
    assert not retraining.is_done(small_lake.lake, "publish-000001")
    retraining.settle_others(small_lake.lake, "publish-000002")
    assert content(small_lake.lake, RETRAININGS.name) == [row]  # it is not open


def test_what_was_killed_after_it_had_made_another_release_is_closed(
    small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline_that_ends(monkeypatch, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        retraining.retrain(small_lake.lake, "publish-000001", "drift-000001", "price", [])
    retraining.settle_others(small_lake.lake, "publish-000001")
    assert [row["status"] for row in content(small_lake.lake, RETRAININGS.name)] == ["running"]
    retraining.settle_others(small_lake.lake, "publish-000002")
    assert [row["status"] for row in content(small_lake.lake, RETRAININGS.name)] == ["done"]


def test_candidates_drawn_at_the_releases_own_moment_are_its_reference_row_for_row(small_lake: SmallLake) -> None:
    release = published(small_lake, load_job(JOBS["publish"]))
    reference = reference_of(release, num_rows=900, seed=3)
    interactions = small_lake.lake.dataset("gold/interactions")
    options: dict[str, Any] = {"num_users": 1_000, "num_rows": 900, "seed": 3}
    now = candidates_now(release, interactions, TEST_FROM, **options)
    assert now.equals(reference) and len(now) == 900
    later = candidates_now(release, interactions, END, **options)
    assert later["user_num_items"].mean() > now["user_num_items"].mean()
    units = users_of_rows(reference)
    assert units[0] == 0 and 35 < num_units(units) <= 41  # of forty people
    where = reference.with_columns(unit=pl.Series(units)).group_by("unit").agg(pl.col("rank").n_unique(), n=pl.len())
    assert (where["rank"] == where["n"]).all()  # no two candidates of a unit have a rank


def test_beyond_the_limit_events_of_some_users_are_read_all_of_each(job: ModuleType, small_lake: SmallLake) -> None:
    people = [hashlib.md5(str(n).encode()).hexdigest() for n in range(64)]
    small_lake.put_events(*({"event_time": START + n * SECOND, "user_key": people[n % 64]} for n in range(640)))
    with start_run("drift", job.DriftSettings(**small_lake.shared_settings)) as run:
        window = (START, START + timedelta(days=1))
        read = [
            job.events_between(
                run, ("event_id", "user_key", "event_time"), *window, pc.scalar(value=True), at_most=limit
            )
            for limit in (160, 640)
        ]
    assert [len(rows) for rows in read][1] == 640
    by_user = read[0].group_by("user_key").len()["len"]
    assert 5 < len(by_user) < 30 and set(by_user) == {10}


def test_an_impossible_moment_is_refused(job: ModuleType, small_lake: SmallLake) -> None:
    with pytest.raises(ValueError, match="should be end or an ISO time with a zone"):
        job.DriftSettings(**small_lake.shared_settings, until="yesterday")
