"""`prepare cinc2018` on records in the challenge's exact layout, written by wfdb and h5py."""

import json

import numpy as np
import pytest
import scipy.io
import wfdb
from make_signals import RATE, SECONDS, write_record, write_table
from physiomae import cinc2018
from physiomae.cinc2018 import label_arousals, read_notes
from physiomae.shards import ShardSource


@pytest.fixture
def challenge(tmp_path):
    source = tmp_path / "training"
    write_record(source, "tr03-0005")
    write_record(source, "tr03-0029", seed=1)
    write_record(source, "te03-0001", seed=2, labels=False)
    write_table(source, [("tr03-0005", 59, "M"), ("tr03-0029", "NaN", "F")])
    return source


def test_the_record_is_the_challenges(challenge):
    """wfdb and scipy read what was written as they read the challenge's own files."""
    record = wfdb.rdrecord(str(challenge / "tr03-0005" / "tr03-0005"))
    values = scipy.io.loadmat(challenge / "tr03-0005" / "tr03-0005.mat")["val"]
    assert values.shape == (13, SECONDS * RATE)
    assert values.dtype == np.int16
    np.testing.assert_allclose(record.p_signal[:, 12], values[12] / 1000)


def test_prepare_counts_what_was_read_written_and_dropped(challenge, command, tmp_path):
    status, out, _ = command("prepare", "cinc2018", challenge, tmp_path / "windows", "--json", "--quiet")
    report = json.loads(out)
    assert status == 0
    assert report["records_read"] == 3
    assert report["windows_written"] == 9
    assert report["windows_dropped"] == 3
    assert report["dropped"] == {"shorter than a window": 3}
    assert sum(report["windows_by_split"].values()) == 9
    assert report["channels"]["C3-M2 by name, used"] == 3
    assert len(report["channels"]) == 13
    assert report["records_refused"] == []


def test_windows_hold_stages_arousals_age_and_sex(challenge, command, tmp_path):
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["tr03-0005", "tr03-0029"], "test": ["te03-0001"]}))
    line = ("prepare", "cinc2018", challenge, tmp_path / "w", "--splits", splits, "--quiet", "--json")
    assert command(*line)[0] == 0
    batch, labels, subjects = ShardSource(tmp_path / "w", "train").load()
    assert subjects.tolist() == ["tr03-0005"] * 3 + ["tr03-0029"] * 3
    assert labels["stage"].tolist() == [-1, 0, 2] * 2, "undefined, wake, N2"
    assert labels["arousal"].tolist() == [-1, 1, 0] * 2, "unscored, one, none"
    assert labels["event"].tolist() == [0, 0, 1] * 2, "the hypopnea of the third window"
    assert labels["age"][:3].tolist() == [59, 59, 59]
    assert np.isnan(labels["age"][3:]).all(), "the table says NaN"
    assert labels["sex"].tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.signals["eeg"].shape == (6, 6, 3000)
    assert batch.signals["spo2"].shape == (6, 1, 120)
    assert all(present.all() for present in batch.present.values())
    _, unscored, _ = ShardSource(tmp_path / "w", "test").load()
    assert unscored["stage"].tolist() == unscored["arousal"].tolist() == unscored["event"].tolist() == [-1] * 3
    assert np.isnan(unscored["age"]).all()


def test_without_hdf5_stages_come_from_the_annotation(challenge, command, tmp_path):
    (challenge / "tr03-0005" / "tr03-0005-arousal.mat").unlink()
    stages, events = read_notes(challenge / "tr03-0005" / "tr03-0005.arousal")
    assert [(s.start_seconds, s.seconds, s.label) for s in stages] == [(30, 30, "W"), (60, 30, "N2")]
    three = cinc2018._stages([(0.0, "W"), (30.0, "(arousal"), (60.0, "N1"), (150.0, "R")], tmp_path)
    assert [(s.start_seconds, s.seconds, s.label) for s in three] == [(0, 60, "W"), (60, 90, "N1"), (150, 30, "R")]
    assert [(e.start_seconds, e.seconds, e.label) for e in events] == [(62, 8, "resp_hypopnea")]
    splits = tmp_path / "s.json"
    splits.write_text(json.dumps({"train": ["tr03-0005"], "test": ["te03-0001", "tr03-0029"]}))
    line = ("prepare", "cinc2018", challenge, tmp_path / "w", "--splits", splits, "--stages-only", "--quiet", "--json")
    report = json.loads(command(*line)[1])
    assert report["dropped"] == {"no stage": 5, "shorter than a window": 3}
    assert ShardSource(tmp_path / "w", "train").load()[1]["stage"].tolist() == [0, 2]


def test_a_bad_record_stops_everything_or_is_counted(challenge, command, tmp_path):
    data = challenge / "tr03-0005" / "tr03-0005.mat"
    content = data.read_bytes()
    data.write_bytes(content[:-1000])
    line = ("prepare", "cinc2018", challenge, tmp_path / "w", "--quiet", "--json")
    status, _, error = command(*line)
    assert status == 2
    assert "tr03-0005.mat is truncated" in error
    assert not (tmp_path / "w").exists()
    report = json.loads(command(*line, "--skip-bad")[1])
    assert report["records_read"] == 2
    assert "is truncated" in report["records_refused"][0]


def test_a_stopped_run_goes_on_after_the_recordings_that_were_done(challenge, command, tmp_path, monkeypatch):
    """Stopped by a damaged record, then mended; killed in the middle of another: the same bytes as in one go."""
    line = ("prepare", "cinc2018", challenge)
    assert command(*line, tmp_path / "whole", "--quiet")[0] == 0
    data = challenge / "tr03-0029" / "tr03-0029.mat"
    content = data.read_bytes()
    data.write_bytes(content[:-1000])
    assert command(*line, tmp_path / "w", "--quiet")[0] == 2
    data.write_bytes(content)
    seen = []
    reader = cinc2018.read_record
    monkeypatch.setattr(
        cinc2018, "read_record", lambda header, people: seen.append(header.stem) or reader(header, people)
    )
    status, out, _ = command(*line, tmp_path / "w", "--quiet", "--json")
    assert status == 0 and seen == ["tr03-0029"] and json.loads(out)["records_read"] == 3
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "w").iterdir()} == files
    assert not list(tmp_path.glob(".*.partial"))


def test_arousals_by_hand():
    samples = np.array([-1, -1, 0, -1, 0, 1, 0, 0, 1])
    assert label_arousals(samples, 1.0, 4, 2.0).tolist() == [-1, 0, 1, 0]
    assert label_arousals(None, 1.0, 2, 2.0).tolist() == [-1, -1]
