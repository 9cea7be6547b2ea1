"""Run a recipe over any number of shards: serially, on local processes or on Ray, with the same bytes.

One output file per input file, in the same order. Stages that look at one document at a time run fused, shard by
shard; the others in phases (`phases.py`). Every task writes its files whole and then a marker, so a run that was killed
goes on with `resume=True` and ends with the bytes of a run that was not.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError
from tenfold_shared.files import plain_json
from tenfold_shared.progress import progress

from dclm.config import Recipe, Stage
from dclm.engines import Execute, RunOptions, open_engine
from dclm.page import render_page
from dclm.phases import Phase, phases_of
from dclm.stages import Step, stage_name
from dclm.storage import exists, find_inputs, is_local, join, open_for_reading, write_whole
from dclm.tally import merge_tallies

__all__ = ["run"]

logger = logging.getLogger(__name__)
INTERMEDIATE = "jsonl.zst"
VERSIONS = ("dclm", "resiliparse", "fastwarc", "fasttext-numpy2", "pyarrow", "numpy")


def run(
    inputs: Sequence[str], recipe: Recipe, *, out: str | Path, options: RunOptions = RunOptions()
) -> dict[str, Any]:
    """Run a recipe.

    Args:
        inputs: Files, folders or patterns, local or of any file system that fsspec knows; one file is one shard.
        recipe: Stages in order.
        out: Folder for `documents/`, `removed/` (if asked for), `statistics.json`, `statistics.html`, `config.json`.
        options: Engine, workers, format, resume.

    Returns:
        `documents` (paths of the files), `num_documents`, `removed`, `statistics`, `page`, and `filters` for Bloom
        stages.

    Raises:
        InputError: Bad input or an output folder of another run; what is finished stays and `resume` goes on.

    Example:
        >>> import tempfile
        >>> from dclm import PRESETS, sample_pool
        >>> made = run(sample_pool()[:1], PRESETS["gopher"], out=tempfile.mkdtemp() + "/run")
        >>> made["num_documents"] > 0
        True
    """
    out = str(out)
    shards = find_inputs(tuple(map(str, inputs)))
    _prepare(out, shards, recipe, options)
    finished = join(out, "statistics.json")
    if not exists(finished):
        work = _work_folder(out, options)
        steps = list(_plan(shards, recipe, out, options=options))
        with open_engine(options) as execute:
            for step in steps:
                _run_step(step, execute, options)
        filters = _save_filters(steps, out)
        _sweep(out)
        _write_statistics(steps, shards, out, filters)
        shutil.rmtree(work)
    return _result(out, options)


def _sweep(out: str) -> None:
    """Remove what a killed attempt left of files it was writing."""
    if is_local(out):
        for path in Path(out).rglob(".*.tmp"):
            path.unlink()


def _work_folder(out: str, options: RunOptions) -> Path:
    if options.work is None and not is_local(out):
        raise InputError(f"{out} is not on this machine; give --work FOLDER for intermediate files.")
    return Path(options.work or out) / "work"


def _configuration(shards: tuple[str, ...], recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """What decides the bytes of the documents."""
    stages = [{"stage": type(stage).__name__, **dataclasses.asdict(stage)} for stage in recipe.stages]
    return plain_json(
        {
            "inputs": list(shards),
            "stages": stages,
            "file_format": options.file_format,
            "keep_removed": options.keep_removed,
            "versions": {name: version(name) for name in VERSIONS},
        }
    )


def _prepare(out: str, shards: tuple[str, ...], recipe: Recipe, options: RunOptions) -> None:
    """Write the configuration, or compare it with the one that is there."""
    path, wanted = join(out, "config.json"), _configuration(shards, recipe, options)
    if not exists(path):
        with write_whole(path) as file:
            file.write(json.dumps(wanted, indent=2).encode())
        return
    if not options.resume:
        raise InputError(f"{out} holds a run already; go on with --resume or give another --out.")
    with open_for_reading(path) as file:
        found = json.loads(file.read())
    if different := [name for name in wanted if found.get(name) != wanted[name]]:
        raise InputError(f"{out} holds a run with other {', '.join(different)}; give another --out.")


def _plan(shards: tuple[str, ...], recipe: Recipe, out: str, *, options: RunOptions) -> Iterator[Step]:
    """Group streaming stages that follow one another; give each group its files."""
    work = _work_folder(out, options)
    groups: list[list[tuple[int, Stage]]] = []
    for numbered in enumerate(recipe.stages):
        streams = [_step((stage,), work).streams for _, stage in (*groups[-1][-1:], numbered)] if groups else [False]
        if all(streams):
            groups[-1].append(numbered)
        else:
            groups.append([numbered])
    inputs = shards
    for index, group in enumerate(groups):
        last = index == len(groups) - 1
        folder = join(out, "documents") if last else str(work / f"{index:02d}" / "documents")
        suffix = options.file_format if last else INTERMEDIATE
        outputs = tuple(join(folder, f"{shard:05d}.{suffix}") for shard in range(len(shards)))
        yield Step(
            stages=tuple(stage for _, stage in group),
            number=group[0][0],
            inputs=inputs,
            outputs=outputs,
            removed=join(out, "removed") if options.keep_removed else None,
            file_format=options.file_format,
            folder=work / f"{index:02d}",
        )
        inputs = outputs


def _step(stages: tuple[Stage, ...], work: Path) -> Step:
    return Step(stages, 0, (), (), None, INTERMEDIATE, work)


def _run_step(step: Step, execute: Execute, options: RunOptions) -> None:
    for phase in phases_of(step):
        _run_phase(step, phase, execute, options)


def _run_phase(step: Step, phase: Phase, execute: Execute, options: RunOptions) -> None:
    """Run the tasks of a phase that have no marker yet."""
    markers = step.folder / "done"
    markers.mkdir(parents=True, exist_ok=True)
    left = [task for task in range(phase.num_tasks) if not (markers / f"{phase.name}-{task:05d}").exists()]
    name = f"{stage_name(step.number, step.stages[0])} {phase.name}"
    with progress(total=phase.num_tasks, description=name, unit="shards", quiet=options.quiet) as bar:
        bar.update(phase.num_tasks - len(left))
        for _ in execute(_run_task, [((step, phase), task) for task in left]):
            bar.update(1)


def _run_task(work: tuple[Step, Phase], task: int) -> None:
    step, phase = work
    phase.function(step, task)
    (step.folder / "done" / f"{phase.name}-{task:05d}").touch()


def _save_filters(steps: list[Step], out: str) -> list[str]:
    """Keep the Bloom filters beside the documents: another run can go on from them."""
    kept = []
    for step in steps:
        for path in sorted((step.folder / "deduplicate").glob("filter-*.npz")):
            target = join(out, "filters", f"{stage_name(step.number, step.stages[0])}-{path.name.split('-')[1]}")
            with write_whole(target) as file, open(path, "rb") as source:
                shutil.copyfileobj(source, file)
            kept.append(target)
    return kept


def _write_statistics(steps: list[Step], shards: tuple[str, ...], out: str, filters: list[str]) -> None:
    """Add up the counts of all shards; the file of the numbers is the last of a run."""
    counts = []
    for step in steps:
        for offset in range(len(step.stages)):
            files = (step.counts_file(offset, shard) for shard in range(len(shards)))
            counts.append(merge_tallies(json.loads(path.read_text("utf-8")) for path in files))
    statistics = {"num_shards": len(shards), "stages": counts, "filters": filters}
    with write_whole(join(out, "statistics.html")) as file:
        file.write(render_page(statistics).encode())
    with write_whole(join(out, "statistics.json")) as file:
        file.write(json.dumps(statistics, indent=1, ensure_ascii=False).encode())


def _result(out: str, options: RunOptions) -> dict[str, Any]:
    with open_for_reading(join(out, "statistics.json")) as file:
        statistics = json.loads(file.read())
    shards = range(statistics["num_shards"])
    return {
        "documents": [join(out, "documents", f"{shard:05d}.{options.file_format}") for shard in shards],
        "num_documents": statistics["stages"][-1]["documents_out"],
        "removed": join(out, "removed") if options.keep_removed else None,
        "filters": statistics["filters"],
        "statistics": join(out, "statistics.json"),
        "page": join(out, "statistics.html"),
    }
