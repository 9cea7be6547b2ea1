"""Losses: by hand, as naive loops, against open_clip's, and cut over processes."""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from qualityclip.loss import Gathered, clip_loss, siglip_loss


def rows(seed, count=6):
    return F.normalize(torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_clip_loss_by_hand():
    eye, scale = torch.eye(2), torch.tensor(math.log(3))
    # Right logits log 3, wrong ones 0: -log(3 / 4).
    assert clip_loss(eye, eye, scale).item() == pytest.approx(math.log(4 / 3))
    assert clip_loss(eye, eye.flip(0), scale).item() == pytest.approx(math.log(4))


def test_siglip_loss_by_hand_and_as_a_loop():
    eye, scale, bias = torch.eye(2), torch.tensor(2.0), torch.tensor(-1.0)
    expected = math.log1p(math.exp(-1)) + math.log1p(math.exp(-1))
    assert siglip_loss(eye, eye, scale, bias).item() == pytest.approx(expected)
    image, text = rows(0), rows(1)
    total = 0.0
    for i in range(6):
        for j in range(6):
            sign = 1 if i == j else -1
            total += math.log1p(math.exp(-sign * (3 * float(image[i] @ text[j]) - 2)))
    assert siglip_loss(image, text, torch.tensor(3.0), torch.tensor(-2.0)).item() == pytest.approx(total / 6, rel=1e-6)


def test_both_equal_open_clips():
    image, text, scale, bias = rows(2), rows(3), torch.tensor(7.0), torch.tensor(-3.0)
    assert clip_loss(image, text, scale).item() == pytest.approx(open_clip.loss.ClipLoss()(image, text, scale).item())
    theirs = open_clip.loss.SigLipLoss()(image, text, scale, bias)
    assert siglip_loss(image, text, scale, bias).item() == pytest.approx(theirs.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_parts_of_a_batch_average_to_the_whole(name):
    scale, bias = torch.tensor(5.0), torch.tensor(-2.0)

    def loss(image, text):
        return clip_loss(image, text, scale) if name == "clip" else siglip_loss(image, text, scale, bias)

    image, text = rows(4).requires_grad_(), rows(5)
    whole = loss(image, text)
    (gradient,) = torch.autograd.grad(whole, image)
    parts = [loss(Gathered(image[s : s + 2], image, s), Gathered(text[s : s + 2], text, s)) for s in (0, 2, 4)]
    together = sum(parts) / 3
    assert together.item() == pytest.approx(whole.item(), rel=1e-6)
    (again,) = torch.autograd.grad(together, image)
    assert torch.allclose(gradient, again, atol=1e-6) and gradient.abs().max() > 0
    alone = sum(loss(image[s : s + 3], text[s : s + 3]) for s in (0, 3)) / 2
    assert abs(alone.item() - whole.item()) > 1e-2, "without the others' columns the loss is another one"


def test_order_of_pairs_changes_nothing():
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    image, text, scale = rows(6), rows(7), torch.tensor(9.0)
    assert clip_loss(image[order], text[order], scale).item() == pytest.approx(clip_loss(image, text, scale).item())
