"""Frozen pretrained encoders behind one interface, one file each: waveforms -> embeddings.

To add one: a file here with its :class:`~artist20.encoders.base.Definition`, a line in
:data:`ENCODERS`, its weights in :data:`artist20.fetch.WEIGHTS`, its title in
:data:`artist20.naming.ENCODER_TITLES`.
"""

from pathlib import Path

import torch
from torch import nn

from artist20 import UserError
from artist20.encoders import ecapa, ge2e, panns, tagger
from artist20.encoders.base import UNTRAINED, Definition, Encoder
from artist20.fetch import WEIGHTS
from artist20.files import sha256_file
from artist20.results import EncoderSettings

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
    """Load frozen encoders, named as in :data:`ENCODERS`.

    ``weights`` is the path of one encoder's published weights, ``"untrained"`` for random ones, by
    the seed, or None for what ``get_dataset.sh`` fetched. The precision is that of products;
    spectra are computed in float32.

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
        definition = ENCODERS[name]
        if weights == UNTRAINED:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                network = definition.make()
            digest = f"{UNTRAINED}, seed {seed}"
            print(f"encoder: UNTRAINED {name}: its figures say nothing about the published one")
        else:
            path, digest = Path(weights or WEIGHTS[name].path()), WEIGHTS[name].sha256
            network = _read_published(name, path)
            print(f"encoder: {name}, {path}")
        network.eval().requires_grad_(False).to(device)
        settings = EncoderSettings(name=name, weights=digest, sample_rate=definition.sample_rate)
        encoders.append(Encoder(settings, definition, network, precision))
    return encoders


def _read_published(name: str, path: Path) -> nn.Module:
    published, definition = WEIGHTS[name], ENCODERS[name]
    fetched = f"'bash get_dataset.sh --encoder {name}' fetches it"
    if not path.is_file():
        # Not in checkpoints: they would be hundreds of MB larger.
        raise UserError(
            f"{path}, the published weights of {name}, is missing: {fetched} "
            f"({published.size / 1e6:.0f} MB); by hand: {published.by_hand(path)}, or say "
            f"with --encoder-weights where it is, or '--encoder-weights {UNTRAINED}' to try "
            "the code without it"
        )
    found = sha256_file(path)
    if found != published.sha256:
        raise UserError(
            f"{path} is not the published file of {name} (its SHA-256 is {found}): {fetched}"
        )
    network = definition.make()
    state = network.state_dict()
    computed = {key: state[key] for key in state if key.partition(".")[0] == definition.front_end}
    network.load_state_dict(definition.read(path) | computed)
    return network
