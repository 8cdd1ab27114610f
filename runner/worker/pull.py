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
from runner.worker.outbox_threads import outbox_until_released
from runner.worker.outputs import OutputBuffer
from runner.worker.returned_values import check_result, yields_items
from runner.worker.runtime import MAX_BURST, QUICK_SECONDS, SLOW_SECONDS, decode_item, encoded_items, item_decoder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.transport.messages import Grant, GrantedRange
    from runner.worker.runtime import WorkerRuntime

#: A loop looks at the clock after so many items.
_PIECE = 64


class PullInbox(Inbox[Any]):
    """`runner.Inbox` over the grants of one worker.

    A loop over quick items is as hot as the loop of a worker that is called for each: they are handed out some
    hundreds at a time, as an iterator of C's that knows how many are left of it, and so which one is at hand. Where
    more must be known of each (a Context, a time limit, an order), they come one by one.
    """

    def __init__(self, bench: WorkerRuntime) -> None:
        self.bench = bench
        self.grant: Grant | None = None
        #: The parts of the grant that have not been handed out whole, and where the first of them goes on.
        self._parts: deque[tuple[GrantedRange, item_codec.EncodedItems | memoryview]] = deque()
        self._at = 0
        #: What has been handed out last, the part it is of, its place in the grant, and what is left of it.
        self._handed: item_codec.EncodedItems = ()
        self._part: GrantedRange | None = None
        self._first = 0
        self._left: Iterator[Any] = iter(self._handed)
        #: Items of the grant that are done, as far as that has been said.
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
        self.began_at = self._since = perf_counter()
        #: Where the outputs of the item at hand begin; of the one after which so many were left.
        self._mark = bench.output_buffer.rollback_mark()
        self._marked = -1
        self._singly = bool(
            bench.call_shape.context or bench.call_shape.constructor_context or bench.spec.timed or bench.spec.ordered
        )
        self._clock_check_interval = 1
        bench.fork_cleanups.append(lambda: deque(self._left, 0).clear())

    @property
    def _taken(self) -> int:
        """Items of the grant that the function has taken; the last of them is at hand unless it is `done`."""
        return self._first + len(self._handed) - length_hint(self._left)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """The next item; what was taken before counts as done."""
        if not self._gate.acquire(block, -1 if timeout is None or not block else timeout):
            raise queue.Empty  # another thread waits for the next item
        try:
            if length_hint(self._left):
                self._hand_back()
            if not length_hint(self._left):
                self._hand_out(block, timeout)
            return next(self._decoded_items())
        finally:
            self._gate.release()

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self._bursts())

    def _bursts(self) -> Iterator[Iterator[Any]]:
        while True:
            with self._gate:
                if not length_hint(self._left):
                    try:
                        self._hand_out()
                    except ShutDown:
                        return
                items = self._decoded_items()
            yield islice(items, _PIECE)
            with self._gate:
                if length_hint(self._left):
                    self._hand_back()

    def _decoded_items(self) -> Iterator[Any]:
        """The items at hand as the function receives them; thawed when their turn comes."""
        part = self._part
        assert part is not None
        if part.dead_letter is not None:
            return (decode_item(part, frozen) for frozen in self._left)
        made = item_decoder(part, self._handed)
        return self._left if made is None else map(made, self._left)

    def _hand_out(self, block: bool = True, timeout: float | None = None) -> None:
        """Have the next items ready, of this grant or the next one; what was taken before is done."""
        now = perf_counter()
        if not self._singly:
            self._adapt(now - self._since)
        self.task_done()
        if self._parts:
            self._hand_back()
        if not self._parts:
            self._refill(block, timeout)
            now = self.began_at
        part, items = self._parts[0]
        assert self.grant is not None
        stride = 1 if self._singly or part.crashes or part.dead_letter is not None else self._clock_check_interval
        stop = min(len(items), self._at + stride)
        start, self._at = self._at, stop
        if stop == len(items):
            self._parts.popleft()
            self._at = 0
        self._part, self._first = part, self.done_items
        self._handed = item_codec.items_between(items, start, stop)
        self._left = iter(self._handed)
        self._marked, self._since = -1, now
        self._show(part, start, stop - start)

    def _hand_back(self) -> None:
        """What was taken is done; when the grant takes more than twice its slice, the rest is handed back."""
        self.task_done()
        if self.grant is not None and perf_counter() - self.began_at > 2 * self.grant.time_slice:
            self.settle_grant()

    def _show(self, part: GrantedRange, start: int, width: int) -> None:
        """Say what is at hand."""
        assert self.grant is not None
        self.bench.show_position(self.grant.lease, pack_burst(self.done_items, width) if width > 1 else self.done_items)
        if width == 1:
            self.bench.context.set_item(part, part.start + start)
            if part.crashes:
                self.bench.send_suspect_preview(self.grant.lease, part, self._handed[0])

    def _adapt(self, seconds: float) -> None:
        """Hand out about a millisecond of work."""
        if seconds > SLOW_SECONDS:
            self._clock_check_interval = max(1, self._clock_check_interval // 4)
        elif seconds < QUICK_SECONDS and len(self._handed) == self._clock_check_interval < MAX_BURST:
            self._clock_check_interval *= 2

    def _refill(self, block: bool, timeout: float | None) -> None:
        self.settle_grant()
        limit = None if timeout is None else perf_counter() + timeout
        while not self._parts:
            if self.bench.inputs_ended or self.owner_thread is None:
                raise ShutDown
            left = None if limit is None else max(0.0, limit - perf_counter())
            message = self.bench.port.receive(left if block else 0.0)
            if message is None:
                raise queue.Empty
            grant = self.bench.handle_message(message)
            if grant is not None:
                self.grant = grant
                self._parts.extend((part, encoded_items(part)) for part in grant.parts)
                self.began_at = perf_counter()

    def task_done(self) -> None:
        """The item taken last is done."""
        self.done_items = self._taken

    def mark_outputs(self) -> None:
        """Something is about to be put: it is of the item at hand."""
        left = length_hint(self._left)
        if self._marked != left:
            self._marked = left
            self._mark = self.bench.output_buffer.rollback_mark()

    def blame_taken_item(self, error: BaseException) -> bool:
        """The function has raised: blame the item it took last. False when it had taken none."""
        taken, part = self._taken, self._part
        if taken == self.done_items or part is None:
            return False
        frozen = self._handed[taken - 1 - self._first]
        self.done_items = taken - 1
        try:
            item = decode_item(part, frozen)
        except BaseException:  # noqa: BLE001  it may be the item that cannot be decoded
            item = frozen
        fault = make_failure(self.bench.spec, self.done_items, 1, error, item, part.attempt)
        if fault.verdict == "retry":
            self.mark_outputs()
            self.bench.output_buffer.roll_back_to(self._mark)
        self.failures.append(fault)
        self.task_done()
        self.settle_grant()
        return True

    def put_from_thread(self, item: Any) -> None:
        """One item, from a thread of the function's own: it leaves with the grant at hand, or at once without one."""
        with self.lock:
            if self.owner_thread is None:
                raise ShutDown("the function has returned: nothing can be put into its Outbox any more")
            if self.thread_outputs is None:
                spec = self.bench.spec
                self.thread_outputs = OutputBuffer(spec.output_groups, spec.max_item_bytes)
            self.thread_outputs.emit_item(item)
            self.put_count += 1
            if self.grant is None:
                self.bench.port.send(Reply((), self.thread_outputs.take_outputs(), 0.0))

    def close(self) -> None:
        """The function has returned: say so, and take nothing more."""
        self.task_done()
        with self.lock:
            self.owner_thread = None
        self.settle_grant()

    def settle_grant(self) -> None:
        """Answer for the grant at hand; what was not taken is handed back."""
        rest = list(self._left)  # whoever still has the iterator must not find it there
        self._left = iter(())
        self.done_items = max(self.done_items, self._first + len(self._handed) - len(rest))
        outputs = self.bench.output_buffer.take_outputs()
        if self.thread_outputs is not None:
            with self.lock:
                outputs = (*outputs, *self.thread_outputs.take_outputs())
        if self.grant is None and not outputs:
            return
        acks = () if self.grant is None else (Ack(self.grant.lease, self.done_items, tuple(self.failures)),)
        now = perf_counter()
        self.bench.measurements.record_items(now - self.began_at, self.done_items)
        self.bench.send_reply(Reply(acks, outputs, now - self.began_at))
        self.bench.measurements.report_when_due(now)
        self.grant, self.failures, self._part = None, [], None
        self.done_items = self._first = self._at = 0
        self._parts.clear()
        self._handed = ()


class BufferedOutbox(Outbox[Any]):
    """`runner.Outbox` beside an inbox: what is put leaves with the ack of the item at hand, so it never waits."""

    def __init__(self, inbox: PullInbox) -> None:
        self._inbox = inbox
        self._collector = inbox.bench.output_buffer
        self._direct, self._kinds = self._collector.direct_buffer, self._collector.small_types

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002  as queue.Queue
        """Send an item."""
        inbox = self._inbox
        if get_ident() != inbox.owner_thread:
            inbox.put_from_thread(item)
            return
        inbox.mark_outputs()
        # Here, not behind a call: it is a fifth of the time.
        if type(item) in item_codec.SMALL_TYPES and self._direct is not None:
            self._kinds.add(type(item))
            self._direct.append(item)
        else:
            self._collector.emit_item(item)


def call_with_boxes(
    bench: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call the function with its boxes until it returns, or its inputs have ended."""
    inbox = PullInbox(bench)
    kwargs = {**kwargs, **dict.fromkeys(bench.call_shape.inboxes, inbox)}
    if not bench.call_shape.outboxes:
        result = _calls(inbox, target, args, kwargs)
    else:
        with outbox_until_released(bench, BufferedOutbox(inbox), lambda: inbox.put_count) as outboxes:
            result = _calls(inbox, target, args, kwargs, outboxes)
    inbox.close()
    return result


def _calls(
    inbox: PullInbox,
    target: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    outboxes: dict[str, Any] | None = None,
) -> Any:
    """Call it, again after each item that has failed."""
    while True:
        try:
            return _take(inbox, target(*args, **kwargs, **(outboxes or {})))
        except ShutDown:
            return None
        except WORKER_ENDING_ERRORS:
            raise
        except BaseException as error:
            if not inbox.blame_taken_item(error):
                raise


def _take(inbox: PullInbox, result: Any) -> Any:
    """Send what a call has given beside what it has put; without outputs it is the task's result."""
    bench = inbox.bench
    put: Callable[[Any], None] = BufferedOutbox(inbox).put if bench.spec.output_groups else check_result
    if hasattr(type(result), "__await__"):
        result = bench.event_loop().run(result)
    if hasattr(type(result), "__anext__"):
        bench.event_loop().run(_each(result, put))
    elif yields_items(type(result)):
        for item in result:
            put(item)
    elif bench.spec.output_groups:
        if result is not None:
            put(result)
    else:
        check_result(result)
        return result
    return None


async def _each(items: Any, put: Callable[[Any], None]) -> None:
    async for item in items:
        put(item)
