"""From nothing to a plugin of one's own: the commands of the page, to the letter, in a new environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
from doc_blocks import blocks
from fresh_environments import build_wheel
from helpers import ROOT

PAGE = ROOT / "docs/tutorial/first-plugin.md"
#: What the project promises to a person who has only Python.
MOST_COMMANDS, MOST_SECONDS = 8, 600
PUBLISHED = ROOT / "docs/how-to/publish-a-plugin.md"
TRIED = next(block.text for block in blocks(PUBLISHED) if block.language == "sh").splitlines()
COMMANDS = next(block.text for block in blocks(PAGE) if block.language == "sh").splitlines()


def test_there_are_at_most_eight_commands():
    assert all(line.strip() for line in COMMANDS)
    assert not [line for line in COMMANDS if any(mark in line for mark in ("&&", ";", "|", "#"))]
    assert len(COMMANDS) <= MOST_COMMANDS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of this repository, in a folder of its own, which stands for the index."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("index"))


@pytest.fixture(scope="module")
def person(tmp_path_factory, wheel):
    """`person(commands)`: what a person types into one shell, in an empty folder; returns what it says."""
    folder = tmp_path_factory.mktemp("person")
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    own = {
        "PIP_FIND_LINKS": str(wheel.parent),  # with the index, which has what runner needs
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_QUIET": "1",
        "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin",  # without the environment of the tests
        "HOME": str(folder),
    }

    def types(*commands, cwd="."):
        script = "\n".join(["set -e", *commands])
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder / cwd, env={**environment, **own}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=MOST_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    return types


@pytest.fixture(scope="module")
def first_plugin(person):
    """What the commands of the page say, and how long they took."""
    began = time.monotonic()
    said = person(*COMMANDS)
    return said, time.monotonic() - began


@pytest.mark.slow  # a new environment is made, and all that runner requires is installed there
@pytest.mark.timeout(900)
def test_the_commands_of_the_page_lead_to_a_plugin(first_plugin, capsys):
    said, seconds = first_plugin
    with capsys.disabled():
        print(f"\n{PAGE.relative_to(ROOT)}: {len(COMMANDS)} commands, {seconds:.0f} s")
    assert seconds < MOST_SECONDS
    assert " passed in " in said
    assert sorted(line for line in said.splitlines() if line.startswith("show | ")) == [
        "show | ONE!", "show | THREE!", "show | TWO!",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_another_file_and_a_job_use_it_there(first_plugin, person):
    activate = ". .venv/bin/activate"
    file = (
        '[queues]\nloud = {}\nwords = {}\n[tasks.words]\ncall = "kitchen.words"\noutputs = ["words"]\n'
        '[tasks.shout]\ncall = "kitchen.shout"\ninputs = ["words"]\noutputs = ["loud"]\n'
        '[tasks.show]\ncall = "builtins:print"\ninputs = ["loud"]\n'
    )
    said = person(activate, "mkdir user && cd user", f"cat > tasks.toml <<'END'\n{file}END", "runner run")
    assert "show | THREE!" in said
    person(activate, "runner new job errand")
    assert "5 passed" in person(activate, "cd errand", "pytest -q")
    assert "3 passed" in person(activate, "cd errand", "runner test")


@pytest.mark.slow  # one more environment: what the page says of publishing, to the letter
@pytest.mark.timeout(900)
def test_what_others_will_get_is_tried_as_the_page_says(first_plugin, person):
    said = person(". .venv/bin/activate", "cd runner-kitchen", *TRIED)
    assert " passed in " in said
    assert "kitchen" in said
    assert "show | THREE!" in said


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_environment_has_what_shells_and_man_look_for(first_plugin, person):
    for name in (
        "man/man1/runner.1", "bash-completion/completions/runner", "zsh/site-functions/_runner",
        "fish/vendor_completions.d/runner.fish",
    ):  # fmt: skip
        person(f"test -s .venv/share/{name}")
    if shutil.which("man"):
        assert "/person" in (found := person(". .venv/bin/activate", "man -w runner")), found


@pytest.mark.slow
def test_the_wheel_has_templates_and_types(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "runner/py.typed" in names
    here = [*(ROOT / "runner/cli/templates").rglob("*.in"), *(ROOT / "runner/cli/completions").iterdir()]
    assert {path.relative_to(ROOT).as_posix() for path in here} <= names
