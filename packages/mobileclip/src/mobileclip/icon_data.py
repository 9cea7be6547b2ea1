"""Icons and their words as a small image-text world: concepts, splits, and captions as noisy as alt-text is."""

from __future__ import annotations

import io
import math
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

SPLIT_SEED = 20240
SWAPPED = 0.2
# Variants of one concept: what is left when these words go is the concept's name.
_VARIANT_WORDS = re.compile(
    r"\b(man|woman|men|women|person|people|boy|girl|male|female|right-facing|facing right|old(er)?|prince|princess)\b"
)
NUM_TEST, NUM_VALIDATION = 1200, 300
# A concept with more icons trains: its test would be one icon of many that were all left out.
MOST_TESTED = 3


@dataclass(frozen=True)
class Icon:
    """One picture with its words.

    Args:
        uid: Code points, such as "1F605", or a name.
        annotation: Its name.
        tags: Further words; for Material icons the words of the name and its aliases.
        concept: Variants (gender, flags, clocks; an outline, a badge) share it.
        image: PNG of 64 x 64 pixels.
    """

    uid: str
    annotation: str
    tags: tuple[str, ...]
    concept: str
    image: bytes


@dataclass(frozen=True)
class Splits:
    """Icons by use; no concept is in two of them, but that `quarter` is part of `pool` and `rest` the remainder.

    Args:
        pool: What teachers may see.
        quarter: Concepts with a quarter of the pool's icons: the set that is reinforced.
        rest: The pool without the quarter: what the captioner may see.
        validation: One icon per concept.
        test: One icon per concept.
    """

    pool: tuple[Icon, ...]
    quarter: tuple[Icon, ...]
    rest: tuple[Icon, ...]
    validation: tuple[Icon, ...]
    test: tuple[Icon, ...]

    def take(self, share: float) -> Splits:
        """Return the first part of each split, `share` of it."""
        quarter, rest, *held = (
            part[: math.ceil(share * len(part))] for part in (self.quarter, self.rest, self.validation, self.test)
        )
        return Splits(quarter + rest, quarter, rest, *held)


def read_icons() -> list[Icon]:
    """Read the icons that come with this package: OpenMoji, then Material Design icons (see `icons/SOURCES.md`)."""
    emoji = [
        Icon(row["uid"], row["annotation"], _listed(row["tags"]), _concept(row), row["image"])
        for row in _read("openmoji")
    ]
    return emoji + [
        Icon(f"mdi-{row['uid']}", row["annotation"], _name_words(row), row["group"].replace("-", " "), row["image"])
        for row in _read("material")
    ]


def _read(name: str) -> list[dict[str, Any]]:
    import pyarrow.parquet

    content = resources.files("mobileclip").joinpath("icons", f"{name}.parquet").read_bytes()
    return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()


def _listed(tags: str) -> tuple[str, ...]:
    return tuple(filter(None, tags.split(", ")))


def _name_words(row: dict[str, Any]) -> tuple[str, ...]:
    words = {word for word in row["annotation"].split() if len(word) > 1}
    return tuple(sorted(words.union(_listed(row["tags"]))))


def _concept(row: dict[str, Any]) -> str:
    """Return the name that all variants of a concept share."""
    if row["group"] == "flags" or "flag" in row["subgroup"]:
        return "flag"
    if row["subgroup"] == "time" and re.search(r"o.clock|thirty", row["annotation"]):
        return "clock face"
    name = row["annotation"].split(":")[0] if "people" in row["group"] else row["annotation"]
    words = " ".join(_VARIANT_WORDS.sub(" ", name.lower()).split())
    return words or "human"


def split_icons(icons: Sequence[Icon]) -> Splits:
    """Cut the icons into pool, quarter, validation and test by concept, the same way every time."""
    groups: dict[str, list[Icon]] = defaultdict(list)
    for icon in icons:
        groups[icon.concept].append(icon)
    names = sorted(groups)
    random.Random(SPLIT_SEED).shuffle(names)
    small = [name for name in names if len(groups[name]) <= MOST_TESTED]
    held, pool = small[: NUM_TEST + NUM_VALIDATION], small[NUM_TEST + NUM_VALIDATION :]
    draw = random.Random(SPLIT_SEED - 1)
    shown = [draw.choice(groups[name]) for name in held]
    pool += [name for name in names if len(groups[name]) > MOST_TESTED]
    random.Random(SPLIT_SEED + 1).shuffle(pool)
    total, taken, cut = sum(len(groups[name]) for name in pool), 0, 0
    while taken < total / 4:
        taken += len(groups[pool[cut]])
        cut += 1
    quarter, rest = pool[:cut], pool[cut:]

    def members(chosen: Sequence[str]) -> tuple[Icon, ...]:
        return tuple(icon for name in chosen for icon in groups[name])

    return Splits(members(pool), members(quarter), members(rest), tuple(shown[NUM_TEST:]), tuple(shown[:NUM_TEST]))


def noisy_captions(icons: Sequence[Icon], page: int = 0) -> list[str]:
    """Return one caption per icon: one of its tags at random, a fifth of the captions swapped among one another.

    Fixed for the data, as alt-text is: the seed of a run does not change it.

    Args:
        icons: What is captioned.
        page: Another number, another draw, as another page of the web that shows the same pictures.
    """
    draw = random.Random(SPLIT_SEED + 2 + page)
    captions = [draw.choice(icon.tags or (icon.annotation,)) for icon in icons]
    wrong = draw.sample(range(len(icons)), int(SWAPPED * len(icons)))
    moved = [captions[i] for i in wrong[1:] + wrong[:1]]
    for place, caption in zip(wrong, moved, strict=True):
        captions[place] = caption
    return captions
