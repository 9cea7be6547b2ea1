"""Attention against chance, alignment in time, and units, on models whose answer is known."""

import numpy as np
import pytest
import torch
from physiomae.analyze import attention_report, swap_within, unit_report
from physiomae.batch import MultimodalBatch
from physiomae.model import PhysioMAE


@pytest.fixture
def batch(config, arrays):
    return MultimodalBatch.from_arrays(config, arrays)


def attend(model, score):
    """Give every block attention by `score`(modality, time) of queries and keys instead of its own."""
    places = torch.arange(8)
    owner, time = places // 4, places % 4
    weights = torch.tensor(
        [[score(int(owner[q]), int(time[q]), int(owner[k]), int(time[k])) for k in range(8)] for q in range(8)]
    )
    weights = weights / weights.sum(1, keepdim=True)
    for block in model.blocks:
        plain = block.forward

        def forward(x, mask, keep=None, plain=plain):
            if keep is not None:
                keep.append(weights.expand(len(x), 2, 8, 8))
            return plain(x, mask)

        block.forward = forward


def test_even_attention_is_chance(model, batch):
    attend(model, lambda *_: 1.0)
    report = attention_report(model, batch)
    assert report.cross == pytest.approx(1)
    assert report.aligned == pytest.approx(1)
    np.testing.assert_allclose(report.mass, np.full((2, 2), 0.5), atol=1e-6)
    assert report.received == pytest.approx({"eeg": 1, "ecg": 1})


def test_attention_to_others_and_at_the_same_time(model, batch):
    attend(model, lambda qm, qt, km, kt: 3.0 if qm != km else 1.0)
    assert attention_report(model, batch).cross == pytest.approx((12 / 16) / 0.5)
    attend(model, lambda qm, qt, km, kt: 1.0 if abs(qt - kt) <= 1 or qm == km else 0.0)
    report = attention_report(model, batch)
    near = 10 / 16  # pairs of the four patches at most one apart
    assert report.aligned == pytest.approx(1 / near)
    attend(model, lambda qm, qt, km, kt: 4.0 if km == 1 else 1.0)
    received = attention_report(model, batch).received
    assert received["ecg"] == pytest.approx(0.8 / 0.5)
    assert received["eeg"] == pytest.approx(0.2 / 0.5)


def test_chance_counts_the_tokens_that_there_are(config, arrays, model):
    """With gaps an even spread is still 1."""
    arrays["ecg"][2:, :, :16] = np.nan
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight.zero_()
            block.qkv.bias.zero_()
    report = attention_report(model, MultimodalBatch.from_arrays(config, arrays))
    assert report.cross == pytest.approx(1, abs=1e-5)
    assert report.aligned == pytest.approx(1, abs=1e-5)


def test_late_fusion_and_single_modalities_have_no_attention_between(config, batch, model):
    with pytest.raises(ValueError, match="joint model"):
        attention_report(PhysioMAE(config, late_fusion=True), batch)
    with pytest.raises(ValueError, match="two modalities"):
        attention_report(model, batch.only(["eeg"]))
    with pytest.raises(ValueError, match="two modalities"):
        unit_report(model, batch.only(["eeg"]), np.zeros(6))


def test_units_that_hear_one_modality_are_not_distributed(model, batch):
    with torch.no_grad():
        model.stems["ecg"].weight.zero_()
    report = unit_report(model, batch, np.zeros(6))
    assert report.distributedness == pytest.approx(0, abs=1e-3)
    np.testing.assert_allclose(report.shares[:, 0], 1, atol=1e-4)


def test_shares_add_up_and_more_of_a_modality_gives_it_more(model, batch):
    plain = unit_report(model, batch, np.zeros(6))
    np.testing.assert_allclose(plain.shares.sum(1), 1)
    assert 0 < plain.distributedness < 1
    with torch.no_grad():
        model.stems["ecg"].weight.mul_(10)
    assert unit_report(model, batch, np.zeros(6)).shares[:, 1].mean() > plain.shares[:, 1].mean()


def test_swaps_stay_within_the_subject():
    subjects = np.array([0, 1, 0, 1, 2, 0])
    partner = swap_within(subjects, 3)
    assert sorted(partner) == list(range(6))
    assert (subjects[partner] == subjects).all()
    assert (partner != np.arange(6)).sum() == 5, "only the lone window is its own partner"


def test_a_subject_of_one_window_each_shows_nothing(model, batch):
    assert unit_report(model, batch, np.arange(6)).distributedness == 0.0
