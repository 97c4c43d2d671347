"""What each check showed, kept outside the checkout by check and code: a run that was cut off goes on where it stood."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from acceptance.claims import Claim
from lib.pipeline import ROOT

STATE = Path(os.environ.get("CARTWHEEL_ACCEPTANCE_STATE", "~/.cache/cartwheel/acceptance")).expanduser().absolute()
CODE = ("lib", "rl", "gan", "jobs", "conf")
REPORT = ("lib/report",)  # they change no table
# What a check shows beside the code of the pipeline.
FURTHER: dict[str, tuple[str, ...]] = {
    "bad_input": ("tests",),
    "fresh_clone": (*REPORT, ".ci", "Makefile", "requirements.lock", "requirements-no-deps.lock"),
    "fresh_tests": (*REPORT, ".ci", "Makefile", "requirements.lock", "requirements-no-deps.lock", "tests"),
}


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


def code_hash(*paths: str) -> str:
    """Identity of the sources below the given paths of the checkout, the report's apart where it is not named."""
    digest = hashlib.sha256()
    for path in paths:
        for file in [ROOT / path] if (ROOT / path).is_file() else sorted((ROOT / path).rglob("*")):
            name = file.relative_to(ROOT).as_posix()
            if file.is_file() and "__pycache__" not in file.parts and (path in REPORT or not name.startswith(REPORT)):
                digest.update(f"{name}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def code_of(check: str) -> str:
    """Identity of all that a check's result depends on."""
    return code_hash(*CODE, *FURTHER.get(check, ()), f"acceptance/{check}.py", "acceptance/same.py")


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
    file.with_suffix(".part").write_text(json.dumps(asdict(result), indent=1))
    file.with_suffix(".part").replace(file)


def _file(check: str) -> Path:
    return STATE / "results" / f"{check}.json"
