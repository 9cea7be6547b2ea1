"""The command `vfm-transfer`: a small model out of a big one, a few labels and a pile of images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging

from vfm_transfer import cli_data, cli_run
from vfm_transfer.cli_data import Output
from vfm_transfer.config import PRESETS

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Presets(Output):
    """List the settings that come with the package.

    For example:

        vfm-transfer presets --json
    """

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        rows: list[dict[str, Any]] = []
        for name, config in PRESETS.items():
            steps = (config.teach.steps, config.transfer.schedule.steps, config.finetune.steps)
            row = {"preset": name, "teacher": config.teacher, "student": config.student}
            rows.append(row | {"size": config.teacher_size, "steps": " ".join(map(str, steps))})
        print_result(rows, False)


@dataclass(frozen=True)
class Benchmark(Output):
    """Time kept against live teacher outputs, our loss against timm's, and our search against faiss.

    For example:

        vfm-transfer benchmark --budget smoke
    """

    out: Path = Path("vfm-transfer-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (seconds), laptop (under three minutes), full."""
    seed: int = 0
    """Seed of images and vectors."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from vfm_transfer.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce(Output):
    """Run the paper's headline experiment at the chosen budget and print the claims with their verdicts.

    For example:

        vfm-transfer reproduce --budget smoke
        vfm-transfer reproduce --out vfm-report --json
    """

    out: Path = Path("vfm-transfer-report")
    """Folder for claims.json, the runs and the plots; finished runs in it are not made again."""
    budget: Budget = "laptop"
    """smoke (under 15 s), laptop (under 60 s), full (half an hour of one core; needs CIFAR-10's test set)."""
    seed: int = 0
    """Label draw of smoke and laptop."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from vfm_transfer.reproduce import reproduce

        report_claims(partial(reproduce, budget=self.budget, seed=self.seed), self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    run_command(_dispatch)


def _dispatch() -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "run": cli_run.Run,
            "teach": cli_run.Teach,
            "distill": cli_run.Distill,
            "finetune": cli_run.Finetune,
            "curate": cli_data.Curate,
            "embed": cli_data.Embed,
            "splits": cli_data.Splits,
            "evaluate": cli_run.Evaluate,
            "compare": cli_run.Compare,
            "presets": Presets,
            "benchmark": Benchmark,
            "reproduce": Reproduce,
        },
        prog="vfm-transfer",
        description="Task-oriented knowledge transfer from vision models. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="vfm_transfer")
    return command.run()
