"""The keys by which a durable run knows the items of a source again, when its input was edited between two lives.

A key is a field of the item, or the item itself (`.`). The n-th item with one key is an item of its own: two equal
lines are two items. Keys are kept as digests of 16 bytes, sorted in a file, so ten million of them are 160 MB that
the worker maps and does not read whole.
"""

from __future__ import annotations

import marshal
import mmap
import os
from bisect import bisect_left
from collections import defaultdict
from functools import partial
from typing import Any

from runner.store.key_digests import DIGEST_BYTES
from runner.tasks import To

PLAIN_TYPES = frozenset({int, float, str, bytes, bool, type(None)})
#: The format of `marshal` without references, which depend on more than the value.
_MARSHAL_VERSION = 2
#: Modules whose values have a `repr` that says all of them, in every process.
_TELLING_MODULES = {"datetime", "decimal", "fractions", "ipaddress", "uuid"}


def plain_bytes(value: Any) -> bytes:
    """Return the bytes of plain values, alone or in lists, tuples and dicts, the same in every process."""
    return marshal.dumps(value, _MARSHAL_VERSION)


def key_bytes(value: Any) -> bytes:
    """Return the bytes of a key, the same in every process. TypeError for a value that has none.

    >>> key_bytes("a") == key_bytes("a"), key_bytes(1) == key_bytes("1"), key_bytes(("a", 1)) == key_bytes(["a", 1])
    (True, False, True)
    """
    kind = type(value)
    if kind in PLAIN_TYPES:
        return plain_bytes(value)
    if kind is tuple or kind is list:
        return b"(%d" % len(value) + b"".join(map(key_bytes, value))
    if isinstance(value, os.PathLike):
        return key_bytes(os.fspath(value))
    if kind.__module__ in _TELLING_MODULES:
        return repr(value).encode()
    raise TypeError(
        f"the key of an item is text, a number, bytes, a path, a date, or a tuple of these, and not {kind.__name__}"
    )


def key_of(item: Any, key: str) -> Any:
    """Return the key of an item. ValueError if it has none.

    >>> key_of({"path": "a.txt"}, "path"), key_of("line", "."), key_of(3 + 4j, "real")
    ('a.txt', 'line', 3.0)
    """
    if type(item) is To:
        item = item.item
    if key == ".":
        return item
    try:
        return item[key] if isinstance(item, dict) else getattr(item, key)
    except (KeyError, AttributeError):
        raise ValueError(f"this item has no `{key}`, which is the `key` of its task: {item!r:.200}") from None


class ItemKeys:
    """The keys of a source's items: of those that earlier lives have given, in a file, and of the next ones.

    >>> keys = ItemKeys("name", "")
    >>> keys.was_given({"name": "a", "size": 3})  # no earlier life has given anything
    False
    >>> keys.digest({"name": "a", "size": 4}) == keys.digest({"name": "a"}), len(keys.digest({"name": "a"}))
    (True, 16)
    """

    def __init__(self, key: str, path: str) -> None:
        from hashlib import blake2b  # 5 ms, which no source without a key should take to start

        self._key, self._hash = key, partial(blake2b, digest_size=DIGEST_BYTES)
        self._given = _SortedDigests(path)
        #: Which of them have come again; of a key that was given several times, how often.
        self._seen = bytearray(len(self._given))
        self._repeats: dict[bytes, int] = defaultdict(int)
        self._last: tuple[Any, bytes] = (None, b"")

    def digest(self, item: Any) -> bytes:
        """Return the digest of an item's key."""
        last_item, digest = self._last
        if item is not last_item or not digest:
            digest = self._hash(key_bytes(key_of(item, self._key))).digest()
            self._last = (item, digest)
        return digest

    def was_given(self, item: Any) -> bool:
        """Return True, once for each time that an earlier life has given an item with this key."""
        given = self._given
        if not given:
            return False
        digest = self.digest(item)
        at = bisect_left(given, digest)
        if at == len(given) or given[at] != digest:
            return False
        if at + 1 < len(given) and given[at + 1] == digest:
            at += self._repeats[digest]
            self._repeats[digest] += 1
            return at < len(given) and given[at] == digest
        was_seen, self._seen[at] = self._seen[at], 1
        return not was_seen


class _SortedDigests:
    """The digests of a file, as a sequence."""

    def __init__(self, path: str) -> None:
        self._data: bytes | mmap.mmap = b""
        if path and os.path.getsize(path):  # noqa: PTH202  a path as text
            with open(path, "rb") as file:  # noqa: PTH123  as above
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._count = len(self._data) // DIGEST_BYTES

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: int) -> bytes:
        return self._data[at * DIGEST_BYTES : (at + 1) * DIGEST_BYTES]
