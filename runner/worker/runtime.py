"""The parts that every body of a worker works with."""

from __future__ import annotations

import contextlib
from collections import deque
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from runner.forked_copies import DiscardingChannel, ExitOnTouch
from runner.structs import dataclass, field
from runner.tasks import DeadLetter
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, PICKLED, SHARED, Grant, GrantedRange, SharedPayload, Stop, SuspectPreview
from runner.transport.progress_page import pack_burst
from runner.worker.failure import HAS_BYTES, preview_item
from runner.worker.given_items import saved_text
from runner.worker.returned_values import check_result, yields_items
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from runner.tasks import Shape
    from runner.transport.messages import Reply
    from runner.worker.context import WorkerContext
    from runner.worker.event_loop import WorkerEventLoop
    from runner.worker.measurements import Measurements
    from runner.worker.outputs import OutputBuffer
    from runner.worker.spec import WorkerPort, WorkerSpec

_EXIT_ON_TOUCH: Any = ExitOnTouch()
_DISCARD: Any = DiscardingChannel()


@dataclass(slots=True)
class WorkerRuntime:
    """One worker's parts and state.

    `inputs_ended`: the supervisor has said so. `answered_items`: of the present grant, so far.
    """

    spec: WorkerSpec
    port: WorkerPort
    progress_slot: memoryview | list[int]
    output_buffer: OutputBuffer
    context: WorkerContext
    call_shape: Shape
    measurements: Measurements
    inputs_ended: bool = False
    answered_items: int = 0
    #: The `save` of a callable class, whose worker may die, or whose run is durable: called before each reply.
    save_instance: Callable[[], Any] | None = None
    _event_loop: WorkerEventLoop | None = None

    def event_loop(self) -> WorkerEventLoop:
        """Return the worker's event loop, made now if it was not needed before."""
        if self._event_loop is None:
            from runner.worker.event_loop import WorkerEventLoop  # with asyncio, 20 ms, and few workers need it

            self._event_loop = WorkerEventLoop()
        return self._event_loop

    def close(self) -> None:
        """Close the event loop, if there is one."""
        if self._event_loop is not None:
            self._event_loop.close()

    #: The iterator from which the loop of a burst takes its items, and what else a copy has to end.
    burst_items: Iterator[Any] = field(default_factory=lambda: iter(()))
    fork_cleanups: list[Callable[[], None]] = field(default_factory=list)

    def abandon_fork(self) -> None:
        """Have this copy, which the function has forked, end as soon as it comes back out of the function."""
        progress_slot, self.progress_slot = self.progress_slot, _EXIT_ON_TOUCH
        if isinstance(progress_slot, list):
            progress_slot.clear()
        else:
            progress_slot.release()  # a loop that still has it raises an error of ours
        self.output_buffer.item_encoder = _EXIT_ON_TOUCH
        self.port, self.output_buffer, self.spec = _DISCARD, _EXIT_ON_TOUCH, _EXIT_ON_TOUCH
        deque(self.burst_items, 0)
        for cleanup in self.fork_cleanups:
            with contextlib.suppress(Exception):
                cleanup()

    def handle_message(self, message: Any) -> Grant | None:
        """Take in a message as every body does; return it if it is a grant."""
        if type(message) is Grant:
            return message
        if type(message) is Stop:
            self.inputs_ended = self.inputs_ended or message.inputs_ended
            self.context.stopping = self.context.stopping or not message.inputs_ended
        return None

    def send_suspect_preview(self, lease: int, part: GrantedRange, encoded: Any) -> None:
        """Send a preview of an item if workers have died over it, before it is executed once more."""
        if not part.crashes:
            return
        try:
            text = preview_item(decode_item(part, encoded))
        except Exception as error:  # noqa: BLE001  it cannot even be decoded; that will be its failure
            text = f"<it cannot be decoded: {type(error).__name__}>"
        self.port.send(SuspectPreview(lease, text))

    def send_returned(
        self,
        result: Any,
        put: Callable[[Any], None],
        put_all: Callable[[Iterator[Any]], Any],
        put_all_async: Callable[[Any], Awaitable[Any]],
    ) -> Any:
        """Put what a function that is called once has returned; return the task's result, if it is one."""
        if hasattr(type(result), "__await__"):
            result = self.event_loop().run(result)
        if hasattr(type(result), "__anext__"):
            return self.event_loop().run(put_all_async(result))
        if yields_items(type(result)):
            return put_all(result)
        if not self.spec.output_groups:
            check_result(result)
            return result
        if result is not None or not (self.call_shape.outboxes or self.call_shape.inboxes):
            put(result)
        return None

    def show_position(self, lease: int, index: int = 0) -> None:
        """Write the progress slot: which item of which lease is executed now (lease 0: none)."""
        self.progress_slot[1] = index
        self.progress_slot[0] = lease

    def send_reply(self, reply: Reply) -> None:
        """Send what was done, and what was measured if that is due; show that nothing is executed any more.

        When it cannot be sent, one of these items has closed what it did not open: all of them are shown as suspects,
        and this worker's end is theirs.
        """
        self.show_position(0)
        if self.save_instance is not None:
            reply = replace(reply, saved=saved_text(self.save_instance()))
        try:
            self.port.send(reply)
        except SupervisorGone:
            for ack in reply.acks:
                self.show_position(ack.lease, pack_burst(self.answered_items, max(1, ack.done)))
            raise
        answered = 0
        for ack in reply.acks:
            if ack.keeps_rest:
                answered += self.answered_items + ack.done
        self.answered_items = answered
        self.measurements.report_when_due(perf_counter())


def encoded_items(part: GrantedRange) -> item_codec.EncodedItems | memoryview:
    """Return the items of a part as they travelled; `decode_item` makes an item of each, but for those in a list.

    Machine words are read by `codec.some`, when their turn comes.
    """
    payload = part.payload
    if part.payload_kind == PICKLED:
        return item_codec.lazy_items(
            payload.data if type(payload) is SharedPayload else payload, part.start, part.count
        )
    return item_codec.items_between(payload, part.start, part.start + part.count)


def all_encoded_items(part: GrantedRange) -> item_codec.EncodedItems:
    """Return all items of the part's chunk, as they travelled."""
    items: item_codec.EncodedItems = (
        item_codec.decode_payload(_pickled_payload(part)) if part.payload_kind == PICKLED else part.payload
    )
    return items


def _pickled_payload(part: GrantedRange) -> Any:
    """Return a part's payload itself; thread workers are given it with what keeps its arenas alive."""
    return part.payload.data if type(part.payload) is SharedPayload else part.payload


def item_decoder(part: GrantedRange, items: item_codec.EncodedItems | memoryview) -> Callable[[Any], Any] | None:
    """Return the decoder of the part's items; None: they are what the function receives already."""
    if part.dead_letter is not None:
        return partial(decode_item, part)
    if part.payload_kind == PICKLED:
        return item_codec.decode_item if type(items) is tuple else None
    return item_codec.copy_for_reader if part.payload_kind == SHARED else None


def decode_item(part: GrantedRange, encoded: Any) -> Any:
    """Return the item as the function receives it."""
    item = (
        encoded
        if part.payload_kind == OBJECTS
        else item_codec.copy_for_reader(encoded)
        if part.payload_kind == SHARED
        else item_codec.decode_item(encoded)
    )
    if part.dead_letter is None:
        return item
    failure_text = part.dead_letter
    return DeadLetter(
        item, failure_text.error, failure_text.traceback, failure_text.task, failure_text.worker, failure_text.attempts
    )


def decode_if_possible(part: GrantedRange, encoded: Any) -> Any:
    """Return an item that has failed, or what travelled of it: that it cannot be decoded may be its failure."""
    try:
        return decode_item(part, encoded)
    except BaseException:  # noqa: BLE001  whatever the user's __setstate__ raises
        return encoded


def object_of(part: GrantedRange, encoded: Any) -> Any:
    """Return an item that travelled as an object, between threads; HAS_BYTES for another one."""
    return HAS_BYTES if part.payload_kind == PICKLED else encoded


def each_encoded_item(grant: Grant) -> Iterator[tuple[GrantedRange, int, Any]]:
    """Yield every item of a grant in order: its part, its index in the chunk, and the item as it travelled."""
    for part in grant.parts:
        items = encoded_items(part)
        for offset, encoded in enumerate(item_codec.items_between(items, 0, len(items))):
            yield part, part.start + offset, encoded
