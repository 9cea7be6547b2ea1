"""Recordings in the formats of others, written by others' writers."""

import csv

import h5py
import numpy as np
import pyedflib
import scipy.io
import wfdb

RATES = (100, 25)


def waves(seconds=20):
    draw = np.random.default_rng(0)
    return [np.cumsum(draw.normal(size=rate * seconds)).astype(np.float64) for rate in RATES]


def write_edf(path, kind=pyedflib.FILETYPE_EDFPLUS, seconds=20):
    with pyedflib.EdfWriter(str(path), 2, file_type=kind) as writer:
        for place, (name, unit, rate) in enumerate((("EEG C3-M2", "uV", 100), ("ECG", "mV", 25))):
            header = {"label": name, "dimension": unit, "sample_frequency": rate, "transducer": "", "prefilter": ""}
            bits = 23 if path.suffix == ".bdf" else 15
            header |= {"physical_min": -200.0, "physical_max": 200.0}
            header |= {"digital_min": -(2**bits), "digital_max": 2**bits - 1}
            writer.setSignalHeader(place, header)
        writer.writeSamples(waves(seconds))
        if kind in (pyedflib.FILETYPE_EDFPLUS, pyedflib.FILETYPE_BDFPLUS):
            writer.writeAnnotation(0, 10, "Sleep stage W")
            writer.writeAnnotation(10, 10, "Sleep stage N2")
            writer.writeAnnotation(12, 3, "Arousal")
    return path


RATE, SECONDS = 200, 95
CHANNELS = ("F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1", "E1-M2", "Chin1-Chin2", "ABD", "CHEST", "AIRFLOW")
NAMES = (*CHANNELS, "SaO2", "ECG")
UNITS = (*["uV"] * 11, "%", "mV")
GAINS = (*[1.0] * 11, 655.34, 1000.0)
STAGES = ("undefined", "wake", "nonrem2")  # of the three windows
HEADER = 24  # bytes of a MATLAB 4 file before its numbers, which the record's header skips


def write_record(folder, name, seed=0, labels=True):
    """Write one record: signals as MATLAB 4 int16 `val` [13, n], header with `16+24`, annotations, HDF5 labels."""
    folder = folder / name
    folder.mkdir(parents=True)
    digital = np.random.default_rng(seed).integers(-200, 200, (SECONDS * RATE, 13)).astype(np.int16)
    digital[:, 11] = 62000 // 2
    digital[::7, 11] += 20
    wfdb.wrsamp(
        name, RATE, list(UNITS), list(NAMES), d_signal=digital.astype(np.int64), fmt=["16"] * 13,
        adc_gain=list(GAINS), baseline=[0] * 13, write_dir=str(folder),
    )  # fmt: skip
    (folder / f"{name}.dat").unlink()
    scipy.io.savemat(folder / f"{name}.mat", {"val": digital.T}, format="4")
    header = (folder / f"{name}.hea").read_text()
    (folder / f"{name}.hea").write_text(header.replace(f"{name}.dat 16 ", f"{name}.mat 16+{HEADER} "))
    if labels:
        write_labels(folder, name)
    return folder


def write_labels(folder, name, stages=STAGES):
    total = SECONDS * RATE
    arousals = np.full(total, -1, np.int8)
    arousals[30 * RATE :] = 0
    arousals[40 * RATE : 45 * RATE] = 1
    with h5py.File(folder / f"{name}-arousal.mat", "w") as file:
        file["data/arousals"] = arousals[:, None]
        for stage in ("wake", "nonrem1", "nonrem2", "nonrem3", "rem", "undefined"):
            flags = np.zeros((1, total), np.uint8)
            for place, what in enumerate(stages):
                if what == stage:
                    flags[0, place * 30 * RATE : (place + 1) * 30 * RATE] = 1
            file[f"data/sleep_stages/{stage}"] = flags
    texts = ["W", "(resp_hypopnea", "resp_hypopnea)", "N2"]
    samples = np.array([30, 62, 70, 60]) * RATE
    order = np.argsort(samples)
    wfdb.wrann(
        name, "arousal", samples[order], ["+"] * 4, aux_note=[texts[i] for i in order], fs=RATE, write_dir=str(folder)
    )


def write_table(folder, rows):
    with open(folder / "age-sex.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Record", "Age", "Sex"])
        table.writerows(rows)
