"""A running CRC of all that a source of a durable run gives, by which the next life knows that it gives the same.

It is kept at each power of two and at the end of each message. Plain values are told apart by value, all others by
their type, because pickles of equal objects may differ between two processes (sets, shared references).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from runner.tasks import To
from runner.worker.item_keys import PLAIN_TYPES, plain_bytes

if TYPE_CHECKING:
    from runner.worker.item_keys import ItemKeys
    from runner.worker.spec import RestartPoint


def item_mark(item: Any) -> bytes:
    """Return the bytes by which an item is compared with that of an earlier life.

    >>> item_mark([1, "a"]) == item_mark([1, "a"]), item_mark(1) == item_mark(2), item_mark({1}) == item_mark({2})
    (True, False, True)
    """
    kind = type(item)
    if kind is To:
        return bytes(item.port, "utf-8") + item_mark(item.item)
    if kind in PLAIN_TYPES:
        return plain_bytes(item)
    values: Any = (*item, *item.values()) if kind is dict else item if kind is list or kind is tuple else (item,)
    if PLAIN_TYPES.issuperset(map(type, values)):
        return plain_bytes(item)
    return kind.__qualname__.encode()


class SourceCrc:
    """The CRC of the items so far, and of those that have been sent; with `keys`, their keys as well.

    >>> from runner.worker.spec import RestartPoint
    >>> crc = SourceCrc(RestartPoint())
    >>> [crc.add(item) for item in "abc"]
    ['a', 'b', 'c']
    >>> [*crc.take_sent(2)[1]], [*crc.take_sent(1)[1]]  # the first 1 and 2 items; the third is no power of two
    ([1, 2], [])
    """

    def __init__(self, start: RestartPoint, keys: ItemKeys | None = None) -> None:
        self._keys = keys
        #: How many items there were, those included that are passed over, and their CRC.
        self._count, self.value = start.saved_items, start.saved_crc
        self._given = self._sent_count = start.given_items
        self._sent_value = start.crc
        #: CRCs after each item that has not been sent, and their keys; those at powers of two with their counts.
        self._unsent: list[int] = []
        self._unsent_keys: list[bytes] = []
        self._unsent_checks: list[tuple[int, int]] = []

    def add(self, item: Any) -> Any:
        """Count an item, and return it."""
        self._count += 1
        self.value = zlib.crc32(item_mark(item), self.value)
        if self._count > self._given:
            if self._keys is not None:
                self._unsent_keys.append(self._keys.digest(item))
            self._unsent.append(self.value)
            if not self._count & (self._count - 1):
                self._unsent_checks.append((self._count, self.value))
        return item

    def take_sent(self, items: int) -> tuple[int, dict[int, int], bytes]:
        """Return the CRC after the next `items` that leave, those at powers of two among them, and their keys."""
        if items:
            self._sent_value = self._unsent[items - 1]
            del self._unsent[:items]
            self._sent_count += items
        checks = {count: crc for count, crc in self._unsent_checks if count <= self._sent_count}
        del self._unsent_checks[: len(checks)]
        keys = b"".join(self._unsent_keys[:items])
        del self._unsent_keys[:items]
        return self._sent_value, checks, keys
