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

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from artist20 import (
    UserError,
    classical,
    cli,
    comparison,
    dataset,
    evaluation,
    files,
    inference,
    results,
    runtime,
)
from artist20.classical import Rows
from artist20.results import Predictions, TestScores

FLOOR = 1e-6  # probabilities are at least this: a member's sure mistake is not the ensemble's
RIDGE = 1e-3  # nats per squared distance from equal weights; makes weights of equal members equal


@dataclass(frozen=True)
class Member:
    """One model, as its files have it.

    Attributes
    ----------
    name, own_name : str
        What tables call it, and what its own files call it.
    folder : Path
        Where these are.
    train, score_test : str
        The commands that train it and that score the test songs with it.
    metrics : dict
        The folder's ``metrics.json``.
    held_out, val : Predictions
        Of the training songs, each scored unseen, and of the validation songs.
    """

    name: str
    own_name: str
    folder: Path
    train: str
    score_test: str
    metrics: dict[str, Any]
    held_out: Predictions
    val: Predictions

    @property
    def is_chosen(self) -> bool:
        """Whether ``best.pt`` was chosen on the validation songs."""
        return comparison.is_chosen(self.metrics)

    @property
    def val_name(self) -> str:
        """What ``val`` calls the scores that are used: the last epoch's if another was chosen."""
        return f"{self.own_name}_last" if self.is_chosen else self.own_name


# --- weights -----------------------------------------------------------------------------------


def log_probabilities(scores: list[np.ndarray]) -> np.ndarray:
    """Stack members' probabilities, and take logarithms: (n_members, n_songs, n_classes)."""
    return np.log(np.maximum(np.stack(scores), FLOOR))


def pool(log_p: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Combine members: softmax(sum_m w_m log p_m), (n_songs, n_classes) probabilities.

    This is the logarithmic opinion pool (Genest and Zidek 1986), whose weights need not sum to 1:
    their sum is an inverse temperature.
    """
    return softmax(np.tensordot(weights, log_p, axes=1), axis=1)


def fit_weights(log_p: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Find the weights that make the true artists likeliest.

    The mean of -log p(true artist) is convex in the weights; with :data:`RIDGE` / 2 times their
    squared distance from equal weights that sum to 1 it is strictly so, and has one minimum over
    weights of at least 0.

    Parameters
    ----------
    log_p : np.ndarray
        (n_members, n_songs, n_classes), of songs that the members did not learn from.
    labels : np.ndarray
        (n_songs,) index of the true class.

    Returns
    -------
    np.ndarray
        (n_members,).
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


def read_members(results_dir: Path, wanted: list[str] | None) -> list[Member]:
    """Read the models that can take part, and say which cannot.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.
    wanted : list of str or None
        Their names; by default all that can.

    Raises
    ------
    UserError
        If fewer than two can, or one that is wanted cannot, or they do not belong together.
    """
    score_test = {folder: command for folder, _, command in results.model_folders(results_dir)}
    runs = list(comparison.find_runs(results_dir))
    trained = [name for *_, metrics in runs for name in comparison.names_of(metrics)]
    for name in wanted or []:
        if name not in trained:
            raise UserError(f"--members {name}: {results_dir} has {', '.join(trained) or 'none'}")
    members = []
    n_left_out = 0
    for folder, script, metrics in runs:
        names = comparison.names_of(metrics)
        taken = [name for name in names if not wanted or name in wanted]
        reason = _why_not(folder, script, metrics)
        if reason and wanted and taken:
            raise UserError(f"--members {taken[0]}: {reason}")
        if reason:
            print(f"left out: {', '.join(taken)} ({reason})")
            n_left_out += len(taken)
        elif taken:
            held_out, val = (
                results.read_predictions(folder / f"{split}_predictions.json", script)
                for split in ("cv", "val")
            )
            common = (folder, script, score_test[folder], metrics, held_out, val)
            members += [Member(name, names[name], *common) for name in taken]
    if n_left_out:
        print(f"{len(members)} models take part, {n_left_out} are left out")
    if len(members) < 2:
        names = ", ".join(member.name for member in members) or "none"
        raise UserError(f"an ensemble takes two members at least; {results_dir} gives {names}")
    for member in members:
        _check_files(member)
        _check_folds(member)
        _check_alike(members[0], member)
    return members


def _why_not(folder: Path, script: str, metrics: dict[str, Any]) -> str | None:
    """Say why a run's models cannot take part, if they cannot."""
    if not comparison.has_folds_by_album(metrics):
        return "its cross-validation split albums: run task1_train.py --cv album"
    if not (folder / "cv_predictions.json").is_file():
        by_itself = "models" in metrics or (folder / "candidates.json").is_file()
        folds = "" if by_itself else " --fold 1, and 2 to 5"
        return f"no {folder.name}/cv_predictions.json: run {script}{folds}"
    if not (folder / "val_predictions.json").is_file():
        return f"no {folder.name}/val_predictions.json: run {script} --overwrite"
    return None


def _check_files(member: Member) -> None:
    """Refuse files that are not of the run that the folder's metrics are of."""
    for split, predictions, name in (
        ("train", member.held_out, member.own_name),
        ("val", member.val, member.val_name),
    ):
        n_songs = member.metrics["dataset"][split]
        if len(predictions.songs) != n_songs or name not in predictions.scores:
            file = "cv_predictions.json" if split == "train" else "val_predictions.json"
            raise UserError(
                f"{member.folder / file} is not of the run in metrics.json "
                f"({len(predictions.songs)} songs of {n_songs}; scores of "
                f"{', '.join(predictions.scores)}): run {member.train} --overwrite"
            )
    if member.held_out.classes != member.val.classes:
        raise UserError(
            f"cv_predictions.json and val_predictions.json in {member.folder} know different "
            f"artists: run {member.train} --overwrite"
        )


def _check_folds(member: Member) -> None:
    """Refuse held-out scores of networks that were trained otherwise than the member itself.

    That can be known while the folds' own folders are there.
    """
    folds_dir = member.folder
    candidates = member.folder / "candidates.json"
    if candidates.is_file():  # the folds are those of the classifier that they chose
        folds_dir /= results.read_record(candidates, member.train, {"chosen": str})["chosen"]
    for file in sorted(folds_dir.glob("fold-*/metrics.json")):
        of_fold, of_all = (
            {
                **{key: value for key, value in settings.items() if key not in ("fold", "dataset")},
                # A hash over the songs added to those trained on, of which folds have fewer.
                "also_train_on": bool(settings.get("also_train_on")),
            }
            for settings in (
                results.read_metrics(file, member.train)["settings"],
                member.metrics["settings"],
            )
        )
        differences = [
            f"{key} {of_all.get(key)!r}, in the fold {of_fold.get(key)!r}"
            for key in sorted(of_fold.keys() | of_all.keys())
            if of_fold.get(key) != of_all.get(key)
        ]
        if differences:
            raise UserError(
                f"{member.folder}: {file.parent.name} is of a run with other settings "
                f"({'; '.join(differences)}): run {member.train} --overwrite with the same "
                "options, with and without --fold"
            )


def _check_alike(first: Member, other: Member) -> None:
    """Refuse members of different songs or artists."""
    data = [dataset.identity(member.metrics["dataset"]) for member in (first, other)]
    if first.metrics["dataset"]["fingerprint"] != other.metrics["dataset"]["fingerprint"]:
        raise UserError(
            f"{first.name} and {other.name} are of different songs ({'; '.join(data)}): train them "
            "on the same --data-dir and --limit, or name others with --members"
        )
    same_songs = first.held_out.songs == other.held_out.songs and first.val.songs == other.val.songs
    if not same_songs or first.val.classes != other.val.classes:
        what = "songs" if not same_songs else "artists"
        raise UserError(
            f"the predictions of {first.name} and {other.name} list different {what}: run "
            f"{first.train} and {other.train} again"
        )


# --- test songs --------------------------------------------------------------------------------


def score_test(members: list[Member], weights: np.ndarray) -> TestScores | str:
    """Score the test songs, or say what has to be run first.

    Members without weight need not have scored them. A song that one member could not read is a
    guess of the ensemble's, too.
    """
    used = [member for member, weight in zip(members, weights, strict=True) if weight > 0]
    if not used:
        return "no member is better than guessing"
    found = []
    for member in used:
        checkpoint, output, command = _test_files(member)
        file = inference.scores_file(output)
        if not file.is_file():
            return f"{file} is missing: run {command}"
        test = results.read_test_scores(file, command)
        made_of = files.sha256_file(checkpoint) if checkpoint.is_file() else None
        if test.checkpoints.get(member.own_name) != [made_of]:
            return f"{file} is not of the {checkpoint.name} that is there: run {command}"
        if test.classes != member.val.classes or (found and test.songs != found[0].songs):
            what = "artists" if test.classes != member.val.classes else "test songs"
            return (
                f"{file} and the scores of {used[0].name} have different {what}: run both again, "
                f"with the same --data-dir and --leave-out-unreadable: {command}"
            )
        found.append(test)
    pairs = list(zip((member.own_name for member in used), found, strict=True))
    pooled = pool(
        log_probabilities([test.scores[name] for name, test in pairs]), weights[weights > 0]
    )
    return TestScores(
        found[0].classes,
        found[0].songs,
        {"ensemble": [file for name, test in pairs for file in test.checkpoints[name]]},
        {"ensemble": pooled},
        {key: reason for _, test in reversed(pairs) for key, reason in test.guessed.items()},
    )


def _test_files(member: Member) -> tuple[Path, Path, str]:
    """Name the checkpoint that a member is, its predictions file, and the command for both."""
    output = member.folder / "test_predictions.json"
    if "models" in member.metrics:
        return member.folder / f"{member.own_name}.skops", output, member.score_test
    if not member.is_chosen:
        return member.folder / "best.pt", output, member.score_test
    checkpoint, output = member.folder / "last.pt", member.folder / "test_last_predictions.json"
    command = f"{member.score_test} --checkpoint {checkpoint} --output {output}"
    return checkpoint, output, command


# --- the command -------------------------------------------------------------------------------


def figures_of(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return top-1, top-3 and log loss."""
    return {
        "top1": evaluation.top_k_accuracy(scores, labels, 1),
        "top3": evaluation.top_k_accuracy(scores, labels, 3),
        "log_loss": evaluation.log_loss(scores, labels),
    }


def combine(args: argparse.Namespace, members: list[Member]) -> tuple[dict[str, Any], int]:
    """Fit the weights, score all songs, and write everything.

    Returns
    -------
    metrics : dict
        What ``metrics.json`` holds.
    n_guessed : int
        How many test songs members could not read.
    """
    started = time.monotonic()
    folder = results.ensemble_dir(args.results_dir)
    held_out, val = members[0].held_out, members[0].val
    scores = {
        "cv": {member.name: member.held_out.scores[member.own_name] for member in members},
        "val": {member.name: member.val.scores[member.val_name] for member in members},
    }
    labels = {"cv": held_out.labels, "val": val.labels}
    albums = {"cv": held_out.albums, "val": val.albums}
    log_p = {
        split: log_probabilities(list(of_split.values())) for split, of_split in scores.items()
    }
    songs = np.arange(len(held_out.songs))
    artists = np.array([song["artist"] for song in held_out.songs])
    rows = Rows(np.empty((len(songs), 0)), songs, artists, albums["cv"], [])
    folds = classical.split_folds(rows, "album", args.seed)
    weights = fit_weights(log_p["cv"], labels["cv"])
    pooled = {
        "cv": cross_validate(log_p["cv"], labels["cv"], folds),
        "val": pool(log_p["val"], weights),
    }

    reached = {
        name: {split: figures_of(scores[split][name], labels[split]) for split in labels}
        for name in scores["cv"]
    }

    def quality(name: str) -> tuple[float, float, float]:
        of_cv = reached[name]["cv"]
        return of_cv["top1"], of_cv["top3"], -of_cv["log_loss"]

    best = max(reached, key=quality)
    against_best = {}
    for split in labels:
        pair = (pooled[split], scores[split][best])
        hits = (evaluation.hits(of_model, labels[split], 1) for of_model in pair)
        against_best[split] = evaluation.compare(*hits, albums[split])
    metrics = {
        "model": "ensemble",
        **figures_of(pooled["val"], labels["val"]),
        "calibration_error": evaluation.calibration_error(pooled["val"], labels["val"]),
        "selected_on": "nothing",
        "cv": figures_of(pooled["cv"], labels["cv"]),
        "members": {
            member.name: {
                "title": comparison.title(member.own_name, member.metrics),
                "weight": float(weight),
                **reached[member.name],
            }
            for member, weight in zip(members, weights, strict=True)
        },
        "best_member_in_cv": best,
        "against_best_member": against_best,
        "untrained_backbone": any(
            member.metrics.get("backbone") == "untrained backbone" and weight > 0
            for member, weight in zip(members, weights, strict=True)
        ),
        "files": {
            file.relative_to(args.results_dir).as_posix(): files.sha256_file(file)
            for member in members
            for file in (member.folder / f"{split}_predictions.json" for split in labels)
        },
        "settings": {"floor": FLOOR, "ridge": RIDGE, "folds": len(folds), "seed": args.seed},
        **runtime.provenance(args, members[0].metrics["dataset"], "CPU", started),
    }
    test = score_test(members, weights)
    with files.only_writer(folder):
        # Until all is of these weights.
        for name in ("metrics.json", "test_predictions.json", "test_scores.json"):
            (folder / name).unlink(missing_ok=True)
        for split, predictions in (("cv", held_out), ("val", val)):
            combined = Predictions(
                predictions.classes, predictions.songs, {"ensemble": pooled[split]}
            )
            results.write_predictions(folder / f"{split}_predictions.json", combined)
        if isinstance(test, TestScores):
            results.write_test_scores(folder / "test_scores.json", test)
            ranked = inference.rank(test.classes, list(test.songs), test.scores["ensemble"])
            results.write_test_predictions(folder / "test_predictions.json", ranked)
        files.write_json(folder / "metrics.json", metrics)
    if isinstance(test, str):
        print(f"no test_predictions.json: {test}")
        return metrics, 0
    for key, reason in test.guessed.items():
        print(f"guessed: {key} {reason}")
    if test.guessed:
        print(inference.guesses_line(len(test.guessed), len(test.songs)))
    return metrics, len(test.guessed)


def print_metrics(metrics: dict[str, Any]) -> None:
    """Print weights and figures of members and ensemble, and how it compares with the best."""
    members = metrics["members"]
    width = max(len(row["title"]) for row in members.values())
    print(f"{'':{width}}{'weight':>8}{'CV top-1':>10}{'top-3':>8}{'log loss':>10}{'val top-1':>11}")
    ensemble = {"title": "Ensemble", "cv": metrics["cv"], "val": metrics}
    for row in (*members.values(), ensemble):
        weight = f"{row['weight']:.3f}" if "weight" in row else ""
        cv = row["cv"]
        print(
            f"{row['title']:{width}}{weight:>8}{cv['top1']:10.1%}{cv['top3']:8.1%}"
            f"{cv['log_loss']:10.3f}{row['val']['top1']:11.1%}"
        )
    print(f"against its best member in CV, {members[metrics['best_member_in_cv']]['title']}:")
    for split, songs in (("cv", "training songs held out"), ("val", "validation songs")):
        result = metrics["against_best_member"][split]
        low, high = (100 * end for end in result["interval"])
        verdict = evaluation.verdict(result["p"], result["interval"])
        print(
            f"  {songs}: {100 * result['difference']:+.1f} points ({low:+.1f} to {high:+.1f}), "
            f"p {comparison.p_text(result['p'])}: {verdict}"
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
        help="models to combine, of segments with the ending _of_segments (default: all that can)",
    )
    return parser.parse_args()


def main() -> int:
    """Combine the models; return the exit status: 1 if test songs could not be read."""
    args = parse_args()
    members = read_members(args.results_dir, args.members)
    metrics, n_guessed = combine(args, members)
    print_metrics(metrics)
    print(f"wrote {results.ensemble_dir(args.results_dir)}; next: python -m artist20.comparison")
    return 1 if n_guessed else 0


if __name__ == "__main__":
    runtime.run(main)
