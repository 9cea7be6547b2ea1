"""Training: what learns and how fast, batches, exact resume after kills, two processes equal to one, bad records."""

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import fastvlm_process
import pytest
import torch
from fastvlm import FastVLM, parallel
from fastvlm.adapters import load_adapter
from fastvlm.data import Collator, Source, Steps, read_records
from fastvlm.learner import Learner, build_optimizer, learning_rate
from fastvlm.recipes import TRAIN_PRESETS, TrainConfig
from fastvlm.start import Start, assemble
from fastvlm.train import RunOptions, Trainer
from make_training import TINY, run, same, weights, write_data
from mobileclip.distributed import Processes
from tenfold_shared.commands import InputError
from tenfold_shared.files import read_jsonl

STAGES = {
    "stage1": dataclasses.replace(
        TINY, train_encoder=False, train_language_model=False, template="plain", learning_rate=1e-2
    ),
    "stage1.5": dataclasses.replace(TINY, image_size=128),
    "stage2": dataclasses.replace(TINY, image_size=128, encoder_learning_rate=1e-4, projector_learning_rate=5e-3),
    "lora": dataclasses.replace(TINY, train_encoder=False, lora_rank=2, lora_dropout=0.2),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def changed(tiny_folder, folder):
    before, after = weights(tiny_folder), weights(folder)
    return {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("stage", "parts"),
    [
        ("stage1", {"projector"}),
        ("stage1.5", {"encoder", "projector", "language_model"}),
        ("lora", {"projector", "language_model"}),
    ],
)
def test_a_stage_trains_its_parts(tiny_folder, data, tmp_path, stage, parts):
    metrics = run(tiny_folder, data, tmp_path, STAGES[stage])
    assert math.isfinite(metrics["train/loss"]) and changed(tiny_folder, tmp_path / "model") == parts
    assert FastVLM.from_pretrained(tmp_path / "model").encoder.config.image_size == (STAGES[stage].image_size or 64)
    assert (tmp_path / "model/vocab.json").exists()


@pytest.mark.parametrize("stage", ["stage1", "stage1.5", "stage2", "lora"])
def test_resuming_equals_the_uninterrupted_run(tiny_folder, data, tmp_path, stage):
    config = STAGES[stage]
    run(tiny_folder, data, tmp_path / "whole", config)
    for stop in (1, 4, None):
        run(tiny_folder, data, tmp_path / "cut", config, resume=True, stop_after=stop)
    assert same(weights(tmp_path / "whole/model"), weights(tmp_path / "cut/model"))
    kept = [
        [
            {k: v for k, v in row.items() if k not in ("time", "train/records_per_second")}
            for row in read_jsonl(tmp_path / name / "metrics.jsonl")
        ]
        for name in ("whole", "cut")
    ]
    assert kept[0] == kept[1] and [row["step"] for row in kept[0]] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("preset", ["stage1", "stage1.5", "stage2"])
def test_killed_training_goes_on_to_the_same_weights(tiny_folder, data, tmp_path, preset):
    def command(out, *more):
        line = ["train", "--preset", preset, "--model", tiny_folder, "--data", data / "talk.json"]
        line += ["--out", tmp_path / out, "--num-steps", "8", "--batch-size", "4", "--micro-batch-size", "2"]
        line += ["--precision", "fp32", "--image-size", "128", "--checkpoint-every", "1"]
        return [*line, "--device", "cpu", "--quiet", *more]

    fastvlm_process.finish(command("whole"))
    for kill in range(2):
        process = fastvlm_process.start(command("cut", "--resume"))
        path, before = tmp_path / "cut/checkpoint.pt", time.time_ns()
        while process.is_alive() and not (path.exists() and path.stat().st_mtime_ns > before):
            time.sleep(0.005)
        time.sleep(0.01 * kill)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    fastvlm_process.finish(command("cut", "--resume"))
    assert same(weights(tmp_path / "whole/model"), weights(tmp_path / "cut/model"))


def three_steps(model, data, processes, *, engine="ddp", alone=False):
    """Losses and weights after three updates; `alone` leaves out what tells processes of one another."""
    config = dataclasses.replace(TINY, batch_size=8, micro_batch_size=2, learning_rate=1e-3, num_steps=3)
    start = Start.from_pretrained(model)
    records, _ = read_records([Source(data / "talk.json", data)])
    steps = Steps(records, config, Collator(start.processor, config), processes.rank, processes.world_size)
    trainer = Trainer(start.model, config, 3, RunOptions(engine=engine), processes)
    if alone:
        trainer.processes = Processes()
    losses = [trainer.train_step(steps[step])["train/loss"] for step in range(3)]
    state = parallel.state_of(trainer.learner, trainer.optimizer)["parameters"]
    return {"losses": losses, "weights": torch.cat([value.flatten() for value in state.values()])}


CASES = {"ddp": {"engine": "ddp"}, "fsdp": {"engine": "fsdp"}, "alone": {"alone": True}}
WORKER = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_train as t
torch.set_num_threads(1)
processes = t.Processes.from_environment("cpu")
found = {{name: t.three_steps({model!r}, Path({data!r}), processes, **case) for name, case in t.CASES.items()}}
if processes.rank == 0:
    torch.save(found, {out!r})
processes.close()
"""


def run_pair(tiny_folder, data, out):
    """All cases in one pair of processes: starting them takes longer than what they do."""
    script = out.with_suffix(".py")
    fields = {"tests": str(Path(__file__).parent), "model": str(tiny_folder), "data": str(data), "out": str(out)}
    script.write_text(WORKER.format(**fields))
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, str(script)], capture_output=True, text=True, env=environment, timeout=250)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(out, weights_only=True)


def difference(a, b):
    return float((a["weights"] - b["weights"]).abs().max() / b["weights"].abs().max())


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_processes_equal_one(tiny_folder, data, tmp_path):
    """DDP and FSDP2; a process that counts its own tokens only gives something else."""
    one = three_steps(tiny_folder, data, Processes())
    two = run_pair(tiny_folder, data, tmp_path / "two.pt")
    alone = two["alone"]
    found = {name: difference(state, one) for name, state in two.items()}
    print({name: f"{value:.1e}" for name, value in found.items()})
    for engine in ENGINES:
        assert two[engine]["losses"] == pytest.approx(one["losses"], rel=1e-5)
        assert found[engine] < 1e-4
    assert found["alone"] > 1e-4 and alone["losses"] != pytest.approx(one["losses"], rel=1e-3)


ENGINES = ("ddp", "fsdp")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_under_torchrun(tiny_folder, data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "fastvlm"]
    line = [
        "train",
        "--preset",
        "tiny",
        "--model",
        tiny_folder,
        "--data",
        data / "talk.json",
        "--out",
        tmp_path / "run",
    ]
    line += ["--num-steps", "3", "--engine", "fsdp", "--json", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run([*command, *map(str, line)], capture_output=True, text=True, timeout=250, env=environment)
    assert result.returncode == 0, result.stderr[-3000:]
    assert changed(tiny_folder, tmp_path / "run/model") == {"encoder", "projector", "language_model"}
    assert [row["step"] for row in read_jsonl(tmp_path / "run/metrics.jsonl")] == [3]


def test_passes_and_checkpointing_change_nothing(tiny_folder, data, tmp_path):
    """One pass of four, four of one, activations computed twice, workers: the same weights but for rounding."""
    base = None
    changes = ({}, {"micro_batch_size": 4}, {"micro_batch_size": 1}, {"gradient_checkpointing": True})
    for number, change in enumerate(changes):
        run(tiny_folder, data, tmp_path / str(number), dataclasses.replace(TINY, num_steps=3, **change))
        found = torch.cat([v.flatten().float() for v in weights(tmp_path / str(number) / "model").values()])
        base = found if base is None else base
        torch.testing.assert_close(found, base, rtol=1e-4, atol=1e-5)


def test_workers_change_nothing(tiny_folder, data, tmp_path):
    for workers in (0, 2):
        run(tiny_folder, data, tmp_path / str(workers), workers=workers)
    assert same(weights(tmp_path / "0/model"), weights(tmp_path / "2/model"))


def test_the_loss_is_transformers_own(tiny_folder, data):
    """The mean over a record's labels equals what transformers computes from embeddings and labels."""
    start = Start.from_pretrained(tiny_folder)
    records, _ = read_records([Source(data / "talk.json", data)])
    batch = Collator(start.processor, TINY)(records[:3])
    learner = Learner(start.model, TINY).eval()
    embeds, mask = start.model.embed(batch.input_ids, batch.pixels, batch.attention_mask, batch.views)
    expected = start.model.language_model(inputs_embeds=embeds, attention_mask=mask, labels=batch.labels).loss
    count = (batch.labels[:, 1:] >= 0).sum()
    torch.testing.assert_close(learner(batch) / count, expected, rtol=1e-5, atol=1e-5)


def test_eight_records_are_learnt_by_heart(tiny_folder, data):
    config = dataclasses.replace(TINY, batch_size=8, micro_batch_size=8, learning_rate=1e-2, num_steps=60)
    start = Start.from_pretrained(tiny_folder)
    records, _ = read_records([Source(data / "talk.json", data)])
    trainer = Trainer(start.model, config, 60)
    batch = Collator(start.processor, config)(records[1:8])
    losses = [trainer.train_step([batch])["train/loss"] for _ in range(60)]
    assert losses[0] > 5 and losses[-1] < 1


def test_learning_rates_by_module(tiny_folder):
    model = Start.from_pretrained(tiny_folder).model
    config = STAGES["stage2"]
    Learner(model, config)
    groups = build_optimizer(model, config).param_groups
    rates = {group["name"]: group["largest"] for group in groups}
    assert rates == {"encoder": 1e-4, "projector": 5e-3, "language_model": 1e-3}
    assert sum(len(g["params"]) for g in groups) == sum(1 for p in model.parameters() if p.requires_grad)


def test_schedule():
    rates = [learning_rate(step, 100, TrainConfig(warmup_ratio=0.03)) for step in range(100)]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[3:] == pytest.approx([(1 + math.cos(math.pi * i / 97)) / 2 for i in range(97)])


def test_presets_are_the_scripts():
    """LLaVA-1.5's scripts: learning rates, batches, warm-up, weight decay; what FastVLM trains in which stage."""
    stage1, scaling, tuning = (TRAIN_PRESETS[name] for name in ("stage1", "stage1.5", "stage2"))
    assert (stage1.learning_rate, stage1.batch_size, stage1.template) == (1e-3, 256, "plain")
    assert (stage1.train_encoder, stage1.train_language_model) == (False, False)
    for config in (scaling, tuning, TRAIN_PRESETS["stage3"]):
        assert (config.learning_rate, config.batch_size, config.template) == (2e-5, 128, "qwen_2")
        assert config.train_encoder and config.train_language_model and config.image_size == 1024
    for config in (stage1, scaling, tuning):
        assert (config.warmup_ratio, config.weight_decay, config.num_epochs) == (0.03, 0.0, 1.0)
        assert (config.precision, config.gradient_checkpointing, config.group_by_length) == ("bf16", True, True)
    lora = TRAIN_PRESETS["lora"]
    assert (lora.lora_rank, lora.lora_alpha, lora.lora_dropout) == (64, 16, 0.05)


def test_bf16(tiny_folder, data):
    start = Start.from_pretrained(tiny_folder)
    records, _ = read_records([Source(data / "talk.json", data)])
    losses = {}
    for precision in ("fp32", "bf16"):
        config = dataclasses.replace(TINY, precision=precision)
        trainer = Trainer(Start.from_pretrained(tiny_folder).model, config, 2)
        losses[precision] = trainer.train_step([Collator(start.processor, config)(records[:2])])["train/loss"]
        assert all(value.dtype == torch.float32 for value in trainer.learner.parameters())
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05) and losses["bf16"] != losses["fp32"]


def test_adapters_belong_to_their_base(tiny_folder, data, tmp_path, untied_folder):
    run(tiny_folder, data, tmp_path, STAGES["lora"])
    merged = load_adapter(FastVLM.from_pretrained(tiny_folder), tmp_path / "adapter").state_dict()
    for name, value in weights(tmp_path / "model").items():
        torch.testing.assert_close(merged[name], value, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="wrong base for the adapter in"):
        load_adapter(FastVLM.from_pretrained(untied_folder), tmp_path / "adapter")


def test_a_language_model_meets_an_encoder(tiny_folder, tmp_path, data):
    """Stage 1 from its beginning: a plain Qwen2 folder and encoder weights."""
    import shutil

    from fastvlm.convert import copy_tokenizer

    model = FastVLM.from_pretrained(tiny_folder)
    model.language_model.save_pretrained(tmp_path / "qwen")
    copy_tokenizer(Path(tiny_folder), tmp_path / "qwen")
    torch.save(model.encoder.state_dict(), tmp_path / "tower.pt")
    begun = assemble(tmp_path / "qwen", tmp_path / "tower.pt")
    assert torch.equal(begun.model.encoder.conv_exp.se.reduce.weight, model.encoder.conv_exp.se.reduce.weight)
    assert begun.processor.decode(begun.processor.encode("the cat")) == "the cat"
    shutil.rmtree(tmp_path / "qwen")


def test_a_loss_that_is_not_finite_stops_with_its_place(tiny_folder, data):
    start = Start.from_pretrained(tiny_folder)
    records, _ = read_records([Source(data / "talk.json", data)])
    batch = Collator(start.processor, TINY)(records[1:2])
    batch.pixels[0] = math.nan
    with pytest.raises(InputError, match=r"not finite at step 0 .*talk.json:r1"):
        Trainer(start.model, TINY, 3).train_step([batch])


def test_other_runs_are_refused(tiny_folder, data, tmp_path):
    run(tiny_folder, data, tmp_path, stop_after=1)
    with pytest.raises(InputError, match="already holds a run"):
        run(tiny_folder, data, tmp_path)
    with pytest.raises(InputError, match=r"`learning_rate` 0\.001, not 0\.1"):
        run(tiny_folder, data, tmp_path, dataclasses.replace(TINY, learning_rate=0.1), resume=True)


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 0}, {"num_epochs": 0.0}, {"max_bad_share": 1.5}, {"template": "x"}, {"lora_rank": -1}],
)
def test_impossible_configurations_are_refused(change):
    with pytest.raises(ValueError, match="must be"):
        dataclasses.replace(TINY, **change)
