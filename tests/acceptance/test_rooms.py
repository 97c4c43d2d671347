"""Which code a check depends on: a change ages what builds on it, and nothing else."""

from pathlib import Path

import pytest

from acceptance import rooms
from acceptance.__main__ import CHECKS


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree with a file in every room that any check depends on."""
    monkeypatch.setattr(rooms, "ROOT", tmp_path)
    for path in {*rooms.rooms_of(rooms.EVERY_JOB), *rooms.COMMAND, "lib/report", "tests"}:
        file = tmp_path / (path if path.endswith(".py") else f"{path}/file.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("before")
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "aged", "kept"),
    [
        (
            "gan/metrics/file.py",
            {"times", "killed_walk", "fresh_clone"},
            {"cleaning", "ranking", "policy", "spark_cluster"},
        ),
        ("lib/cleaning/file.py", set(CHECKS), set()),
        ("rl/ope/file.py", {"policy", "open_bandit", "times"}, {"cleaning", "ranking", "online_retail", "ray_cluster"}),
        ("lib/report/file.py", {"fresh_clone", "fresh_tests"}, set(CHECKS) - {"fresh_clone", "fresh_tests"}),
        ("tests/file.py", {"bad_input", "fresh_tests"}, set(CHECKS) - {"bad_input", "fresh_tests"}),
        ("jobs/spark/als.py", {"ranking", "online_retail", "spark_cluster"}, {"cleaning", "policy", "open_bandit"}),
    ],
)
def test_a_change_of_one_room_ages_what_builds_on_it_alone(
    checkout: Path, changed: str, aged: set[str], kept: set[str]
) -> None:
    before = {check: rooms.code_of(check) for check in CHECKS}
    (checkout / changed).write_text("after")
    of_older_code = {check for check in CHECKS if rooms.code_of(check) != before[check]}
    assert aged <= of_older_code
    assert not kept & of_older_code


def test_upstream_of_a_job_are_all_whose_tables_and_models_it_reads() -> None:
    assert rooms.upstream(["als"]) == {"als", "featurize", "clean", "ingest"}
    assert {"train_gan", "recommend", "als", "train_encoder"} <= rooms.upstream(["make_creatives"])
    assert "train_gan" not in rooms.upstream(["evaluate"])
