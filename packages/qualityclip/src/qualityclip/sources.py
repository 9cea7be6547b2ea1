"""What a command is pointed at: files with captions, or composed scenes with captions of a tier."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
from PIL import Image
from tenfold_shared.commands import InputError, require_extra, unknown_name

from qualityclip.readers import Sample, check_sample, read_captions
from qualityclip.scene_captions import Tier, caption_scenes
from qualityclip.scenes import compose, concepts

NUM_SCENES = 200
SCENE_SIDE = 48


def open_samples(source: str | Path, *, checked: bool = True) -> Iterator[Sample]:
    """Yield samples of a file or folder, or composed scenes where the source is "scenes:TIER" or "scenes:TIER:COUNT".

    Scenes have a caption of noisy nouns as the real one, one of the tier as the synthetic one, and name their objects.

    Args:
        source: What to read.
        checked: Refuse captions that cannot be used, instead of passing them on.
    """
    name = str(source)
    samples = _scenes(name) if name.startswith("scenes:") else read_captions(source)
    return (check_sample(sample, name) for sample in samples) if checked else samples


def _scenes(name: str) -> Iterator[Sample]:
    _, tier, *count = name.split(":")
    if tier not in get_args(Tier):
        raise unknown_name("tier", tier, get_args(Tier))
    if count and not (len(count) == 1 and count[0].isdigit() and int(count[0])):
        raise InputError(f"{name!r}: write scenes:TIER:COUNT with a positive whole number.")
    names = concepts("named", per_family=6)
    scenes = compose(names, int(count[0]) if count else NUM_SCENES, size=SCENE_SIDE, seed=0)
    noisy, good = (caption_scenes(scenes, each, seed=0, names=names) for each in ("noisy", tier))
    for row, things in enumerate(scenes.things):
        buffer = io.BytesIO()
        Image.fromarray(scenes.images[row]).save(buffer, "PNG")
        objects = tuple(thing.concept for thing in things)
        yield Sample(f"scene{row:06d}", (noisy[row],), (good[row],), buffer.getvalue(), objects)


class ClipEncoder:
    """A CLIP of this package as an encoder for CLIPScore.

    Args:
        model: The model; moved to the device.
        device: Where it runs.
    """

    def __init__(self, model: Any, device: str = "cpu") -> None:
        from tenfold_shared.tokenizers import ClipTokenizer

        self.model, self.device = model.to(device).eval(), device
        self.tokenizer = ClipTokenizer(model.config.text.context_length)

    def encode_images(self, images: Any) -> np.ndarray:
        """Return features of encoded pictures."""
        import torch

        from qualityclip.data import centre, decode, to_pixels

        vision = self.model.config.vision
        pixels = [to_pixels(centre(decode(each, "picture"), vision.image_size), vision) for each in images]
        with torch.no_grad():
            return self.model.encode_image(torch.stack(pixels).to(self.device)).float().cpu().numpy()

    def encode_texts(self, texts: Any) -> np.ndarray:
        """Return features of texts."""
        import torch

        tokens = torch.from_numpy(self.tokenizer(list(texts))).long().to(self.device)
        with torch.no_grad():
            return self.model.encode_text(tokens).float().cpu().numpy()


class OpenClipEncoder:
    """Any model of open_clip (extra `open-clip`) as an encoder for CLIPScore.

    Args:
        name: "open_clip:MODEL" or "open_clip:MODEL:PRETRAINED", where the latter is a tag or a file.
        device: Where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        open_clip = require_extra("open_clip", "open-clip", "qualityclip")
        _, model, *pretrained = name.split(":", 2)
        if model not in open_clip.list_models() and not model.startswith("hf-hub"):
            raise unknown_name("open_clip model", model, open_clip.list_models())
        self.model, _, self.preprocess = open_clip.create_model_and_transforms(model, *pretrained, device=device)
        self.model.eval()
        self.tokenizer, self.device = open_clip.get_tokenizer(model), device

    def encode_images(self, images: Any) -> np.ndarray:
        """Return features of encoded pictures."""
        import torch

        from qualityclip.data import decode

        pixels = torch.stack([self.preprocess(decode(each, "picture")) for each in images])
        with torch.no_grad():
            return self.model.encode_image(pixels.to(self.device)).float().cpu().numpy()

    def encode_texts(self, texts: Any) -> np.ndarray:
        """Return features of texts."""
        import torch

        with torch.no_grad():
            return self.model.encode_text(self.tokenizer(list(texts)).to(self.device)).float().cpu().numpy()


def load_encoder(name: str, device: str = "cpu") -> Any:
    """Return an encoder for CLIPScore.

    Args:
        name: A folder or file of `from_pretrained`, "open_clip:MODEL[:PRETRAINED]", or "module:name" of a class or
            function that gives one.
        device: Where it runs.
    """
    from qualityclip.checkpoint import from_pretrained
    from qualityclip.quality import load_callable

    if name.startswith("open_clip:"):
        return OpenClipEncoder(name, device)
    if ":" in name and not Path(name).exists():
        return load_callable(name)()
    return ClipEncoder(from_pretrained(name), device)
