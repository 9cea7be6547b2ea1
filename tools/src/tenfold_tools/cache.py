"""Decide whether a finished run still stands: one key over everything that its numbers depend on."""

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

from tenfold_shared.claims import ClaimResult, read_claims

from tenfold_tools.affected import normalise, requirement_name

logger = logging.getLogger(__name__)

SCHEMA = 1  # raise it when the layout of a run's folder changes
CLAIMS_FILE = "claims.json"  # written last: its presence says that the run is complete
RUN_FILE = "run.json"
RUN_KEYS = {"budget", "seed", "seconds", "finished", "environment"}
NOT_CODE = ("__pycache__", ".DS_Store")


def cache_key(entry: EntryPoint, siblings: Mapping[str, EntryPoint], *, budget: str, seed: int) -> str:
    """Return the key of one experiment's run, 16 hexadecimal digits.

    It changes with any file of the package, of the workspace packages that it depends on and of
    `tenfold_shared`, with the budget and the seed, with the version of anything in its dependency closure,
    with Python and the platform.

    Args:
        entry: the experiment.
        siblings: all experiments by name; those in the dependency closure are hashed by content, since an
            editable
            install changes without changing its version.
        budget: smoke, laptop or full.
        seed: as passed to the experiment.
    """
    distributions = {normalise(other.dist.name): other.module for other in siblings.values() if other.dist}
    versions = dependency_versions(entry.dist.name) if entry.dist else {}
    modules = {entry.module, "tenfold_shared"} | {distributions[name] for name in versions if name in distributions}
    parts = {
        "schema": SCHEMA,
        "entry": entry.value,
        "trees": {name: tree_hash(package_path(name)) for name in sorted({top_level(m) for m in modules})},
        "versions": versions,
        "python": sys.version,
        "platform": f"{sys.platform} {platform.machine()}",
        "budget": budget,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def load_finished(folder: Path, paper: str) -> list[ClaimResult] | None:
    """Return the claims of a finished run, None when there is none or when its files are damaged."""
    if not (folder / CLAIMS_FILE).exists():
        return None
    try:
        claims = read_claims(folder / CLAIMS_FILE)
        check_claims(claims, paper, folder)
    except (ValueError, OSError) as error:
        logger.warning("%s cannot be used (%s); %s runs again.", folder / CLAIMS_FILE, error, paper)
        return None
    return claims


def load_run(folder: Path) -> dict:
    """Return what is known about a run beside its claims; empty when that file is missing or damaged."""
    try:
        run = json.loads((folder / RUN_FILE).read_text())
    except (ValueError, OSError):
        return {}
    return run if isinstance(run, dict) and run.keys() >= RUN_KEYS else {}


def expected_seconds(runs: Path, paper: str, budget: str) -> float | None:
    """Return how long the newest finished run of a paper at this budget took, None if there was none."""
    folders = (path.parent for path in (runs / paper).glob(f"*/{RUN_FILE}"))
    known = [run for run in map(load_run, folders) if run.get("budget") == budget]
    return max(known, key=lambda run: run["finished"])["seconds"] if known else None


def check_claims(claims: list[ClaimResult], paper: str, out: Path) -> None:
    """Refuse what the page could not show.

    Raises:
        ValueError: nothing returned, another paper's name, a claim stated twice, a figure not in `out`.
    """
    if not claims:
        raise ValueError(f"the experiment of {paper} returned no claims; list at least what is `not attempted`")
    if others := sorted({claim.paper for claim in claims} - {paper}):
        raise ValueError(f"claims of {paper} name another paper ({', '.join(others)}); use the entry point's name")
    names = [claim.claim for claim in claims]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"claims of {paper} are stated twice: {'; '.join(twice)}")
    figures = {figure for claim in claims for figure in claim.figures}
    if missing := sorted(figure for figure in figures if not (out / figure).is_file()):
        raise ValueError(f"figures of {paper} are not in its output folder: {', '.join(missing)}")


def tree_hash(root: Path) -> str:
    """Hash the names and contents of all files under `root` (or of one file), without compiled Python."""
    digest = hashlib.sha256()
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_file() and not any(part in NOT_CODE for part in name.parts):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            digest.update(f"{name.as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def package_path(module: str) -> Path:
    """Return the folder of an importable top-level package, or the file of a module, without importing it.

    Raises:
        FileNotFoundError: nothing of that name can be imported.
    """
    spec = importlib.util.find_spec(module)
    places = [*(spec.submodule_search_locations or [spec.origin])] if spec else []
    if not places or places[0] is None:
        raise FileNotFoundError(f"package `{module}` has an entry point but cannot be imported; install it again.")
    return Path(places[0])


def dependency_versions(distribution: str) -> dict[str, str]:
    """Return name and version of everything installed that `distribution` needs, itself included.

    Its own extras count, since experiments use them; the extras of its dependencies do not.
    """
    versions: dict[str, str] = {}
    waiting = [normalise(distribution)]
    while waiting:
        name = waiting.pop()
        if name in versions:
            continue
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        needs = [line for line in found.requires or [] if not versions or "extra ==" not in line]
        waiting += map(requirement_name, needs)
        versions[name] = found.version
    return versions


def top_level(module: str) -> str:
    """Return `a` for `a.b.c`."""
    return module.partition(".")[0]
