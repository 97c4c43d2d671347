"""The logged-data environment keeps gymnasium's contract and follows the log."""

import dataclasses

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rl.dataset.decisions import Decisions
from rl.dataset.env import LoggedDataEnv, LoggedDataVectorEnv


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


def test_what_another_action_leads_to_is_unknown_so_it_earns_nothing_and_the_episode_ends() -> None:
    env = LoggedDataEnv(log())
    before, _ = env.reset(options={"episode": 0})
    after, reward, terminated, truncated, info = env.step(np.int64(0))
    assert (reward, terminated, truncated, info["followed"]) == (0.0, True, False, False)
    assert after["state"] == before["state"]
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


def wide(num_episodes: int = 300) -> Decisions:
    """Episodes of one to four decisions among three candidates, some of them cut off."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(1, 5, num_episodes)
    size = int(lengths.sum())
    last = np.cumsum(lengths) - 1
    is_last = np.zeros(size, bool)
    is_last[last] = draw.random(num_episodes) < 0.8
    return Decisions(
        episodes=np.repeat(np.arange(num_episodes), lengths),
        steps=np.arange(size) - np.repeat(last + 1 - lengths, lengths),
        states=np.arange(size, dtype=np.float32)[:, None],
        candidates=draw.normal(size=(size, 3, 2)).astype(np.float32),
        mask=np.ones((size, 3), bool),
        actions=draw.integers(0, 3, size),
        propensities=np.full(size, 1 / 3),
        rewards=draw.random(size),
        is_last=is_last,
        policies=np.full(size, "popular", dtype=object),
        users=np.repeat(np.arange(num_episodes), lengths),
    )


def test_many_episodes_at_once_go_as_each_alone() -> None:
    decisions, places = wide(), 50
    many, alone = LoggedDataVectorEnv(decisions, places), LoggedDataEnv(decisions)
    draw = np.random.default_rng(1)
    seen, info = many.reset(seed=3)
    has_ended = np.zeros(places, bool)
    for _ in range(40):
        rows = seen["state"][:, 0].astype(int)
        actions = np.where(draw.random(places) < 0.8, seen["logged_action"], draw.integers(0, 3, places))
        seen, rewards, terminated, truncated, info = many.step(actions)
        for place in range(places):
            if has_ended[place]:
                assert decisions.steps[int(seen["state"][place, 0])] == 0
                assert not (rewards[place] or terminated[place] or truncated[place])
                continue
            alone.reset(options={"episode": int(decisions.episodes[rows[place]])})
            alone._row = int(rows[place])
            one, reward, ends, is_cut, told = alone.step(actions[place])
            assert (reward, ends, is_cut) == (rewards[place], terminated[place], truncated[place])
            assert told["followed"] == info["followed"][place]
            assert all((one[name] == seen[name][place]).all() for name in one)
        has_ended = terminated | truncated
    assert seen in many.observation_space and many.num_envs == places


def test_what_a_policy_earns_by_following_the_log_is_the_logs_mean_return() -> None:
    """The replay estimator: a policy that does what was logged is worth what was earned."""
    decisions = wide()
    env = LoggedDataEnv(decisions)
    total = 0.0
    for episode in range(decisions.num_episodes):
        seen, _ = env.reset(options={"episode": episode})
        ends = False
        while not ends:
            seen, reward, terminated, truncated, _ = env.step(seen["logged_action"])
            total += reward
            ends = terminated or truncated
    assert total == pytest.approx(decisions.rewards.sum())
