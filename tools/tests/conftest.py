"""Small papers, installed for real: packages with dist-info and entry points in a folder on PYTHONPATH."""

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

HEADER = """
import logging, os, signal, sys, time
from pathlib import Path
from tenfold_shared.claims import ClaimResult, PaperValue

def claim(paper, ours, control, text="Ours beats the control", budget="laptop", **more):
    fields = dict(primary_metric="accuracy", paper_value=PaperValue(0.8, "80 %", "Table 1", "V"), minimum_effect=0.1,
                  control_name="plain", evidence="synthetic", data="numbers made here", commit="0" * 40, seconds=1.0)
    return ClaimResult.compare(paper=paper, claim=text, ours=ours, control=control, budget=budget, **fields | more)
"""


class Papers:
    """Installs papers into a folder and runs `tenfold` with that folder on its path."""

    def __init__(self, site: Path) -> None:
        self.site = site
        site.mkdir()
        for entry in entry_points(group="tenfold.experiments"):
            self.hide(entry.dist.name)

    def hide(self, dist: str) -> None:
        """Shadow an installed paper: of two distributions with one name, the first on the path counts."""
        info = self.site / f"{dist.replace('-', '_')}-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {dist}\nVersion: 0\n")

    def install(self, name: str, body: str, *, recorded: dict | None = None, requires: tuple[str, ...] = ()) -> Path:
        """Install package `name` with `body` as its reproduce (and benchmark) module; return its folder."""
        package = self.site / name
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "reproduce.py").write_text(HEADER + textwrap.dedent(body))
        if recorded:
            (package / "results").mkdir()
            (package / "results" / "recorded.json").write_text(json.dumps(recorded))
        info = self.site / f"{name}-0.1.0.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
        summary = f"Summary: A small paper called {name}\n"
        (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: 0.1.0\n{summary}{needs}")
        groups = {"tenfold.experiments": "reproduce", "tenfold.benchmarks": "benchmark"}
        entries = [f"[{group}]\n{name} = {name}.reproduce:{function}\n" for group, function in groups.items()]
        (info / "entry_points.txt").write_text("\n".join(entries))
        return package

    def start(self, *arguments: object) -> subprocess.Popen:
        """Start `tenfold` in a process of its own."""
        environment = os.environ | {"PYTHONPATH": str(self.site)}
        command = [sys.executable, "-m", "tenfold_tools", *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)

    def run(self, *arguments: object) -> subprocess.CompletedProcess:
        """Run `tenfold` to its end."""
        with self.start(*arguments) as process:
            output, errors = process.communicate(timeout=100)
        return subprocess.CompletedProcess(arguments, process.returncode, output, errors)


@pytest.fixture(scope="session")
def make_papers() -> type[Papers]:
    """For fixtures that outlive one test."""
    return Papers


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    """An empty folder to install papers into."""
    return Papers(tmp_path / "site")
