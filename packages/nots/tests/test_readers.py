"""Readers: the same as aeon's on its own files, damaged lines by number, official layouts of the benchmark sets."""

import numpy as np
import pytest
from aeon.datasets import load_from_ts_file
from nots.benchsets import CHANNELS, DETECTION, ETT, Scaler, load_detection, load_ett
from nots.readers import read_series, read_table, read_ts
from nots.real import data_folder

HEADER = "@problemName x\n@univariate false\n@classLabel true a b\n@data\n"


@pytest.mark.parametrize("name", ["JapaneseVowels", "BasicMotions", "GunPoint"])
def test_archives_are_read_as_aeon_reads_them(name):
    path = data_folder() / name / f"{name}_TRAIN.ts"
    found = read_ts(path)
    X, y = load_from_ts_file(str(path))
    assert [label.lower() for label in found.labels] == [label.lower() for label in y]
    for ours, theirs in zip(found.series, X, strict=True):
        np.testing.assert_allclose(ours, theirs)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("1,2:3,4:a\n1,x:3,4:b\n", "line 6: channel 0 holds a value that is no number"),
        ("1,2:3,4:a\n1,2:b\n", "line 6: 1 channels where the first series has 2"),
        ("1,2:3:a\n", "line 5: channels have 2, 1 values"),
        ("1,2:3,4:c\n", "line 5: label 'c' is none"),
        ("1,2,3\n", "line 5: no label"),
        ("", "line 4: no series"),
    ],
)
def test_damaged_lines_are_named(tmp_path, lines, words):
    path = tmp_path / "x.ts"
    path.write_text(HEADER + lines)
    with pytest.raises(ValueError, match=words):
        read_ts(path)


def test_damaged_headers_are_named(tmp_path):
    path = tmp_path / "x.ts"
    for text, words in (
        ("@a b\nnonsense\n@data\n", "line 2: 'nonsense'"),
        ("@a b\n", "line 1: the file ends without @data"),
        ("@timeStamps true\n@data\n", "line 2: series with time stamps"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_ts(path)


def test_missing_values_targets_and_other_files(tmp_path):
    path = tmp_path / "x.ts"
    path.write_text("@targetLabel true\n@data\n1,?,3:0.5\n")
    found = read_ts(path)
    assert np.isnan(found.series[0][0, 1])
    assert found.labels.tolist() == [0.5]
    np.savez(tmp_path / "a.npz", series=np.ones((2, 1, 3)), labels=["a", "b"])
    assert read_series(tmp_path / "a.npz").labels.tolist() == ["a", "b"]
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    assert read_series(tmp_path / "a.npy").series[0].shape == (1, 3)
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "a.csv").write_text("date,a,b\n2020,1,2\n2021,3,\n")
    assert read_series(tmp_path / "a.csv").series[0].shape == (2, 2)
    for name, words in (("o.npy", "without objects"), ("x.doc", "ends in .doc"), ("no.ts", "no file")):
        if name == "x.doc":
            (tmp_path / name).touch()
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            read_series(tmp_path / name)


def write_layout(folder, name, rng):
    channels, rows = CHANNELS[name], 40
    train, test = rng.normal(size=(2, rows, channels))
    labels = (np.arange(rows) % 10 == 0).astype(float)
    head = ",".join(f"c{i}" for i in range(channels))
    if name == "SWaT":
        for file, part in (("swat_train2.csv", train), ("swat2.csv", test)):
            lines = [",".join(map(str, [*row, y])) for row, y in zip(part, labels, strict=True)]
            (folder / file).write_text(f"{head},label\n" + "\n".join(lines))
    elif name == "PSM":
        for file, part in (("train.csv", train), ("test.csv", test), ("test_label.csv", labels[:, None])):
            columns = "label" if part.shape[1] == 1 else head
            lines = [f"{i}," + ",".join(map(str, row)) for i, row in enumerate(part)]
            (folder / file).write_text(f"timestamp_(min),{columns}\n" + "\n".join(lines))
    else:
        for part, values in (("train", train), ("test", test), ("test_label", labels)):
            np.save(folder / f"{name}_{part}.npy", values)
    return train, test, labels


@pytest.mark.parametrize("name", DETECTION)
def test_detection_sets_in_their_official_layout(name, tmp_path):
    train, test, labels = write_layout(tmp_path, name, np.random.default_rng(0))
    found = load_detection(tmp_path, name)
    assert found.labels.tolist() == labels.astype(bool).tolist()
    assert len(found.train) + len(found.valid) == 40
    assert abs(found.train.mean(0)).max() < 1e-9, "scaled by the training part"
    assert abs(found.valid.mean(0)).max() > 1e-3, "and by nothing else"
    np.testing.assert_allclose(found.test * found.scaler.scale + found.scaler.mean, test, atol=1e-9)
    np.testing.assert_allclose(Scaler.fit(train[:32]).mean, found.scaler.mean)
    with pytest.raises(ValueError, match="did you mean"):
        load_detection(tmp_path, name + "x")


def test_ett_is_parted_by_months(tmp_path):
    assert len(ETT) == 4
    rows = 20 * 720 + 50
    table = np.arange(rows, dtype=float)[:, None] * np.ones(2)
    lines = [f"2016-01-01,{a},{b}" for a, b in table]
    (tmp_path / "ETTh1.csv").write_text("date,HUFL,OT\n" + "\n".join(lines))
    found = load_ett(tmp_path, "ETTh1")
    assert [len(part) for part in (found.train, found.valid, found.test)] == [8640, 2880, 2880]
    assert found.test[0, 0] * found.scaler.scale[0] + found.scaler.mean[0] == pytest.approx(16 * 720)
    with pytest.raises(FileNotFoundError, match=r"ETTh2\.csv"):
        load_ett(tmp_path, "ETTh2")
    (tmp_path / "ETTh2.csv").write_text("date,OT\n1,2\n")
    with pytest.raises(ValueError, match="20 months"):
        load_ett(tmp_path, "ETTh2")


def test_tables_name_line_and_column(tmp_path):
    path = tmp_path / "t.csv"
    for text, words in (
        ("a,b\n1,x\n", "line 2: column 'b' holds 'x'"),
        ("a,b\n1\n", "line 2: 1 values"),
        ("a\n", "1 lines"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=words):
            read_table(path)
