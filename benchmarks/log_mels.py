"""Time log-mels against torchaudio's MelSpectrogram and decibels, on one core.

    python benchmarks/log_mels.py

Of a song of four minutes of noise, for both recipes of the ResNet; seconds are the least of five.
"""

import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torchaudio.transforms import MelSpectrogram

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from artist20 import runtime, spectrogram
from artist20.audio import SAMPLE_RATE
from task2_train_wo_pretrain import RECIPES

SECONDS = 240


def levels(waveform: torch.Tensor, n_fft: int, hop_length: int, n_mels: int) -> np.ndarray:
    """Compute the levels in mel bins the straightforward way: (n_frames, n_mels) float16 in dB."""
    power = mel_spectrogram(n_fft, hop_length, n_mels)(waveform)
    return (10 * power.clamp_min(spectrogram.AMIN).log10()).T.half().numpy()


@cache
def mel_spectrogram(n_fft: int, hop_length: int, n_mels: int) -> MelSpectrogram:
    """Make torchaudio's transform."""
    return MelSpectrogram(
        SAMPLE_RATE,
        n_fft=n_fft,
        hop_length=hop_length,
        f_max=spectrogram.F_MAX,
        n_mels=n_mels,
        center=False,
        norm="slaney",
        mel_scale="slaney",
    )


def least_seconds(compute: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Return the least seconds of five runs, and what was computed."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        result = compute()
        seconds.append(time.perf_counter() - started)
    return min(seconds), result


def main() -> None:
    """Run the benchmark."""
    torch.set_num_threads(1)
    noise = np.random.default_rng(0).normal(0, 0.1, SECONDS * SAMPLE_RATE).astype(np.float32)
    print(f"{'recipe':12}{'torchaudio':>12}{'artist20':>12}{'ratio':>8}{'differ by':>12}")
    for name, recipe in RECIPES.items():
        front_end = spectrogram.FrontEnd.of(recipe)
        compute = partial(spectrogram.log_mel, noise, front_end)
        ours, found = least_seconds(compute)
        own, spectrogram._levels = spectrogram._levels, levels
        theirs, expected = least_seconds(compute)
        spectrogram._levels = own
        most = np.abs(found.astype(float) - expected).max()
        print(f"{name:12}{theirs:10.2f} s{ours:10.2f} s{theirs / ours:8.1f}{most:9.3f} dB")


if __name__ == "__main__":
    runtime.run(main)
