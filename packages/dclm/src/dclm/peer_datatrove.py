"""Runs in an environment of its own, with datatrove, without this package: `python peer_datatrove.py JOB DOCUMENTS`.

DOCUMENTS is a JSON-lines file with `text`, `words` and, per line of the text, `sentences`. The answer is a JSON object
on stdout: the reason per document (None: kept), or the number of kept documents. Jobs whose name ends in `-given` do
not split words or sentences themselves but take those in the file. Time is taken by the process that starts this one.
"""

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any


def _load(module: str) -> Any:
    return importlib.import_module(f"datatrove.{module}")


def _filters(job: str) -> list[Any]:
    if job == "gopher":
        return [
            _load("pipeline.filters.gopher_repetition_filter").GopherRepetitionFilter(),
            _load("pipeline.filters.gopher_quality_filter").GopherQualityFilter(),
        ]
    if job == "fineweb":
        return [_load("pipeline.filters.fineweb_quality_filter").FineWebQualityFilter()]
    return [_load("pipeline.filters.c4_filters").C4QualityFilter()]


def _give_words(rows: list[dict[str, Any]]) -> None:
    """Let datatrove take words and sentences from the file instead of splitting."""
    words = {row["text"]: row["words"] for row in rows}
    sentences = {line: parts for row in rows for line, parts in row["sentences"].items()}
    for name in ("gopher_repetition_filter", "gopher_quality_filter", "fineweb_quality_filter"):
        module = _load(f"pipeline.filters.{name}")
        module.split_into_words = lambda text, language=None: words[text]
    _load("pipeline.filters.c4_filters").split_into_sentences = lambda line, language=None: sentences[line]


def filter_documents(job: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the reason per document."""
    filters = _filters(job.removesuffix("-given"))
    if job.endswith("-given"):
        _give_words(rows)
    document = _load("data").Document
    documents = [document(text=row["text"], id=str(number)) for number, row in enumerate(rows)]
    return {"reasons": [_first_reason(filters, document) for document in documents]}


def _first_reason(filters: list[Any], document: Any) -> str | None:
    for step in filters:
        answer = step.filter(document)
        if answer is not True:
            return answer[1] if isinstance(answer, tuple) else "dropped"
    return None


def deduplicate(path: Path) -> dict[str, Any]:
    """Run the four MinHash stages, 14 x 8 on 5-grams, and return the number of kept documents."""
    minhash = _load("pipeline.dedup.minhash")
    reader = _load("pipeline.readers").JsonlReader
    writer = _load("pipeline.writers").JsonlWriter
    executor = _load("executor").LocalPipelineExecutor
    config = minhash.MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
    with tempfile.TemporaryDirectory() as folder:
        names = [f"{folder}/{name}" for name in ("signatures", "buckets", "remove", "kept")]
        read = reader(str(path.parent), glob_pattern=path.name)
        stages = [
            [read, minhash.MinhashDedupSignature(output_folder=names[0], config=config)],
            [minhash.MinhashDedupBuckets(input_folder=names[0], output_folder=names[1], config=config)],
            [minhash.MinhashDedupCluster(input_folder=names[1], output_folder=names[2], config=config)],
            [read, minhash.MinhashDedupFilter(input_folder=names[2]), writer(names[3], compression=None)],
        ]
        for number, stage in enumerate(stages):
            tasks = config.num_buckets if number == 1 else 1
            executor(pipeline=stage, tasks=tasks, workers=1, logging_dir=f"{folder}/log{number}").run()
        kept = sum(len(file.read_text("utf-8").splitlines()) for file in Path(names[3]).glob("*.jsonl"))
    return {"kept": kept}


if __name__ == "__main__":
    job, path = sys.argv[1], Path(sys.argv[2])
    if job == "minhash":
        answer = deduplicate(path)
    else:
        answer = filter_documents(job, [json.loads(line) for line in path.open(encoding="utf-8")])
    sys.stdout.write("\n" + json.dumps(answer) + "\n")
