"""A backfill makes a range of days anew and leaves the rest as it is: clean and featurize, on real tables."""

import random
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from lib.engines.spark import SparkRun
from lib.lake.lake import Lake
from lib.runs import history
from tests.jobs.spark.killed import run_killed_after
from tests.object_store import BUCKET, ObjectStore
from tests.shops import Shop

MAPPING = """
name: own
currency: EUR
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time, price: price, request_id: request}
    null_values: {user_id: [guest]}
    events: [{type: {column: type}}]
  products:
    kind: items
    files: "products/*.csv"
    names: {item_id: id, brand: brand}
"""
HEADER = "user,item,time,price,type,request\n"
START = datetime(2024, 3, 1, tzinfo=UTC)
NUM_DAYS = 8
RANGE = ("--from-date=2024-03-03", "--to-date=2024-03-05")
DAYS = {"2024-03-03", "2024-03-04", "2024-03-05"}
SILVER = ("silver/events", "bronze/rejects")
PARTITIONED = ("gold/daily", "gold/user_days", "gold/item_days", "gold/interactions")
GOLD = (*PARTITIONED, "gold/user_profiles", "gold/item_profiles", "gold/examples", "gold/scaling")


def log_of(draw: random.Random) -> str:
    """Eight days of six users and guests: sessions and double clicks, over midnight too, equal records and bad ones."""
    lines = []
    for day in range(NUM_DAYS):
        for user in [*range(6), "guest"]:
            for moment in (draw.uniform(0, 86_400), draw.choice([0.4, 86_399.3]), draw.choice([600, 85_500])):
                for step in range(draw.randint(1, 3)):
                    time = START + timedelta(days=day, seconds=moment + step * draw.choice([0.9, 3.0, 700.0]))
                    kind, request = draw.choice(["view", "view", "purchase"]), draw.choice(["", "r1", "r2"])
                    lines.append(f"{user},{draw.choice('ab')},{time.isoformat()},{draw.randint(1, 9)},{kind},{request}")
        lines.append(f"1,a,{(START + timedelta(days=day, hours=5)).isoformat()},much,view,")
    lines += [*draw.sample(lines, 12), "u9,x,never,1,view,", "cut"]
    return HEADER + "\n".join(lines) + "\n"


def shop_at(folder: Path, seed: int = 0, mapping: str = MAPPING) -> Shop:
    shop = Shop.with_key(folder, mapping)
    shop.put("0.csv", log_of(random.Random(seed)))
    shop.put("products/0.csv", "id,brand\na,one\nb,two\n")
    return shop


def run(shop: Shop, *flags: str, last: str = "clean") -> str:
    first = "clean" if RANGE[0] in flags else "ingest"
    told = shop.run("--clean.max-reject-frac=0.5", *flags, first=first, last=last)
    assert told.code == 0, told.text
    return told.text


def contents(shop: Shop, *tables: str) -> dict[str, list[str]]:
    assert all(shop.lake.exists(table) for table in tables)
    return {table: shop.content(table) for table in tables}


def files_by_day(shop: Shop, table: str) -> dict[str, set[str]]:
    """The files of each partition of a day in the table's Delta log."""
    actions = shop.lake.actions(table)
    column = "partition.day" if table == "bronze/rejects" else "partition.event_date"
    found: dict[str, set[str]] = {}
    for day, path in zip(actions[column].to_pylist(), actions["path"].to_pylist(), strict=True):
        found.setdefault(str(day), set()).add(path)
    return found


def require_only_range_written(before: Mapping[str, dict[str, set[str]]], shop: Shop) -> None:
    for table, files in before.items():
        after = files_by_day(shop, table)
        assert {day: names for day, names in after.items() if day not in DAYS} == {
            day: names for day, names in files.items() if day not in DAYS
        }, table
        assert all(after[day].isdisjoint(files[day]) for day in DAYS & {*files}), f"{table} was made anew"


@pytest.mark.parametrize("seed", range(3))
def test_a_backfill_with_nothing_changed_gives_equal_tables_and_writes_its_days_alone(
    tmp_path: Path, seed: int
) -> None:
    shop = shop_at(tmp_path / "shop", seed)
    run(shop, last="featurize")
    tables = (*SILVER, "silver/items", "silver/descriptions", *GOLD)
    rows = contents(shop, *tables)
    files = {table: files_by_day(shop, table) for table in (*SILVER, *PARTITIONED)}
    versions = shop.versions()
    run(shop, *RANGE, last="featurize")
    require_only_range_written(files, shop)
    assert contents(shop, *tables) == rows
    assert {table: shop.versions()[table] for table in ("silver/items", "silver/descriptions")} == {
        table: versions[table] for table in ("silver/items", "silver/descriptions")
    }
    after = shop.versions()
    assert "unchanged (done)" in run(shop, *RANGE, last="featurize")
    assert shop.versions() == after, "a second run changes nothing"


def test_a_changed_threshold_changes_the_days_of_the_range_to_what_a_run_of_all_makes_of_them(tmp_path: Path) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    burst = "--clean.double-click-seconds=5"
    run(whole, burst, last="featurize")
    run(shop, last="featurize")
    old = shop.read("silver/events", "event_id", "event_date")
    files = {table: files_by_day(shop, table) for table in (*SILVER, *PARTITIONED)}
    run(shop, *RANGE, burst, last="featurize")
    require_only_range_written(files, shop)

    def ids(rows: list[dict[str, object]], *, inside: bool) -> set[object]:
        return {row["event_id"] for row in rows if (str(row["event_date"]) in DAYS) == inside}

    now, wanted = shop.read("silver/events", "event_id", "event_date"), whole.read("silver/events")
    assert ids(now, inside=True) == ids(wanted, inside=True) != ids(old, inside=True)
    assert ids(now, inside=False) == ids(old, inside=False) != ids(wanted, inside=False)


def test_the_next_run_of_all_days_is_incremental_after_a_backfill_of_its_own_settings(tmp_path: Path) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    late = HEADER + f"7,a,{(START + timedelta(days=3, hours=7)).isoformat()},2,view,\n"
    run(shop, last="featurize")
    run(shop, *RANGE, last="featurize")
    for of_shop in (shop, whole):
        of_shop.put("1.csv", late)
    before = files_by_day(shop, "silver/events")
    run(shop, last="featurize")
    after = files_by_day(shop, "silver/events")
    assert {day for day in after if after[day] != before[day]} == {"2024-03-04"}
    run(whole, last="featurize")
    assert contents(shop, *SILVER, *GOLD) == contents(whole, *SILVER, *GOLD)


@pytest.mark.parametrize("settings", [(), ("--clean.double-click-seconds=5",)], ids=["old", "new"])
def test_after_a_backfill_of_other_settings_a_run_of_all_days_cleans_everything_once(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    run(shop)
    run(shop, *RANGE, "--clean.double-click-seconds=5")
    run(shop, *settings)
    run(whole, *settings)
    assert contents(shop, *SILVER) == contents(whole, *SILVER)
    before = files_by_day(shop, "silver/events")
    shop.put("1.csv", HEADER + f"7,a,{(START + timedelta(days=6, hours=7)).isoformat()},2,view,\n")
    run(shop, *settings)
    after = files_by_day(shop, "silver/events")
    assert {day for day in before if after[day] != before[day]} == {"2024-03-07"}


def test_other_weights_make_the_days_of_a_range_anew_and_all_days_in_the_next_run(tmp_path: Path) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    weight = "--featurize.view-weight=0.9"
    run(shop, last="featurize")
    run(whole, weight, last="featurize")
    old = files_by_day(shop, "gold/daily")
    run(shop, *RANGE, weight, last="featurize")
    require_only_range_written({"gold/daily": old}, shop)
    run(shop, weight, last="featurize")
    assert contents(shop, *GOLD) == contents(whole, *GOLD)


def test_a_kill_between_two_commits_and_a_second_run_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    burst = "--clean.double-click-seconds=5"
    for of_shop in (shop, whole):
        run(of_shop)
    run(whole, *RANGE, burst)
    commit = SparkRun.commit_written

    def only_events(self: SparkRun, table: str, *given: object, **further: object) -> None:
        if table != "silver/events":
            raise OSError(28, "No space left on device")
        commit(self, table, *given, **further)  # type: ignore[arg-type]

    with monkeypatch.context() as full:
        full.setattr(SparkRun, "commit_written", only_events)
        assert shop.run("--clean.max-reject-frac=0.5", *RANGE, burst, first="clean").code == 1
    assert "resumes clean-000002" in run(shop, *RANGE, burst)
    assert contents(shop, *SILVER) == contents(whole, *SILVER)
    rows = [(row["from_date"], row["to_date"], row["status"]) for row in history.runs(shop.lake, "clean")]
    assert rows == [(None, None, "done"), (date(2024, 3, 3), date(2024, 3, 5), "done")]


BURST = "--clean.double-click-seconds=5"
WEIGHT = "--featurize.view-weight=0.9"


def backfill_killed_after(shop: Shop, table: str) -> None:
    """A backfill by other settings that ends by kill -9 once it has committed to a table."""
    flags = ("--clean.max-reject-frac=0.5", *RANGE, BURST, WEIGHT)
    run_killed_after(shop, table, *flags, first="clean", last="featurize")


@pytest.mark.slow
def test_kill_9_after_one_commit_and_another_of_a_backfill_changes_no_table_of_the_rerun(tmp_path: Path) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    for of_shop in (shop, whole):
        run(of_shop, last="featurize")
    for table in ("silver/events", "gold/daily"):
        backfill_killed_after(shop, table)
    for of_shop in (shop, whole):
        run(of_shop, *RANGE, BURST, WEIGHT, last="featurize")
    assert contents(shop, *SILVER, *GOLD) == contents(whole, *SILVER, *GOLD)
    for job in ("clean", "featurize"):
        assert [row["status"] for row in history.runs(shop.lake, job)] == ["done", "done"], "each was taken up"


@pytest.mark.slow
@pytest.mark.parametrize("table", ["silver/events", "gold/daily"])
def test_after_a_backfill_that_was_killed_and_not_taken_up_a_run_of_all_days_makes_all_tables_right(
    tmp_path: Path, table: str
) -> None:
    shop, whole = shop_at(tmp_path / "shop"), shop_at(tmp_path / "whole")
    for of_shop in (shop, whole):
        run(of_shop, last="featurize")
    backfill_killed_after(shop, table)
    run(shop, last="featurize")
    assert contents(shop, *SILVER, *GOLD) == contents(whole, *SILVER, *GOLD)


def require_the_backfill_of_a_disk(shop: Shop, disk: Shop, *flags: str) -> None:
    for of_shop, given in ((shop, flags), (disk, ())):
        run(of_shop, *given, last="featurize")
        files = {table: files_by_day(of_shop, table) for table in (*SILVER, *PARTITIONED)}
        run(of_shop, *given, *RANGE, BURST, WEIGHT, last="featurize")
        require_only_range_written(files, of_shop)
    assert contents(shop, *SILVER, *GOLD) == contents(disk, *SILVER, *GOLD)


@pytest.mark.slow
def test_a_backfill_by_tasks_of_spark_gives_the_same_tables(tmp_path: Path) -> None:
    shop, disk = shop_at(tmp_path / "shop"), shop_at(tmp_path / "disk")
    require_the_backfill_of_a_disk(shop, disk, "--cluster.spark-master=local[2,1]")


@pytest.mark.slow
def test_a_backfill_on_a_bucket_gives_the_same_tables(tmp_path: Path, bucket: ObjectStore) -> None:
    shop, disk = shop_at(tmp_path / "shop"), shop_at(tmp_path / "disk")
    shop.lake = Lake(f"s3://{BUCKET}/backfill")
    require_the_backfill_of_a_disk(shop, disk, f"--privacy.key-file={shop.folder / 'lake.key'}")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (RANGE[:1], "time.to_date = None: from_date and to_date are given together, or neither"),
        (RANGE[1:], "time.to_date = '2024-03-05': from_date and to_date are given together, or neither"),
        (
            ("--from-date=2024-03-05", "--to-date=2024-03-03"),
            "time.to_date = '2024-03-03': should not be before from_date",
        ),
        (("--from-date=1.3.2024", "--to-date=2024-03-03"), "time.from_date = '1.3.2024': should be a date such as"),
        (("--from-date=2024-02-30", "--to-date=2024-03-03"), "time.from_date = '2024-02-30': "),
        (("--from-date=20240303", "--to-date=20240305"), "time.from_date = '20240303': should be a date such as"),
    ],
)
def test_a_wrong_range_is_told_in_one_line(tmp_path: Path, flags: tuple[str, ...], told: str) -> None:
    shop = shop_at(tmp_path / "shop")
    ended = shop.run(*flags, first="clean")
    assert ended.code == 1
    assert told in ended.text
    assert ended.text.count("\n") == 1


def test_a_range_that_holds_nothing_and_a_lake_that_was_never_cleaned_are_told(tmp_path: Path) -> None:
    shop = shop_at(tmp_path / "shop")
    assert shop.run(last="ingest").code == 0
    assert (
        "clean: nothing was cleaned before, so 2024-03-03 to 2024-03-05 cannot" in shop.run(*RANGE, first="clean").text
    )
    run(shop)
    versions = shop.versions()
    ended = shop.run("--from-date=2023-01-01", "--to-date=2023-01-07", first="clean")
    assert (
        "clean: there is no event of 2023-01-01 to 2023-01-07; silver/events holds 2024-03-01 to 2024-03-0"
        in ended.text
    )
    assert shop.versions() == versions


def test_a_mapping_that_moves_records_to_other_days_is_refused(tmp_path: Path) -> None:
    shop = shop_at(tmp_path / "shop")
    run(shop)
    versions = shop.versions()
    shop.mapping.write_text(MAPPING.replace("item_id: item, event_time: time", "item_id: item, event_time: item"))
    ended = shop.run("--clean.max-reject-frac=1", *RANGE, first="clean")
    assert ended.code == 1
    assert "records of 2024-03-03 to 2024-03-05 lie on other days, or on none, by the present mapping" in ended.text
    assert shop.versions() == versions
