"""The stage task1_train.py, on features that are drawn."""

import sys

import msgspec
import numpy as np
import pytest
from conftest import SMALL_GRIDS, TOY_DATASET, make_songs, toy_provenance
from sklearn.neighbors import KNeighborsClassifier

import task1_train
from artist20 import UserError, ablation, classical, evaluation, features, files
from artist20.results import (
    Ablation,
    Predictions,
    Preprocessing,
    Search,
    Segments,
    SegmentSearch,
    Task1Metrics,
    Task1Settings,
    read_record,
    write_record,
)


def put_features(folder, train, val):
    """Write what task1_preprocessing.py writes: units are noise around each song's features."""
    rng = np.random.default_rng(0)
    files.write_json(folder / "feature_names.json", train.names)
    for split, part in (("train", train), ("val", val)):
        files.write_array(folder / f"X_{split}.npy", part.X)
        files.write_array(folder / f"y_{split}.npy", part.y)
        write_record(folder / f"songs_{split}.json", part.songs)
        unit_songs = np.repeat(np.arange(len(part.y), dtype=np.int32), 4)
        units = rng.normal(size=(len(unit_songs), len(features.UNIT_NAMES)))
        units[:, 1 : 1 + part.X.shape[1]] += part.X[unit_songs]
        units[:, 0] = 156
        files.write_array(folder / f"units_{split}.npy", units.astype(np.float32))
        files.write_array(folder / f"unit_songs_{split}.npy", unit_songs)
    prepared = Preprocessing(
        dataset=TOY_DATASET,
        arrays=features.feature_hashes(folder),
        feature_version=features.VERSION,
        provenance=toy_provenance("python task1_preprocessing.py", seed=None),
    )
    write_record(folder / "preprocessing.json", prepared)


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    segment = {"svm": [{"C": [10.0]}], "logistic_regression": [{"C": [0.01, 0.1]}]}
    monkeypatch.setattr(classical, "GRIDS", {"song": SMALL_GRIDS, "segment": segment})


@pytest.fixture
def folder(tmp_path):
    """Folder of features of 48 training songs and 12 validation songs."""
    put_features(tmp_path / "task1", make_songs(), make_songs(n_albums=1, seed=5))
    return tmp_path / "task1"


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Run the stage with some options."""

    def run(*options):
        argv = ["task1_train.py", "--results-dir", str(tmp_path), "--workers", "1", *options]
        monkeypatch.setattr(sys, "argv", argv)
        task1_train.main()

    return run


def metrics_of(folder) -> Task1Metrics:
    return read_record(folder / "metrics.json", Task1Metrics, "x")


# --- the stage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_artists", [2, 3])
def test_what_the_stage_writes(tmp_path, train, n_artists, capsys):
    folder = tmp_path / "task1"
    songs, val = make_songs(n_artists), make_songs(n_artists, n_albums=1, seed=5)
    put_features(folder, songs, val)
    train("--seed", "3")

    metrics = metrics_of(folder)
    assert list(metrics.models) == list(SMALL_GRIDS)
    predictions = read_record(folder / "val_predictions.json", Predictions, "x")
    assert predictions.classes == sorted(set(songs.y))
    assert predictions.songs == val.songs
    held_out = read_record(folder / "cv_predictions.json", Predictions, "x")
    assert held_out.songs == songs.songs
    assert list(held_out.scores) == list(SMALL_GRIDS)
    rows = classical.read_rows(folder, "val")
    for name, row in metrics.models.items():
        search = read_record(folder / f"search_{name}.json", Search, "x")
        best = search.candidates[0]
        assert search.settings.seed == 3
        assert search.settings.grid == SMALL_GRIDS[name]
        assert row.params == best.params
        assert (row.cv_top1, row.cv_std) == (best.top1, best.std)
        assert row.cv_top1_by == {"album": best.top1, "song": search.folds_by["song"].top1}
        model = classical.read_sklearn(
            folder / f"{name}.skops", "x", predictions.classes, rows.X.shape[1]
        )
        assert model[-1].get_params().items() >= best.params.items()
        scores = classical.probabilities(name, model, rows, row.temperature)
        np.testing.assert_allclose(predictions.scores[name], scores, rtol=1e-5)
        reached = evaluation.quality(scores, predictions.labels)
        assert (row.top1, row.top3, row.log_loss) == (reached.top1, 1, reached.log_loss)
        assert row.calibration_error == evaluation.calibration_error(scores, predictions.labels)
        # What was written is calibrated: no other temperature would be likelier.
        again = evaluation.fit_temperature(np.log(held_out.scores[name]), held_out.labels)
        assert again == pytest.approx(1, rel=1e-2)
    best = max(metrics.models, key=lambda name: metrics.models[name].cv_top1)
    assert metrics.best_in_cv == best
    explained = read_record(folder / "ablation.json", Ablation, "x")
    assert (explained.settings.model, explained.complete) == (best, True)
    assert explained.families.keys() == {"mfcc", "mel"}
    assert any(row.cv_top1 > 1.2 / n_artists for row in metrics.models.values())
    arrays = features.feature_hashes(folder)
    assert metrics.settings == Task1Settings(cv="album", folds=5, unseen_in_cv=0, arrays=arrays)
    assert metrics.dataset == TOY_DATASET
    assert metrics.provenance.seed == 3
    assert f"task1_gen_report.py --results-dir {tmp_path}\n" in capsys.readouterr().out


def test_finished_models_are_not_searched_again(folder, train, monkeypatch, capsys):
    train()
    before = (folder / "val_predictions.json").read_bytes()
    models = {path: path.read_bytes() for path in folder.glob("*.skops")}
    assert len(models) == 4

    searched = []
    search = classical.search
    monkeypatch.setattr(
        classical, "search", lambda name, *more: searched.append(name) or search(name, *more)
    )
    capsys.readouterr()
    train()
    assert searched == []
    assert capsys.readouterr().out.count("not searched again") == 4
    # A run that was stopped goes on with what it lacks.
    (folder / "search_knn.json").unlink()
    (folder / "held_out_knn.npy").unlink()
    train()
    assert searched == ["knn", "knn"]  # the grid, and the best under folds of the other kind
    assert {path: path.read_bytes() for path in models if path.stem != "knn"} == {
        path: data for path, data in models.items() if path.stem != "knn"
    }
    assert (folder / "val_predictions.json").read_bytes() == before
    # With --overwrite all is searched; stopped, and without it, what is done is kept.
    searched.clear()

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classical.LogisticRegression, "fit", stop)
        with pytest.raises(KeyboardInterrupt):
            train("--overwrite")
    assert not (folder / "metrics.json").exists()
    train()
    *finished, last = SMALL_GRIDS
    of_the_ablation = ["knn"] * 4  # which is best: with and without either family
    assert searched == [*np.repeat(finished, 2), last, last, last, *of_the_ablation]
    assert (folder / "val_predictions.json").read_bytes() == before


@pytest.mark.parametrize("change", ["seed", "cv", "features", "grid", "steps"])
def test_models_of_other_settings_are_refused(folder, train, monkeypatch, change):
    monkeypatch.setattr(classical, "GRIDS", {"song": {"knn": SMALL_GRIDS["knn"]}})
    train()
    metrics = (folder / "metrics.json").read_bytes()
    options = {"seed": ["--seed", "1"], "cv": ["--cv", "song"]}.get(change, [])
    if change == "features":
        put_features(folder, make_songs(seed=7), make_songs(n_albums=1, seed=5))
    elif change == "grid":
        monkeypatch.setattr(classical, "GRIDS", {"song": {"knn": [{"n_neighbors": [3]}]}})
    elif change == "steps":
        monkeypatch.setattr(classical, "make_classifier", lambda *_: KNeighborsClassifier(p=1))
    with pytest.raises(UserError, match=rf"search_knn.*other settings \({change} .*--overwrite"):
        train(*options)
    assert (folder / "metrics.json").read_bytes() == metrics
    train(*options, "--overwrite")
    assert (folder / "metrics.json").read_bytes() != metrics


@pytest.mark.parametrize(
    ("n_artists", "n_albums", "n_songs"),
    [(2, 1, 1), (3, 1, 1), (4, 1, 1), (2, 1, 4), (2, 2, 1), (6, 2, 1)],
)
@pytest.mark.parametrize("cv", ["album", "song"])
def test_too_few_songs_are_a_mistake_of_one_line(
    tmp_path, train, monkeypatch, n_artists, n_albums, n_songs, cv
):
    """As --limit gives them: a model comes of it, or one line that says what to do."""
    grids = {**SMALL_GRIDS, "knn": [{"n_neighbors": [3, 5]}]}
    monkeypatch.setattr(classical, "GRIDS", {"song": grids})
    songs = make_songs(n_artists, n_albums, n_songs)
    put_features(tmp_path / "task1", songs, make_songs(n_artists, 1, 1, seed=5))
    try:
        train("--cv", cv)
    except UserError as error:
        assert "preprocess more songs" in str(error)
        assert "\n" not in str(error)
    else:
        assert "knn" in metrics_of(tmp_path / "task1").models


def test_the_stage_before_is_named(tmp_path, train):
    with pytest.raises(UserError, match=r"is missing: run task1_preprocessing\.py first"):
        train()
    assert not list(tmp_path.iterdir())


def test_the_metrics_do_not_wait_for_the_ablation(folder, train, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation, "explain", stop)
    with pytest.raises(KeyboardInterrupt):
        train()
    assert len(metrics_of(folder).models) == 4


def test_folds_that_cannot_be_made_are_left_out(tmp_path, train):
    songs = make_songs(n_artists=2, n_albums=1, n_songs=10)
    put_features(tmp_path / "task1", songs, make_songs(n_artists=2, n_albums=1, seed=5))
    train("--cv", "song")
    metrics = metrics_of(tmp_path / "task1")
    for row in metrics.models.values():
        assert row.cv_top1_by == {"song": row.cv_top1, "album": None}
    with pytest.raises(UserError, match="to cross-validate"):
        train("--overwrite")
    assert metrics_of(tmp_path / "task1") == metrics  # nothing was removed


def test_songs_that_are_unseen_in_their_fold_are_counted(tmp_path, train, capsys):
    songs = make_songs(n_artists=3, n_albums=3)
    kept = ~np.isin(songs.albums, ["artist 1/album 0", "artist 1/album 2"])
    songs = features.FeatureSet(
        songs.X[kept],
        songs.y[kept],
        songs.albums[kept],
        [song for song, keep in zip(songs.songs, kept, strict=True) if keep],
        songs.names,
    )
    put_features(tmp_path / "task1", songs, make_songs(n_albums=1, seed=5))
    train()
    assert metrics_of(tmp_path / "task1").settings.unseen_in_cv == 4
    assert "4 training songs count as wrong in cross-validation" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content"),
    [("ablation.json", b"{}"), ("search_knn.json", b"[]"), ("held_out_svm.npy", None)],
)
def test_damaged_records_are_named(folder, train, name, content):
    train()
    if content is None:
        files.write_array(folder / name, np.full((48, 3), 1.5))
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}.*run the same command with --overwrite"):
        train()


def test_a_model_whose_numbers_overflow_is_left_out(tmp_path, train, monkeypatch, capsys):
    folder = tmp_path / "task1"
    songs = make_songs()
    songs.X[::4] *= 1e12  # as of songs a million times as loud
    put_features(folder, songs, make_songs(n_albums=1, seed=5))
    grids = {"svm": [{"kernel": ["poly"], "gamma": [0.01]}], "knn": SMALL_GRIDS["knn"]}
    monkeypatch.setattr(classical, "GRIDS", {"song": grids})
    train()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert line.startswith("left out: svm (its numbers overflow: features are far out of scale")
    metrics = metrics_of(folder)
    assert (list(metrics.models), list(metrics.left_out)) == (["knn"], ["svm"])
    for split in ("val", "cv"):
        predictions = read_record(folder / f"{split}_predictions.json", Predictions, "x")
        assert list(predictions.scores) == ["knn"]

    monkeypatch.setattr(classical, "GRIDS", {"song": {"svm": grids["svm"]}})
    with pytest.raises(UserError, match="every model is left out; of the last, its numbers"):
        train()


# --- segments ----------------------------------------------------------------------------------


def test_segments_beside_songs(folder, train, monkeypatch, capsys):
    train()
    of_songs = (folder / "metrics.json").read_bytes()
    monkeypatch.setattr(ablation, "explain", lambda *_: None)  # of 901 columns: it takes long
    monkeypatch.setattr(classical, "SEGMENT_SECONDS", (5.0, 20.0))
    searched = []
    search = classical.search

    def stop_after_three(*args):
        if len(searched) == 3:
            raise KeyboardInterrupt
        searched.append(args)
        return search(*args)

    with monkeypatch.context() as patch:
        patch.setattr(classical, "search", stop_after_three)
        with pytest.raises(KeyboardInterrupt):
            train("--level", "segment")
    part = read_record(folder / "segment/search_segments.json", SegmentSearch, "x")
    assert len(part.candidates) == 3  # the next run tries the other one
    train("--level", "segment")
    assert (folder / "metrics.json").read_bytes() == of_songs

    metrics = metrics_of(folder / "segment")
    tried = read_record(folder / "segment/search_segments.json", SegmentSearch, "x").candidates
    assert tried[:3] == part.candidates
    assert [Segments(**row.params) for row in tried] == [
        Segments(seconds=seconds, covariance=covariance)
        for seconds in (5.0, 20.0)
        for covariance in (False, True)
    ]
    best = max(tried, key=lambda row: row.top1)
    assert msgspec.structs.asdict(metrics.settings.segments) == best.params
    predictions = read_record(folder / "segment/val_predictions.json", Predictions, "x")
    rows = classical.read_rows(folder, "val", metrics.settings.segments)
    for name, row in metrics.models.items():
        model = classical.read_sklearn(
            folder / f"segment/{name}.skops", "x", predictions.classes, rows.X.shape[1]
        )
        scores = classical.probabilities(name, model, rows, row.temperature)
        np.testing.assert_allclose(predictions.scores[name], scores, rtol=1e-5)
        search = read_record(folder / f"segment/search_{name}.json", Search, "x")
        assert search.settings.segments == metrics.settings.segments
        assert search.settings.features == metrics.settings.arrays["units_train.npy"]
    out = capsys.readouterr().out
    assert f"segments of {best.params['seconds']:g} s" in out
    assert "task1_gen_report.py --level segment" in out

    train("--level", "segment")
    assert capsys.readouterr().out.count("not searched again") == 2
    with pytest.raises(UserError, match=r"search_segments.*other settings \(seed 0 -> 1\)"):
        train("--level", "segment", "--seed", "1")


# --- the wide search ---------------------------------------------------------------------------


@pytest.mark.parametrize("level", [pytest.param("song", marks=pytest.mark.long), "segment"])
def test_the_wide_search_beside_the_homeworks(folder, train, monkeypatch, capsys, level):
    train()
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    monkeypatch.setattr(classical, "WIDE", {"scaler": ["robust", "standard"], "k": [2, None]})
    monkeypatch.setattr(classical, "LDA", [{"shrinkage": [0.1, 0.9]}])
    monkeypatch.setattr(classical, "SEGMENT_SECONDS", (5.0,))
    if level == "segment":
        monkeypatch.setattr(ablation, "explain", lambda *_: None)  # of 901 columns: it takes long
        grid = {"logistic_regression": [{"C": [0.001]}]}
        monkeypatch.setattr(classical, "GRIDS", {**classical.GRIDS, "segment": grid})
    options = ["--search", "wide", "--level", level]
    train(*options)
    assert {path: path.read_bytes() for path in before} == before
    out = capsys.readouterr().out
    asked = "--search wide" if level == "song" else "--level segment --search wide"
    assert f"task1_gen_report.py {asked} --results-dir {folder.parent}\n" in out

    own = folder / "wide" / ("segment" if level == "segment" else "")
    metrics = metrics_of(own)
    assert metrics.settings.search == "wide"
    assert (metrics.settings.segments is not None) == (level == "segment")
    grids = classical.make_grids(level, "wide")
    assert list(metrics.models) == list(grids)
    val = read_record(own / "val_predictions.json", Predictions, "x")
    rows = classical.read_rows(folder, "val", metrics.settings.segments)
    for name, row in metrics.models.items():
        search = read_record(own / f"search_{name}.json", Search, "x")
        assert search.settings.grid == grids[name]
        assert row.params.keys() >= {"scaler", "k"}
        model = classical.read_sklearn(own / f"{name}.skops", "x", val.classes, rows.X.shape[1])
        assert (
            str(model[1])
            == {"robust": "RobustScaler()", "standard": "StandardScaler()"}[row.params["scaler"]]
        )
        n_seen = row.params["k"] or (149 if level == "song" else rows.X.shape[1])
        assert model[:2].transform(rows.X[:1]).shape[1] >= n_seen
        assert getattr(model[-1], "n_features_in_", n_seen) == n_seen or "pca" in model.named_steps
        scores = classical.probabilities(name, model, rows, row.temperature)
        np.testing.assert_allclose(val.scores[name], scores, rtol=1e-5)
    if level == "song":
        explained = read_record(own / "ablation.json", Ablation, "x")
        assert explained.settings.params == metrics.models[metrics.best_in_cv].params

    train(*options)
    assert capsys.readouterr().out.count("not searched again") == len(grids)
    monkeypatch.setattr(classical, "WIDE", {"scaler": ["robust"], "k": [None]})
    with pytest.raises(UserError, match=r"wide/.*search_.*other settings \(grid .*--overwrite"):
        train(*options)
    train(*options, "--overwrite")
    assert all(of.params["k"] is None for of in metrics_of(own).models.values())
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("name", ["X_val.npy", "y_train.npy", "units_train.npy"])
def test_features_that_changed_are_refused(folder, train, name):
    array = np.load(folder / name)
    files.write_array(folder / name, array[::-1])
    with pytest.raises(UserError, match=rf"{name} changed .*: run task1_preprocessing\.py again"):
        train("--level", "segment")
