"""artist20.slides and the model card: every number from the files, what is missing said so."""

import json
import re
import sys
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from conftest import TOY_ARTISTS, TOY_DATASET, put_network, put_task1

from artist20 import (
    UserError,
    comparison,
    ensemble,
    findings,
    model_card,
    runtime,
    slides,
    tables,
)
from artist20.files import write_json
from artist20.results import TITLES, read_results

REPOSITORY = Path(__file__).resolve().parents[1]
SETTINGS = {
    "panns": {"backbone": "Cnn14", "epochs": 50, "batch_size": 8, "lr": 0.005, "hidden": [64, 20]},
    "resnet": {"epochs": 16, "patience": None, "front_end": {"n_mels": 64, "amin": 1e-10}},
}  # fmt: skip
COMMON = {"crop_seconds": 3.0, "optimizer": "Adam", "schedule": "cosine annealing", "select": True}
FAMILIES = {"mfcc": (80, 0.31, 0.42), "mel": (512, 0.22, 0.49), "tempo": (1, 0.51, 0.1)}


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def add_search(folder, seed):
    """Add what the training of Task 1 leaves beside what other tests need."""
    metrics = read(folder / "metrics.json")
    rng = np.random.default_rng(seed)
    for i, row in enumerate(metrics["models"].values()):
        by = {"album": rng.random(), "song": rng.random()}
        row |= {"params": {"C": 0.1 * (i + 1), "kernel": "rbf"}, "cv_top1": by["album"]}
        row |= {"cv_std": rng.random() / 10, "cv_top1_by": by, "temperature": 1.5}
    metrics["best_in_cv"] = max(metrics["models"], key=lambda n: metrics["models"][n]["cv_top1"])
    metrics["config"] |= {"folds": 5, "unseen_in_cv": 3}
    write_json(folder / "metrics.json", metrics)
    for i, name in enumerate(metrics["models"]):
        settings = {"transforms": ["RobustScaler()", f"SelectKBest(k={90 + i})"], "grid": []}
        search = {"settings": settings, "candidates": [{}] * (7 + i)}
        write_json(folder / f"search_{name}.json", search)
    families = {
        name: {"n_features": n, "without": without, "alone": alone, "lost": 0.0, "lost_std": 0.0}
        for name, (n, without, alone) in FAMILIES.items()
    }
    ablation = {"settings": {"model": metrics["best_in_cv"]}, "complete": True}
    write_json(folder / "ablation.json", {**ablation, "families": families})


def put_all(results_dir):
    """Write a results folder in which everything was run."""
    add_search(put_task1(results_dir, {"svm": 0.8, "knn": 0.3}, seed=1), seed=1)
    add_search(put_task1(results_dir, {"svm": 1.1, "knn": 0.5}, seed=11, level="segment"), seed=2)
    untrained = {"pretrained": False, "backbone": "untrained backbone"}
    put_net(results_dir, "panns", 0.7, seed=21, **untrained)
    put_net(results_dir, "resnet", 0.9, seed=31)
    put_net(results_dir, "panns_strong", 1.3, seed=41, **untrained)
    put_net(results_dir, "resnet_strong", 2.0, seed=51)


def put_net(results_dir, name, strength, seed, **metrics):
    """Write a network whose last epoch is another than the chosen one."""
    settings = {**SETTINGS[name.removesuffix("_strong")], **COMMON, "batch_size": 8, "seed": seed}
    settings |= {"dataset": "toy, 80 + 48 songs, 0123456789abcdef", "fold": None}
    metrics = {
        "settings": settings,
        "parameters": 1234567 + seed,
        "epochs_seconds": 12.5,
        **metrics,
    }
    folder = put_network(results_dir, name, strength, seed, **metrics)
    if not name.endswith("_strong"):
        file = folder / "val_predictions.json"
        value = read(file)
        last = np.roll(np.array(value["scores"][f"{name}_last"]), seed, axis=0)
        value["scores"][f"{name}_last"] = last.tolist()
        write_json(file, value)


def run(module, *options):
    """Run a module as its command does; return the exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["x", *map(str, options)])
        runtime.run(module.main)
    return stopped.value.code


def write_deck(results_dir):
    """Compare, and write the deck; return it and the model card."""
    assets = results_dir / "assets"
    assert run(comparison, "--results-dir", results_dir, "--assets-dir", assets) == 0
    output = results_dir / "report.md"
    options = ["--results-dir", results_dir, "--assets-dir", assets, "--output", output]
    assert run(slides, *options) == 0
    return output.read_text(encoding="utf-8"), (results_dir / "MODEL_CARD.md").read_text("utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    results_dir = tmp_path_factory.mktemp("everything") / "results"
    put_all(results_dir)
    assert run(ensemble, "--results-dir", results_dir) == 0
    return results_dir, *write_deck(results_dir)


# --- reading Markdown back -----------------------------------------------------------------------


def plain(text):
    """Take bold, code and backslashes off."""
    return re.sub(r"\\(.)", r"\1", text.replace("**", "").replace("`", "")).replace("&lt;", "<")


def read_tables(text):
    """Find the tables of a text: lists of rows, each a list of cells, the header first."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| "):
            lines.append([plain(cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif lines:
            found.append([lines[0], *lines[2:]])
            lines = []
    return found


def read_slides(deck):
    """Split a deck: text by heading."""
    pages = deck.split("\n---\n", 1)[1].split("\n---\n")
    by_heading = {}
    for page in pages:
        heading = re.search(r"^#+ (.*)$", page, re.MULTILINE).group(1)
        assert heading not in by_heading, heading
        by_heading[heading] = page
    return by_heading


# --- the figures once more, from the raw files ---------------------------------------------------


class Raw:
    """One model, as its files have it; everything is counted anew, song by song."""

    def __init__(self, results_dir, folder, name, title):
        self.title = title
        self.metrics = read(results_dir / folder / "metrics.json")
        self.row = self.metrics.get("models", {}).get(name, self.metrics)
        value = read(results_dir / folder / "val_predictions.json")
        self.classes = value["classes"]
        self.artists = [song["artist"] for song in value["songs"]]
        self.albums = [f"{song['artist']}/{song['album']}" for song in value["songs"]]
        self.ranked = self.rank(value["scores"][name])
        self.last = self.rank(value["scores"].get(f"{name}_last", value["scores"][name]))
        self.chosen = f"{name}_last" in value["scores"]
        held_out = results_dir / folder / "cv_predictions.json"
        value = read(held_out)
        truth = [song["artist"] for song in value["songs"]]
        guesses = [ranked[0] for ranked in self.rank(value["scores"][name])]
        self.cv = f"{np.mean([a == b for a, b in zip(truth, guesses, strict=True)]):.1%}"

    def rank(self, scores):
        return [
            [self.classes[i] for i in sorted(range(len(row)), key=lambda i: (-row[i], i))]
            for row in scores
        ]

    def hits(self, k, ranked=None):
        pairs = zip(self.artists, ranked or self.ranked, strict=True)
        return np.array([artist in guesses[:k] for artist, guesses in pairs])

    def share(self, k, ranked=None):
        return self.hits(k, ranked).mean()

    def interval(self, k, groups):
        return bootstrap(self.hits(k).astype(float), groups)

    def f1(self, average):
        guesses = [ranked[0] for ranked in self.ranked]
        return sklearn.metrics.f1_score(self.artists, guesses, average=average, labels=self.classes)


def bootstrap(values, groups):
    """Draw groups one by one, and return the middle 95 % of the means."""
    names = sorted(set(groups))
    sums = np.array([sum(values[np.array(groups) == name]) for name in names])
    sizes = np.array([groups.count(name) for name in names])
    drawn = np.random.default_rng(7).integers(0, len(names), (4000, len(names)))
    return np.quantile(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), [0.025, 0.975])


MODELS = {
    "svm": ("task1", "svm", "SVM"),
    "knn": ("task1", "knn", "k-NN"),
    "segments": ("task1/segment", "", ""),
    "panns": ("task2/panns", "panns", "PANNs + MLP, untrained backbone"),
    "panns_strong": (
        *("task2/panns_strong", "panns_strong", "PANNs, strong recipe, untrained backbone"),
    ),
    "resnet": ("task2/resnet", "resnet", "ResNet"),
    "resnet_strong": ("task2/resnet_strong", "resnet_strong", "ResNet, strong recipe"),
    "ensemble": ("ensemble", "ensemble", "Ensemble, untrained backbone"),
}  # fmt: skip


@pytest.fixture(scope="module")
def raw(written):
    results_dir = written[0]
    best = read(results_dir / "task1/segment/metrics.json")["best_in_cv"]
    title = f"{TITLES[best]}, 5 s segments"
    models = {**MODELS, "segments": ("task1/segment", best, title)}
    return {name: Raw(results_dir, *of) for name, of in models.items()}


def ends(text, to=" to "):
    return [float(end) for end in text.split(to)]


def assert_interval(text, expected, to="–"):
    """Two bootstraps differ by chance, of 48 songs by two points."""
    assert ends(text, to) == pytest.approx([100 * end for end in expected], abs=2.2)


def assert_results_table(table, raw, titles):
    header, *rows = table
    assert [row[0] for row in rows] == titles
    by_title = {model.title: model for model in raw.values()}
    for row in rows:
        model, cells = by_title[row[0]], dict(zip(header[5:], row[5:], strict=True))
        assert [row[1], row[3]] == [f"{model.share(k):.1%}" for k in (1, 3)]
        assert_interval(row[2], model.interval(1, model.albums))
        assert_interval(row[4], model.interval(3, model.albums))
        assert cells.pop("macro-F1") == f"{model.f1('macro'):.2f}"
        assert cells.pop("score") == f"{model.share(1) + model.share(3) / 2:.3f}"
        assert cells.pop("in CV") == model.cv
        last = f"{model.share(1, model.last):.1%} / {model.share(3, model.last):.1%}"
        assert cells.pop("last epoch", "–") == (last if model.chosen else "–")
        assert not cells


def test_tables_of_results_are_those_of_the_files(written, raw):
    _, deck, card = written
    pages = read_slides(deck)
    titles = [model.title for model in raw.values()]
    for heading, shown in (
        ("Task 1: results", titles[:2]),
        ("Task 1: segments", titles[:3]),
        ("Task 2: PANNs, results", titles[3:4]),
        ("Task 2: ResNet, results", titles[5:6]),
        ("Beyond the homework: strong recipes, results", titles[3:7]),
        ("All models", titles),
    ):
        assert_results_table(read_tables(pages[heading])[0], raw, shown)
    assert_results_table(read_tables(card)[1], raw, titles)
    results = read_results(written[0] / "assets/results.json", "x")
    assert_results_table(read_tables(tables.for_readme(results))[0], raw, titles)


def test_both_bootstraps_stand_beside_each_other(written, raw):
    _, *rows = read_tables(read_slides(written[1])["How sure these figures are"])[0]
    for row, model in zip(rows, raw.values(), strict=True):
        assert row[0] == model.title
        for k, cells in ((1, row[1:4]), (3, row[4:7])):
            assert cells[0] == f"{model.share(k):.1%}"
            assert_interval(cells[1], model.interval(k, model.albums))
            assert_interval(cells[2], model.interval(k, list(range(len(model.albums)))))


def compare(raw):
    """Compare every two models: by pair, difference, p after Holm's correction, interval."""
    found = {}
    for first, second in combinations(raw, 2):
        one, other = (raw[name].hits(1, raw[name].last) for name in (first, second))
        alone = [int((one & ~other).sum()), int((other & ~one).sum())]
        p = scipy.stats.binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
        difference = one.astype(float) - other
        found[first, second] = [difference.mean(), p, bootstrap(difference, raw[first].albums)]
    largest = 0.0
    for rank, pair in enumerate(sorted(found, key=lambda pair: found[pair][1])):
        largest = max(largest, min(1, (len(found) - rank) * found[pair][1]))
        found[pair][1] = largest
    for (first, second), (difference, p, (low, high)) in list(found.items()):
        verdict = "not told apart"
        if p < 0.05 and (low > 0 or high < 0):
            verdict = "better" if low > 0 else "worse"
        found[first, second] = (difference, p, (low, high), verdict)
        swapped = {"better": "worse", "worse": "better"}.get(verdict, verdict)
        found[second, first] = (-difference, p, (-high, -low), swapped)
    return found


def p_text(p):
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def test_every_two_models_are_compared(written, raw):
    page = read_slides(written[1])["Every two models"]
    pairs = compare(raw)
    _, *rows = read_tables(page)[0]
    assert len(rows) == len(raw)
    for number, (row, name) in enumerate(zip(rows, raw, strict=True), start=1):
        assert row[0] == f"{number} {raw[name].title}"
        for cell, other in zip(row[1:], raw, strict=True):
            if other == name:
                assert cell == "–"
                continue
            difference, _, _, verdict = pairs[name, other]
            points, _, said = cell.partition(" ")
            assert float(points) == pytest.approx(100 * difference, abs=0.051)
            assert said == ("≈" if verdict == "not told apart" else verdict)
            assert "-0.0" not in cell
    told = sum(verdict != "not told apart" for *_, verdict in pairs.values()) // 2
    assert 3 < told < len(pairs) / 2
    assert f"Told apart: {told} of {len(pairs) // 2} pairs" in " ".join(page.split())


def test_improvements_are_differences_in_points(written, raw):
    page = read_slides(written[1])["Improvements, in points"]
    _, *rows = read_tables(page)[0]
    pairs = compare(raw)
    steps = {
        ("panns", "svm"), ("resnet", "svm"), ("resnet", "panns"), ("panns_strong", "panns"),
        ("resnet_strong", "resnet"),
    }  # fmt: skip
    quality = {name: (model.share(1), model.share(3)) for name, model in raw.items()}
    best = {
        task: max((n for n in raw if MODELS[n][0].startswith(task)), key=quality.get)
        for task in ("task1", "task2")
    }
    steps |= {(best["task2"], best["task1"])}
    steps |= {("ensemble", max((name for name in raw if name != "ensemble"), key=quality.get))}
    by_title = {f"{raw[a].title} over {raw[b].title}": (a, b) for a, b in steps}
    assert {row[0] for row in rows} == set(by_title)
    for name, top1, top3, compared, interval, p, verdict in rows:
        first, second = by_title[name]
        for k, cell in ((1, top1), (3, top3)):
            expected = 100 * (raw[first].share(k) - raw[second].share(k))
            assert float(cell) == pytest.approx(expected, abs=0.051)
        difference, expected_p, expected_interval, expected_verdict = pairs[first, second]
        assert float(compared) == pytest.approx(100 * difference, abs=0.051)
        assert_interval(interval, expected_interval, " to ")
        assert (p, verdict) == (p_text(expected_p), expected_verdict)
    assert f"over all {len(pairs) // 2} pairs" in page


def test_what_choosing_brought_is_said(written, raw):
    pages = read_slides(written[1])
    _, *rows = read_tables(pages["What choosing the epoch brought"])[0]
    assert [row[0] for row in rows] == [raw["panns"].title, raw["resnet"].title]
    gaps = {}
    for row, name in zip(rows, ("panns", "resnet"), strict=True):
        model = raw[name]
        cells = []
        for k in (1, 3):
            chosen, last = model.share(k), model.share(k, model.last)
            cells += [f"{chosen:.1%}", f"{last:.1%}", f"{100 * (chosen - last):+.1f}"]
        assert row[1:] == cells
        text = " ".join(
            pages[f"Task 2: {'PANNs' if name == 'panns' else 'ResNet'}, results"].split()
        )
        assert (
            f"The last one reaches {cells[1]} / {cells[4]}: choosing brought {cells[2]} and" in text
        )
        assert f"{model.metrics['settings']['epochs']} epochs in 12 s" in text
        assert "the one that is kept is number 3." in text
        gaps[model.title] = float(cells[2])
    most = max(gaps, key=gaps.get)
    assert gaps[most] != 0
    text = plain(" ".join(pages["Findings"].split()))
    assert f"brought up to {gaps[most]:+.1f} points of top-1 ({most})." in text


def test_artists_and_albums(written, raw):
    _, deck, card = written
    pages = read_slides(deck)
    for table in (read_tables(pages["Artists: F1 by model"])[0], read_tables(card)[2]):
        header, *rows = table
        assert header == ["artist", "songs", *(model.title for model in raw.values())]
        f1 = [model.f1(None) for model in raw.values()]
        for i, row in enumerate(rows):
            assert row[0] == TOY_ARTISTS[i]
            assert row[1] == str(raw["svm"].artists.count(row[0]))
            assert row[2:] == [f"{scores[i]:.2f}" for scores in f1]
    _, together, *rows = read_tables(pages["Albums that are hardest"])[0]
    albums = raw["svm"].albums

    def counts(models):
        stacked = np.concatenate([model.hits(1) for model in models])
        names = np.array(albums * len(models))
        return {name: (stacked[names == name].sum(), (names == name).sum()) for name in set(albums)}

    assert together[0] == "all models together"
    groups = [list(raw.values()), *([model] for model in raw.values())]
    for row, models in zip([together, *rows], groups, strict=True):
        of = counts(models)
        shares = sorted(Fraction(int(right), int(songs)) for right, songs in of.values())
        for cell, share in zip(row[1:], shares[:3], strict=True):
            counted, album = cell.split(": ")
            assert counted == f"{of[album][0]} of {of[album][1]}"
            assert Fraction(*map(int, counted.split(" of "))) == share
        if models != groups[0]:
            assert row[0] == models[0].title


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Task 1: findings", ["svm", "knn"]),
        ("Task 2: PANNs, results", ["panns"]),
        ("Task 2: ResNet, results", ["resnet"]),
        ("Findings", list(MODELS)),
    ],
)
def test_findings_are_computed(written, raw, heading, names):
    text = plain(" ".join(read_slides(written[1])[heading].split()))
    best = max((raw[name] for name in names), key=lambda model: (model.share(1), model.share(3)))
    if len(names) > 1:
        said = re.search(r"Best: (.*?), top-1 (\S+) \((\S+)\), top-3 (\S+), macro-F1 (\S+)\.", text)
        assert said.group(1) == best.title
        assert said.group(2, 4) == (f"{best.share(1):.1%}", f"{best.share(3):.1%}")
        assert_interval(said.group(3), best.interval(1, best.albums))
        assert said.group(5) == f"{best.f1('macro'):.2f}"
    hits = best.hits(1)
    right = {a: [h for h, b in zip(hits, best.artists, strict=True) if a == b] for a in TOY_ARTISTS}
    said = re.search(r"Easiest artists: (.*?); hardest: (.*?)\. ", text)
    shares = sorted(np.mean(of) for of in right.values())
    for names_said, expected in ((said.group(1), shares[::-1][:2]), (said.group(2), shares[:2])):
        found = re.findall(r"(artist \d) \((\d+) of (\d+)\)", names_said)
        assert [int(n) / int(of) for _, n, of in found] == expected
        for name, n, of in found:
            assert (int(n), int(of)) == (sum(right[name]), len(right[name]))
    guesses = [ranked[0] for ranked in best.ranked]
    wrong = [pair for pair in zip(best.artists, guesses, strict=True) if pair[0] != pair[1]]
    said = re.search(r"confusion: (artist \d) taken for (artist \d), (\d+) of (\d+) songs", text)
    assert wrong.count(said.group(1, 2)) == int(said.group(3)) == max(map(wrong.count, wrong))
    assert int(said.group(4)) == best.artists.count(said.group(1))


def test_the_best_is_compared_with_the_second(written, raw):
    text = plain(" ".join(read_slides(written[1])["Findings"].split()))
    first, second = sorted(raw, key=lambda n: (raw[n].share(1), raw[n].share(3)), reverse=True)[:2]
    difference, p, interval, verdict = compare(raw)[first, second]
    said = {"better": "better than", "worse": "worse than"}.get(verdict, "not told apart from")
    found = re.search(
        re.escape(f"{raw[first].title} is {said} {raw[second].title}: ")
        + r"(\S+) points of top-1 \((.*?)\), p (\S+)\.",
        text,
    )
    assert float(found.group(1)) == pytest.approx(100 * difference, abs=0.051)
    assert_interval(found.group(2), interval, " to ")
    assert found.group(3) == p_text(p)


def test_task1_is_as_its_files_have_it(written):
    results_dir, deck, _ = written
    pages = read_slides(deck)
    metrics = read(results_dir / "task1/metrics.json")
    assert "593 numbers per song" in pages["Task 1: features"]
    _, *rows = read_tables(pages["Task 1: features"])[0]
    assert [row[:2] for row in rows] == [[str(of[0]), name] for name, of in FAMILIES.items()]
    _, *rows = read_tables(pages["Task 1: preprocessing"])[0]
    assert rows == [
        ["SVM", "RobustScaler() → SelectKBest(k=90)"],
        ["k-NN", "RobustScaler() → SelectKBest(k=91)"],
    ]
    assert "Grid search over 5 folds, grouped by album." in pages["Task 1: preprocessing"]
    assert "3 training songs count as wrong" in pages["Task 1: preprocessing"]
    _, *rows = read_tables(pages["Task 1: models"])[0]
    for row, (name, model) in zip(rows, metrics["models"].items(), strict=True):
        candidates = len(read(results_dir / f"task1/search_{name}.json")["candidates"])
        assert row[1] == f"C {model['params']['C']:g}, kernel rbf"
        assert row[2] == str(candidates)
        assert row[3] == f"{model['cv_top1']:.1%} ± {100 * model['cv_std']:.1f}"
        assert row[4] == "2.0"
    text = plain(" ".join(pages["Task 1: findings"].split()))
    best = metrics["best_in_cv"]
    top1 = metrics["models"][best]["cv_top1"]
    assert f"Best in cross-validation: {TITLES[best]}, {top1:.1%}." in text
    gains = [of["cv_top1_by"] for of in metrics["models"].values()]
    low, high = sorted(100 * (of["song"] - of["album"]) for of in gains)
    assert f"cross-validation would give {low:+.1f} to {high:+.1f} points" in text
    assert f"misses mel most ({100 * (0.22 - top1):+.1f} points without it)" in text
    assert "alone, mel is best (49.0%)" in text


def test_configurations_are_those_of_the_runs(written):
    results_dir, deck, _ = written
    pages = read_slides(deck)
    for heading, name in (
        ("Task 2: PANNs, configuration", "panns"),
        ("Task 2: ResNet, configuration", "resnet"),
        ("Beyond the homework: PANNs, strong recipe", "panns_strong"),
        ("Beyond the homework: ResNet, strong recipe", "resnet_strong"),
    ):
        metrics = read(results_dir / f"task2/{name}/metrics.json")
        _, *rows = read_tables(pages[heading])[0]
        found = dict(pair for row in rows for pair in (row[:2], row[2:]) if pair[0])
        flat = {}
        for key, setting in metrics["settings"].items():
            flat |= setting if isinstance(setting, dict) else {key: setting}
        expected = {"parameters trained": f"{metrics['parameters']:,}"}
        expected["epoch that is kept"] = str(metrics["epoch"])
        for key, setting in flat.items():
            text = (
                {None: "–", True: "yes", False: "no"}.get(setting)
                if not isinstance(setting, list)
                else ", ".join(map(str, setting))
            )
            if isinstance(setting, float):
                text = f"{setting:g}"
            expected[key.replace("_", " ")] = str(setting) if text is None else text
        assert found == {k: v for k, v in expected.items() if k not in ("dataset", "fold")}
    _, *rows = read_tables(pages["Task 2: approach"])[0]
    for row in rows:
        key = {"seconds of a training crop": "crop_seconds", "epochs": "epochs"}.get(row[0])
        if key:
            for cell, name in zip(row[1:], ("panns", "resnet"), strict=True):
                settings = read(results_dir / f"task2/{name}/metrics.json")["settings"]
                assert cell == f"{settings[key]:g}"


def test_the_ensemble_is_as_its_file_has_it(written):
    results_dir, deck, _ = written
    page = read_slides(deck)["Beyond the homework: an ensemble"]
    metrics = read(results_dir / "ensemble/metrics.json")
    _, *rows, last = read_tables(page)[0]
    for row, member in zip(rows, metrics["members"].values(), strict=True):
        figures = [f"{member[split]['top1']:.1%}" for split in ("cv", "val")]
        assert row == [member["title"], f"{member['weight']:.3f}", *figures]
    assert last[2:] == [f"{metrics['cv']['top1']:.1%}", f"{metrics['top1']:.1%}"]
    against = metrics["against_best_member"]["val"]
    low, high = against["interval"]
    text = f"{100 * against['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})."
    assert text in " ".join(page.split())


def test_where_the_numbers_are_from(written):
    results_dir, deck, card = written
    pages = read_slides(deck)
    results = read(results_dir / "assets/results.json")
    _, *rows = read_tables(pages["Reproducibility: commands"])[0]
    files = {row[0]: row for row in rows}
    assert len(files) == 8
    for folder in ("task1", "task1/segment", "task2/resnet", "ensemble"):
        metrics = read(results_dir / folder / "metrics.json")
        command = metrics["command"].replace("/somewhere/", "")
        if folder != "ensemble":
            assert files[folder][1] == command
        assert files[folder][2:] == [str(metrics["seed"]), f"{metrics['seconds']:.0f}"]
    assert str(results_dir) not in deck + card
    page = pages["Reproducibility: where these numbers are from"]
    assert f"the {len(results['files'])} files" in page
    assert TOY_DATASET["fingerprint"][:16] in page
    sizes = read_tables(pages["Data, and how it is measured"])[0][1]
    assert sizes == ["toy (synthesised songs)", "4", "80", "48", "12", "all"]
    # Where a slide with other numbers is added, it must be recomputed here as well.
    assert list(pages) == [
        "Music artist recognition on artist20", "Data, and how it is measured",
        "Task 1: features", "Task 1: preprocessing", "Task 1: models", "Task 1: results",
        "Task 1: findings", "Task 1: segments", "Task 2: approach",
        "Task 2: PANNs, configuration", "Task 2: PANNs, results",
        "Task 2: ResNet, configuration", "Task 2: ResNet, results",
        "Beyond the homework: PANNs, strong recipe", "Beyond the homework: ResNet, strong recipe",
        "Beyond the homework: strong recipes, results", "Beyond the homework: an ensemble",
        "All models", "How sure these figures are", "Improvements, in points",
        "Every two models", "What choosing the epoch brought", "Artists: F1 by model",
        "Albums that are hardest", "Findings", "Tutorial", "Tutorial: more",
        "Reproducibility: commands", "Reproducibility: where these numbers are from",
        "References",
    ]  # fmt: skip


# --- what figures are not ------------------------------------------------------------------------


def test_stand_in_data_and_an_untrained_backbone_are_said_wherever_figures_are(written):
    _, deck, card = written
    pages = read_slides(deck)
    title = pages["Music artist recognition on artist20"]
    for text in (title, card):
        assert (
            "> **Stand-in data.** Nothing here is measured on artist20 itself, but on toy" in text
        )
        assert "> **Untrained backbone.** PANNs + MLP, PANNs, strong recipe and Ensemble: " in text
    stamp = (
        "> Stand-in data: toy (synthesised songs), not artist20 itself. Untrained backbone: PANNs"
    )
    of_figures = [name for name, page in pages.items() if "%" in page and name != next(iter(pages))]
    assert len(of_figures) > 12
    for name in of_figures:
        assert stamp in pages[name], name


def artist20_itself(results):
    data = {**results["dataset"], "name": "artist20", "synthesised": False}
    models = {name: row | {"untrained_backbone": False} for name, row in results["models"].items()}
    return results | {"dataset": data, "models": models}


def test_the_homeworks_figures_stand_beside_those_of_artist20_alone(written):
    results = read_results(written[0] / "assets/results.json", "x")
    for text in (written[1], written[2], tables.for_readme(results)):
        assert "57.14" not in text
    results = artist20_itself(results)
    deck = slides.render(results, {})
    assert "Stand-in" not in deck
    header, *rows = read_tables(read_slides(deck)["All models"])[0]
    assert header[-1] == "homework's deck"
    published = {row[0]: row[-1] for row in rows}
    assert published["SVM"] == "57.14% / 78.79%"
    assert published["k-NN"] == "37.23% / 61.04%"
    assert published["ResNet"] == "72.73% / 89.18%"
    assert published["ResNet, strong recipe"] == "–"
    for change in ({"limit": 60}, {"synthesised": True}):
        part = results | {"dataset": results["dataset"] | change}
        for text in (slides.render(part, {}), model_card.render(part), tables.for_readme(part)):
            assert "57.14" not in text
            assert "Stand-in data" in text
    assert "only 60 songs per split" in slides.render(
        results | {"dataset": results["dataset"] | {"limit": 60}}, {}
    )


def test_a_model_that_was_left_out_is_named(written):
    results = read_results(written[0] / "assets/results.json", "x")
    assert tables.left_out_line(results) == ""
    results["left_out"] = {"Random forest": "it takes about 9.0 GB"}
    for text in (
        read_slides(slides.render(results, {}))["All models"],
        read_slides(slides.render(results, {}))["Task 1: results"],
        model_card.render(results),
        tables.for_readme(results),
    ):
        assert "**Random forest** is left out: it takes about 9.0 GB." in text


# --- what is missing -----------------------------------------------------------------------------


def test_only_task1(tmp_path):
    add_search(put_task1(tmp_path, {"svm": 0.8, "knn": 0.3}, seed=1), seed=1)
    deck, card = write_deck(tmp_path)
    pages = read_slides(deck)
    for heading, command in (
        ("Task 1: segments", "python task1_train.py --level segment"),
        ("Task 2: PANNs", "python task2_train.py\n"),
        ("Task 2: ResNet", "python task2_train_wo_pretrain.py\n"),
        ("Beyond the homework: strong recipes", "python task2_train.py --recipe strong"),
        ("Beyond the homework: an ensemble", "python -m artist20.ensemble"),
    ):
        assert "Not run" in pages[heading]
        assert command in pages[heading]
    assert "What choosing the epoch brought" not in pages
    assert "Improvements, in points" not in pages
    assert [row[0] for row in read_tables(pages["All models"])[0][1:]] == ["SVM", "k-NN"]
    assert "not run" in pages["Task 2: approach"]
    assert "Untrained" not in deck + card


def test_only_the_resnet_and_that_without_cross_validation(tmp_path):
    put_net(tmp_path, "resnet", 0.9, seed=31)
    (tmp_path / "task2/resnet/cv_predictions.json").unlink()
    deck, _ = write_deck(tmp_path)
    pages = read_slides(deck)
    assert "Not run" in pages["Task 1: hand-made features"]
    assert "Not run" in pages["Task 2: PANNs"]
    assert "Every two models" not in pages
    header, row = read_tables(pages["All models"])[0]
    assert row[header.index("in CV")] == "–"


def test_an_ablation_that_is_not_finished_is_said(tmp_path):
    folder = put_task1(tmp_path, {"svm": 0.8, "knn": 0.3}, seed=1)
    add_search(folder, seed=1)
    write_json(folder / "ablation.json", read(folder / "ablation.json") | {"complete": False})
    deck, _ = write_deck(tmp_path)
    assert "is not finished" in read_slides(deck)["Task 1: features"]


def test_figures_are_shown_where_they_are(tmp_path, capsys):
    add_search(put_task1(tmp_path / "results", {"svm": 0.8}, seed=1), seed=1)
    assets = tmp_path / "my assets"
    assert run(comparison, "--results-dir", tmp_path / "results", "--assets-dir", assets) == 0
    for name in ("task1_map.png", "task1_ablation.svg", "task2_confusion_matrix_resnet.png"):
        (assets / name).touch()
    output = tmp_path / "out/report.md"
    options = ["--results-dir", tmp_path / "results", "--assets-dir", assets, "--output", output]
    assert run(slides, *options) == 0
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", output.read_text(encoding="utf-8"))
    # Of a model that has not been run, none is shown.
    assert pictures == ["../my%20assets/task1_ablation.svg", "../my%20assets/task1_map.png"]
    named = f"figures in it, as they lie in {assets}: "
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(named)]
    assert set(line.removeprefix(named).split(", ")) == {"task1_ablation", "task1_map"}


def test_of_many_artists_both_ends_are_shown(written):
    results = read_results(written[0] / "assets/results.json", "x")
    models = {
        name: row | {"artists": {f"a{i}": {"songs": 5, "f1": i / 50} for i in range(50)}}
        for name, row in results["models"].items()
    }
    page = slides.artists_slide(results | {"models": models})
    _, *rows = read_tables(page)[0]
    assert [row[0] for row in rows] == [f"a{i}" for i in [*range(49, 39, -1), *range(9, -1, -1)]]
    assert "The 10 easiest and the 10 hardest of 50, by the models' mean.\n" in page + "\n"
    for row in models.values():  # thirteen more of those who are never right, one with a long name
        row["artists"] |= {f"a{i}": {"songs": 5, "f1": 0} for i in range(13)}
        row["artists"]["a49" + "z" * 50] = row["artists"].pop("a49")
    page = slides.artists_slide(results | {"models": models})
    assert "Not named are 0 as easy and 3 as hard as the last of these." in page
    assert "Names of more than 40 letters may lack their end." in page


def test_findings_count_the_artists_that_are_equal_to_those_named():
    artists = {f"a{i}": {"songs": 4, "right": i // 5} for i in range(20)}
    record = {"artists": artists, "confusions": []}
    said, _ = findings.artist_sentences(record)
    assert said.endswith("Not named are 2 as easy and 2 as hard as the last of these.")


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["a|b", "*NSYNC*", "_x_", "<b>&amp;", "A$AP $$", "`ls`", "[x](y)", "~a~", "# 1", "a\\"]
)
def test_names_are_not_read_as_markdown(name):
    escaped = tables.escape(name)
    assert (
        plain(escaped.replace("\\`", "\0").replace("\\*", "\1"))
        .replace("\0", "`")
        .replace("\1", "*")
        == name
    )
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|~$#&]", escaped)
    assert read_tables(tables.table(["x", "y"], [[escaped, "1"]]))[0][1][1] == "1"


def test_a_name_of_several_lines_stays_in_its_cell():
    assert tables.escape("two\n\n--- \t lines") == "two --- lines"


# --- the command ---------------------------------------------------------------------------------


def test_results_of_other_songs_are_refused(tmp_path, capsys):
    put_all(tmp_path)
    write_deck(tmp_path)
    metrics = tmp_path / "task2/resnet/metrics.json"
    other = read(metrics) | {"dataset": TOY_DATASET | {"name": "other", "fingerprint": "f" * 64}}
    write_json(metrics, other)
    before = (tmp_path / "report.md").read_text()
    for module, text in ((slides, "was made of another"), (comparison, "are of different songs")):
        capsys.readouterr()
        options = ["--results-dir", tmp_path, "--assets-dir", tmp_path / "assets"]
        options += ["--output", tmp_path / "report.md"] if module is slides else []
        assert run(module, *options) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert text in error
        assert error.count("\n") == 1
    assert (tmp_path / "report.md").read_text() == before


def test_without_results_the_command_that_makes_them_is_named(tmp_path, capsys):
    assert run(slides, "--results-dir", tmp_path, "--assets-dir", tmp_path) == 2
    expected = (
        f"error: {tmp_path}/results.json is missing: run python -m artist20.comparison first\n"
    )
    assert capsys.readouterr().err == expected


def test_readmes_table_is_put_between_its_markers(tmp_path):
    file = tmp_path / "README.md"
    start, end = tables.MARKERS
    file.write_text(f"before\n\n{start}\nold\n{end}\n\nafter\n")
    for _ in range(2):
        tables.put_between_markers(file, "new")
        assert file.read_text() == f"before\n\n{start}\n\nnew\n\n{end}\n\nafter\n"
    for text in ("", start, end, f"{end}{start}", f"{start}{start}{end}", f"{start}{end}{end}"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"README\.md must have the lines"):
            tables.put_between_markers(file, "new")
        assert file.read_text() == text
    with pytest.raises(UserError, match=r"nowhere\.md is missing"):
        tables.put_between_markers(tmp_path / "nowhere.md", "new")


# --- the repository's own ------------------------------------------------------------------------


def test_the_repository_shows_what_its_results_say():
    """If this fails, run ``make assets``."""
    results = read_results(REPOSITORY / "assets/results.json", "make assets")
    figures = slides.find_figures(REPOSITORY / "assets", REPOSITORY)
    assert (REPOSITORY / "report.md").read_text("utf-8") == slides.render(results, figures)
    assert (REPOSITORY / "MODEL_CARD.md").read_text("utf-8") == model_card.render(results)
    start, end = tables.MARKERS
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    shown = readme.partition(start)[2].partition(end)[0].strip()
    assert shown == tables.for_readme(results)
    assert "/home" not in json.dumps(results)
    assert results["command"].startswith("python -m artist20.comparison --results-dir results/demo")
