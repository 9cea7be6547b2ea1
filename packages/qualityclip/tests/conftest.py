"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from qualityclip.config import CLIPConfig, TextConfig, TrainConfig, VisionConfig
from qualityclip.readers import Sample

torch.set_num_threads(1)
TINY = CLIPConfig(VisionConfig(16, 8, 32, 2, 2), TextConfig(12, 49408, 16, 1, 2), 16)


def picture(seed, size=20):
    """PNG of random blocks: no two seeds look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tiny_train():
    return TrainConfig(TINY, 8, 6, 1e-2, warmup_steps=2, precision="fp32", smallest_crop=0.8)


@pytest.fixture(scope="session")
def samples():
    return [Sample(f"u{n}", (f"alt text {n}",), (f"picture {n} of blocks", f"{n}"), picture(n)) for n in range(20)]


@pytest.fixture(scope="session", name="picture")
def picture_fixture():
    return picture


@pytest.fixture
def lines(tmp_path):
    """Write rows as JSON lines and return the file; strings are written as they are."""

    def write(*rows, name="captions.jsonl"):
        file = tmp_path / name
        file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
        return file

    return write
