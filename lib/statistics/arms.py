"""The arms of an experiment as a log names them: spellings that are one arm, strays, and which arm is the control."""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from lib.formats.experiments import name_key

# What logs call a control, the clearest words first. Of the first group of which one arm alone has a word, it is that arm.
CONTROL_WORDS = (
    {"control", "ctrl", "ctl", "kontrolle", "kontrollgruppe"},
    {"baseline", "base", "holdout", "placebo", "default", "original", "existing", "current", "incumbent", "standard"}
    | {"champion", "reference", "legacy", "old", "unchanged", "unexposed", "untreated"},
    {"off", "no", "none", "not", "without", "false", "disabled", "inactive"},
)
FIRST_MARKS = {"a", "0"}  # the last word of A beside B, variant_a, group 0
TREATMENT_WORDS = {"treatment", "treated", "variant", "variation", "challenger", "test", "new", "exposed"} | {
    "on", "yes", "true", "with", "enabled", "active"
}  # fmt: skip


class Label(NamedTuple):
    """An experiment and an arm as events name them; the arm is None where they name none."""

    experiment: str
    arm: str | None
    num_events: int
    num_with_user: int
    first_seen: datetime


class Found(NamedTuple):
    """An experiment of the log: label as written -> arm, arm -> its first event, and what is to be said of its labels."""

    name: str
    arms: Mapping[tuple[str, str], str]
    first_seen: Mapping[str, datetime]
    notes: list[str]


def experiments_of(labels: Iterable[Label], *, has_users: bool) -> list[Found]:
    """The experiments that a log's labels name, by name; labels that differ only by case or blanks are one."""
    given = [label for label in labels if label.experiment.strip()]
    names = spelled_alike(_counts((label.experiment, label.num_events) for label in given))
    return [
        _found(name, [label for label in given if names[label.experiment] == name], has_users=has_users)
        for name in sorted(set(names.values()))
    ]


def _found(name: str, labels: list[Label], *, has_users: bool) -> Found:
    whole = [(label, label.arm) for label in labels if label.arm and label.arm.strip()]
    names = spelled_alike(_counts((arm, label.num_events) for label, arm in whole))
    first_seen: dict[str, datetime] = {}
    for label, arm in whole:
        first_seen[names[arm]] = min(first_seen.get(names[arm], label.first_seen), label.first_seen)
    notes = [
        f"{arm} is written in {len(ways)} ways that differ by case or blanks alone: {', '.join(map(repr, ways))}"
        for arm in sorted(first_seen)
        if len(ways := sorted(way for way in names if names[way] == arm)) > 1
    ]
    without_arm = sum(label.num_events for label in labels) - sum(label.num_events for label, _ in whole)
    without_user = sum(label.num_events - label.num_with_user for label, _ in whole) if has_users else 0
    notes += [f"{without_arm:,} of its events name no arm"] if without_arm else []
    notes += [f"{without_user:,} of its events name no user"] if without_user else []
    return Found(name, {(label.experiment, arm): names[arm] for label, arm in whole}, first_seen, notes)


def _counts(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for name, number in pairs:
        counts[name] += number
    return counts


def spelled_alike(spellings: Mapping[str, int]) -> dict[str, str]:
    """Spelling -> the name of all that differ from it by case or blanks alone: the most frequent, without outer blanks.

    Args:
        spellings: spelling -> how often the log has it.
    """
    names: dict[str, str] = {}
    for spelling in sorted(spellings, key=lambda spelling: (-spellings[spelling], spelling)):
        names.setdefault(name_key(spelling), " ".join(spelling.split()))
    return {spelling: names[name_key(spelling)] for spelling in spellings}


def strays(num_units: Mapping[str, int], *, intended: Collection[str], min_units: int, min_frac: float) -> list[str]:
    """The arms that were hardly meant: too few units beside two arms with enough, and not among those `intended`.

    Too few is below `min_units`, or below `min_frac` of the largest arm's.
    """
    floor = max(min_units, min_frac * max(num_units.values(), default=0))
    few = [arm for arm in sorted(num_units) if num_units[arm] < floor and arm not in intended]
    return few if len(num_units) - len(few) >= 2 else []


def control_of(since: Mapping[str, datetime]) -> tuple[str, bool]:
    """The control, and whether its name says that it is: else it is the arm seen first, by name if several were.

    Args:
        since: arm -> its first event.
    """
    named = _named_control(list(since))
    if named is not None:
        return named, True
    untreated = [arm for arm in since if not TREATMENT_WORDS & set(_words(arm))] or list(since)
    return min(untreated, key=lambda arm: (since[arm], arm)), False


def _named_control(arms: Collection[str]) -> str | None:
    """The arm that its own name calls the control, or that the names of all others leave over; None if none does."""
    words = {arm: _words(arm) for arm in arms}
    for group in CONTROL_WORDS:
        # "20 off" is a discount, not a switch: the weakest words count in names without numbers alone.
        able = [arm for arm in arms if group is not CONTROL_WORDS[-1] or not any(map(str.isdigit, words[arm]))]
        found = [arm for arm in able if group & set(words[arm])]
        exact = [arm for arm in found if set(words[arm]) <= group]
        if len(found) == 1 or len(exact) == 1:
            return (exact or found)[0]
    left_over = [arm for arm in arms if not TREATMENT_WORDS & set(words[arm])]
    marked = [arm for arm in arms if words[arm] and words[arm][-1] in FIRST_MARKS]
    return next((only[0] for only in (left_over, marked) if len(only) == 1), None)


def _words(name: str) -> list[str]:
    """newControl_v2 -> new, control, v, 2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    return re.findall(r"[^\W\d_]+|\d+", apart)
