"""Experiments as logged: the cases of ../shared/faults/15-experiments, and what is like them."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.shops import Shop

Rows = dict[tuple[str, str], dict[str, Any]]


def judged(shop: Shop, *flags: str) -> tuple[Rows, str]:
    """The rows of gold/experiments by experiment, arm and metric, and what was said."""
    assert shop.run().code == 0
    told = shop.run(*flags, first="experiment", last="experiment")
    assert told.code == 0, told.text
    assert "nan" not in told.text
    return {(row["arm"], row["metric"]): row for row in shop.read("gold/experiments")}, told.text


def merged(folder: Path, *cases: Path) -> Shop:
    """One shop with the logs of several cases, each an experiment of its own, named after the case's letter."""
    shop = Shop(folder, (cases[0] / "map.yaml").read_text())
    for case in cases:
        lines = list(csv.DictReader((case / "log" / "e.csv").open()))
        written = io.StringIO()
        writer = csv.DictWriter(written, lines[0].keys())
        writer.writeheader()
        for line in lines:
            name = line["experiment"].replace("checkout", case.name)
            writer.writerow(line | {"user": f"{case.name}-{line['user']}", "experiment": name})
        shop.put(f"{case.name}.csv", written.getvalue())
    return shop


FACTS = """
rates: {JPY: 0.00625}
experiments:
  d: {shares: {control: 0.9, treatment: 0.1}}
  E: {primary: revenue_per_user}
  c: {ends: 2030-01-01}
"""


@pytest.mark.slow
def test_each_experiment_of_a_log_is_judged_for_itself(faults: Path, tmp_path: Path) -> None:
    cases = [faults / "15-experiments" / letter for letter in "abcdef"]
    shop = merged(tmp_path, *cases)
    assert shop.run().code == 0
    shop.run(first="experiment", last="experiment")
    rows = {(row["experiment"], row["arm"], row["metric"]): row for row in shop.read("gold/experiments")}

    def row(experiment: str, metric: str = "conversion") -> dict[str, Any]:
        return rows[experiment, "treatment", metric]

    # a: 56 of 200 against 78 of 200; the two users of debug are left out and named.
    assert (row("a")["verdict"], row("a")["num_arm"], row("a")["num_control"]) == ("worse", 200, 200)
    assert row("a")["notes"] == "left out as arms that were not meant: debug (2 users)"
    # b: one control of 300 users, however it is written.
    assert (row("b")["control"], row("b")["num_arm"], row("b")["num_control"]) == ("control", 300, 300)
    assert row("b")["verdict"] != "invalid"
    assert "control is written in " in row("b")["notes"]
    # c: 40 users in both arms are left out and counted.
    assert (row("c")["num_arm"], row("c")["num_control"]) == (160, 200)
    assert row("c")["notes"] == "left out, seen in several arms: 40 users"
    # d: not the intended shares as far as anyone has said; the experiment of one arm is passed over.
    assert row("d")["verdict"] == "invalid"
    assert ("lonely", "treatment", "conversion") not in rows
    # e: euros and yen are not added up.
    assert row("e")["verdict"] == "undecided"
    assert ("e", "treatment", "revenue_per_user") not in rows
    assert row("e")["notes"] == "revenue is left out: amounts in EUR and JPY do not add up without the mapping's rates"
    # f: nobody bought.
    assert (row("f")["verdict"], row("f")["reason"], row("f")["p"]) == ("undecided", "nobody bought", 1.0)

    shop.mapping.write_text(shop.mapping.read_text() + FACTS)
    told = shop.run(first="experiment", last="experiment").text
    rows = {(row["experiment"], row["arm"], row["metric"]): row for row in shop.read("gold/experiments")}
    assert "lonely: it has one arm with users of its own: control; it is passed over" in told
    assert row("d")["verdict"] == "undecided"
    assert row("d")["sample_ratio_p"] == 1.0
    assert row("e", "revenue_per_user")["verdict"] == "undecided"
    assert row("e", "revenue_per_user")["is_primary"]
    paid = (row("e", "revenue_per_user")["arm_value"], row("e", "revenue_per_user")["control_value"])
    assert paid == pytest.approx((8.503275, 8.190375))  # euros, and yen at 160 a euro, of 300 users each
    assert row("c")["verdict"] == "running"
    assert "skipped" not in told


@pytest.mark.slow
def test_settings_give_shares_to_the_experiments_that_have_these_arms(faults: Path, tmp_path: Path) -> None:
    case = faults / "15-experiments" / "d"
    shop = Shop.of_case(case, tmp_path)
    rows, said = judged(shop, f"--config={case / 'settings.yaml'}")
    assert rows["treatment", "conversion"]["verdict"] == "undecided"
    assert {row["experiment"] for row in rows.values()} == {"checkout"}
    assert "lonely: it has one arm" in said
