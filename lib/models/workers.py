"""What the workers of one training share, by torch.distributed; a single worker has it all by itself."""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function


def total_over_workers(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the workers, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def is_alone() -> bool:
    """Whether there is no other worker to share with."""
    return not distributed.is_initialized() or distributed.get_world_size() == 1


def rows_of_all_workers(own: Tensor) -> Tensor:
    """The rows of every worker in the order of their ranks, equally many of each: (B, ...) -> (workers * B, ...).

    Gradients reach the rows of every worker, summed over all.
    """
    if is_alone():
        return own
    rows: Tensor = _GatheredRows.apply(own)
    return rows


def average_row_gradients(model: nn.Module) -> None:
    """Make the sparse gradients of all parameters the mean over the workers; only rows that one of them touched are exchanged."""
    if is_alone():
        return
    for table in model.parameters():
        assert table.grad is not None, "a batch gives every table a gradient, be it of no row"
        own = table.grad.coalesce()
        rows = _rows_of_any_number(own.indices()[0])
        values = _rows_of_any_number(own.values() / distributed.get_world_size())
        table.grad = torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False).coalesce()


def _rows_of_any_number(own: Tensor) -> Tensor:
    """The rows of every worker in the order of their ranks, without gradients: they are filled up to the most that one has."""
    counts = [own.new_zeros(1, dtype=torch.int64) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor([len(own)], device=own.device))
    most = int(torch.cat(counts).max())
    parts = [own.new_empty(most, *own.shape[1:]) for _ in counts]
    distributed.all_gather(parts, torch.cat([own, own.new_zeros(most - len(own), *own.shape[1:])]))
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


class _GatheredRows(Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        ctx.num_own = len(own)
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        summed = gradient.contiguous()
        distributed.all_reduce(summed)
        own: Tensor = summed.split(ctx.num_own)[distributed.get_rank()]
        return own
