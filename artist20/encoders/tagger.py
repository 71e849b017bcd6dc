"""Fully convolutional music tagger, trained on MTG-Jamendo, which has none of artist20's artists.

K. Choi et al., "Automatic Tagging Using Deep Convolutional Neural Networks", ISMIR 2016; weights of
M. Won et al., "Evaluation of CNN-based Automatic Music Tagging Models", SMC 2020.
"""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from artist20.encoders.base import Definition

SAMPLE_RATE = 16_000  # Hz
AMIN = 1e-10  # power below which levels in dB are not followed
CHANNELS = (1, 64, 128, 128, 128, 64)
POOLS = ((2, 4), (2, 4), (2, 4), (3, 5), (4, 4))  # mel bins, frames
SIZE = 2 * sum(CHANNELS[1:])


def _block(n_in: int, n_out: int, pool: tuple[int, int]) -> nn.Sequential:
    layers = [
        ("conv", nn.Conv2d(n_in, n_out, 3, padding=1)),
        ("bn", nn.BatchNorm2d(n_out)),
        ("relu", nn.ReLU()),
        ("pool", nn.MaxPool2d(pool)),
    ]
    return nn.Sequential(OrderedDict(layers))


class FullyConvolutional(nn.Module):
    """Five blocks on a mel spectrogram in dB; modules have the published file's names."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = MelSpectrogram(SAMPLE_RATE, n_fft=512, hop_length=256, n_mels=96, f_max=8_000.0)
        self.spec_bn = nn.BatchNorm2d(1)
        for i, pool in enumerate(POOLS):
            setattr(self, f"layer{i + 1}", _block(CHANNELS[i], CHANNELS[i + 1], pool))

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed (batch, n_samples): (batch, 1024), mean and maximum of every block's output."""
        with torch.autocast(waveform.device.type, enabled=False):
            x = 10 * self.spec(waveform).clamp_min(AMIN).log10()
        x = self.spec_bn(x[:, None])
        pooled = []
        for i in range(len(POOLS)):
            x = getattr(self, f"layer{i + 1}")(x)
            pooled += [x.mean((2, 3)), x.amax((2, 3))]
        return torch.cat(pooled, dim=1)


def _read_state_dict(path: Path) -> dict[str, Any]:
    """Read the state dict, without the layer that names tags."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {name: value for name, value in state.items() if not name.startswith("dense")}


DEFINITION = Definition(
    sample_rate=SAMPLE_RATE,
    size=SIZE,
    window_seconds=29.1,
    min_seconds=20.5,  # its pooling leaves nothing of less
    make=FullyConvolutional,
    read=_read_state_dict,
)
