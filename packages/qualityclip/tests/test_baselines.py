"""The masked autoencoder by hand, and compute against torch's own counter."""

import pytest
import torch
from qualityclip.baselines import MAE, Supervised, clip_macs, mae_macs, num_seen, vision_macs
from qualityclip.config import CLIPConfig, TextConfig, VisionConfig
from qualityclip.model import CLIP
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

VISION = VisionConfig(32, 8, 32, 2, 2)


def test_only_hidden_patches_count():
    torch.manual_seed(0)
    model, images = MAE(VISION), torch.rand(2, 3, 32, 32)
    noise = torch.rand(2, 16)
    assert num_seen(16) == 4
    loss = model(images, noise)
    hidden = noise.argsort(1)[:, 4:]
    changed = images.clone().reshape(2, 3, 4, 8, 4, 8)
    row, column = divmod(int(hidden[0, 0]), 4)
    changed[0, :, row, :, column] = torch.rand(3, 8, 8)
    assert model(changed.reshape(2, 3, 32, 32), noise) != loss
    # With an answer of nothing but zeros the error of a normalised patch is its variance.
    with torch.no_grad():
        model.out.weight.zero_()
        model.out.bias.zero_()
        assert model(images, noise).item() == pytest.approx(191 / 192, abs=1e-2)


def test_hidden_pixels_do_not_reach_the_encoder():
    torch.manual_seed(0)
    model, images = MAE(VISION).eval(), torch.rand(1, 3, 32, 32)
    noise = torch.arange(16.0)[None]
    seen = {}
    model.visual.transformer.register_forward_hook(lambda module, inputs, out: seen.setdefault(len(seen), out))
    model(images, noise)
    changed = images.clone()
    changed[..., 8:, :] = 0  # the first four patches are the first row
    model(changed, noise)
    assert torch.equal(seen[0], seen[1])
    assert seen[0].shape == (1, 5, 32)


def test_it_learns_eight_pictures():
    torch.manual_seed(0)
    model, images = MAE(VISION), torch.rand(8, 3, 4, 4).repeat_interleave(8, -1).repeat_interleave(8, -2)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = model(images + 0.1 * torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def count(function):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        function()
    return counter.get_total_flops() / 2


def test_macs_are_those_that_torch_counts():
    images = torch.rand(1, 3, 32, 32)
    config = CLIPConfig(VISION, TextConfig(10, 50, 16, 2, 2), 24)
    model = CLIP(config).eval()
    tokens = torch.ones(1, 10, dtype=torch.long)
    tokens[0, 9] = 49
    assert clip_macs(config, 10) == pytest.approx(count(lambda: model(images, tokens)), rel=0.02)
    assert vision_macs(VISION) == pytest.approx(count(lambda: model.visual(images)), rel=0.03)
    mae = MAE(VISION).eval()
    assert mae_macs(VISION) == pytest.approx(count(lambda: mae(images)), rel=0.03)


def test_supervision_by_hand():
    model = Supervised(nn.Flatten())
    loss = model(torch.zeros(1, 2, 1, 1), torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx(0.6931, abs=1e-4)


def test_a_mobile_tower_has_no_patches_to_hide():
    with pytest.raises(ValueError, match="patches of a ViT"):
        MAE(VisionConfig(timm_name="fastvit_mci0"))
