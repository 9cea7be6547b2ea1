"""What learns and how: a model with the loss of its conversations, its optimizer, its learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastvlm.adapters import add_adapters
from fastvlm.data import Batch
from fastvlm.model import FastVLM, count_positions
from fastvlm.recipes import TrainConfig


class Learner(nn.Module):
    """A model and the loss of its conversations.

    Args:
        model: What learns.
        config: Which parts learn.
    """

    def __init__(self, model: FastVLM, config: TrainConfig) -> None:
        super().__init__()
        self.model, self.config = model, config
        if config.lora_rank:
            add_adapters(model, config)
        elif not config.train_language_model:
            model.language_model.requires_grad_(False)
        model.encoder.requires_grad_(config.train_encoder)
        if model.encoder.head is not None:  # no vision-language model reads the CLIP head
            model.encoder.head.requires_grad_(False)
        model.projector.requires_grad_(True)
        if config.gradient_checkpointing:
            _recompute_layers(model.language_model)
        self.train()

    def train(self, mode: bool = True) -> Learner:
        """Switch dropout on or off; batch normalisation keeps its statistics either way."""
        super().train(mode)
        self.model.encoder.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum of the losses of a batch's tokens."""
        model = self.model
        features = None if batch.pixels is None else self._look(batch.pixels)
        embeds, mask = model.embed(batch.input_ids, features, batch.attention_mask, batch.views)
        targets = batch.labels[:, 1:]
        learned = (targets >= 0).any(0).nonzero().flatten()
        kept = learned if len(learned) else torch.zeros(1, dtype=torch.long, device=mask.device)
        logits = model.language_model(
            inputs_embeds=embeds,
            attention_mask=mask,
            position_ids=count_positions(mask),
            use_cache=False,
            logits_to_keep=kept,
        ).logits
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets[:, kept].flatten(), reduction="sum")
        if batch.pixels is None:  # processes agree on which parameters have a gradient
            unused = [*model.encoder.parameters(), *model.projector.parameters()]
            loss = loss + sum(0.0 * value.sum() for value in unused if value.requires_grad)
        return loss

    def _look(self, pixels: Tensor) -> Tensor:
        if not self.config.train_encoder:
            with torch.no_grad():
                tokens = self.model.encoder(pixels)
            return self.model.projector(tokens)
        if self.config.gradient_checkpointing:
            return checkpoint(self.model.encode_images, pixels, use_reentrant=False)
        return self.model.encode_images(pixels)


def _recompute_layers(language_model: nn.Module) -> None:
    """Switch on transformers' recomputation of activations, under its name of today or of yesterday."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")
    enable = next(getattr(language_model, name) for name in names if hasattr(language_model, name))
    enable({"use_reentrant": False})


def build_optimizer(model: FastVLM, config: TrainConfig) -> torch.optim.AdamW:
    """Return AdamW with a learning rate per module; biases, norms and scales never decay."""
    rates = {
        "encoder": config.encoder_learning_rate,
        "projector": config.projector_learning_rate,
        "language_model": None,
    }
    groups: list[dict[str, Any]] = []
    for name, rate in rates.items():
        learned = [value for value in getattr(model, name).parameters() if value.requires_grad]
        for decays in (True, False):
            chosen = [value for value in learned if (value.ndim >= 2) == decays]
            if chosen:
                decay = config.weight_decay if decays else 0.0
                largest = config.learning_rate if rate is None else rate
                groups.append({"params": chosen, "weight_decay": decay, "largest": largest, "name": name})
                groups[-1]["decays"] = decays
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def learning_rate(step: int, num_steps: int, config: TrainConfig) -> float:
    """Return the share of the largest learning rate at a step: linear warm-up, then a cosine to zero.

    Example:
        >>> config = TrainConfig(warmup_ratio=0.1)
        >>> [round(learning_rate(step, 100, config), 3) for step in (0, 9, 10, 55, 99)]
        [0.1, 1.0, 1.0, 0.5, 0.0]
    """
    warmup = math.ceil(config.warmup_ratio * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup))) / 2
