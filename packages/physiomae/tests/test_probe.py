"""Probes by subject: metrics by hand, nothing of the test in the fit, every subset, fine-tuning, label budgets."""

import numpy as np
import pytest
from physiomae.batch import MultimodalBatch
from physiomae.evaluate import (
    embed_windows,
    finetune,
    hidden_r2,
    missing_modality_matrix,
    paired_difference,
    validation_loss,
)
from physiomae.probe import (
    LinearProbe,
    by_subject,
    classification_metrics,
    fit_probe,
    label_budgets,
    number_metrics,
    probe_metrics,
)


def clusters(num=200, seed=0):
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, 3, num)
    return draw.normal(size=(num, 6)) + 3 * np.eye(3)[labels] @ np.ones((3, 6)) * [1, -1, 0, 0, 0, 0] + np.pad(
        4 * np.eye(3)[labels], ((0, 0), (3, 0))
    ), labels


def test_classification_metrics_by_hand():
    truth = np.array([0, 0, 0, 0, 1, 1])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6], [0.2, 0.8], [0.6, 0.4]])
    found = classification_metrics(truth, scores, (0, 1))
    assert found["balanced_accuracy"] == (3 / 4 + 1 / 2) / 2
    assert found["macro_f1"] == pytest.approx((2 * 3 / 8 + 2 * 1 / 4) / 2)
    expected = (4 / 6) * (4 / 6) + (2 / 6) * (2 / 6)
    assert found["kappa"] == pytest.approx((4 / 6 - expected) / (1 - expected))
    assert found["auroc"] == 7 / 8
    assert found["auprc"] == pytest.approx((np.mean([1, 1, 1, 4 / 5]) + np.mean([1, 2 / 3])) / 2)


def test_a_class_that_does_not_occur_counts_in_nothing():
    found = classification_metrics(np.array([1, 1]), np.array([[0.1, 0.9, 0], [0.2, 0.7, 0.1]]), (0, 1, 2))
    assert found["balanced_accuracy"] == found["macro_f1"] == 1
    assert np.isnan(found["auroc"])


def test_number_metrics_by_hand():
    found = number_metrics(np.array([1.0, 2, 3]), np.array([2.0, 4, 6]))
    assert found == {"correlation": pytest.approx(1.0), "r2": pytest.approx(1 - 14 / 2)}
    assert number_metrics(np.array([1.0, 2, 3]), np.ones(3))["correlation"] == 0


def test_a_probe_is_sklearns_pipeline_in_one_map(tmp_path):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = clusters()
    probe = fit_probe(features, labels)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=300))
    expected = theirs.fit(features, labels).predict_proba(features)
    np.testing.assert_allclose(probe.scores(features), expected, atol=1e-6)
    two = labels < 2
    halves = fit_probe(features[two], labels[two])
    expected = theirs.fit(features[two], labels[two]).predict_proba(features[two])
    np.testing.assert_allclose(halves.scores(features[two]), expected, atol=1e-6)
    probe.save(tmp_path / "p.json")
    again = LinearProbe.load(tmp_path / "p.json")
    assert (again.predict(features) == probe.predict(features)).all()
    (tmp_path / "p.json").write_text("{}")
    with pytest.raises(ValueError, match="is no probe"):
        LinearProbe.load(tmp_path / "p.json")


def test_components_keep_what_varies_most():
    from sklearn.decomposition import PCA

    features, _ = clusters()
    target = PCA(1).fit_transform((features - features.mean(0)) / features.std(0))[:, 0]
    one = fit_probe(features, target, kind="number", components=1)
    assert abs(number_metrics(target, one.predict(features))["correlation"]) > 0.999
    other = fit_probe(features, features[:, 2], kind="number", components=1)
    assert abs(number_metrics(features[:, 2], other.predict(features))["correlation"]) < 0.5


def test_nan_is_the_training_mean_and_nothing_of_the_test_is_seen():
    features, labels = clusters()
    probe = fit_probe(features, labels)
    holes = features[:5].copy()
    holes[:, 3] = np.nan
    filled = holes.copy()
    filled[:, 3] = features[:, 3].mean()
    np.testing.assert_allclose(probe.scores(holes), probe.scores(filled))
    np.testing.assert_allclose(probe.scores(holes[:1]), probe.scores(holes)[:1], rtol=1e-12)
    with pytest.raises(ValueError, match="missing in all training windows"):
        fit_probe(np.full((4, 2), np.nan), np.array([0, 1, 0, 1]))
    with pytest.raises(ValueError, match="two classes"):
        fit_probe(features, np.zeros(len(features), int))


def test_by_subject_and_paired():
    subjects = np.array(["a", "b", "a", "c"])
    right = np.array([1, 0, 0, 1])
    ours = by_subject(lambda rows: {"hit": float(right[rows].mean())}, subjects)
    assert ours == {"a": {"hit": 0.5}, "b": {"hit": 0.0}, "c": {"hit": 1.0}}
    other = {"a": {"hit": 0.25}, "c": {"hit": 0.5}, "d": {"hit": 1.0}}
    assert paired_difference(ours, other, "hit").tolist() == [0.25, 0.5]


def test_label_budgets_take_whole_subjects():
    features, labels = clusters()
    subjects = np.repeat(np.arange(10), 20)
    rows = label_budgets((features, labels, subjects), clusters(seed=1), (1, 4, 99))
    assert [(row["subjects"], row["windows"]) for row in rows] == [(1, 20), (4, 80), (10, 200)]
    assert rows[2]["balanced_accuracy"] > 0.8


@pytest.fixture
def task(config):
    """Windows whose label is the size of the ECG."""
    draw = np.random.default_rng(0)
    labels = np.arange(48) % 2
    arrays = {
        m.name: draw.normal(size=(48, len(m.channels), config.window_samples(m))).astype(np.float32)
        for m in config.modalities
    }
    arrays["ecg"] *= 1 + 3 * labels[:, None, None]
    return MultimodalBatch.from_arrays(config, arrays), labels


def test_the_matrix_has_every_subset_and_only_the_right_modality_tells(model, task):
    batch, labels = task
    subjects = np.arange(48) % 4
    train, test = (batch.rows(slice(0, 32)), labels[:32]), (batch.rows(slice(32, 48)), labels[32:], subjects[32:])
    rows = missing_modality_matrix(model, train, test)
    assert [(row["available"], row["trained_on"]) for row in rows] == [
        ("eeg", "all"), ("eeg", "same"), ("ecg", "all"), ("ecg", "same"), ("eeg+ecg", "all"), ("eeg+ecg", "same"),
    ]  # fmt: skip
    assert rows[3]["balanced_accuracy"] > 0.9
    assert rows[1]["balanced_accuracy"] < 0.8
    assert rows[4]["balanced_accuracy"] == rows[5]["balanced_accuracy"], "all is the same as all"
    assert set(rows[0]["by_subject"]) == {"0", "1", "2", "3"}


def test_fine_tuning_learns_the_label_and_keeps_any_subset(model, task):
    batch, labels = task
    classifier = finetune(model, batch, labels, num_steps=100, learning_rate=5e-3)
    guessed = classifier(batch).argmax(1).numpy()
    assert (guessed == labels).mean() > 0.9
    assert classifier(batch, ["ecg"]).shape == (48, 2)


def test_reconstruction_scores(model, task):
    batch, _ = task
    assert validation_loss(model, batch) == validation_loss(model, batch), "masks never change"
    found = hidden_r2(model, batch)
    assert set(found) == {"eeg", "ecg"}
    assert max(found.values()) < 0.2, "random weights predict nothing"


def test_embeddings_do_not_depend_on_the_batch(model, task):
    batch, _ = task
    whole = embed_windows(model, batch)
    np.testing.assert_allclose(embed_windows(model, batch.rows(slice(5, 9))), whole[5:9], atol=1e-5)


def test_numbers_are_probed_by_ridge():
    features, _ = clusters()
    target = features @ np.arange(6.0)
    probe = fit_probe(features, target, kind="number")
    assert probe_metrics(probe, features, target)["r2"] > 0.999
    assert probe.predict(features).shape == (200,)
