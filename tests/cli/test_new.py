"""`runner new`: what it writes runs at once, and its tests pass."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, Project

from runner.cli import new


def pytest_in(folder, *, python=sys.executable, env=None):
    """Run the tests of a folder as its owner would; runner is importable from anywhere."""
    # Templates ask for no plugin of pytest; to import those of this environment takes longer than their tests.
    path = {} if python != sys.executable else {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder, env={**os.environ, **path, **(env or {})}, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".runner" not in path.parts
    }


def test_a_job_runs_and_its_tests_pass(tmp_path):
    made = Project(tmp_path).run("job", "My-Job", verb="new")
    assert made.exit == 0, made
    assert len(made.out.splitlines()) == 3
    folder = tmp_path / "My-Job"
    assert files(folder) == {
        "tasks.toml", "tasks.schema.json", "plugins/my_job.py", "tests/test_my_job.py", "README.md", ".gitignore",
    }  # fmt: skip
    outcome = Project(folder).run()
    assert outcome.exit == 0, outcome
    assert outcome.lines == ["show | Hello, Ada!", "show | Hello, Edsger!", "show | Hello, Grace!"]
    status, text = pytest_in(folder)
    assert status == 0, text


def test_a_plugin_is_a_distribution(tmp_path):
    made = Project(tmp_path).run("plugin", "kitchen-tools", verb="new")
    assert made.exit == 0, made
    assert made.out.splitlines()[1] == "  cd runner-kitchen-tools && pip install -e '.[test]' && pytest"
    folder = tmp_path / "runner-kitchen-tools"
    assert files(folder) == {
        "pyproject.toml", "README.md", ".gitignore", "tasks.toml",
        "src/runner_kitchen_tools/__init__.py", "tests/test_runner_kitchen_tools.py",
    }  # fmt: skip
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    assert "[project.entry-points.runner]" in text
    assert 'kitchen_tools = "runner_kitchen_tools"' in text
    assert not [path for path in folder.rglob("*") if path.is_file() and re.search(r"\$[a-z]", path.read_text("utf-8"))]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a--b", "cannot be a name"),
        ("../x", "cannot be a name"),
        ("1st", "cannot be a name"),
        ("", "cannot be a name"),
        ("x" * 61, "cannot be a name"),
        ("class", "means something already"),
        ("std", "means something already"),
    ],
)
@pytest.mark.parametrize("kind", ["job", "plugin"])
def test_a_name_that_cannot_be_one(tmp_path, monkeypatch, kind, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(new.UsageError, match=said):
        getattr(new, kind)(name)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    made = Project(tmp_path).run("job", "mine", verb="new")
    assert (made.exit, made.err) == (2, "mine is there already; remove it, or choose another name\n")
    assert files(tmp_path) == set()


@pytest.mark.parametrize("name", ["kitchen", "runner-kitchen", "Runner_Kitchen", "runner.kitchen"])
def test_one_plugin_has_one_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    new.plugin(name)
    assert [path.name for path in tmp_path.iterdir()] == ["runner-kitchen"]
    text = (tmp_path / "runner-kitchen/pyproject.toml").read_text(encoding="utf-8")
    assert 'name = "runner-kitchen"' in text
    assert 'kitchen = "runner_kitchen"' in text
