"""The search against scikit-learn's own; folds; segments; what families are worth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL_GRIDS, make_songs
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from artist20 import Note, UserError, classical, features, results
from artist20.classical import Rows

MODELS = list(classical.GRIDS["song"])


def make_rows(**sizes) -> Rows:
    """Rows of one per song."""
    songs = make_songs(**sizes)
    return Rows(songs.X, np.arange(len(songs.y)), songs.y, songs.albums, songs.names)


def search(name, train, grid=None, cv="album", level="song", **changes):
    options = {"cv": cv, "seed": 0, "workers": 1, "label": None, **changes}
    return classical.search(name, level, train, grid or SMALL_GRIDS[name], **options)


# --- search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("cv", ["album", "song"])
def test_search_equals_scikit_learns(name, cv):
    train = make_rows()
    rows, _ = search(name, train, cv=cv)

    pipeline = make_pipeline(
        classical.make_transforms("song", name, train.X),
        classical.make_classifier(name, 0),
    )
    step = pipeline.steps[-1][0]
    grid = [
        {f"{step}__{key}": values for key, values in part.items()} for part in SMALL_GRIDS[name]
    ]
    reference = GridSearchCV(
        pipeline, grid, scoring="accuracy", cv=list(classical.split_folds(train, cv, 0))
    ).fit(train.X, train.y)

    expected = {
        json.dumps({key.split("__")[1]: value for key, value in point.items()}, sort_keys=True): i
        for i, point in enumerate(reference.cv_results_["params"])
    }
    assert len(rows) == len(expected)
    for row in rows:
        i = expected[json.dumps(row["params"], sort_keys=True)]
        assert row["mean"] == pytest.approx(reference.cv_results_["mean_test_score"][i])
        assert row["std"] == pytest.approx(reference.cv_results_["std_test_score"][i])
        scores = [
            reference.cv_results_[f"split{k}_test_score"][i] for k in range(len(row["folds"]))
        ]
        assert row["folds"] == pytest.approx(scores)
    best = {key.split("__")[1]: value for key, value in reference.best_params_.items()}
    assert rows[0]["params"] == best
    means = [row["mean"] for row in rows]
    assert means == sorted(means, reverse=True)
    assert len(set(means)) > 1  # or nothing was compared


@pytest.mark.parametrize("name", MODELS)
def test_two_processes_find_what_one_finds(name):
    train = make_rows()
    alone, scores = search(name, train)
    together, same_scores = search(name, train, workers=2)
    assert alone == together
    assert np.array_equal(scores, same_scores)


@pytest.mark.parametrize("name", MODELS)
def test_held_out_scores_are_of_the_model_that_did_not_see_the_album(name):
    train = make_rows()
    rows, held_out_scores = search(name, train)
    classes = np.unique(train.y)
    assert held_out_scores.shape == (len(train.y), len(classes))
    for (fit, held_out), accuracy in zip(
        classical.split_folds(train, "album", 0), rows[0]["folds"], strict=True
    ):
        model = classical.fit_model(name, "song", train.of_songs(fit), rows[0]["params"], 0)
        scores = classical.song_scores(model, train.of_songs(held_out))
        # of_songs numbers songs in the order of the data set.
        np.testing.assert_allclose(held_out_scores[np.sort(held_out)], scores, rtol=1e-5)
        guesses = classes[scores.argmax(axis=1)]
        assert (guesses == train.y[np.sort(held_out)]).mean() == pytest.approx(accuracy)


def test_fold_scores_by_hand():
    fit = Rows(np.array([[0.0], [1.0]]), np.arange(2), np.array(["a", "c"]), np.array([]), ["x"])
    held_out = Rows(  # the first song has two segments
        np.array([[0.1], [0.2], [0.9], [0.4]]),
        np.array([0, 0, 1, 2]),
        np.array(["a", "b", "c"]),
        np.array([]),
        ["x"],
    )
    nearest = classical.make_classifier("knn", 0).set_params(n_neighbors=1)
    (scores,) = classical.fold_scores(nearest, [], fit, held_out, np.array(["a", "b", "c"]))
    # b is not among the training songs: it ranks last, behind those that have nothing.
    assert scores[:, [0, 2]].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert (np.argsort(-scores, axis=1)[:, 2] == 1).all()


def test_neighbours_are_no_more_than_a_fold_has_rows():
    train = make_rows(n_artists=3, n_albums=2, n_songs=2)
    smallest = min(len(fit) for fit, _ in classical.split_folds(train, "album", 0))
    rows, _ = search("knn", train, [{"n_neighbors": [3, 5, 7, 9, 11, 99]}])
    tried = sorted(row["params"]["n_neighbors"] for row in rows)
    assert tried == [*(n for n in (3, 5, 7, 9, 11) if n < smallest), smallest]
    assert len(search("knn", train, [{"n_neighbors": [99]}])[0]) == 1


def test_the_linear_model_has_converged():
    train = make_rows(n_artists=5, n_albums=5)
    model = classical.fit_model("logistic_regression", "song", train, {"C": 0.1}, 0)
    exact = classical.fit_model("logistic_regression", "song", train, {"C": 0.1, "tol": 1e-8}, 0)
    np.testing.assert_allclose(
        classical.song_scores(model, train), classical.song_scores(exact, train), atol=2e-3
    )


def test_constant_columns_leave_fewer_components():
    train = make_rows(n_features=12)
    X = train.X.copy()
    X[:, 2:] = 1
    rows = replace(train, X=X)
    for name in ("svm", "knn"):
        params = {key: values[0] for key, values in SMALL_GRIDS[name][0].items()}
        model = classical.fit_model(name, "segment", rows, params, 0)
        assert model["pca"].n_components_ == 2


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
    folds = list(classical.split_folds(train, "album", 0))
    assert len(folds) == 5
    for fit, held_out in folds:
        assert not set(train.albums[fit]) & set(train.albums[held_out])
        assert set(train.y[fit]) == set(train.y)
    together = np.concatenate([held_out for _, held_out in folds])
    assert sorted(together) == list(range(len(train.y)))


def test_a_fold_without_songs_is_left_out():
    albums = np.repeat(["a/0", "a/1", "a/2", "b/0", "b/1"], [5, 2, 3, 2, 2])
    y = np.array([album[0] for album in albums])
    X = np.random.default_rng(0).normal(size=(len(y), 3)).astype(np.float32)
    train = Rows(X, np.arange(len(y)), y, albums, ["x", "y", "z"])
    sizes = [len(held_out) for _, held_out in classical.split_folds(train, "album", 0)]
    assert sum(sizes) == len(y)
    assert 0 not in sizes
    assert len(sizes) < results.N_FOLDS


def test_folds_by_song_are_stratified_and_split_albums():
    train = make_rows(n_artists=4, n_albums=5, n_songs=2)
    folds = list(classical.split_folds(train, "song", 0))
    assert len(folds) == 5
    for _, held_out in folds:
        assert np.unique(train.y[held_out], return_counts=True)[1].tolist() == [2] * 4
    assert any(set(train.albums[fit]) & set(train.albums[held]) for fit, held in folds)


def test_the_seed_decides_the_folds():
    train = make_rows()
    first, again, other = (
        [held_out.tolist() for _, held_out in classical.split_folds(train, "album", seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_fitted_on_the_held_out_songs(name):
    """Held-out songs that are all wrong change nothing of what is said of the others."""
    train = make_rows()
    grid = [{key: values[:1] for key, values in SMALL_GRIDS[name][0].items()}]
    (fit, held_out), *_ = classical.split_folds(train, "album", 0)
    _, before = search(name, train, grid)
    X = train.X.copy()
    spoilt = np.sort(held_out)[:1]
    X[spoilt] = 1e6
    _, after = search(name, replace(train, X=X), grid)
    rest = np.setdiff1d(held_out, spoilt)
    np.testing.assert_allclose(after[rest], before[rest])
    assert not np.allclose(after[fit], before[fit])  # whose models did see it


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
    return units, unit_songs, y, albums, n_units


@pytest.mark.parametrize("covariance", [False, True])
def test_segments_share_a_song_out(covariance):
    units, unit_songs, y, albums, n_units = make_units()
    rows = classical.cut_segments(units, unit_songs, y, albums, 10.0, covariance)
    n_features = 901 + (190 if covariance else 0)
    assert rows.X.shape == (len(rows.song), n_features)
    assert len(rows.names) == n_features
    assert np.unique(rows.song).tolist() == list(range(len(y)))
    for song, n in enumerate(n_units):
        segments = rows.X[rows.song == song]
        assert len(segments) == max(1, round(n * 156 * 512 / 16_000 / 10))
        expected = features.merge_units(units[unit_songs == song], len(segments))
        np.testing.assert_array_equal(segments, expected[:, :n_features])


def test_segments_as_short_as_units_are_units():
    units, unit_songs, y, albums, _ = make_units()
    rows = classical.cut_segments(units, unit_songs, y, albums, 1.0, False)
    assert np.array_equal(rows.song, unit_songs)


def test_of_songs_keeps_rows_with_their_songs():
    units, unit_songs, y, albums, _ = make_units()
    rows = classical.cut_segments(units, unit_songs, y, albums, 5.0, False)
    some = rows.of_songs(np.array([4, 1]))
    assert some.y.tolist() == [y[1], y[4]]
    assert some.albums.tolist() == [albums[1], albums[4]]
    for new, old in enumerate([1, 4]):
        np.testing.assert_array_equal(some.X[some.song == new], rows.X[rows.song == old])


@pytest.mark.parametrize("name", MODELS)
def test_models_of_segments_score_songs(name):
    units, unit_songs, y, albums, _ = make_units(n_songs=24)
    rows = classical.cut_segments(units, unit_songs, y, albums, 5.0, True)
    grid = [{key: values[:1] for key, values in classical.GRIDS["segment"][name][0].items()}]
    found, held_out = search(name, rows, grid, level="segment")
    assert held_out.shape == (24, 2)
    assert found[0]["mean"] > 0.8  # artists differ by a standard deviation in 1091 columns
    model = classical.fit_model(name, "segment", rows, found[0]["params"], 0)
    of_rows = classical.row_scores(model, rows.X)
    of_songs = classical.song_scores(model, rows)
    np.testing.assert_allclose(of_songs[3], of_rows[rows.song == 3].mean(axis=0))


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_artists", [2, 3, 12])
def test_an_svms_scores_are_scikit_learns_to_the_last_bit(monkeypatch, n_artists):
    train = make_rows(n_artists=n_artists)
    model = classical.fit_model("svm", "song", train, {"C": 1.0, "kernel": "rbf"}, 0)
    expected = model.decision_function(train.X)
    if n_artists == 2:
        expected = np.stack([-expected, expected], axis=1)
    assert classical.row_scores(model, train.X).tobytes() == expected.tobytes()
    for most in (500, 1):  # batches of some rows, of one row
        monkeypatch.setattr(classical, "MAX_PAIR_SCORES", most)
        assert classical.row_scores(model, train.X).tobytes() == expected.tobytes()
    assert model[-1].decision_function_shape == "ovr"  # as it is written to disk


@pytest.mark.parametrize("n_artists", [2, 3])
@pytest.mark.parametrize("name", MODELS)
def test_scores_rank_as_the_model_predicts(name, n_artists):
    train, val = make_rows(n_artists=n_artists), make_rows(n_artists=n_artists, seed=5)
    params = {key: values[0] for key, values in SMALL_GRIDS[name][0].items()}
    model = classical.fit_model(name, "song", train, params, 0)
    scores = classical.song_scores(model, val)
    assert scores.shape == (len(val.y), n_artists)
    if name == "svm":
        model[-1].set_params(break_ties=n_artists > 2)  # predict by votes alone knows ties
    classes = np.unique(train.y)
    assert (classes[scores.argmax(axis=1)] == model.predict(val.X)).all()
    if name == "svm":
        decision = model.decision_function(val.X)
        assert np.array_equal(scores if n_artists > 2 else scores[:, 1], decision.squeeze())
    else:
        assert scores.sum(axis=1) == pytest.approx(np.ones(len(val.y)))
    logits = classical.logits(name, scores)
    assert np.isfinite(logits).all()
    assert np.array_equal(
        np.argsort(-logits, axis=1, kind="stable"), np.argsort(-scores, axis=1, kind="stable")
    )


# --- what families are worth -------------------------------------------------------------------


def test_every_column_has_its_family():
    columns = features.FEATURE_NAMES + features.COVARIANCE_NAMES
    sizes = {}
    for column in columns:
        family = classical.family_of(column)
        sizes[family] = sizes.get(family, 0) + 1
    assert sizes.pop("tempo") == 1
    assert sizes.pop("mfcc_cov") == 190
    assert sizes == {family: 4 * size for family, size in features.FAMILIES.items()}


def rows_with_one_telling_family():
    train = make_rows(n_features=40)
    names = [f"mfcc_{i:02d}_mean" for i in range(20)] + [f"mel_{i:03d}_mean" for i in range(20)]
    X = np.random.default_rng(0).normal(size=train.X.shape).astype(np.float32)
    X[:, :20] += 3 * np.unique(train.y, return_inverse=True)[1][:, None]
    return replace(train, X=X, names=names)


def ablate(name, rows, params):
    options = {"cv": "album", "seed": 0, "workers": 1}
    return dict(classical.ablate(name, "song", rows, params, ["mfcc", "mel"], **options))


def test_ablation_finds_the_family_that_tells():
    rows = rows_with_one_telling_family()
    found = ablate("logistic_regression", rows, {"C": 0.1})
    assert found["mfcc"]["n_features"] == found["mel"]["n_features"] == 20
    assert found["mfcc"]["alone"] == found["mel"]["without"] == 1
    assert found["mfcc"]["without"] == found["mel"]["alone"] < 0.7


def test_shuffling_the_family_that_tells_costs_points():
    rows = rows_with_one_telling_family()
    model = classical.fit_model("logistic_regression", "song", rows, {"C": 0.1}, 0)
    before = rows.X.copy()
    lost = classical.permutation_importance(model, rows, np.unique(rows.y), seed=0)
    assert lost["mfcc"]["lost"] > 0.4
    assert abs(lost["mel"]["lost"]) < 0.1
    assert lost == classical.permutation_importance(model, rows, np.unique(rows.y), seed=0)
    assert np.array_equal(rows.X, before)


def test_a_family_that_says_nothing_is_not_measured_alone():
    rows = rows_with_one_telling_family()
    X = rows.X.copy()
    X[:, 20:] = 120
    found = ablate("svm", replace(rows, X=X), {"C": 1.0})
    assert found["mel"]["alone"] is None
    assert found["mel"]["without"] == 1
    assert found["mfcc"]["without"] is None


@pytest.mark.parametrize(("n_artists", "n_albums", "n_songs"), [(2, 1, 1), (3, 1, 1)])
def test_too_few_songs_are_named(n_artists, n_albums, n_songs):
    with pytest.raises(UserError, match="preprocess more songs"):
        list(
            classical.split_folds(
                make_rows(n_artists=n_artists, n_albums=n_albums, n_songs=n_songs), "album", 0
            )
        )


def test_an_svm_ends_on_features_far_out_of_scale():
    rng = np.random.default_rng(0)
    X = 1e4 * rng.normal(size=(60, 3))
    model = classical.make_classifier("svm", 0).set_params(kernel="linear", C=10.0)
    with pytest.warns(ConvergenceWarning, match="terminated early"):
        model.fit(X, rng.integers(2, size=60))


def loud_songs():
    """Rows of which every fourth is far out of scale."""
    train = make_rows()
    loud = np.arange(len(train.X)) % 4 == 0
    return replace(train, X=np.where(loud[:, None], 1e12 * train.X, train.X))


POLY = {"kernel": ["poly"], "gamma": [0.01]}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_candidate_whose_numbers_overflow_is_left_out(workers):
    grid = [{**POLY, "C": [1.0, 10.0]}, {"kernel": ["rbf"]}]
    listed = r"svm: left out {'C': 1.0, .*'poly'}, {'C': 10.0, .*'poly'}: its numbers overflow"
    with pytest.warns(Note, match=listed):
        found, held_out = search("svm", loud_songs(), grid, workers=workers)
    assert [row["params"]["kernel"] for row in found] == ["rbf", "poly", "poly"]
    assert ["left_out" in row for row in found] == [False, True, True]
    assert found[0]["mean"] > 0
    assert {(row["mean"], *row["folds"]) for row in found[1:]} == {(0.0,) * 6}
    assert np.isfinite(held_out).all()


def test_a_model_of_which_every_candidate_overflows_is_none():
    params = {key: value[0] for key, value in POLY.items()}
    with pytest.raises(classical.OutOfScaleError):
        search("svm", loud_songs(), [POLY])
    with pytest.raises(classical.OutOfScaleError):
        classical.fit_model("svm", "song", loud_songs(), params, 0)


def test_scores_that_overflow_are_not_returned():
    train = make_rows()
    model = classical.fit_model("svm", "song", train, {"kernel": "poly", "degree": 20}, 0)
    with pytest.raises(classical.OutOfScaleError):
        classical.song_scores(model, replace(train, X=1e30 * train.X))


def test_another_mistake_is_not_taken_for_an_overflow():
    with pytest.raises(ValueError, match="nonsense"):
        search("svm", make_rows(), [{"kernel": ["nonsense"]}])
