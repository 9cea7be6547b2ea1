"""Pretrain a model: one obvious loop, exact resume.

    nots pretrain series.npz --preset laptop --steps 3000 --out model

A step's series, chain and masks follow from the seed and the step's number alone, so that a run that was stopped goes
on from its last checkpoint to the same weights, bit for bit.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from jaxtyping import Float
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import Tensor, nn

from nots import checkpoint
from nots.config import NoTSConfig, TrainConfig
from nots.model import NoTS, count_parameters, standardise
from nots.objectives import STEP_PRIME, Draw, Objective, trunk_config

logger = logging.getLogger(__name__)
BETAS = (0.9, 0.98)
LOG_EVERY = 20


class NotFiniteError(InputError, FloatingPointError):
    """The loss is nan or infinite: a rate that is too high, or data that are too large."""


def make_optimiser(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return AdamW with weight decay on matrices alone."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in parameters if p.ndim >= 2], [p for p in parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=BETAS)


def rate_at(step: int, num_steps: int, warmup: int) -> float:
    """Return the share of the peak rate at a step: linear warm-up, then half a cosine to zero."""
    warmup = min(warmup, num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def batches(num: int, batch_size: int, seed: int, first_step: int = 0) -> Iterator[Tensor]:
    """Yield places of each step's series, epoch after epoch; the rest of an epoch fills up with the next one."""
    size, done = min(batch_size, num), first_step * min(batch_size, num)
    epoch, skip = divmod(done, num)
    left = _order(num, seed, epoch)[skip:]
    while True:
        while len(left) < size:
            epoch += 1
            left = torch.cat([left, _order(num, seed, epoch)])
        yield left[:size]
        left = left[size:]


def _order(num: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * STEP_PRIME + epoch) % 2**63)
    return torch.randperm(num, generator=generator)


def build(config: NoTSConfig, train: TrainConfig) -> Objective:
    """Build a trunk with its objective, weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        return Objective(NoTS(trunk_config(config, train.objective)), train)


class Run:
    """A training run at any step.

    Args:
        config: The model.
        train: Objective and schedule.
        series: Standardised series of the model's channels and length.
        device: Where torch runs.
    """

    def __init__(
        self, config: NoTSConfig, train: TrainConfig, series: Float[Tensor, "n channels time"], device: str = "cpu"
    ) -> None:
        self.objective, self.config, self.device = build(config, train).to(device), train, device
        self.series = series
        self.optimiser = make_optimiser(self.objective, train.learning_rate, train.weight_decay)

    def step(self, places: Tensor, step: int) -> float:
        """Do one update; return its loss.

        Raises:
            NotFiniteError: The loss is not finite; step, rate and the first series of the batch are named.
        """
        rate = self.config.learning_rate * rate_at(step, self.config.num_steps, self.config.warmup_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        x = self.series[places].to(self.device)
        draw = Draw.of(self.objective.model.config, self.config, len(x), step)
        loss = self.objective(x, draw)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise NotFiniteError(
                f"the loss is {value} at step {step}, learning rate {rate:.2g}, series {places[:4].tolist()}; lower it."
            )
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip_norm)
        self.optimiser.step()
        return value


def fit(
    config: NoTSConfig,
    train: TrainConfig,
    series: Float[Tensor, "n channels time"],
    *,
    device: str = "cpu",
    after_step: Callable[[int, float], None] | None = None,
) -> NoTS:
    """Pretrain a model in memory, without files.

    Args:
        config: The model.
        train: Objective and schedule.
        series: Standardised series.
        device: Where torch runs.
        after_step: Told the number of steps done and the last one's loss.

    Returns:
        The trunk in evaluation mode.
    """
    run = Run(config, train, series, device)
    order = batches(len(series), train.batch_size, train.seed)
    for step in range(train.num_steps):
        loss = run.step(next(order), step)
        if after_step is not None:
            after_step(step + 1, loss)
    return run.objective.model.eval()


def pretrain(
    config: NoTSConfig,
    train: TrainConfig,
    series: Float[Tensor, "n channels time"],
    out: str | Path,
    *,
    device: str = "cpu",
    resume: bool = True,
) -> NoTS:
    """Pretrain a model and write it, with checkpoints from which a stopped run goes on exactly.

    Args:
        config: The model.
        train: Objective and schedule.
        series: Of the model's channels and length; standardised here.
        out: Folder for `config.json`, `model.safetensors`, `metrics.jsonl` and the last checkpoint.
        device: "cpu", "cuda" or "mps".
        resume: Go on from a checkpoint in `out`; otherwise a folder with one is refused.

    Returns:
        The trunk in evaluation mode.

    Raises:
        InputError: `out` holds a run with other settings or other series.
        NotFiniteError: The loss is not finite.
    """
    out = Path(out)
    run = Run(config, train, standardise(series), device)
    first = checkpoint.start(out, run, resume=resume)
    count = count_parameters(run.objective.model)
    logger.info("%d parameters, %d series, steps %d to %d", count, len(series), first, train.num_steps)
    metrics = MetricsWriter(out / "metrics.jsonl")
    metrics.truncate_after(first)
    order = batches(len(series), train.batch_size, train.seed, first)
    with progress(total=train.num_steps - first, description="pretraining", unit="steps") as bar:
        for step in range(first, train.num_steps):
            loss = run.step(next(order), step)
            bar.update()
            done, last = step + 1, step + 1 == train.num_steps
            if done % LOG_EVERY == 0 or last:
                metrics.write(done, {"train/loss": loss})
            if done % train.checkpoint_every == 0 or last:
                checkpoint.save(out, run, done)
    model = run.objective.model.cpu().eval()
    checkpoint.save_pretrained(model, out)
    write_json(out / "train.json", {"train": train.to_dict(), "series": len(series)})
    return model
