"""The grain: found within the first moments, followed when it changes, fair at the end. Exact, without a clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.chunk_sizing import TIME_SLICE, ChunkSizer, time_slice_for


def settle(grain: ChunkSizer, cost: float, chunks: int = 40, available: int = 10**6) -> tuple[int, float]:
    """Feed chunks of items that cost `cost` seconds; the last chunk's size, and the seconds until it was reached."""
    spent = 0.0
    size = 0
    for _ in range(chunks):
        size = grain.items_to_grant(available, 1)
        spent += size * cost
        grain.learn_cost(size, size * cost)
    return size, spent


def test_the_grain_of_quick_items_is_found_within_fifty_milliseconds() -> None:
    grain = ChunkSizer()
    spent, cost = 0.0, 1e-6
    while grain.items_to_grant(10**6, 1) * cost < TIME_SLICE / 2:
        size = grain.items_to_grant(10**6, 1)
        spent += size * cost
        grain.learn_cost(size, size * cost)
    assert spent < 0.05


def test_slow_items_go_one_by_one() -> None:
    assert settle(ChunkSizer(), 0.5)[0] == 1


def test_slow_after_quick_falls_at_once_and_quick_after_slow_rises_again() -> None:
    grain = ChunkSizer()
    quick, _ = settle(grain, 1e-5)
    assert quick >= 900
    grain.learn_cost(1, TIME_SLICE)  # the worker handed the rest back after one item
    assert grain.items_to_grant(10**6, 1) == 1
    spent = 0.0
    while grain.items_to_grant(10**6, 1) < 900:
        size = grain.items_to_grant(10**6, 1)
        grain.learn_cost(size, size * 1e-5)
        spent += size * 1e-5
    assert spent < 0.05


def test_the_end_of_a_stream_is_shared_out() -> None:
    grain = ChunkSizer()
    settle(grain, 1e-3)
    assert grain.items_to_grant(10, 4) == 3
    assert grain.items_to_grant(1, 4) == 1


def test_who_has_something_to_do_gets_less_than_is_due_to_him() -> None:
    grain = ChunkSizer()
    settle(grain, 1e-3)
    assert grain.items_to_grant(40, 2, leased=40, held=20) == 5  # 20 are due
    assert grain.items_to_grant(40, 2, leased=80, held=60) == 1  # the other one has less
    assert grain.items_to_grant(400, 2, leased=40, held=20) == 50  # there is a slice for everybody


def test_what_is_done_in_no_time_is_not_shared_out() -> None:
    grain = ChunkSizer()
    settle(grain, 1e-6)
    assert grain.items_to_grant(600, 4) == 600  # in the time that four grants take
    assert grain.items_to_grant(2000, 4) == 800


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(1e-7, 1.0)), min_size=1, max_size=50))
def test_a_chunk_is_never_more_than_twice_the_largest_so_far(history: list[tuple[int, float]]) -> None:
    grain = ChunkSizer()
    most = 1
    for available, cost in history:
        size = grain.items_to_grant(available, 1)
        assert 1 <= size <= max(1, min(2 * most, available))
        most = max(most, size)
        grain.learn_cost(size, size * cost)


def test_the_slice_grows_with_the_crowd() -> None:
    assert time_slice_for(1) == time_slice_for(50) == TIME_SLICE
    assert time_slice_for(200) == 4 * TIME_SLICE
