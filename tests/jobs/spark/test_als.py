"""The als job on small tables, by both engines."""

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyspark import cloudpickle

from lib.cli.jobs import load_job
from lib.pipeline import JOBS
from lib.ranking import als_fit
from lib.ranking.als_checkpoints import Checkpoints, Sides
from lib.ranking.validation import METRIC
from lib.runs.errors import ExitCode, RetryableError, TaskError, ending_of
from tests.jobs.spark.interactions import LATER, pair
from tests.lakes import END, START, TEST_FROM, VALID_FROM, SmallLake


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["als"])


def two_tastes() -> Iterator[dict[str, Any]]:
    """Users of two tastes, each with all but one of the five items of theirs."""
    for taste, letters in (("x", "abcde"), ("y", "fghij")):
        for number, missing in enumerate(letters):
            for letter in letters:
                if letter != missing:
                    yield pair(f"{taste}{number}", letter)


@pytest.mark.parametrize("engine", ["blocked", pytest.param("mllib", marks=pytest.mark.slow)])
def test_factors_recover_two_planted_tastes_and_land_with_their_version(
    job: ModuleType, small_lake: SmallLake, engine: str
) -> None:
    small_lake.put("gold/interactions", *two_tastes(), pair("z", "later", **LATER))
    settings = job.AlsSettings(**small_lake.shared_settings, engine=engine, rank=4, num_iterations=5)
    job.main(settings)
    stored = small_lake.read("gold/vectors")
    fits = {("als", "als-000001", TEST_FROM), ("als", "als-000001-valid", VALID_FROM)}
    assert {(r["model"], r["version"], r["as_of"]) for r in stored} == fits
    rows = [row for row in stored if row["version"] == "als-000001"]
    users = {r["id"]: np.array(r["values"]) for r in rows if r["kind"] == "user"}
    items = {r["id"]: np.array(r["values"]) for r in rows if r["kind"] == "item"}
    assert sorted(users) == sorted({p["user_key"] for p in two_tastes()})
    assert sorted(items) == list("abcdefghij")
    for user, factor in users.items():
        best = sorted(items, key=lambda item: -float(factor @ items[item]))[:5]
        assert sorted(best) == list("abcde" if user.startswith("x") else "fghij")
    assert [(m["model"], m["version"], m["status"], m["num_parameters"]) for m in small_lake.read("ops/models")] == [
        ("als", "als-000001", "promoted", 80)
    ]


@pytest.mark.parametrize("engine", ["blocked", pytest.param("mllib", marks=pytest.mark.slow)])
def test_a_second_fit_gives_the_same_factors_and_other_models_keep_their_vectors(
    job: ModuleType, small_lake: SmallLake, engine: str
) -> None:
    small_lake.put("gold/interactions", *two_tastes(), pair("x0", "a", split="valid", event_time=VALID_FROM))
    other = {"model": "two_tower", "version": "v", "kind": "item", "id": "a", "values": [1.0], "as_of": START}
    small_lake.put("gold/vectors", other)
    factors = []
    for _ in range(2):
        job.main(job.AlsSettings(**small_lake.shared_settings, engine=engine, rank=4, num_iterations=3))
        rows = small_lake.read("gold/vectors")
        assert [row for row in rows if row["model"] == "two_tower"] == [other]
        own = [row for row in rows if row["model"] == "als"]
        assert len({row["version"] for row in own}) == 2, "only the version that is now current, with its judged fit"
        factors.append({(r["kind"], r["id"], r["as_of"]): r["values"] for r in own})
    assert factors[0].keys() == factors[1].keys()
    for key, values in factors[0].items():
        np.testing.assert_allclose(factors[1][key], values, atol=1e-3)


def current_fits(*, finds_wanted: bool) -> Iterator[dict[str, Any]]:
    """Vectors of als-000000, by which everyone's wanted item stands first, or last."""
    for version, as_of in (("als-000000", TEST_FROM), ("als-000000-valid", VALID_FROM)):
        row = {"model": "als", "version": version, "as_of": as_of}
        for letters, taste in (("abcde", "x"), ("fghij", "y")):
            for number, letter in enumerate(letters):
                place = "abcdefghij".index(letter)
                one_hot = [float(position == place) for position in range(10)]
                yield row | {"kind": "item", "id": letter, "values": one_hot}
                user = one_hot if finds_wanted else [-value for value in one_hot]
                yield row | {"kind": "user", "id": f"{taste}{number}", "values": user}


@pytest.mark.parametrize("finds_wanted", [True, False])
def test_a_version_that_finds_less_on_valid_stands_as_a_candidate_beside_the_current_one(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str], finds_wanted: bool
) -> None:
    wanted = [  # in the validation window everyone takes the item of their taste that they had not
        pair(f"{taste}{number}", missing, split="valid", event_time=VALID_FROM)
        for taste, letters in (("x", "abcde"), ("y", "fghij"))
        for number, missing in enumerate(letters)
    ]
    small_lake.put("gold/interactions", *two_tastes(), *wanted)
    small_lake.put("gold/vectors", *current_fits(finds_wanted=finds_wanted))
    before = small_lake.read("gold/vectors")
    current = {"model": "als", "version": "als-000000", "uri": "gold/vectors", "run_id": "r", "inputs": []}
    small_lake.put("ops/models", current | {"status": "promoted", "created_at": START, "as_of": TEST_FROM})
    job.main(job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=5))
    models = {row["version"]: row for row in small_lake.read("ops/models")}
    statuses = {version: row["status"] for version, row in models.items()}
    stored = small_lake.read("gold/vectors")
    own = {"als-000001", "als-000001-valid"}
    if finds_wanted:
        assert statuses == {"als-000000": "promoted", "als-000001": "candidate"}
        assert "als als-000001 stands as a candidate: NDCG@10 of both questions 0." in capsys.readouterr().out
        assert "als-000000's 1.0000" in models["als-000001"]["reason"]
        assert "on 10 validation rows; too low in NDCG@10" in models["als-000001"]["reason"]
        assert [row for row in stored if row["version"] not in own] == before
    else:
        assert statuses == {"als-000000": "retired", "als-000001": "promoted"}
        at_the_end = (1 / np.log2(11) + 1 / np.log2(7)) / 2  # at rank 10 of all, and 6 of those that the user had not
        assert f"als-000000's {at_the_end:.4f}" in models["als-000001"]["reason"]
        assert {row["version"] for row in stored} == own


def test_without_interactions_before_as_of_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/interactions", pair("z", "later", **LATER))
    job.main(job.AlsSettings(**small_lake.shared_settings))
    assert "skipped: no interaction before 2026-01-21 00:00" in capsys.readouterr().out
    assert small_lake.read("gold/vectors") == []


def fit_of(lake: SmallLake, version: str) -> dict[tuple[str, str], list[float]]:
    """The vectors of a fit by kind and id."""
    return {(row["kind"], row["id"]): row["values"] for row in lake.read("gold/vectors") if row["version"] == version}


def far_apart(one: dict[Any, list[float]], other: dict[Any, list[float]]) -> float:
    """The largest difference between vectors of the same ids."""
    assert one.keys() == other.keys()
    return max(float(np.abs(np.subtract(one[key], other[key])).max()) for key in one)


@pytest.mark.slow
def test_the_factors_are_the_same_whatever_the_number_of_tasks(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/interactions", *two_tastes())  # 40 pairs
    given = small_lake.shared_settings | {"cluster": {"driver_memory": "1g", "spark_master": "local[3]"}}
    fits = []
    for number, pairs_per_task in ((1, 40), (2, 20), (3, 14)):
        job.main(job.AlsSettings(**given, pairs_per_task=pairs_per_task, rank=4))
        assert f"tasks={number}" in capsys.readouterr().out
        fits.append(fit_of(small_lake, f"als-{number:06d}"))
    assert max(far_apart(fits[0], fit) for fit in fits[1:]) < 1e-3


def test_a_warm_start_goes_on_from_the_current_version_and_only_from_what_was_known_by_then(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/interactions", *two_tastes(), pair("x0", "a", split="valid", event_time=VALID_FROM))
    given = {**small_lake.shared_settings, "rank": 4, "cg_steps": 20, "half_life_days": None}
    job.main(job.AlsSettings(**given, num_iterations=4))
    cold = fit_of(small_lake, "als-000001")
    job.main(job.AlsSettings(**given, num_iterations=4, warm_iterations=2))
    warm, warm_valid = (fit_of(small_lake, name) for name in ("als-000002", "als-000002-valid"))
    job.main(job.AlsSettings(**given, num_iterations=6))
    for found, name in ((warm, "als-000003"), (warm_valid, "als-000003-valid")):
        assert far_apart(found, fit_of(small_lake, name)) < 1e-4, "four sweeps and two more are six"
    job.main(job.AlsSettings(**given, num_iterations=2))
    assert far_apart(warm, fit_of(small_lake, "als-000004")) > 1e-3
    at_noon = {**given, "time": {"as_of": "2026-01-20T12:00:00+00:00"}}
    job.main(job.AlsSettings(**at_noon, num_iterations=4, warm_iterations=1))
    assert far_apart(cold, fit_of(small_lake, "als-000005")) < 1e-4, "als-000004 has seen what came after noon"
    job.main(job.AlsSettings(**{**given, "rank": 8}, warm_iterations=2))
    assert "are of length 4, not 8" in capsys.readouterr().out


def test_a_fit_that_was_cut_off_goes_on_from_its_last_checkpoint(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small_lake.put("gold/interactions", *two_tastes())
    settings = job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=5, checkpoint_every=2)
    sweep, done = als_fit.sweep, []

    def cut_off(*given: Any, number: int) -> None:
        if number == 5 and 5 not in done:
            done.append(number)
            raise RetryableError("cut off")
        done.append(number)
        sweep(*given, number=number)

    monkeypatch.setattr(als_fit, "sweep", cut_off)
    with pytest.raises(TaskError, match="cut off"):
        job.main(settings)
    assert small_lake.read("gold/vectors") == []
    job.main(settings)
    assert done == [1, 2, 3, 4, 5, 5, 1, 2, 3, 4, 5]  # the second fit had not begun
    assert "als-000001 goes on after sweep 4" in capsys.readouterr().out
    assert not (small_lake.lake.folder / "files/als/als-000001").exists()
    resumed = fit_of(small_lake, "als-000001")
    job.main(settings)
    assert far_apart(resumed, fit_of(small_lake, "als-000002")) == 0


def test_a_run_that_was_cut_off_after_its_commit_only_says_so(
    job: ModuleType, small_lake: SmallLake, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_lake.put("gold/interactions", *two_tastes())
    settings = job.AlsSettings(**small_lake.shared_settings, rank=4)
    with monkeypatch.context() as patched:
        patched.setattr(als_fit.BlockedFits, "drop_checkpoints", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.main(settings)
    before = small_lake.lake.data_version("gold/vectors")
    assert (small_lake.lake.folder / "files/als/als-000001").exists()
    with monkeypatch.context() as patched:
        patched.setattr(als_fit, "sweep", lambda *_, **__: 1 / 0)
        job.main(settings)
    assert small_lake.lake.data_version("gold/vectors") == before
    (run,) = small_lake.read("ops/runs")[-1:]
    assert (run["run_id"], run["status"], run["rows"]) == ("als-000001", "done", 40)
    assert not (small_lake.lake.folder / "files/als/als-000001").exists()


@dataclass(frozen=True)
class KilledOnce(Checkpoints):
    """Kills its task, once, when it has left the second checkpoint of the first fit."""

    def leave(self, sweep: int, sides: Sides, *, rank: int, size: int) -> None:
        super().leave(sweep, sides, rank=rank, size=size)
        mark = Path(self.location).parent.parent / "killed"
        if sweep == 4 and rank == size - 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_task_of_spark_that_is_killed_is_begun_again_with_the_others_from_their_checkpoint(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Spark's workers do not find the tests
    small_lake.put("gold/interactions", *two_tastes())
    given = {**small_lake.shared_settings, "rank": 4, "num_iterations": 5, "checkpoint_every": 2}
    job.main(job.AlsSettings(**given))
    alone = fit_of(small_lake, "als-000001")
    capsys.readouterr()
    monkeypatch.setattr(als_fit, "Checkpoints", KilledOnce)
    in_spark = given | {"cluster": {"driver_memory": "1g", "spark_master": "local[2,1]"}}
    job.main(job.AlsSettings(**in_spark, pairs_per_task=20))
    told = capsys.readouterr().out
    assert (small_lake.lake.folder / "files/als/killed").exists()
    assert re.search(r"als-000002 goes on after sweep (2|4) ", told)  # 4 where the other task had left its own too
    assert "tasks=2" in told
    assert far_apart(alone, fit_of(small_lake, "als-000002")) < 1e-3


@pytest.mark.bad_input("a checkpoint of another shape")
def test_a_checkpoint_of_another_shape_is_left_alone_with_a_line(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/interactions", *two_tastes())
    left = Checkpoints(small_lake.lake.uri("files/als/als-000001/als-000001"), every=2)
    shape = np.zeros((1, 3), np.float32)
    left.leave(2, [(kind, pa.array(["x0"]), shape) for kind in ("user", "item")], rank=0, size=1)
    job.main(job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=4))
    told = capsys.readouterr().out
    assert "als-000001: the checkpoint after sweep 2 is of another shape, and left alone" in told
    fresh = fit_of(small_lake, "als-000001")
    job.main(job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=4))
    assert far_apart(fresh, fit_of(small_lake, "als-000002")) == 0


def test_a_search_takes_what_finds_most_on_the_validation_window_and_keeps_what_it_tried(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [  # by one number alone, users of two tastes cannot be told apart
        pair(f"{taste}{number}", missing, split="valid", event_time=VALID_FROM)
        for taste, letters in (("x", "abcde"), ("y", "fghij"))
        for number, missing in enumerate(letters)
    ]
    small_lake.put("gold/interactions", *two_tastes(), *wanted)
    given = {**small_lake.shared_settings, "rank": 1, "num_iterations": 4}
    job.main(job.AlsSettings(**given, search=True))
    tried = json.loads((small_lake.lake.folder / "files/als/als-000001.json").read_text())
    assert len(tried) == 9, "what is set, two half-lives, two regularizations, two alphas, and ranks of 2 and 4"
    assert tried == sorted(tried, key=lambda trial: -trial[METRIC])
    chosen = {name: tried[0][name] for name in ("rank", "alpha", "regularization", "half_life_days")}
    assert chosen["rank"] == 2
    assert tried[0][METRIC] > max(trial[METRIC] for trial in tried if trial["rank"] == 1)
    assert "tried  rank=1" in capsys.readouterr().out
    searched = fit_of(small_lake, "als-000001")
    job.main(job.AlsSettings(**{**given, **chosen}))
    assert far_apart(searched, fit_of(small_lake, "als-000002")) == 0
    assert {row["version"] for row in small_lake.read("gold/vectors")} == {"als-000002", "als-000002-valid"}


def test_earlier_fits_know_nothing_later_and_stay_with_their_version(job: ModuleType, small_lake: SmallLake) -> None:
    # Windows of ten days: as of the 21st, the 11th (which is what the version is judged by) and the 1st.
    first = START - timedelta(days=20)
    rows = [{**row, "event_time": first} for row in two_tastes()]
    small_lake.put_events({"event_time": first}, {"event_time": END - timedelta(seconds=1)})
    small_lake.put("gold/interactions", *rows, pair("late", "a", event_time=START))
    settings = job.AlsSettings(**small_lake.shared_settings, rank=4, num_iterations=2, num_fits_before=2)
    job.main(settings)
    fits = {row["version"]: row["as_of"] for row in small_lake.read("gold/vectors")}
    assert fits == {"als-000001": TEST_FROM, "als-000001-valid": VALID_FROM, "als-000001-earlier-2": START}
    assert ("user", "late") in fit_of(small_lake, "als-000001")
    assert ("user", "late") not in fit_of(small_lake, "als-000001-earlier-2")
    assert [row["version"] for row in small_lake.read("ops/models")] == ["als-000001"]


@pytest.mark.parametrize("engine", ["blocked", pytest.param("mllib", marks=pytest.mark.slow)])
@pytest.mark.bad_input("one user with one item")
def test_one_user_with_one_item_has_factors(job: ModuleType, small_lake: SmallLake, engine: str) -> None:
    small_lake.put("gold/interactions", pair("ann", "a"))
    job.main(job.AlsSettings(**small_lake.shared_settings, engine=engine))
    fit = fit_of(small_lake, "als-000001")
    assert set(fit) == {("user", "ann"), ("item", "a")}
    assert np.dot(fit["user", "ann"], fit["item", "a"]) > 0.5
    assert [row["status"] for row in small_lake.read("ops/models")] == ["promoted"]


@pytest.mark.slow
@pytest.mark.bad_input("fewer rows than workers")
def test_tasks_without_a_user_or_an_item_work_with_the_others(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put("gold/interactions", pair("ann", "a"), pair("ann", "b"))
    given = small_lake.shared_settings | {"cluster": {"driver_memory": "1g", "spark_master": "local[2]"}}
    job.main(job.AlsSettings(**given, pairs_per_task=1, rank=4))
    fit = fit_of(small_lake, "als-000001")
    assert set(fit) == {("user", "ann"), ("item", "a"), ("item", "b")}


@pytest.mark.bad_input("a weight that is no number")
@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_no_finite_number_is_refused_and_no_table_changes(
    job: ModuleType, small_lake: SmallLake, weight: float
) -> None:
    small_lake.put("gold/interactions", *two_tastes(), pair("eve", "a", weight=weight))
    with pytest.raises(TaskError) as error:
        job.main(job.AlsSettings(**small_lake.shared_settings))
    told = "gold/interactions: 1 rows have a weight that is no finite number; run featurize again"
    assert ending_of(error.value) == (told, ExitCode.REFUSED)
    assert small_lake.read("gold/vectors") == []
    assert small_lake.read("ops/models") == []
