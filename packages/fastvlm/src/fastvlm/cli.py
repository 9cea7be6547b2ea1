"""The command `fastvlm`: all verbs; those that train and measure are in `cli_train`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from tenfold_shared.commands import print_result, run_command
from tenfold_shared.logs import setup_logging
from tyro.conf import arg

from fastvlm.cli_train import Evaluate, Merge, Train
from fastvlm.config import PRESETS, TEXT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image

    from fastvlm.predict import Conversation

Device = Literal["auto", "cpu", "cuda", "mps"]
Budget = Literal["smoke", "laptop", "full"]


@dataclass(frozen=True)
class ModelOptions:
    """Which model answers, on what, and how."""

    model: str
    """Folder in the authors' or transformers' layout, or owner/name on the hub."""
    image: tuple[Path, ...] = ()
    """Picture files."""
    image_size: int | None = None
    """Height and width of a view in pixels, divisible by 64; by default the model's own."""
    device: Device = "auto"
    """Where the model runs; auto takes a GPU when there is one."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Number format of weights and pixels (bf16 and fp16 are for GPUs)."""
    max_new_tokens: int = 256
    """Length of an answer in tokens, at most."""
    temperature: float = 0.0
    """0 takes the most probable token; above, tokens are drawn."""
    seed: int = 0
    """Seed of drawing."""

    def start(self) -> Conversation:
        """Load the model and let it look at the pictures."""
        images = read_pictures(self.image)
        from fastvlm.predict import Conversation, load_assistant

        assistant = load_assistant(self.model, self.device, precision=self.precision, image_size=self.image_size)
        sampling = assistant.sampling(self.max_new_tokens, self.temperature, self.seed)
        return Conversation(assistant, images, sampling)


@dataclass(frozen=True)
class Predict:
    """Ask one question about pictures.

    For example:
    fastvlm predict --model llava-fastvithd_0.5b_stage3 --image cat.jpg --prompt "Describe the image."

    fastvlm predict --model apple/FastVLM-1.5B --image a.png b.png --prompt "What differs?" --stream
    """

    prompt: str
    """The question; <image> in it says where the pictures go (by default before it)."""
    options: Annotated[ModelOptions, arg(name="")]
    stream: bool = False
    """Print the answer as it comes."""
    json: bool = False
    """Print JSON instead of text; with --stream one line per piece."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Print the answer."""
        import json
        import time

        start = time.perf_counter()
        conversation = self.options.start()
        pieces = []
        for piece in conversation.ask(self.prompt):
            pieces.append(piece)
            if self.stream:
                print(json.dumps({"piece": piece}) if self.json else piece, end="\n" if self.json else "", flush=True)
        answer = conversation.rounds[-1][1]
        times = {"seconds_to_first_token": conversation.seconds_to_first_token, "seconds": time.perf_counter() - start}
        if self.json and self.stream:
            print(json.dumps({"answer": answer, **times}))
        elif self.json:
            images = [str(path) for path in self.options.image]
            print_result({"model": self.options.model, "images": images, "answer": answer, **times}, True)
        else:
            print("" if self.stream else answer)


@dataclass(frozen=True)
class Chat:
    """Talk about pictures: every line of standard input is a question, an empty one ends the conversation.

    For example:
    fastvlm chat --model llava-fastvithd_0.5b_stage3 --image cat.jpg
    """

    options: Annotated[ModelOptions, arg(name="")]
    json: bool = False
    """Print one JSON line per round."""
    quiet: bool = False
    """No log lines and no input prompt."""

    def run(self) -> None:
        """Answer until the input ends."""
        import json
        import sys

        conversation = self.options.start()
        while question := self._read_line(sys.stdin.isatty()):
            for piece in conversation.ask(question):
                if not self.json:
                    print(piece, end="", flush=True)
            answer = conversation.rounds[-1][1]
            print(json.dumps({"question": question, "answer": answer}) if self.json else "", flush=True)

    def _read_line(self, terminal: bool) -> str:
        try:
            return input("> " if terminal and not self.quiet else "").strip()
        except EOFError:
            return ""


@dataclass(frozen=True)
class Convert:
    """Write a model in the other layout, with its tokenizer and processor files, and check it.

    For example:
    fastvlm convert --model llava-fastvithd_0.5b_stage3 --out fastvlm-hf --layout fast_vlm
    """

    model: str
    """Folder in either layout, or owner/name on the hub."""
    out: Path
    """Folder to write."""
    layout: Literal["llava_qwen2", "fast_vlm"] = "fast_vlm"
    """The authors' layout or transformers'."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Convert and print what was written."""
        from fastvlm.convert import convert

        print_result(convert(self.model, self.out, self.layout), self.json)


@dataclass(frozen=True)
class Export:
    """Write image encoder with projector, and language model with its cache, as ONNX files that check themselves.

    For example:
    fastvlm export --model llava-fastvithd_0.5b_stage3 --out fastvlm-onnx
    """

    model: str
    """Folder in either layout, or owner/name on the hub."""
    out: Path
    """Folder to write: vision.onnx, language.onnx, embeddings.npy, config.json."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> None:
        """Export and print the distances of the self-check."""
        from fastvlm.model import FastVLM
        from fastvlm.onnx_backend import export_onnx

        distances = export_onnx(FastVLM.from_pretrained(self.model), self.out)
        rows = [{"file": str(self.out / name), "relative_distance": value} for name, value in distances.items()]
        print_result(rows, self.json)


@dataclass(frozen=True)
class Presets:
    """List the models with their sizes.

    For example:
    fastvlm presets

    fastvlm presets --json
    """

    json: bool = False
    """Print JSON with every hyper-parameter instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the presets."""
        if self.json:
            print_result({name: config.to_dict() for name, config in PRESETS.items()}, True)
            return
        rows = [
            {
                "model": name,
                "pixels": config.encoder.image_size,
                "image_tokens": config.encoder.num_tokens,
                "language_model": f"{config.language.family}, {config.language.num_params / 1e9:.2f} B",
                "layers": config.language.num_layers,
                "width": config.language.dim,
            }
            for name, config in PRESETS.items()
        ]
        print_result(rows, False)


@dataclass(frozen=True)
class Profile:
    """Time to first token over encoders, resolutions, tilings and language models, and its Pareto frontier.

    For example:
    fastvlm profile --out profile

    fastvlm profile --out small --encoders fastvithd --resolutions 256 512 --language-models qwen2-0.5b --rounds 3
    """

    out: Path = Path("fastvlm-profile")
    """Folder for profile.csv, profile.json, pareto.svg, ttft.svg."""
    encoders: tuple[str, ...] = ("fastvithd", "vit_l_14", "convnext_l", "siglip_so400m")
    """Image encoders: fastvithd, vit_l_14, convnext_l, siglip_so400m."""
    resolutions: tuple[int, ...] = (256, 512, 768, 1024, 1536)
    """Pixels, for the encoders that take any resolution."""
    tiles: tuple[int, ...] = (1, 4, 9)
    """Numbers of tiles; 1 is the image as it is."""
    language_models: tuple[str, ...] = ("qwen2-0.5b", "qwen2-1.5b", "qwen2-7b")
    """Language models: qwen2-0.5b, qwen2-1.5b, qwen2-7b, vicuna-7b."""
    text_tokens: int = TEXT_TOKENS
    """Tokens of prompt and template beside those of the image."""
    rounds: int = 3
    """Timed passes, after one that is not counted."""
    layers: int = 2
    """Decoder layers that run; the others' time is extrapolated. 0 runs all."""
    accuracy: Path | None = None
    """CSV with encoder,resolution,tiles,llm,accuracy: the frontier is then that of accuracy."""
    seed: int = 0
    """Seed of weights and inputs."""
    resume: bool = False
    """Keep the measurements that the folder already has."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write the files and print the table."""
        from fastvlm.profile import Grid, profile

        if self.accuracy is not None and not self.accuracy.is_file():
            raise FileNotFoundError(f"no accuracies at {self.accuracy}; check the path.")
        names = ("encoders", "resolutions", "tiles", "language_models", "text_tokens", "rounds", "layers")
        grid = Grid(**{name: getattr(self, name) for name in names})
        result = profile(self.out, grid, seed=self.seed, resume=self.resume, accuracy=self.accuracy, quiet=self.quiet)
        columns = (
            "encoder",
            "resolution",
            "tiles",
            "llm",
            "image_tokens",
            "encoder_ms",
            "prefill_ms",
            "ttft_ms",
            "pareto",
        )
        table = [{name: row[name] for name in columns} for row in result["rows"]]
        print_result(result if self.json else table, self.json)


@dataclass(frozen=True)
class Benchmark:
    """Time this package against transformers' FastVlm on the same weights, in one run.

    For example:
    fastvlm benchmark --budget smoke

    fastvlm benchmark --out bench --json
    """

    out: Path = Path("fastvlm-benchmark")
    """Folder for benchmarks.json."""
    budget: Budget = "laptop"
    """How much is measured: smoke (half a minute), laptop (about four), full."""
    seed: int = 0
    """Seed of weights and pixels."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write benchmarks.json and print the rows."""
        from tenfold_shared.verbs import report_benchmarks

        from fastvlm.benchmark import benchmark

        report_benchmarks(partial(benchmark, budget=self.budget, seed=self.seed), self.out, json=self.json)


@dataclass(frozen=True)
class Reproduce:
    """Run the paper's headline experiment at the chosen budget and print the claims with their verdicts.

    For example:
    fastvlm reproduce --budget smoke

    fastvlm reproduce --out fastvlm-report --json
    """

    out: Path = Path("fastvlm-report")
    """Folder for claims.json and the plots."""
    budget: Budget = "laptop"
    """smoke (under 30 s), laptop (under 150 s), full (what results/recorded.json holds)."""
    parts: tuple[Literal["latency", "reading"], ...] = ("latency", "reading")
    """Which experiments: time to first token, reading pages."""
    seed: int = 0
    """Seed of weights and order."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Measure, write claims.json and print the claims."""
        from tenfold_shared.verbs import report_claims

        from fastvlm.reproduce import measure

        run = partial(measure, budget=self.budget, seed=self.seed, parts=self.parts)
        report_claims(run, self.out, json=self.json)


def read_pictures(paths: tuple[Path, ...]) -> list[Image.Image]:
    """Read all pictures before a model is loaded."""
    from fastvlm.processor import load_image

    return [load_image(path) for path in paths]


def main() -> None:
    """Run the command line."""
    commands = {
        "predict": Predict,
        "chat": Chat,
        "train": Train,
        "evaluate": Evaluate,
        "merge": Merge,
        "convert": Convert,
        "export": Export,
        "presets": Presets,
        "profile": Profile,
        "benchmark": Benchmark,
        "reproduce": Reproduce,
    }
    run_command(lambda: _dispatch(commands))


def _dispatch(commands: dict[str, Callable[..., Any]]) -> None:
    command = tyro.extras.subcommand_cli_from_dict(
        commands,
        prog="fastvlm",
        description="FastVLM: efficient vision-language models. Not affiliated with the authors.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    setup_logging(quiet=command.quiet, package="fastvlm")
    command.run()
