"""The ingest job on folders of small files: every record as received, each file once, bad ones set aside."""

import gzip
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.cli.jobs import load_job
from lib.formats.mapping import parse_mapping
from lib.ingestion.refusals import judged_before, not_looked_at
from lib.ingestion.staged import FoundFile
from lib.pipeline import JOBS, ROOT
from lib.runs import history
from lib.runs.errors import ExitCode
from tests import shops
from tests.processes import started, wait_for

MAPPING = """
name: own
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time}
    events: [{type: view}]
  clicks:
    files: "clicks/*"
    reader: {type: json_lines}
    names: {item_id: item, event_time: at}
    events: [{type: view}]
  products:
    kind: items
    files: "products.parquet"
    reader: {type: parquet}
    names: {item_id: id}
  images:
    kind: images
    files: "images/*.parquet"
    reader: {type: parquet}
    names: {item_id: id, bytes: jpg}
"""
ONE = b"user,item,time\nu,i,2024-01-01\n"
BAD_FILES = {
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"user,item,time\n", "holds a header and no record"),
    "picture.csv": (b"\x89PNG\r\n\x1a\n\0\0", "is binary, not csv text"),
    "cut.csv.gz": (gzip.compress(ONE * 100)[:-9], "is a gzip file that was cut off"),
    "other.csv": (b"user,item\nu,i\n", "has no column 'time'; it has user, item"),
}
BAD_INPUT = {
    "empty.csv": "an empty file",
    "header.csv": "a header and no record",
    "picture.csv": "a binary file named .csv",
    "cut.csv.gz": "a truncated gzip alone",
    "other.csv": "a mapped column that is missing",
}


class Shop(shops.Shop):
    """A shop whose log lies in a folder of a name that needs care."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, MAPPING, log="log of 50 %25, #1?")

    def ingest(self, **settings: Any) -> int:
        """Run the job; returns its exit code."""
        return self.run_job("ingest", **settings)

    def read(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """The table's rows by file and record."""
        rows = self.table(table, *columns).to_pylist()
        return sorted(rows, key=lambda row: (row.get("source_file", ""), row.get("record_number", 0)))


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def test_every_source_gets_a_table_of_its_records_as_received(shop: Shop) -> None:
    shop.put("1.csv", b"user,item,time,unit price\nu,007,now,\nbroken\n")
    shop.put("clicks/a #1 50%20[?] ü.gz", gzip.compress(b'{"item": 7, "at": 1.50, "ctx": {"b": [1]}}\n'))
    (shop.log / "images").mkdir()
    pq.write_table(pa.table({"id": [7], "price": [2.5]}), shop.log / "products.parquet")
    pq.write_table(pa.table({"id": [7], "jpg": [b"\xff\xd8"]}), shop.log / "images/1.parquet")
    assert shop.ingest() == 0
    run = history.last_run(shop.lake, "ingest")
    assert run is not None
    files = {file["path"]: file["sha256"] for file in run["input_files"]}
    arrival = {"batch_id": "ingest-000001", "arrived_at": run["started_at"]}

    def origin(path: str) -> dict[str, Any]:
        return {"source_file": path, "source_file_sha256": files[path]} | arrival

    nothing = dict.fromkeys(("user", "item", "time"))
    assert shop.read("bronze/lines") == [
        {
            "user": "u",
            "item": "007",
            "time": "now",
            "unit_price": None,
            "record_number": 1,
            "malformed": None,
            "stream_watermark": None,
        }
        | origin("1.csv"),
        nothing
        | {"unit_price": None, "record_number": 2, "malformed": "broken", "stream_watermark": None}
        | origin("1.csv"),
    ]
    assert shop.read("bronze/clicks") == [
        {"item": "7", "at": "1.50", "ctx": '{"b":[1]}', "record_number": 1, "malformed": None, "stream_watermark": None}
        | origin("clicks/a #1 50%20[?] ü.gz")
    ]
    assert shop.read("bronze/products") == [
        {"id": "7", "price": "2.5", "record_number": 1, "malformed": None, "stream_watermark": None}
        | origin("products.parquet")
    ]
    assert shop.read("bronze/images") == [
        {"item_id": "7", "bytes": b"\xff\xd8", "uri": None, "width": None, "height": None} | origin("images/1.parquet")
    ]
    assert not shop.lake.exists("bronze/rejects")


def test_only_a_new_file_is_read_and_it_may_bring_columns(shop: Shop) -> None:
    shop.put("1.csv", ONE)
    assert shop.ingest() == 0
    shop.put("copy of 1.csv", ONE)
    before = shop.versions()
    assert shop.ingest() == 0
    assert shop.versions() == before
    last = history.last_run(shop.lake, "ingest")
    assert last is not None
    assert (last["status"], last["message"]) == ("skipped", "no new files among 2")

    shop.put("0.csv", b"Shade,time,item,user\nred,t,j,v\n")
    shop.put("2.csv", b"user,item,time,shade\nw,k,t,blue\n")
    assert shop.ingest() == 0
    assert shop.read("bronze/lines", "source_file", "user", "Shade") == [
        {"source_file": "0.csv", "user": "v", "Shade": "red"},
        {"source_file": "1.csv", "user": "u", "Shade": None},
        {"source_file": "2.csv", "user": "w", "Shade": "blue"},
    ]


@pytest.mark.bad_input("a truncated gzip among good files")
def test_bad_files_are_set_aside_and_the_others_go_on(shop: Shop) -> None:
    for name, (content, _) in BAD_FILES.items():
        shop.put(name, content)
    for number in range(len(BAD_FILES)):
        shop.put(f"good{number}.csv", ONE + b"u,i,%d\n" % number)
    assert shop.ingest() == ExitCode.FILES_SET_ASIDE
    assert len(shop.read("bronze/lines")) == 2 * len(BAD_FILES)
    rejects = shop.read("bronze/rejects", "stage", "source", "source_file", "source_record", "reason")
    whole = {"stage": "ingest", "source": "lines", "source_record": None}
    assert rejects == [
        whole | {"source_file": name, "reason": f"file:{problem}"} for name, (_, problem) in sorted(BAD_FILES.items())
    ]
    before = shop.versions()
    assert shop.ingest() == 0  # nothing is new: what was set aside stays so
    assert shop.versions() == before


def test_a_file_that_was_set_aside_is_read_when_the_mapping_is_mended(shop: Shop) -> None:
    shop.put("1.csv", ONE)
    shop.put("2.csv", b"user,item\nu,i\n")
    assert shop.ingest() == ExitCode.FILES_SET_ASIDE
    shop.mapping.write_text(MAPPING.replace("event_time: time}", "event_time: item}", 1))
    assert shop.ingest() == 0
    assert [row["source_file"] for row in shop.read("bronze/lines")] == ["1.csv", "2.csv"]
    assert shop.read("bronze/rejects") == []


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.bad_input(case)) for name, case in BAD_INPUT.items()]
)
def test_without_a_good_file_there_is_one_line_and_no_table(shop: Shop, name: str) -> None:
    content, problem = BAD_FILES[name]
    shop.put(name, content)
    with pytest.raises(ValueError) as error:
        shop.ingest()
    assert str(error.value) == f"1 of 1 new files cannot be read: {name} {problem}"
    assert shop.versions() == {}


def test_more_bad_files_than_the_limit_stop_the_job(shop: Shop) -> None:
    shop.put("1.csv", ONE)
    shop.put("2.csv", b"")
    with pytest.raises(ValueError, match=r"1 of 2 new files cannot be read \(limit 20%\): 2\.csv is empty"):
        shop.ingest(max_bad_files_frac=0.2)
    assert shop.versions() == {}


def test_a_log_of_another_kind_and_no_log_at_all_are_one_line(shop: Shop) -> None:
    shop.put("readme.txt", b"hello")
    with pytest.raises(
        ValueError, match=r"none of the 1 files of .* matches a pattern of own: \*\.csv, clicks/\*, prod"
    ):
        shop.ingest()
    shop.log.rename(shop.log.with_name("moved"))
    with pytest.raises(ValueError, match="there is no log at"):
        shop.ingest()
    shop.mapping.unlink()
    with pytest.raises(ValueError, match="there is no mapping file"):
        shop.ingest()


def in_the_way_of(table: str, shop: Shop) -> Path:
    """A file where a table's folder would be: whoever writes to the table fails, until it is removed."""
    obstacle = shop.lake.folder / table
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way")
    return obstacle


def statuses(shop: Shop) -> dict[str, str]:
    return {row["run_id"]: row["status"] for row in history.runs(shop.lake, "ingest")}


def test_a_run_that_failed_before_it_had_read_all_starts_anew_with_what_is_there_now(shop: Shop) -> None:
    shop.put("mended.csv", ONE)
    shop.put("removed.csv", ONE + b"r,i,t\n")
    obstacle = in_the_way_of("bronze/lines", shop)
    with pytest.raises(Exception, match="lines"):
        shop.ingest()
    obstacle.unlink()
    shop.put("mended.csv", ONE + b"m,i,t\n")
    (shop.log / "removed.csv").unlink()

    assert shop.ingest() == 0
    assert [row["user"] for row in shop.read("bronze/lines")] == ["u", "m"]
    assert statuses(shop) == {"ingest-000001": "done"}
    shop.put("removed.csv", ONE + b"r,i,t\n")
    assert shop.ingest() == 0
    assert len(shop.read("bronze/lines")) == 4, "what came back is read"


def broken_between_two_sources(shop: Shop) -> None:
    """A run that has committed its lines and not its clicks; whatever stood in the way is gone."""
    shop.put("1.csv", ONE)
    for number, name in enumerate(("here", "gone", "changed")):
        shop.put(f"clicks/{name}", json.dumps({"item": f"i{number}", "at": "t"}))
    obstacle = in_the_way_of("bronze/clicks/_delta_log", shop)
    with pytest.raises(Exception, match="clicks"):
        shop.ingest()
    assert len(shop.read("bronze/lines")) == 1
    obstacle.unlink()


def test_a_run_that_broke_between_two_sources_commits_what_it_had_read(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    broken_between_two_sources(shop)
    (shop.log / "1.csv").unlink()
    (shop.log / "clicks/gone").unlink()
    shop.put("clicks/changed", b'{"item": "new", "at": "t"}')
    shop.put("clicks/unreadable", b"")
    shop.put("2.csv", ONE + b"v,j,t\n")
    capsys.readouterr()

    assert shop.ingest() == ExitCode.FILES_SET_ASIDE
    assert "resumes ingest-000001, which did not finish" in capsys.readouterr().out
    read = {row["item"]: row["batch_id"] for row in shop.read("bronze/clicks")}
    earlier = dict.fromkeys(("i0", "i1", "i2"), "ingest-000001")
    assert read == earlier | {"new": "ingest-000002"}, "what came since is read by a run of its own"
    lines = [(row["source_file"], row["batch_id"]) for row in shop.read("bronze/lines")]
    assert lines == [("1.csv", "ingest-000001")] + [("2.csv", "ingest-000002")] * 2
    assert statuses(shop) == {"ingest-000001": "done", "ingest-000002": "done"}
    rejects = {row["source_file"]: row["reason"] for row in shop.read("bronze/rejects")}
    assert rejects == {"clicks/unreadable": "file:is empty"}

    shop.put("clicks/gone", json.dumps({"item": "i1", "at": "t"}))
    assert shop.ingest() == 0
    assert len(shop.read("bronze/clicks")) == 4, "what was read is known when it comes back"


def test_what_a_broken_run_had_read_and_a_vacuum_removed_is_read_again(shop: Shop) -> None:
    broken_between_two_sources(shop)
    for file in (shop.lake.folder / "bronze/clicks").glob("*.parquet"):
        file.unlink()
    assert shop.ingest() == 0
    read = {row["item"]: row["batch_id"] for row in shop.read("bronze/clicks")}
    assert read == dict.fromkeys(("i0", "i1", "i2"), "ingest-000002")
    assert len(shop.read("bronze/lines")) == 1


@pytest.mark.slow
def test_a_kill_followed_by_a_rotation_of_the_log_loses_nothing(shop: Shop, tmp_path: Path) -> None:
    shop.put("1.csv", ONE)
    places = {
        "lake.path": shop.lake.path,
        "log.path": shop.log,
        "log.format": shop.mapping,
        "cluster.driver-memory": "1g",
    }
    flags = [f"--{name}={value}" for name, value in places.items()]
    with started([sys.executable, str(JOBS["ingest"].path), *flags], log=tmp_path / "out.txt", env=paths()) as ingest:
        wait_for(lambda: pinned_by_last_run(shop) or None, seconds=60, what="the pinned file", started=ingest)
        os.killpg(ingest.pid, signal.SIGKILL)
        ingest.wait()
    (shop.log / "1.csv").unlink()
    shop.put("2.csv", ONE + b"v,j,t\n")
    assert shop.ingest() == 0
    assert [row["source_file"] for row in shop.read("bronze/lines")] == ["1.csv", "2.csv", "2.csv"]
    assert statuses(shop) == {"ingest-000001": "done", "ingest-000002": "done"}


def pinned_by_last_run(shop: Shop) -> list[str]:
    last = history.last_run(shop.lake, "ingest")
    return [file["path"] for file in last["input_files"]] if last else []


def paths() -> dict[str, str]:
    """An environment in which a job's file finds the project."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_a_file_that_could_not_be_opened_is_looked_at_again_and_hides_no_other() -> None:
    """Its content is not known, so it is known by its path."""
    mapping = parse_mapping(MAPPING, "own.yaml")
    closed = FoundFile("a.csv", "lines", "", problem="cannot be opened: Permission denied", may_pass=True)
    raw = json.dumps({"sha256": "", "mapping_sha256": mapping.sha256})
    refused = [{"source_file": path, "raw": raw} for path in ("a.csv", "b.csv")]
    assert judged_before(refused, mapping) == set()
    assert not_looked_at(refused, [closed]) == refused[1:]


@pytest.mark.bad_input("a file that grows or vanishes while it is read")
def test_a_file_that_changes_while_the_log_is_read_stops_no_other(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2, 3, 4):
        shop.put(f"{number}.csv", ONE + b"u,i,%d\n" % number)
    job = load_job(JOBS["ingest"])
    written_by_tasks = job.written_by_tasks

    def as_files_change(*given: Any) -> Any:
        (shop.log / "2.csv").unlink(missing_ok=True)
        shop.put("3.csv", ONE + b"u,i,3\nu,i,33\n")
        return written_by_tasks(*given)

    monkeypatch.setattr(job, "written_by_tasks", as_files_change)
    assert shop.ingest() == ExitCode.FILES_SET_ASIDE
    assert {row["source_file"] for row in shop.read("bronze/lines")} == {"1.csv", "4.csv"}
    assert [(row["source_file"], row["reason"]) for row in shop.read("bronze/rejects")] == [
        ("2.csv", "file:is no longer there"),
        ("3.csv", "file:was changed while the log was read"),
    ]
    monkeypatch.undo()
    shop.put("2.csv", ONE + b"u,i,2\n")
    assert shop.ingest() == 0
    assert [row["source_file"] for row in shop.read("bronze/lines")] == [
        *("1.csv", "1.csv", "2.csv", "2.csv", "3.csv", "3.csv", "3.csv", "4.csv", "4.csv"),
    ]
    assert shop.read("bronze/rejects") == []


def users(shop: Shop) -> list[str]:
    return sorted(row["user"] for row in shop.read("bronze/lines"))


def test_a_file_that_has_kept_its_place_size_and_time_is_not_opened_again(shop: Shop) -> None:
    long_ago = time.time() - 1000

    def put(content: bytes, at: float) -> None:
        shop.put("1.csv", content)
        os.utime(shop.log / "1.csv", (at, at))

    put(ONE, long_ago)
    assert shop.ingest() == 0
    put(ONE.replace(b"u,i", b"v,i"), long_ago)
    assert shop.ingest() == 0
    assert users(shop) == ["u"], "nothing tells that it is another file"
    assert shop.ingest(hash_every_file=True) == 0
    assert users(shop) == ["u", "v"]
    put(ONE.replace(b"u,i", b"w,i"), long_ago + 1)
    assert shop.ingest() == 0
    assert users(shop) == ["u", "v", "w"]
    put(ONE, long_ago + 2)
    assert shop.ingest() == 0, "its content judges what is new"
    assert len(shop.read("bronze/lines")) == 3


@pytest.mark.slow
def test_new_columns_of_several_tasks_that_differ_only_in_case_are_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop.put("0.csv", b"Shade,time,item,user\nred,t,j,v\n")
    shop.put("2.csv", b"user,item,time,shade\nw,k,t,blue\n")
    assert shop.ingest() == 0
    assert "differ only in case" in capsys.readouterr().out
    assert shop.read("bronze/lines", "source_file", "Shade") == [
        {"source_file": "0.csv", "Shade": "red"},
        {"source_file": "2.csv", "Shade": "blue"},
    ]
    assert len(list((shop.lake.folder / "bronze/lines").glob("*.parquet"))) == 2, "what is not committed is removed"


def test_rows_that_are_no_pictures_are_refused_one_by_one(shop: Shop) -> None:
    (shop.log / "images").mkdir()
    pq.write_table(pa.table({"id": ["a", None, "b"], "jpg": [b"1", b"2", None]}), shop.log / "images/1.parquet")
    assert shop.ingest() == 0
    assert [row["item_id"] for row in shop.read("bronze/images")] == ["a"]
    kept = {"stage": "ingest", "source": "images", "source_file": "images/1.parquet"}
    rejects = sorted(
        shop.read("bronze/rejects", *kept, "source_record", "reason"), key=lambda row: row["source_record"]
    )
    assert rejects == [
        kept | {"source_record": "images/1.parquet:2", "reason": "bad_value:item_id"},
        kept | {"source_record": "images/1.parquet:3", "reason": "bad_value:bytes"},
    ]
    shop.put("1.csv", ONE)
    assert shop.ingest() == 0
    assert len(shop.read("bronze/rejects")) == 2


def test_a_header_that_is_a_record_is_shown_and_not_recorded(shop: Shop) -> None:
    shop.put("1.csv", b"ann@shop,lamp,2026-01-01\nann@shop,mug,2026-01-01\n")
    shop.put("2.csv", b"ann@shop,lamp,2026-01-01\nbob@shop,mug,2026-01-02\n")
    with pytest.raises(ValueError, match=r"has no column 'user'; it has ann@shop, lamp, 2026-01-01"):
        shop.ingest()
    (row,) = history.runs(shop.lake, "ingest")
    assert row["message"] == "ValueError: 2 of 2 new files cannot be read: 1.csv has no column 'user'"
    logs = [file.read_text() for file in (shop.lake.folder / "logs").iterdir()]
    assert logs
    assert not any("ann@shop" in text for text in (*logs, str(row)))
