"""FastVLM beside transformers' FastVlm on the same weights in one run: encoder, first token, generation.

    fastvlm benchmark --budget laptop        (two cores, about four minutes)

Both sides carry equal random weights of FastVLM-0.5B's shape, get the same pixels and tokens, float32, on the CPU, and
their outputs are compared before anything is timed. Rounds run each function once, in random order; a row gives the
medians, the ratio (the median over rounds; over 1: ours is better) and its spread (smallest and largest round).
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from mobileclip.onnx_backend import INPUT, export_module, open_session
from mobileclip.timing import torch_threads
from tenfold_shared.benchmarks import comparison, interleave
from tenfold_shared.commands import require_extra
from tenfold_shared.environment import seed_everything
from tenfold_shared.progress import progress
from torch import Tensor, nn

from fastvlm.checkpoint import quiet_transformers
from fastvlm.config import PRESETS, TEXT_TOKENS, EncoderConfig, FastVLMConfig
from fastvlm.layouts import IMAGE_PLACEHOLDER, IMAGE_TOKEN_ID, join, make_config
from fastvlm.model import FastVLM

Budget = Literal["smoke", "laptop", "full"]
TOLERANCE = 1e-4
PEER = "transformers FastVlm"
AIMS = {"encoder, torch": 1.5, "encoder, ONNX Runtime": 1.7, "answer": 1.2}
Function = Callable[[], Any]


@dataclass(frozen=True)
class Plan:
    """What one budget measures: pixels, decoder layers, tokens of an answer, rounds, threads."""

    image_size: int
    num_layers: int
    new_tokens: int
    rounds: int
    threads: tuple[int, ...] = (2,)


PLANS: dict[Budget, Plan] = {
    "smoke": Plan(256, 2, 4, 2),
    "laptop": Plan(1024, 24, 16, 5),
    "full": Plan(1024, 24, 32, 9, (1, 2)),
}


def benchmark(out: Path, *, budget: Budget, seed: int) -> list[dict[str, Any]]:
    """Time encoder, time to first token and a whole answer, and return one row per comparison.

    Args:
        out: Existing folder; only temporary files are written to it.
        budget: "smoke", "laptop" or "full"; see `PLANS`.
        seed: Of weights and pixels.

    Returns:
        Rows `paper, work, ours, peer_name, peer, ratio, spread, unit, threads, aim, input_hash`; `ours` and
        `peer` are median milliseconds, `ratio` over 1: ours is better.

    Raises:
        ImportError: The extra `demo` is not installed.
        RuntimeError: An output differs from the one it must equal.
    """
    require_extra("timm", "demo", "fastvlm")
    seed_everything(seed)
    plan = PLANS[budget]
    rows: list[dict[str, Any]] = []
    pixels = torch.rand(1, 3, plan.image_size, plan.image_size)
    model, peer = _build_pair(plan)
    with tempfile.TemporaryDirectory(dir=out) as folder, torch.inference_mode():
        for threads in plan.threads:
            with torch_threads(threads):
                functions = _functions(model, peer, pixels, plan, Path(folder) / f"vision-{threads}.onnx")
                _check_agreement(functions)
                with progress(total=plan.rounds, description=f"benchmark, {threads} threads", unit="rounds") as bar:
                    seconds = interleave(functions, plan.rounds, clock=time.perf_counter, on_round=bar.update)
                rows += _rows(seconds, plan, threads, pixels)
    return rows


def _build_pair(plan: Plan) -> tuple[FastVLM, nn.Module]:
    """Return our model in its fastest form and transformers' with the same weights."""
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    language = replace(PRESETS["fastvlm_0.5b"].language, num_layers=plan.num_layers)
    config = FastVLMConfig(language, EncoderConfig(embed_dim=0, image_size=plan.image_size))
    model = _spread(FastVLM.from_config(config))
    parts = model.to_parts(fused=True)
    fields = make_config(parts, "fast_vlm", config.encoder.out_dim, IMAGE_TOKEN_ID)
    fields.pop("architectures")
    peer_config = FastVlmConfig(**{key: value for key, value in fields.items() if key != "model_type"})
    with quiet_transformers():
        peer = FastVlmForConditionalGeneration.from_pretrained(
            None, config=peer_config, state_dict=join(parts, "fast_vlm"), dtype=torch.float32
        )
    return model.optimize(), peer.eval()


@torch.no_grad()
def _spread(model: FastVLM) -> FastVLM:
    """Make the layer scales large enough that a difference in any block shows in the output."""
    for name, parameter in model.encoder.named_parameters():
        if "layer_scale" in name:
            parameter.fill_(0.2)
    return model


def _functions(model: FastVLM, peer: nn.Module, pixels: Tensor, plan: Plan, onnx: Path) -> dict[str, Function]:
    """Return what is timed, by name; each pair of names has to give the same output."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(0, IMAGE_TOKEN_ID - 10, (TEXT_TOKENS,), generator=generator)
    image = torch.full((model.encoder.config.num_tokens,), IMAGE_TOKEN_ID)
    ours = torch.cat([text[:8], torch.tensor([IMAGE_PLACEHOLDER]), text[8:]])[None]
    theirs = torch.cat([text[:8], image, text[8:]])[None]
    mask = torch.ones_like(theirs)

    def answer_peer(count: int) -> Tensor:
        ids = peer.generate(
            input_ids=theirs, attention_mask=mask, pixel_values=pixels, do_sample=False, max_new_tokens=count,
            min_new_tokens=count,
        )  # fmt: skip
        return ids[:, theirs.shape[1] :]

    def answer(count: int) -> Tensor:
        return model.generate(ours, pixels, max_new_tokens=count, eos_token_ids=())

    return {
        "encoder, torch": lambda: model.encode_images(pixels),
        "encoder, ONNX Runtime": _through_onnx(model, pixels, onnx),
        "encoder, peer": lambda: peer.model.get_image_features(pixels).pooler_output,
        "first token": lambda: answer(1),
        "first token, peer": lambda: answer_peer(1),
        "answer": lambda: answer(plan.new_tokens),
        "answer, peer": lambda: answer_peer(plan.new_tokens),
    }


def _through_onnx(model: FastVLM, pixels: Tensor, path: Path) -> Function:
    with torch.inference_mode(False):
        export_module(
            nn.Sequential(model.encoder, model.projector).eval(), pixels.new_zeros(2, *pixels.shape[1:]), path
        )
    session = open_session(path)
    return lambda: torch.from_numpy(session.run(None, {INPUT: pixels.numpy()})[0])


def _check_agreement(functions: dict[str, Function]) -> None:
    """Refuse to time functions that do not compute the same."""
    expected = functions["encoder, peer"]()
    for name in ("encoder, torch", "encoder, ONNX Runtime"):
        distance = float((functions[name]() - expected).norm() / expected.norm())
        if not distance < TOLERANCE:
            raise RuntimeError(f"`{name}` differs from {PEER} by {distance:.1e} (relative l2).")
    for name in ("first token", "answer"):
        ours, theirs = functions[name](), functions[f"{name}, peer"]()
        if not torch.equal(ours, theirs):
            raise RuntimeError(f"`{name}` gives tokens {ours.tolist()}, {PEER} {theirs.tolist()}.")


def _rows(seconds: dict[str, np.ndarray], plan: Plan, threads: int, pixels: Tensor) -> Iterator[dict[str, Any]]:
    digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16]
    names = {
        "encoder, torch": f"encoder and projector, {plan.image_size} px, torch",
        "encoder, ONNX Runtime": f"encoder and projector, {plan.image_size} px, ONNX Runtime",
        "first token": f"time to first token, {plan.image_size} px",
        "answer": f"answer of {plan.new_tokens} tokens, {plan.image_size} px",
    }
    for name, work in names.items():
        peer = seconds["encoder, peer" if name.startswith("encoder") else f"{name}, peer"]
        milliseconds = {"ours": 1e3 * seconds[name], PEER: 1e3 * peer}
        row = comparison(work, milliseconds, PEER, "ms per image", aim=AIMS.get(name))
        yield {"paper": "fastvlm", **row, "threads": threads, "input_hash": digest}
