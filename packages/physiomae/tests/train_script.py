"""Trains a tiny model in processes forked from one that has torch imported; `test_train.py` runs it."""

import json
import os
import random
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # the first optimiser imports it: once, before anything is forked
from physiomae.config import OBJECTIVES, PRESETS, TrainConfig
from physiomae.parallel import Processes
from physiomae.sources import ArraySource
from physiomae.train import Run, train

STEPS = 24
torch.set_num_threads(1)


def source():
    """Twelve windows, some with a modality missing."""
    config = PRESETS["tiny"]
    draw = np.random.default_rng(0)
    arrays = {m.name: draw.normal(size=(12, 1, config.window_samples(m))).astype(np.float32) for m in config.modalities}
    arrays["eog"][3] = np.nan
    return ArraySource(config, arrays)


def run(out, objective, steps, every):
    """Train to the end."""
    config = TrainConfig(OBJECTIVES[objective], steps, 6, 3e-3, 2, checkpoint_every=every)
    train(PRESETS["tiny"], source(), config, out)


def live(out, step, after):
    """Train until one of 20 places: before a step, or while the checkpoint after it is being written."""
    plain = Run.step

    def until(self, batch, number):
        if number == step and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, batch, number)

    Run.step = until
    if after:
        from physiomae import checkpoint

        write = checkpoint.atomic_write

        def torn(path, *rest):
            if json.loads(Path(out, "at.json").read_text()) >= step:
                Path(path).with_name(".torn.tmp").write_bytes(b"half")
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path, *rest)

        save = checkpoint.save

        def told(folder, run_, number):
            Path(out, "at.json").write_text(json.dumps(number))
            return save(folder, run_, number)

        checkpoint.atomic_write, checkpoint.save = torn, told
    run(out, "mae_drop", STEPS, 2)


def kill(folder):
    """Live twenty times, each time a little further, then to the end."""
    draw, deaths = random.Random(0), []
    steps = sorted(draw.randrange(1, STEPS) for _ in range(20))
    out = folder / "killed"
    out.mkdir()
    run(folder / "whole", "mae_drop", STEPS, 2)  # first, so that the children find everything imported
    for number, step in enumerate(steps):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            live(out, step, number % 3 == 2)
            os._exit(0)
        deaths.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
    run(out, "mae_drop", STEPS, 2)
    print(json.dumps({"deaths": deaths, "steps": steps}))


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def pair(folder, objective):
    """Train alone, then in two forked processes with and without the gather."""
    run(folder / "one", objective, 6, 100)
    for name in ("two", "without"):
        environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
        children = []
        for rank in range(2):
            child = os.fork()
            if child == 0:
                os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
                if name == "without":
                    Processes.gather = lambda self, rows: (rows, 0)
                run(folder / name, objective, 6, 100)
                os._exit(0)
            children.append(child)
        print(name, [os.waitpid(child, 0)[1] for child in children])


if __name__ == "__main__":
    if sys.argv[1] == "kills":
        kill(Path(sys.argv[2]))
    else:
        pair(Path(sys.argv[2]), sys.argv[3])
