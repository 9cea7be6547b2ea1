"""Which members of the workspace a change touches: themselves and what depends on them.

    python tools/src/tenfold_tools/affected.py origin/main

prints a JSON list of folders, which is the matrix of the continuous integration. Standard library only: it
runs before anything is installed.
"""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """One member of the workspace.

    Attributes:
        folder: Path relative to the top, such as `packages/mobileclip`.
        dist: Name of the distribution.
        needs: Normalised names of every distribution it depends on, through extras too.
    """

    folder: str
    dist: str
    needs: frozenset[str]


@dataclass(frozen=True)
class AffectedConfig:
    """Print the folders of the workspace that changed since a commit, and what depends on them.

    Attributes:
        base: Commit or branch to compare with; `all` prints every folder.
    """

    base: str


def normalise(name: str) -> str:
    """Return the canonical form of a distribution's name (lower case, one hyphen)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    """Return the normalised name that a requirement such as `torch>=2.8; python_version>'3'` starts with."""
    match = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)", requirement)
    if match is None:
        raise ValueError(f"`{requirement}` is not a requirement; write it as `name>=version`.")
    return normalise(match.group(1))


def read_members(root: Path) -> dict[str, Member]:
    """Read the workspace's members from their pyproject files.

    Args:
        root: Top of the workspace.

    Returns:
        Members by folder, sorted.
    """
    workspace = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["uv"]["workspace"]
    files = sorted(file for pattern in workspace["members"] for file in root.glob(f"{pattern}/pyproject.toml"))
    return {member.folder: member for member in (_read_member(root, file) for file in files)}


def _read_member(root: Path, file: Path) -> Member:
    project = tomllib.loads(file.read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    requirements = [*project.get("dependencies", []), *(line for extra in extras for line in extra)]
    needs = frozenset(map(requirement_name, requirements))
    return Member(file.parent.relative_to(root).as_posix(), project["name"], needs)


def dependents(folder: str, members: Mapping[str, Member]) -> set[str]:
    """Return `folder` and every folder that depends on it, directly or through another.

    Args:
        folder: Folder of one member.
        members: All members by folder.

    Returns:
        Folders, `folder` included.
    """
    found, waiting = set(), [folder]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            name = normalise(members[current].dist)
            waiting += [other.folder for other in members.values() if name in other.needs]
    return found


def affected(files: Iterable[str], members: Mapping[str, Member]) -> list[str]:
    """Return the folders to test for a set of changed files.

    A file of a package touches the package and its dependents. A file anywhere else (the top level, `tools/`,
    `tests/`, `.github/`, `.ci/`) can change what every check means, and so touches everything.

    Args:
        files: Changed paths relative to the top, with forward slashes.
        members: All members by folder.

    Returns:
        Sorted folders.
    """
    result: set[str] = set()
    for file in files:
        owner = next((folder for folder in members if file.startswith(folder + "/")), "tools")
        result |= set(members) if owner == "tools" else dependents(owner, members)
    return sorted(result)


def changed_files(root: Path, base: str) -> list[str] | None:
    """Return the paths that differ between `base`'s fork point and the working tree.

    Args:
        root: Top of the repository.
        base: Commit or branch.

    Returns:
        Paths with forward slashes, those of both ends of a rename; None if `base` is not known here, as after
        the first push of a branch or a rewritten history.
    """
    if not base.strip("0") or base.startswith("-"):
        return None
    fork = _git(root, "merge-base", base, "HEAD")
    if fork is None:
        return None
    changed = _git(root, "diff", "--name-only", "--no-renames", "-z", fork.strip()) or ""
    untracked = _git(root, "ls-files", "--others", "--exclude-standard", "-z") or ""
    return [path for path in (changed + untracked).split("\0") if path]


def _git(root: Path, *arguments: str) -> str | None:
    result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return result.stdout if result.returncode == 0 else None


def run(config: AffectedConfig, root: Path | None = None) -> int:
    """Print the JSON list of folders to test.

    Args:
        config: What to compare with.
        root: Top of the workspace; the one this file lies in by default.

    Returns:
        Exit status, always 0: where the base is unknown everything is listed, with a line on stderr.
    """
    top = root or Path(__file__).resolve().parents[3]
    members = read_members(top)
    files = None if config.base == "all" else changed_files(top, config.base)
    if files is None:
        if config.base != "all":
            print(f"`{config.base}` is not a commit of this repository: testing everything", file=sys.stderr)
        print(json.dumps(sorted(members)))
    else:
        print(json.dumps(affected(files, members)))
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: affected.py BASE (a commit, a branch, or `all`)")
    sys.exit(run(AffectedConfig(sys.argv[1])))
