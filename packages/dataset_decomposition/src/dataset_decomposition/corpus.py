"""Real text with a heavy tail of lengths: the Python sources of two pinned packages, as a frozen list of hashes.

    python -m dataset_decomposition.corpus          (writes data/sources.txt anew)

sympy (BSD) and networkx (BSD) are read where pip put them (extra `demo`); only hashes and names are in this package.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

PACKAGES = ("networkx", "sympy")
LIST = "sources.txt"
MIN_BYTES = 64  # most __init__.py are shorter
HASH_DIGITS = 16


def read_sources() -> list[str]:
    """Return the documents in an order that is random and always the same: by hash.

    Raises:
        ImportError: The extra `demo` is not installed.
        InputError: An installed file is not the one that was listed.
    """
    roots = {package: _root(package) for package in PACKAGES}
    documents = []
    listed = resources.files("dataset_decomposition").joinpath("data", LIST).read_text("utf-8")
    for line in sorted(listed.splitlines()):
        digest, name = line.split(" ", 1)
        path = roots[name.split("/", 1)[0]] / name
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest()[:HASH_DIGITS] != digest:
            raise InputError(f"{name} is not the listed file; run: pip install 'dataset-decomposition[demo]'")
        documents.append(content.decode("utf-8"))
    return documents


def gather_functions(texts: Sequence[str]) -> list[list[str]]:
    """Return the functions and methods of each source file, with their decorators: documents of a few lines to many.

    As in CodeSearchNet a function is a document. Those that come again, in whatever file, are left out.

    Args:
        texts: Python sources.

    Returns:
        A list per file.
    """
    seen: set[str] = set()
    files = []
    for text in texts:
        fresh = [part for part in dict.fromkeys(split_functions(text)) if part not in seen]
        seen.update(fresh)
        files.append(fresh)
    return files


def split_functions(text: str) -> list[str]:
    """Return the source of each top-level function and of each method of a top-level class, in order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes in other people's strings
        body = ast.parse(text).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [inner for node in body for inner in (node.body if isinstance(node, ast.ClassDef) else [node])]
    lines = text.splitlines(keepends=True)
    return [
        "".join(lines[min(part.lineno for part in [node, *node.decorator_list]) - 1 : node.end_lineno])
        for node in nodes
        if isinstance(node, kinds)
    ]


def _root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ImportError(f"`{package}` is not installed; run: pip install 'dataset-decomposition[demo]'")
    return Path(spec.origin).parent.parent


def list_sources() -> list[str]:
    """Return a line per file: the start of its hash, and its name; files with equal content once."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        root = _root(package)
        for path in sorted((root / package).rglob("*.py")):
            content = path.read_bytes()
            if len(content) >= MIN_BYTES:
                digest = hashlib.sha256(content).hexdigest()[:HASH_DIGITS]
                found.setdefault(digest, path.relative_to(root).as_posix())
    return [f"{digest} {name}" for digest, name in sorted(found.items(), key=lambda item: item[1])]


if __name__ == "__main__":
    with atomic_write(Path(__file__).parent / "data" / LIST, "w") as output:
        output.write("\n".join(list_sources()) + "\n")
