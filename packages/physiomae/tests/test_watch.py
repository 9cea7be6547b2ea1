"""The watch recordings: what is in the installed package, read without running anything."""

import pickle

import numpy as np
import pytest
from physiomae.watch import find_cadence, find_file, load_watch, read_arrays
from physiomae.worlds import watch_world


def test_ten_subjects_seven_exercises_two_sensors():
    data = load_watch()
    assert {name: array.shape for name, array in data.signals.items()} == {
        "accel": (3605, 3, 128), "gyro": (3605, 3, 128),
    }  # fmt: skip
    assert np.bincount(data.subject).tolist() == [433, 418, 234, 226, 377, 367, 405, 372, 373, 400]
    assert len(np.unique(data.activity)) == 7
    assert data.gyro_rms[5] == pytest.approx(np.log(np.sqrt((data.signals["gyro"][5] ** 2).mean()) + 1e-6), rel=1e-4)


def test_cadence_is_the_strongest_frequency():
    seconds = np.arange(128) / 50
    window = np.stack([np.sin(2 * np.pi * 1.5 * seconds), 0.2 * np.sin(2 * np.pi * 3 * seconds), 0 * seconds])
    assert find_cadence(window[None])[0] == pytest.approx(1.5, abs=0.1)


def test_nobody_is_on_both_sides_and_scaling_sees_training_only():
    world = watch_world(4, 7)
    assert set(world.test.subject) == {4}
    assert set(world.train.subject) == set(range(10)) - {4, 7}
    middle = np.median(world.train.arrays["accel"], axis=(0, 2))
    np.testing.assert_allclose(middle, 0, atol=1e-5)
    assert np.abs(np.median(world.test.arrays["accel"], axis=(0, 2))).max() > 0.01


def test_the_placebo_is_noise_without_labels():
    world = watch_world(0, placebo=True)
    assert world.config.names == ("accel", "gyro", "placebo")
    noise = world.train.arrays["placebo"].std((1, 2))
    for label in range(7):
        assert noise[world.train.labels["activity"] == label].mean() == pytest.approx(noise.mean(), abs=0.02)


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "evil.npy"
    header = find_file().read_bytes()[:128]
    path.write_bytes(header + pickle.dumps(Evil()))
    with pytest.raises(ValueError, match="which is no array"):
        read_arrays(path)
    assert not (tmp_path / "ran").exists()
