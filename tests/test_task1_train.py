import argparse
import json

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

import task1_train
from artist20 import UserError, artifacts
from artist20.artifacts import FeatureSet

SMALL_GRIDS = {
    "svm": [
        {"kernel": ["rbf"], "C": [0.1, 10.0], "gamma": ["scale", 0.01]},
        {"kernel": ["linear"], "C": [0.01]},
    ],
    "random_forest": [{"n_estimators": [3, 10]}],
    "knn": [{"n_neighbors": [1, 3, 5], "weights": ["uniform", "distance"]}],
}


def make_features(n_artists=3, n_albums=4, n_songs=4, n_features=150, seed=0):
    """Draw features in which artists differ, and albums as well; the last one is constant."""
    rng = np.random.default_rng(seed)
    rows, y, albums, paths = [], [], [], []
    # Artists are one random set for every seed, so that another seed gives songs to test on.
    artists = np.random.default_rng(1).normal(0, 0.35, (n_artists, n_features))
    for artist in range(n_artists):
        for album in range(n_albums):
            centre = artists[artist] + rng.normal(0, 0.7, n_features)
            for song in range(n_songs):
                rows.append(centre + rng.normal(0, 1.5, n_features))
                y.append(f"artist {artist}")
                albums.append(f"artist {artist}/album {album}")
                paths.append(f"./train_val/artist {artist}/album {album}/{seed}-{song}.mp3")
    order = rng.permutation(len(y))
    X = np.array(rows, dtype=np.float32)
    X[:, -1] = 3
    return FeatureSet(
        X[order], np.array(y)[order], np.array(albums)[order], [paths[i] for i in order]
    )


@pytest.fixture
def small_grids(monkeypatch):
    monkeypatch.setattr(task1_train, "GRIDS", SMALL_GRIDS)


def put_features(folder, train, val):
    """Write what task1_preprocessing.py writes."""
    names = [f"feature {i}" for i in range(train.X.shape[1])]
    artifacts.write_json(folder / "feature_names.json", names)
    for split, part in (("train", train), ("val", val)):
        artifacts.write_array(folder / f"X_{split}.npy", part.X)
        artifacts.write_array(folder / f"y_{split}.npy", part.y)
        records = [
            {"path": path, "artist": path.split("/")[2], "album": path.split("/")[3]}
            for path in part.paths
        ]
        artifacts.write_json(folder / f"songs_{split}.json", records)
    artifacts.write_json(
        folder / "preprocessing.json",
        {
            "dataset": {"name": "toy", "train": 1, "val": 1, "fingerprint": "0"},
            "feature_version": 1,
            "arrays": artifacts.feature_hashes(folder),
        },
    )


def arguments(results_dir, **changes):
    options = {"seed": 0, "workers": 1, "cv": "album", "overwrite": False, **changes}
    return argparse.Namespace(results_dir=results_dir, **options)


def read(folder, name):
    return json.loads((folder / name).read_text())


# --- search ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", artifacts.TASK1_MODELS)
@pytest.mark.parametrize("cv", ["album", "song"])
def test_search_equals_scikit_learns(small_grids, name, cv):
    train = make_features()
    rows = task1_train.search(name, task1_train.transform_folds(train, cv, 0), 0, workers=1)

    pipeline = make_pipeline(
        task1_train.make_transforms(train.X.shape[1]), task1_train.make_classifier(name, 0)
    )
    step = pipeline.steps[-1][0]
    grid = [
        {f"{step}__{key}": values for key, values in part.items()} for part in SMALL_GRIDS[name]
    ]
    reference = GridSearchCV(
        pipeline, grid, scoring="accuracy", cv=list(task1_train.split_folds(train, cv, 0))
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


def test_fold_accuracies_by_hand():
    fold = (
        np.array([[0.0], [1.0]]),
        np.array(["a", "b"]),
        np.array([[0.1], [0.2], [0.9], [0.4]]),
        np.array(["a", "b", "b", "a"]),
    )
    nearest = task1_train.make_classifier("knn", 0).set_params(n_neighbors=1)
    assert task1_train.fold_accuracies(nearest, [], fold) == [0.75]


def test_neighbours_are_no_more_than_a_fold_has_songs():
    folds = [
        (np.zeros((n, 1)), np.array(["a"] * n), np.zeros((2, 1)), np.array(["a"] * 2))
        for n in (12, 8)
    ]
    points = task1_train.candidates("knn", folds)
    assert {point["n_neighbors"] for point in points} == {3, 5, 7}
    assert len(task1_train.candidates("svm", folds)) == 4 * 4 + 4 + 3 * 2 * 2


def test_the_grids_are_the_decks():
    knn = task1_train.GRIDS["knn"][0]
    assert knn["n_neighbors"] == [3, 5, 7, 9, 11, 13, 15]
    assert "distance" in knn["weights"]
    kernels = [kernel for part in task1_train.GRIDS["svm"] for kernel in part["kernel"]]
    assert kernels == ["rbf", "linear", "poly"]
    assert task1_train.GRIDS["random_forest"][0]["n_estimators"] == [100, 200, 300]


# --- folds -------------------------------------------------------------------------------------


def test_albums_are_never_split():
    train = make_features(n_artists=5, n_albums=4, n_songs=3)
    folds = list(task1_train.split_folds(train, "album", 0))
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
    train = FeatureSet(X, y, albums, [])
    sizes = [len(held_out) for _, held_out in task1_train.split_folds(train, "album", 0)]
    assert 0 in sizes
    folds = task1_train.transform_folds(train, "album", 0)
    assert [len(y_held_out) for *_, y_held_out in folds] == [n for n in sizes if n]


def test_folds_by_song_are_stratified_and_split_albums():
    train = make_features(n_artists=4, n_albums=5, n_songs=2)
    folds = list(task1_train.split_folds(train, "song", 0))
    assert len(folds) == 5
    for _, held_out in folds:
        assert np.unique(train.y[held_out], return_counts=True)[1].tolist() == [2] * 4
    assert any(set(train.albums[fit]) & set(train.albums[held]) for fit, held in folds)


def test_the_seed_decides_the_folds():
    train = make_features()
    first, again, other = (
        [held_out.tolist() for _, held_out in task1_train.split_folds(train, "album", seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_transforms_are_fitted_without_the_held_out_songs():
    train = make_features()
    folds = task1_train.transform_folds(train, "album", 0)
    for (fit, held_out), fold in zip(
        task1_train.split_folds(train, "album", 0), folds, strict=True
    ):
        # Held-out songs that are all wrong change nothing of what the others become.
        X = train.X.copy()
        X[held_out] = 1e6
        transforms = task1_train.make_transforms(X.shape[1])
        assert np.array_equal(transforms.fit_transform(X[fit], train.y[fit]), fold[0])
        assert fold[0].shape[1] == fold[2].shape[1] == task1_train.N_FEATURES


# --- scores ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_artists", [2, 3])
@pytest.mark.parametrize("name", artifacts.TASK1_MODELS)
def test_scores_rank_as_the_model_predicts(name, n_artists):
    train, val = make_features(n_artists), make_features(n_artists, seed=5)
    model = make_pipeline(
        task1_train.make_transforms(150), task1_train.make_classifier(name, 0)
    ).fit(train.X, train.y)
    scores = task1_train.song_scores(model, val.X)
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


# --- the stage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_artists", [2, 3])
def test_train_all(tmp_path, small_grids, n_artists, capsys):
    folder = artifacts.task1_dir(tmp_path)
    train, val = make_features(n_artists), make_features(n_artists, n_albums=1, seed=5)
    put_features(folder, train, val)
    task1_train.train_all(arguments(tmp_path))

    metrics = read(folder, "metrics.json")
    assert list(metrics["models"]) == ["svm", "random_forest", "knn"]
    predictions = artifacts.read_predictions(folder / "val_predictions.json", "x")
    assert predictions.classes == sorted(set(train.y))
    assert [song["path"] for song in predictions.songs] == val.paths
    for name, row in metrics["models"].items():
        model = artifacts.read_sklearn(folder / f"{name}.skops")
        best_guess = np.array(predictions.classes)[predictions.scores[name].argmax(axis=1)]
        assert row["top1"] == pytest.approx((best_guess == val.y).mean())
        assert row["top1"] <= row["top3"] <= 1
        assert row["top3"] == 1  # of three artists
        best = read(folder, f"search_{name}.json")["candidates"][0]
        assert row["params"] == best["params"]
        assert row["cv_top1"] == best["mean"]
        step = model.steps[-1][1]
        assert {key: step.get_params()[key] for key in best["params"]} == best["params"]
        assert np.allclose(
            predictions.scores[name], task1_train.song_scores(model, val.X), rtol=1e-5
        )
    assert any(row["cv_top1"] > 1.2 / n_artists for row in metrics["models"].values())
    assert metrics["dataset"]["name"] == "toy"
    assert metrics["config"] == {"cv": "album", "folds": 5, "selected_features": 100}
    assert {"seed", "command", "versions", "device", "seconds"} <= metrics.keys()
    assert "next: python task1_gen_report.py" in capsys.readouterr().out


def test_finished_models_are_not_searched_again(tmp_path, small_grids, monkeypatch, capsys):
    folder = artifacts.task1_dir(tmp_path)
    put_features(folder, make_features(), make_features(seed=5))
    task1_train.train_all(arguments(tmp_path))
    before = read(folder, "val_predictions.json")
    models = {path: path.read_bytes() for path in folder.glob("*.skops")}
    assert len(models) == 3

    searched = []
    search = task1_train.search
    monkeypatch.setattr(
        task1_train, "search", lambda name, *rest: searched.append(name) or search(name, *rest)
    )
    task1_train.train_all(arguments(tmp_path))
    assert searched == []
    assert capsys.readouterr().out.count("not searched again") == 3
    assert read(folder, "val_predictions.json") == before
    # A run that was stopped goes on with what it lacks.
    (folder / "search_knn.json").unlink()
    task1_train.train_all(arguments(tmp_path))
    assert searched == ["knn"]
    assert {path: path.read_bytes() for path in models if path.stem != "knn"} == {
        path: data for path, data in models.items() if path.stem != "knn"
    }
    assert read(folder, "val_predictions.json") == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"cv": "song"}, "features", "grid"])
def test_models_of_other_settings_are_refused(tmp_path, small_grids, monkeypatch, change):
    folder = artifacts.task1_dir(tmp_path)
    monkeypatch.setattr(artifacts, "TASK1_MODELS", ("knn",))
    put_features(folder, make_features(), make_features(seed=5))
    task1_train.train_all(arguments(tmp_path))
    metrics = (folder / "metrics.json").read_bytes()
    changes = {}
    if change == "features":
        put_features(folder, make_features(seed=7), make_features(seed=5))
    elif change == "grid":
        monkeypatch.setattr(task1_train, "GRIDS", {"knn": [{"n_neighbors": [3]}]})
    else:
        changes = change
    named = change if isinstance(change, str) else next(iter(change))
    with pytest.raises(UserError, match=f"other settings.*{named}.*--overwrite"):
        task1_train.train_all(arguments(tmp_path, **changes))
    assert (folder / "metrics.json").read_bytes() == metrics
    task1_train.train_all(arguments(tmp_path, **changes, overwrite=True))


@pytest.mark.parametrize(
    ("n_artists", "n_albums", "n_songs"),
    [(2, 1, 1), (3, 1, 1), (4, 1, 1), (2, 1, 4), (2, 2, 1), (6, 2, 1)],
)
@pytest.mark.parametrize("cv", ["album", "song"])
def test_too_few_songs_are_a_mistake_of_one_line(
    tmp_path, small_grids, monkeypatch, n_artists, n_albums, n_songs, cv
):
    """As --limit gives them: a model comes of it, or one line that says what to do."""
    monkeypatch.setitem(task1_train.GRIDS, "knn", [{"n_neighbors": [3, 5]}])
    train = make_features(n_artists, n_albums, n_songs)
    put_features(artifacts.task1_dir(tmp_path), train, make_features(n_artists, 1, 1, seed=5))
    try:
        task1_train.train_all(arguments(tmp_path, cv=cv))
    except UserError as error:
        assert "preprocess more songs" in str(error)
        assert "\n" not in str(error)
    else:
        assert read(artifacts.task1_dir(tmp_path), "metrics.json")["models"]["knn"]


def test_the_stage_before_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run task1_preprocessing\.py first"):
        task1_train.train_all(arguments(tmp_path))
