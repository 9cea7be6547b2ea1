"""The experiment's language model: a small Llama whose adapters are stacked, so that seeds train side by side.

Equal to `LlamaForCausalLM` with peft's LoRA on the same weights, adapters on the last
block (a test says so), with one more leading axis: adapters of several runs, each with its own data order and learning
rate, share the frozen base and every kernel launch.
Shape legend: S stacked runs, B rows, T tokens, D width, H heads, V vocabulary, R rank.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tenfold_shared.files import atomic_write
from torch import Tensor


@dataclass(frozen=True)
class Shape:
    """Sizes of a base."""

    vocab_size: int = 4096
    dim: int = 192
    num_layers: int = 4
    num_heads: int = 6
    hidden: int = 384

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Output and input width of each linear layer, by its name in transformers' Llama."""
        square, up, down = (self.dim, self.dim), (self.hidden, self.dim), (self.dim, self.hidden)
        parts = dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"), square)
        parts |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
        return {f"layers.{i}.{name}": size for i in range(self.num_layers) for name, size in parts.items()}


Weights = dict[str, Tensor]
Pair = tuple[Tensor, Tensor]
EPSILON, ROPE_BASE = 1e-6, 10_000.0


def init_weights(shape: Shape, seed: int) -> Weights:
    """Draw a base's weights; input and output embedding are one."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"embed_tokens": (shape.vocab_size, shape.dim), **shape.linears}
    weights = {name: torch.randn(size, generator=generator) * 0.02 for name, size in sizes.items()}
    norms = [f"layers.{i}.{which}" for i in range(shape.num_layers) for which in ("input", "post_attention")]
    return weights | {f"{name}_layernorm": torch.ones(shape.dim) for name in norms} | {"norm": torch.ones(shape.dim)}


@dataclass(frozen=True)
class Layout:
    """Where each adapter matrix lies in a run's flat vector: one leaf for autograd, one tensor for the optimiser.

    Adapters sit on all linear layers of the last block: what is below them is computed once for all runs.
    """

    shape: Shape
    rank: int

    @property
    def places(self) -> list[tuple[str, str, int, tuple[int, int]]]:
        """Name of the layer, "A" or "B", offset and size."""
        found, start = [], 0
        for name, (rows, columns) in self.shape.linears.items():
            if not name.startswith(f"layers.{self.shape.num_layers - 1}."):
                continue
            for which, size in (("A", (self.rank, columns)), ("B", (rows, self.rank))):
                found.append((name, which, start, size))
                start += size[0] * size[1]
        return found

    def init(self, seeds: list[int]) -> Tensor:
        """Draw the flat adapters [S, P] as peft does: A uniform (Kaiming with a = sqrt 5), B zero."""
        *_, start, size = self.places[-1]
        flat = torch.zeros(len(seeds), start + size[0] * size[1])
        for row, seed in zip(flat, seeds, strict=True):
            generator = torch.Generator().manual_seed(seed)
            for _, which, start, size in self.places:
                if which == "A":
                    bound = 1 / math.sqrt(size[1])
                    row[start : start + size[0] * size[1]].uniform_(-bound, bound, generator=generator)
        return flat

    def views(self, flat: Tensor) -> dict[str, dict[str, Tensor]]:
        """Return the matrices of all layers as views of the flat adapters."""
        found: dict[str, dict[str, Tensor]] = {}
        for name, which, start, (rows, columns) in self.places:
            part = flat[:, start : start + rows * columns]
            found.setdefault(name, {})[which] = part.view(len(flat), rows, columns)
        return found


@dataclass
class Past:
    """Keys and values of one block [S B, H, room, width of a head], of which the first `count` tokens are filled."""

    keys: Tensor
    values: Tensor
    count: int = 0

    def add(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the next tokens and return all so far."""
        end = self.count + keys.shape[-2]
        self.keys[..., self.count : end, :] = keys
        self.values[..., self.count : end, :] = values
        self.count = end
        return self.keys[..., :end, :], self.values[..., :end, :]


class Decoder:
    """A frozen or trainable base: `lower`, `top` and `logits`; only `top`, the last block, takes adapters."""

    def __init__(self, shape: Shape, weights: Weights) -> None:
        """Keep the weights; their device is the model's."""
        self.shape, self.weights = shape, weights
        device = weights["norm"].device
        half = shape.dim // shape.num_heads // 2
        angles = torch.arange(256)[:, None] / ROPE_BASE ** (torch.arange(half) / half)
        self.cosine, self.sine = torch.cos(angles).to(device), torch.sin(angles).to(device)

    def hidden(self, ids_SBT: Tensor, flat: Tensor | None = None, rank: int = 0, scale: float = 2.0) -> Tensor:
        """Return the last hidden states of every token [S, B, T, D], after the final norm."""
        return self.top(self.lower(ids_SBT), flat, rank, scale)

    def lower(self, ids_SBT: Tensor, mask: Tensor | None = None, past: Sequence[Past] = ()) -> Tensor:
        """Return what goes into the last block [S, B, T, D].

        Args:
            ids_SBT: Tokens.
            mask: Which of the past and these tokens each of these attends to [S B, 1, T, past + T]; None: all before.
            past: One of each block below the last, of the tokens before.
        """
        x = self.weights["embed_tokens"][ids_SBT]
        for i in range(self.shape.num_layers - 1):
            x = self._block(i, x, {}, mask, past[i] if past else None)
        return x

    def top(
        self,
        x_SBTD: Tensor,
        flat: Tensor | None = None,
        rank: int = 0,
        scale: float = 2.0,
        *,
        mask: Tensor | None = None,
        past: Past | None = None,
    ) -> Tensor:
        """Return the last hidden states of the tokens that the mask has rows for (at the end), or of all."""
        views = {} if flat is None else Layout(self.shape, rank).views(flat)
        adapters = {name: (part["A"], part["B"] * scale) for name, part in views.items()}
        return _norm(self._block(self.shape.num_layers - 1, x_SBTD, adapters, mask, past), self.weights["norm"])

    def logits(self, hidden: Tensor) -> Tensor:
        """Project hidden states [..., D] to the vocabulary [..., V]."""
        return hidden @ self.weights["embed_tokens"].T

    def _block(self, i: int, x: Tensor, adapters: Mapping[str, Pair], mask: Tensor | None, past: Past | None) -> Tensor:
        w, prefix, start = self.weights, f"layers.{i}.", 0 if past is None else past.count
        asked = x.shape[-2] if mask is None else mask.shape[-2]

        def linear(x: Tensor, name: str) -> Tensor:
            y = x @ w[name].T
            if name in adapters:
                a, b = adapters[name]
                rows = x.reshape(x.shape[0], -1, x.shape[-1])
                y = y + torch.bmm(torch.bmm(rows, a.mT), b.mT).view_as(y)
            return y

        def heads(y: Tensor, name: str) -> Tensor:
            return self._heads(linear(y, f"{prefix}self_attn.{name}_proj"))

        y = _norm(x, w[f"{prefix}input_layernorm"])
        k, v = self._rotate(heads(y, "k"), start), heads(y, "v")
        if past is not None:
            k, v = past.add(k, v)
        first = x.shape[-2] - asked
        x, y = x[..., first:, :], y[..., first:, :]
        q = self._rotate(heads(y, "q"), start + first)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        x = x + linear(mixed.transpose(1, 2).reshape(x.shape), f"{prefix}self_attn.o_proj")
        y = _norm(x, w[f"{prefix}post_attention_layernorm"])
        gate = F.silu(linear(y, f"{prefix}mlp.gate_proj")) * linear(y, f"{prefix}mlp.up_proj")
        return x + linear(gate, f"{prefix}mlp.down_proj")

    def _heads(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-2], self.shape.num_heads, x.shape[-1] // self.shape.num_heads).transpose(1, 2)

    def _rotate(self, x: Tensor, start: int) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cosine, sine = (table[start : start + x.shape[-2]].to(x.dtype) for table in (self.cosine, self.sine))
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPSILON)


def round_weights(weights: Weights) -> Weights:
    """Round a base to 8 bits per row, so that the file that is kept and the base that was used are the same."""
    return {name: _expand(*_round(value)) for name, value in weights.items()}


def _round(value: Tensor) -> tuple[np.ndarray, np.ndarray]:
    matrix = value.detach().float().cpu().reshape(-1, value.shape[-1]).numpy()
    scale = (np.abs(matrix).max(axis=1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    scale = np.maximum(scale, np.float32(6e-8))
    return np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8), scale.astype(np.float16)


def _expand(codes: np.ndarray, scale: np.ndarray) -> Tensor:
    matrix = torch.from_numpy(codes.astype(np.float32) * scale.astype(np.float32))
    return matrix[0] if len(matrix) == 1 else matrix


def save_base(path: Path, weights: Weights) -> str:
    """Write a base as 8-bit codes and scales (.npz), and return the file's SHA-256."""
    arrays = {}
    for name, value in weights.items():
        arrays[f"{name}.codes"], arrays[f"{name}.scale"] = _round(value)
    with atomic_write(path) as file:
        np.savez(file, **arrays)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def load_base(path: Path) -> Weights:
    """Read a base of `save_base`."""
    with np.load(path, allow_pickle=False) as arrays:
        names = [name.removesuffix(".codes") for name in arrays.files if name.endswith(".codes")]
        return {name: _expand(arrays[f"{name}.codes"], arrays[f"{name}.scale"]) for name in names}
