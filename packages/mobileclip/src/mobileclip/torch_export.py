"""Both halves as torch.export programs (`.pt2`), which run without this package, with a parity check."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path

import torch
from tenfold_shared.files import write_json
from torch import nn

from mobileclip.model import MobileCLIP, optimize_for_inference
from mobileclip.onnx_backend import HALVES, MAX_BATCH, PARITY_TOLERANCE, example_input


def export_torch(model: MobileCLIP, folder: str | Path) -> dict[str, float]:
    """Write the image and the text half as exported programs and check that they compute what the model computes.

    Both take any batch size; `torch.export.load(path).module()` runs them. The files appear under their names only
    after the check.

    Args:
        model: In train or fused form; it is exported in its fastest form.
        folder: Gets `image.pt2`, `text.pt2` and `config.json`.

    Returns:
        Relative l2 distance to the eager outputs, per half.

    Raises:
        RuntimeError: An exported half does not compute what the model computes.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + f".partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        fast = optimize_for_inference(model).cpu()
        distances = {half: _export_half(fast, half, partial) for half in HALVES}
        write_json(partial / "config.json", {"model": model.config.to_dict(), "scale": model.scale().item()})
        folder.mkdir(parents=True, exist_ok=True)
        for file in partial.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return distances


def _export_half(model: MobileCLIP, half: str, folder: Path) -> float:
    """Export one encoder, load it again, and return its distance to the eager outputs on another batch size."""
    encoder: nn.Module = model.image_encoder if half == "image" else model.text_encoder
    example = example_input(model.config, half)
    shapes = ({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},)
    path = folder / f"{half}.pt2"
    with torch.no_grad(), warnings.catch_warnings():
        # The exporter warns about how it stores tensors that share memory; outputs are compared below.
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(encoder, (example,), dynamic_shapes=shapes), path)
        again = torch.export.load(path).module()
        larger = torch.cat([example, example.flip(0), example])
        expected, actual = encoder(larger), again(larger)
    distance = float((actual - expected).norm() / expected.norm())
    if not distance < PARITY_TOLERANCE:
        raise RuntimeError(f"the exported {half} half is off by {distance:.1e} (relative l2) from the eager one.")
    return distance
