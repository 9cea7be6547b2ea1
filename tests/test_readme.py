"""README files: sections in order, tables from the recorded runs, and code that runs as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import contract
import pytest
from contract import ROOT, ROWS
from tenfold_tools import overview, tables

# Why a block is not run: it is written after `console` in the block's first line.
REASONS = {
    "check": "`tenfold check` or .ci/run does it, in other words",
    "gpu": "needs a GPU",
    "hours": "takes hours",
    "hub": "downloads from a hub",
    "release": "needs a published release",
    "weights": "needs the authors' weights",
}
READMES = [ROOT / "README.md", ROOT / "shared/README.md", ROOT / "tools/README.md"]
READMES += [ROOT / "packages" / row.folder / "README.md" for row in ROWS]
each_readme = pytest.mark.parametrize("file", READMES, ids=lambda file: file.parent.name)
each_package = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Return the fenced blocks of a Markdown text as `(first line after the fence, content)`."""
    return re.findall(r"^```([^\n]+)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def block_problems(text: str) -> list[str]:
    """Return the blocks that neither run nor say why not."""
    problems = ["a block without a language"] if len(re.findall(r"^```", text, re.M)) % 2 else []
    for head, content in code_blocks(text):
        language, _, reason = head.strip().partition(" ")
        if language == "console" and reason not in REASONS:
            problems.append(f"`{content.splitlines()[0]}`: write `console` with one of {', '.join(REASONS)}")
        elif language not in ("console", "bash", "python", "text", "bibtex", "json", "mermaid"):
            problems.append(f"`{language}` is no language of our README files")
    return problems


@each_readme
def test_each_block_runs_or_says_why_not(file):
    assert block_problems(file.read_text()) == []


@each_readme
@pytest.mark.slow
def test_blocks_run_as_printed(file, tmp_path):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"HF_HUB_OFFLINE": "1", "TENFOLD_CACHE": str(tmp_path / "cache")}
    folder = tmp_path / "run"
    folder.mkdir()
    for head, content in code_blocks(file.read_text()):
        programs = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
        if head.strip() in programs:
            command = [*programs[head.strip()], content]
            result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            assert result.returncode == 0, f"{content}\n{result.stdout}\n{result.stderr}"


@each_package
def test_sections_are_those_of_every_package(row):
    text = (ROOT / "packages" / row.folder / "README.md").read_text()
    assert contract.readme_section_problems(text) == []


@each_package
def test_tables_are_those_of_the_recorded_run(row):
    text = (ROOT / "packages" / row.folder / "README.md").read_text()
    recorded = tables.recorded_file(ROOT / "packages" / row.folder)
    assert text == tables.fill(text, recorded), "write it anew: uv run python -m tenfold_tools.tables"


def test_tables_of_the_top_readme_are_those_of_the_recorded_runs():
    text = (ROOT / "README.md").read_text()
    assert text == overview.fill(text, ROOT), "write it anew: uv run python -m tenfold_tools.tables"


def test_blocks_that_hide_from_the_tests_are_found():
    text = "```console\n$ rm x\n```\n```console gpu\n$ train\n```\n```sh\nls\n```\n```bash\nls\n```\n"
    assert block_problems(text) == [
        "`$ rm x`: write `console` with one of check, gpu, hours, hub, release, weights",
        "`sh` is no language of our README files",
    ]


def test_wrong_sections_are_found():
    good = "# X\n\nNot by, and not affiliated with the authors.\n\n" + "".join(
        f"## {name}\n\n```bash\n## a comment\n```\n\n" for name in contract.README_SECTIONS
    )
    assert contract.readme_section_problems(good) == []
    swapped = good.replace("## Use", "## Y").replace("## Install", "## Use").replace("## Y", "## Install")
    assert contract.readme_section_problems(swapped)[0].startswith("sections are in the order ['Use', 'Install'")
    assert contract.readme_section_problems(good.replace("## Scale", "## Sizes")) == [
        "no section `## Scale`",
        "section `## Sizes` is none of a package's README",
    ]
    assert "not affiliated" in contract.readme_section_problems(good.replace("affiliated", "x"))[0]
