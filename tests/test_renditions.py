"""--audio-root, from features and networks to the ensemble: a tree is heard, songs stay the data's.

What is heard of the tree is what is heard of a data folder whose own files are the tree's.
"""

import json
import shutil

import numpy as np
import pytest
from conftest import ARTISTS, SMALL_GRIDS, assert_one_line, call, write_song

from artist20 import ablation, classical
from artist20.files import sha256_file
from artist20.results import (
    Comparison,
    EnsembleMetrics,
    NetworkMetrics,
    Predictions,
    Preprocessing,
    Rendition,
    Task1Metrics,
    TestScores,
    read_record,
)

COMPUTE = ["--device", "cpu", "--workers", 1]
TRAIN = [*COMPUTE, "--epochs", 1, "--crop-seconds", 1, "--batch-size", 4, "--seed", 3]
PANNS = ["--encoder-weights", "untrained", "--views", 1, "--windows", 1]


@pytest.fixture(scope="module")
def made(tiny_data, tmp_path_factory):
    """Make a tree of all songs in another rendition; test songs have another suffix."""
    tree = tmp_path_factory.mktemp("trees") / "tiny_vocals"
    lists = ((tiny_data / f"{split}.json").read_text() for split in ("train", "val"))
    paths = [path for text in lists for path in json.loads(text)]
    for seed, path in enumerate(paths, start=500):
        write_song(tree / path, path.split("/")[2], seed=seed)
    for number, artist in enumerate(ARTISTS, start=1):
        write_song(tree / "test" / f"{number:03}.flac", artist, seed=600 + number)
    return tree


@pytest.fixture
def tree(made, tmp_path):
    """Copy the tree, for a test that may change it."""
    return shutil.copytree(made, tmp_path / "tiny_vocals")


@pytest.fixture
def own(made, tiny_data, tmp_path):
    """Make a data folder whose own files are the tree's."""
    folder = shutil.copytree(made, tmp_path / "own_data")
    for split in ("train", "val"):
        shutil.copy(tiny_data / f"{split}.json", folder)
    return folder


@pytest.fixture
def caller(tmp_path, monkeypatch, capsys):
    """Run scripts within this process, in a folder of its own; return exit status, out, err."""
    monkeypatch.chdir(tmp_path)
    grids = {"song": {"knn": SMALL_GRIDS["knn"]}, "segment": {}}
    monkeypatch.setattr(classical, "GRIDS", grids)
    monkeypatch.setattr(ablation, "explain", lambda *_: None)

    def run(script, *options, fails=False):
        status = call(monkeypatch, script, *options)
        out, error = capsys.readouterr()
        if fails:
            assert status == 2
            assert_one_line(error)
            return error
        assert status == 0, error
        return out

    return run


def hashes_of_test_songs(data):
    return {file.stem: sha256_file(file) for file in (data / "test").iterdir()}


@pytest.mark.parametrize("also", [False, True])
@pytest.mark.parametrize(
    ("script", "model"),
    [
        pytest.param("task2_train", "panns", marks=pytest.mark.long),
        ("task2_train_wo_pretrain", "resnet"),
    ],
)
def test_a_network_learns_from_the_tree_and_is_of_the_data_folders_songs(
    tiny_data, tree, own, tmp_path, caller, script, model, also
):
    options = [*TRAIN, *(PANNS if model == "panns" else [])]
    options += ["--also-train-on", tiny_data] if also else []
    out = caller(script, "--data-dir", tiny_data, "--audio-root", tree, *options)
    inference = script.replace("train", "inference", 1)
    assert f"/{inference}.py --audio-root {tree} --data-dir {tiny_data}\n" in out
    caller(script, "--data-dir", own, "--results-dir", "own", *options)
    name = f"{model}@tiny_vocals"
    folder, of_own = tmp_path / f"results/task2/{name}", tmp_path / f"own/task2/{model}"
    metrics, expected = (
        read_record(of / "metrics.json", NetworkMetrics, "x") for of in (folder, of_own)
    )
    assert metrics.model == name
    assert metrics.audio_root == str(tree)
    tree_hash = expected.dataset.fingerprint
    assert metrics.settings.rendition == Rendition(name="tiny_vocals", fingerprint=tree_hash)
    assert (metrics.dataset.name, metrics.dataset.fingerprint == tree_hash) == ("tiny", False)
    assert metrics.settings.also_train_on == expected.settings.also_train_on
    assert (metrics.settings.also_train_on is not None) == also
    found, same = (
        read_record(of / "val_predictions.json", Predictions, "x") for of in (folder, of_own)
    )
    np.testing.assert_array_equal(found.scores[name], same.scores[model])
    assert found.songs == same.songs


def test_a_network_names_the_trees_test_songs(tiny_data, tree, own, tmp_path, caller):
    script, inference = "task2_train_wo_pretrain", "task2_inference_wo_pretrain"
    data, heard = ["--data-dir", tiny_data], ["--audio-root", tree]
    caller(script, *data, *heard, *TRAIN)
    caller(inference, *data, *heard, *COMPUTE, "--answers", tiny_data / "answers.json")
    folder = tmp_path / "results/task2/resnet@tiny_vocals"
    scores = read_record(folder / "test_scores.json", TestScores, "x")
    assert scores.songs == hashes_of_test_songs(tiny_data)
    caller(script, "--data-dir", own, "--results-dir", "own", *TRAIN)
    caller(inference, "--data-dir", own, "--results-dir", "own", *COMPUTE)
    same = read_record(tmp_path / "own/task2/resnet/test_scores.json", TestScores, "x")
    np.testing.assert_array_equal(scores.scores["resnet@tiny_vocals"], same.scores["resnet"])
    assert same.songs == hashes_of_test_songs(own) != scores.songs

    best = ["--checkpoint", folder / "best.pt"]
    error = caller(inference, *data, *COMPUTE, *best, fails=True)
    assert "name tiny_vocals with --audio-root" in error
    out = caller(inference, *data, *COMPUTE, *best, "--audio", tiny_data / "test/001.mp3")
    assert "best.pt was trained on tiny_vocals: it expects files of that rendition\n" in out
    (tree / "test/002.flac").unlink()
    error = caller(inference, *data, *heard, *COMPUTE, fails=True)
    assert "1 of 3 test songs are missing, the first is 002" in error


def test_a_tree_that_has_changed_or_lacks_a_song_is_told(tiny_data, tree, caller):
    script = "task2_train_wo_pretrain"
    options = ["--data-dir", tiny_data, "--audio-root", tree, *TRAIN]
    caller(script, *options)
    assert "holds this run already" in caller(script, *options, "--resume")
    moved = tree.rename(tree.parent / "elsewhere")  # where it lies is no part of the run
    options[3] = moved / "tiny_vocals"
    options[3].symlink_to(moved)
    assert "holds this run already" in caller(script, *options, "--resume")
    song = json.loads((tiny_data / "val.json").read_text())[1]
    write_song(moved / song, next(iter(ARTISTS)), seed=999)
    error = caller(script, *options, "--resume", fails=True)
    assert "other settings (rendition.fingerprint '" in error
    (moved / song).unlink()
    error = caller(script, *options, "--resume", fails=True)
    assert f"--audio-root {options[3]}: 1 of 18 songs are missing, the first is " in error
    options[3] = moved.rename(moved.parent / "my vocals")
    assert "is to be part of the model's" in caller(script, *options, fails=True)


def test_task1_hears_the_tree_and_joins_comparison_and_ensemble(
    tiny_data, tree, own, tmp_path, caller
):
    data, heard = ["--data-dir", tiny_data], ["--audio-root", tree]
    out = caller("task1_preprocessing", *data, *heard, *COMPUTE)
    assert f"/task1_train.py --audio-root {tree}\n" in out
    caller("task1_preprocessing", *data, *COMPUTE)
    caller("task1_preprocessing", "--data-dir", own, "--results-dir", "own", *COMPUTE)
    folders = [tmp_path / name for name in ("results/task1@tiny_vocals", "own/task1")]
    for name in ("X_train.npy", "X_val.npy", "units_train.npy"):
        found, same = (np.load(folder / name) for folder in folders)
        np.testing.assert_array_equal(found, same)
    prepared, of_own, plain = (
        read_record(folder / "preprocessing.json", Preprocessing, "x")
        for folder in (*folders, tmp_path / "results/task1")
    )
    tree_hash = of_own.dataset.fingerprint
    assert prepared.rendition == Rendition(name="tiny_vocals", fingerprint=tree_hash)
    assert (prepared.dataset, plain.rendition) == (plain.dataset, None)

    for options in ([], heard):
        out = caller("task1_train", "--workers", 1, *options)
        caller("artist20.task1_inference", *data, *COMPUTE, *options)
        scores = read_record(
            tmp_path / f"results/task1{'@tiny_vocals' * bool(options)}/test_scores.json",
            TestScores,
            "x",
        )
        assert scores.songs == hashes_of_test_songs(tiny_data)
    assert f"/task1_gen_report.py --audio-root {tree}\n" in out
    metrics = read_record(folders[0] / "metrics.json", Task1Metrics, "x")
    assert (metrics.rendition, metrics.audio_root) == (prepared.rendition, str(tree))
    caller("artist20.ensemble")
    ensemble = read_record(tmp_path / "results/ensemble/metrics.json", EnsembleMetrics, "x")
    assert list(ensemble.members) == ["knn", "knn@tiny_vocals"]
    predictions = json.loads((tmp_path / "results/ensemble/test_predictions.json").read_text())
    assert list(predictions) == ["001", "002", "003"]
    caller("artist20.comparison")
    record = read_record(tmp_path / "assets/results.json", Comparison, "x")
    assert list(record.models) == ["knn", "knn@tiny_vocals", "ensemble"]

    song = json.loads((tiny_data / "train.json").read_text())[0]
    write_song(tree / song, next(iter(ARTISTS)), seed=999)
    error = caller("task1_preprocessing", *data, *heard, *COMPUTE, fails=True)
    assert "other settings (rendition.fingerprint '" in error
    error = caller("task1_train", "--audio-root", "nowhere/bass", fails=True)
    assert "run task1_preprocessing.py --audio-root nowhere/bass first" in error
