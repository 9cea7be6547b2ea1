"""The command `qualityclip`; commands on captions and on models are in `cli_captions` and `cli_train`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging

from qualityclip.cli_captions import Caption, Filter, Mix, Score
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
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from qualityclip.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce:
    """Run the paper's comparison on composed scenes at the chosen budget and print the claims with their verdicts.

    For example:
    qualityclip reproduce --budget smoke

    qualityclip reproduce --out qualityclip-report --json

    qualityclip reproduce --grid --out grid
    """

    out: Path = Path("qualityclip-report")
    """Folder for claims.json, the runs and the figures."""
    budget: Budget = "laptop"
    """smoke (seconds), laptop (under a minute), full (half an hour)."""
    grid: bool = False
    """The full plan with larger numbers, for a GPU; `budget` has no effect then."""
    seed: int = 0
    """The first of the seeds."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from qualityclip.reproduce import reproduce, run_scale

        if self.grid:
            report_claims(lambda out: run_scale(out, "grid", "full", self.seed), self.out, json=self.json)
            return
        report_claims(partial(reproduce, budget=self.budget, seed=self.seed), self.out, json=self.json)


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
