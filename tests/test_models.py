import copy
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch
from conftest import toy_network, toy_settings

import task2_train_wo_pretrain as stage
from artist20 import modulation
from artist20.evaluation import window_starts
from artist20.linear import ShrinkageLDA
from artist20.models import BasicBlock, Standardize, TimeStatistics
from artist20.spectrogram import LogMels


def n_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def assert_gradient_reaches_all(model, x, n_classes):
    model.train()
    labels = torch.arange(len(x)) % n_classes
    torch.nn.functional.cross_entropy(model(x), labels).backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any() or not parameter.grad.isfinite().all()
    ]
    assert not without


def test_parameter_counts():
    assert n_parameters(toy_network("resnet", 20)) == 2_912_980 + 2 * 256
    assert n_parameters(toy_network("panns", 20)) == (
        (2048 + 1) * 1024 + (1024 + 1) * 512 + (512 + 1) * 256 + (256 + 1) * 20
    ) + 2 * (1024 + 512 + 256)
    assert n_parameters(toy_network("resnet", 21)) - n_parameters(toy_network("resnet", 20)) == 257


@pytest.mark.parametrize("n_frames", [1, 2, 3, 31, 64, 4688])
def test_resnet_takes_any_length(n_frames):
    torch.manual_seed(0)
    model = toy_network("resnet", 5).eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, n_frames, 64))
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


def test_resnet_has_the_stages_of_the_design():
    model = toy_network("resnet", 20).eval()
    shapes = {}
    for name in ("stem", "stage1", "stage2", "stage3", "hidden"):
        model.get_submodule(name).register_forward_hook(
            lambda _module, _x, y, name=name: shapes.update({name: tuple(y.shape)})
        )
    with torch.inference_mode():
        model(torch.randn(1, 128, 64))
    assert shapes == {  # channels x mels x frames
        "stem": (1, 64, 16, 32),
        "stage1": (1, 64, 16, 32),
        "stage2": (1, 128, 8, 16),
        "stage3": (1, 256, 4, 8),
        "hidden": (1, 256),
    }


def test_resnet_pools_mean_and_maximum():
    model = toy_network("resnet", 3).eval()
    seen = []
    model.stage3.register_forward_hook(lambda _module, _x, y: seen.append(y))
    model.hidden.register_forward_pre_hook(lambda _module, x: seen.append(x[0]))
    with torch.inference_mode():
        model(torch.randn(2, 100, 64))
    features, pooled = seen
    assert torch.allclose(pooled[:, :256], features.mean(dim=(2, 3)), atol=1e-6)
    assert torch.equal(pooled[:, 256:], features.amax(dim=(2, 3)))


def test_a_song_is_scored_alike_in_any_batch():
    torch.manual_seed(0)
    x = torch.randn(4, 50, 64)
    model = toy_network("resnet", 5).eval()
    with torch.inference_mode():
        together, alone = model(x), torch.cat([model(x[i : i + 1]) for i in range(4)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_gradient_reaches_every_parameter():
    torch.manual_seed(0)
    assert_gradient_reaches_all(toy_network("resnet", 5), torch.randn(5, 40, 64), 5)
    assert_gradient_reaches_all(toy_network("panns", 5), torch.randn(5, 2048), 5)


def test_block_without_change_of_shape_has_an_identity_shortcut():
    block = BasicBlock(4, 4, 1).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 4, 6, 6)
    assert torch.equal(block(x), x)
    assert BasicBlock(4, 8, 2)(x).shape == (1, 8, 3, 3)


def test_standardize():
    standardize = Standardize(3)
    x = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
    assert torch.equal(standardize(x), x)
    standardize.mean.copy_(torch.tensor([1.0, 2, 3]))
    standardize.std.copy_(torch.tensor([1.0, 2, 3]))
    assert standardize(x).tolist() == [[0, 0, 0], [3, 1.5, 1]]
    assert not list(standardize.parameters())


def test_a_checkpoint_carries_the_standardisation():
    trained = toy_network("resnet", 3)
    trained.standardize.mean.fill_(-40)
    trained.standardize.std.fill_(20)
    loaded = toy_network("resnet", 3)
    loaded.load_state_dict(trained.state_dict())
    x = torch.randn(1, 20, 64)
    assert torch.equal(loaded.eval()(x), trained.eval()(x))
    assert loaded.standardize.mean[0] == -40


def test_resnet_standardises_mel_bins():
    model = toy_network("resnet", 3).eval()
    x = torch.randn(1, 20, 64)
    expected = model(x)
    mean, std = torch.randn(64), torch.rand(64) + 0.5
    model.standardize.mean.copy_(mean)
    model.standardize.std.copy_(std)
    assert torch.allclose(model(x * std + mean), expected, atol=1e-4)


@pytest.mark.parametrize("width", [8, 32])
def test_width_scales_the_resnet(width):
    model = toy_network("resnet", 5, width=width, dropout=0.0)
    assert model.output.in_features == 4 * width
    assert model(torch.randn(3, 40, 64)).shape == (3, 5)
    assert_gradient_reaches_all(model, torch.randn(6, 40, 64), 5)


def test_convolutions_see_bands_of_averaged_bins():
    torch.manual_seed(0)
    fine = toy_network("resnet", 3, bins_per_band=4).eval()
    coarse = toy_network("resnet", 3, n_mels=16).eval()
    coarse.load_state_dict(
        {**fine.state_dict(), **coarse.standardize.state_dict(prefix="standardize.")}
    )
    x = torch.randn(2, 40, 64)
    bands = x.unflatten(2, (16, 4)).mean(dim=3)
    torch.testing.assert_close(fine(x), coarse(bands))
    torch.testing.assert_close(fine.embed(x), coarse.embed(bands))


def test_statistics_are_a_second_answer_of_all_columns():
    torch.manual_seed(0)
    model = toy_network("resnet", 5, bins_per_band=4, lda_share=2 / 3).eval()
    plain = toy_network("resnet", 5, bins_per_band=4).eval()
    plain.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("statistics.")}
    )
    x = torch.randn(3, 40, 64 + 128)
    bins = x[..., :64]
    answers = model(x).softmax(dim=1)
    torch.testing.assert_close(
        answers, (plain(bins).softmax(dim=1) + 2 * model.statistics(x).softmax(dim=1)) / 3
    )
    assert torch.equal(model.embed(x), plain.embed(bins))
    for column in range(64):  # each bin has its say, and not only its band
        changed = x.clone()
        changed[:, :, column] += 1
        assert not torch.allclose(model.statistics(changed), model.statistics(x))
    for column in range(64, 80):  # and each band, but not how loud it is
        changed = x.clone()
        changed[:, ::2, column::16] += 3
        assert not torch.allclose(model.statistics(changed), model.statistics(x), atol=1e-4)
        changed[:, 1::2, column::16] += 3
        torch.testing.assert_close(model.statistics(changed), model.statistics(x))


def test_time_statistics():
    rng = np.random.default_rng(0)
    x = rng.normal(-40, 10, (2, 50, 64 + 128)).astype(np.float32)
    model = TimeStatistics(64, 5, 0.1, 3.0)
    found = model.of(torch.from_numpy(x)).numpy()
    assert found.shape == (2, model.output.in_features)
    for row, song in zip(found, x.astype(float), strict=True):
        bins, short = song[:, :64], song[:, 64:].reshape(8 * 50, 16)
        cepstra = scipy.fft.dct(bins, norm="ortho", axis=1)[:, :20]
        covariance = np.cov(cepstra.T, bias=True)[np.triu_indices(20)]
        rates = modulation.spectrum(torch.from_numpy(short.T.astype(np.float32)))
        levels = [bins.mean(0), bins.std(0), bins.max(0), bins.min(0)]
        expected = np.concatenate([*levels, covariance, rates.numpy().ravel()])
        np.testing.assert_allclose(row, expected, rtol=1e-3, atol=1e-2)
    assert model.of(torch.from_numpy(x[:, :1])).isfinite().all()  # of a single frame, too


def test_statistics_are_exact_where_the_network_is_not():
    model = TimeStatistics(64, 5, 0.1, 3.0)
    x = torch.randn(2, 40, 64 + 128) * 10 - 40
    with torch.autocast("cpu", torch.bfloat16):
        found = model(x)
    assert torch.equal(found, model(x))


def test_statistics_answer_by_lda_and_are_not_trained():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 3, 4], 30)  # class 2 has no songs
    size = 4 * 8 + 210 + 192
    statistics = rng.normal(size=(120, size)) + rng.normal(size=(5, size))[labels]
    statistics[:, 7] = -2.6  # constant, and its float32 mean is not quite it
    model = toy_network("resnet", 5, n_mels=8, width=8, lda_share=0.5)
    model.statistics.fit(statistics.astype(np.float32), labels, rows_per_song=3)
    scaled = (statistics - statistics.mean(axis=0)) / statistics.std(axis=0).clip(1e-2)
    expected = ShrinkageLDA(0.1, 3).fit(scaled, labels).decision_function(scaled) / 3
    inputs = model.statistics.standardize(torch.from_numpy(statistics).float())
    found = (model.statistics.output(inputs) / model.statistics.temperature).numpy()
    np.testing.assert_allclose(found[:, [0, 1, 3, 4]], expected, atol=1e-3)
    assert (found[:, 2] < -1e5).all()

    x = torch.randn(3, 40, 8 + 128)
    assert model.eval()(x).shape == (3, 5)
    logits = model.train()(x)
    assert logits.shape == (3, 5)
    before = copy.deepcopy(model.statistics.state_dict())
    logits[:, 0].sum().backward()
    torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=1.0).step()
    for name, value in model.statistics.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_hidden_layers_the_mlp_is_logistic_regression():
    model = toy_network("panns", 5, 4096, hidden=())
    assert n_parameters(model) == (4096 + 1) * 5
    x = torch.randn(3, 4096)
    torch.testing.assert_close(model(x), x @ model.output.weight.T + model.output.bias)


@pytest.mark.parametrize("seed", range(3))
def test_hidden_units_of_the_resnet_live_at_the_homeworks_learning_rate(seed):
    torch.manual_seed(seed)
    model, given = toy_network("resnet", 4, width=16), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(16) % 4
    levels = torch.randn(4, 1, 64, generator=generator)[labels]
    for _ in range(20):
        x = levels + torch.randn(16, 60, 64, generator=generator)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    model.output.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    with torch.inference_mode():
        model.eval()(x)
    assert (given[0] > 0).any(dim=0).float().mean() > 0.5


def test_both_ldas_are_fitted_to_windows_of_their_lengths_before_training():
    shares = {"lda_share": 0.5, "long_lda_share": 0.25}
    settings = toy_settings("resnet", width=8, n_mels=8, n_fft=2048, bins_per_band=1, **shares)
    rng = np.random.default_rng(0)
    labels = np.arange(6) % 2
    songs = [rng.normal(label, 1, (250, 8 + 128)).astype(np.float16) for label in labels]
    run = SimpleNamespace(
        classes=["a", "b"],
        labels=labels,
        settings=settings,
        experiment=SimpleNamespace(device=torch.device("cpu")),
        goes_on=False,
    )
    given = (LogMels(songs), np.zeros(8, np.float32), np.ones(8, np.float32), 30, run)
    model = stage.make_model(*given)
    for lda, length in ((model.statistics, 30), (model.long_statistics, 120)):
        starts = [window_starts(250, length) for _ in songs]
        windows = [song[a : a + length] for song, of in zip(songs, starts, strict=True) for a in of]
        wanted = TimeStatistics(8, 2, lda.shrinkage, lda.temperature)
        of_windows = wanted.of(torch.from_numpy(np.stack(windows)).float()).numpy()
        wanted.fit(of_windows, np.repeat(labels, len(starts[0])), len(starts[0]))
        torch.testing.assert_close(lda.state_dict(), wanted.state_dict())
    run.goes_on = True  # with a checkpoint that has them
    assert (stage.make_model(*given).long_statistics.standardize.std == 1).all()
