"""Executing a plan for `runner run`: who hears of it, what is written at the end, and the exit code."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.events import Event
    from runner.report.console import Console
    from runner.report.journal import Journal
    from runner.report.output import Printer
    from runner.report.record import Record
    from runner.supervisor import Plan, Result


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of how a run is shown. `events`: the file for them; `page`: that of the report."""

    quiet: bool = False
    verbose: bool = False
    dead_ok: bool = False
    as_json: bool = False
    events: str | None = None
    progress: str = "auto"
    page: str | None = None


def execute(plan: Plan, options: Options) -> NoReturn:
    """Run the plan, say how it ended, and leave with its exit code."""
    from runner import runs
    from runner.report.console import Console
    from runner.report.displays import display
    from runner.report.journal import Journal
    from runner.report.output import Printer

    log = plan.settings.log
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    journal = None if options.events is None else Journal(options.events)
    printer = Printer(2 if options.as_json else 1, 2, log=log, color=color)
    console = Console(printer, plan, quiet=options.quiet, verbose=options.verbose)
    recorder = runs.recorder(plan)
    shown = display("none" if options.quiet else options.progress, printer, log=log)
    hearers: list[Callable[[Event], None]] = [recorder.event, console.event]
    if shown is not None:
        hearers.append(shown.event)
    if journal is not None:
        hearers.append(journal.event)

    def tell(event: Event) -> None:
        for hear in hearers:
            hear(event)

    try:
        try:
            result = runs.execute(plan, runs.Streams(printer, log), tell, watched=True)
        finally:
            if shown is not None:
                shown.close()
        record = recorder.record()
        record = replace(record, exit_code=_code(result, printer, journal, options))
        recorder.close(record)
        told = [recorder.trouble, journal.trouble if journal else "", _page(record, options)]
        _end(console, result, record, told)
    finally:
        printer.close(timeout=5.0)
    code = _code(result, printer, journal, options)
    if options.as_json:
        code = _print(record, code)
    if result.left_behind:
        # A thread that cannot be ended would keep the interpreter from ending; all state is written.
        os._exit(code)
    raise typer.Exit(code)


def _page(record: Record, options: Options) -> str:
    """Write the report, if it is wanted; where it is, or why it is nowhere. The record is there in any case."""
    from runner.cli import pages
    from runner.errors import UsageError

    if options.page is None:
        return ""
    from runner.report.page import render

    try:
        path = pages.write(render(record), options.page)
        return "" if options.quiet else f"report: {path}"
    except UsageError as error:
        return f"the report could not be written: {error}"


def _end(console: Console, result: Result, record: Record, told: list[str]) -> None:
    for line in filter(None, told):
        console.say(line)
    console.summary(result, record)


def _code(result: Result, printer: Printer, journal: Journal | None, options: Options) -> int:
    """What the command ends with: output that was lost makes a good end a failed one."""
    from runner.supervisor.result import DEAD, FAILED

    if journal is not None:
        journal.close()
    lost = printer.failed or (journal is not None and bool(journal.trouble))
    code = 0 if options.dead_ok and result.exit_code == DEAD else result.exit_code
    return FAILED if code in {0, DEAD} and lost else code


def _print(record: Record, code: int) -> int:
    """The summary as JSON; the code, which is another one when it could not be written."""
    from runner.report.journal import summary
    from runner.supervisor.result import DEAD, FAILED

    try:
        sys.stdout.write(summary(record) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stderr.write(f"standard output: {error.strerror}; the summary is lost\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED if code in {0, DEAD} else code
    return code
