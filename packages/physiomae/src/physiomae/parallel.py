"""Several processes that train one model: rows of one batch, gradients averaged, embeddings gathered."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


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
        """Join the processes that torchrun started; alone without it."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device == "cuda" else "gloo")
        return cls(dist.get_rank(), world_size)

    def rows(self, batch_size: int) -> slice:
        """Return this process's rows of a batch; a size that does not divide is refused."""
        if batch_size % self.world_size:
            raise ValueError(f"`batch_size` (={batch_size}) must be divisible by the {self.world_size} processes.")
        size = batch_size // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def replicate(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients averaged over the processes during backward; alone, the model itself."""
        if self.world_size == 1:
            return model
        return DistributedDataParallel(model, broadcast_buffers=False, find_unused_parameters=True)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over processes, without gradient."""
        total = values.detach().clone()
        if self.world_size > 1:
            dist.all_reduce(total)
        return total

    def gather(self, rows: Tensor) -> tuple[Tensor, int]:
        """Return the rows of all processes in order, through which gradients flow, and where ours begin."""
        if self.world_size == 1:
            return rows, 0
        return GatherRows.apply(rows), self.rank * len(rows)

    def close(self) -> None:
        """Leave the group, so that the process can end without a warning."""
        if self.world_size > 1:
            dist.barrier()
            dist.destroy_process_group()


class GatherRows(torch.autograd.Function):
    """Rows of all processes; backward gives each process the sum of what all of them want of its rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:  # type: ignore[override]
        """Gather equally many rows of every process."""
        rows = rows.contiguous()
        found = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(found, rows)
        ctx.count = len(rows)
        return torch.cat(found)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum over processes, this one's rows."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.count
        return total[start : start + ctx.count]
