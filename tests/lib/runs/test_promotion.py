"""Which new version of a model becomes the current one, on scores worked by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deltalake import DeltaTable, write_deltalake

from lib.lake.lake import CONTRACT_VERSION, Lake
from lib.runs import model_registry
from lib.runs.promotion import Row, Scores, decide, moments_of_fits, rows_of_version, settle, validation_from
from lib.runs.run import Run, start_run
from lib.settings import JobSettings
from lib.tables.ops import MODELS
from tests.lakes import END, START, TEST_FROM, VALID_FROM, SmallLake, arrow_rows


class ExperimentSettings(JobSettings):
    """Stands for any job that trains a model."""


def scores(new: list[float], current: list[float]) -> Scores:
    return Scores({"ndcg@10": np.array(new)}, {"ndcg@10": np.array(current)})


@pytest.mark.parametrize(
    ("new", "status"),
    [([0.5, 0.5], "promoted"), ([0.9, 0.9], "promoted"), ([0.45, 0.46], "promoted"), ([0.44, 0.45], "candidate")],
)
def test_a_version_may_lose_a_tenth_of_the_current_ones_mean_and_no_more(new: list[float], status: str) -> None:
    verdict = decide(scores(new, [0.4, 0.6]), current="als-000001", max_loss_frac=0.1)
    assert verdict.status == status
    assert f"ndcg@10 {np.mean(new):.4f}, als-000001's 0.5000" in verdict.reason
    assert "2 validation rows" in verdict.reason


def test_scores_below_zero_such_as_log_likelihoods_lose_by_their_size() -> None:
    verdict = decide(scores([-0.56], [-0.5]), current="encoder-1", max_loss_frac=0.1)
    assert verdict.status == "candidate"
    assert decide(scores([-0.54], [-0.5]), current="encoder-1", max_loss_frac=0.1).status == "promoted"


def test_scores_that_are_no_numbers_are_too_low() -> None:
    assert decide(scores([float("nan"), 1.0], [0.5, 0.5]), current="gan-1", max_loss_frac=1.0).status == "candidate"


def test_one_metric_that_is_too_low_is_enough_and_is_named() -> None:
    both = Scores(
        {"quality": np.array([0.5]), "coverage": np.array([0.1])},
        {"quality": np.array([0.4]), "coverage": np.array([0.5])},
    )
    verdict = decide(both, current="gan-1", max_loss_frac=0.1)
    assert verdict.status == "candidate"
    assert verdict.reason.endswith("too low in coverage")


def test_without_rows_it_stands_as_a_candidate_and_against_one_that_cannot_be_scored_it_is_promoted() -> None:
    assert decide(scores([], []), current="als-000001", max_loss_frac=0.1).status == "candidate"
    assert decide(Scores(), current="als-000001", max_loss_frac=0.1).status == "candidate"
    verdict = decide(Scores(why="its file is gone"), current="als-1", max_loss_frac=0.1)
    assert verdict == ("promoted", "als-1 cannot be scored on today's validation rows: its file is gone")


class Shop(SmallLake):
    """A lake on which versions of a model are settled."""

    def settle(self, score: Callable[[Row], Scores], as_of: str = "test_from", *, end: bool = True) -> tuple[Run, Any]:
        """One run that settles its version; one that does not end is taken up by the next."""
        settings = ExperimentSettings(**self.shared_settings, time={"as_of": as_of})
        try:
            with start_run("experiment", settings) as run:
                kept = settle(run, "als", score, max_loss_frac=0.1, folder="gold/vectors", num_parameters=1)
                if not end:
                    raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        return run, kept

    @property
    def statuses(self) -> dict[str, str]:
        return {row["version"][-1]: row["status"] for row in model_registry.models(self.lake)}


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def never(_: Row) -> Scores:
    raise AssertionError("there is nothing to compare")


def test_the_first_version_is_promoted_a_worse_one_waits_and_a_better_one_follows(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    assert shop.settle(never)[1] is None
    asked: list[str] = []
    _, kept = shop.settle(lambda current: asked.append(current["version"]) or scores([0.1], [0.5]))
    assert asked == [kept] == ["experiment-000001"]
    assert "als experiment-000002 stands as a candidate: ndcg@10 0.1000, experiment-000001's 0.5000" in (
        capsys.readouterr().out
    )
    assert shop.statuses == {"1": "promoted", "2": "candidate"}
    assert model_registry.candidates(shop.lake, "als") == {"experiment-000002"}
    assert shop.settle(lambda _: scores([0.6], [0.5]))[1] is None
    assert shop.statuses == {"1": "retired", "2": "candidate", "3": "promoted"}
    rows = model_registry.models(shop.lake)
    assert [row["reason"].split(":")[0] for row in rows] == [
        "it is the first version",
        "ndcg@10 0.1000, experiment-000001's 0.5000",
        "ndcg@10 0.6000, experiment-000001's 0.5000",
    ]
    assert {row["as_of"] for row in rows} == {TEST_FROM}


def test_a_run_that_is_taken_up_again_keeps_its_decision(shop: Shop) -> None:
    shop.settle(never)
    first, kept = shop.settle(lambda _: scores([0.1], [0.5]), end=False)
    again, kept_again = shop.settle(never)
    assert (again.run_id, kept_again) == (first.run_id, kept)
    first, kept = shop.settle(lambda _: scores([0.6], [0.5]), end=False)
    again, kept_again = shop.settle(never)
    assert again.run_id == first.run_id
    assert kept is None
    assert kept_again is None


def test_a_version_as_of_an_earlier_time_replaces_nothing_and_a_later_one_is_judged_by_the_last_rows(
    shop: Shop,
) -> None:
    shop.settle(never)
    _, kept = shop.settle(never, as_of="valid_from")
    assert kept == "experiment-000001"
    assert shop.statuses == {"1": "promoted", "2": "retired"}
    assert "as of 2026-01-11" in model_registry.models(shop.lake)[-1]["reason"]
    later, _ = shop.settle(lambda _: scores([0.5], [0.5]), as_of="end")
    assert shop.statuses == {"1": "retired", "2": "retired", "3": "promoted"}
    assert (validation_from(later), later.as_of) == (TEST_FROM, END)
    window = TEST_FROM - VALID_FROM
    assert list(moments_of_fits(later, "als-7", 3).items()) == [
        ("als-7-earlier-3", END - 3 * window),
        ("als-7-earlier-2", END - 2 * window),
        ("als-7-valid", TEST_FROM),
        ("als-7", END),
    ]
    assert [*moments_of_fits(later, "als")] == ["als-valid", "als"]
    assert {model_registry.version_of(fit) for fit in moments_of_fits(later, "als-7", 12)} == {"als-7"}


def test_the_rows_of_a_versions_fits_are_its_own(shop: Shop) -> None:
    vector = {"model": "als", "kind": "item", "id": "a", "values": [1.0], "as_of": START}
    names = ("als-1", "als-1-valid", "als-2")
    shop.put(
        "gold/vectors", *({**vector, "version": name} for name in names), {**vector, "model": "x", "version": "als-1"}
    )
    found = rows_of_version(shop.lake, "gold/vectors", "als", "als-1")
    assert sorted(found["version"].to_pylist()) == ["als-1", "als-1-valid"]
    assert rows_of_version(shop.lake, "gold/vectors", "als", None).num_rows == 0
    assert rows_of_version(shop.lake, "gold/model_metrics", "als", "als-1").num_rows == 0


def test_a_table_of_models_that_an_earlier_release_wrote_gains_the_new_columns(tmp_path: Path) -> None:
    row = {"model": "als", "version": "als-1", "uri": "u", "run_id": "r", "inputs": [], "status": "promoted"}
    older = Lake(str(tmp_path))
    rows = arrow_rows(MODELS, row | {"created_at": START}).drop_columns(["reason", "as_of", "settings", "curves"])
    marked = {CONTRACT_VERSION: "1"}
    DeltaTable.create(older.uri("ops/models"), rows.schema, configuration=marked, raise_if_key_not_exists=False)
    write_deltalake(older.uri("ops/models"), rows, mode="append")
    model_registry.register_model(older, row | {"version": "als-2", "reason": "better", "created_at": VALID_FROM})
    assert [(r["version"], r["status"], r["reason"]) for r in model_registry.models(older)] == [
        ("als-1", "retired", None),
        ("als-2", "promoted", "better"),
    ]
    assert older.dataset("ops/models").schema.names == MODELS.schema.names
