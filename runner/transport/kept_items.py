"""Single items as bytes that outlive their run: what a dead letter keeps, so that the item can be given again.

    chunk of bytes ─▶ one_item_payload ─▶ payload of that one item, its buffers in it, for `item_codec.decode_payload`
    thread's object ─▶ pickle_object ──▶ the same

The supervisor makes them of bytes without unpickling an item: only the list around the items is read, by an unpickler
that knows no class and calls nothing. Objects of threads are pickled where they failed, in their worker.
"""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any, NoReturn

from runner.shm import reader
from runner.transport import item_codec
from runner.transport.messages import KeptItem, SharedPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class NotKept(Exception):
    """An item cannot be kept; the text says why."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, texts, bytes, lists and tuples: a payload holds nothing else."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"a payload that names {module}.{name}")


class KeptPayloads:
    """Makes payloads of single items; neighbours in one chunk are looked up in the list that was read last.

    >>> payload = item_codec.encode_payload(["a", item_codec.ItemEncoder(1000).encode_item([1, 2])])
    >>> kept = KeptPayloads().one_item_payload(payload, 1, 1000)
    >>> item_codec.decode_item(item_codec.decode_payload(kept)[0])
    [1, 2]
    """

    def __init__(self) -> None:
        self._data: Any = None
        self._items: Sequence[Any] = ()

    def one_item_payload(self, payload: Any, index: int, most: int) -> bytes:
        """Return the payload of one item of a chunk's; NotKept if it would have more than `most` bytes."""
        data = payload.data if type(payload) is SharedPayload else payload
        if data is not self._data:
            self._data, self._items = None, ()
            self._items, self._data = _plain_items(data), data
        item = self._items[index]
        if type(item) is tuple and len(item) == 2:
            size = sum(block_ref[2] for block_ref in item[1])
            if size > most:
                raise too_large(size, most)
            item = _without_arena(*item)
        kept = (
            item_codec.encode_payload([item]) if type(item) is tuple else item_codec.encode_values([item], {type(item)})
        )
        if len(kept) > most:
            raise too_large(len(kept), most)
        return kept


def inline_payload(data: Any, read_block: Callable[..., Any] = reader.copy_block) -> bytes:
    """Return a payload that brings along what of it lies in arenas; NotKept if it cannot be read.

    `read_block` is called with an arena's number, an offset, a length, and perhaps `reader.PageChanges`.
    """
    items = [
        _without_arena(*item, read_block) if type(item) is tuple and len(item) == 2 else item
        for item in _plain_items(data)
    ]
    return item_codec.encode_payload(items)


def block_reader(bytes_by_key: Mapping[reader.BlockKey, Any]) -> Callable[..., Any]:
    """Return a `read_block` that looks for bytes there first: those that lie in no arena."""

    def read_block(number: int, offset: int, length: int, changes: reader.PageChanges = ()) -> Any:
        found = bytes_by_key.get((number, offset))
        if type(found) is not bytearray:
            return reader.copy_block(number, offset, length, changes)
        return reader.with_changes(found[:length], changes)

    return read_block


def too_large(size: int, most: int) -> NotKept:
    """Return the refusal of an item of `size` bytes where `most` are left."""
    return NotKept(f"it has {size:,} bytes, and of `dead_items` {most:,} were left")


def _plain_items(data: bytes) -> Sequence[Any]:
    try:
        if not item_codec.is_pickle(data):
            return item_codec.decode_payload(data)
        items = _PlainUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # noqa: BLE001  a worker's bytes may be anything
        raise NotKept(f"its bytes cannot be read: {error}") from None
    if not isinstance(items, (list, tuple)):
        raise NotKept("its bytes are not those of items")
    return items


def _without_arena(
    pickled: Any, block_refs: tuple[Any, ...], read_block: Callable[..., Any] = reader.copy_block
) -> Any:
    """Return an item whose buffers lie in arenas as one that brings them along."""
    try:
        buffers = [read_block(*block_ref) for block_ref in block_refs]
    except OSError as error:
        raise NotKept(f"its memory cannot be read: {error}") from None
    if pickled is True:
        return bytes(buffers[0])
    if pickled is None:
        pickled, buffers = bytes(buffers[0]), buffers[1:]
    return (pickled, (), tuple(map(bytes, buffers)))


class _BoundedWriter:
    """A file for a pickler that refuses what is too much before it is copied."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self.pieces: list[bytes] = []

    def write(self, piece: Any) -> None:
        self.size += len(memoryview(piece).cast("B"))
        if self.size > self.most:
            raise NotKept(f"it has more bytes than `dead_items` allows ({self.most:,})")
        self.pieces.append(bytes(piece))


def pickle_object(item: Any, most: int) -> KeptItem:
    """Return an object of a thread as a payload, or why it is not kept.

    >>> item_codec.decode_item(item_codec.decode_payload(pickle_object({"a": 1}, 1000).data)[0])
    {'a': 1}
    >>> pickle_object(bytes(2000), 1000).why
    'it has more bytes than `dead_items` allows (1,000)'
    """
    writer = _BoundedWriter(most)
    try:
        pickle.Pickler(writer, 5).dump(item)
    except NotKept as refused:
        return KeptItem(why=str(refused))
    except BaseException as error:  # noqa: BLE001  the user's __reduce__ may raise anything
        return KeptItem(why=f"it cannot be pickled: {type(error).__name__}: {error}")
    return KeptItem(item_codec.encode_payload([(b"".join(writer.pieces),)]))
