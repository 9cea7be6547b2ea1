"""FastViTHD (Sec. 3.2): pixels to image tokens at a stride of 64, and what can be done to fewer or more of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from mobileclip.blocks import (
    AttentionBlock,
    ChannelLayerNorm,
    Downsample,
    MobileOneBlock,
    RepCPE,
    RepMixerBlock,
    make_stem,
)
from torch import Tensor, nn

from fastvlm.config import STRIDE, EncoderConfig, check_resolution

SE_REDUCTION = 16
NUM_CONV_STAGES = 3


class FastViTHD(nn.Module):
    """The image encoder of FastVLM, in train form until `mobileclip.reparameterize` or fused weights change it.

    Source: Sec. 3.2; parameter names and numbers equal the authors' `mobileclip_l` tower, whose last map before
    pooling is the token map. Use it alone as a fast encoder for high resolutions.

    Args:
        config: What to build; the default is the released encoder.

    Example:
        >>> import torch, fastvlm
        >>> tiny = fastvlm.EncoderConfig(depths=(1, 1, 1, 1, 1), dims=(32, 32, 32, 32, 32), image_size=128)
        >>> fastvlm.FastViTHD(tiny).eval()(torch.rand(2, 3, 128, 128)).shape
        torch.Size([2, 4, 64])
    """

    def __init__(self, config: EncoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or EncoderConfig()
        dims, last = config.dims, config.dims[-1]
        self.patch_embed = make_stem(dims[0], scale_branch=False)
        layers: list[nn.Module] = []
        for stage, dim in enumerate(dims):
            if stage > 0:
                layers.append(Downsample(dims[stage - 1], dim))
            if stage >= NUM_CONV_STAGES:
                layers.append(RepCPE(dim))
            layers.append(nn.Sequential(*[_make_block(config, stage) for _ in range(config.depths[stage])]))
        self.network = nn.ModuleList(layers)
        self.conv_exp = MobileOneBlock(last, 2 * last, 3, groups=last, se_channels=2 * last // SE_REDUCTION)
        self.head = _Head(2 * last, config.embed_dim) if config.embed_dim else None
        self.multi_scale = _MultiScale(config) if config.multi_scale != "none" else None

    def forward(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the image tokens, row by row.

        Args:
            pixels: RGB in [0, 1] (no mean or standard deviation is subtracted), height and width divisible by 64.

        Returns:
            (height / 64) * (width / 64) tokens of 3,072 channels (`config.out_dim`).

        Raises:
            ValueError: Height or width are not divisible by 64.
        """
        return self.forward_map(pixels).flatten(2).transpose(1, 2)

    def forward_map(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim h64 w64"]:
        """Return the token map."""
        for size in pixels.shape[2:]:
            check_resolution(size)
        x = self.patch_embed(pixels)
        stages = []
        for layer in self.network:
            x = layer(x)
            if isinstance(layer, nn.Sequential):
                stages.append(x)
        x = self.conv_exp(x)
        return x if self.multi_scale is None else torch.cat([x, self.multi_scale(stages[:-1])], dim=1)

    def embed(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch embed_dim"]:
        """Return CLIP embeddings (not normalised) of an encoder with a head."""
        if self.head is None:
            raise ValueError("this encoder has no CLIP head (`embed_dim` is 0); load weights that hold `head.proj`.")
        features = self.forward_map(pixels)[:, : 2 * self.config.dims[-1]]
        return self.head(features)


class _Head(nn.Module):
    """Mean over positions, then a linear map without bias (official name: `proj`)."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(dim, embed_dim) * dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.proj


class _MultiScale(nn.ModuleList):
    """Bring the maps of the first four stages to a stride of 64 and concatenate them."""

    def __init__(self, config: EncoderConfig) -> None:
        strides = (16, 8, 4, 2)
        if config.multi_scale == "avgpool":
            super().__init__([nn.AvgPool2d(stride) for stride in strides])
        else:
            pairs = zip(config.dims, strides, strict=False)
            super().__init__([nn.Conv2d(dim, dim, stride, stride, groups=dim) for dim, stride in pairs])

    def forward(self, stages: list[Tensor]) -> Tensor:
        return torch.cat([shrink(x) for shrink, x in zip(self, stages, strict=True)], dim=1)


def _make_block(config: EncoderConfig, stage: int) -> nn.Module:
    dim = config.dims[stage]
    hidden = dim * config.mlp_ratio
    if stage < NUM_CONV_STAGES:
        return RepMixerBlock(dim, hidden)
    return AttentionBlock(dim, hidden, head_dim=config.head_dim, norm=ChannelLayerNorm)


def pool_tokens(tokens: Float[Tensor, "batch tokens dim"], factor: int) -> Float[Tensor, "batch fewer dim"]:
    """Average `factor` x `factor` neighbours of a square token map: the static way to fewer tokens.

    Args:
        tokens: Row by row.
        factor: Divides the side of the map.

    Raises:
        ValueError: The tokens form no square, or `factor` does not divide its side.
    """
    side = round(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1] or side % factor:
        raise ValueError(
            f"`factor` (={factor}) must divide the side of a square map; there are {tokens.shape[1]} tokens."
        )
    maps = tokens.transpose(1, 2).unflatten(2, (side, side))
    return F.avg_pool2d(maps, factor).flatten(2).transpose(1, 2)


def prune_tokens(tokens: Float[Tensor, "batch tokens dim"], num_keep: int) -> Float[Tensor, "batch num_keep dim"]:
    """Keep the tokens that differ most from the mean token, in their order: fewer tokens by content.

    The encoder has no class token whose attention could rank tokens, so that the distance to the mean does.

    Args:
        tokens: Row by row.
        num_keep: How many stay, at most all.

    Raises:
        ValueError: There are not that many.
    """
    if not 1 <= num_keep <= tokens.shape[1]:
        raise ValueError(f"`num_keep` (={num_keep}) must be between 1 and the number of tokens ({tokens.shape[1]}).")
    distance = (tokens - tokens.mean(1, keepdim=True)).norm(dim=-1)
    index = distance.topk(num_keep, dim=1).indices.sort(dim=1).values
    return tokens.gather(1, index.unsqueeze(-1).expand(-1, -1, tokens.shape[2]))


def num_tokens(size: int, num_tiles: int = 1) -> int:
    """Return the tokens of an image in `num_tiles` tiles of `size` pixels (plus an overview where there are several).

    Source: (R / 64)^2 tokens per view.
    """
    check_resolution(size)
    views = num_tiles + (num_tiles > 1)
    return views * (size // STRIDE) ** 2
