"""Synthetic pages of real sentences, and questions about them: "which word follows X?".

A page is 24 to 40 words in a row of one Wikipedia article, set in DejaVu on 512 x 512 grey pixels at a size between 18
and 40 pixels, so that at 128 pixels a side few pages can be read and at 384 all. Words count without case and
punctuation; those outside of the vocabulary (the most frequent words) count as one. A question names a word that stands
once on its page; the answer is the word after it, both of the vocabulary. Articles and pairs (X, answer) are divided:
no pair asked in the test is asked in training.

Validation and test pages are sentences as they are, chosen such that rare answers are asked as often as frequent ones.
On training pages the words are in random order, and half of them are exchanged for random ones of the vocabulary (in
a spelling of the training articles): in order, a few thousand pages teach by heart which word follows which, and nobody
learns to read; and frequent words would be most of what there is to learn from.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tenfold_shared.commands import require_extra

Split = Literal["train", "validation", "test"]

SIDE = 512
MIN_WORDS, MAX_WORDS = 24, 40
FONT_SIZES = (18, 40)
EXCHANGED = 0.5  # of the words of training pages
FONTS = ("DejaVuSans.ttf",)
MARGIN = 12
LINE_HEIGHT = 1.25
MAX_QUESTIONS = 12
PAD = -1
NAMES = ("words", "centres", "questions", "spoken")
# Of ten pairs, and of ten articles, one belongs to validation and two to the test.
SHARES: dict[Split, range] = {"test": range(0, 2), "validation": range(2, 3), "train": range(3, 10)}


@dataclass(frozen=True)
class PageOptions:
    """What pages are made of.

    Args:
        num_words: Size of the vocabulary: the most frequent words of the training articles.
        font_sizes: Smallest and largest font size in pixels of the full page.
        fonts: Files of DejaVu, of those that come with matplotlib.
        resolutions: At which pages are kept, in pixels a side; downsampled by averaging.
    """

    num_words: int = 32
    font_sizes: tuple[int, int] = FONT_SIZES
    fonts: tuple[str, ...] = FONTS
    resolutions: tuple[int, ...] = (SIDE,)

    def font(self, name: str, size: int) -> ImageFont.FreeTypeFont:
        """Return a font of a size in pixels."""
        return _load_font(str(_matplotlib_fonts()), name, size)


@dataclass(frozen=True)
class Pages:
    """Pages as arrays, one row per page; the word id `num_words` stands for all words outside of the vocabulary.

    Args:
        pixels: By resolution: grey values, black on white, uint8 [pages, resolution, resolution].
        words: Word ids, -1 beyond the last word [pages, 40].
        centres: (x, y) of every word's middle, in [0, 1] of the page [pages, 40, 2].
        questions: (X, answer) pairs, -1 where a page has fewer [pages, 12, 2].
        spoken: The words again where they may be learned by reading aloud: those of the vocabulary whose pair with the
            word before belongs to the split; else -1 [pages, 40].
    """

    pixels: dict[int, np.ndarray]
    words: np.ndarray
    centres: np.ndarray
    questions: np.ndarray
    spoken: np.ndarray

    def __len__(self) -> int:
        return len(self.words)


@dataclass(frozen=True)
class Corpus:
    """Articles of a split as words, and what is known of words."""

    articles: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...]
    counts: np.ndarray


def draw_pages(split: Split, numbers: Sequence[int], *, seed: int = 0, options: PageOptions = PageOptions()) -> Pages:
    """Draw pages by number; page i of a split and seed is always the same.

    Args:
        split: Whose articles and pairs.
        numbers: Which pages.
        seed: Of places in the text, sizes and margins.
        options: What pages are made of.
    """
    corpus = load_corpus(split, options.num_words)
    count = len(numbers)
    pages = Pages(
        {size: np.empty((count, size, size), np.uint8) for size in options.resolutions},
        np.full((count, MAX_WORDS), PAD, np.int16),
        np.zeros((count, MAX_WORDS, 2), np.float32),
        np.full((count, MAX_QUESTIONS, 2), PAD, np.int16),
        np.full((count, MAX_WORDS), PAD, np.int16),
    )
    for row, index in enumerate(numbers):
        random = np.random.default_rng([seed, index, zlib.crc32(split.encode())])
        text, ids, questions = _choose_text(corpus, split, options, random)
        page, centres = _draw(text, options, random)
        for size in options.resolutions:
            pages.pixels[size][row] = np.asarray(page.resize((size, size), Image.Resampling.BOX))
        pages.words[row, : len(ids)] = ids
        pages.centres[row, : len(ids)] = centres
        pages.questions[row, : len(questions)] = questions
        pages.spoken[row, : len(ids)] = _spoken(ids, split, options.num_words)
    return pages


def _choose_text(
    corpus: Corpus, split: Split, options: PageOptions, random: np.random.Generator
) -> tuple[Sequence[str], np.ndarray, list[tuple[int, int]]]:
    """Return a run of words that has a question, with ids and questions."""
    while True:
        text, ids = corpus.articles[random.integers(len(corpus.articles))]
        length = min(int(random.integers(MIN_WORDS, MAX_WORDS + 1)), len(text))
        start = int(random.integers(len(text) - length + 1))
        words, chosen = list(text[start : start + length]), list(ids[start : start + length])
        if split == "train":
            words, chosen = _exchange(words, chosen, options.num_words, random)
        pairs = find_questions(chosen, split, options.num_words)
        if not pairs:
            continue
        questions = _draw_questions(pairs, corpus.counts, random)
        if split == "train" or random.random() * corpus.counts[questions[0][1]] <= corpus.counts.min():
            return words, np.array(chosen), questions


def _exchange(
    words: list[str], ids: list[int], num_words: int, random: np.random.Generator
) -> tuple[list[str], list[int]]:
    """Put words in random order and half of them out, for random ones of the vocabulary."""
    order, spellings = random.permutation(len(words)), _spellings(num_words)
    words, ids = [words[i] for i in order], [ids[i] for i in order]
    for place in range(len(words)):
        if random.random() < EXCHANGED:
            ids[place] = int(random.integers(num_words))
            words[place] = spellings[ids[place]][random.integers(len(spellings[ids[place]]))]
    return words, ids


@cache
def _spellings(num_words: int) -> tuple[tuple[str, ...], ...]:
    """Return how each word of the vocabulary is spelled wherever it stands in training articles."""
    found: list[list[str]] = [[] for _ in range(num_words)]
    for words, ids in load_corpus("train", num_words).articles:
        for word, index in zip(words, ids, strict=True):
            if index < num_words:
                found[index].append(word)
    return tuple(map(tuple, found))


def find_questions(ids: Sequence[int], split: Split, num_words: int) -> list[tuple[int, int]]:
    """Return the pairs (X, word after X) that may be asked about a page: X once on the page, both in the vocabulary.

    Example:
        >>> pairs = [find_questions([7, 3, 7, 4, 600], split, 512) for split in ("train", "validation", "test")]
        >>> sum(pairs, [])
        [(3, 7)]
    """
    counts = Counter(ids)
    return [(x, y) for x, y in pairwise(ids) if max(x, y) < num_words and counts[x] == 1 and _belongs(x, y, split)]


def _belongs(x: int, y: int, split: Split) -> bool:
    return zlib.crc32(f"{x} {y}".encode()) % 10 in SHARES[split]


def training_pairs(num_words: int) -> np.ndarray:
    """Return which word may come after which in what training asks, bool [num_words + 1, num_words]."""
    rows = range(num_words + 1)
    return np.array([[_belongs(x, y, "train") for y in range(num_words)] for x in rows])


def _spoken(ids: Sequence[int], split: Split, num_words: int) -> list[int]:
    before = [PAD, *ids[:-1]]
    return [y if y < num_words and _belongs(x, y, split) else PAD for x, y in zip(before, ids, strict=True)]


def _draw_questions(
    pairs: list[tuple[int, int]], counts: np.ndarray, random: np.random.Generator
) -> list[tuple[int, int]]:
    """Choose questions such that frequent answers are not asked more often than others."""
    weights = np.array([1 / counts[y] for _, y in pairs])
    size = min(MAX_QUESTIONS, len(pairs))
    return [pairs[i] for i in random.choice(len(pairs), size, replace=False, p=weights / weights.sum())]


def _draw(text: Sequence[str], options: PageOptions, random: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """Return a page and the middle of each word; text that does not fit is set smaller."""
    name = options.fonts[random.integers(len(options.fonts))]
    size = int(random.integers(options.font_sizes[0], options.font_sizes[1] + 1))
    left, top = random.uniform(MARGIN, 3 * MARGIN, 2)
    while (places := _set(text, options.font(name, size), size, left, top)) is None:
        size -= 1
    page = Image.new("L", (SIDE, SIDE), 255)
    draw, font = ImageDraw.Draw(page), options.font(name, size)
    centres = []
    for word, (x, y, width) in zip(text, places, strict=True):
        draw.text((x, y), word, fill=0, font=font)
        centres.append(((x + width / 2) / SIDE, (y + size * LINE_HEIGHT / 2) / SIDE))
    return page, np.array(centres)


def _set(
    text: Sequence[str], font: ImageFont.FreeTypeFont, size: int, left: float, top: float
) -> list[tuple[float, float, float]] | None:
    """Return (x, y, width) of each word, set in lines, or None where the page is too small."""
    places, x, y, space = [], left, top, font.getlength(" ")
    for word in text:
        width = font.getlength(word)
        if x + width > SIDE - MARGIN and x > left:
            x, y = left, y + size * LINE_HEIGHT
        if x + width > SIDE or y + size * LINE_HEIGHT > SIDE:
            return None
        places.append((x, y, width))
        x += width + space
    return places


@cache
def _load_font(folder: str, name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{folder}/{name}", size, layout_engine=ImageFont.Layout.BASIC)


def _matplotlib_fonts() -> Path:
    matplotlib = require_extra("matplotlib", "demo", "fastvlm")
    return Path(matplotlib.get_data_path()) / "fonts/ttf"


@cache
def load_corpus(split: Split, num_words: int) -> Corpus:
    """Return the articles of a split with word ids, and how often each vocabulary word stands in training articles."""
    articles = _read_articles()
    vocabulary, counts = _vocabulary(num_words)
    ids = {word: index for index, word in enumerate(vocabulary)}
    return Corpus(
        tuple(
            (words, tuple(ids.get(word, num_words) for word in map(normalize, words)))
            for title, words in articles
            if _share(title) in SHARES[split]
        ),
        counts,
    )


def load_vocabulary(num_words: int) -> tuple[str, ...]:
    """Return the most frequent words of the training articles, the most frequent first."""
    return _vocabulary(num_words)[0]


@cache
def _vocabulary(num_words: int) -> tuple[tuple[str, ...], np.ndarray]:
    counts = Counter(
        normalize(word) for title, words in _read_articles() if _share(title) in SHARES["train"] for word in words
    )
    del counts[""]
    chosen = sorted(counts, key=lambda word: (-counts[word], word))[:num_words]
    return tuple(chosen), np.array([counts[word] for word in chosen])


@cache
def _read_articles() -> tuple[tuple[str, tuple[str, ...]], ...]:
    packed = resources.files("fastvlm").joinpath("wikipedia", "leads.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()
    return tuple((title, tuple(text.split())) for title, _, text in (line.partition("\t") for line in lines))


def _share(title: str) -> int:
    return zlib.crc32(title.encode()) // 7 % 10  # the file was chosen by the hash itself


def normalize(word: str) -> str:
    """Return a word without case and punctuation.

    Example:
        >>> normalize("(Clarke's,")
        'clarkes'
    """
    return re.sub(r"[^a-z0-9]", "", word.lower())
