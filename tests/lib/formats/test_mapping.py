import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lib.formats.experiments import arm_of
from lib.formats.mapping import load_mapping, parse_mapping, shipped_names
from lib.pipeline import ROOT
from lib.tables.silver import EVENT_TYPES

OWN = """
name: shop
sources:
  clicks:
    files: "{country}/**/*.csv"
    reader: {delimiter: ";"}
    names:
      user_id: customer
      item_id: sku
      event_time: at
      rating: stars
      category: {column: path, separator: /}
    constants: {arm: "{country}"}
    optional: [rating]
    events:
      - {type: {column: what, values: {1: view, buy: purchase}}}
      - {type: rating, when: {stars: {matches: .}}}
"""


def refuse(old: str, new: str) -> str:
    """The error that OWN gives with `old` replaced."""
    assert old in OWN
    with pytest.raises(ValueError) as error:
        parse_mapping(OWN.replace(old, new), "own.yaml")
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("own.yaml: ")
    return message.removeprefix("own.yaml: ")


def test_a_mapping_of_twenty_lines_is_read_whole() -> None:
    mapping = parse_mapping(OWN, "own.yaml")
    source = mapping.sources["clicks"]
    assert source.needed_columns == ("customer", "sku", "at", "path", "what", "stars")
    assert source.reader.delimiter == ";"
    assert source.events[0].type.values == {"1": "view", "buy": "purchase"}
    assert mapping.relevance == "purchase"


def test_a_file_needs_the_columns_of_the_record_key() -> None:
    source = parse_mapping(OWN.replace("optional: [rating]", "record_key: line"), "own.yaml").sources["clicks"]
    assert source.record_key == ("line",)
    assert "line" in source.needed_columns


def test_an_unknown_key_is_named_with_its_place_and_what_is_allowed() -> None:
    assert refuse("delimiter", "delimeter") == (
        "sources.clicks.reader: unknown key 'delimeter'; allowed are type, delimiter, quote, escape, columns, encoding, "
        "newlines_in_values, decimal, thousands, currency_signs"
    )
    assert refuse("separator", "seperator").startswith(
        "sources.clicks.names.category: unknown key 'seperator'; allowed"
    )
    assert refuse("name: shop", "name: shop\ncurency: EUR").startswith(
        "unknown key 'curency'; allowed are name, currency"
    )
    assert refuse("matches", "match") == (
        "sources.clicks.events.1.when.stars: unknown key 'match'; allowed are values, matches"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optional: [rating]", "clock: week", "sources.clicks.clock: Input should be 'day', 'hour', 'minute',"),
        (
            "optional: [rating]",
            "explode: what\n    record_key: [what.id]",
            "sources.clicks: record_key should name columns outside the exploded array 'what'",
        ),
        ("sku", "", "sources.clicks.names.item_id: give one of column, columns, template"),
        ("item_id", "item", "sources.clicks: unknown column 'item' for events; allowed are user_id, item_id,"),
        ("item_id: sku", "brand: sku", "sources.clicks: events need a column for 'item_id' under names"),
        ("type: rating", "type: stars", "sources.clicks.events.1.type: Input should be 'impression', 'view',"),
        ("buy: purchase", "buy: bought", "sources.clicks.events.0.type.values.buy: Input should be"),
        (
            "{matches: .}",
            "{matches: '('}",
            "sources.clicks.events.1.when.stars.matches: '(' is not a regular expression",
        ),
        ("{country}/**", "{country", "sources.clicks: '{country/*.csv' has a wrong brace"),
        (
            '"{country}"',
            '"{shop}"',
            "sources.clicks: constant 'arm' names a part of the path that the file patterns lack",
        ),
        ("optional: [rating]", "optional: [item_id]", "sources.clicks: 'item_id' under optional should be"),
        ("name: shop", "name: shop\ncurrency: euro", "currency: String should match pattern '^[A-Z]{3}$', not 'euro'"),
        ("name: shop", "name: shop\ntimezone: Mars", "timezone: 'Mars' is not a time zone"),
        ("clicks:", "rejects:", "source 'rejects' needs another name: bronze/rejects is a table of its own"),
        ("name: shop", "name: [", "is not YAML"),
        ("names:", 'time_format: "%H:%M"\n    names:', "sources.clicks.time_format: '%H:%M' cannot be read as times"),
        ("names:", "time_format: seconds\n    names:", "sources.clicks.time_format: 'seconds' should be iso, epoch_s"),
        (
            "names:",
            "null_values: {sku: 0}\n    names:",
            "sources.clicks: 'sku' under null_values should be * or a column",
        ),
        ("names:", "whole_number_ids: rating\n    names:", "sources.clicks: 'rating' under whole_number_ids should be"),
        (
            "{delimiter",
            "{decimal: '.', thousands: '.', delimiter",
            "sources.clicks.reader: decimal and thousands are both",
        ),
        (
            "{delimiter",
            "{currency_signs: {€: euro}, delimiter",
            "sources.clicks.reader.currency_signs: '€': 'euro' should",
        ),
        ("names:", "ignore: {}\n    names:", "sources.clicks: ignore needs a column and what it holds"),
        ("names:", "pii_free_context: a\n    names:", "sources.clicks: pii_free_context needs a column for 'context'"),
        ("{column: path, separator: /}", "[]", "sources.clicks.names.category: columns should name at least one"),
        ('{delimiter: ";"}', "{escape: '\"'}", "sources.clicks.reader: delimiter, quote and escape should be three"),
        ('{delimiter: ";"}', "{columns: []}", "sources.clicks.reader: columns should name the columns"),
        ("item_id: sku", "item_id: [sku, size]", "sources.clicks: 'item_id' should come from one column"),
    ],
)
def test_an_impossible_value_is_one_line_that_says_where(old: str, new: str, message: str) -> None:
    assert refuse(old, new).startswith(message)


def test_a_mapping_says_what_its_log_does_not_of_an_experiment() -> None:
    facts = "timezone: Europe/Berlin\nexperiments: {1: {control: off, shares: {on: 9, off: 1}, ends: 2026-03-01}}"
    (plan,) = parse_mapping(f"{OWN}\n{facts}", "own.yaml").experiments.values()
    assert plan.shares == {"true": 9, "false": 1}  # YAML reads on and off as flags; arms are found by them all the same
    assert plan.ends == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert [arm_of(name, ["On ", "OFF"]) for name in (*plan.shares, plan.control or "")] == ["On ", "OFF", "OFF"]


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ("shares: {x: 0, y: 1}", "experiments.e.shares: the share of 'x' should be a number above 0, not 0.0"),
        ("shares: {x: .nan, y: 1}", "experiments.e.shares: the share of 'x' should be a number above 0, not nan"),
        ("shares: {x: 1}", "experiments.e.shares: shares name one arm alone: 'x'; an experiment has several"),
        ("shares: {x: 1, ' X': 1}", "experiments.e.shares: shares name 'x' and ' X', which differ only by case or"),
        ("control: z, shares: {x: 1, y: 1}", "experiments.e: control 'z' is not among the shares: x, y"),
        ("primary: clicks", "experiments.e.primary: Input should be 'conversion', 'ctr', 'revenue_per_user' or"),
        ("ends: soon", "experiments.e.ends: Input should be a valid datetime or date"),
        ("end: 2026-01-01", "experiments.e: unknown key 'end'; allowed are control, shares, primary, ends"),
        ("}, E: {", "experiments: experiments name 'e' and 'E', which differ only by case or blanks"),
    ],
)
def test_an_impossible_fact_of_an_experiment_is_one_line(facts: str, message: str) -> None:
    assert refuse("name: shop", f"name: shop\nexperiments: {{e: {{{facts}}}}}").startswith(message)


@pytest.mark.bad_input("a wrong format name")
def test_a_wrong_name_lists_the_shipped_mappings() -> None:
    with pytest.raises(
        ValueError, match="unknown format 'online-retail'; shipped are ga4, market, movielens, obd, online_retail, "
    ):
        load_mapping("online-retail")
    with pytest.raises(ValueError, match=r"there is no mapping file own\.yaml; shipped are"):
        load_mapping("own.yaml")


def test_every_shipped_mapping_loads_and_bears_its_files_name() -> None:
    assert set(shipped_names()) == {
        *("market", "online_retail", "rees46", "otto", "obd", "taobao", "retailrocket", "movielens", "ga4"),
    }
    for name in shipped_names():
        assert load_mapping(name).name == name


def test_shipped_mappings_are_found_in_the_zip(tmp_path: Path) -> None:
    archive = tmp_path / "cartwheel.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for file in [*(ROOT / "lib").rglob("*.py"), *(ROOT / "conf/formats").glob("*.yaml")]:
            zipped.write(file, file.relative_to(ROOT))
    program = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import lib, lib.formats.mapping as f; "
        "assert '.zip/' in lib.__file__; print(f.load_mapping('obd').sha256, *f.shipped_names())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True, env={}
    ).stdout
    assert printed.split() == [load_mapping("obd").sha256, *shipped_names()]


def test_a_file_belongs_to_the_first_source_whose_pattern_it_fits() -> None:
    obd = load_mapping("obd")
    assert obd.source_of("random/men/item_context.csv") == ("items", {})
    assert obd.source_of("bts/men/men.csv") == ("impressions", {"policy": "bts"})
    assert obd.source_of("bts/men.csv.gz") == ("impressions", {"policy": "bts"})
    assert obd.source_of("men.csv") is None
    assert load_mapping("online_retail").source_of("2011/2010-12-01.csv") is None


def test_times_of_a_mapping_are_in_utc_and_in_order() -> None:
    times = "name: shop\ntimezone: Europe/Berlin\ntimes: {valid_from: 2024-07-01, test_from: 2024-08-01T00:00:00Z}"
    mapping = parse_mapping(OWN.replace("name: shop", times), "own.yaml")
    assert mapping.times.valid_from.isoformat() == "2024-06-30T22:00:00+00:00"
    assert mapping.times.test_from.isoformat() == "2024-08-01T00:00:00+00:00"
    assert "times should be in the order valid_from, test_from, end" in refuse(
        "name: shop", "name: shop\ntimes: {valid_from: 2024-09-01, test_from: 2024-08-01}"
    )


def test_the_hash_follows_what_a_mapping_says_not_how_it_is_written() -> None:
    mapping = parse_mapping(OWN, "own.yaml")
    assert (
        parse_mapping("# words\n" + OWN.replace("user_id: customer", "user_id: {column: customer}"), "x").sha256
        == mapping.sha256
    )
    assert parse_mapping(OWN.replace("sku", "ean"), "x").sha256 != mapping.sha256


def test_event_types_are_those_of_silver() -> None:
    from typing import get_args

    from lib.formats.rules import EventType

    assert get_args(EventType) == EVENT_TYPES
