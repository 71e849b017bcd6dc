"""Windows -> song scores -> top-k accuracy, calibration, intervals, paired tests.

Pure NumPy and SciPy. Throughout, ``scores``, ``probabilities`` and ``logits`` are (n_songs,
n_classes), ``labels`` (n_songs,) indices of the true classes, ``albums`` (n_songs,) their names,
and what a model has right is (n_songs,) bool, its :func:`hits`.
"""

from collections.abc import Callable
from itertools import combinations

import msgspec
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax

from artist20 import results
from artist20.results import Interval

# scipy.stats takes a second to import, and no training needs it: it is imported where used.

N_BINS = 10  # of equal width, by the probability of the best guess
N_RESAMPLES = 10_000  # of a bootstrap: its ends vary by half a point between seeds, of 76 songs
SEED = 0  # of a bootstrap, and of a test by signs
SIGNIFICANCE = 0.05
CONFIDENCE = 0.95  # of intervals
# What a network makes of songs: (n_songs, n_classes) probabilities, its answer under "", what parts
# of it answer alone under the ending of their names.
Scores = dict[str, np.ndarray]


def window_starts(length: int, window: int, most: int | None = None) -> np.ndarray:
    """Place windows over a whole song, evenly spaced, overlapping no more than they must.

    Returns the first position of each, ``most`` at most, in the unit of ``length`` and ``window``
    (samples or frames); one window at 0 if the song is no longer than it.
    """
    if length <= window:
        return np.array([0])
    last = length - window
    n_windows = min(-(-length // window), most or length)
    if n_windows == 1:
        return np.array([last // 2])
    return np.linspace(0, last, n_windows).round().astype(int)


def mean_per_song(window_scores: np.ndarray, song_index: np.ndarray, n_songs: int) -> np.ndarray:
    """Average the scores of each song's windows: (n_songs, n_classes).

    ``window_scores`` are (n_windows, n_classes), ``song_index`` (n_windows,) says which song a
    window is of; each must have one.
    """
    n_windows = np.bincount(song_index, minlength=n_songs)
    if n_windows.min() == 0:
        raise ValueError(f"song {n_windows.argmin()} has no window")
    total = np.zeros((n_songs, window_scores.shape[1]))
    np.add.at(total, song_index, window_scores)
    return total / n_windows[:, None]


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the ``k`` best classes per song, best first: (n_songs, k) indices.

    Among equal scores the class that comes first in the alphabet wins.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def hits(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Return whether each song's artist is among the ``k`` best: (n_songs,) bool."""
    return (top_k(scores, k) == labels[:, None]).any(axis=1)


def top_k_accuracy(scores: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of :func:`hits`."""
    return float(hits(scores, labels, k).mean())


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-probability of the true class, in nats."""
    true = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true, 1e-12)).mean())


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature that makes a softmax's probabilities likeliest (Guo et al. 2017).

    The order of classes stays as it is, unlike with one sigmoid per class. ``logits`` are of songs
    that the model was not fitted on. The result is between exp(-7) and exp(7).
    """
    found = minimize_scalar(
        lambda log_t: log_loss(softmax(logits / np.exp(log_t), axis=1), labels),
        bounds=(-7, 7),
        method="bounded",
    )
    return float(np.exp(found.x))


def calibrated(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Turn logits into probabilities: (n_songs, n_classes)."""
    return softmax(logits / temperature, axis=1)


def reliability(
    probabilities: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compare how sure the best guess is with how often it is right, in :data:`N_BINS` bins.

    Returns of each the mean probability and the share of right guesses, both NaN in a bin without
    songs, and how many songs it has.
    """
    guess = probabilities.argmax(axis=1)
    sure = probabilities[np.arange(len(labels)), guess]
    bins = np.minimum((sure * N_BINS).astype(int), N_BINS - 1)
    n_songs = np.bincount(bins, minlength=N_BINS)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(bins, sure, N_BINS) / n_songs
        accuracy = np.bincount(bins, guess == labels, N_BINS) / n_songs
    return confidence, accuracy, n_songs


def calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the expected calibration error: the bins' mean gap, weighted by their songs."""
    confidence, accuracy, n_songs = reliability(probabilities, labels)
    gap = np.abs(confidence - accuracy)[n_songs > 0]
    return float((gap * n_songs[n_songs > 0]).sum() / n_songs.sum())


def bootstrap_interval(values: np.ndarray, groups: np.ndarray | None = None) -> Interval:
    """Compute the interval of a mean by the bootstrap (Efron 1979), from its percentiles.

    ``values`` are (n_songs,) numbers: hits, or the difference of two models' hits. By default every
    song is drawn by itself. But songs of an album share its sound, so that a model often has all of
    them right or all wrong: they are fewer than they seem. With ``groups``, (n_songs,) names of
    albums, whole groups are drawn, with replacement, as many as there are (Davison and Hinkley
    1997, section 3.8), and the mean is over the songs of those drawn.

    Both ends are the mean itself where all values, or all groups, are alike: the bootstrap knows
    nothing of what it has not seen.
    """
    if groups is None:
        groups = np.arange(len(values))
    index = np.unique(groups, return_inverse=True)[1]
    sizes, sums = np.bincount(index), np.bincount(index, values)
    # Groups of the same size and sum are alike, and there are few kinds of them: drawing how many
    # of each kind is the same, and as fast and small with all songs as with a few albums.
    kinds, counts = np.unique(np.stack([sizes, sums], axis=1), axis=0, return_counts=True)
    rng = np.random.default_rng(SEED)
    times = rng.multinomial(len(sizes), counts / len(sizes), N_RESAMPLES)
    n_songs, total = kinds.T
    return _percentiles((times @ total) / (times @ n_songs))


def _percentiles(resampled: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Test whether two models are equally often right on the same songs (McNemar 1947).

    Exact and two-sided. Null hypothesis: of the songs that one model alone has right, each is
    either's with equal probability; p is 1 where there are none. The test takes songs as
    independent.
    """
    from scipy.stats import binomtest

    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct (n_tests,) p values (Holm 1979).

    With the i-th smallest of m, counted from 0, multiplied by m - i, the chance that any true
    hypothesis falls below a threshold is that threshold at most, however the tests depend on each
    other. Each is at most 1, and none smaller than a smaller one's.
    """
    order = np.argsort(p_values, kind="stable")
    factors = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(factors * np.asarray(p_values)[order])
    return np.minimum(corrected, 1)


def compare(first: np.ndarray, second: np.ndarray, albums: np.ndarray) -> results.Paired:
    """Compare what two models have right of the same songs."""
    difference = first.astype(float) - second
    return results.Paired(
        difference=float(difference.mean()),
        interval=bootstrap_interval(difference, albums),
        only_first=int((first & ~second).sum()),
        only_second=int((second & ~first).sum()),
        p=mcnemar(first, second),
    )


def compare_runs(first: np.ndarray, second: np.ndarray, albums: np.ndarray) -> results.Paired:
    """Compare two models of one run or several each, on the same songs.

    The bootstrap draws albums and, of either model, its runs: both are a sample (Owen and Eckles
    2012). The test, for these runs, flips the signs of the songs' differences, which are as likely
    either way if the models are equally good (Fisher 1935): of one run each, that is
    :func:`mcnemar`. ``first`` and ``second`` are (n_runs, n_songs) hits, and ``only_first`` counts
    the songs that the first one has right more often.
    """
    names, index = np.unique(albums, return_inverse=True)
    per_album = np.eye(len(names))[index]  # (n_songs, n_albums)
    rng = np.random.default_rng(SEED)
    times = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), N_RESAMPLES)
    n_songs = times @ per_album.sum(axis=0)
    means = []
    for hits in (first, second):
        runs = rng.multinomial(len(hits), np.full(len(hits), 1 / len(hits)), N_RESAMPLES)
        n_right = times @ (hits @ per_album).T  # (n_resamples, n_runs)
        means.append((runs * n_right).sum(axis=1) / (len(hits) * n_songs))
    difference = first.mean(axis=0) - second.mean(axis=0)
    flips = rng.choice([-1.0, 1.0], (N_RESAMPLES, len(difference)))
    as_far = abs(flips @ difference) >= abs(difference.sum()) - 1e-9
    return results.Paired(
        difference=float(difference.mean()),
        interval=_percentiles(means[0] - means[1]),
        only_first=int((difference > 0).sum()),
        only_second=int((difference < 0).sum()),
        p=float((1 + as_far.sum()) / (1 + N_RESAMPLES)),
    )


def verdict(p: float, interval: Interval) -> results.Verdict:
    """Decide whether the first model is better or worse, or there is no significant difference.

    Both p below :data:`SIGNIFICANCE` and an interval without 0 are required: the test treats songs
    as independent, the interval only albums.
    """
    low, high = interval
    if p >= SIGNIFICANCE or low <= 0 <= high:
        return "no significant difference"
    return "better" if low > 0 else "worse"


def compare_all(
    hits: dict[str, np.ndarray],
    albums: np.ndarray,
    test: Callable[[np.ndarray, np.ndarray, np.ndarray], results.Paired] = compare,
) -> list[results.Pair]:
    """Compare every two models by ``test``, in their order; ``hits``, by model, are what it takes.

    p values are corrected over all pairs.
    """
    names = list(combinations(hits, 2))
    pairs = [test(hits[first], hits[second], albums) for first, second in names]
    corrected = holm(np.array([pair.p for pair in pairs]))
    return [
        results.Pair(
            **msgspec.structs.asdict(pair),
            first=first,
            second=second,
            p_holm=float(p),
            verdict=verdict(p, pair.interval),
        )
        for (first, second), pair, p in zip(names, pairs, corrected, strict=True)
    ]


def confusion_matrix(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Count songs by true artist (rows) and best guess (columns): (n_classes, n_classes)."""
    n_classes = scores.shape[1]
    matrix = np.zeros((n_classes, n_classes), dtype=int)
    np.add.at(matrix, (labels, scores.argmax(axis=1)), 1)
    return matrix


def f1_scores(matrix: np.ndarray) -> np.ndarray:
    """Return each artist's F1 by the :func:`confusion_matrix`: (n_classes,).

    That is the harmonic mean of precision and recall; 0 where no song is right, NaN for an artist
    without songs.
    """
    songs, guessed = matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return np.where(songs > 0, 2 * matrix.diagonal() / (songs + guessed), np.nan)


def confusions(matrix: np.ndarray) -> list[tuple[int, int, int]]:
    """List who is taken for whom, the most frequent first: true class, guessed class, songs."""
    wrong = matrix - np.diag(matrix.diagonal())
    true, guessed = np.nonzero(wrong)
    order = np.argsort(-wrong[true, guessed], kind="stable")
    pairs = zip(true[order], guessed[order], strict=True)
    return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs]


def most_confused(matrix: np.ndarray, most: int) -> np.ndarray:
    """Choose the classes of the largest :func:`confusions`: (most,) indices, ascending.

    Where fewer are confused, the first of the others are taken too.
    """
    pairs = confusions(matrix)
    ranked = dict.fromkeys(i for true, guessed, _ in pairs for i in (true, guessed))
    ranked |= dict.fromkeys(range(len(matrix)))
    return np.sort(np.array(list(ranked)[:most]))


def figures(scores: np.ndarray, labels: np.ndarray, albums: np.ndarray) -> results.Figures:
    """Compute what a table says of a model."""
    right = {f"top{k}": hits(scores, labels, k) for k in (1, 3)}
    top1, top3 = (float(of_songs.mean()) for of_songs in right.values())
    over_albums, over_songs = (
        results.Intervals(**{name: bootstrap_interval(of, groups) for name, of in right.items()})
        for groups in (albums, None)
    )
    return results.Figures(
        top1=top1,
        top3=top3,
        over_albums=over_albums,
        over_songs=over_songs,
        macro_f1=float(np.nanmean(f1_scores(confusion_matrix(scores, labels)))),
        course_score=course_score(top1, top3),
    )


def accuracy(scores: np.ndarray, labels: np.ndarray) -> results.Accuracy:
    """Compute top-1 and top-3 of scores."""
    top1, top3 = (top_k_accuracy(scores, labels, k) for k in (1, 3))
    return results.Accuracy(top1=top1, top3=top3)


def quality(scores: np.ndarray, labels: np.ndarray) -> results.Quality:
    """Compute top-1, top-3 and log loss of probabilities."""
    of = accuracy(scores, labels)
    return results.Quality(top1=of.top1, top3=of.top3, log_loss=log_loss(scores, labels))


def learning(
    train_loss: float, scores: np.ndarray, labels: np.ndarray, classes: list[str]
) -> results.Learning:
    """Collect what shows whether a network has learnt anything.

    ``train_loss`` is of the last epoch, in nats: smoothed and mixed targets cost equal
    probabilities as much. Scores and labels are of the validation songs.
    """
    guesses = top_k(scores, 1)[:, 0]
    n_guessed = np.bincount(guesses, minlength=len(classes))
    most = int(n_guessed.argmax())
    return results.Learning(
        train_loss=train_loss,
        chance_loss=float(np.log(len(classes))),
        most_guessed=classes[most],
        guessed=float(n_guessed[most] / len(labels)),
        own=float((labels == most).mean()),
        top1=float((guesses == labels).mean()),
        commonest=float(np.bincount(labels).max() / len(labels)),
    )


def course_score(top1: float, top3: float) -> float:
    """Return the course's score: top-1 + 0.5 x top-3."""
    return top1 + 0.5 * top3


def grade(predictions: dict[str, list[str]], answers: list[str]) -> tuple[float, float]:
    """Score test predictions as the course's grader does: top-1 and top-3.

    Predictions are ``{"001": [best, second, third], ...}``; the artist of song ``key`` is
    ``answers[int(key) - 1]``. Shares are of the number of answers: a song without a prediction
    counts as wrong.
    """
    top1 = sum(answers[int(key) - 1] == guesses[0] for key, guesses in predictions.items())
    top3 = sum(answers[int(key) - 1] in guesses[:3] for key, guesses in predictions.items())
    return top1 / len(answers), top3 / len(answers)
