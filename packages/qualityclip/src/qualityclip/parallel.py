"""The processes that train one model together, started by torchrun; one process is the case without any."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from qualityclip.loss import Gathered


@dataclass(frozen=True)
class Processes:
    """This process among others; alone by default.

    Args:
        rank: Number of this process.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls, device: str) -> Processes:
        """Join the processes that torchrun started: over nccl on CUDA, else over gloo."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(dist.get_rank(), world_size)

    def replicate(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients averaged over the processes; alone, the model itself."""
        return model if self.world_size == 1 else DistributedDataParallel(model, broadcast_buffers=False)

    def gather(self, rows: Tensor) -> Gathered:
        """Return these rows beside everybody's, in the order of ranks; gradients flow back to where rows came from."""
        if self.world_size == 1:
            return Gathered.alone(rows)
        return Gathered(rows, _AllGather.apply(rows), self.rank * len(rows))

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of a number over the processes."""
        if self.world_size == 1:
            return value
        total = value.clone()
        dist.all_reduce(total)
        return total / self.world_size

    def close(self) -> None:
        """Leave the group, so that the process can end without a warning."""
        if self.world_size > 1:
            dist.barrier()
            dist.destroy_process_group()


class _AllGather(torch.autograd.Function):
    """Rows of all processes; backward sums what all processes want of this one's."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # type: ignore[override]
        everybody = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(everybody, rows.contiguous())
        ctx.count = len(rows)
        return torch.cat(everybody)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]
