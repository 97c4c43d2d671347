"""`make test` in a fresh clone with empty package caches."""

from acceptance import fresh_clone
from acceptance.claims import Claim, run_command

MOST_MINUTES = 15


def check() -> list[Claim]:
    """The README's second command; in the clone of `fresh_clone` where that stands, so that what is timed is the tests."""
    is_set_up = (fresh_clone.CLONE / ".venv" / ".ready").is_file()
    if is_set_up:
        run_command(["git", "pull", "-q", "--ff-only"], cwd=fresh_clone.CLONE)
    else:
        fresh_clone.clone()
    seconds, told = fresh_clone.make("test")
    summary = next((line.strip("= ") for line in reversed(told.splitlines()) if " passed" in line), "no summary")
    return [
        Claim(
            f"make test in a fresh clone: its time, under {MOST_MINUTES} minutes on 2 cores",
            f"{seconds / 60:.1f} minutes{'' if is_set_up else ' with the set-up'}; {summary}",
            seconds < MOST_MINUTES * 60,
        )
    ]
