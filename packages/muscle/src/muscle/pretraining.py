"""Train the experiment's base language models from text."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from muscle.decoder import Decoder, Shape, Weights, init_weights

LENGTH, ROWS, PEAK, DECAY = 96, 96, 3e-3, 0.1


def pack_rows(tokenizer: Any, texts: Iterable[str], length: int = LENGTH) -> Tensor:
    """Return all texts, an end token after each, as rows [N, length + 1] that share one token."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        ids += [*encoding.ids, 0]
    count = (len(ids) - 1) // length
    return torch.tensor(ids[: count * length + 1]).unfold(0, length + 1, length).contiguous()


def pretrain(rows: Tensor, shape: Shape, *, steps: int, seed: int, device: str, log: Any = None) -> Weights:
    """Train a base for `steps` steps of `ROWS` rows, cosine decay to a tenth, and return its weights on the CPU."""
    weights = {name: value.to(device).requires_grad_() for name, value in init_weights(shape, seed).items()}
    model, rows = Decoder(shape, weights), rows.to(device)
    fused = device == "cuda"
    optimiser = torch.optim.AdamW(weights.values(), lr=PEAK, betas=(0.9, 0.95), weight_decay=DECAY, fused=fused)
    generator, warmup, start = torch.Generator().manual_seed(seed), max(1, steps // 20), time.process_time()
    for step in range(steps):
        ratio = min(1.0, (step + 1) / warmup) * (0.55 + 0.45 * math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = PEAK * ratio
        batch = rows[torch.randint(len(rows), (ROWS,), generator=generator).to(device)]
        with torch.autocast(device, torch.bfloat16, enabled=fused):
            logits = model.logits(model.hidden(batch[None, :, :-1]))
        loss = F.cross_entropy(logits.float().flatten(0, 2), batch[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimiser.step()
        if log is not None and (step % 50 == 0 or step == steps - 1):
            log({"step": step, "loss": float(loss.detach()), "seconds": time.process_time() - start})
    return {name: value.detach().cpu() for name, value in weights.items()}
