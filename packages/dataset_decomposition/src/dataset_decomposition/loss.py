"""The training loss: next-token cross-entropy, with the authors' penalty on the partition function."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dataset_decomposition.config import IGNORED_LABEL


def next_token_loss(
    logits: Float[Tensor, "rows length vocab"], labels: Int[Tensor, "rows length"], z_loss: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Return the summed loss to minimise and the summed cross-entropy, both over targets.

    The first adds z_loss * log(Z)^2 per target, which keeps logits from drifting.

    Args:
        logits: Of the token after each position.
        labels: That token; -100 is left out.
        z_loss: Weight; the authors use 1e-4.
    """
    flat, targets = logits.flatten(0, 1).float(), labels.flatten()
    entropy = F.cross_entropy(flat, targets, ignore_index=IGNORED_LABEL, reduction="sum")
    if not z_loss:
        return entropy, entropy.detach()
    partition = torch.logsumexp(flat, dim=-1)[targets != IGNORED_LABEL]
    return entropy + z_loss * partition.square().sum(), entropy.detach()
