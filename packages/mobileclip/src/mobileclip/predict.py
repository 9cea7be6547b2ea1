"""Using a model: embeddings of pictures and captions, and zero-shot classification (no training needed)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from tenfold_shared.commands import InputError
from torch import Tensor

from mobileclip.preprocess import load_image

TEMPLATES = ("a photo of a {}.",)
BATCH_SIZE = 32


class Encoders(Protocol):
    """What classification needs of a model: a `MobileCLIP`, or ONNX Runtime sessions behind the same methods."""

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Embed pixels [batch, 3, h, w]."""

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Embed token ids [batch, length]."""

    def scale(self) -> Tensor:
        """Return the factor between cosines and logits."""


@dataclass(frozen=True)
class Pipeline:
    """A model with the preprocessing and the tokenizer that belong to it.

    Args:
        model: Encoders in evaluation mode.
        preprocess: Picture to pixels [3, h, w].
        tokenizer: Captions to token ids [n, length].
        device: Where pixels and ids go.
    """

    model: Encoders
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[Sequence[str]], Tensor]
    device: str = "cpu"

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "n embed_dim"]:
        """Return unit-length embeddings of captions."""
        chunks = [texts[i : i + BATCH_SIZE] for i in range(0, len(texts), BATCH_SIZE)]
        ids = (self.tokenizer(chunk).to(self.device) for chunk in chunks)
        return torch.cat([self.model.encode_text(batch, normalize=True).cpu() for batch in ids])

    @torch.inference_mode()
    def embed_images(self, images: Sequence[Image.Image]) -> Float[Tensor, "n embed_dim"]:
        """Return unit-length embeddings of pictures."""
        return self.embed_pixels([self.preprocess(image) for image in images])

    @torch.inference_mode()
    def embed_pixels(self, pixels: Sequence[Tensor]) -> Float[Tensor, "n embed_dim"]:
        """Return unit-length embeddings of pictures that `preprocess` has already turned into pixels [3, h, w]."""
        return self.model.encode_image(torch.stack(list(pixels)).to(self.device), normalize=True).cpu()

    def embed_files(self, paths: Sequence[str | Path]) -> Iterator[Float[Tensor, "n embed_dim"]]:
        """Yield unit-length embeddings of picture files, one batch after the other.

        Raises:
            InputError: A file cannot be read; the message names it.
        """
        for start in range(0, len(paths), BATCH_SIZE):
            yield self.embed_images([load_image(path) for path in paths[start : start + BATCH_SIZE]])

    def label_weights(
        self, labels: Sequence[str], templates: Sequence[str] = TEMPLATES
    ) -> Float[Tensor, "n embed_dim"]:
        """Return one unit-length embedding per label: the mean over prompt templates (Radford et al. 2021).

        Args:
            labels: Names of the classes, without duplicates.
            templates: Prompts with `{}` where the label goes.

        Raises:
            InputError: No labels, an empty or a repeated one, or a template without `{}`.
        """
        check_prompts(labels, templates)
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        embeddings = self.embed_texts(prompts).view(len(labels), len(templates), -1)
        return F.normalize(embeddings.mean(1), dim=-1)

    def probabilities(self, images: Tensor, label_weights: Tensor) -> Float[Tensor, "images labels"]:
        """Return the softmax over labels of the scaled cosine similarities.

        Args:
            images: Unit-length embeddings [images, embed_dim].
            label_weights: What `label_weights` returned.
        """
        scale = self.model.scale().detach().cpu()
        return (scale * images @ label_weights.T).softmax(dim=-1)


def classify(
    pipeline: Pipeline,
    paths: Sequence[str | Path],
    labels: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
) -> Iterator[tuple[str, list[tuple[str, float]]]]:
    """Classify picture files zero-shot.

    Args:
        pipeline: Model, preprocessing and tokenizer.
        paths: Picture files.
        labels: Names of the classes.
        templates: Prompts with `{}` where the label goes.

    Yields:
        For each file its path and (label, probability) pairs, the most probable first.

    Raises:
        InputError: See `Pipeline.label_weights` and `load_image`.
    """
    weights = pipeline.label_weights(labels, templates)
    names = iter(paths)
    for embeddings in pipeline.embed_files(paths):
        for row in pipeline.probabilities(embeddings, weights).tolist():
            ranked = sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])
            yield str(next(names)), ranked


def check_prompts(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Refuse labels and templates that cannot make prompts.

    Raises:
        InputError: No labels, an empty or a repeated one, or a template without `{}`.
    """
    if not labels or not all(label.strip() for label in labels):
        raise InputError("`labels` is empty or has an empty entry; give at least one name, as in --labels cat,dog.")
    if len(set(labels)) != len(labels):
        twice = max(labels, key=list(labels).count)
        raise InputError(f"`labels` names {twice!r} more than once; name each class once.")
    for template in templates:
        if "{}" not in template:
            raise InputError(f"template {template!r} has no {{}} where the label goes.")
