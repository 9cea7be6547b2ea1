"""The command `physiomae`: prepare, pretrain, probe, look into, embed and stage recordings of many sensors."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging

from physiomae import cli_data, cli_run
from physiomae.cli_data import Output
from physiomae.config import PRESETS

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Presets(Output):
    """List the models: modalities, lengths, sizes.

    For example:

        physiomae presets --json
    """

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        names = ("window_seconds", "patch_seconds", "dim", "num_layers", "num_heads", "stem")
        rows: list[dict[str, Any]] = []
        for preset, config in PRESETS.items():
            shown = {name: getattr(config, name) for name in names}
            rows.append({"preset": preset, "modalities": " ".join(config.names), **shown})
        print_result(rows, False)


@dataclass(frozen=True)
class Benchmark(Output):
    """Time training, embedding and reading beside their nearest peers.

    For example:

        physiomae benchmark --budget smoke
    """

    out: Path = Path("physiomae-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (seconds), laptop (under three minutes), full."""
    seed: int = 0
    """Of signals and weights."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from physiomae.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce(Output):
    """Run the paper's comparisons at the chosen budget and print the claims with their verdicts.

    For example:

        physiomae reproduce --budget smoke
        physiomae reproduce --out physiomae-report --json
    """

    out: Path = Path("physiomae-report")
    """Folder for claims.json, runs and plots; finished runs in it are not made again."""
    budget: Budget = "laptop"
    """smoke (15 s), laptop (a minute), full (half an hour on one core)."""
    seed: int = 0
    """First subject that is left out, first seed of the simulator."""
    finished: bool = False
    """Make no runs; judge those of a full budget that --out holds."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from physiomae.reproduce import judge_finished, reproduce

        work = judge_finished if self.finished else partial(reproduce, budget=self.budget, seed=self.seed)
        report_claims(work, self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    run_command(_dispatch)


def _dispatch() -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "prepare": cli_data.Prepare,
            "simulate": cli_data.Simulate,
            "train": cli_run.Train,
            "probe": cli_run.Probe,
            "analyze": cli_run.Analyze,
            "embed": cli_run.Embed,
            "stage": cli_run.Stage,
            "evaluate": cli_run.Evaluate,
            "benchmark": Benchmark,
            "reproduce": Reproduce,
            "presets": Presets,
        },
        prog="physiomae",
        description="PhysioMAE: masked autoencoding of many sensors. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="physiomae")
    return command.run()
