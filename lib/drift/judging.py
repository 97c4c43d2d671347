"""Rows of gold/drift: what has moved further than chance, and far enough to matter."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lib.drift.compare import LEAST_UNITS, Found, corrected
from lib.drift.rewards import Change, OfPolicy
from lib.statistics.experiments import Comparison

Row = dict[str, Any]
NOT_MEASURED: Row = dict.fromkeys(
    (
        *("reference", "now", "missing_reference_frac", "missing_now_frac", "statistic", "psi", "psi_by_chance"),
        *("effect", "low", "high", "p", "p_adjusted"),
    )
)


class Limits(NamedTuple):
    """From where on a difference counts."""

    max_p: float  # corrected
    min_psi: float  # beyond chance
    min_reward_change_frac: float  # of the rate before
    unwatched: frozenset[str] = frozenset()  # measures that are told and never count


def of_measures(
    kinds: Mapping[str, str],
    found: Sequence[Found],
    num_units: tuple[int, int],
    limits: Limits,
    told: Mapping[str, str] | None = None,
) -> list[Row]:
    """The rows of measures that were compared together.

    Args:
        kinds: name -> kind; others are not kept.
        found: of every measure.
        num_units: of then and of now.
        limits: from where on one counts.
        told: name -> what else the reason says, of categories.
    """
    rows = []
    for one, p in zip(found, corrected([one.p for one in found]), strict=True):
        is_category = one.name in (told or {})
        why_not, is_drifted = _verdict(one, p, num_units, limits)
        reason = why_not + (f"; {said}" if (said := (told or {}).get(one.name)) else "")
        row = {
            "kind": kinds[one.name],
            "name": one.name,
            "reference": None if is_category else one.then,
            "now": None if is_category else one.now,
            "missing_reference_frac": one.missing_then,
            "missing_now_frac": one.missing_now,
            "statistic": one.statistic,
            "psi": one.psi,
            "psi_by_chance": one.psi_by_chance,
            "p": one.p,
            "p_adjusted": p,
            "num_reference": num_units[0],
            "num_now": num_units[1],
            "is_drifted": is_drifted,
            "reason": reason,
        }
        rows.append(NOT_MEASURED | row)
    return rows


def _verdict(one: Found, p: float, num_units: tuple[int, int], limits: Limits) -> tuple[str, bool]:
    if min(num_units) < LEAST_UNITS:
        return f"too few users to tell ({num_units[0]} and {num_units[1]} of at least {LEAST_UNITS})", False
    if one.missing_then == one.missing_now == 1:
        return "unknown then and now", False
    if one.name in limits.unwatched:
        return f"not watched (drift.unwatched): PSI {one.psi:.3f}, {one.psi_by_chance:.3f} of it by chance", False
    beyond = one.psi - one.psi_by_chance
    said = f"PSI {one.psi:.3f}, {one.psi_by_chance:.3f} of it by chance; p {p:.2g} corrected"
    if p >= limits.max_p:
        return f"no more than chance: {said}", False
    if beyond < limits.min_psi:
        return f"less than PSI {limits.min_psi:g} beyond chance: {said}", False
    return f"at least PSI {limits.min_psi:g} beyond chance: {said}", True


def of_sequence(reward: str, together: OfPolicy, change: Change, since: str | None, limits: Limits) -> Row:
    """The row of the impressions of all policies.

    ADWIN takes impressions as independent, which those of one user are not: a change that it finds counts where it is beyond chance over
    users too.

    Args:
        reward: its name.
        together: the rates, compared over users.
        change: what ADWIN found since the release.
        since: when it found the first.
        limits: from where on a change counts.
    """
    told = together.compared
    is_large, is_beyond = _is_large(told, limits), told.p is not None and told.p < limits.max_p
    rates = f"{told.control_value or 0:.4f} before, {told.arm_value or 0:.4f} since"
    size = f"{'at least' if is_large else 'less than'} {limits.min_reward_change_frac:.0%}"
    if not change.num_changes:
        reason = f"ADWIN finds no change since the release: {rates}"
    elif not is_beyond:
        reason = f"ADWIN finds a change, by {since}, which over users is no more than chance: {rates}"
    else:
        reason = f"ADWIN finds a change, by {since}, of {size}: {rates}"
    own = {"statistic": float(change.num_changes), "p_adjusted": told.p, "reason": reason}
    is_drifted = bool(change.num_changes) and is_large and is_beyond
    return NOT_MEASURED | {"kind": "reward", "name": reward} | _compared(together) | own | {"is_drifted": is_drifted}


def _is_large(told: Comparison, limits: Limits) -> bool:
    """Whether a rate changed by the share of it that counts; of a rate of 0 any change does."""
    return bool(told.effect) and abs(told.effect or 0) >= limits.min_reward_change_frac * (told.control_value or 0)


def _compared(one: OfPolicy) -> Row:
    told = one.compared
    return {
        "reference": told.control_value,
        "now": told.arm_value,
        "effect": told.effect,
        "low": told.low,
        "high": told.high,
        "p": told.p,
        "num_reference": one.num_then,
        "num_now": one.num_now,
    }


def of_policies(rewards: Mapping[str, Sequence[OfPolicy]], limits: Limits) -> list[Row]:
    """The rows of each policy and reward."""
    every = [(reward, one) for reward, found in rewards.items() for one in found]
    known = [one.compared.p for _, one in every if one.compared.p is not None]
    adjusted = iter(corrected(known))
    rows = []
    for reward, one in every:
        told, p = one.compared, None if one.compared.p is None else next(adjusted)
        is_large = _is_large(told, limits)
        is_beyond = p is not None and p < limits.max_p and min(one.num_then, one.num_now) >= LEAST_UNITS
        if p is None or min(one.num_then, one.num_now) < LEAST_UNITS:
            reason = f"too few users, or none that differ, to tell ({one.num_then} and {one.num_now})"
        else:
            size = "at least" if is_large else "less than"
            chance = "beyond chance" if is_beyond else "no more than chance"
            reason = f"a change of {size} {limits.min_reward_change_frac:.0%}, {chance}: p {p:.2g} corrected"
        own = {"p_adjusted": p, "reason": reason, "is_drifted": is_large and is_beyond}
        rows.append(NOT_MEASURED | {"kind": "reward", "name": f"{reward}/{one.policy}"} | _compared(one) | own)
    return rows
