"""What reading reinforced data costs: the same loader on plain and on reinforced shards, and teachers in the loop.

Fixed before the run. Data: windows of 400 x 300 pixels from scikit-image's photographs as JPEG files in shards, loaded
at 256 pixels (a first attempt on OpenMoji's 64-pixel icons is in the CHANGELOG: there is next to nothing to decode
there, and the reinforced loader ran at half the plain rate). Every round reads one batch of the same
samples by each way, in random order: plain (image, caption, a random crop), reinforced (image, captions, embeddings
of two teachers, a stored augmentation replayed), online (fresh augmentations that two teachers and a captioner see
while loading, as one would without stored ones). Primary metric: rate of the reinforced loader over the plain one;
the paper says "no overhead", here at least 0.9 counts as that. Teachers have random weights: their time does not
depend on them.
"""

from __future__ import annotations

import dataclasses
import io
import itertools
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import interleave
from tenfold_shared.claims import ClaimResult
from tenfold_shared.environment import seed_everything

from mobileclip.augment import AugmentConfig
from mobileclip.checkpoint import save_pretrained
from mobileclip.config import PRESETS, TRAIN_PRESETS, TrainConfig
from mobileclip.data import Example, Tally
from mobileclip.datacompdr import write_tar
from mobileclip.factory import Tokenizer
from mobileclip.loader import Batch, ShardedSamples, StepDataset
from mobileclip.model import MobileCLIP
from mobileclip.peers import read_photographs
from mobileclip.reinforce import ReinforceConfig, reinforce, reinforce_batch
from mobileclip.teachers import Ensemble, load_captioner, load_teacher

Budget = Literal["smoke", "laptop", "full"]
ROUNDS: dict[Budget, int] = {"smoke": 2, "laptop": 15, "full": 60}
NUM_IMAGES: dict[Budget, int] = {"smoke": 32, "laptop": 128, "full": 320}
SMALLEST_SHARE = 0.9
IMAGE_SIZE, WINDOW = 256, (400, 300)
BATCH = 32


class Loaders:
    """Three ways to the same batches, and how fast reinforcing was.

    Args:
        folder: For shards and teachers.
        budget: How many images there are.
        num_augmentations: Stored per image.
    """

    def __init__(self, folder: Path, budget: Budget, num_augmentations: int = 5) -> None:
        seed_everything(0)
        teachers = []
        for name in ("first", "second"):
            save_pretrained(MobileCLIP(PRESETS["mobileclip_tiny"]), folder / name)
            teachers.append(str(folder / name))
        (folder / "plain").mkdir()
        with open(folder / "plain/00000000.tar", "wb") as file:
            write_tar(file, _photographs(NUM_IMAGES[budget]))
        self.config = ReinforceConfig(
            tuple(teachers), "mobileclip.overhead:first_words", num_augmentations, augment=AugmentConfig(image_size=64)
        )
        start = time.perf_counter()
        self.tally: Tally = reinforce(folder / "plain", folder / "dr", self.config, quiet=True)
        self.reinforce_seconds = time.perf_counter() - start
        model = PRESETS["mobileclip_tiny"]
        model = dataclasses.replace(model, image=dataclasses.replace(model.image, image_size=IMAGE_SIZE))
        tiny = dataclasses.replace(TRAIN_PRESETS["tiny"], model=model, batch_size=BATCH)
        plain = dataclasses.replace(tiny, distill_weight=0.0, synthetic=False, augmentation="crop")
        self._plain, self._reinforced = self._dataset(folder / "plain", plain), self._dataset(folder / "dr", tiny)
        self._ensemble = Ensemble([load_teacher(name) for name in teachers])

    def _dataset(self, folder: Path, config: TrainConfig) -> StepDataset:
        return StepDataset(ShardedSamples(folder), config, Tokenizer())

    def ways(self) -> dict[str, Callable[[], object]]:
        """Return functions by name that read one batch a call: each at its n-th call the batch of step n."""
        ways = {"plain": self._plain.__getitem__, "reinforced": self._reinforced.__getitem__, "online": self._online}
        return {name: partial(next, map(read, itertools.count())) for name, read in ways.items()}

    def _online(self, step: int) -> Batch:
        """Load a plain batch and compute what a reinforced one has stored: one augmentation, one synthetic caption."""
        batch = self._plain[step]
        config = dataclasses.replace(self.config, num_augmentations=1, num_captions=1, seed=step)
        examples = [(example := self._example(uid), example.open()) for uid in batch.uids]
        rows = list(reinforce_batch(examples, self._ensemble, load_captioner(config.captioner or ""), config))
        image, text = (torch.cat([getattr(row[1], name) for row in rows]) for name in ("image_emb", "text_emb"))
        return dataclasses.replace(batch, teacher_image=image, teacher_text=text)

    def _example(self, uid: str) -> Example:
        samples = self._plain.samples
        index = next(i for i in range(len(samples)) if samples.key(i) == uid)
        members = samples.read(index)
        return Example(uid, members["jpg"], members["txt"].decode())


def _photographs(count: int) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield windows of photographs as samples."""
    photographs = [picture for picture in read_photographs().values() if min(picture.size) >= max(WINDOW)]
    draw = random.Random(0)
    for number in range(count):
        picture = photographs[number % len(photographs)]
        left, top = (draw.randint(0, side - window) for side, window in zip(picture.size, WINDOW, strict=True))
        buffer = io.BytesIO()
        picture.crop((left, top, left + WINDOW[0], top + WINDOW[1])).save(buffer, "JPEG", quality=90)
        yield f"w{number:06d}", {"jpg": buffer.getvalue(), "txt": f"a window of photograph {number}".encode()}


def first_words(images: list, num_captions: int, seed: int) -> list[list[str]]:
    """Caption pictures by nothing at all: the cheapest captioner there can be, so that online is not overcharged."""
    return [["a picture"] * num_captions for _ in images]


def measure(out: Path, *, budget: Budget) -> list[ClaimResult]:
    """Time the three ways and judge the claim that reinforced data cost nothing to read.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: "smoke", "laptop" or "full".
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=out) as folder:
        loaders = Loaders(Path(folder), budget)
        seconds = interleave(loaders.ways(), ROUNDS[budget], clock=time.perf_counter)
    rates = {name: BATCH / float(np.median(values)) for name, values in seconds.items()}
    note = ", ".join(f"{name} {rate:.0f} samples/s" for name, rate in rates.items()) + "; one process, rounds as seeds."
    rows = (("plain", "as fast to read as plain data, within 10 %", SMALLEST_SHARE, 0.0),
            ("online", "faster to read than teachers run in the loop", 1.0, 0.5))  # fmt: skip
    return [
        ClaimResult.compare(
            paper="mobileclip",
            claim=f"Reinforced data are {words}",
            primary_metric=f"rate of the reinforced loader over {name}",
            paper_value=None,
            ours=(seconds[name] / seconds["reinforced"]).tolist(),
            control=[share] * len(seconds[name]),
            control_name=f"{share:g} of {name}",
            minimum_effect=effect,
            budget=budget,
            evidence="real",
            data=f"{NUM_IMAGES[budget]} windows of scikit-image's photographs, batches of {BATCH}, {IMAGE_SIZE} pixels",
            seconds=time.perf_counter() - start,
            note=note,
        )
        for name, words, share, effect in rows
    ]
