"""From a recording to windows: filter, resample, scale each channel, cut all modalities on one clock.

Gaps stay gaps: a sample that comes from a gap is nan, and so is all of a channel that is missing, flat or empty.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from tenfold_shared.commands import InputError

from physiomae.channels import Match, match_channels, unused
from physiomae.config import ModalityConfig, PhysioMAEConfig
from physiomae.recordings import Recording, Signal, check_stages, label_windows

FILTER_ORDER, CLIP, IQR_OF_NORMAL = 4, 10.0, 1.349
FLAT = 1e-9  # a channel whose quartiles are closer than this share of its size carries nothing
MAX_DENOMINATOR = 1000
MIN_PRESENT = 0.5  # of a window's tokens


@dataclass
class Windows:
    """Windows of one recording.

    Attributes:
        subject: Of all of them.
        arrays: Modality -> [windows, channels, samples], nan where something is missing; absent modalities have none.
        labels: Name -> [windows].
        numbers: Place of each window in the recording.
        dropped: Reasons and how many windows went for each.
        channels: What stands in each place of the contract, and why.
        unused: Signals that no place took.
    """

    subject: str
    arrays: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    numbers: np.ndarray
    dropped: Counter[str] = field(default_factory=Counter)
    channels: list[dict[str, Any]] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.numbers)


def cut_windows(recording: Recording, config: PhysioMAEConfig, *, stages_only: bool = False) -> Windows:
    """Prepare all modalities of a recording and cut them into windows on a common clock.

    Args:
        recording: Signals, with or without stages.
        config: Modalities and lengths.
        stages_only: Also drop windows without a stage.

    Returns:
        Windows with the label `stage` (-1 unknown) and the recording's facts.

    Raises:
        InputError: Shorter than a window, overlapping or unknown stages, units or rates that do not fit, or no channel
            of the contract that carries anything.
    """
    num = int(recording.seconds / config.window_seconds + 1e-9)
    if num == 0:
        raise InputError(
            f"{recording.source}: {recording.seconds:g} s are shorter than a window of {config.window_seconds:g} s."
        )
    stages = check_stages(recording.stages, recording.source)
    labels = {"stage": label_windows(stages, num, config.window_seconds)}
    labels |= {name: np.full(num, value) for name, value in recording.facts}
    found = Windows(recording.subject, {}, labels, np.arange(num))
    matches: list[Match] = []
    for modality in config.modalities:
        matches += _add_modality(found, recording, modality, config)
    found.unused = unused(recording, matches)
    if not found.arrays:
        reasons = ", ".join(f"{row['channel']} {row['state']}" for row in found.channels)
        raise InputError(f"{recording.source}: no channel of the contract carries a signal ({reasons}).")
    if recording.seconds - num * config.window_seconds > 1e-6:
        found.dropped["shorter than a window"] += 1
    return _keep_whole(found, config, stages_only)


def _add_modality(
    found: Windows, recording: Recording, modality: ModalityConfig, config: PhysioMAEConfig
) -> list[Match]:
    """Add a modality's windows, unless none of its channels carries anything."""
    num, samples = len(found), config.window_samples(modality)
    matches = match_channels(recording, modality)
    rows, carries = [], False
    for match in matches:
        state, channel = "missing", np.full(num * samples, np.nan, np.float32)
        if match.signal is not None:
            state, prepared = prepare_signal(match.signal, modality, match.factor, recording.source)
            length = min(len(prepared), len(channel))
            channel[:length] = prepared[:length]
        carries |= state == "used"
        rows.append(channel)
        found.channels.append({"modality": modality.name, **match.to_dict(), "state": state})
    if carries:
        found.arrays[modality.name] = np.stack(rows).reshape(len(rows), num, samples).transpose(1, 0, 2)
    return matches


def prepare_signal(signal: Signal, modality: ModalityConfig, factor: float, source: str) -> tuple[str, np.ndarray]:
    """Filter, resample and scale one channel.

    Args:
        signal: With gaps as nan.
        modality: Rate, band and scaling.
        factor: From the signal's unit to the modality's.
        source: Named in errors.

    Returns:
        "used", "all NaN" or "flat", and the samples at the modality's rate, float32; nan in gaps, all nan unless used.
    """
    up, down = _ratio(signal, modality, source)
    samples = signal.samples.astype(np.float64) * factor
    gaps = ~np.isfinite(samples)
    length = -(-len(samples) * up // down)
    nothing = np.full(length, np.nan, np.float32)
    if gaps.all():
        return "all NaN", nothing
    known = samples[~gaps]
    if np.ptp(known) <= FLAT * max(1e-30, np.abs(known).max()):
        return "flat", nothing
    filled = np.interp(np.arange(len(samples)), np.flatnonzero(~gaps), known) if gaps.any() else samples
    resampled = _resample(_filter(filled, signal.rate_hz, modality), up, down)
    mask = _gaps_after(gaps, up, down, len(resampled))
    scaled = _scale(resampled, mask, modality)
    if scaled is None:
        return "flat", nothing
    scaled[mask] = np.nan
    return "used", scaled


def _ratio(signal: Signal, modality: ModalityConfig, source: str) -> tuple[int, int]:
    """Return the factors of the resampling; a rate below the modality's is refused, as is one without a ratio."""
    if signal.rate_hz < modality.rate_hz * (1 - 1e-9):
        raise InputError(
            f"{source}: rates do not fit: {signal.name} has {signal.rate_hz:g} Hz, {modality.name} needs "
            f"{modality.rate_hz:g} Hz, and upsampling would make things up; lower the modality's `rate_hz`."
        )
    ratio = Fraction(modality.rate_hz / signal.rate_hz).limit_denominator(MAX_DENOMINATOR)
    if abs(float(ratio) * signal.rate_hz - modality.rate_hz) > 1e-6 * modality.rate_hz:
        raise InputError(
            f"{source}: rates do not fit: {signal.rate_hz!r} Hz of {signal.name} to {modality.rate_hz:g} Hz is no "
            "ratio of small whole numbers; resample the file first."
        )
    return ratio.numerator, ratio.denominator


def _filter(samples: np.ndarray, rate_hz: float, modality: ModalityConfig) -> np.ndarray:
    """Butterworth, forwards and backwards, so that nothing moves in time."""
    from scipy import signal as scipy_signal

    if modality.band_hz is None:
        return samples
    low, high = modality.band_hz
    nyquist = rate_hz / 2
    if high >= nyquist:
        kind, edges = "highpass", low
        if low <= 0:
            return samples
    else:
        kind, edges = ("bandpass", (low, high)) if low > 0 else ("lowpass", high)
    sections = scipy_signal.butter(FILTER_ORDER, np.asarray(edges) / nyquist, kind, output="sos")
    return scipy_signal.sosfiltfilt(sections, samples, padlen=min(len(samples) - 1, int(3 * rate_hz / max(low, 1.0))))


def _resample(samples: np.ndarray, up: int, down: int) -> np.ndarray:
    from scipy import signal as scipy_signal

    return samples if up == down else scipy_signal.resample_poly(samples, up, down, padtype="line")


def _gaps_after(gaps: np.ndarray, up: int, down: int, length: int) -> np.ndarray:
    """Mark resampled samples whose stretch of the source touches a gap."""
    if not gaps.any():
        return np.zeros(length, bool)
    before = np.concatenate([[0], np.cumsum(gaps)])
    start = np.arange(length) * down // up
    stop = np.minimum(-(-(np.arange(1, length + 1) * down) // up), len(gaps))
    return before[stop] - before[np.minimum(start, len(gaps))] > 0


def _scale(samples: np.ndarray, gaps: np.ndarray, modality: ModalityConfig) -> np.ndarray | None:
    """Return scaled float32 samples, None for a channel that is flat but for its ends."""
    if modality.scaling == "percent":
        return ((samples - 90) / 10).astype(np.float32)
    low, middle, high = np.percentile(samples[~gaps], [25, 50, 75])
    if high - low <= FLAT * max(1e-30, float(np.abs(samples).max())):
        return None
    return np.clip((samples - middle) / ((high - low) / IQR_OF_NORMAL), -CLIP, CLIP).astype(np.float32)


def _keep_whole(found: Windows, config: PhysioMAEConfig, stages_only: bool) -> Windows:
    """Drop windows with too few tokens, or without a stage where that is asked for."""
    tokens = [
        np.isfinite(array).reshape(len(found), array.shape[1], config.num_patches, -1).all(-1).any(1)
        for array in found.arrays.values()
    ]
    share = np.concatenate(tokens, axis=1).mean(1)
    reasons = np.where(share == 0, "no signal", np.where(share < MIN_PRESENT, "gaps", ""))
    if stages_only:
        reasons = np.where((reasons == "") & (found.labels["stage"] < 0), "no stage", reasons)
    found.dropped.update(reason for reason in reasons.tolist() if reason)
    return take(found, reasons == "")


def take(found: Windows, rows: np.ndarray) -> Windows:
    """Return some windows of a recording with everything that is known of it."""
    arrays = {name: array[rows] for name, array in found.arrays.items()}
    labels: Mapping[str, np.ndarray] = {name: values[rows] for name, values in found.labels.items()}
    numbers = found.numbers[rows]
    return Windows(found.subject, arrays, dict(labels), numbers, found.dropped, found.channels, found.unused)
