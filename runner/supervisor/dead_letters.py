"""The run's own store: dead letters go there that no queue of the file takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from runner.transport.messages import FailureText


class DeadLetterRecord(Struct, frozen=True):
    """One dead letter: its text, a short look at the item, and where the item's bytes are."""

    item_id: str
    queue: str
    text: FailureText
    preview: str
    output: str
    payload: Any
    index: int
    kind: int


class DeadLetterSink:
    """Keeps nothing: the balance counts the dead anyway. A store that writes them down overrides `keep`."""

    def store_letter(self, record: DeadLetterRecord) -> None:
        """Store a dead letter that no queue takes."""

    def last_output(self, worker: str, *, fresh: bool = False) -> str:  # noqa: ARG002  an override needs them
        """Return what a worker printed last, as evidence; `fresh`: read its pipes first, because it is dead."""
        return ""
