"""One run from its file to its result; the only module that knows all the others.

    Config ──▶ prepare_plan ──▶ Plan ──▶ perform ──▶ RunOutcome, RunRecord
                                           │
                                           └─ execute_plan: engines, supervisor, plugins; what is heard goes to the
                                              record, the console, the progress display, the events file, the caller

The command (`cli.run`), `runner.run` and `runner.testing` all go through `perform`.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner import events, shared_stdin
from runner.config.toml import STDIN
from runner.durable_run import DurableRun
from runner.engines import process_setup
from runner.engines.base import EngineContext
from runner.engines.reactor import LocalReactor, RealClock
from runner.fed_runs import is_added_task
from runner.kept_dead_letters import RunDeadLetters
from runner.model import CLUSTER_ENGINES
from runner.plugins.hooks import Listeners, offered_engines
from runner.plugins.plugin import changed_environment
from runner.report.console import Console
from runner.report.masking import hide_secrets, masked_emit
from runner.report.printer import Printer
from runner.report.record_builder import Recorder
from runner.secret_masks import SecretMask
from runner.store import run_folders
from runner.store.records import RecordFile
from runner.structs import dataclass
from runner.supervisor.loop import Supervisor
from runner.supervisor.outcome import EXIT_DEAD, EXIT_FAILED
from runner.supervisor.plan import Plan, TaskPlan, describe_run
from runner.tasks import inspect_shape
from runner.transport.progress_page import ProgressPage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager

    from runner.engines.base import Engine
    from runner.model import Config
    from runner.plugins import PluginPolicy
    from runner.report.record import RunRecord
    from runner.store.durable_folder import DurableFolder
    from runner.supervisor.outcome import RunOutcome

_SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGCONT")
_SIGNALS = [getattr(signal, name) for name in _SIGNAL_NAMES if hasattr(signal, name)]
#: With thread tasks that compute, the supervisor would otherwise wait 5 ms for the interpreter each time that it has
#: something for a process. Shorter costs the threads more than it gives the processes; threads alone need none of it.
_SWITCH = 0.002


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """The choice of what is shown of a run, and what is kept of it.

    `out` and `err` are the descriptors to write to. `keep_record`: the run leaves its record, and its summary says what
    each task did. `progress` is the display, `events_file` the file for events, `log_format` and `log_file` the log.
    `on_event` is called with each event. `write_page` writes the report, and returns a line that says where it is.
    `beside_caller`: the program goes on in other threads meanwhile, and keeps its output and its standard input.
    """

    out: int = 1
    err: int = 2
    quiet: bool = False
    verbose: bool = False
    color: bool = False
    dead_ok: bool = False
    keep_record: bool = True
    progress: str = "none"
    events_file: str | None = None
    log_format: str | None = None
    log_file: str | None = None
    on_event: Callable[[events.Event], None] | None = None
    write_page: Callable[[RunRecord], str] | None = None
    beside_caller: bool = False


def prepare_plan(config: Config, choice: PluginPolicy | None = None) -> Plan:
    """Everything that can be known before a worker starts: functions, their forms, their arguments.

    ConfigError for what is wrong, every finding at once. `choice`: which installed plugins may be used; default: what
    the environment says.
    """
    from runner import check

    found = check.check_everything(config, choice)
    check.raise_if_errors(found.problems, config)
    tasks = {}
    for name, task in found.tasks.items():
        function, arguments = found.functions[name], pickle.dumps(found.arguments[name], 5)
        shape = inspect_shape(function.obj)
        tasks[name] = TaskPlan(task, task.mode or "process", function.reference, shape, arguments)
    used = {queue for task in found.tasks.values() for queue in (*task.inputs, *task.outputs_and_dead)}
    queues = {name: queue for name, queue in config.queues.items() if name in used}
    mask = SecretMask(config.params[name] for name, param in config.declared_params.items() if param.secret)
    return Plan(
        config.title or config.file,
        _run_id(),
        replace(config.run, state=config.folder / config.run.state),
        queues,
        tasks,
        worker_hooks=found.plugins.hooks.worker_hooks(),
        agents=config.agents,
        ray=config.ray,
        plugins=found.plugins,
        description=describe_run(config, tasks, queues.values()),
        notices=tuple(each.message for each in found.problems if each.code == check.BROKEN_PLUGIN),
        secret_mask=mask,
        origin=_describe_origin(config, mask),
    )


#: Settings of one command, not of the file.
_OF_THE_COMMAND = {f"run.{key}" for key in ("grace", "halt", "deadline", "log", "record")}


def _describe_origin(config: Config, mask: SecretMask) -> dict[str, Any]:
    """Return all that another run of the file has to be given, as JSON; of secrets the names (`withheld`)."""
    given, params, sets, withheld = config.given, {}, [], []
    for name, value in given.params.items():
        text = value if isinstance(value, (str, int, float)) else json.dumps(value, default=str)
        if config.declared_params[name].secret or mask(str(text)) != str(text):
            withheld.append(f"-p {name}")
        else:
            params[name] = value if isinstance(value, (str, int, float, list)) else str(value)
    for path, text in given.sets:
        declared = config.declared_params.get(path.removeprefix("params.")) if path.startswith("params.") else None
        if (declared is not None and declared.secret) or mask(text) != text:
            withheld.append(f"--set {path}")
        elif path not in _OF_THE_COMMAND:
            sets.append([path, text])
    try:
        folder, file = os.getcwd(), os.path.abspath(config.file)  # noqa: PTH100, PTH109  a str may be any path
    except OSError:  # the folder is gone
        folder = file = ""
    return {
        "file": config.file if config.file == STDIN else file,
        "folder": folder,
        "given": {
            "params": params,
            "sets": sets,
            "only": list(given.only),
            "skip": list(given.skip),
            "withheld": withheld,
        },
    }


def _run_id() -> str:
    """When it began, for people; and 64 random bits: runs of one second, in containers with one pid, stay apart."""
    return time.strftime("%Y%m%d-%H%M%S-") + os.urandom(8).hex()


def perform(
    plan: Plan,
    options: OutputOptions,
    reactor: LocalReactor | None = None,
    earlier: DurableFolder | None = None,
    wrap_engine: Callable[[Engine], Engine] | None = None,
) -> tuple[RunOutcome, RunRecord | None]:
    """Run a plan, show what happens, and return how it ended and its record, if one is kept, once all is written.

    `earlier`: the ledger of the durable run that goes on. `wrap_engine` puts another engine around each engine.

    UnsafeFolder or UsageError, before anything is started: the record, the events or the log cannot be written.
    """
    output = _RunOutput(plan, options)
    try:
        try:
            with _held_file(plan, output.publish):
                outcome = execute_plan(
                    plan,
                    output.printer,
                    output.publish,
                    reactor,
                    watched=options.keep_record,
                    earlier=earlier,
                    wrap_engine=wrap_engine,
                )
        finally:
            output.end_display()
        with process_setup.interrupt_on_signals():
            record = output.print_end(outcome)
            output.printer.close(outcome.closing_patience(plan.settings.deadline))
    finally:
        output.close()
    return replace(outcome, exit_code=output.exit_code(outcome)), record


def _held_file(plan: Plan, publish: Callable[[events.Event], None]) -> AbstractContextManager[None]:
    """Return what holds the lock of the plan's file, if `overlap` asks for it; RunRefused if it says so."""
    how, file = plan.settings.overlap, plan.origin.get("file", "-")
    if how == "allow" or file == "-":
        return contextlib.nullcontext()
    from runner.store.file_lock import hold_file  # few files ask for it

    tell = lambda text: publish(events.Notice(RealClock().now(), text))  # noqa: E731  one line
    return hold_file(plan.settings.state, file, waits=how == "wait", tell=tell)


class _RunOutput:
    """All that is told of one run while it goes on, and what each of them has to say at its end."""

    def __init__(self, plan: Plan, options: OutputOptions) -> None:
        settings, log = plan.settings, plan.settings.log
        self._options = options
        self._records = self._display = None
        if options.keep_record and settings.record:  # first: UnsafeFolder if others decide what is in its folder
            run_folders.check_state_folder(settings.state)
            self._records = RecordFile(settings.state, plan.run_id)
        self._recorder = Recorder(self._records, settings.record) if options.keep_record else None
        self._journal = lines = None
        if options.events_file is not None:
            from runner.report.journal import EventJournal

            self._journal = EventJournal(options.events_file)
        if options.log_format or options.log_file:
            from runner.report.log import open_log

            lines = open_log(plan.run_id, options.log_format, options.log_file)
        mask, color = plan.secret_mask, options.color
        self.printer = Printer(options.out, options.err, log=log, color=color, mask=mask, lines=lines)
        self.printer.beside_caller = options.beside_caller
        self._console = Console(self.printer, plan, quiet=options.quiet, verbose=options.verbose)
        if options.progress != "none" and not options.quiet:
            from runner.report.displays import create_display

            self._display = create_display(options.progress, self.printer, log=log, fd=options.err)
        told = (self._recorder, self._console, self._display, self._journal)
        heard = [each.handle_event for each in told if each is not None]
        self._subscribers = [*heard, self._tell_unlisted, *filter(None, [options.on_event])]

    def publish(self, event: events.Event) -> None:
        """Tell all of them."""
        for handle_event in self._subscribers:
            handle_event(event)

    def _tell_unlisted(self, event: events.Event) -> None:
        """Say at once that the run cannot be seen from elsewhere: hours later that is too late."""
        records, quiet = self._records, self._options.quiet
        if isinstance(event, events.RunStarted) and records is not None and records.mark_error and not quiet:
            self._console.print_message(records.mark_error)

    def end_display(self) -> None:
        """Take the display away: nothing goes on any more."""
        if self._display is not None:
            self._display.close()

    def print_end(self, outcome: RunOutcome) -> RunRecord | None:
        """Keep the record, write the page, and print how the run ended."""
        if self._journal is not None:
            self._journal.close()
        record = None
        if self._recorder is not None:
            record = self._recorder.close(self.exit_code(outcome))
            lines = (
                "" if self._options.quiet or self._records is None else self._records.write_error,
                self._journal.write_error if self._journal is not None else "",
                self._options.write_page(record) if self._options.write_page is not None else "",
            )
            for line in filter(None, lines):
                self._console.print_message(line)
        self._console.print_summary(outcome, record)
        return record

    def exit_code(self, outcome: RunOutcome) -> int:
        """Return what the command ends with: lost output makes a good end a failed one."""
        if self.printer.interrupt_signal:
            return 128 + self.printer.interrupt_signal
        lost = self.printer.has_lost_output or (self._journal is not None and bool(self._journal.write_error))
        if lost and outcome.exit_code in {0, EXIT_DEAD}:
            return EXIT_FAILED
        return 0 if self._options.dead_ok and outcome.exit_code == EXIT_DEAD else outcome.exit_code

    def close(self) -> None:
        """Write what there is still to print; the record is kept, or there is none."""
        if self._records is not None:
            self._records.close()
        self.printer.close(0.0)


def execute_plan(
    plan: Plan,
    printer: Printer,
    emit: Callable[[events.Event], None],
    reactor: LocalReactor | None = None,
    *,
    watched: bool = False,
    earlier: DurableFolder | None = None,
    wrap_engine: Callable[[Engine], Engine] | None = None,
) -> RunOutcome:
    """Run a plan; everything that was started is gone when this returns, the reactor as well.

    The caller can post events to its `reactor` meanwhile. `watched`: `Progress` is emitted even if no plugin listens.
    `earlier`: the ledger of the durable run that goes on, which is closed at the end. `wrap_engine`: see `perform`.
    """
    counts = [(len(task.config.workers), task.mode) for task in plan.tasks.values()]
    here = sum(n for n, mode in counts if mode == "process" and plan.settings.engine not in CLUSTER_ENGINES)
    process_setup.raise_open_files_limit(here, sum(n for n, _ in counts))
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_setup.deliver_signals())
        letters = RunDeadLetters(plan, printer)
        stack.callback(letters.close)
        reactor = reactor or LocalReactor()
        stack.callback(reactor.close)
        durable = DurableRun(plan, earlier) if plan.settings.durable else None
        if durable is not None:
            stack.callback(durable.close)
        lease_page = None if durable is None else durable.lease_page
        page = ProgressPage(None if lease_page is None else lease_page.fd)
        stack.callback(page.close)
        stack.enter_context(changed_environment({"RUNNER_PID": str(os.getpid())}))  # for programs of its tasks
        engines = _open_engines(plan, reactor, page, printer, stack)
        watched_engines = {name: wrap_engine(each) for name, each in engines.items()} if wrap_engine else engines
        reactor.catch_signals(_SIGNALS)
        clock = RealClock()
        emit = masked_emit(plan.secret_mask, emit)
        for text in plan.notices:
            emit(events.Notice(clock.now(), text))
        if durable is not None:
            durable.start_keeper(reactor)
            plan = replace(plan, lives=durable.folder.lives)
            if durable.notice:
                emit(events.Notice(clock.now(), durable.notice))
        if lease_page is not None:  # first of all: whatever comes now is an orderly end
            stack.callback(lease_page.close)
        listeners = Listeners(plan.plugins.hooks if plan.plugins else None, emit)
        if listeners.has_listeners and plan.settings.log == "prefix" and not hasattr(sys.stdout, "speaking"):
            _capture_threads(printer, stack)  # what hooks print bears their plugin's name
        listening = watched or listeners.has_listeners
        tell = masked_emit(plan.secret_mask, listeners.publish_event)
        supervisor = Supervisor(
            plan,
            watched_engines,
            reactor,
            clock,
            tell,
            letters,
            listening=listening,
            suspect_readers=True,
            keeper=None if durable is None else durable.keeper,
            image=None if durable is None else durable.folder.image,
            lease_page=lease_page,
        )
        outcome = supervisor.run()
        if durable is not None:
            durable.end_life(outcome)
    left: Iterable[str] = getattr(engines.get("thread"), "names_left_running", tuple)()
    return replace(
        outcome,
        ended=hide_secrets(outcome.ended, plan.secret_mask),
        left_behind=tuple(name for name in left if not is_added_task(name)),
        letters_kept=letters.file.written_count + (0 if durable is None else len(durable.folder.image.dead_items)),
        items_not_kept=letters.not_kept,
        trouble=letters.file.write_error,
        is_resumable=durable is not None and not outcome.is_complete,
    )


def _open_engines(
    plan: Plan, reactor: LocalReactor, page: ProgressPage, printer: Printer, stack: contextlib.ExitStack
) -> Mapping[str, Engine]:
    engines: dict[str, Engine] = {}
    modes = {task.mode for task in plan.tasks.values()}
    attach = printer.attach_pipe if plan.settings.log == "prefix" else None
    local = plan.settings.engine == "local"
    arenas = None
    if "process" in modes and (local or plan.settings.engine in CLUSTER_ENGINES):
        from runner.shm.registry import ArenaRegistry

        stack.callback((arenas := ArenaRegistry()).close)
    if arenas is not None and local:  # first: the fork server must start before any thread does
        from runner.engines.processes import ProcessEngine
        from runner.engines.spawn import Spawner

        process_tasks = [task for task in plan.tasks.values() if task.mode == "process"]
        spawner = Spawner()
        needs_asyncio = any(task.shape.is_async for task in process_tasks)
        spawner.start_fork_server(plan.process_references, needs_asyncio, [task.config.env for task in process_tasks])
        engines["process"] = ProcessEngine(reactor, page, spawner, attach, arenas)
        stack.callback(engines["process"].close)
    if local and "thread" not in modes:
        return engines
    name_thread = _capture_threads(printer, stack) if plan.settings.log == "prefix" else None
    if arenas is not None and not local:
        from runner.cluster_run import open_remote_engine

        engines["process"] = open_remote_engine(plan, reactor, printer.feed, printer.finish_name, arenas, stack)
    elif "process" in modes and not local:
        assert plan.plugins is not None
        context = EngineContext(reactor, plan.process_references, attach, name_thread, plan.plugins.folder)
        engines["process"] = offered_engines(plan.plugins.hooks)[0][plan.settings.engine][1](context)
        stack.callback(engines["process"].close)
    if "thread" in modes:
        from runner.engines.lifeline import Lifeline
        from runner.engines.threads import ThreadEngine

        if "process" in modes:
            stack.callback(sys.setswitchinterval, sys.getswitchinterval())
            sys.setswitchinterval(_SWITCH)
        stack.callback(Lifeline().close)
        stack.enter_context(contextlib.nullcontext() if printer.beside_caller else shared_stdin.hide_stdin())
        engines["thread"] = ThreadEngine(reactor, name_thread, arenas, page if plan.settings.durable else None)
        stack.callback(engines["thread"].close)
    return engines


def _capture_threads(printer: Printer, stack: contextlib.ExitStack) -> Callable[[str], Any]:
    """Capture what threads print; return how a thread says whose its output is."""
    from runner.report.capture import ThreadCapture

    return stack.enter_context(ThreadCapture(printer)).name_thread
