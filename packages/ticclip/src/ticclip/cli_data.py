"""Commands on data: build, split, stats, plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tenfold_shared.commands import InputError, print_result, unknown_name
from tyro.conf import Positional, arg

from ticclip.config import PRESETS, Boundary, Method, Precision, StreamConfig, TrainConfig


@dataclass(frozen=True)
class StreamOptions:
    """What is trained, and how."""

    method: Method = "cumulative-all"
    """Where a step starts and what it sees; see the README's table."""
    model: str = "icons"
    """Name of the model; `ticclip presets` lists them."""
    samples_per_step: int = 8192
    """Pairs seen at one step: the budget C."""
    batch_size: int = 128
    """Pairs per update over all devices."""
    learning_rate: float = 1e-3
    """Its maximum."""
    warmup_steps: int = 20
    """Updates of the warm-up, at most a fifth of a step."""
    boundary: Boundary = "rewarm"
    """What the learning rate does where a step begins."""
    replay_budget: int | None = None
    """Items of earlier steps kept; by default as many as the new step has."""
    compute: float = 1.0
    """Factor of C."""
    accumulation: int = 1
    """Parts a batch is cut into; the loss sees all of it."""
    keep_optimizer: bool = False
    """Carry Adam's moments into the next step."""
    weight_decay: float = 0.2
    """Of matrices."""
    max_shift: int = 0
    """Pixels that pictures are moved by at random."""
    precision: Precision = "float32"
    """Of the towers."""
    seed: int = 0
    """Of weights and order."""

    def config(self) -> StreamConfig:
        """Return the configuration, checked."""
        if self.model not in PRESETS:
            raise unknown_name("model", self.model, list(PRESETS))
        train = TrainConfig(
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            boundary=self.boundary,
            keep_optimizer=self.keep_optimizer,
            accumulation=self.accumulation,
            weight_decay=self.weight_decay,
            max_shift=self.max_shift,
            precision=self.precision,
        )
        return StreamConfig(
            PRESETS[self.model],
            train,
            method=self.method,
            samples_per_step=self.samples_per_step,
            replay_budget=self.replay_budget,
            compute=self.compute,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Build:
    """Make the index of a stream: cut timestamped pictures and captions into steps, hold items out of each.

    For example:

        ticclip build --demo material --out icons
        ticclip build shards/ --out index --by month --held-out 0.1
        ticclip build shards/ --out index --uids tic_lists/ --evaluation retrieval.pkl
    """

    sources: Positional[tuple[Path, ...]] = ()
    """Tars (webdataset), parquet files, CSVs beside their pictures, or folders of them."""
    out: Path = Path("index")
    """Folder to write."""
    demo: Literal["material", "openmoji"] | None = None
    """A stream that comes with the package, instead of sources."""
    by: str = "year"
    """Steps: year, month, day, major (of a version), value, or dates that part them, separated by commas."""
    held_out: float = 0.1
    """Share of the items for testing, near-duplicates on one side."""
    validation: float = 0.05
    """Share of the items for choosing rates and weights."""
    time_column: str | None = None
    """Field with the timestamp; by default the first of the usual names."""
    uids: Path | None = None
    """Folder of published STEP.npy lists, which say the steps instead of timestamps."""
    evaluation: Path | None = None
    """Published evaluation pickle: its items are held out."""
    seed: int = 0
    """Of the split."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Write the index and print its steps."""
        from ticclip.builder import BuildConfig, build_index
        from ticclip.icons import build_stream
        from ticclip.index import TimeIndex

        if bool(self.sources) == bool(self.demo):
            raise InputError("give sources or --demo, one of the two.")
        if self.demo is not None:
            index = TimeIndex(build_stream(self.demo, self.out))
        else:
            config = BuildConfig(
                self.by, self.held_out, self.validation, self.time_column, self.uids, self.evaluation, self.seed
            )
            index = build_index(self.sources, self.out, config)
        _print_steps(index, self.json)


@dataclass(frozen=True)
class Stats:
    """Say what an index holds: items by step and split, and what was left out and why.

    For example:

        ticclip stats icons
        ticclip stats icons --json
    """

    index: Positional[Path]
    """Folder of `ticclip build`."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Print the steps."""
        from ticclip.index import TimeIndex

        _print_steps(TimeIndex(self.index), self.json)


def _print_steps(index: object, json: bool) -> None:
    from ticclip.index import SPLITS, TimeIndex

    assert isinstance(index, TimeIndex)
    sizes = {split: index.sizes(split) for split in SPLITS}
    rows: list[dict[str, object]] = [
        {"step": step, **{split: sizes[split][place] for split in SPLITS}} for place, step in enumerate(index.steps)
    ]
    if json:
        print_result({"steps": rows, "dropped": index.meta["dropped"]}, True)
        return
    total: dict[str, object] = {"step": "all", **{split: sum(sizes[split]) for split in SPLITS}}
    print_result([*rows, total], False)
    if index.meta["dropped"]:
        print_result({f"left out: {reason}": count for reason, count in index.meta["dropped"].items()}, False)


@dataclass(frozen=True)
class Split:
    """Write an index in the published layouts: uid lists, evaluation sets of clip_benchmark, training shards.

    For example:

        ticclip split icons --out published
        ticclip split icons --out published --shards
    """

    index: Positional[Path]
    """Folder of `ticclip build`."""
    out: Path = Path("split")
    """Folder to write."""
    name: str = "stream"
    """First part of the evaluation tasks' names."""
    shards: bool = False
    """Write the training pictures too, as webdataset shards by step."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Write and print counts."""
        from ticclip.index import TimeIndex
        from ticclip.layout import write_split

        index = TimeIndex(self.index)
        print_result(write_split(index, self.out, name=self.name, shards=self.shards), self.json)


@dataclass(frozen=True)
class Plan:
    """Print what every step of a run would read, replay and cost; nothing runs.

    For example:

        ticclip plan icons --method cumulative-exp
        ticclip plan --sizes 1000,1000,1000 --method oracle --model vit_b_16 --samples-per-step 100000
    """

    index: Positional[Path | None] = None
    """Folder of `ticclip build`."""
    sizes: str = ""
    """Training items of each step, separated by commas, instead of an index."""
    options: Annotated[StreamOptions, arg(name="")] = field(default_factory=StreamOptions)
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Print one row for each step, and the total."""
        from ticclip.plan import plan_stream

        sizes, names = self._steps()
        rows = plan_stream(self.options.config(), sizes, names)
        if self.json:
            print_result([row.to_dict() for row in rows], True)
            return
        table: list[dict[str, object]] = [
            {
                "step": row.name,
                "new": row.new,
                "replay": " ".join(f"{source}:{kept}" for source, kept in row.replay.items()) or "-",
                "pool": row.pool,
                "updates": row.updates,
                "samples": row.samples,
                "repeats": row.repeats,
                "compute": row.compute,
                "macs": row.macs,
            }
            for row in rows
        ]
        total = {name: sum(getattr(row, name) for row in rows) for name in ("new", "updates", "samples", "macs")}
        total["compute"] = sum(row.compute for row in rows)
        print_result([*table, {"step": "all", **{name: total.get(name, "") for name in list(table[0])[1:]}}], False)

    def _steps(self) -> tuple[list[int], tuple[str, ...] | None]:
        if (self.index is None) == (not self.sizes):
            raise InputError("give an index or --sizes, one of the two.")
        if self.index is None:
            parts = self.sizes.split(",")
            if not all(part.strip().isdigit() for part in parts):
                raise InputError(f"`sizes` (={self.sizes!r}) must be whole numbers separated by commas.")
            return [int(part) for part in parts], None
        from ticclip.index import TimeIndex

        index = TimeIndex(self.index)
        return index.sizes(), index.steps
