"""Task-oriented knowledge transfer (arXiv 2311.18237): from a big vision model, few labels and a pile to a small model.

Choose a transfer set, evenly over the labelled images:

    import numpy as np, vfm_transfer

    pile, labelled = np.random.default_rng(0).normal(size=(1000, 32)), np.eye(8, 32)
    chosen = vfm_transfer.curate(labelled, pile, total=80, balance="query", dedup_threshold=0.97)
    assert len(set(chosen.tolist())) == 80
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("vfm-transfer")

# Public name -> module, imported at first use: `import vfm_transfer` needs no torch, and `--help` stays instant.
_MODULES = {
    "Embeddings": "embeddings",
    "PRESETS": "config",
    "RunConfig": "config",
    "build_network": "networks",
    "curate": "curation",
    "distill": "stages",
    "finetune": "stages",
    "from_pretrained": "checkpoint",
    "run": "pipeline",
    "teach": "stages",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
