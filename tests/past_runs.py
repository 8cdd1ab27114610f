"""Records of runs that never were, made by hand, the same each time: for reports, plots, traces and comparisons."""

from __future__ import annotations

import random
from dataclasses import replace

from runner import events
from runner.events import (
    STATES,
    Machine,
    QueuePlanned,
    QueueSummary,
    RunPlan,
    Spent,
    TaskPlanned,
    TaskSummary,
    WorkerNow,
)
from runner.ledger.balance import Balance
from runner.report.record import Bottleneck, FailureGroup, Incident, RunRecord, Series

TRACEBACK = """Traceback (most recent call last):
  File "plugins/thumbs.py", line 40, in upload
    put(bucket, thumb)
OSError: the "bucket" does not answer
"""
#: Everything that a name can do to a page or a reader.
HOSTILE = "</script><img src=x onerror=alert(1)>\u202egnp\x00'\"&{{ 7*7 }}]]>\ud800"

#: Of the run of a minute below.
LIVES = (
    events.RunLife(1_795_000_000.0, 20.0, "Ctrl-C", 0),
    events.RunLife(1_795_090_000.0, 25.5, "killed at an unknown moment after 25.5s", 3_214),
    events.RunLife(1_795_200_000.0, 0.4, "killed at an unknown moment after 400ms", 7_902),
    events.RunLife(1_795_200_100.0, 14.1, "ended, with dead items", 7_910),
)


def spent(seconds: float, shares: tuple[float, ...]) -> Spent:
    return Spent(*(seconds * share for share in shares))


def histogram(rng: random.Random, middle: float, items: int) -> tuple[tuple[float, int], ...]:
    """A lognormal sort of time per item, in the classes of `TaskSummary.times`."""
    counts: dict[int, int] = {}
    for _ in range(400):
        key = round(rng.gauss(0, 5))
        counts[key] = counts.get(key, 0) + items // 400
    return tuple((middle * 2 ** (key / 8), count) for key, count in sorted(counts.items()))


def shares_at(rng: random.Random, way: float, busy: float) -> tuple[float, ...]:
    """Starting, then mostly as busy as said, and ended in the last twentieth."""
    if way < 0.02:
        return (1.0, 0, 0, 0, 0, 0, 0)
    if way > 0.95:
        return (0, 0, 0, 0, 0, 0, 1.0)
    executing = min(1.0, max(0.0, rng.gauss(busy, 0.15)))
    rest = 1 - executing
    kinds = [rng.random() for _ in range(4)]
    item, encoding, room, turn = (rest * kind / sum(kinds) for kind in kinds)
    return (0.0, item, executing, encoding, room, turn, 0.0)


def past_run(
    *,
    tasks: int = 4,
    workers: int = 10,
    bins: int = 120,
    queues: int = 4,
    failures: int = 3,
    items: int = 10_000,
    seconds: float = 60.0,
    trace: str = TRACEBACK,
    seed: int = 7,
    run: str = "20261123-101500",
) -> RunRecord:
    """A chain of tasks with queues between them, and further queues that nobody reads."""
    rng = random.Random(seed)
    names = [f"task{number}" for number in range(tasks)] if tasks != 4 else ["read", "resize", "upload", "manifest"]
    lines = [f"queue{number}" for number in range(queues)] if queues != 4 else ["paths", "thumbs", "stored", "rejected"]
    staff = {
        name: tuple(f"{name}{i}" for i in range(workers // tasks + (n < workers % tasks)))
        for n, name in enumerate(names)
    }
    at = tuple(seconds * (n + 1) / bins for n in range(bins))
    planned = tuple(
        TaskPlanned(
            name, f"thumbs.{name}", "thread" if n % 2 else "process", staff[name],
            (lines[n - 1],) if n else (), (lines[n],) if n < tasks - 1 else (), lines[-1] if n == 2 else "",
        )
        for n, name in enumerate(names)
    )  # fmt: skip
    states = {
        name: {
            worker: tuple(shares_at(rng, n / bins, 0.9 if name == names[1] else 0.4) for n in range(bins))
            for worker in staff[name]
        }
        for name in names
    }
    grown = [int(items * min(1.0, max(0.0, (n / bins - 0.02) / 0.93))) for n in range(1, bins + 1)]
    ended = tuple(
        TaskSummary(
            name, "ok", taken=items if n else 0, done=items - 40 * (n == 2) if n else 0, dead=40 * (n == 2), sent=items if n < tasks - 1 else 0,
            repeated=3 * (n == 1), median=0.004 * 3**n, p99=0.03 * 3**n, busy=0.9 if n == 1 else 0.4, active=seconds,
            times=histogram(rng, 0.004 * 3**n, items),
            workers=tuple(
                WorkerNow(w, "ended", spent(seconds / bins, tuple(map(sum, zip(*states[name][w], strict=True)))), 100 + n, items // 4, 3.5, 50 << 20)
                for w in staff[name]
            ),
            results={} if n < tasks - 1 else {staff[name][0]: '{"rows": 9960}'},
        )
        for n, name in enumerate(names)
    )  # fmt: skip
    kinds = ("OSError", "TimeoutError", "ValueError")
    return RunRecord(
        run=run, title="Thumbnails", began=1_795_000_000.0, seconds=seconds, exit_code=4,
        balance=Balance(read=items, done=items - 40, dead=40, repeated=3),
        limit=Bottleneck("`resize` limits the run: its 3 workers were busy 90 % of the time; one more would give about 1.3 times the throughput.", "work", "resize", 4, 1.3),
        tasks=ended,
        queues=tuple(QueueSummary(name, items, items - 2 * (n == 1), 2 * (n == 1), most=1000 if n == 0 else 300) for n, name in enumerate(lines)),
        failures=tuple(
            FailureGroup(names[n % tasks], kinds[n % 3] if failures <= 3 else f"Error{n}", ("dead", "again", "dropped")[n % 3], 37 - n % 30, f"12.{n}", f"{names[n % tasks]}0", f"{kinds[n % 3]}: the bucket does not answer", trace, "'cat.jpg'")
            for n in range(failures)
        ),
        moments=(
            Incident(0.31, "death", "killed by signal 9 (SIGKILL); a new one takes its place", names[1], staff[names[1]][0]),
            Incident(seconds / 2, "notice", "the source is held back", count=12),
        ),
        plan=RunPlan(
            "tasks.toml", '[tasks.read]\ncall = "thumbs.read"\nworkers = 2\n', planned,
            tuple(QueuePlanned(name, 1000) for name in lines),
            Machine("Linux 6.1 x86_64", "3.12.1", "0.1.0", 8, 16 << 30),
        ),
        series=Series(
            at,
            {name: tuple(grown) if n else (0,) * bins for n, name in enumerate(names)},
            {name: tuple(grown) if n < tasks - 1 else (0,) * bins for n, name in enumerate(names)},
            {name: tuple(rng.randrange(200 + 200 * n % 800) for _ in range(bins)) for n, name in enumerate(lines)},
            states,
        ),
    )  # fmt: skip


def big() -> RunRecord:
    """Ten million items: 10 tasks, 64 workers, 400 intervals, 20 queues, 50 kinds of failures with long tracebacks."""
    line = '  File "/srv/app/<plugin>.py", line 40, in upload\n    put(bucket, "thumb")\n'
    return past_run(
        tasks=10,
        workers=64,
        bins=400,
        queues=20,
        failures=50,
        items=10_000_000,
        seconds=3600.0,
        trace=line * (10_000 // len(line)),
    )


def hostile() -> RunRecord:
    """Every text in it is `HOSTILE`."""
    plain = past_run()
    task = replace(
        plain.tasks[0],
        name=HOSTILE,
        why=HOSTILE,
        how="failed",
        results={HOSTILE: HOSTILE},
        workers=(WorkerNow(HOSTILE, "ended", Spent(executing=1)),),
    )
    planned = TaskPlanned(
        HOSTILE, HOSTILE + "()", "process", (HOSTILE,), (), (HOSTILE,), HOSTILE, ("other",), help=HOSTILE
    )
    shares = ((0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0),) * len(plain.series.at)
    counts = plain.series.sent["read"]
    return replace(
        plain, run=HOSTILE, title=HOSTILE, tasks=(task,), queues=(QueueSummary(HOSTILE, 3, 3),), reasons=(HOSTILE,), unbalanced=(HOSTILE,),
        limit=Bottleneck(HOSTILE, "work", HOSTILE),
        failures=(FailureGroup(HOSTILE, HOSTILE, HOSTILE, 2, HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),),
        moments=(Incident(1.0, HOSTILE, HOSTILE, HOSTILE, HOSTILE, 2),),
        plan=RunPlan(HOSTILE, HOSTILE, (planned, TaskPlanned("other", "other", "thread", ("other",))), (QueuePlanned(HOSTILE),), Machine(HOSTILE, HOSTILE, HOSTILE, 2, 1)),
        series=Series(plain.series.at, {HOSTILE: counts}, {}, {HOSTILE: counts}, {HOSTILE: {HOSTILE: shares}}),
    )  # fmt: skip


assert len(STATES) == len(Spent.__dataclass_fields__)
assert events.STATES is STATES
