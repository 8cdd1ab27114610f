"""One run from file to result; the only module that knows all the others."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner import events, gc_tuning, shared_stdin
from runner.clock import RealClock
from runner.engines import process_setup
from runner.engines.base import EngineContext
from runner.engines.limits import raise_open_files_limit
from runner.engines.reactor import LocalReactor
from runner.errors import ConfigError, RunnerError
from runner.plugins.listeners import Listeners, offered_engines
from runner.report.recorder import Recorder
from runner.secret_masks import SecretMask
from runner.store import DeadLetterFile, run_folders
from runner.store.records import RecordFile
from runner.structs import dataclass
from runner.supervisor import DeadLetterRecord, DeadLetterSink, Plan, Supervisor, TaskPlan
from runner.supervisor.description import describe_run
from runner.tasks import inspect_shape
from runner.transport.progress_page import ProgressPage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from runner.config.model import Config, TaskConfig
    from runner.engines.base import Engine
    from runner.plugins import PluginPolicy, TaskFunction
    from runner.report.printer import Printer
    from runner.supervisor import RunOutcome
    from runner.tasks import Reference

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT")
    if hasattr(signal, name)
]
#: With thread tasks that compute, the supervisor would otherwise wait 5 ms for the interpreter each time that it has
#: something for a process. Shorter costs the threads more than it gives the processes; threads alone need none of it.
_SWITCH = 0.002


@dataclass(frozen=True, slots=True)
class OutputStreams:
    """Where output goes: the printer that owns it, and whether thread workers' output is captured."""

    printer: Printer
    log: str


def prepare_plan(config: Config, choice: PluginPolicy | None = None) -> Plan:
    """Everything that can be known before a worker starts: functions, their forms, their arguments.

    ConfigError for what is wrong, every finding at once. `choice`: which installed plugins may be used; default: what
    the environment says.
    """
    from runner import check

    found = check.check_everything(config, choice)
    check.raise_if_errors(found.problems, config)
    tasks = {name: _task(task, found.functions[name], found.arguments[name]) for name, task in found.tasks.items()}
    used = {queue for task in tasks.values() for queue in (*task.config.inputs, *task.config.outputs, task.config.dead)}
    queues = {name: queue for name, queue in config.queues.items() if name in used}
    settings = replace(config.run, state=config.folder / config.run.state)
    workers = found.plugins.hooks.worker_hooks()
    notices = check.plugin_notices(found.problems)
    return Plan(
        config.title or config.file,
        _run_id(),
        settings,
        queues,
        tasks,
        worker_hooks=workers,
        plugins=found.plugins,
        description=describe_run(config, tasks, queues.values()),
        notices=notices,
        secret_mask=SecretMask(config.params[name] for name in config.secret_params),
    )


def _task(task: TaskConfig, function: TaskFunction, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> TaskPlan:
    return TaskPlan(
        task, task.mode or "process", function.reference, inspect_shape(function.obj), pickle.dumps(arguments, 5)
    )


def _run_id() -> str:
    """When it began, for people; and 64 random bits: runs of one second, in containers with one pid, stay apart."""
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(8).hex()


def open_recorder(plan: Plan) -> Recorder:
    """Keeps the run's record where the file says; give it all events, and close it at the end.

    UnsafeFolder: others decide what is in that folder, and nothing was started.
    """
    settings = plan.settings
    if not settings.record:
        return Recorder()
    run_folders.check_state_folder(settings.state)
    return Recorder(RecordFile(settings.state, plan.run_id), settings.record)


def execute_plan(
    plan: Plan,
    streams: OutputStreams,
    emit: Callable[[events.Event], None],
    hub: LocalReactor | None = None,
    *,
    watched: bool = False,
) -> RunOutcome:
    """Run a plan on the local fleets; everything that was started is gone when this returns, the hub as well.

    Who gives a hub can post events to it meanwhile. `watched`: `Progress` is told, although no plugin may listen.
    """
    processes = [len(task.config.workers.names) for task in plan.tasks.values() if task.mode == "process"]
    raise_open_files_limit(sum(processes), sum(len(task.config.workers.names) for task in plan.tasks.values()))
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_setup.deliver_signals())
        letters = _Kept(plan, streams.printer)
        stack.callback(letters.close)
        hub = hub or LocalReactor()
        stack.callback(hub.close)
        page = ProgressPage()
        stack.callback(page.close)
        stack.enter_context(_marked())
        fleets = _fleets(plan, hub, page, streams, stack)
        hub.catch_signals(_SIGNALS)
        stack.enter_context(gc_tuning.frozen_during_run())
        clock = RealClock()
        emit = _masked(plan.secret_mask, emit)
        for text in plan.notices:
            emit(events.Notice(clock.now(), text))
        listeners = Listeners(plan.plugins, emit)
        if listeners.has_listeners and streams.log == "prefix" and not hasattr(sys.stdout, "speaking"):
            _captured(streams, stack)  # what hooks print bears their plugin's name
        listening = watched or listeners.has_listeners
        tell = _masked(plan.secret_mask, listeners.publish_event)
        supervisor = Supervisor(plan, fleets, hub, clock, tell, letters, listening=listening, looks=True)
        result: RunOutcome = _without_secrets(supervisor.run(), plan.secret_mask)
    left: Sequence[str] = getattr(fleets.get("thread"), "names_left_running", tuple)()
    return replace(
        result, left_behind=tuple(left), letters_kept=letters.kept.written_count, trouble=letters.kept.write_error
    )


@contextlib.contextmanager
def _marked() -> Iterator[None]:
    """Have the environment say which process runs, for as long as it does; programs of its tasks can look at it."""
    before = os.environ.get("RUNNER_PID")
    os.environ["RUNNER_PID"] = str(os.getpid())
    try:
        yield
    finally:
        del os.environ["RUNNER_PID"]
        if before is not None:
            os.environ["RUNNER_PID"] = before


#: What events and results say in the words of functions, errors and tracebacks. Names are not looked at.
_WORDS = ("error", "traceback", "preview", "why", "text", "result", "results", "reasons")


def _masked(mask: SecretMask, tell: Callable[[events.Event], None]) -> Callable[[events.Event], None]:
    """Who hears of an event hears of no secret."""
    return (lambda event: tell(_without_secrets(event, mask))) if mask else tell


def _without_secrets(told: Any, mask: SecretMask) -> Any:
    """An event or a result, its texts masked, and those of its tasks."""
    if not mask or isinstance(told, events.Progress):
        return told
    changed: dict[str, Any] = {word: _hidden(getattr(told, word), mask) for word in _WORDS if hasattr(told, word)}
    tasks = getattr(told, "tasks", None)
    if isinstance(told, events.RunEnded):
        changed["tasks"] = tuple(_without_secrets(task, mask) for task in told.tasks)
    elif isinstance(tasks, dict):
        changed["tasks"] = {name: _without_secrets(task, mask) for name, task in tasks.items()}
    return replace(told, **changed) if changed else told


def _hidden(value: Any, mask: SecretMask) -> Any:
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, dict):
        return {key: _hidden(each, mask) for key, each in value.items()}
    return tuple(_hidden(each, mask) for each in value) if isinstance(value, tuple) else value


class _Kept(DeadLetterSink):
    """The run's own store of dead letters."""

    def __init__(self, plan: Plan, printer: Printer) -> None:
        self.kept = DeadLetterFile(plan.settings.state, plan.run_id, {"title": plan.title})
        self._printer = printer

    def store_letter(self, record: DeadLetterRecord) -> None:
        """Write it down."""
        text = record.text
        self.kept.append(
            {
                "id": record.item_id,
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
        return self._printer.last_output(worker)

    def close(self) -> None:
        """The run is over."""
        self.kept.close()


def _fleets(
    plan: Plan, hub: LocalReactor, page: ProgressPage, streams: OutputStreams, stack: contextlib.ExitStack
) -> Mapping[str, Engine]:
    fleets: dict[str, Engine] = {}
    modes = {task.mode for task in plan.tasks.values()}
    attach = streams.printer.attach_pipe if streams.log == "prefix" else None
    local = plan.settings.engine == "local"
    holdings = None
    if "process" in modes and local:  # first: the fork server must start before any thread does
        from runner.engines.processes import ProcessEngine
        from runner.engines.spawn import Spawner
        from runner.shm.registry import ArenaRegistry

        ours = [task for task in plan.tasks.values() if task.mode == "process"]
        holdings = ArenaRegistry()
        stack.callback(holdings.close)
        spawner = Spawner()
        needs_asyncio = any(task.shape.is_async for task in ours)
        spawner.start_fork_server(_references(plan), needs_asyncio, [task.config.env for task in ours])
        fleets["process"] = ProcessEngine(hub, page, spawner, attach, holdings)
        stack.callback(fleets["process"].close)
    if local and "thread" not in modes:
        return fleets
    name_thread = _captured(streams, stack)
    if "process" in modes and not local:
        assert plan.plugins is not None
        site = EngineContext(hub, _references(plan), attach, name_thread, plan.plugins.folder)
        fleets["process"] = offered_engines(plan.plugins)[0][plan.settings.engine].engine_factory(site)
        stack.callback(fleets["process"].close)
    if "thread" in modes:
        from runner.engines.lifeline import Lifeline
        from runner.engines.threads import ThreadEngine

        interval = sys.getswitchinterval()
        if "process" in modes:
            sys.setswitchinterval(_SWITCH)
            stack.callback(sys.setswitchinterval, interval)
        stack.callback(Lifeline().close)
        stack.enter_context(shared_stdin.hide_stdin())
        fleets["thread"] = ThreadEngine(hub, name_thread, holdings)
        stack.callback(fleets["thread"].close)
    return fleets


def _captured(streams: OutputStreams, stack: contextlib.ExitStack) -> Callable[[str], Any] | None:
    """Capture what threads print; how a thread says whose its output is."""
    from runner.report.capture import ThreadCapture

    return stack.enter_context(ThreadCapture(streams.printer)).name_thread if streams.log == "prefix" else None


def _references(plan: Plan) -> tuple[Reference, ...]:
    """What workers that are processes will load."""
    functions = [task.reference for task in plan.tasks.values() if task.mode == "process"]
    return (*functions, *(hook.reference for hook in plan.worker_hooks))


__all__ = ["ConfigError", "OutputStreams", "RunnerError", "execute_plan", "prepare_plan"]
