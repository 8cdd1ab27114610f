"""Moves of a line of the ledger, for models of it: what is put, taken, given back, done and woken, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from runner.ledger.subscriptions import ItemRange


def names_of(piece: ItemRange) -> list[str]:
    """Return the ids of the items of a range."""
    return [f"{piece.chunk.number}.{index}" for index in range(piece.start, piece.start + piece.count)]


def moves(put: Any, take: Any, most: int) -> Any:
    """At most so many moves; `put` and `take` are strategies of two values each, which the others do not have."""
    held = st.integers(0, 5)
    return st.lists(
        st.one_of(
            st.tuples(st.just("put"), *put),
            st.tuples(st.just("take"), *take),
            st.tuples(st.just("back"), held, st.booleans()),
            st.tuples(st.just("done"), held, st.just(0)),
            st.tuples(st.just("wake"), st.just(0), st.just(0)),
        ),
        max_size=most,
    )
