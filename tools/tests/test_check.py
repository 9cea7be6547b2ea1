"""The check: tests are counted over all parts, and what does not run needs a reason."""

import json
import os
import subprocess
import sys

import pytest
from tenfold_tools import check, versions
from tenfold_tools.check import CheckConfig, Tally

TESTS = """
import pytest

def test_passes():
    pass

def test_fails():
    assert False

@pytest.mark.skip(reason="x")
def test_skipped():
    pass

@pytest.mark.xfail(reason="x")
def test_expected_to_fail():
    assert False

@pytest.mark.slow
def test_slow():
    pass

@pytest.fixture
def broken():
    yield
    raise OSError("x")

def test_breaks_afterwards(broken):
    pass
"""
SETTINGS = "[tool.pytest.ini_options]\naddopts = \"-m 'not slow'\"\nmarkers = ['slow']\n"


@pytest.fixture
def project(tmp_path):
    """A folder with one test of each outcome."""
    (tmp_path / "pyproject.toml").write_text(SETTINGS)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_gone.py").write_text("import pytest\n\npytest.skip('x', allow_module_level=True)\n")
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    return tmp_path


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_account_has_every_outcome(project, workers):
    environment = {**os.environ, "TENFOLD_ACCOUNT": str(project / "account.json")}
    command = [sys.executable, "-m", "pytest", "-p", "tenfold_tools.account", "-n", workers, "-q"]
    command.append("--continue-on-collection-errors")
    subprocess.run(command, cwd=project, env=environment, capture_output=True)
    account = json.loads((project / "account.json").read_text())
    assert account == {
        "passed": ["test_it.py::test_passes"],
        "failed": ["test_broken.py", "test_it.py::test_breaks_afterwards", "test_it.py::test_fails"],
        "skipped": ["test_gone.py", "test_it.py::test_skipped"],
        "xfailed": ["test_it.py::test_expected_to_fail"],
        "deselected": ["test_it.py::test_slow"],
    }


def test_pytest_is_counted(project, capfd):
    tally = Tally()
    check.pytest(project, tally, "-n", "0", "test_it.py")
    assert (tally.passed, tally.failed) == (1, 2)
    check.pytest(project, tally, "-n", "0", "-m", "slow", "test_it.py")
    assert (tally.passed, tally.failed) == (2, 2)
    assert "test_it.py::test_slow" in tally.ran
    (project / "pyproject.toml").write_text("not toml")
    check.pytest(project, tally, "test_it.py")
    assert tally.failed == 3, "a crash is a failure"


def _tally() -> Tally:
    tally = Tally(ran={"a.py::test_slow"})
    tally.left_out = {
        "a.py::test_slow": "deselected",
        "a.py::test_weekly[x]": "deselected",
        "a.py::test_skipped": "skipped",
    }
    return tally


def test_what_one_part_leaves_to_another_has_run():
    problems = check.allowance_problems(_tally(), [], whole=True)
    assert [problem.split(";")[0] for problem in problems] == [
        "a.py::test_skipped was skipped",
        "a.py::test_weekly[x] was deselected",
    ]


def test_reasons_allow_and_rows_without_use_fail():
    rows = [
        {"id": "a.py::test_weekly[*]", "reason": "20 min"},
        {"id": "a.py::test_skipped", "reason": "no such machine"},
        {"id": "a.py::test_gone", "reason": "x"},
    ]
    assert check.allowance_problems(_tally(), rows, whole=True) == [
        "tests/allowed.toml: nothing needs `a.py::test_gone`"
    ]
    rows[1]["reason"] = " "
    assert any("test_skipped was skipped" in line for line in check.allowance_problems(_tally(), rows, whole=True))


def test_a_part_alone_cannot_tell_what_others_run():
    problems = check.allowance_problems(_tally(), [{"id": "unused", "reason": "x"}], whole=False)
    assert [problem.split()[0] for problem in problems] == ["a.py::test_skipped"]


@pytest.mark.parametrize(
    ("good", "status", "last"), [(True, 0, "2 passed, 0 failed"), (False, 1, "1 passed, 1 failed")]
)
def test_the_last_line_counts(tmp_path, monkeypatch, capsys, good, status, last):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/allowed.toml").write_text("")
    (tmp_path / "pyproject.toml").write_text("[tool.uv.workspace]\nmembers = []\n")
    monkeypatch.setitem(check.PARTS, "lint", (lambda root, tally: tally.note("x", good=good), 2))
    assert check.run(CheckConfig(only=("lint",)), tmp_path) == status
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == last
    assert "0.0 min of 2" in lines[-3]


def test_the_parts_share_thirty_minutes():
    assert tuple(check.PARTS) == CheckConfig().only
    assert sum(minutes for _, minutes in check.PARTS.values()) <= 30


def test_a_tool_that_fails_shows_why(tmp_path, capfd):
    tally = Tally()
    check._run("good", [sys.executable, "-c", "print('quiet')"], tmp_path, tally)
    check._run("bad", [sys.executable, "-c", "import sys; sys.exit('the reason')"], tmp_path, tally)
    output = capfd.readouterr().out
    assert (tally.passed, tally.failed) == (1, 1)
    assert "the reason" in output
    assert "quiet" not in output


def test_other_versions_are_shown(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools/versions.txt").write_text("numpy==2.0.0\ntorch==2.9.0\n")
    monkeypatch.setattr(versions, "resolve", lambda root: "numpy==2.1.0\ntorch==2.9.0\n")
    lines = versions.difference(tmp_path)
    assert lines[-3:-1] == ["-numpy==2.0.0", "+numpy==2.1.0"]
    assert "python -m tenfold_tools.versions" in lines[-1]
    monkeypatch.setattr(versions, "resolve", lambda root: "numpy==2.0.0\ntorch==2.9.0\n")
    assert versions.difference(tmp_path) == []
