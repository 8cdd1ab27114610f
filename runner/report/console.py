"""Lines of runner's own while a run goes on and when it has ended: messages, the summary, the balance last."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from runner import events
from runner.engines.engine_events import CALLER_STOPPED
from runner.error_text import item_name
from runner.text import (
    count_or_empty,
    count_with_noun,
    cut_text,
    format_count,
    format_duration,
    format_table,
    printable_line,
    size_or_empty,
    time_or_empty,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from runner.ledger.balance import Balance
    from runner.report.printer import Printer
    from runner.report.record import RunRecord
    from runner.supervisor.outcome import RunOutcome
    from runner.supervisor.plan import Plan

SUMMARY_WIDTH = 80
#: A name is cut to at least so many characters.
_LEAST_NAME = 8
#: Counts of items that did not get where they should.
_LOSSES = ("dead", "dropped", "left")
_VERDICTS = {"again": "tried again", "dead": "given up", "dropped": "dropped", "fatal": "fatal"}
#: A run of fewer items and seconds, in which all went well, is a trifle.
MIN_NOTABLE_ITEMS, MIN_NOTABLE_SECONDS = 100, 10.0
#: Failures of a kind that were shown as they happened.
MAX_SHOWN_FAILURES = 3


class Console:
    """Turns events into lines on standard error."""

    def __init__(self, printer: Printer, plan: Plan, *, quiet: bool = False, verbose: bool = False) -> None:
        self._printer = printer
        self._plan = plan
        self._quiet = quiet
        self._verbose = verbose
        self._failures: Counter[tuple[str, str]] = Counter()
        self._lives: tuple[events.RunLife, ...] = ()

    def handle_event(self, event: events.Event) -> None:
        """Say what a person should know of it."""
        match event:
            case events.RunStarted():
                self._lives = event.lives
            case events.ItemFailed():
                self._print_failure(event)
            case events.WorkerDied(told=False):
                pid = f" (pid {_pid_text(event)})" if event.pid else ""  # it died in an earlier life of the run
                worker = f"task `{event.task}`, worker `{event.worker}`{pid}"
                then = "; a new one takes its place" if event.will_restart else ""
                self.print_message(f"{worker}: {event.why}{describe_executed(event)}{then}", "WARNING")
            case events.Stack() if self._is_first_stack(event):
                self.print_message(
                    f"worker `{event.worker}` of task `{event.task}` (pid {_pid_text(event)}), {event.why}, executed:"
                )
                self.print_message(_indent_lines(event.text) if event.text.strip() else "    nothing: the worker waits")
            case events.TaskEnded(how="failed"):
                self.print_message(f"task `{event.task}` has failed: {event.why}", "ERROR")
            case events.TaskEnded(how="skipped"):
                self.print_message(f"task `{event.task}` was not started: {event.why}")
            case events.RunStopping():
                self._print_stopping(event)
            case events.RunKilled():
                self.print_message(f"{event.why}: ending at once")
            case events.NodeJoined() | events.NodeLost() | events.Notice() | events.WorkersChanged():
                self._print_notice(event)

    def _print_stopping(self, event: events.RunStopping) -> None:
        if self._quiet and event.why == CALLER_STOPPED:
            return
        left = format_duration(max(0.0, event.until - event.at))
        what = f"what is queued drains for at most {left}; Ctrl-C again ends at once"
        if not event.drains:
            what = f"what workers hold may end within {left}, the rest is left"
        self.print_message(f"{event.why}: sources stop, {what}")

    def _print_notice(self, event: events.NodeJoined | events.NodeLost | events.Notice | events.WorkersChanged) -> None:
        if isinstance(event, events.Notice):
            self.print_message(event.text)
        elif isinstance(event, events.WorkersChanged):
            if self._verbose:
                workers = f"task `{event.task}` has {event.number} workers (had {event.before})"
                self.print_message(f"{workers}: {event.why}")
        elif isinstance(event, events.NodeJoined):
            self.print_message(f"node `{event.node}` has joined: {count_with_noun(event.places, 'worker')} at most")
        else:
            lost = f"; {count_with_noun(len(event.workers), 'worker')} lost" if event.workers else ""
            self.print_message(f"node `{event.node}` {event.why}{lost}", "WARNING" if lost else "INFO")

    def _is_first_stack(self, event: events.Stack) -> bool:
        """Return True for the first stack of its kind, and for all that a user has asked for."""
        kind = (event.task, event.why)
        self._failures[kind] += 1
        return event.why == "SIGQUIT" or self._failures[kind] == 1

    def print_message(self, text: str, level: str = "INFO") -> None:
        """Print a line of runner's own; further lines are indented, so that no error can pass itself off as one."""
        first, *more = text.split("\n")
        lines = [first, *(line if line[:4].isspace() else f"    {line}" for line in more)]
        self._printer.print_message("\n".join(lines), level)

    def _print_failure(self, event: events.ItemFailed) -> None:
        kind = (event.task, event.error.partition(":")[0])
        self._failures[kind] += event.count
        if self._failures[kind] > MAX_SHOWN_FAILURES or (self._quiet and event.verdict == "again"):
            return
        where = f"task `{event.task}`, worker `{event.worker}`"
        item = f", {item_name(event.preview, event.item)}" if event.item else ""
        batch = f" and {event.count - 1} more of its batch" if event.count > 1 else ""
        verdict = {
            "again": f", attempt {event.attempt}, will be tried again",
            "dead": f", attempt {event.attempt}, given up",
            "dropped": f", attempt {event.attempt}, dropped as `on_error` says",
        }.get(event.verdict, "")
        level = "ERROR" if event.verdict in {"dead", "fatal"} else "WARNING"
        self.print_message(f"{where}{item}{batch}{verdict}: {event.error[:500]}", level)
        if self._failures[kind] == event.count and "\n" in event.traceback.strip():  # else it says the same once more
            self.print_message(_indent_lines(event.traceback), level)
        if self._failures[kind] >= MAX_SHOWN_FAILURES and event.verdict != "fatal":
            self.print_message(f"task `{event.task}`: further {kind[1]} failures are counted, not shown")

    def print_summary(self, result: RunOutcome, record: RunRecord | None = None) -> None:
        """Print the results, what each task did, what is missing and why, and last of all the balance."""
        self._printer.wait_until_written(result.closing_patience(self._plan.settings.deadline))
        if self._printer.write_error:
            self.print_message(self._printer.write_error)
        if self._quiet and result.ended.reasons == (CALLER_STOPPED,):  # the program knows, and asked for silence
            return
        if not self._quiet:
            for task in result.ended.tasks:
                for worker, text in task.results.items():
                    self.print_message(f"{worker}: {text}")
        for line in _problem_lines(result):
            self.print_message(line)
        if not self._quiet or result.ended.exit_code:
            self._print_ending(result, record)

    def _print_ending(self, result: RunOutcome, record: RunRecord | None) -> None:
        if record is not None:
            for line in chain(summary_tables(record, verbose=self._verbose), failure_lines(record)):
                self.print_message(line)
        title, ended = printable_line(self._plan.title), result.ended
        how = {0: "ended in", 4: "ended in", 1: "failed after"}.get(ended.exit_code, "stopped after")
        hows = {task.name: task.how for task in ended.tasks}
        told = describe_outcome(result.headline, hows, ended.unfinished, queues=bool(result.lines))
        self.print_message(f"{title}  {how} {format_duration(ended.seconds)}   {told}")
        indent = " " * len(title)
        if record is not None and record.limit is not None:
            width = max(SUMMARY_WIDTH, len(indent) + 42)  # a long title leaves the sentence room
            for line in wrap(record.limit.sentence, width - len(indent) - 2):
                self.print_message(f"{indent}  {line}")
        if len(self._lives) > 1:
            self.print_message(f"{indent}  {describe_lives(self._lives, ended.seconds)}")
        if result.is_resumable:
            self.print_message(f"{indent}  kept: runner resume {self._plan.run_id}")
        if result.letters_kept:
            state = self._plan.settings.state
            is_here = state.resolve() == Path(".runner").resolve()  # where `runner dead` looks by itself
            where = "last" if is_here else f"{self._plan.run_id} --state {state}"
            self.print_message(f"{indent}  {result.letters_kept:,} dead: runner dead list {where}")
        if result.items_not_kept:
            items = count_with_noun(result.items_not_kept, "dead item")
            self.print_message(f"{indent}  {items} not kept for a retry: runner dead show says why")


def _problem_lines(result: RunOutcome) -> Iterator[str]:
    if result.ended.unbalanced:
        names = ", ".join(f"`{name}`" for name in result.ended.unbalanced)
        yield f"the balance does not hold in {names}: this is runner's own fault, please report it"
    for thread in result.left_behind:
        yield f"thread `{thread}` was still executing and cannot be ended; it ends with this process"
    for name, tally in result.lines.items():
        if tally.left:
            yield f"left in `{name}`: {count_with_noun(tally.left, 'item')}"
    if result.trouble:
        yield result.trouble


def _indent_lines(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip("\n").splitlines())


def summary_tables(record: RunRecord, *, verbose: bool = False) -> Iterator[str]:
    """Yield what each task did, and the queues that were full, or lost or kept something; nothing of a trifle.

    At most 80 columns. A run without queues has no table: all there is to say of it is its result and its balance.
    """
    wrong = any(task.dead or task.dropped or task.left or task.repeated for task in record.tasks)
    many = any(task.taken >= MIN_NOTABLE_ITEMS for task in record.tasks)
    notable = verbose or wrong or many or record.seconds >= MIN_NOTABLE_SECONDS
    if not notable or not any(task.inputs for task in record.plan.tasks):
        return
    yield from _table_lines("task", [(task.name, _task_cells(record, task)) for task in record.tasks])
    bounds = {queue.name: queue.size for queue in record.plan.queues}
    telling = [
        queue
        for queue in record.queues
        if queue.dead or queue.dropped or queue.left or ((size := bounds.get(queue.name)) and queue.most >= size)
    ]
    yield from _table_lines("queue", [(queue.name, _queue_cells(queue, bounds.get(queue.name))) for queue in telling])


def _task_cells(record: RunRecord, task: events.TaskSummary) -> dict[str, str]:
    planned = {each.name: each for each in record.plan.tasks}.get(task.name)
    return {
        "in": format_count(task.taken) if planned is None or planned.inputs else "",
        "out": format_count(task.sent) if planned is None or planned.outputs else "",
        **{loss: count_or_empty(getattr(task, loss)) for loss in _LOSSES},
        "again": count_or_empty(task.repeated),
        "median": time_or_empty(task.median),
        "p99": time_or_empty(task.p99),
        "busy": f"{task.busy:.0%}" if task.workers else "",
        "memory": size_or_empty(task.peak),
    }


def _queue_cells(queue: events.QueueSummary, size: int | None) -> dict[str, str]:
    most = f"{format_count(queue.most)} of {format_count(size)}" if size else format_count(queue.most)
    return {
        "in": format_count(queue.put),
        "out": format_count(queue.done),
        **{loss: count_or_empty(getattr(queue, loss)) for loss in _LOSSES},
        "at most": most,
        "fullest bucket": _bucket_text(queue.fullest),
    }


def _bucket_text(fullest: events.FullestBucket | None) -> str:
    """Return how many items were in the fullest bucket of a queue with lanes, and for how long the first had waited.

    >>> _bucket_text(events.FullestBucket(5, 128, 990, 31.0))
    '990, 31s'
    """
    return f"{format_count(fullest.items)}, {time_or_empty(fullest.seconds)}" if fullest else ""


def _table_lines(title: str, rows: Sequence[tuple[str, dict[str, str]]]) -> Iterator[str]:
    """Yield columns that say something, numbers to the right, the name cut so that it fits."""
    if not rows:
        return
    keys = [key for key in rows[0][1] if any(row[key] for _, row in rows)]
    widths = {key: max(len(key), *(len(row[key]) for _, row in rows)) for key in keys}
    room = SUMMARY_WIDTH - sum(widths.values()) - 2 * len(widths)
    while room < _LEAST_NAME and widths:  # names say more than the last column
        room += widths.popitem()[1] + 2
    keys = list(widths)
    names = [cut_text(printable_line(name), room) for name, _ in rows]
    told = [[name, *(row[key] for key in keys)] for name, (_, row) in zip(names, rows, strict=True)]
    yield from format_table([[title, *keys], *told], ">")


def failure_lines(record: RunRecord) -> Iterator[str]:
    """Yield each kind of failure that was not shown one by one, the most frequent first."""
    groups = sorted(record.failures, key=lambda group: -group.count)
    for group in groups:
        if group.count > MAX_SHOWN_FAILURES:
            verdict = _VERDICTS.get(group.verdict, group.verdict)
            name = printable_line(item_name(group.preview, group.first_item, 60))
            first = f" (first: {name})" if group.first_item else ""
            yield f"{group.count:,} × {printable_line(group.kind)} in {printable_line(group.task)}, {verdict}{first}"


def describe_executed(event: events.WorkerDied) -> str:
    """Say what a worker executed when it died, for the sentence on its death.

    >>> from runner.events import WorkerDied
    >>> describe_executed(WorkerDied(0.0, "t", "w", 1, "killed", "1.2", preview="'b'", count=3))
    " while it executed one of 3 items, the first of them item 'b' (1.2)"
    """
    if not event.item:
        return ""
    name = item_name(event.preview, event.item)
    if event.count == 1:
        return f" while it executed {name}"
    return f" while it executed one of {event.count:,} items, the first of them {name}"


def describe_outcome(balance: Balance, hows: Mapping[str, str], unfinished: Iterable[str], *, queues: bool) -> str:
    """Say how a run has ended, for its last line: the balance, or, without queues, how many tasks are ok.

    >>> from runner.ledger.balance import Balance
    >>> describe_outcome(Balance(read=9, done=9), {"read": "ok", "eat": "ok"}, ["read"], queues=True)
    '9 read = 9 done + 0 dead + 0 dropped + 0 left; `read` had not ended'
    >>> describe_outcome(Balance(), {"sing": "ok", "dance": "failed", "rest": "ok"}, [], queues=False)
    '2 tasks ok, 1 failed'
    """
    cut = list(unfinished)
    had = f"{list_names(cut)} had not ended" if cut else ""
    if queues:
        return f"{balance}; {had}" if had else str(balance)
    ended = Counter(how for name, how in hows.items() if name not in cut)
    parts: list[str] = []
    for how, word in (("ok", "ok"), ("failed", "failed"), ("skipped", "not started")):
        if ended[how]:
            parts.append(f"{ended[how]} {word}" if parts else f"{count_with_noun(ended[how], 'task')} {word}")
    return ", ".join([*parts, *([had] if had else [])]) or "no task"


def describe_lives(lives: Sequence[events.RunLife], seconds: float) -> str:
    """Say how many lives a durable run has had, with one of so many seconds that has ended just now.

    >>> describe_lives([events.RunLife(seconds=60), events.RunLife(done_before=8685)], 12)
    'life 2 of this run, 1m12s in all: 8,685 done before it'
    """
    number, total = sum(life.count for life in lives), sum(life.seconds for life in lives[:-1]) + seconds
    return f"life {number:,} of this run, {format_duration(total)} in all: {lives[-1].done_before:,} done before it"


def list_names(names: Sequence[str]) -> str:
    """Name some tasks.

    >>> list_names(["a"]), list_names(["a", "b", "c", "d", "e"])
    ('`a`', '`a`, `b`, `c` and 2 more')
    """
    shown = ", ".join(f"`{printable_line(name)}`" for name in names[:3])
    return f"{shown} and {len(names) - 3:,} more" if len(names) > 3 else shown


def _pid_text(event: events.WorkerDied | events.Stack) -> str:
    """Return the worker's process, and its machine if that is another one."""
    return f"{event.pid}@{event.node}" if event.node else str(event.pid)
