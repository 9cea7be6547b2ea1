"""What a stage did to the documents of one shard, as counts that add up."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from dclm.document import Document

__all__ = ["Tally", "merge_tallies"]

EXAMPLES_KEPT = 3
EXAMPLE_CHARACTERS = 400
NUM_BINS = 26  # bin b holds texts of 2**b to 2**(b+1) characters
SPAN_FIELDS = ("bloom_removed_spans", "substring_removed_spans")


class Tally:
    """Counts of one stage over one shard.

    Examples are those whose hash is least, so that the choice does not depend on the order of shards.

    Args:
        stage: Name of the stage.
        shard: Number of the shard.
    """

    def __init__(self, stage: str, shard: int) -> None:
        self.shard = shard
        self.counts: dict[str, Any] = {
            "stage": stage,
            "documents_in": 0,
            "documents_out": 0,
            "characters_in": 0,
            "characters_out": 0,
            "reasons": {},
            "kept_lengths": [0] * NUM_BINS,
            "removed_lengths": [0] * NUM_BINS,
        }

    def watch(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Count what comes in."""
        for document in documents:
            self.counts["documents_in"] += 1
            self.counts["characters_in"] += _size(document)
            yield document

    def keep(self, document: Document) -> None:
        """Count a document that stays."""
        size = len(document.text)
        self.counts["documents_out"] += 1
        self.counts["characters_out"] += size
        self.counts["kept_lengths"][_bin(size)] += 1

    def drop(self, document: Document, reason: str) -> None:
        """Count a document that goes, and perhaps keep it as an example."""
        self.counts["removed_lengths"][_bin(_size(document))] += 1
        found = self.counts["reasons"].setdefault(reason, {"documents": 0, "characters": 0, "examples": []})
        found["documents"] += 1
        found["characters"] += _size(document)
        place = f"{self.shard}:{self.counts['documents_in']}"
        rank = hashlib.blake2b(place.encode(), digest_size=6).hexdigest()
        examples = found["examples"]
        if len(examples) < EXAMPLES_KEPT or rank < examples[-1]["rank"]:
            examples.append({"rank": rank, "name": document.name, "text": _excerpt(document)})
            found["examples"] = sorted(examples, key=lambda example: example["rank"])[:EXAMPLES_KEPT]


def _size(document: Document) -> int:
    return len(document.page) if document.page is not None else len(document.text)


def _bin(size: int) -> int:
    return min(max(size, 1).bit_length() - 1, NUM_BINS - 1)


def _excerpt(document: Document) -> str:
    """The start of the text, or of the first part that was known."""
    start = next((int(document.fields[name][0][0]) for name in SPAN_FIELDS if document.fields.get(name)), 0)
    return document.text[start : start + EXAMPLE_CHARACTERS]


def merge_tallies(counts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Add up the counts of one stage over shards.

    Args:
        counts: `Tally.counts`, at least one.

    Returns:
        The same keys, with sums.
    """
    total: dict[str, Any] = {}
    for count in counts:
        if not total:
            total = {**Tally(count["stage"], 0).counts}
        for name in ("documents_in", "documents_out", "characters_in", "characters_out"):
            total[name] += count[name]
        for name in ("kept_lengths", "removed_lengths"):
            total[name] = [a + b for a, b in zip(total[name], count[name], strict=True)]
        for reason, found in count["reasons"].items():
            _add_reason(total["reasons"], reason, found)
    total["reasons"] = dict(sorted(total["reasons"].items()))
    return total


def _add_reason(reasons: dict[str, Any], reason: str, found: dict[str, Any]) -> None:
    held = reasons.setdefault(reason, {"documents": 0, "characters": 0, "examples": []})
    held["documents"] += found["documents"]
    held["characters"] += found["characters"]
    both = held["examples"] + found["examples"]
    held["examples"] = sorted(both, key=lambda example: example["rank"])[:EXAMPLES_KEPT]
