"""The simulate job on a small market: the same log for a seed however it is cut into files, and a truth that the files bear out."""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest

from lib.cli.jobs import load_job
from lib.lake.lake import Lake
from lib.pipeline import JOBS
from lib.runs import history
from rl.market.records import KINDS_OF_DIRT
from rl.market.visitors import KINDS_OF_VISITORS

SMALL = {"num_users": 150, "num_items": 60, "days": 12, "bots_per_user": 0.05, "farmed_per_user": 0.05, "seed": 8}
SMALL |= {"late_sign_in_frac": 0.1}
END = datetime(2026, 7, 1, tzinfo=UTC)
EVENT_TYPES = {"impression", "view", "cart", "purchase"}


class Written(NamedTuple):
    """A simulated log read back: `lines` by (file, number of the record), `truth` the rows beside it."""

    folder: Path
    lines: dict[tuple[str, int], str]
    truth: list[dict[str, Any]]
    said: str

    def dirty(self, kind: str) -> list[tuple[dict[str, Any], str]]:
        """The truth's rows of a kind, each with the line that it names."""
        return [(row, self.lines[row["file"], row["record_number"]]) for row in self.truth if row["kind"] == kind]

    def true_records(self, event_type: str) -> list[dict[str, Any]]:
        """The records of a type of which nothing is wrong."""
        dirty = {(row["file"], row["record_number"]) for row in self.truth}
        clean = (json.loads(line) for place, line in self.lines.items() if place not in dirty)
        return [record for record in clean if record["event_type"] == event_type]


def read_back(raw: Path, said: str = "") -> Written:
    lines = {}
    for file in sorted((raw / "market" / "events").iterdir()):
        for number, line in enumerate(
            gzip.decompress(file.read_bytes()).decode(errors="surrogateescape").splitlines(), 1
        ):
            lines[f"events/{file.name}", number] = line
    parts = sorted((raw / "market-truth").iterdir())
    return Written(raw / "market", lines, [row for part in parts for row in pq.read_table(part).to_pylist()], said)


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load_job(JOBS["simulate"])


@pytest.fixture(scope="module")
def simulate(job: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`simulate(seed=6)` runs the job on a new lake (or on `lake`) and returns the lake's folder."""

    def run(lake: Path | None = None, **settings: Any) -> Path:
        folder = lake or tmp_path_factory.mktemp("lake")
        places = {"lake": {"path": str(folder)}, "cluster": {"driver_memory": "1g"}}
        job.main(job.SimulateSettings(**places, **{**SMALL, **settings}))
        return folder

    return run


@pytest.fixture(scope="module")
def lake(simulate: Callable[..., Path]) -> Path:
    return simulate(num_files=3)


@pytest.fixture(scope="module")
def written(lake: Path) -> Written:
    return read_back(lake / "raw")


def test_the_records_and_their_truth_are_the_same_whatever_the_number_of_files(
    simulate: Callable[..., Path], written: Written
) -> None:
    whole = read_back(simulate(num_files=1) / "raw")

    assert len({file for file, _ in written.lines if "part" in file}) == 3
    assert len({file for file, _ in whole.lines if "part" in file}) == 1
    assert Counter(whole.lines.values()) == Counter(written.lines.values())

    def dirty_lines(log: Written) -> Counter[tuple[str, str]]:
        return Counter((row["kind"], line) for kind in KINDS_OF_DIRT for row, line in log.dirty(kind))

    assert dirty_lines(whole) == dirty_lines(written)


def test_another_seed_is_another_log(simulate: Callable[..., Path], written: Written) -> None:
    other = read_back(simulate(seed=6, num_users=20) / "raw")
    assert not set(other.lines.values()) & set(written.lines.values())


def test_every_dirty_record_holds_what_its_truth_says(written: Written) -> None:
    kinds = {kind: written.dirty(kind) for kind in KINDS_OF_DIRT}
    assert all(kinds.values()), "each kind of dirt occurs"
    for row, line in kinds["null_field"]:
        assert json.loads(line).get(row["column"]) is None
    for row, line in kinds["unparsable_time"]:
        with pytest.raises(ValueError):
            datetime.fromisoformat(json.loads(line)[row["column"]])
    for row, line in kinds["after_end"]:
        assert datetime.fromisoformat(json.loads(line)[row["column"]]) >= END
    for row, line in kinds["unknown_type"]:
        assert json.loads(line)[row["column"]] not in EVENT_TYPES
    for row, line in kinds["negative_price"]:
        assert json.loads(line)[row["column"]] < 0
    for row, line in kinds["text_for_number"]:
        assert isinstance(json.loads(line)[row["column"]], str)
    for row, line in kinds["broken_text"]:
        assert not line.isascii()
        with pytest.raises(UnicodeEncodeError):
            json.loads(line)[row["column"]].encode()
    for row, line in kinds["clock_reset"]:
        assert json.loads(line)[row["column"]].startswith("1970-01-01T")
    for row, line in kinds["removed"]:
        assert json.loads(line)[row["column"]] == "remove_from_cart"
    for _, line in kinds["no_user"]:
        assert json.loads(line)["user_id"] is None


def test_a_duplicate_repeats_a_true_line_and_a_double_click_a_true_view_within_a_second(written: Written) -> None:
    count = Counter(written.lines.values())
    assert all(count[line] == 2 for _, line in written.dirty("duplicate"))
    assert all(count[line] == 2 and "resent" in row["file"] for row, line in written.dirty("resent"))
    contents = Counter(json.dumps(json.loads(line), sort_keys=True) for line in written.lines.values())
    for _, line in written.dirty("rewritten"):
        assert contents[json.dumps(json.loads(line), sort_keys=True)] == 2
        assert count[line] == 1
    views = defaultdict(list)
    of_visitors = [json.loads(line) for kind in KINDS_OF_VISITORS for _, line in written.dirty(kind)]
    for record in (*written.true_records("view"), *of_visitors):
        views[record["user_id"], record["item_id"]].append(datetime.fromisoformat(record["event_time"]))
    for _, line in written.dirty("double_click"):
        click = json.loads(line)
        moment = datetime.fromisoformat(click["event_time"])
        assert any(0 < (moment - view).total_seconds() < 1 for view in views[click["user_id"], click["item_id"]])


def test_an_apps_clock_is_off_by_minutes_or_by_whole_hours_in_all_of_its_records(written: Written) -> None:
    for kind, is_whole in (("clock_skew", False), ("zone_mistake", True)):
        ahead = defaultdict(list)
        for row, line in written.dirty(kind):
            stated = datetime.fromisoformat(json.loads(line)["event_time"])
            true = END + timedelta(milliseconds=row["time_ms"]) - timedelta(days=SMALL["days"])
            ahead[row["user"]].append((stated - true).total_seconds())
        assert {len({*of_user}) for of_user in ahead.values()} == {1}
        assert all((seconds % 3600 == 0) == is_whole and abs(seconds) >= 120 for seconds, *_ in ahead.values())
    apps = [record for kind in EVENT_TYPES for record in written.true_records(kind) if "sent_at" in record]
    waited = [datetime.fromisoformat(app["sent_at"]) - datetime.fromisoformat(app["event_time"]) for app in apps]
    assert max(waited) > timedelta(hours=1), "some are sent only when there is a network again"
    way = [datetime.fromisoformat(app["received_at"]) - datetime.fromisoformat(app["sent_at"]) for app in apps]
    assert timedelta() <= min(way) <= max(way) < timedelta(seconds=2)


def test_who_signs_in_late_is_a_visitor_first_and_then_both(written: Written) -> None:
    named = defaultdict(set)
    for record in (record for kind in EVENT_TYPES for record in written.true_records(kind)):
        named[record.get("visitor_id")].add(record["user_id"])
    for row, line in written.dirty("late_sign_in"):
        record = json.loads(line)
        assert record["user_id"] is None
        assert named[record["visitor_id"]] == {f"u{row['user']:08d}"}


def test_a_bot_views_hundreds_of_products_a_day_and_nobody_else_does(written: Written) -> None:
    days = Counter((row["user"], row["time_ms"] // 86_400_000) for row, _ in written.dirty("bot"))
    assert min(days.values()) >= 300
    human = Counter(
        (record["user_id"], record["event_time"][:10])
        for event_type in EVENT_TYPES
        for record in written.true_records(event_type)
    )
    assert max(human.values()) < 150


def test_the_farm_acts_on_one_product_for_a_day_at_no_steady_pace(written: Written) -> None:
    days = defaultdict(list)
    for row, line in written.dirty("bot_farm"):
        days[row["user"], row["time_ms"] // 86_400_000].append((row["time_ms"], json.loads(line)["item_id"]))
    assert len({item for events in days.values() for _, item in events}) == 1
    assert min(map(len, days.values())) >= 25
    for events in days.values():
        gaps = np.diff([time_ms for time_ms, _ in events])
        assert gaps.std() > 0.3 * gaps.mean()


@pytest.mark.parametrize(("dirt", "num_kinds"), [("none", 0), ("plain", 9)])
def test_as_much_dirt_as_is_asked_for(simulate: Callable[..., Path], dirt: str, num_kinds: int) -> None:
    nobody_else = {"bots_per_user": 0, "farmed_per_user": 0, "late_sign_in_frac": 0}
    log = read_back(simulate(dirt=dirt, num_users=400, **nobody_else) / "raw")
    assert len({row["kind"] for row in log.truth}) == num_kinds


def test_what_is_not_in_the_truth_is_well_formed(written: Written) -> None:
    records = [record for event_type in EVENT_TYPES for record in written.true_records(event_type)]
    assert len(records) + len(written.truth) == len(written.lines)
    for record in records:
        assert record["user_id"]
        assert record["item_id"]
        assert datetime.fromisoformat(record["event_time"]) < END
        assert record.get("price", 1) > 0
        assert record.get("quantity", 1) == 1
    assert max(Counter(json.dumps(record) for record in records).values()) == 1


def test_a_decision_offers_ten_products_and_logs_the_chance_of_the_one_it_shows(written: Written) -> None:
    shown = written.true_records("impression")
    assert all(len(set(offer["candidates"])) == 10 and offer["item_id"] in offer["candidates"] for offer in shown)
    # E[1{a = k} / p(a)] = 1 for the candidate at any place k: only the true propensities have it.
    action = np.array([offer["candidates"].index(offer["item_id"]) for offer in shown])
    propensity = np.array([offer["propensity"] for offer in shown])
    weights = np.eye(10)[action] / propensity[:, None]
    error = weights.std(axis=0) / np.sqrt(len(weights))
    assert (np.abs(weights.mean(axis=0) - 1) < 4 * error).all()
    assert len({offer["request_id"] for offer in shown}) == len(shown)


def test_the_two_strategies_are_the_arms_and_a_user_stays_in_one(written: Written) -> None:
    arms = defaultdict(set)
    for offer in written.true_records("impression"):
        assert offer["arm"] == offer["policy"]
        arms[offer["user_id"]].add(offer["arm"])
    assert {arm for chosen in arms.values() for arm in chosen} == {"popularity_softmax", "personal"}
    assert {len(chosen) for chosen in arms.values()} == {1}


def test_the_log_says_what_it_wrote_and_is_kept_until_a_setting_changes(
    simulate: Callable[..., Path], lake: Path, written: Written, capsys: pytest.CaptureFixture[str]
) -> None:
    events = written.folder / "events" / "part-00000.jsonl.gz"
    made = events.stat().st_mtime_ns
    simulate(lake, num_files=3)
    assert "the log is there already" in capsys.readouterr().out
    assert events.stat().st_mtime_ns == made

    (written.folder / "_SUCCESS").unlink()  # as if it had been stopped in the middle
    simulate(lake, num_files=3)
    said = capsys.readouterr().out
    assert f"files=3  records={len(written.lines):,}  dirty={len(written.truth):,}" in said
    assert read_back(lake / "raw").lines == written.lines
    assert [row["status"] for row in history.runs(Lake(str(lake)), "simulate")] == ["done"] * 3


def test_the_catalogue_is_a_table_with_a_picture_of_each_product(written: Written) -> None:
    lines = (written.folder / "items" / "items.csv").read_text().splitlines()
    assert len(lines) == 1 + SMALL["num_items"]
    pictures = pq.read_table(written.folder / "images" / "images.parquet").to_pylist()
    assert [row["item_id"] for row in pictures] == [line.split(",")[0] for line in lines[1:]]


def test_photographed_products_make_the_catalogue(simulate: Callable[..., Path], shared_data: Path) -> None:
    folder = shared_data / "fashion"
    raw = simulate(images=str(folder), num_users=5, num_items=30) / "raw"
    photographs = {str(row["id"]): row["jpg"] for row in pq.read_table(folder / "images.parquet").to_pylist()}
    pictures = pq.read_table(raw / "market" / "images" / "images.parquet").to_pylist()
    assert len(pictures) == 30
    assert all(row["bytes"] == photographs[row["item_id"]] for row in pictures)
    titles = (raw / "market" / "items" / "items.csv").read_text().splitlines()
    assert [title.split(",")[0] for title in titles[1:]] == [row["item_id"] for row in pictures]


def test_a_folder_without_photographs_is_one_line_and_no_log(simulate: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"simulate.images = .*: expected products.csv and images.parquet there"):
        simulate(tmp_path / "lake", images=str(tmp_path))
    assert not (tmp_path / "lake" / "raw").exists()
