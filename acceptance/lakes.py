"""The lakes that several checks look at: each brought up to date once for the same code, which runs only the jobs that it changed."""

import fcntl
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from acceptance.claims import DATA, run_pipeline
from acceptance.results import STATE
from acceptance.rooms import COMMAND, EVERY_JOB, code_hash, rooms_of
from lib.cleaning.pseudonyms import default_key_file
from lib.lake.lake import Lake
from lib.lake.query import query
from tests.markets import SMALL_MARKET

LAKES = STATE / "lakes"
# The small market with all that the simulator can do to a log.
FULL_MARKET = (*SMALL_MARKET, "--simulate.world", "full", "--simulate.late-sign-in-frac", "0.1", "--to", "featurize")
REAL_LOGS = ("online_retail", "rees46", "obd")
_failed: dict[str, str] = {}  # lakes that could not be made, with the error: other checks that want them fail at once


def market(*, from_nothing: bool = False) -> Path:
    """The lake of the default simulated market."""
    return _up_to_date("market", (), from_nothing=from_nothing)


def small_market() -> Path:
    """The lake of a small simulated market."""
    return _up_to_date("small_market", SMALL_MARKET)


def full_market() -> Path:
    """The lake of a small market with every effect and every kind of dirt, up to featurize."""
    return _up_to_date("full_market", FULL_MARKET)


def real_log(name: str, *, from_nothing: bool = False) -> Path:
    """The lake of one of the real logs, known by the name of its format and folder."""
    return _up_to_date(name, ("--logs", str(DATA / name), "--format", name), from_nothing=from_nothing)


def rows(lake: Lake, sql: str) -> list[dict[str, Any]]:
    """The rows of a query, by column."""
    names, found = query(lake, sql, limit=None)
    return [dict(zip(names, values, strict=True)) for values in found]


def row(lake: Lake, sql: str) -> dict[str, Any]:
    """The one row of a query."""
    (found,) = rows(lake, sql)
    return found


def seconds_of(lake: Path) -> float:
    """How long the whole pipeline took on a lake, when it last ran there."""
    return float(json.loads(_stamp(lake).read_text())["seconds"])


def copy_of(lake: Path, name: str) -> Path:
    """A copy of a lake with its pseudonym key, in place of an earlier copy of that name."""
    target = LAKES / name
    remove(target)
    shutil.copytree(lake, target)
    shutil.copy2(key_of(lake), key_of(target))
    return target


def empty(name: str, *, key_of_lake: Path | None = None) -> Path:
    """Where a lake may be made from nothing; with the pseudonym key of another, so that their tables can be compared."""
    target = LAKES / name
    remove(target)
    LAKES.mkdir(parents=True, exist_ok=True)
    if key_of_lake is not None:
        shutil.copy2(key_of(key_of_lake), key_of(target))
    return target


def remove(lake: Path) -> None:
    """Remove a lake, its key and its stamp."""
    shutil.rmtree(lake, ignore_errors=True)
    for file in (key_of(lake), _stamp(lake)):
        file.unlink(missing_ok=True)


def key_of(lake: Path) -> Path:
    """The file of a lake's pseudonym key."""
    return default_key_file(str(lake))


def _up_to_date(name: str, arguments: Sequence[str], *, from_nothing: bool = False) -> Path:
    """A lake on which the pipeline of this code has run; where `from_nothing` is asked for, in one run that began with no lake."""
    lake, code = LAKES / name, code_hash({*rooms_of(EVERY_JOB), *COMMAND})
    LAKES.mkdir(parents=True, exist_ok=True)
    with (LAKES / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run of the acceptance may be making it
        stamp = json.loads(_stamp(lake).read_text()) if _stamp(lake).is_file() else None
        if stamp is None or stamp["code"] != code or (from_nothing and not stamp["from_nothing"]):
            if name in _failed:
                raise RuntimeError(_failed[name])
            anew = from_nothing or stamp is None
            print(f"  runs the pipeline on {name}{' from nothing' if anew else ''}", flush=True)
            try:
                seconds, _ = run_pipeline(empty(name) if anew else lake, *arguments)
            except RuntimeError as error:
                _failed[name] = str(error)
                raise
            _stamp(lake).write_text(json.dumps({"code": code, "seconds": seconds, "from_nothing": anew}))
    return lake


def _stamp(lake: Path) -> Path:
    return lake.with_name(f"{lake.name}.json")
