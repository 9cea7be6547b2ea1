"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")
os.environ["OMP_NUM_THREADS"] = "1"
# Eight devices in one process, for the meshes; a run without a mesh of its own uses one of them.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

import csv
import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from ticclip.config import CLIPConfig, StreamConfig, TextConfig, TrainConfig, VisionConfig

TINY = CLIPConfig(VisionConfig(16, 8, 32, 1, 2), TextConfig(8, 64, 32, 1, 2), 16)


def picture(seed, size=16):
    """PNG of random blocks: no two seeds look alike."""
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session", name="picture")
def picture_fixture():
    return picture


@pytest.fixture(scope="session")
def tiny():
    return TINY


@pytest.fixture(scope="session")
def tiny_config():
    train = TrainConfig(batch_size=16, learning_rate=1e-2, warmup_steps=1)
    return StreamConfig(model=TINY, train=train, samples_per_step=64)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Pictures with a CSV: 3 years of 40 items, dates in two spellings."""
    folder = tmp_path_factory.mktemp("pictures")
    with open(folder / "data.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "caption", "date"])
        for number in range(120):
            (folder / f"{number}.png").write_bytes(picture(number))
            date = f"{2019 + number // 40}-0{1 + number % 9}-01"
            writer.writerow([f"{number}.png", f"a picture of number {number}", date])
    return folder


@pytest.fixture(scope="session")
def index(folder, tmp_path_factory):
    from ticclip.builder import BuildConfig, build_index

    return build_index([folder], tmp_path_factory.mktemp("index"), BuildConfig(held_out=0.2, validation=0.2))


def write_tar(path, samples):
    """A webdataset shard: {key: {ending: bytes}}."""
    with tarfile.open(path, "w") as archive:
        for key, parts in samples.items():
            for end, content in parts.items():
                info = tarfile.TarInfo(f"{key}.{end}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session", name="write_tar")
def write_tar_fixture():
    return write_tar
