"""The progress of a run, from its events: what every display of it shows."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from runner import events
from runner.ledger.balance import Balance
from runner.structs import dataclass, field
from runner.text import format_count, format_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Rates are of so many seconds.
RATE_WINDOW = 5.0
#: Seconds of waiting that are worth a word.
WORTH_SAYING = 1.0
#: And seconds of a worker at one item: many work on items of seconds.
WORTH_NAMING = 5.0


@dataclass(frozen=True, slots=True)
class TaskRow:
    """One task now. `done` are the items it finished, or, of a source, has made; `rate` is of the last seconds.

    `worker_range` is "2..16", or empty if the number of its workers is fixed.
    """

    name: str
    state: str
    counts: events.TaskCounts
    done: int = 0
    rate: float = 0.0
    outputs: tuple[str, ...] = ()
    worker_range: str = ""


@dataclass(frozen=True, slots=True)
class QueueRow:
    """One queue now; `size` is None when the file gives no bound.

    `wait` is how long, in seconds, a new item will wait at the rate of the last seconds; None where that is not known.
    `oldest` is for how many seconds the item has waited that has waited longest; None: none waits. `dropped` are the
    items that it, or its readers, have dropped. `fullest` is the fullest bucket of a queue with lanes.
    """

    name: str
    length: int
    size: int | None = None
    wait: float | None = None
    oldest: float | None = None
    dropped: int = 0
    fullest: events.FullestBucket | None = None

    @property
    def limiting_bucket(self) -> events.FullestBucket | None:
        """Return its fullest bucket, if that holds up the queue: most of what waits is in it, and waits for long."""
        found = self.fullest
        is_limit = found is not None and found.seconds >= WORTH_SAYING and 2 * found.items >= self.length
        return found if is_limit else None


@dataclass(frozen=True, slots=True)
class StuckWorker:
    """The worker that has been at its item for the longest time, `seconds`; `place` is "19228" or "19228@node"."""

    task: str
    worker: str
    place: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The run now. `done` of `total` is what its sources have told (`Context.progress`), `eta` in seconds.

    `limit` says what limits it, where that was worked out. `longest` is the worker whose item takes longest.
    `ledger_bytes` is how large the ledger of a durable run is, where that was looked at.
    Of a durable run that goes on, `life` is the number of this life, and `done_before` the items done before it.
    """

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
    life: int = 1
    done_before: int = 0
    dropped: int = 0
    limit: str = ""
    longest: StuckWorker | None = None
    ledger_bytes: int | None = None

    @property
    def done_share(self) -> float | None:
        """Return the share that is done, when that is known."""
        if not self.total or self.done is None:
            return None
        return min(1.0, max(0.0, self.done / self.total))

    def describe_done(self) -> list[str]:
        """Return how much is done and when the rest will be, in words; nothing where that is not known."""
        before = [f"{format_count(self.done_before)} done before"] if self.done_before else []
        if self.done_share is None or not self.total:
            return before
        left = [] if self.eta is None else [f"about {format_duration(self.eta)} left"]
        return [f"{self.done_share:.0%} of {format_count(int(self.total))}", *left, *before]


class ProgressTracker:
    """Takes a run's events; `take_snapshot` returns its progress."""

    def __init__(self) -> None:
        self.started = events.RunStarted(0.0, "", "", ())
        self._past: deque[events.Progress] = deque()
        #: What the workers of sources have told: done and total; and what all had done, at which time.
        self._told: dict[tuple[str, str], tuple[float, float | None]] = {}
        self._told_past: deque[tuple[float, float]] = deque()
        self._stopping = ""
        #: What each task had sent when a durable run went on.
        self._sent_before: dict[str, int] = {}

    def handle_event(self, event: events.Event) -> bool:
        """Take one more event; return True when there is something new to show."""
        if isinstance(event, events.Progress):
            if len(self.started.lives) > 1 and not self._past:
                self._sent_before = {name: counts.sent for name, counts in event.tasks.items()}
            self._past.append(event)
            while self._past[0].at < event.at - RATE_WINDOW:
                self._past.popleft()
            self._told_past.append((event.at, self._told_done(self._told)))
            while self._told_past[0][0] < event.at - 2 * RATE_WINDOW:
                self._told_past.popleft()
            return True
        if isinstance(event, events.RunStarted):
            self.started = event
        elif isinstance(event, events.WorkerProgress):
            self._told[event.task, event.worker] = (event.done, event.total)
        elif isinstance(event, (events.RunStopping, events.RunKilled)):
            self._stopping = event.why
        return False

    def take_snapshot(self) -> ProgressSnapshot:
        """Return the progress of the run."""
        title, plan = self.started.title, self.started.plan
        if not self._past:
            return ProgressSnapshot(title, 0.0)
        now = self._past[-1]
        planned = {task.name: task for task in plan.tasks}
        sources = [name for name, task in planned.items() if not task.inputs and task.outputs]
        sizes = {queue.name: queue.size for queue in plan.queues}
        done, total = self._source_totals(sources)
        lives = self.started.lives
        tasks = tuple(self._task_row(name, counts, planned.get(name)) for name, counts in now.tasks.items())
        rates: dict[str, float] = {}
        for task in tasks:
            for queue in planned[task.name].inputs if task.name in planned else ():
                rates[queue] = rates.get(queue, 0.0) + task.rate
        return ProgressSnapshot(
            title=title,
            seconds=now.at - self.started.at,
            tasks=tasks,
            queues={
                name: QueueRow(
                    name,
                    length,
                    sizes.get(name),
                    length / rates[name] if rates.get(name) else None,
                    now.oldest.get(name),
                    now.dropped.get(name, 0),
                    now.fullest.get(name),
                )
                for name, length in now.queues.items()
            },
            items_read=sum(now.tasks[name].sent for name in sources if name in now.tasks),
            dead=sum(counts.dead for counts in now.tasks.values()),
            dropped=sum(now.dropped.values()),
            done=done,
            total=total,
            eta=self._estimate_remaining(done, total),
            stop_reason=self._stopping,
            life=sum(life.count for life in lives) or 1,
            done_before=lives[-1].done_before if lives else 0,
            longest=_find_longest(now),
        )

    def _task_row(self, name: str, counts: events.TaskCounts, planned: events.TaskPlanned | None) -> TaskRow:
        state = counts.stage
        if state == "running" and not counts.workers and counts.starting:
            state = "starting"
        source = planned is not None and not planned.inputs
        first, last = self._past[0], self._past[-1]
        before = first.tasks.get(name, counts)
        done = counts.sent if source else counts.done
        rate = max(0, done - (before.sent if source else before.done)) / max(last.at - first.at, 1e-9)
        if planned is None:
            return TaskRow(name, state, counts, done, rate)
        workers = f"{planned.least_workers}..{len(planned.workers)}" if planned.least_workers else ""
        return TaskRow(name, state, counts, done, rate, planned.outputs, workers)

    def _source_totals(self, sources: list[str]) -> tuple[float | None, float | None]:
        """Return what is done and what there is, when every source has told it."""
        found = [key for key in self._told if key[0] in sources]
        totals = [total for key in found if (total := self._told[key][1]) is not None]
        if not found or len(totals) < len(found) or {task for task, _ in found} != set(sources):
            return None, None
        return self._told_done(found), sum(totals)

    def _told_done(self, keys: Iterable[tuple[str, str]]) -> float:
        """Return what these workers have told to be done; those that count what they send have sent some before."""
        keys = list(keys)
        counting = {task for task, worker in keys if self._told[task, worker][0] < 0}
        before = sum(self._sent_before.get(task, 0) for task in counting)
        return before + sum(self._worker_done(*key) for key in keys)

    def _worker_done(self, task: str, worker: str) -> float:
        """Return what a worker has told to be done; below 0 it is what it has sent."""
        done = self._told[task, worker][0]
        if done >= 0 or not self._past:
            return max(0.0, done)
        return sum(each.items for each in self._past[-1].workers.get(task, ()) if each.name == worker)

    def _estimate_remaining(self, done: float | None, total: float | None) -> float | None:
        """Estimate from what was done in the last seconds; None before there is something to judge by."""
        if done is None or total is None or done >= total or self._stopping:
            return None
        (began, before), (now, after) = self._told_past[0], self._told_past[-1]
        if now - began < 1.0 or after <= before:
            return None
        return (total - done) / (after - before) * (now - began)


def balance_so_far(plan: events.RunPlan, now: events.Progress) -> Balance:
    """Return the balance of a run that goes on: `left` is what is under way, queued or in the hands of a worker."""
    letters = {task.dead for task in plan.tasks if task.dead}
    read = made = done = dead = repeated = 0
    for task in plan.tasks:
        if (counts := now.tasks.get(task.name)) is None:
            continue
        repeated += counts.repeated
        if not task.inputs:
            read += counts.sent
            continue
        reads_letters = letters.issuperset(task.inputs)  # a dead letter was counted where its item died
        surplus = counts.sent - (0 if reads_letters else counts.done)
        made, done = made + max(0, surplus), done + max(0, -surplus)
        dead += 0 if reads_letters else counts.dead
    dropped = sum(now.dropped.values())
    left = max(0, read + made - done - dead - dropped)
    return Balance(read=read, made=made, done=done, dead=dead, dropped=dropped, left=left, repeated=repeated)


def worker_place(pid: int, node: str) -> str:
    """Return the process of a worker, with its machine if that is not this one.

    >>> worker_place(19228, ""), worker_place(19228, "far"), worker_place(0, "")
    ('19228', '19228@far', '')
    """
    return f"{pid or ''}@{node}" if node else str(pid or "")


def _find_longest(now: events.Progress) -> StuckWorker | None:
    """Return the worker that has been at its item for the longest time; None: none for so long that it is worth it."""
    found = [
        StuckWorker(task, worker.name, worker_place(worker.pid, worker.node), worker.item_age)
        for task, workers in now.workers.items()
        for worker in workers
        if worker.item_age is not None and worker.item_age >= WORTH_NAMING
    ]
    return max(found, key=lambda each: each.seconds, default=None)
