"""Rules of the repository as a whole: what lies where, what must never be in it, how large things may be."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from contract import ROOT, ROWS
from tenfold_tools import affected, house_metrics

TOP_LEVEL = {
    ".ci",
    ".github",
    ".gitignore",
    "LICENSE",
    "README.md",
    "packages",
    "pyproject.toml",
    "shared",
    "tests",
    "tools",
}
MEMBERS = affected.read_members(ROOT)
# Put together here so that this file does not hold what it looks for.
HOSTS = [
    f"{name}.{end}" for name, end in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"))
]
HOSTS += ["download." + "pytorch", "conda." + "anaconda", "index" + "-url", "mirror" + "list"]
MACHINE_PATH = re.compile(r"(?<![\w.~$}/-])/(?:work|root|home|Users)/\w")
TEST_SETTINGS = ("JAX_PLATFORMS", "HF_HUB_OFFLINE", "MPLBACKEND", "TOKENIZERS_PARALLELISM")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True).stdout


def _files() -> list[str]:
    """Paths that are committed, or would be by `git add -A`."""
    listed = _git("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    return sorted(path for path in set(listed.split("\0")) if path and (ROOT / path).is_file())


def _text(path: str) -> str:
    content = (ROOT / path).read_bytes()
    return "" if b"\0" in content else content.decode("utf-8", "replace")


PYTHON = [path for path in _files() if path.endswith(".py")]
SOURCES = [path for path in PYTHON if "/src/" in path]


def test_the_top_level_holds_what_it_should():
    assert {path.split("/")[0] for path in _files()} == TOP_LEVEL


def test_the_lock_is_not_committed():
    assert _git("ls-files", "uv.lock") == ""
    assert _git("check-ignore", "uv.lock", "report/index.html").split() == ["uv.lock", "report/index.html"]


def test_no_address_of_a_registry():
    found = [(path, host) for path in _files() for host in HOSTS if host in _text(path)]
    assert found == []


def test_no_path_of_a_machine():
    found = [(path, match.group()) for path in _files() for match in MACHINE_PATH.finditer(_text(path))]
    assert found == []


def test_no_large_file():
    """Data that a package's own experiment needs may ship inside it as a file of at most 4 MB."""
    assert [path for path in _files() if (ROOT / path).stat().st_size > 4_000_000] == []


def test_the_versions_name_no_address_and_none_of_us():
    text = (ROOT / "tools/versions.txt").read_text()
    assert "://" not in text
    names = re.findall(r"^([a-z0-9-]+)==", text, flags=re.MULTILINE)
    assert len(names) > 50
    assert not {affected.normalise(member.dist) for member in MEMBERS.values()} & set(names)
    assert text.count("--hash=sha256:") >= len(names)


def test_boundaries_between_modules():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_every_package_is_in_the_boundaries():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    contracts = {contract["id"]: contract for contract in settings["contracts"]}
    modules = {row.module for row in ROWS}
    assert set(settings["root_packages"]) == modules | {"tenfold_shared", "tenfold_tools"}
    assert modules <= set(contracts["shared-stays-small"]["forbidden_modules"])
    assert modules <= set(contracts["tools-find-packages"]["forbidden_modules"])
    assert modules == set(contracts["packages-stand-alone"]["source_modules"])
    assert modules == {name for contract in contracts.values() for name in contract.get("containers", [])}


def test_files_and_functions_are_small():
    reasons = house_metrics.explained(ROOT)
    found = [excess for path in PYTHON for excess in house_metrics.file_report(ROOT / path, path)[1]]
    assert [excess for excess in found if "lines" in excess.what and excess.where not in reasons] == []


def test_shared_stays_small():
    lines = [line for path in SOURCES if path.startswith("shared/") for line in _text(path).splitlines()]
    assert sum(bool(line.strip()) for line in lines) <= house_metrics.MAX_SHARED_LINES


def unsafe_calls(source: str) -> list[str]:
    """Return the calls in a source that could run code from data."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            always = (
                "pickle.load",
                "pickle.loads",
                "pickle.Unpickler",
                "dill.load",
                "joblib.load",
                "os.system",
            )
            if (
                name in (*always, "eval", "exec", "yaml.load", "marshal.loads", "shelve.open")
                or options.get("weights_only") == "False"
                or (name == "torch.load" and options.get("weights_only") != "True")
                or options.get("allow_pickle") == "True"
                or options.get("shell", "False") != "False"
                or options.get("trust_remote_code", "False") != "False"
                or (name.endswith(".extractall") and "filter" not in options)
            ):
                found.append(ast.unparse(node))
    return found


def test_no_data_is_run_as_code():
    assert [(path, call) for path in SOURCES for call in unsafe_calls(_text(path))] == []


@pytest.mark.parametrize(
    "source",
    [
        "pickle.load(f)",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "subprocess.run(line, shell=True)",
        "archive.extractall(to)",
        "eval(text)",
        "AutoModel.from_pretrained(n, trust_remote_code=True)",
    ],
)
def test_unsafe_calls_are_found(source):
    assert unsafe_calls(source) == [source]
    assert (
        unsafe_calls("torch.load(p, weights_only=True); np.load(p); model.eval(); tar.extractall(to, filter='data')")
        == []
    )


def test_every_part_has_the_licence():
    licence = (ROOT / "LICENSE").read_text()
    assert licence.startswith("MIT License")
    for folder in MEMBERS:
        assert (ROOT / folder / "LICENSE").read_text() == licence, folder


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)
def test_tests_set_their_environment_before_imports(row):
    file = ROOT / "packages" / row.folder / "tests" / "conftest.py"
    text = file.read_text()
    assert [name for name in TEST_SETTINGS if name not in text] == []
    heavy = re.search(r"^(?:import|from) (?:torch|jax|transformers|numpy|matplotlib)", text, flags=re.MULTILINE)
    assert heavy is None or heavy.start() > text.index("JAX_PLATFORMS")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.folder)
def test_each_package_can_be_tested_alone(row):
    content = tomllib.loads((ROOT / "packages" / row.folder / "pyproject.toml").read_text())
    assert content["tool"]["pytest"]["ini_options"]["filterwarnings"][0] == "error"
    assert "tests/**" in content["tool"]["uv"]["build-backend"]["source-include"]


def test_there_is_no_conftest_at_the_top():
    assert not (ROOT / "conftest.py").exists()
