"""FastVLM as ONNX files: image encoder with projector, and language model with key-value cache, each checked."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mobileclip.onnx_backend import INPUT, PARITY_TOLERANCE, export_module, open_session
from tenfold_shared.commands import require_extra
from tenfold_shared.files import write_json
from torch import Tensor, nn

from fastvlm.model import FastVLM, cache_keyword

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

EXAMPLE_PAST, EXAMPLE_NEW = 5, 3
EXTERNAL_DATA_BYTES = 1_500_000_000  # an ONNX file holds at most 2 GB; larger weights lie beside it


def export_onnx(model: FastVLM, folder: str | Path) -> dict[str, float]:
    """Write `vision.onnx` and `language.onnx` and check that they compute what the model computes.

    `vision.onnx` maps pixels [batch, 3, size, size] to image tokens in the language model's width (any batch, the
    model's own resolution). `language.onnx` maps embeddings, attention mask, positions and the cache of every layer to
    logits and the new cache; run it with an empty cache first, then with one token at a time. `embeddings.npy` holds
    the token embedding, from which a program takes rows by token id. Files appear only after the checks.

    Args:
        model: In train or fused form; the encoder is exported in its fastest form.
        folder: Made if missing.

    Returns:
        Relative l2 distance to the eager outputs, per file; for the language model the largest of two steps.

    Raises:
        ImportError: The extra `onnx` is not installed.
        RuntimeError: An exported half does not compute what the model computes.
    """
    require_extra("onnxscript", "onnx", "fastvlm")
    folder = Path(folder)
    partial = folder.with_name(folder.name + f".partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        model = model.optimize().float().cpu()
        distances = {"vision.onnx": _export_vision(model, partial), "language.onnx": _export_language(model, partial)}
        for name, distance in distances.items():
            if not distance < PARITY_TOLERANCE:
                raise RuntimeError(f"the exported {name} is off by {distance:.1e} (relative l2) from the eager model.")
        weight = model.language_model.get_input_embeddings().weight
        np.save(partial / "embeddings.npy", weight.detach().numpy())
        write_json(partial / "config.json", _describe(model))
        folder.mkdir(parents=True, exist_ok=True)
        for file in partial.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return distances


def _describe(model: FastVLM) -> dict[str, Any]:
    layers, heads, width = _cache_shape(model)
    return {
        "image_size": model.encoder.config.image_size,
        "image_tokens": model.encoder.config.num_tokens,
        "num_layers": layers,
        "num_kv_heads": heads,
        "head_dim": width,
        "eos_token_id": model.language_model.config.eos_token_id,
    }


@torch.inference_mode()
def _export_vision(model: FastVLM, folder: Path) -> float:
    """Export encoder and projector; return the distance on random pixels."""
    vision = nn.Sequential(model.encoder, model.projector).eval()
    size = model.encoder.config.image_size
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False):
        export_module(vision, pixels, folder / "vision.onnx")
    actual = open_session(folder / "vision.onnx").run(None, {INPUT: pixels[:1].numpy()})[0]
    return _distance(torch.from_numpy(actual), vision(pixels[:1]))


class _Language(nn.Module):
    """A causal language model over embeddings whose cache is a flat list of tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeds: Tensor, mask: Tensor, positions: Tensor, past: list[Tensor]) -> tuple[Tensor, ...]:
        from transformers import DynamicCache

        cache = DynamicCache(list(zip(past[::2], past[1::2], strict=True)))
        name = cache_keyword(self.model)
        inputs = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions, name: cache}
        output = self.model(**inputs, use_cache=True)
        new = [tensor for layer in output[name].layers for tensor in (layer.keys, layer.values)]
        return output.logits, *new


def _export_language(model: FastVLM, folder: Path) -> float:
    """Export the language model; return the larger distance of a first pass and of a step with a cache."""
    path = folder / "language.onnx"
    language = _Language(model.language_model).eval()
    layers, _, _ = _cache_shape(model)
    example = _example(model, EXAMPLE_PAST, EXAMPLE_NEW)
    names = [f"{kind}_{layer}" for layer in range(layers) for kind in ("key", "value")]
    free = torch.export.Dim.AUTO
    shapes = (*[{0: free, 1: free}] * 3, [{0: free, 2: free}] * (2 * layers))
    num_bytes = sum(p.numel() * p.element_size() for p in language.parameters())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals; outputs are compared below
        torch.onnx.export(
            language,
            example,
            path,
            input_names=["embeds", "mask", "positions", *(f"past_{name}" for name in names)],
            output_names=["logits", *(f"new_{name}" for name in names)],
            dynamic_shapes=shapes,
            dynamo=True,
            external_data=num_bytes > EXTERNAL_DATA_BYTES,
            verbose=False,
        )
    session = open_session(path)
    return max(_compare(session, language, _example(model, *lengths)) for lengths in ((0, 9), (9, 1)))


def _cache_shape(model: FastVLM) -> tuple[int, int, int]:
    """Return layers, heads of keys and values, and width of a head."""
    config = model.language_model.config
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, config.num_key_value_heads, width


def _example(model: FastVLM, past: int, new: int) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return inputs of the language model with random contents, two rows."""
    generator = torch.Generator().manual_seed(past)
    layers, heads, width = _cache_shape(model)
    embeds = torch.randn(2, new, model.language_model.config.hidden_size, generator=generator) * 0.1
    positions = torch.arange(past, past + new).expand(2, -1).contiguous()
    cache = [torch.randn(2, heads, past, width, generator=generator) for _ in range(2 * layers)]
    return embeds, torch.ones(2, past + new, dtype=torch.long), positions, cache


@torch.inference_mode()
def _compare(
    session: InferenceSession, language: nn.Module, inputs: tuple[Tensor, Tensor, Tensor, list[Tensor]]
) -> float:
    flat = [*inputs[:3], *inputs[3]]
    feeds = {entry.name: tensor.numpy() for entry, tensor in zip(session.get_inputs(), flat, strict=True)}
    expected = language(*inputs)
    actual = [torch.from_numpy(array) for array in session.run(None, feeds)]
    return max(_distance(a, b) for a, b in zip(actual, expected, strict=True))


def _distance(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())
