"""Commands on models: train, evaluate, convert, scales, plan."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold_shared.commands import InputError, print_result, require_extra, unknown_name
from tyro.conf import Positional

from dclm.scales import SCALES, ModelConfig, TrainConfig

Inputs = Positional[tuple[str, ...]]


@dataclass(frozen=True)
class TrainModel:
    """Train OpenLM on token shards; run again to go on.

    For example:
    dclm train tokens --scale laptop --out run

    dclm train cc wiki --weights 0.9 0.1 --scale 1b-1x --out run

    dclm train tokens --scale 7b-1x --dry-run --mesh data=2,fsdp=16,tensor=2

    dclm train tokens --scale 7b-1x --out run --distributed 10.0.0.1:1234,16,0
    """

    data: Positional[tuple[Path, ...]] = ()
    """Folders of token shards."""
    scale: str = "laptop"
    """Model and schedule, see `dclm scales`."""
    out: Path = Path("lm-run")
    """Folder of the run; one that was stopped goes on."""
    weights: tuple[float, ...] = ()
    """Share of each source in the training stream; by default its share of the sequences."""
    num_tokens: int | None = None
    """Another budget."""
    learning_rate: float | None = None
    """Another highest rate."""
    batch_size: int | None = None
    """Another number of sequences per update."""
    accumulation: int | None = None
    """Pieces of a batch."""
    precision: Literal["float32", "bfloat16", "pure_bfloat16"] | None = None
    """Another precision."""
    remat: bool = False
    """Compute blocks again in the backward pass."""
    unroll: bool = False
    """Compile layers one after the other instead of scanning over them."""
    vocab_size: int | None = None
    """Another number of words."""
    seed: int | None = None
    """Of weights and order."""
    mesh: str = ""
    """Devices, as data=8,fsdp=4,tensor=2; by default all of them along data."""
    distributed: str = ""
    """COORDINATOR:PORT,PROCESSES,RANK: several processes work together."""
    device: Literal["auto", "cpu", "cuda", "tpu"] = "auto"
    """Where to run."""
    repeat: bool = False
    """Let data be gone through more than once."""
    checkpoint_every: int = 500
    """Updates between checkpoints."""
    max_updates: int = 0
    """Stop after so many updates, to go on later; 0 for none."""
    dry_run: bool = False
    """Compile for the mesh on simulated devices, print sizes and bytes per device, train nothing."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Train, and print what came out."""
        config, sizes = self.config(), parse_mesh(self.mesh)
        require_extra("jax", "train", "dclm")
        self._choose_devices(sizes)
        from dclm.mesh import build_mesh

        mesh = build_mesh(sizes.get("data"), sizes.get("fsdp", 1), sizes.get("tensor", 1))
        if self.dry_run:
            self._print_dry(config, mesh)
            return
        from dclm.lmrun import LoopOptions, train
        from dclm.tokendata import MixedTokens

        if not self.data:
            raise InputError("no data given; name folders of `dclm tokenize`.")
        tokens = MixedTokens(self.data, self.weights or None, seed=config.seed)
        options = LoopOptions(self.checkpoint_every, self.max_updates, self.repeat, self.quiet)
        found = train(config, tokens, self.out, mesh=mesh, options=options)
        print_result({name: value for name, value in found.items() if name != "config" or self.json}, self.json)

    def config(self) -> TrainConfig:
        """Return the scale with what was changed."""
        config = find_scale(self.scale)
        names = ("num_tokens", "learning_rate", "batch_size", "accumulation", "precision", "seed")
        changed = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.vocab_size is not None:
            changed["model"] = dataclasses.replace(config.model, vocab_size=self.vocab_size)
        return dataclasses.replace(config, remat=self.remat, scan_layers=not self.unroll, **changed)

    def _choose_devices(self, sizes: dict[str, int]) -> None:
        """Settings that count only before jax is imported, and the group of processes."""
        if self.device != "auto":
            os.environ["JAX_PLATFORMS"] = self.device
        if self.dry_run and sizes:
            count = sizes.get("data", 1) * sizes.get("fsdp", 1) * sizes.get("tensor", 1)
            os.environ["JAX_PLATFORMS"] = "cpu"
            os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
        if self.distributed:
            join_processes(self.distributed)

    def _print_dry(self, config: TrainConfig, mesh: Any) -> None:
        from dclm.lmtrain import Trainer

        facts = {
            "parameters": config.model.count(),
            "updates": config.num_steps,
            "tokens": config.num_tokens,
            "flops": config.model.flops_per_token() * config.num_tokens,
        }
        configuration = {"config": config.to_dict()} if self.json else {}
        print_result({**facts, **Trainer(config, mesh).memory(), **configuration}, self.json)


def find_scale(name: str) -> TrainConfig:
    """Return a scale by name."""
    if name not in SCALES:
        raise unknown_name("scale", name, list(SCALES))
    return SCALES[name]


def parse_mesh(text: str) -> dict[str, int]:
    """Read `data=8,fsdp=4,tensor=2`; an empty text is an empty dictionary."""
    sizes = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in ("data", "fsdp", "tensor") or not value.isdigit() or int(value) < 1:
            raise InputError(f"`mesh` (={text!r}) must be like data=8,fsdp=4,tensor=2.")
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


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a model on task files and write an evaluation record.

    For example:
    dclm evaluate run/model --tasks local_data --out records

    dclm evaluate run/model --json
    """

    model: Positional[Path]
    """Folder of `dclm train` or `dclm convert`, or weights of OpenLM with --scale."""
    tasks: Path | None = None
    """Folder with task files in the official layout; by default the two of this package."""
    tokenizer: str = "gpt2"
    """The one that the model was trained with."""
    scale: str = ""
    """Sizes of weights that have no config.json, and a field of the record."""
    out: Path = Path("lm-evaluation")
    """Folder for evaluation.json."""
    max_items: int = 0
    """Most items of a task; 0 for all."""
    batch_size: int = 16
    """Sequences at a time."""
    seed: int = 1234
    """Of the few-shot examples."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Evaluate, write the record, print one row per task."""
        require_extra("jax", "train", "dclm")
        from dclm.chain import sample_tasks
        from dclm.convert import from_pretrained
        from dclm.lmeval import EvalOptions, evaluate, table
        from dclm.records import evaluation_record, write_record
        from dclm.tokenizer import load_tokenizer

        own = (self.model if self.model.is_dir() else self.model.parent) / "config.json"
        sizes = None if own.is_file() else find_scale(self.scale).model if self.scale else None
        model = from_pretrained(self.model, sizes)
        options = EvalOptions(self.seed, self.batch_size, self.max_items, self.quiet)
        found = evaluate(model, load_tokenizer(self.tokenizer), self.tasks or sample_tasks(), options)
        identity = {"name": self.model.name, "uuid": str(self.model), "scale": self.scale}
        record = evaluation_record(identity, found)
        write_record(self.out / "evaluation.json", record)
        print_result(record if self.json else table(found), self.json)


@dataclass(frozen=True)
class Convert:
    """Convert between OpenLM's torch checkpoints, folders of this package and the layout of the Hugging Face wrapper.

    For example:
    dclm convert epoch_6.pt --scale 1b-1x --to folder --out model

    dclm convert run/model --to hf --out model-hf

    dclm convert run/model --to openlm --out model.pt
    """

    model: Positional[Path]
    """A folder, or weights of OpenLM (.pt, .safetensors); nothing in them is run."""
    to: Literal["folder", "hf", "openlm"] = "hf"
    """config.json and safetensors; a folder that transformers loads; a torch checkpoint."""
    out: Path = Path("converted")
    """Folder, or the .pt file."""
    scale: str = ""
    """Sizes of weights that have no config.json."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Convert."""
        require_extra("jax", "train", "dclm")
        from dclm import convert

        sizes: ModelConfig | None = find_scale(self.scale).model if self.scale else None
        model = convert.from_pretrained(self.model, sizes)
        tree = convert.tree_of(model)
        if self.to == "openlm":
            convert.save_torch(tree, model.config, self.out)
        elif self.to == "hf":
            convert.save_hugging_face(tree, model.config, self.out)
        else:
            convert.save_pretrained(tree, model.config, self.out)
        print_result({"out": str(self.out), "parameters": model.config.count()}, self.json)


@dataclass(frozen=True)
class Scales:
    """List the scales with their sizes and hyper-parameters.

    For example:
    dclm scales

    dclm scales --json
    """

    json: bool = False
    """Print JSON with every number."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the scales."""
        if self.json:
            print_result({name: config.to_dict() for name, config in SCALES.items()}, True)
            return
        rows = [
            {
                "scale": name,
                "parameters": config.model.count(query_key_norms=False),
                "dim": config.model.dim,
                "layers": config.model.num_layers,
                "heads": config.model.num_heads,
                "tokens": config.num_tokens,
                "batch": config.batch_size,
                "updates": config.num_steps,
                "rate": config.learning_rate,
                "decay": config.weight_decay,
            }
            for name, config in SCALES.items()
        ]
        print_result(rows, False)


@dataclass(frozen=True)
class Plan:
    """Price a run over a pool from measured rates of one core, formulas shown.

    For example:
    dclm plan --pool 240T --cluster 64x96

    dclm plan --pool 1.64T --cluster 8x64 --scale 1b-1x --json
    """

    pool: str = "240T"
    """Tokens of the raw pool."""
    cluster: str = "64x96"
    """NODESxCORES of the data steps."""
    memory: str = "256G"
    """Bytes of RAM of a node."""
    scale: str = "7b-2x"
    """Model that is trained then."""
    keep: tuple[str, ...] = ()
    """Shares of documents that stages keep, such as refinedweb=0.25."""
    mfu: float = 0.4
    """Share of an H100's peak that training reaches."""
    json: bool = False
    """Print JSON instead of tables."""
    quiet: bool = False
    """No effect here: nothing is logged."""

    def run(self) -> None:
        """Print the stages, then training."""
        from dclm.pricing import KEEP, parse_cluster, parse_tokens, price

        keep = KEEP | dict(parse_share(text, KEEP) for text in self.keep)
        cluster = parse_cluster(self.cluster, self.memory)
        found = price(parse_tokens(self.pool), cluster, scale=self.scale, keep=keep, mfu=self.mfu)
        if self.json:
            print_result(found, True)
            return
        print_result([{name: row[name] for name in row if name != "formula"} for row in found["stages"]], False)
        print_result({row["stage"]: row["formula"] for row in found["stages"]}, False)
        print_result({f"data: {name}": value for name, value in found["total"].items()}, False)
        print_result({f"training: {name}": value for name, value in found["training"].items()}, False)
        print_result({f"assumed: kept by {name}": value for name, value in keep.items()}, False)


def parse_share(text: str, known: dict[str, float]) -> tuple[str, float]:
    """Read STAGE=SHARE."""
    name, _, value = text.partition("=")
    if name not in known:
        raise unknown_name("stage", name, list(known))
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise InputError(f"`keep` (={text!r}) must be like refinedweb=0.25.")
    return name, share
