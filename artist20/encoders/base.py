"""What every frozen encoder is, and how waveforms are embedded with one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby, islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artist20.results import EncoderSettings

UNTRAINED = "untrained"  # in place of a weights file: random ones, to try the code
MAX_BATCH_SECONDS = {"cpu": 160.0, "cuda": 2400.0}  # audio embedded at a time bounds memory


@dataclass(frozen=True)
class Encoder:
    """A frozen network.

    Attributes
    ----------
    settings : EncoderSettings
        Its name, weights and sample rate.
    size : int
        Numbers in an embedding.
    min_seconds : float
        Shorter waveforms are padded with silence.
    network : nn.Module
        In eval mode, no parameter requires a gradient.
    apply : callable
        (batch, n_samples) float32 waveforms -> (batch, size), by ``network``.
    precision : torch.dtype
        What autocast computes products in.
    """

    settings: EncoderSettings
    size: int
    min_seconds: float
    network: nn.Module
    apply: Callable[[Tensor], Tensor]
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes, and takes waveforms."""
        return next(self.network.parameters()).device

    @torch.inference_mode()
    def embed(self, waveforms: Iterable[Tensor]) -> np.ndarray:
        """Embed waveforms.

        Parameters
        ----------
        waveforms : iterable of Tensor
            (n_samples,) float32 each, at the encoder's rate, on its device. Neighbours of equal
            length are embedded together, and no more are taken at a time.

        Returns
        -------
        np.ndarray
            (number of waveforms, size) float32.
        """
        rate, device_type = self.settings.sample_rate, self.device.type
        shortest = int(self.min_seconds * rate)
        padded = (F.pad(waveform, (0, max(0, shortest - len(waveform)))) for waveform in waveforms)
        bfloat16 = self.precision == torch.bfloat16
        embeddings = []
        for length, equally_long in groupby(padded, len):
            most = max(1, int(MAX_BATCH_SECONDS[device_type] * rate / length))
            while batch := list(islice(equally_long, most)):
                with torch.autocast(device_type, torch.bfloat16, enabled=bfloat16):
                    embedding = self.apply(torch.stack(batch))
                embeddings.append(embedding.float().cpu())
        return torch.cat(embeddings).numpy()
