"""Commands on data sets: reinforce, validate, join."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tenfold_shared.commands import InputError, print_result
from tyro.conf import Positional

if TYPE_CHECKING:
    from mobileclip.data import Tally

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True)
class Reinforce:
    """Compute augmentations, synthetic captions and teacher embeddings once and store them with the samples.

    For example:
    mobileclip reinforce photos.csv --out photos-dr --teachers open_clip:ViT-L-14@openai

    mobileclip reinforce shards/ --out shards-dr --teachers my-clip/ other-clip/ --captioner transformers:blip-base

    mobileclip reinforce photos.csv --out photos-dr --teachers my_module:build_teacher --workers 4 --resume
    """

    source: Positional[Path]
    """A .tar, .parquet or .csv file (columns: an image and a caption), or a folder of them."""
    out: Path
    """Folder for the shards."""
    teachers: tuple[str, ...]
    """Ensemble: open_clip:MODEL@WEIGHTS, transformers:NAME, a folder, or module:function; several are concatenated."""
    captioner: str | None = None
    """Synthetic captions: transformers:NAME or module:function; without it there are none."""
    num_augmentations: int = 10
    """Stored augmentations per image."""
    num_captions: int = 5
    """Synthetic captions per image."""
    storage: Literal["fp32", "bf16"] = "fp32"
    """Number format of stored embeddings; bf16 takes half the space."""
    samples_per_shard: int = 1000
    """Samples per shard, for tables; a tar becomes one shard."""
    batch_size: int = 8
    """Images whose augmentations the teachers see at once."""
    image_size: int = 224
    """Pixels of the teachers' images, by which translations are scaled."""
    workers: int = 1
    """Processes, each with its own teachers."""
    device: Device = "auto"
    """Where teachers run; auto takes a GPU when there is one."""
    seed: int = 0
    """Seed of augmentations and captions."""
    resume: bool = False
    """Go on with a folder that an earlier run began."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Write the set and print what was kept and dropped."""
        from mobileclip.augment import AugmentConfig
        from mobileclip.reinforce import ReinforceConfig, reinforce
        from mobileclip.runtime import resolve_device

        if (self.out / "config.json").exists() and not self.resume:
            raise InputError(f"{self.out} already holds a set; go on with --resume, or choose another --out.")
        config = ReinforceConfig(
            self.teachers,
            self.captioner,
            self.num_augmentations,
            self.num_captions,
            self.storage,
            AugmentConfig(image_size=self.image_size),
            self.samples_per_shard,
            self.batch_size,
            self.seed,
        )
        tally = reinforce(
            self.source, self.out, config, workers=self.workers, device=resolve_device(self.device), quiet=self.quiet
        )
        print_tally(tally, self.json)


@dataclass(frozen=True)
class Validate:
    """Read a whole reinforced set and name the first bad sample of each kind; status 1 if there is any.

    For example:
    mobileclip validate DataCompDR-12M/

    mobileclip validate photos-dr --json
    """

    folder: Positional[Path]
    """Shards of a reinforced set, released or your own."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines."""

    def run(self) -> int:
        """Print the counts; return 1 when something is bad."""
        from mobileclip.datacompdr import validate

        tally = validate(self.folder)
        print_tally(tally, self.json)
        return 1 if tally.dropped or not tally.kept else 0


@dataclass(frozen=True)
class Join:
    """Put images and captions into a reinforced set that was released without them, joined by uid.

    For example:
    mobileclip join DataCompDR-12M --images DataComp-12M --out DataCompDR-12M-images
    """

    folder: Positional[Path]
    """Shards of the reinforced set."""
    images: Path
    """Folder with tars of the same names that hold images and captions (img2dataset's layout)."""
    out: Path
    """Folder for the joined shards."""
    resume: bool = False
    """Leave out shards that an earlier run has written."""
    json: bool = False
    """Print JSON instead of a table."""
    quiet: bool = False
    """No log lines and no progress."""

    def run(self) -> None:
        """Write the shards and print what was joined."""
        from mobileclip.datacompdr import join

        if any(self.out.glob("*.tar")) and not self.resume:
            raise InputError(f"{self.out} already holds shards; go on with --resume, or choose another --out.")
        tally = join(self.folder, self.images, self.out, quiet=self.quiet)
        if not tally.kept:
            raise InputError(f"no image could be joined: {tally.sentence()}.")
        print_tally(tally, self.json)


def print_tally(tally: Tally, json: bool) -> None:
    """Print what was kept and dropped; the sentence about dropped samples goes to stderr as well."""
    if json:
        print_result(tally.to_dict(), True)
    else:
        rows = [{"samples": tally.kept, "": "kept", "first": ""}]
        rows += [
            {"samples": n, "": f"dropped: {name}", "first": tally.first[name]} for name, n in tally.dropped.items()
        ]
        print_result(rows, False)
    if tally.dropped:
        print(f"mobileclip: {tally.sentence()}.", file=sys.stderr)
