"""A disk, or a store, that is full in the middle of a run: one line, a lake that is read as before, and a rerun that is right."""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.lake.lake import Lake
from lib.runs.errors import ExitCode
from tests.object_store import BUCKET, NoObjectStoreError, ObjectStore, object_store
from tests.shops import Shop, Told

MAPPING = """
name: own
currency: EUR
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time, title: title}
    events: [{type: view}]
"""
TABLES = ("bronze/lines", "silver/events", "silver/items", "gold/daily", "gold/user_profiles", "gold/interactions")
DISK_MEGABYTES = 16
NUM_DAYS = 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def shop_at(folder: Path, num_days: int) -> Shop:
    shop = Shop.with_key(folder, MAPPING)
    for day in range(1, num_days + 1):
        put_day(shop, day)
    return shop


def put_day(shop: Shop, day: int) -> None:
    """A day's file, whose titles do not become smaller by compression."""
    draw = random.Random(day)
    lines = [
        f"u{n % 19},i{n % 7},2024-01-{day:02d} {n // 60:02d}:{n % 60:02d}:00,{draw.randbytes(300).hex()}"
        for n in range(600)
    ]
    shop.put(f"{day:02d}.csv", "\n".join(["user,item,time,title", *lines]) + "\n")


def run(shop: Shop) -> Told:
    return shop.run(f"--privacy.key-file={shop.folder / 'lake.key'}", last="featurize")


def contents(shop: Shop) -> dict[str, list[str]]:
    return {table: shop.content(table) for table in TABLES}


@pytest.mark.bad_input("a disk that is full in the middle")
def test_a_disk_that_is_full_in_the_middle_is_told_in_one_line_and_a_rerun_is_right(
    tmp_path: Path, small_disk: Path
) -> None:
    shop, whole = shop_at(tmp_path / "shop", 2), shop_at(tmp_path / "whole", 3)
    shop.lake = Lake(str(small_disk / "lake"))
    assert run(shop).code == run(whole).code == 0
    put_day(shop, 3)
    before, full = shop.content("silver/events"), set[str]()
    ballast = small_disk / "ballast"
    for free_kilobytes in (0, 150, 300, 400, 500, 700):
        fill(ballast, free_kilobytes)
        told = run(shop)
        if told.code == ExitCode.DONE:
            break
        assert told.code == ExitCode.FAILED, told.text
        (line,) = [line for line in told.text.splitlines() if "the disk is full" in line or "No space" in line]
        full.add(line.partition(":")[0])
        assert shop.content("silver/events") in (before, whole.content("silver/events"))
    assert len(full) > 1, full
    ballast.unlink()
    assert run(shop).code == 0
    assert contents(shop) == contents(whole)


@pytest.mark.bad_input("a store that is full in the middle")
def test_a_store_that_is_full_in_the_middle_is_told_in_one_line_and_a_rerun_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, whole = shop_at(tmp_path / "shop", 2), shop_at(tmp_path / "whole", NUM_DAYS)
    shop.lake = Lake(f"s3://{BUCKET}/lake")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert run(whole).code == 0
    try:
        with object_store(tmp_path / "store", most_megabytes=1) as small:
            use(small, monkeypatch)
            assert run(shop).code == 0
            before = shop.content("silver/events")
            for day in range(3, NUM_DAYS + 1):
                put_day(shop, day)
            told = run(shop)
            assert told.code == ExitCode.FAILED, told.text
            assert len([line for line in told.text.splitlines() if "the store cannot write: it is full" in line]) == 1
            assert shop.content("silver/events") in (before, whole.content("silver/events"))
        with object_store(tmp_path / "store") as larger:
            use(larger, monkeypatch)
            assert run(shop).code == 0
            assert contents(shop) == contents(whole)
    except NoObjectStoreError as reason:
        pytest.skip(str(reason))


def use(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reach the store from here on."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)


def fill(ballast: Path, free_kilobytes: int) -> None:
    """Leave so much of a disk free."""
    ballast.unlink(missing_ok=True)
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(file.tell() - (free_kilobytes << 10))
