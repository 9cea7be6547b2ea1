"""Several processes that train one model: torch's DistributedDataParallel, and features gathered with gradients."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobileclip.loss import Gathered


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

    def replicate(self, model: nn.Module) -> nn.Module:
        """Return the model with gradients averaged over the processes during backward; alone, the model itself.

        Running statistics stay each process's own and rank 0's are saved: what broadcasting them at every step, the
        class's default, would give as well.
        """
        return model if self.world_size == 1 else DistributedDataParallel(model, broadcast_buffers=False)

    @staticmethod
    def local_backward(replica: nn.Module, local: bool) -> AbstractContextManager:
        """Return a context in which backward keeps gradients to this process, if `local`, to add more to them."""
        return replica.no_sync() if local and isinstance(replica, DistributedDataParallel) else nullcontext()

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
