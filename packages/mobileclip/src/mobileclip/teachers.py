"""Teachers and captioners of reinforced training, by name: open_clip, transformers, folders, your own function."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from tenfold_shared.commands import InputError, require_extra
from torch import Tensor

from mobileclip.augment import to_pixels

DIST = "mobileclip-torch"
TOP_P = 0.9
CAPTION_TOKENS = 30
Captioner = Callable[[Sequence[Image.Image], int, int], list[list[str]]]


class Teacher(Protocol):
    """What an ensemble member has to offer; embeddings need not be of unit length.

    Attributes:
        name: Written to the set's config.json.
        image_size: Height and width of the pictures it is given.
    """

    name: str
    image_size: int

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed RGB pictures of `image_size` x `image_size` pixels, [n, width]."""

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed captions, [n, width]."""


class Ensemble:
    """Several teachers side by side: each embedding of unit length, then concatenated (Sec. 4.1).

    Args:
        members: At least one.
    """

    def __init__(self, members: Sequence[Teacher]) -> None:
        if not members:
            raise InputError("no teacher given; name at least one, as in --teachers open_clip:ViT-L-14@openai.")
        self.members = tuple(members)

    @torch.inference_mode()
    def embed_images(
        self, pictures: Callable[[int], Sequence[Image.Image]]
    ) -> tuple[Float[Tensor, "n width"], tuple[int, ...]]:
        """Embed the same augmented pictures with every member.

        Args:
            pictures: From an image size to the pictures at that size.

        Returns:
            Embeddings, and the width of each member.
        """
        return _concatenate([member.embed_images(pictures(member.image_size)) for member in self.members])

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> tuple[Float[Tensor, "n width"], tuple[int, ...]]:
        """Embed the same captions with every member; see `embed_images`."""
        return _concatenate([member.embed_texts(texts) for member in self.members])


def _concatenate(parts: list[Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    unit = [F.normalize(part.float(), dim=-1).cpu() for part in parts]
    return torch.cat(unit, dim=1), tuple(part.shape[1] for part in unit)


class OpenClipTeacher:
    """A CLIP model of open_clip.

    Args:
        name: Such as "ViT-L-14@openai"; without "@..." its weights are random.
        device: Where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        open_clip = require_extra("open_clip", "teachers", DIST)
        model, _, pretrained = name.partition("@")
        if model not in open_clip.list_models():
            raise InputError(f"open_clip has no model {model!r}; `open_clip.list_models()` names them.")
        self.name = f"open_clip:{name}"
        self._device = device
        self._model = open_clip.create_model(model, pretrained=pretrained or None, device=device).eval()
        self._tokenizer = open_clip.get_tokenizer(model)
        size = self._model.visual.image_size
        self.image_size = size[0] if isinstance(size, tuple) else size
        self._mean, self._std = self._model.visual.image_mean, self._model.visual.image_std

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures."""
        pixels = torch.stack([to_pixels(image, self._mean, self._std) for image in images])
        return self._model.encode_image(pixels.to(self._device))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed captions."""
        return self._model.encode_text(self._tokenizer(list(texts)).to(self._device))


class TransformersTeacher:
    """A CLIP model of transformers (or any model with `get_image_features` and `get_text_features`).

    Args:
        name: On the hub, or a local folder.
        device: Where it runs.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        transformers = require_extra("transformers", "teachers", DIST)
        self.name = f"transformers:{name}"
        self._device = device
        self._model = transformers.AutoModel.from_pretrained(name).to(device).eval()
        self._processor = transformers.AutoProcessor.from_pretrained(name)
        self.image_size = self._model.config.vision_config.image_size
        images = self._processor.image_processor
        self._mean, self._std = images.image_mean, images.image_std

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures."""
        pixels = torch.stack([to_pixels(image, self._mean, self._std) for image in images])
        return _features(self._model.get_image_features(pixel_values=pixels.to(self._device)))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed captions."""
        tokens = self._processor.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        return _features(self._model.get_text_features(**tokens.to(self._device)))


def _features(output: Any) -> Tensor:
    """Return the projected features, a tensor or (transformers 5) the pooled part of an output."""
    return output if isinstance(output, Tensor) else output.pooler_output


class FolderTeacher:
    """A model that `mobileclip.save_pretrained` wrote.

    Args:
        folder: With config.json and model.safetensors.
        device: Where it runs.
    """

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        from mobileclip.checkpoint import from_pretrained
        from mobileclip.factory import Tokenizer

        self.name = f"mobileclip:{Path(folder).name}"
        self._device = device
        self._model = from_pretrained(folder).to(device)
        self.image_size = self._model.config.image.image_size
        self._tokenizer = Tokenizer(self._model.config.text.context_length)

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embed pictures."""
        return self._model.encode_image(torch.stack([to_pixels(image) for image in images]).to(self._device))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed captions."""
        return self._model.encode_text(self._tokenizer(texts).to(self._device))


def load_teacher(name: str, device: str = "cpu") -> Teacher:
    """Load an ensemble member.

    Args:
        name: "open_clip:MODEL@WEIGHTS", "transformers:NAME", a folder of transformers or of `save_pretrained`, or
            "module:function", a function without arguments that returns a `Teacher`.
        device: Where it runs (your own function decides for itself).

    Raises:
        InputError: It is none of these.
    """
    kind, _, rest = name.partition(":")
    if kind == "open_clip":
        return OpenClipTeacher(rest, device)
    if kind == "transformers":
        return TransformersTeacher(rest, device)
    if (config := Path(name) / "config.json").is_file():
        is_transformers = "model_type" in json.loads(config.read_text())
        return TransformersTeacher(name, device) if is_transformers else FolderTeacher(name, device)
    if not rest:
        raise InputError(
            f"unknown teacher {name!r}; use open_clip:MODEL@WEIGHTS, transformers:NAME, a folder or module:function."
        )
    return load_function(name)()


def load_captioner(name: str, device: str = "cpu") -> Captioner:
    """Load a captioner, a function (images, captions per image, seed) -> captions of each image.

    Args:
        name: "transformers:NAME", an image-to-text model, or "module:function", a captioner of your own.
        device: Where it runs.

    Raises:
        InputError: It is neither.
    """
    kind, _, rest = name.partition(":")
    return _transformers_captioner(rest, device) if kind == "transformers" else load_function(name)


def load_function(name: str) -> Callable[..., Any]:
    """Return the function named "module:function", or "module:function@argument" with its first argument bound.

    Raises:
        InputError: There is no such module or function.
    """
    module, _, rest = name.partition(":")
    function, at, argument = rest.partition("@")
    try:
        found = getattr(importlib.import_module(module), function)
        return functools.partial(found, argument) if at else found
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"no function {name!r} ({error}); give module:function, importable from here.") from error


def _transformers_captioner(name: str, device: str) -> Captioner:
    transformers = require_extra("transformers", "teachers", DIST)
    model = transformers.AutoModelForImageTextToText.from_pretrained(name).to(device).eval()
    processor = transformers.AutoProcessor.from_pretrained(name)

    def caption(images: Sequence[Image.Image], num_captions: int, seed: int) -> list[list[str]]:
        """Sample with top-p 0.9 and cut at the first full stop, as the authors' captions are."""
        torch.manual_seed(seed)
        inputs = processor(images=list(images), return_tensors="pt").to(device)
        with torch.inference_mode():
            ids = model.generate(
                **inputs, do_sample=True, top_p=TOP_P, num_return_sequences=num_captions, max_new_tokens=CAPTION_TOKENS
            )
        texts = [text.partition(".")[0].strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]
        return [texts[i : i + num_captions] for i in range(0, len(texts), num_captions)]

    return caption
