"""Maps of songs: where songs lie, how well they cluster, how they are drawn."""

from itertools import combinations

import numpy as np
import pytest
from conftest import make_songs
from matplotlib.colors import to_hex

from artist20 import UserError
from artist20.checkpoints import SongVectors
from artist20.features import FeatureSet
from artist20.report import maps, plots, style
from artist20.results import SongRecord


def records(names):
    """Make songs of ``"artist/album"``."""
    pairs = [name.split("/") for name in names]
    return [SongRecord(path=f"{i}.mp3", artist=a, album=b) for i, (a, b) in enumerate(pairs)]


def make_vectors(n_artists=3, n_songs=5, d=8):
    """Artists far apart, albums near each other; the second album of each is val's."""
    rng = np.random.default_rng(0)
    names = [f"artist_{i}/album" for i in range(n_artists) for _ in range(n_songs)]
    centres = np.zeros((len(names), d))
    artist = np.repeat(np.arange(n_artists), n_songs)
    centres[np.arange(len(names)), artist % d] = 20 + artist
    train, val = (centres + rng.normal(size=centres.shape) for _ in range(2))
    of_val = [f"{name} 2" for name in names]
    return SongVectors(train.astype("f4"), val.astype("f4"), records(names), records(of_val))


# --- laying out --------------------------------------------------------------------------------


def test_the_same_songs_lie_in_the_same_places_and_artists_together():
    vectors = make_vectors()
    first, second = maps.make_map(vectors), maps.make_map(vectors)
    assert first.xy.shape == (30, 2)
    assert np.array_equal(first.xy, second.xy)
    assert first.unseen.tolist() == [False] * 15 + [True] * 15
    assert (first.n_dimensions, first.n_songs) == (8, 30)
    distances = np.linalg.norm(first.xy[:, None] - first.xy[None], axis=2)
    same = first.artists[:, None] == first.artists[None]
    np.fill_diagonal(distances, np.inf)
    assert same[np.arange(30), distances.argmin(axis=1)].all()


@pytest.mark.parametrize("n_songs", [3, 4, 9])
def test_a_few_songs_are_mapped(n_songs):
    whole = make_vectors()
    few = n_songs - 1
    song_map = maps.make_map(
        SongVectors(whole.train[:few], whole.val[:1], whole.train_songs[:few], whole.val_songs[:1])
    )
    assert song_map.xy.shape == (n_songs, 2)
    assert np.isfinite(song_map.xy).all()
    assert song_map.same_album is None  # a validation song alone
    assert "of the same album" not in song_map.caption


@pytest.mark.parametrize(
    ("x", "message"),
    [(np.eye(2), "3 songs at least, and there are 2"), (np.ones((5, 4)), "all 5 songs are equal")],
)
def test_two_songs_and_equal_songs_are_refused(x, message):
    with pytest.raises(UserError, match=message):
        maps.lay_out(x)


def test_many_songs_are_drawn_in_part_and_measured_whole(monkeypatch):
    whole = maps.make_map(make_vectors())
    monkeypatch.setattr(maps, "MAX_SONGS", 12)
    part, again = maps.make_map(make_vectors()), maps.make_map(make_vectors())
    assert len(part.xy) == len(part.artists) == len(part.unseen) == 12
    assert part.n_songs == 30
    assert part.same_artist == whole.same_artist
    assert np.array_equal(part.xy, again.xy)
    assert part.caption.startswith("12 of 30 songs in the plane")
    assert whole.caption.startswith("Songs in the plane")


# --- numbers -----------------------------------------------------------------------------------


@pytest.fixture
def plain(monkeypatch):
    """Lay songs out by their first two numbers: quick, where only the rest matters."""
    monkeypatch.setattr(maps, "lay_out", lambda x: x[:, :2] + np.arange(len(x))[:, None])


def test_numbers_are_counted_by_hand(plain):
    """On a line, training songs at 0, 10, 20; four validation songs, one of them misplaced."""
    train, val = np.array([[0.0], [10.0], [20.0]]), np.array([[1.0], [2.0], [11.0], [9.5]])
    songs = records(["a/1", "b/1", "b/2"]), records(["a/3", "a/3", "b/3", "a/4"])
    found = maps.make_map(SongVectors(train, val, *songs))
    assert found.same_artist == 3 / 4
    assert found.by_chance == pytest.approx((3 * 1 / 3 + 2 / 3) / 4)
    assert found.same_album == 1  # of the two on a/3; the other albums have one song each
    assert found.caption.endswith(
        "The nearest training song of 75.0% of the validation songs is of the same artist (by "
        "chance 41.7%), the nearest other validation song of 100.0% is of the same album."
    )
    moved = maps.make_map(SongVectors(train, np.array([[1.0], [30], [2], [29]]), *songs))
    assert (moved.same_artist, moved.same_album) == (1 / 4, 0)


def test_features_are_scaled_by_the_training_songs_and_cut_off():
    train, val = make_songs(seed=0), make_songs(seed=1)
    train.X[0, 0] = 1e6
    val.X[1, 1] = -1e6
    scaled = maps.scaled_features(train, val)
    assert scaled.train.shape == (48, 149)  # without the constant one
    assert scaled.train[0, 0] == maps.MAX_SCALED
    assert scaled.val[1, 1] == -maps.MAX_SCALED
    low, middle, high = np.quantile(train.X[:, 2], [0.25, 0.5, 0.75])
    expected = (val.X[:, 2] - middle) / (high - low)
    np.testing.assert_allclose(scaled.val[:, 2], np.clip(expected, -5, 5), rtol=1e-4, atol=1e-5)
    assert scaled.val_songs == val.songs
    moved = FeatureSet(val.X + 100, val.y, val.albums, val.songs, val.names)
    assert np.array_equal(maps.scaled_features(train, moved).train, scaled.train)


# --- pictures ----------------------------------------------------------------------------------


def legend_texts(figure):
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


def test_every_song_is_drawn_once_in_its_artists_look_and_artists_are_named(plain):
    song_map = maps.make_map(make_vectors(n_artists=9))
    figure = plots.song_map(song_map, title="t")
    (axes,) = figure.axes
    places = np.concatenate([points.get_offsets() for points in axes.collections])
    assert sorted(map(tuple, places)) == sorted(map(tuple, song_map.xy.astype(float)))
    looks = {
        (to_hex(p.get_facecolor()[0]), len(p.get_paths()[0].vertices)) for p in axes.collections
    }
    assert len(looks) == 9
    assert [p.get_sizes()[0] for p in axes.collections[:2]] == [26, 110]  # of a validation song
    names = {text.get_text(): text for text in axes.texts}
    assert sorted(names) == [f"artist {i}" for i in range(9)]
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in names.values()]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert legend_texts(figure) == ["training song", "validation song"]
    measured = "nearest training song is by the same artist: 100% (by chance 11%)"
    assert axes.get_title(loc="left") == measured


def test_more_artists_than_looks_are_grey_and_counted(plain, monkeypatch):
    monkeypatch.setattr(plots, "MARKERS", style.MARKERS[:1])
    figure = plots.song_map(maps.make_map(make_vectors(n_artists=11)), title="t")
    assert legend_texts(figure)[-1] == "4 other artists"
    assert len(figure.axes[0].texts) == len(style.COLOURS)
