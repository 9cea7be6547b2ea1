"""Arithmetic of structural re-parameterization: several linear branches become one convolution.

All functions use the running statistics of batch normalisation, so that the result equals evaluation mode.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def reparameterize(model: ModuleT) -> ModuleT:
    """Return a copy of `model` with every multi-branch block fused into one convolution.

    The copy computes what `model` computes in evaluation mode (relative error about 1e-6 in float32) with fewer
    and larger operations. Unlike the authors' function it leaves the fused weights trainable, as FastVLM's
    fine-tuning needs them. Blocks that are fused already stay as they are.

    Args:
        model: Any module; only sub-modules with a method `fuse` change.

    Returns:
        A deep copy in fused form, in the same training mode.
    """
    fused = copy.deepcopy(model)
    for module in list(fused.modules()):
        if hasattr(module, "fuse"):
            module.fuse()
    return fused


def fuse_conv_bn(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Fold a batch normalisation into the convolution before it.

    Args:
        conv: Convolution with weight [out, in / groups, kh, kw], with or without bias.
        bn: Normalisation over the `out` channels; its running statistics are used.

    Returns:
        Weight (shape of `conv.weight`) and bias [out] of the one equal convolution.
    """
    scale, shift = bn_affine(bn)
    bias = shift if conv.bias is None else shift + conv.bias * scale
    return conv.weight * scale.view(-1, 1, 1, 1), bias


def bn_affine(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Batch normalisation in evaluation mode as y = scale * x + shift."""
    assert bn.running_var is not None and bn.running_mean is not None, "normalisation without running statistics"
    scale = bn.weight / torch.sqrt(bn.running_var + bn.eps)
    return scale, bn.bias - bn.running_mean * scale


def pad_kernel(weight: Tensor, size: tuple[int, int]) -> Tensor:
    """Zero-pad a kernel [out, in, kh, kw] on all sides to `size` (odd sizes)."""
    top, left = (size[0] - weight.shape[2]) // 2, (size[1] - weight.shape[3]) // 2
    return F.pad(weight, (left, left, top, top))


def identity_kernel(like: Tensor, groups: int) -> Tensor:
    """Kernel of `like`'s shape [out, in / groups, kh, kw] that returns its input (out == in)."""
    kernel = torch.zeros_like(like)
    index = torch.arange(like.shape[0], device=like.device)
    kernel[index, index % (like.shape[0] // groups), like.shape[2] // 2, like.shape[3] // 2] = 1
    return kernel


def fused_conv(template: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """Convolution with `template`'s geometry and the given weight and bias."""
    conv = copy.deepcopy(template)
    conv.weight, conv.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return conv
