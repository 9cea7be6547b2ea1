"""MobileCLIP: fast image-text models (Vasu et al., CVPR 2024, arXiv 2311.17049) in PyTorch.

From a picture to probabilities:

    import mobileclip
    from PIL import Image

    model, _, preprocess = mobileclip.create_model_and_transforms("mobileclip_s2", pretrained="mobileclip_s2.pt")
    tokenizer = mobileclip.get_tokenizer("mobileclip_s2")
    pixels = preprocess(Image.open("cat.jpg")).unsqueeze(0)
    image, text, scale = model(pixels, tokenizer(["a cat", "a dog"]))
    print((scale * image @ text.T).softmax(dim=-1))
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("mobileclip-torch")

# Public name -> module; imported at first use, so that `import mobileclip` and `--help` stay instant.
_MODULES = {
    "PRESETS": "config",
    "MobileCLIP": "model",
    "MobileCLIPConfig": "config",
    "create_model_and_transforms": "factory",
    "from_pretrained": "checkpoint",
    "get_tokenizer": "factory",
    "load_image": "preprocess",
    "optimize_for_inference": "model",
    "reparameterize": "fusion",
    "save_pretrained": "checkpoint",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
