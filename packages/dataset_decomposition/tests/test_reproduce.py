"""The judgement of the experiment on curves made up for the purpose; the experiment itself runs in the check."""

import numpy as np
import pytest
from dataset_decomposition import reproduce as experiment
from dataset_decomposition import verdicts
from dataset_decomposition.arms import RowLoader, chunk, pack
from dataset_decomposition.corpus import read_sources

SECONDS = {32: 0.5, 64: 0.6, 128: 0.8, 256: 1.0, 512: 1.6}
SCALE = experiment.SCALES["full"]


def run(final, length=512, steps=8, rise=1.0):
    curve = [(step, final + (steps - step) * 0.1) for step in range(1, steps + 1)]
    found = {"bits_per_byte": final, "bits_per_byte_short": final}
    return {"lengths": [length] * steps, "curve": curve, "final": found, "retrieval": 0.1, "rise": rise}


def judge(budget="full", seeds=5, **finals):
    noise = np.random.default_rng(0).normal(0, 0.001, seeds)
    results = {}
    for arm in experiment.ARMS:
        final, length = finals.get(arm.replace("&", ""), (2.0, 512))
        results[arm] = [run(final + shift, length) for shift in noise]
    return {c.claim: c for c in verdicts.judge(results, SECONDS, SCALE, budget=budget, seconds=1.0)}


SOONER = "Decomposition with a curriculum reaches the baseline's loss sooner"


def test_time_to_the_baselines_loss_by_hand():
    fast = run(1.8, length=128)
    assert verdicts.time_to(fast, 2.0, SECONDS) == pytest.approx(6 * 0.8)
    assert verdicts.time_to(fast, 2.05, SECONDS) == pytest.approx(5.5 * 0.8)
    assert verdicts.time_to(fast, 1.0, SECONDS) == float("inf")
    assert verdicts.value_at(fast, 6.5 * 0.8, SECONDS) == pytest.approx(1.95)


@pytest.mark.parametrize(
    ("final", "length", "verdict"), [(1.8, 128, "shown"), (1.95, 512, "direction only"), (2.5, 512, "contradicted")]
)
def test_the_verdict_follows_from_the_curves(final, length, verdict):
    claims = judge(**{"DD grow-p2": (final, length)})
    assert claims[SOONER].verdict == verdict
    if verdict == "contradicted":
        assert claims[SOONER].ours.mean == 0, "not reached"


def test_a_smoke_run_is_not_judged():
    assert {claim.verdict for claim in judge("smoke", seeds=1).values()} == {"not judged"}


def test_the_strongest_packing_is_the_control():
    claims = judge(**{"best-fit": (1.7, 512), "DD grow-p2": (1.9, 128)})
    claim = claims["At equal tokens decomposition is better than the best packing"]
    assert (claim.control_name, claim.verdict) == ("best-fit", "contradicted")


def test_equal_arms_show_nothing():
    assert "shown" not in {
        claim.verdict for claim in judge().values() if claim.claim != "Long context at the cost of short"
    }


def test_attention_takes_a_quarter_of_the_compute():
    assert SCALE.longest / 2 / (6 * SCALE.model.dim + SCALE.longest / 2) == 0.25


def test_chunks_and_packs_hold_the_documents():
    lengths = np.array([5, 9, 2, 30])
    tokens = np.arange(46)
    blocks, owners = chunk(tokens, lengths, 8)
    assert blocks[:, :-1].ravel().tolist() == list(range(40)) and (blocks[:, -1] == blocks[:, 0] + 8).all()
    assert owners[0].tolist() == [0] * 5 + [1] * 4
    blocks, owners = pack(tokens, lengths, 8)
    assert sorted(blocks[owners >= 0].tolist()) == list(range(46))
    loader = RowLoader(blocks, owners, tokens_per_step=16, num_steps=3, seed=0)
    batch = next(loader)
    kept = batch["labels"] != -100
    assert (batch["labels"][kept] == batch["input_ids"][kept] + 1).all(), "no target in another document"


def test_the_sources_are_the_listed_ones():
    texts = read_sources()
    assert len(texts) == len(set(texts)) == 2001
    assert max(map(len, texts)) > 10 * np.median([len(text) for text in texts]), "a heavy tail"


def test_claims_out_of_reach_are_not_attempted():
    assert all(claim.verdict == "not attempted" and claim.note for claim in verdicts.not_attempted())
