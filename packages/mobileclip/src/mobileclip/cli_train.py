"""Commands that train and use what was trained: train, evaluate, search."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional, arg

from mobileclip.cli_model import ModelOptions
from mobileclip.config import TRAIN_PRESETS

if TYPE_CHECKING:
    from mobileclip.config import TrainConfig

TrainPreset = Literal[
    "datacompdr12m_b", "datacompdr1b_s0", "datacompdr1b_s1", "datacompdr1b_s2", "datacompdr1b_b", "datacompdr1b_blt",
    "tiny",
]  # fmt: skip


@dataclass(frozen=True)
class Overrides:
    """What differs from the preset; what is not given stays."""

    batch_size: int | None = None
    """Samples per step over all processes."""
    num_steps: int | None = None
    """Optimizer steps."""
    accumulation: int | None = None
    """Parts into which each process cuts its batch to save memory; the loss stays that of the whole batch."""
    learning_rate: float | None = None
    """Largest learning rate."""
    warmup_steps: int | None = None
    """Steps of linear increase."""
    distill_weight: float | None = None
    """The paper's lambda: 0 is plain CLIP, 1 distils only."""
    augmentation: Literal["stored", "strong", "crop", "none"] | None = None
    """stored replays what the teachers saw; strong draws afresh; crop is open_clip's default; none is the centre."""
    smallest_crop: float | None = None
    """Of strong augmentation: the smallest share of the image that a crop covers."""
    synthetic: bool | None = None
    """Whether the loss is also taken with a synthetic caption."""
    num_augmentations: int | None = None
    """How many of the stored augmentations are used."""
    num_captions: int | None = None
    """How many of the synthetic captions are used."""
    ema_decay: float | None = None
    """Decay of the running mean of the weights; 0 keeps none."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Number format of the forward pass."""
    seed: int | None = None
    """Seed of weights, order, augmentations and captions."""

    def apply(self, preset: TrainConfig) -> TrainConfig:
        """Return the preset with what was given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(preset, **given)


@dataclass(frozen=True)
class Train:
    """Train a model on shards with images and captions: reinforced training, or plain CLIP.

    For example:
    mobileclip train --data photos-dr --out run --preset tiny

    mobileclip train --data shards --out plain --preset tiny --distill-weight 0 --augmentation crop --no-synthetic

    torchrun --nproc-per-node 8 -m mobileclip train --data DataCompDR-12M --out run --preset datacompdr12m_b
    """

    data: Path
    """Folder of shards, reinforced where something is distilled."""
    out: Path
    """Folder for model/, ema/, metrics.jsonl, config.json, checkpoint.pt."""
    preset: TrainPreset = "tiny"
    """Model and hyper-parameters; `mobileclip presets --training` lists them."""
    overrides: Annotated[Overrides, arg(name="")] = field(default_factory=Overrides)
    workers: int = 0
    """Processes that read ahead; 0 reads in the training process."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes a GPU when there is one."""
    resume: bool = False
    """Go on from the folder's checkpoint."""
    dry_run: bool = False
    """Print the resolved configuration, parameters and steps, and stop."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Train and print the last step's metrics."""
        config = self.overrides.apply(TRAIN_PRESETS[self.preset])
        if self.dry_run:
            print_result(_describe(config), self.json)
            return
        from mobileclip.runtime import resolve_device
        from mobileclip.train import RunOptions, train

        options = RunOptions(
            device=resolve_device(self.device),
            workers=self.workers,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            quiet=self.quiet,
        )
        metrics = train(config, self.data, self.out, resume=self.resume, options=options)
        print_result({"model": str(self.out / "model"), "steps": config.num_steps, **metrics}, self.json)


def _describe(config: TrainConfig) -> dict[str, Any]:
    import torch

    from mobileclip.model import MobileCLIP

    with torch.device("meta"):
        parameters = sum(p.numel() for p in MobileCLIP(config.model).parameters())
    seen = config.batch_size * config.num_steps
    return {**config.to_dict(), "parameters": parameters, "samples_seen": seen}


@dataclass(frozen=True)
class Evaluate:
    """Zero-shot classification or retrieval on a folder, or the average of a results file.

    For example:
    mobileclip evaluate cifar10-wds --pretrained mobileclip_s2.pt

    mobileclip evaluate pictures-by-class/ --pretrained run/model --json

    mobileclip evaluate --results results/mobileclip_s0.jsonl
    """

    folder: Positional[Path | None] = None
    """clip_benchmark's webdataset, a folder of one sub-folder per class, or pictures with captions (retrieval)."""
    results: Path | None = None
    """JSON lines of DataComp's evaluation, to average instead."""
    split: str = "test"
    """Sub-folder of the webdataset."""
    template: tuple[str, ...] = ()
    """Prompts with {} where the class goes, instead of the folder's own."""
    options: Annotated[ModelOptions, arg(name="")] = field(default_factory=ModelOptions)
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Print metric by metric."""
        from mobileclip.evaluate import average_results, evaluate, open_task

        if (self.folder is None) == (self.results is None):
            raise InputError("give a folder or --results FILE, one of the two.")
        if self.results is not None:
            print_result(average_results(self.results), self.json)
            return
        task = open_task(self.folder, self.split)
        if self.template:
            task = dataclasses.replace(task, templates=self.template)
        print_result(evaluate(self.options.load(), task, quiet=self.quiet), self.json)


@dataclass(frozen=True)
class Search:
    """Find pictures in a folder by words. The first call indexes the folder, later ones only what changed.

    For example:
    mobileclip search ~/Pictures "a dog on a beach" --pretrained mobileclip_s2.pt

    mobileclip search ~/Pictures "a receipt" --top 20 --json --pretrained run/model
    """

    folder: Positional[Path]
    """Folder of pictures, searched with its sub-folders."""
    query: Positional[str]
    """What to look for."""
    top: int = 10
    """How many pictures."""
    index: Path | None = None
    """Folder of the index; by default in the cache."""
    options: Annotated[ModelOptions, arg(name="")] = field(default_factory=ModelOptions)
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Bring the index up to date and print the nearest pictures."""
        import logging

        from mobileclip.search import SearchIndex, default_index

        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder at {self.folder}; check the path.")
        if not self.query.strip():
            raise InputError("the query is empty; say what to look for.")
        pipeline = self.options.load()
        name = f"{self.options.model or 'default'} {self.options.pretrained or 'random'}"
        query = pipeline.embed_texts([self.query])[0].float().numpy()
        index = SearchIndex(self.index or default_index(self.folder, name), name, len(query))
        counts = index.update(pipeline, self.folder, quiet=self.quiet)
        if counts["unreadable"]:
            logging.getLogger(__name__).warning(
                "%d pictures left out, the first: %s", counts["unreadable"], counts["first_unreadable"]
            )
        if not len(index):
            raise InputError(f"no readable picture in {self.folder}.")
        found = index.search(query, self.top)
        print_result([{"image": str(self.folder / path), "similarity": value} for path, value in found], self.json)
