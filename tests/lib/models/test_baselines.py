import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from lib.models import baselines
from lib.models.baselines import PENALTIES, REFERENCE, TREES, fit_baselines, fit_trees, log_loss_of, probabilities
from lib.models.fitting import Examples, joined

NONE = Examples(torch.zeros(0, 4), torch.zeros(0))


def examples(seed: int, size: int = 400) -> Examples:
    """Users who buy more often the higher the first feature is; three others tell nothing."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(size, 4, generator=generator)
    bought = torch.rand(size, generator=generator) < 0.1 + 0.6 * features[:, 0]
    return Examples(features, bought.float())


def regression(known: Examples, penalty: float) -> LogisticRegression:
    return LogisticRegression(C=penalty, max_iter=1000).fit(known.features.double(), known.labels)


def test_the_penalty_is_the_best_on_valid_and_the_fit_that_serves_knows_valid_too() -> None:
    train, valid = examples(0), examples(1)
    fits = fit_baselines(train, valid, seed=0)[REFERENCE]
    losses = [log_loss(valid.labels, regression(train, c).predict_proba(valid.features)[:, 1]) for c in PENALTIES]
    best = PENALTIES[int(np.argmin(losses))]
    assert fits.told == f"C {best:g}"
    assert log_loss_of(fits.chosen.log_odds(valid.features), valid.labels) == pytest.approx(min(losses), abs=1e-6)
    expected = regression(joined(train, valid), best).decision_function(valid.features.double())
    assert fits.served.log_odds(valid.features) == pytest.approx(expected, abs=1e-6)


def test_trees_stop_where_valid_is_best_and_as_many_are_fitted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "LEAVES", (7,))
    train, valid = examples(0), examples(1)
    fits = fit_baselines(train, valid, seed=0)[TREES]
    number = int(fits.told.split(" ")[0])
    assert fits.told == f"{number} trees of 7 leaves"
    assert 1 <= number < 400, "noise is not learnt by heart"

    def loss(num_trees: int) -> float:
        found, _ = fit_trees(train, num_leaves=7, num_trees=num_trees, seed=0)
        return log_loss_of(found.log_odds(valid.features), valid.labels)

    best = log_loss_of(fits.chosen.log_odds(valid.features), valid.labels)
    assert best == pytest.approx(loss(number), abs=1e-9)
    assert best < min(loss(other) for other in (max(1, number // 2), number + 20))
    again, _ = fit_trees(joined(train, valid), num_leaves=7, num_trees=number, seed=0)
    assert fits.served.log_odds(valid.features).tolist() == again.log_odds(valid.features).tolist()


@pytest.mark.parametrize("model", [REFERENCE, TREES])
def test_without_labels_in_valid_nothing_is_tuned(model: str) -> None:
    fits = fit_baselines(examples(0), NONE, seed=0)[model]
    assert fits.told == "not tuned"
    assert fits.chosen is fits.served


def test_a_few_users_are_enough_for_a_fit() -> None:
    few = Examples(torch.tensor([[0.0], [1.0], [0.5]]), torch.tensor([0.0, 1.0, 1.0]))
    one = few.first(1)
    for fits in fit_baselines(few, one, seed=0).values():
        assert np.isfinite(fits.served.log_odds(few.features)).all()


def test_log_odds_as_probabilities_by_hand() -> None:
    assert probabilities(np.array([0.0, np.log(3), -np.log(3)])) == pytest.approx([0.5, 0.75, 0.25])
    assert probabilities(np.array([-1e4, 1e4])).tolist() == [0.0, 1.0]
    # A purchase that got 3/4, and none where 1/4 was said: -log 3/4 each.
    loss = log_loss_of(np.array([np.log(3), -np.log(3)]), torch.tensor([1.0, 0.0]))
    assert loss == pytest.approx(-np.log(0.75))
