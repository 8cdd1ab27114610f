"""A run's events, folded into its record: the same from the events as they come and from a file of them.

Bounded, however long the run: kinds of failures and moments are counted when they repeat, series get coarser.
"""

from __future__ import annotations

from array import array
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from runner import events
from runner.error_text import item_name
from runner.ledger.balance import Balance
from runner.report.bottleneck import find_bottleneck
from runner.report.console import describe_executed
from runner.report.journal import dump_json
from runner.report.record import FailureGroup, Incident, RunRecord, Series
from runner.structs import dataclass
from runner.text import cut_middle, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.store.records import RecordFile

#: Kinds of failures and moments that are told one by one, and characters of each of their texts.
MAX_FAILURE_KINDS, MAX_INCIDENTS, MAX_TEXT_LENGTH = 200, 200, 8 * 1024
#: Fields of `RunEnded` that a record has too, and counts of a task that has not ended.
_FROM_THE_END = {each.name for each in fields(events.RunEnded)} & {each.name for each in fields(RunRecord)}
_TASK_COUNTS = ("done", "dead", "dropped", "repeated", "sent")
#: The kind of those that are too many.
_OTHER_KINDS = "other errors"
#: Seconds between two writings of a run that goes on.
WRITE_INTERVAL = 10.0
#: Intervals that are kept at most (an even number), and rows of workers: what a page can show, in some megabytes.
MAX_INTERVALS, MAX_WORKER_ROWS = 400, 256
_TURN = events.STATES.index("turn")
_WIDTH = len(events.STATES)


class RecordBuilder:
    """Takes a run's events; `build_record` returns what is known so far."""

    def __init__(self) -> None:
        self._head = RunRecord("", "")
        self._began = 0.0
        self._ended: events.RunEnded | None = None
        self._progress: events.Progress | None = None
        self._last = 0.0
        self._samples = SeriesSampler()
        self._most: dict[str, int] = {}
        self._failures: dict[tuple[str, str, str], FailureGroup] = {}
        self._incidents: list[Incident] = []
        self._untold = 0

    def handle_event(self, event: events.Event) -> None:
        """Take one more event."""
        self._last = max(self._last, event.at)
        match event:
            case events.RunStarted():
                self._began = event.at
                self._head = RunRecord(event.run, event.title, began=event.unix, plan=event.plan, pid=event.pid)
            case events.Progress():
                self._progress = event
                self._samples.add_sample(event.at - self._began, event)
                for queue, length in event.queues.items():
                    self._most[queue] = max(self._most.get(queue, 0), length)
            case events.ItemFailed():
                self._handle_failure(event)
            case events.RunEnded():
                self._ended = event
                self._samples.add_last_interval()
            case _ if type(event) in _INCIDENT_TEXTS:
                self._handle_incident(event)

    def _handle_failure(self, event: events.ItemFailed) -> None:
        kind = event.error.partition(":")[0]
        key = (event.task, kind, event.verdict)
        group = self._failures.get(key)
        if group is None and len(self._failures) >= MAX_FAILURE_KINDS:
            key = (event.task, _OTHER_KINDS, event.verdict)
            group = self._failures.get(key, FailureGroup(*key, 0, "", "", ""))
        if group is not None:
            self._failures[key] = replace(group, count=group.count + event.count)
            return
        texts = [cut_middle(text, MAX_TEXT_LENGTH) for text in (event.error, event.traceback, event.preview)]
        self._failures[key] = FailureGroup(*key, event.count, event.item, event.worker, *texts)

    def _handle_incident(self, event: events.Event) -> None:
        kind, text = _INCIDENT_TEXTS[type(event)](event)
        if not text:
            return
        at, text = round(event.at - self._began, 3), cut_middle(text, MAX_TEXT_LENGTH)
        moment = Incident(at, kind, text, getattr(event, "task", ""), getattr(event, "worker", ""))
        last = self._incidents[-1] if self._incidents else None
        if last is not None and replace(moment, at=last.at, count=last.count) == last:
            self._incidents[-1] = replace(last, count=last.count + 1)
        elif len(self._incidents) < MAX_INCIDENTS:
            self._incidents.append(moment)
        else:
            self._untold += 1

    def build_record(self) -> RunRecord:
        """Return the record so far; of a run that goes on, as its last `Progress` tells it."""
        at, without_row = round(self._last - self._began, 3), len(self._samples.omitted_workers)
        counts = {"not told one by one": self._untold, "workers without a row in time": without_row}
        omitted = [Incident(at, "more", text, count=count) for text, count in counts.items() if count]
        known = replace(
            self._head,
            failures=tuple(self._failures.values()),
            moments=(*self._incidents, *omitted),
            series=self._samples.build_series(),
        )
        ended = self._ended
        if ended is None:
            return self._unfinished_record(known)
        balance = Balance(*(getattr(ended, each.name) for each in fields(Balance)))
        known = replace(known, balance=balance, **{name: getattr(ended, name) for name in _FROM_THE_END})
        return replace(known, limit=find_bottleneck(known))

    def _unfinished_record(self, known: RunRecord) -> RunRecord:
        progress = self._progress
        if progress is None:
            return replace(known, seconds=self._last - self._began)
        counts = progress.tasks
        sources = [task.name for task in known.plan.tasks if not task.inputs]
        balance = Balance(
            read=sum(counts[name].sent for name in sources if name in counts),
            **{name: sum(getattr(each, name) for each in counts.values()) for name in ("dead", "dropped", "repeated")},
        )
        tasks = tuple(
            events.TaskSummary(
                name,
                each.stage,
                taken=each.done + each.dead + each.dropped,
                workers=progress.workers.get(name, ()),
                **{count: getattr(each, count) for count in _TASK_COUNTS},
            )
            for name, each in counts.items()
        )
        queues = tuple(
            events.QueueSummary(queue, left=length, most=self._most[queue]) for queue, length in progress.queues.items()
        )
        return replace(known, seconds=self._last - self._began, balance=balance, tasks=tasks, queues=queues)


class Recorder(RecordBuilder):
    """Keeps the record on disk while the run goes on, however that ends; without `records`, nothing is kept."""

    def __init__(self, records: RecordFile | None = None, keep: int = 0) -> None:
        super().__init__()
        self._records = records
        self._keep = keep
        self._written = 0.0

    def handle_event(self, event: events.Event) -> None:
        """Take one more event, and write the record when the run begins and from time to time."""
        super().handle_event(event)
        if self._records is None:
            return
        begins = isinstance(event, events.RunStarted)
        if begins:
            self._records.mark_running()
        if begins or (isinstance(event, events.Progress) and event.at - self._written >= WRITE_INTERVAL):
            self._written = event.at
            self._records.write_record(dump_json(self.build_record()))
        if begins:
            self._records.prune_old_records(self._keep)

    def close(self, exit_code: int) -> RunRecord:
        """Keep the record of the run, which is over with an exit code, and return it."""
        record = replace(self.build_record(), exit_code=exit_code)
        if self._records is not None:
            self._records.write_record(dump_json(record))
            self._records.close()
        return record


def _describe_death(event: events.WorkerDied) -> tuple[str, str]:
    if event.told:
        return "death", ""
    return "death", f"{event.why}{describe_executed(event)}" + ("; replaced" if event.will_restart else "")


def _describe_timeout(event: events.ItemTimedOut) -> tuple[str, str]:
    item = f" with {item_name(event.preview, event.item)}" if event.item else ""
    return "timeout", f"over its time limit of {format_duration(event.limit)}{item}"


_INCIDENT_TEXTS: dict[type, Callable[..., tuple[str, str]]] = {
    events.TaskStarted: lambda _: ("task", "started"),
    events.TaskEnded: lambda event: ("task", f"{event.how}: {event.why}" if event.why else event.how),
    events.WorkerDied: _describe_death,
    events.ItemTimedOut: _describe_timeout,
    events.RunStopping: lambda event: ("stop", event.why),
    events.RunKilled: lambda event: ("stop", f"{event.why}: ended at once"),
    events.Notice: lambda event: ("notice", event.text),
}


@dataclass(slots=True)
class SeriesSample:
    """The end of an interval. `workers` has the seconds in each state, one row of workers behind the other."""

    at: float
    done: dict[str, int]
    sent: dict[str, int]
    queues: dict[str, int]
    workers: array[float]


class SeriesSampler:
    """Takes `Progress` events; `build_series` returns the intervals so far: of too many, each second one goes.

    All counts are cumulative, so an interval that has lost its neighbour says of both what it said of one. Of a queue's
    length the larger is kept.
    """

    def __init__(self) -> None:
        self._samples: list[SeriesSample] = []
        self._rows: dict[tuple[str, str], int] = {}
        #: One in so many events ends an interval; what the queues were at most in those that did not.
        self._step = 1
        self._skipped = 0
        self._last: tuple[float, events.Progress] | None = None
        self._most: dict[str, int] = {}
        #: Workers for which there was no room.
        self.omitted_workers: set[tuple[str, str]] = set()

    def add_sample(self, at: float, event: events.Progress) -> None:
        """Take one more moment, `at` seconds since the run began."""
        for queue, length in event.queues.items():
            self._most[queue] = max(self._most.get(queue, 0), length)
        self._skipped += 1
        self._last = at, event
        if self._skipped >= self._step:
            self.add_last_interval()
            if len(self._samples) >= MAX_INTERVALS:
                self._step *= 2
                for gone, kept in zip(self._samples[::2], self._samples[1::2], strict=True):
                    kept.queues = {queue: max(most, gone.queues.get(queue, 0)) for queue, most in kept.queues.items()}
                del self._samples[::2]

    def add_last_interval(self) -> None:
        """End an interval with the last moment, however short it is."""
        before = self._samples[-1] if self._samples else SeriesSample(0.0, {}, {}, {}, array("f"))
        if self._last is None or self._last[0] <= before.at:
            return
        at, event = self._last
        workers = before.workers[:]  # a worker of which nothing more is told stays as it was
        for key, spent in (((task, each.name), each.spent) for task, found in event.workers.items() for each in found):
            if key not in self._rows and len(self._rows) >= MAX_WORKER_ROWS:
                self.omitted_workers.add(key)
                continue
            row = self._rows.setdefault(key, len(self._rows))
            workers[row * _WIDTH : (row + 1) * _WIDTH] = array("f", [getattr(spent, state) for state in events.STATES])
        done = {task: counts.done for task, counts in event.tasks.items()}
        sent = {task: counts.sent for task, counts in event.tasks.items()}
        self._samples.append(SeriesSample(at, done, sent, self._most, workers))
        self._skipped, self._last, self._most = 0, None, {}

    def build_series(self) -> Series:
        """Return the intervals so far."""
        samples = self._samples
        workers: dict[str, dict[str, tuple[tuple[float, ...], ...]]] = {}
        for (task, worker), row in self._rows.items():
            workers.setdefault(task, {})[worker] = tuple(self._state_shares(row))
        return Series(
            at=tuple(round(sample.at, 3) for sample in samples),
            done=_counts_by_name([sample.done for sample in samples]),
            sent=_counts_by_name([sample.sent for sample in samples]),
            queues=_counts_by_name([sample.queues for sample in samples]),
            workers=workers,
        )

    def _state_shares(self, row: int) -> Iterator[tuple[float, ...]]:
        before, last = array("f", [0.0] * _WIDTH), 0.0
        for sample in self._samples:
            now = sample.workers[row * _WIDTH : (row + 1) * _WIDTH]
            if not now:  # before its task began
                now = array("f", [sample.at if state == _TURN else 0.0 for state in range(_WIDTH)])
            length = sample.at - last
            yield tuple(round(max(0.0, (new - old) / length), 3) for new, old in zip(now, before, strict=True))
            before, last = now, sample.at


def _counts_by_name(counts: list[dict[str, int]]) -> dict[str, tuple[int, ...]]:
    """Return each name's count in every interval, 0 where it has none."""
    names = dict.fromkeys(name for found in counts for name in found)
    return {name: tuple(found.get(name, 0) for found in counts) for name in names}
