"""Image encoders: MCi0/1/2 (Sec. 3.2) and ViT-B/16, pixels to one embedding per image."""

from __future__ import annotations

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mobileclip.blocks import AttentionBlock, Downsample, MobileOneBlock, RepCPE, RepMixerBlock, make_stem
from mobileclip.config import MCiConfig, ViTConfig
from mobileclip.transformer import LayerNorm, PositionalEmbedding, TransformerLayer

SE_REDUCTION = 16


class _Projection(nn.Module):
    """Mean over positions, then a linear map without bias (official name: `proj`)."""

    def __init__(self, dim: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Parameter(torch.randn(dim, embed_dim) * dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) @ self.proj if x.ndim == 4 else x @ self.proj


class MCi(nn.Module):
    """Convolutional stem, three RepMixer stages and one attention stage; total stride 32.

    Args:
        config: Depths and widths.
        embed_dim: Width of the embedding.
    """

    def __init__(self, config: MCiConfig, embed_dim: int) -> None:
        super().__init__()
        dims = config.dims
        self.patch_embed = make_stem(dims[0])
        layers: list[nn.Module] = []
        for stage, (depth, dim) in enumerate(zip(config.depths[:3], dims[:3], strict=True)):
            hidden = dim * config.mlp_ratio
            layers.append(nn.Sequential(*[RepMixerBlock(dim, hidden) for _ in range(depth)]))
            # The two last of the three downsamplings carry a squeeze-and-excite gate.
            layers.append(Downsample(dim, dims[stage + 1], se=stage > 0))
        last, hidden = dims[3], dims[3] * config.mlp_ratio
        blocks = [AttentionBlock(last, hidden, head_dim=config.head_dim) for _ in range(config.depths[3])]
        self.network = nn.ModuleList([*layers, RepCPE(last), nn.Sequential(*blocks)])
        se_channels = 2 * last // SE_REDUCTION
        self.conv_exp = MobileOneBlock(last, 2 * last, 3, groups=last, se_channels=se_channels)
        self.head = _Projection(2 * last, embed_dim)

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings of `pixels` in [0, 1], not normalised."""
        return self.head(self.forward_features(pixels))

    def forward_features(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch dim h32 w32"]:
        """Return the map before pooling: twice the last stage's channels, 1/32 of the height and width."""
        x = self.patch_embed(pixels)
        for layer in self.network:
            x = layer(x)
        return self.conv_exp(x)


class _StemConv(nn.Module):
    """Convolution with optional batch normalisation and GELU (official names: `block.conv`, `block.norm`)."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, padding: int, *, last: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(in_channels, out_channels, kernel, kernel, padding, bias=last)
        layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv)
        if not last:
            layers["norm"] = nn.BatchNorm2d(out_channels)
            layers["act"] = nn.GELU()
        self.block = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class VisionTransformer(nn.Module):
    """ViT with a convolutional stem of stride 16; the class token carries no positional embedding.

    Args:
        config: Depth, width and image size.
        embed_dim: Width of the embedding.
    """

    def __init__(self, config: ViTConfig, embed_dim: int) -> None:
        super().__init__()
        dim = config.dim
        self.patch_emb = nn.Sequential(
            _StemConv(3, dim // 4, 4, 1, last=False),
            _StemConv(dim // 4, dim // 4, 2, 0, last=False),
            _StemConv(dim // 4, dim, 2, 0, last=True),
        )
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim) * dim**-0.5)
        self.pos_embed = PositionalEmbedding((config.image_size // 16) ** 2, dim)
        self.transformer = nn.Sequential(*[TransformerLayer(dim, config.num_heads) for _ in range(config.depth)])
        self.post_transformer_norm = LayerNorm(dim)
        self.classifier = _Projection(dim, embed_dim)

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings of `pixels` in [0, 1], not normalised."""
        patches = self.patch_emb(pixels).flatten(2).transpose(1, 2)
        patches = patches + self.pos_embed(patches.shape[1])
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        tokens = self.post_transformer_norm(self.transformer(tokens)[:, 0])
        return self.classifier(tokens)


class ImageEncoder(nn.Module):
    """The image half of MobileCLIP under its official name.

    Args:
        config: MCi or ViT.
        embed_dim: Width of the embedding.
    """

    def __init__(self, config: MCiConfig | ViTConfig, embed_dim: int) -> None:
        super().__init__()
        build = MCi if isinstance(config, MCiConfig) else VisionTransformer
        self.model = build(config, embed_dim)

    def forward(self, pixels: Float[Tensor, "batch 3 h w"]) -> Float[Tensor, "batch embed_dim"]:
        """Return embeddings of `pixels` in [0, 1], not normalised."""
        return self.model(pixels)
