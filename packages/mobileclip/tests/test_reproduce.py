"""The judgement of the latency experiment on times made up for the purpose; the experiment itself runs in the check."""

import numpy as np
import pytest
from mobileclip import reproduce as experiment
from mobileclip.benchmark import _rows
from mobileclip.timing import torch_threads
from tenfold_shared.claims import read_recorded


def times(**milliseconds):
    noise = np.random.default_rng(0).normal(1, 0.01, 20)
    return {
        name: {"image": noise * 0.6 * value / 1e3, "text": noise[::-1] * 0.4 * value / 1e3}
        for name, value in milliseconds.items()
    }


def judge(contrast, budget="laptop", **milliseconds):
    return experiment._judge(contrast, 2, times(**milliseconds), budget=budget, seconds=1.0)


CONTRAST = experiment.Contrast("mobileclip_s2", experiment.OPENAI, "image + text", 0.65)


@pytest.mark.parametrize(("peer", "verdict"), [(2.3, "shown"), (1.3, "direction only"), (0.8, "contradicted")])
def test_the_verdict_follows_from_the_times(peer, verdict):
    claim = judge(CONTRAST, mobileclip_s2=100, **{experiment.OPENAI: 100 * peer})
    assert claim.verdict == verdict
    assert claim.ours.mean == pytest.approx(peer, rel=0.01)
    assert claim.control.mean == 1


def test_a_smoke_run_is_not_judged():
    assert judge(CONTRAST, "smoke", mobileclip_s2=100, **{experiment.OPENAI: 300}).verdict == "not judged"


def test_shuffled_arms_show_nothing():
    """With the two arms' times exchanged at random, round by round, no difference is left."""
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(50):
        both = rng.lognormal(0, 0.1, (2, 20))
        swap = rng.random(20) < 0.5
        ours, peer = np.where(swap, both, both[::-1])
        zeros = np.zeros(20)
        data = {"mobileclip_s2": {"image": ours, "text": zeros}, experiment.OPENAI: {"image": peer, "text": zeros}}
        shown += experiment._judge(CONTRAST, 2, data, budget="full", seconds=0.0).verdict == "shown"
    assert shown == 0


def test_image_rows_leave_the_text_out():
    contrast = experiment.Contrast("mobileclip_s2", experiment.OPENAI, "image", 0.65)
    data = times(mobileclip_s2=100, **{experiment.OPENAI: 200})
    data[experiment.OPENAI]["text"] *= 1000
    assert experiment._judge(contrast, 1, data, budget="laptop", seconds=0.0).ours.mean == pytest.approx(2, rel=0.01)


def test_claims_without_weights_are_not_attempted():
    claims = experiment._not_attempted()
    assert {claim.verdict for claim in claims} == {"not attempted"}
    assert all(claim.note for claim in claims)


def test_the_recorded_run_is_a_full_one():
    recorded = read_recorded("mobileclip")
    assert recorded is not None
    judged = [claim for claim in recorded["claims"] if claim["evidence"] == "real"]
    assert {claim["budget"] for claim in judged} == {"full"}
    latency = [claim for claim in judged if "(image" in claim["claim"]]
    assert len(latency) == len(experiment.CONTRASTS) * len(experiment.THREADS["full"])
    runs = recorded["configuration"]["runs"]
    assert sorted(text for run in runs for text in run["claims"]) == sorted(c["claim"] for c in recorded["claims"])


def test_threads_are_given_back():
    import torch

    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
        _ = 1 / 0
    assert torch.get_num_threads() == before


def test_benchmark_rows_divide_the_peer_by_ours():
    seconds = dict.fromkeys(("fused", "onnx", "vit", "vit onnx"), np.ones(3))
    seconds |= {"fastest": np.array([1.0, 2.0, 4.0]), "timm fused": np.array([3.0, 4.0, 4.0])}
    rows = {(row["peer_name"], row["work"]): row for row in _rows("s2", 1, 2, seconds, "hash")}
    row = rows["timm fastvit_mci2, fused", "S2 image encoder, batch 1, eager"]
    assert (row["ours"], row["peer"], row["ratio"], row["spread"]) == (2000, 4000, 2, [1, 3])
    assert {row["paper"] for row in rows.values()} == {"mobileclip"}
