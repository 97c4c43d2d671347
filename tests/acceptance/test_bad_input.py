"""The cases of bad input: each is shown by a test that says so, and one that is skipped or fails shows nothing."""

import re
from pathlib import Path

import pytest

from acceptance.bad_input import CASES, claim_of, outcomes_by_case

pytest_plugins = "pytester"
TESTS = """
import pytest

@pytest.mark.bad_input("an empty file")
def test_empty(): ...

@pytest.mark.bad_input("no record")
@pytest.mark.parametrize("number", [1, 2])
def test_no_record(number):
    assert number == 1

@pytest.mark.bad_input("no pictures")
def test_no_pictures():
    pytest.skip("there is no folder of pictures")

def test_something_else(): ...
"""


@pytest.fixture
def report(pytester: pytest.Pytester) -> Path:
    """The report of a folder of tests that has this project's conftest.py."""
    pytester.makeini("[pytest]\nmarkers = bad_input(case): a case")
    pytester.makeconftest((Path(__file__).parents[1] / "conftest.py").read_text())
    pytester.makepyfile(TESTS)
    report = pytester.path / "report.xml"
    pytester.runpytest("-m", "bad_input", f"--junitxml={report}")
    return report


def test_a_case_holds_when_every_test_of_it_ran_and_passed(report: Path) -> None:
    outcomes = outcomes_by_case(report)
    assert sorted(outcomes) == ["an empty file", "no pictures", "no record"]
    claims = {case: claim_of(case, outcomes.get(case, [])) for case in (*outcomes, "a binary file")}
    assert {case: claim.holds for case, claim in claims.items()} == {
        "an empty file": True,
        "no record": False,
        "no pictures": False,
        "a binary file": False,
    }
    assert claims["no record"].measured == "test_no_record (2); not passed: test_no_record[2] failed"
    assert claims["a binary file"].measured == "no test shows it; not passed: none"


def test_every_case_that_must_be_shown_has_a_test(request: pytest.FixtureRequest) -> None:
    text = text_of_other_tests()
    assert [case for case in CASES if f'"{case}"' not in text] == []


def test_every_case_that_a_mark_spells_out_is_listed() -> None:
    named = {*re.findall(r'mark\.bad_input\(\s*"([^"]+)"', text_of_other_tests())}
    assert len(named) > 10
    assert named <= {*CASES}


def text_of_other_tests() -> str:
    files = Path(__file__).parents[1].rglob("test_*.py")
    return "".join(file.read_text() for file in files if file != Path(__file__))
