"""artist20.audio: decoding, resampling, and what is said of files that cannot be read."""

import os
import pickle
import resource
import subprocess
import sys
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from conftest import encode

from artist20 import UserError, audio, files

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
    # FFmpeg keeps all of an Ogg's last frame.
    assert 0 <= len(waveform) - len(written) <= (1024 if extension == "ogg" else 0)
    # Lossy encoders do badly at the ends of a file.
    error = np.abs(waveform[: len(written)] - written)[2000:-2000].max()
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
    soundfile.write(tmp_path / "a.mp3", rng.normal(0, 0.1, 35 * RATE), RATE)
    blocks = list(audio.read_blocks(tmp_path / "a.mp3"))
    assert len(blocks) == 4
    assert all(10 * RATE <= len(block) < 10.1 * RATE for block in blocks[:3])
    whole, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=2e-6)
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
        ("empty", "is empty"),
        ("text", "cannot be decoded: Invalid data found"),
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
    # FFmpeg keeps all of an Ogg's last frame, and of an MP3 that is shorter than one.
    longer = 1024 if name.endswith("ogg") or n_samples == 1 else 0
    assert 0 <= len(waveform) - n_samples <= longer
    if n_samples > 1:
        in_step = np.correlate(waveform[:n_samples], written, "same")
        assert in_step.argmax() == n_samples // 2
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


# --- all of the file, and nothing else ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "extra"),
    [
        ("a.m4a", "aac", 2048),  # samples of silence that the encoder adds
        ("a.mp4", "aac", 2048),
        ("a.aac", "aac", 2048),
        ("a.opus", "libopus", 0),
        ("a.mka", "ac3", 256),
        ("a.aiff", "pcm_s16be", 0),
        ("a.m4a", "alac", 0),
        ("a.wv", "wavpack", 0),
        ("a.webm", "libopus", 0),
    ],
)
def test_formats_that_ffmpeg_reads_are_decoded_whole(tmp_path, name, codec, extra):
    rate = {"libopus": 48_000, "ac3": 48_000}.get(codec, RATE)
    encode(tmp_path / name, codec, sine(6.0, rate), rate)
    waveform = audio.load(tmp_path / name)
    assert len(waveform) == pytest.approx(6 * RATE, abs=extra + 1)
    assert loudest_frequency(waveform) == pytest.approx(440, abs=0.5)


def mp3(folder: Path, seconds: float, rate: int = RATE, channels: int = 1, **coding) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    noise[len(noise) // 2 :] *= 0.01  # so that a variable bit rate does vary
    soundfile.write(folder / "part.mp3", noise, rate, **coding)
    return (folder / "part.mp3").read_bytes()


def without_header(data: bytes) -> bytes:
    """Cut off an MP3's first frame, which says how long it is, as encoders to a pipe leave it."""
    assert b"Xing" in data[:200] or b"Info" in data[:200]
    return data[data.index(data[:2], 4) :]


def announcing(data: bytes, n_frames: int) -> bytes:
    """Have an MP3's header announce another number of frames."""
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    return data[:place] + n_frames.to_bytes(4) + data[place + 4 :]


VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.2}


@pytest.mark.parametrize(
    "kind",
    [
        "variable bit rate without a header",
        "header of no frames",
        "header of half the frames",
        "header of twice the frames",
        "joined MP3s",
        "joined MP3s with tags",
        "another rate and mono behind stereo",
        "chained Ogg",
        "chained Opus",
        "FLAC of unknown length",
        "two ID3 tags",
        "APETAGEX behind",
        "LYRICS200 behind",
        "ID3 tag behind",
    ],
)
def test_a_wrong_or_missing_length_cuts_nothing_off(tmp_path, kind):
    seconds, file = 12.0, tmp_path / "a.mp3"
    if kind == "variable bit rate without a header":
        data = without_header(mp3(tmp_path, seconds, **VARIABLE))
    elif kind.startswith("header"):
        data = mp3(tmp_path, seconds, **VARIABLE)
        whole = int.from_bytes(data[data.index(b"Xing") + 8 :][:4])
        data = announcing(data, {"no": 0, "half": whole // 2, "twice": 2 * whole}[kind.split()[2]])
    elif kind.startswith("joined MP3s"):
        size, picture = b"\x06\x0d\x20", np.random.default_rng(0).bytes(100_000)
        tag = b"ID3\x04\0\0\0" + size + picture if kind.endswith("tags") else b""
        data = 2 * (tag + mp3(tmp_path, seconds / 2))
    elif kind == "another rate and mono behind stereo":
        data = mp3(tmp_path, 4, 24_000, 2) + mp3(tmp_path, 4, 44_100, 1) + mp3(tmp_path, 4, 24_000)
    elif kind.startswith("chained"):
        file = tmp_path / "a.ogg"
        subtype = {"Ogg": "VORBIS", "Opus": "OPUS"}[kind.split()[1]]
        soundfile.write(file, sine(seconds / 2), RATE, format="OGG", subtype=subtype)
        data = 2 * file.read_bytes()
    elif kind == "FLAC of unknown length":
        file = tmp_path / "a.flac"
        soundfile.write(file, sine(seconds), RATE)
        data = bytearray(file.read_bytes())
        data[21] &= 0xF0  # the first 4 of 36 bits: the number of samples, in STREAMINFO
        data[22:26] = bytes(4)
    elif kind == "ID3 tag behind":
        picture = np.random.default_rng(0).bytes(100_000)
        data = mp3(tmp_path, seconds) + b"ID3\x04\0\0\0\x06\x0d\x20" + picture
    elif kind == "two ID3 tags":
        data = 2 * (b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000)) + mp3(tmp_path, seconds)
    else:
        data = (
            mp3(tmp_path, seconds) + b"APETAGEX" + bytes(range(256)) * 400 + b"APETAGEX" + bytes(24)
        )
    file.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error", audio.AudioNote)
        assert audio.duration(file) == pytest.approx(seconds, abs=0.2)  # encoders add some


def test_rates_and_channels_are_followed_within_a_file(tmp_path):
    parts = []
    for rate, n_channels in ((44_100, 2), (24_000, 1), (16_000, 1)):
        tone = np.repeat(sine(4.0, rate, 1000.0)[:, None], n_channels, axis=1)
        soundfile.write(tmp_path / "part.mp3", tone, rate)
        parts.append((tmp_path / "part.mp3").read_bytes())
    (tmp_path / "a.mp3").write_bytes(b"".join(parts))
    waveform = audio.load(tmp_path / "a.mp3")
    for part in range(3):
        inner = waveform[(4 * part + 1) * RATE : (4 * part + 3) * RATE]
        assert loudest_frequency(inner) == pytest.approx(1000, abs=1)
        assert np.abs(inner).max() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.wav\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nsecret.wav\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n",
    ],
    ids=["concat", "playlist", "stream"],
)
def test_a_file_that_names_others_or_hosts_opens_none(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    soundfile.write("secret.wav", sine(1.0), RATE)
    Path("list.mp3").write_text(text)
    for path in (Path("list.mp3"), tmp_path / "list.mp3"):
        with pytest.raises(audio.AudioError, match="cannot be decoded"):
            audio.load(path)
    Path("list.txt").write_text(text)
    assert not audio.is_song(Path("list.txt"))


@pytest.mark.parametrize("name", ["http:", "concat:a.wav|b.wav", "data:audio,x.mp3", "pipe:0"])
def test_a_name_that_reads_like_an_address_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", sine(1.0), RATE)
    Path("a.wav").rename(name)
    assert len(audio.load(Path(name))) == RATE


def test_what_is_a_song_its_name_says_or_its_content(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(0.1), RATE)
    (tmp_path / "a.wav").rename(tmp_path / "without_suffix")
    (tmp_path / "broken.MP3").touch()
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (tmp_path / "notes.txt").write_text("no music")
    (tmp_path / "folder.d").mkdir()
    songs = [path.name for path in sorted(tmp_path.iterdir()) if audio.is_song(path)]
    assert songs == ["broken.MP3", "without_suffix"]


def notes_of(file: Path) -> list[audio.AudioNote]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audio.load(file)
    assert all(str(warning.message).startswith(f"{file} ") for warning in caught)
    return [warning.message for warning in caught]


def test_silence_is_told_and_so_are_channels_that_cancel_out(tmp_path):
    tone = sine(3.0)
    for name, waveform, reason in (
        ("tone", tone, None),
        ("half", np.stack([tone, np.zeros_like(tone)], 1), None),
        ("opposite", np.stack([tone, -tone], 1), "is nearly silent: its channels cancel out"),
        ("silent", np.zeros_like(tone), "is silent throughout"),
        ("silent stereo", np.zeros((RATE, 2)), "is silent throughout"),
        ("one click", np.append(np.zeros(5 * RATE), 0.01), None),
        ("very soft", 1e-4 * tone, None),
        ("nearly opposite", np.stack([tone, -0.97 * tone], 1), None),  # 36 dB below
    ):
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE)
        said = [(note.reason, note.damaged) for note in notes_of(tmp_path / f"{name}.wav")]
        assert said == ([(reason, False)] if reason else [])


def test_a_note_is_one_line_of_a_script(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    code = "import sys; from pathlib import Path; from artist20 import audio, runtime;"
    code += "runtime.run(lambda: audio.load(Path(sys.argv[1])).sum() and None)"
    result = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.wav"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert result.stderr == f"note: {tmp_path / 'a.wav'} is silent throughout\n"


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
            with pytest.raises(files.DiskFullError, match=f"a.{suffix} cannot be written"):
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
    for seconds, kind in ((599, np.ndarray), (610, audio.LongSong)):
        soundfile.write(tmp_path / "a.wav", np.zeros(seconds * 8000, "f4"), 8000)
        song = audio.open_song(tmp_path / "a.wav", 8000)
        assert isinstance(song, kind)
        assert len(song) == seconds * 8000


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
