"""What ways of filling rows cost and give on a user's own lengths, before anything is trained (Appendix F)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int
from numpy.typing import ArrayLike

from dataset_decomposition.config import BucketConfig, Curriculum, ModelConfig
from dataset_decomposition.curriculum import draw_cycle
from dataset_decomposition.decomposition import decompose
from dataset_decomposition.packing import chunk_segments, pack_best_fit, split_at

Array = np.ndarray
STEPS = 512  # steps of the simulated run


def simulate(lengths: ArrayLike, model: ModelConfig, config: BucketConfig | None = None) -> list[dict[str, Any]]:
    """Compare concat-and-chunk, best-fit packing and decomposition on the lengths of a corpus.

    `context` is the mean number of earlier tokens of the same document that a token sees. `attended` is the mean number
    it attends to, which is what attention costs: other documents of the row count unless a kernel skips them.
    `cost` is multiply-adds per trained token and layer, 12 d^2 + 2 d * attended, over that of concat-and-chunk at
    the longest length; `attention_share` is the second term's share.

    Args:
        lengths: Tokens per document [documents].
        model: Gives the width d.
        config: Buckets; the longest is the row of the other methods.

    Returns:
        One row per method: `method`, `kept` (share of tokens in some row), `fill` (share of row positions with a
        token), `rows`, `mean_row` (mean length of a token's row), `context`, `attended`, `attention_share`, `cost`.

    Raises:
        ValueError: No document has tokens.

    Example:
        >>> from dataset_decomposition import PRESETS
        >>> rows = simulate([257] * 64, PRESETS["1b"].model)
        >>> [(row["method"], round(row["cost"], 2)) for row in rows if row["method"] == "decomposition"]
        [('decomposition', 0.76)]
    """
    config = config or BucketConfig()
    sizes = np.asarray(lengths, dtype=np.int64)
    if not (total := int(sizes.sum())):
        raise ValueError("`lengths` has no tokens; nothing can be simulated.")
    longest = config.max_length
    rows = [_chunked(sizes, length) for length in sorted({longest // 4, longest}) if length >= 2]
    rows += _packed(sizes, longest)
    rows.append(_decomposed(sizes, config))
    base = _cost(model.dim, longest / 2)
    for row in rows:
        row["kept"] /= total
        row["attention_share"] = 2 * model.dim * row["attended"] / _cost(model.dim, row["attended"])
        row["cost"] = _cost(model.dim, row["attended"]) / base
    return rows


def simulate_lengths(lengths: ArrayLike, config: BucketConfig, curriculum: Curriculum, *, seed: int = 0) -> Array:
    """Return the row length of each step of one simulated cycle [about 512 steps].

    Args:
        lengths: Tokens per document [documents].
        config: The buckets.
        curriculum: Name of the curriculum.
        seed: Of the draws.
    """
    plan = decompose(lengths, **vars(config))
    buckets = np.array(config.bucket_lengths)
    tokens = np.array([plan.length[plan.length == n].sum() for n in buckets], dtype=np.float64)
    counts = np.round(tokens / max(tokens.sum(), 1) * STEPS).astype(np.int64)
    return buckets[draw_cycle(counts, curriculum, np.random.default_rng(seed))]


def mean_context(segments: Int[Array, " segments"]) -> float:
    """Return the mean number of earlier tokens in the same segment: sum l (l - 1) / 2 over sum l."""
    size = segments.astype(np.float64)
    return float((size * (size - 1)).sum() / 2 / max(size.sum(), 1))


def _cost(dim: int, attended: float) -> float:
    """Multiply-adds per token and layer, forward."""
    return 12.0 * dim**2 + 2.0 * attended * dim


def _row(method: str, kept: float, fill: float, rows: int, mean_row: float, **context: float) -> dict[str, Any]:
    return {"method": method, "kept": kept, "fill": fill, "rows": rows, "mean_row": mean_row, **context}


def _chunked(sizes: Array, length: int) -> dict[str, Any]:
    total = int(sizes.sum())
    rows = -(-total // length)
    context = mean_context(chunk_segments(sizes, length))
    name = f"concat-and-chunk {length}"
    return _row(name, total, total / (rows * length), rows, length, context=context, attended=length / 2)


def _packed(sizes: Array, length: int) -> list[dict[str, Any]]:
    """Best-fit packing with a document mask, with a dense mask and with a kernel that skips other documents."""
    _, parts = split_at(sizes[sizes > 0], length)
    rows = int(pack_best_fit(parts, length).max()) + 1
    total, context = int(parts.sum()), mean_context(parts)
    fill = total / (rows * length)
    return [
        _row("best-fit, dense document mask", total, fill, rows, length, context=context, attended=length / 2),
        _row("best-fit, variable-length kernel", total, fill, rows, length, context=context, attended=context),
    ]


def _decomposed(sizes: Array, config: BucketConfig) -> dict[str, Any]:
    plan = decompose(sizes, **vars(config))
    length = plan.length.astype(np.float64)
    weight = max(length.sum(), 1.0)
    mean_row = float((length**2).sum() / weight)
    rows = sum(len(np.unique(plan.row[plan.length == n])) for n in config.bucket_lengths)
    row_tokens = sum((n + 1) * len(np.unique(plan.row[plan.length == n])) for n in config.bucket_lengths)
    kept = plan.total_tokens - plan.dropped_tokens
    fill = float(plan.tokens.sum()) / max(row_tokens, 1)
    return _row("decomposition", kept, fill, rows, mean_row, context=(mean_row - 1) / 2, attended=mean_row / 2)
