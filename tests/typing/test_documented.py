"""mypy --strict accepts what the pages and `runner new` show, and the types that it sees are the ones they say."""

import contextlib
import doctest
import os
import re
import subprocess
import sys
from pathlib import PurePath

import pytest
from doc_blocks import PAGES, blocks
from helpers import ROOT, Project

from runner.cli import new

pytest.importorskip("mypy", reason="mypy comes with the extra `dev`")
pytestmark = pytest.mark.slow  # .ci/run has a step for it

SHOWN = [page for page in PAGES if any(block.language in ("python", "pycon") for block in blocks(page))]
SAMPLES = """
    import runner
    from runner import Config, Context, Result, task
    from runner.testing import TaskRun, run_task


    @task
    def double(item: int, *, times: int = 2) -> int:
        return times * item


    @task(name="other", mode="thread")
    def other(item: str, context: Context) -> str:
        return item * context.attempt


    reveal_type(double(3))  # -> int
    reveal_type(other)  # -> def (item: str, context: runner.tasks.Context) -> str
    reveal_type(runner.load("tasks.toml"))  # -> runner.model.Config
    reveal_type(runner.run("tasks.toml").tasks["double"].results)  # -> dict[str, Any]
    reveal_type(run_task(double, [1]).items)  # -> list[Any]
"""


WRONG = "import runner\nrunner.run(3)\nrunner.load('x').tsaks\nrunner.no_such_name\n"


def files_of_page(page):
    """Return the files that a page shows, and the statements of each of its sessions as one."""
    files = {block.options["file"]: block.text for block in blocks(page) if block.language == "python"}
    for block in blocks(page):
        if block.language == "pycon":
            statements = doctest.DocTestParser().get_examples(block.text)
            name = re.sub(r"\W", "_", page.relative_to(ROOT).as_posix())
            files[f"session_{name}_{block.line}.py"] = "".join(each.source for each in statements)
    return files


def files_of_template(kind, folder):
    folder.mkdir()
    with contextlib.chdir(folder):
        getattr(new, kind)("kitchen")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*.py"))}
    return {name: path.read_text(encoding="utf-8") for name, path in paths.items()}


@pytest.fixture(scope="module")
def complaints(tmp_path_factory):
    """Return what `mypy --strict` says of each page's, template's and sample's files, by its name.

    It is run once for all those whose modules have different names; that each page has all that its files import is
    shown by running them (`docs/test_examples.py`).
    """
    top = tmp_path_factory.mktemp("typed")
    sources = {page: files_of_page(page) for page in SHOWN}
    sources |= {kind: files_of_template(kind, top / kind) for kind in ("job", "plugin")}
    sources |= {"samples": {"samples.py": SAMPLES}, "wrong": {"wrong.py": WRONG}}
    found = {name: [] for name in sources}
    rest = dict(sources)
    while rest:
        together = {}
        for name, files in rest.items():
            if {PurePath(file).name for file in together}.isdisjoint(PurePath(file).name for file in files):
                together |= dict.fromkeys(files, name)
        folder = tmp_path_factory.mktemp("together")
        Project(folder).write({file: sources[name][file] for file, name in together.items()})
        for line in mypy(folder, top / "cache", together):
            found[together[line.partition(":")[0]]].append(line)
        rest = {name: files for name, files in rest.items() if name not in together.values()}
    return found


def mypy(folder, cache, files):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache), *files]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_is_typed(page, complaints):
    assert not complaints[page]


@pytest.mark.parametrize("kind", ["job", "plugin"])
def test_what_runner_new_writes_is_typed(kind, complaints):
    assert not complaints[kind]


def test_the_types_that_users_see(complaints):
    found = [line.partition('"')[2].rstrip('"').replace("builtins.", "") for line in complaints["samples"]]
    assert found == [line.partition("# -> ")[2] for line in SAMPLES.splitlines() if "# -> " in line]


def test_what_is_wrong_is_refused(complaints):
    assert [line.rpartition("[")[2] for line in complaints["wrong"]] == ["arg-type]", "attr-defined]", "attr-defined]"]
