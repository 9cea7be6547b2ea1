"""DCLM (Li et al., NeurIPS 2024, arXiv 2406.11794): from raw pages to a trained, evaluated language model.

    import dclm

    made = dclm.run(dclm.sample_pool(), dclm.PRESETS["dclm_baseline"], out="corpus")
    for document in dclm.read_documents(made["documents"][0]):
        print(document.url, len(document.words))

`dclm.filters` and `dclm.dedup` hold the filters as functions: documents in, pairs of a document and a reason out. The
model half (extra `train`): `dclm.tokens.tokenize`, `dclm.lmrun.train`, `dclm.lmeval.evaluate`, `dclm.chain.run_chain`.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("dclm")

# Public name -> module; imported at first use, so that `import dclm` and `--help` stay instant.
_MODULES = {
    "PRESETS": "config",
    "Document": "document",
    "Recipe": "config",
    "RunOptions": "engines",
    "build_pool": "sample",
    "read_documents": "data",
    "run": "pipeline",
    "sample_pool": "sample",
    "split_words": "words",
    "write_documents": "data",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
