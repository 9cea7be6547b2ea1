"""Tokens: packing, shuffle, sampling and mixing are exact and the same for any workers, hosts and kills."""

import gzip
import io
import json
import subprocess
import sys
import tarfile
from collections import Counter

import numpy as np
import pytest
from dclm import Document, RunOptions, cli, write_documents
from dclm.tokendata import MixedTokens, TokenBatches, permuted
from dclm.tokenizer import load_tokenizer
from dclm.tokens import Source, TokenOptions, tokenize
from dclm.tokenshards import TokenShards
from hypothesis import given
from hypothesis import strategies as st
from tenfold_shared.commands import InputError

QUIET = RunOptions(quiet=True)


def texts_of(folder, name, texts):
    path = folder / f"{name}.jsonl"
    write_documents(str(path), map(Document, texts))
    return str(path)


def rows_of(folder):
    shards = TokenShards(folder)
    return [tuple(shards.read(number).tolist()) for number in range(len(shards))]


def test_gpt2_is_gpt2():
    tokenizer = load_tokenizer("gpt2")
    assert tokenizer.encode("Hello world, naïve 日本") == [15496, 995, 11, 41492, 10545, 245, 98, 17312, 105]
    assert tokenizer.decode(tokenizer.encode("naïve 日本\n\n  x")) == "naïve 日本\n\n  x"
    assert tokenizer.end_id == 50256 not in tokenizer.encode("<|endoftext|>")


def test_contexts_are_packed_across_documents(tmp_path):
    path = texts_of(tmp_path, "a", ["abcd", "ef", "ghijkl", "m"])
    facts = tokenize([path], tmp_path / "t", TokenOptions("bytes", context=4, shuffle=False), QUIET)
    end = 256
    stream = [*b"abcd", end, *b"ef", end, *b"ghijkl", end, *b"m", end]
    assert rows_of(tmp_path / "t") == [tuple(stream[at : at + 4]) for at in range(0, 16, 4)]
    assert (facts["num_sequences"], facts["tokens_dropped"], facts["num_documents"]) == (4, len(stream) - 16, 4)


def test_rests_of_files_are_packed_together(tmp_path):
    paths = [texts_of(tmp_path, name, [text]) for name, text in (("a", "abcde"), ("b", "fg"), ("c", "hi"))]
    tokenize(paths, tmp_path / "t", TokenOptions("bytes", context=4, shuffle=False), QUIET)
    assert rows_of(tmp_path / "t") == [tuple(b"abcd"), (ord("e"), 256, ord("f"), ord("g")), (256, *b"hi", 256)]


def test_the_layout_is_the_official_one(tmp_path):
    path = texts_of(tmp_path, "a", ["abcdefghijk"])
    tokenize([path], tmp_path / "t", TokenOptions("bytes", context=4, shard_size=2, shuffle=False), QUIET)
    manifest = [json.loads(line) for line in (tmp_path / "t" / "manifest.jsonl").read_text().splitlines()]
    assert manifest == [{"shard": "00000000", "num_sequences": 2}, {"shard": "00000001", "num_sequences": 1}]
    with tarfile.open(tmp_path / "t" / "00000000.tar") as archive:
        names = archive.getnames()
        content = json.loads(gzip.decompress(archive.extractfile(names[0]).read()))
    assert content == list(b"abcd") and all(name.endswith(".json.gz") for name in names) and len(set(names)) == 2


def official(folder, counts, key="num_sequences"):
    """Write shards as the authors' tools do: uuid names, other compression, a manifest with either key."""
    folder.mkdir(parents=True)
    lines = []
    for shard, count in enumerate(counts):
        with tarfile.open(folder / f"{shard:08d}.tar", "w") as archive:
            for number in range(count):
                content = gzip.compress(json.dumps([shard, number, 2, 3, 4]).encode())
                member = tarfile.TarInfo(f"{shard}-{number}.json.gz")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        lines.append(json.dumps({"shard": f"{shard:08d}", key: count}))
    (folder / "manifest.jsonl").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("key", ["num_sequences", "num_chunks"])
def test_shards_of_other_writers_are_read(tmp_path, key):
    official(tmp_path / "s", [3, 2], key)
    assert [row[:2] for row in rows_of(tmp_path / "s")] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_shuffling_keeps_every_context_and_moves_it(tmp_path, pool_texts):
    paths = [texts_of(tmp_path, f"{n}", [text[:400] for text in pool_texts[n::3][:30]]) for n in range(3)]
    made = {}
    for name, options in {
        "plain": TokenOptions("bytes", context=16, shuffle=False),
        "mixed": TokenOptions("bytes", context=16, max_bytes=3_000, shard_size=50),
        "one cell": TokenOptions("bytes", context=16),
        "seed": TokenOptions("bytes", context=16, max_bytes=3_000, shard_size=50, seed=1),
    }.items():
        tokenize(paths, tmp_path / name, options, QUIET)
        made[name] = rows_of(tmp_path / name)
    assert Counter(made["plain"]) == Counter(made["mixed"]) == Counter(made["one cell"]) == Counter(made["seed"])
    assert len({tuple(rows) for rows in made.values()}) == 4
    places = {row: place for place, row in enumerate(made["plain"])}
    moved = np.array([places[row] for row in made["mixed"]])
    assert abs(np.corrcoef(np.arange(len(moved)), moved)[0, 1]) < 0.15, "early contexts stand anywhere"


def test_the_bytes_do_not_depend_on_workers_or_kills(tmp_path, pool_texts, digest):
    paths = [texts_of(tmp_path, f"{n}", [text[:400] for text in pool_texts[n::4][:20]]) for n in range(4)]
    options = TokenOptions("bytes", context=16, max_bytes=3_000, shard_size=50)
    tokenize(paths, tmp_path / "serial", options, QUIET)
    tokenize(paths, tmp_path / "two", options, RunOptions(engine="processes", quiet=True))
    killed = tmp_path / "killed"
    code = (
        "import os, sys, dclm.tokens as t\nfrom dclm import RunOptions\n"
        "write, left = t.write_shard, [2]\n"
        "def dying(*arguments):\n    left[0] -= 1\n    os._exit(9) if not left[0] else None\n"
        "    return write(*arguments)\n"
        "t.write_shard = dying\n"
        "t.tokenize(sys.argv[2:], sys.argv[1], t.TokenOptions('bytes', context=16, max_bytes=3_000, shard_size=50),"
        " RunOptions(quiet=True))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(killed), *paths]).returncode == 9
    tokenize(paths, killed, options, RunOptions(quiet=True, resume=True))
    assert digest(tmp_path / "serial") == digest(tmp_path / "two") == digest(killed)
    again = tokenize(paths, killed, options, RunOptions(quiet=True, resume=True))
    assert again["num_sequences"] == len(rows_of(killed))


def test_sampling_frequencies(tmp_path):
    paths = [texts_of(tmp_path, name, [f"{name}{n:04d}" for n in range(1000)]) for name in ("cc", "wiki")]
    sources = (Source("CC", ("cc",), 0.25), Source("Wikipedia", ("wiki",), 2.5))
    facts = tokenize(paths, tmp_path / "t", TokenOptions("bytes", context=8, sources=sources), QUIET)
    assert facts["documents_by_source"]["Wikipedia"] == pytest.approx(2500, abs=50)
    assert facts["documents_by_source"]["CC"] == pytest.approx(250, abs=45)
    with pytest.raises(InputError, match="no source has a marker"):
        tokenize(paths, tmp_path / "u", TokenOptions("bytes", context=8, sources=sources[:1]), QUIET)


@given(st.integers(1, 300), st.text(max_size=5))
def test_permutations_are_permutations(count, key):
    assert sorted(permuted(place, count, key) for place in range(count)) == list(range(count))


def test_mixing_is_exact_in_every_block(tmp_path):
    official(tmp_path / "a", [300])
    official(tmp_path / "b", [40, 60])
    tokens = MixedTokens([tmp_path / "a", tmp_path / "b"], [0.75, 0.25], seed=3)
    places = [tokens.place(number) for number in range(2048)]
    for block in range(2):
        counts = Counter(place.source for place in places[1024 * block : 1024 * (block + 1)])
        assert counts == {0: 768, 1: 256}
    for source, size in ((0, 300), (1, 100)):
        epochs = Counter(place.epoch for place in places if place.source == source)
        for epoch, count in epochs.items():
            seen = [p.sequence for p in places if (p.source, p.epoch) == (source, epoch)]
            assert len(set(seen)) == count and (count == size or epoch == max(epochs))
    first, second = ([p.sequence for p in places if (p.source, p.epoch) == (1, epoch)] for epoch in (0, 1))
    assert first != second and sorted(first) == sorted(second)
    assert tokens.passes(1024) == pytest.approx([768 / 300, 2.56])


def test_the_order_does_not_depend_on_hosts(token_folder):
    tokens = MixedTokens([token_folder], seed=5)
    alone = TokenBatches(tokens, 8, 512)
    pairs = [TokenBatches(tokens, 8, 512, (rank, 2)) for rank in range(2)]
    for _ in range(3):
        whole = next(alone)
        assert np.array_equal(whole, np.concatenate([next(part) for part in pairs]))
    later = TokenBatches(tokens, 8, 512, (1, 4))
    later.restore(alone.state)
    assert np.array_equal(next(later), next(alone)[2:4])
    for batches in (alone, *pairs, later):
        batches.close()


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["dclm", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def test_the_command_writes_shards_and_a_record(monkeypatch, capsys, tmp_path):
    path = texts_of(tmp_path, "a", ["some text"] * 50)
    arguments = (
        "tokenize",
        path,
        "--out",
        tmp_path / "t",
        "--tokenizer",
        "bytes",
        "--context",
        17,
        "--json",
        "--quiet",
    )
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    assert json.loads(out)["num_sequences"] == 29
    record = json.loads((tmp_path / "t" / "dataset.json").read_text())
    assert record["tokenized"] and record["num_tokens"] == 29 * 17 and record["uuid"]
    (tmp_path / "t" / "manifest.jsonl").unlink()
    assert run(monkeypatch, capsys, "manifest", tmp_path / "t")[0] == 0
    assert len(TokenShards(tmp_path / "t")) == 29
    status, _, err = run(monkeypatch, capsys, *arguments)
    assert status == 2 and "go on with --resume" in err


def break_tar(folder):
    (folder / "00000001.tar").unlink()


def break_count(folder):
    text = (folder / "manifest.jsonl").read_text()
    (folder / "manifest.jsonl").write_text(text.replace('"num_sequences": 3', '"num_sequences": 2'))


def break_member(folder):
    content = bytearray((folder / "00000000.tar").read_bytes())
    content[520:540] = bytes(20)
    (folder / "00000000.tar").write_bytes(content)


def break_end(folder):
    content = (folder / "00000000.tar").read_bytes()
    (folder / "00000000.tar").write_bytes(content[: 3 * 1024 - 400])


def break_manifest(folder):
    (folder / "manifest.jsonl").write_text('{"shard": "00000000"}\n')


# What is broken, the model's context and vocabulary, the sentence (the order).
REFUSED = {
    "missing tar": (break_tar, 4, 512, "00000001.tar, which is missing"),
    "cut tar": (break_end, 4, 512, "00000000.tar"),
    "damaged member": (break_member, 4, 512, "00000000.tar: member 0 is damaged"),
    "manifest disagrees": (break_count, 4, 512, "holds 3 sequences; the manifest says 2"),
    "manifest without counts": (break_manifest, 4, 512, "line 1 lacks `shard` or `num_sequences`"),
    "context length": (None, 8, 512, "have 5 ids; the model's context length asks for 9"),
    "token over the vocabulary": (None, 4, 3, "holds the token id 4; the model's vocabulary has 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_shards_get_one_sentence(tmp_path, case):
    change, context, vocabulary, sentence = REFUSED[case]
    official(tmp_path / "s", [3, 2])
    if change:
        change(tmp_path / "s")
    with pytest.raises(InputError, match=sentence):
        MixedTokens([tmp_path / "s"]).check(context, vocabulary)


def test_too_little_text_is_refused(tmp_path):
    path = texts_of(tmp_path, "a", ["short"])
    with pytest.raises(InputError, match="fewer than 100 tokens"):
        tokenize([path], tmp_path / "t", TokenOptions("bytes", context=100), QUIET)


def test_unknown_tokenizers_are_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    for name in ("nowhere/nothing", str(tmp_path)):
        with pytest.raises(InputError, match="no tokenizer"):
            load_tokenizer(name)
