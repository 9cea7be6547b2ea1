"""One training loop for all stages: batches follow from seed and step, and a stopped run goes on to the same bytes."""

from __future__ import annotations

import io
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import Tensor, nn

from vfm_transfer.config import Schedule
from vfm_transfer.images import Images
from vfm_transfer.views import apply_views, draw_views, order_of

LOG = logging.getLogger(__name__)
FRESH_VIEW = 1 << 32  # number of the first view where every step draws new ones
LOG_EVERY = 20


@dataclass(frozen=True)
class Batch:
    """What a step sees.

    Attributes:
        pixels: Views of 0 to 1 [batch, 3, side, side].
        ids: Numbers of the images.
        views: Number of the view of each.
        draws: How the views were cut, for masks that belong to them; None without augmentation.
    """

    pixels: Tensor
    ids: np.ndarray
    views: np.ndarray
    draws: np.ndarray | None


def make_batch(images: Images, schedule: Schedule, step: int, device: torch.device) -> Batch:
    """Return the batch of a step."""
    size = schedule.batch_size
    ids, epochs = order_of(len(images), schedule.seed, step * size, size)
    views, draws = epochs % max(1, schedule.views), None
    if schedule.augment:
        if schedule.views == 0:
            draws = draw_views(size, schedule.view_seed, FRESH_VIEW + step)
        else:
            tables = {view: draw_views(len(images), schedule.view_seed, int(view)) for view in np.unique(views)}
            draws = np.stack([tables[view][number] for number, view in zip(ids, views, strict=True)])
    return Batch(apply_views(images.fetch(ids).to(device), draws, schedule.min_area), ids, views, draws)


def fit(
    model: nn.Module,
    images: Images,
    loss_of: Callable[[Batch], Tensor],
    schedule: Schedule,
    *,
    head: Sequence[nn.Module] = (),
    folder: Path | None = None,
) -> list[float]:
    """Train whatever of a model needs gradients.

    Args:
        model: All that is trained, and whose buffers belong to the state.
        images: What batches are cut from.
        loss_of: Scalar loss of a batch.
        schedule: Steps, batches and rates.
        head: Parts that have the rate `head_lr`.
        folder: Where state and `metrics.jsonl` are written; training goes on from a state that is there.

    Returns:
        The loss of every step of this process.

    Raises:
        InputError: A loss that is not finite.
    """
    device = next(model.parameters()).device
    optimiser = _optimiser(model, head, schedule)
    keeper = _Keeper(folder, model, optimiser)
    losses = []
    for step in progress(range(keeper.load(), schedule.steps), description="training", unit="steps"):
        torch.manual_seed(schedule.seed * 1_000_003 + step)  # dropout and dropped paths
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate_at(step, schedule)
        batch = make_batch(images, schedule, step, device)
        loss = loss_of(batch)
        if not math.isfinite(loss.item()):
            raise InputError(f"the loss is {loss.item()} at step {step}, rate {optimiser.param_groups[0]['lr']:.2g}, "
                             f"images {batch.ids[:8].tolist()}; lower `lr`.")  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        keeper.after(step, schedule, losses[-1])
    return losses


def _optimiser(model: nn.Module, head: Sequence[nn.Module], schedule: Schedule) -> torch.optim.Optimizer:
    """AdamW; vectors (biases, norms) do not decay."""
    of_head = {id(parameter) for part in head for parameter in part.parameters()}
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            peak = schedule.head_lr or schedule.lr if id(parameter) in of_head else schedule.lr
            decay = schedule.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((peak, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": values, "lr": peak, "peak": peak, "weight_decay": decay}
            for (peak, decay), values in groups.items()
        ]
    )


def rate_at(step: int, schedule: Schedule) -> float:
    """Return the factor of the rate at a step: up over the warm-up, then a cosine to zero after the last step."""
    warm = round(schedule.warmup * schedule.steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, schedule.steps - warm)))


def freeze_norms(model: nn.Module) -> None:
    """Keep the statistics of batch norms: a handful of labelled images gives none worth having."""
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.eval()


class _Keeper:
    """State and metrics of a training in a folder; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None, model: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        self.folder, self.model, self.optimiser = folder, model, optimiser
        self.metrics = None if folder is None else MetricsWriter(folder / "metrics.jsonl")

    def load(self) -> int:
        """Restore the state that is there; return the step to go on with."""
        if self.folder is None or self.metrics is None:
            return 0
        state = read_state(self.folder / "state.pt")
        if state is None:
            self.metrics.truncate_after(-1)
            return 0
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.metrics.truncate_after(state["step"] - 1)
        LOG.info("going on from step %d", state["step"])
        return state["step"]

    def after(self, step: int, schedule: Schedule, loss: float) -> None:
        """Write metrics now and then, and the state where it is due."""
        if self.folder is None or self.metrics is None:
            return
        last = step + 1 == schedule.steps
        if step % LOG_EVERY == 0 or last:
            self.metrics.write(step, {"train/loss": loss, "train/lr": self.optimiser.param_groups[0]["lr"]})
        if (step + 1) % schedule.save_every == 0 or last:
            state = {"model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "step": step + 1}
            write_state(self.folder / "state.pt", state)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and numbers, whole at every moment."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_write(path) as file:
        file.write(buffer.getvalue())


def read_state(path: Path) -> dict[str, Any] | None:
    """Read the file of `write_state` without unpickling code; None where there is none."""
    return torch.load(path, weights_only=True) if path.is_file() else None
