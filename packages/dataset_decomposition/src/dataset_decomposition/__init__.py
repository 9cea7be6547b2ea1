"""Dataset Decomposition (Pouransari et al., NeurIPS 2024, arXiv 2405.13226): training on documents of any length.

From a text file to batches of one length each, every row a piece of one document:

    import dataset_decomposition as dd

    store = dd.tokenize(["corpus.jsonl"], "store", tokenizer="tokenizer.json")
    store.decompose(min_length=256, max_length=8192)
    for batch in dd.BucketLoader(store, tokens_per_step=524_288, curriculum="grow-p2", cycles=8, seed=0):
        print(batch["input_ids"].shape)  # (64, 8192), then (2048, 256), ...
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("dataset-decomposition")

# Public name -> module; imported at first use, so that `import dataset_decomposition` and `--help` stay instant.
_MODULES = {
    "BucketDataset": "torch_loader",
    "BucketLoader": "loader",
    "PRESETS": "config",
    "Plan": "decomposition",
    "TokenStore": "store",
    "bucket_trainer": "trainers",
    "decompose": "decomposition",
    "plan_training": "planning",
    "simulate": "simulation",
    "tokenize": "tokenization",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
