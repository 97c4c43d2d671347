"""The check of the verdict: it holds for the verdict that is used, and not for one that always says the same."""

import pytest

from acceptance import policy
from rl.ope.valuation import Verdict


@pytest.mark.slow
@pytest.mark.parametrize(
    ("always", "holds"),
    [(None, [True, True, True]), ("promote", [True, False, False]), ("keep_logging", [False, True, True])],
)
def test_a_verdict_that_never_changes_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, always: str | None, holds: list[bool]
) -> None:
    monkeypatch.setattr(policy, "TRUE_SESSIONS", 4000)
    if always is not None:
        monkeypatch.setattr(policy, "verdict", lambda *_, **__: Verdict(always, "always"))
    claims = policy.planted_policies_are_judged_rightly([policy.judged_plants(5)])
    assert [claim.holds for claim in claims] == holds
