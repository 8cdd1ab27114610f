"""Lanes of items for queues with `lane`: read where items are made, as all others see bytes and a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from operator import index
from typing import TYPE_CHECKING, Any
from zlib import crc32

from runner.worker.item_keys import key_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

#: 2 ** 64 divided by the golden ratio: numbers that follow one another are spread over all first bits of the product
#: (Knuth, The Art of Computer Programming 3, 6.4).
_SPREAD, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


def read_lane(item: Any, lane: str) -> Any:
    """Return the lane of an item: its key, its attribute, or the first of a tuple. TypeError: it has none.

    >>> read_lane({"customer": 7}, "customer"), read_lane((7, "text"), "customer"), read_lane("text", ".")
    (7, 7, 'text')
    >>> read_lane("text", "customer")
    Traceback (most recent call last):
        ...
    TypeError: a str has no `customer`: ...
    """
    if lane == ".":
        return item
    if (type(item) is tuple or type(item) is list) and item:  # a named tuple is of another type
        return item[0]
    if isinstance(item, Mapping):
        if lane in item:
            return item[lane]
    elif hasattr(item, lane):
        return getattr(item, lane)
    elif isinstance(item, tuple | list) and item:
        return item[0]
    raise TypeError(
        f'a {type(item).__name__} has no `{lane}`: a queue with `lane = "{lane}"` takes items with that key or '
        "attribute, or tuples whose first value it is"
    )


def hash_lane(lane: Any) -> int:
    """Return a hash of 64 bits, the same in every process and run. TypeError for a value that has none.

    Not `hash`, which is another one in each process. Equal numbers have one hash: 1, 1.0 and True.

    >>> [hash_lane(lane) >> 60 for lane in ("anna", "ben", "carla", 1, 2, 3)]
    [14, 6, 12, 9, 3, 13]
    >>> hash_lane(1) == hash_lane(1.0) == hash_lane(True), hash_lane(("a", 1)) == hash_lane(["a", 1])
    (True, True)
    """
    kind: type = type(lane)
    if type(lane) is int:
        return lane * _SPREAD & _MASK
    if isinstance(lane, str):
        return crc32(str.encode(lane, "utf-8", "surrogatepass")) * _SPREAD & _MASK
    if hasattr(kind, "__index__"):
        return index(lane) * _SPREAD & _MASK
    if isinstance(lane, float) and lane.is_integer():
        return int(lane) * _SPREAD & _MASK
    try:
        return crc32(key_bytes(lane)) * _SPREAD & _MASK
    except TypeError:
        kinds = "text, a number, bytes, a path, a date, or a tuple of these"
        raise TypeError(f"the lane of an item is {kinds}, and not {kind.__name__}") from None


def bucket_reader(lane: str, bits: int) -> Callable[[Any], int]:
    """Return what says of an item in which of 2 ** `bits` buckets it is (`ledger.lanes`).

    >>> [bin(bucket_reader(".", 3)(lane)) for lane in ("anna", "ben", "carla")]
    ['0b1111', '0b1011', '0b1110']
    """
    first, shift = 1 << bits, 64 - bits

    def bucket_of(item: Any) -> int:  # bench lanes, numbers in tuples: with `read_lane` and `hash_lane` for all 1.0 us
        kind = type(item)
        if kind is tuple and item and lane != ".":
            found = item[0]
        elif kind is dict and lane in item:
            found = item[lane]
        else:
            found = read_lane(item, lane)
        if type(found) is int:
            return first | (found * _SPREAD & _MASK) >> shift
        return first | hash_lane(found) >> shift

    return bucket_of
