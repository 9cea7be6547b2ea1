"""From names on a command line to a ready pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from tenfold_shared.commands import InputError

from mobileclip.checkpoint import from_pretrained
from mobileclip.factory import Tokenizer, create_model_and_transforms
from mobileclip.model import MobileCLIP, optimize_for_inference
from mobileclip.predict import Pipeline
from mobileclip.preprocess import Preprocess

DEFAULT_MODEL = "mobileclip_s2"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_pipeline(
    name: str | None,
    pretrained: str | None,
    backend: Literal["torch", "onnx"] = "torch",
    device: str = "auto",
    *,
    precision: str = "fp32",
) -> Pipeline:
    """Load a model for inference with its preprocessing and tokenizer.

    Args:
        name: A key of `PRESETS`; None takes the architecture from a folder of `save_pretrained`, else S2.
        pretrained: See `create_model_and_transforms`; with "onnx" the folder of `mobileclip export`.
        backend: "torch" or "onnx".
        device: "auto", "cpu", "cuda" or "mps".
        precision: "fp32", "bf16" or "fp16".

    Raises:
        InputError: The device is not there, or the ONNX folder is missing.
    """
    if backend == "onnx":
        return _onnx_pipeline(pretrained)
    device, dtype = resolve_device(device), DTYPES[precision]
    model = load_model(name, pretrained)
    preprocess = Preprocess(model.config.image.image_size)
    tokenizer = Tokenizer(model.config.text.context_length)
    fast = optimize_for_inference(model).to(device=device, dtype=dtype)
    return Pipeline(fast, lambda image: preprocess(image).to(dtype), tokenizer, device)


def load_model(name: str | None, pretrained: str | None) -> MobileCLIP:
    """Load a model by name, or as a folder of `save_pretrained` describes itself; S2 where neither says.

    Args:
        name: A key of `PRESETS`, or None.
        pretrained: See `create_model_and_transforms`.
    """
    if name is None and pretrained is not None and (Path(pretrained) / "config.json").is_file():
        return from_pretrained(pretrained)
    model, _, _ = create_model_and_transforms(name or DEFAULT_MODEL, pretrained, reparameterize=False)
    return model


def _onnx_pipeline(folder: str | None) -> Pipeline:
    from mobileclip.onnx_backend import OnnxMobileCLIP

    if folder is None:
        raise InputError("--backend onnx needs --pretrained FOLDER; make it with `mobileclip export --out FOLDER`.")
    model = OnnxMobileCLIP(folder)
    return Pipeline(model, Preprocess(model.config.image.image_size), Tokenizer(model.config.text.context_length))


def resolve_device(device: str) -> str:
    """Return the device to use, the best there is for "auto".

    Raises:
        InputError: The named device does not exist here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, there in available.items() if there)
    if not available[device]:
        raise InputError(f"there is no {device} device here; use --device auto.")
    return device
