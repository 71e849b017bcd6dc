import numpy as np
import pytest
from conftest import make_songs
from matplotlib.colors import to_hex
from matplotlib.text import Text

from artist20 import UserError, figures_songs, maps
from artist20.results import FeatureSet, SongVectors


def records(artists, albums):
    return [
        {"path": f"{i}.mp3", "artist": artist, "album": album}
        for i, (artist, album) in enumerate(zip(artists, albums, strict=True))
    ]


def make_vectors(n_artists=3, n_albums=2, n_songs=5, d=8, seed=0):
    """Artists far apart, albums near each other; the last album of each is val's."""
    rng = np.random.default_rng(seed)
    parts = {"train": ([], []), "val": ([], [])}
    for artist in range(n_artists):
        for album in range(n_albums):
            x, songs = parts["val" if album == n_albums - 1 else "train"]
            centre = np.zeros(d)
            centre[artist % d] = 20 + artist
            for _ in range(n_songs):
                x.append(centre + rng.normal(size=d))
                songs.append((f"artist_{artist}", f"album {album}"))
    (train, train_songs), (val, val_songs) = (
        (np.array(x, dtype=np.float32), records(*zip(*songs, strict=True)))
        for x, songs in parts.values()
    )
    return SongVectors(train, val, train_songs, val_songs)


def first_songs(vectors, n_train, n_val):
    return SongVectors(
        vectors.train[:n_train],
        vectors.val[:n_val],
        vectors.train_songs[:n_train],
        vectors.val_songs[:n_val],
    )


# --- laying out --------------------------------------------------------------------------------


def test_the_same_songs_lie_in_the_same_places_and_artists_together():
    vectors = make_vectors()
    first, second = maps.make_map(vectors), maps.make_map(vectors)
    assert first.xy.shape == (30, 2)
    assert np.array_equal(first.xy, second.xy)
    assert first.unseen.tolist() == [False] * 15 + [True] * 15
    assert first.albums[0] == "artist_0/album 0"
    assert (first.n_dimensions, first.n_songs) == (8, 30)
    distances = np.linalg.norm(first.xy[:, None] - first.xy[None], axis=2)
    same = first.artists[:, None] == first.artists[None]
    np.fill_diagonal(distances, np.inf)
    assert same[np.arange(30), distances.argmin(axis=1)].all()


@pytest.mark.parametrize("n_songs", [3, 4, 5, 9])
def test_a_few_songs_are_mapped(n_songs):
    song_map = maps.make_map(first_songs(make_vectors(), n_songs - 1, 1))
    assert song_map.xy.shape == (n_songs, 2)
    assert np.isfinite(song_map.xy).all()
    assert song_map.same_album is None  # a validation song alone


def test_two_songs_and_equal_songs_are_told():
    with pytest.raises(UserError, match="3 songs at least, and there are 2"):
        maps.lay_out(np.eye(2))
    with pytest.raises(UserError, match="all 5 songs are equal"):
        maps.lay_out(np.ones((5, 4)))


def test_many_songs_are_drawn_in_part_and_measured_whole(monkeypatch):
    vectors = make_vectors()
    whole = maps.make_map(vectors)
    monkeypatch.setattr(maps, "MAX_SONGS", 12)
    part, again = maps.make_map(vectors), maps.make_map(vectors)
    assert len(part.xy) == len(part.artists) == len(part.albums) == len(part.unseen) == 12
    assert part.n_songs == 30
    assert part.same_artist == whole.same_artist
    assert np.array_equal(part.xy, again.xy)


# --- numbers -----------------------------------------------------------------------------------


def test_numbers_are_counted_by_hand():
    """On a line, training songs at 0, 10, 20; four validation songs, one of them misplaced."""
    train = np.array([[0.0], [10.0], [20.0]])
    val = np.array([[1.0], [2.0], [11.0], [9.5]])
    artists = np.array(["a", "b", "b", "a", "a", "b", "a"])
    albums = np.array(["a/1", "b/1", "b/2", "a/3", "a/3", "b/3", "a/4"])
    unseen = np.arange(7) >= 3
    found = maps.clustering(np.concatenate([train, val]), artists, albums, unseen)
    assert found["same_artist"] == 3 / 4
    assert found["by_chance"] == pytest.approx((3 * 1 / 3 + 2 / 3) / 4)
    assert found["same_album"] == 1  # of the two on a/3; the other albums have one song each
    alike = maps.clustering(np.concatenate([train, val * 0]), artists, albums, unseen)
    assert alike["same_artist"] == 3 / 4


def test_numbers_are_of_the_full_dimension(monkeypatch):
    monkeypatch.setattr(maps, "lay_out", lambda x: np.zeros((len(x), 2)))
    song_map = maps.make_map(make_vectors())
    assert song_map.same_artist == 1
    assert song_map.by_chance == pytest.approx(1 / 3)


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


@pytest.fixture
def plain(monkeypatch):
    """Lay songs out by their first two numbers: quick, where only the picture matters."""
    monkeypatch.setattr(maps, "lay_out", lambda x: x[:, :2] + np.arange(len(x))[:, None])


def draw(song_map, n_maps=2, title="t"):
    return figures_songs.song_maps([("features", song_map)] * n_maps, title=title)


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_song_is_drawn_once_in_its_artists_look(plain):
    song_map = maps.make_map(make_vectors(n_artists=9))
    figure = draw(song_map)
    for axes in figure.axes:
        drawn = [points for points in axes.collections if len(points.get_offsets()) > 1]
        places = np.concatenate([points.get_offsets() for points in drawn])
        assert sorted(map(tuple, places)) == sorted(map(tuple, song_map.xy.astype(float)))
        looks = {(to_hex(p.get_facecolor()[0]), len(p.get_paths()[0].vertices)) for p in drawn}
        assert len(looks) == 9
    assert "artist 8" in legend_texts(figure)


def test_album_lines_lead_to_the_middle(plain):
    song_map = maps.make_map(make_vectors())
    (axes,) = draw(song_map, n_maps=1).axes
    lines = [c for c in axes.collections if hasattr(c, "get_segments")]
    assert len(lines) == len(np.unique(song_map.albums))
    of_album = song_map.xy[song_map.albums == "artist_0/album 0"]
    for segment in lines[0].get_segments():
        np.testing.assert_allclose(segment[1], of_album.mean(axis=0), rtol=1e-5)


def test_more_artists_than_looks_are_grey_and_counted(plain, monkeypatch):
    monkeypatch.setattr(figures_songs, "MAX_ARTISTS", 8)
    vectors = make_vectors(n_artists=11, n_songs=1)
    texts = legend_texts(draw(maps.make_map(vectors)))
    assert "3 other artists" in texts
    assert len([text for text in texts if text.startswith("artist ")]) == figures_songs.MAX_ARTISTS


def timeline(n_windows=9, title="t", **options):
    log_mel = np.random.default_rng(0).normal(-40, 10, (200, 64))
    curves = np.random.default_rng(1).dirichlet(np.ones(4), n_windows)
    labels = ["creedence clearwater revival, the true artist: 12.3%", "b: 1.0%", "c: 2%", "d: 3%"]
    return figures_songs.song_timeline(
        log_mel,
        np.linspace(60, 7900, 64),
        options.get("duration", 30.0),
        np.linspace(1, 29, n_windows),
        curves,
        labels,
        has_true=True,
        title=title,
    ), curves


@pytest.mark.parametrize("n_windows", [1, 9])
def test_curves_are_the_given_ones_in_percent(n_windows):
    figure, curves = timeline(n_windows)
    drawn = np.array([line.get_ydata() for line in figure.axes[1].lines])
    np.testing.assert_allclose(drawn, 100 * curves.T)
    assert len({(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines}) == 4
    assert legend_texts(figure)[0].startswith("creedence clearwater revival, the true artist")


def test_no_text_is_cut_off(plain):
    long_title = "310 training songs of demo (synthesised songs), " * 5 + "W" * 60
    vectors = make_vectors(n_artists=20, n_songs=1)
    for songs in (vectors.train_songs, vectors.val_songs):
        for song in songs:
            song["artist"] = "creedence_clearwater_revival_" + song["artist"]
    song_map = maps.make_map(vectors)
    pictures = [draw(song_map, n, long_title) for n in (1, 2)]
    pictures += [timeline(title=long_title, duration=seconds)[0] for seconds in (30, 4000)]
    for figure in pictures:
        figure.draw_without_rendering()
        title = figure._suptitle.get_window_extent().y0
        for text in figure.findobj(Text):
            if text.get_visible() and text.get_text().strip():
                box = text.get_window_extent()
                assert box.x0 >= 0, text
                assert box.x1 <= figure.bbox.x1, text
                assert box.y0 >= 0, text
                assert box.y1 <= (figure.bbox.y1 if text is figure._suptitle else title), text


def test_captions_say_what_is_drawn(plain, monkeypatch):
    from artist20 import map_report

    song_map = maps.make_map(make_vectors())
    caption = map_report._describe([("features", song_map)], ["a.json", "b.npy"], [])
    assert caption.startswith("Songs in the plane")
    assert "nearest training song of 100.0% of the validation songs" in caption
    assert "(by chance 33.3%)" in caption
    assert caption.endswith("Made from a.json, b.npy.")
    monkeypatch.setattr(maps, "MAX_SONGS", 12)
    part = maps.make_map(make_vectors())
    assert map_report._describe([("f", part)], ["a"], []).startswith("12 of 30 songs in the plane")
