"""Places on a real object store: files, commits that race or are killed, and stores that do not let us."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from lib.lake.lake import Lake, require_writable
from lib.lake.writes import commit_files, conform, missing_files, remove_files, write_files
from lib.pipeline import ROOT
from lib.tables import contract
from tests.lakes import arrow_rows
from tests.object_store import BUCKET, SECRET, ObjectStore

TABLE = "ops/erasures"
KILLS, SEED = 6, 20261128
COMMITTER = """
import sys
from lib.lake.lake import Lake
from lib.lake.writes import commit_files, write_files
from lib.tables import contract
from tests.lib.lake.test_places import digests
address, name, first, last = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
lake = Lake(address)
for number in range(first, last):
    files = write_files(lake, contract("ops/erasures"), [digests(f"{name}-{number}")])
    commit_files(lake, contract("ops/erasures"), files, transaction=name, number=number, mode="append")
    print(number, flush=True)
"""


def digests(*names: str) -> pa.Table:
    """Rows of a small table."""
    rows = [{"digest": name, "erased_at": datetime(2026, 1, 1, tzinfo=UTC)} for name in names]
    return conform(contract(TABLE), arrow_rows(contract(TABLE), *rows))


def committer(address: str, name: str, first: int, last: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-c", COMMITTER, address, name, str(first), str(last)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_files_go_to_the_store_and_come_back(
    bucket: ObjectStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lake = Lake(f"s3://{BUCKET}/files")
    folder = lake.files("encoder", "train_encoder-000001")
    (folder / "deep").mkdir()
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "deep" / "a b.txt").write_text("größe")
    lake.keep(folder)
    assert bucket.contents("files") == {
        f"{BUCKET}/files/files/encoder/train_encoder-000001/model.pt": b"weights",
        f"{BUCKET}/files/files/encoder/train_encoder-000001/deep/a b.txt": "größe".encode(),
    }
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    there = Lake(lake.path)
    assert (there.local("files/encoder/train_encoder-000001") / "deep" / "a b.txt").read_text() == "größe"
    assert there.local("files/encoder/train_encoder-000001/model.pt").read_bytes() == b"weights"
    assert not there.local("files/encoder/none").exists()
    (there.folder / "files/encoder/train_encoder-000001/model.pt").write_bytes(b"better")
    there.keep(there.folder / "files")
    assert lake.local("files/encoder/train_encoder-000001/model.pt").read_bytes() == b"better"
    there.clear("files")
    assert bucket.contents("files") == {}


def test_what_is_unchanged_is_neither_written_nor_read_again(bucket: ObjectStore) -> None:
    lake = Lake(f"s3://{BUCKET}/unchanged")
    file = lake.files("policy", "train_policy-000001") / "network.pt"
    file.write_bytes(b"weights")
    lake.keep(file)
    path = f"{BUCKET}/unchanged/files/policy/train_policy-000001/network.pt"
    written, copied = bucket.filesystem().get_file_info(path).mtime_ns, file.stat().st_ino
    time.sleep(1.1)  # the store tells whole seconds
    lake.keep(file.parent)
    assert lake.local("files/policy/train_policy-000001") == file.parent
    assert bucket.filesystem().get_file_info(path).mtime_ns == written
    assert file.stat().st_ino == copied


def test_a_table_on_the_store_is_the_same_as_on_a_disk(bucket: ObjectStore, tmp_path: Path) -> None:
    lakes = Lake(str(tmp_path / "lake")), Lake(f"s3://{BUCKET}/same")
    for lake in lakes:
        require_writable(lake)
        assert lake.tables() == []
        files = write_files(lake, contract(TABLE), [digests("a"), digests("b")])
        assert missing_files(lake, TABLE, files) == []
        left = write_files(lake, contract(TABLE), [digests("never")])
        assert commit_files(lake, contract(TABLE), files, transaction="t", number=1, run_id="r") == 1
        assert commit_files(lake, contract(TABLE), left, transaction="t", number=1, run_id="r") == 1
        remove_files(lake, TABLE, [*files, *left])
        assert missing_files(lake, TABLE, [*files, *left]) == left
        assert lake.tables() == [TABLE]
        assert lake.is_whole(TABLE, 1)
        assert lake.version_of_run(TABLE, "r") == 1
    one, other = (lake.dataset(TABLE).to_table().sort_by("digest") for lake in lakes)
    assert one == other
    assert one["digest"].to_pylist() == ["a", "b"]


def test_two_committers_at_once_lose_nothing(bucket: ObjectStore) -> None:
    lake = Lake(f"s3://{BUCKET}/race")
    lake.ensure(contract(TABLE))
    writers = [committer(lake.path, name, 1, 13) for name in ("one", "two")]
    assert [writer.wait() for writer in writers] == [0, 0]
    held = lake.dataset(TABLE).to_table()["digest"].to_pylist()
    assert sorted(held) == sorted(f"{name}-{number}" for name in ("one", "two") for number in range(1, 13))
    assert [lake.last_committed_run(TABLE, name) for name in ("one", "two")] == [12, 12]


def test_a_committer_that_is_killed_commits_nothing_twice_and_breaks_nothing(bucket: ObjectStore) -> None:
    lake, moments = Lake(f"s3://{BUCKET}/killed"), random.Random(SEED)
    lake.ensure(contract(TABLE))
    for _ in range(KILLS):
        first = lake.last_committed_run(TABLE, "one")
        writer = committer(
            lake.path, "one", max(1, first), 1000
        )  # the last number again, as a run that is taken up does
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(moments.uniform(0, 0.4))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        held = lake.dataset(TABLE).to_table()["digest"].to_pylist()
        reached = lake.last_committed_run(TABLE, "one")
        assert sorted(held) == sorted(f"one-{number}" for number in range(1, reached + 1)), f"seed {SEED}"
        assert reached >= max(1, first)


REFUSED = {
    "a store of another secret": ({"AWS_SECRET_ACCESS_KEY": "wrong"}, 2, "the secret is not the key's"),
    "a store that knows no such key": ({"AWS_ACCESS_KEY_ID": "nobody"}, 2, "knows no such key"),
    "a bucket that cannot be written": ({"AWS_ACCESS_KEY_ID": "reader"}, 2, "denies access"),
    "a store that does not answer": ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "does not answer"),
    "a store at no host": ({"AWS_ENDPOINT_URL": "http://no.such.host.invalid"}, 1, "does not answer"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.bad_input(case)) for case in REFUSED], ids=[*REFUSED]
)
def test_a_store_that_does_not_let_us_is_told_in_one_line_within_seconds(bucket: ObjectStore, case: str) -> None:
    wrong, code, told = REFUSED[case]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "jobs/local/report.py", f"--lake.path=s3://{BUCKET}/refused"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **wrong},
        capture_output=True,
        text=True,
        check=False,
    )
    assert time.monotonic() - began < 20
    assert (done.returncode, done.stdout) == (code, "")
    (line,) = done.stderr.splitlines()
    assert told in line
    assert SECRET not in line
    assert bucket.contents("refused") == {}
