"""What the integration tests share: a file made of dicts, a plugin of plain task functions, and what was kept."""

from __future__ import annotations

import ast
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from helpers import Project

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from helpers import Outcome

#: `plugins/kit.py` of a test's project. `keep` writes what it receives, one `repr` a line, to a file that `kept` reads.
KIT = '''
import os
import random
import time

from runner import task


@task
def count(stop, *, start=0):
    yield from range(start, stop)


@task
def same(item):
    return item


@task
def add(item, number):
    return item + number


@task
class keep:
    def __init__(self, *, name):
        self.name = name

    def __enter__(self):
        self.file = open(f"{self.name}.kept", "a")

    def __exit__(self, *error):
        self.file.close()

    def __call__(self, item):
        self.file.write(f"{item!r}\\n")


@task
def note(path, text):
    """One line, at once and whole, whoever else writes to the same file."""
    file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{text}\\n".encode())
    finally:
        os.close(file)


def until(path, limit=30.0):
    """Wait for a file, which is how a test says: go on."""
    end = time.monotonic() + limit
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise TimeoutError(f"{path} did not appear")
        time.sleep(0.005)
'''

#: How a plugin of a test imports the others' functions: by the file, since plugins have private names.
USES_KIT = "from .kit import note, until\n"


def value(thing: Any) -> str:
    """A value in TOML."""
    if isinstance(thing, dict):
        return "{ " + ", ".join(f"{key} = {value(each)}" for key, each in thing.items()) + " }"
    if isinstance(thing, (list, tuple)):
        return "[" + ", ".join(map(value, thing)) + "]"
    return json.dumps(thing)


def queues_of(tasks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Every queue that these tasks name."""
    named: list[str] = []
    for table in tasks.values():
        outputs = table.get("outputs", [])
        ports = outputs.values() if isinstance(outputs, dict) else [outputs]
        for group in [table.get("inputs", []), *ports, table.get("dead", [])]:
            named += [group] if isinstance(group, str) else group
    return list(dict.fromkeys(named))


def task_file(
    tasks: Mapping[str, Mapping[str, Any]],
    queues: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    mode: str | None = None,
    run: Mapping[str, Any] | None = None,
) -> str:
    """A `tasks.toml`. Queues that are not described are declared as tasks name them; `mode` is all tasks' default."""
    named = {**{queue: {} for queue in queues_of(tasks)}, **(queues or {})}
    lines = ["[run]", *(f"{key} = {value(each)}" for key, each in (run or {}).items())]
    lines += ["[defaults.task]", f"mode = {value(mode)}"] if mode else []
    lines += ["[queues]", *(f"{name} = {value(table)}" for name, table in named.items())]
    for name, table in tasks.items():
        lines += [f"[tasks.{name}]", *(f"{key} = {value(each)}" for key, each in table.items())]
    return "\n".join(lines) + "\n"


def keeper(queue: str, **table: Any) -> dict[str, Any]:
    """The table of a sink that keeps what comes out of `queue` under that name, in one thread."""
    return {"call": "kit.keep", "with": {"name": queue}, "mode": "thread", "inputs": queue, **table}


@dataclass(frozen=True)
class Finished:
    """A run that has ended, and the folder that it ran in."""

    path: Path
    outcome: Outcome

    def kept(self, queue: str) -> list[Any]:
        """What the keeper of this queue received, in the order in which it did."""
        return [ast.literal_eval(line) for line in self.lines(f"{queue}.kept")]

    def lines(self, name: str) -> list[str]:
        """The lines of a file in the run's folder."""
        return (self.path / name).read_text().splitlines()

    def ok(self) -> Finished:
        """It went well, and the balance holds and says so."""
        assert self.outcome.exit == 0, self.outcome
        told = [" + 0 dead + 0 dropped + 0 left", " task ok", " tasks ok"]  # the last ones: of a run without queues
        assert any(text in self.outcome.err for text in told), self.outcome
        return self


def balance(outcome: Outcome) -> str:
    """The last line on standard error that is not indented: what follows only explains it."""
    return next(line for line in reversed(outcome.err.splitlines()) if " read" in line and " left" in line)


def make(path: Path, toml: str, files: Mapping[str, str | Callable[..., Any]] | None = None) -> Project:
    """A project with this file, the kit, and further files."""
    made = Project(path)
    made.write({"tasks.toml": toml, "plugins/kit.py": KIT, **(files or {})})
    return made


def run(
    path: Path, toml: str, files: Mapping[str, str | Callable[..., Any]] | None = None, *args: object, **how: Any
) -> Finished:
    """Make a project and run it to its end."""
    return Finished(path, make(path, toml, files).run("tasks.toml", *args, **how))


def wait_for(condition: Callable[[], Any], limit: float = 20.0, what: str = "") -> Any:
    """Look until the condition holds; what other processes do has no event to wait for. Fails after `limit` seconds."""
    end = time.monotonic() + limit
    while not (found := condition()):
        assert time.monotonic() < end, f"after {limit:g} s still not: {what or condition}"
        time.sleep(0.005)
    return found
