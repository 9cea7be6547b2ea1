"""Training, embedding and degradation beside their nearest peers, and memory against length.

    nots benchmark --budget laptop        (one thread, under three minutes; aeon is needed for MiniRocket)

Seconds are CPU seconds of one process with one thread, medians over interleaved rounds. Training: a step of NoTS beside
one of masked autoencoding on the same trunk, at an equal batch and at equal operations. Embedding: the sequence readout
beside aeon's MiniRocket transform (fitted before) and beside a forward pass of the same trunk with PatchTST's tokens on
the raw signal. Degradation: 4,096 series of 8 channels and 1,024 samples, box of width 128, beside scipy's convolution
with the same kernel (`scipy.ndimage.convolve1d`, inside the series the same values) and beside its running mean
(`uniform_filter1d`). Memory: bytes that a training step keeps for its backward pass, counted, not sampled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from torch import Tensor

from nots.config import PRESETS, NoTSConfig, ObjectiveName, TrainConfig
from nots.degradation import degrade
from nots.model import NoTS
from nots.objectives import Draw, step_flops
from nots.train import build
from nots.worlds import pretraining_series

Budget = Literal["smoke", "laptop", "full"]
ROUNDS: dict[Budget, int] = {"smoke": 1, "laptop": 5, "full": 9}
SERIES: dict[Budget, int] = {"smoke": 8, "laptop": 256, "full": 1024}
SHAPES: dict[Budget, tuple[int, int, int]] = {"smoke": (16, 2, 256), "laptop": (4096, 8, 1024), "full": (4096, 8, 1024)}
BATCH, WIDTH, AIM = 32, 128, 10.0
Row = dict[str, Any]


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[Row]:
    """Time all parts and return one row for each comparison.

    Args:
        out: Existing folder; nothing is written to it.
        budget: Sizes and rounds; smoke leaves MiniRocket out, which compiles for longer than all else takes.
        seed: Of series and weights.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, aim, threads, input_hash`; `ratio` over 1: ours
        is better.

    Raises:
        RuntimeError: Outputs that should be equal are not.
    """
    torch.set_num_threads(1)
    config, rounds = PRESETS["laptop"], ROUNDS[budget]
    series = pretraining_series(config.length, SERIES[budget], seed)
    # Before MiniRocket, which starts threads whose waiting is CPU time too.
    boxes, steps = degradation(SHAPES[budget], rounds, seed), training(config, series, rounds)
    rows = [*steps, *embedding(config, series, rounds, peers=budget != "smoke"), *boxes, *memory(seed)]
    digest = hashlib.sha256(series.numpy().tobytes()).hexdigest()[:16]
    return [{"paper": "nots", "threads": 1, "input_hash": digest, **row} for row in rows]


def make_step(config: NoTSConfig, objective: ObjectiveName, x: Tensor) -> Callable[[], None]:
    """Return a forward and backward pass of an objective."""
    train = TrainConfig(objective, batch_size=len(x))
    module, draw = build(config, train), Draw.of(config, train, len(x), 0)

    def run() -> None:
        module(x, draw).backward()
        module.zero_grad()

    return run


def training(config: NoTSConfig, series: Tensor, rounds: int) -> list[Row]:
    """Time a step of NoTS beside one of MAE: at an equal batch, and per operation."""
    flops = {name: step_flops(config, TrainConfig(name, batch_size=1)) for name in ("nots", "mae")}
    share = flops["nots"] / flops["mae"]
    x = series.repeat(-(-round(share * BATCH) // len(series)), 1, 1)
    steps = {"ours": make_step(config, "nots", x[:BATCH]), "MAE": make_step(config, "mae", x[:BATCH])}
    equal = {"ours": steps["ours"], "MAE": make_step(config, "mae", x[: round(share * BATCH)])}
    amount = flops["nots"] * BATCH / 1e9
    return [
        comparison("training, equal batch", interleave(steps, rounds), "MAE", "series/CPU s", amount=BATCH),
        comparison("training, equal operations", interleave(equal, rounds), "MAE", "GFLOP/CPU s", amount=amount),
    ]


def embedding(config: NoTSConfig, series: Tensor, rounds: int, *, peers: bool) -> list[Row]:
    """Time embeddings beside a PatchTST forward on the raw signal, and beside MiniRocket."""
    torch.manual_seed(0)
    ours, patchtst = NoTS(config).eval(), NoTS(replace(config, tokenizer="patchtst")).eval()

    def embed(model: NoTS, readout: Any) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                model.embed(series, readout)

        return run

    unit, work = "series/CPU s", "embedding of the sequence"
    calls: dict[str, Callable[[], object]] = {"ours": embed(ours, "sequence"), "PatchTST": embed(patchtst, "raw")}
    if peers:
        require_extra("aeon", "demo", "nots-torch")
        from aeon.transformations.collection.convolution_based import MiniRocket

        arrays = series.double().numpy()
        rocket = MiniRocket(random_state=0).fit(arrays)
        calls["MiniRocket"] = lambda: rocket.transform(arrays)
    seconds = interleave(calls, rounds)
    return [comparison(work, seconds, name, unit, amount=len(series)) for name in seconds if name != "ours"]


def degradation(shape: tuple[int, int, int], rounds: int, seed: int) -> list[Row]:
    """Time the box degradation beside scipy, after a check that the values inside the series are equal."""
    ndimage: Any = require_extra("scipy.ndimage", "demo", "nots-torch")
    x = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    tensor, kernel = torch.from_numpy(x), np.full(WIDTH + 1, 1 / (WIDTH + 1), dtype=np.float32)
    few, half = x[:2], WIDTH // 2
    inside = slice(half, shape[-1] - half)
    theirs = ndimage.convolve1d(few, kernel, axis=-1)[..., inside]
    if not np.allclose(degrade(tensor[:2], "box", WIDTH).numpy()[..., inside], theirs, atol=1e-5):
        raise RuntimeError("our box and scipy's convolution differ inside the series.")
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: degrade(tensor, "box", WIDTH),
        "scipy convolution": lambda: ndimage.convolve1d(x, kernel, axis=-1),
        "scipy running mean": lambda: ndimage.uniform_filter1d(x, WIDTH + 1, axis=-1),
    }
    seconds, amount = interleave(calls, rounds), x.size / 1e6
    work, unit = f"degradation of {' x '.join(map(str, shape))}, box {WIDTH}", "M samples/CPU s"
    aims = {"scipy convolution": AIM, "scipy running mean": None}
    return [comparison(work, seconds, name, unit, amount=amount, aim=aim) for name, aim in aims.items()]


def memory(seed: int) -> list[Row]:
    """Count bytes kept for the backward pass against length, NoTS beside MAE at an equal batch."""
    rows = []
    for length in (128, 256, 512):
        config = replace(PRESETS["laptop"], length=length, schedules=())
        kept = {"ours": kept_bytes(config, "nots", seed) / 1e6, "MAE": kept_bytes(config, "mae", seed) / 1e6}
        rows.append(comparison(f"memory of a training step, {length} samples", kept, "MAE", "MB"))
    return rows


def kept_bytes(config: NoTSConfig, objective: ObjectiveName, seed: int) -> int:
    """Return the bytes of tensors that a step on four series saves for its backward pass."""
    train = TrainConfig(objective, batch_size=4, seed=seed)
    module, x = build(config, train), pretraining_series(config.length, 4, seed)
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module(x, Draw.of(config, train, len(x), 0))
    loss.backward()
    return sum(kept.values())
