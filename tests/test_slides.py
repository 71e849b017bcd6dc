"""The slides, the model card and README's table: every number from the record, names escaped."""

import base64
import json
import re
import sys
from pathlib import Path

import jinja2
import pytest
from conftest import (
    TOY_ARTISTS,
    TOY_DATASET,
    TOY_FAMILIES,
    TOY_LEARNING,
    put_network,
    put_task1,
    toy_settings,
)
from msgspec.structs import replace

from artist20 import UserError, comparison, ensemble, features, runtime, slides
from artist20.report import compare, deck, tables
from artist20.results import (
    Ablation,
    AlbumResult,
    ArtistResult,
    Comparison,
    EncoderSettings,
    Graded,
    Intervals,
    OfNetwork,
    read_record,
    write_record,
)

REPOSITORY = Path(__file__).resolve().parents[1]
UNTRAINED = ("panns", "panns_strong", "ensemble")
FILES = ("deck", "model_card", "readme_table")


def run(module, *options):
    """Run a module as its command does; return the exit status."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(sys, "argv", ["x", *map(str, options)])
        runtime.run(module.main)
    return stopped.value.code


def put_all(results_dir):
    """Write a results folder in which everything was run."""
    put_task1(results_dir, {"svm": 0.8, "knn": 0.3}, seed=1)
    put_task1(results_dir, {"svm": 1.1, "knn": 0.5}, seed=11, level="segment")
    put_network(results_dir, "panns", 0.7, seed=21)
    put_network(results_dir, "resnet", 0.9, seed=31)
    put_network(results_dir, "panns_strong", 1.3, seed=41)
    put_network(results_dir, "resnet_strong", 2.0, seed=51)


def write_slides(results_dir, *options):
    """Compare, and write the slides; return them and the model card."""
    assets = results_dir / "assets"
    assert run(comparison, "--results-dir", results_dir, "--assets-dir", assets) == 0
    output = results_dir / "report.md"
    arguments = ["--results-dir", results_dir, "--assets-dir", assets, "--output", output]
    assert run(slides, "--full", *arguments, *options) == 0
    return output.read_text("utf-8"), (results_dir / "MODEL_CARD.md").read_text("utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Run everything once; return the record, the slides and the model card."""
    results_dir = tmp_path_factory.mktemp("everything") / "results"
    put_all(results_dir)
    assert run(ensemble, "--results-dir", results_dir) == 0
    texts = write_slides(results_dir)
    return read_record(results_dir / "assets/results.json", Comparison, "x"), *texts


@pytest.fixture(scope="module")
def record(written):
    return written[0]


@pytest.fixture(scope="module")
def pages(written):
    return read_slides(written[1])


# --- reading Markdown back -----------------------------------------------------------------------


def plain(text):
    """Take bold, code and backslashes off."""
    return re.sub(r"\\(.)", r"\1", text.replace("**", "").replace("`", ""))


def read_tables(text):
    """Find the tables of a text: lists of rows, each a list of cells, the header first."""
    found, lines = [], []
    for line in [*text.splitlines(), ""]:
        if line.startswith("| "):
            lines.append([plain(cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif lines:
            assert len({len(cells) for cells in lines}) == 1, lines
            assert set("".join(lines[1])) <= set(":-")
            found.append([lines[0], *lines[2:]])
            lines = []
    return found


def read_slides(text):
    """Split slides: text by heading."""
    _, *of_slides = re.split(r"\n---\n", text)
    by_heading = {}
    for page in of_slides:
        heading = re.search(r"^#+ (.*)$", page, re.MULTILINE).group(1)
        assert heading not in by_heading, heading
        assert "\n\n\n" not in page
        by_heading[heading] = page
    return by_heading


def sentences(page):
    return plain(" ".join(page.split()))


# --- numbers -------------------------------------------------------------------------------------


def results_row(model, with_last, published=None):
    val, last = model.val, model.last
    row = [model.title]
    for share, (low, high) in ((val.top1, val.over_albums.top1), (val.top3, val.over_albums.top3)):
        row += [f"{share:.1%}", f"{100 * low:.1f}–{100 * high:.1f}"]
    row += [f"{val.macro_f1:.2f}", f"{val.course_score:.3f}", f"{model.cv.top1:.1%}"]
    if with_last:
        row.append(f"{last.top1:.1%} / {last.top3:.1%}" if last else "–")
    return row + ([published] if published else [])


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Task 1: results", ["svm", "knn"]),
        ("Task 1: segments", ["svm", "knn", "svm_of_segments"]),
        ("Task 2: PANNs, results", ["panns"]),
        ("Task 2: ResNet, results", ["resnet"]),
        (
            "Beyond the homework: strong recipes, results",
            ["panns", "panns_strong", "resnet", "resnet_strong"],
        ),
        ("All models: all figures", None),
        ("model card", None),
        ("readme", None),
    ],
)
def test_tables_of_results(written, pages, heading, names):
    record, _, card = written
    text = pages.get(heading) or (
        card if heading == "model card" else deck.render("readme_table", record, {})
    )
    header, *rows = read_tables(text)[1 if heading == "model card" else 0]
    models = [model for name, model in record.models.items() if not names or name in names]
    with_last = any(model.last for model in models)
    assert rows == [results_row(model, with_last) for model in models]
    expected = ["model", "top-1", "95 %", "top-3", "95 %", "macro-F1", "score", "in CV"]
    assert header == expected + ["last epoch"] * with_last


def test_the_wide_search_has_a_slide_beside_the_homeworks(tmp_path, pages):
    heading = "Task 1: wide search"
    assert heading not in pages
    put_all(tmp_path)
    put_task1(tmp_path, {"svm": 0.7, "lda": 1.2}, seed=61, search="wide")
    put_task1(tmp_path, {"lda": 1.3}, seed=71, level="segment", search="wide")
    slides, card = write_slides(tmp_path)
    record = read_record(tmp_path / "assets/results.json", Comparison, "x")
    names = {"svm_wide", "lda_wide", "lda_of_segments_wide"}
    wide = {name: model for name, model in record.models.items() if name in names}
    assert wide.keys() == names
    (header, *chosen), (_, *rows) = read_tables(read_slides(slides)[heading])
    assert header == ["model", "chosen", "candidates"]
    settings = "C 0.1, k all, kernel rbf, scaler robust"
    assert ["SVM, wide search", settings, "7"] in chosen
    assert rows == [results_row(model, with_last=False) for model in wide.values()]
    best = max(names, key=lambda name: wide[name].cv.top1)
    assert wide[best].title in sentences(read_slides(slides)[heading].split("\n- ")[1])
    assert len(read_tables(read_slides(slides)["Task 1: results"])[0]) == 3  # the homework's alone
    described = {row[0]: row[1] for row in read_tables(card)[0]}
    assert described[wide["lda_wide"].title] == "statistics of hand-made features of the song"
    of_segments = described[wide["lda_of_segments_wide"].title]
    assert of_segments.startswith("statistics of hand-made features of segments")


def test_one_figure_in_cross_validation_is_everywhere(written):
    """That of all songs together; the mean over folds, which is another, is nowhere."""
    record, *texts = written
    details = record.models["svm"].details
    other = replace(details, model=replace(details.model, cv_top1=0.9876))
    models = {**record.models, "svm": replace(record.models["svm"], details=other)}
    for text in (*texts, *(deck.render(f, replace(record, models=models), {}) for f in FILES)):
        assert f"{record.models['svm'].cv.top1:.1%}" in text
        assert "98.8%" not in text


def test_both_bootstraps_stand_beside_each_other(record, pages):
    _, *rows = read_tables(pages["How sure these figures are"])[0]
    for row, model in zip(rows, record.models.values(), strict=True):
        expected = [model.title]
        for k in ("top1", "top3"):
            expected.append(f"{getattr(model.val, k):.1%}")
            for intervals in (model.val.over_albums, model.val.over_songs):
                expected.append("{:.1f}–{:.1f}".format(*(100 * e for e in getattr(intervals, k))))
        assert row == expected


def test_every_two_models_are_compared(record, pages):
    page = pages["Every two models"]
    header, *rows = read_tables(page)[0]
    assert header == ["", *map(str, range(1, 9))]
    for i, (row, (name, model)) in enumerate(zip(rows, record.models.items(), strict=True)):
        assert row[0] == f"{i + 1} {model.title}"
        pairs = compare.against(record, name)
        for other, cell in zip(record.models, row[1:], strict=True):
            if other == name:
                assert cell == "–"
                continue
            said = {"no significant difference": "≈"}.get(
                pairs[other].verdict, pairs[other].verdict
            )
            assert cell == f"{tables.points(pairs[other].difference)} {said}"
    told = sum(pair.verdict != "no significant difference" for pair in record.pairs)
    assert 3 < told < len(record.pairs) / 2
    assert f"Significant differences: {told} of 28 pairs" in sentences(page)


def test_improvements_are_differences_in_points(record, pages):
    models = record.models
    _, *rows = read_tables(pages["Improvements, in points"])[0]
    quality = {name: (model.val.top1, model.val.top3) for name, model in models.items()}
    single = [name for name in models if name != "ensemble"]
    best = {
        task: max((n for n in single if models[n].folder.startswith(task)), key=quality.get)
        for task in ("task1", "task2")
    }
    steps = [
        ("panns", "svm"), ("resnet", "svm"), ("resnet", "panns"), ("panns_strong", "panns"),
        ("resnet_strong", "resnet"), ("ensemble", max(single, key=quality.get)),
        (best["task2"], best["task1"]),
    ]  # fmt: skip
    for row, (first, second) in zip(rows, steps, strict=True):
        pair = compare.against(record, first)[second]
        reported = [a - b for a, b in zip(quality[first], quality[second], strict=True)]
        assert row == [
            f"{models[first].title} over {models[second].title}",
            *map(tables.points, reported),
            tables.points(pair.difference),
            tables.points_between(pair.interval),
            tables.p_text(pair.p_holm),
            pair.verdict,
        ]


def test_what_choosing_brought_is_said(record, pages):
    _, *rows = read_tables(pages["What choosing the epoch brought"])[0]
    gained = {}
    for row, (name, what) in zip(rows, (("panns", "PANNs"), ("resnet", "ResNet")), strict=True):
        model = record.models[name]
        cells = []
        for k in ("top1", "top3"):
            chosen, last = getattr(model.val, k), getattr(model.last, k)
            cells += [f"{chosen:.1%}", f"{last:.1%}", tables.points(chosen - last)]
        assert row == [model.title, *cells]
        text = sentences(pages[f"Task 2: {what}, results"])
        assert "100 epochs in 12 s; the one that is kept is number 3." in text
        assert (
            f"reaches {cells[1]} / {cells[4]}: choosing brought {cells[2]} and {cells[5]}" in text
        )
        gained[model.title] = model.val.top1 - model.last.top1
    most = max(gained, key=gained.get)
    said = f"brought up to {tables.points(gained[most])} points of top-1 ({most})."
    assert said in sentences(pages["Task 2: results"])
    unmoved = {
        name: replace(model, last=model.last and model.val) for name, model in record.models.items()
    }
    text = deck.render("deck", replace(record, models=unmoved), {})
    said = "The epoch was chosen on these songs, which did not raise top-1."
    assert said in sentences(read_slides(text)["Task 2: results"])


def test_captions_are_with_their_pictures_alone(record):
    heading, song = "A song, as the network hears it", "task2_song_01-Mustapha"
    assert heading not in read_slides(deck.render("deck", record, {}))
    page = read_slides(deck.render("deck", record, {song: deck.Markdown("01.png")}))[heading]
    assert "(01.png)" in page
    assert "- Above: the song's log-mel spectrogram." in page


def test_artists_and_albums(written, pages):
    record, _, card = written
    models = list(record.models.values())
    for table in (read_tables(pages["Artists: F1 by model"])[0], read_tables(card)[2]):
        header, *rows = table
        assert header == ["artist", "songs", *(model.title for model in models)]
        assert rows == [
            [name, "12", *(f"{model.artists[name].f1:.2f}" for model in models)]
            for name in TOY_ARTISTS
        ]
    _, together, *rows = read_tables(pages["Albums that are hardest"])[0]
    for row, model in zip(rows, models, strict=True):
        counted = [
            f"{model.albums[name].right} of 4: {name}" for name in model.worst_albums
        ]  # fmt: skip
        assert row == [model.title, *counted]
    albums = compare.albums_of_all(models)
    hardest = compare.worst_albums(albums)
    counted = [f"{albums[name].right} of 32: {name}" for name in hardest]
    assert together == ["all models together", *counted]
    assert f"{hardest[0]} ({albums[hardest[0]].right} of 32 guesses right)," in card


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("Task 1: findings", ["svm", "knn"]),
        ("Task 2: PANNs, results", ["panns"]),
    ],
)
def test_findings_are_computed(record, pages, heading, names):
    text = sentences(pages[heading])
    models = [record.models[name] for name in names]
    best = max(models, key=lambda model: (model.val.top1, model.val.top3))
    if len(models) > 1:
        low, high = best.val.over_albums.top1
        said = f"Best on these songs: {best.title}, top-1 {best.val.top1:.1%} "
        said += f"({100 * low:.1f}–{100 * high:.1f}), "
        assert f"{said}top-3 {best.val.top3:.1%}, macro-F1 {best.val.macro_f1:.2f}." in text
    easiest, hardest = re.search(r"Easiest artists: (.*?); hardest: (.*?)\. ", text).groups()
    counts = sorted(artist.right for artist in best.artists.values())
    for said, expected in ((easiest, counts[::-1][:2]), (hardest, counts[:2])):
        found = re.findall(r"(artist \d) \((\d+) of 12\)", said)
        assert [int(right) for _, right in found] == expected
        assert all(best.artists[name].right == int(right) for name, right in found)
    most = best.confusions[0]
    said = f"confusion: {most.artist} taken for {most.guess}, {most.songs} of 12 songs."
    assert said in text


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ("better", "{} is better than {}: "),
        ("no significant difference", "There is no significant difference between {} and {}: "),
    ],
)
def test_the_best_is_compared_with_the_second(record, verdict, said):
    models = record.models
    order = sorted(models, key=lambda n: (models[n].val.top1, models[n].val.top3), reverse=True)
    assert {*order[:2]} == {"ensemble", "resnet_strong"}
    pairs = [
        replace(
            pair,
            first="resnet_strong",
            second="ensemble",
            p_holm=0.0001,
            verdict=verdict,
            difference=0.125,
            interval=(0.0625, 0.25),
        )
        if {pair.first, pair.second} == {"resnet_strong", "ensemble"}
        else pair
        for pair in record.pairs
    ]
    # Make the pair's first model the best.
    val = replace(models["resnet_strong"].val, top1=0.999)
    better = {**models, "resnet_strong": replace(models["resnet_strong"], val=val)}
    text = deck.render("deck", replace(record, models=better, pairs=pairs), {}, full=True)
    said = said.format("ResNet, strong recipe", "Ensemble, untrained encoder")
    expected = f"- {said}+12.5 points of top-1 (+6.2 to +25.0), p <0.001."
    assert expected in sentences(read_slides(text)["At a glance"])


def test_task1_is_as_its_record_has_it(record, pages):
    assert "593 numbers per song" in pages["Task 1: features"]
    _, *rows = read_tables(pages["Task 1: features"])[0]
    assert [row[:2] for row in rows] == [[str(of[0]), name] for name, of in TOY_FAMILIES.items()]
    _, *rows = read_tables(pages["Task 1: preprocessing"])[0]
    assert rows == [
        ["SVM", "RobustScaler() → SelectKBest(k=90)"],
        ["k-NN", "RobustScaler() → SelectKBest(k=91)"],
    ]
    assert "Grid search over 5 folds, grouped by album." in pages["Task 1: preprocessing"]
    assert "3 training songs count as wrong" in pages["Task 1: preprocessing"]
    _, *rows = read_tables(pages["Task 1: models"])[0]
    in_cv = {name: f"{record.models[name].cv.top1:.1%}" for name in ("svm", "knn")}
    assert rows == [
        ["SVM", "C 0.1, kernel rbf", "7", in_cv["svm"], "5.0%", "2.0"],
        ["k-NN", "C 0.2, kernel rbf", "8", in_cv["knn"], "6.0%", "2.0"],
    ]
    text = sentences(pages["Task 1: findings"])
    assert f"Best in cross-validation: SVM, {in_cv['svm']}." in text
    assert "would give +10.0 to +20.0 points of top-1" in text
    whole = record.models["svm"].details.model.cv_top1
    assert f"SVM misses mel most ({tables.points(0.22 - whole)} points without it)" in text
    assert f"alone, mel is best ({tables.points(0.49 - whole)} points against all" in text


def test_every_family_of_features_is_explained(record):
    ablation = record.ablation["task1"]
    families = dict.fromkeys([*features.FAMILIES, "tempo"], ablation.families["mel"])
    ablations = {"task1": replace(ablation, families=families)}
    text = deck.render("deck", replace(record, ablation=ablations), {}, full=True)
    _, *rows = read_tables(read_slides(text)["Task 1: features"])[0]
    assert [row[1] for row in rows] == list(families)


@pytest.mark.parametrize(
    ("heading", "name", "expected"),
    [
        (
            "Task 2: PANNs, configuration",
            "panns",
            {
                "parameters trained": "1,234,588", "epoch that is kept": "3", "lr": "0.005",
                "hidden": "1024, 512, 256", "pooled": "no", "views": "1", "windows": "–",
                "optimizer": "Adam", "encoder weights": "untrained, seed 0", "patience": "–",
                "encoder sample rate": "16000", "precision": "float32", "seed": "0",
            },
        ),
        (
            "Beyond the homework: ResNet, strong recipe",
            "resnet_strong",
            {
                "parameters trained": "1,234,618", "crop seconds": "3", "select": "no",
                "noise snr db": "15, 40", "n mels": "64", "also train on": "–",
            },
        ),
    ],
)  # fmt: skip
def test_configurations_are_those_of_the_runs(record, pages, heading, name, expected):
    _, *rows = read_tables(pages[heading])[0]
    found = dict(pair for row in rows for pair in (row[:2], row[2:]) if pair[0])
    assert expected.items() <= found.items()
    recipe = record.models[name].details.settings.recipe
    assert {field.replace("_", " ") for field in recipe.__struct_fields__} <= found.keys()


def test_of_an_odd_number_of_settings_none_is_lost():
    for extra in ([], [EncoderSettings(name="x", weights="0" * 64, sample_rate=1)]):
        settings = replace(toy_settings("resnet"), encoders=extra)
        network = OfNetwork(epoch=1, parameters=2, settings=settings)
        cells = [cell for row in deck.settings_rows(network) for cell in row]
        assert "seed" in cells
        assert ("0" * 16 + "…" in cells) == bool(extra)


def test_the_approach_names_what_was_not_run(record, pages):
    _, *rows = read_tables(pages["Task 2: approach"])[0]
    assert ["seconds of a training crop", "3", "3"] in rows
    assert ["parameters that are trained", "1,234,588", "1,234,598"] in rows
    models = {name: model for name, model in record.models.items() if name != "panns"}
    text = deck.render("deck", replace(record, models=models), {}, full=True)
    page = read_slides(text)["Task 2: approach"]
    assert ["epochs", "not run", "100"] in read_tables(page)[0]


@pytest.mark.parametrize("template", ["readme_table", "model_card"])
def test_who_is_in_the_ensemble_is_said_if_anybody_is(record, template):
    of = record.models["ensemble"]
    first, *others = of.details.members

    def lines(idle):
        members = of.details.members | {
            name: replace(of.details.members[name], weight=0.0) for name in idle
        }
        changed = replace(of, details=replace(of.details, members=members))
        models = record.models | {"ensemble": changed}
        text = deck.render(template, replace(record, models=models), {})
        return [line for line in text.splitlines() if line.startswith("The ensemble is made of")]

    titles = [deck.unmarked(of.details.members[name].title) for name in others]
    assert lines([first]) == [f"The ensemble is made of {deck.enumerated(titles)}."]
    assert lines([first, *others]) == []


def test_the_ensemble_is_as_its_record_has_it(record, pages):
    page = pages["Beyond the homework: an ensemble"]
    model = record.models["ensemble"]
    _, *rows, last = read_tables(page)[0]
    assert rows == [
        [of.title, f"{of.weight:.3f}", f"{of.cv.top1:.1%}", f"{of.val.top1:.1%}"]
        for of in model.details.members.values()
    ]
    assert last == [model.title, "", f"{model.cv.top1:.1%}", f"{model.val.top1:.1%}"]
    pair = model.details.against_best_member["val"]
    said = f"{tables.points(pair.difference)} points ({tables.points_between(pair.interval)})."
    assert f"ResNet, strong recipe, on the validation songs: {said}" in sentences(page)


def test_models_of_renditions_and_other_encoders(tmp_path):
    put_all(tmp_path)
    put_task1(tmp_path, {"svm": 1.0}, seed=61, rendition="vocals_strong")
    put_task1(tmp_path, {"svm": 1.0}, seed=65, level="segment", rendition="vocals_strong")
    put_network(tmp_path, "resnet@vocals_strong", 1.5, seed=71)
    put_network(tmp_path, "resnet_strong@vocals_strong", 1.9, seed=81)
    put_network(tmp_path, "ge2e", 0.8, seed=91)
    slides_text, card = write_slides(tmp_path)
    pages = read_slides(slides_text)
    titles = [row[0] for row in read_tables(pages["All models"])[0][1:]]
    added = ["SVM, on vocals_strong", "GE2E + MLP, untrained encoder"]
    networks = ["ResNet, on vocals_strong", "ResNet, strong recipe, on vocals_strong"]
    assert {*added, *networks, "SVM, 5 s segments, on vocals_strong"} <= {*titles}
    _, *rows = read_tables(pages["Beyond the homework: strong recipes, results"])[0]
    of_recipes = ["PANNs + MLP, untrained encoder", "PANNs, strong recipe, untrained encoder"]
    of_recipes += ["ResNet", "ResNet, strong recipe", *networks]
    assert {row[0] for row in rows} == {*of_recipes}
    page = pages[r"Beyond the homework: ResNet, strong recipe, on vocals\_strong"]
    assert ["heard in", "vocals_strong"] in [
        row[i : i + 2] for row in read_tables(page)[0] for i in (0, 2)
    ]
    # Each against the same model on the songs' own files.
    record = read_record(tmp_path / "assets/results.json", Comparison, "x")
    steps = {(pair.first, pair.second) for pair in deck.improvements(record)}
    for name in ("svm", "resnet", "resnet_strong"):
        assert (f"{name}@vocals_strong", name) in steps
    kinds = {row[0]: row[1] for row in read_tables(card)[0][1:]}
    assert kinds["SVM, on vocals_strong"] == "statistics of hand-made features of the song"
    assert kinds["SVM, 5 s segments, on vocals_strong"].startswith(
        "statistics of hand-made features of segments"
    )


def test_where_the_numbers_are_from(record, pages):
    _, *rows = read_tables(pages["Reproducibility: commands"])[0]
    assert len(rows) == 8
    assert ["task1/preprocessing", "python task1_preprocessing.py", "–", "10"] in rows
    assert ["task2/resnet", "python train_resnet.py --data-dir toy", "0", "10"] in rows
    page = sentences(pages["Reproducibility: where these numbers are from"])
    assert f"the {len(record.files)} files" in page
    assert "CPU, 1 threads; CPU." in page
    assert "artist20 0.1.0, python 3.11.7 or " in page or "python 3.11.7, torch" in page
    assert f"{TOY_DATASET.fingerprint}." in page
    sizes = read_tables(pages["Data, and how it is measured"])[0][1]
    assert sizes == ["toy (synthesised songs)", "4", "80", "48", "12", "all"]


# --- what figures are not ------------------------------------------------------------------------


def test_stand_in_data_and_an_untrained_encoder_are_said(written, pages):
    _, text, card = written
    assert "> **Stand-in data.** Nothing here is measured on artist20 itself, but on toy" in card
    (untrained,) = re.findall(r"> \*\*Untrained encoder\.\*\* (.*): random", card)
    assert {*re.split(", (?=P)| and ", untrained)} == {
        "Ensemble", "PANNs + MLP", "PANNs, strong recipe",
    }  # fmt: skip
    assert "Measured on toy (synthesised songs)" in pages["Music artist recognition on artist20"]
    # A line that stands at the foot of every slide.
    (footer,) = re.findall(r"^footer: (.*)$", text, re.MULTILINE)
    assert json.loads(footer) == (
        "Stand-in data: toy (synthesised songs), not artist20 itself. "
        f"Untrained encoder: {untrained}."
    )
    assert "| PANNs + MLP, **untrained encoder** |" in pages["All models"]


def test_a_network_that_has_learnt_nothing_is_marked_everywhere(tmp_path, capsys):
    put_network(tmp_path, "panns", 0.7, seed=1, learning=replace(TOY_LEARNING, guessed=0.95))
    put_network(tmp_path, "resnet_strong", 1.0, seed=2)
    text, card = write_slides(tmp_path)
    reason = "95% of the validation songs are taken for artist 1's, who made 25%."
    said = " ".join(capsys.readouterr().out.split())
    assert f"PANNs + MLP, untrained encoder, did not learn: {reason}" in said
    marked = "| PANNs + MLP, **untrained encoder, did not learn** |"
    for slide in (text, card):
        assert marked in slide and f"\n\n> **Did not learn.** PANNs + MLP: {reason}\n" in slide
        assert "ResNet, strong recipe, **" not in slide


def artist20_itself(record, **changes):
    data = replace(record.dataset, name="artist20", synthesised=False, **changes)
    models = {name: replace(model, untrained=False) for name, model in record.models.items()}
    return replace(record, dataset=data, models=models)


def test_the_homeworks_figures_stand_beside_those_of_artist20_alone(written):
    record, *texts = written
    assert not any("57.14" in text for text in texts)
    for template in FILES:
        text = deck.render(template, artist20_itself(record), {})
        assert "Stand-in" not in text
        assert "Untrained" not in text
        table = next(
            table for table in read_tables(text)[::-1] if table[0][-1] == "homework"
        )  # fmt: skip
        published = {row[0]: row[-1] for row in table[1:]}
        assert published["SVM"] == "57.14% / 78.79%"
        assert published["ResNet"] == "72.73% / 89.18%"
        assert published["ResNet, strong recipe"] == "–"
        text = deck.render(template, artist20_itself(record, limit=60), {})
        assert "57.14" not in text
        assert "artist20, only 60 songs per split" in text


def test_what_the_field_reached_is_shown_of_artist20_alone(record, pages):
    heading = "What the field reached on artist20"
    assert heading not in pages
    itself = artist20_itself(record)
    page = read_slides(deck.render("deck", itself, {}, full=True))[heading]
    _, *rows, own = read_tables(page)[0]
    assert len(rows) == 8
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert all(f"| {how} | {reached} |\n" in readme for how, reached in rows)
    best = max(itself.models.values(), key=lambda model: (model.val.top1, model.val.top3))
    assert own == [f"here: {best.title}", f"{best.val.top1:.1%} / {best.val.top3:.1%}"]


def test_columns_of_test_songs_and_of_all_songs_stand_where_there_are_any(record):
    intervals = Intervals(top1=(0.3, 0.5), top3=(0.5, 0.7))
    graded = Graded(top1=0.4, top3=0.6, songs=5, over_songs=intervals, course_score=0.7)
    svm = record.models["svm"]
    pooled = replace(svm.val, top1=0.123, top3=0.456)
    models = {**record.models, "svm": replace(svm, pooled=pooled, test=graded)}
    for template in FILES:
        before = deck.render(template, record, {}, full=True)
        assert "gap" not in before
        assert "all songs" not in before
        text = deck.render(template, replace(record, models=models), {}, full=True)
        table = next(of for of in read_tables(text) if "gap" in of[0] and len(of) > 4)
        at = table[0].index("all songs")
        assert table[0][at : at + 3] == ["all songs", "test", "gap"]
        rows = {row[0]: row[at : at + 3] for row in table[1:]}
        gap = tables.points(0.4 - svm.val.top1)
        assert rows["SVM"] == ["12.3% / 45.6%", "40.0% / 60.0%", gap]
        assert rows["k-NN"] == ["–", "–", "–"]
        said = " ".join(text.split())
        assert "Test: top-1 / top-3 of 5 test songs, of yet other albums; gap: test top-1" in said
        assert "All songs: top-1 / top-3 of training and validation songs together" in said


def test_a_model_that_was_left_out_is_named(record):
    assert "left out" not in deck.render("readme_table", record, {})
    record = replace(record, left_out={"Random forest": "it takes about 9.0 GB"})
    said = "**Random forest** is left out: it takes about 9.0 GB."
    pages = read_slides(deck.render("deck", record, {}, full=True))
    for text in (
        pages["All models"],
        pages["All models: all figures"],
        pages["Task 1: results"],
        deck.render("model_card", record, {}),
        deck.render("readme_table", record, {}),
    ):
        assert said in text


# --- what is missing -----------------------------------------------------------------------------


def test_of_what_was_not_run_there_is_no_slide(tmp_path):
    folder = put_task1(tmp_path, {"svm": 0.8, "knn": 0.3}, seed=1, cv="song")
    ablation = read_record(folder / "ablation.json", Ablation, "x")
    write_record(folder / "ablation.json", replace(ablation, complete=False))
    text, card = write_slides(tmp_path)
    pages = read_slides(text)
    assert list(pages) == [
        "Music artist recognition on artist20", "At a glance", "Data, and how it is measured",
        "Task 1", "Task 1: features", "Task 1: grids searched", "Side by side", "All models",
        "Key insights", "What each script does", "References", "Appendix",
        "Task 1: preprocessing", "Task 1: models", "Task 1: results", "Task 1: findings",
        "All models: all figures", "All models: time and accuracy", "How sure these figures are",
        "Every two models", "Artists: F1 by model", "Albums that are hardest", "Tutorial",
        "Tutorial: more", "Reproducibility: commands",
        "Reproducibility: where these numbers are from",
    ]  # fmt: skip
    assert "is not finished" in pages["Task 1: features"]
    header, *rows = read_tables(pages["All models"])[0]
    assert [(row[0], row[header.index("in CV")]) for row in rows] == [("SVM", "–"), ("k-NN", "–")]
    assert "Untrained" not in text + card


def test_only_one_network(tmp_path):
    put_network(tmp_path, "resnet", 0.9, seed=31)
    pages = read_slides(write_slides(tmp_path)[0])
    assert "Task 2: ResNet, results" in pages
    assert not {"Task 1: results", "Task 2: PANNs, results", "Every two models"} & pages.keys()


def test_figures_are_shown_where_they_are(tmp_path, capsys):
    put_task1(tmp_path / "results", {"svm": 0.8}, seed=1)
    assets = tmp_path / "my assets"
    assert run(comparison, "--results-dir", tmp_path / "results", "--assets-dir", assets) == 0
    for name in ("task1_map.png", "task1_ablation.svg", "task2_confusion_matrix_resnet.png"):
        (assets / name).touch()
    output = tmp_path / "out/report.md"
    options = ["--results-dir", tmp_path / "results", "--assets-dir", assets, "--output", output]
    assert run(slides, "--full", *options) == 0
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", output.read_text(encoding="utf-8"))
    # Of a model that has not been run, none is shown.
    shown = ("task2_dot_plot", "task1_ablation", "task1_map", "task2_time_and_accuracy")
    found = [name.rpartition(".")[0] for name in pictures]
    assert found == [f"../my%20assets/{name}" for name in shown]
    named = f"figures in it, as they lie in {assets}: "
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(named)]
    assert set(line.removeprefix(named).split(", ")) == {*shown}


def test_a_page_holds_its_pictures(tmp_path):
    (tmp_path / "my assets").mkdir()
    (tmp_path / "my assets/a.png").write_bytes(b"a picture")
    page = tmp_path / "report.html"
    page.write_text('<img src="my%20assets/a.png"><img src="https://example.org/b.png">')
    assert run(slides, "--embed", page) == 0
    embedded = base64.b64encode(b"a picture").decode()
    kept = '<img src="https://example.org/b.png">'
    assert page.read_text() == f'<img src="data:image/png;base64,{embedded}">{kept}'


def test_an_authors_own_slides_and_name_are_kept(tmp_path):
    put_task1(tmp_path, {"svm": 0.8}, seed=1)
    own = tmp_path / "report_own.md"
    own.write_text("## What I learnt\n\n*Much*, <b>really</b>\n")
    text, _ = write_slides(tmp_path, "--author", "A. <Student>", "--id", "R1")
    assert "*Much*, <b>really</b>" in read_slides(text)["What I learnt"]
    assert own.read_text().startswith("## What")
    title = read_slides(text)["Music artist recognition on artist20"]
    assert r"**A. \<Student\>**, R1" in title


def test_of_many_artists_both_ends_are_shown(record):
    artists = {
        f"a{i}": ArtistResult(songs=5, right=i // 10, guessed=5, f1=i / 50) for i in range(50)
    }
    models = {name: replace(model, artists=artists) for name, model in record.models.items()}
    models = {name: replace(model, confusions=[]) for name, model in models.items()}
    record = replace(record, models=models, dataset=replace(record.dataset, artists=50))
    page = read_slides(deck.render("deck", record, {}, full=True))["Artists: F1 by model"]
    _, *rows = read_tables(page)[0]
    assert [row[0] for row in rows] == [f"a{i}" for i in [*range(49, 39, -1), *range(9, -1, -1)]]
    assert "The easiest and the hardest of 50, by the models' mean." in page
    assert len(read_tables(deck.render("model_card", record, {}))[2]) == 51


# --- names ---------------------------------------------------------------------------------------

NAMES = ["a|b*_<x>", "<b>&amp;", "A$AP $$", "`ls`", "[x](y)", "~a~", "# 1", "a\\", "{{ 1 }}{% if"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_not_read_as_markdown(name):
    escaped = deck.Markdown.escape(name)
    assert re.sub(r"\\(.)", r"\1", str(escaped)) == name
    assert not re.search(r"(?<!\\)(?:\\\\)*[`*_\[\]<>|~$#&]", escaped)
    assert deck.Markdown.escape(escaped) == escaped
    assert deck.Markdown("**{}**").format(name) == f"**{escaped}**"


def test_a_name_of_several_lines_stays_in_its_cell():
    assert deck.Markdown.escape("two\n\n--- \t lines") == "two --- lines"


@pytest.mark.parametrize("template", FILES)
def test_names_are_escaped_wherever_they_are(record, template):
    name = "a|b*_<x>"
    models = {
        key: replace(
            model,
            title=f"{name} of {key}",
            artists=dict(zip([name, *TOY_ARTISTS[1:]], model.artists.values(), strict=True)),
            albums={name: AlbumResult(songs=4, right=0)},
            worst_albums=[name],
            confusions=[replace(model.confusions[0], artist=name, guess=name)],
        )
        for key, model in record.models.items()
    }
    data = replace(record.dataset, name=name)
    left_out = {name: name}
    changed = replace(record, models=models, dataset=data, left_out=left_out)
    text = deck.render(template, changed, {})
    escaped = r"a\|b\*\_\<x\>"
    assert text.count(escaped) > (8 if template == "readme_table" else 30)
    # Nowhere is it as it was, but in the footer, whose quotes take a second backslash.
    assert name not in text
    assert name not in text.replace(json.dumps(escaped)[1:-1], "").replace(escaped, "")
    for table in read_tables(text):  # which checks that rows have as many cells as the header
        assert len(table) > 1


def test_a_command_is_code_also_within_a_table():
    assert deck.code("python x.py --data-dir 'a|b_c'") == r"`python x.py --data-dir 'a\|b_c'`"


def test_a_field_that_is_not_there_is_an_error(monkeypatch, tmp_path, record):
    (tmp_path / "broken.md.j2").write_text("{{ models['svm'].top_1 }}")
    monkeypatch.setattr(deck, "TEMPLATES", tmp_path)
    with pytest.raises(jinja2.UndefinedError, match="top_1"):
        deck.render("broken", record, {})


# --- the command ---------------------------------------------------------------------------------


def test_results_of_other_songs_are_refused(tmp_path, capsys):
    put_all(tmp_path)
    write_slides(tmp_path)
    other = replace(TOY_DATASET, name="other", fingerprint="f" * 64)
    put_network(tmp_path, "resnet", 0.9, seed=31, dataset=other)
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
    put_network(tmp_path, "resnet", 0.9, seed=31)
    file = tmp_path / "README.md"
    start, end = deck.MARKERS
    file.write_text(f"before\n\n{start}\nold\n{end}\n\nafter\n")
    write_slides(tmp_path, "--readme", file)
    record = read_record(tmp_path / "assets/results.json", Comparison, "x")
    table = deck.render("readme_table", record, {}).strip()
    assert file.read_text() == f"before\n\n{start}\n\n{table}\n\n{end}\n\nafter\n"
    for text in ("", start, end, f"{end}{start}", f"{start}{start}{end}", f"{start}{end}{end}"):
        file.write_text(text)
        with pytest.raises(UserError, match=r"README\.md must have the lines"):
            deck.put_between_markers(file, "new")
        assert file.read_text() == text
    with pytest.raises(UserError, match=r"nowhere\.md is missing"):
        deck.put_between_markers(tmp_path / "nowhere.md", "new")


# --- the repository's own ------------------------------------------------------------------------


def test_the_repository_shows_what_its_results_say():
    """If this fails, run ``make assets``."""
    record = read_record(REPOSITORY / "assets/results.json", Comparison, "make assets")
    figures = deck.find_figures(REPOSITORY / "assets", REPOSITORY)
    assert (REPOSITORY / "report.md").read_text("utf-8") == deck.render("deck", record, figures)
    card = (REPOSITORY / "MODEL_CARD.md").read_text("utf-8")
    assert card == deck.render("model_card", record, {})
    start, end = deck.MARKERS
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    shown = readme.partition(start)[2].partition(end)[0].strip()
    assert shown == deck.render("readme_table", record, {}).strip()
    assert "/home" not in (REPOSITORY / "assets/results.json").read_text("utf-8")
