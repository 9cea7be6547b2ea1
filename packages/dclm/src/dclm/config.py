"""Stages with their thresholds, and recipes made of them: frozen dataclasses, standard library only.

Change a recipe with `dataclasses.replace`, or write a file that defines `RECIPE`: `dclm run my_recipe.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CURATED_DOMAINS = (
    "arxiv.org", "askubuntu.com", "stackoverflow.com", "stackapps.com", "stackexchange.com", "mathoverflow.net",
    "exporter.nih.gov", "ncbi.nlm.nih.gov", "github.com", "irclogs.ubuntu.com", "news.ycombinator.com",
    "courtlistener.com", "reddit.com", "statmt.org", "uspto.gov", "en.wikipedia.org",
)  # fmt: skip


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` (={value!r}) must be one of {', '.join(choices)}.")


def check_above(name: str, value: float, limit: float) -> None:
    if not value > limit:
        raise ValueError(f"`{name}` (={value}) must be above {limit}.")


def check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"`{name}` (={value}) must lie between 0 and 1.")


@dataclass(frozen=True)
class Extract:
    """HTML to text.

    Args:
        extractor: "resiliparse" (the paper's, main content) or "trafilatura" (extra, slower).
        compat: Drop pages that are not strict UTF-8, as the reference does; by default their encoding is detected.
        max_bytes: Larger pages are dropped with the reason `page_too_large`.
    """

    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    compat: bool = False
    max_bytes: int = 32_000_000

    def __post_init__(self) -> None:
        check_choice("extractor", self.extractor, ("resiliparse", "trafilatura"))
        check_above("max_bytes", self.max_bytes, 0)


@dataclass(frozen=True)
class Repetition:
    """Gopher's repetition thresholds (Rae et al. 2021, Table A1); a document above any of them goes.

    Args:
        lines: Share of duplicated lines.
        paragraphs: Share of duplicated paragraphs.
        line_characters: Share of characters in duplicated lines.
        paragraph_characters: Share of characters in duplicated paragraphs.
        top_ngrams: Share of characters in the most common n-gram, by n.
        ngrams: Share of characters in any repeated n-gram, by n.
    """

    lines: float = 0.30
    paragraphs: float = 0.30
    line_characters: float = 0.20
    paragraph_characters: float = 0.20
    top_ngrams: tuple[tuple[int, float], ...] = ((2, 0.20), (3, 0.18), (4, 0.16))
    ngrams: tuple[tuple[int, float], ...] = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))


@dataclass(frozen=True)
class RefinedWeb:
    """The paper's reproduction of RefinedWeb's rules (26 steps, in order).

    Args:
        banned_domains: File with one domain per line (step 2); the paper's list is not part of this package.
        skip_domains: Step 2b: domains that other sources cover.
        language: ISO code that the language model must name (steps 8 and 9).
        min_language_probability: Keep above this.
        language_model: fastText model file; None is the lid.176.ftz that comes with the package.
        min_words: Fewest words of a page (step 10).
        max_words: Most words.
        min_word_length: Least mean length of a word (step 11).
        max_word_length: Greatest mean length.
        max_symbol_ratio: Symbols over words (step 12).
        max_bullet_lines: Share of lines that start with a bullet (step 13).
        max_ellipsis_lines: Share of lines that end in an ellipsis (step 14).
        max_non_alphabetic: Share of words without a letter (step 15).
        min_stop_words: Occurrences of stop words (step 16).
        repetition: Step 17.
        max_uppercase: A line with a larger share of capitals goes (step 19).
        max_digits: A line with a larger share of digits goes (step 20).
        min_line_words: A line with fewer words goes (step 22).
        max_removed_words: Share of words that steps 19-25 may remove before the page goes (step 26).
        compat: Repeat the reference's defects (see the README's table).
    """

    banned_domains: str | None = None
    skip_domains: tuple[str, ...] = ()
    language: str = "en"
    min_language_probability: float = 0.65
    language_model: str | None = None
    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbol_ratio: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    max_non_alphabetic: float = 0.2
    min_stop_words: int = 2
    repetition: Repetition = Repetition()
    max_uppercase: float = 0.5
    max_digits: float = 0.999999
    min_line_words: int = 2
    max_removed_words: float = 0.05
    compat: bool = False


@dataclass(frozen=True)
class Gopher:
    """Gopher's quality and repetition rules with the definitions most pipelines use (those of datatrove).

    Args:
        min_words: Fewest words that are not punctuation.
        max_words: Most.
        min_word_length: Least mean length of a word.
        max_word_length: Greatest.
        max_symbol_ratio: "#" over words, and ellipses over words.
        max_bullet_lines: Share of lines that start with a bullet.
        max_ellipsis_lines: Share of lines that end in an ellipsis.
        min_alphabetic: Least share of words with a letter.
        min_stop_words: Least number of different stop words.
        repetition: Thresholds of the repetition rules.
    """

    min_words: int = 50
    max_words: int = 100_000
    min_word_length: float = 3.0
    max_word_length: float = 10.0
    max_symbol_ratio: float = 0.1
    max_bullet_lines: float = 0.9
    max_ellipsis_lines: float = 0.3
    min_alphabetic: float = 0.8
    min_stop_words: int = 2
    repetition: Repetition = Repetition()


@dataclass(frozen=True)
class C4:
    """C4's line and page rules (Raffel et al. 2020), thresholds of the authors' published code.

    Args:
        min_line_words: A line with fewer words goes (the paper's text says 3, its code 5).
        min_sentences: A page with fewer sentences goes (the paper's text says 5, its code 3).
        max_word_length: A line with a longer word goes.
        max_characters: A longer page goes; None for no limit.
        terminal_punctuation: Drop lines that do not end in punctuation (FineWeb leaves this rule out).
        bad_words: File with one word or phrase per line; None leaves the rule out.
    """

    min_line_words: int = 5
    min_sentences: int = 3
    max_word_length: int = 1000
    max_characters: int | None = 190_000
    terminal_punctuation: bool = True
    bad_words: str | None = None


@dataclass(frozen=True)
class FineWeb:
    """FineWeb's own quality rules (Penedo et al. 2024, Sec. 3.6).

    Args:
        min_punctuated_lines: Least share of lines that end in punctuation.
        short_line_characters: A line of at most so many characters is short.
        max_short_lines: Greatest share of short lines.
        max_duplicate_characters: Greatest share of characters in repeated lines.
        max_newlines_per_word: Greatest number of line breaks per word.
    """

    min_punctuated_lines: float = 0.12
    short_line_characters: int = 30
    max_short_lines: float = 0.67
    max_duplicate_characters: float = 0.01
    max_newlines_per_word: float = 0.3


@dataclass(frozen=True)
class Language:
    """Keep documents of one language, by fastText's lid.176.

    Args:
        language: ISO code.
        min_probability: Keep above this.
        model: fastText model file; None is the lid.176.ftz that comes with the package.
    """

    language: str = "en"
    min_probability: float = 0.65
    model: str | None = None


@dataclass(frozen=True)
class Bloom:
    """Bloom-filter deduplication (the paper's BFF).

    Args:
        mode: "old-both" (the paper's: paragraphs, then whole documents), "document", "paragraph", or "ngram" (cut out
            the spans that were seen before).
        ngram_size: Tokens per n-gram.
        min_ngram_size: A shorter paragraph has no n-gram and stays; from this to `ngram_size` it is one n-gram.
        threshold: A unit with a larger share of known n-grams goes.
        false_positive_rate: What the filter is sized for.
        expected_ngrams: n-grams to expect per partition; None counts them first.
        max_bytes: Budget of RAM for one filter, never exceeded.
        num_partitions: Shard i goes to partition i modulo this, and partitions do not see each other.
        seed: Of the hash functions.
        saved_filter: Start from a file of `BloomFilter.save`.
        update: Put what is kept into the filter; False only tests against `saved_filter`.
    """

    mode: Literal["old-both", "document", "paragraph", "ngram"] = "old-both"
    ngram_size: int = 13
    min_ngram_size: int = 13
    threshold: float = 0.8
    false_positive_rate: float = 0.01
    expected_ngrams: int | None = None
    max_bytes: int = 4_000_000_000
    num_partitions: int = 1
    seed: int = 0
    saved_filter: str | None = None
    update: bool = True

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, ("old-both", "document", "paragraph", "ngram"))
        check_share("threshold", self.threshold)
        check_share("false_positive_rate", self.false_positive_rate)
        check_above("num_partitions", self.num_partitions, 0)
        check_above("min_ngram_size", self.min_ngram_size, 0)
        if self.ngram_size < self.min_ngram_size:
            raise ValueError(f"`ngram_size` (={self.ngram_size}) must be at least {self.min_ngram_size}.")


@dataclass(frozen=True)
class MinHash:
    """Near-duplicate documents by MinHash and banding; the first of each cluster stays.

    Args:
        threshold: Jaccard similarity of n-gram sets from which on two documents count as duplicates.
        num_hashes: Budget of hash functions; bands times rows stays within it.
        ngram_size: Words per n-gram.
        bands: Set with `rows` to fix the banding instead of deriving it from the threshold.
        rows: Hashes per band.
        max_bytes: RAM for one bucket of the sorted band hashes.
        seed: Of the hash functions.
    """

    threshold: float = 0.75
    num_hashes: int = 112
    ngram_size: int = 5
    bands: int | None = None
    rows: int | None = None
    max_bytes: int = 1_000_000_000
    seed: int = 0

    def __post_init__(self) -> None:
        check_share("threshold", self.threshold)
        if (self.bands is None) != (self.rows is None):
            raise ValueError("`bands` and `rows` are given together or not at all.")


@dataclass(frozen=True)
class Exact:
    """Keep the first document of each text or URL.

    Args:
        key: "text", or "url" without scheme, www, tracking parameters and a last slash.
        max_bytes: RAM for one bucket of the sorted hashes.
    """

    key: Literal["text", "url"] = "text"
    max_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        check_choice("key", self.key, ("text", "url"))


@dataclass(frozen=True)
class Substring:
    """Cut out every run of at least `num_tokens` tokens that stood earlier in the corpus.

    Args:
        num_tokens: Tokens in the shortest run that is cut.
        max_bytes: RAM for one bucket of the sorted hashes.
    """

    num_tokens: int = 50
    max_bytes: int = 1_000_000_000

    def __post_init__(self) -> None:
        check_above("num_tokens", self.num_tokens, 0)


@dataclass(frozen=True)
class Score:
    """Write a score of a fastText classifier (or of a KenLM model) into a field of each document.

    Args:
        model: fastText model of `dclm classify train`, or a KenLM file (.arpa, .bin with `kind="perplexity"`).
        field: Name of the field.
        label: The classifier's label for what is wanted.
        kind: "fasttext" (probability of the label) or "perplexity" (extra `kenlm`; lower is better).
    """

    model: str
    field: str = "quality"
    label: str = "hq"
    kind: Literal["fasttext", "perplexity"] = "fasttext"


@dataclass(frozen=True)
class Threshold:
    """Keep the best share of the whole corpus by a score, or what reaches a fixed score.

    Args:
        field: Field that holds the score.
        keep_share: Share of documents to keep over all shards (the paper's best: 0.1).
        min_score: Fixed threshold instead; the paper's for its classifier is 0.018112.
        higher_is_better: False for perplexities.
    """

    field: str = "quality"
    keep_share: float | None = 0.1
    min_score: float | None = None
    higher_is_better: bool = True

    def __post_init__(self) -> None:
        if (self.keep_share is None) == (self.min_score is None):
            raise ValueError("give one of `keep_share` and `min_score`, and None for the other.")
        if self.keep_share is not None:
            check_share("keep_share", self.keep_share)


@dataclass(frozen=True)
class Decontaminate:
    """Drop documents that hold items of evaluation sets.

    Args:
        tasks: JSON-lines files of evaluation items; a file's name is the task's name.
        ngram_size: A document with a run of so many words of an item goes; None leaves the rule out.
        sentence_and_option: Also drop documents with a question's last sentence and one of its options (the paper's).
    """

    tasks: tuple[str, ...]
    ngram_size: int | None = 13
    sentence_and_option: bool = True


Stage = (
    Extract | RefinedWeb | Gopher | C4 | FineWeb | Language | Bloom | MinHash | Exact | Substring | Score | Threshold
    | Decontaminate
)  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """Stages in order.

    Args:
        stages: Each a frozen dataclass of this module.
        note: One line that says what it makes.
    """

    stages: tuple[Stage, ...]
    note: str = ""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("`stages` is empty; a recipe has at least one.")


_FINEWEB_C4 = C4(min_line_words=3, min_sentences=5, terminal_punctuation=False)

PRESETS: dict[str, Recipe] = {
    "dclm_baseline": Recipe(
        (Extract(), RefinedWeb(), Bloom()), "DCLM-Baseline up to the classifier: extraction, RefinedWeb's rules, Bloom"
    ),
    "refinedweb": Recipe(
        (Extract(), RefinedWeb(skip_domains=CURATED_DOMAINS), MinHash(bands=93, rows=15), Substring()),
        "the reproduction of RefinedWeb: curated domains left out, MinHash 93 x 15, runs of 50 tokens",
    ),
    "gopher": Recipe((Extract(), Language(), Gopher(), MinHash()), "Gopher's rules and near-duplicates"),
    "c4": Recipe((Extract(), C4(), Exact(key="url"), Language()), "C4's rules"),
    "fineweb": Recipe(
        (Extract(), Language(), Gopher(), _FINEWEB_C4, FineWeb(), MinHash(bands=14, rows=8)), "FineWeb's filters"
    ),
}
