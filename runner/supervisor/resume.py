"""A run that goes on: its state from the image of its ledger; the interface of what keeps that, and its payloads."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec
from msgspec.structs import replace

from runner.ledger.balance import ItemCounts
from runner.ledger.restore import restore_ledger
from runner.ledger.subscriptions import queue_of_line
from runner.supervisor.dead_letters import DeadLetterPayload, FailureEvidence
from runner.supervisor.shutdown import skip_task
from runner.text import count_with_noun
from runner.topology import Stage
from runner.transport.messages import FailureText

if TYPE_CHECKING:
    from collections.abc import Collection

    from runner.ledger.chunks import Chunk
    from runner.ledger.journal import JournalGroup, LedgerImage
    from runner.supervisor.plan import Plan
    from runner.supervisor.run_state import RunState


class GroupKeeper(Protocol):
    """Writes the groups of the journal to disk, in their order, and posts `GroupKept`.

    `trouble` says why it cannot at the moment, and goes on trying; with `is_broken` it does not try any more, with a
    `fault` that is runner's own.
    """

    trouble: str
    is_broken: bool
    fault: BaseException | None

    def keep(self, group: JournalGroup) -> None:
        """Write a group; never blocks."""


def restore_run(state: RunState, image: LedgerImage) -> None:
    """Fill the state of a run that has not begun; an empty image is that of a new run."""
    restore_ledger(state.ledger, image)
    for line in state.ledger.subscriptions:  # a copied queue has a line for each reader, of which one may be new
        state.audit.retried_by_line[line.name] = line.counts.put
    for name, tally in image.task_tallies.items():
        state.audit.ended_by_task[name] = tally.done + tally.dead + tally.dropped
        state.earlier_counts[name] = ItemCounts(done=tally.done, dead=tally.dead, dropped=tally.dropped)
    _finish_ended_tasks(state, image)
    if state.plan.drains:
        given = {task for task, _ in image.sources} - state.tasks.keys() - image.ended_tasks
        unfinished = {name for name, task in state.tasks.items() if task.is_source and not task.dismissed}
        state.drained_sources |= given | unfinished


def skip_drained_sources(state: RunState) -> None:
    """End the sources that are not started, before anything else begins."""
    for name in sorted(state.drained_sources & state.tasks.keys()):
        skip_task(state, state.tasks[name], "--drain starts no task without inputs")


def find_graph_changes(plan: Plan, image: LedgerImage, dropped: Collection[str] = ()) -> list[str]:
    """Return what the ledger needs and the plan does not have: queues that hold items, and sources that gave some.

    A queue that was put items is one of dead letters, or none, as before: letters are counted where their items died.
    One that holds items has the lanes that it had: their buckets are those of these.
    `dropped` are lines whose items are counted as dropped first. A run that is drained needs no source.
    """
    lines = {line.name for line in plan.subscriptions(plan.build_topology().readers)}
    changes = [
        f"queue `{line}`, which holds {count_with_noun(count, 'item')}, is not there; --drop {shlex.quote(line)}"
        for line, count in sorted(image.count_owed().items())
        if line not in lines and line not in dropped
    ]
    for line, count in sorted(image.count_owed().items()):
        queue = queue_of_line(line)
        if line not in lines or line in dropped or plan.queues[queue].lane in ("", image.lanes.get(queue, "")):
            continue
        had = f'`lane = "{image.lanes[queue]}"`' if queue in image.lanes else "no `lane`"
        text = f"queue `{line}`, which holds {count_with_noun(count, 'item')}, had {had} when they came"
        changes.append(f"{text}; --drop {shlex.quote(line)}")
    letters = {task.config.dead for task in plan.tasks.values()}
    was_put = {queue_of_line(line) for line, counts in image.line_counts.items() if counts.put}
    changes += [
        f"queue `{queue}` has carried {'dead letters, and does not now' if queue not in letters else 'no dead letters'}"
        for queue in sorted(was_put.intersection(plan.queues))
        if (queue in letters) != (queue in image.letter_queues)
    ]
    for task, worker in () if plan.drains else sorted(image.sources):
        if task not in plan.tasks or plan.tasks[task].config.inputs:
            changes.append(f"source `{task}`, which has given items, is not there; --drain goes on without it")
        elif worker not in plan.tasks[task].config.workers:
            changes.append(f"source `{task}` has no worker `{worker}`, which has given items; --drain goes on without")
        else:
            place, has_key = image.sources[task, worker], bool(plan.tasks[task].config.key)
            if has_key and place.keyed < place.made:
                changes.append(f"source `{task}` has a `key` now, and none when it gave its first items")
            elif place.keyed and not has_key:
                changes.append(f"source `{task}` has no `key` any more, by which its items were known")
    return list(dict.fromkeys(changes))


def _finish_ended_tasks(state: RunState, image: LedgerImage) -> None:
    """Finish the tasks that had ended well and to which nothing can come any more; all others begin again."""
    topology, journal = state.topology, state.ledger.journal
    assert journal is not None
    for component in reversed(topology.cycles):  # sources first
        inputs = [queue for name in component for queue in topology.nodes[name].inputs]
        if (
            image.ended_tasks.issuperset(component)
            and image.again.isdisjoint(component)
            and not any(map(state.ledger.queued_items, component))
            and all(topology.is_closed(queue, component) for queue in inputs)
        ):
            for name in component:
                topology.finish(name, Stage.OK)
                state.tasks[name].dismissed = True
                state.ledger.remove_reader(name, topology.ended_tasks)
        else:
            for name in image.ended_tasks.intersection(component):
                journal.ended(name, has_ended=False)


class MessagePacker:
    """Packs payloads and evidence for the ledger on disk.

    >>> from runner.ledger.chunks import Chunk
    >>> from runner.transport.messages import PICKLED
    >>> packer, item = MessagePacker(), Chunk(1, b"payload", 1, 7)
    >>> letter = DeadLetterPayload(b"payload", 0, PICKLED, 1, FailureText("e", "t", "work", "work", 1))
    >>> packed = packer.pack_payload(Chunk(2, letter, 1, 64, origin=1))
    >>> packer.unpack_payload(*packed, item) == letter
    True
    """

    def pack_payload(self, chunk: Chunk) -> tuple[bytes, bytes]:
        """Return (payload, letter) of a chunk; that of a letter is in its `origin`."""
        letter = chunk.payload
        if not isinstance(letter, DeadLetterPayload):
            return letter, b""
        return b"", msgspec.msgpack.encode((letter.index, letter.kind, letter.number, letter.text))

    def unpack_payload(self, payload: bytes, letter: bytes, origin: Chunk | None) -> Any:
        """Return what was packed."""
        if origin is None:
            return payload
        index, kind, number, text = msgspec.msgpack.decode(letter, type=tuple[int, int, int, FailureText])
        return DeadLetterPayload(origin.payload, index, kind, number, text)

    def pack_evidence(self, evidence: FailureEvidence) -> bytes:
        """Return the evidence of a dead item."""
        return msgspec.msgpack.encode(evidence)

    def unpack_evidence(self, data: bytes) -> FailureEvidence:
        """Return what was packed."""
        return msgspec.msgpack.decode(data, type=FailureEvidence)


class _DamagedItem:
    """Stands for an item whose bytes on disk are not what they were: reading it is the item's error."""

    def __reduce__(self) -> tuple[Any, tuple[()]]:
        return _raise_damaged, ()


def _raise_damaged() -> NoReturn:
    raise ValueError("this item is damaged on disk: its bytes are not those that were written")


def replace_damaged(image: LedgerImage, damaged_chunks: set[int]) -> None:
    """Put items that cannot be read in the place of damaged ones: each becomes a dead letter that says so."""
    from runner.transport import item_codec  # few runs need it here

    encoded = item_codec.ItemEncoder(1 << 20).encode_item(_DamagedItem())
    for number in damaged_chunks:
        chunk = image.chunks[number]
        image.chunks[number] = replace(chunk, payload=item_codec.encode_payload([encoded] * chunk.count), origin=0)
