"""Similarity of a generated text to its references: ROUGE, BLEU, chrF, exact match, or a function of the user's.

ROUGE equals `rouge-score` without stemming; BLEU and chrF equal `sacrebleu`'s sentence scores (a tenth of a percent of
them: from 0 to 1), tests hold them against both.
"""

from __future__ import annotations

import collections
import importlib
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from tenfold_shared.commands import InputError, unknown_name
from tenfold_shared.metrics import rouge_l, rouge_n

Similarity = Callable[[str, Sequence[str]], float]

# mteval-v13a, the tokenization of WMT's BLEU.
_UNESCAPE = (("<skipped>", ""), ("-\n", ""), ("\n", " "))
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_RULES = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)
MAX_ORDER = 4
CHRF_ORDER, CHRF_BETA = 6, 2.0


def exact_match(answer: str, references: Sequence[str]) -> float:
    """Return 1 where the answer is one of the references, up to outer white space."""
    return float(answer.strip() in [reference.strip() for reference in references])


def rouge1(answer: str, references: Sequence[str]) -> float:
    """Return the best F-measure of shared words."""
    return max(rouge_n(answer, reference, n=1).fmeasure for reference in references)


def rouge2(answer: str, references: Sequence[str]) -> float:
    """Return the best F-measure of shared pairs of words."""
    return max(rouge_n(answer, reference, n=2).fmeasure for reference in references)


def rougel(answer: str, references: Sequence[str]) -> float:
    """Return the best F-measure of the longest common subsequence."""
    return max(rouge_l(answer, reference).fmeasure for reference in references)


def bleu(answer: str, references: Sequence[str]) -> float:
    """Return sentence BLEU (Papineni et al. 2002): 13a words, exponential smoothing, orders that the answer has.

    Args:
        answer: The generated text.
        references: One or more right texts.
    """
    words = _tokenize(answer)
    wanted = [_tokenize(reference) for reference in references]
    orders = range(1, min(MAX_ORDER, len(words)) + 1)
    if not words:
        return 0.0
    logs, smooth = 0.0, 1.0
    for n in orders:
        found, total = _ngrams(words, n), len(words) - n + 1
        best: collections.Counter[Any] = collections.Counter()
        for reference in wanted:
            best |= _ngrams(reference, n)
        matches = (found & best).total()
        if not matches and n == 1:
            return 0.0
        if not matches:
            smooth *= 2
        logs += math.log(matches / total if matches else 1 / (smooth * total))
    closest = min((abs(len(reference) - len(words)), len(reference)) for reference in wanted)[1]
    brevity = min(0.0, 1 - closest / len(words))
    return math.exp(logs / len(orders) + brevity)


def _tokenize(text: str) -> list[str]:
    line = text.rstrip()
    for old, new in _UNESCAPE:
        line = line.replace(old, new)
    if "&" in line:
        for old, new in _ENTITIES:
            line = line.replace(old, new)
    line = f" {line} "
    for pattern, replacement in _RULES:
        line = pattern.sub(replacement, line)
    return line.split()


def chrf(answer: str, references: Sequence[str]) -> float:
    """Return sentence chrF (Popovic 2015): F2 of character n-grams up to six, white space left out, best reference."""
    return max(_chrf("".join(answer.split()), "".join(reference.split())) for reference in references)


def _chrf(answer: str, reference: str) -> float:
    precisions, recalls = [], []
    for n in range(1, CHRF_ORDER + 1):
        found, wanted = _ngrams(answer, n), _ngrams(reference, n)
        if found and wanted:
            shared = (found & wanted).total()
            precisions.append(shared / found.total())
            recalls.append(shared / wanted.total())
    if not precisions:
        return 0.0
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    if precision + recall == 0:
        return 0.0
    factor = CHRF_BETA**2
    return (1 + factor) * precision * recall / (factor * precision + recall)


def _ngrams(words: Sequence[str], n: int) -> collections.Counter[Any]:
    return collections.Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


SIMILARITIES: dict[str, Similarity] = {
    "exact_match": exact_match,
    "rouge1": rouge1,
    "rouge2": rouge2,
    "rougeL": rougel,
    "bleu": bleu,
    "chrf": chrf,
}


def find_similarity(name: str) -> Similarity:
    """Return a similarity by name, or the function of `module:function`, which takes an answer and its references.

    Raises:
        InputError: No such module or function.
        ValueError: No such name.
    """
    if ":" not in name:
        if name not in SIMILARITIES:
            raise unknown_name("similarity", name, [*SIMILARITIES, "module:function"])
        return SIMILARITIES[name]
    module, function = name.split(":", 1)
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(f"no similarity {name!r}: {error}.") from error
