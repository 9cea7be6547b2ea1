"""CLIP's two towers in Flax nnx.

Shapes: B batch, N tokens, D width, H heads, E embedding. Names follow open_clip, so that `convert` is a table.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from ticclip.config import CLIPConfig, Precision, TextConfig, VisionConfig

# CLIP's statistics of pixels, preprocessing of Radford et al. 2021.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EPSILON = 1e-5
INIT_SCALE, SIGLIP_SCALE, MAX_SCALE = 1 / 0.07, 10.0, 100.0


def normal(std: float) -> Any:
    """Return an initialiser of Gaussian weights."""
    return nnx.initializers.normal(std)


class Attention(nnx.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, dim: int, num_heads: int, out_std: float, *, dtype: Any, rngs: nnx.Rngs) -> None:
        self.num_heads = num_heads
        self.in_proj = nnx.Linear(dim, 3 * dim, kernel_init=normal(dim**-0.5), dtype=dtype, rngs=rngs)
        self.out_proj = nnx.Linear(dim, dim, kernel_init=normal(out_std), dtype=dtype, rngs=rngs)

    def __call__(self, x_BND: jax.Array, mask: jax.Array | None) -> jax.Array:
        batch, length, dim = x_BND.shape
        split = (batch, length, 3, self.num_heads, dim // self.num_heads)
        query, key, value = jnp.moveaxis(self.in_proj(x_BND).reshape(split), 2, 0)
        logits_BHNN = jnp.einsum("bqhd,bkhd->bhqk", query, key) * (dim // self.num_heads) ** -0.5
        if mask is not None:
            logits_BHNN = jnp.where(mask, logits_BHNN, jnp.finfo(logits_BHNN.dtype).min)
        weights = jax.nn.softmax(logits_BHNN.astype(jnp.float32)).astype(value.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(batch, length, dim)
        return self.out_proj(mixed)


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, tower: VisionConfig | TextConfig, activation: str, *, dtype: Any, rngs: nnx.Rngs) -> None:
        dim = tower.dim
        out_std = dim**-0.5 * (2 * tower.num_layers) ** -0.5
        self.activation = activation
        self.ln_1 = nnx.LayerNorm(dim, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.attn = Attention(dim, tower.num_heads, out_std, dtype=dtype, rngs=rngs)
        self.ln_2 = nnx.LayerNorm(dim, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        wide = dim * tower.mlp_ratio
        self.c_fc = nnx.Linear(dim, wide, kernel_init=normal((2 * dim) ** -0.5), dtype=dtype, rngs=rngs)
        self.c_proj = nnx.Linear(wide, dim, kernel_init=normal(out_std), dtype=dtype, rngs=rngs)

    def __call__(self, x_BND: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        x_BND = x_BND + self.attn(self.ln_1(x_BND), mask)
        hidden = self.c_fc(self.ln_2(x_BND))
        if self.activation == "quick_gelu":
            hidden = hidden * jax.nn.sigmoid(1.702 * hidden)
        else:
            hidden = jax.nn.gelu(hidden, approximate=False)
        return x_BND + self.c_proj(hidden)


class VisionTower(nnx.Module):
    """Patches, a class token, blocks; the class token is read."""

    def __init__(self, config: CLIPConfig, *, dtype: Any, rngs: nnx.Rngs) -> None:
        tower, dim = config.vision, config.vision.dim
        self.patch_size = tower.patch_size
        std = normal(dim**-0.5)
        inputs = 3 * tower.patch_size**2
        self.conv1 = nnx.Linear(inputs, dim, use_bias=False, kernel_init=normal(inputs**-0.5), dtype=dtype, rngs=rngs)
        self.class_embedding = nnx.Param(std(rngs.params(), (dim,)))
        self.positional_embedding = nnx.Param(std(rngs.params(), (tower.num_tokens, dim)))
        self.ln_pre = nnx.LayerNorm(dim, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.blocks = nnx.List(Block(tower, config.activation, dtype=dtype, rngs=rngs) for _ in range(tower.num_layers))
        self.ln_post = nnx.LayerNorm(dim, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.proj = nnx.Param(std(rngs.params(), (dim, config.embed_dim)))

    def __call__(self, pixels: jax.Array) -> jax.Array:
        batch, size = pixels.shape[:2]
        side, patch = size // self.patch_size, self.patch_size
        patches = pixels.reshape(batch, side, patch, side, patch, 3).transpose(0, 1, 3, 2, 4, 5)
        x_BND = self.conv1(patches.reshape(batch, side * side, -1))
        first = jnp.broadcast_to(self.class_embedding[...].astype(x_BND.dtype), (batch, 1, x_BND.shape[-1]))
        x_BND = jnp.concatenate([first, x_BND], axis=1) + self.positional_embedding[...].astype(x_BND.dtype)
        x_BND = self.ln_pre(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.ln_post(x_BND[:, 0]) @ self.proj[...].astype(x_BND.dtype)


class TextTower(nnx.Module):
    """Causal transformer; the end token, which has the highest id, is read."""

    def __init__(self, config: CLIPConfig, *, dtype: Any, rngs: nnx.Rngs) -> None:
        tower, dim = config.text, config.text.dim
        self.dtype = dtype
        self.token_embedding = nnx.Param(normal(0.02)(rngs.params(), (tower.vocab_size, dim)))
        self.positional_embedding = nnx.Param(normal(0.01)(rngs.params(), (tower.context_length, dim)))
        self.blocks = nnx.List(Block(tower, config.activation, dtype=dtype, rngs=rngs) for _ in range(tower.num_layers))
        self.ln_final = nnx.LayerNorm(dim, epsilon=EPSILON, dtype=dtype, rngs=rngs)
        self.proj = nnx.Param(normal(dim**-0.5)(rngs.params(), (dim, config.embed_dim)))

    def __call__(self, ids: jax.Array) -> jax.Array:
        length = ids.shape[1]
        x_BND = self.token_embedding[...][ids] + self.positional_embedding[...][:length]
        x_BND = x_BND.astype(self.dtype)
        mask = jnp.tril(jnp.ones((length, length), bool))
        for block in self.blocks:
            x_BND = block(x_BND, mask)
        last_BD = x_BND[jnp.arange(len(ids)), ids.argmax(axis=-1)]
        return self.ln_final(last_BD) @ self.proj[...].astype(x_BND.dtype)


class CLIP(nnx.Module):
    """Pictures and captions to unit vectors of the same space."""

    def __init__(self, config: CLIPConfig, *, precision: Precision = "float32", rngs: nnx.Rngs) -> None:
        """Build the towers of `config` with random weights; `precision` is that of their arithmetic."""
        dtype = jnp.dtype(precision)
        self.config = config
        self.visual = VisionTower(config, dtype=dtype, rngs=rngs)
        self.text = TextTower(config, dtype=dtype, rngs=rngs)
        start = INIT_SCALE if config.init_bias is None else SIGLIP_SCALE
        self.logit_scale = nnx.Param(jnp.asarray(math.log(start), jnp.float32))
        if config.init_bias is not None:
            self.logit_bias = nnx.Param(jnp.asarray(config.init_bias, jnp.float32))

    def encode_image(self, images: UInt8[Array, "B S S 3"]) -> Float[Array, "B E"]:
        """Return unit vectors of pictures, uint8 or already normalised floats."""
        return unit(self.visual(normalise(images)))

    def encode_text(self, ids: Int[Array, "B L"]) -> Float[Array, "B E"]:
        """Return unit vectors of captions."""
        return unit(self.text(ids))

    def head(self) -> tuple[jax.Array, jax.Array | None]:
        """Return scale and bias of the logits; the bias is None with the softmax loss."""
        bias = self.logit_bias[...] if self.config.init_bias is not None else None
        return jnp.exp(self.logit_scale[...]), bias


def normalise(images: jax.Array) -> jax.Array:
    """Return uint8 pictures as normalised floats; floats as they are."""
    if images.dtype != jnp.uint8:
        return images
    return (images.astype(jnp.float32) / 255 - jnp.array(MEAN)) / jnp.array(STD)


def unit(x: jax.Array) -> jax.Array:
    """Return float32 vectors of length one."""
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def count_parameters(state: Any) -> int:
    """Count the numbers in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(state))
