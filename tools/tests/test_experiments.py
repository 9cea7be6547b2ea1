"""`tenfold reproduce` on real little experiments: crashes, hangs, interruptions, resuming."""

import html
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tenfold_shared.claims import read_claims

GOOD = """
def reproduce(out, *, budget, seed):
    print("training", file=sys.stderr)
    logging.getLogger(__name__).info("a line of its own")
    logging.getLogger("some.library").info("chatter")
    (out / "calls.txt").open("a").write(f"{budget} {seed}\\n")
    return [claim(__package__, [0.5 + seed], [0.4], budget=budget)]
"""
SLOW = """
def reproduce(out, *, budget, seed):
    (out / "started").write_text(str(os.getpid()))
    while (Path(__file__).parent / "slow").exists():
        time.sleep(0.05)
    return [claim(__package__, [0.5], [0.4])]
"""
FAILURES = {
    "raises": ("raise RuntimeError('no luck')", "exit status 1 (RuntimeError: no luck)"),
    "segfaults": ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
    "is_killed": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by signal 9"),
    "exits_early": ("sys.exit(0)", "its process ended without writing its claims"),
    "no_claims": ("return []", "returned no claims"),
    "another_name": ("return [claim('other', [1.0], [0.5])]", "name another paper (other)"),
    "no_figure": (
        "return [claim('no_figure', [1.0], [0.5], figures=('a.svg',))]",
        "not in its output folder: a.svg",
    ),
    "twice": ("return 2 * [claim('twice', [1.0], [0.5])]", "stated twice"),
}


def wait_for(path_pattern: str, root: Path) -> Path:
    """Wait until a file exists."""
    for _ in range(600):
        if found := list(root.glob(path_pattern)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {path_pattern} under {root}")


def is_running(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_run_writes_page_results_and_table(papers, tmp_path):
    papers.install("good", GOOD)
    done = papers.run("reproduce", "good", "--out", tmp_path / "report", "--seed", 3)
    assert done.returncode == 0, done.stderr
    assert "a line of its own" in done.stderr and "chatter" not in done.stderr
    assert "good | training" in done.stderr and "[1/1] good: done in" in done.stderr
    assert "Ours beats the control" in done.stdout and "direction only" in done.stdout
    [claim] = read_claims(tmp_path / "report" / "results.json")
    assert claim.ours.per_seed == (3.5,)
    page = (tmp_path / "report" / "index.html").read_text()
    assert "Ours beats the control" in page and "tenfold reproduce good --budget full" in page
    [log] = (tmp_path / "report" / "runs" / "good").glob("*/log.txt")
    assert "training" in log.read_text()


@pytest.fixture(scope="module")
def failures(tmp_path_factory, make_papers):
    """One run of every failing paper and then a good one: exit status, stderr, page, claims."""
    folder = tmp_path_factory.mktemp("failures")
    papers = make_papers(folder / "site")
    for name, (body, _) in FAILURES.items():
        papers.install(name, f"def reproduce(out, *, budget, seed):\n    {body}\n")
    papers.install("good", GOOD)
    report = folder / "report"
    done = papers.run("reproduce", *FAILURES, "good", "--out", report)
    return (
        done.returncode,
        done.stderr,
        (report / "index.html").read_text(),
        read_claims(report / "results.json"),
    )


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_reported(failures, name):
    _, errors, page, _ = failures
    sentence = FAILURES[name][1]
    [line] = [line for line in errors.splitlines() if f"{name}: FAILED" in line]
    assert sentence in line and "log.txt" in line
    assert sentence in html.unescape(page)


def test_failures_stop_nobody(failures):
    status, _, _, claims = failures
    assert status == 1
    assert [claim.paper for claim in claims] == ["good"]


def test_a_package_that_cannot_be_imported_fails_alone(papers, tmp_path):
    package = papers.install("bad", GOOD)
    (package / "__init__.py").write_text("raise OSError('broken install')")
    papers.install("good", GOOD)
    done = papers.run("reproduce", "bad", "good", "--out", tmp_path / "report", "--quiet")
    assert done.returncode == 1
    assert "broken install" in done.stderr and "good" not in done.stderr
    assert "Its recorded run cannot be shown: OSError: broken install" in (tmp_path / "report/index.html").read_text()


def test_a_hang_is_stopped_with_all_its_processes_and_says_where_it_hung(papers, tmp_path):
    papers.install(
        "hang",
        """
        import subprocess
        def reproduce(out, *, budget, seed):
            child = subprocess.Popen(["sleep", "300"])
            (out / "child").write_text(str(child.pid))
            def wait_for_ever():
                time.sleep(300)
            wait_for_ever()
        """,
    )
    report = tmp_path / "report"
    done = papers.run("reproduce", "hang", "--out", report, "--timeout-seconds", 4)
    assert done.returncode == 1
    assert "stopped after its limit of 4 s" in done.stderr
    assert "in wait_for_ever" in (report / "index.html").read_text()
    assert not is_running(int(wait_for("runs/hang/*/child", report).read_text()))


def test_what_is_finished_is_not_run_again(papers, tmp_path):
    package = papers.install("good", GOOD)
    report = tmp_path / "report"

    def calls(*more: object) -> list[int]:
        done = papers.run("reproduce", "good", "--out", report, "--json", *more)
        assert len(json.loads(done.stdout)) == 1, done.stderr
        return sorted(len(path.read_text().splitlines()) for path in report.glob("runs/good/*/calls.txt"))

    assert calls() == [1]
    assert calls() == [1], "an equal run is reused"
    (package / "data.txt").write_text("changed")
    assert calls() == [1, 1], "a file of the package has changed"
    assert calls("--fresh") == [1, 1], "--fresh starts from an empty folder"


def test_damaged_claims_are_run_again(papers, tmp_path):
    papers.install("good", GOOD)
    report = tmp_path / "report"
    papers.run("reproduce", "good", "--out", report)
    wait_for("runs/good/*/claims.json", report).write_text("{")
    done = papers.run("reproduce", "good", "--out", report)
    assert done.returncode == 0
    assert "cannot be used" in done.stderr and "Traceback" not in done.stderr
    assert len(read_claims(report / "results.json")) == 1


def test_ctrl_c_leaves_a_report_and_the_way_to_go_on(papers, tmp_path):
    papers.install("good", GOOD)
    flag = papers.install("later", SLOW) / "slow"
    flag.touch()
    report = tmp_path / "report"
    process = papers.start("reproduce", "good", "later", "--out", report)
    worker = int(read_when_full(wait_for("runs/later/*/started", report)))
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in errors.split("interrupted;")[-1]
    assert f"Continue with: tenfold reproduce good later --budget laptop --seed 0 --out {report}" in errors
    assert not is_running(worker)
    assert "Interrupted before its end" in (report / "index.html").read_text()
    assert [claim.paper for claim in read_claims(report / "results.json")] == ["good"]
    flag.unlink()
    done = papers.run("reproduce", "good", "later", "--out", report)
    assert done.returncode == 0 and "good: finished before" in done.stderr
    assert len(read_claims(report / "results.json")) == 2


def test_kill_9_loses_nothing_finished_and_leaves_no_worker(papers, tmp_path):
    papers.install("good", GOOD)
    papers.install("later", SLOW)
    (papers.site / "later" / "slow").touch()
    report = tmp_path / "report"
    process = papers.start("reproduce", "good", "later", "--out", report)
    worker = int(read_when_full(wait_for("runs/later/*/started", report)))
    process.kill()
    process.communicate(timeout=30)
    for _ in range(100):
        if not is_running(worker):
            break
        time.sleep(0.05)
    assert not is_running(worker)
    assert [claim.paper for claim in read_claims(report / "results.json")] == ["good"]
    done = papers.run("reproduce", "good", "--out", report)
    assert done.returncode == 0 and "good: finished before" in done.stderr


def read_when_full(path: Path) -> str:
    """Read a file once its writer has written something."""
    while not (text := path.read_text()):
        time.sleep(0.01)
    return text


def test_two_runs_do_not_share_a_report(papers, tmp_path):
    (papers.install("later", SLOW) / "slow").touch()
    report = tmp_path / "report"
    process = papers.start("reproduce", "later", "--out", report)
    wait_for("runs/later/*/started", report)
    second = papers.run("reproduce", "later", "--out", report)
    process.kill()
    process.communicate(timeout=30)
    assert second.returncode == 2
    assert "another run is writing" in second.stderr


BAD_INPUT = {
    "an unknown paper": (["reproduce", "goood"], "unknown paper 'goood'; did you mean 'good'? Known: good"),
    "an unknown benchmark": (["bench", "goood"], "unknown paper 'goood'; did you mean 'good'?"),
    "a negative seed": (["reproduce", "good", "--seed", "-1"], "`seed` (=-1) must be"),
    "no time": (["reproduce", "good", "--timeout-seconds", "0"], "`timeout_seconds` (=0) must be above 0"),
    "a file as folder": (["reproduce", "good", "--out", __file__], "choose another --out"),
    "an unknown budget": (["reproduce", "good", "--budget", "huge"], "huge"),
}


@pytest.mark.parametrize("what", BAD_INPUT)
def test_bad_input_is_one_line_and_exit_2(papers, tmp_path, what):
    papers.install("good", GOOD)
    arguments, sentence = BAD_INPUT[what]
    done = papers.run(*arguments, *([] if "--out" in arguments else ["--out", tmp_path / "report"]))
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("verb", [[], ["reproduce"], ["bench"]])
def test_help_imports_nothing_heavy(verb):
    code = f"import sys; sys.argv = ['tenfold', *{verb}, '--help']\nfrom tenfold_tools.cli import main\n" + (
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'numpy', 'jinja2', 'matplotlib', 'torch', 'jax'} & set(sys.modules)\nassert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: tenfold" in done.stdout


def test_a_terminal_gets_a_status_line(papers, tmp_path):
    papers.install("good", GOOD.replace("print", "time.sleep(1.2); print"))
    main, terminal = os.openpty()
    command = [sys.executable, "-m", "tenfold_tools", "reproduce", "good", "--out", tmp_path / "report"]
    environment = os.environ | {"PYTHONPATH": str(papers.site)}
    process = subprocess.Popen(command, stderr=terminal, stdout=subprocess.DEVNULL, env=environment)
    os.close(terminal)
    process.wait(60)
    text = os.read(main, 100_000).decode()
    os.close(main)
    assert "\r\x1b[K[1/1] good: " in text and "left" in text
