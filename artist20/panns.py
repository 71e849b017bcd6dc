"""Task 2, model 1: verified Cnn14 weights, embeddings of windows, and the embedding cache.

Cnn14 and its weights are those of Kong et al. 2020, "PANNs: Large-Scale Pretrained Audio Neural
Networks for Audio Pattern Recognition".
"""

import sys
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artist20 import UserError, audio, augment, fetch
from artist20.audio import Waveform
from artist20.evaluation import mean_per_song, window_starts
from artist20.files import sha256_file
from artist20.store import check_finite, stored_rows

UNTRAINED = "untrained"
EMBEDDING_SIZE = 2048

MIN_SECONDS = 1.0  # Cnn14 halves its input five times and fails on clips under half a second
MAX_BATCH_SECONDS = {"cpu": 160.0, "cuda": 2400.0}  # audio embedded at a time bounds memory
SONGS_AT_A_TIME = {"cpu": 4, "cuda": 16}  # whose clips are embedded together

STRETCH_RATES = (0.9, 1.1)
NOISE_SNR_DB = (15.0, 40.0)
AUGMENT_PROBABILITY = 0.5  # of each: songs are scored as they are, and must be met like that too


@dataclass(frozen=True)
class FrontEnd:
    """What a Cnn14 hears: its rate in Hz, window and hop in samples, mel bins and their range."""

    sample_rate: int
    window_size: int
    hop_size: int
    mel_bins: int
    fmin: int
    fmax: int


FRONT_ENDS = {
    fetch.CNN14_16K.sha256: FrontEnd(16_000, 512, 160, 64, 50, 8_000),
    fetch.CNN14_32K.sha256: FrontEnd(32_000, 1024, 320, 64, 50, 14_000),
}


@dataclass(frozen=True)
class Backbone:
    """A frozen Cnn14.

    Attributes
    ----------
    network : nn.Module
        In eval mode, no parameter requires a gradient.
    sample_rate : int
        Rate of the waveforms that it takes, in Hz.
    weights : str
        SHA-256 of its weights file, or ``"untrained, seed N"``.
    precision : torch.dtype
        What its convolutions are computed in; its front end is always computed in float32.
    """

    network: nn.Module
    sample_rate: int
    weights: str
    precision: torch.dtype

    @property
    def pretrained(self) -> bool:
        """Whether the weights are the published ones."""
        return not self.weights.startswith(UNTRAINED)

    @property
    def device(self) -> torch.device:
        """Where it computes, and takes waveforms."""
        return next(self.network.parameters()).device


def import_cnn14() -> type[nn.Module]:
    """Import the architecture from panns_inference.

    Importing that package runs ``wget`` for a table of AudioSet's labels into the home folder.
    The labels are not needed here: a stand-in for the module that fetches them prevents it.
    """
    stand_in = types.ModuleType("panns_inference.config")
    stand_in.labels = []  # type: ignore[attr-defined]
    stand_in.classes_num = 527  # type: ignore[attr-defined]
    sys.modules.setdefault("panns_inference.config", stand_in)
    from panns_inference.models import Cnn14

    return Cnn14


def load_backbone(
    weights: str, seed: int, device: torch.device, precision: torch.dtype
) -> Backbone:
    """Load a Cnn14 with published weights, or make an untrained one.

    Parameters
    ----------
    weights : str
        Path of one of the two published files, told apart by their SHA-256, or ``"untrained"``.
    seed : int
        Seed of an untrained network's weights.
    device : torch.device
        Where to put it.
    precision : torch.dtype
        See :class:`Backbone`.

    Raises
    ------
    UserError
        If the file is missing, or is none of the published ones.
    """
    if weights == UNTRAINED:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = _make_cnn14(FRONT_ENDS[fetch.CNN14_16K.sha256])
        print("backbone: UNTRAINED Cnn14: its figures say nothing about PANNs")
        front_end, name = FRONT_ENDS[fetch.CNN14_16K.sha256], f"{UNTRAINED}, seed {seed}"
    else:
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"{path} is missing: 'bash get_dataset.sh --weights' fetches it, or "
                f"'--backbone-weights {UNTRAINED}' runs without (its figures mean nothing)"
            )
        name = sha256_file(path)
        if name not in FRONT_ENDS:
            raise UserError(
                f"{path} is neither of the published Cnn14 weights (its SHA-256 is {name}): "
                "move it away and run 'bash get_dataset.sh --weights'"
            )
        front_end = FRONT_ENDS[name]
        network = _make_cnn14(front_end)
        network.load_state_dict(_read_state_dict(path))
        print(f"backbone: Cnn14 for {front_end.sample_rate} Hz, {path}")
    for front in (network.spectrogram_extractor, network.logmel_extractor):
        # Levels in dB need more digits than bfloat16 has.
        front.forward = torch.autocast(device.type, enabled=False)(front.forward)
    network.eval().requires_grad_(False).to(device)
    return Backbone(network, front_end.sample_rate, name, precision)


def empty_cnn14(sample_rate: int) -> nn.Module:
    """Make a frozen Cnn14 for a rate in Hz with whatever weights: for its architecture alone."""
    front_end = next(each for each in FRONT_ENDS.values() if each.sample_rate == sample_rate)
    return _make_cnn14(front_end).eval().requires_grad_(False)


def _make_cnn14(front_end: FrontEnd) -> nn.Module:
    return import_cnn14()(**vars(front_end), classes_num=527)


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read ``{"model": state_dict, ...}``; beside it the 16 kHz file holds NumPy numbers."""
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    allowed = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Int64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)["model"]


@torch.inference_mode()
def embed(backbone: Backbone, waveforms: Iterable[Tensor]) -> np.ndarray:
    """Embed waveforms.

    Parameters
    ----------
    backbone : Backbone
        The frozen network.
    waveforms : iterable of Tensor
        (n_samples,) float32 each, at the backbone's rate, on its device. Neighbours of equal
        length are embedded together, and no more are taken at a time; those under a second are
        padded with silence.

    Returns
    -------
    np.ndarray
        (number of waveforms, EMBEDDING_SIZE) float32.
    """
    shortest = int(MIN_SECONDS * backbone.sample_rate)
    device_type = backbone.device.type
    batch_seconds = MAX_BATCH_SECONDS[device_type]
    padded = (F.pad(waveform, (0, max(0, shortest - len(waveform)))) for waveform in waveforms)
    embeddings = []
    for length, equally_long in groupby(padded, len):
        most = max(1, int(batch_seconds * backbone.sample_rate / length))
        while batch := list(islice(equally_long, most)):
            with torch.autocast(
                device_type, torch.bfloat16, enabled=backbone.precision == torch.bfloat16
            ):
                embedding = backbone.network(torch.stack(batch))["embedding"]
            embeddings.append(embedding.float().cpu())
    return torch.cat(embeddings).numpy()


def cut_windows(
    waveform: Waveform, n_samples: int, most: int | None, device: torch.device
) -> Iterator[Tensor]:
    """Cut windows over the whole song, see :func:`artist20.evaluation.window_starts`."""
    for start in window_starts(len(waveform), n_samples, most):
        yield torch.from_numpy(waveform[start : start + n_samples]).to(device)


def cut_views(
    waveform: Waveform,
    n_samples: int,
    n_views: int,
    sample_rate: int,
    seed: Sequence[int],
    device: torch.device,
) -> Iterator[Tensor]:
    """Cut random crops, half of them stretched in time and half of them with noise added.

    Parameters
    ----------
    waveform : np.ndarray or LongSong
        (length,) float32.
    n_samples : int
        Length of a view; those of a shorter song are as long as it is, stretched.
    n_views : int
        How many.
    sample_rate : int
        In Hz.
    seed : sequence of int
        Decides everything random.
    device : torch.device
        Where to stretch and to add noise.
    """
    rng = np.random.default_rng(list(seed))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    if len(waveform) < sample_rate:  # less than a frame could not be stretched
        waveform = np.pad(waveform, (0, sample_rate - len(waveform)))
    for _ in range(n_views):
        rate = rng.uniform(*STRETCH_RATES) if rng.random() < AUGMENT_PROBABILITY else 1.0
        n_source = int(n_samples * rate) + 1
        start = augment.random_start(len(waveform), n_source, rng)
        view = torch.from_numpy(waveform[start : start + n_source]).to(device)
        if rate != 1.0:
            view = augment.time_stretch(view, rate)
        if rng.random() < AUGMENT_PROBABILITY:
            view = augment.add_noise(view, rng.uniform(*NOISE_SNR_DB), generator)
        yield view[:n_samples]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of songs: several rows for each.

    Attributes
    ----------
    rows : np.ndarray
        (n_rows, EMBEDDING_SIZE) float32, or twice as wide where pooled.
    song_index : np.ndarray
        (n_rows,) which song a row is of, ascending.
    """

    rows: np.ndarray
    song_index: np.ndarray

    def of_songs(self, songs: np.ndarray) -> "Embeddings":
        """Keep the rows of some songs, given by their numbers, ascending."""
        kept = np.isin(self.song_index, songs)
        return Embeddings(self.rows[kept], np.searchsorted(songs, self.song_index[kept]))

    def joined(self, other: "Embeddings") -> "Embeddings":
        """Add another version's rows of the same songs to theirs."""
        song_index = np.concatenate([self.song_index, other.song_index])
        order = np.argsort(song_index, kind="stable")
        return Embeddings(np.concatenate([self.rows, other.rows])[order], song_index[order])

    def pooled(self) -> "Embeddings":
        """Turn every song's rows into one: their mean, and beside it their deviation."""
        n_songs = self.song_index[-1] + 1
        mean = mean_per_song(self.rows, self.song_index, n_songs)
        squares = np.square(self.rows - mean[self.song_index])
        std = np.sqrt(mean_per_song(squares, self.song_index, n_songs))
        return Embeddings(np.hstack([mean, std]).astype(np.float32), np.arange(n_songs))


def cached_windows(
    parent: Path,
    files: Sequence[Path],
    keys: Sequence[str],
    backbone: Backbone,
    crop_seconds: float,
    most: int | None,
    workers: int,
) -> Embeddings:
    """Embed, or find in the store under ``parent``, windows over the whole of every song.

    Parameters
    ----------
    parent : Path
        Folder of the store's folder.
    files : sequence of Path
        The songs.
    keys : sequence of str
        Their :func:`artist20.dataset.content_keys`.
    backbone : Backbone
        The frozen network.
    crop_seconds : float
        Length of a window.
    most : int or None
        At most this many windows per song, evenly spaced; None covers the song.
    workers : int
        Number of processes that decode.
    """
    n_samples = round(crop_seconds * backbone.sample_rate)
    settings = {
        "weights": backbone.weights,
        "precision": str(backbone.precision),
        "crop_seconds": crop_seconds,
        "most": most,
    }
    return _cached(
        parent,
        "windows",
        files,
        keys,
        backbone,
        settings,
        lambda _key, waveform: cut_windows(waveform, n_samples, most, backbone.device),
        workers,
    )


def cached_views(
    parent: Path,
    files: Sequence[Path],
    keys: Sequence[str],
    backbone: Backbone,
    crop_seconds: float,
    n_views: int,
    seed: int,
    workers: int,
) -> Embeddings:
    """Embed, or find in the store under ``parent``, augmented views of every song.

    Parameters are those of :func:`cached_windows`, but for ``n_views``, the number of views per
    song, and ``seed``.
    """
    n_samples = round(crop_seconds * backbone.sample_rate)
    settings = {
        "weights": backbone.weights,
        "precision": str(backbone.precision),
        "crop_seconds": crop_seconds,
        "views": n_views,
        "stretch": STRETCH_RATES,
        "snr_db": NOISE_SNR_DB,
        "augment_probability": AUGMENT_PROBABILITY,
        "seed": seed,
    }

    def cut(key: str, waveform: Waveform) -> Iterator[Tensor]:
        # Seeded by the song's content: independent of the order in which songs are embedded.
        song_seed = (seed, int(key[:16], 16))
        rate, device = backbone.sample_rate, backbone.device
        return cut_views(waveform, n_samples, n_views, rate, song_seed, device)

    return _cached(parent, "views", files, keys, backbone, settings, cut, workers)


def find_undecodable(
    parent: Path, files: Sequence[Path], keys: Sequence[str], workers: int
) -> dict[str, str]:
    """Decode songs, those of earlier runs excepted; return by key what is wrong with bad ones.

    Parameters are those of :func:`cached_windows`.
    """
    unreadable: dict[str, str] = {}
    stored_rows(
        parent,
        "decoded",
        {},
        "int64",
        1,
        dict(zip(keys, files, strict=True)),
        _count_samples,
        workers=workers,
        label="decoding",
        unreadable=unreadable,
    )
    return unreadable


def _count_samples(file: Path) -> np.ndarray:
    return np.array([[sum(len(block) for block in audio.read_blocks(file))]])


def _cached(
    parent: Path,
    name: str,
    files: Sequence[Path],
    keys: Sequence[str],
    backbone: Backbone,
    settings: dict[str, Any],
    cut: Callable[[str, Waveform], Iterator[Tensor]],
    workers: int,
) -> Embeddings:
    def embed_songs(song_keys: list[str], waveforms: list[Waveform]) -> list[np.ndarray]:
        n_clips = [0] * len(song_keys)

        def clips() -> Iterator[Tensor]:
            for i, (key, waveform) in enumerate(zip(song_keys, waveforms, strict=True)):
                for clip in cut(key, waveform):
                    n_clips[i] += 1
                    yield clip

        rows = embed(backbone, clips())
        return np.split(rows, np.cumsum(n_clips)[:-1])

    rows, index = stored_rows(
        parent,
        name,
        settings,
        "float32",
        EMBEDDING_SIZE,
        dict(zip(keys, files, strict=True)),
        partial(audio.open_song, sample_rate=backbone.sample_rate),
        embed_songs,
        workers=workers,
        label=f"embeddings of {name}",
        songs_at_a_time=SONGS_AT_A_TIME[backbone.device.type],
    )
    spans = [index[key] for key in keys]
    of_songs = np.concatenate([rows[first : first + n_rows] for first, n_rows in spans])
    check_finite(of_songs, parent)
    return Embeddings(
        of_songs,
        np.repeat(np.arange(len(spans)), [n_rows for _, n_rows in spans]),
    )


def random_views(
    embeddings: Embeddings, labels: np.ndarray, batch_size: int, rng: np.random.Generator
) -> list[tuple[Tensor, Tensor]]:
    """Go through all songs once in random order, one view of each drawn at random.

    Returns
    -------
    list of (Tensor, Tensor)
        Batches of embeddings (batch, row size) and labels (batch,).
    """
    n_rows = np.bincount(embeddings.song_index)
    first_row = np.cumsum(n_rows) - n_rows
    order = rng.permutation(len(n_rows))
    drawn = first_row[order] + rng.integers(n_rows[order])
    return [
        (
            torch.from_numpy(embeddings.rows[drawn[first : first + batch_size]]),
            torch.from_numpy(labels[order[first : first + batch_size]]),
        )
        for first in range(0, len(order), batch_size)
    ]
