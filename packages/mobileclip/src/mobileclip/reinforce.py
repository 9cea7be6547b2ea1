"""Building a reinforced data set (Sec. 4.1): what the teachers know is computed once and stored with the samples.

    mobileclip reinforce photos.csv --out photos-dr --teachers open_clip:ViT-L-14@openai --num-augmentations 10

Each unit of the source becomes one shard, written whole or not at all; a killed run goes on with the shards that are
missing, and gives the same bytes as one that was not killed. What is random depends on the seed and the sample's uid
alone, not on the order or the worker.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image
from tenfold_shared.commands import InputError
from tenfold_shared.files import atomic_write, write_json
from tenfold_shared.progress import progress

from mobileclip.augment import AugmentConfig, Parameters, generator_for, replay, sample
from mobileclip.data import Example, Tally, Unit, list_units, read_unit
from mobileclip.datacompdr import BadSample, Reinforcement, Shape, Storage, check, encode, write_tar
from mobileclip.datacompdr import read_config as read_set_config
from mobileclip.teachers import Captioner, Ensemble, load_captioner, load_teacher

logger = logging.getLogger(__name__)
TALLIES = "tallies"


@dataclass(frozen=True)
class ReinforceConfig:
    """What is stored with every sample.

    Args:
        teachers: Ensemble members, see `mobileclip.teachers.load_teacher`.
        captioner: See `mobileclip.teachers.load_captioner`; None stores no synthetic captions.
        num_augmentations: Stored augmentations per image (DataCompDR-1B has 10, -12M has 30).
        num_captions: Synthetic captions per image.
        storage: "fp32" or "bf16" (half the size).
        augment: What augmentations are drawn from.
        samples_per_shard: Samples per shard, for tables; a tar becomes one shard.
        batch_size: Images that the teachers see at a time, times the augmentations.
        seed: Of augmentations and captions.
    """

    teachers: tuple[str, ...]
    captioner: str | None = None
    num_augmentations: int = 10
    num_captions: int = 5
    storage: Storage = "fp32"
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    samples_per_shard: int = 1000
    batch_size: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_augmentations", "samples_per_shard", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` (={getattr(self, name)}) must be at least 1.")
        if not self.teachers:
            raise ValueError("`teachers` is empty; name at least one.")

    def to_dict(self) -> dict[str, object]:
        """Return the set's config.json, with the released sets' names where they have one."""
        return {
            "model_name": ",".join(self.teachers),
            "num_samples": self.num_augmentations,
            "num_captions": self.num_captions if self.captioner else 0,
            "captioner": self.captioner,
            "storage": self.storage,
            "augmentation": {
                "random_resized_crop": {"scale": list(self.augment.scale), "ratio": list(self.augment.ratio)},
                "rand_augment": {"num_ops": self.augment.num_operations, "magnitude": self.augment.magnitude},
                "image_size": self.augment.image_size,
            },
            "samples_per_shard": self.samples_per_shard,
            "batch_size": self.batch_size,
            "seed": self.seed,
        }


def reinforce(
    source: str | Path,
    out: str | Path,
    config: ReinforceConfig,
    *,
    workers: int = 1,
    device: str = "cpu",
    quiet: bool = False,
) -> Tally:
    """Write a reinforced set of a source, going on where an earlier run with equal settings stopped.

    Args:
        source: Tars, parquet files or a CSV; see `mobileclip.data.list_units`.
        out: Folder for the shards, `config.json` and one tally per shard.
        config: What is stored.
        workers: Processes, each with its own teachers.
        device: Where the teachers run.
        quiet: Whether to leave progress out.

    Returns:
        Samples kept and dropped over all shards, those of earlier runs included.

    Raises:
        InputError: The folder holds a set made with other settings, the disk is full, or no sample is good.

    Example:
        >>> from mobileclip.reinforce import ReinforceConfig
        >>> config = ReinforceConfig(teachers=("open_clip:ViT-L-14@openai",), num_augmentations=10)
        >>> config.to_dict()["num_samples"]
        10
    """
    out = Path(out)
    units = list_units(source, config.samples_per_shard)
    _prepare_folder(out, config)
    todo = [unit for unit in units if not _tally_path(out, unit).is_file()]
    if len(todo) < len(units):
        logger.info("%d of %d shards are done already", len(units) - len(todo), len(units))
    try:
        for _ in progress(
            _run(todo, out, config, workers, device), total=len(todo), description="reinforce", unit="shards",
            quiet=quiet,
        ):  # fmt: skip
            pass
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        kept = _total(out, units)
        raise InputError(
            f"the disk is full; whole shards with {kept.kept} samples are kept in {out}: "
            "free some space and run again with --resume."
        ) from error
    tally = _total(out, units)
    _write_dims(out, units)
    if not tally.kept:
        raise InputError(f"no good sample in {source}: {tally.sentence()}.")
    return tally


def _prepare_folder(out: Path, config: ReinforceConfig) -> None:
    """Make the folder, or check that it was made with equal settings; what a killed writer left goes."""
    found, expected = read_set_config(out), config.to_dict()
    if found:
        different = [name for name, value in expected.items() if found.get(name) != value]
        if different:
            name = different[0]
            raise InputError(
                f"{out} holds a set made with `{name}` {found.get(name)!r}, not {expected[name]!r}; use another --out."
            )
    else:
        write_json(out / "config.json", expected)
    for left in [*out.glob(".*.tmp"), *(out / TALLIES).glob(".*.tmp")]:
        left.unlink()


def _run(todo: list[Unit], out: Path, config: ReinforceConfig, workers: int, device: str) -> Iterator[None]:
    if workers <= 1 or len(todo) <= 1:
        for unit in todo:
            yield reinforce_unit(unit, out, config, device)
        return
    # "spawn": a forked process may not use CUDA, nor torch's threads.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(reinforce_unit, unit, out, config, device) for unit in todo]):
            yield done.result()


def reinforce_unit(unit: Unit, out: Path, config: ReinforceConfig, device: str = "cpu") -> None:
    """Write the shard of one unit, then its tally, each whole or not at all.

    Args:
        unit: Part of the source.
        out: Folder of the set.
        config: What is stored.
        device: Where the teachers run.
    """
    ensemble, captioner = _load(config, device)
    tally, dims = Tally(), []
    samples = _reinforced(read_unit(unit, tally), ensemble, captioner, config, (tally, dims))
    first = next(samples, None)
    if first is not None:
        with atomic_write(out / f"{unit.name}.tar") as file:
            write_tar(file, itertools.chain([first], samples))
    write_json(_tally_path(out, unit), {**tally.to_dict(), "teacher_dims": dims})


@cache
def _load(config: ReinforceConfig, device: str) -> tuple[Ensemble, Captioner | None]:
    """Load teachers and captioner, once per process."""
    captioner = None if config.captioner is None else load_captioner(config.captioner, device)
    return Ensemble([load_teacher(name, device) for name in config.teachers]), captioner


def _reinforced(
    examples: Iterable[Example],
    ensemble: Ensemble,
    captioner: Captioner | None,
    config: ReinforceConfig,
    counted: tuple[Tally, list[int]],
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield key and members of each good sample; fill the tally and the widths of the teachers."""
    tally, dims = counted
    for batch in _batches(_opened(examples, tally), config.batch_size):
        for example, sample_, widths in reinforce_batch(batch, ensemble, captioner, config):
            dims[:] = dims or widths
            try:
                check(sample_, Shape(config.num_augmentations, _num_captions(config), sum(dims)))
            except BadSample as bad:
                tally.drop(bad.reason, str(bad))
                continue
            tally.kept += 1
            yield (
                example.uid,
                {_extension(example.image): example.image, "txt": example.caption.encode()}
                | encode(sample_, config.storage),
            )


def _num_captions(config: ReinforceConfig) -> int:
    return config.num_captions if config.captioner else 0


def reinforce_batch(
    batch: list[tuple[Example, Image.Image]], ensemble: Ensemble, captioner: Captioner | None, config: ReinforceConfig
) -> Iterator[tuple[Example, Reinforcement, tuple[int, ...]]]:
    """Compute what is stored with each sample of a batch.

    Args:
        batch: Samples with their decoded images.
        ensemble: Teachers.
        captioner: None for no synthetic captions.
        config: What is stored.

    Yields:
        The sample, its reinforcement and the width of each teacher.
    """
    drawn = [_draw(example.uid, image, config) for example, image in batch]
    captions = _caption(batch, captioner, config)
    pairs = [(image, parameters) for (_, image), row in zip(batch, drawn, strict=True) for parameters in row]
    image_emb, dims = ensemble.embed_images(lambda size: [replay(image, row, size) for image, row in pairs])
    texts = [[example.caption, *row] for (example, _), row in zip(batch, captions, strict=True)]
    text_emb, _ = ensemble.embed_texts([text for row in texts for text in row])
    images = image_emb.split(config.num_augmentations)
    rows = text_emb.split([len(row) for row in texts])
    for (example, _), row, synthetic, image, text in zip(batch, drawn, captions, images, rows, strict=True):
        yield example, Reinforcement(example.uid, tuple(row), tuple(synthetic), image, text, example.url), dims


def _draw(uid: str, image: Image.Image, config: ReinforceConfig) -> list[Parameters]:
    generator = generator_for(config.seed, uid)
    return [sample(image.width, image.height, config.augment, generator) for _ in range(config.num_augmentations)]


def _caption(
    batch: list[tuple[Example, Image.Image]], captioner: Captioner | None, config: ReinforceConfig
) -> list[list[str]]:
    if captioner is None:
        return [[] for _ in batch]
    digest = hashlib.sha256("\0".join([str(config.seed), *(example.uid for example, _ in batch)]).encode()).digest()
    return captioner([image for _, image in batch], config.num_captions, int.from_bytes(digest[:4], "big"))


def _opened(examples: Iterable[Example], tally: Tally) -> Iterator[tuple[Example, Image.Image]]:
    """Decode images and drop what cannot be: unreadable pictures and uids that come twice in a unit."""
    seen: set[str] = set()
    for example in examples:
        if example.uid in seen:
            tally.drop("repeated uid", f"{example.uid} comes twice")
            continue
        seen.add(example.uid)
        try:
            yield example, example.open()
        except InputError as error:
            tally.drop("unreadable image", str(error))


def _batches(items: Iterable[tuple[Example, Image.Image]], size: int) -> Iterator[list[tuple[Example, Image.Image]]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _extension(content: bytes) -> str:
    """Return the extension of an image file by its first bytes."""
    if content.startswith(b"\x89PNG"):
        return "png"
    return "webp" if content[8:12] == b"WEBP" else "jpg"


def _tally_path(out: Path, unit: Unit) -> Path:
    return out / TALLIES / f"{unit.name}.json"


def _write_dims(out: Path, units: list[Unit]) -> None:
    """Add the widths of the teachers to config.json; shards of other widths are an error."""
    widths = {
        tuple(found): unit.name
        for unit in units
        if (found := json.loads(_tally_path(out, unit).read_text())["teacher_dims"])
    }
    if len(widths) > 1:
        (one, name), (other, second), *_ = widths.items()
        raise InputError(
            f"teacher of another width: shard {name} has {list(one)}, shard {second} has {list(other)}; "
            "remove the tallies of one of them and run again with the teachers of the other."
        )
    if widths:
        write_json(out / "config.json", {**read_set_config(out), "teacher_dims": list(next(iter(widths)))})


def _total(out: Path, units: list[Unit]) -> Tally:
    total = Tally()
    for unit in units:
        if (path := _tally_path(out, unit)).is_file():
            total.merge(Tally.from_dict(json.loads(path.read_text())))
    return total
