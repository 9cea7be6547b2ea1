"""The simulator stays what it was when it was frozen, and its oracle is the best there is."""

import json
from importlib import resources

import numpy as np
import pytest
from physiomae.oracle import frequency_scores, guess, subsets
from physiomae.simulator import MODALITIES, STRENGTHS, SimulatorConfig, event_patches, simulate, strengths

PUBLISHED = json.loads(resources.files("physiomae").joinpath("results", "oracle.json").read_text("utf-8"))


def test_frozen_numbers():
    data = simulate(SimulatorConfig(num_subjects=4, num_windows=5, seed=3))
    assert data.stage.tolist() == [2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4, 0, 0, 0, 0, 0, 0]
    assert data.event.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1]
    assert data.trait[::5].tolist() == [1, 1, 0, 0]
    first = {name: signal[3, 0, 0] for name, signal in data.signals.items()}
    expected = {"eeg": -1.7093228, "eog": -1.5075408, "emg": 2.1301637, "resp": -0.28571075}
    assert first == pytest.approx(expected, rel=1e-5)
    assert float(data.signals["eeg"].std()) == pytest.approx(2.0472250, rel=1e-5)


def test_more_modalities_never_tell_the_oracle_less():
    for row in PUBLISHED:
        for small in subsets(MODALITIES):
            for large in subsets(MODALITIES):
                if set(small) < set(large):
                    for task in ("stage", "event", "trait"):
                        assert (
                            row["accuracy"]["+".join(large)][task] > row["accuracy"]["+".join(small)][task] - 0.015
                        ), "beyond the drawing's error"


def test_the_oracle_of_the_trait_is_a_plain_discriminant():
    """One modality: the nearer of two means, whose accuracy is the normal integral of half their distance."""
    from scipy.stats import norm

    config = SimulatorConfig(0.45, "one", 40, 50, seed=9)
    data = simulate(config)
    share = strengths("one")[2][2]
    found = frequency_scores(data.frequencies[:, [2]], config, [2]).argmax(1)
    assert (found == (data.frequencies[:, 2] > 0)).all()
    assert (found == data.trait).mean() == pytest.approx(norm.cdf(0.12 * share / 0.06), abs=0.02)


def test_labels_depend_on_nothing_but_the_shown_modalities():
    config = SimulatorConfig(0.9, "graded", 5, 20)
    data = simulate(config)
    before = guess(data, config, [0, 2])
    data.amplitudes[:, [1, 3]] = 100.0
    again = guess(data, config, [0, 2])
    assert all((before[task] == again[task]).all() for task in before)


def test_effects_are_spread_but_equal_in_all():
    for name in STRENGTHS:
        for effect in strengths(name):
            assert (effect**2).sum() == pytest.approx(1)
    best = [int(effect.argmax()) for effect in strengths("one")]
    assert len(set(best)) == 3, "no modality is the best for every task"


def test_events_are_three_patches_in_a_row():
    assert event_patches(np.array([-1, 0, 5])).tolist() == [[0] * 8, [1, 1, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 1]]


def test_impossible_settings_are_refused():
    for settings, words in (
        ({"coupling": 1.0}, "coupling"),
        ({"informativeness": "much"}, "even, graded, one"),
        ({"num_subjects": 0}, "num_subjects"),
    ):
        with pytest.raises(ValueError, match=words):
            SimulatorConfig(**settings)
