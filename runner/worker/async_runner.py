"""`async def`: many items at a time on the worker's event loop.

Every item, or batch, is a lease of its own, so each is acked when it has finished, in whatever order. Those that
finish in the same turn of the loop leave in one message, unless the task is ordered: then each takes its own outputs
along.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from runner.errors import TimedOut
from runner.forked_copies import ExitOnTouch
from runner.transport.item_codec import SMALL_TYPES
from runner.transport.messages import PICKLED, Ack, Reply
from runner.worker.call import make_batch_failure, split_batches
from runner.worker.failure import WORKER_ENDING_ERRORS, make_failure
from runner.worker.returned_values import check_result, yields_items
from runner.worker.runtime import all_encoded_items, decode_item, object_of
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.transport import item_codec
    from runner.transport.messages import Failure, Grant, GrantedRange
    from runner.worker.runtime import WorkerRuntime


def call_on_event_loop(
    runtime: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Execute grants on the worker's event loop until the inputs have ended."""
    runner = AsyncRunner(runtime, target, args, kwargs)
    try:
        runtime.event_loop().run(runner.run_until_ended())
    except KeyboardInterrupt as error:  # of a task that the function has started: asyncio lets it end the loop
        raise SystemExit("a KeyboardInterrupt has ended the event loop") from error
    finally:  # what is cancelled when the loop is closed has not failed: it is given again
        runner.loop_ended = True


class AsyncRunner:
    """The items in flight."""

    def __init__(
        self, runtime: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.runtime = runtime
        self.target, self.args, self.kwargs = target, args, kwargs
        self._concurrency = runtime.spec.concurrency
        self._has_limit = runtime.spec.timeout is not None
        self._collect = self._collect_within_limit if self._has_limit else self._collect_results
        #: The variables with which each item begins, whatever the ones before have set.
        self._context: contextvars.Context
        #: The tasks of items in flight; those that have ended in this turn of the loop still have their places.
        self.tasks: set[asyncio.Task[Any]] = set()
        self.ended_tasks: list[asyncio.Task[Any] | None] = []
        #: What has ended since the last reply, and how long it took.
        self.finished_items: list[tuple[Ack, float]] = []
        self.arrived_messages: deque[Any] = deque()
        #: Granted and not started: the next ones are here when a place gets free.
        self.waiting_items: deque[tuple[Any, ...]] = deque()
        self._run_waiting = self._run_item if runtime.spec.batch is None else self._run_batches
        self.wake_event = asyncio.Event()
        self.turn_due = self.wake_pending = self.loop_ended = False
        #: The payload that was decoded last, of the present message.
        self._payload: Any = None
        self._items: item_codec.EncodedItems = ()

    async def run_until_ended(self) -> None:
        """Start what is granted until the inputs have ended and every item is finished."""
        loop, self._context = asyncio.get_running_loop(), contextvars.copy_context()

        def deliver(message: Any) -> None:
            self.arrived_messages.append(message)
            if not self.wake_pending:  # else the loop is on its way, and takes this one too
                self.wake_pending = True
                with contextlib.suppress(RuntimeError):  # it is closed: this life is over
                    loop.call_soon_threadsafe(self.wake_event.set)

        def abandon() -> None:  # a copy that a function has forked ends when it comes back to the loop
            setattr(loop, "_ready", ExitOnTouch())  # noqa: B010  asyncio's own; a loop of another kind may refuse

        self.runtime.fork_cleanups.append(abandon)
        self.runtime.port.start_listening(deliver)
        while not self.runtime.inputs_ended or self.tasks or self.waiting_items:
            await self.wake_event.wait()
            self.wake_event.clear()
            self.wake_pending = False
            while self.arrived_messages:
                self._take_message(self.arrived_messages.popleft())
            self._start_waiting()
        self._send_finished()

    def _take_message(self, message: Any) -> None:
        if message is None:  # the supervisor is gone: what is in flight is cancelled
            raise SupervisorGone
        grant = self.runtime.handle_message(message)
        for each in (grant, *grant.other_grants) if grant is not None else ():
            self._queue_grant(each)
        self._payload, self._items = None, ()  # they must not live as long as the worker waits

    def _queue_grant(self, grant: Grant) -> None:
        if self.runtime.spec.batch is not None:
            self.waiting_items.append((grant,))
            return
        for part in grant.parts:
            # bench async: without it 1.04, with it 1. Neighbours come from one payload, decoded once, not for each.
            if part.payload is not self._payload or part.payload_kind != PICKLED:
                self._payload, self._items = part.payload, all_encoded_items(part)
            for index in range(part.start, part.start + part.count):
                self.waiting_items.append((grant.lease, part, index, self._items[index]))

    def _start_waiting(self) -> None:
        """Start what waits, up to the task's `concurrency`."""
        loop = asyncio.get_running_loop()
        while self.waiting_items and len(self.tasks) < self._concurrency:
            self.tasks.add(loop.create_task(self._run_waiting(*self.waiting_items.popleft())))

    async def _run_item(self, lease: int, part: GrantedRange, index: int, encoded: Any) -> None:
        runtime = self.runtime
        began = perf_counter()
        kwargs = self.kwargs
        if runtime.call_shape.context:
            kwargs = {**kwargs, runtime.call_shape.context: runtime.context.copy_for_item(part, index)}
        outputs: list[Any] = []
        failures: tuple[Failure, ...] = ()
        item: Any = encoded
        if part.crashes:
            runtime.send_suspect_preview(lease, part, encoded)
        try:
            item = decode_item(part, encoded)
            if self._has_limit:
                await self._collect_within_limit(item, kwargs, outputs)
            else:  # `_collect_results` without its coroutine. bench async in a thread: with it 1.1, without 1
                result = self.target(item, *self.args, **kwargs)
                if hasattr(type(result), "__await__"):
                    result = await result
                if type(result) in SMALL_TYPES:
                    outputs.append(result)
                else:
                    await self._take_result(result, outputs)
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # whatever the user's function raises
            if self.loop_ended:
                raise
            failure = make_failure(runtime.spec, 0, 1, error, item, part.attempt, objects=[object_of(part, encoded)])
            if failure.verdict == "retry":
                outputs.clear()
            failures = (failure,)
        busy = perf_counter() - began
        failures = self._emit_outputs(outputs, item, part, encoded) or failures
        self._note_end(Ack(lease, 1, failures), busy)

    async def _run_batches(self, grant: Grant) -> None:
        """Execute a grant's batch; if its bytes are too many for one, several, one after another.

        What they give is taken when all have ended, so that it leaves with the end of the lease.
        """
        spec, stops = self.runtime.spec, self.runtime.spec.stops_at_failure
        began = perf_counter()
        failures: dict[int, Failure] = {}
        given: list[tuple[int, list[Any], Callable[[BaseException], Failure]]] = []
        done = 0
        for batch in split_batches(spec, grant):
            if failures and stops:  # the rest is handed back
                break
            items: list[Any] = []
            outputs: list[Any] = []
            failure_of: Callable[[BaseException], Failure] = partial(make_batch_failure, spec, batch, items, done)
            if failure := await self._run_batch(grant, batch, items, outputs, failure_of):
                failures[done] = failure
            given.append((done, outputs, failure_of))
            done += len(batch)
        busy = perf_counter() - began
        for at, outputs, failure_of in given:  # without an `await` between this and the reply
            if failure := self._emit_all(outputs, failure_of):
                failures[at] = failure
                if stops:
                    done = at + failure.count
                    break
        self._note_end(Ack(grant.lease, done, tuple(failures[at] for at in sorted(failures) if at < done)), busy)

    async def _run_batch(
        self,
        grant: Grant,
        batch: list[tuple[GrantedRange, int, Any]],
        items: list[Any],
        outputs: list[Any],
        failure_of: Callable[[BaseException], Failure],
    ) -> Failure | None:
        """Call the function for one batch, in `items`; return its failure. What it gives is in `outputs`."""
        runtime, kwargs = self.runtime, self.kwargs
        part, index, encoded = batch[0]
        if runtime.call_shape.context:
            kwargs = {**kwargs, runtime.call_shape.context: runtime.context.copy_for_item(part, index)}
        runtime.send_suspect_preview(grant.lease, part, encoded)
        try:
            items.extend([decode_item(each, travelled) for each, _, travelled in batch])
            await self._collect(items, kwargs, outputs)
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # whatever the user's function raises
            if self.loop_ended:
                raise
            failure = failure_of(error)
            if failure.verdict == "retry":
                outputs.clear()
            return failure
        return None

    def _note_end(self, ack: Ack, busy: float) -> None:
        """Note that an item, or a batch, has ended in the present task of the loop."""
        self.ended_tasks.append(asyncio.current_task())
        self.finished_items.append((ack, busy))
        if self.runtime.spec.ordered:
            self._send_finished()
        if not self.turn_due:
            self.turn_due = True
            asyncio.get_running_loop().call_soon(self._end_turn, context=self._context)

    async def _collect_within_limit(self, item: Any, kwargs: dict[str, Any], outputs: list[Any]) -> None:
        """Call the function within its time limit; what came before an error stays in `outputs`."""
        limit = self.runtime.spec.timeout
        try:
            async with asyncio.timeout(limit) as scope:
                await self._collect_results(item, kwargs, outputs)
        except TimeoutError:
            if not scope.expired():  # the function's own
                raise
            raise TimedOut(f"it took longer than its time limit of {limit:g} s") from None

    async def _collect_results(self, item: Any, kwargs: dict[str, Any], outputs: list[Any]) -> None:
        """Call the function; what came before an error stays in `outputs`."""
        result = self.target(item, *self.args, **kwargs)
        if hasattr(type(result), "__await__"):
            result = await result
        await self._take_result(result, outputs)

    async def _take_result(self, result: Any, outputs: list[Any]) -> None:
        """Take what a call has given: its items, or the one that it is."""
        if hasattr(type(result), "__anext__"):
            async for each in result:
                outputs.append(each)  # noqa: PERF401  a comprehension would lose them all with an error
        elif yields_items(type(result)):
            outputs.extend(result)
        else:
            outputs.append(result)

    def _emit_outputs(self, outputs: list[Any], item: Any, part: GrantedRange, encoded: Any) -> tuple[Failure, ...]:
        """Take what an item has given, as it is now; return the failure of an item whose outputs cannot be sent."""

        def failure_of(error: BaseException) -> Failure:
            objects = [object_of(part, encoded)]
            return make_failure(self.runtime.spec, 0, 1, error, item, part.attempt, objects=objects)

        failure = self._emit_all(outputs, failure_of)
        return () if failure is None else (failure,)

    def _emit_all(self, outputs: list[Any], failure_of: Callable[[BaseException], Failure]) -> Failure | None:
        output_buffer = self.runtime.output_buffer
        mark = output_buffer.rollback_mark()
        emit = output_buffer.emit_item if self.runtime.spec.output_groups else check_result
        try:
            for each in outputs:
                emit(each)
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:  # noqa: BLE001  it cannot be pickled, or names no port
            failure = failure_of(error)
            if failure.verdict == "retry":
                output_buffer.roll_back_to(mark)
            return failure
        return None

    def _end_turn(self) -> None:
        """Give the places of what has ended to the next items, and reply once these are under way.

        bench async, a worker's loop alone: without it (and with `asyncio.timeout` around all items) 1.23, with it 1.
        """
        self.turn_due = False
        self.tasks.difference_update(self.ended_tasks)
        self.ended_tasks.clear()
        self._start_waiting()
        if self.runtime.inputs_ended and not self.tasks:
            self.wake_event.set()
        asyncio.get_running_loop().call_soon(self._send_finished)

    def _send_finished(self) -> None:
        if not self.finished_items:
            return
        finished, self.finished_items = self.finished_items, []
        busy_seconds = 0.0
        for ack, busy in finished:
            self.runtime.measurements.record_items(busy, ack.done)
            busy_seconds += busy
        acks = tuple([ack for ack, _ in finished])
        self.runtime.port.send(Reply(acks, self.runtime.output_buffer.take_outputs(), busy_seconds))
        self.runtime.measurements.report_when_due(perf_counter())
