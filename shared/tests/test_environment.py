"""Seeds, and reports that say what ran without saying who or where."""

import getpass
import os
import platform
import random
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from tenfold_shared.environment import environment_report, git_commit, seed_everything, switch_off_telemetry


def draws():
    return random.random(), float(np.random.rand())


def test_seeds_repeat():
    seed_everything(3)
    first = draws()
    assert draws() != first
    seed_everything(3)
    assert draws() == first
    seed_everything(4)
    assert draws() != first


def test_torch_is_not_imported_to_be_seeded():
    code = "import sys, tenfold_shared; tenfold_shared.seed_everything(1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_torch_is_seeded_when_it_is_there(monkeypatch):
    seeds = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(manual_seed=seeds.append))
    seed_everything(5)
    assert seeds == [5]


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seed_out_of_range(seed):
    with pytest.raises(ValueError, match="`seed`"):
        seed_everything(seed)


def test_report():
    report = environment_report("pytest", "no-such-distribution")
    assert report["python"] == platform.python_version()
    assert report["versions"]["numpy"] == np.__version__
    assert report["versions"]["pytest"] == pytest.__version__
    assert "no-such-distribution" not in report["versions"]
    assert 1 <= report["cores"] <= os.cpu_count()
    assert report["cpu"] and report["commit"]
    text = repr(report)
    assert platform.node() not in text and os.getcwd() not in text
    assert f"/{getpass.getuser()}" not in text


def test_threads_are_torchs_or_the_environments(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert environment_report()["threads"] == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert environment_report()["threads"] is None


@pytest.fixture
def checkout(tmp_path):
    if shutil.which("git") is None:
        raise RuntimeError("these tests need git")
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "x")
    return tmp_path


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_commit(checkout):
    head = git(checkout, "rev-parse", "HEAD")
    assert git_commit(checkout / "code.py") == head
    (checkout / "code.py").write_text("x = 2\n")
    assert git_commit(checkout / "code.py") == f"{head}-dirty"


def test_file_that_is_not_of_the_checkout_has_no_commit(checkout):
    """A wheel in an environment below some repository must not report that repository's commit."""
    (checkout / "installed.py").touch()
    assert git_commit(checkout / "installed.py") == "unknown"


def test_outside_a_checkout(tmp_path):
    (tmp_path / "code.py").touch()
    assert git_commit(tmp_path / "code.py") == "unknown"


def test_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown"


def test_telemetry_is_off_unless_the_user_wants_it(monkeypatch):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    monkeypatch.setenv("WANDB_MODE", "online")
    switch_off_telemetry()
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["WANDB_MODE"] == "online"
