"""NoTS (arXiv 2410.08421): pretraining for time series as functions, behind the estimators of aeon and scikit-learn.

Pretrain and adapt on series [cases, channels, time], or look at what the model learns from:

    import nots

    classifier = nots.NoTSClassifier("laptop", num_steps=300, random_state=0).fit(X_train, y_train)
    classifier.score(X_test, y_test)
    features = nots.NoTSTransformer("laptop", random_state=0).fit_transform(X_train)
    smooth = nots.degrade(batch, "box", 8)      # [batch, channels, time] on any device
    mask = nots.group_causal_mask(groups=3, tokens_per_group=16)
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("nots-torch")

# Public names -> module, imported at first use: `import nots` needs no torch, and `--help` stays instant.
_MODULES = {
    "NoTS": "model",
    "NoTSAnomalyDetector": "series_estimators",
    "NoTSClassifier": "estimators",
    "NoTSForecaster": "series_estimators",
    "NoTSImputer": "estimators",
    "NoTSRegressor": "estimators",
    "NoTSTransformer": "estimators",
    "degrade": "degradation",
    "from_pretrained": "checkpoint",
    "group_causal_mask": "attention",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
