"""Large payloads inside one process: the allocator, and what becomes of views, by writer and reader tables alone."""

from __future__ import annotations

import gc
import os
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import NotPicklable, TooLarge
from runner.shm import reader, writer
from runner.shm.registry import ArenaRegistry, UnknownBlock
from runner.shm.writer import MIN_SHARED_BYTES, PAGE_SIZE, ArenaWriter, PageAllocator
from runner.transport import array_pickles, item_codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BIG = 4 * MIN_SHARED_BYTES
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory files"),
    pytest.mark.usefixtures("short_diffs"),
]


# -- the allocator ---------------------------------------------------------------------------------


@examples(60, 300)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9 * PAGE_SIZE), st.integers(0, 1 << 30)), max_size=80))
def test_pages_never_overlap_and_always_come_back(steps: list[tuple[bool, int, int]]) -> None:
    pages = PageAllocator(24 * PAGE_SIZE, max_bytes=20 * PAGE_SIZE)
    held: dict[int, int] = {}
    for take, length, which in steps:
        if take:
            size = -(-max(1, length) // PAGE_SIZE) * PAGE_SIZE
            at = pages.allocate_range(length)
            if at is None:
                fits = any(end - start >= size for start, end in pages.free_ranges)
                assert not fits or sum(held.values()) + size > 20 * PAGE_SIZE
                continue
            assert at % PAGE_SIZE == 0
            assert at + size <= 24 * PAGE_SIZE
            assert all(at + size <= start or start + span <= at for start, span in held.items())
            lower = [start for start, end in pages.free_ranges if end - start >= size and start < at]
            assert not lower, "the lowest gap is used first"
            held[at] = size
        elif held:
            at = sorted(held)[which % len(held)]
            del held[at]
            pages.free_range(at)
        assert pages.allocated_bytes == sum(held.values())
        edges = [edge for gap in pages.free_ranges for edge in gap]
        assert edges == sorted(set(edges)), "gaps are in order, and grown together"
    for at in held:
        pages.free_range(at)
    assert pages.free_ranges == [(0, 24 * PAGE_SIZE)]


# -- a writer and a reader ---------------------------------------------------------------------------


class Pair:
    """One writer's store, and this process as its reader; `offsets` says what is in use."""

    def __init__(self) -> None:
        self.store = ArenaWriter(next(self._numbers), self._announce)
        self.freezer = item_codec.ItemEncoder(1 << 30, self.store)
        self.told: set[tuple[int, int]] = set()

    _numbers = iter(range(1 << 40, 1 << 41))

    @staticmethod
    def _announce(number: int, fd: int) -> None:
        reader.open_arena(number, os.dup(fd))

    def send(self, item: Any) -> Any:
        """The item as a reader finds it in a payload."""
        travelling, self.slots = item_codec.mark_items_sent([self.freezer.encode_item(item)])
        return item_codec.decode_payload(item_codec.encode_payload(travelling))[0]

    def close(self) -> None:
        reader.take_view_changes()
        reader.forget_arena(self.store.arena_number)
        self.store.close()


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    made = Pair()
    monkeypatch.setattr(reader, "_copies_left", 0)
    array_pickles._pickles.clear()
    array_pickles._layouts.clear()
    yield made
    gc.collect(1)
    made.close()


class Buffer:
    """What protocol 5 gives a buffer of, without numpy."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:
        return Buffer, (pickle.PickleBuffer(self.data),)


def test_a_buffer_lies_in_the_arena_and_arrives_writable(pair: Pair) -> None:
    frozen = pair.send(Buffer(bytearray(b"x" * BIG)))
    assert len(frozen) == 2
    assert len(frozen[0]) < 200
    first = item_codec.decode_item(frozen)
    view = memoryview(first.data)
    view[0] = view[-1] = ord("y")
    again = item_codec.decode_item(
        frozen
    )  # given again while the first is alive: what was sent, not what was made of it
    assert bytes(again.data) == b"x" * BIG
    del first, view
    assert bytes(memoryview(item_codec.decode_item(frozen).data)) == b"x" * BIG, "the written pages have been dropped"


def test_read_only_stays_read_only(pair: Pair) -> None:
    assert memoryview(item_codec.decode_item(pair.send(Buffer(b"x" * BIG))).data).readonly


def test_the_supervisor_is_told_of_what_is_kept_once_and_of_its_end(pair: Pair) -> None:
    frozen = pair.send(Buffer(bytearray(BIG)))
    kept = item_codec.decode_item(frozen)
    key = frozen[1][0][:2]
    assert reader.take_view_changes() == ((key,), ())
    assert reader.take_view_changes() == ((), ())
    derived = memoryview(kept.data)[5:50]
    del kept
    assert reader.take_view_changes() == ((), ()), "a part of it is looked at still"
    del derived
    assert reader.take_view_changes() == ((), (key,))


def test_what_was_never_kept_is_never_told(pair: Pair) -> None:
    item_codec.decode_item(pair.send(Buffer(bytearray(BIG))))
    assert reader.take_view_changes() == ((), ())


def test_what_is_freed_is_used_again_and_what_is_held_is_not(pair: Pair) -> None:
    first = pair.send(Buffer(bytearray(b"1" * BIG)))
    second = pair.send(Buffer(bytearray(b"2" * BIG)))
    held = item_codec.decode_item(second)
    pair.store.freed_offsets.append(first[1][0][1])
    third = pair.send(Buffer(bytearray(b"3" * BIG)))
    assert third[1][0][:2] == first[1][0][:2]
    assert bytes(memoryview(item_codec.decode_item(third).data)) == b"3" * BIG
    assert bytes(memoryview(held.data)) == b"2" * BIG


def test_passed_on_unchanged_it_is_the_same_slot(pair: Pair) -> None:
    frozen = pair.send(Buffer(bytearray(b"x" * BIG)))
    item = item_codec.decode_item(frozen)
    used = pair.store.bytes_in_use
    assert pair.send(item)[1] == frozen[1]
    memoryview(item.data)[7] = 0
    changed = pair.send(item)
    assert changed[1] != frozen[1], "small: copied whole"
    assert pair.store.bytes_in_use == 2 * used
    assert bytes(memoryview(item_codec.decode_item(changed).data)) == b"x" * 7 + b"\0" + b"x" * (BIG - 8)


def test_a_changed_page_travels_beside_the_handle(pair: Pair) -> None:
    size = 1 << 20
    frozen = pair.send(Buffer(bytearray(b"x" * size)))
    item = item_codec.decode_item(frozen)
    memoryview(item.data)[size - 1] = 0
    changed = pair.send(item)
    assert changed[1][0][:3] == frozen[1][0]
    assert [(start, len(content)) for start, content in changed[1][0][3]] == [(size - PAGE_SIZE, PAGE_SIZE)]
    right = b"x" * (size - 1) + b"\0"
    assert bytes(item_codec.decode_item(changed).data) == right, "while the first is alive: a copy"
    del item
    second = item_codec.decode_item(changed)
    assert bytes(memoryview(second.data)) == right
    memoryview(second.data)[0] = 1
    third = pair.send(second)
    del second
    assert bytes(memoryview(item_codec.decode_item(third).data)) == b"\1" + right[1:]
    assert bytes(memoryview(item_codec.decode_item(frozen).data)) == b"x" * size


@pytest.mark.parametrize(
    "item",
    [
        b"b" * BIG,
        bytearray(b"a" * BIG),
        "\ud800ü" * BIG,
        {"body": b"n" * BIG, "rest": [bytearray(BIG), "s" * BIG, b"", 1]},
        [b"1" * BIG, b"2" * BIG],
        b"",
        bytearray(),
    ],
    ids=["bytes", "bytearray", "text", "nested", "list", "empty", "empty bytearray"],
)
def test_bytes_and_text(pair: Pair, item: Any) -> None:
    for _ in range(3):  # from the second on it is written piece by piece
        frozen = pair.send(item)
        got = item_codec.decode_item(frozen)
        assert got == item
        assert type(got) is type(item)
    if len(item) > 10:
        assert len(item_codec.encode_payload([frozen])) < 500


def test_what_cannot_be_pickled_leaves_nothing(pair: Pair) -> None:
    pair.send(Buffer(bytearray(BIG)))
    used = pair.store.bytes_in_use
    with pytest.raises(NotPicklable):
        pair.freezer.encode_item([Buffer(bytearray(BIG)), lambda: 0])
    frozen = pair.freezer.encode_item(Buffer(bytearray(BIG)))
    assert pair.store.bytes_in_use == used + BIG
    del frozen
    assert pair.store.bytes_in_use == used


def test_too_large_counts_what_lies_in_arenas(pair: Pair) -> None:
    with pytest.raises(TooLarge):
        item_codec.ItemEncoder(BIG - 1, pair.store).encode_item(Buffer(bytearray(BIG)))
    with pytest.raises(TooLarge):
        item_codec.ItemEncoder(2 * BIG - 1, pair.store).encode_item([Buffer(bytearray(BIG)), Buffer(bytearray(BIG))])
    assert pair.store.bytes_in_use == 0


def _full(store: ArenaWriter, patch: pytest.MonkeyPatch) -> None:
    store._pages.max_bytes = BIG // 2


def _no_memfd(store: ArenaWriter, patch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(24, "Too many open files")

    patch.setattr(os, "memfd_create", refuse)


def _no_pages(store: ArenaWriter, patch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, start: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    patch.setattr(os, "posix_fallocate", refuse)


@pytest.mark.parametrize("break_it", [_full, _no_memfd, _no_pages])
def test_without_an_arena_it_travels_in_the_pickle(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, break_it: Callable[[ArenaWriter, pytest.MonkeyPatch], None]
) -> None:
    break_it(pair.store, monkeypatch)
    for item in (Buffer(bytearray(b"x" * BIG)), Buffer(bytearray(b"x" * BIG))):
        frozen = pair.send(item)
        assert len(frozen) == 1
        assert bytes(item_codec.decode_item(frozen).data) == b"x" * BIG
    assert item_codec.decode_item(pair.send(b"y" * BIG)) == b"y" * BIG
    assert pair.store.bytes_in_use == 0


def test_where_pages_cannot_be_asked_about_all_are_dropped(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> bytes:
        raise PermissionError

    monkeypatch.setattr(os, "pread", refuse)
    frozen = pair.send(Buffer(bytearray(b"x" * BIG)))
    memoryview(item_codec.decode_item(frozen).data)[:] = bytes(BIG)
    assert bytes(memoryview(item_codec.decode_item(frozen).data)) == b"x" * BIG
    assert item_codec.decode_item(pair.send(item_codec.decode_item(frozen))).data is not None


@pytest.mark.parametrize("counted", [True, False])
def test_pages_are_asked_about_after_a_page_fault_alone(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, counted: bool
) -> None:
    asked: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda *args: asked.append(1) or pread(*args))
    monkeypatch.setattr(reader, "_faults_are_counted", lambda: counted)
    size = 1 << 20
    frozen = pair.send(Buffer(bytearray(b"x" * size)))
    for number in range(1, 50):
        item = item_codec.decode_item(frozen)
        view = memoryview(item.data)
        assert view[::PAGE_SIZE] == b"x" * (size // PAGE_SIZE)
        first = pair.send(item)
        assert first[1] == frozen[1]
        if number % 5 == 0:
            view[number] = number
            assert pair.send(item)[1] != frozen[1], "it has been written since"
        del item, view
    quiet = len(asked) < 50
    assert quiet == counted, len(asked)


def test_after_a_buffer_that_was_rewritten_the_next_ones_are_copies(pair: Pair) -> None:
    size, mapped = 1 << 20, []
    frozen = pair.send(Buffer(bytearray(b"x" * size)))
    for number in range(70):
        item = item_codec.decode_item(frozen)
        mapped.append(type(item.data) is not bytearray)
        with memoryview(item.data) as view:
            assert bytes(view) == b"x" * size
            view[:] = bytes([number]) * size
        del item
    assert [at for at, each in enumerate(mapped) if each] == [0, 32, 64]
    for _ in range(32):  # what is only read is not copied any more
        item_codec.decode_item(frozen)
    item = item_codec.decode_item(frozen)
    assert type(item.data) is not bytearray
    assert pair.send(item)[1] == frozen[1]


def test_a_process_that_may_not_map_reads_copies(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen = pair.send(Buffer(bytearray(b"x" * BIG)))
    monkeypatch.setattr(reader.MappedArena, "map_memory", lambda self: None)
    assert bytes(item_codec.decode_item(frozen).data) == b"x" * BIG
    assert item_codec.decode_item(pair.send(b"y" * BIG)) == b"y" * BIG


def test_an_arena_that_did_not_arrive_fails_as_that_item() -> None:
    with pytest.raises(OSError, match="ulimit"):
        item_codec.decode_item((b"", ((1 << 50, 0, BIG),)))


def test_a_source_that_readers_give_nothing_back_is_content_with_more(pair: Pair) -> None:
    held = [pair.send(bytes(1 << 20)) for _ in range((writer.READER_WAIT_BYTES >> 20) + 1)]
    assert pair.store.should_wait_for_readers()
    pair.store.double_wait_threshold()
    assert not pair.store.should_wait_for_readers()
    assert held


def test_a_refused_arena_leaves_no_descriptor_open() -> None:
    registry = ArenaRegistry()
    memory = registry.register_worker()
    for number, why in ((memory.number, "could shrink"), (memory.number + 1, "cannot have")):
        read_end, write_end = os.pipe()
        with pytest.raises(UnknownBlock, match=why):
            registry.register_arena(memory, number, read_end)
        with pytest.raises(BrokenPipeError):
            os.write(write_end, b"x")
        os.close(write_end)
    with pytest.raises(UnknownBlock, match="cannot have"):
        registry.register_arena(memory, memory.number, -1)
    registry.close()


# -- arrays ----------------------------------------------------------------------------------------


def _arrays() -> dict[str, Callable[[], Any]]:
    import numpy as np

    def read_only() -> Any:
        array = np.arange(20_000.0)
        array.flags.writeable = False
        return array

    class Own(np.ndarray):  # type: ignore[type-arg]  # numbers of any type
        pass

    globals()["Own"] = Own
    Own.__qualname__, Own.__module__ = "Own", __name__
    plain = {
        dtype: lambda dtype=dtype: (np.arange(80_000) % 1000).astype(dtype)
        for dtype in ("i8", "q", "f4", "f2", "c16", "?", ">i8", "M8[s]", "U4")
    }
    return {
        **plain,
        "two dimensions": lambda: np.arange(40_000.0).reshape(200, 200),
        "one column": lambda: np.arange(20_000.0).reshape(-1, 1),
        "as Fortran": lambda: np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
        "with gaps": lambda: np.arange(80_000)[::2],
        "with metadata": lambda: np.arange(20_000).view(np.dtype("i8", metadata={"unit": "m"})),
        "fields": lambda: np.zeros(20_000, [("x", "i4"), ("y", "f8")]),
        "read only": read_only,
        "a subclass": lambda: np.arange(20_000).view(Own),
    }


@pytest.mark.parametrize("kind", list(_arrays()))
def test_an_array_arrives_as_it_would_in_a_pickle(pair: Pair, kind: str) -> None:
    for _ in range(4):  # the pickles of the first ones are kept
        for name, make in _arrays().items():
            if name not in {kind, "i8", "two dimensions"}:
                continue
            array = make()
            pickled = pickle.dumps(array, 5, buffer_callback=lambda _: False)
            frozen, expected = pair.send(array), pickle.loads(pickle.dumps(array, 5))
            assert frozen[0] in {pickled, None} or len(frozen) == 1
            found = item_codec.decode_item(frozen)
            assert type(found) is type(expected)
            assert (found.dtype, found.shape, found.strides) == (expected.dtype, expected.shape, expected.strides)
            assert found.dtype.metadata == expected.dtype.metadata
            assert found.flags.writeable == expected.flags.writeable
            assert found.tobytes() == expected.tobytes()
            again = item_codec.decode_item(pair.send(found))
            assert again.tobytes() == expected.tobytes()
            del found, again


def test_a_plain_array_is_neither_pickled_nor_unpickled_again(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    make = _arrays()["i8"]
    frozen = pair.send(make())
    item_codec.decode_item(frozen)
    for name in ("_dumps", "_loads"):
        monkeypatch.setattr(item_codec, name, lambda *_, **__: pytest.fail("pickled"))
    item = item_codec.decode_item(frozen)
    item[5] = -1
    encoded = pair.freezer.encode_item(item)
    assert len(encoded) == 2
    assert item_codec.decode_item(item_codec.mark_items_sent([encoded])[0][0])[5] == -1


@pytest.mark.parametrize("length", [2, 20_000])
def test_an_array_of_objects_of_which_one_is_large(pair: Pair, length: int) -> None:
    import numpy as np

    for number in range(3):
        array = np.empty(length, object)
        array[0] = np.full(20_000, 7.0)
        array[1] = number
        found = item_codec.decode_item(pair.send(array))
        assert (found.dtype, found.shape, found[1]) == (array.dtype, array.shape, number)
        assert (found[0] == array[0]).all()
        equal = np.empty(length, object)
        equal[0] = np.full(20_000, float(number))
        assert (item_codec.decode_item(pair.send(equal))[0] == number).all()


def test_an_array_that_the_user_pickles_in_a_way_of_theirs(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    import copyreg

    import numpy as np

    make = _arrays()["i8"]
    item_codec.decode_item(pair.send(make()))
    monkeypatch.setitem(copyreg.dispatch_table, np.ndarray, lambda array: (str, (f"{len(array)} numbers",)))
    assert item_codec.decode_item(pair.send(make())) == "80000 numbers"


def test_an_array_for_which_the_arena_has_no_room_is_pickled(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    make = _arrays()["i8"]
    item_codec.decode_item(pair.send(make()))
    monkeypatch.setattr(pair.store, "copy_in", lambda *_: None)
    frozen = pair.send(make())
    assert len(frozen) == 1
    assert item_codec.decode_item(frozen).tobytes() == make().tobytes()


def test_too_many_shapes_are_not_kept(pair: Pair) -> None:
    import numpy as np

    for length in range(20_000, 20_200):
        assert item_codec.decode_item(pair.send(np.full(length, length))).sum() == length * length
    assert len(array_pickles._pickles) <= array_pickles._MAX_KEPT >= len(array_pickles._layouts)
