"""What is kept of a check, and the page that is made of it."""

from pathlib import Path

import pytest

from acceptance import page, results, rooms
from acceptance.claims import Claim
from acceptance.results import Result

RESULT = Result("ranking", "c0de", "abc1234", "2026-01-21 10:00", "2 cores", 90.0, [Claim("it | ranks", "0.2", True)])


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "KEPT", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    return tmp_path


def test_a_result_is_read_back_as_it_was_kept(state: Path) -> None:
    assert results.load("ranking") is None
    results.save(RESULT)
    assert results.load("ranking") == RESULT


def test_a_check_holds_when_all_its_claims_do_and_there_is_one() -> None:
    assert RESULT.holds
    for other in ({"claims": []}, {"error": "KeyError: 'als'"}, {"claims": [*RESULT.claims, Claim("b", "c", False)]}):
        assert not Result(**{**RESULT.__dict__, **other}).holds


def test_the_page_tells_what_failed_what_is_of_other_code_and_what_has_not_run(state: Path) -> None:
    failed = Result(
        "policy", rooms.code_of("policy"), "abc1234", "2026-01-21 10:00", "2 cores", 30.0, [], "KeyError: 'x'"
    )
    page.write_page({"ranking": "Rankings", "policy": "The policy", "times": "Times"}, [RESULT, failed])
    lines = page.PAGE.read_text().splitlines()
    assert "| ranking | Rankings | 1 of 1 | 1.5 | abc1234 (the code has changed since) | 2026-01-21 10:00 |" in lines
    assert "| policy | The policy | ended with an error | 0.5 | abc1234 | 2026-01-21 10:00 |" in lines
    assert "| times | Times | not run yet | | | |" in lines
    assert "**Ended with an error:** KeyError: 'x'" in lines
    assert "| holds | it \\| ranks | 0.2 |" in lines
