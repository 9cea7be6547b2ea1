"""Pictures to pixels: reading any file safely, and the authors' preprocessing (resize, centre crop, no mean or std)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps, UnidentifiedImageError
from tenfold_shared.commands import InputError
from torch import Tensor

# Above this ratio of the sides, resizing the short side to 256 makes a picture of over 13 million pixels.
MAX_ASPECT_RATIO = 200
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


def load_image(path: str | Path) -> Image.Image:
    """Read a picture file as upright 8-bit RGB.

    EXIF rotation is applied, CMYK and palettes are converted, transparency is laid over white and 16-bit grey is
    scaled to 8 bits (Pillow alone would clip it).

    Args:
        path: A file that Pillow can read.

    Returns:
        The picture in mode RGB.

    Raises:
        FileNotFoundError: There is no such file.
        InputError: The file is empty, not a picture, truncated, or larger than Pillow's safety limit.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {path}; check the path.")
    try:
        with Image.open(path) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that Pillow can read; convert it to PNG or JPEG.") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large to be a plausible picture: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({error}); copy or export it again.") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to RGB: transparency over white, 16-bit grey scaled to 8 bits.

    Args:
        image: A Pillow picture.

    Returns:
        The picture in mode RGB; `image` itself when it has that mode.
    """
    if image.mode in WIDE_MODES:
        grey = np.asarray(image, dtype=np.float64)
        image = Image.fromarray(np.clip(grey / (257.0 if grey.max(initial=0) > 255 else 1.0), 0, 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


class Preprocess:
    """The authors' preprocessing: short side to `image_size` (bilinear), centre crop, values in [0, 1].

    Pixels equal torchvision's Resize, CenterCrop and ToTensor, without needing torchvision.

    Args:
        image_size: Output height and width in pixels.

    Example:
        >>> from PIL import Image
        >>> Preprocess(224)(Image.new("RGB", (640, 480), "red")).shape
        torch.Size([3, 224, 224])
    """

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, image: Image.Image) -> Float[Tensor, "3 size size"]:
        """Return the pixels of one picture.

        Args:
            image: A Pillow picture of any mode and size.

        Raises:
            InputError: The picture has no pixels, or one side is over 200 times the other.
        """
        pixels = np.array(self.fit(to_rgb(image)))
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(255)

    def __repr__(self) -> str:
        return f"Preprocess(image_size={self.image_size})"

    def fit(self, image: Image.Image) -> Image.Image:
        """Return the resized and cropped picture of one in mode RGB."""
        width, height = image.size
        if min(width, height) == 0:
            raise InputError(f"the picture has no pixels (width {width}, height {height}).")
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise InputError(f"the picture is a strip of {width} x {height} pixels; crop it to what matters first.")
        size = self.image_size
        if width <= height:
            new = (size, int(size * height / width))
        else:
            new = (int(size * width / height), size)
        image = image.resize(new, Image.Resampling.BILINEAR)
        left, top = round((new[0] - size) / 2), round((new[1] - size) / 2)
        return image.crop((left, top, left + size, top + size))
