"""Pictures to pixels and conversations to token ids, exactly as the authors' models were trained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int
from mobileclip.preprocess import load_image, to_rgb
from PIL import Image
from tenfold_shared.commands import InputError
from torch import Tensor

from fastvlm.checkpoint import find_folder, read_config
from fastvlm.config import check_resolution
from fastvlm.layouts import IMAGE_PLACEHOLDER, find_layout, split

__all__ = ["FastVLMProcessor", "load_image"]

IMAGE = "<image>"
SYSTEM = "You are a helpful assistant."  # of the authors' conversation template `qwen_2`


class Inputs(TypedDict):
    """What `FastVLM.generate` takes."""

    input_ids: Int[Tensor, "batch length"]
    attention_mask: Int[Tensor, "batch length"]
    pixels: Float[Tensor, "views 3 size size"] | None
    views: list[int]


class FastVLMProcessor:
    """Everything between a user and the model: pixels, prompts, token ids, and text again.

    Source: the authors' preprocessing ("pad": black square, bicubic; "anyres": best canvas, tiles and an overview)
    and their conversation template `qwen_2`.

    Args:
        tokenizer: Of the language model, as transformers loads it; None where only pixels and prompts are wanted.
        image_size: Height and width of a view in pixels.
        image_aspect_ratio: "pad" or "anyres".
        grid_pinpoints: (width, height) of the canvases of "anyres", multiples of `image_size`.

    Raises:
        ValueError: `image_size` is not divisible by 64, or "anyres" lacks canvases.
    """

    def __init__(
        self,
        tokenizer: Any,
        image_size: int = 1024,
        image_aspect_ratio: str = "pad",
        grid_pinpoints: Sequence[tuple[int, int]] = (),
    ) -> None:
        check_resolution(image_size)
        if image_aspect_ratio not in ("pad", "anyres"):
            raise ValueError(f'`image_aspect_ratio` (={image_aspect_ratio!r}) must be "pad" or "anyres".')
        if image_aspect_ratio == "anyres" and not grid_pinpoints:
            raise ValueError('`grid_pinpoints` is empty; "anyres" needs at least one (width, height).')
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.image_aspect_ratio = image_aspect_ratio
        self.grid_pinpoints = [tuple(point) for point in grid_pinpoints]

    @classmethod
    def from_pretrained(cls, source: str | Path) -> FastVLMProcessor:
        """Read the processor of a model folder in either layout.

        Args:
            source: A folder, or owner/name on the Hugging Face hub.

        Raises:
            FileNotFoundError: The folder or its configuration is missing.
            InputError: The layout is unknown, or the tokenizer's files are missing or damaged.
        """
        folder = find_folder(source)
        config = read_config(folder)
        parts = split({}, config)
        tokenizer = _load_tokenizer(folder, find_layout(config))
        return cls(tokenizer, parts.image_size, parts.image_aspect_ratio, parts.grid_pinpoints)

    def __call__(self, prompts: Sequence[str], images: Sequence[Image.Image] = ()) -> Inputs:
        """Return token ids (padded on the left, -200 per image) and pixels.

        Args:
            prompts: One string per row, with `<image>` where an image goes; see `prompt`.
            images: In the order of their `<image>` over all prompts.

        Raises:
            InputError: There is another number of `<image>` than of images.
        """
        count = sum(prompt.count(IMAGE) for prompt in prompts)
        if count != len(images):
            raise InputError(f"the prompt has {count} `<image>` but {len(images)} images were given.")
        rows = [self.encode(prompt) for prompt in prompts]
        length = max(map(len, rows))
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0
        views = [self.pixels(image) for image in images]
        return Inputs(
            input_ids=torch.tensor([[pad] * (length - len(row)) + row for row in rows]),
            attention_mask=torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows]),
            pixels=torch.cat(views) if views else None,
            views=[view.shape[0] for view in views],
        )

    def prompt(self, rounds: Sequence[tuple[str, str | None]], num_images: int = 1) -> str:
        r"""Return a conversation in the template `qwen_2`, up to where the assistant speaks next.

        Args:
            rounds: (question, answer) pairs; the last answer is None while it is awaited.
            num_images: `<image>` lines put before the first question, unless a question has `<image>` itself.

        Example:
            >>> FastVLMProcessor(None).prompt([("Colour?", None)])[-48:]
            '<image>\nColour?<|im_end|>\n<|im_start|>assistant\n'
        """
        if any(IMAGE in question for question, _ in rounds):
            num_images = 0
        text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n"
        for index, (question, answer) in enumerate(rounds):
            images = f"{IMAGE}\n" * num_images if index == 0 else ""
            text += f"<|im_start|>user\n{images}{question}<|im_end|>\n<|im_start|>assistant\n"
            text += "" if answer is None else f"{answer}<|im_end|>\n"
        return text

    def encode(self, prompt: str) -> list[int]:
        """Return token ids with -200 for every `<image>`; the pieces between are tokenized on their own."""
        pieces = [self.tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in prompt.split(IMAGE)]
        ids = list(pieces[0])
        for piece in pieces[1:]:
            ids += [IMAGE_PLACEHOLDER, *piece]
        return ids

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def pixels(self, image: Image.Image) -> Float[Tensor, "views 3 size size"]:
        """Return the pixels of one picture in [0, 1]: one view, or an overview and its tiles.

        Args:
            image: A Pillow picture of any mode and size.

        Raises:
            InputError: The picture has no pixels.
        """
        image = to_rgb(image)
        if min(image.size) == 0:
            raise InputError(f"the picture has no pixels (width {image.size[0]}, height {image.size[1]}).")
        views = [self._pad(image)] if self.image_aspect_ratio == "pad" else self._tile(image)
        stacked = np.stack([np.asarray(view, dtype=np.float32) for view in views])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous().div_(255)

    def _pad(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        square = Image.new("RGB", (side, side))
        square.paste(image, ((side - image.size[0]) // 2, (side - image.size[1]) // 2))
        return square.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def _tile(self, image: Image.Image) -> list[Image.Image]:
        size = self.image_size
        width, height = choose_canvas(image.size, self.grid_pinpoints)
        scale = min(width / image.size[0], height / image.size[1])
        new = (min(math.ceil(image.size[0] * scale), width), min(math.ceil(image.size[1] * scale), height))
        canvas = Image.new("RGB", (width, height))
        canvas.paste(image.resize(new, Image.Resampling.BICUBIC), ((width - new[0]) // 2, (height - new[1]) // 2))
        corners = [(x, y) for y in range(0, height, size) for x in range(0, width, size)]
        overview = image.resize((size, size), Image.Resampling.BICUBIC)
        return [overview, *(canvas.crop((x, y, x + size, y + size)) for x, y in corners)]


def choose_canvas(size: tuple[int, int], canvases: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the canvas that keeps most of a picture's pixels, and of those the one that wastes least (AnyRes).

    Args:
        size: Width and height of the picture.
        canvases: Widths and heights to choose from.
    """

    def quality(canvas: tuple[int, int]) -> tuple[int, int]:
        scale = min(canvas[0] / size[0], canvas[1] / size[1])
        kept = min(int(size[0] * scale) * int(size[1] * scale), size[0] * size[1])
        return kept, kept - canvas[0] * canvas[1]

    return max(canvases, key=quality)


def _load_tokenizer(folder: Path, layout: str) -> Any:
    """Load a tokenizer; transformers does not know the authors' model type, whose tokenizer is Qwen2's."""
    from transformers import AutoTokenizer, Qwen2Tokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise InputError(
            f"the tokenizer's files in {folder} are missing: neither tokenizer.json nor vocab.json is there."
        )
    try:
        return (Qwen2Tokenizer if layout == "llava_qwen2" else AutoTokenizer).from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"the tokenizer's files in {folder} are missing or damaged ({type(error).__name__})."
        ) from error
