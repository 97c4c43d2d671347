"""Which impressions are decisions: the rules that they must keep, and the first one that each breaks."""

from typing import NamedTuple

import numpy as np

from rl.dataset.decisions import Flags, Floats, Ints

KEPT = -1
RULES = (
    "without a propensity",
    "without candidates",
    "with a null or empty candidate",
    "of an item that is not among its candidates",
    "whose positions do not count 1, 2, 3, ... over the session or over the page, which is a request",
    "in a session that lost another of its impressions",
    "from as_of on in a session that began before it",
)
PROPENSITY, CANDIDATES, CANDIDATE, AMONG, POSITION, SESSION, AS_OF = range(len(RULES))


class Shown(NamedTuple):
    """n impressions in the order of the decisions, the impressions of a session together."""

    session: Ints  # (n,)
    page: Ints  # (n,) the request; where there is none, what a session shows at one time
    time_us: Ints  # (n,)
    position: Floats  # (n,) nan where the log gives none
    propensity: Floats  # (n,) nan where the log gives none
    num_candidates: Ints  # (n,)
    has_empty_candidate: Flags  # (n,)
    is_among: Flags  # (n,) the item is among its candidates


def broken_rules(shown: Shown, *, as_of_us: int) -> Ints:
    """(n,) the number in RULES of the first rule that each impression breaks; KEPT where it is a decision.

    An impression that breaks a rule takes its whole session with it, since the rewards that followed depend on all of them.
    Positions may count through the session, or anew on each page. A session that goes on at `as_of` loses what comes from then
    on, and that decides nothing about what came before.
    """
    session = np.unique(shown.session, return_inverse=True)[1]
    began_us = np.full(len(session), np.iinfo(np.int64).max)
    np.minimum.at(began_us, session, shown.time_us)
    is_later = (began_us[session] < as_of_us) & (shown.time_us >= as_of_us)
    session, page = (np.unique(2 * group + is_later, return_inverse=True)[1] for group in (session, shown.page))
    counts_up = all_of(session, _count_up(shown.position, session)) | all_of(session, _count_up(shown.position, page))
    broken = np.full(len(session), KEPT)
    for rule, breaks in (
        (POSITION, ~counts_up),
        (AMONG, ~shown.is_among),
        (CANDIDATE, shown.has_empty_candidate),
        (CANDIDATES, shown.num_candidates == 0),
        (PROPENSITY, ~(shown.propensity > 0)),
    ):
        broken = np.where(breaks, rule, broken)
    broken = np.where((broken == KEPT) & ~all_of(session, broken == KEPT), SESSION, broken)
    return np.where(is_later, AS_OF, broken)


def all_of(group: Ints, is_good: Flags) -> Flags:
    """True for every row of a group whose rows are all good; groups are numbered from 0."""
    return np.asarray(np.bincount(group, weights=~is_good)[group] == 0)


def _count_up(position: Floats, group: Ints) -> Flags:
    """Whether each position is its place, from 1, among the positions of its group; true where there is none."""
    order = np.lexsort((position, group))  # nan comes last in its group
    place = np.empty(len(order))
    place[order] = 1 + np.arange(len(order)) - np.searchsorted(group[order], group[order])
    return np.asarray(np.isnan(position) | (position == place))
