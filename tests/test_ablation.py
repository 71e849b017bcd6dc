"""What families of features are worth."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_classical import fit_settings, make_rows

from artist20 import ablation, classical, evaluation, results
from artist20.classical import Fitted
from artist20.results import Ablation


def rows_with_one_telling_family():
    train = make_rows(n_features=40)
    names = [f"mfcc_{i:02d}_mean" for i in range(20)] + [f"mel_{i:03d}_mean" for i in range(20)]
    X = np.random.default_rng(0).normal(size=train.X.shape).astype(np.float32)
    X[:, :20] += 3 * np.unique(train.y, return_inverse=True)[1][:, None]
    return replace(train, X=X, names=names)


def explain(folder, rows, name="logistic_regression", **params):
    model = classical.fit_model(name, rows, params, 0)
    settings = fit_settings()
    grid = classical.one_point(params)
    candidates, _ = classical.search(name, rows, grid, settings, 1, None)
    search = results.Search(
        settings=results.SearchSettings(
            dataset="toy", features="0", cv="album", seed=0, grid=grid, steps=[]
        ),
        seconds=0,
        candidates=candidates,
        folds_by={"album": candidates[0], "song": None},
        temperature=1.0,
    )
    fitted = Fitted(name, model, search, np.empty(0))
    ablation.explain(fitted, {"train": rows, "val": rows}, folder, settings, 1)
    record = results.read_record(folder / "ablation.json", Ablation, "x")
    assert record.complete
    assert (record.settings.model, record.settings.params) == (name, params)
    return record.families


def test_ablation_finds_the_family_that_tells(tmp_path):
    found = explain(tmp_path, rows_with_one_telling_family(), C=0.1)
    assert found["mfcc"].n_features == found["mel"].n_features == 20
    assert found["mfcc"].alone == found["mel"].without == 1
    assert found["mfcc"].without == found["mel"].alone < 0.7
    assert found["mfcc"].lost > 0.4 > 0.1 > abs(found["mel"].lost)


def test_a_family_that_says_nothing_is_not_measured_alone(tmp_path):
    rows = rows_with_one_telling_family()
    X = rows.X.copy()
    X[:, 20:] = 120
    found = explain(tmp_path, replace(rows, X=X), "svm", C=1.0)
    assert found["mel"].alone is None
    assert found["mel"].without == 1
    assert found["mfcc"].without is None
    assert (found["mel"].lost, found["mel"].lost_std) == (0, 0)


def test_shuffling_in_exact_values():
    """Of one repeat, by hand."""
    rows = rows_with_one_telling_family()
    model = classical.fit_model("logistic_regression", rows, {"C": 0.1}, 0)
    before = rows.X.copy()
    classes, labels = np.unique(rows.y, return_inverse=True)
    lost = ablation.permutation_importance(model, rows, classes, seed=3, repeats=2)
    rng = np.random.default_rng(3)
    for family, columns in (("mfcc", slice(20)), ("mel", slice(20, None))):
        expected = []
        for _ in range(2):
            X = rows.X.copy()
            X[:, columns] = X[rng.permutation(len(X)), columns]
            scores = classical.song_scores(model, replace(rows, X=X))
            expected.append(1 - evaluation.top_k_accuracy(scores, labels, 1))
        assert lost[family] == pytest.approx((np.mean(expected), np.std(expected)))
    assert np.array_equal(rows.X, before)


def test_a_stopped_ablation_goes_on_with_the_next_family(tmp_path, monkeypatch):
    rows = rows_with_one_telling_family()
    whole = explain(tmp_path / "whole", rows, C=0.1)
    measured = []
    of_columns = ablation._cv_top1

    def stop(name, train, columns, *more):
        if len(measured) == 2:  # those of the first family
            raise KeyboardInterrupt
        measured.append(columns)
        return of_columns(name, train, columns, *more)

    with monkeypatch.context() as patch:
        patch.setattr(ablation, "_cv_top1", stop)
        with pytest.raises(KeyboardInterrupt):
            explain(tmp_path, rows, C=0.1)
    part = json.loads((tmp_path / "ablation.json").read_text())
    assert not part["complete"]
    assert list(part["families"]) == ["mfcc"]
    monkeypatch.setattr(
        ablation, "_cv_top1", lambda *args: measured.append(args[2]) or of_columns(*args)
    )
    assert explain(tmp_path, rows, C=0.1) == whole
    assert len(measured) == 4
    assert explain(tmp_path, rows, C=0.1) == whole
    assert len(measured) == 4  # nothing is measured again
