"""The evaluate job's question `next`, on a few visits whose figures are worked by hand, and with another future."""

from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from lib.cli.jobs import load_job
from lib.engines.spark import start_run
from lib.models import sequence_weights
from lib.models.sequence import SequenceModel, weights_of
from lib.next_item.learning import visits_before
from lib.pipeline import JOBS
from lib.runs import model_registry
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake
from tests.lib.next_item.clicks import visits

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["evaluate"])


def visit(name: str, at: datetime, *items: str, user: str | None = None, step: timedelta = MINUTE) -> dict[str, Any]:
    times = [at + number * step for number in range(len(items))]
    return {
        "session_id": name,
        "user_key": user,
        "event_date": at.date(),
        "split": "train" if at < VALID_FROM else "valid" if at < TEST_FROM else "test",
        "started_at": at,
        "ended_at": times[-1],
        "num_events": len(items),
        "items": list(items),
        "event_types": ["view"] * len(items),
        "event_times": times,
    }


EARLIER = (
    visit("s1", START, "a", "b", user="ann"),
    visit("s2", START + DAY, "a", "b"),
    visit("s3", START + 2 * DAY, "a", "c"),
)


def settings_of(job: ModuleType, lake: SmallLake, **settings: Any) -> Any:
    return job.EvaluateSettings(**lake.shared_settings, **{"num_resamples": 100, "k": 2, "next_k": 3} | settings)


def measured(job: ModuleType, lake: SmallLake, **settings: Any) -> dict[tuple[str, str, str], dict[str, Any]]:
    job.main(settings_of(job, lake, **settings))
    rows = lake.read("gold/ranking_metrics")
    assert {row["question"] for row in rows} <= {"next"}
    return {(row["segment"], row["strategy"], row["metric"]): row for row in rows}


def test_next_is_asked_where_nobody_has_a_list_and_nobody_is_known(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put(
        "gold/sessions",
        *EARLIER,
        visit("alone", TEST_FROM, "a"),  # asks nothing
        visit(
            "t1", TEST_FROM, "a", "b", "a", user="ann"
        ),  # b is the second popular item and the first successor; a a repeat
        visit("t2", TEST_FROM + DAY, "c", "new"),  # nobody has seen it before: a miss that counts
    )
    rows = measured(job, small_lake)
    expected = {
        ("all", "popularity", "hit_rate"): 2 / 3,
        ("all", "popularity", "mrr"): (1 / 2 + 1 + 0) / 3,
        ("all", "successor", "mrr"): 1 / 3,
        ("all", "successor", "mrr_minus_popularity"): (1 / 2 - 1) / 3,
        ("all", "own_items", "hit_rate"): 1 / 3,
        ("other_item", "own_items", "hit_rate"): 0.0,
        ("other_item", "popularity", "mrr"): 1 / 4,
        ("returning", "popularity", "mrr"): 3 / 4,
        ("unseen", "popularity", "mrr"): 0.0,
    }
    assert {key: rows[key]["value"] for key in expected} == pytest.approx(expected)
    assert {rows[key]["num_users"] for key in expected if key[0] == "all"} == {3}
    assert rows["all", "successor", "mrr"]["num_without_list"] == 2  # nothing ever came after b and after c
    assert (rows["all", "blend", "ndcg"]["k"], rows["all", "blend", "mrr"]["k"]) == (2, 3)
    assert {(row["as_of"], row["split"]) for row in rows.values()} == {(TEST_FROM, "test")}


def test_as_of_valid_from_the_validation_window_is_judged_until_the_test_window_begins(
    job: ModuleType, small_lake: SmallLake
) -> None:
    small_lake.put(
        "gold/sessions",
        *EARLIER,
        visit("v1", VALID_FROM, "a", "b"),
        visit("v2", TEST_FROM - MINUTE, "a", "c", "b"),  # c and b come too late
        visit("t1", TEST_FROM, "a", "b"),
    )
    rows = measured(job, small_lake, time={"as_of": "valid_from"})
    assert rows["all", "popularity", "mrr"]["num_users"] == 1
    assert rows["all", "popularity", "mrr"]["value"] == 1 / 2


def test_another_future_changes_no_score(job: ModuleType, tmp_path: Path) -> None:
    learnt = [
        visit(f"s{number}", START + number * timedelta(minutes=70), *items) for number, items in enumerate(visits(400))
    ]
    assert max(row["ended_at"] for row in learnt) < TEST_FROM
    across = [visit("across", TEST_FROM - MINUTE, "i001", "i002", step=2 * MINUTE)]
    futures = [
        [visit("t", TEST_FROM, "i001", "i002"), *across],
        [
            *(visit(f"t{number}", TEST_FROM + DAY, "i001", "i199") for number in range(300)),
            {**across[0], "items": ["i001", "i199"]},
        ],
    ]
    asked, said = visits(50, seed=1), []
    for number, future in enumerate(futures):
        lake = SmallLake(tmp_path / str(number))
        lake.put("gold/sessions", *learnt, *future)
        settings = settings_of(job, lake)
        with start_run("evaluate", settings) as run:
            model = job.next_model(run, settings)
        said.append((model.rank_many(asked), model.chosen, model.held_out, model.catalogue.items.to_list()))
    assert said[0] == said[1]


def test_the_sequence_model_of_before_is_a_strategy_and_neither_a_later_one_nor_a_candidate_or_an_unreadable_one(
    job: ModuleType, small_lake: SmallLake
) -> None:
    small_lake.put(
        "gold/sessions",
        *(
            visit(f"s{number}", START + number * timedelta(minutes=70), *items)
            for number, items in enumerate(visits(290))
        ),
        visit("v", VALID_FROM + DAY, "i001", "i002"),
        visit("t", TEST_FROM, "i001", "i002"),
    )

    def strategies() -> tuple[str, ...]:
        settings = settings_of(job, small_lake)
        with start_run("evaluate", settings) as run:
            found: tuple[str, ...] = job.next_model(run, settings).strategies
            return found

    assert "sequence" not in strategies()
    put_sequence_model(small_lake, "train_sequence-000001", as_of=TEST_FROM, status="candidate")
    put_sequence_model(small_lake, "train_sequence-000002", as_of=TEST_FROM + DAY)
    assert "sequence" not in strategies()
    folder = put_sequence_model(small_lake, "train_sequence-000003", as_of=TEST_FROM, status="retired")
    assert "sequence" in strategies()
    (folder / "sequence-valid.safetensors").unlink()
    assert "sequence" not in strategies()


def put_sequence_model(lake: SmallLake, version: str, *, as_of: datetime, status: str = "promoted") -> Path:
    """Register a version of a model that has learnt nothing yet; returns its folder."""
    folder = lake.lake.files("sequence", version)
    names = tuple(sorted({item for items in visits(290) for item in items}))
    model = SequenceModel(len(names), num_dimensions=4, num_blocks=1, num_heads=1, length=5, dropout=0.0)
    for fit in ("sequence", "sequence-valid"):
        sequence_weights.save(weights_of(model, names), folder, fit, tables={})
    row = {
        "model": "sequence",
        "version": version,
        "uri": f"files/sequence/{version}",
        "run_id": version,
        "inputs": [],
    }
    row |= {"sha256": None, "status": status, "reason": None, "as_of": as_of, "num_parameters": 1, "created_at": as_of}
    model_registry.register_model(lake.lake, row)
    return folder


def test_only_the_latest_visits_are_learnt_from_where_they_are_many(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put("gold/sessions", *(visit(f"s{number}", START + number * DAY, f"i{number}") for number in range(19)))
    settings = settings_of(job, small_lake)
    with start_run("evaluate", settings) as run:
        assert visits_before(run, "gold/sessions", at_most=3)["items"].to_list() == [["i16"], ["i17"], ["i18"]]
        assert visits_before(run, "gold/sessions", at_most=100).height == 19


@pytest.mark.bad_input("one visit, one item, or visits of one event")
@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ([visit("s", START, "a", "b")], "no visit of two events begins in the test window"),
        ([visit("s", START, "a", "b"), visit("t", TEST_FROM, "a")], "no visit of two events begins in the test window"),
        ([visit("t", TEST_FROM, "a", "b")], "no visit begins before 2026-01-21 00:00 to learn from"),
    ],
)
def test_where_nothing_can_be_asked_one_line_says_why_and_no_table_is_made(
    job: ModuleType,
    small_lake: SmallLake,
    capsys: pytest.CaptureFixture[str],
    stored: list[dict[str, Any]],
    why: str,
) -> None:
    small_lake.put("gold/sessions", *stored)
    assert measured(job, small_lake) == {}
    assert f"skipped: there is no gold/recommendations; {why}" in capsys.readouterr().out


@pytest.mark.bad_input("one visit, one item, or visits of one event")
def test_one_item_that_comes_again_is_the_answer(job: ModuleType, small_lake: SmallLake) -> None:
    small_lake.put("gold/sessions", visit("s", START, "a"), visit("t", TEST_FROM, "a", "a"))
    rows = measured(job, small_lake)
    assert rows["all", "best", "mrr"]["value"] == rows["repeat", "popularity", "mrr"]["value"] == 1.0
    assert rows["other_item", "best", "mrr"]["value"] is None


@pytest.mark.bad_input("a list that is longer than the catalogue")
def test_a_list_that_holds_every_known_item_is_told_so(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/sessions", *EARLIER, visit("t", TEST_FROM, "a", "b"))
    rows = measured(job, small_lake, next_k=1000)
    assert "next: a list of 1000 holds all 3 items that are known: most are hits" in capsys.readouterr().out
    assert rows["all", "popularity", "hit_rate"]["value"] == 1.0


def test_of_very_many_events_about_so_many_are_asked_for_as_the_settings_say(
    job: ModuleType, small_lake: SmallLake, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put(
        "gold/sessions",
        *EARLIER,
        *(visit(f"t{number}", TEST_FROM + number * MINUTE, "a", "b") for number in range(400)),
    )
    all_of_them = measured(job, small_lake)["all", "popularity", "mrr"]["num_users"]
    some = measured(job, small_lake, next_judged=100)["all", "popularity", "mrr"]["num_users"]
    assert all_of_them == 400
    assert 60 <= some <= 140
    assert "next: asked  events=100  of_events=400" in capsys.readouterr().out
