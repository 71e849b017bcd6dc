"""What the report scripts of both networks draw: files in, figures and captions out."""

from collections.abc import Iterator
from pathlib import Path

from artist20 import (
    UserError,
    comparison,
    dataset,
    evaluation,
    figures_confusion,
    figures_network,
    results,
)
from artist20.figures import Drawing


def confusion_matrix(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw who is taken for whom by a network.

    Parameters
    ----------
    folder : Path
        The run's.
    made_by : str
        The command that trains it, for messages.
    """
    metrics = results.read_metrics(folder / "metrics.json", made_by)
    predictions = results.read_predictions(folder / "val_predictions.json", made_by)
    name = metrics["model"]
    comparison.check_reached(folder, name, metrics, predictions, made_by)
    model = comparison.title(name, metrics)
    figure = figures_confusion.confusion_matrix(
        evaluation.confusion_matrix(predictions.scores[name], predictions.labels),
        predictions.classes,
        title=f"{model} on {len(predictions.songs)} validation songs of "
        f"{dataset.label(metrics['dataset'])}: top-1 {metrics['top1']:.1%}"
        + (" (epoch chosen on these songs)" if comparison.is_chosen(metrics) else ""),
    )
    yield (
        f"task2_confusion_matrix_{name}",
        figure,
        f"Who is taken for whom by {model}: songs by true artist (rows) and best guess (columns), "
        "artists who are taken for each other side by side. "
        f"Made from task2/{folder.name}/metrics.json and val_predictions.json.",
    )


def training_curves(folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw how a network was trained; see :func:`confusion_matrix` for what is given."""
    metrics = results.read_metrics(folder / "metrics.json", made_by)
    history = results.read_history(folder / "history.csv", made_by)
    name, data, epoch = metrics["model"], metrics["dataset"], metrics["epoch"]
    if epoch not in history["epoch"]:
        raise UserError(f"{folder / 'history.csv'} has no epoch {epoch}: run {made_by} again")
    model = comparison.title(name, metrics)
    is_chosen = comparison.is_chosen(metrics)
    figure = figures_network.training_curves(
        history,
        epoch=epoch,
        chosen="chosen on the validation songs" if is_chosen else "the last one, not chosen",
        title=f"{model}: training on {data['train']} songs of {dataset.label(data)}, validated on "
        f"{data['val']}",
    )
    yield (
        f"task2_training_{name}",
        figure,
        f"Loss, accuracy on the validation songs and learning rate of {model}, epoch by epoch; the "
        "dotted line marks the epoch whose weights were taken. The training loss is of crops as "
        "they were augmented, the other of whole songs. "
        f"Made from task2/{folder.name}/history.csv and metrics.json.",
    )
