"""The three trainings of the reading experiment, on one device, with all data in its memory.

`pretrain_encoder` (word-contrastive, on crops), `pretrain_language_model` (finding the word after X among words given
as text), `train_reader` (everything: reading pages aloud, as dense captions have it, and questions about them). On a
GPU a step is recorded once as a CUDA graph and replayed, since models this small otherwise wait for Python.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, OTHER_WORDS
from fastvlm.readers import Arm, Reader, SmallLM, WordContrast, answer_logits, build_encoder
from fastvlm.reading_data import IGNORE, Crops, Device, PageTensors, Words, to_pixels

logger = logging.getLogger(__name__)
WARM_UP = 0.1
GRAPH_WARM_UP = 3  # steps before a graph is recorded, as torch asks for
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.02
EVALUATION_BATCH = 100
LossOf = Callable[[], Tensor]


class Schedule:
    """Steps of AdamW with a linear warm-up and a cosine, replayed as a CUDA graph where there is one.

    Args:
        parameters: What learns.
        rate: Largest learning rate.
        num_steps: Of the whole training.
        device: Where.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], rate: float, num_steps: int, device: Device) -> None:
        self.parameters, self.largest, self.num_steps, self.device = list(parameters), rate, num_steps, device
        on_gpu = device.name == "cuda"
        options = {"capturable": True, "fused": True} if on_gpu else {}
        first = torch.tensor(0.0, device=device.name) if on_gpu else 0.0
        self.optimizer = torch.optim.AdamW(self.parameters, lr=first, betas=BETAS, weight_decay=WEIGHT_DECAY, **options)

    def run(self, loss_of: LossOf, prepare: Callable[[], None]) -> float:
        """Do all steps.

        Args:
            loss_of: Computes the loss from buffers that `prepare` fills.
            prepare: Chooses the samples of a step.

        Returns:
            The mean loss of the last tenth of the steps.
        """
        losses: list[Tensor] = []
        step_once = self._make_step(loss_of, prepare)
        for step in range(self.num_steps):
            self._set_rate(step)
            prepare()
            loss = step_once()
            if step + 1 > 0.9 * self.num_steps:
                losses.append(loss.detach().clone())
        return float(torch.stack(losses).mean())

    def _set_rate(self, step: int) -> None:
        warm = max(1, round(WARM_UP * self.num_steps))
        share = (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / self.num_steps)
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # a recorded step reads it from where it is
                group["lr"].fill_(self.largest * share)
            else:
                group["lr"] = self.largest * share

    def _step(self, loss_of: LossOf) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        with self.device.autocast():
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss

    def _make_step(self, loss_of: LossOf, prepare: Callable[[], None]) -> Callable[[], Tensor]:
        if self.device.name != "cuda" or not self.device.graphs:
            return lambda: self._step(loss_of)
        prepare()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(GRAPH_WARM_UP):  # at a learning rate of zero
                self._step(loss_of)
        torch.cuda.current_stream().wait_stream(side)
        try:
            graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(graph):
                loss = self._step(loss_of)
        except RuntimeError as error:
            logger.warning("no CUDA graph (%s); steps run one by one", str(error).splitlines()[0])
            torch.cuda.synchronize()
            return lambda: self._step(loss_of)

        def replay() -> Tensor:
            graph.replay()
            return loss

        return replay


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


def pretrain_encoder(
    name: str, pages: Sequence[PageTensors], words: Words, size: Size, device: Device
) -> tuple[WordContrast, float]:
    """Train a new encoder to point to words, on crops of pages at all resolutions at once.

    Args:
        name: "fastvithd" or "vit".
        pages: The same pages at several resolutions, from `stack_resolutions`.
        words: The vocabulary.
        size: How long and how fast.
        device: Where.

    Returns:
        The encoder in its `WordContrast`, and the last losses' mean.
    """
    torch.manual_seed(size.seed)
    model = WordContrast(build_encoder(name), words.count).to(device.name).train()
    crops = Crops(pages, words.count, size.batch, size.seed)
    weights = word_weights(pages[0].words, words.count)

    def loss_of() -> Tensor:
        logits, targets = model(*crops.take())
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), weight=weights, ignore_index=IGNORE)

    loss = Schedule(list(model.parameters()), size.rate, size.steps, device).run(loss_of, crops.choose)
    return model.eval(), loss


def word_weights(words: Tensor, count: int) -> Tensor:
    """Return a weight per word that keeps frequent words from drowning the others: one over the root of its count."""
    known = words[(words >= 0) & (words < count)]
    weights = torch.bincount(known, minlength=count).clamp(min=1).float().rsqrt()
    return weights / weights.mean()


@torch.inference_mode()
def word_accuracy(model: WordContrast, pages: Sequence[PageTensors], words: Words, device: Device) -> float:
    """Return how often pre-training's question is answered on other pages: the mean over words of the vocabulary."""
    crops = Crops(pages, words.count, min(1000, 4 * len(pages[0].words)), seed=1)
    crops.choose()
    with device.autocast():
        logits, targets = model(*crops.take())
    known = targets >= 0
    hits, targets = (logits.argmax(-1) == targets)[known].float(), targets[known]
    sums = torch.zeros(words.count, device=hits.device).index_add_(0, targets, hits)
    counts = torch.bincount(targets, minlength=words.count)
    return float((sums[counts > 0] / counts[counts > 0]).mean())


def pretrain_language_model(name: str, words: Words, size: Size, device: Device) -> SmallLM:
    """Train a new language model to find the word after X in rows of random words, given as text.

    Random words, so that nothing can be learned by heart.

    Args:
        name: Key of `LANGUAGE_MODELS`.
        words: The vocabulary.
        size: How long and how fast.
        device: Where.
    """
    torch.manual_seed(size.seed)
    model = words.language_model(name).to(device.name).train()
    generator = torch.Generator(device.name).manual_seed(size.seed)
    noise = torch.zeros(size.batch, words.count + OTHER_WORDS, device=device.name)
    places = torch.zeros(size.batch, MAX_WORDS - 1, device=device.name)

    def prepare() -> None:
        noise.uniform_(generator=generator)
        places.uniform_(generator=generator)

    def loss_of() -> Tensor:
        text = noise.topk(MAX_WORDS, dim=1).indices
        asked = places.topk(MAX_QUESTIONS, dim=1).indices
        answers = text.gather(1, asked + 1)
        pairs = torch.stack([text.gather(1, asked), torch.where(answers < words.count, answers, -1)], -1)
        tokens, labels = words.ask(pairs)
        return _answer_loss(answer_logits(model, model.embedding(text), tokens), labels)

    Schedule(list(model.parameters()), size.rate, size.steps, device).run(loss_of, prepare)
    return model.eval()


def _answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)


@torch.inference_mode()
def text_accuracy(model: SmallLM, pages: PageTensors, words: Words, device: Device, *, blind: bool = False) -> float:
    """Return exact match with the words given as text (the ceiling), or with nothing given (`blind`)."""
    tokens, labels = words.ask(pages.questions[:, :1])
    text = torch.where(pages.words < 0, words.pad, pages.words)
    with device.autocast():
        logits = answer_logits(model, None if blind else model.embedding(text), tokens[:, :2])
    return float((logits[:, 1].argmax(-1) == labels[:, 1]).float().mean())


def train_blind(model: SmallLM, pages: PageTensors, words: Words, size: Size, device: Device) -> SmallLM:
    """Train a language model on the questions without any page: what can be guessed from words alone."""
    model = copy.deepcopy(model).train()
    choose, chosen = _chooser(len(pages.words), size.batch, size.seed, device)

    def loss_of() -> Tensor:
        tokens, labels = words.ask(pages.questions[chosen])
        return _answer_loss(answer_logits(model, None, tokens), labels)

    Schedule(list(model.parameters()), size.rate, size.steps, device).run(loss_of, choose)
    return model.eval()


def train_reader(
    arm: Arm,
    parts: tuple[nn.Module, SmallLM],
    pages: PageTensors,
    words: Words,
    size: Size,
    device: Device,
) -> tuple[Reader, float]:
    """Train encoder, a new projector and language model on reading pages aloud and on questions about them.

    Args:
        arm: From a page to tokens.
        parts: Pre-trained encoder and language model; copies of them are trained.
        pages: At the arm's resolution.
        words: The vocabulary.
        size: How long and how fast.
        device: Where.

    Returns:
        The reader, and the last losses' mean.
    """
    torch.manual_seed(size.seed)
    reader = Reader(arm, *(copy.deepcopy(part) for part in parts)).to(device.name).train()
    choose, chosen = _chooser(len(pages.words), size.batch, size.seed, device)

    def loss_of() -> Tensor:
        image = reader.image_tokens(to_pixels(pages.pixels[chosen]))
        tasks = (words.ask(pages.questions[chosen]), words.read_aloud(pages.words[chosen], pages.spoken[chosen]))
        losses = [_answer_loss(answer_logits(reader.language_model, image, asked), told) for asked, told in tasks]
        return torch.stack(losses).sum()

    loss = Schedule(list(reader.parameters()), size.rate, size.steps, device).run(loss_of, choose)
    return reader.eval(), loss


def _chooser(count: int, batch: int, seed: int, device: Device) -> tuple[Callable[[], None], Tensor]:
    """Return a function that draws `batch` of `count` numbers into the tensor it comes with."""
    generator = torch.Generator(device.name).manual_seed(seed)
    chosen = torch.zeros(batch, dtype=torch.long, device=device.name)

    def choose() -> None:
        chosen.random_(count, generator=generator)

    return choose, chosen


@torch.inference_mode()
def page_accuracy(
    reader: Reader, pages: PageTensors, words: Words, device: Device, *, blank: bool = False
) -> np.ndarray:
    """Return for each page whether the answer to its first question is right; `blank` shows empty pages instead."""
    hits = []
    for start in range(0, len(pages.words), EVALUATION_BATCH):
        part = slice(start, start + EVALUATION_BATCH)
        tokens, labels = words.ask(pages.questions[part, :1])
        pixels = to_pixels(pages.pixels[part])
        with device.autocast():
            logits = reader(torch.zeros_like(pixels) if blank else pixels, tokens[:, :2])
        hits.append(logits[:, 1].argmax(-1) == labels[:, 1])
    return torch.cat(hits).cpu().numpy()
