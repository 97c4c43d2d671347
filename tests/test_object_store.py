"""The pipeline on a bucket of a real object store: the same tables as on a disk, and no word of the credentials."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from lib.lake.lake import Lake
from lib.pipeline import ROOT
from lib.runs import history
from lib.tables import contract
from tests.object_store import BUCKET, SECRET, ObjectStore

pytestmark = pytest.mark.slow
SMALL = ("--simulate.num-users=120", "--simulate.num-items=60", "--cluster.driver-memory=1g", "--als.rank=8")


class OnBoth(NamedTuple):
    """The same runs on a disk and on a bucket."""

    disk: Lake
    bucket: Lake
    folder: Path
    environment: dict[str, str]
    told: str

    def cartwheel(self, *arguments: str) -> str:
        """Run the command with the store in its environment; returns what it printed."""
        command = [str(Path(sys.executable).parent / "cartwheel"), *arguments]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


@pytest.fixture(scope="module")
def on_both(object_store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnBoth]:
    """The simulated market up to the first jobs for which Spark itself reads tables, and the report."""
    folder = tmp_path_factory.mktemp("on_both")
    (folder / "key").write_text("0123456789abcdef")
    environment = {**os.environ, **object_store.environment(), "XDG_CACHE_HOME": str(folder / "cache")}
    lakes = Lake(str(folder / "lake")), Lake(f"s3://{BUCKET}/market/lake")
    both, told = OnBoth(*lakes, folder, environment, ""), ""
    for lake in lakes:
        told += both.cartwheel(
            "run", "--lake", lake.path, "--privacy.key-file", str(folder / "key"), "--to", "als", *SMALL
        )
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        yield both._replace(told=told)


def test_the_tables_on_a_bucket_are_those_on_a_disk(on_both: OnBoth) -> None:
    names = [table for table in on_both.disk.tables() if not table.startswith("ops/")]
    assert [table for table in on_both.bucket.tables() if not table.startswith("ops/")] == names
    for name in names:
        assert content(on_both.bucket, name) == content(on_both.disk, name), name
    assert content(on_both.bucket, "gold/vectors")


def content(lake: Lake, name: str) -> list[str]:
    """The rows of a table as text; of vectors, which are sums over partitions in any order, their keys."""
    volatile = {column.name for column in contract(name).columns if column.volatile}
    columns = [column for column in lake.dataset(name).schema.names if column not in volatile]
    if name == "gold/vectors":
        columns = [*contract(name).key]
    return sorted(str(row) for row in lake.dataset(name).to_table(columns=columns).to_pylist())


def test_a_second_run_changes_nothing_and_another_machine_goes_on(on_both: OnBoth) -> None:
    runs = len(history.runs(on_both.bucket))
    shutil.rmtree(on_both.folder / "cache")  # what another machine does not have
    place = ("--lake", on_both.bucket.path, "--privacy.key-file", str(on_both.folder / "key"))
    told = on_both.cartwheel("run", *place, "--to", "als", *SMALL)
    assert told.count("unchanged") == 5, told
    assert "no new files" in told
    assert len(history.runs(on_both.bucket)) == runs + 1, "only ingest has looked"


def test_the_commands_read_a_bucket(on_both: OnBoth) -> None:
    place = ("--lake", on_both.bucket.path)
    assert "silver/events" in on_both.cartwheel("tables", *place)
    counted = on_both.cartwheel("query", "SELECT count(*) AS n FROM silver.events", *place, "--csv")
    assert int(counted.splitlines()[-1]) == on_both.disk.num_rows("silver/events")
    assert "maintained all" in on_both.cartwheel("maintain", *place)
    page = on_both.cartwheel("report", *place).strip()
    assert page == f"{on_both.bucket.path}/files/report/index.html"
    assert on_both.bucket.local("files/report/index.html").read_text().startswith("<!doctype html>")


def test_nothing_says_the_credentials(on_both: OnBoth, object_store: ObjectStore) -> None:
    kept = object_store.contents("market")
    assert kept
    for path in (on_both.folder / "cache").rglob("*"):
        if path.is_file():
            kept[str(path)] = path.read_bytes()
    assert not [path for path, content in kept.items() if SECRET.encode() in content]
    assert SECRET not in on_both.told
