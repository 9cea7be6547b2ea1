"""Commands on models: run, evaluate, robustness, compare."""

from __future__ import annotations

import json as json_module
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional, arg

from ticclip.cli_data import StreamOptions


@dataclass(frozen=True)
class Run:
    """Train a method over a whole stream and evaluate every step's model on every step; run again to go on.

    For example:

        ticclip run icons --out run --method cumulative-exp
        ticclip run icons --out run --method lwf --rates 5e-4 1e-3 2e-3
        ticclip run index --model vit_b_16 --dry-run --mesh data=8,fsdp=4
        ticclip run index --out run --distributed 10.0.0.1:1234,4,0
    """

    index: Positional[Path]
    """Folder of `ticclip build`."""
    out: Path = Path("run")
    """Folder of the run; one that was stopped goes on."""
    options: Annotated[StreamOptions, arg(name="")] = field(default_factory=StreamOptions)
    rates: tuple[float, ...] = ()
    """Learning rates to try on the first two steps' validation items; the best one is used."""
    mesh: str = ""
    """Devices, as data=8,fsdp=4; by default all of them along data."""
    distributed: str = ""
    """COORDINATOR:PORT,PROCESSES,RANK: several processes work together."""
    device: Literal["auto", "cpu", "cuda", "tpu"] = "auto"
    """Where to run."""
    checkpoint_every: int = 500
    """Updates between checkpoints."""
    max_updates: int = 0
    """Stop after so many updates, to go on later; 0 for none."""
    dry_run: bool = False
    """Compile for the mesh on simulated devices, print the plan and bytes per device, train nothing."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> int | None:
        """Train, and print the scores."""
        config, sizes = self.options.config(), parse_mesh(self.mesh)
        self._choose_devices(sizes)
        from ticclip.index import TimeIndex
        from ticclip.parallel import build_mesh
        from ticclip.stream import RunOptions, Stopped, run_stream, tune_rate

        index = TimeIndex(self.index)
        mesh = build_mesh(sizes.get("data"), sizes.get("fsdp", 1))
        if self.dry_run:
            self._print_dry(index, config, mesh)
            return None
        options = RunOptions(self.checkpoint_every, self.max_updates, quiet=self.quiet)
        if self.rates:
            from dataclasses import replace

            rate = tune_rate(index, config, self.rates, self.out / "rates", RunOptions(quiet=self.quiet))
            config = replace(config, train=replace(config.train, learning_rate=rate))
        try:
            result = run_stream(index, config, self.out, mesh=mesh, options=options)
        except Stopped as stop:
            print_result({"stopped": str(stop)}, self.json)
            return None
        if self.json:
            print_result(result, True)
        else:
            print_scores(result)
        return None

    def _choose_devices(self, sizes: dict[str, int]) -> None:
        """Settings that count only before jax is imported, and the group of processes."""
        if self.device != "auto":
            os.environ["JAX_PLATFORMS"] = self.device
        if self.dry_run and sizes:
            count = sizes.get("data", 1) * sizes.get("fsdp", 1)
            os.environ["JAX_PLATFORMS"] = "cpu"
            os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
        if self.distributed:
            join_processes(self.distributed)

    def _print_dry(self, index: Any, config: Any, mesh: Any) -> None:
        import jax

        from ticclip.model import count_parameters
        from ticclip.plan import plan_stream
        from ticclip.train import Trainer, build_params

        rows = plan_stream(config, index.sizes(), index.steps)
        facts = {
            "parameters": count_parameters(jax.eval_shape(lambda: build_params(config.model, 0))),
            "updates": sum(row.updates for row in rows),
            "samples": sum(row.samples for row in rows),
            "macs": sum(row.macs for row in rows),
        }
        memory = Trainer(config, mesh).memory(num_teachers=int(config.method == "lwf"))
        configuration = {"config": config.to_dict()} if self.json else {}
        print_result({**facts, **memory, **configuration}, self.json)


def parse_mesh(text: str) -> dict[str, int]:
    """Read `data=8,fsdp=4`; an empty text is an empty dictionary."""
    sizes = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in ("data", "fsdp") or not value.isdigit() or int(value) < 1:
            raise InputError(f"`mesh` (={text!r}) must be like data=8,fsdp=4.")
        sizes[name] = int(value)
    return sizes


def join_processes(text: str) -> None:
    """Join a group of processes by `coordinator:port,processes,rank`, before any device is used."""
    parts = text.split(",")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise InputError(f"`distributed` (={text!r}) must be like 10.0.0.1:1234,4,0.")
    os.environ["RANK"] = parts[2]  # other ranks are silent
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(parts[0], int(parts[1]), int(parts[2]))


def print_scores(result: dict[str, Any]) -> None:
    """Print the matrix and the three scores as tables."""
    steps = result["steps"]
    rows = [
        {"after": step, **{f"on {name}": value for name, value in zip(steps, row, strict=False)}}
        for step, row in zip(steps, result["retrieval"], strict=True)
    ]
    print_result(rows, False)
    intervals = result["intervals"]
    scores = [
        {"score": name, "value": value, "low": intervals[name][0], "high": intervals[name][1]}
        for name, value in result["transfer"].items()
    ]
    print_result(scores, False)


@dataclass(frozen=True)
class Evaluate:
    """Score one model on the held-out items of every step, or on static sets in clip_benchmark's layout.

    For example:

        ticclip evaluate run/steps/07 --data icons
        ticclip evaluate run/steps/07 --suite published/eval --json
        ticclip evaluate ViT-B-16.safetensors --activation quick_gelu --data index
    """

    model: Positional[Path]
    """Folder of a run's step, or weights of open_clip or Hugging Face."""
    data: Path | None = None
    """Folder of `ticclip build`."""
    suite: Path | None = None
    """Folder of sets: NAME/test/0.tar, NAME/test/nshards.txt."""
    out: Path | None = None
    """Append the rows to this eval_results.jsonl."""
    activation: Literal["gelu", "quick_gelu"] = "gelu"
    """Of weights without a config.json; OpenAI's need quick_gelu."""
    pool_size: int | None = None
    """Of retrieval; by default the smallest step, at most 100."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Print one row for each step or set."""
        if (self.data is None) == (self.suite is None):
            raise InputError("give --data or --suite, one of the two.")
        from tenfold_shared.files import append_jsonl, plain_json

        from ticclip.checkpoint import from_pretrained
        from ticclip.evaluate import encode_with

        model = from_pretrained(self.model, activation=self.activation)
        encoder = encode_with(model)
        rows = self._on_steps(model, encoder) if self.data else self._on_sets(model, encoder)
        if self.out is not None:
            for row in rows:
                append_jsonl(self.out, plain_json(row))
        print_result(rows if self.json else [{"key": row["key"], **row["metrics"]} for row in rows], self.json)

    def _on_steps(self, model: Any, encoder: Any) -> list[dict[str, Any]]:
        from ticclip.data import Examples
        from ticclip.evaluate import Suite, means
        from ticclip.index import TimeIndex

        assert self.data is not None
        suite = Suite(Examples(TimeIndex(self.data), model.config), pool_size=self.pool_size)
        columns = {"retrieval": means(suite.retrieval(encoder))}
        classes = suite.classification(encoder)
        columns |= {} if classes is None else {"classification": means(classes)}
        return [
            {"key": step, "metrics": {name: values[place] for name, values in columns.items()}}
            for place, step in enumerate(suite.steps)
        ]

    def _on_sets(self, model: Any, encoder: Any) -> list[dict[str, Any]]:
        from ticclip.suite import evaluate_sets

        assert self.suite is not None
        return list(evaluate_sets(encoder, model.config, self.suite))


def read_result(folder: Path) -> dict[str, Any]:
    """Read the result of a finished run."""
    path = folder / "result.json"
    if not path.is_file():
        raise InputError(f"no finished run in {folder}; it needs result.json.")
    return json_module.loads(path.read_text())


@dataclass(frozen=True)
class Robustness:
    """Compare models by recall on an old and on a new period: does having seen the new one lift its line?

    For example:

        ticclip robustness runs/exp runs/all --old 1 --new 7
        ticclip robustness --points models.csv --out robustness.svg
    """

    runs: Positional[tuple[Path, ...]] = ()
    """Folders of finished runs: each step's model is a point."""
    points: Path | None = None
    """CSV with the columns model, group, old, new, for any models, instead of runs."""
    old: int = 1
    """Step of the old period, from 1."""
    new: int = 0
    """Step of the new period; 0 for the last."""
    out: Path | None = None
    """Write a figure (.svg)."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Print the fit."""
        from ticclip.robustness import fit_groups, points_of_run, read_points

        if bool(self.runs) == bool(self.points):
            raise InputError("give runs or --points, one of the two.")
        if self.points is not None:
            points = read_points(self.points)
        else:
            points = []
            for folder in self.runs:
                result = read_result(folder)
                new = (self.new or len(result["steps"])) - 1
                if not 0 <= self.old - 1 < new < len(result["steps"]):
                    raise InputError(f"`old` (={self.old}) must be before `new` ({new + 1}), within the run's steps.")
                points += points_of_run(result, folder.name, self.old - 1, new)
        fit = fit_groups(points)
        if self.out is not None:
            from ticclip.plots import draw_points

            draw_points(self.out, points, fit)
        lines = {name: f"{line['slope']:.3f} x + {line['intercept']:.3f}" for name, line in fit["groups"].items()}
        low, high = fit["interval"]
        shown = {**lines, "at": fit["at"], "gap": fit["gap"], "gap, one slope": fit["gap_one_slope"]}
        print_result(fit if self.json else {**shown, "interval": f"[{low:.3f}, {high:.3f}]"}, self.json)


@dataclass(frozen=True)
class Compare:
    """Put finished runs side by side: scores, compute, a heat-map for each, and score over compute.

    For example:

        ticclip compare runs/* --out comparison
        ticclip compare runs/exp runs/oracle --json
    """

    runs: Positional[tuple[Path, ...]]
    """Folders of finished runs."""
    out: Path | None = None
    """Folder for comparison.json and the figures."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Print one row for each run."""
        results = {folder.name: read_result(folder) for folder in self.runs}
        rows = [
            {
                "run": name,
                "method": result["method"],
                **result["transfer"],
                "last_model": sum(result["retrieval"][-1]) / len(result["retrieval"][-1]),
                "samples": result["total_samples"],
                "macs": result["total_macs"],
            }
            for name, result in results.items()
        ]
        if self.out is not None:
            self._write(results, rows)
        print_result(rows, self.json)

    def _write(self, results: dict[str, dict[str, Any]], rows: list[dict[str, Any]]) -> None:
        from tenfold_shared.files import write_json

        from ticclip.plots import draw_compute, draw_matrix

        assert self.out is not None
        for name, result in results.items():
            draw_matrix(self.out / f"{name}.svg", result["retrieval"], result["steps"], name)
        curves = {row["run"]: [(row["macs"], row["last_model"])] for row in rows}
        draw_compute(self.out / "compute.svg", curves, "mean recall@1 of the last model")
        write_json(self.out / "comparison.json", rows)
