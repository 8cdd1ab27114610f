"""A task without inputs: a generator's items, a returned value, or what a function puts into its Outbox.

    generator ──▶ buffer ──▶ Made ──▶ supervisor
                     ▲                    │
                     └──── Credit ◀───────┘   (also the ack: everything sent so far has arrived)

An item leaves at once when nothing of this worker is under way; what is made meanwhile leaves together, with the
next credit. The credit is read in a thread of its own, so that nothing stays behind while the generator blocks.
Nothing is made without credit, so a queue's bound holds exactly here.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from time import perf_counter
from types import AsyncGeneratorType, GeneratorType
from typing import TYPE_CHECKING, Any

from runner.tasks import Outbox
from runner.transport import codec
from runner.transport.messages import Credit, Made
from runner.worker.collect import MOST_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.worker.bench import Bench


class RunStopping(BaseException):
    """Raised where a source waits for room when the run is stopping; closes its generator."""


class Tap:
    """Where a source's items leave, within its credit."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.collector = bench.collector
        self.lock = threading.Lock()
        self.room = threading.Condition(self.lock)
        #: How many items may have been made, and how many were sent; `idle[0]`: nothing is under way.
        self.total = 0
        self.sent = 0
        self.idle = [True]
        self.made = 0
        self._since = perf_counter()
        bench.port.listen(self.hear)

    def hear(self, message: Any) -> None:
        """A message, in another thread than the function's."""
        with self.lock:
            self.bench.hear(message)
            if self.bench.context.stopping:
                self.total = -1  # so that the next item asks for room, and learns it
            elif isinstance(message, Credit):
                self.total = max(self.total, message.total)
                if self.made > self.sent:
                    self._send()
                else:
                    self.idle[0] = True
            self.room.notify_all()

    def _send(self) -> None:
        now = perf_counter()
        outputs = self.collector.take()
        # Counted from what was taken: the function's thread may be between its append and its count.
        items = self.made - self.sent if len(self.bench.spec.groups) != 1 else sum(each.count for each in outputs)
        self.sent += items
        self.idle[0] = False
        self.bench.port.send(Made(items, outputs, now - self._since))
        self._since = now

    def flush(self) -> None:
        """Send what has been made."""
        with self.lock:
            if self.made > self.sent:
                self._send()

    def reserve(self, timeout: float | None = None) -> bool:
        """Wait for credit for one more item; send what is there first, because the credit may depend on it."""
        with self.room:
            if self.made >= self.total or self.collector.size >= MOST_BYTES:
                if self.made > self.sent and (self.idle[0] or self.made >= self.total):
                    self._send()
                enough = self.room.wait_for(self._may_make, timeout)
                if self.bench.context.stopping:
                    raise RunStopping
                return enough
            if self.bench.context.stopping:
                raise RunStopping
            return True

    def _may_make(self) -> bool:
        if self.bench.context.stopping:
            return True
        return self.made < self.total and (self.collector.size < MOST_BYTES or self.made == self.sent)

    def emit(self, item: Any) -> None:
        """One item, for which credit has been reserved."""
        with self.lock:
            self.collector.emit(item)
            self.made += 1
            if self.idle[0]:
                self._send()

    def pour(self, items: GeneratorType[Any, Any, Any]) -> None:
        """All items of a generator. The loop's fast path is for small values into one ordinary group."""
        self.reserve()
        direct, small, idle = self.collector.direct, codec.SMALL, self.idle
        for item in items:
            if direct is not None and item.__class__ in small:
                direct.append(item)
                self.made += 1
                if idle[0]:
                    self.flush()
                if self.made >= self.total:
                    self.reserve()
            else:
                self.emit(item)
                if self.made >= self.total or self.collector.size >= MOST_BYTES:
                    self.reserve()
        self.flush()


class SourceOutbox(Outbox[Any]):
    """`runner.Outbox` of a task without inputs: `put` waits for room."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Send an item; `queue.Full` when there was no room within `timeout` seconds."""
        if not self._tap.reserve(timeout if block else 0):
            raise queue.Full
        self._tap.emit(item)


def work(bench: Bench, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function once and send what it makes; its result, when it is none of that."""
    tap = Tap(bench)
    kwargs = {**kwargs, **dict.fromkeys(bench.form.outboxes, SourceOutbox(tap))}
    bench.show((1 << 63) | bench.spec.slot)
    try:
        result = target(*args, **kwargs)
        if isinstance(result, GeneratorType):
            return _pour(tap, result)
        if isinstance(result, AsyncGeneratorType):
            return asyncio.run(_apour(tap, result))
        if asyncio.iscoroutine(result):
            result = asyncio.run(result)
        if bench.spec.groups and not bench.form.outboxes:
            tap.reserve()
            tap.emit(result)
            result = None
    except RunStopping:
        result = None
    finally:
        tap.flush()
        bench.show(0)
    return result


def _pour(tap: Tap, items: GeneratorType[Any, Any, Any]) -> Any:
    if not tap.bench.spec.groups:
        return _last(items)
    try:
        tap.pour(items)
    finally:
        items.close()
    return None


def _last(items: GeneratorType[Any, Any, Any]) -> Any:
    """A generator of a task without outputs: run it; its return value is the result."""
    while True:
        try:
            next(items)
        except StopIteration as end:
            return end.value


async def _apour(tap: Tap, items: AsyncGeneratorType[Any, Any]) -> None:
    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, tap.reserve)
        async for item in items:
            tap.emit(item)
            if tap.made >= tap.total or tap.collector.size >= MOST_BYTES:
                await loop.run_in_executor(None, tap.reserve)
    finally:
        await items.aclose()
        tap.flush()
