"""What each stage of a recipe does to the documents of a shard, or, where it must see all shards, in which phases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold_shared.files import write_json

from dclm import config as stages
from dclm.classify import keep_scored, score
from dclm.data import open_writer, read_documents
from dclm.decontaminate import decontaminate
from dclm.document import Document
from dclm.extract import extract
from dclm.filters.c4 import c4
from dclm.filters.fineweb import fineweb
from dclm.filters.gopher import gopher
from dclm.filters.refinedweb import refinedweb
from dclm.language import keep_language
from dclm.storage import join
from dclm.tally import Tally

__all__ = ["STREAMING", "Step", "filter_shard", "stage_name", "write_shard"]

Pairs = Iterator[tuple[Document, str | None]]
Filter = Callable[[Iterable[Document], Any], Pairs]

# Stages that look at one document at a time.
STREAMING: dict[type, Filter] = {
    stages.Extract: extract,
    stages.RefinedWeb: refinedweb,
    stages.Gopher: gopher,
    stages.C4: c4,
    stages.FineWeb: fineweb,
    stages.Language: keep_language,
    stages.Score: score,
    stages.Decontaminate: decontaminate,
}


@dataclass(frozen=True)
class Step:
    """One or more stages with the files they read and write.

    Attributes:
        stages: Streaming stages in a row, or one stage that must see all shards.
        number: Of its first stage in the recipe.
        inputs: One file per shard.
        outputs: One file per shard.
        removed: Folder for removed documents, or None.
        file_format: Of removed documents.
        folder: Local folder for markers, counts and intermediate files.
    """

    stages: tuple[stages.Stage, ...]
    number: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    removed: str | None
    file_format: str
    folder: Path

    @property
    def streams(self) -> bool:
        """Whether shards can be worked on one by one."""
        return type(self.stages[0]) in STREAMING or _is_fixed(self.stages[0])

    def counts_file(self, offset: int, shard: int) -> Path:
        """Where the counts of one of its stages over one shard are."""
        return self.folder / "counts" / stage_name(self.number + offset, self.stages[offset]) / f"{shard:05d}.json"


def _is_fixed(stage: stages.Stage) -> bool:
    return isinstance(stage, stages.Threshold) and stage.min_score is not None


def stage_name(number: int, stage: stages.Stage) -> str:
    """Return the name of a stage in folders and on the page, such as `02-bloom`."""
    return f"{number:02d}-{type(stage).__name__.lower()}"


def filter_shard(step: Step, shard: int) -> None:
    """Run streaming stages over one shard."""
    functions = [_function(stage) for stage in step.stages]
    write_shard(step, shard, functions)


def _function(stage: stages.Stage) -> Callable[[Iterable[Document]], Pairs]:
    if isinstance(stage, stages.Threshold):
        minimum = stage.min_score
        return lambda documents: keep_scored(documents, stage, minimum)
    return lambda documents: STREAMING[type(stage)](documents, stage)


def write_shard(step: Step, shard: int, functions: list[Callable[[Iterable[Document]], Pairs]]) -> None:
    """Send the documents of one shard through functions; write what stays, what goes and the counts.

    The file of the documents comes last: where it is, the shard is done.

    Args:
        step: Files and names.
        shard: Number of the shard.
        functions: One per stage of the step.
    """
    tallies = []
    documents: Iterable[Document] = read_documents(step.inputs[shard])
    with open_writer(step.outputs[shard]) as write, ExitStack() as stack:
        for offset, function in enumerate(functions):
            name = stage_name(step.number + offset, step.stages[offset])
            removed = None
            if step.removed is not None:
                path = join(step.removed, name, f"{shard:05d}.{step.file_format}")
                removed = stack.enter_context(open_writer(path))
            tallies.append(Tally(name, shard))
            documents = _kept(function(tallies[-1].watch(documents)), tallies[-1], removed)
        for document in documents:
            write(document)
        stack.close()
        for offset, tally in enumerate(tallies):
            write_json(step.counts_file(offset, shard), tally.counts)


def _kept(pairs: Pairs, tally: Tally, write_removed: Callable[[Document], None] | None) -> Iterator[Document]:
    for document, reason in pairs:
        if reason is None:
            tally.keep(document)
            yield document
            continue
        tally.drop(document, reason)
        if write_removed is not None:
            document.fields["removed_by"] = tally.counts["stage"]
            document.fields["reason"] = reason
            if document.page is not None and not document.text:
                document.text = document.page.decode("utf-8", "replace")
            write_removed(document)
