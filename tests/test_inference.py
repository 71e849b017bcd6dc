import hashlib
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from artist20 import UserError, artifacts, audio, cli, inference, spectrogram
from artist20.spectrogram import FrontEnd

RATE = 16_000
CLASSES = ["abba", "beatles", "cure", "doors"]
TEST_SONGS = {"010": 2, "002": 0, "001": 3, "003": 1}  # the artist that the scores favour


def write_level(path, level):
    """Write a quarter second whose mean says which artist it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(RATE // 4, 0.1 * (level + 1)), RATE, subtype="FLOAT")


def score_song(waveform):
    """Score two windows that disagree: only their mean has the right artist first."""
    k = round(float(waveform.mean()) * 10) - 1
    n = len(CLASSES)
    first, second = np.full(n, 0.02), np.full(n, 0.02)
    first[k], first[(k + 1) % n] = 0.44, 0.52
    second[k], second[(k + 2) % n] = 0.52, 0.44
    return np.stack([first, second])


def ranked(k):
    return [CLASSES[k], CLASSES[(k + 1) % 4], CLASSES[(k + 2) % 4]]


@pytest.fixture
def data_dir(tmp_path):
    """Hold a folder with test/ and nothing else."""
    for stem, level in TEST_SONGS.items():
        write_level(tmp_path / "data/test" / f"{stem}.wav", level)
    return tmp_path / "data"


def run(data_dir, *options, classes=CLASSES, score=score_song, **more):
    parser = cli.make_parser(None)
    inference.add_options(parser, "task2/toy")
    args = parser.parse_args(["--data-dir", str(data_dir), "--workers", "1", *map(str, options)])
    checkpoint = data_dir.parent / "best.pt"
    if not args.audio:
        checkpoint.write_bytes(b"weights")
    return inference.run(args, data_dir.parent / "results", [checkpoint], classes, score, **more)


def written(data_dir):
    return json.loads((data_dir.parent / "results/test_predictions.json").read_text())


def test_predictions_have_the_courses_form(data_dir, capsys):
    assert run(data_dir) == 0
    predictions = written(data_dir)
    assert predictions == {stem: ranked(level) for stem, level in TEST_SONGS.items()}
    assert list(predictions) == ["001", "002", "003", "010"]
    assert "4 of 4 songs" in capsys.readouterr().out
    # What the course's grader does with it.
    answers = ["doors"] * 10
    assert [answers[int(key) - 1] == names[0] for key, names in predictions.items()] == [
        True, False, False, False
    ]  # fmt: skip


def test_the_courses_grader_takes_the_predictions(tmp_path, capsys):
    """It is written here as the design describes it, with nothing of ours."""
    n_songs = 233
    rng = np.random.default_rng(0)
    levels = rng.integers(len(CLASSES), size=n_songs)
    for number, level in enumerate(levels, start=1):
        write_level(tmp_path / "data/test" / f"{number:03}.wav", level)
    answers = [
        CLASSES[(level + shift) % 4]
        for level, shift in zip(levels, rng.integers(4, size=n_songs), strict=True)
    ]
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    assert run(tmp_path / "data", "--answers", tmp_path / "answers.json") == 0

    with (tmp_path / "results/test_predictions.json").open() as file:
        predictions = json.load(file)
    assert len(predictions) == len(answers) == n_songs
    top1 = top3 = 0
    for key, guesses in predictions.items():
        assert len(guesses) == 3
        answer = answers[int(key) - 1]
        top1 += guesses[0] == answer
        top3 += answer in guesses
    top1, top3 = top1 / len(answers), top3 / len(answers)
    assert 0.2 < top1 < 0.3
    said = capsys.readouterr().out
    assert f"top-1 {top1:.2%}, top-3 {top3:.2%}" in said
    assert f"{top1 + 0.5 * top3:.4f}\n" in said


@pytest.mark.parametrize("n_classes", [2, 3])
def test_fewer_than_three_artists_are_all_named(data_dir, n_classes):
    scores = np.linspace(0.1, 0.6, n_classes)[None]
    assert run(data_dir, classes=CLASSES[:n_classes], score=lambda _: scores) == 0
    assert written(data_dir)["001"] == CLASSES[:n_classes][::-1]


def test_a_song_is_scored_by_its_windows_mean(data_dir):
    windows = np.array([[0.6, 0.3, 0.1, 0.0], [0.0, 0.3, 0.7, 0.0], [0.1, 0.8, 0.1, 0.0]])
    run(data_dir, score=lambda _: windows)
    assert written(data_dir)["001"] == ["beatles", "cure", "abba"]


def test_workers_hand_over_what_is_asked_for(data_dir):
    sizes = []

    def score(log_mel):
        sizes.append(log_mel.nbytes)
        return np.full((1, 4), 0.25)

    run(data_dir, score=score, read_song=partial(spectrogram.load_log_mel, front_end=FrontEnd()))
    # A waveform of hours takes 230 MB an hour, and several times that on its way.
    assert max(sizes) < RATE // 2 * np.dtype(np.float32).itemsize / 8


def test_waveforms_come_at_the_rate_asked_for(data_dir):
    lengths = []

    def score(waveform):
        lengths.append((len(waveform), waveform.dtype))
        return np.full((1, 4), 0.25)

    run(data_dir, score=score, read_song=partial(audio.load, sample_rate=32_000))
    assert lengths == [(RATE // 2, np.float32)] * 4


def test_an_unreadable_song_is_named_and_left_out(data_dir, capsys):
    (data_dir / "test/002.wav").write_bytes(b"this is no music")
    (data_dir / "test/004.mp3").write_bytes(b"")
    assert run(data_dir) == 1
    assert list(written(data_dir)) == ["001", "003", "010"]
    output = capsys.readouterr().out
    assert "3 of 5 songs" in output
    left_out = [line for line in output.splitlines() if line.startswith("left out")]
    assert len(left_out) == 2
    assert "002.wav" in left_out[0]
    assert "004.mp3" in left_out[1]


def test_where_no_song_can_be_read_what_was_predicted_before_stays(data_dir):
    run(data_dir)
    before = written(data_dir)
    for song in (data_dir / "test").iterdir():
        song.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the \d test songs can be read: .*001"):
        run(data_dir)
    assert written(data_dir) == before


def test_a_long_song_that_is_lost_meanwhile_is_named_and_left_out(data_dir, monkeypatch, capsys):
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 0)

    def score(song):
        if song.path.stem == "002":
            song.path.unlink()
        return score_song(song[: len(song)])

    assert run(data_dir, score=score) == 1
    assert list(written(data_dir)) == ["001", "003", "010"]
    assert "002.wav is no file" in capsys.readouterr().out


def test_output_is_honoured(data_dir, tmp_path):
    output = tmp_path / "else/where.json"
    assert run(data_dir, "--output", output) == 0
    assert list(json.loads(output.read_text())) == ["001", "002", "003", "010"]
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("output", "scores"),
    [("test_predictions.json", "test_scores.json"), ("mine.json", "mine_scores.json")],
)
def test_all_scores_stand_beside_the_predictions(data_dir, tmp_path, output, scores):
    (data_dir / "test/002.wav").write_bytes(b"this is no music")
    assert run(data_dir, "--output", tmp_path / "out" / output) == 1
    assert {path.name for path in (tmp_path / "out").iterdir()} == {output, scores}
    test = artifacts.read_test_scores(tmp_path / "out" / scores, "x")
    assert test.classes == CLASSES
    assert test.songs == {
        key: hashlib.sha256((data_dir / f"test/{key}.wav").read_bytes()).hexdigest()
        for key in ("001", "003", "010")
    }
    assert test.checkpoints == {"results": [hashlib.sha256(b"weights").hexdigest()]}
    for key, row in zip(test.songs, test.scores["results"], strict=True):
        waveform, _ = soundfile.read(data_dir / f"test/{key}.wav", dtype="float32")
        assert row == pytest.approx(score_song(waveform).mean(axis=0), rel=1e-5)


def test_limit(data_dir):
    run(data_dir, "--limit", 2)
    assert list(written(data_dir)) == ["001", "002"]


# --- answers -----------------------------------------------------------------------------------


def put_answers(data_dir, answers):
    path = data_dir.parent / "answers.json"
    path.write_text(json.dumps(answers))
    return path


def answers_of_ten():
    """001 right; 002 second of three; 003 not among the three; 010 right; six without songs."""
    answers = ["nobody"] * 10
    answers[0], answers[1], answers[2], answers[9] = "doors", ranked(0)[1], "abba", "cure"
    return answers


def test_answers_are_graded_as_the_course_does(data_dir, capsys):
    assert ranked(1) == ["beatles", "cure", "doors"]
    assert run(data_dir, "--answers", put_answers(data_dir, answers_of_ten())) == 0
    output = capsys.readouterr().out
    # 2 and 3 of 10 answers, though only four songs are there: 0.2 + 0.5 x 0.3.
    assert "10 answers: top-1 20.00%, top-3 30.00%" in output
    assert "0.3500" in output


def test_a_song_left_out_counts_as_wrong(data_dir, capsys):
    (data_dir / "test/001.wav").write_bytes(b"")
    assert run(data_dir, "--answers", put_answers(data_dir, answers_of_ten())) == 1
    assert "top-1 10.00%, top-3 20.00%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"001": "abba"}, "no JSON list"),
        (["abba", 3], "no JSON list"),
        (["abba"] * 9, "9 answers, none of them for 010"),
    ],
)
def test_bad_answers_are_refused_before_any_work(data_dir, answers, message):
    with pytest.raises(UserError, match=message):
        run(data_dir, "--answers", put_answers(data_dir, answers), score=None)
    assert not (data_dir.parent / "results").exists()


def test_missing_and_broken_answers_are_refused(data_dir, tmp_path):
    with pytest.raises(UserError, match=r"none\.json is missing"):
        run(data_dir, "--answers", tmp_path / "none.json", score=None)
    broken = tmp_path / "broken.json"
    broken.write_text("[")
    with pytest.raises(UserError, match="no valid JSON"):
        run(data_dir, "--answers", broken, score=None)


def test_answers_for_songs_that_are_not_numbered_are_refused(data_dir):
    write_level(data_dir / "test/bonus.wav", 1)
    with pytest.raises(UserError, match="bonus"):
        run(data_dir, "--answers", put_answers(data_dir, answers_of_ten()), score=None)


# --- audio -------------------------------------------------------------------------------------


def test_audio_prints_probabilities_and_writes_nothing(tmp_path, capsys):
    song, broken = tmp_path / "my song.flac", tmp_path / "broken.mp3"
    soundfile.write(song, np.full(RATE // 4, 0.3), RATE)
    broken.write_bytes(b"no music")
    before = sorted(tmp_path.rglob("*"))
    # No data folder is needed.
    assert run(tmp_path / "none", "--audio", song, broken, tmp_path / "missing.wav") == 1
    assert sorted(tmp_path.rglob("*")) == before
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(song)
    assert [line.split() for line in lines[1:4]] == [
        ["48.0%", "cure"],
        ["27.0%", "doors"],
        ["23.0%", "abba"],
    ]
    assert [Path(line.split()[2]).name for line in lines[4:]] == ["broken.mp3", "missing.wav"]
    assert all(line.startswith("left out: ") for line in lines[4:])


def test_a_folder_without_songs_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="test is missing"):
        run(tmp_path / "none")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="holds no audio"):
        run(tmp_path)
