"""Task 1: waveform -> named frame features -> their statistics over time.

Definitions are librosa's at its defaults unless a docstring says otherwise; they are computed in
torch, in blocks of frames, on the CPU or a GPU.
"""

from functools import cache
from itertools import pairwise

import librosa
import numpy as np
import scipy.signal
import torch
import torch.nn.functional as F
from torch import Tensor

from artist20.audio import SAMPLE_RATE

N_FFT = 2048  # samples, 128 ms
HOP_LENGTH = 512  # samples, 32 ms
N_MELS = 128
N_MFCC = 20
N_CHROMA = 12
N_LOW_MEL = 12
DELTA_WIDTH = 9  # frames
ROLLOFF = 0.85  # share of the magnitude below the rolloff frequency
CONTRAST_FMIN = 200.0  # Hz, upper edge of the lowest band; the others are octaves above it
CONTRAST_BANDS = 6
CONTRAST_QUANTILE = 0.02
TOP_DB = 80.0  # dB below the song's loudest bin at which levels in dB are cut off
AMIN = 1e-10  # power below which levels in dB are not followed
BLOCK_FRAMES = 2048  # frames computed at a time, which bounds memory: 65 s

VERSION = 1  # of the definitions here: stored features of another version are not used

STATISTICS = ("mean", "std", "max", "min")

FAMILIES = {
    "mfcc": N_MFCC,
    "mfcc_delta": N_MFCC,
    "mfcc_delta2": N_MFCC,
    "mel": N_MELS,
    "chroma": N_CHROMA,
    "contrast": CONTRAST_BANDS + 1,
    "low_mel": N_LOW_MEL,
    "centroid": 1,
    "bandwidth": 1,
    "rolloff": 1,
    "mel_energy": 1,
    "rms": 1,
    "zero_crossing_rate": 1,
}

FRAME_FEATURES = [
    family if size == 1 else f"{family}_{i:0{len(str(size - 1))}d}"
    for family, size in FAMILIES.items()
    for i in range(size)
]

FEATURE_NAMES = [f"{name}_{stat}" for name in FRAME_FEATURES for stat in STATISTICS] + ["tempo"]


def song_features(waveform: Tensor) -> np.ndarray:
    """Compute a song's feature vector.

    Parameters
    ----------
    waveform : Tensor
        (n_samples,) float32 at :data:`SAMPLE_RATE`, on the device that is to compute.

    Returns
    -------
    np.ndarray
        (len(FEATURE_NAMES),) float32: mean, standard deviation, maximum and minimum over time of
        every frame feature, in the order of :data:`FEATURE_NAMES`, and the tempo in BPM.
    """
    frames, onset_strength = frame_features(waveform)
    std, mean = torch.std_mean(frames, dim=1, correction=0)
    statistics = torch.stack([mean, std, frames.amax(dim=1), frames.amin(dim=1)], dim=1)
    return np.append(statistics.flatten().cpu().numpy(), tempo(onset_strength)).astype(np.float32)


def frame_features(waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Compute all features per frame.

    - ``mfcc``, ``mfcc_delta``, ``mfcc_delta2``: 20 mel-frequency cepstral coefficients (Davis and
      Mermelstein 1980) and their first and second derivatives over 9 frames (Savitzky-Golay).
    - ``mel``: mel spectrogram in dB re 1, cut off 80 dB below the song's loudest bin.
    - ``chroma``: 12 pitch classes, each frame divided by its largest. Tuning is taken to be
      A4 = 440 Hz, where librosa would estimate it per song.
    - ``contrast``: level of the peaks over the valleys in dB in a lowest band and six octaves
      (Jiang et al. 2002).
    - ``low_mel``: power in the 12 lowest mel bins, not in dB.
    - ``centroid``, ``bandwidth``, ``rolloff`` (Hz): first and second moment of the magnitude
      spectrum, and the frequency below which 85 % of it lie.
    - ``mel_energy``: power summed over the mel bins.
    - ``rms``, ``zero_crossing_rate``: per frame of 2048 samples.

    Silent frames have centroid, bandwidth, rolloff, chroma and contrast 0 and -100 dB.

    Parameters
    ----------
    waveform : Tensor
        (n_samples,) float32.

    Returns
    -------
    frames : Tensor
        (len(FRAME_FEATURES), n_frames) float32, n_frames = 1 + n_samples // HOP_LENGTH.
    onset_strength : Tensor
        (n_frames,) mean rise in dB over the mel bins, as librosa.onset.onset_strength.
    """
    n_frames = 1 + len(waveform) // HOP_LENGTH
    padded = F.pad(waveform, (N_FFT // 2, N_FFT // 2))
    blocks = [
        _spectral_block(padded[start * HOP_LENGTH : (stop - 1) * HOP_LENGTH + N_FFT])
        for start in range(0, n_frames, BLOCK_FRAMES)
        for stop in [min(start + BLOCK_FRAMES, n_frames)]
    ]
    spectral = {name: torch.cat([block[name] for block in blocks], dim=1) for name in blocks[0]}

    mel_power = spectral["mel_power"]
    mel = _to_db(mel_power)
    mfcc = _dct(waveform.device) @ mel
    parts = {
        "mfcc": mfcc,
        "mfcc_delta": _delta(mfcc, 1),
        "mfcc_delta2": _delta(mfcc, 2),
        "mel": mel,
        "chroma": spectral["chroma"],
        "contrast": _to_db(spectral["peaks"]) - _to_db(spectral["valleys"]),
        "low_mel": mel_power[:N_LOW_MEL],
        "centroid": spectral["centroid"],
        "bandwidth": spectral["bandwidth"],
        "rolloff": spectral["rolloff"],
        "mel_energy": mel_power.sum(dim=0, keepdim=True),
        "rms": _rms(padded),
        "zero_crossing_rate": _zero_crossing_rate(waveform),
    }
    return torch.cat([parts[family] for family in FAMILIES]), _onset_strength(mel)


def tempo(onset_strength: Tensor) -> float:
    """Estimate the tempo in BPM (Ellis 2007, as librosa.feature.tempo); 120 or so for silence."""
    envelope = onset_strength.cpu().numpy()
    return float(
        librosa.feature.tempo(onset_envelope=envelope, sr=SAMPLE_RATE, hop_length=HOP_LENGTH)[0]
    )


def _spectral_block(padded: Tensor) -> dict[str, Tensor]:
    """Features that need the spectrum of each frame alone: (size, n_frames) each."""
    device = padded.device
    # In double precision: above an MP3's cutoff there is only the transform's own rounding error
    # in single precision, and the contrast of the highest band would measure that. Frames are
    # rows: most of what follows runs along a frame's bins, which then lie side by side.
    frames = padded.double().unfold(0, N_FFT, HOP_LENGTH) * _window(device)
    magnitude = torch.fft.rfft(frames).abs().float()
    power = magnitude.square()
    tiny = torch.finfo(torch.float32).tiny

    frequency = _frequencies(device)
    total = magnitude.sum(dim=1, keepdim=True)
    weight = magnitude / total.clamp_min(tiny)
    centroid = (weight * frequency).sum(dim=1, keepdim=True)
    bandwidth = ((frequency - centroid).square() * weight).sum(dim=1).sqrt()
    rolloff = frequency[torch.searchsorted(magnitude.cumsum(dim=1), ROLLOFF * total)[:, 0]]

    chroma = power @ _chroma_filters(device)
    loudest = chroma.amax(dim=1, keepdim=True)
    chroma = torch.where(loudest > tiny, chroma / loudest, chroma)
    peaks, valleys = _peaks_and_valleys(magnitude)

    return {
        "mel_power": (power @ _mel_filters(device)).T,
        "centroid": centroid.T,
        "bandwidth": bandwidth[None],
        "rolloff": rolloff[None],
        "chroma": chroma.T,
        "peaks": peaks,
        "valleys": valleys,
    }


def _peaks_and_valleys(magnitude: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the largest and of the smallest bins of every band: 2 x (n_bands, n_frames)."""
    peaks, valleys = [], []
    for band, n_averaged in _contrast_bands():
        bins = magnitude[:, band]
        # On a CPU NumPy sorts all of them faster than torch finds the few.
        bins = (
            torch.from_numpy(np.sort(bins.numpy(), axis=1))
            if bins.device.type == "cpu"
            else bins.sort(dim=1).values
        )
        peaks.append(bins[:, -n_averaged:].mean(dim=1))
        valleys.append(bins[:, :n_averaged].mean(dim=1))
    return torch.stack(peaks), torch.stack(valleys)


def _to_db(power: Tensor) -> Tensor:
    level = 10 * power.clamp_min(AMIN).log10()
    return level.clamp_min(level.max() - TOP_DB)


def _delta(x: Tensor, order: int) -> Tensor:
    """Differentiate over frames; the polynomials at both ends are those of the outermost frames."""
    n_frames = x.shape[1]
    if n_frames < DELTA_WIDTH:  # a clip under 0.26 s: its last frame is held
        held = F.pad(x[None], (0, DELTA_WIDTH - n_frames), mode="replicate")[0]
        return _delta(held, order)[:, :n_frames]
    weights = _savgol_weights(x.device, order)
    half = DELTA_WIDTH // 2
    inner = F.conv1d(x[:, None], weights[half][None, None])[:, 0]
    head = x[:, :DELTA_WIDTH] @ weights[:half].T
    tail = x[:, -DELTA_WIDTH:] @ weights[half + 1 :].T
    return torch.cat([head, inner, tail], dim=1)


def _rms(padded: Tensor) -> Tensor:
    """(1, n_frames). Frames are whole numbers of hops, so that hops are summed once."""
    hops_per_frame = N_FFT // HOP_LENGTH
    n_hops = len(padded) // HOP_LENGTH
    energy = padded[: n_hops * HOP_LENGTH].view(n_hops, HOP_LENGTH).square().sum(dim=1)
    return (energy.unfold(0, hops_per_frame, 1).sum(dim=1) / N_FFT).sqrt()[None]


def _zero_crossing_rate(waveform: Tensor) -> Tensor:
    """(1, n_frames). Crossings within each frame of 2048 samples, edges held as librosa does."""
    held = F.pad(waveform[None, None], (N_FFT // 2, N_FFT // 2), mode="replicate")[0, 0]
    negative = held < -AMIN  # smaller values count as zero, and zero as positive
    crossed = F.pad(negative[1:] != negative[:-1], (1, 0)).float()
    n_hops = len(held) // HOP_LENGTH
    hops = crossed[: n_hops * HOP_LENGTH].view(n_hops, HOP_LENGTH).sum(dim=1)
    frames = hops.unfold(0, N_FFT // HOP_LENGTH, 1).sum(dim=1)
    # A crossing into a frame's first sample lies before the frame.
    into_first = crossed[: len(frames) * HOP_LENGTH : HOP_LENGTH]
    return ((frames - into_first) / N_FFT)[None]


def _onset_strength(mel: Tensor) -> Tensor:
    rise = (mel[:, 1:] - mel[:, :-1]).clamp_min(0).mean(dim=0)
    # The rise belongs to the later frame, and half a window later, where librosa puts it.
    return F.pad(rise, (1 + N_FFT // (2 * HOP_LENGTH), 0))[: mel.shape[1]]


@cache
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(N_FFT, dtype=torch.float64, device=device)


@cache
def _frequencies(device: torch.device) -> Tensor:
    """(n_bins,) in Hz."""
    return torch.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1, device=device)


@cache
def _mel_filters(device: torch.device) -> Tensor:
    """(n_bins, N_MELS), of equal area (Slaney 1998)."""
    return torch.from_numpy(librosa.filters.mel(sr=SAMPLE_RATE, n_fft=N_FFT).T.copy()).to(device)


@cache
def _chroma_filters(device: torch.device) -> Tensor:
    """(n_bins, N_CHROMA)."""
    return torch.from_numpy(librosa.filters.chroma(sr=SAMPLE_RATE, n_fft=N_FFT).T.copy()).to(device)


@cache
def _dct(device: torch.device) -> Tensor:
    """(N_MFCC, N_MELS) orthonormal DCT-II."""
    matrix = scipy.fft.dct(np.eye(N_MELS), norm="ortho", axis=0)[:N_MFCC]
    return torch.from_numpy(matrix.astype(np.float32)).to(device)


@cache
def _savgol_weights(device: torch.device, order: int) -> Tensor:
    """(DELTA_WIDTH, DELTA_WIDTH): row p gives the derivative at position p of a window."""
    weights = [
        scipy.signal.savgol_coeffs(DELTA_WIDTH, order, deriv=order, pos=pos, use="dot")
        for pos in range(DELTA_WIDTH)
    ]
    return torch.from_numpy(np.array(weights, dtype=np.float32)).to(device)


@cache
def _contrast_bands() -> list[tuple[slice, int]]:
    """Bins of each band, and how many of them make its peak and its valley.

    A band also takes the bin below its lower edge, and leaves the bin at its upper edge to the
    next; the highest reaches to the Nyquist frequency.
    """
    frequency = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = [0.0, *(CONTRAST_FMIN * 2.0**i for i in range(CONTRAST_BANDS + 1))]
    bands = []
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = np.flatnonzero((frequency >= low) & (frequency <= high))
        first = inside[0] - 1 if i > 0 else inside[0]
        last = len(frequency) - 1 if i == CONTRAST_BANDS else inside[-1]
        n_averaged = max(1, round(CONTRAST_QUANTILE * float(last - first + 1)))
        bands.append((slice(first, last + 1 if i == CONTRAST_BANDS else last), n_averaged))
    return bands
