"""Frozen pretrained encoders behind one interface, one file each: waveforms -> embeddings.

To add one: a file here with its :class:`~artist20.encoders.base.Definition`, a line in
:data:`ENCODERS`, its weights in :data:`artist20.fetch.WEIGHTS`, its title in
:data:`artist20.naming.ENCODER_TITLES`.
"""

from pathlib import Path

import torch

from artist20 import UserError
from artist20.encoders import base, ecapa, ge2e, panns, tagger
from artist20.encoders.base import UNTRAINED, Definition, Encoder
from artist20.fetch import WEIGHTS

ENCODERS: dict[str, Definition] = {
    "panns": panns.FOR_16K,
    "panns-32k": panns.FOR_32K,
    "ecapa": ecapa.DEFINITION,
    "ge2e": ge2e.DEFINITION,
    "tagger": tagger.DEFINITION,
}


def load(
    names: list[str], weights: str | None, seed: int, device: torch.device, precision: torch.dtype
) -> list[Encoder]:
    """Load frozen encoders.

    Parameters
    ----------
    names : list of str
        Keys of :data:`ENCODERS`.
    weights : str or None
        Path of one encoder's published weights, ``"untrained"`` for random ones, or None for what
        ``get_dataset.sh`` fetched.
    seed : int
        Of untrained weights.
    device : torch.device
        Where to put them.
    precision : torch.dtype
        Of their products; spectra are computed in float32.

    Raises
    ------
    UserError
        If weights are missing, or others than the published ones, or if the encoders take
        waveforms of different rates.
    """
    if len({ENCODERS[name].sample_rate for name in names}) > 1:
        raise UserError(f"{','.join(names)}: encoders of different sample rates cannot be combined")
    if len(names) > 1 and weights not in (None, UNTRAINED):
        raise UserError("--encoder-weights names one file: leave it out with several encoders")
    encoders = []
    for name in names:
        path = None if weights == UNTRAINED else Path(weights or WEIGHTS[name].path())
        encoders.append(base.load(name, ENCODERS[name], path, seed, device, precision))
    return encoders
