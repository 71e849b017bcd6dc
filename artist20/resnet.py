"""Task 2, model 2: a trained residual CNN as its checkpoint has it, and what it says of a song."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artist20 import UserError, results, runtime, spectrogram, training
from artist20.models import ArtistResNet
from artist20.spectrogram import FrontEnd, LogMels

BATCH_SECONDS = 2400.0  # audio scored at a time
# Windows of a curve over a song, which long ones would flatten.
CURVE_PARTS = 6  # a window is at most this part of the song
CURVE_HOP_PARTS = 4  # a window begins a quarter of its length after the one before
CURVE_MIN_SECONDS = 1.0

NETWORK_FORM = {
    "n_mels": int,
    "dropout": float,
    "width": int,
    "keep_frequency": bool,
    "bins_per_band": int,
    "statistics": bool,
}  # what a checkpoint says of the network itself
CHECKPOINT_FORM = {
    "kind": "resnet",
    "window_frames": int,
    "trained_on": str,
    "config": {**NETWORK_FORM, "n_fft": int, "precision": str, "front_end": dict},
}
# Far beyond any sense: a file that says more would ask for all memory.
MAX_N_FFT = 2**16
MAX_N_MELS = 1024
MAX_WIDTH = 1024
MAX_WINDOW_SECONDS = 3600.0


@dataclass(frozen=True)
class TrainedResNet:
    """A network that scores songs.

    Attributes
    ----------
    classes : list of str
        The artists, in the order of the scores.
    window_frames : int
        Length of the windows that it was trained on.
    trained_on : str
        Which songs, for people.
    front_end : FrontEnd
        What its log-mels are made with.
    predict : callable
        (batch, n_frames, n_mels) log-mels -> (batch, n_classes) probabilities.
    """

    classes: list[str]
    window_frames: int
    trained_on: str
    front_end: FrontEnd
    predict: Callable[[Tensor], np.ndarray]

    def score(self, log_mel: np.ndarray) -> np.ndarray:
        """Score windows over the whole of a song, (n_frames, n_mels): (n_windows, n_classes)."""
        song = LogMels(log_mel, [(0, len(log_mel))])
        n_frames = self.window_frames
        return spectrogram.score_windows(self.predict, song, n_frames, _batch_size(n_frames))[0]

    def curve(self, log_mel: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Score many overlapping windows of a song, to see where in it an artist is heard.

        Windows are as long as the network was trained on, but no longer than a sixth of the
        song, nor shorter than a second; each begins a quarter of a window after the one before.
        So a song of 30 s has 21 windows also where training was on 150 s, whose network then hears
        less at a time than it has learnt from.

        Parameters
        ----------
        log_mel : np.ndarray
            (n_frames, n_mels).

        Returns
        -------
        seconds : np.ndarray
            (n_windows,) the middle of each.
        probabilities : np.ndarray
            (n_windows, n_classes).
        window_seconds : float
            Length of a window.
        """
        shortest = spectrogram.to_frames(CURVE_MIN_SECONDS)
        longest = max(shortest, len(log_mel) // CURVE_PARTS)
        n_frames = min(self.window_frames, longest, len(log_mel))
        last = len(log_mel) - n_frames
        n_windows = 1 + -(-last // max(1, n_frames // CURVE_HOP_PARTS))
        starts = np.linspace(0, last, n_windows).round().astype(int)
        probabilities = spectrogram.score_crops(
            self.predict,
            LogMels(log_mel, [(0, len(log_mel))]),
            [(0, start) for start in starts],
            n_frames,
            _batch_size(n_frames),
            "windows",
        )
        seconds = spectrogram.to_seconds(1) * (starts + n_frames / 2)
        return seconds, probabilities, spectrogram.to_seconds(n_frames)


def load(path: Path, device: torch.device, precision_option: str) -> TrainedResNet:
    """Load a checkpoint of task2_train_wo_pretrain.py, of any recipe; see :func:`build`.

    Raises
    ------
    UserError
        If it is none, or of another version.
    """
    checkpoint = results.read_checkpoint(path, "task2_train_wo_pretrain.py")
    if not is_possible(checkpoint):
        raise UserError(
            f"{path} is not of this version of task2_train_wo_pretrain.py: run that again"
        )
    return build(path, checkpoint, device, precision_option)


def build(
    path: Path, checkpoint: dict[str, Any], device: torch.device, precision_option: str
) -> TrainedResNet:
    """Rebuild the network of a checkpoint that :func:`is_possible`.

    Parameters
    ----------
    path : Path
        Where it lies, for messages.
    checkpoint : dict
        What it holds.
    device : torch.device
        Where to compute.
    precision_option : str
        See :func:`artist20.runtime.choose_precision`.

    Raises
    ------
    UserError
        If its weights do not fit it.
    """
    config = checkpoint["config"]
    precision = runtime.choose_precision(precision_option, device, config["precision"])
    model = make_network(checkpoint)
    training.load_weights(model, checkpoint, path, "task2_train_wo_pretrain.py --overwrite")
    model.to(device)
    predict = partial(training.predict, model, precision=precision)
    return TrainedResNet(
        checkpoint["classes"],
        checkpoint["window_frames"],
        checkpoint["trained_on"],
        front_end_of(config),
        predict,
    )


def front_end_of(config: dict[str, Any]) -> FrontEnd:
    """Return what a network of these settings has its log-mels made with."""
    return FrontEnd(config["n_fft"], config["n_mels"])


def is_possible(checkpoint: dict[str, Any]) -> bool:
    """Say whether a checkpoint is a ResNet's of this version, of which a network can be made."""
    if not results.has_form(checkpoint, CHECKPOINT_FORM):
        return False
    config = checkpoint["config"]
    return (
        config["n_fft"] in range(2, MAX_N_FFT + 1, 2)
        and 1 <= config["n_mels"] <= MAX_N_MELS
        and config["bins_per_band"] >= 1
        and config["n_mels"] % config["bins_per_band"] == 0
        and 1 <= config["width"] <= MAX_WIDTH
        and 0 <= config["dropout"] < 1
        and 1 <= checkpoint["window_frames"] <= spectrogram.to_frames(MAX_WINDOW_SECONDS)
        and config["front_end"] == front_end_of(config).settings()
    )


def make_network(checkpoint: dict[str, Any]) -> ArtistResNet:
    """Make the network of a checkpoint that :func:`is_possible`, without its weights."""
    config = checkpoint["config"]
    return ArtistResNet(len(checkpoint["classes"]), **{name: config[name] for name in NETWORK_FORM})


def _batch_size(n_frames: int) -> int:
    return max(1, int(BATCH_SECONDS / spectrogram.to_seconds(n_frames)))
