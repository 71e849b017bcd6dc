"""artist20.finished: which models have been run, and what they are called."""

import json
from pathlib import Path

import pytest
from conftest import put_network, put_task1, refused

from artist20 import UserError, files, finished, results
from artist20.results import NetworkMetrics, Task1Metrics


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a results folder with models of both tasks."""
    put_task1(tmp_path, {"svm": 2, "knn": 1}, seed=1)
    put_task1(tmp_path, {"svm": 2}, seed=2, level="segment")
    put_network(tmp_path, "panns", 2, seed=3)
    put_network(tmp_path, "resnet", 2, seed=4)
    return tmp_path


def test_models_lie_where_the_commands_beside_them_write():
    folder = results.RESULTS_DIR
    assert {
        stage.folder.relative_to(folder).as_posix(): (stage.train, stage.score_test, stage.metrics)
        for stage in finished.stages(folder)
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


def test_what_other_encoders_and_renditions_made_is_found(tmp_path, capsys):
    for name in ("ge2e_strong", "resnet_strong@x y"):
        (tmp_path / "task2" / name).mkdir(parents=True)  # not run; no model's name
    (tmp_path / "task2/resnet_strong@x y/metrics.json").touch()
    (tmp_path / "task2/mine/metrics.json").mkdir(parents=True)
    fixed = finished.stages(tmp_path)
    for name in ("ecapa+tagger_strong@vocals", "ge2e", "resnet@vocals"):
        put_network(tmp_path, name, 1.0, seed=1)
    put_task1(tmp_path, {"svm": 1.0, "knn": 0.5}, seed=1, level="segment", rendition="vocals")
    found = [stage for stage in finished.stages(tmp_path) if stage not in fixed]
    transfer = "--encoder ecapa,tagger --recipe strong --audio-root /somewhere/vocals"
    of = f"--results-dir {tmp_path}"
    resnet, segments = "--audio-root /somewhere/vocals", "--level segment --audio-root"
    assert [
        (stage.folder.relative_to(tmp_path).as_posix(), stage.train, stage.score_test)
        for stage in found
    ] == [
        (
            "task1@vocals/segment",
            f"task1_train.py {segments} /somewhere/vocals {of}",
            f"python -m artist20.task1_inference {segments} /somewhere/vocals {of}",
        ),
        (
            "task2/ecapa+tagger_strong@vocals",
            f"task2_train.py {transfer} {of}",
            f"python task2_inference.py {transfer} {of}",
        ),
        (
            "task2/ge2e",
            f"task2_train.py --encoder ge2e {of}",
            f"python task2_inference.py --encoder ge2e {of}",
        ),
        (
            "task2/resnet@vocals",
            f"task2_train_wo_pretrain.py {resnet} {of}",
            f"python task2_inference_wo_pretrain.py {resnet} {of}",
        ),
    ]
    runs = finished.find_runs(tmp_path)
    assert list(runs) == found
    assert {name: of.title(own) for of in runs.values() for name, own in of.names.items()} == {
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
    message = refused(finished.find_runs, folder)
    assert "task2/resnet@old/metrics.json is of resnet: rename its folder" in message


def test_a_broken_record_of_a_rendition_is_told(folder):
    path = put_network(folder, "resnet@vocals", 1.0, seed=1) / "metrics.json"
    path.write_text("{}")
    message = refused(finished.stages, folder)
    assert str(path) in message
    assert message.endswith("run task2_train_wo_pretrain.py --audio-root vocals again")


def test_models_of_the_wide_search_are_found_where_they_are(tmp_path):
    put_task1(tmp_path, {"lda": 0.8}, seed=1, search="wide")
    put_task1(tmp_path, {"lda": 0.8}, seed=1, search="wide", level="segment", rendition="vocals")
    stages = {
        stage.folder.relative_to(tmp_path).as_posix(): (stage.train, stage.score_test)
        for stage in finished.stages(tmp_path)
    }
    wide = [name for name in stages if "wide" in name]
    assert wide == ["task1/wide", "task1@vocals/wide/segment"]
    options = ["--search wide", "--level segment --search wide --audio-root /somewhere/vocals"]
    for name, option in zip(wide, options, strict=True):
        option += f" --results-dir {tmp_path}"
        train, score = f"task1_train.py {option}", f"python -m artist20.task1_inference {option}"
        assert stages[name] == (train, score)


def test_runs_are_found_and_what_is_missing_is_told(folder, capsys):
    path = folder / "task1/metrics.json"
    metrics = json.loads(path.read_text())
    files.write_json(path, {**metrics, "left_out": {"logistic_regression": "overflow"}})
    found = finished.find_runs(folder)
    names = [stage.folder.relative_to(folder).as_posix() for stage in found]
    assert names == ["task1", "task1/segment", "task2/panns", "task2/resnet"]
    assert [type(metrics) for metrics in found.values()] == [Task1Metrics] * 2 + [
        NetworkMetrics
    ] * 2
    of = f"--recipe strong --results-dir {folder}"
    assert capsys.readouterr().out.splitlines() == [
        "left out: task1/logistic_regression (overflow)",
        f"left out: task2/panns_strong (task2_train.py {of} has not been run)",
        f"left out: task2/resnet_strong (task2_train_wo_pretrain.py {of} has not been run)",
    ]


def test_models_of_other_features_are_refused(folder):
    path = folder / "task1/preprocessing.json"
    made = json.loads(path.read_text())
    files.write_json(path, {**made, "arrays": {"X_train.npy": "1"}})
    with pytest.raises(UserError, match=r"task1_train\.py .*are of other features than .*/task1 "):
        finished.find_runs(folder)
