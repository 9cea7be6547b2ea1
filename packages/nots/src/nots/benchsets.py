"""Benchmark sets in their official layouts: ETT, SMD, MSL, SWaT and PSM, prepared as TimesNet's code does.

Scalers are fitted on the training part alone, every window is looked at, also the last ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tenfold_shared.commands import InputError, unknown_name

from nots.readers import read_table

HOUR = 30 * 24  # hours of a month of ETT
ETT = ("ETTh1", "ETTh2", "ETTm1", "ETTm2")
DETECTION = ("SMD", "MSL", "SWaT", "PSM")
CHANNELS = {"SMD": 38, "MSL": 55, "SWaT": 51, "PSM": 25}
ANOMALY_SHARE = {"SMD": 0.5, "MSL": 1.0, "SWaT": 1.0, "PSM": 1.0}  # per cent, of TimesNet's scripts
VALID_SHARE = 0.2


@dataclass(frozen=True)
class Scaler:
    """Mean and deviation of each channel of a training part.

    Attributes:
        mean: [channels].
        scale: [channels]; 1 where a channel is constant.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, table: np.ndarray) -> Scaler:
        """Fit to rows of time [time, channels], nan left out."""
        scale = np.nanstd(table, axis=0)
        return cls(np.nanmean(table, axis=0), np.where(scale > 0, scale, 1.0))

    def apply(self, table: np.ndarray) -> np.ndarray:
        """Return rows in the training part's scale."""
        return (table - self.mean) / self.scale


@dataclass(frozen=True)
class SplitSeries:
    """One long series in three parts [time, channels], in the training part's scale.

    Attributes:
        train: To learn on.
        valid: To choose on.
        test: To report on.
        labels: Whether a test point is an anomaly; empty for ETT.
        scaler: Of the training part.
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    scaler: Scaler


def load_ett(folder: str | Path, name: str) -> SplitSeries:
    """Read `ETTh1.csv` and the like: twelve, four and four months.

    Args:
        folder: That holds the file.
        name: ETTh1, ETTh2, ETTm1 or ETTm2.
    """
    if name not in ETT:
        raise unknown_name("ETT set", name, ETT)
    table = read_table(_there(Path(folder) / f"{name}.csv"))
    month = HOUR * (4 if "m" in name else 1)
    if len(table) < 20 * month:
        raise InputError(f"{name}.csv has {len(table)} rows; 20 months are {20 * month}.")
    train, valid, test = table[: 12 * month], table[12 * month : 16 * month], table[16 * month : 20 * month]
    scaler = Scaler.fit(train)
    return SplitSeries(*(scaler.apply(part) for part in (train, valid, test)), np.empty(0), scaler)


def load_detection(folder: str | Path, name: str) -> SplitSeries:
    """Read SMD, MSL (`NAME_train.npy`, ...), SWaT (`swat_train2.csv`, `swat2.csv`) or PSM (`train.csv`, ...).

    The last fifth of the training file is for validation, as TimesNet has it; the scaler is fitted on what is before.

    Args:
        folder: That holds the files.
        name: Of the set.
    """
    if name not in DETECTION:
        raise unknown_name("detection set", name, DETECTION)
    folder = Path(folder)
    read = {"SWaT": _swat, "PSM": _psm}.get(name)
    whole, test, labels = read(folder) if read else _arrays(folder, name)
    if whole.shape[1] != CHANNELS[name] or test.shape[1] != CHANNELS[name]:
        raise InputError(f"{name} has {CHANNELS[name]} channels; found {whole.shape[1]} and {test.shape[1]}.")
    if len(labels) != len(test):
        raise InputError(f"{name}: {len(labels)} labels for {len(test)} test rows.")
    cut = round(len(whole) * (1 - VALID_SHARE))
    scaler = Scaler.fit(whole[:cut])
    parts = (scaler.apply(part) for part in (whole[:cut], whole[cut:], test))
    return SplitSeries(*parts, labels.astype(bool), scaler)


def _arrays(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    parts = []
    for part in ("train", "test", "test_label"):
        path = _there(folder / f"{name}_{part}.npy")
        try:
            parts.append(np.load(path, allow_pickle=False).astype(np.float64))
        except ValueError as error:
            raise InputError(f"{path} is no whole array file without objects ({error}).") from error
    train, test, labels = parts
    return train, test, labels.reshape(-1)


def _swat(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    train, test = (read_table(_there(folder / file)) for file in ("swat_train2.csv", "swat2.csv"))
    return train[:, :-1], test[:, :-1], test[:, -1]


def _psm(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    skip = ("timestamp_(min)",)
    train, test, labels = (read_table(_there(folder / f"{n}.csv"), skip=skip) for n in ("train", "test", "test_label"))
    return np.nan_to_num(train), np.nan_to_num(test), labels[:, 0]


def _there(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no {path.name} in {path.parent}; download it in the layout of Time-Series-Library.")
    return path
