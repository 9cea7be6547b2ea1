"""Training: devices change nothing, a killed run ends with the same weights, two processes equal one."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import dclm_process
import jax
import numpy as np
import pytest
from dclm.lmrun import LoopOptions, train
from dclm.lmtrain import Trainer, build_params, model_flops_utilization
from dclm.mesh import build_mesh, fetch_tree, put_rows
from dclm.scales import TrainConfig
from dclm.tokendata import MixedTokens
from tenfold_shared.commands import InputError

pytestmark = pytest.mark.timeout(400)  # compiles a lot, and a busy machine takes minutes for that


@pytest.fixture(scope="module")
def config(tiny_model):
    """Epsilon keeps Adam from dividing rounding errors by themselves."""
    return TrainConfig(
        tiny_model, num_tokens=6 * 16 * 32, batch_size=16, precision="float32", epsilon=1e-3, warmup_steps=2, seed=1
    )


def test_a_mesh_takes_all_devices_for_rows_by_default():
    assert dict(build_mesh().shape) == {"data": len(jax.devices()), "fsdp": 1, "tensor": 1}
    assert dict(build_mesh(tensor=2).shape) == {"data": len(jax.devices()) // 2, "fsdp": 1, "tensor": 2}


def updates(config, shape, rows):
    trainer = Trainer(config, build_mesh(*shape))
    state = trainer.start(build_params(config))
    losses = []
    for _ in range(3):
        state, metrics = trainer.step(state, put_rows(trainer.mesh, rows), 1e-2)
        losses.append(float(metrics["loss"]))
    return losses, fetch_tree(state.params)


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).integers(0, 512, (16, 33)).astype(np.int32)


@pytest.fixture(scope="module")
def plain(config, rows):
    return updates(config, (1, 1, 1), rows)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((2, 2, 2), {}),
        pytest.param((8, 1, 1), {"scan_layers": False}, marks=pytest.mark.slow),
        pytest.param((1, 4, 2), {"remat": True}, marks=pytest.mark.slow),
        pytest.param((2, 1, 1), {"accumulation": 4}, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one(config, rows, plain, shape, changes):
    losses, params = updates(dataclasses.replace(config, **changes), shape, rows)
    assert losses == pytest.approx(plain[0], rel=1e-5)
    assert plain[0][2] < plain[0][0] - 0.05
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(plain[1]), strict=True):
        assert np.abs(ours - theirs).max() < 1e-5, "a thousandth of the rate"


def test_weights_lie_along_fsdp_and_tensor(config):
    trainer = Trainer(config, build_mesh(1, 4, 2))
    state = trainer.start(build_params(config))
    for tree in (state.params, state.moments[1].mu):
        kernel = jax.tree.leaves(tree["layers"]["attn"]["qkv"])[0]
        assert kernel.shape == (2, 32, 96) and kernel.addressable_shards[0].data.shape == (2, 8, 48)
    gain = jax.tree.leaves(state.params["final_norm"])[0]
    assert gain.sharding.is_fully_replicated


def test_bytes_per_device_ahead_of_time(config):
    one, four = (Trainer(config, build_mesh(*shape)).memory() for shape in ((1, 1, 1), (1, 4, 1)))
    assert four["devices"] == 4 and four["argument_bytes"] < 0.3 * one["argument_bytes"]


def test_every_parameter_decays_and_gradients_are_clipped(config, rows):
    """With a rate but without gradients only decay is left; the first gradient's norm is far above the clip."""
    trainer = Trainer(dataclasses.replace(config, clip=1e-12, weight_decay=0.5, epsilon=1.0), build_mesh(1))
    start = build_params(config)
    before = fetch_tree(start)
    state, metrics = trainer.step(trainer.start(start), put_rows(trainer.mesh, rows), 0.1)
    assert float(metrics["grad_norm"]) > 0.1
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(fetch_tree(state.params)), strict=True):
        np.testing.assert_allclose(new, old * 0.95, atol=1e-6)


def test_mfu_by_hand(config, monkeypatch):
    class Device:
        device_kind = "NVIDIA H100 80GB"

    assert model_flops_utilization(config, 1e6, 1) is None, "a CPU's peak is not known"
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    model = config.model
    active = model.count() - model.vocab_size * model.dim
    by_hand = (6 * active + 12 * 2 * 32 * 32) * 1e6 / (2 * 989e12)
    assert model_flops_utilization(config, 1e6, 2) == pytest.approx(by_hand)


def test_eight_sequences_are_learnt_by_heart(tiny_model):
    rows = np.tile(np.random.default_rng(1).integers(0, 512, (1, 33)), (8, 1)).astype(np.int32)
    config = TrainConfig(tiny_model, 10_000, batch_size=8, precision="float32", weight_decay=0.0)
    trainer = Trainer(config, build_mesh(1))
    state = trainer.start(build_params(config))
    for _ in range(60):
        state, metrics = trainer.step(state, put_rows(trainer.mesh, rows), 1e-2)
    assert float(metrics["loss"]) < 0.2


def weights(folder):
    return (Path(folder) / "model" / "model.safetensors").read_bytes()


def test_a_stopped_run_ends_with_the_same_weights(config, token_folder, tmp_path):
    tokens = MixedTokens([token_folder], seed=1)
    whole = train(config, tokens, tmp_path / "whole", mesh=build_mesh(1), options=LoopOptions(quiet=True))
    assert whole["finished"] and whole["step"] == 6
    for stop in (2, 3, 0):
        options = LoopOptions(checkpoint_every=100, max_updates=stop, quiet=True)
        found = train(config, tokens, tmp_path / "parts", mesh=build_mesh(1), options=options)
    assert found["finished"] and weights(tmp_path / "parts") == weights(tmp_path / "whole")
    assert train(config, tokens, tmp_path / "parts", mesh=build_mesh(1))["loss"] == found["loss"]
    other = dataclasses.replace(config, learning_rate=1e-4)
    with pytest.raises(InputError, match="holds another run"):
        train(other, tokens, tmp_path / "parts", mesh=build_mesh(1))


def test_a_checkpoint_of_another_run_is_refused(config, token_folder, tmp_path):
    tokens = MixedTokens([token_folder], seed=1)
    train(config, tokens, tmp_path, mesh=build_mesh(1), options=LoopOptions(max_updates=1, quiet=True))
    with pytest.raises(InputError, match="a checkpoint of another model, data set or schedule"):
        train(dataclasses.replace(config, z_loss=0.0), tokens, tmp_path, mesh=build_mesh(1))


def test_repeats_must_be_asked_for(config, token_folder, tmp_path):
    tokens = MixedTokens([token_folder], seed=1)
    long = dataclasses.replace(config, num_tokens=50_000_000)
    with pytest.raises(InputError, match=r"would be gone through \d+\.\d+ times"):
        train(long, tokens, tmp_path, mesh=build_mesh(1))
    assert not (tmp_path / "training.json").exists()


@pytest.mark.slow
def test_kill_minus_nine(config, token_folder, tmp_path):
    """Killed at the fourth update, then at the second of what is left: the same bytes as without."""
    facts = (str(token_folder), json.dumps(config.to_dict()), str(tmp_path / "compiled"))
    for name, die, status in (("whole", 0, 0), ("killed", 4, -9), ("killed", 2, -9), ("killed", 0, 0)):
        process = dclm_process.start(dclm_process.train_and_die, str(tmp_path / name), *facts, die)
        process.join()
        assert process.exitcode == status
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_equal_one(config, token_folder, tmp_path):
    train(config, MixedTokens([token_folder], seed=1), tmp_path / "one", mesh=build_mesh(2))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    code = (
        "import sys, json\nfrom dclm.cli_lm import join_processes\njoin_processes(sys.argv[1])\n"
        "from dclm.lmrun import LoopOptions, train\nfrom dclm.mesh import build_mesh\n"
        "from dclm.scales import TrainConfig\nfrom dclm.tokendata import MixedTokens\n"
        "config = TrainConfig.from_dict(json.loads(sys.argv[4]))\n"
        "train(config, MixedTokens([sys.argv[3]], seed=1), sys.argv[2], mesh=build_mesh(2),"
        " options=LoopOptions(quiet=True))\n"
    )
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    arguments = [str(tmp_path / "two"), str(token_folder), json.dumps(config.to_dict())]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, f"{address},2,{rank}", *arguments], env=environment)
        for rank in range(2)
    ]
    assert [process.wait(timeout=110) for process in processes] == [0, 0]
    from safetensors.numpy import load_file

    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    largest = max(float(np.abs(one[name] - two[name]).max() / np.abs(one[name]).max()) for name in one)
    print(f"largest relative difference of two processes to one: {largest:.1e}")
    assert largest < 1e-5
