"""Markdown for people of what results.json says: tables, intervals, and what must not be missed.

The deck, the model card and README's table are written with it.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from artist20 import UserError, comparison, dataset, files

UNTRAINED = "untrained backbone"
MARKERS = ("<!-- results -->", "<!-- end of results -->")  # of README's table

# What the homework's deck says of artist20's validation songs: top-1, top-3.
PUBLISHED = {
    "svm": (0.5714, 0.7879),
    "random_forest": (0.4632, 0.7273),
    "knn": (0.3723, 0.6104),
    "panns": (0.6017, 0.8312),
    "resnet": (0.7273, 0.8918),
}


def escape(text: str) -> str:
    r"""Keep a name from being read as Markdown or HTML, such as ``*``, ``_`` or ``|``."""
    text = " ".join(text.split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|~$#&" else letter for letter in text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Lay out a table; its first ``left`` columns are set left, the others right."""
    rule = [":--" if i < left else "--:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def percent(share: float) -> str:
    """Write a share: ``48.7%``."""
    return f"{share:.1%}"


def interval(ends: Sequence[float]) -> str:
    """Write an interval of shares, in percent: ``36.8–72.4``."""
    low, high = ends
    return f"{100 * low:.1f}–{100 * high:.1f}"


def difference(value: float) -> str:
    """Write a difference of shares, in points: ``+3.9``."""
    return comparison.points(value)


def differences(ends: Sequence[float]) -> str:
    """Write an interval of differences, in points: ``-9.7 to +16.9``."""
    return comparison.points_between(ends)


def confidence(results: dict[str, Any]) -> str:
    """Write how sure the intervals are: ``95 %``."""
    return f"{100 * results['bootstrap']['confidence']:g} %"


def title(record: dict[str, Any]) -> str:
    """Name a model; that its backbone is untrained must not be missed."""
    return escape(record["title"]).replace(UNTRAINED, f"**{UNTRAINED}**")


def enumerate_names(names: Sequence[str]) -> str:
    """Join names: ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def data_label(data: dict[str, Any]) -> str:
    """Name the data set, and say whether it is a part of one."""
    part = f", only {data['limit']} songs per split" if data["limit"] else ""
    return escape(f"{dataset.label(data)}{part}")


def untrained(results: dict[str, Any]) -> list[str]:
    """Name the models that hear through an untrained backbone."""
    return [
        escape(record["title"].removesuffix(f", {UNTRAINED}"))
        for record in results["models"].values()
        if record["untrained_backbone"]
    ]


def warnings(results: dict[str, Any]) -> list[str]:
    """Say in sentences why figures are not what they may seem: data, backbone."""
    data = results["dataset"]
    sentences = []
    if not dataset.is_artist20(data):
        sentence = (
            "**Stand-in data.** Nothing here is measured on artist20 itself, but on "
            f"{data_label(data)}."
        )
        if data["synthesised"]:
            sentence += " Its figures say that the code runs, and nothing about music."
        sentences.append(sentence)
    if untrained(results):
        sentences.append(
            f"**Untrained backbone.** {enumerate_names(untrained(results))}: Cnn14 has random "
            "weights in place of the pretrained ones, and these figures say nothing about PANNs."
        )
    return sentences


def stamp(results: dict[str, Any]) -> str:
    """Say the same in a line, or nothing."""
    data = results["dataset"]
    parts = []
    if not dataset.is_artist20(data):
        parts.append(f"Stand-in data: {data_label(data)}, not artist20 itself.")
    if untrained(results):
        parts.append(f"Untrained backbone: {enumerate_names(untrained(results))}.")
    return " ".join(parts)


def songs_line(results: dict[str, Any]) -> str:
    """Say which songs figures are of, and what the intervals are."""
    data = results["dataset"]
    return (
        f"{data['val']} validation songs of {data_label(data)}, {data['val_albums']} albums by "
        f"{data['artists']} artists; intervals of {confidence(results)} by bootstrap over albums."
    )


def chosen_line(models: dict[str, Any]) -> str:
    """Say which networks' epochs are chosen on the validation songs, or nothing."""
    chosen = [escape(record["title"]) for record in models.values() if record["last"]]
    if not chosen:
        return ""
    return (
        f"Epochs are chosen on these songs for {enumerate_names(chosen)}, which flatters them; "
        "the last epoch's figures stand beside."
    )


def left_out_line(results: dict[str, Any]) -> str:
    """Say which models of Task 1 were left out, and why, or nothing."""
    return " ".join(
        f"**{escape(name)}** is left out: {escape(reason)}."
        for name, reason in results["left_out"].items()
    )


def results_table(results: dict[str, Any], names: Sequence[str] | None = None) -> str:
    """Tabulate models, by default all: accuracy with intervals, macro-F1, the course's score.

    The homework's own figures stand beside them if the songs are artist20's.
    """
    models = {name: results["models"][name] for name in names or results["models"]}
    header = ["model", "top-1", "95 %", "top-3", "95 %", "macro-F1", "score", "in CV"]
    some_chosen = any(record["last"] for record in models.values())
    with_published = dataset.is_artist20(results["dataset"])
    header += ["last epoch"] * some_chosen + ["homework's deck"] * with_published
    rows = []
    for name, record in models.items():
        over_albums, last, cv = record["intervals"]["albums"], record["last"], record["cv"]
        row = [
            title(record),
            percent(record["top1"]),
            interval(over_albums["top1"]),
            percent(record["top3"]),
            interval(over_albums["top3"]),
            f"{record['macro_f1']:.2f}",
            f"{record['course_score']:.3f}",
            percent(cv["top1"]) if cv else "–",
        ]
        if some_chosen:
            row.append(f"{percent(last['top1'])} / {percent(last['top3'])}" if last else "–")
        if with_published:
            row.append(" / ".join(f"{of:.2%}" for of in PUBLISHED.get(name, ())) or "–")
        rows.append(row)
    return table(header, rows)


def artists_table(
    results: dict[str, Any], artists: Sequence[str], names: Sequence[str] | None = None
) -> str:
    """Tabulate every artist's F1 by model."""
    models = {name: results["models"][name] for name in names or results["models"]}
    first = next(iter(models.values()))
    rows = []
    for artist in artists:
        scores = [record["artists"][artist]["f1"] for record in models.values()]
        cells = ["–" if f1 is None else f"{f1:.2f}" for f1 in scores]
        rows.append([escape(artist), str(first["artists"][artist]["songs"]), *cells])
    return table(["artist", "songs", *map(title, models.values())], rows)


def for_readme(results: dict[str, Any]) -> str:
    """Write README's table, with what must be said of it."""
    blocks = [
        *warnings(results),
        songs_line(results) + " Score: top-1 + 0.5 × top-3. CV: cross-validation by album on the "
        "training songs.",
        results_table(results),
        chosen_line(results["models"]),
        left_out_line(results),
    ]
    return "\n\n".join(filter(None, blocks))


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between :data:`MARKERS` in a file.

    Raises
    ------
    UserError
        If the file is missing, or has not each of them once and in this order.
    """
    start, end = MARKERS
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: name the file whose table is to be written") from None
    head, found_start, rest = before.partition(start)
    _, found_end, tail = rest.partition(end)
    if not found_start or not found_end or start in rest or end in head + tail:
        raise UserError(f"{path} must have the lines {start} and {end} once, in this order")
    write_text(path, f"{head}{start}\n\n{text}\n\n{end}{tail}")


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    with files.atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
