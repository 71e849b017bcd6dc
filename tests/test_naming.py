"""artist20.naming: names of models in files, in tables, as options."""

import re
from pathlib import Path

import pytest
from conftest import refused

from artist20 import naming


@pytest.mark.parametrize(
    ("parts", "name", "title"),
    [
        (("panns", "homework", None), "panns", "PANNs + MLP"),
        (("panns", "strong", None), "panns_strong", "PANNs, strong recipe"),
        (("panns-32k", "homework", "v"), "panns-32k@v", "PANNs 32 kHz + MLP, on v"),
        (("resnet", "homework", None), "resnet", "ResNet"),
        (
            ("resnet", "strong", "artist20_vocals"),
            "resnet_strong@artist20_vocals",
            "ResNet, strong recipe, on artist20_vocals",
        ),
        (
            ("ge2e", "strong", "a.b-c_strong"),
            "ge2e_strong@a.b-c_strong",
            "GE2E, strong recipe, on a.b-c_strong",
        ),
        (
            ("ecapa+tagger", "strong", None),
            "ecapa+tagger_strong",
            "ECAPA-TDNN + Music tagger, strong recipe",
        ),
    ],
)
def test_names_of_networks(parts, name, title):
    assert naming.network_name(*parts) == name
    assert naming.parse_network_name(name) == naming.NetworkName(*parts)
    assert naming.title(name) == title


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x",
        "svms",
        "resnet_weak",
        "resnet+ge2e",
        "ecapa,ge2e",
        "ecapa+",
        "_strong",
        "panns_strong_strong",
    ]
    + [f"resnet@{rendition}" for rendition in ("", "a b", "a/b", "a@b", "..", "a+b")],
)
def test_what_is_no_name_of_a_model(name):
    with pytest.raises(ValueError, match=re.escape(f"unknown model {name!r}")):
        naming.title(name)


def test_task1_and_the_ensemble_have_titles():
    assert naming.title("knn") == "k-NN"
    assert naming.title("ensemble") == "Ensemble"


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        (None, None),
        ("data/artist20_vocals", "artist20_vocals"),
        ("/somewhere/Gesang_für.2/", "Gesang_für.2"),
        (".", "here-1"),
    ],
)
def test_a_renditions_name_is_its_trees(tmp_path, monkeypatch, directory, name):
    (tmp_path / "here-1").mkdir()
    monkeypatch.chdir(tmp_path / "here-1")
    assert naming.rendition_name(directory and Path(directory)) == name


@pytest.mark.parametrize("directory", ["my vocals", "a@b", "a,b", "a+b", "x/..", "/"])
def test_a_tree_whose_name_cannot_be_a_models_is_told(directory):
    message = refused(naming.rendition_name, Path(directory))
    assert message.startswith(f"--audio-root {directory}: ")
