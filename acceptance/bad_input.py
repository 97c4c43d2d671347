"""Bad input: one clear line and no table changed, each case a test that is run here."""

import re
import subprocess
import sys
from collections import Counter
from xml.etree import ElementTree

from acceptance.claims import Claim, environment
from acceptance.results import STATE
from lib.pipeline import ROOT

BAD_FILE = "test_without_a_good_file_there_is_one_line_and_no_table"
# The case -> its tests' names, or the beginning of them.
CASES: dict[str, tuple[str, ...]] = {
    "an empty file": (f"{BAD_FILE}[empty.csv]",),
    "a header and no record": (f"{BAD_FILE}[header.csv]",),
    "a binary file named .csv": (f"{BAD_FILE}[picture.csv]",),
    "a truncated gzip among good files": ("test_bad_files_are_set_aside_and_the_others_go_on",),
    "a wrong format name": ("test_a_wrong_name_lists_the_shipped_mappings", "test_a_wrong_format_name_lists"),
    "a mapped column that is missing": (f"{BAD_FILE}[other.csv]",),
    "every time unparsable": ("test_a_log_whose_every_time_is_unreadable",),
    "more rejects than the limit": ("test_more_refused_records_than_the_limit",),
    "an unknown setting": (
        "test_an_unknown_key_in_the_file_names_the_known_ones",
        "test_a_wrong_flag_of_any_job_stops_a_walk",
    ),
    "an impossible value": ("test_an_impossible_setting_is_told_in_one_line",),
    "an unwritable lake": ("test_a_lake_that_cannot_be_written",),
    "no Ray cluster at the given address": ("test_no_ray_cluster_at_the_address",),
    "a table of another contract version": ("test_a_table_of_another_contract_version_is_refused",),
    "another pseudonym key": ("test_another_pseudonym_key",),
    "a catalogue without pictures": ("test_a_catalogue_without_pictures",),
    "fewer rows than workers": (
        "test_fewer_users_than_workers_are_refused_in_one_line",
        "test_a_log_whose_history_is_of_fewer",
    ),
    "a single class of labels": ("test_a_single_class_of_labels",),
}


def check() -> list[Claim]:
    """Run the tests of all cases at once and read what became of each."""
    outcomes = run_tests(sorted({name.partition("[")[0] for names in CASES.values() for name in names}))
    return [claim_of(case, names, outcomes) for case, names in CASES.items()]


def claim_of(case: str, names: tuple[str, ...], outcomes: dict[str, bool]) -> Claim:
    """One case: every test of it was found and passed."""
    found = {test: passed for test, passed in outcomes.items() if test.startswith(names)}
    tests = Counter(test if test in names else test.partition("[")[0] for test in found)
    told = ", ".join(test if number == 1 else f"{test} ({number})" for test, number in tests.items())
    failed = [test for test, passed in found.items() if not passed]
    return Claim(
        f"{case}: one clear line, no table changed",
        f"{told or f'no test is named {names[0]}'}; failed: {', '.join(failed) or 'none'}",
        bool(found) and not failed,
    )


def run_tests(names: list[str]) -> dict[str, bool]:
    """Name of each test that ran -> whether it passed."""
    report = STATE / "bad_input.xml"
    report.unlink(missing_ok=True)
    files = [
        str(file)
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search("|".join(names), file.read_text())
    ]
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", "-k", " or ".join(names), *files]
    subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=False)
    cases = ElementTree.parse(report).iter("testcase")
    return {str(case.get("name")): case.find("failure") is None and case.find("error") is None for case in cases}
