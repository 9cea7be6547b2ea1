"""Training and embedding beside the padding-mask form and braindecode's BIOT; reading EDF and WFDB beside mne and wfdb.

    physiomae benchmark --budget laptop        (one thread, under three minutes; the peer BIOT needs `uv`)

Seconds are CPU seconds of one process with one thread, medians over interleaved rounds. The padding-mask form runs the
same weights over all tokens and hides them by a key mask; states of the visible tokens are checked to be equal. Read is
an hour of thirteen channels at 200 Hz; samples are checked to be equal. BIOT runs in an environment of its own, right
before ours, on windows of six channels of EEG, with the width and depth that it has there; ours has the same.
Memory is what a training step keeps for its backward pass (bytes of saved tensors, counted, not sampled), with channels
mixed in the stem beside one token for each channel.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from torch import Tensor

from physiomae.batch import MultimodalBatch
from physiomae.config import OBJECTIVES, PRESETS, ModalityConfig, PhysioMAEConfig
from physiomae.masking import draw, hide_tokens
from physiomae.model import Encoded, PhysioMAE
from physiomae.peers import CHANNELS, RATE_HZ, embed_with_biot
from physiomae.readers import read_recording

Budget = Literal["smoke", "laptop", "full"]
ROUNDS: dict[Budget, int] = {"smoke": 1, "laptop": 5, "full": 9}
HOURS: dict[Budget, float] = {"smoke": 0.02, "laptop": 1.0, "full": 4.0}
WINDOWS: dict[Budget, int] = {"smoke": 2, "laptop": 16, "full": 32}
READING_AIM = 1.0
PSG = (
    "F3-M2",
    "F4-M1",
    "C3-M2",
    "C4-M1",
    "O1-M2",
    "O2-M1",
    "E1-M2",
    "Chin1-Chin2",
    "ABD",
    "CHEST",
    "AIRFLOW",
    "SaO2",
    "ECG",
)
Row = dict[str, Any]


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[Row]:
    """Time all parts and return one row for each comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: Lengths and rounds; smoke leaves BIOT out, whose environment takes longer than all else.
        seed: Of signals and weights.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, aim, threads, input_hash`; `ratio` over 1: ours
        is better.

    Raises:
        RuntimeError: Outputs that should be equal are not.
    """
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config, rounds = PRESETS["sleep_small"], ROUNDS[budget]
    batch = make_batch(config, WINDOWS[budget], seed)
    rows = [training(config, batch, rounds), embedding(config, batch, rounds), *memory(seed)]
    if budget != "smoke":
        rows.append(against_biot(rounds, WINDOWS[budget], seed))
    with tempfile.TemporaryDirectory(dir=out) as folder:
        rows += reading(Path(folder), HOURS[budget], rounds, seed)
    digest = hashlib.sha256(batch.signals["eeg"].numpy().tobytes()).hexdigest()[:16]
    return [{"paper": "physiomae", "threads": 1, "input_hash": digest, **row} for row in rows]


def make_batch(config: PhysioMAEConfig, num: int, seed: int) -> MultimodalBatch:
    """Draw windows of noise for every modality of a model."""
    generator = np.random.default_rng(seed)
    arrays = {
        m.name: generator.normal(size=(num, len(m.channels), config.window_samples(m))).astype(np.float32)
        for m in config.modalities
    }
    return MultimodalBatch.from_arrays(config, arrays)


def encode_with_mask(model: PhysioMAE, batch: MultimodalBatch, visible: Tensor) -> Encoded:
    """Encode all tokens and hide the others by a key mask: the padding-mask form."""
    states, flat = model.tokens(batch).flatten(1, 2), visible.flatten(1)
    for block in model.blocks:
        states = block(states, flat[:, None, None])
    index = torch.arange(flat.shape[1]).expand_as(flat)
    return Encoded(model.norm(states), index, flat, model.order(batch))


def training(config: PhysioMAEConfig, batch: MultimodalBatch, rounds: int) -> Row:
    """Time forward and backward of masked autoencoding at a ratio of 0.75."""
    model = PhysioMAE(config)
    available = model.available(batch)
    objective = replace(OBJECTIVES["mae"], mask_ratio=0.75)
    visible, asked = hide_tokens(available, objective, draw(tuple(available.shape), 0, 0))
    _check_equal(model, batch, visible)

    def step(encode: Callable[..., Encoded]) -> Callable[[], None]:
        def run() -> None:
            from physiomae.loss import mean_over_modalities, reconstruction_sums

            predicted = model.decode(encode(batch, visible))
            sums = reconstruction_sums(predicted, model.targets(batch), asked, batch.present)
            mean_over_modalities(*sums).backward()
            model.zero_grad()

        return run

    masked = "padding-mask form"
    calls = {"ours": step(model.encode), masked: step(lambda *parts: encode_with_mask(model, *parts))}
    work, seconds = "training, 6 modalities, 3/4 masked", interleave(calls, rounds)
    return comparison(work, seconds, masked, "windows/CPU s", amount=len(batch))


def _check_equal(model: PhysioMAE, batch: MultimodalBatch, visible: Tensor) -> None:
    with torch.no_grad():
        ours, other = model.encode(batch, visible), encode_with_mask(model, batch, visible)
    places = ours.index[..., None].expand_as(ours.states)
    gap = (other.states.gather(1, places) - ours.states)[ours.valid].abs().max()
    if gap > 1e-4:
        raise RuntimeError(f"the padding-mask form differs by {float(gap):.2g}.")


def embedding(config: PhysioMAEConfig, batch: MultimodalBatch, rounds: int) -> Row:
    """Time embeddings where three of six modalities are there."""
    model, seen = PhysioMAE(config).eval(), ("eeg", "eog", "ecg")
    available = model.available(batch)
    visible = torch.zeros_like(available)
    visible[:, [config.names.index(name) for name in seen]] = True
    masked = "padding-mask form"

    def ours() -> None:
        with torch.inference_mode():
            model.embed(batch, seen)

    def other() -> None:
        with torch.inference_mode():
            model.modality_means(encode_with_mask(model, batch, visible & available))

    seconds = interleave({"ours": ours, masked: other}, rounds)
    return comparison("embedding, 3 of 6 modalities", seconds, masked, "windows/CPU s", amount=len(batch))


def against_biot(rounds: int, num: int, seed: int) -> Row:
    """Time embeddings of EEG windows beside BIOT, at its width, depth and heads."""
    found = embed_with_biot(torch.__version__, rounds, num, 30)
    eeg = ModalityConfig("eeg", PSG[:CHANNELS], RATE_HZ)
    config = PhysioMAEConfig((eeg,), 30.0, 1.0, 256, 4, 8, 64, 1)
    model, batch = PhysioMAE(config).eval(), make_batch(config, num, seed)

    def ours() -> None:
        with torch.inference_mode():
            model.embed(batch)

    seconds = {**interleave({"ours": ours}, rounds), "braindecode BIOT": np.array(found["seconds"])}
    work = "embedding, 6 channels of EEG, 30 s"
    return comparison(work, seconds, "braindecode BIOT", "windows/CPU s", amount=num)


def memory(seed: int) -> list[Row]:
    """Count bytes kept for the backward pass with 1, 6 and 13 channels, mixed in the stem and one token each."""
    rows = []
    for count in (1, 6, 13):
        mixed = PhysioMAEConfig((ModalityConfig("psg", PSG[:count], 100),), 30.0, 1.0, 64, 2, 4, 32, 1)
        each = tuple(ModalityConfig(f"c{i}", (name,), 100) for i, name in enumerate(PSG[:count]))
        configs = {"ours": mixed, "a token a channel": replace(mixed, modalities=each)}
        kept = {name: kept_bytes(config, seed) / 1e6 for name, config in configs.items()}
        rows.append(comparison(f"memory of a training step, {count} channels", kept, "a token a channel", "MB"))
    return rows


def kept_bytes(config: PhysioMAEConfig, seed: int) -> int:
    """Return the bytes of tensors that a step on four windows saves for its backward pass."""
    torch.manual_seed(seed)
    model, batch = PhysioMAE(config), make_batch(config, 4, seed)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        available = model.available(batch)
        visible, _ = hide_tokens(available, OBJECTIVES["mae"], draw(tuple(available.shape), 0, 0))
        outputs = model.decode(model.encode(batch, visible))
        total = torch.stack([value.square().mean() for value in outputs.values()]).sum()
    total.backward()
    return sum(kept.values())


def reading(folder: Path, hours: float, rounds: int, seed: int) -> list[Row]:
    """Time reading all channels of an EDF and of a WFDB record in physical units."""
    edf, wfdb = write_edf(folder, hours, seed), write_wfdb(folder, hours, seed)
    mne: Any = require_extra("mne", "demo", "physiomae")
    wfdb_peer: Any = require_extra("wfdb", "demo", "physiomae")

    def read_mne() -> np.ndarray:
        return mne.io.read_raw_edf(edf, preload=True, verbose="error").get_data()

    def read_peer() -> np.ndarray:
        return wfdb_peer.rdrecord(str(wfdb.with_suffix(""))).p_signal

    ours = {path: np.stack([s.samples for s in read_recording(path).signals]) for path in (edf, wfdb)}
    _check_samples(ours[edf], read_mne() * 1e6)
    _check_samples(ours[wfdb], read_peer().T)
    of_edf = interleave({"ours": lambda: read_recording(edf), "mne": read_mne}, rounds)
    of_wfdb = interleave({"ours": lambda: read_recording(wfdb), "wfdb": read_peer}, rounds)
    row = partial(comparison, unit="channel hours/CPU s", amount=len(PSG) * hours, aim=READING_AIM)
    return [row("reading EDF", of_edf, "mne"), row("reading WFDB", of_wfdb, "wfdb")]


def _check_samples(ours: np.ndarray, peer: np.ndarray) -> None:
    if ours.shape != peer.shape or not np.allclose(ours, peer, rtol=1e-4, atol=1e-2):
        raise RuntimeError("our reader and its peer give different samples.")


def _digital(hours: float, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.integers(-3000, 3000, (round(hours * 3600) * 200, len(PSG)), dtype=np.int16)


def write_edf(folder: Path, hours: float, seed: int) -> Path:
    """Write thirteen channels at 200 Hz as EDF in microvolts."""
    edfio: Any = require_extra("edfio", "demo", "physiomae")
    samples = _digital(hours, seed) * 0.1
    signals = [
        edfio.EdfSignal(samples[:, i], 200, label=name, physical_dimension="uV", physical_range=(-300, 300))
        for i, name in enumerate(PSG)
    ]
    edfio.Edf(signals).write(folder / "night.edf")
    return folder / "night.edf"


def write_wfdb(folder: Path, hours: float, seed: int) -> Path:
    """Write thirteen channels at 200 Hz as a WFDB record of format 16."""
    wfdb: Any = require_extra("wfdb", "demo", "physiomae")
    wfdb.wrsamp(
        "night",
        fs=200,
        units=["uV"] * len(PSG),
        sig_name=list(PSG),
        d_signal=_digital(hours, seed).astype(np.int64),
        fmt=["16"] * len(PSG),
        adc_gain=[10.0] * len(PSG),
        baseline=[0] * len(PSG),
        write_dir=str(folder),
    )
    return folder / "night.hea"
