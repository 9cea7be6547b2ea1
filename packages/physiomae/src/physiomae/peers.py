"""braindecode's BIOT in an environment of its own: `peers.py ROUNDS BATCH SECONDS` prints CPU seconds.

This file is also run alone there, so that it imports nothing of ours.
"""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

PEER = "braindecode==1.8.1"
CHANNELS, RATE_HZ = 6, 100


def embed_with_biot(torch_version: str, rounds: int, batch: int, seconds: int) -> dict[str, object]:
    """Return CPU seconds of BIOT's forward passes, and its number of parameters.

    Args:
        torch_version: That of this process, so that both run the same kernels.
        rounds: Forward passes.
        batch: Windows of each.
        seconds: Length of a window.

    Raises:
        InputError: uv is missing, the environment cannot be made, or the run failed.
    """
    from tenfold_shared.commands import InputError  # here: the child, which runs this file too, does not have it

    if shutil.which("uv") is None:
        raise InputError(f"{PEER} runs in a child environment, which needs uv; run: pip install uv")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    packages = ["--with", PEER, "--with", f"torch=={torch_version.split('+')[0]}"]
    command = ["uv", "run", "--quiet", "--isolated", "--no-project", "--python", python, *packages]
    # -P: modules beside this file are not to be found before those of the environment.
    command += ["python", "-P", str(Path(__file__)), str(rounds), str(batch), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{PEER} could not be run ({last}).")
    return json.loads(done.stdout.splitlines()[-1])


def measure(rounds: int, batch: int, seconds: int) -> dict[str, object]:
    """Time BIOT in this process, on one thread."""
    import torch

    torch.version.cuda = None  # torchaudio refuses a torch of another CUDA, which matters to no CPU
    BIOT = importlib.import_module("braindecode.models").BIOT  # there, not here

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = BIOT(n_chans=CHANNELS, n_outputs=2, n_times=RATE_HZ * seconds, sfreq=RATE_HZ).eval()
    signals = torch.randn(batch, CHANNELS, RATE_HZ * seconds)
    found = []
    with torch.inference_mode():
        model(signals)
        for _ in range(rounds):
            start = time.process_time()
            model(signals)
            found.append(time.process_time() - start)
    return {"seconds": found, "parameters": sum(p.numel() for p in model.parameters())}


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
