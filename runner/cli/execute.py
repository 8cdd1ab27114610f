"""Executing a plan for `runner run`: who hears of it, what is written at the end, and the exit code."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from runner.cli import safe_output, streams
from runner.structs import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.cli.artifacts import Beside
    from runner.events import Event
    from runner.report.record import Record
    from runner.supervisor import Plan, Result


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of how a run is shown.

    `document` writes the summary as JSON to standard output, which is kept for it; `events`: the file for them; `page`:
    that of the report.
    """

    quiet: bool = False
    verbose: bool = False
    dead_ok: bool = False
    document: Callable[[str], None] | None = None
    events: str | None = None
    progress: str = "auto"
    page: str | Beside | None = None
    log_format: str | None = None
    log_file: str | None = None


class Audience:
    """Everybody who hears of one run, and what each of them has to say at its end."""

    def __init__(self, plan: Plan, options: Options) -> None:
        from runner import runs
        from runner.report.console import Console
        from runner.report.journal import Journal
        from runner.report.printer import Printer
        from runner.report.progress_displays import display

        log = plan.settings.log
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._options = options
        self._recorder = runs.recorder(plan)  # first: it may refuse, and nothing is started yet
        self._journal = None if options.events is None else Journal(options.events)
        lines = None
        if options.log_format or options.log_file:
            from runner.report.log import log as log_of

            lines = log_of(plan.run_id, options.log_format, options.log_file)
        self.printer = Printer(1, 2, log=log, color=color, mask=plan.mask, lines=lines)
        self._console = Console(self.printer, plan, quiet=options.quiet, verbose=options.verbose)
        self._display = display("none" if options.quiet else options.progress, self.printer, log=log)
        hearers = (self._recorder, self._console, self._display, self._journal)
        self._hearers: list[Callable[[Event], None]] = [hearer.event for hearer in hearers if hearer is not None]

    def tell(self, event: Event) -> None:
        """Tell everybody."""
        for hear in self._hearers:
            hear(event)

    def end_display(self) -> None:
        """Nothing goes on any more."""
        if self._display is not None:
            self._display.close()

    def close(self) -> None:
        """Write what there is still to print; the record is kept, or there is none."""
        self._recorder.end()
        self.printer.close(0.0)

    def code(self, result: Result) -> int:
        """What the command ends with: output that was lost makes a good end a failed one."""
        from runner.supervisor.result import DEAD, FAILED

        if self._journal is not None:
            self._journal.close()
        lost = self.printer.failed or (self._journal is not None and bool(self._journal.trouble))
        code = 0 if self._options.dead_ok and result.exit_code == DEAD else result.exit_code
        if self.printer.interrupted:
            return 128 + self.printer.interrupted
        return FAILED if code in {0, DEAD} and lost else code

    def end(self, result: Result) -> Record:
        """Keep the record, write the page, say how it ended."""
        record = self._recorder.close(self.code(result))
        kept = "" if self._options.quiet else self._recorder.trouble
        told = [kept, self._journal.trouble if self._journal else "", _page(record, self._options)]
        for line in filter(None, told):
            self._console.say(line)
        self._console.summary(result, record)
        return record


def execute(plan: Plan, options: Options) -> NoReturn:
    """Run the plan, say how it ended, and leave with its exit code."""
    from runner import runs
    from runner.engines import process_setup

    audience = Audience(plan, options)
    outlets = runs.Streams(audience.printer, plan.settings.log)
    try:
        try:
            # What tasks print has a way of its own, the printer's, or stays raw.
            with safe_output.off(), streams.strict():
                result = runs.execute(plan, outlets, audience.tell, watched=True)
        finally:
            audience.end_display()
        with process_setup.ending_waits():
            record = audience.end(result)
            audience.printer.close(result.patience(plan.settings.deadline))
    finally:
        audience.close()
    code = audience.code(result)
    if options.document is not None:
        code = _print(record, options.document, code)
    _part(result, plan.settings.grace, code)


def _part(result: Result, grace: float, code: int) -> NoReturn:
    """Leave: at once when the run was killed, else the command waits within the grace for what its tasks have left."""
    if result.killed or result.left_behind:
        # A thread that cannot be ended would keep the interpreter from ending; all state is written.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    from runner.worker import orderly_exit

    orderly_exit.grace_of_command = grace
    raise typer.Exit(code)


def _page(record: Record, options: Options) -> str:
    """Write the report, if it is wanted; where it is, or why it is nowhere. The record is there in any case."""
    if options.page is None:
        return ""
    from runner.cli import artifacts
    from runner.errors import RunnerError
    from runner.report.page import render

    try:
        path = artifacts.write(render(record), options.page)
        return "" if options.quiet else f"report: {path}"
    except RunnerError as error:
        return f"the report could not be written: {error}"


def _print(record: Record, document: Callable[[str], None], code: int) -> int:
    """The summary as JSON; the code, which is another one when it could not be written."""
    from runner.report.journal import summary
    from runner.supervisor.result import DEAD, FAILED

    try:
        document(summary(record))
        lost = streams.trouble()
    except BrokenPipeError:  # nobody wants to read it
        lost = ""
    except OSError as error:
        lost = f"standard output: {error.strerror}"
    if lost:
        sys.stderr.write(f"{lost}; the summary is lost\n")
        return FAILED if code in {0, DEAD} else code
    return code
