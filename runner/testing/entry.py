"""The functions that tests call."""

from __future__ import annotations

import importlib.machinery
import re
import sys
import tempfile
import textwrap
import types
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from runner import api
from runner.config.overrides import select_tasks
from runner.config.resolved import to_toml
from runner.errors import PluginError
from runner.structs import dataclass
from runner.tasks import Reference, inspect_shape
from runner.testing.running import Run, Running, TaskRun

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from runner.supervisor import Plan

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
    functions = _FunctionModule()
    name = functions.add_function(function, mode)
    outputs = _default_ports(function, items is not None) if ports is None else tuple(ports)
    if "item_timeout" in options:
        options["timeout"] = options.pop("item_timeout")
    table: dict[str, Any] = {**options, "call": functions.call_string(name), "mode": mode, "workers": workers}
    table |= {"args": list(args), "with": dict(with_ or {}), "outputs": {port: f"out-{port}" for port in outputs}}
    feed, queues = {}, [f"out-{port}" for port in outputs]
    if items is not None:
        feed["items"], table["inputs"] = items, ["items"]
        if options.get("on_error", "dead") == "dead":
            table["dead"] = "dead"
            queues.append("dead")
    # A mistake in the task's table is shown as the line that a file would have.
    text = f"[tasks.{to_toml(name)}]\n" + "".join(f"{key} = {to_toml(value)}\n" for key, value in table.items())
    text += "[queues]\n" + "".join(f"{queue} = {{}}\n" for queue in [*queues, *feed])
    with functions, tempfile.TemporaryDirectory(prefix="runner-test-") as folder:
        path = Path(folder, f"run_task({name})")
        path.write_text(text, encoding="utf-8")
        config = api.read_config(path, None, None)
        run = Running(config, feed, queues, timeout, functions.with_importable_references).finish()
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


# -- functions of a test, where workers find them ---------------------------------------------


class _FunctionModule:
    """While it is entered, a module of this process holds the functions; workers find those of process tasks."""

    def __init__(self) -> None:
        self._module = types.ModuleType(f"_runner_test_functions_{id(self):x}")
        self._references: dict[str, Reference] = {}

    def add_function(self, function: Callable[..., Any], mode: str) -> str:
        """Take a function in, and return its name; PluginError when processes could not import it."""
        word = str(getattr(function, "__name__", type(function).__name__))
        name = "_".join(re.findall(r"\w+", word))[:60] or "function"
        setattr(self._module, name, function)
        if mode == "process":
            self._references[name] = _importable_reference(function, word)
        return name

    def call_string(self, name: str) -> str:
        """Return the value of `call` for a file."""
        return f"{self._module.__name__}:{name}"

    def with_importable_references(self, plan: Plan) -> Plan:
        """Return the plan with the places where processes find the functions."""
        tasks = {
            name: replace(task, reference=self._references[name]) if name in self._references else task
            for name, task in plan.tasks.items()
        }
        return replace(plan, tasks=tasks)

    def __enter__(self) -> _FunctionModule:
        sys.modules[self._module.__name__] = self._module
        return self

    def __exit__(self, *_: object) -> None:
        del sys.modules[self._module.__name__]


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
