"""Audio files that are broken, hostile or odd: a waveform comes of it, or a line that says why."""

import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, call, encode, write_song
from hypothesis import given
from hypothesis import strategies as st

from artist20 import Note, UserError, audio, collection, dataset, encoders, printable
from artist20.encoders import ENCODERS
from artist20.encoders.base import Encoder
from artist20.results import EncoderSettings

RATE = 16_000
MP3 = "song.mp3"


def noise(seconds: float, rate: int = RATE) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, int(seconds * rate)).astype("f4")


@pytest.fixture(scope="module")
def songs(tmp_path_factory) -> dict[str, bytes]:
    """Encode three seconds in every format; ``plain`` is an MP3 without a header of its length."""
    folder = tmp_path_factory.mktemp("songs")
    encoded = {}
    for extension in ("mp3", "flac", "ogg", "wav"):
        audio.write_blocks(folder / f"a.{extension}", [noise(3)])
        encoded[extension] = (folder / f"a.{extension}").read_bytes()
    coding = {**audio.MP3_CODING, "compression_level": 0.9}  # 24 kbit/s: no room for it
    soundfile.write(folder / "plain.mp3", noise(3), RATE, **coding)
    encoded["plain"] = (folder / "plain.mp3").read_bytes()
    encode(folder / "a.m4a", "aac", noise(3))
    encoded["m4a"] = (folder / "a.m4a").read_bytes()
    assert b"Info" in encoded["mp3"][:200]
    assert b"Info" not in encoded["plain"]
    return encoded


def load_or_reason(file: Path) -> np.ndarray | str:
    """Load a file, or return the one line that is said of it."""
    try:
        waveform = audio.open_song(file)
    except audio.AudioError as error:
        assert str(error) == f"{printable(file)} {error.reason}"
        assert len(str(error).splitlines()) == 1
        return error.reason
    assert np.isfinite(waveform).all()
    assert waveform.dtype == np.float32
    return waveform


@contextmanager
def memory_below(n_bytes: float):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < n_bytes
    finally:
        tracemalloc.stop()


# --- nothing to decode -------------------------------------------------------------------------


def make_bad_file(path: Path, kind: str) -> None:
    samples = np.zeros(RATE)
    samples[-1:] = {"nan": np.nan, "inf": -np.inf, "too loud": 1e7}.get(kind, 0)
    match kind:
        case "missing":
            pass
        case "fifo":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "device" | "link to itself" | "link to nowhere":
            path.symlink_to({"device": "/dev/zero", "link to itself": path.name}.get(kind, "no"))
        case "no samples":
            soundfile.write(path, samples[:0], RATE, format="WAV")
        case "empty" | "text" | "zeros":
            path.write_bytes(
                {"text": b"Too many users. " * 60, "zeros": bytes(5000)}.get(kind, b"")
            )
        case _:
            soundfile.write(path, samples, RATE, format="WAV", subtype="DOUBLE")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *((kind, "is no file") for kind in ("missing", "fifo", "folder", "device")),
        *((f"link to {where}", "is no file") for where in ("itself", "nowhere")),
        ("empty", "is empty"),
        ("text", "cannot be decoded: Invalid data found when processing input"),
        ("zeros", "cannot be decoded: Invalid data found when processing input"),
        ("no samples", "holds no audio"),
        *(
            (kind, "holds NaN or samples beyond 1e+06; full scale is 1")
            for kind in ("nan", "inf", "too loud")
        ),
    ],
)
def test_a_bad_file_is_named_in_one_line(tmp_path, kind, reason):
    make_bad_file(tmp_path / MP3, kind)
    assert load_or_reason(tmp_path / MP3) == reason


def test_integers_that_are_written_as_floats_are_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(100, 32_768.0), RATE, subtype="FLOAT")
    assert load_or_reason(tmp_path / "a.wav").max() == 32_768


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_a_header_may_not_ask_for_all_memory(tmp_path, songs, rate):
    data = bytearray(songs["wav"])
    data[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(data)
    assert load_or_reason(tmp_path / "a.wav") == f"has a sample rate of {rate} Hz"


def test_a_file_of_nothing_but_damaged_frames_is_no_silence(tmp_path, songs):
    data = songs["m4a"]
    start = data.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(data[start - 8 : start - 4])
    (tmp_path / "a.m4a").write_bytes(data[:start] + b"\xff" * (end - start) + data[end:])
    reason = "cannot be decoded: FFmpeg can read none of its frames"
    assert load_or_reason(tmp_path / "a.m4a") == reason


# --- a part is lost ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp3", "plain", "wav", "flac", "ogg"])
def test_what_is_left_of_a_file_that_was_cut_off(tmp_path, songs, kind):
    """Where the header says how long it was, a note tells."""
    file = tmp_path / f"a.{'mp3' if kind == 'plain' else kind}"
    for tenth in (2, 5, 7):
        file.write_bytes(songs[kind][: len(songs[kind]) * tenth // 10 + 1])
        if kind == "ogg":  # in pages of a second, behind headers of half a second's size
            assert isinstance(load_or_reason(file), str) == (tenth < 5)
            continue
        examined = collection.examine(file)
        seconds = examined.seconds
        assert seconds == pytest.approx(3 * tenth / 10, abs=0.4)
        note = f"is {seconds:.1f} s long, 3.0 s by its header or size"
        assert examined.notes == ([note] if kind != "plain" else [])
        assert not examined.problems
    file.write_bytes(songs[kind])
    assert not collection.examine(file).notes


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_is_whole(tmp_path, songs, size):
    data = bytearray(songs["wav"])
    position = data.index(b"data") + 4
    data[position : position + 4] = struct.pack("<I", size)
    (tmp_path / "a.wav").write_bytes(data)
    examined = collection.examine(tmp_path / "a.wav")
    assert (examined.seconds, examined.problems, examined.notes) == (3.0, [], [])


@pytest.mark.parametrize(("kind", "rest"), [("mp3", b"\0"), ("mp3", b"text "), ("flac", b"\0")])
def test_a_download_whose_second_half_never_came_is_a_problem(tmp_path, songs, kind, rest):
    file, half = tmp_path / f"a.{kind}", len(songs[kind]) // 2
    file.write_bytes(songs[kind][:half] + (rest * half)[:half])
    (problem,) = collection.examine(file).problems
    assert re.fullmatch(r"ends in \d+ bytes without sound", problem)


@pytest.mark.parametrize("filler", [b"\0", b"text ", b"\xff"])
def test_a_beginning_that_is_lost_is_a_problem(tmp_path, songs, filler):
    n_lost = len(songs["mp3"]) // 2
    (tmp_path / MP3).write_bytes((filler * n_lost)[:n_lost] + songs["mp3"][n_lost:])
    examined = collection.examine(tmp_path / MP3)
    assert examined.seconds == pytest.approx(1.5, abs=0.1)
    (problem,) = examined.problems
    n_bytes = int(re.fullmatch(r"begins with (\d+) bytes without sound", problem)[1])
    assert n_lost <= n_bytes < n_lost + 600  # and two frames, at most


@pytest.mark.parametrize("kind", ["mp3", "m4a", "flac"])
@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"text "])
def test_damage_in_the_middle_is_skipped_and_counted(tmp_path, songs, kind, garbage):
    data, middle = songs[kind], len(songs[kind]) // 2
    file = tmp_path / f"a.{kind}"
    file.write_bytes(data[:middle] + (garbage * 1000) + data[middle + 1000 * len(garbage) :])
    examined = collection.examine(file)
    assert 2.0 < examined.seconds < 3.2
    (problem,) = examined.problems
    assert re.fullmatch(r"has \d+ damaged frames?, the first at 1\.\d s: skipped", problem)


def test_a_lost_page_of_an_ogg_is_damage(tmp_path, songs):
    pages = re.split(b"(?=OggS)", songs["ogg"])
    (tmp_path / "a.ogg").write_bytes(b"".join(pages[:4] + pages[5:]))
    assert len(pages) > 6
    (problem,) = collection.examine(tmp_path / "a.ogg").problems
    assert re.fullmatch(r"has 1 damaged frame, the first at 0\.\d s: skipped", problem)


def test_what_comes_before_an_end_that_ffmpeg_cannot_get_to_is_kept(tmp_path):
    file = tmp_path / "a.wv"
    encode(file, "wavpack", noise(12))
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2] + bytes(len(data) // 2))
    examined = collection.examine(file)
    assert examined.seconds == pytest.approx(6, abs=2.1)
    (problem,) = examined.problems
    assert problem.startswith(f"cannot be decoded beyond {examined.seconds:.1f} s: ")


@pytest.mark.parametrize("n_bytes", [100, 10 * 2**20])
def test_id3_tags_of_any_size_are_passed_over(tmp_path, songs, n_bytes):
    size = bytes(n_bytes >> shift & 127 for shift in (21, 14, 7, 0))
    tag = b"ID3\x04\0\0" + size + bytes(n_bytes)
    for kind, end in (("mp3", b""), ("plain", b""), ("plain", b"TAG" + bytes(125))):
        (tmp_path / MP3).write_bytes(tag + songs[kind] + end)
        examined = collection.examine(tmp_path / MP3)
        assert examined.seconds == pytest.approx(3, abs=0.12)
        assert not examined.problems
    (tmp_path / MP3).write_bytes(tag[:-1])
    assert "cannot be decoded" in load_or_reason(tmp_path / MP3)


@given(st.data())
def test_mutated_files_are_decoded_or_named(tmp_path_factory, songs, data):
    kind = data.draw(st.sampled_from(sorted(songs)))
    changed = bytearray(songs[kind])
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(changed) - 1))
        piece = data.draw(st.binary(max_size=40))
        changed[start : start + data.draw(st.sampled_from([0, len(piece), 1000]))] = piece
    file = tmp_path_factory.getbasetemp() / f"mutated.{kind}"
    file.write_bytes(changed)
    waveform = load_or_reason(file)
    if isinstance(waveform, str):
        with pytest.raises(audio.AudioError):
            collection.examine(file)
    else:
        assert collection.examine(file).seconds == len(waveform) / RATE


# --- memory ------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Ten minutes, of which no more is ever in memory than a few blocks of ten seconds."""
    file = tmp_path / "long.wav"
    soundfile.write(file, np.zeros(0), RATE)
    n_bytes = 600 * RATE * 2
    data = bytearray(file.read_bytes())
    data[4:8], data[-4:] = struct.pack("<I", n_bytes + 36), struct.pack("<I", n_bytes)
    file.write_bytes(data)
    os.truncate(file, len(data) + n_bytes)  # silence that takes no room on the disk
    with memory_below(10 * 2**20):
        assert sum(map(len, audio.read_blocks(file))) == 600 * RATE


def test_an_endless_end_is_not_read(tmp_path, songs):
    """FFmpeg holds all bytes since the last frame: not in memory that Python traces."""
    (tmp_path / MP3).write_bytes(songs["mp3"])
    os.truncate(tmp_path / MP3, len(songs["mp3"]) + 2**30)
    code = "import re, sys; from pathlib import Path; from artist20 import audio;"
    code += "print(sum(map(len, audio.read_blocks(Path(sys.argv[1])))) / audio.SAMPLE_RATE);"
    code += "print(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / MP3],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, kilobytes = map(float, done.stdout.split())
    assert seconds == pytest.approx(3, abs=0.1)
    assert f"ends in {2**30} bytes without sound" in done.stderr
    assert kilobytes < 400_000


# --- names and rights --------------------------------------------------------------------------


def test_a_name_that_is_too_long_is_no_file(tmp_path):
    assert load_or_reason(tmp_path / ("x" * 300)) == "cannot be decoded: File name too long"


def as_nobody(folder: Path, do) -> str:
    """Let a process without rights work in a folder; return what it says."""
    if os.getuid() != 0:
        return do()
    folder.chmod(0o755)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            os.setgid(65534)
            os.setuid(65534)
            os.write(writing, do().encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


def test_what_may_not_be_read_is_said_to_be_so(tmp_path, monkeypatch, songs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MP3).write_bytes(songs["mp3"])
    (tmp_path / MP3).chmod(0)
    said = as_nobody(tmp_path, lambda: str(load_or_reason(Path(MP3))))
    assert said == "cannot be decoded: Permission denied"
    assert as_nobody(tmp_path, lambda: dataset.content_key(Path(MP3))) == f"no content: {MP3}"

    Path("music/closed").mkdir(parents=True)
    Path("music/closed").chmod(0)

    def note() -> str:
        with pytest.warns(Note) as caught:
            assert dataset.find_files(Path("music")) == []
        return str(caught[0].message)

    assert as_nobody(tmp_path, note) == "left out music/closed: Permission denied"


NAMES = [
    'it\'s "quoted".mp3',
    "two\nlines\r.mp3",
    "\x1b[31mred\x1b[0m.mp3",
    "😀 ünï.mp3",
    "--help.mp3",
    "x" * 251 + ".mp3",
    "é" * 125 + "x.mp3",
    os.fsdecode(b"caf\xe9.mp3"),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_every_kind_are_read_written_and_shown_in_a_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name)):
        audio.write_blocks(path, [noise(0.1)])
        assert len(audio.open_song(path)) == 1600
        path.write_bytes(b"no music")
        with pytest.raises(audio.AudioError) as caught:
            audio.open_song(path)
        message = str(caught.value)
        assert message.isprintable()
        message.encode()
        assert name[:3].strip() in message or not name.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- training ----------------------------------------------------------------------------------


@pytest.fixture
def bad_songs(tmp_path) -> tuple[Path, list[str]]:
    """Data folder of 2 artists x 4 albums x 2 songs; two of training, one of validation are bad.

    Two of them are alike: both must be named.
    """
    folder, lists = tmp_path / "data", {"train": [], "val": []}
    for artist in list(ARTISTS)[:2]:
        for album in range(4):
            for song in range(2):
                path = f"./train_val/{artist}/{album}/{song}.mp3"
                write_song(folder / path, artist, seed=2 * album + song, seconds=1)
                lists["val" if album == 3 else "train"].append(path)
    for split, paths in lists.items():
        (folder / f"{split}.json").write_text(json.dumps(paths), encoding="utf-8")
    bad = [lists["train"][1], lists["train"][8], lists["val"][2]]
    (folder / bad[0]).write_bytes(b"")
    (folder / bad[1]).write_text("no music")
    (folder / bad[2]).write_bytes(b"")
    return folder, bad


class FirstSamples(torch.nn.Linear):
    """Stands in for Cnn14, which takes seconds to make: samples are the embedding."""

    def forward(self, batch):
        return batch[:, :2048]


def toy_encoders(*_: object) -> list[Encoder]:
    settings = EncoderSettings(name="panns", weights="untrained, seed 0", sample_rate=RATE)
    network = FirstSamples(1, 1).requires_grad_(False)
    return [Encoder(settings, ENCODERS["panns"], network, torch.float32)]


TRAINING = {
    "task1_preprocessing": [],
    "task2_train": ["--encoder-weights", "untrained", "--views", 1, "--windows", 1],
    "task2_train_wo_pretrain": [],
}


@pytest.mark.parametrize("script", TRAINING)
def test_bad_songs_stop_the_training_or_are_left_out_and_recorded(
    bad_songs, tmp_path, monkeypatch, capsys, script
):
    data, bad = bad_songs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(encoders, "load", toy_encoders)
    options = ["--data-dir", data, "--device", "cpu", "--workers", 1, *TRAINING[script]]
    options += ["--epochs", 1, "--crop-seconds", 1] if "train" in script else []
    results_dir = tmp_path / "results"
    kept = results_dir / script[:5] / "old results"
    kept.parent.mkdir(parents=True)
    kept.touch()

    assert call(monkeypatch, script, *options, "--overwrite") == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("error: 3 of 16 songs cannot be read")
    assert "--skip-unreadable" in first
    reasons = ("is empty", "cannot be decoded: Invalid data found", "is empty")
    for line, path, reason in zip(lines, bad, reasons, strict=True):
        assert line.startswith(f"{data / path} {reason}")
    written = [path for path in results_dir.rglob("*") if path.is_file()]
    assert [path for path in written if path.parts[len(results_dir.parts)] != "cache"] == [kept]

    assert call(monkeypatch, script, *options, "--skip-unreadable") == 0
    assert "3 of 16 songs are left out: they cannot be read" in capsys.readouterr().out
    name = "preprocessing.json" if script.startswith("task1") else "metrics.json"
    recorded = json.loads(next(kept.parent.rglob(name)).read_text())["dataset"]
    assert list(recorded["unreadable"]) == bad
    assert [reason.split(":")[0] for reason in recorded["unreadable"].values()] == [
        *("is empty", "cannot be decoded", "is empty")
    ]
    assert (recorded["train"], recorded["val"]) == (10, 3)
    # The same songs, mended in no way: the run is known again.
    assert call(monkeypatch, script, *options, "--skip-unreadable") == 0


def test_leaving_out_all_songs_of_an_artist_is_no_training(bad_songs):
    data, _ = bad_songs
    train, val = dataset.read_train_val(data)
    first = [song.path for song in train if song.artist == train[0].artist]
    with pytest.raises(UserError, match="one artist only"):
        dataset.read_train_val(data, left_out=first)
    assert dataset.read_train_val(data, left_out=[train[0].path]) == (train[1:], val)


def test_a_song_that_may_not_be_read_is_named_with_the_others(bad_songs, monkeypatch):
    data, _ = bad_songs
    songs = dataset.read_split(data, "train")

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(dataset, "sha256_file", refuse)
    keys = dataset.content_keys(songs)
    assert len(set(keys.values())) == len(songs)
    reasons = {key: "cannot be decoded: Permission denied" for key in list(keys.values())[:2]}
    with pytest.raises(UserError, match=r"^2 of 12 songs cannot be read") as caught:
        dataset.check_readable(songs, keys, reasons, skip=False)
    assert len(str(caught.value).splitlines()) == 3
