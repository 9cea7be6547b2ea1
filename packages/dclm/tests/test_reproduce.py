"""The experiment's judgement, its rows and the benchmark's arithmetic; both run whole in the check."""

import numpy as np
import pytest
from dclm import reproduce as experiment
from dclm.filtering_claims import FIXED, KEY, NAMES
from dclm.peers import write_rows
from tenfold_shared.claims import ClaimResult, read_recorded


@pytest.mark.timeout(400)  # trains: a busy machine takes minutes to compile
def test_a_smoke_run_writes_its_figure_and_judges_nothing(tmp_path):
    claims = experiment.reproduce(tmp_path, budget="smoke", seed=0)
    trap, encodings, *rest = claims
    assert {claim.verdict for claim in rest} == {"not attempted", "not judged"} and all(claim.note for claim in rest)
    assert [claim.evidence for claim in rest].count("authors' records") == 3
    assert trap.verdict == encodings.verdict == "not judged"
    assert trap.ours.mean > 0.95 and trap.control.mean < 0.5
    assert encodings.ours.mean > 0.9 and encodings.control.mean == 0
    assert (tmp_path / "kept.svg").read_text().startswith("<?xml")


def test_shuffled_arms_show_nothing(monkeypatch):
    """With the two arms exchanged at random, seed by seed, no difference is left."""
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(50):
        pairs = [rng.permutation([1.0, 0.12]) for _ in range(10)]
        ours, control = ([float(pair[arm]) for pair in pairs] for arm in (0, 1))
        claim = ClaimResult.compare(
            paper="dclm",
            claim="x",
            primary_metric="y",
            paper_value=None,
            ours=ours,
            control=control,
            control_name="z",
            minimum_effect=0.5,
            budget="full",
            evidence="real",
            data="",
            seconds=0.0,
        )
        shown += claim.verdict == "shown"
    assert shown == 0


def test_the_guessed_filter_is_the_worse_for_being_smaller(pool_texts, monkeypatch):
    texts = list(dict.fromkeys(pool_texts))[:150]
    monkeypatch.setattr(experiment, "GUESS", 1)
    assert experiment._kept_shares(texts, 0) == pytest.approx((1.0, 1.0), abs=0.03)
    monkeypatch.setattr(experiment, "GUESS", 200)
    assert experiment._kept_shares(texts, 0)[1] < 0.5


def test_the_recorded_run_is_a_full_one():
    recorded = read_recorded("dclm")
    assert recorded is not None
    rows = {claim["claim"]: claim for claim in recorded["claims"] if claim["evidence"] == "real"}
    seeds = [len(claim["ours"]["per_seed"]) for claim in rows.values()]
    assert seeds[:2] == [10, 10] and 5 in seeds, "the small filtering run was not cut off"
    assert len(rows[FIXED]["ours"]["per_seed"]) == 3, "the big one was"
    assert rows[KEY]["control_name"] == NAMES["shuffled"], "the strongest control stays the headline's"


def test_rows_for_the_peer_hold_our_words_and_sentences(tmp_path, documents):
    import json

    write_rows(tmp_path / "rows.jsonl", documents("One two [3]. Four!\n  Five."))
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert row["words"] == ["One", "two", "[", "3", "]", ".", "Four", "!", "Five", "."]
    assert row["sentences"] == {"One two . Four!": ["One two .", "Four!"], "Five.": ["Five."]}
