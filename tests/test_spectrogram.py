"""artist20.spectrogram: log-mels as librosa's, crops, windows, batches."""

import tracemalloc

import librosa
import numpy as np
import pytest
import torch
from conftest import ARTISTS, make_waveform

from artist20 import audio, spectrogram
from artist20.spectrogram import HOP_LENGTH, FrontEnd, LogMels

ARTIST = next(iter(ARTISTS))
N_MELS = 64
FRONT_END = FrontEnd()


def toy_songs(*lengths: int, seed: int = 0) -> LogMels:
    """Songs of these lengths, the last one first in the store, with a stranger's rows between."""
    rng = np.random.default_rng(seed)
    spans, first = [], 0
    for length in reversed(lengths):
        spans.insert(0, (first, length))
        first += length + 3
    return LogMels(rng.normal(-30, 20, (first, N_MELS)).astype(np.float16), spans)


def song_rows(songs: LogMels, song: int) -> np.ndarray:
    first, length = songs.spans[song]
    return songs.rows[first : first + length]


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
    audio.write(tmp_path / "a.wav", waveform)
    tracemalloc.start()
    try:
        log_mel = spectrogram.load_log_mel(tmp_path / "a.wav", FRONT_END)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - log_mel.nbytes < waveform.nbytes / 2
    assert np.array_equal(log_mel, spectrogram.log_mel(audio.load(tmp_path / "a.wav"), FRONT_END))


def test_log_mel_blocks_join_without_a_seam(monkeypatch):
    waveform = make_waveform(ARTIST, 2, 10.0)
    whole = spectrogram.log_mel(waveform, FRONT_END)
    for n_frames in (1, 100, len(whole) - 1, len(whole)):
        monkeypatch.setattr(spectrogram, "BLOCK_SAMPLES", n_frames * FRONT_END.n_fft)
        joined = spectrogram.log_mel(waveform, FRONT_END)
        np.testing.assert_allclose(joined.astype(float), whole.astype(float), rtol=0, atol=0.032)


def test_constants_are_the_front_ends():
    assert FrontEnd(2048, 128).settings() == {
        "sample_rate": 16_000,
        "n_fft": 2048,
        "hop_length": HOP_LENGTH,
        "n_mels": 128,
        "f_max": spectrogram.F_MAX,
        "amin": spectrogram.AMIN,
    }
    assert spectrogram.to_frames(150) == 4688
    assert spectrogram.to_frames(0.001) == 1
    assert spectrogram.to_seconds(4688) == pytest.approx(150, abs=0.02)


# --- LogMels -----------------------------------------------------------------------------------


def test_crop_cuts_and_repeats_short_songs():
    songs = toy_songs(20, 5)
    np.testing.assert_array_equal(songs.crop(0, 7, 13), song_rows(songs, 0)[7:20])
    np.testing.assert_array_equal(songs.crop(1, 0, 5), song_rows(songs, 1))
    short = song_rows(songs, 1)
    np.testing.assert_array_equal(songs.crop(1, 0, 12), np.concatenate([short, short, short])[:12])
    np.testing.assert_array_equal(songs.crop(1, 3, 4), short[[3, 4, 0, 1]])


def test_mean_and_std_are_of_the_songs_frames_alone():
    songs = toy_songs(300, 40, 7)
    frames = np.concatenate([song_rows(songs, i) for i in range(3)]).astype(float)
    mean, std = songs.mean_and_std()
    np.testing.assert_allclose(mean, frames.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(std, frames.std(axis=0), rtol=1e-9)
    constant = LogMels(np.full((9, N_MELS), -100, np.float16), [(0, 9)])
    assert (constant.mean_and_std()[1] > 0).all()  # it is divided by


def test_random_crops_visit_every_song_once_and_follow_the_seed():
    songs = toy_songs(*range(8, 19))
    labels = np.arange(100, 111)

    def epoch(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(seed)
        return list(spectrogram.random_crops(songs, labels, 10, batch_size=4, rng=rng))

    batches = epoch(0)
    assert [tuple(crops.shape) for crops, _ in batches] == [(4, 10, 64), (4, 10, 64), (3, 10, 64)]
    crops = torch.cat([crops for crops, _ in batches])
    order = torch.cat([batch_labels for _, batch_labels in batches])
    assert sorted(order.tolist()) == labels.tolist()
    for crop, label in zip(crops.numpy(), order.tolist(), strict=True):
        song = label - 100
        possible = [songs.crop(song, s, 10) for s in range(max(songs.spans[song][1] - 10, 0) + 1)]
        assert any(np.array_equal(crop, other) for other in possible)

    assert all(torch.equal(a[0], b[0]) for a, b in zip(batches, epoch(0), strict=True))
    assert order.tolist() != torch.cat([batch_labels for _, batch_labels in epoch(1)]).tolist()


def test_random_crops_go_round_several_times_and_through_versions():
    rows = np.arange(24, dtype=np.float16)[:, None] * np.ones(N_MELS, np.float16)
    songs = LogMels(rows, [(4 * i, 4) for i in range(6)])  # three songs in two versions
    drawn, labels = [], []
    for seed in range(20):
        batches = list(
            spectrogram.random_crops(
                songs, np.arange(3), 4, 4, np.random.default_rng(seed), times=2, versions=2
            )
        )
        assert [len(x) for x, _ in batches] == [4, 2]
        numbers = torch.cat([x[:, 0, 0] for x, _ in batches]).numpy() / 4
        of_songs = torch.cat([y for _, y in batches]).numpy()
        assert (numbers % 3 == of_songs).all()
        assert sorted(of_songs[:3]) == sorted(of_songs[3:]) == [0, 1, 2]
        drawn += list(numbers)
        labels += list(of_songs)
    assert set(drawn) == {0, 1, 2, 3, 4, 5}


def test_random_crops_reach_both_ends_of_a_song():
    songs = toy_songs(12)
    rng = np.random.default_rng(0)
    seen = {
        float(crops[0, 0, 0])
        for _ in range(60)
        for crops, _ in spectrogram.random_crops(songs, np.array([0]), 10, 1, rng)
    }
    assert seen == set(song_rows(songs, 0)[:3, 0].astype(float).tolist())


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_score_windows_does_not_depend_on_the_batch_size(batch_size):
    songs = toy_songs(95, 4, 20)
    scores, song_index = spectrogram.score_windows(
        lambda batch: batch.float().mean(dim=1).numpy(), songs, 20, batch_size
    )
    assert song_index.tolist() == [0] * 5 + [1] + [2]
    starts = [(0, 0), (0, 19), (0, 38), (0, 56), (0, 75), (1, 0), (2, 0)]
    expected = [songs.crop(*window, 20).astype(np.float32).mean(axis=0) for window in starts]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_cached_log_mels_are_in_the_files_order_and_computed_once(tiny_data, tmp_path, monkeypatch):
    first, _, third = sorted(tiny_data.glob("test/*.mp3"))
    files, keys = [third, first, third], ["c", "a", "c"]  # a song may be there twice
    songs = spectrogram.cached_log_mels(tmp_path, files, keys, 1, FRONT_END)
    for song, file in enumerate(files):
        expected = spectrogram.log_mel(audio.load(file), FRONT_END)
        np.testing.assert_array_equal(song_rows(songs, song), expected)

    monkeypatch.setattr(spectrogram, "log_mel", None)  # would fail in the worker
    again = spectrogram.cached_log_mels(tmp_path, files[:2], keys[:2], 1, FRONT_END)
    assert again.spans == songs.spans[:2]


def test_log_mels_of_every_front_end_are_of_one_decoding(tiny_data, monkeypatch):
    file = next(tiny_data.glob("test/*.mp3"))
    waveform = audio.load(file)
    decoded = []
    monkeypatch.setattr(audio, "open_song", lambda file: decoded.append(file) or waveform)
    front_ends = [FRONT_END, FrontEnd(4096, 256)]
    log_mels = spectrogram.load_log_mels(file, front_ends)
    assert decoded == [file]
    assert list(log_mels) == front_ends
    for front_end in front_ends:
        expected = spectrogram.log_mel(waveform, front_end)
        np.testing.assert_array_equal(log_mels[front_end], expected)


def test_songs_held_on_a_device_are_cut_alike():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, N_MELS)).astype(np.float16)
    songs = spectrogram.LogMels(rows, [(40, 10), (3, 20), (23, 4)])  # others' rows lie between
    held = songs.on(torch.device("cpu"))
    assert held.rows.shape == (34, N_MELS)
    for song in range(3):
        for start in (0, 2):
            for n_frames in (1, 4, 30):
                expected = songs.crop(song, start, n_frames)
                assert np.array_equal(np.asarray(held.crop(song, start, n_frames)), expected)
    labels = np.array([5, 6, 7])
    cut = [
        list(spectrogram.random_crops(each, labels, 8, 2, np.random.default_rng(1)))
        for each in (songs, held)
    ]
    for (crops, of), (same, of_same) in zip(*cut, strict=True):
        assert torch.equal(crops, same)
        assert torch.equal(of, of_same)
    assert songs.near(torch.device("cpu")) is songs
