"""A person who asked to be forgotten is in no table and no file of the lake, and does not come back."""

import errno
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from lib.cleaning.pseudonyms import load_key, pseudonyms
from lib.cli.jobs import load_job
from lib.engines.ports import free_ports
from lib.online.open_state import open_state
from lib.online.state import LiveEvent
from lib.pipeline import JOBS
from lib.runs.errors import RetryableError
from lib.settings import LiveSettings, PrivacySettings
from tests.redis_servers import RedisServer
from tests.shops import Shop

MAPPING = """
name: own
sources:
  lines:
    files: "*.csv"
    names: {user_id: who, item_id: item, event_time: at, order_id: Order No.}
    whole_number_ids: [user_id]
    events: [{type: purchase}]
  clicks:
    files: "*.jsonl"
    reader: {type: json_lines}
    names: {user_id: user.id, item_id: item, event_time: at}
    events: [{type: view}]
"""
LINES = "who,item,at,Order No.,a.b\n" + "".join(
    f"{who},lamp,2024-01-{day:02d} 10:00:00,o{day},x\n" for day in range(1, 29) for who in ("4711", "4711.0", "12")
)
CLICKS = "".join(
    json.dumps({"user": {"id": who}, "item": item, "at": f"2024-01-{day:02d}T11:00:00"}) + "\n"
    for day in range(1, 29)
    for who, item in ((4711, "mug"), (12, "lamp"), (13, "4711"))
)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path, MAPPING)
    shop.put("1.csv", LINES + "4711,lamp,never,o,\nbroken 4711 line\n12,lamp,2024-01-01 10:00:00,o1,x\n")
    shop.put("1.jsonl", CLICKS)
    assert shop.run(last="sessions").code == 0
    return shop


def erase(shop: Shop, *users: str) -> None:
    shop.run_job("erase", users=users)


def traces(shop: Shop, *texts: str) -> set[str]:
    """The tables in which some row holds one of the texts as a value of its own, and files that hold it as bytes."""
    found = set()
    for table in shop.lake.tables():
        for row in shop.read(table):
            said = json.dumps(row, default=str)
            found |= {table for text in texts if f'"{text}"' in said or f" {text} " in said or f": {text}" in said}
    return found


def test_a_person_is_removed_from_every_table_and_others_stay(shop: Shop) -> None:
    key = load_key(PrivacySettings(), shop.lake.path)
    (theirs,) = pseudonyms(pl.Series(["4711"]), key)
    before = {table: shop.lake.num_rows(table) for table in shop.lake.tables()}
    assert traces(shop, theirs) >= {"silver/events", "gold/user_profiles", "gold/interactions", "gold/sessions"}
    erase(shop, "4711")
    assert traces(shop, theirs, "4711.0") == set()
    assert {row["who"] for row in shop.read("bronze/lines", "who")} == {"12"}
    clicks = shop.read("bronze/clicks", "user", "item")
    assert {row["user"] for row in clicks} == {'{"id":12}', '{"id":13}'}
    assert {row["item"] for row in clicks} == {"lamp", "4711"}, "an item of that name is no person"
    assert shop.lake.num_rows("gold/user_profiles") == before["gold/user_profiles"] - 1
    for table in shop.lake.tables():
        if not table.startswith("ops/"):
            held = {Path(location).name for location, _ in shop.lake.data_files(table)}
            found = {file.name for file in (shop.lake.folder / table).glob("**/part-*.parquet")}
            assert found <= held or table == "silver/items", f"old files of {table} are gone"
    for log in shop.lake.folder.glob("*/*/_delta_log/*.json"):
        assert theirs not in log.read_text(), "no statistics tell of them"
        assert log.parts[-4] != "bronze" or '"4711' not in log.read_text(), "nor of their id in the source"


def test_a_person_is_forgotten_by_the_online_state_also_when_it_was_away(
    shop: Shop, redis_server: RedisServer, tmp_path: Path
) -> None:
    key = load_key(PrivacySettings(), shop.lake.path)
    theirs, others = pseudonyms(pl.Series(["4711", "12"]), key)
    view = LiveEvent(datetime(2024, 1, 1, tzinfo=UTC), "view", "lamp")
    erase(shop)
    assert not (shop.lake.folder / "online.sqlite").exists(), "where there is no state, none is made"
    in_redis = LiveSettings(state=redis_server.address, topic_prefix="erase.")
    away = in_redis.model_copy(update={"state": f"redis://127.0.0.1:{free_ports(1)[0]}/0"})
    for live in (LiveSettings(), in_redis):
        state = open_state(live, shop.lake.path)
        state.add_events({theirs: [view], others: [view]})
        if live is in_redis:
            with pytest.raises(RetryableError, match=r"does not answer.*may still be in it: run erase again"):
                shop.run_job("erase", users=("4711",), live=away)
            assert state.events(theirs) == [view]
        shop.run_job("erase", users=() if live is in_redis else ("4711",), live=live)
        assert list(state.user_keys()) == [others]
        assert state.events(others) == [view]
        state.close()


def test_a_rerun_and_a_late_delivery_do_not_bring_the_person_back(shop: Shop) -> None:
    erase(shop, "4711")
    assert shop.run(last="featurize").code == 0
    users = {row["user_key"] for row in shop.read("silver/events", "user_key")}
    assert len(users) == 2
    shop.put(
        "late.csv",
        "who,item,at,Order No.,a.b\n04711,lamp,2024-01-29 10:00:00,o99,x\n12,lamp,2024-01-29 10:00:00,o98,x\n",
    )
    assert shop.run(last="featurize").code == 0
    assert {row["user_key"] for row in shop.read("silver/events", "user_key")} == users
    late = [row for row in shop.read("bronze/rejects") if row["reason"] == "erased"]
    assert [(row["source_file"], row["raw"]) for row in late] == [("late.csv", None)]
    erase(shop)
    assert [row["who"] for row in shop.read("bronze/lines") if row["source_file"] == "late.csv"] == ["12"]
    assert not [row for row in shop.read("bronze/rejects") if row["reason"] == "erased"]


def test_one_that_was_stopped_is_run_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = shop.lake.num_rows("silver/events")
    with monkeypatch.context() as full:
        full.setattr(load_job(JOBS["erase"]), "delete_rows", stopped)
        with pytest.raises(OSError, match="No space"):
            erase(shop, "4711")
    assert shop.lake.num_rows("silver/events") == theirs
    erase(shop, "4711")
    assert shop.lake.num_rows("silver/events") == theirs - 84
    assert {row["who"] for row in shop.read("bronze/lines", "who")} == {"12"}


def stopped(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_recorded_does_not_say_who(shop: Shop) -> None:
    erase(shop, "4711")
    key = load_key(PrivacySettings(), shop.lake.path)
    (theirs,) = pseudonyms(pl.Series(["4711"]), key)
    said = json.dumps([shop.read(table) for table in ("ops/runs", "ops/erasures")], default=str)
    assert "4711" not in said
    assert theirs not in said
    assert len(shop.read("ops/erasures")) == 1
    erase(shop, "nobody", "12")
    assert len(shop.read("ops/erasures")) == 3
