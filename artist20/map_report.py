"""Maps of the songs as the report scripts draw them: files in, figures and captions out."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from artist20 import comparison, dataset, figures_songs, maps, results
from artist20.figures import Drawing
from artist20.maps import SongMap

PREPROCESSING = "task1_preprocessing.py"
SCALED = (
    "Features are scaled by their medians and quartiles over the training songs, and cut off at "
    f"{maps.MAX_SCALED:g} interquartile ranges."
)


def of_features(results_dir: Path) -> tuple[str, SongMap]:
    """Map the songs by Task 1's features; return a heading, too."""
    folder = results.task1_dir(results_dir)
    vectors = maps.scaled_features(
        *(results.read_features(folder, split) for split in ("train", "val"))
    )
    song_map = maps.make_map(vectors)
    return f"{song_map.n_dimensions} hand-made features", song_map


def of_task1(results_dir: Path, data: dict[str, Any]) -> Iterator[Drawing]:
    """Draw the map of Task 1's features alone.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.
    data : dict
        What Task 1's ``metrics.json`` says of the songs.
    """
    drawn = [of_features(results_dir)]
    figure = figures_songs.song_maps(drawn, title=f"Task 1: {_songs(data)}")
    files = ["task1/metrics.json", "X_train.npy", "X_val.npy", "songs_train.json", "songs_val.json"]
    yield "map", figure, _describe(drawn, files, [SCALED])


def of_network(results_dir: Path, folder: Path, made_by: str) -> Iterator[Drawing]:
    """Draw a network's map of the songs beside that of Task 1's features.

    Where Task 1 has not been run on the same songs, the network's stands alone, which is said.

    Parameters
    ----------
    results_dir : Path
        The folder that all stages write to.
    folder : Path
        The run's.
    made_by : str
        The command that trains it, for messages.
    """
    metrics = results.read_metrics(folder / "metrics.json", made_by)
    name = metrics["model"]
    val_songs = results.read_predictions(folder / "val_predictions.json", made_by).songs
    vectors = results.read_embeddings(folder, metrics, val_songs, made_by)
    title = comparison.title(name, metrics)
    song_map = maps.make_map(vectors)
    drawn = [(f"{title}: embeddings of {song_map.n_dimensions} numbers", song_map)]
    files = [f"task2/{name}/metrics.json", "val_predictions.json", *results.EMBEDDING_FILES]
    more = ["From the training songs the network has learnt, which sets these apart."]
    if _same_songs(results_dir, metrics["dataset"]):
        drawn.insert(0, of_features(results_dir))
        files += ["task1/X_train.npy", "task1/X_val.npy"]
        more.append(SCALED)
    else:
        alone = f"There is no map of the features: {PREPROCESSING} was not run on these songs."
        print(f"task2_map_{name}: {alone}")
        more.append(alone)
    figure = figures_songs.song_maps(
        drawn, title=f"{_songs(metrics['dataset'])}, as heard by {title}"
    )
    yield f"task2_map_{name}", figure, _describe(drawn, files, more)


def _same_songs(results_dir: Path, data: dict[str, Any]) -> bool:
    path = results.task1_dir(results_dir) / "preprocessing.json"
    if not path.is_file():
        return False
    made = results.read_metrics(path, PREPROCESSING)["dataset"]
    return made["fingerprint"] == data["fingerprint"]


def _songs(data: dict[str, Any]) -> str:
    return f"{data['train']} training and {data['val']} validation songs of {dataset.label(data)}"


def _describe(
    drawn: Sequence[tuple[str, SongMap]], files: Sequence[str], more: Sequence[str]
) -> str:
    """Write a caption, and print the numbers in it."""
    numbers = [_numbers(heading, song_map) for heading, song_map in drawn]
    print(*numbers, sep="\n")
    first = drawn[0][1]
    shown = (
        f"{len(first.xy)} of {first.n_songs} songs" if len(first.xy) < first.n_songs else "Songs"
    )
    return " ".join(
        [
            f"{shown} in the plane, by PCA and t-SNE: neighbours are alike, long distances mean "
            "nothing.",
            *numbers,
            *more,
            f"Made from {', '.join(files)}.",
        ]
    )


def _numbers(heading: str, song_map: SongMap) -> str:
    """Say how well artists and albums cluster, in the vectors' full dimension."""
    text = (
        f"{heading}: the nearest training song of {song_map.same_artist:.1%} of the validation "
        f"songs is of the same artist (by chance {song_map.by_chance:.1%})"
    )
    if song_map.same_album is not None:
        text += (
            f", the nearest other validation song of {song_map.same_album:.1%} is of the same album"
        )
    return f"{text}."
