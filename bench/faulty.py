"""`python -m bench.faulty CONTENDER`: a small job in which something goes wrong. Started by bench.faults.

2,000 items of a millisecond through two workers. What goes wrong with one of them says the environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.stamps import STAMPS, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ITEMS = 2000
BAD = 700
FAULT = "BENCH_FAULT"


def items() -> Iterator[int]:
    """The source."""
    yield from range(ITEMS)


def work(item: int) -> Any:
    """The work on an item; the bad one meets its fault."""
    time.sleep(0.001)
    if item == BAD:
        match os.environ.get(FAULT):
            case "kill" if _first():
                os.kill(os.getpid(), signal.SIGKILL)
            case "exception":
                raise ValueError("no such loaf")
            case "unpicklable":
                return threading.Lock()
    if item == BAD // 2:
        stamp("middle")
    return item


def _first() -> bool:
    """Whether nobody has been here before: the fault happens once."""
    try:
        Path(os.environ[STAMPS]).with_name("been-here").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Collected:
    """The sink: which items came, and how often; said at the end, however that comes."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.count = 0

    def __call__(self, item: int) -> None:
        self.seen.add(item)
        self.count += 1

    def __enter__(self) -> Collected:
        return self

    def __exit__(self, *exc: object) -> None:
        stamp("ended", results=len(self.seen), twice=self.count - len(self.seen))


def collect(results: Iterable[int]) -> None:
    """The sink, as a loop."""
    with Collected() as sink:
        for item in results:
            sink(item)


def contenders() -> dict[str, Callable[[], None]]:
    """The peers, each with two worker processes, as its documentation shows it."""
    from bench import peers

    given: tuple[Any, ...] = (items, work, collect)
    return {
        "multiprocessing.Pool": partial(peers.pool, *given, chunk=1),
        "ProcessPoolExecutor": partial(peers.executor, *given, chunk=1),
        "joblib": partial(peers.parallel, *given),
        "mpire": partial(peers.mpire, *given, length=ITEMS, chunk=None),
        "pypeln": partial(peers.pypeln, items, [(work, 2)], collect),
    }


if __name__ == "__main__":
    contenders()[sys.argv[1]]()
