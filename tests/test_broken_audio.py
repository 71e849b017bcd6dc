"""Audio files that are broken, hostile or odd: a waveform comes of it, or a line that says why."""

import json
import os
import re
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, assert_one_line, call, encode, write_song
from hypothesis import given
from hypothesis import strategies as st

import task1_train
from artist20 import (
    Note,
    UserError,
    audio,
    classical,
    collection,
    dataset,
    panns,
    printable,
    results,
)

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
        audio.write(folder / f"a.{extension}", noise(3))
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
        waveform = audio.load(file)
    except audio.AudioError as error:
        assert str(error) == f"{printable(file)} {error.reason}"
        assert len(str(error).splitlines()) == 1
        return error.reason
    assert np.isfinite(waveform).all()
    assert waveform.dtype == np.float32
    return waveform


# --- truncated ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp3", "plain", "wav", "flac", "ogg"])
def test_what_is_left_of_a_file_that_was_cut_off(tmp_path, songs, kind):
    """Cut at every tenth. Where the header says how long it was, a note tells."""
    file = tmp_path / f"a.{'mp3' if kind == 'plain' else kind}"
    for tenth in range(1, 10):
        file.write_bytes(songs[kind][: len(songs[kind]) * tenth // 10 + 1])
        waveform = load_or_reason(file)
        if kind == "ogg":  # in pages of a second, behind headers of half a second's size
            assert isinstance(waveform, str) == (tenth < 5)
            continue
        seconds = len(waveform) / RATE
        assert seconds == pytest.approx(3 * tenth / 10, abs=0.4)
        examined = collection.examine(file)
        assert (examined.seconds, examined.problems) == (seconds, [])
        told = kind in ("mp3", "flac") and seconds < 2.5
        note = f"is {seconds:.1f} s long, 3.0 s by its header or size"
        assert examined.notes == ([note] if told else [])
    file.write_bytes(songs[kind])
    assert not collection.examine(file).notes


def test_the_check_notes_what_was_cut_off(tiny_copy, songs, capsys):
    (tiny_copy / "test" / "001.mp3").write_bytes(songs["mp3"][: len(songs["mp3"]) // 2])
    assert collection.main(["check", str(tiny_copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("note: test/001.mp3 is 1.")
    assert lines[0].endswith(" s long, 3.0 s by its header or size")
    assert lines[-1] == "no problems"


@pytest.mark.parametrize("size", [0, 10**6, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_wav_of_any_announced_length_is_whole(tmp_path, songs, size):
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
    assert re.fullmatch(r"ends in \d+ bytes without sound, behind 1\.\d s", problem)


# --- damaged within ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mp3", "m4a", "flac"])
@pytest.mark.parametrize("garbage", [b"\0", b"\xff", b"text "])
def test_damage_in_the_middle_is_skipped_and_counted(tmp_path, songs, kind, garbage):
    data, middle = songs[kind], len(songs[kind]) // 2
    file = tmp_path / f"a.{kind}"
    file.write_bytes(data[:middle] + (garbage * 1000) + data[middle + 1000 * len(garbage) :])
    waveform = load_or_reason(file)
    assert 2.0 * RATE < len(waveform) < 3.2 * RATE
    (problem,) = collection.examine(file).problems
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


def test_a_file_of_nothing_but_damaged_frames_is_no_silence(tmp_path, songs):
    data = songs["m4a"]
    start = data.index(b"mdat") + 4
    end = start - 8 + int.from_bytes(data[start - 8 : start - 4])
    (tmp_path / "a.m4a").write_bytes(data[:start] + b"\xff" * (end - start) + data[end:])
    reason = "cannot be decoded: FFmpeg can read none of its frames"
    assert load_or_reason(tmp_path / "a.m4a") == reason


def test_of_an_endless_end_only_a_little_is_read(tmp_path, songs):
    (tmp_path / MP3).write_bytes(songs["mp3"])
    os.truncate(tmp_path / MP3, len(songs["mp3"]) + 50 * 2**20)
    tracemalloc.start()
    try:
        (problem,) = collection.examine(tmp_path / MP3).problems
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.startswith(f"ends in {50 * 2**20} bytes without sound")
    assert peak < 10 * 2**20


def test_damage_is_a_problem_of_the_check_and_a_line_of_a_script(tiny_copy, songs, capsys):
    damaged = songs["mp3"][:12_000] + b"no sound" * 300 + songs["mp3"][14_400:]
    (tiny_copy / "test" / "002.mp3").write_bytes(damaged)
    assert collection.main(["check", str(tiny_copy)]) == 1
    *_, problem, last = capsys.readouterr().out.splitlines()
    assert problem.startswith("test/002.mp3 has ")
    assert last == "1 problem"


@pytest.mark.parametrize("n_bytes", [100, 10 * 2**20])
def test_id3_tags_of_any_size_are_passed_over(tmp_path, songs, n_bytes):
    size = bytes(n_bytes >> shift & 127 for shift in (21, 14, 7, 0))
    tag = b"ID3\x04\0\0" + size + bytes(n_bytes)
    for kind in ("mp3", "plain"):
        for end in (b"", b"TAG" + bytes(125)):
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
    examined = collection.examine(file)
    assert isinstance(waveform, str) == (not examined.sound)
    if examined.sound:
        assert examined.seconds == len(waveform) / RATE


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 2**31 - 1])
def test_a_header_may_not_ask_for_all_memory(tmp_path, songs, rate):
    data = bytearray(songs["wav"])
    data[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(data)
    assert load_or_reason(tmp_path / "a.wav") == f"has a sample rate of {rate} Hz"


def test_hundreds_of_channels_are_read_a_few_samples_at_a_time(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((RATE, 1000), np.float32), RATE)
    assert load_or_reason(tmp_path / "a.wav") == "holds no audio"  # in FFmpeg's eyes
    samples = np.full((2 * RATE, 500), 0.25, np.float32)
    soundfile.write(tmp_path / "a.wav", samples, RATE)
    tracemalloc.start()
    try:
        for block in audio.read_blocks(tmp_path / "a.wav"):
            assert np.abs(block - 0.25).max() < 1e-4
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * audio.MAX_BLOCK * 4


# --- odd, but music ----------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wavs_of_every_width_are_read(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", noise(0.5), RATE, subtype=subtype)
    error = np.abs(audio.load(tmp_path / "a.wav") - noise(0.5)).max()
    assert error < (0.008 if subtype == "PCM_U8" else 1e-4)


@pytest.mark.parametrize("level", [np.nan, np.inf, -np.inf, 1e308, 1e7])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_what_is_no_level_is_refused_at_every_width(tmp_path, level, subtype):
    samples = np.zeros(RATE)
    samples[-1] = level
    soundfile.write(tmp_path / "a.wav", samples, RATE, subtype=subtype)
    assert load_or_reason(tmp_path / "a.wav").startswith("holds samples")


@pytest.mark.parametrize("n_channels", [2, 6])
@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000, 192_000])
def test_every_rate_and_number_of_channels_gives_16_khz_mono(tmp_path, rate, n_channels):
    time = np.arange(rate) / rate
    tone = 0.3 * np.sin(2 * np.pi * 1000 * time)
    soundfile.write(tmp_path / "a.flac", np.repeat(tone[:, None], n_channels, axis=1), rate)
    waveform = audio.load(tmp_path / "a.flac")
    assert len(waveform) == pytest.approx(RATE, abs=1)
    inner = slice(RATE // 10, -RATE // 10)
    expected = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(len(waveform)) / RATE)
    np.testing.assert_allclose(waveform[inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize("n_samples", [1, 800])  # 0.05 s
@pytest.mark.parametrize("extension", ["mp3", "flac", "ogg", "wav"])
def test_very_short_files_are_read(tmp_path, n_samples, extension):
    soundfile.write(tmp_path / f"a.{extension}", noise(1)[:n_samples], RATE)
    more = 1024 if extension == "ogg" or (extension, n_samples) == ("mp3", 1) else 0
    assert 0 <= len(audio.load(tmp_path / f"a.{extension}")) - n_samples <= more


@pytest.mark.parametrize("level", [0.0, 0.5])
@pytest.mark.parametrize("extension", ["mp3", "flac", "ogg", "wav"])
def test_silence_and_a_constant_are_music(tmp_path, level, extension):
    soundfile.write(tmp_path / f"a.{extension}", np.full(RATE, level), RATE)
    waveform = audio.load(tmp_path / f"a.{extension}")
    assert np.median(waveform) == pytest.approx(level, abs=0.05)


def test_a_waveform_is_held_once(tmp_path):
    soundfile.write(tmp_path / "a.wav", noise(300), RATE)
    tracemalloc.start()
    try:
        waveform = audio.load(tmp_path / "a.wav")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(waveform) == 300 * RATE
    assert peak < 1.3 * waveform.nbytes


def test_memory_does_not_grow_with_the_file(tmp_path):
    """Half an hour, of which no more is ever in memory than a few blocks of ten seconds."""
    file = tmp_path / "long.wav"
    soundfile.write(file, np.zeros(0), RATE)
    n_bytes = 1800 * RATE * 2
    data = bytearray(file.read_bytes())
    data[4:8], data[-4:] = struct.pack("<I", n_bytes + 36), struct.pack("<I", n_bytes)
    file.write_bytes(data)
    os.truncate(file, len(data) + n_bytes)  # silence that takes no room on the disk
    tracemalloc.start()
    try:
        seconds = audio.duration(file)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds == 1800
    assert peak < 10 * 2**20


# --- what is no file, and names ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fifo", "folder", "device", "link to itself", "link to nowhere"])
def test_what_is_no_file_is_said_to_be_none(tmp_path, kind):
    path = tmp_path / MP3
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to({"device": "/dev/zero", "link to itself": MP3}.get(kind, "nowhere"))
    assert load_or_reason(path) == "is no file"


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


def test_a_file_that_may_not_be_read_is_said_to_be_so(tmp_path, monkeypatch, songs):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MP3).write_bytes(songs["mp3"])
    (tmp_path / MP3).chmod(0)
    said = as_nobody(tmp_path, lambda: str(load_or_reason(Path(MP3))))
    assert said == "cannot be decoded: Permission denied"
    assert as_nobody(tmp_path, lambda: dataset.content_key(Path(MP3))) == f"no content: {MP3}"


def test_a_folder_that_may_not_be_read_is_noted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("music/closed").mkdir(parents=True)
    Path("music/closed").chmod(0)

    def note() -> str:
        with pytest.warns(Note) as caught:
            assert dataset.find_files(Path("music")) == []
        return str(caught[0].message)

    assert as_nobody(tmp_path, note) == "left out music/closed: Permission denied"


NAMES = [
    "a b.mp3",
    'it\'s "quoted".mp3',
    "two\nlines\r.mp3",
    "\x1b[31mred\x1b[0m.mp3",
    "😀 ünï.mp3",
    "--help.mp3",
    "-.mp3",
    "x" * 251 + ".mp3",
    "é" * 125 + "x.mp3",
    os.fsdecode(b"caf\xe9.mp3"),
]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_every_kind_are_read_written_and_shown_in_a_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, Path(name)):
        audio.write(path, noise(0.1))
        assert len(audio.load(path)) == 1600
        path.write_bytes(b"no music")
        with pytest.raises(audio.AudioError) as caught:
            audio.load(path)
        message = str(caught.value)
        assert message.isprintable()
        message.encode()
        assert name[:3].strip() in message or not name.isprintable()
    assert [path.name for path in tmp_path.iterdir()] == [name]


# --- training ----------------------------------------------------------------------------------


@pytest.fixture
def bad_songs(tmp_path) -> tuple[Path, list[str]]:
    """Data folder of 2 artists x 3 albums x 2 songs; two of training, one of validation are bad.

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


class Toy(torch.nn.Module):
    """Stands in for Cnn14, which takes seconds to make."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, waveforms):
        shape = (len(waveforms), panns.EMBEDDING_SIZE)
        return {"embedding": waveforms[:, : shape[1]].reshape(shape) * self.scale}


def toy_backbone() -> panns.Backbone:
    network = Toy().requires_grad_(False)
    return panns.Backbone(network, RATE, "untrained, seed 0", torch.float32)


TRAINING = {
    "task1_preprocessing": [],
    "task2_train": ["--backbone-weights", "untrained", "--views", 1, "--windows", 1],
    "task2_train_wo_pretrain": [],
}
EPOCH = ["--epochs", 1, "--crop-seconds", 1]


@pytest.mark.parametrize("script", TRAINING)
def test_bad_songs_stop_the_training_or_are_left_out_and_recorded(
    bad_songs, tmp_path, monkeypatch, capsys, script
):
    data, bad = bad_songs
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(panns, "load_backbone", lambda *_: toy_backbone())
    options = ["--data-dir", data, "--device", "cpu", "--workers", 1, *TRAINING[script]]
    options += EPOCH if "train" in script else []
    task = "task1" if script.startswith("task1") else script.removesuffix("_wo_pretrain")[:5]
    folder = tmp_path / "results" / task
    kept = folder / "old results"
    kept.parent.mkdir(parents=True)
    kept.touch()

    assert call(monkeypatch, script, *options, "--overwrite") == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("error: 3 of 16 songs cannot be read")
    assert "--skip-unreadable" in first
    reasons = ("is empty", "cannot be decoded: Invalid data found", "is empty")
    for line, path, reason in zip(lines, bad, reasons, strict=True):
        assert line.startswith(f"{data / path} {reason}")
    written = [
        path.name for path in folder.rglob("*") if path.is_file() and "cache" not in str(path)
    ]
    assert written == ["old results"]

    assert call(monkeypatch, script, *options, "--skip-unreadable") == 0
    out = capsys.readouterr().out
    assert "13 of 16 songs are in" in out.replace(
        "13 of 15", "13 of 16"
    )  # what was decoded is kept
    assert "3 of 16 songs are left out: they cannot be read" in out
    file = next(folder.rglob("preprocessing.json" if task == "task1" else "metrics.json"))
    recorded = json.loads(file.read_text())["dataset"]
    assert list(recorded["unreadable"]) == bad
    assert [reason.split(":")[0] for reason in recorded["unreadable"].values()] == [
        *("is empty", "cannot be decoded", "is empty")
    ]
    assert (recorded["train"], recorded["val"]) == (10, 3)

    if task == "task1":
        monkeypatch.setattr(classical, "GRIDS", {"song": {"knn": [{"n_neighbors": [3]}]}})
        monkeypatch.setattr(task1_train, "explain", lambda *_: None)
        assert call(monkeypatch, "task1_train", "--workers", 1) == 0
        assert json.loads((folder / "metrics.json").read_text())["dataset"] == recorded
    else:
        predictions = results.read_predictions(file.with_name("val_predictions.json"), "x")
        assert len(predictions.songs) == 3
    # The same songs, mended in no way: the run is known again.
    assert call(monkeypatch, script, *options, "--skip-unreadable") == 0
    # NaN in the cache, which was never put there, does not get into results.
    for rows in folder.rglob("rows.bin"):
        rows.write_bytes(b"\xff" * rows.stat().st_size)
    capsys.readouterr()
    assert call(monkeypatch, script, *options, "--skip-unreadable", "--overwrite") == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "cache is damaged: delete it and run the same command again" in error


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
    assert len(set(keys)) == len(songs)
    reasons = {key: "cannot be decoded: Permission denied" for key in keys[:2]}
    with pytest.raises(UserError, match=r"^2 of 12 songs cannot be read") as caught:
        dataset.find_unreadable(songs, keys, reasons, skip=False)
    assert len(str(caught.value).splitlines()) == 3


# --- inference ---------------------------------------------------------------------------------


def test_a_test_song_whose_name_no_json_holds_is_told_before_any_work(tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "two\nlines.mp3").write_bytes(b"")
    assert list(dataset.read_test(tmp_path)) == ["two\nlines"]
    (tmp_path / "test" / os.fsdecode(b"caf\xe9.mp3")).write_bytes(b"")
    with pytest.raises(UserError, match=r"caf\\udce9\.mp3: its name is no UTF-8"):
        dataset.read_test(tmp_path)
