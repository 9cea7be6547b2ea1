"""Heads of dense prediction: linear, FPN, UPerNet and DPT, over maps of any strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qualityclip.backbone import Backbone

POOLS = (1, 2, 3, 6)  # bins of UPerNet's pyramid pooling (Xiao et al. 2018)


def resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Return maps at another size, bilinear."""
    return (
        x if tuple(x.shape[-2:]) == tuple(size) else F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
    )


def _conv(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
    layers = (nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
    return nn.Sequential(*layers)


class Pyramid(nn.Module):
    """Four maps at strides of 1/4, 1/2, 1 and 2 of a single map (ViTDet's simple pyramid), or a backbone's own.

    Args:
        backbone: One with a single stride, or with several.
        width: Channels of every map.
    """

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.simple = len(set(backbone.strides)) == 1
        channels = backbone.channels
        if self.simple:
            total = sum(channels)
            up = nn.Sequential(
                nn.ConvTranspose2d(total, width, 2, 2),
                nn.GroupNorm(1, width),
                nn.GELU(),
                nn.ConvTranspose2d(width, width, 2, 2),
            )
            steps = (up, nn.ConvTranspose2d(total, width, 2, 2), nn.Conv2d(total, width, 1))
            self.scales = nn.ModuleList([*steps, nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(total, width, 1))])
        else:
            self.scales = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels)
        self.num_levels = len(self.scales)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        if self.simple:
            joined = torch.cat(maps, dim=1)
            return [scale(joined) for scale in self.scales]
        return [scale(each) for scale, each in zip(self.scales, maps, strict=True)]


class TopDown(nn.Module):
    """Coarse maps added to finer ones, each smoothed (Lin et al. 2017)."""

    def __init__(self, width: int, num_levels: int) -> None:
        super().__init__()
        self.smooth = nn.ModuleList(_conv(width, width) for _ in range(num_levels))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        found = [maps[-1]]
        for finer in reversed(maps[:-1]):
            found.insert(0, finer + resize(found[0], finer.shape[-2:]))
        return [smooth(each) for smooth, each in zip(self.smooth, found, strict=True)]


class LinearHead(nn.Module):
    """One 1x1 convolution over all maps at the finest one's size, batch-normalised before as in linear probes.

    Args:
        backbone: Whose maps come in.
        outputs: Channels that go out.
        width: Of the other heads; nothing lies between here.
    """

    def __init__(self, backbone: Backbone, outputs: int, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(backbone.channels), affine=False)
        self.project = nn.Conv2d(sum(backbone.channels), outputs, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        size = maps[0].shape[-2:]
        return self.project(self.norm(torch.cat([resize(each, size) for each in maps], dim=1)))


class FPNHead(nn.Module):
    """Semantic FPN: a top-down pyramid, its maps summed at the finest size (Kirillov et al. 2019)."""

    def __init__(self, backbone: Backbone, outputs: int, width: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(backbone, width)
        self.top_down = TopDown(width, self.pyramid.num_levels)
        self.project = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = self.top_down(self.pyramid(maps))
        size = levels[0].shape[-2:]
        return self.project(torch.stack([resize(level, size) for level in levels]).sum(0))


class PoolPyramid(nn.Module):
    """Pyramid pooling: means over grids of bins beside the map itself (Zhao et al. 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Means over a whole map leave one place a picture, which batch normalisation cannot do with one picture.
        self.pools = nn.ModuleList(nn.Sequential(nn.Conv2d(width, width // 4, 1), nn.ReLU()) for _ in POOLS)
        self.join = _conv(width + width // 4 * len(POOLS), width)

    def forward(self, x: Tensor) -> Tensor:
        pooled = (
            resize(pool(F.adaptive_avg_pool2d(x, bins)), x.shape[-2:])
            for pool, bins in zip(self.pools, POOLS, strict=True)
        )
        return self.join(torch.cat([x, *pooled], dim=1))


class UPerHead(nn.Module):
    """UPerNet: pyramid pooling on the coarsest map, a top-down pyramid, all maps joined (Xiao et al. 2018)."""

    def __init__(self, backbone: Backbone, outputs: int, width: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(backbone, width)
        self.pool = PoolPyramid(width)
        self.top_down = TopDown(width, self.pyramid.num_levels)
        self.join = _conv(width * self.pyramid.num_levels, width)
        self.project = nn.Conv2d(width, outputs, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = self.pyramid(maps)
        levels = self.top_down([*levels[:-1], self.pool(levels[-1])])
        size = levels[0].shape[-2:]
        return self.project(self.join(torch.cat([resize(level, size) for level in levels], dim=1)))


class DPTHead(nn.Module):
    """DPT-like: maps reassembled to a pyramid and fused from coarse to fine by residual units (Ranftl et al. 2021)."""

    def __init__(self, backbone: Backbone, outputs: int, width: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(backbone, width)
        self.units = nn.ModuleList(_Residual(width) for _ in range(self.pyramid.num_levels))
        self.project = nn.Sequential(
            nn.Conv2d(width, width // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(width // 2, outputs, 1)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = self.pyramid(maps)
        fused = self.units[-1](levels[-1])
        for unit, level in zip(reversed(self.units[:-1]), reversed(levels[:-1]), strict=True):
            fused = unit(level + resize(fused, level.shape[-2:]))
        return self.project(fused)


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


HEADS = {"linear": LinearHead, "fpn": FPNHead, "upernet": UPerHead, "dpt": DPTHead}
