"""What workers say, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runner import events
from runner.supervisor.audit import over
from runner.supervisor.dead_letters import Record
from runner.supervisor.dispatch import Letter
from runner.supervisor.retry_policy import Fault
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import EXECUTING, WAITS
from runner.transport.messages import (
    Ack,
    Answer,
    Failed,
    Failure,
    Finished,
    Made,
    Output,
    Progress,
    Ready,
    Shown,
    Times,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.engines.base import Heard
    from runner.ledger import Chunk, GivenUp, Lease, Settlement, Verdict
    from runner.supervisor.loop import Supervisor
    from runner.supervisor.retry_policy import Evidence
    from runner.supervisor.run_state import Slot, TaskState


class Hearing:
    """Understands answers."""

    def __init__(self, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.ledger = supervisor.ledger
        self.feeder = supervisor.feeder
        self.audit = supervisor.audit
        staff = supervisor.staff
        self._deeds: dict[type, Callable[[Slot, Any], None]] = {
            Answer: self._answer,
            Made: self._made,
            Ready: staff.ready,
            Finished: staff.finished,
            Failed: staff.failed,
            Shown: self._shown,
            Times: self._times,
            Progress: self._progress,
        }

    def hear(self, event: Heard) -> None:
        """One message of one worker."""
        slot = self.supervisor.staff.slots[event.slot]
        if slot.life != event.life or slot.phase is Phase.GONE or slot.overdue:
            return  # a late word of a worker whose work has been, or is being, given to another
        deed = self._deeds.get(type(event.message))
        if deed is not None:
            deed(slot, event.message)

    def _shown(self, slot: Slot, message: Shown) -> None:
        slot.preview = message.preview

    def _times(self, slot: Slot, message: Times) -> None:
        slot.hours.told(message)
        times = slot.task.times
        for key, items in message.times:
            times[key] = times.get(key, 0) + items

    def _progress(self, slot: Slot, message: Progress) -> None:
        now = self.supervisor.clock.now()
        self.supervisor.emit(events.WorkerProgress(now, slot.task.name, slot.name, message.done, message.total))

    # -- answers -------------------------------------------------------------------------------

    def _answer(self, slot: Slot, answer: Answer) -> None:
        task = slot.task
        outputs = list(self._outputs(task, answer.outputs))
        done = 0
        for at, ack in enumerate(answer.acks):
            last = at == len(answer.acks) - 1
            done += self._ack(slot, ack, outputs if last else [])
        if not answer.acks:  # what a function with boxes put after its inputs had ended
            for queue, chunk in outputs:
                self.ledger.put(queue, [chunk], sender=task.name)
                self.supervisor.touch_queue(queue)
        task.grain.learn(done, answer.busy)
        task.unhindered += done
        self.feeder.stretch(task)
        task.busy += answer.busy
        slot.items += done
        hours, now = slot.hours, self.supervisor.clock.now()
        hours.items += done
        hours.worked(now, now if task.flying else answer.busy, answer.coding)
        if not slot.leases and hours.state == EXECUTING:
            hours.turn_to(WAITS, now)
        self.supervisor.touch(task.name)
        if self.supervisor.topology.may_end(task.name) and not self.ledger.busy(task.name):
            self.supervisor.check_ends = True
        self.supervisor.watch.lifespan(slot)

    def _outputs(self, task: TaskState, outputs: Iterable[Output]) -> Iterable[tuple[str, Chunk]]:
        for output in outputs:
            lying = sum(length for _, _, length in output.slots)
            chunk = self.ledger.chunk(output.payload, output.count, output.size, output.priorities, lying)
            for queue in task.groups[output.group].queues:
                self.audit.sent[queue] += output.count
                yield queue, chunk

    def _ack(self, slot: Slot, ack: Ack, outputs: list[tuple[str, Chunk]]) -> int:
        lease = self.ledger.leases.get(ack.lease)
        if lease is None:
            return 0
        if ack.more:
            self.feeder.partly(ack.lease, ack.done)
        else:
            slot.leases.remove(ack.lease)
            slot.task.may_take(slot)
            self.feeder.settled(ack.lease)
        if not ack.more and ack.done < lease.count:
            self.supervisor.touch_readers(slot.task.name)
            if slot.task.throttle is not None:
                slot.task.throttle.give_back(lease.count - ack.done)
        verdicts = {failure.index: self._judge(slot, lease, failure) for failure in ack.failures}
        settlement = self.ledger.settle(ack.lease, ack.done, verdicts, outputs, more=ack.more)
        assert settlement is not None
        self.audit.ended[slot.task.name] += over(verdicts, ack.done)
        self.follow(settlement)
        for failure in ack.failures:
            self.supervisor.verdicts.after(slot.task, verdicts[failure.index], failure.error)
        return ack.done

    # -- failures ------------------------------------------------------------------------------

    def _judge(self, slot: Slot, lease: Lease, failure: Failure) -> Verdict:
        _, piece = next(iter(lease.locate(failure.index, 1)))
        retry = failure.verdict == "retry"
        fault = Fault(
            failure.error, retry, failure.count, failure.preview, failure.retry_after, previews=failure.previews
        )
        return self.supervisor.verdicts.judge(slot, piece, fault)

    def follow(self, settlement: Settlement) -> None:
        """What a settled lease has brought: queues with something new, and dead items."""
        for queue in settlement.fed:
            self.supervisor.touch_queue(queue)
        self.bury_items(settlement)

    def bury_items(self, settlement: Settlement) -> None:
        """Dead items go to the task's queue of dead letters, or to the run's own store."""
        place, before = 0, None
        for given_up in settlement.dead:
            evidence: Evidence = given_up.evidence
            place, before = (place + 1 if evidence is before else 0), evidence
            dead = self.supervisor.tasks[evidence.text.task].plan.config.dead
            if dead is None:
                self.supervisor.letters.keep(self._record(given_up, evidence, place))
            else:
                letter = self._letter(given_up, evidence)
                self.audit.sent[dead] += 1
                self.ledger.put(dead, [self.ledger.chunk(letter, 1, 64 + len(evidence.text.traceback))])
                self.supervisor.touch_queue(dead)
        if settlement.dead:
            evidence = settlement.dead[-1].evidence
            self.supervisor.ends.count_dead(self.supervisor.tasks[evidence.text.task], evidence.name)

    def _where(self, given_up: GivenUp) -> tuple[object, int, int]:
        piece = given_up.piece
        payload = piece.chunk.payload
        if isinstance(payload, Letter):
            return payload.payload, payload.index, payload.kind
        return payload, piece.start, self.feeder.kinds[given_up.queue]

    def _letter(self, given_up: GivenUp, evidence: Evidence) -> Letter:
        payload, index, kind = self._where(given_up)
        return Letter(payload, index, kind, given_up.piece.chunk.number, evidence.text)

    def _record(self, given_up: GivenUp, evidence: Evidence, place: int) -> Record:
        """The letter of an item, the `place`-th of those that failed together."""
        payload, index, kind = self._where(given_up)
        item = given_up.piece.item_id
        preview = evidence.previews[place] if evidence.previews else evidence.preview
        return Record(item, given_up.queue, evidence.text, preview, evidence.output, payload, index, kind)

    # -- sources -------------------------------------------------------------------------------

    def _made(self, slot: Slot, made: Made) -> None:
        task = slot.task
        self.feeder.arrived(task, slot, made.items)
        self.ledger.source_sent(task.name, made.items)
        for queue, chunk in self._outputs(task, made.outputs):
            self.ledger.put(queue, [chunk], sender=task.name)
            self.supervisor.touch_queue(queue)
        task.busy += made.busy
        slot.items += made.items
        slot.hours.items += made.items
        slot.hours.worked(self.supervisor.clock.now(), made.busy, 0.0)
        self.supervisor.touch(task.name)
