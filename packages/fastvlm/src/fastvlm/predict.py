"""Using a model: load it for a device, ask about pictures, read the answer as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from mobileclip.runtime import DTYPES, resolve_device
from PIL import Image
from tenfold_shared.commands import InputError
from torch import Tensor

from fastvlm.adapters import load_adapter
from fastvlm.checkpoint import find_folder
from fastvlm.config import check_resolution
from fastvlm.model import FastVLM, Sampling
from fastvlm.processor import IMAGE, FastVLMProcessor

END_OF_TURN = "<|im_end|>"
INCOMPLETE = "\ufffd"  # what half a character decodes to


@dataclass(frozen=True)
class Assistant:
    """A model with its processor, on a device.

    Args:
        model: In evaluation mode.
        processor: Of the same folder.
        device: Where tensors go.
        dtype: Number format of weights and pixels.
    """

    model: FastVLM
    processor: FastVLMProcessor
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    @torch.inference_mode()
    def look(self, images: Sequence[Image.Image]) -> tuple[Tensor | None, list[int]]:
        """Return image tokens and the number of views per image."""
        pixels = [self.processor.pixels(image) for image in images]
        if not pixels:
            return None, []
        features = self.model.encode_images(torch.cat(pixels).to(self.device, self.dtype))
        return features, [view.shape[0] for view in pixels]

    def answer(
        self, prompt: str, features: Tensor | None, views: Sequence[int], sampling: Sampling | None = None
    ) -> Iterator[Tensor]:
        """Yield the answer's tokens one by one.

        Args:
            prompt: The whole conversation in the model's template, `<image>` included.
            features: What `look` returned.
            views: What `look` returned.
            sampling: How tokens are chosen.

        Raises:
            InputError: There is another number of `<image>` than of images, or the context is too short.
        """
        ids = torch.tensor([self.processor.encode(prompt)], device=self.device)
        with torch.inference_mode():
            embeds, mask = self.model.embed(ids, features, views=views)
        yield from self.model.stream(embeds, mask, sampling or self.sampling())

    def sampling(self, max_new_tokens: int = 256, temperature: float = 0.0, seed: int = 0) -> Sampling:
        """Return how tokens are chosen, with the tokens that end a turn of this model."""
        tokenizer = self.processor.tokenizer
        known = tokenizer.get_vocab()
        ends = {known.get(END_OF_TURN), tokenizer.eos_token_id} - {None}
        generator = torch.Generator(self.device).manual_seed(seed)
        return Sampling(max_new_tokens, temperature, tuple(sorted(ends)), generator)

    def read(self, tokens: Iterator[Tensor]) -> Iterator[str]:
        """Yield the text of tokens as soon as its characters are whole."""
        ids: list[int] = []
        shown = 0
        for token in tokens:
            ids.append(int(token[0]))
            text = str(self.processor.tokenizer.decode(ids, skip_special_tokens=True))
            if not text.endswith(INCOMPLETE) and len(text) > shown:
                yield text[shown:]
                shown = len(text)


@dataclass
class Conversation:
    """Rounds of questions and answers about the same pictures, which are looked at once.

    Args:
        assistant: Who answers.
        images: What it is asked about; may be empty.
        sampling: How tokens are chosen.
    """

    assistant: Assistant
    images: Sequence[Image.Image]
    sampling: Sampling | None = None
    rounds: list[tuple[str, str | None]] = field(default_factory=list)
    seconds_to_first_token: float = 0.0

    def __post_init__(self) -> None:
        start = time.perf_counter()
        self._features, self._views = self.assistant.look(self.images)
        self._looking = time.perf_counter() - start

    def ask(self, question: str) -> Iterator[str]:
        """Yield the answer to a question in pieces; `rounds` then holds it.

        Raises:
            InputError: The question has `<image>` more or less often than there are images.
        """
        count = question.count(IMAGE)
        if count and (self.rounds or count != len(self.images)):
            raise InputError(f"the prompt has {count} `<image>` but {len(self.images)} images were given.")
        start = time.perf_counter()
        prompt = self.assistant.processor.prompt([*self.rounds, (question, None)], len(self.images))
        pieces = []
        for piece in self.assistant.read(self._timed(prompt, start)):
            pieces.append(piece)
            yield piece
        self.rounds.append((question, "".join(pieces).strip()))

    def _timed(self, prompt: str, start: float) -> Iterator[Tensor]:
        """Yield tokens; note when the first one came, the encoder's time included in the first round."""
        tokens = self.assistant.answer(prompt, self._features, self._views, self.sampling)
        for index, token in enumerate(tokens):
            if index == 0:
                waiting = 0.0 if self.rounds else self._looking
                self.seconds_to_first_token = time.perf_counter() - start + waiting
            yield token


def load_assistant(
    source: str | Path,
    device: str = "auto",
    *,
    precision: str = "fp32",
    image_size: int | None = None,
    adapter: str | Path | None = None,
) -> Assistant:
    """Load a folder (or hub name) in either layout for inference.

    Args:
        source: A folder, or owner/name on the hub.
        device: "auto", "cpu", "cuda" or "mps".
        precision: "fp32", "bf16" or "fp16".
        image_size: Height and width of a view in pixels; by default what the folder says.
        adapter: Folder of a trained adapter to add to the model.

    Raises:
        InputError: The device is not there, the folder does not hold a FastVLM, or the adapter has another base.
        ValueError: `image_size` is not divisible by 64.
    """
    device, dtype = resolve_device(device), DTYPES[precision]
    if image_size is not None:
        check_resolution(image_size)
    folder = find_folder(source)
    processor = FastVLMProcessor.from_pretrained(folder)
    processor.image_size = image_size or processor.image_size
    model = FastVLM.from_pretrained(folder)
    if adapter is not None:
        model = load_adapter(model, adapter)
    return Assistant(model.to(dtype).optimize().to(device), processor, device, dtype)
