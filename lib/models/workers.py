"""What the workers of one training share, by torch.distributed; a single worker has it all by itself."""

from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd import Function


def total_over_workers(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the workers, in place."""
    if distributed.is_initialized():
        distributed.all_reduce(tensor)
    return tensor


def rows_of_all_workers(own: Tensor) -> Tensor:
    """The rows of every worker in the order of their ranks, equally many of each: (B, ...) -> (workers * B, ...).

    Gradients reach the rows of every worker, summed over all.
    """
    if not distributed.is_initialized():
        return own
    rows: Tensor = _GatheredRows.apply(own)
    return rows


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
