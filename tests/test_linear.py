"""artist20.linear and artist20.candidates: classifiers that are solved for, and their choice."""

import numpy as np
import pytest
import torch
from conftest import toy_network
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from artist20 import candidates, linear
from artist20.results import Predictions, SongRecord
from task2_train import STRONG

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 2, 3], 8)
X = RNG.normal(size=(24, 5)) + RNG.normal(size=(4, 5))[LABELS]
WIDE = RNG.normal(size=(24, 40)) + RNG.normal(size=(4, 40))[LABELS]  # more inputs than songs


@pytest.mark.parametrize("rows", [X, WIDE])
@pytest.mark.parametrize("classes", [[0, 2, 3], [0, 2]])
@pytest.mark.parametrize(
    ("solver", "model"),
    [
        ("shrinkage LDA", LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")),
        ("logistic regression", LogisticRegression(max_iter=10_000)),
    ],
)
def test_logits_are_scikit_learns(solver, model, classes, rows, monkeypatch):
    monkeypatch.setattr(linear, "PRIOR_SONGS", 0)
    kept = np.isin(LABELS, classes)
    x, labels = rows[kept], LABELS[kept]
    weight, bias = linear.solve(solver, x, labels, 5)
    found = softmax(x @ weight.T + bias, axis=1)
    expected = model.fit(x, labels).predict_proba(x)
    np.testing.assert_allclose(found[:, classes], expected, atol=1e-5)
    absent = [label for label in range(5) if label not in classes]
    assert (found[:, absent] == 0).all()
    assert weight.dtype == bias.dtype == np.float32


@pytest.mark.parametrize("rows", [X, WIDE])
# Not "auto" of three rows a song: what Ledoit and Wolf estimate depends on the number of rows.
@pytest.mark.parametrize(("shrinkage", "rows_per_song"), [("auto", 1), (0.3, 1), (0.3, 3)])
def test_means_of_few_songs_are_drawn_to_the_mean_of_all(rows, shrinkage, rows_per_song):
    kept = np.arange(24) < 18  # eight, eight and two songs
    x, labels = rows[kept], LABELS[kept]
    plain = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(x, labels)
    share = np.array([8 / 13, 8 / 13, 2 / 7])[:, None]
    means = share * plain.means_ + (1 - share) * x.mean(axis=0)
    weight = means @ np.linalg.inv(plain.covariance_)
    expected = x @ weight.T - (means * weight).sum(axis=1) / 2 + np.log(plain.priors_)
    every_row = np.repeat(np.arange(18), rows_per_song)
    model = linear.ShrinkageLDA(shrinkage, rows_per_song)
    model.fit(x[every_row], labels[every_row])
    np.testing.assert_allclose(model.decision_function(x), expected)
    assert (model.predict(x) == model.classes_[expected.argmax(axis=1)]).all()


def test_drawn_means_name_more_songs_where_songs_are_few(monkeypatch):
    rng = np.random.default_rng(1)
    labels, n_inputs = np.repeat(np.arange(20), 40), 200
    x = rng.normal(size=(800, n_inputs)) + 0.3 * rng.normal(size=(20, n_inputs))[labels]
    fit = np.arange(800) % 40 < np.resize([4, 25], 20)[labels]  # four songs of each, or 25
    known = linear.ShrinkageLDA(0.5).fit(x[fit], labels[fit])
    monkeypatch.setattr(linear, "PRIOR_SONGS", 0)
    plain = linear.ShrinkageLDA(0.5).fit(x[fit], labels[fit])
    drawn, undrawn = ((of.predict(x[~fit]) == labels[~fit]).mean() for of in (known, plain))
    assert drawn > undrawn + 0.05


def test_the_nearest_centroid_is_by_cosine():
    model = toy_network("panns", 4, 5, hidden=(), solver="nearest centroid", temperature=0.5).eval()
    x = model.embed(torch.from_numpy(X).float()).numpy()
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    weight, bias = map(torch.from_numpy, linear.solve("nearest centroid", x, LABELS, 4))
    model.output.load_state_dict({"weight": weight, "bias": bias})
    with torch.inference_mode():
        found = model(torch.from_numpy(3 * X).float()).numpy()
    for label in (0, 2, 3):
        centroid = x[label == LABELS].mean(axis=0)
        cosines = x @ centroid / np.linalg.norm(centroid)
        np.testing.assert_allclose(found[:, label], cosines / 0.5, atol=1e-5)
    assert (found[:, 1] < -1e6).all()


def test_probabilities_of_a_solved_classifier_are_made_likeliest():
    labels = np.repeat([0, 1], 50)
    logits = np.where(np.arange(2) == labels[:, None], 30.0, 0.0)
    logits[::4] = logits[::4, ::-1]  # a quarter is wrong, and as sure
    songs = [SongRecord(path="x", artist="ab"[label], album="x") for label in labels]
    given = Predictions(classes=["a", "b"], songs=songs, scores={"x": softmax(logits, axis=1)})
    solved = candidates._calibrated(given, "x", candidates.replace(STRONG, solver="shrinkage LDA"))
    assert solved[1] == pytest.approx(30 / np.log(3), rel=1e-3)
    np.testing.assert_allclose(solved[0].scores["x"].max(axis=1), 0.75, atol=1e-3)
    warmer = candidates.replace(STRONG, solver="shrinkage LDA", temperature=5.0)
    assert candidates._calibrated(given, "x", warmer)[1] == pytest.approx(5 * solved[1])
    assert candidates._calibrated(given, "x", STRONG) == (given, 1.0)


def test_the_temperature_is_not_for_training():
    model = toy_network("panns", 4, 5, hidden=(), temperature=4.0)
    x = torch.from_numpy(X).float()
    assert torch.allclose(model(x), 4 * model.eval()(x))


@pytest.mark.parametrize("n_songs", [1, 2])
def test_lda_of_classes_of_hardly_any_songs_names_them(n_songs):
    labels = np.repeat(np.arange(4), n_songs)
    x = 0.1 * RNG.normal(size=(len(labels), 30)) + RNG.normal(size=(4, 30))[labels]
    weight, bias = linear.solve("shrinkage LDA", x, labels, 6)
    assert ((x @ weight.T + bias).argmax(axis=1) == labels).all()
    assert ((1000 * x @ weight.T + bias)[:, 4:].max(axis=1) < -1e5).all()


@pytest.mark.parametrize("n_songs", [2, 40])
@pytest.mark.parametrize("amplitude", [1e-6, 1.0, 1e9])
@pytest.mark.parametrize("shrinkage", ["auto", 0.3])
def test_lda_solves_for_inputs_far_out_of_scale(n_songs, amplitude, shrinkage):
    """As robust scaling leaves them; a fixed shrinkage then sees hardly any other."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), n_songs)
    x = rng.normal(size=(len(labels), 20)) + 3 * rng.normal(size=(5, 20))[labels]
    x[::3, 4] *= amplitude
    x[:, 7] = 0.1  # never varies, but for rounding
    model = linear.ShrinkageLDA(shrinkage).fit(x, labels)
    assert np.isfinite(model.decision_function(x)).all()
    if shrinkage == "auto" or amplitude <= 1:
        assert (model.predict(x) == labels).mean() > 0.9
