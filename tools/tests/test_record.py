"""Recording a full run: attempts are kept, the README's table follows, other runs are refused."""

import json

import pytest
from tenfold_shared.claims import ClaimResult, write_claims
from tenfold_shared.commands import InputError
from tenfold_tools import record


def claim(budget="full", value=2.0, words="it is faster"):
    return ClaimResult.compare(
        paper="alpha",
        claim=words,
        primary_metric="speed-up",
        paper_value=None,
        ours=[value] * 5,
        control=[1.0] * 5,
        control_name="peer",
        minimum_effect=0.5,
        budget=budget,
        evidence="real",
        data="five rounds",
        seconds=1.0,
    )


@pytest.fixture
def package(tmp_path):
    source = tmp_path / "alpha" / "src" / "alpha"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (tmp_path / "alpha" / "README.md").write_text("# alpha\n<!-- claims -->\n<!-- /claims -->\n")
    return tmp_path / "alpha"


def run(package, tmp_path, what, merge=False, command="", **fields):
    write_claims(tmp_path / "claims.json", [claim(**fields)])
    return record.run(record.RecordConfig(package, tmp_path / "claims.json", what, command, merge))


def test_attempts_are_kept_and_the_table_follows(package, tmp_path):
    run(package, tmp_path, "first", value=1.0)
    run(package, tmp_path, "second", value=3.0)
    content = json.loads((package / "src/alpha/results/recorded.json").read_text())
    results = [(attempt["what"], attempt["result"]) for attempt in content["attempts"]]
    assert results == [("first", "1 not shown"), ("second", "1 shown")]
    assert content["claims"][0]["verdict"] == "shown"
    assert (
        "| it is faster (speed-up) |  | 3 [3, 3] | peer: 1 [1, 1] | shown | real |"
        in (package / "README.md").read_text()
    )


def test_a_laptop_run_is_not_recorded(package, tmp_path):
    with pytest.raises(InputError, match="not of a full run"):
        run(package, tmp_path, "too small", budget="laptop")
    assert not (package / "src/alpha/results").exists()


def test_a_merged_run_leaves_other_claims_as_they_were(package, tmp_path):
    file = package / "src/alpha/results/recorded.json"
    run(package, tmp_path, "speed", value=3.0)
    first = json.loads(file.read_text())
    run(package, tmp_path, "size", merge=True, command="alpha reproduce --parts size", words="it is smaller")
    run(package, tmp_path, "size again", merge=True, command="alpha size", words="it is smaller", value=4.0)
    content = json.loads(file.read_text())
    assert content["claims"][0] == first["claims"][0]
    assert [row["ours"]["mean"] for row in content["claims"]] == [3.0, 4.0]
    runs = [(made["command"], made["claims"]) for made in content["configuration"]["runs"]]
    assert runs == [("alpha reproduce --budget full", ["it is faster"]), ("alpha size", ["it is smaller"])]
    assert all(made["commit"] and made["machine"]["cores"] for made in content["configuration"]["runs"])
    assert [attempt["what"] for attempt in content["attempts"]] == ["speed", "size", "size again"]
    assert "it is smaller" in (package / "README.md").read_text()


def test_without_merging_a_run_replaces_the_whole_file(package, tmp_path):
    run(package, tmp_path, "speed")
    run(package, tmp_path, "size", words="it is smaller")
    content = json.loads((package / "src/alpha/results/recorded.json").read_text())
    assert [row["claim"] for row in content["claims"]] == ["it is smaller"] and "runs" not in content["configuration"]


def test_a_run_on_another_machine_brings_its_report(package, tmp_path):
    write_claims(tmp_path / "claims.json", [claim()])
    report = tmp_path / "environment.json"
    report.write_text(json.dumps({"commit": "abc", "versions": {"jax": "1"}, "cpu": "Elsewhere", "cores": 64}))
    options = record.RecordConfig(package, tmp_path / "claims.json", "far away", environment=report)
    assert record.run(options) == 0
    content = json.loads((package / "src/alpha/results/recorded.json").read_text())
    assert (content["commit"], content["versions"], content["machine"]["cpu"]) == ("abc", {"jax": "1"}, "Elsewhere")
    report.write_text(json.dumps({"cpu": "Elsewhere"}))
    with pytest.raises(InputError, match="is no report of `environment_report`"):
        record.run(options)
