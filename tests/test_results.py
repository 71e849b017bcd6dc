"""artist20.results: records come back; of broken ones a line names file, field and stage."""

import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from conftest import (
    TOY_ARTISTS,
    TOY_DATASET,
    TOY_SONGS,
    put_network,
    put_task1,
    refused,
    toy_settings,
)

from artist20 import UserError, files, results
from artist20.results import (
    Ablation,
    ClassifierChoice,
    NetworkMetrics,
    Predictions,
    Preprocessing,
    Search,
    SongRecord,
    Task1Metrics,
    TestScores,
    read_record,
    write_record,
)

STAGE = "task0_stage.py"

# By file, what it is.
KINDS = {
    "task1/preprocessing.json": Preprocessing,
    "task1/search_svm.json": Search,
    "task1/ablation.json": Ablation,
    "task1/metrics.json": Task1Metrics,
    "task1/segment/metrics.json": Task1Metrics,
    "task1/val_predictions.json": Predictions,
    "task2/panns/metrics.json": NetworkMetrics,
    "task2/resnet/metrics.json": NetworkMetrics,
    "task2/panns_strong/candidates.json": ClassifierChoice,
    "task2/resnet/test_scores.json": TestScores,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a results folder of every kind of record."""
    folder = tmp_path_factory.mktemp("results")
    put_task1(folder, {"svm": 2, "knn": 1}, seed=1)
    put_task1(folder, {"svm": 2}, seed=2, level="segment")
    put_network(folder, "panns", 2, seed=3)
    put_network(folder, "resnet", 2, seed=4)
    candidate = results.ClassifierCandidate(cv_top1=0.5, cv_log_loss=1.5)
    choice = ClassifierChoice(chosen="linear", candidates={"linear": candidate})
    write_record(folder / "task2/panns_strong/candidates.json", choice)
    write_record(folder / "task2/resnet/test_scores.json", make_test_scores())
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """Copy the results folder, for a test that changes it."""
    return Path(shutil.copytree(written, tmp_path / "results"))


def make_test_scores() -> TestScores:
    return TestScores(
        classes=["queen", "sigur_rós", "u2"],
        songs={"001": "ab", "002": "cd"},
        checkpoints={"svm": ["12"], "knn": ["34", "56"]},
        guessed={"002": "cannot be decoded"},
        scores={"svm": np.array([[1 / 3, 1 / 3, 1 / 3], [0, 2e-9, 1]]), "knn": np.eye(2, 3)},
    )


# --- reading and writing -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_records_come_back(written, tmp_path, name, kind):
    record = read_record(written / name, kind, STAGE)
    write_record(tmp_path / "a.json", record)
    assert json.loads((tmp_path / "a.json").read_text()) == json.loads((written / name).read_text())


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_every_field_that_is_missing_or_of_another_type_is_named(folder, name, kind):
    path = folder / name
    whole = json.loads(path.read_text(encoding="utf-8"))
    for field in msgspec.structs.fields(kind):
        broken = {key: value for key, value in whole.items() if key != field.name}
        files.write_json(path, broken)
        if field.required:
            message = refused(read_record, path, kind, STAGE)
            assert f"{path} is broken (" in message
            assert f"missing required field `{field.name}`" in message
            assert message.endswith(f": run {STAGE} again")
        else:
            read_record(path, kind, STAGE)
        files.write_json(path, {**broken, field.name: [[{}]]})
        assert f"`$.{field.name}" in refused(read_record, path, kind, STAGE)


@pytest.mark.parametrize("content", ["", '{"arrays": ', "null", "[]", "{}", "NaN"])
def test_what_is_no_such_record_is_refused(tmp_path, content):
    path = tmp_path / "preprocessing.json"
    path.write_text(content)
    message = refused(read_record, path, Preprocessing, STAGE)
    assert re.fullmatch(rf"{path} is broken \(.+\): run {STAGE} again", message)


def test_a_missing_record_is_told(tmp_path):
    path = tmp_path / "a.json"
    assert refused(read_record, path, Search, STAGE) == f"{path} is missing: run {STAGE} first"


def test_nan_is_not_written(tmp_path):
    family = results.Family(n_features=1, without=None, alone=None, lost=np.nan, lost_std=0.1)
    with pytest.raises(ValueError):
        write_record(tmp_path / "a.json", family)
    assert not list(tmp_path.iterdir())


def test_records_cannot_be_changed():
    with pytest.raises(AttributeError):
        TOY_DATASET.name = "another"


def test_lists_of_records_come_back(tmp_path):
    write_record(tmp_path / "a.json", TOY_SONGS["val"])
    assert read_record(tmp_path / "a.json", list[SongRecord], STAGE) == TOY_SONGS["val"]


# --- what must hold between fields -------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("task1/metrics.json", {"best_in_cv": "random_forest"}, "none of the models"),
        ("task1/metrics.json", {"left_out": {"x": "y"}}, "unknown models x"),
        ("task1/metrics.json", {"models": {}}, "none of the models"),
        ("task2/resnet/metrics.json", {"model": "x"}, "unknown model 'x'"),
        ("task2/resnet/metrics.json", {"model": "resnet@x"}, "rendition of 'resnet@x' is None"),
        ("task2/resnet/metrics.json", {"top1": 1.01}, "<= 1.0"),
        ("task2/resnet/metrics.json", {"top3": -0.01}, ">= 0.0"),
        ("task2/resnet/metrics.json", {"epoch": 0}, ">= 1"),
        ("task1/val_predictions.json", {"classes": TOY_ARTISTS[::-1]}, "classes are not sorted"),
        ("task1/val_predictions.json", {"classes": [*TOY_ARTISTS, "z"]}, "scores of svm"),
        ("task1/val_predictions.json", {"classes": TOY_ARTISTS[:3]}, "artists and songs"),
        ("task1/val_predictions.json", {"songs": []}, "artists and songs"),
        ("task1/val_predictions.json", {"scores": {"svm": [[1, 0, 0, 0]]}}, "scores of svm"),
        ("task1/val_predictions.json", {"scores": {"svm": [[1], [1, 2]]}}, "inhomogeneous"),
        ("task1/val_predictions.json", {"scores": {"svm": [["a"]]}}, "got `str`"),
        ("task1/val_predictions.json", {"scores": {"svm": [[None]]}}, "got `null`"),
        ("task1/val_predictions.json", {"scores": {"svm": [[10**400]]}}, "out of range"),
        ("task2/resnet/test_scores.json", {"classes": ["queen"]}, "classes are not sorted"),
        ("task2/resnet/test_scores.json", {"checkpoints": {"svm": ["1"]}}, "different models"),
        ("task2/resnet/test_scores.json", {"guessed": {"003": "x"}}, "guessed names songs"),
        ("task2/resnet/test_scores.json", {"songs": {"002": "ab"}}, "scores of svm"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(folder, name, change, message):
    path = folder / name
    files.write_json(path, {**json.loads(path.read_text(encoding="utf-8")), **change})
    assert message in refused(read_record, path, KINDS[name], STAGE)


@pytest.mark.parametrize(("score", "fits"), [(0, True), (1, True), (-1e-9, False), (1.001, False)])
def test_scores_are_probabilities(score, fits):
    data = {
        "classes": ["a", "b"],
        "songs": [{"path": "p", "artist": "a", "album": "x"}],
        "scores": {"svm": [[0.5, score]]},
    }
    if fits:
        files.parse_json(json.dumps(data), Predictions)
    else:
        with pytest.raises(ValueError, match=r"scores of svm are not .*probabilities"):
            files.parse_json(json.dumps(data), Predictions)


def test_bands_are_of_whole_mel_bins():
    recipe = toy_settings("resnet").recipe
    for bins_per_band, fits in ((64, True), (16, True), (24, False), (128, False)):
        held = {**msgspec.to_builtins(recipe), "bins_per_band": bins_per_band}
        if fits:
            assert msgspec.convert(held, type(recipe)).bins_per_band == bins_per_band
        else:
            with pytest.raises(ValueError, match="64 mel bins do not make bands of"):
                msgspec.convert(held, type(recipe))


# --- properties --------------------------------------------------------------------------------


def test_predictions_know_labels_and_albums():
    songs = [
        SongRecord(path="./train_val/u2/War/01.mp3", artist="u2", album="War"),
        SongRecord(path="./train_val/queen/Jazz/01.mp3", artist="queen", album="Jazz"),
    ]
    made = Predictions(classes=["abba", "queen", "u2"], songs=songs, scores={})
    assert made.labels.tolist() == [2, 1]
    assert made.albums.tolist() == ["u2/War", "queen/Jazz"]


def test_scores_are_written_to_six_digits(tmp_path):
    write_record(tmp_path / "a.json", make_test_scores())
    scores = read_record(tmp_path / "a.json", TestScores, STAGE).scores
    assert scores["svm"].tolist() == [[0.333333, 0.333333, 0.333333], [0, 2e-9, 1]]
    assert scores["knn"].tolist() == [[1, 0, 0], [0, 1, 0]]


def test_what_a_data_set_is_called():
    whole = msgspec.structs.replace(TOY_DATASET, name="artist20", synthesised=False)
    assert whole.label == "artist20"
    assert TOY_DATASET.label == "toy (synthesised songs)"
    assert TOY_DATASET.identity == "toy, 80 + 48 songs, 0123456789abcdef"
    other = msgspec.structs.replace(TOY_DATASET, fingerprint="1123456789abcdef")
    assert other.identity != TOY_DATASET.identity
    assert whole.is_artist20
    for change in ({"name": "mine"}, {"synthesised": True}, {"limit": 100}):
        assert not msgspec.structs.replace(whole, **change).is_artist20


def test_what_models_are_called(written):
    of_songs, of_segments = (
        read_record(written / name, Task1Metrics, STAGE)
        for name in ("task1/metrics.json", "task1/segment/metrics.json")
    )
    assert (of_songs.of_homework, of_segments.of_homework) == (True, False)
    assert of_songs.names == {"svm": "svm", "knn": "knn"}
    assert of_segments.names == {"svm_of_segments": "svm"}
    assert of_songs.title("svm") == "SVM"
    assert of_segments.title("svm") == "SVM, 5 s segments"
    wide, wide_segments = (
        msgspec.structs.replace(of, settings=msgspec.structs.replace(of.settings, search="wide"))
        for of in (of_songs, of_segments)
    )
    assert wide.names == {"svm_wide": "svm", "knn_wide": "knn"}
    assert wide_segments.names == {"svm_of_segments_wide": "svm"}
    assert wide.title("svm") == "SVM, wide search"
    assert wide_segments.title("svm") == "SVM, 5 s segments, wide search"
    panns, resnet = (
        read_record(written / f"task2/{name}/metrics.json", NetworkMetrics, STAGE)
        for name in ("panns", "resnet")
    )
    assert (panns.untrained, resnet.untrained) == (True, False)
    assert panns.selected
    by_song = msgspec.structs.replace(of_songs.settings, cv="song")
    assert of_songs.folds_by_album
    assert not msgspec.structs.replace(of_songs, settings=by_song).folds_by_album
    assert panns.title("panns") == "PANNs + MLP, untrained encoder"
    assert resnet.title("resnet") == "ResNet"


# --- folders -----------------------------------------------------------------------------------


def test_where_records_lie():
    strong = results.network_dir(Path("r"), "panns", "strong")
    assert strong == Path("r/task2/panns_strong")
    vocals = results.network_dir(Path("r"), "resnet", rendition="vocals")
    assert vocals == Path("r/task2/resnet@vocals")
    assert results.task1_dir(Path("r"), rendition="vocals") == Path("r/task1@vocals")
    assert results.task1_dir(Path("r"), "segment", "vocals") == Path("r/task1@vocals/segment")
    assert results.ensemble_dir(Path("r")) == Path("r/ensemble")
    assert results.cache_dir(Path("r")) == Path("r/cache")


# --- settings ----------------------------------------------------------------------------------


def test_every_setting_that_differs_is_named():
    made = toy_settings("resnet")
    assert results.differences(made, toy_settings("resnet")) == []
    wanted = toy_settings("resnet", lr=0.5, seed=1, noise_snr_db=(1.0, 2.0), fold=3)
    assert results.differences(made, wanted) == [
        "fold None -> 3",
        "recipe.lr 0.005 -> 0.5",
        "recipe.noise_snr_db (15.0, 40.0) -> (1.0, 2.0)",
        "seed 0 -> 1",
    ]
    # Records of other kinds: what one of them lacks is named, too.
    found = results.differences(toy_settings("panns"), made)
    assert "encoders.panns.name 'panns' -> None" in found
    assert "recipe.kind 'transfer' -> 'resnet'" in found
    assert "recipe.n_mels None -> 64" in found


def test_other_settings_are_refused():
    made, wanted = toy_settings("resnet"), toy_settings("resnet", lr=0.5)
    results.check_same_settings(made, toy_settings("resnet"), Path("here"))
    with pytest.raises(UserError) as caught:
        results.check_same_settings(made, wanted, Path("here"))
    assert str(caught.value) == (
        "here is of a run with other settings (recipe.lr 0.005 -> 0.5): "
        "--overwrite replaces it, another --results-dir keeps it"
    )


def test_test_predictions_are_the_courses(tmp_path):
    top3 = {"010": ["u2", "queen", "abba"], "002": ["queen", "u2", "abba"]}
    results.write_test_predictions(tmp_path / "a.json", top3)
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found.items()) == sorted(top3.items())
