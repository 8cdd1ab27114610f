"""A supervisor in a few lines, for tests of what a worker does with what it is granted."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from runner.tasks import Reference, Shape, inspect_shape
from runner.transport import item_codec
from runner.transport.messages import (
    OBJECTS,
    PICKLED,
    Failure,
    Grant,
    GrantedRange,
    MeasuredTimes,
    Reply,
    Stop,
    SuspectPreview,
)
from runner.worker.measurements import Measurements
from runner.worker.outputs import OutputBuffer
from runner.worker.runtime import WorkerRuntime
from runner.worker.spec import OutputGroup, WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable


class Port:
    """A supervisor in a few lines: grants up to so many items at a time, and applies what it is answered."""

    arena_writer = None

    def __init__(self, items: list[Any], kind: int, sizes: Callable[[], int]) -> None:
        self.kind, self.sizes = kind, sizes
        #: What waits, as (item, attempt), and what is granted.
        self.waiting = [(item, 1) for item in items]
        self.granted: list[tuple[Any, int]] = []
        self.done: list[Any] = []
        self.dead: list[Any] = []
        self.made: list[Any] = []
        self.leases = count(1)
        self.failures: list[Failure] = []
        self.messages = 0

    def receive(self, timeout: float | None = None) -> Grant | Stop:
        assert not self.granted, "it asks for more before it has answered"
        if not self.waiting:
            return Stop(inputs_ended=True)
        number, attempt = self.sizes(), self.waiting[0][1]
        while len(self.granted) < number and self.waiting and self.waiting[0][1] == attempt:
            self.granted.append(self.waiting.pop(0))
        items = [item for item, _ in self.granted]
        parts = [self._part(items[: len(items) // 3], attempt), self._part(items[len(items) // 3 :], attempt)]
        return Grant(next(self.leases), 0.05, tuple(part for part in parts if part.count))

    def _part(self, items: list[Any], attempt: int) -> GrantedRange:
        around: list[Any] = ["not granted", *items, "nor this"]
        if self.kind == OBJECTS:
            return GrantedRange(7, 1, len(items), attempt, 0, OBJECTS, around)
        if items and all(type(item) is int for item in items):
            return GrantedRange(7, 0, len(items), attempt, 0, PICKLED, item_codec.encode_values(items, {int}))
        return GrantedRange(
            7,
            1,
            len(items),
            attempt,
            0,
            PICKLED,
            item_codec.encode_payload([item_codec.ItemEncoder(1 << 30).encode_item(item) for item in around]),
        )

    def send(self, message: Any) -> None:
        if type(message) in {MeasuredTimes, SuspectPreview}:
            return
        assert type(message) is Reply
        self.messages += 1
        for ack in message.acks:
            failed = {failure.index: failure.verdict for failure in ack.failures}
            self.failures += ack.failures
            assert ack.done <= len(self.granted), "it says that more is done than it was granted"
            again: list[tuple[Any, int]] = []
            for index, (item, attempt) in enumerate(self.granted[: ack.done]):
                if failed.get(index) == "retry":
                    again.append((item, attempt + 1))
                else:
                    (self.dead if index in failed else self.done).append(item)
            rest = self.granted[ack.done :]
            self.waiting[:0] = again if ack.keeps_rest else again + rest
            self.granted = rest if ack.keeps_rest else []
        for output in message.outputs:
            self.made += (
                output.payload
                if self.kind == OBJECTS
                else map(item_codec.decode_item, item_codec.decode_payload(output.payload))
            )


class Context:
    stopping = False

    def set_item(self, part: GrantedRange, index: int) -> None:
        self.part, self.index = part, index


class StopsUnpickling:
    """An item that cannot be read."""

    def __reduce__(self) -> Any:
        return _stop, ()


def _stop() -> None:
    raise StopIteration


def worked(
    port: Port,
    body: Callable[..., Any],
    target: Callable[..., Any],
    form: Shape | None = None,
    makes: bool = False,
    **more: Any,
) -> WorkerRuntime:
    """Let a worker do all of the port's items."""
    form = form or inspect_shape(target)
    groups = (OutputGroup("default", ("out",), port.kind),) if form.outboxes or makes else ()
    spec = WorkerSpec("t", "t.1", "r", 1, Reference("m", "f"), b"", ("in",), groups, **more)
    bench = WorkerRuntime(spec, port, [0, 0], OutputBuffer(groups), Context(), form, Measurements(port, "process"))  # type: ignore[arg-type]
    while port.waiting:  # a function that returns early is started again
        body(bench, target, (), {})
    return bench
