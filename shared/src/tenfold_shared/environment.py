"""What ran where: seeds, versions, the commit, and no telemetry."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["environment_report", "git_commit", "seed_everything", "switch_off_telemetry"]

# Libraries whose version can move a result; those that are not installed are left out.
_LIBRARIES = (
    "numpy", "scipy", "torch", "torchvision", "timm", "open-clip-torch", "transformers", "tokenizers",
    "onnxruntime", "jax", "jaxlib", "flax", "optax", "ray", "pyarrow", "pillow", "tenfold-shared",
)  # fmt: skip
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "WANDB_MODE": "disabled",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and, where it is already imported, torch with its accelerators.

    JAX has no global seed: pass keys. `seed` is at least 0 and below 2**32, NumPy's limit.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"`seed` (={seed}) must be at least 0 and below 2**32.")
    import numpy as np

    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


def environment_report(*packages: str) -> dict[str, Any]:
    """Describe the machine and the versions behind a result, without names of users, hosts or folders.

    Args:
        *packages: Further distributions whose version belongs in the report.

    Returns:
        `python`, `platform`, `cpu`, `cores` (usable by this process), `threads` (of torch, else of
        OMP_NUM_THREADS, else None), `versions` by distribution, `commit`.
    """
    torch, limit = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "threads": torch.get_num_threads() if torch else int(limit) if limit.isdigit() else None,
        "versions": _versions((*_LIBRARIES, *packages)),
        "commit": git_commit(),
    }


def git_commit(path: str | Path | None = None) -> str:
    """Return the commit of the checkout this code runs from, "-dirty" at its end if files changed.

    "unknown" for an installed wheel, also when its environment lies inside some repository. `path` is
    a tracked file of another checkout.
    """
    file = Path(__file__ if path is None else path).resolve()
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return "unknown"
    return _git(file.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") or "unknown"


def switch_off_telemetry() -> None:
    """Switch off what Ray, the model hub and trackers send, unless the user chose otherwise."""
    for name, value in _NO_TELEMETRY.items():
        os.environ.setdefault(name, value)


def _git(folder: Path, *arguments: str) -> str | None:
    """Standard output of a git command, or None where it fails or git is missing."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _versions(names: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu_model() -> str:
    """The processor's name: Linux keeps it in /proc, elsewhere `platform` knows it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
