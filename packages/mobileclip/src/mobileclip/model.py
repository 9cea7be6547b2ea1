"""MobileCLIP: an image encoder and a text encoder with a common embedding space."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobileclip.blocks import GELU, ConvFFN
from mobileclip.config import MobileCLIPConfig
from mobileclip.fusion import ModuleT, reparameterize
from mobileclip.image_encoder import ImageEncoder
from mobileclip.text_encoder import TextEncoder

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = 100.0


class MobileCLIP(nn.Module):
    """Image and text encoders and the learned temperature, in train form until re-parameterized.

    Source: Sec. 3; parameter names and numbers equal the authors' `CLIP` class.

    Args:
        config: What to build; see `mobileclip.PRESETS`.

    Example:
        >>> import torch, mobileclip
        >>> model = mobileclip.MobileCLIP(mobileclip.PRESETS["mobileclip_s0"]).eval()
        >>> model.encode_image(torch.rand(2, 3, 256, 256)).shape
        torch.Size([2, 512])
    """

    def __init__(self, config: MobileCLIPConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ImageEncoder(config.image, config.embed_dim)
        self.text_encoder = TextEncoder(config.text, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_LOGIT_SCALE))
        self.apply(_init_weights)

    def encode_image(
        self, image: Float[Tensor, "batch 3 h w"], normalize: bool = False
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed pixels in [0, 1] (no mean or standard deviation is subtracted).

        Args:
            image: RGB pixels, float, at any height and width the encoder's stride divides.
            normalize: Whether embeddings get unit length.

        Returns:
            One embedding per image.
        """
        features = self.image_encoder(image)
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(
        self, text: Int[Tensor, "batch length"], normalize: bool = False
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed token ids (end token 49407, zero padding).

        Args:
            text: What the tokenizer of `get_tokenizer` returns.
            normalize: Whether embeddings get unit length.

        Returns:
            One embedding per caption.
        """
        features = self.text_encoder(text)
        return F.normalize(features, dim=-1) if normalize else features

    def scale(self) -> Float[Tensor, ""]:
        """Return the factor between cosines and logits, at most 100."""
        return self.logit_scale.exp().clamp(max=MAX_LOGIT_SCALE)

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """Return unit-length image embeddings, unit-length text embeddings and the logit scale.

        Args:
            image: Pixels [batch, 3, h, w] in [0, 1], or None.
            text: Token ids [batch, length], or None.
        """
        image_features = None if image is None else self.encode_image(image, normalize=True)
        text_features = None if text is None else self.encode_text(text, normalize=True)
        return image_features, text_features, self.scale()


def optimize_for_inference(model: ModuleT) -> ModuleT:
    """Return a copy of `model` in its fastest eager form.

    Beyond `reparameterize`, the batch normalisation of every ConvFFN is folded into its convolution, activations
    overwrite their input where no gradient is wanted, and weights are stored channels-last. Outputs agree within
    about 1e-6 relative; the state dict no longer has the official keys, so save the model before this call.

    Args:
        model: A MobileCLIP, an encoder or any module made of `mobileclip.blocks`.

    Returns:
        A copy in evaluation mode.
    """
    fast = reparameterize(model).eval()
    for module in fast.modules():
        if isinstance(module, ConvFFN):
            module.fold_batch_norm()
        elif isinstance(module, GELU):
            module.in_place = True
    return fast.to(memory_format=torch.channels_last)


def _init_weights(module: nn.Module) -> None:
    """Truncated normal of 0.02 for linear maps, convolutions and embeddings, zero biases."""
    if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)
