import argparse
import hashlib
import os
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, make_waveform
from torch import nn

import task2_train
from artist20 import UserError, audio, cli, panns
from artist20.files import sha256_file

REPOSITORY = Path(__file__).resolve().parents[1]
RATE = 16_000
CPU = torch.device("cpu")


def noise(seconds, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(int(seconds * RATE), generator=generator)


def weights_hash(network):
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


class Toy(nn.Module):
    """Stands in for Cnn14: a row of statistics per waveform, and a count of the calls."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, panns.EMBEDDING_SIZE))
        self.lengths = []

    def forward(self, waveforms):
        self.lengths += [waveforms.shape[1]] * len(waveforms)
        # Not clean ones: sums over a batch differ from sums over one in the last bits.
        loudness = torch.stack([each.square().mean() for each in waveforms])
        return {"embedding": loudness[:, None] * self.weight}


@pytest.fixture
def toy():
    return panns.Backbone(Toy(), RATE, "untrained, seed 0", torch.float32)


@pytest.fixture(scope="module")
def untrained():
    return panns.load_backbone("untrained", 0, CPU, torch.float32)


@pytest.fixture
def quick_init(monkeypatch):
    """Leave fresh networks' weights as the memory was: they are about to be loaded."""
    for name in ("kaiming_uniform_", "xavier_uniform_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_args, **_options: tensor)


# --- importing ---------------------------------------------------------------------------------


def test_importing_cnn14_fetches_and_writes_nothing(tmp_path):
    home, stubs, marker = tmp_path / "home", tmp_path / "bin", tmp_path / "wget_was_called"
    home.mkdir()
    stubs.mkdir()
    for program in ("wget", "curl"):
        (stubs / program).write_text(f'#!/bin/sh\ntouch "{marker}"\n')
        (stubs / program).chmod(0o755)
    code = (
        "from artist20 import panns\n"
        "assert panns.import_cnn14().__name__ == 'Cnn14'\n"
        "assert panns.import_cnn14() is panns.import_cnn14()\n"
    )
    environment = {
        **os.environ,
        "HOME": str(home),
        "MPLCONFIGDIR": str(tmp_path),  # Matplotlib's cache is its own affair
        "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    assert list(home.iterdir()) == []


# --- weights files -----------------------------------------------------------------------------


def published_file(path, sample_rate):
    """Write a weights file of the published ones' form; return the state_dict in it.

    Every tensor is one number, stored once, so that the file is small. The 16 kHz file holds an
    array of int64 beside the weights, and names NumPy 1's module for it.
    """
    network = panns.empty_cnn14(sample_rate)
    state_dict = {
        name: torch.tensor((i + 1) / 1000 if value.is_floating_point() else i).expand(value.shape)
        for i, (name, value) in enumerate(network.state_dict().items())
    }
    if sample_rate != 16_000:
        torch.save({"iteration": 600_000, "model": state_dict}, path)
        return state_dict
    content = {"iteration": 600_000, "model": state_dict, "sampler": {"indexes": np.arange(5)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()  # names are plain lines in it
    new, old = b"cnumpy._core.multiarray\n_reconstruct", b"cnumpy.core.multiarray\n_reconstruct"
    assert data.count(new) == 1
    path.write_bytes(data.replace(new, old))
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.core\.multiarray\._reconstruct"):
        torch.load(path, weights_only=True)
    return state_dict


def register(monkeypatch, path, sample_rate):
    front_end = next(each for each in panns.FRONT_ENDS.values() if each.sample_rate == sample_rate)
    monkeypatch.setitem(panns.FRONT_ENDS, sha256_file(path), front_end)


@pytest.mark.parametrize("sample_rate", [16_000, 32_000])
def test_a_published_file_is_loaded(tmp_path, monkeypatch, capsys, quick_init, sample_rate):
    path = tmp_path / "Cnn14.pth"
    state_dict = published_file(path, sample_rate)
    register(monkeypatch, path, sample_rate)
    backbone = panns.load_backbone(str(path), 0, CPU, torch.float32)
    assert backbone.sample_rate == sample_rate
    assert backbone.pretrained
    assert backbone.weights == sha256_file(path)
    loaded = backbone.network.state_dict()
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state_dict.items())
    assert not backbone.network.training
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())
    assert f"Cnn14 for {sample_rate} Hz" in capsys.readouterr().out
    window = {16_000: 512, 32_000: 1024}[sample_rate]
    assert loaded["spectrogram_extractor.stft.conv_real.weight"].shape[-1] == window


def test_the_two_front_ends_are_those_of_the_published_networks():
    settings = [tuple(vars(each).values()) for each in panns.FRONT_ENDS.values()]
    assert settings == [(16_000, 512, 160, 64, 50, 8_000), (32_000, 1024, 320, 64, 50, 14_000)]
    digests = list(panns.FRONT_ENDS)
    assert [digest[:8] for digest in digests] == ["e2ee543a", "0dc499e4"]


def test_a_file_with_a_wrong_checksum_is_refused(tmp_path):
    path = tmp_path / "Cnn14.pth"
    path.write_bytes(b"not the weights")
    with pytest.raises(UserError) as error:
        panns.load_backbone(str(path), 0, CPU, torch.float32)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    assert sha256_file(path) in message
    assert "get_dataset.sh --weights" in message


def test_a_missing_file_names_both_ways_out(tmp_path):
    with pytest.raises(UserError) as error:
        panns.load_backbone(str(tmp_path / "Cnn14.pth"), 0, CPU, torch.float32)
    message = str(error.value)
    assert "\n" not in message
    assert "Cnn14.pth is missing" in message
    assert "bash get_dataset.sh --weights" in message
    assert "--backbone-weights untrained" in message


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cannot_run_code(tmp_path, monkeypatch, quick_init, legacy):
    path, marker = tmp_path / "Cnn14.pth", tmp_path / "ran"
    content = {"model": {}, "sampler": Evil(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    # The control, on the file just made: read the unsafe way, it does run.
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()
    register(monkeypatch, path, RATE)
    with pytest.raises(pickle.UnpicklingError, match=r"Unsupported global|Weights only"):
        panns.load_backbone(str(path), 0, CPU, torch.float32)
    assert not marker.exists()


# --- the untrained network ---------------------------------------------------------------------


def test_untrained_is_decided_by_its_seed_and_leaves_the_global_state(untrained, capsys):
    assert untrained.weights == "untrained, seed 0"
    assert not untrained.pretrained
    assert untrained.sample_rate == RATE
    torch.manual_seed(5)
    before = torch.get_rng_state()
    again = panns.load_backbone("untrained", 0, CPU, torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights_hash(again.network) == weights_hash(untrained.network)
    assert not again.network.training
    assert not any(parameter.requires_grad for parameter in again.network.parameters())
    assert "UNTRAINED" in capsys.readouterr().out


def test_untrained_networks_of_other_seeds_differ(monkeypatch):
    def make(_front_end):
        network = nn.Linear(3, 3)
        network.spectrogram_extractor = network.logmel_extractor = nn.Identity()
        return network

    monkeypatch.setattr(panns, "_make_cnn14", make)
    hashes = {
        weights_hash(panns.load_backbone("untrained", s, CPU, torch.float32).network)
        for s in (0, 1, 2)
    }
    assert len(hashes) == 3


# --- embedding ---------------------------------------------------------------------------------


def test_embeddings_do_not_depend_on_the_batch(untrained):
    windows = [noise(1.5, 0), noise(1.5, 1), noise(1.0, 2), noise(1.5, 3)]
    together = panns.embed(untrained, windows)
    alone = np.concatenate([panns.embed(untrained, [window]) for window in windows])
    assert together.shape == (4, panns.EMBEDDING_SIZE)
    assert together.dtype == np.float32
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-4


def test_half_precision_leaves_the_front_end_exact(untrained):
    half = panns.load_backbone("untrained", 0, CPU, torch.bfloat16)
    seen = {}
    for name, backbone in (("exact", untrained), ("half", half)):
        keep = lambda _module, _x, y, name=name: seen.update({name: y})  # noqa: E731
        hook = backbone.network.logmel_extractor.register_forward_hook(keep)
        clip = torch.from_numpy(make_waveform(next(iter(ARTISTS)), 1, 2.0))
        seen[f"{name} embedding"] = panns.embed(backbone, [clip])
        hook.remove()
    assert seen["half"].dtype == torch.float32
    assert torch.equal(seen["half"], seen["exact"])
    assert seen["half embedding"].dtype == np.float32
    assert (seen["half embedding"] != seen["exact embedding"]).any()
    np.testing.assert_allclose(seen["half embedding"], seen["exact embedding"], atol=0.02)


def test_clips_under_a_second_are_padded_with_silence(untrained):
    clip = noise(0.05)
    padded = torch.cat([clip, torch.zeros(RATE - len(clip))])
    assert np.array_equal(panns.embed(untrained, [clip]), panns.embed(untrained, [padded]))


def test_a_batch_holds_neighbours_of_equal_length_up_to_its_limit(toy, monkeypatch):
    monkeypatch.setitem(panns.MAX_BATCH_SECONDS, "cpu", 4.0)
    batches = []
    toy.network.register_forward_pre_hook(lambda _module, x: batches.append(tuple(x[0].shape)))
    waveforms = [noise(2), noise(2), noise(2), noise(1), noise(0.5), noise(9)]
    assert len(panns.embed(toy, waveforms)) == 6
    assert batches == [(2, 2 * RATE), (1, 2 * RATE), (2, RATE), (1, 9 * RATE)]


def test_windows_cover_the_song():
    song = np.arange(10 * RATE)
    windows = list(panns.cut_windows(song, 3 * RATE, None, CPU))
    assert [len(window) for window in windows] == [3 * RATE] * 4
    assert windows[0][0] == 0
    assert windows[-1][-1] == len(song) - 1
    assert len(torch.cat(windows).unique()) == len(song)


def test_windows_of_short_songs_and_at_most_so_many():
    song = np.arange(10 * RATE)
    (middle,) = panns.cut_windows(song, 4 * RATE, 1, CPU)
    assert middle[0] == 3 * RATE
    assert len(list(panns.cut_windows(song, RATE, 2, CPU))) == 2
    (whole,) = panns.cut_windows(song, 20 * RATE, None, CPU)
    assert np.array_equal(whole, song)


@pytest.mark.parametrize("seconds", [0.01, 0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("crop_seconds", [0.01, 1.5])
def test_views_of_any_song_are_audio(seconds, crop_seconds):
    n_samples = int(crop_seconds * RATE)
    views = list(panns.cut_views(noise(seconds).numpy(), n_samples, 4, RATE, (0, 1), CPU))
    assert len(views) == 4
    assert all(view.isfinite().all() for view in views)
    lengths = [len(view) for view in views]
    if max(seconds, 1.0) >= 1.1 * crop_seconds + 0.01:
        assert lengths == [n_samples] * 4
    else:
        slowest, fastest = panns.STRETCH_RATES
        longest_source = max(seconds, 1.0) * RATE
        assert all(longest_source / fastest - 1 <= n <= longest_source / slowest for n in lengths)


def test_views_are_decided_by_their_seed():
    waveform = noise(4).numpy()
    torch.manual_seed(0)
    views = list(panns.cut_views(waveform, RATE, 3, RATE, (0, 1), CPU))
    torch.manual_seed(1)
    again = panns.cut_views(waveform, RATE, 3, RATE, (0, 1), CPU)
    assert all(map(torch.equal, views, again))
    for seed in ((0, 2), (1, 1)):
        others = panns.cut_views(waveform, RATE, 3, RATE, seed, CPU)
        assert not any(map(torch.equal, views, others))
    assert not torch.equal(views[0], views[1])


# --- cache -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("songs")
    files = [folder / f"{i}.wav" for i in range(3)]
    for i, file in enumerate(files):
        soundfile.write(file, noise(2 + i, seed=i).numpy(), RATE)
    return files


def keys_of(files):
    return [sha256_file(file) for file in files]


def views_of(folder, files, backbone, **changes):
    options = {"crop_seconds": 1.0, "n_views": 2, "seed": 0, "workers": 1, **changes}
    return panns.cached_views(folder, files, keys_of(files), backbone, **options)


def windows_of(folder, files, backbone, most=None):
    return panns.cached_windows(folder, files, keys_of(files), backbone, 1.5, most, workers=1)


def test_cached_views_are_not_computed_again(tmp_path, songs, toy):
    first = views_of(tmp_path, songs, toy)
    assert len(toy.network.lengths) == 6
    assert first.song_index.tolist() == [0, 0, 1, 1, 2, 2]
    again = views_of(tmp_path, songs, toy)
    assert len(toy.network.lengths) == 6
    assert np.array_equal(again.rows, first.rows)
    fresh = views_of(tmp_path / "other", songs, toy)
    assert len(toy.network.lengths) == 12
    assert np.array_equal(fresh.rows, first.rows)


def test_views_do_not_depend_on_the_order_or_the_company(tmp_path, songs, toy):
    first = views_of(tmp_path / "a", songs, toy)
    backwards = views_of(tmp_path / "b", songs[::-1], toy)
    assert np.array_equal(backwards.rows.reshape(3, 2, -1)[::-1], first.rows.reshape(3, 2, -1))
    alone = views_of(tmp_path / "c", songs[1:2], toy)
    assert np.array_equal(alone.rows, first.rows[2:4])
    # The store of three songs, asked for two, computes nothing.
    n_calls = len(toy.network.lengths)
    two = views_of(tmp_path / "a", [songs[2], songs[0]], toy)
    assert np.array_equal(two.rows, first.rows[[4, 5, 0, 1]])
    assert len(toy.network.lengths) == n_calls


def test_every_song_has_random_numbers_of_its_own(tmp_path, songs, toy, monkeypatch):
    cut_views, seeds = panns.cut_views, []

    def record(*args):
        seeds.append(tuple(args[-2]))
        return cut_views(*args)

    monkeypatch.setattr(panns, "cut_views", record)
    views_of(tmp_path, songs, toy, seed=7)
    assert len(set(seeds)) == 3
    assert {seed[0] for seed in seeds} == {7}


@pytest.mark.parametrize("change", [{"seed": 1}, {"crop_seconds": 1.5}, {"n_views": 3}])
def test_other_settings_have_other_views(tmp_path, songs, toy, change):
    first = views_of(tmp_path, songs, toy)
    other = views_of(tmp_path, songs, toy, **change)
    assert len(toy.network.lengths) == 6 + 3 * change.get("n_views", 2)
    assert not np.array_equal(first.rows, other.rows[: len(first.rows)])


def test_other_weights_have_other_embeddings(tmp_path, songs, toy):
    views_of(tmp_path, songs, toy)
    other = panns.Backbone(Toy(), RATE, "untrained, seed 1", torch.float32)
    views_of(tmp_path, songs, other)
    assert len(other.network.lengths) == 6


def test_cached_windows_are_those_of_inference(tmp_path, songs, toy):
    cached = windows_of(tmp_path, songs, toy)
    assert cached.song_index.tolist() == [0, 0, 1, 1, 2, 2, 2]
    waveform = soundfile.read(songs[1], dtype="float32")[0]
    fresh = panns.embed(toy, panns.cut_windows(waveform, round(1.5 * RATE), None, CPU))
    assert np.array_equal(cached.rows[2:4], fresh)
    n_calls = len(toy.network.lengths)
    again = windows_of(tmp_path, songs, toy)
    assert np.array_equal(again.rows, cached.rows)
    assert len(toy.network.lengths) == n_calls
    few = windows_of(tmp_path, songs, toy, most=1)
    assert few.song_index.tolist() == [0, 1, 2]


@pytest.mark.parametrize("of", [views_of, windows_of])
def test_a_long_song_is_never_all_in_memory(tmp_path, toy, monkeypatch, of):
    """Its rows are those of the whole."""
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2)
    monkeypatch.setitem(panns.MAX_BATCH_SECONDS, "cpu", 3.0)
    seconds = 300
    soundfile.write(tmp_path / "long.wav", noise(seconds).numpy(), RATE)
    tracemalloc.start()
    try:
        found = of(tmp_path / "a", [tmp_path / "long.wav"], toy)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < seconds * RATE * 4 / 2
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2 * seconds)
    assert np.array_equal(of(tmp_path / "b", [tmp_path / "long.wav"], toy).rows, found.rows)


def test_an_epoch_sees_every_song_once_and_all_views_over_time():
    rows = np.arange(12, dtype=np.float32)[:, None]
    embeddings = panns.Embeddings(rows, np.repeat(np.arange(4), [2, 3, 4, 3]))
    labels = np.array([10, 11, 12, 13])
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        batches = panns.random_views(embeddings, labels, 3, rng)
        assert [len(x) for x, _ in batches] == [3, 1]
        drawn = torch.cat([x for x, _ in batches])[:, 0].long()
        drawn_labels = torch.cat([y for _, y in batches])
        assert sorted(drawn_labels.tolist()) == [10, 11, 12, 13]
        assert (embeddings.song_index[drawn] + 10 == drawn_labels.numpy()).all()
        seen |= set(drawn.tolist())
    assert seen == set(range(12))


# --- training ----------------------------------------------------------------------------------


@pytest.fixture
def train(tiny_data, tmp_path, untrained, monkeypatch):
    """Train the classifier as the script does; embeddings are computed once."""
    monkeypatch.setattr(panns, "load_backbone", lambda *_: untrained)

    def run(**changes):
        options = {
            "data_dir": tiny_data,
            "limit": 3,
            "device": "cpu",
            "workers": 1,
            "backbone_weights": "untrained",
            "epochs": 4,
            "batch_size": 2,
            "lr": 0.01,
            "crop_seconds": 1.0,
            "views": 2,
            "windows": 1,
            "seed": 0,
            "precision": "float32",
            "patience": None,
            "compile": False,
            "tensorboard": False,
            "results_dir": tmp_path,
            "recipe": "homework",
            "fold": None,
            "also_train_on": None,
            "skip_unreadable": False,
            "resume": False,
            "overwrite": False,
        }
        args = argparse.Namespace(**{**options, **changes})
        recipe = cli.chosen_recipe(args, task2_train.RECIPES)
        return task2_train.train(task2_train.start(args), recipe, None, tmp_path)

    return run


def test_embeddings_of_some_songs_joined_and_pooled():
    rows = np.array([[1, 2], [3, 2], [5, 6], [7, 8], [9, 0]], np.float32)
    embeddings = panns.Embeddings(rows, np.array([0, 0, 1, 2, 2]))
    some = embeddings.of_songs(np.array([0, 2]))
    assert some.rows.tolist() == rows[[0, 1, 3, 4]].tolist()
    assert some.song_index.tolist() == [0, 0, 1, 1]
    pooled = embeddings.pooled()
    assert pooled.rows.tolist() == [[2, 2, 1, 0], [5, 6, 0, 0], [8, 4, 1, 4]]
    assert pooled.song_index.tolist() == [0, 1, 2]
    other = panns.Embeddings(-rows[:3], np.array([0, 1, 2]))
    joined = embeddings.joined(other)
    assert joined.song_index.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert joined.rows[2].tolist() == [-1, -2]
    assert joined.rows[4].tolist() == [-3, -2]


def test_training_leaves_the_backbone_as_it_was(train, untrained):
    before = weights_hash(untrained.network)
    metrics = train()
    assert weights_hash(untrained.network) == before
    assert not any(module.training for module in untrained.network.modules())
    assert all(parameter.grad is None for parameter in untrained.network.parameters())
    assert metrics["pretrained"] is False
    assert metrics["settings"]["backbone_weights"] == "untrained, seed 0"


def test_a_resumed_run_equals_an_uninterrupted_one(train, tmp_path, monkeypatch):
    whole = train()
    predictions = (tmp_path / "val_predictions.json").read_bytes()
    random_views, calls = panns.random_views, []

    def stop_in_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return random_views(*args)

    with monkeypatch.context() as patch:
        patch.setattr(panns, "random_views", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(overwrite=True)
    assert not (tmp_path / "metrics.json").exists()
    with pytest.raises(UserError, match="epoch 2 of 4"):
        train()
    resumed = train(resume=True)
    for key in ("top1", "top3", "last", "epoch", "settings"):
        assert resumed[key] == whole[key]
    assert (tmp_path / "val_predictions.json").read_bytes() == predictions
