"""The train_sequence job on visits that each go round the items: killed and rerun, with another future, and with too little to learn."""

from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from lib.cli.jobs import load_job
from lib.models import sequence_weights
from lib.models.sequence_weights import NEXT
from lib.pipeline import JOBS
from lib.runs import model_registry
from tests.jobs.ray.killed import run_to_a_broken_end
from tests.lakes import START, TEST_FROM, VALID_FROM, SmallLake

NUM_USERS, NUM_ITEMS = 24, 8
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
SMALL = {
    "num_epochs": 6,
    "more_epochs": 2,
    "batch_events": 64,
    "dimensions": 16,
    "num_blocks": 1,
    "length": 8,
    "learning_rate": 2e-2,
}


class SequenceLake(SmallLake):
    """A lake of visits, and of what was bought in them."""

    def put_visits(self, *later: dict[str, Any], num_users: int = NUM_USERS) -> None:
        """Each user goes on where the visit before ended, by four items in each of four visits before the windows and one in valid."""
        rows = []
        for user in range(num_users):
            for number, day in enumerate((0, 2, 4, 6, 12)):
                items = [f"i{(user + 4 * number + step) % NUM_ITEMS}" for step in range(4)]
                rows.append(visit(f"s{user}-{number}", f"u{user:02d}", START + day * DAY, items))
        rows.append(visit("nobody", None, START, ["i0", "i1"]))
        self.put("gold/sessions", *rows, *later)
        bought = [row for row in rows if row["user_key"] and row["started_at"] >= VALID_FROM]
        counts = {"weight": 1.0, "count": 1, "num_relevant": 1, "split": "valid"}
        self.put(
            "gold/interactions",
            *(
                {"user_key": row["user_key"], "item_id": item, "event_time": row["started_at"]}
                for row in bought
                for item in row["items"]
            ),
            base=counts,
        )

    def settings(self, job: ModuleType, **overrides: Any) -> Any:
        return job.TrainSequenceSettings(**(self.shared_settings | SMALL | overrides))


def visit(name: str, user: str | None, at: Any, items: list[str]) -> dict[str, Any]:
    times = [at + number * MINUTE for number in range(len(items))]
    return {
        "session_id": name,
        "user_key": user,
        "event_date": at.date(),
        "split": "train" if at < VALID_FROM else "valid" if at < TEST_FROM else "test",
        "started_at": at,
        "ended_at": times[-1],
        "num_events": len(items),
        "items": items,
        "event_types": ["purchase"] * len(items),
        "event_times": times,
    }


@pytest.fixture
def small_lake(tmp_path: Path) -> SequenceLake:
    return SequenceLake(tmp_path)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["train_sequence"])


@pytest.mark.slow
def test_a_killed_worker_and_a_failed_job_leave_what_one_whole_run_does_and_a_moved_future_changes_nothing(
    small_lake: SequenceLake, tmp_path: Path, job: ModuleType, on_workers: None, capfd: pytest.CaptureFixture[str]
) -> None:
    small_lake.put_visits(visit("future", "u00", TEST_FROM, ["i7", "new"]))
    settings = small_lake.settings(job)
    run_to_a_broken_end(
        job,
        settings,
        checkpoints=small_lake.lake.folder / "files" / "sequence",
        after_checkpoints=3,
        last_output="publish",
    )
    assert not small_lake.lake.exists("gold/vectors")
    capfd.readouterr()
    job.main(settings)
    assert "resumes train_sequence-000001" in capfd.readouterr().out
    stored = small_lake.read("gold/vectors")
    kinds = {(row["version"], row["as_of"], row["kind"], row["id"]) for row in stored}
    users, items = [f"u{user:02d}" for user in range(NUM_USERS)], [f"i{item}" for item in range(NUM_ITEMS)]
    fits = (("train_sequence-000001", TEST_FROM), ("train_sequence-000001-valid", VALID_FROM))
    assert kinds == {
        (version, as_of, kind, name)
        for version, as_of in fits
        for kind, names in (("user", users), ("item", items))
        for name in names
    }
    current = model_registry.current_model(small_lake.lake, "sequence")
    assert current is not None
    weights = sequence_weights.load(small_lake.lake.folder / current["uri"], "sequence")
    assert weights.item_ids == tuple(items)
    found = weights.vectors([np.array([item, item % NUM_ITEMS + 1]) for item in range(1, 9)], purpose=NEXT)
    following = (found @ weights.item_vectors.T).argmax(axis=1)
    assert (following == (np.arange(1, 9) + 1) % NUM_ITEMS).mean() >= 0.8, "whoever begins anywhere goes on round"

    other = SequenceLake(tmp_path / "other")
    other.put_visits(
        visit("future", "u01", TEST_FROM, ["i0", "i3", "other"]), visit("more", "u99", TEST_FROM, ["i1"] * 3)
    )
    job.main(other.settings(job))
    again = other.read("gold/vectors")
    assert [row | {"values": None} for row in again] == [row | {"values": None} for row in stored]
    np.testing.assert_allclose([row["values"] for row in again], [row["values"] for row in stored], atol=1e-5)

    capfd.readouterr()
    job.main(other.settings(job, learning_rate=1e-7, num_epochs=1))
    assert "sequence train_sequence-000002 stands as a candidate: MRR@20 of what comes next" in capfd.readouterr().out
    kept = [row for row in other.read("gold/vectors") if row["version"].startswith("train_sequence-000001")]
    assert kept == again


@pytest.mark.bad_input("fewer rows than workers")
@pytest.mark.usefixtures("ray_cluster")
def test_fewer_sequences_than_workers_are_told_in_one_line(
    small_lake: SequenceLake, job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    small_lake.put("gold/sessions", visit("s", "u", START, ["a", "b"]), visit("t", None, START, ["a"]))
    job.main(small_lake.settings(job))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "skipped" in line]
    assert (
        "1 users or visits with two events or more before 2026-01-21 00:00, fewer than the 2 training workers" in line
    )
    assert not small_lake.lake.exists("gold/vectors")


@pytest.mark.bad_input("a log without sessions")
def test_a_lake_without_visits_is_skipped(
    small_lake: SequenceLake, job: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    job.main(small_lake.settings(job))
    assert "skipped: there is no gold/sessions" in capsys.readouterr().out


def test_heads_that_do_not_divide_the_dimensions_are_refused(small_lake: SequenceLake, job: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"dimensions \(16\) must be a multiple of num_heads \(3\)"):
        small_lake.settings(job, num_heads=3)
