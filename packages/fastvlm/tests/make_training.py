"""Small trainings for the tests: conversations with pictures, a run, its weights."""

import dataclasses
import json

import torch
from fastvlm import FastVLM
from fastvlm.data import Source
from fastvlm.recipes import TRAIN_PRESETS
from fastvlm.start import Start
from fastvlm.train import RunOptions, train
from PIL import Image

TINY = dataclasses.replace(TRAIN_PRESETS["tiny"], num_steps=6, max_bad_share=0.0)
WORDS = "the cat sat on the mat what is in the picture".split()


def make_rows(count):
    """Every third record has no picture, every fourth has two rounds; pictures differ in size."""
    rows = []
    for i in range(count):
        turns = [{"from": "human", "value": " ".join(WORDS[: 2 + i % 7])}, {"from": "gpt", "value": WORDS[i % 9]}]
        row = {"id": f"r{i}", "conversations": turns + (turns if i % 4 == 0 else [])}
        if i % 3:
            row = {**row, "image": f"{i}.png", "conversations": [dict(turn) for turn in row["conversations"]]}
            row["conversations"][0]["value"] += "\n<image>"
        rows.append(row)
    return rows


def write_data(folder):
    """Fourteen records with their pictures."""
    rows = make_rows(14)
    for i, row in enumerate(rows):
        if "image" in row:
            Image.linear_gradient("L").resize((20 + 5 * i, 60 - 3 * i)).convert("RGB").save(folder / row["image"])
    (folder / "talk.json").write_text(json.dumps(rows))
    return folder


def run(tiny_folder, data, out, config=TINY, **options):
    resume = options.pop("resume", False)
    sources = [Source(data / "talk.json", data)]
    options = RunOptions(log_every=1, quiet=True, **options)
    return train(lambda: Start.from_pretrained(tiny_folder), config, sources, out, resume=resume, options=options)


def weights(folder):
    return FastVLM.from_pretrained(folder).state_dict()


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())
