"""artist20.comparison: what stands side by side, pairs, the printed tables, what is refused."""

import json
import sys
from itertools import combinations

import numpy as np
import pytest
import sklearn.metrics
from conftest import TOY_ARTISTS, TOY_DATASET, put_network, put_task1, toy_settings
from msgspec.structs import replace

from artist20 import UserError, comparison, ensemble, evaluation
from artist20.files import sha256_file, write_json
from artist20.report import compare, tables
from artist20.results import (
    AlbumResult,
    Comparison,
    NetworkMetrics,
    Pair,
    Predictions,
    Task1Metrics,
    TestScores,
    read_record,
    write_record,
)


@pytest.fixture
def results(tmp_path):
    """Hold models of both tasks, with the recipes beside each other."""
    results_dir = tmp_path / "results"
    put_task1(results_dir, {"svm": 0.8, "knn": 0.3}, seed=1)
    put_task1(results_dir, {"svm": 1.1, "knn": 0.5}, seed=11, level="segment")
    put_network(results_dir, "panns", 0.7, seed=21)
    put_network(results_dir, "resnet", 0.9, seed=31)
    put_network(results_dir, "panns_strong", 1.3, seed=41)
    put_network(results_dir, "resnet_strong", 2.0, seed=51)
    return results_dir


def combine(results, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["ensemble", "--results-dir", str(results), *options])
    ensemble.main()


def run(results, monkeypatch, capsys, *options):
    """Run the command; return its record and the printed lines."""
    arguments = ["--results-dir", results, "--assets-dir", results / "assets", *options]
    monkeypatch.setattr(sys, "argv", ["comparison", *map(str, arguments)])
    capsys.readouterr()
    comparison.main()
    record = read_record(results / "assets/results.json", Comparison, "x")
    return record, capsys.readouterr().out.splitlines()


def change_scores(file, change):
    """Change all scores of a file of predictions."""
    predictions = read_record(file, Predictions, "x")
    scores = {name: change(rows, predictions) for name, rows in predictions.scores.items()}
    write_record(file, replace(predictions, scores=scores))


def change_metrics(file, kind, **values):
    write_record(file, replace(read_record(file, kind, "x"), **values))


# --- models ------------------------------------------------------------------------------------


def test_models_have_names_and_stand_in_the_order_of_their_top1(results, monkeypatch):
    put_task1(results, {"svm": 0.9, "lda": 1.0}, seed=61, search="wide")
    put_task1(results, {"svm": 0.5, "lda": 1.2}, seed=71, level="segment", search="wide")
    combine(results, monkeypatch)
    models = compare.collect(results).values()
    figures = [(model.figures.top1, model.figures.top3) for model in models]
    assert figures == sorted(figures, reverse=True)
    assert {(m.name, m.own_name, m.title, m.selected) for m in models} == {
        ("svm", "svm", "SVM", False),
        ("knn", "knn", "k-NN", False),
        ("svm_of_segments", "svm", "SVM, 5 s segments", False),
        ("svm_wide", "svm", "SVM, wide search", False),
        ("lda_wide", "lda", "Shrinkage LDA, wide search", False),
        ("lda_of_segments_wide", "lda", "Shrinkage LDA, 5 s segments, wide search", False),
        ("panns", "panns", "PANNs + MLP, untrained encoder", True),
        ("panns_strong", "panns_strong", "PANNs, strong recipe, untrained encoder", False),
        ("resnet", "resnet", "ResNet", True),
        ("resnet_strong", "resnet_strong", "ResNet, strong recipe", False),
        ("ensemble", "ensemble", "Ensemble, untrained encoder", False),
    }  # fmt: skip


def test_models_of_renditions_stand_beside_the_others(results, monkeypatch, capsys):
    put_task1(results, {"svm": 1.0}, seed=61, rendition="vocals")
    put_task1(results, {"svm": 0.4, "knn": 0.8}, seed=71, level="segment", rendition="vocals")
    put_network(results, "ecapa+tagger_strong@vocals", 1.8, seed=81)
    put_network(results, "ge2e", 1.7, seed=91)
    record, lines = run(results, monkeypatch, capsys)
    names = ["svm", "knn", "svm_of_segments", "svm@vocals", "knn_of_segments@vocals", "panns"]
    names += ["panns_strong", "resnet", "resnet_strong", "ecapa+tagger_strong@vocals", "ge2e"]
    assert record.models.keys() == {*names}
    titles = {name: model.title for name, model in record.models.items()}
    assert titles["knn_of_segments@vocals"] == "k-NN, 5 s segments, on vocals"
    printed = [line for line in lines if line.startswith("ECAPA-TDNN + Music tagger, strong re")]
    assert printed[0].split("%")[0].startswith(titles["ecapa+tagger_strong@vocals"])
    assert record.models["svm@vocals"].folder == "task1@vocals"
    assert {"task1/preprocessing.json", "task1@vocals/preprocessing.json"} <= record.runs.keys()
    made_of = record.files.keys()
    assert {"task1@vocals/preprocessing.json", "task1@vocals/segment/metrics.json"} <= made_of
    assert "task2/ecapa+tagger_strong@vocals/val_predictions.json" in made_of
    file = results / "assets/results.json"
    compare.read_up_to_date(results, file.parent)
    put_network(results, "resnet@vocals", 1.0, seed=101)
    with pytest.raises(UserError, match=r"lacks .*task2/resnet@vocals/metrics\.json"):
        compare.read_up_to_date(results, file.parent)


def test_models_have_figures_and_cross_validation(results):
    models = compare.collect(results)
    folders = {"svm": "task1", "resnet": "task2/resnet", "resnet_strong": "task2/resnet_strong"}
    for name, folder in folders.items():
        model = models[name]
        assert model.folder == results / folder
        val, held_out = (
            read_record(results / folder / f"{split}_predictions.json", Predictions, "x")
            for split in ("val", "cv")
        )
        assert model.figures == evaluation.figures(val.scores[name], val.labels, val.albums)
        # Of all songs together: the folds, which differ in size, do not matter.
        assert model.cv == evaluation.accuracy(held_out.scores[name], held_out.labels)
        last = val.scores.get(f"{name}_last", val.scores[name])
        np.testing.assert_array_equal(model.unchosen(), last)
        assert (model.unchosen() is not model.scores) == (name == "resnet")


def test_models_without_cross_validation_by_album_have_none(results):
    (results / "task2/resnet/cv_predictions.json").unlink()
    put_task1(results, {"svm": 0.8, "knn": 0.3}, seed=1, cv="song")
    models = compare.collect(results)
    assert {name for name, model in models.items() if not model.cv} == {"svm", "knn", "resnet"}


def test_what_has_not_been_run_is_left_out_and_said(results, monkeypatch, capsys):
    (results / "task2/panns_strong/metrics.json").unlink()
    (results / "task1/segment/metrics.json").unlink()
    reason = {"random_forest": "it takes about 9.0 GB"}
    change_metrics(results / "task1/metrics.json", Task1Metrics, left_out=reason)
    record, lines = run(results, monkeypatch, capsys)
    assert record.models.keys() == {"svm", "knn", "panns", "resnet", "resnet_strong"}
    assert record.left_out == {"Random forest": "it takes about 9.0 GB"}
    of = f"--results-dir {results}"
    assert lines[:4] == [
        "left out: task1/random_forest (it takes about 9.0 GB)",
        f"left out: task1/segment (task1_train.py --level segment {of} has not been run)",
        f"left out: task2/panns_strong (task2_train.py --recipe strong {of} has not been run)",
        f"left out: ensemble (python -m artist20.ensemble {of} has not been run)",
    ]


def test_an_ensemble_of_other_predictions_is_left_out_and_said(results, monkeypatch, capsys):
    combine(results, monkeypatch, "--members", "svm", "resnet")
    put_network(results, "resnet_strong", 1.0, seed=99)  # is no member
    assert "ensemble" in compare.collect(results)
    put_network(results, "resnet", 1.0, seed=99)
    capsys.readouterr()
    assert "ensemble" not in compare.collect(results)
    output = capsys.readouterr().out
    assert f"left out: ensemble (made of another {results}/task2/resnet/" in output
    assert f"run python -m artist20.ensemble --results-dir {results} again" in output


def test_figures_of_other_songs_do_not_stand_side_by_side(results):
    put_network(results, "resnet", 0.9, seed=31, dataset=replace(TOY_DATASET, fingerprint="f"))
    with pytest.raises(UserError, match=r"of different songs .*; resnet: toy, 80 \+ 48 songs, f;"):
        compare.collect(results)


def test_validation_songs_in_another_order_are_refused(results):
    file = results / "task2/resnet/val_predictions.json"
    predictions = read_record(file, Predictions, "x")
    scores = {name: rows[::-1] for name, rows in predictions.scores.items()}
    write_record(file, replace(predictions, songs=predictions.songs[::-1], scores=scores))
    with pytest.raises(UserError, match="other validation songs"):
        compare.collect(results)


def test_predictions_of_another_run_are_refused(results):
    file = results / "task2/resnet_strong/val_predictions.json"
    predictions = read_record(file, Predictions, "x")
    scores = predictions.scores["resnet_strong"]
    write_record(file, replace(predictions, scores={"panns": scores}))
    with pytest.raises(UserError, match=r"no scores of resnet_strong: run task2_train_wo_pretrain"):
        compare.collect(results)
    for k in ("top1", "top3"):
        put_network(results, "resnet_strong", 2.0, seed=51)
        change_metrics(file.with_name("metrics.json"), NetworkMetrics, **{k: 0.123})
        with pytest.raises(
            UserError, match=r"val_predictions\.json is not of the run in metrics\.json"
        ):
            compare.collect(results)


def test_a_chosen_epoch_does_not_stand_for_the_last_one(results):
    file = results / "task2/resnet/val_predictions.json"
    predictions = read_record(file, Predictions, "x")
    write_record(file, replace(predictions, scores={"resnet": predictions.scores["resnet"]}))
    with pytest.raises(UserError, match=r"no scores of resnet_last: run task2_train_wo_pretrain"):
        compare.collect(results)


def test_parts_of_a_network_are_no_rows(results):
    before = list(compare.collect(results))
    put_network(results, "resnet_strong", 2.0, seed=51, of_convolutions=1.0)
    assert list(compare.collect(results)) == before


def test_no_model_at_all(tmp_path):
    with pytest.raises(UserError, match="holds no metrics"):
        compare.collect(tmp_path)


# --- results.json ------------------------------------------------------------------------------


def test_all_that_is_computed_is_in_a_file_with_what_it_is_from(results, monkeypatch, capsys):
    combine(results, monkeypatch)
    found, _ = run(results, monkeypatch, capsys)
    file = results / "assets/results.json"
    assert found == compare.gather(results, found.command)
    models = compare.collect(results)
    assert list(found.models) == list(models)
    for name, result in found.models.items():
        model = models[name]
        labels, albums = model.val.labels, model.val.albums
        guesses = model.scores.argmax(axis=1)
        right = labels == guesses
        assert (result.val, result.cv) == (model.figures, model.cv)
        last = evaluation.figures(model.unchosen(), labels, albums) if model.selected else None
        assert result.last == last
        f1 = sklearn.metrics.f1_score(labels, guesses, average=None)
        for i, artist in enumerate(result.artists.values()):
            counts = [(labels == i).sum(), right[labels == i].sum(), (guesses == i).sum()]
            assert [artist.songs, artist.right, artist.guessed] == counts
            assert artist.f1 == pytest.approx(f1[i])
        for album, of_album in result.albums.items():
            counts = [(albums == album).sum(), right[albums == album].sum()]
            assert [of_album.songs, of_album.right] == counts
        shares = {album: compare.share(of) for album, of in result.albums.items()}
        assert [shares[album] for album in result.worst_albums] == sorted(shares.values())[:3]
    for name in (
        "task1/metrics.json",
        "task2/resnet/val_predictions.json",
        "ensemble/metrics.json",
    ):
        assert found.files[name] == sha256_file(results / name)
    assert {"task1/preprocessing.json", "task1/segment/search_svm.json"} <= found.files.keys()
    # Nothing says on whose machine it was, and a second run writes the same bytes.
    text = file.read_text()
    assert str(results.parent) not in text
    assert "/somewhere" not in text
    assert found.runs["task2/resnet"].command == "python train_resnet.py --data-dir toy"
    run(results, monkeypatch, capsys)
    assert file.read_text() == text


def test_an_artist_without_validation_songs_has_no_f1(tmp_path):
    folder = put_network(tmp_path, "resnet", 0.9, seed=31)
    val = read_record(folder / "val_predictions.json", Predictions, "x")
    songs = [replace(song, artist="artist 0") for song in val.songs]
    val = replace(val, songs=songs)
    write_record(folder / "val_predictions.json", val)
    reached = evaluation.accuracy(val.scores["resnet"], val.labels)
    values = {"top1": reached.top1, "top3": reached.top3}
    change_metrics(folder / "metrics.json", NetworkMetrics, **values)
    artists = compare.gather(tmp_path, "x").models["resnet"].artists
    assert [artist.f1 is None for artist in artists.values()] == [False, True, True, True]


def test_of_albums_that_are_equally_hard_the_larger_ones_are_named():
    counts = {"a": (2, 1), "b": (4, 2), "c": (3, 0), "d": (9, 0), "e": (6, 3)}
    albums = {
        name: AlbumResult(songs=songs, right=right) for name, (songs, right) in counts.items()
    }
    assert compare.worst_albums(albums) == ["d", "c", "e"]


def test_absolute_paths_in_commands_are_cut():
    command = "python -m x --data-dir '/home/me/my music' --results-dir=/r/s --lr 0.1 ../there"
    expected = "python -m x --data-dir 'my music' --results-dir=s --lr 0.1 ../there"
    assert compare.without_folders(command) == expected


def test_results_that_are_out_of_date_are_refused(results, monkeypatch, capsys):
    combine(results, monkeypatch, "--members", "svm", "resnet")
    file = results / "assets/results.json"
    found, _ = run(results, monkeypatch, capsys)
    assert compare.read_up_to_date(results, file.parent) == found
    models = {name: model for name, model in found.models.items() if name != "ensemble"}
    write_record(file, replace(found, models=models))
    with pytest.raises(UserError, match=r"lacks .*ensemble/metrics\.json: run python -m"):
        compare.read_up_to_date(results, file.parent)
    write_record(file, found)
    (results / "task2/panns/metrics.json").rename(results / "kept.json")
    with pytest.raises(UserError, match=r"made of another .*panns/metrics\.json: run python -m"):
        compare.read_up_to_date(results, file.parent)
    found, _ = run(results, monkeypatch, capsys)
    assert "panns" not in found.models
    (results / "kept.json").rename(results / "task2/panns/metrics.json")
    with pytest.raises(UserError, match=r"lacks .*panns/metrics\.json: run python -m"):
        compare.read_up_to_date(results, file.parent)


def test_a_file_that_is_no_results_is_refused(tmp_path):
    put_network(tmp_path, "resnet", 0.9, seed=31)
    file = tmp_path / "results.json"
    write_record(file, compare.gather(tmp_path, "x"))
    whole = json.loads(file.read_text())
    for changes in ({"models": {}}, {"pairs": [{"first": "svm"}]}, {"files": None}):
        write_json(file, whole | changes)
        with pytest.raises(UserError, match=r"results\.json is broken .*: run comparison again"):
            read_record(file, Comparison, "comparison")


# --- test songs, and all songs together ----------------------------------------------------------

ANSWERS = ["artist 1", "artist 0", "Artist 2", "nobody", "artist 3"]


def put_test_scores(results, stage, names, keys=("001", "002", "003", "004"), made_of=None):
    """Write test scores: every model takes the first song for artist 1, others for artist 0."""
    folder = results / stage
    rows = np.tile([0.4, 0.3, 0.2, 0.1], (len(keys), 1))
    rows[0] = [0.3, 0.4, 0.2, 0.1]
    files = {name: folder / (made_of or f"{name}.skops") for name in names}
    test = TestScores(
        classes=TOY_ARTISTS,
        songs={key: f"content of {key}" for key in keys},
        checkpoints={name: [sha256_file(file)] for name, file in files.items()},
        guessed={},
        scores=dict.fromkeys(names, rows),
    )
    write_record(folder / "test_scores.json", test)


def test_test_songs_stand_beside_the_validation_songs(results, monkeypatch, capsys):
    put_test_scores(results, "task1", ["svm", "knn"])
    put_test_scores(results, "task2/resnet", ["resnet"], made_of="best.pt")
    put_test_scores(results, "task2/resnet_strong", ["resnet_strong"], made_of="last.pt")
    answers = results / "answers.json"
    write_json(answers, ANSWERS)
    found, lines = run(results, monkeypatch, capsys, "--answers", answers)
    # Of five songs the first two are right, the third's artist is among three; the fourth's is
    # nobody's, and the fifth has no prediction.
    for name in ("svm", "knn", "resnet"):
        test = found.models[name].test
        assert (test.top1, test.top3, test.songs) == (0.4, 0.6, 5)
        assert test.course_score == pytest.approx(0.7)
        right = np.array([True, True, False, False, False])
        assert test.over_songs.top1 == evaluation.bootstrap_interval(right)
    assert {name for name, model in found.models.items() if not model.test} == {
        "svm_of_segments", "panns", "panns_strong", "resnet_strong",
    }  # fmt: skip
    assert any(line.startswith("no test figures of SVM, 5 s segments: ") for line in lines)
    stale = "test_scores.json is of another model than the one that is there, run python task2_inf"
    assert sum(stale in line for line in lines) == 1
    model = found.models["resnet"]
    at = lines.index("The 5 test songs; gap: points above the validation songs")
    cells = row_of(lines, "ResNet", at)
    assert cells[1:3] == [f"{model.val.top1:.1%}", "40.0%"]
    assert cells[4] == tables.points(0.4 - model.val.top1)
    assert cells[5:7] == [f"{model.val.top3:.1%}", "60.0%"]
    assert cells[8:] == [tables.points(0.6 - model.val.top3), "0.700"]
    assert found.files["task1/test_scores.json"] == sha256_file(results / "task1/test_scores.json")
    # Without answers nothing is said of test songs.
    found, lines = run(results, monkeypatch, capsys)
    assert not any(model.test for model in found.models.values())
    assert not any("test songs" in line for line in lines)


def test_answers_without_scores_or_for_other_songs_are_refused(results, monkeypatch, capsys):
    answers = results / "answers.json"
    write_json(answers, ["artist 0"])
    with pytest.raises(UserError, match="no model has scored the test songs"):
        run(results, monkeypatch, capsys, "--answers", answers)
    put_test_scores(results, "task1", ["svm", "knn"])
    with pytest.raises(UserError, match="1 answers, none of them for 002"):
        run(results, monkeypatch, capsys, "--answers", answers)


def test_test_scores_of_other_songs_are_refused(results, monkeypatch, capsys):
    answers = results / "answers.json"
    write_json(answers, ANSWERS)
    put_test_scores(results, "task1", ["svm", "knn"])
    put_test_scores(results, "task2/resnet", ["resnet"], made_of="best.pt")
    file = results / "task2/resnet/test_scores.json"
    test = read_record(file, TestScores, "x")
    reversed_songs = dict(zip(test.songs, reversed(test.songs.values()), strict=True))
    write_record(file, replace(test, songs=reversed_songs))
    with pytest.raises(UserError, match="is of other test songs than others, 001 among"):
        run(results, monkeypatch, capsys, "--answers", answers)


def test_folds_of_other_songs_are_no_cross_validation(results, monkeypatch, capsys):
    before, _ = run(results, monkeypatch, capsys)
    assert before.models["resnet_strong"].cv
    data = replace(TOY_DATASET, train_fingerprint="others")
    fold = {"model": "resnet_strong", "settings": toy_settings("resnet_strong"), "dataset": data}
    put_network(results, "resnet_strong/fold-1", 1.0, seed=1, **fold)
    found, lines = run(results, monkeypatch, capsys)
    assert found.models["resnet_strong"].cv is None
    (line,) = (line for line in lines if "cross-validation of resnet_strong" in line)
    assert "fold-1 is of a run with other settings or songs (dataset '' -> 'others')" in line


def test_all_songs_together_are_scored_unseen(results, monkeypatch, capsys):
    (results / "task2/panns/cv_predictions.json").unlink()
    found, lines = run(results, monkeypatch, capsys, "--protocol", "cv")
    pooled = {name: model.pooled for name, model in found.models.items() if model.pooled}
    assert found.models.keys() - pooled.keys() == {"panns"}
    for name, stage in (("svm", "task1"), ("resnet", "task2/resnet")):
        held_out, val = (
            read_record(results / stage / f"{split}_predictions.json", Predictions, "x")
            for split in ("cv", "val")
        )
        # The epoch that was chosen on the validation songs has no part in it.
        scores = [held_out.scores[name], val.scores["resnet_last" if name == "resnet" else name]]
        assert pooled[name] == evaluation.figures(
            np.concatenate(scores),
            np.concatenate([held_out.labels, val.labels]),
            np.concatenate([held_out.albums, val.albums]),
        )
    at = lines.index("All 128 songs, each scored by a model that did not hear it")
    assert row_of(lines, "ResNet", at)[0] == f"{pooled['resnet'].top1:.1%}"
    found, lines = run(results, monkeypatch, capsys)
    assert not any(model.pooled for model in found.models.values())
    assert not any("All 128 songs" in line for line in lines)


# --- pairs -------------------------------------------------------------------------------------


def test_pairs_are_of_last_epochs_and_corrected_over_all(results, monkeypatch, capsys):
    combine(results, monkeypatch)
    found, _ = run(results, monkeypatch, capsys)
    models = compare.collect(results)
    songs = models["svm"].val
    hits = {name: evaluation.hits(m.unchosen(), songs.labels, 1) for name, m in models.items()}
    names = list(combinations(models, 2))
    p = evaluation.holm(np.array([evaluation.mcnemar(hits[a], hits[b]) for a, b in names]))
    assert [(pair.first, pair.second) for pair in found.pairs] == names
    for pair, p_holm in zip(found.pairs, p, strict=True):
        expected = evaluation.compare(hits[pair.first], hits[pair.second], songs.albums)
        assert pair.p_holm == p_holm
        assert (pair.difference, pair.interval) == (expected.difference, expected.interval)
        assert pair.verdict == evaluation.verdict(p_holm, pair.interval)
    assert {pair.verdict for pair in found.pairs} >= {"better", "no significant difference"}


def test_a_pair_can_be_seen_from_either_model(results):
    pair = Pair(
        first="svm", second="knn", difference=0.25, interval=(0.125, 0.5), only_first=9,
        only_second=2, p=0.01, p_holm=0.02, verdict="better",
    )  # fmt: skip
    found = replace(compare.gather(results, "x"), pairs=[pair])
    assert compare.against(found, "svm") == {"knn": pair}
    assert compare.against(found, "knn") == {
        "svm": Pair(
            first="knn", second="svm", difference=-0.25, interval=(-0.5, -0.125), only_first=2,
            only_second=9, p=0.01, p_holm=0.02, verdict="worse",
        )
    }  # fmt: skip
    assert compare.against(found, "resnet") == {}


# --- what is printed -----------------------------------------------------------------------------


def row_of(lines, title, start=0):
    """Return the cells of the first row of a title."""
    line = next(line for line in lines[start:] if line.startswith(f"{title}  "))
    return line.removeprefix(title).split()


def test_models_are_printed_with_their_figures(results, monkeypatch, capsys):
    combine(results, monkeypatch)
    found, lines = run(results, monkeypatch, capsys)
    assert max(map(len, lines[:-30])) <= 100
    assert lines[0] == (
        "toy (synthesised songs): 4 artists, 80 training songs, 48 validation songs of 12 albums"
    )
    model = found.models["resnet_strong"]
    val = model.val
    cells = []
    for share, (low, high) in ((val.top1, val.over_albums.top1), (val.top3, val.over_albums.top3)):
        cells += [f"{share:.1%}", f"{100 * low:.1f}-{100 * high:.1f}"]
    cells += [f"{val.macro_f1:.2f}", f"{val.top1 + val.top3 / 2:.3f}", f"{model.cv.top1:.1%}"]
    assert row_of(lines, model.title) == cells
    # Only networks whose epoch was chosen have a second line, and are named below.
    last = [i for i, line in enumerate(lines) if line.startswith("  last epoch")]
    selected = [found.models[name] for name in ("panns", "resnet")]
    for i, model in zip(last, selected, strict=True):
        assert lines[i - 1].startswith(model.title)
        assert lines[i].split()[2:] == [f"{model.last.top1:.1%}", f"{model.last.top3:.1%}"]
    gained = [
        f"{m.title} ({tables.points(m.val.top1 - m.last.top1)} and "
        f"{tables.points(m.val.top3 - m.last.top3)} points)"
        for m in selected
    ]
    assert f"more than the last epoch: {', '.join(gained)}." in " ".join(lines)


def test_the_hardest_albums_are_named(results, monkeypatch, capsys):
    found, lines = run(results, monkeypatch, capsys)
    start = next(i for i, line in enumerate(lines) if line.startswith("Albums that are hardest"))
    models = found.models.values()
    right = {
        album: sum(model.albums[album].right for model in models)
        for album in next(iter(models)).albums
    }
    named = [line.strip().split("  ") for line in lines[start + 1 : start + 4]]
    songs = 4 * len(models)
    assert [int(counted.split(" of ")[0]) for counted, _ in named] == sorted(right.values())[:3]
    assert all(counted == f"{right[album]} of {songs}" for counted, album in named)


@pytest.mark.parametrize("with_ensemble", [True, False])
def test_one_model_is_compared_with_each_other(results, monkeypatch, capsys, with_ensemble):
    best, heading = (
        "resnet_strong",
        "ResNet, strong recipe, the best in CV, on these songs, against",
    )
    if with_ensemble:
        combine(results, monkeypatch)
        best, heading = "ensemble", "Ensemble, untrained encoder on these songs, against"
    else:  # The best on the validation songs is another, and all of its guesses are right.
        file = results / "task2/resnet/val_predictions.json"
        change_scores(file, lambda rows, of: np.eye(4)[of.labels])
        values = {"top1": 1.0, "top3": 1.0}
        change_metrics(file.with_name("metrics.json"), NetworkMetrics, **values)
    found, lines = run(results, monkeypatch, capsys)
    start = lines.index(heading)
    pairs = compare.against(found, best)
    assert list(pairs) == [name for name in found.models if name != best]
    for name, pair in pairs.items():
        assert row_of(lines, found.models[name].title, start) == [
            tables.points(pair.difference),
            *tables.points_between(pair.interval).split(),
            *f"{pair.only_first} : {pair.only_second}".split(),
            tables.p_text(pair.p_holm),
            "n.s." if pair.verdict == "no significant difference" else pair.verdict,
        ]
    if not with_ensemble:
        assert pairs["resnet"].verdict == "worse"
        assert pairs["resnet"].only_first == 0


def test_significant_differences_are_named(results, monkeypatch, capsys):
    found, lines = run(results, monkeypatch, capsys)
    better = [pair for pair in found.pairs if pair.verdict != "no significant difference"]
    assert len(better) > 3
    start = lines.index(f"Significant differences: {len(better)} of 21 pairs")
    titles = {name: model.title for name, model in found.models.items()}
    expected = {
        (pair.first, pair.second) if pair.verdict == "better" else (pair.second, pair.first)
        for pair in better
    }
    text = " ".join(line.strip() for line in lines[start:])
    for first, second in expected:
        after = text.split(f"{titles[first]} is better than ")[1].split(" is better than ")[0]
        assert titles[second] in after


def test_one_model_alone_is_not_compared(tmp_path, monkeypatch, capsys):
    put_network(tmp_path, "resnet_strong", 0.9, seed=31)
    _, lines = run(tmp_path, monkeypatch, capsys)
    assert any("No paired comparison" in line for line in lines)
    assert not any("last epoch" in line for line in lines)


def test_the_command_lists_the_files_of_models_alone(results, monkeypatch, capsys):
    write_json(results / "task2/resnet/fold-1/val_predictions.json", {})
    _, lines = run(results, monkeypatch, capsys)
    assert str(results / "task2/resnet/val_predictions.json") in lines
    assert not any("fold-1" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (tables.p_text(0.00099), "<0.001"),
        (tables.p_text(0.001), "0.001"),
        (tables.points(-0.0004), "+0.0"),
        (tables.points(-0.0006), "-0.1"),
        (tables.points_between((-0.0975, 0.169)), "-9.8 to +16.9"),
        (tables.percents((0.3684, 0.7237), dash="–"), "36.8–72.4"),
        (tables.aligned([["a", "1"], ["long", "23"]]), "a      1\nlong  23"),
    ],
)
def test_numbers_in_text(text, expected):
    assert text == expected
