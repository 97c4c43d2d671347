"""Off-policy estimators against values worked by hand, enumeration of a small decision process, known truth, and obp's."""

from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rl.ope import slates
from rl.ope.bootstrap import Bootstrap, Matrix, effective_sample_size
from rl.ope.estimators import (
    direct_method,
    doubly_robust,
    mean_return,
    per_decision_is,
    per_decision_wis,
    trajectory_is,
    trajectory_wis,
    weighed,
    weighted_doubly_robust,
)
from rl.ope.weights import clipped, cumulative, marginal, shrunk, switched
from tests.rl.ope.reference import obp_module

DISCOUNT = 0.5
# A shop with two states. In the first, action 0 ends the episode with reward 1; action 1 pays 2 and leads to the second,
# where action 0 pays 8 and action 1 pays 4; then it ends.
MU = np.array([[1 / 2, 1 / 2], [1 / 4, 3 / 4]])
PI = np.array([[0.2, 0.8], [0.9, 0.1]])
TRUTH = 0.2 * 1 + 0.8 * (2 + DISCOUNT * (0.9 * 8 + 0.1 * 4))
Q_TRUE = np.array([[1.0, 2 + DISCOUNT * (0.9 * 8 + 0.1 * 4)], [8.0, 4.0]])
EVERY_PATH = [(0,)] * 4 + [(1, 0)] * 1 + [(1, 1)] * 3  # each path as often as MU takes it in 8 episodes
REWARD = {(0, 0): 1.0, (0, 1): 2.0, (1, 0): 8.0, (1, 1): 4.0}


def matrices(paths: list[tuple[int, ...]], q: Matrix = Q_TRUE) -> tuple[Matrix, Matrix, Matrix, Matrix]:
    """Rewards, ratios, q of the logged action and v of the state, [E, 2], of paths through the shop."""
    shape = (len(paths), 2)
    rewards, ratios, q_logged, v_target = np.zeros(shape), np.ones(shape), np.zeros(shape), np.zeros(shape)
    for i, path in enumerate(paths):
        for t, action in enumerate(path):
            rewards[i, t] = REWARD[(t, action)]
            ratios[i, t] = PI[t, action] / MU[t, action]
            q_logged[i, t] = q[t, action]
            v_target[i, t] = PI[t] @ q[t]
    return rewards, ratios, q_logged, v_target


def bootstrap(num_episodes: int, **kwargs: int) -> Bootstrap:
    return Bootstrap(np.arange(num_episodes), **({"num_resamples": 200} | kwargs))


def test_per_decision_wis_is_exact_when_every_path_occurs_as_often_as_expected() -> None:
    rewards, ratios, _, _ = matrices(EVERY_PATH)
    assert per_decision_wis(rewards, ratios, bootstrap(8), discount=DISCOUNT).value == pytest.approx(TRUTH)


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4))
def test_doubly_robust_is_exact_on_every_path_whatever_the_model(q: list[float]) -> None:
    rewards, ratios, q_logged, v_target = matrices(EVERY_PATH, np.reshape(q, (2, 2)))
    estimate = doubly_robust(rewards, ratios, q_logged, v_target, bootstrap(8, num_resamples=2), discount=DISCOUNT)
    assert estimate.value == pytest.approx(TRUTH)


def test_doubly_robust_with_the_true_model_has_no_variance_here() -> None:
    rewards, ratios, q_logged, v_target = matrices([(0,), (1, 1), (1, 0), (1, 1)])
    estimate = doubly_robust(rewards, ratios, q_logged, v_target, bootstrap(4), discount=DISCOUNT)
    assert [estimate.value, estimate.low, estimate.high] == pytest.approx([TRUTH] * 3)


def test_mean_return_is_the_discounted_mean() -> None:
    rewards, _, _, _ = matrices([(0,), (1, 0)])
    assert mean_return(rewards, bootstrap(2), discount=DISCOUNT).value == (1 + (2 + 0.5 * 8)) / 2


def test_one_step_estimates_equal_the_bandit_formulas_worked_by_hand() -> None:
    rewards, ratios = np.array([[1.0], [0.0], [1.0]]), np.array([[2.0], [0.5], [0.25]])
    q_logged, v_target = np.array([[0.5], [0.1], [0.8]]), np.array([[0.6], [0.3], [0.4]])
    wis = per_decision_wis(rewards, ratios, bootstrap(3), discount=0.9)
    assert wis.value == pytest.approx((2.0 + 0.25) / (2.0 + 0.5 + 0.25))
    dr = doubly_robust(rewards, ratios, q_logged, v_target, bootstrap(3), discount=0.9)
    by_hand = ((0.6 + 2 * (1 - 0.5)) + (0.3 + 0.5 * (0 - 0.1)) + (0.4 + 0.25 * (1 - 0.8))) / 3
    assert dr.value == pytest.approx(by_hand)
    assert wis.effective_sample_size == pytest.approx(2.75**2 / (4 + 0.25 + 0.0625))


def test_with_a_model_of_zeros_doubly_robust_is_importance_sampling() -> None:
    rewards, ratios, _, _ = matrices([(1, 0), (1, 1), (0,)])
    zeros = np.zeros_like(rewards)
    estimate = doubly_robust(rewards, ratios, zeros, zeros, bootstrap(3), discount=DISCOUNT)
    first, second = 0.8 / 0.5, 0.9 / 0.25
    by_hand = (first * 2 + 0.5 * first * second * 8 + first * 2 + 0.5 * first * (0.1 / 0.75) * 4 + 0.4 * 1) / 3
    assert estimate.value == pytest.approx(by_hand)


def test_truncated_weights_are_capped_step_by_step() -> None:
    rewards, ratios = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[4.0, 0.5], [1.0, 8.0]])
    zeros = np.zeros_like(rewards)
    dr = doubly_robust(rewards, ratios, zeros, zeros, bootstrap(2), discount=1.0, shape=clipped(3.0))
    assert dr.value == pytest.approx(((3 * 1 + 2 * 1) + (1 * 0 + 3 * 1)) / 2)
    wis = per_decision_wis(rewards, ratios, bootstrap(2), discount=1.0, shape=clipped(3.0))
    assert wis.value == pytest.approx((3 * 1) / (3 + 1) + (2 + 3) / (2 + 3))
    assert dr.effective_sample_size == pytest.approx(5**2 / (4 + 9))


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40))
def test_a_policy_valued_on_its_own_log_is_worth_its_mean_reward_exactly(clicks: list[int]) -> None:
    rewards = np.array(clicks, dtype=float)[:, None]
    draws = bootstrap(len(clicks), num_resamples=2)
    own = per_decision_wis(rewards, np.ones_like(rewards), draws, discount=0.9)
    assert own.value == sum(clicks) / len(clicks)
    assert own.effective_sample_size == len(clicks)


def test_a_users_episodes_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    per_user = rng.normal(size=50)
    rewards = np.repeat(per_user, 20)[:, None]
    together = mean_return(rewards, Bootstrap(np.repeat(np.arange(50), 20)), discount=1.0)
    once = mean_return(per_user[:, None], Bootstrap(np.arange(50)), discount=1.0)
    alone = mean_return(rewards, Bootstrap(np.arange(1000)), discount=1.0)
    assert together.high - together.low == pytest.approx(once.high - once.low, rel=0.15)
    assert together.high - together.low > 3 * (alone.high - alone.low)


def test_interval_of_a_mean_agrees_with_the_normal_one_also_when_users_are_grouped() -> None:
    rewards = np.random.default_rng(1).normal(size=(4000, 1))
    half = 1.96 * rewards.std() / np.sqrt(4000)
    for max_groups in (10_000, 500):
        estimate = mean_return(rewards, Bootstrap(np.arange(4000), max_groups=max_groups), discount=1.0)
        assert (estimate.high - estimate.low) / 2 == pytest.approx(half, rel=0.15)


def test_same_seed_same_interval_and_differences_are_paired() -> None:
    rewards = np.random.default_rng(2).normal(size=(300, 1))
    draws = Bootstrap(np.arange(300), seed=7)
    first, again = mean_return(rewards, draws, discount=1.0), mean_return(rewards, draws, discount=1.0)
    better = mean_return(rewards + 0.01, Bootstrap(np.arange(300), seed=7), discount=1.0)
    assert (first.low, first.high) == (again.low, again.high)
    difference = better.minus(first)
    assert [difference.value, difference.low, difference.high] == pytest.approx([0.01] * 3)


def test_effective_sample_size_of_one_heavy_weight_is_one_and_of_none_is_zero() -> None:
    assert effective_sample_size(np.array([1e6, 1.0, 1.0])) == pytest.approx(1.0, rel=1e-4)
    assert effective_sample_size(np.zeros(3)) == 0.0


def test_no_episode_is_refused() -> None:
    with pytest.raises(ValueError, match="no episode"):
        mean_return(np.zeros((0, 1)), bootstrap(0), discount=1.0)


def test_intervals_cover_the_truth_on_most_of_many_small_logs() -> None:
    rng = np.random.default_rng(3)
    covered = {"wis": 0, "dr": 0}
    q_rough = Q_TRUE + np.array([[0.5, -1.0], [1.0, 0.5]])
    for _ in range(100):
        first = rng.random(150) < MU[0, 1]
        second = (rng.random(150) < MU[1, 1]).astype(int)
        paths: list[tuple[int, ...]] = [(1, int(b)) if a else (0,) for a, b in zip(first, second, strict=True)]
        rewards, ratios, q_logged, v_target = matrices(paths, q_rough)
        rewards = np.where(rewards > 0, rewards + rng.normal(size=rewards.shape), 0.0)
        draws = bootstrap(150)
        wis = per_decision_wis(rewards, ratios, draws, discount=DISCOUNT)
        dr = doubly_robust(rewards, ratios, q_logged, v_target, draws, discount=DISCOUNT)
        covered["wis"] += wis.low <= TRUTH <= wis.high
        covered["dr"] += dr.low <= TRUTH <= dr.high
    assert min(covered.values()) >= 88, covered


class RandomLog(NamedTuple):
    """Decisions of E episodes of T steps among K candidates, by a random policy, with a random model of Q."""

    actions: np.ndarray  # [E, T]
    rewards: Matrix  # [E, T]
    logging: Matrix  # [E, T, K], probabilities
    target: Matrix  # [E, T, K]
    q: Matrix  # [E, T, K]

    def of_logged(self, values: Matrix) -> Matrix:
        """The values [E, T] of the logged actions."""
        return np.take_along_axis(values, self.actions[..., None], axis=2)[..., 0]

    @property
    def ratios(self) -> Matrix:
        return self.of_logged(self.target) / self.of_logged(self.logging)

    @property
    def v_target(self) -> Matrix:
        return (self.target * self.q).sum(axis=2)


def random_log(seed: int, num_episodes: int = 300, horizon: int = 1, num_candidates: int = 5) -> RandomLog:
    rng = np.random.default_rng(seed)
    shape = (num_episodes, horizon, num_candidates)
    logging, target = rng.dirichlet(np.full(num_candidates, 1.5), size=(2, num_episodes, horizon))
    actions = (rng.random((*shape[:2], 1)) > np.cumsum(logging, axis=2)[..., :-1]).sum(axis=2)
    rewards = rng.integers(0, 4, size=shape[:2]).astype(float)
    return RandomLog(actions, rewards, logging, target, rng.normal(1.5, 1.0, size=shape))


@pytest.fixture(scope="module")
def obp() -> ModuleType:
    return obp_module("ope.estimators")


@pytest.fixture(scope="module")
def obp_slate() -> ModuleType:
    return obp_module("ope.estimators_slate")


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("max_weight", [np.inf, 2.0])
def test_on_one_step_episodes_estimates_equal_those_of_obp(obp: ModuleType, seed: int, max_weight: float) -> None:
    log = random_log(seed)
    draws = bootstrap(len(log.actions), num_resamples=2)
    assert (log.ratios > 2.0).mean() > 0.05  # the truncation bites
    given_log = {"reward": log.rewards[:, 0], "action": log.actions[:, 0], "pscore": log.of_logged(log.logging)[:, 0]}
    choices = log.target[:, 0, :, None]  # [E, K, 1]: obp's policies choose for each place of a list

    ips = obp.InverseProbabilityWeighting(lambda_=max_weight)
    of_zeros = doubly_robust(
        log.rewards, log.ratios, 0 * log.rewards, 0 * log.rewards, draws, discount=0.9, shape=clipped(max_weight)
    )
    assert of_zeros.value == pytest.approx(ips.estimate_policy_value(**given_log, action_dist=choices))

    dr = obp.DoublyRobust(lambda_=max_weight)
    ours = doubly_robust(
        log.rewards, log.ratios, log.of_logged(log.q), log.v_target, draws, discount=0.9, shape=clipped(max_weight)
    )
    model = log.q[:, 0, :, None]
    assert ours.value == pytest.approx(
        dr.estimate_policy_value(**given_log, action_dist=choices, estimated_rewards_by_reg_model=model)
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_one_step_episodes_self_normalised_and_mean_estimates_equal_those_of_obp(obp: ModuleType, seed: int) -> None:
    log = random_log(seed)
    draws = bootstrap(len(log.actions), num_resamples=2)
    reward, action, pscore = log.rewards[:, 0], log.actions[:, 0], log.of_logged(log.logging)[:, 0]
    wis = per_decision_wis(log.rewards, log.ratios, draws, discount=0.9)
    assert wis.value == pytest.approx(
        obp.SelfNormalizedInverseProbabilityWeighting().estimate_policy_value(
            reward=reward, action=action, pscore=pscore, action_dist=log.target[:, 0, :, None]
        )
    )
    as_logged = np.eye(log.q.shape[2])[action][..., None]  # the policy that does what was logged: all of it is replayed
    assert mean_return(log.rewards, draws, discount=0.9).value == pytest.approx(
        obp.ReplayMethod().estimate_policy_value(reward=reward, action=action, action_dist=as_logged)
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_longer_episodes_estimates_equal_those_of_obp_for_slates(obp_slate: ModuleType, seed: int) -> None:
    """A slate whose places are read from the top, each reward depending on those above, is an episode without a discount.

    The discount is put into the rewards and the model, which are then those of such a slate.
    """
    horizon, discount = 4, 0.8
    log = random_log(seed, horizon=horizon)
    num_episodes, _, num_candidates = log.q.shape
    draws = bootstrap(num_episodes, num_resamples=2)
    discounts = discount ** np.arange(horizon)
    slates = {
        "slate_id": np.repeat(np.arange(num_episodes), horizon),
        "position": np.tile(np.arange(horizon), num_episodes),
        "reward": (log.rewards * discounts).ravel(),
        "pscore_cascade": np.cumprod(log.of_logged(log.logging), axis=1).ravel(),
        "evaluation_policy_pscore_cascade": np.cumprod(log.of_logged(log.target), axis=1).ravel(),
    }
    wis = per_decision_wis(log.rewards, log.ratios, draws, discount=discount)
    reference = obp_slate.SelfNormalizedSlateRewardInteractionIPS(len_list=horizon)
    assert wis.value == pytest.approx(reference.estimate_policy_value(**slates))

    dr = doubly_robust(log.rewards, log.ratios, log.of_logged(log.q), log.v_target, draws, discount=discount)
    reference = obp_slate.SlateCascadeDoublyRobust(len_list=horizon, n_unique_action=num_candidates)
    assert dr.value == pytest.approx(
        reference.estimate_policy_value(
            **slates,
            action=log.actions.ravel(),
            q_hat=(log.q * discounts[:, None]).ravel(),
            evaluation_policy_action_dist=log.target.ravel(),
        )
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_one_step_episodes_the_other_estimates_equal_those_of_obp(obp: ModuleType, seed: int) -> None:
    log = random_log(seed)
    draws = bootstrap(len(log.actions), num_resamples=2)
    model = {"action_dist": log.target[:, 0, :, None], "estimated_rewards_by_reg_model": log.q[:, 0, :, None]}
    given_log = {"reward": log.rewards[:, 0], "action": log.actions[:, 0], "pscore": log.of_logged(log.logging)[:, 0]}
    ours = (log.rewards, log.ratios, log.of_logged(log.q), log.v_target, draws)
    assert direct_method(log.v_target, draws).value == pytest.approx(obp.DirectMethod().estimate_policy_value(**model))
    pairs = [
        (weighted_doubly_robust(*ours, discount=0.9), obp.SelfNormalizedDoublyRobust()),
        (doubly_robust(*ours, discount=0.9, shape=switched(1.5)), obp.SwitchDoublyRobust(lambda_=1.5)),
        (doubly_robust(*ours, discount=0.9, shape=shrunk(2.0)), obp.DoublyRobustWithShrinkage(lambda_=2.0)),
    ]
    for found, reference in pairs:
        assert found.value == pytest.approx(reference.estimate_policy_value(**given_log, **model), rel=1e-9)
    plain = doubly_robust(*ours, discount=0.9).value
    assert len({round(found.value, 6) for found, _ in pairs} | {round(plain, 6)}) == 4


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_on_pages_estimates_equal_those_of_obp_for_slates(obp_slate: ModuleType, seed: int) -> None:
    places = 3
    log = random_log(seed, horizon=places)
    draws, (num_pages, _) = bootstrap(len(log.actions), num_resamples=2), log.rewards.shape
    logged, target = log.of_logged(log.logging), log.of_logged(log.target)
    whole = np.ones((1, places))
    common = {
        "slate_id": np.repeat(np.arange(num_pages), places),
        "position": np.tile(np.arange(places), num_pages),
        "reward": log.rewards.ravel(),
    }
    of_page = {
        "pscore": (logged.prod(axis=1)[:, None] * whole).ravel(),
        "evaluation_policy_pscore": (target.prod(axis=1)[:, None] * whole).ravel(),
    }
    reference = obp_slate.SlateStandardIPS(len_list=places)
    assert slates.standard(log.rewards, log.ratios, draws).value == pytest.approx(
        reference.estimate_policy_value(**common, **of_page)
    )
    reference = obp_slate.SlateIndependentIPS(len_list=places)
    assert slates.independent(log.rewards, log.ratios, draws).value == pytest.approx(
        reference.estimate_policy_value(
            **common,
            pscore_item_position=logged.ravel(),
            evaluation_policy_pscore_item_position=target.ravel(),
        )
    )
    reference = obp_slate.SlateRewardInteractionIPS(len_list=places)
    assert slates.cascade(log.rewards, log.ratios, draws).value == pytest.approx(
        reference.estimate_policy_value(
            **common,
            pscore_cascade=np.cumprod(logged, axis=1).ravel(),
            evaluation_policy_pscore_cascade=np.cumprod(target, axis=1).ravel(),
        )
    )


def test_the_pseudo_inverse_is_exact_where_a_pages_reward_is_a_sum_over_its_places() -> None:
    logging, target = np.array([[0.5, 0.5], [0.25, 0.75]]), np.array([[0.9, 0.1], [0.3, 0.7]])  # place, item
    worth = np.array([[1.0, 3.0], [2.0, 6.0]])
    pages = [
        (first, second)
        for first in (0, 1)
        for second in (0, 1)
        for _ in range(round(8 * logging[0, first] * logging[1, second]))
    ]
    rewards = np.array([[worth[0, first], worth[1, second]] for first, second in pages])
    ratios = np.array([[(target / logging)[0, first], (target / logging)[1, second]] for first, second in pages])
    truth = (target * worth).sum()
    for found in (slates.pseudo_inverse, slates.independent, slates.standard, slates.cascade):
        assert found(rewards, ratios, bootstrap(len(pages))).value == pytest.approx(truth)


def test_whole_episodes_are_weighed_as_worked_by_hand() -> None:
    rewards, ratios, _, _ = matrices([(1, 0), (0,)])
    weights, returns = [0.8 / 0.5 * 0.9 / 0.25, 0.2 / 0.5], [2 + 0.5 * 8, 1]
    whole = trajectory_is(rewards, ratios, bootstrap(2), discount=DISCOUNT)
    assert whole.value == pytest.approx(np.dot(weights, returns) / 2)
    normalised = trajectory_wis(rewards, ratios, bootstrap(2), discount=DISCOUNT)
    assert normalised.value == pytest.approx(np.dot(weights, returns) / sum(weights))
    per_decision = per_decision_is(rewards, ratios, bootstrap(2), discount=DISCOUNT)
    assert per_decision.value == pytest.approx((1.6 * 2 + 0.5 * weights[0] * 8 + 0.4) / 2)


def test_a_history_whose_weight_exceeded_the_switch_is_left_to_the_model_from_there_on() -> None:
    weights = np.array([[1.0, 5.0, 0.5], [2.0, 1.0, 3.0]])
    assert switched(3.0)(weights).tolist() == [[1, 0, 0], [2, 1, 3]]
    rewards, ratios = np.array([[1.0, 7.0, 9.0]]), np.array([[1.0, 5.0, 0.1]])
    q_logged, v_target = np.array([[0.5, 9.0, 9.0]]), np.array([[0.25, 4.0, 9.0]])
    found = doubly_robust(rewards, ratios, q_logged, v_target, bootstrap(1), discount=1.0, shape=switched(3.0))
    assert found.value == pytest.approx(0.25 + (1 - 0.5) + 4)


def test_marginal_weights_are_exact_where_states_are_and_vary_less_over_many_steps() -> None:
    """Two states that forget the past: a product of twelve ratios says nothing that the last one does not."""
    rng = np.random.default_rng(0)
    horizon, chance, wanted = 12, 0.5, 0.9
    found: dict[str, list[float]] = {"marginal": [], "product": []}
    for _ in range(40):
        actions = (rng.random((400, horizon)) < chance).astype(int)
        states = np.hstack([np.zeros((400, 1), int), actions[:, :-1]])  # the state is the action before
        ratios = np.where(actions == 1, wanted / chance, (1 - wanted) / (1 - chance))
        rewards = (actions * (1 + states)).astype(float)
        draws = bootstrap(400, num_resamples=2)
        found["marginal"].append(weighed(rewards, marginal(ratios, states), draws, discount=1.0).value)
        found["product"].append(per_decision_is(rewards, ratios, draws, discount=1.0).value)
    truth = wanted * 1 + (horizon - 1) * wanted * (1 + wanted)
    error = {name: np.sqrt(np.mean((np.array(values) - truth) ** 2)) for name, values in found.items()}
    assert np.mean(found["marginal"]) == pytest.approx(truth, rel=0.02)
    assert error["marginal"] < 0.25 * error["product"]


def test_marginal_weights_of_states_that_tell_the_whole_past_are_the_products_of_ratios_over_their_mean() -> None:
    paths = [(1, 0), (1, 1), (0,), (1, 1)]
    _, ratios, _, _ = matrices(paths)
    cells = np.array([[0, 1 if len(path) > 1 else -1] for path in paths])
    expected = cumulative(ratios)  # one action alone leads to the second state
    assert marginal(ratios, cells) == pytest.approx(expected / expected.mean(axis=0))


def test_a_lower_bound_is_exceeded_with_its_confidence() -> None:
    rewards = np.random.default_rng(4).normal(size=(3000, 1))
    found = mean_return(rewards, Bootstrap(np.arange(3000)), discount=1.0)
    assert found.low < found.bound(0.95) < found.bound(0.5) < found.value + 0.01
    assert found.value - found.bound(0.95) == pytest.approx(1.645 / np.sqrt(3000), rel=0.1)
