"""Mutated files through everything that reads them: a value or one line of error, and nothing else.

Each case takes a small good file, changes some of its bytes, and lets another process read it. What
must come of it is what the reader returns, or a UserError of one line. All else is found and kept:
another exception, a process that dies, that takes longer than ten seconds, or more than two
gigabytes of memory.

    python benchmarks/fuzz.py --cases 3000 --seed 0
    python benchmarks/fuzz.py --only mp3 skops --keep results/found
"""

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from artist20 import (
    UserError,
    audio,
    cli,
    collection,
    dataset,
    fetch,
    files,
    results,
    runtime,
    store,
)

SECONDS = 10  # that a case may take
MEMORY = 2 * 2**30  # bytes of data that a process may hold
LOG = "cases.log"
KINDS = ("mp3", "flac", "wav", "ogg", "npy", "json", "list", "index", "pt", "skops", "zip")
STAGES = ("task1_preprocessing.py", "task1_train.py", "task2_train.py", "artist20.ensemble")


def read_audio(file: Path) -> None:
    """Decode a file, and examine it as the check does."""
    assert np.isfinite(audio.load(file)).all()
    collection.examine(file)


def read_json(file: Path) -> None:
    """Read a file as every kind of JSON that stages hand each other."""
    readers: list[Callable[[], object]] = [
        lambda: files.read_json(file, "x"),
        lambda: results.read_predictions(file, "x"),
        lambda: results.read_test_scores(file, "x"),
        *(lambda stage=stage: results.read_metrics(file, stage) for stage in STAGES),
    ]
    errors = []
    for read in readers:
        try:
            read()
        except UserError as error:
            errors.append(error)
    if len(errors) == len(readers):
        raise errors[0]


def read_list(file: Path) -> None:
    """Read a file as a split list."""
    folder = file.with_name("data")
    folder.mkdir(exist_ok=True)
    file.replace(folder / "train.json")
    dataset.read_split(folder, "train")


def read_index(file: Path) -> None:
    """Open a store whose index the file is."""
    kind = ({}, "float32", 2)
    with store.RowStore(file.parent, "toy", *kind) as opened:
        folder = opened.folder
    file.replace(folder / "index.jsonl")
    (folder / "rows.bin").write_bytes(bytes(8 * 30))
    with store.RowStore(file.parent, "toy", *kind) as opened:
        n_rows = len(opened.rows())
        assert all(0 <= first <= first + n <= n_rows for first, n in opened.index().values())


def unpack(file: Path) -> None:
    """Unpack an archive, and look for what landed outside."""
    target = file.with_name("target") / "artist20"
    shutil.rmtree(target.parent, ignore_errors=True)
    before = {path for path in file.parent.rglob("*") if target.parent not in path.parents}
    with contextlib.suppress(fetch.FetchError):
        fetch.unpack(file, target)
    after = {path for path in file.parent.rglob("*") if target.parent not in path.parents}
    assert after <= before | {target.parent}, after - before


def make_seeds(folder: Path) -> dict[str, tuple[list[bytes], Callable[[Path], object]]]:
    """Make good files of every kind: by name their bytes, and what reads them."""
    import torch
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.feature_selection import SelectKBest, f_classif
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import RobustScaler
    from sklearn.svm import SVC

    rng = np.random.default_rng(0)
    found = {}
    for extension in ("mp3", "flac", "wav", "ogg"):
        data = []
        for n_samples in (800, 12_000):
            audio.write(folder / f"a.{extension}", rng.normal(0, 0.1, n_samples).astype("f4"))
            data.append((folder / f"a.{extension}").read_bytes())
        found[extension] = (data, read_audio)
    arrays = []
    for array in (rng.normal(size=(4, 3)), np.array(["queen", "u2"]), np.arange(5)):
        files.write_array(folder / "a.npy", array)
        arrays.append((folder / "a.npy").read_bytes())
    found["npy"] = (arrays, lambda file: files.read_array(file, "x"))

    paths = [f"./train_val/{artist}/b/0.mp3" for artist in "xyz"]
    songs = [{"path": path, "artist": path[12], "album": "b"} for path in paths]
    predictions = {"classes": list("xyz"), "songs": songs, "scores": {"svm": np.eye(3).tolist()}}
    test = {"songs": {"001": "a"}, "checkpoints": {"svm": ["b"]}, "scores": {"svm": [[0, 0, 1]]}}
    test["guessed"] = {}
    data = {"name": "a", "synthesised": False, "fingerprint": "b", "artists": 2, "train": 3}
    data["val"] = 1
    reached = {"top1": 0.5, "top3": 1}
    network = {"dataset": data, "model": "resnet", "settings": {}, **reached, "last": reached}
    network |= {"epoch": 1, "pretrained": False, "seconds": 1.5}
    texts = [predictions, {"classes": list("xyz"), **test}, network, [1, None, "ä", 1e5]]
    found["json"] = ([json.dumps(value).encode() for value in texts], read_json)
    for path in paths:
        (folder / "data" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / path).touch()
    found["list"] = ([json.dumps(paths).encode()], read_list)
    lines = "".join(json.dumps([key, 10 * i, 10]) + "\n" for i, key in enumerate("abc"))
    found["index"] = ([lines.encode()], read_index)

    checkpoint = {"kind": "x", "classes": ["a", "b"], "config": {"lr": 0.1, "x": (1, 2)}}
    files.write_checkpoint(folder / "a.pt", {**checkpoint, "model": {"w": torch.ones(2, 3)}})
    pt = (folder / "a.pt").read_bytes()
    torch.save(checkpoint, folder / "a.pt", _use_new_zipfile_serialization=False)
    found["pt"] = (
        [pt, (folder / "a.pt").read_bytes()],
        lambda file: results.read_checkpoint(file, "x"),
    )
    X, y = rng.normal(size=(12, 4)), np.array(list("ab" * 6))
    models = []
    for classifier in (SVC(), RandomForestClassifier(2)):
        model = make_pipeline(RobustScaler(), SelectKBest(f_classif, k=2), classifier).fit(X, y)
        files.write_sklearn(folder / "a.skops", model)
        models.append((folder / "a.skops").read_bytes())
    found["skops"] = (models, results.read_sklearn)
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        for name in ("train.json", "val.json", "train_val/x/b/0.mp3"):
            archive.writestr(f"hw1/artist20/{name}", json.dumps(paths))
    found["zip"] = ([(folder / "a.zip").read_bytes()], unpack)
    return found


def mutate(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """Change a file in a few places; of half the archives the members, with right checksums."""
    if kind in ("pt", "skops") and data.startswith(b"PK") and rng.random() < 0.5:
        return _mutate_member(data, rng)
    changed = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        place = (
            int(rng.integers(len(changed) + 1))
            if rng.random() < 0.6
            else int(min(len(changed), rng.exponential(60)))
        )
        length = int(min(rng.geometric(0.1), 2000))
        how = rng.integers(7)
        if how == 0:
            del changed[place : place + length]
        elif how == 1:
            changed[place:place] = rng.bytes(length)
        elif how == 2:
            changed[place : place + length] = rng.bytes(length)
        elif how == 3 and place < len(changed):
            changed[place] ^= 1 << int(rng.integers(8))
        elif how == 4:
            del changed[place:]
        elif how == 5:
            changed[place : place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"])
        else:
            other = int(rng.integers(len(changed) + 1))
            changed[place:place] = changed[other : other + length]
    return bytes(changed)


def _mutate_member(data: bytes, rng: np.random.Generator) -> bytes:
    with tempfile.TemporaryFile() as old, tempfile.TemporaryFile() as new:
        old.write(data)
        with zipfile.ZipFile(old) as source, zipfile.ZipFile(new, "w") as copy:
            names = source.namelist()
            chosen = names[int(rng.integers(len(names)))]
            for name in names:
                content = source.read(name)
                copy.writestr(name, mutate(content, "", rng) if name == chosen else content)
        new.seek(0)
        return new.read()


def work(cases: list[tuple[str, int]], seed: int, keep: Path) -> None:
    """Try cases, and note in a file which one it is, and what came of each."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)  # libmpg123's complaints
    with tempfile.TemporaryDirectory() as name, (keep / LOG).open("a", buffering=1) as out:
        folder = Path(name)
        kinds = make_seeds(folder)
        for kind, case in cases:
            seeds, read = kinds[kind]
            rng = np.random.default_rng([seed, case])
            data = mutate(seeds[int(rng.integers(len(seeds)))], kind, rng)
            file, kept = folder / f"case.{kind}", keep / f"{kind}-{case}"
            for path in (file, kept):
                path.write_bytes(data)
            out.write(f"{kind} {case} ")
            out.flush()
            signal.alarm(SECONDS)
            try:
                read(file)
                outcome = "read"
            except UserError as error:
                lines = len(str(error).splitlines())
                outcome = "refused" if lines == 1 else f"{lines} lines"
            except Exception:  # what is looked for: it is noted, counted, and its file kept
                outcome = " <- ".join(reversed(traceback.format_exc().splitlines()[-3:]))
            signal.alarm(0)
            out.write(outcome.replace("\n", " ") + "\n")
            if outcome in ("read", "refused"):
                kept.unlink()


def fuzz(kinds: list[str], n_cases: int, seed: int, keep: Path) -> dict[str, Counter[str]]:
    """Try all cases of all kinds, with a new process after each that dies."""
    log = keep / LOG
    log.unlink(missing_ok=True)
    cases = [(kind, case) for kind in kinds for case in range(n_cases)]
    context = multiprocessing.get_context("spawn")  # threads of libraries do not survive a fork
    n_done = 0
    while n_done < len(cases):
        process = context.Process(target=work, args=(cases[n_done:], seed, keep))
        process.start()
        process.join()
        lines = log.read_text().splitlines() if log.is_file() else []
        n_done = len(lines)
        if process.exitcode:
            if not lines or lines[-1].split(" ")[2]:
                raise RuntimeError(f"a process ended with {process.exitcode} between two cases")
            with log.open("a") as out:
                out.write(f"the process ended with {process.exitcode}\n")
    outcomes: dict[str, Counter[str]] = defaultdict(Counter)
    for line in log.read_text().splitlines():
        kind, _, outcome = line.split(" ", 2)
        outcomes[kind][outcome] += 1
    return outcomes


def main() -> int:
    """Try all kinds; return 1 if anything was found."""
    parser = cli.make_parser(__doc__)
    parser.add_argument("--cases", type=cli.positive_int, default=3000, help="of each kind")
    parser.add_argument("--only", nargs="+", choices=KINDS, help="kinds to try (default: all)")
    parser.add_argument(
        "--keep", type=Path, default=Path("results/fuzz"), help="folder for what is found"
    )
    cli.add_seed_option(parser)
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    n_found = 0
    for kind, outcomes in fuzz(args.only or list(KINDS), args.cases, args.seed, args.keep).items():
        found = {what: n for what, n in outcomes.items() if what not in ("read", "refused")}
        n_found += sum(found.values())
        print(
            f"{kind:6}{args.cases:7} cases: {outcomes['read']:6} read, {outcomes['refused']:6} "
            f"refused, {sum(found.values()):4} found"
        )
        for what, n in sorted(found.items(), key=lambda pair: -pair[1]):
            print(f"    {n} x {what}")
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if n_found else 0


if __name__ == "__main__":
    runtime.run(main)
