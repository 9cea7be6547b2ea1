"""Which caption is shown: policies, shares, and that nothing but seed, sample and step decides."""

from collections import Counter

import pytest
from qualityclip import mix
from qualityclip.config import MixConfig
from qualityclip.mixing import draw

REAL, SYNTHETIC = ["alt"], ["a", "bb", "ccc"]


def shown(config, count=2000, **rest):
    return [mix(REAL, SYNTHETIC, config, uid=f"u{n}", step=n % 7, **rest) for n in range(count)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_random_keeps_its_share_and_draws_evenly(share):
    counts = Counter(shown(MixConfig("random", share)))
    assert counts["alt"] / 2000 == pytest.approx(share, abs=0.04)
    for text in SYNTHETIC:
        assert counts[text] / 2000 == pytest.approx((1 - share) / 3, abs=0.04)


def test_the_other_policies():
    assert set(shown(MixConfig("real"))) == {"alt"}
    assert set(shown(MixConfig("synthetic"))) == set(SYNTHETIC)
    assert Counter(shown(MixConfig("uniform")))["alt"] / 2000 == pytest.approx(0.25, abs=0.04)
    assert set(shown(MixConfig("concat"))) == {f"alt. {text}" for text in SYNTHETIC}
    assert set(shown(MixConfig("longest"))) == {"alt"}
    assert set(shown(MixConfig("best"), scores=[0.1, 0.9, 0.2, 0.3])) == {"a"}
    with pytest.raises(ValueError, match="needs 4 `scores`"):
        mix(REAL, SYNTHETIC, MixConfig("best"))


def test_a_missing_kind_is_replaced_and_no_caption_is_refused():
    assert mix([], SYNTHETIC[:1], MixConfig("real")) == "a"
    assert mix(REAL, [], MixConfig("synthetic")) == "alt"
    assert mix(REAL, [], MixConfig("concat")) == "alt"
    with pytest.raises(ValueError, match="sample 'x' has no captions"):
        mix([], [], uid="x")


def test_steps_seeds_and_samples_differ_and_repeat():
    config = MixConfig("random", 0.5)
    by_step = [mix(REAL, SYNTHETIC, config, uid="u", step=step) for step in range(50)]
    assert by_step == [mix(REAL, SYNTHETIC, config, uid="u", step=step) for step in range(50)]
    assert by_step[20:] == [mix(REAL, SYNTHETIC, config, uid="u", step=step) for step in range(20, 50)], "resumed"
    assert by_step[0] == mix(REAL, SYNTHETIC, config, uid="u"), "the first step where none is given"
    assert by_step[0] != by_step[1] or by_step[1] != by_step[2]
    assert by_step != [mix(REAL, SYNTHETIC, MixConfig("random", seed=1), uid="u", step=step) for step in range(50)]
    assert by_step != [mix(REAL, SYNTHETIC, config, uid="v", step=step) for step in range(50)]


def test_draws_are_even_and_independent():
    pairs = [draw(0, f"u{n}", 3) for n in range(4000)]
    for place in (0, 1):
        values = [pair[place] for pair in pairs]
        assert sum(values) / 4000 == pytest.approx(0.5, abs=0.02) and 0 <= min(values) and max(values) < 1
    product = sum(a * b for a, b in pairs) / 4000
    assert product == pytest.approx(0.25, abs=0.015)
