"""artist20.results: records come back; of broken ones a line names file, field and stage."""

import json
import pickle
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from conftest import (
    TOY_ARTISTS,
    TOY_DATASET,
    TOY_SONGS,
    Touch,
    put_network,
    put_task1,
    refused,
    toy_model,
    toy_settings,
)

from artist20 import UserError, files, results
from artist20.results import (
    EMBEDDING_FILES,
    Ablation,
    ClassifierChoice,
    EpochProgress,
    EpochRow,
    NetworkMetrics,
    Predictions,
    Preprocessing,
    Search,
    SongRecord,
    Task1Metrics,
    TestScores,
    TrainedModel,
    TrainingState,
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
    assert (of_songs.level, of_segments.level) == ("song", "segment")
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


# --- names of models ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "name", "title"),
    [
        (("panns", "homework", None), "panns", "PANNs + MLP"),
        (("panns", "strong", None), "panns_strong", "PANNs, strong recipe"),
        (("panns-32k", "homework", "v"), "panns-32k@v", "PANNs 32 kHz + MLP, on v"),
        (("resnet", "homework", None), "resnet", "ResNet"),
        (
            ("resnet", "strong", "artist20_vocals"),
            "resnet_strong@artist20_vocals",
            "ResNet, strong recipe, on artist20_vocals",
        ),
        (
            ("ge2e", "strong", "a.b-c_strong"),
            "ge2e_strong@a.b-c_strong",
            "GE2E, strong recipe, on a.b-c_strong",
        ),
        (
            ("ecapa+tagger", "strong", None),
            "ecapa+tagger_strong",
            "ECAPA-TDNN + Music tagger, strong recipe",
        ),
    ],
)
def test_names_of_networks(parts, name, title):
    assert results.network_name(*parts) == name
    assert results.parse_network_name(name) == results.NetworkName(*parts)
    assert results.title(name) == title


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "svms",
        "resnet_weak",
        "resnet+ge2e",
        "ecapa,ge2e",
        "ecapa+",
        "_strong",
        "panns_strong_strong",
    ]
    + [f"resnet@{rendition}" for rendition in ("", "a b", "a/b", "a@b", "..", "a+b")],
)
def test_what_is_no_name_of_a_model(name):
    with pytest.raises(ValueError, match=re.escape(f"unknown model {name!r}")):
        results.title(name)


def test_task1_and_the_ensemble_have_titles():
    assert results.title("knn") == "k-NN"
    assert results.title("ensemble") == "Ensemble"


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (None, None),
        ("data/artist20_vocals", "artist20_vocals"),
        ("/somewhere/Gesang_für.2/", "Gesang_für.2"),
        (".", "here-1"),
    ],
)
def test_a_renditions_name_is_its_trees(tmp_path, monkeypatch, directory, name):
    (tmp_path / "here-1").mkdir()
    monkeypatch.chdir(tmp_path / "here-1")
    assert results.rendition_name(directory and Path(directory)) == name


@pytest.mark.parametrize("directory", ["my vocals", "a@b", "a,b", "a+b", "x/..", "/"])
def test_a_tree_whose_name_cannot_be_a_models_is_told(directory):
    message = refused(results.rendition_name, Path(directory))
    assert message.startswith(f"--audio-root {directory}: ")


# --- folders and runs --------------------------------------------------------------------------


def test_models_lie_where_the_commands_beside_them_write():
    assert {
        stage.folder.relative_to("r").as_posix(): (stage.train, stage.score_test, stage.metrics)
        for stage in results.stages(Path("r"))
    } == {
        "task1": ("task1_train.py", "python -m artist20.task1_inference", Task1Metrics),
        "task1/segment": (
            "task1_train.py --level segment",
            "python -m artist20.task1_inference --level segment",
            Task1Metrics,
        ),
        "task2/panns": ("task2_train.py", "python task2_inference.py", NetworkMetrics),
        "task2/panns_strong": (
            "task2_train.py --recipe strong",
            "python task2_inference.py --recipe strong",
            NetworkMetrics,
        ),
        "task2/resnet": (
            "task2_train_wo_pretrain.py",
            "python task2_inference_wo_pretrain.py",
            NetworkMetrics,
        ),
        "task2/resnet_strong": (
            "task2_train_wo_pretrain.py --recipe strong",
            "python task2_inference_wo_pretrain.py --recipe strong",
            NetworkMetrics,
        ),
    }
    fold = results.network_dir(Path("r"), "panns", "strong", 2)
    assert fold == Path("r/task2/panns_strong/fold-2")
    vocals = results.network_dir(Path("r"), "resnet", rendition="vocals")
    assert vocals == Path("r/task2/resnet@vocals")
    assert results.task1_dir(Path("r"), rendition="vocals") == Path("r/task1@vocals")
    assert results.task1_dir(Path("r"), "segment", "vocals") == Path("r/task1@vocals/segment")
    assert results.ensemble_dir(Path("r")) == Path("r/ensemble")
    assert results.cache_dir(Path("r")) == Path("r/cache")


def test_what_other_encoders_and_renditions_made_is_found(tmp_path, capsys):
    for name in ("ge2e_strong", "resnet_strong@x y"):
        (tmp_path / "task2" / name).mkdir(parents=True)  # not run; no model's name
    (tmp_path / "task2/resnet_strong@x y/metrics.json").touch()
    (tmp_path / "task2/mine/metrics.json").mkdir(parents=True)
    fixed = results.stages(tmp_path)
    for name in ("ecapa+tagger_strong@vocals", "ge2e", "resnet@vocals"):
        put_network(tmp_path, name, 1.0, seed=1)
    put_task1(tmp_path, {"svm": 1.0, "knn": 0.5}, seed=1, level="segment", rendition="vocals")
    found = [stage for stage in results.stages(tmp_path) if stage not in fixed]
    transfer = "--encoder ecapa,tagger --recipe strong --audio-root /somewhere/vocals"
    resnet, segments = "--audio-root /somewhere/vocals", "--level segment --audio-root"
    assert [
        (stage.folder.relative_to(tmp_path).as_posix(), stage.train, stage.score_test)
        for stage in found
    ] == [
        (
            "task1@vocals/segment",
            f"task1_train.py {segments} /somewhere/vocals",
            f"python -m artist20.task1_inference {segments} /somewhere/vocals",
        ),
        (
            "task2/ecapa+tagger_strong@vocals",
            f"task2_train.py {transfer}",
            f"python task2_inference.py {transfer}",
        ),
        (
            "task2/ge2e",
            "task2_train.py --encoder ge2e",
            "python task2_inference.py --encoder ge2e",
        ),
        (
            "task2/resnet@vocals",
            f"task2_train_wo_pretrain.py {resnet}",
            f"python task2_inference_wo_pretrain.py {resnet}",
        ),
    ]
    runs = results.find_runs(tmp_path)
    assert [run.stage for run in runs] == found
    assert {
        name: run.metrics.title(own) for run in runs for name, own in run.metrics.names.items()
    } == {
        "svm_of_segments@vocals": "SVM, 5 s segments, on vocals",
        "knn_of_segments@vocals": "k-NN, 5 s segments, on vocals",
        "ecapa+tagger_strong@vocals": "ECAPA-TDNN + Music tagger, strong recipe, on vocals, "
        "untrained encoder",
        "ge2e": "GE2E + MLP, untrained encoder",
        "resnet@vocals": "ResNet, on vocals",
    }
    assert "@vocals" not in capsys.readouterr().out  # what has not been run is not asked for


def test_a_folder_of_another_name_than_its_models_is_refused(folder):
    (folder / "task2/resnet").rename(folder / "task2/resnet@old")
    message = refused(results.find_runs, folder)
    assert "task2/resnet@old/metrics.json is of resnet: rename its folder" in message


def test_a_broken_record_of_a_rendition_is_told(folder):
    path = put_network(folder, "resnet@vocals", 1.0, seed=1) / "metrics.json"
    path.write_text("{}")
    message = refused(results.stages, folder)
    assert str(path) in message
    assert message.endswith("run task2_train_wo_pretrain.py --audio-root vocals again")


def test_models_of_the_wide_search_are_found_where_they_are(tmp_path):
    put_task1(tmp_path, {"lda": 0.8}, seed=1, search="wide")
    put_task1(tmp_path, {"lda": 0.8}, seed=1, search="wide", level="segment", rendition="vocals")
    stages = {
        stage.folder.relative_to(tmp_path).as_posix(): (stage.train, stage.score_test)
        for stage in results.stages(tmp_path)
    }
    wide = [name for name in stages if "wide" in name]
    assert wide == ["task1/wide", "task1@vocals/wide/segment"]
    options = ["--search wide", "--level segment --search wide --audio-root /somewhere/vocals"]
    for name, option in zip(wide, options, strict=True):
        train, score = f"task1_train.py {option}", f"python -m artist20.task1_inference {option}"
        assert stages[name] == (train, score)


def test_runs_are_found_and_what_is_missing_is_told(folder, capsys):
    path = folder / "task1/metrics.json"
    metrics = json.loads(path.read_text())
    files.write_json(path, {**metrics, "left_out": {"logistic_regression": "overflow"}})
    found = results.find_runs(folder)
    names = [run.stage.folder.relative_to(folder).as_posix() for run in found]
    assert names == ["task1", "task1/segment", "task2/panns", "task2/resnet"]
    assert [type(run.metrics) for run in found] == [Task1Metrics] * 2 + [NetworkMetrics] * 2
    assert capsys.readouterr().out.splitlines() == [
        "left out: task1/logistic_regression (overflow)",
        "left out: task2/panns_strong (task2_train.py --recipe strong has not been run)",
        "left out: task2/resnet_strong (task2_train_wo_pretrain.py --recipe strong has not been "
        "run)",
    ]


def test_models_of_other_features_are_refused(folder):
    path = folder / "task1/preprocessing.json"
    made = json.loads(path.read_text())
    files.write_json(path, {**made, "arrays": {"X_train.npy": "1"}})
    with pytest.raises(UserError, match=r"task1_train\.py are of other features than .*/task1 .*"):
        results.find_runs(folder)


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


# --- checkpoints -------------------------------------------------------------------------------

ROW = EpochRow(
    epoch=1, lr=0.1, train_loss=1.25, val_loss=1, val_top1=0.5, val_top3=0.75, seconds=2.5
)


def make_model(name: str = "resnet") -> TrainedModel:
    weights = {"weight": torch.arange(6.0).reshape(2, 3).half(), "steps": torch.tensor(3)}
    return toy_model(toy_settings(name), weights, TOY_ARTISTS)


def make_state() -> TrainingState:
    held = {**msgspec.structs.asdict(make_model()), "epoch": 1}
    optimizer = {
        "state": {0: {"step": torch.tensor(2.0)}},
        "param_groups": [{"betas": (0.9, 0.99)}],
    }
    progress = EpochProgress(step=2, examples=16, loss_sum=0.5, seconds=3)
    more = {"optimizer": optimizer, "scheduler": {"last_epoch": 1}, "history": [ROW]}
    return TrainingState(**held, **more, progress=progress)


def as_dict(model: TrainedModel) -> dict:
    """Return a checkpoint with lists in place of tensors."""
    held = msgspec.structs.asdict(model)
    weights = {name: (value.dtype, value.tolist()) for name, value in model.weights.items()}
    return {**held, "weights": weights}


@pytest.mark.parametrize("name", ["resnet", "panns_strong"])
def test_models_come_back(tmp_path, name):
    results.save_model(tmp_path / "a.pt", make_model(name))
    found = results.load_model(tmp_path / "a.pt", TrainedModel, STAGE)
    assert as_dict(found) == as_dict(make_model(name))


def test_training_states_come_back_also_as_models(tmp_path):
    path = tmp_path / "a.pt"
    results.save_model(path, make_state())
    assert as_dict(results.load_model(path, TrainingState, STAGE)) == as_dict(make_state())
    model = results.load_model(path, TrainedModel, STAGE)
    assert type(model) is TrainedModel
    assert (model.epoch, model.settings) == (1, make_state().settings)
    results.save_model(path, make_model())
    assert "missing required field" in refused(results.load_model, path, TrainingState, STAGE)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path, recwarn):
    path, marker = tmp_path / "a.pt", tmp_path / "marker"
    results.save_model(path, make_model())
    held = torch.load(path, weights_only=True)
    torch.save({**held, "extra": Touch(marker)}, path)
    refused(results.load_model, path, TrainedModel, STAGE)
    for protocol in (2, 4):  # of which torch warns
        path.write_bytes(pickle.dumps(Touch(marker), protocol=protocol))
        refused(results.load_model, path, TrainedModel, STAGE)
    assert not recwarn.list
    assert not marker.exists()
    # The control, on a file made above: read the unsafe way, it does run.
    pickle.loads(path.read_bytes())
    assert marker.exists()


def test_a_damaged_checkpoint_is_told(tmp_path):
    path = tmp_path / "a.pt"
    missing = refused(results.load_model, path, TrainedModel, STAGE, ", or B")
    assert missing == f"{path} is missing: run {STAGE} first, or B"
    results.save_model(path, make_model())
    whole = path.read_bytes()
    cut = [whole[:size] for size in (0, 1, 2, 10, len(whole) // 2, len(whole) - 1)]
    for content in (*cut, b"no checkpoint", b"0", b"."):
        path.write_bytes(content)
        message = refused(results.load_model, path, TrainedModel, STAGE, ", or B")
        assert message == f"{path} is damaged, or no checkpoint: run {STAGE} again, or B"


def test_a_checkpoint_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path = tmp_path / "a.pt"
    path.touch()
    monkeypatch.setattr(torch, "load", refuse)
    message = refused(results.load_model, path, TrainedModel, STAGE)
    assert message == f"{path} cannot be read (Permission denied): mend that"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version"),
        ({"classes": TOY_ARTISTS[::-1]}, "classes and train_songs"),
        ({"train_songs": [1]}, "classes and train_songs"),
        ({"train_songs": "many"}, "train_songs"),
        ({"epoch": -1}, "epoch"),
        ({"val_top1": 2.0}, "val_top1"),
        ({"window_frames": None}, "window_frames and settings"),
        ({"window_frames": 0}, "window_frames"),
        ({"weights": [1]}, "weights"),
        ({"weights": {1: 2}}, "weights"),
        ({"settings": {}}, "recipe_name"),
    ],
)
def test_what_is_no_checkpoint_of_this_version_is_refused(tmp_path, change, reason):
    path = tmp_path / "a.pt"
    results.save_model(path, make_model())
    files.write_checkpoint(path, {**torch.load(path, weights_only=True), **change})
    message = refused(results.load_model, path, TrainedModel, STAGE)
    assert message.startswith(f"{path} is no checkpoint of this version of {STAGE} (")
    assert reason in message
    assert message.endswith("): run it again")


@pytest.mark.parametrize("content", [[1, 2], {}])
def test_what_is_no_dict_of_fields_is_refused(tmp_path, content):
    files.write_checkpoint(tmp_path / "a.pt", content)
    message = refused(results.load_model, tmp_path / "a.pt", TrainedModel, STAGE)
    assert "no checkpoint of this version" in message


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("panns", {"window_frames": 30}, "window_frames and settings"),
        ("panns", {"encoders": []}, "encoders and recipe"),
        ("resnet", {"encoders": toy_settings("panns").encoders}, "encoders and recipe"),
    ],
)
def test_settings_of_another_network_are_refused(tmp_path, name, change, reason):
    path = tmp_path / "a.pt"
    held = msgspec.structs.asdict(make_model(name))
    if "encoders" in change:
        change = {"settings": msgspec.structs.replace(held["settings"], **change)}
    with pytest.raises(ValueError, match=reason):  # already in the making
        results.save_model(path, TrainedModel(**{**held, **change}))


def test_history_belongs_to_the_epoch(tmp_path):
    path = tmp_path / "a.pt"
    results.save_model(path, make_state())
    files.write_checkpoint(path, {**torch.load(path, weights_only=True), "epoch": 2})
    message = refused(results.load_model, path, TrainingState, STAGE)
    assert "epoch 2, but 1 rows of history" in message


# --- embeddings --------------------------------------------------------------------------------


def put_embeddings(folder: Path, scale: float = 1.0) -> NetworkMetrics:
    """Write the embeddings of a run; return its metrics."""
    train, val = (np.full((len(TOY_SONGS[split]), 3), scale / 3) for split in ("train", "val"))
    train[1] = [1, 2, 3]
    hashes = results.write_embeddings(folder, train, val, TOY_SONGS["train"])
    path = put_network(folder, "resnet", 2, seed=0, embeddings=hashes) / "metrics.json"
    return read_record(path, NetworkMetrics, STAGE)


def test_embeddings_come_back(tmp_path):
    metrics = put_embeddings(tmp_path)
    found = results.read_embeddings(tmp_path, metrics, TOY_SONGS["val"], STAGE)
    assert found.train.dtype == found.val.dtype == np.float32
    assert found.train[:2].tolist() == [[np.float32(1 / 3)] * 3, [1, 2, 3]]
    assert found.val.tolist() == [[np.float32(1 / 3)] * 3] * len(TOY_SONGS["val"])
    assert (found.train_songs, found.val_songs) == (TOY_SONGS["train"], TOY_SONGS["val"])


@pytest.mark.parametrize("name", EMBEDDING_FILES)
def test_embeddings_that_are_missing_changed_or_of_another_run_are_named(tmp_path, name):
    metrics = put_embeddings(tmp_path)
    path = tmp_path / name

    def check() -> None:
        expected = rf"{path} is missing, or not of the run .*: run {STAGE} --overwrite"
        with pytest.raises(UserError, match=expected):
            results.read_embeddings(tmp_path, metrics, TOY_SONGS["val"], STAGE)

    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    check()
    path.unlink()
    check()
    path.write_bytes(kept)
    of_no_run = msgspec.structs.replace(metrics, embeddings=None)  # as a fold's
    with pytest.raises(UserError, match="not of the run"):
        results.read_embeddings(tmp_path, of_no_run, TOY_SONGS["val"], STAGE)


def test_embeddings_of_other_songs_are_refused(tmp_path):
    metrics = put_embeddings(tmp_path)
    with pytest.raises(UserError, match=r"is of 48 songs, val_predictions\.json of 47: run "):
        results.read_embeddings(tmp_path, metrics, TOY_SONGS["val"][1:], STAGE)


# --- history and test predictions --------------------------------------------------------------

HEADER = "epoch,lr,train_loss,val_loss,val_top1,val_top3,seconds\n"


def test_history_comes_back(tmp_path):
    path = tmp_path / "history.csv"
    rows = [ROW, msgspec.structs.replace(ROW, epoch=2, lr=1e-5, val_loss=1 / 3)]
    results.write_history(path, rows)
    assert path.read_text() == (
        f"{HEADER}1,0.1,1.25,1,0.5,0.75,2.5\n2,1e-05,1.25,{1 / 3},0.5,0.75,2.5\n"
    )
    assert results.read_history(path, STAGE) == rows


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        HEADER,
        f"{HEADER}1,0.1,1.25,1,0.5,0.75\n",  # a row cut short
        f"{HEADER}1,0.1,nan,1,0.5,0.75,2.5\n",
        f"{HEADER}1,0.1,1.25,1,1.5,0.75,2.5\n",
        f"{HEADER}0,0.1,1.25,1,0.5,0.75,2.5\n",
        f"{HEADER}1.5,0.1,1.25,1,0.5,0.75,2.5\n",
        f"{HEADER}one,0.1,1.25,1,0.5,0.75,2.5\n",
        "epoch,loss\n1,2\n",
    ],
)
def test_a_broken_history_is_refused(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    message = refused(results.read_history, path, STAGE)
    assert re.fullmatch(rf"{path} is broken \(.+\): run {STAGE} again", message)


def test_test_predictions_are_the_courses(tmp_path):
    top3 = {"010": ["u2", "queen", "abba"], "002": ["queen", "u2", "abba"]}
    results.write_test_predictions(tmp_path / "a.json", top3)
    found = json.loads((tmp_path / "a.json").read_text())
    assert list(found.items()) == sorted(top3.items())
