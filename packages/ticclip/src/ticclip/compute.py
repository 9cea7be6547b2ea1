"""What training costs: multiply-accumulates of a model, and the bill of a run."""

from __future__ import annotations

from ticclip.config import CLIPConfig

# A teacher's forward pass beside forward and backward (twice the forward) of the student.
TEACHER_SHARE = 1 / 3


def macs(config: CLIPConfig) -> int:
    """Count the multiply-accumulates of one forward pass over one image and one caption.

    The paper counts a run as samples seen times this number, without the backward pass (ViT-B/16: 20.6 G). Matrix
    products only: norms, activations and the softmax are left out. Attention is counted in full, also where
    a causal mask hides half of it.

    Args:
        config: The two towers.

    Returns:
        Multiply-accumulates per image-text pair.

    Example:
        >>> from ticclip.config import PRESETS
        >>> round(macs(PRESETS["vit_b_16"]) / 1e9, 1)
        20.5
    """
    vision, text = config.vision, config.text
    image = (vision.num_tokens - 1) * 3 * vision.patch_size**2 * vision.dim
    image += _transformer(vision.num_tokens, vision.dim, vision.num_layers, vision.mlp_ratio)
    caption = _transformer(text.context_length, text.dim, text.num_layers, text.mlp_ratio)
    return image + caption + (vision.dim + text.dim) * config.embed_dim


def _transformer(length: int, dim: int, num_layers: int, mlp_ratio: int) -> int:
    projections = (4 + 2 * mlp_ratio) * length * dim * dim
    attention = 2 * length * length * dim
    return num_layers * (projections + attention)
