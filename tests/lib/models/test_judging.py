import pytest
import torch

from lib.models.baselines import Encoder, fit_baselines, probabilities
from lib.models.calibration import Calibration, calibration_errors
from lib.models.fitting import EncoderPlan, Examples, fit_encoder
from lib.models.judging import choose, judge, log_likelihoods
from lib.models.purchase_encoder import PurchaseEncoder

PLAN = EncoderPlan(num_epochs=15, patience=15, batch_size=50, learning_rate=1e-2, weight_decay=0.0, seed=0)
NONE = Examples(torch.zeros(0, 4), torch.zeros(0))


def examples(seed: int, size: int = 300) -> Examples:
    """Users who buy where just one of two features is high, which no linear model finds, and by a third feature a little."""
    features = torch.rand(size, 4, generator=torch.Generator().manual_seed(seed))
    wanted = ((features[:, 0] > 0.5) ^ (features[:, 1] > 0.5)) & (features[:, 2] > 0.2)
    return Examples(features, wanted.float())


def rows_of(encoder: PurchaseEncoder, train: Examples, **splits: Examples) -> dict[tuple[str, str, str], dict]:
    """The rows of splits, judged by fits that the first of them has tuned; calibrations are of no effect but on test."""
    first = next(iter(splits.values()))
    models = {"encoder": Encoder(encoder)} | {
        model: fit.chosen for model, fit in fit_baselines(train, first, seed=0).items()
    }
    rows = [
        row
        for split, examples in splits.items()
        for row in judge(
            models,
            examples,
            split=split,
            version="v",
            seed=0,
            num_resamples=100,
            calibrations={"encoder": Calibration(2.0, -1.0)} if split == "test" else None,
        )
    ]
    return {(row["split"], row["model"], row["metric"]): row for row in rows}


def test_the_encoder_is_compared_with_each_baseline_on_the_same_users() -> None:
    train, valid, test = examples(0), examples(1), examples(2)
    torch.manual_seed(0)
    encoder = PurchaseEncoder(4)
    encoder.load_state_dict(fit_encoder(encoder, train, valid, PLAN)["best"])
    rows = rows_of(encoder, train, valid=valid, test=test)
    metrics = {key[1:] for key in rows if key[0] == "valid" and "_bin_" not in key[2]}
    of_all = {"auc", "pr_auc", "log_loss", "ece"}
    pairs = (("boosted_trees", "logistic_regression"), ("encoder", "logistic_regression"), ("encoder", "boosted_trees"))
    assert metrics == {
        (m, metric) for m in ("encoder", "logistic_regression", "boosted_trees") for metric in of_all
    } | {(model, f"{metric}_minus_{other}") for model, other in pairs for metric in of_all - {"ece"}}
    difference = rows["test", "encoder", "auc_minus_logistic_regression"]
    assert difference["low"] > 0.2  # it knows what the regression cannot
    assert (difference["version"], difference["n"]) == ("v", 300)
    assert rows["test", "boosted_trees", "auc"]["value"] > 0.95, "trees find it as well"
    # The correction is of log odds: the error after it is that of these probabilities.
    corrected = probabilities(2 * Encoder(encoder).log_odds(test.features) - 1)
    expected = calibration_errors(test.labels, {"e": corrected}, seed=0, num_resamples=100)["e"]
    assert rows["test", "encoder", "ece_calibrated"]["value"] == pytest.approx(expected["value"])
    assert ("valid", "encoder", "ece_calibrated") not in rows
    bins = [rows["test", "encoder", f"observed_bin_{number:02d}"] for number in range(1, 11)]
    assert sum(row["value"] * row["n"] for row in bins) == pytest.approx(test.labels.sum().item())
    assert all(row["low"] <= row["value"] <= row["high"] for row in bins)


def test_a_split_without_labels_has_no_rows_and_one_of_a_single_class_no_rank_metrics() -> None:
    single = Examples(torch.rand(5, 4), torch.zeros(5))
    rows = rows_of(PurchaseEncoder(4), examples(0), valid=NONE, test=single)
    assert {split for split, _, _ in rows} == {"test"}
    assert rows["test", "encoder", "auc"]["value"] is None
    assert rows["test", "encoder", "log_loss"]["value"] > 0


def told(split: str, model: str, metric: str, value: float, low: float = 0.0, high: float = 0.0) -> dict:
    return {"split": split, "model": model, "metric": metric, "value": value, "low": low, "high": high}


LOSSES = [
    told("valid", "encoder", "log_loss", 0.5),
    told("valid", "logistic_regression", "log_loss", 0.45),
    told("valid", "boosted_trees", "log_loss", 0.4),
    told("test", "boosted_trees", "log_loss", 0.9),  # does not choose
]


@pytest.mark.parametrize(
    ("low", "says"), [(0.01, ": the network is worse"), (-0.01, ": the network is not worse beyond its interval")]
)
def test_the_lowest_log_loss_on_valid_serves_and_test_says_whether_the_network_is_worse(low: float, says: str) -> None:
    choice = choose([*LOSSES, told("test", "encoder", "log_loss_minus_boosted_trees", 0.1, low, 0.2)])
    assert choice.model == "boosted_trees"
    assert choice.told.endswith(f"minus its own is +0.1000 ({low:+.4f} to +0.2000){says}")


def test_a_model_that_stands_back_does_not_serve_and_of_equal_ones_the_simpler_does() -> None:
    best = [*LOSSES, told("valid", "encoder", "log_loss", 0.1)]
    assert choose(best).model == "encoder"
    others = choose(best, ["logistic_regression", "boosted_trees"])
    assert (others.model, others.told.endswith("the encoder of this run stands back")) == ("boosted_trees", True)
    equal = [told("valid", model, "log_loss", 0.3) for model in ("encoder", "boosted_trees", "logistic_regression")]
    assert choose(equal).model == "logistic_regression"
    assert choose([]).told == "logistic_regression serves, the simplest: valid has no known labels to choose by"


def test_the_log_likelihood_of_a_label_is_the_log_of_the_probability_given_to_it() -> None:
    torch.manual_seed(0)
    encoder, known = PurchaseEncoder(4), Examples(torch.rand(2, 4), torch.tensor([1.0, 0.0]))
    with torch.no_grad():
        buys = torch.sigmoid(encoder(known.features))
    expected = [buys[0].log().item(), (1 - buys[1]).log().item()]
    assert log_likelihoods(encoder, known).tolist() == pytest.approx(expected)
    assert len(log_likelihoods(encoder, NONE)) == 0
