"""Train task adapters and the compatibility adapter with transformers' Trainer.

    muscle adapt base-v1 --data train.jsonl --out adapter-v1
    muscle adapt base-v2 --data train.jsonl --out adapter-v2
    muscle train --old base-v1 --old-adapter adapter-v1 --new base-v2 --new-adapter adapter-v2 --data train.jsonl

`CompatibilityTrainer` is a `Trainer`: accumulation, mixed precision, several processes under accelerate, checkpoints
and resuming are transformers' own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json
from torch import Tensor
from transformers import Trainer, TrainerCallback, TrainingArguments

from muscle.config import CompatibilityConfig, TrainConfig
from muscle.loss import IGNORED, Mask
from muscle.models import adapter_fingerprint, fingerprint, save_adapter
from muscle.records import read_lines
from muscle.teachers import TeacherCache, build_cache, cached_losses, describe

Example = dict[str, Any]


def read_examples(path: str | Path) -> list[dict[str, str]]:
    """Read JSON lines with `prompt` and `answer`.

    Raises:
        InputError: No such file, an empty one, or a row without them.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no training examples at {path}; expected JSON lines with `prompt` and `answer`.")
    rows = read_lines(path)
    for number, row in enumerate(rows, start=1):
        if not all(isinstance(row.get(name), str) for name in ("prompt", "answer")):
            raise InputError(f"{path}, line {number}: expected strings `prompt` and `answer`, found {sorted(row)}.")
    return rows


def encode_examples(tokenizer: Any, rows: Sequence[Mapping[str, str]], max_length: int) -> list[Example]:
    """Return token ids with labels on context and answer (section 4) and each example's index in the data.

    The first token has no label: nothing predicts it. Examples are cut at `max_length` tokens from the left, so that
    the answer stays.
    """
    examples = []
    for index, row in enumerate(rows):
        prompt = tokenizer(row["prompt"], add_special_tokens=True)["input_ids"]
        ids = prompt + tokenizer(row["answer"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        ids = ids[-max_length:]
        examples.append({"input_ids": ids, "labels": [IGNORED, *ids[1:]], "index": index})
    return examples


def split_examples(examples: Sequence[Example], config: TrainConfig) -> tuple[list[Example], list[Example]]:
    """Return training and validation examples, shuffled by the seed; the paper takes 80 and 20 %."""
    count = max(1, round(len(examples) * config.validation))
    if count >= len(examples):
        raise InputError(f"{len(examples)} examples are too few to train on and to validate with.")
    order = random.Random(config.seed).sample(range(len(examples)), len(examples))
    return [examples[i] for i in order[count:]], [examples[i] for i in order[:count]]


class Collator:
    """Pads a batch on the right."""

    def __init__(self, pad_token_id: int) -> None:
        """Keep the token that pads."""
        self.pad_token_id = pad_token_id

    def __call__(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Return tensors [examples, longest]."""
        length = max(len(example["input_ids"]) for example in examples)

        def pad(name: str, value: int) -> Tensor:
            return torch.tensor([[*e[name], *[value] * (length - len(e[name]))] for e in examples])

        mask = [[1] * len(e["input_ids"]) + [0] * (length - len(e["input_ids"])) for e in examples]
        return {
            "input_ids": pad("input_ids", self.pad_token_id),
            "labels": pad("labels", IGNORED),
            "attention_mask": torch.tensor(mask),
            "index": torch.tensor([e["index"] for e in examples]),
        }


class TaskTrainer(Trainer):
    """A Trainer with plain next-token cross-entropy that ignores the examples' `index`."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss of a batch, normalised over the tokens of the whole step."""
        labels, index = inputs["labels"], inputs.get("index")
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        logits, targets = outputs.logits[:, :-1].float(), labels[:, 1:]
        losses = self.losses(logits, targets, index, training=model.training)
        loss = losses.sum() / (num_items_in_batch or (targets != IGNORED).sum().clamp(min=1))
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # averaged over processes, the count was gathered
        return (loss, outputs) if return_outputs else loss

    def losses(self, logits: Tensor, targets: Tensor, index: Tensor | None, *, training: bool) -> Tensor:
        """Return each token's loss [rows, tokens]."""
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        return losses.view_as(targets)  # 0 where the target is ignored


class CompatibilityTrainer(TaskTrainer):
    """A Trainer with L_comp from cached teachers; in evaluation its loss is cross-entropy, which selects the epoch."""

    def __init__(
        self,
        *args: Any,
        cache: TeacherCache,
        compatibility: CompatibilityConfig,
        mask: Mask | None = None,
        **kwargs: Any,
    ) -> None:
        """Take a Trainer's arguments and those of the loss.

        Args:
            *args: Of `Trainer`.
            cache: Teachers' logits of the training examples, by their `index`.
            compatibility: Mask, temperature and weight.
            mask: A function in place of the named mask, see `muscle.loss.Mask`.
            **kwargs: Of `Trainer`.
        """
        super().__init__(*args, **kwargs)
        self.cache, self.compatibility = cache, compatibility
        self.mask: Any = mask or compatibility.mask

    def losses(self, logits: Tensor, targets: Tensor, index: Tensor | None, *, training: bool) -> Tensor:
        """Return each token's part of the weighted loss [rows, tokens]."""
        weight = self.compatibility.weight
        if not training or weight == 0:
            return super().losses(logits, targets, index, training=training)
        if index is None:
            raise ValueError("batches need an `index` into the teachers' cache; see `encode_examples`.")
        found = cached_losses(self.cache, index.tolist(), logits, targets, self.mask) * weight
        if weight < 1:
            found = found + (1 - weight) * super().losses(logits, targets, index, training=training)
        return found


class _Log(TrainerCallback):
    """Writes every log to metrics.jsonl of the main process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            from tenfold_shared.files import append_jsonl, plain_json

            append_jsonl(self.path, plain_json({"step": state.global_step, **logs}))


def training_arguments(config: TrainConfig, out: Path, num_examples: int, *, device: str = "cpu") -> TrainingArguments:
    """Return transformers' arguments for a configuration: Table 8, an evaluation and a checkpoint after every epoch."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    per_epoch = -(-num_examples // (config.batch_size * config.accumulation * processes))
    return TrainingArguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=config.epochs,
        learning_rate=config.lr,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        warmup_steps=min(config.warmup_steps, max(1, per_epoch * config.epochs // 10)),
        lr_scheduler_type="linear",
        weight_decay=0.0,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=10,
        seed=config.seed,
        report_to=[],
        remove_unused_columns=False,
        use_cpu=device == "cpu",
        disable_tqdm=True,
        dataloader_pin_memory=device != "cpu",
        label_names=["labels"],
    )


def fit(trainer: Trainer, out: Path, *, resume: bool = True) -> dict[str, float]:
    """Train, going on from the last checkpoint in `out`; write the selected adapter there and return the metrics."""
    trainer.add_callback(_Log(out / "metrics.jsonl"))
    trainer.remove_callback(_printer())
    found = list((out / "checkpoints").glob("checkpoint-*")) if resume else []
    result = trainer.train(resume_from_checkpoint=True if found else None)
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    if trainer.is_world_process_zero():
        save_adapter(trainer.model, out)
    metrics = {"steps": trainer.state.global_step, "train_loss": result.training_loss}
    return metrics | {"validation_loss": min(losses)}


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


def train_task_adapter(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, str]], config: TrainConfig, out: str | Path, **options: Any
) -> dict[str, float]:
    """Train a task adapter with cross-entropy.

    Args:
        model: A base with a trainable adapter, see `models.add_adapter`.
        tokenizer: Its tokenizer.
        rows: Examples with `prompt` and `answer`.
        config: Settings.
        out: Folder for adapter, metrics and checkpoints.
        **options: `device`, and `resume` (on by default).

    Returns:
        Steps, training loss and the selected validation loss.
    """
    out, train, validation, arguments = _prepare(tokenizer, rows, config, out, options, {"model": _mark(model)})
    collate = Collator(tokenizer.pad_token_id)
    trainer = TaskTrainer(
        model=model, args=arguments, train_dataset=_Items(train), eval_dataset=_Items(validation), data_collator=collate
    )
    return fit(trainer, out, resume=options.get("resume", True))


def train_compatibility_adapter(
    teachers: tuple[Any, Any],
    student: Any,
    tokenizer: Any,
    rows: Sequence[Mapping[str, str]],
    settings: tuple[TrainConfig, CompatibilityConfig],
    out: str | Path,
    **options: Any,
) -> dict[str, float]:
    """Train a compatibility adapter that starts from the new task adapter (section 4).

    Args:
        teachers: The old and the new task model, frozen.
        student: The new base with the new task adapter, trainable.
        tokenizer: Of both models.
        rows: The training examples of the task adapters.
        settings: Of the training, as the task adapters', and of the loss.
        out: Folder for adapter, metrics, checkpoints and the teachers' cache.
        **options: `device`, `resume` (on by default), and `mask`, a function.

    Returns:
        Steps, training loss, the selected validation loss and the cache's bytes per token.
    """
    config, compatibility = settings
    mask = options.get("mask")
    identity = {
        "models": [_mark(model) for model in (*teachers, student)],
        "compatibility": dict(compatibility.__dict__),
        "mask": getattr(mask, "__qualname__", None),
    }
    out, train, validation, arguments = _prepare(tokenizer, rows, config, out, options, identity)
    ids = [example["input_ids"] for example in sorted(train + validation, key=lambda e: e["index"])]
    spec = describe(ids, teachers, compatibility.temperature, compatibility.cache_top)
    with arguments.main_process_first():
        cache = build_cache(out / "teachers", ids, *teachers, spec)
    trainer = CompatibilityTrainer(
        model=student,
        args=arguments,
        train_dataset=_Items(train),
        eval_dataset=_Items(validation),
        data_collator=Collator(tokenizer.pad_token_id),
        cache=cache,
        compatibility=compatibility,
        mask=mask,
    )
    return fit(trainer, out, resume=options.get("resume", True)) | {"cache_bytes_per_token": cache.bytes_per_token}


class _Items(torch.utils.data.Dataset):
    """A list as a map-style data set."""

    def __init__(self, items: Sequence[Example]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Example:
        return self.items[place]


def _prepare(
    tokenizer: Any,
    rows: Sequence[Mapping[str, str]],
    config: TrainConfig,
    out: str | Path,
    options: Mapping[str, Any],
    identity: Mapping[str, Any],
) -> tuple[Path, list[Example], list[Example], TrainingArguments]:
    """Split the examples, and refuse a folder of another run: going on there would mix the two."""
    out, examples = Path(out), encode_examples(tokenizer, rows, config.max_length)
    train, validation = split_examples(examples, config)
    arguments = training_arguments(config, out, len(train), device=options.get("device", "cpu"))
    data = hashlib.sha256(json.dumps([example["input_ids"] for example in examples]).encode()).hexdigest()[:32]
    _check_same_run(out, config.to_dict() | {"num_examples": len(rows), "data": data, **identity})
    return out, train, validation, arguments


def _mark(model: Any) -> str:
    return fingerprint(model) + adapter_fingerprint(model)


def _check_same_run(out: Path, identity: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(identity))
    path = out / "config.json"
    if not path.is_file():
        write_json(path, wanted)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if other := [name for name in wanted if found.get(name) != wanted[name]]:
        raise InputError(f"{out} holds a run with other settings or data ({', '.join(other)}); choose another --out.")
