"""Songs -> ranked artists: what both inference scripts share."""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from artist20 import UserError, artifacts, audio, cli, dataset, evaluation
from artist20.store import map_songs

TOP = 3  # artists per song in the course's form


def add_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options of an inference script whose model's files lie in ``folder``."""
    cli.add_data_options(parser, limit="only the first N test songs, for a quick try")
    cli.add_compute_options(parser)
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
        "--output",
        type=Path,
        help=f"predictions file (default: RESULTS_DIR/{folder}/test_predictions.json)",
    )
    parser.add_argument(
        "--answers",
        type=Path,
        help="JSON list of the test songs' artists: print top-1, top-3 and the course's score",
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
    classes: list[str],
    score_song: Callable[[np.ndarray], np.ndarray],
    sample_rate: int = audio.SAMPLE_RATE,
) -> int:
    """Name the artists of the test songs, or of the files given with --audio.

    Parameters
    ----------
    args : argparse.Namespace
        With the options of :func:`add_options`.
    folder : Path
        The model's results folder.
    classes : list of str
        The artists, in the order of the scores.
    score_song : callable
        Waveform at ``sample_rate`` -> (n_windows, n_classes) probabilities.
    sample_rate : int
        In Hz.

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
        test_songs = dataset.read_test(args.data_dir)
        answers = _read_answers(args.answers, test_songs) if args.answers else None
        files = dict(list(test_songs.items())[: args.limit])
    probabilities: dict[str, np.ndarray] = {}
    problems = []
    load = partial(audio.load, sample_rate=sample_rate)
    results = map_songs(list(files.values()), load, workers=args.workers, label="songs")
    for key, waveform in zip(files, results, strict=True):
        if isinstance(waveform, audio.AudioError):
            problems.append(str(waveform))
        else:
            probabilities[key] = score_song(waveform).mean(axis=0)
    best = {
        key: evaluation.top_k(scores[None], TOP)[0].tolist()
        for key, scores in probabilities.items()
    }

    if args.audio:
        for key, ranked in best.items():
            print(key)
            for i in ranked:
                print(f"  {probabilities[key][i]:6.1%}  {classes[i]}")
    else:
        predictions = {key: [classes[i] for i in ranked] for key, ranked in best.items()}
        output = args.output or folder / "test_predictions.json"
        artifacts.write_test_predictions(output, predictions)
        seconds = time.monotonic() - started
        print(f"wrote {output}: {len(predictions)} of {len(files)} songs, in {seconds:.0f} s")
        if answers is not None:
            if len(predictions) < len(answers):
                print(
                    f"{len(answers) - len(predictions)} songs without a prediction count as wrong"
                )
            top1, top3 = evaluation.grade(predictions, answers)
            score = evaluation.course_score(top1, top3)
            print(
                f"{len(answers)} answers: top-1 {top1:.2%}, top-3 {top3:.2%}, "
                f"course score (top-1 + 0.5 x top-3) {score:.4f}"
            )
    for problem in problems:
        print(f"left out: {problem}")
    return 1 if problems else 0


def _read_answers(path: Path, files: dict[str, Path]) -> list[str]:
    """Read the answers before any work begins, and check that every song has one."""
    if not path.is_file():
        raise UserError(f"{path} is missing: --answers takes a JSON list of artist names")
    answers = artifacts.read_json(path, "the program that wrote it")
    if not isinstance(answers, list) or not all(isinstance(name, str) for name in answers):
        raise UserError(f"{path} is no JSON list of artist names")
    for key, file in files.items():
        if not (key.isascii() and key.isdigit() and 1 <= int(key) <= len(answers)):
            raise UserError(f"{path} has {len(answers)} answers, none of them for {file.name}")
    return answers
