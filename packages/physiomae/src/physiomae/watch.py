"""seglearn's smart-watch recordings, read from the installed package: ten subjects, seven exercises, two sensors.

The file is a NumPy file around a pickle. It is read with an unpickler that knows arrays and nothing else, so that a
changed file can run no code.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

RATE_HZ = 50.0
WINDOW, STRIDE = 128, 64  # 2.56 s, half overlapping
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "scalar"): np.float64(0).__reduce__()[0],
}


class _Arrays(pickle.Unpickler):
    """Builds arrays, numbers, text, lists and dictionaries; anything else is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode(encoding)
        if (module, name) not in _ALLOWED:
            raise InputError(f"the watch data asks for {module}.{name}, which is no array; install seglearn again.")
        return _ALLOWED[module, name]


@dataclass(frozen=True)
class WatchData:
    """Windows of the watch.

    Attributes:
        signals: Modality -> [windows, 3, 128], in the file's units.
        subject: Subject of each window, 0 to 9.
        activity: Exercise of each window, 0 to 6.
        cadence_hz: Strongest frequency of the acceleration between 0.3 and 4 Hz.
        gyro_rms: Logarithm of the root mean square of the gyroscope.
    """

    signals: dict[str, np.ndarray]
    subject: np.ndarray
    activity: np.ndarray
    cadence_hz: np.ndarray
    gyro_rms: np.ndarray


def find_file() -> Path:
    """Return the data file of the installed seglearn; an ImportError names the command that brings it."""
    found = importlib.util.find_spec("seglearn")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the watch recordings come with seglearn: pip install 'physiomae[demo]'.")
    return Path(found.submodule_search_locations[0]) / "data" / "watch_dataset.npy"


def read_arrays(path: Path) -> dict[str, Any]:
    """Read the dictionary in a NumPy object file without running anything that it might hold."""
    content = io.BytesIO(path.read_bytes())
    version = np.lib.format.read_magic(content)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header(content)
    try:
        loaded = _Arrays(content, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise InputError(f"{path} is damaged ({error}); install seglearn again.") from error
    return loaded.item()


def load_watch() -> WatchData:
    """Cut the recordings into windows of 2.56 s that overlap by half, each with its labels.

    Labels of cadence and gyroscope come from the windows themselves, so that a probe shows whether a sensor's content
    is still in an embedding of the other one.
    """
    raw = read_arrays(find_file())
    windows, subject, activity = [], [], []
    for record, who, what in zip(raw["X"], raw["subject"], raw["y"], strict=True):
        starts = range(0, len(record) - WINDOW + 1, STRIDE)
        windows += [np.asarray(record[start : start + WINDOW], np.float32).T for start in starts]
        subject += [int(who)] * len(starts)
        activity += [int(what)] * len(starts)
    stacked = np.stack(windows)
    ids = np.unique(subject, return_inverse=True)[1]
    signals = {"accel": stacked[:, :3], "gyro": stacked[:, 3:]}
    rms = np.log(np.sqrt((signals["gyro"].astype(np.float64) ** 2).mean((1, 2))) + 1e-6)
    return WatchData(signals, ids, np.array(activity), find_cadence(signals["accel"]), rms)


def find_cadence(accel: np.ndarray) -> np.ndarray:
    """Return the strongest frequency in Hz of three axes [windows, 3, samples] together, between 0.3 and 4 Hz."""
    centred = accel - accel.mean(-1, keepdims=True)
    padded = 8 * accel.shape[-1]
    power = (np.abs(np.fft.rfft(centred * np.hanning(accel.shape[-1]), padded)) ** 2).sum(1)
    frequency = np.fft.rfftfreq(padded, 1 / RATE_HZ)
    inside = (frequency >= 0.3) & (frequency <= 4.0)
    return frequency[inside][power[:, inside].argmax(1)]
