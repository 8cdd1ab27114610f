"""What a worker gathers comes out in the order in which it went in, in whatever form it waits meanwhile."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from runner.transport import item_codec
from runner.transport.messages import PICKLED
from runner.worker.outputs import MOST_ITEMS, Collector
from runner.worker.spec import Group

VALUES = st.one_of(st.integers(-5, 5), st.integers(1 << 62, 1 << 66), st.floats(0, 1), st.booleans(), st.just("text"))
STRETCHES = st.lists(st.tuples(st.one_of(st.integers(0, 3), st.just(MOST_ITEMS // 3)), VALUES), max_size=8)


@given(st.lists(st.one_of(VALUES, STRETCHES, st.just("compact")), max_size=12))
@settings(max_examples=200, deadline=None)
def test_items_come_out_as_they_went_in(steps: list[Any]) -> None:
    collector = Collector((Group("default", ("out",), PICKLED),))
    put: list[Any] = []
    for step in steps:
        if step == "compact":
            collector.compact()
        elif type(step) is list:
            stretch = [value for count, value in step for _ in range(count)]
            kinds = item_codec.kinds_of(stretch)
            if kinds <= item_codec.SMALL:
                collector.extend(stretch, kinds)
                put += stretch
        else:
            collector.emit(step)
            put.append(step)
        assert collector.waiting == len(put)
    outputs = collector.take()
    assert collector.waiting == 0
    assert not collector.take()
    out = [item_codec.thaw(frozen) for output in outputs for frozen in item_codec.decode(output.payload)]
    assert [(type(item), item) for item in out] == [(type(item), item) for item in put]
    assert [output.count for output in outputs] == [len(item_codec.decode(output.payload)) for output in outputs]
    assert all(output.count <= MOST_ITEMS for output in outputs)
