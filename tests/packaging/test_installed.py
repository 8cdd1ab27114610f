"""The wheel in fresh environments, away from the repository: each Python, each extra, lowest and newest versions."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import tomllib
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from fresh_environments import (
    LIMIT,
    Distributions,
    Environment,
    classified_pythons,
    execute,
    find_python,
    lowest_versions,
    project_table,
)
from helpers import ROOT

from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Extras that change what runner does, without Ray, which is only resolved here: 200 MB.
EXTRAS = ("cluster", "metrics", "watch")
#: One file that needs other machines; 30 items.
AGENTS = """
[run]
engine = "agents"

[agents]
listen = "127.0.0.1:0"

[queues]
numbers = {}

[tasks.read]
call    = "std.range"
args    = [0, 30]
outputs = "numbers"
mode    = "thread"

[tasks.print]
inputs = "numbers"
mode   = "process"
batch  = 30
"""
WATCHED = """
[tasks.show]
mode = "thread"
"""
SHOW = """
from runner import task

@task
def show():
    print("one")
"""


@pytest.fixture(scope="module")
def bare(distributions: Distributions, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with runner and the newest versions of what it requires, and no extra."""
    env = Environment.create(tmp_path_factory.mktemp("bare") / "env")
    env.install(str(distributions.wheel))
    return env


# --- every Python ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [*classified_pythons(), "3.14t"])
def test_a_job_is_made_run_and_tested_in_an_empty_folder(distributions, tmp_path, version):
    python = find_python(version)
    if python is None:
        pytest.skip(f"Python {version} is not here")
    env = Environment.create(tmp_path / "env", python)
    env.install(str(distributions.wheel))
    before = env.package_files()
    folder = tmp_path / "empty"
    folder.mkdir()
    assert env.runner("--version", cwd=folder) == f"runner {__version__}\n"
    assert execute(env.python, "-m", "runner", "--version", cwd=folder) == f"runner {__version__}\n"
    env.runner("new", "job", "hello", cwd=folder)
    told = env.runner("run", "-C", "hello", cwd=folder)
    assert {"show | Hello, Ada!", "show | Hello, Edsger!", "show | Hello, Grace!"} <= set(told.splitlines()), told
    assert "3 read = 3 done + 0 dead + 0 dropped + 0 left" in told
    assert "3 tests: 3 passed" in env.runner("test", "-C", "hello", cwd=folder)
    assert "no problem" in env.runner("check", "-C", "hello", cwd=folder)
    page = env.runner("report", "-C", "hello", cwd=folder)
    assert "report.html" in page, page
    assert env.package_files() == before, "an installed package writes nothing into its own folder"


def test_commands_of_tools_that_give_each_command_an_environment(distributions, tmp_path):
    places = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    uv = [sys.executable, "-m", "uv", "tool", "install", "-q", "--python", sys.executable]
    execute(*uv, str(distributions.wheel), cwd=tmp_path, **places)
    commands = [tmp_path / "bin/runner"]
    if pipx := shutil.which("pipx"):
        places = {"PIPX_HOME": str(tmp_path / "pipx"), "PIPX_BIN_DIR": str(tmp_path / "pipx-bin")}
        execute(pipx, "install", str(distributions.wheel), cwd=tmp_path, **places)
        commands.append(tmp_path / "pipx-bin/runner")
    for command in commands:
        assert execute(str(command), "--version", cwd=tmp_path) == f"runner {__version__}\n"


# --- every extra -----------------------------------------------------------------------------------------------------


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@contextmanager
def started(env: Environment, *arguments: str, cwd: Path) -> Iterator[Callable[[str], str]]:
    """Start the command, and give a function that reads its output up to a text; the command is killed after LIMIT."""
    process = env.start(*arguments, cwd=cwd)
    timer = threading.Timer(LIMIT, process.kill)
    timer.start()
    told: list[str] = []

    def read_until(text: str) -> str:
        assert process.stdout is not None
        for line in process.stdout:
            told.append(line)
            if text in line:
                return line
        pytest.fail(f"ended without {text!r}:\n{''.join(told)}")

    try:
        yield read_until
        process.send_signal(signal.SIGINT)
        process.wait(LIMIT)
    finally:
        timer.cancel()
        timer.join()
        process.kill()
        process.communicate()


def use_metrics(env: Environment, folder: Path) -> None:
    """Run the example that exports metrics, and read the file that it leaves."""
    shutil.copytree(
        ROOT / "examples/metrics", folder / "metrics", ignore=shutil.ignore_patterns(".runner", "__pycache__")
    )
    variables = {"RUNNER_METRICS": "127.0.0.1:0", "RUNNER_METRICS_FILE": "metrics.prom"}
    env.runner("run", "-p", "parcels=20", "-p", "seconds=0", cwd=folder / "metrics", **variables)
    assert 'runner_items_total{how="done",task="weigh"} 20.0' in (folder / "metrics/metrics.prom").read_text()


def use_watch(env: Environment, folder: Path) -> None:
    """Change a plugin under `--watch`: the file is run again."""
    write(folder, {"tasks.toml": WATCHED, "plugins/w.py": SHOW})
    with started(env, "run", "--watch", "--log", "raw", cwd=folder) as read_until:
        read_until("Ctrl-C ends")
        write(folder, {"plugins/w.py": SHOW.replace("one", "two")})
        read_until("plugins changed: running again")
        read_until("two")
        read_until("Ctrl-C ends")


def use_cluster(env: Environment, folder: Path) -> None:
    """Run a file whose worker lives at an agent, over TLS."""
    write(folder, {"tasks.toml": AGENTS})
    with started(env, "run", cwd=folder) as read_until:
        assert "--join" in read_until("runner agent --join")
        env.runner("agent", "--join", ".runner/runs/last/join", cwd=folder)
        read_until("30 read = 30 done + 0 dead + 0 dropped + 0 left")


USES = {"cluster": use_cluster, "metrics": use_metrics, "watch": use_watch}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_alone_does_what_it_is_for(distributions, tmp_path, extra):
    env = Environment.create(tmp_path / "env")
    env.install(f"{distributions.wheel}[{extra}]")
    USES[extra](env, tmp_path)


def test_ray_can_be_resolved(distributions, bare):
    told = bare.install("--dry-run", f"{distributions.wheel}[ray]")
    assert "+ ray==" in told
    assert "+ cryptography==" in told


def test_without_an_extra_its_command_is_named(bare, tmp_path):
    folder = write(tmp_path, {"tasks.toml": AGENTS})
    assert "pip install 'toml-runner[cluster]'" in bare.runner("run", cwd=folder, exit_code=3)
    assert "pip install 'toml-runner[watch]'" in bare.runner("run", "--watch", cwd=folder, exit_code=2)
    assert "pip install 'toml-runner[ray]'" in bare.runner("run", "--engine", "ray", cwd=folder, exit_code=3)
    shutil.copytree(
        ROOT / "examples/metrics", folder / "metrics", ignore=shutil.ignore_patterns(".runner", "__pycache__")
    )
    told = bare.runner("run", "-p", "parcels=1", "-p", "seconds=0", cwd=folder / "metrics")
    assert "pip install 'toml-runner[metrics]'" in told
    doctor = bare.runner("doctor", cwd=folder)
    assert all(f"pip install 'toml-runner[{extra}]'" in doctor for extra in (*EXTRAS, "ray")), doctor


# --- lowest and newest versions --------------------------------------------------------------------------------------


def test_the_lowest_versions_that_are_allowed_will_do(distributions, tmp_path):
    lowest = lowest_versions(*EXTRAS)
    env = Environment.create(
        tmp_path / "env", find_python(project_table()["requires-python"].removeprefix(">=")) or sys.executable
    )
    (tmp_path / "lowest.txt").write_text("\n".join(map(str, lowest)))
    env.install("-c", str(tmp_path / "lowest.txt"), f"{distributions.wheel}[{','.join(EXTRAS)}]")
    versions = env.versions()
    assert [pin for pin in lowest if versions[pin.name] not in pin.specifier] == []
    for extra in EXTRAS:
        folder = tmp_path / extra
        folder.mkdir()
        USES[extra](env, folder)
    use_everything_else(env, tmp_path / "bakery")


def test_the_newest_versions_will_do(bare, tmp_path):
    use_everything_else(bare, tmp_path / "bakery")


def use_everything_else(env: Environment, folder: Path) -> None:
    """Use each library that is not an extra: the tutorial's file through the commands that read, draw and report."""
    write(folder, {name: (ROOT / name).read_text() for name in ("tasks.toml", "plugins/bakery.py", "plugins/stage.py")})
    assert "no problem" in env.runner("check", cwd=folder)
    assert "Usage: runner run" in env.runner("run", "--help", cwd=folder)
    assert "0 dead + 0 dropped + 0 left" in env.runner("run", cwd=folder)
    assert "bake" in env.runner("run", "--dry-run", cwd=folder)
    assert "bread" in env.runner("graph", cwd=folder)
    assert "passed" in env.runner("test", cwd=folder)
    assert json.loads(env.runner("report", "--json", cwd=folder))["title"] == "Bakery"
    assert "report.html" in env.runner("report", cwd=folder)
    assert json.loads(env.runner("schema", cwd=folder))["type"] == "object"
    assert tomllib.loads(env.runner("show", cwd=folder))["title"] == "Bakery"
    assert "did you mean `size`?" in env.runner("check", "--set", "queues.bread.sice=1", cwd=folder, exit_code=3)
