"""Answers of a causal language model: log-likelihood multiple choice, exact match, ROUGE-1."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write
from tenfold_shared.progress import progress
from torch import Tensor

from muscle.protocols import Document, Protocol
from muscle.similarity import exact_match, rouge1


def evaluate(
    model: Any, tokenizer: Any, protocol: Protocol, documents: Sequence[Document], *, batch_size: int = 8
) -> list[dict[str, Any]]:
    """Answer all documents.

    Args:
        model: A causal language model, with or without adapter.
        tokenizer: Its tokenizer.
        protocol: How it is asked and scored.
        documents: What is asked.
        batch_size: Rows of a forward pass.

    Returns:
        One row per document: `id`, `question`, `prediction`, `gold`, `score`.

    Raises:
        InputError: No documents, or a multiple choice without choices.
    """
    if not documents:
        raise InputError("no documents: there is nothing to evaluate.")
    if protocol.kind == "choice":
        return _choose(model, tokenizer, documents, batch_size)
    measure = exact_match if protocol.kind == "exact" else rouge1
    rows = []
    for document in progress(documents, description="generation", unit="documents"):
        text = protocol.extract(generate(model, tokenizer, document.prompt, protocol))
        rows.append(_row(document, text, measure(text, [document.gold])))
    return rows


def _row(document: Document, prediction: Any, score: float) -> dict[str, Any]:
    return {
        "id": document.id,
        "question": document.prompt,
        "prediction": prediction,
        "gold": document.gold,
        "score": score,
    }


def _choose(model: Any, tokenizer: Any, documents: Sequence[Document], batch_size: int) -> list[dict[str, Any]]:
    missing = next((document.id for document in documents if len(document.choices) < 2), None)
    if missing is not None:
        raise InputError(f"example {missing!r} has fewer than two choices.")
    pairs = [(document.prompt, choice) for document in documents for choice in document.choices]
    scores = iter(log_likelihoods(model, tokenizer, pairs, batch_size=batch_size))
    rows = []
    for document in documents:
        found = [next(scores) for _ in document.choices]
        prediction = int(np.argmax(found))
        rows.append(_row(document, prediction, float(prediction == document.gold)) | {"log_likelihoods": found})
    return rows


def encode_pair(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a context and of its continuation, as lm-evaluation-harness splits them.

    White space at the end of the context goes to the continuation, and both are tokenised together.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    first = tokenizer(context, add_special_tokens=False)["input_ids"]
    if not first:
        first = [tokenizer.eos_token_id]
        return first, whole
    return first, whole[len(first) :]


@torch.no_grad()
def log_likelihoods(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int = 8
) -> list[float]:
    """Return the log-likelihood of each continuation after its context, summed over its tokens.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        pairs: Context and continuation; a continuation begins with its delimiter, mostly a space.
        batch_size: Rows of a forward pass.
    """
    encoded = [encode_pair(tokenizer, *pair) for pair in pairs]
    longest = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    order = sorted(range(len(pairs)), key=lambda i: -sum(map(len, encoded[i])))
    found = [0.0] * len(pairs)
    for start in progress(range(0, len(order), batch_size), description="log-likelihood", unit="batches"):
        part = order[start : start + batch_size]
        rows = [(encoded[i][0] + encoded[i][1])[-longest - 1 :] for i in part]
        logs = _log_softmax(model, [row[:-1] for row in rows])
        for i, row, log in zip(part, rows, logs, strict=True):
            targets = torch.tensor(encoded[i][1][-len(row) + 1 :], device=log.device)
            ends = slice(len(row) - 1 - len(targets), len(row) - 1)
            found[i] = float(log[ends].gather(1, targets[:, None]).sum())
    return found


def _log_softmax(model: Any, rows: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """Log-probabilities at every place of rows of unequal lengths; the padding comes after and is not seen."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for line, row in zip(ids, rows, strict=True):
        line[: len(row)] = torch.tensor(row)
    device = next(model.parameters()).device
    yield from model(input_ids=ids.to(device)).logits.float().log_softmax(-1)


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompt: str, protocol: Protocol) -> str:
    """Return the greedy continuation of a prompt, cut before the first stop string."""
    encoded = tokenizer(prompt, return_tensors="pt", add_special_tokens=True)
    ids = encoded["input_ids"]
    longest = getattr(model.config, "max_position_embeddings", None) or 1 << 30
    ids = ids[:, -(longest - protocol.max_new_tokens) :]
    device = next(model.parameters()).device
    made = model.generate(
        input_ids=ids.to(device),
        attention_mask=torch.ones_like(ids).to(device),
        max_new_tokens=protocol.max_new_tokens,
        do_sample=False,
        no_repeat_ngram_size=protocol.no_repeat_ngram_size,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        stop_strings=list(protocol.stops),
        tokenizer=tokenizer,
    )
    text = tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True)
    return text[: min((text.index(stop) for stop in protocol.stops if stop in text), default=len(text))]


def write_answers(path: str | Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write answers as JSON lines that `compare` reads."""
    import json

    with atomic_write(path, "w") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
