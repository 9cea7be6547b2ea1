"""Train a model: one obvious loop, exact resume, mixed precision, several processes.

    physiomae train windows/ --preset simulator --objective mae_drop --out model
    torchrun --nproc-per-node 4 -m physiomae train windows/ --preset sleep --device cuda --precision bfloat16

A step's windows and masks follow from the seed and the step's number alone. A run that was stopped goes on from its
last checkpoint to the same weights, bit for bit, and several processes see the rows of the one batch.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import Tensor, nn

from physiomae import checkpoint
from physiomae.batch import MultimodalBatch
from physiomae.config import PhysioMAEConfig, TrainConfig
from physiomae.loss import contrastive_sums, mean_over_modalities, reconstruction_sums
from physiomae.masking import Draws, draw, hide_tokens
from physiomae.model import PhysioMAE
from physiomae.parallel import Processes
from physiomae.sources import Source, stream

logger = logging.getLogger(__name__)
BETAS = (0.9, 0.98)
LOG_EVERY = 20


class NotFiniteError(InputError, FloatingPointError):
    """The loss is nan or infinite: a rate that is too high, or data that are too large."""


class Objective(nn.Module):
    """A model with its objective: batch and draws to sums and counts, which all processes add up."""

    def __init__(self, model: PhysioMAE, config: TrainConfig, processes: Processes) -> None:
        super().__init__()
        self.model, self.objective, self.processes = model, config.objective, processes

    def forward(self, batch: MultimodalBatch, draws: Draws) -> dict[str, tuple[Tensor, Tensor]]:
        """Return sums and counts of each part of the loss."""
        found = {}
        if self.objective.reconstruct != "none":
            found["reconstruction"] = self.reconstruction(batch, draws)
        if self.objective.contrast != "none":
            found["contrast"] = self.contrast(batch)
        return found

    def reconstruction(self, batch: MultimodalBatch, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return each modality's squared error on hidden tokens, and its count."""
        model = self.model
        visible, asked = hide_tokens(model.available(batch), self.objective, draws)
        predicted = model.decode(model.encode(batch, visible))
        return reconstruction_sums(predicted, model.targets(batch), asked, batch.present)

    def contrast(self, batch: MultimodalBatch) -> tuple[Tensor, Tensor]:
        """Return InfoNCE between modalities that are each encoded alone, and its counts."""
        model, late = self.model, self.model.late_fusion
        model.late_fusion = True
        try:
            means, there = model.modality_means(model.encode(batch))
        finally:
            model.late_fusion = late
        means = model.contrast(means)
        everyone, start = self.processes.gather(means)
        everywhere, _ = self.processes.gather(there.to(means.dtype))
        return contrastive_sums(means, (everyone, everywhere > 0, start), there, model.log_scale, self.kind)

    @property
    def kind(self) -> str:
        """The contrast's kind."""
        return self.objective.contrast


@dataclass
class Run:
    """What a training run needs at every step."""

    objective: Objective
    config: TrainConfig
    processes: Processes
    device: str

    def __post_init__(self) -> None:
        decayed = [p for p in self.objective.parameters() if p.ndim >= 2]
        others = [p for p in self.objective.parameters() if p.ndim < 2]
        groups = [{"params": decayed, "weight_decay": self.config.weight_decay}, {"params": others, "weight_decay": 0}]
        self.optimiser = torch.optim.AdamW(groups, lr=self.config.learning_rate, betas=BETAS)
        self.scaler = torch.amp.GradScaler(self.device, enabled=self.config.precision == "float16")
        self.replica = self.processes.replicate(self.objective)

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then half a cosine to zero."""
        warmup = min(self.config.warmup_steps, self.config.num_steps)
        if step < warmup:
            return self.config.learning_rate * (step + 1) / warmup
        done = (step - warmup) / max(1, self.config.num_steps - warmup)
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def losses(self, batch: MultimodalBatch, draws: Draws) -> dict[str, Tensor]:
        """Return the parts of the loss as means over all processes, and their weighted sum as "loss"."""
        dtype = getattr(torch, self.config.precision)
        context = torch.autocast(self.device, dtype) if dtype != torch.float32 else contextlib.nullcontext()
        with context:
            parts = self.replica(batch, draws)
        world = self.processes.world_size
        found = {
            # DistributedDataParallel averages gradients, so that each process's share of the sum counts `world` times.
            name: mean_over_modalities(sums * world, self.processes.sum(counts))
            for name, (sums, counts) in parts.items()
        }
        weights = {"reconstruction": 1.0, "contrast": 1.0}
        if "reconstruction" in found:
            weights["contrast"] = self.config.objective.contrast_weight
        found["loss"] = torch.stack([weights[name] * value for name, value in found.items()]).sum()
        return found

    def step(self, batch: MultimodalBatch, step: int) -> dict[str, Tensor]:
        """Do one update; return the parts of the loss of this process's rows."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(step)
        rows = self.processes.rows(self.config.batch_size)
        shape = (self.config.batch_size, len(batch.signals), self.objective.model.config.num_patches)
        draws = draw(shape, self.config.seed, step).rows(rows)
        on_device = Draws(*(value.to(self.device) for value in vars(draws).values()))
        parts = self.losses(batch.to(self.device), on_device)
        if not torch.isfinite(parts["loss"]):
            raise NotFiniteError(
                f"the loss is {parts['loss'].item()} at step {step}, learning rate {self.rate(step):.2g}; lower it."
            )
        self.optimiser.zero_grad()
        self.scaler.scale(parts["loss"]).backward()
        self.scaler.unscale_(self.optimiser)
        torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self.config.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        return parts


def build(config: PhysioMAEConfig, train: TrainConfig) -> PhysioMAE:
    """Build a model for an objective, its weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(train.seed)
        return PhysioMAE(config, late_fusion=train.objective.late_fusion)


def fit(
    model: PhysioMAE,
    source: Source,
    config: TrainConfig,
    *,
    device: str = "cpu",
    after_step: Callable[[int, dict[str, Tensor]], None] | None = None,
) -> None:
    """Train a model in memory: no files, one process."""
    run = Run(Objective(model.to(device), config, Processes()), config, Processes(), device)
    model.train()
    batches = stream(source, config.batch_size, config.seed)
    for step in range(config.num_steps):
        parts = run.step(next(batches), step)
        if after_step is not None:
            after_step(step + 1, parts)
    model.eval()


def train(
    model_config: PhysioMAEConfig,
    source: Source,
    config: TrainConfig,
    out: str | Path,
    *,
    device: str = "cpu",
    resume: bool = True,
) -> PhysioMAE:
    """Train a model and write it, with checkpoints from which a stopped run goes on exactly.

    Args:
        model_config: The model.
        source: Training windows.
        config: Objective and schedule.
        out: Folder for `config.json`, `model.safetensors`, `metrics.jsonl` and the last checkpoint.
        device: "cpu", "cuda" or "mps".
        resume: Go on from a checkpoint in `out`; otherwise a folder with one is refused.

    Returns:
        The trained model, in evaluation mode.

    Raises:
        InputError: `out` holds a run with other settings.
        NotFiniteError: The loss is not finite.
    """
    out = Path(out)
    processes = Processes.from_environment(device)
    model = build(model_config, config).to(device)
    run = Run(Objective(model, config, processes), config, processes, device)
    first = checkpoint.start(out, run, resume=resume)
    rows = processes.rows(config.batch_size)
    _announce(model, config, processes, first)
    metrics = MetricsWriter(out / "metrics.jsonl")
    if processes.rank == 0:
        metrics.truncate_after(first)
    model.train()
    batches = stream(source, config.batch_size, config.seed, first_step=first, rows=rows)
    start = time.perf_counter()
    with progress(total=config.num_steps - first, description="training", unit="steps") as bar:
        for step in range(first, config.num_steps):
            parts = run.step(next(batches), step)
            bar.update()
            done = step + 1
            if done % LOG_EVERY == 0 or done == config.num_steps:
                _log(metrics, processes, done, parts, (done - first) / (time.perf_counter() - start))
            if (done % config.checkpoint_every == 0 or done == config.num_steps) and processes.rank == 0:
                checkpoint.save(out, run, done)
    model.eval()
    if processes.rank == 0:
        checkpoint.save_pretrained(model, out)
        write_json(out / "train.json", {"train": config.to_dict(), "windows": source.num_windows})
    processes.close()
    return model


def _announce(model: PhysioMAE, config: TrainConfig, processes: Processes, first: int) -> None:
    count = sum(parameter.numel() for parameter in model.parameters())
    logger.info(
        "%.2f M parameters, batch %d on %d processes, steps %d to %d",
        count / 1e6,
        config.batch_size,
        processes.world_size,
        first,
        config.num_steps,
    )


def _log(metrics: MetricsWriter, processes: Processes, step: int, parts: dict[str, Tensor], rate: float) -> None:
    values: dict[str, Any] = {
        f"train/{name}": float(processes.sum(value)) / processes.world_size for name, value in parts.items()
    }
    if processes.rank == 0:
        metrics.write(step, {**values, "steps_per_second": rate})
