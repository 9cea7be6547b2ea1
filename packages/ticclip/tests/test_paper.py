"""Numbers of the paper that need no training, each with its place."""

import pytest
from ticclip import PRESETS, StreamConfig, macs, plan_stream
from ticclip.config import TrainConfig


def test_macs_of_the_papers_models():
    # Hand count of ViT-B/16: 196 patches x 768 x 768, 12 layers of 12 n d^2 + 2 n^2 d at n = 197, d = 768, and the
    # text tower at n = 77, d = 512; then both projections.
    vision = 196 * 768 * 768 + 12 * (12 * 197 * 768**2 + 2 * 197**2 * 768)
    text = 12 * (12 * 77 * 512**2 + 2 * 77**2 * 512)
    assert macs(PRESETS["vit_b_16"]) == vision + text + (768 + 512) * 512
    assert macs(PRESETS["vit_b_32"]) == pytest.approx(7.4e9, rel=0.01)


def test_totals_of_the_benchmarks_scales():
    """Seven steps at the scripts' iterations and batches give the totals of the paper's figures (large: 2.7e19)."""
    train = TrainConfig(batch_size=4096)
    medium = StreamConfig(model=PRESETS["vit_b_32"], train=train, samples_per_step=4500 * 4096)
    large = StreamConfig(model=PRESETS["vit_b_16"], train=TrainConfig(batch_size=8192), samples_per_step=22500 * 8192)
    total = sum(row.macs for row in plan_stream(large, [1] * 7))
    assert total == pytest.approx(2.66e19, rel=0.01)
    assert sum(row.samples for row in plan_stream(medium, [1] * 7)) == pytest.approx(128e6, rel=0.02)


@pytest.mark.parametrize(("steps", "times"), [(7, 28), (4, 10)])
def test_the_oracle_costs_the_sum_of_its_steps(steps, times):
    config = StreamConfig(method="oracle", samples_per_step=40960)
    one = plan_stream(StreamConfig(samples_per_step=40960), [10] * steps)[0].macs
    assert sum(row.macs for row in plan_stream(config, [10] * steps)) == times * one


def test_cumulative_all_star_grows_late():
    config = StreamConfig(method="cumulative-all*", samples_per_step=40960)
    rows = plan_stream(config, [10] * 7)
    assert [row.compute for row in rows] == [1, 1, 1, 1, 1.5, 2, 3]
    assert sum(row.compute for row in rows) / 7 == pytest.approx(1.5)
