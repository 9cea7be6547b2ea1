"""The commands that train and evaluate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional

from muscle.cli_compare import Output
from muscle.config import PRESETS, CompatibilityConfig, MaskName, TrainConfig

PresetName = Literal["paper", "small", "tiny"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["float32", "bfloat16", "float16"]
Task = Literal["jsonl", "hellaswag", "piqa", "gsm8k", "samsum"]
Scoring = Literal["choice", "exact", "rouge1"]


@dataclass(frozen=True)
class _Training(Output):
    """Options of every command that trains."""

    data: Path = Path("train.jsonl")
    """Training examples: JSON lines with `prompt` and `answer`, or a task's file with --task."""
    task: Task = "jsonl"
    """Layout of the data."""
    preset: PresetName = "paper"
    """Settings to begin with; paper is Table 8."""
    epochs: int | None = None
    """Passes over the data."""
    lr: float | None = None
    """Peak learning rate."""
    batch_size: int | None = None
    """Rows of a forward pass."""
    accumulation: int | None = None
    """Forward passes of a step."""
    max_length: int | None = None
    """Tokens of an example that are looked at."""
    rank: int | None = None
    """Rank of the adapter; alpha is twice that."""
    seed: int | None = None
    """Seed of adapters, order and validation split."""
    device: Device = "auto"
    """Where torch runs; auto takes a GPU when there is one."""
    precision: Precision = "float32"
    """Of the frozen bases."""
    resume: bool = True
    """Go on from the last checkpoint in --out; --no-resume refuses a folder that has one."""
    dry_run: bool = False
    """Print the resolved settings and the number of examples, and stop."""

    def config(self) -> TrainConfig:
        """Return the preset with the given changes."""
        names = ("epochs", "lr", "batch_size", "accumulation", "max_length", "seed")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        preset = PRESETS[self.preset]
        if self.rank is not None:
            changes["lora"] = dataclasses.replace(preset.lora, rank=self.rank, alpha=2.0 * self.rank)
        return dataclasses.replace(preset, **changes)

    def rows(self) -> list[dict[str, str]]:
        """Return the training examples."""
        from muscle.train import read_examples

        return read_examples(self.data) if self.task == "jsonl" else _solved(self.task, self.data)

    def prepare(self, out: Path, rows: list[dict[str, str]], extra: dict[str, Any]) -> bool:
        """Print a dry run, or refuse a folder in use; return whether to go on."""
        if self.dry_run:
            print_result({**self.config().to_dict(), **extra, "num_examples": len(rows)}, self.json)
            return False
        if not self.resume and (out / "checkpoints").exists():
            raise InputError(f"{out} holds a run already; leave out --no-resume, or choose another --out.")
        return True


def _solved(task: str, path: Path) -> list[dict[str, str]]:
    from muscle.protocols import find_protocol

    return [{"prompt": d.prompt, "answer": answer} for d, answer in find_protocol(task).read(path)]


@dataclass(frozen=True)
class Adapt(_Training):
    """Train a task adapter on a base with cross-entropy, for v1 and for v2 alike.

    For example:

        muscle adapt base-v1 --data train.jsonl --out adapter-v1
        muscle adapt base-v2 --data train.jsonl --task gsm8k --preset paper --out adapter-v2
    """

    base: Positional[Path] = Path("base")
    """Folder of a causal language model."""
    start: Path | None = None
    """Go on from this adapter instead of a new one: the control with cross-entropy alone."""
    out: Path = Path("adapter")
    """Folder for adapter, metrics and checkpoints."""

    def run(self) -> None:
        """Train and print steps and losses."""
        rows, config = self.rows(), self.config()
        if not self.prepare(self.out, rows, {"base": str(self.base)}):
            return
        from muscle.models import add_adapter, load_adapter, load_tokenizer
        from muscle.train import train_task_adapter

        model, tokenizer, device = (
            _model(self.base, self.device, self.precision),
            load_tokenizer(self.base),
            self.device,
        )
        if self.start is None:
            model = add_adapter(model, config.lora, config.seed)
        else:
            model = load_adapter(model, self.start, trainable=True)
        found = train_task_adapter(model, tokenizer, rows, config, self.out, device=resolve(device), resume=self.resume)
        print_result(found, self.json)


@dataclass(frozen=True)
class _Compatible(_Training):
    """Options of L_comp."""

    old: Path = Path("base-v1")
    """Folder of base v1."""
    new: Path = Path("base-v2")
    """Folder of base v2."""
    mask: MaskName = "muscle"
    """Which tokens follow the old model: the paper's rule, or one of its ablation."""
    temperature: float = 2.0
    """Of the distillation."""
    weight: float = 1.0
    """lambda of `lambda L_comp + (1 - lambda) L_CE`."""
    cache_top: int = 0
    """Logits kept of each token in the teachers' cache, the rest as one tail; 0 keeps all."""

    def compatibility(self) -> CompatibilityConfig:
        """Return the settings of the loss."""
        return CompatibilityConfig(self.mask, self.temperature, self.weight, self.cache_top)


@dataclass(frozen=True)
class Train(_Compatible):
    """Train the compatibility adapter: v2's adapter trained on, so that it keeps to v1 where it is wrong.

    For example:

        muscle train --old base-v1 --old-adapter adapter-v1 --new base-v2 --new-adapter adapter-v2 --data train.jsonl
        accelerate launch -m muscle train --old base-v1 --old-adapter adapter-v1 --new base-v2 --device cuda
    """

    old_adapter: Path = Path("adapter-v1")
    """Task adapter of v1."""
    new_adapter: Path = Path("adapter-v2")
    """Task adapter of v2."""
    out: Path = Path("adapter-compatible")
    """Folder for adapter, metrics, checkpoints and the teachers' cache."""

    def run(self) -> None:
        """Train and print steps, losses and the cache's size."""
        rows, config, compatibility = self.rows(), self.config(), self.compatibility()
        if not self.prepare(self.out, rows, {"compatibility": dict(compatibility.__dict__)}):
            return
        from muscle.models import check_same_vocabulary, load_adapter, load_tokenizer
        from muscle.train import train_compatibility_adapter

        tokenizer = load_tokenizer(self.new)
        check_same_vocabulary(load_tokenizer(self.old), tokenizer)
        old, new, student = (_model(path, self.device, self.precision) for path in (self.old, self.new, self.new))
        teachers = load_adapter(old, self.old_adapter), load_adapter(new, self.new_adapter)
        student = load_adapter(student, self.new_adapter, trainable=True)
        options = {"device": resolve(self.device), "resume": self.resume}
        settings = config, compatibility
        print_result(
            train_compatibility_adapter(teachers, student, tokenizer, rows, settings, self.out, **options), self.json
        )


@dataclass(frozen=True)
class Run(_Compatible):
    """Do the whole method: both task adapters, the compatibility adapter, the control, and what flipped.

    For example:

        muscle run --old base-v1 --new base-v2 --data train.jsonl --tests test.jsonl --preset small
        muscle run --old llama-1 --new llama-2 --task gsm8k --data gsm8k/train.jsonl --tests gsm8k/test.jsonl
    """

    tests: Path = Path("test.jsonl")
    """Test examples in the same layout."""
    scoring: Scoring | None = None
    """How answers of --task jsonl are scored; by default exact, choice where examples have choices."""
    out: Path = Path("muscle-run")
    """Folder for adapters, answers and the table."""

    def run(self) -> None:
        """Train, evaluate and print a row for each v2."""
        rows, config = self.rows(), self.config()
        protocol, documents = _tests(self.task, self.tests, self.scoring)
        extra = {"compatibility": dict(self.compatibility().__dict__), "num_tests": len(documents)}
        if not self.prepare(self.out, rows, extra):
            return
        from tenfold_shared.files import write_json

        from muscle.pipeline import Job, run

        device = resolve(self.device)
        job = Job(self.old, self.new, rows, documents, protocol, config, self.compatibility(), device)
        found = run(job, self.out)
        write_json(self.out / "table.json", found)
        print_result(found, self.json)


@dataclass(frozen=True)
class Evaluate(Output):
    """Answer a task's tests with a model and write the answers for `compare`.

    For example:

        muscle evaluate base-v1 --adapter adapter-v1 --tests test.jsonl --out v1.jsonl
        muscle evaluate base-v2 --adapter adapter-v2 --task piqa --tests valid.jsonl --out v2.jsonl
    """

    base: Positional[Path] = Path("base")
    """Folder of a causal language model."""
    adapter: Path | None = None
    """Adapter to use."""
    tests: Path = Path("test.jsonl")
    """Test examples."""
    task: Task = "jsonl"
    """Layout and protocol of the tests."""
    scoring: Scoring | None = None
    """How answers of --task jsonl are scored; by default exact, choice where examples have choices."""
    shots: Path | None = None
    """Solved examples to put before each question, in the layout of the tests; all of them."""
    limit: int = 0
    """First so many tests; 0 takes all."""
    batch_size: int = 8
    """Rows of a forward pass."""
    out: Path = Path("answers.jsonl")
    """File of answers."""
    device: Device = "auto"
    """Where torch runs."""
    precision: Precision = "float32"
    """Of the base."""

    def run(self) -> None:
        """Answer, write the answers and print the mean score."""
        from muscle.protocols import find_protocol, with_shots

        protocol, documents = _tests(self.task, self.tests, self.scoring)
        if self.shots is not None:
            documents = with_shots(documents, find_protocol(self.task).read(self.shots))
        documents = documents[: self.limit or None]
        from muscle.evaluate import evaluate, write_answers
        from muscle.models import load_adapter, load_tokenizer

        model, tokenizer = _model(self.base, self.device, self.precision), load_tokenizer(self.base)
        if self.adapter is not None:
            model = load_adapter(model, self.adapter)
        rows = evaluate(model, tokenizer, protocol, documents, batch_size=self.batch_size)
        write_answers(self.out, rows)
        score = sum(row["score"] for row in rows) / len(rows)
        print_result({"num": len(rows), "scored": protocol.kind, "score": score}, self.json)


def _tests(task: str, path: Path, scoring: Scoring | None) -> tuple[Any, list[Any]]:
    from muscle.protocols import find_protocol

    documents = [document for document, _ in find_protocol(task).read(path)]
    if scoring is None and task == "jsonl" and any(document.choices for document in documents):
        scoring = "choice"
    return find_protocol(task, scoring), documents


def _model(path: Path, device: Device, precision: Precision) -> Any:
    import torch

    from muscle.models import load_model

    return load_model(path, resolve(device), getattr(torch, precision))


def resolve(device: Device) -> str:
    """Return the device that `auto` stands for here."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"
