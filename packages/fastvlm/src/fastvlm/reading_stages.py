"""The trainings of the reading experiment.

`pretrain_encoder` (word-contrastive, on crops), `pretrain_language_model` (finding the word after X among words in
cells, no page seen), and for each reader `align_projector` (tokens of an encoder to those of words in cells) and
`train_reader` (projector and language model, on tokens that an encoder has looked up once: reading pages aloud, as
dense captions have it, and questions about them).
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.cells import Layout
from fastvlm.pages import MAX_QUESTIONS
from fastvlm.readers import Reader, SmallLM, WordContrast, build_encoder
from fastvlm.reading_data import IGNORE, Crops, PageTensors, Words

WARM_UP = 0.1
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.02
EVALUATION_BATCH = 100
OTHERS = 0.1  # of the words in cells from which language models learn
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
        logits, targets, page = model(*crops.take())
        shares = (size.batch * torch.bincount(page)[page]).reciprocal()  # crops count alike, whatever they hold
        losses = [(F.cross_entropy(part, targets, reduction="none") * shares).sum() for part in logits]
        return torch.stack(losses).mean()

    loss = run_steps(list(model.parameters()), size, loss_of)
    return model.eval(), loss


@torch.inference_mode()
def word_accuracy(model: WordContrast, pages: Sequence[PageTensors], words: Words) -> list[float]:
    """Return how often pre-training's question is answered on crops of other pages, by map: stride 16, 32, 64."""
    crops = Crops(pages, words.count, min(1000, 4 * len(pages[0].words)), seed=1)
    crops.choose()
    logits, targets, _ = model(*crops.take())
    known = targets < words.count
    return [float((part.argmax(-1) == targets)[known].float().mean()) for part in logits]


def pretrain_language_model(
    name: str, pages: PageTensors, layouts: Sequence[Layout], words: Words, size: Size
) -> SmallLM:
    """Train a new language model to find the word after X among random words in cells, given as image tokens.

    Words stand where those of pages stand, and are random, so that nothing can be learned by heart.

    Args:
        name: Key of `LANGUAGE_MODELS`.
        pages: Whose places of words are used.
        layouts: Taken in turn, one a step.
        words: The vocabulary.
        size: How long and how fast.
    """
    torch.manual_seed(size.seed)
    model = words.language_model(name).train()
    generator = torch.Generator().manual_seed(size.seed)
    turn = itertools.cycle(layouts)

    def loss_of() -> Tensor:
        chosen = _draw(len(pages.words), size.batch, generator)
        text = _random_words(pages.words[chosen] >= 0, words.count, generator)
        image = model.place_words(text, pages.centres[chosen], next(turn))
        asked, answers = words.ask(_draw_pairs(text, words.count, generator))
        row, labels = words.read_aloud(text, torch.where(text < words.count, text, -1))
        logits = model(image, row, asked).split([row.shape[1], asked.shape[1]], dim=1)
        return sum_losses(logits, (labels, answers))

    run_steps(list(model.parameters()), size, loss_of)
    return model.eval()


def _random_words(there: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random words where there is one, a tenth of them outside of the vocabulary."""
    text = torch.randint(count, there.shape, generator=generator)
    text[torch.rand(there.shape, generator=generator) < OTHERS] = count
    return torch.where(there, text, -1)


def _draw_pairs(text: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return pairs (X, word after X) [batch, 12, 2] of words that stand once on their page, -1 beyond the last."""
    after = F.pad(text[:, 1:], (0, 1), value=-1)
    once = (text[:, :, None] == text[:, None]).sum(-1) == 1
    fit = once & (text >= 0) & (text < count) & (after >= 0) & (after < count)
    chosen = (torch.rand(text.shape, generator=generator) * fit).topk(MAX_QUESTIONS, dim=1).indices
    pairs = torch.stack([text, after], dim=-1).masked_fill(~fit[..., None], -1)
    return pairs.gather(1, chosen[..., None].expand(-1, -1, 2))


def sum_losses(logits: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
    """Return the sum of the mean cross-entropies of several parts; labels are -100 where there is none."""
    parts = zip(logits, labels, strict=True)
    return torch.stack(
        [F.cross_entropy(part.flatten(0, 1), label.flatten(), ignore_index=IGNORE) for part, label in parts]
    ).sum()


@torch.inference_mode()
def cell_accuracy(model: SmallLM, pages: PageTensors, words: Words, layout: Layout) -> float:
    """Return exact match where an encoder would see every word of a page (the ceiling of a layout)."""
    torch.manual_seed(0)
    asked, labels = words.ask(pages.questions[:, :1])
    image = model.place_words(pages.words, pages.centres, layout)
    logits = model(image, asked[:, :0], asked)
    return float((logits[:, 0].argmax(-1) == labels[:, 0]).float().mean())


def train_blind(model: SmallLM, pages: PageTensors, words: Words, size: Size) -> SmallLM:
    """Train a language model on the questions without any page: what can be guessed from words alone."""
    model = copy.deepcopy(model).train()
    generator = torch.Generator().manual_seed(size.seed)

    def loss_of() -> Tensor:
        asked, labels = words.ask(pages.questions[_draw(len(pages.words), size.batch, generator)])
        return sum_losses([words.mask_pairs(answer_blind(model, asked), asked)], [labels])

    run_steps(list(model.parameters()), size, loss_of)
    return model.eval()


def answer_blind(model: SmallLM, asked: Tensor) -> Tensor:
    """Return logits of what follows words, with no page."""
    return model(torch.zeros(len(asked), 0, model.config.dim), asked[:, :0], asked)


@torch.inference_mode()
def blind_accuracy(model: SmallLM, pages: PageTensors, words: Words) -> float:
    """Return exact match with no page given."""
    asked, labels = words.ask(pages.questions[:, :1])
    return float((answer_blind(model, asked)[:, 0].argmax(-1) == labels[:, 0]).float().mean())


def align_projector(reader: Reader, tokens: Tensor, pages: PageTensors, layout: Layout, size: Size) -> float:
    """Train a reader's projector alone to turn an encoder's tokens into those of words in cells.

    Args:
        reader: Whose language model says what those are.
        tokens: What `look` returns for the pages, before any are left out [pages, tokens, dim].
        pages: Their words and places.
        layout: How the tokens lie.
        size: How long and how fast.

    Returns:
        The last losses' mean: squared error over the targets' mean square.
    """
    generator = torch.Generator().manual_seed(size.seed)

    def loss_of() -> Tensor:
        chosen = _draw(len(tokens), size.batch, generator)
        with torch.no_grad():
            target = reader.language_model.place_words(pages.words[chosen], pages.centres[chosen], layout)
        return F.mse_loss(reader.projector(tokens[chosen].float()), target) / target.square().mean()

    return run_steps(list(reader.projector.parameters()), size, loss_of)


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
        asked, answers = words.ask(pages.questions[chosen])
        row, labels = words.read_aloud(pages.words[chosen], pages.spoken[chosen])
        logits = words.mask_pairs(reader.language_model(image, row, asked), torch.cat([row, asked], dim=1))
        return sum_losses(logits.split([row.shape[1], asked.shape[1]], dim=1), (labels, answers))

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
        logits = reader.answer(tokens[part].float(), asked)
        hits.append(logits[:, 0].argmax(-1) == labels[:, 0])
    return torch.cat(hits).numpy()
