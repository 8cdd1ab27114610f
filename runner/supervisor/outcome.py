"""Events about all tasks: `Progress` while a run goes on, and its last event, which is its result as well."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from runner import events
from runner.linux_only import processor_ticks
from runner.structs import dataclass
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import ENDED
from runner.topology import Stage
from runner.transport.messages import CLASSES_PER_DOUBLING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from runner.ledger.balance import Balance, ItemCounts
    from runner.supervisor.arrival_meter import ArrivalMeter
    from runner.supervisor.run_state import RunState, TaskState
    from runner.supervisor.shutdown import Shutdown

PROGRESS_INTERVAL = 0.25
EXIT_OK, EXIT_FAILED, EXIT_DEAD, EXIT_HALTED, EXIT_FAULT, EXIT_DEADLINE = 0, 1, 4, 5, 70, 124
#: Less than that is noise: the kernel counts in hundredths of a second.
_TICKS = 20


class ProgressReporter:
    """Tells how far everything is. `listening`: there is a listener."""

    def __init__(self, state: RunState, arrivals: ArrivalMeter, *, listening: bool) -> None:
        self.state = state
        self._arrivals = arrivals
        #: The longest that each queue was seen to be.
        self.longest_queues: dict[str, int] = {}
        self._next: float | None = state.clock.now() + PROGRESS_INTERVAL if listening else None

    def next_time(self) -> float | None:
        """Return when to tell again."""
        return self._next

    def report_when_due(self, now: float) -> None:
        """Tell when it is time; a moment that was missed is not made up for."""
        if self._next is not None and now >= self._next:
            self._next = now + PROGRESS_INTERVAL
            self.report_progress(now)

    def report_progress(self, now: float) -> None:
        """Tell how far everything is."""
        state = self.state
        waiting: dict[str, int] = {}
        dropped: Counter[str] = Counter()
        for line in state.ledger.subscriptions:  # a copied queue has one for each reader: the longest one counts
            waiting[line.queue] = max(waiting.get(line.queue, 0), line.count)
            if line.counts.dropped and not line.carries_dead_letters:
                dropped[line.queue] += line.counts.dropped
        self.longest_queues = {queue: max(self.longest_queues.get(queue, 0), count) for queue, count in waiting.items()}
        for task in state.tasks.values():
            _sample_items(task, now)
        workers = {name: workers_of(task, now) for name, task in state.tasks.items()}
        tasks = {name: self._task_counts(task, workers[name]) for name, task in state.tasks.items()}
        oldest, fullest = self._arrivals.oldest_waits(now), self._arrivals.fullest_buckets(now)
        state.emit(events.Progress(now, tasks, waiting, workers, oldest, dict(dropped), fullest))

    def _task_counts(self, task: TaskState, workers: tuple[events.WorkerNow, ...]) -> events.TaskCounts:
        ledger = self.state.ledger
        tally = ledger.task_counts[task.name]
        states = Counter(worker.state for worker in workers)
        return events.TaskCounts(
            **{word: getattr(tally, word) for word in ("done", "dead", "dropped")},
            repeated=ledger.repeated_items[task.name],
            sent=ledger.sent_items[task.name],
            workers=sum(slot.phase in (Phase.READY, Phase.ENDING) for slot in task.slots),
            **{state: states[state] for state in ("executing", "starting", "item", "room", "turn")},
            stage=self.state.topology.stages[task.name].value,
            wanted=task.worker_count if task.plan.config.is_adaptive else None,
        )


def workers_of(task: TaskState, now: float) -> tuple[events.WorkerNow, ...]:
    """Return all workers of a task, as events show them."""
    for slot in task.slots:
        if slot.phase is Phase.GONE:
            slot.time_account.enter_state(ENDED, now)
    return tuple(
        [
            slot.time_account.worker_now(slot.name, slot.pid, now, slot.item_age(now), slot.last_node)
            for slot in task.slots
        ]
    )


def _sample_items(task: TaskState, now: float) -> None:
    """Look which item each worker of a task is at, and since when."""
    if task.is_source or task.is_async:
        return
    for slot in task.slots:
        position = task.engine.current_position(slot.index) if slot.is_working else None
        if position is None or not position.lease:
            slot.sampled_item = None
        elif slot.sampled_item is None or slot.sampled_item[:2] != (position.lease, position.index):
            slot.sampled_item = position.lease, position.index, now


class ProcessorMeter:
    """Looks when it is made, and again when it is asked."""

    def __init__(self) -> None:
        self._before = processor_ticks()
        self._cpu = time.process_time()

    def idle_share(self) -> float | None:
        """Return the share of their time since then in which they had nothing to do; None where that is not known.

        >>> ProcessorMeter().idle_share()  # a moment says nothing
        """
        after = processor_ticks()
        if self._before is None or after is None or after[1] - self._before[1] < _TICKS:
            return None
        return max(0.0, min(1.0, (after[0] - self._before[0]) / (after[1] - self._before[1])))

    def cpu_seconds(self) -> float:
        """Return the processor time of this process since then, in seconds, all its threads together.

        >>> ProcessorMeter().cpu_seconds() < 10
        True
        """
        return time.process_time() - self._cpu


@dataclass(frozen=True, slots=True)
class RunOutcome:
    """The last event of a run, and what only its own process needs to know of its end.

    `headline` is its balance, `lines` are the queues' counts by name, of a copied queue those of each reader.
    `exit_code` may become another one than the event's: `--dead-ok`, or output that could not be written.
    """

    ended: events.RunEnded
    exit_code: int
    headline: Balance
    lines: dict[str, ItemCounts]
    left_behind: tuple[str, ...] = ()
    #: It was ended at once: by a second signal, or because the grace was over.
    was_killed: bool = False
    letters_kept: int = 0
    #: Dead items that cannot be given again, although the file wants them kept.
    items_not_kept: int = 0
    #: Of a durable run: something is left with which `runner resume` goes on.
    is_resumable: bool = False
    trouble: str = ""

    @property
    def is_complete(self) -> bool:
        """Return True if nothing is left to be done: all tasks have ended well, and no source was cut short."""
        all_ok = all(task.how == Stage.OK.value for task in self.ended.tasks)
        return all_ok and not self.headline.left and not self.ended.unfinished

    @property
    def tasks(self) -> dict[str, events.TaskSummary]:
        """Return the ends of its tasks, by name."""
        return {task.name: task for task in self.ended.tasks}

    def closing_patience(self, deadline: float | None) -> float | None:
        """Return the seconds its end may wait for others: 0 when a signal or the deadline ended it; None: any."""
        if self.ended.exit_code >= EXIT_DEADLINE:
            return 0.0
        return None if deadline is None else max(0.0, deadline - self.ended.seconds)


def conclude_run(
    state: RunState,
    shutdown: Shutdown,
    processors: ProcessorMeter,
    longest_queues: Mapping[str, int],
    fullest_buckets: Mapping[str, events.FullestBucket],
) -> RunOutcome:
    """Count what is left, audit the books, and tell everyone how the run has ended."""
    now, ledger = state.clock.now(), state.ledger
    # Before what is left is counted: a worker that was ended still holds its leases.
    tasks = tuple(_summarize_task(state, task, now) for task in state.tasks.values())
    ledger.count_left()
    state.audit.take_back(ledger.taken_back)
    faults = list(state.audit.find_faults(ledger, state.topology, cut_short=state.stopping))
    for _, sentence in faults:
        state.emit(events.Notice(now, sentence))
    balance = ledger.compute_run_balance()
    unfinished = tuple(
        name
        for name, task in state.tasks.items()
        if task.is_source and not task.failure_reason and not all(slot.ended_by_itself for slot in task.slots)
    )
    unfinished += tuple(sorted(state.drained_sources))
    stages = set(state.topology.stages.values())
    was_cut = bool(unfinished or balance.left) or Stage.SKIPPED in stages
    signal = shutdown.received_signal
    # What --drain does not start, and what comes after that, has not failed.
    failures = {Stage.FAILED} if state.plan.drains else {Stage.FAILED, Stage.SKIPPED}
    # When several hold, the first wins.
    codes = {
        EXIT_FAULT: bool(faults) or balance.missing != 0 or shutdown.internal_fault,
        128 + (signal or 0): signal is not None,
        EXIT_DEADLINE: shutdown.deadline_passed or (shutdown.draining_for_deadline and was_cut),
        EXIT_HALTED: state.halted,
        EXIT_FAILED: bool(stages & failures) or shutdown.disk_failed,
        EXIT_DEAD: balance.dead > 0,
        EXIT_OK: True,
    }
    ended = events.RunEnded(
        at=now,
        run=state.plan.run_id,
        exit_code=next(code for code, holds in codes.items() if holds),
        seconds=now - state.began_at,
        **asdict(balance),
        tasks=tasks,
        queues=tuple(_summarize_queues(state, longest_queues, fullest_buckets)),
        reasons=(*shutdown.reasons, *(sentence for _, sentence in faults)),
        unbalanced=tuple(dict.fromkeys(name for name, _ in faults)),
        idle=processors.idle_share(),
        cpu=processors.cpu_seconds(),
        unfinished=unfinished,
        nodes=tuple(_summarize_nodes(state, now)),
    )
    state.emit(ended)
    lines = {line.name: line.counts for line in ledger.subscriptions}
    return RunOutcome(ended, ended.exit_code, balance, lines, was_killed=state.killing)


def describe_end(ended: events.RunEnded) -> str:
    """Say why a run has ended, in a few words.

    >>> describe_end(events.RunEnded(9.0, "r", 130, 9.0, 5, 0, 3, 0, 0, 2, 0, reasons=("Ctrl-C",)))
    'Ctrl-C'
    >>> describe_end(events.RunEnded(9.0, "r", 4, 9.0, 5, 0, 3, 2, 0, 0, 0))
    'ended, with dead items'
    """
    if ended.reasons:
        return "; ".join(ended.reasons)
    failed = ", ".join(f"`{task.name}`" for task in ended.tasks if task.how == Stage.FAILED.value)
    known = {EXIT_OK: "ended", EXIT_DEAD: "ended, with dead items", EXIT_FAILED: f"failed: {failed}"}
    how = known.get(ended.exit_code, f"exit code {ended.exit_code}")
    return f"{how}; sources had more" if ended.unfinished and ended.exit_code in {EXIT_OK, EXIT_DEAD} else how


def _summarize_task(state: RunState, task: TaskState, now: float) -> events.TaskSummary:
    ledger, name = state.ledger, task.name
    tally, left = ledger.task_counts[name], ledger.leased_items[name]
    workers = workers_of(task, now)
    began = now if task.began_at is None else task.began_at
    return events.TaskSummary(
        name=name,
        how=state.topology.stages[name].value,
        why=task.failure_reason,
        taken=tally.done + tally.dead + tally.dropped + left,
        **{word: getattr(tally, word) for word in ("done", "dead", "dropped")},
        left=left,
        repeated=ledger.repeated_items[name],
        sent=ledger.sent_items[name],
        median=time_quantile(task.time_histogram, 0.5),
        p99=time_quantile(task.time_histogram, 0.99),
        busy=busy_share([worker.spent for worker in workers], began - state.began_at),
        active=(now if task.ended_at is None else task.ended_at) - began,
        times=tuple((2.0 ** (key / CLASSES_PER_DOUBLING), items) for key, items in sorted(task.time_histogram.items())),
        workers=workers,
        results=dict(task.results),
    )


def _summarize_nodes(state: RunState, now: float) -> Iterator[events.NodeSummary]:
    """Yield the machines of the engines that have some: with times since the run began."""
    for engine in dict.fromkeys(task.engine for task in state.tasks.values()):
        for node in engine.summarize_nodes(now) if hasattr(engine, "summarize_nodes") else ():
            left = None if node.left is None else node.left - state.began_at
            yield replace(node, joined=max(0.0, node.joined - state.began_at), left=left)


def _summarize_queues(
    state: RunState, longest_queues: Mapping[str, int], fullest_buckets: Mapping[str, events.FullestBucket]
) -> Iterator[events.QueueSummary]:
    for name, lines in state.ledger.subscriptions_by_queue.items():
        if lines:
            counts = ("put", "done", "dead", "dropped", "left")
            sums = {word: sum(getattr(line.counts, word) for line in lines) for word in counts}
            yield events.QueueSummary(
                name=name, most=longest_queues.get(name, 0), fullest=fullest_buckets.get(name), **sums
            )


def busy_share(spent: Sequence[events.Spent], before: float = 0.0) -> float:
    """Return the share of the workers' time from ready to ended in which they executed or encoded.

    `before` the task began, its workers waited for their turn for so many seconds.

    >>> busy_share([events.Spent(starting=1, item=1, executing=2, encoding=1, turn=5)], 5.0), busy_share([])
    (0.75, 0.0)
    """
    worked = sum(each.worked for each in spent)
    waited = sum(each.item + each.room + max(0.0, each.turn - before) for each in spent)
    return worked / (worked + waited) if worked + waited > 0 else 0.0


def time_quantile(times: Mapping[int, int], share: float) -> float | None:
    """Return the seconds that this share of the items did not exceed, within 5 %; None: nothing was measured.

    >>> times = {-80: 99, 0: 1}
    >>> round(time_quantile(times, 0.5), 6), round(time_quantile(times, 0.999), 2), time_quantile({}, 0.5)
    (0.000935, 0.96, None)
    """
    most = share * sum(times.values())
    seen = 0
    for key, items in sorted(times.items()):
        seen += items
        if seen >= most:
            return float(2.0 ** ((key - 0.5) / CLASSES_PER_DOUBLING))
    return None
