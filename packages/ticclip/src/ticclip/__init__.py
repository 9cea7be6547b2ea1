"""TiC-CLIP: time-continual training of CLIP (Garg et al., ICLR 2024, arXiv 2310.16226) in JAX.

From a stream to the matrix of scores:

    import ticclip
    from ticclip.icons import build_stream

    index = ticclip.TimeIndex(build_stream("material", "icons"))
    config = ticclip.StreamConfig(model=ticclip.PRESETS["icons"], method="cumulative-equal", samples_per_step=8192)
    result = ticclip.run_stream(index, config, "run")
    print(result["transfer"])
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("ticclip")

# Public name -> module; imported at first use, so that `import ticclip` and `--help` stay instant.
_MODULES = {
    "PRESETS": "config",
    "StreamConfig": "config",
    "TimeIndex": "index",
    "from_pretrained": "checkpoint",
    "macs": "compute",
    "plan_stream": "plan",
    "replay_plan": "replay",
    "run_stream": "stream",
    "save_pretrained": "checkpoint",
    "transfer_scores": "transfer",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
