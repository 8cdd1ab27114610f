"""A function that is given the queue ends themselves: `while True: inbox.get()`.

An item taken is done when the next one is asked for, or when the function returns. Its outputs leave together with
its ack, at the end of each grant; nothing is sent ahead. When the function raises, the item it took last has
failed, and the function is called again for the others.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from itertools import chain, islice
from operator import length_hint
from threading import get_ident
from time import perf_counter
from typing import TYPE_CHECKING, Any

from runner.errors import ShutDown
from runner.tasks import Inbox, Outbox
from runner.transport import item_codec
from runner.transport.messages import Ack, Failure, Reply
from runner.transport.progress_page import pack_burst
from runner.worker.failure import WORKER_ENDING_ERRORS, make_failure
from runner.worker.measurements import SLOW_SECONDS, ClockPace
from runner.worker.outbox_threads import outbox_until_released
from runner.worker.outputs import OutputBuffer
from runner.worker.returned_values import check_result
from runner.worker.runtime import decode_if_possible, encoded_items, item_decoder, object_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.transport.messages import Grant, GrantedRange
    from runner.worker.runtime import WorkerRuntime

#: Items after which a loop looks at the clock. bench an inbox of numbers: without bursts 3.7, with them 1.
_ITEMS_PER_CLOCK_CHECK = 128


class PullInbox(Inbox[Any]):
    """`runner.Inbox` over the grants of one worker.

    A loop over quick items is as hot as the loop of a worker that is called for each: they are handed out some
    hundreds at a time, as an iterator of C's that knows how many are left of it, and so which one is at hand. Where
    more must be known of each (a Context, a time limit, an order), they come one by one.
    """

    def __init__(self, runtime: WorkerRuntime) -> None:
        self.runtime = runtime
        self.grant: Grant | None = None
        #: What the grant holds and has not been handed out.
        self._next_bursts: Iterator[tuple[GrantedRange, int, item_codec.EncodedItems]] = iter(())
        #: What has been handed out last, the part it is of, its place in the grant, and what is left of it.
        self._burst: item_codec.EncodedItems = ()
        self._burst_range: GrantedRange | None = None
        self._burst_start = 0
        self._burst_iterator: Iterator[Any] = iter(self._burst)
        #: Items of the grant that are done, as far as the worker has noted.
        self.done_items = 0
        self.failures: list[Failure] = []
        #: What the function's own threads put is of no item in particular: it is kept apart, under this lock.
        self.lock = threading.Lock()
        self.thread_outputs: OutputBuffer | None = None
        self.put_count = 0
        #: The thread that executes; the function has returned when there is none.
        self.owner_thread: int | None = threading.get_ident()
        #: Held by the thread that asks for items.
        self._gate = threading.RLock()
        self.began_at = self._burst_began = perf_counter()
        #: The place where the outputs of the present item begin; and how many items were left after that item.
        self._rollback_mark = runtime.output_buffer.rollback_mark()
        self._marked_at = -1
        self._singly = bool(
            runtime.call_shape.context
            or runtime.call_shape.constructor_context
            or runtime.spec.timed
            or runtime.spec.stops_at_failure
        )
        self._pace = ClockPace()
        runtime.fork_cleanups.append(lambda: deque(self._burst_iterator, 0).clear())

    @property
    def _taken_items(self) -> int:
        """Return how many items of the grant the function has taken; the last is being executed unless it is `done`."""
        return self._burst_start + len(self._burst) - length_hint(self._burst_iterator)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Return the next item; what was taken before counts as done."""
        if not self._gate.acquire(block, -1 if timeout is None or not block else timeout):
            raise queue.Empty  # another thread waits for the next item
        try:
            if length_hint(self._burst_iterator):
                self._hand_back()
            if not length_hint(self._burst_iterator):
                self._hand_out(block, timeout)
            return next(self._decoded_items())
        finally:
            self._gate.release()

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._iterate_bursts())

    def _iterate_bursts(self) -> Iterator[Iterator[Any]]:
        while True:
            with self._gate:
                if length_hint(self._burst_iterator):
                    self._hand_back()
                if not length_hint(self._burst_iterator):
                    try:
                        self._hand_out()
                    except ShutDown:
                        return
                items, left = self._decoded_items(), self._burst_iterator
                assert self.grant is not None
                deadline = self.began_at + 2 * self.grant.time_slice
            while length_hint(left):
                yield islice(items, _ITEMS_PER_CLOCK_CHECK)
                if perf_counter() > deadline:
                    break

    def _decoded_items(self) -> Iterator[Any]:
        """Return the burst's items as the function receives them; decoded when their turn comes."""
        assert self._burst_range is not None
        decoder = item_decoder(self._burst_range, self._burst)
        return self._burst_iterator if decoder is None else map(decoder, self._burst_iterator)

    def _hand_out(self, block: bool = True, timeout: float | None = None) -> None:
        """Have the next items ready, of this grant or the next one; what was taken before is done."""
        now = perf_counter()
        seconds = now - self._burst_began
        # A burst that was cut short was quick for that reason.
        if not self._singly and (seconds > SLOW_SECONDS or len(self._burst) == self._pace.clock_check_interval):
            self._pace.adapt_interval(seconds)
        self._hand_back()
        if (burst := next(self._next_bursts, None)) is None:
            self._receive_grant(block, timeout)
            burst = next(self._next_bursts)
            now = self.began_at
        assert self.grant is not None
        part, start, self._burst = burst
        self._burst_range, self._burst_start = part, self.done_items
        self._burst_iterator = iter(self._burst)
        self._marked_at, self._burst_began = -1, now
        if len(self._burst) > 1:
            self.runtime.show_position(self.grant.lease, pack_burst(self.done_items, len(self._burst)))
            return
        self.runtime.show_position(self.grant.lease, self.done_items)
        self.runtime.context.set_item(part, part.start + start)
        self.runtime.send_suspect_preview(self.grant.lease, part, self._burst[0])

    def _cut_bursts(self, grant: Grant) -> Iterator[tuple[GrantedRange, int, item_codec.EncodedItems]]:
        """Yield about a millisecond of work at a time: the part, the index in it, and the items as they travelled."""
        for part in grant.parts:
            items = encoded_items(part)
            one_by_one = self._singly or part.crashes or part.dead_letter is not None
            start = 0
            while start < len(items):
                stop = min(len(items), start + (1 if one_by_one else self._pace.clock_check_interval))
                yield part, start, item_codec.items_between(items, start, stop)
                start = stop

    def _hand_back(self) -> None:
        """Count what was taken as done; hand the rest back if the grant takes more than twice its time slice."""
        self.task_done()
        if self.grant is not None and perf_counter() - self.began_at > 2 * self.grant.time_slice:
            self.settle_grant()

    def _receive_grant(self, block: bool, timeout: float | None) -> None:
        self.settle_grant()
        limit = None if timeout is None else perf_counter() + timeout
        while self.grant is None:
            if self.runtime.inputs_ended or self.owner_thread is None:
                raise ShutDown
            left = None if limit is None else max(0.0, limit - perf_counter())
            message = self.runtime.port.receive(left if block else 0.0)
            if message is None:
                raise queue.Empty
            self.grant = self.runtime.handle_message(message)
        self._next_bursts = self._cut_bursts(self.grant)
        self.began_at = perf_counter()

    def task_done(self) -> None:
        """Count the item taken last as done."""
        self.done_items = self._taken_items

    def mark_outputs(self) -> None:
        """Note where the outputs of the present item begin: one is about to be put."""
        left = length_hint(self._burst_iterator)
        if self._marked_at != left:
            self._marked_at = left
            self._rollback_mark = self.runtime.output_buffer.rollback_mark()

    def blame_taken_item(self, error: BaseException) -> bool:
        """Blame the item that the function took last before it raised. False when it had taken none."""
        taken, part = self._taken_items, self._burst_range
        if taken == self.done_items or part is None:
            return False
        encoded = self._burst[taken - 1 - self._burst_start]
        self.done_items = taken - 1
        item = decode_if_possible(part, encoded)
        objects = [object_of(part, encoded)]
        failure = make_failure(self.runtime.spec, self.done_items, 1, error, item, part.attempt, objects=objects)
        if failure.verdict == "retry":
            self.mark_outputs()
            self.runtime.output_buffer.roll_back_to(self._rollback_mark)
        self.failures.append(failure)
        self.task_done()
        self.settle_grant()
        return True

    def put_from_thread(self, item: Any) -> None:
        """Take one item from a thread of the function's own: it leaves with the grant, or at once without one."""
        with self.lock:
            if self.owner_thread is None:
                raise ShutDown("the function has returned: nothing can be put into its Outbox any more")
            if self.thread_outputs is None:
                spec = self.runtime.spec
                self.thread_outputs = OutputBuffer(spec.output_groups, spec.max_item_bytes)
            self.thread_outputs.emit_item(item)
            self.put_count += 1
            if self.grant is None:
                self.runtime.port.send(Reply((), self.thread_outputs.take_outputs(), 0.0))

    def close(self) -> None:
        """Settle the grant and take nothing more: the function has returned."""
        self.task_done()
        with self.lock:
            self.owner_thread = None
        self.settle_grant()

    def settle_grant(self) -> None:
        """Reply to the present grant; what was not taken is handed back."""
        untaken = list(self._burst_iterator)  # a caller that still has the iterator must not find it there
        self._burst_iterator = iter(())
        self.done_items = max(self.done_items, self._burst_start + len(self._burst) - len(untaken))
        outputs = self.runtime.output_buffer.take_outputs()
        if self.thread_outputs is not None:
            with self.lock:
                outputs = (*outputs, *self.thread_outputs.take_outputs())
        if self.grant is None and not outputs:
            return
        acks = () if self.grant is None else (Ack(self.grant.lease, self.done_items, tuple(self.failures)),)
        now = perf_counter()
        self.runtime.measurements.record_items(now - self.began_at, self.done_items)
        self.runtime.send_reply(Reply(acks, outputs, now - self.began_at))
        self.grant, self.failures, self._burst_range = None, [], None
        self.done_items = self._burst_start = 0
        self._next_bursts = iter(())
        self._burst = ()


class BufferedOutbox(Outbox[Any]):
    """`runner.Outbox` beside an inbox: what is put leaves with the ack of the item at hand, so it never waits."""

    def __init__(self, inbox: PullInbox) -> None:
        self._inbox = inbox
        self._output_buffer = inbox.runtime.output_buffer

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002  as queue.Queue
        """Send an item."""
        inbox = self._inbox
        if get_ident() != inbox.owner_thread:
            inbox.put_from_thread(item)
            return
        inbox.mark_outputs()
        self._output_buffer.emit_item(item)


def call_with_boxes(
    runtime: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call the function with its boxes until it returns, or its inputs have ended."""
    inbox = PullInbox(runtime)
    kwargs = {**kwargs, **dict.fromkeys(runtime.call_shape.inboxes, inbox)}
    if not runtime.call_shape.outboxes:
        result = _call_until_done(inbox, target, args, kwargs)
    else:
        with outbox_until_released(runtime, BufferedOutbox(inbox), lambda: inbox.put_count) as outboxes:
            result = _call_until_done(inbox, target, args, kwargs, outboxes)
    inbox.close()
    return result


def _call_until_done(
    inbox: PullInbox,
    target: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outboxes: dict[str, Any] | None = None,
) -> Any:
    """Call it, again after each item that has failed."""
    while True:
        try:
            return _put_result(inbox, target(*args, **kwargs, **(outboxes or {})))
        except ShutDown:
            return None
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:
            if not inbox.blame_taken_item(error):
                raise


def _put_result(inbox: PullInbox, result: Any) -> Any:
    """Put what a call has given beside what it has put; without outputs it is the task's result."""
    put: Callable[[Any], None] = BufferedOutbox(inbox).put if inbox.runtime.spec.output_groups else check_result

    def put_all(items: Iterator[Any]) -> None:
        for item in items:
            put(item)
            del item  # else it lives while the next one is made

    async def put_all_async(items: Any) -> None:
        async for item in items:
            put(item)
            del item

    return inbox.runtime.send_returned(result, put, put_all, put_all_async)
