"""What a run costs that does nothing: the whole command, from nothing to its end."""

from __future__ import annotations

import sys

from bench import peers
from bench.files import Task, pipeline
from bench.functions import stamp
from bench.kinds import Outcome, Row, Workload

LIMIT = "a bare Typer command"


def one() -> list[int]:
    """A source of one item."""
    return [1]


def ended(results: object) -> None:
    """A sink."""
    assert list(results) == [1]  # type: ignore[call-overload]
    stamp("ended")


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
            Row("runner, in a thread", toml=lambda _: pipeline(Task("nothing", "nothing", "thread"))),
            Row("runner, in a process", toml=lambda _: pipeline(Task("nothing", "nothing"))),
            Row("multiprocessing.Pool", lambda _: peers.pool(one, abs, ended, workers=1, chunk=1)),
            Row("ProcessPoolExecutor", lambda _: peers.executor(one, abs, ended, workers=1, chunk=1)),
            Row("pypeln", lambda _: peers.pypeln(one, [(abs, 1)], ended), needs=("pypeln",)),
            Row("mpire", lambda _: peers.mpire(one, abs, ended, workers=1, length=1, chunk=1), needs=("mpire",)),
            Row("joblib", lambda _: peers.parallel(one, abs, ended, workers=2), needs=("joblib",)),
        ),
        items=1,
        quick=1,
        figure=lambda outcome, _: outcome.wall,
        check=check,
        limit=LIMIT,
        smaller=True,
    ),
)
