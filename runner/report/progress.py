"""How far a run is, from its events: what every display of it shows."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct, field

from runner import events

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Rates are of so many seconds.
RATE_WINDOW = 5.0


class TaskRow(Struct, frozen=True):
    """One task now. `done` are the items it finished, or, of a source, has made; `rate` is of the last seconds."""

    name: str
    state: str
    executing: int = 0
    waiting_for_item: int = 0
    waiting_for_room: int = 0
    waiting_for_turn: int = 0
    done: int = 0
    rate: float = 0.0
    dead: int = 0
    dropped: int = 0
    repeated: int = 0
    outputs: tuple[str, ...] = ()


class QueueRow(Struct, frozen=True):
    """One queue now; `size` is None when the file gives no bound."""

    name: str
    length: int
    size: int | None = None


class ProgressSnapshot(Struct, frozen=True):
    """The run now. `done` of `total` is what its sources have told (`Context.progress`), `eta` in seconds."""

    title: str
    seconds: float
    tasks: tuple[TaskRow, ...] = ()
    queues: dict[str, QueueRow] = field(default_factory=dict)
    items_read: int = 0
    dead: int = 0
    done: float | None = None
    total: float | None = None
    eta: float | None = None
    stop_reason: str = ""

    @property
    def done_share(self) -> float | None:
        """The share that is done, when that is known."""
        if not self.total or self.done is None:
            return None
        return min(1.0, max(0.0, self.done / self.total))


class ProgressTracker:
    """Takes a run's events; `snapshot` is how far it is."""

    def __init__(self) -> None:
        self.title = ""
        self.run = ""
        self._began = 0.0
        self._plan = events.RunPlan()
        self._now: events.Progress | None = None
        self._past: deque[events.Progress] = deque()
        #: What the workers of sources have told: done and total.
        self._told: dict[tuple[str, str], tuple[float, float | None]] = {}
        self._told_past: deque[tuple[float, float]] = deque()
        self._stopping = ""

    def handle_event(self, event: events.Event) -> bool:
        """One more event; True when there is something new to show."""
        if isinstance(event, events.Progress):
            self._now = event
            _remember(self._past, event, event.at)
            done = sum(self._done(task, worker, done) for (task, worker), (done, _) in self._told.items())
            self._told_past.append((event.at, done))
            while self._told_past[0][0] < event.at - 2 * RATE_WINDOW:
                self._told_past.popleft()
            return True
        if isinstance(event, events.RunStarted):
            self._began, self.title, self.run, self._plan = event.at, event.title, event.run, event.plan
        elif isinstance(event, events.WorkerProgress):
            self._told[event.task, event.worker] = (event.done, event.total)
        elif isinstance(event, (events.RunStopping, events.RunKilled)):
            self._stopping = event.why
        return False

    def take_snapshot(self) -> ProgressSnapshot:
        """How far the run is."""
        now = self._now
        if now is None:
            return ProgressSnapshot(self.title, 0.0)
        planned = {task.name: task for task in self._plan.tasks}
        sources = [name for name, task in planned.items() if not task.inputs and task.outputs]
        sizes = {queue.name: queue.size for queue in self._plan.queues}
        done, total = self._totals(sources)
        return ProgressSnapshot(
            title=self.title,
            seconds=now.at - self._began,
            tasks=tuple(self._row(name, counts, planned.get(name)) for name, counts in now.tasks.items()),
            queues={name: QueueRow(name, length, sizes.get(name)) for name, length in now.queues.items()},
            items_read=sum(now.tasks[name].sent for name in sources if name in now.tasks),
            dead=sum(counts.dead for counts in now.tasks.values()),
            done=done,
            total=total,
            eta=self._eta(done, total),
            stop_reason=self._stopping,
        )

    def _row(self, name: str, counts: events.TaskCounts, planned: events.TaskPlanned | None) -> TaskRow:
        state = counts.stage
        if state == "running" and not counts.workers and counts.starting:
            state = "starting"
        source = planned is not None and not planned.inputs
        return TaskRow(
            name=name,
            state=state,
            executing=counts.executing,
            waiting_for_item=counts.item,
            waiting_for_room=counts.room,
            waiting_for_turn=counts.turn,
            done=counts.sent if source else counts.done,
            rate=self._rate(name, source=source),
            dead=counts.dead,
            dropped=counts.dropped,
            repeated=counts.repeated,
            outputs=planned.outputs if planned is not None else (),
        )

    def _rate(self, name: str, *, source: bool) -> float:
        first, last = self._past[0], self._past[-1]
        if last.at <= first.at or name not in first.tasks:
            return 0.0
        before, after = first.tasks[name], last.tasks[name]
        items = after.sent - before.sent if source else after.done - before.done
        return max(0.0, items / (last.at - first.at))

    def _totals(self, sources: Iterable[str]) -> tuple[float | None, float | None]:
        """What is done and what there is, when every source has told it."""
        told: dict[str, list[tuple[float, float | None]]] = {}
        for (task, worker), (done, total) in self._told.items():
            told.setdefault(task, []).append((self._done(task, worker, done), total))
        found = [each for source in sources for each in told.get(source, [(0.0, None)])]
        totals = [total for _, total in found if total is not None]
        if not found or len(totals) < len(found):
            return None, None
        return sum(done for done, _ in found), sum(totals)

    def _done(self, task: str, worker: str, done: float) -> float:
        """What a worker has told to be done; below 0 it is what it has sent."""
        if done >= 0 or self._now is None:
            return max(0.0, done)
        return sum(each.items for each in self._now.workers.get(task, ()) if each.name == worker)

    def _eta(self, done: float | None, total: float | None) -> float | None:
        """From what was done in the last seconds; none before there is something to judge by."""
        if done is None or total is None or done >= total or self._stopping:
            return None
        (began, before), (now, after) = self._told_past[0], self._told_past[-1]
        if now - began < 1.0 or after <= before:
            return None
        return (total - done) / (after - before) * (now - began)


def _remember(past: deque[events.Progress], event: events.Progress, at: float) -> None:
    past.append(event)
    while past[0].at < at - RATE_WINDOW:
        past.popleft()
