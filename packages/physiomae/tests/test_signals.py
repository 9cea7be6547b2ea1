"""From recordings to windows: contract, filter, rates, gaps, stages, splits and shards."""

import hashlib
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from physiomae.channels import match_channels, unit_factor, unused
from physiomae.config import PRESETS, ModalityConfig
from physiomae.preprocess import cut_windows, prepare_signal
from physiomae.recordings import Annotation, Recording, Signal, check_stages, label_windows, stage_number
from physiomae.shards import ShardSource, decode, write_index, write_shard
from physiomae.splits import make_splits, read_splits, seal, split_of
from tenfold_shared.commands import InputError

EEG = ModalityConfig("eeg", ("C3-M2", "C4-M1", "O1-M2"), 50, "uV", aliases=(("C4", "C4-M1"), ("EEG C4", "C4-M1")))


def recording(*signals, **rest):
    return Recording("anna", signals, source="anna.edf", **rest)


def noise(name, seconds=60, rate=100, unit="uV", seed=0):
    return Signal(name, unit, float(rate), np.random.default_rng(seed).normal(size=seconds * rate).astype(np.float32))


def test_name_then_alias_then_the_missing_token():
    night = recording(noise(" c3 - m2"), noise("EEG C4"), noise("Snore"))
    matches = match_channels(night, EEG)
    assert [(m.channel, m.how) for m in matches] == [("C3-M2", "name"), ("C4-M1", "alias"), ("O1-M2", "missing")]
    assert unused(night, matches) == ["Snore"]
    with pytest.raises(ValueError, match="'C4', 'EEG C4' are all aliases of C4-M1; keep one"):
        match_channels(recording(noise("C4"), noise("EEG C4")), EEG)
    exact = match_channels(recording(noise("C4-M1"), noise("C4")), EEG)
    assert exact[1].how == "name", "an exact name wins"


@pytest.mark.parametrize(
    ("found", "wanted", "factor"),
    [
        ("mV", "uV", 1000),
        ("V", "mV", 1000),
        ("µV", "uV", 1),
        ("nV", "uV", 1e-3),
        ("%", "%", 1),
        ("m/s^2", "g", 1 / 9.80665),
        ("deg/s", "rad/s", math.pi / 180),
        ("NU", "any", 1),
        ("mmHg", "uV", None),
        ("", "uV", None),
    ],
)
def test_units(found, wanted, factor):
    assert unit_factor(found, wanted) == (None if factor is None else pytest.approx(factor))


def test_a_sine_in_the_band_passes_in_place_and_one_outside_goes():
    modality = ModalityConfig("eeg", ("C3",), 50, "uV", (1.0, 15.0))
    seconds = np.arange(60 * 200) / 200
    inside, outside = np.sin(2 * np.pi * 5 * seconds), 3 * np.sin(2 * np.pi * 40 * seconds)
    state, found = prepare_signal(Signal("C3", "uV", 200.0, (inside + outside).astype(np.float32)), modality, 1.0, "x")
    expected = np.sin(2 * np.pi * 5 * np.arange(60 * 50) / 50)
    scaled = expected / (np.subtract(*np.percentile(expected, [75, 25])) / 1.349)
    assert state == "used"
    assert np.abs(found[200:-200] - scaled[200:-200]).max() < 0.05, "same phase, same height"


def test_robust_scaling_and_its_clip():
    modality = ModalityConfig("ecg", ("ECG",), 100, "mV")
    samples = np.random.default_rng(0).normal(3, 2, 100 * 100).astype(np.float32)
    samples[17] = 1e6
    found = prepare_signal(Signal("ECG", "mV", 100.0, samples), modality, 1.0, "x")[1]
    low, middle, high = np.percentile(samples, [25, 50, 75])
    np.testing.assert_allclose(found[20:], (samples[20:] - middle) / ((high - low) / 1.349), rtol=1e-4, atol=1e-5)
    assert found[17] == 10


def test_saturation_is_scaled_by_what_it_is():
    spo2 = PRESETS["sleep"].modality("spo2")
    samples = np.linspace(80, 100, 200 * 30).astype(np.float32)
    state, found = prepare_signal(Signal("SaO2", "%", 200.0, samples), spo2, 1.0, "x")
    assert state == "used"
    assert found[[0, -1]].tolist() == pytest.approx([-1, 1], abs=0.05)


def test_gaps_stay_gaps_after_resampling():
    samples = np.random.default_rng(0).normal(size=6000).astype(np.float32)
    samples[1003:1101] = np.nan
    found = prepare_signal(Signal("C3-M2", "uV", 100.0, samples), EEG, 1.0, "x")[1]
    assert np.flatnonzero(np.isnan(found)).tolist() == list(range(501, 551))


def test_windows_on_one_clock_with_rates_of_their_own():
    modalities = (ModalityConfig("eeg", ("C3", "C4"), 50), ModalityConfig("resp", ("ABD",), 10, "any"))
    config = replace(PRESETS["tiny"], modalities=modalities, window_seconds=10.0)
    eeg, resp = noise("C3"), noise("ABD", seconds=57, rate=25, unit="")
    eeg.samples[1500:2200] = np.nan
    found = cut_windows(recording(eeg, resp), config)
    assert found.arrays["eeg"].shape == (5, 2, 500)
    assert found.arrays["resp"].shape == (5, 1, 100)
    assert found.dropped == {"shorter than a window": 1}
    assert np.isnan(found.arrays["eeg"][:, 1]).all(), "C4 is missing, not zero"
    assert np.isnan(found.arrays["eeg"][1, 0, 250:]).all()
    states = [(row["channel"], row["matched_by"], row["state"]) for row in found.channels]
    assert states == [("C3", "name", "used"), ("C4", "missing", "missing"), ("ABD", "name", "used")]


def test_windows_without_signal_are_dropped_with_the_reason():
    config = replace(PRESETS["tiny"], modalities=(ModalityConfig("eeg", ("C3",), 50),), window_seconds=10.0)
    eeg = noise("C3")
    eeg.samples[1000:2000] = np.nan
    eeg.samples[3000:3700] = np.nan
    found = cut_windows(recording(eeg), config)
    assert found.numbers.tolist() == [0, 2, 4, 5]
    assert found.dropped == {"no signal": 1, "gaps": 1}


def test_stages_cover_windows_by_their_greater_part():
    stages = [
        Annotation(0, 30, "W"),
        Annotation(30, 20, "Sleep stage 2"),
        Annotation(50, 10, "?"),
        Annotation(60, 16, "R"),
    ]
    found = label_windows(check_stages(stages, "x"), 3, 30.0)
    assert found.tolist() == [0, 2, 4]
    assert label_windows(check_stages([Annotation(0, 15, "W")], "x"), 1, 30.0).tolist() == [-1], "half is not more"
    assert [stage_number(name) for name in ("Sleep stage 4", "REM", "n1", "Movement time")] == [3, 4, 1, -1]
    assert [stage_number(name) for name in "012345"] == [0, 1, 2, 3, 3, 4], "Rechtschaffen and Kales"
    assert [stage_number(f"nonrem{number}") for number in (1, 2, 3)] == [1, 2, 3]


def test_a_recording_has_every_signal_once():
    signal = Signal("C3", "uV", 100.0, np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"night: 'C3' is there 2 times"):
        Recording("night", (signal, signal))


def test_splits_depend_on_names_alone_and_are_hashed(tmp_path):
    subjects = [f"s{i}" for i in range(1000)]
    record = make_splits(subjects)
    counts = [len(record[name]) for name in ("train", "valid", "test")]
    assert counts == pytest.approx([800, 100, 100], abs=35)
    assert all(split_of(subject) == "valid" for subject in record["valid"])
    more = make_splits([*subjects, "new"])
    assert set(record["test"]) <= set(more["test"]), "a new subject moves nobody"
    assert make_splits(subjects, seed=1)["test"] != record["test"]
    (tmp_path / "s.json").write_text(json.dumps(record))
    assert read_splits(tmp_path / "s.json") == record
    record["train"].pop()
    (tmp_path / "s.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="was changed after it was hashed"):
        read_splits(tmp_path / "s.json")
    with pytest.raises(ValueError, match="'a' is in two splits, train and test"):
        seal({"train": ["a"], "test": ["a"]})


@pytest.fixture
def shards(tmp_path):
    """Three subjects of 30 windows, one of them without ECG and with a dot in its name."""
    modalities = (ModalityConfig("eeg", ("C3",), 16), ModalityConfig("ecg", ("ECG",), 8, "mV"))
    config = replace(PRESETS["tiny"], modalities=modalities)
    rows = []
    for place, subject in enumerate(("a", "b.2", "c")):
        signals = [noise("C3", 120, 16, seed=place)] + ([noise("ECG", 120, 8, "mV")] if subject != "b.2" else [])
        stages = tuple(Annotation(4.0 * i, 4.0, "W" if i % 2 else "R") for i in range(30))
        night = Recording(subject, tuple(signals), stages, facts=(("age", float("nan")),))
        rows.append(write_shard(tmp_path, cut_windows(night, config)))
    write_index(tmp_path, config, rows, seal({"train": ["a", "b.2", "c"], "valid": [], "test": []}))
    return tmp_path, rows


def test_shards_hold_a_subject_each_and_are_the_same_bytes(shards):
    folder, rows = shards
    assert [row["file"] for row in rows] == ["a-0.tar", "b%2E2-0.tar", "c-0.tar"]
    for row in rows:
        assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    sample = next(iter(ShardSource(folder).samples()))
    arrays, labels = decode(sample)
    assert arrays["eeg"].shape == (1, 64)
    assert labels == {"subject": "a", "window": 0, "stage": 4, "age": None}


def test_shards_stream_every_window_once_in_an_order_of_the_seed(shards):
    source = ShardSource(shards[0], buffer=16)
    assert source.num_windows == 90
    assert source.subjects == ["a", "b.2", "c"]

    def walk(seed, epoch, **rest):
        return [batch.signals["eeg"][:, 0, 0].tolist() for batch in source.batches(10, seed, epoch, **rest)]

    first = walk(0, 0)
    assert len({value for row in first for value in row}) == 90
    assert first == walk(0, 0)
    assert first != walk(0, 1)
    assert walk(0, 0, skip=4) == first[4:], "a resumed run finds its place"
    assert [a + b for a, b in zip(walk(0, 0, rows=slice(0, 5)), walk(0, 0, rows=slice(5, 10)), strict=True)] == first


def test_a_modality_that_a_subject_lacks_is_absent_in_its_rows(shards):
    batch, labels, subjects = ShardSource(shards[0]).load()
    lacking = subjects == "b.2"
    assert not batch.present["ecg"][lacking].any()
    assert batch.present["ecg"][~lacking].all()
    assert np.bincount(labels["stage"].astype(int)).tolist() == [45, 0, 0, 0, 45]
    assert np.isnan(labels["age"]).all()
    for part in ShardSource(shards[0]).batches(1, 0, 0):
        assert list(part.signals) == ["eeg", "ecg"], "in training every modality has its place"


def test_an_index_whose_split_was_changed_is_refused(shards):
    folder = shards[0]
    record = json.loads((folder / "splits.json").read_text())
    (folder / "splits.json").write_text(json.dumps(record | {"train": ["a", "c"], "test": ["b.2"]}))
    with pytest.raises(ValueError, match="not the split that the shards were written with"):
        ShardSource(folder)
    with pytest.raises(FileNotFoundError, match="prepare"):
        ShardSource(folder / "elsewhere")
