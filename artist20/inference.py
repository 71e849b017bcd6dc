"""Test songs -> ranked artists: what all that name them share."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from artist20 import UserError, artifacts, audio, cli, dataset, evaluation, printable
from artist20.artifacts import TestScores
from artist20.store import map_songs

TOP = 3  # artists per song in the course's form
ANOTHER_CHECKPOINT = ", or name another with --checkpoint"


def add_test_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options of whatever names test songs with a model whose files lie in ``folder``."""
    cli.add_data_options(parser, limit="only the first N test songs, for a quick try")
    cli.add_compute_options(parser)
    parser.add_argument(
        "--output",
        type=Path,
        help=f"predictions file (default: RESULTS_DIR/{folder}/test_predictions.json); "
        "all scores are written beside it",
    )
    parser.add_argument(
        "--answers",
        type=Path,
        help="JSON list of the test songs' artists: print top-1, top-3 and the course's score",
    )


def add_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options of an inference script whose network's files lie in ``folder``."""
    add_test_options(parser, folder)
    cli.add_precision_option(parser)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="trained model, or several whose probabilities are averaged (default: "
        f"RESULTS_DIR/{folder}/best.pt)",
    )
    parser.add_argument(
        "--audio",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="name the artists of these files, instead of the test songs; writes nothing",
    )


def run(
    args: argparse.Namespace,
    folder: Path,
    checkpoints: Sequence[Path],
    classes: list[str],
    score_song: Callable[[Any], np.ndarray],
    read_song: Callable[[Path], Any] = audio.open_song,
) -> int:
    """Name the artists of the test songs, or of the files given with --audio.

    Parameters
    ----------
    args : argparse.Namespace
        With the options of :func:`add_options`.
    folder : Path
        The network's results folder, which has its name.
    checkpoints : sequence of Path
        What ``score_song`` was made of.
    classes : list of str
        The artists, in the order of the scores.
    score_song : callable
        What ``read_song`` returned -> (n_windows, n_classes) probabilities.
    read_song : callable
        File -> what ``score_song`` takes, in worker processes.

    Returns
    -------
    int
        Exit status: 1 if a file could not be read (all others are done), else 0.
    """
    started = time.monotonic()
    if args.audio:
        if args.answers or args.output:
            raise UserError(
                "--audio writes nothing and grades nothing: leave out --answers, --output"
            )
        files = {str(file): file for file in args.audio}
    else:
        files, answers = read_test(args)
    probabilities: dict[str, np.ndarray] = {}
    problems = []
    songs = map_songs(list(files.values()), read_song, workers=args.workers, label="songs")
    for key, song in zip(files, songs, strict=True):
        try:
            if isinstance(song, audio.AudioError):
                raise song
            probabilities[key] = score_song(song).mean(axis=0)
        except audio.AudioError as error:  # a long song is read again as it is scored
            problems.append(str(error))

    if not args.audio:
        if not probabilities:
            raise UserError(f"none of the {len(files)} test songs can be read: {problems[0]}")
        test = TestScores(
            classes,
            {key: artifacts.sha256_file(files[key]) for key in probabilities},
            {folder.name: [artifacts.sha256_file(path) for path in checkpoints]},
            {folder.name: np.array(list(probabilities.values()))},
        )
        output = args.output or folder / "test_predictions.json"
        return finish(output, test, folder.name, answers, len(files), problems, started)
    for key, scores in probabilities.items():
        print(printable(key))
        for i in evaluation.top_k(scores[None], TOP)[0]:
            print(f"  {scores[i]:6.1%}  {classes[i]}")
    return _left_out(problems)


def read_test(args: argparse.Namespace) -> tuple[dict[str, Path], list[str] | None]:
    """Find the test songs, and read their answers, if there are any, before any work begins.

    Parameters
    ----------
    args : argparse.Namespace
        With the options of :func:`add_test_options`.

    Returns
    -------
    files : dict of str to Path
        The first --limit songs by their keys.
    answers : list of str or None
        What --answers holds.

    Raises
    ------
    UserError
        If there are no songs, or a song has no answer.
    """
    songs = dataset.read_test(args.data_dir)
    answers = _read_answers(args.answers, songs) if args.answers else None
    return dict(list(songs.items())[: args.limit]), answers


def finish(
    output: Path,
    test: TestScores,
    name: str,
    answers: list[str] | None,
    n_songs: int,
    problems: list[str],
    started: float,
) -> int:
    """Write predictions and, beside them, all scores; grade them where there are answers.

    Parameters
    ----------
    output : Path
        Predictions file; the scores' is :func:`scores_file`.
    test : TestScores
        What was found.
    name : str
        The model of ``test`` whose predictions are written.
    answers : list of str or None
        The test songs' artists.
    n_songs : int
        How many songs there are.
    problems : list of str
        A line for each of them that could not be read.
    started : float
        ``time.monotonic()`` at the start.

    Returns
    -------
    int
        Exit status: 1 if a file could not be read, else 0.
    """
    predictions = rank(test.classes, list(test.songs), test.scores[name])
    artifacts.write_test_scores(scores_file(output), test)
    artifacts.write_test_predictions(output, predictions)
    seconds = time.monotonic() - started
    print(
        f"wrote {output} and {scores_file(output).name}: {len(predictions)} of {n_songs} songs, "
        f"in {seconds:.0f} s"
    )
    if answers is not None:
        if len(predictions) < len(answers):
            print(f"{len(answers) - len(predictions)} songs without a prediction count as wrong")
        top1, top3 = evaluation.grade(predictions, answers)
        score = evaluation.course_score(top1, top3)
        print(
            f"{len(answers)} answers: top-1 {top1:.2%}, top-3 {top3:.2%}, "
            f"course score (top-1 + 0.5 x top-3) {score:.4f}"
        )
    return _left_out(problems)


def scores_file(output: Path) -> Path:
    """Name the file of all scores: ``test_scores.json`` beside ``test_predictions.json``."""
    return output.with_name(f"{output.stem.removesuffix('_predictions')}_scores.json")


def rank(classes: list[str], keys: Sequence[str], scores: np.ndarray) -> dict[str, list[str]]:
    """Name every song's best artists, best first: (n_songs, n_classes) -> the course's form."""
    best = evaluation.top_k(scores, TOP) if len(scores) else []
    return {key: [classes[i] for i in ranked] for key, ranked in zip(keys, best, strict=True)}


def _left_out(problems: list[str]) -> int:
    for problem in problems:
        print(f"left out: {problem}")
    return 1 if problems else 0


def _read_answers(path: Path, files: dict[str, Path]) -> list[str]:
    """Read the answers, and check that every song has one."""
    if not path.is_file():
        raise UserError(f"{path} is missing: --answers takes a JSON list of artist names")
    answers = artifacts.read_json(path, "the program that wrote it")
    if not isinstance(answers, list) or not all(isinstance(name, str) for name in answers):
        raise UserError(f"{path} is no JSON list of artist names")
    for key, file in files.items():
        if not (key.isascii() and key.isdigit() and 1 <= int(key) <= len(answers)):
            raise UserError(f"{path} has {len(answers)} answers, none of them for {file.name}")
    return answers
