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
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastvlm.pages import MAX_QUESTIONS, MAX_WORDS, OTHER_WORDS, Pages
from fastvlm.readers import LANGUAGE_MODELS as LANGUAGE_SHAPES
from fastvlm.readers import Arm, Reader, SmallLM, WordContrast, answer_logits, build_encoder

logger = logging.getLogger(__name__)
CROP = 128  # pixels a side, in contrastive pre-training
JITTER = 48  # pixels, over which the word in the middle of a crop is moved
IGNORE = -100
WARM_UP = 0.1
GRAPH_WARM_UP = 3  # steps before a graph is recorded, as torch asks for
BETAS = (0.9, 0.98)
WEIGHT_DECAY = 0.02
EVALUATION_BATCH = 100
LossOf = Callable[[], Tensor]


@dataclass(frozen=True)
class Device:
    """Where, and in which number format.

    Args:
        name: "cpu" or "cuda".
        graphs: Whether steps are replayed as CUDA graphs.
    """

    name: str = "cpu"
    graphs: bool = True

    def autocast(self) -> AbstractContextManager:
        """Return bf16 autocast on a GPU."""
        return torch.autocast("cuda", torch.bfloat16, cache_enabled=False) if self.name == "cuda" else nullcontext()


@dataclass(frozen=True)
class Words:
    """Ids of the language model's tokens over a vocabulary."""

    count: int

    @property
    def mark(self) -> int:
        """Which word follows ...?"""
        return self.count + OTHER_WORDS

    @property
    def pad(self) -> int:
        """Nothing."""
        return self.count + OTHER_WORDS + 1

    def language_model(self, name: str) -> SmallLM:
        """Return a new language model of a size over this vocabulary."""
        return SmallLM(replace(LANGUAGE_SHAPES[name], vocab_size=self.count + OTHER_WORDS + 2))

    def ask(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (mark, X, answer, mark, X, answer, ...) and labels: the answer, at X."""
        tokens = torch.full((*questions.shape[:2], 3), self.mark, device=questions.device)
        tokens[:, :, 1:] = torch.where(questions < 0, self.pad, questions.long())
        labels = torch.full_like(tokens, IGNORE)
        labels[:, :, 1] = torch.where(questions[:, :, 1] < 0, IGNORE, questions[:, :, 1].long())
        return tokens.flatten(1), labels.flatten(1)

    def read_aloud(self, words: Tensor, spoken: Tensor) -> tuple[Tensor, Tensor]:
        """Return tokens (nothing, first word, second word, ...) and labels: the word that comes next."""
        tokens = F.pad(torch.where(words < 0, self.pad, words)[:, :-1], (1, 0), value=self.pad)
        return tokens, torch.where(spoken < 0, IGNORE, spoken)


@dataclass(frozen=True)
class PageTensors:
    """Pages on a device at one resolution.

    Args:
        pixels: uint8 [pages, 1, resolution, resolution].
        words: Word ids [pages, 40].
        centres: In [0, 1] [pages, 40, 2].
        questions: (X, answer) [pages, 6, 2].
        spoken: Words to be read aloud, else -1 [pages, 40].
    """

    pixels: Tensor
    words: Tensor
    centres: Tensor
    questions: Tensor
    spoken: Tensor

    @classmethod
    def of(cls, pages: Pages, resolution: int, device: str) -> PageTensors:
        """Move pages to a device."""
        pixels, words, centres, questions, spoken = (
            torch.from_numpy(np.array(value)).to(device)
            for value in (pages.pixels[resolution], pages.words, pages.centres, pages.questions, pages.spoken)
        )
        return cls(pixels[:, None], words.long(), centres, questions.long(), spoken.long())


def to_pixels(grey: Tensor) -> Tensor:
    """Return ink from 0 (white) to 1 (black), so that an empty page is zero."""
    return 1 - grey.float() / 255


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
    """

    steps: int
    batch: int
    rate: float


def pretrain_encoder(
    name: str, pages: Sequence[PageTensors], words: Words, size: Size, seed: int, device: Device
) -> tuple[WordContrast, float]:
    """Train a new encoder to point to words, on crops of pages at all resolutions at once.

    Args:
        name: "fastvithd" or "vit".
        pages: The same pages at several resolutions, from `stack_resolutions`.
        words: The vocabulary.
        size: How long and how fast.
        seed: Of weights and choices.
        device: Where.

    Returns:
        The encoder in its `WordContrast`, and the last losses' mean.
    """
    torch.manual_seed(seed)
    model = WordContrast(build_encoder(name), words.count).to(device.name).train()
    crops = Crops(pages, words.count, size.batch, seed)
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


def stack_resolutions(pages: Sequence[PageTensors]) -> list[PageTensors]:
    """Return the same pages with all their pixels, at all resolutions, in one tensor's memory, one after the other."""
    flat = torch.cat([part.pixels.flatten() for part in pages])
    sizes = [part.pixels.numel() for part in pages]
    pieces = [piece.view_as(part.pixels) for piece, part in zip(flat.split(sizes), pages, strict=True)]
    return [replace(part, pixels=piece) for piece, part in zip(pieces, pages, strict=True)]


class Crops:
    """Crops of 128 x 128 pixels around random words, from pages at random resolutions, all in one flat tensor.

    Every word of the vocabulary is as likely to stand in the middle.

    Args:
        pages: The same pages at several resolutions, from `stack_resolutions`.
        num_words: Size of the vocabulary.
        batch: Crops at a time.
        seed: Of the choices.
    """

    def __init__(self, pages: Sequence[PageTensors], num_words: int, batch: int, seed: int) -> None:
        device = pages[0].words.device
        count = sum(part.pixels.numel() for part in pages)
        self.flat = pages[0].pixels.as_strided((count,), (1,), 0)
        self.words, self.centres = pages[0].words, pages[0].centres
        sides = [part.pixels.shape[-1] for part in pages]
        sizes = [part.pixels.numel() for part in pages]
        self.sides = torch.tensor(sides, device=device)
        self.starts = torch.tensor([sum(sizes[:i]) for i in range(len(sizes))], device=device)
        self.places = ((self.words >= 0) & (self.words < num_words)).nonzero()
        known = self.words[tuple(self.places.T)]
        shares = torch.bincount(known, minlength=num_words).double().reciprocal()[known]
        self.steps = (shares.cumsum(0) / shares.sum()).float()
        self.generator = torch.Generator(device).manual_seed(seed)
        self.uniform = torch.zeros(4, batch, device=device)
        self.range = torch.arange(CROP, device=device)

    def choose(self) -> None:
        """Draw page, resolution and place of each crop."""
        self.uniform.uniform_(generator=self.generator)

    def take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, words (-1 outside) and centres within the crop."""
        which, scale, *jitter = self.uniform
        which = torch.searchsorted(self.steps, which.contiguous()).clamp(max=len(self.places) - 1)
        page, word = self.places[which].unbind(1)
        scale = (scale * len(self.sides)).long()
        side, start = self.sides[scale], self.starts[scale]
        middle = self.centres[page, word] * side[:, None] + (torch.stack(jitter, -1) - 0.5) * JITTER
        corner = torch.minimum((middle - CROP / 2).clamp(min=0).long(), side[:, None] - CROP)
        rows = start + page * side * side + corner[:, 1] * side + corner[:, 0]
        index = rows[:, None, None] + self.range[:, None] * side[:, None, None] + self.range
        centres = (self.centres[page] * side[:, None, None] - corner[:, None]) / CROP
        inside = ((centres >= 0) & (centres < 1)).all(-1)
        words = torch.where(inside, self.words[page], -1)
        return to_pixels(self.flat[index])[:, None], words, centres.clamp(0, 0.999)


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


def pretrain_language_model(name: str, words: Words, size: Size, seed: int, device: Device) -> SmallLM:
    """Train a new language model to find the word after X in rows of random words, given as text.

    Random words, so that nothing can be learned by heart.

    Args:
        name: Key of `LANGUAGE_MODELS`.
        words: The vocabulary.
        size: How long and how fast.
        seed: Of weights and rows.
        device: Where.
    """
    torch.manual_seed(seed)
    model = words.language_model(name).to(device.name).train()
    generator = torch.Generator(device.name).manual_seed(seed)
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


def train_blind(model: SmallLM, pages: PageTensors, words: Words, size: Size, seed: int, device: Device) -> SmallLM:
    """Train a language model on the questions without any page: what can be guessed from words alone."""
    model = copy.deepcopy(model).train()
    choose, chosen = _chooser(len(pages.words), size.batch, seed, device)

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
    seed: int,
    device: Device,
) -> tuple[Reader, float]:
    """Train encoder, a new projector and language model on reading pages aloud and on questions about them.

    Args:
        arm: From a page to tokens.
        parts: Pre-trained encoder and language model; copies of them are trained.
        pages: At the arm's resolution.
        words: The vocabulary.
        size: How long and how fast.
        seed: Of the projector and of choices.
        device: Where.

    Returns:
        The reader, and the last losses' mean.
    """
    torch.manual_seed(seed)
    reader = Reader(arm, *(copy.deepcopy(part) for part in parts)).to(device.name).train()
    choose, chosen = _chooser(len(pages.words), size.batch, seed, device)

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
