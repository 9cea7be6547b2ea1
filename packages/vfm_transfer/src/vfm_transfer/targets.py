"""What the teacher says of every view: computed once and kept on disk, or at every step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tenfold_shared.progress import progress
from torch import Tensor

from vfm_transfer.config import Schedule
from vfm_transfer.images import Images
from vfm_transfer.networks import Network
from vfm_transfer.train import Batch
from vfm_transfer.views import apply_views, draw_views

Kind = Literal["logits", "pooled", "patches"]
CHUNK = 64


def teacher_outputs(teacher: Network, pixels: Tensor, kind: Kind) -> Tensor:
    """Return logits, pooled features or the map."""
    if kind == "logits":
        return teacher(pixels)
    pooled, patches = teacher.features(pixels)
    return pooled if kind == "pooled" else patches


class LiveTargets:
    """A teacher that runs at every step.

    Attributes:
        num_forward: Images it has looked at.
    """

    def __init__(self, teacher: Network, kind: Kind) -> None:
        self.teacher, self.kind, self.num_forward = teacher.eval(), kind, 0

    def batch(self, batch: Batch) -> Tensor:
        """Return the outputs for a batch."""
        self.num_forward += len(batch.ids)
        with torch.no_grad():
            return teacher_outputs(self.teacher, batch.pixels, self.kind)


class CachedTargets:
    """A teacher's outputs of every view that training will see, as float16 files `view-N.npy`.

    A view is computed when it is first needed, in chunks in the order of the images, and takes its name when it is
    whole; a stopped run computes only the views that are missing.

    Args:
        teacher: Looks at the views.
        kind: What of it is kept.
        images: The transfer set.
        schedule: Seed and size of the views; without augmentation there is one, the plain image.
        folder: Where the files are.
    """

    def __init__(self, teacher: Network, kind: Kind, images: Images, schedule: Schedule, folder: Path) -> None:
        self.teacher, self.kind, self.images = teacher.eval(), kind, images
        self.schedule, self.folder, self.num_forward = schedule, folder, 0
        self.views: dict[int, Any] = {}

    def batch(self, batch: Batch) -> Tensor:
        """Return the outputs for a batch."""
        found = [np.asarray(self._view(int(view))[number]) for number, view in zip(batch.ids, batch.views, strict=True)]
        return torch.from_numpy(np.stack(found)).float().to(batch.pixels.device)

    def _view(self, view: int) -> Any:
        view = view if self.schedule.augment else 0
        if view not in self.views:
            path = self.folder / f"view-{view}.npy"
            if not path.is_file():
                self._compute(path, view)
            self.views[view] = np.load(path, mmap_mode="r", allow_pickle=False)
        return self.views[view]

    def _compute(self, path: Path, view: int) -> None:
        """Write one view beside its place, then give it its name."""
        draws = draw_views(len(self.images), self.schedule.view_seed, view) if self.schedule.augment else None
        device = next(self.teacher.parameters()).device
        self.folder.mkdir(parents=True, exist_ok=True)
        partial, out = path.with_suffix(".partial"), None
        for start in progress(range(0, len(self.images), CHUNK), description=f"teacher, view {view}", unit="chunks"):
            ids = np.arange(start, min(start + CHUNK, len(self.images)))
            cut = None if draws is None else draws[ids]
            pixels = apply_views(self.images.fetch(ids).to(device), cut, self.schedule.min_area)
            with torch.no_grad():
                found = teacher_outputs(self.teacher, pixels, self.kind).half().cpu().numpy()
            if out is None:
                shape = (len(self.images), *found.shape[1:])
                out = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float16, shape=shape)
            out[ids] = found
        assert out is not None
        out.flush()
        del out
        os.replace(partial, path)
        self.num_forward += len(self.images)

    def num_computed(self) -> int:
        """How many teacher outputs are kept, whoever computed them."""
        return len(self.images) * len(list(self.folder.glob("view-*.npy")))
