"""artist20.audio: every format whole, blocks and slices, what is written comes back."""

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
NOISE = np.random.default_rng(0).normal(0, 0.1, 70 * RATE).astype("f4")


def sine(seconds: float, rate: int = RATE, frequency: float = 440.0) -> np.ndarray:
    time = np.arange(int(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * frequency * time)).astype("f4")


def loudest_frequency(waveform: np.ndarray, rate: int = RATE) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * rate / len(waveform)


def notes_of(file: Path) -> list[tuple[str, str]]:
    """Decode a file; return kind and reason of all notes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        audio.open_song(file)
    notes = [warning.message for warning in caught]
    assert [str(note) for note in notes] == [f"{file} {note.reason}" for note in notes]
    return [(note.kind, note.reason) for note in notes]


# --- samples -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subtype", "error"),
    [("PCM_U8", 0.008), *((kind, 1e-4) for kind in ("PCM_16", "PCM_24", "PCM_32")), ("FLOAT", 0)],
)
@pytest.mark.parametrize("n_channels", [1, 3])
def test_channels_of_every_width_are_averaged(tmp_path, subtype, error, n_channels):
    channels = np.random.default_rng(0).uniform(-0.9, 0.9, (RATE, n_channels)).astype("f4")
    soundfile.write(tmp_path / "a.wav", channels, RATE, subtype=subtype)
    waveform = audio.open_song(tmp_path / "a.wav")
    assert waveform.dtype == np.float32
    np.testing.assert_allclose(waveform, channels.mean(axis=1), rtol=0, atol=error + 1e-7)


@pytest.mark.parametrize("n_channels", [1, 6])
@pytest.mark.parametrize("rate", [8_000, 44_100, 192_000])
@pytest.mark.parametrize("to_rate", [RATE, 32_000])
def test_resampling_keeps_length_level_and_phase(tmp_path, rate, to_rate, n_channels):
    seconds = 12.0  # two blocks
    tone = np.repeat(sine(seconds, rate, 1000.0)[:, None], n_channels, axis=1)
    soundfile.write(tmp_path / "a.flac", tone, rate)
    waveform = audio.open_song(tmp_path / "a.flac", to_rate)
    assert len(waveform) == pytest.approx(seconds * to_rate, abs=1)
    # The phase runs on from block to block, and nothing is lost at the seam.
    inner = slice(to_rate // 10, -to_rate // 10)
    expected = sine(seconds + 1, to_rate, 1000.0)[: len(waveform)]
    np.testing.assert_allclose(waveform[inner], expected[inner], atol=1e-3)


def test_resampling_block_by_block_is_that_of_the_whole():
    waveform = NOISE[:100_000]
    found = np.concatenate(list(audio.resample(np.array_split(waveform, 7), 44_100)))
    np.testing.assert_allclose(found, soxr.resample(waveform, 44_100, RATE), atol=1e-6)


def test_blocks_of_an_mp3_are_its_whole_and_come_one_at_a_time(tmp_path):
    soundfile.write(tmp_path / "a.mp3", NOISE[: 35 * RATE], RATE)
    blocks = list(audio.read_blocks(tmp_path / "a.mp3"))
    assert [round(len(block) / RATE, 1) for block in blocks] == [10, 10, 10, 5]
    whole, _ = soundfile.read(tmp_path / "a.mp3", dtype="float32")
    np.testing.assert_allclose(np.concatenate(blocks), whole, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(audio.open_song(tmp_path / "a.mp3"), np.concatenate(blocks))
    assert len(np.concatenate(blocks)) == 35 * RATE


def test_a_file_is_read_no_further_than_asked(tmp_path):
    samples = np.zeros(60 * RATE, np.float32)
    samples[-1] = np.nan  # whoever reads on to the end is told
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype="FLOAT")
    assert len(list(islice(audio.read_blocks(tmp_path / "a.wav"), 2))) == 2
    with pytest.raises(audio.AudioError, match="NaN"):
        audio.open_song(tmp_path / "a.wav")


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
    waveform = audio.open_song(tmp_path / name)
    assert len(waveform) == pytest.approx(6 * RATE, abs=extra + 1)
    assert loudest_frequency(waveform) == pytest.approx(440, abs=0.5)


def test_eight_channels_in_planes_of_their_own(tmp_path):
    """PyAV counts nine planes of such a frame, and the ninth is not there."""
    encode(tmp_path / "a.m4a", "aac", sine(1.0, 48_000), 48_000, layout="7.1")
    assert len(audio.open_song(tmp_path / "a.m4a")) / RATE == pytest.approx(1, abs=0.1)


def mp3(folder: Path, seconds: float, rate: int = RATE, channels: int = 1, **coding) -> bytes:
    noise = np.random.default_rng(0).normal(0, 0.1, (int(seconds * rate), channels))
    noise[len(noise) // 2 :] *= 0.01  # so that a variable bit rate does vary
    soundfile.write(folder / "part.mp3", noise, rate, **coding)
    return (folder / "part.mp3").read_bytes()


def announcing(data: bytes, n_frames: int) -> bytes:
    """Have an MP3's header announce another number of frames."""
    place = max(data.find(b"Xing"), data.find(b"Info")) + 8
    return data[:place] + n_frames.to_bytes(4) + data[place + 4 :]


VARIABLE = {"bitrate_mode": "VARIABLE", "compression_level": 0.2}
PICTURE = b"ID3\x04\0\0\0\x06\x0d\x20" + np.random.default_rng(0).bytes(100_000)


@pytest.mark.parametrize(
    "kind",
    [
        "variable bit rate without a header",
        "header of 0.5 x the frames",
        "header of 2 x the frames",
        "joined MP3s",
        "joined MP3s with tags",
        "another rate and mono behind stereo",
        "chained VORBIS",
        "chained OPUS",
        "FLAC of unknown length",
        "two ID3 tags",
        "ID3 tag behind",
        "APE tag behind",
    ],
)
def test_a_wrong_or_missing_length_cuts_nothing_off(tmp_path, kind):
    seconds, file = 12.0, tmp_path / "a.mp3"
    match kind.split():
        case ["variable", *_]:  # the first frame says how long it is: encoders to a pipe have none
            data = mp3(tmp_path, seconds, **VARIABLE)
            assert b"Xing" in data[:200]
            data = data[data.index(data[:2], 4) :]
        case ["header", _, factor, *_]:
            data = mp3(tmp_path, seconds, **VARIABLE)
            n_frames = int.from_bytes(data[data.index(b"Xing") + 8 :][:4])
            data = announcing(data, int(float(factor) * n_frames))
        case ["joined", *_]:
            data = 2 * (PICTURE * kind.endswith("tags") + mp3(tmp_path, seconds / 2))
        case ["another", *_]:
            data = b"".join(mp3(tmp_path, 4, *of) for of in ((24_000, 2), (44_100,), (24_000,)))
        case ["chained", subtype]:
            file = tmp_path / "a.ogg"
            soundfile.write(file, sine(seconds / 2), RATE, format="OGG", subtype=subtype)
            data = 2 * file.read_bytes()
        case ["FLAC", *_]:
            file = tmp_path / "a.flac"
            soundfile.write(file, sine(seconds), RATE)
            data = bytearray(file.read_bytes())
            data[21] &= 0xF0  # the first 4 of 36 bits: the number of samples, in STREAMINFO
            data[22:26] = bytes(4)
        case ["two", *_]:
            data = 2 * (b"ID3\x04\0\0\0\0\x07\x68" + bytes(1000)) + mp3(tmp_path, seconds)
        case ["ID3", *_]:
            data = mp3(tmp_path, seconds) + PICTURE
        case ["APE", *_]:
            tag = b"APETAGEX" + bytes(range(256)) * 400 + b"APETAGEX" + bytes(24)
            data = mp3(tmp_path, seconds) + tag
    file.write_bytes(data)
    assert notes_of(file) == []
    assert len(audio.open_song(file)) / RATE == pytest.approx(seconds, abs=0.2)  # encoders add some


def test_rates_and_channels_are_followed_within_a_file(tmp_path):
    parts = []
    for rate, n_channels in ((44_100, 2), (24_000, 1), (16_000, 1)):
        tone = np.repeat(sine(4.0, rate, 1000.0)[:, None], n_channels, axis=1)
        soundfile.write(tmp_path / "part.mp3", tone, rate)
        parts.append((tmp_path / "part.mp3").read_bytes())
    (tmp_path / "a.mp3").write_bytes(b"".join(parts))
    waveform = audio.open_song(tmp_path / "a.mp3")
    for part in range(3):
        inner = waveform[(4 * part + 1) * RATE : (4 * part + 3) * RATE]
        assert loudest_frequency(inner) == pytest.approx(1000, abs=1)
        assert np.abs(inner).max() == pytest.approx(0.5, abs=0.02)


def test_silence_is_told_and_so_are_channels_that_cancel_out(tmp_path):
    tone = sine(3.0)
    for name, waveform, reason in (
        ("half", np.stack([tone, np.zeros_like(tone)], 1), None),
        ("opposite", np.stack([tone, -tone], 1), "is nearly silent: its channels cancel out"),
        ("nearly opposite", np.stack([tone, -0.97 * tone], 1), None),  # 36 dB below
        ("silent", np.zeros((RATE, 2)), "is silent throughout"),
        ("one click", np.append(np.zeros(15 * RATE), 0.01), None),
        ("very soft", 1e-4 * tone, None),
    ):
        soundfile.write(tmp_path / f"{name}.wav", waveform, RATE)
        assert notes_of(tmp_path / f"{name}.wav") == ([("silent", reason)] if reason else [])


def test_a_note_is_one_line_of_a_script_and_the_only_one(tmp_path):
    soundfile.write(tmp_path / "a.mp3", np.zeros(45 * RATE), RATE)
    code = "import sys; from pathlib import Path; from artist20 import audio, runtime;"
    code += "runtime.run(lambda: print(len(audio.open_song(Path(sys.argv[1])))))"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.mp3"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.stdout == f"{45 * RATE}\n"
    assert done.stderr == f"note: {tmp_path / 'a.mp3'} is silent throughout\n"


# --- what is a song ----------------------------------------------------------------------------


def test_what_is_a_song_its_name_says_or_its_content(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(0.1), RATE)
    (tmp_path / "a.wav").rename(tmp_path / "without_suffix")
    (tmp_path / "broken.MP3").touch()
    (tmp_path / "cover.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(100))
    (tmp_path / "notes.txt").write_text("no music")
    (tmp_path / "folder.d").mkdir()
    songs = [path.name for path in sorted(tmp_path.iterdir()) if audio.is_song(path)]
    assert songs == ["broken.MP3", "without_suffix"]


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
    Path("list.txt").write_text(text)
    for path in (Path("list.txt"), tmp_path / "list.txt"):
        with pytest.raises(audio.AudioError, match="cannot be decoded"):
            audio.open_song(path)
        assert not audio.is_song(path)


@pytest.mark.parametrize("name", ["http:", "concat:a.wav|b.wav", "data:audio,x.mp3", "pipe:0"])
def test_a_name_that_reads_like_an_address_is_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    soundfile.write("a.wav", sine(1.0), RATE)
    Path("a.wav").rename(name)
    assert len(audio.open_song(Path(name))) == RATE


# --- long songs --------------------------------------------------------------------------------


@pytest.mark.parametrize("sample_rate", [RATE, 32_000])
def test_slices_of_a_long_song_are_those_of_the_whole(tmp_path, monkeypatch, sample_rate):
    file = tmp_path / "a.mp3"
    audio.write_blocks(file, [NOISE[: 65 * RATE]])
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 2)
    whole = np.concatenate(list(audio.read_blocks(file, sample_rate)))
    song = audio.open_song(file, sample_rate)
    assert len(pickle.dumps(song)) < 1000  # between processes
    assert len(song) == len(whole)
    for first in (0, 5, 5, 12, 50, 49, 61, 0, 64):
        for seconds in (0, 1, 15, 99):
            part = slice(first * sample_rate + 7, (first + seconds) * sample_rate + 7)
            assert np.array_equal(song[part], whole[part])
            assert song[part].dtype == np.float32
    assert len(song[20:10]) == 0
    with pytest.raises(ValueError, match="steps of 1"):
        song[::2]


def test_windows_over_a_long_song_take_one_pass(tmp_path, monkeypatch):
    file = tmp_path / "a.wav"
    soundfile.write(file, NOISE[: 60 * RATE], RATE)
    song = audio.LongSong(file, RATE, 60 * RATE)
    passes, read_blocks = [], audio.read_blocks
    monkeypatch.setattr(audio, "read_blocks", lambda *a: passes.append(a) or read_blocks(*a))
    for start in range(0, 50, 7):
        assert len(song[start * RATE : (start + 10) * RATE]) == 10 * RATE
    assert len(passes) == 1


def test_songs_of_up_to_ten_minutes_are_kept(tmp_path):
    for seconds, kind in ((599, np.ndarray), (610, audio.LongSong)):
        soundfile.write(tmp_path / "a.wav", np.full(seconds * 1000, 0.1, "f4"), 1000)
        song = audio.open_song(tmp_path / "a.wav", 1000)
        assert isinstance(song, kind)
        assert len(song) == seconds * 1000


def test_a_long_song_that_becomes_shorter_meanwhile_is_told(tmp_path):
    soundfile.write(tmp_path / "a.wav", sine(30), RATE)
    song = audio.LongSong(tmp_path / "a.wav", RATE, 60 * RATE)
    assert len(song[: 10 * RATE]) == 10 * RATE
    with pytest.raises(audio.AudioError, match=r"a\.wav has changed while it was read"):
        song[50 * RATE :]


# --- writing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp3", "a.MP3", "a.flac", "a.ogg", "a.wav"])
@pytest.mark.parametrize("n_samples", [1, 800, 40_001])
def test_what_is_written_comes_back_as_long_and_in_step(tmp_path, name, n_samples):
    written = NOISE[:n_samples]
    file = tmp_path / "new folder" / f"Ünï, [code] (it's) {name}"
    audio.write_blocks(file, [written])
    waveform = audio.open_song(file)
    # FFmpeg keeps all of an Ogg's last frame, and of an MP3 that is shorter than one.
    longer = 1024 if name.endswith("ogg") or n_samples == 1 else 0
    assert 0 <= len(waveform) - n_samples <= longer
    if n_samples > 1:
        in_step = np.correlate(waveform[:n_samples], written, "same")
        assert in_step.argmax() == n_samples // 2
        if name.endswith(("flac", "wav")):
            np.testing.assert_allclose(waveform, written, atol=1e-4)
    assert list(file.parent.iterdir()) == [file]


def test_mp3_is_written_at_64_kbit(tmp_path):
    audio.write_blocks(tmp_path / "a.mp3", [sine(10.0)])
    assert (tmp_path / "a.mp3").stat().st_size * 8 / 10 == pytest.approx(64_000, rel=0.02)


@pytest.mark.parametrize("suffix", ["mp3", "flac"])
def test_a_file_is_the_same_in_however_many_blocks_it_is_written(tmp_path, suffix):
    whole, parts = tmp_path / f"whole.{suffix}", tmp_path / f"parts.{suffix}"
    audio.write_blocks(whole, [sine(3.0)])
    audio.write_blocks(parts, iter(np.array_split(sine(3.0), [0, 1, 7, 20_000])))
    assert parts.read_bytes() == whole.read_bytes()


def test_a_format_that_cannot_be_written_is_a_line(tmp_path):
    with pytest.raises(UserError, match=r"a\.m4a cannot be written: there is no writer of .m4a"):
        audio.write_blocks(tmp_path / "a.m4a", [sine(1.0)])


@pytest.mark.parametrize("suffix", ["mp3", "ogg", "flac", "wav"])
def test_a_disk_that_is_full_at_the_last_moment_is_told(tmp_path, suffix):
    file, waveform = tmp_path / f"a.{suffix}", NOISE[: 5 * RATE]
    audio.write_blocks(file, [waveform])
    whole = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for missing in (1, 100, 500, 1500, 5000, len(whole) - 1000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) - missing, limits[1]))
        try:
            with pytest.raises(files.DiskFullError, match=f"a.{suffix} cannot be written: File to"):
                audio.write_blocks(file, [waveform])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert file.read_bytes() == whole  # what was there
        assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("seconds", [0.5, 25])  # within a block, and beyond one
def test_a_song_as_mp3_has_its_length_and_begins_where_it_did(tmp_path, seconds):
    waveform = np.zeros(int(seconds * audio.SAMPLE_RATE), np.float32)
    waveform[4000:] = 0.3 * np.sin(np.arange(len(waveform) - 4000) * 0.2)
    file = tmp_path / "song.mp3"
    file.write_bytes(audio.to_mp3(waveform))
    decoded = audio.open_song(file)
    assert len(decoded) == len(waveform)
    assert abs(int((np.abs(decoded) > 0.1).argmax()) - 4000) < 50
    assert file.stat().st_size / seconds < 6000 + 1000 / seconds  # 48 kbit/s
