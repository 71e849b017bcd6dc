"""The slides, the model card and README's table: numbers from results.json, words from templates.

``python -m artist20.slides`` writes all three. Every slide, sentence and table is in
``templates/*.md.j2``, to be edited there; here is what they say, computed from the record
:class:`~artist20.results.Comparison`.
"""

import base64
import mimetypes
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from msgspec.structs import asdict

from artist20 import UserError
from artist20.files import read_text, write_text
from artist20.naming import NOT_LEARNT_MARK, UNTRAINED_MARK, network_name, parse_network_name
from artist20.report import compare, tables
from artist20.results import (
    ArtistResult,
    Comparison,
    EncoderSettings,
    Interval,
    ModelResult,
    OfNetwork,
    OfTask1,
    Pair,
    ResNetRecipe,
    TransferRecipe,
)

TEMPLATES = Path(__file__).with_name("templates")
MARKERS = ("<!-- results -->", "<!-- end of results -->")  # of README's table
MOST_ARTISTS = 20  # that a slide has room for

# What the homework says of artist20's validation songs: top-1, top-3.
PUBLISHED = {
    "svm": (0.5714, 0.7879),
    "random_forest": (0.4632, 0.7273),
    "knn": (0.3723, 0.6104),
    "panns": (0.6017, 0.8312),
    "resnet": (0.7273, 0.8918),
}

# What the homework trains its networks with, as far as commands can change it.
HOMEWORK: dict[str, dict[str, float]] = {
    "panns": {"epochs": 100, "batch_size": 8, "lr": 0.005, "crop_seconds": 150, "views": 8},
    "resnet": {"epochs": 100, "batch_size": 32, "lr": 0.01, "crop_seconds": 150},
}

# What the field reached on artist20's validation songs, this very split: how; top-1 / top-3.
FIELD = (
    (
        "short-chunk CNN from scratch on 15 s of vocals separated by Demucs, songs averaged",
        "96.1 / 97.4",
    ),
    (
        "frozen ECAPA on the plain mix + MLP; linear; nearest centroid",
        "95.2 / 98.7; 95.2 / 97.8; 84.8 / 92.2",
    ),
    ("CNN on mix and vocals", "90.9 / 98.3"),
    (
        "ensemble of 14 networks from scratch, plain mix; best single of them, a wide CRNN",
        "86.1 / 91.3; 80.5 / 92.2",
    ),
    ("CNN from scratch, plain mix", "82.3 / 92.2"),
    ("the homework: ResNet; PANNs; SVM", "72.7 / 89.2; 60.2 / 83.1; 57.1 / 78.8"),
    ("MERT, linear probe; MusicFM probe", "68.4; 56.3 / 84.9"),
    ("best classical: SVM on hand-made features", "60.6 / 77.1, 59.3 / 83.1"),
)

# Improvements that are asked after: of which model over which.
STEPS = (
    ("panns", "svm"),
    ("resnet", "svm"),
    ("resnet", "panns"),
    ("panns_strong", "panns"),
    ("resnet_strong", "resnet"),
)


# --- Markdown ----------------------------------------------------------------------------------


class Markdown(Markup):
    """Text that is Markdown already; whatever is put into it is escaped."""

    @classmethod
    def escape(cls, value: Any) -> "Markdown":
        """Keep a name from being read as Markdown or HTML, such as ``*``, ``_`` or ``|``."""
        if isinstance(value, Markup):
            return cls(value)
        text = re.sub(r"\s+", " ", str(value))
        return cls(
            "".join(f"\\{letter}" if letter in "\\`*_[]<>|~$#&" else letter for letter in text)
        )


def code(text: str) -> Markdown:
    """Set a command in a code span, also within a table."""
    return Markdown("`{}`").format(Markdown(text.replace("|", r"\|")))


def marked(title: str) -> Markdown:
    """Name a model; that its figures mean nothing must not be missed."""
    name = unmarked(title)
    marks = title.removeprefix(name).removeprefix(", ")
    return Markdown("{}, **{}**").format(name, marks) if marks else Markdown.escape(name)


def unmarked(title: str) -> str:
    """Take off what a title says of why figures mean nothing."""
    return title.removesuffix(NOT_LEARNT_MARK).removesuffix(UNTRAINED_MARK)


def enumerated(names: Iterable[Any]) -> Markdown:
    """Join names: ``a, b and c``."""
    *others, last = map(Markdown.escape, names)
    return Markdown(" and ").join([Markdown(", ").join(others), last] if others else [last])


def percent(share: float, digits: int = 1) -> str:
    """Write a share: ``48.7%``."""
    return f"{share:.{digits}%}"


def points_over(share: float, other: float) -> str:
    """Write by how many points one share is above another: ``+3.9``."""
    return tables.points(share - other)


def thousands(number: int) -> str:
    """Write a large number: ``2,910,410``."""
    return f"{number:,}"


def value(setting: Any) -> str:
    """Write a setting for people; of a hash, its beginning."""
    if setting is None:
        return "–"
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    if isinstance(setting, float):
        return f"{setting:g}"
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        return ", ".join(map(value, setting)) or "–"
    text = str(setting)
    return f"{text[:16]}…" if len(text) == 64 else text


FILTERS: dict[str, Callable[..., Any]] = {
    "code": code,
    "enumerated": enumerated,
    "interval": partial(tables.percents, dash="–"),
    "marked": marked,
    "p_value": tables.p_text,
    "percent": percent,
    "points": tables.points,
    "points_between": tables.points_between,
    "points_over": points_over,
    "thousands": thousands,
    "unmarked": unmarked,
    "value": value,
}


# --- what is said ------------------------------------------------------------------------------


def ranked(models: Mapping[str, ModelResult]) -> list[str]:
    """Return the models' names by top-1, among equals by top-3, the best first."""
    return sorted(
        models, key=lambda name: (models[name].val.top1, models[name].val.top3), reverse=True
    )


def best_of(models: Mapping[str, ModelResult]) -> str:
    """Return the best model's name."""
    return ranked(models)[0]


def flattery(model: ModelResult) -> float:
    """Return by how much choosing the epoch on the validation songs raised a model's top-1."""
    return model.val.top1 - model.last.top1 if model.last else 0.0


def most_flattered(models: Iterable[ModelResult]) -> ModelResult:
    """Return the model with the largest :func:`flattery`."""
    return max(models, key=flattery)


def best_in_cv(models: Mapping[str, ModelResult]) -> str | None:
    """Return the name of the model with the highest top-1 in cross-validation, if any has one."""
    in_cv = {name: model.cv.top1 for name, model in models.items() if model.cv}
    return max(in_cv, key=lambda name: in_cv[name]) if in_cv else None


def significant(pairs: Iterable[Pair]) -> list[Pair]:
    """Keep the pairs whose difference is significant."""
    return [pair for pair in pairs if pair.verdict != "no significant difference"]


def improvements(comparison: Comparison) -> list[Pair]:
    """Return what the homework's steps brought: the model that is to be better is the first."""
    models = comparison.models
    steps = list(STEPS)
    steps += [(name, name.partition("@")[0]) for name in models if "@" in name]  # renditions
    steps = [step for step in steps if models.keys() >= set(step)]
    single = {name: model for name, model in models.items() if name != "ensemble"}
    if "ensemble" in models:
        steps.append(("ensemble", best_of(single)))
    tasks = [
        {name: model for name, model in models.items() if model.folder.startswith(task)}
        for task in ("task2", "task1")
    ]
    if all(tasks):
        steps.append((best_of(tasks[0]), best_of(tasks[1])))
    return [compare.against(comparison, first)[second] for first, second in dict.fromkeys(steps)]


def extreme_artists(
    model: ModelResult, most: int = 3
) -> tuple[list[tuple[str, ArtistResult]], list[tuple[str, ArtistResult]]]:
    """Return a model's easiest and its hardest artists, each with their counts."""
    artists = [(name, result) for name, result in model.artists.items() if result.songs]
    by_share = sorted(artists, key=lambda artist: compare.share(artist[1]))
    n = max(1, min(most, len(artists) // 2))
    return by_share[::-1][:n], by_share[:n]


def listed_artists(models: Mapping[str, ModelResult]) -> list[str]:
    """Return all artists; of more than a slide has room for, the easiest and the hardest."""
    artists = list(next(iter(models.values())).artists)
    if len(artists) <= MOST_ARTISTS:
        return artists

    def mean_f1(artist: str) -> float:
        return sum(model.artists[artist].f1 or 0 for model in models.values()) / len(models)

    by_f1, half = sorted(artists, key=mean_f1, reverse=True), MOST_ARTISTS // 2
    return by_f1[:half] + by_f1[-half:]


def album_effect(models: Mapping[str, ModelResult]) -> Interval | None:
    """Return the least and the most that folds which split albums promise over such that do not.

    In top-1 of Task 1's models; None if cross-validation had one kind of folds only.
    """
    details = [model.details for model in models.values()]
    by_fold = [of.model.cv_top1_by for of in details if isinstance(of, OfTask1)]
    both = [(of.get("song"), of.get("album")) for of in by_fold]
    gains = [song - album for song, album in both if song is not None and album is not None]
    return (min(gains), max(gains)) if gains else None


def ablation_extremes(
    comparison: Comparison,
) -> tuple[ModelResult, tuple[str, float], tuple[str, float]] | None:
    """Return the ablated model, and the families it misses most and does best with alone.

    Each with the difference in cross-validation's top-1 to all families. None without ablation.
    """
    ablation = comparison.ablation.get("task1")
    if not ablation:
        return None
    model = comparison.models[ablation.model]
    assert isinstance(model.details, OfTask1)
    whole, families = model.details.model.cv_top1, ablation.families.items()
    without = {name: of.without - whole for name, of in families if of.without is not None}
    alone = {name: of.alone - whole for name, of in families if of.alone is not None}
    if not without or not alone:
        return None
    missed, best = min(without, key=lambda n: without[n]), max(alone, key=lambda n: alone[n])
    return model, (missed, without[missed]), (best, alone[best])


def settings_rows(network: OfNetwork) -> list[tuple[str, str, str, str]]:
    """List a network's settings, two to a row, without what names its data."""
    settings = network.settings
    recipe = settings.recipe
    flat: dict[str, Any] = {
        "parameters trained": f"{network.parameters:,}",
        "epoch that is kept": network.epoch,
        **asdict(recipe),
        **{
            f"encoder {field}": " and ".join(
                str(getattr(each, field)) for each in settings.encoders
            )
            for field in (EncoderSettings.__struct_fields__ if settings.encoders else ())
        },
        "precision": settings.precision,
        **({"heard in": settings.heard} if settings.heard else {}),
        "patience": settings.patience,
        "also train on": settings.also_train_on,
        "seed": settings.seed,
    }
    cells = [(name.replace("_", " "), value(setting)) for name, setting in flat.items()]
    half = -(-len(cells) // 2)
    right = [*cells[half:], ("", "")]
    return [(*cells[i], *right[i]) for i in range(half)]


def changes(name: str, recipe: TransferRecipe | ResNetRecipe) -> list[str]:
    """Say which of :data:`HOMEWORK`'s settings a run changed, and from what: ``epochs 5 (100)``."""
    words = {"batch_size": "batch", "lr": "learning rate", "crop_seconds": "seconds of a crop"}
    return [
        f"{words.get(field, field)} {value(getattr(recipe, field))} ({value(homework)})"
        for field, homework in HOMEWORK[name].items()
        if getattr(recipe, field) != homework
    ]


def homework_of(name: str) -> str:
    """Return the name of the network that the homework's recipe makes in place of another's."""
    named = parse_network_name(name)
    return network_name(named.model, "homework", named.rendition)


def versions(comparison: Comparison) -> list[str]:
    """List the libraries with the versions that were used, such as ``numpy 2.4.6``."""
    found: dict[str, dict[str, None]] = {}
    for run in comparison.runs.values():
        for name, version in run.versions.items():
            found.setdefault(name, {})[version] = None
    return [f"{name} {' or '.join(of)}" for name, of in found.items()]


GLOBALS: tuple[Callable[..., Any], ...] = (
    ablation_extremes,
    album_effect,
    best_in_cv,
    best_of,
    changes,
    compare.albums_of_all,
    compare.worst_albums,
    extreme_artists,
    flattery,
    homework_of,
    improvements,
    listed_artists,
    most_flattered,
    ranked,
    settings_rows,
    significant,
    versions,
)


# --- rendering ---------------------------------------------------------------------------------


def render(
    template: str,
    comparison: Comparison,
    figures: Mapping[str, Markdown],
    *,
    author: str = "",
    student_id: str = "",
    own_slides: str = "",
    full: bool = False,
) -> str:
    """Write Markdown.

    Parameters
    ----------
    template : str
        ``"deck"``, ``"model_card"`` or ``"readme_table"``.
    comparison : Comparison
        What is said.
    figures : mapping of str to Markdown
        Those that can be shown: by name, such as ``"task1_map"``, where they lie as seen from the
        file; see :func:`find_figures`.
    author, student_id : str
        Of the first slide.
    own_slides : str
        Markdown that is put after the slides.
    full : bool
        Whether the appendix comes last.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        autoescape=True,  # so that macros return what is not escaped again
        finalize=Markdown.escape,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    models = comparison.models
    strong = {
        name: model
        for name, model in models.items()
        if isinstance(model.details, OfNetwork) and model.details.settings.recipe_name == "strong"
    }
    both_recipes = {*strong, *map(homework_of, strong)}
    text = environment.get_template(f"{template}.md.j2").render(
        comparison=comparison,
        data=comparison.dataset,
        models=models,
        task1={name: model for name, model in models.items() if model.folder == "task1"},
        segments={n: model for n, model in models.items() if model.folder == "task1/segment"},
        wide={n: model for n, model in models.items() if "/wide" in model.folder},
        strong=strong,
        both_recipes={name: model for name, model in models.items() if name in both_recipes},
        of_homework={n: model for n, model in models.items() if n in HOMEWORK},
        beyond={
            name: model
            for name, model in models.items()
            if model.folder != "task1" and name not in PUBLISHED
        },
        figures=figures,
        song_figure=next((name for name in figures if name.startswith("task2_song_")), ""),
        map_figure=next((name for name in map_names(models) if name in figures), ""),
        confidence=f"{100 * comparison.confidence:g} %",
        published=PUBLISHED if comparison.dataset.is_artist20 else {},
        field=FIELD if comparison.dataset.is_artist20 else (),
        against=partial(compare.against, comparison),
        author=author,
        student_id=student_id,
        own_slides=Markdown(own_slides),
        full=full,
        **{function.__name__: function for function in GLOBALS},
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def map_names(models: Mapping[str, ModelResult]) -> list[str]:
    """Return what the networks' maps of the songs are called, the best network's first."""
    return [f"task2_map_{name}" for name in ranked(models)]


def embed_images(page: str, folder: Path) -> str:
    """Put the pictures that an HTML page in a folder shows into the page itself."""

    def embedded(found: re.Match[str]) -> str:
        picture = folder / unquote(found[1])
        kind = mimetypes.guess_type(picture)[0]
        return f'src="data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"'

    return re.sub(r'src="([^":]+\.(?:png|svg))"', embedded, page)


def find_figures(assets_dir: Path, seen_from: Path) -> dict[str, Markdown]:
    """Find pictures: by name, where they lie as seen from a folder, as a URL has it."""
    found = {}
    for suffix in (".svg", ".png"):  # PNG is taken where both are there
        for file in sorted(assets_dir.glob(f"*{suffix}")):
            relative = Path(os.path.relpath(file, seen_from)).as_posix()
            found[file.stem] = Markdown(quote(relative))
    return found


def marp(slides: Path) -> str:
    """Return the command that turns slides into a page which holds its pictures."""
    html = str(slides.with_suffix(".html"))
    make = shlex.join(["npx", "@marp-team/marp-cli", str(slides), "--html", "-o", html])
    return f"{make} && {shlex.join(['python', '-m', 'artist20.slides', '--embed', html])}"


def put_between_markers(path: Path, text: str) -> None:
    """Replace what stands between :data:`MARKERS` in a file.

    Raises
    ------
    UserError
        If the file is missing, or has not each of them once and in this order.
    """
    start, end = MARKERS
    if not path.is_file():
        raise UserError(f"{path} is missing: name the file whose table is to be written")
    before = read_text(path)
    head, found_start, rest = before.partition(start)
    _, found_end, tail = rest.partition(end)
    if not found_start or not found_end or start in rest or end in head + tail:
        raise UserError(f"{path} must have the lines {start} and {end} once, in this order")
    write_text(path, f"{head}{start}\n\n{text.strip()}\n\n{end}{tail}")
