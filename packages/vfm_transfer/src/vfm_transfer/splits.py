"""Label budgets as the paper draws them, and its split files: one `filename[,class]` a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write

from vfm_transfer.config import SplitPlan
from vfm_transfer.images import read_list

__all__ = ["make_splits", "read_split", "write_splits"]

Row = tuple[str, str]  # file name, class ("" for segmentation)
Splits = dict[str, list[Row]]


def read_split(path: str | Path) -> list[Row]:
    """Read a split file of the paper.

    Args:
        path: Text of lines `filename` or `filename,class`.

    Returns:
        File names with their class, "" where there is none.

    Raises:
        InputError: An empty file, or a name twice.
    """
    rows = read_list(Path(path))
    if not rows:
        raise InputError(f"{path}: no lines; a split file has one `filename[,class]` a line.")
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{path}: {twice} is there twice.")
    return rows


def write_splits(folder: str | Path, splits: Mapping[str, Sequence[Row]]) -> None:
    """Write one file `NAME.txt` for each split, in the paper's form."""
    for name, rows in splits.items():
        with atomic_write(Path(folder) / f"{name}.txt", "w") as file:
            file.writelines(f"{file_name},{label}\n" if label else f"{file_name}\n" for file_name, label in rows)


def make_splits(
    rows: Sequence[Row], plan: SplitPlan, seed: int, *, val: Sequence[Row] = (), test: Sequence[Row] = ()
) -> Splits:
    """Divide a data set and draw its label budgets; smaller budgets lie inside larger ones, as in the paper's files.

    EuroSAT has one pool, which is cut by class in the order of the file names: testing, training, validation (70, 10,
    20 %), as the paper's files are. ADE20K gives the last training images to validation, Places365 a random tenth of
    the official validation images, the rest of which tests; HAM10K and ImageNet have parts of their own. Which images
    a budget takes follows from the seed; the paper's own draw is in its files, which `read_split` reads.

    Args:
        rows: Training images (all images where there is one pool), with their class.
        plan: Of `vfm_transfer.config.SPLITS`, or one of your own.
        seed: Of the draws.
        val: Official validation images.
        test: Official test images.

    Returns:
        `train_full`, `val`, `test` (where there are such) and every budget.

    Raises:
        InputError: Fewer images of a class than a budget asks for, or a name twice.
    """
    names = [name for name, _ in rows]
    if len(set(names)) < len(names):
        raise InputError(f"{len(names) - len(set(names))} file names are there twice; a split needs each once.")
    splits: Splits = {"train_full": sorted(rows, key=natural)}
    if plan.train < 1:
        splits = _cut(rows, plan)
    if plan.val_images:
        if plan.val_images >= len(rows):
            raise InputError(f"{len(rows)} images; {plan.val_images} are for validation and leave none.")
        splits |= {
            "train_full": splits["train_full"][: -plan.val_images],
            "val": splits["train_full"][-plan.val_images :],
        }
    if val:
        splits |= _official(val, plan, seed)
    if test:
        splits["test"] = sorted(test, key=natural)
    return splits | draw_budgets(splits["train_full"], plan, seed)


def natural(row: Row) -> tuple[str, list[int | str]]:
    """Key that orders by class, and file names by the numbers in them."""
    return row[1], [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", row[0])]


def by_class(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Group rows by class, in sorted order."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=natural):
        groups.setdefault(row[1], []).append(row)
    return groups


def _cut(rows: Sequence[Row], plan: SplitPlan) -> Splits:
    """Cut every class at the same shares: testing first, then training, then validation."""
    splits: Splits = {"test": [], "train_full": [], "val": []}
    for group in by_class(rows).values():
        first = round((1 - plan.train - plan.val) * len(group))
        second = first + round(plan.train * len(group))
        for name, part in (("test", group[:first]), ("train_full", group[first:second]), ("val", group[second:])):
            splits[name] += part
    return splits


def _official(val: Sequence[Row], plan: SplitPlan, seed: int) -> Splits:
    rows = sorted(val, key=natural)
    if not plan.val_of_test:
        return {"val": rows}
    order = np.random.default_rng([seed, 5]).permutation(len(rows))
    count = round(plan.val_of_test * len(rows))
    chosen = set(order[:count].tolist())
    return {
        "val": [row for number, row in enumerate(rows) if number in chosen],
        "test": [row for number, row in enumerate(rows) if number not in chosen],
    }


def draw_budgets(rows: Sequence[Row], plan: SplitPlan, seed: int) -> Splits:
    """Draw every budget out of the training images."""
    generator = np.random.default_rng([seed, 6])
    if plan.kind == "images":
        order = [rows[number] for number in generator.permutation(len(rows))]
        if max(plan.budgets.values()) > len(rows):
            raise InputError(f"{len(rows)} training images, fewer than the budget of {max(plan.budgets.values()):g}.")
        return {name: order[: int(size)] for name, size in plan.budgets.items()}
    groups = {label: [group[n] for n in generator.permutation(len(group))] for label, group in by_class(rows).items()}
    found: Splits = {}
    for name, size in plan.budgets.items():
        found[name] = []
        for label, group in groups.items():
            count = round(size / 100 * len(group)) if plan.kind == "percent" else int(size)
            if plan.kind == "per_class" and count > len(group):
                raise InputError(f"class {label!r} has {len(group)} training images, fewer than the {count} of {name}.")
            found[name] += group[:count]
    return found
