"""Benchmarks in their public layouts: questions, pictures, references, and how an answer is scored.

| name | what lies in the folder | field names as read in |
|---|---|---|
| textvqa | `TextVQA_0.5.1_val.json`, `train_images/` | haotian-liu/LLaVA `llava/eval/eval_textvqa.py` |
| docvqa | `val_v1.0.json`, `documents/` | chu0802/MLLM-playground `src/datasets/vqa/doc_vqa.py` |
| infovqa | `infographicsVQA_val_v1.0.json`, images | as docvqa, `image_local_name` in place of `image` |
| chartqa | `test/test_human.json`, `test/test_augmented.json`, `test/png/` | vis-nlp/ChartQA, these files |
| pope | `coco_pope_{random,popular,adversarial}.json`, `val2014/` | haotian-liu/LLaVA `llava/eval/eval_pope.py` |
| mmmu | `SUBJECT/validation-*.parquet` | EvolvingLMMs-Lab/lmms-eval `lmms_eval/tasks/mmmu/utils.py` |
| mmbench | one `*.tsv`, pictures inside | haotian-liu/LLaVA `llava/eval/model_vqa_mmbench.py` |
| ocrbench | `OCRBench.json`, `OCRBench_Images/` | Yuliang-Liu/MultimodalOCR `OCRBench/example.py` |

The words around a question are LLaVA's and lmms-eval's.
"""

from __future__ import annotations

import ast
import base64
import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mobileclip.preprocess import load_image
from PIL import Image
from tenfold_shared.commands import InputError, require_extra, unknown_name

from fastvlm import scores
from fastvlm.processor import IMAGE

SHORT = "\nAnswer the question using a single word or phrase."
ONE_WORD = "\nAnswer the question with a single word."
LETTER = "Answer with the option's letter from the given choices directly."
LETTERS = "ABCDEFGHIJ"
Picture = Callable[[], Image.Image]


@dataclass(frozen=True)
class Sample:
    """One question of a benchmark.

    Args:
        name: Its id.
        question: With the benchmark's instruction, and `<image>` where a picture has its place in the text.
        pictures: Read when they are needed.
        references: Right answers; letters for multiple choice.
        group: Split, subject or category.
        options: Choices, A first; none for free answers.
    """

    name: str
    question: str
    pictures: tuple[Picture, ...]
    references: tuple[str, ...]
    group: str = ""
    options: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Benchmark:
    """How to read a benchmark and score its answers.

    Args:
        read: From its folder to samples.
        score: From an answer and its sample to 0..1 and what the answer was taken to be.
        max_new_tokens: Longest answer.
    """

    read: Callable[[Path], Iterator[Sample]]
    score: Callable[[str, Sample], tuple[float, str]]
    max_new_tokens: int


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark by name.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in BENCHMARKS:
        raise unknown_name("benchmark", name, list(BENCHMARKS))
    return BENCHMARKS[name]


def _file(path: Path) -> Picture:
    return lambda: load_image(path)


def _stored(content: bytes, name: str) -> Picture:
    def read() -> Image.Image:
        try:
            return Image.open(io.BytesIO(content)).convert("RGB")
        except OSError as error:
            raise InputError(f"the picture of {name} is damaged.") from error

    return read


def _read_json(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; see `fastvlm evaluate --help` for the layout.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def _field(row: Mapping[str, Any], name: str, path: Path) -> Any:
    if name not in row:
        raise InputError(f"{path}: a row has no `{name}`, only {', '.join(sorted(map(str, row)))}.")
    return row[name]


def _read_textvqa(folder: Path) -> Iterator[Sample]:
    path = folder / "TextVQA_0.5.1_val.json"
    for row in _field(_read_json(path), "data", path):
        image = folder / "train_images" / f"{_field(row, 'image_id', path)}.jpg"
        question = str(_field(row, "question", path)).capitalize() + SHORT
        yield Sample(str(row["question_id"]), question, (_file(image),), tuple(_field(row, "answers", path)))


def _read_documents(folder: Path, name: str, image_field: str) -> Iterator[Sample]:
    path = folder / name
    for row in _field(_read_json(path), "data", path):
        image = folder / str(_field(row, image_field, path))
        references = tuple(_field(row, "answers", path))
        yield Sample(str(row["questionId"]), row["question"] + SHORT, (_file(image),), references)


def _read_chartqa(folder: Path) -> Iterator[Sample]:
    for part in ("human", "augmented"):
        path = folder / "test" / f"test_{part}.json"
        for number, row in enumerate(_read_json(path)):
            image = folder / "test/png" / _field(row, "imgname", path)
            references = (str(_field(row, "label", path)),)
            yield Sample(f"{part} {number}", row["query"] + ONE_WORD, (_file(image),), references, part)


def _read_pope(folder: Path) -> Iterator[Sample]:
    paths = sorted(folder.glob("coco_pope_*.json"))
    if not paths:
        raise FileNotFoundError(f"no coco_pope_*.json in {folder}; see `fastvlm evaluate --help` for the layout.")
    for path in paths:
        part = path.stem.removeprefix("coco_pope_")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            image = folder / "val2014" / _field(row, "image", path)
            name = f"{part} {row['question_id']}"
            yield Sample(name, row["text"] + SHORT, (_file(image),), (_field(row, "label", path),), part)


def _read_mmmu(folder: Path) -> Iterator[Sample]:
    parquet = require_extra("pyarrow.parquet", "evaluate", "fastvlm")
    paths = sorted(folder.glob("*/validation-*.parquet"))
    if not paths:
        raise FileNotFoundError(f"no SUBJECT/validation-*.parquet in {folder}; see `fastvlm evaluate --help`.")
    for path in paths:
        for row in parquet.read_table(path).to_pylist():
            yield _mmmu_sample(row, path)


def _mmmu_sample(row: Mapping[str, Any], path: Path) -> Sample:
    """Return a question with `<image>` where `<image 1>` stands, options below it, pictures in their order."""
    name, options = str(_field(row, "id", path)), tuple(ast.literal_eval(_field(row, "options", path)))
    multiple = row["question_type"] == "multiple-choice"
    text = f"{row['question']}\n{_list_options(options)}\n\n{LETTER}" if multiple else f"{row['question']}\n{SHORT}"
    places = re.findall(r"<image (\d+)>", text)
    pictures = tuple(_stored(row[f"image_{number}"]["bytes"], name) for number in places)
    text = re.sub(r"<image \d+>", IMAGE, text)
    references = ast.literal_eval(row["answer"]) if str(row["answer"]).startswith("[") else [row["answer"]]
    return Sample(name, text, pictures, tuple(map(str, references)), path.parent.name, options if multiple else ())


def _list_options(options: Sequence[str]) -> str:
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def _read_mmbench(folder: Path) -> Iterator[Sample]:
    paths = [folder] if folder.is_file() else sorted(folder.glob("*.tsv"))
    if len(paths) != 1:
        raise InputError(f"{folder} has {len(paths)} files *.tsv; give one file.")
    csv.field_size_limit(sys.maxsize)
    with paths[0].open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            options = _filled(row)
            name = str(_field(row, "index", paths[0]))
            hint = row.get("hint") or ""
            question = f"{hint}\n{row['question']}" if hint not in ("", "nan", "none") else row["question"]
            question = f"{question}\n{_list_options(options)}\n{LETTER}"
            picture = _stored(base64.b64decode(_field(row, "image", paths[0])), name)
            yield Sample(name, question, (picture,), (str(row["answer"]),), row.get("category") or "", options)


def _filled(row: Mapping[str, str]) -> tuple[str, ...]:
    """Return the options up to the first that is empty."""
    options: list[str] = []
    for letter in "ABCD":
        if row.get(letter, "").lower() in ("", "nan", "none"):
            break
        options.append(row[letter])
    return tuple(options)


def _read_ocrbench(folder: Path) -> Iterator[Sample]:
    path = folder / "OCRBench.json"
    for number, row in enumerate(_read_json(path)):
        answers = _field(row, "answers", path)
        image = folder / "OCRBench_Images" / _field(row, "image_path", path)
        group = f"{_field(row, 'type', path)}|{_field(row, 'dataset_name', path)}"
        references = (answers,) if isinstance(answers, str) else tuple(answers)
        yield Sample(str(number), row["question"].strip(), (_file(image),), references, group)


def _score_choice(answer: str, sample: Sample) -> tuple[float, str]:
    if not sample.options:
        return scores.score_open(answer, sample.references), answer
    letter = scores.read_choice(answer, sample.options, sample.name)
    return float(letter in sample.references), letter


def _score_yes_no(answer: str, sample: Sample) -> tuple[float, str]:
    said = scores.read_yes_no(answer)
    return float(said == sample.references[0]), said


BENCHMARKS: dict[str, Benchmark] = {
    "textvqa": Benchmark(_read_textvqa, lambda a, s: (scores.score_textvqa(a, s.references), a), 32),
    "docvqa": Benchmark(
        lambda folder: _read_documents(folder, "val_v1.0.json", "image"),
        lambda a, s: (scores.score_anls(a, s.references), a),
        32,
    ),
    "infovqa": Benchmark(
        lambda folder: _read_documents(folder, "infographicsVQA_val_v1.0.json", "image_local_name"),
        lambda a, s: (scores.score_anls(a, s.references), a),
        32,
    ),
    "chartqa": Benchmark(_read_chartqa, lambda a, s: (scores.score_chartqa(a, s.references[0]), a), 16),
    "pope": Benchmark(_read_pope, _score_yes_no, 16),
    "mmmu": Benchmark(_read_mmmu, _score_choice, 64),
    "mmbench": Benchmark(_read_mmbench, _score_choice, 16),
    "ocrbench": Benchmark(
        _read_ocrbench, lambda a, s: (scores.score_ocrbench(a, s.references, s.group.split("|")[1]), a), 128
    ),
}
