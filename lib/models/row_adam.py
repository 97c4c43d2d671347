"""Adam for tables of which a batch touches few rows: only these have a gradient, are moved, and are exchanged among workers."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class RowAdam(Optimizer):
    """Adam (Kingma and Ba 2015) for sparse gradients (R, D) of which most rows are missing.

    A row without a gradient stays as it is, with both its averages; where every row has one, this is Adam. So does
    torch.optim.SparseAdam, whose numbers these are but for `epsilon`, which it adds before it corrects the averages' bias;
    its masks of sparse tensors take about as long as the whole rest of a step of the two towers.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": learning_rate, "betas": betas, "eps": epsilon})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        for group in self.param_groups:
            for table in group["params"]:
                gradient = table.grad.coalesce()
                self._move(table, gradient.indices()[0], gradient.values(), group)

    def _move(self, table: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table)}
        state["step"] += 1
        of_average, of_square = group["betas"]
        average = state["exp_avg"][rows].lerp_(gradient, 1 - of_average)
        square = state["exp_avg_sq"][rows].mul_(of_square).addcmul_(gradient, gradient, value=1 - of_square)
        state["exp_avg"][rows] = average
        state["exp_avg_sq"][rows] = square
        deviation = square.sqrt_().div_(math.sqrt(1 - of_square ** state["step"])).add_(group["eps"])
        rate = group["lr"] / (1 - of_average ** state["step"])
        table.index_add_(0, rows, average.div_(deviation), alpha=-rate)
