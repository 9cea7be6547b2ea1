"""Image encoders side by side in one run: ours, timm's, open_clip's ViT-B/16, eager and through ONNX Runtime.

Rows of the data side (loaders, reinforcement, search) follow; they are made in `benchmark_data`.

    mobileclip benchmark --budget laptop        (two cores, about five minutes)

Every function gets the same pixels, float32, on the CPU. Rounds run each function once, in random order; a row gives
the medians, the ratio (the median over rounds; over 1: ours is better) and its spread (smallest and largest round).
Outputs are checked first: timm's encoder carries our weights and has to give our embeddings, and every exported
model has to give those of its eager form.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.environment import seed_everything
from tenfold_shared.progress import progress
from torch import Tensor, nn

from mobileclip.benchmark_data import data_rows
from mobileclip.checkpoint import to_official_names
from mobileclip.config import PRESETS
from mobileclip.fusion import reparameterize
from mobileclip.model import MobileCLIP, optimize_for_inference
from mobileclip.onnx_backend import export_module, open_session
from mobileclip.peers import build_clip_peer, build_timm_mci, read_photographs
from mobileclip.preprocess import Preprocess
from mobileclip.timing import torch_threads

Budget = Literal["smoke", "laptop", "full"]
VIT = "ViT-B-16-quickgelu"
TOLERANCE = 1e-4
AIM_VIT, AIM_TIMM = 2.3, 1.3


@dataclass(frozen=True)
class Plan:
    """What one budget measures for each number of threads: (batch, rounds) by model."""

    work: dict[str, tuple[tuple[int, int], ...]]
    threads: tuple[int, ...]


PLANS: dict[Budget, Plan] = {
    "smoke": Plan({"s0": ((1, 3),)}, (2,)),
    "laptop": Plan({"s0": ((1, 15),), "s2": ((1, 15), (32, 5))}, (2,)),
    "full": Plan({"s0": ((1, 30), (32, 7)), "s2": ((1, 30), (32, 7))}, (1, 2)),
}
Function = Callable[[Tensor], Tensor]


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time image encoders and the data side and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of weights and vectors.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, threads, aim, input_hash`; `ours` and
        `peer` are median milliseconds per batch (rates on the data side, by `unit`), `ratio` over 1:
        ours is better.

    Raises:
        RuntimeError: An output differs from the one it must equal.
    """
    seed_everything(seed)
    plan = PLANS[budget]
    rows: list[dict[str, Any]] = []
    total = 2 * len(plan.threads) * sum(rounds for settings in plan.work.values() for _, rounds in settings)
    bar = progress(total=total, description="benchmark", unit="rounds")
    with tempfile.TemporaryDirectory(dir=out) as folder, bar:
        vit = build_clip_peer(VIT).model.visual
        for threads in plan.threads:
            with torch_threads(threads):
                for model, settings in plan.work.items():
                    contenders = _build_contenders(model, vit, Path(folder), threads)
                    for batch, rounds in settings:
                        seconds, digest = _time(contenders, batch, rounds, bar.update)
                        rows += _rows(model, batch, threads, seconds, digest)
    return [*rows, *data_rows(out, budget=budget, seed=seed)]


@dataclass(frozen=True)
class Contender:
    """An image encoder and the size of its pixels."""

    run: Function
    image_size: int


def _build_contenders(model: str, vit: nn.Module, folder: Path, threads: int) -> dict[str, Contender]:
    """Build every encoder of one comparison and check that those with equal weights agree."""
    name = f"mobileclip_{model}"
    size = PRESETS[name].image.image_size
    with torch.inference_mode():
        timm = build_timm_mci(f"fastvit_mci{model[-1]}")
        ours = MobileCLIP(PRESETS[name]).image_encoder.eval()
        ours.load_state_dict(_from_timm(timm.state_dict()))
        fused, fastest = reparameterize(ours), optimize_for_inference(ours)
    functions: dict[str, Function] = {
        "fused": fused,
        "fastest": fastest,
        "timm fused": _fuse_timm(timm),
        "onnx": _through_onnx(fastest, size, folder / f"{model}.onnx", threads),
    }
    _check_agreement(functions, torch.rand(2, 3, size, size))
    peers: dict[str, Function] = {"vit": vit, "vit onnx": _through_onnx(vit, 224, folder / "vit.onnx", threads)}
    _check_agreement(peers, torch.rand(2, 3, 224, 224))
    return {key: Contender(function, size) for key, function in functions.items()} | {
        key: Contender(function, 224) for key, function in peers.items()
    }


def _from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    official = to_official_names({f"visual.trunk.{key}": value for key, value in state.items()})
    return {key.removeprefix("image_encoder."): value for key, value in official.items()}


def _fuse_timm(model: nn.Module) -> nn.Module:
    from timm.utils import reparameterize_model

    return reparameterize_model(model).eval()


def _through_onnx(module: nn.Module, size: int, path: Path, threads: int) -> Function:
    """Export a module and return it as a function on ONNX Runtime."""
    export_module(module.eval(), torch.rand(2, 3, size, size), path)
    session = open_session(path, threads)
    name = session.get_inputs()[0].name
    return lambda pixels: torch.from_numpy(session.run(None, {name: pixels.numpy()})[0])


@torch.inference_mode()
def _check_agreement(functions: dict[str, Function], pixels: Tensor) -> None:
    outputs = {name: function(pixels) for name, function in functions.items()}
    first, expected = next(iter(outputs.items()))
    for name, actual in outputs.items():
        distance = float((actual - expected).norm() / expected.norm())
        if not distance < TOLERANCE:
            raise RuntimeError(f"`{name}` differs from `{first}` by {distance:.1e} (relative l2).")


@torch.inference_mode()
def _time(
    contenders: dict[str, Contender], batch: int, rounds: int, on_round: Callable[[], object]
) -> tuple[dict[str, np.ndarray], str]:
    """Return seconds per call of every contender on the same photographs, and the hash of their pixels.

    Eager functions first, ONNX Runtime's after them: threads of the one that still spin would slow the other.
    """
    pixels = {size: _photographs(size, batch) for size in {entry.image_size for entry in contenders.values()}}
    seconds: dict[str, np.ndarray] = {}
    for through_onnx in (False, True):
        calls = {
            name: partial(entry.run, pixels[entry.image_size])
            for name, entry in contenders.items()
            if name.endswith("onnx") == through_onnx
        }
        seconds |= interleave(calls, rounds, clock=time.perf_counter, on_round=on_round)
    return seconds, _hash(pixels)


def _rows(
    model: str, batch: int, threads: int, seconds: dict[str, np.ndarray], digest: str
) -> Iterator[dict[str, Any]]:
    """Turn the times of one setting into the rows of the table."""
    timm = f"timm fastvit_mci{model[-1]}, fused"
    # Only S2 against ViT-B/16 is the paper's claim.
    aim_vit = AIM_VIT if model == "s2" else None
    pairs = (
        ("fastest", "vit", "eager", "open_clip ViT-B/16", aim_vit),
        ("onnx", "vit onnx", "ONNX Runtime", "open_clip ViT-B/16, ONNX Runtime", aim_vit),
        ("fastest", "timm fused", "eager", timm, AIM_TIMM),
        ("fused", "timm fused", "eager, official fused form", timm, None),
        ("onnx", "fastest", "ONNX Runtime", "ours, eager", None),
    )
    for ours, peer, how, peer_name, aim in pairs:
        milliseconds = {"ours": 1e3 * seconds[ours], peer_name: 1e3 * seconds[peer]}
        work = f"{model.upper()} image encoder, batch {batch}, {how}"
        row = comparison(work, milliseconds, peer_name, "ms per batch", aim=aim)
        yield {"paper": "mobileclip", **row, "threads": threads, "input_hash": digest}


def _photographs(size: int, batch: int) -> Tensor:
    photographs = list(read_photographs().values())
    pixels = [Preprocess(size)(photograph) for photograph in photographs]
    return torch.stack([pixels[index % len(pixels)] for index in range(batch)])


def _hash(pixels: dict[int, Tensor]) -> str:
    digest = hashlib.sha256()
    for size in sorted(pixels):
        digest.update(pixels[size].numpy().tobytes())
    return digest.hexdigest()[:16]
