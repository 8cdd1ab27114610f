"""A function that is given the queue ends themselves: `while True: inbox.get()`.

An item taken is done when the next one is asked for, or when the function returns. Its outputs leave together with
its ack, at the end of each grant; nothing is sent ahead. When the function raises, the item it took last has
failed, and the function is called again for the others.
"""

from __future__ import annotations

import inspect
import queue
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from runner.errors import ShutDown
from runner.tasks import Inbox, Outbox
from runner.transport.messages import Ack, Answer, Failure
from runner.worker.bench import flattened, thaw
from runner.worker.failure import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.transport.messages import Grant, Part
    from runner.worker.bench import Bench


class BoxInbox(Inbox[Any]):
    """`runner.Inbox` over the grants of one worker."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.grant: Grant | None = None
        self.waiting: deque[tuple[Part, int, Any]] = deque()
        self.done = 0
        self.taken: tuple[Part, int, Any] | None = None
        self.failures: list[Failure] = []
        self.began = perf_counter()
        self.mark = bench.collector.mark()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item; what was taken before counts as done."""
        self.task_done()
        if self.grant is not None and self.waiting and perf_counter() - self.began > 2 * self.grant.slice:
            self.settle()
        if not self.waiting:
            self._refill(block, timeout)
        part, index, frozen = self.taken = self.waiting.popleft()
        assert self.grant is not None
        self.bench.context.at(part, index)
        self.mark = self.bench.collector.mark()
        self.bench.show(self.grant.lease, self.done)
        if part.crashes:
            self.bench.show_suspect(self.grant.lease, part, frozen)
        return thaw(part, frozen)

    def _refill(self, block: bool, timeout: float | None) -> None:
        self.settle()
        limit = None if timeout is None else perf_counter() + timeout
        while not self.waiting:
            if self.bench.ended:
                raise ShutDown
            left = None if limit is None else max(0.0, limit - perf_counter())
            message = self.bench.port.receive(left if block else 0.0)
            if message is None:
                raise queue.Empty
            grant = self.bench.hear(message)
            if grant is not None:
                self.grant = grant
                self.waiting.extend(flattened(grant))
                self.began = perf_counter()

    def task_done(self) -> None:
        """The item taken last is done."""
        if self.taken is not None:
            self.taken = None
            self.done += 1

    def failed(self, error: Exception) -> bool:
        """The function has raised: blame the item it took last. False when it had taken none."""
        if self.taken is None:
            return False
        part, _, frozen = self.taken
        try:
            item = thaw(part, frozen)
        except Exception:  # noqa: BLE001  it may be the item that cannot be decoded
            item = frozen
        fault = failure(self.bench.spec, self.done, 1, error, item, part.attempt)
        if fault.verdict == "retry":
            self.bench.collector.rollback(self.mark)
        self.failures.append(fault)
        self.task_done()
        self.settle()
        return True

    def settle(self) -> None:
        """Answer for the grant at hand; what was not taken is handed back."""
        outputs = self.bench.collector.take()
        if self.grant is None and not outputs:
            return
        acks = () if self.grant is None else (Ack(self.grant.lease, self.done, tuple(self.failures)),)
        self.bench.show(0)
        now = perf_counter()
        self.bench.meter.took(now - self.began, self.done)
        self.bench.port.send(Answer(acks, outputs, now - self.began))
        self.bench.meter.tell(now)
        self.grant, self.done, self.failures = None, 0, []
        self.waiting.clear()

    def __iter__(self) -> Iterator[Any]:
        while True:
            try:
                yield self.get()
            except ShutDown:
                return


class BoxOutbox(Outbox[Any]):
    """`runner.Outbox` beside an inbox: what is put leaves with the ack of the item at hand, so it never waits."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002  as queue.Queue
        """Send an item."""
        self._bench.collector.emit(item)


def work(bench: Bench, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call the function with its boxes until it returns, or its inputs have ended."""
    inbox = BoxInbox(bench)
    given = {**dict.fromkeys(bench.form.inboxes, inbox), **dict.fromkeys(bench.form.outboxes, BoxOutbox(bench))}
    while True:
        try:
            result = target(*args, **kwargs, **given)
            if inspect.iscoroutine(result):
                import asyncio

                result = asyncio.run(result)
            break
        except ShutDown:
            result = None
            break
        except Exception as error:
            if not inbox.failed(error):
                raise
    inbox.task_done()
    inbox.settle()
    return result
