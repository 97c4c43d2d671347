"""The job train_ranker on two real Ray Train workers, on a shop in which people buy again what they bought first."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lib.candidates.examples import Examples, joined
from lib.candidates.features import FEATURES
from lib.candidates.ranker import load
from lib.candidates.trees import Trees
from lib.cli.jobs import load_job
from lib.engines.ray_tasks import RayParts
from lib.pipeline import JOBS
from lib.runs import model_registry
from tests.jobs.ray.killed import run_to_a_broken_end
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake
from tests.lib.candidates.test_networks import of_taste
from tests.lib.candidates.test_ranker import planted

NUM_USERS, NUM_ITEMS = 60, 20
OPTIONS: dict[str, Any] = {
    "max_trees": 10,
    "min_leaf_candidates": 5,
    "num_windows": 2,
    "num_proposed": 5,
    "min_support": 1,
}


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_ranker"])


def shop(lake: SmallLake, *, future: int = 0) -> None:
    """Everybody buys an item every other day, from ten days before the start on, in most cases again what they bought first."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(NUM_USERS):
        own = rng.integers(NUM_ITEMS)
        for day in range(user % 3 - 10, 30, 2):
            item = own if rng.random() < 0.7 else rng.integers(NUM_ITEMS)
            time = START + timedelta(days=day)
            rows.append({"user_key": f"u{user:02}", "item_id": f"i{item:02}", "event_time": time})
    known = [row for row in rows if row["event_time"] < TEST_FROM + timedelta(days=future)]
    base = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1}
    lake.put("gold/interactions", *known, base=base)


def settings_of(job: ModuleType, lake: SmallLake, **more: Any) -> Any:
    return job.TrainRankerSettings(**lake.shared_settings, **(OPTIONS | more))


def version_of(lake: SmallLake) -> tuple[Path, dict[str, Any]]:
    """The folder of the current version, and what it says of itself."""
    current = model_registry.current_model(lake.lake, "ranker")
    assert current is not None
    folder = lake.lake.local(current["uri"])
    return folder, json.loads((folder / "ranker.json").read_text())


@pytest.mark.slow
def test_two_workers_learn_what_people_buy_again_and_neither_a_kill_nor_the_future_changes_anything(
    job: ModuleType, small_lake: SmallLake, on_workers: None
) -> None:
    kinds = ("trees", "listwise", "neural", "blend")
    options = {"kinds": kinds, "num_epochs": 4}
    shop(small_lake)
    run_to_a_broken_end(
        job,
        settings_of(job, small_lake, **options),
        checkpoints=small_lake.lake.folder / "files" / "ranker",
        after_checkpoints=1,
        last_output="publish",
    )
    fits = []
    for future in (0, 6):
        if future:
            shop(small_lake, future=future)
        job.main(settings_of(job, small_lake, **options))
        folder, known = version_of(small_lake)
        assert known["features"] == list(FEATURES)
        assert known["learned_until"] == {"ranker": TEST_FROM.isoformat(), "ranker-valid": VALID_FROM.isoformat()}
        files = sorted(file for file in folder.glob("ranker*") if file.name != "ranker.json")
        assert {file.name.partition(".")[0] for file in files} >= {"ranker", "ranker-valid"}
        fits.append([known["kind"], *(file.read_bytes() for file in files)])
    assert fits[0] == fits[1]
    metrics = {row["metric"]: row["value"] for row in small_lake.read("gold/model_metrics")}
    assert metrics["all NDCG@10"] > 0.5 > metrics["new NDCG@10"]
    assert metrics["all NDCG@10 of trees"] > 0.5
    of_both = {kind: metrics[f"all NDCG@10 of {kind}"] + metrics[f"new NDCG@10 of {kind}"] for kind in kinds}
    best = max(kinds, key=of_both.__getitem__)
    assert known["kind"] == best
    for other in set(kinds) - {best}:
        lead = metrics[f"all NDCG@10 of {best}"] - metrics[f"all NDCG@10 of {other}"]
        assert metrics[f"all NDCG@10_minus_{other}"] == pytest.approx(lead)

    kind = "neural" if best == "trees" else "trees"
    job.main(settings_of(job, small_lake, kinds=(kind,), num_epochs=4, max_loss_frac=1))
    folder, known = version_of(small_lake)
    assert known["kind"] == kind
    assert isinstance(load(folder, "ranker"), Trees) == (kind == "trees")
    newest = small_lake.read("ops/models")[-1]
    assert "all NDCG@10" in newest["reason"] and "on 60 validation rows" in newest["reason"]


def banded(seed: int) -> Examples:
    """Wanted is what lies in every other of ten narrow bands of one feature: trees cut them out, a small network does not."""
    examples = planted(seed, num_users=100)
    label = (np.floor(10 * examples.features[:, FEATURES.index("als")]) % 2 * (examples.features[:, 0] > 0.8)).astype(
        np.int8
    )
    return with_labels(examples, label)


def summed(seed: int) -> Examples:
    """Wanted is what is highest in the sum of all features, which takes trees many cuts."""
    examples = planted(seed, num_users=100)
    return with_labels(examples, (examples.features.sum(axis=1) > len(FEATURES) / 2 + 2.5).astype(np.int8))


def with_labels(examples: Examples, label: NDArray[np.int8]) -> Examples:
    wanted = [np.bincount(examples.group, weights=label * shown) for shown in (np.ones(len(label)), examples.is_new)]
    return examples._replace(label=label, num_wanted=np.column_stack(wanted).astype(np.int64))


def both(seed: int) -> Examples:
    """Wanted is what the bands and the sum together put first: neither kind finds all of it."""
    cut, added = banded(seed), summed(seed)
    label = np.concatenate([cut.label, added.label])
    return joined([cut, added])._replace(label=label)


@pytest.mark.parametrize(
    ("made", "best"), [(banded, "trees"), (summed, "listwise"), (of_taste, "neural"), (both, "blend")]
)
def test_validation_chooses_the_kind_that_finds_what_was_planted(
    job: ModuleType, small_lake: SmallLake, made: Callable[[int], Examples], best: str
) -> None:
    kinds = ("trees", "listwise", "blend" if best == "blend" else "neural")
    rates = {"num_epochs": 20, "users_at_once": 16, "neural_learning_rate": 3e-3}
    settings = settings_of(job, small_lake, kinds=kinds, max_trees=60, **rates)
    learned, valid = joined([made(seed) for seed in range(4)]), made(4)
    item_ids = None if valid.pairs is None else valid.pairs.item_ids
    task = job.task_of(settings, RayParts([], None), ["before", "last"], item_ids)
    first: dict[str, Any] = {}
    for kind in kinds:
        first[kind] = job.first_fit(task, kind, first, learned, valid)
    assert job.chosen(task, {"first": first}) == best
    assert first["trees"]["ndcg"] == max(first["trees"]["curve"])
    assert first["listwise"]["ndcg"] == first["listwise"]["curve"][-1]
    served = job.last_fit(task, best, first, learned)  # the same windows, so the same fit
    expected = job.unpacked(first[best]["fit"]).scores(valid.features, valid.pairs)
    np.testing.assert_array_equal(served.scores(valid.features, valid.pairs), expected)


def test_without_a_window_to_validate_by_the_first_kind_serves(job: ModuleType, small_lake: SmallLake) -> None:
    settings = settings_of(job, small_lake, kinds=("neural", "listwise"), num_epochs=3)
    task = job.task_of(settings, RayParts([], None), ["only"], None)
    assert job.chosen(task, {"first": {}}) == "neural"
    learned = summed(0)
    for kind in ("neural", "trees"):
        assert np.ptp(job.last_fit(task, kind, {}, learned).scores(learned.features, learned.pairs)) > 0


@pytest.mark.parametrize(
    ("kinds", "said"),
    [(("trees", "blend"), "after two"), (("blend", "trees", "neural"), "last"), (("trees",) * 2, "twice")],
)
def test_kinds_that_make_no_sense_together_are_refused(
    job: ModuleType, small_lake: SmallLake, kinds: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        settings_of(job, small_lake, kinds=kinds)


@pytest.mark.bad_input("one user with one item")
def test_too_few_users_to_learn_from_are_told_in_one_line(
    job: ModuleType, small_lake: SmallLake, on_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 1, "user_key": "ann", "item_id": "a"}
    small_lake.put("gold/interactions", {"event_time": START}, {"event_time": VALID_FROM}, base=base)
    job.main(settings_of(job, small_lake))
    assert "skipped: 1 user bought something in the windows before 2026-01-21 00:00" in capsys.readouterr().out
    assert model_registry.current_model(small_lake.lake, "ranker") is None


@pytest.mark.bad_input("no positive label")
def test_where_nobody_bought_anything_that_could_have_been_known_the_run_is_skipped(
    job: ModuleType, small_lake: SmallLake, on_workers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    base = {"split": "train", "weight": 1.0, "count": 1, "num_relevant": 0, "user_key": "ann", "item_id": "a"}
    small_lake.put("gold/interactions", {"event_time": START}, {"event_time": VALID_FROM}, base=base)
    job.main(settings_of(job, small_lake))
    assert "skipped: 0 users bought something in the windows before 2026-01-21 00:00" in capsys.readouterr().out
    assert model_registry.current_model(small_lake.lake, "ranker") is None
