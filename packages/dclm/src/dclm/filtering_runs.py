"""One run of the filtering experiment: train a small OpenLM on an arm's contexts, then measure bits per byte.

The model, the update and the schedule are those of `dclm train`; contexts lie in memory instead of in tars.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dclm.filtering_data import Prepared
from dclm.lmtrain import Trainer, build_params, learning_rate
from dclm.mesh import build_mesh
from dclm.scales import TrainConfig
from dclm.tasks import TASKS

__all__ = ["evaluate_params", "train_arm"]

EVALUATION_BATCH = 64
COOLDOWN = 0.01  # the cosine ends at this share of the rate
LN2 = float(np.log(2))


def train_arm(prepared: Prepared, arm: str, config: TrainConfig) -> dict[str, Any]:
    """Train on one arm and evaluate.

    Args:
        prepared: Token arrays.
        arm: Its name.
        config: Model, rate, seed; the budget is one pass over the arm, or `num_tokens` where that is more.

    Returns:
        `bits` (bits per byte of `b_test`, ...), `gold` (of the gold answers, by task), `accuracy` (by task), `steps`,
        `passes`, `seconds`, `loss` (last).
    """
    start = time.perf_counter()
    rows = prepared.arms[arm].astype(np.int32)
    rate = config.learning_rate
    config = dataclasses.replace(config, cooldown_rate=COOLDOWN * rate)
    trainer = _trainer(config)
    # A copy on the one device, donated by the first update.
    state = trainer.start(build_params(config))
    order = _order(len(rows), config)
    loss = jnp.float32(jnp.nan)
    for step in range(config.num_steps):
        batch = jnp.asarray(rows[order[step * config.batch_size : (step + 1) * config.batch_size]])
        state, metrics = trainer.step(state, batch, learning_rate(config, step))
        loss = metrics["loss"]
    trained = time.perf_counter() - start
    found = evaluate_params(prepared, trainer, state.params)
    passes = config.num_steps * config.batch_size / len(rows)
    facts = {"arm": arm, "rate": rate, "seed": config.seed, "loss": float(loss), "steps": config.num_steps}
    return {**facts, **found, "passes": passes, "seconds": time.perf_counter() - start, "training_seconds": trained}


@functools.lru_cache(maxsize=2)
def _shared_trainer(config: TrainConfig) -> Trainer:
    return Trainer(config, build_mesh(1))


def _trainer(config: TrainConfig) -> Trainer:
    """Return a trainer that runs which differ in rate, seed and arm share, so that they compile once."""
    fixed = TrainConfig()
    return _shared_trainer(
        dataclasses.replace(
            config, learning_rate=fixed.learning_rate, cooldown_rate=fixed.cooldown_rate, seed=fixed.seed
        )
    )


def _order(count: int, config: TrainConfig) -> np.ndarray:
    """Return rows in a seeded order, a new one for every pass."""
    generator = np.random.default_rng([config.seed, count])
    wanted = config.num_steps * config.batch_size
    passes = -(-wanted // count)
    return np.concatenate([generator.permutation(count) for _ in range(passes)])[:wanted]


def evaluate_params(prepared: Prepared, trainer: Trainer, params: Any) -> dict[str, Any]:
    """Return bits per byte of the evaluation texts and of gold answers, and accuracies of the tasks."""
    losses = _token_losses(trainer)
    bits = {name: _bits(prepared, losses, params, rows) for name, rows in prepared.evaluation.items()}
    gold, accuracy = {}, {}
    for task, columns in prepared.tasks.items():
        gold[task], accuracy[task] = _task(columns, losses, params)
    return {"bits": bits, "gold": gold, "accuracy": accuracy}


@functools.lru_cache(maxsize=2)
def _compiled_losses(trainer: Trainer) -> Any:
    """Return a compiled function of weights and rows [n, context]: nats of every next token, [n, context - 1]."""

    def losses(params: Any, rows: jax.Array) -> jax.Array:
        logits = trainer.merge(params)(rows[:, :-1])
        picked = jnp.take_along_axis(logits, rows[:, 1:, None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    return jax.jit(losses)


def _token_losses(trainer: Trainer) -> Any:
    """Return the same for any number of rows, as numpy."""
    compiled = _compiled_losses(trainer)

    def batched(params: Any, rows: np.ndarray) -> np.ndarray:
        parts = []
        for first in range(0, len(rows), EVALUATION_BATCH):
            part = rows[first : first + EVALUATION_BATCH].astype(np.int32)
            padded = np.zeros((EVALUATION_BATCH, rows.shape[1]), np.int32)
            padded[: len(part)] = part
            parts.append(np.asarray(compiled(params, jnp.asarray(padded)))[: len(part)])
        return np.concatenate(parts)

    return batched


def _bits(prepared: Prepared, losses: Any, params: Any, rows: np.ndarray) -> float:
    total_bytes = int(prepared.num_bytes[rows[:, 1:]].astype(np.int64).sum())
    return float(losses(params, rows).sum(dtype=np.float64)) / LN2 / total_bytes


def _task(columns: dict[str, np.ndarray], losses: Any, params: Any) -> tuple[float, float]:
    """Return bits per byte of the gold answers, and the accuracy by mean log-probability."""
    found = losses(params, columns["ids"])
    places = np.arange(found.shape[1])[None] + 1
    inside = (places >= np.maximum(columns["start"], 1)[:, None]) & (places < columns["length"][:, None])
    totals = np.where(inside, found, 0.0).sum(axis=1, dtype=np.float64)
    means = totals / np.maximum(inside.sum(axis=1), 1)
    is_gold = columns["option"] == columns["gold"]
    right = []
    for item in np.unique(columns["item"]):
        own = columns["item"] == item
        right.append(columns["option"][own][np.argmin(means[own])] == columns["gold"][own][0])
    return float(totals[is_gold].sum() / LN2 / columns["bytes"][is_gold].sum()), float(np.mean(right))


def centered(accuracies: dict[str, float]) -> float:
    """Return the mean centered accuracy over the tasks that are there."""
    known = {task.name: task for task in TASKS}
    return float(np.mean([known[name].center(value) for name, value in accuracies.items()]))
