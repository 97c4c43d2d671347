import math

import pytest
import torch
from sklearn.metrics import roc_auc_score

from lib.models.purchase_encoder import PurchaseEncoder, purchase_loss, train_epoch


def fitted(seed: int, *, num_epochs: int) -> tuple[PurchaseEncoder, torch.Tensor, torch.Tensor]:
    """An encoder fitted to a planted rule that no linear model finds: a purchase where just one of two features is high."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(600, 5, generator=generator)
    labels = ((features[:, 0] > 0.5) ^ (features[:, 1] > 0.5)).float()
    torch.manual_seed(seed)
    model = PurchaseEncoder(5)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(num_epochs):
        train_epoch(model, optimizer, features[:400], labels[:400], batch_size=50, generator=generator)
    return model, features[400:], labels[400:]


def test_features_go_through_256_and_128_to_one_logit() -> None:
    model = PurchaseEncoder(7)
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [
        (256, 7), (256,), (128, 256), (128,), (1, 128), (1,),
    ]  # fmt: skip
    features = torch.rand(3, 7)
    assert model(features).shape == (3,)
    assert model.represent(features).shape == (3, 128)
    assert (model.represent(features) >= 0).all()


def test_the_logit_is_linear_in_the_representation() -> None:
    model, features = PurchaseEncoder(4), torch.rand(5, 4)
    expected = model.represent(features) @ model.output.weight[0] + model.output.bias
    assert torch.allclose(model(features), expected, atol=1e-6)


def test_the_loss_is_the_mean_of_minus_log_p() -> None:
    # sigmoid(0) = 1/2 and sigmoid(log 3) = 3/4.
    loss = purchase_loss(torch.tensor([0.0, math.log(3), math.log(3)]), torch.tensor([1.0, 1.0, 0.0]))
    assert loss.item() == pytest.approx(-(math.log(1 / 2) + math.log(3 / 4) + math.log(1 / 4)) / 3)


def test_it_learns_what_no_linear_model_can() -> None:
    model, features, labels = fitted(0, num_epochs=15)
    with torch.no_grad():
        assert roc_auc_score(labels, model(features)) > 0.95


def test_a_prediction_does_not_depend_on_who_else_is_in_the_batch() -> None:
    model, features, _ = fitted(1, num_epochs=1)
    with torch.no_grad():
        assert torch.allclose(model(features)[7], model(features[7:8])[0], atol=1e-6)


def test_an_epoch_takes_every_example_once() -> None:
    class Witness(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: list[float] = []

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            self.seen += features[:, 0].tolist()
            return features[:, 0] * self.weight

    witness = Witness()
    features = torch.arange(11.0)[:, None]
    optimizer = torch.optim.SGD(witness.parameters(), lr=0.0)
    generator = torch.Generator().manual_seed(0)
    train_epoch(witness, optimizer, features, torch.zeros(11), batch_size=4, generator=generator)
    assert sorted(witness.seen) == list(range(11))
    assert witness.seen != list(range(11))
