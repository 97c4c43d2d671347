"""On the market: one who asks to be forgotten is in no table, nor comes back."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from acceptance import lakes
from acceptance.claims import CARTWHEEL, Claim, run_command, run_pipeline
from acceptance.cleaning import key_of_lake
from lib.cleaning.pseudonyms import pseudonyms
from lib.lake.lake import Lake
from lib.pipeline import ROOT
from rl.market.log_files import TRUTH_FOLDER
from rl.market.visitors import LATE_SIGN_IN


def check() -> list[Claim]:
    """A user of a market in which some sign in late."""
    return [forgotten(lakes.full_market())]


def forgotten(full: Path) -> Claim:
    """One user of a market asks to be forgotten: the most active of those who sign in late, known by two ids."""
    lake = lakes.copy_of(full, "full_market_forgotten")
    late = pl.read_parquet(lake / "raw" / TRUTH_FOLDER / "part-*.parquet").filter(kind=LATE_SIGN_IN)
    user = f"u{late['user'].mode().sort()[0]:08d}"
    ids = [user, *pseudonyms(pl.Series([user]), key_of_lake(lake)), *visitors_of(Lake(str(lake)), user)]
    before = traces(Lake(str(lake)), ids)
    run_command([CARTWHEEL, "erase", user, "--lake", str(lake)], cwd=ROOT)
    erased = traces(Lake(str(lake)), ids)
    run_pipeline(lake, *lakes.FULL_MARKET)
    after = traces(Lake(str(lake)), ids)
    return Claim(
        "one who asks to be forgotten is in no table after cartwheel erase, nor after the next run",
        f"{len(ids)} ids: {sum(before.values()):,} rows of {len(before)} tables before, {sum(erased.values())} after, "
        f"{sum(after.values())} when the pipeline has run again",
        sum(before.values()) > 0 and not erased and not after,
    )


def visitors_of(lake: Lake, user: str) -> list[str]:
    """The ids that a user had before signing in."""
    named = lake.dataset("bronze/events").to_table(columns=["user_id", "visitor_id"])
    return sorted(pl.DataFrame(pl.from_arrow(named)).filter(user_id=user)["visitor_id"].drop_nulls().unique())


def traces(lake: Lake, ids: Sequence[str]) -> dict[str, int]:
    """How many rows of each table hold one of the ids anywhere, as they are written out; without tables that hold none."""
    found = {}
    for table in lake.tables():
        rows = pl.DataFrame(pl.from_arrow(lake.dataset(table).to_table())).select(pl.exclude(pl.Binary))
        if number := sum(any(one in str(row) for one in ids) for row in rows.iter_rows()):
            found[table] = number
    return found
