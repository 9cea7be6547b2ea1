"""Text to a store: in order, in blocks, journalled, with the same bytes for any number of worker processes."""

from __future__ import annotations

import json
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import append_jsonl, read_jsonl
from tenfold_shared.progress import progress

from dataset_decomposition.readers import Document, find_files, read_documents
from dataset_decomposition.store import MANIFEST, TOKENS, TokenStore, check_ids, finish_store
from dataset_decomposition.tokenizers import Tokenizer, TokenizerSpec
from dataset_decomposition.workers import map_in_order

logger = logging.getLogger(__name__)
JOURNAL, PARTIAL, LENGTHS = "journal.jsonl", "tokens.partial", "lengths.partial"
BLOCK_DOCUMENTS, BLOCK_CHARACTERS = 256, 4_000_000
SYNC_TOKENS = 4_000_000  # tokens between two journal rows: what a kill can cost


@dataclass
class _Position:
    """How far the input was read and the output written, at a moment when both agree."""

    source: int = 0
    rows: int = 0
    documents: int = 0
    tokens: int = 0
    empty: int = 0


def tokenize(
    source: Sequence[str | Path] | Iterable[Any],
    out: str | Path,
    *,
    tokenizer: str | TokenizerSpec = "bytes",
    key: str = "text",
    workers: int = 1,
    quiet: bool = True,
) -> TokenStore:
    """Tokenise a corpus once into a store, from which buckets are then cut in no time.

    Documents keep their order, whatever the number of workers. A run that was killed goes on from its last journal row
    when called again with the same arguments; a finished store of the same files or data set is opened as it is. Of
    any other iterable nothing tells what it holds: it has to be the same one after a kill, and a finished store is not
    opened for it.

    Args:
        source: Files and folders (JSON lines, plain or .gz or .zst; parquet; webdataset .tar; .txt; .npy of ids); or
            an iterable of rows with the field `key`, such as a data set of the `datasets` library, map-style or
            streaming. Strings in a list are paths.
        out: Folder of the store.
        tokenizer: "bytes", a `tokenizer.json`, a folder or hub name, or a `TokenizerSpec`. Its own end-of-text token
            closes every document. Rows that are token ids already are taken as they are.
        key: Field or column with text or ids.
        workers: Processes that tokenise; 1 works in this one.
        quiet: Show no progress.

    Returns:
        The store.

    Raises:
        FileNotFoundError: An input is missing.
        tenfold_shared.commands.InputError: An input is damaged, not UTF-8 or lacks the field, an id is over the
            vocabulary, no document has text, or `out` holds another corpus.

    Example:
        >>> import tempfile
        >>> store = tokenize([{"text": "one text"}, {"text": "another"}], tempfile.mkdtemp())
        >>> store.lengths.tolist()
        [9, 8]
    """
    if workers < 1:
        raise ValueError(f"`workers` (={workers}) must be at least 1.")
    spec = TokenizerSpec(tokenizer) if isinstance(tokenizer, str) else tokenizer
    out, loaded = Path(out), spec.load()
    sources, identity = _identify(source)
    settings = {"tokenizer": loaded.sha256, "end_token": loaded.end_token, "key": key, "source": identity}
    if (out / MANIFEST).is_file():
        return _open_finished(out, settings)
    position = _resume(out, settings)
    _write_tokens(out, sources, (spec, loaded), (key, workers, quiet), position)
    return _finish(out, spec, loaded, settings, position)


def _identify(source: Sequence[str | Path] | Iterable[Any]) -> tuple[list[Any], list[list[Any]]]:
    """Return what to read one after the other, and what identifies it."""
    if isinstance(source, str | Path):
        source = [source]
    if not (isinstance(source, list | tuple) and source and all(isinstance(item, str | Path) for item in source)):
        return [source], [["iterable", getattr(source, "_fingerprint", None)]]  # data sets of `datasets` have one
    files = find_files(source)
    return list(files), [[str(path), path.stat().st_size] for path in files]


def _open_finished(out: Path, settings: dict[str, Any]) -> TokenStore:
    store = TokenStore(out)
    if store.manifest["tokenizer"].get("settings") != settings:
        raise InputError(f"{out} already holds a store of other inputs or another tokenizer; choose another --out.")
    if settings["source"] == [["iterable", None]]:
        raise InputError(
            f"{out} already holds a store, of rows that cannot be told from these; open it with "
            f"TokenStore({str(out)!r}), or choose another folder."
        )
    _remove_journal(out)
    logger.info("%s is finished already: %d documents", out, store.manifest["documents"])
    return store


def _resume(out: Path, settings: dict[str, Any]) -> _Position:
    """Return the last journalled position, with the outputs cut back to it."""
    out.mkdir(parents=True, exist_ok=True)
    if (out / TOKENS).is_file() and (out / JOURNAL).is_file():  # killed between the rename and the manifest
        os.replace(out / TOKENS, out / PARTIAL)
    rows = read_jsonl(out / JOURNAL) if (out / JOURNAL).is_file() else []
    if rows and rows[0] != settings:
        raise InputError(f"{out} holds an unfinished run on other inputs or another tokenizer; choose another --out.")
    if not rows:
        append_jsonl(out / JOURNAL, settings)
    position = _Position(**rows[-1]) if len(rows) > 1 else _Position()
    if position.documents:
        logger.info("going on after %d documents", position.documents)
    return position


def _write_tokens(
    out: Path,
    sources: list[Any],
    tokenizer: tuple[TokenizerSpec, Tokenizer],
    options: tuple[str, int, bool],
    position: _Position,
) -> None:
    spec, loaded = tokenizer
    key, workers, quiet = options
    dtype = _dtype(loaded)
    blocks = _read_blocks(sources, key, loaded.end_token, position)
    with (
        open(out / PARTIAL, "ab") as tokens,
        open(out / LENGTHS, "ab") as lengths,
        progress(description="tokenize", unit="documents", quiet=quiet) as bar,
    ):
        _cut(tokens, position.tokens * dtype.itemsize)
        _cut(lengths, position.documents * 8)
        synced = position.tokens
        for (where, block), arrays in _encode(blocks, spec, loaded, workers):
            # No text, or one that a tokenizer makes nothing of, leaves the end token alone.
            found = [array for array in arrays if len(array) > 1]
            tokens.write(b"".join(array.astype(dtype, copy=False).data for array in found))
            lengths.write(np.array([len(array) for array in found], dtype=np.int64).tobytes())
            position.source, position.rows = where
            position.documents += len(found)
            position.empty += len(arrays) - len(found)
            position.tokens += sum(map(len, found))
            bar.update(len(block))
            if position.tokens - synced >= SYNC_TOKENS:
                _sync(out, tokens, lengths, position)
                synced = position.tokens
        _sync(out, tokens, lengths, position)


def _cut(file: Any, size: int) -> None:
    """Drop what a kill left behind the last journalled byte."""
    if file.seek(0, os.SEEK_END) != size:
        file.truncate(size)


def _sync(out: Path, tokens: Any, lengths: Any, position: _Position) -> None:
    for file in (tokens, lengths):
        file.flush()
        os.fsync(file.fileno())
    append_jsonl(out / JOURNAL, asdict(position))


Block = tuple[tuple[int, int], list[Document]]


def _read_blocks(sources: list[Any], key: str, end_token: int, position: _Position) -> Iterator[Block]:
    """Yield blocks of documents with the place behind them: source, rows read of it."""
    first, skipped = position.source, position.rows
    for index in range(first, len(sources)):
        block: list[Document] = []
        size, rows = 0, 0
        for document in read_documents(sources[index], key, end_token=end_token):
            rows += 1
            if index == first and rows <= skipped:
                continue
            block.append(document)
            size += len(document)
            if len(block) >= BLOCK_DOCUMENTS or size >= BLOCK_CHARACTERS:
                yield (index, rows), block
                block, size = [], 0
        if block:
            yield (index, rows), block


def _encode(
    blocks: Iterator[Block], spec: TokenizerSpec, loaded: Tokenizer, workers: int
) -> Iterator[tuple[Block, list[np.ndarray]]]:
    """Yield each block with its token ids, in order; at most one block per worker is in flight."""
    if workers == 1:
        yield from ((block, _encode_block(loaded, block)) for block in blocks)
        return
    flight: deque[Block] = deque()

    def sent() -> Iterator[Block]:
        for block in blocks:
            flight.append(block)
            yield block

    for arrays in map_in_order(_work, sent(), workers, (_start_worker, (spec,))):
        yield flight.popleft(), arrays


_worker: dict[str, Tokenizer] = {}


def _start_worker(spec: TokenizerSpec) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process per core already
    _worker["tokenizer"] = spec.load()


def _work(block: Block) -> list[np.ndarray]:
    return _encode_block(_worker["tokenizer"], block)


def _encode_block(tokenizer: Tokenizer, block: Block) -> list[np.ndarray]:
    (source, rows), documents = block
    texts = [document for document in documents if isinstance(document, str)]
    encoded = iter(tokenizer.encode(texts) if texts else [])
    first = rows - len(documents)
    return [
        next(encoded) if isinstance(document, str) else _close(document, tokenizer, f"input {source}, row {first + i}")
        for i, document in enumerate(documents)
    ]


def _close(ids: np.ndarray, tokenizer: Tokenizer, where: str) -> np.ndarray:
    """Check the ids of a document that came tokenised, and end it."""
    check_ids(ids, tokenizer.vocab_size, where)
    return ids if len(ids) and ids[-1] == tokenizer.end_token else np.append(ids, tokenizer.end_token)


def _dtype(tokenizer: Tokenizer) -> np.dtype:
    return np.dtype("<u2" if tokenizer.vocab_size <= 2**16 else "<u4")


def _finish(
    out: Path, spec: TokenizerSpec, loaded: Tokenizer, settings: dict[str, Any], position: _Position
) -> TokenStore:
    if not position.documents:
        raise InputError(f"no document with text in {json.dumps(settings['source'])[:200]}; all are empty.")
    lengths = np.fromfile(out / LENGTHS, dtype=np.int64)
    os.replace(out / PARTIAL, out / TOKENS)
    record = {
        "name": spec.name if spec.name == "bytes" else Path(spec.name).name,
        "sha256": loaded.sha256,
        "vocab_size": loaded.vocab_size,
        "end_token": loaded.end_token,
        "settings": settings,
    }
    store = finish_store(out, lengths, record, _dtype(loaded), empty=position.empty)
    _remove_journal(out)
    return store


def _remove_journal(out: Path) -> None:
    for name in (PARTIAL, LENGTHS, JOURNAL):
        (out / name).unlink(missing_ok=True)
