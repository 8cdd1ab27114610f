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
from runner.forked_copies import ExitOnTouch
from runner.transport.messages import PICKLED, Ack, Reply
from runner.worker.failure import WORKER_ENDING_ERRORS, make_failure
from runner.worker.returned_values import check_result, yields_items
from runner.worker.runtime import all_encoded_items, decode_item
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.transport import item_codec
    from runner.transport.messages import Failure, Grant, GrantedRange
    from runner.worker.runtime import WorkerRuntime


def call_on_event_loop(
    bench: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Execute grants on the worker's event loop until the inputs have ended."""
    flight = AsyncRunner(bench, target, args, kwargs)
    try:
        bench.event_loop().run(flight.run_until_ended())
    except KeyboardInterrupt as error:  # of a task that the function has started: asyncio lets it end the loop
        raise SystemExit("a KeyboardInterrupt has ended the event loop") from error
    finally:  # what is cancelled when the loop is closed has not failed: it is given again
        flight.loop_ended = True


class AsyncRunner:
    """The items in flight."""

    def __init__(
        self, bench: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.bench = bench
        self.target, self.args, self.kwargs = target, args, kwargs
        self.acks: list[Ack] = []
        self.busy_seconds = 0.0
        self.tasks: set[asyncio.Task[None]] = set()
        self.arrived_messages: deque[Any] = deque()
        #: Granted and not started: the next ones are here when a place gets free.
        self.waiting_items: deque[tuple[int, GrantedRange, int, Any]] = deque()
        self.wake_event = asyncio.Event()
        self.flush_due = self.wake_pending = self.loop_ended = False
        self.payload: Any = None
        self.items: item_codec.EncodedItems = ()

    async def run_until_ended(self) -> None:
        """Start what is granted until the inputs have ended and everything has landed."""
        loop = asyncio.get_running_loop()

        def deliver(message: Any) -> None:
            self.arrived_messages.append(message)
            if not self.wake_pending:  # else the loop is on its way, and takes this one too
                self.wake_pending = True
                with contextlib.suppress(RuntimeError):  # it is closed: this life is over
                    loop.call_soon_threadsafe(self.wake_event.set)

        def abandon() -> None:  # a copy that a function has forked ends when it comes back to the loop
            setattr(loop, "_ready", ExitOnTouch())  # noqa: B010  asyncio's own; a loop of another kind may refuse

        self.bench.fork_cleanups.append(abandon)
        self.bench.port.start_listening(deliver)
        while not self.bench.inputs_ended or self.tasks or self.waiting_items:
            await self.wake_event.wait()
            self.wake_event.clear()
            self.wake_pending = False
            while self.arrived_messages:
                message = self.arrived_messages.popleft()
                if message is None:  # nobody will ever answer: what is in flight is cancelled
                    raise SupervisorGone
                grant = self.bench.handle_message(message)
                for each in (grant, *grant.other_grants) if grant is not None else ():
                    self._queue(each)
            self._launch()
        self._flush()

    def _queue(self, grant: Grant) -> None:
        for part in grant.parts:
            if (
                part.payload is not self.payload or part.payload_kind != PICKLED
            ):  # neighbours' items come from one payload
                self.payload, self.items = part.payload, all_encoded_items(part)
            for index in range(part.start, part.start + part.count):
                self.waiting_items.append((grant.lease, part, index, self.items[index]))

    def _launch(self) -> None:
        """Start what waits, up to the task's `concurrency`."""
        loop = asyncio.get_running_loop()
        while self.waiting_items and len(self.tasks) < self.bench.spec.concurrency:
            task = loop.create_task(self._one(*self.waiting_items.popleft()))
            self.tasks.add(task)
            task.add_done_callback(self._landed)

    def _landed(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._launch()
        if self.bench.inputs_ended and not self.tasks:
            self.wake_event.set()

    async def _one(self, lease: int, part: GrantedRange, index: int, frozen: Any) -> None:
        bench = self.bench
        began = perf_counter()
        kwargs = self.kwargs
        if bench.call_shape.context:
            kwargs = {**kwargs, bench.call_shape.context: bench.context.copy_for_item(part, index)}
        outputs: list[Any] = []
        failures: tuple[Failure, ...] = ()
        item: Any = frozen
        if part.crashes:
            bench.send_suspect_preview(lease, part, frozen)
        try:
            item = decode_item(part, frozen)
            await self._call(item, kwargs, outputs)
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # whatever the user's function raises
            if self.loop_ended:
                raise
            fault = make_failure(bench.spec, 0, 1, error, item, part.attempt)
            if fault.verdict == "retry":
                outputs.clear()
            failures = (fault,)
        busy = perf_counter() - began
        bench.measurements.record_items(busy, 1)
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
        elif yields_items(type(result)):
            outputs.extend(result)  # item by item: what came before an error is kept
        else:
            outputs.append(result)

    def _land(
        self, lease: int, outputs: list[Any], failures: tuple[Any, ...], busy: float, item: Any, part: GrantedRange
    ) -> None:
        collector = self.bench.output_buffer
        mark = collector.rollback_mark()
        emit = collector.emit_item if self.bench.spec.output_groups else check_result
        if outputs:
            try:
                for each in outputs:
                    emit(each)
            except WORKER_ENDING_ERRORS:
                raise
            except BaseException as error:  # noqa: BLE001  it cannot be pickled, or names no port
                fault = make_failure(self.bench.spec, 0, 1, error, item, part.attempt)
                if fault.verdict == "retry":
                    collector.roll_back_to(mark)
                failures = (fault,)
        self.acks.append(Ack(lease, 1, failures))
        self.busy_seconds += busy
        if self.bench.spec.ordered:
            self._flush()
        elif not self.flush_due:
            self.flush_due = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self.flush_due = False
        if self.acks:
            acks, self.acks = tuple(self.acks), []
            busy, self.busy_seconds = self.busy_seconds, 0.0
            self.bench.port.send(Reply(acks, self.bench.output_buffer.take_outputs(), busy))
            self.bench.measurements.report_when_due(perf_counter())
