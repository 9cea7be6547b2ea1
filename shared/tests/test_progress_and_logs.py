"""What a terminal, a log file and the other ranks get to see."""

import io
import json
import logging
import math
import os
import subprocess
import sys
import time

import numpy as np
import pytest
from tenfold_shared import progress as progress_module
from tenfold_shared.files import read_jsonl
from tenfold_shared.logs import MetricsWriter, setup_logging
from tenfold_shared.progress import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def hurry(monkeypatch):
    """The waiting times of a log, a hundredth of what they are; and no command was quiet before."""
    monkeypatch.delenv("TENFOLD_QUIET", raising=False)
    monkeypatch.setattr(progress_module, "SILENT_SECONDS", 0.02)
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0.05)


def work(seconds, **options):
    return list(progress((time.sleep(seconds) or i for i in range(10)), total=10, description="reading", **options))


def test_lines_in_a_log(hurry, capsys):
    assert work(0.03, unit="images") == list(range(10))
    out, text = capsys.readouterr()
    assert out == "" and "\r" not in text
    *before, last = text.splitlines()
    assert before and all(line.endswith(" left") and "images/s" in line for line in before)
    assert last.startswith("reading: 10/10 images, ")


def test_bar_on_a_terminal(hurry, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    work(0.03)
    assert "\r" in terminal.getvalue() and "100%" in terminal.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_short_work_is_silent(stream, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    work(0.001)
    assert sys.stderr.getvalue() == ""  # ty: ignore[unresolved-attribute]


@pytest.mark.parametrize("quiet", [True, False])
def test_a_quiet_command_is_silent_everywhere(quiet, hurry, monkeypatch, capsys):
    setup_logging(quiet=not quiet)
    setup_logging(quiet=quiet)
    work(0.03)
    seen = "import sys, time\nfrom tenfold_shared import progress as p\np.SILENT_SECONDS = 0\n"
    seen += "for _ in p.progress([1], description='there'): time.sleep(0.01)"
    child = subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True)
    monkeypatch.setenv("TENFOLD_QUIET", "0")
    assert (capsys.readouterr().err == "") == (child.stderr == "") == quiet


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_quiet_and_other_ranks_are_silent(stream, hurry, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    work(0.03, quiet=True)
    monkeypatch.setenv("RANK", "1")
    work(0.03)
    assert sys.stderr.getvalue() == ""  # ty: ignore[unresolved-attribute]


def test_counting_by_hand(hurry, capsys):
    with progress(description="waiting", unit="tokens") as bar:
        for _ in range(5):
            time.sleep(0.03)
            bar.update(100)
    assert "waiting: 500/? tokens" in capsys.readouterr().err


def logged(*lines, rank="0", setup=""):
    """Standard error of a process that sets up logging and says the lines."""
    code = f"import logging\nfrom tenfold_shared.logs import setup_logging\nsetup_logging({setup})\n" + "\n".join(lines)
    environment = {**os.environ, "RANK": rank}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == ""
    return [line[9:] for line in done.stderr.splitlines()]  # without the time


LEVELS = ("debug", "info", "warning", "error")
SAY = [f"logging.getLogger('{x}').{level}('%s', '{x} {level}')" for x in ("ours", "other") for level in LEVELS]


@pytest.mark.parametrize(
    ("setup", "rank", "expected"),
    [
        ("", "0", "ours info|ours warning|ours error|other info|other warning|other error"),
        ("quiet=True, verbose=True", "0", "ours warning|ours error|other warning|other error"),
        ("package='ours'", "0", "ours info|ours warning|ours error|other warning|other error"),
        (
            "verbose=True, package='ours'",
            "0",
            "ours debug|ours info|ours warning|ours error|other warning|other error",
        ),
        ("", "1", "ours error|other error"),
        ("verbose=True, package='ours'", "1", "ours error|other error"),
    ],
)
def test_levels(setup, rank, expected):
    lines = [line.removeprefix("warning: ").removeprefix("error: ") for line in logged(*SAY, rank=rank, setup=setup)]
    assert lines == expected.split("|")


def test_levels_are_named_from_warnings_up_and_tracebacks_kept():
    failure = "try: 1/0\nexcept Exception: logging.exception('c')"
    lines = logged("logging.info('a')", "logging.warning('b')", failure)
    assert lines[:3] == ["a", "warning: b", "error: c"]
    assert lines[-1].endswith("Error: division by zero")


def test_setting_up_twice_says_things_once():
    assert logged("setup_logging()", "logging.info('once')") == ["once"]
    assert logged("setup_logging(quiet=True)", "logging.info('now unwanted')") == []


def test_metrics_rows(tmp_path):
    writer = MetricsWriter(tmp_path / "run" / "metrics.jsonl")
    writer.write(1, {"train/loss": np.float32(2.5), "tokens": 7, "note": "start"})
    writer.write(2, {"train/loss": math.nan})
    first, second = read_jsonl(writer.path)
    assert abs(first.pop("time") - time.time()) < 60
    assert first == {"step": 1, "train/loss": 2.5, "tokens": 7, "note": "start"}
    assert second["train/loss"] is None
    assert json.loads(writer.path.read_text().splitlines()[0])["tokens"] == 7


def test_resume_rewrites_only_what_came_after_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.truncate_after(0)
    assert not writer.path.exists()
    for step in range(1, 6):
        writer.write(step, {"loss": 1.0 / step})
    rows = read_jsonl(writer.path)
    writer.path.write_bytes(writer.path.read_bytes() + b'{"step": 6, "lo')
    MetricsWriter(writer.path).truncate_after(3)
    assert read_jsonl(writer.path) == rows[:3]
    writer.write(4, {"loss": 0.25})
    assert [row["step"] for row in read_jsonl(writer.path)] == [1, 2, 3, 4]


def test_log_lines_do_not_tear_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress_module, "SILENT_SECONDS", 0.0)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        setup_logging()
        for _ in progress(range(2), description="reading"):
            logging.getLogger("x").warning("look")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert all(part.rstrip("\n").endswith("look") for part in terminal.getvalue().split("\r") if "look" in part)
