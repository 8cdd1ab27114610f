"""The architecture page has the floors of pyproject.toml, and its reading order names files that are there."""

from __future__ import annotations

import re

import tomli
from doc_blocks import assert_page_is, filled_page
from helpers import ROOT

PAGE = ROOT / "docs" / "explanation" / "architecture.md"
RUNNER = ROOT / "runner"
BEGIN, END = "<!-- floors -->", "<!-- end -->"


def floors() -> str:
    """Return the rows of the contract `imports point down`, one line each; brackets say that a layer may be missing."""
    settings = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    [layers] = [each["layers"] for each in settings["contracts"] if each["name"] == "imports point down"]
    return "\n".join("   ".join(layer.split(" | ")) for layer in layers).translate(str.maketrans("", "", "()"))


def test_the_page_has_the_floors():
    """After a change of the layers: `UPDATE_REFERENCE=1 pytest tests/docs/test_architecture.py`."""
    assert_page_is(PAGE, filled_page(PAGE, BEGIN, END, f"```text\n{floors()}\n```"))


def test_every_folder_and_file_of_the_page_is_there():
    table = re.findall(r"^\| (`.+?) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    named = [name for cell in table for name in re.findall(r"`([\w/.]+)`", cell)]
    assert named
    assert not [name for name in named if not (RUNNER / name).exists()]


def test_the_reading_order_is_of_ten_files_as_long_as_the_page_says():
    text = PAGE.read_text(encoding="utf-8").partition("## Reading order")[2]
    files = [RUNNER / f"{name}.py" for name in re.findall(r"^\d+\. `([\w/]+)`", text, re.MULTILINE)]
    assert len(files) == 10
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    [said] = re.findall(r"about ([\d,]+) lines", text)
    assert abs(lines - int(said.replace(",", ""))) < 0.2 * lines, lines


def test_each_walk_is_as_long_as_the_page_says_and_passes_files_that_are_there():
    text = PAGE.read_text(encoding="utf-8").partition("## The four walks")[2]
    told = re.findall(r"^\| .+? \| (\d+) \| (\d+) \| (\d+) \|$", text, re.MULTILINE)
    counted = []
    for walk in re.findall(r"^```walk\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        files = set(re.findall(r"[\w/]+", walk))
        assert not [name for name in files if not (RUNNER / f"{name}.py").is_file()]
        counted.append(tuple(map(str, (len(files), walk.count("→"), walk.count("⤶")))))
    assert counted == told
    assert len(counted) == 4
