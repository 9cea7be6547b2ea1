"""The command `dataset-decomposition`: from a corpus to buckets, from buckets to a trained model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import tyro
from tenfold_shared.commands import InputError, print_result, run_command
from tenfold_shared.logs import setup_logging
from tyro.conf import Positional

from dataset_decomposition import cli_data
from dataset_decomposition.config import PRESETS, Curriculum, TrainConfig

PresetName = Literal["tiny", "160m", "410m", "1b", "3b", "7b"]
Device = Literal["auto", "cpu", "cuda", "mps"]
Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class Train(cli_data.Output):
    """Train the reference decoder on a store; run again after a kill, it goes on from its checkpoint.

    For example:

        dataset-decomposition train store --preset tiny --out run
        torchrun --nproc-per-node 8 -m dataset_decomposition train store --preset 1b --parallel fsdp --device cuda
    """

    store: Positional[Path] = Path("store")
    """Folder of a store with buckets."""
    out: Path = Path("run")
    """Folder for weights, checkpoints and metrics.jsonl."""
    preset: PresetName = "tiny"
    """Model and recipe; all but tiny are the authors'."""
    vocab_size: int | None = None
    """Rows of the embedding; by default the preset's."""
    rope_base: float | None = None
    """Base of the rotary positions; by default the preset's (the authors' 100,000)."""
    tokens_per_step: int | None = None
    """Tokens of a step over all processes."""
    micro_batch_tokens: int = 0
    """Tokens per forward pass and process; 0 takes the step whole."""
    curriculum: Curriculum | None = None
    """Which lengths come when."""
    cycles: int | None = None
    """How often the curriculum runs."""
    epochs: int | None = None
    """How often all data are seen."""
    lr: float | None = None
    """Peak learning rate."""
    seed: int | None = None
    """Seed of weights and order."""
    max_steps: int = 0
    """Stop early, with a checkpoint to go on from; 0 runs to the end."""
    device: Device = "auto"
    """Where torch runs; auto takes a GPU when there is one."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """How the processes of torchrun share the work."""
    resume: bool = True
    """Go on from a checkpoint in --out; --no-resume refuses a folder that has one."""
    dry_run: bool = False
    """Print the resolved configuration, parameters and steps, and stop."""

    def config(self) -> TrainConfig:
        """Return the preset with the given changes."""
        names = ("tokens_per_step", "curriculum", "cycles", "epochs", "lr", "seed")
        changes = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        preset = PRESETS[self.preset]
        shape = {name: getattr(self, name) for name in ("vocab_size", "rope_base") if getattr(self, name) is not None}
        model = dataclasses.replace(preset.model, **shape)
        return dataclasses.replace(preset, model=model, micro_batch_tokens=self.micro_batch_tokens, **changes)

    def run(self) -> None:
        """Train and print steps, tokens and loss."""
        from dataset_decomposition.store import TokenStore

        store, config = TokenStore(self.store), self.config()
        if self.dry_run:
            steps = sum(rows * n // config.tokens_per_step for n, rows in store.num_rows.items()) * config.epochs
            print_result({**config.to_dict(), "num_params": config.model.num_params, "steps": steps}, self.json)
            return
        if not self.resume and (self.out / "state.pt").exists():
            raise InputError(f"{self.out} holds a run already; leave out --no-resume, or choose another --out.")
        from dataset_decomposition.train import train

        options: dict[str, Any] = {"parallel": self.parallel, "max_steps": self.max_steps}
        print_result(train(store, config, self.out, device=_device(self.device), **options), self.json)


@dataclass(frozen=True)
class Evaluate(cli_data.Output):
    """Measure bits per byte of a trained model on whole held-out documents, by position.

    For example:

        dataset-decomposition evaluate run/model --inputs held-out.jsonl --tokenizer tokenizer.json
    """

    model: Positional[Path] = Path("run/model")
    """Folder with config.json and model.safetensors."""
    inputs: tuple[Path, ...] = ()
    """Held-out documents, in any format that `tokenize` reads."""
    tokenizer: str = "bytes"
    """The tokenizer of the training data."""
    end_token: str | None = None
    """Name of the end-of-text token, where the tokenizer does not say."""
    key: str = "text"
    """Field or column with the text."""
    max_length: int = 8192
    """Tokens of a document that are looked at."""
    device: Device = "auto"
    """Where torch runs."""

    def run(self) -> None:
        """Print the figures."""
        from dataset_decomposition.checkpoint import from_pretrained
        from dataset_decomposition.evaluate import evaluate
        from dataset_decomposition.readers import find_files, read_documents
        from dataset_decomposition.tokenizers import TokenizerSpec

        if not self.inputs:
            raise InputError("no inputs given; name held-out documents with --inputs.")
        tokenizer = TokenizerSpec(self.tokenizer, self.end_token).load()
        texts = [text for path in find_files(self.inputs) for text in read_documents(path, self.key)]
        texts = [text for text in texts if isinstance(text, str) and text]
        model = from_pretrained(self.model).to(_device(self.device))
        if tokenizer.vocab_size > model.config.vocab_size:
            raise InputError(
                f"{self.tokenizer} has {tokenizer.vocab_size} tokens, the model {model.config.vocab_size}."
            )
        num_bytes = [len(text.encode()) for text in texts]
        print_result(evaluate(model, tokenizer.encode(texts), num_bytes, max_length=self.max_length), self.json)


@dataclass(frozen=True)
class Presets(cli_data.Output):
    """List the reference models with their sizes.

    For example:

        dataset-decomposition presets --json
    """

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        rows = [
            {
                "preset": name,
                "dim": config.model.dim,
                "layers": config.model.num_layers,
                "heads": config.model.num_heads,
                "parameters": f"{config.model.num_params / 1e6:.1f} M",
                "tokens_per_step": config.tokens_per_step,
                "lr": config.lr,
            }
            for name, config in PRESETS.items()
        ]
        print_result(rows, False)


@dataclass(frozen=True)
class Benchmark(cli_data.Output):
    """Time preparation, loader, sampler and resume against other ways of doing them, on one corpus.

    For example:

        dataset-decomposition benchmark --budget smoke
    """

    out: Path = Path("dataset-decomposition-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (a minute), laptop (about five), full."""
    seed: int = 0
    """Seed of the order."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from dataset_decomposition.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce(cli_data.Output):
    """Run the paper's headline experiment at the chosen budget and print the claims with their verdicts.

    For example:

        dataset-decomposition reproduce --budget smoke
        dataset-decomposition reproduce --out dataset-decomposition-report --json
    """

    out: Path = Path("dataset-decomposition-report")
    """Folder for claims.json and the plots; finished arms in it are not run again."""
    budget: Budget = "laptop"
    """smoke (under 30 s), laptop (under 150 s), full (hours)."""
    seed: int = 0
    """Seed of weights and order."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from dataset_decomposition.reproduce import reproduce

        report_claims(partial(reproduce, budget=self.budget, seed=self.seed), self.out, json=self.json)


def _device(name: Device) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    """Run the command line."""
    run_command(_dispatch)


def _dispatch() -> None:
    command = tyro.extras.subcommand_cli_from_dict(
        {
            "tokenize": cli_data.Tokenize,
            "decompose": cli_data.Decompose,
            "stats": cli_data.Stats,
            "plan": cli_data.Plan,
            "simulate": cli_data.Simulate,
            "verify": cli_data.Verify,
            "export": cli_data.Export,
            "import": cli_data.Import,
            "train": Train,
            "evaluate": Evaluate,
            "presets": Presets,
            "benchmark": Benchmark,
            "reproduce": Reproduce,
        },
        prog="dataset-decomposition",
        description="Dataset Decomposition: training on documents of any length. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="dataset_decomposition")
    command.run()
