"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"  # models here are so small that a second thread slows them down

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `make_signals`, which several files need


@pytest.fixture(scope="session")
def config():
    """Two modalities of different rates and several channels, four patches."""
    from physiomae.config import ModalityConfig, PhysioMAEConfig

    modalities = (ModalityConfig("eeg", ("C3", "C4"), 16), ModalityConfig("ecg", ("ECG",), 8, "mV"))
    return PhysioMAEConfig(modalities, 4.0, 1.0, 16, 2, 2, 8, 1)


@pytest.fixture
def arrays(config):
    """Six windows of noise."""
    draw = np.random.default_rng(0)
    return {
        m.name: draw.normal(size=(6, len(m.channels), config.window_samples(m))).astype(np.float32)
        for m in config.modalities
    }


@pytest.fixture
def model(config):
    """A model with random weights in evaluation mode."""
    import torch
    from physiomae.model import PhysioMAE

    torch.manual_seed(0)
    return PhysioMAE(config).eval()


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command in this process; return status, stdout and stderr."""

    def run(*arguments):
        from physiomae.cli import main

        monkeypatch.setattr(sys, "argv", ["physiomae", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return end.value.code, shown.out, shown.err

    return run
