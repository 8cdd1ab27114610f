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

    from runner.cli.artifacts import BesideRecord
    from runner.events import Event
    from runner.report.record import RunRecord
    from runner.supervisor import Plan, RunOutcome


@dataclass(frozen=True, slots=True)
class OutputOptions:
    """What the command line says of how a run is shown.

    `document` writes the summary as JSON to standard output, which is kept for it; `events`: the file for them; `page`:
    that of the report.
    """

    quiet: bool = False
    verbose: bool = False
    dead_ok: bool = False
    write_document: Callable[[str], None] | None = None
    events_file: str | None = None
    progress: str = "auto"
    page_target: str | BesideRecord | None = None
    log_format: str | None = None
    log_file: str | None = None


class RunOutput:
    """Everybody who hears of one run, and what each of them has to say at its end."""

    def __init__(self, plan: Plan, options: OutputOptions) -> None:
        from runner import runs
        from runner.report.console import Console
        from runner.report.journal import EventJournal
        from runner.report.printer import Printer
        from runner.report.progress_displays import create_display

        log = plan.settings.log
        color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._options = options
        self._recorder = runs.open_recorder(plan)  # first: it may refuse, and nothing is started yet
        self._journal = None if options.events_file is None else EventJournal(options.events_file)
        lines = None
        if options.log_format or options.log_file:
            from runner.report.log import open_log as log_of

            lines = log_of(plan.run_id, options.log_format, options.log_file)
        self.printer = Printer(1, 2, log=log, color=color, mask=plan.secret_mask, lines=lines)
        self._console = Console(self.printer, plan, quiet=options.quiet, verbose=options.verbose)
        self._display = create_display("none" if options.quiet else options.progress, self.printer, log=log)
        hearers = (self._recorder, self._console, self._display, self._journal)
        self._subscribers: list[Callable[[Event], None]] = [
            hearer.handle_event for hearer in hearers if hearer is not None
        ]

    def publish(self, event: Event) -> None:
        """Tell everybody."""
        for hear in self._subscribers:
            hear(event)

    def end_display(self) -> None:
        """Nothing goes on any more."""
        if self._display is not None:
            self._display.close()

    def close(self) -> None:
        """Write what there is still to print; the record is kept, or there is none."""
        self._recorder.stop_recording()
        self.printer.close(0.0)

    def exit_code(self, result: RunOutcome) -> int:
        """What the command ends with: output that was lost makes a good end a failed one."""
        from runner.supervisor.result import EXIT_DEAD, EXIT_FAILED

        if self._journal is not None:
            self._journal.close()
        lost = self.printer.has_lost_output or (self._journal is not None and bool(self._journal.write_error))
        code = 0 if self._options.dead_ok and result.exit_code == EXIT_DEAD else result.exit_code
        if self.printer.interrupt_signal:
            return 128 + self.printer.interrupt_signal
        return EXIT_FAILED if code in {0, EXIT_DEAD} and lost else code

    def finish_run(self, result: RunOutcome) -> RunRecord:
        """Keep the record, write the page, say how it ended."""
        record = self._recorder.close(self.exit_code(result))
        kept = "" if self._options.quiet else self._recorder.write_error
        told = [kept, self._journal.write_error if self._journal else "", _page(record, self._options)]
        for line in filter(None, told):
            self._console.print_message(line)
        self._console.print_summary(result, record)
        return record


def execute_plan(plan: Plan, options: OutputOptions) -> NoReturn:
    """Run the plan, say how it ended, and leave with its exit code."""
    from runner import runs
    from runner.engines import process_setup

    audience = RunOutput(plan, options)
    outlets = runs.OutputStreams(audience.printer, plan.settings.log)
    try:
        try:
            # What tasks print has a way of its own, the printer's, or stays raw.
            with safe_output.unescaped_output(), streams.strict_output():
                result = runs.execute_plan(plan, outlets, audience.publish, watched=True)
        finally:
            audience.end_display()
        with process_setup.interrupt_on_signals():
            record = audience.finish_run(result)
            audience.printer.close(result.closing_patience(plan.settings.deadline))
    finally:
        audience.close()
    code = audience.exit_code(result)
    if options.write_document is not None:
        code = _print(record, options.write_document, code)
    _part(result, plan.settings.grace, code)


def _part(result: RunOutcome, grace: float, code: int) -> NoReturn:
    """Leave: at once when the run was killed, else the command waits within the grace for what its tasks have left."""
    if result.was_killed or result.left_behind:
        # A thread that cannot be ended would keep the interpreter from ending; all state is written.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    from runner.worker import orderly_exit

    orderly_exit.command_grace = grace
    raise typer.Exit(code)


def _page(record: RunRecord, options: OutputOptions) -> str:
    """Write the report, if it is wanted; where it is, or why it is nowhere. The record is there in any case."""
    if options.page_target is None:
        return ""
    from runner.cli import artifacts
    from runner.errors import RunnerError
    from runner.report.page import render_page

    try:
        path = artifacts.write_file(render_page(record), options.page_target)
        return "" if options.quiet else f"report: {path}"
    except RunnerError as error:
        return f"the report could not be written: {error}"


def _print(record: RunRecord, document: Callable[[str], None], code: int) -> int:
    """The summary as JSON; the code, which is another one when it could not be written."""
    from runner.report.journal import summary_json
    from runner.supervisor.result import EXIT_DEAD, EXIT_FAILED

    try:
        document(summary_json(record))
        lost = streams.take_output_error()
    except BrokenPipeError:  # nobody wants to read it
        lost = ""
    except OSError as error:
        lost = f"standard output: {error.strerror}"
    if lost:
        sys.stderr.write(f"{lost}; the summary is lost\n")
        return EXIT_FAILED if code in {0, EXIT_DEAD} else code
    return code
