"""Training a FastVLM: projector, resolution scaling, instruction tuning (Sec. 4), on one device or many.

    fastvlm train --preset tiny --model tiny-fastvlm --data talk.json --out run                (one CPU, a minute)
    torchrun --nproc-per-node 8 -m fastvlm train --preset stage2 --model STAGE1.5 --data mix.json --out run

Every token that is learned counts the same: a step's loss is the mean over the tokens of all processes, so that the
number of processes and of conversations per forward pass change nothing but rounding. Statistics of batch
normalisation in the image encoder stay as they are. Weights are float32; the forward pass may be bf16.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mobileclip.checkpoint import read_training_state
from mobileclip.distributed import Processes
from tenfold_shared.commands import InputError
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress
from torch import nn

from fastvlm import parallel
from fastvlm.adapters import fingerprint, merge, save_adapter
from fastvlm.convert import copy_tokenizer
from fastvlm.data import BadRecords, Batch, Collator, Source, Steps, load_steps, read_records
from fastvlm.learner import Learner, build_optimizer, learning_rate
from fastvlm.model import FastVLM
from fastvlm.processor import FastVLMProcessor
from fastvlm.recipes import TrainConfig
from fastvlm.start import Start

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.pt"
SKIPPED = "skipped.jsonl"


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what is trained.

    Args:
        device: "cpu", "cuda" or "mps".
        engine: "ddp" or "fsdp", where there are several processes.
        workers: Processes that read ahead; 0 reads in the training process.
        log_every: Steps between rows of metrics.jsonl.
        checkpoint_every: Steps between checkpoints.
        stop_after: Stop, with a checkpoint, after this step; None runs to the end.
        quiet: No progress.
    """

    device: str = "cpu"
    engine: parallel.Engine = "ddp"
    workers: int = 0
    log_every: int = 10
    checkpoint_every: int = 500
    stop_after: int | None = None
    quiet: bool = False


class Trainer:
    """Model and optimizer: the state of a run.

    Args:
        model: Its weights are changed.
        config: What is trained and how.
        num_steps: Of the whole run.
        options: Device and engine.
        processes: The other processes, if there are any.
    """

    def __init__(
        self,
        model: FastVLM,
        config: TrainConfig,
        num_steps: int,
        options: RunOptions = RunOptions(),
        processes: Processes | None = None,
    ) -> None:
        self.config, self.num_steps, self.device = config, num_steps, options.device
        self.processes = processes or Processes()
        self.learner = Learner(model, config).to(options.device)
        self._replica = parallel.spread(self.learner, self.processes, options.engine)
        self.optimizer = build_optimizer(self.learner.model, config)
        self.step = 0

    def train_step(self, batches: Sequence[Batch]) -> dict[str, float]:
        """Do one step of the optimizer.

        Args:
            batches: This process's forward passes.

        Returns:
            Metrics: the loss over all processes, learned tokens, learning rate, norm of the gradient.

        Raises:
            InputError: The loss is not finite; the message names step, learning rate and records.
        """
        # Learning rates of this step; dropout that a resumed run draws again
        rate = learning_rate(self.step, self.num_steps, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["largest"]
        torch.manual_seed(hash((self.config.seed, self.step, self.processes.rank)) % 2**32)
        # Forward and backward
        self.optimizer.zero_grad(set_to_none=True)
        count = float(sum(int((batch.labels[:, 1:] >= 0).sum()) for batch in batches))
        (count,) = parallel.total([count], self.processes, self.device)
        loss = self._backward(batches, count)
        if not math.isfinite(loss):
            names = [name for batch in batches for name in batch.names][:4]
            raise InputError(
                f"the loss is not finite at step {self.step} (learning rate {rate * self.config.learning_rate:g}, "
                f"records {names}...); lower --learning-rate or look at these records."
            )
        # Gradient, clipped, and update
        largest = self.config.grad_clip or math.inf
        norm = parallel.whole(nn.utils.clip_grad_norm_(self._learned(), largest))
        self.optimizer.step()
        self.step += 1
        rates = {f"train/learning_rate_{g['name']}": g["lr"] for g in self.optimizer.param_groups if g["decays"]}
        return {"train/loss": loss, "train/tokens": count, **rates, "train/grad_norm": norm.item()}

    def _backward(self, batches: Sequence[Batch], count: float) -> float:
        """Leave the gradient of the mean loss over all processes' tokens; return that loss."""
        sums = 0.0
        for number, batch in enumerate(batches):
            with parallel.local_backward(self._replica, number < len(batches) - 1):
                with self._autocast():
                    loss = self._replica(batch.to(self.device))
                # Engines average over processes; the mean over tokens wants a sum.
                (loss * (self.processes.world_size / max(1.0, count))).backward()
            sums += loss.item()
        return parallel.total([sums], self.processes, self.device)[0] / max(1.0, count)

    def _autocast(self) -> AbstractContextManager:
        return torch.autocast(self.device, torch.bfloat16) if self.config.precision == "bf16" else nullcontext()

    def _learned(self) -> list[nn.Parameter]:
        return [value for group in self.optimizer.param_groups for value in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on; every process must call it."""
        state = parallel.state_of(self.learner, self.optimizer)
        return {"step": self.step, "num_steps": self.num_steps, "config": self.config.to_dict(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned.

        Raises:
            InputError: It is of a run with another configuration, or on other data.
        """
        ours = {**self.config.to_dict(), "num_steps in all": self.num_steps}
        theirs = {**state["config"], "num_steps in all": state["num_steps"]}
        for name, value in ours.items():
            if theirs.get(name) != value:
                raise InputError(
                    f"the checkpoint was made with `{name}` {theirs.get(name)!r}, not {value!r}; "
                    "give the same options and data, or another --out."
                )
        self.step = state["step"]
        parallel.restore(self.learner, self.optimizer, state)


def train(
    start: Callable[[], Start],
    config: TrainConfig,
    sources: Sequence[Source],
    out: str | Path,
    *,
    resume: bool = False,
    options: RunOptions = RunOptions(),
) -> dict[str, float]:
    """Train on conversations and write `model/` (and `adapter/`), `metrics.jsonl`, `config.json`, `checkpoint.pt`.

    Under torchrun every process calls this; rank 0 writes. Bad records are named in `skipped.jsonl`.

    Args:
        start: Loads the model; called after the seed is set, and once more to write what FSDP has trained.
        config: What is trained; see `fastvlm.recipes.TRAIN_PRESETS`.
        sources: Data sets.
        out: Folder of the run.
        resume: Whether to go on from the folder's checkpoint, to the very numbers of a run that was not stopped.
        options: Device, engine, workers, how often to log.

    Returns:
        The metrics of the last step.

    Raises:
        InputError: The folder holds another run, too many records are bad, or model and configuration do not fit.
    """
    out, processes = Path(out), Processes.from_environment(options.device)
    if (out / CHECKPOINT).exists() and not resume:
        raise InputError(f"{out} already holds a run; go on with --resume, or choose another --out.")
    config.check_processes(processes.world_size)
    records, scanned = read_records(sources)
    bad = BadRecords(out / SKIPPED if processes.rank == 0 else None, config.max_bad_share, len(records) + len(scanned))
    seed_everything(config.seed)
    begun = start()
    base = fingerprint(begun.model) if config.lora_rank else ""
    collator = Collator(_fit_processor(begun, config), _fit_length(begun.model, config))
    steps = Steps(records, config, collator, processes.rank, processes.world_size)
    trainer = Trainer(begun.model, config, len(steps), options, processes)
    _go_on(trainer, out, bad, resume)
    bad.add(scanned, 0)
    _open_folder(trainer, out)
    _log_facts(trainer, records)
    metrics = run_steps(trainer, steps, bad, out, options)
    if trainer.step == len(steps):
        _save(trainer, start, begun, out, base)
    processes.close()
    return metrics


def _fit_processor(begun: Start, config: TrainConfig) -> FastVLMProcessor:
    """Bring model and processor to the run's resolution."""
    if config.image_size is not None:
        begun.model.set_image_size(config.image_size)
        begun.processor.image_size = config.image_size
    return begun.processor


def _fit_length(model: FastVLM, config: TrainConfig) -> TrainConfig:
    """Return the configuration with a `max_length` that the language model has room for."""
    room = getattr(model.language_model.config, "max_position_embeddings", config.max_length)
    return dataclasses.replace(config, max_length=min(config.max_length, room))


def run_steps(trainer: Trainer, steps: Steps, bad: BadRecords, out: Path, options: RunOptions) -> dict[str, float]:
    """Run the steps that are left, writing metrics and checkpoints on rank 0; return the last step's metrics."""
    first, last = trainer.step, min(options.stop_after or len(steps), len(steps))
    writer = MetricsWriter(out / "metrics.jsonl")
    metrics: dict[str, float] = {}
    started, counted = time.perf_counter(), first
    bar = progress(total=last, description="train", unit="steps", quiet=options.quiet)
    bar.update(first)
    for batches in load_steps(steps, first, options.workers):
        if trainer.step >= last:
            break
        bad.add(parallel.everybody([row for b in batches for row in b.bad], trainer.processes), trainer.step + 1)
        metrics = trainer.train_step(batches)
        bar.update(1)
        done = trainer.step == last
        if trainer.processes.rank == 0 and (trainer.step % options.log_every == 0 or done):
            rate = (trainer.step - counted) * trainer.config.batch_size / (time.perf_counter() - started)
            facts = {"train/records_per_second": rate, "train/bad_records": len(bad.names)}
            writer.write(trainer.step, {**metrics, **facts})
            started, counted = time.perf_counter(), trainer.step
        if trainer.step % options.checkpoint_every == 0 or done:
            save_checkpoint(trainer, out)
    bar.close()
    return metrics


def _go_on(trainer: Trainer, out: Path, bad: BadRecords, resume: bool) -> None:
    """Load the checkpoint, if there is one to go on from, and forget bad records that will be met again."""
    path = out / CHECKPOINT
    if resume and path.is_file():
        trainer.load_state_dict(read_training_state(path))
        logger.info("going on from step %d", trainer.step)
    bad.restart(trainer.step)


def _open_folder(trainer: Trainer, out: Path) -> None:
    """Write what is trained, and bring the metrics to the step at which the run goes on."""
    if trainer.processes.rank == 0:
        write_json(out / "config.json", trainer.config.to_dict())
        MetricsWriter(out / "metrics.jsonl").truncate_after(trainer.step)


def save_checkpoint(trainer: Trainer, out: Path) -> None:
    """Write the state of a run on rank 0; a kill leaves the old one or the new one."""
    state = trainer.state_dict()
    if trainer.processes.rank == 0:
        with atomic_write(out / CHECKPOINT) as file:
            torch.save(state, file)


def _save(trainer: Trainer, start: Callable[[], Start], begun: Start, out: Path, base: str) -> None:
    """Write the trained model, adapters merged, and its tokenizer; adapters on their own too."""
    state = parallel.state_of(trainer.learner, trainer.optimizer)["parameters"]
    if trainer.processes.rank:
        return
    model = trainer.learner.model
    if any(hasattr(value, "device_mesh") for value in model.parameters()):
        model = start().model
        _fit_processor(Start(model, begun.processor, begun.folder), trainer.config)
        learner = Learner(model, trainer.config)
        learner.load_state_dict(state, strict=False)
    model.language_model.config.use_cache = True
    if trainer.config.lora_rank:
        save_adapter(model, out / "adapter", base=str(begun.folder), base_fingerprint=base)
        model.language_model = merge(model.language_model)
    model.save_pretrained(out / "model")
    copy_tokenizer(begun.folder, out / "model")


def _log_facts(trainer: Trainer, records: Sequence[Any]) -> None:
    config, learned = trainer.config, sum(value.numel() for value in trainer._learned())
    logger.info(
        "%d records; %d steps of %d (%d processes, %d in a pass); %.2f M parameters learn on %s",
        len(records), trainer.num_steps, config.batch_size, trainer.processes.world_size, config.micro_batch_size,
        learned / 1e6, trainer.device,
    )  # fmt: skip
