"""Sizes of functions and files, numbers of arguments and docstrings, measured against the house style.

`tenfold check --metrics` prints them. What is over a limit for a reason has a row in `tests/allowed.toml`.
"""

import ast
import statistics
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FUNCTION_LINES = 60
MAX_FILE_LINES = 400
MAX_ARGUMENTS = 6
MAX_SHARED_LINES = 1500  # blank lines not counted
MEDIAN_FUNCTION_LINES = 12
NINETIETH_FUNCTION_LINES = 40

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Excess:
    """Something over a limit.

    Attributes:
        where: `path` or `path::name`, relative to the top.
        what: What is over which limit.
    """

    where: str
    what: str


@dataclass(frozen=True)
class Report:
    """Sizes of one member's source.

    Attributes:
        name: Folder of the member.
        functions: Lines of each function.
        files: Lines of each file.
        excesses: What is over a limit.
    """

    name: str
    functions: tuple[int, ...]
    files: tuple[int, ...]
    excesses: tuple[Excess, ...]

    def line(self) -> str:
        """Return one line with the medians, 90th percentiles and maxima."""
        functions, files = self.functions or (0,), self.files or (0,)
        return (
            f"{self.name:32} functions {len(self.functions):4}: median {statistics.median(functions):3.0f},"
            f" 90 % {percentile(functions, 0.9):3.0f}, most {max(functions):3}; files {len(self.files):3}:"
            f" median {statistics.median(files):4.0f}, most {max(files):4}; lines {sum(self.files):5}"
        )


def percentile(values: tuple[int, ...], share: float) -> int:
    """Return the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


def function_lines(function: Function) -> int:
    """Return the lines of a function, from `def` to its end, without its docstring.

    The docstring is left out because the house style asks for long ones.
    """
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function, clean=False) is not None:
        text = function.body[0]
        lines -= (text.end_lineno or text.lineno) - text.lineno + 1
    return lines


def functions_of(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Yield each function with its dotted name; functions inside functions count with the outer one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions_of(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from functions_of(node, prefix)


def function_excesses(name: str, function: Function) -> list[str]:
    """Return what is over a limit in one function.

    Args:
        name: Dotted name in its module; a leading underscore in any part makes it private.
        function: Its definition.

    Returns:
        One phrase per excess.
    """
    found = []
    if (lines := function_lines(function)) > MAX_FUNCTION_LINES:
        found.append(f"{lines} lines, at most {MAX_FUNCTION_LINES}")
    arguments = function.args
    positional = [argument.arg for argument in arguments.posonlyargs + arguments.args]
    positional = positional[1:] if positional[:1] in (["self"], ["cls"]) else positional
    if (count := len(positional) + len(arguments.kwonlyargs)) > MAX_ARGUMENTS:
        found.append(f"{count} arguments, at most {MAX_ARGUMENTS}")
    return found


def file_report(path: Path, where: str) -> tuple[list[int], list[Excess]]:
    """Measure one file.

    Args:
        path: A Python file.
        where: How the report names it.

    Returns:
        Lines of each function, and what is over a limit.
    """
    text = path.read_text()
    excesses = []
    if (count := len(text.splitlines())) > MAX_FILE_LINES:
        excesses.append(Excess(where, f"{count} lines, at most {MAX_FILE_LINES}"))
    named = list(functions_of(ast.parse(text)))
    for name, function in named:
        excesses += [Excess(f"{where}::{name}", what) for what in function_excesses(name, function)]
    return [function_lines(function) for _, function in named], excesses


def member_report(root: Path, folder: str) -> Report:
    """Measure the source of one member, and the length of its test files.

    Args:
        root: Top of the workspace.
        folder: Folder of the member, relative to the top.

    Returns:
        Its sizes. Tests count for the limit on a file's lines only.
    """
    functions: list[int] = []
    files: list[int] = []
    excesses: list[Excess] = []
    for path in sorted((root / folder / "src").rglob("*.py")):
        lengths, found = file_report(path, path.relative_to(root).as_posix())
        functions += lengths
        files.append(len(path.read_text().splitlines()))
        excesses += found
    for path in sorted((root / folder / "tests").rglob("*.py")):
        excesses += [row for row in file_report(path, path.relative_to(root).as_posix())[1] if "::" not in row.where]
    return Report(folder, tuple(functions), tuple(files), tuple(excesses + overall_excesses(folder, functions)))


def overall_excesses(folder: str, functions: list[int]) -> list[Excess]:
    """Return what is over a limit that holds for a member as a whole."""
    found = []
    lengths = tuple(functions or [0])
    if (median := statistics.median(lengths)) > MEDIAN_FUNCTION_LINES:
        found.append(Excess(folder, f"median function {median:g} lines, aim {MEDIAN_FUNCTION_LINES}"))
    if (most := percentile(lengths, 0.9)) > NINETIETH_FUNCTION_LINES:
        found.append(Excess(folder, f"90 % of functions under {most} lines, aim {NINETIETH_FUNCTION_LINES}"))
    return found


def docstring_problems(path: Path, names: set[str]) -> list[Excess]:
    """Return the public functions and classes of a file whose docstrings lack what the house style asks for.

    A function with arguments needs `Args:`, one that returns something `Returns:` (or `Yields:`); one line is
    enough for a function of at most one argument.

    Args:
        path: A Python file.
        names: Public names; others are not looked at.

    Returns:
        What is missing where.
    """
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, Function | ast.ClassDef) and node.name in names:
            missing = _missing(node)
            if missing:
                found.append(Excess(f"{path.name}::{node.name}", f"docstring lacks {' and '.join(missing)}"))
    return found


def _missing(node: Function | ast.ClassDef) -> list[str]:
    text = ast.get_docstring(node) or ""
    if not text:
        return ["everything"]
    if isinstance(node, ast.ClassDef):
        return []
    count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs)
    returns = node.returns is not None and ast.unparse(node.returns) not in ("None", "NoReturn")
    missing = ["Args"] if count > 1 and "Args:" not in text else []
    return missing + (["Returns"] if returns and count > 1 and not ("Returns:" in text or "Yields:" in text) else [])


def explained(root: Path) -> dict[str, str]:
    """Return what may be over a limit, with the reason, from `tests/allowed.toml`.

    Args:
        root: Top of the workspace.

    Returns:
        Reasons by `path` or `path::name`.
    """
    rows = tomllib.loads((root / "tests" / "allowed.toml").read_text()).get("size", [])
    return {row["where"]: row["reason"] for row in rows}


def run(root: Path, folders: list[str]) -> int:
    """Print the sizes of every member, then what is over a limit.

    Args:
        root: Top of the workspace.
        folders: Folders of the members.

    Returns:
        0, or 1 if something is over a limit without a reason.
    """
    reasons = explained(root)
    reports = [member_report(root, folder) for folder in folders]
    for report in reports:
        print(report.line())
    over = [excess for report in reports for excess in report.excesses]
    for excess in over:
        print(f"{excess.where}: {excess.what}" + (f" ({reason})" if (reason := reasons.get(excess.where)) else ""))
    return 1 if any(excess.where not in reasons for excess in over) else 0
