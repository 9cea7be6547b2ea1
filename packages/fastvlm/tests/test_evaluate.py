"""Benchmarks in their public layouts, written by hand, asked of a small model; records, resume and bad folders."""

import base64
import io
import json

import pyarrow
import pyarrow.parquet
import pytest
from fastvlm.evaluate import Options, evaluate, summarize
from fastvlm.predict import load_assistant
from fastvlm.tasks import BENCHMARKS, Sample, find_benchmark
from PIL import Image
from tenfold_shared.commands import InputError
from tenfold_shared.files import read_jsonl


def png(colour="red", size=(40, 30)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def make_textvqa(folder):
    rows = [{"question_id": 34602, "image_id": "003a8ae2ef43b901", "question": "what is the BRAND?",
             "answers": ["nous"] * 4 + ["dakota"] * 6}]  # fmt: skip
    write(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    write(folder / "train_images/003a8ae2ef43b901.jpg", png())


def make_docvqa(folder):
    rows = [{"questionId": 49153, "question": "What is the value?", "image": "documents/pybv0228_81.png",
             "docId": 14465, "answers": ["0.28", ".28"]}]  # fmt: skip
    write(folder / "val_v1.0.json", {"dataset_name": "SP-DocVQA", "data": rows})
    write(folder / "documents/pybv0228_81.png", png())


def make_infovqa(folder):
    rows = [{"questionId": 98313, "question": "Which?", "image_local_name": "37313.jpeg", "answers": ["pinterest"]}]
    write(folder / "infographicsVQA_val_v1.0.json", {"data": rows})
    write(folder / "37313.jpeg", png())


def make_chartqa(folder):
    write(folder / "test/test_human.json", [{"imgname": "a.png", "query": "How many?", "label": "14"}])
    write(folder / "test/test_augmented.json", [{"imgname": "a.png", "query": "Which?", "label": "Inspired"}])
    write(folder / "test/png/a.png", png())


def make_pope(folder):
    for part in ("adversarial", "popular", "random"):
        image = "COCO_val2014_000000310196.jpg"
        rows = [{"question_id": i, "image": image, "text": "Is there a cat in the image?", "label": label}
                for i, label in enumerate(("yes", "no"))]  # fmt: skip
        write(folder / f"coco_pope_{part}.json", "\n".join(map(json.dumps, rows)).encode())
    write(folder / "val2014" / image, png())


def make_mmmu(folder):
    empty = {f"image_{i}": None for i in range(3, 8)}
    pictures = {f"image_{i}": {"bytes": png(c), "path": f"{i}.png"} for i, c in ((1, "red"), (2, "blue"))}
    common = {"explanation": "", "img_type": "['Plots']", "topic_difficulty": "Easy", "subfield": "x", **pictures}
    rows = [
        {"id": "validation_Math_1", "question": "See <image 1> and <image 2>: which?", "options": "['cat', 'dog']",
         "answer": "B", "question_type": "multiple-choice", **common, **empty},
        {"id": "validation_Math_2", "question": "How many in <image 1>?", "options": "[]", "answer": "['8', 'eight']",
         "question_type": "open", **common, **empty},
    ]  # fmt: skip
    (folder / "Math").mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "Math/validation-00000-of-00001.parquet")


def make_mmbench(folder):
    picture = base64.b64encode(png()).decode()
    lines = ["index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsplit"]
    lines += [f"241\tWhat is it?\tLook well.\tcat\tdog\t\t\tA\tobject\t{picture}\tdev"]
    write(folder / "mmbench_dev_20230712.tsv", "\n".join(lines).encode())


def make_ocrbench(folder):
    rows = [{"dataset_name": "IIIT5K", "image_path": "IIIT5K/1.png", "id": 0, "type": "Regular Text Recognition",
             "question": "what is written in the image?", "answers": ["CENTRE"]}]  # fmt: skip
    write(folder / "OCRBench.json", rows)
    write(folder / "OCRBench_Images/IIIT5K/1.png", png())


MAKE = {
    "textvqa": make_textvqa,
    "docvqa": make_docvqa,
    "infovqa": make_infovqa,
    "chartqa": make_chartqa,
    "pope": make_pope,
    "mmmu": make_mmmu,
    "mmbench": make_mmbench,
    "ocrbench": make_ocrbench,
}
QUESTIONS = {
    "textvqa": "What is the brand?\nAnswer the question using a single word or phrase.",
    "docvqa": "What is the value?\nAnswer the question using a single word or phrase.",
    "infovqa": "Which?\nAnswer the question using a single word or phrase.",
    "chartqa": "How many?\nAnswer the question with a single word.",
    "pope": "Is there a cat in the image?\nAnswer the question using a single word or phrase.",
    "mmmu": "See <image> and <image>: which?\nA. cat\nB. dog\n\n"
    "Answer with the option's letter from the given choices directly.",
    "mmbench": "Look well.\nWhat is it?\nA. cat\nB. dog\n"
    "Answer with the option's letter from the given choices directly.",
    "ocrbench": "what is written in the image?",
}


def test_every_benchmark_has_a_layout():
    assert set(MAKE) == set(QUESTIONS) == set(BENCHMARKS)
    # As lmms-eval has them (lmms_eval/tasks/*, `max_new_tokens`).
    lengths = {"docvqa": 32, "infovqa": 32, "chartqa": 16, "ocrbench": 128}
    assert {name: BENCHMARKS[name].max_new_tokens for name in lengths} == lengths


@pytest.fixture(scope="module")
def assistant(llava_folder):
    return load_assistant(llava_folder, "cpu", image_size=64)


@pytest.mark.parametrize("name", list(MAKE))
def test_layouts(name, tmp_path):
    MAKE[name](tmp_path)
    samples = list(find_benchmark(name).read(tmp_path))
    assert samples[0].question == QUESTIONS[name]
    assert len(samples) == {"chartqa": 2, "pope": 6, "mmmu": 2}.get(name, 1)
    for sample in samples:
        assert len(sample.pictures) == (2 if sample.name == "validation_Math_1" else 1)
        assert all(read().size == (40, 30) for read in sample.pictures)
        right = {"mmmu": "B" if sample.options else "The result is 8"}.get(name, sample.references[-1])
        score, _ = find_benchmark(name).score(right, sample)
        assert score == 1.0, "a right answer scores in full"
        if not sample.options and name != "pope":  # those two always read something
            assert find_benchmark(name).score("No such thing zzz", sample)[0] == 0.0


@pytest.mark.parametrize("name", list(MAKE))
def test_a_model_answers_every_benchmark(assistant, name, tmp_path):
    MAKE[name](tmp_path / "data")
    found = evaluate(assistant, name, tmp_path / "data", tmp_path / "out", Options(quiet=True))
    rows = read_jsonl(tmp_path / "out/samples.jsonl")
    assert set(rows[0]) == {"name", "group", "question", "references", "answer", "said", "score"}
    assert next(iter(found)) == "score" and 0 <= found["score"] <= 100
    assert json.loads((tmp_path / "out/scores.json").read_text())["questions"] == len(rows)


def test_resume_asks_only_what_is_left(assistant, tmp_path):
    make_pope(tmp_path / "data")
    whole = evaluate(assistant, "pope", tmp_path / "data", tmp_path / "whole", Options(quiet=True))
    evaluate(assistant, "pope", tmp_path / "data", tmp_path / "cut", Options(limit=2, quiet=True))
    with pytest.raises(InputError, match="already holds records"):
        evaluate(assistant, "pope", tmp_path / "data", tmp_path / "cut", Options(quiet=True))
    with (tmp_path / "cut/samples.jsonl").open("a") as file:
        file.write('{"name": "torn by a ki')
    assert evaluate(assistant, "pope", tmp_path / "data", tmp_path / "cut", Options(resume=True, quiet=True)) == whole
    assert read_jsonl(tmp_path / "cut/samples.jsonl") == read_jsonl(tmp_path / "whole/samples.jsonl")


def test_summaries():
    rows = [{"group": g, "score": s, "said": s, "references": []} for g, s in (("a", 1.0), ("a", 0.0), ("b|x", 1.0))]
    assert dict(summarize("ocrbench", rows)) == {"score": pytest.approx(200 / 3), "a": 50.0, "b": 100.0}
    said = [("random", "yes", "yes"), ("random", "no", "no"), ("popular", "yes", "no"), ("popular", "no", "yes")]
    rows = [{"group": g, "score": 0.0, "said": s, "references": [r]} for g, s, r in said]
    found = dict(summarize("pope", rows))
    assert found["score"] == 50.0 and found["accuracy"] == 50.0
    assert found["random/f1"] == 100.0 and found["popular/f1"] == 0.0 and found["popular/yes_share"] == 50.0


def without(name, field, folder):
    """A folder in which the rows lack a field."""
    MAKE[name](folder)
    path = next(folder.rglob("*.json"))
    path.write_text(path.read_text().replace(f'"{field}"', '"other"'))


BAD = {
    "no folder": (lambda f: None, "docvqa", FileNotFoundError, r"no val_v1.0.json in"),
    "not JSON": (lambda f: write(f / "val_v1.0.json", b"{"), "docvqa", InputError, "is not JSON"),
    "another layout": (lambda f: without("docvqa", "answers", f), "docvqa", InputError, "a row has no `answers`"),
    "no rows": (lambda f: write(f / "val_v1.0.json", {"data": []}), "docvqa", InputError, "no question in"),
    "two tables": (
        lambda f: [write(f / f"{i}.tsv", b"index\n") for i in range(2)],
        "mmbench",
        InputError,
        r"has 2 files \*.tsv",
    ),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_folders_are_refused(assistant, tmp_path, case):
    make, name, kind, sentence = BAD[case]
    make(tmp_path / "data")
    with pytest.raises(kind, match=sentence):
        evaluate(assistant, name, tmp_path / "data", tmp_path / "out", Options(quiet=True))
    assert not (tmp_path / "out").exists()


def test_a_missing_picture_is_named(assistant, tmp_path):
    make_docvqa(tmp_path)
    (tmp_path / "documents/pybv0228_81.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"pybv0228_81\.png"):
        evaluate(assistant, "docvqa", tmp_path, tmp_path / "out", Options(quiet=True))


def test_unknown_benchmarks_are_refused():
    with pytest.raises(ValueError, match="unknown benchmark 'textqa'; did you mean 'textvqa'"):
        find_benchmark("textqa")


def test_a_sample_without_a_place_for_its_picture(assistant):
    from fastvlm.evaluate import ask

    picture = lambda: Image.new("RGB", (20, 20), "red")  # noqa: E731
    first = ask(assistant, Sample("a", "what?", (picture,), ("x",)), 5)
    assert first == ask(assistant, Sample("a", "<image>\nwhat?", (picture,), ("x",)), 5)
