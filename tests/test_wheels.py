"""Every wheel alone: installed in a new environment outside the checkout, it does its smallest real job, offline."""

import subprocess
from pathlib import Path

import pytest
from contract import ROOT, ROWS
from tenfold_tools import release, wheels

# Python imports it at every start, that of commands of the environment too.
OFFLINE = """
import sys

LOCAL = (None, "", "localhost", "127.0.0.1", "::1")

def refuse(event, arguments):
    if event == "socket.getaddrinfo" and arguments[0] not in LOCAL:
        raise PermissionError(f"no network here: {arguments[0]}")
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in LOCAL:
        raise PermissionError(f"no network here: {arguments[1]}")

sys.addaudithook(refuse)
"""


def cut_off(python: Path) -> None:
    """Let an environment's Python reach nothing beyond this machine."""
    [packages] = python.parents[1].glob("lib/python3*/site-packages")
    (packages / "sitecustomize.py").write_text(OFFLINE)
    asked = [str(python), "-I", "-c", "import socket; socket.create_connection(('example.org', 80))"]
    refused = subprocess.run(asked, capture_output=True, text=True)
    assert "no network here: example.org" in refused.stderr


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory):
    """Folder with the wheels of all that we publish."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    for dist in release.PUBLISHABLE:
        release.build(ROOT, release.read_project(ROOT, dist), folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)
def test_a_wheel_works_alone(row, wheelhouse, tmp_path):
    project = release.read_project(ROOT, row.dist)
    requirement = f"{project.dist}=={project.version}"
    python = wheels.install_alone([requirement], wheelhouse, tmp_path, ROOT / "tools/versions.txt")
    cut_off(python)
    wheels.use_alone(python, project.dist, project.module)
    wheels.run_quietly([str(python), "-I", "-c", row.alone], tmp_path)
    listed = wheels.run_quietly(["uv", "pip", "list", "--python", str(python), "--format", "freeze"], tmp_path)
    ours = {line.split("==")[0] for line in listed.splitlines()} & set(release.PUBLISHABLE)
    # fastvlm builds on mobileclip-torch; no other package needs one of ours beside the shared part.
    needed = {row.dist, "tenfold-shared"} | ({"mobileclip-torch"} if row.dist == "fastvlm" else set())
    assert ours == needed, "nothing of ours but what it needs"
    assert "tenfold-tools" not in listed


@pytest.mark.slow
def test_the_shared_wheel_works_alone(wheelhouse, tmp_path):
    project = release.read_project(ROOT, "tenfold-shared")
    requirement = f"{project.dist}=={project.version}"
    python = wheels.install_alone([requirement], wheelhouse, tmp_path, ROOT / "tools/versions.txt")
    wheels.use_alone(python, project.dist, project.module)
    listed = wheels.run_quietly(["uv", "pip", "list", "--python", str(python), "--format", "freeze"], tmp_path)
    assert {line.split("==")[0] for line in listed.splitlines()} == {"numpy", "tenfold-shared", "tqdm"}
