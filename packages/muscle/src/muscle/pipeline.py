"""The whole method on two bases and one task: adapters, the compatibility adapter, its control, and what flipped."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muscle.comparison import compare
from muscle.config import CompatibilityConfig, TrainConfig
from muscle.evaluate import evaluate, write_answers
from muscle.flips import Flips
from muscle.models import (
    add_adapter,
    check_same_vocabulary,
    load_adapter,
    load_model,
    load_tokenizer,
)
from muscle.protocols import Document, Protocol
from muscle.train import train_compatibility_adapter, train_task_adapter

CONTROL, PLAIN, OURS = "v2, continued with cross-entropy", "v2", "v2, compatible"


@dataclass(frozen=True)
class Job:
    """What `run` works on.

    Attributes:
        old: Folder of base v1.
        new: Folder of base v2.
        rows: Training examples with `prompt` and `answer`.
        documents: Tests.
        protocol: How the tests are asked.
        train: Settings of all adapters.
        compatibility: Settings of L_comp.
        device: Where torch runs.
    """

    old: Path
    new: Path
    rows: list[dict[str, str]]
    documents: list[Document]
    protocol: Protocol
    train: TrainConfig
    compatibility: CompatibilityConfig
    device: str = "cpu"


def run(job: Job, out: Path) -> list[dict[str, Any]]:
    """Train everything and compare each v2 with v1.

    The control that the paper lacks, v2's adapter trained on with plain cross-entropy for as many epochs, is always in.

    Returns:
        One row for plain v2, the control and the compatible v2: level, NFR and PFR against v1.
    """
    tokenizers = [load_tokenizer(path) for path in (job.old, job.new)]
    check_same_vocabulary(*tokenizers)
    folders = {name: out / name for name in ("v1", "v2", "control", "compatible")}
    for name, base in (("v1", job.old), ("v2", job.new)):
        model = add_adapter(load_model(base, job.device), job.train.lora, job.train.seed)
        train_task_adapter(model, tokenizers[1], job.rows, job.train, folders[name], device=job.device)
    control = load_adapter(load_model(job.new, job.device), folders["v2"], trainable=True)
    train_task_adapter(control, tokenizers[1], job.rows, job.train, folders["control"], device=job.device)
    _train_compatible(job, tokenizers[1], folders)
    for name, folder in folders.items():
        base = job.old if name == "v1" else job.new
        model = load_adapter(load_model(base, job.device), folder)
        write_answers(out / f"{name}.jsonl", evaluate(model, tokenizers[1], job.protocol, job.documents))
    named = {PLAIN: "v2", CONTROL: "control", OURS: "compatible"}
    return [_row(out, label, name) for label, name in named.items()]


def _train_compatible(job: Job, tokenizer: Any, folders: dict[str, Path]) -> None:
    teachers = (
        load_adapter(load_model(job.old, job.device), folders["v1"]),
        load_adapter(load_model(job.new, job.device), folders["v2"]),
    )
    student = load_adapter(load_model(job.new, job.device), folders["v2"], trainable=True)
    settings = (job.train, job.compatibility)
    train_compatibility_adapter(
        teachers, student, tokenizer, job.rows, settings, folders["compatible"], device=job.device
    )


def _row(out: Path, label: str, name: str) -> dict[str, Any]:
    result = compare(out / "v1.jsonl", out / f"{name}.jsonl").result
    if isinstance(result, Flips):
        level = {"old": result.accuracy_old, "new": result.accuracy_new}
    else:
        level = {"old": result.mean_old, "new": result.mean_new}
    return {"model": label, **level, "nfr": result.nfr, "pfr": result.pfr}
