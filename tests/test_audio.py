"""artist20.audio: decoding, resampling, and what is said of files that cannot be read."""

import os
import pickle
import resource
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr

from artist20 import UserError, artifacts, audio

RATE = 16_000


def sine(seconds: float, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(seconds * rate)) / rate)).astype(
        "f4"
    )


def loudest_frequency(waveform: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * rate / len(waveform)


@pytest.mark.parametrize("extension", ["mp3", "flac", "wav", "ogg"])
def test_every_format_gives_the_same_music(tmp_path, extension):
    file = tmp_path / f"Ünï, [code] (it's).{extension}"
    written = sine(1.0)
    soundfile.write(file, written, RATE)
    waveform = audio.load(file)
    assert waveform.dtype == np.float32
    assert waveform.shape == written.shape
    # Lossy encoders do badly at the ends of a file.
    error = np.abs(waveform - written)[2000:-2000].max()
    assert error < {"mp3": 0.02, "ogg": 0.05, "flac": 1e-4, "wav": 1e-4}[extension]


def test_channels_are_averaged(tmp_path):
    rng = np.random.default_rng(0)
    channels = rng.uniform(-0.5, 0.5, (RATE, 3)).astype("f4")
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype="FLOAT")
    np.testing.assert_allclose(audio.load(tmp_path / "a.wav"), channels.mean(axis=1), atol=1e-7)


@pytest.mark.parametrize(("rate", "sample_rate"), [(44_100, RATE), (8_000, RATE), (RATE, 32_000)])
def test_resampling_keeps_length_pitch_and_level(tmp_path, rate, sample_rate):
    seconds = 25.0  # three blocks
    soundfile.write(tmp_path / "a.flac", sine(seconds, rate, 1000.0), rate)
    waveform = audio.load(tmp_path / "a.flac", sample_rate)
    assert len(waveform) == pytest.approx(seconds * sample_rate, abs=1)
    assert loudest_frequency(waveform, sample_rate) == pytest.approx(1000.0, abs=0.1)
    # The phase runs on from block to block, and nothing is lost at the seams.
    expected = sine(seconds, sample_rate, 1000.0)[: len(waveform)]
    inner = slice(sample_rate // 10, -sample_rate // 10)
    np.testing.assert_allclose(waveform[inner], expected[: len(waveform)][inner], atol=1e-3)


def test_blocks_of_an_mp3_are_its_whole_and_come_one_at_a_time(tmp_path):
    rng = np.random.default_rng(1)
    soundfile.write(tmp_path / "a.mp3", rng.uniform(-0.5, 0.5, 35 * RATE), RATE)
    blocks = list(audio.read_blocks(tmp_path / "a.mp3"))
    assert [len(block) for block in blocks] == [10 * RATE] * 3 + [5 * RATE]
    whole, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(audio.load(tmp_path / "a.mp3"), np.concatenate(blocks))
    assert audio.duration(tmp_path / "a.mp3") == 35.0


def test_a_file_is_read_no_further_than_asked(tmp_path):
    samples = np.zeros(60 * RATE, np.float32)
    samples[-1] = np.nan  # whoever reads on to the end is told
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert len(list(islice(audio.read_blocks(tmp_path / "a.wav"), 2))) == 2
    with pytest.raises(audio.AudioError, match="NaN"):
        audio.load(tmp_path / "a.wav")


def test_an_mp3_of_many_blocks_is_read_without_noise_on_stderr(tmp_path):
    soundfile.write(tmp_path / "a.mp3", sine(45.0), RATE)
    code = "import sys; from pathlib import Path; from artist20 import audio;"
    code += "print(len(audio.load(Path(sys.argv[1]))))"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.mp3"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.stdout.split() == [str(45 * RATE)]
    assert result.stderr == ""


def make_bad_file(folder: Path, kind: str) -> Path:
    file = folder / ("x.wav" if kind in ("nan", "inf", "zero samples") else "x.mp3")
    if kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("Sorry, too many users have viewed this file recently.\n" * 20)
    elif kind == "zero bytes":
        file.write_bytes(bytes(5000))
    elif kind == "folder":
        file.mkdir()
    elif kind in ("nan", "inf"):
        samples = np.zeros(RATE, np.float32)
        samples[700] = float(kind)
        soundfile.write(file, samples, RATE, subtype="FLOAT")
    elif kind == "zero samples":
        soundfile.write(file, np.zeros(0, np.float32), RATE)
    return file


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "no file"),
        ("empty", "cannot be decoded"),
        ("text", "cannot be decoded"),
        ("zero bytes", "cannot be decoded"),
        ("folder", "no file"),
        ("nan", "NaN or infinite"),
        ("inf", "NaN or infinite"),
        ("zero samples", "no audio"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, kind, reason):
    file = make_bad_file(tmp_path, kind)
    with pytest.raises(audio.AudioError, match=reason) as caught:
        audio.load(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert len(message.splitlines()) == 1
    # libsndfile's own word for an MP3 without one valid frame, of a file that is there.
    assert kind == "missing" or "does not exist" not in message


def test_samples_that_would_square_to_infinity_are_refused(tmp_path):
    for level, refused in ((32_768.0, False), (1e17, True), (-1e17, True)):
        file = tmp_path / f"{level}.wav"
        soundfile.write(file, np.full(100, level, np.float32), 16_000, subtype="FLOAT")
        if refused:
            with pytest.raises(audio.AudioError, match="full scale is 1"):
                audio.load(file)
        else:
            assert audio.load(file).max() == level


@pytest.mark.parametrize("name", ["a.mp3", "a.MP3", "a.flac", "a.ogg", "a.wav"])
@pytest.mark.parametrize("n_samples", [1, 5_000, 40_001])
def test_what_is_written_comes_back_as_long_and_in_step(tmp_path, name, n_samples):
    written = np.random.default_rng(0).normal(0, 0.1, n_samples).astype("f4")
    audio.write(tmp_path / "new folder" / name, written)
    waveform = audio.load(tmp_path / "new folder" / name)
    assert waveform.shape == written.shape
    if n_samples > 1:
        assert np.correlate(waveform, written, "same").argmax() == n_samples // 2
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == [name]


def test_mp3_is_written_at_64_kbit(tmp_path):
    audio.write(tmp_path / "a.mp3", sine(10.0))
    assert (tmp_path / "a.mp3").stat().st_size * 8 / 10 == pytest.approx(64_000, rel=0.02)


@pytest.mark.parametrize("extension", ["mp3", "flac"])
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, extension):
    file = tmp_path / f"a.{extension}"
    audio.write(file, sine(0.1))
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # a disk that is soon full
    try:
        with pytest.raises(UserError, match=rf"a\.{extension} cannot be written: File too large"):
            audio.write(file, np.random.default_rng(0).normal(0, 0.1, 10 * RATE).astype("f4"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


# --- long songs --------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [RATE, 32_000])
def test_slices_of_a_long_song_are_those_of_the_whole(tmp_path, monkeypatch, sample_rate):
    file = tmp_path / "a.mp3"
    audio.write(file, np.random.default_rng(0).normal(0, 0.1, 65 * RATE).astype("f4"))
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2)
    whole, song = audio.load(file, sample_rate), audio.open_song(file, sample_rate)
    assert len(pickle.dumps(song)) < 1000  # between processes
    assert len(song) == len(whole)
    for first in (0, 5, 5, 12, 50, 49, 61, 0, 64):
        for seconds in (0, 1, 15, 99):
            part = slice(first * sample_rate + 7, (first + seconds) * sample_rate + 7)
            assert np.array_equal(song[part], whole[part])
            assert song[part].dtype == np.float32


@pytest.mark.parametrize("suffix", ["mp3", "wav", "flac"])
def test_a_file_is_the_same_in_however_many_blocks_it_is_written(tmp_path, suffix):
    waveform = sine(3.0)
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    coding = audio.MP3_CODING if suffix == "mp3" else {}
    soundfile.write(whole, waveform, RATE, **coding)
    audio.write_blocks(parts, iter(np.array_split(waveform, [0, 1, 7, 20_000])))
    assert parts.read_bytes() == whole.read_bytes()


def test_resampling_block_by_block_is_that_of_the_whole():
    waveform = np.random.default_rng(0).normal(0, 0.1, 100_000).astype("f4")
    found = np.concatenate(list(audio.resample(np.array_split(waveform, 7), 44_100)))
    expected = soxr.resample(waveform, 44_100, audio.SAMPLE_RATE)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_format_that_cannot_be_written_is_a_line(tmp_path):
    with pytest.raises(UserError, match=r"a\.m4a cannot be written: there is no writer of .m4a"):
        audio.write(tmp_path / "a.m4a", sine(1.0))


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac", "wav"])
def test_a_disk_that_is_full_at_the_last_moment_is_told(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    waveform = np.random.default_rng(0).normal(0, 0.1, 5 * RATE).astype("f4")
    audio.write(file, waveform)
    size = file.stat().st_size
    file.unlink()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, 100, 500, 1500, 5000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - missing, before[1]))
        try:
            with pytest.raises(artifacts.DiskFullError, match=f"a.{suffix} cannot be written"):
                audio.write(file, waveform)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert not list(tmp_path.iterdir())


def test_windows_over_a_long_song_take_one_pass(tmp_path, monkeypatch):
    file = tmp_path / "a.wav"
    soundfile.write(file, sine(60), RATE)
    song = audio.LongSong(file, RATE, 60 * RATE)
    passes, read_blocks = [], audio.read_blocks
    monkeypatch.setattr(audio, "read_blocks", lambda *a: passes.append(a) or read_blocks(*a))
    for start in range(0, 50, 7):
        assert len(song[start * RATE : (start + 10) * RATE]) == 10 * RATE
    assert len(passes) == 1


def test_songs_of_up_to_ten_minutes_are_kept(tmp_path):
    for seconds, kind in ((599, np.ndarray), (601, audio.LongSong)):
        soundfile.write(tmp_path / "a.wav", np.zeros(seconds * 1000, "f4"), 1000)
        song = audio.open_song(tmp_path / "a.wav", 1000)
        assert isinstance(song, kind)
        assert len(song) == seconds * 1000


def test_a_long_song_has_no_steps_and_nothing_backwards(tmp_path):
    file = tmp_path / "a.wav"
    soundfile.write(file, sine(30), RATE)
    song = audio.LongSong(file, RATE, 30 * RATE)
    assert len(song[20 * RATE : 10 * RATE]) == 0
    np.testing.assert_array_equal(song[RATE : 2 * RATE], audio.load(file, RATE)[RATE : 2 * RATE])
    with pytest.raises(ValueError, match="steps of 1"):
        song[::2]


def test_a_long_song_that_becomes_another_meanwhile_is_told(tmp_path):
    changed = pytest.raises(audio.AudioError, match=r"a\.wav has changed while it was read")
    file = tmp_path / "a.wav"
    soundfile.write(file, sine(60), RATE)
    song = audio.LongSong(file, RATE, 60 * RATE)
    assert len(song[: 10 * RATE]) == 10 * RATE
    os.truncate(file, file.stat().st_size // 2)
    with changed:  # in the midst of a pass
        song[50 * RATE :]

    soundfile.write(file, sine(60), RATE)
    song = audio.LongSong(file, RATE, 60 * RATE)
    soundfile.write(file, sine(60)[::-1], RATE)  # as long as before
    with changed:
        song[:RATE]

    song = audio.LongSong(file, RATE, 60 * RATE)
    assert len(song[: 10 * RATE]) == 10 * RATE
    with file.open("r+b") as part:  # in the midst of a pass, and as long as before
        part.seek(-RATE, os.SEEK_END)
        part.write(bytes(RATE))
    os.utime(file, (0, 0))  # whatever the file system's clock
    with changed:
        song[50 * RATE :]

    file.unlink()
    with changed:
        audio.LongSong(file, RATE, 60 * RATE)
