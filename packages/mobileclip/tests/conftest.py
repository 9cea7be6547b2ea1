"""Settings before anything heavy is imported, and what several test files need."""

import os
import sys
from pathlib import Path

# `make_data` holds teachers, which users too give as an importable module:function.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from mobileclip import MobileCLIP, MobileCLIPConfig, save_pretrained
from mobileclip.config import MCiConfig, TextConfig
from torch import nn

TINY = MobileCLIPConfig(
    image=MCiConfig(depths=(1, 1, 1, 1), dims=(32, 32, 32, 32), image_size=64),
    text=TextConfig(kind="mct", num_layers=1, dim=32, num_heads=2),
    embed_dim=16,
)


@pytest.fixture(scope="session", name="randomize")
def randomize_fixture():
    """The function below: a test file cannot import from a conftest."""
    return randomize


def randomize(module: nn.Module) -> nn.Module:
    """Give every parameter and running statistic a value at which a forgotten term shows."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator) * 0.3
                tensor.copy_(noise.abs() + 0.5 if name.endswith("running_var") else noise)
    return module.eval()


@pytest.fixture(scope="session")
def tiny_model() -> MobileCLIP:
    return randomize(MobileCLIP(TINY))


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_pretrained(tiny_model, folder)
    return folder
