"""Records made by hand: what each task of a pipeline did in a run of ten seconds, as shares of its workers' time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from runner.events import Machine, QueuePlanned, QueueSummary, RunPlan, Spent, TaskPlanned, TaskSummary, WorkerNow
from runner.report.record import RunRecord

SECONDS = 10.0


@dataclass(frozen=True)
class Did:
    """One task. `busy`, `cpu`, `room`, `turn` and `starting` are shares of each worker's time; the rest waits for items.

    `cpu` is processor time as a share of the worker's time; default: none, it waits for something outside.
    """

    name: str
    busy: float
    cpu: float = 0.0
    workers: int = 1
    mode: str = "process"
    items: int = 1000
    room: float = 0.0
    turn: float = 0.0
    starting: float = 0.0
    encoding: float = 0.0
    rate: float | None = None
    concurrency: int | None = None
    times: tuple[tuple[float, int], ...] = ()
    ordered: bool = False
    after: tuple[str, ...] = ()
    #: The machine of its workers.
    node: str = ""
    #: Its part of the run, as shares of it.
    begin: float = 0.0
    end: float = 1.0

    def summary(self, seconds: float, *, source: bool) -> TaskSummary:
        here = (self.end - self.begin) * seconds
        rest = 1 - self.busy - self.room - self.turn - self.starting
        spent = Spent(
            starting=self.starting * here,
            item=rest * here,
            executing=(self.busy - self.encoding) * here,
            encoding=self.encoding * here,
            room=self.room * here,
            turn=self.turn * here + self.begin * seconds,
            ended=(1 - self.end) * seconds,
        )
        workers = tuple(
            WorkerNow(
                f"{self.name}-{number}",
                "ended",
                spent,
                items=self.items // self.workers,
                cpu=self.cpu * here,
                node=self.node,
            )
            for number in range(1, self.workers + 1)
        )
        return TaskSummary(
            self.name, "ok", taken=0 if source else self.items, done=0 if source else self.items, sent=self.items,
            busy=self.busy, active=here, times=self.times, workers=workers,
        )  # fmt: skip


def planned(did: Did, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> TaskPlanned:
    names = tuple(f"{did.name}-{number}" for number in range(1, did.workers + 1))
    return TaskPlanned(
        did.name, did.name, did.mode, names, inputs, outputs, after=did.after, rate=did.rate,
        concurrency=did.concurrency, ordered=did.ordered,
    )  # fmt: skip


def line(
    *dids: Did,
    cores: int = 8,
    seconds: float = SECONDS,
    most: dict[str, int] | None = None,
    queue: dict[str, Any] | None = None,
    **record: Any,
) -> RunRecord:
    """A record of tasks one after the other: queue `q1` between the first and the second, and so on.

    Each queue was seen to be as long as its bound, unless `most` says otherwise.
    """
    last = len(dids) - 1
    plans = tuple(
        planned(did, (f"q{at}",) if at else (), (f"q{at + 1}",) if at < last else ()) for at, did in enumerate(dids)
    )
    names = [f"q{at}" for at in range(1, len(dids))]
    queues = tuple(QueuePlanned(name, size=100, **(queue or {})) for name in names)
    ends = tuple(QueueSummary(name, most=(most or {}).get(name, 100)) for name in names)
    tasks = tuple(did.summary(seconds, source=not at) for at, did in enumerate(dids))
    threads = sum(did.cpu * did.workers * (did.end - did.begin) for did in dids if did.mode == "thread") * seconds
    plan = RunPlan(tasks=plans, queues=queues, machine=Machine(cores=cores))
    values: dict[str, Any] = {"seconds": seconds, "exit_code": 0, "cpu": threads, "plan": plan}
    values |= {"tasks": tasks, "queues": ends}
    return RunRecord("20250101-000000-1", "by hand", **(values | record))


def beside(*records: RunRecord) -> RunRecord:
    """Several pipelines in one run; their queues get names of their own."""
    first = records[0]
    plans: list[TaskPlanned] = []
    queues: list[QueuePlanned] = []
    ends: list[QueueSummary] = []
    for number, record in enumerate(records):
        plans += [
            replace(
                plan,
                inputs=tuple(f"{number}{name}" for name in plan.inputs),
                outputs=tuple(f"{number}{name}" for name in plan.outputs),
            )
            for plan in record.plan.tasks
        ]
        queues += [replace(queue, name=f"{number}{queue.name}") for queue in record.plan.queues]
        ends += [replace(end, name=f"{number}{end.name}") for end in record.queues]
    return replace(
        first,
        tasks=tuple(task for record in records for task in record.tasks),
        queues=tuple(ends),
        plan=replace(first.plan, tasks=tuple(plans), queues=tuple(queues)),
        cpu=sum(record.cpu for record in records),
    )
