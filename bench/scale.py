"""What the supervisor costs as a run grows: `python -m bench.scale [--quick] [--markdown FILE]`.

The supervisor is the real one; its workers are not there: whatever it sends is answered at once, by a few lines here,
and one event at a time, as on a machine that is not busy (events that come together share a turn, and cost less).
So all that is measured is the supervisor's own thread: CPU time, the best of several rounds, in microseconds for each
chunk it hears of: one that a worker has executed, whose result goes into the next queue and who gets another, or one
that a source has made.
"""

from __future__ import annotations

import argparse
import gc
import selectors
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.chunk_sizing import time_slice_for
from runner.engines.engine_events import ExitStatus, MessageReceived, WorkerExited
from runner.model import OutputPort, QueueConfig, RunSettings, TaskConfig
from runner.supervisor.loop import Supervisor
from runner.supervisor.plan import Plan, TaskPlan
from runner.tasks import Reference, Shape
from runner.transport.framing import pack_message
from runner.transport.item_codec import encode_values
from runner.transport.messages import (
    PICKLED,
    Ack,
    Credit,
    Finished,
    Grant,
    GrantedRange,
    Output,
    Produced,
    Ready,
    Reply,
    Stop,
)
from runner.transport.progress_page import Position
from runner.transport.socket_link import SupervisorLink, connected_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

#: Items of a chunk: workers say that so many take one slice.
ITEMS = 20


# -- a fleet that answers at once -----------------------------------------------------------------


class SetClock:
    """A clock that shows what it was last set to."""

    seconds = 0.0

    def now(self) -> float:
        return self.seconds


class Hub:
    """Hands out what the fleet has said, one event at a time."""

    def __init__(self, clock: SetClock) -> None:
        self.clock = clock
        self.events: deque[Any] = deque()

    def wait(self, timeout: float | None) -> list[Any]:
        """The next event."""
        self.clock.seconds += 1e-6
        if not self.events:
            assert timeout is not None, "it waits for ever"
            self.clock.seconds += timeout
            return []
        return [self.events.popleft()]

    def suspend_process(self) -> None:
        """Nobody stops this run."""


class Fleet:
    """Workers that have always done already what they are asked to do; sources make `count` items each."""

    def __init__(self, hub: Hub, count: int, cost: float) -> None:
        self.hub, self.count, self.cost = hub, count, cost
        self.specs: dict[int, Any] = {}
        self.made: dict[int, int] = {}
        self.messages = 0

    def start(self, spec: Any, life: int) -> int:
        """Ready at once."""
        self.specs[spec.slot] = spec
        self.made[spec.slot] = 0
        self._say(spec.slot, Ready(1))
        return 1

    def _say(self, slot: int, message: Any) -> None:
        self.messages += isinstance(message, (Reply, Produced))
        self.hub.events.append(MessageReceived(slot, 1, message))

    def send(self, slot: int, message: Any) -> None:
        """Answer at once."""
        if isinstance(message, Grant):
            outputs = self._outputs(slot, count := message.count)
            self._say(slot, Reply((Ack(message.lease, count),), outputs, self.cost * count))
        elif isinstance(message, Credit):
            count = min(message.total_items, self.count) - self.made[slot]
            if count > 0:
                self.made[slot] += count
                self._say(slot, Produced(count, self._outputs(slot, count), 0.0))
            if self.made[slot] == self.count:
                self._end(slot)
        elif isinstance(message, Stop):
            self._end(slot)

    def _outputs(self, slot: int, count: int) -> tuple[Output, ...]:
        groups = self.specs[slot].output_groups
        return tuple([Output(at, count, 8 * count, b"") for at, group in enumerate(groups) if group.port != "never"])

    def _end(self, slot: int) -> None:
        if self.specs.pop(slot, None) is not None:
            self._say(slot, Finished())
            self.hub.events.append(WorkerExited(slot, 1, ExitStatus(code=0), Position(0, 0)))

    def kill(self, slot: int) -> bool:
        """Nobody is killed."""
        return True

    def current_position(self, slot: int) -> Position:
        """Nowhere."""
        return Position(0, 0)

    def resident_bytes(self, slot: int) -> int:
        """None."""
        return 0

    def request_stack(self, slot: int) -> None:
        """Nothing to show."""

    def read_stack(self, slot: int) -> str:
        """Nothing to show."""
        return ""

    def pause_workers(self, *, going_on: bool) -> None:
        """Nothing to stop."""

    def close(self) -> None:
        """Nothing to close."""


# -- pipelines ------------------------------------------------------------------------------------


def task(name: str, inputs: Iterable[str] = (), outputs: Iterable[str] = (), workers: int = 1) -> TaskConfig:
    """One task of a file."""
    names = tuple(f"{name}-{at}" for at in range(workers))
    ports = (OutputPort("default", tuple(outputs)),) if outputs else ()
    return TaskConfig(
        name=name,
        call=name,
        inputs=tuple(inputs),
        ports=ports,
        mode="process",
        workers=names,
    )


def many_workers(workers: int) -> list[TaskConfig]:
    """One task with so many workers."""
    return [task("source", (), ["q"]), task("work", ["q"], workers=workers)]


def chain(tasks: int) -> list[TaskConfig]:
    """So many tasks, each behind the other."""
    inner = [task(f"t{at}", [f"q{at}"], [f"q{at + 1}"]) for at in range(tasks - 1)]
    return [task("source", (), ["q0"]), *inner, task(f"t{tasks - 1}", [f"q{tasks - 1}"])]


def parallel(tasks: int) -> list[TaskConfig]:
    """So many pipelines of a source and a task, side by side."""
    return [each for at in range(tasks) for each in (task(f"s{at}", (), [f"q{at}"]), task(f"t{at}", [f"q{at}"]))]


def shared(tasks: int) -> list[TaskConfig]:
    """So many tasks that read one queue."""
    return [task("source", (), ["q"]), *(task(f"t{at}", ["q"]) for at in range(tasks))]


def copied(queues: int) -> list[TaskConfig]:
    """A task that writes so many queues, each with a reader: every result is put into each of them."""
    names = [f"out{at}" for at in range(queues)]
    readers = [task(f"t{at}", [name]) for at, name in enumerate(names)]
    return [task("source", (), ["q"]), task("work", ["q"], names), *readers]


def gathered(writers: int) -> list[TaskConfig]:
    """So many sources that write one queue, and one task that reads it."""
    return [*(task(f"s{at}", (), ["q"]) for at in range(writers)), task("work", ["q"])]


def idle(tasks: int) -> list[TaskConfig]:
    """A source and a task at work, beside a chain of so many that never get anything and cannot end yet."""
    work = replace(task("work", ["q"]), ports=(OutputPort("never", ("i0",)),))
    inner = [task(f"t{at}", [f"i{at}"], [f"i{at + 1}"]) for at in range(tasks)]
    return [task("source", (), ["q"]), work, *inner, task("last", [f"i{tasks}"])]


# -- measuring ------------------------------------------------------------------------------------


def once(tasks: list[TaskConfig], count: int) -> tuple[float, int]:
    """CPU seconds of one run whose sources make `count` items each, and the chunks it heard of."""
    names = sorted({name for each in tasks for name in (*each.inputs, *each.outputs)})
    plans = {each.name: TaskPlan(each, "process", Reference("x", each.name), Shape("function"), b"") for each in tasks}
    queues = {name: QueueConfig(name, elastic=True) for name in names}
    workers = max(len(each.workers) for each in tasks)
    clock = SetClock()
    hub = Hub(clock)
    fleet = Fleet(hub, count, time_slice_for(workers) / ITEMS)
    plan = Plan("scale", "scale", RunSettings(state=Path("x")), queues, plans)
    supervisor = Supervisor(plan, {"process": fleet}, hub, clock, lambda _: None)
    gc.collect()
    gc.disable()
    try:
        began = time.thread_time()
        result = supervisor.run()
        return time.thread_time() - began, fleet.messages
    finally:
        gc.enable()
        assert result.exit_code == 0, result


@dataclass(frozen=True)
class Point:
    """One size of a run: microseconds for each chunk, and for everything else (its start and its end)."""

    size: int
    chunk: float
    fixed: float


def point(size: int, tasks: list[TaskConfig], count: int, rounds: int) -> Point:
    """A long run, and one with next to nothing in it, tell what a chunk costs, and what the rest."""
    runs = [[once(tasks, items) for _ in range(rounds)] for items in (1, count)]
    (short, few), (long, many) = (min(run) for run in runs)
    chunk = (long - short) / (many - few)
    return Point(size, chunk * 1e6, max(0.0, short - few * chunk) * 1e6)


@dataclass(frozen=True)
class Axis:
    """One way in which runs grow; `count(size)`: items for each source."""

    name: str
    what: str
    tasks: Callable[[int], list[TaskConfig]]
    count: Callable[[int], int]
    sizes: tuple[int, ...]


def _items(total: int, times: int) -> int:
    return ITEMS * max(10, total // times)


def axes(quick: bool) -> list[Axis]:
    """All of them."""
    total = 2000 if quick else 8000  # chunks in a run
    crowd = (1, 4, 16, 64, 256, 1024)
    few = (1, 5, 20, 50, 100, 200)
    return [
        Axis("items", "chunks", lambda _: many_workers(2), lambda size: ITEMS * size, (1000, 2000, 4000, 8000, 16000)),
        Axis("workers", "workers of one task", many_workers, lambda size: ITEMS * max(total, 20 * size), crowd),
        Axis("chain", "tasks in a chain", chain, lambda size: _items(total, size), few),
        Axis("parallel", "pipelines side by side", parallel, lambda size: _items(total, size), few),
        Axis("shared", "tasks that share a queue", shared, lambda size: _items(total, 1), few),
        Axis("gathered", "sources that write one queue", gathered, lambda size: _items(total, size), few),
        Axis("copied", "queues that get each result", copied, lambda size: _items(total, size), few),
        Axis("idle", "idle tasks and queues beside", idle, lambda size: _items(total, 1), few),
    ]


def fit(points: list[Point], value: Callable[[Point], float]) -> tuple[float, float]:
    """The line through some points: value = a + b * size, by least relative squares."""
    weights = [1 / max(value(each), 1e-9) ** 2 for each in points]
    xs, ys = [float(each.size) for each in points], [value(each) for each in points]
    total = sum(weights)
    x, y = (sum(w * v for w, v in zip(weights, vs, strict=True)) / total for vs in (xs, ys))
    spread = sum(w * (v - x) ** 2 for w, v in zip(weights, xs, strict=True))
    b = sum(w * (v - x) * (u - y) for w, v, u in zip(weights, xs, ys, strict=True)) / spread
    return y - b * x, b


def wire(rounds: int, repeats: int = 3000) -> float:
    """Microseconds of the supervisor's side of one chunk's messages: frames, the socket's kernel calls, a selector."""
    best = 1e9
    payload = encode_values(list(range(1000)), {int})
    ours, theirs = connected_pair()
    theirs.setblocking(True)
    link, selector, sink = SupervisorLink(ours), selectors.DefaultSelector(), bytearray(1 << 20)
    selector.register(link.fileno(), selectors.EVENT_READ)
    answer = b"".join(
        bytes(part) for part in pack_message(Reply((Ack(1, 1000),), (Output(0, 1000, 8000, payload),), 0.01))
    )
    grant = Grant(1, 0.02, (GrantedRange(1, 0, 1000, 1, 0, PICKLED, payload),))
    for _ in range(rounds):
        spent = 0.0
        for _ in range(repeats):
            theirs.sendall(answer)
            began = time.thread_time()
            selector.select(0)
            link.receive()
            link.send(grant)
            spent += time.thread_time() - began
            theirs.recv_into(sink)
        best = min(best, spent / repeats * 1e6)
    timer = time.thread_time()
    for _ in range(repeats):
        time.thread_time()
    link.close()
    theirs.close()
    selector.close()
    return best - (time.thread_time() - timer) / repeats * 1e6


def table(found: dict[str, list[Point]], all_axes: list[Axis]) -> str:
    """Markdown: for each way to grow, what a chunk costs at each size, and the line through it."""
    lines = ["| as there are more | size | us a chunk | start and end, ms |", "|---|---:|---:|---:|"]
    for axis in all_axes:
        for at, each in enumerate(found[axis.name]):
            name = "" if at else axis.what
            lines.append(f"| {name} | {each.size:,} | {each.chunk:.1f} | {each.fixed / 1000:.2f} |")
    lines += ["", "| as there are more | us a chunk = a + b n | start and end, us = a + b n |", "|---|---:|---:|"]
    for axis in all_axes:
        points = found[axis.name]
        (a, b), (c, d) = fit(points, lambda each: each.chunk), fit(points, lambda each: each.fixed)
        fixed = "constant" if axis.name == "items" else f"{c:.0f} + {d:.0f} n"
        lines.append(f"| {axis.what} | {a:.1f} + {b:.4f} n | {fixed} |")
    return "\n".join(lines)


def ends(chunk: float) -> str:
    """Where one supervisor ends, when a chunk costs it so many microseconds in all."""
    lines = [
        "| busy | chunks a second | workers that it feeds, by slice: 20 ms | 100 ms | 1 s |",
        "|---:|---:|---:|---:|---:|",
    ]
    for busy in (0.1, 1.0):
        rate = busy / chunk * 1e6
        lines.append(
            f"| {busy:.0%} | {rate:,.0f} | " + " | ".join(f"{rate * each:,.0f}" for each in (0.02, 0.1, 1)) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("axes", nargs="*", help="only these")
    parser.add_argument("--quick", action="store_true", help="shorter runs, fewer rounds")
    parser.add_argument("--markdown", type=Path, help="write the tables there too")
    given = parser.parse_args()
    rounds = 2 if given.quick else 5
    chosen = [each for each in axes(given.quick) if not given.axes or each.name in given.axes]
    found: dict[str, list[Point]] = {}
    for axis in chosen:
        found[axis.name] = [point(size, axis.tasks(size), axis.count(size), rounds) for size in axis.sizes]
        seen = "  ".join(f"{each.size}: {each.chunk:.1f} + {each.fixed / 1000:.1f} ms" for each in found[axis.name])
        print(f"{axis.name}: {seen}", file=sys.stderr)
    text = table(found, chosen)
    socket = wire(rounds)
    crowd = found.get("workers") or next(iter(found.values()))
    decide = statistics.median(each.chunk for each in crowd)
    text += f"\n\nTo decide: {decide:.0f} us a chunk. Messages and their way through the kernel: {socket:.0f} us.\n\n"
    text += ends(decide + socket)
    print(text)
    if given.markdown:
        given.markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
