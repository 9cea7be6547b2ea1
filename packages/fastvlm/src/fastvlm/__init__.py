"""FastVLM: efficient vision-language models (Vasu et al., CVPR 2025, arXiv 2412.13303) in PyTorch.

Example:
    import fastvlm

    model = fastvlm.FastVLM.from_pretrained("llava-fastvithd_0.5b_stage3").optimize()
    processor = fastvlm.FastVLMProcessor.from_pretrained("llava-fastvithd_0.5b_stage3")
    inputs = processor([processor.prompt([("What is in the picture?", None)])], [fastvlm.load_image("cat.jpg")])
    print(processor.decode(model.generate(**inputs)[0]))
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("fastvlm")

# Public name -> module; imported at first use, so that `import fastvlm` and `--help` stay instant.
_MODULES = {
    "PRESETS": "config",
    "EncoderConfig": "config",
    "FastVLM": "model",
    "FastVLMConfig": "config",
    "FastVLMProcessor": "processor",
    "FastViTHD": "encoder",
    "load_encoder": "checkpoint",
    "load_image": "processor",
    "pareto_front": "pareto",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
