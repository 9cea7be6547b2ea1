"""Real series that come with aeon: classification, imputation, detection and forecasting with the experiment's trunks.

Fixed before the run, after the synthetic runs of seed 0 had been seen. Trunks are those of the synthetic arms, which
have seen no real series; their seed is also that of the adaptation. Sets: GunPoint, ItalyPowerDemand, ArrowHead (one
channel), BasicMotions (six), official splits, 100 updates of 16 series at the synthetic adaptation's rate;
InternalBleeding of KDD-TSAD, for imputation (a hidden quarter of each window of 256, adapted on the training file in 60
updates, scored on the test file, squared error in the training file's variance) and for detection (average precision of
the points, no point adjustment, detector without training on it); Airline (one step ahead, last 36 months, 100 updates,
mean absolute error in passengers). Arms: nots, mae, next, random_sequence and random, frozen and full. On other trunks
(width 32, two layers; patchtst with patches of an eighth, itransformer) 150 updates of NoTS on the training series of
the set itself, or none, before the same adaptation without adaptors. Peers of aeon: MiniRocket and Hydra. Five seeds.
Claims, on the mean accuracy of the four sets: nots frozen against next frozen ("up to 6 %", 5.9 points in the paper)
and against the strongest of the four others; full against random weights trained whole, read either way (the supervised
trunk), and against the better peer; a boost for either other trunk. Minimum effect one point.
"""

from __future__ import annotations

import copy
import csv
import importlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import require_extra
from tenfold_shared.files import write_json
from torch.nn import functional

from nots import protocols, windows
from nots.adapt import Target, adapt, predict
from nots.benchsets import Scaler
from nots.config import AdaptConfig, NoTSConfig, TrainConfig
from nots.experiment import ADAPT_RATE, ARMS, Job, Sizes, pretrained, rounded
from nots.fitting import fitted_config, to_series
from nots.model import NoTS
from nots.readers import Collected, read_table, read_ts
from nots.train import build, fit

SETS = ("GunPoint", "ItalyPowerDemand", "ArrowHead", "BasicMotions")
TRUNKS = ("nots", "mae", "next", "random_sequence", "random")
MODES = ("frozen", "full")
OTHER = ("patchtst", "itransformer")
PEERS = {"MiniRocket": "MiniRocketClassifier", "Hydra": "HydraClassifier"}
SEASON, LAST_MONTHS, HIDDEN = 12, 36, 0.25
Trunk = Callable[[str, int], NoTS]


def data_folder() -> Path:
    """Return where aeon keeps its data."""
    aeon: Any = require_extra("aeon", "demo", "nots-torch")
    return Path(aeon.__file__).parent / "datasets" / "data"


def read_set(name: str) -> tuple[Collected, Collected]:
    """Return the official training and test parts of a set."""
    folder = data_folder() / name
    train, test = (read_ts(folder / f"{name}_{part}.ts") for part in ("TRAIN", "TEST"))
    return train, test


def accuracy(trunk: NoTS, config: AdaptConfig, name: str) -> float:
    """Adapt a trunk to a set's training part and return the accuracy on its test part, in per cent."""
    train, test = read_set(name)
    classes, y = np.unique(train.labels, return_inverse=True)
    x = to_series(train.series, trunk.config.length)
    targets = {"class": Target("pooled", len(classes))}
    model = adapt(copy.deepcopy(trunk), config, targets, (x, torch.from_numpy(y)), functional.cross_entropy)
    told = predict(model, to_series(test.series, trunk.config.length)).argmax(1).numpy()
    return 100 * float((classes[told] == test.labels).mean())


def transfer_config(arm: str, mode: Any, seed: int, num_steps: int) -> AdaptConfig:
    """Return how a synthetic arm's trunk is adapted."""
    return AdaptConfig(mode, ARMS[arm].readout, num_steps=num_steps, batch_size=16, learning_rate=ADAPT_RATE, seed=seed)


def other_accuracy(tokenizer: Any, boosted: bool, name: str, seed: int, steps: tuple[int, int]) -> float:
    """Train another trunk on a set, after NoTS on the same series or from random weights."""
    train, _ = read_set(name)
    channels, length = train.series[0].shape
    base = NoTSConfig(dim=32, mlp_dim=64, num_heads=4, num_layers=2, patch=16, length=256)
    config = fitted_config(base, channels, length)
    patch = config.length if tokenizer == "itransformer" else config.length // 8
    config = replace(config, tokenizer=tokenizer, patch=patch)
    how = TrainConfig("nots", steps[0], 16, 3e-3, max(1, steps[0] // 20), seed=seed)
    trunk = fit(config, how, to_series(train.series, config.length)) if boosted else build(config, how).model
    adaptation = AdaptConfig("none", "sequence", 0, steps[1], 16, ADAPT_RATE, seed=seed)
    return accuracy(trunk, adaptation, name)


def peer_accuracy(peer: str, name: str, seed: int) -> float:
    """Return the accuracy of a classifier of aeon, in per cent."""
    module: Any = importlib.import_module("aeon.classification.convolution_based")
    train, test = read_set(name)
    model = getattr(module, PEERS[peer])(random_state=seed).fit(np.stack(train.series), train.labels)
    return 100 * float((model.predict(np.stack(test.series)) == test.labels).mean())


def imputation(trunk: NoTS, arm: str, seed: int, num_steps: int) -> dict[str, float]:
    """Adapt a trunk to hidden spans of InternalBleeding's training file and score it on the test file."""
    train, test = (bleeding(part)[:, :1] for part in ("TRAIN", "TEST"))
    scaler = Scaler.fit(train)
    train, test = scaler.apply(train), scaler.apply(test)
    length, rng = trunk.config.length, np.random.default_rng(seed)
    pieces = windows.cut(train.T, length, length // 4)[0]
    x, truth, weight = windows.puzzles(pieces, windows.hide_spans(pieces, HIDDEN, rng))
    labels = torch.stack([truth - x, weight], dim=1)
    config = transfer_config(arm, "full", seed, num_steps)
    targets = {"series": Target("series", length)}
    model = adapt(copy.deepcopy(trunk), config, targets, (x, labels), windows.hidden_error)
    return protocols.imputation_errors(lambda window: windows.fill(model, window), test, length, HIDDEN, seed)


def bleeding(part: str) -> np.ndarray:
    """Return a file of InternalBleeding: value, and whether the point is an anomaly [time, 2]."""
    return read_table(data_folder() / "KDD-TSAD_135" / f"135_UCR_Anomaly_InternalBleeding16_{part}.csv")


def detection(trunk: NoTS) -> dict[str, float]:
    """Score a trunk's surprise at each point of InternalBleeding, beside the distance to a running median."""
    from nots.series_estimators import tell_errors

    rows = bleeding("TEST")
    series, truth = rows[:, 0], rows[:, 1].astype(bool)
    pieces, starts = windows.cut(series[None], trunk.config.length)
    scores = windows.join(tell_errors(trunk, pieces), starts, len(series))[0]
    around = torch.from_numpy(np.pad(series, 25, mode="edge")).unfold(0, 51, 1)
    simple = np.abs(series - around.median(1).values.numpy())
    precision = protocols.average_precision
    return {"score": 100 * precision(scores, truth), "simple": 100 * precision(simple, truth)}


def forecasting(trunk: NoTS, seed: int, num_steps: int) -> dict[str, float]:
    """Score one-step forecasts of the last months of Airline, beside the seasonal naive ones."""
    from nots.series_estimators import NoTSForecaster

    with open(data_folder() / "Airline" / "Airline.csv", newline="", encoding="utf-8") as file:
        series = np.array([float(line[1]) for line in list(csv.reader(file))[1:]])
    start = len(series) - LAST_MONTHS
    model = NoTSForecaster(1, trunk, adapt_steps=num_steps, random_state=seed).fit(series[:start])
    return protocols.forecast_errors(model.predict, series, start, 1, SEASON)


def run_real(
    out: Path, rates: Callable[[str], float], sizes: Sizes, seeds: Sequence[int], steps: tuple[int, int, int]
) -> list[dict[str, Any]]:
    """Make all real runs, going on from those that are done.

    Args:
        out: Folder with `trunks`, gets `real`.
        rates: Of the synthetic arms.
        sizes: Of the synthetic arms.
        seeds: Seed by seed.
        steps: Updates of the adaptation, of NoTS on other trunks, and of the imputation's adaptation.
    """

    def trunk(arm: str, seed: int) -> NoTS:
        return pretrained(out, Job(arm, seed, rates(arm)), sizes)

    found = []
    for seed in seeds:
        for key, work in jobs(trunk, seed, steps).items():
            path = out / "real" / f"{'-'.join(key)}-{seed}.json"
            if not path.exists():
                start = time.process_time()
                task, name, arm, mode = key
                facts = {"part": "real", "task": task, "set": name, "arm": arm, "mode": mode, "seed": seed}
                result = work()
                write_json(path, rounded({**facts, **result, "seconds": time.process_time() - start}))
            found.append(json.loads(path.read_text(encoding="utf-8")))
    return found


def jobs(
    trunk: Trunk, seed: int, steps: tuple[int, int, int]
) -> dict[tuple[str, str, str, str], Callable[[], dict[str, float]]]:
    """Return one seed's runs: task, set, arm and mode -> what makes them."""
    adapt_steps, boost_steps, fill_steps = steps
    made: dict[tuple[str, str, str, str], Callable[[], dict[str, float]]] = {}
    for name in SETS:
        for arm in TRUNKS:
            for mode in MODES:
                config = transfer_config(arm, mode, seed, adapt_steps)
                made["classify", name, arm, mode] = lambda a=arm, c=config, n=name: {
                    "score": accuracy(trunk(a, seed), c, n)
                }
        for peer in PEERS:
            made["classify", name, peer, "peer"] = lambda p=peer, n=name: {"score": peer_accuracy(p, n, seed)}
    for arm in TRUNKS:
        made["impute", "InternalBleeding", arm, "full"] = lambda a=arm: imputation(trunk(a, seed), a, seed, fill_steps)
    for arm in ("nots", "random_sequence"):
        made["detect", "InternalBleeding", arm, "none"] = lambda a=arm: detection(trunk(a, seed))
        made["forecast", "Airline", arm, "full"] = lambda a=arm: forecasting(trunk(a, seed), seed, adapt_steps)
    for name in SETS:
        for tokenizer in OTHER:
            for boosted in (False, True):
                key = ("classify", name, tokenizer, "boosted" if boosted else "supervised")
                made[key] = lambda t=tokenizer, b=boosted, n=name: {
                    "score": other_accuracy(t, b, n, seed, (boost_steps, adapt_steps))
                }
    return made
