"""The three trainings of the reading experiment.

`pretrain_encoder` (word-contrastive, on crops), `pretrain_language_model` (finding the word after X among words given
as text), `train_reader` (projector and language model, on tokens that an encoder has looked up once: reading pages
aloud, as dense captions have it, and questions about them).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, OTHER_WORDS
from fastvlm.readers import Reader, SmallLM, WordContrast, answer_logits, build_encoder
from fastvlm.reading_data import IGNORE, Crops, PageTensors, Words

WARM_UP = 0.1
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.02
EVALUATION_BATCH = 100
LossOf = Callable[[], Tensor]


@dataclass(frozen=True)
class Size:
    """How much is trained in a stage.

    Args:
        steps: Optimizer steps.
        batch: Samples per step.
        rate: Largest learning rate.
        seed: Of what is new, and of choices.
    """

    steps: int
    batch: int
    rate: float
    seed: int = 0


def run_steps(parameters: Sequence[nn.Parameter], size: Size, loss_of: LossOf) -> float:
    """Do a training's steps: AdamW, a linear warm-up, a cosine.

    Args:
        parameters: What learns.
        size: How many steps, how fast.
        loss_of: Draws samples and returns their loss.

    Returns:
        The mean loss of the last tenth of the steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=size.rate, betas=BETAS, weight_decay=WEIGHT_DECAY)
    losses = []
    for step in range(size.steps):
        for group in optimizer.param_groups:
            group["lr"] = size.rate * rate_share(step, size.steps)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[int(0.9 * size.steps) :]))


def rate_share(step: int, num_steps: int) -> float:
    """Return the share of the largest learning rate at a step."""
    warm = max(1, round(WARM_UP * num_steps))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, num_steps - warm))) / 2


def pretrain_encoder(name: str, pages: Sequence[PageTensors], words: Words, size: Size) -> tuple[WordContrast, float]:
    """Train a new encoder to point to words, on crops of pages at all resolutions at once.

    Args:
        name: "fastvithd" or "vit".
        pages: The same pages at several resolutions, from `stack_resolutions`.
        words: The vocabulary.
        size: How long and how fast.

    Returns:
        The encoder in its `WordContrast`, and the last losses' mean.
    """
    torch.manual_seed(size.seed)
    model = WordContrast(build_encoder(name), words.count).train()
    crops = Crops(pages, words.count, size.batch, size.seed)

    def loss_of() -> Tensor:
        crops.choose()
        logits, targets = model(*crops.take())
        losses = [F.cross_entropy(part.flatten(0, 1), targets.flatten(), ignore_index=IGNORE) for part in logits]
        return torch.stack(losses).mean()

    loss = run_steps(list(model.parameters()), size, loss_of)
    return model.eval(), loss


@torch.inference_mode()
def word_accuracy(model: WordContrast, pages: Sequence[PageTensors], words: Words) -> list[float]:
    """Return how often pre-training's question is answered on crops of other pages, by map: stride 16, 32, 64."""
    crops = Crops(pages, words.count, min(1000, 4 * len(pages[0].words)), seed=1)
    crops.choose()
    logits, targets = model(*crops.take())
    known = targets >= 0
    return [float((part.argmax(-1) == targets)[known].float().mean()) for part in logits]


def pretrain_language_model(name: str, words: Words, size: Size) -> SmallLM:
    """Train a new language model to find the word after X in rows of random words, given as text.

    Random words, so that nothing can be learned by heart.

    Args:
        name: Key of `LANGUAGE_MODELS`.
        words: The vocabulary.
        size: How long and how fast.
    """
    torch.manual_seed(size.seed)
    model = words.language_model(name).train()
    generator = torch.Generator().manual_seed(size.seed)

    def loss_of() -> Tensor:
        text = torch.rand(size.batch, words.count + OTHER_WORDS, generator=generator).topk(MAX_WORDS, dim=1).indices
        asked = torch.rand(size.batch, MAX_WORDS - 1, generator=generator).topk(MAX_QUESTIONS, dim=1).indices
        answers = text.gather(1, asked + 1)
        pairs = torch.stack([text.gather(1, asked), torch.where(answers < words.count, answers, -1)], -1)
        tokens, labels = words.ask(pairs)
        logits = answer_logits(model, model.embedding(text), tokens)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE)

    run_steps(list(model.parameters()), size, loss_of)
    return model.eval()


@torch.inference_mode()
def text_accuracy(model: SmallLM, pages: PageTensors, words: Words, *, blind: bool = False) -> float:
    """Return exact match with the words given as text (the ceiling), or with nothing given (`blind`)."""
    tokens, labels = words.ask(pages.questions[:, :1])
    text = torch.where(pages.words < 0, words.pad, pages.words)
    logits = answer_logits(model, None if blind else model.embedding(text), tokens[:, :2])
    return float((logits[:, 1].argmax(-1) == labels[:, 1]).float().mean())


def train_blind(model: SmallLM, pages: PageTensors, words: Words, size: Size) -> SmallLM:
    """Train a language model on the questions without any page: what can be guessed from words alone."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(size.seed)

    def loss_of() -> Tensor:
        tokens, labels = words.ask(pages.questions[_draw(len(pages.words), size.batch, generator)])
        return words.answer_loss(answer_logits(model, None, tokens), tokens, labels)

    run_steps(list(model.parameters()), size, loss_of)
    return model.eval()


def train_reader(reader: Reader, tokens: Tensor, pages: PageTensors, words: Words, size: Size) -> float:
    """Train a reader's projector and language model on reading pages aloud and on questions about them.

    Args:
        reader: Whose encoder stays as it is.
        tokens: What `look` returns for the pages [pages, tokens, dim].
        pages: Their words and questions.
        words: The vocabulary.
        size: How long and how fast.

    Returns:
        The last losses' mean.
    """
    generator = torch.Generator().manual_seed(size.seed)
    reader.train()

    def loss_of() -> Tensor:
        chosen = _draw(len(pages.words), size.batch, generator)
        image = reader.projector(tokens[chosen].float())
        tasks = (words.ask(pages.questions[chosen]), words.read_aloud(pages.words[chosen], pages.spoken[chosen]))
        losses = [
            words.answer_loss(answer_logits(reader.language_model, image, asked), asked, labels)
            for asked, labels in tasks
        ]
        return torch.stack(losses).sum()

    loss = run_steps([*reader.projector.parameters(), *reader.language_model.parameters()], size, loss_of)
    reader.eval()
    return loss


def _draw(count: int, batch: int, generator: torch.Generator) -> Tensor:
    return torch.randint(count, (batch,), generator=generator)


@torch.inference_mode()
def page_accuracy(reader: Reader, tokens: Tensor, pages: PageTensors, words: Words) -> np.ndarray:
    """Return for each page whether the answer to its first question is right.

    Args:
        reader: A trained one.
        tokens: What `look` returns for the pages; a single row serves all (a blank page).
        pages: Their questions.
        words: The vocabulary.
    """
    hits = []
    tokens = tokens.expand(len(pages.words), -1, -1)
    for start in range(0, len(pages.words), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        asked, labels = words.ask(pages.questions[part, :1])
        logits = reader.answer(tokens[part].float(), asked[:, :2])
        hits.append(logits[:, 1].argmax(-1) == labels[:, 1])
    return torch.cat(hits).numpy()
