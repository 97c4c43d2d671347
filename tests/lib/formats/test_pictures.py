import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.formats.log_files import LogFile
from lib.formats.mapping import Source
from lib.formats.reading import Inspection, Reading

JPEG = b"\xff\xd8\xff\xe0"
BASE64 = base64.b64encode(JPEG).decode()


def a_source(type_: str = "parquet", **names: str) -> Source:
    mapped = {"item_id": "id", "bytes": "jpg"} | names
    return Source(kind="images", files="*/{part}", names=mapped, reader={"type": type_}, null_values=["n/a"])


def inspect(path: Path, content: bytes | dict[str, Any], source: Source) -> tuple[Inspection, list[dict[str, Any]]]:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(pa.table(content), path)
    reading = Reading(LogFile(str(path), "images/p", path.stat().st_size, "images"), source)
    rows = [row for batch in reading for row in batch.to_pylist()]
    return reading.inspection, rows


def read(path: Path, content: bytes | dict[str, Any], source: Source) -> list[dict[str, Any]]:
    inspection, rows = inspect(path, content, source)
    assert inspection.problem is None
    return rows


def test_a_picture_keeps_its_bytes(tmp_path: Path) -> None:
    assert read(tmp_path / "p", {"id": [7], "jpg": [JPEG], "w": [2]}, a_source(width="w")) == [
        {"item_id": "7", "bytes": JPEG, "uri": None, "width": 2, "height": None, "record_number": 1, "refusal": None}
    ]


@pytest.mark.parametrize(
    ("column", "name"),
    [
        (pa.array([JPEG], pa.large_binary()), "jpg"),
        (pa.array([JPEG]).dictionary_encode(), "jpg"),
        (pa.array([BASE64]), "jpg"),
        (pa.array([f"data:image/jpeg;base64,{BASE64}"]), "jpg"),
        (pa.array([list(JPEG)], pa.list_(pa.uint8())), "jpg"),
        (pa.array([{"bytes": JPEG, "path": "a"}]), "jpg.bytes"),
        (pa.array([{"Bytes": JPEG}]), "jpg.bytes"),
        (pa.array([{"a.b": {"raw": JPEG}}]), "jpg.a.b.raw"),
        (pa.array([[{"bytes": JPEG}, {"bytes": b"2"}]]), "jpg.0.bytes"),
        (pa.array([json.dumps({"image": {"bytes": BASE64}})]), "jpg.image.bytes"),
    ],
)
def test_bytes_come_in_many_shapes(tmp_path: Path, column: pa.Array, name: str) -> None:
    (row,) = read(tmp_path / "p", {"id": ["i"], "jpg": column}, a_source(bytes=name))
    assert (row["bytes"], row["refusal"]) == (JPEG, None)


@pytest.mark.parametrize(
    ("type_", "content", "name"),
    [
        ("csv", f"id,jpg\ni,{BASE64}\n", "jpg"),
        ("json_lines", json.dumps({"id": "i", "jpg": BASE64}), "jpg"),
        ("json_lines", json.dumps({"id": "i", "jpg": {"bytes": BASE64}}), "jpg.bytes"),
    ],
)
def test_text_holds_bytes_in_base64(tmp_path: Path, type_: str, content: str, name: str) -> None:
    (row,) = read(tmp_path / "p", content.encode(), a_source(type_, bytes=name))
    assert (row["item_id"], row["bytes"]) == ("i", JPEG)


def test_a_row_that_is_no_picture_is_refused_and_the_others_stand(tmp_path: Path) -> None:
    content = {
        "id": ["i", None, "j", "k", "l", "n/a"],
        "jpg": [BASE64, BASE64, None, "no base64!", None, BASE64],
        "at": [None, None, None, None, "http://shop/l.jpg", None],
        "w": ["2", "2", "2", "2", "wide", "2"],
    }
    source = a_source(uri="at", width="w")
    inspection, _ = inspect(tmp_path / "p", content, source)
    refused = [(2, "item_id"), (3, "bytes"), (4, "bytes"), (5, "width"), (6, "item_id")]
    assert inspection.refused == tuple((number, f"bad_value:{column}") for number, column in refused)
    assert inspection.notes == ("5 rows are no pictures; first: row 2, bad_value:item_id",)
    assert [(row["item_id"], row["record_number"]) for row in read(tmp_path / "p", content, source)] == [("i", 1)]


@pytest.mark.parametrize(
    ("column", "name", "problem"),
    [
        (
            pa.array([{"path": "a"}]),
            "jpg",
            "holds no bytes where the mapping looks for them, but the type struct<path: string>; name",
        ),
        (
            pa.array([{"path": "a"}]),
            "jpg.bytes",
            "has no 'bytes' in its column 'jpg', which is of the type struct<path: string>",
        ),
        (pa.array([[{"bytes": JPEG}]]), "jpg.bytes", "has no 'bytes' in its column 'jpg', which is of the type list<"),
        (pa.array([1.5]), "jpg", "holds no bytes where the mapping looks for them, but the type double"),
        (pa.array([None], pa.binary()), "jpg", "holds no picture: bad_value:bytes in row 1"),
    ],
)
def test_a_file_without_a_picture_says_what_it_has(tmp_path: Path, column: pa.Array, name: str, problem: str) -> None:
    inspection, _ = inspect(tmp_path / "p", {"id": ["i"], "jpg": column}, a_source(bytes=name))
    assert inspection.problem is not None
    assert inspection.problem.startswith(problem)


def test_pictures_bear_the_ids_that_events_have(tmp_path: Path) -> None:
    source = Source(
        kind="images", files="*/{part}", names={"item_id": "id", "bytes": "jpg"}, reader={"type": "parquet"},
        whole_number_ids="item_id", null_values="-",
    )  # fmt: skip
    rows = read(tmp_path / "p", {"id": ["7.0", "8   ", "  ", "-"], "jpg": [b"a", b"b", b"c", b"d"]}, source)
    assert [row["item_id"] for row in rows] == ["7", "8"]


def test_a_part_of_the_path_may_be_the_item(tmp_path: Path) -> None:
    source = Source(
        kind="images",
        files="*/{part}",
        names={"bytes": "jpg"},
        constants={"item_id": "{part}"},
        reader={"type": "parquet"},
    )
    assert read(tmp_path / "p", {"jpg": [JPEG]}, source)[0]["item_id"] == "p"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"item_id": "id"}, "images need a column for 'bytes' or 'uri' under names"),
        ({"item_id": "id", "bytes": {"template": "{jpg}"}}, "images take each of their columns from one column"),
    ],
)
def test_a_mapping_of_pictures_that_cannot_be_read_is_refused(names: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Source(kind="images", files="*", names=names)
