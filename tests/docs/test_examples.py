"""Every example of the README and of docs/ runs. CONTRIBUTING.md says how a page marks its examples."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pytest
from doc_blocks import PAGES, blocks
from helpers import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path

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


def examples(*languages: str, files: bool | None = None) -> list[Any]:
    """The blocks in these languages, with their page, for `parametrize`."""
    return [
        pytest.param(page, block, id=f"{page.relative_to(ROOT).as_posix()}:{block.line}")
        for page in PAGES
        if page.exists()
        for block in blocks(page)
        if block.language in languages and files in (None, "file" in block.options)
    ]


def is_test(example: object) -> bool:
    return PurePath(example.values[1].options["file"]).name.startswith("test_")


def written(page: Path, folder: Path) -> Project:
    """A folder with every file of the page."""
    files: dict[str, str] = {}
    for block in blocks(page):
        if name := block.options.get("file"):
            assert name not in files, f"{page.name}:{block.line}: a second {name} on one page"
            files[name] = block.text
    project = Project(folder)
    project.write(files)
    return project


@pytest.mark.parametrize(("page", "block"), examples("toml", "python"))
def test_every_toml_and_python_block_names_its_file(page, block):
    assert "file" in block.options, "start it with `# file: NAME`, or make it ```text if it is not meant to run"


def commands(text: str) -> list[tuple[str, str]]:
    """Each `$ command` of a console block with the output that the page shows for it."""
    parts = re.split(r"^\$ (.+)\n", text, flags=re.MULTILINE)
    assert not parts[0].strip(), "a console block starts with `$ `"
    return list(zip(parts[1::2], parts[2::2], strict=True))


def runs() -> list[object]:
    """The files of tasks; slow those that a console block of their page runs as well, with what it prints.

    And those of reference and explanation, which are many.
    """
    found = []
    for example in examples("toml", files=True):
        page, block = example.values
        command = f"runner run {block.options['file']} {block.options.get('args', '')}".strip()
        short = command.replace(" tasks.toml", "", 1)  # the file that `run` takes when none is named
        shown = "".join(one.text for one in blocks(page) if one.language == "console")
        twice = any(line.partition("#")[0].strip() in (command, short) for line, _ in commands(shown))
        is_many = page.parent.name in {"reference", "explanation"}
        found.append(pytest.param(page, block, id=example.id, marks=pytest.mark.slow if twice or is_many else ()))
    return found


@pytest.mark.parametrize(("page", "block"), runs())
def test_a_tasks_file_runs(page, block, tmp_path):
    args = shlex.split(block.options.get("args", ""))
    outcome = written(page, tmp_path).run(block.options["file"], *args)
    assert outcome.exit == int(block.options.get("exit", 0)), outcome


@pytest.mark.parametrize(("page", "block"), examples("pycon"))
def test_a_python_session_says_what_the_page_says(page, block, tmp_path, monkeypatch):
    written(page, tmp_path)
    monkeypatch.chdir(tmp_path)
    test = doctest.DocTestParser().get_doctest(block.text, {}, page.name, str(page), block.line)
    report: list[str] = []
    failed, tried = doctest.DocTestRunner(optionflags=ELLIPSIS).run(test, out=report.append)
    assert tried, "no `>>>` in it"
    assert not failed, "".join(report)


def python(*args: str, folder: Path) -> subprocess.CompletedProcess[str]:
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


def quick_first(found: list[Any]) -> list[Any]:
    """Keep those of the README and the tutorials in the default set; those of other pages are slow."""
    return [
        one
        if one.values[0] == ROOT / "README.md" or "tutorial" in one.values[0].parts
        else pytest.param(*one.values, id=one.id, marks=pytest.mark.slow)
        for one in found
    ]


FILES_OF_TESTS = [one for one in examples("python", files=True) if is_test(one)]


@pytest.mark.parametrize(("page", "block"), quick_first(FILES_OF_TESTS))
def test_a_file_of_tests_passes(page, block, tmp_path):
    written(page, tmp_path)
    done = python("-m", "pytest", "-q", "-p", "no:cacheprovider", block.options["file"], folder=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("page", "block"), quick_first(examples("console")))
def test_a_command_says_what_the_page_says(page, block, tmp_path):
    project = written(page, tmp_path)
    for command, expected in commands(block.text):
        line, _, exit_code = command.partition("# exit: ")
        program, *args = shlex.split(line)
        assert program in ("runner", "python", "cat"), (
            f"{program}: a page shows runner, python, cat; use ```sh for more"
        )
        if program == "cat":
            status, output = 0, "".join((project.path / name).read_text(encoding="utf-8") for name in args)
        elif program == "python":
            done = python(*args, folder=tmp_path)
            status, output = done.returncode, done.stdout
        else:
            verb, *rest = args
            outcome = project.run(*rest, verb=verb, env={"NO_COLOR": "1"}, stderr=subprocess.STDOUT)
            status, output = outcome.exit, outcome.out
        assert status == int(exit_code or 0), f"$ {command}\n{output}"
        if expected.strip():
            same = doctest.OutputChecker().check_output(comparable(expected), comparable(output), ELLIPSIS)
            assert same, f"$ {command}\n{output}"
