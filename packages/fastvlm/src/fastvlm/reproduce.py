"""FastVLM's claims at laptop scale: time to first token against LLaVA-1.5 and LLaVA-OneVision, and reading.

    fastvlm reproduce --budget laptop        (two cores, about two minutes; full: about ten, and a GPU)

The reading experiment is described in `reading`. Latency, fixed before the run. Time to first token is image encoder
plus prefill, batch 1, float32, warm, CPU; weights are random, which time does not depend on. LLaVA-1.5 setup: the same
Vicuna-7B-shaped language model on both sides; FastViTHD at 768 px (144 tokens, the reading of the abstract's 3.2x that
fits) and at 1,024 px (256 tokens) against ViT-L/14 at 336 px (576 tokens, last block left out as LLaVA reads the one
before it). LLaVA-OneVision: FastVLM-0.5B at 1,024 px against ten SigLIP-SO400M views of 384 px (an image of 1,152 px in
nine tiles, and an overview) and 7,290 tokens, the same Qwen2-0.5B-shaped language model. 24 text tokens on both sides.
One view is timed (at 378 px, the 27 x 27 patches of 384) and counts ten times. The 7B model shares one layer's tensors
over all layers (`fastvlm.prefill`). Where a pass has over a thousand tokens or 7B parameters, one layer runs (full:
four) and the others' time is extrapolated. Rounds in which every part runs once in random order take the place of
seeds; primary metric: the peer's time over ours in the same round; control: the peer, a ratio of 1; minimum effect:
half of the gain that the paper reports (1.1) for LLaVA-1.5, and for LLaVA-OneVision a factor of five (the paper's 85x
sets an M1's neural engine beside its GPU; a CPU has one speed for both). smoke shrinks all sides to a quarter. The
paper measured an M1 with Core ML and MLX.

Beside the claims stands the latency analysis (Sec. 3.2): table and frontier of `fastvlm profile`, of a recorded run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import interleave
from tenfold_shared.claims import ClaimResult, PaperValue
from tenfold_shared.environment import seed_everything
from tenfold_shared.progress import progress

from fastvlm import plots, reading_claims
from fastvlm.config import LANGUAGE_MODELS, TEXT_TOKENS
from fastvlm.peers import ENCODERS, count_siglip_parameters
from fastvlm.prefill import Prefill

Budget = Literal["smoke", "laptop", "full"]
Part = Literal["latency", "reading"]
ALL: tuple[Part, ...] = ("latency", "reading")
ROUNDS: dict[Budget, int] = {"smoke": 1, "laptop": 3, "full": 9}
SHRINK: dict[Budget, int] = {"smoke": 4, "laptop": 1, "full": 1}
LAYERS: dict[Budget, int] = {"smoke": 1, "laptop": 1, "full": 4}  # that run where all would take long
FEW_LAYERS_ABOVE, FEW_LAYERS_PARAMS = 1000, 2e9  # tokens, parameters
README = "README of apple/ml-fastvlm"
ABSTRACT = "abstract"


@dataclass(frozen=True)
class Side:
    """One system: an image encoder at a resolution, some views, and a language model.

    Args:
        label: In tables and figures.
        encoder: Name in `fastvlm.peers.ENCODERS`.
        size: Pixels of a view.
        views: Views per image.
        language: Name in `fastvlm.config.LANGUAGE_MODELS`.
    """

    label: str
    encoder: str
    size: int
    views: int
    language: str

    def shrink(self, factor: int) -> Side:
        """Return the side at a fraction of its resolution, kept a multiple of the encoder's stride."""
        stride = ENCODERS[self.encoder].stride
        return Side(self.label, self.encoder, self.size // factor // stride * stride, self.views, self.language)

    @property
    def image_tokens(self) -> int:
        """Tokens of all views."""
        return self.views * ENCODERS[self.encoder].num_tokens(self.size)

    @property
    def parts(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """What has to be timed: (encoder, pixels) and (language model, tokens)."""
        return (self.encoder, self.size), (self.language, self.image_tokens + TEXT_TOKENS)


@dataclass(frozen=True)
class Contrast:
    """One row of the report: who is compared with whom, and what the paper says."""

    ours: Side
    peer: Side
    minimum_effect: float
    paper: PaperValue | None = None


LLAVA = Side("LLaVA-1.5-7B (ViT-L/14)", "vit_l_14", 336, 1, "vicuna-7b")
ONEVISION = Side("LLaVA-OneVision-0.5B (SigLIP-SO400M, ten views)", "siglip_so400m", 384, 10, "qwen2-0.5b")
CONTRASTS = (
    Contrast(
        Side("FastViTHD 768 px with Vicuna-7B", "fastvithd", 768, 1, "vicuna-7b"),
        LLAVA,
        1.1,
        PaperValue(3.2, "3.2x improvement in time to first token in the LLaVA-1.5 setup", ABSTRACT, "A"),
    ),
    Contrast(Side("FastViTHD 1024 px with Vicuna-7B", "fastvithd", 1024, 1, "vicuna-7b"), LLAVA, 1.1),
    Contrast(
        Side("FastVLM-0.5B 1024 px", "fastvithd", 1024, 1, "qwen2-0.5b"),
        ONEVISION,
        4.0,
        PaperValue(85.0, "85x faster TTFT than LLaVA-OneVision-0.5B (M1 MacBook Pro)", ABSTRACT, "A"),
    ),
)
Times = dict[tuple[str, int], np.ndarray]


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Measure time to first token, train readers of pages, and judge the paper's claims.

    Args:
        out: Existing folder; gets `ttft.svg`, `pareto.svg`, `profile.svg`, `reading.svg` and `reading/`.
        budget: "smoke" (1 round at a quarter of the size), "laptop" (3 rounds) or "full" (9).
        seed: Of weights, inputs and order.

    Returns:
        One row per contrast, the encoder's size, the reading experiment, and the claims that need weights.
    """
    return measure(out, budget=budget, seed=seed, parts=ALL)


def measure(out: Path, *, budget: Budget, seed: int, parts: Sequence[Part]) -> list[ClaimResult]:
    """Do a part of `reproduce`, or both."""
    seed_everything(seed)
    claims = _latency(out, budget) if "latency" in parts else []
    if "reading" in parts:
        claims += reading_claims.measure(out, budget=budget)
    return [*claims, *_not_attempted()]


def _latency(out: Path, budget: Budget) -> list[ClaimResult]:
    """Time all sides, draw the figures and count parameters."""
    start = time.perf_counter()
    shrunk = [_shrink(contrast, SHRINK[budget]) for contrast in CONTRASTS]
    times = _measure(shrunk, budget)
    sides = list(dict.fromkeys(side for contrast in shrunk for side in (contrast.ours, contrast.peer)))
    bars = [(side.label, *(float(np.median(part)) for part in _sum_up(side, times))) for side in sides]
    plots.draw_bars(out / "ttft.svg", bars, "Time to first token on this machine, image encoder and prefill")
    _draw_profile(out)
    judge = partial(_judge, times=times, budget=budget, seconds=time.perf_counter() - start)
    return [*(judge(contrast) for contrast in shrunk), _size_claim()]


def _draw_profile(out: Path) -> None:
    """Draw the recorded run of `fastvlm profile`, which takes a quarter of an hour."""
    recorded = json.loads(resources.files("fastvlm").joinpath("results", "profile.json").read_text("utf-8"))
    machine = recorded["environment"]
    source = f"Recorded run: {machine['cpu']}, {machine['cores']} cores, commit {machine['commit'][:12]}."
    plots.draw_pareto(out / "pareto.svg", recorded["rows"], "effective_resolution", source)
    plots.draw_table(out / "profile.svg", recorded["rows"], f"Seconds to the first token. {source}")


def _shrink(contrast: Contrast, factor: int) -> Contrast:
    ours, peer = contrast.ours.shrink(factor), contrast.peer.shrink(factor)
    return Contrast(ours, peer, contrast.minimum_effect, contrast.paper)


@torch.inference_mode()
def _measure(contrasts: list[Contrast], budget: Budget) -> Times:
    """Return wall seconds of every part, one value per round; prefills of few layers are extrapolated."""
    parts = {part for contrast in contrasts for side in (contrast.ours, contrast.peer) for part in side.parts}
    calls: dict[tuple[str, int], Callable[[], object]] = {}
    models: dict[tuple[str, int], Prefill] = {}
    built: dict[tuple[str, int], Prefill] = {}
    for name, size in sorted(parts):
        if name in ENCODERS:
            calls[name, size] = _encoder_call(name, size)
            continue
        key = name, _count_layers(name, size, budget)
        model = models[name, size] = built[key] = built.get(key) or Prefill(LANGUAGE_MODELS[name], key[1])
        embeds = torch.randn(1, size, model.config.dim)
        calls[name, size] = lambda model=model, embeds=embeds: model(embeds)
        calls[f"{name} read-out", size] = lambda model=model, embeds=embeds: model.read_out(embeds)
    with progress(total=ROUNDS[budget], description="time to first token", unit="rounds") as bar:
        seconds = interleave(calls, ROUNDS[budget], clock=time.perf_counter, on_round=bar.update)
    times = {part: seconds[part] for part in parts}
    for (name, size), model in models.items():
        read_out = np.median(seconds[f"{name} read-out", size])
        times[name, size] = np.array([model.extrapolate(value, float(read_out)) for value in times[name, size]])
    return times


def _encoder_call(name: str, size: int) -> Callable[[], object]:
    module, pixels = ENCODERS[name].build(size), torch.rand(1, 3, size, size)
    return lambda: module(pixels)


def _count_layers(name: str, num_tokens: int, budget: Budget) -> int:
    """Return how many decoder layers run: a few where all would take long."""
    config = LANGUAGE_MODELS[name]
    few = num_tokens > FEW_LAYERS_ABOVE or config.num_params > FEW_LAYERS_PARAMS
    return LAYERS[budget] if few else config.num_layers


def _sum_up(side: Side, times: Times) -> tuple[np.ndarray, np.ndarray]:
    """Return seconds of the image encoder (all views) and of the prefill, one value per round."""
    encoder, prefill = side.parts
    return side.views * times[encoder], times[prefill]


def _judge(contrast: Contrast, *, times: Times, budget: Budget, seconds: float) -> ClaimResult:
    """Turn times into a row: the peer's time to first token over ours, round by round."""
    ours, peer = contrast.ours, contrast.peer
    ours_seconds, peer_seconds = (sum(_sum_up(side, times)) for side in (ours, peer))
    ratio = peer_seconds / ours_seconds
    medians = [[float(np.median(part)) for part in _sum_up(side, times)] for side in (ours, peer)]
    shrunk = "" if SHRINK[budget] == 1 else "; smoke: everything at a quarter of the resolution"
    layers = f"{LAYERS[budget]} ran, and the rest was extrapolated, for 7B models and for over 1,000 tokens"
    return ClaimResult.compare(
        paper="fastvlm",
        claim=f"{ours.label} has its first token sooner than {peer.label} (CPU)",
        primary_metric="speed-up: the peer's time to first token over ours, batch 1, float32",
        paper_value=contrast.paper,
        ours=ratio.tolist(),
        control=[1.0] * len(ratio),
        control_name=f"{peer.label}, {peer.views} x {peer.size} px, same language model",
        minimum_effect=contrast.minimum_effect,
        budget=budget,
        evidence="real",
        data=f"{len(ratio)} rounds; {ours.size} px, {ours.image_tokens} tokens against {peer.views} x {peer.size} px, "
        f"{peer.image_tokens} tokens; {TEXT_TOKENS} text tokens on both sides; weights random{shrunk}",
        seconds=seconds,
        figures=("ttft.svg", "pareto.svg", "profile.svg"),
        note=f"median {medians[0][0]:.2f} + {medians[0][1]:.2f} s (encoder + prefill) against {medians[1][0]:.2f} + "
        f"{medians[1][1]:.2f} s. One decoder layer's tensors serve all layers (same arithmetic); {layers}. Rounds take "
        "the place of seeds; one view is timed and counted once per view. The paper's figure is for an M1 MacBook Pro.",
    )


def _size_claim() -> ClaimResult:
    ours, peer = ENCODERS["fastvithd"].count(64)[0], count_siglip_parameters()
    return ClaimResult.compare(
        paper="fastvlm",
        claim="FastViTHD is smaller than the image encoder of LLaVA-OneVision",
        primary_metric="parameters of SigLIP-SO400M's image encoder over those of FastViTHD",
        paper_value=PaperValue(3.4, "3.4x smaller vision encoder", ABSTRACT, "A"),
        ours=[peer / ours],
        control=[1.0],
        control_name="SigLIP-SO400M, image encoder",
        minimum_effect=1.2,
        budget="full",
        evidence="arithmetic",
        data=f"{ours / 1e6:.1f} M (fused, without the CLIP head, which no language model reads) against "
        f"{peer / 1e6:.1f} M parameters, counted on the models",
        seconds=0.0,
    )


NEEDS_WEIGHTS = "needs the official weights and the benchmarks' data, which do not install with a package."
UNATTEMPTED = (
    (
        "FastVLM is as accurate as earlier models in the LLaVA-1.5 setup, or more so",
        "average over vision-language benchmarks",
        None,
        "needs training on the LLaVA-1.5 data (558 K and 665 K conversations) and the benchmarks' data.",
    ),
    (
        "FastVLM is more accurate than ConvLLaVA on TextVQA",
        "TextVQA, difference in points",
        PaperValue(8.4, "+8.4 % on TextVQA over ConvLLaVA at 144 tokens", "CVPR abstract", "D"),
        NEEDS_WEIGHTS,
    ),
    (
        "FastVLM is more accurate than ConvLLaVA on DocVQA",
        "DocVQA, difference in points",
        PaperValue(12.5, "+12.5 % on DocVQA over ConvLLaVA at 144 tokens", "CVPR abstract", "D"),
        NEEDS_WEIGHTS,
    ),
    (
        "FastVLM-0.5B reads documents (DocVQA, stage 3)",
        "DocVQA, %",
        PaperValue(82.5, "82.5", "model card of FastVLM-0.5B", "D"),
        NEEDS_WEIGHTS,
    ),
    (
        "FastVLM with Qwen2-7B has its first token sooner than Cambrian-1-8B",
        "speed-up of time to first token",
        PaperValue(7.9, "7.9x faster TTFT than Cambrian-1-8B", README, "D"),
        "Cambrian-1's four encoders and their connector install with no package.",
    ),
)


def _not_attempted() -> list[ClaimResult]:
    """Rows for the claims that cannot be tried here."""
    return [
        ClaimResult.not_attempted(paper="fastvlm", claim=claim, primary_metric=metric, paper_value=paper, reason=reason)
        for claim, metric, paper, reason in UNATTEMPTED
    ]
