"""Which of several captions a sample shows at a step: a pure function, so that resuming needs no state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from qualityclip.config import MixConfig


def mix(
    real: Sequence[str],
    synthetic: Sequence[str],
    config: MixConfig | None = None,
    *,
    uid: str = "",
    step: int = 0,
    scores: Sequence[float] | None = None,
) -> str:
    """Choose the caption that a sample shows at a step.

    The draw depends on `config.seed`, `uid` and `step` alone: any worker, rank or resumed run chooses the same. A
    sample that lacks the wanted kind shows the other one.

    Args:
        real: Captions found with the picture (alt text).
        synthetic: Captions a model wrote.
        config: Policy; by default a real one with chance 1/2.
        uid: The sample's key.
        step: Optimizer step or epoch.
        scores: One for each caption, real ones first; the policy "best" needs them.

    Returns:
        One caption.

    Raises:
        ValueError: There is no caption, or scores do not fit.

    Example:
        >>> mix(["a dog"], ["a brown dog on grass"], MixConfig("longest"))
        'a brown dog on grass'
    """
    config = config or MixConfig()
    captions = [*real, *synthetic]
    if not captions:
        raise ValueError(f"sample {uid!r} has no captions; give at least one.")
    if config.policy == "longest":
        return max(captions, key=len)
    if config.policy == "best":
        return captions[_best(captions, scores, uid)]
    kind, place = draw(config.seed, uid, step)
    if config.policy == "uniform":
        return captions[int(place * len(captions))]
    if config.policy == "concat" and real and synthetic:
        first = real[int(kind * len(real))].rstrip(" .")
        return f"{first}. {synthetic[int(place * len(synthetic))]}"
    wants_real = config.policy == "real" or (config.policy == "random" and kind < config.real_share)
    chosen = (real or synthetic) if wants_real else (synthetic or real)
    return chosen[int(place * len(chosen))]


def _best(captions: Sequence[str], scores: Sequence[float] | None, uid: str) -> int:
    if scores is None or len(scores) != len(captions):
        found = "none" if scores is None else len(scores)
        raise ValueError(f"the policy 'best' needs {len(captions)} `scores` of sample {uid!r}, found {found}.")
    return max(range(len(captions)), key=lambda place: scores[place])


def draw(seed: int, uid: str, step: int) -> tuple[float, float]:
    """Return two independent numbers from 0 to below 1 that depend on the arguments alone."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{uid}".encode(), digest_size=16).digest()
    first, second = (int.from_bytes(half, "big") >> 11 for half in (digest[:8], digest[8:]))
    # 53 bits fill a float exactly; rounding 64 could give 1.
    return first / (1 << 53), second / (1 << 53)
