"""The command `muscle`: what an update breaks, and updates that break less."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging

from muscle import cli_train
from muscle.cli_compare import Compare, Output
from muscle.config import PRESETS

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Presets(Output):
    """List the settings of training.

    For example:

        muscle presets --json
    """

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        names = ("epochs", "lr", "batch_size", "accumulation", "warmup_steps", "max_length")
        rows: list[dict[str, Any]] = []
        for preset, config in PRESETS.items():
            shown = {name: getattr(config, name) for name in names}
            rows.append({"preset": preset, **shown, "rank": config.lora.rank, "alpha": config.lora.alpha})
        print_result(rows, False)


@dataclass(frozen=True)
class Benchmark(Output):
    """Time comparing a million answers, and a compatibility step beside a plain one.

    For example:

        muscle benchmark --budget smoke
    """

    out: Path = Path("muscle-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (seconds), laptop (under three minutes), full."""
    seed: int = 0
    """Seed of the answers."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from muscle.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce(Output):
    """Run the paper's headline experiment at the chosen budget and print the claims with their verdicts.

    For example:

        muscle reproduce --budget smoke
        muscle reproduce --out muscle-report --json
    """

    out: Path = Path("muscle-report")
    """Folder for claims.json and the plots; finished runs in it are not made again."""
    budget: Budget = "laptop"
    """smoke (under 30 s), laptop (under 150 s), full (two cores, an hour; needs the text, see muscle.corpus)."""
    seed: int = 0
    """Seed of adapters and order."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from muscle.reproduce import reproduce

        report_claims(partial(reproduce, budget=self.budget, seed=self.seed), self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    run_command(_dispatch)


def _dispatch() -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "compare": Compare,
            "adapt": cli_train.Adapt,
            "train": cli_train.Train,
            "run": cli_train.Run,
            "evaluate": cli_train.Evaluate,
            "presets": Presets,
            "benchmark": Benchmark,
            "reproduce": Reproduce,
        },
        prog="muscle",
        description="MUSCLE: negative flips of model updates. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="muscle")
    return command.run()
