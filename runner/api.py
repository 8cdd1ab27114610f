"""runner from Python: `runner.load` and `runner.run`, the same as the commands.

    file ──▶ load ──▶ Config ──▶ run ──▶ Result (what came of collected queues with it)
                                  │
                                  └──▶ sys.stdout, sys.stderr (what the tasks print; runner's own messages)

A run belongs to its process as a whole (its signals, its standard output), so one process has one run at a time.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from runner.errors import UsageError
from runner.structs import dataclass, field

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path
    from typing import TextIO

    from runner import events
    from runner.engines.reactor import LocalReactor
    from runner.fed_runs import FedQueues
    from runner.ledger.balance import Balance, ItemCounts
    from runner.model import Config
    from runner.runs import OutputOptions
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan

#: The run under way, by process id: in a copy of its process (`os.fork`) it does not go on.
_UNDER_WAY: dict[int, object] = {}


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The end of one task.

    `how` is "ok", "failed" or "skipped" (it never started), `why` says more unless it is ok. `results` are what the
    workers of a task without outputs returned, by worker: JSON values, or the `repr` of what JSON cannot say.
    """

    name: str
    how: str
    why: str = ""
    done: int = 0
    dead: int = 0
    dropped: int = 0
    repeated: int = 0
    sent: int = 0
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def result(self) -> Any:
        """The result of its only worker, or of the first one that has any; None when there is none."""
        return next(iter(self.results.values()), None)


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a run.

    `exit_code` is what the command would end with (0: all done, nothing dead), `seconds` how long it took,
    `headline` the balance (`str` of it is the last line of the summary), `queues` the counts of each queue,
    `reasons` why it stopped early, `unfinished` the tasks without inputs that had not ended by themselves (a source
    among them had more), `state` the folder in which its dead letters are kept,
    `collected` the items of each queue that was to be collected, in the order of their arrival.
    """

    run: str
    title: str
    exit_code: int
    seconds: float
    headline: Balance
    tasks: dict[str, TaskResult]
    queues: dict[str, ItemCounts]
    reasons: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    state: Path | None = None
    unfinished: tuple[str, ...] = ()
    collected: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True if all is done and nothing is dead."""
        return self.exit_code == 0

    @property
    def dead(self) -> int:
        """The number of items that were given up."""
        return self.headline.dead

    def letters(self) -> Iterator[dict[str, Any]]:
        """Yield the run's own dead letters: `item`, `task`, `worker`, `error`, `traceback`, `preview`, ..."""
        from runner.store import dead_letters as store

        if self.state is not None and self.run in store.runs_with_dead_letters(self.state):
            yield from store.read_letters(store.find_dead_letters(self.state, self.run))


class Interrupted(KeyboardInterrupt):
    """Ctrl-C has stopped a run: items in flight have drained, all workers have ended; `result` is the run's end."""

    def __init__(self, result: Result) -> None:
        super().__init__(f"the run was stopped: {result.headline}")
        self.result = result


def load(
    file: str | os.PathLike[str],
    *,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  the name of the option
    feed: Collection[str] = (),
    collect: Collection[str] = (),
) -> Config:
    """Read and check a file without executing anything of its project; ConfigError has all problems.

    `params` are values of its params, as `-p`; `set` are keys, as `--set`: `{"tasks.bake.workers": 2}`.
    `feed` and `collect` name queues that the program will feed and collect, so no task need write or read them.
    """
    from runner import check

    checked = config = read_config(file, params, set)
    if feed or collect:
        feed, collect = ([given] if isinstance(given, str) else given for given in (feed, collect))
        checked = fed_queues(config, dict.fromkeys(feed, ()), collect).config
    check.raise_if_errors(check.check_file(checked), config)
    return config


def read_config(
    file: str | os.PathLike[str], params: Mapping[str, Any] | None, sets: Mapping[str, Any] | None
) -> Config:
    """Return the file with its problems in it, for those who will change it before it is checked."""
    from runner import config
    from runner.config.resolved import to_toml

    given = {word: os.fspath(one) if isinstance(one, os.PathLike) else one for word, one in (params or {}).items()}
    keys = [(key, to_toml(value)) for key, value in (sets or {}).items()]
    return config.examine(os.fspath(file), params=given, sets=keys)


def run(
    file: str | os.PathLike[str] | Config,
    *,
    params: Mapping[str, Any] | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002  the name of the option
    tasks: Collection[str] = (),
    skip: Collection[str] = (),
    feed: Mapping[str, Iterable[Any]] | None = None,
    collect: Collection[str] = (),
    quiet: bool = False,
    on_event: Callable[[events.Event], None] | None = None,
) -> Result:
    """Run the tasks of a file, and return the result; raise ConfigError for a wrong file, before anything is started.

    `file` is a path, or what `load` has returned. `params` and `set` are as in `load`; `tasks` are the only ones to
    run, `skip` those not to run. Output of tasks goes to sys.stdout and sys.stderr, runner's own messages to
    sys.stderr; `quiet`: only errors.

    `feed` gives items to queues: `{"paths": ["a", "b"]}`; a source all of whose queues are fed does not run.
    `collect` names queues whose items are wanted, in `Result.collected`: a queue without a reader gets one, of others
    it is a copy. What a feed raises is raised here, once all that it had given is done.

    `on_event` is called with each event, in this thread; it must be quick. Like the
    command's, the run leaves its record, unless `set={"run.record": 0}` says otherwise.

    In the main thread, signals stop the run as they stop the command: the first drains, the second ends at once.
    When the run is over the signal goes on to the program; Ctrl-C raises `Interrupted`, a KeyboardInterrupt.
    """
    config = configure(file, params, set, tasks, skip)
    from runner import runs

    if not feed and not collect:
        with only_run(), writable_descriptor(sys.stdout) as out, writable_descriptor(sys.stderr) as err:
            result = run_config(config, runs.OutputOptions(out, err, quiet=quiet, on_event=on_event))
        _raise_signal(result)
        return result
    queues = fed_queues(config, feed, collect)
    with queues, only_run(), writable_descriptor(sys.stdout) as out, writable_descriptor(sys.stderr) as err:
        result = run_config(queues.config, runs.OutputOptions(out, err, quiet=quiet, on_event=on_event))
    ended = without_added_tasks(result, queues.collected)
    _raise_signal(ended)
    raise_feed_error(queues, result)
    return ended


def configure(
    file: str | os.PathLike[str] | Config,
    params: Mapping[str, Any] | None,
    sets: Mapping[str, Any] | None,
    tasks: Collection[str],
    skip: Collection[str],
) -> Config:
    """Return what is to be run: a file that is read now, or what `load` has returned, with the tasks that are meant."""
    from runner.model import Config

    if isinstance(file, Config) and (params or sets):
        raise UsageError("`params` and `set` apply while a file is read; give them to `load`")
    config = file if isinstance(file, Config) else read_config(file, params, sets)
    from runner.config import select_tasks

    tasks, skip = ([given] if isinstance(given, str) else given for given in (tasks, skip))
    return select_tasks(config, tasks, skip)


def fed_queues(
    config: Config,
    feed: Mapping[str, Iterable[Any]] | None,
    collect: Collection[str],
    put: Callable[[str, Any], None] | None = None,
) -> FedQueues:
    """Return the file with its queues fed and collected, unless something of it is wrong, or nobody could go on."""
    from runner import check
    from runner.fed_runs import FedQueues

    check.raise_if_errors(config.problems, config)
    if config.run.durable:
        raise UsageError(
            f"{config.file} is durable, and a run that is fed or collected cannot be: another life of it would not have"
            ' the items of this program; say set={"run.durable": False}'
        )
    return FedQueues(config, feed or {}, [collect] if isinstance(collect, str) else collect, put)


def raise_feed_error(queues: FedQueues, result: Result) -> None:
    """Raise what a feed has raised, or RunnerError if an item of it could not be sent."""
    failures = {task.name: task.why for task in result.tasks.values() if task.how == "failed"}
    queues.raise_feed_error(failures, str(result.headline))


def without_added_tasks(result: Result, collected: dict[str, list[Any]]) -> Result:
    """Return the result without the tasks that feed and collect, and with what was collected."""
    from runner.fed_runs import is_added_task

    return replace(
        result,
        tasks={name: task for name, task in result.tasks.items() if not is_added_task(name)},
        collected=collected,
    )


def run_config(
    config: Config,
    options: OutputOptions,
    *,
    reactor: LocalReactor | None = None,
    change: Callable[[Plan], Plan] | None = None,
) -> Result:
    """Run a configuration. `change` may alter the plan before it is carried out."""
    from runner import runs

    plan = runs.prepare_plan(config)
    plan = plan if change is None else change(plan)
    return _build_result(plan, runs.perform(plan, options, reactor)[0])


def _build_result(plan: Plan, outcome: RunOutcome) -> Result:
    ended = outcome.ended
    words = ("name", "how", "why", "done", "dead", "dropped", "repeated", "sent")
    tasks = {
        task.name: TaskResult(
            **{word: getattr(task, word) for word in words},
            results={worker: _decode_json(text) for worker, text in task.results.items()},
        )
        for task in ended.tasks
    }
    return Result(
        plan.run_id,
        plan.title,
        outcome.exit_code,
        ended.seconds,
        outcome.headline,
        tasks,
        outcome.lines,
        ended.reasons,
        outcome.left_behind,
        plan.settings.state,
        ended.unfinished,
    )


def _decode_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # cut, because it was too long to be shown
        return text


def _raise_signal(result: Result) -> None:
    """Give the program the signal that has stopped the run: it does now what it does with such signals."""
    number = result.exit_code - 128
    if number <= 0 or threading.current_thread() is not threading.main_thread():
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt:
        raise Interrupted(result) from None


@contextlib.contextmanager
def only_run() -> Iterator[None]:
    """Be the only run of this process; local plugins are read anew, as worker processes would in any case."""
    from runner.engines import process_setup
    from runner.local_modules import LOCAL_PREFIX
    from runner.posix_only import require_posix

    pid, this_run = os.getpid(), object()
    if os.environ.get("RUNNER_PID") == str(pid) or _UNDER_WAY.setdefault(pid, this_run) is not this_run:
        raise UsageError("a run is under way in this process, and a process has one at a time; start another process")
    try:
        for name in [name for name in sys.modules if name.startswith(LOCAL_PREFIX)]:
            del sys.modules[name]
        require_posix()
        with process_setup.standard_descriptors():
            yield
    finally:
        del _UNDER_WAY[pid]


@contextlib.contextmanager
def writable_descriptor(stream: TextIO | None) -> Iterator[int]:
    """Yield a descriptor to write to, for a text stream that may not have one of its own; None (a service): nowhere.

    A notebook's stream, an `io.StringIO` or pytest's capture has none, or one that leads to another place: what is
    written to a pipe is then written to the stream, by a thread.
    """
    own = None
    if isinstance(stream, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            os.fstat(stream.fileno())  # a daemon may have closed it
            own = stream.fileno()
    if own is not None:
        yield own
        return
    if stream is None:
        with open(os.devnull, "wb") as null:  # noqa: PTH123  not worth an import of pathlib
            yield null.fileno()
        return
    reader, writer = os.pipe()
    thread = threading.Thread(target=_relay_lines, args=(reader, stream), name="runner-relay", daemon=True)
    thread.start()
    try:
        yield writer
    finally:
        os.close(writer)
        thread.join(10.0)


def _relay_lines(reader: int, stream: TextIO) -> None:
    """Copy until the other end is closed everywhere; a stream that takes nothing any more is not waited for."""
    with open(reader, encoding="utf-8", errors="replace", newline="") as lines:
        for line in lines:
            with contextlib.suppress(OSError, ValueError):
                stream.write(line)
                stream.flush()
