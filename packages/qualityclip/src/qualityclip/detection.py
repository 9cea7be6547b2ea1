"""Detection on a pretrained image tower: torchvision's FCOS and Mask R-CNN on a simple feature pyramid (ViTDet)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tenfold_shared.commands import InputError, require_extra
from torch import Tensor, nn

from qualityclip.backbone import Backbone
from qualityclip.config import DenseConfig
from qualityclip.heads import Pyramid, TopDown

GROUPS = 32  # of torchvision's FCOS head
ANCHOR = 4.0  # side of Mask R-CNN's anchors, in strides


class PyramidBackbone(nn.Module):
    """The tower and its pyramid as torchvision's detectors want them: named maps of one width.

    Args:
        backbone: The tower.
        width: Channels of every map.
    """

    def __init__(self, backbone: Backbone, width: int) -> None:
        super().__init__()
        self.body, self.pyramid, self.out_channels = backbone, Pyramid(backbone, width), width
        self.top_down = TopDown(width, self.pyramid.num_levels)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        levels = self.top_down(self.pyramid(self.body(images)))
        return {str(place): level for place, level in enumerate(levels)}

    def strides(self) -> list[int]:
        """Pixels between two places of each map."""
        if not self.pyramid.simple:
            return list(self.body.strides)
        stride = self.body.strides[0]
        return [max(stride // 4, 1), max(stride // 2, 1), stride, 2 * stride]


def build_detector(backbone: Backbone, config: DenseConfig) -> nn.Module:
    """Return torchvision's detector (extra `detection`) on a backbone; it takes lists of pictures and truths.

    Args:
        backbone: Whose maps it works on.
        config: Head ("fcos" or "mask_rcnn"), classes, side of the pictures, channels of the pyramid.
    """
    models = require_extra("torchvision.models.detection", "detection", "qualityclip")
    anchors = require_extra("torchvision.models.detection.anchor_utils", "detection", "qualityclip")
    ops = require_extra("torchvision.ops", "detection", "qualityclip")
    body = PyramidBackbone(backbone, config.width)
    # Pictures come normalised; torchvision does it again with these.
    same: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    same |= {"min_size": config.image_size, "max_size": config.image_size}
    strides = body.strides()
    if config.head == "fcos":
        if config.width % GROUPS:
            raise InputError(f"`width` (={config.width}) must be divisible by {GROUPS} for fcos (group norm).")
        generator = anchors.AnchorGenerator(tuple((stride,) for stride in strides), ((1.0,),) * len(strides))
        return models.FCOS(body, config.num_classes + 1, anchor_generator=generator, **same)
    sizes = tuple((int(ANCHOR * stride),) for stride in strides)
    generator = anchors.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(strides))
    names = [str(place) for place in range(len(strides))]
    pools = {
        "box_roi_pool": ops.MultiScaleRoIAlign(names, 7, 2),
        "mask_roi_pool": ops.MultiScaleRoIAlign(names, 14, 2),
    }
    return models.MaskRCNN(body, config.num_classes + 1, rpn_anchor_generator=generator, **pools, **same)


def detector_loss(detector: nn.Module, images: Tensor, targets: Sequence[dict[str, Tensor]]) -> Tensor:
    """Return the sum of the detector's own losses for a batch."""
    losses: dict[str, Tensor] = detector(list(images), list(targets))
    return sum(losses.values(), start=images.new_zeros(()))
