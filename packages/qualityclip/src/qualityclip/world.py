"""The experiment's data in memory: composed scenes for pretraining, labels and tests, and tokens of their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from tenfold_shared.tokenizers import ClipTokenizer
from torch import Tensor

from qualityclip.scene_captions import FILLER, GENERIC, Tier, caption_scenes
from qualityclip.scenes import COLOURS, Scenes, compose, concepts

# Seeds of the scenes; runs have others of their own.
PAIRS, LABELLED, VALIDATION, TEST, RETRIEVAL = 101, 102, 103, 304, 305
EXTRA_WORDS = "large small left right of above below and in front behind ,"


@dataclass(frozen=True)
class WorldSize:
    """How much is composed.

    Args:
        image_size: Side in pixels.
        per_family: Named concepts of each of the twelve families.
        num_pairs: Pretraining scenes.
        num_labelled: Labelled scenes.
        num_validation: Scenes that rates are chosen on.
        num_test: Test scenes.
        num_retrieval: Captioned test scenes.
    """

    image_size: int = 48
    per_family: int = 6
    num_pairs: int = 8_000
    num_labelled: int = 400
    num_validation: int = 300
    num_test: int = 2_000
    num_retrieval: int = 200


class World:
    """Everything that runs share; made on first use, the same for equal sizes.

    Args:
        size: How much.
    """

    def __init__(self, size: WorldSize) -> None:
        self.size = size
        self.named = concepts("named", per_family=size.per_family)
        self.held_out = concepts("held out", per_family=1)
        # The easy split's classes are named in captions: the first of each family.
        self.easy = self.named[:: size.per_family]
        self._tokenizer = ClipTokenizer(32)
        words = [*self.named, FILLER, *GENERIC, *COLOURS, EXTRA_WORDS]
        self.vocabulary = np.unique(np.concatenate([[49406, 49407, 0], *map(self._tokenizer.encode, words)]))
        self._captions: dict[tuple[Tier, int], Tensor] = {}

    def _compose(self, names: Sequence[str], count: int, seed: int) -> Scenes:
        return compose(names, count, size=self.size.image_size, seed=seed)

    @cached_property
    def pairs(self) -> Scenes:
        """Scenes of named concepts, for pretraining."""
        return self._compose(self.named, self.size.num_pairs, PAIRS)

    @cached_property
    def retrieval(self) -> Scenes:
        """Other scenes of named concepts."""
        return self._compose(self.named, self.size.num_retrieval, RETRIEVAL)

    def scenes(self, split: str, *, easy: bool = False) -> Scenes:
        """Return labelled scenes of held-out concepts (or of the easy split's): "labelled", "validation" or "test"."""
        key = f"_{split}_{easy}"
        if key not in self.__dict__:
            count = getattr(self.size, f"num_{split}")
            seed = {"labelled": LABELLED, "validation": VALIDATION, "test": TEST}[split]
            self.__dict__[key] = self._compose(self.easy if easy else self.held_out, count, seed + 10 * easy)
        return self.__dict__[key]

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """Return ids in the experiment's own small vocabulary: the places of CLIP's ids among those that occur."""
        ids = np.asarray(self._tokenizer(list(captions)))
        places = np.searchsorted(self.vocabulary, ids).clip(max=len(self.vocabulary) - 1)
        if (self.vocabulary[places] != ids).any():
            raise ValueError("a caption says a word that is not in the experiment's vocabulary.")
        return torch.from_numpy(places)

    def pair_tokens(self, tier: Tier, seed: int) -> Tensor:
        """Return the tokens of all pretraining captions of a tier, their noise drawn by the run's seed."""
        if (tier, seed) not in self._captions:
            self._captions = {(tier, seed): self.tokens(self.captions(self.pairs, tier, seed))}
        return self._captions[tier, seed]

    def captions(self, scenes: Scenes, tier: Tier, seed: int) -> list[str]:
        """Return captions of scenes, checked: none says a held-out concept."""
        found = caption_scenes(scenes, tier, seed=seed, names=self.named)
        said = {word for caption in found for word in caption.replace(",", "").split()}
        if leaked := said & set(self.held_out):
            raise ValueError(f"captions name held-out concepts {sorted(leaked)}.")
        return found

    def present(self, scenes: Scenes) -> Tensor:
        """Return which named concepts each scene shows, float [scenes, concepts]."""
        place = {name: number for number, name in enumerate(self.named)}
        found = torch.zeros(len(scenes), len(self.named))
        for row, things in enumerate(scenes.things):
            found[row, [place[thing.concept] for thing in things]] = 1
        return found
