"""artist20.ensemble: the weights' optimum, what they are fitted on, what is refused."""

import json
import sys

import msgspec
import numpy as np
import pytest
from conftest import (
    TOY_ARTISTS,
    TOY_DATASET,
    TOY_SONGS,
    put_network,
    put_task1,
    toy_scores,
    toy_settings,
)
from msgspec.structs import replace

from artist20 import UserError, ensemble, evaluation
from artist20.files import sha256_file
from artist20.results import (
    ClassifierCandidate,
    ClassifierChoice,
    EncoderSettings,
    EnsembleMetrics,
    EnsembleSettings,
    Predictions,
    TestScores,
    read_record,
    write_record,
)


def members_of(strengths: list[float], n_songs: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Draw independent members' log-probabilities, and labels."""
    labels = np.random.default_rng(seed).integers(0, len(TOY_ARTISTS), n_songs)
    scores = [toy_scores(labels, strength, seed + i) for i, strength in enumerate(strengths, 1)]
    return ensemble.log_probabilities(scores), labels


# --- weights -----------------------------------------------------------------------------------


def test_weights_are_the_best_of_a_grid():
    log_p, labels = members_of([0.6, 1.2], n_songs=60)

    def loss(weights):
        log_loss = evaluation.log_loss(ensemble.pool(log_p, weights), labels)
        return log_loss + ensemble.RIDGE / 2 * ((weights - 0.5) ** 2).sum()

    axis = np.linspace(0, 3, 121)
    grid = {(a, b): loss(np.array([a, b])) for a in axis for b in axis}
    found = ensemble.fit_weights(log_p, labels)
    assert loss(found) <= min(grid.values())
    assert found == pytest.approx(min(grid, key=lambda point: grid[point]), abs=0.025)


def test_weights_of_independent_members_are_what_they_were_drawn_with():
    strengths = [0.5, 1.0, 2.0]
    log_p, labels = members_of(strengths, n_songs=4000)
    assert ensemble.fit_weights(log_p, labels) == pytest.approx(strengths, abs=0.12)


def test_a_useless_member_has_next_to_no_weight_and_a_misleading_one_none():
    log_p, labels = members_of([1.0, 0.0, -1.0], n_songs=1500)
    good, useless, misleading = ensemble.fit_weights(log_p, labels)
    assert good > 0.8
    assert useless < 0.1
    assert misleading == 0


def test_a_member_twice_changes_nothing():
    log_p, labels = members_of([0.7, 1.3], n_songs=300)
    once = ensemble.fit_weights(log_p, labels)
    twice = ensemble.fit_weights(log_p[[0, 1, 1]], labels)
    assert twice[1] == pytest.approx(twice[2])
    assert [twice[0], twice[1] + twice[2]] == pytest.approx(once, abs=2e-3)
    expected = ensemble.pool(log_p, once)
    np.testing.assert_allclose(ensemble.pool(log_p[[0, 1, 1]], twice), expected, atol=1e-3)


def test_equal_weights_of_one_are_the_members_product():
    p = np.array([[[0.5, 0.3, 0.2]], [[0.1, 0.6, 0.3]]])
    pooled = ensemble.pool(ensemble.log_probabilities(list(p)), np.ones(2))
    product = p[0] * p[1]
    np.testing.assert_allclose(pooled, product / product.sum())
    np.testing.assert_allclose(ensemble.pool(np.log(p), np.zeros(2)), np.full((1, 3), 1 / 3))


def test_a_sure_mistake_is_not_the_ensembles():
    labels = np.array([0, 1, 1, 0])
    sure = np.eye(2)[[0, 1, 1, 1]]  # its last is wrong
    log_p = ensemble.log_probabilities([sure, np.full((4, 2), 0.5)])
    weights = ensemble.fit_weights(log_p, labels)
    assert np.isfinite(weights).all()
    # Three of four right: that is how sure the ensemble is.
    assert ensemble.pool(log_p, weights).max(axis=1) == pytest.approx(np.full(4, 0.75), abs=0.01)


def test_a_song_is_scored_with_the_weights_of_other_folds():
    log_p, labels = members_of([0.7, 1.3], n_songs=90)
    parts = np.array_split(np.random.default_rng(0).permutation(90), 3)
    folds = [(np.setdiff1d(np.arange(90), part), part) for part in parts]
    scores = ensemble.cross_validate(log_p, labels, folds)
    for fit, held_out in folds:
        weights = ensemble.fit_weights(log_p[:, fit], labels[fit])
        np.testing.assert_allclose(scores[held_out], ensemble.pool(log_p[:, held_out], weights))
    # What a fold's songs are by is no matter to their own scores.
    changed = labels.copy()
    changed[parts[0]] = (changed[parts[0]] + 1) % len(TOY_ARTISTS)
    again = ensemble.cross_validate(log_p, changed, folds)
    np.testing.assert_array_equal(again[parts[0]], scores[parts[0]])
    assert not np.allclose(again[parts[1]], scores[parts[1]])


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def results(tmp_path):
    """Hold models of both tasks that know something."""
    put_task1(tmp_path, {"svm": 0.8, "knn": 0.3}, seed=1)
    put_task1(tmp_path, {"svm": 1.1, "knn": 0.5}, seed=11, level="segment")
    put_network(tmp_path, "resnet", 0.9, seed=21)
    put_network(tmp_path, "resnet_strong", 1.8, seed=31)
    return tmp_path


NAMES = ["svm", "knn", "svm_of_segments", "knn_of_segments", "resnet", "resnet_strong"]


@pytest.fixture
def run(results, monkeypatch):
    """Run the command; return its metrics."""

    def call(*options):
        arguments = ["ensemble", "--results-dir", str(results), *map(str, options)]
        monkeypatch.setattr(sys, "argv", arguments)
        ensemble.main()
        return read_record(results / "ensemble/metrics.json", EnsembleMetrics, "x")

    return call


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def predictions_of(path):
    return read_record(path, Predictions, "x")


def test_all_models_are_combined(results, run, capsys):
    metrics = run()
    assert list(metrics.members) == NAMES
    assert "left out: task2/panns (" in capsys.readouterr().out
    for split, reached in (("cv", metrics.cv), ("val", metrics)):
        predictions = predictions_of(results / f"ensemble/{split}_predictions.json")
        assert predictions.songs == TOY_SONGS["train" if split == "cv" else "val"]
        assert list(predictions.scores) == ["ensemble"]
        scores, labels = predictions.scores["ensemble"], predictions.labels
        assert scores.sum(axis=1) == pytest.approx(np.ones(len(labels)), rel=1e-5)
        assert reached.top1 == evaluation.top_k_accuracy(scores, labels, 1)
        assert reached.top3 == evaluation.top_k_accuracy(scores, labels, 3)
        assert reached.log_loss == pytest.approx(evaluation.log_loss(scores, labels), rel=1e-5)
    # Six that each know something know more together.
    best = metrics.members[metrics.best_member_in_cv]
    assert metrics.best_member_in_cv == "resnet_strong"
    assert best.cv.top1 == max(member.cv.top1 for member in metrics.members.values())
    assert metrics.cv.top1 > best.cv.top1 + 0.1
    against = metrics.against_best_member
    assert against["cv"].difference == pytest.approx(metrics.cv.top1 - best.cv.top1)
    assert against["val"].difference == pytest.approx(metrics.top1 - best.val.top1)
    assert metrics.dataset == TOY_DATASET
    assert metrics.settings == EnsembleSettings(floor=1e-6, ridge=1e-3, folds=5, seed=0)
    files = {results / name: digest for name, digest in metrics.files.items()}
    assert files.keys() == {
        *results.glob("task*/**/cv_predictions.json"),
        *results.glob("task*/**/val_predictions.json"),
    }
    assert len(files) == 8
    assert files == {file: sha256_file(file) for file in files}


def test_the_cross_validated_figure_is_of_weights_that_had_not_seen_the_album(results, run):
    metrics = run()
    weights = np.array([member.weight for member in metrics.members.values()])
    members = ensemble.read_members(results, None)
    scores = [member.unchosen("cv") for member in members]
    log_p, labels = ensemble.log_probabilities(scores), members[0].predictions["cv"].labels
    assert weights == pytest.approx(ensemble.fit_weights(log_p, labels))
    in_sample = ensemble.pool(log_p, weights)
    written = predictions_of(results / "ensemble/cv_predictions.json")
    assert metrics.cv.log_loss > evaluation.log_loss(in_sample, labels)
    # Songs of one album were scored with the same weights: these follow from their scores.
    albums = written.albums
    for album in np.unique(albums)[:3]:
        songs = np.flatnonzero(albums == album)
        logits = log_p[:, songs] - log_p[:, songs].mean(axis=2, keepdims=True)
        wanted = np.log(written.scores["ensemble"][songs])
        wanted = wanted - wanted.mean(axis=1, keepdims=True)
        found, residual, *_ = np.linalg.lstsq(
            logits.reshape(len(members), -1).T, wanted.ravel(), rcond=None
        )
        assert residual < 1e-6
        assert not np.allclose(found, weights, atol=1e-3)


def test_weights_are_never_fitted_on_validation_songs(results, run):
    before = run()
    held_out = (results / "ensemble/cv_predictions.json").read_bytes()
    for path in results.glob("task*/**/val_predictions.json"):
        predictions = predictions_of(path)
        rng = np.random.default_rng(0)
        scores = {name: rng.permutation(rows) for name, rows in predictions.scores.items()}
        write_record(path, replace(predictions, scores=scores))
    after = run()
    assert after.top1 < before.top1 - 0.2
    assert after.cv == before.cv
    assert after.best_member_in_cv == before.best_member_in_cv
    for name in NAMES:
        assert after.members[name].weight == before.members[name].weight
    assert (results / "ensemble/cv_predictions.json").read_bytes() == held_out


def test_the_last_epoch_stands_for_a_network_whose_epoch_was_chosen(results, run):
    val = predictions_of(results / "task2/resnet/val_predictions.json")
    assert (val.scores["resnet"] != val.scores["resnet_last"]).any()
    assert run().members["resnet"].val.top1 == evaluation.top_k_accuracy(
        val.scores["resnet_last"], val.labels, 1
    )
    before = (results / "ensemble/val_predictions.json").read_bytes()
    val.scores["resnet"][:] = 0.25
    write_record(results / "task2/resnet/val_predictions.json", val)
    run()
    assert (results / "ensemble/val_predictions.json").read_bytes() == before


def test_the_same_again_is_the_same(results, run):
    run()
    files = {path: path.read_bytes() for path in (results / "ensemble").glob("*_*.json")}
    assert len(files) == 2
    run()
    assert all(path.read_bytes() == content for path, content in files.items())


def test_an_untrained_encoder_is_called_so(results, run):
    put_network(results, "panns_strong", 1.0, seed=41)
    assert run().untrained is True
    assert run("--members", "svm", "resnet_strong").untrained is False
    encoder = EncoderSettings(name="panns", weights="0" * 64, sample_rate=16000)
    trained = toy_settings("panns_strong", encoders=[encoder])
    put_network(results, "panns_strong", 1.0, seed=41, settings=trained)
    assert run().untrained is False


def test_convolutions_take_part_beside_the_network_that_they_are_part_of(results, run):
    """Which of convolutions and LDA deserves more is for the folds to say."""
    put_network(results, "resnet_strong@vocals", 0.1, seed=51, of_convolutions=2.5)
    name = "resnet_strong@vocals:convolutions"
    metrics = run()
    assert list(metrics.members) == [*NAMES, "resnet_strong@vocals", name]
    alone = metrics.members[name]
    assert alone.title == "ResNet, strong recipe, on vocals, convolutions alone"
    assert alone.weight > 5 * metrics.members["resnet_strong@vocals"].weight
    assert metrics.best_member_in_cv == name
    assert list(run("--members", name, "svm").members) == ["svm", name]


def test_convolutions_that_the_folds_have_no_scores_of_are_left_out(results, run, capsys):
    folder = put_network(results, "resnet_strong", 1.8, seed=31, of_convolutions=1.0)
    held_out = predictions_of(folder / "cv_predictions.json")
    del held_out.scores["resnet_strong:convolutions"]
    write_record(folder / "cv_predictions.json", held_out)
    assert list(run().members) == NAMES
    output = capsys.readouterr().out
    assert "left out: resnet_strong:convolutions (no such scores in" in output
    assert "--overwrite --fold 1, and 2 to 5)" in output
    assert "6 models take part, 1 are left out" in output
    with pytest.raises(UserError, match=r"--members resnet_strong:convolutions: no such scores"):
        run("--members", "svm", "knn", "resnet_strong:convolutions")


# --- who takes part ----------------------------------------------------------------------------


def test_members_can_be_named(results, run):
    metrics = run("--members", "resnet_strong", "svm", "svm")
    assert list(metrics.members) == ["svm", "resnet_strong"]
    assert len(metrics.files) == 4


def test_models_without_held_out_scores_are_left_out_and_counted(results, run, capsys):
    (results / "task2/resnet/cv_predictions.json").unlink()
    put_task1(results, {"svm": 0.8, "knn": 0.3}, seed=1, cv="song")
    metrics = run()
    assert list(metrics.members) == ["svm_of_segments", "knn_of_segments", "resnet_strong"]
    output = capsys.readouterr().out
    assert "left out: svm, knn (its cross-validation split albums" in output
    assert "left out: resnet (no resnet/cv_predictions.json: run task2_train_wo_pretrain" in output
    assert "--fold 1, and 2 to 5)" in output
    assert "3 models take part, 3 are left out" in output
    with pytest.raises(UserError, match=r"--members resnet: no resnet/cv_pred.* --fold 1"):
        run("--members", "resnet", "resnet_strong")
    with pytest.raises(UserError, match=r"--members svm: .*--cv album"):
        run("--members", "svm", "resnet_strong")


@pytest.mark.parametrize("wanted", [["nobody"], ["resnet", "panns"], ["ensemble", "svm"]])
def test_members_that_are_not_there_are_refused(results, run, wanted):
    run()
    with pytest.raises(UserError, match=r"has svm, knn, svm_of_segments, .*resnet_strong"):
        run("--members", *wanted)


def test_one_member_is_no_ensemble(results, run, tmp_path_factory, monkeypatch):
    with pytest.raises(UserError, match=r"two members at least; .* gives svm$"):
        run("--members", "svm")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(UserError, match="gives none"):
        run("--results-dir", empty)


def test_a_damaged_model_that_does_not_take_part_is_no_matter(results, run):
    (results / "task2/resnet/val_predictions.json").write_text("[")
    run("--members", "svm", "knn")
    with pytest.raises(UserError, match=r"resnet/val_predictions\.json is broken"):
        run()


# --- what does not belong together ---------------------------------------------------------------


def test_members_of_other_data_are_refused(results, run):
    run()
    before = (results / "ensemble/metrics.json").read_bytes()
    other = replace(TOY_DATASET, fingerprint="f" * 16)
    put_network(results, "resnet", 0.9, seed=21, dataset=other)
    with pytest.raises(UserError, match=r"^svm and resnet are of different songs .*ffff") as caught:
        run()
    assert "\n" not in str(caught.value)
    assert (results / "ensemble/metrics.json").read_bytes() == before
    run("--members", "svm", "resnet_strong")


@pytest.mark.parametrize("split", ["cv", "val"])
def test_members_of_other_songs_are_refused(results, run, split):
    path = results / f"task2/resnet/{split}_predictions.json"
    songs = json.loads(path.read_text())["songs"]
    change(path, songs=[songs[1], songs[0], *songs[2:]])
    with pytest.raises(UserError, match="svm and resnet list different songs"):
        run()


def test_members_of_other_artists_are_refused(results, run):
    for split in ("cv", "val"):
        path = results / f"task2/resnet/{split}_predictions.json"
        scores = {
            name: [[*row, 0.0] for row in rows]
            for name, rows in json.loads(path.read_text())["scores"].items()
        }
        change(path, classes=[*TOY_ARTISTS, "nobody"], scores=scores)
        if split == "cv":
            with pytest.raises(UserError, match=r"in .*resnet know different artists"):
                run()
    with pytest.raises(UserError, match="svm and resnet list different artists"):
        run()


@pytest.mark.parametrize("split", ["cv", "val"])
def test_predictions_of_another_run_are_refused(results, run, split):
    path = results / f"task2/resnet/{split}_predictions.json"
    whole = json.loads(path.read_text())
    fewer = {name: rows[:-1] for name, rows in whole["scores"].items()}
    change(path, songs=whole["songs"][:-1], scores=fewer)
    with pytest.raises(
        UserError, match=rf"{split}_predictions\.json is not of the run.*--overwrit"
    ):
        run()
    others = {"panns": next(iter(whole["scores"].values()))}
    change(path, songs=whole["songs"], scores=others)
    with pytest.raises(UserError, match=rf"{split}_predictions\.json .* scores of panns\)"):
        run()


@pytest.mark.parametrize("chosen", [None, "linear"])
def test_folds_of_another_run_are_refused(results, run, chosen):
    settings = toy_settings("resnet_strong", also_train_on="abc")
    folder = put_network(results, "resnet_strong", 1.8, seed=31, settings=settings)
    if chosen:  # the folds of a classifier that was not chosen are no matter
        reached = {chosen: ClassifierCandidate(cv_top1=0.5, cv_log_loss=1.0)}
        choice = ClassifierChoice(chosen=chosen, candidates=reached)
        write_record(folder / "candidates.json", choice)
        (folder / "other/fold-1").mkdir(parents=True)
        (folder / "other/fold-1/metrics.json").write_text("{}")
    fold = f"resnet_strong/{chosen or '.'}/fold-2"

    def put_fold(**changes):
        of_fold = toy_settings("resnet_strong", **{"fold": 2, "dataset": "some", **changes})
        put_network(results, fold, 1.8, seed=31, model="resnet_strong", settings=of_fold)

    put_fold(also_train_on="abcd")
    run()
    put_fold(also_train_on="abcd", lr=0.5)
    with pytest.raises(
        UserError,
        match=r"fold-2 is of a run with other settings or songs \(recipe\.lr 0\.005 -> 0\.5\)",
    ):
        run()
    put_fold(also_train_on=None)
    with pytest.raises(UserError, match=r"also_train_on 'yes' -> None"):
        run()
    put_fold(also_train_on="abcd")
    replaced = replace(TOY_DATASET, train_fingerprint="others")
    change(results / "task2" / fold / "metrics.json", dataset=msgspec.to_builtins(replaced))
    with pytest.raises(UserError, match="with other settings or songs"):
        run()
    run("--members", "svm", "knn")


def test_features_of_another_preprocessing_are_refused(results, run):
    change(results / "task1/preprocessing.json", arrays={"X_train.npy": "1"})
    with pytest.raises(UserError, match="of other features"):
        run()


# --- test songs --------------------------------------------------------------------------------

TEST_KEYS = [f"{i:03}" for i in range(1, 9)]


def put_test_scores(results, keys=TEST_KEYS, guessed=None):
    """Write the test scores of all models; each has its own. Guessed songs are by folder."""
    labels = np.arange(len(keys)) % len(TOY_ARTISTS)
    songs = {key: f"content of {key}" for key in keys}
    for folder, file, names in (
        (results / "task1", "test_scores.json", ["svm", "knn"]),
        (results / "task1/segment", "test_scores.json", ["svm", "knn"]),
        (results / "task2/resnet", "test_last_scores.json", ["resnet"]),
        (results / "task2/resnet_strong", "test_scores.json", ["resnet_strong"]),
    ):
        scores, checkpoints = {}, {}
        for i, name in enumerate(names):
            scores[name] = toy_scores(labels, 1.5, seed=len(str(folder)) + i)
            checkpoint = {"resnet": "last.pt", "resnet_strong": "best.pt"}.get(
                name, f"{name}.skops"
            )
            checkpoints[name] = [sha256_file(folder / checkpoint)]
        of_folder = (guessed or {}).get(folder.name, {})
        test = TestScores(
            classes=TOY_ARTISTS,
            songs=songs,
            checkpoints=checkpoints,
            guessed=of_folder,
            scores=scores,
        )
        write_record(folder / file, test)


def test_test_songs_are_ranked_by_the_members_product(results, run):
    put_test_scores(results)
    metrics = run()
    total = 0
    for member in ensemble.read_members(results, None):
        file = "test_last_scores.json" if member.selected else "test_scores.json"
        test = read_record(member.folder / file, TestScores, "x")
        weight = metrics.members[member.name].weight
        total = total + weight * np.log(test.scores[member.own_name])
    predictions = json.loads((results / "ensemble/test_predictions.json").read_text())
    assert list(predictions) == TEST_KEYS
    for key, row in zip(TEST_KEYS, total, strict=True):
        assert predictions[key] == [TOY_ARTISTS[i] for i in np.argsort(-row)[:3]]
    right = sum(predictions[key][0] == TOY_ARTISTS[i % 4] for i, key in enumerate(TEST_KEYS))
    assert right >= 6


def test_a_song_that_one_member_guessed_is_guessed(results, run, capsys, monkeypatch):
    guessed = {"resnet": {"004": "is empty"}, "task1": {"002": "is short", "004": "is no file"}}
    put_test_scores(results, guessed=guessed)
    run()
    said = capsys.readouterr().out
    assert "guessed: 002 is short\n" in said
    assert "guessed: 004 is no file\n" in said  # as the first member has it
    assert "2 of 8 predictions are guesses" in said
    test = read_record(results / "ensemble/test_scores.json", TestScores, "x")
    assert test.guessed == {"002": "is short", "004": "is no file"}
    predictions = json.loads((results / "ensemble/test_predictions.json").read_text())
    best = [test.classes[i] for i in test.scores["ensemble"].argmax(axis=1)]
    assert [ranked[0] for ranked in predictions.values()] == best
    monkeypatch.setattr(sys, "argv", ["ensemble", "--results-dir", str(results)])
    assert ensemble.main() == 1
    put_test_scores(results)
    assert ensemble.main() == 0
    (results / "task1/test_scores.json").unlink()
    assert ensemble.main() == 0
    assert not (results / "ensemble/test_scores.json").exists()


def assert_no_predictions(results, output, *said):
    (line,) = (line for line in output.splitlines() if line.startswith("no test_predictions.json"))
    for part in said:
        assert part in line
    assert not (results / "ensemble/test_predictions.json").exists()


def test_the_command_that_is_missing_is_named(results, run, capsys):
    run()
    assert_no_predictions(
        results,
        capsys.readouterr().out,
        "task1/test_scores.json is missing: run python -m artist20.task1_inference",
    )
    put_test_scores(results)
    run()
    assert (results / "ensemble/test_predictions.json").is_file()
    (results / "task2/resnet/test_last_scores.json").unlink()
    capsys.readouterr()
    run()  # what was there was of scores that are no more
    assert_no_predictions(
        results,
        capsys.readouterr().out,
        f"run python task2_inference_wo_pretrain.py --results-dir {results} "
        f"--checkpoint {results}/task2/resnet/last.pt "
        f"--output {results}/task2/resnet/test_last_predictions.json",
    )


def test_a_member_without_weight_need_not_have_scored_the_test_songs(results, run):
    put_network(results, "panns_strong", -1.0, seed=51)
    put_test_scores(results)
    metrics = run()
    assert metrics.members["panns_strong"].weight == 0
    assert not metrics.untrained
    assert (results / "ensemble/test_predictions.json").is_file()


def test_test_scores_of_another_checkpoint_are_stale(results, run, capsys):
    put_test_scores(results)
    (results / "task2/resnet_strong/best.pt").write_text("trained again")
    run()
    assert_no_predictions(
        results,
        capsys.readouterr().out,
        "resnet_strong/test_scores.json is not of the best.pt that is there",
        "run python task2_inference_wo_pretrain.py --recipe strong",
    )


def test_models_of_several_renditions_are_members_of_the_same_songs(results, run, capsys):
    put_task1(results, {"svm": 1.0}, seed=51, rendition="vocals")
    folder = put_network(results, "resnet_strong@vocals", 1.6, seed=61)
    of_fold = toy_settings("resnet_strong@vocals", fold=1, dataset="some")
    heard = replace(of_fold.rendition, fingerprint="of the fold's own songs")
    put_network(
        results,
        "resnet_strong@vocals/fold-1",
        1.6,
        seed=61,
        model="resnet_strong@vocals",
        settings=replace(of_fold, rendition=heard),
    )
    metrics = run()
    assert list(metrics.members) == [*NAMES[:4], "svm@vocals", *NAMES[4:], "resnet_strong@vocals"]
    assert metrics.members["svm@vocals"].title == "SVM, on vocals"
    assert metrics.members["resnet_strong@vocals"].weight > 0.3
    assert metrics.cv.log_loss < metrics.members["resnet_strong"].cv.log_loss
    assert "task2/resnet_strong@vocals/val_predictions.json" in metrics.files
    pair = ["--members", "resnet_strong", "resnet_strong@vocals"]
    put_test_scores(results)
    capsys.readouterr()
    run(*pair)
    command = "run python task2_inference_wo_pretrain.py --recipe strong --audio-root /somewhere"
    assert_no_predictions(results, capsys.readouterr().out, f"{command}/vocals")

    test = read_record(results / "task2/resnet_strong/test_scores.json", TestScores, "x")
    name, checkpoint = folder.name, [sha256_file(folder / "best.pt")]
    scores = {name: test.scores["resnet_strong"][:, ::-1]}
    write_record(
        folder / "test_scores.json", replace(test, checkpoints={name: checkpoint}, scores=scores)
    )
    metrics = run(*pair)
    ensembles = read_record(results / "ensemble/test_scores.json", TestScores, "x")
    log_p = ensemble.log_probabilities([test.scores["resnet_strong"], scores[name]])
    weights = np.array([metrics.members[name].weight for name in pair[1:]])
    np.testing.assert_allclose(
        ensembles.scores["ensemble"], ensemble.pool(log_p, weights), rtol=1e-4
    )

    # A fold that heard another tree.
    put_network(
        results,
        "resnet_strong@vocals/fold-1",
        1.6,
        seed=61,
        model="resnet_strong@bass",
        settings=toy_settings("resnet_strong@bass", fold=1),
    )
    with pytest.raises(UserError, match=r"\(rendition\.name 'vocals' -> 'bass'\)"):
        run()


@pytest.mark.parametrize("what", ["songs", "contents", "artists"])
def test_test_scores_of_other_songs_are_told(results, run, capsys, what):
    put_test_scores(results)
    path = results / "task2/resnet_strong/test_scores.json"
    scores = json.loads(path.read_text())
    if what == "songs":
        change(
            path,
            songs=dict(list(scores["songs"].items())[:5]),
            scores={"resnet_strong": scores["scores"]["resnet_strong"][:5]},
        )
    elif what == "contents":
        change(path, songs={**scores["songs"], "003": "another recording"})
    else:
        change(path, classes=[f"another {name}" for name in TOY_ARTISTS])
    run()
    different = "artists" if what == "artists" else "test songs"
    assert_no_predictions(
        results, capsys.readouterr().out, "resnet_strong", different, "--data-dir"
    )
