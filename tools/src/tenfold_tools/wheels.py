"""Look into built distributions, install one alone in a new environment, and use it there.

Standard library only, as release.py.
"""

import os
import subprocess
import tarfile
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

# Run in the new environment. Every public name is loaded, so that a lazy one that does not exist is found,
# and every command of the distribution answers.
USE = """
import importlib, importlib.metadata as metadata, subprocess, sys
from pathlib import Path
distribution = metadata.distribution(sys.argv[1])
module = importlib.import_module(sys.argv[2])
assert "site-packages" in module.__file__, module.__file__
assert module.__version__ == distribution.version, (module.__version__, distribution.version)
def answers(name):
    try:
        return hasattr(module, name)
    except ImportError as error:  # a name that needs an extra says which
        return f"pip install '{sys.argv[1]}[" in str(error)
missing = [name for name in module.__all__ if not answers(name)]
assert not missing, missing
for entry in distribution.entry_points:
    if entry.group == "console_scripts":
        command = [str(Path(sys.executable).with_name(entry.name)), "--help"]
        assert "usage" in subprocess.run(command, check=True, capture_output=True, text=True).stdout.lower()
print(f"{distribution.name} {distribution.version}: imported, {len(module.__all__)} names, --help answers")
"""


def wheel_problems(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel's contents.

    Args:
        wheel: Path of the wheel.

    Returns:
        One phrase per problem: something beside the one import package, a missing licence or `py.typed`,
        tests or compiled files inside, or requirements by address.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata_file = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(metadata_file).decode())
    info = PurePosixPath(metadata_file).parts[0]
    packages = {PurePosixPath(name).parts[0] for name in names} - {info}
    problems = [] if len(packages) == 1 else [f"packages {sorted(packages)} instead of one"]
    if not all(f"{package}/py.typed" in names for package in packages):
        problems.append("no py.typed")
    if not any(name.startswith(f"{info}/licenses/") for name in names):
        problems.append("no licence")
    unwanted = [name for name in names if name.endswith((".pyc", ".lock")) or "/tests/" in name]
    problems += [f"{name} does not belong into a wheel" for name in unwanted]
    requirements = metadata.get_all("Requires-Dist") or []
    problems += [f"requirement by address: {line}" for line in requirements if "@" in line.split(";")[0]]
    return problems


def sdist_problems(sdist: Path) -> list[str]:
    """Return what is missing from a source distribution: it must be testable and releasable alone.

    Args:
        sdist: Path of the `.tar.gz` file.

    Returns:
        One phrase per missing file.
    """
    with tarfile.open(sdist) as archive:
        names = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in archive.getnames()}
    wanted = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
    problems = [f"no {name} in the sdist" for name in wanted if name not in names]
    if not any(name.startswith("tests/test_") for name in names):
        problems.append("no tests in the sdist")
    return problems


def install_alone(requirements: Sequence[str], wheelhouse: Path, folder: Path, constraints: Path | None) -> Path:
    """Install one distribution, and what is named beside it, in a new environment.

    Args:
        requirements: What to install, ours as `name==version`, so that no stranger of that name is picked.
        wheelhouse: Folder with our wheels.
        folder: Folder outside the checkout; the environment goes into `env` there.
        constraints: File with the versions of everything else; None for the newest.

    Returns:
        The environment's Python.
    """
    python = folder / "env" / "bin" / "python"
    run_quietly(["uv", "venv", "--quiet", str(folder / "env")], folder)
    command = ["uv", "pip", "install", "--quiet", "--python", str(python), "--find-links", str(wheelhouse)]
    if constraints is not None:
        command += ["--constraint", str(constraints)]
    run_quietly([*command, *requirements], folder)
    return python


def use_alone(python: Path, dist: str, module: str) -> None:
    """Import a distribution in its own environment, load every public name and call every command's help.

    Args:
        python: The environment's Python, outside the checkout.
        dist: Name of the distribution.
        module: Name to import.
    """
    print(run_quietly([str(python), "-I", "-c", USE, dist, module], python.parent).strip())


def run_quietly(command: list[str], folder: Path) -> str:
    """Run a command away from the checkout and its environment.

    Args:
        command: Program and arguments.
        folder: Working folder.

    Returns:
        Its standard output.

    Raises:
        RuntimeError: If it fails, with the end of its standard error.
    """
    hidden = ("PYTHONPATH", "VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        ending = f"`{Path(command[0]).name} ... {command[-1]}` ended with {result.returncode}"
        raise RuntimeError(f"{ending}:\n{result.stderr[-4000:]}")
    return result.stdout
