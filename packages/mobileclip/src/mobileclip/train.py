"""Multi-modal reinforced training (Sec. 4), on one device or on many through torchrun.

    mobileclip train --data photos-dr --preset tiny --out run                                   (one CPU, a minute)
    torchrun --nproc-per-node 8 -m mobileclip train --data DataCompDR-12M --preset datacompdr12m_b --out run

Every process computes the loss of its own rows against everybody's columns ("local loss"); gathered features carry
their gradients back to where they came from, and torch's DistributedDataParallel averages gradients during backward.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.commands import InputError
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import Tensor, nn

from mobileclip.checkpoint import read_training_state, save_pretrained
from mobileclip.config import TrainConfig
from mobileclip.datacompdr import decode, read_config
from mobileclip.distributed import Processes
from mobileclip.factory import Tokenizer
from mobileclip.loader import Batch, ShardedSamples, StepDataset, load_batches
from mobileclip.loss import Captions, Gathered, dr_loss
from mobileclip.model import MAX_LOGIT_SCALE, MobileCLIP

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Gather = Callable[[Tensor], Gathered]
Features = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what is trained.

    Args:
        device: "cpu", "cuda" or "mps".
        workers: Processes that read ahead; 0 reads in the training process.
        log_every: Steps between rows of metrics.jsonl.
        checkpoint_every: Steps between checkpoints.
        stop_after: Stop, with a checkpoint, after this step; None runs to the end.
        quiet: No progress.
    """

    device: str = "cpu"
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    stop_after: int | None = None
    quiet: bool = False


class Trainer:
    """Model, optimizer, loss scaler and running mean of the weights: the state of a run.

    Args:
        config: What is trained and how.
        device: Where.
        processes: The other processes, if there are any.
    """

    def __init__(self, config: TrainConfig, device: str = "cpu", processes: Processes | None = None) -> None:
        self.config, self.device = config, device
        self.processes = processes or Processes()
        seed_everything(config.seed)
        self.model = MobileCLIP(config.model).to(device).train()
        self._replica = self.processes.replicate(self.model)
        self.optimizer = build_optimizer(self.model, config)
        self.scaler = torch.amp.GradScaler(device, enabled=config.precision == "fp16")
        self.ema = copy.deepcopy(self.model).eval() if config.ema_decay else None
        self.step = 0

    def train_step(self, batch: Batch, teacher_dims: tuple[int, ...], gather: Gather | None = None) -> dict[str, float]:
        """Do one step of the optimizer.

        Args:
            batch: This process's rows.
            teacher_dims: Width of each teacher.
            gather: Features to those of all processes; by default those of `processes`.

        Returns:
            Metrics: the losses over all processes, scale, learning rate, norm of the gradient.

        Raises:
            InputError: The loss is not finite; the message names step, learning rate and samples.
        """
        # Learning rate of this step
        rate = learning_rate(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Forward and backward
        self.optimizer.zero_grad(set_to_none=True)
        parts = self._backward(batch.to(self.device), teacher_dims, gather or self.processes.gather)
        losses = self.processes.mean(torch.stack([part.detach() for part in parts.values()])).tolist()
        metrics = {f"train/{name}": value for name, value in zip(parts, losses, strict=True)}
        if not math.isfinite(metrics["train/loss"]):
            raise InputError(
                f"the loss is not finite at step {self.step} (learning rate {rate:g}, samples {batch.uids[:4]}...); "
                "lower --learning-rate or validate the data."
            )
        # Gradient, clipped
        self.scaler.unscale_(self.optimizer)
        largest = self.config.grad_clip or math.inf
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        # Update
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, math.log(MAX_LOGIT_SCALE))
        self._update_ema()
        self.step += 1
        scale = self.model.scale().item()
        return {**metrics, "train/scale": scale, "train/learning_rate": rate, "train/grad_norm": norm.item()}

    def _backward(self, batch: Batch, teacher_dims: tuple[int, ...], gather: Gather) -> dict[str, Tensor]:
        """Leave the gradient of the batch's loss in the parameters; accumulated or not, it is the same gradient."""
        chunks = _split(batch, self.config.accumulation)
        if len(chunks) == 1:
            parts = self._loss(self._encode(chunks[0]), batch, teacher_dims, gather)
            self.scaler.scale(parts["loss"]).backward()
            return parts
        # The loss needs every row: features first, without a graph; then their gradients; then chunk by chunk again.
        with torch.no_grad(), _frozen_statistics(self.model):
            images, texts, scales = zip(*(self._encode(chunk, self.model) for chunk in chunks), strict=True)
        leaves = [value.requires_grad_() for value in (torch.cat(images), torch.cat(texts, dim=1), scales[0])]
        parts = self._loss(tuple(leaves), batch, teacher_dims, gather)
        self.scaler.scale(parts["loss"]).backward()
        gradients = (leaf.grad.chunk(len(chunks), dim=-2) for leaf in leaves[:2])
        scale = leaves[2].grad.div(len(chunks))
        for number, (chunk, *rows) in enumerate(zip(chunks, *gradients, strict=True)):
            # Processes exchange gradients once, with the last chunk.
            with self.processes.local_backward(self._replica, number < len(chunks) - 1):
                torch.autograd.backward(self._encode(chunk), (*rows, scale))
        return parts

    def _encode(self, batch: Batch, model: nn.Module | None = None) -> Features:
        """Return unit-length features of images [rows, dim] and captions [kinds, rows, dim], and the scale."""
        with self._autocast():
            image, text, scale = (model or self._replica)(batch.pixels, batch.captions.flatten(0, 1))
        return image.float(), text.float().unflatten(0, batch.captions.shape[:2]), scale

    def _loss(
        self, features: Features, batch: Batch, teacher_dims: tuple[int, ...], gather: Gather
    ) -> dict[str, Tensor]:
        image, text, scale = features
        teachers = [None] * len(text) if batch.teacher_text is None else [gather(row) for row in batch.teacher_text]
        kinds = [Captions(gather(row), teacher) for row, teacher in zip(text, teachers, strict=True)]
        return dr_loss(
            gather(image),
            kinds,
            scale,
            teacher_image=None if batch.teacher_image is None else gather(batch.teacher_image),
            teacher_dims=teacher_dims,
            distill_weight=self.config.distill_weight,
        )

    def _autocast(self) -> AbstractContextManager:
        dtype = DTYPES.get(self.config.precision)
        return nullcontext() if dtype is None else torch.autocast(self.device, dtype)

    @torch.no_grad()
    def _update_ema(self) -> None:
        if self.ema is None:
            return
        for mean, value in zip(self.ema.state_dict().values(), self.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - self.config.ema_decay)
            else:
                mean.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on."""
        return {
            "step": self.step,
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            InputError: It is of a run with another configuration.
        """
        ours = self.config.to_dict()
        different = [name for name, value in ours.items() if _plain(state["config"].get(name)) != _plain(value)]
        if different:
            name = different[0]
            raise InputError(
                f"the checkpoint was made with `{name}` {state['config'].get(name)!r}, not {ours[name]!r}; "
                "give the same options, or another --out."
            )
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])


def train(
    config: TrainConfig, data: str | Path, out: str | Path, *, resume: bool = False, options: RunOptions = RunOptions()
) -> dict[str, float]:
    """Train on a folder of shards and write `model/` (and `ema/`), `metrics.jsonl`, `config.json`, `checkpoint.pt`.

    Under torchrun every process calls this; rank 0 writes.

    Args:
        config: What is trained; see `mobileclip.config.TRAIN_PRESETS`.
        data: Tars with images and captions, reinforced ones where something is distilled.
        out: Folder of the run.
        resume: Whether to go on from the folder's checkpoint, to the very numbers of a run that was not stopped.
        options: Device, workers, how often to log.

    Returns:
        The metrics of the last step.

    Raises:
        InputError: The folder holds another run, or data and configuration do not fit.

    Example:
        >>> from mobileclip.config import TRAIN_PRESETS
        >>> TRAIN_PRESETS["datacompdr1b_s0"].batch_size
        65536
    """
    out, processes = Path(out), Processes.from_environment(options.device)
    if config.precision == "fp16" and options.device != "cuda":
        raise InputError(f"fp16 needs a GPU, the device is {options.device}; use --precision fp32.")
    samples = ShardedSamples(data)
    dims = teacher_dims(data, samples, config)
    trainer = Trainer(config, options.device, processes)
    _start(trainer, out, resume)
    dataset = StepDataset(
        samples,
        config,
        Tokenizer(config.model.text.context_length),
        rank=processes.rank,
        world_size=processes.world_size,
    )
    _log_facts(trainer, samples)
    metrics = run_steps(trainer, dataset, dims, out, options)
    if processes.rank == 0 and trainer.step == config.num_steps:
        save_pretrained(trainer.model, out / "model")
        if trainer.ema is not None:
            save_pretrained(trainer.ema, out / "ema")
    processes.close()
    return metrics


def run_steps(
    trainer: Trainer, dataset: StepDataset, dims: tuple[int, ...], out: Path, options: RunOptions
) -> dict[str, float]:
    """Run the steps that are left, writing metrics and checkpoints on rank 0; return the last step's metrics."""
    first, last = trainer.step, min(options.stop_after or len(dataset), len(dataset))
    writer = MetricsWriter(out / "metrics.jsonl")
    metrics: dict[str, float] = {}
    started, counted = time.perf_counter(), first
    bar = progress(total=last, description="train", unit="steps", quiet=options.quiet)
    bar.update(first)
    for batch in load_batches(dataset, first, options.workers):
        if trainer.step >= last:
            break
        metrics = trainer.train_step(batch, dims)
        bar.update(1)
        if trainer.processes.rank:
            continue
        if trainer.step % options.log_every == 0 or trainer.step == last:
            seconds = time.perf_counter() - started
            rate = (trainer.step - counted) * trainer.config.batch_size / seconds
            writer.write(trainer.step, {**metrics, "train/samples_per_second": rate})
            started, counted = time.perf_counter(), trainer.step
        if trainer.step % options.checkpoint_every == 0 or trainer.step == last:
            save_checkpoint(trainer, out)
    bar.close()
    return metrics


def _start(trainer: Trainer, out: Path, resume: bool) -> None:
    """Load the checkpoint, or see that the folder is free."""
    path = out / CHECKPOINT
    if resume and path.is_file():
        trainer.load_state_dict(read_training_state(path))
        logger.info("going on from step %d", trainer.step)
    elif path.exists():
        raise InputError(f"{out} already holds a run; go on with --resume, or choose another --out.")
    if trainer.processes.rank == 0:
        write_json(out / "config.json", trainer.config.to_dict())
        MetricsWriter(out / "metrics.jsonl").truncate_after(trainer.step)


def save_checkpoint(trainer: Trainer, out: Path) -> None:
    """Write the state of a run; a kill leaves the old one or the new one."""
    with atomic_write(out / CHECKPOINT) as file:
        torch.save(trainer.state_dict(), file)


def teacher_dims(data: str | Path, samples: ShardedSamples, config: TrainConfig) -> tuple[int, ...]:
    """Return the width of each teacher: config.json's `teacher_dims`, else half and half as in the released sets.

    Raises:
        InputError: Something is to be distilled and the data are not reinforced.
    """
    if not config.distill_weight:
        return ()
    members = samples.read(0)
    if "npz" not in members and "pth.gz" not in members:
        raise InputError(
            f"{data} is not reinforced and `distill_weight` is {config.distill_weight}; "
            "run `mobileclip reinforce` on it, or train with --distill-weight 0 --augmentation crop."
        )
    if stated := read_config(data).get("teacher_dims"):
        return tuple(stated)
    width = decode(members["__key__"].decode(), members).image_emb.shape[1]
    return (width // 2, width // 2)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW that decays weights of two or more dimensions and leaves biases, norms and the scale alone."""
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate of a step: linear warm-up, an optional constant part, cosine to zero.

    Example:
        >>> from mobileclip.config import TRAIN_PRESETS
        >>> [learning_rate(step, TRAIN_PRESETS["datacompdr1b_blt"]) for step in (0, 999, 300_000)]
        [1e-06, 0.001, 0.001]
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    start = max(config.warmup_steps, config.constant_steps)
    if step < start:
        return config.learning_rate
    share = (step - start) / max(1, config.num_steps - start)
    return config.learning_rate * (1 + math.cos(math.pi * share)) / 2


def _split(batch: Batch, parts: int) -> list[Batch]:
    pixels, captions = batch.pixels.chunk(parts), batch.captions.chunk(parts, dim=1)
    return [Batch(batch.uids, a, b) for a, b in zip(pixels, captions, strict=True)]


class _frozen_statistics:
    """Keep running statistics of batch normalisation as they are, so that each row counts once a step."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        self.momenta = [layer.momentum for layer in self.layers]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.momentum = 0.0

    def __exit__(self, *error: object) -> None:
        for layer, momentum in zip(self.layers, self.momenta, strict=True):
            layer.momentum = momentum


def _plain(value: Any) -> Any:
    """Return a value as JSON gives it back, for comparing."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _log_facts(trainer: Trainer, samples: ShardedSamples) -> None:
    config, count = trainer.config, sum(p.numel() for p in trainer.model.parameters())
    logger.info(
        "%d samples in %d shards; %d steps of %d (%d a process, in %d parts); %.2f M parameters on %s",
        len(samples), len(samples.shards), config.num_steps, config.batch_size,
        config.batch_size // trainer.processes.world_size, config.accumulation, count / 1e6, trainer.device,
    )  # fmt: skip
