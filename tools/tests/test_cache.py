"""What makes a finished run stand or fall."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from tenfold_shared.claims import ClaimResult, write_claims
from tenfold_tools.cache import dependency_versions, expected_seconds, load_finished, load_run, tree_hash

KEYS = """
import json, sys
from tenfold_tools.cache import cache_key
from tenfold_tools.discovery import discover
found = discover("reproduce")
key = lambda name, budget="laptop", seed=0: cache_key(found[name], found, budget=budget, seed=seed)
print(json.dumps([key("user"), key("base"), key("user", "smoke"), key("user", seed=1)]))
"""


def read_keys(papers) -> list[str]:
    """Keys of `user`, of `base`, and of `user` at another budget and with another seed."""
    environment = os.environ | {"PYTHONPATH": str(papers.site)}
    command = [sys.executable, "-c", KEYS]
    return json.loads(subprocess.run(command, capture_output=True, env=environment, check=True).stdout)


def test_the_key_follows_everything_that_numbers_depend_on(papers):
    base = papers.install("base", "")
    user = papers.install("user", "", requires=("base>=0.1",))
    first = read_keys(papers)
    assert len(set(first)) == 4
    assert read_keys(papers) == first
    (user / "data.bin").write_bytes(b"\0")
    second = read_keys(papers)
    assert second[0] != first[0] and second[1] == first[1], "a file of the package"
    (base / "reproduce.py").write_text("x = 1")
    third = read_keys(papers)
    assert third[0] != second[0] and third[1] != second[1], "a file of a package that it depends on"
    metadata = papers.site / "base-0.1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("Version: 0.1.0", "Version: 0.2.0"))
    fourth = read_keys(papers)
    assert fourth[0] != third[0], "a version"
    (user / "__pycache__").mkdir(exist_ok=True)
    (user / "__pycache__" / "x.pyc").write_bytes(b"1")
    assert read_keys(papers) == fourth, "compiled files do not count"


def test_the_shared_tree_is_part_of_every_key(papers, tmp_path):
    papers.install("base", "")
    papers.install("user", "")
    before = read_keys(papers)
    copy = papers.site / "tenfold_shared"
    import tenfold_shared

    import_folder = Path(tenfold_shared.__file__).parent
    subprocess.run(["cp", "-r", import_folder, copy], check=True)
    assert read_keys(papers) == before, "an equal copy gives an equal key"
    (copy / "new.py").write_text("")
    assert not set(read_keys(papers)) & set(before)


def test_tree_hash_sees_names_contents_and_moves(tmp_path):
    def write(*names: str) -> str:
        for path in list(tmp_path.rglob("*"))[::-1]:
            path.unlink() if path.is_file() else path.rmdir()
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(Path(name).name)
        return tree_hash(tmp_path)

    hashes = [write(), write("a"), write("b"), write("a", "b"), write("x/a", "b"), write("a", "x/b")]
    assert len(set(hashes)) == len(hashes)
    assert write("b", "a") == hashes[3]


def test_dependencies_are_followed_through_extras_of_the_package_itself_only():
    [entry] = [entry for entry in entry_points(group="console_scripts") if entry.name == "tenfold"]
    versions = dependency_versions(entry.dist.name)
    assert {"tenfold-tools", "tenfold-shared", "numpy", "jinja2", "markupsafe", "tyro"} <= versions.keys()
    assert "tokenizers" not in versions, "an extra of tenfold-shared that tenfold-tools does not ask for"


def make_claim(**more) -> ClaimResult:
    fields = dict(paper="p", claim="c", primary_metric="m", paper_value=None, reason="no data")
    return ClaimResult.not_attempted(**fields | more)


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '[{"paper": "p"}]', "\x00\x01", "[null]", '[["p"]]'])
def test_damaged_claims_count_as_none(tmp_path, damage, caplog):
    (tmp_path / "claims.json").write_text(damage)
    assert load_finished(tmp_path, "p") is None
    assert "cannot be used" in caplog.text


def test_claims_of_another_paper_or_without_their_figure_count_as_none(tmp_path):
    write_claims(tmp_path / "claims.json", [make_claim()])
    assert load_finished(tmp_path, "p") == [make_claim()]
    assert load_finished(tmp_path, "q") is None
    assert load_finished(tmp_path / "elsewhere", "p") is None


@pytest.mark.parametrize("damage", [None, "", "[1]", "{}", "{", "\x00"])
def test_a_damaged_run_file_is_no_information(tmp_path, damage):
    if damage is not None:
        (tmp_path / "run.json").write_text(damage)
    assert load_run(tmp_path) == {}


def test_expected_seconds_are_those_of_the_newest_run_at_that_budget(tmp_path):
    def note(name: str, **run) -> None:
        folder = tmp_path / "p" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"seed": 0, "environment": {}} | run))

    assert expected_seconds(tmp_path, "p", "laptop") is None
    note("a", budget="laptop", seconds=10.0, finished="2026-01-02")
    note("b", budget="laptop", seconds=20.0, finished="2026-01-03")
    note("c", budget="smoke", seconds=1.0, finished="2026-01-04")
    note("d", budget="laptop")
    assert expected_seconds(tmp_path, "p", "laptop") == 20.0
    assert expected_seconds(tmp_path, "p", "full") is None
