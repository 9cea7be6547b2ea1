"""The command `qualityclip`; commands on captions and on models are in `cli_captions` and `cli_train`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging

from qualityclip.cli_captions import Caption, Device, Filter, Mix, Score, resolve_device
from qualityclip.cli_train import Curve, Dense, Evaluate, Train
from qualityclip.config import DENSE_PRESETS, PRESETS, TRAIN_PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Presets:
    """List models, recipes of pretraining and protocols of dense transfer.

    For example:
    qualityclip presets

    qualityclip presets --json
    """

    json: bool = False
    """Print JSON with every number instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            groups: dict[str, Any] = {"models": PRESETS, "training": TRAIN_PRESETS, "dense": DENSE_PRESETS}
            found = {kind: {name: each.to_dict() for name, each in group.items()} for kind, group in groups.items()}
            print_result(found, True)
            return
        rows = [
            {"preset": name, "kind": "model", "what": _tower(config), "size": config.vision.image_size}
            for name, config in PRESETS.items()
        ]
        rows += [
            {
                "preset": name,
                "kind": "training",
                "what": f"{config.num_steps} steps of {config.batch_size}, {config.mix.policy}",
            }
            for name, config in TRAIN_PRESETS.items()
        ]
        rows += [
            {"preset": name, "kind": "dense", "what": f"{config.task}, {config.head}", "size": config.image_size}
            for name, config in DENSE_PRESETS.items()
        ]
        print_result(rows, False)


def _tower(config: Any) -> str:
    vision = config.vision
    vit = f"ViT, width {vision.width}, {vision.num_layers} layers, patch {vision.patch_size}"
    return f"{vision.timm_name or vit}; {config.loss}"


@dataclass(frozen=True)
class Benchmark:
    """Time training against open_clip, mixing, and mIoU against torchmetrics, in one run.

    For example:
    qualityclip benchmark --budget smoke

    qualityclip benchmark --out bench --json
    """

    out: Path = Path("qualityclip-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke, laptop, full."""
    seed: int = 0
    """Seed of weights and pixels."""
    device: Device = "auto"
    """Where training is timed; a GPU in bfloat16, others in float32. mIoU is counted on the CPU."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from qualityclip.benchmark import measure

        device = resolve_device(self.device)
        report_benchmarks(
            lambda out: measure(self.budget, self.seed, device=device, quiet=self.quiet), self.out, json=self.json
        )


@dataclass(frozen=True)
class Reproduce:
    """Run the paper's comparison on composed scenes at the chosen budget and print the claims with their verdicts.

    For example:
    qualityclip reproduce --budget smoke

    qualityclip reproduce --out qualityclip-report --json

    qualityclip reproduce --grid --device cuda --out grid
    """

    out: Path = Path("qualityclip-report")
    """Folder for claims.json, the runs and the figures."""
    budget: Budget = "laptop"
    """smoke (seconds), laptop (under a minute), full (an hour or two of one core); finished runs in --out are kept."""
    grid: bool = False
    """The full plan with larger numbers, for a GPU (hours); --budget has no effect then."""
    judge_only: bool = False
    """Train nothing: judge the finished runs in --out, as of a plan that was cut short."""
    seed: int = 0
    """The first of the seeds."""
    device: Device = "cpu"
    """Where everything runs; the recorded numbers are a CPU's. With --grid say cuda."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from qualityclip.reproduce import run_scale

        name, device = "grid" if self.grid else self.budget, resolve_device(self.device)
        rest = {"device": device, "quiet": self.quiet, "judge_only": self.judge_only}
        report_claims(partial(run_scale, name=name, seed=self.seed, **rest), self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    commands = {
        "score": Score,
        "caption": Caption,
        "mix": Mix,
        "filter": Filter,
        "train": Train,
        "dense": Dense,
        "curve": Curve,
        "evaluate": Evaluate,
        "presets": Presets,
        "benchmark": Benchmark,
        "reproduce": Reproduce,
    }
    run_command(lambda: _dispatch(commands))


def _dispatch(commands: dict[str, Callable[..., Any]]) -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="qualityclip",
        description="CLIP with Quality Captions. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="qualityclip")
    return command.run()
