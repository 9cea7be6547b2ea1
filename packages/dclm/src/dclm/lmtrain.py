"""One update of the language model, compiled once: loss, accumulation, AdamW on all parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from dclm.mesh import ROWS, build_mesh, place, put_tree
from dclm.openlm import OpenLM, language_loss
from dclm.scales import TrainConfig

__all__ = ["TrainState", "Trainer", "build_params", "learning_rate", "model_flops_utilization"]

# Dense bfloat16 peak of one device in FLOP/s, by a part of its name (vendors' data sheets).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "v4": 275e12, "v5 lite": 197e12, "v5p": 459e12, "v6": 918e12}


@dataclass(frozen=True)
class TrainState:
    """Weights and the optimiser's moments."""

    params: Any
    moments: Any


def learning_rate(config: TrainConfig, step: int) -> float:
    """Return the rate of an update, counted from 0.

    lr (t + 1) / warmup during warm-up, then a cosine from lr to `cooldown_rate`:
    end + (lr - end) (1 + cos(pi (t - warmup) / (T - warmup))) / 2.
    """
    warmup, total = config.warmup_steps, config.num_steps
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    share = (step - warmup) / max(1, total - warmup)
    end = config.cooldown_rate
    return end + (config.learning_rate - end) * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))


def build_model(config: TrainConfig) -> OpenLM:
    """Return the model of a run with random weights; the same seed gives the same on any mesh."""
    return OpenLM(
        config.model,
        precision=config.precision,
        scan=config.scan_layers,
        remat=config.remat,
        rngs=nnx.Rngs(config.seed),
    )


def build_params(config: TrainConfig) -> Any:
    """Return random weights as a tree."""
    return nnx.state(build_model(config))


def build_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Return clipping and AdamW without its rate, which is an argument of the update; decay acts on every parameter."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay),
    )


class Trainer:
    """The jitted update of a configuration on a mesh; weights and moments are donated to it.

    Args:
        config: Model and optimiser; rates and number of steps are not compiled in.
        mesh: By default all visible devices along `data`.
    """

    def __init__(self, config: TrainConfig, mesh: Mesh | None = None) -> None:
        self.config = config
        self.mesh = build_mesh() if mesh is None else mesh
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"] * config.accumulation
        if config.batch_size % parts:
            raise ValueError(
                f"`batch_size` (={config.batch_size}) must be divisible by data x fsdp x accumulation ({parts})."
            )
        self._graph, _ = nnx.split(nnx.eval_shape(lambda: build_model(config)))
        self._optimizer = build_optimizer(config)
        self.update = jax.jit(self._update, donate_argnums=(0, 1))
        self.logits = jax.jit(lambda params, ids: self.merge(params)(ids))

    def merge(self, params: Any) -> OpenLM:
        """Return the model with these weights."""
        return nnx.merge(self._graph, params)

    def start(self, params: Any) -> TrainState:
        """Lay weights onto the mesh with fresh moments."""
        return TrainState(put_tree(self.mesh, params), put_tree(self.mesh, self._optimizer.init(params)))

    def step(self, state: TrainState, rows: jax.Array, rate: float) -> tuple[TrainState, dict[str, jax.Array]]:
        """Take one update.

        Args:
            state: Donated.
            rows: int32 [batch, context + 1].
            rate: Learning rate.

        Returns:
            The new state; `loss` (cross-entropy, nats per token), `total` (with z-loss), `grad_norm`.
        """
        params, moments, metrics = self.update(state.params, state.moments, rows, jnp.float32(rate))
        return TrainState(params, moments), metrics

    def loss(self, params: Any, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return loss with z-loss and cross-entropy of rows [batch, context + 1]."""
        return language_loss(self.merge(params)(rows[:, :-1]), rows[:, 1:], self.config.z_loss)

    def _update(self, params: Any, moments: Any, rows: jax.Array, rate: jax.Array) -> Any:
        rows = jax.lax.with_sharding_constraint(rows, NamedSharding(self.mesh, ROWS))
        (total, cross), grads = self._gradients(params, rows)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(leaf.astype(jnp.float32))) for leaf in jax.tree.leaves(grads)))
        updates, moments = self._optimizer.update(grads, moments, params)
        params = jax.tree.map(lambda value, update: (value - rate * update).astype(value.dtype), params, updates)
        params, moments = (jax.lax.with_sharding_constraint(tree, place(self.mesh, tree)) for tree in (params, moments))
        return params, moments, {"loss": cross, "total": total, "grad_norm": norm}

    def _gradients(self, params: Any, rows: jax.Array) -> Any:
        gradient = jax.value_and_grad(self.loss, has_aux=True)
        parts = self.config.accumulation
        if parts == 1:
            return gradient(params, rows)
        # Piece p takes every parts-th row from p, so that each piece lies on all devices.
        pieces = rows.reshape(-1, parts, rows.shape[1]).swapaxes(0, 1)

        def add(total: Any, piece: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(lambda old, new: old + new / parts, total, gradient(params, piece)), None

        start = jax.tree.map(jnp.zeros_like, jax.eval_shape(gradient, params, pieces[0]))
        return jax.lax.scan(add, start, pieces)[0]

    def memory(self) -> dict[str, Any]:
        """Compile the update ahead of time and return its bytes per device; nothing is allocated."""
        config = self.config
        shape = (config.batch_size, config.model.context_length + 1)
        rows = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=NamedSharding(self.mesh, ROWS))
        params = jax.eval_shape(lambda: build_params(config))
        moments = jax.eval_shape(self._optimizer.init, params)
        params, moments = (
            jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                tree,
                place(self.mesh, tree),
            )
            for tree in (params, moments)
        )
        found = self.update.lower(params, moments, rows, jnp.float32(0)).compile().memory_analysis()
        return {
            "devices": self.mesh.size,
            "argument_bytes": found.argument_size_in_bytes,
            "temporary_bytes": found.temp_size_in_bytes,
            "output_bytes": found.output_size_in_bytes,
        }


def model_flops_utilization(config: TrainConfig, tokens_per_second: float, num_devices: int) -> float | None:
    """Return which share of the devices' bfloat16 peak a run uses; None where the peak is not known.

    (6 N + 12 L d T) tokens per second, over peak times devices.
    """
    kind = jax.devices()[0].device_kind
    peak = next((value for name, value in PEAKS.items() if name.lower() in kind.lower()), None)
    return None if peak is None else config.model.flops_per_token() * tokens_per_second / (peak * num_devices)
