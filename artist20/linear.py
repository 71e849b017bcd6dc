"""LDA, and what else has a closed form or a convex one, as weights of a network's last layer."""

from typing import Literal

import numpy as np
import scipy.linalg
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize

from artist20.results import Solver

NEVER = -1e6  # logit of a class without training songs
PRIOR_SONGS = 5.0  # at the mean of all songs, that every class gets
LEAST_VARIANCE = 1e-3  # within classes, of inputs that have 1 over all songs


def solve(
    solver: Solver, x: np.ndarray, labels: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear classifier.

    Parameters
    ----------
    solver : {"logistic regression", "LDA", "nearest centroid"}
        LDA is :class:`ShrinkageLDA`; the nearest centroid is that by cosine, and takes vectors of
        length 1.
    x : np.ndarray
        (n_songs, n_inputs), standardised.
    labels : np.ndarray
        (n_songs,) class indices.
    n_classes : int
        How many there are, including classes without songs: these are never the answer.

    Returns
    -------
    weight : np.ndarray
        (n_classes, n_inputs) float32.
    bias : np.ndarray
        (n_classes,) float32: logits are ``x @ weight.T + bias``.
    """
    present = np.unique(labels)
    weight = np.zeros((n_classes, x.shape[1]), np.float32)
    bias = np.full(n_classes, NEVER, np.float32)
    if solver == "nearest centroid":
        centroids = np.stack([x[labels == label].mean(axis=0) for label in present])
        weight[present], bias[present] = normalize(centroids), 0
        return weight, bias
    if solver == "LDA":
        lda = ShrinkageLDA().fit(x, labels)
        weight[present], bias[present] = lda.coef_, lda.intercept_
        return weight, bias
    model = LogisticRegression(max_iter=10_000).fit(x, labels)
    coef, intercept = model.coef_, model.intercept_
    if len(present) == 2:  # scikit-learn then has the second class's logit less the first's
        coef, intercept = np.stack([0 * coef[0], coef[0]]), np.array([0, intercept[0]])
    weight[present], bias[present] = coef, intercept
    return weight, bias


class ShrinkageLDA(ClassifierMixin, BaseEstimator):
    """Linear discriminant analysis that distrusts what it estimates from few songs.

    The covariance within classes is shrunk, as scikit-learn's LDA does it with solver ``lsqr``. So
    are the classes' means: every class gets :data:`PRIOR_SONGS` songs at the mean of all, which is
    its mean's posterior if classes differ by a fifth of what songs of one class do (James and Stein
    1961). Where an artist has a dozen songs that is worth more than the covariance's shrinkage
    (benchmarks/RESULTS.md).

    Parameters
    ----------
    shrinkage : float or "auto"
        Of the covariance, 0 to 1; ``"auto"``: of each class as Ledoit and Wolf (2004) estimate.
    rows_per_song : float
        Rows that say the same thing once more do not make a mean better known.
    """

    def __init__(
        self, shrinkage: float | Literal["auto"] = "auto", rows_per_song: float = 1.0
    ) -> None:
        self.shrinkage = shrinkage
        self.rows_per_song = rows_per_song

    def fit(self, X: np.ndarray, y: np.ndarray) -> "ShrinkageLDA":
        """Fit to (n_rows, n_inputs) numbers and (n_rows,) class names."""
        X = X.astype(float)
        self.classes_, labels, n_rows = np.unique(y, return_inverse=True, return_counts=True)
        priors = n_rows / len(X)
        diagonal, rows, means = np.zeros(X.shape[1]), [], []
        for label, prior in enumerate(priors):
            of_class = X[labels == label]
            mean = of_class.mean(axis=0)
            scaled, scale, shrinkage = of_class - mean, np.ones(X.shape[1]), self.shrinkage
            if isinstance(shrinkage, str):
                std = of_class.std(axis=0)
                scale = np.where(std > 0, std, 1)
                scaled /= scale
                shrinkage = ledoit_wolf_shrinkage(scaled) if len(of_class) > 1 else 1.0
            diagonal += prior * shrinkage * np.square(scaled).mean() * scale**2
            rows.append(np.sqrt(prior * (1 - shrinkage) / len(of_class)) * scaled * scale)
            means.append(mean)
        diagonal = np.maximum(diagonal, LEAST_VARIANCE)  # classes of one or two songs give none
        n_songs = n_rows[:, None] / self.rows_per_song
        centre = priors @ np.stack(means)
        centres = centre + n_songs / (n_songs + PRIOR_SONGS) * (np.stack(means) - centre)
        self.coef_ = _solve(diagonal, np.concatenate(rows), centres)
        self.intercept_ = np.log(priors) - (self.coef_ * centres).sum(axis=1) / 2
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Score rows: (n_rows, n_classes)."""
        return X @ self.coef_.T + self.intercept_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Name the rows' likeliest classes: (n_rows,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]


def _solve(diagonal: np.ndarray, rows: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Apply to (n, n_inputs) vectors the inverse of a covariance: a diagonal and some rows.

    Where these are fewer than inputs, solving for them (Woodbury) takes a second where 4,096 inputs
    take a minute.
    """
    if len(rows) > rows.shape[1]:
        covariance = np.diag(diagonal) + rows.T @ rows
        return scipy.linalg.solve(covariance, vectors.T, assume_a="pos").T
    whitened = rows / diagonal
    inner = np.eye(len(rows)) + whitened @ rows.T
    of_rows = scipy.linalg.solve(inner, whitened @ vectors.T, assume_a="pos")
    return vectors / diagonal - of_rows.T @ whitened
