"""What runs on a CUDA GPU agrees with the CPU. Tolerances are stated beside each comparison.

``ARTIST20_TEST_DEVICE=cpu`` runs the same lines without one, the CPU against itself; ``cuda`` takes
a missing GPU for an error.
"""

import csv
import os
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
import torch._inductor.config
from conftest import ARTISTS, assert_one_line, call, make_waveform
from torch import nn

import task2_train
import task2_train_wo_pretrain
from artist20 import augment, encoders, features, models, runtime, spectrogram, training
from artist20.encoders import ENCODERS
from artist20.encoders.base import MAX_BATCH_SECONDS
from artist20.spectrogram import FrontEnd, LogMels

WANTED = os.environ.get("ARTIST20_TEST_DEVICE")
DEVICE = torch.device(WANTED or "cuda")
CPU = torch.device("cpu")
RATE = 16_000  # Hz
N_CLASSES = 5
RECIPES = {
    "resnet": task2_train_wo_pretrain.HOMEWORK,
    "resnet_strong": task2_train_wo_pretrain.STRONG,
    "mlp": task2_train.HOMEWORK,
}

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not (WANTED or torch.cuda.is_available()), reason="torch sees no CUDA GPU"),
]


@pytest.fixture(autouse=True)
def chosen():
    """Set up the device as scripts do."""
    runtime.choose_device(DEVICE.type)


def distance(found, expected):
    """Return how far apart two arrays are, relative to the length of the second."""
    found, expected = (torch.as_tensor(each).cpu().double() for each in (found, expected))
    assert found.isfinite().all()
    return float((found - expected).norm() / expected.norm())


# --- features and log-mels ---------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [0.1, 21.0])
def test_features_agree(seconds):
    """To 0.1 % of each, or 0.01 % of its family's largest; tempo to the last digit."""
    waveform = torch.from_numpy(make_waveform(sorted(ARTISTS)[0], 1, seconds))
    waveform[len(waveform) // 2 :][: RATE // 4] = 0  # a pause
    expected = features.song_units([waveform])
    found = features.song_units(features._pieces(waveform.numpy(), DEVICE))
    names = features.UNIT_NAMES
    families = np.array(["n_frames", *map(features.family_of, names[1:])])
    largest = {family: np.abs(expected[:, families == family]).max() for family in families}
    allowed = 1e-3 * np.abs(expected) + 1e-4 * np.array([largest[family] for family in families])
    wrong = (np.abs(found - expected) > allowed).any(axis=0)
    assert [names[i] for i in np.flatnonzero(wrong)] == []
    assert (found[:, names.index("tempo")] == expected[:, names.index("tempo")]).all()


def test_log_mels_are_cropped_alike_and_get_the_noise_that_is_asked_for():
    """Crops to the last digit, levels without noise to 0.001 dB, mean power of noise to 5 %."""
    songs = [
        spectrogram.log_mel(make_waveform(artist, i, 3.0), FrontEnd())
        for i, artist in enumerate(ARTISTS)
    ]
    labels, on_device = np.arange(len(songs)), LogMels(songs).to_device(DEVICE)
    for n_frames in (40, 150):  # the longer ones repeat a song
        (expected, _), (found, _) = (
            next(spectrogram.random_crops(of, labels, n_frames, 3, np.random.default_rng(0)))
            for of in (LogMels(songs), on_device)
        )
        assert found.device.type == DEVICE.type
        assert torch.equal(found.cpu(), expected)
    levels, generator = found.float(), torch.Generator(DEVICE).manual_seed(0)
    snr_db = torch.tensor([torch.inf, 0.0, 20.0], device=DEVICE)
    noisy = augment.add_noise_to_log_mel(levels, snr_db, generator)
    assert (noisy[0] - levels[0]).abs().max() < 1e-3
    power, added = 10 ** (levels / 10), 10 ** (noisy / 10) - 10 ** (levels / 10)
    snr = power.mean(dim=(1, 2)) / added.mean(dim=(1, 2))
    assert snr[1:].tolist() == pytest.approx([1, 100], rel=0.05)


# --- networks ----------------------------------------------------------------------------------


def make_network(name):
    """Make a network with random weights, and a batch for it."""
    recipe, generator = RECIPES[name], torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    if name == "mlp":
        model = models.EmbeddingMLP(N_CLASSES, recipe, 2048)
        return model, torch.randn(4, 2048, generator=generator)
    model = models.ArtistResNet(N_CLASSES, recipe)
    return model, torch.randn(4, 64, FrontEnd.of(recipe).n_columns, generator=generator)


@pytest.mark.parametrize("name", RECIPES)
def test_networks_agree(name):
    """Probabilities to 0.0001 in float32 and 0.03 in bfloat16."""
    model, x = make_network(name)
    expected = training.predict(model, x, torch.float32)
    model.to(DEVICE, memory_format=torch.channels_last)
    assert np.abs(training.predict(model, x, torch.float32) - expected).max() < 1e-4
    assert np.abs(training.predict(model, x, torch.bfloat16) - expected).max() < 0.03


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_agree(name):
    """To 1 % of each parameter's in float32."""
    model, x = make_network(name)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0  # each device draws its own
    found = []
    for device in (CPU, DEVICE):
        model.to(device, memory_format=torch.channels_last).zero_grad()
        logits = model.train()(x.to(device))
        nn.functional.cross_entropy(logits, torch.arange(4, device=device)).backward()
        trained_here = [each for each in model.parameters() if each.requires_grad]
        found.append([parameter.grad.cpu().clone() for parameter in trained_here])
    of_all = torch.stack([each.norm() for each in found[0]]).norm()
    for expected, here in zip(*found, strict=True):
        if expected.norm() > 1e-5 * of_all:  # others are rounding
            assert distance(here, expected) < 0.01


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_agree(name):
    """To 0.1 % in float32, and to 5 % in bfloat16.

    High bands hold nothing, as in an MP3: with fewer digits they would be full of rounding.
    """
    if DEVICE == CPU and name not in ("ge2e", "tagger"):
        pytest.skip("takes seconds to make, and shows nothing here")
    (encoder,) = encoders.load([name], encoders.UNTRAINED, 0, CPU, torch.float32)
    rate, seconds = encoder.definition.sample_rate, max(1.0, encoder.definition.min_seconds)
    time = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    waveform = (0.1 * torch.sin(2 * torch.pi * (220 * time + 40 * time**2))).float()
    expected = encoder.embed([waveform])
    encoder.network.to(DEVICE)
    assert distance(encoder.embed([waveform.to(DEVICE)]), expected) < 1e-3
    quick = replace(encoder, precision=runtime.choose_precision("auto", DEVICE))
    assert distance(quick.embed([waveform.to(DEVICE)]), expected) < 0.05


@pytest.mark.parametrize("name", ENCODERS)
def test_a_full_batch_can_be_embedded(name):
    """In a small GPU's memory, and with fewer numbers in any layer than 32-bit indices reach."""
    if DEVICE == CPU:
        pytest.skip("takes minutes")
    (encoder,) = encoders.load([name], encoders.UNTRAINED, 0, DEVICE, torch.bfloat16)
    seconds = encoder.definition.window_seconds
    waveform = torch.randn(int(seconds * encoder.definition.sample_rate), device=DEVICE)
    n_clips = int(MAX_BATCH_SECONDS["cuda"] / seconds)
    torch.cuda.reset_peak_memory_stats()
    assert len(encoder.embed([waveform] * n_clips)) == n_clips
    assert torch.cuda.max_memory_allocated() < 8e9


# --- training ----------------------------------------------------------------------------------

OPTIONS = ["--device", DEVICE.type, "--workers", 1]
OPTIONS += ["--crop-seconds", 1, "--batch-size", 4, "--lr", 0.0001]


@pytest.fixture(scope="module")
def results_dir(tmp_path_factory):
    """Make a folder for all runs, which decode the songs once."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture
def train(tiny_data, results_dir, monkeypatch):
    """Give a function that trains a narrow ResNet: options -> exit status, losses by epoch."""
    for name, recipe in task2_train_wo_pretrain.RECIPES.items():
        narrow = msgspec.structs.replace(recipe, width=8)
        monkeypatch.setitem(task2_train_wo_pretrain.RECIPES, name, narrow)

    def run(*options, precision="float32", recipe="homework", how="--overwrite"):
        where = ["--data-dir", tiny_data, "--results-dir", results_dir]
        options = [*OPTIONS, *where, "--precision", precision, "--recipe", recipe, how, *options]
        status = call(monkeypatch, "task2_train_wo_pretrain", *options)
        name = {"homework": "resnet", "strong": "resnet_strong"}[recipe]
        history = results_dir / "task2" / name / "history.csv"
        if not history.is_file():
            return status, None
        with history.open() as file:
            rows = [(row["train_loss"], row["val_loss"]) for row in csv.DictReader(file)]
        return status, np.array(rows, float)

    return run


def never_waiting(batches):
    """Go through batches, and raise an error wherever a GPU is waited for in the meantime."""
    if DEVICE.type == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield from batches
    finally:
        if DEVICE.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("recipe", ["homework", "strong"])
def test_no_step_of_an_epoch_waits_for_the_gpu(train, monkeypatch, recipe):
    steps = training.Trainer._train_epoch

    def train_epoch(self, network, batches, bar):
        steps(self, network, never_waiting(batches), bar)

    monkeypatch.setattr(training.Trainer, "_train_epoch", train_epoch)
    status, losses = train("--epochs", 1, "--crop-seconds", 3, recipe=recipe)  # or all of a song
    assert status == 0
    assert np.isfinite(losses).all()


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_as_if_nothing_had_been(train, monkeypatch, capsys):
    """Losses to 0.1 %: on a GPU sums are in no fixed order, so that no two runs are equal."""
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)  # as where epochs are long
    status, expected = train("--epochs", 3)
    assert status == 0
    with monkeypatch.context() as patch:
        validate = training.Trainer._validate

        def killed(self, lr):
            if len(self.history) == 1:
                raise KilledError
            return validate(self, lr)

        patch.setattr(training.Trainer, "_validate", killed)
        status, losses = train("--epochs", 3)
        assert (status, len(losses)) == (1, 1)
    status, found = train("--epochs", 3, how="--resume")
    assert status == 0
    assert "going on after epoch 1 of 3" in capsys.readouterr().out
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_out_of_memory_is_one_line_with_a_batch_size_to_try(train, monkeypatch, capsys):
    def batches(*_):
        if DEVICE == CPU:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1048576.00 GiB")
        yield torch.empty(2**50, dtype=torch.uint8, device=DEVICE)

    with monkeypatch.context() as patch:
        patch.setattr(task2_train_wo_pretrain, "batches", batches)
        assert train("--epochs", 1)[0] == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "CUDA out of memory: tried to allocate 1048576.00 GiB in batches of 4" in error
    assert "--batch-size 2" in error
    assert train("--epochs", 1, "--batch-size", 2)[0] == 0


def test_bfloat16_learns_alike(train):
    """Losses of two epochs to 5 %."""
    status, expected = train("--epochs", 2)
    assert status == 0
    status, found = train("--epochs", 2, precision="bfloat16")
    assert status == 0
    np.testing.assert_allclose(found, expected, rtol=0.05)


def test_a_compiled_network_learns_alike(train, monkeypatch):
    """Losses of an epoch to 0.1 %, with the same units dropped."""
    if DEVICE == CPU:  # where compiling takes minutes
        monkeypatch.setattr(torch, "compile", lambda of: of)
    monkeypatch.setattr(torch._inductor.config, "fallback_random", True)
    status, expected = train("--epochs", 1)
    assert status == 0
    status, found = train("--epochs", 1, "--compile")
    assert status == 0
    np.testing.assert_allclose(found, expected, rtol=1e-3)
