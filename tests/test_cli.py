"""artist20.cli: what options take, their defaults, and how they change a recipe."""

from artist20.packages import ROOT

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from artist20 import cli


class Recipe(msgspec.Struct, frozen=True):
    epochs: int
    batch_size: int
    lr: float
    crop_seconds: float
    dropout: float = 0.5


RECIPES = {"homework": Recipe(100, 8, 0.005, 150), "strong": Recipe(30, 64, 0.01, 10)}


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (cli.positive_int, {"1": 1, "12": 12}, ("0", "-1", "1.5", "x")),
        (cli.seed_int, {"0": 0, "4294967295": 2**32 - 1}, ("-1", "4294967296", "x")),
        (cli.positive_float, {"0.1": 0.1, "3": 3.0}, ("0", "-1", "inf", "nan", "x")),
    ],
)
def test_numbers_are_taken_within_their_bounds(kind, good, bad):
    assert {text: kind(text) for text in good} == good
    for text in bad:
        with pytest.raises((argparse.ArgumentTypeError, ValueError)):
            kind(text)


def parse(*options):
    parser = cli.make_parser("Train.\n\n    python train.py")
    cli.add_data_options(parser)
    cli.add_compute_options(parser)
    cli.add_training_options(parser, RECIPES)
    return parser, parser.parse_args(options)


def test_options_change_the_recipe_that_is_chosen_and_no_other():
    assert cli.chosen_recipe(parse()[1], RECIPES) == RECIPES["homework"]
    _, args = parse("--recipe", "strong", "--lr", "1", "--epochs", "2")
    assert cli.chosen_recipe(args, RECIPES) == Recipe(2, 64, 1.0, 10)
    assert RECIPES["strong"] == Recipe(30, 64, 0.01, 10)


def test_defaults_are_shown_where_they_say_something():
    parser, args = parse()
    text = " ".join(parser.format_help().split())
    assert "Train. python train.py" in text
    assert "highest learning rate (default: homework: 0.005, strong: 0.01)" in text
    assert "what the stages hand each other (default: results)" in text
    assert "default: None" not in text
    assert "default: False" not in text
    assert (args.data_dir, args.seed, args.precision) == (Path("data/artist20"), 0, "auto")


@pytest.mark.parametrize(("n_processes", "workers"), [(None, 6), ("4", 1), ("9", 1), ("2", 3)])
def test_workers_are_a_process_share_of_the_cores(monkeypatch, n_processes, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if n_processes:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", n_processes)
    assert parse()[1].workers == workers


@pytest.mark.parametrize("options", [("--resume", "--overwrite"), ("--fold", "6"), ("--fold", "0")])
def test_what_makes_no_sense_is_refused(options, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*options)
    assert end.value.code == 2
    assert "error: argument" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["results", "my 'results'"])
def test_the_next_stage_is_told_of_folders_that_are_not_the_defaults(monkeypatch, folder):
    args = argparse.Namespace(
        data_dir=Path("data/artist20"), results_dir=Path(folder), assets_dir=Path("a/b")
    )
    monkeypatch.chdir(ROOT)
    said = cli.next_stage("-m artist20.slides", args, "data_dir", "results_dir", "assets_dir")
    told = [] if folder == "results" else ["--results-dir", folder]
    expected = ["next:", "python", "-m", "artist20.slides", *told, "--assets-dir", "a/b"]
    assert shlex.split(said) == expected


@pytest.mark.parametrize("program", ["task1_train.py --level segment", "-m artist20.comparison"])
def test_the_next_stage_runs_from_where_the_last_one_did(monkeypatch, tmp_path, program):
    monkeypatch.chdir(tmp_path)
    command = cli.command(program, argparse.Namespace())
    (tmp_path / "python").write_text(
        f'#!/bin/sh\nexec {sys.executable} -S "$@"\n'
    )  # which is quick
    (tmp_path / "python").chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(f"{command} --help", shell=True, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "Its options are not listed" in done.stdout


def test_a_file_to_write_is_no_folder_and_no_device(tmp_path):
    file, link = tmp_path / "file.json", tmp_path / "link.json"
    link.symlink_to(file)
    assert cli.output_file(str(file)) == file
    assert cli.output_file(str(link)) == file  # not the link: it would be replaced
    for path in (tmp_path, Path(os.devnull)):
        with pytest.raises(argparse.ArgumentTypeError, match="is a folder or a device"):
            cli.output_file(str(path))
    file.touch()
    with pytest.raises(argparse.ArgumentTypeError, match=r"file\.json is a file"):
        cli.output_file(str(file / "below.json"))


def test_the_first_stage_keeps_the_results_of_other_songs_apart(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert cli.first_stage(Path("data/mine")) == (
        "next: python task1_preprocessing.py --data-dir data/mine --results-dir results/mine"
    )
