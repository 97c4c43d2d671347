"""Files that one byte, one type or one header makes hard to read: cases of ../shared/faults and their siblings."""

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.shops import Shop

PARQUET = """
name: shop
currency: EUR
sources:
  events:
    files: "{case}_*.parquet"
    reader: {type: parquet}
    names: {user_id: user, item_id: {template: "{case} {item}"}, event_time: ts, price: price, quantity: qty}
    events:
      - {type: {column: event}}
"""


def logs_of(faults: Path, *cases: str) -> dict[str, bytes]:
    """The files of several cases, each named after its case."""
    return {
        f"{case.replace('/', '_')}_{file.name}": file.read_bytes()
        for case in cases
        for file in sorted((faults / case / "log").iterdir())
    }


def by_file(shop: Shop) -> Counter[str]:
    """The number of events by file."""
    return Counter(row["source_record"].split("/", 1)[1].rsplit(":", 1)[0] for row in shop.read("silver/events"))


def test_line_ends_a_nul_byte_and_headers_that_drift(faults: Path, tmp_path: Path) -> None:
    """The cases 01, 02, 19 and 23a in one log, with the mapping that they share."""
    cases = ("01-cr-only-lines", "02-one-nul-byte", "19-header-drift/a", "19-header-drift/b", "23-header-newline/a")
    mapping = (faults / "19-header-drift/a/map.yaml").read_text()
    mapping = mapping.replace('"*.csv"', '"{case}_*.csv"').replace(
        "item_id: item", 'item_id: {template: "{case} {item}"}'
    )
    shop = Shop(tmp_path, mapping)  # whose items are of one case each, so that no case is a double click of another
    for name, content in logs_of(faults, *cases).items():
        shop.put(name, content)
    told = shop.run()
    assert told.code == 3
    drift = {f"19-header-drift_a_day{day}.csv": 20 for day in (1, 2, 3, 4, 5)}
    assert by_file(shop) == {
        **{f"01-cr-only-lines_day{day}.csv": 40 for day in (1, 2, 3)},
        **{"02-one-nul-byte_day1.csv": 59, "02-one-nul-byte_day2.csv": 60},
        **drift,
        **{"19-header-drift_b_d.csv": 20, "23-header-newline_a_d.csv": 60},
    }
    prices = Counter(
        row["source_record"].split("/")[1].split(":")[0] for row in shop.read("silver/events") if row["price"]
    )
    assert {name: prices[name] for name in drift} == drift
    assert prices["19-header-drift_b_d.csv"] == 20
    assert shop.reasons() == {
        "malformed": 1,
        "file:holds no line that fits the 6 columns of its header": 1,
        "file:has 2 columns that 'item' may mean: item, item": 1,
    }
    assert "19-header-drift_b_d.csv: names columns in another case than the mapping: Price" in told.text
    assert "02-one-nul-byte_day1.csv: 1 lines with a NUL byte do not fit" in told.text
    assert "unit_price" in shop.table("bronze/events").column_names


def test_parquet_columns_of_any_type_and_times_out_of_range(faults: Path, tmp_path: Path) -> None:
    """The cases 11b, c and e, and the types beside them."""
    shop = Shop(tmp_path, PARQUET)
    for name, content in logs_of(faults, *(f"11-parquet-columns/{letter}" for letter in "bce")).items():
        shop.put(name, content)
    other = pa.table(
        {
            "user": pa.array([b"u1", b"\xff\xfe"], pa.binary()),
            "item": pa.array(["i", "j"]).dictionary_encode(),
            "ts": pa.array([1_704_110_400, 2**40], pa.timestamp("s", "America/New_York")),
            "price": pa.array([None, "2.5"]).cast(pa.decimal256(60, 3)),
            "qty": pa.array([1, 2], pa.float16()),
            "event": ["view", "view"],
            "gap": pa.array([1, None], pa.duration("us")),
            "tags": pa.array(
                [[{"at": 0, "raw": b"\xff"}], None],
                pa.list_(pa.struct([("at", pa.time64("us")), ("raw", pa.binary())])),
            ),
            "weights": pa.array([[("a", 1.5)], []], pa.map_(pa.string(), pa.float64())),
            "nothing": pa.nulls(2),
        }
    )
    pq.write_table(other, shop.log / "types_d.parquet")
    assert shop.run("--clean.max-reject-frac=0.1").code == 0
    assert by_file(shop) == {
        **{f"11-parquet-columns_{letter}_d.parquet": 60 for letter in "bc"},
        "11-parquet-columns_e_d.parquet": 59,
        "types_d.parquet": 1,
    }
    assert {row["event_time"].year for row in shop.read("silver/events", "event_time")} == {2024}
    assert shop.reasons() == {"bad_value:event_time": 2}  # the years 9999 and 36812, as they were received
    assert "9999-12-31" in {row["ts"][:10] for row in shop.read("bronze/events", "ts")}
    (row, _) = (row for row in shop.read("bronze/events") if row["source_file"] == "types_d.parquet")
    assert (row["user"], row["price"], row["gap"], row["weights"]) == ("u1", None, "PT0.000001S", '{"a":1.5}')
    assert row["tags"] == '[{"at":"00:00:00.000000","raw":"/w=="}]'
