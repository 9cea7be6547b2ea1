"""What a run over a pool costs: core-hours, wall hours, memory, disk and GPU hours, with the formulas.

Rates are measured ones of one core (`RATES`: per CPU second, AMD EPYC; extraction and tokenization: `dclm benchmark`,
the rules: 49,617 documents of the filtering pool, the Bloom filter with its counting pass: 12,168, the classifier: 600
of 6,400 characters); shares that stages keep are assumptions that the caller can change, and are printed as such.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tenfold_shared.commands import InputError

from dclm.scales import SCALES

__all__ = ["RATES", "Cluster", "parse_cluster", "parse_tokens", "price"]

TOKENS_PER_DOCUMENT = 1200  # the authors' pool: 240 T tokens of 200 B documents
BYTES_PER_TOKEN = 4.3
PACKED = 3.0  # text over its gzip
BITS_PER_NGRAM = 9.59  # Bloom filter at 1 %: -ln(0.01) / ln(2)^2
TOKEN_BYTES = 2 + 2.6  # a context while it is shuffled, and packed in its tar
H100_FLOPS = 989e12
# Documents (tokens for `tokenize`) per CPU second of one core.
RATES = {"extract": 1284.0, "refinedweb": 590.0, "bloom": 1100.0, "classify": 2300.0, "tokenize": 700_000.0}
# Share of documents that a stage keeps; assumptions, of the order of the authors' funnel (240 T to 3.8 T tokens).
KEEP = {"extract": 0.95, "refinedweb": 0.25, "bloom": 0.65, "classify": 0.1}
SUFFIXES = {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}


@dataclass(frozen=True)
class Cluster:
    """Machines.

    Args:
        nodes: How many.
        cores: Of each.
        memory_bytes: Of each.
    """

    nodes: int
    cores: int
    memory_bytes: float = 256e9

    @property
    def total_cores(self) -> int:
        """Cores of all nodes."""
        return self.nodes * self.cores


def parse_tokens(text: str) -> float:
    """Read a number such as 240T or 1.64T.

    Example:
        >>> parse_tokens("1.5B")
        1500000000.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBGT]?)", text.strip().upper())
    if match is None or not float(match[1]):
        raise InputError(f"`pool` (={text!r}) must be a number of tokens such as 240T or 1.64T.")
    return float(match[1]) * SUFFIXES[match[2]]


def parse_cluster(text: str, memory: str = "256G") -> Cluster:
    """Read NODESxCORES, such as 64x96.

    Example:
        >>> parse_cluster("64x96").total_cores
        6144
    """
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text.strip())
    if match is None:
        raise InputError(f"`cluster` (={text!r}) must be NODESxCORES, such as 64x96.")
    return Cluster(int(match[1]), int(match[2]), parse_tokens(memory))


def price(
    pool_tokens: float, cluster: Cluster, *, scale: str = "7b-2x", keep: Mapping[str, float] = KEEP, mfu: float = 0.4
) -> dict[str, Any]:
    """Price a run stage by stage.

    Args:
        pool_tokens: Of the raw pool, in GPT-NeoX tokens.
        cluster: Where the data steps run.
        scale: Of the model that is trained then.
        keep: Share of documents that every stage keeps.
        mfu: Share of an H100's bfloat16 peak that training reaches.

    Returns:
        `stages` (rows), `total`, `training`, `assumptions`.

    Raises:
        ValueError: There is no such scale.
    """
    documents = pool_tokens / TOKENS_PER_DOCUMENT
    rows = []
    for stage in KEEP:
        rows.append(_stage(stage, documents, cluster))
        documents *= keep[stage]
    tokens = documents * TOKENS_PER_DOCUMENT
    rows.append(_tokenization(tokens, cluster))
    hours = [row["core_hours"] for row in rows]
    wall = [row["wall_hours"] for row in rows]
    return {
        "stages": rows,
        "total": {"core_hours": sum(hours), "wall_hours": sum(wall), "tokens": tokens},
        "training": _training(scale, tokens, mfu),
        "assumptions": {"keep": dict(keep), "tokens_per_document": TOKENS_PER_DOCUMENT, "rates": RATES},
    }


def _stage(stage: str, documents: float, cluster: Cluster) -> dict[str, Any]:
    rate = RATES[stage]
    seconds = documents / rate
    size = documents * TOKENS_PER_DOCUMENT * BYTES_PER_TOKEN / PACKED
    row = {
        "stage": stage,
        "documents": documents,
        "core_hours": seconds / 3600,
        "wall_hours": seconds / cluster.total_cores / 3600,
        "disk_bytes": size,
        "memory_bytes": 0.0,
        "partitions": 1,
        "formula": f"{documents:.3g} documents / {rate:g} per core second / {cluster.total_cores:,} cores",
    }
    return row if stage != "bloom" else row | _bloom(row, documents, cluster)


def _bloom(row: dict[str, Any], documents: float, cluster: Cluster) -> dict[str, Any]:
    """A filter lives in one process: as many partitions as cores use, while each node's filters fit its memory."""
    whole = documents * TOKENS_PER_DOCUMENT * BITS_PER_NGRAM / 8
    partitions = max(cluster.total_cores, math.ceil(whole / (0.9 * cluster.memory_bytes)))
    fitting = int(0.9 * cluster.memory_bytes * cluster.nodes * partitions / whole)
    at_once = min(cluster.total_cores, partitions, max(1, fitting))
    seconds = documents / RATES["bloom"]
    return {
        "memory_bytes": whole / partitions,
        "partitions": partitions,
        "wall_hours": seconds / at_once / 3600,
        "formula": f"{row['formula'].rsplit('/', 1)[0]}/ {at_once:,} filters at once; 9.59 bits for each of "
        f"{documents * TOKENS_PER_DOCUMENT:.3g} 13-grams / {partitions:,} partitions",
    }


def _tokenization(tokens: float, cluster: Cluster) -> dict[str, Any]:
    seconds = tokens / RATES["tokenize"]
    return {
        "stage": "tokenize",
        "documents": tokens / TOKENS_PER_DOCUMENT,
        "core_hours": seconds / 3600,
        "wall_hours": seconds / cluster.total_cores / 3600,
        "disk_bytes": tokens * TOKEN_BYTES,
        "memory_bytes": 1e9,
        "partitions": 1,
        "formula": f"{tokens:.3g} tokens / {RATES['tokenize']:g} per core second / {cluster.total_cores:,} cores; "
        f"{TOKEN_BYTES:g} bytes of disk a token",
    }


def _training(scale: str, tokens: float, mfu: float) -> dict[str, Any]:
    from tenfold_shared.commands import unknown_name

    if scale not in SCALES:
        raise unknown_name("scale", scale, list(SCALES))
    config = SCALES[scale]
    flops = config.model.flops_per_token() * config.num_tokens
    return {
        "scale": scale,
        "tokens": config.num_tokens,
        "passes": config.num_tokens / tokens,
        "flops": flops,
        "h100_hours": flops / (mfu * H100_FLOPS) / 3600,
        "formula": f"(6 N + 12 L d T) D = {flops:.3g} FLOP / ({mfu:g} x {H100_FLOPS:.3g} FLOP/s)",
    }
