"""Documents to token shards: tokenize, pack into contexts, shuffle globally within budgets of disk and memory.

Every input file becomes a file of contexts; then contexts are dealt to cells by a hash of (seed, file, number), and one
cell after the other is shuffled in memory and written. A hash to a cell and a shuffle inside it make a uniform shuffle
of everything. The work folder holds the contexts once (2 bytes an id, 4 above 65,536 words), the tars come beside it.
Equal documents, tokenizer and seed give equal bytes for any number of workers; a run that was killed goes on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from dclm.data import read_documents
from dclm.engines import RunOptions, open_engine
from dclm.storage import find_inputs
from dclm.tokenizer import load_tokenizer
from dclm.tokenshards import write_manifest, write_shard

__all__ = ["Source", "TokenOptions", "tokenize"]

BATCH_CHARACTERS = 2_000_000
CELLS_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Source:
    """Which documents belong together, and how often each is taken.

    Args:
        name: Such as Wikipedia.
        markers: A document belongs to the first source one of whose markers its file's path holds.
        frequency: 2.3 takes each document twice, and a third time with probability 0.3.
    """

    name: str
    markers: tuple[str, ...]
    frequency: float = 1.0


@dataclass(frozen=True)
class TokenOptions:
    """How documents become contexts.

    Args:
        tokenizer: See `load_tokenizer`.
        context: Ids of a sequence: the model's context length plus one.
        shard_size: Sequences of a tar.
        max_bytes: RAM for one cell of the shuffle.
        seed: Of shuffle and sampling.
        sources: Sampling frequencies; without any, each document is taken once.
        shuffle: False keeps the order of documents.
    """

    tokenizer: str = "gpt2"
    context: int = 2049
    shard_size: int = 8192
    max_bytes: int = 1_000_000_000
    seed: int = 42
    sources: tuple[Source, ...] = ()
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name in ("shard_size", "max_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if self.context < 2:
            raise ValueError(f"`context` (={self.context}) must be at least 2: an id and the next one.")


def tokenize(
    inputs: Sequence[str], out: str | Path, options: TokenOptions = TokenOptions(), run: RunOptions = RunOptions()
) -> dict[str, Any]:
    """Write token shards of documents.

    The rest of each file that fills no context goes with the rests of all others, in the files' order; what is left
    then (under one context) is dropped and counted. The reference pads it, with ids that its loss does not mask.

    Args:
        inputs: Files, folders or patterns of documents.
        out: Folder for `%08d.tar`, `manifest.jsonl` and `tokens.json`.
        options: Tokenizer, context, shuffle, sampling.
        run: Engine, workers, `resume`.

    Returns:
        What `tokens.json` holds: `num_sequences`, `num_tokens`, `num_documents`, `tokenizer`, `vocab_size`, ...

    Raises:
        InputError: Bad documents, no tokenizer, fewer tokens than one context, or an output folder of another run.
    """
    out = Path(out)
    files = find_inputs(tuple(map(str, inputs)))
    for path in files:
        _source_of(str(path), options.sources)
    tokenizer = load_tokenizer(options.tokenizer)
    plan = {"inputs": list(files), "fingerprint": tokenizer.fingerprint, **asdict(options)}
    finished = _prepare(out, plan, run.resume)
    if finished is not None:
        return finished
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    tasks = [((str(path), str(work), options), number) for number, path in enumerate(files)]
    with open_engine(run) as execute, progress(total=len(tasks), description="tokenize", quiet=run.quiet) as bar:
        for _ in execute(_tokenize_file, [task for task in tasks if not _counts(work, task[1]).exists()]):
            bar.update(1)
    counted = [json.loads(_counts(work, number).read_text()) for number in range(len(files))]
    _pack_tails(work, len(files), options)
    counts = _write_shards(work, out, options)
    facts = {
        "num_sequences": sum(counts.values()),
        "num_tokens": sum(counts.values()) * options.context,
        "num_documents": sum(entry["documents"] for entry in counted),
        "documents_by_source": _sum(entry["sources"] for entry in counted),
        "tokens_dropped": sum(entry["tokens"] for entry in counted) - sum(counts.values()) * options.context,
        "vocab_size": tokenizer.vocab_size,
        "plan": plan,
    }
    write_manifest(out, counts)
    write_json(out / "tokens.json", json.loads(json.dumps(facts)))
    shutil.rmtree(work)
    return facts


def _prepare(out: Path, plan: Mapping[str, Any], resume: bool) -> dict[str, Any] | None:
    """Write the plan, or compare it with the one there; return the facts of a finished run."""
    plan = json.loads(json.dumps(plan))
    path = out / "plan.json"
    if not path.exists():
        write_json(path, plan)
        return None
    if not resume:
        raise InputError(f"{out} holds token shards already; go on with --resume or give another --out.")
    found = json.loads(path.read_text("utf-8"))
    if different := [name for name in plan if found.get(name) != plan[name]]:
        raise InputError(f"{out} was made with other {', '.join(different)}; give another --out.")
    finished = out / "tokens.json"
    return json.loads(finished.read_text("utf-8")) if finished.exists() else None


def _counts(work: Path, number: int) -> Path:
    return work / f"{number:05d}.json"


def _sum(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for entry in counts:
        for name, count in entry.items():
            total[name] = total.get(name, 0) + count
    return total


def _tokenize_file(work: tuple[str, str, TokenOptions], number: int) -> None:
    """Write the contexts of one file, its rest, and then its counts, which mark it as done."""
    path, folder, options = work[0], Path(work[1]), work[2]
    tokenizer = load_tokenizer(options.tokenizer)
    kind = _dtype(tokenizer.vocab_size)
    counts: dict[str, int] = {}
    rest, tokens = np.zeros(0, kind), 0
    with atomic_write(folder / f"{number:05d}.bin") as file:
        for texts in _batches(_sampled(path, number, options, counts)):
            pieces = [rest]
            for found in tokenizer.encode_batch(texts):
                found.append(tokenizer.end_id)
                pieces.append(np.array(found, dtype=kind))
            tokens += sum(map(len, pieces)) - len(rest)
            rest = np.concatenate(pieces)
            whole = len(rest) // options.context * options.context
            file.write(rest[:whole].tobytes())
            rest = rest[whole:]
    with atomic_write(folder / f"{number:05d}.rest") as file:
        file.write(rest.tobytes())
    facts = {"documents": sum(counts.values()), "sources": counts, "tokens": tokens}
    write_json(_counts(folder, number), facts)


def _dtype(vocab_size: int) -> Any:
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def _sampled(path: str, number: int, options: TokenOptions, counts: dict[str, int]) -> Iterator[str]:
    """Yield each document's text as often as its source is sampled."""
    source = _source_of(path, options.sources)
    for place, document in enumerate(read_documents(path)):
        copies = _copies(source.frequency, (options.seed, number, place))
        counts[source.name] = counts.get(source.name, 0) + copies
        yield from [document.text] * copies


def _source_of(path: str, sources: tuple[Source, ...]) -> Source:
    found = next((source for source in sources if any(marker in path for marker in source.markers)), None)
    if found is None and sources:
        raise InputError(f"no source has a marker in {path}; known: {', '.join(source.name for source in sources)}.")
    return found or Source("all", ())


def _copies(frequency: float, key: tuple[int, ...]) -> int:
    """Return floor(f), and one more with the probability of the rest."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int(frequency) + (int.from_bytes(digest, "little") / 2**64 < frequency - int(frequency))


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _pack_tails(work: Path, num_files: int, options: TokenOptions) -> None:
    """Put the rests of all files together into contexts of a last file."""
    kind = _dtype(load_tokenizer(options.tokenizer).vocab_size)
    rests = np.concatenate([np.fromfile(work / f"{number:05d}.rest", kind) for number in range(num_files)])
    with atomic_write(work / f"{num_files:05d}.bin") as file:
        file.write(rests[: len(rests) // options.context * options.context].tobytes())


def _write_shards(work: Path, out: Path, options: TokenOptions) -> dict[str, int]:
    """Deal contexts to tars; those that are there already are kept."""
    kind = _dtype(load_tokenizer(options.tokenizer).vocab_size)
    files = [_rows(path, kind, options.context) for path in sorted(work.glob("*.bin"))]
    total = sum(map(len, files))
    if not total:
        raise InputError(f"the documents have fewer than {options.context} tokens, which is one context.")
    rows = _shuffled(files, options, kind) if options.shuffle else (row for file in files for row in file)
    counts: dict[str, int] = {}
    for first in range(0, total, options.shard_size):
        name, size = f"{first // options.shard_size:08d}", min(options.shard_size, total - first)
        piece = (next(rows) for _ in range(size))
        path = out / f"{name}.tar"
        if path.exists():
            for _ in piece:
                pass
        else:
            write_shard(path, piece, first, options.seed)
        counts[name] = size
    return counts


def _rows(path: Path, kind: Any, context: int) -> NDArray[Any]:
    if not path.stat().st_size:
        return np.zeros((0, context), kind)
    return np.memmap(path, kind, mode="r").reshape(-1, context)


def _shuffled(files: list[NDArray[Any]], options: TokenOptions, kind: Any) -> Iterator[NDArray[Any]]:
    total_bytes = sum(len(file) for file in files) * options.context * np.dtype(kind).itemsize
    num_cells = max(1, -(-total_bytes // options.max_bytes))
    deal = partial(_cells_of, num_cells=num_cells, seed=options.seed)
    for cell in range(num_cells):
        parts = [np.asarray(file[deal(number, len(file)) == cell]) for number, file in enumerate(files)]
        rows = np.concatenate(parts)
        yield from rows[np.random.default_rng((options.seed, cell)).permutation(len(rows))]


def _cells_of(number: int, count: int, *, num_cells: int, seed: int) -> NDArray[np.uint64]:
    """Hash (seed, file, place) to a cell: splitmix64."""
    with np.errstate(over="ignore"):
        value = np.arange(count, dtype=np.uint64) + (np.uint64(number) << np.uint64(40)) + np.uint64(seed) * CELLS_MIX
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        value ^= value >> np.uint64(31)
    return value % np.uint64(num_cells)
