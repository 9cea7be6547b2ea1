"""The committed record of what the workspace resolves to: names, versions and hashes, no addresses.

    python -m tenfold_tools.versions

writes `tools/versions.txt` from a fresh lock. The lock itself is not committed, since it holds addresses.
"""

import difflib
import shutil
import subprocess
import tempfile
from pathlib import Path

from tenfold_tools import affected

FILE = "tools/versions.txt"
EXPORT = (
    "uv export --quiet --frozen --format requirements.txt --no-header --no-annotate --no-emit-workspace"
    " --all-packages --all-extras --all-groups"
).split()


def resolve(root: Path) -> str:
    """Lock the workspace anew, in a copy of its pyproject files, and return what that gives.

    Args:
        root: Top of the workspace.

    Returns:
        Text for `tools/versions.txt`.

    Raises:
        ValueError: If the export holds an address.
    """
    with tempfile.TemporaryDirectory(prefix="lock-") as name:
        copy = Path(name)
        for folder in (".", *affected.read_members(root)):
            (copy / folder).mkdir(parents=True, exist_ok=True)
            shutil.copy(root / folder / "pyproject.toml", copy / folder)
        subprocess.run(["uv", "lock", "--quiet"], cwd=copy, check=True)
        text = subprocess.run(EXPORT, cwd=copy, check=True, capture_output=True, text=True).stdout
    if "://" in text:
        raise ValueError("the export holds an address; a requirement by address has no place in this workspace.")
    return text


def difference(root: Path) -> list[str]:
    """Return the difference between the committed versions and a fresh lock's, as lines of a diff.

    Args:
        root: Top of the workspace.

    Returns:
        At most forty lines, then the way out; empty if there is no difference.
    """
    committed = (root / FILE).read_text().splitlines() if (root / FILE).exists() else []
    fresh = resolve(root).splitlines()
    lines = list(difflib.unified_diff(committed, fresh, FILE, "a fresh lock", lineterm="", n=0))[:40]
    return [*lines, "write it anew: uv run python -m tenfold_tools.versions"] if lines else []


if __name__ == "__main__":
    top = Path(__file__).resolve().parents[3]
    (top / FILE).write_text(resolve(top))
