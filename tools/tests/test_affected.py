"""The matrix of the continuous integration: a change tests what it can break, and no more."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tenfold_tools import affected
from tenfold_tools.affected import Member

MEMBERS = {
    member.folder: member
    for member in [
        Member("packages/fast", "fast", frozenset({"tenfold-shared", "mobile-torch"})),
        Member("packages/mobile", "Mobile_Torch", frozenset({"tenfold-shared", "torch"})),
        Member("packages/plain", "plain", frozenset({"numpy"})),
        Member("shared", "tenfold-shared", frozenset({"numpy"})),
        Member("tools", "tenfold-tools", frozenset({"tenfold-shared"})),
    ]
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([], []),
        (["packages/plain/src/plain/model.py"], ["packages/plain"]),
        (["packages/fast/README.md"], ["packages/fast"]),
        (["packages/mobile/tests/test_model.py"], ["packages/fast", "packages/mobile"]),
        (["shared/src/tenfold_shared/claims.py"], ["packages/fast", "packages/mobile", "shared", "tools"]),
        (["tools/versions.txt"], sorted(MEMBERS)),
        (["pyproject.toml"], sorted(MEMBERS)),
        (["tests/contract.py"], sorted(MEMBERS)),
        ([".github/workflows/ci.yml"], sorted(MEMBERS)),
        (["packages/plain/a.py", "packages/fast/a.py"], ["packages/fast", "packages/plain"]),
        (["packages/removed/a.py"], sorted(MEMBERS)),
    ],
)
def test_a_change_selects_its_package_and_dependents(files, expected):
    assert affected.affected(files, MEMBERS) == expected


def test_the_real_graph_has_every_member():
    members = affected.read_members(Path(__file__).resolve().parents[2])
    packages = [folder for folder in members if folder.startswith("packages/")]
    assert {"shared", "tools"} < set(members)
    assert affected.affected(["shared/x.py"], members) == sorted([*packages, "shared", "tools"])
    for folder in packages:
        assert folder in affected.affected([f"{folder}/x.py"], members)


def _repository(top: Path) -> Path:
    (top / "packages/one").mkdir(parents=True)
    (top / "packages/two").mkdir(parents=True)
    (top / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["packages/*"]\n')
    (top / "packages/one/pyproject.toml").write_text('[project]\nname = "one"\n')
    (top / "packages/two/pyproject.toml").write_text(
        '[project]\nname = "two"\n[project.optional-dependencies]\nx = ["One[y]>=1"]'
    )
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", *command], cwd=top, check=True)
    return top


def _listed(capsys) -> list[str]:
    return json.loads(capsys.readouterr().out)


def test_the_working_tree_is_compared_with_the_base(tmp_path, capsys):
    top = _repository(tmp_path)
    assert affected.run(affected.AffectedConfig("HEAD"), top) == 0
    assert _listed(capsys) == []
    (top / "packages/one/new.py").write_text("x = 1\n")
    affected.run(affected.AffectedConfig("HEAD"), top)
    assert _listed(capsys) == ["packages/one", "packages/two"]
    (top / "packages/one/new.py").rename(top / "packages/two/new.py")
    affected.run(affected.AffectedConfig("HEAD"), top)
    assert _listed(capsys) == ["packages/two"]


@pytest.mark.parametrize("base", ["all", "0" * 40, "no-such-branch", "--output=x"])
def test_an_unknown_base_tests_everything(tmp_path, capsys, base):
    affected.run(affected.AffectedConfig(base), _repository(tmp_path))
    assert _listed(capsys) == ["packages/one", "packages/two"]
    assert not (tmp_path / "x").exists()


def test_it_runs_before_anything_is_installed():
    command = [sys.executable, "-I", "-S", affected.__file__, "all"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "shared" in json.loads(result.stdout)


def test_a_line_that_names_nothing_is_refused():
    with pytest.raises(ValueError, match=r"`>=1` is not a requirement"):
        affected.requirement_name(">=1")
