"""The position of a source in a durable run: what it gave in an earlier life is passed over, and compared.

The source is executed again from its beginning. Each item adds to a running CRC, which is kept at each power of two and
where the earlier life ended: other items than before are an error before anything new is taken. Plain values are
compared by value, all others by their type, because pickles of equal objects may differ.
"""

from __future__ import annotations

import marshal
import zlib
from typing import TYPE_CHECKING, Any

from runner.errors import SourceChanged

if TYPE_CHECKING:
    from collections.abc import Mapping

_PLAIN_TYPES = frozenset({int, float, str, bytes, bool, type(None)})
#: The format without references, which depend on more than the value.
_MARSHAL_VERSION = 2


def item_mark(item: Any) -> bytes:
    """Return the bytes by which an item is compared with that of an earlier life.

    >>> item_mark([1, "a"]) == item_mark([1, "a"]), item_mark(1) == item_mark(2), item_mark({1}) == item_mark({2})
    (True, False, True)
    """
    kind = type(item)
    if kind in _PLAIN_TYPES:
        return marshal.dumps(item, _MARSHAL_VERSION)
    values: Any = (*item, *item.values()) if kind is dict else item if kind is list or kind is tuple else (item,)
    if _PLAIN_TYPES.issuperset(map(type, values)):
        return marshal.dumps(item, _MARSHAL_VERSION)
    return kind.__qualname__.encode()


class SourcePosition:
    """Counts a source's items: the first `made` of them are not new. `checks` maps counts to CRCs.

    >>> first = SourcePosition("read")
    >>> [first.is_new(item) for item in "abc"]
    [True, True, True]
    >>> crc, checks = first.count_sent(3)
    >>> again = SourcePosition("read", 3, crc, checks)
    >>> [again.is_new(item) for item in "abcd"]
    [False, False, False, True]
    """

    def __init__(self, task: str, made: int = 0, crc: int = 0, checks: Mapping[int, int] | None = None) -> None:
        self._task, self._made = task, made
        self._expected = {**(checks or {}), **({made: crc} if made else {})}
        self._count = self._crc = 0
        self._sent_crc = crc
        self._agreed = 0
        #: CRCs after each item that has not been sent; those at powers of two with their counts.
        self._unsent_crcs: list[int] = []
        self._unsent_checks: list[tuple[int, int]] = []

    def is_new(self, item: Any) -> bool:
        """Count an item; return False if an earlier life has given it. SourceChanged: that gave another one."""
        self._count += 1
        self._crc = zlib.crc32(item_mark(item), self._crc)
        if self._count > self._made:
            self._unsent_crcs.append(self._crc)
            if not self._count & (self._count - 1):
                self._unsent_checks.append((self._count, self._crc))
            return True
        if self._count in self._expected:
            if self._expected[self._count] != self._crc:
                between = f"between item {self._agreed + 1:,} and item {self._count:,}"
                raise SourceChanged(self._changed_text(f"other items than before ({between})"))
            self._agreed = self._count
        return False

    @property
    def is_passing_over(self) -> bool:
        """Return True if the next item is one that an earlier life has given."""
        return self._count < self._made

    def check_end(self) -> None:
        """Raise SourceChanged if the source has ended before it came to what is new."""
        if self._count < self._made:
            raise SourceChanged(self._changed_text(f"{self._count:,} items, and {self._made:,} before"))

    def _changed_text(self, what: str) -> str:
        return f"`{self._task}` gave {what}: it cannot go on where it was"

    def count_sent(self, items: int) -> tuple[int, dict[int, int]]:
        """Return the CRC after the next `items` that leave, and those at powers of two among them."""
        if items:
            self._sent_crc = self._unsent_crcs[items - 1]
            del self._unsent_crcs[:items]
        last = self._count - len(self._unsent_crcs)
        checks = {count: crc for count, crc in self._unsent_checks if count <= last}
        del self._unsent_checks[: len(checks)]
        return self._sent_crc, checks
