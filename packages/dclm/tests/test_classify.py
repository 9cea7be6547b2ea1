"""The classifier on real pages, and evaluation items found where they are hidden."""

import json
import math

import pytest
from dclm import Document
from dclm.classify import keep_scored, score, train_classifier
from dclm.config import Decontaminate, Score, Threshold
from dclm.decontaminate import contamination_report, decontaminate, read_items
from tenfold_shared.commands import InputError


def pieces(texts, size=80):
    words = [word for text in texts for word in text.split()]
    return [Document(" ".join(words[at : at + size])) for at in range(0, len(words) - size, size)]


@pytest.fixture(scope="module")
def model(tmp_path_factory, pool_texts):
    """Pages of one manual against the rest; every second page is held out."""
    wanted = [text for text in pool_texts if "PostgreSQL" in text]
    others = [text for text in pool_texts if "PostgreSQL" not in text]
    path = tmp_path_factory.mktemp("model") / "quality.bin"
    made = train_classifier(pieces(wanted[::2]), pieces(others[::2]), out=path, seed=1, epochs=25, num_buckets=20_000)
    return path, made, pieces(wanted[1::2])[:300], pieces(others[1::2])[:300]


def test_a_classifier_ranks_held_out_pages(model):
    path, made, wanted, others = model
    config = Score(str(path))
    scores = [
        [document.fields["quality"] for document, _ in score(documents, config)] for documents in (wanted, others)
    ]
    pairs = [(high > low) + 0.5 * (high == low) for high in scores[0] for low in scores[1]]
    assert sum(pairs) / len(pairs) > 0.85
    assert all(0 <= value <= 1 for value in (*scores[0], *scores[1]))
    assert min(made["hq"], made["cc"]) > 300


def test_equal_documents_give_an_equal_model(tmp_path):
    files = []
    for name in "ab":
        documents = [Document(f"a good text number {number}") for number in range(20)]
        others = [Document(f"some bad words {number}") for number in range(20)]
        train_classifier(documents, others, out=tmp_path / name, seed=3, num_buckets=1000)
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


def test_one_kind_of_documents_is_refused(tmp_path):
    with pytest.raises(InputError, match="both kinds"):
        train_classifier([Document("a")], [], out=tmp_path / "x")


def test_an_unknown_label_is_named(model):
    with pytest.raises(InputError, match="has no label 'good'; it has"):
        list(score([Document("text")], Score(str(model[0]), label="good")))


def test_perplexity_needs_its_extra_or_computes_it(tmp_path):
    unigrams = "-1.0\t<unk>\n-99\t<s>\t0\n-0.5\t</s>\n-0.9\tword\t-0.1\n"
    bigrams = "-0.2\t<s> word\n-0.3\tword word\n"
    arpa = f"\\data\\\nngram 1=4\nngram 2=2\n\n\\1-grams:\n{unigrams}\n\\2-grams:\n{bigrams}\n\\end\\\n"
    (tmp_path / "lm.arpa").write_text(arpa)
    config = Score(str(tmp_path / "lm.arpa"), kind="perplexity")
    try:
        import kenlm  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install 'dclm\[kenlm\]'"):
            list(score([Document("word word")], config))
        return
    [(document, _)] = score([Document("word word")], config)
    assert document.fields["quality"] == pytest.approx(10 ** ((0.2 + 0.3 + 0.1 + 0.5) / 3), rel=1e-4)


def test_equality_keeps():
    documents = [Document("x", {"quality": value}) for value in (0.1, 0.018112, 0.018)]
    reasons = [reason for _, reason in keep_scored(documents, Threshold(keep_share=None, min_score=0.018112))]
    assert reasons == [None, None, "low_score"]
    lower = Threshold(keep_share=None, min_score=5.0, higher_is_better=False)
    assert [reason for _, reason in keep_scored([Document("x", {"quality": 6})], lower)] == ["high_score"]


@pytest.mark.parametrize("value", [None, "high", math.nan])
def test_documents_without_a_score_are_refused(value):
    with pytest.raises(InputError, match="has no number in `quality`"):
        list(keep_scored([Document("x", {"quality": value})], Threshold(keep_share=None, min_score=0.0)))


ROWS = [
    {
        "query": "Question: A long story goes here. Which animal in the garden eats grass?\nAnswer:",
        "choices": ["the cow", "a cat"],
    },
    {"context": "one two three four five six seven eight nine ten eleven twelve", "continuation": "thirteen fourteen"},
    {"context_options": ["He said", "She said"], "continuation": "that it was late."},
]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "animals.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


HIDDEN = {
    "question and option": ("Which animal in the garden eats grass? I think the COW does.", "contaminated_animals"),
    "question alone": ("Which animal in the garden eats grass? Nobody knows.", None),
    "option alone": ("I saw the cow.", None),
    "run of words": (
        "So: one, two, three four five six seven eight nine ten eleven twelve THIRTEEN!",
        "contaminated_animals",
    ),
    "a word short": ("one two three four five six seven eight nine ten eleven twelve", None),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_items_are_found_where_they_are_hidden(task, case):
    text, reason = HIDDEN[case]
    assert [
        found for _, found in decontaminate([Document("A start. " + text + " An end.")], Decontaminate((task,)))
    ] == [reason]


def test_the_report_counts_per_task(task):
    config = Decontaminate((task,))
    documents = [Document(text) for text, _ in HIDDEN.values()]
    removed = [document for document, reason in decontaminate(documents, config) if reason]
    rows = contamination_report(removed, config)
    assert rows == [{"task": "animals", "items": 3, "items_found": 2, "share": 2 / 3, "documents": 2}]


def test_a_rule_can_be_left_out(task):
    text = HIDDEN["question and option"][0]
    config = Decontaminate((task,), sentence_and_option=False)
    assert [reason for _, reason in decontaminate([Document(text)], config)] == [None]


def test_other_formats_are_refused(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "?"}\n')
    with pytest.raises(InputError, match="line 1 is no evaluation item"):
        read_items(str(tmp_path / "x.jsonl"))
