"""python -m artist20.comparison with several results folders: rows of seeds, pairs, CSV."""

import csv
import sys

import numpy as np
import pytest
from conftest import TOY_DATASET, TOY_LEARNING, put_network, put_task1, toy_provenance, toy_settings
from msgspec.structs import replace

from artist20 import UserError, comparison, evaluation
from artist20.checkpoints import EpochRow, write_history
from artist20.report import compare, runs


def put_seed(results_dir, name, strength, seed, *, scores_of=None, **changes):
    """Write a run of a network with this seed."""
    put_network(
        results_dir,
        name,
        strength,
        1000 * (scores_of or 1) + 10 * seed,
        settings=toy_settings(name, seed=seed, **changes),
        provenance=toy_provenance("x", seed=seed),
    )


@pytest.fixture
def seeds(tmp_path):
    """Hold two networks with three seeds each."""
    folders = [tmp_path / f"seed-{seed}" for seed in range(3)]
    for seed, folder in enumerate(folders):
        put_seed(folder, "resnet_strong", 2.0, seed)
        put_seed(folder, "resnet", 0.5, seed, scores_of=2)
    return folders


def run(monkeypatch, capsys, *options):
    monkeypatch.setattr(sys, "argv", ["comparison", *map(str, options)])
    capsys.readouterr()
    comparison.main()
    return capsys.readouterr().out.splitlines()


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_runs_that_differ_in_their_seed_are_one_row(seeds, tmp_path, monkeypatch, capsys):
    lines = run(monkeypatch, capsys, *seeds, "--csv", tmp_path / "all.csv")
    rows = {row["model"]: row for row in read_csv(tmp_path / "all.csv")}
    assert list(rows) == ["ResNet, strong recipe", "ResNet"]
    for title, name in (("ResNet", "resnet"), ("ResNet, strong recipe", "resnet_strong")):
        models = [compare.collect(folder)[name] for folder in seeds]
        labels = models[0].val.labels
        row = rows[title]
        for column, values in {
            "top1": [model.figures.top1 for model in models],
            "top3": [model.figures.top3 for model in models],
            "last_top1": [evaluation.accuracy(m.unchosen(), labels).top1 for m in models],
            "cv_top1": [model.cv.top1 for model in models],
        }.items():
            assert float(row[column]) == pytest.approx(sum(values) / 3)
            assert float(row[f"{column}_sd"]) == pytest.approx(np.std(values) * np.sqrt(3 / 2))
        assert (row["runs"], row["seeds"]) == ("3", "0 1 2")
        assert row["folders"].split() == [f"{folder}/task2/{name}" for folder in seeds]
        (line,) = (line for line in lines if line[3:].startswith(f"{title}  "))
        shown = f"{100 * float(row['top1']):.1f} ± {100 * float(row['top1_sd']):.1f}"
        assert line[3:].removeprefix(title).split("  ")[-5:][0].strip() == shown
    (pair,) = read_csv(tmp_path / "all_pairs.csv")
    assert (pair["first"], pair["second"]) == tuple(rows)
    difference = float(rows[pair["first"]]["last_top1"]) - float(rows["ResNet"]["last_top1"])
    assert float(pair["difference"]) == pytest.approx(difference)
    assert 0 < float(pair["low"]) < difference < float(pair["high"])
    assert pair["verdict"] == "better" and float(pair["p_holm"]) < 0.05
    assert any(line.startswith(" 1 - 2 ") and line.endswith(" better") for line in lines)


def test_a_row_is_of_one_setting(seeds, tmp_path, monkeypatch, capsys):
    other = tmp_path / "lr"
    put_seed(other, "resnet", 0.5, 0, lr=0.1)
    lines = run(monkeypatch, capsys, *seeds, other)
    first = seeds[0] / "task2/resnet"
    assert f"ResNet, from {first} to {other}/task2/resnet: recipe.lr 0.005 -> 0.1" in lines
    table = [runs.summarise(*row) for row in runs.read_rows([*seeds, other]).items()]
    expected = {f"ResNet ({first})": 3, "ResNet, strong recipe": 3}
    assert {row.model: row.runs for row in table} == expected | {
        f"ResNet ({other}/task2/resnet)": 1
    }
    assert table[-1].top1_sd is None


def test_untrained_encoders_and_chosen_classifiers_are_the_seeds_doing(tmp_path):
    for seed, chosen in enumerate(
        ({"solver": "shrinkage LDA", "temperature": 7.0}, {"hidden": (9,)})
    ):
        settings = toy_settings("ge2e_strong", seed=seed, **chosen)
        encoders = [replace(settings.encoders[0], weights=f"untrained, seed {seed}")]
        settings = replace(settings, encoders=encoders)
        put_network(tmp_path / str(seed), "ge2e_strong", 1.0, seed, settings=settings)
    (row,) = [
        runs.summarise(*row) for row in runs.read_rows([tmp_path / "0", tmp_path / "1"]).items()
    ]
    assert row.runs == 2


def test_the_same_run_counts_once_and_one_that_did_not_learn_is_said(tmp_path, capsys):
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        put_task1(folder, {"svm": 0.8}, seed=1)
    put_network(folders[0], "resnet", 1.0, 3, learning=replace(TOY_LEARNING, guessed=1.0))
    put_seed(folders[1], "resnet", 1.0, 1)
    table = [runs.summarise(*row) for row in runs.read_rows(folders).items()]
    assert [(row.model, row.runs) for row in table] == [("ResNet", 2), ("SVM", 1)]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folders[0]}/task2/resnet did not learn: 100% of the validation")
    assert lines[1:] == [f"left out: svm in {folders[1]}/task1 is the run in {folders[0]}/task1"]


def test_folders_of_other_songs_are_refused(seeds, tmp_path):
    put_network(tmp_path / "b", "resnet", 1, 1, dataset=replace(TOY_DATASET, fingerprint="f"))
    with pytest.raises(UserError, match=rf"different songs \({seeds[0]}: toy.*{tmp_path}/b: toy"):
        runs.read_rows([seeds[0], tmp_path / "b"])
    with pytest.raises(UserError, match="nowhere holds no metrics"):
        runs.read_rows([seeds[0], tmp_path / "nowhere"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["a", "--answers", "b.json"], "--answers"),
        (["a", "--protocol", "cv"], "--protocol"),
        (["a", "--results-dir", "b"], "--results-dir"),
        (["--csv", "b.csv"], "--csv is for named folders"),
    ],
)
def test_options_that_do_not_go_with_folders(monkeypatch, capsys, options, said):
    with pytest.raises(UserError, match=said):
        run(monkeypatch, capsys, *options)


def test_pandas_opens_every_record_in_one_line(seeds, tmp_path, monkeypatch, capsys):
    pd = pytest.importorskip("pandas")  # seaborn brings it
    assets = seeds[0] / "assets"
    run(monkeypatch, capsys, "--results-dir", seeds[0], "--assets-dir", assets)
    run(monkeypatch, capsys, *seeds, "--csv", tmp_path / "all.csv")
    folder = seeds[0] / "task2/resnet"
    metrics = pd.read_json(folder / "metrics.json", typ="series")
    assert metrics.settings["recipe"]["lr"] == 0.005
    val = pd.read_json(folder / "val_predictions.json", typ="series")
    scores = pd.DataFrame(val.scores["resnet"], pd.DataFrame(val.songs).path, val.classes)
    assert scores.shape == (48, 4) and scores.sum(axis=1).round(3).eq(1).all()
    record = pd.read_json(assets / "results.json", typ="series")
    table = pd.json_normalize([*record.models.values()]).set_index("title")
    assert table["val.top1"]["ResNet"] == metrics.top1
    row = EpochRow(
        epoch=1, lr=0.1, train_loss=1, val_loss=1, val_top1=0.5, val_top3=0.5, seconds=1
    )  # fmt: skip
    write_history(folder / "history.csv", [row, row])
    assert pd.read_csv(folder / "history.csv").val_top1.tolist() == [0.5, 0.5]
    assert pd.read_csv(tmp_path / "all.csv").set_index("model").runs["ResNet"] == 3
    assert pd.read_csv(tmp_path / "all_pairs.csv").verdict.tolist() == ["better"]
