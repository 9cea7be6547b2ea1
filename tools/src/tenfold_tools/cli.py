"""Run every paper's experiment, measure every package, check and release the workspace."""

from collections.abc import Callable
from typing import Annotated, NoReturn

import tyro
from tenfold_shared.commands import run_command

from tenfold_tools.affected import AffectedConfig
from tenfold_tools.check import CheckConfig
from tenfold_tools.config import BenchConfig, ReproduceConfig
from tenfold_tools.release import ReleaseConfig

Papers = Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[PAPER ...]")]
Flat = tyro.conf.arg(name="")

DEFAULT_REPRODUCE, DEFAULT_BENCH, DEFAULT_CHECK = ReproduceConfig(), BenchConfig(), CheckConfig()


def reproduce(papers: Papers = (), *, config: Annotated[ReproduceConfig, Flat] = DEFAULT_REPRODUCE) -> int:
    """Reproduce the papers' claims and write the report page.

    Each paper runs in a process of its own: a crash is reported on the page and does not stop the others.
    What is finished is kept, so the same command goes on after an interruption.

    For example:

        tenfold reproduce
        tenfold reproduce mobileclip --budget smoke --out /tmp/report
        tenfold reproduce --budget full --seed 1

    Args:
        papers: Papers to run; all of them when none is named.
        config: Options.
    """
    from tenfold_tools import experiments

    return experiments.run(papers, config)


def bench(papers: Papers = (), *, config: Annotated[BenchConfig, Flat] = DEFAULT_BENCH) -> int:
    """Measure each package against its peer on the same work.

    Run it when nothing else runs. Writes benchmarks.json and prints the table.

    For example:

        tenfold bench
        tenfold bench mobileclip --budget smoke --json

    Args:
        papers: Packages to measure; all of them when none is named.
        config: Options.
    """
    from tenfold_tools import bench

    return bench.run(papers, config)


def check(config: Annotated[CheckConfig, Flat] = DEFAULT_CHECK) -> int:
    """Check the whole repository: what the continuous integration runs."""
    from tenfold_tools import check

    return check.run(config)


def affected(config: Annotated[AffectedConfig, Flat, tyro.conf.PositionalRequiredArgs]) -> int:
    """Print the folders that a change touches, and what depends on them."""
    from tenfold_tools import affected

    return affected.run(config)


def release(config: Annotated[ReleaseConfig, Flat, tyro.conf.PositionalRequiredArgs]) -> int:
    """Plan, try or prepare the release of one distribution."""
    from tenfold_tools import release

    return release.run(config)


def main() -> NoReturn:
    """Run the command `tenfold`."""
    commands: dict[str, Callable[..., int]] = {
        "reproduce": reproduce, "bench": bench, "check": check, "affected": affected, "release": release,
    }  # fmt: skip
    run_command(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="tenfold", description=__doc__, config=(tyro.conf.FlagCreatePairsOff,)
        )
    )
