"""The stage task1_train.py, on features that are drawn."""

import argparse
import json

import numpy as np
import pytest
from conftest import SMALL_GRIDS, TOY_DATASET, make_songs

import task1_train
from artist20 import UserError, classical, evaluation, features, files, results


def put_features(folder, train, val):
    """Write what task1_preprocessing.py writes: units are noise around each song's features."""
    rng = np.random.default_rng(0)
    files.write_json(folder / "feature_names.json", train.names)
    for split, part in (("train", train), ("val", val)):
        files.write_array(folder / f"X_{split}.npy", part.X)
        files.write_array(folder / f"y_{split}.npy", part.y)
        files.write_json(folder / f"songs_{split}.json", part.songs)
        unit_songs = np.repeat(np.arange(len(part.y), dtype=np.int32), 4)
        units = rng.normal(size=(len(unit_songs), len(features.UNIT_NAMES)))
        units[:, 1 : 1 + part.X.shape[1]] += part.X[unit_songs]
        units[:, 0] = 156
        files.write_array(folder / f"units_{split}.npy", units.astype(np.float32))
        files.write_array(folder / f"unit_songs_{split}.npy", unit_songs)
    files.write_json(
        folder / "preprocessing.json",
        {
            "dataset": TOY_DATASET,
            "feature_version": 1,
            "arrays": results.feature_hashes(folder),
        },
    )


@pytest.fixture
def small_grids(monkeypatch):
    segment = {
        name: [{key: v[:1] for key, v in grid[0].items()}]
        for name, grid in classical.GRIDS["segment"].items()
    }
    monkeypatch.setattr(classical, "GRIDS", {"song": SMALL_GRIDS, "segment": segment})


def arguments(results_dir, **changes):
    options = {
        "seed": 0,
        "workers": 1,
        "cv": "album",
        "overwrite": False,
        "level": "song",
        **changes,
    }
    return argparse.Namespace(results_dir=results_dir, **options)


def read(folder, name):
    return json.loads((folder / name).read_text())


# --- the stage ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_artists", [2, 3])
def test_train_all(tmp_path, small_grids, n_artists, capsys):
    folder = results.task1_dir(tmp_path)
    train, val = make_songs(n_artists), make_songs(n_artists, n_albums=1, seed=5)
    put_features(folder, train, val)
    task1_train.train_all(arguments(tmp_path))

    metrics = read(folder, "metrics.json")
    assert list(metrics["models"]) == list(SMALL_GRIDS)
    predictions = results.read_predictions(folder / "val_predictions.json", "x")
    assert predictions.classes == sorted(set(train.y))
    assert predictions.songs == val.songs
    for name, row in metrics["models"].items():
        model = results.read_sklearn(folder / f"{name}.skops")
        best_guess = np.array(predictions.classes)[predictions.scores[name].argmax(axis=1)]
        assert row["top1"] == pytest.approx((best_guess == val.y).mean())
        assert row["top1"] <= row["top3"] <= 1
        assert row["top3"] == 1  # of three artists
        best = read(folder, f"search_{name}.json")["candidates"][0]
        assert row["params"] == best["params"]
        assert row["cv_top1"] == best["mean"]
        step = model.steps[-1][1]
        assert {key: step.get_params()[key] for key in best["params"]} == best["params"]
        rows = task1_train.read_rows(folder, "song", {"val": val}, {})["val"]
        logits = classical.logits(name, classical.song_scores(model, rows))
        expected = evaluation.calibrated(logits, row["temperature"])
        assert np.allclose(predictions.scores[name], expected, rtol=1e-5)
        assert predictions.scores[name].sum(axis=1) == pytest.approx(np.ones(len(val.y)), rel=1e-4)
        assert row["cv_top1_by"]["album"] == row["cv_top1"]
        assert row["cv_top1_by"]["song"] > 0
    held_out = results.read_predictions(folder / "cv_predictions.json", "x")
    assert held_out.songs == train.songs
    assert list(held_out.scores) == list(SMALL_GRIDS)
    best = max(metrics["models"], key=lambda name: metrics["models"][name]["cv_top1"])
    assert metrics["best_in_cv"] == best
    ablation = read(folder, "ablation.json")
    assert ablation["settings"]["model"] == best
    assert ablation["families"].keys() == {"mfcc", "mel"}
    assert any(row["cv_top1"] > 1.2 / n_artists for row in metrics["models"].values())
    assert metrics["dataset"]["name"] == "toy"
    config = {"level": "song", "cv": "album", "folds": 5, "unseen_in_cv": 0}
    assert metrics["config"] == {**config, "arrays": results.feature_hashes(folder)}
    assert {"seed", "command", "versions", "device", "seconds"} <= metrics.keys()
    assert "next: python task1_gen_report.py" in capsys.readouterr().out


def test_finished_models_are_not_searched_again(tmp_path, small_grids, monkeypatch, capsys):
    folder = results.task1_dir(tmp_path)
    put_features(folder, make_songs(), make_songs(seed=5))
    task1_train.train_all(arguments(tmp_path))
    before = read(folder, "val_predictions.json")
    models = {path: path.read_bytes() for path in folder.glob("*.skops")}
    assert len(models) == 4

    searched = []
    search = classical.search
    monkeypatch.setattr(
        classical, "search", lambda *rest, **more: searched.append(rest[0]) or search(*rest, **more)
    )
    task1_train.train_all(arguments(tmp_path))
    assert searched == []
    assert capsys.readouterr().out.count("not searched again") == 4
    assert read(folder, "val_predictions.json") == before
    # A run that was stopped goes on with what it lacks.
    (folder / "search_knn.json").unlink()
    task1_train.train_all(arguments(tmp_path))
    assert searched == ["knn", "knn"]  # the grid, and the best under folds of the other kind
    assert {path: path.read_bytes() for path in models if path.stem != "knn"} == {
        path: data for path, data in models.items() if path.stem != "knn"
    }
    assert read(folder, "val_predictions.json") == before


@pytest.mark.parametrize("change", [{"seed": 1}, {"cv": "song"}, "features", "grid"])
def test_models_of_other_settings_are_refused(tmp_path, small_grids, monkeypatch, change):
    folder = results.task1_dir(tmp_path)
    monkeypatch.setattr(classical, "GRIDS", {"song": {"knn": SMALL_GRIDS["knn"]}})
    put_features(folder, make_songs(), make_songs(seed=5))
    task1_train.train_all(arguments(tmp_path))
    metrics = (folder / "metrics.json").read_bytes()
    changes = {}
    if change == "features":
        put_features(folder, make_songs(seed=7), make_songs(seed=5))
    elif change == "grid":
        monkeypatch.setattr(classical, "GRIDS", {"song": {"knn": [{"n_neighbors": [3]}]}})
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
    grids = {**SMALL_GRIDS, "knn": [{"n_neighbors": [3, 5]}]}
    monkeypatch.setattr(classical, "GRIDS", {"song": grids})
    train = make_songs(n_artists, n_albums, n_songs)
    put_features(results.task1_dir(tmp_path), train, make_songs(n_artists, 1, 1, seed=5))
    try:
        task1_train.train_all(arguments(tmp_path, cv=cv))
    except UserError as error:
        assert "preprocess more songs" in str(error)
        assert "\n" not in str(error)
    else:
        assert read(results.task1_dir(tmp_path), "metrics.json")["models"]["knn"]


def test_the_stage_before_is_named(tmp_path):
    with pytest.raises(UserError, match=r"run task1_preprocessing\.py first"):
        task1_train.train_all(arguments(tmp_path))


def test_a_stopped_ablation_goes_on_with_the_next_family(tmp_path, small_grids, monkeypatch):
    folder = results.task1_dir(tmp_path)
    put_features(folder, make_songs(), make_songs(seed=5))
    task1_train.train_all(arguments(tmp_path))
    whole = read(folder, "ablation.json")
    assert whole["complete"]
    (folder / "ablation.json").unlink()
    ablate = classical.ablate

    def stop(*args, **more):
        yield next(ablate(*args, **more))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(classical, "ablate", stop)
        with pytest.raises(KeyboardInterrupt):
            task1_train.train_all(arguments(tmp_path))
    part = read(folder, "ablation.json")
    assert not part["complete"]
    assert len(part["families"]) == 1
    assert (folder / "metrics.json").is_file()  # the accuracies do not wait for it
    task1_train.train_all(arguments(tmp_path))
    assert read(folder, "ablation.json") == whole


def test_folds_by_album_that_cannot_be_made_are_left_out(tmp_path, small_grids):
    folder = results.task1_dir(tmp_path)
    train = make_songs(n_artists=2, n_albums=1, n_songs=10)
    put_features(folder, train, make_songs(n_artists=2, n_albums=1, seed=5))
    task1_train.train_all(arguments(tmp_path, cv="song"))
    for row in read(folder, "metrics.json")["models"].values():
        assert row["cv_top1_by"]["song"] == row["cv_top1"]
    with pytest.raises(UserError, match="to cross-validate"):
        task1_train.train_all(arguments(tmp_path, overwrite=True))


@pytest.mark.parametrize(
    ("name", "content"),
    [("ablation.json", "{}"), ("search_knn.json", "[]"), ("search_knn.json", "{}")],
)
def test_damaged_records_are_named(tmp_path, small_grids, name, content):
    folder = results.task1_dir(tmp_path)
    put_features(folder, make_songs(), make_songs(seed=5))
    task1_train.train_all(arguments(tmp_path))
    (folder / name).write_text(content)
    with pytest.raises(UserError, match=f"{name}.*run it again"):
        task1_train.train_all(arguments(tmp_path))
    files.write_array(folder / "held_out_svm.npy", np.zeros((3, 3)))
    with pytest.raises(UserError, match="held_out_svm"):
        task1_train.train_all(arguments(tmp_path))


def test_a_model_whose_numbers_overflow_is_left_out(tmp_path, monkeypatch, capsys):
    folder = results.task1_dir(tmp_path)
    train, val = make_songs(), make_songs(n_albums=1, seed=5)
    train.X[::4] *= 1e12  # as of songs a million times as loud
    put_features(folder, train, val)
    grids = {"svm": [{"kernel": ["poly"], "gamma": [0.01]}], "knn": SMALL_GRIDS["knn"]}
    monkeypatch.setattr(classical, "GRIDS", {"song": grids})
    task1_train.train_all(arguments(tmp_path))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out")]
    assert line.startswith("left out: svm (its numbers overflow: features are far out of scale")
    metrics = results.read_metrics(folder / "metrics.json", "task1_train.py")
    assert list(metrics["models"]) == ["knn"]
    assert metrics["left_out"].keys() == {"svm"}
    for split in ("val", "cv"):
        predictions = results.read_predictions(folder / f"{split}_predictions.json", "x")
        assert list(predictions.scores) == ["knn"]

    monkeypatch.setattr(classical, "GRIDS", {"song": {"svm": grids["svm"]}})
    with pytest.raises(UserError, match="every model is left out; of the last, its numbers"):
        task1_train.train_all(arguments(tmp_path))


# --- segments ----------------------------------------------------------------------------------


def test_segments_beside_songs(tmp_path, small_grids, capsys):
    songs, segments = results.task1_dir(tmp_path), results.task1_dir(tmp_path, "segment")
    put_features(songs, make_songs(), make_songs(n_albums=1, seed=5))
    task1_train.train_all(arguments(tmp_path))
    of_songs = (songs / "metrics.json").read_bytes()
    task1_train.train_all(arguments(tmp_path, level="segment"))
    assert (songs / "metrics.json").read_bytes() == of_songs

    metrics = read(segments, "metrics.json")
    chosen = read(segments, "search_segments.json")["candidates"]
    points = {(row["params"]["seconds"], row["params"]["covariance"]) for row in chosen}
    assert points == {(s, c) for s in classical.SEGMENT_SECONDS for c in (False, True)}
    best = max(chosen, key=lambda row: row["mean"])
    assert {**best["params"], "level": "segment"}.items() <= metrics["config"].items()
    predictions = results.read_predictions(segments / "val_predictions.json", "x")
    assert len(predictions.songs) == 12
    assert max(row["top1"] for row in metrics["models"].values()) > 0.5
    assert "task1_gen_report.py --level segment" in capsys.readouterr().out

    task1_train.train_all(arguments(tmp_path, level="segment"))
    assert capsys.readouterr().out.count("not searched again") == 4
    with pytest.raises(UserError, match="other settings"):
        task1_train.train_all(arguments(tmp_path, level="segment", seed=1))


@pytest.mark.parametrize("damage", ["width", "songs", "dtype", "missing"])
def test_units_that_do_not_fit_are_refused(tmp_path, small_grids, damage):
    folder = results.task1_dir(tmp_path)
    put_features(folder, make_songs(), make_songs(seed=5))
    file = folder / "units_train.npy"
    units = np.load(file)
    if damage == "width":
        files.write_array(file, units[:, :-1])
    elif damage == "dtype":
        files.write_array(file, units.astype(np.float64))
    elif damage == "songs":
        songs = folder / "unit_songs_train.npy"
        files.write_array(songs, np.maximum(np.load(songs), 1))
    else:
        file.unlink()
        with pytest.raises(UserError, match=r"units_train\.npy is missing"):
            task1_train.train_all(arguments(tmp_path, level="segment"))
        return
    with pytest.raises(UserError, match=r"run task1_preprocessing\.py again"):
        results.read_units(folder, "train", 48, len(features.UNIT_NAMES))
