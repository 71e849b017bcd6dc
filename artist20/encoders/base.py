"""What every frozen encoder is, and how waveforms are embedded with one."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artist20.results import EncoderSettings

UNTRAINED = "untrained"  # in place of a weights file: random ones, to try the code
# Audio embedded at a time. For ECAPA 800 s take 11 GB, and 2,400 s are more numbers than fit into
# 32-bit indices.
MAX_BATCH_SECONDS = {"cpu": 160.0, "cuda": 400.0}
MAX_PARTS = 4  # of a batch that are embedded at the same time on a CPU
MIN_PER_PART = 4  # waveforms: of three, one core would have two, and the other wait for it


@dataclass(frozen=True)
class Definition:
    """What a file of this package says of its encoder."""

    sample_rate: int  # of the waveforms that it takes, in Hz
    size: int  # numbers in an embedding
    window_seconds: float  # of the windows that songs are cut into, as in its training
    min_seconds: float  # shorter waveforms are padded with silence
    # Makes the network with random weights: (batch, n_samples) float32 -> (batch, size).
    make: Callable[[], nn.Module]
    # The published file -> the network's state dict; never runs code of the file.
    read: Callable[[Path], dict[str, Any]]
    front_end: str | None = None  # the part that is computed, not learned, and not in the file


@dataclass(frozen=True)
class Encoder:
    """A frozen network."""

    settings: EncoderSettings
    definition: Definition
    network: nn.Module  # in eval mode; no parameter requires a gradient
    precision: torch.dtype  # what autocast computes products in

    @property
    def device(self) -> torch.device:
        """Where it computes, and takes waveforms."""
        return next(self.network.parameters()).device

    def embed(self, waveforms: Iterable[Tensor]) -> np.ndarray:
        """Embed waveforms of (n_samples,) float32: (n_waveforms, size) float32.

        They are at the encoder's rate, on its device. Neighbours of equal length are embedded
        together, and no more are taken at a time.
        """
        rate, device_type = self.definition.sample_rate, self.device.type
        shortest = round(self.definition.min_seconds * rate)
        padded = (F.pad(waveform, (0, max(0, shortest - len(waveform)))) for waveform in waveforms)
        # On a CPU, parts of a batch side by side, each on its share of the cores: an LSTM's small
        # products gain nothing from a second core, and wait for one that is busy.
        cores = torch.get_num_threads()
        n_parts = min(cores, MAX_PARTS) if device_type == "cpu" else 1
        embeddings: list[Tensor] = []
        threads = ThreadPoolExecutor(n_parts, initializer=_use_cores, initargs=(cores // n_parts,))
        with threads as pool:
            for length, equally_long in groupby(padded, len):
                most = max(1, int(MAX_BATCH_SECONDS[device_type] * rate / length))
                while batch := list(islice(equally_long, most)):
                    if len(batch) < n_parts * MIN_PER_PART:
                        embeddings.append(self._apply(torch.stack(batch)))
                    else:
                        embeddings += pool.map(self._apply, torch.stack(batch).chunk(n_parts))
        return torch.cat(embeddings).cpu().numpy()

    def _apply(self, batch: Tensor) -> Tensor:
        bfloat16 = self.precision == torch.bfloat16
        with torch.inference_mode(), torch.autocast(batch.device.type, torch.bfloat16, bfloat16):
            return self.network(batch).float()


def _use_cores(n: int) -> None:
    """Compute with ``n`` cores in this thread, if not all."""
    if n < torch.get_num_threads():
        torch.set_num_threads(n)
