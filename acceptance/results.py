"""What each check showed, kept beside the page by check and code: a run that was cut off goes on where it stood, on whatever machine.

What takes room, such as the lakes, is kept outside the checkout.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from acceptance.claims import Claim
from lib.pipeline import ROOT

KEPT = ROOT / "docs" / "acceptance"
STATE = Path(os.environ.get("CARTWHEEL_ACCEPTANCE_STATE", "~/.cache/cartwheel/acceptance")).expanduser().absolute()


@dataclass(frozen=True)
class Result:
    """One run of one check: what it showed, or the error it ended with; where and when."""

    check: str
    code: str
    commit: str
    date: str  # UTC
    machine: str
    seconds: float
    claims: list[Claim]
    error: str | None = None

    @property
    def holds(self) -> bool:
        """Every claim of the check holds, and there is one."""
        return self.error is None and bool(self.claims) and all(claim.holds for claim in self.claims)


def load(check: str) -> Result | None:
    """The check's last result, of whatever code; None where it has not run."""
    file = _file(check)
    if not file.is_file():
        return None
    content = json.loads(file.read_text())
    return Result(**{**content, "claims": [Claim(**claim) for claim in content["claims"]]})


def save(result: Result) -> None:
    """Keep a result in place of the check's last one."""
    file = _file(result.check)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".part").write_text(json.dumps(asdict(result), indent=1) + "\n")
    file.with_suffix(".part").replace(file)


def _file(check: str) -> Path:
    return KEPT / f"{check}.json"
