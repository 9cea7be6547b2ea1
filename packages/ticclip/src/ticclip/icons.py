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
