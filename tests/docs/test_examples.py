"""Every example of the README and of docs/ runs. CONTRIBUTING.md says how a page marks its examples."""

from __future__ import annotations

import doctest
import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pytest
from console_blocks import ELLIPSIS, assert_said, commands, run_python
from doc_blocks import PAGES, blocks
from helpers import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path


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
    done = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", block.options["file"], folder=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("page", "block"), quick_first(examples("console")))
def test_a_command_says_what_the_page_says(page, block, tmp_path):
    assert_said(written(page, tmp_path), block.text)
