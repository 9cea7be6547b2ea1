"""Find the experiments and benchmarks that installed packages offer through entry points."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from tenfold_shared.commands import InputError, unknown_name

GROUPS = {"reproduce": "tenfold.experiments", "bench": "tenfold.benchmarks"}


def discover(kind: str) -> dict[str, EntryPoint]:
    """Return the entry points of one kind by paper name, in alphabetical order; no package is imported.

    Raises:
        InputError: two installed packages offer the same paper.
    """
    found: dict[str, EntryPoint] = {}
    for entry in sorted(entry_points(group=GROUPS[kind]), key=lambda entry: entry.name):
        known = found.setdefault(entry.name, entry)
        if known.value != entry.value:
            raise InputError(f"`{entry.name}` is offered twice, as {known.value} and {entry.value}; uninstall one.")
    return found


def select(found: dict[str, EntryPoint], papers: Sequence[str]) -> list[EntryPoint]:
    """Return the named papers' entry points in the order asked for, all of them for an empty sequence.

    Raises:
        ValueError: a name that nothing installed offers; the message lists what exists.
        InputError: nothing is installed at all.
    """
    if not found:
        raise InputError("no installed package offers anything to run; install one, or use `uv run` at the top level.")
    names = list(dict.fromkeys(paper.replace("-", "_") for paper in papers)) or list(found)
    for name in names:
        if name not in found:
            raise unknown_name("paper", name, list(found))
    return [found[name] for name in names]
