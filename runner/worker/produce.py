"""A task without inputs: a generator's items, a returned value, or what a function puts into its Outbox.

    generator ──▶ buffer ──▶ Produced ──▶ supervisor
                     ▲                        │
                     └────── Credit ◀─────────┘   (also the ack: everything sent so far has arrived)

An item leaves at once when nothing of this worker is under way; what is made meanwhile leaves together, with the
next credit. Items that come slowly, each by itself, are not confirmed: there is nothing that waits for that. The credit
is read in a thread of its own, so that nothing stays behind while the generator blocks. Nothing is made without credit,
so a queue's bound holds exactly here.

A worker that follows a dead one calls the function again, and passes over what has arrived before (`given_items`).
"""

from __future__ import annotations

import queue
import threading
from functools import partial
from itertools import filterfalse, groupby, islice
from time import perf_counter
from types import GeneratorType
from typing import TYPE_CHECKING, Any

from runner.errors import ShutDown
from runner.forked_copies import ExitOnTouch
from runner.shm.writer import READER_WAIT_SECONDS
from runner.tasks import Outbox
from runner.transport import item_codec
from runner.transport.messages import Credit, Produced
from runner.worker.given_items import GivenItems, PlaceReporter
from runner.worker.item_keys import ItemKeys
from runner.worker.outbox_threads import outbox_until_released
from runner.worker.outputs import MAX_CHUNK_BYTES
from runner.worker.returned_values import check_result
from runner.worker.source_crc import SourceCrc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import AsyncGeneratorType

    from runner.shm.writer import ArenaWriter
    from runner.transport.messages import Output
    from runner.worker.runtime import WorkerRuntime


#: An item that comes so long after the one before it is not to be confirmed: there is nothing to send together.
#: bench latency: without it an item takes its source 199 us of processor time, with it 148.
_SLOW_SOURCE_SECONDS = 0.002
#: Items from which there is something to gain from a burst; and of one, while no message ends it. bench a source of
#: numbers alone: with 512 items 1.13, with 4,096 1.
_MIN_BURST, _MAX_BURST = 32, 4096


class SourceStopped(BaseException):
    """Raised where a source waits for room when the run is stopping; closes its generator."""


class SourceOutput:
    """The way out for a source's items, within its credit."""

    def __init__(self, runtime: WorkerRuntime) -> None:
        self.runtime = runtime
        self.output_buffer = runtime.output_buffer
        self.lock = threading.Lock()
        self.credit_condition = threading.Condition(self.lock)
        #: How many items may have been made, how many were sent; `nothing_in_flight`: all that was sent has arrived,
        #: or was one slow item.
        self.credit_total = 0
        self.sent_items = 0
        self.nothing_in_flight = True
        #: Bytes that were sent since the last credit, by items that are not to be confirmed.
        self._unconfirmed_bytes = 0
        #: Waiting items from which they leave although others are in flight.
        self.push_threshold = 1
        #: Not empty: the next item leaves at once, or must not be made.
        #: A list, because its truth is all that is looked at between two items.
        self.attention_flag: list[int] = [1]
        #: The last item was a small value, so the next ones may be taken in a burst.
        self._may_burst = False
        #: The key by which items are grouped in a burst: their type, until `handle_message` ends it.
        self.burst_key: Any = partial(type)
        self._counted_items = 0
        self._sent_at = perf_counter()
        #: Seconds since then that were spent waiting for room, and since when it waits now.
        self._waited_seconds = 0.0
        self._waiting_since: float | None = None
        #: What is to be passed over, and where this source is.
        spec = runtime.spec
        is_compared = spec.durable and bool(spec.output_groups)
        self.keys = ItemKeys(spec.key, spec.restart_point.key_file) if is_compared and spec.key else None
        self.crc = SourceCrc(spec.restart_point, self.keys) if is_compared else None
        self.given_items = GivenItems(spec.restart_point, self.crc)
        self.place_reporter = PlaceReporter(runtime.port, with_digests=spec.mode != "thread" and not spec.durable)
        runtime.context.keep_place = self.keep_place
        #: The function has returned: nothing is taken any more.
        self.function_returned = False
        self._owner = threading.get_ident()
        runtime.fork_cleanups.append(self.abandon_fork)
        runtime.port.start_listening(self.handle_message)

    @property
    def waiting_items(self) -> int:
        """Return the number of items that have been made and not sent."""
        direct_buffer = self.output_buffer.direct_buffer
        return self._counted_items if direct_buffer is None else self.output_buffer.encoded_items + len(direct_buffer)

    def handle_message(self, message: Any) -> None:
        """Handle a message, in another thread than the function's."""
        with self.lock:
            self.runtime.handle_message(message)
            if message is None:  # the supervisor is gone
                self.runtime.context.stopping = True
            if isinstance(message, Credit):
                self.credit_total = max(self.credit_total, message.total_items)
                self.push_threshold = max(1, (self.credit_total - self.sent_items) // 2)
                self.nothing_in_flight = True
                self._unconfirmed_bytes = 0
                if self.waiting_items:
                    self._send_waiting()
            self._set_flag()
            self.credit_condition.notify_all()

    def abandon_fork(self) -> None:
        """Have the next item end this copy, which the function has forked."""
        self.lock = self.credit_condition = ExitOnTouch()  # type: ignore[assignment]  # that is what it stands for
        self.attention_flag[:] = [1]
        self.burst_key.__setstate__((id, (), {}, None))

    def _set_flag(self) -> None:
        self.attention_flag[:] = [1] if self.nothing_in_flight or self.runtime.context.stopping else []
        if self.attention_flag:  # an item's id is not a type, so it is the first of another group
            self.burst_key.__setstate__((id, (), {}, None))

    def _send_threshold(self) -> int:
        """Return the number of waiting items from which they are sent."""
        if self.nothing_in_flight or self.runtime.context.stopping:
            return 1
        return max(1, min(self.push_threshold, self.credit_total - self.sent_items))

    def _send_waiting(self) -> None:
        now = perf_counter()
        outputs = self.output_buffer.take_outputs()
        # Counted from what was taken: the function's thread may append meanwhile.
        items = self._counted_items
        if self.output_buffer.direct_buffer is not None:
            items = outputs[0].count if len(outputs) == 1 else sum([each.count for each in outputs])
        self._counted_items = 0
        self.sent_items += items
        slow = self.nothing_in_flight and items == 1 and now - self._sent_at > _SLOW_SOURCE_SECONDS
        self.nothing_in_flight = slow and self._may_go_unconfirmed(outputs)
        if self._waiting_since is not None:  # the function's thread still waits: this is another one
            self._waited_seconds += now - self._waiting_since
            self._waiting_since = now
        busy = now - self._sent_at - self._waited_seconds
        crcs = (0, {}, b"") if self.crc is None else self.crc.take_sent(items)
        self.runtime.port.send(Produced(items, outputs, busy, not self.nothing_in_flight, *crcs))
        self.runtime.measurements.record_items(busy, items)
        self._sent_at, self._waited_seconds = now, 0.0
        self.place_reporter.report_when_due(now)

    def keep_place(self, text: str) -> None:
        """Keep a place of the function's own, which it has come to with the last item that it gave."""
        with self.lock:
            self.place_reporter.note_place(self.next_number, text, 0 if self.crc is None else self.crc.value)
            if not self.output_buffer.output_groups:  # no message will follow that it could go with
                self.place_reporter.report()

    @property
    def next_number(self) -> int:
        """Return the number of the next item over all lives, from 0."""
        given = self.given_items
        return given.passed if given.left > 0 else given.count + self.sent_items + self.waiting_items

    def _may_go_unconfirmed(self, outputs: tuple[Output, ...]) -> bool:
        """Return True unless too many bytes are unconfirmed, as a queue that is full confirms nothing.

        Nor if this worker lends memory: what readers no longer need comes back with the credit.
        """
        for output in outputs:
            self._unconfirmed_bytes += output.size
        return self._unconfirmed_bytes <= MAX_CHUNK_BYTES and not self.output_buffer.item_encoder.uses_arena

    @property
    def is_due(self) -> bool:
        """Return True if what waits is to leave."""
        return self.waiting_items >= self._send_threshold()

    def flush(self) -> None:
        """Send what has been made."""
        with self.lock:
            if self.waiting_items:
                self._send_waiting()

    def reserve_credit(self, timeout: float | None = None) -> bool:
        """Wait for credit for one more item; send what is there first, because the credit may depend on it."""
        with self.lock:  # the condition's own, whose `with` would be two calls of Python more
            return self._reserve_locked(timeout)

    def _reserve_locked(self, timeout: float | None) -> bool:
        waiting = self.waiting_items
        if waiting and (
            self.nothing_in_flight or waiting >= min(self.push_threshold, self.credit_total - self.sent_items)
        ):
            self._send_waiting()
        if threading.get_ident() == self._owner:
            self.runtime.measurements.report_when_due(perf_counter())
        arena_writer = self.runtime.port.arena_writer
        if arena_writer is not None and timeout is None and arena_writer.should_wait_for_readers():
            self._wait_for_readers(arena_writer)
        has_credit = self._may_make() or self._wait_for_credit(timeout)
        self._set_flag()
        if self.runtime.context.stopping:
            raise SourceStopped
        return has_credit

    def _wait_for_credit(self, timeout: float | None) -> bool:
        first = self._waiting_since is None  # of several threads that wait one measures
        since = self._waiting_since = perf_counter() if first else self._waiting_since
        has_credit = self.credit_condition.wait_for(self._may_make, timeout)
        if first:
            self._waited_seconds += perf_counter() - (self._waiting_since or since or 0.0)
            self._waiting_since = None
        return has_credit

    def _wait_for_readers(self, arena_writer: ArenaWriter) -> None:
        """Give readers time when much of this worker's arena is in use: send what was made, and wait."""
        if self.waiting_items:
            self._send_waiting()
        if not self.credit_condition.wait_for(
            lambda: self.runtime.context.stopping or not arena_writer.should_wait_for_readers(), READER_WAIT_SECONDS
        ):
            arena_writer.double_wait_threshold()

    def _may_make(self) -> bool:
        if self.runtime.context.stopping or self.function_returned:
            return True
        waiting = self.waiting_items
        return self.sent_items + waiting < self.credit_total and (
            self.output_buffer.gathered_bytes < MAX_CHUNK_BYTES or not waiting
        )

    def emit_reserved(self, item: Any) -> None:
        """Take one item, for which credit has been reserved."""
        with self.lock:
            if self.place_reporter.wants_digest:
                self.place_reporter.note_item(self.next_number, item)
            self.output_buffer.emit_item(item)
            self._counted_items += 1

    def _pass_over(self, items: Iterator[Any]) -> None:
        """Take the items that were given before."""
        for item in islice(items, self.given_items.left):
            self.was_given(item)
            del item

    def was_given_by_key(self, item: Any) -> bool:
        """Return True if an earlier life of a durable run has given an item with this key."""
        if self.keys is None:
            return False
        if self.runtime.context.stopping:
            raise SourceStopped
        return self.keys.was_given(item)

    def was_given(self, item: Any) -> bool:
        """Return True if an item was given before, and is passed over now."""
        if self.given_items.left <= 0:
            return False
        if self.runtime.context.stopping:
            raise SourceStopped
        self.given_items.pass_over(item)
        return True

    def put(self, item: Any, timeout: float | None = None) -> None:
        """Take one item of an Outbox, from any thread; `queue.Full` if there is no room within `timeout` seconds."""
        with self.credit_condition:
            try:
                if (self.keys is not None and self.was_given_by_key(item)) or self.was_given(item):
                    return
                has_credit = self._reserve_locked(timeout)
            except SourceStopped:
                if threading.get_ident() == self._owner:
                    raise
                raise ShutDown from None  # in a thread of the function's own
            if self.function_returned:
                raise ShutDown("the function has returned: nothing can be put into its Outbox any more")
            if not has_credit:
                raise queue.Full
            if self.crc is not None:
                self.crc.add(item)
            if self.place_reporter.wants_digest:
                self.place_reporter.note_item(self.next_number, item)
            self.output_buffer.emit_item(item)
            self._counted_items += 1
            if self.is_due:
                self._send_waiting()
            self._set_flag()

    def close(self) -> None:
        """Send what has been made, and take nothing more."""
        with self.credit_condition:
            self.function_returned = True
            self.credit_condition.notify_all()
            if self.waiting_items:
                self._send_waiting()
            self.place_reporter.report()

    def emit_all_from(self, items: Iterator[Any]) -> None:
        """Take all items of an iterator."""
        if self.runtime.call_shape.outboxes:  # what it puts meanwhile, in whichever thread, comes in between
            for item in items:
                self.put(item)
                del item  # else it lives while the next one is made
            return
        if self.keys is not None:
            items = filterfalse(self.was_given_by_key, items)
        self._pass_over(items)
        if self.crc is not None:
            items = map(self.crc.add, items)
        while self._emit_some(items, self.output_buffer.direct_buffer):
            pass
        self.flush()

    def _emit_some(self, items: Iterator[Any], direct: list[Any] | None) -> bool:
        """Take the items that may be made before there is something to do. False: that was all."""
        self.reserve_credit()
        if self.place_reporter.wants_digest:
            return self._emit_first(items)
        with self.lock:
            self.output_buffer.encode_full_chunk()
            before = self.sent_items + self.waiting_items
            limit = min(max(1, self._send_threshold() - self.waiting_items), _MAX_BURST)
            self.burst_key = partial(id if self.attention_flag else type)
        if direct is not None and self._may_burst and limit >= _MIN_BURST:
            return self._emit_burst(items, direct, limit)
        if self._emit_one_by_one(islice(items, limit), direct):
            return True
        with self.lock:
            return self.sent_items + self.waiting_items - before == limit

    def _emit_first(self, items: Iterator[Any]) -> bool:
        """Take the next item alone, and its digest. False: there are no more."""
        for item in items:
            self.emit_reserved(item)
            return True
        return False

    def _emit_one_by_one(self, items: Iterable[Any], direct: list[Any] | None) -> bool:
        """Take items one by one; True if the messages that came end that before the items do."""
        small, flag = item_codec.SMALL_TYPES, self.attention_flag
        same: type | None = None  # most items are of the type of the one before
        for item in items:
            if direct is None:
                self.emit_reserved(item)
                del item
                if self.output_buffer.gathered_bytes >= MAX_CHUNK_BYTES:
                    return True
            elif type(item) is same:
                direct.append(item)
            elif type(item) in small:
                same = type(item)
                self.output_buffer.small_types.add(same)
                direct.append(item)
            else:
                self.emit_reserved(item)
                del item
                if self.output_buffer.gathered_bytes >= MAX_CHUNK_BYTES:
                    return True
            if flag:
                return True
        self._may_burst = same is not None
        return False

    def _emit_burst(self, items: Iterable[Any], direct: list[Any], limit: int) -> bool:
        """Take items of one small type at the speed of C. False: there are no more.

        bench small: without it 1.05, with it 1; a source of numbers alone: 1.2.

        An item of another type is the first of the next group, and nothing was asked of the generator since: it is
        kept as it was when it was yielded. So is the item after which `handle_message` has ended the burst.
        """
        groups = groupby(items, self.burst_key)
        for number, (item_type, group) in enumerate(groups):
            if number or item_type not in item_codec.SMALL_TYPES:
                item = next(group)
                self._may_burst = type(item) in item_codec.SMALL_TYPES
                self.emit_reserved(item)
                return True
            self.output_buffer.small_types.add(item_type)
            direct.extend(islice(group, limit - 1))
            item = next(group, self)
            if item is not self:
                direct.append(item)
                return True
        return False


class SourceOutbox(Outbox[Any]):
    """`runner.Outbox` of a task without inputs: `put` waits for room."""

    def __init__(self, source_output: SourceOutput) -> None:
        self._source_output = source_output

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Send an item; `queue.Full` when there was no room within `timeout` seconds."""
        self._source_output.put(item, timeout if block else 0)


def call_source(
    runtime: WorkerRuntime, target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call the function once and send what it makes; its result, when it is none of that."""
    source_output = SourceOutput(runtime)
    runtime.show_position((1 << 63) | runtime.spec.slot)
    try:
        if not runtime.call_shape.outboxes:
            result = _send_result(source_output, target(*args, **kwargs))
        else:
            with outbox_until_released(
                runtime, SourceOutbox(source_output), lambda: source_output.next_number
            ) as outboxes:
                result = _send_result(source_output, target(*args, **kwargs, **outboxes))
        if not runtime.context.stopping:
            source_output.given_items.check_all_passed()
        return result
    except SourceStopped:
        return None
    except ShutDown:
        if runtime.context.stopping:  # of a thread whose result the function has asked for
            return None
        raise
    finally:
        source_output.close()
        runtime.show_position(0)


def _send_result(source_output: SourceOutput, result: Any) -> Any:
    """Send what a call has returned; return the task's result, if it is one."""
    return source_output.runtime.send_returned(
        result, source_output.put, partial(_send_items, source_output), partial(_send_async_items, source_output)
    )


def _send_items(source_output: SourceOutput, items: Iterator[Any]) -> Any:
    try:
        if not source_output.runtime.spec.output_groups:
            return _run_without_outputs(items)
        source_output.emit_all_from(items)
    finally:
        if isinstance(items, GeneratorType):
            items.close()
    return None


def _run_without_outputs(items: Iterator[Any]) -> Any:
    """Run the generator of a task without outputs; its return value is the result."""
    while True:
        try:
            check_result(next(items))
        except StopIteration as end:
            return end.value


async def _send_async_items(source_output: SourceOutput, items: AsyncGeneratorType[Any, Any]) -> None:
    import asyncio

    loop = asyncio.get_running_loop()
    try:
        await loop.run_in_executor(None, source_output.reserve_credit)
        async for item in items:
            if source_output.was_given_by_key(item) or source_output.was_given(item):
                continue
            if source_output.crc is not None:
                source_output.crc.add(item)
            source_output.emit_reserved(item)
            del item
            if source_output.is_due or source_output.output_buffer.gathered_bytes >= MAX_CHUNK_BYTES:
                await loop.run_in_executor(None, source_output.reserve_credit)
    finally:
        if hasattr(type(items), "aclose"):
            await items.aclose()
        source_output.flush()
