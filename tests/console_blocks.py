"""The console blocks of pages: their commands are run, and what they print is compared with what the page shows."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

from helpers import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from helpers import Project

ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# What each run measures or draws anew. A page shows it as it was once, and both sides are compared with `#` in its place.
MEASURED = [
    (r"\d[\d.,]*(us|ms|s|%|MB)(?!\w)", "#"),
    (r"\d+(?= +#)", "#"),  # the summary's column `again`
    (r"\d+ repeated", "# repeated"),
    (r"pid \d+", "pid #"),
    (r"(?<=worker `)([\w-]+?)-\d+(?=`)", r"\1-#"),  # which of a task's workers
    (r"\(\d+\.\d+\)", "(#)"),  # the id of an item
]


def comparable(text: str) -> str:
    """Return the text without what differs from run to run.

    >>> comparable("worker `square-2` (pid 35): item 4 (3.2) took 1.5ms")
    'worker `square-#` (pid #): item 4 (#) took #'
    """
    for pattern, form in MEASURED:
        text = re.sub(pattern, form, text)
    return text


def commands(text: str) -> list[tuple[str, str]]:
    """Each `$ command` of a console block with the output that the page shows for it."""
    parts = re.split(r"^\$ (.+)\n", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block starts with `$ `"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def run_python(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder; standard error is part of the output."""
    return subprocess.run(
        [sys.executable, *args],
        cwd=folder,
        # A page asks for no plugin of pytest; to import those of this environment takes longer than its tests.
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )


def assert_said(project: Project, text: str) -> None:
    """Run each command of a console block in the project's folder, and compare what it prints."""
    for command, expected in commands(text):
        line, _, exit_code = command.partition("# exit: ")
        program, *args = shlex.split(line)
        assert program in ("runner", "python", "cat"), (
            f"{program}: a page shows runner, python, cat; use ```sh for more"
        )
        if program == "cat":
            status, output = 0, "".join((project.path / name).read_text(encoding="utf-8") for name in args)
        elif program == "python":
            done = run_python(*args, folder=project.path)
            status, output = done.returncode, done.stdout
        else:
            verb, *rest = args
            outcome = project.run(*rest, verb=verb, timeout=100, env={"NO_COLOR": "1"}, stderr=subprocess.STDOUT)
            status, output = outcome.exit, outcome.out
        assert status == int(exit_code or 0), f"$ {command}\n{output}"
        if expected.strip():
            same = doctest.OutputChecker().check_output(comparable(expected), comparable(output), ELLIPSIS)
            assert same, f"$ {command}\n{output}"
