"""Objectives on one trunk: narratives and their ablations, next period, MAE, frequency-aware MAE, VQ-VAE."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from nots.config import MaskName, NoTSConfig, ScheduleConfig, TrainConfig
from nots.degradation import narrate
from nots.model import NoTS

NARRATIVES = ("nots", "augment", "no_ar_mask", "no_consistency", "noise_degradation")
INDEPENDENT = ("next", "mae", "famae")  # their targets lie in the patches beside, which a convolution would see
NUM_FILTERS, NUM_CODES, COMMITMENT = 8, 64, 0.25
STEP_PRIME = 1_000_003
MASKS: dict[str, MaskName] = {"augment": "own", "no_ar_mask": "full"}


@dataclass(frozen=True)
class Draw:
    """What chance decides in a step; it follows from the seed and the step's number alone.

    Attributes:
        chain: Which of the model's schedules.
        hidden: Tokens that are masked [batch, tokens].
        noise_seed: Of the noise degradation.
    """

    chain: int
    hidden: Bool[Tensor, "batch tokens"]
    noise_seed: int

    @classmethod
    def of(cls, model: NoTSConfig, train: TrainConfig, batch_size: int, step: int) -> Draw:
        """Draw for a step: in each series the same number of tokens is hidden, at least one, and one is seen."""
        generator = torch.Generator().manual_seed((train.seed * STEP_PRIME + step) % 2**63)
        chain = int(torch.randint(len(model.schedules), (), generator=generator))
        tokens = model.group_tokens
        order = torch.rand(batch_size, tokens, generator=generator).argsort(1).argsort(1)
        count = min(max(1, round(train.mask_ratio * tokens)), max(1, tokens - 1))
        return cls(chain, order < count, int(torch.randint(2**31, (), generator=generator)))


class FrequencyMixer(nn.Module):
    """FAMAE's operator: learned filters over the frequencies of the token sequence, of which the strongest counts."""

    def __init__(self, config: NoTSConfig) -> None:
        super().__init__()
        self.num_channels = config.num_channels
        shape = (NUM_FILTERS, config.num_patches // 2 + 1, config.dim)
        self.gain = nn.Parameter(1 + 0.1 * torch.randn(shape))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens [batch, tokens, dim], each value that of the filter whose output is largest by amount."""
        rows = tokens.unflatten(1, (self.num_channels, -1))
        spectrum = torch.fft.rfft(rows, dim=2)
        found = torch.fft.irfft(spectrum[:, None] * self.gain[:, None], n=rows.shape[2], dim=3)
        best = found.abs().argmax(1, keepdim=True)
        return found.gather(1, best)[:, 0].flatten(1, 2)


def trunk_config(model: NoTSConfig, objective: str) -> NoTSConfig:
    """Return a model's settings with the mask that an objective needs."""
    return replace(model, mask=MASKS.get(objective, "causal"))


class Objective(nn.Module):
    """A trunk with an objective; what an objective has beside the trunk is thrown away after pretraining.

    Args:
        model: The trunk.
        config: Of the training.
    """

    def __init__(self, model: NoTS, config: TrainConfig) -> None:
        super().__init__()
        if config.objective in INDEPENDENT and model.config.tokenizer == "resnet":
            raise ValueError(
                f"`objective` (={config.objective!r}) needs patches that do not see each other; use tokenizer 'patch'."
            )
        if config.objective in ("mae", "famae", "next") and model.config.group_tokens < 2:
            raise ValueError(f"`objective` (={config.objective!r}) needs at least two tokens; lower `patch`.")
        if (mask := MASKS.get(config.objective, "causal")) != model.config.mask:
            raise ValueError(f"`objective` (={config.objective!r}) needs a model of `mask` {mask!r}.")
        self.model, self.kind = model, config.objective
        dim = model.config.dim
        if config.objective in ("mae", "famae"):
            self.mask_token = nn.Parameter(0.02 * torch.randn(dim))
        if config.objective == "famae":
            self.mixer = FrequencyMixer(model.config)
        if config.objective == "vqvae":
            self.codes = nn.Parameter(torch.randn(NUM_CODES, dim) / dim**0.5)

    def forward(self, x: Float[Tensor, "batch channels time"], draw: Draw) -> Float[Tensor, ""]:
        """Return the loss of a batch of standardised series."""
        if self.kind in NARRATIVES:
            return self.narrative(x, draw)
        if self.kind == "next":
            return self.next_period(x)
        return self.quantised(x) if self.kind == "vqvae" else self.masked(x, draw)

    def schedule(self, draw: Draw) -> ScheduleConfig:
        """Return the step's chain; the ablation's is of noise."""
        if self.kind == "noise_degradation":
            return ScheduleConfig.default("noise", self.model.config.length, self.model.config.num_groups)
        return self.model.config.schedules[draw.chain]

    def narrative(self, x: Tensor, draw: Draw) -> Tensor:
        """L = sum over k < K of |D(TF(E(S_1..k))) - S_(k+1)| + |D(E(S_K)) - S_K| (equation 4).

        The printed target of the first term is S_k, which contradicts text and figure; ours is S_(k+1).
        """
        generator = torch.Generator(device=x.device).manual_seed(draw.noise_seed)
        groups = narrate(x, self.schedule(draw), generator=generator)
        states = self.model.states(groups[:, :-1])
        told = self.model.decode(states.flatten(0, 1)).unflatten(0, states.shape[:2])
        loss = (told - groups[:, 1:]).abs().mean((0, 2, 3)).sum()
        if self.kind == "no_consistency":
            return loss
        return loss + (self.model.decode(self.model.tokens(x)) - x).abs().mean()

    def next_period(self, x: Tensor) -> Tensor:
        """L1 of each next patch, from the patches of all channels up to it."""
        config = self.model.config
        tokens = self.model.tokens(x)
        period = self.model.positions
        states = self.model.run(tokens[:, None], period[None, :] <= period[:, None])[:, 0]
        told = self.model.decode(states).unflatten(-1, (config.num_patches, -1))
        target = x.unflatten(-1, (config.num_patches, -1))
        if config.num_patches < 2:
            raise ValueError("`next` needs at least two patches.")
        return (told[:, :, :-1] - target[:, :, 1:]).abs().mean()

    def masked(self, x: Tensor, draw: Draw) -> Tensor:
        """L1 of hidden patches, from the visible ones; every token is in the trunk, hidden ones as a learned token."""
        hidden = draw.hidden.to(x.device)[..., None]
        tokens = self.model.encoder(x).flatten(1, 2)
        tokens = torch.where(hidden, self.mask_token, tokens)
        if self.kind == "famae":
            tokens = self.mixer(tokens)
        if self.model.config.channel_embedding:
            tokens = tokens + self.model.channel.repeat_interleave(self.model.config.num_patches, 0)
        states = self.model.run(tokens[:, None], None)[:, 0]
        patches = x.unflatten(-1, (self.model.config.num_patches, -1)).flatten(1, 2)
        told = self.model.decode(states).unflatten(-1, (self.model.config.num_patches, -1)).flatten(1, 2)
        return ((told - patches).abs().mean(-1, keepdim=True) * hidden).sum() / hidden.sum()

    def quantised(self, x: Tensor) -> Tensor:
        """Reconstruct from the nearest codes of the states, with the commitment of van den Oord (2017)."""
        states = self.model.run(self.model.tokens(x)[:, None], None)[:, 0]
        nearest = self.codes[torch.cdist(states.flatten(0, 1), self.codes).argmin(1)].view_as(states)
        through = states + (nearest - states).detach()
        told = (self.model.decode(through) - x).abs().mean()
        pull = functional.mse_loss(nearest, states.detach()) + COMMITMENT * functional.mse_loss(
            states, nearest.detach()
        )
        return told + pull


def step_flops(model: NoTSConfig, train: TrainConfig) -> int:
    """Return the floating-point operations of one step's forward and backward pass, counted by torch.

    Args:
        model: Of the trunk.
        train: Objective and batch size.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        objective = Objective(NoTS(trunk_config(model, train.objective)), replace(train, batch_size=2))
        x = torch.randn(2, model.num_channels, model.length)
    counter = FlopCounterMode(display=False)
    with counter:
        objective(x, Draw.of(model, train, 2, 0)).backward()
    return counter.get_total_flops() // 2 * train.batch_size
