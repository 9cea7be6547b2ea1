"""Commands that train and judge: train, dense, curve, evaluate."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional, arg

from qualityclip.cli_captions import Device, resolve_device
from qualityclip.config import DENSE_PRESETS, PRESETS, TRAIN_PRESETS, DenseConfig, Policy, TrainConfig

TrainPreset = Literal["12m_b16", "12m_mci2", "12m_alt_text", "1b_b16", "1b_mci2", "tiny"]
DensePreset = Literal[
    "ade20k_linear", "ade20k_fpn", "ade20k_upernet", "nyuv2_linear", "nyuv2_dpt", "coco_fcos", "coco_mask_rcnn", "tiny",
]  # fmt: skip


@dataclass(frozen=True)
class Overrides:
    """What differs from the preset; what is not given stays."""

    model: str | None = None
    """Name of a model; `qualityclip presets` lists them."""
    batch_size: int | None = None
    """Pairs in a step over all processes."""
    num_steps: int | None = None
    """Steps of the optimizer."""
    learning_rate: float | None = None
    """Largest learning rate."""
    warmup_steps: int | None = None
    """Steps of linear increase."""
    smallest_crop: float | None = None
    """Smallest share of the picture that a random crop keeps; 1 takes the whole."""
    precision: Literal["fp32", "bf16"] | None = None
    """Number format of the forward pass."""
    policy: Policy | None = None
    """How one caption is chosen of several, anew at every step."""
    real_share: float | None = None
    """Chance of a real caption under the policy random."""
    seed: int | None = None
    """Of weights, order, crops and captions."""

    def apply(self, preset: TrainConfig) -> TrainConfig:
        """Return the preset with what was given."""
        from tenfold_shared.commands import unknown_name

        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        mixing = {name: given.pop(name) for name in ("policy", "real_share") if name in given}
        if "seed" in given:
            mixing["seed"] = given["seed"]
        if (name := given.get("model")) is not None:
            if name not in PRESETS:
                raise unknown_name("model", name, list(PRESETS))
            given["model"] = PRESETS[name]
        return dataclasses.replace(preset, mix=dataclasses.replace(preset.mix, **mixing), **given)


@dataclass(frozen=True)
class Train:
    """Pretrain CLIP or SigLIP on pictures with one or several captions.

    For example:
    qualityclip train scenes:nouns --preset tiny --out run

    qualityclip train shards/ --preset tiny --policy random --real-share 0.3 --out run --resume

    torchrun --nproc-per-node 8 -m qualityclip train shards/ --preset 12m_b16 --workers 8 --out run
    """

    data: Positional[str]
    """Pictures with captions: tars, parquet, COCO's JSON, JSON lines, a CSV, a folder of them, or scenes:TIER:COUNT."""
    out: Path
    """Folder for model/, metrics.jsonl, config.json, checkpoint.pt."""
    preset: TrainPreset = "tiny"
    """Model and hyper-parameters; `qualityclip presets` lists them."""
    overrides: Annotated[Overrides, arg(name="")] = field(default_factory=Overrides)
    workers: int = 0
    """Processes that read ahead."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    device: Device = "auto"
    """Where to train; auto takes a GPU when there is one."""
    resume: bool = False
    """Go on from the folder's checkpoint."""
    dry_run: bool = False
    """Print the resolved configuration and parameters, and stop."""
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
        from qualityclip.sources import open_samples
        from qualityclip.train import RunOptions, train

        samples = list(open_samples(self.data))
        options = RunOptions(
            resolve_device(self.device), self.workers, checkpoint_every=self.checkpoint_every, quiet=self.quiet
        )
        metrics = train(config, samples, self.out, resume=self.resume, options=options)
        if os.environ.get("RANK", "0") != "0":  # the first process speaks for all
            return
        print_result({"model": str(self.out / "model"), "steps": config.num_steps, **metrics}, self.json)


def _describe(config: TrainConfig) -> dict[str, Any]:
    import torch

    from qualityclip.model import CLIP

    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in CLIP(config.model).parameters())
    return {**config.to_dict(), "parameters": count, "samples_seen": config.batch_size * config.num_steps}


@dataclass(frozen=True)
class DenseOverrides:
    """What differs from the preset; what is not given stays."""

    head: Literal["linear", "fpn", "upernet", "dpt", "fcos", "mask_rcnn"] | None = None
    """linear, fpn, upernet (segmentation); linear, dpt (depth); fcos, mask_rcnn (detection)."""
    task: Literal["segmentation", "depth", "detection"] | None = None
    """What is predicted."""
    num_classes: int | None = None
    """Labels, without background in detection."""
    image_size: int | None = None
    """Side of the pictures, in pixels."""
    frozen: bool | None = None
    """Train the head alone."""
    batch_size: int | None = None
    """Pictures in a step."""
    num_steps: int | None = None
    """Steps of the optimizer."""
    learning_rate: float | None = None
    """Of the head and the backbone's last layer."""
    layer_decay: float | None = None
    """Factor of the rate from each layer to the one before it."""
    drop_path: float | None = None
    """Largest chance that a block is skipped."""
    weight_decay: float | None = None
    """Of weights with two or more dimensions."""
    warmup_steps: int | None = None
    """Steps of linear increase."""
    max_depth: float | None = None
    """Largest depth that counts, in the unit of the data (metres in NYUv2; scenes end at 1)."""
    width: int | None = None
    """Channels of the head."""
    seed: int | None = None
    """Of the head's weights and the order."""

    def apply(self, preset: DenseConfig) -> DenseConfig:
        """Return the preset with what was given."""
        given = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return dataclasses.replace(preset, **given)


@dataclass(frozen=True)
class Dense:
    """Transfer a pretrained image tower to segmentation, depth or detection, and judge it on the test split.

    For example:
    qualityclip dense run/model --data scenes --preset tiny --out dense

    qualityclip dense run/model --data ADEChallengeData2016 --preset ade20k_upernet --out dense

    qualityclip dense timm:resnet18 --data nyu --preset nyuv2_linear --out dense
    """

    model: Positional[str]
    """Folder or file of a CLIP (ours, open_clip's, Hugging Face's), or timm:NAME."""
    data: str
    """ADE20K's, NYUv2's or COCO's layout, or the word scenes."""
    out: Path
    """Folder for result.json, and for the model, which `qualityclip evaluate` reads."""
    preset: DensePreset = "tiny"
    """Task, head and hyper-parameters."""
    overrides: Annotated[DenseOverrides, arg(name="")] = field(default_factory=DenseOverrides)
    device: Device = "auto"
    """Where."""
    dry_run: bool = False
    """Print the resolved configuration, and stop."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Train, judge, write and print."""
        config = self.overrides.apply(DENSE_PRESETS[self.preset])
        if self.dry_run:
            print_result(config.to_dict(), self.json)
            return
        if (self.out / "result.json").exists():
            raise InputError(f"{self.out} already holds a result; choose another --out.")
        from tenfold_shared.files import write_json

        from qualityclip.dense import evaluate_dense, fit
        from qualityclip.dense_data import open_dense
        from qualityclip.dense_runs import open_backbone, save_dense

        device = resolve_device(self.device)
        backbone, description = open_backbone(self.model, config)
        train, test = (open_dense(self.data, config, description.vision, split) for split in ("train", "test"))
        model = fit(backbone, train, config, device=device, quiet=self.quiet)
        result = evaluate_dense(model, test, device=device, quiet=self.quiet)
        save_dense(model, description, self.out)
        write_json(self.out / "result.json", {**result, "model": self.model, "config": config.to_dict()})
        print_result(result, self.json)


@dataclass(frozen=True)
class Evaluate:
    """Judge a model: retrieval of a CLIP on captioned pictures, or a dense run's model on a test split.

    For example:
    qualityclip evaluate run/model --data scenes:nouns:100

    qualityclip evaluate dense --data ADEChallengeData2016 --json
    """

    model: Positional[Path]
    """Folder or file of a CLIP, or folder of a `qualityclip dense` run."""
    data: str
    """Captioned pictures for a CLIP, labelled ones for a dense run."""
    policy: Policy = "synthetic"
    """Which of several captions is to be found."""
    device: Device = "auto"
    """Where."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Print metric by metric."""
        from qualityclip.dense_runs import evaluate_retrieval, is_dense_run, load_dense

        device = resolve_device(self.device)
        if is_dense_run(self.model):
            from qualityclip.dense import evaluate_dense
            from qualityclip.dense_data import open_dense

            model, description = load_dense(self.model)
            test = open_dense(self.data, model.config, description.vision, "test")
            print_result(evaluate_dense(model.to(device), test, device=device, quiet=self.quiet), self.json)
            return
        from qualityclip.checkpoint import from_pretrained
        from qualityclip.sources import ClipEncoder, open_samples

        encoder = ClipEncoder(from_pretrained(self.model), device)
        print_result(evaluate_retrieval(encoder, list(open_samples(self.data)), self.policy), self.json)


@dataclass(frozen=True)
class Curve:
    """Caption quality x pretraining pairs x labelled pictures, and how much data good captions are worth.

    Give --rows of your own runs, or two arms that are trained and judged here; a run that was stopped goes on.

    For example:
    qualityclip curve --rows rows.jsonl --out curve

    qualityclip curve --ours scenes:nouns:200 --control scenes:noisy:200 --pairs 50 200 --labels 20 100 --out curve
    """

    out: Path
    """Folder for rows.jsonl, ratios.json, the curves and the models."""
    rows: Path | None = None
    """JSON lines with arm (ours or control), seed, pairs, labels and a score, instead of training."""
    ours: str = ""
    """Pictures with good captions."""
    control: str = ""
    """Pictures with the others."""
    pairs: tuple[int, ...] = (1000, 3000, 10_000)
    """Numbers of pretraining pairs."""
    labels: tuple[int, ...] = (20, 60, 200)
    """Numbers of labelled pictures."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Paired over both arms."""
    preset: TrainPreset = "tiny"
    """Of pretraining."""
    overrides: Annotated[Overrides, arg(name="")] = field(default_factory=Overrides)
    dense_data: str = "scenes"
    """Labelled pictures."""
    dense_preset: DensePreset = "tiny"
    """Of the dense task."""
    dense_steps: int | None = None
    """Steps of the dense task, instead of the preset's."""
    device: Device = "auto"
    """Where."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Make the rows that are missing, fit, draw and print the ratios."""
        from tenfold_shared.files import read_jsonl, write_json

        from qualityclip.grid import SCORES, fit_ratios

        dense = DENSE_PRESETS[self.dense_preset]
        if self.dense_steps is not None:
            dense = dataclasses.replace(dense, num_steps=self.dense_steps)
        if self.rows is not None:
            if not self.rows.is_file():
                raise FileNotFoundError(f"no rows at {self.rows}; check the path.")
            rows = read_jsonl(self.rows)
        else:
            rows = self._make_rows(dense)
        score = SCORES[dense.task]
        if missing := {"arm", "seed", "pairs", "labels", score} - set.intersection(
            *(set(row) for row in rows), set(rows[0])
        ):
            raise InputError(f"{self.rows}: a row lacks {', '.join(sorted(missing))}.")
        ratios = fit_ratios(rows, ("ours", "control"), score, self.out)
        write_json(self.out / "ratios.json", ratios)
        print_result(ratios, self.json)

    def _make_rows(self, dense: DenseConfig) -> list[dict[str, Any]]:
        from qualityclip.grid import Grid, run_grid
        from qualityclip.sources import open_samples

        if not (self.ours and self.control):
            raise InputError("give --rows, or both --ours and --control.")
        arms = {"ours": list(open_samples(self.ours)), "control": list(open_samples(self.control))}
        if (fewest := min(map(len, arms.values()))) < max(self.pairs):
            raise InputError(f"`pairs` go up to {max(self.pairs)}, but an arm has only {fewest} samples.")
        grid = Grid(self.pairs, self.labels, self.seeds, self.dense_data)
        config = self.overrides.apply(TRAIN_PRESETS[self.preset])
        return run_grid(self.out, arms, grid, config, dense, device=resolve_device(self.device))
