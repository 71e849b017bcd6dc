"""Two processes that work as one, over gloo, against one that works alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from artist20 import audio, dataset, distributed, results, spectrogram, training
from artist20.models import ArtistResNet
from artist20.spectrogram import FrontEnd

REPOSITORY = Path(__file__).resolve().parents[1]

# What each process runs. ResNet's parts (no bias before a normalisation, where its gradient is
# rounding error that Adam would blow up): convolution, batch normalisation, and no dropout, whose
# masks differ between processes. Batches of 5 and 3 songs do not divide evenly; the last has one.
TOY = """
import json, os, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from artist20 import augment, distributed, runtime, training

folder, when, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
X = torch.from_numpy(np.random.default_rng(0).normal(size=(9, 1, 8, 6))).float()
y = np.arange(9) % 3
seen = []

def batches(epoch):
    order = np.random.default_rng(epoch).permutation(9)
    for part in (order[:5], order[5:8], order[8:]):
        seen.append([epoch, part[distributed.share(len(part)).numpy()].tolist()])
        if epoch == when and distributed.rank() == 1:
            os.kill(os.getpid(), number)
        yield X[part], augment.one_hot(torch.from_numpy(y[part]), 3)

def main():
    distributed.start(torch.device("cpu"))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    )
    model = distributed.synchronize_batch_norm(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def score(songs):
        return training.predict(model, X[songs], torch.float32)

    history = training.fit(
        model, optimizer, CosineAnnealingLR(optimizer, 4), batches,
        lambda: distributed.score_divided(9, score), y, epochs=4, steps_per_epoch=3,
        label_smoothing=0.1, seed=0, precision=torch.float32, folder=folder,
        identity={"kind": "toy", "classes": ["a", "b", "c"], "config": {}},
    )
    (folder / f"seen-{distributed.rank()}.json").write_text(json.dumps([seen, history]))

runtime.run(main)
"""


def torchrun(n_processes, *command, cwd):
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line.append(f"--nproc-per-node={n_processes}")
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*line, *map(str, command)],
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        timeout=240,
    )


def run_toy(folder, n_processes, signal_in_epoch=0, number=signal.SIGKILL):
    """Train the toy; the second process may send itself a signal."""
    script = folder / "toy.py"
    script.write_text(TOY)
    return torchrun(n_processes, script, folder, signal_in_epoch, int(number), cwd=folder)


def histories(folder):
    files = sorted(folder.glob("seen-*.json"))
    return [json.loads(file.read_text()) for file in files]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    done = run_toy(folder, 1)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_run(folder, alone):
    (_, expected), *_ = histories(alone)
    for _, history in histories(folder):
        for row, other in zip(history, expected, strict=True):
            for key in ("train_loss", "val_loss", "val_top1", "val_top3", "lr"):
                assert row[key] == pytest.approx(other[key], rel=1e-4), key
    ours, theirs = (results.read_checkpoint(path / "last.pt", "x") for path in (folder, alone))
    for name, value in theirs["model"].items():
        torch.testing.assert_close(ours["model"][name], value, rtol=1e-3, atol=1e-4)


def test_two_processes_train_as_one(tmp_path, alone):
    done = run_toy(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)
    assert done.stdout.count("epoch   4/4") + done.stderr.count("epoch   4/4") == 1
    (first, _), (second, _) = histories(tmp_path)
    for epoch in range(1, 5):
        songs = [song for e, part in first + second if e == epoch for song in part]
        assert sorted(songs) == list(range(9))  # every song once, in one of the two
        assert [song for e, part in second if e == epoch for song in part]


# What runs just before the interpreter goes: gloo's threads must be gone by then. One that still
# lets go of a tensor while Python is torn down aborts the process, after all work is done.
AT_EXIT = """
import atexit, contextlib, sys
from pathlib import Path

def note():
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ends meanwhile
            names.append((task / "comm").read_text().strip())
    Path(sys.argv[1], f"threads-{os.environ['RANK']}").write_text("\\n".join(names))

atexit.register(note)
"""


@pytest.mark.long
@pytest.mark.parametrize("failing", [False, True], ids=["done", "mistake"])
def test_no_process_ends_with_threads_of_gloo(tmp_path, failing):
    script = tmp_path / "toy.py"
    mistake = "\n    raise UserError('a mistake in all processes')\n"
    main = TOY.replace("\n    (folder /", mistake + "    (folder /") if failing else TOY
    script.write_text("from artist20 import UserError\n" + AT_EXIT + main)
    done = torchrun(2, script, tmp_path, 0, 0, cwd=tmp_path)
    assert (done.returncode == 0) != failing, done.stderr
    assert "KeyboardInterrupt" not in done.stderr
    files = sorted(tmp_path.glob("threads-*"))
    # After a mistake the first process to end has torchrun end the other.
    assert len(files) in ((1, 2) if failing else (2,))
    for file in files:
        assert "gloo" not in file.read_text()


@pytest.mark.long
def test_a_killed_process_ends_the_run_which_can_go_on(tmp_path, alone):
    done = run_toy(tmp_path, 2, signal_in_epoch=3)
    assert done.returncode != 0
    assert "another process is gone" in done.stderr
    assert "to go on" in done.stderr
    assert "RuntimeError" not in done.stderr  # torchrun itself reports the killed process
    assert results.read_checkpoint(tmp_path / "last.pt", "x")["epoch"] == 2
    done = run_toy(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)


@pytest.mark.long
def test_a_signal_to_one_process_stops_both_after_the_step(tmp_path, alone):
    done = run_toy(tmp_path, 2, signal_in_epoch=3, number=signal.SIGTERM)
    assert done.returncode != 0
    assert "RuntimeError" not in done.stderr
    last = results.read_checkpoint(tmp_path / "last.pt", "x")
    assert (last["epoch"], last["state"]["step"]) == (2, 1)
    done = run_toy(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)


@pytest.mark.long
def test_one_process_goes_on_where_two_were(tmp_path, alone):
    assert run_toy(tmp_path, 2, signal_in_epoch=3).returncode != 0
    done = run_toy(tmp_path, 1)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)


def assert_embeddings_are_the_checkpoints(folder, data_dir):
    """Embed every song by itself with best.pt: weights differ between runs, by their rounding."""
    best = results.read_checkpoint(folder / "best.pt", "x")
    model = ArtistResNet(len(best["classes"]), statistics=True)
    model.load_state_dict(best["model"])
    for split, songs in zip(dataset.SPLITS, dataset.read_train_val(data_dir), strict=True):
        expected = []
        for song in songs:
            log_mel = spectrogram.log_mel(audio.load(song.file), FrontEnd())
            windows, _ = spectrogram.score_windows(
                lambda x: training.embed(model, x, torch.float32),
                spectrogram.LogMels(log_mel, [(0, len(log_mel))]),
                best["window_frames"],
                1,
            )
            expected.append(windows.mean(axis=0))
        found = np.load(folder / f"{split}_embeddings.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        assert not np.allclose(np.roll(found, 1, axis=0), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_the_stages_give_the_same_with_two_processes(tiny_data, tmp_path):
    """Features exactly, embeddings and the ResNet's losses but for rounding."""
    # Without dropout, whose masks differ between processes; with the strong recipe's two answers.
    wrapper = tmp_path / "without_dropout.py"
    wrapper.write_text(
        "import dataclasses\n"
        "import task2_train_wo_pretrain as stage\n"
        "from artist20.models import TimeStatistics\n"
        "TimeStatistics.__init__.__defaults__ = (0,)\n"
        "homework = stage.RECIPES['homework']\n"
        "stage.RECIPES['homework'] = dataclasses.replace(homework, dropout=0, statistics=True)\n"
        "stage.runtime.run(stage.main)\n"
    )
    for n in (1, 2):
        for script, options in (
            (REPOSITORY / "task1_preprocessing.py", []),
            (
                REPOSITORY / "task2_train.py",
                [
                    *("--epochs", 2, "--crop-seconds", 1, "--batch-size", 5, "--views", 1),
                    *("--windows", 1, "--backbone-weights", "untrained"),
                ],
            ),
            (
                wrapper,
                [
                    # The last batch has one song, and the second process none of it.
                    *("--epochs", 2, "--crop-seconds", 1, "--batch-size", 11, "--lr", 1e-3),
                    *("--precision", "float32"),
                ],
            ),
        ):
            done = torchrun(
                n,
                script,
                *("--data-dir", tiny_data, "--results-dir", f"results-{n}"),
                *("--device", "cpu", "--workers", 1, *options),
                cwd=tmp_path,
            )
            assert done.returncode == 0, done.stderr
            assert done.stdout.count("next: python") == 1
            assert "UserWarning" not in done.stderr
    one, two = (tmp_path / f"results-{n}" for n in (1, 2))
    for name in results.feature_hashes(one / "task1"):
        assert (one / "task1" / name).read_bytes() == (two / "task1" / name).read_bytes()
    losses = []
    for folder in (one, two):
        (rows,) = folder.glob("task2/resnet/cache/log_mel-*/rows.bin")
        assert not list(rows.parent.glob("parts/*"))
        metrics = json.loads((folder / "task2/resnet/metrics.json").read_text())
        last = results.read_checkpoint(folder / "task2/resnet/last.pt", "x")
        losses.append([row["train_loss"] for row in last["history"]])
        assert metrics["device"].endswith("2 processes") == (folder == two)
    # Weights that begin 1e-7 apart are as far from each other after the first epoch's steps.
    for (first, second), rel in zip(zip(*losses, strict=True), (1e-3, 5e-3), strict=True):
        assert first == pytest.approx(second, rel=rel)
    for folder in (one, two):
        assert_embeddings_are_the_checkpoints(folder / "task2/resnet", tiny_data)
    of_songs = []
    for folder in (one, two):
        (cache,) = folder.glob("task2/panns/cache/views-*")
        rows = np.fromfile(cache / "rows.bin", np.float32).reshape(-1, 2048)
        lines = map(json.loads, (cache / "index.jsonl").read_text().splitlines())
        of_songs.append({key: rows[first : first + n] for key, first, n in lines})
    assert of_songs[0].keys() == of_songs[1].keys()
    for key, embedding in of_songs[0].items():
        np.testing.assert_allclose(of_songs[1][key], embedding, atol=0.02)  # bfloat16


def test_a_process_that_torchrun_did_not_start_is_alone():
    assert distributed.world_size() == 1
    assert distributed.is_main()
    assert distributed.on_main(lambda: 3) == 3
    assert distributed.gather("x") == ["x"]
    assert distributed.any_of(True)
    model = nn.Linear(1, 1)
    assert distributed.distribute(model) is model
    assert distributed.synchronize_batch_norm(model) is model
    assert distributed.share(3).tolist() == [0, 1, 2]
    scores = distributed.score_divided(3, lambda songs: songs[:, None] * np.ones(2))
    assert scores.tolist() == [[0, 0], [1, 1], [2, 2]]
