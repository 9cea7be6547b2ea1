"""Augmentations whose random parameters are drawn once, stored, and replayed exactly (Sec. 4.1, "DataCompDR").

A reinforced data set holds, for every image and every stored augmentation, the crop and the two RandAugment operations
under which the teachers saw it. Training replays them at the student's size: the student sees what the teachers saw.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageEnhance, ImageOps
from tenfold_shared.commands import InputError
from torch import Tensor

# Order of torchvision's RandAugment; a stored operation is an index into it.
OPERATIONS = (
    "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast",
    "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
)  # fmt: skip
SIGNED = frozenset(OPERATIONS[1:10])
NUM_BINS = 31
CROP_TRIES = 10
# RandAugment's largest shift is 150 of the 331 pixels for which it was tuned.
TRANSLATE_SHARE = 150 / 331

Operation = tuple[int, float] | None


@dataclass(frozen=True)
class Parameters:
    """One stored augmentation of one image.

    Args:
        crop: Top, left, height and width in pixels of the original image.
        operations: (index into `OPERATIONS`, signed magnitude), applied in order after the crop; None is skipped.
    """

    crop: tuple[int, int, int, int]
    operations: tuple[Operation, ...]

    def to_json(self) -> list[Any]:
        """Return DataCompDR's form: [[top, left, height, width], [[index, magnitude], ...]]."""
        return [list(self.crop), [None if entry is None else list(entry) for entry in self.operations]]

    @classmethod
    def from_json(cls, value: Any) -> Parameters:
        """Read what `to_json` wrote, or a released set's entry.

        Raises:
            InputError: It is something else.
        """
        try:
            top, left, height, width = map(int, value[0])
            entries = tuple([None if entry is None else (int(entry[0]), float(entry[1])) for entry in value[1]])
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise InputError(f"{value!r} is not a stored augmentation.") from error
        if height < 1 or width < 1 or any([entry and not 0 <= entry[0] < len(OPERATIONS) for entry in entries]):
            raise InputError(f"{value!r} is not a stored augmentation: an empty crop or an unknown operation.")
        return cls((top, left, height, width), entries)


@dataclass(frozen=True)
class AugmentConfig:
    """Random resized crop, then RandAugment; the defaults are DataCompDR's (its config.json).

    Args:
        scale: Smallest and largest share of the image's area that a crop covers.
        ratio: Smallest and largest width over height of a crop.
        num_operations: RandAugment operations per image; 0 leaves the crop alone.
        magnitude: Strength, as a bin from 0 to 30.
        image_size: Pixels for which magnitudes of translations are stored (the teachers' size).
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    num_operations: int = 2
    magnitude: int = 9
    image_size: int = 224

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude < NUM_BINS:
            raise ValueError(f"`magnitude` (={self.magnitude}) must be from 0 to {NUM_BINS - 1}.")
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"`scale` (={self.scale}) must be two shares of the area, the smaller first.")


def sample(width: int, height: int, config: AugmentConfig, generator: torch.Generator) -> Parameters:
    """Draw the parameters of one augmentation.

    The draws are those of torchvision's RandomResizedCrop and RandAugment, in their order, so that equal generators
    give equal parameters.

    Args:
        width: Of the original image, in pixels.
        height: Of the original image, in pixels.
        config: Ranges.
        generator: Source of randomness; see `generator_for`.

    Example:
        >>> sample(640, 480, AugmentConfig(), torch.Generator().manual_seed(0)).crop
        (98, 42, 376, 439)
    """
    crop = _sample_crop(width, height, config, generator)
    return Parameters(crop, tuple(_sample_operation(config, generator) for _ in range(config.num_operations)))


def generator_for(*key: object) -> torch.Generator:
    """Return a generator that depends on the key alone (a seed and a sample's uid, say), not on order or worker."""
    digest = hashlib.sha256("\0".join(str(part) for part in key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") % 2**63)


def replay(
    image: Image.Image,
    parameters: Parameters,
    size: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """Apply a stored augmentation: crop, resize to `size` x `size`, then the operations.

    Source: pixels equal those of the authors' pipeline (`tests/reference/dr.ref.json`). As there, magnitudes of
    translations are in pixels of the output, whatever its size, and operations sample the nearest pixel.

    Args:
        image: The original picture, mode RGB.
        parameters: What was drawn or stored.
        size: Output height and width in pixels: the student's.
        resample: How the crop is resized.

    Raises:
        InputError: The crop leaves the image, which then is not the one the parameters were stored for.
    """
    top, left, height, width = parameters.crop
    if top < 0 or left < 0 or top + height > image.height or left + width > image.width:
        raise InputError(f"crop {parameters.crop} leaves the image of {image.width} x {image.height} pixels.")
    image = image.crop((left, top, left + width, top + height)).resize((size, size), resample)
    for entry in parameters.operations:
        if entry is not None:
            image = apply_operation(image, OPERATIONS[entry[0]], entry[1])
    return image


def apply_operation(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    """Apply one RandAugment operation.

    Args:
        image: Mode RGB.
        name: One of `OPERATIONS`.
        magnitude: Signed and final: a shear's tangent, pixels, degrees, a factor minus 1, bits or a threshold.
    """
    return _FUNCTIONS[name](image, magnitude)


def to_bytes(image: Image.Image) -> Tensor:
    """Return an RGB picture as bytes [h, w, 3], copied once."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)


def to_pixels(image: Image.Image, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """Return pixels [3, h, w], in [0, 1] and then normalised (MobileCLIP itself normalises nothing)."""
    return bytes_to_pixels(to_bytes(image)[None], mean, std)[0]


def bytes_to_pixels(data: Tensor, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> Tensor:
    """Return pixels [n, 3, h, w] of `to_bytes`' [n, h, w, 3]; a batch at once takes half as long as one by one."""
    pixels = data.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    if mean is None or std is None:
        return pixels
    return pixels.sub_(torch.tensor(mean)[:, None, None]).div_(torch.tensor(std)[:, None, None])


def _sample_crop(
    width: int, height: int, config: AugmentConfig, generator: torch.Generator
) -> tuple[int, int, int, int]:
    """Draw a crop of random area and shape; after ten misses the largest central one of an allowed shape."""
    log_ratio = torch.log(torch.tensor(config.ratio))
    for _ in range(CROP_TRIES):
        area = width * height * torch.empty(1).uniform_(*config.scale, generator=generator).item()
        low, high = log_ratio[0], log_ratio[1]
        ratio = torch.exp(torch.empty(1).uniform_(low, high, generator=generator)).item()
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=generator))
            left = int(torch.randint(0, width - w + 1, (1,), generator=generator))
            return top, left, h, w
    return _central_crop(width, height, config.ratio)


def _central_crop(width: int, height: int, ratio: tuple[float, float]) -> tuple[int, int, int, int]:
    w, h = width, height
    if width / height < ratio[0]:
        h = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        w = max(1, round(height * ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w


def _sample_operation(config: AugmentConfig, generator: torch.Generator) -> tuple[int, float]:
    index = int(torch.randint(len(OPERATIONS), (1,), generator=generator))
    name = OPERATIONS[index]
    magnitude = _magnitude(name, config)
    if name in SIGNED and int(torch.randint(2, (1,), generator=generator)):
        magnitude = -magnitude
    return index, magnitude


def _magnitude(name: str, config: AugmentConfig) -> float:
    """Return the unsigned magnitude of an operation; rounded to float32 as torchvision's table is."""
    largest = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0} | dict.fromkeys(OPERATIONS[6:10], 0.9)
    largest |= dict.fromkeys(("TranslateX", "TranslateY"), TRANSLATE_SHARE * config.image_size)
    if name in largest:
        return float(torch.linspace(0.0, largest[name], NUM_BINS)[config.magnitude])
    if name == "Posterize":
        return float(8 - round(config.magnitude / ((NUM_BINS - 1) / 4)))
    return float(torch.linspace(255.0, 0.0, NUM_BINS)[config.magnitude]) if name == "Solarize" else 0.0


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    """Map each output pixel back through `matrix`; the outside is black."""
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def _shear(magnitude: float) -> float:
    """Return the tangent after the detour through degrees that the reference takes."""
    return math.tan(math.radians(math.degrees(math.atan(magnitude))))


_FUNCTIONS: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, m: image,
    "ShearX": lambda image, m: _affine(image, (1.0, _shear(m), 0.0, 0.0, 1.0, 0.0)),
    "ShearY": lambda image, m: _affine(image, (1.0, 0.0, 0.0, _shear(m), 1.0, 0.0)),
    "TranslateX": lambda image, m: _affine(image, (1.0, 0.0, -float(int(m)), 0.0, 1.0, 0.0)),
    "TranslateY": lambda image, m: _affine(image, (1.0, 0.0, 0.0, 0.0, 1.0, -float(int(m)))),
    "Rotate": lambda image, m: image.rotate(m, Image.Resampling.NEAREST),
    "Brightness": lambda image, m: ImageEnhance.Brightness(image).enhance(1 + m),
    "Color": lambda image, m: ImageEnhance.Color(image).enhance(1 + m),
    "Contrast": lambda image, m: ImageEnhance.Contrast(image).enhance(1 + m),
    "Sharpness": lambda image, m: ImageEnhance.Sharpness(image).enhance(1 + m),
    "Posterize": lambda image, m: ImageOps.posterize(image, int(m)),
    "Solarize": lambda image, m: ImageOps.solarize(image, m),
    "AutoContrast": lambda image, m: ImageOps.autocontrast(image),
    "Equalize": lambda image, m: ImageOps.equalize(image),
}
