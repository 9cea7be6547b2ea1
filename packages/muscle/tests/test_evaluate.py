"""Answers of models, equal to lm-evaluation-harness's on the same model and documents; public layouts of tasks."""

import itertools
import json
import shutil

import pytest
from muscle.corpus import load_tokenizer as experiment_tokenizer
from muscle.evaluate import encode_pair, evaluate, generate, log_likelihoods
from muscle.models import load_model, load_tokenizer
from muscle.protocols import PROTOCOLS, Document, Protocol, final_number, find_protocol, with_shots


@pytest.fixture(scope="module")
def tiny(reference, tmp_path_factory):
    """The model that lm-evaluation-harness ran, and its samples."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    shutil.copytree(reference / "tiny/model", folder)
    experiment_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"})
    )
    file = next((reference / "tiny").glob("samples_*.jsonl"))
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    return load_model(folder), load_tokenizer(folder), samples


def test_multiple_choice_equals_the_harness(tiny):
    model, tokenizer, samples = tiny
    documents = [
        Document(
            str(s["doc_id"]),
            s["doc"]["question"] + "\nKind:",
            tuple(f" {c}" for c in s["doc"]["choices"]),
            s["doc"]["label"],
        )
        for s in samples
    ]
    rows = evaluate(model, tokenizer, find_protocol("jsonl", "choice"), documents, batch_size=7)
    for row, sample in zip(rows, samples, strict=True):
        theirs = [float(value) for value, _ in sample["filtered_resps"]]
        assert row["log_likelihoods"] == pytest.approx(theirs, abs=1e-3)
        assert row["score"] == sample["acc"]
    assert 0 < sum(row["score"] for row in rows) < len(rows)


def test_the_batch_does_not_matter(tiny):
    model, tokenizer, samples = tiny
    pairs = [(s["doc"]["question"], f" {c}") for s in samples[:5] for c in s["doc"]["choices"]]
    one, many = (log_likelihoods(model, tokenizer, pairs, batch_size=n) for n in (1, 20))
    assert one == pytest.approx(many, abs=1e-4)


def test_pairs_are_split_as_the_harness_does(tiny):
    _, tokenizer, _ = tiny
    context, continuation = encode_pair(tokenizer, "a thing: ", "made")
    assert tokenizer.decode(context) == "a thing:" and tokenizer.decode(continuation) == " made"
    first, rest = encode_pair(tokenizer, "", " made")
    assert first == [tokenizer.eos_token_id] and tokenizer.decode(rest) == " made"


def test_long_contexts_lose_their_beginning(tiny):
    model, tokenizer, _ = tiny
    found = log_likelihoods(model, tokenizer, [("word " * 400, " end")])
    assert found[0] < 0


def test_generation_ends_at_a_stop_and_is_scored(tiny):
    model, tokenizer, samples = tiny
    free = Protocol("exact", PROTOCOLS["jsonl"].read, stops=("\n\n\n",), max_new_tokens=6)
    text = generate(model, tokenizer, samples[0]["doc"]["question"], free)
    assert text
    stop = text[2:4]
    cut = generate(model, tokenizer, samples[0]["doc"]["question"], Protocol("exact", free.read, (stop,), 6))
    assert cut == text[: text.index(stop)]
    document = Document("a", samples[0]["doc"]["question"], (), text.strip())
    assert evaluate(model, tokenizer, free, [document])[0]["score"] == 1
    rouge = Protocol("rouge1", free.read, free.stops, 6)
    assert 0 <= evaluate(model, tokenizer, rouge, [document])[0]["score"] <= 1


def test_no_pair_of_tokens_occurs_twice(tiny):
    model, tokenizer, samples = tiny
    protocol = Protocol("rouge1", PROTOCOLS["samsum"].read, ("\n\n\n",), 30, 2)
    text = generate(model, tokenizer, samples[1]["doc"]["question"], protocol)
    ids = tokenizer(text)["input_ids"]
    pairs = list(itertools.pairwise(ids))
    assert len(pairs) == len(set(pairs)) and len(pairs) > 10


def test_hellaswag(write):
    row = {
        "ind": 24,
        "activity_label": "Roof shingle removal",
        "ctx_a": "A man is sitting on a roof.",
        "ctx_b": "he [header] starts",
        "endings": ["is using wrap. [title] Then he rests.", "pulls  up roofing."],
        "label": 1,
    }
    ((document, answer),) = PROTOCOLS["hellaswag"].read(write("hellaswag_val.jsonl", [row]))
    assert document.prompt == "Roof shingle removal: A man is sitting on a roof. He starts"
    assert document.choices == (" is using wrap.. Then he rests.", " pulls up roofing.") and document.gold == 1
    assert (document.id, answer) == ("24", " pulls up roofing.")


def test_piqa_with_its_file_of_labels(write, tmp_path):
    rows = [{"goal": "Open a jar.", "sol1": "Twist.", "sol2": "Shout."}, {"goal": "g", "sol1": "a", "sol2": "b"}]
    path = write("valid.jsonl", rows)
    (tmp_path / "valid-labels.lst").write_text("0\n1\n")
    documents = [document for document, _ in PROTOCOLS["piqa"].read(path)]
    assert documents[0] == Document("0", "Question: Open a jar.\nAnswer:", (" Twist.", " Shout."), 0)
    assert documents[1].gold == 1
    (tmp_path / "valid-labels.lst").write_text("0\n")
    with pytest.raises(ValueError, match="1 labels for 2 examples"):
        PROTOCOLS["piqa"].read(path)
    (tmp_path / "valid-labels.lst").unlink()
    with pytest.raises(ValueError, match=r"no label; put valid-labels\.lst beside"):
        PROTOCOLS["piqa"].read(path)


def test_gsm8k(write):
    row = {"question": "How many?", "answer": "He has 1,000 * 2 = 2,000.\n#### 2,000"}
    ((document, answer),) = PROTOCOLS["gsm8k"].read(write("test.jsonl", [row]))
    assert (document.id, document.prompt, document.gold) == ("0", "Question: How many?\nAnswer:", "2000")
    assert answer.endswith("#### 2,000")
    assert [final_number(t) for t in ("#### -3.", "so 12", "#### $5")] == ["-3", "[invalid]", "[invalid]"]
    shots = [(Document("s", "Question: a\nAnswer:"), " #### 1")]
    assert with_shots([document], shots)[0].prompt == "Question: a\nAnswer: #### 1\n\nQuestion: How many?\nAnswer:"


def test_samsum_as_a_list_and_as_lines(write, tmp_path):
    rows = [
        {"id": "13", "dialogue": "A: hi\r\nB: hi", "summary": "They greet."},
        {"id": "14", "dialogue": "x", "summary": "y"},
    ]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    lists, lines = (PROTOCOLS["samsum"].read(path) for path in (tmp_path / "test.json", write("test.jsonl", rows)))
    assert lists == lines
    assert lists[0][0] == Document("13", "Dialogue:\nA: hi\nB: hi\nSummary:", (), "They greet.")
    protocol = PROTOCOLS["samsum"]
    assert protocol.no_repeat_ngram_size == 2 and protocol.stops == ("Dialogue:", "Summary:", "</s>", "\n\n")


def test_own_examples_may_have_choices(write):
    rows = [{"prompt": "p", "answer": " b", "choices": [" a", " b"]}, {"prompt": "q", "answer": " c"}]
    documents = [document for document, _ in PROTOCOLS["jsonl"].read(write("own.jsonl", rows))]
    assert (documents[0].gold, documents[1].gold) == (1, "c")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"prompt": "p", "answer": "x", "choices": ["a"]}], "the answer 'x' is none of its choices"),
        ([{"prompt": "p"}], "no field 'answer'; it has 'prompt'"),
    ],
)
def test_examples_that_are_refused(write, rows, sentence):
    with pytest.raises(ValueError, match=sentence):
        PROTOCOLS["jsonl"].read(write("own.jsonl", rows))


def test_nothing_to_evaluate(tiny):
    model, tokenizer, _ = tiny
    with pytest.raises(ValueError, match="no documents"):
        evaluate(model, tokenizer, PROTOCOLS["piqa"], [])
    with pytest.raises(ValueError, match="fewer than two choices"):
        evaluate(model, tokenizer, PROTOCOLS["piqa"], [Document("a", "p", (" b",))])
    with pytest.raises(ValueError, match="did you mean 'piqa'"):
        find_protocol("pica")
