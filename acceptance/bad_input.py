"""Bad input: one clear line and no table changed, each case a test that is run here."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from acceptance.claims import Claim, environment
from acceptance.results import STATE
from lib.pipeline import ROOT

# Every case that must be shown. A test says which one it shows: `@pytest.mark.bad_input("an empty file")`.
CASES = (
    "an empty file",
    "a header and no record",
    "a binary file named .csv",
    "a truncated gzip alone",
    "a truncated gzip among good files",
    "a wrong format name",
    "a mapped column that is missing",
    "every time unparsable",
    "more rejects than the limit",
    "an unknown setting",
    "an impossible value",
    "a broken settings file",
    "an unwritable lake",
    "a lake at an address that not every engine reads",
    "a store of another secret",
    "a store that knows no such key",
    "a bucket that cannot be written",
    "a store that does not answer",
    "a store at no host",
    "a lake whose path Delta reads otherwise",
    "a full disk",
    "a disk that is full in the middle",
    "a store that is full in the middle",
    "no Ray cluster at the given address",
    "a table of another contract version",
    "a lake of a newer version",
    "a table of the lake that cannot be read",
    "another pseudonym key",
    "a catalogue without pictures",
    "a catalogue without titles, tags and pictures",
    "a sentence model that is not installed",
    "fewer rows than workers",
    "a single class of labels",
    "features that are not numbers",
    "a line of ten megabytes",
    "a folder whose files gain, lose and retype columns",
    "a folder of Parquet files whose columns have another type in each",
    "a backfill of days in the wrong order",
    "a folder of very many files",
    "a file that grows or vanishes while it is read",
    "two runs of a job at once",
    "a checkpoint of another shape",
    "one user with one item",
    "all users cold",
    "no positive label",
    "a weight that is no number",
    "a log without sessions",
    "one visit, one item, or visits of one event",
    "a list that is longer than the catalogue",
    "a log whose records cannot come from Kafka",
    "a Kafka that does not answer",
    "a Kafka that refuses us",
    "a log whose records cannot be written",
    "a request that a server cannot answer",
    "a missing or wrong token",
    "a server without tokens",
    "a live part that lacks something on Kubernetes",
    "a release that is not whole",
    "a feature that is never known, or known of one user",
    "no release, one without a reference, or nothing since",
    "no impression of a policy, or a single user",
)


class Outcome(NamedTuple):
    """What became of one test."""

    test: str
    became: str  # passed, failed or skipped


def check() -> list[Claim]:
    """Run the tests of all cases at once and read what became of each."""
    report = STATE / "bad_input.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "bad_input", f"--junitxml={report}"]
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=False)
    outcomes = outcomes_by_case(report)
    strangers = sorted(set(outcomes) - set(CASES))
    return [
        *(claim_of(case, outcomes.get(case, [])) for case in CASES),
        Claim("no test is of a case that is not listed", ", ".join(strangers) or "none", not strangers),
    ]


def outcomes_by_case(report: Path) -> Mapping[str, list[Outcome]]:
    """Each case of a test report with what became of its tests."""
    found = defaultdict(list)
    for test in ElementTree.parse(report).iter("testcase"):
        wrong = [kind for kind in ("failure", "error", "skipped") if test.find(kind) is not None]
        became = "passed" if not wrong else "skipped" if wrong == ["skipped"] else "failed"
        for told in test.iter("property"):
            if told.get("name") == "bad_input":
                found[str(told.get("value"))].append(Outcome(str(test.get("name")), became))
    return found


def claim_of(case: str, outcomes: Sequence[Outcome]) -> Claim:
    """One case: at least one test of it ran, and all of them passed."""
    tests: dict[str, int] = defaultdict(int)
    for outcome in outcomes:
        tests[outcome.test.partition("[")[0]] += 1
    told = ", ".join(test if number == 1 else f"{test} ({number})" for test, number in tests.items())
    not_passed = [f"{outcome.test} {outcome.became}" for outcome in outcomes if outcome.became != "passed"]
    return Claim(
        f"{case}: one clear line, no table changed",
        f"{told or 'no test shows it'}; not passed: {', '.join(not_passed) or 'none'}",
        bool(outcomes) and not not_passed,
    )
