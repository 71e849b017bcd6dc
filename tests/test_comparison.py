"""artist20.comparison: rows and intervals, the paired table, what is left out."""

import itertools
import json
import sys

import numpy as np
import pytest
import sklearn.metrics
from conftest import TOY_DATASET, put_network, put_task1

from artist20 import UserError, comparison, ensemble, evaluation
from artist20.files import sha256_file, write_json
from artist20.results import read_predictions, read_results, write_predictions


@pytest.fixture
def results(tmp_path):
    """Hold models of both tasks, with the recipes beside each other."""
    results_dir = tmp_path / "results"
    put_task1(results_dir, {"svm": 0.8, "knn": 0.3}, seed=1)
    put_task1(results_dir, {"svm": 1.1, "knn": 0.5}, seed=11, level="segment")
    put_network(results_dir, "panns", 0.7, seed=21, backbone="untrained backbone")
    put_network(results_dir, "resnet", 0.9, seed=31)
    put_network(results_dir, "panns_strong", 1.3, seed=41, pretrained=True)
    put_network(results_dir, "resnet_strong", 2.0, seed=51)
    return results_dir


def combine(results, monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["ensemble", "--results-dir", str(results), *options])
    ensemble.main()


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def printed(results, capsys):
    """Print both tables; return their lines."""
    found = comparison.gather(results)
    capsys.readouterr()
    comparison.print_table(found)
    comparison.print_paired(found)
    return capsys.readouterr().out.splitlines()


# --- rows --------------------------------------------------------------------------------------


def test_rows_are_in_the_order_of_the_stages(results, monkeypatch):
    combine(results, monkeypatch)
    rows = comparison.collect(results)
    assert {name: row["title"] for name, row in rows.items()} == {
        "svm": "SVM",
        "knn": "k-NN",
        "svm_of_segments": "SVM, 5 s segments",
        "panns": "PANNs + MLP, untrained backbone",
        "panns_strong": "PANNs, strong recipe",
        "resnet": "ResNet",
        "resnet_strong": "ResNet, strong recipe",
        "ensemble": "Ensemble, untrained backbone",
    }
    assert list(rows) == [
        *("svm", "knn", "svm_of_segments"),
        *("panns", "panns_strong", "resnet", "resnet_strong", "ensemble"),
    ]


def test_rows_have_intervals_and_cross_validation(results):
    rows = comparison.collect(results)
    folders = {"svm": "task1", "resnet": "task2/resnet", "resnet_strong": "task2/resnet_strong"}
    for name, folder in folders.items():
        row = rows[name]
        val, held_out = (
            read_predictions(results / folder / f"{split}_predictions.json", "x")
            for split in ("val", "cv")
        )
        for k in (1, 3):
            hits = evaluation.hits(val.scores[name], val.labels, k)
            assert row[f"top{k}"] == hits.mean()
            low, high = row[f"top{k}_interval"]
            assert (low, high) == evaluation.bootstrap_interval(hits, val.albums)
            assert low <= row[f"top{k}"] <= high
        assert row["cv"] == [
            evaluation.top_k_accuracy(held_out.scores[name], held_out.labels, k) for k in (1, 3)
        ]
        last = val.scores.get(f"{name}_last", val.scores[name])
        np.testing.assert_array_equal(row["unchosen"], last)


def test_models_without_cross_validation_by_album_have_none(results):
    (results / "task2/resnet/cv_predictions.json").unlink()
    put_task1(results, {"svm": 0.8, "knn": 0.3}, seed=1, cv="song")
    rows = comparison.collect(results)
    assert [name for name, row in rows.items() if row["cv"] is None] == ["svm", "knn", "resnet"]


def test_what_has_not_been_run_is_left_out_and_said(results, capsys):
    (results / "task2/panns_strong/metrics.json").unlink()
    (results / "task1/segment/metrics.json").unlink()
    rows = comparison.collect(results)
    assert list(rows) == ["svm", "knn", "panns", "resnet", "resnet_strong"]
    assert capsys.readouterr().out.splitlines() == [
        "left out: task1/segment (task1_train.py --level segment has not been run)",
        "left out: task2/panns_strong (task2_train.py --recipe strong has not been run)",
        "left out: ensemble (python -m artist20.ensemble has not been run)",
    ]


def test_a_model_that_memory_is_too_short_for_is_left_out_and_said(results, monkeypatch, capsys):
    reason = "it takes about 9.0 GB"
    change(results / "task1/segment/metrics.json", left_out={"random_forest": reason})
    found = read_results(run(results, monkeypatch, capsys), "x")
    assert found["left_out"] == {"Random forest, 5 s segments": reason}
    comparison.collect(results)
    assert f"left out: task1/segment/random_forest ({reason})" in capsys.readouterr().out
    for wrong in ([], {"forest": reason}, {"svm": reason}):  # svm is among the models
        change(results / "task1/segment/metrics.json", left_out=wrong)
        with pytest.raises(UserError, match=r"segment/metrics\.json.*run"):
            comparison.collect(results)


def test_an_ensemble_of_other_predictions_is_left_out_and_said(results, monkeypatch, capsys):
    combine(results, monkeypatch, "--members", "svm", "resnet")
    put_network(results, "resnet_strong", 1.0, seed=99)  # is no member
    assert "ensemble" in comparison.collect(results)
    put_network(results, "resnet", 1.0, seed=99)
    capsys.readouterr()
    assert "ensemble" not in comparison.collect(results)
    output = capsys.readouterr().out
    assert f"left out: {results}/ensemble (made of another {results}/task2/resnet/" in output
    assert "run python -m artist20.ensemble again" in output


def test_figures_of_other_songs_do_not_stand_side_by_side(results):
    change(results / "task2/resnet/metrics.json", dataset={**TOY_DATASET, "fingerprint": "f"})
    with pytest.raises(UserError, match="of different songs"):
        comparison.collect(results)


def test_validation_songs_in_another_order_are_refused(results, capsys):
    path = results / "task2/resnet/val_predictions.json"
    value = json.loads(path.read_text())
    scores = {name: rows[::-1] for name, rows in value["scores"].items()}
    change(path, songs=value["songs"][::-1], scores=scores)
    with pytest.raises(UserError, match="other validation songs"):
        printed(results, capsys)


def test_predictions_without_the_model_are_refused(results):
    path = results / "task2/resnet_strong/val_predictions.json"
    change(path, scores={"panns": json.loads(path.read_text())["scores"]["resnet_strong"]})
    with pytest.raises(UserError, match=r"no scores of resnet_strong: run task2_train_wo_pretrain"):
        comparison.collect(results)


def test_predictions_of_another_run_are_refused(results):
    change(results / "task2/resnet/metrics.json", top1=0.123)
    with pytest.raises(
        UserError, match=r"val_predictions\.json is not of the run in metrics\.json"
    ):
        comparison.collect(results)


def test_no_model_at_all(tmp_path):
    with pytest.raises(UserError, match="holds no metrics"):
        comparison.collect(tmp_path)


# --- tables ------------------------------------------------------------------------------------


def test_the_table_has_intervals_and_says_which_rows_were_chosen(results, monkeypatch, capsys):
    put_network(results, "panns_strong", 1.3, seed=41, backbone="untrained backbone")
    combine(results, monkeypatch)
    lines = printed(results, capsys)
    assert max(map(len, lines)) <= 100
    assert lines[0] == (
        "toy (synthesised songs): 4 artists, 80 training songs, 48 validation songs of 12 albums"
    )
    row = comparison.collect(results)["resnet_strong"]
    line = next(line for line in lines if line.startswith("ResNet, strong recipe"))
    low, high = row["top1_interval"]
    figures = [f"{row['top1']:.1%}", f"{100 * low:.1f}-{100 * high:.1f}"]
    low, high = row["top3_interval"]
    figures += [f"{row['top3']:.1%}", f"{100 * low:.1f}-{100 * high:.1f}"]
    predictions = row["predictions"]
    f1 = sklearn.metrics.f1_score(predictions.labels, row["scores"].argmax(axis=1), average="macro")
    figures += [f"{f1:.2f}", f"{row['top1'] + row['top3'] / 2:.3f}", f"{row['cv'][0]:.1%}"]
    assert line.split()[3:] == figures
    # Only networks whose epoch was chosen have a second line, and are named below.
    before = [lines[i - 1] for i, line in enumerate(lines) if line.startswith("  at its last")]
    assert [line.split("  ")[0] for line in before] == ["PANNs + MLP, untrained backbone", "ResNet"]
    note = "Epochs are chosen on these songs for PANNs + MLP, untrained backbone and ResNet."
    assert note in lines


def test_without_chosen_epochs_there_is_no_note_of_them(results, capsys):
    for name in ("panns", "resnet"):
        (results / f"task2/{name}/metrics.json").unlink()
    output = "\n".join(printed(results, capsys))
    assert "hosen" not in output
    assert "last epoch" not in output


def test_what_choosing_an_epoch_brought_is_printed(results, capsys):
    file = results / "task2/resnet/val_predictions.json"
    predictions = read_predictions(file, "x")
    predictions.scores["resnet_last"] = np.roll(predictions.scores["resnet"], 1, axis=1)
    write_predictions(file, predictions)
    lines = printed(results, capsys)
    line = lines[next(i for i, line in enumerate(lines) if line.startswith("ResNet ")) + 1]
    last = [
        evaluation.top_k_accuracy(predictions.scores["resnet_last"], predictions.labels, k)
        for k in (1, 3)
    ]
    chosen = comparison.collect(results)["resnet"]
    gap = [100 * (chosen[f"top{k}"] - value) for k, value in zip((1, 3), last, strict=True)]
    expected = [f"{last[0]:.1%}", f"{last[1]:.1%}", "chosen:", f"{gap[0]:+.1f},", f"{gap[1]:+.1f}"]
    assert line.split()[4:] == [*expected, "points"]


def test_the_hardest_albums_are_named(results, capsys):
    lines = printed(results, capsys)
    start = next(i for i, line in enumerate(lines) if line.startswith("Albums that are hardest"))
    rows = comparison.collect(results)
    predictions = rows["svm"]["predictions"]
    right = np.stack(
        [evaluation.hits(row["scores"], predictions.labels, 1) for row in rows.values()]
    )
    shares = {
        album: right[:, predictions.albums == album].mean() for album in set(predictions.albums)
    }
    named = [line.split("  ")[-1] for line in lines[start + 1 : start + 4]]
    assert [shares[album] for album in named] == sorted(shares.values())[:3]
    of, songs = lines[start + 1].split("  " + named[0])[0].split(" of ")
    assert int(of) / int(songs) == pytest.approx(shares[named[0]])
    assert int(songs) == 4 * len(rows)


def paired(lines):
    """Read the paired table: by model, points, songs alone right, p and verdict."""
    start = next(i for i, line in enumerate(lines) if line.endswith("on these songs, against"))
    table = {}
    for line in lines[start + 2 :]:
        if line.startswith("Points"):
            break
        head, verdict = line[: line.index(" : ")], line.rpartition("  ")[2]
        first, second = head.split()[-1], line[line.index(" : ") + 3 :].split()[0]
        p = line[line.index(" : ") + 3 :].split()[1]
        title, points = head.split("  ")[0], float(head.split()[-5])
        table[title] = (points, int(first), int(second), p, verdict)
    return lines[start], table


def test_the_ensemble_is_compared_with_each_model(results, monkeypatch, capsys):
    combine(results, monkeypatch)
    heading, table = paired(printed(results, capsys))
    assert heading == "Ensemble, untrained backbone on these songs, against"
    rows = comparison.collect(results)
    assert list(table) == [row["title"] for name, row in rows.items() if name != "ensemble"]
    labels = rows["svm"]["predictions"].labels
    hits = {name: evaluation.hits(row["unchosen"], labels, 1) for name, row in rows.items()}
    others = [name for name in rows if name != "ensemble"]
    pairs = list(itertools.combinations(rows, 2))  # Holm's correction is over all of them
    corrected = evaluation.holm(
        np.array([evaluation.mcnemar(hits[first], hits[second]) for first, second in pairs])
    )
    assert pairs[-1][1] == "ensemble"
    of_ensemble = [p for pair, p in zip(pairs, corrected, strict=True) if "ensemble" in pair]
    for name, p in zip(others, of_ensemble, strict=True):
        points, first, second, shown, verdict = table[rows[name]["title"]]
        difference = hits["ensemble"].mean() - hits[name].mean()
        assert points == pytest.approx(100 * difference, abs=0.051)
        assert first - second == round(difference * len(labels))
        assert shown == ("<0.001" if p < 0.001 else f"{p:.3f}")
        interval = evaluation.compare(
            hits["ensemble"], hits[name], rows["svm"]["predictions"].albums
        )["interval"]
        assert verdict == evaluation.verdict(p, interval)
    assert table["k-NN"][4] == "better"
    assert table["ResNet, strong recipe"][4] == "not told apart"


def test_without_an_ensemble_the_best_in_cross_validation_is_compared(results, capsys):
    # The best on the validation songs is another.
    val = results / "task2/resnet/val_predictions.json"
    scores = read_predictions(val, "x")
    for name in scores.scores:
        scores.scores[name][:] = np.eye(4)[scores.labels]
    write_predictions(val, scores)
    change(results / "task2/resnet/metrics.json", top1=1.0, top3=1.0)
    heading, table = paired(printed(results, capsys))
    assert heading == "ResNet, strong recipe, the best in CV, on these songs, against"
    assert table["ResNet"][1] == 0
    assert table["ResNet"][4] == "worse"
    assert "ResNet, strong recipe" not in table


def test_pairs_that_are_told_apart_are_named(results, capsys):
    found = comparison.gather(results)
    lines = printed(results, capsys)
    start = next(i for i, line in enumerate(lines) if line.startswith("Of all 21 pairs"))
    text = " ".join(line.strip() for line in lines[start:])
    better = [pair for pair in found["pairs"] if pair["verdict"] != "not told apart"]
    assert f"told apart: {len(better)}" in text
    assert len(better) > 3
    for pair in better:
        first, second = (found["models"][pair[side]]["title"] for side in ("first", "second"))
        if pair["verdict"] == "worse":
            first, second = second, first
        loser_list = text.split(f"{first} is better than ")[1].split(" is better than ")[0]
        assert second in loser_list


def test_one_model_alone_is_not_compared(tmp_path, capsys):
    put_network(tmp_path, "resnet", 0.9, seed=31)
    assert any("No paired comparison" in line for line in printed(tmp_path, capsys))


def test_the_command_lists_the_files_of_models_alone(results, monkeypatch, capsys):
    write_json(results / "task2/resnet/fold-1/val_predictions.json", {})
    arguments = ["--results-dir", str(results), "--assets-dir", str(results / "assets")]
    monkeypatch.setattr(sys, "argv", ["comparison", *arguments])
    comparison.main()
    files = [line for line in capsys.readouterr().out.splitlines() if line.endswith(".json")]
    assert str(results / "task2/resnet/val_predictions.json") in files
    assert not any("fold-1" in file for file in files)


# --- results.json ------------------------------------------------------------------------------


def run(results, monkeypatch, capsys):
    arguments = ["--results-dir", str(results), "--assets-dir", str(results / "assets")]
    monkeypatch.setattr(sys, "argv", ["comparison", *arguments])
    comparison.main()
    capsys.readouterr()
    return results / "assets/results.json"


def test_all_that_is_computed_is_in_a_file_with_what_it_is_from(results, monkeypatch, capsys):
    combine(results, monkeypatch)
    path = run(results, monkeypatch, capsys)
    found = read_results(path, "x")
    assert {"command": found["command"], **comparison.gather(results)} == found
    rows = comparison.collect(results)
    assert list(found["models"]) == list(rows)
    assert len(found["pairs"]) == 8 * 7 / 2
    for name, record in found["models"].items():
        row = rows[name]
        labels, guesses = row["predictions"].labels, row["scores"].argmax(axis=1)
        assert record["top1"] == (labels == guesses).mean()
        for i, of_artist in enumerate(record["artists"].values()):
            assert of_artist["songs"] == (labels == i).sum()
            assert of_artist["right"] == ((labels == i) & (guesses == i)).sum()
            assert of_artist["guessed"] == (guesses == i).sum()
        for album, of_album in record["albums"].items():
            inside = row["predictions"].albums == album
            assert of_album["right"] == (labels == guesses)[inside].sum()
            assert of_album["songs"] == inside.sum()
        shares = {album: of["right"] / of["songs"] for album, of in record["albums"].items()}
        assert [shares[album] for album in record["worst_albums"]] == sorted(shares.values())[:3]
    for name in (
        "task1/metrics.json",
        "task2/resnet/val_predictions.json",
        "ensemble/metrics.json",
    ):
        assert found["files"][name] == sha256_file(results / name)
    assert "task1/preprocessing.json" in found["files"]
    # Nothing says on whose machine it was, and a second run writes the same bytes.
    text = path.read_text()
    assert str(results.parent) not in text
    assert "/somewhere" not in text
    assert found["runs"]["task2/resnet"]["command"] == "python train_resnet.py --data-dir toy"
    assert run(results, monkeypatch, capsys).read_text() == text


def test_absolute_paths_in_commands_are_cut():
    command = "python -m x --data-dir '/home/me/my music' --results-dir=/r/s --lr 0.1 ../there"
    expected = "python -m x --data-dir 'my music' --results-dir=s --lr 0.1 ../there"
    assert comparison.without_folders(command) == expected


def test_results_that_are_out_of_date_are_refused(results, monkeypatch, capsys):
    combine(results, monkeypatch, "--members", "svm", "resnet")
    path = run(results, monkeypatch, capsys)
    found = read_results(path, "x")
    comparison.check_up_to_date(found, results, path)
    with pytest.raises(UserError, match=r"lacks .*ensemble/metrics\.json: run python -m"):
        models = {name: row for name, row in found["models"].items() if name != "ensemble"}
        comparison.check_up_to_date({**found, "models": models}, results, path)
    (results / "task2/panns/metrics.json").rename(results / "kept.json")
    with pytest.raises(UserError, match=r"made of another .*panns/metrics\.json: run python -m"):
        comparison.check_up_to_date(found, results, path)
    found = read_results(run(results, monkeypatch, capsys), "x")
    assert "panns" not in found["models"]
    (results / "kept.json").rename(results / "task2/panns/metrics.json")
    with pytest.raises(UserError, match=r"lacks .*panns/metrics\.json: run python -m"):
        comparison.check_up_to_date(found, results, path)


@pytest.mark.parametrize(
    "change_of",
    [
        lambda value: [],
        lambda value: value | {"models": {}},
        lambda value: value | {"models": []},
        lambda value: value | {"models": {"svm": {"title": "SVM"}}},
        lambda value: value | {"pairs": [{"first": "svm"}]},
        lambda value: value | {"dataset": {"name": "toy"}},
        lambda value: {key: of for key, of in value.items() if key != "files"},
    ],
)
def test_a_file_that_is_no_results_is_refused(tmp_path, change_of):
    put_network(tmp_path, "resnet", 0.9, seed=31)
    path = tmp_path / "results.json"
    write_json(path, change_of({"command": "x", **comparison.gather(tmp_path)}))
    with pytest.raises(
        UserError, match=r"results\.json is not what comparison writes: run it again"
    ):
        read_results(path, "comparison")
