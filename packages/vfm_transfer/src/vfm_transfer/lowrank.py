"""Low-rank updates of a frozen backbone (LoRA), as a parametrization that is folded into the weights at the end."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """weight -> weight + B A, with B zero at the start."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        columns = weight[0].numel()
        self.a = nn.Parameter(torch.randn(rank, columns) / columns**0.5)
        self.b = nn.Parameter(torch.zeros(len(weight), rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight."""
        return weight + (self.b @ self.a).view_as(weight)


def add_low_rank(backbone: nn.Module, rank: int) -> None:
    """Freeze a backbone and give its linear layers and 1 x 1 convolutions low-rank updates.

    Raises:
        ValueError: It has no such layer.
    """
    backbone.requires_grad_(False)
    layers = [
        layer
        for layer in backbone.modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    ]
    if not layers:
        raise ValueError("this backbone has no linear layer that a low-rank update fits; use `full` or `linear`.")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank))


def fold_low_rank(backbone: nn.Module) -> None:
    """Fold the updates into the weights; the backbone is then an ordinary one."""
    for layer in backbone.modules():
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    backbone.requires_grad_(True)
