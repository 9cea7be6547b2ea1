"""The losses of multi-modal reinforced training as pure functions (Sec. 4.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Teachers were trained to logits of 100 times the cosine (1 over CLIP's lowest temperature).
TEACHER_SCALE = 100.0


@dataclass(frozen=True)
class Gathered:
    """This process's rows and the rows of all processes they are compared with.

    With one process both are the same. With several, each computes the loss of its own rows ("local loss") against
    everybody's columns; the mean of the local losses is the loss of the whole batch.

    Args:
        local: Unit-length embeddings [rows, dim] of this process.
        all: Unit-length embeddings [columns, dim] of all processes, in the order of their ranks.
        offset: Column of `all` that holds row 0 of `local`.
    """

    local: Tensor
    all: Tensor
    offset: int = 0

    @classmethod
    def alone(cls, features: Tensor) -> Gathered:
        """Wrap the features of a single process."""
        return cls(features, features)


def clip_loss(image: Gathered, text: Gathered, scale: Tensor) -> Float[Tensor, ""]:
    """Return the symmetric contrastive loss of CLIP.

    Source: Sec. 4.2, L_CLIP: the mean over both directions of the cross-entropy that finds each row's partner.

    Args:
        image: Image embeddings, unit length.
        text: Text embeddings, unit length, rows in the order of the images.
        scale: Factor between cosines and logits, the inverse of the paper's tau-hat.

    Example:
        >>> same = Gathered.alone(torch.eye(3))
        >>> round(clip_loss(same, same, torch.tensor(10.0)).item(), 6)
        9.1e-05
    """
    labels = image.offset + torch.arange(len(image.local), device=image.local.device)
    to_text = F.cross_entropy(scale * image.local @ text.all.T, labels)
    to_image = F.cross_entropy(scale * text.local @ image.all.T, labels)
    return (to_text + to_image) / 2


def distillation_loss(
    image: Gathered,
    text: Gathered,
    scale: Tensor,
    teacher: tuple[Gathered, Gathered],
    teacher_dims: Sequence[int],
    *,
    teacher_scale: float = TEACHER_SCALE,
) -> Float[Tensor, ""]:
    """Return the cross-entropy between the teachers' similarities and the student's, both directions averaged.

    Source: Sec. 4.2, L_Distill. The target of a row is the mean over ensemble members of
    softmax(teacher_scale * A_k B_k^T): averaged after the softmax. The paper writes a Kullback-Leibler divergence,
    which differs by the target's entropy, a constant; the authors' code and this function leave it out.

    Args:
        image: Student's image embeddings, unit length.
        text: Student's text embeddings, unit length.
        scale: Student's factor between cosines and logits.
        teacher: Image and text embeddings of the ensemble: members side by side, each of unit length.
        teacher_dims: Width of each member; they sum to the teachers' width.
        teacher_scale: Inverse of the paper's tau_k.
    """
    teacher_image, teacher_text = teacher
    to_text = _teacher_target(teacher_image.local, teacher_text.all, teacher_dims, teacher_scale)
    to_image = _teacher_target(teacher_text.local, teacher_image.all, teacher_dims, teacher_scale)
    first = F.cross_entropy(scale * image.local @ text.all.T, to_text)
    second = F.cross_entropy(scale * text.local @ image.all.T, to_image)
    return (first + second) / 2


@dataclass(frozen=True)
class Captions:
    """One kind of caption (real or synthetic) of a batch: the student's embeddings and the teachers'.

    Args:
        student: Text embeddings of the student, unit length.
        teacher: Text embeddings of the ensemble, or None where nothing is distilled.
    """

    student: Gathered
    teacher: Gathered | None = None


def dr_loss(
    image: Gathered,
    captions: Sequence[Captions],
    scale: Tensor,
    *,
    teacher_image: Gathered | None = None,
    teacher_dims: Sequence[int] = (),
    distill_weight: float = 1.0,
) -> dict[str, Tensor]:
    """Return the loss of reinforced training: a sum over real and synthetic captions.

    Source: Sec. 4.2, sum over captions of (1 - lambda) L_CLIP + lambda L_Distill. Parts whose weight is 0 are 0 and
    are not computed.

    Args:
        image: Student's image embeddings, unit length.
        captions: Real captions, then synthetic ones where there are any.
        scale: Student's factor between cosines and logits.
        teacher_image: The ensemble's image embeddings under the augmentation that the student saw.
        teacher_dims: Width of each member.
        distill_weight: The paper's lambda, from 0 (plain CLIP) to 1.

    Returns:
        `contrastive` and `distill`, each weighted, and their sum `loss`.

    Raises:
        ValueError: Something is to be distilled and teacher embeddings are missing.
    """
    contrastive = distill = torch.zeros((), device=image.local.device)
    for kind in captions:
        if distill_weight < 1:
            contrastive = contrastive + (1 - distill_weight) * clip_loss(image, kind.student, scale)
        if distill_weight > 0:
            if teacher_image is None or kind.teacher is None:
                raise ValueError(f"`distill_weight` (={distill_weight}) needs teacher embeddings; use reinforced data.")
            pair = (teacher_image, kind.teacher)
            distill = distill + distill_weight * distillation_loss(image, kind.student, scale, pair, teacher_dims)
    return {"contrastive": contrastive, "distill": distill, "loss": contrastive + distill}


def _teacher_target(rows: Tensor, columns: Tensor, dims: Sequence[int], scale: float) -> Float[Tensor, "rows columns"]:
    """Return the mean over ensemble members of their softmax over columns."""
    if sum(dims) != rows.shape[1]:
        raise ValueError(f"`teacher_dims` {tuple(dims)} sum to {sum(dims)}, the embeddings are {rows.shape[1]} wide.")
    pairs = zip(rows.split(tuple(dims), dim=1), columns.split(tuple(dims), dim=1), strict=True)
    members = [(scale * a @ b.T).softmax(dim=1) for a, b in pairs]
    return torch.stack(members).mean(0)
