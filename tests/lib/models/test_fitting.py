from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from lib.models.fitting import (
    EncoderPlan,
    Examples,
    State,
    TwoTowerPlan,
    epoch_generator,
    fit_encoder,
    fit_two_towers,
    joined,
    log_loss,
)
from lib.models.purchase_encoder import PurchaseEncoder, purchase_loss
from lib.models.tower_chunks import Chunks
from lib.models.two_tower import Pairs, TwoTower

ENCODER = {"num_epochs": 6, "patience": 6, "batch_size": 32, "learning_rate": 1e-2, "weight_decay": 0.0, "seed": 0}
TOWERS = TwoTowerPlan(num_epochs=4, batch_size=16, learning_rate=1e-2, seed=0)


class KilledError(Exception):
    """The worker's end, wherever it comes."""


def encoder_plan(**overrides: Any) -> EncoderPlan:
    return EncoderPlan(**(ENCODER | overrides))


def examples(seed: int, size: int = 100, *, noise: float = 0.0) -> Examples:
    """Users who buy where the first feature is high, some of them turned round."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(size, 4, generator=generator)
    labels = (features[:, 0] > 0.5) ^ (torch.rand(size, generator=generator) < noise)
    return Examples(features, labels.float())


def encoder(seed: int = 0) -> PurchaseEncoder:
    torch.manual_seed(seed)
    return PurchaseEncoder(4)


def towers(seed: int = 0) -> tuple[TwoTower, Chunks]:
    users, items = torch.arange(20).repeat_interleave(3), torch.arange(60) % 12
    weight = torch.ones(60, dtype=torch.float64)
    torch.manual_seed(seed)
    model = TwoTower(torch.zeros(12, 1, dtype=torch.int64), 4)
    pairs = Pairs(users, items, weight, weight)
    return model, Chunks([lambda: pairs], num_items=12, history_length=3)


def until_killed(kill_at: int, states: list[State]) -> Callable[[State], None]:
    """Keeps states as a trainer writes them, and dies once `kill_at` are kept."""

    def keep(state: State) -> None:
        states.append(state)
        if len(states) == kill_at:
            raise KilledError

    return keep


def same(a: State, b: State) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kill_at", [1, 3, 5])
def test_an_interrupted_encoder_goes_on_to_the_same_weights(kill_at: int) -> None:
    train, valid, plan = examples(0), examples(1), encoder_plan()
    whole = fit_encoder(encoder(), train, valid, plan)
    states: list[State] = []
    with pytest.raises(KilledError):
        fit_encoder(encoder(), train, valid, plan, keep=until_killed(kill_at, states))
    resumed = fit_encoder(encoder(seed=99), train, valid, plan, state=states[-1], keep=states.append)
    assert [state["epoch"] for state in states] == [1, 2, 3, 4, 5, 6]
    assert same(resumed["model"], whole["model"])
    assert same(resumed["best"], whole["best"])
    assert resumed["best_loss"] == whole["best_loss"]


@pytest.mark.parametrize("kill_at", [1, 3])
def test_interrupted_towers_go_on_to_the_same_weights(kill_at: int) -> None:
    whole = fit_two_towers(*towers(), TOWERS, num_batches=5)
    states: list[State] = []
    with pytest.raises(KilledError):
        fit_two_towers(*towers(), TOWERS, num_batches=5, keep=until_killed(kill_at, states))
    resumed = fit_two_towers(*towers(seed=99), TOWERS, num_batches=5, state=states[-1])
    assert same(resumed["model"], whole["model"])
    assert resumed["loss"] == whole["loss"]


def test_a_finished_fit_that_is_taken_up_trains_no_further() -> None:
    train, valid, plan = examples(0), examples(1), encoder_plan(num_epochs=2)
    whole = fit_encoder(encoder(), train, valid, plan)
    again: list[State] = []
    assert same(fit_encoder(encoder(9), train, valid, plan, state=whole, keep=again.append)["best"], whole["best"])
    assert again == []


def test_kept_states_do_not_change_with_later_epochs() -> None:
    states: list[State] = []
    fit_encoder(encoder(), examples(0), examples(1), encoder_plan(), keep=states.append)
    first = {name: value.clone() for name, value in states[0]["model"].items()}
    assert same(states[0]["model"], first)
    assert not same(states[0]["model"], states[1]["model"])


def test_the_epoch_with_the_lowest_validation_loss_wins_and_patience_ends_the_fit() -> None:
    # Noise alone: the training loss falls while the validation loss soon rises.
    train, valid = examples(0, 60, noise=0.5), examples(1, 200, noise=0.5)
    states: list[State] = []
    last = fit_encoder(encoder(), train, valid, encoder_plan(num_epochs=50, patience=3), keep=states.append)
    losses = [state["valid_loss"] for state in states]
    best = min(range(len(losses)), key=losses.__getitem__)
    assert last["best_epoch"] == best + 1
    assert last["epoch"] == best + 1 + 3 < 50
    assert same(last["best"], states[best]["model"])


def test_without_validation_examples_the_training_loss_decides() -> None:
    none = Examples(torch.zeros(0, 4), torch.zeros(0))
    states: list[State] = []
    fit_encoder(encoder(), examples(0), none, encoder_plan(num_epochs=2), keep=states.append)
    model = encoder()
    model.load_state_dict(states[-1]["model"])
    assert states[-1]["valid_loss"] == pytest.approx(log_loss(model, examples(0)), rel=1e-6)


def test_the_log_loss_of_shares_adds_up_to_that_of_the_whole() -> None:
    model, whole = encoder(), examples(0, 101)
    sums: list[torch.Tensor] = []
    for rank in (0, 1):
        share = Examples(whole.features[rank::2], whole.labels[rank::2])
        log_loss(model, share, total=lambda tensor: sums.append(tensor) or tensor)
    with torch.no_grad():
        expected = purchase_loss(model(whole.features), whole.labels).item()
    assert log_loss(model, Examples(whole.features[:1], whole.labels[:1]), total=lambda _: sum(sums)) == pytest.approx(
        expected, rel=1e-6
    )
    assert log_loss(model, Examples(torch.zeros(0, 4), torch.zeros(0))) is None


def test_examples_are_joined_and_those_of_an_empty_split_add_nothing() -> None:
    one, other = examples(0, 3), examples(1, 2)
    both = joined(one, other)
    assert both.features.tolist() == [*one.features.tolist(), *other.features.tolist()]
    assert both.labels.tolist() == [*one.labels.tolist(), *other.labels.tolist()]
    assert joined(one, Examples(torch.zeros(0, 0), torch.zeros(0))) == one
    assert both.first(3).features.tolist() == one.features.tolist()
    assert len(both.first(0).labels) == 0


def test_a_wrapped_model_is_trained_through_its_wrapper() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module, self.num_calls = module, 0

        def forward(self, *tensors: torch.Tensor) -> Any:
            self.num_calls += 1
            return self.module(*tensors)

    plan, wrapped = encoder_plan(num_epochs=2), Wrapper(encoder())
    state = fit_encoder(wrapped, examples(0), examples(1), plan)
    assert wrapped.num_calls == 2 * 4  # 100 examples in batches of 32; validation goes past the wrapper
    assert same(state["best"], fit_encoder(encoder(), examples(0), examples(1), plan)["best"])


def test_chance_differs_by_epoch_and_worker_and_repeats_with_the_seed() -> None:
    drawn = {
        (seed, epoch, rank): torch.rand(1, generator=epoch_generator(seed, epoch, rank)).item()
        for seed in (0, 1)
        for epoch in (1, 2, 3)
        for rank in (0, 1, 2)
    }
    assert len(set(drawn.values())) == len(drawn)
    assert drawn[0, 2, 1] == torch.rand(1, generator=epoch_generator(0, 2, 1)).item()
