"""Chunks: items on their way, as the ledger knows them."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class Chunk(Struct, frozen=True):
    """Items that were sent together. `payload` is opaque; `size` is its length in bytes.

    `shared_bytes` of these bytes are in shared memory: they count for a queue's bound, and next to nothing for how
    many are moved at once.
    `number` is unique in a run and never changes, so `number.index` names an item for good.
    `priorities`, one for each item, is there only on its way into a priority queue.
    """

    number: int
    payload: Any
    count: int
    size: int
    priorities: tuple[float, ...] = ()
    shared_bytes: int = 0
