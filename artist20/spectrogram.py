"""Task 2, model 2: waveform -> log-mel, kept decoded; crops for training, windows for scoring."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks
from tqdm import tqdm

from artist20 import audio, distributed, modulation
from artist20.audio import SAMPLE_RATE
from artist20.augment import random_start
from artist20.cache import Cache
from artist20.evaluation import mean_per_song, window_starts
from artist20.results import ResNetRecipe, cache_dir

HOP_LENGTH = 512  # samples, 32 ms
F_MAX = 8000.0  # Hz
AMIN = 1e-10  # power below which levels in dB are not followed
# Short windows: their length and hop in samples, and the bands of their levels.
SHORT = (modulation.N_FFT, modulation.HOP_LENGTH, modulation.N_BANDS)
SHORT_WINDOWS = HOP_LENGTH // modulation.HOP_LENGTH  # of a frame, about its middle
BLOCK_SAMPLES = 2**22  # in the frames computed at a time, which bounds memory
# Audio scored at a time, by where the songs lie: 2,400 s are more than a core's cache holds, and
# with 160 s a GPU takes four times as long (benchmarks/README.md).
BATCH_SECONDS = {"cpu": 160.0, "cuda": 2400.0}


@dataclass(frozen=True)
class FrontEnd:
    """What log-mels are made with, beside what is the same for all."""

    n_fft: int = 1024  # samples of a frame, 64 ms
    n_mels: int = 64  # from 0 Hz to F_MAX
    # Whether each frame also has the levels of the short windows about it, see
    # :mod:`artist20.modulation`: all bands of a window, then those of the next.
    levels: bool = False

    @classmethod
    def of(cls, recipe: ResNetRecipe) -> "FrontEnd":
        """Return what a recipe's log-mels are made with."""
        return cls(recipe.n_fft, recipe.n_mels, levels=recipe.lda_share + recipe.long_lda_share > 0)

    @property
    def n_columns(self) -> int:
        """Numbers of a frame: the mel bins' levels, and behind them those of short windows."""
        return self.n_mels + self.levels * SHORT_WINDOWS * modulation.N_BANDS

    def settings(self) -> dict[str, Any]:
        """Return all that log-mels depend on beside the audio."""
        settings = {
            "sample_rate": SAMPLE_RATE,
            "n_fft": self.n_fft,
            "hop_length": HOP_LENGTH,
            "n_mels": self.n_mels,
            "f_max": F_MAX,
            "amin": AMIN,
        }
        return settings | ({"levels": list(SHORT)} if self.levels else {})


def to_frames(seconds: float) -> int:
    """Convert a duration to a number of frames, at least one."""
    return max(1, round(seconds * SAMPLE_RATE / HOP_LENGTH))


def to_seconds(n_frames: int) -> float:
    """Convert a number of frames to a duration."""
    return n_frames * HOP_LENGTH / SAMPLE_RATE


@cache
def mel_hz(n_mels: int) -> np.ndarray:
    """Return the mel bins' centre frequencies in Hz: (n_mels,)."""
    import librosa  # takes a second, and a folder for its caches

    return librosa.mel_frequencies(n_mels + 2, fmin=0, fmax=F_MAX)[1:-1]


def log_mel(waveform: audio.Waveform, front_end: FrontEnd) -> np.ndarray:
    """Compute the log-mel spectrogram, as librosa's melspectrogram in dB re 1.

    (n_samples,) float32 at 16 kHz -> (n_frames, n_columns) float16, n_frames = 1 + n_samples //
    HOP_LENGTH. Half precision resolves 0.06 dB or better over the whole range of levels.
    """
    n_frames = 1 + len(waveform) // HOP_LENGTH
    n_mels, n_together = front_end.n_mels, max(1, BLOCK_SAMPLES // front_end.n_fft)
    # Samples before a frame's middle: its own, and those of the first short window.
    own, short = front_end.n_fft // 2, (HOP_LENGTH + modulation.N_FFT) // 2
    reach = max(own, short) if front_end.levels else own
    # One array from the start: pieces between blocks would split the heap.
    result = np.empty((n_frames, front_end.n_columns), np.float16)
    for start in range(0, n_frames, n_together):
        stop = min(start + n_together, n_frames)
        first = start * HOP_LENGTH - reach
        last = (stop - 1) * HOP_LENGTH + reach
        around = (max(0, -first), max(0, last - len(waveform)))
        block = torch.from_numpy(np.pad(waveform[max(0, first) : last], around))
        of_frames = block[reach - own : len(block) - reach + own]
        result[start:stop, :n_mels] = _levels(of_frames, front_end.n_fft, HOP_LENGTH, n_mels)
        if front_end.levels:
            windows = _levels(block[reach - short :], *SHORT)[: (stop - start) * SHORT_WINDOWS]
            result[start:stop, n_mels:] = windows.reshape(stop - start, -1)
    return result


def _levels(waveform: Tensor, n_fft: int, hop_length: int, n_mels: int) -> np.ndarray:
    """Compute the levels in mel bins: (n_frames, n_mels) float16 in dB."""
    window, filters = _window_and_filters(n_fft, n_mels)
    # 0.6 of the time of torchaudio's MelSpectrogram, which takes a root and squares it again.
    stft = torch.stft(waveform, n_fft, hop_length, window=window, center=False, return_complex=True)
    power = modulation.squared(stft).T @ filters
    return (10 * power.clamp_min(AMIN).log10()).half().numpy()


def load_log_mel(file: Path, front_end: FrontEnd) -> np.ndarray:
    """Decode a file and compute its :func:`log_mel`."""
    return log_mel(audio.open_song(file), front_end)


def load_log_mels(file: Path, front_ends: Collection[FrontEnd]) -> dict[FrontEnd, np.ndarray]:
    """Decode a file once and compute its :func:`log_mel` with each of the front ends."""
    waveform = audio.open_song(file)
    return {front_end: log_mel(waveform, front_end) for front_end in front_ends}


@cache
def _window_and_filters(n_fft: int, n_mels: int) -> tuple[Tensor, Tensor]:
    """(n_fft,), and (n_fft // 2 + 1, n_mels)."""
    bins = n_fft // 2 + 1
    filters = melscale_fbanks(
        bins, 0.0, F_MAX, n_mels, SAMPLE_RATE, norm="slaney", mel_scale="slaney"
    )
    return torch.hann_window(n_fft), filters


class LogMels:
    """Songs, (n_frames, n_columns) float16 each: arrays, tensors on a GPU, or :class:`Stored`."""

    def __init__(self, songs: Sequence["np.ndarray | Tensor | Stored"]) -> None:
        self.songs = list(songs)

    def __len__(self) -> int:
        """Return the number of songs."""
        return len(self.songs)

    def crop(self, song: int, start: int, n_frames: int) -> np.ndarray | Tensor:
        """Cut (n_frames, n_columns) out of a song; a shorter song is repeated."""
        log_mel = self.songs[song]
        if start + n_frames <= len(log_mel):
            return log_mel[start : start + n_frames]
        if isinstance(log_mel, Tensor):  # a GPU would be waited for to send it NumPy's numbers
            frames = torch.arange(start, start + n_frames, device=log_mel.device)
            return log_mel[frames % len(log_mel)]
        return log_mel[:][(start + np.arange(n_frames)) % len(log_mel)]

    def to_device(self, device: torch.device) -> "LogMels":
        """Hold the songs on a GPU if they take at most half of its free memory."""
        if device.type != "cuda":
            return self
        n_bytes = sum(len(song) * song.shape[1] * 2 for song in self.songs)
        if 2 * n_bytes > torch.cuda.mem_get_info(device)[0]:
            return self
        return LogMels([torch.from_numpy(np.asarray(song[:])).to(device) for song in self.songs])

    def spectra(self, n_mels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Compute every song's mean spectrum, and mean and deviation over all frames.

        (n_songs, n_mels) float32, and twice (n_mels,), of the columns that are mel bins.
        """
        spectra, total, squares, n_frames = [], np.zeros(1), np.zeros(1), 0
        for song in self.songs:
            frames = np.asarray(song[:])[:, :n_mels].astype(np.float64)
            of_song = frames.sum(axis=0)
            spectra.append((of_song / len(frames)).astype(np.float32))
            total = total + of_song
            squares = squares + np.square(frames).sum(axis=0)
            n_frames += len(frames)
        mean = total / n_frames
        return np.stack(spectra), mean, np.sqrt(np.maximum(squares / n_frames - mean**2, 1e-6))


class Stored:
    """A song's log-mel in the cache, of which frames are read as they are asked for.

    It holds no file open: there may be more songs than files that a process may have open.
    """

    def __init__(self, cache: Cache, key: str) -> None:
        self.path = cache.path(key)
        self.shape = cache.load(key).shape  # whole: a damaged file is met now, and not in training

    def __len__(self) -> int:
        """Return the number of frames."""
        return self.shape[0]

    def __getitem__(self, frames: slice) -> np.ndarray:
        """Read some frames, (n_frames, n_columns)."""
        return np.array(np.load(self.path, mmap_mode="r")[frames])


def open_cache(results_dir: Path, front_end: FrontEnd) -> Cache:
    """Open the cache of the log-mels that a front end makes."""
    return Cache(cache_dir(results_dir), "log-mels", front_end.settings())


def fill_cache(
    cache: Cache, front_end: FrontEnd, workers: int, files: Mapping[str, Path]
) -> dict[str, str]:
    """Compute the log-mels that a cache lacks; see :meth:`artist20.cache.Cache.fill`."""
    in_worker = partial(load_log_mel, front_end=front_end)
    return cache.fill(files, in_worker, workers=workers, label="log-mels")


def random_crops(
    songs: LogMels,
    labels: np.ndarray,
    n_frames: int,
    batch_size: int,
    rng: np.random.Generator,
    times: int = 1,
    versions: int = 1,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through all songs in random order, one random crop each, and that so many ``times``.

    With several ``versions``, ``songs`` holds all songs in the first, then all in the second, and
    so on; a crop is of one of them, drawn at random. Batches are (batch, n_frames, n_columns)
    float16 and (batch,) class indices.
    """
    n_songs = len(songs) // versions
    order = np.concatenate([rng.permutation(n_songs) for _ in range(times)])
    for first in range(0, len(order), batch_size):
        batch = order[first : first + batch_size]
        versioned = batch + n_songs * rng.integers(versions, size=len(batch))
        crops = [
            songs.crop(song, random_start(len(songs.songs[song]), n_frames, rng), n_frames)
            for song in versioned
        ]
        yield _stack(crops), torch.from_numpy(labels[batch])


def _stack(crops: Sequence[np.ndarray | Tensor]) -> Tensor:
    tensors = [crop for crop in crops if isinstance(crop, Tensor)]
    return torch.stack(tensors) if tensors else torch.from_numpy(np.stack(crops))


def windows_of(songs: LogMels, n_frames: int) -> list[tuple[int, int]]:
    """Cover every song with windows: song and first frame of each."""
    return [
        (song, start)
        for song, log_mel in enumerate(songs.songs)
        for start in window_starts(len(log_mel), n_frames)
    ]


def score_crops(
    predict: Callable[[Tensor], np.ndarray],
    songs: LogMels,
    windows: Sequence[tuple[int, int]],
    n_frames: int,
    label: str | None = None,
) -> np.ndarray:
    """Score ``windows``, song and first frame of each: (n_windows, n_classes).

    ``predict`` maps (batch, n_frames, n_columns) float16 to (batch, n_classes); with a label, a
    progress bar shows.
    """
    song = songs.songs[0]
    seconds = BATCH_SECONDS[song.device.type if isinstance(song, Tensor) else "cpu"]
    batch_size = max(1, int(seconds / to_seconds(n_frames)))
    scores = []
    firsts = range(0, len(windows), batch_size)
    for first in tqdm(firsts, label, disable=distributed.quiet() if label else True, leave=False):
        crops = [songs.crop(*window, n_frames) for window in windows[first : first + batch_size]]
        scores.append(predict(_stack(crops)))
    return np.concatenate(scores)


def per_song(
    apply: Callable[[Tensor], np.ndarray], songs: LogMels, n_frames: int, label: str | None = None
) -> np.ndarray:
    """Apply a network to windows over each song, and average a song's: (n_songs, n_outputs).

    With several processes each handles some of the songs, and every process gets all results. The
    rest is as in :func:`score_crops`.
    """

    def of_share(mine: np.ndarray) -> np.ndarray:
        share = LogMels([songs.songs[song] for song in mine])
        windows = windows_of(share, n_frames)
        values = score_crops(apply, share, windows, n_frames, label)
        return mean_per_song(values, np.array([song for song, _ in windows]), len(mine))

    return distributed.score_divided(len(songs), of_share)


def crop_frames(songs: LogMels, seconds: float) -> int:
    """Return the length of crops in frames: no longer than the longest song, which is said."""
    n_frames, longest = to_frames(seconds), max(map(len, songs.songs))
    if longest < n_frames:
        print(
            f"the longest training song has {to_seconds(longest):.1f} s: crops of that length "
            f"instead of {seconds:g} s"
        )
    return min(n_frames, longest)
