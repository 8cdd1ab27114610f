"""For the tests of plugins and of files: one function over some items, or a whole file, and what came of it.

Opt in with `pytest_plugins = "runner.testing"`, which brings the fixture `project`; `run_task` and `run_file` are plain
functions. Everything runs in the process of the test, so items are Python objects, and threads can be mocked.
Each run has a time limit, so a test ends. (PYTEST_DONT_REWRITE: there is no assert in here.)
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import itertools
import re
import sys
import tempfile
import textwrap
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from runner import api
from runner.config.task_selection import select_tasks
from runner.errors import PluginError
from runner.structs import dataclass
from runner.tasks import Reference, inspect_shape
from runner.testing.running import Run, Running, TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from runner.supervisor import Plan

__all__ = ["Project", "Run", "Running", "TaskRun", "project", "run_file", "run_task"]

_numbers = itertools.count()
_LIMIT = 30.0


def run_task(
    function: Callable[..., Any],
    items: Iterable[Any] | None = None,
    *,
    mode: Literal["thread", "process"] = "thread",
    workers: int | list[str] = 1,
    args: Collection[Any] = (),
    with_: Mapping[str, Any] | None = None,
    ports: Collection[str] | None = None,
    timeout: float = _LIMIT,
    **options: Any,
) -> TaskRun:
    """Run one task function over `items` (None: it has no inputs), and return its outputs.

    `args` and `with_` are what the file would say; so are `options`: `attempts`, `batch`, `ordered`, `on_error`, ...
    `ports` names the outputs; by default there is one, and none for a function without items that does not yield.
    `timeout` limits the whole run, in seconds: TimeoutError. (A task's own key `timeout` is spelt `item_timeout`.)
    In process mode the function must be found by its name in its module, in threads anything callable will do.
    """
    word = str(getattr(function, "__name__", type(function).__name__))
    name = "_".join(re.findall(r"\w+", word))[:60] or "function"
    reference = _importable_reference(function, word) if mode == "process" else None

    def change(plan: Plan) -> Plan:
        if reference is None:
            return plan
        return replace(plan, tasks={**plan.tasks, name: replace(plan.tasks[name], reference=reference)})

    outputs = _default_ports(function, items is not None) if ports is None else tuple(ports)
    if "item_timeout" in options:
        options["timeout"] = options.pop("item_timeout")
    table: dict[str, Any] = {**options, "mode": mode, "workers": workers}
    table |= {"args": list(args), "with": dict(with_ or {}), "outputs": {port: f"out-{port}" for port in outputs}}
    feed, queues = {}, [f"out-{port}" for port in outputs]
    if items is not None:
        feed["items"], table["inputs"] = items, ["items"]
        if options.get("on_error", "dead") == "dead":
            table["dead"] = "dead"
            queues.append("dead")
    with tempfile.TemporaryDirectory(prefix="runner-test-") as folder, _function_module(name, function) as module:
        table["call"] = f"{module}:{name}"
        # A mistake in the task's table is shown as the line that a file would have.
        keys = "".join(f"{key} = {api.to_toml(value)}\n" for key, value in table.items())
        text = f"[tasks.{api.to_toml(name)}]\n{keys}[queues]\n"
        path = Path(folder, f"run_task({name})")
        path.write_text(text + "".join(f"{queue} = {{}}\n" for queue in [*queues, *feed]), encoding="utf-8")
        run = Running(api.read_config(path, None, None), feed, queues, timeout, change).finish()
    dead = run.outputs.pop("dead", [])
    by_port = {queue.removeprefix("out-"): found for queue, found in run.outputs.items()}
    return TaskRun(run.result, by_port, run.events, run.out, run.err, dead)


def _default_ports(function: Callable[..., Any], inputs: bool) -> tuple[str, ...]:
    """Return the outputs that a function has by default: without items, only what yields or puts has any."""
    form = inspect_shape(function)
    return ("default",) if inputs or form.call_kind in {"generator", "asyncgen"} or form.outboxes else ()


def run_file(path: str | Path, **given: Any) -> Run:
    """Run a file as it is; the arguments are those of `Project.run`."""
    path = Path(path)
    return Project(path.parent).run(path.name, **given)


@dataclass(frozen=True)
class Project:
    """A folder with a file of tasks and its plugins."""

    path: Path

    def write(self, files: Mapping[str, str]) -> Project:
        """Write files (names may lead into folders); their text is dedented."""
        for name, text in files.items():
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text.lstrip("\n")), encoding="utf-8")
        return self

    def run(self, file: str = "tasks.toml", **given: Any) -> Run:
        """Run a file to its end.

        `params` and `set` as in `runner.run`; `only` and `skip` name tasks; `timeout` (seconds) limits the run.
        `feed` puts items into queues: `{"paths": ["a", "b"]}`; a source all of whose queues are fed is left out.
        `collect` names queues whose items are wanted: a queue without a reader gets one, of others it is a copy.
        """
        return self.start(file, **given).finish()

    def start(
        self,
        file: str = "tasks.toml",
        *,
        params: Mapping[str, Any] | None = None,
        set: Mapping[str, Any] | None = None,  # noqa: A002  the name of the option
        feed: Mapping[str, Iterable[Any]] | None = None,
        collect: Collection[str] = (),
        only: Collection[str] = (),
        skip: Collection[str] = (),
        timeout: float = _LIMIT,
    ) -> Running:
        """Start a file, and return while it runs; the arguments are those of `run`. `finish` it in any case."""
        config = select_tasks(api.read_config(self.path / file, params, set), only, skip)
        return Running(config, feed or {}, collect, timeout)


@pytest.fixture
def project(tmp_path: Path) -> Callable[[Mapping[str, str]], Project]:
    """Write a temporary project: `project({"tasks.toml": text, "plugins/x.py": text}).run(...)`."""
    return lambda files: Project(tmp_path).write(files)


# -- functions of a test, where workers find them ---------------------------------------------


@contextlib.contextmanager
def _function_module(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """While it is entered, a module of this process has the function: the one that is yielded."""
    module = types.ModuleType(f"_runner_test_functions_{next(_numbers)}")
    setattr(module, name, function)
    sys.modules[module.__name__] = module
    try:
        yield module.__name__
    finally:
        del sys.modules[module.__name__]


def _importable_reference(function: Callable[..., Any], word: str) -> Reference:
    """Return where a new process finds a function: by import, or else in the file of its module."""
    name, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    module = sys.modules.get(name or "")
    try:
        reference = Reference(name or "", qualname or "")
        found = module is not None and name != "__main__" and reference.load_callable() is function
    except (AttributeError, ImportError, ValueError):
        found = False
    if not found or module is None:
        raise PluginError(
            f"`{qualname or word}` cannot be found by a process: it is not at the top of a module that can be imported",
            "E308",
            'define it at the top of the test module or of a plugin, or say mode="thread"',
        )
    file = getattr(module, "__file__", None)
    if file is None or not file.endswith(".py") or _is_importable(module.__name__, file):
        return reference
    return Reference(reference.module, reference.qualname, file)


def _is_importable(name: str, file: str) -> bool:
    """Return True if `import` in a new process gives this file; pytest may have loaded it in a way of its own."""
    search: Any = sys.path
    parts = name.split(".")
    spec = None
    for end in range(1, len(parts) + 1):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[:end]), search) if search is not None else None
        if spec is None:
            return False
        search = spec.submodule_search_locations
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() == Path(file).resolve()
