"""artist20.encoders: published files, embeddings of windows and views, and the script on them."""

import hashlib
import os
import pickle
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
import torch.nn.functional as F
from conftest import call
from torch import nn

import task2_train
from artist20 import UserError, audio, encoders, fetch, naming, results, training
from artist20.encoders import ENCODERS, base, ecapa, embeddings, panns, tagger
from artist20.encoders.base import Definition, Encoder
from artist20.encoders.embeddings import Embedder, Embeddings, cut_views, cut_windows, side_by_side
from artist20.files import sha256_file
from artist20.results import EncoderSettings, NetworkMetrics

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


class ToyNetwork(nn.Module):
    """Loudness times three weights; remembers the shapes of its batches."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]), requires_grad=False)
        self.batches = []

    def forward(self, waveforms):
        self.batches.append(tuple(waveforms.shape))
        # One by one: sums over a batch differ from sums over one in the last bits.
        loudness = torch.stack([each.square().mean() for each in waveforms])
        return loudness[:, None] * self.weight

    @property
    def n_clips(self):
        return sum(n for n, _ in self.batches)


def make_toy(weights="untrained, seed 0", precision=torch.float32):
    network = ToyNetwork().eval()
    settings = EncoderSettings(name="panns", weights=weights, sample_rate=RATE)
    definition = Definition(RATE, 3, 10.0, 0.5, ToyNetwork, None)
    return Encoder(settings, definition, network, precision)


@pytest.fixture
def toy():
    return make_toy()


# --- Cnn14 -------------------------------------------------------------------------------------


def test_importing_cnn14_fetches_and_writes_nothing(tmp_path):
    home, stubs, marker = tmp_path / "home", tmp_path / "bin", tmp_path / "wget_was_called"
    for folder in (home, stubs):
        folder.mkdir()
    for program in ("wget", "curl"):
        (stubs / program).write_text(f'#!/bin/sh\ntouch "{marker}"\n')
        (stubs / program).chmod(0o755)
    code = (
        "from artist20.encoders import panns\n"
        "assert panns._import_cnn14().__name__ == 'Cnn14'\n"
        "assert panns._import_cnn14() is panns._import_cnn14()\n"
    )
    environment = {
        **os.environ,
        "HOME": str(home),
        "MPLCONFIGDIR": str(tmp_path),  # Matplotlib's cache is its own affair
        "PATH": f"{stubs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
    }
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True)
    assert not marker.exists()
    assert list(home.iterdir()) == []


@pytest.fixture
def quick_init(monkeypatch):
    """Leave fresh networks' weights as the memory was: they are about to be loaded."""
    for name in ("kaiming_uniform_", "xavier_uniform_", "uniform_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *_args, **_options: tensor)


def published_file(path, sample_rate):
    """Write a weights file of the published ones' form; return the state_dict in it.

    Every tensor is one number, stored once, so that the file is small. The 16 kHz file holds an
    array of int64 beside the weights, and names NumPy 1's module for it.
    """
    network = panns.make_cnn14(sample_rate)
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


def register(monkeypatch, name, path):
    """Take a file for the published one."""
    published = replace(fetch.WEIGHTS[name], sha256=sha256_file(path))
    monkeypatch.setitem(fetch.WEIGHTS, name, published)


def load(name, weights, precision=torch.float32, seed=0):
    (encoder,) = encoders.load([name], str(weights), seed, CPU, precision)
    return encoder


@pytest.mark.parametrize(("name", "sample_rate"), [("panns", 16_000), ("panns-32k", 32_000)])
def test_a_published_file_is_loaded(tmp_path, monkeypatch, capsys, quick_init, name, sample_rate):
    path = tmp_path / "Cnn14.pth"
    state_dict = published_file(path, sample_rate)
    register(monkeypatch, name, path)
    encoder = load(name, path)
    assert encoder.settings == EncoderSettings(
        name=name, weights=sha256_file(path), sample_rate=sample_rate
    )
    assert encoder.settings.pretrained
    loaded = encoder.network.cnn14.state_dict()
    assert loaded.keys() == state_dict.keys()
    assert all(torch.equal(loaded[name], value) for name, value in state_dict.items())
    assert not encoder.network.training
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert f"encoder: {name}, {path}" in capsys.readouterr().out
    window = {16_000: 512, 32_000: 1024}[sample_rate]
    assert loaded["spectrogram_extractor.stft.conv_real.weight"].shape[-1] == window
    assert encoder.embed([torch.zeros(800)]).shape == (1, panns.SIZE)  # Cnn14 alone fails on 0.3 s


def test_the_two_front_ends_are_those_of_the_published_networks():
    settings = {rate: tuple(of.values()) for rate, of in panns.FRONT_ENDS.items()}
    assert settings == {16_000: (512, 160, 64, 50, 8_000), 32_000: (1024, 320, 64, 50, 14_000)}
    assert [of.sha256[:8] for of in fetch.WEIGHTS.values()][:2] == ["e2ee543a", "0dc499e4"]


def test_every_encoder_has_weights_and_a_title():
    assert list(ENCODERS) == list(fetch.WEIGHTS) == list(naming.ENCODER_TITLES)


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("content", [b"not the weights", None])
def test_weights_that_are_missing_or_others_are_one_line(tmp_path, name, content):
    path = tmp_path / "weights.pth"
    expected = [str(path), f"'bash get_dataset.sh --encoder {name}'"]
    if content:
        path.write_bytes(content)
        expected.append(sha256_file(path))
    else:
        published = fetch.WEIGHTS[name]
        expected += ["is missing", "--encoder-weights untrained", published.by_hand(path)]
    with pytest.raises(UserError) as error:
        load(name, path)
    assert "\n" not in str(error.value)
    assert all(words in str(error.value) for words in expected)


def test_encoders_that_do_not_go_together_are_refused():
    for names, weights, message in (
        (["ge2e", "panns-32k"], None, "different sample rates"),
        (["ge2e", "tagger"], "x.pth", "names one file"),
    ):
        with pytest.raises(UserError, match=message):
            encoders.load(names, weights, 0, CPU, torch.float32)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["panns", "ecapa", "ge2e", "tagger"])
@pytest.mark.parametrize("legacy", [False, True])
def test_a_weights_file_cannot_run_code(tmp_path, monkeypatch, quick_init, name, legacy):
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"
    content = {"model": {}, "model_state": {}, "sampler": Evil(marker)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    # The control, on the file just made: read the unsafe way, it does run.
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()
    register(monkeypatch, name, path)
    with pytest.raises(pickle.UnpicklingError, match=r"Unsupported global|Weights only"):
        load(name, path)
    assert not marker.exists()


class ToyCnn14(nn.Module):
    """Has Cnn14's front end in name; notes what each layer's products are in."""

    def __init__(self, seen):
        super().__init__()
        self.spectrogram_extractor, self.logmel_extractor = nn.Linear(RATE, 4), nn.Linear(4, 4)
        self.fc1 = nn.Linear(4, 4)
        for layer in self.children():
            layer.register_forward_hook(lambda _module, _x, y: seen.append(y.dtype))

    def forward(self, x):
        return {"embedding": self.fc1(self.logmel_extractor(self.spectrogram_extractor(x)))}


def test_an_untrained_network_follows_its_seed_and_leaves_the_global_state(monkeypatch, capsys):
    monkeypatch.setattr(panns, "make_cnn14", lambda _: ToyCnn14([]))
    torch.manual_seed(5)
    before = torch.get_rng_state()
    encoder, again, other = (load("panns", "untrained", seed=s) for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert encoder.settings == EncoderSettings(
        name="panns", weights="untrained, seed 3", sample_rate=RATE
    )
    assert not encoder.settings.pretrained
    assert weights_hash(again.network) == weights_hash(encoder.network)
    assert weights_hash(other.network) != weights_hash(encoder.network)
    assert "UNTRAINED" in capsys.readouterr().out


def test_products_are_in_the_precision_but_for_the_front_end(monkeypatch):
    half, single = torch.bfloat16, torch.float32
    for precision, expected in ((half, [single, single, half]), (single, 3 * [single])):
        seen = []
        network = ToyCnn14(seen).requires_grad_(False)
        monkeypatch.setattr(panns, "make_cnn14", lambda _, network=network: network)
        encoder = load("panns", "untrained", precision)
        assert encoder.embed([noise(0.5)]).dtype == np.float32
        assert seen == expected


# --- the other encoders ------------------------------------------------------------------------


def chirp(seconds):
    """Make the signal that reference values are of."""
    t = np.arange(int(seconds * RATE)) / RATE
    hiss = np.random.default_rng(0).normal(size=len(t))
    return (0.3 * np.sin(2 * np.pi * (220 * t + 40 * t**2)) + 0.05 * hiss).astype(np.float32)


def random_state(network, seed=0):
    """Draw weights of a network's names and shapes; variances are positive."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.5 + 0.1 * torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for name, value in network.state_dict().items()
    }


def lstm_by_hand(x, state):
    """Run (n_frames, 40) through three layers; gates are in the order in, forget, cell, out."""
    for layer in range(3):
        w_in, w_back, b_in, b_back = (
            state[f"lstm.{name}_l{layer}"].double().numpy()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        hidden, cell, outputs = np.zeros(256), np.zeros(256), []
        for frame in x:
            gates = np.split(w_in @ frame + w_back @ hidden + b_in + b_back, 4)
            let_in, keep, _, let_out = (1 / (1 + np.exp(-gate)) for gate in gates)
            cell = keep * cell + let_in * np.tanh(gates[2])
            hidden = let_out * np.tanh(cell)
            outputs.append(hidden)
        x = np.array(outputs)
    return x[-1]


def test_ge2e_is_an_lstm_on_power_mel_spectra(tmp_path, monkeypatch):
    path = tmp_path / "ge2e.pt"
    parts = nn.ModuleDict({"lstm": nn.LSTM(40, 256, 3), "linear": nn.Linear(256, 256)})
    state = {name: value - 0.55 for name, value in random_state(parts).items()}
    similarity = {"similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"step": 1, "model_state": similarity | state}, path)
    register(monkeypatch, "ge2e", path)
    waveform = chirp(1.59)
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=RATE, n_fft=400, hop_length=160, n_mels=40
    ).T
    assert mel.shape == (160, 40)
    last = lstm_by_hand(mel.astype(float), state)
    expected = state["linear.weight"].double().numpy() @ last + state["linear.bias"].numpy()
    expected = np.maximum(expected, 0)
    found = load("ge2e", path).embed([torch.from_numpy(waveform)])
    np.testing.assert_allclose(found[0], expected / np.linalg.norm(expected), atol=2e-5)


def test_tagger_gives_the_mean_and_maximum_of_every_block(tmp_path, monkeypatch):
    path = tmp_path / "tagger.pth"
    network = tagger.FullyConvolutional()
    state = random_state(network) | {"spec.mel_scale.fb": network.spec.mel_scale.fb}
    state["spec.spectrogram.window"] = torch.hann_window(512)
    dense = {"dense.weight": torch.ones(50, 64), "dense.bias": torch.ones(50)}
    torch.save(state | dense, path)
    register(monkeypatch, "tagger", path)
    waveform = chirp(21.0)
    power = np.abs(librosa.stft(waveform, n_fft=512, hop_length=256, pad_mode="reflect")) ** 2
    mel = librosa.filters.mel(sr=RATE, n_fft=512, n_mels=96, fmin=0, fmax=8000, htk=True, norm=None)
    x = torch.from_numpy(librosa.power_to_db(mel @ power, amin=1e-10, top_db=None))[None, None]

    def normalised(x, name):
        mean, variance, weight, bias = (
            state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return F.batch_norm(x, mean, variance, weight, bias)

    x, expected = normalised(x, "spec_bn"), []
    for i, pool in enumerate([(2, 4), (2, 4), (2, 4), (3, 5), (4, 4)], 1):
        weight, bias = state[f"layer{i}.conv.weight"], state[f"layer{i}.conv.bias"]
        x = F.conv2d(x, weight, bias, padding=1)
        x = F.max_pool2d(normalised(x, f"layer{i}.bn").clamp(min=0), pool)
        expected += [x.mean((2, 3)), x.amax((2, 3))]
    found = load("tagger", path).embed([torch.from_numpy(waveform)])
    np.testing.assert_allclose(found, torch.cat(expected, 1), rtol=1e-3)
    assert found.shape == (1, 1024)


def test_ecapa_is_speechbrains(tmp_path, monkeypatch, quick_init):
    path = tmp_path / "ecapa.ckpt"
    network = ecapa.EcapaTdnn()  # which imports speechbrain as it should be
    for module in [*sys.modules.values()]:
        getattr(module, "__file__", None)  # as inspect does: some would raise an ImportError
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    from speechbrain.processing.features import InputNormalization

    own = ECAPA_TDNN(80, channels=[1024] * 4 + [3072], lin_neurons=192).eval()
    assert sum(each.numel() for each in own.parameters()) == 20_767_552
    state = {name: value - 0.4 for name, value in random_state(own).items() if value.dim() > 1}
    state = random_state(own) | state
    torch.save(state, path)
    own.load_state_dict(state)
    register(monkeypatch, "ecapa", path)
    waveform = torch.from_numpy(chirp(0.6))[None]
    normalise = InputNormalization(norm_type="sentence", std_norm=False)
    with torch.inference_mode():
        levels = normalise(Fbank(n_mels=80)(waveform), torch.ones(1))
        expected = own(levels, torch.ones(1))[:, 0]
    encoder = load("ecapa", path)
    np.testing.assert_allclose(encoder.embed(list(waveform)), expected, rtol=1e-4)
    loaded = encoder.network.network.state_dict()
    assert loaded.keys() == state.keys() == network.network.state_dict().keys()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Computed in float64 with librosa's mel spectrogram and lstm_by_hand.
        ("ge2e", {49: 0.286377, 253: 0.286309, 18: 0.26763, 142: 0.20901, 122: 0.202009}),
        # Computed in float64 with librosa's STFT, the file's own mel filters and NumPy.
        ("tagger", {0: 0.4585, 70: 2.77004, 200: 0.28336, 400: 0.63508, 1000: 1.54488}),
    ],
)
def test_the_published_weights_give_the_publishers_numbers(name, expected):
    path = REPOSITORY / fetch.WEIGHTS[name].path()
    if not path.is_file():
        pytest.skip(f"bash get_dataset.sh --encoder {name} has not been run")
    encoder = load(name, path)
    waveform = chirp(encoder.definition.window_seconds)
    (found,) = encoder.embed([torch.from_numpy(waveform)])
    assert {i: round(float(found[i]), 4) for i in expected} == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_takes_the_shortest_song(name, quick_init):
    encoder = load(name, "untrained")
    assert encoder.embed([torch.zeros(10)]).shape == (1, ENCODERS[name].size)


# --- embedding ---------------------------------------------------------------------------------


def test_neighbours_of_equal_length_are_embedded_together_up_to_a_limit(toy, monkeypatch):
    monkeypatch.setitem(base.MAX_BATCH_SECONDS, "cpu", 4.0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    waveforms = [noise(2), noise(2, 1), noise(2, 2), noise(0.5), noise(0.25), noise(9), noise(9)]
    found = toy.embed(iter(waveforms))
    assert toy.network.batches == [
        (2, 2 * RATE),
        (1, 2 * RATE),
        (2, RATE // 2),
        *2 * [(1, 9 * RATE)],
    ]
    loudness = [waveform.square().mean() for waveform in waveforms]
    loudness[4] /= 2  # padded with as much silence
    np.testing.assert_allclose(found, np.outer(loudness, [1, 2, 3]), rtol=1e-5)
    assert found.dtype == np.float32


@pytest.mark.parametrize(("cores", "n_parts", "n_threads"), [(2, 2, 1), (9, 4, 2)])
def test_on_a_cpu_parts_of_a_batch_share_the_cores(toy, monkeypatch, cores, n_parts, n_threads):
    used = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    waveforms = [noise(1, seed) for seed in range(16)]
    toy.embed(waveforms[:7])  # which a core would wait for that has three in place of four
    assert toy.network.batches == [(7, RATE)] and not used
    toy.network.batches.clear()
    found = toy.embed(waveforms)
    assert sorted(toy.network.batches) == n_parts * [(16 // n_parts, RATE)]
    assert set(used) == {n_threads}
    loudness = [waveform.square().mean() for waveform in waveforms]
    np.testing.assert_allclose(found, np.outer(loudness, [1, 2, 3]), rtol=1e-5)


@pytest.mark.parametrize(
    "length, window, most, expected",
    [
        (100, 30, None, [0, 23, 47, 70]),
        (90, 30, None, [0, 30, 60]),
        (100, 40, 1, [30]),
        (100, 10, 2, [0, 90]),
        (30, 200, None, [0]),
    ],
)
def test_windows_begin_evenly_over_the_song(length, window, most, expected):
    song = np.arange(length)
    windows = [part.tolist() for part in cut_windows(song, window, most, CPU)]
    assert windows == [song[start : start + window].tolist() for start in expected]


@pytest.mark.parametrize("seconds", [0.01, 0.3, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("crop_seconds", [0.01, 1.5])
def test_views_of_any_song_are_audio(seconds, crop_seconds):
    n_samples = int(crop_seconds * RATE)
    views = list(cut_views(noise(seconds).numpy(), n_samples, 4, RATE, (0, 1), CPU))
    assert len(views) == 4
    assert all(view.isfinite().all() for view in views)
    lengths = [len(view) for view in views]
    if max(seconds, 1.0) >= 1.1 * crop_seconds + 0.01:
        assert lengths == [n_samples] * 4
    else:
        slowest, fastest = embeddings.STRETCH_RATES
        longest_source = max(seconds, 1.0) * RATE
        assert all(longest_source / fastest - 1 <= n <= longest_source / slowest for n in lengths)


def test_views_are_decided_by_their_seed_and_half_of_them_are_augmented():
    waveform = noise(4).numpy()

    def views(seed, n_views=3):
        return list(cut_views(waveform, RATE, n_views, RATE, seed, CPU))

    torch.manual_seed(0)
    first = views((0, 1))
    torch.manual_seed(1)
    assert all(map(torch.equal, first, views((0, 1))))
    for seed in ((0, 2), (1, 1)):
        assert not any(map(torch.equal, first, views(seed)))
    assert not torch.equal(first[0], first[1])
    slices = np.lib.stride_tricks.sliding_window_view(waveform, 50)
    as_they_are = [(slices == view[:50].numpy()).all(axis=1).any() for view in views((0, 3), 80)]
    assert 10 < sum(as_they_are) < 30  # a quarter is neither stretched nor noisy


# --- songs -> embeddings -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def songs(tmp_path_factory):
    """Content keys and files of songs of 2, 3 and 4 s."""
    folder = tmp_path_factory.mktemp("songs")
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", noise(2 + i, seed=i).numpy(), RATE)
    return [(sha256_file(file), file) for file in sorted(folder.iterdir())]


def views_of(folder, songs, encoder, seconds=1.0, n_views=2, seed=0):
    return Embedder(encoder, folder, seconds, workers=0).views(songs, n_views, seed)


def windows_of(folder, songs, encoder, seconds=1.5, most=None):
    return Embedder(encoder, folder, seconds, workers=1).windows(songs, most)


def test_windows_are_those_of_inference_and_computed_once(tmp_path, songs, toy):
    first = windows_of(tmp_path, songs, toy)
    assert first.song_index.tolist() == [0, 0, 1, 1, 2, 2, 2]
    waveform = soundfile.read(songs[1][1], dtype="float32")[0]
    fresh = toy.embed(cut_windows(waveform, round(1.5 * RATE), None, CPU))
    assert np.array_equal(first.rows[2:4], fresh)
    n_clips = toy.network.n_clips
    # A song may be there twice; other songs' files are left alone.
    again = windows_of(tmp_path, [songs[2], songs[0], songs[2]], toy)
    assert np.array_equal(again.rows, first.rows[[4, 5, 6, 0, 1, 4, 5, 6]])
    assert again.song_index.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert toy.network.n_clips == n_clips
    assert windows_of(tmp_path, songs, toy, most=1).song_index.tolist() == [0, 1, 2]
    assert toy.network.n_clips == n_clips + 3


def test_views_do_not_depend_on_the_order_or_the_company(tmp_path, songs, toy):
    first = views_of(tmp_path / "a", songs, toy)
    assert first.song_index.tolist() == [0, 0, 1, 1, 2, 2]
    backwards = views_of(tmp_path / "b", songs[::-1], toy)
    assert np.array_equal(backwards.rows, first.rows[[4, 5, 2, 3, 0, 1]])
    assert np.array_equal(views_of(tmp_path / "c", songs[1:2], toy).rows, first.rows[2:4])
    assert toy.network.n_clips == 14
    assert np.array_equal(views_of(tmp_path / "a", songs, toy).rows, first.rows)
    assert toy.network.n_clips == 14
    under_another_key = [(f"{5:064x}", songs[0][1])]
    assert not np.isin(views_of(tmp_path, under_another_key, toy).rows, first.rows).any()


OF_ENCODER = [{"weights": "other"}, {"precision": torch.bfloat16}]


@pytest.mark.parametrize("change", [{"seed": 1}, {"seconds": 1.5}, {"n_views": 3}, *OF_ENCODER])
def test_other_settings_are_embedded_anew(tmp_path, songs, toy, change):
    first = views_of(tmp_path, songs, toy)
    if change in OF_ENCODER:
        toy, change = make_toy(**change), {}
    n_clips = toy.network.n_clips
    found = views_of(tmp_path, songs, toy, **change)
    assert toy.network.n_clips - n_clips == len(found.rows)
    assert not (change and np.array_equal(first.rows, found.rows[:6]))


@pytest.mark.parametrize("of", [views_of, windows_of])
def test_a_long_song_is_never_all_in_memory(tmp_path, toy, monkeypatch, of):
    """Its rows are those of the whole."""
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2)
    monkeypatch.setitem(base.MAX_BATCH_SECONDS, "cpu", 3.0)
    seconds = 300
    soundfile.write(tmp_path / "long.wav", noise(seconds).numpy(), RATE)
    song = [("ab" * 32, tmp_path / "long.wav")]
    tracemalloc.start()
    try:
        found = of(tmp_path / "a", song, toy)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < seconds * RATE * 4 / 2
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2 * seconds)
    assert np.array_equal(of(tmp_path / "b", song, toy).rows, found.rows)


def test_songs_are_decoded_once_before_any_is_embedded(tmp_path, songs, toy, monkeypatch):
    bad = tmp_path / "bad.flac"
    bad.write_text("no music")
    embedder = Embedder(toy, tmp_path, 1.0, workers=0)
    files = {**dict(songs), "bad": bad}
    assert embedder.find_undecodable(files) == {"bad": "holds no audio"}
    decoded = []
    monkeypatch.setattr(embeddings, "_count_samples", lambda file: decoded.append(file) or [[1.0]])
    assert embedder.find_undecodable(files) == {}
    assert decoded == [bad]
    assert toy.network.n_clips == 0
    with pytest.raises(UserError, match=r"bad\.flac holds no audio: it was changed while"):
        embedder.windows([*songs, ("other", bad)], None)


# --- embeddings of songs -----------------------------------------------------------------------


def test_an_epoch_sees_every_song_once_and_all_rows_over_time():
    rows = np.arange(12, dtype=np.float32)[:, None]
    of_songs = Embeddings(rows, np.repeat(np.arange(4), [2, 3, 4, 3]))
    labels = np.array([10, 11, 12, 13])
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(50):
        batches = list(of_songs.random_rows(labels, 3, rng))
        assert [len(x) for x, _ in batches] == [3, 1]
        drawn = torch.cat([x for x, _ in batches])[:, 0].long()
        drawn_labels = torch.cat([y for _, y in batches])
        assert sorted(drawn_labels.tolist()) == [10, 11, 12, 13]
        assert (of_songs.song_index[drawn] + 10 == drawn_labels.numpy()).all()
        seen |= set(drawn.tolist())
    assert seen == set(range(12))


def test_embeddings_of_some_songs_joined_and_pooled():
    rows = np.array([[1, 2], [3, 2], [7, 8], [9, 0], [5, 6]], np.float32)
    of_songs = Embeddings(rows, np.array([0, 0, 1, 1, 2]))
    some = of_songs.of_songs(np.array([0, 2]))
    assert some.rows.tolist() == rows[[0, 1, 4]].tolist()
    assert some.song_index.tolist() == [0, 0, 1]
    pooled = of_songs.pooled()
    assert pooled.rows.tolist() == [[2, 2, 1, 0], [8, 4, 1, 4], [5, 6, 0, 0]]
    assert pooled.song_index.tolist() == [0, 1, 2]
    joined = of_songs.joined(Embeddings(-rows[:3], np.array([0, 1, 2])))
    assert joined.song_index.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert joined.rows[[2, 5, 7]].tolist() == [[-1, -2], [-3, -2], [-7, -8]]
    beside = side_by_side([pooled, Embeddings(-rows[:3, :1], np.arange(3))])
    assert beside.rows.tolist() == [[2, 2, 1, 0, -1], [8, 4, 1, 4, -3], [5, 6, 0, 0, -7]]
    assert beside.song_index.tolist() == [0, 1, 2]


# --- the script --------------------------------------------------------------------------------


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_data, tmp_path, monkeypatch, capsys, toy):
    monkeypatch.setattr(encoders, "load", lambda *_: [toy])
    monkeypatch.setattr(training, "SAVE_SECONDS", 0)  # as where epochs are long
    weights, folder = weights_hash(toy.network), tmp_path / "task2/panns"
    random_rows, calls = Embeddings.random_rows, []

    def train(*options):
        return call(
            monkeypatch,
            "task2_train",
            *("--data-dir", tiny_data, "--results-dir", tmp_path, "--device", "cpu"),
            *("--workers", 1, "--epochs", 4, "--batch-size", 4, "--crop-seconds", 1),
            *("--views", 2, "--windows", 1, "--precision", "float32", *options),
        )

    def reached():
        metrics = results.read_record(folder / "metrics.json", NetworkMetrics, "x")
        kept = {name: getattr(metrics, name) for name in ("top1", "last", "epoch", "embeddings")}
        return metrics.settings, kept, (folder / "val_predictions.json").read_bytes()

    def stop_in_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return random_rows(*args)

    assert train() == 0
    assert "untrained encoder: these figures say nothing" in capsys.readouterr().out
    whole = reached()
    assert whole[0].encoders == [toy.settings]
    with monkeypatch.context() as patch:
        patch.setattr(Embeddings, "random_rows", stop_in_the_third)
        assert train("--overwrite") == 130
    assert train() == 2
    assert "epoch 2 of 4" in capsys.readouterr().err
    assert train("--resume") == 0
    assert reached() == whole
    # The songs were embedded once, and the encoder is what it was.
    assert toy.network.n_clips == 12 * 2 + 6
    assert weights_hash(toy.network) == weights
    assert not toy.network.training
    assert toy.network.weight.grad is None


def test_the_classifier_is_float32_whatever_the_precision(tiny_data, tmp_path, monkeypatch, toy):
    monkeypatch.setattr(encoders, "load", lambda *_: [toy])  # whose embeddings stay float32
    found = []
    for precision in ("float32", "bfloat16"):
        folder = tmp_path / precision
        status = call(
            monkeypatch,
            "task2_train",
            *("--data-dir", tiny_data, "--results-dir", folder, "--device", "cpu"),
            *("--workers", 1, "--epochs", 2, "--batch-size", 4, "--crop-seconds", 1),
            *("--views", 1, "--windows", 1, "--precision", precision),
        )
        assert status == 0
        found.append((folder / "task2/panns/val_predictions.json").read_bytes())
    assert found[0] == found[1]


def test_the_classifier_standardises_by_the_training_rows():
    rows = np.array([[1, 5], [3, 5], [8, 5]], np.float32)
    model = task2_train.make_model(3, Embeddings(rows, np.arange(3)), task2_train.HOMEWORK)
    np.testing.assert_allclose(model.standardize.mean, [4, 5])
    # A unit that is the same for all songs is passed on as it is.
    np.testing.assert_allclose(model.standardize.std, [rows[:, 0].std(), 1])
