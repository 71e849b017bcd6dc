"""artist20.spectrogram: log-mels as librosa's, crops, windows, batches."""

import tracemalloc

import librosa
import numpy as np
import pytest
import torch
from conftest import ARTISTS, make_waveform

from artist20 import UserError, audio, distributed, spectrogram
from artist20.files import write_array
from artist20.spectrogram import FrontEnd, LogMels, Stored

ARTIST = next(iter(ARTISTS))
N_MELS = 64
FRONT_END = FrontEnd()


def toy_songs(*lengths: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(-30, 20, (length, N_MELS)).astype(np.float16) for length in lengths]


def stored(folder, songs: list[np.ndarray]) -> LogMels:
    """Put songs into a cache."""
    cache = spectrogram.open_cache(folder, FRONT_END)
    for key, song in enumerate(songs):
        write_array(cache.path(f"{key:064x}"), song)
    return LogMels([Stored(cache, f"{key:064x}") for key in range(len(songs))])


def ramp(length: int) -> np.ndarray:
    """Make a log-mel of one bin that counts its frames."""
    return np.arange(length, dtype=np.float16)[:, None]


def mean_of_frames(batch: torch.Tensor) -> np.ndarray:
    return batch.float().mean(dim=1).numpy()


# --- log_mel -----------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:n_fft=.* is too large")
@pytest.mark.parametrize("kind", ["music", "silence", "click", "short"])
@pytest.mark.parametrize("n_fft, n_mels", [(1024, 64), (4096, 256)])
def test_log_mel_is_librosas(kind, n_fft, n_mels):
    waveform = {
        "music": make_waveform(ARTIST, 0, 3.0),
        "silence": np.zeros(16_000, np.float32),
        "click": np.eye(1, 16_000, 9000, dtype=np.float32)[0],
        "short": make_waveform(ARTIST, 1, 0.02),
    }[kind]
    power = librosa.feature.melspectrogram(
        y=waveform, sr=16_000, n_fft=n_fft, hop_length=512, n_mels=n_mels, fmax=8000
    )
    expected = librosa.power_to_db(power, top_db=None).T
    result = spectrogram.log_mel(waveform, FrontEnd(n_fft, n_mels))
    assert result.dtype == np.float16
    assert result.shape == (1 + len(waveform) // 512, n_mels)
    # Half a step of half precision below 128 dB is 0.03 dB.
    np.testing.assert_allclose(result.astype(float), expected, rtol=0, atol=0.032)


def test_a_long_song_is_never_all_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2)
    monkeypatch.setattr(spectrogram, "BLOCK_SAMPLES", 500 * FRONT_END.n_fft)
    waveform = np.tile(make_waveform(ARTIST, 0, 3.0), 100)
    audio.write_blocks(tmp_path / "a.wav", [waveform])
    tracemalloc.start()
    try:
        log_mel = spectrogram.load_log_mel(tmp_path / "a.wav", FRONT_END)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - log_mel.nbytes < waveform.nbytes / 2
    assert np.array_equal(
        log_mel,
        spectrogram.log_mel(np.concatenate([*audio.read_blocks(tmp_path / "a.wav")]), FRONT_END),
    )


def test_log_mel_blocks_join_without_a_seam(monkeypatch):
    waveform = make_waveform(ARTIST, 2, 10.0)
    whole = spectrogram.log_mel(waveform, FRONT_END)
    for n_frames in (1, 100, len(whole) - 1, len(whole)):
        monkeypatch.setattr(spectrogram, "BLOCK_SAMPLES", n_frames * FRONT_END.n_fft)
        joined = spectrogram.log_mel(waveform, FRONT_END)
        np.testing.assert_allclose(joined.astype(float), whole.astype(float), rtol=0, atol=0.032)


def test_the_settings_are_all_that_a_front_end_is():
    assert FrontEnd(2048, 128).settings() == {
        "sample_rate": 16_000,
        "n_fft": 2048,
        "hop_length": 512,
        "n_mels": 128,
        "f_max": 8000.0,
        "amin": 1e-10,
    }


@pytest.mark.parametrize("n_fft", [512, 1024, 4096])
def test_levels_of_short_windows_follow_the_mel_bins(n_fft, monkeypatch):
    waveform = make_waveform(ARTIST, 3, 3.0)
    front_end = FrontEnd(n_fft, 32, levels=True)
    found = spectrogram.log_mel(waveform, front_end)
    n_frames = 1 + len(waveform) // 512
    assert found.shape == (n_frames, front_end.n_columns) == (n_frames, 32 + 8 * 16)
    assert np.array_equal(found[:, :32], spectrogram.log_mel(waveform, FrontEnd(n_fft, 32)))
    # Eight windows of 256 samples, the fifth of which lies about the frame's middle.
    power = librosa.feature.melspectrogram(
        y=np.pad(waveform, (384, 1024)),
        sr=16_000,
        n_fft=256,
        hop_length=64,
        n_mels=16,
        center=False,
    )
    expected = librosa.power_to_db(power, top_db=None).T[: 8 * n_frames].reshape(n_frames, 128)
    np.testing.assert_allclose(found[:, 32:].astype(float), expected, rtol=0, atol=0.04)
    monkeypatch.setattr(spectrogram, "BLOCK_SAMPLES", 7 * n_fft)
    assert np.abs(spectrogram.log_mel(waveform, front_end).astype(float) - found).max() < 0.04
    assert FrontEnd(n_fft, 32).settings().items() < front_end.settings().items()


@pytest.mark.parametrize(
    "seconds, n_frames", [(150, 4688), (1, 31), (0.0475, 1), (0.0485, 2), (0.001, 1)]
)
def test_seconds_are_frames_of_32_ms(seconds, n_frames):
    assert spectrogram.to_frames(seconds) == n_frames
    assert spectrogram.to_seconds(n_frames) == n_frames * 0.032


def test_mel_bins_lie_between_0_and_8000_hz():
    hz = spectrogram.mel_hz(N_MELS)
    filters = librosa.filters.mel(sr=16_000, n_fft=2**16, n_mels=N_MELS, fmax=8000)
    np.testing.assert_allclose(hz, filters.argmax(axis=1) * 16_000 / 2**16, atol=0.25)


# --- LogMels -----------------------------------------------------------------------------------


@pytest.fixture(params=["arrays", "tensors", "cache"])
def hold(request, tmp_path):
    """Hold songs in each of the ways that training does."""
    return {
        "arrays": LogMels,
        "tensors": lambda songs: LogMels([torch.from_numpy(song) for song in songs]),
        "cache": lambda songs: stored(tmp_path, songs),
    }[request.param]


@pytest.mark.parametrize(
    "song, start, n_frames, expected",
    [
        (0, 2, 4, [2, 3, 4, 5]),
        (0, 3, 4, [3, 4, 5, 6]),  # up to its last frame
        (0, 4, 4, [4, 5, 6, 0]),
        (1, 0, 3, [0, 1, 2]),
        (1, 0, 8, [0, 1, 2, 0, 1, 2, 0, 1]),
        (1, 2, 3, [2, 0, 1]),
        (2, 0, 3, [0, 0, 0]),
    ],
)
def test_a_crop_that_goes_beyond_a_song_begins_again(hold, song, start, n_frames, expected):
    songs = hold([ramp(7), ramp(3), ramp(1)])
    assert len(songs) == 3
    assert np.asarray(songs.crop(song, start, n_frames))[:, 0].tolist() == expected


def test_spectra_are_of_songs_mean_and_deviation_of_all_frames(tmp_path):
    songs = toy_songs(300, 40, 7)
    frames = np.concatenate(songs).astype(float)
    means = [song.mean(axis=0, dtype=float) for song in songs]
    for held in (LogMels(songs), stored(tmp_path, songs)):
        spectra, mean, std = held.spectra(N_MELS)
        assert spectra.dtype == np.float32
        np.testing.assert_allclose(spectra, means, rtol=1e-6)
        np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(std, frames.std(axis=0), rtol=1e-9)
    spectra, mean, std = LogMels(songs).spectra(3)  # of the first columns
    np.testing.assert_allclose(spectra, np.array(means)[:, :3], rtol=1e-6)
    assert mean.shape == std.shape == (3,)
    *_, std = LogMels([np.full((9, N_MELS), -100, np.float16)]).spectra(N_MELS)
    assert std.tolist() == [1e-3] * N_MELS  # it is divided by


@pytest.mark.parametrize("free, held", [(2560, True), (2559, False)])
def test_a_gpu_holds_songs_that_take_half_of_its_free_memory(tmp_path, monkeypatch, free, held):
    arrays = toy_songs(3, 7)  # of 64 bins of 2 bytes: 1280 bytes
    songs, moved = stored(tmp_path, arrays), []
    assert songs.to_device(torch.device("cpu")) is songs
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 10**9))
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(device) or tensor)
    on_gpu = songs.to_device(torch.device("cuda"))
    assert moved == [torch.device("cuda")] * (2 if held else 0)
    assert (on_gpu is not songs) == held
    for song, array in zip(on_gpu.songs, arrays, strict=True):
        assert np.array_equal(np.asarray(song[:]), array)


def test_a_damaged_song_is_met_before_training(tmp_path):
    cache = spectrogram.open_cache(tmp_path, FRONT_END)
    write_array(cache.path("ab"), np.full((3, N_MELS), np.nan, np.float16))
    with pytest.raises(UserError, match=r"ab\.npy is missing or damaged"):
        Stored(cache, "ab")


def test_log_mels_are_kept_in_half_precision_and_computed_once(tiny_data, tmp_path, monkeypatch):
    files = dict(zip("abc", sorted(tiny_data.glob("test/*.mp3")), strict=True))
    (tmp_path / "bad.flac").write_text("no music")
    cache = spectrogram.open_cache(tmp_path, FRONT_END)
    bad = {"d": tmp_path / "bad.flac"}
    found = spectrogram.fill_cache(cache, FRONT_END, 1, {**files, **bad})
    assert found == {"d": "holds no audio"}
    songs = LogMels([Stored(cache, key) for key in "cac"])  # a song may be there twice
    for song, key in zip(songs.songs, "cac", strict=True):
        expected = spectrogram.log_mel(audio.open_song(files[key]), FRONT_END)
        assert song.shape == expected.shape
        assert song[:].dtype == np.float16
        np.testing.assert_array_equal(song[:], expected)
    monkeypatch.setattr(spectrogram, "log_mel", None)  # would fail in the worker
    assert spectrogram.fill_cache(cache, FRONT_END, 1, files) == {}
    assert "a" not in spectrogram.open_cache(tmp_path, FrontEnd(4096, N_MELS))


def test_log_mels_of_every_front_end_are_of_one_decoding(tiny_data, monkeypatch):
    file = next(tiny_data.glob("test/*.mp3"))
    waveform = audio.open_song(file)
    decoded = []
    monkeypatch.setattr(audio, "open_song", lambda file: decoded.append(file) or waveform)
    front_ends = [FRONT_END, FrontEnd(4096, 256)]
    log_mels = spectrogram.load_log_mels(file, front_ends)
    assert decoded == [file]
    assert list(log_mels) == front_ends
    for front_end in front_ends:
        expected = spectrogram.log_mel(waveform, front_end)
        np.testing.assert_array_equal(log_mels[front_end], expected)


# --- crops and windows -------------------------------------------------------------------------


def test_random_crops_visit_every_song_once_and_follow_the_seed(hold):
    arrays = toy_songs(*range(8, 19))
    labels = np.arange(100, 111)

    def epoch(songs: LogMels, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(seed)
        return list(spectrogram.random_crops(songs, labels, 10, batch_size=4, rng=rng))

    batches = epoch(hold(arrays), 0)
    assert [tuple(crops.shape) for crops, _ in batches] == [(4, 10, 64), (4, 10, 64), (3, 10, 64)]
    order = torch.cat([batch_labels for _, batch_labels in batches])
    assert sorted(order.tolist()) == labels.tolist()
    songs = LogMels(arrays)
    for crop, label in zip(torch.cat([x for x, _ in batches]).numpy(), order - 100, strict=True):
        possible = [songs.crop(label, s, 10) for s in range(max(len(arrays[label]) - 10, 0) + 1)]
        assert any(np.array_equal(crop, other) for other in possible)
    for (crops, _), (same, _) in zip(batches, epoch(songs, 0), strict=True):
        assert torch.equal(crops, same)
    assert order.tolist() != torch.cat([batch_labels for _, batch_labels in epoch(songs, 1)])


def test_random_crops_go_round_several_times_and_through_versions():
    # Three songs in two versions: all of the first version, then all of the second.
    songs = LogMels([np.full((4, N_MELS), i, np.float16) for i in range(6)])
    drawn = set()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        batches = list(spectrogram.random_crops(songs, np.arange(3), 4, 4, rng, 2, 2))
        assert [len(x) for x, _ in batches] == [4, 2]
        numbers = torch.cat([x[:, 0, 0] for x, _ in batches]).numpy()
        of_songs = torch.cat([y for _, y in batches]).numpy()
        assert (numbers % 3 == of_songs).all()
        assert sorted(of_songs[:3]) == sorted(of_songs[3:]) == [0, 1, 2]
        drawn |= set(numbers)
    assert drawn == {0, 1, 2, 3, 4, 5}


def test_random_crops_reach_both_ends_of_a_song():
    songs, rng = LogMels([ramp(12)]), np.random.default_rng(0)
    seen = [
        crops[0, 0].item()
        for _ in range(60)
        for crops, _ in spectrogram.random_crops(songs, np.array([0]), 10, 1, rng)
    ]
    assert set(seen) == {0, 1, 2}


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_windows_cover_every_song_in_any_batch_size(hold, batch_size, monkeypatch):
    seconds = spectrogram.to_seconds(20) * batch_size
    monkeypatch.setitem(spectrogram.BATCH_SECONDS, "cpu", seconds)
    songs = hold([ramp(95), ramp(4), ramp(20), ramp(21)])
    sizes = []

    def apply(batch: torch.Tensor) -> np.ndarray:
        sizes.append(len(batch))
        return batch[:, [0, -1], 0].float().numpy()

    windows = spectrogram.windows_of(songs, 20)
    values = spectrogram.score_crops(apply, songs, windows, 20)
    assert [song for song, _ in windows] == [0] * 5 + [1] + [2] + [3] * 2
    firsts, lasts = values.T.tolist()
    assert firsts == [0, 19, 38, 56, 75, 0, 0, 0, 1]
    assert lasts == [19, 38, 57, 75, 94, 3, 19, 19, 20]
    assert sizes == {1: [1] * 9, 4: [4, 4, 1], 1000: [9]}[batch_size]


def test_a_song_is_the_mean_of_its_windows(monkeypatch):
    songs = LogMels([ramp(95), ramp(4), ramp(20), ramp(21)])
    # Windows from 0, 19, 38, 56 and 75; five times the four frames; the whole; from 0 and 1.
    expected = [[37.6 + 9.5], [1.5], [9.5], [0.5 + 9.5]]
    found = spectrogram.per_song(mean_of_frames, songs, n_frames=20)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Each of several processes scores its share.
    seen = {}

    def score_divided(n_songs: int, score):
        for rank in range(2):
            seen[rank] = score(np.arange(rank, n_songs, 2)).tolist()

    monkeypatch.setattr(distributed, "score_divided", score_divided)
    spectrogram.per_song(mean_of_frames, songs, n_frames=20)
    for rank in range(2):
        np.testing.assert_allclose(seen[rank], expected[rank::2], rtol=1e-6)


@pytest.mark.parametrize(
    "longest, seconds, n_frames, said",
    [(40, 1, 31, ""), (31, 1, 31, ""), (30, 1, 30, "has 1.0 s"), (30, 0.5, 16, "")],
)
def test_crops_are_no_longer_than_the_longest_song(capsys, longest, seconds, n_frames, said):
    songs = LogMels([ramp(3), ramp(longest), ramp(9)])
    assert spectrogram.crop_frames(songs, seconds) == n_frames
    out = capsys.readouterr().out
    assert said in out
    assert bool(out) == bool(said)
