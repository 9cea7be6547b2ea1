"""One update, compiled once for a whole stream."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from ticclip.config import CLIPConfig, StreamConfig, TrainConfig
from ticclip.loss import Pairs
from ticclip.model import CLIP, MAX_SCALE
from ticclip.parallel import ROWS, build_mesh, local_loss, place, put_tree

Batch = dict[str, jax.Array]


@dataclass(frozen=True)
class TrainState:
    """Weights and the optimiser's moments."""

    params: Any
    moments: Any


def build_params(config: CLIPConfig, seed: int) -> Any:
    """Return random weights as a tree; the same seed gives the same on any mesh."""
    return nnx.state(CLIP(config, rngs=nnx.Rngs(seed)))


def build_optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """Return AdamW without its rate, which is an argument of the update."""
    decay = optax.add_decayed_weights(
        config.weight_decay, mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim > 1, tree)
    )
    return optax.chain(optax.scale_by_adam(0.9, config.beta2, config.epsilon), decay)


class Trainer:
    """The jitted update of a configuration on a mesh; weights and moments are donated to it.

    Args:
        config: Model, optimiser, method's weight of distillation.
        mesh: By default all visible devices along `data`.
    """

    def __init__(self, config: StreamConfig, mesh: Mesh | None = None) -> None:
        self.config = config
        self.mesh = build_mesh() if mesh is None else mesh
        parts = self.mesh.size * config.train.accumulation
        if config.train.batch_size % parts:
            raise ValueError(
                f"`batch_size` (={config.train.batch_size}) must be divisible by devices times accumulation ({parts})."
            )
        model = nnx.eval_shape(lambda: CLIP(config.model, precision=config.train.precision, rngs=nnx.Rngs(0)))
        self._graph, self._shapes = nnx.split(model)
        self._optimizer = build_optimizer(config.train)
        self.update = jax.jit(self._update, donate_argnums=(0, 1))
        self.embed_images = jax.jit(lambda params, images: self._merge(params).encode_image(images))
        self.embed_texts = jax.jit(lambda params, ids: self._merge(params).encode_text(ids))

    def _merge(self, params: Any) -> CLIP:
        return nnx.merge(self._graph, params)

    def start(self, params: Any) -> TrainState:
        """Lay weights onto the mesh with fresh moments."""
        moments = self._optimizer.init(params)
        return TrainState(put_tree(self.mesh, params), put_tree(self.mesh, moments))

    def step(self, state: TrainState, batch: Batch, rate: float, teacher: Any = None) -> tuple[TrainState, Batch]:
        """Take one update; returns the new state and `loss`, `grad_norm`, `scale`."""
        params, moments, metrics = self.update(state.params, state.moments, batch, jnp.float32(rate), teacher)
        return TrainState(params, moments), metrics

    def _update(self, params: Any, moments: Any, batch: Batch, rate: jax.Array, teacher: Any) -> Any:
        batch = jax.lax.with_sharding_constraint(batch, jax.sharding.NamedSharding(self.mesh, ROWS))
        taught = None if teacher is None else self._pairs(teacher, batch)
        loss, grads = self._gradients(params, batch, taught)
        updates, moments = self._optimizer.update(grads, moments, params)
        params = jax.tree.map(lambda value, update: value - rate * update, params, updates)
        params["logit_scale"] = jax.tree.map(
            lambda value: jnp.clip(value, 0.0, math.log(MAX_SCALE)), params["logit_scale"]
        )
        params, moments = (jax.lax.with_sharding_constraint(tree, place(self.mesh, tree)) for tree in (params, moments))
        scale = jnp.exp(jax.tree.leaves(params["logit_scale"])[0])
        norm = jnp.sqrt(sum((jnp.sum(leaf**2) for leaf in jax.tree.leaves(grads)), jnp.zeros(())))
        return params, moments, {"loss": loss, "grad_norm": norm, "scale": scale}

    def _pairs(self, params: Any, batch: Batch) -> Pairs:
        model = self._merge(params)
        return Pairs(model.encode_image(batch["image"]), model.encode_text(batch["text"]), *model.head())

    def _loss(self, pairs: Pairs, taught: Pairs | None) -> jax.Array:
        return local_loss(self.mesh, pairs, taught, self.config.lwf_weight)

    def _gradients(self, params: Any, batch: Batch, taught: Pairs | None) -> tuple[jax.Array, Any]:
        if self.config.train.accumulation == 1:
            return jax.value_and_grad(lambda tree: self._loss(self._pairs(tree, batch), taught))(params)
        return self._cached_gradients(params, batch, taught)

    def _cached_gradients(self, params: Any, batch: Batch, taught: Pairs | None) -> tuple[jax.Array, Any]:
        """GradCache (Gao et al. 2021): all embeddings first, then each part again with its embeddings' gradients.

        Part p takes every k-th pair from p, so that each part lies on all devices.
        """
        parts = self.config.train.accumulation

        def cut(rows: jax.Array) -> jax.Array:
            return rows.reshape(-1, parts, *rows.shape[1:]).swapaxes(0, 1)

        def join(rows: jax.Array) -> jax.Array:
            return rows.swapaxes(0, 1).reshape(-1, *rows.shape[2:])

        def embed(tree: Any, part: Batch) -> tuple[jax.Array, jax.Array]:
            return self._pairs(tree, part)[:2]

        pieces = jax.tree.map(cut, batch)
        embedded = jax.tree.map(join, jax.lax.map(lambda part: embed(params, part), pieces))

        def loss_of(tree: Any, vectors: tuple[jax.Array, jax.Array]) -> jax.Array:
            return self._loss(Pairs(*vectors, *self._merge(tree).head()), taught)

        loss, (grads, sent) = jax.value_and_grad(loss_of, argnums=(0, 1))(params, embedded)

        def add(total: Any, piece: Any) -> tuple[Any, None]:
            part, back = piece
            _, pull = jax.vjp(lambda tree: embed(tree, part), params)
            return jax.tree.map(jnp.add, total, pull(back)[0]), None

        grads, _ = jax.lax.scan(add, grads, (pieces, jax.tree.map(cut, sent)))
        return loss, grads

    def memory(self, num_teachers: int = 0) -> dict[str, Any]:
        """Compile the update ahead of time and return its bytes per device; nothing is allocated.

        Args:
            num_teachers: 1 for LwF, whose previous model lies beside the new one.
        """
        rows = jax.sharding.NamedSharding(self.mesh, ROWS)
        vision, text, size = self.config.model.vision, self.config.model.text, self.config.train.batch_size
        batch = {
            "image": jax.ShapeDtypeStruct((size, vision.image_size, vision.image_size, 3), jnp.uint8, sharding=rows),
            "text": jax.ShapeDtypeStruct((size, text.context_length), jnp.int32, sharding=rows),
        }
        params = jax.eval_shape(lambda: build_params(self.config.model, 0))
        moments = jax.eval_shape(self._optimizer.init, params)
        params, moments = (
            jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                tree,
                place(self.mesh, tree),
            )
            for tree in (params, moments)
        )
        teacher = params if num_teachers else None
        compiled = self.update.lower(params, moments, batch, jnp.float32(0), teacher).compile()
        found = compiled.memory_analysis()
        return {
            "devices": self.mesh.size,
            "argument_bytes": found.argument_size_in_bytes,
            "temporary_bytes": found.temp_size_in_bytes,
            "output_bytes": found.output_size_in_bytes,
        }


def get_trainer(config: StreamConfig, mesh: Mesh | None = None) -> Trainer:
    """Return a trainer, the same one for configurations that differ in method, budget or rates only.

    What is compiled depends on neither, so that many runs in one process compile once.
    """
    fixed = TrainConfig()
    train = replace(
        config.train,
        learning_rate=fixed.learning_rate,
        warmup_steps=fixed.warmup_steps,
        boundary=fixed.boundary,
        max_decay=fixed.max_decay,
        cooldown=fixed.cooldown,
        keep_optimizer=fixed.keep_optimizer,
        max_shift=fixed.max_shift,
    )
    return _cached_trainer(StreamConfig(config.model, train, lwf_weight=config.lwf_weight), mesh or build_mesh())


@functools.lru_cache(maxsize=8)
def _cached_trainer(config: StreamConfig, mesh: Mesh) -> Trainer:
    return Trainer(config, mesh)
