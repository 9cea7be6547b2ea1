"""The differentiation claim: the two functions are one input, and what tokens of functions can do."""

import math

import numpy as np
import pytest
import torch
from nots import differentiation as d


def test_the_two_functions_of_the_theorem_have_one_input_and_opposite_targets():
    pair = d.sample("period", np.array([3.0, 57.0]), np.array([0.0, math.pi]))
    assert pair.x.eq(0).all()
    assert torch.equal(pair.y[0], -pair.y[1])
    assert pair.y[0].tolist() == [1.0, -1.0] * 4
    assert d.collision_floor() == pytest.approx(d.PERIODS)


def test_as_functions_they_differ():
    pair = d.sample("function", np.array([3.0, 57.0]), np.array([0.0, math.pi]))
    assert float((pair.x[0] - pair.x[1]).abs().max()) == pytest.approx(2.0)


def test_no_m_is_in_both_parts():
    assert not set(d.TRAIN_M) & set(d.TEST_M)
    assert len(d.test_set("function").x) == len(d.TEST_M) * d.PHASES


def test_a_small_model_of_each_form():
    period, function = (d.train_one(form, 1, 0, 60) for form in d.FORMS)
    assert period["sup"] >= d.PERIODS - 1e-3
    assert function["sup"] < 0.5 * d.PERIODS


def test_capacities_are_what_they_say():
    from nots.model import NoTS, count_parameters

    counts = [count_parameters(NoTS(d.model_config("function", c))) for c in d.CAPACITIES]
    assert counts[-1] / counts[0] > 40
