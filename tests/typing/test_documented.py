"""mypy --strict accepts what the pages and `runner new` show, and the types that it sees are the ones they say."""

import doctest
import os
import subprocess
import sys

import pytest
from doc_blocks import PAGES, blocks
from helpers import ROOT, Project

from runner.cli import new

pytest.importorskip("mypy", reason="mypy comes with the extra `dev`")

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


@pytest.fixture(scope="module")
def mypy(tmp_path_factory):
    """Runs `mypy --strict` over files of a folder; what it learns of runner serves all tests of this module."""
    cache = tmp_path_factory.mktemp("mypy")

    def check(folder, files):
        command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", str(cache), *files]
        environment = {**os.environ, "MYPYPATH": str(ROOT)}
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110)

    return check


def session(text):
    """The statements of an interactive session, as a file."""
    return "".join(example.source for example in doctest.DocTestParser().get_examples(text))


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_is_typed(page, tmp_path, mypy):
    files = {block.options["file"]: block.text for block in blocks(page) if block.language == "python"}
    sessions = [session(block.text) for block in blocks(page) if block.language == "pycon"]
    files |= {f"session_{number}.py": text for number, text in enumerate(sessions)}
    Project(tmp_path).write(files)
    done = mypy(tmp_path, files)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["job", "plugin"])
def test_what_runner_new_writes_is_typed(kind, tmp_path, mypy, monkeypatch):
    monkeypatch.chdir(tmp_path)
    getattr(new, kind)("kitchen")
    done = mypy(tmp_path, sorted(map(str, tmp_path.rglob("*.py"))))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_that_users_see(tmp_path, mypy):
    Project(tmp_path).write({"sample.py": SAMPLES})
    found = [
        line.partition('"')[2].rstrip('"').replace("builtins.", "")
        for line in mypy(tmp_path, ["sample.py"]).stdout.splitlines()
    ]
    assert found == [line.partition("# -> ")[2] for line in SAMPLES.splitlines() if "# -> " in line]


def test_what_is_wrong_is_refused(tmp_path, mypy):
    Project(tmp_path).write({"wrong.py": "import runner\nrunner.run(3)\nrunner.load('x').tsaks\nrunner.no_such_name\n"})
    lines = mypy(tmp_path, ["wrong.py"]).stdout.splitlines()
    assert [line.rpartition("[")[2] for line in lines] == ["arg-type]", "attr-defined]", "attr-defined]"]
