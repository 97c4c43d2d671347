"""Wrong clocks, coarse clocks and days that are sent again: the cases 08-device-clocks and 22-redelivered-day."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from lib.formats.mapping import load_mapping
from lib.runs.log_times import log_times
from lib.tables.silver import CLOCKS
from tests.shops import Shop

KEYED = """
name: shop
currency: EUR
sources:
  events:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: ts, price: price, quantity: qty}
    events:
      - {type: {column: event}}
    record_key: [ts, user, event, item]
"""
BY_DAY = """
name: shop
sources:
  events:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: ts, title: title}
    events:
      - {type: {column: event}}
"""


def test_a_few_wrong_clocks_do_not_move_the_times_of_the_log(faults: Path, tmp_path: Path) -> None:
    shop = Shop.of_case(faults / "08-device-clocks", tmp_path)
    strays = ["2016-05-05 12:00:00,1001,view,SKU001,5,1", "2025-06-06 12:00:00,1001,purchase,SKU001,5,1"]
    shop.put("strays.csv", "\n".join(["ts,user,event,item,price,qty", *strays, ""]))
    told = shop.run()
    assert told.code == 0
    reasons = shop.reasons()
    assert reasons["stray_time"] >= 2
    assert sum(reasons.values()) == 4  # the case's own, in 1970 and 2099, are no times of a shop either way
    assert "the log lies between 2024-01-01 and 2024-02-14; far outside it are" in told.text
    times = log_times(shop.lake, load_mapping(str(shop.mapping)), shop.lake.data_version("silver/events") or 0)
    assert (times.start.date(), times.end.date()) == (date(2024, 1, 1), date(2024, 2, 14))
    assert times.test_from.date() == date(2024, 2, 10)  # 90 % of 45 days
    late = [row for row in shop.read("silver/events", "event_time") if row["event_time"] >= times.test_from]
    assert len(late) > 100
    assert all(row["event_date"].year == 2024 for row in shop.read("silver/events", "event_date"))


def test_a_day_that_is_sent_again_with_corrections_counts_once(faults: Path, tmp_path: Path) -> None:
    shop = Shop.of_case(faults / "22-redelivered-day", tmp_path, mapping=KEYED)
    shop.run()
    before = shop.lake.num_rows("silver/events")
    second = shop.folder / "log-second"
    # A correction of the user: its record meets the one that it corrects, although they are another user's.
    late = (second / "day2.csv").read_text().splitlines()
    (second / "day3.csv").write_text("\n".join([late[0], late[-1].replace(",1,", ",2,"), ""]))
    told = shop.run(log=second)
    assert told.code == 0
    events = shop.read("silver/events", "event_type", "price", "event_time")
    assert len(events) == 120 > before
    given = [
        line.split(",") for day in ("day1", "day2") for line in (second / f"{day}.csv").read_text().splitlines()[1:]
    ]
    assert sorted(str(row["price"]) for row in events) == sorted(f"{Decimal(line[4]):.4f}" for line in given)
    assert set(shop.reasons()) <= {"superseded", "malformed", "bad_value:item_id"}
    assert sum(shop.reasons().values()) + 120 == shop.lake.num_rows("bronze/events")


def test_without_a_key_what_came_twice_is_told(faults: Path, tmp_path: Path) -> None:
    shop = Shop.of_case(faults / "22-redelivered-day", tmp_path)
    shop.run()
    told = shop.run(log=shop.folder / "log-second")
    assert shop.lake.num_rows("silver/events") == 123
    assert "records of events equal another in every column and count once; one that is sent again" in told.text
    assert "record_key" in told.text


def test_a_log_stamped_by_the_day_loses_no_view(tmp_path: Path) -> None:
    shop = Shop(tmp_path, BY_DAY)
    lines = [
        f"2024-03-{day:02d},u{user},{kind},i{user % 3},{kind}{number}"
        for day in range(1, 31)
        for user in range(5)
        for number, kind in enumerate(["view"] * 4 + ["purchase"])
    ]
    shop.put("march.csv", "\n".join(["ts,user,event,item,title", *lines, ""]))
    told = shop.run(last="featurize")
    assert told.code == 0
    assert shop.reasons() == {}
    assert shop.lake.num_rows("silver/events") == 750
    assert "the clock of events is the day, found from its times" in told.text
    assert json.loads(shop.lake.table_property("silver/events", CLOCKS) or "") == {"events": "day"}
    sessions = shop.read("silver/events", "user_key", "event_date", "session_id")
    assert len({row["session_id"] for row in sessions}) == 150  # a session is a user's day
    profiles = shop.read("gold/user_profiles")
    assert {row["as_of"] for row in profiles} == {datetime(2024, 3, 28, tzinfo=UTC)}  # 90 % of 30 days, whole
    assert [row["active_hours"] for row in profiles] == [None] * 5
    assert [row["favourite_hour"] for row in profiles] == [None] * 5
