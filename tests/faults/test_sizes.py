"""Logs of uneven size and shape: a line of ten megabytes, columns that come and go, a user with most of the log, two runs at once."""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.pipeline import ROOT
from tests.shops import Shop

MAPPING = """
name: own
currency: EUR
sources:
  lines:
    files: "*.csv"
    names: {user_id: user, item_id: item, event_time: time, price: price, quantity: number}
    optional: [price, quantity]
    events: [{type: purchase}]
  clicks:
    files: "*.jsonl"
    reader: {type: json_lines}
    names: {user_id: user, item_id: item, event_time: time, title: title}
    optional: [title]
    events: [{type: view}]
"""


def counts(shop: Shop) -> dict[str, int]:
    """How many records were accepted, and refused for which reason."""
    return {"accepted": shop.lake.num_rows("silver/events"), **shop.reasons()}


@pytest.mark.bad_input("a line of ten megabytes")
def test_a_line_of_ten_megabytes_is_a_record_like_others_or_kept_whole_among_the_rejects(tmp_path: Path) -> None:
    shop, large = Shop(tmp_path, MAPPING), "x" * (10 << 20)
    click = {"user": "u", "item": "i", "time": "2024-01-01T10:00:00"}
    lines = [json.dumps(click | {"title": large}), json.dumps(click | {"item": "j"}), f'{{"broken": "{large}']
    shop.put("1.jsonl", "\n".join(lines) + "\n")
    shop.put("1.csv", f"user,item,time,price,number\nu,{large},2024-01-01 10:00:00,1,1\nu,k,2024-01-01 10:00:00,1,1\n")
    told = shop.run("--clean.max-reject-frac=0.5")
    assert told.code == 0, told.text
    assert counts(shop) == {"accepted": 4, "malformed": 1}
    assert {len(row["item_id"]) for row in shop.read("silver/events", "item_id")} == {1, 10 << 20}
    assert shop.read("silver/items", "title")[0].keys() == {"title"}
    (reject,) = shop.read("bronze/rejects", "raw", "source_record")
    assert reject == {"raw": lines[2], "source_record": "1.jsonl:3"}


@pytest.mark.bad_input("a folder whose files gain, lose and retype columns")
def test_columns_that_come_and_go_lose_no_record(tmp_path: Path) -> None:
    shop = Shop(tmp_path, MAPPING)
    shop.put("1.csv", "user,item,time,price,number\nu,i,2024-01-01 10:00:00,1.5,1\n")
    shop.put("2.csv", "time,user,colour,item,price\n2024-01-02 10:00:00,u,red,i,2.5\n")
    shop.put("3.csv", "user,item,time\nu,i,2024-01-03 10:00:00\n")
    shop.put("4.csv", "user,item,time,price,number\nu,i,2024-01-04 10:00:00,cheap,1\nu,i,2024-01-04 11:00:00,3.5,1.0\n")
    shop.put("5.csv", "User,ITEM,Time,Price\nu,i,2024-01-05 10:00:00,4.5\n")
    told = shop.run("--clean.max-reject-frac=0.5")
    assert told.code == 0, told.text
    assert counts(shop) == {"accepted": 5, "bad_value:price": 1}
    prices = sorted(str(row["price"]) for row in shop.read("silver/events", "price"))
    assert prices == ["1.5000", "2.5000", "3.5000", "4.5000", "None"]
    shop.put("6.csv", "user,item\nu,i\n")
    told = shop.run("--ingest.max-bad-files-frac=1")
    assert "6.csv" in told.text
    assert "has no column 'time'" in told.text
    assert shop.lake.num_rows("silver/events") == 5


@pytest.mark.bad_input("a folder of very many files")
def test_many_small_files_share_the_files_of_bronze_and_are_not_opened_again(tmp_path: Path) -> None:
    shop, num_files = Shop(tmp_path, MAPPING), 2_000
    for number in range(num_files):
        shop.put(f"{number}.csv", f"user,item,time,price,number\nu{number},i,2024-01-01 10:00:00,1,1\n")
    assert shop.run(last="ingest").code == 0
    assert shop.lake.num_rows("bronze/lines") == num_files
    assert len(shop.lake.data_files("bronze/lines")) <= 2, "one of each task"
    assert len(shop.lake.data_files("ops/files")) == 1
    versions = shop.versions()
    assert f"no new files among {num_files}" in shop.run(last="ingest").text
    assert shop.versions() == versions


def test_a_user_who_makes_most_of_the_log_is_cleaned_like_others(tmp_path: Path) -> None:
    shop = Shop(tmp_path, MAPPING)
    rows = [
        f"{'whale' if n % 10 else f'u{n}'},i{n % 7},2024-01-{n % 28 + 1:02d} {n // 3600:02d}:{n // 60 % 60:02d}:{n % 60:02d},1,1"
        for n in range(40_000)
    ]
    shop.put("1.csv", "\n".join(["user,item,time,price,number", *dict.fromkeys(rows)]) + "\n")
    told = shop.run("--clean.records-per-shard=1000")
    assert told.code == 0, told.text
    accepted = counts(shop)
    assert sum(accepted.values()) == len(dict.fromkeys(rows))
    assert accepted["accepted"] > 30_000


@pytest.mark.bad_input("two runs of a job at once")
def test_two_runs_of_a_job_at_once_double_nothing(tmp_path: Path) -> None:
    shop = Shop(tmp_path, MAPPING)
    shop.put(
        "1.csv", "user,item,time,price,number\n" + "".join(f"u{n},i,2024-01-01 10:00:00,1,1\n" for n in range(500))
    )
    places = [f"--lake.path={shop.lake.path}", f"--log.path={shop.log}", f"--log.format={shop.mapping}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for job in ("ingest", "clean"):
        command = [sys.executable, f"jobs/spark/{job}.py", *places]
        both = [
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            for _ in range(2)
        ]
        ended = [(process.wait(), process.communicate()[0]) for process in both]
        assert 0 in [code for code, _ in ended], ended
        assert all(code in (0, 1) for code, _ in ended), ended
    assert shop.lake.num_rows("bronze/lines") == 500
    assert counts(shop) == {"accepted": 500}


@pytest.mark.bad_input("a folder of Parquet files whose columns have another type in each")
def test_parquet_columns_of_other_types_lose_no_record(tmp_path: Path) -> None:
    names = "names: {user_id: user, item_id: item, event_time: time, price: price, quantity: number}"
    reader = "reader: {type: parquet}\n    clock: second"
    shop = Shop(
        tmp_path,
        f"name: own\nsources:\n  lines:\n    files: '*.parquet'\n    {reader}\n    {names}\n    events: [{{type: purchase}}]\n",
    )

    def put(day: int, **columns: Any) -> None:
        shop.log.mkdir(exist_ok=True)
        usual = {
            "user": ["u"],
            "item": ["i"],
            "time": [datetime(2024, 1, day, 10, tzinfo=UTC)],
            "price": [1.5],
            "number": [1],
        }
        pq.write_table(pa.table({**usual, **columns}), shop.log / f"{day}.parquet")

    put(1, number=pa.array([1], pa.int32()))
    put(2, time=["2024-01-02 10:00:00"], price=["1.5"], number=[1.0])
    put(
        3,
        time=pa.array([datetime(2024, 1, 3, 10, tzinfo=UTC)], pa.timestamp("ns", "UTC")),
        price=[Decimal("1.50")],
        number=["1"],
    )
    put(4, user=pa.array(["u"]).dictionary_encode(), item=pa.array([b"i"]), number=pa.array([1], pa.uint8()))
    put(5, time=pa.array([date(2024, 1, 5)]), price=[{"a": 1}])
    put(6, price=[True])
    put(7, user=pa.array([7], pa.int64()), number=[[1, 2]])
    told = shop.run("--clean.max-reject-frac=0.9")
    assert told.code == 0, told.text
    assert counts(shop) == {"accepted": 4, "bad_value:price": 2, "bad_value:quantity": 1}
    events = shop.read("silver/events", "event_time", "item_id", "price", "quantity")
    assert {(row["item_id"], row["price"], row["quantity"]) for row in events} == {("i", Decimal("1.5000"), 1)}
    assert sorted(row["event_time"].day for row in events) == [1, 2, 3, 4]
    assert {row["source_record"] for row in shop.read("bronze/rejects")} == {f"{day}.parquet:1" for day in (5, 6, 7)}
