"""Runs of the experiment: task adapters, arms that go on from them, and answers after every epoch.

All seeds of an arm are one run with a leading axis (`decoder`). Teachers are kept as their last hidden states in 16
bits, from which their logits follow.
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
from muscle.decoder import Decoder, Layout
from muscle.loss import TEMPERATURE, token_losses
from muscle.tasks import END, NUM_CHOICES, Rows, Task

RANK, SCALE = 16, 2.0  # alpha = 2 r, as in the paper's Table 8
BATCH, EVALUATION_ROWS, VALIDATION_ROWS = 32, 1000, 50
BETAS, EPSILON, CLIP, WARMUP = (0.9, 0.999), 1e-8, 1.0, 0.1


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
class Teachers:
    """Both task models' last hidden states on the training rows.

    Attributes:
        old: v1's base and states [s, examples, tokens, D] for the runs in order, where v1 has several bases one by one.
        new: v2's states [S, examples, tokens, D]; its base is the student's.
    """

    old: tuple[tuple[Decoder, Tensor], ...]
    new: Tensor


def train_arm(
    model: Decoder,
    task: Task,
    plan: Plan,
    teachers: Teachers | None = None,
    evaluate: Callable[[Tensor], list[list[Any]]] | None = None,
) -> Run:
    """Train one arm for all its seeds and look at it after every epoch."""
    flat = plan.start.clone().requires_grad_()
    optimiser = Adam(flat, plan.rates)
    steps_per_epoch = -(-len(task.train.ids) // BATCH)
    total, run = plan.epochs * steps_per_epoch, Run()
    for epoch in range(plan.epochs):
        orders = torch.stack([_order(seed, epoch, len(task.train.ids)) for seed in plan.seeds]).to(flat.device)
        for step in range(steps_per_epoch):
            picked = orders[:, step * BATCH : (step + 1) * BATCH]
            loss = objective(model, flat, task.train, picked, plan.arm, teachers).sum()
            (gradient,) = torch.autograd.grad(loss, flat)
            optimiser.step(gradient, schedule(epoch * steps_per_epoch + step, total))
        run.losses.append(validation_loss(model, flat.detach(), task.validation))
        run.answers.append([] if evaluate is None else evaluate(flat.detach()))
        run.adapters.append(flat.detach().clone())
    return run


def _order(seed: int, epoch: int, num: int) -> Tensor:
    return torch.randperm(num, generator=torch.Generator().manual_seed(1000 * seed + epoch))


def schedule(step: int, total: int) -> float:
    """Linear warm-up over a tenth, then linear to zero."""
    warmup = max(1, int(total * WARMUP))
    return min((step + 1) / warmup, (total - step) / (total - warmup + 1))


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


def objective(model: Decoder, flat: Tensor, rows: Rows, picked: Tensor, arm: Arm, teachers: Teachers | None) -> Tensor:
    """Return each run's loss [S] on its own rows `picked` [S, B], over context and answer tokens."""
    labels = rows.labels[picked]
    logits = model.logits(model.hidden(rows.ids[picked][..., :-1], flat, RANK, SCALE))
    count = (labels >= 0).sum((1, 2))
    loss = torch.zeros(len(flat), device=flat.device)
    if arm.weight < 1:
        cross = F.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none").view_as(labels)
        loss = loss + (1 - arm.weight) * cross.sum((1, 2)) / count
    if arm.weight > 0:
        assert teachers is not None
        new = model.logits(_pick(teachers.new, picked))
        parts = picked.split([len(states) for _, states in teachers.old])
        pairs = zip(teachers.old, parts, strict=True)
        old = torch.cat([teacher.logits(_pick(states, part)) for (teacher, states), part in pairs])
        found = token_losses(logits, old, new, labels, TEMPERATURE, arm.mask)
        loss = loss + arm.weight * found.sum((1, 2)) / count
    return loss


def _pick(states: Tensor, picked: Tensor) -> Tensor:
    """States [S, B, T, D] of each run's own rows."""
    return states[torch.arange(len(states), device=states.device)[:, None], picked].float()


@torch.no_grad()
def hidden_states(model: Decoder, flat: Tensor, rows: Rows) -> Tensor:
    """Return the last hidden states of every row under every run's adapters [S, examples, tokens, D]."""
    parts = [
        model.hidden(part[None].expand(len(flat), -1, -1)[..., :-1], flat, RANK, SCALE)
        for part in rows.ids.split(EVALUATION_ROWS)
    ]
    return torch.cat([part.half() for part in parts], dim=1)


@torch.no_grad()
def validation_loss(model: Decoder, flat: Tensor, rows: Rows) -> list[float]:
    """Return each run's mean cross-entropy on validation rows."""
    total = torch.zeros(len(flat), device=flat.device)
    for ids, labels in zip(rows.ids.split(VALIDATION_ROWS), rows.labels.split(VALIDATION_ROWS), strict=True):
        logits = model.logits(model.hidden(ids[None].expand(len(flat), -1, -1)[..., :-1], flat, RANK, SCALE))
        targets = labels[None].expand(len(flat), -1, -1)
        losses = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none")
        total += losses.view_as(targets).sum((1, 2))
    return (total / (rows.labels >= 0).sum()).tolist()


def answer(model: Decoder, task: Task, flat: Tensor, *, validation: bool = False) -> list[list[Any]]:
    """Return every run's answers to the tests: places of choices, or generated text."""
    rows = task.validation_tests if validation else task.tests
    if task.name == "topic":
        return choose(model, flat, rows)
    texts = generate(model, flat, rows, task.answer_tokens)
    return [[text.strip() for text in task.tokenizer.decode_batch(run)] for run in texts]


@torch.no_grad()
def choose(model: Decoder, flat: Tensor, rows: Rows) -> list[list[int]]:
    """Return the choice with the highest summed log-likelihood of its tokens, for every run."""
    scores = []
    for start in range(0, len(rows.ids), EVALUATION_ROWS):
        part = slice(start, start + EVALUATION_ROWS)
        ids, labels = rows.ids[part], rows.labels[part]
        states = model.hidden(ids[None].expand(len(flat), -1, -1)[..., :-1], flat, RANK, SCALE)
        place = torch.arange(labels.shape[1], device=ids.device)
        # The end token, which every choice shares in training, is no part of its likelihood.
        asked = (place >= rows.prompts[part, None] - 1) & (labels > END)
        where = asked.nonzero(as_tuple=True)
        found = model.logits(states[:, where[0], where[1]]).log_softmax(-1)
        picked = found.gather(-1, labels[where][None, :, None].expand(len(flat), -1, 1))[..., 0]
        scores.append(torch.zeros(len(flat), len(ids), device=ids.device).index_add_(1, where[0], picked))
    return torch.cat(scores, dim=1).view(len(flat), -1, NUM_CHOICES).argmax(-1).tolist()


@torch.no_grad()
def generate(model: Decoder, flat: Tensor, rows: Rows, num_tokens: int) -> list[list[list[int]]]:
    """Return every run's greedy continuation of each prompt, up to the end token or the task's longest answer."""
    found = []
    for start in range(0, len(rows.ids), EVALUATION_ROWS):
        part = slice(start, start + EVALUATION_ROWS)
        ids = rows.ids[part][None].expand(len(flat), -1, -1).clone()
        ends = rows.prompts[part][None].expand(len(flat), -1)
        longest, ended = int(ends.max()), torch.zeros_like(ends, dtype=torch.bool)
        for step in range(num_tokens):
            states = model.hidden(ids[..., : longest + step], flat, RANK, SCALE)
            last = (ends + step - 1)[..., None, None].expand(-1, -1, 1, states.shape[-1])
            token = model.logits(states.gather(2, last)[:, :, 0]).argmax(-1)
            ids.scatter_(2, (ends + step)[..., None], token[..., None])
            ended |= token == END
            if bool(ended.all()):
                break
        places = ends[..., None] + torch.arange(num_tokens, device=ids.device)
        found.append(ids.gather(2, places))
    runs = torch.cat(found, dim=1).tolist()
    return [[row[: row.index(END)] if END in row else row for row in run] for run in runs]


def start_adapters(layout: Layout, seeds: Sequence[int], device: str) -> Tensor:
    """Draw new adapters for the seeds."""
    return layout.init(list(seeds)).to(device)
