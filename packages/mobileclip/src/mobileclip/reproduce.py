"""MobileCLIP's claims at laptop scale: latency against CLIP models based on ViT-B/16, and reinforced training.

    mobileclip reproduce --budget laptop        (two cores, about three minutes; full: hours)

Learning efficiency is described in `efficiency`, the cost of reading reinforced data in `overhead`. Latency, fixed
before the run. Arms: MobileCLIP-S2 and -S0 in their fastest eager form; peers: open_clip's SigLIP ViT-B/16
and OpenAI ViT-B/16, eager, as open_clip runs them; all float32, batch 1, weights random (no weights install with a
package, and the time does not depend on their values). Work: zero-shot classification of one photograph of
scikit-image against one caption, that is image encoder, text encoder, similarity; preprocessing excluded, as in the
paper; image encoder alone as its own row. One and two threads. Rounds in which every arm runs once in random order
take the place of seeds; primary metric: the peer's time over ours in the same round. Control: the peer itself, a ratio
of 1. Minimum effect: half of the gain that the paper reports (S2 0.65, S0 1.9). Nothing is tuned for either side.
The paper measured an iPhone 12 Pro Max with Core ML; ours is a CPU with torch, and the rows say so.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tenfold_shared.benchmarks import interleave
from tenfold_shared.claims import ClaimResult, PaperValue
from tenfold_shared.environment import seed_everything
from tenfold_shared.progress import progress
from torch import Tensor

from mobileclip import efficiency, overhead, plots
from mobileclip.config import PRESETS
from mobileclip.model import MobileCLIP, optimize_for_inference
from mobileclip.peers import ClipPeer, build_clip_peer, example_ids, read_photographs
from mobileclip.preprocess import Preprocess
from mobileclip.timing import torch_threads

Budget = Literal["smoke", "laptop", "full"]
Part = Literal["latency", "learning", "reading"]
ALL: tuple[Part, ...] = ("latency", "learning", "reading")
ROUNDS: dict[Budget, int] = {"smoke": 2, "laptop": 12, "full": 60}
THREADS: dict[Budget, tuple[int, ...]] = {"smoke": (2,), "laptop": (1, 2), "full": (1, 2)}
SIGLIP, OPENAI = "ViT-B-16-SigLIP", "ViT-B-16-quickgelu"
PARTS = ("image", "text")
README = "README of apple/ml-mobileclip"
LABELS = {
    "mobileclip_s0": "MobileCLIP-S0",
    "mobileclip_s2": "MobileCLIP-S2",
    SIGLIP: "SigLIP ViT-B/16",
    OPENAI: "OpenAI ViT-B/16",
}
Seconds = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True)
class Contrast:
    """One row of the report: who is compared with whom on what, and what the paper says."""

    ours: str
    peer: str
    work: Literal["image + text", "image"]
    minimum_effect: float
    paper: PaperValue | None = None


CONTRASTS = (
    Contrast(
        "mobileclip_s2",
        SIGLIP,
        "image + text",
        0.65,
        PaperValue(2.3, "2.3x faster than the previous best CLIP based on ViT-B/16 (iPhone)", "abstract", "A"),
    ),
    Contrast("mobileclip_s2", OPENAI, "image + text", 0.65),
    Contrast("mobileclip_s2", SIGLIP, "image", 0.65),
    Contrast("mobileclip_s2", OPENAI, "image", 0.65),
    Contrast("mobileclip_s0", OPENAI, "image + text", 1.9, PaperValue(4.8, "4.8x faster (iPhone)", README, "V")),
    Contrast("mobileclip_s0", OPENAI, "image", 1.9),
)
SIZES = (
    Contrast("mobileclip_s2", SIGLIP, "image + text", 0.55, PaperValue(2.1, "2.1x smaller", README, "V")),
    Contrast("mobileclip_s0", OPENAI, "image + text", 0.9, PaperValue(2.8, "2.8x smaller", README, "V")),
)


def reproduce(out: Path, *, budget: Budget, seed: int) -> list[ClaimResult]:
    """Measure latency, size, learning efficiency and the cost of reading, and judge the paper's claims.

    Args:
        out: Existing folder; gets `latency.svg`, `speedup.svg`, `efficiency.svg` and `efficiency/`.
        budget: "smoke", "laptop" or "full".
        seed: Of weights, tokens and order.

    Returns:
        Rows for every contrast and number of threads, the sizes, the training, and the claims that need weights.
    """
    return measure(out, budget=budget, seed=seed, parts=ALL)


def measure(out: Path, *, budget: Budget, seed: int, parts: Sequence[Part]) -> list[ClaimResult]:
    """Do a part of `reproduce`, or several."""
    seed_everything(seed)
    claims = _latency(out, budget, seed) if "latency" in parts else []
    if "learning" in parts:
        claims += efficiency.measure(out, budget=budget, seed=seed)
    if "reading" in parts:
        claims += overhead.measure(out, budget=budget)
    return [*claims, *_not_attempted()]


def _latency(out: Path, budget: Budget, seed: int) -> list[ClaimResult]:
    """Time every arm, draw the two figures and count parameters."""
    start = time.perf_counter()
    arms = _build_arms(seed)
    bar = progress(total=ROUNDS[budget] * len(THREADS[budget]), description="latency", unit="round")
    seconds = {threads: _measure(arms, threads, budget, bar.update) for threads in THREADS[budget]}
    bar.close()
    plots.draw_latency(out / "latency.svg", seconds, LABELS)
    judge = partial(_judge, budget=budget, seconds=time.perf_counter() - start)
    claims = [judge(contrast, threads, seconds[threads]) for contrast in CONTRASTS for threads in seconds]
    rows = [f"{_short(contrast)}, {threads}t" for contrast in CONTRASTS for threads in seconds]
    plots.draw_speedups(out / "speedup.svg", claims, rows)
    return [*claims, *(_size_claim(contrast, arms) for contrast in SIZES)]


@dataclass(frozen=True)
class Arm:
    """A model ready to classify: one function per half, inputs included, and its parameters."""

    encode: dict[str, Callable[[int], Tensor]]
    num_params: tuple[int, int]


def _build_arms(seed: int) -> dict[str, Arm]:
    photographs = list(read_photographs().values())
    arms = {name: _our_arm(name, photographs, seed) for name in ("mobileclip_s0", "mobileclip_s2")}
    return arms | {name: _peer_arm(build_clip_peer(name), photographs, seed) for name in (SIGLIP, OPENAI)}


def _our_arm(name: str, photographs: Sequence, seed: int) -> Arm:
    model = optimize_for_inference(MobileCLIP(PRESETS[name]))
    sizes = tuple(sum(p.numel() for p in half.parameters()) for half in (model.image_encoder, model.text_encoder))
    ids = example_ids(PRESETS[name].text.vocab_size, PRESETS[name].text.context_length, seed=seed)
    return _arm(model, photographs, PRESETS[name].image.image_size, ids, sizes)


def _peer_arm(peer: ClipPeer, photographs: Sequence, seed: int) -> Arm:
    ids = example_ids(peer.vocab_size, peer.context_length, seed=seed)
    return _arm(peer.model, photographs, peer.image_size, ids, peer.num_params())


def _arm(model: torch.nn.Module, photographs: Sequence, size: int, ids: Tensor, num_params: tuple[int, int]) -> Arm:
    """Bind a model (ours and open_clip's have the same two methods) to photographs and a caption."""
    pixels = [Preprocess(size)(photograph).unsqueeze(0) for photograph in photographs]
    return Arm(
        {
            "image": lambda index: model.encode_image(pixels[index % len(pixels)], normalize=True),
            "text": lambda index: model.encode_text(ids, normalize=True),
        },
        num_params,
    )


@torch.inference_mode()
def _measure(arms: dict[str, Arm], threads: int, budget: Budget, on_round: Callable[[], object]) -> Seconds:
    """Return wall seconds per arm and part, one value per round."""
    # Every arm sees the same photograph in a round, the next one in the next.
    calls = {
        (name, part): partial(next, map(arm.encode[part], itertools.count()))
        for name, arm in arms.items()
        for part in PARTS
    }
    with torch_threads(threads):
        times = interleave(calls, ROUNDS[budget], clock=time.perf_counter, on_round=on_round)
    return {name: {part: times[name, part] for part in PARTS} for name in arms}


def _judge(contrast: Contrast, threads: int, times: Seconds, *, budget: Budget, seconds: float) -> ClaimResult:
    """Turn times into a row: the peer's time over ours, round by round."""
    parts = PARTS if contrast.work == "image + text" else ("image",)
    ours, peer = (sum(times[name][part] for part in parts) for name in (contrast.ours, contrast.peer))
    ratio = peer / ours
    plural = "thread" if threads == 1 else "threads"
    return ClaimResult.compare(
        paper="mobileclip",
        claim=f"{LABELS[contrast.ours]} is faster than {LABELS[contrast.peer]} "
        f"({contrast.work}, {threads} {plural}, CPU)",
        primary_metric="speed-up: time of the peer over ours, batch 1, float32",
        paper_value=contrast.paper,
        ours=ratio.tolist(),
        control=[1.0] * len(ratio),
        control_name=f"{LABELS[contrast.peer]} in open_clip, eager",
        minimum_effect=contrast.minimum_effect,
        budget=budget,
        evidence="real",
        data=f"{len(ratio)} rounds over photographs of scikit-image, one caption each; weights random",
        seconds=seconds,
        figures=("latency.svg", "speedup.svg"),
        note=f"median {1e3 * np.median(ours):.1f} ms against {1e3 * np.median(peer):.1f} ms; rounds take the place of "
        "seeds. The paper's figure is for a phone with Core ML.",
    )


def _short(contrast: Contrast) -> str:
    """The comparison in a few letters, for a plot's axis."""
    ours, peer = contrast.ours[-2:].upper(), LABELS[contrast.peer].split()[0]
    return f"{ours} / {peer}, {contrast.work}"


def _size_claim(contrast: Contrast, arms: dict[str, Arm]) -> ClaimResult:
    ours, peer = (sum(arms[name].num_params) for name in (contrast.ours, contrast.peer))
    return ClaimResult.compare(
        paper="mobileclip",
        claim=f"{LABELS[contrast.ours]} is smaller than {LABELS[contrast.peer]} (image + text)",
        primary_metric="parameters of the peer over ours",
        paper_value=contrast.paper,
        ours=[peer / ours],
        control=[1.0],
        control_name=LABELS[contrast.peer],
        minimum_effect=contrast.minimum_effect,
        budget="full",
        evidence="arithmetic",
        data=f"{ours / 1e6:.1f} M against {peer / 1e6:.1f} M parameters, counted on the models",
        seconds=0.0,
    )


UNATTEMPTED = (
    (
        "MobileCLIP-S2 is more accurate than the previous best CLIP based on ViT-B/16",
        "average over 38 data sets, %",
        PaperValue(63.7, "63.7", README, "V"),
        "needs the official weights and 38 evaluation data sets, which do not install with a package.",
    ),
    (
        "Reinforced training lifts ViT-B/16 above the previous best on average",
        "gain of the average over 38 data sets, %",
        PaperValue(2.9, "+2.9 % on average over 38 benchmarks", "abstract", "A"),
        "needs the official weights and 38 evaluation data sets, which do not install with a package.",
    ),
    (
        "Reinforced training raises ViT-B/16 from plain CLIP's accuracy on ImageNet",
        "zero-shot accuracy on ImageNet, %",
        None,
        "needs DataComp-12M and ImageNet, which do not install with a package.",
    ),
)


def _not_attempted() -> list[ClaimResult]:
    """Rows for the abstract's claims that cannot be tried here."""
    return [
        ClaimResult.not_attempted(
            paper="mobileclip", claim=claim, primary_metric=metric, paper_value=paper, reason=reason
        )
        for claim, metric, paper, reason in UNATTEMPTED
    ]
