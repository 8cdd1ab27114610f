"""Executing a plan for `runner run`: the report and the summary that it asked for, and how the command leaves."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

import typer

from runner.cli import safe_output, streams

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.cli.artifacts import BesideRecord
    from runner.report.record import RunRecord
    from runner.runs import OutputOptions
    from runner.supervisor import Plan, RunOutcome


def execute_and_leave(plan: Plan, options: OutputOptions, document: Callable[[str], None] | None) -> NoReturn:
    """Run the plan, say how it ended, and leave with its exit code; `document` writes the summary as JSON."""
    from runner import runs

    # What tasks print has a way of its own, the printer's, or stays raw.
    with safe_output.unescaped_output(), streams.strict_output():
        outcome, record = runs.perform(plan, options)
    code = outcome.exit_code
    if document is not None and record is not None:
        code = _write_summary(record, document, code)
    _leave_with(outcome, plan.settings.grace, code)


def write_report(record: RunRecord, to: str | BesideRecord, *, quiet: bool) -> str:
    """Write the report; return where it is, or why it is not there. The record is kept in any case."""
    from runner.cli import artifacts
    from runner.errors import RunnerError
    from runner.report.page import render_page

    try:
        path = artifacts.write_file(render_page(record), to)
        return "" if quiet else f"report: {path}"
    except RunnerError as error:
        return f"the report could not be written: {error}"


def _write_summary(record: RunRecord, document: Callable[[str], None], code: int) -> int:
    """Write the summary as JSON; return the exit code, which is another one when it could not be written."""
    from runner.report.journal import summary_json
    from runner.supervisor.outcome import EXIT_DEAD, EXIT_FAILED

    try:
        document(summary_json(record))
        lost = streams.take_output_error()
    except BrokenPipeError:  # the reader has left
        lost = ""
    except OSError as error:
        lost = f"standard output: {error.strerror}"
    if lost:
        sys.stderr.write(f"{lost}; the summary is lost\n")
        return EXIT_FAILED if code in {0, EXIT_DEAD} else code
    return code


def _leave_with(outcome: RunOutcome, grace: float, code: int) -> NoReturn:
    """Leave: at once when the run was killed, else the command waits within the grace for what its tasks have left."""
    if outcome.was_killed or outcome.left_behind:
        # A thread that cannot be ended would keep the interpreter from ending; all state is written.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    from runner.worker import orderly_exit

    orderly_exit.command_grace = grace
    raise typer.Exit(code)
