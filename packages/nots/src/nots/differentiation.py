"""The differentiation claim, executable: tokens of periods cannot learn it at any capacity, tokens of functions can.

Theorem 1: g_M(t) = sin(M t) / M is sampled with the step pi / M. From t = 0 all samples are zero; so they are from
t = pi / M. The derivatives there are +1, -1, ... and -1, +1, ...: one input, two targets, whose difference has the
square 4 T. Whatever a model answers, its squared error summed over T periods is at least T on one of the two. This is
arithmetic; models are trained to show it, each on the same series in two forms:

- "period": a token is one sample, as a transformer over periods has them;
- "function": a token is the function over a period, eight samples, degraded and raw (a narrative of two elements).

Series are standardised, as everywhere in this package; what is left of g_M is its phase, and a series of zeros stays
zero. Train and test have no M in common; test phases include the two of the theorem.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nots.adapt import adapt
from nots.config import AdaptConfig, NoTSConfig
from nots.model import NoTS

PERIODS = 8  # T
FINE = 8  # samples of a period as a function
CAPACITIES = (1, 4, 16, 64)  # parameters, in multiples of the smallest
BASE_DIM = 8
TRAIN_M, TEST_M = range(2, 60, 2), range(61, 121, 6)
PHASES = 32
FORMS = ("period", "function")


@dataclass(frozen=True)
class Derivatives:
    """Functions in one form: samples [n, 1, time], and derivatives at each period's start [n, periods]."""

    x: Tensor
    y: Tensor


def sample(form: str, frequencies: np.ndarray, phases: np.ndarray) -> Derivatives:
    """Sample sin(M t + phase) / M at T steps of pi / M, or at eight times as many.

    Args:
        form: "period" or "function".
        frequencies: M [n].
        phases: [n]; at 0 and pi samples of periods are exactly zero, as in the theorem.
    """
    fine = FINE if form == "function" else 1
    turn = np.arange(PERIODS * fine) * math.pi / fine
    inside = np.sin(turn[None] + phases[:, None])
    inside[np.abs(inside) < 1e-12] = 0.0
    values = torch.from_numpy(inside / frequencies[:, None])[:, None]
    # standardised by the largest amount, without a floor: zeros stay zeros, and no M is told from another
    scale = values.abs().amax(-1, keepdim=True)
    x = torch.where(scale > 0, values / scale.where(scale > 0, 1.0), values)
    y = np.cos(phases[:, None] + math.pi * np.arange(PERIODS))
    return Derivatives(x.float(), torch.from_numpy(y).float())


def training_set(form: str) -> Derivatives:
    """Return functions of the training M with evenly spread phases."""
    return _grid(form, TRAIN_M, 0.5)


def test_set(form: str) -> Derivatives:
    """Return functions of M that training has not, among their phases the theorem's 0 and pi."""
    return _grid(form, TEST_M, 0.0)


def _grid(form: str, choice: range, shift: float) -> Derivatives:
    frequencies, places = np.meshgrid(np.array(choice, float), np.arange(PHASES) + shift)
    return sample(form, frequencies.ravel(), places.ravel() * 2 * math.pi / PHASES)


def model_config(form: str, capacity: int) -> NoTSConfig:
    """Return a model of a capacity: width grows with its root."""
    patch = FINE if form == "function" else 1
    dim = BASE_DIM * round(math.sqrt(capacity))
    from nots.config import ScheduleConfig

    return NoTSConfig(
        PERIODS * patch, 1, 2, "patch", patch, dim, 1, 2, 2 * dim, (ScheduleConfig("box", (2.0,)),), mask="causal"
    )


def sup_error(model: nn.Module, data: Derivatives) -> float:
    """Return the largest squared error summed over periods, over all functions."""
    with torch.no_grad():
        return float((model(data.x) - data.y).square().sum(1).max())


def collision_floor() -> float:
    """Return the least sup error that any answer to the zero input has: half the distance of its targets, squared."""
    pair = sample("period", np.ones(2), np.array([0.0, math.pi]))
    if not torch.equal(pair.x[0], pair.x[1]):
        raise RuntimeError("the two functions of the theorem have different samples.")
    return float(((pair.y[0] - pair.y[1]) / 2).square().sum())


def train_one(form: str, capacity: int, seed: int, num_steps: int) -> dict[str, Any]:
    """Train a model of a form and a capacity from random weights and return its sup error on unseen M."""
    from nots.adapt import Target

    start = time.process_time()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = NoTS(model_config(form, capacity))
    data = training_set(form)
    readout = "sequence" if form == "function" else "raw"
    config = AdaptConfig("none", readout, 0, num_steps, 64, 3e-2, seed=seed)
    model = adapt(trunk, config, {"derivative": Target("series", PERIODS)}, (data.x, data.y))
    return {
        "form": form,
        "capacity": capacity,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "sup": sup_error(model, test_set(form)),
        "mean": float((model(test_set(form).x) - test_set(form).y).detach().square().sum(1).mean()),
        "seconds": time.process_time() - start,
    }
