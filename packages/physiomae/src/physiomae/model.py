"""The model: a stem for each modality, an encoder that sees visible tokens only, a light decoder with heads.

Shapes: B windows, M modalities of the batch, N patches of a window, C channels, p samples of a patch, K visible tokens
(at most), D width of the encoder, E of the decoder. Tokens are laid out [B, M, N], modalities in the model's own order
whatever the batch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from physiomae.batch import MultimodalBatch
from physiomae.config import ModalityConfig, PhysioMAEConfig

CONV_WIDTH, CONV_KERNEL = 8, 5
SPECTRUM_FLOOR = 0.1  # keeps the logarithm of silence finite; signals have about unit variance


@dataclass
class Encoded:
    """What the encoder made of the visible tokens.

    Attributes:
        states: [B, K, D].
        index: Place of each in [M * N]; padding points at 0.
        valid: False where a window has fewer visible tokens than the batch's most.
        names: The batch's modalities, in order.
        attention: Where asked for, each block's weights [B, heads, K, K].
    """

    states: Tensor
    index: Tensor
    valid: Tensor
    names: tuple[str, ...]
    attention: list[Tensor] = field(default_factory=list)


class Stem(nn.Module):
    """Patches to tokens; every channel has its own weights, and a missing token where it is absent."""

    def __init__(self, num_channels: int, patch: int, dim: int, kind: str) -> None:
        super().__init__()
        self.convolutions = _convolutions() if kind == "conv" else nn.Identity()
        width = patch if kind == "linear" else CONV_WIDTH * -(-patch // 4)
        self.weight = nn.Parameter(torch.randn(num_channels, width, dim) / math.sqrt(num_channels * width))
        self.missing = nn.Parameter(torch.randn(num_channels, dim) / math.sqrt(num_channels * dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, patches: Tensor, present: Tensor) -> Tensor:
        """Return tokens [B, N, D] of patches [B, C, N, p] and which channels are there [B, C, N]."""
        there = present.to(patches.dtype)
        if isinstance(self.convolutions, nn.Sequential):
            patches = self.convolutions(patches.flatten(0, 2)[:, None]).flatten(1).unflatten(0, patches.shape[:3])
        tokens = torch.einsum("bcnp,cpd->bnd", patches * there[..., None], self.weight)
        return tokens + torch.einsum("bcn,cd->bnd", 1 - there, self.missing) + self.bias


def _convolutions() -> nn.Sequential:
    """Three convolutions over one channel's patch, a quarter of its length at the end."""
    layers: list[nn.Module] = []
    for channels, stride in ((1, 2), (CONV_WIDTH, 2), (CONV_WIDTH, 1)):
        layers += [nn.Conv1d(channels, CONV_WIDTH, CONV_KERNEL, stride, CONV_KERNEL // 2), nn.GELU()]
    return nn.Sequential(*layers)


class Block(nn.Module):
    """A transformer block, normalised before attention and MLP."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.project = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None, keep: list[Tensor] | None = None) -> Tensor:
        """Return x after the block; `mask` [B, 1, 1, K] is True where there is a token, `keep` gets the weights."""
        query, key, value = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if keep is None:
            mixed = F.scaled_dot_product_attention(query, key, value, mask)
        else:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
            weights = (scores if mask is None else scores.masked_fill(~mask, -torch.inf)).softmax(-1)
            keep.append(weights)
            mixed = weights @ value
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class PhysioMAE(nn.Module):
    """A cross-modal masked autoencoder that takes any subset of its modalities.

    `embed` is what most users want; `encode`, `decode` and `targets` are what objectives are made of.
    """

    time: Tensor
    time_out: Tensor

    def __init__(self, config: PhysioMAEConfig, *, late_fusion: bool = False) -> None:
        """Build a model with random weights.

        Args:
            config: Modalities and sizes.
            late_fusion: Whether modalities are encoded alone, without attention between them.
        """
        super().__init__()
        self.config, self.late_fusion = config, late_fusion
        dim, width = config.dim, config.decoder_dim
        self.stems = nn.ModuleDict({m.name: self._stem(m) for m in config.modalities})
        self.modality = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(dim)) for name in config.names})
        self.blocks = nn.ModuleList(Block(dim, config.num_heads) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(dim)
        self.contrast = nn.Linear(dim, dim)
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.to_decoder, self.mask_token = nn.Linear(dim, width), nn.Parameter(0.02 * torch.randn(width))
        self.modality_out = nn.ParameterDict({name: nn.Parameter(0.02 * torch.randn(width)) for name in config.names})
        self.decoder = nn.ModuleList(Block(width, config.num_heads) for _ in range(config.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({m.name: nn.Linear(width, self._num_outputs(m)) for m in config.modalities})
        self.register_buffer("time", sinusoids(config.num_patches, dim), persistent=False)
        self.register_buffer("time_out", sinusoids(config.num_patches, width), persistent=False)

    def _stem(self, modality: ModalityConfig) -> Stem:
        patch = self.config.patch_samples(modality)
        return Stem(len(modality.channels), patch, self.config.dim, self.config.stem)

    def _num_outputs(self, modality: ModalityConfig) -> int:
        patch = self.config.patch_samples(modality)
        return len(modality.channels) * (patch + patch // 2 + 1)

    def order(self, batch: MultimodalBatch) -> tuple[str, ...]:
        """Return the batch's modalities in the model's order."""
        return tuple(name for name in self.config.names if name in batch.signals)

    def available(self, batch: MultimodalBatch) -> Tensor:
        """Return which tokens exist [B, M, N]: patches with at least one channel."""
        return torch.stack([batch.present[name].any(1) for name in self.order(batch)], 1)

    def tokens(self, batch: MultimodalBatch) -> Tensor:
        """Return all tokens [B, M, N, D], with their modality's and their time's embedding."""
        found = []
        for name in self.order(batch):
            patches = batch.signals[name].unflatten(-1, (self.config.num_patches, -1))
            token = self.stems[name](patches, batch.present[name]) + self.modality[name]
            found.append(token + self.time)
        return torch.stack(found, 1)

    def encode(self, batch: MultimodalBatch, visible: Tensor | None = None, *, attention: bool = False) -> Encoded:
        """Encode the visible tokens only.

        Args:
            batch: Windows.
            visible: Which tokens are seen [B, M, N]; all that exist by default.
            attention: Keep attention weights.

        Returns:
            States of the visible tokens; in late fusion one row for each window and modality.
        """
        tokens = self.tokens(batch)
        visible = self.available(batch) if visible is None else visible
        if self.late_fusion:
            tokens, visible = tokens.flatten(0, 1)[:, None], visible.flatten(0, 1)[:, None]
        index, valid = gather_index(visible.flatten(1))
        states = tokens.flatten(1, 2).gather(1, index[..., None].expand(-1, -1, tokens.shape[-1]))
        mask = None if bool(valid.all()) else _key_mask(valid)
        kept: list[Tensor] | None = [] if attention else None
        for block in self.blocks:
            states = block(states, mask, kept)
        return Encoded(self.norm(states), index, valid, self.order(batch), kept or [])

    def decode(self, encoded: Encoded) -> dict[str, Tensor]:
        """Return each modality's predicted targets [B, C, N, p + p // 2 + 1] at every place."""
        names, num = encoded.names, self.config.num_patches
        groups = 1 if self.late_fusion else len(names)
        states = self.to_decoder(encoded.states)
        last = groups * num  # padding is written to one place more, which is then cut off
        place = torch.where(encoded.valid, encoded.index, last)[..., None].expand_as(states)
        full = self.mask_token.to(states.dtype).expand(len(states), last + 1, -1)
        full = full.scatter(1, place, states)[:, :last]
        x = full.reshape(-1, len(names), num, full.shape[-1])
        x = x + self.time_out + torch.stack([self.modality_out[name] for name in names])[:, None]
        x = x.flatten(1, 2) if not self.late_fusion else x.flatten(0, 1)
        for block in self.decoder:
            x = block(x, None)
        x = self.decoder_norm(x).view(-1, len(names), num, x.shape[-1])
        return {name: self._head(name, x[:, place]) for place, name in enumerate(names)}

    def _head(self, name: str, x: Tensor) -> Tensor:
        """Predicted targets [B, C, N, outputs] of a modality's decoded tokens [B, N, E]."""
        channels = len(self.config.modality(name).channels)
        return self.heads[name](x).unflatten(-1, (channels, -1)).transpose(1, 2)

    def targets(self, batch: MultimodalBatch) -> dict[str, Tensor]:
        """Return what is to be reconstructed of each modality [B, C, N, p + p // 2 + 1], see `patch_targets`."""
        return {
            name: patch_targets(batch.signals[name].unflatten(-1, (self.config.num_patches, -1)))
            for name in self.order(batch)
        }

    def embed(
        self, batch: MultimodalBatch, available: Sequence[str] | None = None, *, by_modality: bool = False
    ) -> Tensor:
        """Return one vector for each window, from any subset of the modalities.

        The mean of the states of all tokens. Order of `available` and of the batch do not matter, and a modality that
        is left out has no influence: it is no token.

        Args:
            batch: Windows.
            available: Modalities to look at; all of the batch by default.
            by_modality: Mean of each of the model's modalities instead, side by side; nan for those that are not there.

        Returns:
            [B, D], or [B, modalities of the model * D].
        """
        seen = batch if available is None else batch.only(available)
        encoded = self.encode(seen)
        if not by_modality and not self.late_fusion:
            weight = encoded.valid[..., None].to(encoded.states.dtype)
            return (encoded.states * weight).sum(1) / weight.sum(1).clamp(min=1)
        means, found = self.modality_means(encoded)
        if not by_modality:
            return (means * found[..., None]).sum(1) / found.sum(1, keepdim=True).clamp(min=1)
        whole = means.new_full((len(means), len(self.config.names), means.shape[-1]), torch.nan)
        places = [self.config.names.index(name) for name in encoded.names]
        whole[:, places] = means.masked_fill(~found[..., None], torch.nan)
        return whole.flatten(1)

    def modality_means(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Return the mean state of each of the batch's modalities [B, M, D] (0 without a token), and which have one."""
        num = len(encoded.names)
        if self.late_fusion:
            weight = encoded.valid.to(encoded.states.dtype)[..., None]
            means = (encoded.states * weight).sum(1) / weight.sum(1).clamp(min=1)
            return means.unflatten(0, (-1, num)), encoded.valid.any(1).unflatten(0, (-1, num))
        owner = F.one_hot(encoded.index // self.config.num_patches, num) * encoded.valid[..., None]
        count = owner.sum(1)
        total = torch.einsum("bkm,bkd->bmd", owner.to(encoded.states.dtype), encoded.states)
        return total / count[..., None].clamp(min=1), count > 0


def _key_mask(valid: Tensor) -> Tensor:
    """Keys [B, 1, 1, K]; a row without any token attends to its padding, which nobody reads, instead of to nothing."""
    return (valid | ~valid.any(1, keepdim=True))[:, None, None]


def gather_index(visible: Tensor) -> tuple[Tensor, Tensor]:
    """Return places of the visible tokens [B, K] of a mask [B, L], in order, and which of them are real."""
    count = visible.sum(1)
    width = max(1, int(count.max()))
    index = visible.int().argsort(dim=1, descending=True, stable=True)[:, :width]
    valid = torch.arange(width, device=visible.device) < count[:, None]
    return torch.where(valid, index, 0), valid


def patch_targets(patches: Tensor) -> Tensor:
    """Return samples and log spectrum of patches [..., p] side by side [..., p + p // 2 + 1].

    Between modalities phases are often free, so that samples alone could not be predicted across them; amplitudes can.
    """
    spectrum = torch.fft.rfft(patches.float(), norm="ortho").abs()
    return torch.cat([patches.float(), (spectrum + SPECTRUM_FLOOR).log()], -1)


def sinusoids(length: int, dim: int) -> Tensor:
    """Return the sinusoidal embedding of `length` places [length, dim]."""
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(1000.0) / dim))
    angles = torch.arange(length)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def encoder_macs(config: PhysioMAEConfig, num_tokens: float) -> float:
    """Return multiply-adds of the encoder's blocks for one sequence of `num_tokens` tokens, forward pass."""
    linear = 12 * config.dim**2 * num_tokens
    return config.num_layers * (linear + 2 * config.dim * num_tokens**2)
