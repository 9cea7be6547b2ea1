"""Tokenizers: a series as tokens [batch, channels, patches, dim], and decoders that make series of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nots.config import NoTSConfig


class PatchTokenizer(nn.Module):
    """Patches through a residual MLP, each on its own."""

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.into = nn.Linear(config.patch, config.dim)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(config.dim, config.dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of series [batch, channels, time]."""
        first = self.into(x.unflatten(-1, (-1, self.patch)))
        return first + self.mix(first)


class PatchDecoder(nn.Module):
    """The way back: a residual MLP on each token, then its samples."""

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(config.dim, config.dim))
        self.out = nn.Linear(config.dim, config.patch)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return series [batch, channels, time] of tokens."""
        return self.out(tokens + self.mix(tokens)).flatten(-2)


class LinearTokenizer(nn.Module):
    """PatchTST's: a linear map of each patch, and a learned position."""

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.into = nn.Linear(config.patch, config.dim)
        self.position = nn.Parameter(0.02 * torch.randn(config.num_patches, config.dim))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of series [batch, channels, time]."""
        return self.into(x.unflatten(-1, (-1, self.patch))) + self.position


class LinearDecoder(nn.Module):
    """A linear map of each token to its samples."""

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        self.out = nn.Linear(config.dim, config.patch)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return series of tokens."""
        return self.out(tokens).flatten(-2)


class Residual(nn.Module):
    """Two convolutions with a way around them."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        layers = [nn.GELU(), nn.Conv1d(dim, dim, 3, padding=1), nn.GELU(), nn.Conv1d(dim, dim, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Apply to [rows, dim, time]."""
        return x + self.layers(x)


class ResNetTokenizer(nn.Module):
    """The paper's 1D ResNet: convolutions look over the borders of patches.

    That leaks neighbouring samples into a patch: fair for nots, whose targets are whole functions, and not for `next`
    and `mae`, which `objectives` refuses with it.
    """

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        width = max(8, config.dim // 4)
        self.layers = nn.Sequential(
            nn.Conv1d(1, width, 5, padding=2),
            Residual(width),
            nn.Conv1d(width, config.dim, config.patch, stride=config.patch),
            Residual(config.dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of series [batch, channels, time]."""
        rows = self.layers(x.flatten(0, 1).unsqueeze(1))
        return rows.transpose(1, 2).unflatten(0, x.shape[:2])


class ResNetDecoder(nn.Module):
    """The way back, by transposed convolution."""

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        width = max(8, config.dim // 4)
        self.layers = nn.Sequential(
            Residual(config.dim),
            nn.ConvTranspose1d(config.dim, width, config.patch, stride=config.patch),
            Residual(width),
            nn.Conv1d(width, 1, 5, padding=2),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return series of tokens."""
        rows = self.layers(tokens.flatten(0, 1).transpose(1, 2)).squeeze(1)
        return rows.unflatten(0, tokens.shape[:2])


PARTS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "patch": (PatchTokenizer, PatchDecoder),
    "resnet": (ResNetTokenizer, ResNetDecoder),
    "patchtst": (LinearTokenizer, LinearDecoder),
    "itransformer": (PatchTokenizer, PatchDecoder),  # one patch as long as the series: a token for each channel
}


def build_tokenizer(config: NoTSConfig) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder of a configuration."""
    encoder, decoder = PARTS[config.tokenizer]
    return encoder(config), decoder(config)
