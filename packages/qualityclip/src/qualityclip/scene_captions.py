"""Captions of composed scenes in tiers of quality, and the controls that hold length or correspondence apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from qualityclip.scenes import Scenes, Thing

Tier = Literal["generic", "noisy", "matched", "nouns", "attributes", "relations", "shuffled"]
TIERS: tuple[Tier, ...] = get_args(Tier)
DROP, WRONG = 0.5, 0.3  # chance that a noun is left out, and that one that stays is another one
FILLER = "thing"  # one token, as most nouns; keeps a noisy caption as long as the complete one
GENERIC = (
    "a picture", "a nice picture of some things", "image", "things on a background", "my picture", "a photo of it",
)  # fmt: skip
LARGE_SHARE = 0.45  # side from which an object is called large


def caption_scenes(scenes: Scenes, tier: Tier, *, seed: int, names: Sequence[str]) -> list[str]:
    """Return one caption for each scene.

    - generic: one of six phrases that say nothing.
    - noisy: a noun is left out with chance 1/2, and one that stays is wrong with chance 0.3.
    - matched: the same draws as noisy, with a filler word where a noun is left out: as long as nouns.
    - nouns: every object's noun, in random order.
    - attributes: size and colour before every noun.
    - relations: attributes, then how two objects lie beside or in front of each other.
    - shuffled: the captions of nouns, given to other scenes.

    Args:
        scenes: What is captioned.
        tier: Which of them.
        seed: Of order and noise.
        names: Nouns that a wrong one is drawn from.
    """
    if tier == "shuffled":
        order = np.random.default_rng([seed, len(scenes)]).permutation(len(scenes))
        captions = caption_scenes(scenes, "nouns", seed=seed, names=names)
        return [captions[row] for row in order]
    write = {"generic": _generic, "noisy": _noisy, "matched": _matched, "nouns": _nouns}
    write |= {"attributes": _attributes, "relations": _relations}
    found = []
    for row, things in enumerate(scenes.things):
        generator = np.random.default_rng([seed, row])
        shuffled = [things[place] for place in generator.permutation(len(things))]
        found.append(write[tier](shuffled, generator, names))
    return found


def _generic(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> str:
    return GENERIC[generator.integers(len(GENERIC))]


def _heard(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> list[str | None]:
    """Return what a noisy caption makes of each noun; None where it is left out."""
    dropped, wrong = generator.random(len(things)) < DROP, generator.random(len(things)) < WRONG
    others = generator.integers(len(names), size=len(things))
    kept = zip(things, dropped, wrong, others, strict=True)
    return [None if out else names[other] if bad else thing.concept for thing, out, bad, other in kept]


def _noisy(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> str:
    return _join([word for word in _heard(things, generator, names) if word]) or GENERIC[0]


def _matched(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> str:
    return _join([word or FILLER for word in _heard(things, generator, names)])


def _nouns(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> str:
    return _join([thing.concept for thing in things])


def _described(thing: Thing) -> str:
    return f"{'large' if thing.share >= LARGE_SHARE else 'small'} {thing.colour} {thing.concept}"


def _attributes(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> str:
    return _join([_described(thing) for thing in things])


def _relations(things: list[Thing], generator: np.random.Generator, names: Sequence[str]) -> str:
    if len(things) < 2:
        return _attributes(things, generator, names)
    first, second = things[:2]
    centre = [(thing.box[0] + thing.box[2], thing.box[1] + thing.box[3]) for thing in (first, second)]
    across, down = centre[0][0] - centre[1][0], centre[0][1] - centre[1][1]
    side = ("left of" if across < 0 else "right of") if abs(across) >= abs(down) else ("above" if down < 0 else "below")
    order = "in front of" if first.depth < second.depth else "behind"
    relation = f"{first.concept} {side} and {order} {second.concept}"
    return f"{_attributes(things, generator, names)}, {relation}"


def _join(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)
