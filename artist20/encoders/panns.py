"""Cnn14 of PANNs, trained on AudioSet, for 16 kHz and for 32 kHz.

Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition",
IEEE/ACM TASLP 2020.
"""

import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artist20.encoders.base import Definition

SIZE = 2048

# By sample rate in Hz: window and hop in samples, mel bins and their range in Hz.
FRONT_ENDS = {
    16_000: {"window_size": 512, "hop_size": 160, "mel_bins": 64, "fmin": 50, "fmax": 8_000},
    32_000: {"window_size": 1024, "hop_size": 320, "mel_bins": 64, "fmin": 50, "fmax": 14_000},
}


def make_cnn14(sample_rate: int) -> nn.Module:
    """Make a frozen Cnn14 for a rate in Hz, with random weights."""
    network = _import_cnn14()(sample_rate=sample_rate, classes_num=527, **FRONT_ENDS[sample_rate])
    return network.eval().requires_grad_(False)


class Cnn14Embedding(nn.Module):
    """Cnn14 without its scores, its front end in float32 whatever the precision.

    Levels in dB need more digits than bfloat16 has.
    """

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.cnn14 = make_cnn14(sample_rate)
        front: Any
        for front in (self.cnn14.spectrogram_extractor, self.cnn14.logmel_extractor):
            front.forward = _without_autocast(front.forward)

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed (batch, n_samples): (batch, 2048)."""
        return self.cnn14(waveform)["embedding"]


def _without_autocast(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def in_float32(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return forward(x)

    return in_float32


def _import_cnn14() -> type[nn.Module]:
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


def _read_state_dict(path: Path) -> dict[str, Any]:
    """Read ``{"model": state_dict, ...}``; beside it the 16 kHz file holds NumPy numbers."""
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    allowed: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Int64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        state = torch.load(path, map_location="cpu", weights_only=True)["model"]
    return {f"cnn14.{name}": value for name, value in state.items()}


def _define(sample_rate: int) -> Definition:
    return Definition(
        sample_rate=sample_rate,
        size=SIZE,
        window_seconds=10.0,
        min_seconds=1.0,  # Cnn14 halves its input five times and fails on less than half a second
        make=partial(Cnn14Embedding, sample_rate),
        read=_read_state_dict,
    )


FOR_16K, FOR_32K = _define(16_000), _define(32_000)
