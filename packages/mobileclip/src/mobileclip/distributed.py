"""Several processes that train one model: features gathered with their gradients, gradients averaged."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mobileclip.loss import Gathered

# Gradients are averaged in pieces of this many bytes.
BUCKET_BYTES = 64 << 20


@dataclass(frozen=True)
class Processes:
    """This process among those that train together; alone by default.

    Args:
        rank: Number of this process.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls, device: str) -> Processes:
        """Join the processes that torchrun started; alone without torchrun.

        Args:
            device: "cuda" talks over nccl, anything else over gloo.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(dist.get_rank(), world_size)

    def gather(self, features: Tensor) -> Gathered:
        """Return these rows beside everybody's, in the order of ranks, through which gradients flow back."""
        if self.world_size == 1:
            return Gathered.alone(features)
        return Gathered(features, _AllGather.apply(features), self.rank * len(features))

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over processes of some numbers."""
        if self.world_size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def close(self) -> None:
        """Leave the group, so that the process can end without a warning."""
        if self.world_size > 1:
            dist.barrier()
            dist.destroy_process_group()


class _AllGather(torch.autograd.Function):
    """Rows of all processes; backward sums what all processes want of this one's rows."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:  # type: ignore[override]
        features = features.contiguous()
        rows = [torch.empty_like(features) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, features)
        ctx.num_rows = len(features)
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.num_rows
        return total[start : start + ctx.num_rows]


def average_gradients(model: nn.Module, processes: Processes) -> None:
    """Replace every gradient by its mean over the processes, in large pieces."""
    if processes.world_size == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for gradient in (p.grad for p in model.parameters() if p.grad is not None):
        bucket.append(gradient)
        size += gradient.numel() * gradient.element_size()
        if size >= BUCKET_BYTES:
            _average(bucket, processes.world_size)
            bucket, size = [], 0
    _average(bucket, processes.world_size)


def _average(bucket: list[Tensor], world_size: int) -> None:
    if not bucket:
        return
    flat = torch.cat([gradient.flatten() for gradient in bucket])
    dist.all_reduce(flat)
    for gradient, mean in zip(bucket, (flat / world_size).split([g.numel() for g in bucket]), strict=True):
        gradient.copy_(mean.view_as(gradient))
