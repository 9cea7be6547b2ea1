"""The paper's tables, as far as arithmetic reaches: what they print must obey the identities of `flips`."""

import pytest

# Table 4: task, update, acc1, acc2, acc of the compatible v2, NFR, its change, its change in per cent.
TABLE_4 = [
    ("HellaSwag", "Llama 1-2", 72.74, 72.91, 79.53, 10.27, -4.17, -40.60),
    ("HellaSwag", "Phi 1.5-2", 69.76, 78.02, 77.86, 3.09, 0.24, 7.77),
    ("HellaSwag", "Phi 1-1.5", 32.38, 69.76, 69.86, 2.47, -0.13, -5.26),
    ("HellaSwag", "Vicuna 1.3-1.5", 72.19, 71.54, 78.10, 10.48, -4.06, -38.74),
    ("PIQA", "Llama 1-2", 74.86, 74.76, 79.27, 11.59, -3.97, -34.25),
    ("PIQA", "Phi 1.5-2", 74.65, 78.78, 78.94, 6.20, -0.11, -1.77),
    ("PIQA", "Phi 1-1.5", 59.03, 74.65, 74.70, 7.78, -0.05, -0.64),
    ("PIQA", "Vicuna 1.3-1.5", 74.70, 75.52, 78.89, 9.90, -2.88, -29.09),
]
# Table 5, GSM8K: the same columns.
TABLE_5 = [
    ("GSM8K", "Llama 1-2", 24.45, 33.09, 36.66, 8.49, -0.91, -10.72),
    ("GSM8K", "Phi 1.5-2", 30.02, 48.18, 50.68, 5.88, -1.71, -29.08),
    ("GSM8K", "Phi 1-1.5", 3.41, 30.02, 26.99, 2.01, -0.04, -1.99),
    ("GSM8K", "Vicuna 1.3-1.5", 26.72, 29.91, 31.84, 11.60, -0.99, -8.53),
]
# Table 6, SAMSum: ROUGE-1 of v1, v2, compatible v2; NFR, its change, in per cent.
TABLE_6 = [(48.96, -7.81, -15.95), (54.70, -15.02, -27.46), (32.60, -5.74, -17.61), (49.69, -10.98, -22.10)]
# Table 7, masks on PIQA, Llama 1-2: change of NFR, in per cent, of PFR, of accuracy.
TABLE_7 = {
    "muscle": (-3.97, -34.25, 0.54, 4.51),
    "old_correct": (-2.29, -19.76, -0.60, 1.68),
    "all_old": (-2.99, -25.80, -0.82, 2.17),
    "muscle + CE": (-3.10, -26.75, 0.38, 3.48),
    "ll_token + CE": (-2.12, -18.29, -0.49, 1.63),
    "ll_sequence + CE": (-1.96, -16.91, 0.05, 2.01),
}
ROUNDING = 0.0151  # three figures printed to 0.01


@pytest.mark.parametrize("row", TABLE_4 + TABLE_5, ids=lambda row: f"{row[0]}-{row[1]}")
def test_negative_flips_fit_the_accuracies(row):
    _, _, old, new, compatible, nfr, change, _ = row
    for level, rate in ((new, nfr), (compatible, nfr + change)):
        assert rate <= min(old, 100 - level), "no more flips than right answers before, or errors now"
        assert level - old + rate >= 0, "PFR, from acc2 = acc1 - NFR + PFR"
        assert 0 <= 1 - rate / old <= 1, "BTC"


@pytest.mark.parametrize("nfr, change, percent", [row[5:] for row in TABLE_4 + TABLE_5] + TABLE_6)
def test_relative_changes_follow_from_the_absolute(nfr, change, percent):
    assert 100 * change / nfr == pytest.approx(percent, abs=0.5 * 0.01 * 100 / nfr + 0.02)


@pytest.mark.parametrize("mask", TABLE_7)
def test_accuracy_moves_by_the_flips(mask):
    nfr, percent, pfr, accuracy = TABLE_7[mask]
    assert pfr - nfr == pytest.approx(accuracy, abs=ROUNDING)
    assert 100 * nfr / 11.59 == pytest.approx(percent, abs=0.06)


def test_large_gains_come_with_better_answers():
    """The reading that asks for a control: wherever NFR falls by over 20 %, accuracy rises by over two points."""
    large = [row for row in TABLE_4 + TABLE_5 if row[7] < -20]
    assert len(large) == 5 and all(row[4] - row[3] > 2 for row in large)
