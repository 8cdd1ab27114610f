"""Every example of the README and of docs/ runs. CONTRIBUTING.md says how a page marks its examples."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import PurePath
from typing import TYPE_CHECKING

import pytest
from doc_blocks import FENCE, PAGES, blocks
from helpers import ROOT, Project

if TYPE_CHECKING:
    from pathlib import Path

ELLIPSIS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(*languages: str, files: bool | None = None) -> list[object]:
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
    """The files of tasks; slow those that a console block of their page runs as well, with what it prints."""
    found = []
    for example in examples("toml", files=True):
        page, block = example.values
        command = f"runner run {block.options['file']} {block.options.get('args', '')}".strip()
        shown = "".join(one.text for one in blocks(page) if one.language == "console")
        twice = any(line.partition("#")[0].strip() == command for line, _ in commands(shown))
        found.append(pytest.param(page, block, id=example.id, marks=pytest.mark.slow if twice else ()))
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


@pytest.mark.parametrize(("page", "block"), [one for one in examples("python", files=True) if is_test(one)])
def test_a_file_of_tests_passes(page, block, tmp_path):
    written(page, tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", block.options["file"]],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "block"), examples("console"))
def test_a_command_says_what_the_page_says(page, block, tmp_path):
    project = written(page, tmp_path)
    for command, expected in commands(block.text):
        line, _, exit_code = command.partition("# exit: ")
        program, *args = shlex.split(line)
        assert program in ("runner", "cat"), f"{program}: a page shows only runner and cat; use ```sh for the rest"
        if program == "cat":
            status, output = 0, "".join((project.path / name).read_text(encoding="utf-8") for name in args)
        else:
            verb, *rest = args
            outcome = project.run(*rest, verb=verb, env={"NO_COLOR": "1"}, stderr=subprocess.STDOUT)
            status, output = outcome.exit, outcome.out
        assert status == int(exit_code or 0), f"$ {command}\n{output}"
        if expected.strip():
            assert doctest.OutputChecker().check_output(expected, output, ELLIPSIS), f"$ {command}\n{output}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" not in target:
            assert (page.parent / target).exists(), target
