"""The drop-in interface: code written for the authors' package runs unchanged."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from tenfold_shared.commands import unknown_name
from tenfold_shared.tokenizers import ClipTokenizer
from torch import Tensor

from mobileclip.checkpoint import load_named
from mobileclip.config import PRESETS
from mobileclip.fusion import reparameterize as fuse
from mobileclip.model import MobileCLIP
from mobileclip.preprocess import Preprocess

logger = logging.getLogger(__name__)


def create_model_and_transforms(
    model_name: str,
    pretrained: str | Path | None = None,
    reparameterize: bool = True,
    device: str | torch.device = "cpu",
) -> tuple[MobileCLIP, None, Preprocess]:
    """Build a model by name, load its weights, and return it with its preprocessing.

    Same call and same return as the authors' function. Unlike theirs it detects the form of the weights (train or
    fused, official or open_clip names), never unpickles code, and keeps fused weights trainable.

    Args:
        model_name: A key of `PRESETS`, such as "mobileclip_s2".
        pretrained: An official `.pt` file, a state dict saved by open_clip, a folder of `save_pretrained`, or
            "hf-hub:owner/name". None leaves the weights random (and says so).
        reparameterize: Whether to fuse parallel branches: the same function, faster.
        device: Where the model goes.

    Returns:
        The model in evaluation mode, None (the authors' slot for a training transform), and the preprocessing.

    Raises:
        ValueError: There is no model of that name.
        FileNotFoundError: Nothing is at `pretrained`.
        tenfold_shared.commands.InputError: The weights are damaged or of another variant.

    Example:
        >>> model, _, preprocess = create_model_and_transforms("mobileclip_s0")
        >>> preprocess
        Preprocess(image_size=256)
    """
    model_name = _check_name(model_name)
    model = load_named(model_name, pretrained).eval()
    if pretrained is None:
        logger.warning("%s has random weights: what it answers means nothing; give `pretrained`.", model_name)
    if reparameterize:
        model = fuse(model)
    return model.to(device), None, Preprocess(model.config.image.image_size)


class Tokenizer:
    """Captions to token ids [n, 77] as a torch tensor.

    Args:
        context_length: Tokens per row, padding included.
    """

    def __init__(self, context_length: int = 77) -> None:
        self._tokenizer = ClipTokenizer(context_length)

    def __call__(self, texts: str | Sequence[str]) -> Int[Tensor, "n length"]:
        """Return int64 token ids: start 49406, end 49407, zero padding; long captions are cut before the end token.

        Args:
            texts: One caption or several.
        """
        return torch.from_numpy(self._tokenizer([texts] if isinstance(texts, str) else list(texts)))


def get_tokenizer(model_name: str) -> Tokenizer:
    """Return the tokenizer of a model (CLIP's byte-pair encoding for all of them).

    Args:
        model_name: A key of `PRESETS`.

    Returns:
        A callable from captions to token ids.

    Raises:
        ValueError: There is no model of that name.

    Example:
        >>> get_tokenizer("mobileclip_s0")(["a diagram"])[0, :5].tolist()
        [49406, 320, 22697, 49407, 0]
    """
    return Tokenizer(PRESETS[_check_name(model_name)].text.context_length)


def _check_name(name: str) -> str:
    if name not in PRESETS:
        raise unknown_name("model", name, list(PRESETS))
    return name
