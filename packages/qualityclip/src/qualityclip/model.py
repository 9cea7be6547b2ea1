"""CLIP in open_clip's layout, so that every parameter has open_clip's name; image towers of timm fit in as well."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tenfold_shared.commands import require_extra
from torch import Tensor, nn

from qualityclip.config import CLIPConfig, TextConfig, VisionConfig

MAX_SCALE = 100.0  # open_clip's bound on the inverse temperature


class QuickGELU(nn.Module):
    """OpenAI's approximation, x sigmoid(1.702 x)."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head self-attention with packed queries, keys and values."""

    def __init__(self, width: int, num_heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.normal_(self.in_proj_weight, std=width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers, four times as wide between them."""

    def __init__(self, width: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.c_fc, self.gelu, self.c_proj = nn.Linear(width, 4 * width), activation(), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """A pre-norm transformer block; `drop_path` is replaced when it is fine-tuned."""

    def __init__(self, width: int, num_heads: int, activation: type[nn.Module], *, causal: bool = False) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = Attention(width, num_heads, causal=causal)
        self.mlp = MLP(width, activation)
        self.drop_path: nn.Module = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.ln_1(x)))
        return x + self.drop_path(self.mlp(self.ln_2(x)))


class Transformer(nn.Module):
    """Blocks in a row."""

    def __init__(
        self, width: int, num_layers: int, num_heads: int, activation: type[nn.Module], *, causal: bool
    ) -> None:
        super().__init__()
        blocks = (Block(width, num_heads, activation, causal=causal) for _ in range(num_layers))
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class VisionTransformer(nn.Module):
    """A ViT with a class token and a projection."""

    def __init__(self, config: VisionConfig, embed_dim: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.config = config
        width, scale = config.width, config.width**-0.5
        self.conv1 = nn.Conv2d(3, width, config.patch_size, config.patch_size, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(config.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.num_layers, config.num_heads, activation, causal=False)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))

    def embed(self, images: Tensor) -> Tensor:
        """Return tokens [batch, 1 + patches, width] before the blocks; positions are resized to the picture's grid."""
        patches = self.conv1(images)
        positions = self._positions(patches.shape[-2], patches.shape[-1])
        tokens = patches.flatten(2).transpose(1, 2) + positions[1:]
        head = (self.class_embedding + positions[0]).expand(len(images), 1, -1)
        return self.ln_pre(torch.cat([head, tokens], dim=1))

    def _positions(self, rows: int, columns: int) -> Tensor:
        grid = self.config.grid
        if (rows, columns) == (grid, grid):
            return self.positional_embedding
        head, patches = self.positional_embedding[:1], self.positional_embedding[1:]
        image = patches.reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        image = F.interpolate(image, (rows, columns), mode="bicubic", align_corners=False, antialias=True)
        return torch.cat([head, image.flatten(2)[0].T])

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.ln_post(self.transformer(self.embed(images)))
        pooled = tokens[:, 0] if self.config.pool == "tok" else tokens[:, 1:].mean(1)
        return pooled @ self.proj


class TimmTower(nn.Module):
    """A model of timm whose classifier is the projection, as in open_clip's MobileCLIP configurations."""

    def __init__(self, config: VisionConfig, embed_dim: int) -> None:
        super().__init__()
        timm = require_extra("timm", "timm", "qualityclip")
        self.config = config
        self.trunk = timm.create_model(config.timm_name, num_classes=embed_dim, **dict(config.timm_options))

    def forward(self, images: Tensor) -> Tensor:
        return self.trunk(images)


class CLIP(nn.Module):
    """Both towers, the logarithm of the inverse temperature and, for the sigmoid loss, a bias.

    Args:
        config: Sizes.
    """

    def __init__(self, config: CLIPConfig) -> None:
        super().__init__()
        self.config = config
        activation = QuickGELU if config.quick_gelu else nn.GELU
        towers = TimmTower if config.vision.timm_name else VisionTransformer
        arguments: tuple[Any, ...] = () if config.vision.timm_name else (activation,)
        self.visual = towers(config.vision, config.embed_dim, *arguments)
        text = config.text
        self.transformer = Transformer(text.width, text.num_layers, text.num_heads, activation, causal=text.causal)
        self.token_embedding = nn.Embedding(text.vocab_size, text.width)
        self.positional_embedding = nn.Parameter(torch.empty(text.context_length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(torch.randn(text.width, config.embed_dim) * text.width**-0.5)
        sigmoid = config.loss == "siglip"
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0) if sigmoid else math.log(1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if sigmoid else None
        self._initialise_text(text)

    def _initialise_text(self, text: TextConfig) -> None:
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.positional_embedding, std=0.01)
        for block in self.transformer.resblocks:
            deep = (text.width**-0.5) * ((2 * text.num_layers) ** -0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=deep)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * text.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=deep)

    def encode_image(
        self, images: Float[Tensor, "batch 3 height width"], *, normalize: bool = False
    ) -> Float[Tensor, "batch dim"]:
        """Return features of pictures."""
        features = self.visual(images)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(
        self, tokens: Int[Tensor, "batch length"], *, normalize: bool = False
    ) -> Float[Tensor, "batch dim"]:
        """Return features of texts; columns after the last end of text are left out, which changes nothing."""
        if self.config.text.causal:
            tokens = tokens[:, : int(tokens.argmax(1).max()) + 1]
        x = self.token_embedding(tokens) + self.positional_embedding[: tokens.shape[1]]
        x = self.ln_final(self.transformer(x))
        features = x[torch.arange(len(x), device=x.device), tokens.argmax(1)] @ self.text_projection
        return F.normalize(features, dim=-1) if normalize else features

    def scale(self) -> Tensor:
        """Return the inverse temperature, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_SCALE)

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return unit-length features of pictures and texts, and the scale."""
        return self.encode_image(images, normalize=True), self.encode_text(tokens, normalize=True), self.scale()
