"""The command `ticclip`; commands on data and on models are in `cli_data` and `cli_run`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging

from ticclip.cli_data import Build, Plan, Split, Stats
from ticclip.cli_run import Compare, Evaluate, Robustness, Run
from ticclip.compute import macs
from ticclip.config import PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable


Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Presets:
    """List the models with their sizes and cost.

    For example:

        ticclip presets
        ticclip presets --json
    """

    json: bool = False
    """Print JSON with every number instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        rows = [
            {
                "model": name,
                "pixels": config.vision.image_size,
                "patch": config.vision.patch_size,
                "dim": config.vision.dim,
                "layers": config.vision.num_layers,
                "text_layers": config.text.num_layers,
                "embed_dim": config.embed_dim,
                "loss": "softmax" if config.init_bias is None else "sigmoid",
                "macs": float(macs(config)),
            }
            for name, config in PRESETS.items()
        ]
        print_result(rows, False)


@dataclass(frozen=True)
class Benchmark:
    """Time training against open_clip's torch step, the reader, resuming and sampling, in one run.

    For example:

        ticclip benchmark --budget smoke
        ticclip benchmark --out bench --json
    """

    out: Path = Path("ticclip-benchmark")
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

        from ticclip.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce:
    """Run the paper's comparison on real icons at the chosen budget and print the claims with their verdicts.

    For example:

        ticclip reproduce --budget smoke
        ticclip reproduce --out ticclip-report --json
    """

    out: Path = Path("ticclip-report")
    """Folder for claims.json and the plots."""
    budget: Budget = "laptop"
    """smoke (under 30 s), laptop (under 150 s), full (hours)."""
    seed: int = 0
    """Seed of weights and order."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from ticclip.reproduce import reproduce

        report_claims(partial(reproduce, budget=self.budget, seed=self.seed), self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    commands = {
        "build": Build,
        "split": Split,
        "stats": Stats,
        "plan": Plan,
        "run": Run,
        "evaluate": Evaluate,
        "robustness": Robustness,
        "compare": Compare,
        "presets": Presets,
        "benchmark": Benchmark,
        "reproduce": Reproduce,
    }
    run_command(lambda: _dispatch(commands))


def _dispatch(commands: dict[str, Callable[..., Any]]) -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="ticclip",
        description="TiC-CLIP: time-continual training of CLIP. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="ticclip")
    return command.run()
