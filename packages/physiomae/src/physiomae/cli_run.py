"""The commands that train, probe, look into a model and use it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional

from physiomae.cli_data import Output, PresetName
from physiomae.config import OBJECTIVES, PRESETS, ObjectiveName, PhysioMAEConfig, Precision, TrainConfig

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Train(Output):
    """Pretrain a model on prepared windows.

    For example:

        physiomae train windows/ --preset simulator --objective mae_drop --steps 400 --out model
        torchrun --nproc-per-node 4 -m physiomae train windows/ --preset sleep --device cuda --precision bfloat16
    """

    data: Positional[Path] = Path("windows")
    """Folder of `prepare`; its modalities are the model's."""
    preset: PresetName = "sleep_small"
    """Sizes of the model."""
    objective: ObjectiveName = "mae_drop"
    """What is learnt."""
    mask_ratio: float | None = None
    """Share of the tokens that is hidden."""
    drop_prob: float | None = None
    """Probability that a window loses some of its modalities."""
    steps: int | None = None
    """Updates."""
    batch_size: int | None = None
    """Windows of an update, over all processes."""
    lr: float | None = None
    """Peak learning rate."""
    warmup_steps: int | None = None
    """Updates of the warm-up; a tenth of --steps where that is given alone."""
    checkpoint_every: int | None = None
    """Updates between checkpoints."""
    seed: int = 0
    """Of weights, order and masks."""
    out: Path = Path("physiomae-model")
    """Folder for model, metrics and checkpoint."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where torch runs."""
    precision: Precision = "float32"
    """Of the forward pass."""
    resume: bool = True
    """Go on from the checkpoint in --out; --no-resume refuses a folder that has one."""
    dry_run: bool = False
    """Print the resolved settings and the number of parameters, and stop."""

    def train_config(self) -> TrainConfig:
        """Return the settings of the training."""
        pairs = (("mask_ratio", self.mask_ratio), ("drop_prob", self.drop_prob))
        objective = dataclasses.replace(OBJECTIVES[self.objective], **{k: v for k, v in pairs if v is not None})
        steps = TrainConfig.num_steps if self.steps is None else self.steps
        warmup = max(1, min(TrainConfig.warmup_steps, steps // 10)) if self.warmup_steps is None else self.warmup_steps
        changes = {
            "batch_size": self.batch_size,
            "learning_rate": self.lr,
            "checkpoint_every": self.checkpoint_every,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        return TrainConfig(
            objective, num_steps=steps, warmup_steps=warmup, precision=self.precision, seed=self.seed, **given
        )

    def run(self) -> None:
        """Train and print where the model lies."""
        from physiomae.shards import ShardSource

        source, config = ShardSource(self.data), self.train_config()
        model = model_config(self.preset, source.config)
        from physiomae.train import build, train

        if self.dry_run:
            count = sum(parameter.numel() for parameter in build(model, config).parameters())
            resolved = {"model": model.to_dict(), "train": config.to_dict(), "num_parameters": count}
            print_result({**resolved, "windows": source.num_windows}, True)
            return
        device = resolve_device(self.device)
        if device != "cuda" and self.precision == "float16":
            raise InputError("`precision` float16 needs --device cuda; use bfloat16 or float32.")
        train(model, source, config, self.out, device=device, resume=self.resume)
        print_result({"model": str(self.out), "steps": config.num_steps, "windows": source.num_windows}, self.json)


def model_config(preset: str, data: PhysioMAEConfig) -> PhysioMAEConfig:
    """Return a preset's sizes with the data's modalities and lengths."""
    same = {name: getattr(data, name) for name in ("modalities", "window_seconds", "patch_seconds")}
    return dataclasses.replace(PRESETS[preset], **same)


def resolve_device(name: str) -> str:
    """Return "cuda" for "auto" where there is a GPU, else "cpu"."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class _Model(Output):
    """Options of every command that uses a model."""

    data: Positional[Path] = Path("windows")
    """Folder of `prepare`."""
    model: Path = Path("physiomae-model")
    """Folder of `train`."""
    split: Split = "test"
    """Which subjects are looked at."""


@dataclass(frozen=True)
class Probe(_Model):
    """Fit a linear probe on the training subjects and score it on others, with every subset of modalities.

    For example:

        physiomae probe windows/ --model model --label stage --out probe.json
        physiomae probe windows/ --model model --label age --kind number --json
        physiomae probe windows/ --model model --label stage --budgets 1 2 4 8 --finetune 200
    """

    label: str = "stage"
    """Label of the windows; those without it are left out."""
    kind: Literal["classes", "number"] = "classes"
    """Logistic regression, or ridge."""
    components: int | None = None
    """Width after PCA; all by default."""
    refit: bool = True
    """Also fit a probe for each subset of modalities."""
    budgets: tuple[int, ...] = ()
    """Also score probes fitted on so many training subjects."""
    finetune: int = 0
    """Also train the whole encoder on the label for so many steps."""
    out: Path | None = None
    """File for the probe that was fitted on all modalities, for `stage`."""

    def run(self) -> None:
        """Print one row for each subset of modalities."""
        from physiomae.probing import Labelled, probe_rows

        model, parts = _load(self.model), []
        for split in ("train", self.split):
            parts.append(Labelled.read(self.data, split, self.label))
        found, probe = probe_rows(model, parts[0], parts[1], self)
        if self.out is not None:
            probe.save(self.out)
        shown = [{key: value for key, value in row.items() if key != "by_subject"} for row in found]
        print_result(found if self.json else shown, self.json)


@dataclass(frozen=True)
class Evaluate(_Model):
    """Measure reconstruction: of masked tokens, and of each modality that is hidden whole.

    For example:

        physiomae evaluate windows/ --model model --split valid --json
    """

    def run(self) -> None:
        """Print loss and R²."""
        from physiomae.evaluate import hidden_r2, validation_loss
        from physiomae.shards import ShardSource

        model = _load(self.model)
        batch = ShardSource(self.data, self.split).load()[0]
        found: dict[str, Any] = {"windows": len(batch), "masked_loss": validation_loss(model, batch)}
        if not model.late_fusion and len(batch.signals) > 1:
            found |= {f"hidden_r2_{name}": value for name, value in hidden_r2(model, batch).items()}
        print_result(found, self.json)


@dataclass(frozen=True)
class Analyze(_Model):
    """Measure attention between modalities, its alignment in time, and how distributed units are.

    Random weights of the same shape stand beside the model, and another trained model if there is one: to compare two
    objectives, take them where their `masked_loss` is equal.

    For example:

        physiomae analyze windows/ --model model --out figures
        physiomae analyze windows/ --model with-dropout --against without-dropout --json
    """

    against: Path | None = None
    """Another model for the same windows."""
    limit: int = 512
    """Windows to look at."""
    seed: int = 0
    """Of random weights and swaps."""
    out: Path | None = None
    """Folder for attention.svg and units.svg."""

    def run(self) -> None:
        """Print one row for each model."""
        from physiomae.probing import analyze_models
        from physiomae.shards import ShardSource

        models = {"model": _load(self.model)}
        if self.against is not None:
            models["against"] = _load(self.against)
        batch, _, subjects = ShardSource(self.data, self.split).load()
        chosen = slice(0, self.limit)
        rows, detail = analyze_models(models, batch.rows(chosen), subjects[chosen], self.seed)
        if self.out is not None:
            from physiomae.plots import draw_attention, draw_units

            draw_attention(self.out / "attention.svg", {name: (d["names"], d["mass"]) for name, d in detail.items()})
            first = next(iter(detail.values()))
            draw_units(self.out / "units.svg", {name: d["shares"] for name, d in detail.items()}, first["names"])
        print_result(rows, self.json)


@dataclass(frozen=True)
class _Recording(Output):
    """Options of every command on one recording."""

    recording: Positional[Path] = Path("night.edf")
    """EDF, BDF, WFDB (.hea), BrainVision (.vhdr), HDF5, npz or CSV."""
    model: Path = Path("physiomae-model")
    """Folder of `train`."""
    available: tuple[str, ...] = ()
    """Modalities to look at; all that the recording has by default."""


@dataclass(frozen=True)
class Embed(_Recording):
    """Embed the windows of a recording, from whatever modalities it has.

    For example:

        physiomae embed night.edf --model model --out embeddings.npz
        physiomae embed night.edf --model model --available eeg emg --json
    """

    out: Path = Path("embeddings.npz")
    """File for `seconds` and `embeddings`."""

    def run(self) -> None:
        """Write embeddings and print what was matched."""
        from tenfold_shared.files import atomic_write

        from physiomae.embed import embed_recording
        from physiomae.readers import read_recording

        found = embed_recording(_load(self.model), read_recording(self.recording), self.available or None)
        with atomic_write(self.out) as file:
            np.savez(file, seconds=found.seconds, embeddings=found.embeddings.astype(np.float32))
        summary = {"windows": len(found.seconds), "width": found.embeddings.shape[1], "file": str(self.out)}
        rows = found.windows.channels
        print_result({**summary, "channels": rows, "unused": found.windows.unused} if self.json else rows, self.json)


@dataclass(frozen=True)
class Stage(_Recording):
    """Stage a recording's sleep, from whatever modalities it has, and draw the hypnogram.

    For example:

        physiomae stage night.edf --model model --probe probe.json --out night
    """

    probe: Path = Path("probe.json")
    """File of `probe --label stage --out`."""
    out: Path = Path("stages")
    """Folder for stages.json and hypnogram.svg."""

    def run(self) -> None:
        """Write and print the stages."""
        from tenfold_shared.files import write_json

        from physiomae.embed import stage_recording
        from physiomae.plots import draw_hypnogram
        from physiomae.probe import LinearProbe
        from physiomae.readers import read_recording

        recording, probe = read_recording(self.recording), LinearProbe.load(self.probe)
        found = stage_recording(_load(self.model), probe, recording, self.available or None)
        write_json(self.out / "stages.json", found.rows())
        draw_hypnogram(self.out / "hypnogram.svg", found)
        print_result(found.rows(), self.json)


def _load(folder: Path) -> Any:
    from physiomae.checkpoint import from_pretrained

    return from_pretrained(folder)
