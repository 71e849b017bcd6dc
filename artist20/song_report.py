"""Where in a song which artist is heard: what task2_gen_report_wo_pretrain.py --song draws."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from matplotlib.figure import Figure

from artist20 import audio, evaluation, figures_songs, printable, results, spectrogram
from artist20.resnet import TrainedResNet

N_RIVALS = 3
MAX_NAME = 120  # bytes, of the 255 that a file's name may have
SCRIPT = "task2_train_wo_pretrain.py"


def draw(file: Path, network: TrainedResNet, folder: Path) -> tuple[Figure, str]:
    """Draw a song's spectrogram and whom the network hears over time.

    The true artist is the folder above the album's, as in the data folder, if it is one whom the
    network knows; with the true artist or without, the three others are drawn that are likeliest in
    the song as a whole.

    Parameters
    ----------
    file : Path
        The song, with all its folders.
    network : TrainedResNet
        The network.
    folder : Path
        Its results folder, which may tell whether it was trained on the song.

    Returns
    -------
    figure : Figure
    caption : str

    Raises
    ------
    AudioError
        If the file cannot be read.
    """
    waveform = audio.open_song(file)
    log_mel = spectrogram.log_mel(waveform, network.front_end)
    whole = network.score(log_mel).mean(axis=0)
    seconds, probabilities, window_seconds = network.curve(log_mel)

    artist = true_artist(file, network.classes)
    ranked = [network.classes[i] for i in evaluation.top_k(whole[None], len(whole))[0]]
    shown = [artist] if artist else []
    shown += [name for name in ranked if name != artist][:N_RIVALS]
    columns = [network.classes.index(name) for name in shown]
    labels = [
        f"{name.replace('_', ' ')}{', the true artist' if name == artist else ''}: {share:.1%}"
        for name, share in zip(shown, whole[columns], strict=True)
    ]
    heard_by = results.TITLES[folder.name]
    split = split_of(file, folder)
    name = printable(file.stem).replace("_", " ")
    title = f"{name}, as heard by {heard_by}, trained on {network.trained_on}"
    figure = figures_songs.song_timeline(
        log_mel,
        spectrogram.mel_hz(network.front_end.n_mels),
        max(len(waveform) / audio.SAMPLE_RATE, spectrogram.to_seconds(1)),
        seconds,
        probabilities[:, columns],
        labels,
        has_true=artist is not None,
        title=title + (", this song among them" if split == "train" else ""),
    )
    learnt = {
        "train": "It is one of the training songs, on which the network is flattered.",
        "val": "It is one of the validation songs.",
        "neither": "Going by its path, it is none of the songs of the network's training.",
        "unknown": f"Whether the network was trained on it is not known: {folder.name} has no "
        "lists of its songs.",
    }[split]
    caption = (
        f"Log-mel spectrogram of {printable(file.name)}, and the probability of {len(shown)} "
        f"artists in windows of {window_seconds:.1f} s, each drawn at its middle; the legend has "
        "those of the whole song, the mean over windows of "
        f"{spectrogram.to_seconds(network.window_frames):.1f} s, as the network was trained on. "
        f"{learnt} Made from task2/{folder.name}/best.pt and the song."
    )
    return figure, caption


def true_artist(file: Path, classes: Sequence[str]) -> str | None:
    """Return whose a file ``<artist>/<album>/<song>`` is, if the artist is among the classes."""
    artist = file.parent.parent.name
    return artist if artist in classes else None


def split_of(file: Path, folder: Path) -> str:
    """Say whether a run's songs include a file: train, val, neither or, without lists, unknown.

    Songs are known by the last folders of their path, as the split lists have it.
    """
    train_list, val_list = folder / results.EMBEDDING_FILES[2], folder / "val_predictions.json"
    if not (train_list.is_file() and val_list.is_file()):
        return "unknown"
    val = results.read_predictions(val_list, SCRIPT).songs
    for split, songs in (("train", results.read_songs(train_list, SCRIPT)), ("val", val)):
        for song in songs:
            parts = PurePosixPath(song["path"]).parts
            if file.parts[-len(parts) :] == parts:
                return split
    return "neither"


def picture_names(files: Sequence[Path]) -> list[str]:
    """Name a picture after each song, ``task2_song_<name>``, no two of them alike.

    What is no letter, digit, dot or dash becomes an underscore. Further songs of one name, such as
    those of another album or in another format, are numbered, in the order given.
    """
    names: list[str] = []
    taken: set[str] = set()
    for file in files:
        stem = re.sub(r"[^\w.-]+", "_", file.stem).encode()[:MAX_NAME].decode(errors="ignore")
        name, number = stem, 1
        while name.casefold() in taken:  # some file systems take capitals for small letters
            number += 1
            name = f"{stem}-{number}"
        taken.add(name.casefold())
        names.append(f"task2_song_{name}")
    return names
