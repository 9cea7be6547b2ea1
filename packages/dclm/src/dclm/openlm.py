"""OpenLM's decoder in Flax nnx, exact.

Shapes: B batch, S positions, D width, H heads, V vocabulary, L layers. All layers lie in one stack (axis 0), so that
one compiled block serves every depth and names stay those of `convert`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx

from dclm.scales import ModelConfig, Precision

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

__all__ = ["OpenLM", "count_parameters", "language_loss", "rotary_tables"]

TRUNCATION = 3.0  # sigmas of the initial weights
LAYER_AXIS = 0


class Norm(nnx.Module):
    """Layer norm with mean subtraction and a gain, without bias; statistics in float32."""

    def __init__(self, dim: int, eps: float, dtype: Any) -> None:
        self.eps, self.scale = eps, nnx.Param(jnp.ones(dim, dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        centered = wide - wide.mean(axis=-1, keepdims=True)
        unit = centered * jax.lax.rsqrt(jnp.mean(centered**2, axis=-1, keepdims=True) + self.eps)
        return (unit * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class Kernel(nnx.Module):
    """A matrix, truncated normal at three sigma."""

    def __init__(self, shape: tuple[int, int], sigma: Any, *, dtype: Any, rngs: nnx.Rngs) -> None:
        draw = jax.random.truncated_normal(rngs.params(), -TRUNCATION, TRUNCATION, shape, jnp.float32)
        self.kernel = nnx.Param((draw * sigma).astype(dtype))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...].astype(x.dtype)


class Attention(nnx.Module):
    """Causal attention; queries and keys are normed over all heads together, then turned by their position."""

    def __init__(self, config: ModelConfig, depth: jax.Array, *, dtype: Any, rngs: nnx.Rngs) -> None:
        dim = config.dim
        self.num_heads = config.num_heads
        self.qkv = Kernel((dim, 3 * dim), dim**-0.5, dtype=dtype, rngs=rngs)
        self.out = Kernel((dim, dim), dim**-0.5 / jnp.sqrt(2 * (depth + 1)), dtype=dtype, rngs=rngs)
        self.q_norm = Norm(dim, config.norm_eps, dtype)
        self.k_norm = Norm(dim, config.norm_eps, dtype)

    def __call__(self, x_BSD: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
        batch, length, dim = x_BSD.shape
        query, key, value = jnp.split(self.qkv(x_BSD), 3, axis=-1)
        heads = (batch, length, self.num_heads, dim // self.num_heads)
        query, key = (_rotate(part.reshape(heads), tables) for part in (self.q_norm(query), self.k_norm(key)))
        mixed = jax.nn.dot_product_attention(query, key, value.reshape(heads), is_causal=True)
        return self.out(mixed.reshape(batch, length, dim))


class SwiGLU(nnx.Module):
    """Gate and value from one matrix (gate first), then back to the width."""

    def __init__(self, config: ModelConfig, depth: jax.Array, *, dtype: Any, rngs: nnx.Rngs) -> None:
        dim, hidden = config.dim, config.hidden
        self.w12 = Kernel((dim, 2 * hidden), dim**-0.5, dtype=dtype, rngs=rngs)
        self.w3 = Kernel((hidden, dim), hidden**-0.5 / jnp.sqrt(2 * (depth + 1)), dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        gate, value = jnp.split(self.w12(x), 2, axis=-1)
        return self.w3(jax.nn.silu(gate) * value)


class Block(nnx.Module):
    """One layer: attention and SwiGLU, each behind a norm."""

    def __init__(self, config: ModelConfig, depth: jax.Array, rngs: nnx.Rngs, *, dtype: Any) -> None:
        self.norm1 = Norm(config.dim, config.norm_eps, dtype)
        self.attn = Attention(config, depth, dtype=dtype, rngs=rngs)
        self.norm2 = Norm(config.dim, config.norm_eps, dtype)
        self.mlp = SwiGLU(config, depth, dtype=dtype, rngs=rngs)

    def __call__(self, x_BSD: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
        x_BSD = x_BSD + self.attn(self.norm1(x_BSD), tables)
        return x_BSD + self.mlp(self.norm2(x_BSD))


class Embedding(nnx.Module):
    """Rows of a table."""

    def __init__(self, config: ModelConfig, *, dtype: Any, rngs: nnx.Rngs) -> None:
        shape, sigma = (config.vocab_size, config.dim), config.dim**-0.5
        draw = jax.random.truncated_normal(rngs.params(), -TRUNCATION, TRUNCATION, shape, jnp.float32)
        self.embedding = nnx.Param((draw * sigma).astype(dtype))


class OpenLM(nnx.Module):
    """Token ids to logits of the next token.

    The authors' OpenLM as their scales use it: gain-only layer norms with mean subtraction, norms of queries and keys
    over the full width before the heads are split, rotary positions of the half-split kind, SwiGLU, no biases, no tied
    weights, no norm after the embedding. Initial weights are truncated normals whose last matrices of a block shrink
    with its depth.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        precision: Precision = "float32",
        scan: bool = True,
        remat: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        """Build with random weights.

        Args:
            config: Sizes.
            precision: Of arithmetic and weights, see `TrainConfig`.
            scan: One compiled block for all layers; otherwise they are compiled one after the other.
            remat: Compute blocks again in the backward pass.
            rngs: Of the weights.
        """
        dtype = jnp.bfloat16 if precision == "pure_bfloat16" else jnp.float32
        self.config, self.scan, self.remat = config, scan, remat
        self.compute_dtype = jnp.float32 if precision == "float32" else jnp.bfloat16
        self.embed = Embedding(config, dtype=dtype, rngs=rngs)
        keys = jax.random.split(rngs.params(), config.num_layers)

        @nnx.vmap(in_axes=(0, 0), out_axes=LAYER_AXIS)
        def stack(depth: jax.Array, key: jax.Array) -> Block:
            return Block(config, depth, nnx.Rngs(params=key), dtype=dtype)

        self.layers = stack(jnp.arange(config.num_layers, dtype=jnp.float32), keys)
        self.final_norm = Norm(config.dim, config.norm_eps, dtype)
        self.lm_head = Kernel((config.dim, config.vocab_size), config.dim**-0.5, dtype=dtype, rngs=rngs)

    def __call__(self, ids_BS: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """Return float32 logits; position s sees ids up to s."""
        return (self.final_norm(self.features(ids_BS)) @ self._head()).astype(jnp.float32)

    def features(self, ids_BS: Int[Array, "B S"]) -> Float[Array, "B S D"]:
        """Return what the last block gives."""
        x_BSD = self.embed.embedding[...].astype(self.compute_dtype)[ids_BS]
        tables = rotary_tables(self.config, ids_BS.shape[1], self.compute_dtype)
        graph, stacked = nnx.split(self.layers)

        def run(x: jax.Array, weights: Any) -> tuple[jax.Array, None]:
            return nnx.merge(graph, weights)(x, tables), None

        body = jax.checkpoint(run, prevent_cse=False) if self.remat else run
        if self.scan:
            return jax.lax.scan(body, x_BSD, stacked)[0]
        for layer in range(self.config.num_layers):
            x_BSD, _ = body(x_BSD, jax.tree.map(lambda leaf, at=layer: leaf[at], stacked))
        return x_BSD

    def _head(self) -> jax.Array:
        return self.lm_head.kernel[...].astype(self.compute_dtype)


def rotary_tables(config: ModelConfig, length: int, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Return cosines and sines, each [length, head_dim / 2], in the precision of the activations."""
    powers = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    angles = jnp.outer(jnp.arange(length, dtype=jnp.float32), config.rotary_base**-powers)
    return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def _rotate(x_BSHd: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turn pairs (i, i + d/2) of each head by their position's angle."""
    cos, sin = (table[None, :, None, :] for table in tables)
    first, second = jnp.split(x_BSHd, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def language_loss(
    logits_BSV: Float[Array, "B S V"], targets_BS: Int[Array, "B S"], z_loss: float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return cross-entropy plus z-loss, and the cross-entropy alone.

    Mean over all positions of -log p(target), plus `z_loss` times the mean of logsumexp squared.

    Args:
        logits_BSV: Float32.
        targets_BS: The next tokens.
        z_loss: Weight.

    Returns:
        Scalars in nats per token.
    """
    lse = jax.nn.logsumexp(logits_BSV, axis=-1)
    picked = jnp.take_along_axis(logits_BSV, targets_BS[..., None], axis=-1)[..., 0]
    cross = jnp.mean(lse - picked)
    return cross + z_loss * jnp.mean(lse**2), cross


def count_parameters(tree: Any) -> int:
    """Count the numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
