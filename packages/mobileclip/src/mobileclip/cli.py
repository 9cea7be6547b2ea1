"""The command `mobileclip`; commands on data sets and on training are in `cli_data` and `cli_train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tenfold_shared.commands import InputError, print_result, run_command
from tenfold_shared.logs import setup_logging
from tyro.conf import Positional, arg

from mobileclip.cli_data import Join, Reinforce, Validate
from mobileclip.cli_model import ModelName, ModelOptions
from mobileclip.cli_train import Evaluate, Search, Train
from mobileclip.config import PRESETS, TRAIN_PRESETS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mobileclip.predict import Pipeline

Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Classify:
    """Classify pictures zero-shot: name the classes, no training needed.

    For example:

        mobileclip classify cat.jpg dog.png --labels cat,dog --pretrained mobileclip_s2.pt
        mobileclip classify *.jpg --labels "golden retriever,tabby cat" --template "a blurry photo of a {}." --json
    """

    images: Positional[tuple[Path, ...]]
    """Picture files."""
    labels: str
    """Names of the classes, separated by commas."""
    template: tuple[str, ...] = ("a photo of a {}.",)
    """Prompts with {} where the label goes; several are averaged."""
    top: int = 5
    """Classes shown per picture."""
    options: Annotated[ModelOptions, arg(name="")] = field(default_factory=ModelOptions)
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Print one row per picture and class."""
        from tenfold_shared.progress import progress

        from mobileclip.predict import check_prompts, classify

        _check_files(self.images)
        labels = [label.strip() for label in self.labels.split(",")]
        check_prompts(labels, self.template)
        pipeline = self.options.load()
        results = classify(pipeline, self.images, labels, self.template)
        bar = progress(results, total=len(self.images), description="classify", unit="image", quiet=self.quiet)
        rows = [
            {"image": path, "label": label, "probability": probability}
            for path, ranked in bar
            for label, probability in ranked[: self.top]
        ]
        print_result(rows, self.json)


@dataclass(frozen=True)
class Embed:
    """Write unit-length embeddings of pictures or captions to a .npz file (arrays `names` and `embeddings`).

    For example:

        mobileclip embed photos/*.jpg --out photos.npz --pretrained mobileclip_s2.pt
        mobileclip embed --text "a red car" "a blue car" --out captions.npz --pretrained mobileclip_s2.pt
    """

    images: Positional[tuple[Path, ...]] = ()
    """Picture files."""
    text: tuple[str, ...] = ()
    """Captions, instead of pictures."""
    out: Path = Path("embeddings.npz")
    """File to write."""
    options: Annotated[ModelOptions, arg(name="")] = field(default_factory=ModelOptions)
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Write the file and print its path and shape."""
        import numpy as np
        from tenfold_shared.files import atomic_write

        if bool(self.images) == bool(self.text):
            raise InputError("give picture files or --text captions, one of the two.")
        if self.images:
            _check_files(self.images)
        names = [str(path) for path in self.images] or list(self.text)
        pipeline = self.options.load()
        embeddings = np.concatenate([batch.numpy() for batch in self._batches(pipeline)])
        with atomic_write(self.out) as file:
            np.savez(file, names=np.array(names), embeddings=embeddings)
        print_result({"out": str(self.out), "rows": len(names), "width": embeddings.shape[1]}, self.json)

    def _batches(self, pipeline: Pipeline) -> Iterable:
        from tenfold_shared.progress import progress

        if self.text:
            return [pipeline.embed_texts(self.text)]
        return progress(pipeline.embed_files(self.images), description="embed", unit="batch", quiet=self.quiet)


@dataclass(frozen=True)
class Export:
    """Write the image and the text half as files of their own and check that they compute what the model computes.

    For example:

        mobileclip export --out s2-onnx --pretrained mobileclip_s2.pt
        mobileclip export --out s2-pt2 --format torch-export --pretrained mobileclip_s2.pt
        mobileclip classify cat.jpg --labels cat,dog --backend onnx --pretrained s2-onnx
    """

    out: Path
    """Folder to write: image and text (.onnx or .pt2), config.json."""
    format: Literal["onnx", "torch-export"] = "onnx"
    """ONNX for ONNX Runtime and others, or programs of torch.export."""
    model: ModelName | None = None
    """Name of the model; by default what the folder given as --pretrained says, else mobileclip_s2."""
    pretrained: str | None = None
    """Weights: an official .pt file, a folder, or hf-hub:owner/name. Without it the weights are random."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Export and print the distances of the self-check."""
        from mobileclip.onnx_backend import export_onnx
        from mobileclip.runtime import load_model
        from mobileclip.torch_export import export_torch

        model = load_model(self.model, self.pretrained)
        export, suffix = (export_onnx, "onnx") if self.format == "onnx" else (export_torch, "pt2")
        rows = [
            {"file": str(self.out / f"{half}.{suffix}"), "relative_distance": value}
            for half, value in export(model, self.out).items()
        ]
        print_result(rows, self.json)


@dataclass(frozen=True)
class Presets:
    """List the models with their sizes.

    For example:

        mobileclip presets
        mobileclip presets --json
    """

    training: bool = False
    """List the presets of `mobileclip train` instead."""
    json: bool = False
    """Print JSON with every hyper-parameter instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the presets."""
        if self.training:
            self._print_training()
            return
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        rows = [
            {
                "model": name,
                "image": type(config.image).__name__.removesuffix("Config"),
                "pixels": config.image.image_size,
                "text": config.text.kind + (" causal" if config.text.causal else ""),
                "text_layers": config.text.num_layers,
                "embed_dim": config.embed_dim,
            }
            for name, config in PRESETS.items()
        ]
        print_result(rows, False)

    def _print_training(self) -> None:
        names = ("batch_size", "num_steps", "learning_rate", "warmup_steps", "distill_weight", "precision")
        if self.json:
            print_result({name: config.to_dict() for name, config in TRAIN_PRESETS.items()}, True)
        else:
            rows = [{"preset": key} | {n: getattr(c, n) for n in names} for key, c in TRAIN_PRESETS.items()]
            print_result(rows, False)


@dataclass(frozen=True)
class Benchmark:
    """Time this package against timm, open_clip and ONNX Runtime on the same pixels, in one run.

    For example:

        mobileclip benchmark --budget smoke
        mobileclip benchmark --out bench --json
    """

    out: Path = Path("mobileclip-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (a minute), laptop (about five), full."""
    seed: int = 0
    """Seed of weights and pixels."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from mobileclip.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce:
    """Run the paper's headline experiment at the chosen budget and print the claims with their verdicts.

    For example:

        mobileclip reproduce --budget smoke
        mobileclip reproduce --out mobileclip-report --json
        mobileclip reproduce --parts learning
    """

    out: Path = Path("mobileclip-report")
    """Folder for claims.json and the plots."""
    parts: tuple[Literal["latency", "learning", "reading"], ...] = ("latency", "learning", "reading")
    """What is measured: latency, learning efficiency, the cost of reading reinforced data."""
    budget: Budget = "laptop"
    """smoke (under 30 s), laptop (under 150 s), full (what results/recorded.json holds)."""
    seed: int = 0
    """Seed of weights and order."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from mobileclip.reproduce import measure

        parts = partial(measure, budget=self.budget, seed=self.seed, parts=self.parts)
        report_claims(parts, self.out, json=self.json)


def _check_files(paths: tuple[Path, ...]) -> None:
    """Refuse missing files before a model is loaded."""
    if not paths:
        raise InputError("no pictures given; name at least one file.")
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no picture at {path}; check the path.")


def main() -> None:
    """Run the command line."""
    commands = {
        "classify": Classify,
        "embed": Embed,
        "search": Search,
        "reinforce": Reinforce,
        "validate": Validate,
        "join": Join,
        "train": Train,
        "evaluate": Evaluate,
        "export": Export,
        "presets": Presets,
        "benchmark": Benchmark,
        "reproduce": Reproduce,
    }
    run_command(lambda: _dispatch(commands))


def _dispatch(commands: dict[str, Callable[..., Any]]) -> int | None:
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="mobileclip",
        description="MobileCLIP: fast image-text models. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="mobileclip")
    return command.run()
