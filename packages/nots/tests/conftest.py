"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"  # models here are so small that a second thread slows them down

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `nots_process`, for the test that kills


@pytest.fixture(scope="session")
def config():
    """Two channels, three elements, four patches."""
    from nots.config import NoTSConfig

    return NoTSConfig(length=32, num_channels=2, num_groups=3, patch=8, dim=16, num_layers=2, num_heads=2, mlp_dim=24)


@pytest.fixture
def model(config):
    """A model with random weights in evaluation mode, its embeddings of elements not zero."""
    import torch
    from nots.model import NoTS

    torch.manual_seed(0)
    made = NoTS(config).eval()
    with torch.no_grad():
        made.element.normal_()
    return made


@pytest.fixture
def series():
    """Six standardised series of two channels."""
    import torch
    from nots.model import standardise

    return standardise(torch.randn(6, 2, 32, generator=torch.Generator().manual_seed(1)).cumsum(-1))


@pytest.fixture
def command(capsys, monkeypatch):
    """Run the command in this process; return status, stdout and stderr."""

    def run(*arguments):
        from nots.cli import main

        monkeypatch.setattr(sys, "argv", ["nots", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        shown = capsys.readouterr()
        return end.value.code, shown.out, shown.err

    return run
