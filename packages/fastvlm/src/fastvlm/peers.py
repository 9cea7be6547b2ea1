"""The image encoders that FastViTHD is measured against, built by timm (extra `demo`) with random weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mobileclip.model import optimize_for_inference
from tenfold_shared.commands import require_extra, unknown_name
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fastvlm.config import EncoderConfig
from fastvlm.encoder import FastViTHD
from fastvlm.prefill import fill_randomly


@dataclass(frozen=True)
class EncoderSpec:
    """An image encoder: how to build it, and how many tokens it gives.

    Args:
        name: On the command line.
        label: In tables and figures.
        stride: Pixels per token and side.
        view_size: The resolution it was made for; tiled variants use it for every tile.
        define: From a resolution to a module that maps pixels [1, 3, size, size] to tokens.
    """

    name: str
    label: str
    stride: int
    view_size: int
    define: Callable[[int], nn.Module]

    def num_tokens(self, size: int, tiles: int = 1) -> int:
        """Return the tokens of one image in `tiles` tiles (and an overview where there are several)."""
        return count_views(tiles) * (size // self.stride) ** 2

    def build(self, size: int) -> nn.Module:
        """Build the encoder for a resolution, with random weights, in evaluation mode."""
        with torch.device("meta"):
            module = self.define(size)
        fill_randomly(module)
        return module.eval()

    def count(self, size: int) -> tuple[int, float]:
        """Return parameters and floating-point operations for one view, counted without any memory."""
        with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
            module = self.define(size)
            module(torch.empty(1, 3, size, size))
        return sum(p.numel() for p in module.parameters()), float(counter.get_total_flops())


def count_views(tiles: int) -> int:
    """Return how many views an image in `tiles` tiles has: several tiles come with an overview."""
    return tiles + (tiles > 1)


class _Features(nn.Module):
    """timm's feature map or token sequence of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.forward_features(pixels)


def _define_fastvithd(size: int) -> nn.Module:
    return optimize_for_inference(FastViTHD(EncoderConfig(image_size=size, embed_dim=0)))


def _define_timm(name: str, **options: object) -> nn.Module:
    timm = require_extra("timm", "demo", "fastvlm")
    return timm.create_model(name, pretrained=False, num_classes=0, **options).eval()


def _define_vit(name: str, size: int) -> nn.Module:
    """A ViT without its last block: LLaVA reads the layer before it (which favours the peer)."""
    model = _define_timm(name, img_size=size)
    model.blocks = nn.Sequential(*list(model.blocks.children())[:-1])
    return _Features(model)


def _define_convnext(size: int) -> nn.Module:
    return _Features(_define_timm("convnext_large")).to(memory_format=torch.channels_last)


ENCODERS = {
    spec.name: spec
    for spec in (
        EncoderSpec("fastvithd", "FastViTHD", 64, 1024, _define_fastvithd),
        EncoderSpec("vit_l_14", "ViT-L/14", 14, 336, lambda size: _define_vit("vit_large_patch14_clip_336", size)),
        EncoderSpec("convnext_l", "ConvNeXt-L", 32, 768, _define_convnext),
        EncoderSpec(
            "siglip_so400m", "SigLIP-SO400M", 14, 384, lambda size: _define_vit("vit_so400m_patch14_siglip_384", size)
        ),
    )
}


def find_encoder(name: str) -> EncoderSpec:
    """Return an encoder by name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in ENCODERS:
        raise unknown_name("encoder", name, list(ENCODERS))
    return ENCODERS[name]


def count_siglip_parameters() -> int:
    """Return the parameters of SigLIP-SO400M's image encoder, last block and pooling included, as published."""
    with torch.device("meta"):
        return sum(p.numel() for p in _define_timm("vit_so400m_patch14_siglip_384").parameters())
