"""What the abstract and the challenge's description say, as far as no training is needed."""

from physiomae.config import OBJECTIVES, PRESETS
from physiomae.verdicts import SPECIFICATION, not_attempted


def test_the_challenges_thirteen_signals_are_the_presets():
    channels = [channel for modality in PRESETS["sleep"].modalities for channel in modality.channels]
    assert channels == [
        "F3-M2", "F4-M1", "C3-M2", "C4-M1", "O1-M2", "O2-M1", "E1-M2", "Chin1-Chin2", "ABD", "CHEST", "AIRFLOW",
        "SaO2", "ECG",
    ]  # fmt: skip
    assert PRESETS["sleep"].window_seconds == 30.0, "stages are scored every 30 s"
    assert PRESETS["sleep"].num_patches * len(PRESETS["sleep"].modalities) == 180


def test_every_objective_of_the_abstract_is_there():
    """Abstract: masked autoencoding, input modality dropout, late fusion with contrastive objectives."""
    assert OBJECTIVES["mae"].drop_prob == 0 < OBJECTIVES["mae_drop"].drop_prob
    assert OBJECTIVES["contrastive_pairwise"].late_fusion
    assert OBJECTIVES["contrastive_loo"].contrast == "leave_one_out"


def test_the_papers_patients_are_named_and_no_table_is_invented():
    """Abstract: 1,985 patients. No other number of it is known to us, so none is printed."""
    rows = not_attempted()
    assert {row.paper_value.value for row in rows} == {1985}
    assert "only the abstract is certain" in SPECIFICATION
    assert all(row.specification == SPECIFICATION for row in rows)
