"""The clean job on small logs, after ingest: silver by hand, what stops it, and that nobody's id gets out of bronze."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.cleaning.batches import whole_of
from lib.cleaning.fields import NUMBER, type_events
from lib.cleaning.pseudonyms import load_key, pseudonyms
from lib.formats.mapping import LogMapping
from lib.runs import history
from lib.settings import PrivacySettings
from lib.tables import contract
from tests import shops
from tests.lakes import START

ROOT = Path(__file__).parents[3]
MAPPING = """
name: own
currency: EUR
sources:
  lines:
    files: "lines/*.csv"
    names: {user_id: user, item_id: item, event_time: time, price: price, title: title}
    events: [{type: {column: what}}]
  carts:
    files: "carts/*.csv"
    names: {user_id: user.id, item_id: item, event_time: at}
    time_format: epoch_seconds
    events: [{type: cart}]
  products:
    kind: items
    files: "products/*.csv"
    names: {item_id: item, title: title, brand: brand}
  images:
    kind: images
    files: "images/*.parquet"
    reader: {type: parquet}
    names: {item_id: id, bytes: jpg}
"""
NOON = 1704110400  # 2024-01-01 12:00:00 UTC
HEADER = "user,item,time,price,title,what"
LINES = [
    "ann@shop,i1,2024-01-01 12:00:00,2.50,Lamp,view",
    "ann@shop,i1,2024-01-01 12:00:01,2.50,Lamp,view",
    "ann@shop,i2,2024-01-01 12:10:00,3.00,Mug,purchase",
    "ann@shop,i2,2024-01-01 12:10:00,3.00,Mug,purchase",
    "bob@shop,i1,2024-01-02 09:00:00,2.75,Red lamp,view",
    ",i2,2024-01-02 10:00:00,,,view",
    ",i2,2024-01-02 10:00:01,,,view",
    "bob@shop,i3,soon,1,Hat,view",
    "bob@shop,i3,2024-01-02 10:00:00,1,Hat,hover",
    "bob@shop;i3",
]


class Shop(shops.Shop):
    """A shop whose files are given by their lines; half of its records may be refused."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, MAPPING)

    def put(self, name: str, *lines: str) -> None:
        super().put(name, "\n".join(lines) + "\n")

    def ingest(self) -> None:
        self.run_job("ingest")

    def clean(self, **settings: Any) -> None:
        self.run_job("clean", **{"max_reject_frac": 0.5, **settings})

    def key_of(self, user: str) -> str:
        key = load_key(PrivacySettings(), self.lake.path)
        return str(pseudonyms(pa_series(user), key)[0])

    def read(self, table: str, *columns: str) -> list[dict[str, Any]]:
        """The table's content by key, or some columns of it."""
        names = columns or contract(table).content_columns
        rows = self.table(table, *names).to_pylist()
        return sorted(rows, key=lambda row: [str(row[name]) for name in (*contract(table).key, *names) if name in row])


def pa_series(*texts: str) -> pl.Series:
    return pl.Series(texts)


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@pytest.fixture(scope="module")
def cleaned(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop with records of every source, ingested and cleaned once; the tests of it change no table."""
    shop = Shop(tmp_path_factory.mktemp("shop"))
    shop.put("lines/1.csv", HEADER, *LINES)
    shop.put("carts/1.csv", "user.id,item,at", f"ann@shop,i2,{NOON + 300}", f"ann@shop,i2,{NOON + 3600}")
    shop.put("products/1.csv", "item,title,brand", "i2,Cup,Acme", "i9,Unsold,")
    (shop.log / "images").mkdir()
    pq.write_table(pa.table({"id": ["i9"], "jpg": [b"jpeg"]}), shop.log / "images/1.parquet")
    shop.ingest()
    shop.clean()
    return shop


def test_silver_holds_each_true_event_once_and_the_rejects_hold_the_rest(cleaned: Shop) -> None:
    ann, bob = cleaned.key_of("ann@shop"), cleaned.key_of("bob@shop")
    columns = ("source_record", "user_key", "item_id", "event_type", "price", "currency")
    events = {row.pop("source_record"): tuple(row.values()) for row in cleaned.read("silver/events", *columns)}
    assert events == {
        "lines/lines/1.csv:1": (ann, "i1", "view", Decimal("2.50"), "EUR"),
        "lines/lines/1.csv:3": (ann, "i2", "purchase", Decimal("3.00"), "EUR"),
        "lines/lines/1.csv:5": (bob, "i1", "view", Decimal("2.75"), "EUR"),
        "lines/lines/1.csv:6": (None, "i2", "view", None, None),
        "lines/lines/1.csv:7": (None, "i2", "view", None, None),
        "carts/carts/1.csv:1": (ann, "i2", "cart", None, None),
        "carts/carts/1.csv:2": (ann, "i2", "cart", None, None),
    }
    rejects = cleaned.read("bronze/rejects", "stage", "source_record", "reason")
    assert {row["source_record"]: row["reason"] for row in rejects} == {
        "lines/1.csv:2": "double_click",
        "lines/1.csv:4": "duplicate",
        "lines/1.csv:8": "bad_value:event_time",
        "lines/1.csv:9": "bad_value:event_type",
        "lines/1.csv:10": "malformed",
    }
    assert {row["stage"] for row in rejects} == {"clean"}


def test_a_user_of_two_sources_has_one_course_of_sessions_and_nobody_has_none(cleaned: Shop) -> None:
    sessions: dict[str | None, list[str]] = {}
    rows = cleaned.read("silver/events", "user_key", "event_time", "session_id")
    for row in sorted(rows, key=lambda row: row["event_time"]):
        sessions.setdefault(row["user_key"], []).append(row["session_id"])
    first, second, third, fourth = sessions[cleaned.key_of("ann@shop")]
    assert first == second == third != fourth  # view 12:00, cart 12:05, purchase 12:10; cart 13:00
    assert sessions[None] == [None, None]


def test_an_item_is_as_last_described_and_a_catalogue_counts_before_events(cleaned: Shop) -> None:
    assert cleaned.read("silver/items", "item_id", "title", "brand", "price", "image_uri") == [
        {"item_id": "i1", "title": "Red lamp", "brand": None, "price": Decimal("2.75"), "image_uri": None},
        {"item_id": "i2", "title": "Cup", "brand": "Acme", "price": Decimal("3.00"), "image_uri": None},
        {"item_id": "i9", "title": "Unsold", "brand": None, "price": None, "image_uri": "bronze/images#i9"},
    ]


@pytest.mark.bad_input("more rejects than the limit")
def test_more_refused_records_than_the_limit_are_one_line_and_change_no_table(cleaned: Shop) -> None:
    before = cleaned.versions()
    with pytest.raises(ValueError) as error:
        cleaned.clean(max_reject_frac=0.25)
    # Three of ten: a duplicate and a double click do not count, of the reasons none is more frequent.
    assert str(error.value) == (
        "1 of 10 records of lines could not be parsed; check the mapping's reader; 3 are refused in all (limit 0.25 of them); "
        "first: lines/1.csv:10"
    )
    assert cleaned.versions() == before


@pytest.mark.bad_input("another pseudonym key")
def test_another_pseudonym_key_is_one_line_and_changes_no_table(cleaned: Shop) -> None:
    before = cleaned.versions()
    other = cleaned.folder / "other.key"
    other.write_text("0123456789abcdef" * 4)
    with pytest.raises(ValueError, match=r"were made with another key \(its fingerprint is \w+, this one's \w+\); use"):
        cleaned.clean(privacy={"key_file": str(other)})
    assert cleaned.versions() == before


def test_nobodys_id_and_no_key_gets_out_of_bronze(cleaned: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError):
        cleaned.clean(max_reject_frac=0.0)  # an error tells where to look, and nobody's id
    key = load_key(PrivacySettings(), cleaned.lake.path)
    tables = [table for table in cleaned.lake.tables() if not table.startswith(("bronze/", "ops/"))]
    said = [str(cleaned.read(table)) for table in tables] + [str(history.runs(cleaned.lake)), *capfd.readouterr()]
    traces = [file.read_text() for file in (cleaned.lake.folder / "logs").iterdir()]
    assert any("Traceback" in text for text in traces)
    for secret in ("ann@shop", "bob@shop", key.decode()):
        assert not any(secret in text for text in (*said, *traces))


@pytest.mark.slow
def test_a_second_run_changes_no_content(cleaned: Shop) -> None:
    before = {table: cleaned.read(table) for table in ("silver/events", "silver/items")}
    cleaned.clean()
    assert {table: cleaned.read(table) for table in before} == before


@pytest.mark.bad_input("every time unparsable")
def test_a_log_whose_every_time_is_unreadable_is_one_line_and_changes_no_table(shop: Shop) -> None:
    shop.put("lines/1.csv", HEADER, *[line.replace("2024-01", "01:2024") for line in LINES[:3]])
    shop.ingest()
    before = shop.versions()
    with pytest.raises(ValueError) as error:
        shop.clean(max_reject_frac=1.0)
    assert str(error.value) == (
        "3 of 3 records of lines have no valid event_time; check the mapping's time; "
        "first: '01:2024-01 12:00:00' in lines/1.csv:1"
    )
    assert shop.versions() == before


def test_a_value_of_a_mismapped_column_is_shown_and_not_recorded(shop: Shop, capfd: pytest.CaptureFixture[str]) -> None:
    # The column that the mapping takes for the time holds what may be a person's address.
    shop.put("lines/1.csv", HEADER, *[line.replace("2024-01", "ann@shop:2024-01") for line in LINES[:3]])
    shop.ingest()
    with pytest.raises(ValueError, match=r"first: 'ann@shop:2024-01-01 12:00:00' in lines/1\.csv:1"):
        shop.clean(max_reject_frac=1.0)
    (row,) = history.runs(shop.lake, "clean")
    assert row["message"].endswith("have no valid event_time; check the mapping's time; first: lines/1.csv:1")
    logs = [file.read_text() for file in (shop.lake.folder / "logs").iterdir()]
    assert logs
    assert not any("ann@shop" in text for text in (*logs, str(row)))


IDS = ["ann", "-", "null", "0", "17850.0", ' " ', "{}", "ß", None]
NESTED = [
    '{"id": "ann"}',
    '{"id": 1}',
    '{"id": 1.50}',
    '{"id": 0}',
    '{"id": true}',
    '{"id": null}',
    '{"id": {"a": 1}}',
    "x",
    "[1]",
]


@pytest.mark.parametrize(
    ("given", "num_users"),
    [
        ({"names": {"user_id": "user"}}, 8),
        ({"names": {"user_id": "user"}, "null_values": ["-", "null"]}, 6),
        ({"names": {"user_id": "who.id"}, "null_values": ["0"]}, 5),
        ({"names": {"user_id": "user"}, "null_values": {"user_id": "-"}, "guests": [0, "ann"]}, 5),
        ({"constants": {"user_id": "{shop}"}}, 1),
        ({}, 0),
    ],
)
def test_a_record_goes_to_the_shard_of_the_very_user_that_it_is_typed_to(given: dict[str, Any], num_users: int) -> None:
    names = {"item_id": "item", "event_time": "time"} | given.get("names", {})
    source = {"files": "{shop}/*.csv", "events": [{"type": "view"}], **given, "names": names}
    mapping = LogMapping(name="own", sources={"lines": source})
    origin = {"item": "i", "time": "2024-01-01", "source_file": "north/1.csv", "malformed": None}
    rows = [origin | {"user": user, "who": who} for user, who in zip(IDS, NESTED, strict=True)]
    texts = pa.Table.from_pylist(rows, schema=pa.schema(dict.fromkeys((*origin, "user", "who"), pa.string())))

    key = b"a key of the tests"
    shards = whole_of(pl.DataFrame(texts), mapping.sources["lines"], key).to_list()

    records = (
        pl.DataFrame(texts)
        .with_row_index(NUMBER)
        .with_columns(
            record_number=pl.int_range(pl.len()),
            source_file_sha256=pl.lit("f"),
            batch_id=pl.lit("b"),
            arrived_at=pl.lit(START),
        )
    )
    typed = type_events(records, "lines", mapping).sort("record")["user_id"].to_list()
    assert shards == pseudonyms(pl.Series(typed, dtype=pl.String), key).to_list()
    assert len(set(typed) - {None}) == num_users


def test_a_correction_of_the_user_meets_the_record_it_corrects_whatever_the_shards(shop: Shop) -> None:
    shop.mapping.write_text(
        MAPPING.replace("[{type: {column: what}}]", "[{type: {column: what}}]\n    record_key: [item]")
    )
    for day, price in (("1", "1"), ("2", "2")):
        lines = [f"u{day}-{n},i{n},2024-01-01 12:00:01,{price},Lamp,purchase" for n in range(1200)]
        shop.put(f"lines/{day}.csv", HEADER, *lines)
        shop.ingest()
    shop.clean(records_per_shard=1000)  # 2,400 records in three shards
    events = shop.read("silver/events", "item_id", "price", "user_key")
    assert {row["price"] for row in events} == {Decimal("2.0000")}
    assert len({row["user_key"] for row in events}) == len({row["item_id"] for row in events}) == 1200
    assert {row["reason"] for row in shop.read("bronze/rejects", "reason")} == {"superseded"}
    shop.mapping.write_text(shop.mapping.read_text().replace("record_key: [item]", "record_key: [line]"))
    with pytest.raises(ValueError, match="record_key of lines names 'line'; the columns of its records are "):
        shop.clean()
