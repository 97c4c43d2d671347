"""The daily files of Online Retail and of a market, at once, day by day, and in random order with some sent twice: the same tables.

The jobs run here one after another in one process, as `cartwheel run` runs them: its start each day would take most of an hour.
Files in random order come in groups of random sizes.
"""

import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from acceptance import lakes
from acceptance.claims import DATA, Claim
from acceptance.results import STATE
from benchmarks.daily import split
from lib.lake.lake import Lake
from lib.pipeline import ROOT
from lib.runs import history
from tests.same import differences
from tests.shops import Shop

RAW_MARKET, MARKET_DAYS = Path("raw") / "market", 45
DAYS_A_SUMMARY = 10  # that come one by one, after which featurize runs
MOST_AT_ONCE = 30  # of the files in random order
MAY_REFUSE = "--clean.max-reject-frac=0.5"  # on one of the days a fifth of the records have no price
SENT_TWICE_FRAC = 0.15


class Step(NamedTuple):
    """Files that come together, each under the name that it has then; whether featurize follows."""

    files: dict[str, Path]
    is_summed: bool = True


def check() -> list[Claim]:
    """For each log three lakes of the same files, made with the same pseudonym key."""
    seed = int(os.environ.get("CARTWHEEL_SEED") or time.time())
    print(f"  CARTWHEEL_SEED={seed}", flush=True)
    retail = {file.name: file for file in sorted((DATA / "online_retail").glob("*.csv"))}
    market = {f"events/{file.name}": file for file in days_of_market()}
    return [
        *same_tables("online_retail", retail, {}, seed),
        *same_tables("market", market, catalogue_of_market(), seed),
    ]


def days_of_market() -> list[Path]:
    """The events of the small market in a file a day."""
    folder = STATE / "in_any_order" / "market_days"
    shutil.rmtree(folder, ignore_errors=True)
    return split(lakes.small_market() / RAW_MARKET, folder, num_days=MARKET_DAYS)


def catalogue_of_market() -> dict[str, Path]:
    """Its items and images, which come first."""
    raw = lakes.small_market() / RAW_MARKET
    return {
        str(file.relative_to(raw)): file
        for part in ("items", "images")
        for file in (raw / part).glob("*")
        if file.is_file()
    }


def same_tables(log: str, files: dict[str, Path], first: dict[str, Path], seed: int) -> list[Claim]:
    """That the files of a log, after those that come `first`, give the same tables in any order."""
    random_order = list(in_random_order(files, random.Random(seed)))
    num_files = sum(len(step.files) for step in random_order)
    whole, seconds = walked(f"{log}_at_once", log, [Step({**first, **files})])
    ways = {
        "one by one": ("day_by_day", day_by_day(files)),
        f"in random order, {num_files - len(files)} of them twice": ("random_order", random_order),
    }
    claims = []
    for way, (name, steps) in ways.items():
        lake, seconds_of_steps = walked(f"{log}_{name}", log, with_first(first, steps))
        apart = differences(whole, lake)
        runs = ", ".join(f"{len(history.runs(lake, job))} of {job}" for job in ("clean", "featurize"))
        claims.append(
            Claim(
                f"the {len(files)} daily files of {log} {way}, give the tables of all at once",
                f"runs: {runs}; {lake.num_rows('silver/events'):,} events; {seconds_of_steps:.0f} s, at once {seconds:.0f} s; "
                f"seed {seed}; different: {'; '.join(apart) or 'none'}",
                not apart,
            )
        )
    return claims


def with_first(first: dict[str, Path], steps: Iterable[Step]) -> Iterator[Step]:
    """The steps, with some files more in the first of them."""
    for step in steps:
        yield step._replace(files={**first, **step.files})
        first = {}


def day_by_day(files: dict[str, Path]) -> Iterator[Step]:
    """Every file alone, in their order."""
    for number, (name, file) in enumerate(files.items(), 1):
        yield Step({name: file}, is_summed=number % DAYS_A_SUMMARY == 0 or number == len(files))


def in_random_order(files: dict[str, Path], draw: random.Random) -> Iterator[Step]:
    """Files in groups of random sizes; some come again later, under another name."""
    names, again = list(files.items()), draw.sample(list(files), round(SENT_TWICE_FRAC * len(files)))
    draw.shuffle(names)
    for name in again:  # a record is known by the file that brought it first, so the copy comes after it
        first = names.index((name, files[name]))
        folder, _, file = name.rpartition("/")
        copy = f"{folder}/again-{file}" if folder else f"again-{file}"
        names.insert(draw.randint(first + 1, len(names)), (copy, files[name]))
    while names:
        number = draw.randint(1, MOST_AT_ONCE)
        yield Step(dict(names[:number]))
        names = names[number:]


def walked(name: str, log: str, steps: Iterable[Step]) -> tuple[Lake, float]:
    """A lake from nothing, on whose log, which is of this format, the jobs run after each step; and their seconds.

    Raises:
        RuntimeError: a job ended with an error.
    """
    folder = STATE / "in_any_order" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shop = Shop.with_key(folder, without_splits(log))
    began = time.monotonic()
    for step in steps:
        for as_named, file in step.files.items():
            (shop.log / as_named).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, shop.log / as_named)
        told = shop.run(MAY_REFUSE, last="featurize" if step.is_summed else "clean")
        if told.code != 0:
            raise RuntimeError(told.text[-2000:])
    return shop.lake, time.monotonic() - began


def without_splits(log: str) -> str:
    """The mapping of a log without the moments at which its splits begin, which do not lie within its first days."""
    mapping = yaml.safe_load((ROOT / "conf" / "formats" / f"{log}.yaml").read_text())
    mapping["times"] = {name: moment for name, moment in mapping["times"].items() if name == "end"}
    return yaml.safe_dump(mapping)
