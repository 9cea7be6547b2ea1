"""Numbers of the authors that need no training."""

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from dataset_decomposition import PRESETS, BucketLoader, plan_training, simulate
from dataset_decomposition.config import BucketConfig
from dataset_decomposition.curriculum import bucket_odds, draw_cycle
from dataset_decomposition.layout import sequences_per_shard
from dataset_decomposition.simulation import mean_context

LENGTHS = [256, 512, 1024, 2048, 4096, 8192]
DCLM_SHARDS = [3560, 5996, 7410, 6309, 5157, 4513]
WIKIPEDIA_SHARDS = [553, 779, 831, 690, 475, 291]


def test_plan_prints_the_numbers_of_the_authors_readme():
    """README, "Launch Variable Sequence Length training", step 2."""
    sizes = [sequences_per_shard(n) for n in LENGTHS]
    available = [a * b for a, b in zip(DCLM_SHARDS, sizes, strict=True)]
    plan = plan_training(LENGTHS, available, [8 * size for size in sizes], tokens=28_795_904_000, cycles=8)
    assert plan.flags() == (
        "--epochs 8 --train-num-samples 3607101440 --dataset-batch-mult 32 16 8 4 2 1 "
        "--source-num-seq-per-epoch 1507328 1277952 794624 335872 137216 61440 "
        "--train-data-mix-weights 1472 1248 776 328 134 60"
    )


def test_shards_hold_what_the_authors_statistics_say():
    """README, "Get stats": sequences and tokens of Wikipedia and of the DCLM subset."""
    sizes = np.array([sequences_per_shard(n) for n in LENGTHS])
    assert (sizes * WIKIPEDIA_SHARDS).tolist() == [2265088, 1595392, 850944, 353280, 121600, 37248]
    assert int((sizes * WIKIPEDIA_SHARDS * LENGTHS).sum()) == 3_794_796_544
    assert int((sizes * DCLM_SHARDS * LENGTHS).sum()) == 34_545_336_320


OFFICIAL = json.loads((Path(__file__).parent / "reference" / "official.json").read_text())["params"]


@pytest.mark.parametrize("case", OFFICIAL, ids=lambda case: f"{case['tokens']}")
def test_plan_prints_what_the_authors_script_prints(case):
    """Random budgets, cycles, GPUs and shards through their script; see reference/SOURCE.md."""
    sizes = [sequences_per_shard(n) for n in LENGTHS]
    available = [a * b for a, b in zip(case["shards"], sizes, strict=True)]
    units = [case["processes"] * size for size in sizes]
    options = {"tokens": case["tokens"], "cycles": case["cycles"], "curriculum": case["curriculum"]}
    plan = plan_training(LENGTHS, available, units, **options)
    assert (plan.flags(), plan.exact) == (case["flags"], case["exact"])


def test_odds_are_those_of_the_paper():
    assert bucket_odds("grow-p2", 6).tolist() == [32, 16, 8, 4, 2, 1]
    assert bucket_odds("grow-linear", 6).tolist() == [6, 5, 4, 3, 2, 1]
    assert bucket_odds("grow-p100", 3).tolist() == [10_000, 100, 1]
    assert bucket_odds("shrink-p100", 3).tolist() == [1, 100, 10_000]


# Mean row length by sixths of a cycle for the README's mixture (simulated with the authors' rule).
SIXTHS = {
    "uniform": [2545, 2630, 2605, 2437, 2631, 2288],
    "grow-linear": [1484, 1566, 1480, 1578, 2773, 6258],
    "grow-p2": [872, 1007, 1314, 1887, 3595, 6465],
    "grow-p100": [349, 652, 1034, 1961, 3647, 7498],
}


@pytest.mark.parametrize("curriculum", SIXTHS)
def test_lengths_grow_over_a_cycle_as_under_the_authors_rule(curriculum):
    counts = np.array([46, 78, 97, 82, 67, 60]) * 100
    order = draw_cycle(counts, curriculum, np.random.default_rng(0))
    means = [np.array(LENGTHS)[part].mean() for part in np.array_split(order, 6)]
    assert np.allclose(means, SIXTHS[curriculum], rtol=0.13)
    assert np.bincount(order).tolist() == counts.tolist()


def test_attention_takes_a_quarter_of_the_compute_of_1b_at_8k():
    """Also of the experiment's setting: width 256, longest row 1024."""
    for preset, share in (("160m", 0.47), ("410m", 0.40), ("1b", 0.25), ("7b", 0.14)):
        chunked = next(r for r in simulate([9000], PRESETS[preset].model) if r["method"] == "concat-and-chunk 8192")
        assert chunked["attention_share"] == pytest.approx(share, abs=0.005)


def test_defaults_are_the_papers():
    """Grow-P2 in eight cycles, buckets from 256 to 8192 tokens (Sec. 4)."""
    defaults = {name: option.default for name, option in inspect.signature(BucketLoader).parameters.items()}
    assert [defaults[name] for name in ("curriculum", "cycles", "epochs")] == ["grow-p2", 8, 1]
    assert BucketConfig().bucket_lengths == LENGTHS


def test_sizes_of_the_models():
    for name, millions in (("160m", 162), ("410m", 412), ("1b", 1440), ("3b", 2796), ("7b", 6889)):
        assert PRESETS[name].model.num_params / 1e6 == pytest.approx(millions, rel=0.01)


def test_context_of_whole_rows():
    """Appendix F: a token of a row of l tokens sees (l - 1) / 2 before it on average."""
    assert mean_context(np.array([5, 5, 5])) == 2
    rows = simulate([1000, 30], PRESETS["1b"].model, BucketConfig(min_length=64, max_length=512))
    assert [row["kept"] for row in rows[:-1]] == [1, 1, 1, 1]
    assert [row["method"] for row in rows[:2]] == ["concat-and-chunk 128", "concat-and-chunk 512"]
    assert rows[1]["cost"] == 1, "the longest row of concat-and-chunk is the measure"
    shortest = simulate([1000], PRESETS["1b"].model, BucketConfig(min_length=2, max_length=8))
    assert shortest[0]["method"] == "concat-and-chunk 2"
    decomposed = rows[-1]
    # 1000 = 513 + 257 + 129 + 65 + 36 left over.
    assert decomposed["mean_row"] == pytest.approx((512**2 + 256**2 + 128**2 + 64**2) / (512 + 256 + 128 + 64))
    assert decomposed["context"] == (decomposed["mean_row"] - 1) / 2
    assert decomposed["attended"] == decomposed["mean_row"] / 2
    assert decomposed["kept"] == pytest.approx(964 / 1030)
