"""What every command does alike: one line for bad input, tables or JSON for results, names of extras."""

from __future__ import annotations

import difflib
import dis
import errno
import importlib
import json as json_module
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NoReturn

from tenfold_shared.files import plain_json

__all__ = ["InputError", "print_result", "require_extra", "run_command", "unknown_name"]


class InputError(ValueError):
    """Bad input from outside: a file, an argument, an answer of a server."""


def run_command(
    main: Callable[[], int | None], *, kept: str = "files already written are whole and are kept"
) -> NoReturn:
    """Run a command's main function and end the process with its exit status.

    Expected errors become one line on stderr and status 2: `InputError`, a ValueError or ImportError
    that a Tenfold package raised on purpose, a path that cannot be used, a full disk. Everything else
    is a bug and keeps its traceback, as does everything with `TENFOLD_DEBUG=1`: a ValueError out of
    NumPy says nothing to a user and all to whoever mends it.

    Args:
        main: Does the work; returns the exit status, None for 0.
        kept: What the line after Ctrl-C says about the work done so far.
    """
    try:
        status = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say(f"interrupted; {kept}.")
        status = 130  # 128 + SIGINT, as shells report it
    except BrokenPipeError:
        # The reader went away; without this the interpreter complains once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141  # 128 + SIGPIPE
    except Exception as error:
        if os.environ.get("TENFOLD_DEBUG") == "1" or not _is_expected(error):
            raise
        _say(f"error: {_one_line(error)}")
        status = 2
    sys.exit(status)


def unknown_name(kind: str, name: str, known: Sequence[str]) -> ValueError:
    """Return the error for a name that does not exist: the nearest one, and all there are.

    Args:
        kind: What is named, such as "model".
        name: What was asked for.
        known: The names that exist.

    Returns:
        The error, to raise.

    Example:
        >>> print(unknown_name("model", "s9", ["s0", "b"]))
        unknown model 's9'; did you mean 's0'? Known: b, s0.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return ValueError(f"unknown {kind} {name!r}{hint} Known: {', '.join(sorted(known))}.")


def require_extra(module: str, extra: str, dist: str) -> ModuleType:
    """Import a module that an extra of a distribution installs.

    Where it is missing, the ImportError is the pip line; a module that is there but broken keeps its
    own error.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ImportError(f"`{module}` is not installed; run: pip install '{dist}[{extra}]'") from error


def print_result(rows_or_dict: Sequence[Mapping[str, Any]] | Mapping[str, Any], json: bool) -> None:
    """Print a result on stdout: JSON (nan as null), or a table with one line per row or key.

    Args:
        rows_or_dict: Rows with equal keys in the order of the first, or one mapping.
        json: The command's `--json`.

    Example:
        >>> print_result([{"label": "cat", "score": 0.91234}], json=False)
        label  score
        cat    0.9123
    """
    if json:
        print(json_module.dumps(plain_json(rows_or_dict), indent=2, ensure_ascii=False))
    elif isinstance(rows_or_dict, Mapping):
        _print_table([[key, value] for key, value in rows_or_dict.items()])
    else:
        names = list(dict.fromkeys(key for row in rows_or_dict for key in row))
        _print_table([names, *([row.get(name, "") for name in names] for row in rows_or_dict)])


def _print_table(lines: list[list[Any]]) -> None:
    cells = [[_cell(value) for value in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_expected(error: Exception) -> bool:
    """Whether the user can mend it: see `run_command`."""
    if isinstance(error, InputError):
        return True
    if isinstance(error, OSError):
        return error.filename is not None or error.errno == errno.ENOSPC or _raised_on_purpose(error)
    return isinstance(error, ValueError | ImportError) and _raised_on_purpose(error)


def _raised_on_purpose(error: Exception) -> bool:
    """Whether the innermost frame is ours and stands at a `raise`, not at a call that failed in C."""
    traceback = error.__traceback__
    if traceback is None:
        return False
    # The first frame is run_command, the second the command's own main function.
    ours = {"tenfold_shared", "tenfold_tools", _package_of(traceback.tb_next or traceback)}
    ours |= {entry.name for entry in metadata.entry_points(group="tenfold.experiments")}
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    instruction = traceback.tb_frame.f_code.co_code[traceback.tb_lasti]
    return instruction == dis.opmap["RAISE_VARARGS"] and _package_of(traceback) in ours


def _package_of(traceback: TracebackType) -> str:
    return str(traceback.tb_frame.f_globals.get("__name__", "")).split(".")[0]


def _one_line(error: Exception) -> str:
    """The message on one line; system errors as text and path, without their number."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


def _say(message: str) -> None:
    program = Path(sys.argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    print(f"{name or 'python'}: {message}", file=sys.stderr)
