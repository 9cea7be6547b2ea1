"""Logits of both teachers, computed once: they do not change while the compatibility adapter is trained.

A cache is a folder: `cache.json` with the fingerprint of data, models and adapters, and for each teacher either all
log-probabilities (float16) or the `top` largest with the mass of the rest as one tail. They are kept at the
temperature of the loss, where the mass of the tail is exact; within the tail it is taken as evenly spread, so that a
token's distribution is off by at most that mass.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tenfold_shared.commands import InputError
from tenfold_shared.files import write_json
from tenfold_shared.progress import progress
from torch import Tensor

from muscle.config import MaskName
from muscle.loss import IGNORED, Mask, divergence, follow_old, token_losses
from muscle.models import adapter_fingerprint, fingerprint

MANIFEST = "cache.json"
SCHEMA = 1
BATCH = 16


@dataclass(frozen=True)
class Spec:
    """What a cache is of.

    Attributes:
        fingerprint: Of examples, models, adapters, temperature and `top`.
        temperature: T.
        vocab_size: Tokens of the vocabulary.
        top: Log-probabilities kept of each token; 0 for all.
        offsets: Where each example's tokens start, and the end.
    """

    fingerprint: str
    temperature: float
    vocab_size: int
    top: int
    offsets: tuple[int, ...]


def describe(examples: Sequence[Sequence[int]], models: Sequence[Any], temperature: float, top: int) -> Spec:
    """Return what a cache of these examples' tokens under the old and the new model is."""
    digest = hashlib.sha256(json.dumps([SCHEMA, temperature, top]).encode())
    for ids in examples:
        digest.update(np.asarray([len(ids), *ids], dtype=np.int64).tobytes())
    for model in models:
        digest.update((fingerprint(model) + adapter_fingerprint(model)).encode())
    vocab = int(models[0].config.vocab_size)
    if top >= vocab:
        raise ValueError(f"`cache_top` (={top}) must be below the vocabulary of {vocab}; 0 keeps all.")
    offsets = np.concatenate([[0], np.cumsum([max(0, len(ids) - 1) for ids in examples])])
    return Spec(digest.hexdigest()[:32], temperature, vocab, top, tuple(int(n) for n in offsets))


class TeacherCache:
    """Softened log-probabilities of the old and new model for every token of the training examples."""

    def __init__(self, path: str | Path) -> None:
        """Open a cache.

        Raises:
            InputError: None there, or not a whole one.
        """
        self.path = Path(path)
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            raise InputError(f"no teacher cache at {self.path}.")
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if content.pop("schema", None) != SCHEMA:
            raise InputError(f"{manifest} is of another version; delete the folder and run again.")
        self.spec = Spec(**{**content, "offsets": tuple(content["offsets"])})
        names = ("logs",) if not self.spec.top else ("places", "logs", "tail")
        self.arrays = {
            (who, name): np.load(self.path / f"{who}-{name}.npy", mmap_mode="r", allow_pickle=False)
            for who in ("old", "new")
            for name in names
        }

    def check(self, spec: Spec) -> None:
        """Refuse a cache of other data, models, adapters or settings.

        Raises:
            InputError: The fingerprints differ.
        """
        if spec.fingerprint != self.spec.fingerprint:
            raise InputError(
                f"the teacher cache at {self.path} is of other data, models or settings (fingerprint "
                f"{self.spec.fingerprint[:8]}, expected {spec.fingerprint[:8]}); delete it or name another folder."
            )

    @property
    def bytes_per_token(self) -> float:
        """Size on disk over tokens, both teachers together."""
        return sum(array.nbytes for array in self.arrays.values()) / max(1, self.spec.offsets[-1])

    def log_probabilities(self, who: str, example: int, places: np.ndarray) -> Tensor:
        """Return one teacher's softened log-probabilities at some targets of an example [places, vocab]."""
        part = self.spec.offsets[example] + places
        logs = torch.from_numpy(self.arrays[who, "logs"][part]).float()
        if not self.spec.top:
            return logs
        tail = torch.from_numpy(self.arrays[who, "tail"][part])
        rest = (tail - math.log(self.spec.vocab_size - self.spec.top))[:, None]
        kept = torch.from_numpy(self.arrays[who, "places"][part].astype(np.int64))
        return rest.expand(-1, self.spec.vocab_size).scatter(1, kept, logs)

    def logits(self, who: str, example: int, num_tokens: int) -> Tensor:
        """Return one teacher's logits for the first targets of an example [num_tokens, vocab], at temperature 1.

        They are T times the kept log-probabilities, so that dividing by T gives the softened distribution again.
        """
        places = np.arange(min(num_tokens, self.num_targets(example)))
        return self.log_probabilities(who, example, places) * self.spec.temperature

    def num_targets(self, example: int) -> int:
        """Return how many tokens of an example have a prediction."""
        return self.spec.offsets[example + 1] - self.spec.offsets[example]

    def chosen(self, examples: Sequence[int], old: Tensor) -> Tensor:
        """Return for each token the softened log-probabilities of one teacher: the old one where `old` is true.

        Args:
            examples: Of the batch.
            old: Boolean [examples, length].
        """
        found = torch.empty(*old.shape, self.spec.vocab_size)
        for row, follow, example in zip(found, old.cpu().numpy(), examples, strict=True):
            count = min(len(row), self.num_targets(int(example)))
            row[count:] = 0.0
            for who, places in (("old", np.flatnonzero(follow[:count])), ("new", np.flatnonzero(~follow[:count]))):
                if len(places) == count:
                    row[:count] = self.log_probabilities(who, int(example), places)
                elif len(places):
                    row[torch.from_numpy(places)] = self.log_probabilities(who, int(example), places)
        return found

    def batch(self, who: str, examples: Sequence[int], length: int) -> Tensor:
        """Return one teacher's logits for a padded batch [examples, length, vocab]; padding is 0."""
        found = torch.zeros(len(examples), length, self.spec.vocab_size)
        for row, example in zip(found, examples, strict=True):
            logits = self.logits(who, int(example), length)
            row[: len(logits)] = logits
        return found


def cached_losses(
    cache: TeacherCache, examples: Sequence[int], student_logits: Tensor, labels: Tensor, mask: MaskName | Mask
) -> Tensor:
    """Return each token's part of L_comp [examples, tokens] with teachers from the cache, see `loss.token_losses`.

    Where the mask depends on the student alone, one teacher is read of each token.
    """
    temperature = cache.spec.temperature
    if mask in ("muscle", "all_old", "all_new"):
        old = follow_old(mask, student_logits, student_logits, student_logits, labels)
        teacher = cache.chosen(examples, old).to(student_logits.device)
        return divergence(teacher, student_logits, temperature).masked_fill(labels == IGNORED, 0.0)
    both = (cache.batch(who, examples, labels.shape[1]).to(student_logits.device) for who in ("old", "new"))
    return token_losses(student_logits, *both, labels, temperature, mask)


def build_cache(
    path: str | Path, examples: Sequence[Sequence[int]], old: Any, new: Any, spec: Spec, *, name: str = "teachers"
) -> TeacherCache:
    """Compute and write the cache, or open it where it is already.

    Args:
        path: Its folder; appears only when it is whole.
        examples: Token ids of every training example.
        old: The old task model, any device.
        new: The new task model.
        spec: Of `describe`.
        name: Shown with the progress.
    """
    path = Path(path)
    if path.exists():
        cache = TeacherCache(path)
        cache.check(spec)
        return cache
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir(parents=True)
    try:
        for who, model in (("old", old), ("new", new)):
            _write(partial, who, model, examples, spec, name)
        write_json(partial / MANIFEST, {"schema": SCHEMA, **spec.__dict__})
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return TeacherCache(path)


def _write(folder: Path, who: str, model: Any, examples: Sequence[Sequence[int]], spec: Spec, name: str) -> None:
    total, top = spec.offsets[-1], spec.top
    kinds: dict[str, tuple[Any, tuple[int, ...]]] = {"logs": (np.float16, (total, top or spec.vocab_size))}
    if top:
        small = spec.vocab_size <= 1 << 16
        kinds |= {"places": (np.uint16 if small else np.uint32, (total, top)), "tail": (np.float32, (total,))}
    arrays = {
        kind: np.lib.format.open_memmap(str(folder / f"{who}-{kind}.npy"), mode="w+", dtype=dtype, shape=shape)
        for kind, (dtype, shape) in kinds.items()
    }
    starts = range(0, len(examples), BATCH)
    for start in progress(starts, description=f"{name} ({who})", unit="batches"):
        part = examples[start : start + BATCH]
        for offset, logs in enumerate(_log_probabilities(model, part, spec.temperature)):
            place = slice(spec.offsets[start + offset], spec.offsets[start + offset + 1])
            if not top:
                arrays["logs"][place] = logs.half().cpu().numpy()
                continue
            values, places = logs.topk(top, dim=-1)
            rest = (1 - values.exp().sum(-1)).clamp(min=1e-12).log()
            arrays["logs"][place], arrays["places"][place] = values.half().cpu().numpy(), places.cpu().numpy()
            arrays["tail"][place] = rest.cpu().numpy()
    for array in arrays.values():
        array.flush()


@torch.no_grad()
def _log_probabilities(model: Any, examples: Sequence[Sequence[int]], temperature: float) -> list[Tensor]:
    """Softened log-probabilities of the next token at every place of each example but its last."""
    length = max(len(ids) for ids in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    for row, tokens in zip(ids, examples, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    device = next(model.parameters()).device
    logits = model(input_ids=ids.to(device)).logits.float() / temperature  # padding comes after, causal: unseen
    logs = logits.log_softmax(-1)
    return [row[: len(tokens) - 1] for row, tokens in zip(logs, examples, strict=True)]
