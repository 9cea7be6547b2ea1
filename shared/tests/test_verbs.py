"""The two verbs that all packages share."""

import json

import pytest
from tenfold_shared.claims import ClaimResult, read_claims
from tenfold_shared.verbs import report_benchmarks, report_claims

CLAIM = ClaimResult.compare(
    paper="alpha", claim="it is faster", primary_metric="speed-up", paper_value=None, ours=[2.0, 2.5],
    control=[1.0, 1.0], control_name="peer", minimum_effect=0.5, budget="laptop", evidence="real", data="", seconds=1.0,
)  # fmt: skip
ROW = {"work": "loading", "ours": 3.0, "peer_name": "peer", "peer": 1.5, "ratio": 2.0, "spread": [1.9, 2.1]}


@pytest.mark.parametrize("as_json", [False, True])
def test_claims_are_written_and_printed(tmp_path, capsys, as_json):
    folder = tmp_path / "new" / "folder"

    def reproduce(out):
        assert out.is_dir()
        return [CLAIM]

    report_claims(reproduce, folder, json=as_json)
    assert read_claims(folder / "claims.json") == [CLAIM]
    printed = capsys.readouterr().out
    if as_json:
        assert json.loads(printed) == [CLAIM.to_dict()]
    else:
        heads, row = printed.splitlines()
        assert heads.split() == ["claim", "paper", "ours", "verdict"]
        assert "it is faster" in row and "2.25 [-0.9266, 5.427]" in row and row.endswith(CLAIM.verdict)


@pytest.mark.parametrize("as_json", [False, True])
def test_benchmarks_are_written_and_printed(tmp_path, capsys, as_json):
    rows = [{**ROW, "paper": "alpha", "aim": None}, ROW]
    report_benchmarks(lambda out: rows, tmp_path / "out", json=as_json)
    assert json.loads((tmp_path / "out" / "benchmarks.json").read_text()) == rows
    printed = capsys.readouterr().out
    if as_json:
        assert json.loads(printed) == rows
    else:
        assert printed.splitlines()[0].split() == ["work", "ours", "peer_name", "peer", "ratio", "spread"]


def test_a_failed_run_leaves_no_file(tmp_path):
    with pytest.raises(RuntimeError):
        report_claims(lambda out: (_ for _ in ()).throw(RuntimeError()), tmp_path, json=False)
    assert list(tmp_path.iterdir()) == []
