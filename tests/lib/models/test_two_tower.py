import math

import pytest
import torch

from lib.models.two_tower import Pairs, PairSampler, TwoTower, sampled_softmax_loss, train_epoch

NO_TAGS = torch.zeros(3, 1, dtype=torch.int64)


def pairs(*rows: tuple[int, int, float, float]) -> Pairs:
    """Rows of user, item, history weight, target weight."""
    user, item, history_weight, target_weight = zip(*rows, strict=True)
    return Pairs(
        torch.tensor(user),
        torch.tensor(item),
        torch.tensor(history_weight, dtype=torch.float64),
        torch.tensor(target_weight, dtype=torch.float64),
    )


def towers(item_weight: list[list[float]], item_tags: torch.Tensor = NO_TAGS) -> TwoTower:
    """Two towers with these item embeddings and tag embeddings of zeros."""
    model = TwoTower(item_tags, len(item_weight[0]))
    with torch.no_grad():
        model.item.weight.copy_(torch.tensor(item_weight))
        model.tag.weight.zero_()
    return model


def test_an_items_vector_is_its_own_plus_those_of_its_tags() -> None:
    model = towers([[1.0, 0.0], [0.0, 1.0]], torch.tensor([[1, 2], [2, 0]]))
    with torch.no_grad():
        model.tag.weight[1:] = torch.tensor([[10.0, 0.0], [0.0, 100.0]])
        assert model.item_vectors(torch.tensor([1, 0, 1])).tolist() == [[0, 101], [11, 100], [0, 101]]


def test_a_users_vector_is_the_weighted_mean_of_the_history_and_of_nobody_elses() -> None:
    model = towers([[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]])
    both = pairs((0, 0, 3.0, 1.0), (0, 1, 1.0, 1.0), (1, 2, 0.5, 1.0))
    assert model.user_vectors(both, 2).tolist() == [[3.0, 2.0], [1.0, 1.0]]
    alone = pairs((0, 1, 1.0, 1.0), (0, 0, 3.0, 1.0))
    assert model.user_vectors(alone, 1).tolist() == [[3.0, 2.0]]


def test_a_target_is_taken_out_of_its_own_history() -> None:
    model = towers([[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]])
    targets, history = torch.tensor([0, 1, 2]), torch.tensor([[0, 1, 2], [0, 0, 0], [2, 2, 2]])
    users, items = model(targets, history)
    assert users.tolist() == [[0.5, 4.5], [4.0, 0.0], [0.0, 0.0]]  # the third has nothing left
    assert items.tolist() == [[4.0, 0.0], [0.0, 8.0], [1.0, 1.0]]


def test_the_loss_corrects_logits_by_how_often_an_item_is_drawn() -> None:
    users, items = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[math.log(2), 0.0], [0.0, math.log(3)]])
    log_q = torch.tensor([0.5, 0.25]).log()
    # User 0: exp(log 2)/q0 = 4 against exp(0)/q1 = 4; user 1: exp(0)/q0 = 2 against exp(log 3)/q1 = 12.
    expected = -(math.log(4 / 8) + math.log(12 / 14)) / 2
    assert sampled_softmax_loss(users, items, log_q).item() == pytest.approx(expected)


def learned_shares(truth: torch.Tensor, log_q: torch.Tensor) -> list[float]:
    """Softmax of the scores of items that are drawn by `truth` and foretold for one and the same user."""
    item_of = torch.zeros(len(truth), 1, requires_grad=True)
    optimizer = torch.optim.Adam([item_of], lr=0.02)
    generator = torch.Generator().manual_seed(0)
    late = []
    for step in range(600):
        targets = torch.multinomial(truth, 64, replacement=True, generator=generator)
        loss = sampled_softmax_loss(torch.ones(64, 1), item_of[targets], log_q[targets])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        late += [item_of.detach()[:, 0].softmax(0)] if step >= 300 else []
    return torch.stack(late).mean(dim=0).tolist()


def test_corrected_scores_recover_how_likely_each_item_is_and_uncorrected_ones_do_not() -> None:
    truth = torch.tensor([0.5, 0.3, 0.15, 0.05])
    assert learned_shares(truth, truth.log()) == pytest.approx(truth.tolist(), abs=0.03)
    assert learned_shares(truth, torch.zeros(4)) == pytest.approx([0.25] * 4, abs=0.03)


def test_pairs_are_drawn_by_target_weight_and_histories_by_history_weight() -> None:
    drawn_from = pairs((0, 0, 1.0, 1.0), (0, 1, 3.0, 2.0), (1, 2, 7.0, 5.0))
    sampler = PairSampler(drawn_from, num_items=4, history_length=2)
    targets, history = sampler.draw(40_000, torch.Generator().manual_seed(0))
    shares = torch.bincount(targets, minlength=4) / len(targets)
    assert shares.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8, 0], abs=0.01)
    assert sampler.q.tolist() == pytest.approx([1 / 8, 2 / 8, 5 / 8, 0])
    assert history.shape == (40_000, 2)
    assert (history[targets == 2] == 2).all()  # nobody else's history
    of_user_0 = torch.bincount(history[targets < 2].ravel(), minlength=4) / history[targets < 2].numel()
    assert of_user_0.tolist() == pytest.approx([1 / 4, 3 / 4, 0, 0], abs=0.01)


def test_a_history_that_is_long_past_is_still_drawn() -> None:
    sampler = PairSampler(pairs((0, 0, 1e6, 1.0), (1, 1, 1e-9, 1.0), (1, 2, 3e-9, 1.0)), num_items=3, history_length=1)
    targets, history = sampler.draw(8_000, torch.Generator().manual_seed(0))
    of_user_1 = history[targets > 0]
    assert (of_user_1 == 2).float().mean().item() == pytest.approx(3 / 4, abs=0.03)


def test_planted_tastes_are_found_and_tags_carry_them_to_rarely_seen_items() -> None:
    # Two tastes with 10 items each; item 9 and item 19 are seen once, but carry the tag of their kind.
    generator = torch.Generator().manual_seed(0)
    rows = []
    for user in range(60):
        first = 10 * (user % 2)
        own = sorted((first + torch.randperm(9, generator=generator)[:5]).tolist())
        own += [first + 9] if user < 2 else []
        rows += [(user, item, 1.0, 1.0) for item in own]
    known = pairs(*rows)
    torch.manual_seed(0)
    model = TwoTower(torch.tensor([[1]] * 10 + [[2]] * 10), 8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    sampler = PairSampler(known, num_items=20, history_length=4)
    losses = [
        train_epoch(model, optimizer, sampler, batch_size=64, num_batches=20, generator=generator) for _ in range(6)
    ]
    assert losses[-1] < losses[0]
    with torch.no_grad():
        scores = model.user_vectors(known, 60) @ model.item_vectors(torch.arange(20)).T
    of_own_taste, of_other = scores[0::2, :10], scores[0::2, 10:]
    assert (of_own_taste.min(dim=1).values > of_other.max(dim=1).values).all()
    assert torch.equal(model.tag.weight[0], torch.zeros(8))


def test_towers_take_the_weights_of_items_that_others_know_and_those_of_all_tags() -> None:
    other = towers([[1.0, 2.0], [3.0, 4.0]], torch.tensor([[1], [2]]))
    with torch.no_grad():
        other.tag.weight[1:] = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    own = TwoTower(torch.tensor([[2], [1], [1]]), 2, num_tags=2)
    unknown = own.item.weight[1].tolist()
    own.take(other.state_dict(), torch.tensor([1, -1, 0]))
    assert own.item.weight.tolist() == [[3.0, 4.0], unknown, [1.0, 2.0]]
    assert own.tag.weight.tolist() == [[0.0, 0.0], [5.0, 6.0], [7.0, 8.0]]
    assert own.item_tags.tolist() == [[2], [1], [1]]
