"""How fast levels in mel bands rise and fall: tremolo, arpeggios, roughness.

Frames of a spectrogram are too long for that, so levels are of windows of 16 ms, eight to a hop.
"""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from artist20.audio import SAMPLE_RATE

N_FFT = 256  # samples, 16 ms
HOP_LENGTH = 64  # samples, 4 ms
LEVEL_RATE = SAMPLE_RATE // HOP_LENGTH  # Hz
N_BANDS = 16  # of the mel scale, from 0 to 8000 Hz
N_RATES = 12
RATES = (2.0, 120.0)  # Hz
LEAST_POINTS = 2048  # of the transform, so that the lowest band has some of its bins
STILL = 1e-3  # dB^2, below which a modulation is not followed


def spectrum(level: Tensor) -> Tensor:
    """Compute the modulation spectrum: (..., n_windows) -> (..., N_RATES).

    Of a level in dB, :data:`LEVEL_RATE` windows a second, the power per bin of its spectrum, in dB,
    in bands as wide in octaves.
    """
    n_windows = level.shape[-1]
    window = torch.hann_window(n_windows, device=level.device)
    level = (level - level.mean(dim=-1, keepdim=True)) * window
    n_points = max(LEAST_POINTS, n_windows)
    power = squared(torch.fft.rfft(level, n=n_points)) / window.square().sum()
    return 10 * (power @ _bands(n_points, level.device)).clamp_min(STILL).log10()


def squared(transform: Tensor) -> Tensor:
    """Square a transform's magnitude. abs() would be ten times slower: it minds overflow."""
    return transform.real.square().addcmul_(transform.imag, transform.imag)


@cache
def _bands(n_points: int, device: torch.device) -> Tensor:
    """(n_points // 2 + 1, N_RATES): means over bands."""
    frequency = torch.fft.rfftfreq(n_points, 1 / LEVEL_RATE)
    edges = torch.from_numpy(np.geomspace(*RATES, N_RATES + 1)).float()
    inside = (frequency[:, None] >= edges[:-1]) & (frequency[:, None] < edges[1:])
    return (inside / inside.sum(dim=0)).to(device)
