"""Training: it learns, goes on exactly where it stopped, and several processes do what one does."""

import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from physiomae.checkpoint import from_pretrained, save_pretrained
from physiomae.config import OBJECTIVES, TrainConfig
from physiomae.sources import ArraySource, stream
from physiomae.train import Run, build, fit, train
from tenfold_shared.files import read_jsonl

SCRIPT = Path(__file__).with_name("train_script.py")


def settings(objective="mae_drop", **changes):
    return TrainConfig(OBJECTIVES[objective], **({"num_steps": 6, "batch_size": 4, "warmup_steps": 2} | changes))


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_overfits_eight_windows(config, objective):
    draw = np.random.default_rng(0)
    arrays = {
        m.name: draw.normal(size=(8, len(m.channels), config.window_samples(m))).astype(np.float32)
        for m in config.modalities
    }
    what = settings(objective, num_steps=120, batch_size=8, learning_rate=1e-2, warmup_steps=10)
    losses = []
    fit(
        build(config, what), ArraySource(config, arrays), what, after_step=lambda _, parts: losses.append(parts["loss"])
    )
    values = torch.stack(losses).detach()
    assert torch.isfinite(values).all()
    assert values[-10:].mean() < 0.8 * values[:5].mean()


def test_the_late_arms_train_late_and_the_others_jointly(config):
    late = {name for name in OBJECTIVES if build(config, settings(name)).late_fusion}
    assert late == {"unimodal", "contrastive_pairwise", "contrastive_loo"}
    one, other = (build(config, settings(name)).state_dict() for name in ("mae", "contrastive_loo"))
    assert all(torch.equal(one[name], other[name]) for name in one), "the same encoder, from the same weights"


def test_a_stopped_run_goes_on_to_the_same_weights(config, arrays, tmp_path):
    source = ArraySource(config, arrays)
    whole = train(config, source, settings("mae_drop_contrastive", checkpoint_every=1), tmp_path / "whole")
    train_part(config, source, tmp_path / "parts", stop=3)
    again = train(config, source, settings("mae_drop_contrastive", checkpoint_every=1), tmp_path / "parts")
    expected, state = whole.state_dict(), again.state_dict()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    steps = [row["step"] for row in read_jsonl(tmp_path / "parts" / "metrics.jsonl")]
    assert steps == sorted(set(steps))
    with pytest.raises(ValueError, match="other settings"):
        train(config, source, settings("mae"), tmp_path / "parts")
    with pytest.raises(ValueError, match="holds a run already"):
        train(config, source, settings("mae_drop_contrastive"), tmp_path / "parts", resume=False)


def train_part(config, source, out, stop):
    """Stop as a kill would: in the middle, after the checkpoint of step `stop`."""

    class Stopped(Exception):
        pass

    step = Run.step

    def until(self, batch, number):
        if number == stop:
            raise Stopped
        return step(self, batch, number)

    Run.step = until
    try:
        with pytest.raises(Stopped):
            train(config, source, settings("mae_drop_contrastive", checkpoint_every=1), out)
    finally:
        Run.step = step


def test_order_follows_from_the_seed_and_every_window_comes_once(config, arrays):
    source = ArraySource(config, arrays, {"number": np.arange(6)})
    numbers = [batch.labels["number"].tolist() for batch in source.batches(2, 0, 0)]
    assert sorted(itertools.chain(*numbers)) == list(range(6))
    assert numbers == [batch.labels["number"].tolist() for batch in source.batches(2, 0, 0)]
    assert numbers != [batch.labels["number"].tolist() for batch in source.batches(2, 0, 1)]
    third = next(stream(source, 2, 0, first_step=2)).labels["number"].tolist()
    assert third == numbers[2]
    halves = [next(stream(source, 2, 0, rows=slice(at, at + 1))).labels["number"].tolist() for at in range(2)]
    assert list(itertools.chain(*halves)) == numbers[0]


def test_schedule_warms_up_and_ends_at_zero(config, arrays):
    from physiomae.parallel import Processes
    from physiomae.train import Objective

    what = settings(num_steps=100, warmup_steps=10, learning_rate=1.0)
    run = Run(Objective(build(config, what), what, Processes()), what, Processes(), "cpu")
    rates = [run.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert max(rates) == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[-1] < 0.001


def test_a_loss_that_is_not_finite_stops_with_step_and_rate(config, arrays):
    arrays["eeg"][:] = 1e30
    with pytest.raises(FloatingPointError, match=r"step 0, learning rate"):
        fit(build(config, settings()), ArraySource(config, arrays), settings())


def test_the_command_says_so_in_one_sentence(command, tmp_path):
    from physiomae.recordings_simulated import write_recordings
    from physiomae.simulator import SimulatorConfig

    write_recordings(SimulatorConfig(num_subjects=8, num_windows=4), tmp_path / "r")
    assert command("prepare", "files", tmp_path / "r", tmp_path / "w", "--preset", "simulator", "--quiet")[0] == 0
    line = ("train", tmp_path / "w", "--preset", "tiny", "--batch-size", "4", "--steps", "20", "--lr", "1e30")
    status, _, error = command(*line, "--out", tmp_path / "m", "--device", "cpu", "--quiet")
    assert status == 2
    assert "the loss is nan at step" in error and "Traceback" not in error


def test_too_few_windows_for_a_batch(config, arrays):
    with pytest.raises(ValueError, match="6 windows are fewer than a batch of 7"):
        next(stream(ArraySource(config, arrays), 7, 0))


def test_a_model_that_is_saved_is_loaded_with_every_tensor_accounted_for(config, arrays, tmp_path, model):
    save_pretrained(model, tmp_path)
    again = from_pretrained(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    record = json.loads((tmp_path / "config.json").read_text())
    record["model"]["num_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"of \d+ tensors match \(12 missing, 0 unknown"):
        from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="is damaged"):
        from_pretrained(tmp_path)


def digest(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.mark.slow
def test_killed_at_twenty_places_to_the_same_bytes(tmp_path):
    """One process imports torch once and forks a child for each life; each dies by kill -9 at its own place."""
    done = subprocess.run([sys.executable, SCRIPT, "kills", tmp_path], capture_output=True, text=True, check=True)
    lives = json.loads(done.stdout)
    assert len(lives["deaths"]) == 20
    assert all(status == 9 for status in lives["deaths"])
    assert len(set(lives["steps"])) > 5, "at different steps"
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")
    assert not list((tmp_path / "killed").glob("*.pt")), "nothing that would have to be unpickled"


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("objective", ["mae_drop_contrastive"])
def test_two_processes_do_what_one_does(objective, tmp_path):
    """Weights after six steps: reconstruction, and contrast over gathered rows; without the gather they differ."""
    done = subprocess.run([sys.executable, SCRIPT, "pair", tmp_path, objective], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["two [0, 0]", "without [0, 0]"], done.stderr
    states = {name: from_pretrained(tmp_path / name).state_dict() for name in ("one", "two", "without")}

    def distance(name):
        """Over all weights together: the keys' biases have no gradient, and Adam makes steps of its rounding."""
        pairs = [(states[name][key] - value, value) for key, value in states["one"].items() if "qkv.bias" not in key]
        gap, size = (torch.cat([pair[i].flatten() for pair in pairs]).norm() for i in range(2))
        return float(gap / size)

    print(f"relative difference to one process: {distance('two'):.2g}, without gather {distance('without'):.2g}")
    assert distance("two") < 1e-5
    assert distance("without") > 1e-3


def test_float16_needs_a_gpu(command, tmp_path):
    from physiomae.recordings_simulated import write_recordings
    from physiomae.simulator import SimulatorConfig

    write_recordings(SimulatorConfig(num_subjects=3, num_windows=4), tmp_path / "r")
    assert command("prepare", "files", tmp_path / "r", tmp_path / "w", "--preset", "simulator", "--quiet")[0] == 0
    status, _, error = command("train", tmp_path / "w", "--precision", "float16", "--device", "cpu")
    assert status == 2
    assert "float16 needs --device cuda" in error


def test_replace_keeps_settings_checked():
    with pytest.raises(ValueError, match="learning_rate"):
        replace(settings(), learning_rate=0.0)
    with pytest.raises(ValueError, match="batch_size"):
        replace(settings(), batch_size=0)
