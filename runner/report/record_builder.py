"""A run's events, folded into its record: the same from the events as they come and from a file of them.

Bounded, however long the run: kinds of failures and moments are counted when they repeat, series get coarser.
"""

from __future__ import annotations

import time
from array import array
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from runner import events
from runner.error_text import item_name
from runner.ledger.balance import Balance
from runner.report.bottleneck import find_bottleneck
from runner.report.console import describe_executed
from runner.report.earlier_lives import MORE, NOT_TOLD, EarlierLives, begin_moment
from runner.report.journal import dump_json
from runner.report.progress import balance_so_far
from runner.report.record import FailureGroup, Incident, RunRecord, Series, parse_record
from runner.report.status import StatusWriter
from runner.store.records import RECORD_WATCHED_FILE
from runner.structs import dataclass
from runner.supervisor.outcome import busy_share, describe_end
from runner.text import count_with_noun, cut_middle, format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from runner.store.records import RecordFile

#: Kinds of failures and moments that are told one by one, and characters of each of their texts.
MAX_FAILURE_KINDS, MAX_INCIDENTS, MAX_TEXT_LENGTH = 200, 200, 8 * 1024
#: Changes of numbers of workers among them: a long run may have many, and a death must not go under for them.
MAX_CHANGES = 50
#: Fields of `RunEnded` that a record has too, and counts of a task that has not ended.
_FROM_THE_END = {each.name for each in fields(events.RunEnded)} & {each.name for each in fields(RunRecord)}
_TASK_COUNTS = ("done", "dead", "dropped", "repeated", "sent")
#: The kind of those that are too many.
_OTHER_KINDS = "other errors"
#: Seconds between two writings of a run under way; and until the first one of a run that was cut short and goes on.
WRITE_INTERVAL, RESUME_WRITE_DELAY = 10.0, 1.0
#: And of a run that is watched, unless more than this share of the time would go into it.
WATCHED_INTERVAL, WATCHED_SHARE = 0.5, 0.01
#: Intervals that are kept at most (an even number), and rows of workers: what a page can show, in some megabytes.
MAX_INTERVALS, MAX_WORKER_ROWS = 400, 256
#: Between two lives, in seconds: a shorter interval is part of the one before it.
MIN_GAP = 0.1
_TURN, _ENDED = events.STATES.index("turn"), events.STATES.index("ended")
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
        #: Machines, as far as events tell of them; the end of the run knows more.
        self._nodes: dict[str, events.NodeSummary] = {}
        #: Notices that come before the run has begun.
        self._early_incidents: list[Incident] = []
        #: Of a durable run that goes on: what its earlier record says, how long its earlier lives were, in seconds, and
        #: what its tasks had done by then.
        self._earlier: EarlierLives | None = None
        self._offset = 0.0
        self._counts_before: dict[str, events.TaskCounts] = {}

    def handle_event(self, event: events.Event) -> None:
        """Take one more event."""
        self._last = max(self._last, event.at)
        match event:
            case events.RunStarted():
                self._began = event.at
                self._head = RunRecord(event.run, event.title, began=event.unix, plan=event.plan, pid=event.pid)
                if event.lives:
                    self._begin_life(event.lives)
                self._incidents += [replace(each, at=round(self._offset, 3)) for each in self._early_incidents]
            case events.Progress():
                if len(self._head.lives) > 1 and self._progress is None:
                    self._counts_before = event.tasks
                self._progress = event
                self._samples.add_sample(self._offset + (event.at - self._began), event)
                for queue, length in event.queues.items():
                    self._most[queue] = max(self._most.get(queue, 0), length)
            case events.ItemFailed():
                self._handle_failure(event)
            case events.RunEnded():
                self._ended = event
                self._samples.add_last_interval()
            case _ if type(event) in _INCIDENT_TEXTS:
                if isinstance(event, events.NodeJoined | events.NodeLost):
                    self._handle_node(event)
                self._handle_incident(event)

    def continue_record(self, earlier: EarlierLives) -> None:
        """Go on with the record of the run's earlier lives; called before its first event."""
        self._samples = SeriesSampler(earlier.record.series)
        self._failures = {(each.task, each.kind, each.verdict): each for each in earlier.record.failures}
        self._incidents, self._untold = list(earlier.incidents), earlier.untold
        self._earlier = earlier

    def _begin_life(self, lives: tuple[events.RunLife, ...]) -> None:
        first, *others = lives
        earlier = self._earlier.record if self._earlier is not None else None
        if earlier is not None and not first.began:  # its beginning is not in the ledger
            first = earlier.lives[0] if earlier.lives else replace(first, began=earlier.began, seconds=earlier.seconds)
        lives = (first, *others)
        self._head = replace(self._head, began=first.began or self._head.began, lives=lives)
        if others:
            last_at = 0.0 if self._earlier is None else self._earlier.last_at
            self._offset = max(last_at, sum(life.seconds for life in lives[:-1]))
            self._samples.begin_life(self._offset)
            self._incidents.append(begin_moment(lives, self._offset))

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

    def _handle_node(self, event: events.NodeJoined | events.NodeLost) -> None:
        """Note a machine; of one that joins again, only that it is there."""
        at = max(0.0, event.at - self._began) if self._head.run else 0.0
        if isinstance(event, events.NodeJoined):
            what = (event.node, event.host, event.places, event.cpus, event.memory)
            if event.node in self._nodes or len(self._nodes) < MAX_INCIDENTS:
                self._nodes[event.node] = events.NodeSummary(*what, joined=at)
        elif (node := self._nodes.get(event.node)) is not None:
            self._nodes[event.node] = replace(node, left=at, why=event.why)

    def _handle_incident(self, event: events.Event) -> None:
        kind, text = _INCIDENT_TEXTS[type(event)](event)
        if not text:
            return
        at, text = round(self._offset + (event.at - self._began), 3), cut_middle(text, MAX_TEXT_LENGTH)
        moment = Incident(at, kind, text, getattr(event, "task", ""), getattr(event, "worker", ""))
        if not self._head.run:
            self._early_incidents.append(moment)
            return
        last = self._incidents[-1] if self._incidents else None
        if last is not None and replace(moment, at=last.at, count=last.count) == last:
            self._incidents[-1] = replace(last, count=last.count + 1)
        elif kind == "workers" and sum(each.kind == kind for each in self._incidents) >= MAX_CHANGES:
            self._untold += 1
        elif len(self._incidents) < MAX_INCIDENTS:
            self._incidents.append(moment)
        else:
            self._untold += 1

    def build_record(self) -> RunRecord:
        """Return the record so far; of a run that goes on, as its last `Progress` tells it."""
        at, without_row = round(self._offset + (self._last - self._began), 3), len(self._samples.omitted_workers)
        counts = {NOT_TOLD: self._untold, "workers without a row in time": without_row}
        omitted = [Incident(at, MORE, text, count=count) for text, count in counts.items() if count]
        known = replace(
            self._head,
            failures=tuple(self._failures.values()),
            moments=(*self._incidents, *omitted),
            series=self._samples.build_series(),
        )
        ended = self._ended
        if ended is None:
            return self._with_earlier_lives(self._unfinished_record(known), "")
        balance = Balance(*(getattr(ended, each.name) for each in fields(Balance)))
        known = replace(known, balance=balance, **{name: getattr(ended, name) for name in _FROM_THE_END})
        alone = replace(known, tasks=tuple(map(self._of_this_life, known.tasks)))
        return self._with_earlier_lives(replace(known, limit=find_bottleneck(alone)), describe_end(ended))

    def _of_this_life(self, task: events.TaskSummary) -> events.TaskSummary:
        """Return the task with the counts of this life alone, as far as the bottleneck goes by them."""
        before = self._counts_before.get(task.name)
        if before is None:
            return task
        taken = before.done + before.dead + before.dropped
        return replace(task, taken=max(0, task.taken - taken), sent=max(0, task.sent - before.sent))

    def _with_earlier_lives(self, record: RunRecord, end: str) -> RunRecord:
        """Return the record of this life as that of the whole run."""
        if not record.lives:
            return record
        last = replace(record.lives[-1], seconds=round(record.seconds, 3), end=end)
        lives, seconds = (*record.lives[:-1], last), self._offset + record.seconds
        if self._earlier is None:
            return replace(record, lives=lives, seconds=seconds)
        earlier = self._earlier
        tasks, queues = earlier.add_to_tasks(record.tasks), earlier.add_to_queues(record.queues)
        cpu = earlier.record.cpu + record.cpu
        return replace(record, lives=lives, seconds=seconds, tasks=tasks, queues=queues, cpu=cpu)

    def _unfinished_record(self, known: RunRecord) -> RunRecord:
        progress = self._progress
        if progress is None:
            return replace(known, seconds=self._last - self._began, nodes=tuple(self._nodes.values()))
        counts = progress.tasks
        balance = balance_so_far(known.plan, progress)
        seconds = self._last - self._began
        tasks = tuple(
            _summarize_going_task(name, each, progress.workers.get(name, ()), seconds) for name, each in counts.items()
        )
        queues = tuple(
            events.QueueSummary(
                queue,
                dropped=progress.dropped.get(queue, 0),
                left=length,
                most=self._most[queue],
                fullest=progress.fullest.get(queue),
                oldest=progress.oldest.get(queue),
            )
            for queue, length in progress.queues.items()
        )
        nodes = tuple(self._nodes.values())
        found = replace(known, seconds=seconds, balance=balance, tasks=tasks, queues=queues, nodes=nodes)
        return replace(found, limit=find_bottleneck(replace(found, tasks=tuple(map(self._of_this_life, tasks)))))


def _summarize_going_task(
    name: str, counts: events.TaskCounts, workers: tuple[events.WorkerNow, ...], seconds: float
) -> events.TaskSummary:
    """Return a task of a run that has gone on for so many seconds, from what its workers have spent them with."""
    spent = [worker.spent for worker in workers]
    before, after = (min((getattr(each, state) for each in spent), default=0.0) for state in ("turn", "ended"))
    return events.TaskSummary(
        name,
        counts.stage,
        taken=counts.done + counts.dead + counts.dropped,
        busy=busy_share(spent, before),
        active=max(0.0, seconds - before - after) if workers else 0.0,
        workers=workers,
        **{count: getattr(counts, count) for count in _TASK_COUNTS},
    )


class Recorder(RecordBuilder):
    """Keeps the record on disk while the run goes on, however that ends; without `records`, nothing is kept."""

    def __init__(self, records: RecordFile | None = None, keep: int = 0) -> None:
        super().__init__()
        self._records = records
        self._status = None if records is None else StatusWriter(records)
        self._keep = keep
        self._next_write = self._next_watched_write = 0.0

    def handle_event(self, event: events.Event) -> None:
        """Take one more event, and write the record when the run begins and from time to time."""
        begins = isinstance(event, events.RunStarted)
        goes_on = isinstance(event, events.RunStarted) and len(event.lives) > 1
        if isinstance(event, events.RunStarted) and goes_on and self._records is not None:
            self._read_earlier(self._records, event.run)
        super().handle_event(event)
        if self._records is None or self._status is None:
            return
        if begins:
            self._records.mark_running()
        self._status.handle_event(event)
        is_due = isinstance(event, events.Progress) and (event.at >= self._next_write or self._is_wanted(event.at))
        if goes_on:  # a long record takes half a second, which is not to hold up the first item
            self._next_write = event.at + RESUME_WRITE_DELAY
        elif begins or is_due:
            self._next_write = event.at + WRITE_INTERVAL
            began = time.perf_counter()
            self._records.write_record(dump_json(self.build_record()))
            self._next_watched_write = event.at + max(WATCHED_INTERVAL, (time.perf_counter() - began) / WATCHED_SHARE)
        if begins:
            self._records.prune_old_records(self._keep)

    def _is_wanted(self, now: float) -> bool:
        """Return True if somebody watches the record, and it is some time since it was written last."""
        return (
            self._records is not None
            and now >= self._next_watched_write
            and self._records.is_watched(RECORD_WATCHED_FILE)
        )

    def _read_earlier(self, records: RecordFile, run: str) -> None:
        """Go on with the record of the earlier lives; without it, if it is missing, damaged, or of another run."""
        try:
            self.continue_record(EarlierLives(parse_record(records.read_record(), "record"), run))
        except Exception as error:  # noqa: BLE001  no content of a file must keep a run from going on
            why = f"the record of the earlier lives cannot be read, and begins anew: {error}"
            self._early_incidents.append(Incident(0.0, "notice", cut_middle(why, MAX_TEXT_LENGTH)))

    def close(self, exit_code: int) -> RunRecord:
        """Keep the record of the run, which is over with an exit code, and return it."""
        record = replace(self.build_record(), exit_code=exit_code)
        if self._records is not None:
            self._records.write_record(dump_json(record))
            self._records.close()
        return record


def describe_lost(workers: Sequence[str]) -> str:
    """Say which workers were lost with a machine.

    >>> describe_lost(["square-1", "square-2"]), describe_lost([])
    (', and with it 2 workers: square-1, square-2', '')
    """
    if not workers:
        return ""
    more = ", ..." if len(workers) > 5 else ""
    return f", and with it {count_with_noun(len(workers), 'worker')}: {', '.join(workers[:5])}{more}"


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
    events.WorkersChanged: lambda event: ("workers", f"{event.number} workers (were {event.before}): {event.why}"),
    events.RunStopping: lambda event: ("stop", event.why),
    events.RunKilled: lambda event: ("stop", f"{event.why}: ended at once"),
    events.Notice: lambda event: ("notice", event.text),
    events.NodeJoined: lambda event: ("node", f"`{event.node}` has joined"),
    events.NodeLost: lambda event: ("node", f"`{event.node}` {event.why}" + describe_lost(event.workers)),
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
    """Takes `Progress` events; `build_series` returns the intervals so far: of too many, the shortest are joined.

    All counts are cumulative, so an interval that has lost its neighbour says of both what it said of one. Of a queue's
    length the larger is kept. `earlier` is what was seen in the earlier lives of the run.
    """

    def __init__(self, earlier: Series | None = None) -> None:
        self._rows: dict[tuple[str, str], int] = {}
        self._samples = [] if earlier is None else self._read_samples(earlier)
        #: The end of the earlier lives, and the seconds of their workers.
        self._offset = 0.0
        self._spent_before: array[float] = array("f")
        #: One in so many events ends an interval; what the queues were at most in those that did not.
        self._step = 1
        self._skipped = 0
        self._last: tuple[float, events.Progress] | None = None
        self._most: dict[str, int] = {}
        #: Workers for which there was no room.
        self.omitted_workers: set[tuple[str, str]] = set()

    def _read_samples(self, series: Series) -> list[SeriesSample]:
        rows = [shares for workers in series.workers.values() for shares in workers.values()]
        names = [(task, worker) for task, workers in series.workers.items() for worker in workers]
        self._rows = {name: row for row, name in enumerate(names[:MAX_WORKER_ROWS])}
        samples, last, spent = [], 0.0, array("f", [0.0] * _WIDTH * len(self._rows))
        for index, at in enumerate(series.at):
            shares = [share for each in rows[: len(self._rows)] for share in each[index]]
            spent = array("f", [before + share * (at - last) for before, share in zip(spent, shares, strict=True)])
            done, sent, queues = (
                {name: values[index] for name, values in found.items()}
                for found in (series.done, series.sent, series.queues)
            )
            samples.append(SeriesSample(at, done, sent, queues, spent))
            last = at
        return samples

    def begin_life(self, offset: float) -> None:
        """Go on `offset` seconds after the run began: what its workers did since the last moment is not known."""
        last = self._samples[-1] if self._samples else SeriesSample(0.0, {}, {}, {}, array("f"))
        self._offset, self._spent_before = offset, last.workers[:]
        for row in range(len(last.workers) // _WIDTH):
            self._spent_before[row * _WIDTH + _ENDED] += offset - last.at
        if self._samples and offset - last.at < MIN_GAP:
            last.at, last.workers = offset, self._spent_before

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
                self._join_intervals()

    def _join_intervals(self) -> None:
        """Join short intervals with those behind them: of equal ones each second one goes."""
        least, kept = 1.5 * self._samples[-1].at / MAX_INTERVALS, list[SeriesSample]()
        begin, queues = 0.0, dict[str, int]()
        for sample in self._samples:
            queues = {queue: max(most, queues.get(queue, 0)) for queue, most in sample.queues.items()}
            if sample.at - begin >= least or sample is self._samples[-1]:
                sample.queues = queues
                kept.append(sample)
                begin, queues = sample.at, {}
        self._samples = kept

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
            seconds = (
                before + getattr(spent, state) for before, state in zip(self._before(row), events.STATES, strict=True)
            )
            workers[row * _WIDTH : (row + 1) * _WIDTH] = array("f", seconds)
        done = {task: counts.done for task, counts in event.tasks.items()}
        sent = {task: counts.sent for task, counts in event.tasks.items()}
        self._samples.append(SeriesSample(at, done, sent, self._most, workers))
        self._skipped, self._last, self._most = 0, None, {}

    def _before(self, row: int) -> Sequence[float]:
        """Return the seconds of a worker in the earlier lives."""
        found = self._spent_before[row * _WIDTH : (row + 1) * _WIDTH]
        return found or [self._offset if state == _ENDED else 0.0 for state in range(_WIDTH)]

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
            if not now:  # before its task began; in an earlier life there was no such worker
                ended = min(sample.at, self._offset)
                now = array("f", [{_TURN: sample.at - ended, _ENDED: ended}.get(state, 0.0) for state in range(_WIDTH)])
            length = sample.at - last
            yield tuple(round(max(0.0, (new - old) / length), 3) for new, old in zip(now, before, strict=True))
            before, last = now, sample.at


def _counts_by_name(counts: list[dict[str, int]]) -> dict[str, tuple[int, ...]]:
    """Return each name's count in every interval, 0 where it has none."""
    names = dict.fromkeys(name for found in counts for name in found)
    return {name: tuple(found.get(name, 0) for found in counts) for name in names}
