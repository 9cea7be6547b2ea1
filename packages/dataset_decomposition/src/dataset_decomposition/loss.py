"""The training loss: next-token cross-entropy, with the authors' penalty on the partition function."""

from __future__ import annotations

import torch
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
    kept = targets != IGNORED_LABEL
    # Both terms need log Z, so it is computed once; cross-entropy is log Z minus the target's logit.
    partition = torch.logsumexp(flat, dim=-1)
    target = flat.gather(1, targets.clamp(min=0)[:, None]).squeeze(1)
    entropy = ((partition - target) * kept).sum()
    return entropy + z_loss * (partition.square() * kept).sum(), entropy.detach()
