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
LEAST_VARIANCE = 1e-3  # within classes, of an input's over all songs


def solve(
    solver: Solver, x: np.ndarray, labels: np.ndarray, n_classes: int, **settings: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear classifier to (n_rows, n_inputs), standardised.

    LDA is :class:`ShrinkageLDA`, with its settings. The nearest centroid is that by cosine, and
    takes vectors of length 1. Labels are class indices; classes without songs are never the answer.
    Returns weights, (n_classes, n_inputs), and biases: logits are ``x @ weight.T + bias``.
    """
    present = np.unique(labels)
    if solver == "nearest centroid":
        centroids = np.stack([x[labels == label].mean(axis=0) for label in present])
        coef, intercept = normalize(centroids), np.zeros(len(present))
    elif solver == "shrinkage LDA":
        lda = ShrinkageLDA(**settings).fit(x, labels)
        coef, intercept = lda.coef_, lda.intercept_
    else:
        model = LogisticRegression(max_iter=10_000).fit(x, labels)
        coef, intercept = model.coef_, model.intercept_
        if len(present) == 2:  # scikit-learn then has the second class's logit less the first's
            coef, intercept = np.stack([0 * coef[0], coef[0]]), np.array([0, intercept[0]])
    weight = np.zeros((n_classes, x.shape[1]), np.float32)
    bias = np.full(n_classes, NEVER, np.float32)
    weight[present], bias[present] = coef, intercept
    return weight, bias


class ShrinkageLDA(ClassifierMixin, BaseEstimator):
    """Linear discriminant analysis that distrusts what few songs say.

    The covariance within classes is shrunk, as scikit-learn's LDA does it with solver ``lsqr``. So
    are the classes' means (James and Stein 1961): to every class's songs are added
    :data:`PRIOR_SONGS` at the mean of all.

    Parameters
    ----------
    shrinkage : float or "auto"
        Of the covariance, 0 to 1; ``"auto"``: of each class as Ledoit and Wolf (2004) estimate.
    rows_per_song : float
        Mean number of rows of a song: so many count as one song.
    """

    def __init__(
        self, shrinkage: float | Literal["auto"] = "auto", rows_per_song: float = 1.0
    ) -> None:
        self.shrinkage = shrinkage
        self.rows_per_song = rows_per_song

    def fit(self, X: np.ndarray, y: np.ndarray) -> "ShrinkageLDA":
        """Fit to (n_rows, n_inputs) numbers and (n_rows,) class names."""
        self.classes_, labels, n_rows = np.unique(y, return_inverse=True, return_counts=True)
        (n, n_inputs), priors = X.shape, n_rows / len(X)
        many = n > n_inputs  # then their products are kept, and otherwise they themselves
        diagonal, products = np.zeros(n_inputs), np.zeros((n_inputs, n_inputs) if many else 0)
        few_rows, means, within = [], [], np.zeros(n_inputs)
        for label, prior in enumerate(priors):
            of_class = X[labels == label].astype(float)
            mean = of_class.mean(axis=0)
            scaled, scale, shrinkage = of_class - mean, np.ones(n_inputs), self.shrinkage
            if shrinkage == "auto":
                std = of_class.std(axis=0)
                scale = np.where(std > 0, std, 1)
                scaled /= scale
                shrinkage = ledoit_wolf_shrinkage(scaled) if len(of_class) > 1 else 1.0
            diagonal += prior * shrinkage * np.square(scaled).mean() * scale**2
            rows = np.sqrt(prior * (1 - shrinkage) / len(of_class)) * scaled * scale
            if many:
                products += rows.T @ rows
            else:
                few_rows.append(rows)
            means.append(mean)
            within += prior * of_class.var(axis=0)
        n_songs = n_rows[:, None] / self.rows_per_song
        centre = priors @ np.stack(means)
        away = np.stack(means) - centre
        centres = centre + n_songs / (n_songs + PRIOR_SONGS) * away
        # Classes of one or two songs give no variance; an input that never varies gives none.
        variance = np.where(np.ptp(X, axis=0) > 0, within + priors @ np.square(away), 1)
        diagonal = np.maximum(diagonal, LEAST_VARIANCE * variance)
        # With inputs in units of the diagonal's roots it is the identity.
        unit = np.sqrt(diagonal)
        vectors = (centres / unit).T
        if many:
            covariance = np.eye(n_inputs) + products / unit / unit[:, None]
            solved = scipy.linalg.solve(covariance, vectors, assume_a="pos")
        else:  # solved for the rows (Woodbury): a second where 4,096 inputs take a minute
            in_units = np.concatenate(few_rows) / unit
            inner = np.eye(n) + in_units @ in_units.T
            of_rows = scipy.linalg.solve(inner, in_units @ vectors, assume_a="pos")
            solved = vectors - in_units.T @ of_rows
        self.coef_ = solved.T / unit
        self.intercept_ = np.log(priors) - (self.coef_ * centres).sum(axis=1) / 2
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Score rows: (n_rows, n_classes)."""
        return X @ self.coef_.T + self.intercept_

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Name the rows' likeliest classes: (n_rows,)."""
        return self.classes_[self.decision_function(X).argmax(axis=1)]
