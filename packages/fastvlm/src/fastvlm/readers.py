"""Small models that learn to read within minutes: image encoders, reducers of tokens, and a language model.

Shapes are those of the real ones, sizes are not: FastViTHD with fewer and narrower blocks, a ViT of 16-pixel patches
that takes a CPU as long as it, a decoder with Qwen2's layers (`LanguageConfig`) over a vocabulary of words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from fastvlm.config import STRIDE, EncoderConfig, LanguageConfig
from fastvlm.encoder import FastViTHD, pool_tokens, prune_tokens

PATCH = 16
PLACES = 4  # a side, in a token's cell
SMALL_FASTVITHD = EncoderConfig(depths=(1, 1, 2, 1, 1), dims=(16, 32, 64, 128, 256), embed_dim=0, image_size=128)
VIT_DIM, VIT_DEPTH, HEAD_DIM = 128, 4, 32
LAYER_SCALE = 0.3  # the published 1e-5 takes longer to grow than these runs last
ROPE_THETA = 10_000.0

LANGUAGE_MODELS: dict[str, LanguageConfig] = {
    "2 layers of 96": LanguageConfig("qwen2", 96, 2, 3, 3, 256, 98, tied=True),
    "3 layers of 128": LanguageConfig("qwen2", 128, 3, 4, 4, 384, 98, tied=True),
}


class GreyFastViTHD(nn.Module):
    """FastViTHD on grey pages: stride 64."""

    def __init__(self, config: EncoderConfig = SMALL_FASTVITHD) -> None:
        super().__init__()
        self.body = FastViTHD(config).to(memory_format=torch.channels_last)
        self.map_dims = (*config.dims[-3:-1], config.out_dim)
        with torch.no_grad():
            for name, parameter in self.body.named_parameters():
                if "layer_scale" in name:
                    parameter.fill_(LAYER_SCALE)

    def forward(self, pixels: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch dim side side"]:
        """Return the token map."""
        return self.body.forward_map(_three_channels(pixels))

    def maps(self, pixels: Float[Tensor, "batch 1 size size"]) -> list[Tensor]:
        """Return the maps of stride 16, 32 and 64, the last one the token map."""
        x = self.body.patch_embed(_three_channels(pixels))
        stages = []
        for layer in self.body.network:
            x = layer(x)
            if isinstance(layer, nn.Sequential):
                stages.append(x)
        return [*stages[-3:-1], self.body.conv_exp(x)]


def _three_channels(pixels: Tensor) -> Tensor:
    return pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)


class GreyViT(nn.Module):
    """A pre-norm ViT on grey pages, sine positions in two dimensions: stride 16."""

    def __init__(self, dim: int = VIT_DIM, depth: int = VIT_DEPTH) -> None:
        super().__init__()
        self.map_dims = (dim, dim, dim)
        self.patch = nn.Conv2d(1, dim, PATCH, PATCH)
        self.blocks = nn.ModuleList([VitBlock(dim) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)

    def forward(self, pixels: Float[Tensor, "batch 1 size size"]) -> Float[Tensor, "batch dim side side"]:
        """Return the token map."""
        x = self.patch(pixels)
        side = x.shape[2]
        x = x.flatten(2).transpose(1, 2) + plane_positions(side, self.map_dims[-1], x.device)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).transpose(1, 2).unflatten(2, (side, side))

    def maps(self, pixels: Float[Tensor, "batch 1 size size"]) -> list[Tensor]:
        """Return the token map, and pooled to stride 32 and 64."""
        tokens = self(pixels)
        return [tokens, F.avg_pool2d(tokens, 2), F.avg_pool2d(tokens, 4)]


Encoder = GreyFastViTHD | GreyViT


class VitBlock(nn.Module):
    """Attention and a feed-forward part of four times the width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = _heads(self.qkv(self.norm1(x)), 3)
        x = x + self.out(_merge(F.scaled_dot_product_attention(query, key, value)))
        return x + self.mlp(self.norm2(x))


class SmallLM(nn.Module):
    """A decoder with Qwen2's layers: RMS norm, rotary positions, biased query, key and value, SwiGLU, tied output."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.layers = nn.ModuleList([LanguageBlock(config.dim, config.hidden_dim) for _ in range(config.num_layers)])
        self.norm = nn.RMSNorm(config.dim)

    def forward(self, embeds: Float[Tensor, "batch length dim"]) -> Float[Tensor, "batch length dim"]:
        """Return the last hidden states."""
        turn = rotations(embeds.shape[1], HEAD_DIM, embeds.device)
        for layer in self.layers:
            embeds = layer(embeds, turn)
        return self.norm(embeds)

    def read_out(self, hidden: Float[Tensor, "... dim"]) -> Float[Tensor, "... vocab"]:
        """Return logits."""
        return F.linear(hidden, self.embedding.weight)


class LanguageBlock(nn.Module):
    """Causal attention with rotary positions, then SwiGLU.

    Keys also see the token before theirs, which is what an induction head needs: without it, finding the word after
    X takes small models thousands of steps to learn.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim, bias=False)
        self.previous = nn.Linear(dim, dim, bias=False)
        self.gate_up, self.down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        normed = self.norm1(x)
        query, key, value = _heads(self.qkv(normed), 3)
        (before,) = _heads(self.previous(F.pad(normed, (0, 0, 1, -1))), 1)
        query, key = _rotate(query, turn), _rotate(key + before, turn)
        x = x + self.out(_merge(F.scaled_dot_product_attention(query, key, value, is_causal=True)))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def _heads(x: Tensor, parts: int) -> tuple[Tensor, ...]:
    """[batch, length, parts * dim] to `parts` tensors [batch, heads, length, head_dim]."""
    return tuple(part.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2) for part in x.chunk(parts, dim=-1))


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def rotations(length: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [length, dim] of rotary positions."""
    angles = _angles(torch.arange(length, device=device), dim)
    return torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()


def plane_positions(side: int, dim: int, device: torch.device) -> Tensor:
    """Return sine positions [side * side, dim] of a square map, row by row: half of the channels per axis."""
    angles = _angles(torch.arange(side, device=device), dim // 2)
    line = torch.cat([angles.sin(), angles.cos()], -1)
    rows, columns = line[:, None].expand(side, side, -1), line[None].expand(side, side, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


def _angles(positions: Tensor, dim: int) -> Tensor:
    rates = ROPE_THETA ** (-torch.arange(0, dim, 2, device=positions.device) / dim)
    return positions[:, None].float() * rates


class WordContrast(nn.Module):
    """Word-contrastive pre-training: the token where a word stands must point to that word among all words.

    It does so on three maps of an encoder, of stride 16, 32 and 64: by the last alone FastViTHD learns far more
    slowly. A token may hold several words, so that a linear map gives it 4 x 4 places, and the one next to where the
    word stands in the token's cell is compared.

    Args:
        encoder: Gives token maps.
        num_words: Words told apart.
        dim: Width in which places and words are compared.
    """

    def __init__(self, encoder: Encoder, num_words: int, dim: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        self.places = nn.ModuleList([nn.Linear(width, PLACES**2 * dim) for width in encoder.map_dims])
        self.words = nn.Embedding(num_words, dim)
        nn.init.normal_(self.words.weight, std=dim**-0.5)

    def forward(
        self, pixels: Tensor, words: Int[Tensor, "batch words"], centres: Float[Tensor, "batch words 2"]
    ) -> tuple[list[Tensor], Tensor]:
        """Return logits [batch, words, num_words] per map, and targets, -100 where a word is none of the vocabulary."""
        targets = torch.where((words >= 0) & (words < self.words.num_embeddings), words.long(), -100)
        maps = zip(self.encoder.maps(pixels), self.places, strict=True)
        return [self._point(features, places, centres) for features, places in maps], targets

    def _point(self, features: Tensor, to_places: nn.Module, centres: Tensor) -> Tensor:
        side = features.shape[-1]
        places = centres * side
        cells = places.floor().clamp(max=side - 1)
        index = (cells[..., 1] * side + cells[..., 0]).long()
        tokens = features.flatten(2).transpose(1, 2)
        chosen = tokens.gather(1, index[..., None].expand(-1, -1, tokens.shape[2]))
        query = (to_places(chosen).unflatten(-1, (PLACES**2, -1)) * _nearness(places - cells)[..., None]).sum(-2)
        return F.linear(query, self.words.weight)


def _nearness(offsets: Tensor) -> Tensor:
    """Weights of the places of a cell [..., 16] at an (x, y) offset in [0, 1]: the nearest ones count, in all 1."""
    middles = (torch.arange(PLACES, device=offsets.device) + 0.5) / PLACES
    squares = (offsets[..., None] - middles) ** 2
    distance = squares[..., 1, :, None] + squares[..., 0, None, :]
    return (-distance.flatten(-2) * PLACES**2 / 0.5).softmax(-1)


@dataclass(frozen=True)
class Arm:
    """A way from a page to image tokens.

    Args:
        name: In tables and figures.
        encoder: "fastvithd" or "vit".
        reduce: From a token sequence to fewer tokens, given how many.
        stride: Pixels a side of the page for each token.
        tiles: Tiles a side; above 1 an overview goes before them, all at `resolution // tiles` pixels.
    """

    name: str
    encoder: str
    reduce: Callable[[Tensor, int], Tensor] | None = None
    stride: int = STRIDE
    tiles: int = 1

    def num_tokens(self, resolution: int) -> int:
        """Return the image tokens of a page of that resolution."""
        views = 1 if self.tiles == 1 else self.tiles**2 + 1
        return views * (resolution // self.tiles // self.stride) ** 2


def _pool(tokens: Tensor, num_keep: int) -> Tensor:
    return pool_tokens(tokens, round((tokens.shape[1] / num_keep) ** 0.5))


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("FastViTHD", "fastvithd"),
        Arm("ViT", "vit", stride=PATCH),
        Arm("ViT + pruning", "vit", prune_tokens),
        Arm("ViT + pooling", "vit", _pool),
        Arm("ViT + pruning to a quarter", "vit", prune_tokens, stride=2 * PATCH),
        Arm("ViT + pooling of 2 x 2", "vit", _pool, stride=2 * PATCH),
        Arm("FastViTHD, 2 x 2 tiles", "fastvithd", tiles=2),
    )
}


def build_encoder(name: str) -> Encoder:
    """Return a new "fastvithd" or "vit" in train form."""
    return GreyFastViTHD() if name == "fastvithd" else GreyViT()


class Reader(nn.Module):
    """A page's tokens before words, as in `FastVLM`: encoder, projector of two layers, language model.

    Args:
        arm: From a page to tokens.
        encoder: Of `arm.encoder`.
        language_model: Reads tokens and words.
    """

    def __init__(self, arm: Arm, encoder: Encoder, language_model: SmallLM) -> None:
        super().__init__()
        self.arm, self.encoder, self.language_model = arm, encoder, language_model
        dim = language_model.config.dim
        self.projector = nn.Sequential(nn.Linear(encoder.map_dims[-1], dim), nn.GELU(), nn.Linear(dim, dim))

    def answer(
        self, tokens: Float[Tensor, "batch tokens dim"], words: Int[Tensor, "batch length"]
    ) -> Float[Tensor, "batch length vocab"]:
        """Return logits at the words after the image, given its tokens from `look`."""
        return answer_logits(self.language_model, self.projector(tokens), words)

    def forward(self, pixels: Tensor, words: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        """Return logits at the words after the image."""
        return self.answer(look(self.encoder, pixels, [self.arm])[self.arm.name], words)


def look(
    encoder: nn.Module, pixels: Float[Tensor, "batch 1 size size"], arms: Sequence[Arm]
) -> dict[str, Float[Tensor, "batch tokens dim"]]:
    """Return image tokens by arm, of arms that cut pages into the same tiles and have the same encoder."""
    tiles = arms[0].tiles
    views = pixels if tiles == 1 else cut_tiles(pixels, tiles)
    tokens = encoder(views).flatten(2).transpose(1, 2)
    found = {}
    for arm in arms:
        kept = tokens if arm.reduce is None else arm.reduce(tokens, arm.num_tokens(pixels.shape[-1]))
        found[arm.name] = kept.reshape(len(pixels), -1, kept.shape[-1])
    return found


def answer_logits(model: SmallLM, prefix: Tensor | None, words: Tensor) -> Tensor:
    """Return logits at the words that follow a prefix of embeddings (or nothing)."""
    embeds = model.embedding(words)
    if prefix is not None:
        embeds = torch.cat([prefix.to(embeds.dtype), embeds], dim=1)
    return model.read_out(model(embeds)[:, -words.shape[1] :])


def cut_tiles(pixels: Float[Tensor, "batch 1 size size"], count: int) -> Float[Tensor, "views 1 small small"]:
    """Return overview and tiles of each page, page by page, all at `size // count` pixels."""
    small = pixels.shape[-1] // count
    overview = F.interpolate(pixels, size=(small, small), mode="area")
    tiles = pixels.unfold(2, small, small).unfold(3, small, small).flatten(2, 3)
    views = torch.cat([overview[:, :, None], tiles], dim=2)
    return views.transpose(1, 2).flatten(0, 1)
