"""Names of models: in files, in tables, and as options of the scripts."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from artist20 import UserError, printable

# Names of models for people: Task 1's and the ensemble, see :func:`title`.
TITLES = {
    "svm": "SVM",
    "random_forest": "Random forest",
    "knn": "k-NN",
    "logistic_regression": "Logistic regression",
    "lda": "Shrinkage LDA",
    "ensemble": "Ensemble",
}
# The same of frozen encoders; a network's name is made of these, see :func:`network_name`.
ENCODER_TITLES = {
    "panns": "PANNs",
    "panns-32k": "PANNs 32 kHz",
    "ecapa": "ECAPA-TDNN",
    "ge2e": "GE2E",
    "tagger": "Music tagger",
}
CONVOLUTIONS = ":convolutions"  # ends a network's name: what they answer, without its LDA
# How names of models end for people where figures mean nothing.
UNTRAINED_MARK, NOT_LEARNT_MARK = ", untrained encoder", ", did not learn"
RENDITION = re.compile(r"\w[\w.-]*")  # the name of a tree that can be part of a model's name


def network_name(model: str, recipe: str, rendition: str | None = None) -> str:
    """Join ``<model>[_strong][@<rendition>]``: a network's name in files and tables.

    ``model`` is ``"resnet"``, or a key of :data:`ENCODER_TITLES`, or several joined by ``+``.
    """
    name = model if recipe == "homework" else f"{model}_{recipe}"
    return name + rendition_suffix(rendition)


def rendition_suffix(rendition: str | None) -> str:
    """Return ``@<rendition>``, or nothing."""
    return f"@{rendition}" if rendition else ""


@dataclass(frozen=True)
class NetworkName:
    """What :func:`network_name` made a name of."""

    model: str
    recipe: str
    rendition: str | None


def parse_network_name(name: str) -> NetworkName:
    """Take a network's name apart; a ``ValueError`` if it is none."""
    before, at, rendition = name.partition("@")
    model = before.removesuffix("_strong")
    known = model == "resnet" or ENCODER_TITLES.keys() >= set(model.split("+"))
    if not known or (at and not RENDITION.fullmatch(rendition)):
        raise ValueError(f"unknown model {name!r}")
    recipe = "homework" if model == before else "strong"
    return NetworkName(model, recipe, rendition or None)


def title(name: str) -> str:
    """Return a model's name for people, such as ``"ResNet, strong recipe, on artist20_vocals"``.

    A ``ValueError`` if there is no such model.
    """
    if name in TITLES:
        return TITLES[name]
    named = parse_network_name(name)
    encoders = [ENCODER_TITLES.get(each, "ResNet") for each in named.model.split("+")]
    if named.recipe == "strong":
        how = ", strong recipe"
    else:
        how = "" if named.model == "resnet" else " + MLP"
    on = f", on {named.rendition}" if named.rendition else ""
    return " + ".join(encoders) + how + on


def rendition_name(audio_root: Path | None) -> str | None:
    """Return what a model's name has of --audio-root: the folder's own name, if it can be that."""
    if audio_root is None:
        return None
    name = audio_root.absolute().name
    if not RENDITION.fullmatch(name):
        raise UserError(
            f"--audio-root {printable(audio_root)}: the folder's name is to be part of the model's,"
            " where letters, digits, '_', '-' and '.' can stand: rename it, or name a link to it"
        )
    return name


def task1_options(
    level: str = "song", audio_root: Path | str | None = None, search: str = "homework"
) -> str:
    """Return the options by which Task 1's commands know its models, each behind a space."""
    of_segments = " --level segment" if level == "segment" else ""
    wide = " --search wide" if search == "wide" else ""
    return of_segments + wide + audio_root_option(audio_root)


def network_options(name: str, audio_root: Path | str | None = None) -> str:
    """Return the options by which Task 2's scripts know a network, each behind a space."""
    named = parse_network_name(name)
    is_default = named.model in ("panns", "resnet")  # of one of the two scripts
    encoder = "" if is_default else f" --encoder {named.model.replace('+', ',')}"
    recipe = "" if named.recipe == "homework" else f" --recipe {named.recipe}"
    return encoder + recipe + audio_root_option(audio_root)


def audio_root_option(audio_root: Path | str | None) -> str:
    """Return the option by which scripts know a rendition, behind a space."""
    return f" --audio-root {shlex.quote(str(audio_root))}" if audio_root else ""
