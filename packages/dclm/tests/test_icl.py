"""Evaluation: prompts as the authors' evaluator builds them, four ways to score, records that the leaderboard reads."""

import json
import math
import random
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from dclm import cli
from dclm.chain import sample_tasks
from dclm.icl import Prompts, find_tasks, read_task, task_rows
from dclm.leaderboard import leaderboard_rows
from dclm.lmeval import EvalOptions, Scorer, evaluate, is_right, judge, text_bits
from dclm.openlm import OpenLM
from dclm.records import dataset_record, evaluation_record, model_record, read_reference
from dclm.scales import SCALES
from dclm.scores import read_record
from dclm.tasks import TASKS
from dclm.tokenizer import load_tokenizer
from flax import nnx
from tenfold_shared.commands import InputError

TASK = {task.name: task for task in TASKS}
CHOICES = [{"query": f"Question: q{n}\n", "choices": [f"a{n}", f"b{n}"], "gold": n % 2} for n in range(6)]
SCHEMAS = [{"context_options": [f"The cat{n}", f"The dog{n}"], "continuation": "ran.", "gold": n % 2} for n in range(4)]


def cleaned(items):
    return [{k: v.strip() if isinstance(v, str) else v for k, v in item.items()} for item in items]


def expected_shots(total, wanted, seed=1234):
    """Draw as llm-foundry does, written down once more."""
    generator, drawn = random.Random(seed), []
    for number in range(total):
        found = set(generator.sample(range(0, total), wanted))
        if number in found:
            found.remove(number)
            if len(found) < total - 1:
                other = generator.choice(range(0, total))
                while other in found or other == number:
                    other = generator.choice(range(0, total))
                found.add(other)
        drawn.append(found)
    return drawn


def test_few_shot_prompts_of_multiple_choice():
    prompts = Prompts(TASK["arc_easy"], cleaned(CHOICES), num_shots=2)
    assert prompts.shots == expected_shots(6, 2)
    first, second = prompts.shots[3]
    gold = {n: CHOICES[n]["choices"][n % 2] for n in range(6)}
    assert prompts.examples(3) == (
        f"Question: q{first}\nAnswer: {gold[first]}\nQuestion: q{second}\nAnswer: {gold[second]}"
    )
    assert prompts.pairs(3) == [("\nQuestion: q3\nAnswer:", "a3"), ("\nQuestion: q3\nAnswer:", "b3")]


def test_prompts_without_examples_and_with_a_plain_delimiter():
    prompts = Prompts(
        TASK["copa"], cleaned([{"query": "It rained, so", "choices": ["it was wet.", "dry."], "gold": 0}])
    )
    assert prompts.examples(0) == "" and prompts.pairs(0)[0] == ("It rained, so", "it was wet.")


def test_schema_prompts_differ_in_their_context():
    prompts = Prompts(TASK["winograd"], SCHEMAS)
    assert prompts.pairs(1) == [("The cat1", "ran."), ("The dog1", "ran.")]
    shot = Prompts(TASK["winograd"], SCHEMAS, num_shots=1)
    [number] = shot.shots[0]
    assert shot.examples(0) == f"The {'cat' if number % 2 == 0 else 'dog'}{number} ran."


def test_reasoning_prompts():
    items = [{"context": f"c{n}?", "answer": str(n), "chain_of_thought": f"It is {n}."} for n in range(3)]
    prompts = Prompts(TASK["gsm8k_cot"], items, num_shots=1)
    [shot] = prompts.shots[0]
    steps = "\nA: Let's think step by step. "
    assert prompts.examples(0) == f"Q: c{shot}?{steps}It is {shot}. #### {shot}"
    assert prompts.pairs(0) == [(f"\nQ: c0?{steps}".rstrip(), "")]


def test_rows_end_in_their_answer_and_are_cut_from_the_left():
    tokenizer = load_tokenizer("gpt2")
    prompts = Prompts(TASK["arc_easy"], cleaned(CHOICES), num_shots=5)
    rows = task_rows(prompts, tokenizer, 2048)
    assert len(rows) == 12 and [row.option for row in rows[:2]] == [0, 1]
    for row in rows:
        assert tokenizer.decode(row.ids[row.start :]) == f" {'ab'[row.option]}{row.item}"
    short = task_rows(prompts, tokenizer, 12)
    assert all(len(row.ids) == 12 and row.ids == whole.ids[-12:] for row, whole in zip(short, rows, strict=True))
    with pytest.raises(InputError, match="has 2 ids; the model reads 1"):
        task_rows(prompts, tokenizer, 1)


@pytest.fixture(scope="module")
def model(tiny_model):
    return OpenLM(tiny_model, rngs=nnx.Rngs(3))


def naive(model, row):
    """Log-probabilities of a row's answer, one sequence at a time."""
    logits = np.asarray(model(np.array([row.ids[:-1]])))[0].astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.array(row.ids[1:])
    picked = logs[np.arange(len(targets)), targets]
    return picked[row.start - 1 :], bool((logits.argmax(axis=1) == targets)[row.start - 1 :].all())


def test_scores_do_not_depend_on_batches_or_padding(model):
    prompts = Prompts(TASK["copa"], cleaned(CHOICES))
    rows = task_rows(prompts, load_tokenizer("bytes"), 32)
    for batch in (3, 16):
        for row, (logs, greedy) in zip(rows, Scorer(model, batch).score(rows), strict=True):
            expected, likeliest = naive(model, row)
            np.testing.assert_allclose(logs, expected, atol=1e-4)
            assert greedy == likeliest


def test_multiple_choice_takes_the_best_mean(model):
    items = cleaned([{"query": "x", "choices": ["a", "bbbbbbbbbb"], "gold": n} for n in (0, 1)])
    prompts = Prompts(TASK["copa"], items)
    rows = task_rows(prompts, load_tokenizer("bytes"), 32)
    means = [naive(model, row)[0].mean() for row in rows[:2]]
    best = int(np.argmax(means))
    assert judge(prompts, Scorer(model), load_tokenizer("bytes"), [0, 1]) == [best == 0, best == 1]


def test_schema_judges_by_the_continuation(model):
    prompts, tokenizer = Prompts(TASK["winograd"], SCHEMAS), load_tokenizer("bytes")
    rows = task_rows(prompts, tokenizer, 32)
    means = np.array([naive(model, row)[0].mean() for row in rows]).reshape(4, 2)
    expected = [bool(best == item["gold"]) for best, item in zip(means.argmax(axis=1), SCHEMAS, strict=True)]
    assert judge(prompts, Scorer(model), tokenizer, range(4)) == expected


def test_language_modeling_and_generation_follow_the_model(model):
    """What the model itself would say is right, anything else is wrong."""
    tokenizer, scorer = load_tokenizer("bytes"), Scorer(model, 2)
    made = scorer.generate(tokenizer.encode("hello"), 4, lambda ids: False)
    by_hand = list(tokenizer.encode("hello"))
    for _ in range(4):
        by_hand.append(int(np.asarray(model(np.array([by_hand])))[0, -1].argmax()))
    assert made == by_hand[-4:]


def test_an_answer_ends_where_the_model_ends_it():
    tokenizer = load_tokenizer("bytes")
    script = [*tokenizer.encode("Rome"), tokenizer.end_id, *tokenizer.encode(" or Oslo")]
    lengths = []

    class Scripted:
        config = SimpleNamespace(context_length=64)

        def generate(self, ids, longest, done):
            made = next(script[:n] for n in range(1, len(script) + 1) if n == longest or done(script[:n]))
            lengths.append(len(made))
            return made

    items = [{"context": "capital?", "answer": answer, "aliases": ["x" * 20]} for answer in ("Rome", "Oslo")]
    assert judge(Prompts(TASK["triviaqa_sm_sub"], items, num_shots=0), Scripted(), tokenizer, [0, 1]) == [True, False]
    assert lengths == [len(tokenizer.encode("Rome")) + 1] * 2


def test_answers_are_normalised():
    item = {"answer": "Beatles", "aliases": ["the fab four"]}
    assert is_right("The Beatles, of course", item, "") and is_right("Fab Four!", item, "")
    assert not is_right("Not the Beatles", item, "")
    assert is_right("2 and 2 #### 4.\n\nQ: 5 #### 7", {"answer": "4"}, " #### ")
    assert not is_right("2 and 2 #### 5", {"answer": "4"}, " #### ")


def test_bits_of_a_text(model):
    tokenizer = load_tokenizer("bytes")
    text = "some words that do not fit into one context of thirty-two ids"
    ids = [256, *tokenizer.encode(text)]
    total = 0.0
    for first in range(0, len(ids) - 1, 32):
        piece = ids[first : first + 33]
        logits = np.asarray(model(np.array([piece[:-1]])))[0].astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        total -= logs[np.arange(len(piece) - 1), piece[1:]].sum()
    assert text_bits(model, tokenizer, [text]) == pytest.approx(total / math.log(2) / len(text), rel=1e-5)


def test_evaluation_gives_errors_and_versions(tiny_model):
    model = OpenLM(dataclasses_replace(tiny_model), rngs=nnx.Rngs(0))
    found = evaluate(model, load_tokenizer("bytes"), sample_tasks(), EvalOptions(max_items=8, quiet=True))
    assert set(found["icl"]) == {"copa", "winograd"} and found["num_items"] == {"copa": 8, "winograd": 8}
    accuracy = found["icl"]["copa"]
    assert found["standard_errors"]["copa"] == pytest.approx(math.sqrt(accuracy * (1 - accuracy) / 8))
    assert {"jax", "dclm"} <= set(found["versions"])


def dataclasses_replace(config):
    import dataclasses

    return dataclasses.replace(config, context_length=256)


def test_records_name_each_other_and_reach_the_leaderboard(tmp_path):
    data, other = (dataset_record(name, str(tmp_path)) for name in ("a", "b"))
    assert data["uuid"] != other["uuid"]
    model = model_record("m", data, SCALES["1b-1x"], "folder", "1b-1x")
    assert model["dataset_uuid"] == data["uuid"] and model["hyperparameters"]["lr"] == 3e-3
    icl = {task.name: 0.5 for task in TASKS if task.core}
    found = {"icl": icl, "standard_errors": {}, "num_items": {}, "seed": 1, "tokenizer": "gpt2", "versions": {}}
    record = evaluation_record(model, found)
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(record))
    [row] = leaderboard_rows([path])
    assert (row["model"], row["scale"], row["track"], row["extended"]) == ("m", "1b-1x", "filtering", None) and row[
        "core"
    ] == record["Core_v2"]
    assert record["Extended"].startswith("N/A due to missing tasks") and record["model_uuid"] == model["uuid"]
    assert read_record(path)["uuid"] not in (model["uuid"], data["uuid"])
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match="no `uuid`"):
        read_reference(tmp_path / "x.json")


GOOD = {"query": "q", "choices": ["a", "b"], "gold": 1}
REFUSED = {
    "gold over the choices": ("copa", {**GOOD, "gold": 2}, "line 2 has gold 2; there are 2 choices"),
    "negative gold": ("copa", {**GOOD, "gold": -1}, "line 2 has gold -1"),
    "gold as text": ("copa", {**GOOD, "gold": "1"}, "line 2 has gold '1'"),
    "no choices": ("copa", {"query": "q", "gold": 0}, "line 2 lacks `choices`, which multiple choice needs"),
    "another kind": ("winograd", GOOD, "lacks `context_options`, which schema needs"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_task_files_get_one_sentence(tmp_path, case):
    name, item, sentence = REFUSED[case]
    first = GOOD if name == "copa" else SCHEMAS[0]
    (tmp_path / "x.jsonl").write_text(f"{json.dumps(first)}\n{json.dumps(item)}\n")
    with pytest.raises(InputError, match=sentence):
        read_task(TASK[name], tmp_path / "x.jsonl")


def test_a_folder_without_tasks_is_refused(tmp_path):
    with pytest.raises(InputError, match="no task files"):
        find_tasks(tmp_path)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dclm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def test_plan_shows_stages_and_formulas(monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, "plan", "--pool", "240T", "--cluster", "64x96", "--json")
    found = json.loads(out)
    assert status == 0
    assert [row["stage"] for row in found["stages"]] == ["extract", "refinedweb", "bloom", "classify", "tokenize"]
    first = found["stages"][0]
    assert first["core_hours"] == pytest.approx(240e12 / 1200 / 1284 / 3600)
    assert first["wall_hours"] == pytest.approx(first["core_hours"] / 6144)
    bloom = found["stages"][2]
    at_once = int(re.search(r"([\d,]+) filters at once", bloom["formula"])[1].replace(",", ""))
    assert bloom["wall_hours"] == pytest.approx(bloom["core_hours"] / at_once)
    assert "documents" in first["formula"] and found["training"]["h100_hours"] == pytest.approx(8382, rel=0.01)
    assert run(monkeypatch, capsys, "plan", "--keep", "bloom=0.5")[0] == 0
    for arguments in (("--pool", "many"), ("--cluster", "3"), ("--keep", "blom=0.5"), ("--scale", "9b")):
        assert run(monkeypatch, capsys, "plan", *arguments)[0] == 2
