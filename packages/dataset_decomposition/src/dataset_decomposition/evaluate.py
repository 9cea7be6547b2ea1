"""One evaluation for every way of training: whole held-out documents, one per row, loss by position."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from dataset_decomposition.config import IGNORED_LABEL

EDGES = (0, 32, 128, 256, 512, 1024, 2048, 4096, 8192, 1 << 40)
ROW_TOKENS = 16_384  # positions per forward pass


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    documents: Sequence[np.ndarray],
    num_bytes: Sequence[int],
    *,
    max_length: int = 8192,
    short: int = 256,
) -> dict[str, float]:
    """Measure bits per byte on documents that the model has not seen.

    Every document stands alone in its row, from its first token on, up to `max_length` targets. Bytes are shared out
    over a document's tokens, so that models with one tokenizer compare by position, too.

    Args:
        model: Token ids [rows, length] to logits.
        documents: Token ids of each document.
        num_bytes: UTF-8 bytes of each document.
        max_length: Targets per document at most.
        short: Documents with fewer targets are averaged on their own, too: what decomposition drops in training.

    Returns:
        `bits_per_byte` over all, `bits_per_byte_short`, `bits_per_byte/<from>-<to>` by position of the target, and
        `loss` in nats per token; nan where nothing falls in.

    Raises:
        ValueError: No document has a target.
    """
    kept = [i for i, document in enumerate(documents) if len(document) > 1]
    if not kept:
        raise ValueError("`documents` hold no token to predict.")
    total_bits, total_bytes = np.zeros(len(EDGES) - 1), np.zeros(len(EDGES) - 1)
    short_bits = short_bytes = tokens = 0.0
    model.eval()
    for group in _group(kept, documents, max_length):
        losses = token_losses(model, [documents[i][: max_length + 1] for i in group])
        for i, loss in zip(group, losses, strict=True):
            bits, per_token = loss / math.log(2), num_bytes[i] / len(documents[i])
            where = np.searchsorted(EDGES, np.arange(len(bits)), side="right") - 1
            total_bits += np.bincount(where, weights=bits, minlength=len(EDGES) - 1)
            total_bytes += np.bincount(where, minlength=len(EDGES) - 1) * per_token
            tokens += len(bits)
            if len(documents[i]) - 1 < short:
                short_bits += bits.sum()
                short_bytes += len(bits) * per_token
    result = {
        "bits_per_byte": total_bits.sum() / total_bytes.sum(),
        "bits_per_byte_short": short_bits / short_bytes if short_bytes else math.nan,
        "loss": total_bits.sum() * math.log(2) / tokens,
    }
    for i in np.flatnonzero(total_bytes).tolist():
        end = "" if EDGES[i + 1] > 1 << 30 else EDGES[i + 1]
        result[f"bits_per_byte/{EDGES[i]}-{end}"] = total_bits[i] / total_bytes[i]
    return {name: float(value) for name, value in result.items()}


def _group(kept: list[int], documents: Sequence[np.ndarray], max_length: int) -> list[list[int]]:
    """Put documents of similar length together, up to `ROW_TOKENS` positions with the padding."""
    groups: list[list[int]] = []
    for i in sorted(kept, key=lambda i: -len(documents[i])):
        width = min(len(documents[groups[-1][0]]), max_length + 1) if groups else 0
        if groups and (len(groups[-1]) + 1) * width <= ROW_TOKENS:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


@torch.inference_mode()
def token_losses(model: nn.Module, documents: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the loss of each target of each document in nats; padding lies behind and is never looked at."""
    width = max(len(document) for document in documents) - 1
    device = next(model.parameters()).device
    inputs = torch.zeros(len(documents), width, dtype=torch.long)
    labels = torch.full((len(documents), width), IGNORED_LABEL)
    for row, document in enumerate(documents):
        ids = torch.from_numpy(document.astype(np.int64))
        inputs[row, : len(ids) - 1], labels[row, : len(ids) - 1] = ids[:-1], ids[1:]
    logits = model(inputs.to(device))
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten().to(device), ignore_index=IGNORED_LABEL, reduction="none"
    )
    rows = losses.view(len(documents), width).cpu().numpy()
    return [row[: len(document) - 1] for row, document in zip(rows, documents, strict=True)]


@torch.inference_mode()
def retrieve_keys(
    model: nn.Module, text: Int[np.ndarray, " tokens"], *, length: int, trials: int, seed: int, key_tokens: int = 8
) -> float:
    """Return the share of tokens that the model copies right when a passage comes again far behind its first time.

    A row is real text with a passage of random tokens at a random place in its first half, and at its end the first
    half of that passage: the model has to give the second half. Chance is one over the vocabulary.

    Args:
        model: Token ids to logits.
        text: Tokens to fill the rows with, at least `length`.
        length: Tokens per row.
        trials: Rows.
        seed: Of passages and places.
        key_tokens: Tokens of each half of the passage.

    Raises:
        ValueError: `text` is shorter than a row.
    """
    if len(text) < length or length < 8 * key_tokens:
        raise ValueError(f"`length` (={length}) must be from {8 * key_tokens} to the {len(text)} tokens of `text`.")
    generator = np.random.default_rng(seed)
    rows = np.empty((trials, length), dtype=np.int64)
    answers = np.empty((trials, key_tokens), dtype=np.int64)
    for row, answer in zip(rows, answers, strict=True):
        start = generator.integers(0, len(text) - length + 1)
        row[:] = text[start : start + length]
        passage = generator.choice(text, 2 * key_tokens)
        place = generator.integers(0, length // 2 - 2 * key_tokens)
        row[place : place + 2 * key_tokens] = passage
        row[-2 * key_tokens :], answer[:] = passage, passage[key_tokens:]
    hits = []
    step = max(1, ROW_TOKENS // length)
    for first in range(0, trials, step):
        guesses = _last(model, torch.from_numpy(rows[first : first + step]), key_tokens)
        hits.append(guesses == answers[first : first + step])
    return float(np.concatenate(hits).mean())


def _last(model: nn.Module, rows: Tensor, count: int) -> np.ndarray:
    """Return the likeliest tokens at the last `count` places, each given the true tokens before it."""
    logits = model(rows[:, :-1].to(next(model.parameters()).device))
    return logits[:, -count:].argmax(dim=-1).cpu().numpy()
