"""Recorded benchmarks: the file, the README's table, and what the report shows of them."""

import json
import sys

import pytest
from tenfold_shared.commands import InputError
from tenfold_tools import benchmarks, tables

ROW = {
    "paper": "alpha",
    "work": "loading | fast",
    "unit": "samples/s",
    "ours": 300.0,
    "peer_name": "peer",
    "peer": 100.0,
}
ROW |= {"ratio": 3.0, "spread": [2.5, 3.25], "aim": 2.0}


@pytest.fixture
def package(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "alpha", raising=False)
    folder = tmp_path / "alpha"
    (folder / "src/alpha").mkdir(parents=True)
    (folder / "src/alpha/__init__.py").touch()
    readme = "<!-- claims -->\n<!-- /claims -->\n<!-- benchmarks -->\nnone\n<!-- /benchmarks -->\n"
    (folder / "README.md").write_text(readme)
    return folder


def record(package, tmp_path, *rows):
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return benchmarks.run(benchmarks.BenchmarksConfig(package, tmp_path / "rows.json", "alpha benchmark"))


def test_rows_are_kept_and_the_readme_follows(package, tmp_path, monkeypatch):
    assert record(package, tmp_path, ROW, {**ROW, "aim": None}) == 0
    text = (package / "README.md").read_text()
    assert "| loading \\| fast | samples/s | 300 | peer: 100 | 3 [2.5, 3.25] | 2 |" in text
    assert "| 3 [2.5, 3.25] |  |" in text and "`alpha benchmark`" in text and "none" not in text
    assert text == tables.fill(text, package / "src/alpha/results/recorded.json")
    monkeypatch.syspath_prepend(package / "src")
    found = benchmarks.read_benchmarks("alpha")
    assert found["rows"][0] == ROW and found["machine"]["cores"] and found["commit"]


def test_a_row_that_lacks_a_field_is_not_recorded(package, tmp_path):
    with pytest.raises(InputError, match="a row lacks ratio"):
        record(package, tmp_path, {name: value for name, value in ROW.items() if name != "ratio"})
    assert not (package / "src/alpha/results").exists()


def test_another_file_of_that_name_is_refused(package, monkeypatch):
    (package / "src/alpha/results").mkdir()
    (package / "src/alpha/results/benchmarks.json").write_text("[]")
    monkeypatch.syspath_prepend(package / "src")
    with pytest.raises(ValueError, match="no record of benchmarks"):
        benchmarks.read_benchmarks("alpha")
