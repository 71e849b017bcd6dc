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

from artist20 import audio, checkpoints, dataset, distributed, models, spectrogram, training
from artist20.checkpoints import TrainedModel, TrainingState
from artist20.spectrogram import FrontEnd, LogMels

REPOSITORY = Path(__file__).resolve().parents[1]

# What each process runs. ResNet's parts (no bias before a normalisation, where its gradient is
# rounding error that Adam would blow up): convolution, batch normalisation, and no dropout, whose
# masks differ between processes. Batches of 6, 5 and 1 songs do not divide evenly.
TOY = """
import json, os, sys
from pathlib import Path
import msgspec, numpy as np, torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from test_training import LABELS, N_CLASSES, N_SONGS, make_run
from artist20 import distributed, runtime, training

folder, when, number = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
X = torch.from_numpy(np.random.default_rng(0).normal(size=(N_SONGS, 1, 8, 6))).float()
seen = []

def batches(epoch):
    order = np.random.default_rng(epoch).permutation(N_SONGS)
    for part in (order[:6], order[6:11], order[11:]):
        seen.append([epoch, part[distributed.share(len(part)).numpy()].tolist()])
        if epoch == when and distributed.rank() == 1:
            os.kill(os.getpid(), number)
        yield X[part], F.one_hot(torch.from_numpy(LABELS[part]), N_CLASSES).float()

def main():
    distributed.start(torch.device("cpu"))
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, N_CLASSES),
    )
    model = distributed.synchronize_batch_norm(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=True)

    def score(songs):
        return training.predict(model, X[songs], torch.float32)

    training.SAVE_SECONDS = 0  # as where epochs are long
    trainer = training.Trainer(
        make_run(folder, epochs=4), model, optimizer, CosineAnnealingLR(optimizer, 4),
        lambda: {"": distributed.score_divided(N_SONGS, score)},
        steps_per_epoch=3, label_smoothing=0.1, window_frames=30,
    )
    trainer.fit(batches)
    told = json.dumps([seen, msgspec.to_builtins(trainer.history)])
    (folder / f"seen-{distributed.rank()}.json").write_text(told)

runtime.run(main)
"""


def torchrun(n_processes, *command, cwd):
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line.append(f"--nproc-per-node={n_processes}")
    paths = os.pathsep.join(map(str, (REPOSITORY, REPOSITORY / "tests")))
    return subprocess.run(
        [*line, *map(str, command)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
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
    return [json.loads(file.read_text()) for file in sorted(folder.glob("seen-*.json"))]


def last(folder):
    return checkpoints.load_model(folder / "last.pt", TrainingState, "x")


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
    ours = last(folder).weights
    for name, value in last(alone).weights.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-4)


def test_two_processes_train_as_one(tmp_path, alone):
    done = run_toy(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)
    assert done.stdout.count("epoch   4/4") + done.stderr.count("epoch   4/4") == 1
    (first, _), (second, _) = histories(tmp_path)
    for epoch in range(1, 5):
        songs = [song for e, part in first + second if e == epoch for song in part]
        assert sorted(songs) == list(range(12))  # every song once, in one of the two
        assert [len(part) for e, part in second if e == epoch] == [3, 2, 0]


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
    mistake = "\n    raise UserError('a mistake in all processes')\n    told ="
    main = TOY.replace("\n    told =", mistake) if failing else TOY
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
@pytest.mark.parametrize(
    ("number", "done_of_epoch", "n_then"),
    [(signal.SIGKILL, 0, 2), (signal.SIGKILL, 0, 1), (signal.SIGTERM, 1, 2)],
)
def test_a_signal_to_one_process_ends_the_run_which_can_go_on(
    tmp_path, alone, number, done_of_epoch, n_then
):
    """Killed, it leaves the epoch before; asked to stop, both end after the step."""
    done = run_toy(tmp_path, 2, signal_in_epoch=3, number=number)
    assert done.returncode != 0
    assert "to go on" in done.stderr
    assert ("another process is gone" in done.stderr) == (number == signal.SIGKILL)
    assert "RuntimeError" not in done.stderr  # torchrun itself reports the killed process
    left = last(tmp_path)
    assert (left.epoch, left.progress.step) == (2, done_of_epoch)
    done = run_toy(tmp_path, n_then)
    assert done.returncode == 0, done.stderr
    assert_same_run(tmp_path, alone)


def assert_embeddings_are_the_checkpoints(folder, data_dir):
    """Embed every song by itself with best.pt: weights differ between runs, by their rounding."""
    best = checkpoints.load_model(folder / "best.pt", TrainedModel, "x")
    model = models.ArtistResNet(len(best.classes), best.settings.recipe)
    training.load_weights(model, best, folder, "x")
    for split, songs in zip(dataset.SPLITS, dataset.read_train_val(data_dir), strict=True):
        expected = []
        for song in songs:
            log_mel = spectrogram.log_mel(audio.open_song(song.file), FrontEnd())
            (of_song,) = spectrogram.per_song(
                lambda x: training.embed(model, x, torch.float32),
                LogMels([log_mel]),
                best.window_frames,
            )
            expected.append(of_song)
        found = np.load(folder / f"{split}_embeddings.npy")
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
        assert not np.allclose(np.roll(found, 1, axis=0), expected, rtol=1e-3, atol=1e-4)


# Without dropout, whose masks differ between processes; with the strong recipe's two answers.
WITHOUT_DROPOUT = """
import msgspec
import task2_train_wo_pretrain as stage
homework = stage.RECIPES["homework"]
stage.RECIPES["homework"] = msgspec.structs.replace(
    homework, dropout=0, lda_share=0.5, other_albums=True
)
stage.runtime.run(stage.main)
"""
STAGES = [
    (REPOSITORY / "task1_preprocessing.py", []),
    (
        REPOSITORY / "task2_train.py",
        [
            *("--epochs", 2, "--crop-seconds", 1, "--batch-size", 5, "--views", 1),
            *("--windows", 1, "--encoder-weights", "untrained"),
        ],
    ),
    (
        "without_dropout.py",
        [
            # The last batch has one song, and the second process none of it.
            *("--epochs", 2, "--crop-seconds", 1, "--batch-size", 11, "--lr", 1e-3),
            *("--precision", "float32"),
        ],
    ),
]


@pytest.mark.long
def test_the_stages_give_the_same_with_two_processes(tiny_data, tmp_path):
    """Features exactly, embeddings and the ResNet's losses but for rounding."""
    (tmp_path / "without_dropout.py").write_text(WITHOUT_DROPOUT)
    for n in (1, 2):
        for script, options in STAGES:
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
    arrays = [file.relative_to(one) for file in (one / "task1").rglob("*.npy")]
    assert len(arrays) >= 4
    for name in arrays:
        assert (one / name).read_bytes() == (two / name).read_bytes()
    losses, val_losses = [], []
    for folder in (one, two):
        metrics = json.loads((folder / "task2/resnet/metrics.json").read_text())
        assert metrics["provenance"]["device"].endswith("2 processes") == (folder == two)
        history = last(folder / "task2/resnet").history
        losses.append([row.train_loss for row in history])
        val_losses.append(history[0].val_loss)  # of the convolutions and LDA
        assert_embeddings_are_the_checkpoints(folder / "task2/resnet", tiny_data)
    # Weights that begin 1e-7 apart are as far from each other after the first epoch's steps.
    for (first, second), rel in zip(zip(*losses, strict=True), (1e-3, 5e-3), strict=True):
        assert first == pytest.approx(second, rel=rel)
    assert val_losses[0] == pytest.approx(val_losses[1], rel=5e-3)
    cached = [file.relative_to(one) for file in (one / "cache").rglob("*.npy")]
    assert len(cached) > 2 * len(dataset.read_split(tiny_data, "train"))
    for name in cached:
        atol = 0.02 if name.parts[1].startswith("views") else 0  # bfloat16, in other batches
        np.testing.assert_allclose(np.load(two / name), np.load(one / name), atol=atol)


def test_a_process_that_torchrun_did_not_start_is_alone():
    assert (distributed.world_size(), distributed.rank(), distributed.is_main()) == (1, 0, True)
    assert distributed.on_main(lambda: 3) == 3
    assert distributed.gather("x") == ["x"]
    assert [distributed.any_of(flag) for flag in (True, False)] == [True, False]
    model = nn.Linear(1, 1)
    assert distributed.distribute(model) is model
    assert distributed.synchronize_batch_norm(model) is model
    assert distributed.share(3).tolist() == [0, 1, 2]
    scores = distributed.score_divided(3, lambda songs: songs[:, None] * np.ones(2))
    assert scores.tolist() == [[0, 0], [1, 1], [2, 2]]
