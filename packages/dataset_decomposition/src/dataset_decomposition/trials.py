"""One run of the experiment: a way of filling rows, a seed, a rate, a share of the data; and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.environment import seed_everything
from tenfold_shared.files import write_json

from dataset_decomposition.arms import RowLoader, chunk, pack
from dataset_decomposition.config import Curriculum, ModelConfig, TrainConfig
from dataset_decomposition.corpus import gather_functions, read_sources
from dataset_decomposition.evaluate import evaluate, retrieve_keys
from dataset_decomposition.loader import BucketLoader
from dataset_decomposition.model import Decoder
from dataset_decomposition.store import TokenStore, write_store
from dataset_decomposition.train import build_optimizer, train_step

HELD_OUT = 12  # every twelfth file for validation, another twelfth for the test
TOKENIZER_DOCUMENTS = 4000
WARMUP_STEPS = 20
RETRIEVALS, KEY_TOKENS = 256, 4
MARKS, CURVE_DOCUMENTS = 6, 100  # points of a curve, and validation documents behind each
DIVERGED = 100.0  # what a run whose loss is not finite counts as a rise

CURRICULA: dict[str, tuple[Curriculum, int]] = {
    "DD uniform": ("uniform", 8),
    "DD grow-p2": ("grow-p2", 8),
    "DD grow-p2, 1 cycle": ("grow-p2", 1),
    "DD grow-p100": ("grow-p100", 8),
    "DD shrink-p100": ("shrink-p100", 8),
}
MASKED = ("C&C with mask", "best-fit")
ARMS = ("C&C", "C&C short", *MASKED, *CURRICULA, "chunked 1/8")

Documents = tuple[list[np.ndarray], list[int]]  # token ids and bytes of each


@dataclass(frozen=True)
class Scale:
    """Sizes of a budget: the model, its rows, its tokens, and held-out documents per part."""

    model: ModelConfig
    longest: int
    shortest: int
    tokens: int
    tokens_per_step: int
    held_out: int


@dataclass(frozen=True)
class Trial:
    """What one run depends on.

    Args:
        arm: One of `ARMS`.
        seed: Of weights and order.
        lr: Peak rate.
        part: Share of the training documents.
        clip: Largest norm of the gradient; 0 switches clipping off.
        steps: Steps, where a run has to end sooner than its data.
    """

    arm: str
    seed: int
    lr: float
    part: float = 1.0
    clip: float = 1.0
    steps: int = 0

    @property
    def key(self) -> str:
        """Name of the run's file."""
        words = (self.arm, f"{self.part:g}", self.seed, f"{self.lr:g}", f"clip{self.clip:g}", self.steps or "all")
        return "-".join(str(word).replace(" ", "_").replace("/", "_") for word in words)


@dataclass(frozen=True)
class Data:
    """Stores of the training documents by share, and held-out documents; `short` ones give no row of any bucket."""

    stores: dict[float, Path]
    validation: Documents
    test: Documents
    short: Documents


def prepare(out: Path, scale: Scale, parts: Sequence[float]) -> Data:
    """Tokenise the corpus and write training documents as stores with buckets, one for each share of them."""
    files = gather_functions(read_sources())
    training = _shuffled([text for i, part in enumerate(files) if i % HELD_OUT > 1 for text in part])
    encode = _train_tokenizer(training[:TOKENIZER_DOCUMENTS], scale.model.vocab_size)
    documents: list[np.ndarray] = []
    total = 0
    for text in training:
        if total >= scale.tokens:
            break
        documents.append(encode(text))
        total += len(documents[-1])
    ends = np.cumsum([len(document) for document in documents])
    stores = {}
    for part in parts:
        stores[part] = out / f"store-{part:g}"
        chosen = documents[: int(np.searchsorted(ends, part * total)) + 1]
        store = write_store(stores[part], chosen, vocab_size=scale.model.vocab_size)
        store.decompose(min_length=scale.shortest, max_length=scale.longest)
    held = [_shuffled([text for part in files[turn::HELD_OUT] for text in part]) for turn in (0, 1)]
    validation, test = (_sample(texts[: scale.held_out], encode) for texts in held)
    tokens, num_bytes = _sample(held[1], encode)
    short = [i for i, document in enumerate(tokens) if 8 < len(document) <= scale.shortest][: scale.held_out]
    return Data(stores, validation, test, ([tokens[i] for i in short], [num_bytes[i] for i in short]))


def _shuffled(texts: list[str]) -> list[str]:
    """Functions of one file stand apart, as pages of a crawl do."""
    return [texts[i] for i in np.random.default_rng(0).permutation(len(texts))]


def _sample(texts: Sequence[str], encode: Any) -> Documents:
    return [encode(text) for text in texts], [len(text.encode()) for text in texts]


def _train_tokenizer(texts: Sequence[str], vocab_size: int) -> Any:
    """Train a byte-level BPE; returns text -> ids with end token 0."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return lambda text: np.array([*tokenizer.encode(text).ids, 0])


def build_loader(trial: Trial, scale: Scale, store: TokenStore) -> Any:
    """Return the batches of an arm; all arms have as many steps as the decomposition, unless the trial says fewer."""
    curriculum, cycles = CURRICULA.get(trial.arm, ("natural", 1))
    size = scale.tokens_per_step
    options: dict[str, Any] = {"curriculum": curriculum, "cycles": cycles, "seed": trial.seed, "longest_first": False}
    decomposed = BucketLoader(store, tokens_per_step=size, **options)
    if trial.arm in CURRICULA:
        return decomposed
    length = {"C&C short": scale.longest // 4, "chunked 1/8": scale.longest // 8}.get(trial.arm, scale.longest)
    make = pack if trial.arm == "best-fit" else chunk
    blocks, owners = make(np.asarray(store.tokens), store.lengths, length)
    segments = owners if trial.arm in MASKED else None
    steps = trial.steps or len(decomposed)
    return RowLoader(blocks, segments, tokens_per_step=size, num_steps=steps, seed=trial.seed)


def run_trial(out: Path, trial: Trial, scale: Scale, data: Data) -> dict[str, Any]:
    """Train and evaluate, or read what a call before this one found."""
    path = out / "arms" / f"{trial.key}.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    loader = build_loader(trial, scale, TokenStore(data.stores[trial.part]))
    model, curve, rise = _fit(loader, trial, scale, data)
    text = np.concatenate(data.test[0])
    keys = {"length": scale.longest, "trials": RETRIEVALS, "seed": 0, "key_tokens": KEY_TOKENS}
    result = {
        **asdict(trial),
        "lengths": loader.step_lengths()[: loader.step].tolist(),
        "curve": curve,
        "rise": rise,
        "validation": _evaluate(model, data.validation, scale)["bits_per_byte"],
        "final": _evaluate(model, data.test, scale),
        "short": _evaluate(model, data.short, scale)["bits_per_byte"],
        "retrieval": retrieve_keys(model, text, **keys),
    }
    write_json(path, result)
    return result


def train_config(scale: Scale, lr: float, seed: int, clip: float = 1.0) -> TrainConfig:
    """Return the recipe, the same for all arms."""
    shape: dict[str, Any] = {"warmup_steps": WARMUP_STEPS, "grad_clip": clip, "seed": seed}
    return TrainConfig(scale.model, scale.tokens_per_step, lr=lr, min_lr=lr / 100, **shape)


def _fit(loader: Any, trial: Trial, scale: Scale, data: Data) -> tuple[Decoder, list[tuple[int, float]], float]:
    """Train to the loader's end; return the model, (step, validation bits per byte) and the largest rise of the loss.

    The rise is over the lowest loss before it of rows of the same length.
    """
    config = train_config(scale, trial.lr, trial.seed, trial.clip)
    seed_everything(trial.seed)
    model = Decoder(config.model)
    optimizer, curve, rise = build_optimizer(model, config), [], 0.0
    lowest: dict[int, float] = {}
    some: Documents = (data.validation[0][:CURVE_DOCUMENTS], data.validation[1][:CURVE_DOCUMENTS])
    marks = {round(len(loader) * (i + 1) / MARKS) for i in range(MARKS)}
    lengths = loader.step_lengths().tolist()
    while loader.step < len(loader):
        model.train()
        length = lengths[loader.step]
        try:
            loss = train_step(model, optimizer, loader, config)[0]
        except FloatingPointError:
            return model, curve, DIVERGED
        lowest[length] = min(loss, lowest.get(length, loss))
        rise = max(rise, loss - lowest[length])
        if loader.step in marks:
            curve.append((loader.step, _evaluate(model, some, scale)["bits_per_byte"]))
    return model, curve, rise


def _evaluate(model: Decoder, part: Documents, scale: Scale) -> dict[str, float]:
    found = evaluate(model, *part, max_length=scale.longest, short=scale.shortest)
    return {name: value for name, value in found.items() if np.isfinite(value)}


def step_seconds(scale: Scale, rounds: int, clock: Callable[[], float] = time.perf_counter) -> dict[int, list[float]]:
    """Return the seconds of a step of each row length in each round; lengths are shuffled within a round."""
    config = train_config(scale, 1e-3, 0)
    model = Decoder(config.model)
    optimizer = build_optimizer(model, config)
    lengths = [n for n in (1 << k for k in range(3, 20)) if scale.shortest <= n <= scale.longest]
    times: dict[int, list[float]] = {length: [] for length in lengths}
    generator = np.random.default_rng(0)
    for turn in range(rounds + 1):
        for length in generator.permutation(lengths).tolist():
            shape = (scale.tokens_per_step // length, length + 1)
            blocks = generator.integers(0, config.model.vocab_size, shape)
            loader = RowLoader(blocks, None, tokens_per_step=scale.tokens_per_step, num_steps=1, seed=0)
            start = clock()
            train_step(model, optimizer, loader, config)
            if turn:  # the first round warms up
                times[length].append(clock() - start)
    return times
