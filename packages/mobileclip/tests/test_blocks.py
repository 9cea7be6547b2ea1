"""Each block against its formula written out, and fused form against train form."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mobileclip import blocks
from mobileclip.fusion import fuse_conv_bn
from torch import nn


def pixels(channels=8, size=9, batch=2):
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def batch_norm(bn, x):
    mean, variance = bn.running_mean.view(1, -1, 1, 1), bn.running_var.view(1, -1, 1, 1)
    return (x - mean) / (variance + 1e-5).sqrt() * bn.weight.view(1, -1, 1, 1) + bn.bias.view(1, -1, 1, 1)


def conv_bn(branch, x, stride=1, groups=1):
    weight = branch.conv.weight
    padding = (weight.shape[2] // 2, weight.shape[3] // 2)
    return batch_norm(branch.bn, F.conv2d(x, weight, None, stride, padding, groups=groups))


def test_mobile_one_is_the_gated_activated_sum_of_its_branches(randomize):
    block, x = randomize(blocks.MobileOneBlock(8, 8, 3, groups=8, se_channels=2)), pixels()
    y = batch_norm(block.rbr_skip, x) + conv_bn(block.rbr_scale, x, groups=8) + conv_bn(block.rbr_conv[0], x, groups=8)
    gate = F.conv2d(y.mean((2, 3), keepdim=True), block.se.reduce.weight, block.se.reduce.bias).relu()
    gate = F.conv2d(gate, block.se.expand.weight, block.se.expand.bias).sigmoid()
    torch.testing.assert_close(block(x), F.gelu(y * gate), rtol=1e-5, atol=1e-5)


def test_mobile_one_has_a_skip_only_when_it_keeps_the_shape():
    assert blocks.MobileOneBlock(8, 8, 3).rbr_skip is not None
    assert blocks.MobileOneBlock(8, 16, 3, groups=8).rbr_skip is None
    assert blocks.MobileOneBlock(8, 8, 3, stride=2).rbr_skip is None
    assert blocks.MobileOneBlock(8, 8, 1).rbr_scale is None
    assert blocks.MobileOneBlock(8, 8, (1, 11), groups=8).rbr_scale is None


def test_rep_mixer_formula(randomize):
    mixer, x = randomize(blocks.RepMixer(8)), pixels()
    expected = x + mixer.layer_scale * (mixer.mixer(x) - batch_norm(mixer.norm.rbr_skip, x))
    torch.testing.assert_close(mixer(x), expected, rtol=1e-5, atol=1e-5)


def test_conv_ffn_formula(randomize):
    ffn, x = randomize(blocks.ConvFFN(8, 24)), pixels()
    y = conv_bn(ffn.conv, x, groups=8)
    hidden = F.gelu(torch.einsum("bchw,oc->bohw", y, ffn.fc1.weight[..., 0, 0]) + ffn.fc1.bias.view(-1, 1, 1))
    expected = torch.einsum("bchw,oc->bohw", hidden, ffn.fc2.weight[..., 0, 0]) + ffn.fc2.bias.view(-1, 1, 1)
    torch.testing.assert_close(ffn(x), expected, rtol=1e-5, atol=1e-5)


def test_attention_block_formula(randomize):
    block, x = randomize(blocks.AttentionBlock(64, 128)), pixels(64, 3)
    tokens = batch_norm(block.norm, x).flatten(2).transpose(1, 2)
    q, k, v = (tokens @ block.token_mixer.qkv.weight.T).split(64, dim=-1)
    heads = []
    for head in range(2):  # 64 channels are two heads of 32
        columns = slice(32 * head, 32 * head + 32)
        weights = (q[..., columns] @ k[..., columns].transpose(1, 2) / 32**0.5).softmax(-1)
        heads.append(weights @ v[..., columns])
    mixed = torch.cat(heads, -1) @ block.token_mixer.proj.weight.T + block.token_mixer.proj.bias
    y = x + block.layer_scale_1 * mixed.transpose(1, 2).reshape(x.shape)
    expected = y + block.layer_scale_2 * block.convffn(y)
    torch.testing.assert_close(block(x), expected, rtol=1e-5, atol=1e-5)


def test_channel_layer_norm_normalises_each_position(randomize):
    norm, x = randomize(blocks.ChannelLayerNorm(8)), pixels()
    z = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), z * norm.weight.view(-1, 1, 1) + norm.bias.view(-1, 1, 1), rtol=1e-5, atol=1e-5)


def test_fuse_conv_bn_keeps_the_bias_of_the_convolution(randomize):
    conv, bn = randomize(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)))
    weight, bias = fuse_conv_bn(conv, bn)
    x = pixels(4)
    torch.testing.assert_close(F.conv2d(x, weight, bias), bn(conv(x)), rtol=1e-5, atol=1e-5)


FUSABLE = {
    "mobile one, depthwise": lambda: blocks.MobileOneBlock(8, 8, 3, groups=8),
    "mobile one, dense": lambda: blocks.MobileOneBlock(8, 8, 1),
    "mobile one, stride": lambda: blocks.MobileOneBlock(8, 16, 3, stride=2, groups=4),
    "mobile one, gated": lambda: blocks.MobileOneBlock(8, 16, 3, groups=8, se_channels=2),
    "mobile one, no scale": lambda: blocks.MobileOneBlock(8, 8, 3, scale_branch=False),
    "rep mixer": lambda: blocks.RepMixer(8),
    "rep mixer, row": lambda: blocks.RepMixer(8, (1, 11)),
    "rep mixer block": lambda: blocks.RepMixerBlock(8, 24),
    "position": lambda: blocks.RepCPE(8),
    "downsample": lambda: blocks.Downsample(8, 16),
    "downsample, gated": lambda: blocks.Downsample(8, 16, se=True),
}


@pytest.mark.parametrize("name", FUSABLE)
def test_fused_form_equals_train_form(name, randomize):
    block, x = randomize(FUSABLE[name]()), pixels()
    expected = block(x)
    fused = blocks.reparameterize(block)
    torch.testing.assert_close(fused(x), expected, rtol=1e-4, atol=1e-5)
    assert sum(p.numel() for p in fused.parameters()) <= sum(p.numel() for p in block.parameters())
    torch.testing.assert_close(block(x), expected, rtol=0, atol=0)  # the original is untouched
    torch.testing.assert_close(blocks.reparameterize(fused)(x), fused(x), rtol=0, atol=0)
    assert all(p.requires_grad for p in fused.parameters())


@settings(max_examples=25, deadline=None)
@given(
    groups=st.sampled_from([1, 2, 4]),
    widths=st.tuples(st.sampled_from([4, 8]), st.sampled_from([4, 8, 16])),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    scale_branch=st.booleans(),
)
def test_mobile_one_fuses_at_any_geometry(randomize, groups, widths, kernel, stride, scale_branch):
    block = blocks.MobileOneBlock(*widths, kernel, stride=stride, groups=groups, scale_branch=scale_branch)
    randomize(block)
    x = pixels(widths[0], 7)
    torch.testing.assert_close(blocks.reparameterize(block)(x), block(x), rtol=1e-4, atol=1e-4)


def test_stem_quarters_the_size():
    assert blocks.make_stem(8)(pixels(3, 32)).shape == (2, 8, 8, 8)
    assert all(block.rbr_scale is None for block in blocks.make_stem(8, scale_branch=False))


def test_gradients_reach_every_parameter_and_are_finite(tiny_model, randomize):
    model = randomize(type(tiny_model)(tiny_model.config)).train()
    image, text, scale = model(torch.rand(4, 3, 64, 64), torch.randint(1, 49000, (4, 77)))
    loss = F.cross_entropy(scale * image @ text.T, torch.arange(4))
    loss.backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_embeddings_do_not_depend_on_the_rest_of_the_batch(tiny_model):
    x, ids = torch.rand(5, 3, 64, 64), torch.randint(1, 49000, (5, 77))
    order = torch.tensor([3, 0, 4, 1, 2])
    with torch.inference_mode():
        for encode, inputs in ((tiny_model.encode_image, x), (tiny_model.encode_text, ids)):
            together = encode(inputs)
            torch.testing.assert_close(encode(inputs[order]), together[order], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(encode(inputs[:1]), together[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_an_activation_in_place_overwrites_only_what_needs_no_gradient(memory_format):
    act = blocks.GELU()
    act.in_place = True
    x = torch.randn(2, 3, 4, 5).to(memory_format=memory_format)
    expected = F.gelu(x)
    needed = x.clone(memory_format=torch.preserve_format).requires_grad_()
    torch.testing.assert_close(act(needed), expected)
    assert torch.equal(needed, x)
    act(needed).sum().backward()
    assert needed.grad.abs().sum() > 0
    torch.testing.assert_close(act(x), expected)
    torch.testing.assert_close(x, expected)
