"""Pages to listen on, the app that serves them, and both in a browser, where there is one.

The last part takes what requirements-app.txt has, and an installed Chromium or Chrome.
"""

import base64
import importlib.util
import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import (
    ARTISTS,
    SAMPLE_RATE,
    TOY_ARTISTS,
    TOY_SONGS,
    assert_one_line,
    call,
    make_waveform,
    put_network,
    toy_model,
    toy_settings,
    write_song,
)
from PIL import Image

from artist20 import audio, checkpoints, listen, models, results, spectrogram, trained
from artist20.checkpoints import SongVectors
from artist20.report import listening
from artist20.results import Predictions
from artist20.spectrogram import FrontEnd
from artist20.trained import TrainedResNet

HOSTILE = [
    '"><img src=x onerror="document.title=1">',
    "</script><script>alert()</script>",
    "{{ 7 * 7 }} {% raw %}",
    "é'&amp;\u202e\n",
]
SETTINGS = toy_settings("resnet", width=2)


def checkpoint(classes):
    model = models.ArtistResNet(len(classes), SETTINGS.recipe)
    return toy_model(SETTINGS, model.state_dict(), sorted(classes))


def network(classes):
    """Hear the loudness of a window as the first artist, so that curves are known."""

    def predict(x):
        loud = 1 / (1 + np.exp(-x.float().mean(dim=(1, 2)).numpy() / 10 - 6))
        rest = np.repeat((1 - loud)[:, None] / (len(classes) - 1), len(classes) - 1, axis=1)
        return np.column_stack([loud, rest * np.linspace(1.1, 0.9, len(classes) - 1)])

    n_frames = spectrogram.to_frames(150)

    def of_songs(songs):
        return {"": spectrogram.per_song(predict, songs, n_frames)}

    about = (FrontEnd(), torch.device("cpu"))
    return TrainedResNet(sorted(classes), n_frames, *about, predict, of_songs)


def page_of(file, classes, artist=None):
    return listening.song_page(file, [], network(classes), checkpoint(classes), artist)


class Elements(HTMLParser):
    """Collects a page's elements, their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def attribute(self, tag, name):
        return [attrs[name] for found, attrs in self.elements if found == tag and name in attrs]


@pytest.fixture
def song(tmp_path):
    """A song that is loud in its second half alone."""
    waveform = make_waveform(next(iter(ARTISTS)), seed=1, seconds=12)
    waveform[: len(waveform) // 2] *= 0.001
    file = tmp_path / "01-It's_<b>$5.wav"
    soundfile.write(file, waveform, SAMPLE_RATE)
    return file


# --- pages ---------------------------------------------------------------------------------------


def test_a_page_holds_the_song_its_spectrogram_and_the_curves(song):
    classes = ["a", "b", "c", "d", "e"]
    found = Elements(page_of(song, classes, artist="e"))
    heard = network(classes).hear(song)
    assert "01-It's <b>$5, as heard by ResNet" in found.text
    for rank, name in ((1, "a"), (2, "b"), (3, "c"), (5, "e")):
        share = f"{heard.whole[classes.index(name)]:.1%}".replace("%", " %")
        true = " (the true artist)" if name == "e" else ""
        assert re.search(rf"{rank}\. {name}{re.escape(true)}\s+{re.escape(share)}", found.text)
    (sound,) = found.attribute("audio", "src")
    mp3 = io.BytesIO(base64.b64decode(sound.removeprefix("data:audio/mpeg;base64,")))
    waveform, rate = soundfile.read(mp3)
    assert (len(waveform), rate) == (12 * SAMPLE_RATE, SAMPLE_RATE)
    assert np.corrcoef(waveform, audio.open_song(song))[0, 1] > 0.9
    (picture,) = found.attribute("img", "src")
    with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
        levels = np.asarray(image.convert("L"), float)
    assert levels.shape == heard.log_mel.shape[::-1]
    assert levels[:, -100:].mean() > levels[:, :100].mean() + 50
    assert levels[-10:].mean() > levels[:10].mean()  # low notes below
    points = found.attribute("polyline", "points")[-1]  # of the true artist, on top
    x, y = np.array([point.split(",") for point in points.split()], float).T
    np.testing.assert_allclose(x, 1000 * heard.seconds / 12, atol=0.1)
    np.testing.assert_allclose(y, 100 - 100 * heard.curve[:, 4], atol=0.1)
    assert len(set(found.attribute("polyline", "stroke-dasharray"))) == 4
    urls = [
        value
        for _, attrs in found.elements
        for name, value in attrs.items()
        if name in ("src", "href", "srcset", "action", "data")
    ]
    assert all(url.startswith("data:") for url in urls)


@pytest.mark.parametrize("seconds", [0.01, 1.2, 130])
def test_any_length_has_curves_within_the_page(seconds):
    n = 1 if seconds < 1 else 21
    heard = trained.Heard(
        waveform=np.zeros(int(seconds * SAMPLE_RATE), np.float32),
        log_mel=np.full((max(1, int(seconds * 31)), 64), -80, np.float16),
        whole=np.array([0.5, 0.5]),
        seconds=np.linspace(0.4, 0.6, n) * seconds,
        curve=np.full((n, 2), 0.5),
        window_seconds=1.0,
    )
    panel = listening.Panel("x", [], heard, ["a", "b"], None)
    found = Elements(listening.render("t", "about", [("", [panel])]))
    for points in found.attribute("polyline", "points"):
        x, y = np.array([point.split(",") for point in points.split()], float).T
        assert len(x) > 1  # one dot would not be seen
        assert x.min() >= 0 <= y.min()
        assert x.max() <= 1000
    marks = [artist.mark for artist in panel.artists]
    assert n == 1 or len(set(marks)) == 2


def test_hostile_names_are_text(tmp_path):
    file = tmp_path / f"{HOSTILE[0].replace('/', '')}.wav"
    write_song(file, next(iter(ARTISTS)), seed=1, seconds=2)
    plain = tmp_path / "song.wav"
    shutil.copy(file, plain)
    page, usual = page_of(file, HOSTILE, HOSTILE[1]), page_of(plain, list("abcd"), "b")
    found = Elements(page)
    tags = [(tag, set(attrs)) for tag, attrs in found.elements]
    assert tags == [(tag, set(attrs)) for tag, attrs in Elements(usual).elements]
    assert all(name in found.text for name in HOSTILE[:3])
    assert "\u202e" not in page
    assert re.search(r"<script>[^<]*</script>", page)[0] in usual  # the policy names this one alone


def test_the_most_confused_songs_and_what_they_are_like():
    songs = TOY_SONGS["val"][:3]
    scores = np.array([[0.9, 0.1, 0, 0], [0.3, 0.1, 0.6, 0], [0.5, 0, 0.1, 0.4]])
    predictions = Predictions(classes=TOY_ARTISTS, songs=songs, scores={"resnet": scores})
    train = np.zeros((len(TOY_SONGS["train"]), 2))
    rivals = [i for i, of in enumerate(TOY_SONGS["train"]) if of.artist == TOY_ARTISTS[2]]
    train[rivals] = [-1, 1]
    train[rivals[3]] = [30, 10]  # most alike by the angle, not by the distance
    train[0] = [1, 0]  # of another artist
    val = np.array([[0, 1], [1, 0], [1, 1]], float)
    vectors = SongVectors(train, val, TOY_SONGS["train"], songs)
    first, second = listening.most_confused(predictions, "resnet", vectors, 2)
    assert (first.song, first.artist, first.share) == (songs[1], TOY_ARTISTS[2], 0.6)
    assert first.similar == TOY_SONGS["train"][rivals[3]]
    assert first.cosine == pytest.approx(3 / np.sqrt(10))
    assert (second.song, second.artist, second.share) == (songs[2], TOY_ARTISTS[3], 0.4)


# --- the scripts ---------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Go to a folder with what training leaves of a ResNet, and the songs."""
    monkeypatch.chdir(tmp_path)
    folder = Path("results/task2/resnet")
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(len(TOY_SONGS[split]), 3)) for split in ("train", "val")]
    embeddings = checkpoints.write_embeddings(folder, *vectors, TOY_SONGS["train"])
    put_network(Path("results"), "resnet", 1, seed=0, settings=SETTINGS, embeddings=embeddings)
    checkpoints.save_model(folder / "best.pt", checkpoint(TOY_ARTISTS))
    write_song(Path("song.mp3"), next(iter(ARTISTS)), seed=1, seconds=2)
    for each in (*TOY_SONGS["train"], *TOY_SONGS["val"]):
        Path("data", each.path).parent.mkdir(parents=True, exist_ok=True)
        Path("data", each.path).symlink_to(tmp_path / "song.mp3")
    return tmp_path


REPORT = "task2_gen_report_wo_pretrain"


def test_a_page_in_place_of_the_picture(here, monkeypatch, capsys):
    file = Path("data", TOY_SONGS["val"][0].path)
    assert call(monkeypatch, REPORT, "--song", file, "--html", "nowhere.mp3") == 2
    assert call(monkeypatch, REPORT, "--song", "song.mp3", "nowhere.mp3", "--html") == 1
    assert list(Path("assets").iterdir()) == [Path("assets/task2_song_song.html")]
    out = capsys.readouterr().out
    assert re.search(r"wrote assets/task2_song_song\.html \(0\.\d MB\)", out)
    assert "left out: " in out
    found = Elements(Path("assets/task2_song_song.html").read_text(encoding="utf-8"))
    assert "it is none of the songs of the network's training." in found.text
    assert call(monkeypatch, REPORT, "--html") == 2
    assert_one_line(capsys.readouterr().err)


def test_a_page_of_the_most_confused_songs(here, monkeypatch, capsys):
    for each in (*TOY_SONGS["train"], *TOY_SONGS["val"]):  # files of the data folder's own
        file = here / "data" / each.path
        file.unlink()
        os.link(here / "song.mp3", file)
    assert call(monkeypatch, REPORT, "--confused", 2, "--data-dir", "data") == 0
    page = Path("assets/task2_confused_songs_resnet.html").read_text(encoding="utf-8")
    found = Elements(page)
    assert len(found.attribute("audio", "src")) == 4
    predictions = results.read_record(
        here / "results/task2/resnet/val_predictions.json", Predictions, "x"
    )
    wrong = predictions.scores["resnet"].copy()
    wrong[np.arange(len(wrong)), predictions.labels] = 0
    for row in np.sort(wrong.max(axis=1))[:-3:-1]:
        assert f"{row:.0%} for artist" in found.text
    capsys.readouterr()
    assert call(monkeypatch, REPORT, "--confused", "--data-dir", "nowhere") == 2
    error = capsys.readouterr().err
    assert_one_line(error)
    assert "is missing: name the data folder with --data-dir" in error


# --- the app -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::artist20.audio.AudioNote")
def test_what_is_wrong_with_an_upload_is_a_sentence_without_its_path(song, monkeypatch, tmp_path):
    def answer(file):
        return listen.answer(file, network(TOY_ARTISTS), checkpoint(TOY_ARTISTS))

    page = unescape(answer(song))
    assert "as heard by ResNet" in page
    assert str(tmp_path) not in page
    broken = tmp_path / "<i>.mp3"
    broken.write_bytes(b"no music")
    expected = "This file cannot be decoded: Invalid data found when processing input."
    assert answer(broken) == f'<p role="alert">{expected}</p>'
    monkeypatch.setattr(listen, "MAX_SECONDS", 6.0)
    assert answer(song) == '<p role="alert">This file is longer than 0.1 minutes.</p>'
    soundfile.write(song, np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    assert "Note: this file is silent throughout." in unescape(answer(song))


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    assert call(monkeypatch, "artist20.listen", "--checkpoint", "best.pt") == 2
    error = capsys.readouterr().err
    assert error == "error: this needs Gradio: pip install -r requirements-app.txt\n"


# --- in a browser --------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    """Start an installed browser."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="Playwright is missing: pip install -r requirements-app.txt"
    )
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium or Chrome is installed")
    with playwright.sync_playwright() as api:
        # Without the sandbox, which a container or root has not.
        browser = api.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser):
    """Open a page, and keep what it asks for and what goes wrong in it."""
    tab = browser.new_page(viewport={"width": 1280, "height": 720})
    tab.asked, tab.errors = [], []
    tab.on("request", lambda request: tab.asked.append(request.url))
    tab.on("pageerror", lambda error: tab.errors.append(str(error)))
    yield tab
    tab.close()


PLAYER = "document.querySelector('audio')"
CURSOR = "parseFloat(document.querySelector('.cursor').style.left)"  # percent


def wait_until(tab, condition):
    """Wait until JavaScript holds; Playwright's own way is what the page's policy forbids."""
    deadline = time.monotonic() + 10
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        tab.wait_for_timeout(20)


def test_a_page_follows_the_song_and_jumps_where_it_is_clicked(opened, song, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page_of(song, HOSTILE, HOSTILE[0]), encoding="utf-8")
    opened.goto(file.as_uri())
    wait_until(opened, f"{PLAYER}.readyState > 0")
    assert opened.evaluate(f"{PLAYER}.duration") == pytest.approx(12, abs=0.1)
    assert opened.evaluate("document.documentElement.scrollHeight") <= 720
    assert opened.evaluate(CURSOR) == 0
    stage, now = opened.locator(".stage"), opened.locator("tr.true .now")
    stage.click(position={"x": stage.bounding_box()["width"] * 0.76, "y": 200})
    assert opened.evaluate(f"{PLAYER}.currentTime") == pytest.approx(9.12, abs=0.05)
    assert opened.evaluate(CURSOR) == pytest.approx(76, abs=0.5)
    assert stage.get_attribute("aria-valuetext").startswith("0:09, ")
    loud = int(now.inner_text().split()[0])
    stage.press("ArrowLeft")
    stage.press("ArrowLeft")
    assert opened.evaluate(f"{PLAYER}.currentTime") == 0
    assert int(now.inner_text().split()[0]) < loud - 30
    stage.press(" ")
    wait_until(opened, f"{PLAYER}.currentTime > 0.3 && {CURSOR} > 2")
    assert opened.title() != "1"
    opened.evaluate(
        "() => { const own = document.createElement('script');"
        "own.textContent = 'document.title = 1'; document.body.append(own); }"
    )
    assert opened.title() != "1"  # the policy lets no script run but the page's own
    opened.set_viewport_size({"width": 360, "height": 640})
    assert opened.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(url.startswith(("file:", "data:")) for url in opened.asked)
    assert opened.errors == []


# What would reach beyond this machine is said, and fails.
APP = """
import sys
def forbid(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        address = args[1] if event == "socket.connect" else args
        if isinstance(address, tuple) and address[0] not in (None, "localhost", "127.0.0.1"):
            print("reached for", address, file=sys.stderr)
            raise OSError("no network")
sys.addaudithook(forbid)
from artist20 import listen, runtime
runtime.run(listen.main)
"""


@pytest.fixture
def app(tmp_path):
    """Start the app; give its process, its address and the folder of its temporary files."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("Gradio is missing: pip install -r requirements-app.txt")
    checkpoints.save_model(tmp_path / "secret/best.pt", checkpoint(TOY_ARTISTS))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "uploads").mkdir()
    command = [sys.executable, "-c", APP, "--checkpoint", str(tmp_path / "secret/best.pt")]
    process = subprocess.Popen(
        [*command, "--device", "cpu", "--port", str(port)],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"TMPDIR": str(tmp_path / "uploads")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("listening on"):
            break
    yield process, f"http://127.0.0.1:{port}/", tmp_path / "uploads"
    process.kill()
    process.wait()


def test_a_song_that_is_dropped_is_answered_and_deleted(app, opened, song, tmp_path):
    process, address, folder = app
    opened.goto(address)
    drop = opened.locator("input[type=file]")
    drop.wait_for(state="attached")
    drop.set_input_files(song)
    frame = opened.frame_locator("iframe")
    expected = network_of(tmp_path / "secret/best.pt").hear(song).whole
    best = TOY_ARTISTS[expected.argmax()]
    assert frame.locator("tbody tr").first.get_attribute("data-name") == best
    assert frame.locator("tbody tr").count() == 3
    stage = frame.locator(".stage")
    stage.click(position={"x": stage.bounding_box()["width"] * 0.55, "y": 100})
    assert stage.get_attribute("aria-valuetext").startswith("0:06, ")
    assert frame.locator("audio").evaluate("player => player.currentTime") == pytest.approx(
        6.6, 0.01
    )
    height = frame.locator("body").evaluate("body => body.offsetHeight")
    assert opened.locator("iframe").bounding_box()["height"] == pytest.approx(height, abs=2)

    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"no music")
    drop.set_input_files(broken)
    said = opened.get_by_role("alert").filter(has_text="This file cannot be decoded")
    said.wait_for()
    assert str(tmp_path) not in opened.content()
    with urllib.request.urlopen(f"{address}config") as config:
        assert str(tmp_path / "secret") not in config.read().decode()
    foreign = [url for url in opened.asked if not url.startswith((address, "data:", "blob:"))]
    assert foreign == ["about:srcdoc"] * len(foreign)
    assert [file for file in folder.rglob("*") if file.is_file()] == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) in (0, 143)
    assert list(folder.iterdir()) == []
    assert process.stderr.read() == ""


def network_of(path):
    model = checkpoints.load_model(path, checkpoints.TrainedModel, "x")
    return trained.load_network(path, model, torch.device("cpu"))


@pytest.mark.long
def test_ten_clients_at_once_are_answered(app, browser, song, tmp_path):
    _, address, _ = app
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"no music")
    tabs = [browser.new_context().new_page() for _ in range(10)]
    for tab in tabs:
        tab.goto(address)
        tab.locator("input[type=file]").wait_for(state="attached")
    for number, tab in enumerate(tabs):
        tab.locator("input[type=file]").set_input_files(broken if number % 3 == 1 else song)
    for number, tab in enumerate(tabs):
        tab.locator("iframe, p[role=alert]").first.wait_for(timeout=120_000)
        assert tab.locator("iframe").count() == (number % 3 != 1)
