"""The real part: its runs at their smallest, and what follows from them."""

import pytest
from nots import real, real_verdicts
from nots.reproduce import SMALL


@pytest.mark.slow
def test_every_kind_of_run_at_its_smallest(tmp_path):
    from nots.experiment import Job, pretrained

    todo = real.jobs(lambda arm, seed: pretrained(tmp_path, Job(arm, seed, 3e-3), SMALL), 0, (2, 2, 2))
    keys = [
        ("classify", "BasicMotions", "mae", "frozen"),
        ("classify", "ItalyPowerDemand", "patchtst", "boosted"),
        ("classify", "BasicMotions", "itransformer", "supervised"),
        ("impute", "InternalBleeding", "next", "full"),
        ("detect", "InternalBleeding", "nots", "none"),
        ("forecast", "Airline", "random_sequence", "full"),
    ]
    for key in keys:
        assert all(value >= 0 for value in todo[key]().values()), key


def made(gap):
    arms = [(arm, mode) for arm in real.TRUNKS for mode in real.MODES]
    arms += [("MiniRocket", "peer"), ("Hydra", "peer")]
    arms += [(t, m) for t in real.OTHER for m in ("supervised", "boosted")]
    return [
        {"part": "real", "task": "classify", "set": name, "arm": arm, "mode": mode, "seed": seed}
        | {"score": 80 + seed + (gap if arm == "nots" or mode == "boosted" else 0) + 0.1 * ((seed * 3 + len(arm)) % 4)}
        for arm, mode in arms
        for name in real.SETS
        for seed in range(5)
    ]


def test_verdicts_follow_from_the_runs():
    rest = {"budget": "full", "seconds": 1.0, "figures": ()}
    found = {claim.claim: claim.verdict for claim in real_verdicts.judge(made(5.0), rest)}
    assert set(found.values()) == {"shown"}
    assert len(found) == 7
    assert "shown" not in {claim.verdict for claim in real_verdicts.judge(made(0.0), rest)}


def test_a_seed_counts_when_all_sets_are_there():
    rows = [row for row in made(1.0) if (row["set"], row["seed"]) != ("GunPoint", 2)]
    assert set(real_verdicts.arrange(rows)["classify", "nots", "frozen"]) == {0, 1, 3, 4}
