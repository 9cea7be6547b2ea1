"""Losses against hand calculations and naive loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from vfm_transfer import loss


def test_predictions_by_hand():
    """Teacher (3/4, 1/4), student (1/2, 1/2): KL = 3/4 ln(3/2) + 1/4 ln(1/2)."""
    teacher, student = torch.tensor([[math.log(3.0), 0.0]]), torch.zeros(1, 2)
    expected = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert loss.match_predictions(student, teacher).item() == pytest.approx(expected, abs=1e-6)
    # At T = 2 the teacher's odds are sqrt(3), and the loss is four times the KL.
    p = math.sqrt(3) / (1 + math.sqrt(3))
    expected = 4 * (p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p)))
    assert loss.match_predictions(student, teacher, 2.0).item() == pytest.approx(expected, abs=1e-6)


def test_predictions_equal_torch_and_are_means_over_the_batch():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    log_q, p = F.log_softmax(student / 3, 1), F.softmax(teacher / 3, 1)
    assert loss.match_predictions(student, teacher, 3.0).item() == pytest.approx(
        9 * F.kl_div(log_q, p, reduction="batchmean").item(), abs=1e-5
    )
    halves = [loss.match_predictions(student[i : i + 3], teacher[i : i + 3]) for i in (0, 3)]
    assert loss.match_predictions(student, teacher).item() == pytest.approx(sum(halves).item() / 2, abs=1e-6)


def test_pixels_are_predictions_of_every_pixel():
    torch.manual_seed(1)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    single = [
        loss.match_predictions(student[b, :, y, x][None], teacher[b, :, y, x][None], 2.0).item()
        for b in range(2)
        for y in range(4)
        for x in range(5)
    ]
    assert loss.match_pixels(student, teacher, 2.0).item() == pytest.approx(sum(single) / len(single), abs=1e-5)


def test_pixels_bring_the_teachers_map_to_the_students_size():
    teacher = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    student = torch.zeros(1, 2, 1, 1)
    mean = torch.tensor([[3.0, 0.0]])  # the middle of four cells
    assert loss.match_pixels(student, teacher).item() == pytest.approx(
        loss.match_predictions(torch.zeros(1, 2), mean).item(), abs=1e-6
    )


def test_features_by_hand():
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-2.0, 0.0]])
    assert loss.cosine(student, teacher).item() == pytest.approx(((1 - 24 / 25) + 2) / 2, abs=1e-6)
    assert loss.mse(student, teacher).item() == pytest.approx((1 + 1 + 9 + 0) / 4, abs=1e-6)


def test_contrastive_by_hand():
    """Orthogonal features and their own: logits are 1/T for the right one, 0 else."""
    features, t = torch.eye(3), 0.5
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert loss.contrastive(5 * features, 2 * features, t).item() == pytest.approx(expected, abs=1e-6)
    assert loss.contrastive(features, features[[1, 2, 0]]) == loss.contrastive(features, features[[1, 2, 0]], 0.07)
    same = torch.ones(4, 3)
    assert loss.contrastive(same, same).item() == pytest.approx(math.log(4), abs=1e-5)
    assert loss.contrastive(features, features[[1, 2, 0]], t).item() > expected


def test_patches_are_cosines_of_every_patch_after_resizing():
    torch.manual_seed(2)
    student, teacher = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    single = [
        1 - F.cosine_similarity(student[b, :, y, x], teacher[b, :, y, x], dim=0).item()
        for b in range(2)
        for y in range(3)
        for x in range(3)
    ]
    assert loss.match_patches(student, teacher).item() == pytest.approx(sum(single) / 18, abs=1e-5)
    flat = torch.randn(1, 4, 1, 1)
    assert loss.match_patches(flat, flat.expand(1, 4, 5, 5)).item() == pytest.approx(0, abs=1e-6)
    cells = torch.tensor([[[[1.0, -1.0]], [[0.0, 0.0]]]])  # bilinear: the middle of opposite cells is their mean
    assert loss.resize_map(cells, torch.zeros(1, 2, 1, 4))[0, 0].tolist() == [[1.0, 0.5, -0.5, -1.0]]


@pytest.mark.parametrize("name", ["match_predictions", "cosine", "mse", "contrastive"])
def test_gradients_are_finite_and_the_students_alone(name):
    torch.manual_seed(3)
    student, teacher = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    getattr(loss, name)(student, teacher).backward()
    assert student.grad is not None and torch.isfinite(student.grad).all() and student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_other_classes_are_refused():
    with pytest.raises(ValueError, match="student has 3 classes, teacher 4"):
        loss.match_predictions(torch.zeros(2, 3), torch.zeros(2, 4))
