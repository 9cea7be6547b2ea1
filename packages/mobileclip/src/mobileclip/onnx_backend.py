"""MobileCLIP through ONNX Runtime: export with a parity check, and sessions behind the model's own methods."""

from __future__ import annotations

import copy
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from tenfold_shared.commands import InputError, require_extra
from tenfold_shared.files import write_json
from torch import Tensor, nn

from mobileclip.config import MobileCLIPConfig
from mobileclip.model import MobileCLIP, optimize_for_inference

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

# Largest relative l2 distance between eager and exported outputs that the self-check accepts.
PARITY_TOLERANCE = 1e-4
HALVES = ("image", "text")
INPUT = "input"
MAX_BATCH = 4096


def export_onnx(model: MobileCLIP, folder: str | Path) -> dict[str, float]:
    """Write the image and the text half as ONNX files and check that they compute what the model computes.

    Both take any batch size. The files appear under their names only after the check.

    Args:
        model: In train or fused form; it is exported in its fastest form.
        folder: Gets `image.onnx`, `text.onnx` and `config.json`.

    Returns:
        Relative l2 distance to the eager outputs, per half.

    Raises:
        ImportError: The extra `onnx` is not installed.
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
    """Export one encoder and return its distance to the eager outputs on random inputs."""
    encoder: nn.Module = model.image_encoder if half == "image" else model.text_encoder
    example = example_input(model.config, half)
    path = folder / f"{half}.onnx"
    export_module(encoder, example, path)
    with torch.inference_mode():
        expected = encoder(example)
    actual = torch.from_numpy(open_session(path).run(None, {INPUT: example.numpy()})[0])
    distance = float((actual - expected).norm() / expected.norm())
    if not distance < PARITY_TOLERANCE:
        raise RuntimeError(f"the exported {half} half is off by {distance:.1e} (relative l2) from the eager one.")
    return distance


def export_module(module: nn.Module, example: Tensor, path: Path) -> None:
    """Write any one-input, one-output module as an ONNX file that takes every batch size.

    Args:
        module: In evaluation mode, on the CPU.
        example: An input; its first dimension (of at least 2) becomes the batch.
        path: File to write.

    Raises:
        ImportError: The extra `onnx` is not installed.
    """
    require_extra("onnxscript", "onnx", "mobileclip-torch")
    # Channels-last weights would leave their layout's transposes in the graph.
    module = copy.deepcopy(module).to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings():
        # The exporter warns about its own internals; callers compare outputs.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (example,),
            path,
            input_names=[INPUT],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=MAX_BATCH)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def example_input(config: MobileCLIPConfig, half: str) -> Tensor:
    """Return two random inputs of one half, by which an export is traced and checked."""
    generator = torch.Generator().manual_seed(0)
    if half == "image":
        size = config.image.image_size
        return torch.rand(2, 3, size, size, generator=generator)
    text = config.text
    ids = torch.randint(1, text.vocab_size - 1, (2, text.context_length), generator=generator)
    ids[:, -1] = text.vocab_size - 1
    return ids


def open_session(path: Path, num_threads: int = 0) -> InferenceSession:
    """Open an ONNX file on the CPU with `num_threads` threads (0: as many as torch uses).

    Raises:
        ImportError: The extra `onnx` is not installed.
        InputError: The file is missing or damaged.
    """
    runtime = require_extra("onnxruntime", "onnx", "mobileclip-torch")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    options.log_severity_level = 3
    try:
        return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{path} is missing or not an ONNX model ({type(error).__name__}); export again.") from error


class OnnxMobileCLIP:
    """The two exported halves on ONNX Runtime's CPU provider, with the methods of `MobileCLIP`.

    Args:
        folder: What `export_onnx` wrote.
        num_threads: Threads per session; 0 takes torch's number.

    Raises:
        ImportError: The extra `onnx` is not installed.
        InputError: The folder is not one of `export_onnx`.
    """

    def __init__(self, folder: str | Path, num_threads: int = 0) -> None:
        folder = Path(folder)
        try:
            fields = json.loads((folder / "config.json").read_text())
            self.config = MobileCLIPConfig.from_dict(fields["model"])
            self._scale = float(fields["scale"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} is not a folder of `mobileclip export`; run it again.") from error
        self._sessions = {half: open_session(folder / f"{half}.onnx", num_threads) for half in HALVES}

    def encode_image(
        self, image: Float[Tensor, "batch 3 h w"], normalize: bool = False
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed pixels in [0, 1] at the size the model was exported for."""
        return self._run("image", image.numpy(), normalize)

    def encode_text(
        self, text: Int[Tensor, "batch length"], normalize: bool = False
    ) -> Float[Tensor, "batch embed_dim"]:
        """Embed token ids."""
        return self._run("text", text.numpy(), normalize)

    def scale(self) -> Tensor:
        """Return the factor between cosines and logits."""
        return torch.tensor(self._scale)

    def _run(self, half: str, array: np.ndarray, normalize: bool) -> Tensor:
        features = torch.from_numpy(self._sessions[half].run(None, {INPUT: array})[0])
        return F.normalize(features, dim=-1) if normalize else features
