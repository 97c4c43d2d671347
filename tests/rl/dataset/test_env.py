"""The logged-data environment keeps gymnasium's contract and follows the log."""

import dataclasses

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl.dataset.decisions import Decisions
from rl.dataset.env import LoggedDataEnv


def log() -> Decisions:
    """Two episodes, of two decisions and of one; the second candidate of the last decision is padding."""
    return Decisions(
        episodes=np.array([0, 0, 1]),
        steps=np.array([0, 1, 0]),
        states=np.array([[0.0], [1.0], [2.0]], dtype=np.float32),
        candidates=np.arange(12, dtype=np.float32).reshape(3, 2, 2),
        mask=np.array([[True, True], [True, True], [True, False]]),
        actions=np.array([1, 0, 0]),
        propensities=np.array([0.5, 0.5, 1.0]),
        rewards=np.array([0.0, 3.0, 1.0]),
        is_last=np.array([False, True, True]),
        policies=np.full(3, "popular", dtype=object),
        users=np.array([0, 0, 1]),
    )


@pytest.mark.filterwarnings("ignore:.*Box observation space:UserWarning")  # features have no natural bounds
def test_passes_gymnasiums_own_check() -> None:
    check_env(LoggedDataEnv(log()), skip_render_check=True)


def test_the_logged_action_leads_to_the_logged_reward_and_the_next_decision() -> None:
    env = LoggedDataEnv(log())
    observation, _ = env.reset(options={"episode": 0})
    assert observation["state"].tolist() == [0.0]
    assert observation["logged_action"] == 1
    observation, reward, terminated, truncated, info = env.step(np.int64(1))
    assert (reward, terminated, truncated, info["followed"]) == (0.0, False, False, True)
    assert observation["state"].tolist() == [1.0]
    _, reward, terminated, truncated, _ = env.step(np.int64(0))
    assert (reward, terminated, truncated) == (3.0, True, False)


def test_another_action_earns_nothing_and_the_log_goes_on() -> None:
    env = LoggedDataEnv(log())
    env.reset(options={"episode": 0})
    env.step(np.int64(1))
    _, reward, terminated, truncated, info = env.step(np.int64(1))
    assert (reward, terminated, truncated, info["followed"]) == (0.0, True, False, False)


def test_an_episode_that_the_log_cut_off_is_truncated_not_terminated() -> None:
    env = LoggedDataEnv(dataclasses.replace(log(), is_last=np.zeros(3, dtype=bool)))
    env.reset(options={"episode": 1})
    _, reward, terminated, truncated, _ = env.step(np.int64(0))
    assert (reward, terminated, truncated) == (1.0, False, True)


def test_the_mask_tells_padding_and_a_seed_tells_the_episode() -> None:
    env = LoggedDataEnv(log())
    observation, _ = env.reset(options={"episode": 1})
    assert observation["mask"].tolist() == [1, 0]
    drawn = [env.reset(seed=s)[0]["state"].item() for s in range(10)]
    assert drawn == [env.reset(seed=s)[0]["state"].item() for s in range(10)]
    assert set(drawn) == {0.0, 2.0}


def test_no_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        LoggedDataEnv(log().take(np.zeros(3, dtype=bool)))
