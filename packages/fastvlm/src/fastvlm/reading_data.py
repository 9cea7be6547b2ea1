"""What the reading experiment trains on: pages, crops of them, questions as tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fastvlm.pages import Pages, training_pairs
from fastvlm.readers import LANGUAGE_MODELS, SmallLM

CROP = 128  # pixels a side, in contrastive pre-training
JITTER = 48  # pixels, over which the word in the middle of a crop is moved
IGNORE = -100


@dataclass(frozen=True)
class Words:
    """Ids of the language model's tokens: a vocabulary, any other word, and nothing."""

    count: int

    @property
    def pad(self) -> int:
        """Nothing."""
        return self.count + 1

    def language_model(self, name: str) -> SmallLM:
        """Return a new language model of a size over this vocabulary."""
        return SmallLM(replace(LANGUAGE_MODELS[name], vocab_size=self.count + 2))

    def ask(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Return the words X of (X, answer) pairs, and the answers as labels."""
        asked, answers = questions.unbind(-1)
        return torch.where(asked < 0, self.pad, asked), torch.where(answers < 0, IGNORE, answers)

    def read_aloud(self, words: Tensor, spoken: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (nothing, first word, second word, ...) and labels: the word that comes next."""
        tokens = F.pad(torch.where(words < 0, self.pad, words)[:, :-1], (1, 0), value=self.pad)
        return tokens, torch.where(spoken < 0, IGNORE, spoken)

    def mask_pairs(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Return logits in which words are out of the running that training never asks for.

        Were all words in the running, a model would learn which word never follows which in training, and never
        answer with a pair of the test.

        Args:
            logits: [batch, length, vocabulary].
            tokens: Which the logits stand at [batch, length].
        """
        return logits.masked_fill(~_pairs(self.count)[tokens], float("-inf"))


@cache
def _pairs(count: int) -> Tensor:
    """Whether a token may be followed by another in training [vocabulary, vocabulary]."""
    size = count + 2
    allowed = torch.ones(size, size, dtype=torch.bool)
    allowed[: count + 1, :count] = torch.from_numpy(training_pairs(count))
    return allowed


@dataclass(frozen=True)
class PageTensors:
    """Pages at one resolution.

    Args:
        pixels: uint8 [pages, 1, resolution, resolution].
        words: Word ids [pages, 40].
        centres: In [0, 1] [pages, 40, 2].
        questions: (X, answer) [pages, 12, 2].
        spoken: Words to be read aloud, else -1 [pages, 40].
    """

    pixels: Tensor
    words: Tensor
    centres: Tensor
    questions: Tensor
    spoken: Tensor

    @classmethod
    def of(cls, pages: Pages, resolution: int) -> PageTensors:
        """Turn arrays into tensors."""
        pixels, words, centres, questions, spoken = (
            torch.from_numpy(np.array(value))
            for value in (pages.pixels[resolution], pages.words, pages.centres, pages.questions, pages.spoken)
        )
        return cls(pixels[:, None], words.long(), centres, questions.long(), spoken.long())


def to_pixels(grey: Tensor) -> Tensor:
    """Return ink from 0 (white) to 1 (black), so that an empty page is zero."""
    return 1 - grey.float() / 255


def stack_resolutions(pages: Sequence[PageTensors]) -> list[PageTensors]:
    """Return the same pages with all their pixels, at all resolutions, in one tensor's memory, one after the other."""
    flat = torch.cat([part.pixels.flatten() for part in pages])
    sizes = [part.pixels.numel() for part in pages]
    pieces = [piece.view_as(part.pixels) for piece, part in zip(flat.split(sizes), pages, strict=True)]
    return [replace(part, pixels=piece) for piece, part in zip(pieces, pages, strict=True)]


class Crops:
    """Crops of 128 x 128 pixels around random words, from pages at random resolutions, all in one flat tensor.

    Every word of the vocabulary is as likely to stand in the middle.

    Args:
        pages: The same pages at several resolutions, from `stack_resolutions`.
        num_words: Size of the vocabulary.
        batch: Crops at a time.
        seed: Of the choices.
    """

    def __init__(self, pages: Sequence[PageTensors], num_words: int, batch: int, seed: int) -> None:
        count = sum(part.pixels.numel() for part in pages)
        self.flat = pages[0].pixels.as_strided((count,), (1,), 0)
        self.words, self.centres = pages[0].words, pages[0].centres
        sides = [part.pixels.shape[-1] for part in pages]
        sizes = [part.pixels.numel() for part in pages]
        self.sides = torch.tensor(sides)
        self.starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))])
        self.places = ((self.words >= 0) & (self.words < num_words)).nonzero()
        known = self.words[tuple(self.places.T)]
        shares = torch.bincount(known, minlength=num_words).double().reciprocal()[known]
        self.steps = (shares.cumsum(0) / shares.sum()).float()
        self.generator = torch.Generator().manual_seed(seed)
        self.uniform = torch.zeros(4, batch)
        self.range = torch.arange(CROP)

    def choose(self) -> None:
        """Draw page, resolution and place of each crop."""
        self.uniform.uniform_(generator=self.generator)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, words (-1 outside) and centres within the crop."""
        which, scale, *jitter = self.uniform
        which = torch.searchsorted(self.steps, which.contiguous()).clamp(max=len(self.places) - 1)
        page, word = self.places[which].unbind(1)
        scale = (scale * len(self.sides)).long()
        side, start = self.sides[scale], self.starts[scale]
        middle = self.centres[page, word] * side[:, None] + (torch.stack(jitter, -1) - 0.5) * JITTER
        corner = torch.minimum((middle - CROP / 2).clamp(min=0).long(), side[:, None] - CROP)
        rows = start + page * side * side + corner[:, 1] * side + corner[:, 0]
        index = rows[:, None, None] + self.range[:, None] * side[:, None, None] + self.range
        centres = (self.centres[page] * side[:, None, None] - corner[:, None]) / CROP
        inside = ((centres >= 0) & (centres < 1)).all(-1)
        words = torch.where(inside, self.words[page], -1)
        return to_pixels(self.flat[index])[:, None], words, centres.clamp(0, 0.999)
