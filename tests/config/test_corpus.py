"""Broken files, each with the exact text that is said of it: `corpus/NAME.toml` and `corpus/NAME.txt`.

After a deliberate change of a message: `UPDATE_CORPUS=1 pytest tests/config/test_corpus.py`, and read the diff.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runner import check, config
from runner.cli.explain import EXPLANATIONS
from runner.errors import ConfigError
from runner.problems import render_problems

FOLDER = Path(__file__).parent / "corpus"
FILES = sorted(path.stem for path in FOLDER.glob("*.toml"))


def problems(name):
    try:
        return check.check_everything(config.examine(f"{name}.toml", env={})).problems
    except ConfigError as error:
        return list(error.problems)


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(FOLDER)


@pytest.mark.parametrize("name", FILES)
def test_what_is_said_of_a_broken_file(name):
    said = render_problems(problems(name)).replace(str(FOLDER), "HERE") + "\n"
    expected = FOLDER / f"{name}.txt"
    if os.environ.get("UPDATE_CORPUS"):
        expected.write_text(said, encoding="utf-8")
    assert said == expected.read_text(encoding="utf-8")


def test_there_are_enough_files_and_every_code_of_a_file_is_among_them():
    said = {problem.code for name in FILES for problem in problems(name)}
    outside = {
        "E110",  # --set
        "E113",  # -p and the environment
        "E117",  # in test_hostile.py
        "E118",  # in tests/edges/test_reading.py
        "E308",  # a function that was replaced after its definition
        "E309",  # what @task declares
        "E314",  # what plugins say, and W407
        "W406",  # in tests/plugins
        "W407",
        "W403",  # depends on the machine
    }
    assert len(FILES) >= 60
    assert set(EXPLANATIONS) - said == outside


def test_ten_mistakes_are_ten_errors_each_at_its_place():
    text = (FOLDER / "ten-mistakes.toml").read_text().split("\n")
    found = problems("ten-mistakes")
    shown = [text[each.place.line - 1][each.place.column - 1 :][: each.place.length] for each in found]
    assert shown == [
        '"4"',
        "crumbs",
        "cuont",
        '"thred"',
        "wrokers",
        '"ca"',
        '"braed"',
        "30",
        '"eight"',
        '"dacne"',
    ]
    assert len({each.code for each in found}) == 10
