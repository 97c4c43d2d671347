"""What a mapping makes of the first rows of a log: the shipped ones of public data sets, and what is wrong."""

from pathlib import Path

import pytest

from lib.formats.mapping import load_mapping, parse_mapping
from lib.trial.outcome import outcomes
from tests.lib.trial.logs import LOGS

TYPES = {
    "taobao": {"view": 7, "cart": 1, "favourite": 1, "purchase": 1},
    "retailrocket": {"view": 2, "cart": 1, "purchase": 1},
    "movielens": {"rating": 3},
    "ga4": {"impression": 2, "view": 1, "purchase": 1},
}


def put(folder: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder)


@pytest.mark.parametrize("name", LOGS)
def test_a_shipped_mapping_reads_what_it_is_made_for(tmp_path: Path, name: str) -> None:
    found = {one.source: one for one in outcomes(put(tmp_path, LOGS[name]), load_mapping(name), max_rows=1000)}
    assert [one.accepted_frac for one in found.values()] == [1.0] * len(load_mapping(name).sources)
    events = next(one for one in found.values() if one.num_by_type)
    assert events.num_by_type == TYPES[name]
    assert events.is_whole


def test_a_ga4_export_keeps_the_item_of_each_event_and_ignores_other_types(tmp_path: Path) -> None:
    (found,) = outcomes(put(tmp_path, LOGS["ga4"]), load_mapping("ga4"), max_rows=1000)
    assert found.num_by_outcome == {"accepted": 3, "ignored": 2}
    purchase = found.sample.filter(found.sample["event_type"] == "purchase")
    assert purchase.select("item_id", "quantity").rows() == [("GGOEGAEB0912", 2)]
    assert found.facts["prices"].startswith("50 % of the events, median 12.50; currency: none given")


def test_what_a_person_would_check_is_said(tmp_path: Path) -> None:
    (found,) = outcomes(put(tmp_path, LOGS["retailrocket"]), load_mapping("retailrocket"), max_rows=3)
    assert (found.num_rows, found.is_whole, found.num_by_type) == (3, False, {"view": 2, "cart": 1})
    assert found.facts == {
        "times": "2015-06-02 05:02 to 2015-06-02 05:02 UTC, clock: millisecond",
        "users": "3 different, 100 % of the events; 3 sessions",
        "items": "3 different",
        "prices": "none",
    }


def test_what_a_mapping_cannot_read_is_one_line(tmp_path: Path) -> None:
    log = put(tmp_path, {"1.csv": "user,item\nu,i\n", "2.txt": "x"})
    text = "name: own\nsources: {log: {files: '%s', names: {item_id: item, event_time: time}, events: [{type: view}]}}"
    with pytest.raises(ValueError, match=r"^1\.csv has no column 'time'; it has user, item$"):
        outcomes(log, parse_mapping(text % "*.csv", "own"), max_rows=10)
    with pytest.raises(ValueError, match=r"no file matches a pattern of own: \*\.json"):
        outcomes(log, parse_mapping(text % "*.json", "own"), max_rows=10)


def test_refusals_are_counted_and_described(tmp_path: Path) -> None:
    log = put(tmp_path, {"1.csv": "u,i,t,p\na,1,2024-01-01,2\nb,2,2024-01-01,x\nc,,2024-01-01,1\nbroken\n"})
    text = """
name: own
currency: EUR
sources:
  log: {files: "*", names: {user_id: u, item_id: i, event_time: t, price: p}, events: [{type: view}]}
"""
    (found,) = outcomes(log, parse_mapping(text, "own"), max_rows=10)
    assert found.num_by_outcome == {"accepted": 1, "bad_value:price": 1, "bad_value:item_id": 1, "malformed": 1}
    assert any(line.startswith("log: price of 1 of 4 records refused") for line in found.remarks)
