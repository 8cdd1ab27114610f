"""The displays of `run --progress`: live at the bottom of a terminal, a line now and then, or lines of JSON."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from runner.report.progress import ProgressTracker
from runner.text import format_count, format_duration, printable_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner import events
    from runner.report.printer import Printer
    from runner.report.progress import ProgressSnapshot, QueueRow

#: Seconds between two lines for people, between two for programs, and before a tenth more is worth a line.
PLAIN_INTERVAL, JSON_INTERVAL, MIN_TENTH_INTERVAL = 10.0, 1.0, 1.0


class Display:
    """Shows a run while it goes on."""

    def __init__(self, printer: Printer) -> None:
        self._progress = ProgressTracker()
        self._printer = printer
        #: Adds what events do not tell, where somebody knows it: what limits the run, how large its ledger is.
        self.complete_snapshot: Callable[[ProgressSnapshot], ProgressSnapshot] | None = None

    def handle_event(self, event: events.Event) -> None:
        """Take one more event, and show the progress when that is new."""
        if self._progress.handle_event(event):
            self._show_progress()

    def _show_progress(self) -> None:
        raise NotImplementedError

    def _take_snapshot(self) -> ProgressSnapshot:
        snapshot = self._progress.take_snapshot()
        return snapshot if self.complete_snapshot is None else self.complete_snapshot(snapshot)

    def close(self) -> None:
        """Leave nothing of the display where it would be in the way: the run is over."""


def create_display(choice: str, printer: Printer, *, log: str, fd: int = 2) -> Display | None:
    """Make the display for a terminal or file `fd`; None: nothing is shown. Live needs a terminal that can.

    What tasks write past the printer (`log = "raw"`) would tear a live display.
    """
    if choice in {"auto", "live"}:
        able = os.isatty(fd) and os.environ.get("TERM", "") not in {"", "dumb", "unknown"}
        choice = "live" if able and log != "raw" else "plain"
    displays: dict[str, type[Display]] = {"live": LiveDisplay, "plain": PlainDisplay, "json": JsonDisplay}
    return displays[choice](printer) if choice in displays else None


class LiveDisplay(Display):
    """Lines at the bottom of a terminal; the printer draws them, in its own thread and time."""

    def __init__(self, printer: Printer) -> None:
        super().__init__(printer)
        from runner.report.live import LiveRenderer

        self._live = LiveRenderer(color="NO_COLOR" not in os.environ)
        self._shown = False

    def _show_progress(self) -> None:
        if not self._shown:
            self._shown = True
            self._printer.show_panel(
                lambda columns, lines: self._live.render_frame(self._take_snapshot(), columns, lines)
            )

    def close(self) -> None:
        """Take the panel away."""
        self._printer.show_panel(None)


class PlainDisplay(Display):
    """A line every ten seconds, or at each tenth of what the sources say that there is."""

    _last, _tenth = 0.0, 0

    def _show_progress(self) -> None:
        snapshot = self._take_snapshot()
        tenth = int(10 * (snapshot.done_share or 0.0))
        waited = snapshot.seconds - self._last
        further = tenth > self._tenth and waited >= MIN_TENTH_INTERVAL and snapshot.seconds >= PLAIN_INTERVAL
        if waited >= PLAIN_INTERVAL or further:
            self._last, self._tenth = snapshot.seconds, tenth
            self._printer.print_message(progress_line(snapshot))


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
    parts += [f"{snapshot.dropped:,} dropped"] if snapshot.dropped else []
    return "  ".join(parts)


class JsonDisplay(Display):
    """An object a line, once a second, for programs."""

    _next = 0.0

    def _show_progress(self) -> None:
        snapshot = self._take_snapshot()
        if snapshot.seconds >= self._next:
            self._next = snapshot.seconds + JSON_INTERVAL
            self._printer.print_message(progress_json(self._progress.started.run, snapshot))


def progress_json(run: str, snapshot: ProgressSnapshot) -> str:
    """Write a snapshot as one line of JSON, see docs/reference/commands.md."""
    tasks = {
        task.name: {
            "state": task.state,
            **{key: getattr(task.counts, key) for key in ("executing", "item", "room", "turn")},
            "done": task.done,
            "rate": round(task.rate, 3),
            **{key: getattr(task.counts, key) for key in ("dead", "dropped", "repeated")},
            **({} if task.counts.wanted is None else {"wanted": task.counts.wanted}),
        }
        for task in snapshot.tasks
    }
    queues = {name: queue_fields(queue) for name, queue in snapshot.queues.items()}
    told: dict[str, Any] = {"done": snapshot.done, "total": snapshot.total, "eta": snapshot.eta}
    if snapshot.limit:
        told["limit"] = snapshot.limit
    if snapshot.ledger_bytes is not None:
        told["ledger"] = snapshot.ledger_bytes
    if (stuck := snapshot.longest) is not None:
        told["longest"] = {
            "task": stuck.task,
            "worker": stuck.worker,
            "process": stuck.place,
            "seconds": round(stuck.seconds, 3),
        }
    if snapshot.life > 1:
        told |= {"life": snapshot.life, "done_before": snapshot.done_before}
    head = {"progress": run, "title": snapshot.title, "seconds": round(snapshot.seconds, 3), **told}
    return json.dumps({**head, "tasks": tasks, "queues": queues})


def queue_fields(queue: QueueRow) -> dict[str, Any]:
    """Return a queue for programs, as `run --progress json`, `top --json` and `ps --json` tell it."""
    found: dict[str, Any] = {
        "length": queue.length,
        "size": queue.size,
        "wait": queue.wait and round(queue.wait, 3),
        "oldest": queue.oldest and round(queue.oldest, 3),
        "dropped": queue.dropped,
    }
    if (bucket := queue.fullest) is not None:
        names = ("number", "buckets", "items")
        found["fullest"] = {**{name: getattr(bucket, name) for name in names}, "seconds": round(bucket.seconds, 3)}
    return found
