"""What is hidden: counts, dropout of proper subsets, and draws that do not depend on how a batch is divided."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from physiomae.config import OBJECTIVES, ObjectiveConfig
from physiomae.masking import draw, drop_modalities, hide_tokens


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 6), st.floats(0.1, 0.9), st.integers(0, 999), st.booleans())
def test_visible_and_target_part_the_tokens(batch, modalities, patches, ratio, seed, own):
    objective = ObjectiveConfig("own" if own else "all", ratio, 0.0 if own else 0.5)
    available = torch.rand(batch, modalities, patches, generator=torch.Generator().manual_seed(seed)) < 0.8
    available[:, 0, 0] = True
    visible, target = hide_tokens(available, objective, draw((batch, modalities, patches), seed, 3))
    assert not (visible & target).any()
    assert torch.equal(visible | target, available)
    assert visible.flatten(1).any(1).all(), "every window keeps a token"


def test_the_ratio_is_exact_without_dropout():
    available = torch.ones(50, 3, 8, dtype=torch.bool)
    visible, _ = hide_tokens(available, OBJECTIVES["mae"], draw((50, 3, 8), 0, 0))
    assert visible.flatten(1).sum(1).tolist() == [12] * 50
    own, _ = hide_tokens(available, OBJECTIVES["unimodal"], draw((50, 3, 8), 0, 0))
    assert own.sum(2).unique().tolist() == [4], "each modality keeps its own half"


def test_dropout_takes_proper_subsets_of_every_size_from_its_share_of_windows():
    available = torch.ones(4000, 4, 2, dtype=torch.bool)
    dropped = drop_modalities(available, draw((4000, 4, 2), 1, 1), 0.5)
    sizes = dropped.sum(1).bincount(minlength=5) / 4000
    assert sizes[0] == pytest.approx(0.5, abs=0.03)
    assert sizes[1:4].tolist() == pytest.approx([1 / 6] * 3, abs=0.03)
    assert sizes[4] == 0, "never all"
    assert dropped.float().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_a_window_with_one_modality_loses_none():
    available = torch.zeros(100, 3, 2, dtype=torch.bool)
    available[:, 1] = True
    assert not drop_modalities(available, draw((100, 3, 2), 0, 0), 1.0).any()


def test_dropped_modalities_are_wholly_in_the_loss():
    available = torch.ones(64, 3, 4, dtype=torch.bool)
    draws = draw((64, 3, 4), 0, 7)
    dropped = drop_modalities(available, draws, 1.0)
    visible, target = hide_tokens(available, OBJECTIVES["cross_only"], draws)
    assert torch.equal(target, dropped[..., None].expand_as(target)), "cross-modal only: nothing but what was dropped"
    assert not (visible & dropped[..., None]).any()


def test_draws_depend_on_seed_and_step_only():
    whole = draw((8, 2, 4), 5, 9)
    assert torch.equal(whole.tokens, draw((8, 2, 4), 5, 9).tokens)
    assert torch.equal(whole.rows(slice(4, 8)).tokens, whole.tokens[4:])
    assert not torch.equal(whole.tokens, draw((8, 2, 4), 5, 10).tokens)
    assert not torch.equal(whole.tokens, draw((8, 2, 4), 6, 9).tokens)
    assert len({draw((1, 1, 1), 0, step).tokens.item() for step in range(500)}) > 490, "steps differ"


def test_impossible_objectives_are_refused():
    for settings_, words in (
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"drop_prob": 1.5}, "drop_prob"),
        ({"reconstruct": "none"}, "nothing would be learnt"),
        ({"reconstruct": "hidden"}, "drop_prob"),
    ):
        with pytest.raises(ValueError, match=words):
            ObjectiveConfig(**settings_)
