"""Logged decisions as gymnasium environments, which define what a policy observes and may do: one episode, or many at once.

Replay (Li et al. 2011, "Unbiased offline evaluation of contextual-bandit-based news article recommendation algorithms"): where an
action is the logged one, it leads to the logged reward and the logged next decision. What any other action would have led to
is unknown: it earns 0, `info["followed"]` is false, and the episode terminates. So replay judges policies; what a learner may
take from it is what was followed.

Observation: a dict of
  - `state` [d]: features of the user and of the session so far,
  - `candidates` [k, c]: features of what can be shown, zeros where padded,
  - `mask` [k]: 1 where there is a candidate, 0 where padded,
  - `logged_action`: the index of the candidate that was shown.
Action: the index of the candidate to show.
End: an episode terminates after its last logged decision. Where the log ends before the episode does, it is truncated, because what
would have followed is unknown. The observation after an end repeats the last one.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from rl.dataset.decisions import Decisions, Flags, Floats, Ints

Observation = dict[str, Any]


class Replay:
    """Logged episodes that any number of walkers follow at once; each stands at a row of the decisions."""

    def __init__(self, decisions: Decisions) -> None:
        """Follow the episodes of `decisions`; ValueError where there is none."""
        if len(decisions) == 0:
            raise ValueError("a logged-data environment needs at least one logged episode")
        self.log = decisions
        self.starts = np.flatnonzero(decisions.steps == 0)
        self.next_rows = decisions.next_rows
        self.candidates = np.ascontiguousarray(decisions.candidates, np.float32)
        self.states, self.mask = decisions.states.astype(np.float32), decisions.mask.astype(np.int8)
        self.actions = decisions.actions.astype(np.int64)
        num_candidates, candidate_dim = decisions.candidates.shape[1:]
        self.observation_space = spaces.Dict(
            {
                "state": spaces.Box(-np.inf, np.inf, (decisions.states.shape[1],), np.float32),
                "candidates": spaces.Box(-np.inf, np.inf, (num_candidates, candidate_dim), np.float32),
                "mask": spaces.MultiBinary(num_candidates),
                "logged_action": spaces.Discrete(num_candidates),
            }
        )
        self.action_space: Any = spaces.Discrete(num_candidates)

    def act(self, rows: Ints, actions: Ints) -> tuple[Ints, Floats, Flags, Flags, Flags]:
        """What actions [n] at rows [n] lead to: the next rows, rewards, which episodes terminated, were truncated, and were followed."""
        followed = actions == self.actions[rows]
        following = self.next_rows[rows]
        terminated = ~followed | self.log.is_last[rows]
        truncated = ~terminated & (following < 0)
        rewards = np.where(followed, self.log.rewards[rows], 0.0)
        return np.where(terminated | truncated, rows, following), rewards, terminated, truncated, followed

    def observe(self, rows: Any) -> Observation:
        """What is observed at a row, or at rows [n]."""
        return {
            "state": self.states[rows],
            "candidates": self.candidates[rows],
            "mask": self.mask[rows],
            "logged_action": self.actions[rows],
        }


class LoggedDataEnv(gymnasium.Env[Observation, np.int64]):
    """Follows one logged episode after the other. `reset` draws one uniformly, or takes `options={"episode": number}`."""

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, decisions: Decisions) -> None:
        """Follow the episodes of `decisions`; ValueError where there is none."""
        self._replay = Replay(decisions)
        self._row = 0
        self.observation_space, self.action_space = self._replay.observation_space, self._replay.action_space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a random episode, or the one that the options name."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self._replay.starts)))
        self._row = int(self._replay.starts[(options or {}).get("episode", drawn)])
        return self._replay.observe(self._row), {"row": self._row}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Show a candidate."""
        row = np.array([self._row])
        after, reward, terminated, truncated, followed = self._replay.act(row, np.array([action]))
        info = {"row": self._row, "followed": bool(followed[0])}
        self._row = int(after[0])
        return self._replay.observe(self._row), float(reward[0]), bool(terminated[0]), bool(truncated[0]), info


class LoggedDataVectorEnv(VectorEnv[Observation, Any, Any]):
    """Follows as many logged episodes at once as it has places; in a place whose episode has ended the next step begins another."""

    def __init__(self, decisions: Decisions, num_envs: int) -> None:
        """Follow the episodes of `decisions`; ValueError where there is none."""
        self._replay = Replay(decisions)
        self.num_envs = num_envs
        self.metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.NEXT_STEP}
        self.single_observation_space = self._replay.observation_space
        self.single_action_space = self._replay.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rows: Ints = np.zeros(num_envs, np.int64)
        self._has_ended: Flags = np.zeros(num_envs, bool)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a random episode in each place."""
        super().reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._rows, self._has_ended = self._drawn(self.num_envs), np.zeros(self.num_envs, bool)
        return self._replay.observe(self._rows), {"row": self._rows.copy()}

    def step(self, actions: Ints) -> tuple[Observation, Floats, Flags, Flags, dict[str, Any]]:
        """Show a candidate in each place; where an episode has ended before, another begins and the action counts for nothing."""
        begins, rows = self._has_ended, self._rows
        after, rewards, terminated, truncated, followed = self._replay.act(rows, np.asarray(actions))
        if begins.any():
            after[begins], rewards[begins] = self._drawn(int(begins.sum())), 0.0
            terminated[begins] = truncated[begins] = False
        self._rows, self._has_ended = after, terminated | truncated
        return (
            self._replay.observe(after),
            rewards,
            terminated,
            truncated,
            {"row": rows, "followed": followed & ~begins},
        )

    def _drawn(self, number: int) -> Ints:
        """The first rows of so many episodes, drawn."""
        rows: Ints = self._replay.starts[self.np_random.integers(len(self._replay.starts), size=number)]
        return rows
