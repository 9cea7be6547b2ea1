"""The training loop: batches, updates, metrics, checkpoints; a run that was stopped ends with the same weights."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import append_jsonl, write_json
from tenfold_shared.progress import progress

from dclm.convert import save_pretrained
from dclm.lmcheckpoint import Checkpoints
from dclm.lmtrain import Trainer, TrainState, build_params, learning_rate, model_flops_utilization
from dclm.mesh import fetch_tree, put_rows
from dclm.scales import TrainConfig
from dclm.tokendata import MixedTokens, TokenBatches

__all__ = ["LoopOptions", "train"]

logger = logging.getLogger(__name__)
LOG_EVERY = 20


@dataclass(frozen=True)
class LoopOptions:
    """How a run goes, none of which changes its weights.

    Args:
        checkpoint_every: Updates between checkpoints.
        max_updates: Stop after so many updates of this call, to go on later; 0 for none.
        allow_repeats: Let sources be gone through more than once.
        quiet: No progress.
    """

    checkpoint_every: int = 500
    max_updates: int = 0
    allow_repeats: bool = False
    quiet: bool = False


def train(
    config: TrainConfig, tokens: MixedTokens, out: str | Path, *, mesh: Any = None, options: LoopOptions = LoopOptions()
) -> dict[str, Any]:
    """Train a model on token shards; call again to go on where a run was stopped.

    Args:
        config: Model and schedule.
        tokens: The training stream.
        out: Gets `checkpoints/`, `metrics.jsonl`, `model/` (safetensors in OpenLM's names) and `training.json`.
        mesh: By default all devices along `data`.
        options: Checkpoints, early stop.

    Returns:
        `finished`, `step`, `loss`, `tokens`, `tokens_per_second`, `passes`, `model` (folder), ...

    Raises:
        InputError: Data that do not fit the model, too few without repeats, a checkpoint of another run.
        RuntimeError: The loss is not finite.
    """
    out = Path(out)
    tokens.check(config.model.context_length, config.model.vocab_size)
    passes = _check_passes(config, tokens, options)
    finished = out / "training.json"
    mark = _fingerprint(config, tokens)
    if finished.exists():
        found = json.loads(finished.read_text("utf-8"))
        if found["fingerprint"] != mark:
            raise InputError(f"{out} holds another run; give another --out.")
        return found
    trainer = Trainer(config, mesh)
    batches = TokenBatches(
        tokens, config.batch_size, config.model.vocab_size, (jax.process_index(), jax.process_count())
    )
    keeper = Checkpoints(out / "checkpoints", mark)
    try:
        state = _resume(trainer, keeper, batches)
        logger.info(
            "%s parameters, %s updates of %s tokens on %s devices, from update %s; passes over the sources: %s",
            f"{config.model.count():,}",
            config.num_steps,
            f"{config.batch_size * config.model.context_length:,}",
            trainer.mesh.size,
            batches.step,
            ", ".join(f"{value:.2f}" for value in passes),
        )
        loop = _Loop(config, trainer, batches, keeper, out)
        state, facts = loop.run(state, options)
    finally:
        batches.close()
        keeper.close()
    facts |= {"passes": passes, "shares": tokens.shares, "fingerprint": mark, "config": config.to_dict()}
    if facts["finished"]:
        params = fetch_tree(state.params)
        if jax.process_index() == 0:
            save_pretrained(params, config.model, out / "model")
            write_json(finished, {**facts, "model": str(out / "model")})
    return {**facts, "model": str(out / "model")}


def _check_passes(config: TrainConfig, tokens: MixedTokens, options: LoopOptions) -> list[float]:
    passes = tokens.passes(config.num_steps * config.batch_size)
    if max(passes) > 1 and not options.allow_repeats:
        worst = int(np.argmax(passes))
        raise InputError(
            f"{tokens.shards[worst].folder} would be gone through {passes[worst]:.2f} times; give more data, a smaller "
            "--num-tokens, or --repeat."
        )
    return passes


def _fingerprint(config: TrainConfig, tokens: MixedTokens) -> str:
    """What decides the weights; how they are computed (scan, remat, accumulation) does not."""
    plain = config.to_dict()
    for name in ("scan_layers", "remat", "accumulation"):
        plain.pop(name)
    data = [[source.counts, source.length] for source in tokens.shards]
    return hashlib.sha256(json.dumps([plain, data, tokens.shares, tokens.seed]).encode()).hexdigest()[:16]


def _resume(trainer: Trainer, keeper: Checkpoints, batches: TokenBatches) -> TrainState:
    state = trainer.start(build_params(trainer.config))
    last = keeper.last()
    if last is None:
        return state
    found, data = keeper.restore(last, {"params": state.params, "moments": state.moments})
    batches.restore(data)
    return TrainState(found["params"], found["moments"])


class _Loop:
    """What a loop needs at hand."""

    def __init__(
        self, config: TrainConfig, trainer: Trainer, batches: TokenBatches, keeper: Checkpoints, out: Path
    ) -> None:
        self.config, self.trainer, self.batches, self.keeper, self.out = config, trainer, batches, keeper, out
        self.started: tuple[float, int] | None = None
        self.loss = math.nan

    def run(self, state: TrainState, options: LoopOptions) -> tuple[TrainState, dict[str, Any]]:
        """Update until the end or `max_updates`."""
        total = self.config.num_steps
        stop = min(total, self.batches.step + options.max_updates) if options.max_updates else total
        saved = self.batches.step
        with progress(total=total, description="train", unit="updates", quiet=options.quiet) as bar:
            bar.update(saved)
            while self.batches.step < stop:
                state = self._update(state, last=self.batches.step + 1 == stop)
                bar.update(1)
                if self.batches.step % options.checkpoint_every == 0 or self.batches.step == stop:
                    self._save(state)
        step = self.batches.step
        speed = self._speed(step)
        return state, {
            "finished": step == total,
            "step": step,
            "loss": self.loss,
            "tokens": step * self.config.batch_size * self.config.model.context_length,
            "tokens_per_second": speed,
            "mfu": None if speed is None else model_flops_utilization(self.config, speed, self.trainer.mesh.size),
        }

    def _update(self, state: TrainState, *, last: bool) -> TrainState:
        step = self.batches.step
        rate = learning_rate(self.config, step)
        rows = put_rows(self.trainer.mesh, next(self.batches))
        state, metrics = self.trainer.step(state, rows, rate)
        if step % LOG_EVERY == 0 or last:
            self._log(step, rate, metrics)
        return state

    def _log(self, step: int, rate: float, metrics: dict[str, jax.Array]) -> None:
        self.loss = float(metrics["loss"])
        if not math.isfinite(self.loss):
            first = step * self.config.batch_size
            raise RuntimeError(
                f"the loss of update {step} is {self.loss} (learning rate {rate:.3g}, sequences {first} to "
                f"{first + self.config.batch_size - 1} of the stream)."
            )
        self.started = self.started or (time.perf_counter(), step)  # the first update compiles
        speed = self._speed(step)
        if jax.process_index() == 0:
            row = {"step": step, "time": time.time(), "train/loss": self.loss, "train/learning_rate": rate}
            row |= {"train/grad_norm": float(metrics["grad_norm"]), "train/total": float(metrics["total"])}
            append_jsonl(self.out / "metrics.jsonl", {**row, "tokens_per_second": speed})

    def _speed(self, step: int) -> float | None:
        if self.started is None or step <= self.started[1]:
            return None
        tokens = (step - self.started[1]) * self.config.batch_size * self.config.model.context_length
        return tokens / (time.perf_counter() - self.started[0])

    def _save(self, state: TrainState) -> None:
        self.keeper.save(self.batches.step, {"params": state.params, "moments": state.moments}, self.batches.state)
