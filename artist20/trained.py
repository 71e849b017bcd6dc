"""Checkpoints of both kinds -> networks that score songs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from artist20 import UserError, audio, distributed, encoders, models, runtime, spectrogram, training
from artist20.audio import Waveform
from artist20.checkpoints import TrainedModel
from artist20.encoders.base import UNTRAINED, Encoder
from artist20.encoders.embeddings import Embeddings, side_by_side
from artist20.evaluation import Scores, window_starts
from artist20.results import ResNetRecipe, Settings, TransferRecipe
from artist20.spectrogram import FrontEnd, LogMels

# Windows of the curve that shows who is heard where in a song: long ones would flatten it.
CURVE_PARTS = 6  # a window is at most this part of the song
CURVE_HOP_PARTS = 4  # a window begins a quarter of its length after the one before
CURVE_MIN_SECONDS = 1.0


@dataclass(frozen=True)
class Heard:
    """A song, and whom a network hears in it."""

    waveform: Waveform  # (n_samples,) at 16 kHz
    log_mel: np.ndarray  # (n_frames, n_mels) in dB
    whole: np.ndarray  # (n_classes,) probabilities in the song as a whole
    seconds: np.ndarray  # (n_windows,) the middle of each window of the curve
    curve: np.ndarray  # (n_windows, n_classes) probabilities
    window_seconds: float

    @property
    def duration(self) -> float:
        """Length in seconds, at least a frame of the spectrogram."""
        return max(len(self.waveform) / audio.SAMPLE_RATE, spectrogram.to_seconds(1))


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier that scores a song's embeddings."""

    recipe: TransferRecipe  # how windows are cut and pooled
    # (n_rows, n_inputs) -> (n_rows, n_classes) probabilities
    predict: Callable[[Tensor], np.ndarray]

    def score_song(self, windows: Sequence[np.ndarray]) -> np.ndarray:
        """Score a song by its windows, (n_windows, size) of each encoder: (n_classes,)."""
        of_song = [Embeddings(rows, np.zeros(len(rows), dtype=int)) for rows in windows]
        if self.recipe.pooled:
            of_song = [each.pooled() for each in of_song]
        return side_by_side(of_song).per_song(self.predict, 1)[0]


def load_classifier(
    path: Path, trained: TrainedModel, size: int, device: torch.device
) -> TrainedClassifier:
    """Rebuild the classifier of a checkpoint of task2_train.py; UserError if it is none, or broken.

    ``size`` is of an embedding, of all encoders together; the path is for messages.
    """
    recipe = trained.settings.recipe
    if not isinstance(recipe, TransferRecipe):
        raise UserError(f"{path} is no checkpoint of task2_train.py")
    n_inputs = size * (2 if recipe.pooled else 1)
    model = models.EmbeddingMLP(len(trained.classes), recipe, n_inputs)
    _fill(model, path, trained, "task2_train.py", device)
    return TrainedClassifier(recipe, partial(training.predict, model, precision=torch.float32))


def _fill(
    model: nn.Module, path: Path, trained: TrainedModel, script: str, device: torch.device
) -> None:
    """Give a network its weights; print a warning where its answers mean nothing."""
    training.load_weights(model, trained, path, f"{script} --overwrite")
    # As in training: convolutions are quicker so.
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if trained.learning and trained.learning.failure:
        print(f"warning: {path} has learnt nothing: {trained.learning.failure}")


def load_encoders(
    settings: Settings, weights: str | None, device: torch.device, precision_option: str
) -> list[Encoder]:
    """Load the encoders of a checkpoint's classifier; UserError if their weights are others."""
    wanted = settings.encoders
    if not wanted[0].pretrained and weights is not None:
        raise UserError("the checkpoint is of an untrained encoder: leave --encoder-weights out")
    weights = weights if wanted[0].pretrained else UNTRAINED
    precision = runtime.choose_precision(precision_option, device, settings.precision)
    names = [of.name for of in wanted]
    loaded = encoders.load(names, weights, settings.seed, device, precision)
    for encoder, of in zip(loaded, wanted, strict=True):
        if encoder.settings != of:
            raise UserError(
                f"the checkpoint was trained on other weights of {of.name} ({of.weights}): train "
                "it again, or name those with --encoder-weights"
            )
    return loaded


def embed_windows(
    loaded: Sequence[Encoder],
    waveform: Waveform,
    seconds: float | None,
    most: int | None,
    label: str | None = None,
) -> list[np.ndarray]:
    """Embed windows over the whole of a song: (n_windows, size) by each encoder.

    The waveform is (n_samples,), at the encoders' one rate. Windows last ``seconds``, or as long as
    in each encoder's own training; without ``most`` they cover the song. A ``label`` is the name of
    a progress bar.
    """
    rows = []
    for encoder in loaded:
        definition = encoder.definition
        n_samples = round((seconds or definition.window_seconds) * definition.sample_rate)
        starts = window_starts(len(waveform), n_samples, most)
        rows.append(_embed(encoder, waveform, starts, n_samples, label))
    return rows


def _embed(
    encoder: Encoder, waveform: Waveform, starts: np.ndarray, n_samples: int, label: str | None
) -> np.ndarray:
    bar = tqdm(starts, label, disable=distributed.quiet() if label else True, leave=False)
    windows = (torch.from_numpy(waveform[start : start + n_samples]) for start in bar)
    return encoder.embed(window.to(encoder.device) for window in windows)


@dataclass(frozen=True)
class TrainedTransfer:
    """Frozen encoders and a classifier on their embeddings, which score songs."""

    classes: list[str]  # the artists, in the order of the scores
    encoders: list[Encoder]  # all of one sample rate
    classifier: TrainedClassifier

    def hear(self, file: Path) -> Heard:
        """Score a song as a whole, and its parts; raises as :func:`artist20.audio.open_song`."""
        recipe, rate = self.classifier.recipe, self.encoders[0].definition.sample_rate
        waveform = heard = audio.open_song(file)
        if rate != audio.SAMPLE_RATE:
            heard = audio.open_song(file, rate)
        rows = embed_windows(self.encoders, heard, recipe.crop_seconds, recipe.windows, "song")
        whole = self.classifier.score_song(rows)
        return Heard(waveform, spectrogram.log_mel(waveform, FrontEnd()), whole, *self.curve(heard))

    def curve(self, waveform: Waveform) -> tuple[np.ndarray, np.ndarray, float]:
        """Score overlapping stretches of a song, each as if it were a song of its own.

        A stretch is a sixth of the song, or one window if that is longer; each begins a quarter of
        its length after the one before. Windows are as long as in the training, but no longer than
        a sixth of the song, unless an encoder needs more.

        The waveform is (n_samples,), results are those of :meth:`TrainedResNet.curve`, the last one
        is the length of a stretch.
        """
        definitions = [encoder.definition for encoder in self.encoders]
        rate, crop_seconds = definitions[0].sample_rate, self.classifier.recipe.crop_seconds
        part = len(waveform) / rate / CURVE_PARTS
        longest = min(crop_seconds or definition.window_seconds for definition in definitions)
        shortest = max(CURVE_MIN_SECONDS, *(definition.min_seconds for definition in definitions))
        window = max(shortest, min(longest, part))
        stretch = max(part, window)
        hop = min(window, stretch / CURVE_HOP_PARTS)  # of windows: each is embedded once
        n_samples = round(window * rate)
        last = max(0, len(waveform) - n_samples)
        starts = np.linspace(0, last, 1 + -(-last // round(hop * rate))).round().astype(int)
        rows = [_embed(each, waveform, starts, n_samples, "windows") for each in self.encoders]
        n_together = min(len(starts), 1 + round((stretch - window) / hop))
        firsts = starts[: len(starts) - n_together + 1]
        ends = np.minimum(starts[n_together - 1 :] + n_samples, len(waveform))
        curve = [
            self.classifier.score_song([of[i : i + n_together] for of in rows])
            for i in range(len(firsts))
        ]
        return (firsts + ends) / 2 / rate, np.array(curve), float(ends[0] - firsts[0]) / rate


@dataclass(frozen=True)
class TrainedResNet:
    """A residual CNN that scores songs."""

    classes: list[str]  # the artists, in the order of the scores
    window_frames: int  # length of the windows that it was trained on
    front_end: FrontEnd  # what its log-mels are made with
    device: torch.device
    # (batch, n_frames, n_columns) log-mels of windows -> (batch, n_classes) probabilities
    predict: Callable[[Tensor], np.ndarray]
    # the same of whole songs, and of parts of the network: :func:`artist20.training.predict_songs`
    predict_songs: Callable[[LogMels], Scores]

    def hear(self, file: Path) -> Heard:
        """Score a song as a whole, and its parts; raises as :func:`artist20.audio.open_song`."""
        waveform = audio.open_song(file)
        log_mel = spectrogram.log_mel(waveform, self.front_end)
        bins = log_mel[:, : self.front_end.n_mels].copy()
        return Heard(waveform, bins, self.score_song(log_mel)[""], *self.curve(log_mel))

    def score_song(self, log_mel: np.ndarray) -> Scores:
        """Score a song, (n_frames, n_columns), by windows over all of it: each (n_classes,)."""
        of_songs = self.predict_songs(LogMels([log_mel]).to_device(self.device))
        return {part: scores[0] for part, scores in of_songs.items()}

    def curve(self, log_mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Score many overlapping windows of a song, to see where in it an artist is heard.

        Windows are as long as the network was trained on, but no longer than a sixth of the
        song, nor shorter than a second; each begins a quarter of a window after the one before.
        So a song of 30 s has 22 windows also where training was on 150 s, whose network then hears
        less at a time than it has learnt from.

        The log-mel is (n_frames, n_columns). Returns the middle of each window in seconds,
        (n_windows,), its probabilities, (n_windows, n_classes), and how long a window is.
        """
        shortest = spectrogram.to_frames(CURVE_MIN_SECONDS)
        longest = max(shortest, len(log_mel) // CURVE_PARTS)
        n_frames = min(self.window_frames, longest, len(log_mel))
        last = len(log_mel) - n_frames
        n_windows = 1 + -(-last // max(1, n_frames // CURVE_HOP_PARTS))
        starts = np.linspace(0, last, n_windows).round().astype(int)
        song, windows = LogMels([log_mel]).to_device(self.device), [(0, start) for start in starts]
        curve = spectrogram.score_crops(self.predict, song, windows, n_frames, "windows")
        seconds = spectrogram.to_seconds(1) * (starts + n_frames / 2)
        return seconds, curve, spectrogram.to_seconds(n_frames)


def load_resnet(
    path: Path, trained: TrainedModel, device: torch.device, precision_option: str
) -> TrainedResNet:
    """Rebuild the network of a checkpoint of task2_train_wo_pretrain.py; UserError if it is none.

    The path is for messages; for the option, see :func:`artist20.runtime.choose_precision`.
    """
    recipe = trained.settings.recipe
    if not isinstance(recipe, ResNetRecipe) or trained.window_frames is None:
        raise UserError(f"{path} is no checkpoint of task2_train_wo_pretrain.py")
    precision = runtime.choose_precision(precision_option, device, trained.settings.precision)
    model = models.ArtistResNet(len(trained.classes), recipe)
    _fill(model, path, trained, "task2_train_wo_pretrain.py", device)
    return TrainedResNet(
        trained.classes,
        trained.window_frames,
        FrontEnd.of(recipe),
        device,
        partial(training.predict, model, precision=precision),
        partial(training.predict_songs, model, n_frames=trained.window_frames, precision=precision),
    )


TrainedNetwork = TrainedTransfer | TrainedResNet


def load_network(
    path: Path, trained: TrainedModel, device: torch.device, encoder_weights: str | None = None
) -> TrainedNetwork:
    """Rebuild what names songs by themselves from a checkpoint of either kind.

    Parameters and errors are those of :func:`load_resnet` and :func:`artist20.encoders.load`.
    """
    if isinstance(trained.settings.recipe, ResNetRecipe):
        return load_resnet(path, trained, device, "auto")
    loaded = load_encoders(trained.settings, encoder_weights, device, "auto")
    size = sum(encoder.definition.size for encoder in loaded)
    classifier = load_classifier(path, trained, size, device)
    return TrainedTransfer(trained.classes, loaded, classifier)
