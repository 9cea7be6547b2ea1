"""The commands that pretrain, adapt, embed, evaluate, compare and draw."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional

from nots.config import PRESETS, Mode, NoTSConfig, ObjectiveName, Readout, TrainConfig

Task = Literal["classify", "regress", "detect", "impute", "forecast"]
Labelled = Literal["classify", "regress"]
PresetName = Literal["tiny", "laptop", "nots_127k", "nots_243k", "nots_641k", "nots_2.1m"]
SYNTHETIC = Path("synthetic")


@dataclass(frozen=True)
class Output:
    """Options of every command."""

    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """Say nothing but results, warnings and errors."""


@dataclass(frozen=True)
class Pretrain(Output):
    """Pretrain a model on series without labels.

    For example:

        nots pretrain synthetic --preset laptop --steps 1500 --out model
        nots pretrain series.npz --preset nots_243k --objective mae --device cuda
    """

    data: Positional[Path] = SYNTHETIC
    """.ts, .npz, .npy or .csv; "synthetic" draws fractional Brownian motion and sinusoids."""
    preset: PresetName = "laptop"
    """Sizes of the model."""
    objective: ObjectiveName = "nots"
    """What is learnt."""
    num_series: int = 4000
    """Series to draw, where data is "synthetic"."""
    steps: int = 1000
    """Updates."""
    batch_size: int = 32
    """Series of an update."""
    lr: float = 3e-3
    """Peak learning rate."""
    checkpoint_every: int = 200
    """Updates between checkpoints."""
    seed: int = 0
    """Of weights, series, order and masks."""
    out: Path = Path("nots-model")
    """Folder for model, metrics and checkpoint."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where torch runs."""
    resume: bool = True
    """Go on from the checkpoint in --out; --no-resume refuses a folder that has one."""
    dry_run: bool = False
    """Print the resolved settings, parameters and operations of a step, and stop."""

    def run(self) -> None:
        """Pretrain and print where the model lies."""
        from nots.model import NoTS, count_parameters
        from nots.objectives import step_flops, trunk_config
        from nots.tasks import unlabelled
        from nots.train import pretrain

        warmup = max(1, self.steps // 20)
        train = TrainConfig(
            self.objective,
            self.steps,
            self.batch_size,
            self.lr,
            warmup,
            seed=self.seed,
            checkpoint_every=self.checkpoint_every,
        )
        drawn = (self.num_series, self.seed) if self.data == SYNTHETIC else None
        config, series = unlabelled(self.data, PRESETS[self.preset], drawn)
        config = trunk_config(config, self.objective)
        if self.dry_run:
            described: dict[str, Any] = {"model": config.to_dict(), "train": train.to_dict(), "series": len(series)}
            described |= {"num_parameters": count_parameters(NoTS(config)), "step_flops": step_flops(config, train)}
            print_result(described, True)
            return
        pretrain(config, train, series, self.out, device=resolve_device(self.device), resume=self.resume)
        print_result({"model": str(self.out), "steps": self.steps, "series": len(series)}, self.json)


def resolve_device(name: str) -> str:
    """Return "cuda" for "auto" where there is a GPU, else "cpu"."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Adapt(Output):
    """Adapt a pretrained model to labelled series, with adaptors of under 1 % of its parameters or as a whole.

    For example:

        nots adapt GunPoint_TRAIN.ts --model model --mode frozen --out gunpoint
        nots adapt train.npz --model model --task regress --mode full --steps 400
    """

    data: Positional[Path] = Path("train.ts")
    """Labelled series: .ts, or .npz with `series` and `labels`."""
    model: Path = Path("nots-model")
    """Folder of `pretrain`."""
    task: Labelled = "classify"
    """What the labels are."""
    mode: Mode = "frozen"
    """What is trained: adaptors and head, all, or trunk and head without adaptors."""
    objective: ObjectiveName = "nots"
    """Of the pretraining: it says whether the sequence or the raw signal is read."""
    steps: int = 200
    """Updates."""
    seed: int = 0
    """Of adaptors and order."""
    out: Path = Path("nots-adapted")
    """Folder for the adapted model."""

    def run(self) -> None:
        """Adapt, write and print the report of parameters."""
        from nots.tasks import adapt_to

        report = adapt_to(self.data, self.task, self)
        print_result({"adapted": str(self.out), **report}, self.json)


@dataclass(frozen=True)
class Embed(Output):
    """Embed series with a pretrained model.

    For example:

        nots embed GunPoint_TEST.ts --model model --out embeddings.npz
    """

    data: Positional[Path] = Path("series.npz")
    """.ts, .npz, .npy or .csv."""
    model: Path = Path("nots-model")
    """Folder of `pretrain`."""
    readout: Readout = "sequence"
    """From the whole narrative, or from the raw signal alone."""
    out: Path = Path("embeddings.npz")
    """File for `embeddings` and `labels`."""

    def run(self) -> None:
        """Write embeddings and print their shape."""
        from nots.tasks import embed_file

        shape = embed_file(self.data, self.model, self.readout, self.out)
        print_result({"series": shape[0], "width": shape[1], "file": str(self.out)}, self.json)


@dataclass(frozen=True)
class Evaluate(Output):
    """Score a model: an adapted one on labelled series, or a pretrained one on a benchmark set.

    For example:

        nots evaluate GunPoint_TEST.ts --model gunpoint
        nots evaluate SMD/ --task detect --dataset SMD --model model --json
        nots evaluate ETT/ --task impute --dataset ETTh1 --model model
    """

    data: Positional[Path] = Path("test.ts")
    """Labelled series, or the folder of a benchmark set in its official layout."""
    model: Path = Path("nots-adapted")
    """Folder of `adapt` (classify, regress) or of `pretrain`."""
    task: Task = "classify"
    """What is scored."""
    dataset: str = ""
    """ETTh1, ETTh2, ETTm1, ETTm2 (impute, forecast), SMD, MSL, SWaT, PSM (detect)."""
    point_adjustment: bool = False
    """Also give F1 with point adjustment, which uses the labels to predict (detect)."""
    mask_ratio: float = 0.25
    """Share of each channel that is hidden (impute)."""
    horizon: int = 1
    """Steps ahead (forecast)."""
    steps: int = 200
    """Updates of the adaptation (impute, forecast)."""
    seed: int = 0
    """Of adaptors and hidden places."""

    def run(self) -> None:
        """Print the scores."""
        from nots.tasks import evaluate_file

        print_result(evaluate_file(self.data, self.model, self.task, self), self.json)


@dataclass(frozen=True)
class Compare(Output):
    """Compare objectives on one task: pretrain each on the training series, at equal steps and operations, and adapt.

    For example:

        nots compare GunPoint_TRAIN.ts GunPoint_TEST.ts --objectives nots mae next --seeds 3
    """

    train: Positional[Path] = Path("train.ts")
    """Labelled series to learn from."""
    test: Positional[Path] = Path("test.ts")
    """Labelled series to score on."""
    objectives: tuple[ObjectiveName, ...] = ("nots", "mae", "next")
    """What is compared; random weights always stand beside them."""
    preset: PresetName = "laptop"
    """Sizes of the model."""
    modes: tuple[Mode, ...] = ("frozen", "full")
    """What the adaptation trains."""
    steps: int = 300
    """Updates of each pretraining."""
    adapt_steps: int = 200
    """Updates of each adaptation."""
    seeds: int = 1
    """How many seeds, from 0."""

    def run(self) -> None:
        """Print one row for each objective and mode."""
        from nots.tasks import compare_files

        print_result(compare_files(self), self.json)


@dataclass(frozen=True)
class Plot(Output):
    """Draw narratives of series and what a model tells of each next element.

    For example:

        nots plot series.npz --model model --out narratives.svg
    """

    data: Positional[Path] = SYNTHETIC
    """.ts, .npz, .npy or .csv; "synthetic" draws two of each world."""
    model: Path = Path("nots-model")
    """Folder of `pretrain`."""
    rows: int = 3
    """Series to draw."""
    seed: int = 0
    """Of synthetic series."""
    out: Path = Path("narratives.svg")
    """File for the figure."""

    def run(self) -> None:
        """Draw and print the file's name."""
        from nots.tasks import plot_file

        if self.rows < 1:
            raise InputError(f"`rows` (={self.rows}) must be at least 1.")
        plot_file(self.data, self.model, self.out, (self.rows, self.seed), synthetic=self.data == SYNTHETIC)
        print_result({"figure": str(self.out)}, self.json)


def describe(config: NoTSConfig) -> dict[str, Any]:
    """Return a preset's row."""
    names = ("length", "num_groups", "tokenizer", "patch", "dim", "num_layers", "num_heads")
    return {name: value for name, value in dataclasses.asdict(config).items() if name in names}
