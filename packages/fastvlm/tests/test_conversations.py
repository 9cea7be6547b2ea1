"""Records to token ids: what is learned is what the assistant says, checked against labels written by hand."""

from pathlib import Path

import pytest
from fastvlm.conversations import IGNORE, BadRecord, encode_rounds, move_image, parse_record
from fastvlm.processor import FastVLMProcessor


class Words:
    """A tokenizer whose tokens are known: the three marks of the template, line ends, and single words."""

    pad_token_id = 0

    def __call__(self, text, add_special_tokens):
        assert not add_special_tokens
        import re

        pieces = re.findall(r"<\|im_start\|>|<\|im_end\|>|\n|[^\s<]+", text)
        return {"input_ids": [self.number(piece) for piece in pieces]}

    def __init__(self):
        self.known = ["<pad>", "<|im_start|>", "<|im_end|>", "\n"]

    def number(self, piece):
        if piece not in self.known:
            self.known.append(piece)
        return self.known.index(piece)


@pytest.fixture
def processor():
    return FastVLMProcessor(Words(), 64)


def spell(processor, ids):
    return ["<image>" if i == -200 else "." if i == IGNORE else processor.tokenizer.known[i] for i in ids]


SYSTEM = "<|im_start|> system \n You are a helpful assistant. <|im_end|> \n"


def marks(text):
    return [{"\\n": "\n"}.get(word, word) for word in text.replace("\n", "\\n").split(" ")]


def test_two_rounds_by_hand(processor):
    rounds = (("<image>\nWhat is it?", "A cat."), ("Colour?", "Black."))
    example = encode_rounds(processor, rounds, "qwen_2")
    ids = marks(
        f"{SYSTEM} <|im_start|> user \n <image> \n What is it? <|im_end|> \n <|im_start|> assistant \n A cat."
        " <|im_end|> \n <|im_start|> user \n Colour? <|im_end|> \n <|im_start|> assistant \n Black. <|im_end|> \n"
    )
    labels = marks(
        ". . . . . . . . . . . . . . . . . . . . . . . A cat. <|im_end|> \n . . . . . . . . . Black. <|im_end|> \n"
    )
    assert spell(processor, example.input_ids) == ids
    assert spell(processor, example.labels) == labels


def test_a_text_only_round_by_hand(processor):
    example = encode_rounds(processor, (("Hello", "Good day"),), "qwen_2")
    assert spell(processor, example.labels)[-4:] == ["Good", "day", "<|im_end|>", "\n"]
    assert set(spell(processor, example.labels)[:-4]) == {"."}


def test_plain_is_image_and_caption(processor):
    example = encode_rounds(processor, (("<image>\nDescribe it.", "A red house"),), "plain")
    assert spell(processor, example.input_ids) == ["<image>", "A", "red", "house", "\n"]
    assert spell(processor, example.labels) == [".", "A", "red", "house", "\n"]


def test_several_images_keep_their_places(processor):
    example = encode_rounds(processor, (("First <image> then <image> ?", "Same"),), "qwen_2")
    words = spell(processor, example.input_ids)
    assert words[words.index("First") :][:5] == ["First", "<image>", "then", "<image>", "?"]


def test_rounds_are_the_prompts_that_are_asked(llava_folder):
    """What is learned from begins as the prompt with which the same conversation is asked on, token by token."""
    processor = FastVLMProcessor.from_pretrained(llava_folder)
    rounds = (("<image>\nwhat is in the picture?", "the cat sat"), ("the mat?", "on the mat"), ("cat?", "cat"))
    whole = encode_rounds(processor, rounds, "qwen_2")
    for number in range(3):
        prompt = processor.encode(processor.prompt([*rounds[:number], (rounds[number][0], None)], 0))
        assert whole.input_ids[: len(prompt)] == prompt
        assert all(label == IGNORE for label in whole.labels[len(prompt) - 3 : len(prompt)])
        answer = processor.encode(f"{rounds[number][1]}<|im_end|>\n")
        assert whole.labels[len(prompt) : len(prompt) + len(answer)] == answer
    assert whole.input_ids == processor.encode(processor.prompt(rounds, 0))
    learned = sum(label != IGNORE for label in whole.labels)
    assert learned == sum(len(processor.encode(f"{answer}<|im_end|>\n")) for _, answer in rounds)


def turn(who, text):
    return {"from": who, "value": text}


PAIR = [turn("human", "<image>\nWhat?"), turn("gpt", "A cat.")]


def parse(**row):
    return parse_record({"id": "a", **row}, "a", Path("photos"))


def test_a_record():
    record = parse(image="x/a.png", conversations=[*PAIR, turn("human", "Colour?"), turn("gpt", "Black.")])
    assert record.images == (Path("photos/x/a.png"),)
    assert record.rounds == (("<image>\nWhat?", "A cat."), ("Colour?", "Black."))
    assert record.num_words == 6


def test_as_llava_does():
    assert move_image("What is <image> here?") == "<image>\nWhat is  here?"
    assert move_image("What?\n<image>") == "<image>\nWhat?"
    assert parse(image="a.png", conversations=[turn("gpt", "Hi"), *PAIR]).rounds == (("<image>\nWhat?", "A cat."),)
    assert parse(conversations=[turn("human", "A?"), turn("gpt", "B")]).images == ()
    assert len(parse(image=["a.png", "b.png"], conversations=[turn("human", "<image><image>"), PAIR[1]]).images) == 2
    last = parse(image="a.png", conversations=[*PAIR, turn("human", "And?")])
    assert len(last.rounds) == 1, "a question without an answer teaches nothing"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({}, "no conversations"),
        ({"conversations": []}, "no conversations"),
        ({"conversations": [turn("human", "A?"), turn("robot", "B")]}, "unknown role 'robot'"),
        ({"conversations": [turn("human", "A?"), turn("human", "B")]}, "question and answer in turn"),
        ({"conversations": [turn("gpt", "B")]}, "question and answer in turn"),
        ({"conversations": PAIR}, "1 `<image>` but 0 images"),
        ({"conversations": PAIR, "image": ["a.png", "b.png"]}, "1 `<image>` but 2 images"),
        ({"conversations": [turn("human", "A?"), turn("gpt", "<image>")]}, "an answer holds `<image>`"),
        ({"conversations": [turn("human", 3), turn("gpt", "B")]}, "no text"),
    ],
)
def test_bad_records_say_why(row, reason):
    with pytest.raises(BadRecord, match=reason):
        parse(**row)
