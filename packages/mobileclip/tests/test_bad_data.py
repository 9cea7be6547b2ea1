"""The issue's list of bad data, in its order: one sentence, the good samples kept and counted."""

import json
import os
import sys
import tarfile

import make_data
import numpy as np
import pytest
from mobileclip import cli
from mobileclip.data import Tally, scan_tar

GOOD = ["--teachers", "make_data:colours", "--num-augmentations", "2", "--image-size", "16"]


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["mobileclip", *map(str, arguments), "--quiet", "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return end.value.code or 0, output.out, output.err


def write_tar(path, rows):
    import webdataset

    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for key, members in rows:
            writer.write({"__key__": key, **members})


def rows(count=6):
    return [(f"s{i}", {"png": make_data.picture(i), "txt": f"caption {i}".encode()}) for i in range(count)]


def corrupt(folder):
    """A header in the middle is overwritten."""
    write_tar(folder / "data.tar", rows())
    with tarfile.open(folder / "data.tar") as archive:
        offset = next(member.offset_data - 512 for member in archive if member.name == "s2.png")
    with open(folder / "data.tar", "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * 400)


def traversal(folder):
    write_tar(folder / "data.tar", [*rows(5), ("../../evil", {"png": make_data.picture(9), "txt": b"evil"})])


def no_caption(folder):
    samples = rows()
    del samples[1][1]["txt"]
    samples[3][1]["txt"] = b"  "
    write_tar(folder / "data.tar", samples)


def not_finite(folder):
    write_tar(folder / "data.tar", rows())


# What is made, the teacher, how many samples are kept, and what the sentence says.
COUNTED = {
    "a corrupt tar member": (corrupt, "colours", 5, "dropped: damaged tar (data.tar is damaged at byte"),
    "tar names with path traversal": (traversal, "colours", 5, "'../../evil.png' would leave the folder"),
    "missing captions": (no_caption, "colours", 4, "2 dropped: no caption (data.tar: s1 has no caption)"),
    "NaN embeddings": (not_finite, "broken", 5, "1 dropped: NaN embeddings (s2 has embeddings that are not finite)"),
}


@pytest.mark.parametrize("case", COUNTED)
def test_good_samples_are_kept_and_counted(monkeypatch, capsys, tmp_path, case):
    make, teacher, kept, sentence = COUNTED[case]
    make(tmp_path)
    arguments = ["reinforce", tmp_path / "data.tar", "--out", tmp_path / "out", *GOOD]
    arguments[arguments.index("make_data:colours")] = f"make_data:{teacher}"
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 0, err
    assert json.loads(out)["kept"] == kept
    assert sentence in err and len(err.splitlines()) == 1
    status, out, _ = run(monkeypatch, capsys, "validate", tmp_path / "out")
    assert (status, json.loads(out)["kept"]) == (0, kept)
    assert {path.name for path in tmp_path.iterdir()} == {"data.tar", "out"}


def reinforced(folder, monkeypatch, capsys, count=6):
    write_tar(folder / "data.tar", rows(count))
    status, _, err = run(monkeypatch, capsys, "reinforce", folder / "data.tar", "--out", folder / "dr", *GOOD)
    assert status == 0, err
    return folder / "dr"


def rewrite(folder, change):
    """Rewrite a set's shard with one sample changed."""
    path = folder / "data.tar"
    found, samples = scan_tar(path, Tally()), []
    with open(path, "rb") as file:
        samples = [(entry.key, {name: entry.read(file, name) for name in entry.spans}) for entry in found]
    change(samples[3][1])
    write_tar(path, samples)


def fewer_augmentations(members):
    members["paug.json"] = json.dumps({"param_aug": json.loads(members["paug.json"])["param_aug"][:1]}).encode()


def change_embeddings(members, change):
    import io

    with np.load(io.BytesIO(members["npz"])) as arrays:
        changed = {name: change(arrays[name]) for name in arrays}
    buffer = io.BytesIO()
    np.savez(buffer, **changed)
    members["npz"] = buffer.getvalue()


FOUND = {
    "a wrong number of augmentations": (
        fewer_augmentations,
        "s3 has 1 augmentations and 2 image embeddings, expected 2",
    ),
    "NaN embeddings": (lambda m: change_embeddings(m, lambda x: x * np.nan), "s3 has embeddings that are not finite"),
    "a teacher of another width": (
        lambda m: change_embeddings(m, lambda x: x[:, :4]),
        "s3 has embeddings of width 4 and 4, expected 8",
    ),
}


@pytest.mark.parametrize("case", FOUND)
def test_the_validator_finds_it_and_training_goes_on_without(monkeypatch, capsys, tmp_path, case):
    change, sentence = FOUND[case]
    folder = reinforced(tmp_path, monkeypatch, capsys)
    rewrite(folder, change)
    status, out, err = run(monkeypatch, capsys, "validate", folder)
    assert status == 1 and json.loads(out)["kept"] == 5
    assert sentence in err and len(err.splitlines()) == 1
    arguments = ["--batch-size", 6, "--num-steps", 1]
    status, out, err = run(monkeypatch, capsys, "train", "--data", folder, "--out", tmp_path / "run", *arguments)
    assert status == 0, err
    assert "a bad sample is left out" in err and sentence in err


def test_images_that_cannot_be_joined(monkeypatch, capsys, tmp_path):
    folder = reinforced(tmp_path, monkeypatch, capsys)
    (tmp_path / "images").mkdir()
    write_tar(tmp_path / "images/data.tar", rows(4))
    status, out, err = run(
        monkeypatch, capsys, "join", folder, "--images", tmp_path / "images", "--out", tmp_path / "joined"
    )
    assert status == 0 and json.loads(out)["kept"] == 4
    assert "2 dropped: image not joined (data.tar: s4 has no image with a caption" in err
    (tmp_path / "none").mkdir()
    status, _, err = run(
        monkeypatch, capsys, "join", folder, "--images", tmp_path / "none", "--out", tmp_path / "nothing"
    )
    assert status == 2 and "no image could be joined" in err and len(err.splitlines()) == 1


def test_a_full_disk_in_the_middle_of_a_shard(monkeypatch, capsys, tmp_path):
    """The system refuses the bytes of the second shard: the first is whole and counted, nothing else is left."""
    lines = ["uid,caption,path", *(f"u{i},caption {i},{i}.png" for i in range(6))]
    (tmp_path / "data.csv").write_text("\n".join(lines))
    for i in range(6):
        (tmp_path / f"{i}.png").write_bytes(make_data.picture(i))
    arguments = ["reinforce", tmp_path / "data.csv", "--out", tmp_path / "out", *GOOD, "--samples-per-shard", 3]
    real, full = os.fsync, []

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}") if os.path.exists("/proc/self/fd") else ""
        if "00000001.tar" in name:
            full.append(name)
            raise OSError(28, "No space left on device")
        return real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        status, out, err = run(monkeypatch, capsys, *arguments)
    assert full and (status, out, len(err.splitlines())) == (2, "", 1)
    assert "the disk is full; whole shards with 3 samples are kept" in err and "--resume" in err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000000.tar", "config.json", "tallies"]
    status, out, err = run(monkeypatch, capsys, *arguments, "--resume")
    assert status == 0 and json.loads(out)["kept"] == 6, err


REFUSED = {
    "no such source": (["reinforce", "none.csv", "--out", "out", *GOOD], "no data at none.csv"),
    "an unknown teacher": (["reinforce", "data.tar", "--out", "out", "--teachers", "clip"], "unknown teacher 'clip'"),
    "a function that is not there": (
        ["reinforce", "data.tar", "--out", "out", "--teachers", "make_data:none"],
        "no function 'make_data:none'",
    ),
    "a set without shards": (["validate", "."], "no .tar shards in"),
    "distilling from plain data": (["train", "--data", "plain", "--out", "out"], "is not reinforced"),
    "fp16 on a CPU": (
        ["train", "--data", "plain", "--out", "out", "--precision", "fp16", "--device", "cpu"],
        "needs a GPU",
    ),
    "nothing to evaluate": (["evaluate"], "give a folder or --results FILE"),
    "an empty query": (["search", ".", " "], "the query is empty"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, case):
    arguments, sentence = REFUSED[case]
    (tmp_path / "plain").mkdir()
    if case != "a set without shards":
        write_tar(tmp_path / "data.tar", rows(2))
        write_tar(tmp_path / "plain/data.tar", rows(2))
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*.tar"))
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert (status, out, len(err.splitlines())) == (2, "", 1), err
    assert sentence in err and err.startswith("mobileclip: error: ")
    assert sorted(tmp_path.rglob("*.tar")) == before


def test_a_torn_tar_keeps_what_is_whole(tmp_path):
    write_tar(tmp_path / "data.tar", rows())
    content, whole = (tmp_path / "data.tar").read_bytes(), scan_tar(tmp_path / "data.tar", Tally())
    for share in (0.3, 0.5, 0.7):
        (tmp_path / "torn.tar").write_bytes(content[: int(len(content) * share)])
        tally = Tally()
        found = scan_tar(tmp_path / "torn.tar", tally)
        assert 0 < len(found) < len(whole) and found[:-1] == whole[: len(found) - 1]
        assert tally.dropped["damaged tar"] == 1
