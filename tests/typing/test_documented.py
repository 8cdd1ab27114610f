"""mypy --strict accepts what the pages show as typed, and the types that it sees are the ones that they say."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT, Project
from pages import PAGES, blocks

pytest.importorskip("mypy", reason="mypy comes with the extra `dev`")

TYPED = [page for page in PAGES if any(block.info == "typed" for block in blocks(page))]
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
    reveal_type(runner.load("tasks.toml"))  # -> runner.config.model.Config
    reveal_type(runner.run("tasks.toml").tasks["double"].results)  # -> dict[str, Any]
    reveal_type(run_task(double, [1]).items)  # -> list[Any]
"""


def mypy(folder, *files):
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", os.devnull, *files]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_what_a_page_shows_as_typed_is(page, tmp_path):
    typed = {block.options["file"]: block.text for block in blocks(page) if block.info == "typed"}
    Project(tmp_path).write(typed)
    done = mypy(tmp_path, *typed)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_types_that_users_see(tmp_path):
    Project(tmp_path).write({"sample.py": SAMPLES})
    found = [
        line.partition('"')[2].rstrip('"').replace("builtins.", "")
        for line in mypy(tmp_path, "sample.py").stdout.splitlines()
    ]
    assert found == [line.partition("# -> ")[2] for line in SAMPLES.splitlines() if "# -> " in line]


def test_what_is_wrong_is_refused(tmp_path):
    Project(tmp_path).write({"wrong.py": "import runner\nrunner.run(3)\nrunner.load('x').tsaks\nrunner.no_such_name\n"})
    lines = mypy(tmp_path, "wrong.py").stdout.splitlines()
    assert [line.rpartition("[")[2] for line in lines] == ["arg-type]", "attr-defined]", "attr-defined]"]
