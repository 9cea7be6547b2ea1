"""Releases: what stands against one is found, versions only rise, and the local steps really run."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from tenfold_tools import affected, release, wheels
from tenfold_tools.release import ReleaseConfig

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = "# Changelog\n\n## 0.10.0 (2026-11-30)\n\n- Faster.\n\n## 0.1.0\n\nFirst.\n\n### Experiments\n\nNone.\n"
PYPROJECT = """\
[project]
name = "{dist}"
version = "0.10.0"
dependencies = [{needs}]

[tool.uv.build-backend]
module-name = "{module}"
"""


@pytest.fixture
def workspace(tmp_path):
    """A repository with both publishable members and no tag."""
    (tmp_path / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["packages/*", "shared"]\n')
    rows = [
        ("shared", "tenfold-shared", "tenfold_shared", ""),
        ("packages/mobileclip", "mobileclip-torch", "mobileclip", '"tenfold-shared[clip]>=0.1,<0.2"'),
    ]
    for folder, dist, module, needs in rows:
        (tmp_path / folder).mkdir(parents=True)
        content = PYPROJECT.format(dist=dist, module=module, needs=needs)
        (tmp_path / folder / "pyproject.toml").write_text(content)
        (tmp_path / folder / "CHANGELOG.md").write_text(CHANGELOG)
    _git(tmp_path, "init", "-q")
    _git(tmp_path, "add", "-A")
    _git(tmp_path, "commit", "-qm", "start")
    return tmp_path


def _git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", *identity, "-C", str(folder), *arguments], check=True)


def _plan(workspace, capsys, dist="tenfold-shared", tag="") -> tuple[int, str]:
    status = release.run(ReleaseConfig("plan", dist, tag=tag), workspace)
    return status, capsys.readouterr().out


def test_every_member_is_published_or_private():
    private = {"tenfold-tools"}
    members = {member.dist for member in affected.read_members(ROOT).values()}
    assert set(release.PUBLISHABLE) == members - private, "add the new package to release.PUBLISHABLE"


def test_a_name_that_is_not_ours_is_refused(workspace):
    with pytest.raises(ValueError, match="`mobileclip` may not be published; these may: dataset-decomposition, dclm, "):
        release.run(ReleaseConfig("plan", "mobileclip"), workspace)


def test_a_plan_without_problems(workspace, capsys):
    assert _plan(workspace, capsys, tag="tenfold-shared-v0.10.0") == (0, "tenfold-shared-v0.10.0: ready\n")


def test_a_tag_of_another_version_stops_the_plan(workspace, capsys):
    status, output = _plan(workspace, capsys, tag="tenfold-shared-v0.1.0")
    assert status == 1
    assert "tag `tenfold-shared-v0.1.0` does not fit version 0.10.0" in output


@pytest.mark.parametrize("text", ["", "# Changelog\n\n## 0.1.0\n\nFirst.\n", "## 0.10.0\n\n## 0.1.0\n\nFirst.\n"])
def test_a_version_without_changelog_stops_the_plan(workspace, capsys, text):
    (workspace / "shared/CHANGELOG.md").write_text(text)
    status, output = _plan(workspace, capsys)
    assert status == 1
    assert "CHANGELOG.md has no section `## 0.10.0`" in output


def test_an_unreleased_lower_bound_stops_the_plan(workspace, capsys):
    status, output = _plan(workspace, capsys, "mobileclip-torch")
    assert status == 1
    assert "no tag `tenfold-shared-v0.1.0`" in output
    _git(workspace, "tag", "tenfold-shared-v0.1.0")
    assert _plan(workspace, capsys, "mobileclip-torch")[0] == 0


def test_a_workspace_requirement_without_lower_bound_is_refused(workspace):
    file = workspace / "packages/mobileclip/pyproject.toml"
    file.write_text(file.read_text().replace(">=0.1,<0.2", ""))
    with pytest.raises(ValueError, match="without a lower bound"):
        release.run(ReleaseConfig("plan", "mobileclip-torch"), workspace)


@pytest.mark.parametrize(
    ("version", "step", "expected"),
    [
        ("0.1.9", "patch", "0.1.10"),
        ("0.1.9", "minor", "0.2.0"),
        ("0.1.9", "major", "1.0.0"),
        ("0.1.9", "0.10.0", "0.10.0"),
    ],
)
def test_the_next_version(version, step, expected):
    assert release.next_version(version, step) == expected


@pytest.mark.parametrize("step", ["0.1.9", "0.1.8", "1.0", "1.0.0rc1", "next"])
def test_a_version_that_is_not_later_is_refused(step):
    with pytest.raises(ValueError, match="must be"):
        release.next_version("0.1.9", step)


def test_bump_opens_a_section_that_has_to_be_filled(workspace, capsys):
    assert release.run(ReleaseConfig("bump", "tenfold-shared", version="minor"), workspace) == 0
    assert 'version = "0.11.0"' in (workspace / "shared/pyproject.toml").read_text()
    text = (workspace / "shared/CHANGELOG.md").read_text()
    assert text.index("## 0.11.0 (20") < text.index("## 0.10.0 (2026-11-30)")
    assert _plan(workspace, capsys)[0] == 1, "an empty section is not a changelog"


def test_notes_are_the_section_of_the_version(workspace, capsys):
    release.run(ReleaseConfig("notes", "tenfold-shared"), workspace)
    assert capsys.readouterr().out == "- Faster.\n"
    assert release.changelog_section(CHANGELOG, "0.1.0") == "First.\n\n### Experiments\n\nNone."
    assert release.changelog_section(CHANGELOG, "0.1") == ""


def _wheel(file: Path, *names: str, requirement: str = "numpy>=2") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x-0.1.0.dist-info/METADATA", f"Name: x\nRequires-Dist: {requirement}\n\ntext")
        for name in names:
            archive.writestr(name, "")
    return file


def test_a_good_wheel_has_no_problems(tmp_path):
    names = ("x/__init__.py", "x/py.typed", "x-0.1.0.dist-info/licenses/LICENSE")
    assert wheels.wheel_problems(_wheel(tmp_path / "good.whl", *names)) == []


def test_what_is_wrong_with_a_wheel_is_named(tmp_path):
    names = ("x/__init__.py", "tests/conftest.py", "x/tests/test_a.py", "x/a.pyc")
    wheel = _wheel(tmp_path / "bad.whl", *names, requirement="other @ file:///somewhere")
    problems = "; ".join(wheels.wheel_problems(wheel))
    for part in ("['tests', 'x']", "py.typed", "licence", "x/tests/test_a.py", "x/a.pyc", "by address"):
        assert part in problems


def test_a_source_distribution_must_be_testable(tmp_path):
    (tmp_path / "README.md").write_text("x")
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "README.md", "x-0.1.0/README.md")
    problems = wheels.sdist_problems(tmp_path / "x.tar.gz")
    assert problems[0] == "no pyproject.toml in the sdist"
    assert problems[-1] == "no tests in the sdist"
    assert not any("README" in problem for problem in problems)


def test_a_failing_command_shows_its_last_words(tmp_path):
    with pytest.raises(RuntimeError, match=r"ended with 3:\nlast words"):
        wheels.run_quietly(
            [sys.executable, "-c", "import sys; print('last words', file=sys.stderr); sys.exit(3)"], tmp_path
        )


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("dist", release.PUBLISHABLE)
def test_dry_run_of_the_local_steps(dist, tmp_path, capfd):
    assert release.run(ReleaseConfig("check", dist, out=str(tmp_path))) == 0
    output = capfd.readouterr().out
    assert output.count("PASSED") >= 2
    assert "installed alone and used" in output


@pytest.mark.parametrize(("body", "status"), [("assert True", 0), ("assert False", 1)])
def test_the_tests_of_a_source_distribution_run_without_the_marked_ones(workspace, monkeypatch, body, status):
    ini = '[tool.pytest.ini_options]\nmarkers = ["slow: takes long"]\n'
    pyproject = workspace / "shared/pyproject.toml"
    pyproject.write_text(pyproject.read_text() + ini)
    tests = f"import pytest\n\ndef test_it():\n    {body}\n\n@pytest.mark.slow\ndef test_long():\n    assert False\n"
    asked = []

    def build(root, project, out):
        top = out / "made/tenfold_shared-0.10.0"
        (top / "tests").mkdir(parents=True)
        (top / "tests/test_it.py").write_text(tests)
        (top / "pyproject.toml").write_text(pyproject.read_text())
        with tarfile.open(out / "tenfold_shared-0.10.0.tar.gz", "w:gz") as archive:
            archive.add(top, "tenfold_shared-0.10.0")

    def install(requirements, wheelhouse, folder, constraints):
        asked.extend(requirements)
        return Path(sys.executable)

    monkeypatch.setattr(release, "build", build)
    monkeypatch.setattr(wheels, "install_alone", install)
    assert release.run(ReleaseConfig("test", "tenfold-shared"), workspace) == status
    assert asked == ["tenfold-shared==0.10.0"]
