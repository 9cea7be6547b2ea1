"""The models that MobileCLIP is measured against, built by the libraries their users have (extra `demo`)."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from tenfold_shared.commands import require_extra
from torch import Tensor, nn

# Photographs that scikit-image carries in its wheel.
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina", "motorcycle_left", "hubble_deep_field", "ihc")
SUFFIXES = (".png", ".jpg")


@dataclass(frozen=True)
class ClipPeer:
    """A CLIP model of open_clip as an image function and a text function.

    Args:
        name: open_clip's name of the model.
        model: In evaluation mode, random weights.
        image_size: Input height and width in pixels.
        context_length: Tokens per caption.
        vocab_size: Ids are below this.
    """

    name: str
    model: nn.Module
    image_size: int
    context_length: int
    vocab_size: int

    def num_params(self) -> tuple[int, int]:
        """Return parameters of the image half and of the text half (all that is not under `visual`)."""
        image = sum(p.numel() for p in self.model.visual.parameters())
        return image, sum(p.numel() for p in self.model.parameters()) - image


def build_clip_peer(name: str) -> ClipPeer:
    """Build an open_clip model with random weights: latency does not depend on their values.

    Args:
        name: Such as "ViT-B-16-quickgelu" (OpenAI's) or "ViT-B-16-SigLIP".

    Raises:
        ImportError: The extra `demo` is not installed.
    """
    open_clip = require_extra("open_clip", "demo", "mobileclip-torch")
    with _quiet_logging():
        model = open_clip.create_model(name, pretrained=None, pretrained_hf=False).eval()
    config = open_clip.get_model_config(name)
    text = config["text_cfg"]
    return ClipPeer(
        name, model, config["vision_cfg"]["image_size"], text["context_length"], text.get("vocab_size", 49408)
    )


def build_timm_mci(name: str) -> nn.Module:
    """Build timm's own MCi image encoder in train form, 512 outputs, random weights.

    Args:
        name: Such as "fastvit_mci2".

    Raises:
        ImportError: The extra `demo` is not installed.
    """
    timm = require_extra("timm", "demo", "mobileclip-torch")
    return timm.create_model(name, pretrained=False, num_classes=512).eval()


def read_photographs() -> dict[str, Image.Image]:
    """Return the photographs in scikit-image's wheel by name.

    Raises:
        ImportError: The extra `demo` is not installed.
        FileNotFoundError: This version of scikit-image does not carry one of them.
    """
    from pathlib import Path

    from mobileclip.preprocess import load_image

    folder = Path(require_extra("skimage", "demo", "mobileclip-torch").__file__).parent / "data"
    files = {name: [folder / (name + suffix) for suffix in SUFFIXES] for name in PHOTOGRAPHS}
    found = {name: next((path for path in paths if path.is_file()), None) for name, paths in files.items()}
    if missing := [name for name, path in found.items() if path is None]:
        raise FileNotFoundError(f"scikit-image carries no picture {missing[0]!r} in {folder}; update scikit-image.")
    return {name: load_image(path) for name, path in found.items() if path is not None}


def example_ids(vocab_size: int, length: int, *, seed: int) -> Tensor:
    """Return one row of token ids [1, length]; speed does not depend on which tokens they are."""
    ids = np.random.default_rng(seed).integers(1, vocab_size - 1, (1, length))
    ids[0, -1] = vocab_size - 1
    return torch.from_numpy(ids)


@contextmanager
def _quiet_logging() -> Generator[None]:
    """Silence open_clip's warning that weights are random, which is what we ask for."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
