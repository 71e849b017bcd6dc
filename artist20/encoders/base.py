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

from artist20 import UserError
from artist20.fetch import WEIGHTS
from artist20.files import sha256_file
from artist20.results import EncoderSettings

UNTRAINED = "untrained"  # in place of a weights file: random ones, to try the code
# Audio embedded at a time. For ECAPA 800 s take 11 GB, and 2,400 s are more numbers than fit into
# 32-bit indices.
MAX_BATCH_SECONDS = {"cpu": 160.0, "cuda": 400.0}
MAX_PARTS = 4  # of a batch that are embedded at the same time on a CPU
MIN_PER_PART = 4  # waveforms: of three, one core would have two, and the other wait for it


@dataclass(frozen=True)
class Definition:
    """What a file of this package says of its encoder.

    Attributes
    ----------
    sample_rate : int
        Of the waveforms that it takes, in Hz.
    size : int
        Numbers in an embedding.
    window_seconds : float
        Length of the windows that songs are cut into, as in its training.
    min_seconds : float
        Shorter waveforms are padded with silence.
    make : callable
        -> the network with random weights: (batch, n_samples) float32 -> (batch, size).
    read : callable
        The published file -> the network's state dict; never runs code of the file.
    front_end : str, optional
        The part of the network that is computed, not learned, and not in the file.
    """

    sample_rate: int
    size: int
    window_seconds: float
    min_seconds: float
    make: Callable[[], nn.Module]
    read: Callable[[Path], dict[str, Any]]
    front_end: str | None = None


@dataclass(frozen=True)
class Encoder:
    """A frozen network.

    Attributes
    ----------
    settings : EncoderSettings
        Its name, weights and sample rate.
    definition : Definition
        What it takes and gives.
    network : nn.Module
        (batch, n_samples) -> (batch, size). In eval mode, no parameter requires a gradient.
    precision : torch.dtype
        What autocast computes products in.
    """

    settings: EncoderSettings
    definition: Definition
    network: nn.Module
    precision: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where it computes, and takes waveforms."""
        return next(self.network.parameters()).device

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
        rate, device_type = self.definition.sample_rate, self.device.type
        shortest = round(self.definition.min_seconds * rate)
        padded = (F.pad(waveform, (0, max(0, shortest - len(waveform)))) for waveform in waveforms)
        # On a CPU, parts of a batch side by side, each on its share of the cores: an LSTM's small
        # products gain nothing from a second core, and wait for one that is busy.
        cores = torch.get_num_threads()
        n_parts = min(cores, MAX_PARTS) if device_type == "cpu" else 1
        embeddings: list[Tensor] = []
        with ThreadPoolExecutor(
            n_parts, initializer=_use_cores, initargs=(cores // n_parts,)
        ) as pool:
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


def load(
    name: str,
    definition: Definition,
    weights: Path | None,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
) -> Encoder:
    """Load published weights, or make an untrained encoder; see :func:`artist20.encoders.load`."""
    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = definition.make()
        digest = f"{UNTRAINED}, seed {seed}"
        print(f"encoder: UNTRAINED {name}: its figures say nothing about the published one")
    else:
        published = WEIGHTS[name]
        digest = published.sha256
        fetched = f"'bash get_dataset.sh --encoder {name}' fetches it"
        if not weights.is_file():
            # Not in checkpoints: they would be hundreds of MB larger.
            raise UserError(
                f"{weights}, the published weights of {name}, is missing: {fetched} "
                f"({published.size / 1e6:.0f} MB); by hand: {published.by_hand(weights)}, or say "
                f"with --encoder-weights where it is, or '--encoder-weights {UNTRAINED}' to try "
                "the code without it"
            )
        found = sha256_file(weights)
        if found != digest:
            raise UserError(
                f"{weights} is not the published file of {name} (its SHA-256 is {found}): {fetched}"
            )
        network = definition.make()
        computed = {
            key: value
            for key, value in network.state_dict().items()
            if key.partition(".")[0] == definition.front_end
        }
        network.load_state_dict(definition.read(weights) | computed)
        print(f"encoder: {name}, {weights}")
    network.eval().requires_grad_(False).to(device)
    settings = EncoderSettings(name=name, weights=digest, sample_rate=definition.sample_rate)
    return Encoder(settings, definition, network, precision)
