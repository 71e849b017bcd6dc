"""Crop, noise, stretch, albums' sounds, mixup, each with an explicit generator.

Scalars are drawn from a NumPy generator; noise is drawn from a torch generator of the device.
"""

import numpy as np
import torch
import torchaudio.functional
from torch import Tensor

from artist20 import runtime


def random_start(length: int, window: int, rng: np.random.Generator) -> int:
    """Draw where a crop of ``window`` begins; 0 if there is no more than that."""
    return int(rng.integers(max(length - window, 0) + 1))


def add_noise(waveform: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise whose power is ``snr_db`` below the waveform's."""
    noise_power = waveform.square().mean() * 10 ** (-snr_db / 10)
    noise = torch.randn(waveform.shape, generator=generator, device=waveform.device)
    return waveform + noise * noise_power.sqrt()


def add_noise_to_log_mel(log_mel: Tensor, snr_db: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to log-mels as if it had been white noise in the waveforms.

    With filters of equal area (Slaney's) white noise has the same mean power in every mel bin; a
    bin of its periodogram follows the exponential distribution. Of each log-mel, (batch, n_frames,
    n_mels) in dB, the mean power is (batch,) ``snr_db`` above that of the noise.
    """
    power = 10 ** (log_mel / 10)
    noise_power = power.mean(dim=(1, 2)) * 10 ** (-snr_db / 10)
    noise = torch.empty_like(power).exponential_(generator=generator)
    return 10 * (power + noise * noise_power[:, None, None]).log10()


class AlbumDifferences:
    """How differently the albums of one artist sound.

    Albums are recorded, mixed and mastered differently, and a model that learns an album's sound
    takes it for the artist's (the album effect, Kim, Williamson and Pilli 2006). The difference of
    two mean spectra of an artist, added to a crop of anybody's, makes it sound as if it were of
    another album. It is smoothed, so that it does not change which notes are heard.

    ``spectra``, (n_songs, n_mels), are the means of the songs' log-mels in dB, ``labels`` class
    indices, and ``albums`` names, of which no two artists have the same.
    """

    SMOOTHING = 1 / 8  # of all mel bins; half an octave and more

    def __init__(self, spectra: np.ndarray, labels: np.ndarray, albums: np.ndarray) -> None:
        from scipy.ndimage import uniform_filter1d  # a second to import, and scoring needs none

        _, songs, of_song = np.unique(albums, return_index=True, return_inverse=True)
        order = np.argsort(labels[songs], kind="stable")  # an artist's albums one after another
        means = np.stack([spectra[of_song == album].mean(axis=0) for album in order])
        size = max(1, round(spectra.shape[1] * self.SMOOTHING))
        self.spectra = uniform_filter1d(means, size, axis=1, mode="nearest")
        _, first, artist, n = np.unique(
            labels[songs][order], return_index=True, return_inverse=True, return_counts=True
        )
        self.first, self.n = first[artist], n[artist]  # of each album's artist

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """Draw shares of differences between two albums: (n, n_mels) float32 in dB.

        Where the artist drawn has one album, it is zero.
        """
        albums = rng.integers(len(self.n), size=n)
        first, among = self.first[albums], self.n[albums]
        steps = rng.integers(1, np.maximum(among, 2))
        others = first + (albums - first + steps) % among
        share = rng.random((n, 1), dtype=np.float32)
        return share * (self.spectra[others] - self.spectra[albums])


def time_stretch(waveform: Tensor, rate: float, n_fft: int = 1024) -> Tensor:
    """Play faster (``rate`` > 1) or slower without changing the pitch, by a phase vocoder.

    Source: Flanagan and Golden 1966. The waveform has at least ``n_fft`` samples, the length of the
    vocoder's frames, and the result about n_samples / rate.
    """
    hop_length = n_fft // 4
    window = torch.hann_window(n_fft, device=waveform.device)
    # Padded with silence: the phases of a reflected beginning fit no steady tone, and the vocoder
    # would carry them on to the end, where a tone's own bins then cancel each other.
    spectrum = torch.stft(
        waveform, n_fft, hop_length, window=window, pad_mode="constant", return_complex=True
    )
    advance = torch.linspace(0, torch.pi * hop_length, n_fft // 2 + 1, device=waveform.device)
    stretched = torchaudio.functional.phase_vocoder(spectrum, rate, advance[:, None])
    return torch.istft(
        stretched, n_fft, hop_length, window=window, length=round(len(waveform) / rate)
    )


def mixup(
    x: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix every example with another of the batch (Zhang et al. 2018).

    Both parameters of the Beta distribution that the share is drawn from are ``alpha``; 0 mixes
    nothing. ``x`` is (batch, ...), and ``targets`` (batch, n_classes) probabilities.
    """
    if alpha == 0:
        return x, targets
    share = float(rng.beta(alpha, alpha))
    partner = runtime.to_device(torch.from_numpy(rng.permutation(len(x))), x.device)
    return (share * x + (1 - share) * x[partner], share * targets + (1 - share) * targets[partner])
