"""Sinks of runner's that are loops over their Inbox, as the peers' are loops over what they are given."""

from __future__ import annotations

from bench.functions import consume
from runner import Inbox  # noqa: TC001  read at run time


def add_up(inbox: Inbox[int]) -> None:
    """The sink of small items, as a loop."""
    consume(inbox)


LOOP = "bench.loops:add_up"
