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

from fastvlm.cells import PLACES, Layout, WordCells, locate
from fastvlm.config import STRIDE, EncoderConfig, LanguageConfig
from fastvlm.encoder import FastViTHD, pool_tokens, prune_tokens

PATCH = 16
SMALL_FASTVITHD = EncoderConfig(depths=(1, 1, 2, 1, 1), dims=(16, 32, 64, 128, 256), embed_dim=0, image_size=128)
VIT_DIM, VIT_DEPTH, VIT_HEADS = 128, 4, 4
WHOLE = "ViT"  # the arm that keeps all of its tokens
SHORT_VIT = "short vit"  # whose pre-training has as many operations as FastViTHD's
WIDENING = 4  # of a projector, over the language model
LAYER_SCALE = 0.3  # the published 1e-5 takes longer to grow than these runs last
ROPE_THETA = 10_000.0

LANGUAGE_MODELS: dict[str, LanguageConfig] = {
    "2 layers of 96": LanguageConfig("qwen2", 96, 2, 6, 6, 256, 34, tied=True),
    "3 layers of 128": LanguageConfig("qwen2", 128, 3, 8, 8, 384, 34, tied=True),
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
        query, key, value = _heads(self.qkv(self.norm1(x)), 3, VIT_HEADS)
        x = x + self.out(_merge(F.scaled_dot_product_attention(query, key, value)))
        return x + self.mlp(self.norm2(x))


class SmallLM(nn.Module):
    """A decoder with Qwen2's layers: RMS norm, rotary positions, biased query, key and value, SwiGLU, tied output.

    Its `cells` turn words into the image tokens that it learned to read first.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        nn.init.normal_(self.embedding.weight, std=config.dim**-0.5)
        self.layers = nn.ModuleList([LanguageBlock(config) for _ in range(config.num_layers)])
        self.norm = nn.RMSNorm(config.dim)
        self.cells = WordCells(config.dim)

    def forward(
        self,
        image: Float[Tensor, "batch tokens dim"],
        row: Int[Tensor, "batch length"],
        alone: Int[Tensor, "batch count"],
    ) -> Float[Tensor, "batch length+count vocab"]:
        """Return logits at words after an image.

        Args:
            image: Embeddings of its tokens; none for no image.
            row: Words one after the other, each of which sees the image and those before.
            alone: Words that each stand right after the image and see nothing else.
        """
        x = torch.cat([image, self.embedding(torch.cat([row, alone], dim=1))], dim=1)
        frame = Frame.of(image.shape[1], row.shape[1], alone.shape[1], self.config.dim // self.config.num_heads)
        for layer in self.layers:
            x = layer(x, frame)
        return F.linear(self.norm(x[:, image.shape[1] :]), self.embedding.weight)

    def place_words(self, words: Tensor, centres: Tensor, layout: Layout) -> Float[Tensor, "batch tokens dim"]:
        """Return the image tokens of words in cells."""
        return self.cells(self.embedding.weight, words, centres, layout)


@dataclass(frozen=True)
class Frame:
    """What sees what in a sequence of image tokens, words in a row and words alone.

    Args:
        sight: Whether a position sees another, bool [length, length].
        turn: Cosines and sines of rotary positions [length, head_dim].
        joined: 1 where the position before is seen, 0 at words alone [length, 1].
    """

    sight: Tensor
    turn: tuple[Tensor, Tensor]
    joined: Tensor

    @classmethod
    def of(cls, image: int, row: int, alone: int, head_dim: int) -> Frame:
        """Return the frame of so many image tokens, words in a row and words alone."""
        end = image + row
        positions = torch.arange(end + alone)
        sight = positions[:, None] >= positions
        sight[end:, image:] = torch.eye(alone, row + alone).roll(row, 1) > 0
        joined = (positions < end).float()[:, None]
        positions[end:] = image
        return cls(sight, rotations(positions, head_dim), joined)


class LanguageBlock(nn.Module):
    """Attention with rotary positions, then SwiGLU.

    Keys also see the token before theirs, which is what an induction head needs: without it, finding the word after
    X takes small models thousands of steps to learn.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, config.hidden_dim
        self.num_heads = config.num_heads
        self.norm1, self.norm2 = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim, bias=False)
        self.previous = nn.Linear(dim, dim, bias=False)
        self.gate_up, self.down = nn.Linear(dim, 2 * hidden, bias=False), nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor, frame: Frame) -> Tensor:
        normed = self.norm1(x)
        query, key, value = _heads(self.qkv(normed), 3, self.num_heads)
        (before,) = _heads(self.previous(F.pad(normed, (0, 0, 1, -1)) * frame.joined), 1, self.num_heads)
        query, key = _rotate(query, frame.turn), _rotate(key + before, frame.turn)
        x = x + self.out(_merge(F.scaled_dot_product_attention(query, key, value, attn_mask=frame.sight)))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def _heads(x: Tensor, parts: int, count: int) -> tuple[Tensor, ...]:
    """[batch, length, parts * dim] to `parts` tensors [batch, count, length, dim / count]."""
    return tuple(part.unflatten(-1, (count, -1)).transpose(1, 2) for part in x.chunk(parts, dim=-1))


def _merge(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = (part.to(x.dtype) for part in turn)
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine


def rotations(positions: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [length, dim] of rotary positions [length]."""
    angles = _angles(positions, dim)
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
        num_words: Words told apart; one more stands for any other word.
        dim: Width in which places and words are compared.
    """

    def __init__(self, encoder: Encoder, num_words: int, dim: int = 64) -> None:
        super().__init__()
        self.encoder = encoder
        self.places = nn.ModuleList([nn.Linear(width, PLACES**2 * dim) for width in encoder.map_dims])
        self.words = nn.Embedding(num_words + 1, dim)
        nn.init.normal_(self.words.weight, std=dim**-0.5)

    def forward(
        self, pixels: Tensor, words: Int[Tensor, "batch words"], centres: Float[Tensor, "batch words 2"]
    ) -> tuple[list[Tensor], Tensor, Tensor]:
        """Return logits [found, num_words + 1] per map, targets and pages [found], at all words with an id from 0."""
        page, place = (words >= 0).nonzero(as_tuple=True)
        maps = zip(self.encoder.maps(pixels), self.places, strict=True)
        logits = [self._point(features, places, page, centres[page, place]) for features, places in maps]
        return logits, words[page, place].long(), page

    def _point(self, features: Tensor, to_places: nn.Module, page: Tensor, centres: Tensor) -> Tensor:
        cells, weights = locate(centres, features.shape[-1])
        chosen = features.flatten(2).transpose(1, 2)[page, cells]
        query = (to_places(chosen).unflatten(-1, (PLACES**2, -1)) * weights[..., None]).sum(-2)
        return F.linear(query, self.words.weight)


@dataclass(frozen=True)
class Arm:
    """A way from a page to image tokens.

    Args:
        name: In tables and figures.
        encoder: "fastvithd", "vit" or "short vit".
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

    def layout(self, resolution: int) -> Layout:
        """Return how the tokens lie on a page of that resolution."""
        if self.reduce is prune_tokens:
            return Layout(resolution // PATCH, keep=self.num_tokens(resolution))
        return Layout(resolution // self.tiles // self.stride, self.tiles)


def _pool(tokens: Tensor, num_keep: int) -> Tensor:
    return pool_tokens(tokens, round((tokens.shape[1] / num_keep) ** 0.5))


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("FastViTHD", "fastvithd"),
        Arm(WHOLE, "vit", stride=PATCH),
        Arm("ViT + pruning", "vit", prune_tokens),
        Arm("ViT + pooling", "vit", _pool),
        Arm("ViT + pruning to a quarter", "vit", prune_tokens, stride=2 * PATCH),
        Arm("ViT + pooling of 2 x 2", "vit", _pool, stride=2 * PATCH),
        Arm("FastViTHD, 2 x 2 tiles", "fastvithd", tiles=2),
        Arm("ViT of equal operations, pruned to a quarter", SHORT_VIT, prune_tokens, stride=2 * PATCH),
    )
}


def build_encoder(name: str) -> Encoder:
    """Return a new "fastvithd", "vit" or "short vit" (a ViT as well) in train form."""
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
        width = WIDENING * dim  # a language model this narrow would be a bottleneck
        self.projector = nn.Sequential(nn.Linear(encoder.map_dims[-1], width), nn.GELU(), nn.Linear(width, dim))

    def forward(
        self, pixels: Float[Tensor, "batch 1 size size"], words: Int[Tensor, "batch count"]
    ) -> Float[Tensor, "batch count vocab"]:
        """Return logits of what follows each of some words on pages."""
        return self.answer(look(self.encoder, pixels, [self.arm])[self.arm.name], words)

    def answer(
        self, tokens: Float[Tensor, "batch tokens dim"], words: Int[Tensor, "batch count"]
    ) -> Float[Tensor, "batch count vocab"]:
        """Return the same, given tokens from `look`."""
        return self.language_model(self.projector(tokens), words[:, :0], words)


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


def cut_tiles(pixels: Float[Tensor, "batch 1 size size"], count: int) -> Float[Tensor, "views 1 small small"]:
    """Return overview and tiles of each page, page by page, all at `size // count` pixels."""
    small = pixels.shape[-1] // count
    overview = F.interpolate(pixels, size=(small, small), mode="area")
    tiles = pixels.unfold(2, small, small).unfold(3, small, small).flatten(2, 3)
    views = torch.cat([overview[:, :, None], tiles], dim=2)
    return views.transpose(1, 2).flatten(0, 1)
