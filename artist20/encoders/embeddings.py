"""Songs -> embeddings of windows or of augmented views, computed once and kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from artist20 import UserError, audio, augment, distributed, runtime
from artist20.audio import Waveform
from artist20.cache import Cache
from artist20.encoders.base import Encoder
from artist20.evaluation import mean_per_song, window_starts
from artist20.results import cache_dir

SONGS_AT_A_TIME = {"cpu": 8, "cuda": 16}  # whose clips are embedded together

STRETCH_RATES = (0.9, 1.1)
NOISE_SNR_DB = (15.0, 40.0)
AUGMENT_PROBABILITY = 0.5  # of each: songs are scored as they are, and must be met like that too

KeyedFile = tuple[str, Path]  # a song's content key and file


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of songs: several rows for each."""

    rows: np.ndarray  # (n_rows, size) float32, or twice as wide where pooled
    song_index: np.ndarray  # (n_rows,) which song a row is of, ascending

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

    def per_song(self, apply: Callable[[Tensor], np.ndarray], n_songs: int) -> np.ndarray:
        """Apply a network to all rows of each song, and average a song's: (n_songs, n_outputs).

        With several processes each handles some of the songs, and every process gets all results.
        """

        def of_share(songs: np.ndarray) -> np.ndarray:
            mine = self.of_songs(songs)
            return mean_per_song(apply(torch.from_numpy(mine.rows)), mine.song_index, len(songs))

        return distributed.score_divided(n_songs, of_share)

    def random_rows(
        self, labels: np.ndarray, batch_size: int, rng: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Go through all songs once in random order, one row of each drawn at random.

        Batches are rows and their (batch,) class indices.
        """
        n_rows = np.bincount(self.song_index)
        first_row = np.cumsum(n_rows) - n_rows
        order = rng.permutation(len(n_rows))
        drawn = first_row[order] + rng.integers(n_rows[order])
        for first in range(0, len(order), batch_size):
            batch = slice(first, first + batch_size)
            yield torch.from_numpy(self.rows[drawn[batch]]), torch.from_numpy(labels[order[batch]])


def side_by_side(parts: Sequence[Embeddings]) -> Embeddings:
    """Put several encoders' rows of the same songs side by side."""
    return Embeddings(np.hstack([part.rows for part in parts]), parts[0].song_index)


@dataclass(frozen=True)
class Embedder:
    """Embeds songs with a frozen encoder, and keeps what it computes."""

    encoder: Encoder
    results_dir: Path  # where the cache is
    seconds: float  # length of windows and views
    workers: int  # that decode
    _read: dict[Path, np.ndarray] = field(default_factory=dict, repr=False)  # by file of the cache

    @property
    def n_samples(self) -> int:
        """Length of windows and views in samples."""
        return round(self.seconds * self.encoder.settings.sample_rate)

    def windows(self, songs: Sequence[KeyedFile], most: int | None) -> Embeddings:
        """Embed windows over the whole of every song, or at most so many of each, evenly spaced."""

        def cut(_key: str, waveform: Waveform) -> Iterator[Tensor]:
            return cut_windows(waveform, self.n_samples, most, self.encoder.device)

        return self._cached("windows", {"most": most}, songs, cut)

    def views(self, songs: Sequence[KeyedFile], n_views: int, seed: int) -> Embeddings:
        """Embed ``n_views`` augmented views of every song."""
        device, rate = self.encoder.device, self.encoder.settings.sample_rate

        def cut(key: str, waveform: Waveform) -> Iterator[Tensor]:
            # Seeded by the song's content: independent of the order in which songs are embedded.
            song_seed = (seed, int(key[:16], 16))
            return cut_views(waveform, self.n_samples, n_views, rate, song_seed, device)

        augmentation = {
            "views": n_views,
            "stretch": STRETCH_RATES,
            "snr_db": NOISE_SNR_DB,
            "augment_probability": AUGMENT_PROBABILITY,
            "seed": seed,
        }
        return self._cached("views", augmentation, songs, cut)

    def find_undecodable(self, files: Mapping[str, Path]) -> dict[str, str]:
        """Decode songs, those of earlier runs excepted; return by key what is wrong with some.

        To embed songs takes far longer than to decode them, and gains nothing when songs are
        missing: so all are decoded first, and the bad ones named before any work begins.
        """
        decoded = Cache(cache_dir(self.results_dir), "decoded", {})
        return decoded.fill(files, _count_samples, workers=self.workers, label="decoding")

    def _cached(
        self,
        kind: str,
        settings: dict[str, object],
        songs: Sequence[KeyedFile],
        cut: Callable[[str, Waveform], Iterator[Tensor]],
    ) -> Embeddings:
        encoder = self.encoder.settings
        settings = {
            **msgspec.to_builtins(encoder),
            "precision": str(self.encoder.precision),
            "seconds": self.seconds,
            **settings,
        }
        cache = Cache(cache_dir(self.results_dir), f"{encoder.name}-{kind}", settings)

        def embed_songs(keys: list[str], waveforms: list[Waveform]) -> list[np.ndarray]:
            n_clips = [0] * len(keys)

            def clips() -> Iterator[Tensor]:
                for i, (key, waveform) in enumerate(zip(keys, waveforms, strict=True)):
                    for clip in cut(key, waveform):
                        n_clips[i] += 1
                        yield clip

            return np.split(self.encoder.embed(clips()), np.cumsum(n_clips)[:-1])

        files = {key: file for key, file in songs if cache.path(key) not in self._read}
        if files:
            unreadable = cache.fill(
                files,
                partial(audio.open_song, sample_rate=encoder.sample_rate),
                embed_songs,
                workers=self.workers,
                label=f"embeddings of {encoder.name}-{kind}",
                songs_at_a_time=SONGS_AT_A_TIME[self.encoder.device.type],
            )
            for key, reason in unreadable.items():
                raise UserError(
                    f"{files[key]} {reason}: it was changed while this ran; run it again"
                )
        self._read.update({cache.path(key): cache.load(key) for key in files})
        of_songs = [self._read[cache.path(key)] for key, _ in songs]
        n_rows = [len(rows) for rows in of_songs]
        return Embeddings(np.concatenate(of_songs), np.repeat(np.arange(len(songs)), n_rows))


def make_embedders(
    encoders: Sequence[Encoder], results_dir: Path, crop_seconds: float | None, workers: int
) -> list[Embedder]:
    """Make an embedder of each encoder.

    Without ``crop_seconds``, windows and views are as long as in the encoder's own training. Fewer
    than it needs are a UserError: they would be padded with silence.
    """
    embedders = []
    for encoder in encoders:
        definition, name = encoder.definition, encoder.settings.name
        seconds = crop_seconds or definition.window_seconds
        if crop_seconds and crop_seconds < definition.min_seconds:
            raise UserError(
                f"--crop-seconds {crop_seconds:g}: {name} needs {definition.min_seconds:g}"
            )
        embedders.append(Embedder(encoder, results_dir, seconds, workers))
    return embedders


def _count_samples(file: Path) -> np.ndarray:
    return np.array([[sum(len(block) for block in audio.read_blocks(file))]], float)


def cut_windows(
    waveform: Waveform, n_samples: int, most: int | None, device: torch.device
) -> Iterator[Tensor]:
    """Cut windows over the whole song, see :func:`artist20.evaluation.window_starts`."""
    cut = _cutter(waveform, device)
    for start in window_starts(len(waveform), n_samples, most):
        yield cut(start, start + n_samples)


def cut_views(
    waveform: Waveform,
    n_samples: int,
    n_views: int,
    sample_rate: int,
    seed: Sequence[int],
    device: torch.device,
) -> Iterator[Tensor]:
    """Cut random crops, half of them stretched in time and half of them with noise added.

    Those of a song shorter than ``n_samples`` are as long as it is, stretched. The seed decides
    everything random.
    """
    rng = np.random.default_rng(list(seed))
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**63)))
    if len(waveform) < sample_rate:  # less than a frame could not be stretched
        waveform = np.pad(waveform[:], (0, sample_rate - len(waveform)))
    cut = _cutter(waveform, device)
    for _ in range(n_views):
        rate = rng.uniform(*STRETCH_RATES) if rng.random() < AUGMENT_PROBABILITY else 1.0
        n_source = int(n_samples * rate) + 1
        start = augment.random_start(len(waveform), n_source, rng)
        view = cut(start, start + n_source)
        if rate != 1.0:
            view = augment.time_stretch(view, rate)
        if rng.random() < AUGMENT_PROBABILITY:
            view = augment.add_noise(view, rng.uniform(*NOISE_SNR_DB), generator)
        yield view[:n_samples]


def _cutter(waveform: Waveform, device: torch.device) -> Callable[[int, int], Tensor]:
    """Return what cuts a piece out of a song, which is copied to the device once unless long."""
    if isinstance(waveform, np.ndarray):
        song = runtime.to_device(torch.from_numpy(waveform), device)
        return lambda start, stop: song[start:stop]
    return lambda start, stop: runtime.to_device(torch.from_numpy(waveform[start:stop]), device)
