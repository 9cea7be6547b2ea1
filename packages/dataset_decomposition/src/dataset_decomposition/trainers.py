"""The trainers people already have: transformers' Trainer; Accelerate and plain torch need no code of ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from tenfold_shared.commands import require_extra
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from dataset_decomposition.loader import BucketLoader
from dataset_decomposition.readers import DIST
from dataset_decomposition.torch_loader import BucketDataset

if TYPE_CHECKING:
    from transformers import Trainer


def model_inputs(batch: dict[str, Any]) -> dict[str, Tensor]:
    """Return what a causal language model of transformers takes of a batch.

    Its own loss shifts `labels` once more; given `shift_labels` it takes those as they are, which is right for rows
    that carry their last target (length + 1 tokens).

    Args:
        batch: From `BucketDataset`; without packed tails, which need a document mask that these models lack.

    Raises:
        ValueError: The batch holds several documents per row.
    """
    segments = batch.get("segments")
    if segments is not None and int(segments.max()) > 0:
        raise ValueError('packed tails need a document mask; decompose with tail="drop" or "pad" for this trainer.')
    return {"input_ids": batch["input_ids"], "labels": batch["labels"], "shift_labels": batch["labels"]}


class _ModelInputs(IterableDataset):
    """Batches as a transformers model takes them."""

    def __init__(self, dataset: BucketDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (model_inputs(batch) for batch in self.dataset)


def bucket_trainer(model: Any, loader: BucketLoader, args: Any, **options: Any) -> Trainer:
    """Build a transformers `Trainer` whose steps are those of a `BucketLoader`.

    One optimiser step is one step of the loader: `gradient_accumulation_steps` splits it, the batch sizes of `args`
    are not used, and `max_steps` defaults to the loader's length. A resumed run goes to its step at once instead of
    reading all batches before it. Needs the extra `hf`.

    Args:
        model: A causal language model of transformers.
        loader: With the rank and world size of `args`.
        args: `TrainingArguments`.
        **options: Passed on to `Trainer`.

    Returns:
        The trainer; call `train()`, or `train(resume_from_checkpoint=...)`.

    Raises:
        ImportError: The extra `hf` is not installed.
        ValueError: The loader's rank or world size is not that of `args`.

    Example:
        >>> trainer = bucket_trainer(model, loader, TrainingArguments("out"))  # doctest: +SKIP
    """
    transformers = require_extra("transformers", "hf", DIST)
    if (loader.rank, loader.world_size) != (args.process_index, args.world_size):
        raise ValueError(
            f"the loader is rank {loader.rank} of {loader.world_size}, the trainer {args.process_index} of "
            f"{args.world_size}; build the loader with rank=args.process_index, world_size=args.world_size."
        )
    if args.max_steps <= 0:
        args.max_steps = len(loader)
    args.ignore_data_skip = True
    dataset = BucketDataset(loader, micro_batches=args.gradient_accumulation_steps)

    class BucketTrainer(transformers.Trainer):
        def get_train_dataloader(self) -> DataLoader:
            # Not prepared by Accelerate: every rank reads its own slice already.
            return DataLoader(_ModelInputs(dataset), batch_size=None, num_workers=args.dataloader_num_workers)

    class StartAtStep(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            loader.step = state.global_step

    trainer = BucketTrainer(model=model, args=args, train_dataset=dataset, **options)
    trainer.add_callback(StartAtStep())
    return trainer
