"""Asking a model a benchmark's questions and scoring what it says, with one record per question.

    fastvlm evaluate --benchmark textvqa --data textvqa --model run/model --out textvqa-scores

Evaluators yield (name, value). `samples.jsonl` grows as answers come; `--resume` keeps what it has.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold_shared.commands import InputError
from tenfold_shared.files import append_jsonl, read_jsonl, write_json
from tenfold_shared.progress import progress

from fastvlm.predict import Assistant
from fastvlm.processor import IMAGE
from fastvlm.scores import summarize_pope
from fastvlm.tasks import Sample, find_benchmark

logger = logging.getLogger(__name__)
SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class Options:
    """How a benchmark is asked.

    Args:
        limit: Ask the first so many questions only.
        resume: Keep the records that the folder has.
        quiet: No progress.
    """

    limit: int | None = None
    resume: bool = False
    quiet: bool = False


def evaluate(
    assistant: Assistant,
    name: str,
    data: Path,
    out: Path,
    options: Options = Options(),
) -> dict[str, float]:
    """Ask all questions of a benchmark; write `samples.jsonl` and `scores.json`.

    Args:
        assistant: Who answers, greedily.
        name: Key of `fastvlm.tasks.BENCHMARKS`.
        data: Folder in the benchmark's public layout.
        out: Folder of the results.
        options: How many questions, and whether to go on.

    Returns:
        Scores by name, from 0 to 100; "score" first.

    Raises:
        FileNotFoundError: The folder lacks a file of the benchmark, or a picture.
        InputError: A file is damaged, there is no question, or `out` holds records and `resume` was not asked for.
    """
    benchmark, path = find_benchmark(name), out / SAMPLES
    if path.exists() and not options.resume:
        raise InputError(f"{out} already holds records; go on with --resume, or choose another --out.")
    records = {row["name"]: row for row in read_jsonl(path)} if path.exists() else {}
    samples = list(itertools.islice(benchmark.read(data), options.limit))
    if not samples:
        raise InputError(f"no question in {data}.")
    with progress(total=len(samples), description=name, unit="questions", quiet=options.quiet) as bar:
        for sample in samples:
            if sample.name not in records:
                answer = ask(assistant, sample, benchmark.max_new_tokens)
                score, said = benchmark.score(answer, sample)
                records[sample.name] = record(sample, answer, said, score)
                append_jsonl(path, records[sample.name])
            bar.update(1)
    found = dict(summarize(name, [records[sample.name] for sample in samples]))
    write_json(out / "scores.json", {"benchmark": name, "questions": len(samples), "scores": found})
    return found


def ask(assistant: Assistant, sample: Sample, max_new_tokens: int) -> str:
    """Return the answer to a question about its pictures."""
    pictures = [read() for read in sample.pictures]
    question = sample.question
    if question.count(IMAGE) != len(pictures):  # pictures without a place in the text come first
        question = f"{IMAGE}\n" * len(pictures) + question.replace(IMAGE, "")
    prompt = assistant.processor.prompt([(question, None)], num_images=0)
    features, views = assistant.look(pictures)
    tokens = assistant.answer(prompt, features, views, assistant.sampling(max_new_tokens))
    return "".join(assistant.read(tokens)).strip()


def record(sample: Sample, answer: str, said: str, score: float) -> dict[str, Any]:
    """Return what is kept of a question."""
    return {
        "name": sample.name,
        "group": sample.group,
        "question": sample.question,
        "references": list(sample.references),
        "answer": answer,
        "said": said,
        "score": score,
    }


def summarize(name: str, records: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, float]]:
    """Yield the benchmark's scores, from 0 to 100: over all questions, then by group.

    ChartQA's score is over all questions, as are MMMU's and MMBench's; POPE's is the mean over its three parts, each
    with accuracy, precision, recall, F1 and the share of yes.
    """
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in records:
        groups[row["group"].split("|")[0]].append(row)
    if name == "pope":
        parts = {part: _pope(rows) for part, rows in groups.items()}
        for measure in ("f1", "accuracy"):
            yield "score" if measure == "f1" else measure, 100 * _mean([part[measure] for part in parts.values()])
        yield from ((f"{part}/{key}", 100 * v) for part, values in parts.items() for key, v in values.items())
        return
    yield "score", 100 * _mean([row["score"] for row in records])
    if len(groups) > 1:
        yield from ((group, 100 * _mean([row["score"] for row in rows])) for group, rows in groups.items())


def _pope(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return summarize_pope([row["said"] for row in rows], [row["references"][0] for row in rows])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
