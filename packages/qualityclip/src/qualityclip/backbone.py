"""Feature maps of a pretrained image tower, its layers in order, and drop path in its blocks."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tenfold_shared.commands import InputError
from torch import Tensor, nn

from qualityclip.model import CLIP, TimmTower, VisionTransformer


class DropPath(nn.Module):
    """Leave a block's branch out for a whole example, and scale it up where it stays (Huang et al. 2016).

    Args:
        rate: Chance that it is left out.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.rate:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        return x * torch.empty(shape, device=x.device, dtype=x.dtype).bernoulli_(1 - self.rate) / (1 - self.rate)


class Backbone(nn.Module, ABC):
    """What heads build on: maps from fine to coarse.

    Attributes:
        channels: Of each map.
        strides: Pixels between two places of each map.
        num_layers: Blocks or stages in a row.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    num_layers: int

    @abstractmethod
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps [batch, channels, height, width] of pictures [batch, 3, height, width]."""

    @abstractmethod
    def blocks(self) -> list[nn.Module]:
        """Return the blocks in order, for drop path."""

    @abstractmethod
    def layer_of(self, name: str) -> int:
        """Return the layer of a parameter: 0 for embeddings and stem, `num_layers` + 1 for what follows the last."""


class ViTBackbone(Backbone):
    """Patch tokens of a ViT after some of its blocks, as maps of one stride.

    Args:
        tower: The ViT.
        taps: Blocks whose output is given, counted from 1; by default the last alone. Its output is normalised.
    """

    def __init__(self, tower: VisionTransformer, taps: Sequence[int] = ()) -> None:
        super().__init__()
        self.tower = tower
        self.num_layers = tower.config.num_layers
        self.taps = tuple(taps) or (self.num_layers,)
        self.channels = (tower.config.width,) * len(self.taps)
        self.strides = (tower.config.patch_size,) * len(self.taps)

    def forward(self, images: Tensor) -> list[Tensor]:
        patch = self.strides[0]
        rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
        x, found = self.tower.embed(images), []
        for layer, block in enumerate(self.tower.transformer.resblocks, start=1):
            x = block(x)
            if layer in self.taps:
                tokens = self.tower.ln_post(x) if layer == self.num_layers else x
                found.append(tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns)))
        return found

    def blocks(self) -> list[nn.Module]:
        return list(self.tower.transformer.resblocks)

    def layer_of(self, name: str) -> int:
        if found := re.search(r"resblocks\.(\d+)\.", name):
            return int(found[1]) + 1
        return self.num_layers + 1 if "ln_post" in name or name.endswith("proj") else 0


class TimmBackbone(Backbone):
    """Maps of all stages of a model of timm.

    Args:
        trunk: The model.

    Raises:
        InputError: It gives no maps.
    """

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.trunk = trunk
        try:
            maps = self._maps(torch.zeros(1, 3, 64, 64))
        except (AttributeError, NotImplementedError, TypeError, RuntimeError, AssertionError) as error:
            raise InputError(f"{type(trunk).__name__} gives no feature maps ({error}); use one that does.") from error
        if not maps or any(found.ndim != 4 for found in maps):
            raise InputError(f"{type(trunk).__name__} gives no feature maps; use a model with spatial stages.")
        # A ViT has as many maps as blocks, all alike: the last is enough.
        self.last_only = len({found.shape for found in maps}) == 1
        maps = maps[-1:] if self.last_only else maps
        self.channels = tuple(found.shape[1] for found in maps)
        self.strides = tuple(64 // found.shape[-1] for found in maps)
        self.num_layers = len(self.blocks())

    @torch.no_grad()
    def _maps(self, images: Tensor) -> list[Tensor]:
        training = self.trunk.training
        self.trunk.eval()
        try:
            return self.trunk.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        finally:
            self.trunk.train(training)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.trunk.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
        return maps[-1:] if self.last_only else maps

    def blocks(self) -> list[nn.Module]:
        stages = getattr(self.trunk, "stages", None)
        if stages is None:
            return list(getattr(self.trunk, "blocks", ()))
        return [block for stage in stages for block in getattr(stage, "blocks", [stage])]

    def layer_of(self, name: str) -> int:
        name = name.removeprefix("trunk.")
        starts = [0]
        for stage in getattr(self.trunk, "stages", ()):
            starts.append(starts[-1] + len(getattr(stage, "blocks", [stage])))
        if found := re.match(r"stages\.(\d+)\.(?:blocks\.(\d+)\.)?", name):
            return starts[int(found[1])] + int(found[2] or 0) + 1
        if found := re.match(r"blocks\.(\d+)\.", name):
            return int(found[1]) + 1
        return self.num_layers + 1 if name.startswith(("final_conv", "head", "norm", "fc")) else 0


def as_backbone(model: Any, *, taps: Sequence[int] = ()) -> Backbone:
    """Return the feature maps of a model: a CLIP of this package, one of its towers, or any model of timm.

    Args:
        model: The model; it is used as it is, not copied.
        taps: Blocks of a ViT whose outputs are given; by default the last.

    Returns:
        The backbone.

    Raises:
        InputError: The model gives no feature maps.
    """
    if isinstance(model, Backbone):
        return model
    tower = model.visual if isinstance(model, CLIP) else model
    if isinstance(tower, VisionTransformer):
        return ViTBackbone(tower, taps)
    return TimmBackbone(tower.trunk if isinstance(tower, TimmTower) else tower)


def set_drop_path(backbone: Backbone, rate: float) -> None:
    """Put drop path into a backbone's blocks, growing linearly from 0 in the first to `rate` in the last."""
    blocks = backbone.blocks()
    for place, block in enumerate(blocks):
        share = rate * place / max(len(blocks) - 1, 1)
        for name in [name for name, _ in block.named_children() if name.startswith("drop_path")]:
            setattr(block, name, DropPath(share))


def parameter_groups(backbone: Backbone, head: nn.Module, *, frozen: bool, decay: float) -> Iterator[dict[str, Any]]:
    """Yield groups of parameters with `scale`, the factor of their rate, and `decays`, whether weights shrink.

    A parameter of layer l of L gets decay^(L + 1 - l); the head gets 1.

    Args:
        backbone: Left out where it is frozen.
        head: What is trained in any case.
        frozen: Whether the head is trained alone.
        decay: Factor from one layer to the one before it.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    last = backbone.num_layers + 1
    if not frozen:
        for name, parameter in backbone.named_parameters():
            groups.setdefault((backbone.layer_of(name), parameter.ndim >= 2), []).append(parameter)
    for parameter in head.parameters():
        groups.setdefault((last, parameter.ndim >= 2), []).append(parameter)
    for (layer, decays), parameters in sorted(groups.items(), key=lambda item: item[0]):
        yield {"params": parameters, "scale": decay ** (last - layer), "decays": decays}
