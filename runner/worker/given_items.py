"""What a source gave in earlier lives of its worker: passed over, and compared, when its function is called again.

    first life    a b c d e ✝         a, c and the place that `context.save` kept have been reported
    second life   a b c d e f g …     as far as e nothing is sent, and a and c must be the same as before

A digest of one item is reported four times a second, which costs nothing that could be measured; so not every item is
compared, but one that has moved makes all those after it move. In a durable run, whose inputs may be edited between two
lives, every item is (`source_crc`).
"""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any
from zlib import crc32

from runner.errors import OtherItems
from runner.transport.messages import PlaceReport

if TYPE_CHECKING:
    from runner.worker.source_crc import SourceCrc
    from runner.worker.spec import RestartPoint, WorkerPort

#: How often the supervisor is told where a source is.
_REPORT_SECONDS = 0.25
#: A place that is saved has at most so many bytes of JSON: it is sent, and kept, again and again.
MAX_SAVED_BYTES = 4096
#: Of a large buffer so much is looked at, at each of its ends.
_EDGE_BYTES = 4096

#: The next step, if neither can be had.
_DRAIN = "or end the run without it, with `runner resume --drain`"


class GivenItems:
    """The items that are still to be passed over, by a function that is called once more.

    `crc` is that of all items in a durable run.
    """

    def __init__(self, start: RestartPoint, crc: SourceCrc | None = None) -> None:
        #: How many there were, and how many of them have been passed over: with a saved place, those before it.
        self.count = start.given_items
        self.passed = start.saved_items
        self._digests = dict(start.digests)
        self._crc, self._checks = crc, {**start.checks, start.given_items: start.crc}
        self._when = "before its worker died" if crc is None else "before"
        #: The items from which on CRCs have not been compared yet.
        self._agreed = start.saved_items
        self._error: OtherItems | None = None

    @property
    def left(self) -> int:
        """Return how many are still to be passed over."""
        return self.count - self.passed

    def pass_over(self, item: Any) -> None:
        """Take one of them; `OtherItems` if it is not the item that was given in its place before."""
        if self._error is None and (other := self._other_item(item)):
            ways = "or go on from a place that it keeps with `context.save`"
            if self._crc is not None:
                ways = f"{ways}, or have a `key` by which its items are known; {_DRAIN}"
            text = f"{other} is not the one that it gave {self._when}; a function that is called again"
            self._error = OtherItems(f"{text} must give the same items, {ways}")
        if self._error is not None:  # for each item that a thread of the function's own puts, too
            raise self._error
        self.passed += 1

    def _other_item(self, item: Any) -> str:
        """Return what is known of an item that differs from the one before; "" if none does."""
        number = self.passed + 1
        before = self._digests.pop(self.passed, None)
        if before is not None and item_digest(item) != before:
            return f"item {number:,}"
        if self._crc is not None:
            self._crc.add(item)
            if number in self._checks:
                first, self._agreed = self._agreed + 1, number
                if self._checks[number] != self._crc.value:
                    return f"item {number:,}" if first == number else f"one of the items {first:,} to {number:,}"
        return ""

    def check_all_passed(self) -> None:
        """Raise `OtherItems` if the function has ended before it came to where it was."""
        if self._error is not None:
            raise self._error
        if self.left > 0:
            more = "" if self._crc is None else f"; {_DRAIN}"
            raise OtherItems(f"it gave {self.count:,} items {self._when}, and only {self.passed:,} now{more}")


class PlaceReporter:
    """Tells the supervisor where a source is, behind the items that this tells of, and not with each message.

    `with_digests`: they are of use, because the worker may die, and not every item is compared.
    """

    def __init__(self, port: WorkerPort, *, with_digests: bool) -> None:
        self._port, self._with_digests = port, with_digests
        #: The digest of the next item is to be noted.
        self.wants_digest = with_digests
        self._digests: list[tuple[int, int]] = []
        self._saved: str | None = None
        self._saved_items = self._saved_crc = 0
        self._due_at = 0.0

    def note_item(self, number: int, item: Any) -> None:
        """Note an item's digest."""
        self.wants_digest = False
        digest = item_digest(item)
        if digest is not None:
            self._digests.append((number, digest))

    def note_place(self, number: int, text: str, crc: int = 0) -> None:
        """Note a place of the function's own, to which it has come with so many items, and their CRC."""
        self._saved, self._saved_items, self._saved_crc = text, number, crc

    def report_when_due(self, now: float) -> None:
        """Send what was noted, if that was not done just now."""
        if now >= self._due_at:
            self._due_at, self.wants_digest = now + _REPORT_SECONDS, self._with_digests
            self.report()

    def report(self) -> None:
        """Send what was noted."""
        if self._digests or self._saved is not None:
            self._port.send(PlaceReport(tuple(self._digests), self._saved, self._saved_items, self._saved_crc))
            self._digests, self._saved = [], None


def item_digest(item: Any) -> int | None:
    """Return a number that equal items of two lives have in common; None for what cannot be pickled.

    >>> item_digest({"page": 3}) == item_digest({"page": 3}), item_digest(3) == item_digest(4)
    (True, False)
    """
    buffers: list[pickle.PickleBuffer] = []
    try:
        digest = crc32(pickle.dumps(item, 5, buffer_callback=buffers.append))
        for buffer in buffers:
            raw = buffer.raw()
            digest = crc32(raw[-_EDGE_BYTES:], crc32(raw[:_EDGE_BYTES], digest))
    except Exception:  # noqa: BLE001  whatever the user's __reduce__ raises: sending it will say so
        return None
    return digest


def saved_text(place: Any) -> str | None:
    """Return a place as it is kept. TypeError for what is not JSON, ValueError for more than 4 KiB of it.

    >>> saved_text({"page": 3})
    '{"page":3}'
    """
    if place is None:
        return None
    text = json.dumps(place, separators=(",", ":"))
    if len(text.encode()) > MAX_SAVED_BYTES:
        raise ValueError(
            f"a place to go on from has at most {MAX_SAVED_BYTES:,} bytes of JSON, and this has {len(text):,}"
        )
    return text
