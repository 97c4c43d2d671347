"""A mapping proposed for an unknown file can be loaded, and reads the file rightly."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lib.formats.mapping import parse_mapping
from lib.pipeline import ROOT
from lib.trial.outcome import Outcome, outcomes
from lib.trial.proposal import proposal
from tests.lib.trial.logs import LOGS

DATA = ROOT.parent / "shared" / "data"
REAL = {
    "rees46/2019-Oct-head.csv": {"view", "cart", "purchase"},
    "online_retail/2010-12-01.csv": {"purchase", "return"},
    "otto/train.jsonl": {"view", "cart", "purchase"},
}


def proposed(path: Path, content: str | bytes | None = None) -> tuple[str, Outcome]:
    """The text of the proposal for a file, and what it makes of the file."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    text = proposal(str(path), max_rows=2000)
    (found,) = outcomes(str(path), parse_mapping(text, "proposal"), max_rows=2000)
    return text, found


@pytest.mark.parametrize(("name", "file"), [(name, next(iter(files))) for name, files in LOGS.items()])
def test_logs_of_public_data_sets_are_guessed(tmp_path: Path, name: str, file: str) -> None:
    text, found = proposed(tmp_path / Path(file).name, LOGS[name][file])
    assert found.accepted_frac == 1.0, text
    expected = {
        "taobao": {"view": 7, "cart": 1, "favourite": 1, "purchase": 1},
        "retailrocket": {"view": 2, "cart": 1, "purchase": 1},
    }
    expected |= {"movielens": {"rating": 3}, "ga4": {"impression": 2, "view": 1, "purchase": 1}}
    assert found.num_by_type == expected[name], text


@pytest.mark.parametrize(("file", "types"), REAL.items())
def test_real_logs_are_guessed(file: str, types: set[str]) -> None:
    if not (DATA / file).exists():
        pytest.skip("there is no folder of real data beside the checkout")
    text, found = proposed(DATA / file)
    assert found.accepted_frac > 0.9, text
    assert {*found.num_by_type} == types, text


def test_a_catalogue_is_guessed(tmp_path: Path) -> None:
    text, found = proposed(tmp_path / "p.csv", "sku;name;brand;price\n1;Lamp;Acme;1.249,50\n2;Mug;Acme;2,00\n")
    assert "kind: items" in text
    assert found.num_by_outcome == {"accepted": 2}
    assert found.sample["price"].cast(float).to_list() == [1249.5, 2.0]


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (["31.12.2023 10:00", "01.01.2024 11:30"], '"%d.%m.%Y %H:%M"'),
        (["12/31/2023 10:00:00", "01/01/2024 11:30:00"], '"%m/%d/%Y %H:%M:%S"'),
        (["01/02/2024", "03/02/2024"], '"%d/%m/%Y" # or is the month first?'),
        (["1704110400123", "1704110400999"], "epoch_milliseconds"),
        (["20240131", "20240201"], '"%Y%m%d"'),
    ],
)
def test_the_format_of_times_is_found(tmp_path: Path, times: list[str], said: str) -> None:
    lines = "".join(f"u{number}\ti\t{time}\n" for number, time in enumerate(times))
    text, found = proposed(tmp_path / "log.tsv", f"user\titem\tdate\n{lines}")
    assert f"time_format: {said}" in text
    assert found.num_by_outcome == {"accepted": 2}


def test_parquet_nested_keys_and_markers_of_nothing(tmp_path: Path) -> None:
    rows = {
        "who": [{"id": "a"}, {"id": "b"}],
        "product_id": [7, 8],
        "ts": ["2024-01-01T10:00:00Z"] * 2,
        "brand": ["\\N", "x"],
    }
    pq.write_table(pa.table(rows), tmp_path / "log.parquet")
    text, found = proposed(tmp_path / "log.parquet")
    assert '"type": "parquet"' in text
    assert 'null_values: ["\\\\N"]' in text
    assert "timezone" not in text
    assert found.num_by_outcome == {"accepted": 2}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "f.csv is empty"),
        (json.dumps([{"item": 1}]).encode(), "f.csv is one JSON array; write an object a line"),
        (b"colour,size\nred,2\n", "f.csv: no column looks like an item; it has colour, size"),
    ],
)
def test_what_cannot_be_proposed_is_one_line(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "f.csv").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        proposal(str(tmp_path / "f.csv"), max_rows=100)


def test_text_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    text, found = proposed(
        tmp_path / "log.csv", "kunde,artikel,item,time,user\nx,Käse,1,2024-01-01,u\n".encode("cp1252")
    )
    assert '"encoding": "cp1252"' in text
    assert found.num_by_outcome == {"accepted": 1}
