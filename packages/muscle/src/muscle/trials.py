"""Runs of the experiment: task adapters, arms that go on from them, and answers after every epoch.

All seeds of an arm are one run with a leading axis (`decoder`). What lies below the adapters is computed once for each
base and task; teachers are kept as their last hidden states in 16 bits, from which their logits follow. Losses are over
the answer's tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from muscle.config import MaskName
from muscle.decoder import Decoder, Layout, Past
from muscle.loss import TEMPERATURE, token_losses
from muscle.tasks import END, NUM_CHOICES, Rows

RANK, SCALE = 16, 2.0  # alpha = 2 r, as in the paper's Table 8
BATCH, CHUNK = 32, 500
BETAS, EPSILON, CLIP, WARMUP = (0.9, 0.999), 1e-8, 1.0, 50


@dataclass(frozen=True)
class Arm:
    """An objective: `weight` of L_comp (the rest is cross-entropy), its mask, and whose answers it keeps."""

    weight: float = 0.0
    mask: MaskName = "muscle"
    teacher: str = "old"


# The task adapters are trained with cross-entropy; the others go on from the new one for as many epochs.
ARMS: dict[str, Arm] = {
    "CE continued": Arm(),
    "MUSCLE": Arm(1.0),
    "MUSCLE + CE": Arm(0.5),
    "wrong teacher": Arm(1.0, teacher="other seed"),
    "wrong teacher + CE": Arm(0.5, teacher="other seed"),
    "KL to old": Arm(1.0, "all_old"),
    "old correct": Arm(1.0, "old_correct"),
    "LL token + CE": Arm(0.5, "ll_token"),
    "LL sequence + CE": Arm(0.5, "ll_sequence"),
}


@dataclass
class Run:
    """What became of one arm, for each epoch: validation loss [S], answers [S][tests], adapters."""

    losses: list[list[float]] = field(default_factory=list)
    answers: list[list[list[Any]]] = field(default_factory=list)
    adapters: list[Tensor] = field(default_factory=list)

    def best(self) -> list[int]:
        """Return each seed's epoch with the lowest validation cross-entropy (section 5.1)."""
        return np.argmin(np.array(self.losses), axis=0).tolist()

    def chosen(self) -> Tensor:
        """Return each seed's adapters of that epoch."""
        return torch.stack([self.adapters[epoch][seed] for seed, epoch in enumerate(self.best())])


@dataclass(frozen=True)
class Plan:
    """One run: where it starts, its seeds and learning rates (as many), epochs and objective."""

    start: Tensor
    seeds: Sequence[int]
    rates: Sequence[float]
    epochs: int
    arm: Arm = Arm()


@dataclass(frozen=True)
class Frozen:
    """Rows, and what a base makes of them below the adapters.

    Attributes:
        rows: Tokens.
        states: What goes into the last block [examples, P + A, D].
        mask: Which tokens each of the last A + 1 attends to [examples, 1, A + 1, P + A].
    """

    rows: Rows
    states: Tensor
    mask: Tensor

    def top(self, model: Decoder, flat: Tensor, picked: Tensor) -> Tensor:
        """Return each run's last hidden states of its own rows `picked` [S, B, A + 1, D]."""
        return model.top(self.states[picked], flat, RANK, SCALE, mask=self.mask[picked].flatten(0, 1))

    def parts(self, num: int) -> list[Tensor]:
        """Return the places of all rows for `num` runs, in parts [S, B]."""
        return [part.expand(num, -1) for part in torch.arange(len(self.states), device=self.states.device).split(CHUNK)]


@torch.no_grad()
def freeze(model: Decoder, rows: Rows) -> Frozen:
    """Run a base below the adapters."""
    mask, ids = rows.mask(rows.ids.shape[1]), rows.ids
    parts = zip(ids.split(CHUNK), mask.split(CHUNK), strict=True)
    states = torch.cat([model.lower(part[None], these)[0] for part, these in parts])
    return Frozen(rows, states, mask[:, :, -rows.answers.shape[1] :].contiguous())


@dataclass(frozen=True)
class Material:
    """A task under one base: rows to learn from, rows to select by, and the function that answers its tests."""

    train: Frozen
    validation: Frozen
    answer: Callable[[Tensor], list[list[Any]]]


@dataclass(frozen=True)
class Teachers:
    """Both task models' last hidden states on the training rows.

    Attributes:
        old: v1's base and states [s, examples, A + 1, D] for the runs in order, where v1 has several bases one by one.
        new: v2's states [S, examples, A + 1, D]; its base is the student's.
    """

    old: tuple[tuple[Decoder, Tensor], ...]
    new: Tensor


def train_arm(model: Decoder, material: Material, plan: Plan, teachers: Teachers | None = None) -> Run:
    """Train one arm for all its seeds; look at it after every epoch.

    The adapters of an epoch are the mean of its steps' (exponential, over as many steps as an epoch has), without which
    seeds differ nearly as much as versions do. The rate is constant after `WARMUP` steps.
    """
    flat = plan.start.clone().requires_grad_()
    optimiser, num = Adam(flat, plan.rates), len(material.train.states)
    steps_per_epoch = -(-num // BATCH)
    mean, run = plan.start.clone(), Run()
    for epoch in range(plan.epochs):
        orders = torch.stack([_order(seed, epoch, num) for seed in plan.seeds]).to(flat.device)
        for step in range(steps_per_epoch):
            done = epoch * steps_per_epoch + step + 1
            picked = orders[:, step * BATCH : (step + 1) * BATCH]
            loss = objective(model, flat, material.train, picked, plan.arm, teachers).sum()
            (gradient,) = torch.autograd.grad(loss, flat)
            optimiser.step(gradient, min(1.0, done / WARMUP))
            mean.lerp_(flat.detach(), 1 / min(done + 1, steps_per_epoch))
        run.losses.append(validation_loss(model, mean, material.validation))
        run.answers.append(material.answer(mean))
        run.adapters.append(mean.clone())
    return run


def _order(seed: int, epoch: int, num: int) -> Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(1000 * seed + epoch))


class Adam:
    """Adam on stacked flat adapters, each run with its own learning rate and gradient clipping."""

    def __init__(self, flat: Tensor, rates: Sequence[float]) -> None:
        """Start with zero moments."""
        self.flat, self.count = flat, 0
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)
        self.rates = torch.tensor(rates, device=flat.device)[:, None]

    @torch.no_grad()
    def step(self, gradient: Tensor, factor: float) -> None:
        """Take one step at `factor` times the learning rates."""
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (CLIP / norm.clamp(min=CLIP))
        self.count += 1
        self.first.lerp_(gradient, 1 - BETAS[0])
        self.second.lerp_(gradient.square(), 1 - BETAS[1])
        mean = self.first / (1 - BETAS[0] ** self.count)
        root = (self.second / (1 - BETAS[1] ** self.count)).sqrt()
        self.flat -= factor * self.rates * mean / (root + EPSILON)


def objective(
    model: Decoder, flat: Tensor, rows: Frozen, picked: Tensor, arm: Arm, teachers: Teachers | None
) -> Tensor:
    """Return each run's loss [S] on its own rows `picked` [S, B], over the answers' tokens."""
    labels = rows.rows.labels[picked]
    longest = int((labels >= 0).sum(-1).max())
    labels = labels[..., :longest]
    logits = model.logits(rows.top(model, flat, picked)[:, :, :longest])
    count = (labels >= 0).sum((1, 2))
    loss = torch.zeros(len(flat), device=flat.device)
    if arm.weight < 1:
        cross = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view_as(labels)
        loss = loss + (1 - arm.weight) * cross.sum((1, 2)) / count
    if arm.weight > 0:
        assert teachers is not None
        new = model.logits(_pick(teachers.new, picked, longest))
        parts = picked.split([len(states) for _, states in teachers.old])
        pairs = zip(teachers.old, parts, strict=True)
        old = torch.cat([teacher.logits(_pick(states, part, longest)) for (teacher, states), part in pairs])
        found = token_losses(logits, old, new, labels, TEMPERATURE, arm.mask)
        loss = loss + arm.weight * found.sum((1, 2)) / count
    return loss


def _pick(states: Tensor, picked: Tensor, longest: int) -> Tensor:
    """States [S, B, longest, D] of each run's own rows."""
    return states[torch.arange(len(states), device=states.device)[:, None], picked, :longest].float()


@torch.no_grad()
def hidden_states(model: Decoder, flat: Tensor, rows: Frozen) -> Tensor:
    """Return the last hidden states of every answer's tokens under every run's adapters [S, examples, A + 1, D]."""
    return torch.cat([rows.top(model, flat, part).half() for part in rows.parts(len(flat))], dim=1)


@torch.no_grad()
def validation_loss(model: Decoder, flat: Tensor, rows: Frozen) -> list[float]:
    """Return each run's mean cross-entropy over the answers' tokens of all rows."""
    total = torch.zeros(len(flat), device=flat.device)
    for part in rows.parts(len(flat)):
        labels = rows.rows.labels[part]
        where = (labels >= 0).nonzero(as_tuple=True)
        losses = F.cross_entropy(model.logits(rows.top(model, flat, part)[where]), labels[where], reduction="none")
        total.index_add_(0, where[0], losses)
    return (total / (rows.rows.labels >= 0).sum()).tolist()


@torch.no_grad()
def choose(model: Decoder, flat: Tensor, rows: Frozen) -> list[list[int]]:
    """Return the choice with the highest summed log-likelihood of its tokens, for every run."""
    scores = torch.zeros(len(flat), len(rows.states), device=flat.device)
    for part in rows.parts(len(flat)):
        labels = rows.rows.labels[part]
        where = (labels > END).nonzero(as_tuple=True)  # the end token, which all choices share, does not count
        logs = model.logits(rows.top(model, flat, part)[where]).log_softmax(-1)
        scores.index_put_((where[0], part[where[:2]]), logs.gather(-1, labels[where][:, None])[:, 0], accumulate=True)
    return scores.view(len(flat), -1, NUM_CHOICES).argmax(-1).tolist()


@dataclass(frozen=True)
class Prompts:
    """Prompts that a base has read: what goes into the last block, and each lower block's keys and values."""

    valid: Tensor
    states: Tensor
    past: tuple[Past, ...]


@torch.no_grad()
def read_prompts(model: Decoder, rows: Rows) -> list[Prompts]:
    """Read the prompts in parts, with room for answers."""
    found, (length, room) = [], (rows.prompts.shape[1], rows.ids.shape[1])
    places = torch.arange(length, device=rows.prompts.device)
    for ids, valid in zip(rows.prompts.split(CHUNK), rows.valid.split(CHUNK), strict=True):
        mask = (places <= places[:, None]) & (valid[:, None] | (places == places[:, None]))
        past = tuple(_empty(model, len(ids), room) for _ in range(model.shape.num_layers - 1))
        states = model.lower(ids[None], mask[:, None], past)
        found.append(Prompts(F.pad(valid, (0, room - length), value=True)[:, None, None], states, past))
    return found


def _empty(model: Decoder, rows: int, room: int) -> Past:
    shape, weight = model.shape, model.weights["norm"]
    size = (rows, shape.num_heads, room, shape.dim // shape.num_heads)
    return Past(weight.new_empty(size), weight.new_empty(size))


@torch.no_grad()
def generate(model: Decoder, flat: Tensor, prompts: Sequence[Prompts]) -> list[list[list[int]]]:
    """Return every run's greedy continuation of each prompt, up to the end token or the longest answer."""
    found = [torch.cat([_continue(model, run[None], part) for part in prompts]).tolist() for run in flat]
    return [[row[: row.index(END)] if END in row else row for row in run] for run in found]


def _continue(model: Decoder, flat: Tensor, prompts: Prompts) -> Tensor:
    """Greedy tokens [B, A] of one run; zeros (ends) after the step in which all have ended."""
    start, room = prompts.states.shape[2], prompts.valid.shape[-1]
    lower = [Past(past.keys, past.values, start) for past in prompts.past]
    last = _empty(model, prompts.states.shape[1], room)
    states = prompts.states
    tokens = torch.zeros(states.shape[1], room - start, dtype=torch.long, device=states.device)
    for step in range(room - start):
        mask = prompts.valid[..., : start + step]
        hidden = model.top(states, flat, RANK, SCALE, mask=mask, past=last)
        token = model.logits(hidden[0, :, -1]).argmax(-1)
        tokens[:, step] = token
        if step == room - start - 1 or bool((tokens[:, : step + 1] == END).any(1).all()):
            break
        states = model.lower(token[None, :, None], prompts.valid[..., : start + step + 1], lower)
    return tokens


def start_adapters(layout: Layout, seeds: Sequence[int], device: str) -> Tensor:
    """Draw new adapters for the seeds."""
    return layout.init(list(seeds)).to(device)
