"""The contract suite: what every package keeps, so that a reader who knows one knows the next."""

import importlib
import importlib.metadata
import inspect
import shutil
import subprocess
import sys
from pathlib import Path

import contract
import pytest
from contract import HEAVY, ROOT, ROWS
from tenfold_shared.claims import ClaimResult, read_recorded
from tenfold_tools import house_metrics

MEMBERS = ("tenfold_shared", *(row.module for row in ROWS))
each_package = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)

# Answers the arguments after it as the command would, then says which heavy modules that has imported.
ANSWER = """
import sys
from importlib.metadata import entry_points
name, heavy, sys.argv = sys.argv[1], sys.argv[2].split(","), sys.argv[1:2] + sys.argv[3:]
main = next(iter(entry_points(group="console_scripts", name=name))).load()
try:
    status = main()
except SystemExit as end:
    status = end.code
print("IMPORTED", [module for module in heavy if module in sys.modules])
sys.exit(status)
"""


def _answer(command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", ANSWER, command, ",".join(HEAVY), *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_every_package_has_a_row():
    assert contract.row_problems(ROOT) == []


def test_a_folder_without_a_row_fails(tmp_path):
    for row in ROWS:
        shutil.copytree(ROOT / "packages" / row.folder / "src", tmp_path / "packages" / row.folder / "src")
    assert contract.row_problems(tmp_path) == []
    (tmp_path / "packages" / "newcomer").mkdir()
    assert contract.row_problems(tmp_path) == ["packages/newcomer has no row in tests/contract.py"]
    shutil.rmtree(tmp_path / "packages" / ROWS[0].folder)
    assert f"the row {ROWS[0].folder} has no folder in packages/" in contract.row_problems(tmp_path)


@each_package
def test_help_answers_without_heavy_imports(row):
    for arguments in ([], *([verb] for verb in row.verbs)):
        result = _answer(row.command, *arguments, "--help")
        assert result.returncode == 0, result.stderr
        assert "usage" in result.stdout.lower()
        assert result.stdout.splitlines()[-1] == "IMPORTED []", arguments
    top = _answer(row.command, "--help").stdout
    assert all(verb in top for verb in row.verbs)
    assert top.count(f"{row.command} ") >= 3, "three or four examples that can be run"


def test_help_of_tenfold_answers_without_heavy_imports():
    for arguments in ([], ["reproduce"], ["bench"], ["check"], ["affected"], ["release"]):
        result = _answer("tenfold", *arguments, "--help")
        assert result.returncode == 0, result.stderr
        assert result.stdout.splitlines()[-1] == "IMPORTED []", arguments


@each_package
def test_bad_options_end_with_status_2(row):
    result = _answer(row.command, "no-such-verb")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("module", MEMBERS)
def test_importing_is_light(module):
    code = f"import {module}, sys; print([name for name in {HEAVY} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MEMBERS)
def test_public_names_are_few_and_documented(module):
    imported = importlib.import_module(module)
    names = imported.__all__
    assert 4 <= len(names) <= 10
    assert imported.__doc__ and "    " in imported.__doc__, "an example of about five lines"
    problems = []
    for name in names:
        value = getattr(imported, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            problems += house_metrics.docstring_problems(Path(inspect.getfile(value)), {value.__name__})
    assert problems == []
    assert set(names) <= set(dir(imported))
    with pytest.raises(AttributeError, match="no_such_name"):
        imported.no_such_name  # noqa: B018


@pytest.mark.parametrize("module", MEMBERS)
def test_the_version_is_that_of_the_distribution(module):
    dists = {row.module: row.dist for row in ROWS}
    version = importlib.metadata.version(dists.get(module, "tenfold-shared"))
    assert importlib.import_module(module).__version__ == version


@each_package
def test_presets_build(row):
    presets = importlib.import_module(f"{row.module}.config").PRESETS
    assert presets
    for name, preset in presets.items():
        assert isinstance(name, str)
        assert type(preset).__dataclass_params__.frozen
        assert preset == type(preset)(**vars(preset)), "validated again, nothing changed"


@each_package
def test_presets_need_nothing_but_the_standard_library(row):
    code = (
        f"import runpy, sys; before = set(sys.modules); runpy.run_path({str(row.source() / 'config.py')!r});"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    result = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@each_package
def test_what_is_saved_is_loaded(row, tmp_path):
    row.round_trip(tmp_path)


@each_package
def test_layout(row):
    assert contract.layout_problems(row) == []


@each_package
def test_project_file(row):
    assert contract.project_problems(row) == []


@pytest.mark.parametrize("folder", ["shared", *(f"packages/{row.folder}" for row in ROWS)])
def test_changelog_starts_with_the_version(folder):
    assert contract.changelog_problems(ROOT / folder) == []


@each_package
def test_entry_points_lead_to_functions(row):
    for group in ("tenfold.experiments", "tenfold.benchmarks"):
        entries = [entry for entry in importlib.metadata.entry_points(group=group) if entry.name == row.module]
        assert len(entries) == 1
        parameters = inspect.signature(entries[0].load()).parameters
        assert list(parameters) == ["out", "budget", "seed"]
        kinds = {parameters[name].kind for name in ("budget", "seed")}
        assert kinds == {inspect.Parameter.KEYWORD_ONLY}


@each_package
def test_recorded_results_are_whole_claims_at_full_budget(row):
    record = read_recorded(row.module) or {"claims": []}
    claims = [ClaimResult.from_dict(claim) for claim in record["claims"]]
    assert {claim.budget for claim in claims} <= {"full"}
    assert {claim.paper for claim in claims} <= {row.module}


def test_a_broken_layout_is_found(tmp_path):
    row = ROWS[0]
    folder = tmp_path / "packages" / row.folder
    source = row.source(tmp_path)
    source.mkdir(parents=True)
    (folder / "notes.txt").touch()
    (source / "utils.py").touch()
    problems = contract.layout_problems(row, tmp_path)
    for part in (
        "notes.txt does not belong",
        "no README.md",
        "no module cli",
        "no py.typed",
        "utils.py says nothing",
    ):
        assert any(part in problem for problem in problems), part


def test_a_changelog_of_another_version_is_found(tmp_path):
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    assert contract.changelog_problems(tmp_path) == ["CHANGELOG.md has no entry"]
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## 0.1.0 (2026-11-30)\n")
    assert contract.changelog_problems(tmp_path) == ["the top entry is 0.1.0, the version 0.2.0"]
