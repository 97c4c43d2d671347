import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from lib.models.fitting import EncoderPlan, Examples, fit_encoder
from lib.models.judging import judge, log_likelihoods
from lib.models.purchase_encoder import PurchaseEncoder

PLAN = EncoderPlan(num_epochs=15, patience=15, batch_size=50, learning_rate=1e-2, weight_decay=0.0, seed=0)
NONE = Examples(torch.zeros(0, 4), torch.zeros(0))


def examples(seed: int, size: int = 300) -> Examples:
    """Users who buy where just one of two features is high, which no linear model finds, and by a third feature a little."""
    features = torch.rand(size, 4, generator=torch.Generator().manual_seed(seed))
    wanted = ((features[:, 0] > 0.5) ^ (features[:, 1] > 0.5)) & (features[:, 2] > 0.2)
    return Examples(features, wanted.float())


def rows_of(encoder: PurchaseEncoder, train: Examples, **splits: Examples) -> dict[tuple[str, str, str], dict]:
    rows = [
        row
        for split, examples in splits.items()
        for row in judge(encoder, train, examples, split=split, version="v", seed=0, num_resamples=200)
    ]
    return {(row["split"], row["model"], row["metric"]): row for row in rows}


def test_the_encoder_is_compared_with_logistic_regression_on_the_same_users() -> None:
    train, test = examples(0), examples(2)
    torch.manual_seed(0)
    encoder = PurchaseEncoder(4)
    encoder.load_state_dict(fit_encoder(encoder, train, examples(1), PLAN)["best"])
    rows = rows_of(encoder, train, valid=examples(1), test=test)
    assert len(rows) == 2 * (6 + 3)
    regression = LogisticRegression(max_iter=1000).fit(train.features.numpy(), train.labels.numpy())
    auc = roc_auc_score(test.labels.numpy(), regression.predict_proba(test.features.numpy())[:, 1])
    assert rows["test", "logistic_regression", "auc"]["value"] == pytest.approx(auc)
    difference = rows["test", "encoder", "auc_minus_logistic_regression"]
    assert difference["low"] > 0.2  # it knows what the regression cannot
    assert (difference["version"], difference["n"]) == ("v", 300)


def test_a_split_without_labels_has_no_rows_and_one_of_a_single_class_no_rank_metrics() -> None:
    single = Examples(torch.rand(5, 4), torch.zeros(5))
    rows = rows_of(PurchaseEncoder(4), examples(0), valid=NONE, test=single)
    assert {split for split, _, _ in rows} == {"test"}
    assert rows["test", "encoder", "auc"]["value"] is None
    assert rows["test", "encoder", "log_loss"]["value"] > 0


def test_the_log_likelihood_of_a_label_is_the_log_of_the_probability_given_to_it() -> None:
    torch.manual_seed(0)
    encoder, known = PurchaseEncoder(4), Examples(torch.rand(2, 4), torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        buys = torch.sigmoid(encoder(known.features))
    expected = [buys[0].log().item(), (1 - buys[1]).log().item()]
    assert log_likelihoods(encoder, known).tolist() == pytest.approx(expected)
    assert len(log_likelihoods(encoder, NONE)) == 0
