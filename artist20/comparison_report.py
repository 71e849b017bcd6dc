"""All models in pictures: files in, figures and captions out."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from artist20 import comparison, dataset, evaluation, figures, figures_confusion
from artist20.figures import Drawing
from artist20.figures_confusion import Confusion

MOST_GUESSES = 10  # of the curve of top-k accuracy
N_PAIRS = 10
EVERY = "Made from every model's val_predictions.json and metrics.json."


def draw(results_dir: Path) -> Iterator[Drawing]:
    """Draw what all models that have been run reached, on one data set.

    Raises
    ------
    UserError
        If none has been run, or not all on the same songs.
    """
    models = comparison.collect(results_dir)
    first = next(iter(models.values()))
    songs = (
        f"{len(first['predictions'].songs)} validation songs of {dataset.label(first['dataset'])}"
    )
    chosen = [row["title"] for row in models.values() if comparison.is_chosen(row)]
    flattered = (
        f" Epochs of {' and '.join(chosen)} are chosen on these songs, which flatters them."
        if chosen
        else ""
    )
    yield _accuracy(models, songs)
    yield _top_k(models, songs, flattered)
    yield _f1(models, songs, flattered)
    yield from _reliability(models, songs, flattered)
    yield _confused_pairs(models, songs, flattered)


def _titles(models: dict[str, dict[str, Any]]) -> list[str]:
    return [row["title"] for row in models.values()]


def _accuracy(models: dict[str, dict[str, Any]], songs: str) -> Drawing:
    rows = list(models.values())
    last = ", ".join(
        f"{row['title']} {row['last']['top1']:.1%} / {row['last']['top3']:.1%}"
        for row in rows
        if comparison.is_chosen(row)
    )
    note = "Whiskers: 95 % intervals, by bootstrap over albums."
    if last:
        note += (
            f" Some networks' epochs are chosen on these songs. Last epoch, top-1 / top-3: {last}."
        )
    figure = figures.model_comparison(
        _titles(models),
        [row["top1"] for row in rows],
        [row["top3"] for row in rows],
        title=f"All models on {songs}",
        n_songs=len(rows[0]["predictions"].songs),
        n_classes=len(rows[0]["predictions"].classes),
        note=note,
        top1_interval=np.array([row["top1_interval"] for row in rows]),
        top3_interval=np.array([row["top3_interval"] for row in rows]),
    )
    caption = (
        "Top-1 and top-3 accuracy of all models on the validation songs, with 95 % intervals by "
        f"bootstrap over albums. {EVERY}"
    )
    return "task2_all_models_comparison", figure, caption


def _top_k(models: dict[str, dict[str, Any]], songs: str, flattered: str) -> Drawing:
    predictions = next(iter(models.values()))["predictions"]
    n_classes = len(predictions.classes)
    accuracy = [
        [
            evaluation.top_k_accuracy(row["scores"], predictions.labels, k)
            for k in range(1, min(MOST_GUESSES, n_classes) + 1)
        ]
        for row in models.values()
    ]
    figure = figures.top_k(
        _titles(models),
        np.array(accuracy),
        title=f"How many guesses it takes: all models on {songs}",
        n_classes=n_classes,
    )
    caption = (
        "Share of the validation songs whose artist is among a model's k best guesses, for each k."
        f"{flattered} {EVERY}"
    )
    return "task2_top_k", figure, caption


def _f1(models: dict[str, dict[str, Any]], songs: str, flattered: str) -> Drawing:
    predictions = next(iter(models.values()))["predictions"]
    f1 = [
        evaluation.f1_scores(evaluation.confusion_matrix(row["scores"], predictions.labels))
        for row in models.values()
    ]
    figure = figures.f1_by_artist(
        _titles(models),
        np.array(f1),
        predictions.classes,
        np.bincount(predictions.labels, minlength=len(predictions.classes)),
        title=f"F1 of each artist, all models on {songs}",
    )
    caption = (
        "F1, the harmonic mean of precision and recall, of each artist (rows; songs in brackets) "
        f"by each model (columns), the best known artists at the top.{flattered} {EVERY}"
    )
    return "task2_per_artist_f1", figure, caption


def _reliability(
    models: dict[str, dict[str, Any]], songs: str, flattered: str
) -> Iterator[Drawing]:
    networks = {name: row for name, row in models.items() if name.startswith(("panns", "resnet"))}
    if not networks:
        print("left out: task2_reliability (no network has been trained)")
        return
    labels = next(iter(networks.values()))["predictions"].labels
    scores = [row["scores"] for row in networks.values()]
    figure = figures.reliability(
        _titles(networks),
        [evaluation.reliability(of_model, labels) for of_model in scores],
        [
            f"calibration error {evaluation.calibration_error(of_model, labels):.1%}"
            for of_model in scores
        ],
        title=f"How far to believe a network's probability, {songs}",
    )
    caption = (
        "How often each network's best guess is right, against the probability it gives; on the "
        "dashed line they agree, a dot's area is its share of the songs, and the error is the "
        f"expected calibration error.{flattered} {EVERY}"
    )
    yield "task2_reliability", figure, caption


def _confused_pairs(models: dict[str, dict[str, Any]], songs: str, flattered: str) -> Drawing:
    predictions = next(iter(models.values()))["predictions"]
    classes, labels = predictions.classes, predictions.labels
    guesses = np.array([evaluation.top_k(row["scores"], 1)[:, 0] for row in models.values()])
    total = sum(evaluation.confusion_matrix(row["scores"], labels) for row in models.values())
    pairs = []
    for true, guessed, n_wrong in evaluation.confusions(total)[:N_PAIRS]:
        times = ((guesses == guessed) & (labels == true)).sum(axis=0)
        wrong = sorted(np.flatnonzero(times), key=lambda i: -times[i])
        names = [PurePosixPath(predictions.songs[i]["path"]).stem.replace("_", " ") for i in wrong]
        pairs.append(
            Confusion(
                classes[true],
                classes[guessed],
                n_wrong,
                int(total[true].sum()),
                [(name, int(times[i])) for name, i in zip(names, wrong, strict=True)],
            )
        )
    figure = figures_confusion.confused_pairs(
        pairs,
        title=f"Who is taken for whom most often: best guesses of {len(models)} "
        f"{'models' if len(models) > 1 else 'model'}, one for each of {songs}",
    )
    caption = (
        f"The {len(pairs)} most frequent confusions among the best guesses of "
        f"{', '.join(_titles(models))}, with the songs that are confused.{flattered} {EVERY}"
    )
    return "task2_confused_pairs", figure, caption
