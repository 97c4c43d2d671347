import math
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
import torch

from lib.candidates import networks
from lib.candidates.examples import Examples, Pairs, joined, ndcg_of
from lib.candidates.features import FEATURES, GROUPS
from lib.candidates.network_fit import (
    Learned,
    NetworkPlan,
    RankingNetwork,
    epochs,
    listwise_loss,
    network_of,
    pointwise_loss,
    state_of,
)
from lib.candidates.networks import Network, Scaling, own_places, scaling_of, scaling_sums
from lib.candidates.ranker import load, moving_groups, ordinary, save
from tests.lib.candidates.test_ranker import planted

LISTWISE = NetworkPlan(listwise_loss, (16,), 0, 0.01, 0.01, 16, 8, 0)
NEURAL = NetworkPlan(pointwise_loss, (256, 128), 4, 0.003, 0.01, 16, 8, 0)
ITEMS = pa.array(["a", "b", "c"])
PLANS = pytest.mark.parametrize("plan", [LISTWISE, NEURAL], ids=["listwise", "neural"])


def fitted(examples: Examples, plan: NetworkPlan, *, num_epochs: int = 6) -> Network:
    *_, network = epochs(examples, replace(plan, num_epochs=num_epochs))
    return network


def of_taste(seed: int, *, num_users: int = 80, num_items: int = 8) -> Examples:
    """Features are noise; who had an item of the first half buys from it, and the same for the second."""
    rng = np.random.default_rng(seed)
    group, item = np.repeat(np.arange(num_users), num_items), np.tile(np.arange(num_items), num_users)
    half = rng.integers(2, size=num_users)
    had = half * (num_items // 2) + rng.integers(num_items // 2, size=num_users)
    label = (item // (num_items // 2) == half[group]).astype(np.int8)
    history = sp.csr_array((np.ones(num_users, np.float32), (np.arange(num_users), had)), shape=(num_users, num_items))
    features = rng.random((len(group), len(FEATURES))).astype(np.float32)
    ids = pa.array([f"i{number}" for number in range(num_items)])
    wanted = np.full((num_users, 2), num_items // 2)
    return Examples(features, label, np.ones(len(group), bool), group, wanted, Pairs(ids, group, item, history))


def test_the_loss_over_lists_is_the_cross_entropy_of_what_each_user_bought() -> None:
    scores = torch.tensor([math.log(2), 0.0, 0.0, 5.0, 1.0, 2.0])
    label = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    loss, count = listwise_loss(scores, label, torch.tensor([0, 0, 0, 1, 2, 2]), 3)
    # The first bought two of three, of softmax 1/2, 1/4 and 1/4; the second nothing; the third that of e / (e + e^2).
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2 + math.log(1 + math.e))
    assert count.item() == 2


def test_the_loss_over_lists_holds_with_scores_of_any_size_and_a_shift_of_a_users_scores_changes_nothing() -> None:
    label, user = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])
    scores = torch.tensor([1.0, 2.0, 3.0, 5.0])
    loss, _ = listwise_loss(scores, label, user, 2)
    shifted, _ = listwise_loss(scores + torch.tensor([1000.0, 1000.0, -1000.0, -1000.0]), label, user, 2)
    assert shifted.item() == pytest.approx(loss.item(), rel=1e-4)


def test_the_loss_of_each_candidate_is_binary_cross_entropy() -> None:
    scores, label = torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.0])
    loss, count = pointwise_loss(scores, label, torch.tensor([0, 0]), 1)
    assert loss.item() == pytest.approx(math.log(2) + math.log(4))
    assert count.item() == 2


def test_features_are_standardised_and_unknown_ones_are_told() -> None:
    """Squashed, the first are 0, 1 and unknown; the second is always the same, the third never known."""
    features = np.array([[0, 7, np.nan], [math.sinh(1), 7, np.nan], [np.nan, 7, np.inf]], np.float32)
    parts = [scaling_sums(features[:1]), scaling_sums(features[1:])]
    scaling = scaling_of(parts[0] + parts[1])
    deviation = 1 / math.sqrt(2)  # of known or not, by a share of 1/3: sqrt(2) / 3 is one of it
    inputs = scaling.inputs(features)
    assert scaling.num_inputs == 4
    np.testing.assert_allclose(inputs[:, 0], [-1, 1, 0], atol=1e-5)
    np.testing.assert_allclose(inputs[:, 3], [-deviation, -deviation, 2 * deviation], rtol=1e-4)
    assert (inputs[:, 1:3] == 0).all()
    later = np.array([[np.nan, 9, 5]], np.float32)
    assert (scaling.inputs(later)[:, :3] == 0).all()  # what said nothing while learning says nothing later


@PLANS
def test_numpy_scores_as_torch_does(plan: NetworkPlan) -> None:
    examples = of_taste(0)
    features = examples.features
    features[::3, 5] = np.nan
    examples = examples._replace(features=features)
    network = fitted(examples, plan, num_epochs=1)
    model = RankingNetwork(network.scaling.num_inputs, len(network.item_ids), plan)
    layers = {f"layers.{name}": torch.from_numpy(array) for name, array in network.layers.items()}
    model.load_state_dict({**layers, "item_vectors": torch.from_numpy(network.item_vectors)})
    learned = Learned(examples, network.scaling.inputs(features), only_buyers=False)
    users = np.arange(80)
    inputs, _, user, items, history = learned.batch(users)
    with torch.no_grad():
        expected = model(inputs, user, items, history).numpy()
    np.testing.assert_allclose(network.scores(features, examples.pairs), expected, rtol=1e-4, atol=1e-5)
    by_inputs = network.scores_of_inputs(network.scaling.inputs(features), examples.pairs)
    np.testing.assert_array_equal(by_inputs, network.scores(features, examples.pairs))
    assert expected.std() > 0


def test_the_listwise_network_learns_what_was_planted_and_says_which_group_moved_a_row() -> None:
    train, valid = planted(0, num_users=300), planted(1)
    network = fitted(train, LISTWISE, num_epochs=30)
    chance = ndcg_of(np.random.default_rng(2).random(len(valid.label)), valid)
    assert np.nanmean(ndcg_of(network.scores(valid.features), valid)) > np.nanmean(chance) + 0.3
    rows = np.full((2, len(FEATURES)), 0.5, np.float32)
    rows[0, FEATURES.index("ease")], rows[1, FEATURES.index("num_relevant")] = 0.95, 0.95
    moved = moving_groups(network, rows, network.scores(rows), ordinary(train.features))
    assert [GROUPS[place] for place in moved] == ["together", "bought"]


def test_the_neural_ranker_learns_from_vectors_what_no_feature_says_and_names_it_taste() -> None:
    train, valid = of_taste(0, num_users=300), of_taste(1)
    network = fitted(train, NEURAL, num_epochs=40)
    assert valid.pairs is not None
    scores = network.scores(valid.features, valid.pairs)
    assert ndcg_of(scores, valid).mean() > 0.95
    assert ndcg_of(network.scores(valid.features), valid).mean() < 0.85  # without who and what, it can but guess
    ann = np.flatnonzero((valid.group == 0) & (valid.label > 0))
    theirs = valid.features[ann], scores[ann], ordinary(train.features), valid.pairs.where(ann)
    assert {GROUPS[place] for place in moving_groups(network, *theirs)} == {"taste"}


def test_own_vectors_are_found_by_the_items_ids_and_a_history_is_their_mean() -> None:
    vectors = np.array([[1, 0], [0, 1], [4, 4]], np.float32)
    layers = {"0.weight": np.array([[1, 10, 100, 1000, 0]], np.float32), "0.bias": np.zeros(1, np.float32)}
    network = Network(Scaling(*np.zeros((3, 1), np.float32)), layers, ITEMS, vectors)
    history = sp.csr_array(np.array([[3, 1, 4], [0, 0, 9], [0, 0, 0]], np.float32))
    pairs = Pairs(pa.array(["b", "a", "new"]), np.array([0, 1, 2, 0]), np.array([0, 1, 2, -1]), history)
    # The first had b three times as much as a, and what is new counts nowhere; the others had nothing known.
    assert network.scores(np.zeros((4, 1), np.float32), pairs).tolist() == [
        0.25 + 7.5 + 1000,
        100,
        0,
        0.25 + 7.5,
    ]
    assert network.scores(np.zeros((2, 1), np.float32)).tolist() == [0, 0]
    whole, place = own_places(pairs, ITEMS)
    np.testing.assert_allclose(whole.todense(), [[0.25, 0.75, 0], [0, 0, 0], [0, 0, 0]])
    assert place.tolist() == [1, 0, -1]


@PLANS
def test_a_fit_goes_through_its_file_and_through_a_checkpoint(plan: NetworkPlan, tmp_path: Path) -> None:
    examples = of_taste(0)
    network = fitted(examples, plan, num_epochs=1)
    expected = network.scores(examples.features, examples.pairs)
    file = save(network, tmp_path, "ranker")
    assert file.is_file()
    torch.save(state_of(network), tmp_path / "state")
    kept = network_of(torch.load(tmp_path / "state", weights_only=True))
    for again in (load(tmp_path, "ranker"), kept):
        np.testing.assert_array_equal(again.scores(examples.features, examples.pairs), expected)
        assert again.num_parameters == network.num_parameters


@pytest.mark.bad_input("a checkpoint of another shape")
def test_a_file_that_is_cut_off_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    file = save(fitted(of_taste(0), NEURAL, num_epochs=1), tmp_path, "ranker")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"ranker\.safetensors holds no weights"):
        load(tmp_path, "ranker")
    networks.save_arrays(file, {"vectors": np.zeros(3)})
    with pytest.raises(ValueError, match=r"ranker\.safetensors holds no network that ranks: it lacks"):
        load(tmp_path, "ranker")
    with pytest.raises(OSError, match="elsewhere"):
        load(tmp_path / "elsewhere", "ranker")


@pytest.mark.bad_input("features that are not numbers")
@PLANS
def test_a_feature_that_is_never_known_and_users_who_bought_nothing_leave_a_network_that_scores(
    plan: NetworkPlan,
) -> None:
    examples = of_taste(0)
    features = np.full_like(examples.features, np.nan)
    features[:, 1] = np.arange(len(features))
    for label in (examples.label, np.zeros_like(examples.label)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            network = fitted(examples._replace(features=features, label=label), plan, num_epochs=2)
            assert np.isfinite(network.scores(features, examples.pairs)).all()
            assert np.isfinite(network.scores(np.full_like(features, np.nan), examples.pairs)).all()


def test_steps_fall_to_nothing_so_that_the_last_epoch_moves_a_network_least() -> None:
    examples = planted(0, num_users=150)
    scores = [network.scores(examples.features) for network in epochs(examples, LISTWISE)]
    moved = [float(np.abs(after - before).mean()) for before, after in pairwise(scores)]
    assert len(scores) == 8
    assert moved[-1] == min(moved) < moved[0] / 4


def test_the_same_seed_gives_the_same_network_and_users_without_a_purchase_change_no_loss_over_lists() -> None:
    examples, nobody = planted(0, num_users=40), planted(1, num_users=1)
    nobody = nobody._replace(label=np.zeros_like(nobody.label))
    one, again = (fitted(examples, LISTWISE, num_epochs=2) for _ in range(2))
    np.testing.assert_array_equal(one.scores(examples.features), again.scores(examples.features))
    other = fitted(examples, replace(LISTWISE, seed=1), num_epochs=2)
    assert (one.scores(examples.features) != other.scores(examples.features)).any()
    learned = Learned(joined([examples, nobody]), np.zeros((820, 1), np.float32), only_buyers=True)
    assert 40 not in learned.users.tolist()
