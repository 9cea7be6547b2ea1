"""Write synthetic captions with any captioner of transformers, or with any function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import append_jsonl, read_jsonl

from qualityclip.data import decode
from qualityclip.quality import load_callable
from qualityclip.readers import Sample, to_record

Captioner = Callable[[list[Image.Image], int], list[str]]
TOP_P, MAX_TOKENS = 0.9, 40


def load_captioner(name: str, *, prompt: str = "", seed: int = 0, device: str = "cpu") -> Captioner:
    """Return a function from pictures and a draw's number to captions.

    Args:
        name: "module:function" (pictures, number of the draw -> captions), or a model of transformers: a folder, or a
            name on the hub.
        prompt: Text that the model goes on from; models such as BLIP need none.
        seed: Of sampling (top-p 0.9); the n-th draw of a batch depends on seed and n.
        device: Where the model runs.
    """
    if ":" in name and not Path(name).exists():
        return load_callable(name)
    return _TransformersCaptioner(name, prompt, seed, device)


class _TransformersCaptioner:
    """Nucleus sampling, cut at the first full stop, as DataCompDR's captions were made."""

    def __init__(self, name: str, prompt: str, seed: int, device: str) -> None:
        transformers = require_extra("transformers", "captioners", "qualityclip")
        try:
            self.processor = transformers.AutoProcessor.from_pretrained(name)
            self.model = transformers.AutoModelForImageTextToText.from_pretrained(name).to(device).eval()
        except (OSError, ValueError) as error:
            raise InputError(
                f"{name!r} is no captioner that transformers can load ({str(error).splitlines()[0]})."
            ) from error
        self.prompt, self.seed, self.device = prompt, seed, device

    def __call__(self, images: list[Image.Image], number: int) -> list[str]:
        import torch

        text: dict[str, Any] = {"text": [self.prompt] * len(images)} if self.prompt else {}
        inputs = self.processor(images=images, return_tensors="pt", padding=True, **text).to(self.device)
        torch.manual_seed(self.seed + number)
        with torch.no_grad():
            ids = self.model.generate(**inputs, do_sample=True, top_p=TOP_P, max_new_tokens=MAX_TOKENS)
        if "input_ids" in inputs and not self.model.config.is_encoder_decoder:
            ids = ids[:, inputs["input_ids"].shape[1] :] if ids.shape[1] > inputs["input_ids"].shape[1] else ids
        texts = self.processor.batch_decode(ids, skip_special_tokens=True)
        return [first_sentence(each.strip().removeprefix(self.prompt)) for each in texts]


def first_sentence(text: str) -> str:
    """Return a text up to its first full stop."""
    return text.strip().split(".")[0].strip()


def caption_samples(
    samples: Iterable[Sample], captioner: Captioner, *, num_captions: int, batch_size: int
) -> Iterator[Sample]:
    """Yield samples with synthetic captions of a captioner added.

    Args:
        samples: With pictures.
        captioner: Of `load_captioner`.
        num_captions: For each picture.
        batch_size: Pictures at a time.

    Raises:
        InputError: The captioner gave another number of captions than pictures.
    """
    rest = iter(samples)
    while batch := list(islice(rest, batch_size)):
        images = [decode(sample.read_image(), sample.uid) for sample in batch]
        draws = [list(captioner(images, number)) for number in range(num_captions)]
        for texts in draws:
            if len(texts) != len(batch):
                raise InputError(f"the captioner gave {len(texts)} captions for {len(batch)} pictures.")
        for place, sample in enumerate(batch):
            added = tuple(texts[place] for texts in draws if texts[place].strip())
            yield replace(sample, synthetic=sample.synthetic + added)


def write_resumable(path: Path, samples: Iterable[Sample]) -> int:
    """Append samples to a JSON-lines file one by one, so that a run that was killed goes on; return how many."""
    count = 0
    for sample in samples:
        append_jsonl(path, to_record(sample, path.parent))
        count += 1
    return count


def left_to_do(samples: Iterable[Sample], path: Path) -> Iterator[Sample]:
    """Yield the samples that a file of `write_resumable` does not hold yet."""
    done = {row["uid"] for row in read_jsonl(path)} if path.exists() else set()
    return (sample for sample in samples if sample.uid not in done)
