"""The command `dclm`: run, stats, pool, aggregate, leaderboard, benchmark and so on; the rest in `verbs`, `cli_*`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging
from tyro.conf import Positional

from dclm.cli_lm import Convert, Evaluate, Plan, Scales, TrainModel, find_scale
from dclm.cli_tokens import Manifest, Tokenize
from dclm.config import PRESETS
from dclm.verbs import Classify, Common, Decontaminate, Dedup, Extract, Filter, Inputs, Options

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Run:
    """Run a recipe over WARC, WET, JSON-lines or parquet files; with --scale go on to a trained, evaluated model.

    For example:
    dclm run dclm_baseline --out corpus

    dclm run dclm_baseline --scale tiny --out chain

    dclm run dclm_baseline crawl/*.warc.gz --out corpus --engine processes --keep-removed

    dclm run my_recipe.py s3://bucket/raw --out s3://bucket/clean --work /scratch --engine ray
    """

    recipe: Positional[str]
    """A preset (see `dclm presets`), or a Python file that defines RECIPE."""
    inputs: Inputs = ()
    """Files, folders or patterns; without any, the sample pool of this package."""
    seed: int = 0
    """Of the hash functions of the recipe's stages."""
    scale: str = ""
    """Also tokenize, train a model of this scale (`dclm scales`), evaluate it and write a leaderboard page."""
    tokenizer: str = "gpt2"
    """With --scale: see `dclm tokenize`."""
    tasks: Path | None = None
    """With --scale: folder of task files; by default the two of this package."""
    repeat: bool = False
    """With --scale: let data be gone through more than once."""
    common: Common = Options()

    def run(self) -> None:
        """Run the recipe, or the whole chain."""
        from dclm.recipes import load_recipe, with_seed
        from dclm.sample import sample_pool

        recipe, inputs = with_seed(load_recipe(self.recipe), self.seed), self.inputs or sample_pool()
        if not self.scale:
            self.common.run(inputs, recipe)
            return
        from dclm.chain import Chain, run_chain

        name = Path(self.recipe).stem
        chain = Chain(name, recipe, self.scale, find_scale(self.scale), self.tokenizer, self.tasks, self.repeat)
        found = run_chain(inputs, chain, out=self.common.out, options=self.common.options())
        print_result(found, self.common.json)


@dataclass(frozen=True)
class Stats:
    """Show what each stage of a finished run removed.

    For example:
    dclm stats corpus

    dclm stats corpus --json
    """

    folder: Positional[str]
    """Output folder of a run; statistics.html in it is the page to look at."""
    json: bool = False
    """Print JSON, examples and histograms included."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the statistics."""
        from dclm.recipes import read_statistics, reason_rows

        statistics = read_statistics(self.folder)
        print_result(statistics if self.json else reason_rows(statistics), self.json)


@dataclass(frozen=True)
class Pool:
    """Write WARC files of the HTML pages in some folders, such as unpacked documentation packages.

    For example:
    dclm pool postgresql-doc-15 anarchism --out pool --num-shards 5
    """

    folders: Positional[tuple[Path, ...]]
    """Each is one site."""
    out: Path = Path("pool")
    """Folder for the WARC files."""
    num_shards: int = 5
    """Number of files."""
    pages_per_folder: int = 2000
    """Most pages of one folder."""
    seed: int = 0
    """Of the draw."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Write the files and print their paths."""
        from dclm.sample import build_pool

        paths = build_pool(
            self.folders,
            self.out,
            num_shards=self.num_shards,
            pages_per_folder=self.pages_per_folder,
            seed=self.seed,
        )
        print_result([{"file": str(path), "bytes": path.stat().st_size} for path in paths], self.json)


@dataclass(frozen=True)
class Presets:
    """List the recipes.

    For example:
    dclm presets

    dclm presets --json
    """

    json: bool = False
    """Print JSON with every threshold."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the recipes."""
        import dataclasses

        if self.json:
            named = {
                name: [{"stage": type(stage).__name__, **dataclasses.asdict(stage)} for stage in recipe.stages]
                for name, recipe in PRESETS.items()
            }
            print_result(named, True)
            return
        rows = [{"recipe": name, "stages": len(recipe.stages), "note": recipe.note} for name, recipe in PRESETS.items()]
        print_result(rows, False)


@dataclass(frozen=True)
class Aggregate:
    """Average evaluation records to CORE and EXTENDED, as the authors do.

    For example:
    dclm aggregate evaluation_mymodel.json

    dclm aggregate exp_data/evals/*.json --version v1 --json
    """

    files: Positional[tuple[Path, ...]]
    """Evaluation records: JSON with accuracies under eval_metrics, icl."""
    version: Literal["v1", "v2"] = "v2"
    """Baselines of chance: v2 set some right, v1 gives the paper's numbers."""
    json: bool = False
    """Print JSON, with the missing tasks and the means by category."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print one row per record."""
        from dclm.scores import aggregate, read_record

        scores = [aggregate(read_record(path)["eval_metrics"]["icl"], self.version) for path in self.files]
        rows = [{"file": str(path), **row} for path, row in zip(self.files, scores, strict=True)]
        columns = ("file", "core", "extended", "mmlu")
        print_result(rows if self.json else [{name: row[name] for name in columns} for row in rows], self.json)


@dataclass(frozen=True)
class Leaderboard:
    """Write a page that sorts evaluation records, and print them by CORE.

    For example:
    dclm leaderboard exp_data/evals/*.json --out leaderboard.html
    """

    files: Positional[tuple[Path, ...]]
    """Evaluation records, told apart by their uuid."""
    out: Path = Path("leaderboard.html")
    """Page to write; it loads nothing from elsewhere."""
    version: Literal["v1", "v2"] = "v2"
    """Baselines of chance."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Write the page and print the rows."""
        from tenfold_shared.files import atomic_write

        from dclm.leaderboard import leaderboard_rows, render_leaderboard

        rows = leaderboard_rows(self.files, self.version)
        with atomic_write(self.out, "w") as page:
            page.write(render_leaderboard(rows, self.version))
        columns = ("model", "scale", "core", "extended", "mmlu")
        print_result(rows if self.json else [{name: row[name] for name in columns} for row in rows], self.json)


@dataclass(frozen=True)
class Benchmark:
    """Time this package against datatrove, bare tokenizers and a torch twin, in one run.

    For example:
    dclm benchmark --budget smoke

    dclm benchmark --out bench --json
    """

    out: Path = Path("dclm-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (a minute), laptop (about eight), full."""
    parts: tuple[Literal["data", "model"], ...] = ("data", "model")
    """Filters and deduplication, or tokens and training."""
    seed: int = 0
    """Seed of the order."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from dclm.benchmark import measure

        run = partial(measure, budget=self.budget, seed=self.seed, parts=self.parts)
        report_benchmarks(run, self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce:
    """Run what can be shown of the paper at the chosen budget and print the claims with their verdicts.

    For example:
    dclm reproduce --budget smoke

    dclm reproduce --out dclm-report --json
    """

    out: Path = Path("dclm-report")
    """Folder for claims.json and the plots."""
    budget: Budget = "laptop"
    """smoke (under 30 s), laptop (under 150 s), full (what results/recorded.json holds)."""
    seed: int = 0
    """Seed of hashes and draws."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from dclm.reproduce import reproduce

        report_claims(partial(reproduce, budget=self.budget, seed=self.seed), self.out, json=self.json)


def main() -> None:
    """Run the command line."""
    run_command(_dispatch)


def _dispatch() -> None:
    commands: dict[str, Any] = {
        "run": Run,
        "extract": Extract,
        "filter": Filter,
        "dedup": Dedup,
        "classify": Classify,
        "decontaminate": Decontaminate,
        "stats": Stats,
        "tokenize": Tokenize,
        "manifest": Manifest,
        "train": TrainModel,
        "evaluate": Evaluate,
        "convert": Convert,
        "scales": Scales,
        "plan": Plan,
        "aggregate": Aggregate,
        "leaderboard": Leaderboard,
        "pool": Pool,
        "presets": Presets,
        "benchmark": Benchmark,
        "reproduce": Reproduce,
    }
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="dclm",
        description="DCLM: from raw pages to a trained, evaluated model. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    quiet = command.common.quiet if hasattr(command, "common") else command.quiet
    setup_logging(quiet=quiet, package="dclm")
    command.run()
