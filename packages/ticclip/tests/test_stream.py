"""Whole runs: every method, stopped and resumed to the same bytes, learning what can be learned."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ticclip import from_pretrained, run_stream, stream
from ticclip.parallel import build_mesh
from ticclip.stream import RunOptions, Stopped, interpolate, tune_rate

QUIET = RunOptions(draws=20, quiet=True)


@pytest.fixture(scope="module")
def mesh():
    return build_mesh(data=1)


def digest(folder):
    files = [*sorted(folder.glob("steps/*/*")), folder / "result.json"]
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# The other methods differ from these in their plan alone, which test_schedule and test_replay look at.
RESUMED = ("sequential", "restart", "patching", "cumulative-exp", "cumulative-balanced", "lwf", "oracle")


@pytest.mark.parametrize("method", RESUMED)
def test_every_method_and_exact_resumption(method, index, tiny_config, mesh, tmp_path):
    config = dataclasses.replace(tiny_config, method=method)
    result = run_stream(index, config, tmp_path / "whole", mesh=mesh, options=QUIET)
    assert np.array(result["retrieval"]).shape == (3, 3)
    assert all(low <= high for low, high in result["intervals"].values())
    stops, going = 0, dataclasses.replace(QUIET, max_updates=3, checkpoint_every=2)
    while True:
        try:
            run_stream(index, config, tmp_path / "parts", mesh=mesh, options=going)
            break
        except Stopped:
            stops += 1
    assert stops >= 3
    assert digest(tmp_path / "whole") == digest(tmp_path / "parts")
    written = [json.loads(line) for line in (tmp_path / "parts/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in written] == sorted({row["step"] for row in written})


def test_moments_are_kept_over_a_boundary_also_when_resumed(index, tiny_config, mesh, tmp_path):
    train = dataclasses.replace(tiny_config.train, keep_optimizer=True)
    config = dataclasses.replace(tiny_config, train=train)
    run_stream(index, config, tmp_path / "whole", mesh=mesh, options=QUIET)
    for _ in range(9):
        try:
            going = dataclasses.replace(QUIET, max_updates=4)
            run_stream(index, config, tmp_path / "stopped", mesh=mesh, options=going)
            break
        except Stopped:
            continue
    assert digest(tmp_path / "whole") == digest(tmp_path / "stopped")
    run_stream(index, tiny_config, tmp_path / "dropped", mesh=mesh, options=QUIET)
    assert digest(tmp_path / "dropped") != digest(tmp_path / "whole")


def test_a_checkpoint_of_another_plan_is_refused(index, tiny_config, mesh, tmp_path):
    with pytest.raises(Stopped):
        run_stream(index, tiny_config, tmp_path, mesh=mesh, options=dataclasses.replace(QUIET, max_updates=2))
    other = dataclasses.replace(tiny_config, method="oracle")
    with pytest.raises(ValueError, match="checkpoint of another plan"):
        run_stream(index, other, tmp_path, mesh=mesh, options=QUIET)


def test_counts_are_exact(index, tiny_config, mesh, tmp_path):
    config = dataclasses.replace(tiny_config, method="cumulative-equal")
    result = run_stream(index, config, tmp_path, mesh=mesh, options=QUIET)
    last, plan = result["ledger"][-1], json.loads((tmp_path / "plan.json").read_text())[-1]
    assert sum(last["draws"].values()) == last["samples"] == plan["samples"] == 64
    assert last["different"] == min(64, plan["pool"])
    assert last["most_repeats"] == -(-64 // plan["pool"])
    assert result["total_macs"] == sum(row["macs"] for row in json.loads((tmp_path / "plan.json").read_text()))


def test_patching_goes_between(index, tiny_config, mesh, tmp_path):
    config = dataclasses.replace(tiny_config, method="patching", alphas=(0.5,))
    run_stream(index, config, tmp_path, mesh=mesh, options=QUIET)
    found = json.loads((tmp_path / "steps/02/result.json").read_text())["ledger"]
    assert found["alpha"] == 0.5 and found["selection_macs"] > 0
    tree = {"a": np.array([1.0, 3.0], np.float32)}, {"a": np.array([2.0, 1.0], np.float32)}
    assert interpolate(*tree, 0.25)["a"].tolist() == [1.25, 2.5]


def test_only_the_last_step(index, tiny_config, mesh, tmp_path):
    config = dataclasses.replace(tiny_config, method="oracle")
    whole = run_stream(index, config, tmp_path / "whole", mesh=mesh, options=QUIET)
    options = dataclasses.replace(QUIET, last_only=True)
    last = run_stream(index, config, tmp_path / "last", mesh=mesh, options=options)
    assert last["retrieval"][-1] == whole["retrieval"][-1]
    assert np.isnan(last["retrieval"][0]).all()
    with pytest.raises(ValueError, match="starts afresh"):
        run_stream(index, tiny_config, tmp_path / "x", mesh=mesh, options=options)


def test_the_rate_is_chosen_on_validation_items(index, tiny_config, mesh, tmp_path):
    assert tune_rate(index, tiny_config, (1e-12, 3e-2), tmp_path, QUIET) in (1e-12, 3e-2)
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*/result.json"))]
    assert [result["split"] for result in results] == ["validation"] * 2
    assert [len(result["steps"]) for result in results] == [2, 2]


def test_a_loss_that_is_not_finite_stops_the_run(index, tiny_config, mesh, tmp_path):
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, learning_rate=1e30))
    with pytest.raises(FloatingPointError, match="the loss is nan"):
        run_stream(index, config, tmp_path, mesh=mesh, options=QUIET)


@pytest.mark.slow
def test_it_learns_what_it_sees(folder, tiny_config, tmp_path, mesh):
    """Evaluated on its own training pictures, a model that was trained long enough finds most of them."""
    from ticclip.builder import BuildConfig, build_index
    from ticclip.data import Examples
    from ticclip.evaluate import encode_with, retrieval_hits

    index = build_index([folder], tmp_path / "index", BuildConfig(by="2000-01-01", held_out=0.2, validation=0.2))
    model = dataclasses.replace(tiny_config.model, text=dataclasses.replace(tiny_config.model.text, vocab_size=49408))
    train = dataclasses.replace(tiny_config.train, learning_rate=1e-2, weight_decay=0.0)
    config = dataclasses.replace(tiny_config, model=model, train=train, samples_per_step=16 * 500)
    run_stream(index, config, tmp_path / "run", mesh=mesh, options=QUIET)
    encoder = encode_with(from_pretrained(tmp_path / "run/steps/01"))
    batch = Examples(index, model)(index.rows(0)[:40])
    hits = retrieval_hits(encoder.images(batch["image"]), encoder.texts(batch["text"]), 40)
    assert hits.mean() > 0.5, "chance is 1/40"


@pytest.mark.slow
def test_twenty_four_steps(tmp_path, picture, tiny_config, mesh):
    import csv

    from ticclip.builder import BuildConfig, build_index

    with open(tmp_path / "data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", "date"])
        for number in range(24 * 14):
            (tmp_path / f"{number}.png").write_bytes(picture(number))
            writer.writerow(
                [f"{number}.png", f"number {number}", f"{2020 + number % 24 // 12}-{1 + number % 12:02d}-05"]
            )
    index = build_index([tmp_path], tmp_path / "index", BuildConfig(by="month", held_out=0.4, validation=0.0))
    assert len(index.steps) == 24 and index.steps[0] == "2020-01" and index.steps[-1] == "2021-12"
    config = dataclasses.replace(tiny_config, method="cumulative-exp", samples_per_step=16)
    result = run_stream(index, config, tmp_path / "run", mesh=mesh, options=QUIET)
    assert np.array(result["retrieval"]).shape == (24, 24)
    assert len(result["ledger"][-1]["draws"]) <= 24


RUN = """
import dataclasses, json, sys
from ticclip import TimeIndex, StreamConfig, run_stream
from ticclip.config import CLIPConfig, TextConfig, TrainConfig, VisionConfig
from ticclip.stream import RunOptions
model = CLIPConfig(VisionConfig(16, 8, 32, 1, 2), TextConfig(8, 64, 32, 1, 2), 16)
train = TrainConfig(batch_size=16, learning_rate=1e-2)
config = StreamConfig(model, train, method="cumulative-exp", samples_per_step=160)
if len(sys.argv) > 3:
    from ticclip.cli_run import join_processes
    join_processes(sys.argv[3])
from ticclip.parallel import build_mesh
options = RunOptions(checkpoint_every=4, draws=20, quiet=True)
run_stream(TimeIndex(sys.argv[1]), config, sys.argv[2], mesh=build_mesh(), options=options)
"""


def start(index, out, *rest, devices=1):
    environment = {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    # What one process compiled, the next one reads.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(out.parent / "compiled")
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-c", RUN, str(index.folder), str(out), *rest]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def finish(*processes):
    try:
        for process in processes:
            _, errors = process.communicate(timeout=200)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()  # one that waits for the other would wait for ever
            process.communicate()


def updates(out):
    found = [int(path.name) for path in (out / "checkpoints").glob("*") if path.name.isdigit()]
    return max(found, default=0)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_runs_end_as_the_uninterrupted_one(index, tmp_path):
    """SIGKILL in the first and in the middle of the second step of the stream."""
    finish(start(index, tmp_path / "whole"))
    for point in (4, 14):
        process = start(index, tmp_path / "killed")
        while updates(tmp_path / "killed") < point:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(start(index, tmp_path / "killed"))
    assert digest(tmp_path / "whole") == digest(tmp_path / "killed")


def port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def weights(out):
    from safetensors.numpy import load_file

    return load_file(out / "steps/03/model.safetensors")


def start_pair(index, out):
    pair = f"127.0.0.1:{port()}"
    return [start(index, out, f"{pair},2,{rank}") for rank in range(2)]


@pytest.fixture(scope="module")
def pair_run(index, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    finish(*start_pair(index, folder / "two"))
    return folder


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_two_processes_equal_one(index, pair_run):
    """Each process reads half of every batch and computes half of the loss's rows."""
    finish(start(index, pair_run / "one", devices=2))
    one, two = weights(pair_run / "one"), weights(pair_run / "two")
    largest = max(float(np.abs(one[name] - two[name]).max() / np.abs(one[name]).max()) for name in one)
    print(f"largest relative difference between one and two processes: {largest:.1e}")
    assert largest < 1e-4


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_a_killed_pair_ends_as_the_uninterrupted_one(index, pair_run):
    processes = start_pair(index, pair_run / "killed")
    while updates(pair_run / "killed") < 14:
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.01)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    finish(*start_pair(index, pair_run / "killed"))
    assert digest(pair_run / "two") == digest(pair_run / "killed")


def test_a_rate_is_chosen_by_the_last_model_tried(index, tiny_config, tmp_path, monkeypatch):
    scores = {1e-3: ([0.9, 0.9], [0.2, 0.3]), 3e-3: ([0.1, 0.1], [0.4, 0.5]), 1e-2: ([0.5, 0.5], [0.1, 0.1])}

    def scripted(index, config, out, options):
        assert (options.split, options.num_steps, options.draws) == ("validation", 2, 1)
        return {"retrieval": scores[config.train.learning_rate], "steps": index.steps[:2]}

    monkeypatch.setattr(stream, "run_stream", scripted)
    assert tune_rate(index, tiny_config, list(scores), tmp_path) == 3e-3
