"""The verbs of the command that work on documents: extract, filter, dedup, classify, decontaminate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional, arg, subcommand

from dclm import config
from dclm.config import Recipe

if TYPE_CHECKING:
    from dclm.engines import RunOptions

__all__ = ["Classify", "Common", "Decontaminate", "Dedup", "Extract", "Filter", "Inputs", "Options"]


@dataclass(frozen=True)
class Options:
    """Where documents go, and who does the work."""

    out: Path | str = Path("dclm-out")
    """Folder for documents/, statistics.html and the rest; local or any address that fsspec knows."""
    engine: Literal["serial", "processes", "ray"] = "serial"
    """This process, local processes, or Ray; the bytes are the same."""
    num_workers: int = 2
    """Processes, or Ray tasks at a time."""
    format: Literal["jsonl.gz", "jsonl.zst", "jsonl", "parquet"] = "jsonl.gz"
    """Format of the documents written."""
    keep_removed: bool = False
    """Also write every removed document with its reason."""
    resume: bool = False
    """Go on with what a run left in --out."""
    work: str | None = None
    """Folder for intermediate files (needed where --out is remote)."""
    ray_address: str | None = None
    """Address of a running Ray cluster; without it Ray starts here."""
    json: bool = False
    """Print JSON, with the paths of what was made."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self, inputs: Sequence[str], recipe: Recipe) -> None:
        """Run a recipe and print what it made."""
        from dclm.pipeline import run

        if not inputs:
            raise InputError("no inputs given; name files or folders of .jsonl, .parquet, .warc or .wet.")
        made = run(inputs, recipe, out=self.out, options=self.options())
        print_result(made if self.json else {**made, "documents": f"{len(made['documents'])} files"}, self.json)

    def options(self) -> RunOptions:
        """Return how it runs."""
        from dclm.engines import RunOptions

        return RunOptions(
            engine=self.engine,
            num_workers=self.num_workers,
            file_format=self.format,
            keep_removed=self.keep_removed,
            resume=self.resume,
            work=self.work,
            ray_address=self.ray_address,
            quiet=self.quiet,
        )


Common = Annotated[Options, arg(name="")]
Inputs = Positional[tuple[str, ...]]


@dataclass(frozen=True)
class Extract:
    """Turn HTML pages of WARC files into text.

    For example:
    dclm extract crawl/*.warc.gz --out text

    dclm extract crawl/*.warc.gz --out text --extractor trafilatura
    """

    inputs: Inputs = ()
    """WARC files; WET and text pass unchanged."""
    extractor: Literal["resiliparse", "trafilatura"] = "resiliparse"
    """Main-content extraction; trafilatura needs the extra of that name."""
    compat: bool = False
    """Drop pages that are not UTF-8, as the reference does."""
    common: Common = Options()

    def run(self) -> None:
        """Extract."""
        self.common.run(self.inputs, Recipe((config.Extract(self.extractor, self.compat),)))


@dataclass(frozen=True)
class Filter:
    """Apply one set of heuristic rules.

    For example:
    dclm filter refinedweb text/documents --out filtered --keep-removed

    dclm filter gopher text/documents --out filtered
    """

    rules: Positional[Literal["refinedweb", "refinedweb_curated", "gopher", "c4", "fineweb", "language"]]
    """Which rules; refinedweb_curated also leaves out the 16 domains of curated sources."""
    inputs: Inputs = ()
    """Documents."""
    compat: bool = False
    """RefinedWeb only: repeat the reference's defects."""
    banned_domains: str | None = None
    """RefinedWeb only: file with one domain per line."""
    common: Common = Options()

    def run(self) -> None:
        """Filter."""
        refined = config.RefinedWeb(banned_domains=self.banned_domains, compat=self.compat)
        stages: dict[str, config.Stage] = {
            "refinedweb": refined,
            "refinedweb_curated": config.RefinedWeb(
                banned_domains=self.banned_domains, compat=self.compat, skip_domains=config.CURATED_DOMAINS
            ),
            "gopher": config.Gopher(),
            "c4": config.C4(),
            "fineweb": config.FineWeb(),
            "language": config.Language(),
        }
        self.common.run(self.inputs, Recipe((stages[self.rules],)))


@dataclass(frozen=True)
class Dedup:
    """Remove duplicates.

    For example:
    dclm dedup bloom filtered/documents --out deduplicated

    dclm dedup minhash filtered/documents --out deduplicated --threshold 0.8
    """

    method: Positional[Literal["bloom", "minhash", "text", "url", "substring"]]
    """Bloom filter of n-grams, MinHash, equal texts, equal URLs, or runs of 50 tokens."""
    inputs: Inputs = ()
    """Documents; shard i goes to partition i modulo --num-partitions."""
    mode: Literal["old-both", "document", "paragraph", "ngram"] = "old-both"
    """Bloom only: what is compared and removed."""
    threshold: float | None = None
    """Bloom: share of known n-grams (0.8); MinHash: Jaccard similarity (0.75)."""
    expected_ngrams: int | None = None
    """Bloom only: size the filter for so many n-grams; without it they are counted first."""
    max_bytes: int = 4_000_000_000
    """RAM for one filter, or for one bucket of sorted hashes."""
    num_partitions: int = 1
    """Bloom only: filters that do not see each other, so that they can run side by side."""
    saved_filter: str | None = None
    """Bloom only: start from this file."""
    seed: int = 0
    """Of the hash functions."""
    common: Common = Options()

    def run(self) -> None:
        """Deduplicate."""
        self.common.run(self.inputs, Recipe((self._stage(),)))

    def _stage(self) -> config.Stage:
        if self.method == "bloom":
            return config.Bloom(
                mode=self.mode,
                threshold=0.8 if self.threshold is None else self.threshold,
                expected_ngrams=self.expected_ngrams,
                max_bytes=self.max_bytes,
                num_partitions=self.num_partitions,
                saved_filter=self.saved_filter,
                seed=self.seed,
            )
        if self.method == "minhash":
            threshold = 0.75 if self.threshold is None else self.threshold
            return config.MinHash(threshold=threshold, max_bytes=self.max_bytes, seed=self.seed)
        if self.method == "substring":
            return config.Substring(max_bytes=self.max_bytes)
        return config.Exact(key="text" if self.method == "text" else "url", max_bytes=self.max_bytes)


@dataclass(frozen=True)
class Train:
    """Train a fastText classifier of word bigrams, as in the paper.

    For example:
    dclm classify train --wanted good.jsonl --others random.jsonl --out quality.bin
    """

    wanted: tuple[str, ...]
    """Documents like those to keep."""
    others: tuple[str, ...]
    """Documents of the corpus as it is."""
    out: Path = Path("quality.bin")
    """Model file to write."""
    epochs: int = 5
    """Passes over the documents."""
    num_buckets: int = 2_000_000
    """Rows for hashed bigrams, 400 bytes each; fewer make a smaller model."""
    seed: int = 0
    """Of weights and order."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Train and print the numbers of documents."""
        from itertools import chain

        from dclm.classify import train_classifier
        from dclm.data import read_documents
        from dclm.storage import find_inputs

        kinds = [chain.from_iterable(map(read_documents, find_inputs(paths))) for paths in (self.wanted, self.others)]
        made = train_classifier(*kinds, out=self.out, seed=self.seed, epochs=self.epochs, num_buckets=self.num_buckets)
        print_result(made, self.json)


@dataclass(frozen=True)
class Score:
    """Write a score of a classifier, or a perplexity, into each document.

    For example:
    dclm classify score deduplicated/documents --model quality.bin --out scored
    """

    model: str
    """fastText model, or a KenLM file with --kind perplexity."""
    inputs: Inputs = ()
    """Documents."""
    field: str = "quality"
    """Field to write."""
    label: str = "hq"
    """The classifier's label for what is wanted."""
    kind: Literal["fasttext", "perplexity"] = "fasttext"
    """What the model is."""
    common: Common = Options()

    def run(self) -> None:
        """Score."""
        stage = config.Score(self.model, self.field, self.label, self.kind)
        self.common.run(self.inputs, Recipe((stage,)))


@dataclass(frozen=True)
class Threshold:
    """Keep the best share of all documents by a score, or what reaches a fixed score.

    For example:
    dclm classify threshold scored/documents --keep-share 0.1 --out best
    """

    inputs: Inputs = ()
    """Documents with the field."""
    field: str = "quality"
    """Field that holds the score."""
    keep_share: float = 0.1
    """Share of all documents to keep."""
    min_score: float | None = None
    """Fixed threshold instead of a share."""
    lower_is_better: bool = False
    """For perplexities."""
    common: Common = Options()

    def run(self) -> None:
        """Keep the best."""
        share = self.keep_share if self.min_score is None else None
        stage = config.Threshold(self.field, share, self.min_score, not self.lower_is_better)
        self.common.run(self.inputs, Recipe((stage,)))


@dataclass(frozen=True)
class Decontaminate:
    """Drop documents that hold items of evaluation sets, and report per task.

    For example:
    dclm decontaminate corpus/documents --tasks arc_easy.jsonl piqa.jsonl --out clean
    """

    tasks: tuple[str, ...]
    """JSON-lines files of evaluation items; a file's name is the task's name."""
    inputs: Inputs = ()
    """Documents."""
    ngram_size: int = 13
    """Words of an item in a row that make a document contaminated."""
    common: Common = Options(keep_removed=True)

    def run(self) -> None:
        """Drop, then write contamination.json beside the documents."""
        from dclm.recipes import write_contamination

        stage = config.Decontaminate(self.tasks, self.ngram_size)
        self.common.run(self.inputs, Recipe((stage,)))
        write_contamination(str(self.common.out), stage)


Classify = Annotated[
    Annotated[Train, subcommand("train")]
    | Annotated[Score, subcommand("score")]
    | Annotated[Threshold, subcommand("threshold")],
    None,
]
