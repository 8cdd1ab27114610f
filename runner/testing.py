"""For the tests of plugins and of files: one function over some items, or a whole file, and what came of it.

Opt in with `pytest_plugins = "runner.testing"`, which brings the fixture `project`; `run_task` and `run_file` are plain
functions. Everything runs in the process of the test, so items are Python objects, and threads can be mocked.
Each run has a time limit, so a test ends. (PYTEST_DONT_REWRITE: no assert in here is a test's.)
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import io
import itertools
import os
import re
import signal
import sys
import tempfile
import textwrap
import threading
import types
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from runner import api
from runner.config import select_tasks
from runner.config.resolved import to_toml
from runner.engines.engine_events import SignalReceived
from runner.engines.reactor import LocalReactor
from runner.errors import PluginError, UsageError
from runner.fed_runs import FedQueues, is_added_task
from runner.file_tests.processes import PlannedTest, run_tests
from runner.file_tests.reading import read_tests
from runner.file_tests.results import failure_lines
from runner.structs import dataclass, field
from runner.tasks import Reference, inspect_shape

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from runner.api import Result
    from runner.events import Event
    from runner.ledger.balance import Balance
    from runner.model import Config
    from runner.supervisor.plan import Plan
    from runner.tasks import DeadLetter

__all__ = ["Project", "Run", "Running", "TaskRun", "file_tests", "project", "run_file", "run_task"]

_LIMIT = 30.0
_numbers = itertools.count()


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

    if ports is None:  # without items, only what yields or puts has any
        form = inspect_shape(function)
        sends = items is not None or form.call_kind in {"generator", "asyncgen"} or form.outboxes
        ports = ("default",) if sends else ()
    if "item_timeout" in options:
        options["timeout"] = options.pop("item_timeout")
    table: dict[str, Any] = {**options, "mode": mode, "workers": workers}
    table |= {"args": list(args), "with": dict(with_ or {}), "outputs": {port: f"out-{port}" for port in ports}}
    feed, queues = {}, [f"out-{port}" for port in ports]
    if items is not None:
        feed["items"], table["inputs"] = items, ["items"]
        if options.get("on_error", "dead") == "dead":
            table["dead"] = "dead"
            queues.append("dead")
    with tempfile.TemporaryDirectory(prefix="runner-test-") as folder, _function_module(name, function) as module:
        table["call"] = f"{module}:{name}"
        # A mistake in the task's table is shown as the line that a file would have.
        keys = "".join(f"{key} = {to_toml(value)}\n" for key, value in table.items())
        text = f"[tasks.{to_toml(name)}]\n{keys}[queues]\n"
        path = Path(folder, f"run_task({name})")
        path.write_text(text + "".join(f"{queue} = {{}}\n" for queue in [*queues, *feed]), encoding="utf-8")
        run = Running(api.read_config(path, None, None), feed, queues, timeout, change).finish()
    dead = run.outputs.pop("dead", [])
    by_port = {queue.removeprefix("out-"): found for queue, found in run.outputs.items()}
    return TaskRun(run.result, by_port, run.events, run.out, run.err, dead)


def run_file(path: str | Path, **given: Any) -> Run:
    """Run a file as it is; the arguments are those of `Project.run`."""
    path = Path(path)
    return Project(path.parent).run(path.name, **given)


def file_tests(path: str | Path) -> Callable[..., None]:
    """Return a test for pytest, with a case for each of the `[[tests]]` of a file: `test_tasks = ...` names it.

    `path` is relative to the module that calls this. ConfigError when the file or one of its tests is wrong.
    """
    here = Path(sys._getframe(1).f_globals.get("__file__") or "none").parent
    file = os.path.normpath(here / path)
    found = [PlannedTest(file, number, each) for number, each in enumerate(read_tests(file).tests)]
    if not found:
        raise UsageError(f"no test in {path}; a test is a table `[[tests]]`")

    @pytest.mark.parametrize("planned", found, ids=lambda planned: planned.name)
    def run_one(planned: PlannedTest) -> None:
        [result] = run_tests([planned])
        if not result.has_passed:
            pytest.fail("\n".join([planned.name, *failure_lines(result)]), pytrace=False)

    return run_one


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


@dataclass(frozen=True)
class Run:
    """A run that has ended: its result, its events, its output, and the items that were collected.

    `outputs` are the items of each collected queue (of `run_task`: of each port), in the order of their arrival.
    `out` and `err` are what went to standard output and error.
    """

    result: Result
    outputs: dict[str, list[Any]]
    events: list[Event]
    out: str
    err: str

    @property
    def balance(self) -> Balance:
        """The counts of items read, done, dead, dropped and left."""
        return self.result.headline

    @property
    def printed(self) -> list[str]:
        """The lines that tasks have printed, without their workers' names."""
        return [line.partition(" | ")[2] for line in self.out.splitlines()]

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass(frozen=True)
class TaskRun(Run):
    """A run of one task function. `dead` are the items it gave up, each with its error."""

    dead: list[DeadLetter] = field(default_factory=list)

    @property
    def items(self) -> list[Any]:
        """The outputs of the default port."""
        return self.outputs.get("default", [])

    @property
    def returned(self) -> Any:
        """The value that a function without items has returned."""
        return next((task.result for task in self.result.tasks.values()), None)


class Running:
    """A run under way, in a thread of its own. `change` may alter its plan."""

    def __init__(
        self,
        config: Config,
        feed: Mapping[str, Iterable[Any]],
        collect: Collection[str],
        timeout: float,
        change: Callable[[Plan], Plan] | None = None,
    ) -> None:
        self._timeout = timeout if config.run.deadline is None else None
        if self._timeout is not None:
            config = replace(config, run=replace(config.run, deadline=timeout, grace=min(config.run.grace, 2.0)))
        self._queues = FedQueues(config, feed, collect)
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._outcome: Future[Run] = Future()
        self._reactor = LocalReactor()
        self._thread = threading.Thread(
            target=self._run_in_thread, args=(self._queues.config, change), name="runner-test", daemon=True
        )
        self._thread.start()

    @property
    def events(self) -> list[Event]:
        """The events until now."""
        with self._changed:
            return list(self._events)

    def wait_for(self, predicate: Callable[[Event], bool], timeout: float = 10.0) -> Any:
        """Return the run's first event of which `predicate` is true, past or to come; TimeoutError when none comes."""

        def found() -> bool:
            return self._outcome.done() or any(map(predicate, self._events))

        with self._changed:
            self._changed.wait_for(found, timeout)
            event = next(filter(predicate, self._events), None)
            seen = ", ".join(dict.fromkeys(type(one).__name__ for one in self._events)) or "none"
        if event is None:
            when = "in the whole run" if self._outcome.done() else f"within {timeout} s"
            raise TimeoutError(f"no such event {when}; seen: {seen}")
        return event

    def interrupt(self) -> None:
        """Stop the run as Ctrl-C does: sources stop, what is queued drains; the second time everything ends at once."""
        with self._changed:
            if not self._outcome.done():
                self._reactor.post_event(SignalReceived(signal.SIGINT))

    def finish(self) -> Run:
        """Wait for the end; ConfigError when the file is wrong, TimeoutError when it took too long."""
        self._outcome.exception()  # first, as Ctrl-C within `join` marks a thread that goes on as ended (Python 3.11)
        self._thread.join()
        return self._outcome.result()

    def _run_in_thread(self, config: Config, change: Callable[[Plan], Plan] | None) -> None:
        run, failure = None, None
        try:
            run = self._perform(config, change)
        except BaseException as error:  # noqa: BLE001  raised again by `finish`
            failure = error
        with self._changed:
            self._reactor.close()
            if run is None:
                self._outcome.set_exception(failure)
            else:
                self._outcome.set_result(run)
            self._changed.notify_all()

    def _perform(self, config: Config, change: Callable[[Plan], Plan] | None) -> Run:
        from runner.runs import OutputOptions

        out, err = io.StringIO(), io.StringIO()
        path = list(sys.path)
        try:
            with self._queues, api.only_run(), api.writable_descriptor(out) as one, api.writable_descriptor(err) as two:
                options = OutputOptions(one, two, keep_record=False, on_event=self._record_event)
                result = api.run_config(config, options, reactor=self._reactor, change=change)
        finally:
            sys.path[:] = path
        if result.exit_code == 124 and self._timeout is not None:
            raise TimeoutError(f"the run has not ended within {self._timeout} s\n{out.getvalue()}{err.getvalue()}")
        tasks = {name: task for name, task in result.tasks.items() if not is_added_task(name)}
        return Run(replace(result, tasks=tasks), self._queues.collected, self.events, out.getvalue(), err.getvalue())

    def _record_event(self, event: Event) -> None:
        if not is_added_task(getattr(event, "task", "")):
            with self._changed:
                self._events.append(event)
                self._changed.notify_all()


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
