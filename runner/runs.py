"""One run from file to result; the only module that knows all the others."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from runner.clock import RealClock
from runner.errors import ConfigError, PluginError, RunnerError
from runner.fleets.hub import LocalHub
from runner.fleets.limits import make_room
from runner.plugins import Plugins, TaskFunction
from runner.store import DeadLetters
from runner.supervisor import Letters, Plan, Record, Supervisor, TaskPlan
from runner.tasks import shape
from runner.transport.cells import Page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from runner import events
    from runner.config.model import Config, TaskConfig
    from runner.fleets.base import Fleet
    from runner.report.output import Printer
    from runner.supervisor import Result

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT")
    if hasattr(signal, name)
]
#: With thread tasks that compute, the supervisor would otherwise wait 5 ms for the interpreter each time.
_SWITCH = 0.0005


@dataclass(frozen=True, slots=True)
class Streams:
    """Where output goes: the printer that owns it, and whether thread workers' output is captured."""

    printer: Printer
    log: str


def prepare(config: Config) -> Plan:
    """Everything that can be known before a worker starts: functions, their forms, their arguments.

    ConfigError for what is wrong, every finding at once.
    """
    from runner import check

    problems = list(check.check(config))
    plugins = Plugins(config.folder, config.plugins)
    functions: dict[str, TaskFunction] = {}
    wanted = {name: task for name, task in config.tasks.items() if task.enabled}
    for name, task in wanted.items():
        if config.hole("tasks", name, "call"):
            continue
        try:
            functions[name] = plugins.find(task.call)
        except PluginError as error:
            place = ("tasks", name, "call") if ("tasks", name, "call") in config.places else ("tasks", name)
            problems.append(check.problem("E301", str(error), config.place(*place)))
    found, arguments = check.check_functions(config, functions)
    check.raise_for([*problems, *found], config)
    tasks = {name: _task(task, functions[name], arguments[name]) for name, task in wanted.items()}
    used = {queue for task in wanted.values() for queue in (*task.inputs, *task.outputs, task.dead)}
    queues = {name: queue for name, queue in config.queues.items() if name in used}
    settings = replace(config.run, state=config.folder / config.run.state)
    return Plan(config.title, _run_id(), settings, queues, tasks)


def _task(task: TaskConfig, function: TaskFunction, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> TaskPlan:
    mode = task.mode or function.options.get("mode") or "process"
    return TaskPlan(task, mode, function.reference, shape(function.obj), pickle.dumps(arguments, 5))


def _run_id() -> str:
    return time.strftime("%Y%m%d-%H%M%S-") + f"{os.getpid():x}"


def execute(plan: Plan, streams: Streams, emit: Callable[[events.Event], None]) -> Result:
    """Run a plan on the local fleets; everything that was started is gone when this returns."""
    processes = [len(task.config.workers.names) for task in plan.tasks.values() if task.mode == "process"]
    make_room(sum(processes), sum(len(task.config.workers.names) for task in plan.tasks.values()))
    with contextlib.ExitStack() as stack:
        letters = _Kept(plan, streams.printer)
        stack.callback(letters.close)
        hub = LocalHub()
        stack.callback(hub.close)
        page = Page()
        stack.callback(page.close)
        os.environ["RUNNER_PID"] = str(os.getpid())
        fleets = _fleets(plan, hub, page, streams, stack)
        hub.catch(_SIGNALS)
        result = Supervisor(plan, fleets, hub, RealClock(), emit, letters).run()
    left: Sequence[str] = getattr(fleets.get("thread"), "left_behind", tuple)()
    return replace(result, left_behind=tuple(left), letters_kept=letters.kept.count, trouble=letters.kept.trouble)


class _Kept(Letters):
    """The run's own store of dead letters."""

    def __init__(self, plan: Plan, printer: Printer) -> None:
        self.kept = DeadLetters(plan.settings.state, plan.run_id, {"title": plan.title})
        self._printer = printer

    def keep(self, record: Record) -> None:
        """Write it down."""
        text = record.text
        self.kept.append(
            {
                "item": record.item_id,
                "queue": record.queue,
                "task": text.task,
                "worker": text.worker,
                "attempts": text.attempts,
                "error": text.error,
                "traceback": text.traceback,
                "preview": record.preview,
                "output": record.output,
            }
        )

    def last_output(self, worker: str, *, fresh: bool = False) -> str:
        """The last lines that it printed."""
        if fresh:
            self._printer.flush(timeout=0.2)
        return self._printer.tail(worker)

    def close(self) -> None:
        """The run is over."""
        self.kept.close()


def _fleets(
    plan: Plan, hub: LocalHub, page: Page, streams: Streams, stack: contextlib.ExitStack
) -> Mapping[str, Fleet]:
    fleets: dict[str, Fleet] = {}
    modes = {task.mode for task in plan.tasks.values()}
    if "process" in modes:  # first: the fork server must start before any thread does
        from runner.fleets.process import ProcessFleet
        from runner.fleets.spawn import Spawner

        ours = [task for task in plan.tasks.values() if task.mode == "process"]
        spawner = Spawner()
        spawner.prepare([task.reference for task in ours], any(task.shape.is_async for task in ours))
        attach = streams.printer.attach if streams.log == "prefix" else None
        fleets["process"] = ProcessFleet(hub, page, spawner, attach)
        stack.callback(fleets["process"].close)
    if "thread" in modes:
        from runner.fleets.thread import ThreadFleet
        from runner.report.capture import ThreadCapture

        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        stack.callback(sys.setswitchinterval, interval)
        capture = stack.enter_context(ThreadCapture(streams.printer)) if streams.log == "prefix" else None
        fleets["thread"] = ThreadFleet(hub, capture.name_thread if capture else None)
        stack.callback(fleets["thread"].close)
    return fleets


__all__ = ["ConfigError", "RunnerError", "Streams", "execute", "prepare"]
