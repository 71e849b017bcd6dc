"""artist20.submission: what is packed, what is checked, what is refused."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from conftest import (
    TOY_ARTISTS,
    assert_one_line,
    call,
    put_network,
    put_task1,
    toy_model,
    toy_settings,
)
from msgspec.structs import replace

from artist20 import comparison, inference, models, runtime, slides, submission
from artist20.checkpoints import save_model
from artist20.results import (
    EncoderSettings,
    NetworkMetrics,
    Task1Metrics,
    TestScores,
    read_record,
    write_record,
)

SMALL = {"width": 4, "n_mels": 16}


def run(module, *options):
    """Run a module as its command does; return the exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["x", *map(str, options)])
        runtime.run(module.main)
    return stopped.value.code


@pytest.fixture(scope="module")
def finished(tiny_data, tmp_path_factory):
    """Run everything up to the slides, with a network that is real enough to name songs."""
    folder = tmp_path_factory.mktemp("finished")
    results = folder / "results"
    put_task1(results, {"svm": 1.9}, seed=1)
    settings = toy_settings("resnet", **SMALL)
    run_dir = put_network(results, "resnet", 0.5, seed=2, settings=settings)
    (run_dir / "history.csv").write_text("epoch\n1\n")
    torch.manual_seed(0)
    weights = models.ArtistResNet(len(TOY_ARTISTS), settings.recipe).state_dict()
    save_model(run_dir / "best.pt", toy_model(settings, weights, TOY_ARTISTS))
    options = ["--data-dir", tiny_data, "--results-dir", results, "--workers", 1]
    with pytest.MonkeyPatch.context() as patch:
        assert call(patch, "task2_inference_wo_pretrain", *options) == 0
    (folder / "assets").mkdir()
    (folder / "assets/task2_architecture_diagram_resnet.png").write_bytes(b"a picture")
    where = ["--results-dir", results, "--assets-dir", folder / "assets"]
    assert run(comparison, *where) == 0
    assert run(slides, *where, "--output", folder / "report.md") == 0
    page = '<img src="assets/task2_architecture_diagram_resnet.png"><a href="https://example.org">x</a>'
    (folder / "report.html").write_text(page)
    return folder


@pytest.fixture
def here(finished, tmp_path):
    """Copy what is finished, for a test that changes it."""
    return shutil.copytree(finished, tmp_path / "here", ignore=shutil.ignore_patterns("*.zip"))


def submit(folder, data_dir, *options):
    where = [f"--results-dir={folder}/results", f"--assets-dir={folder}/assets"]
    where += [f"--data-dir={data_dir}", f"--report={folder}/report.md"]
    return run(submission, *where, "--output", folder / "hw.zip", *options)


def test_a_grader_has_all_in_one_file(finished, tiny_data, capsys):
    assert submit(finished, tiny_data) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("model: ResNet, top-1 ")
    assert lines[1].startswith("note: SVM has ") and "--model svm takes that" in lines[1]
    assert lines[-2].startswith("checked: unpacked into an empty folder, inference names 3 test")
    with zipfile.ZipFile(finished / "hw.zip") as archive:
        names = archive.namelist()
        text = {name: archive.read(name).decode() for name in names if name.endswith(".txt")}
        page, deck = (archive.read(f"report.{kind}").decode() for kind in ("html", "md"))
        predictions = archive.read("test_predictions.json")
    assert len(names) == len(set(names)) and not [name for name in names if ".pyc" in name]
    run_dir = finished / "results/task2/resnet"
    assert predictions == (run_dir / "test_predictions.json").read_bytes()
    for name in ("results/task2/resnet/best.pt", "requirements.txt", "get_dataset.sh"):
        assert name in names
    command = "    python task2_inference_wo_pretrain.py --data-dir FOLDER --output mine.json\n"
    assert command in text["README.txt"]
    assert "task1: seed 0, 10 s" in text["commands.txt"] and "torch 2.11.0" in text["commands.txt"]
    assert (
        "](assets/task2_architecture_diagram_resnet.png)" in deck
        and "assets/task2_architecture_diagram_resnet.png" in names
    )
    assert 'src="data:image/png;base64,' in page and 'href="https://example.org"' in page
    assert submit(finished, tiny_data) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "hw.zip is there already" in error


def fake_inference(folder, change):
    """Return what writes in inference's place the scores that it wrote before, changed."""
    before = read_record(folder / "results/task2/resnet/test_scores.json", TestScores, "x")

    def run_it(command, cwd, **_):
        changed = change(before)
        if changed:
            write_record(cwd / "found_scores.json", changed)
        return subprocess.CompletedProcess(command, 2, "", "note: x\nerror: it is broken\n")

    return run_it


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda test: None, "unpacked, inference fails: error: it is broken"),
        (
            lambda test: replace(
                test, scores={"resnet": np.roll(test.scores["resnet"], 1, axis=1)}
            ),
            "unpacked, inference does not name the artists",
        ),
        (lambda test: replace(test, songs=dict.fromkeys(test.songs, "0")), "are not those of the"),
    ],
)
def test_what_a_grader_could_not_run_is_not_written(
    finished, tiny_data, tmp_path, monkeypatch, capsys, change, said
):
    monkeypatch.setattr(subprocess, "run", fake_inference(finished, change))
    assert submit(finished, tiny_data, "--output", tmp_path / "other.zip") == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_inference_is_checked_without_the_users_own_python(finished, tiny_data, monkeypatch):
    seen = {}

    def look(command, cwd, env, **_):
        seen.update(command=command, env=env, files={path.name for path in cwd.iterdir()})
        return fake_inference(finished, lambda test: test)(command, cwd)

    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setattr(subprocess, "run", look)
    monkeypatch.chdir(tiny_data.parent)
    assert submit(finished, tiny_data.name, "--overwrite") == 0
    assert "PYTHONPATH" not in seen["env"] and "PATH" in seen["env"]
    assert str(tiny_data) in seen["command"]  # from where it runs, another path
    assert {"task2_inference_wo_pretrain.py", "artist20", "README.txt"} <= seen["files"]


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (
            lambda here: (here / "results/task2/resnet/test_predictions.json").unlink(),
            ["--model", "resnet"],
            "task2_inference_wo_pretrain.py --data-dir DATA --results-dir HERE/results first",
        ),
        (lambda here: None, ["--model", "svm"], "task1_inference --data-dir DATA"),
        (lambda here: None, ["--model", "x"], "--model x: there are svm, resnet"),
        (lambda here: (here / "report.md").unlink(), [], "report.md is missing: run python -m"),
        (
            lambda here: (here / "results/task2/resnet/best.pt").write_bytes(b"another"),
            [],
            "test_predictions.json is of another model than HERE/results/task2/resnet/best.pt: run",
        ),
        (
            lambda here: (here / "results/task2/resnet/test_predictions.json").write_text("{}"),
            [],
            "test_predictions.json is of another model than",
        ),
        (
            lambda here: put_network(here / "results", "resnet_strong", 1, 1),
            [],
            "results.json lacks",
        ),
    ],
)
def test_what_is_missing_is_one_line(here, tiny_data, capsys, change, options, said):
    change(here)
    assert submit(here, tiny_data, *options) == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert said.replace("DATA", str(tiny_data)).replace("HERE", str(here)) in error
    assert not (here / "hw.zip").exists()


def test_networks_that_were_averaged_are_packed(here, tiny_data, monkeypatch, capsys):
    best = here / "results/task2/resnet/best.pt"
    other = shutil.copy(best, here / "seed-1.pt")
    options = ["--data-dir", tiny_data, "--results-dir", here / "results", "--workers", 1]
    both = ["--checkpoint", best, other]
    assert call(monkeypatch, "task2_inference_wo_pretrain", *options, *both) == 0
    monkeypatch.setattr(subprocess, "run", fake_inference(here, lambda test: test))
    assert submit(here, tiny_data, *both) == 0
    with zipfile.ZipFile(here / "hw.zip") as archive:
        readme = archive.read("README.txt").decode()
        assert archive.read("checkpoints/1.pt") == best.read_bytes()
    assert "wo_pretrain.py --checkpoint checkpoints/0.pt checkpoints/1.pt --data-dir" in readme


def test_a_page_that_is_older_than_its_slides_is_left_out(here, tiny_data, monkeypatch, capsys):
    (here / "report.md").touch()
    monkeypatch.setattr(subprocess, "run", fake_inference(here, lambda test: test))
    assert submit(here, tiny_data) == 0
    assert f"report.html is older than its slides; npx @marp-team/marp-cli {here}/report.md" in (
        capsys.readouterr().out
    )
    with zipfile.ZipFile(here / "hw.zip") as archive:
        assert "report.html" not in archive.namelist()


def test_what_inference_reads_of_other_models(finished, tmp_path):
    folder = finished / "results/task1"
    metrics = read_record(folder / "metrics.json", Task1Metrics, "x")
    names = [path.name for path in submission.inputs(finished / "results", folder, metrics)]
    expected = ["metrics.json", "val_predictions.json", "svm.skops", "preprocessing.json"]
    assert names == [*expected, "songs_train.json"]
    settings = toy_settings("ge2e_strong@vocals")
    encoder = EncoderSettings(name="ge2e", weights="ab", sample_rate=16000)
    run_dir = put_network(
        tmp_path, "ge2e_strong@vocals", 1, 1, settings=replace(settings, encoders=[encoder])
    )
    metrics = read_record(run_dir / "metrics.json", NetworkMetrics, "x")
    text = submission._readme("GE2E", "python task2_inference.py", metrics)
    assert "    bash get_dataset.sh --encoder ge2e\n    python task2_inference.py --data" in text
    assert " /somewhere/vocals is a tree of the same form" in text


def test_predictions_that_were_written_are_ranked_scores(finished):
    run_dir = finished / "results/task2/resnet"
    test = read_record(run_dir / "test_scores.json", TestScores, "x")
    ranked = inference.rank(test.classes, list(test.songs), test.scores["resnet"])
    assert json.loads((run_dir / "test_predictions.json").read_text()) == ranked
