"""Scores of captions: CLIPScore, length, diversity, coverage of nouns and attributes, duplication, agreement."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tenfold_shared.commands import InputError

from qualityclip.readers import MAX_CHARACTERS, Sample

PREFIX = "A photo depicts "  # Hessel et al. 2021, section 3
WEIGHT = 2.5  # the same: stretches the cosines, which seldom exceed 0.4, to about 0..1
COLOURS = "red orange yellow green blue purple violet pink brown black white grey gray golden silver"
SIZES = "large big huge small little tiny tall short long wide narrow thick thin"
LOOKS = "old new young round square flat striped spotted wooden metal plastic glass open closed empty full bright dark"
ATTRIBUTES = tuple(f"{COLOURS} {SIZES} {LOOKS}".split())
BATCH = 64


class Encoder(Protocol):
    """Whatever turns pictures and texts into features of one space."""

    def encode_images(self, images: Sequence[bytes]) -> np.ndarray:
        """Return features [images, dim]."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return features [texts, dim]."""
        ...


def caption_score(
    images: Any, captions: Any, encoder: Encoder | None = None, *, references: Any = None, prefix: str = PREFIX
) -> np.ndarray:
    """Return CLIPScore of each picture and caption, 2.5 max(cos, 0); with references RefCLIPScore.

    RefCLIPScore is the harmonic mean of CLIPScore and the largest cosine to a reference, at least 0 (Hessel et al.
    2021, equations 1 and 2). The published form puts "A photo depicts " before every text.

    Args:
        images: Encoded pictures (bytes), or features [n, dim] where there is no encoder.
        captions: Texts, or features [n, dim].
        encoder: Turns pictures and texts into features of any length.
        references: For each caption its references: texts, or features [references, dim].
        prefix: Put before every text that is encoded.

    Returns:
        float64 [n].

    Raises:
        ValueError: Numbers of pictures and captions differ, or a feature is zero or not finite.

    Example:
        >>> caption_score([[1.0, 0.0]], [[0.6, 0.8]])
        array([1.5])
    """
    seen = _unit(images if encoder is None else encoder.encode_images(images), "images")
    said = _unit(captions if encoder is None else _encode(encoder, captions, prefix), "captions")
    if seen.shape != said.shape:
        raise ValueError(f"`images` {seen.shape} and `captions` {said.shape} must have one shape.")
    score = WEIGHT * np.maximum((seen * said).sum(1), 0)
    if references is None:
        return score
    if len(references) != len(score):
        raise ValueError(f"`references` of {len(references)} captions, {len(score)} were given.")
    nearest = []
    for row, texts in zip(said, references, strict=True):
        features = _unit(texts if encoder is None else _encode(encoder, texts, prefix), "references")
        nearest.append(max(float((features @ row).max()), 0.0))
    return _harmonic(score, np.array(nearest))


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    total = a + b
    return np.divide(2 * a * b, total, out=np.zeros_like(total), where=total > 0)


def _encode(encoder: Encoder, texts: Sequence[str], prefix: str) -> np.ndarray:
    return encoder.encode_texts([prefix + text for text in texts])


def _unit(features: Any, name: str) -> np.ndarray:
    rows = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    if rows.ndim != 2 or not np.isfinite(norms).all() or not (norms > 0).all():
        raise ValueError(f"features of `{name}` must be finite rows that are not zero, found shape {rows.shape}.")
    return rows / norms


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return re.findall(r"[^\W_]+(?:['’-][^\W_]+)*", text.lower())


def diversity(captions: Sequence[str], *, n: int = 2) -> float:
    """Return distinct n-grams over all n-grams of several captions (Li et al. 2016); nan where there are none."""
    grams = [gram for caption in captions for gram in zip(*(words(caption)[k:] for k in range(n)), strict=False)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def coverage(caption: str, wanted: Iterable[str]) -> float:
    """Return the share of wanted words or phrases that a caption says, a plural s aside; nan where none is wanted.

    Example:
        >>> coverage("two dogs on a lawn", ["dog", "cat"])
        0.5
    """
    phrases = {" ".join(map(_singular, words(phrase))) for phrase in wanted}
    said = f" {' '.join(map(_singular, words(caption)))} "
    return sum(f" {phrase} " in said for phrase in phrases) / len(phrases) if phrases else float("nan")


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def agreement(captions: Sequence[str]) -> float:
    """Return the mean over pairs of captions of shared words over all words of both; nan for fewer than two."""
    bags = [set(words(caption)) for caption in captions]
    pairs = [len(a & b) / max(len(a | b), 1) for a, b in combinations(bags, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored beside length.

    Args:
        encoder: For CLIPScore; without one it is left out.
        nouns: Words whose coverage is measured: of a sample those that any of its captions says, unless the sample
            names its `objects`.
        attributes: The same for attributes.
    """

    encoder: Encoder | None = None
    nouns: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ATTRIBUTES


def score_samples(samples: Iterable[Sample], options: ScoreOptions) -> Iterator[dict[str, Any]]:
    """Yield one row for each caption.

    Rows have uid, kind (real or synthetic), caption, num_words, num_characters, nouns and attributes (coverage),
    diversity and agreement (of the sample's captions), duplicates (other samples with that caption) and clip_score.

    Args:
        samples: Checked samples; held in memory without their pictures, since duplicates need all of them.
        options: What is scored.
    """
    rows: list[dict[str, Any]] = []
    batch: list[tuple[Sample, int]] = []
    for sample in samples:
        first = len(rows)
        rows += _rows(sample, options)
        batch.append((sample, first))
        if options.encoder and len(batch) == BATCH:
            _add_clip_scores(rows, batch, options.encoder)
            batch = []
    if options.encoder and batch:
        _add_clip_scores(rows, batch, options.encoder)
    counts = Counter(text for _, text in {(row["uid"], _normal(row["caption"])) for row in rows})
    for row in rows:
        yield {**row, "duplicates": counts[_normal(row["caption"])] - 1}


def _rows(sample: Sample, options: ScoreOptions) -> list[dict[str, Any]]:
    everything = " . ".join(sample.captions)
    nouns = sample.objects or [noun for noun in options.nouns if coverage(everything, [noun])]
    attributes = [word for word in options.attributes if coverage(everything, [word])]
    together = {"diversity": diversity(sample.captions), "agreement": agreement(sample.captions)}
    kinds = ["real"] * len(sample.real) + ["synthetic"] * len(sample.synthetic)
    return [
        {
            "uid": sample.uid,
            "kind": kind,
            "caption": caption,
            "num_words": len(words(caption)),
            "num_characters": len(caption),
            "nouns": coverage(caption, nouns),
            "attributes": coverage(caption, attributes),
            **together,
        }
        for kind, caption in zip(kinds, sample.captions, strict=True)
    ]


def _add_clip_scores(rows: list[dict[str, Any]], batch: Sequence[tuple[Sample, int]], encoder: Encoder) -> None:
    images = encoder.encode_images([sample.read_image() for sample, _ in batch])
    texts = [caption for sample, _ in batch for caption in sample.captions]
    features = _encode(encoder, texts, PREFIX)
    counts = [len(sample.captions) for sample, _ in batch]
    for row, score in zip(rows[batch[0][1] :], caption_score(np.repeat(images, counts, axis=0), features), strict=True):
        row["clip_score"] = float(score)


def _normal(caption: str) -> str:
    return " ".join(words(caption))


MEASURES = ("clip_score", "num_words", "num_characters", "nouns", "attributes", "diversity", "agreement", "duplicates")


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return mean, median, 5th and 95th percentile of each measure for each kind of caption; nan is left out."""
    found = []
    for kind in sorted({row["kind"] for row in rows}):
        for measure in MEASURES:
            values = np.array([row[measure] for row in rows if row["kind"] == kind and measure in row], dtype=float)
            values = values[np.isfinite(values)]
            if len(values):
                low, middle, high = np.percentile(values, (5, 50, 95))
                counted = {"kind": kind, "measure": measure, "captions": len(values), "mean": float(values.mean())}
                found.append({**counted, "median": float(middle), "p5": float(low), "p95": float(high)})
    return found


@dataclass(frozen=True)
class FilterOptions:
    """Which captions stay.

    Args:
        min_words: Fewest words.
        max_characters: Most characters.
        min_clip_score: Smallest CLIPScore; needs an encoder.
        max_duplicates: Most samples before this one with the same caption.
    """

    min_words: int = 1
    max_characters: int = MAX_CHARACTERS
    min_clip_score: float | None = None
    max_duplicates: int | None = None


def filter_samples(
    samples: Iterable[Sample], options: FilterOptions, encoder: Encoder | None, dropped: Counter[str]
) -> Iterator[Sample]:
    """Yield samples with the captions that stay, and count why the others went.

    Args:
        samples: Any samples, with empty or overlong captions as well.
        options: What stays.
        encoder: For the smallest CLIPScore.
        dropped: Counted into: the reason of each caption, and "sample without captions".
    """
    if options.min_clip_score is not None and encoder is None:
        raise InputError("a smallest CLIPScore needs an encoder; give --encoder.")
    seen: Counter[str] = Counter()
    for sample in samples:
        keep = [_reason(caption, options, seen) for caption in sample.captions]
        if encoder is not None and options.min_clip_score is not None and not all(keep):
            _judge(sample, keep, encoder, options.min_clip_score)
        dropped.update(reason for reason in keep if reason)
        seen.update({_normal(caption) for caption, reason in zip(sample.captions, keep, strict=True) if not reason})
        kept = [caption if not reason else None for caption, reason in zip(sample.captions, keep, strict=True)]
        real, synthetic = kept[: len(sample.real)], kept[len(sample.real) :]
        if not any(kept):
            dropped["sample without captions"] += 1
            continue
        yield Sample(
            sample.uid,
            tuple(text for text in real if text),
            tuple(text for text in synthetic if text),
            sample.image,
            sample.objects,
        )


def _reason(caption: str, options: FilterOptions, seen: Mapping[str, int]) -> str:
    """Return why a caption goes, or nothing."""
    if len(caption) > options.max_characters:
        return "too long"
    if not caption.strip() or len(words(caption)) < options.min_words:
        return "too few words"
    if options.max_duplicates is not None and seen.get(_normal(caption), 0) > options.max_duplicates:
        return "duplicate"
    return ""


def _judge(sample: Sample, keep: list[str], encoder: Encoder, least: float) -> None:
    places = [place for place, reason in enumerate(keep) if not reason]
    images = np.repeat(encoder.encode_images([sample.read_image()]), len(places), axis=0)
    texts = _encode(encoder, [sample.captions[place] for place in places], PREFIX)
    for place, score in zip(places, caption_score(images, texts), strict=True):
        if score < least:
            keep[place] = "low CLIPScore"


def load_callable(name: str) -> Callable[..., Any]:
    """Return what `module:name` names.

    Raises:
        InputError: No such module or name.
    """
    import importlib
    import sys

    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{name!r} names no function ({error}); write module:function.") from error
    finally:
        sys.path.pop(0)
