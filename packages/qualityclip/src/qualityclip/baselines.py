"""What caption pretraining is held against: masked autoencoding and supervision, and the compute of each in MACs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qualityclip.config import CLIPConfig, VisionConfig
from qualityclip.model import Block, VisionTransformer

MASKED = 0.75  # share of patches that are hidden (He et al. 2022)


class MAE(nn.Module):
    """A masked autoencoder on the same ViT (He et al. 2022): a quarter of the patches go in, all pixels come out.

    Args:
        config: Of the ViT, which keeps CLIP's class token and projection; the latter is not trained.
        decoder_width: Channels of the decoder.
        decoder_layers: Its blocks.
    """

    def __init__(self, config: VisionConfig, *, decoder_width: int = 32, decoder_layers: int = 1) -> None:
        super().__init__()
        if config.timm_name:
            raise ValueError("a masked autoencoder hides patches of a ViT; an image tower of timm has none.")
        self.visual = VisionTransformer(config, 1, nn.GELU)
        self.into = nn.Linear(config.width, decoder_width)
        self.mask_token = nn.Parameter(torch.zeros(decoder_width))
        self.positions = nn.Parameter(0.02 * torch.randn(config.grid**2, decoder_width))
        blocks = (Block(decoder_width, max(1, decoder_width // 16), nn.GELU) for _ in range(decoder_layers))
        self.decoder = nn.Sequential(*blocks, nn.LayerNorm(decoder_width))
        self.out = nn.Linear(decoder_width, 3 * config.patch_size**2)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the mean squared error over hidden patches, each patch's pixels normalised.

        Args:
            images: [batch, 3, side, side].
            noise: [batch, patches]; the patches with the smallest numbers are seen. Random where not given.
        """
        patches = F.pixel_unshuffle(images, self.visual.config.patch_size).flatten(2).transpose(1, 2)
        noise = torch.rand(patches.shape[:2], device=images.device) if noise is None else noise
        order = noise.argsort(1)
        kept = order[:, : num_seen(patches.shape[1])]
        tokens = self.visual.embed(images)
        width = tokens.shape[-1]
        seen = tokens[:, 1:].gather(1, kept[..., None].expand(-1, -1, width))
        encoded = self.visual.ln_post(self.visual.transformer(torch.cat([tokens[:, :1], seen], dim=1)))
        canvas = self.mask_token.expand(*patches.shape[:2], -1)
        shown = self.into(encoded[:, 1:])
        canvas = canvas.scatter(1, kept[..., None].expand(-1, -1, shown.shape[-1]), shown)
        found = self.out(self.decoder(canvas + self.positions))
        truth = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        error = ((found - truth) ** 2).mean(-1)
        hidden = torch.ones_like(noise).scatter(1, kept, 0.0)
        return (error * hidden).sum() / hidden.sum()


class Supervised(nn.Module):
    """The same image tower with one output for each label: which of them a picture shows.

    Args:
        tower: Image tower; its projection gives the labels.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.visual = tower

    def forward(self, images: Tensor, present: Tensor) -> Tensor:
        """Return the mean binary cross-entropy; `present` [batch, labels] is 0 or 1."""
        return F.binary_cross_entropy_with_logits(self.visual(images), present)


def num_seen(num_patches: int) -> int:
    """Return how many patches a masked autoencoder sees."""
    return max(1, round(num_patches * (1 - MASKED)))


def transformer_macs(tokens: int, width: int, num_layers: int) -> int:
    """Return multiply-accumulates of one forward pass of blocks over some tokens: 12 t w^2 + 2 t^2 w a layer."""
    return num_layers * (12 * tokens * width**2 + 2 * tokens**2 * width)


def clip_macs(config: CLIPConfig, text_tokens: int) -> int:
    """Return multiply-accumulates of one pair in CLIP's forward pass (ViT towers); a training step costs three.

    Args:
        config: Both towers.
        text_tokens: Tokens a text has, start and end among them.
    """
    text = transformer_macs(text_tokens, config.text.width, config.text.num_layers)
    return vision_macs(config.vision) + text + config.embed_dim * (config.vision.width + config.text.width)


def vision_macs(config: VisionConfig) -> int:
    """Return multiply-accumulates of one picture in the forward pass of a ViT."""
    patches = config.grid**2
    embedding = patches * 3 * config.patch_size**2 * config.width
    return embedding + transformer_macs(patches + 1, config.width, config.num_layers)


def mae_macs(config: VisionConfig, *, decoder_width: int = 32, decoder_layers: int = 1) -> int:
    """Return multiply-accumulates of one picture in a masked autoencoder's forward pass.

    All patches are embedded before most are hidden, as here.
    """
    patches, pixels = config.grid**2, 3 * config.patch_size**2
    encoder = patches * pixels * config.width
    encoder += transformer_macs(num_seen(patches) + 1, config.width, config.num_layers)
    decoder = transformer_macs(patches, decoder_width, decoder_layers) + patches * pixels * decoder_width
    return encoder + decoder + num_seen(patches) * config.width * decoder_width
