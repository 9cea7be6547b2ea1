"""Teachers, adapters and the Trainer on tiny bases: exact losses, resuming, two processes, errors of the cache."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from muscle.config import PRESETS, CompatibilityConfig, LoraSettings
from muscle.loss import compatibility_loss
from muscle.models import (
    adapter_fingerprint,
    add_adapter,
    check_same_vocabulary,
    fingerprint,
    load_adapter,
    load_model,
    load_tokenizer,
    save_adapter,
)
from muscle.teachers import TeacherCache, build_cache, describe
from muscle.train import Collator, CompatibilityTrainer, encode_examples, split_examples, train_compatibility_adapter
from muscle.train import train_task_adapter as adapt
from safetensors.torch import load_file

CONFIG = replace(PRESETS["tiny"], epochs=2, batch_size=4, lr=5e-3)


@pytest.fixture(scope="module")
def adapters(bases, rows, tmp_path_factory):
    """Task adapters of both bases."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in ("old", "new"):
        model = add_adapter(load_model(bases / name), CONFIG.lora, seed=0)
        adapt(model, load_tokenizer(bases / name), rows, CONFIG, folder / name)
    return folder


def pair(bases, adapters):
    return tuple(load_adapter(load_model(bases / name), adapters / name) for name in ("old", "new"))


def train(bases, adapters, rows, out, compatibility=None, config=CONFIG, **options):
    student = load_adapter(load_model(bases / "new"), adapters / "new", trainable=True)
    teachers, tokenizer = pair(bases, adapters), load_tokenizer(bases / "new")
    settings = (config, compatibility or CompatibilityConfig())
    return train_compatibility_adapter(teachers, student, tokenizer, rows, settings, out, **options)


def test_labels_are_on_context_and_answer(bases, rows):
    tokenizer = load_tokenizer(bases / "new")
    example = encode_examples(tokenizer, rows, 64)[3]
    assert example["labels"] == [-100, *example["input_ids"][1:]] and example["index"] == 3
    assert tokenizer.decode(example["input_ids"]) == "Colour 3: black<|end|>"
    assert encode_examples(tokenizer, rows, 3)[3]["input_ids"] == example["input_ids"][-3:]
    batch = Collator(9)([example, {**example, "input_ids": [5, 6], "labels": [-100, 6]}])
    assert batch["input_ids"][1, 2:].eq(9).all() and batch["labels"][1, 2:].eq(-100).all()
    assert batch["attention_mask"].sum(1).tolist() == [len(example["input_ids"]), 2]


def test_the_split_is_80_20_and_shares_nothing(rows, bases):
    examples = encode_examples(load_tokenizer(bases / "new"), rows, 64)
    first, second = split_examples(examples, CONFIG)
    assert (len(first), len(second)) == (16, 4)
    assert sorted(e["index"] for e in first + second) == list(range(20))


def test_a_task_adapter_learns(bases, rows, tmp_path):
    config = replace(CONFIG, epochs=25, lr=2e-2, lora=LoraSettings(8, 16.0))
    model = add_adapter(load_model(bases / "new"), config.lora, seed=0)
    before = {name: value.clone() for name, value in model.named_parameters() if "lora_" not in name}
    found = adapt(model, load_tokenizer(bases / "new"), rows, config, tmp_path / "adapter")
    log = [json.loads(line) for line in (tmp_path / "adapter/metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in log if "eval_loss" in row]
    assert found["validation_loss"] < losses[0] - 1, "learned over the epochs"
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters() if name in before)
    assert min(losses) == pytest.approx(found["validation_loss"])


def test_the_trainers_loss_is_the_papers(bases, adapters, rows, tmp_path):
    """On a padded batch, with teachers from the cache, against the loss on logits computed now."""
    teachers, tokenizer = pair(bases, adapters), load_tokenizer(bases / "new")
    student = add_adapter(load_model(bases / "new"), CONFIG.lora, seed=3)
    with torch.no_grad():
        for name, value in student.named_parameters():
            if "lora_B" in name:
                value.normal_(std=0.3)
    examples = encode_examples(tokenizer, rows[:6], 64)
    examples[0] = {**examples[0], "input_ids": examples[0]["input_ids"][:3], "labels": examples[0]["labels"][:3]}
    ids = [example["input_ids"] for example in examples]
    batch = Collator(0)(examples)
    for weight, mask in ((1.0, "muscle"), (0.25, "old_correct")):
        settings = CompatibilityConfig(mask=mask, weight=weight)
        cache = build_cache(tmp_path / mask, ids, *teachers, describe(ids, teachers, 2.0, 0))
        trainer = _trainer(student, tmp_path, cache, settings)
        labels = batch["labels"][:, 1:]
        logits = [model(input_ids=batch["input_ids"]).logits[:, :-1] for model in (student, *teachers)]
        expected = weight * compatibility_loss(*logits, labels, mask=mask)
        if weight < 1:
            cross = torch.nn.functional.cross_entropy(logits[0].flatten(0, 1), labels.flatten())
            expected = expected + (1 - weight) * cross
        student.train()
        assert float(trainer.compute_loss(student, batch).detach()) == pytest.approx(float(expected.detach()), rel=2e-3)
        student.eval()
        cross = torch.nn.functional.cross_entropy(logits[0].flatten(0, 1), labels.flatten())
        assert float(trainer.compute_loss(student, batch).detach()) == pytest.approx(float(cross.detach()), abs=1e-4)


def _trainer(model, folder, cache, settings):
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to=[])
    return CompatibilityTrainer(model=model, args=arguments, cache=cache, compatibility=settings)


@pytest.mark.parametrize("top", [64, 512])
def test_the_error_of_a_cache_of_top_logits_is_bounded(bases, adapters, rows, tmp_path, top):
    """By the mass of the tail times what a token in it can cost: its log-probabilities' range."""
    teachers, tokenizer = pair(bases, adapters), load_tokenizer(bases / "new")
    ids = [example["input_ids"] for example in encode_examples(tokenizer, rows[:4], 64)]
    full = build_cache(tmp_path / "full", ids, *teachers, describe(ids, teachers, 2.0, 0))
    cut = build_cache(tmp_path / "cut", ids, *teachers, describe(ids, teachers, 2.0, top))
    length = len(ids[0]) - 1
    exact, kept = ((cache.logits("old", 0, length) / 2).softmax(-1) for cache in (full, cut))
    ranked = [values.sort(-1, descending=True).values for values in (exact, kept)]
    tail = ranked[0][:, top:].sum(-1)
    assert torch.allclose(ranked[0][:, :top], ranked[1][:, :top], rtol=0.02)
    assert ((exact - kept).abs().sum(-1) <= 2 * tail + 1e-2).all() and torch.allclose(
        kept.sum(-1), torch.ones(length), atol=1e-3
    )
    student, labels = torch.randn(1, length, 4096), torch.tensor([ids[0][1:]])
    losses = [
        float(compatibility_loss(student, *(cache.batch(who, [0], length) for who in ("old", "new")), labels))
        for cache in (full, cut)
    ]
    logs = (student / 2).log_softmax(-1)
    spread = float((exact.log().max(-1).values - exact.log().min(-1).values).max() + (logs.max() - logs.min()))
    assert abs(losses[0] - losses[1]) <= float(tail.max()) * spread + 1e-2
    assert cut.bytes_per_token < full.bytes_per_token and cut.bytes_per_token == 2 * (4 * top + 4)


def test_a_cache_in_16_bits_is_close(bases, adapters, rows, tmp_path):
    teachers, tokenizer = pair(bases, adapters), load_tokenizer(bases / "new")
    ids = [example["input_ids"] for example in encode_examples(tokenizer, rows[:3], 64)]
    cache = build_cache(tmp_path / "c", ids, *teachers, describe(ids, teachers, 2.0, 0))
    exact = teachers[1](input_ids=torch.tensor([ids[1]])).logits[0, :-1]
    error = (cache.logits("new", 1, 99).log_softmax(-1) - exact.log_softmax(-1)).abs().max()
    assert float(error) < 0.02
    padded = cache.batch("new", [1], 40)
    assert padded.shape == (1, 40, 4096) and padded[0, len(ids[1]) - 1 :].eq(0).all()
    assert cache.bytes_per_token == 2 * 2 * 4096


def test_a_cache_of_other_things_is_refused(bases, adapters, rows, tmp_path):
    teachers, tokenizer = pair(bases, adapters), load_tokenizer(bases / "new")
    ids = [example["input_ids"] for example in encode_examples(tokenizer, rows[:3], 64)]
    spec = describe(ids, teachers, 2.0, 8)
    build_cache(tmp_path / "c", ids, *teachers, spec)
    assert build_cache(tmp_path / "c", ids, *teachers, spec).spec == spec
    others = [
        describe(ids[::-1], teachers, 2.0, 8),
        describe(ids, teachers[::-1], 2.0, 8),
        describe(ids, teachers, 1.0, 8),
        describe(ids, teachers, 2.0, 9),
    ]
    for other in others:
        with pytest.raises(ValueError, match="is of other data, models or settings"):
            build_cache(tmp_path / "c", ids, *teachers, other)
    with pytest.raises(ValueError, match="no teacher cache at"):
        TeacherCache(tmp_path / "none")
    with pytest.raises(ValueError, match="must be below the vocabulary of 4096"):
        describe(ids, teachers, 2.0, 4096)


def test_a_cache_appears_whole_or_not_at_all(bases, adapters, rows, tmp_path, monkeypatch):
    teachers, tokenizer = pair(bases, adapters), load_tokenizer(bases / "new")
    ids = [example["input_ids"] for example in encode_examples(tokenizer, rows, 64)]
    monkeypatch.setattr(teachers[1], "forward", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        build_cache(tmp_path / "c", ids, *teachers, describe(ids, teachers, 2.0, 8))
    assert list(tmp_path.iterdir()) == []


def test_the_compatibility_adapter_begins_at_v2s_and_moves(bases, adapters, rows, tmp_path):
    found = train(bases, adapters, rows, tmp_path / "c", CompatibilityConfig(cache_top=256))
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapters / "new", tmp_path / "c"))
    assert before.keys() == after.keys() and any(not torch.equal(before[k], after[k]) for k in before)
    assert found["cache_bytes_per_token"] == 2 * (4 * 256 + 4) and found["steps"] == 8
    assert math.isfinite(found["validation_loss"])


def test_following_v1_everywhere_draws_near_to_v1(bases, adapters, rows, tmp_path):
    """The training loss is then the divergence from v1; the selected epoch is another matter."""
    config = replace(CONFIG, epochs=25, lr=2e-2)
    train(bases, adapters, rows, tmp_path / "c", CompatibilityConfig(mask="all_old"), config)
    log = [json.loads(line) for line in (tmp_path / "c/metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in log if "loss" in row]
    assert losses[-1] < 0.95 * losses[0]


def test_a_mask_of_the_users_reaches_the_loss(bases, adapters, rows, tmp_path):
    seen = []

    def mask(student, old, new, labels):
        seen.append(student.shape)
        return labels > 0

    train(bases, adapters, rows, tmp_path / "c", CompatibilityConfig(cache_top=16), mask=mask)
    assert len(seen) == 8


def test_resuming_gives_what_an_uninterrupted_run_gives(bases, adapters, rows, tmp_path):
    """Killed after the first epoch's checkpoint, then called again."""
    settings = CompatibilityConfig(cache_top=64)
    whole = train(bases, adapters, rows, tmp_path / "whole", settings)
    train(bases, adapters, rows, tmp_path / "cut", settings)
    for path in (tmp_path / "cut").iterdir():
        if path.name in ("adapter_model.safetensors", "adapter_config.json"):
            path.unlink()
    shutil.rmtree(tmp_path / "cut/checkpoints/checkpoint-8")
    again = train(bases, adapters, rows, tmp_path / "cut", settings)
    assert again["steps"] == whole["steps"] == 8
    first, second = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_folder_with_another_run_is_refused(bases, adapters, rows, tmp_path):
    train(bases, adapters, rows, tmp_path / "c", CompatibilityConfig(cache_top=16))
    changed = [{**rows[0], "answer": " another"}, *rows[1:]]
    cases = {
        "num_examples": (rows[:10], CompatibilityConfig(cache_top=16)),
        "data": (changed, CompatibilityConfig(cache_top=16)),
        "compatibility": (rows, CompatibilityConfig("all_old", cache_top=16)),
    }
    for name, (examples, settings) in cases.items():
        with pytest.raises(ValueError, match=f"holds a run with other settings or data \\(.*{name}"):
            train(bases, adapters, examples, tmp_path / "c", settings)


def test_fingerprints(bases, adapters):
    old, new = pair(bases, adapters)
    plain = load_model(bases / "new")
    assert fingerprint(new) == fingerprint(plain) != fingerprint(old)
    assert adapter_fingerprint(old) != adapter_fingerprint(new) != adapter_fingerprint(plain)


def test_an_adapter_for_another_base_is_refused(bases, adapters, tmp_path):
    with pytest.raises(ValueError, match="was trained on another base"):
        load_adapter(load_model(bases / "old"), adapters / "new")
    with pytest.raises(ValueError, match="no adapter at"):
        load_adapter(load_model(bases / "old"), tmp_path)


def test_an_adapter_of_another_shape_is_refused(bases, tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    model = add_adapter(LlamaForCausalLM(config), CONFIG.lora, 0)
    save_adapter(model, tmp_path / "a")
    (tmp_path / "a/muscle_base.json").unlink()
    with pytest.raises(ValueError, match="does not fit this base"):
        load_adapter(load_model(bases / "old"), tmp_path / "a")


def test_other_vocabularies_are_refused(bases):
    tokenizer = load_tokenizer(bases / "old")
    check_same_vocabulary(tokenizer, load_tokenizer(bases / "new"))
    other = load_tokenizer(bases / "new")
    other.add_tokens(["<new>"])
    with pytest.raises(ValueError, match="different vocabularies: 4096 tokens in the old model, 4097 in the new"):
        check_same_vocabulary(tokenizer, other)


_CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path({tests!r})))
from dataclasses import replace
from muscle.config import CompatibilityConfig
from muscle.models import load_adapter, load_model, load_tokenizer
from muscle.train import read_examples, train_compatibility_adapter
from muscle.config import PRESETS
bases, adapters, out, size = Path({bases!r}), Path({adapters!r}), Path(sys.argv[1]), int(sys.argv[2])
config = replace(PRESETS["tiny"], epochs=2, batch_size=size, lr=5e-3)
teachers = [load_adapter(load_model(bases / n), adapters / n) for n in ("old", "new")]
student = load_adapter(load_model(bases / "new"), adapters / "new", trainable=True)
rows = read_examples({data!r})
settings = (config, CompatibilityConfig(cache_top=64))
train_compatibility_adapter(tuple(teachers), student, load_tokenizer(bases / "new"), rows, settings, out)
"""


@pytest.mark.distributed
@pytest.mark.timeout(300)
def test_two_processes_give_what_one_gives(bases, adapters, rows, write, tmp_path):
    """Under torchrun with half of the batch each; the mean is over the tokens of both, so lengths are made unequal."""
    uneven = [{**row, "answer": row["answer"] * (1 + i % 5)} for i, row in enumerate(rows)]
    data = write("train.jsonl", uneven)
    script = tmp_path / "child.py"
    script.write_text(_CHILD.format(tests=str(tmp_path), bases=str(bases), adapters=str(adapters), data=str(data)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script]
    subprocess.run([*run, tmp_path / "two", "2"], check=True, env=environment, capture_output=True)
    subprocess.run([sys.executable, script, tmp_path / "one", "4"], check=True, env=environment, capture_output=True)
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    start = load_file(adapters / "new" / "adapter_model.safetensors")
    difference = max(float((one[k] - two[k]).abs().max()) for k in one)
    moved = max(float((one[k] - start[k]).abs().max()) for k in one)
    print(f"largest difference {difference:.2e}, moved {moved:.2e}")
    assert difference < 1e-2 * moved
