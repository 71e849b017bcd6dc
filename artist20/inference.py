"""Test songs -> ranked artists: code shared by all inference scripts."""

import argparse
import glob
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from artist20 import UserError, audio, cli, dataset, evaluation, naming, printable, results
from artist20.cache import map_songs
from artist20.checkpoints import TrainedModel, load_model
from artist20.evaluation import Scores
from artist20.files import parse_json, read_text, sha256_file, write_csv, write_json
from artist20.results import ResNetRecipe, TestScores, TransferRecipe

TOP = 3  # artists per song in the course's form
TABLES = (".csv", ".json")  # what --audio can write

# By the keys of files their scores, each (n_classes,), and what is wrong with the others.
Scored = tuple[dict[str, Scores], dict[str, str]]

# How the names of a network's scripts end, by the kind of its recipe.
ENDINGS = {TransferRecipe: "", ResNetRecipe: "_wo_pretrain"}


@dataclass(frozen=True)
class TestSongs:
    """The test songs of a run, and where their predictions go."""

    __test__ = False  # for pytest, which collects by name

    classes: list[str]  # the model's artists
    own: dict[str, Path]  # those to be named, by their keys: the data folder's own files
    files: dict[str, Path]  # what is heard of them: these, or those of --audio-root
    n_all: int  # how many there are: more with --limit
    answers: list[str] | None  # the artists of all test songs
    output: Path  # predictions file; that of all scores is :func:`scores_file`

    @property
    def are_all(self) -> bool:
        """Whether --limit leaves none out."""
        return len(self.files) == self.n_all

    @property
    def described(self) -> str:
        """How many songs these are, in words."""
        n = len(self.files)
        return f"{n} songs" if self.are_all else f"the first {n} of {self.n_all} songs"


# --- options -----------------------------------------------------------------------------------


def add_test_options(parser: argparse.ArgumentParser, folder: str) -> None:
    """Add the options of whatever names test songs with a model whose files lie in ``folder``."""
    cli.add_data_options(
        parser,
        limit="only the first N test songs, for a quick try; they go to "
        "test_predictions_first_N.json",
    )
    cli.add_audio_root_option(parser)
    cli.add_compute_options(parser)
    parser.add_argument(
        "--output",
        type=cli.output_file,
        help=f"predictions file (default: RESULTS_DIR/{folder}/test_predictions.json); "
        "all scores are written beside it",
    )
    parser.add_argument(
        "--answers",
        type=Path,
        help="JSON list of the test songs' artists: print top-1, top-3 and the course's score",
    )
    parser.add_argument(
        "--leave-out-unreadable",
        action="store_true",
        help="leave test songs that cannot be read out of the predictions, in place of guessing "
        "the artists with the most training songs",
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
        nargs="+",
        metavar="FILE",
        help="name the artists of these files, of all songs in these folders, or of what a quoted "
        "pattern such as '~/Music/*/*.mp3' matches, instead of the test songs; writes a table if "
        "--output names a .csv or .json",
    )


# --- checkpoints -------------------------------------------------------------------------------


def read_checkpoints(
    args: argparse.Namespace, folder: Path, kind: type[TransferRecipe] | type[ResNetRecipe]
) -> dict[Path, TrainedModel]:
    """Read the checkpoints of --checkpoint, or ``best.pt`` of the network's results folder.

    Raises
    ------
    UserError
        If one is missing, broken, of another kind of recipe or version, or knows other artists; if
        it was trained on another rendition than the test songs to be heard are of.
    """
    options = naming.network_options(folder.name, args.audio_root)
    script = f"task2_train{ENDINGS[kind]}.py{options}"
    heard = naming.rendition_name(args.audio_root)
    checkpoints: dict[Path, TrainedModel] = {}
    for path in args.checkpoint or [folder / "best.pt"]:
        trained = load_model(path, TrainedModel, script, ", or name another with --checkpoint")
        other = ENDINGS[type(trained.settings.recipe)]
        if other != ENDINGS[kind]:
            raise UserError(
                f"{path}: this is a checkpoint of task2_train{other}.py: use "
                f"task2_inference{other}.py"
            )
        checkpoints[path] = trained
        first = next(iter(checkpoints))
        if trained.classes != checkpoints[first].classes:
            raise UserError(f"{path} and {first} know different artists")
        _check_rendition(path, trained, heard, bool(args.audio))
    return checkpoints


def _check_rendition(path: Path, trained: TrainedModel, heard: str | None, any_audio: bool) -> None:
    """Refuse to score another rendition of the test songs than a network learnt from."""
    learnt = trained.settings.heard
    if any_audio:
        if learnt:
            print(f"note: {path} was trained on {learnt}: it expects files of that rendition")
    elif learnt != heard:
        where = f"on {learnt}" if learnt else "on the data folder's own files"
        remedy = f"name {learnt} with --audio-root" if learnt else "leave --audio-root out"
        raise UserError(f"{path} was trained {where}, not on what is to be heard: {remedy}")


def check_alike(checkpoints: Mapping[Path, TrainedModel], *names: str) -> None:
    """Refuse checkpoints that cannot be scored together: their settings of these names differ."""
    first, of_first = next(iter(checkpoints.items()))
    for path, trained in checkpoints.items():
        for name in names:
            value = attrgetter(name)
            if value(trained.settings) != value(of_first.settings):
                raise UserError(f"{path} and {first} differ in {name.rpartition('.')[2]}")


def describe(trained: TrainedModel) -> str:
    """Describe in a line what a network was trained on, and how often it is right."""
    text = (
        f"trained on {sum(trained.train_songs)} songs of {len(trained.classes)} artists of "
        f"{trained.trained_on}"
    )
    if trained.settings.heard:
        text += f", heard in {trained.settings.heard}"
    if trained.val_top1 is None:
        return f"{text}; how often it is right is not known: it is of the midst of an epoch"
    chosen = ", on which its epoch was chosen" if trained.settings.recipe.select else ""
    return f"{text}; top-1 {trained.val_top1:.1%} on {trained.val_songs} validation songs{chosen}"


# --- a network's run ---------------------------------------------------------------------------


def run(
    args: argparse.Namespace,
    folder: Path,
    checkpoints: Mapping[Path, TrainedModel],
    score_song: Callable[[Any], Scores],
    read_song: Callable[[Path], Any] = audio.open_song,
) -> int:
    """Name the artists of the test songs, or of the files given with --audio.

    ``folder`` is the network's results folder, which has its name; ``score_song`` was made of the
    ``checkpoints``: it takes what ``read_song`` returned of a file, in a worker process, and gives
    the song's (n_classes,) probabilities, averaged over them, and those of the network's parts. The
    exit status is 1 if a file could not be read (all others are done), else 0.
    """
    started = time.monotonic()
    classes = next(iter(checkpoints.values())).classes
    for path, trained in checkpoints.items():
        print(f"{path}: {describe(trained)}")

    def score(files: Mapping[str, Path]) -> Scored:
        probabilities, reasons = {}, {}
        songs = map_songs(list(files.values()), read_song, workers=args.workers, label="songs")
        for key, song in zip(files, songs, strict=True):
            try:
                if isinstance(song, audio.AudioError):
                    raise song
                probabilities[key] = score_song(song)
            except audio.AudioError as error:  # a long song is read again as it is scored
                reasons[key] = error.reason
        return probabilities, reasons

    if args.audio:
        return _name_files(args, classes, score)
    songs = read_test(args, folder, classes)
    probabilities, reasons = score(songs.files)
    check_some_are_read(songs, reasons)
    scores = {
        folder.name + part: np.array([of_song[part] for of_song in probabilities.values()])
        for part in next(iter(probabilities.values()))
    }
    made_of = [sha256_file(path) for path in checkpoints]
    hashes = {name: made_of for name in scores}
    n_train = np.sum([trained.train_songs for trained in checkpoints.values()], axis=0)
    return finish(args, songs, scores, hashes, folder.name, reasons, n_train, started)


# --- test songs --------------------------------------------------------------------------------


def read_test(args: argparse.Namespace, folder: Path, classes: list[str]) -> TestSongs:
    """Find the test songs, and read their answers, if there are any, before any work begins.

    Predictions go to ``folder`` without --output; answers are matched with the model's ``classes``.

    Raises
    ------
    UserError
        If there are no songs, a song has no answer, or predictions of other songs would be lost.
    """
    found = dataset.read_test(args.data_dir)
    answers = match_answers(read_answers(args.answers, found), classes) if args.answers else None
    own = dict(list(found.items())[: args.limit])
    files = dataset.heard_test_songs(own, args.audio_root)
    ending = f"_first_{len(files)}" if len(files) < len(found) else ""
    output = args.output or folder / f"test_predictions{ending}.json"
    for path in (output, scores_file(output)):
        _check_none_is_lost(path, files)
    return TestSongs(classes, own, files, len(found), answers, output)


def _check_none_is_lost(path: Path, files: Mapping[str, Path]) -> None:
    """Refuse to write over a file that holds other songs than these."""
    if not path.is_file():
        return
    try:
        held = parse_json(path.read_bytes(), dict[str, msgspec.Raw])
        if "songs" in held:  # a file of scores
            held = parse_json(held["songs"], dict[str, msgspec.Raw])
    except ValueError:
        raise UserError(
            f"{path} is there, and holds no predictions: name another with --output"
        ) from None
    more = [key for key in held if key not in files]
    if more:
        raise UserError(
            f"{path} holds {len(held)} songs; {len(more)} of them, such as {printable(more[0])}, "
            f"are not among the {len(files)} of this run: name another file with --output"
        )


def check_some_are_read(songs: TestSongs, reasons: Mapping[str, str]) -> None:
    """Refuse to guess all songs; ``reasons`` say why some cannot be read, by key."""
    if len(reasons) == len(songs.files):
        key, reason = next(iter(reasons.items()))
        raise UserError(
            f"none of the {len(reasons)} test songs can be read: {printable(songs.files[key])} "
            f"{reason}"
        )


def finish(
    args: argparse.Namespace,
    songs: TestSongs,
    scores: dict[str, np.ndarray],
    checkpoints: dict[str, list[str]],
    name: str,
    reasons: dict[str, str],
    n_train: np.ndarray,
    started: float,
) -> int:
    """Write predictions and, beside them, all scores; grade them where there are answers.

    ``scores`` are (n_read, n_classes) by model, of which ``name`` is the one whose predictions are
    written; ``checkpoints`` are those of :class:`~artist20.results.TestScores`. Songs that could
    not be read, by key for ``reasons``, have the artists' shares of the ``n_train`` training songs,
    (n_classes,), as scores. ``started`` is ``time.monotonic()`` at the start; the exit status is 1
    if a song could not be read, else 0.
    """
    keys, guessed = list(songs.files), reasons
    if args.leave_out_unreadable:
        keys, guessed = [key for key in keys if key not in reasons], {}
    read = [key not in reasons for key in keys]

    def with_guesses(of_read: np.ndarray) -> np.ndarray:
        rows = np.tile(n_train / n_train.sum(), (len(keys), 1))
        rows[read] = of_read
        return rows

    test = TestScores(
        classes=songs.classes,
        # Of the data folder's own files: alike for models of all renditions.
        songs={key: dataset.content_key(songs.own[key]) for key in keys},
        checkpoints=checkpoints,
        guessed=guessed,
        scores={model: with_guesses(of_read) for model, of_read in scores.items()},
    )
    predictions = rank(songs.classes, keys, test.scores[name])
    results.write_record(scores_file(songs.output), test)
    results.write_test_predictions(songs.output, predictions)
    print(
        f"wrote {songs.output} and {scores_file(songs.output).name}: {len(predictions)} of "
        f"{songs.described}, in {time.monotonic() - started:.0f} s"
    )
    if songs.answers is not None:
        _print_grade(songs, songs.answers, predictions)
    _name_unreadable(songs.files, reasons, "left out" if args.leave_out_unreadable else "guessed")
    if guessed:
        print(guesses_line(len(guessed), len(keys)))
    return 1 if reasons else 0


def guesses_line(n_guessed: int, n_songs: int) -> str:
    """Say that some predictions are guesses, and what was guessed."""
    return (
        f"note: {n_guessed} of {n_songs} predictions are guesses, of songs that cannot be read: "
        "the artists with the most training songs"
    )


def scores_file(output: Path) -> Path:
    """Name the file of all scores: ``test_scores.json`` beside ``test_predictions.json``."""
    before, found, after = output.stem.rpartition("_predictions")
    return output.with_name(f"{before if found else after}_scores{after if found else ''}.json")


def rank(classes: list[str], keys: Sequence[str], scores: np.ndarray) -> dict[str, list[str]]:
    """Name every song's best artists, best first: (n_songs, n_classes) -> the course's form."""
    best = evaluation.top_k(scores, TOP)
    return {key: [classes[i] for i in ranked] for key, ranked in zip(keys, best, strict=True)}


def _name_unreadable(files: Mapping[str, Path], reasons: Mapping[str, str], done: str) -> None:
    for key, reason in reasons.items():
        print(f"{done}: {printable(files[key])} {reason}")


# --- answers -----------------------------------------------------------------------------------


def read_answers(path: Path, keys: Iterable[str]) -> list[str]:
    """Read the test songs' artists, and check that every song has one.

    The file is a JSON list of names: the artist of song ``key`` is number ``int(key)``, from 1.

    Raises
    ------
    UserError
        If it is missing, no such list, or too short.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: --answers takes a JSON list of artist names")
    try:
        answers = parse_json(read_text(path), list[str])
    except ValueError as error:
        raise UserError(f"{path} is no JSON list of artist names ({error})") from None
    for key in keys:
        if not (key.isascii() and key.isdigit() and 1 <= int(key) <= len(answers)):
            raise UserError(f"{path} has {len(answers)} answers, none of them for {key}")
    return answers


def match_answers(answers: list[str], classes: list[str]) -> list[str]:
    """Spell answers as the model spells its artists, and say which artists it does not know.

    Case, spaces around a name and the form of its Unicode (accents composed or not) do not count.
    """
    by_form: dict[str, list[str]] = {}
    for name in classes:
        by_form.setdefault(dataset.spelling_key(name), []).append(name)
    # Artists whose names differ in case alone are told apart as they are spelled.
    of_form = {form: names[0] for form, names in by_form.items() if len(names) == 1}
    matched = [
        answer if answer in classes else of_form.get(dataset.spelling_key(answer), answer)
        for answer in answers
    ]
    changed = [pair for pair in zip(answers, matched, strict=True) if pair[0] != pair[1]]
    if changed:
        answer, name = changed[0]
        print(
            f"note: {len(changed)} of {len(answers)} answers are spelled otherwise than the "
            f"model's artists, the first {answer!r}: taken for {name!r}"
        )
    strangers = [name for name in matched if name not in classes]
    if strangers:
        print(
            f"note: {len(strangers)} of {len(answers)} answers are no artists of the model, and "
            f"count as wrong: {', '.join(map(repr, sorted(set(strangers))))}"
        )
    return matched


def _print_grade(songs: TestSongs, answers: list[str], predictions: dict[str, list[str]]) -> None:
    """Grade as the course does; of the first songs alone where there are no others."""
    n_answers = len(answers) if songs.are_all else len(songs.files)
    if len(predictions) < n_answers:
        print(f"{n_answers - len(predictions)} songs without a prediction count as wrong")
    top1, top3 = (
        share * len(answers) / n_answers for share in evaluation.grade(predictions, answers)
    )
    print(
        f"{n_answers} answers{'' if songs.are_all else f', of {songs.described}'}: "
        f"top-1 {top1:.2%}, top-3 {top3:.2%}, course score (top-1 + 0.5 x top-3) "
        f"{evaluation.course_score(top1, top3):.4f}"
    )


# --- any audio ---------------------------------------------------------------------------------


def _name_files(
    args: argparse.Namespace, classes: list[str], score: Callable[[Mapping[str, Path]], Scored]
) -> int:
    """Print, and write to --output, the artists of --audio's files; return the exit status."""
    for option in ("answers", "limit", "leave_out_unreadable"):
        if getattr(args, option):
            raise UserError(
                f"--{option.replace('_', '-')} is for the test songs: leave it out with --audio"
            )
    if args.output:
        _check_table(args.output)
    files = {str(file): file for file in find_audio(args.audio)}
    probabilities, reasons = score(files)
    n_named = min(TOP, len(classes))
    columns = [f"{what}_{i + 1}" for i in range(n_named) for what in ("artist", "probability")]
    rows = []
    for key in files:
        row = dict.fromkeys(["file", *columns]) | {"file": printable(key)}
        if key in probabilities:
            scores = probabilities[key][""]
            print(printable(key))
            for rank_, i in enumerate(evaluation.top_k(scores[None], TOP)[0], start=1):
                print(f"  {scores[i]:6.1%}  {classes[i]}")
                row[f"artist_{rank_}"] = classes[i]
                row[f"probability_{rank_}"] = float(f"{scores[i]:.6g}")
        rows.append(row)
    if args.output and probabilities:
        write = write_json if args.output.suffix.lower() == ".json" else write_csv
        write(args.output, rows)
        print(f"wrote {args.output}: {len(probabilities)} of {len(files)} songs")
    _name_unreadable(files, reasons, "cannot be named")
    return 1 if reasons else 0


def find_audio(named: Sequence[str]) -> list[Path]:
    """List the songs that files, folders and patterns name.

    Files are taken as they are; in folders and among what a pattern matches, all that is no audio
    is left out, which a note says.

    Raises
    ------
    UserError
        If something is a URL, or there is no song in a folder or none that a pattern matches.
    """
    found: list[Path] = []
    for name in named:
        if re.match(r"\w+://", name):
            raise UserError(f"{name} is a URL: download the song first, and name its file")
        path = Path(name)
        if not path.exists():
            path = Path(os.path.expanduser(name))  # noqa: PTH111 - a file may be called ~song.mp3
        if path.is_dir():
            within = dataset.find_files(path)
        elif path.exists() or not glob.has_magic(name):
            found.append(path)  # if it is missing, that is told with what else cannot be read
            continue
        else:
            service = set(dataset.SERVICE_FOLDERS).difference(path.parts)
            within = [
                file
                for match in sorted(map(Path, glob.glob(str(path), recursive=True)))  # noqa: PTH207
                if service.isdisjoint(match.parts)
                for file in (dataset.find_files(match) if match.is_dir() else [match])
            ]
        songs = dataset.songs_among(list(dict.fromkeys(within)), name)
        if not songs:
            raise UserError(f"{name}: no audio files are there")
        found += songs
    return list(dict.fromkeys(found))


def _check_table(path: Path) -> None:
    """Refuse what is no table's name, or that of predictions."""
    if path.suffix.lower() not in TABLES:
        raise UserError(f"--output {path}: --audio writes {' or '.join(TABLES)}")
    begins = rb'file,artist_1,|\[\s*\{\s*"file"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"artist_1"'
    if path.is_file() and not re.match(begins, path.read_bytes()):
        raise UserError(f"{path} is there, and no table of --audio: name another with --output")
