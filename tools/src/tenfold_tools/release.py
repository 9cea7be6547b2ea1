"""Release one distribution: plan it, build it, try it outside the checkout, raise its version.

    tenfold release plan mobileclip-torch                  may this version be released?
    tenfold release check mobileclip-torch                 every local step of its pipeline
    tenfold release test mobileclip-torch                  its own tests from its sdist, against its wheel
    tenfold release bump mobileclip-torch --version minor  next version, new heading in the changelog

Standard library only, so that the pipelines can run it before anything is installed:
`PYTHONPATH=tools/src python -m tenfold_tools.release ...`.
"""

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from tenfold_tools import affected, wheels

# What may be published, by name: our import names `mobileclip`, `muscle` and `nots` belong to strangers
# there. tenfold-tools is for this repository only and never published.
PUBLISHABLE = (
    "dataset-decomposition",
    "dclm",
    "fastvlm",
    "mobileclip-torch",
    "muscle-torch",
    "nots-torch",
    "physiomae",
    "qualityclip",
    "tenfold-shared",
    "ticclip",
    "vfm-transfer",
)

Action = Literal["plan", "build", "smoke", "check", "test", "notes", "bump"]


@dataclass(frozen=True)
class ReleaseConfig:
    """Plan, check or prepare the release of one distribution.

    Attributes:
        action: `plan` says whether it may be released; `check` also builds it and tries the wheel; `test` runs the
            tests of its sdist in an environment of its own; `bump` raises its version. The pipelines also use
            `build`, `smoke` and `notes` (the changelog's section).
        dist: Name of the distribution, such as mobileclip-torch.
        tag: The tag being released (`<dist>-v<version>`); `plan` compares it with the version.
        version: For `bump`: a version, or `patch`, `minor` or `major`.
        out: Folder for what is built; a temporary one by default.
        published: Take our other distributions from the registry, not from this checkout.
    """

    action: Action
    dist: str
    tag: str = ""
    version: str = "patch"
    out: str = ""
    published: bool = False


@dataclass(frozen=True)
class Project:
    """A member of the workspace as its pyproject describes it.

    Attributes:
        folder: Folder of the member.
        dist: Name of the distribution.
        module: Name to import.
        version: Its version.
        requirements: Requirement lines, those of the extras included.
    """

    folder: Path
    dist: str
    module: str
    version: str
    requirements: tuple[str, ...]

    @property
    def tag(self) -> str:
        """Tag that releases this version."""
        return f"{self.dist}-v{self.version}"

    @property
    def changelog(self) -> str:
        """Text of its changelog; empty if it has none."""
        file = self.folder / "CHANGELOG.md"
        return file.read_text() if file.exists() else ""


def read_project(root: Path, dist: str) -> Project:
    """Read one publishable member.

    Args:
        root: Top of the workspace.
        dist: Name of the distribution.

    Returns:
        The member.

    Raises:
        ValueError: If `dist` is not on the list of names that may be published.
    """
    if dist not in PUBLISHABLE:
        raise ValueError(f"`{dist}` may not be published; these may: {', '.join(PUBLISHABLE)}.")
    folder = next(member.folder for member in affected.read_members(root).values() if member.dist == dist)
    content = tomllib.loads((root / folder / "pyproject.toml").read_text())
    project, module = content["project"], content["tool"]["uv"]["build-backend"]["module-name"]
    extras = project.get("optional-dependencies", {}).values()
    lines = (*project.get("dependencies", []), *(line for extra in extras for line in extra))
    return Project(root / folder, dist, module, project["version"], lines)


def changelog_section(text: str, version: str) -> str:
    """Return what a changelog says about one version.

    Args:
        text: The changelog, with headings such as `## 0.1.0 (2026-11-30)`.
        version: Version to look up.

    Returns:
        The section without its heading; empty if there is none.
    """
    heading = rf"^## {re.escape(version)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)"
    match = re.search(heading, text, flags=re.MULTILINE | re.DOTALL)
    return match.group(1).strip() if match else ""


def next_version(version: str, step: str) -> str:
    """Return the version after `version`.

    Args:
        version: Current version, `major.minor.patch`.
        step: `patch`, `minor`, `major`, or the new version itself.

    Returns:
        The new version.

    Raises:
        ValueError: If the new version is not a later one of three numbers.
    """
    numbers = _numbers(version)
    if step in ("major", "minor", "patch"):
        index = ("major", "minor", "patch").index(step)
        return ".".join(map(str, (*numbers[:index], numbers[index] + 1, *(0,) * (2 - index))))
    if _numbers(step) <= numbers:
        raise ValueError(f"`version` (={step}) must be later than {version}; use patch, minor or major.")
    return step


def _numbers(version: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        raise ValueError(f"`version` (={version}) must be three numbers such as 0.2.0, or patch, minor or major.")
    return tuple(map(int, version.split(".")))


def plan_problems(root: Path, project: Project, tag: str) -> list[str]:
    """Return what stands against releasing `project` now.

    Args:
        root: Top of the workspace, a git repository with its tags.
        project: What is to be released.
        tag: Tag being released; empty if none exists yet.

    Returns:
        One sentence per problem; empty if there is none.
    """
    problems = []
    if tag and tag != project.tag:
        problems.append(f"tag `{tag}` does not fit version {project.version}; expected `{project.tag}`.")
    if not changelog_section(project.changelog, project.version):
        problems.append(f"CHANGELOG.md has no section `## {project.version}` with text in it.")
    tags = set(_output("git", "-C", str(root), "tag", "--list").split())
    for dist, bound in workspace_bounds(project):
        if f"{dist}-v{bound}" not in tags:
            problems.append(f"{dist} {bound}, the lower bound here, is not released: no tag `{dist}-v{bound}`.")
    return problems


def workspace_bounds(project: Project) -> list[tuple[str, str]]:
    """Return the lower bounds that `project` puts on our other distributions, as full versions."""
    found = set()
    for line in project.requirements:
        dist = affected.requirement_name(line)
        if dist in PUBLISHABLE and dist != project.dist:
            bound = re.search(r">=\s*([\d.]+)", line)
            if bound is None:
                raise ValueError(f"{project.dist} needs `{line}` without a lower bound; write `{dist}>=0.1,<0.2`.")
            found.add((dist, ".".join([*bound.group(1).split("."), "0", "0"][:3])))
    return sorted(found)


def plan(root: Path, config: ReleaseConfig) -> int:
    """Print whether the release may go ahead; 1 if it may not."""
    project = read_project(root, config.dist)
    problems = plan_problems(root, project, config.tag)
    for problem in problems:
        print(f"{project.dist}: {problem}")
    print(f"{project.tag}: " + ("not ready" if problems else "ready"))
    return 1 if problems else 0


def build(root: Path, project: Project, out: Path) -> Path:
    """Build sdist and wheel as a stranger would, without the workspace's sources, and look into them.

    Args:
        root: Top of the workspace.
        project: What to build.
        out: Folder for both files.

    Returns:
        Path of the wheel.

    Raises:
        ValueError: If the contents are not as they should be.
        subprocess.CalledProcessError: If building, or twine's check, fails.
    """
    options = ["--package", project.dist, "--no-sources", "--quiet", "--out-dir", str(out)]
    subprocess.run(["uv", "build", *options], cwd=root, check=True)
    stem = f"{project.dist.replace('-', '_')}-{project.version}"
    wheel, sdist = out / f"{stem}-py3-none-any.whl", out / f"{stem}.tar.gz"
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(wheel), str(sdist)], check=True)
    problems = wheels.wheel_problems(wheel) + wheels.sdist_problems(sdist)
    if problems:
        raise ValueError(f"{project.dist}: " + "; ".join(problems))
    return wheel


def check(root: Path, config: ReleaseConfig) -> int:
    """Run the local steps of the release: build, look into the wheel, install it elsewhere, use it.

    What stands against the release (`plan`) is printed, but decides nothing here: before the first tag
    of the shared package, say, the rest can still be tried.
    """
    project = read_project(root, config.dist)
    for problem in plan_problems(root, project, config.tag):
        print(f"plan: {problem}")
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        out = Path(config.out or folder).resolve()
        build(root, project, out)
        smoke(root, project, out, published=config.published)
    print(f"{project.tag}: built, looked into, installed alone and used")
    return 0


def smoke(root: Path, project: Project, out: Path, *, published: bool) -> None:
    """Install the wheel in a new environment outside the checkout and use it.

    Args:
        root: Top of the workspace.
        project: What was built.
        out: Folder with its wheel; the wheels of our other distributions are built into it as needed.
        published: Take those from the registry, and the newest version of everything else too; otherwise the
            versions of tools/versions.txt.
    """
    if not published:
        for dist, _ in workspace_bounds(project):
            build(root, read_project(root, dist), out)
    constraints = None if published else root / "tools" / "versions.txt"
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        python = wheels.install_alone([f"{project.dist}=={project.version}"], out, Path(folder), constraints)
        wheels.use_alone(python, project.dist, project.module)


def test(root: Path, config: ReleaseConfig) -> int:
    """Run the sdist's tests, outside the checkout, with nothing installed but the newest of what it asks for.

    Those with a marker (slow ones, a browser's, several processes) are left out, as in plain pytest here.
    """
    project = read_project(root, config.dist)
    table = tomllib.loads((project.folder / "pyproject.toml").read_text())
    extras = table["project"].get("optional-dependencies", {})
    wanted = ["demo"] if "demo" in extras else list(extras)
    with tempfile.TemporaryDirectory(prefix="sdist-") as name:
        folder = Path(name)
        for dist in (project.dist, *(() if config.published else (dist for dist, _ in workspace_bounds(project)))):
            build(root, read_project(root, dist), folder)
        stem = f"{project.dist.replace('-', '_')}-{project.version}"
        with tarfile.open(folder / f"{stem}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
        brackets = f"[{','.join(wanted)}]" if wanted else ""
        requirements = [f"{project.dist}{brackets}=={project.version}"]
        requirements += [line for lines in table.get("dependency-groups", {}).values() for line in lines]
        python = wheels.install_alone(requirements, folder, folder, None)
        markers = [line.split(":")[0] for line in table["tool"]["pytest"]["ini_options"]["markers"]]
        command = [str(python), "-m", "pytest", "-q", "-m", f"not ({' or '.join(markers)})", "tests"]
        return subprocess.run(command, cwd=folder / stem, check=False).returncode


def bump(root: Path, config: ReleaseConfig) -> int:
    """Raise the version in pyproject.toml and open its section in CHANGELOG.md."""
    project = read_project(root, config.dist)
    version = next_version(project.version, config.version)
    today = datetime.now(UTC).date().isoformat()
    changelog = project.folder / "CHANGELOG.md"
    _replace(project.folder / "pyproject.toml", f'version = "{project.version}"', f'version = "{version}"')
    _replace(changelog, f"## {project.version}", f"## {version} ({today})\n\n\n## {project.version}")
    print(f"{project.dist} {project.version} -> {version}: say what changed in {changelog.relative_to(root)}")
    return 0


def _replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if text.count(old) < 1:
        raise ValueError(f"{file} has no line `{old}`; restore it first.")
    file.write_text(text.replace(old, new, 1))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def run(config: ReleaseConfig, root: Path | None = None) -> int:
    """Do one step of a release.

    Args:
        config: The step and its options.
        root: Top of the workspace; the one this file lies in by default.

    Returns:
        Exit status: 0, or 1 if the plan says no.
    """
    top = root or Path(__file__).resolve().parents[3]
    whole = {"plan": plan, "check": check, "test": test, "bump": bump}
    if config.action in whole:
        return whole[config.action](top, config)
    project = read_project(top, config.dist)
    if config.action == "notes":
        print(changelog_section(project.changelog, project.version))
    elif config.action == "build":
        build(top, project, Path(config.out or "dist").resolve())
    else:
        smoke(top, project, Path(config.out or "dist").resolve(), published=config.published)
    return 0


def _parse(arguments: list[str]) -> ReleaseConfig:
    parser = argparse.ArgumentParser(description="Steps of a release.")
    for name in ("action", "dist"):
        parser.add_argument(name)
    for name in ("tag", "version", "out"):
        default = next(field.default for field in fields(ReleaseConfig) if field.name == name)
        parser.add_argument(f"--{name}", default=default)
    parser.add_argument("--published", action="store_true")
    return ReleaseConfig(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(run(_parse(sys.argv[1:])))
