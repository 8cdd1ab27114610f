"""The manual page says what `--help` says, and is proper roff.

After a change of the command line: `python man/make_page.py`, or `UPDATE_REFERENCE=1 pytest tests/docs/test_man_page.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.metadata import version

import pytest
from helpers import ROOT, load

from runner.cli.app import RunnerGroup

MAN = load("man/make_page.py")
needs_groff = pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")


def test_the_page_is_what_the_commands_say():
    if tuple(map(int, version("typer").split(".")[:2])) < (0, 29):
        pytest.skip("an earlier typer words ranges and defaults differently")
    if os.environ.get("UPDATE_REFERENCE"):
        MAN.PAGE.write_text(MAN.build_page(), encoding="utf-8")
    assert MAN.PAGE.read_text(encoding="utf-8") == MAN.build_page()


def shown():
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-rLL=100n", "-P-cbou", str(MAN.PAGE)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return re.sub(r"\x1b\[[\d;]*m", "", done.stdout)


@needs_groff
def test_the_page_is_rendered_without_a_warning_and_has_every_verb():
    text = " ".join(shown().replace("\u2010\n", "").split())
    for verb in RunnerGroup.verbs:
        assert f"runner {verb}" in text
    for words in (
        "runner dead retry [OPTIONS]",
        "-p, --param NAME=VALUE Set a param of the file.",
        "runner check --static --format github",
        "130, 143 stopped by SIGINT, SIGTERM; what was left is counted",
        "RUNNER_DISABLE_PLUGINS",
    ):
        assert words in text


def test_what_roff_would_execute_is_escaped():
    assert MAN.escape(".TH\n'x\n\\fB -j") == "\\&.TH\n\\&'x\n\\efB \\-j"
    assert MAN.mark_code("a `b-c` d") == "a \\fBb\\-c\\fP d"


def test_the_wheel_has_it_where_man_looks():
    import tomli

    data = tomli.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
        "shared-data"
    ]
    assert data["man/runner.1"] == "share/man/man1/runner.1"
    assert not [source for source in data if not (ROOT / source).is_file()]
