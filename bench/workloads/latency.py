"""How old an item of a slow source is when it arrives: source process → process → sink."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench import peers
from bench.files import Task, pipeline
from bench.functions import pass_on, ticks, time_delays
from bench.kinds import Outcome, Row, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SECONDS = 0.004
STAGES = [(pass_on, 1)]
LIMIT = "by hand: private pipes"


def check(outcome: Outcome, count: int) -> str | None:
    """All of them arrived."""
    items = outcome.first("ended")["items"]
    return None if items == count else f"{items} items arrived, not {count}"


def delay(which: str) -> Callable[[Outcome, int], float]:
    """A quantile of the ages, in milliseconds, as the sink has it."""
    return lambda outcome, _: float(outcome.first("ended")[which])


def toml(count: int) -> str:
    """Three processes."""
    return pipeline(
        Task("ticks", "ticks", given=f"count = {count}, seconds = {SECONDS}, workers = 1"),
        Task("pass_on", "pass_on"),
        Task("delays", "Delays"),
    )


def of(count: int) -> Callable[[], Iterable[int]]:
    """An item each 4 ms."""
    return partial(ticks, count, SECONDS)  # type: ignore[return-value]


WORKLOADS = (
    Workload(
        name="latency",
        title="Latency of a slow source",
        about="An item each 4 ms: source process → process → sink process; its age when it arrives, in milliseconds.",
        unit="p50 ms",
        rows=(
            Row(LIMIT, lambda n: peers.processes(of(n), STAGES, time_delays, pipes=True)),
            Row("by hand: a star", lambda n: peers.star(of(n), pass_on, time_delays)),
            Row("runner", toml=toml),
            Row("multiprocessing.Queue", lambda n: peers.processes(of(n), STAGES, time_delays)),
            Row("faster-fifo", lambda n: peers.fifo(of(n), STAGES, time_delays), needs=("faster_fifo",)),
            Row("pypeln", lambda n: peers.pypeln(of(n), STAGES, time_delays), needs=("pypeln",)),
            Row("Pool.imap(chunksize=1)", lambda n: peers.pool(of(n), pass_on, time_delays, workers=1, chunk=1)),
            Row(
                "mpire, chunk_size=1",
                lambda n: peers.mpire(of(n), pass_on, time_delays, workers=1, length=n, chunk=1),
                needs=("mpire",),
            ),
            Row(
                "joblib as documented",
                lambda n: peers.parallel(of(n), pass_on, time_delays, workers=2),
                needs=("joblib",),
            ),
        ),
        items=1000,
        quick=400,
        figure=delay("p50"),
        extra={"p99 ms": delay("p99"), "worst ms": delay("worst")},
        check=check,
        limit=LIMIT,
        smaller=True,
    ),
)
