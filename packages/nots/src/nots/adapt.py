"""Adaptation: channel adaptor, deep prompts and head on a trunk that stays frozen, or is trained too (section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from nots.config import AdaptConfig
from nots.model import NoTS
from nots.train import NotFiniteError, batches, make_optimiser, rate_at

TRUNK_SHARE = 0.1  # of the adaptors' learning rate
LIMIT = 0.01  # of the trunk's parameters
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Target:
    """One part of a head's output.

    Attributes:
        kind: "pooled" (from the mean of all tokens), "windows" (one number from each window's tokens, the same weights
            everywhere), or "series" (samples from each token, the same weights everywhere).
        size: Numbers of a pooled output, windows, or samples of a series.
    """

    kind: str
    size: int


class Head(nn.Module):
    """A linear map of features to the outputs of one or several targets, side by side.

    Args:
        targets: Name -> target.
        dim: Width of the features.
        num_tokens: Of a channel of the trunk; windows divide them.
    """

    def __init__(self, targets: Mapping[str, Target], dim: int, num_tokens: int) -> None:
        super().__init__()
        self.targets, self.num_tokens = dict(targets), num_tokens
        self.maps = nn.ModuleDict()
        for name, target in targets.items():
            width = {"pooled": target.size, "windows": 1, "series": target.size // num_tokens}[target.kind]
            self.maps[name] = nn.Linear(dim, width)

    def forward(self, features: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch outputs"]:
        """Return the outputs of all targets in their order."""
        return torch.cat([self.part(name, features) for name in self.targets], dim=1)

    def part(self, name: str, features: Tensor) -> Tensor:
        """Return the outputs of one target."""
        target, linear = self.targets[name], self.maps[name]
        if target.kind == "pooled":
            return linear(features.mean(1))
        places = features.unflatten(1, (-1, self.num_tokens)).mean(1)
        if target.kind == "windows":
            return linear(places.unflatten(1, (target.size, -1)).mean(2))[..., 0]
        return linear(places).flatten(1)

    def columns(self) -> dict[str, slice]:
        """Return where each target's outputs are."""
        found, start = {}, 0
        for name, target in self.targets.items():
            found[name] = slice(start, start + target.size)
            start += target.size
        return found


class Adapted(nn.Module):
    """A trunk with what adapts it: a linear map of channels, their embedding, prompts of each layer, a head.

    Args:
        trunk: Pretrained; copied by no one, so that `mode` "full" changes it.
        config: Mode, readout and prompts.
        head: Of the task.
        num_channels: Of the task's series; without adaptors (`mode` "none") it must be the trunk's.
    """

    def __init__(self, trunk: NoTS, config: AdaptConfig, head: Head, num_channels: int) -> None:
        super().__init__()
        wanted = trunk.config.num_channels
        if config.mode == "none" and num_channels != wanted:
            raise ValueError(
                f"series of {num_channels} channels for a model of {wanted}: `mode` 'none' has no channel adaptor; "
                "use 'frozen' or 'full'."
            )
        self.trunk, self.config, self.head = trunk, config, head
        if config.mode != "none":
            self.mixer = nn.Parameter(torch.eye(wanted, num_channels) + 0.01 * torch.randn(wanted, num_channels))
            start = trunk.channel.detach().clone() if trunk.config.channel_embedding else None
            same = start is not None and num_channels == wanted
            self.channel = nn.Parameter(start if same else 0.02 * torch.randn(wanted, trunk.config.dim))
            shape = (trunk.config.num_layers, config.num_prompts, trunk.config.dim)
            self.prompts = nn.Parameter(0.02 * torch.randn(shape))
        trunk.requires_grad_(config.mode != "frozen")

    def features(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch tokens dim"]:
        """Return the trunk's features under the adaptors."""
        if self.config.mode == "none":
            return self.trunk.features(x, self.config.readout)
        x = torch.einsum("mc,bct->bmt", self.mixer, x)
        prompts = list(self.prompts) if self.config.num_prompts else None
        return self.trunk.features(x, self.config.readout, prompts=prompts, channel=self.channel)

    def forward(self, x: Float[Tensor, "batch channels time"]) -> Float[Tensor, "batch outputs"]:
        """Return the head's outputs for standardised series."""
        return self.head(self.features(x))

    def report(self) -> dict[str, float | int | bool]:
        """Return parameters of adaptors, head and trunk, and whether what is added is under 1 % of the trunk."""
        adaptors = sum(p.numel() for _, p in self.named_parameters(recurse=False))
        head = sum(p.numel() for p in self.head.parameters())
        trunk = sum(p.numel() for p in self.trunk.parameters())
        share = (adaptors + head) / trunk
        trained = adaptors + head + (0 if self.config.mode == "frozen" else trunk)
        found = {"adaptors": adaptors, "head": head, "trunk": trunk, "trained": trained}
        return {**found, "share": share, "under_one_percent": share < LIMIT}


def adapt(
    trunk: NoTS,
    config: AdaptConfig,
    targets: Mapping[str, Target],
    data: tuple[Float[Tensor, "n channels time"], Tensor],
    loss: Loss = functional.mse_loss,
) -> Adapted:
    """Adapt a trunk to a task.

    Args:
        trunk: Pretrained; its weights change unless `mode` is "frozen".
        config: How.
        targets: Of the head.
        data: Standardised series of the trunk's length, and what `loss` takes beside the outputs.
        loss: Of outputs and targets.

    Returns:
        The adapted model in evaluation mode.

    Raises:
        NotFiniteError: The loss is not finite.
    """
    x, y = data
    device = trunk.positions.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        head = Head(targets, trunk.config.dim, trunk.config.num_patches)
        model = Adapted(trunk, config, head, x.shape[1]).to(device).train()
    own = optimiser_of(model)
    order = batches(len(x), config.batch_size, config.seed)
    for step in range(config.num_steps):
        for group in own.param_groups:
            group["lr"] = config.learning_rate * group["share"] * rate_at(step, config.num_steps, 10)
        places = next(order)
        value = loss(model(x[places].to(device)), y[places].to(device))
        if not torch.isfinite(value):
            raise NotFiniteError(f"the loss is {value.item()} at step {step} of the adaptation; lower the rate.")
        own.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_([p for g in own.param_groups for p in g["params"]], 1.0)
        own.step()
    return model.eval()


def optimiser_of(model: Adapted) -> torch.optim.Optimizer:
    """Return AdamW for adaptors and head, and at a tenth of their rate for the trunk where it is trained."""
    config, trunk = model.config, {id(p) for p in model.trunk.parameters()}
    groups = make_optimiser(model, config.learning_rate, config.weight_decay).param_groups
    found = []
    for group in groups:
        for share in (1.0, TRUNK_SHARE):
            part = [p for p in group["params"] if (id(p) in trunk) == (share < 1)]
            found.append({"params": part, "weight_decay": group["weight_decay"], "share": share})
    return torch.optim.AdamW([group for group in found if group["params"]], lr=config.learning_rate)


@torch.no_grad()
def predict(model: nn.Module, x: Float[Tensor, "n channels time"], batch_size: int = 256) -> Float[Tensor, "n outputs"]:
    """Return outputs for all series, the last batch included."""
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).cpu() for part in x.split(batch_size)])
