"""artist20.vocals: chunks, files and resuming, with networks that are tiny or untrained."""

import json
import os
import threading
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
from artist20.vocals import SEPARATOR_RATE, SOURCES, STRIDE, Separator, separate_songs

CPU = torch.device("cpu")


class Neighbours(nn.Module):
    """Every source is a mix of both channels at a sample and at one before and one after it."""

    def __init__(self, distance: int) -> None:
        super().__init__()
        self.mix = nn.Conv1d(2, 2 * len(SOURCES), 3, padding=distance, dilation=distance)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.mix(waveform).reshape(len(waveform), len(SOURCES), 2, -1)


class Echo(nn.Module):
    """The vocals are all that is heard, the channels with other gains; the rest is silent."""

    def __init__(self, *gains: float, event: BaseException | float | None = None) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.tensor(gains or (1.0, 1.0)))
        self.event = event  # what happens in the fourth call
        self.heard: list[int] = []

    def forward(self, waveform: Tensor) -> Tensor:
        assert torch.equal(waveform[:, 0], waveform[:, 1])
        self.heard.append(waveform.shape[-1])
        sources = torch.zeros(len(waveform), len(SOURCES), *waveform.shape[1:])
        sources[:, SOURCES.index("vocals")] = self.gains[:, None] * waveform
        if len(self.heard) == 4 and isinstance(self.event, BaseException):
            raise self.event
        return sources * (self.event or 1) if len(self.heard) == 4 else sources


def echo(event: BaseException | float | None = None) -> Separator:
    return Separator(Echo(event=event), "an echo")


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


def small_hdemucs(sources: list[str]) -> HDemucs:
    """Make Hybrid Demucs with a twelfth of its channels."""
    return HDemucs(sources, channels=4, nfft=4096, depth=6)


@pytest.fixture(scope="module")
def small() -> Separator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Separator(small_hdemucs(SOURCES).eval(), "small")


# --- chunks ------------------------------------------------------------------------------------

LENGTHS = [1, 777, 440_999, 441_000, 441_001, 443_047, 2_000_003]


@pytest.mark.parametrize("n_samples", [*LENGTHS, 10 * 3600 * SEPARATOR_RATE])
def test_chunks_cover_a_song_and_overlap(n_samples):
    starts, stops, seams = vocals.place_chunks(n_samples)
    assert starts[0] == 0 and stops[-1] == n_samples
    assert (starts % STRIDE == 0).all()
    assert (stops - starts).max() < vocals.CHUNK_SECONDS * SEPARATOR_RATE + STRIDE
    assert (stops[:-1] - starts[1:] >= vocals.OVERLAP_SECONDS * SEPARATOR_RATE).all()
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


def test_chunks_of_hybrid_demucs_come_near_the_whole(small, monkeypatch):
    """To 35 dB on steady noise; to 12 dB if chunks begin anywhere."""
    monkeypatch.setattr(vocals, "CHUNK_SECONDS", 3.5)
    waveform = noise(5 * SEPARATOR_RATE)
    whole = at_once(small, waveform)

    def error_db() -> float:
        return level_db(separated(small, waveform) - whole) - level_db(whole)

    assert error_db() < -30
    monkeypatch.setattr(vocals, "STRIDE", 1)
    assert error_db() > -20


def test_chunks_that_are_separated_together_are_the_same(small, monkeypatch):
    monkeypatch.setattr(vocals, "CHUNK_SECONDS", 3.5)
    waveform = noise(9 * SEPARATOR_RATE + 5)  # 5 chunks, of which the last is longer
    expected = separated(small, waveform)
    sizes = []
    hook = small.network.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    monkeypatch.setitem(vocals.CHUNKS_TOGETHER, "cpu", 3)
    np.testing.assert_allclose(separated(small, waveform), expected, atol=1e-5)
    hook.remove()
    assert max(sizes) == 3


@pytest.mark.parametrize("n_samples", [1, 1024, 50_000])
def test_short_and_silent_songs_are_separated(small, n_samples):
    found = separated(small, noise(n_samples))
    assert found.shape == (n_samples,)
    assert np.isfinite(found).all() and found.any()
    assert not separated(small, np.zeros(n_samples, np.float32)).any()


def test_both_channels_hear_the_song_and_their_mean_is_kept():
    waveform = noise(SEPARATOR_RATE)
    found = separated(Separator(Echo(1.0, 3.0), "sides"), waveform)
    np.testing.assert_allclose(found, 2 * waveform, atol=1e-6)


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


@pytest.fixture
def output(tmp_path):
    return tmp_path / "vocals"


def listed(data: Path) -> list[str]:
    lists = ((data / f"{split}.json").read_text() for split in ("train", "val"))
    return [path for text in lists for path in json.loads(text)]


def record(output: Path) -> dict:
    return json.loads((output / "vocals.json").read_text(encoding="utf-8"))


def times(output: Path) -> dict[str, int]:
    """When each song was written, by its path as the lists have it."""
    return {
        f"./{file.relative_to(output)}": file.stat().st_mtime_ns
        for file in output.rglob("*")
        if file.is_file() and file.parent != output
    }


def test_songs_keep_names_length_time_and_level(data, output):
    assert separate_songs(data, output, echo()) == []
    assert set(times(output)) == set(listed(data))
    for path in listed(data):
        song, separated = audio.open_song(data / path), audio.open_song(output / path)
        assert separated.shape == song.shape
        assert np.correlate(separated, song, "same").argmax() == len(song) // 2
        assert level_db(separated - song) < level_db(song) - 12  # as far as MP3 keeps noise
        assert soundfile.info(output / path).samplerate == 16_000
    made = record(output)
    assert made["settings"]["weights"] == "an echo" and made["settings"]["chunk_seconds"] == 10.0
    assert made["songs"] == {path: sha256_file(data / path) for path in listed(data)}
    assert made["versions"]["torchaudio"]


@pytest.mark.parametrize("n_samples", [16_000, 16_003, 40_007])
def test_a_tone_goes_to_the_separators_rate_and_back(data, output, n_samples):
    tone = 0.5 * np.sin(2 * np.pi * 3000 * np.arange(n_samples) / 16_000)
    path = listed(data)[0].replace(".mp3", ".flac")
    soundfile.write(data / path, tone, 16_000)
    (data / "train.json").write_text(json.dumps([path]))
    separate_songs(data, output, echo())
    separated = audio.open_song(output / path)
    assert len(separated) == n_samples
    # Two roundings to 16 bits, of half a step each, and 5e-7 by resampling.
    np.testing.assert_allclose(separated[500:-500], tone[500:-500], atol=2**-15 + 2e-6)


def test_songs_that_are_too_long_to_be_kept_are_the_same(data, tmp_path, monkeypatch):
    write_song(data / listed(data)[0], next(iter(ARTISTS)), seed=1, seconds=21.0)
    kinds, separate = [], vocals.separate
    monkeypatch.setattr(vocals, "separate", lambda *a: kinds.append(type(a[1])) or separate(*a))
    made = []
    for blocks in (60, 1):
        monkeypatch.setattr(audio, "WHOLE_BLOCKS", blocks)
        assert separate_songs(data, tmp_path / str(blocks), echo()) == []
        made.append([(tmp_path / str(blocks) / path).read_bytes() for path in listed(data)])
    assert audio.LongSong in kinds[6:] and audio.LongSong not in kinds[:6]
    assert made[0] == made[1]


def test_test_songs_are_separated_too_also_into_a_folder_that_lacks_them(data, output):
    separate_songs(data, output, echo())
    before = times(output)
    tests = [f"./test/{name}" for name in ("001.mp3", "002.flac")]
    for seed, path in enumerate(tests):
        write_song(data / path, next(iter(ARTISTS)), seed=seed, seconds=0.4)
    (data / "test/notes.txt").write_text("no song")
    later = echo()
    assert separate_songs(data, output, later) == []
    assert len(later.network.heard) == 2
    assert times(output).items() >= before.items()
    assert set(times(output)) == {*listed(data), *tests}
    assert len(audio.open_song(output / "test/002.flac")) == 6400
    made = record(output)["songs"]
    assert made == {path: sha256_file(data / path) for path in (*listed(data), *tests)}


@pytest.mark.parametrize("has_list", [False, True])
def test_a_folder_with_test_songs_alone_is_a_graders(tmp_path, output, has_list):
    write_song(tmp_path / "graded/test/001.mp3", next(iter(ARTISTS)), seed=0, seconds=0.4)
    if has_list:
        (tmp_path / "graded/val.json").write_text("[]")
        with pytest.raises(UserError, match=r"train\.json is missing"):
            separate_songs(tmp_path / "graded", output, echo())
    else:
        assert separate_songs(tmp_path / "graded", output, echo()) == []
        assert list(times(output)) == ["./test/001.mp3"]


def test_finished_songs_are_not_touched_again(data, output):
    separate_songs(data, output, echo())
    before = times(output)
    again = echo()
    assert separate_songs(data, output, again) == []
    assert again.network.heard == [] and times(output) == before

    changed, lost, *_ = listed(data)
    write_song(data / changed, next(iter(ARTISTS)), seed=99, seconds=0.5)
    (output / lost).unlink()
    assert separate_songs(data, output, again) == []
    assert len(again.network.heard) == 2
    after = times(output)
    assert {path for path in after if after[path] != before.get(path)} == {changed, lost}
    assert len(audio.open_song(output / changed)) == 8000
    assert record(output)["songs"][changed] == sha256_file(data / changed)


def test_bad_songs_are_named_after_all_others(data, output):
    separate_songs(data, output, echo())
    broken, empty, short, *others = listed(data)
    (data / broken).write_text("no music")
    soundfile.write(data / empty, np.empty(0), 16_000, format="WAV")
    soundfile.write(data / short, np.ones(1), 44_100, format="WAV")
    (output / others[-1]).unlink()
    failures = separate_songs(data, output, echo())
    assert [str(data / path) in line for path, line in zip(listed(data)[:3], failures, strict=True)]
    assert failures[2] == f"{data / short} is too short"
    # Nor is what their former files gave left under their names.
    assert set(times(output)) == set(record(output)["songs"]) == set(others)

    for path in (broken, empty, short):
        write_song(data / path, next(iter(ARTISTS)), seed=1, seconds=0.3)
    assert separate_songs(data, output, echo()) == []
    assert set(times(output)) == set(listed(data))


def test_an_error_in_the_midst_of_a_song_leaves_nothing_of_it(data, output):
    first = listed(data)[0]
    write_song(data / first, next(iter(ARTISTS)), seed=1, seconds=35.0)
    failures = separate_songs(data, output, echo(float("nan")))  # in the fourth chunk of five
    assert failures == [f"{data / first} makes the separator give NaN or infinity"]
    assert set(record(output)["songs"]) == set(listed(data)[1:]) == set(times(output))
    assert not list(output.rglob(".*.tmp.*"))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_a_stopped_run_keeps_what_is_finished(data, output, kind):
    with pytest.raises(kind):
        separate_songs(data, output, echo(kind("stop")))
    before = times(output)
    assert set(before) == set(record(output)["songs"]) == set(listed(data)[:3])
    rest = echo()
    assert separate_songs(data, output, rest) == []
    assert len(rest.network.heard) == 3
    assert times(output).items() >= before.items()
    assert set(record(output)["songs"]) == set(listed(data))


def test_a_song_that_is_not_recorded_is_made_again(data, output):
    """The process may end between a song and its record; it may leave a half-written file, too."""
    path = listed(data)[2]
    separate_songs(data, output, echo())
    made = record(output)
    del made["songs"][path]
    (output / "vocals.json").write_text(json.dumps(made))
    half = (output / path).with_name(f".{Path(path).stem}.tmp.mp3")
    half.write_bytes((output / path).read_bytes()[:100])
    before = times(output)
    rest = echo()
    assert separate_songs(data, output, rest) == []
    assert len(rest.network.heard) == 1 and not half.exists()
    assert times(output)[path] != before[path]


# --- the folder --------------------------------------------------------------------------------


def test_vocals_of_other_weights_or_settings_are_refused(data, output):
    separate_songs(data, output, echo())
    before, made = times(output), record(output)
    with pytest.raises(UserError, match=r"weights 'an echo' -> 'another'.*delete it, or name"):
        separate_songs(data, output, Separator(Echo(), "another"))
    made["settings"]["fade_seconds"] = 0.5
    (output / "vocals.json").write_text(json.dumps(made))
    with pytest.raises(UserError, match=r"\(fade_seconds 0\.5 -> 1\.0\)"):
        separate_songs(data, output, echo())
    assert times(output) == before


@pytest.mark.parametrize("content", [None, "{", '{"settings": 5}'])
def test_folders_of_something_else_are_left_alone(data, content):
    output = data / "train_val"  # the songs themselves would be overwritten
    if content is not None:
        (output / "vocals.json").write_text(content)
    before = sorted(output.rglob("*"))
    with pytest.raises(UserError, match="something else than separated vocals"):
        separate_songs(data, output, echo())
    assert sorted(output.rglob("*")) == before


def test_runs_that_cannot_be_are_refused_before_any_work(data, output):
    with pytest.raises(UserError, match=r"train\.json is a file"):
        separate_songs(data, data / "train.json", echo())
    with only_writer(output), pytest.raises(UserError, match="another run is writing to"):
        separate_songs(data, output, echo())
    (data / listed(data)[0]).unlink()
    with pytest.raises(UserError, match="1 of 5 songs are missing"):
        separate_songs(data, output / "new", echo())
    assert not (output / "new").exists()


# --- weights -----------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(vocals, "hdemucs_high", small_hdemucs)


def test_the_network_is_the_bundles():
    bundled = HDEMUCS_HIGH_MUSDB_PLUS._model_factory_func
    assert bundled.func is vocals.hdemucs_high and bundled.keywords == {"sources": SOURCES}
    assert SEPARATOR_RATE == 44_100


def test_untrained_weights_are_seeded_and_said_to_be(quick, capsys):
    state = torch.get_rng_state()
    untrained, again = (vocals.load_separator("untrained", CPU) for _ in range(2))
    assert "UNTRAINED" in capsys.readouterr().out
    assert again.weights == "untrained, seed 0"
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(untrained.network.parameters(), again.network.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
    assert not again.network.training


def test_published_and_other_weights_load(quick, tmp_path, capsys, monkeypatch):
    state = small_hdemucs(SOURCES).state_dict()
    weights = tmp_path / "hdemucs.pt"
    torch.save({name: 2 * value for name, value in state.items()}, weights)
    loaded = vocals.load_separator(str(weights), CPU)
    assert loaded.weights == sha256_file(weights)
    assert f"not the published weights, its SHA-256 is {loaded.weights}" in capsys.readouterr().out
    name, value = next(iter(state.items()))
    assert torch.equal(loaded.network.state_dict()[name], 2 * value)
    published = vocals.fetch.Weights("", "", 0, loaded.weights, "")
    monkeypatch.setattr(vocals.fetch, "HDEMUCS", published)
    vocals.load_separator(str(weights), CPU)
    assert "not the published" not in capsys.readouterr().out


class Harmful:
    """Runs code when it is unpickled without weights_only."""

    def __reduce__(self):
        return (os.mkdir, ("harmed",))


@pytest.mark.parametrize("content", ["text", {"a": torch.zeros(1)}, Harmful()])
def test_files_that_are_no_weights_are_refused(content, quick, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(content, "weights.pt")
    with pytest.raises(UserError, match=r"weights\.pt does not hold the weights of Hybrid Demucs"):
        vocals.load_separator("weights.pt", CPU)
    assert not Path("harmed").exists()
    with pytest.raises(UserError, match=r"nowhere\.pt is missing: 'bash get_dataset.sh --vocals'"):
        vocals.load_separator("nowhere.pt", CPU)


# --- the command -------------------------------------------------------------------------------


def test_the_command_separates_and_names_what_failed(quick, data, output, capsys):
    (data / "train.json").write_text(json.dumps(listed(data)[:2]), encoding="utf-8")
    bad = data / listed(data)[1]
    bad.write_text("no music")
    options = [str(data), str(output), "--weights", "untrained", "--device", "cpu"]
    assert vocals.main(options) == 1
    told = capsys.readouterr()
    assert "of an UNTRAINED separator" in told.out
    assert f"error: 1 songs could not be separated:\n{bad} " in told.err

    write_song(bad, next(iter(ARTISTS)), seed=1, seconds=0.3)
    assert vocals.main(options) == 0
    assert f"2 of 3 songs are in {output}" in capsys.readouterr().out
    assert set(times(output)) == set(listed(data))
