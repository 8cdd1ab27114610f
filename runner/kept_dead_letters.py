"""What a run keeps of the items that it gives up: letters, and the items themselves within `dead_items`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner.errors import UnsafeFolder
from runner.store.dead_items import DeadItemFile
from runner.store.dead_letters import DeadLetterFile
from runner.supervisor.dead_letters import DeadLetterPayload, DeadLetterSink
from runner.transport.kept_items import KeptPayloads, NotKept, too_large
from runner.transport.messages import PICKLED

if TYPE_CHECKING:
    from runner.ledger.leases import GivenUp
    from runner.report.printer import Printer
    from runner.supervisor.dead_letters import FailureEvidence
    from runner.supervisor.plan import Plan
    from runner.transport.messages import KeptItem


class RunDeadLetters(DeadLetterSink):
    """The run's own store of dead letters."""

    def __init__(self, plan: Plan, printer: Printer) -> None:
        self.file = DeadLetterFile(plan.settings.state, plan.run_id, {"title": plan.title, **plan.origin})
        self._items = DeadItemFile(plan.settings.state, plan.run_id, plan.settings.dead_items)
        self._payloads = KeptPayloads()
        self._plan = plan
        self._printer = printer
        #: Letters whose items could have been kept, and are not.
        self.not_kept = 0

    def close(self) -> None:
        """Close its files."""
        self.file.close()
        self._items.close()

    def store_letter(self, given_up: GivenUp, preview: str, kept: KeptItem | None = None) -> None:
        """Write it down, and the item's bytes."""
        evidence: FailureEvidence = given_up.evidence
        letter: dict[str, Any] = {"id": given_up.item_range.item_id, "queue": given_up.queue}
        letter |= {word: getattr(evidence.text, word) for word in ("task", "worker", "attempts", "error", "traceback")}
        if lane := self._plan.queues[given_up.queue].lane:  # to be in the same lane when it is given again
            letter |= {"lane": lane, "bucket": given_up.item_range.chunk.bucket}
        self.file.append({**letter, "preview": preview, "output": evidence.output, **self._keep_item(given_up, kept)})

    def _keep_item(self, given_up: GivenUp, kept: KeptItem | None) -> dict[str, Any]:
        """Keep the item's bytes; return what its letter says of them: where they are, or why they are not kept."""
        if self._plan.settings.durable:
            return {"not_kept": "the ledger of its run has it"}
        if not self._plan.settings.dead_items:
            return {"not_kept": "`dead_items` in [run] is 0"}
        piece = given_up.item_range
        payload, index, kind = piece.chunk.payload, piece.start, self._plan.payload_kinds[given_up.queue]
        text = None
        if isinstance(payload, DeadLetterPayload):
            payload, index, kind, text = payload.payload, payload.index, payload.kind, payload.text
        try:
            data = self._item_bytes(payload, index, kind, kept)
            place: dict[str, Any] = {"kept": self._items.append(data)}
        except (NotKept, OSError, UnsafeFolder) as error:
            self.not_kept += 1
            return {"not_kept": self._plan.secret_mask(getattr(error, "strerror", None) or str(error))}
        if text is not None:  # it was a letter in a queue, and is one when it is given again
            place["letter"] = [text.error, text.traceback, text.task, text.worker, text.attempts]
        return place

    def _item_bytes(self, payload: Any, index: int, kind: int, kept: KeptItem | None) -> bytes:
        room = self._items.room
        if not room:
            raise NotKept("`dead_items` in [run] is used up")
        if kept is not None and kept.why:
            raise NotKept(kept.why)
        if kind == PICKLED:
            data = self._payloads.one_item_payload(payload, index, room)
        elif kept is not None:
            data = kept.data
        else:
            raise NotKept("its worker, a thread, has ended, and the item is an object without bytes")
        if len(data) > room:
            raise too_large(len(data), room)
        if self._plan.secret_mask.is_in(data):
            raise NotKept("it holds the value of a secret param, which is never written to disk")
        return data

    def last_output(self, worker: str, *, fresh: bool = False) -> str:
        """Return the last lines that it printed."""
        if fresh:
            self._printer.flush(timeout=0.2)
        return self._printer.last_output(worker)
