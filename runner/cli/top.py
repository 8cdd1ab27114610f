"""`runner top`: a run that goes on in another terminal, as it shows itself. Nothing of the project is imported."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from runner import events
from runner.cli.ended_run import describe_ended_run
from runner.cli.shared_options import DEFAULT_STATE, PortOption, StateOption, complete_running
from runner.cli.streams import claim_stdout
from runner.errors import UsageError
from runner.report.progress import ProgressTracker
from runner.report.record_builder import RecordBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.report.progress import ProgressSnapshot
    from runner.store.running_runs import RunningRun

#: Seconds between two looks at the status, between two touches that keep the run writing it, and between two
#: judgements of what limits it.
LOOK_INTERVAL, TOUCH_INTERVAL, LIMIT_INTERVAL = 0.25, 2.0, 2.0
#: Longest wait for the first status of a run that has just begun.
FIRST_PATIENCE = 5.0


def top(
    run: Annotated[
        str,
        Argument(
            metavar="[RUN]",
            help="A run's id, or the beginning of one. Default: the one that began last and goes on.",
            autocompletion=complete_running,
        ),
    ] = "last",
    state: StateOption = DEFAULT_STATE,
    once: Annotated[bool, Option("--once", help="Show it once, and leave.")] = False,
    as_json: Annotated[bool, Option("--json", help="A line of JSON a second, as `run --progress json` does.")] = False,
    web: Annotated[bool, Option("--web", help="Serve the page of the run, on this machine only.")] = False,
    port: PortOption = 0,
) -> None:
    """Watch a run that is going on: tasks, queues, what limits it. Ctrl-C ends the watching, never the run.

    Ends with the run, says how that has ended, and exits with 0.

    Examples:
      runner top

      runner top 20261130-1200 --once

      runner top --json

      runner top --web
    """
    from runner.store.running_runs import check_watched_folder, select_running

    check_watched_folder(state, "top")
    if web and (once or as_json):
        raise UsageError("--web shows the run in a browser: without --once and --json")
    watch = RunWatch(select_running(state, run))
    with contextlib.suppress(KeyboardInterrupt):
        if web:
            _serve(watch, port)
            sys.stderr.write(f"{watch.describe_end()}\n")
        elif once:
            _show_once(watch, as_json=as_json)
        else:
            _follow(watch, as_json=as_json)
            sys.stderr.write(f"{watch.describe_end()}\n")


class RunWatch:
    """Reads a run's status again and again, and hands on what is new in it."""

    def __init__(self, running: RunningRun) -> None:
        self.run, self.folder, self._holder = running.run, running.folder, running.holder
        self.progress = ProgressTracker()
        self._record = RecordBuilder()
        self._seen: set[str] = set()
        self._last_at = float("-inf")
        self._next_touch = self._next_limit = 0.0
        self._limit = ""

    def new_events(self) -> Iterator[events.Event]:
        """Yield the events that have not been handed on yet."""
        from runner.report.status import parse_status
        from runner.store.records import read_status
        from runner.store.running_runs import watch_run

        if (now := time.monotonic()) >= self._next_touch:
            self._next_touch = now + TOUCH_INTERVAL
            watch_run(self.folder)
        head, *lines = read_status(self.folder).splitlines(keepends=True) or [""]
        fresh = [line for line in lines if line not in self._seen]
        self._seen.update(lines)
        if len(self._seen) > 2 * len(lines) + 100:  # those that were replaced since do not come again
            self._seen = set(lines)
        if not fresh:
            return
        for event in parse_status("".join([head, *fresh])):
            if isinstance(event, events.Progress):
                if event.at <= self._last_at:  # the earlier one of two, which has come before with its workers
                    continue
                self._last_at = event.at
            self.progress.handle_event(event)
            if not isinstance(event, events.Progress) or event.workers:
                self._record.handle_event(event)
            yield event

    def is_going_on(self) -> bool:
        """Return True while the process of the run lives."""
        from runner.store.records import find_holder

        return find_holder(self.folder) is not None

    def find_limit(self) -> str:
        """Return the sentence that says what limits the run so far; an empty text where there is nothing to say."""
        if self._holder.is_suspended():
            return "the run is suspended (Ctrl-Z): `fg` in its terminal lets it go on"
        if (now := time.monotonic()) >= self._next_limit:
            self._next_limit = now + LIMIT_INTERVAL
            found = self._record.build_record().limit
            self._limit = "" if found is None else found.sentence
        return self._limit

    def snapshot(self) -> ProgressSnapshot:
        """Return the run as it is now."""
        return self.complete_snapshot(self.progress.take_snapshot())

    def complete_snapshot(self, snapshot: ProgressSnapshot) -> ProgressSnapshot:
        """Add what limits the run, and how large its ledger is if it is durable."""
        size = None
        if self.progress.started.lives:
            from runner.store.ledger_summary import ledger_bytes

            size = ledger_bytes(self.folder)
        return replace(snapshot, limit=self.find_limit(), ledger_bytes=size)

    def describe_end(self) -> str:
        """Return how the run has ended, in a line."""
        return describe_ended_run(self.folder)[1]


def _serve(watch: RunWatch, port: int) -> None:
    from runner.cli.live_page import serve_page
    from runner.report.page_server import PageServer

    server = PageServer(port)
    try:
        print(server.address, flush=True)
        serve_page(watch.folder, server)
    finally:
        server.close()


def _show_once(watch: RunWatch, *, as_json: bool) -> None:
    from runner.report.displays import progress_json
    from runner.report.live import LiveRenderer

    document = claim_stdout() if as_json else None
    until = time.monotonic() + FIRST_PATIENCE
    while not any(isinstance(event, events.Progress) for event in [*watch.new_events()]):
        if time.monotonic() > until or not watch.is_going_on():
            raise UsageError(f"run {watch.run} has not told how it is; {watch.describe_end()}")
        time.sleep(LOOK_INTERVAL / 5)
    if document is not None:
        document(progress_json(watch.run, watch.snapshot()))
        return
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
    for line, _ in LiveRenderer(color=color).render_frame(watch.snapshot(), columns, 1000):
        print(line.rstrip())


def _follow(watch: RunWatch, *, as_json: bool) -> None:
    """Show the run until it ends, with the display that it shows itself with."""
    from runner.report.displays import create_display
    from runner.report.printer import Printer

    sys.stdout.flush()
    printer = Printer(1, 1)
    display = create_display("json" if as_json else "auto", printer, log="prefix", fd=1)
    assert display is not None
    display.complete_snapshot = watch.complete_snapshot
    try:
        while True:
            going = watch.is_going_on()  # before the look: the last status is shown
            for event in watch.new_events():
                display.handle_event(event)
            if not going or printer.write_error:
                return
            time.sleep(LOOK_INTERVAL)
    finally:
        display.close()
        printer.close(1.0)
