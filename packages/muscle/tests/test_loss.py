"""The loss against hand-computed numbers and a naive loop over tokens."""

import math

import pytest
import torch
from muscle import compatibility_loss
from muscle.loss import MASKS, follow_old, token_losses


def case(seed=0, shape=(3, 7), vocab=11):
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(*shape, vocab, generator=generator, dtype=torch.float64) for _ in range(3)]
    labels = torch.randint(0, vocab, shape, generator=generator)
    labels[0, 4:] = -100
    return *logits, labels


def naive(student, old, new, labels, temperature, mask):
    total, count = 0.0, 0
    softmax = [(z / temperature).softmax(-1) for z in (student, old, new)]
    ones = [z.softmax(-1) for z in (student, old)]
    for b in range(labels.shape[0]):
        places = [t for t in range(labels.shape[1]) if labels[b, t] >= 0]
        sums = [sum(math.log(p[b, t, labels[b, t]]) for t in places) for p in ones]
        for t in places:
            y = int(labels[b, t])
            choice = {
                "muscle": int(student[b, t].argmax()) != y,
                "old_correct": int(old[b, t].argmax()) == y,
                "all_old": True,
                "all_new": False,
                "ll_token": float(ones[0][b, t, y]) < float(ones[1][b, t, y]),
                "ll_sequence": sums[0] < sums[1],
            }[mask]
            teacher, found = softmax[1 if choice else 2][b, t], softmax[0][b, t]
            total += sum(float(p) * math.log(p / q) for p, q in zip(teacher, found, strict=True))
            count += 1
    return total / count


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_equals_a_loop_over_tokens(mask, temperature):
    arguments = case()
    found = compatibility_loss(*arguments, temperature=temperature, mask=mask)
    assert float(found) == pytest.approx(naive(*arguments, temperature, mask), abs=1e-10)


def test_by_hand():
    """Two tokens of two words: right at the first (follow new), wrong at the second (follow old); T = 2."""
    student = torch.tensor([[[2.0, 0.0], [2.0, 0.0]]])
    old, new = torch.tensor([[[0.0, 4.0], [0.0, 4.0]]]), torch.tensor([[[4.0, 0.0], [4.0, 0.0]]])
    sigmoid = [1 / (1 + math.exp(-x)) for x in (1.0, 2.0)]  # of 2 / T and 4 / T
    q, p = [sigmoid[0], 1 - sigmoid[0]], [sigmoid[1], 1 - sigmoid[1]]
    follow_new = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    follow_v1 = sum(a * math.log(a / b) for a, b in zip(p[::-1], q, strict=True))
    found = compatibility_loss(student, old, new, torch.tensor([[0, 1]]))
    assert float(found) == pytest.approx((follow_new + follow_v1) / 2, abs=1e-6)


def test_defaults_are_the_papers():
    arguments = case()
    assert compatibility_loss(*arguments) == compatibility_loss(*arguments, temperature=2.0, mask="muscle")


def test_padding_and_its_logits_do_not_matter():
    student, old, new, labels = case()
    changed = [z.clone() for z in (student, old, new)]
    for z in changed:
        z[0, 4:] = 50 * torch.rand_like(z[0, 4:])
    for mask in MASKS:
        assert compatibility_loss(*changed, labels, mask=mask) == compatibility_loss(
            student, old, new, labels, mask=mask
        )


def test_batch_split_and_order():
    student, old, new, labels = case()
    whole = token_losses(student, old, new, labels).sum()
    parts = [token_losses(*(x[i : i + 1] for x in (student, old, new, labels))).sum() for i in (2, 0, 1)]
    assert float(whole) == pytest.approx(float(sum(parts)), abs=1e-10)


def test_gradients_reach_the_student_alone():
    student, old, new, labels = case()
    leaves = [z.requires_grad_() for z in (student, old, new)]
    for mask in MASKS:
        gradient, *teachers = torch.autograd.grad(
            compatibility_loss(*leaves, labels, mask=mask), leaves, allow_unused=True, retain_graph=True
        )
        assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0 and teachers == [None, None]
    assert torch.autograd.gradcheck(lambda z: compatibility_loss(z, old, new, labels, mask="all_old"), student)


def test_extreme_logits_stay_finite():
    student, old, new, labels = (z * 1e4 if z.is_floating_point() else z for z in case())
    student = student.float().requires_grad_()
    loss = compatibility_loss(student, old.float(), new.float(), labels)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


def test_no_labels_give_zero():
    student, old, new, labels = case()
    assert float(compatibility_loss(student, old, new, torch.full_like(labels, -100))) == 0


def test_equal_models_give_zero_and_others_more():
    student, old, _, labels = case()
    for mask in MASKS:
        assert float(compatibility_loss(student, student, student, labels, mask=mask)) == pytest.approx(0, abs=1e-12)
    assert float(compatibility_loss(student, old, old, labels)) > 0.1


def test_a_mask_of_the_users():
    student, old, new, labels = case()
    found = compatibility_loss(student, old, new, labels, mask=lambda s, o, n, y: y % 2 == 0)
    even = follow_old(lambda s, o, n, y: y % 2 == 0, student, old, new, labels)
    assert torch.equal(even, labels % 2 == 0)
    parts = [token_losses(student, old, new, labels, mask=m) for m in ("all_old", "all_new")]
    expected = torch.where(even, *parts).sum() / (labels >= 0).sum()
    assert float(found) == pytest.approx(float(expected), abs=1e-12)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mask": "musle"}, "did you mean 'muscle'"),
        ({"temperature": 0.0}, "must be above 0"),
        ({"vocab": True}, "vocabularies differ: student 11, old 10"),
    ],
)
def test_what_the_loss_refuses(change, sentence):
    student, old, new, labels = case()
    if change.pop("vocab", False):
        old = old[..., :-1]
    with pytest.raises(ValueError, match=sentence):
        compatibility_loss(student, old, new, labels, **change)
