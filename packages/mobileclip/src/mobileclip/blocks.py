"""Building blocks of MobileCLIP's and FastVLM's image encoders, in train form and fused form.

Every block with parallel branches has a method `fuse()` that replaces them by one convolution; `reparameterize`
applies it to a copy of a whole model. Parameter names are those of the official checkpoints. Shapes are
[batch, channels, height, width] throughout; normalisation layers use their running statistics when fused.

    encoder = nn.Sequential(MobileOneBlock(3, 64, 3, stride=2), *[RepMixerBlock(64, 192) for _ in range(2)])
    fast = reparameterize(encoder.eval())
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mobileclip.fusion import bn_affine, fuse_conv_bn, fused_conv, identity_kernel, pad_kernel, reparameterize

__all__ = [
    "AttentionBlock",
    "ChannelLayerNorm",
    "ConvFFN",
    "Downsample",
    "MobileOneBlock",
    "RepCPE",
    "RepMixer",
    "RepMixerBlock",
    "SqueezeExcite",
    "fuse_conv_bn",
    "make_stem",
    "reparameterize",
]

LAYER_SCALE_INIT = 1e-5
Size = int | tuple[int, int]


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _conv_bn(in_channels: int, out_channels: int, kernel: Size, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias that keeps the size (at stride 1), then batch normalisation."""
    height, width = _pair(kernel)
    conv = nn.Conv2d(
        in_channels, out_channels, (height, width), stride, (height // 2, width // 2), groups=groups, bias=False
    )
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels)))


class GELU(nn.GELU):
    """Exact GELU; on a CPU, torch's kernel for channels-last maps takes three times as long as the one for a view."""

    in_place = False  # set by `optimize_for_inference`: memory for another map takes longer than the function

    def forward(self, x: Tensor) -> Tensor:
        view = x.permute(0, 2, 3, 1) if x.is_contiguous(memory_format=torch.channels_last) else x
        y = torch.ops.aten.gelu_(view) if self.in_place and not x.requires_grad else super().forward(view)
        return y if view is x else y.permute(0, 3, 1, 2)


class SqueezeExcite(nn.Sequential):
    """Scale each channel by a gate computed from the mean of all channels (Hu et al. 2018).

    Args:
        channels: Channels in and out.
        reduced: Channels between the two 1x1 convolutions.
        names: What official checkpoints call the two convolutions here.
    """

    def __init__(self, channels: int, reduced: int, names: tuple[str, str] = ("reduce", "expand")) -> None:
        layers = OrderedDict()
        layers[names[0]] = nn.Conv2d(channels, reduced, 1)
        layers["relu"] = nn.ReLU()
        layers[names[1]] = nn.Conv2d(reduced, channels, 1)
        layers["gate"] = nn.Sigmoid()
        super().__init__(layers)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h w"]:
        """Return `x` times its gate."""
        return x * super().forward(x.mean((2, 3), keepdim=True))


class MobileOneBlock(nn.Module):
    """Convolution, 1x1 convolution and skip in parallel, each with batch normalisation (Vasu et al. 2023).

    y = act(SE(BN(x) + BN(conv_1x1(x)) + BN(conv_kxk(x)))). The skip branch exists when the block keeps its input's
    shape, the 1x1 ("scale") branch when the kernel is larger than one. Fused: one convolution with bias.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd kernel size.
        stride: Stride of all convolutions.
        groups: Groups of all convolutions.
        scale_branch: Whether the 1x1 branch exists (FastViTHD's stem has none).
        act: Whether a GELU follows.
        se_channels: Reduced channels of a squeeze-and-excite gate before the activation; 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: Size,
        *,
        stride: int = 1,
        groups: int = 1,
        scale_branch: bool = True,
        act: bool = True,
        se_channels: int = 0,
    ) -> None:
        super().__init__()
        self.se = SqueezeExcite(out_channels, se_channels) if se_channels else nn.Identity()
        self.activation = GELU() if act else nn.Identity()
        keeps_shape = in_channels == out_channels and stride == 1
        self.rbr_skip = nn.BatchNorm2d(in_channels) if keeps_shape else None
        self.rbr_conv = nn.ModuleList([_conv_bn(in_channels, out_channels, kernel, stride, groups)])
        has_scale = scale_branch and _pair(kernel)[0] > 1
        self.rbr_scale = _conv_bn(in_channels, out_channels, 1, stride, groups) if has_scale else None
        self.reparam_conv: nn.Conv2d | None = None

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch out_channels h2 w2"]:
        """Return the activated sum of the branches."""
        if self.reparam_conv is not None:
            return self.activation(self.se(self.reparam_conv(x)))
        y = self.rbr_conv[0](x)
        for branch in (self.rbr_scale, self.rbr_skip):
            if branch is not None:
                y = y + branch(x)
        return self.activation(self.se(y))

    def kernel_and_bias(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution equal to all branches (before SE and activation)."""
        conv, bn = self.rbr_conv[0].conv, self.rbr_conv[0].bn
        weight, bias = fuse_conv_bn(conv, bn)
        if self.rbr_scale is not None:
            scale_weight, scale_bias = fuse_conv_bn(self.rbr_scale.conv, self.rbr_scale.bn)
            weight, bias = weight + pad_kernel(scale_weight, conv.kernel_size), bias + scale_bias
        if self.rbr_skip is not None:
            scale, shift = bn_affine(self.rbr_skip)
            weight = weight + identity_kernel(weight, conv.groups) * scale.view(-1, 1, 1, 1)
            bias = bias + shift
        return weight, bias

    def fuse(self) -> None:
        """Replace the branches by one convolution, in place."""
        if self.reparam_conv is None:
            self.reparam_conv = fused_conv(self.rbr_conv[0].conv, *self.kernel_and_bias())
            del self.rbr_conv, self.rbr_scale, self.rbr_skip


class _SkipNorm(nn.Module):
    """The batch normalisation that RepMixer subtracts; a module of its own for its checkpoint name."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.rbr_skip = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.rbr_skip(x)


class RepMixer(nn.Module):
    """Token mixing by a depthwise convolution (Vasu et al. 2023, FastViT): y = x + s * (mixer(x) - norm(x)).

    Fused: one depthwise convolution with bias, residual and layer scale included.

    Args:
        dim: Channels.
        kernel: Odd kernel size; (1, 11) mixes a row of text tokens, and then has no 1x1 branch.
    """

    def __init__(self, dim: int, kernel: Size = 3) -> None:
        super().__init__()
        self.norm = _SkipNorm(dim)
        self.mixer = MobileOneBlock(dim, dim, kernel, groups=dim, act=False)
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), LAYER_SCALE_INIT))
        self.reparam_conv: nn.Conv2d | None = None

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Return the mixed tokens, residual included."""
        if self.reparam_conv is not None:
            return self.reparam_conv(x)
        return torch.addcmul(x, self.layer_scale, self.mixer(x) - self.norm(x))

    def fuse(self) -> None:
        """Replace mixer, norm, layer scale and residual by one convolution, in place."""
        if self.reparam_conv is not None:
            return
        template = self.mixer.rbr_conv[0].conv
        weight, bias = self.mixer.kernel_and_bias()
        identity = identity_kernel(weight, template.groups)
        norm_scale, norm_shift = bn_affine(self.norm.rbr_skip)
        scale = self.layer_scale.view(-1, 1, 1, 1)
        weight = identity + scale * (weight - identity * norm_scale.view(-1, 1, 1, 1))
        bias = self.layer_scale.flatten() * (bias - norm_shift)
        self.reparam_conv = fused_conv(template, weight, bias)
        del self.norm, self.mixer, self.layer_scale


class ConvFFN(nn.Module):
    """Depthwise convolution with batch normalisation, then a two-layer perceptron per position.

    Args:
        dim: Channels in and out.
        hidden_dim: Channels between the two 1x1 convolutions.
        kernel: Odd size of the depthwise kernel.
    """

    def __init__(self, dim: int, hidden_dim: int, kernel: Size = 7) -> None:
        super().__init__()
        self.conv = _conv_bn(dim, dim, kernel, groups=dim)
        self.fc1 = nn.Conv2d(dim, hidden_dim, 1)
        self.act = GELU()
        self.fc2 = nn.Conv2d(hidden_dim, dim, 1)

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Return the transformed map (no residual)."""
        return self.fc2(self.act(self.fc1(self.conv(x))))

    def fold_batch_norm(self) -> None:
        """Fold the batch normalisation into the depthwise convolution, in place.

        The official fused form keeps the two apart, so a folded model no longer has the official key set.
        """
        if len(self.conv) == 2:
            self.conv = nn.Sequential(OrderedDict(conv=fused_conv(self.conv.conv, *fuse_conv_bn(*self.conv))))


class RepMixerBlock(nn.Module):
    """RepMixer, then ConvFFN with layer scale and residual.

    Args:
        dim: Channels.
        hidden_dim: Hidden channels of the ConvFFN.
        mixer_kernel: Kernel of the RepMixer.
        ffn_kernel: Depthwise kernel of the ConvFFN.
    """

    def __init__(self, dim: int, hidden_dim: int, *, mixer_kernel: Size = 3, ffn_kernel: Size = 7) -> None:
        super().__init__()
        self.token_mixer = RepMixer(dim, mixer_kernel)
        self.convffn = ConvFFN(dim, hidden_dim, ffn_kernel)
        self.layer_scale = nn.Parameter(torch.full((dim, 1, 1), LAYER_SCALE_INIT))

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Return the block's output."""
        x = self.token_mixer(x)
        return torch.addcmul(x, self.layer_scale, self.convffn(x))


class _Attention(nn.Module):
    """Multi-head self-attention over all positions of a map."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, height, width = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).view(batch, height * width, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, height * width, dim)
        return self.proj(mixed).transpose(1, 2).reshape(batch, dim, height, width)


class ChannelLayerNorm(nn.Module):
    """Layer normalisation over the channels of each position (FastViTHD's attention norm).

    Args:
        dim: Channels.
        eps: Added to the variance.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Return `x` with zero mean and unit (biased) variance over channels, scaled and shifted."""
        y = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class AttentionBlock(nn.Module):
    """Self-attention over all positions, then ConvFFN, each with layer scale and residual.

    Args:
        dim: Channels, a multiple of `head_dim`.
        hidden_dim: Hidden channels of the ConvFFN.
        head_dim: Width of one attention head.
        norm: Normalisation before the attention: `nn.BatchNorm2d` (MCi) or `ChannelLayerNorm` (FastViTHD).
    """

    def __init__(
        self, dim: int, hidden_dim: int, *, head_dim: int = 32, norm: type[nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.norm = norm(dim)
        self.token_mixer = _Attention(dim, head_dim)
        self.convffn = ConvFFN(dim, hidden_dim)
        self.layer_scale_1 = nn.Parameter(torch.full((dim, 1, 1), LAYER_SCALE_INIT))
        self.layer_scale_2 = nn.Parameter(torch.full((dim, 1, 1), LAYER_SCALE_INIT))

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Return the block's output."""
        x = torch.addcmul(x, self.layer_scale_1, self.token_mixer(self.norm(x)))
        return torch.addcmul(x, self.layer_scale_2, self.convffn(x))


class RepCPE(nn.Module):
    """Conditional positional encoding (Chu et al. 2021): y = x + depthwise 7x7 convolution of x.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pe = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.reparam_conv: nn.Conv2d | None = None

    def forward(self, x: Float[Tensor, "batch dim h w"]) -> Float[Tensor, "batch dim h w"]:
        """Return `x` with its positional encoding added."""
        return x + self.pe(x) if self.reparam_conv is None else self.reparam_conv(x)

    def fuse(self) -> None:
        """Add the residual to the kernel, in place."""
        if self.reparam_conv is None:
            weight = self.pe.weight + identity_kernel(self.pe.weight, self.pe.groups)
            self.reparam_conv = fused_conv(self.pe, weight, self.pe.bias)
            del self.pe


class _LargeKernelConv(nn.Module):
    """Grouped 7x7 and 3x3 convolutions of stride 2 in parallel, summed, gated and activated."""

    def __init__(self, in_channels: int, out_channels: int, se_channels: int) -> None:
        super().__init__()
        self.lkb_origin = _conv_bn(in_channels, out_channels, 7, 2, in_channels)
        self.small_conv = _conv_bn(in_channels, out_channels, 3, 2, in_channels)
        self.se = SqueezeExcite(out_channels, se_channels, ("fc1", "fc2")) if se_channels else nn.Identity()
        self.activation = GELU()
        self.lkb_reparam: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        y = self.lkb_origin(x) + self.small_conv(x) if self.lkb_reparam is None else self.lkb_reparam(x)
        return self.activation(self.se(y))

    def fuse(self) -> None:
        if self.lkb_reparam is None:
            weight, bias = fuse_conv_bn(*self.lkb_origin)
            small_weight, small_bias = fuse_conv_bn(*self.small_conv)
            weight = weight + pad_kernel(small_weight, self.lkb_origin.conv.kernel_size)
            self.lkb_reparam = fused_conv(self.lkb_origin.conv, weight, bias + small_bias)
            del self.lkb_origin, self.small_conv


class Downsample(nn.Module):
    """Halve height and width: large-kernel grouped convolution, then a 1x1 MobileOne block.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of `in_channels`.
        se: Whether a squeeze-and-excite gate (a quarter of the channels) follows the large kernel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, se: bool = False) -> None:
        super().__init__()
        large = _LargeKernelConv(in_channels, out_channels, out_channels // 4 if se else 0)
        self.proj = nn.Sequential(large, MobileOneBlock(out_channels, out_channels, 1))

    def forward(self, x: Float[Tensor, "batch in_channels h w"]) -> Float[Tensor, "batch out_channels h2 w2"]:
        """Return the map at half height and width (rounded up)."""
        return self.proj(x)


def make_stem(dim: int, *, scale_branch: bool = True) -> nn.Sequential:
    """Build the stem: RGB pixels to a map of a quarter of their height and width.

    Args:
        dim: Channels of the output.
        scale_branch: Whether its blocks have the 1x1 branch (MCi) or not (FastViTHD).

    Returns:
        Three MobileOne blocks: 3x3 of stride 2, depthwise 3x3 of stride 2, 1x1.
    """
    return nn.Sequential(
        MobileOneBlock(3, dim, 3, stride=2, scale_branch=scale_branch),
        MobileOneBlock(dim, dim, 3, stride=2, groups=dim, scale_branch=scale_branch),
        MobileOneBlock(dim, dim, 1, scale_branch=scale_branch),
    )
