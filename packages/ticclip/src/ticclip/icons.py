"""The two real streams that come with the package: Material Design icons by release, OpenMoji by day."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from ticclip.builder import BuildConfig, build_index

Stream = Literal["material", "openmoji"]
# OpenMoji grew in bursts: days that part it into six steps of at least 89 pictures.
OPENMOJI_STEPS = "2018-06-01,2019-01-01,2020-01-01,2021-01-01,2023-01-01"
STEPS: dict[Stream, str] = {"material": "major", "openmoji": OPENMOJI_STEPS}


def stream_file(name: Stream) -> Path:
    """Return the parquet file of a stream."""
    return Path(str(resources.files("ticclip"))) / "streams" / f"{name}.parquet"


def build_stream(name: Stream, out: str | Path) -> Path:
    """Write the index of a stream into `out`; one that is there already is kept. Returns the folder.

    A fifth of the items is held out for testing, a tenth for validation, variants of one base name together.
    """
    if not (Path(out) / "index.json").exists():
        build_index([stream_file(name)], out, BuildConfig(by=STEPS[name], held_out=0.2, validation=0.1))
    return Path(out)


def build_family_stream(out: str | Path, num_steps: int = 7) -> Path:
    """Write an index of the Material icons in the order of their families instead of time; returns the folder.

    The same pictures and words, cut into `num_steps` equal steps by first tag (first word of the name where there is
    none): neighbours in meaning come together, so that forgetting, if a method forgets, must show.
    """
    import pyarrow
    import pyarrow.parquet

    out = Path(out)
    if (out / "index.json").exists():
        return out
    rows = pyarrow.parquet.read_table(stream_file("material")).to_pylist()
    rows.sort(key=lambda row: (row["family"] or f"~{row['uid'].split('-')[0]}", row["uid"]))
    for place, row in enumerate(rows):
        row["time"] = str(1 + place * num_steps // len(rows))
    out.mkdir(parents=True, exist_ok=True)
    ordered = out / "ordered.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), ordered)
    build_index([ordered], out, BuildConfig(by="value", held_out=0.2, validation=0.1))
    return out
