"""The estimators: aeon's own checks, scikit-learn's interface, lengths and channels, files, bad input."""

import json

import nots
import numpy as np
import pytest
from aeon.testing.estimator_checking import check_estimator
from nots.checkpoint import save_pretrained
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

ESTIMATORS = ("Transformer", "Classifier", "Regressor", "Imputer", "AnomalyDetector", "Forecaster")
FAST = {"num_steps": 2, "adapt_steps": 2, "random_state": 0}


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(24, 2, 40)), np.array(["flat", "walk"] * 12)
    X[1::2] = X[1::2].cumsum(-1)
    return X, y


@pytest.mark.parametrize("name", ESTIMATORS)
def test_aeons_own_checks_pass(name):
    found = check_estimator(getattr(nots, f"NoTS{name}"))
    assert len(found) > 15
    assert {check: result for check, result in found.items() if result != "PASSED"} == {}


def test_aeons_checks_do_find_faults():
    class Broken(nots.NoTSTransformer):
        def _transform(self, X, y=None):
            self.num_steps += 1
            return super()._transform(X, y)

    found = check_estimator(Broken)
    assert any(result != "PASSED" for result in found.values())


def test_a_classifier_learns_and_is_the_same_again(data):
    X, y = data
    made = nots.NoTSClassifier("tiny", num_steps=20, adapt_steps=80, random_state=3).fit(X[:16], y[:16])
    assert made.score(X[16:], y[16:]) >= 0.75
    again = clone(made).fit(X[:16], y[:16])
    np.testing.assert_array_equal(again.predict_proba(X), made.predict_proba(X))
    assert made.predict_proba(X).sum(1) == pytest.approx(1.0)


def test_a_pipeline_of_scikit_learn(data):
    X, y = data
    encoder = nots.NoTSTransformer("tiny", num_steps=5, random_state=0)
    pipeline = make_pipeline(encoder, LogisticRegression()).fit(X, y)
    assert set(pipeline.predict(X)) <= {"flat", "walk"}
    np.testing.assert_array_equal(clone(pipeline).fit(X, y).predict_proba(X), pipeline.predict_proba(X))


def test_unequal_lengths_and_labels_of_the_last_batch(data):
    X, y = data
    ragged = [one[:, : 40 - place % 9] for place, one in enumerate(X)]
    made = nots.NoTSClassifier("tiny", **FAST).fit(ragged, y)
    assert made.predict(ragged[:7]).shape == (7,)
    assert nots.NoTSTransformer("tiny", num_steps=2).fit_transform(ragged).shape == (24, 16)


def test_a_pretrained_model_transfers_to_other_channels_and_lengths(data, tmp_path, model, config):
    X, y = data
    save_pretrained(model, tmp_path)
    three = np.concatenate([X, X[:, :1]], axis=1)
    made = nots.NoTSClassifier(str(tmp_path), mode="frozen", **FAST).fit(three, y)
    assert made.network_.trunk.config == config
    assert made.predict(three).shape == (24,)
    with pytest.raises(ValueError, match="3 channels for a model of 2"):
        nots.NoTSTransformer(str(tmp_path)).fit(three)
    with pytest.raises(ValueError, match="did you mean 'tiny'"):
        nots.NoTSTransformer("tinny").fit(X)
    with pytest.raises(ValueError, match="did you mean 'nots'"):
        nots.NoTSTransformer("tiny", objective="not").fit(X)


def test_one_channel_embeds_others_side_by_side(data):
    X, _ = data
    trunk = nots.NoTSTransformer("tiny", num_steps=2, random_state=0).fit(X[:, :1]).network_
    found = nots.NoTSTransformer(trunk).fit(X).transform(X)
    np.testing.assert_allclose(found[:, :16], nots.NoTSTransformer(trunk).fit_transform(X[:, :1]), atol=1e-5)
    assert found.shape == (24, 32)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_what_is_saved_is_loaded(name, data, tmp_path):
    X, y = data
    kind, params = getattr(nots, f"NoTS{name}"), {k: v for k, v in FAST.items()}
    if name in ("Transformer", "AnomalyDetector"):
        params.pop("adapt_steps")
    if name in ("AnomalyDetector", "Forecaster"):
        train = (X[0, :1],)
        test = X[1, :1]
    else:
        train, test = (X, np.arange(24.0) if name == "Regressor" else y), X.copy()
    if name == "Imputer":
        test[:, :, 7:12] = np.nan
    made = kind(model="tiny", **params).fit(*train)
    made.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    ask = "transform" if name in ("Transformer", "Imputer") else "predict"
    np.testing.assert_array_equal(getattr(again, ask)(test), getattr(made, ask)(test))
    record = json.loads((tmp_path / "config.json").read_text())
    record["estimator"]["class"] = "Other"
    (tmp_path / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="holds Other"):
        kind.from_pretrained(tmp_path)


def test_a_regressor_answers_in_the_targets_units(data):
    X, _ = data
    y = 1000 + 10 * (np.arange(24) % 2) + 0.01 * np.arange(24)
    made = nots.NoTSRegressor("tiny", num_steps=10, adapt_steps=80, random_state=0).fit(X, y)
    assert made.predict(X).mean() == pytest.approx(1005, abs=4)


def test_an_imputer_changes_missing_values_alone(data):
    X = data[0].copy()
    X[3, 0, 4:9] = np.nan
    made = nots.NoTSImputer("tiny", num_steps=2, adapt_steps=5, random_state=0).fit(X)
    found = made.transform(X)
    seen = ~np.isnan(X)
    np.testing.assert_array_equal(found[seen], X[seen])
    assert np.isfinite(found).all()
    assert np.isnan(X[3, 0, 4:9]).all(), "the input is left alone"


def test_an_imputer_learns_to_beat_a_straight_line():
    t = np.arange(64)
    X = np.stack([np.sin(2 * np.pi * (t + shift) / 16) for shift in range(32)])[:, None]
    made = nots.NoTSImputer("tiny", num_steps=10, adapt_steps=120, mask_ratio=0.3, random_state=0).fit(X)
    holes = X[:8].copy()
    holes[:, :, 20:28] = np.nan
    from nots.windows import interpolate

    ours = np.abs(made.transform(holes) - X[:8])[:, :, 20:28].mean()
    line = np.abs(np.stack([interpolate(one) for one in holes]) - X[:8])[:, :, 20:28].mean()
    assert ours < 0.8 * line


def test_an_anomaly_stands_out():
    t = np.arange(400)
    normal, odd = np.sin(2 * np.pi * t / 20), np.sin(2 * np.pi * t / 20)
    odd[200:204] += np.array([2.0, -2.0, 2.0, -2.0])
    made = nots.NoTSAnomalyDetector("tiny", num_steps=100, random_state=0).fit(normal)
    scores = made.predict(odd)
    assert 198 <= scores.argmax() <= 205
    with pytest.raises(ValueError, match="must be a narrative"):
        nots.NoTSAnomalyDetector("tiny", objective="mae").fit(normal)


def test_a_forecast_of_a_line_goes_on():
    y = np.arange(80.0)
    made = nots.NoTSForecaster(1, "tiny", num_steps=2, adapt_steps=60, random_state=0).fit(y)
    assert made.predict(y) == pytest.approx(80, abs=3)
    assert made.iterative_forecast(y, 3).shape == made.direct_forecast(y[:30], 3).shape == (3,)
    with pytest.raises(ValueError, match="too few for `horizon` 5"):
        nots.NoTSForecaster(5, "tiny").fit(y[:12])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda X, y: (np.where(X > 2, np.nan, X), y), "issing values"),
        (lambda X, y: (np.where(X > 2, np.inf, X), y), "infinite"),
        (lambda X, y: (np.ones_like(X), y), "constant"),
        (lambda X, y: (X[..., :1], y), "length 1"),
        (lambda X, y: (X, np.array(["one"] * len(y))), "at least 2 unique labels"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value encountered")  # aeon looks at variances before our check
def test_bad_input_in_a_sentence(data, change, words):
    X, y = change(*data)
    with pytest.raises(ValueError, match=words):
        nots.NoTSClassifier("tiny", **FAST).fit(X, y)
