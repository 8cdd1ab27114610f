"""A run that goes on: its state from the image of its ledger; and the interface of what keeps that on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from runner.ledger.restore import restore_ledger
from runner.topology import Stage

if TYPE_CHECKING:
    from runner.ledger.journal import JournalGroup, LedgerImage
    from runner.supervisor.run_state import RunState


class GroupKeeper(Protocol):
    """Writes the groups of the journal to disk, in their order, and posts `GroupKept`.

    `trouble` says why it cannot at the moment, and goes on trying; with `is_broken` it does not try any more.
    """

    trouble: str
    is_broken: bool

    def keep(self, group: JournalGroup) -> None:
        """Write a group; never blocks."""


def restore_run(state: RunState, image: LedgerImage) -> None:
    """Fill the state of a run that has not begun; an empty image is that of a new run."""
    restore_ledger(state.ledger, image)
    for line in state.ledger.subscriptions:  # a copied queue has a line for each reader, which were put the same
        state.audit.sent_by_queue[line.queue] = line.counts.put
    for name, tally in image.task_tallies.items():
        state.audit.ended_by_task[name] = tally.done + tally.dead + tally.dropped
    _finish_ended_tasks(state, image)


def _finish_ended_tasks(state: RunState, image: LedgerImage) -> None:
    """Finish the tasks that had ended well and to which nothing can come any more; all others begin again."""
    topology, journal = state.topology, state.ledger.journal
    assert journal is not None
    for component in reversed(topology.cycles):  # sources first
        inputs = [queue for name in component for queue in topology.nodes[name].inputs]
        if (
            image.ended_tasks.issuperset(component)
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
