"""Pack what is handed in into one file, and check that a grader can run it.

Reads   RESULTS_DIR, a model and its predictions; ASSETS_DIR, results.json and figures; the slides;
        DATA_DIR/test, the first songs of which the check is of
Writes  FILE.zip    README.txt                                 what a grader types
                    test_predictions.json, test_scores.json    as the inference script wrote them
                    results/, checkpoints/                     the model and its metrics
                    report.md, report.html, assets/            the slides and their figures
                    commands.txt                               what made every result, versions
                    artist20/, task*.py, requirements.txt      the code

The model is the one with the best top-1 on the validation songs of those that have named the test
songs, or --model. Before FILE.zip is there, it is unpacked into an empty folder and inference is
run in that: it must name songs as the predictions do. An encoder's published weights are not in it,
because get_dataset.sh fetches them; the check takes them from data/weights.

    python -m artist20.submission --output hw1.zip
    python -m artist20.submission --model resnet_strong --output hw1.zip --overwrite
"""

import artist20.packages  # says which are missing
from artist20.packages import ROOT

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from artist20 import UserError, cli, evaluation, finished, inference, results, runtime
from artist20.files import atomic_path, read_bytes, read_text, sha256_file
from artist20.report import compare, deck
from artist20.results import Comparison, NetworkMetrics, Task1Metrics, TestScores, read_record

N_CHECKED = 3  # test songs
PREDICTIONS = "test_predictions.json"
README = """\
{title}: it names the artists of songs.

Type this in the folder of this file, with Python 3.11 or later:

    pip install -r requirements.txt
{fetch}    {command} --data-dir FOLDER --output mine.json

FOLDER holds test/001.mp3, ..., or these songs themselves.{heard} mine.json then names three
artists for each, best first, as test_predictions.json does, which is handed in. With --answers
answers.json, a JSON list of the songs' artists, the same command prints top-1, top-3 and the
course's score.

test_scores.json          the probabilities of all artists
report.md, report.html    the slides; assets/ has their figures
commands.txt              the commands that made the results, and the versions of all libraries
results/, checkpoints/    the model, and what it reached on the validation songs
artist20/, task*.py       the code
"""


def choose_model(comparison: Comparison, results_dir: Path, wanted: str | None) -> str:
    """Return the name of the model that is handed in, and print which; the ensemble can't be."""
    models = {name: of for name, of in comparison.models.items() if name != "ensemble"}
    ranked = deck.ranked(models)
    ready = [name for name in ranked if (results_dir / models[name].folder / PREDICTIONS).is_file()]
    name = wanted or (ready or ranked)[0]
    if name not in models:
        raise UserError(f"--model {name}: there are {', '.join(models)}")
    print(f"model: {models[name].title}, top-1 {models[name].val.top1:.1%} on the validation songs")
    if models[ranked[0]].val.top1 > models[name].val.top1:
        best = models[ranked[0]]
        print(f"note: {best.title} has {best.val.top1:.1%}; --model {ranked[0]} takes that")
    return name


def read_predictions(file: Path, name: str, checkpoints: list[Path], again: str) -> TestScores:
    """Read all scores of the test songs, if they are of ``name`` and ``checkpoints``."""
    predictions = read_record(file, dict[str, list[str]], again)
    test = read_record(inference.scores_file(file), TestScores, again)
    of_model = [sha256_file(path) for path in checkpoints] == test.checkpoints.get(name)
    if not of_model or predictions != inference.rank(
        test.classes, list(test.songs), test.scores[name]
    ):
        raise UserError(f"{file} is of another model than {checkpoints[0]}: run {again}")
    return test


def inputs(results_dir: Path, folder: Path, metrics: Task1Metrics | NetworkMetrics) -> list[Path]:
    """List the files of a model's folder that inference reads, and its metrics."""
    if isinstance(metrics, NetworkMetrics):
        return [folder / name for name in ("metrics.json", "history.csv", "best.pt")]
    made = results.task1_dir(results_dir, rendition=metrics.heard)  # by task1_preprocessing.py
    names = ("metrics.json", "val_predictions.json", *(f"{name}.skops" for name in metrics.models))
    of_models = [folder / name for name in names]
    return [*of_models, made / "preprocessing.json", made / "songs_train.json"]


def collect_slides(report: Path, assets_dir: Path) -> dict[str, Path | str]:
    """Collect figures, and slides that show these: files or text, by their names in the archive."""
    html = report.with_suffix(".html")
    slides = read_bytes(report, "python -m artist20.slides").decode()
    page = deck.embed_images(read_text(html), html.parent) if html.is_file() else ""
    for url in deck.find_figures(assets_dir, report.parent).values():
        slides = slides.replace(f"]({url})", f"](assets/{url.rpartition('/')[2]})")
    contents: dict[str, Path | str] = {f"assets/{of.name}": of for of in _files_in(assets_dir)}
    contents["report.md"] = slides
    if report.stat().st_mtime < results.results_file(assets_dir).stat().st_mtime:
        print(f"note: {report} is older than results.json: are its numbers the same?")
    if page and html.stat().st_mtime >= report.stat().st_mtime:
        contents["report.html"] = page
    else:
        state = "is older than its slides" if page else "is missing"
        print(f"note: left out: {html} {state}; {deck.marp(report)} makes it")
    return contents


def _files_in(folder: Path) -> list[Path]:
    """List the files in a folder and below, without what Python compiled."""
    return sorted(of for of in folder.rglob("*") if of.is_file() and "__pycache__" not in of.parts)


def _readme(title: str, command: str, metrics: Task1Metrics | NetworkMetrics) -> str:
    """Write what a grader types."""
    fetch, tree = "", metrics.audio_root
    if isinstance(metrics, NetworkMetrics):
        encoders = ",".join(of.name for of in metrics.settings.encoders if of.pretrained)
        fetch = f"    bash get_dataset.sh --encoder {encoders}\n" if encoders else ""
    heard = f" {tree} is a tree of the same form, with what is heard of them." if tree else ""
    return README.format(title=title, fetch=fetch, command=command, heard=heard)


def check(archive: Path, command: str, data_dir: Path, handed_in: TestScores, name: str) -> str:
    """Unpack an archive, run inference there by README.txt's command, and say how it compares."""
    with tempfile.TemporaryDirectory() as unpacked:
        folder = Path(unpacked)
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        if (weights := Path("data/weights").absolute()).is_dir():  # which a grader fetches
            (folder / "data").mkdir()
            (folder / "data/weights").symlink_to(weights)
        words = [sys.executable, *shlex.split(command)[1:], "--data-dir", str(data_dir)]
        for i, option in enumerate(words[:-1]):
            if option in ("--data-dir", "--audio-root"):
                words[i + 1] = str(Path(words[i + 1]).absolute())
        done = subprocess.run(
            [*words, "--limit", str(N_CHECKED), "--output", "found.json"],
            cwd=folder,
            env={name: of for name, of in os.environ.items() if not name.startswith("PYTHON")},
            capture_output=True,
            text=True,
        )
        scores_file = inference.scores_file(folder / "found.json")
        if not scores_file.is_file():
            *_, said = done.stderr.splitlines() or ["it says nothing"]
            raise UserError(f"unpacked, inference fails: {said}")
        found = read_record(scores_file, TestScores, command)
    if not found.songs.items() <= handed_in.songs.items():
        raise UserError(f"the test songs in {data_dir} are not those of the predictions")
    keys = list(handed_in.songs)
    before = handed_in.scores[name][[keys.index(key) for key in found.songs]]
    now = found.scores[name]
    named_before, named = (evaluation.top_k(of, inference.TOP) for of in (before, now))
    if not np.array_equal(named_before, named):
        raise UserError("unpacked, inference does not name the artists that the predictions do")
    return (
        f"checked: unpacked into an empty folder, inference names {len(now)} test songs as the "
        f"predictions do; probabilities differ by at most {abs(before - now).max():.1g}"
    )


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.make_parser(__doc__)
    for option, default, what in (
        ("--data-dir", cli.DATA_DIR, "folder with test/"),
        ("--results-dir", results.RESULTS_DIR, "what the stages hand each other"),
        ("--assets-dir", cli.ASSETS_DIR, "folder with results.json and the figures"),
        ("--report", Path("report.md"), "the slides; with them goes the .html beside them"),
    ):
        parser.add_argument(option, type=Path, default=default, help=what)
    parser.add_argument(
        "--output", type=cli.output_file, required=True, metavar="FILE.zip", help="to write"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE.zip, if any")
    parser.add_argument("--model", metavar="NAME", help="such as svm, panns or resnet_strong")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="networks that inference averaged (default: best.pt of the model)",
    )
    return parser.parse_args()


def main() -> None:
    """Choose, collect, pack and check."""
    args = parse_args()
    if args.output.exists() and not args.overwrite:
        raise UserError(f"{args.output} is there already: --overwrite replaces it")
    comparison = compare.read_up_to_date(args.results_dir, args.assets_dir)
    name = choose_model(comparison, args.results_dir, args.model)
    folder = args.results_dir / comparison.models[name].folder
    stage = next(stage for stage in finished.stages(args.results_dir) if stage.folder == folder)
    metrics = read_record(folder / "metrics.json", stage.metrics, stage.train)
    own_name, predictions = metrics.names[name], folder / PREDICTIONS
    command = stage.score_test.removesuffix(results.results_dir_option(args.results_dir))
    if isinstance(metrics, Task1Metrics) and own_name != metrics.best_in_cv:
        command += f" --model {own_name}"
    again = cli.command(command.removeprefix("python "), args, "data_dir", "results_dir")
    model = "best.pt" if isinstance(metrics, NetworkMetrics) else f"{own_name}.skops"
    models = args.checkpoint or [folder / model]
    test = read_predictions(predictions, own_name, models, again)
    contents = collect_slides(args.report, args.assets_dir)
    if args.checkpoint:
        names = [f"checkpoints/{i}.pt" for i, _ in enumerate(models)]
        contents |= dict(zip(names, models, strict=True))
        command += f" --checkpoint {' '.join(names)}"
    for path in inputs(args.results_dir, folder, metrics):
        contents[f"results/{path.relative_to(args.results_dir)}"] = path
    code = [*ROOT.glob("task*.py"), *_files_in(ROOT / "artist20")]
    code += [ROOT / each for each in ("requirements.txt", "get_dataset.sh", "LICENSE")]
    contents |= {path.relative_to(ROOT).as_posix(): path for path in code}
    contents |= {path.name: path for path in (predictions, inference.scores_file(predictions))}
    commands = [
        f"{of}: seed {run.seed}, {run.seconds:.0f} s, {run.device}\n    {run.command}\n"
        for of, run in comparison.runs.items()
    ]
    contents["commands.txt"] = "\n".join([*commands, *deck.versions(comparison), ""])
    contents["README.txt"] = _readme(comparison.models[name].title, command, metrics)
    with atomic_path(args.output) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for path_in_it, of in contents.items():
                archive.writestr(path_in_it, of if isinstance(of, str) else of.read_bytes())
        print(f"checking that inference runs from it, on {N_CHECKED} test songs")
        print(check(temporary, command, args.data_dir, test, own_name))
    print(f"wrote {args.output}: {len(contents)} files, {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    runtime.run(main)
