"""The two contrastive losses, one equation each; rows of other processes are columns only."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Gathered(NamedTuple):
    """This process's rows, everybody's rows, and where this process's begin among them."""

    local: Tensor
    everybody: Tensor
    start: int = 0

    @classmethod
    def alone(cls, rows: Tensor) -> Gathered:
        """Rows of a process that has no others."""
        return cls(rows, rows)


def clip_loss(
    image: Float[Tensor, "rows dim"] | Gathered, text: Float[Tensor, "rows dim"] | Gathered, scale: Tensor
) -> Tensor:
    """Return the symmetric softmax loss of CLIP (Radford et al. 2021, figure 3).

    mean_i [ CE(s x_i Y^T, i) + CE(s y_i X^T, i) ] / 2 with unit rows x of pictures and y of texts.

    Args:
        image: Unit-length features, pair by pair; or gathered ones.
        text: The same of the texts.
        scale: Inverse temperature s.

    Returns:
        A scalar: the mean over this process's rows.

    Example:
        >>> float(clip_loss(torch.eye(2), torch.eye(2), torch.tensor(0.0)))
        0.6931471824645996
    """
    images, texts = _gathered(image), _gathered(text)
    targets = torch.arange(len(images.local), device=images.local.device) + images.start
    to_text = F.cross_entropy(scale * images.local @ texts.everybody.T, targets)
    return (to_text + F.cross_entropy(scale * texts.local @ images.everybody.T, targets)) / 2


def siglip_loss(
    image: Float[Tensor, "rows dim"] | Gathered,
    text: Float[Tensor, "rows dim"] | Gathered,
    scale: Tensor,
    bias: Tensor,
) -> Tensor:
    """Return the pairwise sigmoid loss (Zhai et al. 2023, equation 1).

    - 1/n sum_ij log sigmoid(z_ij (s x_i . y_j + b)), z = 1 for i = j and -1 else.

    Args:
        image: Unit-length features, pair by pair; or gathered ones.
        text: The same of the texts.
        scale: s.
        bias: b.

    Returns:
        A scalar: the sum over columns, averaged over this process's rows.
    """
    images, texts = _gathered(image), _gathered(text)
    logits = scale * images.local @ texts.everybody.T + bias
    signs = torch.full_like(logits, -1.0)
    rows = torch.arange(len(logits), device=logits.device)
    signs[rows, rows + images.start] = 1.0
    return -F.logsigmoid(signs * logits).sum() / len(logits)


def _gathered(rows: Tensor | Gathered) -> Gathered:
    return rows if isinstance(rows, Gathered) else Gathered.alone(rows)
