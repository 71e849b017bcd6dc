"""Rows of an architecture diagram: shapes, parameters, operations."""

import pytest
import torch
import torch.nn.functional as F
from conftest import toy_network
from torch import nn

from artist20.encoders import panns
from artist20.report.architecture import CNN14_FUNCTIONS, Layer, describe

SHAPE = (130, 64)


def total(model):
    return sum(p.numel() for p in model.parameters())


def test_rows_of_the_resnet_hold_every_parameter_and_the_real_shapes():
    model = toy_network("resnet", 7)
    rows = describe(model, SHAPE, "log-mel", {"pooling": "mean and max"})
    assert sum(row.n_parameters for row in rows) == total(model)
    assert all(row.n_trainable == row.n_parameters for row in rows)
    model = toy_network("resnet", 7).eval()
    shapes = {}
    for name in ("stem.3", "stage1.1", "stage2.0", "stage3.1", "hidden", "output"):
        model.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: tuple(output.shape[1:])})
        )
    with torch.no_grad():
        model(torch.zeros(2, *SHAPE))
    shapes["hidden.0"] = shapes.pop("hidden")
    found = {row.name: row.output_shape for row in rows}
    assert {name: found[name] for name in shapes} == shapes
    assert [row.name for row in rows] == [
        *("log-mel", "standardize", "stem.0", "stem.3", "stage1.0", "stage1.1", "stage2.0"),
        *("stage2.1", "stage3.0", "stage3.1", "pooling", "hidden.0", "output"),
    ]
    assert [row.kind for row in rows if row.name in ("log-mel", "standardize", "pooling")] == [
        "input",
        "front end",
        "pooling",
    ]


def test_details_are_read_from_the_modules():
    pooling = {"pooling": "mean and max"}
    rows = {row.name: row for row in describe(toy_network("resnet", 7), SHAPE, "log-mel", pooling)}
    assert rows["stem.0"].detail == "7×7 conv, 1 → 64, stride 2, batch norm, ReLU"
    assert rows["stem.3"].detail == "3×3 max pool, stride 2"
    block = "residual block: 2 convs 3×3, 64 → "
    assert rows["stage1.0"].detail == f"{block}64; shortcut: identity"
    assert rows["stage2.0"].detail == f"{block}128, stride 2; shortcut: 1×1 conv"
    assert rows["pooling"] == Layer("pooling", "pooling", "mean and max", (512,))
    assert rows["hidden.0"].detail == "linear 512 → 256, LayerNorm, ReLU, dropout 0.3"
    assert rows["output"].detail == "linear 256 → 7"


def test_the_strong_recipe_has_bands_and_a_shortcut():
    shares = {"lda_share": 0.5, "long_lda_share": 0.5}
    model = toy_network("resnet", 7, width=8, keep_frequency=True, bins_per_band=4, **shares)
    rows = describe(model, (SHAPE[0], 64 + 128), "log-mel")
    assert sum(row.n_parameters for row in rows) == total(model)
    assert [row.name for row in rows if row.shortcut] == ["statistics", "long_statistics"]
    by_name = {row.name: row for row in rows}
    assert by_name["bands"].detail == "average of 4 neighbouring bins"
    assert by_name["bands"].output_shape == (130, 16)
    assert by_name["pooling"].output_shape == (2 * 32,)  # 4 strides of 2 leave 1 of 16 bands
    assert by_name["statistics"].output_shape == by_name["output"].output_shape == (7,)
    assert by_name["statistics"].detail.endswith("LDA 658 → 7")
    assert by_name["long_statistics"].detail.endswith("LDA 658 → 7, of windows 4 times as long")


def test_frozen_layers_are_told_from_trained_ones_and_from_those_without_parameters():
    model = toy_network("panns", 20)
    model.hidden[:2].requires_grad_(False)
    rows = {row.name: row for row in describe(model, (2048,), "embedding")}
    assert [name for name, row in rows.items() if row.frozen] == ["hidden.0"]
    frozen = 2048 * 1024 + 3 * 1024
    assert rows["hidden.0"].n_parameters == frozen
    assert rows["hidden.0"].detail == "linear 2048 → 1024, LayerNorm, ReLU, dropout 0.3"
    assert rows["standardize"].n_parameters == 0
    assert sum(row.n_trainable for row in rows.values()) == total(model) - frozen


@pytest.fixture(scope="module")
def cnn14():
    return panns.make_cnn14(16_000)


def test_functions_of_cnn14_are_what_it_computes(cnn14):
    outputs, inputs = {}, {}

    def keep(module, x, y):
        inputs[names[module]], outputs[names[module]] = x[0], y

    names = {module: name for name, module in cnn14.named_modules()}
    hooks = [module.register_forward_hook(keep) for module in names]
    cnn14(torch.randn(1, 16_000))
    pools = [name for name, does in CNN14_FUNCTIONS.items() if does == "2×2 average pool"]
    assert len(pools) == 5
    for name in pools:  # the last convolution's output is rectified in place
        pooled = F.avg_pool2d(outputs[f"{name}.bn2"], 2)
        torch.testing.assert_close(outputs[name], pooled)
    last = outputs["conv_block6"].mean(dim=3)
    torch.testing.assert_close(inputs["fc1"], last.amax(dim=2) + last.mean(dim=2))
    assert outputs[""]["embedding"].min() == 0
    for hook in hooks:
        hook.remove()


def test_cnn14_is_frozen_and_ends_with_the_embedding(cnn14):
    n_parameters = total(cnn14) - total(cnn14.fc_audioset)
    cnn14.fc_audioset = nn.Identity()
    listed = describe(cnn14, (16_000,), "waveform", CNN14_FUNCTIONS)
    rows = {row.name: row for row in listed}
    assert sum(row.n_parameters for row in listed) == n_parameters
    assert all(row.frozen for row in listed if row.n_parameters)
    assert listed[-1] == Layer("fc1", "linear", "linear 2048 → 2048, ReLU", (2048,), 2048 * 2049, 0)
    assert rows["spectrogram_extractor"].detail == "Spectrogram, window 512, hop 160"
    assert rows["spectrogram_extractor"].output_shape == (1, 101, 257)
    assert rows["conv_block1"].detail == "2 convs 3×3, 1 → 64, 2×2 average pool"
    assert rows["conv_block1"].output_shape == (64, 50, 32)
    assert rows["conv_block6"].detail == "2 convs 3×3, 1024 → 2048"
    assert rows["pooling"].detail == "global mean and max, added"
    front_end = [row.name for row in listed if row.kind == "front end"]
    assert front_end == ["spectrogram_extractor", "logmel_extractor", "bn0"]
