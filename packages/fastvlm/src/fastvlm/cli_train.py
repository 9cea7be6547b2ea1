"""Commands that train and measure: train, merge, evaluate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import arg

from fastvlm.recipes import TRAIN_PRESETS

if TYPE_CHECKING:
    from fastvlm.recipes import TrainConfig
    from fastvlm.start import Start

Device = Literal["auto", "cpu", "cuda", "mps"]
TrainPreset = Literal["stage1", "stage1.5", "stage2", "stage3", "lora", "tiny"]
Benchmark = Literal["textvqa", "docvqa", "infovqa", "chartqa", "pope", "mmmu", "mmbench", "ocrbench"]


@dataclass(frozen=True)
class Overrides:
    """What differs from the preset; what is not given stays."""

    train_encoder: bool | None = None
    """Whether the image encoder learns."""
    train_language_model: bool | None = None
    """Whether the language model learns."""
    learning_rate: float | None = None
    """Largest learning rate."""
    encoder_learning_rate: float | None = None
    """Largest learning rate of the image encoder, where it has its own."""
    projector_learning_rate: float | None = None
    """Largest learning rate of the projector, where it has its own."""
    batch_size: int | None = None
    """Conversations per step over all processes."""
    micro_batch_size: int | None = None
    """Conversations in one forward pass of one process; the rest of the batch is accumulated."""
    num_epochs: float | None = None
    """Passes over the data."""
    num_steps: int | None = None
    """Optimizer steps, in place of epochs."""
    template: Literal["plain", "qwen_2"] | None = None
    """plain is image and caption, qwen_2 the chat template."""
    image_size: int | None = None
    """Height and width of a view in pixels, divisible by 64."""
    max_length: int | None = None
    """Longest conversation in tokens, those of images included; longer ones count as bad."""
    group_by_length: bool | None = None
    """Whether conversations of like length come together."""
    lora_rank: int | None = None
    """Rank of adapters in the language model; 0 trains its own weights."""
    lora_alpha: float | None = None
    """Scale of the adapters times their rank."""
    lora_dropout: float | None = None
    """Dropout before the adapters."""
    gradient_checkpointing: bool | None = None
    """Compute activations twice to save memory."""
    precision: Literal["fp32", "bf16"] | None = None
    """Number format of the forward pass."""
    max_bad_share: float | None = None
    """Largest share of bad records; more stop the run."""
    seed: int | None = None
    """Seed of order and dropout."""

    def apply(self, preset: TrainConfig) -> TrainConfig:
        """Return the preset with what was given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(preset, **given)


@dataclass(frozen=True)
class Train:
    """Train on conversations in LLaVA's format: projector, resolution scaling, instruction tuning, adapters.

    For example:
    fastvlm train --preset lora --model FastVLM-0.5B --data mine.json --images photos --out run

    fastvlm train --preset stage1 --language-model Qwen2-0.5B --encoder fastvithd.pt --data blip.json --out stage1

    torchrun --nproc-per-node 8 -m fastvlm train --preset stage2 --model stage1.5/model --data a.json --out run
    """

    data: tuple[Path, ...]
    """Data sets: JSON lists or JSON lines of conversations."""
    out: Path
    """Folder for model/, adapter/, metrics.jsonl, skipped.jsonl, config.json, checkpoint.pt."""
    images: tuple[Path, ...] = ()
    """Folder of the pictures: one per data set, or one for all; by default where the data set lies."""
    model: str | None = None
    """Folder in either layout, or owner/name on the hub."""
    language_model: str | None = None
    """Without --model: folder of a causal language model of transformers, to begin from."""
    encoder: Path | None = None
    """Without --model: weights of a FastViTHD."""
    preset: TrainPreset = "stage2"
    """What is trained and how; --dry-run prints it."""
    overrides: Annotated[Overrides, arg(name="")] = field(default_factory=Overrides)
    engine: Literal["ddp", "fsdp"] = "ddp"
    """Several processes: gradients averaged, or parameters shared out (FSDP2)."""
    workers: int = 0
    """Processes that read ahead; 0 reads in the training process."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    device: Device = "auto"
    """Where to train; auto takes a GPU when there is one."""
    resume: bool = False
    """Go on from the folder's checkpoint."""
    dry_run: bool = False
    """Print the resolved configuration and stop."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Train and print the last step's metrics."""
        config = self.overrides.apply(TRAIN_PRESETS[self.preset])
        if (self.model is None) == (self.language_model is None or self.encoder is None):
            raise InputError("give --model, or --language-model and --encoder.")
        if self.dry_run:
            print_result({"model": self.model or self.language_model, **config.to_dict()}, self.json)
            return
        from mobileclip.runtime import resolve_device

        from fastvlm.data import pair_sources
        from fastvlm.train import RunOptions, train

        names = ("engine", "workers", "log_every", "checkpoint_every", "quiet")
        options = RunOptions(device=resolve_device(self.device), **{name: getattr(self, name) for name in names})
        sources = pair_sources(self.data, self.images)
        metrics = train(self._start, config, sources, self.out, resume=self.resume, options=options)
        print_result({"model": str(self.out / "model"), **metrics}, self.json)

    def _start(self) -> Start:
        from fastvlm.start import Start, assemble

        if self.model is None:
            return assemble(str(self.language_model), str(self.encoder))
        return Start.from_pretrained(self.model)


@dataclass(frozen=True)
class Merge:
    """Add a trained adapter to its base and write the whole model.

    For example:
    fastvlm merge --model FastVLM-0.5B --adapter run/adapter --out merged
    """

    model: str
    """The base: folder in either layout, or owner/name on the hub."""
    adapter: Path
    """Folder `adapter` of a run with --lora-rank."""
    out: Path
    """Folder to write."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Merge and print where the model is."""
        from fastvlm.adapters import load_adapter
        from fastvlm.convert import copy_tokenizer
        from fastvlm.start import Start

        base = Start.from_pretrained(self.model)
        load_adapter(base.model, self.adapter).save_pretrained(self.out)
        copy_tokenizer(base.folder, self.out)
        print_result({"model": str(self.out), "adapter": str(self.adapter)}, self.json)


@dataclass(frozen=True)
class Evaluate:
    """Ask a model a benchmark's questions and score its answers, with a record per question.

    Folders hold what the benchmark publishes:
    textvqa: TextVQA_0.5.1_val.json, train_images/. docvqa: val_v1.0.json, documents/. infovqa:
    infographicsVQA_val_v1.0.json and images. chartqa: test/test_human.json, test/test_augmented.json, test/png/.
    pope: coco_pope_*.json, val2014/. mmmu: SUBJECT/validation-*.parquet. mmbench: a .tsv. ocrbench: OCRBench.json,
    OCRBench_Images/.

    For example:
    fastvlm evaluate --benchmark textvqa --data textvqa --model FastVLM-0.5B --out scores

    fastvlm evaluate --benchmark mmmu --data MMMU --model base --adapter run/adapter --limit 100 --out scores --json
    """

    benchmark: Benchmark
    """Whose questions."""
    data: Path
    """Folder of the benchmark."""
    model: str
    """Folder in either layout, or owner/name on the hub."""
    out: Path
    """Folder for samples.jsonl and scores.json."""
    adapter: Path | None = None
    """Folder `adapter` of a run with --lora-rank, to add to the model."""
    limit: int | None = None
    """Ask the first so many questions only."""
    image_size: int | None = None
    """Height and width of a view in pixels, divisible by 64; by default the model's own."""
    device: Device = "auto"
    """Where the model runs; auto takes a GPU when there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of weights and pixels (bf16 and fp16 are for GPUs)."""
    resume: bool = False
    """Keep the answers that the folder already has."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Ask, score and print the scores."""
        from fastvlm.evaluate import Options, evaluate
        from fastvlm.predict import load_assistant

        options = {"precision": self.precision, "image_size": self.image_size, "adapter": self.adapter}
        assistant = load_assistant(self.model, self.device, **options)
        asking = Options(self.limit, self.resume, self.quiet)
        print_result(evaluate(assistant, self.benchmark, self.data, self.out, asking), self.json)
