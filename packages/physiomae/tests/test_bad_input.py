"""Bad input, in the order of the issue's list: one clear sentence, status 2, nothing written."""

import json

import h5py
import numpy as np
import pytest
from make_signals import write_edf, write_labels, write_record
from physiomae.readers import write_npz
from physiomae.recordings import Annotation, Recording, Signal

FILES = ("prepare", "files")
EEG = [{"name": "eeg", "channels": ["C3"], "rate_hz": 100, "unit": "uV"}]


def night(folder, samples=None, *, unit="uV", rate=100.0, stages=()):
    values = np.random.default_rng(0).normal(size=6000) if samples is None else samples
    signal = Signal("C3", unit, rate, np.asarray(values, np.float32))
    write_npz(folder / "night.npz", Recording("night", (signal,), stages))


def truncated(folder):
    path = write_edf(folder / "night.edf")
    path.write_bytes(path.read_bytes()[:-300])


def disagreeing(folder):
    path = write_edf(folder / "night.edf")
    path.write_bytes(path.read_bytes() + b"\0" * 300)


def first_sample(folder):
    header = write_record(folder, "tr01-0001") / "tr01-0001.hea"
    lines = header.read_text().splitlines()
    parts = lines[1].split()
    parts[5] = str(int(parts[5]) + 1)
    header.write_text("\n".join([lines[0], " ".join(parts), *lines[2:]]) + "\n")


def scored_length(folder):
    record = write_record(folder, "tr01-0001")
    with h5py.File(record / "tr01-0001-arousal.mat", "a") as file:
        values = file["data/arousals"][:-1]
        del file["data/arousals"]
        file["data/arousals"] = values


def two_stages(folder):
    record = write_record(folder, "tr01-0001")
    with h5py.File(record / "tr01-0001-arousal.mat", "a") as file:
        file["data/sleep_stages/rem"][0, 6000:6100] = 1


def strange_stage(folder):
    record = write_record(folder, "tr01-0001")
    write_labels(record, "tr01-0001")
    with h5py.File(record / "tr01-0001-arousal.mat", "a") as file:
        file["data/sleep_stages/nonrem4"] = file["data/sleep_stages/rem"][()]


def twice(folder):
    night(folder)
    (folder / "splits.json").write_text(json.dumps({"train": ["night"], "test": ["night"]}))


OVERLAP = (Annotation(0, 30, "W"), Annotation(20, 30, "N2"))
CASES = {
    "truncated EDF": (truncated, FILES, "night.edf is truncated: the header promises 20 records"),
    "header and data that disagree": (disagreeing, FILES, "header and data disagree: 20 records are"),
    "header and data that disagree, WFDB": (first_sample, ("prepare", "cinc2018"), "F3-M2 begins with"),
    "header and data that disagree, labels": (scored_length, ("prepare", "cinc2018"), "header and data disagree"),
    "wrong units": (lambda f: night(f, unit="mmHg"), FILES, "wrong units: C3 is in 'mmHg', eeg needs 'uV'"),
    "all-NaN channel": (lambda f: night(f, np.full(6000, np.nan)), FILES, "(C3 all NaN)"),
    "flat channel": (lambda f: night(f, np.full(6000, 7.0)), FILES, "(C3 flat)"),
    "a recording under a window": (lambda f: night(f, np.zeros(2900)), FILES, "29 s are shorter than a window of 30 s"),
    "overlapping annotations": (
        lambda f: night(f, stages=OVERLAP), FILES, "overlapping annotations: 'W' lasts to 30 s, 'N2' begins at 20 s",
    ),
    "overlapping annotations, HDF5": (two_stages, ("prepare", "cinc2018"), "sample 6000 has two stages"),
    "unknown stages": (lambda f: night(f, stages=(Annotation(0, 30, "N7"),)), FILES, "'N7'"),
    "unknown stages, HDF5": (strange_stage, ("prepare", "cinc2018"), "unknown stages nonrem4"),
    "a subject in two splits": (twice, FILES, "subject 'night' is in two splits, train and test"),
    "rates that do not fit": (
        lambda f: night(f, rate=50.0), FILES, "rates do not fit: C3 has 50 Hz, eeg needs 100 Hz",
    ),
    "rates that do not fit, no ratio": (lambda f: night(f, rate=100.0137), FILES, "is no ratio of small whole numbers"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input(case, command, tmp_path):
    make, line, sentence = CASES[case]
    source, out = tmp_path / "in", tmp_path / "windows"
    source.mkdir()
    make(source)
    options = ["--quiet"]
    if line == FILES:
        rows = [{**EEG[0], "channels": ["EEG C3-M2"]}] if list(source.glob("*.edf")) else EEG
        (tmp_path / "eeg.json").write_text(json.dumps(rows))
        options += ["--modalities", tmp_path / "eeg.json"]
    if (source / "splits.json").exists():
        options += ["--splits", source / "splits.json"]
    before = sorted(path.name for path in tmp_path.iterdir())
    status, shown, error = command(*line, source, out, *options)
    assert status == 2
    assert shown == ""
    assert error.count("\n") == 1, error
    assert error.startswith("physiomae: error: ")
    assert sentence in error
    assert "Traceback" not in error
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing written"


def test_a_subject_in_two_splits_of_an_index_is_refused(command, tmp_path):
    """Shards whose index was edited by hand: training must not start."""
    (tmp_path / "in").mkdir()
    night(tmp_path / "in")
    (tmp_path / "eeg.json").write_text(json.dumps(EEG))
    line = ("prepare", "files", tmp_path / "in", tmp_path / "w", "--modalities", tmp_path / "eeg.json", "--quiet")
    assert command(*line)[0] == 0
    index = json.loads((tmp_path / "w" / "index.json").read_text())
    row = index["shards"][0]
    index["shards"].append({**row, "split": "test" if row["split"] == "train" else "train"})
    (tmp_path / "w" / "index.json").write_text(json.dumps(index))
    status, _, error = command("train", tmp_path / "w", "--steps", "1", "--out", tmp_path / "m", "--quiet")
    assert status == 2
    assert "'night' is in two splits" in error
    assert not (tmp_path / "m").exists()


def test_a_folder_in_use_is_left_alone(command, tmp_path):
    (tmp_path / "in").mkdir()
    night(tmp_path / "in")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "mine.txt").write_text("x")
    status, _, error = command("prepare", "files", tmp_path / "in", tmp_path / "w", "--quiet")
    assert status == 2
    assert "is not empty" in error
    assert (tmp_path / "w" / "mine.txt").read_text() == "x"
