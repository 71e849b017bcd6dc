"""Features against librosa, on music-like signals and on those that break things; their files."""

import tempfile
import tracemalloc
from functools import cache
from itertools import pairwise
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, make_waveform, toy_provenance

from artist20 import UserError, audio, dataset, features, files
from artist20.results import Dataset, Preprocessing, SongRecord, write_record

RATE = features.SAMPLE_RATE

# How far from librosa a value may be, for every signal below: two or three times what was seen.
TOLERANCE = {
    "mfcc": 3e-3,  # 2e-4 on music; the worst is silence, whose coefficient 0 is -1131
    "mfcc_delta": 5e-4,
    "mfcc_delta2": 4e-4,
    "mel": 2e-5,  # dB
    "chroma": 2e-6,
    "contrast": 2e-5,  # dB
    "low_mel": 5e-7,  # of the song's largest
    "centroid": 2e-3,  # Hz
    "bandwidth": 1e-3,  # Hz
    "rolloff": 7.8125,  # Hz: one bin, in frames where the sums' rounding decides, at most 1 %
    "mel_energy": 1.5e-6,  # of the song's largest
    "rms": 1.5e-7,
    "zero_crossing_rate": 0.0,
    "onset": 4e-5,  # dB
    "tempo": 0.0,
}
RELATIVE = {"low_mel", "mel_energy"}
SIGNALS = ["music", "mp3", "noise", "clipped", "coarse", "tone", "click", "silence"]
SIGNALS += ["half silent", "quiet", "without treble"]
LOUDEST = audio.MAX_LEVEL  # that reaches the features


@cache
def signal(kind: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    n_samples = 5 * RATE
    time = np.arange(n_samples) / RATE
    if kind == "mp3":
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "music.mp3"
            soundfile.write(file, signal("music"), RATE)
            return audio.open_song(file)
    if kind == "music":  # tones, noise and a beat of clicks at 120 BPM
        waveform = make_waveform(list(ARTISTS)[1], 0, 5.0)
        clicks = (np.arange(n_samples) % (RATE // 2) < 200) * rng.normal(0, 0.3, n_samples)
        waveform = waveform + clicks
    elif kind == "noise":
        waveform = rng.normal(0, 0.1, n_samples)
    elif kind == "clipped":
        waveform = np.clip(rng.normal(0, 2, n_samples), -1, 1)
    elif kind == "coarse":  # many zeros, values that count as zero, and an offset in the middle
        waveform = rng.choice([-0.1, 0, 0, 0.1, -1e-11, -2e-10], n_samples)
        waveform[2 * RATE : 3 * RATE] += 0.3
    elif kind == "tone":
        waveform = 0.5 * np.sin(2 * np.pi * 440 * time)
    elif kind == "click":
        waveform = np.zeros(n_samples)
        waveform[30_000] = 1
    elif kind == "silence":
        waveform = np.zeros(n_samples)
    elif kind == "quiet":  # 100 dB down
        waveform = 1e-5 * signal("music")
    elif kind == "without treble":  # as an MP3 at a low bit rate: nothing above 5 kHz
        spectrum = np.fft.rfft(signal("music"))
        spectrum[5000 * 5 :] = 0
        waveform = np.fft.irfft(spectrum, n_samples)
    elif kind == "half silent":
        waveform = rng.normal(0, 0.1, n_samples) * (time < 2)
    return waveform.astype(np.float32)


def by_family(frames: torch.Tensor) -> dict[str, np.ndarray]:
    sizes = list(features.FAMILIES.values())
    return dict(zip(features.FAMILIES, map(np.asarray, frames.split(sizes)), strict=True))


def librosa_features(waveform: np.ndarray) -> dict[str, np.ndarray]:
    """All families, onset strength and tempo, each by librosa's own function for it."""
    spectrum = {"n_fft": 2048, "hop_length": 512}
    power = librosa.feature.melspectrogram(y=waveform, sr=RATE, **spectrum)
    mel = librosa.power_to_db(power)
    mfcc = librosa.feature.mfcc(S=mel, n_mfcc=20)
    # librosa sums in single precision; above an MP3's cutoff that rounding is all there is.
    magnitude = np.abs(librosa.stft(waveform.astype(np.float64), **spectrum)).astype(np.float32)
    given = {"S": magnitude, "sr": RATE}
    onset = librosa.onset.onset_strength(y=waveform, sr=RATE)
    return {
        "mfcc": mfcc,
        "mfcc_delta": librosa.feature.delta(mfcc),
        "mfcc_delta2": librosa.feature.delta(mfcc, order=2),
        "mel": mel,
        "chroma": librosa.feature.chroma_stft(S=magnitude**2, sr=RATE, tuning=0.0),
        "contrast": librosa.feature.spectral_contrast(**given),
        "low_mel": power[:12],
        "centroid": librosa.feature.spectral_centroid(**given),
        "bandwidth": librosa.feature.spectral_bandwidth(**given),
        "rolloff": librosa.feature.spectral_rolloff(**given),
        "mel_energy": power.sum(axis=0, keepdims=True),
        "rms": librosa.feature.rms(y=waveform),
        "zero_crossing_rate": librosa.feature.zero_crossing_rate(waveform),
        "onset": onset,
        "tempo": librosa.feature.tempo(onset_envelope=onset, sr=RATE)[0],
    }


def frame_features(blocks):
    """Compute what song_units takes statistics of: (n_features, n_frames), and onset strength."""
    raw = [features._block_features(block) for block in features._padded_blocks(blocks)]
    frames, _, rise = features._finish(raw, features._loudest(raw), 0, features._n_frames(raw))
    return frames, features._onset_strength(rise)


@pytest.mark.parametrize("kind", SIGNALS)
def test_every_family_agrees_with_librosa(kind):
    frames, onset = frame_features([torch.from_numpy(signal(kind))])
    ours = {**by_family(frames), "onset": onset.numpy(), "tempo": np.array(features.tempo(onset))}
    expected = librosa_features(signal(kind))
    too_far = {}
    for family, tolerance in TOLERANCE.items():
        assert ours[family].shape == expected[family].shape, family
        scale = max(np.abs(expected[family]).max(), 1e-10) if family in RELATIVE else 1.0
        distance = np.abs(ours[family] - expected[family]).max() / scale
        if not distance <= tolerance:  # also if it is NaN
            too_far[family] = (distance, tolerance)
    assert not too_far
    assert (ours["rolloff"] != expected["rolloff"]).mean() <= 0.01


@pytest.mark.filterwarnings("ignore:n_fft=2048 is too large")
@pytest.mark.parametrize("seconds", [0.02, 0.2, 0.255, 0.3])
def test_clips_shorter_than_the_derivatives_width(seconds):
    waveform = make_waveform(next(iter(ARTISTS)), 1, seconds)
    frames, _ = frame_features([torch.from_numpy(waveform)])
    ours = by_family(frames)
    n_frames = 1 + len(waveform) // 512
    mfcc = librosa.feature.mfcc(y=waveform, sr=RATE)
    held = np.pad(mfcc, [(0, 0), (0, max(0, 9 - n_frames))], mode="edge")
    for family, order in (("mfcc_delta", 1), ("mfcc_delta2", 2)):
        expected = librosa.feature.delta(held, order=order)[:, :n_frames]
        np.testing.assert_allclose(ours[family], expected, rtol=0, atol=TOLERANCE[family])
    units = features.song_units([torch.from_numpy(waveform)])
    assert len(units) == 1
    assert np.isfinite(units).all()


@pytest.mark.parametrize("kind", SIGNALS)
def test_what_reaches_disk_is_finite(kind):
    units = features.song_units([torch.from_numpy(signal(kind))])
    assert units.dtype == np.float32
    assert np.isfinite(units).all()
    assert np.isfinite(features.merge_units(units, 1)).all()


def test_the_loudest_that_is_read_stays_finite():
    loud = torch.from_numpy(LOUDEST * np.sign(signal("noise")))
    assert np.isfinite(features.song_units([loud])).all()


def test_silence_is_zero_and_minus_100_db():
    frames, _ = frame_features([torch.from_numpy(signal("silence"))])
    ours = by_family(frames)
    for family in ("centroid", "bandwidth", "rolloff", "chroma", "contrast", "rms", "low_mel"):
        assert (ours[family] == 0).all(), family
    assert (ours["mel"] == -100).all()


@pytest.mark.parametrize("frames_at_a_time", [1, 50, 156, 157, 158])
@pytest.mark.parametrize("samples_at_a_time", [1000, 16_384])
def test_blocks_join_without_a_seam(monkeypatch, frames_at_a_time, samples_at_a_time):
    waveform = torch.from_numpy(signal("music"))  # 157 frames
    monkeypatch.setitem(features.BLOCK_FRAMES, "cpu", 10**6)
    whole, whole_onset = frame_features([waveform])
    monkeypatch.setitem(features.BLOCK_FRAMES, "cpu", frames_at_a_time)
    frames, onset = frame_features(waveform.split(samples_at_a_time))
    assert frames.shape == whole.shape == (len(features.FRAME_FEATURES), 157)
    torch.testing.assert_close(frames, whole, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(onset, whole_onset, rtol=0, atol=1e-4)


@pytest.mark.parametrize("n_samples", [1, 511, 512, 513, 1023, 1024, 2048, 65_536, 65_537, 66_048])
def test_every_length_has_its_frames(n_samples):
    waveform = torch.from_numpy(signal("noise"))[:n_samples]
    frames, onset = frame_features([waveform])
    assert frames.shape == (len(features.FRAME_FEATURES), 1 + n_samples // 512)
    assert onset.shape == (1 + n_samples // 512,)
    padded = np.pad(waveform, 1024)
    loudness = np.sqrt(np.square(padded[512 * (n_samples // 512) :][:2048]).mean())
    assert by_family(frames)["rms"][0, -1] == pytest.approx(loudness, rel=1e-5)


def test_names_are_unique_in_order_and_match_the_columns():
    names = features.FEATURE_NAMES
    assert len(set(features.UNIT_NAMES)) == len(features.UNIT_NAMES)
    assert len(features.UNIT_NAMES) == 1 + len(names) + 192 + 190
    assert len(names) == 4 * len(features.FRAME_FEATURES) + 1 == 901
    assert features.FRAME_FEATURES[:2] == ["mfcc_00", "mfcc_01"]
    assert {"mel_000", "mel_127", "chroma_11", "contrast_6", "low_mel_00"} < set(
        features.FRAME_FEATURES
    )
    waveform = torch.from_numpy(signal("music"))
    _, onset = frame_features([waveform])
    units = features.song_units([waveform])
    assert units.shape == (1, len(features.UNIT_NAMES))
    values = dict(zip(features.UNIT_NAMES, units[0].tolist(), strict=True))
    assert values.pop("n_frames") == 157
    assert values.pop("tempo") == pytest.approx(features.tempo(onset))
    expected = librosa_features(signal("music"))
    covariance = np.cov(expected["mfcc"], bias=True)
    for i in range(20):
        for j in range(i + 1, 20):
            value = values.pop(f"mfcc_cov_{i:02d}_{j:02d}")
            assert value == pytest.approx(covariance[i, j], rel=1e-4, abs=1e-2)
    for i, rates in enumerate(modulation_spectrum(signal("music"))):
        for j, level in enumerate(rates):
            assert values.pop(f"modulation_{i:02d}_{j:02d}") == pytest.approx(level, abs=1e-3)
    assert values.keys() == {
        f"{name}_{stat}"
        for name in features.FRAME_FEATURES
        for stat in ("mean", "std", "max", "min")
    }
    for name, rows, row in (
        ("mfcc_07", "mfcc", 7),
        ("mfcc_delta2_19", "mfcc_delta2", 19),
        ("mel_064", "mel", 64),
        ("chroma_09", "chroma", 9),
        ("contrast_6", "contrast", 6),
        ("centroid", "centroid", 0),
        ("rms", "rms", 0),
    ):
        for stat in ("mean", "std", "max", "min"):
            truth = getattr(np, stat)(expected[rows][row].astype(float))
            assert values[f"{name}_{stat}"] == pytest.approx(truth, rel=1e-3, abs=1e-5), name


def modulation_spectrum(waveform: np.ndarray) -> np.ndarray:
    """Compute by librosa and NumPy what ``modulation`` says of one unit."""
    hops = 8 * (1 + len(waveform) // 512)
    # The first window lies about the middle of the first eighth of the hop about sample 0.
    padded = np.pad(waveform.astype(float), (256 - 32 + 128, 1024))
    power = librosa.feature.melspectrogram(
        y=padded, sr=RATE, n_fft=256, hop_length=64, n_mels=16, center=False
    )[:, :hops]
    level = librosa.power_to_db(power)
    window = np.hanning(hops + 1)[:-1]
    spectrum = np.fft.rfft((level - level.mean(axis=1, keepdims=True)) * window, n=2048)
    power = np.abs(spectrum) ** 2 / (window**2).sum()
    frequency = np.arange(1025) * 250 / 2048
    edges = 2 * 60 ** (np.arange(13) / 12)
    bands = [
        power[:, (frequency >= low) & (frequency < high)].mean(axis=1)
        for low, high in pairwise(edges)
    ]
    return 10 * np.log10(np.maximum(np.stack(bands, axis=1), 1e-3))


@pytest.mark.parametrize("rate", [3.0, 12.0, 50.0, 80.0])
def test_modulation_peaks_at_the_rate_of_a_tremolo(rate):
    time = np.arange(10 * RATE) / RATE
    waveform = 0.2 * np.sin(2 * np.pi * 1000 * time) * (1 + 0.5 * np.sin(2 * np.pi * rate * time))
    units = features.song_units([torch.from_numpy(waveform.astype(np.float32))])
    band = librosa.filters.mel(sr=RATE, n_fft=256, n_mels=16)[:, 16].argmax()  # has 1000 Hz
    first = features.UNIT_NAMES.index(f"modulation_{band:02d}_00")
    for unit in units:
        assert unit[first : first + 12].argmax() == int(12 * np.log(rate / 2) / np.log(60))


def test_modulation_is_deaf_to_level_and_finite_in_silence():
    units = [
        features.song_units([torch.from_numpy(gain * signal("music"))]) for gain in (1, 0.1, 0)
    ]
    first = features.UNIT_NAMES.index("modulation_00_00")
    loud, quiet, silent = (unit[0, first : first + 192] for unit in units)
    np.testing.assert_allclose(loud, quiet, atol=1e-2)
    assert (silent == np.float32(-30)).all()


def long_song() -> np.ndarray:
    """33 s whose parts differ: 1032 frames, 7 units."""
    parts = ["music", "noise", "tone", "quiet", "half silent", "music"]
    return np.concatenate([signal(kind) for kind in parts] + [signal("noise")[: 3 * RATE]])


def test_units_are_consecutive_frames_of_about_five_seconds():
    waveform = torch.from_numpy(long_song())
    frames = frame_features([waveform])[0].numpy().astype(float)
    units = features.song_units([waveform])
    assert units[:, 0].tolist() == [len(part) for part in np.array_split(np.arange(1032), 7)]
    first = 0
    for unit in units:
        part = frames[:, first : first + int(unit[0])]
        first += int(unit[0])
        statistics = unit[1:901].reshape(-1, 4)
        for column, function in enumerate((np.mean, np.std, np.max, np.min)):
            expected = function(part, axis=1)
            np.testing.assert_allclose(statistics[:, column], expected, rtol=2e-4, atol=2e-3)


@pytest.mark.parametrize("n_segments", [1, 2, 3, 7])
def test_merged_units_have_the_statistics_of_their_frames(n_segments):
    waveform = torch.from_numpy(long_song())
    frames = frame_features([waveform])[0].numpy().astype(float)
    units = features.song_units([waveform])
    merged = features.merge_units(units, n_segments)
    assert merged.shape == (n_segments, 901 + 192 + 190)
    assert merged.dtype == np.float32
    first = 0
    sizes = [int(part[:, 0].sum()) for part in np.array_split(units, n_segments)]
    for i, (row, n_frames) in enumerate(zip(merged, sizes, strict=True)):
        part = frames[:, first : first + n_frames]
        first += n_frames
        statistics = row[:900].reshape(-1, 4)
        for column, function in enumerate((np.mean, np.std, np.max, np.min)):
            expected = function(part, axis=1)
            np.testing.assert_allclose(statistics[:, column], expected, rtol=2e-4, atol=2e-3)
        covariance = np.cov(part[:20], bias=True)[features.PAIRS]
        np.testing.assert_allclose(row[901 + 192 :], covariance, rtol=1e-3, atol=0.05)
        assert row[900] == units[0, 901]
        mine = np.array_split(units, n_segments)[i]
        modulation = np.average(mine[:, 902 : 902 + 192], axis=0, weights=mine[:, 0])
        np.testing.assert_allclose(row[901 : 901 + 192], modulation, rtol=1e-5)
    assert first == frames.shape[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("kind", SIGNALS)
def test_the_gpu_agrees_with_the_cpu(kind):
    waveform = torch.from_numpy(signal(kind))
    frames, _ = frame_features([waveform])
    on_gpu, _ = frame_features([waveform.cuda()])
    ours, theirs = by_family(frames), by_family(on_gpu.cpu())
    for family, values in ours.items():
        scale = max(np.abs(values).max(), 1e-10) if family in RELATIVE else 1.0
        assert np.abs(values - theirs[family]).max() / scale <= 2 * TOLERANCE[family], family


def test_tempo_of_a_beat():
    _, onset = frame_features([torch.from_numpy(signal("music"))])
    assert features.tempo(onset) == pytest.approx(120, rel=0.03)


@pytest.mark.parametrize("n_frames", [1, 7, 125, 250, 251, 3000, 9000])
def test_tempo_of_any_length_is_librosas(n_frames):
    rng = np.random.default_rng(n_frames)
    beat = np.arange(n_frames) % 13 == 0
    onset = (rng.random(n_frames) * 0.3 + beat).astype(np.float32)
    expected = librosa.feature.tempo(onset_envelope=onset, sr=RATE)[0]
    assert features.tempo(torch.from_numpy(onset)) == expected


def test_tempo_of_silence_is_the_documented_one():
    assert features.tempo(torch.zeros(200)) == 117.1875


def test_every_column_has_its_family():
    families = [features.family_of(column) for column in features.SEGMENT_NAMES]
    sizes = {family: families.count(family) for family in families}
    assert sizes.pop("tempo") == 1
    assert sizes.pop("modulation") == 192
    assert sizes.pop("mfcc_cov") == 190
    assert sizes == {family: 4 * size for family, size in features.FAMILIES.items()}


# --- the cache, and the arrays of both splits ----------------------------------------------------


def test_songs_are_computed_once_and_unreadable_ones_named(tiny_copy, tmp_path, capsys):
    songs = dataset.read_split(tiny_copy, "val")[:3]
    songs[1].file.write_bytes(b"no music")
    by_key = {key: song.file for key, song in zip("abc", songs, strict=True)}
    for known in (0, 2):
        cache, unreadable = features.cached_units(tmp_path, by_key, torch.device("cpu"), 1)
        assert f"features: {known} of 3 songs are in" in capsys.readouterr().out
        assert list(unreadable) == ["b"]
        assert unreadable["b"].startswith("cannot be decoded")
        assert cache.folder.parent == tmp_path
        for key in "ac":
            units = features.song_units([torch.from_numpy(audio.open_song(by_key[key]))])
            np.testing.assert_allclose(cache.load(key), units, rtol=1e-4, atol=1e-3)


def draw_units(n_songs):
    """Draw units of songs of 1, 2, 3, 1, ... of them."""
    rng = np.random.default_rng(0)
    for i in range(n_songs):
        units = rng.normal(size=(1 + i % 3, len(features.UNIT_NAMES))).astype(np.float32)
        units[:, 0] = 156
        yield units


def song_records(n_songs):
    return [
        SongRecord(path=f"{i}.mp3", artist=f"artist {i % 2}", album="a") for i in range(n_songs)
    ]


@pytest.fixture
def prepared(tmp_path):
    """Folder of the features of 5 songs in either split."""
    for split in dataset.SPLITS:
        features.write_features(tmp_path, split, song_records(5), draw_units(5))
    record = Preprocessing(
        dataset=Dataset(name="x", synthesised=True, fingerprint="0", artists=2, train=5, val=5),
        arrays=features.feature_hashes(tmp_path),
        feature_version=features.VERSION,
        provenance=toy_provenance("x"),
    )
    write_record(tmp_path / "preprocessing.json", record)
    return tmp_path


def test_features_come_back(prepared):
    assert len(features.read_prepared(prepared).arrays) == 8
    songs = features.read_features(prepared, "val")
    units = list(draw_units(5))
    assert songs.X.dtype == np.float32
    np.testing.assert_array_equal(songs.X, [features.merge_units(of, 1)[0, :901] for of in units])
    assert songs.y.tolist() == [f"artist {i % 2}" for i in range(5)]
    assert songs.albums.tolist() == [f"artist {i % 2}/a" for i in range(5)]
    assert songs.songs == song_records(5)
    assert songs.names == features.FEATURE_NAMES
    rows, unit_songs = features.read_units(prepared, "val")
    np.testing.assert_array_equal(rows, np.concatenate(units))
    assert unit_songs.tolist() == [0, 1, 1, 2, 2, 2, 3, 4, 4]
    assert not rows.flags.writeable
    assert isinstance(rows, np.memmap)


@pytest.mark.parametrize("array", features.ARRAYS)
def test_arrays_that_changed_or_are_missing_are_named(prepared, array):
    path = prepared / f"{array}_train.npy"
    files.write_array(path, np.load(path)[1:])
    with pytest.raises(
        UserError, match=rf" {path.name} changed .*run task1_preprocessing\.py again"
    ):
        features.read_prepared(prepared)
    path.unlink()
    with pytest.raises(UserError, match=rf"{path} is missing: run task1_preprocessing\.py first"):
        features.read_prepared(prepared)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("songs_val.json", song_records(4)),
        ("songs_val.json", song_records(6)[1:]),  # of other artists
        ("songs_val.json", [{}] * 5),
        ("feature_names.json", ["a"]),
        ("feature_names.json", None),
    ],
)
def test_lists_that_do_not_belong_to_the_arrays(prepared, name, value):
    write_record(prepared / name, value)
    with pytest.raises(UserError, match=rf"{name}.*run task1_preprocessing\.py again"):
        features.read_features(prepared, "val")


def test_features_are_never_all_in_memory(tmp_path):
    n_songs = 500
    units = np.zeros((10, len(features.UNIT_NAMES)), np.float32)
    units[:, 0] = 156
    tracemalloc.start()
    features.write_features(tmp_path, "val", song_records(n_songs), (units for _ in range(n_songs)))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    written, _ = features.read_units(tmp_path, "val")
    assert written.shape == (10 * n_songs, len(features.UNIT_NAMES))
    assert most < written.nbytes / 5
