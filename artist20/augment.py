"""Crop, noise, stretch, equalisation, masks, mixup: pure functions with an explicit generator.

Scalars are drawn from a NumPy generator; noise is drawn from a torch generator of the device.
"""

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor


def random_start(length: int, window: int, rng: np.random.Generator) -> int:
    """Draw where a crop of ``window`` begins; 0 if there is no more than that."""
    return int(rng.integers(max(length - window, 0) + 1))


def add_noise(waveform: Tensor, snr_db: float, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise.

    Parameters
    ----------
    waveform : Tensor
        (n_samples,).
    snr_db : float
        Power of the waveform over that of the noise, in dB.
    generator : torch.Generator
        Of the waveform's device.
    """
    noise_power = waveform.square().mean() * 10 ** (-snr_db / 10)
    noise = torch.randn(waveform.shape, generator=generator, device=waveform.device)
    return waveform + noise * noise_power.sqrt()


def add_noise_to_log_mel(log_mel: Tensor, snr_db: Tensor, generator: torch.Generator) -> Tensor:
    """Add noise to log-mels as if it had been white noise in the waveforms.

    With filters of equal area (Slaney's) white noise has the same mean power in every mel bin; a
    bin of its periodogram follows the exponential distribution.

    Parameters
    ----------
    log_mel : Tensor
        (batch, n_frames, n_mels) in dB.
    snr_db : Tensor
        (batch,) mean power of each log-mel over that of the noise, in dB.
    generator : torch.Generator
        Of the log-mels' device.
    """
    power = 10 ** (log_mel / 10)
    noise_power = power.mean(dim=(1, 2)) * 10 ** (-snr_db / 10)
    noise = torch.empty_like(power).exponential_(generator=generator)
    return 10 * (power + noise * noise_power[:, None, None]).log10()


def time_stretch(waveform: Tensor, rate: float, n_fft: int = 1024) -> Tensor:
    """Play faster (``rate`` > 1) or slower without changing the pitch, by a phase vocoder.

    Source: Flanagan and Golden 1966.

    Parameters
    ----------
    waveform : Tensor
        (n_samples,), at least ``n_fft`` samples.
    rate : float
        Speed; the result has about n_samples / rate samples.
    n_fft : int
        Length of the vocoder's frames in samples.
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


def warp_log_mel(
    log_mel: Tensor, n_frames: int, tempo: np.ndarray, pitch: np.ndarray, mel_hz: np.ndarray
) -> Tensor:
    """Play log-mels faster and at another pitch, by reading them at other times and frequencies.

    Levels are interpolated in dB between the nearest frames and mel bins; beyond the outermost bin
    its own level holds.

    Parameters
    ----------
    log_mel : Tensor
        (batch, n_source, n_mels), n_source at least ``n_frames`` times the fastest tempo.
    n_frames : int
        Length of the result.
    tempo, pitch : np.ndarray
        (batch,) ratios: 1 leaves as it is, above 1 is faster, or higher.
    mel_hz : np.ndarray
        (n_mels,) centre frequencies of the mel bins, in Hz.

    Returns
    -------
    Tensor
        (batch, n_frames, n_mels).
    """
    n_batch, n_source, n_mels = log_mel.shape
    bins = np.stack([np.interp(mel_hz / ratio, mel_hz, np.arange(n_mels)) for ratio in pitch])
    frames = np.minimum(tempo[:, None] * np.arange(n_frames), n_source - 1)
    for axis, positions in ((1, frames), (2, bins)):
        positions = torch.from_numpy(positions).float().to(log_mel.device)
        low = positions.long().clamp(max=log_mel.shape[axis] - 2)
        shape = [n_batch, 1, 1]
        shape[axis] = positions.shape[1]
        share = (positions - low).view(shape)
        size = list(log_mel.shape)
        size[axis] = positions.shape[1]
        low = low.view(shape).expand(size)
        log_mel = torch.lerp(log_mel.gather(axis, low), log_mel.gather(axis, low + 1), share)
    return log_mel


def equalizer_curves(
    n_curves: int, n_mels: int, gain_db: float, equalizer_db: float, rng: np.random.Generator
) -> Tensor:
    """Draw gains over the mel bins: a level, and four slow waves, as tone controls make them.

    Parameters
    ----------
    n_curves, n_mels : int
        How many, and for how many bins.
    gain_db : float
        The level is drawn between plus and minus this.
    equalizer_db : float
        Standard deviation of the waves' sum, in dB.

    Returns
    -------
    Tensor
        (n_curves, n_mels) in dB.
    """
    level = rng.uniform(-gain_db, gain_db, (n_curves, 1))
    waves = np.cos(np.pi * np.outer(np.arange(1, 5), np.arange(n_mels) + 0.5) / n_mels)
    # Four cosines of power one half.
    heights = rng.normal(0, equalizer_db / np.sqrt(2), (n_curves, len(waves)))
    return torch.from_numpy(level + heights @ waves).float()


def mask_bands(
    log_mel: Tensor, fill: Tensor, axis: int, n_masks: int, max_width: int, rng: np.random.Generator
) -> Tensor:
    """Cover bands of frames (axis 1) or of mel bins (axis 2), as SpecAugment (Park et al. 2019).

    Parameters
    ----------
    log_mel : Tensor
        (batch, n_frames, n_mels).
    fill : Tensor
        (n_mels,) what masks hold.
    axis : {1, 2}
        See above.
    n_masks, max_width : int
        Masks per example, and the most frames or bins that one covers.
    """
    size = log_mel.shape[axis]
    width = rng.integers(min(max_width, size) + 1, size=(len(log_mel), n_masks, 1))
    first = rng.integers(size - width + 1)
    position = np.arange(size)
    masked = ((position >= first) & (position < first + width)).any(axis=1)
    mask = torch.from_numpy(masked).to(log_mel.device).unsqueeze(3 - axis)
    return torch.where(mask, fill, log_mel)


def mixup(
    x: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix every example with another of the batch (Zhang et al. 2018).

    Parameters
    ----------
    x : Tensor
        (batch, ...).
    targets : Tensor
        (batch, n_classes) probabilities.
    alpha : float
        Both parameters of the Beta distribution that the share is drawn from; 0 mixes nothing.
    rng : numpy.random.Generator
        Draws the share and the partners.
    """
    if alpha == 0:
        return x, targets
    share = float(rng.beta(alpha, alpha))
    partner = torch.from_numpy(rng.permutation(len(x))).to(x.device)
    return (
        share * x + (1 - share) * x[partner],
        share * targets + (1 - share) * targets[partner],
    )


def one_hot(labels: Tensor, n_classes: int) -> Tensor:
    """Turn (batch,) class indices into (batch, n_classes) probabilities."""
    return F.one_hot(labels, n_classes).float()
