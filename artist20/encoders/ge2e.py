"""Speaker encoder: an LSTM trained to tell speakers apart by their voice.

L. Wan et al., "Generalized End-to-End Loss for Speaker Verification", ICASSP 2018; weights of the
package Resemblyzer.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchaudio.transforms import MelSpectrogram

from artist20.encoders.base import Definition

SAMPLE_RATE = 16_000  # Hz
SIZE = 256
WINDOW_SECONDS = 1.59  # 160 frames, as in its training


class SpeakerLSTM(nn.Module):
    """Three LSTM layers over power mel spectra, and a projection of their last state.

    Power is not turned into dB: as in the training, loud is not the same as soft.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mel = MelSpectrogram(
            SAMPLE_RATE,
            n_fft=400,
            hop_length=160,
            n_mels=40,
            norm="slaney",
            mel_scale="slaney",
            pad_mode="constant",
        )
        self.lstm = nn.LSTM(40, SIZE, 3, batch_first=True)
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed (batch, n_samples): (batch, 256), each of length 1."""
        # Not every CPU has an LSTM in bfloat16.
        with torch.autocast(waveform.device.type, enabled=False):
            _, (state, _) = self.lstm(self.mel(waveform).transpose(1, 2))
            return F.normalize(F.relu(self.linear(state[-1])), dim=1)


def _read_state_dict(path: Path) -> dict[str, Any]:
    """Read ``{"model_state": ..., ...}``, without what its loss needed."""
    state = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
    return {name: value for name, value in state.items() if not name.startswith("similarity")}


DEFINITION = Definition(
    sample_rate=SAMPLE_RATE,
    size=SIZE,
    window_seconds=WINDOW_SECONDS,
    min_seconds=WINDOW_SECONDS,
    make=SpeakerLSTM,
    read=_read_state_dict,
    front_end="mel",
)
