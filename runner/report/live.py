"""The live display: a line for each task, the queues between them as bars, and how far the run is.

At most so many columns and lines as there are: first queues go, then tasks that have ended, then those that wait.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.style import Style

from runner.report.progress import WORTH_SAYING
from runner.text import count_or_empty, format_count, format_duration, printable_line, size_or_empty

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runner.report.progress import ProgressSnapshot, QueueRow, TaskRow

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
#: Lines of a terminal that are left to what tasks print.
_SPARED = 3
_NAME, _LEAST_NAME = 40, 8
_BAR = 24
_STYLES = {
    "waiting": "dim", "starting": "cyan", "running": "green", "ok": "dim", "failed": "bold red", "skipped": "yellow",
}  # fmt: skip
#: Tasks that stay when there is no room: those that are under way or have failed before those that wait.
_PRIORITIES = {"failed": 0, "running": 1, "starting": 1, "waiting": 2}
_WORDS = {"waiting": "waits", "ok": "ended"}
#: Behind them: how many workers of its range a task has.
_HEADS = (("busy", 5), ("wait", 5), ("room", 5), ("done", 10), ("rate", 9), ("dead", 7), ("again", 6))
_CELLS = sum(size for _, size in _HEADS)


class LiveRenderer:
    """Makes frames. `color`: whether the terminal shall be coloured."""

    def __init__(self, *, color: bool) -> None:
        self._system = ColorSystem.EIGHT_BIT if color else None

    def render_frame(self, snapshot: ProgressSnapshot, columns: int, lines: int) -> list[tuple[str, int]]:
        """Return the lines with their widths in cells, each narrower than the terminal."""
        width = max(20, columns) - 1
        names = [cell_len(printable_line(task.name)) for task in snapshot.tasks]
        names += [2 + cell_len(printable_line(queue)) for queue in snapshot.queues]
        fixed = 9 + _CELLS
        name = min(max([_LEAST_NAME, *names]), _NAME, max(_LEAST_NAME, width - fixed))
        last = self._last_lines(snapshot) if lines > _SPARED + 5 else []
        room = max(1, lines - _SPARED - 2 - len(last))
        body = self._body_lines(snapshot, name, room, width) + last
        head = "".join(f"{word:>{size}}" for word, size in _HEADS)
        told = [self._heading_line(snapshot, width), self._style_text(f"{'task':<{name}} {'':<8}{head}", "dim"), *body]
        plain = [_COLOR.sub("", line) for line in told]
        return [
            (line, cell_len(text)) if cell_len(text) <= width else (set_cell_size(text, width), width)
            for line, text in zip(told, plain, strict=True)
        ]

    def _style_text(self, text: str, style: str) -> str:
        return Style.parse(style).render(text, color_system=self._system)

    def _heading_line(self, snapshot: ProgressSnapshot, width: int) -> str:
        parts = [printable_line(snapshot.title), format_duration(snapshot.seconds)]
        share = snapshot.done_share
        parts += [f"{format_count(snapshot.items_read)} read"] if share is None else []
        parts += snapshot.describe_done()
        parts += [f"durable, {size_or_empty(snapshot.ledger_bytes)}"] if snapshot.ledger_bytes is not None else []
        parts += [f"{format_count(snapshot.dead)} dead"] if snapshot.dead else []
        parts += [f"{format_count(snapshot.dropped)} dropped"] if snapshot.dropped else []
        parts += [f"stopping: {printable_line(snapshot.stop_reason)}"] if snapshot.stop_reason else []
        text = "  ".join(parts)
        cells = min(_BAR, width - cell_len(text) - 4)
        if share is not None and cells >= 8:
            text += f"  {_draw_bar(share, cells)}"
        return self._style_text(text, "bold")

    def _last_lines(self, snapshot: ProgressSnapshot) -> list[str]:
        """Say what limits the run, which lanes hold up a queue, and which worker takes long."""
        told = [printable_line(snapshot.limit)] if snapshot.limit else []
        for queue in snapshot.queues.values():
            if (bucket := queue.limiting_bucket) is not None:
                of_all = f"{format_count(bucket.items)} of {format_count(queue.length)}"
                where = f"in bucket {bucket.number} of {bucket.buckets}"
                since = f"the first for {format_duration(bucket.seconds)}"
                told.append(f"{printable_line(queue.name)}: {of_all} wait {where}, {since}")
        if (stuck := snapshot.longest) is not None:
            process = f" ({stuck.place})" if stuck.place else ""
            who = f"{printable_line(stuck.worker)}{printable_line(process)}"
            told.append(f"{who} has been at one item for {format_duration(stuck.seconds)}")
        return told

    def _body_lines(self, snapshot: ProgressSnapshot, name: int, room: int, width: int) -> list[str]:
        shown = list(snapshot.tasks)
        queues = sum(queue in snapshot.queues for task in shown for queue in task.outputs)
        with_queues = len(shown) + queues <= room
        hidden = len(shown) - room + 1 if len(shown) > room else 0
        if hidden:
            kept = sorted(range(len(shown)), key=lambda at: _PRIORITIES.get(shown[at].state, 3))[: room - 1]
            shown = [shown[at] for at in sorted(kept)]
        rows: list[str] = []
        seen: set[str] = set()
        for task in shown:
            rows.append(self._task_line(task, name))
            for queue in task.outputs if with_queues else ():
                if queue in snapshot.queues and queue not in seen:
                    seen.add(queue)
                    rows.append(self._queue_line(snapshot.queues[queue], name, width))
        if hidden:
            rows.append(self._style_text(f"… {hidden} more", "dim"))
        return rows

    def _task_line(self, task: TaskRow, name: int) -> str:
        word, counts = _WORDS.get(task.state, task.state), task.counts
        rate = f"{format_count(round(task.rate))}/s" if task.rate >= 10 else f"{task.rate:.1f}/s" if task.rate else ""
        going = task.state in {"running", "starting"}
        cells = [
            *(str(number) if going else "" for number in (counts.executing, counts.item + counts.turn, counts.room)),
            format_count(task.done),
            rate if going else "",
            count_or_empty(counts.dead),
            count_or_empty(counts.repeated),
        ]
        state = self._style_text(f"{word:<8}", _STYLES.get(task.state, ""))
        rest = "".join(f"{cell:>{size}}" for cell, (_, size) in zip(cells, _HEADS, strict=True)).rstrip()
        if task.worker_range and going:  # cut off where there is no room for it
            rest = f"{rest:<{_CELLS}}  {counts.wanted} of {task.worker_range}"
        return f"{set_cell_size(printable_line(task.name), name)} {state}{rest}"

    def _queue_line(self, queue: QueueRow, name: int, width: int) -> str:
        head = set_cell_size(f"  {printable_line(queue.name)}", name)
        told, style = f"{format_count(queue.length)} waiting", "blue"
        if queue.size:
            share = queue.length / queue.size
            told = f"{_draw_bar(share, _BAR)} {format_count(queue.length)} of {format_count(queue.size)}"
            style = "yellow" if share >= 1 else "blue"
        for more in _describe_waiting(queue):
            if name + 1 + len(told) + len(more) + 2 <= width:  # what does not fit is left out, and not cut off
                told += f", {more}"
        return f"{head} {self._style_text(told, style)}"


def _describe_waiting(queue: QueueRow) -> Iterator[str]:
    """Yield what is worth saying of what waits in a queue, what matters most first."""
    if queue.dropped:
        yield f"{format_count(queue.dropped)} dropped"
    if queue.oldest is not None and queue.oldest >= WORTH_SAYING:
        yield f"oldest {format_duration(queue.oldest)}"
    if queue.wait is not None and queue.wait >= WORTH_SAYING:
        yield f"about {format_duration(queue.wait)} to wait"


def _draw_bar(share: float, cells: int) -> str:
    """Draw a bar of `cells`, exact to an eighth of one.

    >>> _draw_bar(0.5, 8), _draw_bar(2.0, 3), _draw_bar(0.03, 8)
    ('[████    ]', '[███]', '[▎       ]')
    """
    eighths = round(min(1.0, max(0.0, share)) * cells * 8)
    full, part = divmod(eighths, 8)
    bar = "█" * full + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return f"[{bar:<{cells}}]"
