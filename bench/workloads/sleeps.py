"""Items that wait for something else than a core: a hundred at a time, in threads and on an event loop."""

from __future__ import annotations

import asyncio
from functools import partial

from bench import peers
from bench.files import Task, pipeline
from bench.functions import anap, consume, even, nap
from bench.kinds import Outcome, Row, Workload
from bench.stamps import stamp
from bench.workloads.cpu import check

AT_A_TIME = 100
SECONDS = 0.01
STAGES = [(nap, AT_A_TIME)]


def overlong(outcome: Outcome, count: int) -> float:
    """The time it took, divided by the time it must take a hundred at a time."""
    return outcome.between() * AT_A_TIME / (count * SECONDS)


def toml(count: int, call: str, workers: int, mode: str = "thread", *, awaited: int = 0) -> str:
    """Three tasks; the clock starts when so many workers are there."""
    return pipeline(
        Task("source", "even", "thread", given=f"count = {count}, seconds = {SECONDS}, workers = {awaited}"),
        Task("nap", call, mode, workers),
        Task("total", "Total", "thread"),
    )


def gathered(count: int) -> None:
    """A hundred coroutines that share an iterator."""

    async def worker(items: object) -> int:
        return sum([await anap(item) for item in items])  # type: ignore[attr-defined]

    async def all_of_them() -> list[int]:
        items = even(count, SECONDS)
        return await asyncio.gather(*(worker(items) for _ in range(AT_A_TIME)))

    consume(asyncio.run(all_of_them()))


def semaphore(count: int) -> None:
    """A task for each item, and a semaphore."""

    async def one(item: float, turn: asyncio.Semaphore) -> int:
        async with turn:
            return await anap(item)

    async def all_of_them() -> list[int]:
        turn = asyncio.Semaphore(AT_A_TIME)
        return await asyncio.gather(*(one(item, turn) for item in even(count, SECONDS)))  # type: ignore[arg-type]

    consume(asyncio.run(all_of_them()))


def pypeln_task(count: int) -> None:
    """pypeln on an event loop."""
    import pypeln as pl

    consume(pl.task.map(anap, even(count, SECONDS), workers=AT_A_TIME, maxsize=1000))


def joblib_threads(count: int) -> None:
    """joblib's threads."""
    import joblib

    with joblib.Parallel(AT_A_TIME, backend="threading", return_as="generator_unordered") as crew:
        consume(crew(joblib.delayed(nap)(item) for item in even(count, SECONDS)))


def dealt(count: int) -> None:
    """The bound: a hundred threads, which know beforehand how many items each of them has."""
    import threading

    def part() -> None:
        done.append(sum(nap(SECONDS) for _ in range(count // AT_A_TIME)))

    done: list[int] = []
    stamp("began")
    crew = [threading.Thread(target=part) for _ in range(AT_A_TIME)]
    for each in crew:
        each.start()
    for each in crew:
        each.join()
    consume(done)


LIMIT_THREADS = "bare threads, the items shared out beforehand"
LIMIT_ASYNC = "asyncio.gather of 100 coroutines that share an iterator"

WORKLOADS = (
    Workload(
        name="sleeps",
        title="Sleeps of 10 ms on 100 threads",
        about="Each item waits for 10 ms. The time divided by the ideal, the start of the threads included.",
        unit="time / ideal",
        rows=(
            Row(LIMIT_THREADS, dealt),
            Row("runner", toml=lambda n: toml(n, "nap", AT_A_TIME)),
            Row(
                "queue.Queue and 100 threads by hand",
                lambda n: peers.threads(partial(even, n, SECONDS), STAGES, consume),
            ),
            Row(
                "ThreadPoolExecutor(100).map",
                lambda n: peers.thread_executor(partial(even, n, SECONDS), nap, consume, workers=AT_A_TIME),
            ),
            Row("joblib, threading", joblib_threads, needs=("joblib",)),
            Row(
                "pypeln.thread",
                lambda n: peers.pypeln(partial(even, n, SECONDS), STAGES, consume, kind="thread"),
                needs=("pypeln",),
            ),
        ),
        items=10_000,
        quick=5_000,
        figure=overlong,
        check=check,
        limit=LIMIT_THREADS,
        smaller=True,
    ),
    Workload(
        name="async",
        title="Sleeps of 10 ms, 100 at a time, async",
        about="The same with `async def`. The time divided by the ideal, from when the event loop runs.",
        unit="time / ideal",
        rows=(
            Row(LIMIT_ASYNC, gathered),
            Row("runner, in a thread", toml=lambda n: toml(n, "anap", 1, awaited=1)),
            Row("runner, in a process", toml=lambda n: toml(n, "anap", 1, "process", awaited=1)),
            Row("asyncio.gather of all, and a Semaphore", semaphore),
            Row("pypeln.task", pypeln_task, needs=("pypeln",)),
        ),
        items=10_000,
        quick=5_000,
        figure=overlong,
        check=check,
        limit=LIMIT_ASYNC,
        smaller=True,
    ),
)
