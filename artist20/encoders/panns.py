"""Cnn14 of PANNs, trained on AudioSet (Kong et al. 2020), for 16 kHz and for 32 kHz.

Q. Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition".
"""

import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from artist20 import UserError, fetch
from artist20.encoders.base import UNTRAINED, Encoder
from artist20.files import sha256_file
from artist20.results import EncoderSettings

SIZE = 2048
MIN_SECONDS = 1.0  # Cnn14 halves its input five times and fails on clips under half a second


@dataclass(frozen=True)
class FrontEnd:
    """What a Cnn14 hears: its rate in Hz, window and hop in samples, mel bins and their range."""

    sample_rate: int
    window_size: int
    hop_size: int
    mel_bins: int
    fmin: int
    fmax: int


FRONT_ENDS = {
    fetch.CNN14_16K.sha256: FrontEnd(16_000, 512, 160, 64, 50, 8_000),
    fetch.CNN14_32K.sha256: FrontEnd(32_000, 1024, 320, 64, 50, 14_000),
}


def load(weights: str, seed: int, device: torch.device, precision: torch.dtype) -> Encoder:
    """Load a Cnn14 with published weights, or make an untrained one.

    Parameters
    ----------
    weights : str
        Path of one of the two published files, told apart by their SHA-256, or ``"untrained"``.
    seed : int
        Seed of an untrained network's weights.
    device : torch.device
        Where to put it.
    precision : torch.dtype
        Of its convolutions; its front end is always computed in float32.

    Raises
    ------
    UserError
        If the file is missing, or is none of the published ones.
    """
    if weights == UNTRAINED:
        front_end, digest = FRONT_ENDS[fetch.CNN14_16K.sha256], f"{UNTRAINED}, seed {seed}"
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = make_cnn14(front_end.sample_rate)
        print("encoder: UNTRAINED Cnn14: its figures say nothing about PANNs")
    else:
        path = Path(weights)
        if not path.is_file():
            raise UserError(
                f"{path} is missing: 'bash get_dataset.sh --weights' fetches it, or "
                f"'--encoder-weights {UNTRAINED}' runs without (its figures mean nothing)"
            )
        digest = sha256_file(path)
        if digest not in FRONT_ENDS:
            raise UserError(
                f"{path} is neither of the published Cnn14 weights (its SHA-256 is {digest}): "
                "move it away and run 'bash get_dataset.sh --weights'"
            )
        front_end = FRONT_ENDS[digest]
        network = make_cnn14(front_end.sample_rate)
        network.load_state_dict(_read_state_dict(path))
        print(f"encoder: Cnn14 for {front_end.sample_rate} Hz, {path}")
    front: Any
    for front in (network.spectrogram_extractor, network.logmel_extractor):
        # Levels in dB need more digits than bfloat16 has.
        front.forward = torch.autocast(device.type, enabled=False)(front.forward)
    network.to(device)
    settings = EncoderSettings(name="panns", weights=digest, sample_rate=front_end.sample_rate)
    return Encoder(
        settings,
        SIZE,
        MIN_SECONDS,
        network,
        lambda waveforms: network(waveforms)["embedding"],
        precision,
    )


def make_cnn14(sample_rate: int) -> nn.Module:
    """Make a frozen Cnn14 for a rate in Hz, with random weights."""
    front_end = next(each for each in FRONT_ENDS.values() if each.sample_rate == sample_rate)
    network = _import_cnn14()(**vars(front_end), classes_num=527)
    return network.eval().requires_grad_(False)


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


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read ``{"model": state_dict, ...}``; beside it the 16 kHz file holds NumPy numbers."""
    reconstruct = np._core.multiarray._reconstruct  # type: ignore[attr-defined]
    allowed: list[Any] = [
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        np.dtypes.Int64DType,
    ]
    with torch.serialization.safe_globals(allowed):
        return torch.load(path, map_location="cpu", weights_only=True)["model"]
