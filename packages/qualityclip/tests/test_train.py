"""Pretraining: order, resuming, kills, several processes, and that it learns."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from qualityclip import from_pretrained
from qualityclip.config import MixConfig
from qualityclip.data import PairBatch, StepDataset, load_batches
from qualityclip.train import RunOptions, Trainer, learning_rate, train
from tenfold_shared.commands import InputError
from tenfold_shared.files import read_jsonl

QUIET = RunOptions(quiet=True, checkpoint_every=2, log_every=1)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_an_epoch_shows_every_sample_once(tiny_train, samples):
    data = StepDataset(samples, dataclasses.replace(tiny_train, num_steps=5))
    seen = [int(row) for step in range(5) for row in data.rows(step)]
    assert sorted(seen[:20]) == list(range(20)) and sorted(seen[20:]) == list(range(20))
    assert seen[:20] != seen[20:]


def test_workers_and_ranks_change_nothing(tiny_train, samples):
    whole = list(load_batches(StepDataset(samples, tiny_train), 0, 0))
    parts = [StepDataset(samples, tiny_train, rank=rank, world_size=2) for rank in (0, 1)]
    halves = [list(load_batches(part, 0, workers)) for part, workers in zip(parts, (0, 2), strict=True)]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch.uids == first.uids + second.uids
        assert torch.equal(batch.images, torch.cat([first.images, second.images]))
        assert torch.equal(batch.tokens, torch.cat([first.tokens, second.tokens]))


def test_captions_change_from_step_to_step(tiny_train, samples):
    data = StepDataset(samples, dataclasses.replace(tiny_train, mix=MixConfig("uniform")))
    assert {data.caption(samples[0], step) for step in range(40)} == set(samples[0].captions)


def test_it_learns_eight_pairs(tiny_train, samples):
    config = dataclasses.replace(tiny_train, num_steps=60, smallest_crop=1.0, mix=MixConfig("real"))
    trainer, data = Trainer(config), StepDataset(samples[:8], config)
    losses = [trainer.train_step(data[step])["train/loss"] for step in range(60)]
    assert losses[0] > 1.5 and losses[-1] < 0.1


@pytest.mark.parametrize("loss", ["clip", "siglip"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, tiny_train, samples, loss):
    config = dataclasses.replace(tiny_train, model=dataclasses.replace(tiny_train.model, loss=loss))
    whole = train(config, samples, tmp_path / "whole", options=QUIET)
    train(config, samples, tmp_path / "cut", options=dataclasses.replace(QUIET, stop_after=3))
    assert not (tmp_path / "cut" / "model").exists()
    again = train(config, samples, tmp_path / "cut", resume=True, options=QUIET)
    assert again == whole
    assert same(from_pretrained(tmp_path / "whole" / "model"), from_pretrained(tmp_path / "cut" / "model"))
    assert [row["step"] for row in read_jsonl(tmp_path / "cut" / "metrics.jsonl")] == list(range(1, 7))
    with pytest.raises(InputError, match="already holds a run"):
        train(config, samples, tmp_path / "cut", options=QUIET)
    other = dataclasses.replace(config, learning_rate=0.5)
    with pytest.raises(InputError, match="another `learning_rate`"):
        train(other, samples, tmp_path / "cut", resume=True, options=QUIET)


def test_a_loss_that_is_not_finite_stops_with_its_samples(tiny_train, samples):
    trainer, batch = Trainer(tiny_train), StepDataset(samples, tiny_train)[0]
    broken = PairBatch(torch.full_like(batch.images, torch.nan), batch.tokens, batch.uids)
    with pytest.raises(InputError, match=r"not finite at step 0 .*'u\d+'"):
        trainer.train_step(broken)


def test_the_rate_warms_up_and_falls_to_nothing(tiny_train):
    config = dataclasses.replace(tiny_train, num_steps=100, warmup_steps=10)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3) and rates[9] == max(rates) == 1e-2
    assert rates[55] == pytest.approx(5e-3) and rates[99] < 1e-5


KILLS = """
import hashlib, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from conftest import picture
import qualityclip.train as module
from qualityclip.config import CLIPConfig, TextConfig, TrainConfig, VisionConfig
from qualityclip.data import clip_tokenizer
from qualityclip.readers import Sample

TINY = CLIPConfig(VisionConfig(16, 8, 16, 1, 2), TextConfig(12, 49408, 4, 1, 1), 8)
samples = [Sample(f"u{n}", (f"alt text {n}",), (f"picture {n}",), picture(n)) for n in range(20)]
config = TrainConfig(TINY, 8, 6, 1e-2, warmup_steps=2, precision="fp32", smallest_crop=0.8)
# Whatever is imported at first use is imported here, once; only backward must not run before a fork.
clip_tokenizer(12)(["read once, here"])
warm = module.Trainer(config)
for parameter in warm.model.parameters():
    parameter.grad = torch.zeros_like(parameter)
warm.optimizer.step()
options = module.RunOptions(quiet=True, checkpoint_every=2, log_every=1)
events = 0

def run(out, kill_at):
    # Counts every write, sync and rename; one of them is the last thing that the process does.
    def count(call):
        def counted(*arguments, **named):
            global events
            events += 1
            if events == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)
        return counted
    os.replace, os.fsync, torch.save = count(os.replace), count(os.fsync), count(torch.save)
    module.train(config, samples, out, resume=True, options=options)
    return events

def child(out, kill_at):
    reader, writer = os.pipe()
    if (process := os.fork()) == 0:
        os.write(writer, str(run(out, kill_at)).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status), os.read(reader, 20)

def digest(out):
    return hashlib.sha256((out / "model" / "model.safetensors").read_bytes()).hexdigest()

folder = Path(sys.argv[2])
code, count = child(folder / "whole", -1)
assert code == 0
total, expected = int(count), digest(folder / "whole")
points = sorted({1 + place * (total - 1) // 19 for place in range(20)})
for point in points:
    out = folder / f"killed-{point}"
    assert child(out, point)[0] == -signal.SIGKILL, point
    assert child(out, -1)[0] == 0 and digest(out) == expected, point
print(len(points), total)
"""


@pytest.mark.slow
def test_killed_at_twenty_points_it_ends_in_the_same_bytes(tmp_path):
    command = [sys.executable, "-c", KILLS, str(Path(__file__).parent), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    points, total = map(int, result.stdout.split())
    assert points == 20 and total >= 20


TOGETHER = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from conftest import TINY, picture
from qualityclip.config import TrainConfig
from qualityclip.data import StepDataset
from qualityclip.loss import Gathered
from qualityclip.parallel import Processes
from qualityclip.readers import Sample
from qualityclip.train import Trainer

samples = [Sample(f"u{n}", (f"alt text {n}",), (f"picture {n}",), picture(n)) for n in range(20)]
config = TrainConfig(TINY, 8, 4, 1e-3, warmup_steps=1, precision="fp32")
processes = Processes.join("cpu")
found = {}
for name, gather in (("gathered", None), ("alone", Gathered.alone)):
    trainer = Trainer(config, "cpu", processes)
    data = StepDataset(samples, config, rank=processes.rank, world_size=processes.world_size)
    losses = [trainer.train_step(data[step], gather)["train/loss"] for step in range(4)]
    weights = [p.detach().flatten() for n, p in trainer.model.named_parameters() if n != "token_embedding.weight"]
    found[name] = [losses, torch.cat(weights).tolist()]
if processes.rank == 0:
    Path(sys.argv[2]).write_text(json.dumps(found))
processes.close()
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_are_one(tmp_path, capsys):
    """The processes get what torchrun would give them."""
    command = [sys.executable, "-c", TOGETHER, str(Path(__file__).parent)]
    alike = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}
    alike |= {"MASTER_PORT": free_port(), "WORLD_SIZE": "2"}
    ranks = [
        subprocess.Popen([*command, str(tmp_path / "two")], env={**alike, "RANK": rank, "LOCAL_RANK": rank})
        for rank in "01"
    ]
    assert [process.wait() for process in ranks] == [0, 0]
    result = subprocess.run([*command, str(tmp_path / "one")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one", "two"))
    weights = {name: torch.tensor(two[name][1]) for name in two}
    expected = torch.tensor(one["gathered"][1])
    distance = {name: float((each - expected).abs().max() / expected.abs().max()) for name, each in weights.items()}
    with capsys.disabled():
        print(f"\nlargest relative difference of weights: {distance['gathered']:.1e}")
    assert two["gathered"][0] == pytest.approx(one["gathered"][0], rel=1e-5)
    assert distance["gathered"] < 1e-4
    assert abs(two["alone"][0][0] - one["gathered"][0][0]) > 1e-2, "without the gather the loss is another one"
