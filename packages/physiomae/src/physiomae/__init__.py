"""PhysioMAE (arXiv 2410.16424): masked autoencoding of many physiological signals, with whatever sensors there are.

Pretrain on windows without labels, embed with a sensor missing:

    import physiomae

    encoder = physiomae.PhysioEncoder("watch", objective="mae_drop", num_steps=400).fit(windows)
    features = encoder.transform({"accel": accel})      # the gyroscope is not there
    batch = physiomae.MultimodalBatch.from_arrays(encoder.model_.config, {"accel": accel, "gyro": gyro})
    vectors = encoder.model_.embed(batch, available=["gyro"])
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("physiomae")

# Public names -> module, imported at first use: `import physiomae` needs no torch, and `--help` stays instant.
_MODULES = {
    "MultimodalBatch": "batch",
    "PRESETS": "config",
    "PhysioEncoder": "estimator",
    "PhysioMAE": "model",
    "PhysioMAEConfig": "config",
    "embed_recording": "embed",
    "from_pretrained": "checkpoint",
    "prepare_cinc2018": "prepare",
    "read_recording": "readers",
    "save_pretrained": "checkpoint",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
