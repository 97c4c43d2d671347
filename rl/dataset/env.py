"""LoggedDataEnv: the logged decisions as a gymnasium environment, which defines what a policy observes and may do."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rl.dataset.decisions import Decisions

Observation = dict[str, Any]


class LoggedDataEnv(gymnasium.Env[Observation, np.int64]):
    """Follows logged episodes: the logged action leads to the logged reward and the logged next decision.

    Observation: a dict of
      - `state` [d]: features of the user and of the session so far,
      - `candidates` [k, c]: features of what can be shown, zeros where padded,
      - `mask` [k]: 1 where there is a candidate, 0 where padded,
      - `logged_action`: the index of the candidate that was shown.
    Action: the index of the candidate to show.
    Reward: the logged reward. The outcome of any other action than the logged one is unknown: it earns 0, `info["followed"]` is
    false, and the episode continues as logged.
    End: an episode terminates after its last logged decision. Where the log ends before the episode does, it is truncated,
    because what would have followed is unknown. The observation after an end repeats the last one.

    `reset` draws an episode uniformly, or takes `options={"episode": number}`.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - gymnasium's own declaration

    def __init__(self, decisions: Decisions) -> None:
        """Follow the episodes of `decisions`; ValueError where there is none."""
        if len(decisions) == 0:
            raise ValueError("a logged-data environment needs at least one logged episode")
        self._decisions = decisions
        self._starts = np.flatnonzero(decisions.steps == 0)
        self._next_rows = decisions.next_rows
        self._row = 0
        num_candidates, candidate_dim = decisions.candidates.shape[1:]
        self.observation_space = observation_space(decisions.states.shape[1], num_candidates, candidate_dim)
        self.action_space = spaces.Discrete(num_candidates)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin a random episode, or the one that the options name."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self._starts)))
        self._row = int(self._starts[(options or {}).get("episode", drawn)])
        return self._observation(), {"row": self._row}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Show a candidate; the class says what follows."""
        row, log = self._row, self._decisions
        followed = int(action) == int(log.actions[row])
        reward = float(log.rewards[row]) if followed else 0.0
        terminated = bool(log.is_last[row])
        truncated = not terminated and bool(self._next_rows[row] < 0)
        if not (terminated or truncated):
            self._row = int(self._next_rows[row])
        return self._observation(), reward, terminated, truncated, {"row": row, "followed": followed}

    def _observation(self) -> Observation:
        log, row = self._decisions, self._row
        return {
            "state": log.states[row].astype(np.float32),
            "candidates": log.candidates[row].astype(np.float32),
            "mask": log.mask[row].astype(np.int8),
            "logged_action": np.int64(log.actions[row]),
        }


def observation_space(state_dim: int, num_candidates: int, candidate_dim: int) -> spaces.Dict:
    """The space of observations with d state features, k candidates and c features of each."""
    return spaces.Dict(
        {
            "state": spaces.Box(-np.inf, np.inf, (state_dim,), np.float32),
            "candidates": spaces.Box(-np.inf, np.inf, (num_candidates, candidate_dim), np.float32),
            "mask": spaces.MultiBinary(num_candidates),
            "logged_action": spaces.Discrete(num_candidates),
        }
    )
