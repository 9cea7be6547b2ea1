"""The commands from recordings to a hypnogram."""

import json
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from physiomae.shards import ShardSource


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Simulated recordings, prepared windows and a model trained for a few steps."""
    from physiomae.config import OBJECTIVES, PRESETS, TrainConfig
    from physiomae.prepare import PrepareOptions, prepare_files
    from physiomae.recordings_simulated import write_recordings
    from physiomae.simulator import SimulatorConfig
    from physiomae.splits import seal
    from physiomae.train import train

    folder = tmp_path_factory.mktemp("use")
    write_recordings(SimulatorConfig(num_subjects=5, num_windows=24), folder / "recordings")
    names = [f"simulated-{i:03d}" for i in range(5)]
    splits = seal({"train": names[:3], "valid": names[3:4], "test": names[4:]})
    prepare_files(folder / "recordings", folder / "windows", PRESETS["simulator"], PrepareOptions(splits=splits))
    config = TrainConfig(OBJECTIVES["mae_drop"], 10, 16, 3e-3, 2)
    train(PRESETS["simulator"], ShardSource(folder / "windows"), config, folder / "model")
    return folder


def test_simulated_recordings_come_back_as_the_windows_that_were_drawn(folder):
    from physiomae.simulator import SimulatorConfig, simulate

    data = simulate(SimulatorConfig(num_subjects=5, num_windows=24))
    _, labels, subjects = ShardSource(folder / "windows", "test").load()
    assert set(subjects) == {"simulated-004"}
    assert labels["stage"].tolist() == data.stage[96:].tolist()
    assert set(labels["trait"]) == {float(data.trait[96])}


def test_train_resumes_and_prints(folder, command, tmp_path):
    line = (
        "train",
        folder / "windows",
        "--preset",
        "tiny",
        "--steps",
        "3",
        "--batch-size",
        "8",
        "--out",
        tmp_path / "m",
    )
    dry = json.loads(command(*line, "--dry-run", "--quiet")[1])
    assert dry["windows"] == 72
    assert dry["model"]["dim"] == 16
    assert [m["name"] for m in dry["model"]["modalities"]] == ["eeg", "eog", "emg", "resp"], (
        "the data's, not the preset's"
    )
    assert not (tmp_path / "m").exists()
    assert json.loads(command(*line, "--json", "--quiet")[1])["steps"] == 3
    assert command(*line, "--quiet")[0] == 0, "nothing left to do"
    status, _, error = command(*line, "--no-resume", "--quiet")
    assert status == 2
    assert "holds a run already" in error


def test_probe_evaluate_analyze(folder, command, tmp_path):
    base = (folder / "windows", "--model", folder / "model", "--json", "--quiet")
    status, out, error = command(
        "probe", *base, "--out", tmp_path / "probe.json", "--budgets", "1", "2", "--finetune", "3"
    )
    assert status == 0, error
    rows = json.loads(out)
    assert len(rows) == 2 * 15 + 2 + 1
    assert rows[-1]["trained_on"] == "all, fine-tuned"
    assert {"balanced_accuracy", "macro_f1", "kappa", "auroc", "auprc"} <= set(rows[0])
    loss = json.loads(command("evaluate", *base)[1])
    assert set(loss) == {"windows", "masked_loss", *(f"hidden_r2_{m}" for m in ("eeg", "eog", "emg", "resp"))}
    rows = json.loads(command("analyze", *base, "--against", folder / "model", "--out", tmp_path / "figures")[1])
    assert [row["model"] for row in rows] == ["model", "against", "random"]
    assert {key: rows[0][key] for key in rows[0] if key != "model"} == {
        key: rows[1][key] for key in rows[1] if key != "model"
    }
    for name in ("attention.svg", "units.svg"):
        assert "<svg" in (tmp_path / "figures" / name).read_text()
    status, _, error = command("probe", *base, "--label", "stagee")
    assert status == 2
    assert "stage" in error


def test_embed_and_stage_with_some_sensors(folder, command, tmp_path):
    night = folder / "recordings" / "simulated-004.npz"
    probe = tmp_path / "probe.json"
    base = (folder / "windows", "--model", folder / "model", "--quiet")
    assert command("probe", *base, "--out", probe, "--no-refit")[0] == 0
    line = ("embed", night, "--model", folder / "model", "--out", tmp_path / "e.npz", "--json", "--quiet")
    found = json.loads(command(*line, "--available", "emg", "eeg")[1])
    assert found["windows"] == 24
    assert found["channels"][0]["matched_by"] == "name"
    with np.load(tmp_path / "e.npz") as file:
        assert file["embeddings"].shape == (24, 32)
        assert file["seconds"].tolist() == list(range(0, 192, 8))
    line = ("stage", night, "--model", folder / "model", "--probe", probe, "--out", tmp_path / "s", "--json", "--quiet")
    rows = json.loads(command(*line)[1])
    assert len(rows) == 24
    assert rows == json.loads((tmp_path / "s" / "stages.json").read_text())
    assert {row["stage"] for row in rows} <= {"W", "N1", "N2", "N3", "R"}
    assert "<svg" in (tmp_path / "s" / "hypnogram.svg").read_text()
    status, _, error = command(*line, "--available", "ecg")
    assert status == 2
    assert "'ecg'" in error


def test_oracle_and_presets(command):
    rows = json.loads(command("simulate", "--oracle", "--coupling", "0.9", "--informativeness", "one", "--json")[1])
    published = json.loads(resources.files("physiomae").joinpath("results", "oracle.json").read_text("utf-8"))[8]
    assert (published["coupling"], published["informativeness"]) == (0.9, "one")
    assert [row.pop("available") for row in rows] == list(published["accuracy"])
    for row, expected in zip(rows, published["accuracy"].values(), strict=True):
        assert row == pytest.approx(expected, abs=2e-4), "the published oracle, computed again"
    assert set(json.loads(command("presets", "--json")[1])) == {"sleep", "sleep_small", "watch", "simulator", "tiny"}


def test_wrong_files_in_one_sentence(command, tmp_path):
    (tmp_path / "m.json").write_text('[{"name": "eeg", "channel": ["C3"]}]')
    for line, words in (
        (("embed", tmp_path / "no.edf", "--model", tmp_path), "no config.json"),
        (("train", tmp_path), "no index.json"),
        (
            ("prepare", "files", tmp_path, tmp_path / "w", "--modalities", tmp_path / "m.json"),
            "no settings ['channel']",
        ),
        (("prepare", "cinc2018", tmp_path, tmp_path / "w"), "no records in"),
    ):
        status, _, error = command(*line, "--quiet")
        assert status == 2
        assert words in error
        assert error.count("\n") == 1


def test_the_estimator_is_sklearns(config):
    from physiomae.estimator import PhysioEncoder
    from sklearn.base import clone
    from sklearn.exceptions import NotFittedError
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    draw = np.random.default_rng(0)
    windows, labels = draw.normal(size=(30, 2, 64)).astype(np.float32), np.arange(30) % 2
    windows[labels == 1] *= 4
    encoder = PhysioEncoder("tiny", num_steps=3, seed=5)
    assert clone(encoder).get_params() == encoder.get_params()
    with pytest.raises(NotFittedError):
        encoder.transform(windows)
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(windows[:20], labels[:20])
    assert pipeline.score(windows[20:], labels[20:]) > 0.8
    again = clone(encoder).fit(windows[:20])
    np.testing.assert_array_equal(again.transform(windows), pipeline[0].transform(windows))
    split = {"eeg": windows[:, :1], "eog": windows[:, 1:]}
    np.testing.assert_array_equal(again.transform(split), again.transform(windows))
    holes = windows.copy()
    holes[:, 1] = np.nan
    np.testing.assert_allclose(again.transform(holes), again.transform({"eeg": split["eeg"]}), atol=1e-6)
    with pytest.raises(ValueError, match="different rates"):
        PhysioEncoder(config, num_steps=1).fit(windows)
    with pytest.raises(ValueError, match="mae_drop"):
        PhysioEncoder("tiny", objective="mae_dropp").fit(windows)
    with pytest.raises(ValueError, match="watch"):
        PhysioEncoder("wtch").fit(windows)


@pytest.mark.slow
def test_the_command_in_a_process_of_its_own(folder, tmp_path):
    line = [sys.executable, "-m", "physiomae", "evaluate", str(folder / "windows"), "--model", str(folder / "model")]
    done = subprocess.run([*line, "--json", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout)["windows"] == 24
