"""artist20.artifacts: what is written comes back, and what is read can do no harm."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import skops.io
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, RobustScaler, StandardScaler
from sklearn.svm import SVC

from artist20 import UserError, dataset, files, results

STAGE = "task0_stage.py"
AGAIN = rf"run {STAGE} again|{STAGE} writes: run it again"


class Touch:
    """An object that makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(read, path: Path, *args: object) -> str:
    """Check that reading ends in a message that names the file, and return it."""
    with pytest.raises(UserError) as caught:
        read(path, *args)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- writing -----------------------------------------------------------------------------------


def test_atomic_path_replaces_only_when_all_is_written(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with files.atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.suffix == ".txt"
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), files.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with files.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("write", "value"),
    [
        (files.write_json, {"x": float("nan")}),
        (files.write_json, {"x": float("inf")}),
        (files.write_json, {"x": object()}),
        (files.write_array, np.array([object()])),
        (files.write_checkpoint, {"x": lambda: None}),
        (files.write_sklearn, (i for i in range(3))),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path, write, value):
    path = tmp_path / "a.npy"  # np.save would append another suffix
    path.write_text("old")
    with pytest.raises(Exception):  # noqa: B017 - each library has its own
        write(path, value)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_sha256_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")


# --- JSON and arrays ---------------------------------------------------------------------------


def test_json_comes_back(tmp_path):
    value = {"ä, [b] (c's)": [1, 0.1, None, True], "empty": {}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json", STAGE) == value
    assert "ä" in (tmp_path / "a.json").read_text(encoding="utf-8")  # people read it


def test_bad_json_is_named(tmp_path):
    path = tmp_path / "a.json"
    assert f"run {STAGE} first" in refused(files.read_json, path, STAGE)
    for content in (b"", b'{"a": 1', b"\xff\xfe"):
        path.write_bytes(content)
        assert f"run {STAGE} again" in refused(files.read_json, path, STAGE)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1, "a": 2}', '[{"b": {"a": 1, "a": 1}}]', "[NaN]", '{"a": Infinity}', "-Infinity"],
)
def test_json_is_read_more_strictly_than_python_does(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert "no valid JSON" in refused(files.read_json, path, STAGE)


def test_what_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.x"
    path.touch()
    for library, name in ((torch, "load"), (np, "load"), (skops.io, "load"), (Path, "read_text")):
        monkeypatch.setattr(library, name, refuse)
    expected = f"{path} cannot be read (Permission denied): mend that"
    for read in (results.read_checkpoint, files.read_array, files.read_json):
        assert refused(read, path, STAGE) == expected
    assert refused(results.read_sklearn, path) == expected


def test_what_is_no_file_is_not_read(tmp_path):
    path = tmp_path / "a.json"
    os.mkfifo(path)  # opening it would wait for ever
    for read in (files.read_json, files.read_array):
        assert "is no file" in refused(read, path, STAGE)
    path.unlink()
    path.mkdir()
    assert "is no file" in refused(files.read_json, path, STAGE)


@pytest.mark.parametrize(
    ("value", "form", "expected"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (True, float, False),
        (10**400, float, False),
        (float("nan"), float, False),
        (None, (str, type(None)), True),
        ("a", ("b", "a"), True),
        ("c", ("b", "a"), False),
        ([1, 2], [int], True),
        ([1, "2"], [int], False),
        ([], [int], True),
        ({"a": 1, "more": 2}, {"a": int}, True),
        ({"b": 1}, {"a": int}, False),
        ({"x": 1, "y": "2"}, {str: int}, False),
        ({"a": {"b": []}}, {"a": {"b": list}}, True),
        ({"a": 1}, {"a"}, True),
        ([], {"a"}, False),
        ([], dict, False),
    ],
)
def test_has_form(value, form, expected):
    assert results.has_form(value, form) == expected


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=np.float32).reshape(2, 3), np.array(["queen", "sigur_rós"]), np.zeros(0)],
)
def test_arrays_come_back(tmp_path, array):
    files.write_array(tmp_path / "a.npy", array)
    result = files.read_array(tmp_path / "a.npy", STAGE)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_an_array_with_pickle_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "a.npy", tmp_path / "marker"
    np.save(path, np.array([Touch(marker)]), allow_pickle=True)
    assert f"run {STAGE} again" in refused(files.read_array, path, STAGE)
    path.write_bytes(pickle.dumps(Touch(marker)))  # np.load would take a bare pickle, too
    refused(files.read_array, path, STAGE)
    assert not marker.exists()
    # The control, on a file made three lines above: read the unsafe way, it does run.
    np.load(path, allow_pickle=True)
    assert marker.exists()


def test_bad_arrays_are_named(tmp_path):
    path = tmp_path / "a.npy"
    assert f"run {STAGE} first" in refused(files.read_array, path, STAGE)
    files.write_array(path, np.zeros((30, 4)))
    whole = path.read_bytes()
    for size in (0, 3, 8, 40, 100, 128, 500, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert f"run {STAGE} again" in refused(files.read_array, path, STAGE)
    path.write_bytes(b"PK\x03\x04 no archive")
    refused(files.read_array, path, STAGE)
    with path.open("wb") as file:
        np.savez(file, a=np.zeros(3))  # an archive of arrays is no array
    refused(files.read_array, path, STAGE)


def test_arrays_with_any_byte_changed_are_read_or_named(tmp_path):
    path = tmp_path / "a.npy"
    files.write_array(path, np.zeros((3, 4)))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in range(128):  # the header
        changed = bytearray(whole)
        changed[position] = rng.integers(256)
        path.write_bytes(changed)
        try:
            files.read_array(path, STAGE)
        except UserError as error:
            assert str(path) in str(error)


# --- Task 1 ------------------------------------------------------------------------------------


def write_feature_set(folder: Path, data_dir: Path) -> list[dataset.Song]:
    songs = dataset.read_split(data_dir, "val")
    files.write_json(folder / "feature_names.json", ["a", "b", "c"])
    units = [np.full((n, 5), n, np.float32) for n in (1, 2, 1, 1, 3, 1)]
    records = [song.record() for song in songs]
    results.write_features(folder, "val", np.arange(18.0).reshape(6, 3), units, records)
    return songs


def test_features_come_back(tmp_path, tiny_data):
    songs = write_feature_set(tmp_path, tiny_data)
    features = results.read_features(tmp_path, "val")
    assert features.X.dtype == np.float32
    np.testing.assert_array_equal(features.X, np.arange(18.0).reshape(6, 3))
    assert features.y.tolist() == [song.artist for song in songs]
    assert features.albums.tolist() == [f"{song.artist}/{song.album}" for song in songs]
    assert features.songs == [song.record() for song in songs]
    assert features.names == ["a", "b", "c"]
    units, unit_songs = results.read_units(tmp_path, "val", 6, 5)
    assert unit_songs.tolist() == [0, 1, 1, 2, 3, 4, 4, 4, 5]
    assert units[:, 0].tolist() == [1, 2, 2, 1, 1, 3, 3, 3, 1]
    assert not units.flags.writeable


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X_val.npy", np.zeros((5, 3))),
        ("X_val.npy", np.zeros((6, 4))),
        ("X_val.npy", np.zeros(18)),
        ("X_val.npy", np.full((6, 3), np.nan)),
        ("X_val.npy", np.full((6, 3), "queen")),
        ("y_val.npy", np.array(["queen"] * 5)),
        ("y_val.npy", np.array(["queen"] * 6)),  # not the artists of songs_val.json
        ("songs_val.json", []),
        ("songs_val.json", [1] * 6),
        ("songs_val.json", [{}] * 6),
        ("songs_val.json", 5),
        ("feature_names.json", ["a"]),
        ("feature_names.json", None),
    ],
)
def test_features_that_do_not_belong_together(tmp_path, tiny_data, name, value):
    write_feature_set(tmp_path, tiny_data)
    path = tmp_path / name
    (files.write_array if name.endswith(".npy") else files.write_json)(path, value)
    with pytest.raises(UserError, match=r"run task1_preprocessing\.py again") as caught:
        results.read_features(tmp_path, "val")
    assert str(tmp_path) in str(caught.value)
    assert name in str(caught.value)


@pytest.mark.parametrize("name", ["X_val.npy", "y_val.npy", "songs_val.json", "feature_names.json"])
def test_a_missing_file_of_features_is_named(tmp_path, tiny_data, name):
    write_feature_set(tmp_path, tiny_data)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=r"run task1_preprocessing\.py first") as caught:
        results.read_features(tmp_path, "val")
    assert str(tmp_path / name) in str(caught.value)


def toy_problem() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.repeat(["queen", "sigur_rós", "u2"], 10)
    return rng.normal(size=(30, 6)) + np.repeat(np.eye(3, 6) * 3, 10, axis=0), y


@pytest.mark.parametrize(
    "classifier",
    [
        SVC(),
        LogisticRegression(),
        RandomForestClassifier(5, random_state=0),
        KNeighborsClassifier(3, weights="distance", algorithm="brute"),
    ],
    ids=lambda classifier: type(classifier).__name__,
)
def test_pipelines_come_back(tmp_path, classifier):
    X, y = toy_problem()
    steps = VarianceThreshold(), StandardScaler(), PCA(5, whiten=True), RobustScaler()
    model = make_pipeline(*steps, SelectKBest(f_classif, k=4), classifier).fit(X, y)
    files.write_sklearn(tmp_path / "a.skops", model)
    result = results.read_sklearn(tmp_path / "a.skops")
    np.testing.assert_array_equal(result.predict(X), model.predict(X))
    scores = "decision_function" if isinstance(classifier, SVC) else "predict_proba"
    np.testing.assert_array_equal(getattr(result, scores)(X), getattr(model, scores)(X))
    assert result.classes_.tolist() == ["queen", "sigur_rós", "u2"]


def test_a_model_of_another_type_is_refused_and_not_run(tmp_path):
    path, marker = tmp_path / "a.skops", tmp_path / "marker"
    # Reading alone would not run it, but the first call of transform would.
    model = FunctionTransformer(os.mkdir)
    skops.io.dump(model, path)
    refused(results.read_sklearn, path)
    path.write_bytes(pickle.dumps(Touch(marker)))
    refused(results.read_sklearn, path)
    assert not marker.exists()


def test_bad_models_are_named(tmp_path):
    path = tmp_path / "a.skops"
    assert "run task1_train.py first" in refused(results.read_sklearn, path)
    X, y = toy_problem()
    files.write_sklearn(path, KNeighborsClassifier().fit(X, y))
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "run task1_train.py --overwrite" in refused(results.read_sklearn, path)
    files.write_sklearn(path, StandardScaler().fit(X, y))
    assert "no model of task1_train.py" in refused(results.read_sklearn, path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", "{}")
    refused(results.read_sklearn, path)


# --- checkpoints -------------------------------------------------------------------------------


def make_checkpoint() -> dict[str, object]:
    return {
        "kind": "resnet",
        "classes": ["queen", "sigur_rós"],
        "config": {"lr": 0.01, "tuple": (1, 2)},
        "state": {"weight": torch.arange(6.0).reshape(2, 3).half()},
    }


def test_checkpoints_come_back(tmp_path):
    files.write_checkpoint(tmp_path / "a.pt", make_checkpoint())
    result = results.read_checkpoint(tmp_path / "a.pt", STAGE)
    assert torch.equal(result["state"].pop("weight"), make_checkpoint()["state"].pop("weight"))
    assert {**result, "state": {}} == {**make_checkpoint(), "state": {}}


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, recwarn):
    path, marker = tmp_path / "a.pt", tmp_path / "marker"
    torch.save({**make_checkpoint(), "extra": Touch(marker)}, path)
    message = refused(results.read_checkpoint, path, STAGE)
    assert len(message.splitlines()) == 1
    assert not marker.exists()
    path.write_bytes(
        pickle.dumps({**make_checkpoint(), "state": {}, "extra": Touch(marker)}, protocol=2)
    )
    refused(results.read_checkpoint, path, STAGE)
    path.write_bytes(pickle.dumps(Touch(marker), protocol=4))  # of which torch warns
    refused(results.read_checkpoint, path, STAGE)
    assert not recwarn.list
    assert not marker.exists()
    # The control, on a file made above: read the unsafe way, it does run.
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_bad_checkpoints_are_named(tmp_path):
    path = tmp_path / "a.pt"
    assert f"run {STAGE} first" in refused(results.read_checkpoint, path, STAGE)
    files.write_checkpoint(path, make_checkpoint())
    whole = path.read_bytes()
    for size in [0, 1, 2, 10, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        refused(results.read_checkpoint, path, STAGE)
    for content in (b"no checkpoint", b"0", b"."):
        path.write_bytes(content)
        refused(results.read_checkpoint, path, STAGE)
    for value in ({"model": {}}, [1, 2], torch.zeros(3)):
        files.write_checkpoint(path, value)
        assert f"no checkpoint of {STAGE}" in refused(results.read_checkpoint, path, STAGE)


# --- predictions -------------------------------------------------------------------------------


def make_predictions() -> results.Predictions:
    return results.Predictions(
        ["queen", "sigur_rós", "u2"],
        [
            {"path": "./train_val/u2/War/01.mp3", "artist": "u2", "album": "War"},
            {"path": "./train_val/queen/Jazz/01.mp3", "artist": "queen", "album": "Jazz"},
        ],
        {"svm": np.array([[1 / 3, 2e-9, 0.123456789], [0, 1, 0.5]]), "knn": np.eye(2, 3)},
    )


def test_predictions_come_back_to_six_digits(tmp_path):
    written = make_predictions()
    results.write_predictions(tmp_path / "a.json", written)
    result = results.read_predictions(tmp_path / "a.json", STAGE)
    assert (result.classes, result.songs) == (written.classes, written.songs)
    assert result.labels.tolist() == [2, 0]
    assert result.albums.tolist() == ["u2/War", "queen/Jazz"]
    assert result.scores.keys() == written.scores.keys()
    for model, scores in written.scores.items():
        np.testing.assert_allclose(result.scores[model], scores, rtol=5e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["queen"]},
        {"classes": 5},
        {"classes": ["queen", "sigur_rós", "u2", "more"]},
        {"songs": []},
        {"songs": ["a", "b"]},
        {"songs": [{"artist": "u2"}, {"artist": "queen"}]},
        {"scores": {"svm": [[1, 2, 3]]}},
        {"scores": {"svm": [[1, 2, 3], [1, 2]]}},
        {"scores": {"svm": [["a", "b", "c"], [1, 2, 3]]}},
        {"scores": {"svm": [[1, 2, None], [1, 2, 3]]}},
        {"scores": {"svm": [[0.1, 0.2, 1e308], [0, 0, 1]]}},
        {"scores": {"svm": [[0.1, 0.2, 10**400], [0, 0, 1]]}},
        {"classes": ["u2", "queen", "sigur_rós"]},
        {"scores": [[1, 2, 3]]},
    ],
)
def test_bad_predictions_are_named(tmp_path, change):
    path = tmp_path / "a.json"
    results.write_predictions(path, make_predictions())
    files.write_json(path, {**files.read_json(path, STAGE), **change})
    assert re.search(AGAIN, refused(results.read_predictions, path, STAGE))


def test_predictions_that_are_missing_or_no_object(tmp_path):
    path = tmp_path / "a.json"
    assert f"run {STAGE} first" in refused(results.read_predictions, path, STAGE)
    files.write_json(path, [1])
    assert re.search(AGAIN, refused(results.read_predictions, path, STAGE))


def make_test_scores() -> results.TestScores:
    return results.TestScores(
        ["queen", "sigur_rós", "u2"],
        {"001": "ab", "002": "cd"},
        {"svm": ["12"], "knn": ["34", "56"]},
        {"svm": np.array([[1 / 3, 1 / 3, 1 / 3], [0, 2e-9, 1]]), "knn": np.eye(2, 3)},
        {"002": "cannot be decoded"},
    )


def test_test_scores_come_back_to_six_digits(tmp_path):
    written = make_test_scores()
    results.write_test_scores(tmp_path / "a.json", written)
    result = results.read_test_scores(tmp_path / "a.json", STAGE)
    assert (result.classes, result.songs) == (written.classes, written.songs)
    assert result.checkpoints == written.checkpoints
    assert result.guessed == written.guessed
    for model, scores in written.scores.items():
        np.testing.assert_allclose(result.scores[model], scores, rtol=5e-6)


@pytest.mark.parametrize(
    "change",
    [
        {"classes": ["queen"]},
        {"classes": 5},
        {"songs": {"001": "ab"}},
        {"songs": None},
        {"checkpoints": {"svm": ["12"]}},
        {"checkpoints": []},
        {"guessed": {"003": "is empty"}},
        {"guessed": ["002"]},
        {"scores": {"svm": [[1, 2, 3]], "knn": [[1, 2, 3]]}},
        {"scores": {"svm": [[1, 2, 3], [1, 2]], "knn": [[1, 2, 3], [1, 2, 3]]}},
        {"scores": [[1, 2, 3]]},
    ],
)
def test_bad_test_scores_are_named(tmp_path, change):
    path = tmp_path / "a.json"
    results.write_test_scores(path, make_test_scores())
    files.write_json(path, {**files.read_json(path, STAGE), **change})
    assert re.search(AGAIN, refused(results.read_test_scores, path, STAGE))


def test_test_scores_that_are_missing_or_predictions(tmp_path):
    path = tmp_path / "a.json"
    assert f"run {STAGE} first" in refused(results.read_test_scores, path, STAGE)
    results.write_predictions(path, make_predictions())
    assert "run it again" in refused(results.read_test_scores, path, STAGE)


RECORDS = [{"path": f"./train_val/{a}/x/1.mp3", "artist": a, "album": "x"} for a in "abc"]


def write_run(folder: Path) -> dict:
    train, val = np.arange(12.0).reshape(3, 4), np.ones((2, 4)) / 3
    return {"embeddings": results.write_embeddings(folder, train, val, RECORDS)}


def test_embeddings_come_back(tmp_path):
    metrics = write_run(tmp_path)
    found = results.read_embeddings(tmp_path, metrics, RECORDS[:2], STAGE)
    assert found.train.dtype == found.val.dtype == np.float32
    assert found.train.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert found.val.tolist() == [[np.float32(1 / 3)] * 4] * 2
    assert (found.train_songs, found.val_songs) == (RECORDS, RECORDS[:2])


@pytest.mark.parametrize(
    "value", [{}, [1], [{"path": "a", "artist": "b"}], [{**RECORDS[0], "path": 1}]]
)
def test_what_is_no_list_of_songs_is_named(tmp_path, value):
    files.write_json(tmp_path / "songs.json", value)
    assert "no list of songs" in refused(results.read_songs, tmp_path / "songs.json", STAGE)


@pytest.mark.parametrize("name", results.EMBEDDING_FILES)
def test_embeddings_that_are_missing_or_of_another_run_are_named(tmp_path, name):
    metrics = write_run(tmp_path)
    kept = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing: run {STAGE} first"):
        results.read_embeddings(tmp_path, metrics, RECORDS[:2], STAGE)
    (tmp_path / name).write_bytes(kept[: len(kept) // 2])
    with pytest.raises(UserError, match=f"{name}.* run {STAGE} again"):
        results.read_embeddings(tmp_path, metrics, RECORDS[:2], STAGE)
    other = [{**song, "album": "y"} for song in RECORDS]
    results.write_embeddings(tmp_path, np.zeros((3, 4)), np.zeros((2, 4)), other)
    with pytest.raises(UserError, match=f"is not of the run .* run {STAGE} --overwrite"):
        results.read_embeddings(tmp_path, metrics, RECORDS[:2], STAGE)


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("train", np.zeros((2, 4), np.float32)),
        ("train", np.zeros((3, 5), np.float32)),
        ("train", np.zeros((3, 4), np.float64)),
        ("val", np.zeros((2, 4), np.float16)),
        ("val", np.zeros(2, np.float32)),
        ("val", np.array([["a"] * 4] * 2)),
        ("val", np.full((2, 4), np.nan, np.float32)),
        ("val", np.full((2, 4), np.inf, np.float32)),
    ],
)
def test_arrays_that_are_no_embeddings_of_the_songs_are_refused(tmp_path, name, array):
    metrics = write_run(tmp_path)
    file = f"{name}_embeddings.npy"
    files.write_array(tmp_path / file, array)
    metrics["embeddings"][file] = files.sha256_file(tmp_path / file)
    with pytest.raises(UserError, match="no embeddings of 3 and 2 songs: run"):
        results.read_embeddings(tmp_path, metrics, RECORDS[:2], STAGE)


def test_test_predictions_are_the_courses(tmp_path):
    results.write_test_predictions(
        tmp_path / "a.json", {"010": ["u2", "queen", "abba"], "002": ["queen", "u2", "abba"]}
    )
    result = files.read_json(tmp_path / "a.json", STAGE)
    assert list(result.items()) == [
        ("002", ["queen", "u2", "abba"]),
        ("010", ["u2", "queen", "abba"]),
    ]


# --- folders -----------------------------------------------------------------------------------


def test_models_lie_where_the_commands_beside_them_write():
    folders = results.model_folders(Path("r"))
    assert {folder.relative_to("r").as_posix(): commands for folder, *commands in folders} == {
        "task1": ["task1_train.py", "python -m artist20.task1_inference"],
        "task1/segment": [
            "task1_train.py --level segment",
            "python -m artist20.task1_inference --level segment",
        ],
        "task2/panns": ["task2_train.py", "python task2_inference.py"],
        "task2/panns_strong": [
            "task2_train.py --recipe strong",
            "python task2_inference.py --recipe strong",
        ],
        "task2/resnet": ["task2_train_wo_pretrain.py", "python task2_inference_wo_pretrain.py"],
        "task2/resnet_strong": [
            "task2_train_wo_pretrain.py --recipe strong",
            "python task2_inference_wo_pretrain.py --recipe strong",
        ],
    }


# --- settings ----------------------------------------------------------------------------------


def test_check_same_settings_names_every_difference():
    made = {"lr": 0.01, "epochs": 5, "seed": 0, "gone": 1}
    results.check_same_settings(made, dict(made), Path("results"))
    with pytest.raises(UserError) as caught:
        results.check_same_settings(
            made, {"lr": 0.01, "epochs": 9, "seed": "0", "new": True}, Path("results")
        )
    message = str(caught.value)
    for part in ("results", "epochs 5 -> 9", "seed 0 -> '0'", "gone 1 -> None", "new None -> True"):
        assert part in message
    assert "lr" not in message.replace("--results-dir", "")
    assert "--overwrite" in message
    assert "--results-dir" in message
