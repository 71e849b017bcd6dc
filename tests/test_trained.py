"""artist20.trained: checkpoints become networks that score songs as they did in training."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TOY_ARTISTS, TOY_LEARNING, toy_model, toy_settings
from msgspec.structs import replace
from torch import Tensor

from artist20 import UserError, models, spectrogram, trained, training
from artist20.encoders.base import Definition, Encoder
from artist20.evaluation import Scores
from artist20.results import EncoderSettings
from artist20.spectrogram import FrontEnd, LogMels
from artist20.trained import TrainedClassifier, TrainedResNet, TrainedTransfer

CPU = torch.device("cpu")
PATH = Path("models/best.pt")
N_CLASSES = len(TOY_ARTISTS)
SMALL = {"width": 8, "n_mels": 32, "n_fft": 2048}


def load(model, settings):
    """Rebuild a network from a checkpoint of these settings with the model's weights."""
    checkpoint = toy_model(settings, model.state_dict(), TOY_ARTISTS)
    if settings.encoders:
        return trained.load_classifier(PATH, checkpoint, 6, CPU)
    return trained.load_resnet(PATH, checkpoint, CPU, "auto")


@pytest.mark.parametrize("pooled", [False, True])
def test_a_classifier_scores_a_songs_windows_or_their_statistics(pooled):
    torch.manual_seed(0)
    settings = toy_settings("panns", pooled=pooled, hidden=(5,))
    model = models.EmbeddingMLP(N_CLASSES, settings.recipe, 12 if pooled else 6)
    rows = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    expected = np.concatenate([rows.mean(axis=0), rows.std(axis=0)])[None] if pooled else rows
    with torch.inference_mode():
        expected = model.eval()(torch.from_numpy(expected)).softmax(dim=1)
    scores = load(model, settings).score_song([rows])
    np.testing.assert_allclose(scores, expected.mean(dim=0), rtol=1e-5)


def test_a_resnet_scores_windows_over_the_whole_song():
    torch.manual_seed(0)
    settings = toy_settings("resnet", bins_per_band=2, lda_share=0.5, **SMALL)
    model = models.ArtistResNet(N_CLASSES, settings.recipe)
    network = load(model, settings)
    assert network.front_end == FrontEnd(2048, 32, levels=True)
    assert network.classes == TOY_ARTISTS
    log_mel = np.random.default_rng(0).normal(size=(70, 32 + 128)).astype(np.float16)
    assert network.window_frames == 30
    windows = np.stack([log_mel[start : start + 30] for start in (0, 20, 40)])
    expected = training.predict(model, torch.from_numpy(windows), torch.float32)
    assert len(np.unique(expected[:, 0])) == 3
    scores = network.score_song(log_mel)
    np.testing.assert_allclose(scores[""], expected.mean(axis=0), rtol=1e-4)
    # What the convolutions answer without LDA.
    settings = toy_settings("resnet", bins_per_band=2, **SMALL)
    alone = models.ArtistResNet(N_CLASSES, settings.recipe)
    alone.load_state_dict(model.state_dict(), strict=False)
    of_bins = load(alone, settings).score_song(log_mel[:, :32])
    assert list(of_bins) == [""]
    np.testing.assert_allclose(scores[":convolutions"], of_bins[""], rtol=1e-4)
    assert np.abs(scores[""] - of_bins[""]).max() > 0.01


def test_windows_four_times_as_long_have_their_share_of_a_songs_answer():
    torch.manual_seed(0)
    shares = {"lda_share": 0.5, "long_lda_share": 0.25}
    settings = toy_settings("resnet", **shares, **SMALL)
    model = models.ArtistResNet(N_CLASSES, settings.recipe)
    network = load(model, settings)
    log_mel = np.random.default_rng(0).normal(size=(150, 32 + 128)).astype(np.float16)
    log_mel[70:] += 3
    starts, long_starts = (0, 30, 60, 90, 120), (0, 30)  # of windows of 30 and 120 frames
    short, long = (
        np.mean(
            [
                training.predict(part, torch.from_numpy(log_mel[None, a : a + n]), torch.float32)[0]
                for a in of
            ],
            axis=0,
        )
        for part, of, n in (
            (model, starts, 30),
            (model.long_statistics, long_starts, 120),
        )
    )
    assert np.abs(short - long).max() > 0.01
    scores = network.score_song(log_mel)
    np.testing.assert_allclose(scores[""], 0.75 * short + 0.25 * long, rtol=1e-4)
    assert np.abs(scores[":convolutions"] - scores[""]).max() > 0.01


def test_a_checkpoint_that_has_learnt_nothing_says_so_when_it_is_loaded(capsys):
    settings = toy_settings("resnet", **SMALL)
    weights = models.ArtistResNet(N_CLASSES, settings.recipe).state_dict()
    of_learnt = replace(toy_model(settings, weights, TOY_ARTISTS), learning=TOY_LEARNING)
    network = trained.load_resnet(PATH, of_learnt, CPU, "auto").predict.args[0]
    kernel = network.stage1[0].conv1.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)  # in which it is quicker
    assert capsys.readouterr().out == ""
    of_other = replace(of_learnt, learning=replace(TOY_LEARNING, train_loss=1.5, top1=0.3))
    trained.load_resnet(PATH, of_other, CPU, "auto")
    out = capsys.readouterr().out
    assert (
        out.startswith(f"warning: {PATH} has learnt nothing: the training loss") and "1.500" in out
    )


@pytest.mark.parametrize(
    "change, shape",
    [
        ({}, (8, 256, 1, 32)),
        ({"width": 16}, (16, 256, 1, 64)),
        ({"keep_frequency": True}, (8, 256, 4, 32)),
        ({"keep_frequency": True, "bins_per_band": 2}, (8, 256, 2, 32)),
        ({"lda_share": 0.5}, (8, 256, 1, 32)),
    ],
)
def test_a_resnet_is_made_as_its_recipe_says(change, shape):
    recipe = toy_settings("resnet", **{"n_mels": 64, "width": 8, "dropout": 0.25, **change}).recipe
    model = models.ArtistResNet(N_CLASSES, recipe)
    width, _, n_bands, n_hidden = shape
    assert model.stem[0].out_channels == width
    assert model.hidden[0].in_features == 8 * width * n_bands
    assert model.output.in_features == n_hidden
    assert model.hidden[3].p == 0.25
    assert (model.statistics is not None) == bool(recipe.lda_share)
    assert model(torch.zeros(2, 9, 64)).shape[-2:] == (2, N_CLASSES)


@pytest.mark.parametrize("name", ["panns", "resnet"])
@pytest.mark.parametrize("wrong", ["kind", "shape", "NaN"])
def test_a_checkpoint_that_does_not_fit_is_one_line(name, wrong):
    settings = toy_settings(name, **(SMALL if name == "resnet" else {"hidden": (5,)}))
    other = toy_settings("resnet" if name == "panns" else "panns")
    weights = {"w": torch.zeros(1)}
    if wrong == "NaN":
        make = models.ArtistResNet if name == "resnet" else models.EmbeddingMLP
        model = make(N_CLASSES, settings.recipe, *([6] if name == "panns" else []))
        weights = {**model.state_dict(), "output.bias": torch.full((N_CLASSES,), torch.nan)}
    checkpoint = toy_model(other if wrong == "kind" else settings, weights, TOY_ARTISTS)
    script = "task2_train" if name == "panns" else "task2_train_wo_pretrain"
    said = {
        "kind": f"{PATH} is no checkpoint of {script}.py",
        "shape": f"{PATH} does not fit the network: run {script}.py --overwrite",
        "NaN": f"{PATH} holds weights that are NaN or infinite: run {script}.py --overwrite",
    }[wrong]
    with pytest.raises(UserError) as error:
        if name == "panns":
            trained.load_classifier(PATH, checkpoint, 6, CPU)
        else:
            trained.load_resnet(PATH, checkpoint, CPU, "auto")
    assert str(error.value) == said


# --- curves ------------------------------------------------------------------------------------


def ends(batch: Tensor) -> np.ndarray:
    """Answer with the first and the last frame, for a log-mel that counts its frames."""
    return batch[:, [0, -1], 0].float().numpy()


@pytest.mark.parametrize(
    "length, window, n_frames, starts",
    [
        (60, 1000, 31, [0, 6, 12, 17, 23, 29]),  # at least a second, where a sixth is less
        (60, 20, 20, [0, 5, 10, 15, 20, 25, 30, 35, 40]),  # at most what training had
        (192, 1000, 32, list(range(0, 161, 8))),  # a sixth of the song
        (20, 1000, 20, [0]),
        (4, 2, 2, [0, 1, 2]),
        (1, 1000, 1, [0]),
    ],
)
def test_a_curves_windows_overlap_by_three_quarters(length, window, n_frames, starts):
    network = TrainedResNet([], window, FrontEnd(), CPU, ends, None)
    seconds, probabilities, window_seconds = network.curve(np.arange(length)[:, None])
    assert probabilities[:, 0].tolist() == starts
    assert probabilities[:, 1].tolist() == [start + n_frames - 1 for start in starts]
    np.testing.assert_allclose(seconds, 0.032 * (np.array(starts) + n_frames / 2))
    assert window_seconds == pytest.approx(0.032 * n_frames)


@pytest.mark.parametrize("window, n_together", [(1_600, 3), (5_000, 1), (6_000, 1)])
def test_at_most_160_seconds_are_scored_at_a_time(window, n_together):
    sizes = []

    def predict(batch: Tensor) -> np.ndarray:
        sizes.append(len(batch))
        return ends(batch)

    def of_songs(songs: LogMels) -> Scores:
        return {"": spectrogram.per_song(predict, songs, window)}

    network = TrainedResNet([], window, FrontEnd(), CPU, predict, of_songs)
    network.score_song(np.zeros((4 * window, 1), np.float16))
    assert sizes == ([3, 1] if n_together == 3 else [1] * 4)


# --- a song and its parts, with frozen encoders ---------------------------------------------------


class Loudness(torch.nn.Module):
    """Embeds a window as the mean of its samples, and notes how long windows are."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.lengths = []

    def forward(self, waveforms):
        self.lengths += [waveforms.shape[1]] * len(waveforms)
        return waveforms.abs().mean(dim=1, keepdim=True)


def transfer(recipe, rate=16_000, window_seconds=3.0, min_seconds=0.5):
    """Hear the second artist in loud rows."""
    definition = Definition(rate, 1, window_seconds, min_seconds, Loudness, lambda _: {})
    settings = EncoderSettings(name="panns", weights="untrained, seed 0", sample_rate=rate)
    encoder = Encoder(settings, definition, Loudness(), torch.float32)
    classifier = TrainedClassifier(recipe, lambda x: np.column_stack([1 - x[:, 0], x[:, 0]]))
    return TrainedTransfer(["a", "b"], [encoder], classifier), encoder.network.lengths


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(
    ("seconds", "crop_seconds", "window", "stretch", "n_points"),
    [
        (48, 150.0, 8, 8, 21),  # a sixth of the song, a quarter of it after the one before
        (24, None, 3, 4, 21),  # no longer windows than in training: overlapping ones
        (480, None, 3, 81, 134),  # or one after the other
        (2, None, 1, 1, 5),
        (0.8, None, 1, 0.8, 1),
    ],
)
def test_stretches_of_a_song_are_scored_as_songs(
    pooled, seconds, crop_seconds, window, stretch, n_points
):
    recipe = toy_settings("panns", pooled=pooled, crop_seconds=crop_seconds).recipe
    network, lengths = transfer(recipe)
    waveform = np.zeros(int(seconds * 16_000), np.float32)
    waveform[len(waveform) // 2 :] = 1
    middles, curve, window_seconds = network.curve(waveform)
    assert set(lengths) == {min(len(waveform), window * 16_000)}
    assert len(lengths) <= 1 + 4 * seconds / window
    assert (len(middles), curve.shape) == (n_points, (n_points, 2))
    assert window_seconds == pytest.approx(stretch, abs=0.01)
    within = np.clip((middles - (seconds - stretch) / 2) / stretch, 0, 1)  # its loud share
    if n_points > 1:
        np.testing.assert_allclose(curve[:, 1], within, atol=0.1)
    assert 0 < middles[0] <= middles[-1] < seconds


def test_an_encoder_hears_its_own_rate_and_the_page_plays_16_khz(tmp_path):
    recipe = toy_settings("panns", crop_seconds=None).recipe
    network, lengths = transfer(recipe, rate=32_000)
    soundfile.write(tmp_path / "song.wav", np.full(32_000 * 6, 0.25), 32_000)
    song = network.hear(tmp_path / "song.wav")
    assert set(lengths) == {3 * 32_000, 32_000}  # windows of the whole, and of the curve
    assert len(song.waveform) == 6 * 16_000
    assert song.duration == 6
    assert song.log_mel.shape == (1 + 6 * 16_000 // 512, 64)
    np.testing.assert_allclose(song.whole, [0.75, 0.25], atol=0.01)
