"""MUSCLE (arXiv 2407.09435): what a model update breaks, and language-model updates that break less.

Right before, wrong now:

    import muscle

    result = muscle.flips(old=[0, 1, 1, 2], new=[0, 0, 1, 1], gold=[0, 1, 1, 0])
    print(result.nfr, result.pfr, result.mcnemar_p)
    muscle.assert_no_regression("old/samples_piqa.jsonl", "new/samples_piqa.jsonl", nfr=0.02)
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

from tenfold_shared.commands import require_extra

# At once: importing the module of that name later would take the function's place.
from muscle.flips import flips as flips

__version__ = version("muscle-torch")

# Other public names -> module, imported at first use: `import muscle` needs no torch, and `--help` stays instant.
_MODULES = {
    "CompatibilityTrainer": "train",
    "Flips": "flips",
    "PRESETS": "config",
    "SmoothFlips": "flips",
    "assert_no_regression": "gate",
    "compare": "comparison",
    "compatibility_loss": "loss",
    "read_answers": "records",
    "smooth_flips": "flips",
}
__all__ = sorted([*_MODULES, "flips"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if _MODULES[name] in ("loss", "train"):
            require_extra("torch", "train", "muscle-torch")
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
