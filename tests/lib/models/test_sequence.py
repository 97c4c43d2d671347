"""The sequence model: what it may see, what it is taught, what it answers, and that an interrupted fit ends alike."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from lib.models import sequence_weights
from lib.models.fitting import State
from lib.models.sequence import (
    NO_TARGET,
    NUM_LATER,
    Batch,
    Negatives,
    PieceSampler,
    SequenceModel,
    Sequences,
    weights_of,
)
from lib.models.sequence_fit import SequencePlan, fit_sequence, rate_at
from lib.models.sequence_weights import LATER, NEXT

SIZES = {"num_dimensions": 8, "num_blocks": 2, "num_heads": 2, "length": 6, "dropout": 0.1}
NAMES = tuple("abcdefghijkl")
PLAN = SequencePlan(num_epochs=3, num_batches=4, learning_rate=1e-2, weight_decay=0.0, num_negatives=5, seed=0)


class KilledError(Exception):
    """The worker's end, wherever it comes."""


def model_of(num_items: int = 12, seed: int = 0, **sizes: float) -> SequenceModel:
    torch.manual_seed(seed)
    model = SequenceModel(num_items, **(SIZES | sizes))  # type: ignore[arg-type]
    torch.nn.init.normal_(model.later.weight)
    return model


def sequences_of(*users: list[list[int]]) -> Sequences:
    """Users, each with visits of item numbers; all events weigh the same."""
    items = [item for visits in users for visit in visits for item in visit]
    lengths = [sum(map(len, visits)) for visits in users]
    visits = [len(visit) for visits in users for visit in visits]
    ends = np.repeat(np.cumsum(visits), visits)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(
        *(torch.tensor(part) for part in (items, starts, ends)), torch.ones(len(items), dtype=torch.float64)
    )


def cycles(num_users: int, num_items: int, num_events: int) -> Sequences:
    """Users who each go round all items, in visits of three events, beginning anywhere."""
    walks = [[(user + step) % num_items + 1 for step in range(num_events)] for user in range(num_users)]
    return sequences_of(*([walk[at : at + 3] for at in range(0, num_events, 3)] for walk in walks))


def test_a_later_event_changes_no_earlier_state_and_no_gradient_flows_back() -> None:
    model = model_of().eval()
    items = torch.tensor([[3, 1, 4, 1, 5, 9]])
    moved = items.clone()
    moved[0, 4] = 2
    before, after = model.states(items), model.states(moved)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(dim=2).all()
    before[0, 2, 0].backward()
    assert model.item.weight.grad is not None
    reached = set(np.flatnonzero(model.item.weight.grad.abs().sum(dim=1)).tolist())
    assert reached == {3, 1, 4}, "of the items so far alone"


def test_the_pure_function_says_what_the_network_says() -> None:
    model = model_of().eval()
    found = weights_of(model, NAMES)
    histories = [np.array(items) for items in ([1], [2, 3, 4], [5, 5, 5, 5, 5, 5], [9, 8, 7, 6, 5, 4, 3, 2, 1])]
    with torch.no_grad():
        states = torch.stack([model.states(torch.from_numpy(items[-6:])[None])[0, -1] for items in histories])
        later = states + model.later(states)
    np.testing.assert_allclose(found.vectors(histories, purpose=NEXT), states, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.vectors(histories, purpose=LATER), later, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.item_vectors, model.item.weight.detach()[1:])


def test_one_block_of_one_head_is_what_attention_gives_by_hand() -> None:
    """Two events; keys of zeros look at both alike, so the state is the event's embedding plus the mean of both values."""
    model = model_of(2, num_dimensions=2, num_blocks=1, num_heads=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.item.weight[1:] = torch.tensor([[3.0, 1.0], [1.0, 3.0]])  # normed: [1, -1] and [-1, 1]
        block = model.blocks[0]
        block.norm_1.weight.fill_(1.0)  # type: ignore[union-attr, operator]
        block.attention.weight[4:] = 4 * torch.eye(2)  # type: ignore[union-attr, index]
        block.projection.weight.copy_(torch.eye(2))  # type: ignore[union-attr, operator]
        model.norm.weight.fill_(1.0)
    vectors = weights_of(model, ("a", "b")).vectors([np.array([1]), np.array([1, 2])], purpose=NEXT)
    # After a: [3, 1] + [4, -4] = [7, -3], normed [1, -1]. After a, b: [1, 3] + ([4, -4] + [-4, 4]) / 2 = [1, 3], normed [-1, 1].
    np.testing.assert_allclose(vectors, [[1, -1], [-1, 1]], atol=1e-4)


def test_the_loss_over_all_items_is_the_cross_entropy_and_that_over_drawn_ones_comes_to_it() -> None:
    model = model_of().eval()
    batch = Batch(
        torch.tensor([[1, 2, 3], [4, 5, 0]]),
        torch.tensor([[2, 3, 7], [5, 1, NO_TARGET]]),
        torch.zeros(0, 2, dtype=torch.int64),
        torch.zeros(0, NUM_LATER, dtype=torch.int64),
    )
    with torch.no_grad():
        states = model.states(batch.items)[batch.next_items != NO_TARGET]
        expected = F.cross_entropy(states @ model.item.weight[1:].T, torch.tensor([2, 3, 7, 5, 1]) - 1).item()
        assert model(batch, None).item() == pytest.approx(expected, rel=1e-5)
        generator = torch.Generator().manual_seed(0)
        often = PieceSampler(sequences_of([[1] * 90, [2] * 10]), length=3, horizon=2)
        drawn = often.negatives(20_000, 12, generator)
        counts = torch.bincount(drawn.items, minlength=13) / 20_000
        assert counts[1:4].tolist() == pytest.approx([0.5 / 12 + 0.45, 0.5 / 12 + 0.05, 0.5 / 12], abs=0.01)
        assert model(batch, drawn).item() == pytest.approx(expected, abs=0.05)
        of_one = Negatives(torch.full((4,), 2), torch.zeros(4))
        assert math.isfinite(model(batch, of_one).item()), "the target alone is drawn"


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4), min_size=1),
    st.integers(1, 5),
    st.integers(0, 99),
)
def test_pieces_teach_each_event_what_came_next_and_what_came_in_later_visits(
    users: list[list[list[int]]], num_batches: int, seed: int
) -> None:
    # The first event of each user is told apart, so that a sequence may be known by it.
    walks = [[item for visit in visits for item in visit] for visits in users]
    if max(map(len, walks)) < 2:
        return
    sampler = PieceSampler(sequences_of(*users), length=3, horizon=2)
    batches = sampler.batches(num_batches, torch.Generator().manual_seed(seed))
    assert len(batches) == num_batches
    pairs = {(walk[at], walk[at + 1]) for walk in walks for at in range(len(walk) - 1)}
    taught = []
    for batch in batches:
        assert 1 <= batch.items.shape[1] <= 3
        there = batch.items > 0
        assert torch.equal(there, batch.next_items != NO_TARGET)
        taught += list(zip(batch.items[there].tolist(), batch.next_items[there].tolist(), strict=True))
    assert set(taught) == pairs
    if sum(len(walk) > 1 for walk in walks) >= num_batches:
        assert len(taught) == sum(len(walk) - 1 for walk in walks), "each once"
    may_follow = {
        (visit[-1], later)
        for visits in users
        for number, visit in enumerate(visits)
        for later in [item for after in visits[number + 1 :] for item in after][:2]
    }
    for batch in batches:
        ended = batch.items[batch.ends[:, 0], batch.ends[:, 1]]
        for item, following in zip(ended.tolist(), batch.later_items.tolist(), strict=True):
            assert {(item, later) for later in following} <= may_follow


def test_events_of_later_visits_are_drawn_by_their_weight() -> None:
    sequences = sequences_of([[1], [2, 3, 4]])._replace(weight=torch.tensor([1.0, 0.1, 0.9, 5.0], dtype=torch.float64))
    sampler = PieceSampler(sequences, length=9, horizon=2)  # of 2 and 3
    drawn = [
        sampler.batches(1, torch.Generator().manual_seed(seed))[0].later_items.ravel().tolist() for seed in range(100)
    ]
    found = np.bincount(np.ravel(drawn), minlength=5)
    assert found[[0, 1, 4]].tolist() == [0, 0, 0]
    assert found[3] / found.sum() == pytest.approx(0.9, abs=0.05)


def test_a_planted_order_is_learned_far_beyond_popularity_for_somebody_never_seen() -> None:
    model = model_of(num_dimensions=16)
    plan = SequencePlan(num_epochs=12, num_batches=10, learning_rate=2e-2, weight_decay=0.0, num_negatives=50, seed=0)
    fit_sequence(model, PieceSampler(cycles(24, 12, 18), length=6, horizon=3), plan)
    weights = weights_of(model, NAMES)
    stranger = np.array([6, 7])  # nobody's whole history
    scores = weights.item_vectors @ weights.vectors([stranger], purpose=NEXT)[0]
    assert scores.argmax() == 7, "8, which comes after 7; all twelve are equally popular"
    found = weights.vectors([np.array([item]) for item in range(1, 13)], purpose=NEXT) @ weights.item_vectors.T
    assert (found.argmax(axis=1) == np.arange(1, 13) % 12).mean() >= 0.9


def test_a_model_of_more_items_takes_the_weights_of_one_of_fewer_by_their_names() -> None:
    fewer, more = model_of(2), model_of(3, seed=1)
    own = more.item.weight.detach()[2].clone()
    more.take(fewer.state_dict(), ("a", "c"), own_ids=("a", "b", "c"))
    taken = more.item.weight.detach()
    assert torch.equal(taken[[1, 3]], fewer.item.weight.detach()[[1, 2]]) and torch.equal(taken[2], own)
    assert torch.equal(more.later.weight, fewer.later.weight)


@pytest.mark.parametrize("kill_at", [1, 2])
def test_a_fit_that_is_killed_and_resumed_has_the_weights_of_one_that_was_not(kill_at: int, tmp_path: Path) -> None:
    sampler = PieceSampler(cycles(8, 12, 12), length=6, horizon=3)
    whole = fit_sequence(model_of(), sampler, PLAN)
    states: list[State] = []

    def keep(state: State) -> None:
        states.append(state)
        if len(states) == kill_at:
            torch.save(state, tmp_path / "state.pt")
            raise KilledError

    with pytest.raises(KilledError):
        fit_sequence(model_of(), sampler, PLAN, keep=keep)
    stored = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = fit_sequence(model_of(seed=7), sampler, PLAN, state=stored)
    assert resumed["epoch"] == whole["epoch"] == 3
    for name, weight in whole["model"].items():
        assert torch.equal(resumed["model"][name], weight), name


def test_the_learning_rate_grows_over_a_tenth_of_the_steps_and_falls_to_its_end() -> None:
    rates = [rate_at(step, 100) for step in range(100)]
    assert rates[:2] == pytest.approx([0.1, 0.2])
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] == pytest.approx(0.02)
    assert rate_at(0, 1) == 1.0


def test_weights_are_stored_and_loaded_again_without_the_job(tmp_path: Path) -> None:
    stored = weights_of(model_of(), NAMES)
    sequence_weights.save(stored, tmp_path, "fit", tables={})
    loaded = sequence_weights.load(tmp_path, "fit")
    assert (loaded.item_ids, loaded.num_heads, loaded.length) == (NAMES, 2, 6)
    history = [np.array([1, 2, 3])]
    np.testing.assert_array_equal(loaded.vectors(history, purpose=NEXT), stored.vectors(history, purpose=NEXT))


def test_weights_that_are_cut_off_or_missing_are_refused(tmp_path: Path) -> None:
    file = sequence_weights.save(weights_of(model_of(), NAMES), tmp_path, "fit", tables={})
    with pytest.raises(sequence_weights.UNREADABLE):
        sequence_weights.load(tmp_path, "other")
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(sequence_weights.UNREADABLE):
        sequence_weights.load(tmp_path, "fit")


def test_one_user_of_one_item_is_fitted_and_answered() -> None:
    model = model_of(1)
    state = fit_sequence(model, PieceSampler(sequences_of([[1], [1]]), length=6, horizon=3), PLAN)
    assert math.isfinite(state["loss"])
    assert np.isfinite(weights_of(model, ("a",)).vectors([np.array([1])], purpose=LATER)).all()
