"""`.ci/release`: what it builds, and what it refuses, in a clone of its own with tags of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from fresh_environments import Environment, clean_environment, copy_repository, execute, repository_files

from runner.version import __version__

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TAG, HEADING = f"v{__version__}", f"## [{__version__}]"


@pytest.fixture(scope="module")
def tools(tmp_path_factory):
    """A Python with what a release needs."""
    env = Environment.create(tmp_path_factory.mktemp("tools") / "env")
    env.install("hatchling", "twine")
    return env.python


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A repository with one commit, which is ready for its release."""
    folder = tmp_path_factory.mktemp("clone")
    copy_repository(folder, repository_files())
    changes = (folder / "CHANGELOG.md").read_text()
    (folder / "CHANGELOG.md").write_text(changes.replace(f"{HEADING} - Unreleased", f"{HEADING} - 2026-12-01"))
    git(folder, "init", "-q")
    commit(folder)
    return folder


def git(folder: Path, *arguments: str) -> str:
    return execute("git", *arguments, cwd=folder)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=A", "-c", "user.email=a@example.org", "commit", "-q", "-m", "One")


def release(clone: Path, tools: str, tag: str, out: Path) -> tuple[int, str]:
    told = subprocess.run(
        [clone / ".ci/release", tag, out], env=clean_environment(PYTHON=tools), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    return told.returncode, told.stdout


def test_a_release_is_built_checked_and_listed(clone, tools, distributions, tmp_path):
    status, told = release(clone, tools, TAG, tmp_path / "new/dist")
    assert status == 0, told
    assert told.count("PASSED") == 2
    assert f"toml_runner-{__version__}/runner/version.py\n" in told
    assert "runner/py.typed " in told
    assert told.endswith(f"{TAG} is ready in {tmp_path}/new/dist\n")
    names = {distributions.sdist.name, distributions.wheel.name}
    assert {path.name for path in (tmp_path / "new/dist").iterdir()} == names
    assert git(clone, "status", "--porcelain") == ""
    for name in names:  # what is published can be made again from what is published
        assert f"  {name}\n" in told
    again = [sys.executable, "-m", "uv", "build", "-q", "--wheel", "--out-dir", str(tmp_path / "again")]
    execute(*again, str(tmp_path / "new/dist" / distributions.sdist.name), cwd=tmp_path)
    published, rebuilt = (tmp_path / folder / distributions.wheel.name for folder in ("new/dist", "again"))
    assert rebuilt.read_bytes() == published.read_bytes()


def test_everything_that_is_wrong_is_said_at_once(clone, tmp_path):
    changes = clone / "CHANGELOG.md"
    before = changes.read_text()
    (tmp_path / "dist").mkdir()
    bare = Environment.create(tmp_path / "bare").python
    try:
        changes.write_text(before.replace(f"{HEADING} - 2", f"{HEADING} - Unreleased, 2"))
        status, told = release(clone, bare, "v9.9.9", tmp_path / "dist")
    finally:
        changes.write_text(before)
    assert status == 1
    assert f"the tag is v9.9.9, but runner/version.py says {__version__}" in told
    assert f"CHANGELOG.md has no heading '## [{__version__}] - YYYY-MM-DD'" in told
    assert "files differ from the commit" in told
    assert f"{tmp_path}/dist is there already" in told
    assert f"install both: {bare} -m pip install hatchling twine" in told
    assert list((tmp_path / "dist").iterdir()) == []


def test_two_builds_that_differ_are_refused(clone, tools, tmp_path):
    """Plant a build hook that writes the time into a module."""
    hook = clone / "hatch_build.py"
    hook.write_text(
        "import os\n"
        "from hatchling.builders.hooks.plugin.interface import BuildHookInterface\n\n\n"
        "class CustomBuildHook(BuildHookInterface):\n"
        "    def initialize(self, version, build_data):\n"
        "        with open('runner/built.py', 'w') as file:\n"
        "            file.write(f'ROOT = {self.root!r}\\n')\n"
    )
    settings = clone / "pyproject.toml"
    settings.write_text(
        settings.read_text().replace("[tool.hatch.version]", "[tool.hatch.build.hooks.custom]\n\n[tool.hatch.version]")
    )
    commit(clone)
    try:
        status, told = release(clone, tools, TAG, tmp_path / "dist")
    finally:
        git(clone, "reset", "-q", "--hard", "HEAD~1")
    assert status == 1
    assert f"two builds differ; nothing is left in {tmp_path}/dist" in told
    assert not (tmp_path / "dist").exists()
