"""What a mapping may say of an experiment beyond its log: its control, intended shares, primary metric and planned end."""

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Literal, Self, get_args
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from lib.formats.rules import Part, Text

Metric = Literal["conversion", "ctr", "revenue_per_user", "satisfaction"]
METRICS: tuple[Metric, ...] = get_args(Metric)
YAML_FLAGS = {"false": ("off", "no", "n"), "true": ("on", "yes", "y")}  # what YAML reads unquoted as false and as true


class Experiment(Part):
    """The facts of one experiment of the log."""

    control: Text | None = Field(None, description="the arm that the others are compared with")
    shares: dict[Text, float] = Field(
        {}, description="arm -> intended share of the units, above 0, such as {a: 0.9, b: 0.1}; no other arm is judged"
    )
    primary: Metric | None = Field(None, description="the metric that decides")
    ends: datetime | None = Field(
        None, description="planned end: events from then on do not count, and until then the verdict is `running`"
    )

    @field_validator("shares")
    @classmethod
    def are_shares(cls, shares: dict[str, float]) -> dict[str, float]:
        require_shares(shares)
        return shares

    @model_validator(mode="after")
    def has_its_control_among_the_shares(self) -> Self:
        if self.control and self.shares and arm_of(self.control, self.shares) is None:
            raise ValueError(f"control {self.control!r} is not among the shares: {', '.join(self.shares)}")
        return self

    def in_utc(self, zone: ZoneInfo) -> "Experiment":
        """The same with its end in UTC; an end without a zone is one in `zone`."""
        if self.ends is None:
            return self
        ends = self.ends if self.ends.tzinfo else self.ends.replace(tzinfo=zone)
        return self.model_copy(update={"ends": ends.astimezone(UTC)})


def name_key(name: str) -> str:
    """What names that differ only by case or blanks have in common."""
    return " ".join(name.split()).casefold()


def arm_of(name: str, arms: Iterable[str]) -> str | None:
    """The one of `arms` that `name` means, whatever its case and blanks, or what YAML made of `off` or `no`."""
    keys = {name_key(arm): arm for arm in arms}
    for key in (name_key(name), *YAML_FLAGS.get(name, ())):
        if key in keys:
            return keys[key]
    return None


def require_shares(shares: Mapping[str, float]) -> None:
    """Refuse what are not the intended shares of several arms.

    Raises:
        ValueError: with what is wrong.
    """
    for arm, share in shares.items():
        if not 0 < share < math.inf:
            raise ValueError(f"the share of {arm!r} should be a number above 0, not {share}")
    require_unlike("shares", shares)
    if len(shares) == 1:
        raise ValueError(f"shares name one arm alone: {next(iter(shares))!r}; an experiment has several")


def require_unlike(what: str, names: Iterable[str]) -> None:
    """Refuse names of which two differ only by case or blanks.

    Raises:
        ValueError: with both names.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name_key(name), name)
        if other != name:
            raise ValueError(f"{what} name {other!r} and {name!r}, which differ only by case or blanks")
