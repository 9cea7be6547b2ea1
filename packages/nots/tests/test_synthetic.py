"""Synthetic series, their features by naive loops, and the classical estimators."""

import itertools

import numpy as np
import pytest
from nots.classical import ESTIMATORS, dfa, wavelet_slope, whittle
from nots.features import band_power, global_threshold, slope_sign_changes, willison_amplitude
from nots.synthetic import ar_sinusoids, fbm_cholesky, fbm_davies_harte, fgn_covariance


@pytest.mark.parametrize("hurst", [0.2, 0.5, 0.85])
@pytest.mark.parametrize("method", ["cholesky", "davies_harte"])
def test_paths_have_the_covariance_of_fractional_brownian_motion(hurst, method):
    rng, length = np.random.default_rng(0), 16
    if method == "cholesky":
        paths = fbm_cholesky(hurst, 40_000, length, rng)
    else:
        paths = fbm_davies_harte(np.full(40_000, hurst), length, rng)
    t = np.arange(1, length + 1)
    expected = 0.5 * (t[:, None] ** (2 * hurst) + t ** (2 * hurst) - np.abs(t[:, None] - t) ** (2 * hurst))
    found = paths.T @ paths / len(paths)
    assert np.abs(found - expected).max() < 0.03 * expected.max()


def test_the_steps_of_brownian_motion_are_white_and_each_path_has_its_own_h():
    assert fgn_covariance(0.5, 5).tolist() == [1.0, 0.0, 0.0, 0.0, 0.0]
    pair = fbm_davies_harte(np.array([0.1, 0.9]), 256, np.random.default_rng(0))
    rough, smooth = np.diff(pair, axis=1)
    assert np.corrcoef(rough[1:], rough[:-1])[0, 1] < -0.2 < 0.5 < np.corrcoef(smooth[1:], smooth[:-1])[0, 1]
    with pytest.raises(ValueError, match="between 0 and 1"):
        fbm_davies_harte(np.array([0.5, 1.0]), 8, np.random.default_rng(0))


@pytest.mark.parametrize(("name", "least"), [("Whittle", 0.95), ("DFA", 0.85), ("wavelet slope", 0.5)])
def test_classical_estimators_tell_h(name, least):
    rng = np.random.default_rng(1)
    hurst = rng.uniform(0.1, 0.9, 300)
    paths = fbm_davies_harte(hurst, 256, rng)
    found = ESTIMATORS[name](paths)
    assert 1 - ((found - hurst) ** 2).mean() / hurst.var() > least
    np.testing.assert_allclose(ESTIMATORS[name](3 * paths + 5), found, atol=1e-6)


def test_whittle_is_without_bias_and_others_near_it():
    paths = fbm_davies_harte(np.full(400, 0.7), 512, np.random.default_rng(2))
    assert whittle(paths).mean() == pytest.approx(0.7, abs=0.01)
    assert dfa(paths).mean() == pytest.approx(0.7, abs=0.1)
    assert wavelet_slope(paths).mean() == pytest.approx(0.7, abs=0.1)


def test_sinusoids_are_sums_whose_amplitude_falls_with_frequency():
    x = ar_sinusoids(50, 256, np.random.default_rng(0))
    assert x.shape == (50, 256)
    power = (np.abs(np.fft.rfft(x, axis=1)) ** 2).mean(0)
    assert power[1:10].sum() > 3 * power[10:33].sum() > 3 * power[40:].sum()
    assert np.array_equal(x, ar_sinusoids(50, 256, np.random.default_rng(0)))


def test_features_are_those_of_naive_loops():
    x = np.random.default_rng(0).normal(size=(3, 64))
    threshold = global_threshold(x)
    assert threshold == np.median([abs(b - a) for row in x for a, b in itertools.pairwise(row)])
    for row in range(3):
        turns, steps = np.zeros(64), np.zeros(64)
        for i in range(63):
            steps[i] = abs(x[row, i + 1] - x[row, i]) > threshold
            if i:
                a, b = x[row, i] - x[row, i - 1], x[row, i] - x[row, i + 1]
                turns[i] = a * b > 0 and max(abs(a), abs(b)) > threshold
        assert slope_sign_changes(x, threshold)[row].tolist() == turns.reshape(2, 32).mean(1).tolist()
        assert willison_amplitude(x, threshold)[row].tolist() == steps.reshape(2, 32).mean(1).tolist()
    with pytest.raises(ValueError, match="must divide"):
        willison_amplitude(x[:, :50], threshold)


def test_band_power_finds_a_tone():
    tone = np.cos(2 * np.pi * 50 * np.arange(256) / 256)[None]
    found = band_power(tone)
    assert found.shape == (1, 24)
    assert found.argmax() == (50 - 1) * 24 // 128
    assert band_power(np.zeros((1, 1024))).shape == (1, 96)
