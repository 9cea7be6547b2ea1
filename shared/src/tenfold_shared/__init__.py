"""What every Tenfold package needs: claims and verdicts, commands, whole files, metrics, tokenizers.

Example:
    >>> from tenfold_shared import Estimate, verdict
    >>> verdict([3.0, 3.1, 3.2], [1.0, 1.1, 1.0], minimum_effect=0.5)
    'direction only'
    >>> Estimate.of([1.0, 3.0]).mean
    2.0
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold_shared.claims import ClaimResult, Estimate, PaperValue, verdict
    from tenfold_shared.commands import InputError, print_result, run_command, unknown_name
    from tenfold_shared.environment import seed_everything
    from tenfold_shared.logs import setup_logging

__all__ = [
    "ClaimResult", "Estimate", "InputError", "PaperValue", "print_result", "run_command", "seed_everything",
    "setup_logging", "unknown_name", "verdict",
]  # fmt: skip

_COMMANDS = {"InputError", "print_result", "run_command", "unknown_name"}
_HOMES = {"seed_everything": "environment", "setup_logging": "logs"} | dict.fromkeys(_COMMANDS, "commands")


def __getattr__(name: str) -> Any:
    """Import a name's module when it is first asked for, so that commands start at once."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("tenfold-shared")
    if name not in __all__:
        raise AttributeError(f"module 'tenfold_shared' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tenfold_shared.{_HOMES.get(name, 'claims')}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
