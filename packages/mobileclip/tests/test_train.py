"""Training: the order of data, the step, resuming, several processes, and the authors' hyper-parameters."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import make_data
import mobileclip_process
import numpy as np
import pytest
import torch
from mobileclip import PRESETS, MobileCLIPConfig, from_pretrained
from mobileclip.augment import AugmentConfig
from mobileclip.config import TRAIN_PRESETS, MCiConfig, TextConfig, TrainConfig
from mobileclip.distributed import Processes
from mobileclip.factory import Tokenizer
from mobileclip.loader import ShardedSamples, StepDataset, epoch_order, load_batches
from mobileclip.loss import Captions, Gathered, dr_loss
from mobileclip.reinforce import ReinforceConfig, reinforce
from mobileclip.timing import torch_threads
from mobileclip.train import RunOptions, Trainer, build_optimizer, learning_rate, train
from tenfold_shared.commands import InputError
from tenfold_shared.files import read_jsonl

MODEL = MobileCLIPConfig(
    image=MCiConfig(depths=(1, 1, 1, 1), dims=(8, 8, 16, 32), image_size=32),
    text=TextConfig(num_layers=1, dim=16, num_heads=2, context_length=16),
    embed_dim=16,
)
CONFIG = TrainConfig(
    MODEL, batch_size=8, num_steps=6, warmup_steps=2, precision="fp32", ema_decay=0.9, distill_weight=0.7
)
DIMS = (8, 4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Steps this small only wait for one another on several threads."""
    with torch_threads(1):
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A reinforced set of 20 pictures in 5 shards, one of them undecodable."""
    folder = tmp_path_factory.mktemp("data")
    rows = ["uid,caption,path"]
    for i in range(20):
        (folder / f"{i}.png").write_bytes(make_data.picture(i))
        rows.append(f"u{i:04d},caption {i},{i}.png")
    (folder / "data.csv").write_text("\n".join(rows))
    config = ReinforceConfig(
        ("make_data:colours", "make_data:narrow"),
        "make_data:caption",
        num_augmentations=3,
        num_captions=2,
        samples_per_shard=4,
        augment=AugmentConfig(image_size=16),
    )
    reinforce(folder, folder / "dr", config, quiet=True)
    return folder / "dr"


def dataset(data, config=CONFIG, **processes):
    return StepDataset(ShardedSamples(data), config, Tokenizer(16), **processes)


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("seed", range(3))
def test_an_epoch_has_every_sample_once(seed):
    orders = [epoch_order(np.array([3, 0, 5, 2]), seed, epoch) for epoch in range(3)]
    assert all(sorted(order.tolist()) == list(range(10)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_ranks_share_a_batch_and_workers_change_nothing(data):
    whole = list(load_batches(dataset(data), 0, 0))
    halves = [
        list(load_batches(dataset(data, rank=rank, world_size=2), 0, workers)) for rank, workers in ((0, 0), (1, 2))
    ]
    for batch, first, second in zip(whole, *halves, strict=True):
        assert batch.uids == first.uids + second.uids
        assert torch.equal(batch.pixels, torch.cat([first.pixels, second.pixels]))
        assert torch.equal(batch.teacher_text, torch.cat([first.teacher_text, second.teacher_text], dim=1))
    seen = [uid for batch in whole for uid in batch.uids]
    assert len(set(seen[:20])) == 20


def test_batches_hold_what_is_stored(data):
    from mobileclip.augment import replay, to_pixels
    from mobileclip.data import Tally, decode_image
    from mobileclip.datacompdr import read_set

    stored = {sample.uid: sample for sample, _ in read_set(data, Tally())}
    tokenize = Tokenizer(16)
    batch = dataset(data)[2]
    for row, uid in enumerate(batch.uids):
        sample, number = stored[uid], int(uid[1:])
        image = decode_image(make_data.picture(number), uid)
        which = [torch.equal(batch.teacher_image[row], embedding) for embedding in sample.image_emb].index(True)
        assert torch.equal(batch.pixels[row], to_pixels(replay(image, sample.augmentations[which], 32)))
        assert torch.equal(batch.captions[0, row], tokenize([f"caption {number}"])[0])
        caption = [torch.equal(batch.teacher_text[1, row], embedding) for embedding in sample.text_emb[1:]].index(True)
        assert torch.equal(batch.captions[1, row], tokenize([sample.captions[caption]])[0])


@pytest.mark.parametrize("limit", [1, 2, None])
def test_fewer_stored_augmentations_can_be_used(data, limit):
    config = dataclasses.replace(CONFIG, num_augmentations=limit, num_captions=limit, num_steps=40)
    used = {tuple(row.tolist()) for step in range(40) for row in dataset(data, config)[step].teacher_image}
    assert len(used) == 20 * (limit or 3)


@pytest.mark.parametrize("augmentation", ["stored", "strong", "crop", "none"])
def test_plain_training_reads_no_embeddings(data, augmentation):
    config = dataclasses.replace(CONFIG, distill_weight=0.0, augmentation=augmentation, synthetic=False)
    batch = dataset(data, config)[0]
    assert batch.teacher_image is None and batch.captions.shape == (1, 8, 16)
    assert torch.equal(batch.pixels, dataset(data, config)[0].pixels)


def gradients(trainer, batch, gather=Gathered.alone):
    trainer.model.zero_grad()
    trainer._backward(batch, DIMS, gather)
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


def test_a_step_is_the_loss_of_its_parts(data):
    trainer, batch = Trainer(CONFIG), dataset(data)[0]
    found = gradients(trainer, batch)
    trainer.model.zero_grad()
    image, text, scale = trainer.model(batch.pixels, batch.captions.flatten(0, 1))
    alone = Gathered.alone
    kinds = [Captions(alone(t), alone(b)) for t, b in zip(text.unflatten(0, (2, 8)), batch.teacher_text, strict=True)]
    teacher = alone(batch.teacher_image)
    parts = dr_loss(alone(image), kinds, scale, teacher_image=teacher, teacher_dims=DIMS, distill_weight=0.7)
    parts["loss"].backward()
    expected = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
    torch.testing.assert_close(found, expected)


def test_accumulation_gives_the_whole_batchs_gradient(data):
    """Batch normalisation sees the parts one by one, so it is frozen for the comparison."""
    batch = dataset(data)[0]
    found = {}
    for parts in (1, 2, 4):
        trainer = Trainer(dataclasses.replace(CONFIG, accumulation=parts))
        trainer.model.eval()
        found[parts] = gradients(trainer, batch)
    for parts in (2, 4):
        assert (found[parts] - found[1]).norm() < 1e-5 * found[1].norm()


def test_accumulation_counts_each_row_once_in_the_statistics(data):
    batch = dataset(data)[0]
    trainer = Trainer(dataclasses.replace(CONFIG, accumulation=2))
    other = Trainer(dataclasses.replace(CONFIG, accumulation=2))
    trainer._backward(batch, DIMS, Gathered.alone)
    with torch.no_grad():
        for part in batch.pixels.chunk(2):
            other.model.encode_image(part)
    for found, expected in zip(trainer.model.buffers(), other.model.buffers(), strict=True):
        if found.is_floating_point():
            torch.testing.assert_close(found, expected)


def test_resuming_equals_the_uninterrupted_run(data, tmp_path):
    train(CONFIG, data, tmp_path / "whole", options=RunOptions(log_every=1, quiet=True))
    for stop in (1, 4, None):
        options = RunOptions(log_every=1, stop_after=stop, quiet=True)
        train(CONFIG, data, tmp_path / "cut", resume=True, options=options)
    for name in ("model", "ema"):
        assert same(from_pretrained(tmp_path / "whole" / name), from_pretrained(tmp_path / "cut" / name))
    whole, cut = (read_jsonl(tmp_path / run / "metrics.jsonl") for run in ("whole", "cut"))
    varying = ("time", "train/samples_per_second")
    for rows in (whole, cut):
        for row in rows:
            for name in varying:
                del row[name]
    assert whole == cut and [row["step"] for row in whole] == [1, 2, 3, 4, 5, 6]
    assert not same(from_pretrained(tmp_path / "whole/model"), from_pretrained(tmp_path / "whole/ema"))


def test_resuming_another_configuration_is_refused(data, tmp_path):
    train(CONFIG, data, tmp_path, options=RunOptions(stop_after=1, quiet=True))
    with pytest.raises(InputError, match=r"`learning_rate` 0\.001, not 0\.1"):
        train(dataclasses.replace(CONFIG, learning_rate=0.1), data, tmp_path, resume=True)
    with pytest.raises(InputError, match="already holds a run"):
        train(CONFIG, data, tmp_path)


def test_eight_samples_are_learnt_by_heart(data):
    config = dataclasses.replace(
        CONFIG, distill_weight=0.0, augmentation="none", synthetic=False, num_steps=80, learning_rate=0.01
    )
    trainer, batch = Trainer(config), dataset(data, config)[0]
    losses = [trainer.train_step(batch, ())["train/loss"] for _ in range(80)]
    assert losses[0] > 1.5 and losses[-1] < 0.3


def test_the_mean_of_weights_follows_them(data):
    trainer = Trainer(CONFIG)
    before = trainer.model.image_encoder.state_dict()
    name = next(key for key, value in before.items() if value.ndim == 4)
    start = before[name].clone()
    trainer.train_step(dataset(data)[0], DIMS)
    now = trainer.model.image_encoder.state_dict()[name]
    torch.testing.assert_close(trainer.ema.image_encoder.state_dict()[name], 0.9 * start + 0.1 * now)


def test_a_loss_that_is_not_finite_stops_with_its_place(data):
    trainer = Trainer(CONFIG)
    batch = dataset(data)[0]
    batch.pixels[0] = math.nan
    with pytest.raises(InputError, match=r"not finite at step 0 \(learning rate 0.0005, samples \['u00"):
        trainer.train_step(batch, DIMS)


def test_bf16_autocast_trains(data):
    trainer = Trainer(dataclasses.replace(CONFIG, precision="bf16"))
    metrics = trainer.train_step(dataset(data)[0], DIMS)
    full = Trainer(CONFIG).train_step(dataset(data)[0], DIMS)
    assert metrics["train/loss"] == pytest.approx(full["train/loss"], rel=0.05)
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_schedule():
    config = dataclasses.replace(CONFIG, num_steps=100, warmup_steps=10, constant_steps=50, learning_rate=1.0)
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert rates[10:50] == [1.0] * 40
    assert rates[50:] == pytest.approx([(1 + math.cos(math.pi * i / 50)) / 2 for i in range(50)])


def test_only_weights_of_two_dimensions_decay():
    model = Trainer(CONFIG).model
    decayed, others = build_optimizer(model, CONFIG).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.2, 0.0)
    assert {id(p) for p in others["params"]} >= {id(model.logit_scale)}
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(list(model.parameters()))


def test_presets_are_the_authors():
    """Training scripts of apple/ml-mobileclip, and its README for B-LT's two schedules."""
    ablation, s0, b, blt = (TRAIN_PRESETS[f"datacompdr{name}"] for name in ("12m_b", "1b_s0", "1b_b", "1b_blt"))
    for config in (ablation, s0, b, blt):
        assert (config.learning_rate, config.warmup_steps, config.weight_decay) == (1e-3, 1000, 0.2)
        assert (config.beta1, config.beta2, config.grad_clip, config.precision) == (0.9, 0.95, 1.0, "fp16")
        assert (config.augmentation, config.synthetic) == ("stored", True)
    assert (ablation.batch_size, ablation.num_steps, ablation.distill_weight) == (8192, 30_000, 1.0)
    assert (s0.batch_size, s0.num_steps, s0.distill_weight) == (65_536, 200_000, 1.0)
    assert (b.distill_weight, blt.distill_weight) == (0.75, 0.75)
    assert (blt.num_steps, blt.constant_steps) == (600_000, 300_000)
    assert [TRAIN_PRESETS[f"datacompdr1b_{n}"].model for n in ("s1", "s2")] == [
        PRESETS[f"mobileclip_{n}"] for n in ("s1", "s2")
    ]


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"distill_weight": 1.5}, {"augmentation": "strong"}])
def test_impossible_configurations_are_refused(change):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(CONFIG, **change)


def three_steps(data, processes, *, parts=1, batch=8, alone=False):
    """Losses and weights after three updates; `alone` leaves the gather out."""
    config = dataclasses.replace(CONFIG, accumulation=parts, batch_size=batch)
    trainer = Trainer(config, processes=processes)
    shares = dataset(data, config, rank=processes.rank, world_size=processes.world_size)
    gather = Gathered.alone if alone else None
    losses = [trainer.train_step(shares[step], DIMS, gather)["train/loss"] for step in range(3)]
    return {"losses": losses, "weights": torch.cat([p.detach().flatten() for p in trainer.model.parameters()])}


CASES = {"two": {}, "alone": {"alone": True}, "accumulated": {"parts": 2, "batch": 16}}
WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
import test_train as t
torch.set_num_threads(1)
processes = t.Processes.from_environment("cpu")
found = {{name: t.three_steps(t.Path({data!r}), processes, **case) for name, case in t.CASES.items()}}
if processes.rank == 0:
    torch.save(found, {out!r})
processes.close()
"""


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """All cases in one pair of processes: starting them takes longer than what they do."""
    folder = tmp_path_factory.mktemp("pair")
    script, out = folder / "worker.py", folder / "found.pt"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), data=str(data), out=str(out)))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, str(script)], capture_output=True, text=True, env=environment, timeout=200)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(out, weights_only=True)


def difference(a, b):
    return float((a["weights"] - b["weights"]).abs().max() / b["weights"].abs().max())


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_equal_one(data, pair):
    """Two gloo processes against one that takes the same halves in turn (batch normalisation sees halves in both)."""
    one, two, alone = three_steps(data, Processes(), parts=2), pair["two"], pair["alone"]
    print(f"largest relative difference {difference(two, one):.1e}, without the gather {difference(alone, one):.1e}")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert difference(two, one) < 1e-4
    assert alone["losses"] != pytest.approx(one["losses"], rel=1e-2)
    assert difference(alone, one) > 1e-4


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_that_accumulate_equal_one(data, pair):
    """Gradients are exchanged once, with the last part of a batch; exchanging none or every part would not do."""
    one, two = three_steps(data, Processes(), parts=4, batch=16), pair["accumulated"]
    print(f"largest relative difference {difference(two, one):.1e}")
    assert two["losses"] == pytest.approx(one["losses"], rel=1e-5)
    assert difference(two, one) < 1e-4


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_under_torchrun(data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mobileclip"]
    command += ["train", "--data", str(data), "--out", str(tmp_path / "run"), "--batch-size", "8", "--num-steps", "3"]
    command += ["--json", "--device", "cpu"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=250, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert from_pretrained(tmp_path / "run/model").config == PRESETS["mobileclip_tiny"]
    rows = read_jsonl(tmp_path / "run/metrics.jsonl")
    assert [row["step"] for row in rows] == [3] and np.isfinite(rows[0]["train/loss"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_training_goes_on_to_the_same_weights(data, tmp_path):
    import time

    def command(out, *more):
        line = ["train", "--data", data, "--out", tmp_path / out, "--batch-size", "4", "--num-steps", "8"]
        return [*line, "--checkpoint-every", "1", "--device", "cpu", "--quiet", *more]

    mobileclip_process.finish(command("whole"))
    for kill in range(3):
        process = mobileclip_process.start(command("cut", "--resume"))
        path, before = tmp_path / "cut/checkpoint.pt", time.time_ns()
        while process.is_alive() and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(0.01 * kill)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    mobileclip_process.finish(command("cut", "--resume"))
    assert same(from_pretrained(tmp_path / "whole/model"), from_pretrained(tmp_path / "cut/model"))
