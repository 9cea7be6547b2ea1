"""Conversations in LLaVA's format: records to token ids, with labels on what the assistant says and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvlm.processor import IMAGE, FastVLMProcessor
from fastvlm.recipes import Template

IGNORE = -100  # no loss here
ROLES = {"human": "user", "gpt": "assistant"}
TURN_END = "<|im_end|>\n"


class BadRecord(ValueError):
    """A record that cannot be trained on, with the reason in one sentence."""


@dataclass(frozen=True)
class Record:
    """One conversation.

    Args:
        name: Where it comes from: data set and id or row.
        images: Picture files, in the order of their `<image>`.
        rounds: (question, answer) pairs.
    """

    name: str
    images: tuple[Path, ...]
    rounds: tuple[tuple[str, str], ...]

    @property
    def num_words(self) -> int:
        """Words of all turns: what conversations are grouped by, without tokenizing them first."""
        return sum(len(text.split()) for turn in self.rounds for text in turn)


@dataclass(frozen=True)
class Example:
    """Token ids (-200 per image) and labels (-100 where nothing is learned) of one conversation."""

    input_ids: list[int]
    labels: list[int]


def parse_record(row: Any, name: str, image_folder: Path) -> Record:
    r"""Read a LLaVA record: `id`, `image` (none, one, or a list), `conversations` of `human` and `gpt` turns.

    As in LLaVA, turns before the first human one are dropped, and a single `<image>` moves to the front of its
    turn; several keep their places.

    Args:
        row: The JSON object.
        name: What to call it in messages.
        image_folder: Where its pictures lie.

    Raises:
        BadRecord: There are no conversations, a role is unknown or out of turn, or `<image>` and pictures differ in
            number.

    Example:
        >>> row = {"image": "a.png", "conversations": [{"from": "human", "value": "What?\n<image>"},
        ...        {"from": "gpt", "value": "A cat."}]}
        >>> parse_record(row, "a", Path("photos")).rounds
        (('<image>\nWhat?', 'A cat.'),)
    """
    turns = _read_turns(row)
    rounds = [(move_image(question), answer) for question, answer in zip(turns[::2], turns[1::2], strict=False)]
    if any(IMAGE in answer for _, answer in rounds):
        raise BadRecord("an answer holds `<image>`, which only a question may")
    files = row.get("image") or []
    images = tuple(image_folder / file for file in ([files] if isinstance(files, str) else files))
    count = sum(question.count(IMAGE) for question, _ in rounds)
    if count != len(images):
        raise BadRecord(f"the conversation has {count} `<image>` but {len(images)} images are named")
    return Record(name, images, tuple(rounds))


def _read_turns(row: Any) -> list[str]:
    """Return what is said, question and answer in turn, beginning with the first question."""
    turns = row.get("conversations") if isinstance(row, Mapping) else None
    if not isinstance(turns, list) or not turns:
        raise BadRecord("the record has no conversations")
    for turn in turns:
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            raise BadRecord("a turn has no text in `value`")
        if turn.get("from") not in ROLES:
            raise BadRecord(f"unknown role {turn.get('from')!r}; turns are from {' or '.join(ROLES)}")
    roles = [turn["from"] for turn in turns]
    first = roles.index("human") if "human" in roles else len(roles)
    turns, roles = turns[first:], roles[first:]
    if len(turns) < 2 or roles != ["human", "gpt"] * (len(roles) // 2) + ["human"] * (len(roles) % 2):
        raise BadRecord("the turns are not question and answer in turn")
    return [turn["value"] for turn in turns]


def move_image(question: str) -> str:
    """Return a question with its one `<image>` in front, on a line of its own; several stay where they are."""
    if question.count(IMAGE) != 1:
        return question
    return f"{IMAGE}\n{question.replace(IMAGE, '').strip()}".strip()


def encode_rounds(processor: FastVLMProcessor, rounds: Sequence[tuple[str, str]], template: Template) -> Example:
    r"""Return token ids and labels of a conversation.

    "qwen_2": the prompt of each round is tokenized as `FastVLMProcessor.prompt` gives it when a question is asked,
    the answer on its own, so that training sees what answering sees. Labels stand on the answer and its
    `<|im_end|>` and line end, as the authors' round lengths have it. "plain": image and answer, one after the other,
    the answer and a line end labelled.

    Args:
        processor: Tokenizes.
        rounds: (question, answer) pairs.
        template: See above.
    """
    ids: list[int] = []
    labels: list[int] = []

    def add(text: str, learned: bool) -> None:
        tokens = processor.encode(text)
        ids.extend(tokens)
        labels.extend(tokens if learned else [IGNORE] * len(tokens))

    for index, (question, answer) in enumerate(rounds):
        if template == "plain":
            add(IMAGE * question.count(IMAGE), False)
            add(f"{answer}\n", True)
            continue
        prompt = processor.prompt([(question, None)], num_images=0)
        add(prompt if index == 0 else prompt[prompt.index(TURN_END) + len(TURN_END) :], False)
        add(f"{answer}{TURN_END}", True)
    return Example(ids, labels)
