"""Do the tests notice when the mathematics changes? Flip operators and constants one at a time, and run them.

    tenfold check --mutate mobileclip

Every mutant lives in a temporary copy of the package, so the working tree is never touched, whatever happens.
"""

import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

NUM_MUTANTS = 20
MIN_CAUGHT = 16
SEED = 10
TIMEOUT_SECONDS = 600
WORKERS = 2

# Losses, metrics and the paper's own modules are what is left without these, and without `cli_train` and the like.
NOT_MATHEMATICS = frozenset(
    "__init__ __main__ cli config train evaluate checkpoint reproduce benchmark logs progress commands files"
    " environment export data plots figures experiment peer".split()
)
SWAPS: dict[type[ast.AST], Any] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Mutant:
    """One change to one place.

    Attributes:
        file: Path relative to the package's folder.
        index: Number of the place among all places of the file.
        description: Line and change, for the report.
    """

    file: str
    index: int
    description: str


def places(tree: ast.Module) -> Iterator[tuple[ast.AST, int]]:
    """Yield what can be flipped: `(node, position)`, with the comparison's position in a chain.

    Annotations, docstrings, messages of exceptions and f-strings are left alone, which compute nothing, and what a
    module does as a script.
    """
    for node in _computing(tree):
        if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp) and type(node.op) in SWAPS:
            yield node, 0
        elif isinstance(node, ast.Compare):
            yield from ((node, position) for position, op in enumerate(node.ops) if type(op) in SWAPS)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            yield node, 0
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            yield node, 0


def _computing(node: ast.AST) -> Iterator[ast.AST]:
    """Walk the nodes that compute something, in source order."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise | ast.JoinedStr | ast.Assert):
                if not (isinstance(child, ast.If) and ast.unparse(child.test) == "__name__ == '__main__'"):
                    yield child
                    yield from _computing(child)


def flip(node: ast.AST, position: int) -> str:
    """Change one place in its tree.

    Args:
        node: What `places` gave.
        position: Likewise.

    Returns:
        The change in words.
    """
    if isinstance(node, ast.Compare):
        old = node.ops[position]
        node.ops[position] = SWAPS[type(old)]()
        return f"{type(old).__name__} -> {type(node.ops[position]).__name__}"
    if isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp):
        old = node.op
        node.op = SWAPS[type(old)]()
        return f"{type(old).__name__} -> {type(node.op).__name__}"
    if isinstance(node, ast.UnaryOp):
        old = node.op
        node.op = ast.UAdd() if isinstance(old, ast.USub) else ast.Not()
        if isinstance(old, ast.Not):
            node.operand = ast.UnaryOp(ast.Not(), node.operand)
        return f"{type(old).__name__} dropped"
    assert isinstance(node, ast.Constant)
    old = node.value
    node.value = _other_value(old)
    return f"{old} -> {node.value}"


def _other_value(value: Any) -> bool | int | float:
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else value * 1.5 + 0.1


def mutated(source: str, index: int) -> tuple[str, str]:
    """Return `source` with its place number `index` flipped, and the change in words."""
    tree = ast.parse(source)
    node, position = list(places(tree))[index]
    change = flip(node, position)
    return ast.unparse(ast.fix_missing_locations(tree)), f"line {getattr(node, 'lineno', 0)}: {change}"


def choose(folder: Path, *, count: int = NUM_MUTANTS, seed: int = SEED) -> list[Mutant]:
    """Choose places at random, the same ones for the same seed and source.

    Args:
        folder: The package's folder.
        count: How many.
        seed: Seed of the choice.

    Returns:
        At most `count` mutants.

    Raises:
        ValueError: If the package has nothing to flip.
    """
    found = []
    for file in sorted((folder / "src").rglob("*.py")):
        if not NOT_MATHEMATICS & {file.stem, file.stem.split("_")[0]}:
            tree = ast.parse(file.read_text())
            found += [(file.relative_to(folder).as_posix(), index) for index, _ in enumerate(places(tree))]
    if not found:
        raise ValueError(f"{folder} has no operator or constant to flip outside its standard modules.")
    chosen = sorted(random.Random(seed).sample(found, min(count, len(found))))
    return [Mutant(file, index, mutated((folder / file).read_text(), index)[1]) for file, index in chosen]


def find_folder(name: str, folders: list[str]) -> str:
    """Return the folder of a member given by its path or the path's last part.

    Args:
        name: Such as `mobileclip`, `packages/mobileclip` or `shared`.
        folders: All members' folders.

    Returns:
        One of `folders`.

    Raises:
        ValueError: If there is none, with what exists.
    """
    found = [folder for folder in folders if name in (folder, Path(folder).name)]
    if not found:
        raise ValueError(f"unknown package `{name}`; there are {', '.join(Path(f).name for f in folders)}.")
    return found[0]


def copy_package(root: Path, folder: str, to: Path) -> Path:
    """Copy the root's settings and one package.

    Args:
        root: Top of the workspace.
        folder: The package's folder, relative to the top.
        to: Where to copy, keeping the relative place.

    Returns:
        The copied package's folder.
    """
    shutil.copy(root / "pyproject.toml", to)
    skip = shutil.ignore_patterns("__pycache__", ".*_cache", "*.egg-info")
    return Path(shutil.copytree(root / folder, to / folder, ignore=skip))


def test_files(package: Path, module: str, *, own: bool) -> list[Path]:
    """Return a package's files of tests that speak of a module, or those that do not."""
    files = sorted((package / "tests").rglob("test_*.py"))
    return [file for file in files if own == (module in file.stem or module in file.read_text())]


def tests_pass(files: Sequence[Path], package: Path, top: Path) -> bool:
    """Run some of a copied package's tests on its copied source.

    Args:
        files: Of tests.
        package: The copied package's folder.
        top: Folder with the copied pyproject.toml.

    Returns:
        Whether they pass. Tests that hang count as failing.
    """
    if not files:
        return True
    command = [sys.executable, "-m", "pytest", "-c", str(top / "pyproject.toml"), "--rootdir", str(top)]
    command += ["-n", "0", "-x", "-q", "-p", "no:cacheprovider", *map(str, files)]
    environment = {**os.environ, "PYTHONPATH": str(package / "src"), "OMP_NUM_THREADS": "1"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        result = subprocess.run(
            command, cwd=top, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return result.returncode in (0, 5)  # 5: nothing but tests that take longer


def is_caught(root: Path, folder: str, mutant: Mutant | None, *, own: bool = True) -> bool:
    """Return whether fast tests of a package fail for one mutant.

    Args:
        root: Top of the workspace.
        folder: The package's folder, relative to the top.
        mutant: What to change; None for the package as it is.
        own: Run the tests that speak of the changed module, or the others.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        top = Path(name)
        package = copy_package(root, folder, top)
        if mutant is not None:
            file = package / mutant.file
            file.write_text(mutated(file.read_text(), mutant.index)[0])
        files = test_files(package, Path(mutant.file).stem if mutant else "", own=own)
        return not tests_pass(files, package, top)


def run(root: Path, folder: str) -> int:
    """Print each mutant and whether the tests caught it: its module's own, and where those catch too few all others.

    Args:
        root: Top of the workspace.
        folder: The package's folder, relative to the top.

    Returns:
        0 if enough were caught, 1 if not.

    Raises:
        ValueError: If the tests fail without any change.
    """
    mutants = choose(root / folder)
    needed, caught = -(-len(mutants) * MIN_CAUGHT // NUM_MUTANTS), set[Mutant]()
    with ThreadPoolExecutor(WORKERS) as pool:
        as_it_is = pool.submit(is_caught, root, folder, None)
        for own in (True, False):
            left = [mutant for mutant in mutants if mutant not in caught]
            if len(caught) >= needed:
                break
            found = pool.map(partial(is_caught, root, folder, own=own), left)
            for mutant, failed in zip(left, found, strict=True):
                word = "caught  " if failed else ("SURVIVED its module's tests" if own else "SURVIVED all others")
                print(f"{word} {mutant.file} {mutant.description}", flush=True)
                caught |= {mutant} if failed else set()
    if as_it_is.result():
        raise ValueError(f"the fast tests of {folder} fail as they are; make them pass first.")
    print(f"{len(caught)} of {len(mutants)} caught, at least {needed} needed")
    return 0 if len(caught) >= needed else 1
