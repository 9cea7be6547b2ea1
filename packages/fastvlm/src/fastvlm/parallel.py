"""One model on several processes: gradients averaged (DDP), or parameters shared out as well (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from mobileclip.distributed import Processes
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Engine = Literal["ddp", "fsdp"]


def spread(module: nn.Module, processes: Processes, engine: Engine) -> nn.Module:
    """Return what takes part in training on several processes; alone, the module itself.

    Args:
        module: Holds the model; frozen parameters have `requires_grad` off by now.
        processes: Who takes part.
        engine: "fsdp" gives every process a part of each decoder layer, and a part of the rest.
    """
    if processes.world_size == 1:
        return module
    if engine == "ddp":
        return DistributedDataParallel(module, broadcast_buffers=False)
    from torch.distributed.fsdp import fully_shard

    for layer in _find_layers(module):
        fully_shard(layer)
    fully_shard(module)
    return module


def _find_layers(module: nn.Module) -> nn.ModuleList:
    """Return the decoder layers: the longest list of modules in the language model."""
    lists = [part for part in module.model.language_model.modules() if isinstance(part, nn.ModuleList)]
    return max(lists, key=len)


def local_backward(module: nn.Module, local: bool) -> AbstractContextManager:
    """Return a context in which DDP keeps gradients to this process, if `local`, to add more to them."""
    return module.no_sync() if local and isinstance(module, DistributedDataParallel) else nullcontext()


def total(values: list[float], processes: Processes, device: str) -> list[float]:
    """Return sums over processes."""
    if processes.world_size == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64 if device != "mps" else torch.float32, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def everybody(items: list[Any], processes: Processes) -> list[Any]:
    """Return the items of all processes, in the order of ranks."""
    if processes.world_size == 1:
        return items
    lists: list[list[Any]] = [[] for _ in range(processes.world_size)]
    dist.all_gather_object(lists, items)
    return [item for each in lists for item in each]


def whole(value: Tensor) -> Tensor:
    """Return a tensor whose parts may lie on several processes."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def state_of(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return parameters that learn and the optimizer's state, whole, on the CPU; every process must call it."""
    named = [(name, value) for name, value in module.named_parameters() if value.requires_grad]
    parameters = {name: whole(value.detach()).cpu().clone() for name, value in named}
    names = {id(value): name for name, value in named}
    moments = {
        names[id(value)]: {key: whole(item).cpu().clone() for key, item in optimizer.state[value].items()}
        for group in optimizer.param_groups
        for value in group["params"]
        if value in optimizer.state
    }
    return {"parameters": parameters, "moments": moments}


@torch.no_grad()
def restore(module: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put back what `state_of` returned, whatever the number of processes was."""
    named = {name: value for name, value in module.named_parameters() if value.requires_grad}
    for name, value in named.items():
        value.copy_(_like(state["parameters"][name], value))
    for name, moments in state["moments"].items():
        value = named[name]
        optimizer.state[value] = {
            key: _like(item, value) if item.shape == value.shape else item.clone() for key, item in moments.items()
        }


def _like(source: Tensor, target: Tensor) -> Tensor:
    """Return a whole tensor in the place and parts of another one."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(target, DTensor):
        return source.to(target.device, copy=True)
    return distribute_tensor(source.to(target.device), target.device_mesh, target.placements)
