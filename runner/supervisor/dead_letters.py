"""Dead letters: what is known of a failure, what travels to a queue of the file, and the run's own store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runner.error_text import item_name
from runner.transport.messages import FailureText, KeptItem  # noqa: TC001  msgspec reads the hints of what it decodes

if TYPE_CHECKING:
    from runner.ledger.leases import GivenUp


class FailureEvidence(Struct, frozen=True):
    """Evidence of an item's last failure, in a batch the first's. `output`: its worker's last.

    Of each item of a batch: `previews`; and of objects of threads `kept`, as in a `Failure`.
    """

    text: FailureText
    preview: str
    output: str
    item: str
    previews: tuple[str, ...]
    kept: tuple[KeptItem, ...] = ()

    @property
    def name(self) -> str:
        """Return the item's name in a sentence."""
        return item_name(self.preview, self.item)


class DeadLetterPayload(Struct, frozen=True):
    """The payload of a chunk that is one item where it lay, and what is said of it in a queue of dead letters.

    Without `text` it is an ordinary item that a dead letter of an earlier run has kept.
    """

    payload: Any
    index: int
    kind: int
    number: int
    text: FailureText | None


class DeadLetterSink:
    """Keeps nothing: the balance counts the dead anyway. A store that writes them down overrides `store_letter`."""

    def store_letter(self, given_up: GivenUp, preview: str, kept: KeptItem | None = None) -> None:
        """Store the letter of an item that no queue takes; `given_up.evidence` is its `FailureEvidence`.

        `kept` is what its worker says of its bytes.
        """

    def last_output(self, worker: str, *, fresh: bool = False) -> str:  # noqa: ARG002  an override needs them
        """Return what a worker printed last, as evidence; `fresh`: read its pipes first, because it is dead."""
        return ""
