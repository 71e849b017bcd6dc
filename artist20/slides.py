"""Write the homework's deck, and the model card, of what was measured.

Reads   ASSETS_DIR/results.json, and which figures lie beside it; RESULTS_DIR, to see that the file
        is of what is there now
Writes  report.md        the deck, for Marp
        MODEL_CARD.md    beside it
        with --readme, the table of results between that file's two markers

Every number is from results.json, which python -m artist20.comparison makes.

    python -m artist20.slides --results-dir results --assets-dir assets --output report.md
    npx @marp-team/marp-cli report.md --html -o report.html
"""

import argparse
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

from artist20 import cli, comparison, dataset, findings, model_card, runtime, tables
from artist20.results import read_results, results_file
from artist20.tables import escape, percent, table

MOST_ARTISTS = 20  # that a slide has room for
MOST_MODELS = 5  # with a column each, in letters of the usual size
MOST_ROWS = 12  # of a table in letters of the usual size

FRONT_MATTER = """\
---
marp: true
theme: default
paginate: true
math: false
title: Music artist recognition on artist20
style: |
  section { font-size: 23px; padding: 44px 60px; place-content: start stretch; }
  section h1 { font-size: 46px; }
  section h2 { font-size: 33px; margin: 0 0 14px; }
  section blockquote { font-size: 17px; margin: 0 0 12px; padding: 0 0 0 12px; }
  section table { font-size: 19px; margin: 0 0 12px; }
  section th, section td { padding: 3px 10px; line-height: 1.3; }
  section ul { margin: 0 0 12px; }
  section li, section p { overflow-wrap: anywhere; }
  section pre { font-size: 17px; }
  section img { display: block; margin: auto; max-width: 100%; max-height: 525px; \
object-fit: contain; }
  section.lead { place-content: center stretch; }
  section.lead blockquote { font-size: 22px; }
  section.small { font-size: 20px; }
  section.dense table { font-size: 14px; }
  section.dense th, section.dense td { padding: 2px 7px; line-height: 1.25; }
  section.wide { font-size: 20px; }
  section.wide table { font-size: 16px; }
  section.wide th, section.wide td { padding: 3px 8px; white-space: nowrap; }
  section.wide td:first-child { white-space: normal; }
  section.names td { max-width: 19em; overflow: hidden; text-overflow: ellipsis; \
white-space: nowrap; }
  section.wrapped td { overflow-wrap: anywhere; }
  section.albums td { word-break: break-all; }
  section.albums td:first-child { white-space: nowrap; }
---
"""

# What a family of Task 1's features is, and whose definition.
FAMILIES = {
    "mfcc": "mel-frequency cepstral coefficients (Davis and Mermelstein 1980)",
    "mfcc_delta": "their first derivative over time",
    "mfcc_delta2": "their second derivative",
    "mel": "mel spectrogram in dB (Slaney 1998)",
    "chroma": "pitch classes (Ellis 2007)",
    "contrast": "spectral contrast: peaks over valleys (Jiang et al. 2002)",
    "low_mel": "lowest mel bins, the homework's stand-in for chroma",
    "centroid": "spectral centroid (Tzanetakis and Cook 2002)",
    "bandwidth": "spectral bandwidth",
    "rolloff": "spectral rolloff",
    "mel_energy": "power over all mel bins, the homework's stand-in for rolloff",
    "rms": "loudness",
    "zero_crossing_rate": "changes of sign",
    "tempo": "beats per minute, from the onsets (Ellis 2007)",
    "mfcc_cov": "covariances of the MFCCs (Mandel and Ellis 2005)",
}

# Improvements that are asked after: of which model over which.
STEPS = (
    ("panns", "svm"),
    ("resnet", "svm"),
    ("resnet", "panns"),
    ("panns_strong", "panns"),
    ("resnet_strong", "resnet"),
)

TUTORIAL = """\
```sh
pip install -r requirements.txt
bash get_dataset.sh                     # artist20 and the PANNs weights

python task1_preprocessing.py
python task1_train.py
python task1_gen_report.py

python task2_train.py                   # PANNs
python task2_inference.py
python task2_gen_report.py

python task2_train_wo_pretrain.py       # ResNet
python task2_inference_wo_pretrain.py
python task2_gen_report_wo_pretrain.py

python -m artist20.comparison           # all models in one table, and results.json
python -m artist20.slides               # this deck, and MODEL_CARD.md
```"""

TUTORIAL_MORE = """\
```sh
make demo                                            # every stage on synthesised songs

python task1_train.py --level segment                # learn from segments, score songs
python task2_train_wo_pretrain.py --recipe strong    # beyond the homework's recipe
python task2_train.py --recipe strong
python -m artist20.ensemble                          # all models together

python -m artist20.collection split ~/Music --output data/mine --seed 0 --test
python task1_preprocessing.py --data-dir data/mine --results-dir results/mine

python task2_inference_wo_pretrain.py --audio song.mp3
python task2_inference_wo_pretrain.py --answers answers.json
```"""

REFERENCES = """\
- D. P. W. Ellis: *Classifying music audio with timbral and chroma features.* ISMIR 2007. (artist20)
- Q. Kong et al.: *PANNs: Large-scale pretrained audio neural networks for audio pattern
  recognition.* IEEE/ACM TASLP 28, 2020. (Cnn14)
- K. He et al.: *Deep residual learning for image recognition.* CVPR 2016.
- H. Zhang et al.: *mixup: Beyond empirical risk minimization.* ICLR 2018.
- I. Loshchilov and F. Hutter: *Decoupled weight decay regularization.* ICLR 2019. (AdamW)
- B. McFee et al.: *librosa: Audio and music signal analysis in Python.* SciPy 2015.
- F. Pedregosa et al.: *Scikit-learn: Machine learning in Python.* JMLR 12, 2011.
- M. Mandel and D. P. W. Ellis: *Song-level features and support vector machines for music
  classification.* ISMIR 2005.
- C. Guo et al.: *On calibration of modern neural networks.* ICML 2017.
- Q. McNemar: *Note on the sampling error of the difference between correlated proportions or
  percentages.* Psychometrika 12, 1947.
- S. Holm: *A simple sequentially rejective multiple test procedure.* Scand. J. Statist. 6, 1979.
- A. C. Davison and D. V. Hinkley: *Bootstrap methods and their application.* Cambridge 1997."""


def render(results: dict[str, Any], figures: dict[str, str]) -> str:
    """Write the deck.

    Parameters
    ----------
    results : dict
        What :func:`artist20.comparison.gather` computed.
    figures : dict of str to str
        Those that are there: by name, such as ``"task1_map"``, where they lie as seen from the
        deck.

    Returns
    -------
    str
        Markdown for Marp.
    """
    slides = [
        title_slide(results),
        data_slide(results),
        *task1(results, figures),
        *task2(results, figures),
        *all_models(results, figures),
        slide("Tutorial", TUTORIAL),
        slide("Tutorial: more", TUTORIAL_MORE),
        *reproducibility(results),
        slide("References", REFERENCES, look="small"),
    ]
    return FRONT_MATTER + "\n" + "\n\n---\n\n".join(slides) + "\n"


def slide(heading: str, *blocks: str, look: str = "") -> str:
    """Write a slide; empty blocks are left out. A ``look`` is a class of the style above."""
    directive = f"<!-- _class: {look} -->" if look else ""
    return "\n\n".join(filter(None, [directive, f"## {heading}", *blocks]))


def results_slide(heading: str, results: dict[str, Any], *blocks: str, look: str = "") -> str:
    """Write a slide that says above all what its figures are not."""
    stamp = tables.stamp(results)
    return slide(heading, f"> {stamp}" if stamp else "", *blocks, look=look)


def figure_slides(
    results: dict[str, Any], figures: dict[str, str], *named: tuple[str, str]
) -> list[str]:
    """Show figures, each on a slide, in the order of their names; those not there are left out."""
    return [
        results_slide(heading, results, f"![{heading}]({figures[name]})")
        for name, heading in named
        if name in figures
    ]


def not_run(heading: str, *commands: str) -> str:
    """Say that a section has no results, and how to come by them."""
    lines = "\n".join(commands)
    return slide(heading, "Not run: there are no results of it.", f"```sh\n{lines}\n```")


def bullets(*sentences: str) -> str:
    """List sentences; empty ones are left out."""
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence)


# --- opening -----------------------------------------------------------------------------------


def title_slide(results: dict[str, Any]) -> str:
    """Say what this is, of which songs, and what it came to."""
    data, models = results["dataset"], results["models"]
    best = models[findings.best_of(models)]
    return "\n\n".join(
        [
            "<!-- _class: lead -->\n<!-- _paginate: false -->",
            "# Music artist recognition on artist20",
            "Given a song, name its artist: hand-made features, transfer from PANNs, and a "
            "residual CNN trained from scratch, compared on one split by album",
            f"Measured on **{tables.data_label(data)}**: {data['artists']} artists, "
            f"{data['train']} training songs, {data['val']} validation songs",
            f"Best on these: {tables.title(best)}, top-1 {percent(best['top1'])}, top-3 "
            f"{percent(best['top3'])}",
            *(f"> {sentence}" for sentence in tables.warnings(results)),
        ]
    )


def data_slide(results: dict[str, Any]) -> str:
    """Say what the songs are, and how figures are made of them."""
    data, bootstrap = results["dataset"], results["bootstrap"]
    limit = str(data["limit"]) if data["limit"] else "all"
    sizes = table(
        ["data set", "artists", "training songs", "validation songs", "of albums", "songs used"],
        [
            [
                escape(dataset.label(data)),
                *(str(data[key]) for key in ("artists", "train", "val", "val_albums")),
                limit,
            ]
        ],
    )
    return results_slide(
        "Data, and how it is measured",
        results,
        sizes,
        bullets(
            "The split is by album: no album is heard both in training and in testing, because "
            "songs of an album share its sound.",
            "Top-1 and top-3: the share of songs whose artist is the best guess, or among the best "
            "three. Score: top-1 + 0.5 × top-3.",
            f"Intervals of {tables.confidence(results)}: bootstrap, {bootstrap['resamples']:,} "
            "resamples, in which albums are drawn as a whole.",
            "Two models are told apart if McNemar's exact test on the same songs, corrected by "
            f"Holm over all pairs, gives p < {results['significance']:g}, and the interval of "
            "their difference leaves out 0.",
            "In CV: cross-validation on the training songs, folds by album.",
        ),
    )


# --- Task 1 ------------------------------------------------------------------------------------


def task1(results: dict[str, Any], figures: dict[str, str]) -> list[str]:
    """Features, preprocessing, models, comparison, confusion matrix, findings; segments."""
    of_songs = {name: row for name, row in results["models"].items() if row["folder"] == "task1"}
    if not of_songs:
        commands = ("python task1_preprocessing.py", "python task1_train.py")
        slides = [not_run("Task 1: hand-made features", *commands)]
    else:
        slides = [
            features_slide(results),
            preprocessing_slide(results, of_songs),
            models_slide(results, of_songs),
            results_slide(
                "Task 1: results",
                results,
                tables.results_table(results, list(of_songs)),
                tables.songs_line(results),
                tables.left_out_line(results),
                look="wide",
            ),
            *figure_slides(
                results,
                figures,
                ("task1_model_comparison", "Task 1: models compared"),
                ("task1_confusion_matrix_svm", "Task 1: confusion matrix of the SVM"),
                ("task1_reliability", "Task 1: how far to believe a probability"),
                ("task1_album_effect", "Task 1: what an album gives away"),
                ("task1_ablation", "Task 1: what features are worth"),
                ("task1_map", "Task 1: a map of the songs, by their features"),
            ),
            task1_findings(results, of_songs),
        ]
    segments = [
        name for name, row in results["models"].items() if row["folder"].endswith("segment")
    ]
    if not segments:
        return [*slides, not_run("Task 1: segments", "python task1_train.py --level segment")]
    return [
        *slides,
        segment_slide(results, segments[0]),
        *figure_slides(
            results,
            figures,
            ("task1_segment_model_comparison", "Task 1, segments: models compared"),
            ("task1_segment_confusion_matrix", "Task 1, segments: confusion matrix"),
            ("task1_segment_reliability", "Task 1, segments: how far to believe a probability"),
            ("task1_segment_album_effect", "Task 1, segments: what an album gives away"),
            ("task1_segment_ablation", "Task 1, segments: what features are worth"),
        ),
    ]


def features_slide(results: dict[str, Any]) -> str:
    """Tabulate the families of features."""
    ablation = results["ablation"].get("task1")
    if not ablation:
        return slide("Task 1: features", "`ablation.json`, which counts them, is not finished.")
    families = ablation["families"]
    total = sum(row["n_features"] for row in families.values())
    rows = [[str(row["n_features"]), f"`{name}`", FAMILIES[name]] for name, row in families.items()]
    return slide(
        "Task 1: features",
        f"{total} numbers per song: statistics over time of frame features, and the tempo.",
        table(["features", "family", "what it is"], rows, left=3),
        look="wide",
    )


def preprocessing_slide(results: dict[str, Any], models: dict[str, Any]) -> str:
    """Say what is done to features before a model sees them, and how folds are cut."""
    config = next(iter(models.values()))["config"]
    chains = table(
        ["model", "its pipeline begins with"],
        [
            [tables.title(row), " → ".join(f"`{step}`" for step in row["search"]["transforms"])]
            for row in models.values()
            if "search" in row
        ],
        left=2,
    )
    unseen = config["unseen_in_cv"]
    return slide(
        "Task 1: preprocessing",
        chains,
        bullets(
            "Mean, standard deviation, maximum and minimum over time of every frame feature.",
            "Scaling and selection are part of the pipeline, fitted anew on each fold's training "
            "songs.",
            f"Grid search over {config['folds']} folds, grouped by {config['cv']}.",
            f"{unseen} training songs count as wrong in cross-validation: their artist has no "
            "other album."
            if unseen
            else "",
            "Probabilities: one temperature per model, fitted on held-out songs.",
        ),
    )


def models_slide(results: dict[str, Any], models: dict[str, Any]) -> str:
    """Tabulate what the grid search chose."""
    rows = []
    for row in models.values():
        params = ", ".join(f"{key} {value(of)}" for key, of in sorted(row["params"].items()))
        candidates = str(row["search"]["candidates"]) if "search" in row else "–"
        in_cv = f"{percent(row['cv_top1'])} ± {100 * row['cv_std']:.1f}"
        rows.append([tables.title(row), escape(params), candidates, in_cv, f"{row['seconds']:.1f}"])
    return results_slide(
        "Task 1: models",
        results,
        table(["model", "chosen", "out of", "top-1 in CV", "seconds"], rows, left=2),
        "Top-1 in cross-validation: mean and standard deviation over the folds. Seconds: grid "
        "search and fit.",
    )


def task1_findings(results: dict[str, Any], models: dict[str, Any]) -> str:
    """Say what the figures of Task 1 come to."""
    name = findings.best_of(models)
    in_cv = max(models, key=lambda name: models[name]["cv_top1"])
    pairs = [pair for pair in results["pairs"] if {pair["first"], pair["second"]} <= models.keys()]
    told = [pair for pair in pairs if pair["verdict"] != "not told apart"]
    by = [row["cv_top1_by"] for row in models.values()]
    gains = [of["song"] - of["album"] for of in by if None not in (of["song"], of["album"])]
    ablation = results["ablation"].get("task1")
    return results_slide(
        "Task 1: findings",
        results,
        bullets(
            findings.best_sentence(models),
            f"Best in cross-validation: **{tables.title(models[in_cv])}**, "
            f"{percent(models[in_cv]['cv_top1'])}.",
            f"Told apart: {len(told)} of {len(pairs)} pairs of models." if pairs else "",
            *findings.artist_sentences(models[name]),
            "With folds that split albums, cross-validation would give "
            f"{tables.differences((min(gains), max(gains)))} points of top-1: what knowing an "
            "album's sound gives away."
            if gains
            else "",
            findings.ablation_sentence(ablation, models) if ablation else "",
        ),
    )


def segment_slide(results: dict[str, Any], name: str) -> str:
    """Compare the best model of segments with those of songs."""
    row = results["models"][name]
    of_songs = {key: of for key, of in results["models"].items() if of["folder"] == "task1"}
    config = row["config"]
    covariance = "with" if config["covariance"] else "without"
    return results_slide(
        "Task 1: segments",
        results,
        f"Models learn from segments of {config['seconds']:g} s, {covariance} covariances of the "
        "MFCCs, and a song's score is the mean over its segments. Length, covariances and model "
        "are those that were best in cross-validation.",
        tables.results_table(results, [*of_songs, name]),
        bullets(findings.compared(results, name, findings.best_of(of_songs))) if of_songs else "",
        look="wide",
    )


# --- Task 2 ------------------------------------------------------------------------------------


def task2(results: dict[str, Any], figures: dict[str, str]) -> list[str]:
    """Approach; of both models configuration, diagram, results, matrix; strong recipes."""
    models = results["models"]
    slides = [approach_slide(results)]
    for name, what, suffix, command in (
        ("panns", "PANNs", "", "python task2_train.py"),
        ("resnet", "ResNet", "_resnet", "python task2_train_wo_pretrain.py"),
    ):
        if name not in models:
            slides.append(not_run(f"Task 2: {what}", command))
            continue
        slides += [
            settings_slide(f"Task 2: {what}, configuration", models[name]),
            *figure_slides(
                results,
                figures,
                (f"task2_architecture_diagram{suffix}", f"Task 2: {what}, architecture"),
                (f"task2_training_{name}", f"Task 2: {what}, training"),
            ),
            network_slide(results, name, what),
            *figure_slides(
                results,
                figures,
                (f"task2_confusion_matrix_{name}", f"Task 2: {what}, confusion matrix"),
                (f"task2_map_{name}", f"Task 2: {what}, a map of the songs, by their embeddings"),
            ),
        ]
    strong = [name for name in ("panns_strong", "resnet_strong") if name in models]
    for name in strong:
        heading = (
            f"Beyond the homework: {escape(models[name]['title'].split(',')[0])}, strong recipe"
        )
        slides.append(settings_slide(heading, models[name]))
        slides += figure_slides(
            results,
            figures,
            (f"task2_architecture_diagram_{name}", f"{heading}, architecture"),
            (f"task2_training_{name}", f"{heading}, training"),
            (f"task2_confusion_matrix_{name}", f"{heading}, confusion matrix"),
            (f"task2_map_{name}", f"{heading}, a map of the songs"),
        )
    if strong:
        slides.append(strong_slide(results, strong))
    else:
        commands = [
            f"python task2_train{suffix}.py --recipe strong" for suffix in ("", "_wo_pretrain")
        ]
        slides.append(not_run("Beyond the homework: strong recipes", *commands))
    if "ensemble" in models:
        return [*slides, ensemble_slide(results)]
    return [*slides, not_run("Beyond the homework: an ensemble", comparison.ENSEMBLE)]


def approach_slide(results: dict[str, Any]) -> str:
    """Lay both networks side by side."""
    models = results["models"]

    def of(name: str, key: str) -> str:
        return f"{models[name][key]:,}" if name in models else "not run"

    def setting(name: str, key: str) -> str:
        return value(models[name]["settings"].get(key)) if name in models else "not run"

    rows = [
        ["input", "waveform", "log-mel spectrogram"],
        [
            "network",
            "Cnn14, frozen; an MLP on its embedding",
            "residual CNN, trained from scratch",
        ],
        ["parameters that are trained", of("panns", "parameters"), of("resnet", "parameters")],
        [
            "seconds of a training crop",
            setting("panns", "crop_seconds"),
            setting("resnet", "crop_seconds"),
        ],
        ["epochs", setting("panns", "epochs"), setting("resnet", "epochs")],
        ["batch size", setting("panns", "batch_size"), setting("resnet", "batch_size")],
        ["optimiser", setting("panns", "optimizer"), setting("resnet", "optimizer")],
        ["learning rate", setting("panns", "lr"), setting("resnet", "lr")],
        ["schedule", setting("panns", "schedule"), setting("resnet", "schedule")],
        ["a song's score", "mean over windows", "mean over windows"],
    ]
    warning = "" if not tables.untrained(results) else f"> {tables.stamp(results)}"
    return slide("Task 2: approach", warning, table(["", "PANNs + MLP", "ResNet"], rows, left=3))


def settings_slide(heading: str, record: dict[str, Any]) -> str:
    """Tabulate all settings of a network's run, as its metrics.json has them, in two columns."""
    rows = settings_rows(record)
    half = -(-len(rows) // 2)
    rows += [["", ""]] * (2 * half - len(rows))
    cells = [[*left, *right] for left, right in zip(rows[:half], rows[half:], strict=True)]
    warning = "> **Untrained backbone**: random weights." if record["untrained_backbone"] else ""
    return slide(
        heading,
        warning,
        table(["setting", "value", "setting", "value"], cells, left=4),
        look="wide",
    )


def settings_rows(record: dict[str, Any]) -> list[list[str]]:
    """List a network's settings, nested ones beside the others, without what names its data."""
    rows = [
        ["parameters trained", f"{record['parameters']:,}"],
        ["epoch that is kept", str(record["epoch"])],
    ]
    for key, setting in record["settings"].items():
        if key in ("dataset", "fold", "recipe"):
            continue
        nested = setting if isinstance(setting, dict) else {key: setting}
        rows += [[escape(name.replace("_", " ")), escape(value(of))] for name, of in nested.items()]
    return rows


def value(setting: Any) -> str:
    """Write a setting for people."""
    if setting is None:
        return "–"
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    if isinstance(setting, list):
        return ", ".join(value(of) for of in setting)
    if isinstance(setting, float):
        return f"{setting:g}"
    text = str(setting)
    return f"{text[:16]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def network_slide(results: dict[str, Any], name: str, what: str) -> str:
    """Say what a network of the homework's recipe reached."""
    record = results["models"][name]
    return results_slide(
        f"Task 2: {what}, results",
        results,
        tables.results_table(results, [name]),
        bullets(
            f"{record['settings']['epochs']} epochs in {record['seconds']:.0f} s; the one that is "
            f"kept is number {record['epoch']}.",
            findings.chosen_sentence(record),
            *findings.artist_sentences(record),
        ),
        tables.songs_line(results),
        look="wide",
    )


def strong_slide(results: dict[str, Any], strong: list[str]) -> str:
    """Compare strong recipes with the homework's."""
    steps = [(name, name.removesuffix("_strong")) for name in strong]
    names = [name for step in steps for name in reversed(step) if name in results["models"]]
    return results_slide(
        "Beyond the homework: strong recipes, results",
        results,
        "Nothing in a strong recipe is chosen on the validation songs.",
        tables.results_table(results, names),
        bullets(
            *(findings.compared(results, *step) for step in steps if step[1] in results["models"])
        ),
        tables.chosen_line({name: results["models"][name] for name in names}),
        look="wide",
    )


def ensemble_slide(results: dict[str, Any]) -> str:
    """Tabulate an ensemble's members."""
    record = results["models"]["ensemble"]
    rows = [
        [
            tables.title(member),
            f"{member['weight']:.3f}",
            percent(member["cv"]["top1"]),
            percent(member["val"]["top1"]),
        ]
        for member in record["members"].values()
    ]
    rows.append([tables.title(record), "", percent(record["cv"]["top1"]), percent(record["top1"])])
    best = record["members"][record["best_member_in_cv"]]
    against = record["against_best_member"]["val"]
    return results_slide(
        "Beyond the homework: an ensemble",
        results,
        "A product of its members' probabilities, each raised to a weight. Weights are fitted on "
        "the training songs alone.",
        table(["model", "weight", "top-1 in CV", "top-1"], rows),
        f"Against its best member in cross-validation, {tables.title(best)}, on the validation "
        f"songs: {tables.difference(against['difference'])} points "
        f"({tables.differences(against['interval'])}).",
        look="wide",
    )


# --- all models --------------------------------------------------------------------------------


def all_models(results: dict[str, Any], figures: dict[str, str]) -> list[str]:
    """All models in a table, improvements, every two models, artists, albums, findings."""
    models = results["models"]
    return [
        results_slide(
            "All models",
            results,
            tables.results_table(results),
            tables.songs_line(results),
            tables.chosen_line(models),
            tables.left_out_line(results),
            look="wide",
        ),
        *figure_slides(
            results,
            figures,
            ("task2_all_models_comparison", "All models compared"),
            ("task2_top_k", "All models: within the first k guesses"),
            ("task2_reliability", "All models: how far to believe a probability"),
        ),
        intervals_slide(results),
        *improvements(results),
        *pairs_slide(results),
        *chosen_slide(results),
        *figure_slides(results, figures, ("task2_per_artist_f1", "Artists: F1 of all models")),
        artists_slide(results),
        *figure_slides(results, figures, ("task2_confused_pairs", "Who is taken for whom")),
        albums_slide(results),
        findings_slide(results),
    ]


def intervals_slide(results: dict[str, Any]) -> str:
    """Lay the bootstrap over albums beside the one over songs."""
    rows = [
        [
            tables.title(record),
            *(
                cell
                for k in ("top1", "top3")
                for cell in (
                    percent(record[k]),
                    *(
                        tables.interval(record["intervals"][unit][k])
                        for unit in ("albums", "songs")
                    ),
                )
            ),
        ]
        for record in results["models"].values()
    ]
    header = [
        "model",
        *("top-1", "over albums", "over songs"),
        *("top-3", "over albums", "over songs"),
    ]
    return results_slide(
        "How sure these figures are",
        results,
        table(header, rows),
        f"Intervals of {tables.confidence(results)}, by bootstrap. Songs of an album "
        "are often right or wrong together: drawn one by one, they would seem to be more than they "
        "are.",
        look="wide",
    )


def improvements(results: dict[str, Any]) -> list[str]:
    """Say in points what one model has over another."""
    models = results["models"]
    steps = [step for step in STEPS if models.keys() >= set(step)]
    if "ensemble" in models:
        steps.append(
            ("ensemble", findings.best_of({n: row for n, row in models.items() if n != "ensemble"}))
        )
    by_task = [
        {name: row for name, row in models.items() if row["folder"].startswith(task)}
        for task in ("task2", "task1")
    ]
    if all(by_task) and (best := tuple(findings.best_of(of) for of in by_task)) not in steps:
        steps.append(best)
    if not steps:
        return []
    rows = []
    for first, second in steps:
        pair = comparison.against(results, first)[second]
        reported = [models[first][k] - models[second][k] for k in ("top1", "top3")]
        rows.append(
            [
                f"{tables.title(models[first])} over {tables.title(models[second])}",
                *map(tables.difference, reported),
                tables.difference(pair["difference"]),
                tables.differences(pair["interval"]),
                findings.p_text(pair),
                pair["verdict"],
            ]
        )
    unchosen = (
        "The last four columns are of the last epoch where another was chosen on these songs."
        if any(record["last"] for record in models.values())
        else ""
    )
    return [
        results_slide(
            "Improvements, in points",
            results,
            table(["", "top-1", "top-3", "compared", "95 %", "p", "it is"], rows),
            "Top-1 and top-3: the tables' figures. Compared: top-1 on the same songs, its interval "
            "by bootstrap over albums, p of McNemar's exact test after Holm's correction over all "
            f"{len(results['pairs'])} pairs.",
            unchosen,
            look="wide",
        )
    ]


def pairs_slide(results: dict[str, Any]) -> list[str]:
    """Lay every two models beside each other."""
    models = results["models"]
    if len(models) < 2:
        return []
    rows = []
    for number, (name, record) in enumerate(models.items(), start=1):
        pairs = comparison.against(results, name)
        cells = []
        for other in models:
            points = tables.difference(pairs[other]["difference"]) if other != name else "–"
            verdict = pairs[other]["verdict"] if other != name else "not told apart"
            mark = "" if other == name else " ≈"
            told = verdict != "not told apart"
            cells.append(f"**{points} {verdict}**" if told else f"{points}{mark}")
        rows.append([f"{number} {tables.title(record)}", *cells])
    n_told = sum(pair["verdict"] != "not told apart" for pair in results["pairs"])
    last = (
        " Networks whose epoch is chosen on these songs are compared at their last epoch."
        if any(record["last"] for record in models.values())
        else ""
    )
    return [
        results_slide(
            "Every two models",
            results,
            table(["", *(str(i + 1) for i in range(len(models)))], rows),
            "How many points of top-1 the model of the row has over that of the column: better, "
            "worse or, with ≈, not told apart, by McNemar's exact test after "
            "Holm's correction over all pairs and by the interval of the difference. Told apart: "
            f"{n_told} of {len(results['pairs'])} pairs.{last}",
            look="small dense" if len(models) > MOST_MODELS else "",
        )
    ]


def chosen_slide(results: dict[str, Any]) -> list[str]:
    """Lay figures of epochs chosen on the validation songs beside those of the last one."""
    chosen = {name: row for name, row in results["models"].items() if row["last"]}
    if not chosen:
        return []
    rows = [
        [
            tables.title(row),
            *(
                cell
                for k in ("top1", "top3")
                for cell in (
                    percent(row[k]),
                    percent(row["last"][k]),
                    tables.difference(row["gap"][k]),
                )
            ),
        ]
        for row in chosen.values()
    ]
    header = [
        "model",
        *("top-1, chosen", "last epoch", "points"),
        *("top-3, chosen", "last epoch", "points"),
    ]
    return [
        results_slide(
            "What choosing the epoch brought",
            results,
            table(header, rows),
            "Chosen: the epoch that was best on the validation songs, as the homework has it. "
            "Points: how much that flatters it.",
        )
    ]


def artists_slide(results: dict[str, Any]) -> str:
    """Tabulate every artist's F1; of very many artists, those at both ends."""
    models = results["models"]
    artists = list(next(iter(models.values()))["artists"])
    note = ""
    if len(artists) > MOST_ARTISTS:

        def mean_f1(artist: str) -> float:
            scores = [record["artists"][artist]["f1"] or 0 for record in models.values()]
            return sum(scores) / len(scores)

        ranked = sorted(artists, key=mean_f1)
        half = MOST_ARTISTS // 2
        note = f"The {half} easiest and the {half} hardest of {len(artists)}, by the models' mean."
        ends = (mean_f1(ranked[-half]), mean_f1(ranked[half - 1]))
        note += findings.ties([mean_f1(artist) for artist in ranked[half:-half]], *ends)
        artists = [*reversed(ranked[-half:]), *reversed(ranked[:half])]
    return results_slide(
        "Artists: F1 by model",
        results,
        tables.artists_table(results, artists),
        " ".join(filter(None, [note, findings.cut_note(artists)])),
        look="dense names" if len(artists) > MOST_ROWS or len(models) > MOST_MODELS else "names",
    )


def albums_slide(results: dict[str, Any]) -> str:
    """Name the albums that are hardest, for each model and for all."""
    models = results["models"]
    together = comparison.of_all_models(models)
    rows = [["all models together", *named_albums(comparison.worst_albums(together), together)]]
    for record in models.values():
        counts = {album: (of["right"], of["songs"]) for album, of in record["albums"].items()}
        rows.append([tables.title(record), *named_albums(record["worst_albums"], counts)])
    n_named = len(rows[0]) - 1
    return results_slide(
        "Albums that are hardest",
        results,
        table(["model", *(["songs right, album"] * n_named)], rows, left=1 + n_named),
        "Of all models together, their guesses are counted, one of each model per song. "
        "Of albums that are equally hard, the larger ones are named.",
        look="dense albums",
    )


def named_albums(albums: list[str], counts: dict[str, tuple[int, int]]) -> list[str]:
    """Name albums, with how many of their songs are right before it."""
    return [
        f"{counts[album][0]} of {counts[album][1]}: {findings.short(album)}" for album in albums
    ]


def findings_slide(results: dict[str, Any]) -> str:
    """Say what the figures come to."""
    models = results["models"]
    ranked = sorted(
        models, key=lambda name: (models[name]["top1"], models[name]["top3"]), reverse=True
    )
    best = findings.best_of(models)
    rest = [name for name in ranked if name != best]
    chosen = [record for record in models.values() if record["last"]]
    flattered = max(chosen, key=lambda record: record["gap"]["top1"]) if chosen else None
    return results_slide(
        "Findings",
        results,
        bullets(
            findings.best_sentence(models),
            findings.compared(results, best, rest[0]) if rest else "",
            *findings.artist_sentences(models[best]),
            "Choosing the epoch on the validation songs brought up to "
            f"{tables.difference(flattered['gap']['top1'])} points of top-1 "
            f"({escape(flattered['title'])})."
            if flattered
            else "",
        ),
        tables.songs_line(results),
    )


# --- closing -----------------------------------------------------------------------------------


def reproducibility(results: dict[str, Any]) -> list[str]:
    """Say what made the figures."""
    data, runs = results["dataset"], results["runs"]
    rows = [
        [
            escape(folder.removesuffix(".json")),
            f"`{run['command']}`",
            "–" if run["seed"] is None else str(run["seed"]),
            f"{run['seconds']:.0f}",
        ]
        for folder, run in runs.items()
    ]
    names = dict.fromkeys(name for run in runs.values() for name in run["versions"])
    versions = [
        f"{name} "
        + " or ".join(
            dict.fromkeys(run["versions"][name] for run in runs.values() if name in run["versions"])
        )
        for name in names
    ]
    devices = dict.fromkeys(run["device"] for run in runs.values())
    return [
        slide(
            "Reproducibility: commands",
            table(["results of", "command", "seed", "seconds"], rows, left=2),
            "Absolute paths are cut to their last names.",
            look="dense wrapped",
        ),
        slide(
            "Reproducibility: where these numbers are from",
            bullets(
                f"Songs: {tables.data_label(data)}, SHA-256 over their paths and contents "
                f"`{data['fingerprint'][:16]}…`.",
                f"Every number here is in `results.json`, made by `{results['command']}`; it names "
                f"the {len(results['files'])} files it was computed from, with their SHA-256.",
                f"Device: {escape('; '.join(devices))}.",
                f"Versions: {escape(', '.join(versions))}.",
                "The same command gives the same numbers on the same machine.",
                "Code: MIT. PANNs' weights: Kong et al., CC BY 4.0. Songs belong to their owners.",
            ),
        ),
    ]


# --- the command -------------------------------------------------------------------------------


def find_figures(assets_dir: Path, seen_from: Path) -> dict[str, str]:
    """Find pictures: by name, where they lie as seen from a folder, as a URL has it."""
    found = {}
    for suffix in (".svg", ".png"):  # PNG is taken where both are there
        for file in sorted(assets_dir.glob(f"*{suffix}")):
            relative = Path(os.path.relpath(file, seen_from)).as_posix()
            found[file.stem] = quote(relative)
    return found


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    cli.add_results_option(parser)
    parser.add_argument(
        "--assets-dir",
        type=Path,
        default=Path("assets"),
        help="folder with results.json and the figures",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.md"),
        help="the deck; MODEL_CARD.md is written beside it",
    )
    parser.add_argument(
        "--readme",
        type=Path,
        metavar="FILE",
        help=f"put the table of results between {' and '.join(tables.MARKERS)} in this file",
    )
    return parser.parse_args()


def main() -> None:
    """Write the deck and the model card."""
    args = parse_args()
    file = results_file(args.assets_dir)
    results = read_results(file, comparison.COMMAND)
    comparison.check_up_to_date(results, args.results_dir, file)
    figures = find_figures(args.assets_dir, args.output.parent)
    deck = render(results, figures)
    card = args.output.with_name("MODEL_CARD.md")
    for path, text in ((args.output, deck), (card, model_card.render(results))):
        tables.write_text(path, text)
        print(f"wrote {path}")
    shown = [name for name, url in figures.items() if f"]({url})" in deck]
    # Which run drew them, a picture does not say.
    print(f"figures in it, as they lie in {args.assets_dir}: {', '.join(shown) or 'none'}")
    if args.readme:
        tables.put_between_markers(args.readme, tables.for_readme(results))
        print(f"wrote the table in {args.readme}")
    print(
        f"next: npx @marp-team/marp-cli {args.output} --html -o {args.output.with_suffix('.html')}"
    )


if __name__ == "__main__":
    runtime.run(main)
