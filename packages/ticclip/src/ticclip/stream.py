"""A whole run over a stream: every step trained, kept, evaluated; killed and resumed to the same result."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from tenfold_shared.commands import InputError
from tenfold_shared.files import plain_json, write_json
from tenfold_shared.logs import MetricsWriter
from tenfold_shared.progress import progress

from ticclip.checkpoint import Checkpoints, load_params, save_params
from ticclip.compute import macs
from ticclip.config import StreamConfig
from ticclip.data import Batches, Examples, read_ahead
from ticclip.evaluate import Suite, build_encoder, means
from ticclip.index import Split, TimeIndex
from ticclip.parallel import fetch_tree, put_batch, put_tree
from ticclip.plan import FRESH, PlanRow, plan_stream
from ticclip.sampler import Mixture
from ticclip.schedule import learning_rate
from ticclip.train import TrainState, build_params, get_trainer
from ticclip.transfer import bootstrap_scores, transfer_scores

logger = logging.getLogger(__name__)
LOG_EVERY = 20


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes its result.

    Args:
        checkpoint_every: Updates between checkpoints; the end of a step is one in any case.
        max_updates: Stop after so many updates of this process, to go on later; 0 for none.
        num_steps: Train the first steps only; 0 for all.
        last_only: Train the last of them only, for methods that start every step from random weights.
        split: What is evaluated after every step.
        pool_size: Of retrieval.
        draws: Bootstrap draws.
        quiet: No progress.
    """

    checkpoint_every: int = 500
    max_updates: int = 0
    num_steps: int = 0
    last_only: bool = False
    split: Split = "test"
    pool_size: int | None = None
    draws: int = 1000
    quiet: bool = False


class Stopped(Exception):
    """The updates allowed by `max_updates` are used up; the checkpoint holds the rest."""


def run_stream(
    index: TimeIndex,
    config: StreamConfig,
    out: str | Path,
    *,
    mesh: Mesh | None = None,
    options: RunOptions | None = None,
) -> dict[str, Any]:
    """Train a method over a stream and evaluate every step's model on every step.

    A run that was stopped goes on where it was, to the same result: finished steps are read, the step in work goes
    on from its checkpoint, reader included.

    Args:
        index: The data.
        config: Model, method, budget.
        out: Folder of the run: `plan.json`, `metrics.jsonl`, `steps/NN` with a model each, `result.json`.
        mesh: Devices; by default all along `data`.
        options: How often to save, when to stop.

    Returns:
        What `result.json` holds: `retrieval` and `classification` matrices, `transfer` with intervals, `ledger`.

    Raises:
        InputError: A budget under one batch, a step without data, a checkpoint of another plan.
        FloatingPointError: The loss is not finite.
    """
    run = _Run(index, config, Path(out), mesh, options or RunOptions())
    try:
        return run.all_steps()
    finally:
        run.checkpoints.close()


class _Run:
    """The state of a run: what is fixed, and the weights of the step before."""

    def __init__(
        self, index: TimeIndex, config: StreamConfig, out: Path, mesh: Mesh | None, options: RunOptions
    ) -> None:
        self.index, self.config, self.out, self.options = index, config, out, options
        whole = plan_stream(config, index.sizes(), index.steps)
        self.plan = whole[: options.num_steps or len(whole)]
        if options.last_only:
            if config.method not in FRESH:
                raise InputError(f"`last_only` needs a method that starts afresh ({', '.join(FRESH)}).")
            self.plan = self.plan[-1:]
        self.trainer = get_trainer(config, mesh)
        self.examples = Examples(index, config.model)
        self.suite = Suite(self.examples, options.split, options.pool_size)
        self.checkpoints = Checkpoints(out / "checkpoints", fingerprint(index, config, self.plan))
        self.place = self.checkpoints.place()
        self.first = jax.process_index() == 0
        self.left = options.max_updates or math.inf
        self.previous: Any = None
        self.state: TrainState | None = None
        self.metrics = MetricsWriter(out / "metrics.jsonl")
        if self.first:
            write_json(out / "config.json", config.to_dict())
            write_json(out / "plan.json", [row.to_dict() for row in self.plan])

    def all_steps(self) -> dict[str, Any]:
        if self.first and self.place is not None:
            self.metrics.truncate_after(self.place["number"])
        total = sum(row.updates for row in self.plan)
        with progress(
            total=total, description=self.config.method, unit="updates", quiet=self.options.quiet or not self.first
        ) as bar:
            for row in self.plan:
                if not (self._folder(row) / "result.json").exists():
                    self._train(row, bar)
                    self._finish(row)
                else:
                    bar.update(row.updates)
                    self.previous = None
        return self._result()

    def _folder(self, row: PlanRow) -> Path:
        return self.out / "steps" / f"{row.step:02d}"

    def _earlier(self, row: PlanRow) -> list[PlanRow]:
        return [before for before in self.plan if before.step < row.step]

    def _before(self, row: PlanRow) -> Any:
        """Return the weights that the step before ended with."""
        if self.previous is None:
            self.previous = load_params(self.out / "steps" / f"{row.step - 1:02d}")
        return self.previous

    def _train(self, row: PlanRow, bar: Any) -> None:
        """Take the updates of one step."""
        state, update, data_state = self._begin(row)
        batches = Batches(
            self.examples,
            self._mixture(row),
            self.config.train.batch_size,
            row.updates,
            self.config.train.max_shift,
        )
        batches.host = (jax.process_index(), jax.process_count())
        reader = read_ahead(batches)
        if data_state is not None:
            reader.set_state(data_state)
        taught = self.config.method == "lwf" and row.step > 1
        teacher = put_tree(self.trainer.mesh, self._before(row)) if taught else None
        bar.update(update)
        done = sum(earlier.updates for earlier in self._earlier(row))
        while update < row.updates:
            if self.left <= 0:
                self._save(row, update, state, reader)
                raise Stopped(f"stopped after update {done + update}; run it again to go on.")
            rate = learning_rate(self.config.train, row.step - 1, update, row.updates)
            state, metrics = self.trainer.step(state, put_batch(self.trainer.mesh, next(reader)), rate, teacher)
            update += 1
            self.left -= 1
            bar.update(1)
            if update % LOG_EVERY == 0 or update == row.updates:
                self._log((done, update), row, rate, metrics)
            if update % self.options.checkpoint_every == 0 and update < row.updates:
                self._save(row, update, state, reader)
        self._save(row, update, state, reader)
        self.state = state

    def _begin(self, row: PlanRow) -> tuple[TrainState, int, dict[str, Any] | None]:
        """Return the state a step starts or goes on from, its updates so far, and the reader's state."""
        step = row.step - 1
        fresh = self.config.method in FRESH or step == 0
        params = build_params(self.config.model, self.config.seed) if fresh else self._before(row)
        state = self.trainer.start(params)
        place, self.place = self.place, None
        if place is not None and place["step"] == row.step:
            found, data = self.checkpoints.restore({"params": state.params, "moments": state.moments})
            return TrainState(found["params"], found["moments"]), place["update"], data
        if self.config.train.keep_optimizer and not fresh:
            if self.state is None and place is not None:
                found, _ = self.checkpoints.restore({"params": state.params, "moments": state.moments})
                self.state = TrainState(found["params"], found["moments"])
            if self.state is not None:
                state = replace(state, moments=self.state.moments)
        return state, 0, None

    def _mixture(self, row: PlanRow) -> Mixture:
        sources = [self.index.rows(step - 1)[:kept] for step, kept in row.replay.items()]
        sources.append(self.index.rows(row.step - 1))
        balanced = self.config.method == "cumulative-balanced"
        return Mixture(tuple(sources), balanced, seed=self.config.seed * 1009 + row.step)

    def _log(self, place: tuple[int, int], row: PlanRow, rate: float, metrics: dict[str, jax.Array]) -> None:
        """Write the numbers of an update, and stop where they are not finite; `place` is updates before and within."""
        number, size = sum(place), self.config.train.batch_size
        values = {name: float(np.asarray(value)) for name, value in metrics.items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(
                f"the loss is {values['loss']} by update {number} (step {row.name}, learning rate {rate:g}, positions "
                f"{max(0, place[1] - LOG_EVERY) * size} to {place[1] * size - 1} of its order); lower the rate."
            )
        if self.first:
            shown = {f"train/{name}": value for name, value in values.items()}
            self.metrics.write(number, {"stream_step": row.step, "learning_rate": rate, **shown})

    def _save(self, row: PlanRow, update: int, state: TrainState, reader: Any) -> None:
        earlier = self._earlier(row)
        updates = sum(before.updates for before in earlier) + update
        spent = sum(before.macs for before in earlier) + row.macs * update / row.updates
        ledger = {"samples": updates * self.config.train.batch_size, "macs": spent}
        place = {"step": row.step, "update": update, "number": updates, "ledger": ledger}
        tree = {"params": state.params, "moments": state.moments}
        self.checkpoints.save(updates, tree, reader.get_state(), place)

    def _finish(self, row: PlanRow) -> None:
        """Keep the model of a step and its scores."""
        assert self.state is not None
        params = fetch_tree(self.state.params)
        extra: dict[str, Any] = {}
        if self.config.method == "patching" and row.step > 1:
            params, extra = self._patch(row, params)
        encoder = build_encoder(self.trainer, params)
        retrieval, classes = self.suite.retrieval(encoder), self.suite.classification(encoder)
        draws, different, most = self._mixture(row).count(row.samples)
        counts = {"draws": dict(zip([*row.replay, row.step], draws, strict=True)), "different": different}
        scores = {"retrieval": means(retrieval), "classification": None if classes is None else means(classes)}
        if self.first:
            save_params(params, self.config.model, self._folder(row))
            ledger = {"samples": row.samples, "macs": row.macs, **counts, "most_repeats": most, **extra}
            hits = [values.tolist() for values in retrieval]
            write_json(self._folder(row) / "result.json", {"ledger": ledger, "hits": hits, **plain_json(scores)})
            logger.info("step %s: retrieval %s", row.name, " ".join(f"{v:.3f}" for v in scores["retrieval"]))
        self.previous = params
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices(f"step {row.step}")

    def _patch(self, row: PlanRow, params: Any) -> tuple[Any, dict[str, Any]]:
        """Return (1 - a) of the previous weights and a of these, a chosen on validation items so far."""
        suite = Suite(self.examples, "validation")
        before, scores = self._before(row), {}
        for alpha in self.config.alphas:
            encoder = build_encoder(self.trainer, interpolate(before, params, alpha))
            scores[alpha] = float(np.mean(means(suite.retrieval(encoder, range(row.step)))))
        best = max(self.config.alphas, key=lambda alpha: scores[alpha])
        items = sum(len(self.index.rows(step, "validation")) for step in range(row.step))
        # A forward pass is a third of the arithmetic of training on a pair.
        cost = len(scores) * items * macs(self.config.model) / 3
        return interpolate(before, params, best), {"alpha": best, "alpha_scores": scores, "selection_macs": cost}

    def _result(self) -> dict[str, Any]:
        """Put the steps' files together."""
        found = [json.loads((self._folder(row) / "result.json").read_text()) for row in self.plan]
        steps = self.plan[-1].step
        names = [name for name in ("retrieval", "classification") if found[0][name]]
        matrices = {name: np.full((steps, len(self.index.steps)), np.nan) for name in names}
        hits: list[Any] = [[]] * steps
        for row, entry in zip(self.plan, found, strict=True):
            for name in names:
                matrices[name][row.step - 1] = np.array(entry[name], dtype=float)
            hits[row.step - 1] = entry["hits"][:steps]
        whole = len(found) == steps
        intervals = bootstrap_scores(hits, draws=self.options.draws) if whole else {}
        result = {
            "method": self.config.method,
            "steps": list(self.index.steps[:steps]),
            "pool_size": self.suite.pool_size,
            "split": self.options.split,
            **{name: matrix.tolist() for name, matrix in matrices.items()},
            "transfer": transfer_scores(matrices["retrieval"][:, :steps]),
            "intervals": intervals,
            "ledger": [entry["ledger"] for entry in found],
            "total_samples": sum(entry["ledger"]["samples"] for entry in found),
            "total_macs": sum(entry["ledger"]["macs"] for entry in found),
        }
        if self.first:
            write_json(self.out / "result.json", plain_json(result))
        return result


def interpolate(before: Any, after: Any, alpha: float) -> Any:
    """Return (1 - alpha) of one tree of weights and alpha of another (Ilharco et al. 2022, patching)."""
    return jax.tree.map(lambda old, new: np.float32(1 - alpha) * old + np.float32(alpha) * new, before, after)


def fingerprint(index: TimeIndex, config: StreamConfig, plan: Sequence[PlanRow]) -> str:
    """Return a hash of everything that decides a run's result: the items, their steps and splits, the configuration."""
    digest = hashlib.sha256(json.dumps([config.to_dict(), [row.to_dict() for row in plan]]).encode())
    for values in (index.uids, index.step_of, index.split_of):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:32]


def tune_rate(
    index: TimeIndex, config: StreamConfig, rates: Sequence[float], out: Path, options: RunOptions | None = None
) -> float:
    """Return the rate whose model scores best on validation items after the first two steps of the stream.

    Args:
        index: The data.
        config: Method and budget; its rate is replaced.
        rates: What to try.
        out: Folder for the trials.
        options: How they are carried out.
    """
    scores = {}
    for rate in rates:
        trial = replace(config, train=replace(config.train, learning_rate=rate))
        short = replace(options or RunOptions(), num_steps=min(2, len(index.steps)), split="validation", pool_size=None)
        result = run_stream(index, trial, out / f"{config.method}-{rate:g}", options=replace(short, draws=1))
        scores[rate] = float(np.mean(result["retrieval"][-1][: len(result["steps"])]))
        logger.info("%s at rate %g: %.4f on validation items", config.method, rate, scores[rate])
    return max(scores, key=lambda rate: scores[rate])
