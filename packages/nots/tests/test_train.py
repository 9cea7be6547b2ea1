"""Training: the same again, goes on exactly after a stop or a kill, refuses another run's folder."""

import itertools
import math
import random
import time
from dataclasses import replace

import pytest
import torch
from nots.config import TrainConfig
from nots.train import NotFiniteError, batches, pretrain, rate_at
from nots_process import start

TRAIN = TrainConfig(num_steps=12, batch_size=4, warmup_steps=2, checkpoint_every=5)


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(config, series, tmp_path):
    whole = pretrain(config, TRAIN, series, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        from nots import train

        step = train.Run.step

        def stop(self, places, number):
            if number == 7:
                raise KeyboardInterrupt
            return step(self, places, number)

        patch.setattr(train.Run, "step", stop)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, TRAIN, series, tmp_path / "parts")
    assert not (tmp_path / "parts" / "model.safetensors").exists()
    again = pretrain(config, TRAIN, series, tmp_path / "parts")
    assert weights(tmp_path / "whole") == weights(tmp_path / "parts")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_a_folder_of_another_run_is_refused(config, series, tmp_path):
    pretrain(config, TRAIN, series, tmp_path)
    for other in ((config, replace(TRAIN, seed=1), series), (config, TRAIN, series.flip(0))):
        with pytest.raises(ValueError, match="other settings or series"):
            pretrain(*other, tmp_path)
    with pytest.raises(ValueError, match="holds a run already"):
        pretrain(config, TRAIN, series, tmp_path, resume=False)


def test_order_covers_every_series_of_an_epoch_and_can_start_anywhere():
    first = list(itertools.islice(batches(10, 4, 0), 5))
    assert torch.cat(first).sort().values.tolist() == sorted(list(range(10)) * 2)
    assert torch.equal(next(batches(10, 4, 0, first_step=3)), first[3])
    assert len(next(batches(3, 8, 0))) == 3, "a batch is never larger than the data"


def test_the_rate_warms_up_and_ends_at_zero():
    rates = [rate_at(step, 10, 4) for step in range(11)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[10] == pytest.approx(0.0)


def test_a_loss_that_is_not_finite_stops_with_its_place(config, series, tmp_path):
    broken = series.clone()
    broken[:, 0, 0] = math.inf
    with pytest.raises(NotFiniteError, match="at step 0, learning rate"):
        pretrain(config, TRAIN, broken, tmp_path)


@pytest.mark.slow
def test_killed_at_six_places_it_ends_with_the_bytes_of_a_whole_run(tmp_path):
    line = ["pretrain", "synthetic", "--preset", "tiny", "--num-series", "24", "--steps", "60", "--batch-size", "8"]
    line += ["--checkpoint-every", "2", "--quiet", "--device", "cpu", "--out"]
    start(["presets"]).join()  # what all are forked from has imported everything by then
    done = start([*line, tmp_path / "whole"])
    begun = time.monotonic()
    done.join()
    took = time.monotonic() - begun
    rng, killed = random.Random(0), 0
    for _ in range(6):
        process = start([*line, tmp_path / "killed"])
        process.join(rng.uniform(0.2, 1.0) * took)
        killed += process.exitcode is None
        process.kill()
        process.join()
    last = start([*line, tmp_path / "killed"])
    last.join()
    assert killed
    assert done.exitcode == last.exitcode == 0
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
