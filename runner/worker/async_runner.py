"""`async def`: many items at a time on the worker's event loop.

Every item is a lease of its own, so each is acked when it has finished, in whatever order. Those that finish in the
same turn of the loop leave in one message, unless the task is ordered: then each takes its own outputs along.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from runner.errors import TimedOut
from runner.forked_copies import Over
from runner.transport.messages import PICKLED, Ack, Answer
from runner.worker.failure import ENDS, failure
from runner.worker.returned_values import check_result, iterates
from runner.worker.runtime import thaw, whole
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.transport import item_codec
    from runner.transport.messages import Failure, Grant, Part
    from runner.worker.runtime import Bench


def work(bench: Bench, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Execute grants on the worker's event loop until the inputs have ended."""
    flight = Flight(bench, target, args, kwargs)
    try:
        bench.loop().run(flight.fly())
    except KeyboardInterrupt as error:  # of a task that the function has started: asyncio lets it end the loop
        raise SystemExit("a KeyboardInterrupt has ended the event loop") from error
    finally:  # what is cancelled when the loop is closed has not failed: it is given again
        flight.over = True


class Flight:
    """The items in flight."""

    def __init__(self, bench: Bench, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.bench = bench
        self.target, self.args, self.kwargs = target, args, kwargs
        self.acks: list[Ack] = []
        self.busy = 0.0
        self.tasks: set[asyncio.Task[None]] = set()
        self.arrived: deque[Any] = deque()
        #: Granted and not started: the next ones are here when a place gets free.
        self.waiting: deque[tuple[int, Part, int, Any]] = deque()
        self.wake = asyncio.Event()
        self.flush_due = self.waking = self.over = False
        self.payload: Any = None
        self.items: item_codec.Frozen = ()

    async def fly(self) -> None:
        """Start what is granted until the inputs have ended and everything has landed."""
        loop = asyncio.get_running_loop()

        def deliver(message: Any) -> None:
            self.arrived.append(message)
            if not self.waking:  # else the loop is on its way, and takes this one too
                self.waking = True
                with contextlib.suppress(RuntimeError):  # it is closed: this life is over
                    loop.call_soon_threadsafe(self.wake.set)

        def abandon() -> None:  # a copy that a function has forked ends when it comes back to the loop
            setattr(loop, "_ready", Over())  # noqa: B010  asyncio's own; a loop of another kind may refuse

        self.bench.loose.append(abandon)
        self.bench.port.listen(deliver)
        while not self.bench.ended or self.tasks or self.waiting:
            await self.wake.wait()
            self.wake.clear()
            self.waking = False
            while self.arrived:
                message = self.arrived.popleft()
                if message is None:  # nobody will ever answer: what is in flight is cancelled
                    raise SupervisorGone
                grant = self.bench.hear(message)
                for each in (grant, *grant.others) if grant is not None else ():
                    self._queue(each)
            self._launch()
        self._flush()

    def _queue(self, grant: Grant) -> None:
        for part in grant.parts:
            if part.payload is not self.payload or part.kind != PICKLED:  # neighbours' items come from one payload
                self.payload, self.items = part.payload, whole(part)
            for index in range(part.start, part.start + part.count):
                self.waiting.append((grant.lease, part, index, self.items[index]))

    def _launch(self) -> None:
        """Start what waits, up to the task's `concurrency`."""
        loop = asyncio.get_running_loop()
        while self.waiting and len(self.tasks) < self.bench.spec.concurrency:
            task = loop.create_task(self._one(*self.waiting.popleft()))
            self.tasks.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._launch()
        if self.bench.ended and not self.tasks:
            self.wake.set()

    async def _one(self, lease: int, part: Part, index: int, frozen: Any) -> None:
        bench = self.bench
        began = perf_counter()
        kwargs = self.kwargs
        if bench.form.context:
            kwargs = {**kwargs, bench.form.context: bench.context.for_item(part, index)}
        outputs: list[Any] = []
        failures: tuple[Failure, ...] = ()
        item: Any = frozen
        if part.crashes:
            bench.show_suspect(lease, part, frozen)
        try:
            item = thaw(part, frozen)
            await self._call(item, kwargs, outputs)
        except ENDS:
            raise
        except BaseException as error:  # whatever the user's function raises
            if self.over:
                raise
            fault = failure(bench.spec, 0, 1, error, item, part.attempt)
            if fault.verdict == "retry":
                outputs.clear()
            failures = (fault,)
        busy = perf_counter() - began
        bench.meter.took(busy, 1)
        self._land(lease, outputs, failures, busy, item, part)

    async def _call(self, item: Any, kwargs: dict[str, Any], outputs: list[Any]) -> None:
        limit = self.bench.spec.timeout
        try:
            async with asyncio.timeout(limit) as scope:
                await self._execute(item, kwargs, outputs)
        except TimeoutError:
            if not scope.expired():  # the function's own
                raise
            raise TimedOut(f"it took longer than its time limit of {limit:g} s") from None

    async def _execute(self, item: Any, kwargs: dict[str, Any], outputs: list[Any]) -> None:
        result = self.target(item, *self.args, **kwargs)
        if hasattr(type(result), "__await__"):
            result = await result
        if hasattr(type(result), "__anext__"):
            async for each in result:
                outputs.append(each)  # noqa: PERF401  what came before an error must be kept
        elif iterates(type(result)):
            outputs.extend(result)  # item by item: what came before an error is kept
        else:
            outputs.append(result)

    def _land(
        self, lease: int, outputs: list[Any], failures: tuple[Any, ...], busy: float, item: Any, part: Part
    ) -> None:
        collector = self.bench.collector
        mark = collector.mark()
        emit = collector.emit if self.bench.spec.groups else check_result
        if outputs:
            try:
                for each in outputs:
                    emit(each)
            except ENDS:
                raise
            except BaseException as error:  # noqa: BLE001  it cannot be pickled, or names no port
                fault = failure(self.bench.spec, 0, 1, error, item, part.attempt)
                if fault.verdict == "retry":
                    collector.rollback(mark)
                failures = (fault,)
        self.acks.append(Ack(lease, 1, failures))
        self.busy += busy
        if self.bench.spec.ordered:
            self._flush()
        elif not self.flush_due:
            self.flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self.flush_due = False
        if self.acks:
            acks, self.acks = tuple(self.acks), []
            busy, self.busy = self.busy, 0.0
            self.bench.port.send(Answer(acks, self.bench.collector.take(), busy))
            self.bench.meter.tell(perf_counter())
