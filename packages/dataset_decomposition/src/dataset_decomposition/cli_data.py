"""The verbs about data: tokenize, decompose, stats, plan, simulate, verify, export, import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional, arg

from dataset_decomposition.config import CURRICULA, PRESETS, BucketConfig, Curriculum, Policy, Tail


@dataclass(frozen=True)
class Output:
    """How results and progress are shown."""

    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""


@dataclass(frozen=True)
class Buckets:
    """How documents become pieces."""

    min_length: int = 256
    """Shortest piece in tokens, a power of two."""
    max_length: int = 8192
    """Longest piece in tokens, a power of two."""
    policy: Policy = "random"
    """How documents over twice --max-length are cut: drawn lengths, the longest first, or equal shares."""
    tail: Tail = "drop"
    """Leftovers under --min-length: dropped (and counted), padded, or packed with a document mask."""
    overlap: Literal[0, 1] = 0
    """1 shares the token at a cut, so that every token but a document's first is predicted."""
    seed: int = 0
    """Seed of the drawn lengths."""

    def config(self) -> BucketConfig:
        """Return them checked."""
        return BucketConfig(**vars(self))


@dataclass(frozen=True)
class Tokenize(Output):
    """Tokenise a corpus once into a store; run again after a kill, it goes on where it was.

    For example:

        dataset-decomposition tokenize corpus.jsonl.zst --tokenizer tokenizer.json --out store --workers 8
        dataset-decomposition tokenize texts/ --out store
    """

    inputs: Positional[tuple[Path, ...]] = ()
    """Files or folders: .jsonl[.gz|.zst], .parquet, .tar (webdataset), .txt, .npy of token ids."""
    out: Path = Path("store")
    """Folder of the store."""
    tokenizer: str = "bytes"
    """A tokenizer.json, a transformers folder or hub name, or bytes."""
    end_token: str | None = None
    """Name of the end-of-text token, where the tokenizer does not say."""
    key: str = "text"
    """Field or column with the text, or with token ids."""
    workers: int = 1
    """Processes; the store is the same for any number."""

    def run(self) -> None:
        """Tokenise and print what the store holds."""
        from dataset_decomposition.tokenization import tokenize
        from dataset_decomposition.tokenizers import TokenizerSpec

        if not self.inputs:
            raise InputError("no inputs given; name at least one file or folder.")
        spec = TokenizerSpec(self.tokenizer, self.end_token)
        options: dict[str, Any] = {"tokenizer": spec, "key": self.key, "workers": self.workers, "quiet": self.quiet}
        store = tokenize(list(self.inputs), self.out, **options)
        counts = {name: store.manifest[name] for name in ("documents", "empty_documents", "tokens")}
        print_result({"out": str(self.out), **counts}, self.json)


@dataclass(frozen=True)
class Decompose(Output):
    """Cut a store's documents into buckets of equal lengths; tokens stay where they are, so it takes no time.

    For example:

        dataset-decomposition decompose store --min-length 256 --max-length 8192
    """

    store: Positional[Path] = Path("store")
    """Folder of the store."""
    buckets: Annotated[Buckets, arg(name="")] = Buckets()

    def run(self) -> None:
        """Decompose and print the buckets."""
        from dataset_decomposition.store import TokenStore

        store = TokenStore(self.store).decompose(**vars(self.buckets.config()))
        print_result(_bucket_rows(store), self.json)


@dataclass(frozen=True)
class Stats(Output):
    """Show the buckets of a store: rows, tokens, shares, what was dropped, and the lengths of documents.

    For example:

        dataset-decomposition stats store --json
    """

    store: Positional[Path] = Path("store")
    """Folder of the store."""

    def run(self) -> None:
        """Print the buckets, or with --json all of the manifest."""
        from dataset_decomposition.store import TokenStore

        store = TokenStore(self.store)
        if self.json:
            print_result(store.manifest, True)
            return
        histogram = store.manifest["length_histogram"]
        documents = [{"documents from": start, "number": count} for start, count in histogram.items()]
        print_result(documents, False)
        print_result(_bucket_rows(store), False)


@dataclass(frozen=True)
class Plan(Output):
    """Divide a budget of tokens over cycles and buckets: what the authors' parameter script prints.

    For example:

        dataset-decomposition plan --store store --tokens 1000000000 --cycles 8 --tokens-per-step 524288
        dataset-decomposition plan --tokens 28795904000 --shards 3560 5996 7410 6309 5157 4513 --processes 8
    """

    tokens: int = 28_795_904_000
    """Tokens to train on; more than there are means repetition."""
    store: Path | None = None
    """Plan for a store and this package's loader; without it, for the authors' shards."""
    tokens_per_step: int = 2**19
    """With --store: tokens of a step."""
    shards: tuple[int, ...] = (3560, 5996, 7410, 6309, 5157, 4513)
    """Without --store: shards of each bucket, the shortest first."""
    min_length: int = 256
    """Without --store: length of the shortest bucket; each next one is twice as long."""
    processes: int = 8
    """Without --store: GPUs times loader workers."""
    cycles: int = 8
    """How often the curriculum runs."""
    curriculum: Curriculum = "grow-p2"
    """Which lengths come when."""

    def run(self) -> None:
        """Print the plan."""
        from dataset_decomposition.planning import plan_training

        lengths, available, units = self._buckets()
        options: dict[str, Any] = {"tokens": self.tokens, "cycles": self.cycles, "curriculum": self.curriculum}
        plan = plan_training(lengths, available, units, **options)
        totals = {"tokens_per_cycle": plan.tokens_per_cycle, "tokens": plan.tokens_per_cycle * plan.cycles}
        if self.json:
            print_result({"buckets": plan.rows(), **totals, "exact": plan.exact, "flags": plan.flags()}, True)
            return
        print_result(plan.rows(), False)
        print_result({**totals, "exact": plan.exact, "flags": plan.flags()}, False)

    def _buckets(self) -> tuple[list[int], list[int], list[int]]:
        from dataset_decomposition.layout import sequences_per_shard

        if self.store is not None:
            from dataset_decomposition.store import TokenStore

            rows = {length: count for length, count in TokenStore(self.store).num_rows.items() if count}
            return list(rows), list(rows.values()), [max(1, self.tokens_per_step // length) for length in rows]
        lengths = [self.min_length << i for i in range(len(self.shards))]
        sizes = [sequences_per_shard(length) for length in lengths]
        available = [count * size for count, size in zip(self.shards, sizes, strict=True)]
        return lengths, available, [size * self.processes for size in sizes]


@dataclass(frozen=True)
class Simulate(Output):
    """Compare cost and context of concat-and-chunk, best-fit packing and decomposition on your own documents.

    For example:

        dataset-decomposition simulate store --model 1b --out plots
    """

    store: Positional[Path] = Path("store")
    """Folder of the store."""
    model: Literal["160m", "410m", "1b", "3b", "7b"] = "1b"
    """Whose width sets what attention costs."""
    out: Path | None = None
    """Folder for cost.svg and steps.svg (extra `demo`)."""
    buckets: Annotated[Buckets, arg(name="")] = Buckets()

    def run(self) -> None:
        """Print one row per method and draw the plots."""
        from dataset_decomposition.simulation import simulate, simulate_lengths
        from dataset_decomposition.store import TokenStore

        lengths = TokenStore(self.store).lengths
        rows = simulate(lengths, PRESETS[self.model].model, self.buckets.config())
        if self.out is not None:
            from dataset_decomposition.plots import draw_cost, draw_steps

            config, seed = self.buckets.config(), self.buckets.seed
            draw_cost(self.out / "cost.svg", rows)
            steps = {name: simulate_lengths(lengths, config, name, seed=seed) for name in CURRICULA}
            draw_steps(self.out / "steps.svg", steps)
        print_result(rows, self.json)


@dataclass(frozen=True)
class Verify(Output):
    """Read a whole store and compare it with its manifest: checksums, ids, borders, every token accounted for.

    For example:

        dataset-decomposition verify store
    """

    store: Positional[Path] = Path("store")
    """Folder of the store."""

    def run(self) -> None:
        """Print what was counted; the first thing that does not hold ends with status 2."""
        from dataset_decomposition.store import TokenStore

        print_result(TokenStore(self.store).verify(), self.json)


@dataclass(frozen=True)
class Export(Output):
    """Write the buckets as the authors' webdataset shards, or as parquet.

    For example:

        dataset-decomposition export store --out shards --partial
        dataset-decomposition export store --out parquet --layout parquet
    """

    store: Positional[Path] = Path("store")
    """Folder of the store."""
    out: Path = Path("export")
    """Folder to write."""
    layout: Literal["webdataset", "parquet"] = "webdataset"
    """Which files."""
    partial: bool = False
    """Also write each bucket's last, smaller shard (the authors leave it out)."""
    seed: int = 0
    """Seed of the shuffle."""

    def run(self) -> None:
        """Write and print the counts."""
        from dataset_decomposition.layout import export_store
        from dataset_decomposition.store import TokenStore

        options: dict[str, Any] = {"layout": self.layout, "partial": self.partial, "seed": self.seed}
        print_result(export_store(TokenStore(self.store), self.out, quiet=self.quiet, **options), self.json)


@dataclass(frozen=True)
class Import(Output):
    """Read the authors' webdataset shards into a store.

    For example:

        dataset-decomposition import shards --out store --vocab-size 50432
    """

    source: Positional[Path] = Path("shards")
    """Folder with D_<k>/shard-*.tar."""
    out: Path = Path("store")
    """Folder of the store."""
    vocab_size: int = 50432
    """Ids must be below this."""
    end_token: int = 0
    """Id for the end-of-text string in the shards."""

    def run(self) -> None:
        """Import and print the buckets."""
        from dataset_decomposition.layout import import_store

        store = import_store(self.source, self.out, vocab_size=self.vocab_size, end_token=self.end_token)
        print_result(_bucket_rows(store), self.json)


def _bucket_rows(store: Any) -> list[dict[str, Any]]:
    """One row per bucket, and one for what was dropped."""
    total, config = max(store.manifest["tokens"], 1), store.config
    entries = store.manifest["decomposition"]["buckets"]
    rows = [
        {
            "bucket": length,
            "rows": entries[str(length)]["rows"],
            "tokens": entries[str(length)]["tokens"],
            "share": entries[str(length)]["tokens"] / total,
        }
        for length in config.bucket_lengths
    ]
    dropped = store.manifest["decomposition"]["dropped_tokens"]
    return [*rows, {"bucket": "dropped", "rows": 0, "tokens": dropped, "share": dropped / total}]
