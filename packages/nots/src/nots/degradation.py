"""Degradation operators on batches of series, and narratives: chains of them that end in the raw signal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import get_args

import torch
from jaxtyping import Float
from tenfold_shared.commands import unknown_name
from torch import Tensor

from nots.config import Kind, ScheduleConfig

Operator = Callable[[Tensor, float], Tensor]
GAUSSIAN_REACH = 4.0  # standard deviations on each side; what is cut off weighs 6e-5
SINC_LOBES = 4  # zero crossings on each side under the Hann window
ORDER_TOLERANCE = 1e-4
CACHED_ROWS = 128


def degrade(
    x: Float[Tensor, "batch channels time"],
    kind: Kind | Operator,
    level: float,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch channels time"]:
    """Degrade each series of a batch, on its device.

    Smoothing kernels have unit gain for constants everywhere: at the ends they are divided by the weight that is
    inside. The paper's w[n] = 1/p for |n| <= p/2 has p + 1 taps and so a gain of (p + 1)/p; ours is 1. Its sinc comes
    with p that falls as information grows; that is the wrong way round, ours is a cutoff that rises (section 3.1).

    Args:
        x: Series.
        kind: "box", "gaussian", "sinc" (Hann window), "fft" (ideal low-pass), "noise", or a function of x and level.
        level: Even width in samples (box, 0 is the identity), standard deviation in samples (gaussian), cutoff as a
            share of the Nyquist frequency (sinc, fft; 1 is the identity, 0 the mean), standard deviation of the noise.
        generator: Of the noise, on the device of x.

    Returns:
        Degraded series of the same shape and type.

    Raises:
        ValueError: Unknown kind, or a level that it does not have.

    Example:
        >>> degrade(torch.tensor([[[0.0, 3.0, 0.0, 3.0]]]), "box", 2)
        tensor([[[1.5000, 1.0000, 2.0000, 1.5000]]])
    """
    if callable(kind):
        return _same_shape(kind(x, level), x)
    if kind not in OPERATORS:
        raise unknown_name("degradation", kind, list(get_args(Kind)))
    if not (math.isfinite(level) and level >= 0):
        raise ValueError(f"`level` (={level}) of {kind} must be finite and not negative.")
    if kind == "noise":
        return x + level * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return OPERATORS[kind](x, level)


def narrate(
    x: Float[Tensor, "batch channels time"],
    schedule: ScheduleConfig,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch groups channels time"]:
    """Return the narrative of each series: its degraded versions from coarse to fine, and itself (section 3.1).

    Args:
        x: Series.
        schedule: Kind and levels.
        generator: Of the noise.
    """
    versions = [degrade(x, schedule.kind, level, generator=generator) for level in schedule.levels]
    return torch.stack([*versions, x], dim=1)


def explained_variance(x: Float[Tensor, "batch channels time"], version: Tensor) -> float:
    """Return the share of the variance of x that a version of it has: 1 - |x - version|² / |x - mean|², at least 0."""
    spread = (x - x.mean(-1, keepdim=True)).square().sum()
    return max(0.0, float(1 - (x - version).square().sum() / spread.clamp_min(1e-12)))


def even_levels(
    x: Float[Tensor, "batch channels time"], kind: Kind, num_levels: int, *, candidates: int = 48
) -> ScheduleConfig:
    """Choose levels whose explained variance rises in equal steps over a sample of series.

    Args:
        x: Sample, not constant.
        kind: A smoothing kind; noise has no explained variance below 1.
        num_levels: Elements before the raw signal.
        candidates: Levels that are tried, evenly spaced in their logarithm.

    Returns:
        The schedule; fewer distinct levels than asked for are a ValueError.
    """
    length = x.shape[-1]
    widths = torch.logspace(math.log10(max(4, 2 * length)), math.log10(2 if kind == "box" else 0.5), candidates)
    tried = [_level_of_width(kind, float(width)) for width in widths]
    tried = list(dict.fromkeys(tried))
    shares = [explained_variance(x, degrade(x, kind, level)) for level in tried]
    chosen: list[float] = []
    for place in range(1, num_levels + 1):
        goal = place / (num_levels + 1)
        free = [i for i, level in enumerate(tried) if level not in chosen]
        chosen.append(tried[min(free, key=lambda i: abs(shares[i] - goal))] if free else math.nan)
    found = sorted(set(chosen), reverse=kind not in ("sinc", "fft"))
    if len(found) < num_levels or any(math.isnan(level) for level in found):
        raise ValueError(f"`num_levels` (={num_levels}) is more than the distinct levels of {kind} at length {length}.")
    return ScheduleConfig(kind, tuple(found))


def check_order(x: Float[Tensor, "batch channels time"], schedule: ScheduleConfig) -> list[float]:
    """Check that each element of a narrative explains at least as much of the signal as the one before.

    Args:
        x: Sample of series.
        schedule: Of a smoothing kind.

    Returns:
        Shares of variance, the raw signal's 1 at the end.

    Raises:
        ValueError: One explains less than the one before it; both are named.
    """
    shares = [explained_variance(x, version) for version in narrate(x, schedule).unbind(1)]
    for place, (before, after) in enumerate(itertools.pairwise(shares)):
        if after < before - ORDER_TOLERANCE:
            raise ValueError(
                f"element {place + 2} of {schedule.kind} {schedule.levels} explains {after:.4f} of the signal, less "
                f"than the {before:.4f} of the one before it; order the levels from coarse to fine."
            )
    return shares


def smooth_box(x: Tensor, level: float) -> Tensor:
    """Average over |n| <= level / 2 by running sums of doubles; on a CPU a few rows at a time, which stay cached."""
    if level != round(level) or round(level) % 2:
        raise ValueError(f"`level` (={level}) of box must be an even whole number of samples.")
    length = x.shape[-1]
    half = min(round(level) // 2, length)
    if half == 0:
        return x.clone()
    place = torch.arange(length, device=x.device)
    inside = (place + half + 1).clamp_max(length) - (place - half).clamp_min(0)
    rows = x.reshape(-1, length)
    if x.requires_grad or x.device.type != "cpu":
        return (window_sums(rows, half) / inside).to(x.dtype).view_as(x)
    found, weight = torch.empty_like(rows), 1 / inside.to(torch.float64)
    # Room that is used again and again: fresh memory costs more than the sums.
    sums = torch.zeros(CACHED_ROWS, length + 2 * half + 1, dtype=torch.float64)
    differences = torch.empty(CACHED_ROWS, length, dtype=torch.float64)
    for source, target in zip(rows.split(CACHED_ROWS), found.split(CACHED_ROWS), strict=True):
        running, means = sums[: len(source)], differences[: len(source)]
        torch.cumsum(source, 1, dtype=torch.float64, out=running[:, half + 1 : half + 1 + length])
        running[:, half + 1 + length :] = running[:, half + length, None]
        torch.sub(running[:, 2 * half + 1 :], running[:, :length], out=means)
        target.copy_(means.mul_(weight))
    return found.view_as(x)


def window_sums(rows: Tensor, half: int) -> Tensor:
    """Sum over 2 half + 1 samples around each, zeros outside, as the difference of two running sums."""
    precise = torch.float32 if rows.device.type == "mps" else torch.float64  # mps has no doubles
    running = rows.cumsum(-1, dtype=precise)
    last = running[:, -1:].expand(-1, half)
    running = torch.cat([running.new_zeros(len(rows), half + 1), running, last], 1)
    return running[:, 2 * half + 1 :] - running[:, : rows.shape[1]]


def smooth_gaussian(x: Tensor, level: float) -> Tensor:
    """Convolve with a normal density of standard deviation `level`."""
    if level == 0:
        return x.clone()
    reach = min(max(1, math.ceil(GAUSSIAN_REACH * level)), x.shape[-1])
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    return convolve(x, torch.exp(-0.5 * (places / level) ** 2))


def pass_sinc(x: Tensor, level: float) -> Tensor:
    """Convolve with a Hann-windowed sinc of cutoff `level`."""
    if level >= 1:
        return x.clone()
    if level == 0:
        return x.mean(-1, keepdim=True).expand_as(x).clone()
    reach = min(math.ceil(SINC_LOBES / level), x.shape[-1])
    places = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    window = 0.5 + 0.5 * torch.cos(math.pi * places / (reach + 1))
    return convolve(x, torch.sinc(level * places) * window)


def pass_fft(x: Tensor, level: float) -> Tensor:
    """Keep the frequencies up to `level` of the Nyquist frequency, the mean always."""
    length = x.shape[-1]
    kept = torch.arange(length // 2 + 1, device=x.device) <= level * length / 2 + 1e-9
    return torch.fft.irfft(torch.fft.rfft(x) * kept, n=length).to(x.dtype)


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve the last axis with a symmetric kernel, divided at each place by the weight inside the series."""
    length, reach = x.shape[-1], len(kernel) // 2
    size = 1 << (length + 2 * reach - 1).bit_length()
    spectrum = torch.fft.rfft(kernel, n=size)

    def apply(values: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(values, n=size) * spectrum, n=size)[..., reach : reach + length]

    return (apply(x) / apply(torch.ones(length, device=x.device, dtype=x.dtype))).to(x.dtype)


def _level_of_width(kind: Kind, width: float) -> float:
    if kind == "box":
        return float(max(2, 2 * round(width / 2)))
    if kind == "gaussian":
        return width / 4
    if kind == "noise":
        raise ValueError("`kind` noise has no explained variance to order; give its levels.")
    return min(1.0, 1 / width)


def _same_shape(found: Tensor, x: Tensor) -> Tensor:
    if found.shape != x.shape:
        raise ValueError(f"the function gave shape {tuple(found.shape)} for series of {tuple(x.shape)}.")
    return found


OPERATORS: dict[str, Operator] = {
    "box": smooth_box,
    "gaussian": smooth_gaussian,
    "sinc": pass_sinc,
    "fft": pass_fft,
    "noise": lambda x, level: x + level * torch.randn_like(x),
}


def level_shares(x: Tensor, kind: Kind, levels: Sequence[float]) -> list[float]:
    """Return the explained variance of each level."""
    return [explained_variance(x, degrade(x, kind, level)) for level in levels]
