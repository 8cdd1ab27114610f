"""Lines of runner's own while a run goes on and when it has ended: messages, the summary, the balance last."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from runner import events
from runner.error_text import item_name
from runner.report import summary
from runner.text import count_with_noun, format_duration, printable_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.report.printer import Printer
    from runner.report.record import RunRecord
    from runner.supervisor import Plan, RunOutcome


class Console:
    """Turns events into lines on standard error."""

    def __init__(self, printer: Printer, plan: Plan, *, quiet: bool = False, verbose: bool = False) -> None:
        self._printer = printer
        self._plan = plan
        self._quiet = quiet
        self._verbose = verbose
        self._failures: Counter[tuple[str, str]] = Counter()

    def handle_event(self, event: events.Event) -> None:
        """Say what a person should know of it."""
        match event:
            case events.ItemFailed():
                self._print_failure(event)
            case events.WorkerDied(told=False):
                worker = f"task `{event.task}`, worker `{event.worker}` (pid {event.pid})"
                then = "; a new one takes its place" if event.will_restart else ""
                self.print_message(f"{worker}: {event.why}{summary.describe_executed(event)}{then}", "WARNING")
            case events.Stack() if self._is_first_stack(event):
                self.print_message(
                    f"worker `{event.worker}` of task `{event.task}` (pid {event.pid}), {event.why}, executed:"
                )
                self.print_message(_indent_lines(event.text) if event.text.strip() else "    nothing: the worker waits")
            case events.TaskEnded(how="failed"):
                self.print_message(f"task `{event.task}` has failed: {event.why}", "ERROR")
            case events.TaskEnded(how="skipped"):
                self.print_message(f"task `{event.task}` was not started: {event.why}")
            case events.RunStopping():
                left = format_duration(max(0.0, event.until - event.at))
                self.print_message(
                    f"{event.why}: sources stop, what is queued drains for at most {left}; Ctrl-C again ends at once"
                )
            case events.RunKilled():
                self.print_message(f"{event.why}: ending at once")
            case events.Notice():
                self.print_message(event.text)

    def _is_first_stack(self, event: events.Stack) -> bool:
        """Return True for the first stack of its kind, and for all that a user has asked for."""
        kind = (event.task, event.why)
        self._failures[kind] += 1
        return event.why == "SIGQUIT" or self._failures[kind] == 1

    def print_message(self, text: str, level: str = "INFO") -> None:
        """Print a line of runner's own, made safe by the printer.

        Further lines are indented, so that no error can pass itself off as one of runner's.
        """
        first, *more = text.split("\n")
        lines = [first, *(line if line[:4].isspace() else f"    {line}" for line in more)]
        self._printer.print_message("\n".join(lines), level)

    def _print_failure(self, event: events.ItemFailed) -> None:
        kind = (event.task, event.error.partition(":")[0])
        self._failures[kind] += event.count
        if self._failures[kind] > summary.MAX_SHOWN_FAILURES or (self._quiet and event.verdict == "again"):
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
        if self._failures[kind] == event.count and event.traceback:
            self.print_message(_indent_lines(event.traceback), level)
        if self._failures[kind] >= summary.MAX_SHOWN_FAILURES and event.verdict != "fatal":
            self.print_message(f"task `{event.task}`: further {kind[1]} failures are counted, not shown")

    def print_summary(self, result: RunOutcome, record: RunRecord | None = None) -> None:
        """Print the results, what each task did, what is missing and why, and last of all the balance."""
        self._printer.wait_until_written(result.closing_patience(self._plan.settings.deadline))
        if self._printer.write_error:
            self.print_message(self._printer.write_error)
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
            for line in chain(summary.summary_tables(record, verbose=self._verbose), summary.failure_lines(record)):
                self.print_message(line)
        self.print_message(_last_line(self._plan.title, result))
        indent = " " * len(printable_line(self._plan.title))
        if record is not None and record.limit is not None:
            width = max(summary.SUMMARY_WIDTH, len(indent) + 42)  # a long title leaves the sentence room
            for line in wrap(record.limit.sentence, width - len(indent) - 2):
                self.print_message(f"{indent}  {line}")
        if result.letters_kept:
            self.print_message(f"{indent}  {result.letters_kept:,} dead: runner dead list{self._letters_location()}")

    def _letters_location(self) -> str:
        """Return the words by which `runner dead` finds the letters: by default in `.runner` here."""
        state = self._plan.settings.state
        return " last" if state.resolve() == Path(".runner").resolve() else f" {self._plan.run_id} --state {state}"


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


def _last_line(title: str, result: RunOutcome) -> str:
    ended = result.ended
    how = {0: "ended in", 4: "ended in", 1: "failed after"}.get(ended.exit_code, "stopped after")
    hows = {task.name: task.how for task in ended.tasks}
    told = summary.describe_outcome(result.headline, hows, ended.unfinished, queues=bool(result.lines))
    return f"{printable_line(title)}  {how} {format_duration(ended.seconds)}   {told}"


def _indent_lines(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.rstrip("\n").splitlines())
