"""ECAPA-TDNN, trained to tell speakers of VoxCeleb apart by their voice.

B. Desplanques et al., "ECAPA-TDNN: Emphasized Channel Attention, Propagation and Aggregation in
TDNN Based Speaker Verification", Interspeech 2020; network and weights of SpeechBrain.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from artist20.encoders.base import Definition

SIZE = 192


class EcapaTdnn(nn.Module):
    """SpeechBrain's network behind its filter bank."""

    def __init__(self) -> None:
        super().__init__()
        # Importing it changes settings of torch unless told not to.
        os.environ.setdefault("SB_DISABLE_QUIRKS", "allow_tf32,disable_jit_profiling")
        from speechbrain.lobes.features import Fbank
        from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
        from speechbrain.utils.importutils import LazyModule

        # It leaves modules of optional packages that raise ImportError as soon as Python's inspect,
        # which goes through all modules, looks at them.
        for name in [name for name, of in sys.modules.items() if isinstance(of, LazyModule)]:
            del sys.modules[name]
        self.filter_bank = Fbank(n_mels=80)
        self.network = ECAPA_TDNN(
            80,
            channels=[1024] * 4 + [3072],
            kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1],
            attention_channels=128,
            lin_neurons=SIZE,
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """Embed (batch, n_samples): (batch, 192)."""
        with torch.autocast(waveform.device.type, enabled=False):
            levels = self.filter_bank(waveform)  # in dB
            levels = levels - levels.mean(dim=1, keepdim=True)
        return self.network(levels).squeeze(1)


def _read_state_dict(path: Path) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {f"network.{name}": value for name, value in state.items()}


DEFINITION = Definition(
    sample_rate=16_000,
    size=SIZE,
    window_seconds=3.0,
    min_seconds=0.5,
    make=EcapaTdnn,
    read=_read_state_dict,
    front_end="filter_bank",
)
