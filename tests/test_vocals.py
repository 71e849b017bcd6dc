"""artist20.vocals: chunks, files and resuming, with networks that are tiny or untrained."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import ARTISTS, write_song
from torch import Tensor, nn
from torchaudio.models import HDemucs
from torchaudio.pipelines import HDEMUCS_HIGH_MUSDB_PLUS

from artist20 import UserError, audio, vocals
from artist20.files import only_writer, sha256_file
from artist20.vocals import SEPARATOR_RATE, SOURCES, STRIDE, Separator

REPOSITORY = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


class Neighbours(nn.Module):
    """Every source is a mix of both channels at a sample and at one before and one after it."""

    def __init__(self, distance: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(2, 2 * len(SOURCES), 3, padding=distance, dilation=distance)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.mix(waveform).reshape(len(waveform), len(SOURCES), 2, -1)


class Echo(nn.Module):
    """The vocals are all that is heard, and the other sources are silent."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))
        self.heard: list[int] = []

    def forward(self, waveform: Tensor) -> Tensor:
        self.heard.append(waveform.shape[-1])
        sources = torch.zeros(len(waveform), len(SOURCES), *waveform.shape[1:])
        sources[:, SOURCES.index("vocals")] = self.gain * waveform
        return sources


class Stopping(Echo):
    """An echo that something happens to when it is called for the fourth time."""

    def __init__(self, event: BaseException | float) -> None:
        super().__init__()
        self.event = event

    def forward(self, waveform: Tensor) -> Tensor:
        sources = super().forward(waveform)
        if len(self.heard) == 4 and isinstance(self.event, BaseException):
            raise self.event
        return sources * self.event if len(self.heard) == 4 else sources


def echo() -> Separator:
    return Separator(Echo(), "an echo")


def noise(n_samples: int) -> np.ndarray:
    return np.random.default_rng(n_samples).normal(0, 0.1, n_samples).astype(np.float32)


def separated(separator: Separator, waveform: np.ndarray) -> np.ndarray:
    return np.concatenate(list(vocals.separate(separator, waveform)))


def at_once(separator: Separator, waveform: np.ndarray) -> np.ndarray:
    """Separate without chunks."""
    with torch.inference_mode():
        sources = separator.network(torch.from_numpy(waveform).expand(1, 2, -1))
    return sources[0, SOURCES.index("vocals")].mean(dim=0).numpy()


def level_db(waveform: np.ndarray) -> float:
    return 10 * np.log10(np.square(waveform.astype(float)).mean())


@pytest.fixture(scope="module")
def small() -> Separator:
    """Hybrid Demucs with a twelfth of its channels, untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Separator(HDemucs(SOURCES, channels=4, nfft=4096, depth=6).eval(), "small")


# --- chunks ------------------------------------------------------------------------------------

LENGTHS = [1, 777, 44_100, 440_999, 441_000, 441_001, 443_047, 800_000, 2_000_003]


@pytest.mark.parametrize("n_samples", [*LENGTHS, 10 * 3600 * SEPARATOR_RATE])
def test_chunks_cover_a_song_and_overlap(n_samples):
    starts, stops, seams = vocals.place_chunks(n_samples)
    assert starts[0] == 0 and stops[-1] == n_samples
    assert (starts % STRIDE == 0).all()
    assert (stops - starts).max() < vocals.CHUNK_SECONDS * SEPARATOR_RATE + STRIDE
    overlaps = stops[:-1] - starts[1:]
    assert (overlaps >= vocals.OVERLAP_SECONDS * SEPARATOR_RATE).all()
    # One fade is over before the next begins, and none is near an end of a chunk.
    fade = vocals.FADE_SECONDS * SEPARATOR_RATE
    assert (np.diff(seams) >= fade).all()
    assert (seams[1:-1] - fade / 2 >= starts[1:] + fade / 2).all()
    assert (seams[1:-1] + fade / 2 <= stops[:-1] - fade / 2).all()


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_chunks_equal_the_whole_where_the_network_hears_half_a_second(n_samples):
    torch.manual_seed(0)
    separator = Separator(Neighbours(SEPARATOR_RATE // 2), "local")
    waveform = noise(n_samples)
    found = separated(separator, waveform)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, at_once(separator, waveform), atol=1e-6)


def test_chunks_differ_from_the_whole_where_the_network_hears_more():
    torch.manual_seed(0)
    separator = Separator(Neighbours(2 * SEPARATOR_RATE), "less local")
    waveform = noise(LENGTHS[-1])
    difference = np.abs(separated(separator, waveform) - at_once(separator, waveform))
    assert difference.max() > 0.01


def test_chunks_of_hybrid_demucs_come_near_the_whole(small, monkeypatch):
    """To 35 dB on steady noise; to 12 dB if chunks begin anywhere."""
    monkeypatch.setattr(vocals, "CHUNK_SECONDS", 4.0)
    waveform = noise(7 * SEPARATOR_RATE)
    whole = at_once(small, waveform)

    def error_db() -> float:
        return level_db(separated(small, waveform) - whole) - level_db(whole)

    assert error_db() < -30
    monkeypatch.setattr(vocals, "STRIDE", 1)
    assert error_db() > -20


def test_no_chunk_is_longer_however_long_the_song(monkeypatch):
    separator = echo()
    separated(separator, np.zeros(60 * SEPARATOR_RATE, np.float32))
    assert (
        len(separator.network.heard) == 8
    )  # 60 s, of which a chunk brings 7.95 s beyond its overlap
    assert max(separator.network.heard) < 10.05 * SEPARATOR_RATE


@pytest.mark.parametrize("n_samples", [1, 2, 100, 1024, 50_000])
def test_short_songs_are_separated(small, n_samples):
    found = separated(small, noise(n_samples))
    assert found.shape == (n_samples,)
    assert np.isfinite(found).all() and found.any()


def test_silence_stays_silence(small):
    assert not separated(small, np.zeros(SEPARATOR_RATE, np.float32)).any()


# --- songs -------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """Data folder of five training songs and one validation song, of a third of a second each."""
    paths = []
    for i in range(6):
        artist = list(ARTISTS)[i % 2]
        paths.append(f"./train_val/{artist}/B. Sides, Vol. {i // 2}/0{i}-It's_(Not)_Über.mp3")
        write_song(tmp_path / "data" / paths[-1], artist, seed=i, seconds=0.3 + i / 100)
    for split, listed in (("train", paths[:5]), ("val", paths[5:])):
        list_file = tmp_path / "data" / f"{split}.json"
        list_file.write_text(json.dumps(listed), encoding="utf-8")
    return tmp_path / "data"


def listed(data: Path) -> list[str]:
    return [
        path
        for split in ("train", "val")
        for path in json.loads((data / f"{split}.json").read_text())
    ]


def record(output: Path) -> dict:
    return json.loads((output / "vocals.json").read_text(encoding="utf-8"))


def finished(output: Path) -> dict[str, str]:
    """Content keys of the songs that are recorded as done, by their paths."""
    return dict(json.loads(line) for line in (output / vocals.INDEX).open())


def times(output: Path) -> dict[str, int]:
    """When each song was written, by its path as the lists have it."""
    return {
        f"./{file.relative_to(output)}": file.stat().st_mtime_ns
        for file in output.rglob("*")
        if file.is_file() and file.parent != output
    }


def test_songs_keep_names_length_time_and_level(data, tmp_path):
    output = tmp_path / "vocals"
    assert vocals.separate_songs(data, output, echo()) == 0
    assert set(times(output)) == set(listed(data))
    for path in listed(data):
        song, separated = audio.load(data / path), audio.load(output / path)
        assert separated.shape == song.shape
        best = np.correlate(separated, song, "same").argmax() - len(song) // 2
        assert best == 0
        assert level_db(separated - song) < level_db(song) - 12  # as far as MP3 keeps noise
        assert soundfile.info(output / path).samplerate == 16_000


@pytest.mark.parametrize("n_samples", [16_000, 16_001, 16_003, 40_007])
def test_a_tone_goes_to_the_separators_rate_and_back(data, tmp_path, n_samples):
    tone = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(n_samples) / 16_000)
    path = listed(data)[0].replace(".mp3", ".flac")
    soundfile.write(data / path, tone, 16_000)
    (data / "train.json").write_text(json.dumps([path]))
    vocals.separate_songs(data, tmp_path / "vocals", echo())
    separated = audio.load(tmp_path / "vocals" / path)
    assert len(separated) == n_samples
    # Two roundings to 16 bits, of half a step each, and 5e-7 by resampling.
    np.testing.assert_allclose(separated[500:-500], tone[500:-500], atol=2**-15 + 2e-6)


def test_both_channels_hear_the_song_and_their_mean_is_kept():
    class Sides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.tensor([1.0, 3.0]))

        def forward(self, waveform: Tensor) -> Tensor:
            assert torch.equal(waveform[:, 0], waveform[:, 1])
            return (waveform * self.gain[:, None])[:, None].expand(-1, len(SOURCES), -1, -1)

    waveform = noise(SEPARATOR_RATE)
    found = separated(Separator(Sides(), "sides"), waveform)
    np.testing.assert_allclose(found, 2 * waveform, atol=1e-6)


def test_songs_that_are_too_long_to_be_kept_are_the_same(data, tmp_path, monkeypatch):
    write_song(data / listed(data)[0], next(iter(ARTISTS)), seed=1, seconds=35.0)
    kinds, separate = [], vocals.separate
    monkeypatch.setattr(vocals, "separate", lambda *a: kinds.append(type(a[1])) or separate(*a))
    for output, blocks in ((tmp_path / "whole", 60), (tmp_path / "decoded again", 1)):
        monkeypatch.setattr(audio, "WHOLE_BLOCKS", blocks)
        assert vocals.separate_songs(data, output, echo()) == 0
    first, second = (
        [(tmp_path / name / path).read_bytes() for path in listed(data)]
        for name in ("whole", "decoded again")
    )
    assert audio.LongSong in kinds[len(first) :]
    assert first == second


def test_one_part_is_computed_ahead_and_no_more():
    computed = [threading.Event() for _ in range(20)]

    def part(i: int) -> np.ndarray:
        computed[i].set()
        return np.full(1, i)

    for i, given in enumerate(vocals.computed_ahead(map(part, range(20)))):
        assert given == i
        if i < 19:
            assert computed[i + 1].wait(30)  # though nobody has asked for it
        assert not any(event.is_set() for event in computed[i + 2 :])


def test_an_error_in_the_midst_of_a_song_leaves_nothing_of_it(data, tmp_path, capsys):
    first = listed(data)[0]
    write_song(data / first, next(iter(ARTISTS)), seed=1, seconds=35.0)
    separator = Separator(Stopping(float("nan")), "an echo")  # in the fourth chunk of five
    assert vocals.separate_songs(data, tmp_path / "vocals", separator) == 1
    assert f"{data / first} makes the separator give NaN or infinity" in capsys.readouterr().err
    rest = set(listed(data)) - {first}
    assert set(finished(tmp_path / "vocals")) == rest == set(times(tmp_path / "vocals"))
    assert not list((tmp_path / "vocals").rglob(".*.tmp.*"))


def test_a_song_of_which_nothing_would_be_left_is_named(data, tmp_path, capsys):
    first = listed(data)[0]
    soundfile.write((data / first).with_suffix(".wav"), np.ones(1), 44_100)
    (data / first).with_suffix(".wav").replace(data / first)
    assert vocals.separate_songs(data, tmp_path / "vocals", echo()) == 1
    assert f"{data / first} is too short" in capsys.readouterr().err


def test_silent_songs_stay_silent_in_their_files(data, tmp_path, small):
    path = listed(data)[0]
    soundfile.write(data / path, np.zeros(8000), 16_000)
    (data / "train.json").write_text(json.dumps([path]))
    vocals.separate_songs(data, tmp_path / "vocals", small)
    separated = audio.load(tmp_path / "vocals" / path)
    assert len(separated) == 8000 and np.abs(separated).max() < 1e-4


def test_the_record_says_what_made_the_songs(data, tmp_path):
    vocals.separate_songs(data, tmp_path / "vocals", echo())
    made = record(tmp_path / "vocals")
    assert made["settings"]["weights"] == "an echo" and made["settings"]["chunk_seconds"] == 10.0
    assert finished(tmp_path / "vocals") == {
        path: sha256_file(data / path) for path in listed(data)
    }
    assert made["pretrained"] is True and made["versions"]["torchaudio"]
    untrained = Separator(Echo(), "untrained, seed 0")
    vocals.separate_songs(data, tmp_path / "other", untrained)
    assert record(tmp_path / "other")["pretrained"] is False


def test_finished_songs_are_not_touched_again(data, tmp_path):
    output = tmp_path / "vocals"
    vocals.separate_songs(data, output, echo())
    before = times(output)
    again = echo()
    assert vocals.separate_songs(data, output, again) == 0
    assert again.network.heard == [] and times(output) == before

    changed, lost, *_ = listed(data)
    write_song(data / changed, next(iter(ARTISTS)), seed=99, seconds=0.5)
    (output / lost).unlink()
    assert vocals.separate_songs(data, output, again) == 0
    assert len(again.network.heard) == 2
    after = times(output)
    assert {path for path in after if after[path] != before.get(path)} == {changed, lost}
    assert len(audio.load(output / changed)) == 8000
    assert finished(output)[changed] == sha256_file(data / changed)


def test_bad_songs_are_named_after_all_others(data, tmp_path, capsys):
    output = tmp_path / "vocals"
    vocals.separate_songs(data, output, echo())
    first, second, *others = listed(data)
    (data / first).write_text("no music")
    soundfile.write(data / second, np.empty(0), 16_000, format="WAV")
    (output / others[-1]).unlink()
    assert vocals.separate_songs(data, output, echo()) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[0] == "error: 2 of 6 songs could not be separated:"
    assert [str(data / path) in line for path, line in zip((first, second), error[1:], strict=True)]
    # Nor is what their former files gave left under their names.
    assert set(times(output)) == set(finished(output)) == set(others)

    write_song(data / first, next(iter(ARTISTS)), seed=1, seconds=0.3)
    write_song(data / second, next(iter(ARTISTS)), seed=2, seconds=0.3)
    assert vocals.separate_songs(data, output, echo()) == 0
    assert set(times(output)) == set(listed(data))


def test_no_number_is_no_song(data, tmp_path, capsys):
    separator = Separator(Stopping(float("nan")), "an echo")
    assert vocals.separate_songs(data, tmp_path / "vocals", separator) == 1
    failed = listed(data)[3]
    assert f"{data / failed} makes the separator give NaN or infinity" in capsys.readouterr().err
    assert set(times(tmp_path / "vocals")) == set(listed(data)) - {failed}


def test_missing_songs_are_told_before_any_work(data, tmp_path):
    (data / listed(data)[0]).unlink()
    with pytest.raises(UserError, match="1 of 5 songs are missing"):
        vocals.separate_songs(data, tmp_path / "vocals", echo())
    assert not (tmp_path / "vocals").exists()


# --- stops -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_keeps_what_is_finished(data, tmp_path, kind):
    output = tmp_path / "vocals"
    with pytest.raises(kind):
        vocals.separate_songs(data, output, Separator(Stopping(kind("stop")), "an echo"))
    before = times(output)
    assert set(before) == set(finished(output)) == set(listed(data)[:3])
    rest = echo()
    assert vocals.separate_songs(data, output, rest) == 0
    assert len(rest.network.heard) == 3
    assert times(output).items() >= before.items()
    assert set(finished(output)) == set(listed(data))


def test_a_song_that_is_not_recorded_is_made_again(data, tmp_path):
    """The process may end between a song and its line; it may leave a half-written file, too."""
    output, path = tmp_path / "vocals", listed(data)[2]
    vocals.separate_songs(data, output, echo())
    (output / vocals.INDEX).write_text(
        "".join(vocals.index_line(*song) for song in finished(output).items() if song[0] != path)
    )
    half = (output / path).with_name(".02-It's.4711.tmp.mp3")
    half.write_bytes((output / path).read_bytes()[:100])
    before = times(output)
    rest = echo()
    assert vocals.separate_songs(data, output, rest) == 0
    assert len(rest.network.heard) == 1 and not half.exists()
    assert times(output)[path] != before[path]
    assert set(finished(output)) == set(listed(data))


@pytest.mark.parametrize("kept", [0, 1, -2, -10])
def test_a_line_that_was_half_written_costs_its_song_alone(data, tmp_path, kept):
    output = tmp_path / "vocals"
    vocals.separate_songs(data, output, echo())
    whole = (output / vocals.INDEX).read_bytes()
    before = sum(len(line) for line in whole.splitlines(True)[:-1])
    (output / vocals.INDEX).write_bytes(whole[: before + kept % (len(whole) - before)])
    for n_heard in (1, 0):
        rest = echo()
        assert vocals.separate_songs(data, output, rest) == 0
        assert len(rest.network.heard) == n_heard
        assert (output / vocals.INDEX).read_bytes() == whole


def test_what_cannot_be_written_ends_the_run(data, tmp_path, monkeypatch):
    def full(path: Path, blocks: Iterator[np.ndarray]) -> None:
        next(blocks)
        raise UserError(f"{path} cannot be written")

    with monkeypatch.context() as context, pytest.raises(UserError, match="cannot be written"):
        context.setattr(audio, "write_blocks", full)
        vocals.separate_songs(data, tmp_path / "vocals", echo())
    assert finished(tmp_path / "vocals") == {} and not times(tmp_path / "vocals")
    assert vocals.separate_songs(data, tmp_path / "vocals", echo()) == 0


# --- the folder --------------------------------------------------------------------------------


def test_vocals_of_other_weights_or_settings_are_refused(data, tmp_path, monkeypatch):
    output = tmp_path / "vocals"
    vocals.separate_songs(data, output, echo())
    before = times(output)
    with pytest.raises(UserError, match=r"weights 'an echo' -> 'another'.*delete it, or name"):
        vocals.separate_songs(data, output, Separator(Echo(), "another"))
    monkeypatch.setattr(vocals, "FADE_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"fade_seconds 1\.0 -> 0\.5"):
        vocals.separate_songs(data, output, echo())
    assert times(output) == before


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"settings": 5}'])
def test_folders_of_something_else_are_left_alone(data, tmp_path, content):
    output = data / "train_val"  # the songs themselves would be overwritten
    if content is not None:
        (output / "vocals.json").write_text(content)
    before = sorted(output.rglob("*"))
    with pytest.raises(UserError, match="something else than separated vocals"):
        vocals.separate_songs(data, output, echo())
    assert sorted(output.rglob("*")) == before


def test_a_file_in_the_folders_place_is_refused(data, tmp_path):
    with pytest.raises(UserError, match=r"train\.json is a file"):
        vocals.separate_songs(data, data / "train.json", echo())


def test_two_runs_do_not_write_to_one_folder(data, tmp_path):
    with (
        only_writer(tmp_path / "vocals"),
        pytest.raises(UserError, match="another run is writing to"),
    ):
        vocals.separate_songs(data, tmp_path / "vocals", echo())


# --- weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untrained() -> Separator:
    return vocals.load_separator("untrained", CPU)


def test_untrained_weights_are_seeded_and_said_to_be(untrained, capsys):
    state = torch.get_rng_state()
    again = vocals.load_separator("untrained", CPU)
    assert "UNTRAINED" in capsys.readouterr().out
    assert again.weights == "untrained, seed 0" and not again.pretrained
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(untrained.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
    assert not again.network.training


def test_a_checkpoint_of_the_bundles_form_loads(untrained, tmp_path, capsys, monkeypatch):
    with torch.device("meta"):
        bundled = HDEMUCS_HIGH_MUSDB_PLUS._model_factory_func()
    assert bundled.sources == SOURCES and SEPARATOR_RATE == 44_100
    expected = {name: value.shape for name, value in bundled.state_dict().items()}
    state = untrained.network.state_dict()
    assert {name: value.shape for name, value in state.items()} == expected

    weights = tmp_path / "hdemucs.pt"
    torch.save({name: 2 * value for name, value in state.items()}, weights)
    loaded = vocals.load_separator(str(weights), CPU)
    assert loaded.weights == sha256_file(weights) and loaded.pretrained
    assert f"not the published weights, its SHA-256 is {loaded.weights}" in capsys.readouterr().out
    name, value = next(iter(state.items()))
    assert torch.equal(loaded.network.state_dict()[name], 2 * value)
    monkeypatch.setattr(
        vocals.fetch, "HDEMUCS", vocals.fetch.Weights("", "", 0, loaded.weights, "")
    )
    vocals.load_separator(str(weights), CPU)
    assert "not the published" not in capsys.readouterr().out


class Harmful:
    """Runs code when it is unpickled without weights_only."""

    def __reduce__(self):
        return (os.mkdir, ("harmed",))


@pytest.mark.parametrize("content", ["text", "other", "pickle"])
def test_files_that_are_no_weights_are_refused(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = tmp_path / "weights.pt"
    if content == "text":
        weights.write_text("<html>")
    else:
        torch.save(Harmful() if content == "pickle" else {"a": torch.zeros(1)}, weights)
    with pytest.raises(UserError, match=r"weights\.pt does not hold the weights of Hybrid Demucs"):
        vocals.load_separator(str(weights), CPU)
    assert not Path("harmed").exists()


def test_missing_weights_are_explained(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.pt is missing: 'bash get_dataset.sh --vocals'"):
        vocals.load_separator(str(tmp_path / "nowhere.pt"), CPU)


# --- the command -------------------------------------------------------------------------------


def start(data: Path, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "artist20.vocals", str(data), str(output)]
    return subprocess.Popen(
        [*command, "--weights", "untrained", "--device", "cpu"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_goes_on_where_it_was_killed(data, tmp_path):
    (data / "train.json").write_text(json.dumps(listed(data)[:2]), encoding="utf-8")
    output = tmp_path / "vocals"
    first = start(data, output)
    while first.poll() is None and not (
        (output / vocals.INDEX).exists() and (output / vocals.INDEX).read_text()
    ):
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    assert first.communicate() and first.returncode == -signal.SIGKILL
    before = times(output)
    done = finished(output)
    assert 1 <= len(done) < len(listed(data))
    # Another may have its name already, though not its line. None is half a song.
    whole = {path for path in before if not Path(path).name.startswith(".")}
    assert set(done) <= whole
    for path in whole:
        assert len(audio.load(output / path)) == len(audio.load(data / path))

    second = start(data, output)
    told, error = second.communicate()
    assert second.returncode == 0, error
    assert f"{len(done)} of 3 songs are in {output}" in told
    assert told.count("UNTRAINED") == 2
    after = times(output)
    assert set(after) == set(finished(output)) == set(listed(data))
    assert {path for path in done if after[path] != before[path]} == set()
    assert record(output)["pretrained"] is False
    # What the whole network makes of a song is a sound, and another than the song's.
    song, separated = (audio.load(folder / listed(data)[0]) for folder in (data, output))
    assert separated.any() and not np.allclose(song, separated, atol=0.01)


def test_status_1_names_what_failed(data, tmp_path, monkeypatch, capsys):
    bad = data / listed(data)[0]
    bad.write_text("no music")
    monkeypatch.setattr(vocals, "load_separator", lambda weights, device: echo())
    assert vocals.main([str(data), str(tmp_path / "vocals")]) == 1
    assert str(bad) in capsys.readouterr().err
    assert len(times(tmp_path / "vocals")) == 5
