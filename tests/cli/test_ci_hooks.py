"""The hooks for pre-commit and the action for GitHub: their files are valid, and what they execute finds errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import ROOT

BIN = Path(sys.executable).parent
HOOKS = ROOT / ".pre-commit-hooks.yaml"
ACTION = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
GOOD = '[tasks.a]\ncall = "os:getcwd"\n'
BAD = '[tasks.a]\ncall = "os:getcwd"\nwrokers = 2\n'
IDS = [hook["id"] for hook in yaml.safe_load(HOOKS.read_text(encoding="utf-8"))]


def sh(*command, folder, **env):
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path):
    """A repository with one file that is right and one that is wrong."""
    for name, text in {"good/tasks.toml": GOOD, "bad/tasks-nightly.toml": BAD, "other.toml": "x = 1\n"}.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "repository"


def test_the_hooks_are_for_files_of_tasks_only():
    for hook in yaml.safe_load(HOOKS.read_text(encoding="utf-8")):
        pattern = re.compile(hook["files"])
        assert [bool(pattern.search(name)) for name in ("tasks.toml", "a/tasks-async.toml", "pyproject.toml")] == [
            True, True, False,
        ]  # fmt: skip


@pytest.mark.slow  # three starts of pre-commit and git
@pytest.mark.parametrize("hook", IDS)
def test_pre_commit_executes_the_hook(hook, repository, tmp_path):
    if not (BIN / "pre-commit").exists() or shutil.which("git") is None:
        pytest.skip("pre-commit or git is not installed: `pip install pre-commit`")
    manifest = HOOKS.read_text(encoding="utf-8").replace(
        "language: python", "language: system"
    )  # what is installed here
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / HOOKS.name).write_text(manifest)
    assert sh(BIN / "pre-commit", "validate-manifest", HOOKS, folder=tmp_path) == (0, "")
    env = {"PATH": f"{BIN}:{os.environ['PATH']}", "PRE_COMMIT_HOME": str(tmp_path / "cache")}
    me = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for folder in (hooks, repository):
        assert sh("git", "init", "-q", folder=folder)[0] == 0
        assert sh("git", "add", "-A", folder=folder)[0] == 0
        assert sh("git", *me, "commit", "-q", "-m", "x", folder=folder)[0] == 0
    status, said = sh(BIN / "pre-commit", "try-repo", hooks, hook, "--all-files", folder=repository, **env)
    assert status == 1, said
    assert "bad/tasks-nightly.toml:3:1: E104 unknown key `wrokers`" in said
    assert "other.toml" not in said
    (repository / "bad/tasks-nightly.toml").write_text(GOOD)
    status, said = sh(BIN / "pre-commit", "try-repo", hooks, hook, "--all-files", folder=repository, **env)
    assert status == 0, said


def step(name):
    [found] = [each for each in ACTION["runs"]["steps"] if each["name"] == name]
    return found


def test_the_action_puts_no_input_into_a_script():
    assert ACTION["runs"]["using"] == "composite"
    for each in ACTION["runs"]["steps"]:
        assert each["shell"] == "bash"
        assert "${{" not in each["run"]
        for value in each["env"].values():
            [name] = re.findall(r"^\$\{\{ inputs\.(\w+) \}\}$", value)
            assert name in ACTION["inputs"]


@pytest.mark.parametrize(
    ("env", "status"), [({}, 3), ({"FILES": "good/*.toml"}, 0), ({"FILES": "good/tasks.toml bad/*.toml"}, 3)]
)
def test_the_step_of_the_action_annotates(repository, tmp_path, env, status):
    found = step("Check")
    given = {
        "COMMAND": str(BIN / "runner"),
        "FILES": "*/*.toml",
        "STRICT": "false",
        "RUNNER_TEMP": str(tmp_path),
        **env,
    }
    # As GitHub starts a step whose shell is bash.
    code, said = sh("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", found["run"], folder=repository, **given)
    assert code == status, said
    expected = "::error file=bad/tasks-nightly.toml,line=3,endLine=3,col=1,endColumn=7,title=E104::unknown key"
    assert said.startswith(expected) if status else said == "", said


@pytest.mark.parametrize(
    ("file", "message", "written"),
    [
        ("a,b:c%.toml", "x", "::error file=a%2Cb%3Ac%25.toml,line=2,endLine=2,col=3,endColumn=6,title=E104::x"),
        ("x.toml", "a: 50%\r\n::warning::b, c", "title=E104::a: 50%25%0D%0A::warning::b, c"),
    ],
)
def test_what_github_would_read_as_its_own_is_escaped(file, message, written):
    """As its toolkit does: `%`, CR and LF in messages; `:` and `,` in properties as well."""
    from runner.cli.check import _github_command
    from runner.problems import Location, Problem

    assert _github_command(Problem("E104", message, Location(file, 2, 3, 4))).endswith(written)
