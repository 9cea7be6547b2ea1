"""Commands on tokens: tokenize, manifest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional

if TYPE_CHECKING:
    from dclm.tokens import Source

Inputs = Positional[tuple[str, ...]]


@dataclass(frozen=True)
class Tokenize:
    """Turn documents into shuffled token shards in the official layout.

    For example:
    dclm tokenize corpus/documents --out tokens

    dclm tokenize corpus/documents --out tokens --tokenizer EleutherAI/gpt-neox-20b --engine processes

    dclm tokenize cc wiki --out tokens --frequencies CC:cc=0.92 Wikipedia:wiki=2.27
    """

    inputs: Inputs
    """Files, folders or patterns of documents."""
    out: Path = Path("tokens")
    """Folder for the tars, manifest.jsonl and tokens.json."""
    tokenizer: str = "gpt2"
    """Name on a hub, tokenizer.json or folder; gpt2 comes with this package, bytes needs nothing."""
    context: int = 2049
    """Ids of a sequence: the model's context length plus one."""
    shard_size: int = 8192
    """Sequences of a tar."""
    max_bytes: int = 1_000_000_000
    """RAM for one cell of the shuffle."""
    frequencies: tuple[str, ...] = ()
    """Sources as NAME:MARKER=FREQUENCY; a file belongs to the first source whose marker its path holds."""
    no_shuffle: bool = False
    """Keep the order of documents."""
    seed: int = 42
    """Of shuffle and sampling."""
    engine: Literal["serial", "processes", "ray"] = "serial"
    """Who does the work."""
    num_workers: int = 2
    """Processes, or Ray tasks at a time."""
    resume: bool = False
    """Go on with what a run left in --out."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Tokenize, write a record, print the counts."""
        from dclm.engines import RunOptions
        from dclm.records import dataset_record, write_record
        from dclm.tokens import TokenOptions, tokenize

        options = TokenOptions(
            self.tokenizer,
            self.context,
            self.shard_size,
            self.max_bytes,
            self.seed,
            tuple(map(parse_source, self.frequencies)),
            not self.no_shuffle,
        )
        engine = RunOptions(self.engine, self.num_workers, resume=self.resume, quiet=self.quiet)
        found = tokenize(self.inputs, self.out, options, engine)
        path = self.out / "dataset.json"
        if not path.exists():
            write_record(path, dataset_record(self.out.name, str(self.out), tokens=found))
        print_result({name: value for name, value in found.items() if name != "plan" or self.json}, self.json)


def parse_source(text: str) -> Source:
    """Read NAME:MARKER=FREQUENCY."""
    from dclm.tokens import Source

    head, _, frequency = text.rpartition("=")
    name, _, marker = head.partition(":")
    try:
        value = float(frequency)
    except ValueError as error:
        raise InputError(f"`frequencies` (={text!r}) must be like Wikipedia:wiki=2.27.") from error
    if not (name and marker and value >= 0):
        raise InputError(f"`frequencies` (={text!r}) must be like Wikipedia:wiki=2.27.")
    return Source(name, (marker,), value)


@dataclass(frozen=True)
class Manifest:
    """Count the sequences of token shards anew and write manifest.jsonl.

    For example:
    dclm manifest tokens
    """

    folder: Positional[Path]
    """Folder of tars."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Write it and print the counts."""
        from dclm.tokenshards import make_manifest, read_manifest

        path = make_manifest(self.folder)
        counts = read_manifest(self.folder)
        print_result({"manifest": str(path), "shards": len(counts), "sequences": sum(counts.values())}, self.json)
