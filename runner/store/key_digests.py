"""Digests of the keys of sources' items, 16 bytes each, sorted so that a worker finds one without reading them all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

DIGEST_BYTES = 16


def sort_digests(blobs: Sequence[bytes]) -> list[bytes]:
    """Return the digests of these blobs in sorted blobs, without an object for each of them at once.

    >>> sort_digests([b"b" * 16 + b"a" * 16, b"b" * 16]) == [b"a" * 16, b"b" * 32]
    True
    """
    buckets = [bytearray() for _ in range(256)]
    for blob in blobs:
        for at in range(0, len(blob), DIGEST_BYTES):
            buckets[blob[at]] += blob[at : at + DIGEST_BYTES]
    found = []
    for bucket in filter(None, buckets):
        digests = sorted(bytes(bucket[at : at + DIGEST_BYTES]) for at in range(0, len(bucket), DIGEST_BYTES))
        found.append(b"".join(digests))
    return found
