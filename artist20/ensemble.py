"""Combine models: a weighted product of their probabilities.

Reads   of every model cv_predictions.json, val_predictions.json, metrics.json; test_scores.json
Writes  RESULTS_DIR/ensemble/metrics.json            weights, figures, test against the best member
                             cv_predictions.json     training songs, each scored unseen
                             val_predictions.json
                             test_predictions.json, test_scores.json
                                                     if all members' test scores are there

Weights are fitted on training songs alone, each as a model scored it that did not learn from its
album (Wolpert 1992, stacked generalization); validation songs are scored when they are fixed. All
models take part that have such scores, or those named with --members. It takes seconds, and what an
earlier run wrote is replaced.

    python -m artist20.ensemble
    python -m artist20.ensemble --members svm logistic_regression_of_segments resnet_strong
"""

import artist20.packages  # says which are missing

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from artist20 import (
    UserError,
    cli,
    dataset,
    evaluation,
    files,
    finished,
    inference,
    results,
    runtime,
)
from artist20.experiment import fold_differences
from artist20.finished import Metrics, Model, ScoredSplit, Stage
from artist20.results import NetworkMetrics, Predictions, TestScores, read_record, write_record

FLOOR = 1e-6  # probabilities are at least this: a member's sure mistake is not the ensemble's
RIDGE = 1e-3  # nats per squared distance from equal weights; makes weights of equal members equal

SPLITS: tuple[ScoredSplit, ...] = ("cv", "val")


# --- weights -----------------------------------------------------------------------------------


def log_probabilities(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Stack members' probabilities, and take logarithms: (n_members, n_songs, n_classes)."""
    return np.log(np.maximum(np.stack(scores), FLOOR))


def pool(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Combine members: softmax(sum_m w_m log p_m), (n_songs, n_classes) probabilities.

    This is the logarithmic opinion pool (Genest and Zidek 1986), whose weights need not sum to 1:
    their sum is an inverse temperature.
    """
    return softmax(np.tensordot(weights, log_p, axes=1), axis=1)


def fit_weights(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the weights that make the true artists likeliest: (n_members,).

    ``log_p`` are (n_members, n_songs, n_classes), of songs that the members did not learn from. The
    mean of -log p(true artist) is convex in the weights; with :data:`RIDGE` / 2 times their squared
    distance from equal weights that sum to 1 it is strictly so, and has one minimum over weights of
    at least 0.
    """
    n_members, n_songs, _ = log_p.shape
    equal = np.full(n_members, 1 / n_members)
    of_true = log_p[:, np.arange(n_songs), labels]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        total = np.tensordot(weights, log_p, axes=1)
        away = weights - equal
        value = (logsumexp(total, axis=1) - weights @ of_true).mean() + RIDGE / 2 * away @ away
        expected = np.einsum("msc,sc->ms", log_p, softmax(total, axis=1))
        return value, (expected - of_true).mean(axis=1) + RIDGE * away

    options = {"ftol": 1e-12, "gtol": 1e-8, "maxiter": 10_000}
    bounds = [(0, None)] * n_members
    found = minimize(loss, equal, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    if not found.success:
        raise RuntimeError(f"weights were not found: {found.message}")
    return found.x


def cross_validate(
    log_p: np.ndarray, labels: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Score every song with weights that were fitted on the other folds: (n_songs, n_classes)."""
    scores = np.empty(log_p.shape[1:])
    for fit, held_out in folds:
        weights = fit_weights(log_p[:, fit], labels[fit])
        scores[held_out] = pool(log_p[:, held_out], weights)
    return scores


# --- members -----------------------------------------------------------------------------------


def read_members(results_dir: Path, wanted: list[str] | None) -> list[Model]:
    """Read the models that can take part, or those ``wanted``, and print which cannot.

    Raises
    ------
    UserError
        If fewer than two can, or one that is wanted cannot, or they do not belong together.
    """
    runs = finished.find_runs(results_dir)
    trained = [name for metrics in runs.values() for name in metrics.names]
    for name in wanted or []:
        if name not in trained:
            raise UserError(f"--members {name}: {results_dir} has {', '.join(trained) or 'none'}")
    members: list[Model] = []
    left_out = 0
    for stage, metrics in runs.items():
        taken = {name: own for name, own in metrics.names.items() if not wanted or name in wanted}
        reason = _why_not(stage, metrics)
        if reason and wanted and taken:
            raise UserError(f"--members {next(iter(taken))}: {reason}")
        if reason:
            print(f"left out: {', '.join(taken)} ({reason})")
            left_out += len(taken)
        elif taken:
            folder, train = stage.folder, stage.train
            predictions = {
                split: read_record(_file(folder, split), Predictions, train) for split in SPLITS
            }
            # Folds of an earlier version lack their networks' parts.
            parts = metrics.parts if isinstance(metrics, NetworkMetrics) else ()
            for name in [name for name, own in taken.items() if own.endswith(tuple(parts))]:
                if taken[name] in predictions["cv"].scores:
                    continue
                again = f"run {train} --overwrite --fold 1, and 2 to 5"
                reason = f"no such scores in {_file(folder, 'cv')}: {again}"
                if wanted:
                    raise UserError(f"--members {name}: {reason}")
                print(f"left out: {name} ({reason})")
                left_out += 1
                del taken[name]
            members += [
                Model(name, own_name, folder, metrics, predictions, train, stage.score_test)
                for name, own_name in taken.items()
            ]
    if left_out:
        print(f"{len(members)} models take part, {left_out} are left out")
    if len(members) < 2:
        found = ", ".join(member.name for member in members) or "none"
        raise UserError(f"an ensemble takes two members at least; {results_dir} gives {found}")
    for member in members:
        _check_files(member)
        _check_alike(members[0], member)
    return members


def _file(folder: Path, split: ScoredSplit) -> Path:
    return folder / f"{split}_predictions.json"


def _why_not(stage: Stage, metrics: Metrics) -> str | None:
    """Return why a stage's models cannot take part, if they cannot."""
    folder, train = stage.folder, stage.train
    if not metrics.folds_by_album:
        return f"its cross-validation split albums: run {train} --cv album"
    if not _file(folder, "cv").is_file():
        is_network = isinstance(metrics, NetworkMetrics)
        by_fold = is_network and not (folder / "candidates.json").is_file()
        folds = " --fold 1, and 2 to 5" if by_fold else ""
        return f"no {folder.name}/cv_predictions.json: run {train}{folds}"
    if not _file(folder, "val").is_file():
        return f"no {folder.name}/val_predictions.json: run {train} --overwrite"
    return None


def _check_files(member: Model) -> None:
    """Refuse files, and folds, that are not of the run that the folder's metrics are of."""
    metrics, train = member.metrics, member.train
    again = f"run {train} --overwrite"
    n_songs = {"cv": metrics.dataset.train, "val": metrics.dataset.val}
    for split, predictions in member.predictions.items():
        songs, scores = predictions.songs, predictions.scores
        if len(songs) != n_songs[split] or member.unchosen_name(split) not in scores:
            raise UserError(
                f"{_file(member.folder, split)} is not of the run in metrics.json ({len(songs)} "
                f"songs of {n_songs[split]}; scores of {', '.join(scores)}): {again}"
            )
    if member.predictions["cv"].classes != member.val.classes:
        raise UserError(
            f"cv_predictions.json and val_predictions.json in {member.folder} know different "
            f"artists: {again}"
        )
    if isinstance(metrics, NetworkMetrics):
        found = fold_differences(member.folder, metrics, train)
        if found:
            raise UserError(f"{found}: {again} with the same options, with and without --fold")


def _check_alike(first: Model, other: Model) -> None:
    """Refuse members of different songs or artists."""
    data, of_other = first.metrics.dataset, other.metrics.dataset
    if data.fingerprint != of_other.fingerprint:
        raise UserError(
            f"{first.name} and {other.name} are of different songs ({data.identity}; "
            f"{of_other.identity}): train them on the same --data-dir and --limit, or name others "
            "with --members"
        )
    songs, of_other_songs = (
        [predictions.songs for predictions in member.predictions.values()]
        for member in (first, other)
    )
    if songs != of_other_songs or first.val.classes != other.val.classes:
        what = "songs" if songs != of_other_songs else "artists"
        raise UserError(
            f"the predictions of {first.name} and {other.name} list different {what}: run "
            f"{first.train} and {other.train} again"
        )


# --- test songs --------------------------------------------------------------------------------


def score_test(members: list[Model], weights: np.ndarray) -> TestScores | str:
    """Score the test songs, or return what has to be run first.

    Members without weight need not have scored them. A song that one member could not read is a
    guess of the ensemble's, too.
    """
    used = [member for member, weight in zip(members, weights, strict=True) if weight > 0]
    if not used:
        return "no member is better than guessing"
    found: list[TestScores] = []
    for member in used:
        checkpoint, output, command = _test_files(member)
        file = inference.scores_file(output)
        if not file.is_file():
            return f"{file} is missing: run {command}"
        test = read_record(file, TestScores, command)
        made_of = files.sha256_file(checkpoint) if checkpoint.is_file() else None
        if member.own_name not in test.checkpoints:
            return f"{file} has no scores of {member.own_name}: run {command}"
        if test.checkpoints[member.own_name] != [made_of]:
            return f"{file} is not of the {checkpoint.name} that is there: run {command}"
        if test.classes != member.val.classes or (found and test.songs != found[0].songs):
            what = "artists" if test.classes != member.val.classes else "test songs"
            return (
                f"{file} and the scores of {used[0].name} have different {what}: run both again, "
                f"with the same --data-dir and --leave-out-unreadable: {command}"
            )
        found.append(test)
    pairs = [(member.own_name, test) for member, test in zip(used, found, strict=True)]
    log_p = log_probabilities([test.scores[name] for name, test in pairs])
    return TestScores(
        classes=found[0].classes,
        songs=found[0].songs,
        checkpoints={"ensemble": [of for name, test in pairs for of in test.checkpoints[name]]},
        guessed={key: reason for test in reversed(found) for key, reason in test.guessed.items()},
        scores={"ensemble": pool(log_p, weights[weights > 0])},
    )


def _test_files(member: Model) -> tuple[Path, Path, str]:
    """Name the checkpoint that a member is, its predictions file, and the command for both."""
    folder, command = member.folder, member.score_test
    if not member.selected:
        return member.checkpoint, folder / "test_predictions.json", command
    checkpoint, output = folder / "last.pt", folder / "test_last_predictions.json"
    return checkpoint, output, f"{command} --checkpoint {checkpoint} --output {output}"


# --- the command -------------------------------------------------------------------------------


def combine(
    args: argparse.Namespace, members: list[Model]
) -> tuple[results.EnsembleMetrics, TestScores | str]:
    """Fit the weights, score all songs, and write everything; see :func:`score_test`."""
    started = time.monotonic()
    splits = members[0].predictions
    labels = {split: songs.labels for split, songs in splits.items()}
    log_p = {
        split: log_probabilities([member.unchosen(split) for member in members]) for split in splits
    }
    weights = fit_weights(log_p["cv"], labels["cv"])
    folds = dataset.album_folds(labels["cv"], splits["cv"].albums, args.seed)
    assert folds  # as members were cross-validated by album
    pooled: dict[ScoredSplit, np.ndarray] = {
        "cv": cross_validate(log_p["cv"], labels["cv"], folds),
        "val": pool(log_p["val"], weights),
    }
    reached = {
        member.name: results.MemberFigures(
            title=member.title,
            weight=float(weight),
            cv=evaluation.quality(member.unchosen("cv"), labels["cv"]),
            val=evaluation.quality(member.unchosen("val"), labels["val"]),
        )
        for member, weight in zip(members, weights, strict=True)
    }
    best = max(members, key=lambda member: _rank(reached[member.name].cv))
    metrics = results.EnsembleMetrics(
        **msgspec.structs.asdict(evaluation.quality(pooled["val"], labels["val"])),
        calibration_error=evaluation.calibration_error(pooled["val"], labels["val"]),
        cv=evaluation.quality(pooled["cv"], labels["cv"]),
        members=reached,
        best_member_in_cv=best.name,
        against_best_member={
            split: evaluation.compare(
                evaluation.hits(pooled[split], labels[split], 1),
                evaluation.hits(best.unchosen(split), labels[split], 1),
                songs.albums,
            )
            for split, songs in splits.items()
        },
        untrained=any(
            member.metrics.untrained and reached[member.name].weight > 0 for member in members
        ),
        files={
            file.relative_to(args.results_dir).as_posix(): files.sha256_file(file)
            for member in members
            for file in (_file(member.folder, split) for split in splits)
        },
        settings=results.EnsembleSettings(
            floor=FLOOR, ridge=RIDGE, folds=len(folds), seed=args.seed
        ),
        dataset=members[0].metrics.dataset,
        provenance=runtime.provenance(args, "CPU", started),
    )
    test = score_test(members, weights)
    folder = results.ensemble_dir(args.results_dir)
    with files.only_writer(folder):
        # Until all is of these weights.
        for name in ("metrics.json", "test_predictions.json", "test_scores.json"):
            (folder / name).unlink(missing_ok=True)
        for split, songs in splits.items():
            combined = msgspec.structs.replace(songs, scores={"ensemble": pooled[split]})
            write_record(_file(folder, split), combined)
        if isinstance(test, TestScores):
            write_record(folder / "test_scores.json", test)
            ranked = inference.rank(test.classes, list(test.songs), test.scores["ensemble"])
            results.write_test_predictions(folder / "test_predictions.json", ranked)
        write_record(folder / "metrics.json", metrics)
    return metrics, test


def _rank(quality: results.Quality) -> tuple[float, float, float]:
    return quality.top1, quality.top3, -quality.log_loss


def print_metrics(metrics: results.EnsembleMetrics) -> None:
    """Print weights and figures of members and ensemble, and how it compares with the best."""
    members = metrics.members
    rows = [(of.title, f"{of.weight:.3f}", of.cv, of.val) for of in members.values()]
    rows.append((metrics.title("ensemble"), "", metrics.cv, metrics))
    width = max(len(title) for title, *_ in rows)
    print(f"{'':{width}}{'weight':>8}{'CV top-1':>10}{'top-3':>8}{'log loss':>10}{'val top-1':>11}")
    for title, weight, cv, val in rows:
        print(
            f"{title:{width}}{weight:>8}{cv.top1:10.1%}{cv.top3:8.1%}{cv.log_loss:10.3f}"
            f"{val.top1:11.1%}"
        )
    print(f"against its best member in CV, {members[metrics.best_member_in_cv].title}:")
    titles = {"cv": "training songs held out", "val": "validation songs"}
    for split, pair in metrics.against_best_member.items():
        low, high = pair.interval
        print(
            f"  {titles[split]}: {100 * pair.difference:+.1f} points ({100 * low:+.1f} to "
            f"{100 * high:+.1f}), p {pair.p:.2g}: {evaluation.verdict(pair.p, pair.interval)}"
        )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    cli.add_seed_option(parser)
    parser.add_argument(
        "--members",
        nargs="+",
        metavar="NAME",
        help="models to combine; of segments with the ending _of_segments, of the wide search with "
        "_wide (default: all that can)",
    )
    return parser.parse_args()


def main() -> int:
    """Combine the models; return the exit status: 1 if test songs could not be read."""
    args = parse_args()
    metrics, test = combine(args, read_members(args.results_dir, args.members))
    n_guessed = 0
    if isinstance(test, str):
        print(f"no test_predictions.json: {test}")
    else:
        n_guessed = len(test.guessed)
        for key, reason in test.guessed.items():
            print(f"guessed: {key} {reason}")
        if n_guessed:
            print(inference.guesses_line(n_guessed, len(test.songs)))
    print_metrics(metrics)
    next_stage = cli.next_stage("-m artist20.comparison", args, "results_dir")
    print(f"wrote {results.ensemble_dir(args.results_dir)}; {next_stage}")
    return 1 if n_guessed else 0


if __name__ == "__main__":
    runtime.run(main)
