"""The losses against the authors' numbers, closed forms and a plain loop."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mobileclip.loss import Captions, Gathered, clip_loss, distillation_loss, dr_loss

REFERENCE = json.loads((Path(__file__).parent / "reference/dr.ref.json").read_text())
DIMS = (12, 12)
alone = Gathered.alone


def features(seed, dims, rows=6):
    """The reference's inputs: normal draws, each ensemble member of unit length, side by side."""
    generator = torch.Generator().manual_seed(seed)
    members = [torch.randn(rows, dim, generator=generator) for dim in dims]
    return torch.cat([torch.nn.functional.normalize(member, dim=-1) for member in members], dim=1)


def reference_inputs():
    student = [features(seed, (16,)) for seed in (1, 2, 3)]
    teacher = [features(seed, DIMS) for seed in (4, 5, 6)]
    return student, teacher, torch.tensor(1 / 0.07)


def total(weight, synthetic=True):
    student, teacher, scale = reference_inputs()
    student[0].requires_grad_()
    kinds = [Captions(alone(student[i]), alone(teacher[i])) for i in ((1, 2) if synthetic else (1,))]
    parts = dr_loss(
        alone(student[0]), kinds, scale, teacher_image=alone(teacher[0]), teacher_dims=DIMS, distill_weight=weight
    )
    return parts, student[0]


@pytest.mark.parametrize(("weights", "weight"), [("[0.0, 1.0]", 1.0), ("[0.25, 0.75]", 0.75)])
def test_equals_the_authors(weights, weight):
    expected = REFERENCE[f"DRClipLoss weights={weights}"]
    parts, _ = total(weight)
    found = {name: parts[name].item() for name in ("contrastive", "distill")} | {"total": parts["loss"].item()}
    real_only, _ = total(weight, synthetic=False)
    found |= {f"{name}_gt_only": real_only[name].item() for name in ("contrastive", "distill")}
    assert found == pytest.approx(expected, rel=1e-6)


def test_gradient_equals_the_authors():
    expected = REFERENCE["grad_wrt_student_image [0.25,0.75]"]
    parts, image = total(0.75)
    parts["loss"].backward()
    assert image.grad.norm().item() == pytest.approx(expected["l2"], rel=1e-5)
    assert image.grad.flatten()[:6].tolist() == pytest.approx(expected["first"], rel=1e-4)


def test_clip_loss_by_hand():
    """Two orthogonal pairs at scale s: each row's loss is log(1 + exp(-s))."""
    eye = alone(torch.eye(2))
    assert clip_loss(eye, eye, torch.tensor(3.0)).item() == pytest.approx(math.log1p(math.exp(-3)), rel=1e-6)


def test_distillation_equals_a_plain_loop():
    student, teacher, scale = reference_inputs()
    loss = 0.0
    pairs = [(student[0], student[1], teacher[0], teacher[1]), (student[1], student[0], teacher[1], teacher[0])]
    for a, b, ta, tb in pairs:
        for row in range(6):
            logits = scale * b @ a[row]
            log_p = logits - logits.exp().sum().log()
            for member in (slice(0, 12), slice(12, 24)):
                weights = (100 * tb[:, member] @ ta[row, member]).exp()
                loss -= float((weights / weights.sum() * log_p).sum()) / (2 * 6 * 2)
    pair = (alone(teacher[0]), alone(teacher[1]))
    found = distillation_loss(alone(student[0]), alone(student[1]), scale, pair, DIMS)
    assert found.item() == pytest.approx(loss, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5))
def test_local_losses_average_to_the_whole(seed, split):
    """Rows of two processes against everybody's columns: the weighted mean is the loss of one process."""
    image, text = features(seed, (8,)), features(seed + 1, (8,))
    teacher = features(seed + 2, DIMS), features(seed + 3, DIMS)
    scale = torch.tensor(5.0)

    def loss(start, stop):
        def part(x):
            return Gathered(x[start:stop], x, start)

        kinds = [Captions(part(text), part(teacher[1]))]
        parts = dr_loss(
            part(image), kinds, scale, teacher_image=part(teacher[0]), teacher_dims=DIMS, distill_weight=0.6
        )
        return parts["loss"].item()

    mean = (split * loss(0, split) + (6 - split) * loss(split, 6)) / 6
    assert mean == pytest.approx(loss(0, 6), rel=1e-5)


def test_permuting_the_batch_changes_nothing():
    student, teacher, scale = reference_inputs()
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0))

    def loss(rows):
        kinds = [Captions(alone(student[1][rows]), alone(teacher[1][rows]))]
        image, teacher_image = alone(student[0][rows]), alone(teacher[0][rows])
        return dr_loss(image, kinds, scale, teacher_image=teacher_image, teacher_dims=DIMS, distill_weight=0.5)

    assert loss(order)["loss"].item() == pytest.approx(loss(torch.arange(6))["loss"].item(), rel=1e-6)


def test_distillation_is_smallest_at_the_teacher():
    """A student that gives the teacher's similarities has the target's entropy, the least there is."""
    teacher = alone(features(0, (12,))), alone(features(1, (12,)))
    scale = torch.tensor(100.0)
    best = distillation_loss(*teacher, scale, teacher, (12,))
    other = distillation_loss(alone(features(2, (12,))), alone(features(3, (12,))), scale, teacher, (12,))
    target = (100 * teacher[0].local @ teacher[1].local.T).log_softmax(1)
    back = (100 * teacher[1].local @ teacher[0].local.T).log_softmax(1)
    entropy = -((target.exp() * target).sum(1).mean() + (back.exp() * back).sum(1).mean()) / 2
    assert best.item() == pytest.approx(entropy.item(), abs=1e-5)
    assert other > best


def test_a_teacher_of_another_width_is_refused():
    student, teacher, scale = reference_inputs()
    pair = (alone(teacher[0]), alone(teacher[1]))
    with pytest.raises(ValueError, match="sum to 36, the embeddings are 24 wide"):
        distillation_loss(alone(student[0]), alone(student[1]), scale, pair, (12, 24))


def test_distilling_needs_teachers():
    student, _, scale = reference_inputs()
    with pytest.raises(ValueError, match="needs teacher embeddings"):
        dr_loss(alone(student[0]), [Captions(alone(student[1]))], scale, distill_weight=1.0)
