"""Logged decisions as arrays: the rows of `gold/decisions`, sorted by episode and step, candidates padded to one width."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Flags = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.object_]

COLUMNS = (
    "episode_id",
    "step",
    "user_key",
    "state",
    "candidate_features",
    "action",
    "propensity",
    "policy",
    "reward",
    "is_last",
)


@dataclass(frozen=True)
class Decisions:
    """n logged decisions in E episodes, sorted by episode and step; k is the largest number of candidates.

    An episode whose last row has `is_last` false was cut off by the end of the log: it was truncated, not terminated.
    """

    episodes: Ints  # [n] number of the episode, 0..E-1, ascending
    steps: Ints  # [n] 0, 1, ... within the episode
    states: Floats  # [n, d] float32
    candidates: Floats  # [n, k, c] float32, zero where padded
    mask: Flags  # [n, k] true where there is a candidate, false where padded
    actions: Ints  # [n] index of the shown candidate
    propensities: Floats  # [n] its probability under the policy that logged it
    rewards: Floats  # [n]
    is_last: Flags  # [n] the episode ended here
    policies: Texts  # [n] the logging policy
    users: Ints  # [n] number of the user; an episode without a user counts as another user

    def __len__(self) -> int:
        return len(self.actions)

    @property
    def num_episodes(self) -> int:
        return int(self.episodes[-1]) + 1 if len(self) else 0

    @property
    def horizon(self) -> int:
        """The most decisions in an episode."""
        return int(self.steps.max()) + 1 if len(self) else 0

    @property
    def episode_users(self) -> Ints:
        """[E] the user of each episode."""
        users: Ints = self.users[self.steps == 0]
        return users

    @property
    def episode_policies(self) -> Texts:
        """[E] the logging policy of each episode; where several decided, their names joined by +."""
        first = np.flatnonzero(self.steps == 0)
        names: Texts = self.policies[first].copy()
        is_another = self.policies != names[self.episodes]
        for episode in np.unique(self.episodes[is_another]):
            names[episode] = "+".join(sorted(set(self.policies[self.episodes == episode])))
        return names

    @property
    def next_rows(self) -> Ints:
        """[n] the row of the next decision of the same episode, -1 where there is none."""
        following = np.arange(1, len(self) + 1)
        continues = np.zeros(len(self), dtype=bool)
        continues[:-1] = self.episodes[1:] == self.episodes[:-1]
        rows: Ints = np.where(continues, following, -1)
        return rows

    @property
    def is_transition(self) -> Flags:
        """[n] true where the log holds what followed: the next decision, or the episode's end."""
        return (self.next_rows >= 0) | self.is_last

    def by_step(self, values: Floats, *, fill: float) -> npt.NDArray[np.float64]:
        """Lay out values [n] as a matrix [E, T], one row for each episode, `fill` after its end."""
        matrix = np.full((self.num_episodes, self.horizon), fill, dtype=np.float64)
        matrix[self.episodes, self.steps] = values
        return matrix

    def take(self, rows: Flags) -> "Decisions":
        """Keep the episodes for which `rows` [n] is true at every row; episodes are renumbered."""
        whole = np.ones(self.num_episodes, dtype=bool)
        np.logical_and.at(whole, self.episodes, rows)
        kept = whole[self.episodes]
        columns = {f.name: getattr(self, f.name)[kept] for f in fields(self)}
        columns["episodes"] = np.unique(columns["episodes"], return_inverse=True)[1]
        return Decisions(**columns)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> "Decisions":
        """The decisions of rows of `gold/decisions` (at least `COLUMNS`), in any order.

        Raises:
            ValueError: states or candidate features differ in width, an episode has a gap, or an action is not the index of
                a candidate.
        """
        table = table.select(list(COLUMNS)).sort_by([("episode_id", "ascending"), ("step", "ascending")])
        table = table.combine_chunks()
        episodes = _numbered(table["episode_id"])
        steps = table["step"].to_numpy().astype(np.int64)
        expected = np.arange(len(steps)) - np.searchsorted(episodes, episodes)
        if not np.array_equal(steps, expected):
            raise ValueError("gold/decisions: steps of an episode must count 0, 1, 2, ... without a gap")
        candidates, mask = _padded(table["candidate_features"])
        actions = table["action"].to_numpy().astype(np.int64)
        if len(actions) and not ((actions >= 0) & (actions < mask.sum(axis=1))).all():
            raise ValueError("gold/decisions: an action is not the index of a candidate of its row")
        owner = pc.coalesce(pc.binary_join_element_wise("user", table["user_key"], ":"), table["episode_id"])
        return cls(
            episodes=episodes,
            steps=steps,
            states=_matrix(table["state"]),
            candidates=candidates,
            mask=mask,
            actions=actions,
            propensities=table["propensity"].to_numpy().astype(np.float64),
            rewards=table["reward"].to_numpy().astype(np.float64),
            is_last=table["is_last"].to_numpy(zero_copy_only=False).astype(bool),
            policies=table["policy"].to_numpy(zero_copy_only=False).astype(object),
            users=_numbered(owner),
        )


def _flat(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _numbered(column: pa.ChunkedArray) -> Ints:
    """Numbers 0, 1, ... for the values of a column, in order of first appearance."""
    if len(column) == 0:
        return np.zeros(0, dtype=np.int64)
    numbers: Ints = _flat(_flat(column).dictionary_encode()).indices.to_numpy().astype(np.int64)
    return numbers


def _matrix(column: pa.ChunkedArray) -> Floats:
    """A column of lists of equal length as a matrix [n, d]."""
    lists = _flat(column)
    widths = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False)) if len(lists) else np.zeros(1)
    if len(widths) > 1:
        raise ValueError(f"gold/decisions: vectors of one column must have one width, found {widths.tolist()}")
    values: Floats = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return values.reshape(len(lists), int(widths[0]))


def _padded(column: pa.ChunkedArray) -> tuple[Floats, Flags]:
    """A column of lists of vectors as [n, k, c] with zeros where padded, and the mask [n, k] of the vectors."""
    lists = _flat(column)
    counts = lists.value_lengths().to_numpy(zero_copy_only=False) if len(lists) else np.zeros(0, dtype=np.int64)
    vectors = _matrix(lists.flatten())
    mask = np.arange(counts.max(initial=0)) < counts[:, None]
    candidates = np.zeros((*mask.shape, vectors.shape[1]), dtype=np.float32)
    candidates[mask] = vectors
    return candidates, mask
