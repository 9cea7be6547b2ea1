"""Dataset Decomposition's claims at laptop scale: the same documents, cut in ten ways, into the same small decoder.

    dataset-decomposition reproduce --budget laptop        (two cores, two and a half minutes; full: one to two hours)

Fixed before the run. Data: Python sources of sympy and networkx (frozen list of hashes), one file a document; BPE of
2,048 tokens trained on the training part; every twelfth document held out. Model: width 128, 3 layers, longest row 512,
so that attention takes 25 % of the compute of concat-and-chunk, the paper's share for 1B at 8k: "8k at the cost of 2k"
becomes "512 at the cost of 128"; shortest bucket 32.
Arms: concat-and-chunk 512 and 128, the first with document mask, best-fit packing with document mask,
decomposition with uniform, grow-p2 (8 cycles: primary, and 1 cycle), grow-p100 and shrink-p100, and the same text
chunked to 64 (against 512: the single-length pair). All take the same number of tokens; learning rates are chosen for
each arm alike, by one trial each of (1e-3, 3e-3, 1e-2), on validation documents and a seed of its own (full).
Evaluation, the same for all: held-out documents, one per row, bits per byte (negated: larger is better), also for
documents under the shortest bucket and by position; retrieval of keys; largest rise of the training loss without
clipping at 3e-2. Times: seconds per step of each length, measured interleaved in the same process, times steps.
Controls: concat-and-chunk 512 for time; the strongest of the three other ways of packing for quality. Minimum effects:
0.01 bits per byte; half of the paper's gain in time (1.0 for 3x). Five seeds. Laptop trains the primary arm and
concat-and-chunk with one seed in the same setting, smoke all arms for a few steps of a smaller one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.claims import ClaimResult
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import write_json
from tenfold_shared.progress import progress

from dataset_decomposition import verdicts
from dataset_decomposition.arms import RowLoader, chunk, pack
from dataset_decomposition.config import Curriculum, ModelConfig, TrainConfig
from dataset_decomposition.corpus import read_sources
from dataset_decomposition.evaluate import evaluate, retrieve_keys
from dataset_decomposition.loader import BucketLoader
from dataset_decomposition.model import Decoder
from dataset_decomposition.plots import draw_curves, draw_steps
from dataset_decomposition.store import TokenStore, write_store
from dataset_decomposition.train import build_optimizer, train_step

Budget = Literal["smoke", "laptop", "full"]
HELD_OUT = 12  # every twelfth document
RATES = (1e-3, 3e-3, 1e-2)
CURRICULA: dict[str, tuple[Curriculum, int]] = {
    "DD uniform": ("uniform", 8),
    "DD grow-p2": ("grow-p2", 8),
    "DD grow-p2, 1 cycle": ("grow-p2", 1),
    "DD grow-p100": ("grow-p100", 8),
    "DD shrink-p100": ("shrink-p100", 8),
}
ARMS = ("C&C", "C&C short", "C&C with mask", "best-fit", *CURRICULA, "chunked 1/8")
PRIMARY, BASELINE = "DD grow-p2", "C&C"
STABILITY = (BASELINE, "DD grow-p100")


@dataclass(frozen=True)
class Scale:
    """Sizes of one budget."""

    arms: tuple[str, ...]
    num_seeds: int
    model: ModelConfig
    longest: int
    shortest: int
    tokens: int
    tokens_per_step: int
    held_out: int
    checkpoints: int
    tune: bool


_MODEL = ModelConfig(dim=128, num_layers=3, num_heads=4, vocab_size=2048, rope_base=100_000.0)
_FULL = Scale(ARMS, 5, _MODEL, 512, 32, 400_000, 4096, 32, 6, True)
SCALES: dict[Budget, Scale] = {
    "smoke": Scale(ARMS, 1, ModelConfig(32, 1, 2, 512), 128, 16, 12_000, 1024, 8, 2, False),
    "laptop": replace(_FULL, arms=(BASELINE, PRIMARY), num_seeds=1, tokens=150_000, tune=False),
    "full": _FULL,
}


@dataclass(frozen=True)
class Data:
    """Documents as tokens, apart for training, validation and test."""

    store: TokenStore
    validation: tuple[list[np.ndarray], list[int]]
    test: tuple[list[np.ndarray], list[int]]


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Train the arms and judge the paper's claims.

    Finished arms are kept in `out/arms` and not trained again.

    Args:
        out: Existing folder; gets `curves.svg`, `lengths.svg` and the arms' results.
        budget: "smoke" (few steps of every arm), "laptop" (two arms, one seed) or "full" (all, five seeds).
        seed: Of the first of the seeds.

    Returns:
        One row per claim, with what cannot be tried here.
    """
    start, scale = time.perf_counter(), SCALES[budget]
    if budget == "smoke":
        torch.set_num_threads(1)  # matrices this small are slower on two
    data = prepare(out, scale)
    seconds = step_seconds(scale, rounds=2 if budget == "smoke" else 7)
    rates = tune(out, scale, data) if scale.tune else dict.fromkeys(ARMS, RATES[1])
    results: dict[str, list[dict[str, Any]]] = {arm: [] for arm in scale.arms}
    jobs = [(arm, seed + i) for i in range(scale.num_seeds) for arm in scale.arms]
    for arm, run_seed in progress(jobs, description="arms", unit="runs"):
        results[arm].append(run_arm(out, arm, scale, data, (run_seed, rates[arm])))
    _draw(out, results, seconds)
    # One seed and a few steps show that the arms run; only the full budget judges them.
    judged: Budget = "full" if budget == "full" else "smoke"
    claims = verdicts.judge(results, seconds, scale, budget=judged, seconds=time.perf_counter() - start)
    return [*claims, *verdicts.not_attempted()]


def prepare(out: Path, scale: Scale) -> Data:
    """Tokenise the corpus and write the training documents as a store with buckets."""
    texts = read_sources()
    training = [text for i, text in enumerate(texts) if i % HELD_OUT > 1]
    held = [[text for i, text in enumerate(texts) if i % HELD_OUT == part] for part in (0, 1)]
    encode = _train_tokenizer(training, scale.model.vocab_size)
    documents: list[np.ndarray] = []
    total = 0
    for text in training:
        if total >= scale.tokens:
            break
        documents.append(encode(text))
        total += len(documents[-1])
    store = write_store(out / "store", documents, vocab_size=scale.model.vocab_size)
    store.decompose(min_length=scale.shortest, max_length=scale.longest)
    validation, test = (_sample(part, encode, scale) for part in held)
    return Data(store, validation, test)


def _train_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Train a byte-level BPE on the start of the training documents; returns text -> ids with end token 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts[:200], trainer)
    return lambda text: np.array([*tokenizer.encode(text).ids, 0])


def _sample(texts: Sequence[str], encode: Any, scale: Scale) -> tuple[list[np.ndarray], list[int]]:
    """Return held-out documents, as many again cut down under the shortest bucket, and their bytes."""
    chosen = list(texts[: scale.held_out])
    # Whole files are longer than the shortest bucket: single lines stand in for short documents.
    lines = [line for text in chosen for line in text.splitlines() if 20 <= len(line) <= 60]
    chosen += lines[:: max(1, len(lines) // scale.held_out)][: scale.held_out]
    return [encode(text) for text in chosen], [len(text.encode()) for text in chosen]


def build_loader(arm: str, scale: Scale, store: TokenStore, seed: int) -> Any:
    """Return the batches of an arm; all arms have as many steps as the decomposition."""
    curriculum, cycles = CURRICULA.get(arm, CURRICULA[PRIMARY])
    decomposed = BucketLoader(
        store,
        tokens_per_step=scale.tokens_per_step,
        curriculum=curriculum,
        cycles=cycles,
        seed=seed,
        longest_first=False,
    )
    if arm in CURRICULA:
        return decomposed
    length = {"C&C short": scale.longest // 4, "chunked 1/8": scale.longest // 8}.get(arm, scale.longest)
    make = pack if arm == "best-fit" else chunk
    blocks, owners = make(np.asarray(store.tokens), store.lengths, length)
    segments = owners if arm in ("C&C with mask", "best-fit") else None
    return RowLoader(blocks, segments, tokens_per_step=scale.tokens_per_step, num_steps=len(decomposed), seed=seed)


def run_arm(out: Path, arm: str, scale: Scale, data: Data, settings: tuple[int, float]) -> dict[str, Any]:
    """Train one arm with one seed and evaluate it, or read what a run before this one found."""
    seed, lr = settings
    key = f"{arm}-{scale.model.dim}-{scale.tokens}-{seed}-{lr:g}".replace(" ", "_")
    path = out / "arms" / f"{key}.json"
    if path.is_file():
        return json.loads(path.read_text())
    loader = build_loader(arm, scale, data.store, seed)
    marks = {round(len(loader) * (i + 1) / scale.checkpoints) for i in range(scale.checkpoints)}
    model, curve = _fit(loader, _config(scale, lr, seed), marks, data.test, scale)
    result = {
        "arm": arm,
        "seed": seed,
        "lr": lr,
        "lengths": loader.step_lengths().tolist(),
        "curve": curve,
        "final": _evaluate(model, data.test, scale),
        "validation": _evaluate(model, data.validation, scale)["bits_per_byte"],
        "retrieval": retrieve_keys(
            model, np.concatenate(data.test[0]), length=scale.longest, trials=64, seed=seed, key_tokens=4
        ),
        "rise": stability(arm, scale, data.store, seed) if {arm} < set(STABILITY) <= set(scale.arms) else None,
    }
    write_json(path, result)
    return result


def _config(scale: Scale, lr: float, seed: int, clip: float = 1.0) -> TrainConfig:
    return TrainConfig(
        scale.model, scale.tokens_per_step, lr=lr, min_lr=lr / 100, warmup_steps=20, grad_clip=clip, seed=seed
    )


def _fit(
    loader: Any, config: TrainConfig, marks: set[int], test: Any, scale: Scale
) -> tuple[Decoder, list[tuple[int, float]]]:
    """Train to the loader's end; return the model and (step, bits per byte) at the marks."""
    seed_everything(config.seed)
    model = Decoder(config.model).to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer, curve = build_optimizer(model, config), []
    while loader.step < len(loader):
        model.train()
        train_step(model, optimizer, loader, config)
        if loader.step in marks:
            curve.append((loader.step, _evaluate(model, test, scale)["bits_per_byte"]))
    return model, curve


def _evaluate(model: Decoder, part: tuple[list[np.ndarray], list[int]], scale: Scale) -> dict[str, float]:
    found = evaluate(model, *part, max_length=scale.longest, short=scale.shortest)
    return {name: value for name, value in found.items() if np.isfinite(value)}


def stability(arm: str, scale: Scale, store: TokenStore, seed: int) -> float:
    """Return the largest rise of the loss over its lowest value so far, at a high rate and without clipping."""
    loader = build_loader(arm, scale, store, seed)
    config = _config(scale, 3e-2, seed, clip=0.0)
    seed_everything(seed)
    model = Decoder(config.model)
    optimizer, losses = build_optimizer(model, config), []
    for _ in range(min(len(loader), 64)):
        try:
            losses.append(train_step(model, optimizer, loader, config)[0])
        except FloatingPointError:
            return 100.0
    values = np.array(losses)
    return float((values - np.minimum.accumulate(values)).max())


def tune(out: Path, scale: Scale, data: Data) -> dict[str, float]:
    """Return each arm's best learning rate on the validation documents, with a seed that is not used again."""
    best = {}
    for arm in progress(scale.arms, description="learning rates", unit="arms"):
        trials = [run_arm(out, arm, scale, data, (10_000, lr)) for lr in RATES]
        best[arm] = min(trials, key=lambda trial: trial["validation"])["lr"]
    return best


def step_seconds(scale: Scale, rounds: int) -> dict[int, float]:
    """Return the median seconds of a step of each row length, measured in interleaved rounds."""
    config = _config(scale, 1e-3, 0)
    model = Decoder(config.model).to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = build_optimizer(model, config)
    lengths = [n for n in (1 << k for k in range(3, 20)) if scale.shortest <= n <= scale.longest]
    times: dict[int, list[float]] = {length: [] for length in lengths}
    generator = np.random.default_rng(0)
    for turn in range(rounds + 1):
        for length in generator.permutation(lengths).tolist():
            shape = (scale.tokens_per_step // length, length + 1)
            blocks = generator.integers(0, config.model.vocab_size, shape)
            loader = RowLoader(blocks, None, tokens_per_step=scale.tokens_per_step, num_steps=1, seed=0)
            start = time.perf_counter()
            train_step(model, optimizer, loader, config)
            if turn:  # the first round warms up
                times[length].append(time.perf_counter() - start)
    return {length: float(np.median(values)) for length, values in times.items()}


def _draw(out: Path, results: dict[str, list[dict[str, Any]]], seconds: dict[int, float]) -> None:
    curves = {}
    for arm, runs in results.items():
        clock = np.cumsum([seconds[n] for n in runs[0]["lengths"]])
        steps = [step for step, _ in runs[0]["curve"]]
        means = np.mean([[value for _, value in run["curve"]] for run in runs], axis=0)
        curves[arm] = ([float(clock[step - 1]) for step in steps], means.tolist())
    draw_curves(out / "curves.svg", curves, "training seconds (measured step times)", "Held-out loss over time")
    lengths = {arm: np.array(runs[0]["lengths"]) for arm, runs in results.items() if arm.startswith("DD")}
    draw_steps(out / "lengths.svg", lengths)
