"""The losses against numbers made by hand and against plain loops."""

import itertools
import math

import pytest
import torch
from physiomae.loss import contrast_pairs, contrastive_sums, info_nce, mean_over_modalities, reconstruction_sums


def test_reconstruction_counts_what_is_asked_for_and_there():
    """p = 2: two samples and two spectral values; halves count alike."""
    predicted = {"a": torch.zeros(1, 2, 2, 4), "b": torch.zeros(1, 1, 2, 4)}
    targets = {"a": torch.ones(1, 2, 2, 4), "b": torch.full((1, 1, 2, 4), 2.0)}
    targets["b"][..., 2:] = 4.0
    asked = torch.tensor([[[True, False], [True, True]]])
    present = {"a": torch.tensor([[[True, True], [False, True]]]), "b": torch.ones(1, 1, 2, dtype=torch.bool)}
    sums, counts = reconstruction_sums(predicted, targets, asked, present)
    assert counts.tolist() == [1, 2], "a: second channel absent in the asked patch; b: both patches"
    assert sums.tolist() == [1.0, 2 * 0.5 * (4 + 16)]
    assert float(mean_over_modalities(sums, counts)) == (1.0 + 10.0) / 2


@pytest.mark.parametrize("patch", [1, 4, 5, 16])
def test_samples_and_spectrum_have_one_half_each(patch):
    width = patch + patch // 2 + 1
    wrong = torch.zeros(1, 1, 1, width)
    wrong[..., :patch] = 1
    asked = torch.ones(1, 1, 1, dtype=torch.bool)
    sums, _ = reconstruction_sums({"a": wrong}, {"a": torch.zeros_like(wrong)}, asked, {"a": asked})
    assert float(sums) == 0.5


def test_a_modality_without_targets_does_not_count():
    assert float(mean_over_modalities(torch.tensor([6.0, 0.0]), torch.tensor([3.0, 0.0]))) == 2.0
    assert float(mean_over_modalities(torch.zeros(2), torch.zeros(2))) == 0.0


def test_info_nce_by_hand():
    queries = torch.tensor([[1.0, 0.0]])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    there = torch.tensor([True, True, False])
    found = info_nce(queries, keys, torch.tensor([0]), torch.tensor(2.0), there)
    assert float(found) == pytest.approx(-2 + math.log(math.exp(2) + 1))


def naive(values, there, scale, kind):
    """Loops over comparisons, directions, rows and candidates; means of means."""
    unit = torch.nn.functional.normalize(values, dim=-1)
    found = []
    for one, others in contrast_pairs(values.shape[1], kind):
        for left, right in ((one, others), (others, one)):
            losses = []
            for row in range(len(values)):
                if not (there[row, list(left)].any() and there[row, list(right)].any()):
                    continue
                sides = {}
                for other in range(len(values)):
                    kept = [unit[other, m] for m in right if there[other, m]]
                    if kept:
                        sides[other] = torch.nn.functional.normalize(sum(kept), dim=0)
                query = torch.nn.functional.normalize(sum(unit[row, m] for m in left if there[row, m]), dim=0)
                logits = {other: float(scale * query @ key) for other, key in sides.items()}
                losses.append(math.log(sum(math.exp(x) for x in logits.values())) - logits[row])
            found.append(sum(losses) / len(losses))
    return sum(found) / len(found)


@pytest.mark.parametrize("kind", ["pairwise", "leave_one_out"])
def test_contrast_is_the_naive_loop(kind):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(5, 3, 4, generator=generator)
    there = torch.ones(5, 3, dtype=torch.bool)
    there[1, 2] = there[3, 0] = False
    sums, counts = contrastive_sums(values, (values, there, 0), there, torch.tensor(0.7), kind)
    expected = naive(values, there, math.exp(0.7), kind)
    assert float(mean_over_modalities(sums, counts)) == pytest.approx(expected, rel=1e-5)


def test_two_modalities_have_one_contrast():
    values = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    there = torch.ones(4, 2, dtype=torch.bool)
    both = [
        float(mean_over_modalities(*contrastive_sums(values, (values, there, 0), there, torch.tensor(1.0), kind)))
        for kind in ("pairwise", "leave_one_out")
    ]
    assert both[0] == pytest.approx(both[1], rel=1e-6)


def test_the_scale_stays_between_one_and_a_hundred():
    values = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(1))
    there = torch.ones(4, 2, dtype=torch.bool)

    def loss(log_scale):
        return float(contrastive_sums(values, (values, there, 0), there, torch.tensor(log_scale), "pairwise")[0].sum())

    assert loss(-3.0) == loss(0.0)
    assert loss(9.0) == loss(4.605)


def test_pairs():
    assert contrast_pairs(3, "pairwise") == [((0,), (1,)), ((0,), (2,)), ((1,), (2,))]
    assert contrast_pairs(3, "leave_one_out") == [((0,), (1, 2)), ((1,), (0, 2)), ((2,), (0, 1))]
    assert len(contrast_pairs(6, "pairwise")) == len(list(itertools.combinations(range(6), 2)))
