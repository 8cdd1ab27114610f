"""The displays of `run --progress`: which one it is, and the two that write lines."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Protocol

from runner.report.progress import ProgressTracker
from runner.text import format_count, format_duration, printable_line

if TYPE_CHECKING:
    from runner import events
    from runner.report.printer import Printer
    from runner.report.progress import ProgressSnapshot

#: Seconds between two lines for people, between two for programs, and before a tenth more is worth a line.
PLAIN_INTERVAL, JSON_INTERVAL, MIN_TENTH_INTERVAL = 10.0, 1.0, 1.0


class Display(Protocol):
    """Shows a run while it goes on."""

    def handle_event(self, event: events.Event) -> None:
        """Take one more event."""

    def close(self) -> None:
        """Leave nothing of the display where it would be in the way: the run is over."""


def create_display(choice: str, printer: Printer, *, log: str, fd: int = 2) -> Display | None:
    """Make the display for a terminal or file `fd`; None: nothing is shown. Live needs a terminal that can.

    What tasks write past the printer (`log = "raw"`) would tear a live display.
    """
    if choice in {"auto", "live"}:
        able = os.isatty(fd) and os.environ.get("TERM", "") not in {"", "dumb", "unknown"}
        choice = "live" if able and log != "raw" else "plain"
    if choice == "live":
        return LiveDisplay(printer)
    if choice == "plain":
        return PlainDisplay(printer)
    return JsonDisplay(printer) if choice == "json" else None


class LiveDisplay:
    """Lines at the bottom of a terminal; the printer draws them, in its own thread and time."""

    def __init__(self, printer: Printer) -> None:
        from runner.report.live import LiveRenderer

        self._progress = ProgressTracker()
        self._printer = printer
        self._live = LiveRenderer(color="NO_COLOR" not in os.environ)
        self._shown = False

    def handle_event(self, event: events.Event) -> None:
        """Remember it; the first progress shows the panel."""
        if self._progress.handle_event(event) and not self._shown:
            self._shown = True
            self._printer.show_panel(self._render_frame)

    def _render_frame(self, columns: int, lines: int) -> list[tuple[str, int]]:
        return self._live.render_frame(self._progress.take_snapshot(), columns, lines)

    def close(self) -> None:
        """Take the panel away."""
        self._printer.show_panel(None)


class PlainDisplay:
    """A line every ten seconds, or at each tenth of what the sources say that there is."""

    def __init__(self, printer: Printer) -> None:
        self._progress = ProgressTracker()
        self._printer = printer
        self._last = 0.0
        self._tenth = 0

    def handle_event(self, event: events.Event) -> None:
        """Write a line when it is time."""
        if not self._progress.handle_event(event):
            return
        snapshot = self._progress.take_snapshot()
        tenth = int(10 * snapshot.done_share) if snapshot.done_share is not None else 0
        waited = snapshot.seconds - self._last
        if waited >= PLAIN_INTERVAL or (
            tenth > self._tenth and waited >= MIN_TENTH_INTERVAL and snapshot.seconds >= PLAIN_INTERVAL
        ):
            self._last, self._tenth = snapshot.seconds, tenth
            self._printer.print_message(progress_line(snapshot))

    def close(self) -> None:
        """Do nothing: lines scroll away."""


def progress_line(snapshot: ProgressSnapshot) -> str:
    """Describe a run in one line: how long, how far, and what each task that is under way has done."""
    parts = [f"{printable_line(snapshot.title)}  {format_duration(snapshot.seconds)}"]
    parts += snapshot.describe_done()
    going = [task for task in snapshot.tasks if task.state in {"running", "starting"}]
    parts += [
        f"{printable_line(task.name)} {format_count(task.done)} ({format_count(round(task.rate))}/s)"
        for task in going[:6]
    ]
    parts += [f"{len(going) - 6} more tasks"] if len(going) > 6 else []
    parts += [f"{snapshot.dead:,} dead"] if snapshot.dead else []
    return "  ".join(parts)


class JsonDisplay:
    """An object a line, once a second, for programs."""

    def __init__(self, printer: Printer) -> None:
        self._progress = ProgressTracker()
        self._printer = printer
        self._next = 0.0

    def handle_event(self, event: events.Event) -> None:
        """Write an object when it is time."""
        if self._progress.handle_event(event):
            snapshot = self._progress.take_snapshot()
            if snapshot.seconds >= self._next:
                self._next = snapshot.seconds + JSON_INTERVAL
                self._printer.print_message(progress_json(self._progress.run, snapshot))

    def close(self) -> None:
        """Do nothing: lines scroll away."""


def progress_json(run: str, snapshot: ProgressSnapshot) -> str:
    """Write a snapshot as one line of JSON, see docs/reference/commands.md."""
    tasks = {
        task.name: {
            "state": task.state,
            **{key: getattr(task.counts, key) for key in ("executing", "item", "room", "turn")},
            "done": task.done,
            "rate": round(task.rate, 3),
            **{key: getattr(task.counts, key) for key in ("dead", "dropped", "repeated")},
        }
        for task in snapshot.tasks
    }
    queues = {queue.name: {"length": queue.length, "size": queue.size} for queue in snapshot.queues.values()}
    told = {"done": snapshot.done, "total": snapshot.total, "eta": snapshot.eta}
    head = {"progress": run, "title": snapshot.title, "seconds": round(snapshot.seconds, 3), **told}
    return json.dumps({**head, "tasks": tasks, "queues": queues})
