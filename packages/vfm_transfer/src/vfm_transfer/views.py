"""Augmented views that follow from (seed, view, image) alone, so that teacher outputs can be kept for each."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@lru_cache(maxsize=16)
def draw_views(num: int, seed: int, view: int) -> np.ndarray:
    """Return what view number `view` of every image is: area, place across and down, flip; each of 0 to 1 [num, 4]."""
    return np.random.default_rng([seed, 1, view]).random((num, 4), dtype=np.float32)


def view_matrices(draws: np.ndarray, min_area: float) -> Tensor:
    """Turn draws [batch, 4] into affine maps [batch, 2, 3] from the view to the image, both of -1 to 1."""
    draws_t = torch.from_numpy(np.ascontiguousarray(draws))
    side = (min_area + (1 - min_area) * draws_t[:, 0]).sqrt()
    theta = torch.zeros(len(draws), 2, 3)
    theta[:, 0, 0] = side * torch.where(draws_t[:, 3] < 0.5, -1.0, 1.0)
    theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * draws_t[:, 1:3] - 1) * (1 - side)[:, None]
    return theta


def apply_views(pixels: Tensor, draws: np.ndarray | None, min_area: float = 1.0) -> Tensor:
    """Cut views out of images.

    Args:
        pixels: Images [batch, 3, height, width] as bytes, or masks [batch, height, width] as integers.
        draws: Rows of `draw_views`; None leaves the images whole.
        min_area: Smallest share of the image that a view shows.

    Returns:
        Pixels of 0 to 1 in float32, or masks, in the same size.
    """
    masks = pixels.dim() == 3
    values = pixels[:, None].float() if masks else pixels.float() / 255
    if draws is not None:
        theta = view_matrices(draws, min_area).to(values.device)
        grid = F.affine_grid(theta, list(values.shape), align_corners=False)
        mode = "nearest" if masks else "bilinear"
        values = F.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)
    return values[:, 0].round().long() if masks else values


def order_of(num: int, seed: int, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return places `first` to `first + count` of an endless shuffled stream: the images, and the epoch of each.

    Every epoch is a permutation of its own that follows from seed and epoch, so that a stopped run goes on anywhere.
    """
    places = np.arange(first, first + count)
    epochs = places // num
    ids = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        rows = epochs == epoch
        ids[rows] = _permutation(num, seed, int(epoch))[places[rows] % num]
    return ids, epochs


@lru_cache(maxsize=4)
def _permutation(num: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(num)
