from collections.abc import Callable

import pytest
import torch

from lib.models.fitting import State, TwoTowerPlan, fit_two_towers
from lib.models.tower_chunks import Chunks
from lib.models.two_tower import Pairs, PairSampler, TwoTower

NUM_ITEMS = 6


def pairs(*rows: tuple[int, int, float]) -> Pairs:
    """Rows of user, item, and both weights."""
    user, item, weight = (torch.tensor(column) for column in zip(*rows, strict=True))
    return Pairs(user, item, weight.double(), weight.double())


def no_pairs() -> Pairs:
    none = torch.zeros(0, dtype=torch.int64)
    return Pairs(none, none, none.double(), none.double())


# Targets weigh 1, 3 and 4.
WHOLE = [
    pairs((0, 0, 0.5), (0, 1, 0.5)),
    pairs((0, 2, 1.0), (0, 3, 1.0), (1, 0, 1.0)),
    pairs((0, 4, 3.0), (0, 5, 1.0)),
]


class Log:
    """Chunks that say which of them was loaded."""

    def __init__(self, chunks: list[Pairs]) -> None:
        self.chunks, self.loaded = chunks, list[int]()

    def load(self, number: int) -> Callable[[], Pairs]:
        def loaded() -> Pairs:
            self.loaded.append(number)
            return self.chunks[number]

        return loaded

    def open(self) -> Chunks:
        loads = [self.load(number) for number in range(len(self.chunks))]
        return Chunks(loads, num_items=NUM_ITEMS, history_length=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_how_likely_an_item_is_drawn_is_counted_over_all_chunks() -> None:
    chunks = Log(WHOLE).open()
    assert (8 * chunks.q).tolist() == [1.5, 0.5, 1, 1, 3, 1]
    assert chunks.over([0]).q is chunks.q


def test_an_epoch_passes_over_all_chunks_once_by_their_weight_and_loads_each_once() -> None:
    log = Log([*WHOLE, no_pairs()])
    chunks = log.open()
    log.loaded.clear()
    chunks.held = None
    order = chunks.order(16, generator())
    assert [order.count(number) for number in range(4)] == [2, 6, 8, 0]
    draws = chunks.over(order)
    for number in order:
        targets, _ = draws.draw(5, generator())
        assert set(targets.tolist()) <= set(WHOLE[number].item.tolist())
    assert sorted(log.loaded) == [0, 1, 2]
    assert len({tuple(dict.fromkeys(chunks.order(16, generator(seed)))) for seed in range(30)}) == 6, "every order"


def test_few_batches_are_shared_out_by_chance_so_that_over_epochs_the_weights_hold() -> None:
    chunks, rng = Log(WHOLE).open(), generator()
    counts = torch.zeros(3)
    for _ in range(4000):
        order = chunks.order(1, rng)
        assert len(order) == 1
        counts[order[0]] += 1
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 8, 3 / 8, 4 / 8], abs=0.03)


def test_one_chunk_draws_what_its_sampler_draws() -> None:
    chunks = Log(WHOLE[1:2]).open()
    sampler = PairSampler(WHOLE[1], num_items=NUM_ITEMS, history_length=2)
    assert torch.equal(chunks.q, sampler.q)
    for found, expected in zip(chunks.over([0]).draw(9, generator(3)), sampler.draw(9, generator(3)), strict=True):
        assert torch.equal(found, expected)


def test_one_chunk_is_held_at_a_time() -> None:
    held: list[int] = []

    def load(number: int) -> Callable[[], Pairs]:
        def loaded() -> Pairs:
            held.append(0 if chunks is None or chunks.held is None else len(chunks.held[1].pairs.user))
            return WHOLE[number]

        return loaded

    chunks: Chunks | None = None
    chunks = Chunks([load(number) for number in range(3)], num_items=NUM_ITEMS, history_length=2)
    for number in (0, 2, 1):
        chunks.sampler(number)
    assert held == [0] * 6, "nothing is held while another is loaded"


class KilledError(Exception):
    """The worker's end."""


def until(num_kept: int, states: list[State]) -> Callable[[State], None]:
    def keep(state: State) -> None:
        states.append(state)
        if len(states) == num_kept:
            raise KilledError

    return keep


def towers(seed: int = 0, *, is_sparse: bool) -> TwoTower:
    torch.manual_seed(seed)
    return TwoTower(torch.tensor([[1], [2]] * 3), 4, is_sparse=is_sparse)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("kill_at", [1, 2, 3, 5])
def test_a_fit_that_is_killed_in_the_middle_of_an_epoch_goes_on_to_the_same_weights(
    kill_at: int, is_sparse: bool
) -> None:
    plan = TwoTowerPlan(num_epochs=2, batch_size=4, learning_rate=0.1, seed=0, num_parts=3)
    whole: list[State] = []
    model = towers(is_sparse=is_sparse)
    fit_two_towers(model, Log(WHOLE).open(), plan, num_batches=7, keep=whole.append)
    states: list[State] = []
    with pytest.raises(KilledError):
        killed = towers(is_sparse=is_sparse)
        fit_two_towers(killed, Log(WHOLE).open(), plan, num_batches=7, keep=until(kill_at, states))
    again = towers(99, is_sparse=is_sparse)
    fit_two_towers(again, Log(WHOLE).open(), plan, num_batches=7, state=states[-1], keep=states.append)
    assert [(state["epoch"], state["part"]) for state in states] == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]
    assert torch.equal(again.item.weight, model.item.weight)
    assert torch.equal(again.tag.weight, model.tag.weight)
    assert states[-1]["curves"] == whole[-1]["curves"]
    assert len(states[-1]["curves"]["loss"]) == 2, "one an epoch"


@pytest.mark.parametrize("is_sparse", [False, True])
def test_one_user_with_one_item_is_fitted(is_sparse: bool) -> None:
    torch.manual_seed(0)
    model = TwoTower(torch.zeros(1, 1, dtype=torch.int64), 4, is_sparse=is_sparse)
    only = Chunks([lambda: pairs((0, 0, 1.0)), no_pairs], num_items=1, history_length=2)
    plan = TwoTowerPlan(num_epochs=1, batch_size=2, learning_rate=0.1, seed=0, num_parts=2)
    state = fit_two_towers(model, only, plan, num_batches=2)
    assert state["loss"] == pytest.approx(torch.tensor(2.0).log().item()), "the item twice is half of the batch"
    assert torch.isfinite(model.item.weight).all()


def test_sparse_gradients_hold_the_rows_of_a_batch_with_the_values_of_dense_ones() -> None:
    dense, sparse = towers(is_sparse=False), towers(is_sparse=True)
    targets, history = torch.tensor([0, 4]), torch.tensor([[4, 0, 1], [1, 1, 4]])
    for model in (dense, sparse):
        users, items = model(targets, history)
        (users * items + users * users[1]).sum().backward()
    assert sparse.item.weight.grad is not None
    assert sparse.item.weight.grad.coalesce().indices().tolist() == [[0, 1, 4]]
    for name in ("item", "tag"):
        own = getattr(sparse, name).weight.grad.to_dense()
        torch.testing.assert_close(own, getattr(dense, name).weight.grad)


def test_where_every_batch_touches_every_row_sparse_and_dense_gradients_give_the_same_weights() -> None:
    both = []
    for is_sparse in (False, True):
        model = TwoTower(torch.tensor([[1], [1]]), 2, is_sparse=is_sparse)
        with torch.no_grad():
            model.item.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
            model.tag.weight.copy_(torch.tensor([[0.0, 0.0], [0.5, 0.5]]))
        of_two = Chunks([lambda: pairs((0, 0, 1.0), (0, 1, 1.0))], num_items=2, history_length=4)
        fit_two_towers(model, of_two, TwoTowerPlan(2, batch_size=16, learning_rate=0.1, seed=0), num_batches=3)
        both.append(model)
    assert not torch.equal(both[0].item.weight, torch.eye(2))
    torch.testing.assert_close(both[1].item.weight, both[0].item.weight)
    torch.testing.assert_close(both[1].tag.weight, both[0].tag.weight)
