"""Replies of workers, and all else that they say; and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct, field

from runner import events
from runner.supervisor.audit import count_finished
from runner.supervisor.dead_letters import DeadLetterPayload
from runner.supervisor.run_state import Phase
from runner.supervisor.time_accounting import EXECUTING, WAITING_FOR_REASON
from runner.transport import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from runner.engines.engine_events import MessageReceived
    from runner.ledger.chunks import Chunk
    from runner.ledger.leases import GivenUp, Settlement, Verdict
    from runner.supervisor.dead_letters import FailureEvidence
    from runner.supervisor.dispatch import Dispatcher
    from runner.supervisor.retry_policy import RetryPolicy
    from runner.supervisor.run_state import RunState, TaskState, WorkerSlot
    from runner.supervisor.shutdown import Shutdown
    from runner.supervisor.timeouts import TimeoutWatchdog


class ReplyHandler(Struct, eq=False):
    """Hears what workers say. What is said of the worker itself, others hear: they are added to `handlers`."""

    state: RunState
    dispatcher: Dispatcher
    timeout_watchdog: TimeoutWatchdog
    shutdown: Shutdown
    retry_policy: RetryPolicy
    handlers: dict[type, Callable[[WorkerSlot, Any], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.handlers |= {
            messages.Reply: self._on_reply,
            messages.Produced: self._on_produced,
            messages.PlaceReport: self._on_place,
            messages.SuspectPreview: self._on_preview,
            messages.MeasuredTimes: self._on_times,
            messages.ProgressReport: self._on_progress,
        }

    def handle_message(self, event: MessageReceived) -> None:
        """Hear one message of one worker."""
        slot = self.state.slots[event.slot]
        if slot.generation != event.generation or slot.phase is Phase.GONE or slot.overdue_position:
            return  # a late word of a worker whose work has been, or is being, given to another
        handler = self.handlers.get(type(event.message))
        if handler is not None:
            handler(slot, event.message)

    def _on_preview(self, slot: WorkerSlot, message: messages.SuspectPreview) -> None:
        slot.preview = message.preview

    def _on_place(self, slot: WorkerSlot, message: messages.PlaceReport) -> None:
        slot.history.add_report(message)
        if (journal := self.state.ledger.journal) is not None and message.saved is not None:
            journal.save_source_place(slot.task.name, slot.name, message.saved, message.saved_items, message.saved_crc)

    def _on_times(self, slot: WorkerSlot, message: messages.MeasuredTimes) -> None:
        slot.time_account.add_measured(message)
        times = slot.task.time_histogram
        for key, items in message.time_histogram:
            times[key] = times.get(key, 0) + items

    def _on_progress(self, slot: WorkerSlot, message: messages.ProgressReport) -> None:
        now = self.state.clock.now()
        self.state.emit(events.WorkerProgress(now, slot.task.name, slot.name, message.done, message.total))

    def _on_reply(self, slot: WorkerSlot, reply: messages.Reply) -> None:
        task, state = slot.task, self.state
        outputs = self._make_chunks(task, reply.outputs)
        done = 0
        for at, ack in enumerate(reply.acks):
            last = at == len(reply.acks) - 1
            done += self.settle_ack(slot, ack, outputs if last else [])
        if not reply.acks:  # what a function with boxes put after its inputs had ended
            for queue, chunk in outputs:
                state.ledger.put(queue, [chunk], sender=task.name)
                state.dirty_tasks.add_readers(queue)
        self.note_work(slot, reply, done)

    def note_work(self, slot: WorkerSlot, reply: messages.Reply, done: int) -> None:
        """Note that a worker has done so many items, and what they took; and that its task is to be looked at."""
        task, state = slot.task, self.state
        if reply.saved is not None:
            slot.history.saved = reply.saved
            if state.ledger.journal is not None:
                state.ledger.journal.save_place(task.name, slot.name, reply.saved)
        task.chunk_sizer.learn_cost(done, reply.busy_seconds)
        task.unhindered_items += done
        self.dispatcher.update_elastic_size(task)
        slot.items += done
        account, now = slot.time_account, state.clock.now()
        account.items += done
        account.add_work(now, now if task.is_async else reply.busy_seconds, reply.codec_seconds)
        if not slot.leases and account.state == EXECUTING:
            account.enter_state(WAITING_FOR_REASON, now)
        state.dirty_tasks.add_tasks((task.name,))
        if state.topology.may_end(task.name) and not state.ledger.has_items(task.name):
            state.check_ends = True
        if slot.retiring or task.plan.config.lifespan is not None:
            self.timeout_watchdog.check_lifespan(slot)

    def _make_chunks(self, task: TaskState, outputs: Iterable[messages.Output]) -> list[tuple[str, Chunk]]:
        ledger, sent_by_queue = self.state.ledger, self.state.audit.sent_by_queue
        made: list[tuple[str, Chunk]] = []
        for output in outputs:
            shared_bytes = 0
            for _, _, length in output.block_refs:
                shared_bytes += length
            chunk = ledger.make_chunk(
                output.payload, output.count, output.size, shared_bytes, rank=output.rank, bucket=output.bucket
            )
            for queue in task.output_groups[output.group_index].queues:
                sent_by_queue[queue] += output.count
                made.append((queue, chunk))
        return made

    def settle_ack(self, slot: WorkerSlot, ack: messages.Ack, outputs: list[tuple[str, Chunk]]) -> int:
        """Settle what a worker says of one lease, with the outputs that came with it; return how many items are over.

        0: the lease is not open any more.
        """
        lease = self.state.ledger.leases.get(ack.lease)
        if lease is None:
            return 0
        if ack.keeps_rest:
            self.dispatcher.settle_part(ack.lease, ack.done)
        else:
            slot.leases.remove(ack.lease)
            slot.task.update_free_slot(slot)
            self.dispatcher.forget_lease(ack.lease)
        if slot.task.shares_lanes:  # a bucket may be free now, and wanted by another task
            self.state.dirty_tasks.add_input_readers(slot.task.name)
        if not ack.keeps_rest and ack.done < lease.count:
            self.state.dirty_tasks.add_input_readers(slot.task.name)
            if slot.task.rate_limiter is not None:
                slot.task.rate_limiter.return_tokens(lease.count - ack.done)
        verdicts: dict[int, Verdict] = {}
        for failure in ack.failures:
            _, piece = next(iter(lease.locate_ranges(failure.index, 1)))
            verdicts[failure.index] = verdict = self.retry_policy.decide_verdict(slot, piece, failure)
            self.retry_policy.report_verdict(slot, piece, failure, verdict, failure.count)
        settlement = self.state.ledger.settle_lease(ack.lease, ack.done, verdicts, outputs, more=ack.keeps_rest)
        assert settlement is not None
        finished = count_finished(verdicts.values(), ack.done) if verdicts else ack.done
        self.state.audit.ended_by_task[slot.task.name] += finished
        self.apply_settlement(settlement)
        for failure in ack.failures:
            self.retry_policy.apply_on_error(slot.task, verdicts[failure.index], failure.error)
        return ack.done

    def apply_settlement(self, settlement: Settlement) -> None:
        """Look at what a settled lease has brought: queues with something new, and dead items.

        These go into the task's queue of dead letters, or into the run's own store.
        """
        for queue in settlement.fed_queues:
            self.state.dirty_tasks.add_readers(queue)
        place, before = 0, None
        for given_up in settlement.dead_items:
            evidence: FailureEvidence = given_up.evidence
            place, before = (place + 1 if evidence is before else 0), evidence
            dead = self.state.tasks[evidence.text.task].plan.config.dead
            if dead is None:
                preview = evidence.previews[place] if evidence.previews else evidence.preview
                kept = evidence.kept[place] if evidence.kept else None
                self.state.dead_letters.store_letter(given_up, preview, kept)
                if (journal := self.state.ledger.journal) is not None:
                    journal.bury(given_up, evidence.text.task, preview)
            else:
                letter = self._dead_letter(given_up, evidence)
                self.state.audit.sent_by_queue[dead] += 1
                chunk = given_up.item_range.chunk
                size = 64 + len(evidence.text.traceback)
                letters = self.state.ledger.make_chunk(letter, 1, size, origin=chunk.origin or chunk.number)
                self.state.ledger.put(dead, [letters])
                self.state.dirty_tasks.add_readers(dead)
        if settlement.dead_items:
            evidence = settlement.dead_items[-1].evidence
            self.shutdown.check_dead_limit(self.state.tasks[evidence.text.task], evidence.name)

    def _dead_letter(self, given_up: GivenUp, evidence: FailureEvidence) -> DeadLetterPayload:
        piece = given_up.item_range
        payload, number = piece.chunk.payload, piece.chunk.number
        if isinstance(payload, DeadLetterPayload):  # it was a letter already, and stays the item that it was
            return DeadLetterPayload(payload.payload, payload.index, payload.kind, number, evidence.text)
        kind = self.dispatcher.payload_kinds[given_up.queue]
        return DeadLetterPayload(payload, piece.start, kind, number, evidence.text)

    def _on_produced(self, slot: WorkerSlot, message: messages.Produced) -> None:
        for queue, chunk in self._make_chunks(slot.task, message.outputs):
            self.state.ledger.put(queue, [chunk], sender=slot.task.name)
            self.state.dirty_tasks.add_readers(queue)
        self.note_arrival(slot, message)

    def note_arrival(self, slot: WorkerSlot, message: messages.Produced) -> None:
        """Note that items of a source have arrived; and that the source is to be looked at."""
        task = slot.task
        self.dispatcher.count_arrived(task, slot, message.item_count, wants_ack=message.wants_ack)
        items, crc = message.item_count, message.crc
        self.state.ledger.count_produced(task.name, slot.name, items, crc, message.checks, message.keys)
        if crc:  # of a durable run
            slot.history.add_checks(message)
        slot.items += message.item_count
        slot.time_account.items += message.item_count
        slot.time_account.add_work(self.state.clock.now(), message.busy_seconds, 0.0)
        self.state.dirty_tasks.add_tasks((task.name,))
        if self.state.plan.limit is not None:
            self.state.check_ends = True
