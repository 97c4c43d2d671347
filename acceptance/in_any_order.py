"""The 305 daily files of Online Retail at once, day by day, and in random order with some sent twice: the same tables.

The jobs run here one after another in one process, as `cartwheel run` runs them: its start each day would take most of an hour. To
stay within minutes, only the last days come one by one, and files in random order come in groups of random sizes.
"""

import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from acceptance.claims import DATA, Claim
from acceptance.results import STATE
from acceptance.same import differences
from lib.lake.lake import Lake
from lib.pipeline import ROOT
from lib.runs import history
from tests.shops import Shop

NUM_ALONE = 50  # the last days, which come one by one after all others
DAYS_A_SUMMARY = 10  # of these, after which featurize runs
MOST_AT_ONCE = 30  # of the files in random order
MAY_REFUSE = "--clean.max-reject-frac=0.5"  # on one of the days a fifth of the records have no price
SENT_TWICE_FRAC = 0.15


class Step(NamedTuple):
    """Files that come together, each under the name that it has then; whether featurize follows."""

    files: dict[str, Path]
    is_summed: bool = True


def check() -> list[Claim]:
    """Three lakes of the same files, made with the same pseudonym key."""
    seed = int(os.environ.get("CARTWHEEL_SEED") or time.time())
    print(f"  CARTWHEEL_SEED={seed}", flush=True)
    files = sorted((DATA / "online_retail").glob("*.csv"))
    random_order = list(in_random_order(files, random.Random(seed)))
    num_files = sum(len(step.files) for step in random_order)
    whole, seconds = walked("at_once", [step_of(files)])
    ways = {
        f"in their order, the last {NUM_ALONE} one by one": ("day_by_day", day_by_day(files)),
        f"in random order, {num_files - len(files)} of them twice": ("random_order", random_order),
    }
    claims = []
    for way, (name, steps) in ways.items():
        lake, seconds_of_steps = walked(name, steps)
        apart = differences(whole, lake)
        runs = ", ".join(f"{len(history.runs(lake, job))} of {job}" for job in ("clean", "featurize"))
        claims.append(
            Claim(
                f"the {len(files)} daily files {way}, give the tables of all at once",
                f"runs: {runs}; {lake.num_rows('bronze/lines'):,} records; {seconds_of_steps:.0f} s, at once {seconds:.0f} s; "
                f"seed {seed}; different: {'; '.join(apart) or 'none'}",
                not apart,
            )
        )
    return claims


def step_of(files: Sequence[Path], *, is_summed: bool = True) -> Step:
    """Files under their own names."""
    return Step({file.name: file for file in files}, is_summed)


def day_by_day(files: Sequence[Path]) -> Iterator[Step]:
    """All files but the last at once, then these one by one."""
    yield step_of(files[:-NUM_ALONE])
    for number, file in enumerate(files[-NUM_ALONE:], 1):
        yield step_of([file], is_summed=number % DAYS_A_SUMMARY == 0 or number == NUM_ALONE)


def in_random_order(files: Sequence[Path], draw: random.Random) -> Iterator[Step]:
    """Files in groups of random sizes; some come again later, under another name."""
    ordered, again = list(files), draw.sample(list(files), round(SENT_TWICE_FRAC * len(files)))
    draw.shuffle(ordered)
    names = [(file.name, file) for file in ordered]
    for file in again:  # a record is known by the file that brought it first, so the copy comes after it
        first = names.index((file.name, file))
        names.insert(draw.randint(first + 1, len(names)), (f"again-{file.name}", file))
    while names:
        number = draw.randint(1, MOST_AT_ONCE)
        yield Step(dict(names[:number]))
        names = names[number:]


def walked(name: str, steps: Iterable[Step]) -> tuple[Lake, float]:
    """A lake from nothing, on whose log the jobs run after each step; and their seconds.

    Raises:
        RuntimeError: a job ended with an error.
    """
    folder = STATE / "in_any_order" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shop = Shop.with_key(folder, without_times())
    began = time.monotonic()
    for step in steps:
        for as_named, file in step.files.items():
            shutil.copy2(file, shop.log / as_named)
        told = shop.run(MAY_REFUSE, last="featurize" if step.is_summed else "clean")
        if told.code != 0:
            raise RuntimeError(told.text[-2000:])
    return shop.lake, time.monotonic() - began


def without_times() -> str:
    """The mapping of the log without its times, which do not lie within its first days."""
    lines = (ROOT / "conf" / "formats" / "online_retail.yaml").read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith(("times:", "  valid_from:", "  test_from:")))
