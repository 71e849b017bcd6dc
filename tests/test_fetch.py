"""get_dataset.sh and artist20.fetch, on archives of the true form and a server on this host."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import threading
import unicodedata
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import gdown
import numpy as np
import pytest
import soundfile

from artist20 import UserError, fetch

REPOSITORY = Path(__file__).resolve().parents[1]
CONTENT = np.random.default_rng(0).bytes(1_500_000)
# Half of it, less what gdown held in memory: it writes blocks of 512 KiB.
KEPT = 512 * 1024
PREFIX = "hw1/artist20/"


# --- stand-ins ---------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Serve ``server.files``; break off the first ``server.cuts`` answers in the middle."""

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
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[first:]
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if server.cuts:
            server.cuts -= 1
            body = body[: len(body) // 2]
        # gdown asks for the headers once more before it asks for a range, and hangs up.
        try:
            self.wfile.write(body)
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetch, "RETRIES", 0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.files, server.requests, server.cuts, server.ranges = {"file": CONTENT}, [], 0, True
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
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
    rubbish = {"__MACOSX/hw1/artist20/._train.json": b"", PREFIX + ".DS_Store": b""}
    return write_zip(tmp_path / "data.zip", {"hw1/": b"", PREFIX: b"", **songs, **rubbish})


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture
def unchecked(monkeypatch):
    """Take any data folder for right."""
    monkeypatch.setattr(fetch, "passes_check", lambda data_dir: True)


def tree(folder):
    """Every file below a folder, with its size and time."""
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def get_dataset(*args, cwd=REPOSITORY):
    """Run the script where nothing outside this host can be reached."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{closed.getsockname()[1]}"
        return subprocess.run(
            ["bash", os.path.relpath(REPOSITORY / "get_dataset.sh", cwd), *map(str, args)],
            cwd=cwd,
            env={**os.environ, "PYTHON": sys.executable, "http_proxy": proxy, "https_proxy": proxy},
            capture_output=True,
            text=True,
            timeout=60,
        )


def error_line(result):
    """The one line on stderr."""
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    return line


# --- the script --------------------------------------------------------------------------------


def test_local_archive_from_another_folder_and_again(archive, root, songs):
    before = archive.read_bytes()
    # The working directory's own artist20 must not hide the package.
    (archive.parent / "artist20").mkdir()
    (archive.parent / "artist20" / "__init__.py").write_text("raise SystemExit(99)")
    result = get_dataset("data.zip", "--root", "root", cwd=archive.parent)
    # The data set is there; the weights cannot be had without a network, and it says what to do.
    assert result.returncode == 1
    line = error_line(result)
    assert fetch.CNN14_16K.url in line and fetch.CNN14_16K.sha256 in line
    assert str(root / "panns" / fetch.CNN14_16K.name) in line and "358668570" in line
    expected = {name.removeprefix(PREFIX) for name in songs if name.startswith(PREFIX)}
    assert set(tree(root / "artist20")) == expected
    assert (root / "artist20/test/001.mp3").read_bytes() == songs[PREFIX + "test/001.mp3"]
    assert {path.name for path in root.iterdir()} == {"artist20", "panns"}
    assert "no problems" in result.stdout

    there = tree(root / "artist20")
    again = get_dataset(archive, "--root", root)
    assert (
        again.returncode == 1
        and f"{root / 'artist20'}: already there, passes the check" in again.stdout
    )
    assert tree(root / "artist20") == there
    assert archive.read_bytes() == before


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


def test_misuse_is_one_line_and_status_2(root):
    result = get_dataset("--wieghts", "--root", root)
    assert result.returncode == 2
    assert "--wieghts" in error_line(result) and len(result.stderr.splitlines()) == 1
    assert not root.exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere.zip"], "no such file: nowhere.zip"),
        (["--weights", "data.zip"], "leave out the archive"),
        (["a.zip", "b.zip"], r"b\.zip"),
        (["--weight"], "--weight;"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(args, message):
    with pytest.raises(UserError, match=message):
        fetch.parse_args(args)


def test_missing_modules_and_interpreter_are_explained(tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    for name in (python, tmp_path / "nowhere"):
        result = subprocess.run(
            ["bash", REPOSITORY / "get_dataset.sh"],
            env={**os.environ, "PYTHON": str(name)},
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2
        assert "make setup" in result.stderr and len(result.stderr.splitlines()) == 1


def test_help():
    result = get_dataset("--help")
    assert result.returncode == 0
    options = ("--demo", "--weights", "--weights-32k", "--vocals", "--root", "path/to/data.zip")
    for word in options:
        assert word in result.stdout


# --- which steps run ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "steps"),
    [
        ([], ["data", "16k"]),
        (["--weights"], ["16k"]),
        (["--weights-32k"], ["data", "16k", "32k"]),
        (["--weights", "--weights-32k"], ["16k", "32k"]),
        (["--demo"], ["demo"]),
        (["--demo", "--weights"], ["demo", "16k"]),
        (["--demo", "--weights-32k"], ["demo", "32k"]),
        (["ARCHIVE"], ["data", "16k"]),
        (["--demo", "ARCHIVE", "--weights-32k"], ["demo", "data", "16k", "32k"]),
        (["--vocals"], ["data", "separator", "vocals"]),
        (["--vocals", "ARCHIVE"], ["data", "16k", "separator", "vocals"]),
        (["--vocals", "--weights"], ["data", "16k", "separator", "vocals"]),
    ],
)
def test_options_choose_the_steps(args, steps, archive, root, monkeypatch):
    done = []
    names = {fetch.CNN14_16K: "16k", fetch.CNN14_32K: "32k", fetch.HDEMUCS: "separator"}
    monkeypatch.setattr(fetch, "build_demo", lambda root: done.append("demo"))
    monkeypatch.setattr(fetch, "fetch_dataset", lambda root, archive: done.append("data"))
    monkeypatch.setattr(fetch, "fetch_weights", lambda weights, root: done.append(names[weights]))
    monkeypatch.setattr(fetch, "separate_vocals", lambda root: done.append("vocals"))
    args = [str(archive) if arg == "ARCHIVE" else arg for arg in args]
    assert fetch.main([*args, "--root", str(root)]) == 0
    assert done == steps


def test_all_from_the_network_and_again(server, weights, archive, root, monkeypatch, unchecked):
    server.files["zip"] = archive.read_bytes()
    monkeypatch.setattr(fetch, "ARCHIVE_URL", f"{server.url}/zip")
    monkeypatch.setattr(fetch, "CNN14_16K", weights)
    assert fetch.main(["--root", str(root)]) == 0
    assert (root / "panns/tiny.pth").read_bytes() == CONTENT
    assert (root / "artist20.zip").read_bytes() == archive.read_bytes()
    assert {path.name for path in root.iterdir()} == {"artist20", "artist20.zip", "panns"}
    assert len(server.requests) == 2

    there = tree(root)
    assert fetch.main(["--root", str(root)]) == 0
    assert tree(root) == there and len(server.requests) == 2

    # Downloaded, but not unpacked.
    shutil.rmtree(root / "artist20")
    assert fetch.main(["--root", str(root)]) == 0
    assert (root / "artist20/train.json").exists() and len(server.requests) == 2


# --- download ----------------------------------------------------------------------------------


def test_broken_download_goes_on_where_it_stopped(server, weights, root):
    server.cuts = 1
    with pytest.raises(fetch.FetchError, match="incomplete"):
        fetch.fetch_weights(weights, root)
    assert not (root / "panns/tiny.pth").exists()
    (part,) = (root / "panns").iterdir()
    assert part.read_bytes() == CONTENT[:KEPT]

    fetch.fetch_weights(weights, root)
    assert ("file", f"bytes={KEPT}-") in server.requests
    assert [path.name for path in (root / "panns").iterdir()] == ["tiny.pth"]
    assert (root / "panns/tiny.pth").read_bytes() == CONTENT


def test_broken_download_is_resumed_within_one_run(server, weights, root, monkeypatch):
    monkeypatch.setattr(fetch, "RETRIES", 2)
    server.cuts = 1
    fetch.fetch_weights(weights, root)
    assert server.requests == [("file", None), ("file", f"bytes={KEPT}-")]


def test_server_that_cannot_resume_sends_all_again(server, weights, root):
    server.cuts, server.ranges = 1, False
    with pytest.raises(fetch.FetchError):
        fetch.fetch_weights(weights, root)
    fetch.fetch_weights(weights, root)
    assert [path.name for path in (root / "panns").iterdir()] == ["tiny.pth"]
    assert (root / "panns/tiny.pth").read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[:-1] + b"?"])
def test_wrong_weights_are_never_kept(content, server, weights, root):
    server.files["file"] = content
    with pytest.raises(fetch.FetchError, match="instead of") as caught:
        fetch.fetch_weights(weights, root)
    assert weights.url in str(caught.value)
    assert list((root / "panns").iterdir()) == []


def test_wrong_weights_in_the_place_are_replaced(server, weights, root, capsys):
    (root / "panns").mkdir(parents=True)
    (root / "panns/tiny.pth").write_bytes(CONTENT[:1000])
    assert fetch.verify(root / "panns/tiny.pth", weights) == "1000 bytes instead of 1500000"
    fetch.fetch_weights(weights, root)
    assert fetch.verify(root / "panns/tiny.pth", weights) is None
    capsys.readouterr()
    fetch.fetch_weights(weights, root)
    path = root / "panns/tiny.pth"
    assert capsys.readouterr().out == f"{path}: already downloaded, checksum OK\n"


def test_refusing_server_is_explained(server, weights, root):
    del server.files["file"]
    with pytest.raises(fetch.FetchError, match="404") as caught:
        fetch.fetch_weights(weights, root)
    message = str(caught.value)
    for part in (weights.url, weights.sha256, "1500000 bytes", str(root / "panns/tiny.pth")):
        assert part in message


@pytest.mark.parametrize(
    "refusal",
    [
        gdown.exceptions.FileURLRetrievalError("Failed:\n\n\tToo many users have viewed it"),
        ConnectionError("no route"),
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


# --- archives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "../evil.mp3",
        "hw1/artist20/test/../../../../evil.mp3",
        "/evil.mp3",
        "hw1/artist20/C:/evil.mp3",
        "C:evil.mp3",
        "hw1\\artist20\\..\\evil.mp3",
        "hw1/artist20/evil\0.mp3",
        "__MACOSX/../../evil.mp3",
        "..\\evil.mp3",
        "\\evil.mp3",
        "hw1\\C:\\evil.mp3",
    ],
)
def test_entry_outside_the_data_folder_is_refused(name, tmp_path, root, songs):
    # A stand-in of the same length, for zipfile would put some of the names right when writing.
    file = write_zip(tmp_path / "data.zip", {**songs, "~" * len(name): b"evil"})
    file.write_bytes(file.read_bytes().replace(b"~" * len(name), name.encode()))
    with pytest.raises(fetch.FetchError, match="outside the data folder") as caught:
        fetch.unpack(file, root / "artist20")
    assert repr(name) in str(caught.value)
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "message"), [(stat.S_IFLNK, "symbolic link"), (stat.S_IFIFO, "neither file nor")]
)
def test_links_and_other_specials_are_refused(mode, message, tmp_path, root, songs):
    entry = zipfile.ZipInfo(PREFIX + "test/002.mp3")
    entry.external_attr = (mode | 0o777) << 16
    file = write_zip(tmp_path / "data.zip", songs)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(entry, "/etc/passwd")
    with pytest.raises(fetch.FetchError, match=f"test/002.mp3' is (a )?{message}"):
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
    ("offset", "value", "reason"),
    [
        (8, 1, "is encrypted"),
        (10, 9, "is compressed with Deflate64, which Python cannot unpack"),
        (10, 6, "is compressed with method 6, which Python cannot unpack"),
    ],
)
def test_what_python_cannot_unpack_is_no_damage_and_has_a_remedy(
    offset, value, reason, archive, root
):
    patch_directory(archive, PREFIX + "test/001.mp3", offset, "<H", value)
    with pytest.raises(fetch.FetchError, match=rf"test/001\.mp3' {reason}") as caught:
        fetch.unpack(archive, root / "artist20")
    assert "unpack the archive with 7-Zip" in str(caught.value)
    assert f" at {root / 'artist20'}, then" in str(caught.value)
    assert "damaged" not in str(caught.value) and list(root.iterdir()) == []


def test_what_lies_beside_the_data_set_need_not_be_readable(archive, root):
    patch_directory(archive, "hw1/readme.txt", 10, "<H", 9)
    fetch.unpack(archive, root / "artist20")
    assert (root / "artist20/test/001.mp3").exists()


def test_backslashes_are_named_with_a_remedy(tmp_path, root, songs):
    entries = {name.replace("/", "\\"): content for name, content in songs.items()}
    file = write_zip(tmp_path / "data.zip", entries)
    with pytest.raises(fetch.FetchError, match=r"old Windows tools write.*with 7-Zip") as caught:
        fetch.unpack(file, root / "artist20")
    assert "has '\\' where zip has '/'" in str(caught.value)
    assert list(root.iterdir()) == []


def test_bomb_is_refused(tmp_path, root, songs, monkeypatch):
    file = write_zip(tmp_path / "data.zip", songs)
    for name in songs:
        if name.endswith(".mp3"):
            patch_directory(file, name, 24, "<I", 2**32 - 2)
    with pytest.raises(fetch.FetchError, match="would unpack to 21,47"):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


def test_full_disk_is_foreseen(archive, root, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(fetch.FetchError, match="1,000 are free"):
        fetch.unpack(archive, root / "artist20")


def test_a_full_disk_is_one_line_that_says_how_to_go_on(archive, root, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert fetch.main([str(archive), "--root", str(root)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("No space left on device; make space, then run the same command again")
    assert list(root.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"<html>Too many users</html>", None])
def test_no_whole_zip_is_explained(content, archive, root):
    if content is None:
        content = archive.read_bytes()[:-2000]
    archive.write_bytes(content)
    with pytest.raises(fetch.FetchError, match="half a download: delete it"):
        fetch.unpack(archive, root / "artist20")
    assert list(root.iterdir()) == []


def test_damaged_entry_is_named_and_the_next_run_works(archive, root, songs, unchecked):
    whole = archive.read_bytes()
    content = songs[PREFIX + "test/001.mp3"]
    position = whole.index(content, whole.index(b"test/001.mp3"))
    damaged = bytearray(whole)
    damaged[position + 100] ^= 1
    archive.write_bytes(damaged)
    with pytest.raises(fetch.FetchError, match=r"test/001\.mp3' is damaged \(Bad CRC"):
        fetch.fetch_dataset(root, archive)
    assert list(root.iterdir()) == []

    archive.write_bytes(whole)
    # What a run that was killed leaves behind.
    (root / ".artist20.unpacking/test").mkdir(parents=True)
    (root / ".artist20.unpacking/test/999.mp3").write_bytes(b"old")
    fetch.fetch_dataset(root, archive)
    assert [path.name for path in root.iterdir()] == ["artist20"]
    assert [path.name for path in (root / "artist20/test").iterdir()] == ["001.mp3"]


def test_an_archive_that_begins_before_the_file_is_damaged(archive, root):
    data = bytearray(archive.read_bytes())
    field = data.rindex(b"PK\x05\x06") + 16  # where the central directory is said to begin
    struct.pack_into("<I", data, field, struct.unpack_from("<I", data, field)[0] + 10**6)
    archive.write_bytes(data)
    with pytest.raises(fetch.FetchError, match=r"is damaged \(.*Invalid argument.*again"):
        fetch.unpack(archive, root / "artist20")
    assert list(root.iterdir()) == []


def test_entry_that_is_there_twice_is_refused(archive, root):
    with zipfile.ZipFile(archive, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr(PREFIX + "train.json", "[]")
    with pytest.raises(fetch.FetchError, match=r"train\.json' is in it twice"):
        fetch.unpack(archive, root / "artist20")


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


# --- names in archives -------------------------------------------------------------------------


class Unflagged(zipfile.ZipInfo):
    """An entry whose name is UTF-8, but does not say so, as macOS writes it."""

    def _encodeFilenameFlags(self):  # noqa: N802
        return self.filename.encode(), self.flag_bits


def spelled(songs, entries, train, val):
    """The data set with an accent in an artist's name, in these of Unicode's forms."""

    def spell(path, form):
        return path.replace("queen", unicodedata.normalize(form, "Sigur_Rós"))

    files = {spell(name, entries): content for name, content in songs.items()}
    for split, form in (("train", train), ("val", val)):
        paths = [spell(path, form) for path in json.loads(songs[f"{PREFIX}{split}.json"])]
        files[f"{PREFIX}{split}.json"] = json.dumps(paths).encode("utf-8-sig")
    return files


@pytest.mark.parametrize("kind", [zipfile.ZipInfo, Unflagged])
@pytest.mark.parametrize(
    "forms",
    [("NFC", "NFC", "NFC"), ("NFD", "NFC", "NFC"), ("NFC", "NFD", "NFD"), ("NFD", "NFC", "NFD")],
)
def test_files_are_spelled_as_the_lists_spell_them(kind, forms, tmp_path, root, songs, capsys):
    entries = spelled(songs, *forms)
    file = write_zip(tmp_path / "data.zip", {kind(name): entries[name] for name in entries})
    fetch.unpack(file, root / "artist20")
    lists = [
        json.loads(entries[f"{PREFIX}{split}.json"].decode("utf-8-sig"))
        for split in ("train", "val")
    ]
    listed = {path.removeprefix("./") for paths in lists for path in paths}
    assert set(tree(root / "artist20")) == {*listed, "train.json", "val.json", "test/001.mp3"}
    n_other = 2 if kind is Unflagged else sum(forms[0] != form for form in forms[1:])
    said = capsys.readouterr().out
    if n_other:
        assert said.startswith(f"note: {file}: {n_other} of 7 names are spelled otherwise")
    else:
        assert not said


def test_an_archive_that_macos_wrote_passes_the_check(tmp_path, root, songs):
    entries = spelled(songs, "NFD", "NFC", "NFC")
    file = write_zip(tmp_path / "data.zip", {Unflagged(name): entries[name] for name in entries})
    fetch.fetch_dataset(root, file)
    assert fetch.is_there(root / "artist20")


def test_names_in_code_page_437_stay_what_they_are(archive, root):
    patched = archive.read_bytes().replace(b"test/001.mp3", "test/Ró1.mp3".encode("cp437"))
    archive.write_bytes(patched)
    fetch.unpack(archive, root / "artist20")
    assert [file.name for file in (root / "artist20/test").iterdir()] == ["Ró1.mp3"]


def test_two_spellings_of_one_song_are_refused(tmp_path, root, songs):
    entries = {**spelled(songs, "NFD", "NFC", "NFC"), **spelled(songs, "NFC", "NFC", "NFC")}
    file = write_zip(tmp_path / "data.zip", entries)
    with pytest.raises(fetch.FetchError, match="is in it twice, spelled in two ways: nothing"):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


def test_one_name_with_and_without_its_flag_is_refused(tmp_path, root, songs):
    name = PREFIX + "test/Ró.mp3"
    with pytest.warns(UserWarning, match="Duplicate"):
        file = write_zip(tmp_path / "data.zip", {**songs, name: b"", Unflagged(name): b""})
    with pytest.raises(fetch.FetchError, match=r"test/Ró\.mp3' is in it twice"):
        fetch.unpack(file, root / "artist20")


@pytest.mark.parametrize("kind", [zipfile.ZipInfo, Unflagged])
def test_no_drive_arises_from_a_name(kind, tmp_path, root, songs):
    kelvin = PREFIX + "test/\N{KELVIN SIGN}:/evil.mp3"  # in NFC the letter K
    file = write_zip(tmp_path / "data.zip", {**songs, kind(kelvin): b"evil"})
    with pytest.raises(fetch.FetchError, match="outside the data folder"):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


def test_a_name_of_an_extra_field_is_checked_too(archive, root):
    with zipfile.ZipFile(archive) as file:
        file.infolist()[-1].filename = "../evil.mp3"  # as newer versions of zipfile read it
        with pytest.raises(fetch.FetchError, match="outside the data folder"):
            fetch.plan_members(file, root / "artist20")


def test_lists_give_no_name_that_leaves_the_folder(tmp_path, songs):
    entries = {**songs, PREFIX + "val.json": json.dumps(["K:/evil.mp3", "../evil.mp3", "/x"])}
    file = write_zip(tmp_path / "data.zip", entries)
    with zipfile.ZipFile(file) as archive:
        members = fetch.plan_members(archive, tmp_path)
        kelvin = PurePosixPath("\N{KELVIN SIGN}:/evil.mp3")
        members[kelvin] = members.pop(PurePosixPath("test/001.mp3"))
        assert set(fetch._as_listed(archive, members)) == set(members)


@pytest.mark.parametrize("content", [b"<html>", b"\xff", b"5", b"[5]", b"[" * 100_000])
def test_a_list_that_is_none_is_named(content, tmp_path, root, songs):
    file = write_zip(tmp_path / "data.zip", {**songs, PREFIX + "val.json": content})
    with pytest.raises(fetch.FetchError, match=r"artist20/val\.json' is no JSON list of paths \("):
        fetch.unpack(file, root / "artist20")
    assert list(root.iterdir()) == []


def test_a_list_too_large_to_be_one_is_not_read(archive, root, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_LIST", 10)
    with pytest.raises(
        fetch.FetchError, match=r"train\.json' is no JSON list of paths \(\d+ bytes"
    ):
        fetch.unpack(archive, root / "artist20")


def test_demo_is_built_by_its_own_module(root, monkeypatch):
    calls = []
    monkeypatch.setattr(fetch, "_run_module", lambda *call: not calls.append(call))
    fetch.build_demo(root)
    assert calls == [("artist20.demo", str(root / "demo"))]
    monkeypatch.setattr(fetch, "_run_module", lambda *call: False)
    with pytest.raises(fetch.FetchError, match="could not be built"):
        fetch.build_demo(root)


# --- vocals ------------------------------------------------------------------------------------


def test_vocals_without_a_network_are_explained(archive, root):
    result = get_dataset(archive, "--vocals", "--root", root)
    assert result.returncode == 1
    # Cnn14's weights come first, and cannot be had either.
    assert fetch.CNN14_16K.url in error_line(result)
    result = get_dataset("--vocals", "--root", root)
    assert result.returncode == 1
    line = error_line(result)
    assert fetch.HDEMUCS.url in line and fetch.HDEMUCS.sha256 in line and "334697255" in line
    assert f"as {root / 'hdemucs' / fetch.HDEMUCS.name}" in line
    assert not (root / "artist20_vocals").exists()


def test_the_separators_weights_lie_apart_and_are_verified(server, weights, root):
    separator = dataclasses.replace(weights, folder="hdemucs")
    fetch.fetch_weights(separator, root)
    assert set(tree(root)) == {"hdemucs/tiny.pth"}
    server.files["file"] = CONTENT[:-1] + b"?"
    (root / "hdemucs/tiny.pth").unlink()
    with pytest.raises(fetch.FetchError, match="sha256"):
        fetch.fetch_weights(separator, root)
    assert set(tree(root)) == set()


def test_vocals_are_separated_by_their_own_module(root, monkeypatch):
    calls = []
    monkeypatch.setattr(fetch, "_run_module", lambda *call: not calls.append(call))
    fetch.separate_vocals(root)
    folders = (str(root / "artist20"), str(root / "artist20_vocals"))
    weights = str(root / "hdemucs/hdemucs_high_trained.pt")
    assert calls == [("artist20.vocals", *folders, "--weights", weights)]
    monkeypatch.setattr(fetch, "_run_module", lambda *call: False)
    with pytest.raises(fetch.FetchError, match="artist20_vocals is not complete"):
        fetch.separate_vocals(root)


# --- the table ---------------------------------------------------------------------------------


def test_importing_the_table_is_light():
    code = "import sys, artist20.fetch; print({'torch', 'gdown', 'sklearn'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"
