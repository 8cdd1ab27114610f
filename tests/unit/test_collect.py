"""What a worker gathers comes out in the order in which it went in, in whatever form it waits meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import examples
from hypothesis import example, given
from hypothesis import strategies as st

from runner.transport import item_codec
from runner.transport.messages import OBJECTS, PICKLED
from runner.worker.outputs import MAX_CHUNK_ITEMS, OutputBuffer
from runner.worker.spec import OutputGroup

VALUES = st.one_of(st.integers(-5, 5), st.integers(1 << 62, 1 << 66), st.floats(0, 1), st.booleans(), st.just("text"))
STRETCHES = st.lists(st.tuples(st.one_of(st.integers(0, 3), st.just(MAX_CHUNK_ITEMS // 3)), VALUES), max_size=8)


#: As a worker gathers the results of its bursts: of one type each, most of them.
BURST = st.tuples(st.sampled_from([1, 100, 512, MAX_CHUNK_ITEMS, MAX_CHUNK_ITEMS + 1]), VALUES).map(lambda one: [one])


@pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])
@given(st.lists(st.one_of(VALUES, BURST, STRETCHES), max_size=12))
@examples(50, 200)
@example([[(100, 1)], [(100, 2.5)], [(100, 1)], 3, [(100, 1)]])
@example([[(MAX_CHUNK_ITEMS - 1, 1)], [(1, 1)], [(1, 1)]])
@example([[(MAX_CHUNK_ITEMS + 1, 1)], [(1, 1)]])
@example([[(100, 1)], [(100, 1 << 64)], [(100, 1)]])
def test_items_come_out_as_they_went_in(kind: int, steps: list[Any]) -> None:
    collector = OutputBuffer((OutputGroup("default", ("out",), kind),))
    put: list[Any] = []
    for step in steps:
        if type(step) is list:
            stretch = [value for count, value in step for _ in range(count)]
            kinds = item_codec.types_of(stretch)
            if kinds <= item_codec.SMALL_TYPES:
                collector.emit_many(stretch, kinds)
                put += stretch
        else:
            collector.emit_item(step)
            put.append(step)
    outputs = collector.take_outputs()
    assert not collector.direct_buffer
    assert not collector.take_outputs()
    chunks = [output.payload if kind == OBJECTS else item_codec.decode_payload(output.payload) for output in outputs]
    out = [item_codec.decode_item(frozen) for chunk in chunks for frozen in chunk]
    assert [(type(item), item) for item in out] == [(type(item), item) for item in put]
    assert [output.count for output in outputs] == list(map(len, chunks))
    assert all(output.count <= MAX_CHUNK_ITEMS for output in outputs)


def test_small_values_are_encoded_as_soon_as_they_fill_a_chunk() -> None:
    buffer = OutputBuffer((OutputGroup("default", ("out",), PICKLED),))
    assert buffer.direct_buffer is not None
    waiting = []
    for start in range(0, 20_480, 512):
        buffer.emit_many(list(range(start, start + 512)), {int})
        waiting.append(len(buffer.direct_buffer))
    assert max(waiting) < MAX_CHUNK_ITEMS
    outputs = buffer.take_outputs()
    assert [output.count for output in outputs] == [MAX_CHUNK_ITEMS, MAX_CHUNK_ITEMS, 4096]
    out = [item_codec.decode_item(each) for output in outputs for each in item_codec.decode_payload(output.payload)]
    assert out == list(range(20_480))


@pytest.mark.parametrize("kind", [OBJECTS, PICKLED], ids=["objects", "pickled"])
def test_what_comes_behind_single_items_is_packed_as_well(kind: int) -> None:
    buffer = OutputBuffer((OutputGroup("default", ("out",), kind),))
    assert buffer.direct_buffer is not None
    put: list[Any] = []
    for start in range(0, 5_120, 1024):
        buffer.emit_item(start)  # a part of a grant may be one item
        assert len(buffer.direct_buffer) == 1
        buffer.emit_many(list(range(start, start + 512)), {int})
        assert not buffer.direct_buffer
        put += [start, *range(start, start + 512)]
    (output,) = buffer.take_outputs()
    assert put == (output.payload if kind == OBJECTS else item_codec.decode_payload(output.payload))
