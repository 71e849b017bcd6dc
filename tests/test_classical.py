"""The search against scikit-learn's own; folds; segments; scores; models on disk."""

import json
import os
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import skops.io
from conftest import SMALL_GRIDS, make_songs
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.model_selection import GridSearchCV, ParameterGrid
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler, StandardScaler

from artist20 import Note, UserError, classical, features, results
from artist20.classical import Rows
from artist20.results import Candidate, FitSettings, Segments

SMALL = {**SMALL_GRIDS, "lda": [{"shrinkage": [0.1, 0.9, "auto"]}]}
MODELS = list(SMALL)
AGAIN = "task1_train.py --overwrite"


def make_rows(**sizes) -> Rows:
    """Rows of one per song."""
    songs = make_songs(**sizes)
    return Rows(songs.X, np.arange(len(songs.y)), songs.y, songs.albums, songs.names)


def fit_settings(cv="album", seed=0) -> FitSettings:
    return FitSettings(dataset="toy", features="0", cv=cv, seed=seed)


def search(name, train, grid=None, cv="album", workers=1):
    grid = grid or SMALL[name]
    return classical.search(name, train, grid, fit_settings(cv), workers, None)


def first_point(name) -> dict:
    return {key: values[0] for key, values in SMALL[name][0].items()}


# --- search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["album", "song", "an artist of one album"])
def test_search_equals_scikit_learns(name, kind):
    train = make_rows()
    cv = "song" if kind == "song" else "album"
    if kind.startswith("an artist"):  # whom the model that scores her songs does not know
        others = ~np.isin(train.albums, [f"artist 1/album {i}" for i in (0, 2, 3)])
        train = train.of_songs(np.flatnonzero(others))
    found, _ = search(name, train, cv=cv)

    pipeline = make_pipeline(
        classical.make_transforms(name, train), classical.make_classifier(name, train, 0)
    )
    step = pipeline.steps[-1][0]
    grid = [{f"{step}__{key}": values for key, values in part.items()} for part in SMALL[name]]
    folds = classical.split_folds(train, cv, 0)
    reference = GridSearchCV(pipeline, grid, scoring="accuracy", cv=folds).fit(train.X, train.y)

    expected = {
        json.dumps({key.split("__")[1]: value for key, value in point.items()}, sort_keys=True): i
        for i, point in enumerate(reference.cv_results_["params"])
    }
    assert len(found) == len(expected)
    for row in found:
        i = expected[json.dumps(row.params, sort_keys=True)]
        assert row.mean == pytest.approx(reference.cv_results_["mean_test_score"][i])
        assert row.std == pytest.approx(reference.cv_results_["std_test_score"][i])
        of_folds = [reference.cv_results_[f"split{k}_test_score"][i] for k in range(len(folds))]
        assert row.folds == pytest.approx(of_folds)
    best = {key.split("__")[1]: value for key, value in reference.best_params_.items()}
    assert found[0].params == best
    means = [row.mean for row in found]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) > 1  # or nothing was compared


SCALERS = {"robust": RobustScaler(), "standard": StandardScaler()}
SELECTIONS = {20: SelectKBest(k=20), None: "passthrough"}


@pytest.mark.parametrize("name", ["svm", "random_forest", "lda"])
def test_a_wide_search_equals_scikit_learns(name, monkeypatch):
    """Scaler and number of features are fitted once per fold, for all points that share them."""
    train = make_rows()
    wide = {"scaler": list(SCALERS), "k": list(SELECTIONS)}
    made = []
    make_transforms = classical.make_transforms
    monkeypatch.setattr(
        classical, "make_transforms", lambda *of: made.append(of) or make_transforms(*of)
    )
    found, held_out = search(name, train, [{**part, **wide} for part in SMALL[name]])
    folds = classical.split_folds(train, "album", 0)
    assert len(made) == len(folds) * 4

    model = classical.make_classifier(name, train, 0)
    steps = [("scaler", None), ("k", None), ("model", model)]
    grid = [
        {
            "scaler": list(SCALERS.values()),
            "k": list(SELECTIONS.values()),
            **{f"model__{key}": values for key, values in part.items()},
        }
        for part in SMALL[name]
    ]
    pipeline = Pipeline([("varying", VarianceThreshold()), *steps])
    reference = GridSearchCV(pipeline, grid, scoring="accuracy", cv=folds).fit(train.X, train.y)
    expected = {}
    for mean, point in zip(
        reference.cv_results_["mean_test_score"], reference.cv_results_["params"], strict=True
    ):
        names = {key.removeprefix("model__"): str(value) for key, value in point.items()}
        expected[json.dumps(names, sort_keys=True)] = pytest.approx(mean)
    objects = {"scaler": SCALERS, "k": SELECTIONS}
    assert {
        json.dumps(
            {key: str(objects.get(key, {}).get(of, of)) for key, of in row.params.items()},
            sort_keys=True,
        ): row.mean
        for row in found
    } == expected
    best = classical.fit_model(name, train.of_songs(folds[0][0]), found[0].params, 0)
    scores = classical.song_scores(best, train.of_songs(folds[0][1]))
    np.testing.assert_allclose(held_out[folds[0][1]], scores, rtol=1e-5)


def test_the_wide_search_has_the_homeworks_points_and_more():
    homework = classical.make_grids("song", "homework")
    assert homework == classical.GRIDS["song"]
    wide = classical.make_grids("song", "wide")
    assert list(wide) == [*homework, "lda"]
    for name, grid in homework.items():
        own = ParameterGrid(grid)
        points = list(ParameterGrid(wide[name]))
        tried = {(point["scaler"], point["k"]) for point in points}
        scalers = ["robust"] if name == "random_forest" else ["robust", "standard"]
        assert tried == {(scaler, k) for scaler in scalers for k in (100, 300, None)}
        assert len(points) == len(own) * len(tried)
        assert all(classical.of_classifier(point) in own for point in points)
    of_segments = classical.make_grids("segment", "wide")
    assert list(of_segments) == ["logistic_regression", "lda"]
    for point in ParameterGrid(of_segments["logistic_regression"]):
        assert classical.of_classifier(point) in ParameterGrid(
            classical.GRIDS["segment"]["logistic_regression"]
        )
        assert point["scaler"] == "standard"


def test_two_processes_find_what_one_finds():
    train = make_rows()
    alone, scores = search("random_forest", train)
    together, same_scores = search("random_forest", train, workers=2)
    assert alone == together
    assert np.array_equal(scores, same_scores)


def test_folds_whose_classes_differ_in_exact_values():
    """The nearest neighbour, by hand; c has one album, and is unknown when it is held out."""
    songs = {"a/0": [0, 1], "a/1": [2, 3], "b/0": [10, 11], "b/1": [12, 13], "c/0": [14, 16]}
    albums = np.repeat(list(songs), 2)
    y = np.array([album[0] for album in albums])
    X = np.concatenate(list(songs.values()))[:, None].astype(np.float32)
    train = Rows(X, np.arange(10), y, albums, ["mel"])
    folds = classical.split_folds(train, "album", 0)
    held_out = [np.unique(albums[held]).tolist() for _, held in folds]
    assert held_out == [["b/0", "c/0"], ["a/0"], ["a/1"], ["b/1"]]

    point = {"n_neighbors": 1, "weights": "uniform"}
    grid = [{key: [value] for key, value in point.items()}]
    (found,), scores = search("knn", train, grid)
    without_c = [[0, 1, -classical.UNKNOWN]] * 2
    of_b1 = [[0, 1, 0], [0, 0, 1]]  # 13 is nearer to 14 than to 11
    assert scores.tolist() == [[1, 0, 0]] * 4 + without_c + of_b1 + without_c
    folds_top1 = [0.5, 1, 1, 0.5]
    assert found == Candidate(
        params=point, mean=0.75, std=0.25, folds=folds_top1, top1=0.7, stopped_early=0
    )


@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("name", ["svm", "knn"])
def test_an_artist_whom_a_fold_does_not_know_is_last(name, missing):
    classes = np.array(["a", "b", "c"])
    known = np.delete(np.arange(3), missing)
    fit = Rows(np.array([[0.0], [1.0]]), np.arange(2), classes[known], np.array([]), ["x"])
    held_out = Rows(  # the first song has two segments
        np.array([[0.1], [0.2], [0.9], [0.4]]), np.array([0, 0, 1, 2]), classes, np.array([]), ["x"]
    )
    point = {"n_neighbors": 1} if name == "knn" else {"kernel": "linear", "C": 100.0}
    (scores,), stopped = classical.fold_scores(
        classical.make_classifier(name, fit, 0), [point], fit, held_out, classes
    )
    assert not stopped
    assert (scores[:, missing] == scores[:, known].min(axis=1) - classical.UNKNOWN).all()
    if name == "knn":
        assert scores[:, known].tolist() == [[1, 0], [0, 1], [1, 0]]
    else:  # the line between 0 and 1, and the mean of 0.1 and 0.2
        np.testing.assert_allclose(scores[:, known[1]], [-0.7, 0.8, -0.2], atol=1e-6)
        assert (scores[:, known[0]] == -scores[:, known[1]]).all()


@pytest.mark.parametrize("name", MODELS)
def test_held_out_scores_are_of_the_model_that_did_not_see_the_album(name):
    train = make_rows()
    found, held_out_scores = search(name, train)
    classes = np.unique(train.y)
    assert held_out_scores.shape == (len(train.y), len(classes))
    folds = classical.split_folds(train, "album", 0)
    for (fit, held_out), accuracy in zip(folds, found[0].folds, strict=True):
        model = classical.fit_model(name, train.of_songs(fit), found[0].params, 0)
        scores = classical.song_scores(model, train.of_songs(held_out))
        np.testing.assert_allclose(held_out_scores[held_out], scores, rtol=1e-5)
        guesses = classes[scores.argmax(axis=1)]
        assert (guesses == train.y[held_out]).mean() == pytest.approx(accuracy)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_fitted_on_the_held_out_songs(name):
    """A held-out song that is all wrong changes nothing of what is said of the others."""
    train = make_rows()
    grid = classical.one_point(first_point(name))
    (fit, held_out), *_ = classical.split_folds(train, "album", 0)
    _, before = search(name, train, grid)
    X = train.X.copy()
    X[held_out[0]] = 1e6
    _, after = search(name, replace(train, X=X), grid)
    np.testing.assert_allclose(after[held_out[1:]], before[held_out[1:]])
    assert not np.allclose(after[fit], before[fit])  # whose models did see it


def test_neighbours_are_no_more_than_a_fold_has_rows():
    train = make_rows(n_artists=3, n_albums=2, n_songs=2)
    smallest = min(len(fit) for fit, _ in classical.split_folds(train, "album", 0))
    found, _ = search("knn", train, [{"n_neighbors": [3, 5, 7, 9, 11, 99]}])
    tried = sorted(row.params["n_neighbors"] for row in found)
    assert tried == [*(n for n in (3, 5, 7, 9, 11) if n < smallest), smallest]
    assert len(search("knn", train, [{"n_neighbors": [99]}])[0]) == 1


def test_the_linear_model_has_converged():
    train = make_rows(n_artists=5, n_albums=5)
    model = classical.fit_model("logistic_regression", train, {"C": 0.1}, 0)
    exact = classical.fit_model("logistic_regression", train, {"C": 0.1, "tol": 1e-8}, 0)
    np.testing.assert_allclose(
        classical.song_scores(model, train), classical.song_scores(exact, train), atol=2e-3
    )


def test_constant_columns_leave_fewer_components():
    train = make_rows(n_features=12)
    X = train.X.copy()
    X[:, 2:] = 1
    for name in ("svm", "knn"):
        rows = replace(train, X=X, level="segment")
        model = classical.fit_model(name, rows, first_point(name), 0)
        assert model["pca"].n_components_ == 2


def test_the_grids_are_the_homeworks():
    grids = classical.GRIDS["song"]
    knn = grids["knn"][0]
    assert knn["n_neighbors"] == [3, 5, 7, 9, 11, 13, 15]
    assert "distance" in knn["weights"]
    kernels = [kernel for part in grids["svm"] for kernel in part["kernel"]]
    assert kernels == ["rbf", "linear", "poly"]
    assert grids["random_forest"][0]["n_estimators"] == [100, 200, 300]


# --- folds -------------------------------------------------------------------------------------


def test_albums_are_never_split():
    train = make_rows(n_artists=5, n_albums=4, n_songs=3)
    folds = classical.split_folds(train, "album", 0)
    assert len(folds) == 5
    for fit, held_out in folds:
        assert not set(train.albums[fit]) & set(train.albums[held_out])
        assert set(train.y[fit]) == set(train.y)
    together = np.concatenate([held_out for _, held_out in folds])
    assert sorted(together) == list(range(len(train.y)))


def test_a_fold_without_songs_is_left_out():
    albums = np.repeat(["a/0", "a/1", "a/2", "b/0", "b/1"], [5, 2, 3, 2, 2])
    y = np.array([album[0] for album in albums])
    train = Rows(np.empty((len(y), 0)), np.arange(len(y)), y, albums, [])
    sizes = [len(held_out) for _, held_out in classical.split_folds(train, "album", 0)]
    assert sum(sizes) == len(y)
    assert 0 not in sizes
    assert len(sizes) < results.N_FOLDS


def test_folds_by_song_are_stratified_and_split_albums():
    train = make_rows(n_artists=4, n_albums=5, n_songs=2)
    folds = classical.split_folds(train, "song", 0)
    assert len(folds) == 5
    for _, held_out in folds:
        assert np.unique(train.y[held_out], return_counts=True)[1].tolist() == [2] * 4
    assert any(set(train.albums[fit]) & set(train.albums[held]) for fit, held in folds)


@pytest.mark.parametrize("cv", ["album", "song"])
def test_the_seed_decides_the_folds(cv):
    train = make_rows()
    first, again, other = (
        [held_out.tolist() for _, held_out in classical.split_folds(train, cv, seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("n_artists", [2, 3])
def test_too_few_songs_are_named(n_artists):
    train = make_rows(n_artists=n_artists, n_albums=1, n_songs=1)
    with pytest.raises(UserError, match="preprocess more songs"):
        classical.split_folds(train, "album", 0)


@pytest.mark.parametrize("cv", ["album", "song"])
def test_three_songs_are_enough_to_fit(cv):
    train = make_rows(n_artists=3, n_albums=2, n_songs=1)
    assert [len(fit) for fit, _ in classical.split_folds(train, cv, 0)] == [3, 3]


def test_artists_with_one_album_are_counted():
    rows = make_rows(n_artists=3, n_albums=1, n_songs=6)
    with pytest.raises(UserError, match="--cv song"):
        classical.count_unseen(rows, "album", 0)
    assert classical.count_unseen(rows, "song", 0) == 0
    two = make_rows(n_artists=2, n_albums=2, n_songs=3)
    y = two.y.copy()
    lonely = two.albums == two.albums[0]
    y[lonely] = "someone else"
    # Nor has artist 0 another album now.
    assert classical.count_unseen(replace(two, y=y), "album", 0) == 2 * lonely.sum()


# --- segments ----------------------------------------------------------------------------------


def make_units(n_songs=6, seed=0):
    """Draw units of songs of 1 to 9 units, with artists who differ; all have 156 frames."""
    rng = np.random.default_rng(seed)
    n_units = rng.integers(1, 10, n_songs)
    unit_songs = np.repeat(np.arange(n_songs), n_units)
    units = rng.normal(size=(len(unit_songs), len(features.UNIT_NAMES))).astype(np.float32)
    units += (unit_songs % 2)[:, None]
    units[:, 0] = 156
    y = np.array([f"artist {i % 2}" for i in range(n_songs)])
    albums = np.array([f"artist {i % 2}/{i}" for i in range(n_songs)])
    return units, unit_songs, y, albums


@pytest.mark.parametrize("seconds", [1.0, 10.0, 20.0])
@pytest.mark.parametrize("covariance", [False, True])
def test_segments_share_a_song_out(seconds, covariance):
    units, unit_songs, y, albums = make_units()
    segments = Segments(seconds=seconds, covariance=covariance)
    rows = classical.cut_segments(units, unit_songs, y, albums, segments)
    n_features = 901 + 192 + (190 if covariance else 0)
    assert rows.level == "segment"
    assert rows.X.shape == (len(rows.song), n_features)
    assert len(rows.names) == n_features
    assert np.unique(rows.song).tolist() == list(range(len(y)))
    for song, n in enumerate(np.bincount(unit_songs)):
        part = rows.X[rows.song == song]
        assert len(part) == min(n, max(1, round(n * 156 * 512 / 16_000 / seconds)))
        expected = features.merge_units(units[unit_songs == song], len(part))
        np.testing.assert_array_equal(part, expected[:, :n_features])


def test_of_songs_keeps_rows_with_their_songs():
    rows = classical.cut_segments(*make_units(), Segments(seconds=5.0, covariance=False))
    some = rows.of_songs(np.array([1, 4]))
    assert some.y.tolist() == [rows.y[1], rows.y[4]]
    assert some.albums.tolist() == [rows.albums[1], rows.albums[4]]
    for new, old in enumerate([1, 4]):
        np.testing.assert_array_equal(some.X[some.song == new], rows.X[rows.song == old])


@pytest.mark.parametrize("name", MODELS)
def test_models_of_segments_score_songs(name):
    segments = Segments(seconds=5.0, covariance=True)
    rows = classical.cut_segments(*make_units(n_songs=24), segments)
    grids = {**classical.GRIDS["segment"], "lda": classical.LDA}
    grid = [{key: values[:1] for key, values in grids[name][0].items()}]
    found, held_out = search(name, rows, grid)
    assert held_out.shape == (24, 2)
    assert found[0].mean > 0.8  # artists differ by a standard deviation in 1091 columns
    model = classical.fit_model(name, rows, found[0].params, 0)
    each = replace(rows, song=np.arange(len(rows.X)), y=rows.y[rows.song])
    of_rows = classical.song_scores(model, each)
    of_songs = classical.song_scores(model, rows)
    np.testing.assert_allclose(of_songs[3], of_rows[rows.song == 3].mean(axis=0))


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_artists", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_scores_rank_as_the_model_predicts(name, n_artists):
    train, val = make_rows(n_artists=n_artists), make_rows(n_artists=n_artists, seed=5)
    model = classical.fit_model(name, train, first_point(name), 0)
    scores = classical.song_scores(model, val)
    assert scores.shape == (len(val.y), n_artists)
    classes = np.unique(train.y)
    if name in ("svm", "lda"):
        if name == "svm":
            model[-1].set_params(break_ties=n_artists > 2)  # predict by votes alone knows ties
        decision = model.decision_function(val.X)
        if decision.ndim == 1:
            decision = np.stack([-decision, decision], axis=1)
        assert np.array_equal(scores, decision)
    else:
        assert scores.sum(axis=1) == pytest.approx(np.ones(len(val.y)))
    assert (classes[scores.argmax(axis=1)] == model.predict(val.X)).all()
    calibrated = classical.probabilities(name, model, val, 2.0)
    assert calibrated.sum(axis=1) == pytest.approx(np.ones(len(val.y)))
    power = np.exp(scores) if name in ("svm", "lda") else scores + 1e-3
    expected = np.sqrt(power) / np.sqrt(power).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(calibrated, expected)


# --- numbers that overflow ---------------------------------------------------------------------


def test_an_svm_ends_on_features_far_out_of_scale():
    rng = np.random.default_rng(0)
    X = 1e4 * rng.normal(size=(60, 3))
    model = classical.make_classifier("svm", make_rows(), 0).set_params(kernel="linear", C=10.0)
    with pytest.warns(ConvergenceWarning, match="terminated early"):
        model.fit(X, rng.integers(2, size=60))


def test_fits_that_stop_before_they_converge_are_counted_and_said(monkeypatch):
    monkeypatch.setattr(classical, "SVM_STEPS", 1)
    train = make_rows()
    grid = [{"kernel": ["linear"], "C": [0.1, 1.0]}]
    with pytest.warns(Note, match="svm: 10 of 10 fits stopped before they converged") as caught:
        found, _ = search("svm", train, grid)
    assert [one.category for one in caught] == [Note]  # and none of scikit-learn's own
    assert [candidate.stopped_early for candidate in found] == [5, 5]
    with pytest.warns(Note, match="svm: the fit of all training songs stopped") as caught:
        classical.fit_model("svm", train, found[0].params, 0)
    assert [one.category for one in caught] == [Note]


def loud_songs():
    """Rows of which every fourth is far out of scale."""
    train = make_rows()
    loud = np.arange(len(train.X)) % 4 == 0
    return replace(train, X=np.where(loud[:, None], 1e12 * train.X, train.X))


POLY = {"kernel": ["poly"], "gamma": [0.01]}


def test_a_candidate_whose_numbers_overflow_is_left_out():
    grid = [{**POLY, "C": [1.0, 10.0]}, {"kernel": ["rbf"]}]
    listed = r"svm: left out {'C': 1.0, .*'poly'}, {'C': 10.0, .*'poly'}: its numbers overflow"
    with pytest.warns(Note, match=listed):
        (found,), held_out = search("svm", loud_songs(), grid)
    assert found.params == {"kernel": "rbf"}
    assert found.mean > 0
    assert np.isfinite(held_out).all()


def test_a_model_of_which_every_candidate_overflows_is_none():
    with pytest.raises(classical.OutOfScaleError):
        search("svm", loud_songs(), [POLY])
    with pytest.raises(classical.OutOfScaleError):
        classical.fit_model("svm", loud_songs(), {"kernel": "poly", "gamma": 0.01}, 0)


def test_scores_that_overflow_are_not_returned():
    train = make_rows()
    model = classical.fit_model("svm", train, {"kernel": "poly", "degree": 20}, 0)
    with pytest.raises(classical.OutOfScaleError):
        classical.song_scores(model, replace(train, X=1e30 * train.X))


def test_another_mistake_is_not_taken_for_an_overflow():
    with pytest.raises(ValueError, match="nonsense"):
        search("svm", make_rows(), [{"kernel": ["nonsense"]}])


# --- models on disk ----------------------------------------------------------------------------


class Touch:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("level", ["song", "segment"])
@pytest.mark.parametrize("name", MODELS)
def test_models_come_back(tmp_path, name, level):
    train = replace(make_rows(), level=level)
    model = classical.fit_model(name, train, first_point(name), 0)
    classical.write_sklearn(tmp_path / "a.skops", model)
    back = classical.read_sklearn(tmp_path / "a.skops", AGAIN, np.unique(train.y).tolist(), 150)
    np.testing.assert_array_equal(
        classical.song_scores(back, train), classical.song_scores(model, train)
    )
    for classes, n_features in ((["artist 0"], 150), (np.unique(train.y).tolist(), 149)):
        with pytest.raises(UserError, match=r"of other artists or features: run task1_train\.py"):
            classical.read_sklearn(tmp_path / "a.skops", AGAIN, classes, n_features)


def test_what_is_no_model_is_named_and_not_run(tmp_path):
    path, marker = tmp_path / "a.skops", tmp_path / "marker"
    with pytest.raises(UserError, match=r"missing: run task1_train\.py --overwrite first"):
        classical.read_sklearn(path, AGAIN, [], 0)
    pipeline = make_pipeline(KNeighborsClassifier()).fit(np.eye(6), list("abcabc"))
    classical.write_sklearn(path, pipeline)
    whole = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", "{}")
    empty = path.read_bytes()
    # Reading alone would not run it, but the first call of transform would.
    skops.io.dump(make_pipeline(FunctionTransformer(os.mkdir)), path)
    untrusted = path.read_bytes()
    cut = [whole[:size] for size in (0, 10, len(whole) // 2, len(whole) - 1)]
    for content in (*cut, empty, untrusted, pickle.dumps(Touch(marker))):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"cannot be read .*: run task1_train\.py --overwrite"):
            classical.read_sklearn(path, AGAIN, [], 0)
    assert not marker.exists()
    classical.write_sklearn(path, StandardScaler().fit(np.eye(6)))
    with pytest.raises(UserError, match=r"no model of task1_train\.py"):
        classical.read_sklearn(path, AGAIN, [], 0)
