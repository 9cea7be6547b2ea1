"""The compatibility loss of MUSCLE (section 4, Eq. 4 to 6) and the masks of its ablation (Table 7)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch
from jaxtyping import Bool, Float, Int
from tenfold_shared.commands import unknown_name
from torch import Tensor
from torch.autograd.function import once_differentiable

from muscle.config import MaskName

IGNORED = -100
TEMPERATURE = 2.0
MASKS: tuple[str, ...] = get_args(MaskName)
# Takes student, old and new logits [..., tokens, vocabulary] and labels [..., tokens], all aligned; returns where the
# student follows the old model (true) and where the new one.
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def follow_old(
    mask: MaskName | Mask,
    student_logits: Float[Tensor, "*batch tokens vocab"],
    old_logits: Float[Tensor, "*batch tokens vocab"],
    new_logits: Float[Tensor, "*batch tokens vocab"],
    labels: Int[Tensor, "*batch tokens"],
) -> Bool[Tensor, "*batch tokens"]:
    """Return m_i: the tokens on which the student is drawn to the old model; no gradient flows through it.

    - `muscle`: where the student, with its weights of now, is wrong (Eq. 4).
    - `old_correct`: where the old model is right. `all_old`: everywhere. `all_new`: nowhere.
    - `ll_token`: where the student gives the right token less probability than the old model does.
    - `ll_sequence`: the same for whole sequences, the last axis but the vocabulary. The paper adds cross-entropy to
      these two.

    Args:
        mask: A name, or a function of the other four arguments.
        student_logits: Of the model in training.
        old_logits: Of the old task model.
        new_logits: Of the new task model.
        labels: Right tokens, -100 where there is none.
    """
    student = student_logits.detach()
    if callable(mask):
        return mask(student, old_logits, new_logits, labels).bool()
    if mask == "muscle":
        return student.argmax(-1) != labels
    if mask == "old_correct":
        return old_logits.argmax(-1) == labels
    if mask in ("all_old", "all_new"):
        return torch.full_like(labels, mask == "all_old", dtype=torch.bool)
    if mask not in MASKS:
        raise unknown_name("mask", mask, MASKS)
    gap = _log_likelihood(student, labels) - _log_likelihood(old_logits, labels)
    return gap < 0 if mask == "ll_token" else (gap.sum(-1, keepdim=True) < 0).expand_as(labels)


def _log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each right token; 0 where there is none."""
    picked = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(-1)
    return picked.masked_fill(labels == IGNORED, 0.0)


def token_losses(
    student_logits: Float[Tensor, "*batch tokens vocab"],
    old_logits: Float[Tensor, "*batch tokens vocab"],
    new_logits: Float[Tensor, "*batch tokens vocab"],
    labels: Int[Tensor, "*batch tokens"],
    temperature: float = TEMPERATURE,
    mask: MaskName | Mask = "muscle",
) -> Float[Tensor, "*batch tokens"]:
    """Return each token's part of L_comp, 0 where the label is -100; see `compatibility_loss`."""
    old = follow_old(mask, student_logits, old_logits, new_logits, labels)
    teacher = torch.where(old[..., None], old_logits, new_logits)  # one divergence instead of two
    soft = (teacher.detach() / temperature).log_softmax(-1)
    return divergence(soft, student_logits, temperature).masked_fill(labels == IGNORED, 0.0)


def divergence(
    teacher: Float[Tensor, "*batch vocab"], student_logits: Float[Tensor, "*batch vocab"], temperature: float
) -> Float[Tensor, "*batch"]:
    """Return KL(teacher || student) of the softened distributions, in nats; the teacher is not differentiated.

    Args:
        teacher: Log-probabilities at this temperature.
        student_logits: Before division by the temperature.
        temperature: T.
    """
    return _Divergence.apply(teacher.detach(), student_logits, temperature)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Sum of products over the last axis, without the products in memory."""
    size = a.shape[-1]
    return torch.bmm(a.reshape(-1, 1, size), b.reshape(-1, size, 1)).view(a.shape[:-1])


class _Divergence(torch.autograd.Function):
    """The gradient with respect to the student's logits is (student - teacher) / T: one pass instead of six."""

    @staticmethod
    def forward(ctx: Any, teacher: Tensor, logits: Tensor, temperature: float) -> Tensor:
        student = (logits / temperature).log_softmax(-1)
        probabilities = teacher.exp()
        ctx.temperature = temperature
        found = _dot(probabilities, teacher) - _dot(probabilities, student)
        ctx.save_for_backward(student.exp_().sub_(probabilities))
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:  # type: ignore[override]
        (difference,) = ctx.saved_tensors
        return None, difference * (gradient[..., None] / ctx.temperature), None


def compatibility_loss(
    student_logits: Float[Tensor, "*batch tokens vocab"],
    old_logits: Float[Tensor, "*batch tokens vocab"],
    new_logits: Float[Tensor, "*batch tokens vocab"],
    labels: Int[Tensor, "*batch tokens"],
    temperature: float = TEMPERATURE,
    mask: MaskName | Mask = "muscle",
) -> Float[Tensor, ""]:
    """Return L_comp: follow the old model where the student is wrong, the new one where it is right (Eq. 6).

    With a_old = KL(softmax(old / T) || softmax(student / T)), a_new alike and m from `follow_old`, it is the mean of
    `m a_old + (1 - m) a_new` over all tokens with a label. As in the paper there is no factor T^2. The masks of other
    names are those of Table 7.

    Args:
        student_logits: Of the model in training; aligned with `labels`, so already shifted.
        old_logits: Of the old task model, frozen.
        new_logits: Of the new task model, frozen.
        labels: Right tokens; -100 is ignored.
        temperature: T, above 0; 2 in the paper.
        mask: Which tokens follow the old model.

    Returns:
        A scalar in nats; 0 where no token has a label.

    Raises:
        ValueError: Vocabularies that differ, a temperature that is not above 0, or an unknown mask.

    Example:
        >>> logits = torch.tensor([[[2.0, 0.0]]])
        >>> float(compatibility_loss(logits, -logits, logits, torch.tensor([[0]])))
        0.0
    """
    sizes = [logits.shape[-1] for logits in (student_logits, old_logits, new_logits)]
    if len(set(sizes)) > 1:
        raise ValueError(f"vocabularies differ: student {sizes[0]}, old {sizes[1]}, new {sizes[2]} tokens.")
    if not temperature > 0:
        raise ValueError(f"`temperature` (={temperature}) must be above 0; the paper takes 2.")
    losses = token_losses(student_logits, old_logits, new_logits, labels, temperature, mask)
    return losses.sum() / (labels != IGNORED).sum().clamp(min=1)
