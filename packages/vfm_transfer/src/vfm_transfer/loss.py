"""What the student matches of the teacher, one equation each; means over the batch, gradients to the student only."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["contrastive", "cosine", "match_patches", "match_pixels", "match_predictions", "mse"]


def match_predictions(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    The task-oriented loss for classification (Fig. 2b): the student learns the teacher's class probabilities. The
    factor T^2 keeps the gradient's size over temperatures; the paper's own temperature is not known.

    Args:
        student: Logits [batch, classes].
        teacher: Logits [batch, classes].
        temperature: T, above 0.

    Returns:
        A scalar in nats.

    Raises:
        ValueError: Numbers of classes that differ.

    Example:
        >>> float(match_predictions(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]])))
        0.0
    """
    if student.shape[1] != teacher.shape[1]:
        raise ValueError(f"student has {student.shape[1]} classes, teacher {teacher.shape[1]}; they must be the same.")
    log_p = F.log_softmax(teacher.detach().float() / temperature, dim=1)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1).mean()


def match_pixels(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return `match_predictions` for every pixel, the mean over pixels and batch.

    The task-oriented loss for segmentation. Where the maps differ in size, the teacher's logits are brought to the
    student's size (bilinear), so that the student is not taught between its own cells.

    Args:
        student: Logits [batch, classes, height, width].
        teacher: Logits [batch, classes, height', width'].
        temperature: T, above 0.

    Returns:
        A scalar in nats a pixel.
    """
    teacher = resize_map(teacher, student)
    return match_predictions(student.transpose(1, 3).flatten(0, 2), teacher.transpose(1, 3).flatten(0, 2), temperature)


def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cos(student, teacher), the mean over the batch.

    Args:
        student: Projected features [batch, dim].
        teacher: Features [batch, dim].

    Returns:
        A scalar from 0 to 2.
    """
    return (1 - F.cosine_similarity(student, teacher.detach(), dim=1)).mean()


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the squared difference, the mean over batch and dimensions.

    Args:
        student: Projected features [batch, dim].
        teacher: Features [batch, dim].

    Returns:
        A scalar.
    """
    return F.mse_loss(student, teacher.detach())


def contrastive(student: Tensor, teacher: Tensor, temperature: float = 0.07) -> Tensor:
    """Return InfoNCE: each student feature must pick its own image's teacher feature among the batch's.

    Cosine similarities over the temperature are logits of a batch-sized classification, from student to teacher only,
    since the teacher does not move.

    Args:
        student: Projected features [batch, dim].
        teacher: Features [batch, dim].
        temperature: Above 0.

    Returns:
        A scalar in nats; log(batch) where nothing is learnt.
    """
    logits = F.normalize(student, dim=1) @ F.normalize(teacher.detach(), dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def match_patches(student: Tensor, teacher: Tensor) -> Tensor:
    """Return 1 - cos for every patch, after the student's map was brought to the teacher's size (bilinear).

    Args:
        student: Projected features [batch, dim, height, width].
        teacher: Features [batch, dim, height', width'].

    Returns:
        A scalar from 0 to 2, the mean over patches and batch.
    """
    return (1 - F.cosine_similarity(resize_map(student, teacher), teacher.detach(), dim=1)).mean()


def resize_map(features: Tensor, like: Tensor) -> Tensor:
    """Bring a map [batch, dim, height, width] to another's height and width."""
    if features.shape[-2:] == like.shape[-2:]:
        return features
    return F.interpolate(features, size=like.shape[-2:], mode="bilinear", align_corners=False)
