"""Kills, torn rows and hostile archives."""

import io
import json
import os
import random
import signal
import stat
import subprocess
import sys
import tarfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tenfold_shared.files import append_jsonl, atomic_write, cache_dir, extract_tar, read_jsonl, write_json

IN_THE_BLOCK = """
import sys, time
from tenfold_shared.files import atomic_write
with atomic_write(sys.argv[1], "w") as file:
    file.write("new" * 100_000)
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
"""
BEFORE_THE_RENAME = """
import os, sys, time
from tenfold_shared.files import atomic_write
def stop(*_):
    print("ready", flush=True)
    time.sleep(60)
os.replace = stop
with atomic_write(sys.argv[1], "w") as file:
    file.write("new" * 100_000)
"""
FOR_EVER = """
import itertools, sys
from tenfold_shared.files import atomic_write
for version in itertools.count():
    with atomic_write(sys.argv[1], "w") as file:
        for _ in range(2000):
            file.write(f"{version}\\n")
    print(version, flush=True)
"""
ROWS_FOR_EVER = """
import itertools, sys
from tenfold_shared.files import append_jsonl
for step in itertools.count(int(sys.argv[2])):
    append_jsonl(sys.argv[1], {"step": step, "text": "x" * 5000})
    print(step, flush=True)
"""


def start(script, *arguments):
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("script", [IN_THE_BLOCK, BEFORE_THE_RENAME])
def test_kill_leaves_the_old_file_whole(script, tmp_path):
    target = tmp_path / "state.txt"
    target.write_text("old")
    process = start(script, target)
    assert process.stdout.readline() == "ready\n"
    kill(process)
    assert target.read_text() == "old"


@pytest.mark.parametrize("seed", range(5))
def test_kill_at_any_moment_leaves_one_whole_version(seed, tmp_path):
    target = tmp_path / "state.txt"
    process = start(FOR_EVER, target)
    process.stdout.readline()
    time.sleep(random.Random(seed).uniform(0, 0.1))
    kill(process)
    lines = target.read_text().splitlines()
    assert len(lines) == 2000 and len(set(lines)) == 1


def test_kill_among_rows_loses_at_most_the_last(tmp_path):
    path, next_step = tmp_path / "rows.jsonl", 0
    for seed in range(3):
        process = start(ROWS_FOR_EVER, path, next_step)
        process.stdout.readline()
        time.sleep(random.Random(seed).uniform(0, 0.05))
        kill(process)
        steps = [row["step"] for row in read_jsonl(path)]
        assert steps == list(range(len(steps))) and len(steps) > next_step
        next_step = len(steps)


def test_error_in_the_block_leaves_nothing_behind(tmp_path):
    target = tmp_path / "state.bin"
    target.write_bytes(b"old")
    with pytest.raises(RuntimeError), atomic_write(target) as file:
        file.write(b"new")
        raise RuntimeError
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state.bin"]


def test_atomic_write_makes_folders_and_keeps_permissions(tmp_path):
    target = tmp_path / "a" / "b" / "state.txt"
    with atomic_write(target, "w") as file:
        file.write("ü\n")
    assert target.read_bytes() == b"\xc3\xbc\n"
    assert stat.S_IMODE(target.stat().st_mode) == 0o666 & ~current_umask()
    target.chmod(0o600)
    with atomic_write(target) as file:
        file.write(b"x")
    assert stat.S_IMODE(target.stat().st_mode) == 0o600


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_atomic_write_follows_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    with atomic_write(tmp_path / "link.txt", "w") as file:
        file.write("new")
    assert (tmp_path / "link.txt").is_symlink() and (tmp_path / "real.txt").read_text() == "new"


def test_atomic_write_refuses_other_modes(tmp_path):
    with pytest.raises(ValueError, match="`mode`"), atomic_write(tmp_path / "x", "a"):  # ty: ignore
        pass


def test_json_without_nan(tmp_path):
    write_json(tmp_path / "x.json", {"a": [1, "é"]})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": [1, "é"]}
    before = (tmp_path / "x.json").read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_jsonl(tmp_path / "x.json", {"a": float("inf")})
    assert (tmp_path / "x.json").read_bytes() == before


@pytest.mark.parametrize("cut", range(1, 12))
def test_torn_last_line_is_dropped(cut, tmp_path):
    path = tmp_path / "rows.jsonl"
    for step in (1, 2):
        append_jsonl(path, {"step": step})  # twelve bytes a line
    path.write_bytes(path.read_bytes()[:-cut])
    rows = [{"step": 1}, {"step": 2}] if cut == 1 else [{"step": 1}]  # only the newline is missing
    assert read_jsonl(path) == rows
    append_jsonl(path, {"step": 3})
    assert read_jsonl(path) == [*rows, {"step": 3}]
    assert path.read_bytes().endswith(b'{"step": 3}\n')


def test_torn_first_line_leaves_an_empty_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"st')
    append_jsonl(path, {"step": 1})
    assert path.read_text() == '{"step": 1}\n'


def test_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match="line 2 is not a JSON object"):
        read_jsonl(tmp_path / "rows.jsonl")


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "mine"))
    assert cache_dir("a", "b") == tmp_path / "mine" / "a" / "b"
    assert (tmp_path / "mine" / "a" / "b").is_dir()
    monkeypatch.delenv("TENFOLD_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_dir() == tmp_path / "user" / "tenfold"
    for part in ("../x", "/x", "a/../../x"):
        with pytest.raises(ValueError, match="plain relative name"):
            cache_dir(part)


def member(name, kind=tarfile.REGTYPE, link="", data=b"payload"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = len(data) if kind == tarfile.REGTYPE else 0
    return info, data


def make_tar(path, *members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_extract_tar(mode, tmp_path):
    folder = member("images", tarfile.DIRTYPE)
    archive = make_tar(tmp_path / "ok.tar", folder, member("images/a.txt"), member("./b.txt"), mode=mode)
    extract_tar(archive, tmp_path / "out")
    assert (tmp_path / "out" / "images" / "a.txt").read_bytes() == b"payload"
    assert (tmp_path / "out" / "b.txt").read_bytes() == b"payload"


@pytest.mark.parametrize(
    ("hostile", "sentence"),
    [
        (member("../evil"), "would leave the folder"),
        (member("a/../../evil"), "would leave the folder"),
        (member("/tmp/evil"), "would leave the folder"),
        (member("link", tarfile.SYMTYPE, "/etc/passwd"), "is a link or a device"),
        (member("link", tarfile.SYMTYPE, "good.txt"), "is a link or a device"),
        (member("link", tarfile.LNKTYPE, "good.txt"), "is a link or a device"),
        (member("null", tarfile.CHRTYPE), "is a link or a device"),
        (member("disk", tarfile.BLKTYPE), "is a link or a device"),
        (member("pipe", tarfile.FIFOTYPE), "is a link or a device"),
    ],
)
def test_hostile_tar_extracts_nothing(hostile, sentence, tmp_path):
    archive = make_tar(tmp_path / "x.tar", member("good.txt"), hostile)
    with pytest.raises(ValueError, match=sentence) as caught:
        extract_tar(archive, tmp_path / "deep" / "out")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["x.tar"]


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b\x08garbage"])
def test_no_tar(content, tmp_path):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(ValueError, match="not a whole tar archive"):
        extract_tar(tmp_path / "x.tar", tmp_path / "out")


def test_missing_tar(tmp_path):
    with pytest.raises(FileNotFoundError):
        extract_tar(tmp_path / "none.tar", tmp_path / "out")


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_damaged_tar_is_refused_or_read_never_a_strange_error(mode, tmp_path):
    archive = make_tar(tmp_path / "x.tar", member("a.txt", data=bytes(range(256)) * 8), mode=mode)
    whole = archive.read_bytes()

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, len(whole) - 1), st.integers(1, 255), st.integers(0, len(whole)))
    def damage(place, flip, length):
        broken = bytearray(whole)
        broken[place] ^= flip
        archive.write_bytes(bytes(broken[:length]))
        try:
            extract_tar(archive, tmp_path / "out")
        except ValueError as error:
            assert str(archive) in str(error)

    damage()
