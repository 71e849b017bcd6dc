import csv
import hashlib
import json
import re
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import soundfile
from conftest import toy_model, toy_settings

from artist20 import UserError, audio, cli, inference, spectrogram
from artist20.checkpoints import save_model
from artist20.results import ResNetRecipe, TestScores, read_record
from artist20.spectrogram import FrontEnd

RATE = 16_000
CLASSES = ["abba", "beatles", "cure", "doors"]
TRAIN_SONGS = [3, 5, 5, 7]
GUESS = ["doors", "beatles", "cure"]  # the most training songs; of equally many the first by name
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


def make_trained(classes=CLASSES, train_songs=TRAIN_SONGS, **changes):
    trained = toy_model(toy_settings("resnet", **changes), {}, classes)
    said = {"trained_on": "toy (synthesised songs)", "val_songs": 8, "val_top1": 0.75}
    return msgspec.structs.replace(trained, train_songs=train_songs, **said)


def run(data_dir, *options, classes=CLASSES, score=score_song, folds=(TRAIN_SONGS,), **more):
    parser = cli.make_parser(None)
    inference.add_options(parser, "task2/toy")
    args = parser.parse_args(["--data-dir", str(data_dir), "--workers", "1", *map(str, options)])
    checkpoints = {}
    for i, train_songs in enumerate(folds):
        file = data_dir.parent / (f"fold-{i}.pt" if i else "best.pt")
        if not args.audio:
            file.write_bytes(b"weights")
        checkpoints[file] = make_trained(classes, train_songs[: len(classes)])
    folder = data_dir.parent / "results"

    def score_parts(song):
        scores = score(song)
        return scores if isinstance(scores, dict) else {"": scores.mean(axis=0)}

    return inference.run(args, folder, checkpoints, score_parts, **more)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


def written(data_dir):
    return json.loads((data_dir.parent / "results/test_predictions.json").read_text())


def test_predictions_have_the_courses_form(data_dir, capsys):
    assert run(data_dir) == 0
    predictions = written(data_dir)
    assert predictions == {stem: ranked(level) for stem, level in TEST_SONGS.items()}
    assert list(predictions) == ["001", "002", "003", "010"]
    found = re.search(r": 4 of 4 songs, in (\d+) s\n", capsys.readouterr().out)
    assert found and int(found[1]) < 60
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

    run(data_dir, score=score, read_song=partial(audio.open_song, sample_rate=32_000))
    assert lengths == [(RATE // 2, np.float32)] * 4


def test_a_rendition_is_heard_and_songs_are_known_by_the_data_folders_files(data_dir, tmp_path):
    for stem, level in TEST_SONGS.items():
        write_level(tmp_path / "vocals/test" / f"{stem}.aiff", (level + 1) % 4)
    (tmp_path / "vocals/test/002.aiff").write_bytes(b"")
    options = ["--audio-root", tmp_path / "vocals"]
    assert run(data_dir, *options) == 1
    heard = {stem: ranked((level + 1) % 4) for stem, level in TEST_SONGS.items()}
    assert written(data_dir) == heard | {"002": GUESS}
    test = read_record(tmp_path / "results/test_scores.json", TestScores, "x")
    assert test.songs == {
        key: hashlib.sha256((data_dir / f"test/{key}.wav").read_bytes()).hexdigest()
        for key in sorted(TEST_SONGS)
    }
    (tmp_path / "vocals/test/003.aiff").unlink()
    with pytest.raises(UserError, match="1 of 4 test songs are missing, the first is 003"):
        run(data_dir, *options)
    assert run(data_dir, *options, "--limit", 2) == 1  # 001, 002: no other is needed


@pytest.mark.parametrize(
    ("of_network", "options", "message"),
    [
        ("resnet@vocals", ["--audio-root", "x/vocals"], None),
        ("resnet", [], None),
        (
            "resnet@vocals",
            [],
            "{} was trained on vocals, not on what is to be heard: name vocals with --audio-root",
        ),
        (
            "resnet@vocals",
            ["--audio-root", "x/bass"],
            "{} was trained on vocals, not on what is to be heard: name vocals with --audio-root",
        ),
        (
            "resnet",
            ["--audio-root", "x/vocals"],
            "{} was trained on the data folder's own files, not on what is to be heard: leave "
            "--audio-root out",
        ),
    ],
)
def test_test_songs_of_another_rendition_than_the_networks_are_refused(
    tmp_path, capsys, of_network, options, message
):
    path = tmp_path / "any.pt"
    save_model(path, toy_model(toy_settings(of_network), {}, CLASSES))
    parser = cli.make_parser(None)
    inference.add_options(parser, "task2/resnet")
    args = parser.parse_args(["--checkpoint", str(path), *options])

    def read():
        folder = Path("results/task2/resnet@vocals" if options else "results/task2/resnet")
        return inference.read_checkpoints(args, folder, ResNetRecipe)

    if message:
        with pytest.raises(UserError) as caught:
            read()
        assert str(caught.value) == message.format(path)
    else:
        assert list(read()) == [path]
    capsys.readouterr()
    args.audio = ["song.mp3"]  # anybody's own
    assert list(read()) == [path]
    said = capsys.readouterr().out
    note = f"note: {path} was trained on vocals: it expects files of that rendition\n"
    assert said == (note if of_network == "resnet@vocals" else "")


def test_a_network_says_what_it_heard():
    assert "toy (synthesised songs); top-1" in inference.describe(make_trained())
    heard = toy_model(toy_settings("resnet@vocals"), {}, CLASSES)
    assert "of tiny (synthesised songs), heard in vocals; top-1" in inference.describe(heard)


def test_checkpoints_that_hear_otherwise_are_not_scored_together():
    first, same, other = Path("a.pt"), Path("b.pt"), Path("c.pt")
    alike = {first: make_trained(), same: make_trained(lr=0.5)}
    inference.check_alike(alike, "recipe.n_fft", "precision")
    with pytest.raises(UserError, match=r"^c\.pt and a\.pt differ in n_fft$"):
        inference.check_alike(
            {**alike, other: make_trained(n_fft=512)}, "precision", "recipe.n_fft"
        )


@pytest.mark.parametrize("leave_out", [False, True])
def test_an_unreadable_song_is_named_and_guessed_or_left_out(data_dir, capsys, leave_out):
    (data_dir / "test/002.wav").write_bytes(b"this is no music")
    (data_dir / "test/004.mp3").write_bytes(b"")
    options = ["--leave-out-unreadable"] if leave_out else []
    assert run(data_dir, *options) == 1
    read = {key: ranked(TEST_SONGS[key]) for key in ("001", "003", "010")}
    guesses = {} if leave_out else {"002": GUESS, "004": GUESS}
    assert written(data_dir) == read | guesses
    output = capsys.readouterr().out
    assert f"{3 if leave_out else 5} of 5 songs" in output
    said = "left out: " if leave_out else "guessed: "
    named = [line for line in output.splitlines() if line.startswith(said)]
    assert len(named) == 2
    assert "002.wav cannot be decoded" in named[0]
    assert "004.mp3 is empty" in named[1]
    assert ("2 of 5 predictions are guesses" in output) == (not leave_out)

    test = read_record(data_dir.parent / "results/test_scores.json", TestScores, "x")
    keys = sorted(read | guesses)
    assert list(test.songs) == keys
    assert list(test.guessed) == list(guesses)
    for key in guesses:
        shares = test.scores["results"][keys.index(key)]
        assert shares == pytest.approx([3 / 20, 5 / 20, 5 / 20, 7 / 20])
    if not leave_out:
        assert test.guessed["004"] == "is empty"
        assert test.songs["004"] == hashlib.sha256(b"").hexdigest()


def test_guesses_are_of_all_checkpoints_training_songs(data_dir):
    (data_dir / "test/002.wav").write_bytes(b"")
    assert run(data_dir, folds=[[9, 0, 0, 1], [0, 0, 8, 3]]) == 1
    assert written(data_dir)["002"] == ["abba", "cure", "doors"]


def test_a_grader_that_looks_every_key_up_does_not_crash(data_dir):
    (data_dir / "test/010.wav").unlink()
    for i in range(4, 11):
        (data_dir / f"test/{i:03}.mp3").write_bytes(b"lost")
    run(data_dir)
    predictions = written(data_dir)
    assert [len(predictions[f"{i:03}"]) for i in range(1, 11)] == [3] * 10


def test_where_no_song_can_be_read_what_was_predicted_before_stays(data_dir):
    run(data_dir)
    before = written(data_dir)
    for song in (data_dir / "test").iterdir():
        song.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the \d test songs can be read: .*001"):
        run(data_dir)
    assert written(data_dir) == before


def test_a_long_song_that_is_lost_meanwhile_is_named_and_guessed(data_dir, monkeypatch, capsys):
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 0)

    def score(song):
        if song.path.stem == "002":
            song.path.unlink()
        return score_song(song[: len(song)])

    assert run(data_dir, score=score) == 1
    assert written(data_dir)["002"] == GUESS
    assert "002.wav is no file" in capsys.readouterr().out


def test_output_is_honoured(data_dir, tmp_path):
    output = tmp_path / "else/where.json"
    assert run(data_dir, "--output", output) == 0
    assert list(json.loads(output.read_text())) == ["001", "002", "003", "010"]
    assert not (tmp_path / "results").exists()


def test_scores_of_a_networks_parts_stand_beside_its_own(data_dir, tmp_path):
    def score(song):
        of_windows = score_song(song)
        return {"": of_windows.mean(axis=0), ":convolutions": of_windows[0]}

    assert run(data_dir, score=score) == 0
    test = read_record(tmp_path / "results/test_scores.json", TestScores, "x")
    assert list(test.scores) == ["results", "results:convolutions"]
    assert test.checkpoints["results"] == test.checkpoints["results:convolutions"]
    right = [CLASSES[i] for i in test.scores["results"].argmax(axis=1)]
    alone = [CLASSES[i] for i in test.scores["results:convolutions"].argmax(axis=1)]
    assert right == [best for best, *_ in written(data_dir).values()] != alone


@pytest.mark.parametrize(
    ("output", "scores"),
    [("test_predictions.json", "test_scores.json"), ("mine.json", "mine_scores.json")],
)
def test_all_scores_stand_beside_the_predictions(data_dir, tmp_path, output, scores):
    assert run(data_dir, "--output", tmp_path / "out" / output) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {output, scores}
    test = read_record(tmp_path / "out" / scores, TestScores, "x")
    assert test.classes == CLASSES
    assert test.songs == {
        key: hashlib.sha256((data_dir / f"test/{key}.wav").read_bytes()).hexdigest()
        for key in sorted(TEST_SONGS)
    }
    assert test.guessed == {}
    assert test.checkpoints == {"results": [hashlib.sha256(b"weights").hexdigest()]}
    for key, row in zip(test.songs, test.scores["results"], strict=True):
        waveform, _ = soundfile.read(data_dir / f"test/{key}.wav", dtype="float32")
        assert row == pytest.approx(score_song(waveform).mean(axis=0), rel=1e-5)


# --- nothing is lost ---------------------------------------------------------------------------


def test_limit_writes_beside_the_predictions_of_all_songs(data_dir, capsys):
    run(data_dir)
    before = contents(data_dir.parent / "results")
    run(data_dir, "--limit", 2)
    after = contents(data_dir.parent / "results")
    few = after.pop("test_predictions_first_2.json"), after.pop("test_scores_first_2.json")
    assert after == before
    assert list(json.loads(few[0])) == list(json.loads(few[1])["songs"]) == ["001", "002"]
    said = capsys.readouterr().out
    assert (
        "test_predictions_first_2.json and test_scores_first_2.json: 2 of the first 2 of 4" in said
    )
    # A limit beyond their number is none.
    run(data_dir, "--limit", 4)
    assert contents(data_dir.parent / "results").keys() == before.keys() | {
        "test_predictions_first_2.json", "test_scores_first_2.json"
    }  # fmt: skip


@pytest.mark.parametrize("kept", ["mine.json", "mine_scores.json"])
def test_a_file_with_more_songs_is_refused_before_any_work(data_dir, tmp_path, kept):
    output = ["--output", tmp_path / "out/mine.json"]
    run(data_dir, *output)
    before = {kept: contents(tmp_path / "out")[kept]}
    for name in {"mine.json", "mine_scores.json"} - {kept}:
        (tmp_path / "out" / name).unlink()
    with pytest.raises(UserError, match=rf"{kept} holds 4 songs; 2 .*003, are not .* 2 of this"):
        run(data_dir, *output, "--limit", 2, score=None)
    assert contents(tmp_path / "out") == before
    assert run(data_dir, *output) == 0  # all of them may be written anew


def test_a_file_with_other_songs_is_refused_without_a_limit_too(data_dir):
    run(data_dir)
    before = contents(data_dir.parent / "results")
    (data_dir / "test/010.wav").rename(data_dir / "test/011.wav")
    with pytest.raises(UserError, match="such as 010, are not among the 4 of this run"):
        run(data_dir, score=None)
    assert contents(data_dir.parent / "results") == before


@pytest.mark.parametrize("content", [b"RIFF", b"[1]"])
def test_what_is_no_predictions_file_is_not_written_over(data_dir, tmp_path, content):
    (tmp_path / "song.mp3").write_bytes(content)
    with pytest.raises(UserError, match=r"song\.mp3 is there, and holds no predictions"):
        run(data_dir, "--output", tmp_path / "song.mp3", score=None)
    assert (tmp_path / "song.mp3").read_bytes() == content


# --- where the songs are -------------------------------------------------------------------------


def test_songs_in_the_data_folder_itself_are_the_test_songs(data_dir, capsys):
    expected = ranked(TEST_SONGS["001"])
    for song in (data_dir / "test").iterdir():
        song.rename(data_dir / song.name)
    (data_dir / "test").rmdir()
    assert run(data_dir) == 0
    assert written(data_dir)["001"] == expected
    assert len(written(data_dir)) == 4
    said = capsys.readouterr().out
    assert f"test is not there: the test songs are those in {data_dir} itself" in said


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
    answers = ["--answers", put_answers(data_dir, answers_of_ten())]
    assert run(data_dir, *answers, "--leave-out-unreadable") == 1
    assert "top-1 10.00%, top-3 20.00%" in capsys.readouterr().out


def test_of_the_first_songs_alone_these_are_graded(data_dir, capsys):
    answers = ["--answers", put_answers(data_dir, answers_of_ten())]
    run(data_dir, *answers, "--limit", 2)
    # 001 is right, 002 is second.
    said = "2 answers, of the first 2 of 4 songs: top-1 50.00%, top-3 100.00%, course"
    assert said in capsys.readouterr().out


def test_answers_are_matched_in_any_case_with_spaces_and_other_unicode(data_dir, capsys):
    composed, apart = "bj\u00f6rk", "bjo\u0308rk"
    classes = ["abba", apart, "cure", "doors"]
    answers = [" Doors\n", composed.title(), "abba", *["nobody"] * 6, "CURE"]
    options = ["--answers", put_answers(data_dir, answers)]
    run(data_dir, *options, classes=classes)
    said = capsys.readouterr().out
    assert "top-1 20.00%, top-3 30.00%" in said  # as of answers_of_ten()
    assert "3 of 10 answers are spelled otherwise" in said
    assert "the first ' Doors\\n': taken for 'doors'" in said


def test_artists_that_differ_in_case_alone_are_matched_as_spelled():
    classes = ["ABBA", "abba", "cure"]
    assert inference.match_answers(["abba", "ABBA", "Abba"], classes) == ["abba", "ABBA", "Abba"]


def test_answers_that_the_model_does_not_know_are_listed(data_dir, capsys):
    answers = answers_of_ten()
    answers[4] = "zz top"
    run(data_dir, "--answers", put_answers(data_dir, answers))
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "no artists" in line)
    assert "6 of 10 answers are no artists of the model" in line
    assert line.endswith("'nobody', 'zz top'")


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
    with pytest.raises(UserError, match=r"broken\.json is no JSON list of artist names"):
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
    about, *lines = capsys.readouterr().out.splitlines()
    assert "trained on 20 songs of 4 artists of toy (synthesised songs)" in about
    assert "top-1 75.0% on 8 validation songs, on which its epoch was chosen" in about
    assert lines[0] == str(song)
    assert [line.split() for line in lines[1:4]] == [
        ["48.0%", "cure"],
        ["27.0%", "doors"],
        ["23.0%", "abba"],
    ]
    assert [Path(line.split()[3]).name for line in lines[4:]] == ["broken.mp3", "missing.wav"]
    assert all(line.startswith("cannot be named: ") for line in lines[4:])


@pytest.fixture
def music(tmp_path):
    """Hold a collection, as it is found."""
    music = tmp_path / "music"
    for i, name in enumerate(("b/2/x.wav", "b/1/y.wav", "a.wav", "b/z.wav")):
        write_level(music / name, i % 4)
    for name in ("b/.hidden.wav", ".trash/a.wav", "@eaDir/a.wav", "b/__MACOSX/a.wav"):
        write_level(music / name, 0)
    for name in ("b/cover.JPG", "b/1/cover.jpg", "b/notes.txt", "b/README"):
        (music / name).write_text("no music")
    (music / "b/1/circle").symlink_to(music)
    return music


def test_audio_takes_folders(music, tmp_path, capsys):
    assert run(tmp_path / "none", "--audio", music) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [Path(line).relative_to(music) for line in lines if line.startswith(str(music))]
    assert list(map(str, named)) == ["a.wav", "b/1/y.wav", "b/2/x.wav", "b/z.wav"]
    (note,) = (line for line in lines if line.startswith("note: "))
    assert note.endswith("2 .jpg, 1 without suffix, 1 .txt; the first is cover.jpg")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("~/music/*/*.wav", ["b/z.wav"]),
        ("~/music/**/*.wav", ["a.wav", "b/1/y.wav", "b/2/x.wav", "b/z.wav"]),
        ("~/music/b/[12]", ["b/1/y.wav", "b/2/x.wav"]),
        ("~/music/@eaDir/*", ["@eaDir/a.wav"]),  # asked for by name
        ("~/music/a.wav", ["a.wav"]),
    ],
)
def test_audio_takes_patterns(music, pattern, found, monkeypatch):
    monkeypatch.setenv("HOME", str(music.parent))
    (music / "b/1/circle").unlink()
    assert inference.find_audio([pattern, pattern]) == [music / name for name in found]


def test_a_file_is_its_name_whatever_that_looks_like(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("~song.wav", "song [live].wav"):
        write_level(tmp_path / name, 1)
        assert inference.find_audio([name]) == [Path(name)]


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("https://example.org/song.mp3", "URL: download the song first"),
        ("HTTP://example.org", "URL: download the song first"),
        ("empty", "empty: no audio files"),
        ("*.txt", "no audio files"),
        ("*.mp3", "no audio files are there"),
    ],
)
def test_audio_that_cannot_be_is_a_line_before_any_work(tmp_path, monkeypatch, named, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no music")
    with pytest.raises(UserError, match=message):
        run(tmp_path / "none", "--audio", named, score=None)


@pytest.mark.parametrize("suffix", [".csv", ".json", ".CSV"])
def test_audio_writes_a_table(music, tmp_path, capsys, suffix):
    (music / "c.mp3").write_bytes(b"no music")
    output = tmp_path / f"out/artists{suffix}"
    assert run(tmp_path / "none", "--audio", music, "--output", output) == 1
    if suffix == ".json":
        rows = json.loads(output.read_text())
        assert rows[-1]["artist_1"] is None
    else:
        with output.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert rows[-1]["artist_1"] == ""
    columns = [f"{what}_{i}" for i in (1, 2, 3) for what in ("artist", "probability")]
    assert list(rows[0]) == ["file", *columns]
    assert [Path(row["file"]).name for row in rows] == ["a.wav", "y.wav", "x.wav", "z.wav", "c.mp3"]
    assert [rows[0][f"artist_{i}"] for i in (1, 2, 3)] == ranked(2)
    assert [float(rows[0][f"probability_{i}"]) for i in (1, 2, 3)] == [0.48, 0.27, 0.23]
    assert f"wrote {output}: 4 of 5 songs" in capsys.readouterr().out
    assert list(output.parent.iterdir()) == [output]
    # What was written before is not replaced by nothing.
    before = output.read_bytes()
    assert run(tmp_path / "none", "--audio", music / "c.mp3", "--output", output) == 1
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "artists.txt"], r"artists\.txt: --audio writes \.csv or \.json"),
        (["--output", "test_predictions.json"], "no table of --audio"),
        (["--output", "answers.json"], "no table of --audio"),
        (["--output", "notes.csv"], "no table of --audio"),
        (["--output", "files.json"], "no table of --audio"),
        (["--limit", 1], "--limit is for the test songs"),
        (["--answers", "answers.json"], "--answers is for the test songs"),
        (["--leave-out-unreadable"], "--leave-out-unreadable is for the test songs"),
    ],
)
def test_options_that_do_not_go_with_audio(music, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_predictions.json").write_text("{}")
    (tmp_path / "answers.json").write_text('["artist"]')
    (tmp_path / "notes.csv").write_text("song,remark\n")
    (tmp_path / "files.json").write_text('[{"file": "a.py", "lines": 3}]')
    with pytest.raises(UserError, match=message):
        run(tmp_path / "none", "--audio", music, *options, score=None)


def test_a_checkpoint_of_the_midst_of_an_epoch_says_that_it_was_not_measured():
    midst = msgspec.structs.replace(make_trained(), val_top1=None)
    assert "how often it is right is not known" in inference.describe(midst)
    told = inference.describe(make_trained(select=False))
    assert told.endswith("top-1 75.0% on 8 validation songs")


def test_a_long_song_that_is_read_twice_has_its_notes_once(tmp_path, monkeypatch, recwarn):
    """The worker has said it: where the song is decoded again for its score, nothing is said."""
    monkeypatch.setattr(audio, "WHOLE_BLOCKS", 0)
    soundfile.write(tmp_path / "silence.wav", np.zeros(3 * 44_100), 44_100)

    def score(song):
        assert len(song[: len(song)]) == 3 * RATE
        return np.full((1, 4), 0.25)

    assert run(tmp_path / "none", "--audio", tmp_path / "silence.wav", score=score) == 0
    assert not [warning for warning in recwarn if warning.category is audio.AudioNote]


def test_a_folder_without_songs_is_a_mistake(tmp_path):
    with pytest.raises(UserError, match="test is missing"):
        run(tmp_path / "none")
    (tmp_path / "test").mkdir()
    with pytest.raises(UserError, match="holds no audio"):
        run(tmp_path)
