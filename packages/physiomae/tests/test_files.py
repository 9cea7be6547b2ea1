"""Readers on files written by others' writers: pyedflib, wfdb, pybv, h5py."""

import csv
from pathlib import Path

import h5py
import numpy as np
import pybv
import pyedflib
import pytest
import wfdb
from make_signals import waves, write_edf
from physiomae.edf import read_layout, record_onsets, spread
from physiomae.readers import read_recording, write_npz
from physiomae.recordings import Annotation, Recording, Signal
from tenfold_shared.commands import InputError


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.edf", pyedflib.FILETYPE_EDF), ("b.edf", pyedflib.FILETYPE_EDFPLUS), ("c.bdf", pyedflib.FILETYPE_BDFPLUS)],
)
def test_edf_and_bdf_of_pyedflib(tmp_path, name, kind):
    recording = read_recording(write_edf(tmp_path / name, kind))
    assert [(s.name, s.unit, s.rate_hz) for s in recording.signals] == [("EEG C3-M2", "uV", 100), ("ECG", "mV", 25)]
    step = 400 / 2 ** (24 if name == "c.bdf" else 16)
    for signal, expected in zip(recording.signals, waves(), strict=True):
        assert np.abs(signal.samples - expected).max() < step + 1e-5
    if kind != pyedflib.FILETYPE_EDF:
        assert [(s.start_seconds, s.seconds, s.label) for s in recording.stages] == [
            (0, 10, "Sleep stage W"),
            (10, 10, "Sleep stage N2"),
        ]
        assert [event.label for event in recording.events] == ["Arousal"]


def test_gaps_of_a_discontinuous_file_are_nan(tmp_path):
    """pyedflib's file, its header turned to EDF+D and its last records moved by five seconds."""
    path = write_edf(tmp_path / "d.edf", seconds=4)
    content = bytearray(path.read_bytes())
    layout = read_layout(path)
    content[192:197] = b"EDF+D"
    place = next(i for i, label in enumerate(layout.labels) if label.endswith("Annotations"))
    for number in (2, 3):
        start = layout.header_bytes + number * layout.record_bytes + 2 * sum(layout.samples[:place])
        content[start : start + 4] = f"+{number + 5}".encode() + content[start + 2 : start + 4]
    path.write_bytes(content)
    assert record_onsets(path, read_layout(path)).tolist() == [0, 1, 7, 8]
    ecg = read_recording(path).signals[1].samples
    assert len(ecg) == 9 * 25
    assert np.isnan(ecg[50:175]).all()
    assert np.isfinite(ecg[:50]).all()
    assert np.isfinite(ecg[175:]).all()


def test_records_are_spread_by_hand():
    found = spread(np.arange(4.0), 2, np.array([10.0, 12.0]), 1.0)
    assert found.tolist()[:2] == [0, 1]
    assert np.isnan(found[2:4]).all()
    assert found.tolist()[4:] == [2, 3]


@pytest.mark.parametrize("fmt", ["16", "212", "80"])
def test_wfdb_records_are_read_as_wfdb_reads_them(tmp_path, fmt):
    draw = np.random.default_rng(1)
    digital = draw.integers(-120, 120, (500, 3))
    digital[7, 1] = {"16": -32768, "212": -2048, "80": -128}[fmt]
    wfdb.wrsamp(
        "rec", 200, ["uV", "mV", "%"], ["C3-M2", "ECG", "SaO2"], d_signal=digital, fmt=[fmt] * 3,
        adc_gain=[10.0, 200.0, 1.0], baseline=[5, 0, -3], write_dir=str(tmp_path),
    )  # fmt: skip
    theirs = wfdb.rdrecord(str(tmp_path / "rec")).p_signal
    recording = read_recording(tmp_path / "rec.hea")
    assert [(s.name, s.unit, s.rate_hz) for s in recording.signals] == [
        ("C3-M2", "uV", 200), ("ECG", "mV", 200), ("SaO2", "%", 200),
    ]  # fmt: skip
    for place, signal in enumerate(recording.signals):
        np.testing.assert_allclose(signal.samples, theirs[:, place], rtol=1e-5)
    assert np.isnan(recording.signals[1].samples[7])


def test_wfdb_signals_keep_their_own_rates(tmp_path):
    fast, slow = np.arange(40), np.arange(10)
    wfdb.wrsamp(
        "multi", 50, ["uV", "mV"], ["EEG", "RESP"], e_d_signal=[fast, slow], fmt=["16", "16"], adc_gain=[1.0, 1.0],
        baseline=[0, 0], samps_per_frame=[4, 1], write_dir=str(tmp_path),
    )  # fmt: skip
    signals = read_recording(tmp_path / "multi.hea").signals
    assert [(s.rate_hz, s.samples.tolist()) for s in signals] == [(200, fast.tolist()), (50, slow.tolist())]


def test_brainvision_of_pybv(tmp_path):
    volts = np.random.default_rng(2).normal(size=(2, 400)) * 1e-5
    pybv.write_brainvision(
        data=volts, sfreq=100, ch_names=["C3", "ECG"], fname_base="bv", folder_out=str(tmp_path),
        events=[{"onset": 100, "duration": 50, "type": "Comment", "description": "cough"}],
    )  # fmt: skip
    recording = read_recording(tmp_path / "bv.vhdr")
    assert [(s.name, s.unit, s.rate_hz) for s in recording.signals] == [("C3", "uV", 100), ("ECG", "uV", 100)]
    np.testing.assert_allclose(recording.signals[0].samples, volts[0] * 1e6, rtol=1e-3, atol=1e-3)
    assert any("cough" in event.label and event.start_seconds == 1.0 for event in recording.events)


def test_hdf5_of_h5py(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["signals/ECG"] = np.array([1.0, np.nan, 3.0])
        file["rate_hz/ECG"], file["unit/ECG"], file["subject"] = 250.0, "mV", "anna"
        file["stages/start"], file["stages/seconds"] = [0.0], [30.0]
        file["stages/label"] = ["N3"]
    recording = read_recording(tmp_path / "x.h5")
    assert recording.subject == "anna"
    assert recording.stages == (Annotation(0.0, 30.0, "N3"),)
    (signal,) = recording.signals
    assert (signal.name, signal.unit, signal.rate_hz) == ("ECG", "mV", 250)
    np.testing.assert_array_equal(signal.samples, [1, np.nan, 3])


def test_stages_of_unequal_length_are_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["signals/ECG"], file["rate_hz/ECG"], file["unit/ECG"] = np.ones(3), 250.0, "mV"
        file["stages/start"], file["stages/seconds"], file["stages/label"] = [0.0, 30.0], [30.0], ["N3"]
    with pytest.raises(InputError, match="stages have 2, 1, 1 starts, seconds and labels"):
        read_recording(tmp_path / "x.h5")


def test_npz_comes_back_and_runs_nothing(tmp_path):
    signal = Signal("C3", "uV", 100.0, np.array([1, np.nan, 2], np.float32))
    recording = Recording("s", (signal,), (Annotation(0.0, 30.0, "R"),), facts=(("age", 41.0),))
    write_npz(tmp_path / "n.npz", recording)
    again = read_recording(tmp_path / "n.npz")
    assert (again.subject, again.stages, again.facts) == ("s", recording.stages, recording.facts)
    np.testing.assert_array_equal(again.signals[0].samples, signal.samples)
    np.savez(tmp_path / "evil.npz", **{"signals/C3": np.array([Path], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        read_recording(tmp_path / "evil.npz")


def test_csv_with_units_and_a_gap(tmp_path):
    with open(tmp_path / "c.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seconds", "ECG [mV]", "acc_x[g]"])
        rows.writerows([[round(i / 50, 2), i, "" if i == 1 else 2 * i] for i in range(5)])
    recording = read_recording(tmp_path / "c.csv")
    assert [(s.name, s.unit, s.rate_hz) for s in recording.signals] == [("ECG", "mV", 50), ("acc_x", "g", 50)]
    np.testing.assert_array_equal(recording.signals[1].samples, [0, np.nan, 4, 6, 8])


def test_other_endings_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"\.edf, \.bdf, \.hea"):
        read_recording(tmp_path / "x.mat")
    with pytest.raises(FileNotFoundError, match="no recording"):
        read_recording(tmp_path / "x.edf")
