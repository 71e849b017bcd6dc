"""A map of the songs: one vector per song -> a place in the plane, and how well songs cluster.

The picture is for looking at; what is said about it in numbers is computed from the vectors in
their full dimension.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.feature_selection import VarianceThreshold
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_argmin
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from threadpoolctl import threadpool_limits

from artist20 import UserError
from artist20.checkpoints import SongVectors
from artist20.features import FeatureSet
from artist20.results import groups_of

MIN_SONGS = 3  # two songs have nothing to be nearer to
MAX_SONGS = 3000  # t-SNE takes a dozen seconds on that many
N_COMPONENTS = 50
PERPLEXITY = 30.0
MAX_SCALED = 5.0  # interquartile ranges from the median


@dataclass(frozen=True)
class SongMap:
    """Songs in the plane."""

    # (n_drawn, 2); distances mean something between neighbours alone, axes nothing
    xy: np.ndarray
    artists: np.ndarray  # (n_drawn,) names
    unseen: np.ndarray  # (n_drawn,) bool, the validation songs
    same_artist: float  # share of all validation songs whose nearest training song is of theirs
    by_chance: float  # the same share for a training song drawn at random
    # share of the validation songs whose nearest other validation song is of their album, among
    # those whose album has several; None if there are none
    same_album: float | None
    n_dimensions: int  # of the vectors
    n_songs: int  # drawn or not

    @property
    def caption(self) -> str:
        """What is seen, and how well artists and albums cluster."""
        n_drawn = len(self.xy)
        shown = f"{n_drawn} of {self.n_songs} songs" if n_drawn < self.n_songs else "Songs"
        text = (
            f"{shown} in the plane, by PCA and t-SNE of {self.n_dimensions} numbers each: "
            "neighbours are alike, long distances mean nothing. The nearest training song of "
            f"{self.same_artist:.1%} of the validation songs is of the same artist (by chance "
            f"{self.by_chance:.1%})"
        )
        if self.same_album is None:
            return f"{text}."
        nearest = f"the nearest other validation song of {self.same_album:.1%}"
        return f"{text}, {nearest} is of the same album."


def scaled_features(train: FeatureSet, val: FeatureSet) -> SongVectors:
    """Scale Task 1's features as its models do, by the training songs' medians and quartiles.

    What lies beyond :data:`MAX_SCALED` is cut off there: a minimum of some power is a thousand
    interquartile ranges away in a few songs, and would decide all distances by itself.
    """
    scaler = make_pipeline(VarianceThreshold(), RobustScaler()).fit(train.X)
    x_train, x_val = (scaler.transform(x).clip(-MAX_SCALED, MAX_SCALED) for x in (train.X, val.X))
    return SongVectors(x_train, x_val, train.songs, val.songs)


def make_map(vectors: SongVectors) -> SongMap:
    """Lay songs out by PCA and t-SNE, and measure how well artists and albums cluster.

    Of more than :data:`MAX_SONGS` songs that many are drawn at random, always the same; the numbers
    are of all. Fewer than :data:`MIN_SONGS` songs, or vectors that are all equal, are a UserError.
    """
    songs = [*vectors.train_songs, *vectors.val_songs]
    artists, albums = np.array([song.artist for song in songs]), groups_of(songs)
    n_train = len(vectors.train)
    x = np.concatenate([vectors.train, vectors.val])
    drawn = np.arange(len(songs))
    if len(drawn) > MAX_SONGS:
        drawn = np.sort(np.random.default_rng(0).choice(len(songs), MAX_SONGS, replace=False))
    nearest = pairwise_distances_argmin(vectors.val, vectors.train)
    of_artist = Counter(song.artist for song in vectors.train_songs)
    return SongMap(
        lay_out(x[drawn]),
        artists[drawn],
        drawn >= n_train,
        same_artist=float((artists[nearest] == artists[n_train:]).mean()),
        by_chance=float(np.mean([of_artist[song.artist] / n_train for song in vectors.val_songs])),
        same_album=_same_album(vectors.val, albums[n_train:]),
        n_dimensions=x.shape[1],
        n_songs=len(songs),
    )


def lay_out(x: np.ndarray) -> np.ndarray:
    """Reduce (n_songs, d) to (n_songs, 2): PCA, then t-SNE (van der Maaten and Hinton 2008).

    t-SNE begins where PCA has the songs, without anything random (Kobak and Berens 2019), and on
    one thread: what several add up depends on their order. The perplexity is at most a third of the
    other songs.
    """
    if len(x) < MIN_SONGS:
        raise UserError(f"a map takes {MIN_SONGS} songs at least, and there are {len(x)}")
    if not np.ptp(x, axis=0).any():
        raise UserError(f"the vectors of all {len(x)} songs are equal: there is nothing to map")
    perplexity = min(PERPLEXITY, (len(x) - 1) / 3)
    with threadpool_limits(1):
        pca = PCA(min(N_COMPONENTS, *x.shape), svd_solver="full")
        reduced = pca.fit_transform(x.astype(np.float64))
        xy = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(reduced)
    return np.asarray(xy)


def _same_album(x: np.ndarray, albums: np.ndarray) -> float | None:
    """Return the share of songs whose nearest other one is of their album, if that has another."""
    _, index, counts = np.unique(albums, return_inverse=True, return_counts=True)
    has_others = counts[index] > 1
    if not has_others.any():
        return None
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(x).kneighbors()[1][:, 0]
    return float((albums[nearest] == albums)[has_others].mean())
