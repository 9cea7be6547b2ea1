"""Settings before anything heavy is imported, and what several test files need."""

import os

os.environ.update(
    JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1"
)

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REFERENCE = Path(__file__).parent / "reference"


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Real images in folders: a few labelled, a pile, a test set, of three kinds of clothing."""
    from vfm_transfer.material import load_world, pixels_of

    root = tmp_path_factory.mktemp("images")
    for part, name, count in (("labelled", "few", 4), ("test", "test", 6), ("pool", "pile", 20)):
        found = load_world("fashion")[part]
        pixels, labels = pixels_of(found), found.target(np.arange(len(found))).numpy()
        for number, kind in ((1, "trouser"), (5, "sandal"), (8, "bag")):
            place = root / name / (kind if name != "pile" else "")
            place.mkdir(parents=True, exist_ok=True)
            for row in np.flatnonzero(labels == number)[:count]:
                Image.fromarray(pixels[row]).save(place / f"{kind}-{row}.png")
    return root


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Images with masks in two folders, as ADE20K has them."""
    from vfm_transfer.material import SIDE

    root, generator = tmp_path_factory.mktemp("scenes"), np.random.default_rng(0)
    for part, count in (("training", 16), ("validation", 8)):
        for name in ("images", "annotations"):
            (root / name / part).mkdir(parents=True)
        for number in range(count):
            image = generator.integers(0, 80, (SIDE, SIDE, 3), dtype=np.uint8)
            mask = np.ones((SIDE, SIDE), np.uint8)
            left, top = generator.integers(0, SIDE // 2, 2)
            place = np.s_[top : top + SIDE // 2, left : left + SIDE // 2]
            image[place], mask[place] = 255 - image[place], 2
            mask[0] = 0  # counts for nothing
            Image.fromarray(image).save(root / "images" / part / f"ADE_{number:03}.jpg", quality=95)
            Image.fromarray(mask).save(root / "annotations" / part / f"ADE_{number:03}.png")
    return root
