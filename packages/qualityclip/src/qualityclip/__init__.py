"""CLIP with Quality Captions (Vasu et al. 2024, arXiv 2405.08911): caption quality, pretraining, dense transfer.

Score captions, choose among them, and see what a backbone is worth for segmentation:

    import qualityclip as qc

    qc.caption_score(images, captions, encoder)                      # CLIPScore of each pair
    qc.mix(["a dog"], ["a brown dog runs on grass"], uid="7", step=3)  # the caption of this step
    model = qc.from_pretrained("run/model")
    result = qc.transfer(qc.as_backbone(model), train, test, qc.DENSE_PRESETS["ade20k_linear"])
    qc.mean_iou(prediction, target, 150)
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("qualityclip")

# Public name -> module; imported at first use, so that `import qualityclip` and `--help` stay instant.
_MODULES = {
    "DENSE_PRESETS": "config",
    "PRESETS": "config",
    "as_backbone": "backbone",
    "caption_score": "quality",
    "from_pretrained": "checkpoint",
    "iso_performance_ratio": "curve",
    "mean_iou": "metrics",
    "mix": "mixing",
    "save_pretrained": "checkpoint",
    "transfer": "dense",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
