"""artist20.evaluation: windows, song scores, accuracy, intervals, tests, the course's grader."""

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from artist20 import evaluation
from artist20.results import Accuracy, Intervals, Paired


def random_scores(seed: int, n_songs: int = 60, n_classes: int = 7) -> tuple[np.ndarray, ...]:
    """Scores with many ties, and labels."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (n_songs, n_classes)).astype(float)
    return scores, rng.integers(0, n_classes, n_songs)


# --- windows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "window", "most", "expected"),
    [
        (100, 100, None, [0]),
        (30, 100, None, [0]),
        (1, 1, None, [0]),
        (2, 1, None, [0, 1]),
        (101, 100, None, [0, 1]),
        (200, 100, None, [0, 100]),
        (201, 100, None, [0, 50, 101]),  # half-way lies 50.5
        (1000, 100, 1, [450]),  # the middle
        (1001, 100, 1, [450]),
        (30, 100, 1, [0]),
        (1000, 100, 2, [0, 900]),
        (150, 100, 9, [0, 50]),
        (300, 100, 3, [0, 100, 200]),
    ],
)
def test_window_starts_of_known_songs(length, window, most, expected):
    starts = evaluation.window_starts(length, window, most)
    assert starts.tolist() == expected
    assert np.issubdtype(starts.dtype, np.integer)


def test_window_starts_cover_the_song_evenly():
    rng = np.random.default_rng(0)
    for length, window in rng.integers(1, [5000, 700], (500, 2)):
        starts = evaluation.window_starts(length, window)
        assert np.issubdtype(starts.dtype, np.integer)
        assert starts[0] == 0
        assert starts[-1] == max(length - window, 0)
        assert len(starts) == max(1, -(-length // window))  # no more than it takes
        steps = np.diff(starts)
        assert (steps <= window).all()  # without gaps
        assert np.ptp(steps) <= 1 if len(steps) else True
        most = int(rng.integers(1, 6))
        fewer = evaluation.window_starts(length, window, most)
        assert len(fewer) == min(len(starts), most)
        assert fewer[0] >= 0
        assert fewer[-1] <= max(length - window, 0)


def test_mean_per_song():
    scores = np.array([[1.0, 0.0], [0.0, 4.0], [3.0, 2.0], [5.0, 6.0]])
    result = evaluation.mean_per_song(scores, np.array([1, 0, 1, 1]), 2)
    np.testing.assert_array_equal(result, [[0, 4], [3, 8 / 3]])


def test_mean_per_song_names_a_song_without_a_window():
    with pytest.raises(ValueError, match="song 1 has no window"):
        evaluation.mean_per_song(np.zeros((2, 3)), np.array([0, 2]), 3)


# --- scores ------------------------------------------------------------------------------------


def test_top_k_is_best_first_and_ties_go_to_the_first_class():
    scores = np.array([[0.1, 0.5, 0.4, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 2.0]])
    assert evaluation.top_k(scores, 3).tolist() == [[1, 2, 0], [0, 1, 2], [1, 3, 0]]
    assert evaluation.top_k(scores, 9).shape == (3, 4)  # no more than there are


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_top_k_accuracy_agrees_with_counting(k):
    scores, labels = random_scores(seed=k)
    hits = 0
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        better = sum(score > row[label] for score in row)
        equal_before = sum(score == row[label] for score in row[:label])
        hits += better + equal_before < k
    assert evaluation.top_k_accuracy(scores, labels, k) == pytest.approx(hits / len(labels))


def test_confusion_matrix_agrees_with_sklearn():
    scores, labels = random_scores(seed=0, n_classes=5)
    labels[labels == 3] = 2  # one class without songs
    expected = sklearn.metrics.confusion_matrix(labels, scores.argmax(axis=1), labels=range(5))
    np.testing.assert_array_equal(evaluation.confusion_matrix(scores, labels), expected)


def test_f1_agrees_with_sklearn():
    scores, labels = random_scores(seed=3, n_classes=5)
    matrix = evaluation.confusion_matrix(scores, labels)
    expected = sklearn.metrics.f1_score(labels, scores.argmax(axis=1), average=None)
    assert evaluation.f1_scores(matrix) == pytest.approx(expected)
    # Class 0 has no songs, and class 1 has one but none that is right.
    of_absent = evaluation.f1_scores(np.array([[0, 0, 0], [1, 0, 0], [0, 2, 6]]))
    assert of_absent == pytest.approx([np.nan, 0, 12 / 14], nan_ok=True)


def test_confusions_are_most_frequent_first():
    matrix = np.array([[5, 1, 3], [0, 9, 1], [3, 0, 0]])
    assert evaluation.confusions(matrix) == [(0, 2, 3), (2, 0, 3), (0, 1, 1), (1, 2, 1)]
    assert evaluation.confusions(np.diag([1, 2])) == []


def test_figures_by_hand():
    rising = [0.1, 0.2, 0.3, 0.4]
    scores = np.array([rising[::-1], rising[::-1], rising, rising])
    found = evaluation.figures(scores, np.array([0, 1, 2, 0]), np.array(["a", "a", "b", "b"]))
    assert (found.top1, found.top3) == (0.25, 0.75)
    assert found.course_score == 0.625
    # Only artist 0 is ever guessed rightly: in 1 of 2 guesses, 1 of 2 songs. The last has no songs.
    assert found.macro_f1 == pytest.approx((0.5 + 0 + 0) / 3)
    # Of the albums, one has 1 and 2 of 2 right, the other 0 and 1.
    assert found.over_albums == Intervals(top1=(0, 0.5), top3=(0.5, 1))
    # Quantiles of binomial distributions of 4 songs.
    assert found.over_songs == Intervals(top1=(0, 0.75), top3=(0.25, 1))


def test_accuracy_and_quality_by_hand():
    scores = np.array([[0.5, 0.25, 0.15, 0.1]] * 4)
    labels = np.array([0, 1, 2, 3])
    assert evaluation.accuracy(scores, labels) == Accuracy(top1=0.25, top3=0.75)
    found = evaluation.quality(scores, labels)
    assert (found.top1, found.top3) == (0.25, 0.75)
    assert found.log_loss == pytest.approx(-np.log([0.5, 0.25, 0.15, 0.1]).mean())


def test_log_loss_agrees_with_sklearn_and_is_finite_for_a_sure_mistake():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 50)
    labels = rng.integers(0, 4, 50)
    expected = sklearn.metrics.log_loss(labels, probabilities, labels=range(4))
    assert evaluation.log_loss(probabilities, labels) == pytest.approx(expected)
    assert evaluation.log_loss(np.array([[1.0, 0.0]]), np.array([1])) == pytest.approx(27.631021)


# --- calibration -------------------------------------------------------------------------------


def test_temperature_brings_back_what_was_multiplied_in():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (5000, 5))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)  # drawn from the softmax
    for factor in (0.2, 1.0, 8.0):
        temperature = evaluation.fit_temperature(factor * logits, labels)
        assert temperature == pytest.approx(factor, rel=0.05)
        probabilities = evaluation.calibrated(factor * logits, temperature)
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(labels)))
        np.testing.assert_array_equal(probabilities.argmax(axis=1), logits.argmax(axis=1))
        assert evaluation.calibration_error(probabilities, labels) < 0.03


def test_temperature_is_bounded():
    logits = 0.001 * np.eye(3)[[0, 1]]
    always_right, never_right = np.array([0, 1]), np.array([1, 2])
    assert evaluation.fit_temperature(logits, always_right) == pytest.approx(np.exp(-7), rel=1e-3)
    found = evaluation.fit_temperature(1000 * logits, never_right)
    assert found == pytest.approx(np.exp(7), rel=1e-3)


def test_calibrated_by_hand():
    logits = np.log([[1, 4, 16]])
    assert evaluation.calibrated(logits, 2.0) == pytest.approx(np.array([[1, 2, 4]]) / 7)


def test_reliability_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.05, 0.95], [0.35, 0.65], [0.0, 1.0]])
    labels = np.array([0, 0, 1, 1])
    confidence, accuracy, n_songs = evaluation.reliability(probabilities, labels)
    assert n_songs.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 3]
    assert confidence[[6, 9]] == pytest.approx([0.65, (0.95 + 0.95 + 1) / 3])
    assert accuracy[[6, 9]] == pytest.approx([1, 2 / 3])
    assert np.isnan(confidence[0])
    error = (1 * (1 - 0.65) + 3 * (2.9 / 3 - 2 / 3)) / 4
    assert evaluation.calibration_error(probabilities, labels) == pytest.approx(error)


# --- intervals and paired tests ----------------------------------------------------------------


def random_hits(seed: int, n_albums: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Hits that albums share, and the albums, of 1 to 9 songs."""
    rng = np.random.default_rng(seed)
    albums = np.repeat(np.arange(n_albums), rng.integers(1, 10, n_albums))
    return rng.random(len(albums)) < rng.beta(1, 1, n_albums)[albums], albums


def test_hits_are_what_accuracy_counts():
    scores, labels = random_scores(seed=0)
    for k in (1, 3):
        hits = evaluation.hits(scores, labels, k)
        assert hits.dtype == bool
        assert hits.mean() == evaluation.top_k_accuracy(scores, labels, k)
        assert hits.tolist() == [
            label in best for label, best in zip(labels, evaluation.top_k(scores, k), strict=True)
        ]


def test_the_interval_over_songs_agrees_with_scipy():
    values = random_hits(seed=1)[0]
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    one_song = 1 / len(values)  # means go in steps of it, and the ends lie where chance has it
    assert evaluation.bootstrap_interval(values) == pytest.approx(expected, abs=1.1 * one_song)


def test_the_interval_over_albums_agrees_with_drawing_albums_one_by_one():
    hits, albums = random_hits(seed=2)
    sizes, right = np.bincount(albums), np.bincount(albums, hits)
    drawn = np.random.default_rng(5).integers(len(sizes), size=(5000, len(sizes)))
    means = right[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    found = evaluation.bootstrap_interval(hits, albums)
    assert found == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.015)
    # Albums that are right or wrong as a whole are fewer songs than they seem.
    over_songs = evaluation.bootstrap_interval(hits)
    assert found[1] - found[0] > 1.3 * (over_songs[1] - over_songs[0])
    assert found[0] < hits.mean() < found[1]


def test_intervals_by_hand(monkeypatch):
    # Of two albums, in a half of all cases both are drawn, in a quarter one of them twice.
    hits, albums = np.array([True, True, True, False]), np.array(["a", "a", "b", "b"])
    assert evaluation.bootstrap_interval(hits, albums) == (0.5, 1.0)
    # The mean is over songs, not over albums.
    of_other_sizes = np.array(["a", "a", "a", "b"])
    assert evaluation.bootstrap_interval(hits, of_other_sizes) == (0, 1)
    assert evaluation.bootstrap_interval(np.ones(5, bool)) == (1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "CONFIDENCE", 0.4)
        assert evaluation.bootstrap_interval(hits, albums) == (0.75, 0.75)
        assert evaluation.bootstrap_interval(hits, of_other_sizes) == (0.75, 0.75)
    # The same seed, the same interval; albums' names and the songs' order do not matter.
    hits, albums = random_hits(seed=3)
    monkeypatch.setattr(evaluation, "SEED", 4)
    interval = evaluation.bootstrap_interval(hits, albums)
    assert interval == evaluation.bootstrap_interval(hits, albums)
    order = np.random.default_rng(0).permutation(len(hits))
    names = np.array([f"album {album:02}" for album in albums])
    assert interval == evaluation.bootstrap_interval(hits[order], names[order])
    monkeypatch.setattr(evaluation, "SEED", 5)
    assert interval != evaluation.bootstrap_interval(hits, albums)
    monkeypatch.setattr(evaluation, "N_RESAMPLES", 1)
    low, high = evaluation.bootstrap_interval(hits, albums)
    assert low == high


def test_the_interval_of_numbers_that_all_differ_agrees_with_scipy(monkeypatch):
    values = np.random.default_rng(0).gamma(2, size=50)
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=0
    ).confidence_interval
    found = evaluation.bootstrap_interval(values)
    assert found == pytest.approx(tuple(expected), abs=0.03)
    assert found[1] - found[0] > 0.5
    assert found == evaluation.bootstrap_interval(values)
    monkeypatch.setattr(evaluation, "SEED", 1)
    assert found != evaluation.bootstrap_interval(values)


def pair_of(both: int, only_first: int, only_second: int, neither: int) -> list[np.ndarray]:
    """Two models' hits with these counts."""
    counts = (both, only_first, only_second, neither)
    return [np.repeat(np.array(right), counts) for right in ([1, 1, 0, 0], [1, 0, 1, 0])]


def test_mcnemar_by_hand():
    def p(*counts):
        first, second = (hits.astype(bool) for hits in pair_of(*counts))
        assert evaluation.mcnemar(first, second) == evaluation.mcnemar(second, first)
        return evaluation.mcnemar(first, second)

    assert p(30, 1, 5, 7) == pytest.approx(2 * (1 + 6) / 2**6)
    assert p(0, 0, 10, 0) == pytest.approx(2 / 2**10)
    assert p(3, 4, 4, 0) == 1
    assert p(5, 0, 0, 5) == 1
    # What both have right, or neither, tells nothing of their difference.
    assert p(0, 3, 9, 0) == p(500, 3, 9, 20)
    # McNemar's own, for many songs, with the correction for continuity.
    chi2 = scipy.stats.chi2.sf((abs(120 - 80) - 1) ** 2 / 200, 1)
    assert p(0, 120, 80, 0) == pytest.approx(chi2, rel=0.05)


def test_holm_by_hand():
    # Smallest times 4, the next times 3, ...; none below a smaller one's; at most 1.
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert evaluation.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert evaluation.holm(np.array([0.6, 0.9, 0.2])) == pytest.approx([1, 1, 0.6])
    assert evaluation.holm(np.array([0.3])) == pytest.approx([0.3])
    assert evaluation.holm(np.array([])).shape == (0,)


def test_two_models_compared_by_hand():
    first, second = np.array([[1, 1, 0, 0], [0, 0, 1, 0]], dtype=bool)
    # The first is better by 2 of 2 songs of one album, worse by 1 of 2 of the other.
    albums = np.array(["a", "a", "b", "b"])
    expected = Paired(difference=0.25, interval=(-0.5, 1), only_first=2, only_second=1, p=1)
    assert evaluation.compare(first, second, albums) == expected
    other_way = Paired(difference=-0.25, interval=(-1, 0.5), only_first=1, only_second=2, p=1)
    assert evaluation.compare(second, first, albums) == other_way
    first, second = (hits.astype(bool) for hits in pair_of(10, 12, 2, 6))
    p = evaluation.compare(first, second, np.arange(30)).p
    assert p == pytest.approx(2 * (1 + 14 + 91) / 2**14)


OF_FOUR = np.repeat(np.arange(12), 4)  # albums


def test_a_single_run_has_the_interval_of_the_plain_comparison():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 48)) < [[0.7], [0.5]]
    found = evaluation.compare_runs(first[None], second[None], OF_FOUR)
    plain = evaluation.compare(first, second, OF_FOUR)
    assert found.difference == pytest.approx(plain.difference)
    np.testing.assert_allclose(found.interval, plain.interval, atol=0.025)
    assert (found.only_first, found.only_second) == (plain.only_first, plain.only_second)


def test_p_is_mcnemars_with_runs_in_place_of_one():
    rng = np.random.default_rng(2)
    for share in (0.55, 0.7, 0.8):
        first, second = rng.random((2, 48)) < [[share], [0.5]]
        found = evaluation.compare_runs(np.stack([first] * 3), second[None], OF_FOUR)
        assert found.p == pytest.approx(evaluation.mcnemar(first, second), abs=0.02)
    half = np.zeros((2, 48), dtype=bool)
    half[0, :4] = True  # four songs that one of two runs has right: 16 signs, of which 2 are as far
    found = evaluation.compare_runs(half, np.zeros((1, 48), dtype=bool), OF_FOUR)
    assert found.p == pytest.approx(2 / 16, abs=0.02)


def test_runs_that_are_alike_do_not_differ():
    better = np.zeros((3, 48), dtype=bool)
    better[:, ::4] = True
    same = evaluation.compare_runs(better, better[:1], OF_FOUR)
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)


def test_runs_that_disagree_widen_the_interval():
    rng = np.random.default_rng(1)
    steady = np.repeat(rng.random((1, 48)) < 0.5, 2, axis=0)
    swinging = np.stack([steady[0], np.ones(48, dtype=bool)])
    swinging[0, ::2] = False
    reference = np.zeros((1, 48), dtype=bool)
    widths = []
    for model in (steady, swinging):
        low, high = evaluation.compare_runs(model, reference, OF_FOUR).interval
        widths.append(high - low)
    assert widths[1] > 1.5 * widths[0]


def test_every_two_models_are_compared():
    right = {"a": np.ones(6, bool), "b": np.zeros(6, bool), "c": np.zeros(6, bool)}
    p = 2 / 2**6  # one of two is right on six songs, the other on none
    (pair,) = evaluation.compare_all({name: right[name] for name in "ba"}, np.arange(6))
    assert (pair.first, pair.second, pair.difference) == ("b", "a", -1)
    assert (pair.p, pair.p_holm, pair.verdict) == (p, p, "worse")
    # Two of three such pairs are no longer significant.
    pairs = evaluation.compare_all(right, np.arange(6))
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.p for pair in pairs] == [p, p, 1]
    assert [pair.p_holm for pair in pairs] == [3 * p, 3 * p, 1]
    assert {pair.verdict for pair in pairs} == {"no significant difference"}
    assert evaluation.compare_all({"a": right["a"]}, np.arange(6)) == []


@pytest.mark.parametrize(
    ("p", "interval", "expected"),
    [
        (0.0499, (0.02, 0.3), "better"),
        (0.0499, (-0.3, -0.02), "worse"),
        (0.05, (0.02, 0.3), "no significant difference"),
        (0.01, (-0.01, 0.3), "no significant difference"),
        (0.01, (0.0, 0.3), "no significant difference"),
        (0.01, (-0.3, 0.0), "no significant difference"),
        (1.0, (0.0, 0.0), "no significant difference"),
    ],
)
def test_verdict(p, interval, expected):
    assert evaluation.verdict(p, interval) == expected


# --- the course --------------------------------------------------------------------------------


def test_grade_counts_against_the_number_of_answers():
    answers = ["queen", "u2", "abba", "prince", "queen"]
    predictions = {
        "001": ["queen", "u2", "prince"],  # first
        "003": ["prince", "queen", "abba"],  # third
        "004": ["u2", "queen", "madonna", "prince"],  # fourth: too late
        "005": ["queen", "u2", "abba"],  # first
        # 002 is missing, and wrong
    }
    assert evaluation.grade(predictions, answers) == (2 / 5, 3 / 5)
    assert evaluation.grade({}, answers) == (0, 0)


def test_course_score():
    assert evaluation.course_score(0.7273, 0.8918) == pytest.approx(1.1732)


# --- who is taken for whom ---------------------------------------------------------------------


def test_the_classes_of_the_largest_confusions_are_chosen():
    assert evaluation.most_confused(np.eye(5, dtype=int), 3).tolist() == [0, 1, 2]
    matrix = np.diag([9] * 6)
    matrix[5, 1], matrix[2, 4], matrix[0, 1] = 7, 5, 1
    assert evaluation.most_confused(matrix, 4).tolist() == [1, 2, 4, 5]
    assert evaluation.most_confused(matrix, 5).tolist() == [0, 1, 2, 4, 5]
    assert evaluation.most_confused(matrix, 6).tolist() == list(range(6))
