"""The nine scripts as a user runs them: one tiny study, shared by most tests."""

import csv
import importlib
import json
import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, SMALL_GRIDS, assert_one_line, call, toy_network, write_song
from msgspec.structs import replace
from PIL import Image

import task2_train
from artist20 import audio, classical, features, fetch, spectrogram
from artist20.checkpoints import (
    EMBEDDING_FILES,
    TrainedModel,
    TrainingState,
    load_model,
    save_model,
)
from artist20.features import feature_hashes, read_units
from artist20.files import only_writer, sha256_file, write_json
from artist20.report import compare
from artist20.results import Predictions, TestScores, read_record, task1_dir
from artist20.spectrogram import FrontEnd

REPOSITORY = Path(__file__).resolve().parents[1]

RESNET = ["--epochs", "2", "--crop-seconds", "2", "--batch-size", "4", "--seed", "3"]
PANNS = [*RESNET, "--views", "1", "--windows", "1", "--encoder-weights", "untrained"]
DATA = ["--data-dir", "data"]
COMPUTE = [*DATA, "--device", "cpu", "--workers", "1"]

# Every script with the options of one study, in order; results/ and assets/ are the defaults.
STUDY = {
    "task1_preprocessing": COMPUTE,
    "task1_train": ["--workers", "1", "--seed", "3"],
    "task1_gen_report": [],
    "task2_train": [*COMPUTE, *PANNS],
    "task2_inference": [*COMPUTE, "--answers", "data/answers.json"],
    "task2_gen_report": [],
    "task2_train_wo_pretrain": [*COMPUTE, *RESNET],
    "task2_inference_wo_pretrain": [*COMPUTE, "--answers", "data/answers.json"],
    "task2_gen_report_wo_pretrain": [],
}

PATHS = {"--data-dir", "--results-dir"}
HEARD = "--audio-root"
ARTISTS_BY_SONGS = sorted(ARTISTS)  # who all have as many
TRAINING = {
    "--epochs", "--batch-size", "--lr", "--crop-seconds", "--seed", "--resume", "--precision",
    "--patience", "--compile", "--tensorboard", "--recipe", "--fold",
    "--also-train-on",
}  # fmt: skip
OF_SONGS = {"--song", "--html", "--confused", "--data-dir"}
OPTIONS = {
    "task1_preprocessing": {*PATHS, "--limit", "--device", "--workers", "--overwrite", HEARD},
    "task1_train": {
        "--results-dir", "--seed", "--workers", "--cv", "--overwrite", "--level", "--search", HEARD,
    },
    "task1_gen_report": {
        "--results-dir", "--assets-dir", "--format", "--level", "--search", HEARD,
    },
    "task2_train": {
        *PATHS, *TRAINING, "--limit", "--device", "--workers", "--overwrite", "--encoder-weights",
        "--views", "--windows", HEARD,
    },
    "task2_inference": {
        *PATHS, "--limit", "--device", "--workers", "--output", "--checkpoint", "--answers",
        "--audio", "--encoder-weights", "--recipe", "--leave-out-unreadable", HEARD,
    },
    "task2_gen_report": {
        "--results-dir", "--assets-dir", "--format", *OF_SONGS, "--recipe", "--encoder-weights",
        HEARD,
    },
    "task2_train_wo_pretrain": {
        *PATHS, *TRAINING, "--limit", "--device", "--workers", "--overwrite", HEARD,
    },
    "task2_inference_wo_pretrain": {
        *PATHS, "--limit", "--device", "--workers", "--output", "--checkpoint", "--answers",
        "--audio", "--recipe", "--leave-out-unreadable", HEARD,
    },
    "task2_gen_report_wo_pretrain": {
        "--results-dir", "--assets-dir", "--format", *OF_SONGS, "--recipe", HEARD,
    },
}  # fmt: skip


def command(script, *options):
    return [sys.executable, str(REPOSITORY / f"{script}.py"), *map(str, options)]


def run(script, *options, cwd, **more):
    more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(command(script, *options), cwd=cwd, text=True, timeout=300, **more)


def run_forked(script, *options, cwd):
    """Run a script, or a module of the package, with this process's imports: seconds less each."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pid = os.fork()
        if not pid:
            status = 70
            try:
                os.chdir(cwd)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w") for n in (1, 2))
                sys.argv = [*command(script)[1:], *map(str, options)]
                if script.startswith("artist20."):
                    runpy.run_module(script, run_name="__main__", alter_sys=True)
                else:
                    runpy.run_path(sys.argv[0], run_name="__main__")
            except SystemExit as end:
                status = end.code or 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
    return subprocess.CompletedProcess(script, os.waitstatus_to_exitcode(status), *texts)


@pytest.fixture(scope="session")
def study(tiny_data, tmp_path_factory):
    """Run every script from a folder of its own; return the folder and what was said."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "data").symlink_to(tiny_data)
    done = {}

    for script, options in STUDY.items():
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(classical.GRIDS, "song", SMALL_GRIDS)
            done[script] = run_forked(script, *options, cwd=folder)
        assert done[script].returncode == 0, f"{script}\n{done[script].stderr}"
    return folder, done


@pytest.fixture(autouse=True)
def small_grids(monkeypatch):
    """Search what the study searched."""
    for level in classical.GRIDS:
        monkeypatch.setitem(classical.GRIDS, level, SMALL_GRIDS)


@pytest.fixture
def here(study, tmp_path, monkeypatch):
    """Copy the study's results to a folder that a test may change, and go there."""
    folder, _ = study
    (tmp_path / "data").symlink_to((folder / "data").resolve())
    shutil.copytree(folder / "results", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


# --- the study ---------------------------------------------------------------------------------


def test_the_scripts_are_those_of_the_house():
    found = {path.stem for path in REPOSITORY.glob("task*.py")}
    assert found == set(STUDY)


def test_nothing_is_said_on_stderr_of_errors(study):
    _, done = study
    for script, process in done.items():
        assert "Traceback" not in process.stderr, script
        assert "Error" not in process.stderr, script


def test_scripts_write_into_their_own_folders_alone(study):
    folder, _ = study
    assert {path.name for path in folder.iterdir()} == {"data", "results", "assets"}
    assert not [path for path in folder.rglob("*") if "tmp" in path.name]


def test_each_script_names_the_next(study):
    _, done = study
    for script, following in (
        ("task1_preprocessing", "task1_train.py\n"),
        ("task1_train", "task1_gen_report.py\n"),
        ("task2_train", "task2_inference.py --data-dir data\n"),
        ("task2_inference", "task2_gen_report.py\n"),
        ("task2_train_wo_pretrain", "task2_inference_wo_pretrain.py --data-dir data\n"),
        ("task2_inference_wo_pretrain", "task2_gen_report_wo_pretrain.py\n"),
    ):
        assert f"next: python {REPOSITORY}/{following}" in done[script].stdout


def test_task1_features(study):
    folder, _ = study
    names = read(folder / "results/task1/feature_names.json")
    assert len(names) == len(set(names))
    for split, n_songs in (("train", 12), ("val", 6)):
        X = np.load(folder / f"results/task1/X_{split}.npy", allow_pickle=False)
        y = np.load(folder / f"results/task1/y_{split}.npy", allow_pickle=False)
        songs = read(folder / f"results/task1/songs_{split}.json")
        assert X.shape == (n_songs, len(names))
        assert X.dtype == np.float32
        assert np.isfinite(X).all()
        assert [song["path"] for song in songs] == read(folder / f"data/{split}.json")
        assert y.tolist() == [song["artist"] for song in songs]
        units, unit_songs = read_units(folder / "results/task1", split)
        assert np.isfinite(units).all()
        assert unit_songs.tolist() == list(range(n_songs))  # of 2 to 4 s: a unit each
        np.testing.assert_allclose(units[:, 1 : 1 + len(names)], X, rtol=1e-5, atol=1e-6)
    prepared = read(folder / "results/task1/preprocessing.json")
    assert {"dataset", "arrays", "provenance"} <= prepared.keys()


def test_task1_metrics(study):
    folder, _ = study
    metrics = read(folder / "results/task1/metrics.json")
    assert list(metrics["models"]) == ["svm", "random_forest", "knn", "logistic_regression"]
    assert metrics["provenance"]["seed"] == 3
    predictions = read_record(folder / "results/task1/val_predictions.json", Predictions, "x")
    for name, row in metrics["models"].items():
        best = predictions.scores[name].argmax(axis=1)
        assert row["top1"] == pytest.approx((best == predictions.labels).mean())
        assert 0 <= row["top1"] <= row["top3"] <= 1
        assert (folder / f"results/task1/{name}.skops").is_file()
    # Three artists who sing an octave apart are no secret to any of the models.
    assert max(row["top1"] for row in metrics["models"].values()) > 0.6


@pytest.mark.parametrize("name", ["panns", "resnet"])
def test_task2_metrics(study, name):
    folder, _ = study
    results = folder / "results/task2" / name
    metrics = read(results / "metrics.json")
    assert 0 <= metrics["top1"] <= metrics["top3"] == 1
    assert metrics["last"].keys() == {"top1", "top3"}
    assert metrics["settings"]["recipe"]["epochs"] == 2
    assert (metrics["dataset"]["train"], metrics["dataset"]["val"]) == (12, 6)
    provenance = metrics["provenance"]
    assert provenance["seed"] == 3
    assert provenance["command"].startswith("python task2_train")

    with (results / "history.csv").open() as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    best = history[metrics["epoch"] - 1]
    assert float(best["val_top1"]) == pytest.approx(metrics["top1"])
    assert float(history[-1]["val_top1"]) == pytest.approx(metrics["last"]["top1"])

    predictions = read_record(results / "val_predictions.json", Predictions, "x")
    assert list(predictions.scores) == [name, f"{name}_last"]
    for scores, top1 in zip(
        predictions.scores.values(), (metrics["top1"], metrics["last"]["top1"]), strict=True
    ):
        assert scores.sum(axis=1) == pytest.approx(np.ones(6), abs=1e-4)
        assert (scores.argmax(axis=1) == predictions.labels).mean() == pytest.approx(top1)
    assert [song.path for song in predictions.songs] == read(folder / "data/val.json")


def last_layer_inputs(model, batches, precision):
    """Catch what a network's last layer is given, by a hook: the mean over each batch."""
    given = []
    model.eval().output.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.inference_mode(), torch.autocast("cpu", enabled=precision == "bfloat16"):
        for x in batches:
            model(x)
    return np.array([x.float().mean(dim=0).numpy() for x in given])


@pytest.mark.parametrize("name", ["panns", "resnet"])
def test_embeddings_are_the_last_layers_inputs_in_the_songs_order(study, name):
    folder, _ = study
    results = folder / "results/task2" / name
    best = load_model(results / "best.pt", TrainedModel, "x")
    files = {
        split: [folder / "data" / path for path in read(folder / f"data/{split}.json")]
        for split in ("train", "val")
    }
    if name == "resnet":
        n = best.window_frames
        model = toy_network("resnet", 3)
        batches = {"train": [], "val": []}
        for split, songs in files.items():
            for song in songs:
                log_mel = torch.from_numpy(
                    spectrogram.log_mel(audio.open_song(song), FrontEnd())
                ).float()
                last = len(log_mel) - n
                starts = [0, last] if last > 0 else [0]  # songs of at most two windows
                batches[split].append(torch.stack([log_mel[s : s + n] for s in starts]))
    else:
        model = toy_network("panns", 3)
        batches = {}
        for split, kind in (("train", "views"), ("val", "windows")):
            (cache,) = (folder / "results/cache").glob(f"panns-{kind}-*")
            batches[split] = []
            for song in files[split]:
                (kept,) = cache.glob(f"*/{sha256_file(song)}.npy")
                batches[split].append(torch.from_numpy(np.load(kept)))
    model.load_state_dict(best.weights)
    for split in files:
        expected = last_layer_inputs(model, batches[split], best.settings.precision)
        found = np.load(results / f"{split}_embeddings.npy", allow_pickle=False)
        assert found.dtype == np.float32
        near = {"rtol": 0.01, "atol": 0.002 * np.abs(expected).max()}
        np.testing.assert_allclose(found, expected, **near)
        assert not np.allclose(np.roll(found, 2, axis=0), expected, **near)  # an album further
    songs = read(results / "songs_train.json")
    assert [song["path"] for song in songs] == read(folder / "data/train.json")
    assert read(results / "metrics.json")["embeddings"].keys() == set(EMBEDDING_FILES)


def test_an_untrained_encoder_is_called_so(study):
    folder, done = study
    for script in ("task2_train", "task2_inference"):
        assert "UNTRAINED" in done[script].stdout
    settings = read(folder / "results/task2/panns/metrics.json")["settings"]
    assert settings["encoders"][0]["weights"] == "untrained, seed 3"


@pytest.mark.parametrize(
    ("name", "script"),
    [("panns", "task2_inference"), ("resnet", "task2_inference_wo_pretrain")],
)
def test_predictions_are_graded_by_hand(study, name, script):
    folder, done = study
    predictions = read(folder / f"results/task2/{name}/test_predictions.json")
    answers = read(folder / "data/answers.json")
    assert list(predictions) == ["001", "002", "003"]
    assert all(sorted(ranked) == sorted(answers) for ranked in predictions.values())
    right = sum(predictions[f"{i:03}"][0] == answer for i, answer in enumerate(answers, start=1))
    assert f"top-1 {right / 3:.2%}, top-3 100.00%" in done[script].stdout
    assert f"{right / 3 + 0.5:.4f}" in done[script].stdout


FIGURES = [
    "task1_model_comparison",
    "task1_confusion_matrix_svm",
    "task1_album_effect",
    "task1_ablation",
    "task1_map",
    "task2_architecture_diagram",
    "task2_confusion_matrix_panns",
    "task2_training_panns",
    "task2_map_panns",
    "task2_architecture_diagram_resnet",
    "task2_confusion_matrix_resnet",
    "task2_training_resnet",
    "task2_map_resnet",
    "task2_all_models_comparison",
    "task2_top_k",
    "task2_per_artist_f1",
    "task2_confused_pairs",
]


@pytest.mark.parametrize("name", FIGURES)
def test_figures(study, name):
    folder, _ = study
    with Image.open(folder / f"assets/{name}.png") as image:
        image.load()
        pixels = np.asarray(image.convert("L"))
    assert min(pixels.shape) > 300
    assert len(np.unique(pixels)) > 20
    assert 0.005 < (pixels < 250).mean() < 0.9


def test_there_are_no_other_figures(study):
    folder, _ = study
    found = {path.name for path in (folder / "assets").iterdir()}
    assert found == {f"{name}.{suffix}" for name in FIGURES for suffix in ("png", "txt")}


def test_a_report_in_another_format(here, monkeypatch):
    assert call(monkeypatch, "task1_gen_report", "--format", "pdf") == 0
    found = {path.name for path in (here / "assets").iterdir()}
    task1 = [name for name in FIGURES if name.startswith("task1")]
    assert found == {f"{name}.{ending}" for name in task1 for ending in ("pdf", "txt")}


# --- help --------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", STUDY)
def test_help(script, monkeypatch, capsys):
    assert call(monkeypatch, script, "--help") == 0
    text = capsys.readouterr().out
    module = importlib.import_module(script)
    assert module.__doc__.strip().splitlines()[0] in text
    assert f"python {script}.py" in text
    options = text[text.index("\noptions:") :]
    described = re.findall(r"^  (?:-h, )?(--[a-z0-9-]+)", options, re.MULTILINE)
    assert OPTIONS[script] <= set(described)
    # A help text follows each option, on its line or the next.
    for option in described:
        after = options[re.search(rf"^  (?:-h, )?{option}\b", options, re.MULTILINE).end() :]
        first_lines = "\n".join(after.split("\n")[:2])
        assert re.search(r"  [a-zA-Z'0-9]", first_lines), option
    assert "default: None" not in options
    assert "default: False" not in options
    assert max(map(len, text.splitlines())) <= 120


# --- segments ----------------------------------------------------------------------------------

FEW_GRIDS = {"knn": SMALL_GRIDS["knn"]}


def test_models_of_segments_join_the_comparison(here, monkeypatch, capsys):
    monkeypatch.setattr(classical, "SEGMENT_SECONDS", (5.0,))
    monkeypatch.setattr(classical, "COVARIANCE", (False,))
    monkeypatch.setitem(classical.GRIDS, "segment", FEW_GRIDS)
    segment = ["--level", "segment"]
    assert call(monkeypatch, "task1_train", *segment, "--workers", 1, "--seed", 3) == 0
    following = f"next: python {REPOSITORY}/task1_gen_report.py --level segment\n"
    assert following in capsys.readouterr().out
    assert call(monkeypatch, "task1_gen_report", *segment) == 0
    figures = {path.name for path in (here / "assets").iterdir()}
    assert figures == {
        f"task1_segment_{name}.{suffix}"
        for name in ("model_comparison", "confusion_matrix", "album_effect", "ablation")
        for suffix in ("png", "txt")
    }
    found = compare.collect(here / "results")
    name = read(here / "results/task1/segment/metrics.json")["best_in_cv"]
    assert found.keys() == {*SMALL_GRIDS, f"{name}_of_segments", "panns", "resnet"}
    assert found[f"{name}_of_segments"].title.endswith(" s segments")
    assert found["panns"].title.endswith("untrained encoder")
    assert_test_songs_are_scored_as_validation_songs(here, monkeypatch, capsys, "segment")


def test_models_of_the_wide_search_join_the_comparison(here, monkeypatch, capsys):
    monkeypatch.setattr(classical, "WIDE", {"scaler": ["standard"], "k": [None]})
    monkeypatch.setattr(classical, "LDA", [{"shrinkage": [0.5]}])
    monkeypatch.setitem(classical.GRIDS, "song", FEW_GRIDS)
    wide = ["--search", "wide"]
    assert call(monkeypatch, "task1_train", *wide, "--workers", 1, "--seed", 3) == 0
    assert call(monkeypatch, "task1_gen_report", *wide) == 0
    figures = {path.stem for path in (here / "assets").iterdir()}
    names = ("model_comparison", "confusion_matrix", "album_effect", "ablation")
    assert figures == {f"task1_wide_{name}" for name in names}
    found = compare.collect(here / "results")
    wide = {f"{name}_wide" for name in (*FEW_GRIDS, "lda")}
    assert found.keys() == {*SMALL_GRIDS, *wide, "panns", "resnet"}
    assert_test_songs_are_scored_as_validation_songs(here, monkeypatch, capsys, "song", "wide")


# --- all models together -----------------------------------------------------------------------


def test_test_songs_of_task1_and_the_ensemble(here):
    done = run_forked("artist20.ensemble", cwd=here)
    assert done.returncode == 0, done.stderr
    assert "left out: resnet (no resnet/cv_predictions.json: run task2_train_wo_" in done.stdout
    assert "4 models take part, 2 are left out" in done.stdout
    assert "missing: run python -m artist20.task1_inference\n" in done.stdout
    folder = here / "results/ensemble"
    metrics = read(folder / "metrics.json")
    assert metrics["provenance"]["command"] == "python -m artist20.ensemble"
    assert list(metrics["members"]) == ["svm", "random_forest", "knn", "logistic_regression"]
    assert not (folder / "test_predictions.json").exists()

    answers = ["--answers", "data/answers.json"]
    done = run_forked("artist20.task1_inference", *COMPUTE, *answers, cwd=here)
    assert done.returncode == 0, done.stderr
    predictions = read(here / "results/task1/test_predictions.json")
    right = sum(
        predictions[f"{i:03}"][0] == answer
        for i, answer in enumerate(read(here / "data/answers.json"), start=1)
    )
    assert f"3 answers: top-1 {right / 3:.2%}" in done.stdout
    test = read_record(here / "results/task1/test_scores.json", TestScores, "x")
    assert list(test.scores) == list(metrics["members"])
    best = read(here / "results/task1/metrics.json")["best_in_cv"]
    guesses = [test.classes[i] for i in test.scores[best].argmax(axis=1)]
    assert [ranked[0] for ranked in predictions.values()] == guesses

    for module in ("artist20.ensemble", "artist20.comparison"):
        done = run_forked(module, cwd=here)
        assert done.returncode == 0, done.stderr
    assert "\nEnsemble " in done.stdout
    assert "results/ensemble/test_predictions.json" in done.stdout
    assert list(read(folder / "test_predictions.json")) == ["001", "002", "003"]


def assert_test_songs_are_scored_as_validation_songs(
    here, monkeypatch, capsys, level, search="homework"
):
    folder = task1_dir(here / "results", level, search=search)
    val = read_record(folder / "val_predictions.json", Predictions, "x")
    (here / "other/test").mkdir(parents=True)
    for i, song in enumerate(val.songs, start=1):
        shutil.copyfile(here / "data" / song.path, here / f"other/test/{i:03}.mp3")
    for i in (7, 8):
        (here / f"other/test/{i:03}.mp3").write_bytes(b"no music")
    (here / "other/answers.json").write_text(json.dumps(["nobody"] * 7 + [ARTISTS_BY_SONGS[0]]))
    capsys.readouterr()
    options = ["--data-dir", "other", "--device", "cpu", "--workers", 1, "--level", level]
    options += ["--search", search]
    options += ["--model", "knn", "--output", "out.json"]
    answers = ["--answers", "other/answers.json"]
    assert call(monkeypatch, "artist20.task1_inference", *options, *answers) == 1
    output = capsys.readouterr().out
    # As validation songs they have been computed; the other two are alike.
    assert "6 of 7 songs are in" in output
    assert "out.json and out_scores.json: 8 of 8 songs" in output
    assert "8 answers: top-1 12.50%" in output
    test = read_record(here / "out_scores.json", TestScores, "x")
    assert test.classes == val.classes
    assert list(test.songs) == [f"{i:03}" for i in range(1, 9)]
    assert list(test.guessed) == ["007", "008"]
    for i, key in enumerate(test.guessed, start=6):
        assert f"guessed: other/test/{key}.mp3 cannot be decoded" in output
        assert read(here / "out.json")[key] == ARTISTS_BY_SONGS
        for scores in test.scores.values():
            assert scores[i] == pytest.approx(np.full(3, 1 / 3), rel=1e-5)
    for name, scores in val.scores.items():
        np.testing.assert_allclose(test.scores[name][:6], scores, rtol=1e-4)
    best = [val.classes[i] for i in val.scores["knn"].argmax(axis=1)]
    assert [ranked[0] for ranked in read(here / "out.json").values()][:6] == best
    # Of a part of the songs, and with what cannot be read left out.
    assert call(monkeypatch, "artist20.task1_inference", *options, "--limit", 7) == 2
    assert "out.json holds 8 songs" in capsys.readouterr().err
    options[options.index("out.json")] = "few.json"
    options += [*answers, "--leave-out-unreadable", "--limit", 7]
    assert call(monkeypatch, "artist20.task1_inference", *options) == 1
    output = capsys.readouterr().out
    assert "few.json and few_scores.json: 6 of the first 7 of 8 songs" in output
    assert "7 answers, of the first 7 of 8 songs: top-1 0.00%" in output
    assert "left out: other/test/007.mp3 cannot be decoded" in output
    assert len(read(here / "few.json")) == 6


def test_task1_guesses_as_its_own_training_songs_say(here, monkeypatch, capsys):
    """Nothing but the results is needed; without the list of songs nothing begins."""
    path = here / "results/task1/songs_train.json"
    songs = read(path)
    few = ARTISTS_BY_SONGS[0]
    songs.remove(next(song for song in songs if song["artist"] == few))
    write_json(path, songs)
    (here / "other/test").mkdir(parents=True)
    shutil.copyfile(here / "data/test/001.mp3", here / "other/test/001.mp3")
    (here / "other/test/002.mp3").write_bytes(b"")
    options = ["--data-dir", "other", "--device", "cpu", "--workers", 1]
    assert call(monkeypatch, "artist20.task1_inference", *options) == 1
    predictions = read(here / "results/task1/test_predictions.json")
    assert predictions["002"] == [*ARTISTS_BY_SONGS[1:], few]
    write_json(path, [song for song in songs if song["artist"] != few])
    assert call(monkeypatch, "artist20.task1_inference", *options) == 2
    assert "songs_train.json is of other artists than the models" in capsys.readouterr().err


def test_task1_scores_test_songs_as_validation_songs(here, monkeypatch, capsys):
    assert_test_songs_are_scored_as_validation_songs(here, monkeypatch, capsys, "song")


def test_task1_names_no_songs_with_features_of_another_version(here, monkeypatch, capsys):
    options = [*COMPUTE, "--answers", "data/answers.json"]
    with monkeypatch.context() as patch:
        patch.setattr(features, "VERSION", features.VERSION + 1)
        assert call(monkeypatch, "artist20.task1_inference", *options) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "task1_train.py --overwrite" in error
    assert not list((here / "results/task1").glob("test_*"))


def test_task1_without_a_readable_test_song(here, monkeypatch, capsys):
    (here / "other/test").mkdir(parents=True)
    (here / "other/test/001.mp3").write_bytes(b"no music")
    options = ["--data-dir", "other", "--device", "cpu", "--workers", 1]
    assert call(monkeypatch, "artist20.task1_inference", *options) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "001" in error
    (here / "results/task1/metrics.json").unlink()
    assert call(monkeypatch, "artist20.task1_inference", *options) == 2
    assert "run task1_train.py first" in capsys.readouterr().err


# --- again -------------------------------------------------------------------------------------


def test_a_second_run_reuses_what_is_there(here, monkeypatch, capsys):
    kept = {
        path: path.stat().st_mtime_ns
        for pattern in ("*.skops", "search_*.json", "*.pt", "history.csv")
        for path in (here / "results").rglob(pattern)
    }
    X = (here / "results/task1/X_train.npy").read_bytes()
    assert len(kept) == 4 + 4 + 4 + 2
    said = {}
    for script in ("task1_preprocessing", "task1_train", "task2_train_wo_pretrain"):
        assert call(monkeypatch, script, *STUDY[script]) == 0
        said[script] = capsys.readouterr().out
    assert "18 of 18 songs are in" in said["task1_preprocessing"]
    assert said["task1_train"].count("not searched again") == 4
    assert "holds this run already" in said["task2_train_wo_pretrain"]
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert (here / "results/task1/X_train.npy").read_bytes() == X


def test_overwrite_gives_the_same_again(here, monkeypatch):
    results = here / "results/task2/resnet"
    before = {name: read(results / name) for name in ("val_predictions.json", "metrics.json")}
    embeddings = {name: (results / name).read_bytes() for name in EMBEDDING_FILES}
    (results / "val_predictions.json").unlink()
    options = [*STUDY["task2_train_wo_pretrain"], "--overwrite"]
    assert call(monkeypatch, "task2_train_wo_pretrain", *options) == 0
    assert read(results / "val_predictions.json") == before["val_predictions.json"]
    metrics = read(results / "metrics.json")
    for key in ("top1", "top3", "last", "epoch", "settings", "dataset", "embeddings"):
        assert metrics[key] == before["metrics.json"][key]
    assert embeddings == {name: (results / name).read_bytes() for name in embeddings}


# --- inference beside nothing ------------------------------------------------------------------


def test_inference_needs_a_checkpoint_and_songs_alone(here, tmp_path, monkeypatch):
    test = tmp_path / "alone/test"
    shutil.copytree(tmp_path / "data/test", test)
    (test / "002.mp3").write_bytes(b"no music")
    checkpoint = tmp_path / "model.pt"
    expected = read(here / "results/task2/resnet/test_predictions.json")
    shutil.move(here / "results/task2/resnet/best.pt", checkpoint)
    shutil.rmtree(here / "results")
    options = ["--data-dir", "alone", "--checkpoint", checkpoint, "--output", "out.json"]
    options += ["--device", "cpu", "--workers", "1"]
    assert call(monkeypatch, "task2_inference_wo_pretrain", *options) == 1
    assert read(tmp_path / "out.json") == expected | {"002": ARTISTS_BY_SONGS}
    assert not (here / "results").exists()


# What root may do in any folder, and others not.
OVERRIDE = "-dac_override,-dac_read_search"
AS_OTHERS = ["setpriv", f"--bounding-set={OVERRIDE}", f"--inh-caps={OVERRIDE}"]


@pytest.mark.long
@pytest.mark.skipif(os.getuid() == 0 and not shutil.which("setpriv"), reason="root, no setpriv")
def test_folders_that_may_not_be_written(here, tiny_copy):
    """Songs are only read; where results cannot go, one line says so."""
    for folder in (tiny_copy, *(path for path in tiny_copy.rglob("*") if path.is_dir())):
        folder.chmod(0o555)
    (here / "locked").mkdir(mode=0o555)
    of_data = ["--data-dir", tiny_copy, "--workers", 1]
    for script, options, status in (
        ("task1_preprocessing", ["--results-dir", "new"], 0),
        ("task1_preprocessing", ["--results-dir", "locked/new"], 2),
        ("task2_inference_wo_pretrain", ["--output", "locked/predictions.json"], 2),
    ):
        line = [*(AS_OTHERS if os.getuid() == 0 else []), *command(script, *of_data, *options)]
        done = subprocess.run(line, cwd=here, text=True, capture_output=True)
        assert done.returncode == status, done.stderr
        if status:
            assert_one_line(done.stderr)
            assert "locked" in done.stderr and "Permission denied" in done.stderr


def test_panns_inference_needs_no_training_data_either(here, tmp_path, monkeypatch):
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone/test").symlink_to((tmp_path / "data/test").resolve())
    expected = read(here / "results/task2/panns/test_predictions.json")
    shutil.move(here / "results/task2/panns/best.pt", tmp_path / "model.pt")
    shutil.rmtree(here / "results")
    options = ["--data-dir", "alone", "--checkpoint", "model.pt", "--output", "out.json"]
    options += ["--device", "cpu", "--workers", "1"]
    assert call(monkeypatch, "task2_inference", *options) == 0
    assert read(tmp_path / "out.json") == expected


def test_a_grader_is_told_where_the_encoder_is(here, monkeypatch, capsys):
    path = here / "results/task2/panns/best.pt"
    best = load_model(path, TrainedModel, "x")
    published = fetch.WEIGHTS["panns"]
    encoder = replace(best.settings.encoders[0], weights=published.sha256)
    save_model(path, replace(best, settings=replace(best.settings, encoders=[encoder])))
    assert call(monkeypatch, "task2_inference", *COMPUTE) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    for said in ("data/weights/Cnn14_16k_mAP=0.438.pth", "get_dataset.sh --encoder panns'"):
        assert said in error
    for said in (published.url, published.sha256, "359 MB", "--encoder-weights"):
        assert said in error


def test_audio(here, tmp_path, monkeypatch, capsys):
    song = tmp_path / "data/test/001.mp3"
    before = sorted(tmp_path.rglob("*"))
    options = ["--audio", song, "--device", "cpu"]
    assert call(monkeypatch, "task2_inference_wo_pretrain", *options) == 0
    assert sorted(tmp_path.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    start = lines.index(str(song))
    shares = [float(line.split("%")[0]) for line in lines[start + 1 : start + 4]]
    assert sum(shares) == pytest.approx(100, abs=0.2)
    assert shares == sorted(shares, reverse=True)
    names = [line.split("%")[1].strip() for line in lines[start + 1 : start + 4]]
    assert names == read(here / "results/task2/resnet/test_predictions.json")["001"]


def test_a_checkpoint_of_the_other_model_is_refused(here, monkeypatch, capsys):
    endings = {"panns": "", "resnet": "_wo_pretrain"}
    for model, other in (("panns", "resnet"), ("resnet", "panns")):
        path = here / f"results/task2/{other}/best.pt"
        script = f"task2_inference{endings[model]}"
        assert call(monkeypatch, script, *COMPUTE, "--checkpoint", path) == 2
        error = capsys.readouterr().err
        assert_one_line(error)
        ending = endings[other]
        said = f"a checkpoint of task2_train{ending}.py: use task2_inference{ending}.py\n"
        assert error.endswith(said)


@pytest.mark.parametrize("name", ["panns", "resnet"])
def test_a_checkpoint_says_what_it_was_trained_on(here, monkeypatch, capsys, name):
    ending = {"panns": "", "resnet": "_wo_pretrain"}[name]
    metrics = read(here / f"results/task2/{name}/metrics.json")
    (here / f"results/task2/{name}/metrics.json").unlink()
    options = ["--audio", "data/test/001.mp3", "--device", "cpu", "--workers", 1]
    assert call(monkeypatch, f"task2_inference{ending}", *options) == 0
    said = capsys.readouterr().out
    assert f"{name}/best.pt: trained on 12 songs of 3 artists of tiny; top-1 " in said
    assert f"; top-1 {metrics['top1']:.1%} on 6 validation songs, on which its epoch was" in said
    assert ("UNTRAINED" in said) == (name == "panns")


@pytest.mark.parametrize(
    "script", ["artist20.task1_inference", "task2_inference", "task2_inference_wo_pretrain"]
)
def test_silent_songs_are_named_once(here, monkeypatch, capfd, script):
    # pytest would keep warnings for itself.
    monkeypatch.setattr(
        warnings,
        "showwarning",
        lambda *args: print(warnings.formatwarning(*args[:4]), end="", file=sys.stderr),
    )
    rng = np.random.default_rng(0)
    for workers in (1, 2):
        # Of other contents each time, or the features would be there.
        noise = rng.normal(0, 0.1, 16_000 + workers)
        songs = {"001": 0 * noise, "002": np.stack([noise, -noise], 1), "003": noise}
        folder = here / f"songs of {workers}"
        (folder / "test").mkdir(parents=True)
        for key, waveform in songs.items():
            soundfile.write(folder / f"test/{key}.wav", waveform, 16_000)
        options = ["--data-dir", folder.name, "--device", "cpu", "--workers", workers]
        options += ["--output", f"of {workers}.json"]
        assert call(monkeypatch, script, *options) == 0
        notes = [line for line in capfd.readouterr().err.splitlines() if "note:" in line]
        assert sorted(notes) == [
            f"note: {folder.name}/test/001.wav is silent throughout",
            f"note: {folder.name}/test/002.wav is nearly silent: its channels cancel out",
        ]


# --- mistakes ----------------------------------------------------------------------------------

WRITES_NOTHING = [
    ("task1_preprocessing", ["--data-dir", "nowhere"], "nowhere"),
    ("task1_train", [], "task1_preprocessing.py first"),
    ("task1_gen_report", [], "task1_train.py first"),
    ("task2_train", ["--data-dir", "nowhere"], "nowhere"),
    ("task2_train", DATA, "--encoder-weights untrained"),
    ("task2_inference", DATA, "task2_train.py first"),
    ("task2_gen_report", [], "task2_train.py first"),
    ("task2_train_wo_pretrain", ["--data-dir", "nowhere"], "nowhere"),
    ("task2_inference_wo_pretrain", DATA, "task2_train_wo_pretrain.py first"),
    ("task2_gen_report_wo_pretrain", [], "task2_train_wo_pretrain.py first"),
]


@pytest.mark.parametrize(("script", "options", "message"), WRITES_NOTHING)
def test_a_mistake_is_one_line(script, options, message, tiny_data, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").symlink_to(tiny_data)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, script, *options) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert message in error
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


@pytest.mark.parametrize(
    "options",
    [
        ["--epochs", "-1"],
        ["--epochs", "0"],
        ["--lr", "-0.1"],
        ["--lr", "nan"],
        ["--batch-size", "0"],
        ["--crop-seconds", "0"],
        ["--limit", "0"],
        ["--workers", "0"],
        ["--seed", "-1"],
        ["--device", "tpu"],
        ["--nonsense"],
    ],
)
@pytest.mark.parametrize("script", ["task2_train", "task2_train_wo_pretrain"])
def test_options_without_sense(script, options, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, script, *options) == 2
    error = capsys.readouterr().err
    assert options[0] in error.splitlines()[-1]
    assert "Traceback" not in error


def test_cuda_without_a_gpu(tiny_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    for script in ("task1_preprocessing", "task2_train", "task2_train_wo_pretrain"):
        assert call(monkeypatch, script, "--data-dir", tiny_data, "--device", "cuda") == 2
        error = capsys.readouterr().err
        assert_one_line(error)
        assert "--device cuda" in error
    assert not list(tmp_path.iterdir())


def test_a_mistake_and_bad_answers_from_the_shell(here):
    done = run(
        "task2_inference_wo_pretrain", *COMPUTE, "--answers", "data/train.json/none", cwd=here
    )
    assert done.returncode == 2
    assert_one_line(done.stderr)


def test_a_song_that_cannot_be_read_is_named(tiny_copy, tmp_path, monkeypatch, capsys):
    song = next((tiny_copy / "train_val").rglob("*.mp3"))
    song.write_bytes(b"no music")
    monkeypatch.chdir(tmp_path)
    options = ["--data-dir", tiny_copy, "--device", "cpu", "--workers", "1"]
    assert call(monkeypatch, "task1_preprocessing", *options) == 2
    error = capsys.readouterr().err
    assert song.name in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("results/task1/X_*"))


@pytest.mark.long
def test_preprocessing_killed_at_random_moments_ends_with_the_same_features(study, here):
    expected = study[0] / "results/task1"
    shutil.rmtree(here / "results/task1")
    rng = np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen(
            command("task1_preprocessing", *COMPUTE),
            cwd=here,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(1.5, 4.5))  # the first seconds are for imports
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run("task1_preprocessing", *COMPUTE, cwd=here)
    assert done.returncode == 0, done.stderr
    for name in feature_hashes(expected):
        assert (here / "results/task1" / name).read_bytes() == (expected / name).read_bytes(), name


def test_a_changed_song_is_computed_anew_and_no_other(here, tiny_copy, monkeypatch, capsys):
    (here / "data").unlink()
    tiny_copy.rename(here / "data")
    before = np.load("results/task1/X_train.npy")
    changed, *_ = read(here / "data/train.json")
    write_song(here / "data" / changed, list(ARTISTS)[2], seed=77)
    options = [*COMPUTE, "--overwrite"]
    assert call(monkeypatch, "task1_preprocessing", *options) == 0
    assert "17 of 18 songs are in" in capsys.readouterr().out
    X = np.load("results/task1/X_train.npy")
    assert (X[0] != before[0]).any()
    assert np.array_equal(X[1:], before[1:])
    # Other definitions: another store, and what was made with the old ones is not replaced unasked.
    monkeypatch.setattr(features, "VERSION", features.VERSION + 1)
    assert call(monkeypatch, "task1_preprocessing", *COMPUTE) == 2
    assert "feature_version" in capsys.readouterr().err
    assert call(monkeypatch, "task1_preprocessing", *options) == 0
    assert "0 of 18 songs are in" in capsys.readouterr().out


@pytest.mark.parametrize("limit", [3, 6])
def test_limit_gives_a_quick_try_or_one_line(limit, tiny_data, tmp_path, monkeypatch, capsys, here):
    shutil.rmtree(here / "results/cache")
    options = [*COMPUTE, "--limit", limit]
    # What is there is of all songs, and is not replaced unasked.
    assert call(monkeypatch, "task1_preprocessing", *options) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert call(monkeypatch, "task1_preprocessing", *options, "--overwrite") == 0
    assert f"train: {limit} songs" in capsys.readouterr().out
    y = np.load("results/task1/y_train.npy")
    assert len(set(y)) == 3
    status = call(monkeypatch, "task1_train", "--workers", 1)
    assert status == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "other settings" in error or "preprocess more songs" in error


# --- stdout ------------------------------------------------------------------------------------


@pytest.mark.long
def test_stdout_may_be_closed(here):
    options = [*STUDY["task2_train_wo_pretrain"], "--overwrite", "--epochs", "1"]
    line = shlex.join(command("task2_train_wo_pretrain", *options))
    done = subprocess.run(["bash", "-c", f"exec {line} >&-"], cwd=here, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert read(here / "results/task2/resnet/metrics.json")["epoch"] == 1


@pytest.mark.long
def test_a_reader_that_leaves_early_gets_no_traceback(here):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = run("task1_train", "--overwrite", cwd=here, stdout=pipe)
    assert done.returncode == 141
    assert done.stderr == ""


# --- interruptions -----------------------------------------------------------------------------

LONG = ["--epochs", "8", "--crop-seconds", "1", "--batch-size", "4"]


# A script whose epochs are saved as long ones are: each.
SAVED_AFTER_EVERY_EPOCH = """
import runpy, sys
from artist20 import training
training.SAVE_SECONDS = 0
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start_and_stop(how, *options, cwd, after):
    """Train the ResNet, and end it when an epoch is done; return status, output and errors."""
    history = cwd / "results/task2/resnet/history.csv"
    python, *script = command("task2_train_wo_pretrain", *options)
    with subprocess.Popen(
        [python, "-c", SAVED_AFTER_EVERY_EPOCH, *script],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in its background has them ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if history.is_file() and len(history.read_text().splitlines()) > after:
                process.send_signal(how)
                break
            time.sleep(0.005)
        output, error = process.communicate(timeout=60)
    return process.returncode, output, error


def results_of(folder):
    """Everything that an interruption must not change."""
    with (folder / "history.csv").open() as file:
        history = [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]
    metrics = read(folder / "metrics.json")
    return {
        "history": history,
        "predictions": read(folder / "val_predictions.json"),
        "embeddings": [(folder / name).read_bytes() for name in EMBEDDING_FILES],
        "metrics": {
            key: metrics[key] for key in ("top1", "top3", "epoch", "last", "settings", "dataset")
        },
    }


def test_a_stopped_and_killed_run_goes_on_as_if_nothing_had_been(
    tiny_data, tmp_path, monkeypatch, capsys
):
    (tmp_path / "data").symlink_to(tiny_data)
    folder = tmp_path / "results/task2/resnet"
    script, options = "task2_train_wo_pretrain", [*COMPUTE, *LONG]

    epoch = 0
    for how, expected in ((signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)):
        resume = ["--resume"] if epoch else []
        killed = how == signal.SIGKILL
        status, output, error = start_and_stop(
            how, *options, *resume, cwd=tmp_path, after=epoch + 1 + killed
        )
        assert status == expected
        assert "Traceback" not in error
        if killed:
            assert f"\nepoch {epoch + 1:3}/8 " in output  # nothing was held back
        else:
            assert error == (
                "stopping after this step; once more to stop at once\n"
                "stopped; --resume, in place of --overwrite, goes on from what was saved; "
                "--overwrite saves nothing before its first epoch is done\n"
            )
        before, epoch = epoch, load_model(folder / "last.pt", TrainingState, "x").epoch
        assert before < epoch < 8
        assert not (folder / "metrics.json").exists()

    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, script, *options) == 2  # neither --resume nor --overwrite
    error = capsys.readouterr().err
    assert_one_line(error)
    assert f"epoch {epoch} of 8" in error
    assert call(monkeypatch, script, *options, "--lr", "0.5", "--resume") == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "recipe.lr 0.01 -> 0.5" in error

    assert call(monkeypatch, script, *options, "--resume") == 0
    assert f"going on after epoch {epoch} of 8" in capsys.readouterr().out
    assert call(monkeypatch, script, *options, "--results-dir", "whole") == 0
    assert results_of(folder) == results_of(tmp_path / "whole/task2/resnet")

    # Stopped after the last epoch, before what is made of last.pt was written.
    history = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text("garbage")
    (folder / "metrics.json").unlink()
    assert call(monkeypatch, script, *options, "--resume") == 0
    assert (folder / "history.csv").read_text() == history


def test_overwrite_and_resume_exclude_each_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for script in ("task2_train", "task2_train_wo_pretrain"):
        assert call(monkeypatch, script, "--overwrite", "--resume") == 2
        assert "not allowed with" in capsys.readouterr().err


def test_a_file_in_the_way_is_one_line(here, monkeypatch, capsys):
    (here / "file").write_text("in the way")
    for script, option in (("task1_gen_report", "--assets-dir"), ("task1_train", "--results-dir")):
        assert call(monkeypatch, script, option, "file/within") == 2
        assert_one_line(capsys.readouterr().err)


def test_a_running_training_is_not_overwritten(here, monkeypatch, capsys):
    folder = here / "results/task2/resnet"
    before = (folder / "best.pt").read_bytes()
    with only_writer(folder):
        options = [*STUDY["task2_train_wo_pretrain"], "--overwrite"]
        assert call(monkeypatch, "task2_train_wo_pretrain", *options) == 2
    assert "another run is writing to" in capsys.readouterr().err
    assert (folder / "best.pt").read_bytes() == before


@pytest.fixture(scope="module")
def five_albums(tmp_path_factory):
    """Data folder of 2 artists x 5 training albums and one for validation, a song each."""
    folder = tmp_path_factory.mktemp("five") / "data"
    lists = {"train": [], "val": []}
    for artist in list(ARTISTS)[:2]:
        for album in range(6):
            path = f"./train_val/{artist}/{album}/song.mp3"
            write_song(folder / path, artist, seed=album, seconds=2)
            lists["val" if album == 5 else "train"].append(path)
    for split, paths in lists.items():
        (folder / f"{split}.json").write_text(json.dumps(paths), encoding="utf-8")
    write_song(folder / "test/001.mp3", next(iter(ARTISTS)), seed=9, seconds=2)
    return folder


@pytest.fixture
def caller(tmp_path, monkeypatch, capsys):
    """Run scripts within this process, in a folder of its own; return exit status, out, err."""
    monkeypatch.chdir(tmp_path)

    def run_here(script, *options):
        status = call(monkeypatch, script, *options)
        return status, *capsys.readouterr()

    return run_here


@pytest.mark.parametrize("recipe", ["homework", "strong"])
def test_folds_score_every_training_song_unseen(five_albums, tmp_path, caller, recipe):
    options = [
        *("--data-dir", five_albums, "--device", "cpu", "--workers", 1, "--epochs", 1),
        *("--crop-seconds", 1, "--recipe", recipe),
    ]
    if recipe == "strong":
        options += ["--also-train-on", five_albums]  # of which every fold has other songs
    folder = tmp_path / f"results/task2/resnet{'' if recipe == 'homework' else '_strong'}"
    for fold in range(5, 0, -1):
        status, out, error = caller("task2_train_wo_pretrain", *options, "--fold", fold)
        assert status == 0, error
        assert ("to pool the folds" in out) == (fold > 1)
    assert "all 5 folds, 10 songs" in out
    pooled = read_record(folder / "cv_predictions.json", Predictions, "x")
    listed = read(five_albums / "train.json")
    assert [song.path for song in pooled.songs] == listed
    name = folder.name
    parts = [] if recipe == "homework" else [f"{name}:convolutions"]
    assert list(pooled.scores) == [name, *parts]
    held_out = []
    for fold in range(1, 6):
        of_fold = read_record(folder / f"fold-{fold}/val_predictions.json", Predictions, "x")
        for own_name in pooled.scores:
            key = f"{name}_last" if recipe == "homework" else own_name
            for song, scores in zip(of_fold.songs, of_fold.scores[key], strict=True):
                assert scores.tolist() == pooled.scores[own_name][listed.index(song.path)].tolist()
        albums = {song.group for song in of_fold.songs}
        assert len(of_fold.songs) == len(albums) == 2
        assert not list((folder / f"fold-{fold}").glob("*embeddings*"))
        held_out += albums
    assert len(set(held_out)) == 10
    # One fold of another run: they must not be mixed.
    before = (folder / "cv_predictions.json").read_bytes()
    again = [*options, "--fold", 2, "--seed", 1, "--overwrite"]
    status, out, _ = caller("task2_train_wo_pretrain", *again)
    assert status == 0
    assert "not pooled" in out and "seed 0 -> 1" in out
    other = tmp_path / "other"
    shutil.copytree(five_albums, other)
    write_song(other / listed[0], next(iter(ARTISTS)), seed=77, seconds=2)
    again = [*options, "--fold", 2, "--overwrite", "--data-dir", other]
    status, out, _ = caller("task2_train_wo_pretrain", *again)
    assert status == 0
    assert "not pooled" in out and "dataset" in out
    assert (folder / "cv_predictions.json").read_bytes() == before


def test_the_strong_recipe_is_not_chosen_on_the_validation_songs(five_albums, tmp_path, caller):
    options = ["--data-dir", five_albums, "--device", "cpu", "--workers", 1, "--recipe", "strong"]
    train = ["--epochs", 2, "--crop-seconds", 1]
    paths = []
    for seed in (0, 1):
        results = ["--results-dir", f"seed-{seed}", "--seed", seed]
        status, _, error = caller("task2_train_wo_pretrain", *options, *train, *results)
        assert status == 0, error
        folder = tmp_path / f"seed-{seed}/task2/resnet_strong"
        metrics = read(folder / "metrics.json")
        assert metrics["epoch"] == 2
        assert metrics["last"] == {key: metrics[key] for key in ("top1", "top3")}
        predictions = read_record(folder / "val_predictions.json", Predictions, "x")
        assert list(predictions.scores) == ["resnet_strong", "resnet_strong:convolutions"]
        assert metrics["parts"].keys() == {":convolutions"}
        best, last = (
            load_model(folder / name, TrainedModel, "x").weights for name in ("best.pt", "last.pt")
        )
        assert all(torch.equal(best[name], last[name]) for name in last)
        paths.append(folder / "best.pt")
    found = []
    for checkpoints in ([paths[0]], [paths[1]], paths):
        audio = ["--audio", five_albums / "test/001.mp3", "--checkpoint", *checkpoints]
        status, out, error = caller("task2_inference_wo_pretrain", *options, *audio)
        assert status == 0, error
        lines = re.findall(r"([\d.]+)%  (\S+)", out)
        found.append({artist: float(percent) for percent, artist in lines})
    assert len(found[2]) == 2
    for artist, probability in found[2].items():
        assert probability == pytest.approx((found[0][artist] + found[1][artist]) / 2, abs=0.11)
    status, _, error = caller("task2_train_wo_pretrain", *options, *train, "--patience", 1)
    assert status == 2
    assert "--patience" in error


@pytest.fixture
def small_mlps(monkeypatch):
    """Make the MLPs to choose from small: their checkpoints are written 5 x 2 x epochs times."""
    small = {
        name: {**of, "hidden": of["hidden"] and (8,)} for name, of in task2_train.CANDIDATES.items()
    }
    monkeypatch.setattr(task2_train, "CANDIDATES", small)


def test_the_strong_panns_recipe_chooses_by_cross_validation(
    five_albums, tmp_path, caller, small_mlps
):
    data = ["--data-dir", five_albums, "--device", "cpu", "--workers", 1, "--recipe", "strong"]
    train = ["--encoder-weights", "untrained", "--epochs", 2, "--crop-seconds", 1]
    status, _, error = caller("task2_train", *data, *train)
    assert status == 0, error
    folder = tmp_path / "results/task2/panns_strong"
    found = read(folder / "candidates.json")
    assert list(found["candidates"]) == list(task2_train.CANDIDATES)
    best = max(row["cv_top1"] for row in found["candidates"].values())
    assert found["candidates"][found["chosen"]]["cv_top1"] == best
    recipe = read(folder / "metrics.json")["settings"]["recipe"]
    assert recipe["pooled"] == task2_train.CANDIDATES[found["chosen"]]["pooled"]
    own, of_chosen = (
        read_record(file, Predictions, "x").scores["panns_strong"]
        for file in (
            folder / "cv_predictions.json",
            folder / found["chosen"] / "cv_predictions.json",
        )
    )
    at_first = task2_train.CANDIDATES[found["chosen"]].get("temperature", 1)
    of_chosen = of_chosen ** (at_first / recipe["temperature"])
    of_chosen /= of_chosen.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(own, of_chosen, atol=1e-5)
    assert (recipe["temperature"] == at_first) == (recipe["solver"] == "epochs")
    for name in ("linear-windows", "mlp-pooled", "lda"):
        checkpoint = folder / name / "fold-1/best.pt"
        audio = ["--audio", five_albums / "test/001.mp3", "--checkpoint", checkpoint]
        status, out, error = caller("task2_inference", *data, *audio)
        assert status == 0, error
        assert len(re.findall(r"%  \S", out)) == 2
    status, _, error = caller("task2_train", *data, *train, "--fold", 1)
    assert status == 2
    assert "--fold" in error


def test_encoders_side_by_side(five_albums, tmp_path, caller, small_mlps):
    """By songs alone, whose windows differ in length; inference scores what training did."""
    options = ["--data-dir", five_albums, "--device", "cpu", "--workers", 1]
    encoder = ["--encoder", "tagger,ge2e"]
    train = ["--encoder-weights", "untrained", "--epochs", 2]
    status, out, error = caller("task2_train", *options, *encoder, *train)
    assert status == 0, error
    inference = f"{REPOSITORY}/task2_inference.py --encoder ge2e,tagger --recipe strong"
    assert f"next: python {inference} --data-dir {five_albums}\n" in out
    folder = tmp_path / "results/task2/ge2e+tagger_strong"
    found = read(folder / "candidates.json")
    assert list(found["candidates"]) == [
        name for name, of in task2_train.CANDIDATES.items() if of["pooled"]
    ]
    best = load_model(folder / "best.pt", TrainedModel, "x")
    assert [each.name for each in best.settings.encoders] == ["ge2e", "tagger"]
    assert best.weights["standardize.mean"].shape == (2 * (256 + 1024),)
    song = read(folder / "val_predictions.json")["songs"][0]["path"]
    val = read_record(folder / "val_predictions.json", Predictions, "x")
    table = tmp_path / "artists.json"
    audio = ["--audio", five_albums / song, "--output", table]
    status, out, error = caller("task2_inference", *options, *encoder, *audio)
    assert status == 0, error
    (row,) = read(table)
    scores = dict(zip(val.classes, val.scores["ge2e+tagger_strong"][0], strict=True))
    probability = row["probability_1"] if "probability_1" in row else row["probability"]
    assert probability == pytest.approx(scores[max(scores, key=scores.get)], abs=1e-3)
    other = ["--checkpoint", folder / "best.pt", *audio]
    status, _, error = caller("task2_inference", *options, *other)
    assert status == 2
    assert "was trained with --encoder ge2e,tagger" in error
    status, _, error = caller("task2_train", *options, *encoder, *train, "--crop-seconds", 5)
    assert status == 2
    assert "tagger needs 20.5" in error
    status, _, error = caller("task2_train", *options, *encoder, "--recipe", "homework")
    assert status == 2
    assert "--recipe strong alone" in error


def test_an_encoder_hears_a_rendition_alone(five_albums, tmp_path, caller, small_mlps):
    data, tree = tmp_path / "data", tmp_path / "vocals"
    for folder in (data, tree):
        shutil.copytree(five_albums, folder)
    (data / json.loads((data / "train.json").read_text())[0]).write_bytes(b"no song")
    options = ["--data-dir", data, "--device", "cpu", "--workers", 1, "--audio-root", tree]
    train = ["--encoder", "ge2e", "--encoder-weights", "untrained", "--epochs", 1]
    status, out, error = caller("task2_train", *options, *train)
    assert status == 0, error
    assert (tmp_path / "results/task2/ge2e_strong@vocals/metrics.json").is_file()
    assert out.count("embeddings of ge2e-windows") == 1  # before the first fold


@pytest.mark.long
def test_a_stopped_choice_of_other_settings_goes_on(five_albums, tmp_path, caller, monkeypatch):
    options = [
        *("--data-dir", five_albums, "--device", "cpu", "--workers", 1, "--recipe", "strong"),
        *("--encoder-weights", "untrained", "--crop-seconds", 1, "--windows", 1),
    ]
    assert caller("task2_train", *options, "--epochs", 1)[0] == 0
    stage = importlib.import_module("task2_train")
    train, calls = stage.train, []

    def stop_in_the_third(run, embedders):
        calls.append(run)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(run, embedders)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "train", stop_in_the_third)
        assert caller("task2_train", *options, "--epochs", 2, "--overwrite")[0] == 130
    status, out, error = caller("task2_train", *options, "--epochs", 2, "--resume")
    assert status == 0, error
    assert out.count("holds this run already") == 2  # what was finished is not trained again


@pytest.mark.parametrize("script", ["task2_train", "task2_train_wo_pretrain"])
def test_a_fold_may_not_decide_when_to_stop(five_albums, caller, script):
    status, _, error = caller(script, "--data-dir", five_albums, "--fold", 1, "--patience", 1)
    assert status == 2
    assert "--patience" in error


@pytest.mark.parametrize(
    ("script", "model", "key"),
    [
        ("task2_inference", "panns", "hidden"),
        ("task2_inference", "panns", "train_songs"),
        ("task2_inference_wo_pretrain", "resnet", "width"),
        ("task2_inference_wo_pretrain", "resnet", "val_top1"),
    ],
)
def test_a_checkpoint_of_an_earlier_version_is_told_in_one_line(here, caller, script, model, key):
    path = here / f"results/task2/{model}/best.pt"
    checkpoint = torch.load(path, weights_only=True)
    del (checkpoint if key in checkpoint else checkpoint["settings"]["recipe"])[key]
    torch.save(checkpoint, path)
    status, _, error = caller(script, "--data-dir", "data")
    assert status == 2
    assert "version" in error
    assert_one_line(error)


@pytest.mark.parametrize(
    "script", [pytest.param("task2_train", marks=pytest.mark.long), "task2_train_wo_pretrain"]
)
def test_other_versions_of_the_songs_join_the_training(five_albums, tmp_path, caller, script):
    others = tmp_path / "vocals"
    for seed, path in enumerate(json.loads((five_albums / "train.json").read_text())):
        write_song(others / path, list(ARTISTS)[2], seed=seed, seconds=3)
    untrained = ["--encoder-weights", "untrained"] if script == "task2_train" else []
    options = [
        *("--data-dir", five_albums, "--device", "cpu", "--workers", 1, "--also-train-on", others),
        *("--epochs", 1, "--crop-seconds", 1, *untrained),
    ]
    status, _, error = caller(script, *options)
    assert status == 0, error
    (metrics_file,) = (tmp_path / "results/task2").glob("*/metrics.json")
    metrics = json.loads(metrics_file.read_text())
    assert len(metrics["settings"]["also_train_on"]) == 64
    assert metrics["dataset"]["train"] == 10
    kind = "panns-views" if untrained else "log-mels"
    kept = list((tmp_path / "results/cache").glob(f"{kind}-*/*/*.npy"))
    assert len(kept) == (20 if untrained else 22)
    song = next(others.glob("train_val/*/3/song.mp3"))
    write_song(song, list(ARTISTS)[1], seed=5)
    status, _, error = caller(script, *options)  # another version of a song: another run
    assert status == 2
    assert "also_train_on" in error
    song.unlink()
    status, _, error = caller(script, *options)
    assert status == 2
    assert "1 of 10 songs are missing" in error
