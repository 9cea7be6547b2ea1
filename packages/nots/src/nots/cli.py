"""The command `nots`: pretrain on series, adapt, embed, evaluate, compare and draw narratives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import tyro
from tenfold_shared.commands import InputError, print_result, run_command
from tenfold_shared.logs import setup_logging

from nots import cli_run
from nots.cli_run import Output
from nots.config import PRESETS

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Presets(Output):
    """List the models: lengths, narratives, sizes.

    For example:

        nots presets --json
    """

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        print_result([{"preset": name, **cli_run.describe(config)} for name, config in PRESETS.items()], False)


@dataclass(frozen=True)
class Benchmark(Output):
    """Time training, embedding and degradation beside their nearest peers.

    For example:

        nots benchmark --budget smoke
    """

    out: Path = Path("nots-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (seconds), laptop (under three minutes), full."""
    seed: int = 0
    """Of series and weights."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from nots.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce(Output):
    """Run the paper's comparisons at the chosen budget and print the claims with their verdicts.

    For example:

        nots reproduce --budget smoke
        nots reproduce --out nots-report --json
    """

    out: Path = Path("nots-report")
    """Folder for claims.json, runs and plots; finished runs in it are not made again."""
    budget: Budget = "laptop"
    """smoke (ten seconds), laptop (under a minute), full (an hour on one core)."""
    seed: int = 0
    """First seed."""
    scale: Literal["cpu", "paper"] = "cpu"
    """Sizes of a full budget; paper needs a GPU and hours."""
    finished: bool = False
    """Make no runs; judge those of a full budget that --out holds."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from nots.reproduce import judge_finished, reproduce, reproduce_paper

        work = judge_finished if self.finished else partial(reproduce, budget=self.budget, seed=self.seed)
        if self.scale == "paper" and not self.finished:
            if self.budget != "full":
                raise InputError(f"`--scale` paper is for --budget full, not {self.budget}.")
            work = partial(reproduce_paper, seed=self.seed)
        report_claims(work, self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    run_command(_dispatch)


def _dispatch() -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "pretrain": cli_run.Pretrain,
            "adapt": cli_run.Adapt,
            "embed": cli_run.Embed,
            "evaluate": cli_run.Evaluate,
            "compare": cli_run.Compare,
            "plot": cli_run.Plot,
            "benchmark": Benchmark,
            "reproduce": Reproduce,
            "presets": Presets,
        },
        prog="nots",
        description="NoTS: pretraining for time series as functions. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="nots")
    return command.run()
