"""The model: series to groups of tokens, a group-causal transformer over a narrative, tokens to series."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nots.attention import Block, group_mask, rotary_angles
from nots.config import NoTSConfig, Readout
from nots.degradation import narrate
from nots.tokenizers import build_tokenizer

SCALE_FLOOR = 1e-5


def standardise(x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch channels time"]:
    """Return each channel of each series with mean 0 and deviation 1; a constant one becomes 0."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / centred.square().mean(-1, keepdim=True).sqrt().clamp_min(SCALE_FLOOR)


def resample(x: Float[Tensor, "batch channels time"], length: int) -> Float[Tensor, "batch channels {length}"]:
    """Return series at another length: linear between samples, averages where there are fewer."""
    if x.shape[-1] == length:
        return x
    if x.shape[-1] > length and x.shape[-1] % length == 0:
        return functional.avg_pool1d(x, x.shape[-1] // length)
    return functional.interpolate(x, size=length, mode="linear", align_corners=True)


class NoTS(nn.Module):
    """An autoregressive transformer over functions (sections 3.1 and 3.2).

    A narrative's elements are groups of tokens. The state of group k sees groups 1 to k, inside a group in both
    directions, and is decoded to element k + 1. Rotary positions restart in each group; each element and each channel
    has a learned embedding. Those of the elements begin at zero, since the raw one's is trained by no objective.

    Args:
        config: Sizes.

    Example:
        >>> model = NoTS(NoTSConfig(length=32, patch=8, dim=16, num_heads=2))
        >>> model.embed(torch.randn(3, 1, 32)).shape
        torch.Size([3, 16])
    """

    positions: Tensor

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = build_tokenizer(config)
        self.element = nn.Parameter(torch.zeros(config.num_groups, config.dim))
        channels = config.num_channels if config.channel_embedding else 0
        self.channel = nn.Parameter(0.02 * torch.randn(channels, config.dim))
        blocks = [Block(config.dim, config.num_heads, config.mlp_dim) for _ in range(config.num_layers)]
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(config.dim)
        places = torch.arange(config.num_patches).repeat(config.num_channels)
        self.register_buffer("positions", places, persistent=False)

    def tokens(
        self, x: Float[Tensor, "batch channels time"], channel: Tensor | None = None
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return the tokens of series, channel by channel; `channel` takes the place of the channels' embedding."""
        self.check(x)
        found = self.encoder(x)
        if channel is not None:
            found = found + channel[:, None]
        elif self.config.channel_embedding:
            found = found + self.channel[:, None]
        return found.flatten(1, 2)

    def check(self, x: Tensor) -> None:
        """Raise if series do not have the model's channels and length."""
        expected = (self.config.num_channels, self.config.length)
        if x.ndim != 3 or tuple(x.shape[1:]) != expected:
            raise ValueError(
                f"series of shape {tuple(x.shape)} for a model of {expected[0]} channels and {expected[1]} samples; "
                "`adapt` maps channels, `resample` lengths."
            )

    def decode(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch channels time"]:
        """Return the series that tokens stand for."""
        return self.decoder(tokens.unflatten(1, (self.config.num_channels, -1)))

    def narrative_tokens(
        self, groups: Float[Tensor, "batch groups channels time"], channel: Tensor | None = None
    ) -> Float[Tensor, "batch groups tokens dim"]:
        """Return tokens of a narrative's first elements, with their embeddings."""
        batch, num = groups.shape[:2]
        found = self.tokens(groups.flatten(0, 1), channel).unflatten(0, (batch, num))
        return found + self.element[:num, None]

    def run(
        self,
        tokens: Float[Tensor, "batch groups tokens dim"],
        mask: Tensor | None,
        prompts: Sequence[Tensor] | None = None,
    ) -> Float[Tensor, "batch groups tokens dim"]:
        """Run the transformer over all groups."""
        num = tokens.shape[1]
        angles = rotary_angles(self.positions.repeat(num), self.config.dim // self.config.num_heads)
        x = tokens.flatten(1, 2)
        for place, block in enumerate(self.blocks):
            x = block(x, angles, mask, None if prompts is None else prompts[place])
        return self.norm(x).unflatten(1, (num, -1))

    def states(
        self,
        groups: Float[Tensor, "batch groups channels time"],
        *,
        prompts: Sequence[Tensor] | None = None,
        channel: Tensor | None = None,
    ) -> Float[Tensor, "batch groups tokens dim"]:
        """Return the states of a narrative's elements, each from itself and those before it."""
        mask = group_mask(self.config.mask, groups.shape[1], self.config.group_tokens, groups.device)
        return self.run(self.narrative_tokens(groups, channel), mask, prompts)

    def features(
        self,
        x: Float[Tensor, "batch channels time"],
        readout: Readout = "sequence",
        *,
        prompts: Sequence[Tensor] | None = None,
        channel: Tensor | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        """Return a feature for each token.

        From the "sequence": the mean of the last two elements' states (the raw signal, and the finest that pretraining
        has had as an input). From the "raw" signal: its states alone, which is what next and mae are trained on.

        Args:
            x: Standardised series of the model's length.
            readout: Which.
            prompts: One [prompts, dim] for each layer.
            channel: Another embedding of the channels [channels, dim].
        """
        if readout == "raw":
            return self.run(self.tokens(x, channel)[:, None], None, prompts)[:, 0]
        states = self.states(narrate(x, self.config.schedules[0]), prompts=prompts, channel=channel)
        return states[:, -2:].mean(1)

    def embed(
        self, x: Float[Tensor, "batch channels time"], readout: Readout = "sequence"
    ) -> Float[Tensor, "batch dim"]:
        """Return one vector for each series: the mean of its tokens' features."""
        return self.features(x, readout).mean(1)

    @torch.no_grad()
    def tell(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch groups channels time"]:
        """Return what the model tells of each next element: prediction k is of element k + 1, from 1 to k."""
        groups = narrate(x, self.config.schedules[0])
        states = self.states(groups[:, :-1])
        return self.decode(states.flatten(0, 1)).unflatten(0, states.shape[:2])


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
