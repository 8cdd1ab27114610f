"""What every body of a worker works with."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from runner.forked_copies import Nowhere, Over
from runner.structs import dataclass, field
from runner.tasks import DeadLetter
from runner.transport import item_codec
from runner.transport.messages import OBJECTS, PICKLED, SHARED, Grant, Lodged, Part, Shown, Stop
from runner.transport.progress_page import stretch
from runner.worker.failure import preview
from runner.worker.spec import SupervisorGone

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from runner.tasks import Shape
    from runner.transport.messages import Answer
    from runner.worker.context import WorkerContext
    from runner.worker.event_loop import EventLoop
    from runner.worker.measurements import Meter
    from runner.worker.outputs import Collector
    from runner.worker.spec import Port, WorkerSpec

#: Between two looks at the clock a worker executes so many items that it takes about a millisecond: their number is
#: doubled when it took less than this many seconds, and quartered when it took more than that many.
QUICK, SLOW = 0.0005, 0.002
#: Items that are executed in one stretch at most: their results are still in the processor's cache when it ends.
STRETCH = 512
_OVER: Any = Over()
_NOWHERE: Any = Nowhere()


@dataclass(slots=True)
class Bench:
    """One worker's tools.

    `ended`: the inputs have ended, as the supervisor said. `told`: how many items of the grant at hand were answered.
    """

    spec: WorkerSpec
    port: Port
    cell: memoryview | list[int]
    collector: Collector
    context: WorkerContext
    form: Shape
    meter: Meter
    ended: bool = False
    told: int = 0
    _loop: EventLoop | None = None

    def loop(self) -> EventLoop:
        """The worker's event loop, made now if it was not needed before."""
        if self._loop is None:
            from runner.worker.event_loop import EventLoop  # asyncio takes 20 ms to import, and few workers need it

            self._loop = EventLoop()
        return self._loop

    def close(self) -> None:
        """Close the event loop, if there is one."""
        if self._loop is not None:
            self._loop.close()

    #: What the loop of a stretch takes its items from, and what else a copy has to end.
    rest: Iterator[Any] = field(default_factory=lambda: iter(()))
    loose: list[Callable[[], None]] = field(default_factory=list)

    def abandon(self) -> None:
        """This is a copy that the function has forked: let it end as soon as it comes back out of the function."""
        cell, self.cell = self.cell, _OVER
        if isinstance(cell, list):
            cell.clear()
        else:
            cell.release()  # a loop that still has it raises an error of ours
        self.collector.freezer = _OVER
        self.port, self.collector, self.spec = _NOWHERE, _OVER, _OVER
        deque(self.rest, 0)
        for deed in self.loose:
            with contextlib.suppress(Exception):
                deed()

    def hear(self, message: Any) -> Grant | None:
        """A message's consequences for everybody; grants are returned."""
        if isinstance(message, Stop):
            self.ended = self.ended or message.ended
            self.context.stopping = self.context.stopping or not message.ended
        return message if isinstance(message, Grant) else None

    def show_suspect(self, lease: int, part: Part, frozen: Any) -> None:
        """Workers have died over this item: say what it looks like before it is executed once more."""
        try:
            text = preview(thaw(part, frozen))
        except Exception as error:  # noqa: BLE001  it cannot even be decoded; that will be its failure
            text = f"<it cannot be decoded: {type(error).__name__}>"
        self.port.send(Shown(lease, text))

    def show(self, lease: int, index: int = 0) -> None:
        """Write the progress cell: which item of which lease is executed now (lease 0: none)."""
        self.cell[1] = index
        self.cell[0] = lease

    def answer(self, answer: Answer) -> None:
        """Send what was done; nothing is under way any more.

        When it cannot be sent, one of these items has closed what it did not open: all of them are shown as suspects,
        and this worker's end is theirs.
        """
        self.show(0)
        try:
            self.port.send(answer)
        except SupervisorGone:
            for ack in answer.acks:
                self.show(ack.lease, stretch(self.told, max(1, ack.done)))
            raise
        self.told = sum(self.told + ack.done for ack in answer.acks if ack.more)


def frozen_items(part: Part) -> item_codec.Frozen | memoryview:
    """The items of a part as they travelled; `thaw` makes an item of each, but for those in a list.

    Machine words are read by `codec.some`, when their turn comes.
    """
    if part.kind == PICKLED:
        return item_codec.view(_pickle(part), part.start, part.count)
    return item_codec.some(part.payload, part.start, part.start + part.count)


def whole(part: Part) -> item_codec.Frozen:
    """All items of the part's chunk, as they travelled."""
    items: item_codec.Frozen = item_codec.decode(_pickle(part)) if part.kind == PICKLED else part.payload
    return items


def _pickle(part: Part) -> Any:
    """A part's payload itself; thread workers are given it with what keeps its arenas alive."""
    return part.payload.data if type(part.payload) is Lodged else part.payload


def received(part: Part, items: item_codec.Frozen | memoryview) -> Callable[[Any], Any] | None:
    """What makes an item of each of the part's frozen ones, apart from letters; None: they are items already."""
    if part.kind == PICKLED:
        return item_codec.thaw if type(items) is tuple else None
    return item_codec.own if part.kind == SHARED else None


def thaw(part: Part, frozen: Any) -> Any:
    """The item itself, as the function receives it."""
    item = (
        frozen if part.kind == OBJECTS else item_codec.own(frozen) if part.kind == SHARED else item_codec.thaw(frozen)
    )
    if part.letter is None:
        return item
    letter = part.letter
    return DeadLetter(item, letter.error, letter.traceback, letter.task, letter.worker, letter.attempts)


def flattened(grant: Grant) -> Iterator[tuple[Part, int, Any]]:
    """Every item of a grant in order: its part, its index in the chunk, and the item as it travelled."""
    for part in grant.parts:
        items = frozen_items(part)
        for offset, frozen in enumerate(item_codec.some(items, 0, len(items))):
            yield part, part.start + offset, frozen
