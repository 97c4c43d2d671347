"""Clean takes what is new: whatever the order in which files come, the tables are those of all files at once."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lib.runs import history
from tests.shops import Shop

MAPPING = """
name: own
currency: EUR
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time, price: price, title: title, request_id: request}
    null_values: {user_id: [guest]}
    events: [{type: view}]
  products:
    kind: items
    files: "products/*.csv"
    names: {item_id: id, brand: brand}
"""
HEADER = "user,item,time,price,title,request\n"
START = datetime(2024, 3, 1, tzinfo=UTC)
TABLES = ("silver/events", "silver/items", "silver/descriptions", "bronze/rejects")


def lines(day: int, draw: random.Random, *, num_users: int = 6, most_late: int = 3) -> list[str]:
    """A day's file: sessions, double clicks, some over midnight, equal records, bad ones, guests, and late ones of days before."""
    found = []
    for user in [*range(num_users), "guest"]:
        moments = [draw.uniform(0, 86_400) for _ in range(draw.randint(0, 3))]
        moments += [draw.choice([0.2, 1.0, 600.0, 85_500.0, 86_398.5, 86_399.5])]
        for moment in moments:
            item, late = draw.choice("abc"), draw.randint(1, most_late) if draw.random() < 0.15 else 0
            for step in range(draw.randint(1, 3)):
                time = START + timedelta(
                    days=day - min(late, day), seconds=moment + step * draw.choice([0.9, 1.7, 700])
                )
                request = draw.choice(["", "", f"r{draw.randint(0, 2)}"])
                found.append(f"{user},{item},{time.isoformat()},{draw.randint(1, 9)},{item} {day},{request}")
    found += draw.sample(found, min(3, len(found)))
    found += [f"u9,x,never,1,x {day},", f"u9,,{START.isoformat()},1,y,", "cut"]
    return found


def files_of(draw: random.Random, num_days: int) -> dict[str, str]:
    """Daily files, with a catalogue on some days; a record may come again in a later file."""
    files: dict[str, str] = {}
    sent: list[str] = []
    for day in range(num_days):
        new = lines(day, draw)
        again = draw.sample(sent, min(2, len(sent)))
        sent += new
        files[f"{day:02d}.csv"] = HEADER + "\n".join([*new, *again]) + "\n"
        if day % 3 == 0:
            files[f"products/{day:02d}.csv"] = "id,brand\n" + "".join(f"{item},{item}{day}\n" for item in "abc")
    return files


def run(shop: Shop, *flags: str) -> str:
    told = shop.run("--clean.max-reject-frac=0.5", "--clean.double-click-seconds=2", *flags)
    assert told.code == 0, told.text
    return told.text


def require_same(one: Shop, other: Shop) -> None:
    for table in TABLES:
        mine, theirs = one.content(table, but_stage="ingest"), other.content(table, but_stage="ingest")
        only = [row for row in mine if row not in theirs][:3], [row for row in theirs if row not in mine][:3]
        assert mine == theirs, f"{table}: {only}"


@pytest.mark.parametrize("seed", range(4))
def test_files_one_by_one_in_any_order_some_twice_give_the_tables_of_all_at_once(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    files = files_of(draw, num_days=8)
    at_once, one_by_one = Shop.with_key(tmp_path / "at_once", MAPPING), Shop.with_key(tmp_path / "one_by_one", MAPPING)
    for name, text in files.items():
        at_once.put(name, text)
    run(at_once)
    order = [*files]
    if seed:
        draw.shuffle(order)
    first = draw.randint(1, 4)
    for group in [order[:first], *([name] for name in order[first:])]:
        for name in group:
            one_by_one.put(name, files[name])
            if draw.random() < 0.3:
                one_by_one.put(f"again/{name}" if "/" not in name else f"{name}.gz.csv", files[name])
        told = run(one_by_one)
        assert group == order[:first] or "cleans everything" not in told
    require_same(one_by_one, at_once)
    run(one_by_one, "--clean.rebuild=true")
    require_same(one_by_one, at_once)


COLUMNS_BY_PATTERN = """
name: own
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time, context: [slot_*], candidates: [shown_*]}
    pii_free_context: [slot_*]
    events: [{type: impression}]
"""


@pytest.mark.parametrize("order", [("1.csv", "2.csv"), ("2.csv", "1.csv")])
def test_the_order_in_which_files_bring_columns_changes_nothing(tmp_path: Path, order: tuple[str, str]) -> None:
    time = "2024-03-01T10:00:01.5Z"
    files = {
        "1.csv": f"user,item,time,slot_10,shown_2,shown_1\nu1,two,{time},ten,two,one\nu1,two,never,ten,two,one\n",
        "2.csv": f"shown_10,slot_2,time,shown_2,slot_10,item,user\nten,two,{time},two,ten,two,u2\nten,two,never,two,ten,two,u2\n",
    }
    at_once, one_by_one = (Shop.with_key(tmp_path / name, COLUMNS_BY_PATTERN) for name in ("at_once", "one_by_one"))
    for name in order:
        one_by_one.put(name, files[name])
        run(one_by_one)
    for name, text in files.items():
        at_once.put(name, text)
    run(at_once)
    require_same(one_by_one, at_once)
    found = [(dict(event["context"]), event["candidates"]) for event in one_by_one.read("silver/events")]
    assert sorted(found, key=str) == [
        ({"slot_10": "ten"}, ["one", "two"]),
        ({"slot_2": "two", "slot_10": "ten"}, ["two", "ten"]),
    ]


def test_only_what_is_new_is_cleaned(tmp_path: Path) -> None:
    shop = Shop.with_key(tmp_path / "shop", MAPPING)
    for day in range(3):
        rows = [f"u{n % 50},a,{(START + timedelta(days=day, minutes=n)).isoformat()},1,a," for n in range(300)]
        shop.put(f"{day}.csv", HEADER + "\n".join(rows) + "\n")
    run(shop)
    before = dict(shop.lake.data_files("silver/events"))
    shop.put("3.csv", HEADER + f"u1,a,{(START + timedelta(days=3, hours=5)).isoformat()},1,a,\n")
    told = run(shop)
    assert "cleaned lines  accepted=1  " in told, told
    after = dict(shop.lake.data_files("silver/events"))
    assert before.items() < after.items()
    late = (START + timedelta(days=1, hours=12)).isoformat()
    shop.put("4.csv", HEADER + f"u1,b,{late},1,b,\n")
    told = run(shop)
    assert "cleaned lines  accepted=7  " in told, f"the six of that user's day are cleaned again: {told}"
    kept = {name for name in after if "event_date=2024-03-02" not in name}
    assert kept < {*dict(shop.lake.data_files("silver/events"))}
    assert shop.lake.num_rows("silver/events") == 902


CHANGES = {
    "another setting": ("--clean.session-gap-minutes=20",),
    "as it is asked": ("--clean.rebuild=true",),
}


@pytest.mark.parametrize("why", [*CHANGES])
def test_everything_is_cleaned_again_where_it_must_be(tmp_path: Path, why: str) -> None:
    shop = Shop.with_key(tmp_path / "shop", MAPPING)
    shop.put("0.csv", HEADER + "u,a,2024-03-01T10:00:00,1,a,\nu,a,2024-03-01T10:25:00,1,a,\n")
    run(shop)
    shop.put("1.csv", HEADER + "u,a,2024-03-02T10:00:00,1,a,\n")
    assert "accepted=3" in run(shop, *CHANGES[why])


def test_a_run_that_ended_between_two_commits_is_not_built_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lib.engines.spark import SparkRun

    shop, whole = Shop.with_key(tmp_path / "shop", MAPPING), Shop.with_key(tmp_path / "whole", MAPPING)
    files = files_of(random.Random(7), num_days=4)
    for name, text in files.items():
        whole.put(name, text)
        if name < "02":
            shop.put(name, text)
    run(whole)
    run(shop)
    for name, text in files.items():
        shop.put(name, text)
    commit = SparkRun.commit_written

    def only_events(self: SparkRun, table: str, *given: object, **further: object) -> None:
        if table != "silver/events" and self.job.name == "clean":
            raise OSError(28, "No space left on device")
        commit(self, table, *given, **further)  # type: ignore[arg-type]

    with monkeypatch.context() as full:
        full.setattr(SparkRun, "commit_written", only_events)
        assert shop.run("--clean.max-reject-frac=0.5").code == 1
    shop.put("05.csv", HEADER + "u1,a,2024-03-01T10:00:00,1,a,\n")
    whole.put("05.csv", HEADER + "u1,a,2024-03-01T10:00:00,1,a,\n")
    run(shop)  # takes the run up with what it had begun with
    assert [row["status"] for row in history.runs(shop.lake, "clean")] == ["done", "done"]
    run(shop)
    run(whole)
    require_same(shop, whole)


@pytest.fixture
def clocks(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop.with_key(tmp_path / "clocks", MAPPING)
    shop.put("0.csv", HEADER + "".join(f"u,a,2024-03-{day:02d}T10:{day}:00,1,a,\n" for day in range(10, 30)))
    run(shop)
    yield shop


def test_a_clock_that_new_records_show_to_be_another_cleans_everything(clocks: Shop) -> None:
    clocks.put("1.csv", HEADER + "".join(f"u,a,2024-03-30T10:00:{n:02d},1,a,\n" for n in range(1, 50, 3)))
    assert "the clock is another" in run(clocks)


def test_days_that_new_records_show_to_be_stray_or_not_clean_everything(tmp_path: Path) -> None:
    shop, whole = Shop.with_key(tmp_path / "shop", MAPPING), Shop.with_key(tmp_path / "whole", MAPPING)
    near = HEADER + "".join(f"u{n},a,2024-03-{n % 28 + 1:02d}T10:{n % 60:02d}:01,1,a,\n" for n in range(300))
    far = HEADER + "u1,a,2020-01-01T10:00:01,1,a,\n"
    body = HEADER + "".join(f"u{n},a,2021-{n % 12 + 1:02d}-{n % 28 + 1:02d}T10:00:01,1,a,\n" for n in range(300))
    for name, text in (("0.csv", near), ("1.csv", far), ("2.csv", body), ("3.csv", far.replace("u1", "u2"))):
        shop.put(name, text)
        whole.put(name, text)
        run(shop)
    run(whole)
    require_same(shop, whole)


def test_a_day_that_no_task_can_hold_is_written_by_several_and_grows(tmp_path: Path) -> None:
    draw = random.Random(3)
    busy = [line for _ in range(40) for line in lines(0, draw, num_users=60, most_late=1)]
    parts = [busy[: len(busy) // 2], busy[len(busy) // 2 :]]
    grown, whole = (Shop.with_key(tmp_path / name, MAPPING) for name in ("grown", "whole"))
    few = ("--clean.records-per-shard=1000", "--clean.max-reject-frac=1")
    for number, part in enumerate(parts):
        for shop in (grown, whole):
            shop.put(f"{number}.csv", HEADER + "\n".join(part) + "\n")
        told = grown.run(*few)
        assert told.code == 0, told.text
    assert whole.run("--clean.max-reject-frac=1").code == 0
    num_files = [len(shop.lake.data_files("silver/events")) for shop in (grown, whole)]
    num_days = len({row["event_date"] for row in whole.read("silver/events", "event_date")})
    assert num_files[0] > num_files[1] == num_days
    for table in TABLES:
        assert grown.content(table) == whole.content(table), table
