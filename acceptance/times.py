"""How long the whole pipeline takes, from nothing: the simulated default and each real log."""

from acceptance import lakes
from acceptance.claims import Claim

MOST_MINUTES, MOST_MINUTES_OF_REAL_LOG = 8, 6


def check() -> list[Claim]:
    """The seconds of the lakes that other checks look at; they were made while nothing else of these checks ran."""
    chosen = {"the simulated default": (lakes.market(), MOST_MINUTES)}
    chosen |= {name: (lakes.real_log(name), MOST_MINUTES_OF_REAL_LOG) for name in lakes.REAL_LOGS}
    return [
        Claim(
            f"after set-up the pipeline runs on {name} in under {most} minutes",
            f"{lakes.seconds_of(lake):.0f} s",
            lakes.seconds_of(lake) < most * 60,
        )
        for name, (lake, most) in chosen.items()
    ]
