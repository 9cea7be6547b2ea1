"""The objectives' equations, as sums and counts so that several processes give the mean of one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOG_SCALE = 4.605  # exp gives 100, as in CLIP


def reconstruction_sums(
    predicted: Mapping[str, Tensor], targets: Mapping[str, Tensor], asked: Tensor, present: Mapping[str, Tensor]
) -> tuple[Float[Tensor, " modalities"], Float[Tensor, " modalities"]]:
    """Return each modality's summed squared error over what is asked for, and the number of patches in the sum.

    The error of a patch of one channel is the mean over its targets: samples and log spectrum have one half each.

    Args:
        predicted: Modality -> [B, C, N, targets].
        targets: The same shapes.
        asked: Tokens in the loss [B, M, N], modalities in the order of `predicted`.
        present: Modality -> which channels are there [B, C, N]; absent ones are no target.

    Returns:
        Sums and counts [M].
    """
    sums, counts = [], []
    for place, (name, guess) in enumerate(predicted.items()):
        weight = (asked[:, place, None] & present[name]).to(torch.float32)
        error = (guess.float() - targets[name]).square()
        samples = (2 * error.shape[-1] - 1) // 3  # p of p + p // 2 + 1
        halves = 0.5 * (error[..., :samples].mean(-1) + error[..., samples:].mean(-1))
        sums.append((halves * weight).sum())
        counts.append(weight.sum())
    return torch.stack(sums), torch.stack(counts)


def mean_over_modalities(sums: Tensor, counts: Tensor) -> Tensor:
    """Return the mean over modalities of sum / count; those without a count are left out."""
    there = counts > 0
    return (sums / counts.clamp(min=1) * there).sum() / there.sum().clamp(min=1)


def info_nce(
    queries: Float[Tensor, "rows dim"],
    keys: Float[Tensor, "keys dim"],
    right: Tensor,
    scale: Tensor,
    there: Bool[Tensor, " keys"],
) -> Tensor:
    """Return -log softmax of each query's own key among all keys [rows].

    Args:
        queries: Unit vectors.
        keys: Unit vectors, of all processes.
        right: Each query's own key [rows].
        scale: Inverse temperature.
        there: Keys that exist; others are no candidates.
    """
    logits = scale * queries @ keys.T
    return F.cross_entropy(logits.masked_fill(~there, -torch.inf), right, reduction="none")


def contrast_pairs(num: int, kind: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return which modalities are compared: (one, other) pairwise, or (one, all the others) leaving one out."""
    if kind == "leave_one_out":
        return [((one,), tuple(other for other in range(num) if other != one)) for one in range(num)]
    return [((one,), (other,)) for one in range(num) for other in range(one + 1, num)]


def contrastive_sums(
    local: Tensor, gathered: tuple[Tensor, Tensor, int], there: Tensor, log_scale: Tensor, kind: str
) -> tuple[Tensor, Tensor]:
    """Return the summed InfoNCE of both directions for each comparison, and counts (SleepFM's two modes).

    Args:
        local: Embeddings of this process [B, M, D].
        gathered: Embeddings and presence of all processes, and where the local rows begin in them.
        there: Which modalities the local windows have [B, M].
        log_scale: Logarithm of the inverse temperature, between 0 and log 100.
        kind: "pairwise" or "leave_one_out"; with two modalities both are the same.

    Returns:
        Sums and counts, one for each comparison and direction.
    """
    everyone, everywhere, start = gathered
    scale = log_scale.clamp(0, MAX_LOG_SCALE).exp()
    right = torch.arange(start, start + len(local), device=local.device)
    sums, counts = [], []
    for one, others in contrast_pairs(local.shape[1], kind):
        for left, other in ((one, others), (others, one)):
            queries, has_query = _mean_of(local, there, left)
            keys, has_key = _mean_of(everyone, everywhere, other)
            both = has_query & has_key[right]
            # Rows without a key of their own are not counted; they get another's, so that no gradient is infinite.
            own = torch.where(has_key[right], right, has_key.int().argmax())
            losses = info_nce(queries, keys, own, scale, has_key | ~has_key.any())
            sums.append(torch.where(both, losses, 0.0).sum())
            counts.append(both.sum().to(torch.float32))
    return torch.stack(sums), torch.stack(counts)


def _mean_of(values: Tensor, there: Tensor, places: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean unit vector of some modalities, over those that a window has, and whether it has any."""
    picked, has = F.normalize(values[:, places].float(), dim=-1), there[:, places]
    return F.normalize((picked * has[..., None]).sum(1), dim=-1), has.any(1)
