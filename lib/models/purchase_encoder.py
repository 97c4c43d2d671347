"""The purchase encoder: a user's features through 256 and 128 units to the probability of a purchase.

The 128 units before the last layer are the user's representation, learnt in order to predict purchases. Batches are (B,
F) float32, scaled to 0..1 as in gold/examples; labels are (B,) of 0 and 1.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

NUM_HIDDEN = 256
NUM_DIMENSIONS = 128


class PurchaseEncoder(nn.Module):
    """F features -> 256 -> 128 (the representation) -> the logit of a purchase."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, NUM_HIDDEN)
        self.representation = nn.Linear(NUM_HIDDEN, NUM_DIMENSIONS)
        self.output = nn.Linear(NUM_DIMENSIONS, 1)

    def represent(self, features: Tensor) -> Tensor:
        """The users' representations: (B, F) -> (B, 128), all at least 0."""
        return F.relu(self.representation(F.relu(self.hidden(features))))

    def forward(self, features: Tensor) -> Tensor:
        """Logits of a purchase: (B, F) -> (B,)."""
        logits: Tensor = self.output(self.represent(features)).squeeze(1)
        return logits


def purchase_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the batch of -log p(label); logits and labels (B,)."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def train_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    features: Tensor,
    labels: Tensor,
    *,
    batch_size: int,
    generator: torch.Generator,
) -> float:
    """One pass over (N, F) features and (N,) labels in an order drawn by `generator`.

    Returns the mean loss of the batches.

    `model` is a PurchaseEncoder or a trainer's wrapper around one.
    """
    model.train()
    device = next(model.parameters()).device
    losses = []
    for batch in torch.randperm(len(labels), generator=generator).split(batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = purchase_loss(model(features[batch].to(device)), labels[batch].to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()
