"""What a run costs that does nothing: the whole command, from nothing to its end."""

from __future__ import annotations

import sys

from bench.files import Task, pipeline
from bench.kinds import Outcome, Row, Workload

LIMIT = "a bare Typer command"


def script(text: str) -> tuple[str, ...]:
    """A program of a few lines, as short as its library allows: one item through one worker."""
    return (sys.executable, "-c", text)


POOL = """
from multiprocessing import Pool
if __name__ == "__main__":
    with Pool(1) as pool:
        assert pool.map(abs, [-1]) == [1]
"""
EXECUTOR = """
from concurrent.futures import ProcessPoolExecutor
if __name__ == "__main__":
    with ProcessPoolExecutor(1) as pool:
        assert list(pool.map(abs, [-1])) == [1]
"""
PYPELN = """
import pypeln as pl
if __name__ == "__main__":
    assert list(pl.process.map(abs, [-1], workers=1)) == [1]
"""
MPIRE = """
from mpire import WorkerPool
if __name__ == "__main__":
    with WorkerPool(1) as pool:
        assert pool.map(abs, [-1]) == [1]
"""
JOBLIB = """
from joblib import Parallel, delayed
if __name__ == "__main__":
    assert Parallel(2)(delayed(abs)(each) for each in [-1]) == [1]
"""


def check(outcome: Outcome, _: int) -> str | None:
    """The task says that it has run."""
    return None if outcome.all("ended") else "nothing was run"


WORKLOADS = (
    Workload(
        name="start",
        title="Start and end of a trivial run",
        about="One task that does nothing, or one item through one worker; the whole command, in seconds.",
        unit="s",
        rows=(
            Row("python -c pass", command=(sys.executable, "-c", "pass")),
            Row(LIMIT, command=(sys.executable, "-m", "bench.bare")),
            Row("runner, in a thread", toml=lambda _: pipeline(Task("nothing", "bench.stamps:nothing", "thread"))),
            Row("runner, in a process", toml=lambda _: pipeline(Task("nothing", "bench.stamps:nothing"))),
            Row("multiprocessing.Pool", command=script(POOL)),
            Row("ProcessPoolExecutor", command=script(EXECUTOR)),
            Row("pypeln", command=script(PYPELN), needs=("pypeln",)),
            Row("mpire", command=script(MPIRE), needs=("mpire",)),
            Row("joblib", command=script(JOBLIB), needs=("joblib",)),
        ),
        items=1,
        quick=1,
        figure=lambda outcome, _: outcome.wall,
        check=check,
        limit=LIMIT,
        smaller=True,
    ),
)
