"""The test of the tests: bugs planted one at a time into the engine, each of which the quick tests must notice.

A planted bug is a small, plausible mistake. What must notice it is a test of the default set, called directly, or the
seeded simulation; if that comes out well, the tests are blind to the mistake. So does a test that fails without a bug.

The place of a bug is a text, `module:attribute` or `module:Class.attribute`. A bug whose place does not exist any more,
or which nothing executes, fails as loudly as one that is not noticed: give it its new place.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import inspect
import os
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import durable_lives
import fake_engine
import msgspec
import psutil
import pytest
import schedules
import typer
from api import test_results
from cli import test_running_runs, test_watch
from edges import test_functions, test_state
from faults import functions, harness, test_file_tests, test_items, test_saving
from faults.harness import plan, run, task
from integration import test_agents
from report import test_live_page
from unit import (
    test_arena,
    test_async_runner,
    test_boxes,
    test_cgroups,
    test_chunking,
    test_collect,
    test_command_reports,
    test_drops_and_orders,
    test_durable_ends,
    test_durable_simulation,
    test_each,
    test_each_file,
    test_far_memory,
    test_frame_link,
    test_grain_simulation,
    test_journal,
    test_lanes,
    test_lease_page,
    test_ledger,
    test_ledger_file,
    test_link,
    test_oldest_waiting,
    test_power_cuts,
    test_simulation,
    test_source,
    test_store,
    test_throttle,
    test_topology,
    test_worker_scaling,
)

from runner import chunk_sizing, worker_scaling
from runner.errors import UsageError
from runner.ledger.leases import Dropped, Lease, Settlement
from runner.ledger.subscriptions import Subscription
from runner.model import Halt, QueueConfig
from runner.report.page_server import PageServer
from runner.shm.writer import MIN_SHARED_BYTES, PAGE_SIZE
from runner.std.shell import CommandFailed
from runner.std.sinks import WriteLines
from runner.supervisor import shutdown
from runner.supervisor.fast_path import FastPath
from runner.supervisor.run_state import TaskState
from runner.topology import Stage
from runner.transport.messages import OBJECTS, PICKLED, Grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.usefixtures("short_diffs")
#: Schedules that are simulated, of those of the default set: each bug for which the simulation is named is noticed in
#: one of them at least, most in several.
SEEDS = (0, 1, 3, 9, 13, 15, 17, 29, 30, 31, 33, 37, 41, 68, 75, 92, 93, 145)
#: The same of schedules in which all features meet.
SCHEDULES = (0, 1, 2, 3, 7, 8, 9, 12, 16, 17, 19, 26, 29, 30)
#: The same of runs that crash and go on.
LIVES = (3, 4, 10, 13, 9, 38)
#: The same of runs in which items end everything.
DEADLY_LIVES = (15, 4, 10, 18)
#: Events after which a simulated run hangs; those of these schedules have less than half as many.
LIMIT = 4_000
#: For checks of which some schedules have several times as many, in which machines come and go for a long while.
LONG_LIMIT, LONG_CHECKS = 60_000, ("machines", "lives_that_drain")
#: The floors of the engine; each has at least so many planted bugs.
FLOORS = ("ledger", "journal", "dispatch", "crashes", "shutdown", "worker", "shm", "transport", "store", "retries")
FLOORS += ("machines", "file tests", "ranges", "lanes", "commands", "results", "live")
LEAST = 4

# -- who notices -----------------------------------------------------------------------------------


def simulation() -> None:
    """The seeded schedules; the first one that notices ends it."""
    for seed in SEEDS:
        test_simulation.check(seed)


def machines() -> None:
    """Schedules in which machines join late, leave and are lost; the first one that notices ends it."""
    for seed in (15, 46, 81, 92):
        test_simulation.check(seed, machines=1 + seed % 3)
        test_simulation.cut_short(seed, machines=1 + seed % 3)


def with_agents(test: Callable[..., None]) -> None:
    """A test that wants an engine with agents."""
    with contextlib.ExitStack() as stack:
        test(lambda **options: test_agents.Rig(stack, **options))


def far_memory_schedules() -> None:
    """Large items on their way between machines; the first schedule that notices ends it."""
    for seed in range(4):
        test_far_memory.check(seed, deaths=0.02 * seed)


def compared_schedules() -> None:
    """Schedules in which the fast path would go wrong whatever the order of sets (`PYTHONHASHSEED`) is."""
    for seed in (52, 157):
        test_simulation.check_fast_path(seed)


def lives() -> None:
    """Durable runs whose supervisor crashes; the first one that notices ends it."""
    for seed in LIVES:
        durable_lives.check_lives(seed)


def lives_that_drain() -> None:
    """Durable runs half of whose lives start no source."""
    for seed in range(500, 520):
        durable_lives.check_lives(seed, drain_share=0.5)


def lives_with_drops() -> None:
    """Durable runs some of whose queues are dropped between two lives, and have another name then."""
    for seed in range(10):
        test_durable_simulation.check_lives_with_drops(seed)


def deadly_lives() -> None:
    """Durable runs in which items end everything; the first one that notices ends it."""
    for seed in DEADLY_LIVES:
        durable_lives.check_lives(seed, fatal=0.02)


def everything() -> None:
    """Schedules in which all features meet; the first one that notices ends it."""
    for seed in SCHEDULES:
        schedules.check(seed)


def laned_lives() -> None:
    """Durable runs most of whose queues have lanes, with other workers in each life."""
    for seed in (3, 4, 9):
        durable_lives.check_lives(seed, laned=True)


def priorities() -> None:
    """A worker's items through a queue with priorities, and the next life of that."""
    test_drops_and_orders.test_the_order_survives_in_the_next_life()


def bounded_run() -> None:
    """The source of a slow sink must wait at the bound."""
    seen: list[int] = []
    made = plan(
        [
            task("source", functions.numbers, outputs="a", args=(400,), mode="thread"),
            task("work", functions.slowly, "a", mode="thread", with_={"seconds": 0.0002}),
        ],
        {"a": QueueConfig("a", size=5)},
    )
    with pytest.MonkeyPatch.context() as patch:
        put = Subscription.admit_chunk

        def admit(self: Subscription, chunk: Any, group: Any) -> Any:
            dropped = put(self, chunk, group)
            seen.append(self.count)
            return dropped

        patch.setattr(Subscription, "admit_chunk", admit)
        run(made)
    assert max(seen) <= 5, max(seen)


def leaking_run() -> None:
    """What a worker leaves behind must be gone when the run is."""
    made, collected = test_items.line(functions.leaky, 3)
    run(made, collected)
    left = [each for each in psutil.process_iter(["cmdline"]) if each.info["cmdline"] == functions.SLEEPER]
    for each in left:
        each.kill()
    assert not left


def with_pair(test: Callable[..., None], *args: Any) -> None:
    """A test of shared memory, with a writer and a reader."""
    pair = test_arena.Pair()
    try:
        test(pair, *args)
    finally:
        gc.collect()
        pair.close()


def with_folder(test: Callable[..., None], *args: Any, patched: bool = False) -> None:
    """A test that wants a folder, and perhaps something to patch with."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        test(Path(folder), *args, *([patch] if patched else []))


def with_page(test: Callable[..., None], *args: Any) -> None:
    """A test that wants the server of a live page."""
    server = PageServer()
    server.publish("<!doctype html><title>one</title>")
    try:
        test(server, *args)
    finally:
        server.close()


def followed_to_the_end() -> None:
    """`top` on a run that ends with 143."""
    with_folder(test_running_runs.follow_to_the_end, patched=True)


def with_patch(test: Callable[..., None], *args: Any) -> None:
    """A test that wants something to patch with."""
    with pytest.MonkeyPatch.context() as patch:
        test(patch, *args)


def power_cuts() -> None:
    """Images of power cuts of one recorded ledger."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        test_power_cuts.test_a_power_cut_leaves_a_transaction_that_was_kept_or_the_next_one(Path(folder), patch, 1)


def with_example(test: Any, *args: Any) -> None:
    """A property, for one example."""
    test.hypothesis.inner_test(*args)


# -- what is wrong -----------------------------------------------------------------------------------


def nothing(original: Any, *_: Any, **__: Any) -> None:
    """It is never done."""


def always(answer: Any) -> Callable[..., Any]:
    """The answer is this, whatever was asked."""
    return lambda original, *_, **__: answer


def forget_the_lease(original: Any, self: Any, lease_id: int, *_: Any) -> Any:
    lease = self.leases.pop(lease_id)
    self.leased_items[lease.task] -= lease.count
    return Settlement()


def give_back_twice(original: Any, self: Any, piece: Any, task_: str, until: float | None) -> None:
    original(self, piece, task_, until)
    if until is None:
        self.count += piece.count
        self.held_bytes += piece.size
        self.leased_items -= piece.count
        self.ready_ranges.append(piece)


def settle_twice(original: Any, self: Any, lease_id: int, *args: Any, more: bool = False) -> Any:
    lease = self.leases[lease_id]
    result = original(self, lease_id, *args, more=more)
    if not args[1] and not more:
        self.leases[lease_id] = Lease(lease.id, lease.task, lease.worker, lease.item_ranges, lease.count)
        self.leased_items[lease.task] += lease.count
        original(self, lease_id, *args)
    return result


def lose_the_outputs(
    original: Any, self: Any, lease_id: int, done: int, verdicts: Any, outputs: Any, *, more: bool = False
) -> Any:
    return original(self, lease_id, done, verdicts, list(outputs)[:-1], more=more)


def out_of_order(original: Any, self: Any, entry: Any, outputs: Any) -> Any:
    original(self, entry, [])
    return outputs


def acked_at_once(original: Any, self: Any, lease: Any, start: int, length: int) -> None:
    """The journal is told of an ordered task's acks before its results leave."""
    entry, lease.order_entry = lease.order_entry, None
    original(self, lease, start, length)
    lease.order_entry = entry


def written_in_between(original: Any, self: Any, *args: Any, **options: Any) -> Any:
    """What comes before in the step is in a group of its own."""
    if self.journal is not None:
        durable_lives.CURRENT[0].hand_over()
    return original(self, *args, **options)


def drained_sources_end_well(_: Any, state: Any) -> None:
    for name in sorted(state.drained_sources):
        shutdown.finish_task(state, state.tasks[name], Stage.OK)


def former_queues_are_forgotten(original: Any, self: Any) -> Any:
    self.former_counts.clear()
    return original(self)


def written_before_its_chunks(_: Any, self: Any, slot: Any, message: Any) -> None:
    self.note_arrival(slot, message)
    durable_lives.CURRENT[0].hand_over()
    for queue, chunk in self._make_chunks(slot.task, message.outputs):
        self.state.ledger.put(queue, [chunk], sender=slot.task.name)
        self.state.dirty_tasks.add_readers(queue)


def never_repeated(original: Any, self: Any, *args: Any) -> Any:
    before = dict(self.repeated_items)
    result = original(self, *args)
    self.repeated_items.clear()
    self.repeated_items.update(before)
    return result


def blame_the_lease(original: Any, self: Any, lease_id: int, suspects: range, finished: int, judge: Any) -> Any:
    return original(self, lease_id, range(self.leases[lease_id].count), 0, judge)


def blame_the_next(original: Any, self: Any, lease_id: int, suspects: range, finished: int, judge: Any) -> Any:
    at = min(suspects.start + 1, self.leases[lease_id].count - 1)
    return original(self, lease_id, range(at, at + 1), at, judge)


def blame_nobody(original: Any, self: Any, lease_id: int, suspects: range, finished: int, judge: Any) -> Any:
    return original(self, lease_id, range(suspects.start, suspects.start), finished, judge)


def believe_the_dead(original: Any, self: Any, lease_id: int, suspects: range, finished: int, judge: Any) -> Any:
    """What a worker had finished, and not answered, counts as done."""
    if self.leases[lease_id].order_entry is not None:
        return original(self, lease_id, suspects, finished, judge)
    self.settle_lease(lease_id, suspects.start, {}, [], more=True)
    return original(self, lease_id, range(len(suspects)), 0, judge)


def counted_as_a_death(original: Any, self: Any, event: Any) -> None:
    original(self, msgspec.structs.replace(event, lost=False))


def killed_to_shrink(_: Any, pool: Any, slot: Any, now: float) -> None:
    """A worker that is too many is killed, and what it holds is given again."""
    slot.surplus = slot.retiring = True
    slot.task.engine.kill(slot.index)


def replaced_although_too_many(original: Any, pool: Any, slot: Any, now: float) -> None:
    original(pool, slot, now)
    slot.surplus = False


def decided_at_every_step(original: Any, self: Any, now: float) -> None:
    self._looked_at = min(self._looked_at, now - 2 * worker_scaling.INTERVAL)
    original(self, now)


def without_regard_for_processors(original: Any, self: Any, _: float, share: float, *, is_long: bool) -> Any:
    return original(self, inf, share, is_long=is_long)


def heard_from_a_former_worker(original: Any, self: Any, node: Any, got: Any) -> None:
    lives = {slot: worker.generation for slot, worker in self._workers.items()}
    original(self, node, [frame._replace(generation=lives.get(frame.slot, 0)) for frame in got])


def trimmed_whatever_arrives(original: Any, self: Any, pages: bytearray) -> None:
    self._arriving.clear()
    original(self, pages)


def sent_and_let_go(original: Any, self: Any, slot: int, generation: int, blocks: Any) -> None:
    before = set(self._kept)
    original(self, slot, generation, blocks)
    for key in set(self._kept) - before:  # its writer has the place back, and the table says nothing of that
        block = self._kept[key]
        self._kept[key] = SimpleNamespace(arena=block.arena, offset=block.offset, length=block.length)


def without_the_fence(original: Any, self: Any, slot: int, worker: Any) -> None:
    from runner.engines import processes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes.os, "killpg", lambda *_: None)
        original(self, slot, worker)


def never_falls(original: Any, self: Any, items: int, seconds: float) -> None:
    before = self.item_seconds
    original(self, items, seconds)
    self.item_seconds = min(self.item_seconds, before) if before else self.item_seconds


def never_rises(original: Any, self: Any, items: int, seconds: float) -> None:
    original(self, items, seconds)
    self.last_items = 1


def begins_with_a_thousand(original: Any, self: Any, available: int, *others: Any) -> Any:
    return original(self, available, *others) if self.item_seconds else min(available, 1000)


def only_the_first(original: Any, self: Any, slot: Any) -> None:
    if slot is self.slots[0]:
        original(self, slot)


def only_when_there_are_two(original: Any, self: Any, task_: Any, **options: Any) -> None:
    if task_.is_source or self.ledger.available_items(task_.name) != 1 or self.ledger.leases:
        original(self, task_, **options)


def without_fast_path(check: Callable[..., object], *args: Any) -> None:
    """A check of what the general path does with single items."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FastPath, "forward_item", lambda self, event: False)
        check(*args)


def past_what_waits(original: Any, self: Any, way: Any) -> Any:
    """A line that seems to hold nothing, and a reader that nothing bounds."""
    waiting, way.line.count = way.line.count, 0
    slot = original(self, msgspec.structs.replace(way, bounding_lines=[]))
    way.line.count = waiting
    return slot


def dropped_although_it_came_back(original: Any, self: Any) -> Any:
    self.ready_ranges = type(self.ready_ranges)(
        msgspec.structs.replace(piece, came_back=False) for piece in self.ready_ranges
    )
    return original(self)


def dropped_in_silence(original: Any, self: Any, chunk: Any, *args: Any) -> Any:
    return original(self, chunk, *args)[1:]


def without_rank(original: Any, self: Any, *args: Any, **options: Any) -> Any:
    return original(self, *args, **{**options, "rank": 0.0})


def free_while_it_sleeps(original: Any, self: Any, piece: Any, task_: str, until: float | None = None) -> None:
    """An item that waits for its retry does not keep what comes after it in its lane."""
    original(self, piece, task_, until)
    if until is not None:
        bucket = self._bucket(piece.chunk)
        bucket.busy_items -= piece.count
        self._take_stock()


def last_of_its_bucket(original: Any, self: Any, piece: Any) -> None:
    """What comes back is behind what came after it."""
    self.last_ticket += 1
    original(self, msgspec.structs.replace(piece, ticket=self.last_ticket))


def never_busy(original: Any, self: Any, task_: str, piece: Any) -> None:
    """A bucket of which something is leased is handed out to others."""
    original(self, task_, piece)
    self.buckets[self.bucket_of(piece.chunk)].busy_items -= piece.count
    self._take_stock()


def with_other_buckets(original: Any, self: Any, chunk: Any) -> Any:
    """A chunk of an earlier life, for fewer buckets, is taken for one of this life's."""
    number = chunk.bucket << max(0, self.bucket_bits + 1 - chunk.bucket.bit_length())
    return original(self, msgspec.structs.replace(chunk, bucket=number))


def at_the_end(original: Any, self: Any, pieces: Any, piece: Any) -> None:
    pieces.append(piece)


def first_signal_only(original: Any, self: Any, number: int) -> None:
    if self.received_signal is None:
        original(self, number)


def without_sources(original: Any, self: Any, why: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskState, "is_source", False)
        original(self, why)


def to_the_end(original: Any, self: Any, grant: Any) -> Any:
    return original(self, Grant(grant.lease, 1e9, grant.parts))


def of_the_next(original: Any, spec: Any, index: int, *args: Any, **options: Any) -> Any:
    return original(spec, index + 1, *args, **options)


def all_taken(original: Any, self: Any) -> None:
    """What was granted and never handed out counts as done."""
    if self.grant is not None:
        self.done_items = sum(part.count for part in self.grant.parts)
    original(self)


def one_too_few(original: Any, self: Any) -> Any:
    start = original(self)
    return msgspec.structs.replace(start, given_items=max(0, start.given_items - 1))


def never_compared(original: Any, self: Any, item: Any) -> None:
    self._digests.clear()
    original(self, item)


def a_place_ahead(original: Any, self: Any, number: int, *args: Any) -> None:
    original(self, number + 1, *args)


def one_ahead(original: Any, self: Any, items: Iterator[Any]) -> None:
    """The generator is asked for the next item before this one is encoded."""

    def ahead() -> Iterator[Any]:
        kept: list[Any] = []
        for item in items:
            kept.append(item)
            if len(kept) > 1:
                yield kept.pop(0)
        yield from kept

    original(self, ahead())


class _Forgetful(set[Any]):
    def add(self, element: Any) -> None:
        pass


def uncounted_flight(original: Any, self: Any, *args: Any) -> None:
    original(self, *args)
    self.tasks = _Forgetful()


def overlapping(original: Any, self: Any, length: int) -> Any:
    before = list(self.free_ranges)
    at = original(self, length)
    self.free_ranges[:] = before
    return at


def never_freed(original: Any, self: Any, start: int) -> None:
    self.allocated_bytes -= self.allocated_ranges.pop(start)


def freed_when_sent(original: Any, self: Any) -> Any:
    writer = self.arena_writer
    travelling = original(self)
    self.arena_writer = writer
    return travelling


def backwards(original: Any, self: Any, pieces: list[Any], length: int) -> Any:
    return original(self, pieces[::-1], length)


def told_again(original: Any) -> Any:
    kept, gone = original()
    _TOLD.update(kept)
    return tuple(_TOLD), gone


_TOLD: set[Any] = set()


def as_it_came(original: Any, raw: Any) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pread", lambda fd, count, _: bytes(count))  # the system's word for pages, none written
        return original(raw)


def from_the_first(original: Any, payload: Any, start: int = 0, count: int | None = None) -> Any:
    return original(payload, 0, count)


def bools_as_numbers(original: Any, values: list[Any], kinds: set[type]) -> Any:
    return original(values, {int} if kinds <= {int, bool} else kinds)


def payloads_backwards(original: Any, message: Any) -> Any:
    first, *others = original(message)
    return [first, *others[::-1]]


def goes_on(original: Any, self: Any) -> Any:
    return original(self)[0], True


def whole_lines_only_at_the_end(original: Any, self: Any, letter: Any) -> None:
    """Letters wait in memory until there are some."""
    held = self.__dict__.setdefault("held", [])
    held.append(letter)
    if len(held) > 10:
        for each in held:
            original(self, each)
        held.clear()


def in_place(original: Any, at: int, name: str, data: bytes) -> None:
    from runner.store import run_folders

    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=at)
    try:
        run_folders.write_all(fd, data)
    finally:
        os.close(fd)


def freed_at_once(original: Any, self: Any, groups: Any, written: Any) -> Any:
    for group in groups:
        for number in group.removed_chunks:
            if number in self._segment_places:
                self._segments.free(self._segment_places.pop(number))
    return original(self, groups, written)


def synced_after_the_commit(original: Any, self: Any, groups: Any) -> None:
    sync = self._segments.sync
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self._segments, "sync", lambda: None)
        original(self, groups)
    sync()


def one_by_one(original: Any, self: Any, groups: Any) -> None:
    """The chunks of some groups are in one transaction, and all else of them in the next."""
    for group in groups:
        empty = {
            name: type(value)()
            for name in group.__struct_fields__
            if not isinstance(value := getattr(group, name), int)
        }
        original(self, [msgspec.structs.replace(group, **{**empty, "chunks": group.chunks})])
        original(self, [msgspec.structs.replace(group, chunks=[])])


def damage_unnoticed(original: Any, self: Any, *args: Any, **options: Any) -> None:
    original(self, *args, **options)
    self.damaged_chunks = _Forgetful()


@contextlib.contextmanager
def without_transaction(original: Any, self: Any) -> Iterator[None]:
    """What has been done stays when it is cut off."""
    if not self._db.execute("PRAGMA user_version").fetchone()[0]:
        self._db.execute("PRAGMA user_version=1")
        self._db.execute("PRAGMA application_id=0x726e6c67")
    yield


def uncounted_attempts(original: Any, self: Any, piece: Any, task_: str, until: float | None) -> None:
    original(self, piece if until is None else msgspec.structs.replace(piece, attempts=0), task_, until)


def at_once(original: Any, self: Any, piece: Any, task_: str, until: float | None) -> None:
    original(self, piece, task_, None if until is None else 0.0)


def never_grows(original: Any, self: Any, task_: Any, attempt: int, asked: float | None = None) -> Any:
    return original(self, task_, 1, asked)


def arrival_is_kept_back(original: Any, self: Any, task: Any, slot: Any, items: int, *, wants_ack: bool) -> None:
    """The source's worker is not told, as long as it has credit."""
    original(self, task, slot, items, wants_ack=wants_ack)
    slot.credit_unacknowledged = False


def skipped_is_done(
    original: Any, self: Any, lease_id: int, done: int, verdicts: Any, outputs: Any, *, more: bool = False
) -> Any:
    kept = {index: verdict for index, verdict in verdicts.items() if not isinstance(verdict, Dropped)}
    return original(self, lease_id, done, kept, outputs, more=more)


def rejected_again(original: Any, spec: Any, error: BaseException, text: Any, attempt: int) -> str:
    return "retry" if attempt < spec.attempts else "error"


def values_in_the_program(_: Any, text: str, all_values: list[str]) -> list[str]:
    """As a text with replacement strings looks: what is in a value is read by the shell."""
    return ["/bin/sh", "-c", text.replace("{}", "{1}")]


def silent_failure(original: Any, self: Any, *args: Any) -> Iterator[Any]:
    yield from list(original(self, *args))


# -- the table ---------------------------------------------------------------------------------------


def exits_as_the_run(original: Any, self: Any) -> str:
    original(self)
    raise typer.Exit(143)


def without_token(_: Any, self: Any) -> str:
    """Whoever comes is let in."""
    return str(self.path.partition("?")[0].rpartition("/")[2])


def in_one_thread(_: Any, self: Any, request: Any, client: Any) -> None:
    """The next viewer waits for this one."""
    try:
        self.finish_request(request, client)
    except OSError:
        pass
    finally:
        self.shutdown_request(request)


def looked_up_here(original: Any, self: Any, worker: Any, *, is_thread: bool) -> Any:
    """A number is a number, whoever's it is."""
    return original(self, replace(worker, node=""), is_thread=is_thread)


def newest(original: Any, self: Any) -> Any:
    return self.last_ticket if original(self) is not None else None


@dataclass(frozen=True)
class Bug:
    """One mistake: its floor, its place, what is wrong there, and what must notice."""

    floor: str
    place: str
    change: Callable[..., Any]
    check: Callable[[], object]
    #: How the check fails; a `pytest.raises` in it that nothing raises fails in its own way.
    fails: type[BaseException] = AssertionError


NOT_RAISED = pytest.fail.Exception
_LEDGER = "runner.ledger.ledger:Ledger"
_JOURNAL = "runner.ledger.journal:Journal"
_LANES = "runner.ledger.lanes:LanedSubscription"
_LINE = "runner.ledger.subscriptions:Subscription"
_SIZER = "runner.chunk_sizing:ChunkSizer"
_SHUTDOWN = "runner.supervisor.shutdown:Shutdown"
_TOPOLOGY = "runner.topology:Topology"
_RESIZING, _POOL = "runner.supervisor.resizing:", "runner.supervisor.workers:WorkerPool"
_OUTPUTS = "runner.worker.outputs:OutputBuffer"
_CODEC = "runner.transport.item_codec"
_READER, _WRITER = "runner.shm.reader", "runner.shm.writer"
_CODE_NUMBERS = partial(test_source.test_items_of_many_types, PICKLED, 2)
_MANY_THEN_ERROR = partial(test_items.test_a_generator_that_raises_half_way, "thread")
_BACKING_OFF = test_items.test_a_waiting_retry_holds_no_worker_and_backs_off
_LETTERS = partial(with_folder, test_store.test_letters_are_in_the_file_at_once_and_come_back_as_they_were)
_HALT = partial(test_simulation.test_halt_leaves_the_rest, Halt(count=1))
_OWED_RANGES = test_journal.test_what_is_owed_is_told_by_ranges_with_its_attempts_and_crashes
_SLICE = test_grain_simulation.test_a_chunk_is_a_slice_of_work_after_fifty_milliseconds

BUGS: dict[str, Bug] = {
    # ledger
    "a dead worker's items are forgotten": Bug("ledger", f"{_LEDGER}.settle_lost_lease", forget_the_lease, simulation),
    "items are given back twice": Bug("ledger", f"{_LINE}.give_back", give_back_twice, simulation),
    "an item that came back is dropped": Bug(
        "ledger",
        f"{_LINE}._drop_oldest",
        dropped_although_it_came_back,
        test_drops_and_orders.test_a_line_does_what_the_page_says,
    ),
    "a drop is not counted": Bug("ledger", f"{_LINE}.admit_chunk", dropped_in_silence, everything),
    "a chunk has lost its priority": Bug("ledger", f"{_LEDGER}.make_chunk", without_rank, priorities),
    "what comes back is last": Bug("ledger", f"{_LINE}._insert", at_the_end, everything),
    "an answer is applied twice": Bug("ledger", f"{_LEDGER}.settle_lease", settle_twice, simulation),
    "an answer's outputs are lost": Bug("ledger", f"{_LEDGER}.settle_lease", lose_the_outputs, simulation),
    "a task ends while items are in flight": Bug(
        "ledger",
        f"{_LEDGER}.has_items",
        lambda original, self, task_: self.queued_items(task_) > 0,
        simulation,
    ),
    "results leave as they come": Bug(
        "ledger",
        "runner.ledger.chunks:ReleaseOrder.settle_entry",
        out_of_order,
        test_ledger.test_ordered_results_wait_for_those_before_them,
    ),
    "what is executed again is not counted": Bug(
        "ledger",
        f"{_LEDGER}.settle_lost_lease",
        never_repeated,
        test_ledger.test_a_crash_blames_one_item_and_gives_it_alone,
    ),
    "a bound of bytes is not looked at": Bug(
        "ledger",
        f"{_LINE}.free_room",
        lambda original, self: max(0, self.size - self.count),
        test_ledger.test_bytes_bound_a_queue_too,
    ),
    "what is left is not counted": Bug(
        "ledger",
        f"{_LEDGER}.count_left",
        nothing,
        test_ledger.test_what_is_queued_leased_or_held_back_at_the_end_is_left,
    ),
    "a source that is called again passes over one item too few": Bug(
        "crashes", "runner.supervisor.slot_history:SlotHistory.restart_point", one_too_few, simulation
    ),
    "produce: items that were given before are not compared": Bug(
        "worker",
        "runner.worker.given_items:GivenItems.pass_over",
        never_compared,
        partial(test_source.test_items_that_were_given_are_compared, 31),
        NOT_RAISED,
    ),
    "produce: a place is one item ahead": Bug(
        "worker",
        "runner.worker.given_items:PlaceReporter.note_place",
        a_place_ahead,
        test_source.test_a_place_is_reported_behind_the_items_that_it_tells_of,
    ),
    "what a class has saved is forgotten": Bug(
        "crashes",
        "runner.supervisor.slot_history:SlotHistory.restart_point",
        lambda original, self: msgspec.structs.replace(original(self), saved=None),
        partial(with_folder, test_saving.test_a_loop_over_an_inbox),
    ),
    # journal
    "items are granted before they are on disk": Bug(
        "journal", f"{_LINE}.admit_chunk", lambda original, self, chunk, group: original(self, chunk), lives
    ),
    "an ack is on disk without its outputs": Bug("journal", f"{_LEDGER}._send", written_in_between, lives),
    "a source's place is on disk before its chunks": Bug(
        "journal", "runner.supervisor.replies:ReplyHandler._on_produced", written_before_its_chunks, lives
    ),
    "a chunk's memory is given back before its removal is on disk": Bug(
        "journal",
        f"{_JOURNAL}._take_removed",
        lambda original, self: dict.fromkeys(original(self)),
        partial(test_journal.test_what_lies_in_arenas_is_held_until_its_removal_is_on_disk, 1),
    ),
    "an ordered task's acks are written at once": Bug("journal", f"{_LEDGER}._done", acked_at_once, lives),
    "attempts are lost with the supervisor": Bug(
        "journal",
        f"{_JOURNAL}.mark",
        lambda original, self, line, piece, task_: original(
            self, line, msgspec.structs.replace(piece, attempts=0), task_
        ),
        _OWED_RANGES,
    ),
    "crashes are lost with the supervisor": Bug(
        "journal",
        f"{_JOURNAL}.mark",
        lambda original, self, line, piece, task_: original(
            self, line, msgspec.structs.replace(piece, crashes=0), task_
        ),
        _OWED_RANGES,
    ),
    "a class is torn down before its acks are on disk": Bug(
        "journal", "runner.supervisor.loop:Supervisor._may_tear_down", always(True), lives
    ),
    "a chunk's number is used again": Bug("journal", f"{_LEDGER}.number_chunks_from", nothing, lives),
    "a letter's item is removed": Bug(
        "journal",
        f"{_LEDGER}.make_chunk",
        lambda original, self, *args, origin=0, rank=0.0, bucket=0: original(self, *args),
        lives,
    ),
    "what an order held back leaves out of order when the run ends": Bug(
        "journal", "runner.ledger.chunks:ReleaseOrder.take_left_ranges", always([]), lives
    ),
    "a task begins again although it has ended": Bug(
        "journal",
        "runner.supervisor.resume:_finish_ended_tasks",
        nothing,
        test_durable_simulation.test_what_has_ended_well_does_not_begin_again,
    ),
    "a task has ended although more will come": Bug(
        "journal",
        "runner.topology:Topology.is_closed",
        lambda original, self, queue, inside=(): original(self, queue, inside) or bool(inside),
        test_durable_simulation.test_what_has_ended_well_does_not_begin_again,
    ),
    "a source that is only drained has ended for good": Bug(
        "journal", "runner.supervisor.loop:skip_drained_sources", drained_sources_end_well, lives_that_drain
    ),
    "a queue that the file no longer has is left out of the balance": Bug(
        "journal", f"{_LEDGER}.compute_run_balance", former_queues_are_forgotten, lives_with_drops
    ),
    "what a source gave before is not compared": Bug(
        "journal",
        "zlib:crc32",
        always(7),
        partial(test_durable_ends.test_another_item_is_noticed_wherever_it_is, 4),
        NOT_RAISED,
    ),
    "a file is cut to one byte more than was saved": Bug(
        "journal",
        "os:ftruncate",
        lambda original, fd, length: original(fd, length + 1),
        partial(
            with_folder,
            test_durable_ends.test_each_item_is_there_once_over_three_lives,
            WriteLines,
            ["a", "b"],
            "a\nb\n",
        ),
    ),
    # ranges
    "a worker that is too many is killed": Bug("ranges", f"{_RESIZING}_dismiss_surplus", killed_to_shrink, everything),
    "a worker that is too many is replaced": Bug(
        "ranges", f"{_RESIZING}_dismiss_surplus", replaced_although_too_many, everything
    ),
    "numbers of workers change at every step": Bug(
        "ranges", "runner.supervisor.autoscaler:Autoscaler.decide_when_due", decided_at_every_step, everything
    ),
    "a step that only made items slower is kept": Bug(
        "ranges",
        "runner.worker_scaling:_has_paid",
        always(True),
        partial(test_worker_scaling.test_what_only_makes_items_slower_is_taken_back, 4),
    ),
    "items that compute have more workers than cores": Bug(
        "ranges",
        "runner.worker_scaling:WorkerScaler._step_size",
        without_regard_for_processors,
        partial(test_worker_scaling.test_items_that_compute_have_the_cores_and_no_more, 8),
    ),
    "a worker of a range is missing when more are asked for": Bug(
        "ranges", f"{_POOL}.start_again", nothing, everything
    ),
    # dispatch
    "a bound is one too large": Bug(
        "dispatch", f"{_LINE}.free_room", lambda original, self: original(self) + 1, bounded_run
    ),
    "a full queue makes nobody wait": Bug("dispatch", f"{_LEDGER}.free_room_in", always(1 << 40), bounded_run),
    "a source is never told that its items have arrived": Bug(
        "dispatch", "runner.supervisor.dispatch:Dispatcher.count_arrived", arrival_is_kept_back, simulation
    ),
    "the rate is ignored": Bug(
        "dispatch",
        "runner.supervisor.rate_limit:TokenBucket.allowed_items",
        always(10**6),
        partial(test_throttle.test_a_minute_has_its_rate, 50, 0),
    ),
    "what is granted is not paid for": Bug(
        "dispatch",
        "runner.supervisor.rate_limit:TokenBucket.take_tokens",
        nothing,
        partial(test_throttle.test_a_minute_has_its_rate, 50, 0),
    ),
    "what is handed back is paid for": Bug(
        "dispatch",
        "runner.supervisor.rate_limit:TokenBucket.return_tokens",
        nothing,
        test_throttle.test_what_is_handed_back_may_be_granted_again_at_once_and_fills_no_more_than_the_bucket,
    ),
    "a chunk does not shrink when items become slow": Bug(
        "dispatch",
        f"{_SIZER}.learn_cost",
        never_falls,
        test_grain_simulation.test_after_one_slow_item_the_next_chunk_is_small,
    ),
    "a chunk is ten slices": Bug(
        "dispatch",
        f"{_SIZER}.learn_cost",
        lambda original, self, items, seconds: original(self, items, seconds / 10),
        partial(_SLICE, 1e-4, 2),
    ),
    "a chunk does not grow": Bug("dispatch", f"{_SIZER}.learn_cost", never_rises, partial(_SLICE, 1e-4, 2)),
    "the first chunk is a thousand items": Bug(
        "dispatch", f"{_SIZER}.items_to_grant", begins_with_a_thousand, partial(_SLICE, 1e-3, 2)
    ),
    "the last items are one worker's": Bug(
        "dispatch",
        f"{_SIZER}.items_to_grant",
        lambda original, self, available, *_: original(self, available, 1),
        partial(test_grain_simulation.test_the_last_items_are_shared_out, 0),
    ),
    "one worker has much while another has nothing": Bug(
        "dispatch",
        f"{_SIZER}.items_to_grant",
        lambda original, self, available, *_: original(self, available, 1),
        partial(test_grain_simulation.test_when_somebody_has_nothing_left_nobody_has_much, 16),
    ),
    "the first worker takes the end of a stream": Bug(
        "dispatch",
        f"{_SIZER}.items_to_grant",
        lambda original, self, available, *_: original(self, available, 1),
        test_chunking.test_the_end_of_a_stream_is_shared_out,
    ),
    "one worker alone is fed": Bug(
        "dispatch",
        "runner.supervisor.run_state:TaskState.update_free_slot",
        only_the_first,
        partial(test_grain_simulation.test_skewed_items_keep_all_workers_busy, 2),
    ),
    "a single item waits for company": Bug(
        "dispatch",
        "runner.supervisor.dispatch:Dispatcher.feed_task",
        only_when_there_are_two,
        partial(
            without_fast_path, test_grain_simulation.test_a_slow_sources_items_are_each_granted_as_they_arrive, 1e-3, 2
        ),
    ),
    "the fast path goes past what waits and beyond the bound": Bug(
        "dispatch",
        "runner.supervisor.fast_path:FastPath._free_worker",
        past_what_waits,
        compared_schedules,
    ),
    "bytes are not looked at when items are granted": Bug(
        "dispatch",
        f"{_LEDGER}.grant_lease",
        lambda original, self, task_, worker, most, *_: original(self, task_, worker, most),
        partial(test_grain_simulation.test_no_grant_holds_more_than_a_mebibyte_unless_it_is_one_item, 10_000),
    ),
    # crashes
    "a worker that was lost counts for `restarts`": Bug(
        "machines", "runner.supervisor.workers:WorkerPool.on_death", counted_as_a_death, machines
    ),
    "a worker whose machine is to go is given more": Bug(
        "machines", "runner.supervisor.workers:WorkerPool.on_leaving", nothing, machines
    ),
    "a worker without a place counts as at work": Bug(
        "machines", "runner.supervisor.run_state:WorkerSlot._is_spare", always(False), machines
    ),
    "a late word of a former worker is heard": Bug(
        "machines",
        "runner.engines.remote:RemoteEngine._hear",
        heard_from_a_former_worker,
        partial(with_agents, test_agents.test_a_late_word_of_a_former_worker_is_not_heard),
    ),
    "a twin has the bytes at another offset": Bug(
        "machines",
        "runner.shm.registry:RegisteredArena.room_at",
        lambda original, self, offset, length: original(self, offset + PAGE_SIZE, length),
        far_memory_schedules,
    ),
    "a slot is free while its bytes are under way": Bug(
        "machines", "runner.agent.relay_memory:RelayMemory._send_blocks", sent_and_let_go, far_memory_schedules
    ),
    "a grant names bytes that the machine lacks": Bug(
        "machines", "runner.engines.remote_memory:RemoteMemory._send_block", nothing, far_memory_schedules
    ),
    "a twin gives memory back into which bytes are read": Bug(
        "machines",
        "runner.shm.registry:RegisteredArena._trim_twin",
        trimmed_whatever_arrives,
        partial(test_far_memory.check, 2, trims=True, deaths=0.02),
    ),
    "a machine is not told what nobody needs": Bug(
        "machines", "runner.engines.remote_memory:RemoteMemory._tell_freed", nothing, far_memory_schedules
    ),
    "a machine forgets a block that is viewed": Bug(
        "machines",
        "runner.shm.registry:ArenaRegistry.note_views",
        lambda original, self, memory, viewed, released: original(self, memory, (), released),
        far_memory_schedules,
    ),
    "another key will do": Bug(
        "machines",
        "runner.transport.key_proof:hmac.compare_digest",
        always(True),
        test_frame_link.test_another_key_is_refused_at_both_ends,
    ),
    "the whole chunk is blamed": Bug("crashes", f"{_LEDGER}.settle_lost_lease", blame_the_lease, simulation),
    "the next item is blamed": Bug("crashes", f"{_LEDGER}.settle_lost_lease", blame_the_next, simulation),
    "nobody is blamed": Bug("crashes", f"{_LEDGER}.settle_lost_lease", blame_nobody, simulation),
    "what a dead worker had not answered is done": Bug(
        "crashes", f"{_LEDGER}.settle_lost_lease", believe_the_dead, simulation
    ),
    "an item may kill workers for ever": Bug(
        "crashes", "runner.supervisor.workers:MAX_CRASHES", always(10**9), simulation
    ),
    "an item is dead with its first crash": Bug(
        "crashes", "runner.supervisor.workers:MAX_CRASHES", always(1), simulation
    ),
    "a suspect is granted among others": Bug(
        "crashes",
        "runner.ledger.subscriptions:ItemRange.must_be_alone",
        always(False),
        test_ledger.test_a_crash_blames_one_item_and_gives_it_alone,
    ),
    "what was executed when everything died is not blamed": Bug(
        "crashes", "runner.ledger.restore:_with_crashes", lambda original, owed, marked: [owed], deadly_lives
    ),
    "what everything died over twice is executed beside others": Bug(
        "crashes", f"{_LEDGER}.has_crashed", always(False), deadly_lives
    ),
    "what everything died over three times is executed again": Bug(
        "crashes", f"{_LEDGER}.lease_lost_items", always(None), deadly_lives
    ),
    "the crashes of a life are written twice": Bug(
        "crashes",
        "runner.store.ledger_file:LedgerFile.write_groups",
        lambda original, self, groups, notes=None: original(self, groups),
        partial(with_folder, test_lease_page.test_the_crashes_of_one_life_are_written_once),
    ),
    "a death is not fenced": Bug(
        "crashes", "runner.engines.processes:ProcessEngine._on_death", without_the_fence, leaking_run
    ),
    # shutdown
    "the second signal is not heard": Bug(
        "shutdown",
        f"{_SHUTDOWN}.handle_signal",
        first_signal_only,
        test_simulation.test_the_second_signal_ends_at_once_and_counts_what_is_left,
    ),
    "the first signal kills": Bug(
        "shutdown",
        f"{_SHUTDOWN}.stop",
        lambda original, self, why: self.kill_all(why),
        test_simulation.test_the_first_signal_drains_what_is_queued_and_the_source_makes_no_more,
    ),
    "sources go on after a signal": Bug(
        "shutdown",
        f"{_SHUTDOWN}.stop",
        without_sources,
        test_simulation.test_the_first_signal_drains_what_is_queued_and_the_source_makes_no_more,
    ),
    "the grace never ends": Bug(
        "shutdown", f"{_SHUTDOWN}.check_limits", nothing, test_simulation.test_the_grace_ends_what_does_not_drain
    ),
    "the deadline is never set": Bug(
        "shutdown",
        f"{_SHUTDOWN}.start_deadline",
        nothing,
        partial(test_simulation.test_the_deadline_is_when_the_run_has_ended, 1.0),
    ),
    "halt is never looked at": Bug("shutdown", f"{_SHUTDOWN}.check_dead_limit", nothing, _HALT),
    "a queue closes with its first writer": Bug(
        "shutdown",
        f"{_TOPOLOGY}.is_closed",
        lambda original, self, queue, inside=(): (
            original(self, queue, inside) or any(map(self.is_finished, self.writers[queue]))
        ),
        test_topology.test_a_queue_closes_when_all_its_writers_are_over,
    ),
    "a cycle ends while items are in it": Bug(
        "shutdown",
        f"{_TOPOLOGY}.exhausted_tasks",
        lambda original, self, busy: original(self, lambda _: False),
        test_topology.test_a_cycle_ends_together_once_it_is_fed_no_more_and_empty,
    ),
    "a task starts although the one before it has failed": Bug(
        "shutdown",
        f"{_TOPOLOGY}.startable_tasks",
        lambda original, self: [name for name, stage in self.stages.items() if stage is Stage.WAITING],
        lambda: test_topology.test_after("ok", Stage.FAILED, starts=False, never=True),
    ),
    "a writer without readers goes on": Bug(
        "shutdown",
        f"{_TOPOLOGY}.without_readers",
        always([]),
        test_topology.test_a_writer_without_readers_left_works_in_vain,
    ),
    "a run that is being stopped blames what it executes": Bug(
        "shutdown", f"{_SHUTDOWN}._renounce_positions", nothing, deadly_lives
    ),
    # worker bodies
    "call: nothing is handed back": Bug(
        "worker",
        "runner.worker.call:PerItem.execute_grant",
        to_the_end,
        test_grain_simulation.test_what_a_worker_cannot_do_in_two_slices_goes_to_the_others,
    ),
    "call: nothing is handed back when costs change": Bug(
        "worker",
        "runner.worker.call:PerItem.execute_grant",
        to_the_end,
        partial(test_grain_simulation.test_nobody_is_silent_for_more_than_two_slices_and_an_item, 0.2),
    ),
    "call: an only worker is silent": Bug(
        "worker",
        "runner.worker.call:PerItem.execute_grant",
        to_the_end,
        test_grain_simulation.test_an_only_worker_keeps_its_tail_and_says_what_is_done,
    ),
    "call: the neighbour has failed": Bug(
        "worker",
        "runner.worker.call:make_failure",
        of_the_next,
        partial(test_each.test_an_error_in_a_stretch_is_its_items, PICKLED, True, ValueError),
    ),
    "call: what a try has made before its error leaves twice": Bug(
        "worker", f"{_OUTPUTS}.end_failed_call", nothing, _MANY_THEN_ERROR
    ),
    "pull: what a try has put before its error leaves twice": Bug(
        "worker",
        f"{_OUTPUTS}.roll_back_to",
        nothing,
        partial(test_boxes.test_outputs_of_a_try_that_is_given_again_are_forgotten_and_no_others, PICKLED),
    ),
    "pull: what was not taken counts as done": Bug(
        "worker",
        "runner.worker.pull:PullInbox.settle_grant",
        all_taken,
        partial(test_boxes.test_an_early_return_leaves_the_rest, PICKLED),
    ),
    "pull: the next item has failed": Bug(
        "worker",
        "runner.worker.pull:make_failure",
        of_the_next,
        partial(test_boxes.test_a_function_that_fails_late_fails_for_the_item_at_hand_alone, OBJECTS),
    ),
    "pull: what was said to be done is blamed": Bug(
        "worker",
        "runner.worker.pull:PullInbox.task_done",
        nothing,
        partial(test_boxes.test_an_item_that_was_said_to_be_done_is_not_blamed, PICKLED),
        NOT_RAISED,
    ),
    "produce: the last items stay": Bug(
        "worker",
        "runner.worker.produce:SourceOutput.flush",
        nothing,
        partial(test_source.test_all_items_in_order, PICKLED, 5000),
    ),
    "produce: an item is encoded after the next one was made": Bug(
        "worker",
        "runner.worker.produce:SourceOutput.emit_all_from",
        one_ahead,
        partial(test_source.test_an_item_is_as_it_was_when_it_was_yielded, 10),
    ),
    "async_runner: more items are in flight than may be": Bug(
        "worker",
        "runner.worker.async_runner:AsyncRunner.__init__",
        uncounted_flight,
        test_async_runner.test_no_more_are_in_flight_than_the_file_says_and_as_many_are,
    ),
    "async_runner: an item's time limit is not looked at": Bug(
        "worker",
        "asyncio:timeout",
        lambda original, limit: original(None),
        test_async_runner.test_a_time_limit_is_one_items,
    ),
    "async_runner: the neighbour is executed": Bug(
        "worker",
        "runner.worker.async_runner:all_encoded_items",
        lambda original, part: original(part)[::-1],
        test_async_runner.test_each_item_ends_once_with_its_own_outputs,
    ),
    "async_runner: what a try has made leaves twice": Bug(
        "worker",
        f"{_OUTPUTS}.roll_back_to",
        nothing,
        test_async_runner.test_what_cannot_be_sent_is_that_items_error_and_leaves_nothing_of_a_try_that_is_repeated,
    ),
    # shared memory
    "pages that are in use are given again": Bug(
        "shm",
        f"{_WRITER}:PageAllocator.allocate_range",
        overlapping,
        partial(with_pair, test_arena.test_what_is_freed_is_used_again_and_what_is_held_is_not),
    ),
    "pages that are free are not used again": Bug(
        "shm",
        f"{_WRITER}:PageAllocator.free_range",
        never_freed,
        partial(with_pair, test_arena.test_what_is_freed_is_used_again_and_what_is_held_is_not),
    ),
    "what was sent is freed by its writer": Bug(
        "shm",
        f"{_WRITER}:BlockRef.mark_sent",
        freed_when_sent,
        partial(with_pair, test_arena.test_passed_on_unchanged_it_is_the_same_slot),
    ),
    "the parts of a large pickle are in disorder": Bug(
        "shm",
        f"{_WRITER}:ArenaWriter.copy_in",
        backwards,
        partial(with_pair, test_arena.test_bytes_and_text, [b"1" * 4 * MIN_SHARED_BYTES, b"2" * 4 * MIN_SHARED_BYTES]),
        Exception,  # what it is to unpickle a heap of bytes
    ),
    "pages that were written are not dropped": Bug(
        "shm",
        "os:pread",  # the system's word for pages; nothing else of it reads them
        lambda original, fd, count, at: bytes(count),
        partial(with_pair, test_arena.test_a_buffer_lies_in_the_arena_and_arrives_writable),
    ),
    "the supervisor is told twice of what is kept": Bug(
        "shm",
        f"{_READER}:take_view_changes",
        told_again,
        partial(with_pair, test_arena.test_the_supervisor_is_told_of_what_is_kept_once_and_of_its_end),
    ),
    "what was changed is passed on as it came": Bug(
        "shm",
        f"{_READER}:find_block_ref",
        as_it_came,
        partial(with_pair, test_arena.test_passed_on_unchanged_it_is_the_same_slot),
    ),
    "what an item takes in shared memory is not counted": Bug(
        "shm",
        f"{_CODEC}:ItemEncoder.__init__",
        lambda original, self, most, store: original(self, 1 << 40, store),
        partial(with_pair, test_arena.test_too_large_counts_what_lies_in_arenas),
        NOT_RAISED,
    ),
    # transport
    "a payload is read from its first item on": Bug(
        "transport",
        f"{_CODEC}:lazy_items",
        from_the_first,
        partial(test_boxes.test_a_function_that_fails_late_fails_for_the_item_at_hand_alone, PICKLED),
    ),
    "bools are numbers": Bug(
        "transport",
        f"{_CODEC}:encode_values",
        bools_as_numbers,
        partial(with_example, test_collect.test_items_come_out_as_they_went_in, PICKLED, [1, True, 2]),
    ),
    "an item is encoded when its chunk leaves": Bug(
        "transport",
        f"{_CODEC}:ItemEncoder.encode_item",
        lambda original, self, item: item,
        partial(test_source.test_an_item_is_as_it_was_when_it_was_yielded, 10),
    ),
    "readers share one object": Bug(
        "transport",
        f"{_CODEC}:copy_for_reader",
        lambda original, item: item,
        test_functions.test_no_reader_sees_what_another_one_has_changed,
    ),
    "payloads are in disorder": Bug(
        "transport",
        "runner.transport.framing:pack_message",
        payloads_backwards,
        test_link.test_an_answer_arrives_with_each_payload_and_each_failure_in_its_place,
    ),
    "what the socket did not take is lost": Bug(
        "transport",
        "runner.transport.socket_link:SupervisorLink.wants_to_write",
        always(False),
        partial(with_example, test_link.test_nothing_overtakes_what_the_socket_did_not_take, [200_000, 10], [500]),
    ),
    "a worker that talks nonsense is listened to": Bug(
        "transport",
        "runner.transport.socket_link:SupervisorLink.receive",
        goes_on,
        partial(test_link.test_bytes_that_are_no_message_end_the_link_and_what_came_before_them_counts, b"\xff" * 100),
    ),
    # store
    "letters wait in memory": Bug(
        "store", "runner.store.dead_letters:DeadLetterFile.append", whole_lines_only_at_the_end, _LETTERS, UsageError
    ),
    "a letter after one that was refused begins too late": Bug(
        "store",
        "os:lseek",
        nothing,
        partial(
            with_folder,
            test_store.test_a_letter_that_the_disk_refuses_leaves_no_half_and_is_counted,
            patched=True,
        ),
    ),
    "CRCs of rows are not compared": Bug(
        "store",
        "runner.store.ledger_file:_crc_of",
        always(0),
        partial(with_folder, test_ledger_file.test_a_flipped_byte_is_refused_or_one_damaged_chunk_or_nothing, 500),
        Exception,  # whatever it is to read nonsense
    ),
    "a place in a segment is free before its removal is on disk": Bug(
        "store",
        "runner.store.ledger_file:LedgerFile._chunk_rows",
        freed_at_once,
        partial(with_folder, test_ledger_file.test_a_place_is_free_only_when_its_removal_is_on_disk),
    ),
    "a commit is not synced": Bug(
        "store",
        "runner.store.ledger_file:_PRAGMAS",
        lambda original: tuple(each.replace("=FULL", "=NORMAL") for each in original),
        power_cuts,
    ),
    "a segment is synced after the commit that names it": Bug(
        "store", "runner.store.ledger_file:LedgerFile.write_groups", synced_after_the_commit, power_cuts
    ),
    "the name of a new segment is not synced": Bug("store", "runner.store.segments:sync_folder", nothing, power_cuts),
    "a group is written in two transactions": Bug(
        "store", "runner.store.ledger_file:LedgerFile.write_groups", one_by_one, power_cuts
    ),
    "a payload that is not what it was is no damage": Bug(
        "store",
        "runner.store.ledger_file:LedgerFile.__init__",
        damage_unnoticed,
        partial(
            with_folder,
            test_ledger_file.test_a_segment_that_was_cut_damages_its_chunks_and_one_that_is_gone_is_refused,
        ),
        Exception,  # whatever it is to read nonsense
    ),
    "tables are made one by one, and the format first": Bug(
        "store",
        "runner.store.ledger_file:LedgerFile._transaction",
        without_transaction,
        partial(with_folder, test_ledger_file.test_a_ledger_that_was_cut_off_before_it_began_is_none, patched=True),
        Exception,
    ),
    "a run is gone on with without its lock": Bug(
        "store",
        "fcntl:flock",
        nothing,
        partial(with_folder, test_ledger_file.test_a_run_is_gone_on_with_by_one_process),
        NOT_RAISED,
    ),
    "a record is written in place": Bug(
        "store",
        "runner.store.run_folders:replace_file",
        in_place,
        partial(with_folder, test_store.test_a_record_is_the_old_one_or_the_new_one_and_never_half, patched=True),
    ),
    "runs are sorted by their names": Bug(
        "store",
        "runner.store.run_folders:runs_with_files",
        lambda original, *args: sorted(original(*args)),
        partial(with_folder, test_store.test_runs_are_found_by_age_and_by_how_their_ids_begin),
    ),
    "letters go with their record": Bug(
        "store",
        "runner.store.run_folders:remove_run_files",
        lambda original, state, run_, names: original(state, run_, (*names, "dead.jsonl")),
        partial(with_folder, test_store.test_only_the_last_records_are_kept_and_letters_stay),
    ),
    "a run that goes on elsewhere is over": Bug(
        "store",
        "runner.store.records:is_going_on",
        always(False),
        partial(with_folder, test_state.test_a_run_that_goes_on_elsewhere_is_not_pruned),
    ),
    # runs that are watched from elsewhere
    "a dead run goes on": Bug(
        "live",
        "runner.store.records:is_locked",
        always(True),
        partial(with_folder, test_running_runs.test_a_lock_that_no_process_holds_is_no_run),
    ),
    "whoever has the number is signalled": Bug(
        "live",
        "runner.store.run_lock:LockHolder.is_same_process",
        always(True),
        partial(with_folder, test_running_runs.test_a_number_that_another_process_has_by_now_is_not_signalled),
    ),
    "a far worker is looked up here": Bug(
        "live",
        "runner.cli.ps:RunNow._process_now",
        looked_up_here,
        partial(with_folder, test_running_runs.test_a_worker_of_another_machine_is_not_looked_up_under_its_number),
    ),
    "top ends as the run": Bug(
        "live", "runner.cli.top:RunWatch.describe_end", exits_as_the_run, followed_to_the_end, typer.Exit
    ),
    "the page is given to all": Bug(
        "live",
        "runner.report.page_server:_PageHandler._checked_path",
        without_token,
        partial(with_page, test_live_page.test_half_a_token_or_a_longer_one_is_not_enough),
    ),
    "a viewer waits for a slow one": Bug(
        "live",
        "runner.report.page_server:_LoopbackServer.process_request",
        in_one_thread,
        partial(with_page, test_live_page.test_a_viewer_that_takes_nothing_holds_up_nobody),
    ),
    "a run is watched for ever": Bug(
        "live",
        "runner.store.records:RecordFile.is_watched",
        always(True),
        partial(with_folder, test_running_runs.test_a_run_is_watched_for_some_seconds),
    ),
    "a slow disk is written as often": Bug(
        "live",
        "runner.report.status:StatusWriter._write",
        lambda original, *args: min(1.0, original(*args)),
        test_running_runs.test_a_slow_or_full_disk_is_asked_less_often,
    ),
    "the quota of the container is ignored": Bug(
        "live",
        "runner.cgroups:usable_cpus",
        always(3),
        partial(with_patch, test_cgroups.test_workers_follow_the_quota, 1.0, 1),
    ),
    "the newest item is the oldest": Bug(
        "live",
        f"{_LINE}.oldest_ticket",
        newest,
        partial(test_oldest_waiting.test_the_oldest_waiting_item_is_that_of_a_list_of_arrivals, "fifo", 0),
    ),
    # retries and time limits
    "attempts are not counted": Bug("retries", f"{_LINE}.give_back", uncounted_attempts, simulation),
    "a retry is never given again": Bug("retries", f"{_LEDGER}.wake_sleepers", nothing, simulation),
    "a retry does not wait": Bug("retries", f"{_LINE}.give_back", at_once, _BACKING_OFF),
    "the pause does not grow": Bug(
        "retries", "runner.supervisor.retry_policy:RetryPolicy.retry_pause", never_grows, _BACKING_OFF
    ),
    "every error is tried again": Bug(
        "retries",
        "runner.worker.failure:may_retry",
        lambda original, task_, attempt, error, *, asked=False: attempt < task_.attempts,
        partial(test_items.test_only_what_retry_on_names_is_tried_again, ("OSError",), 0),
    ),
    "what was rejected is tried again": Bug(
        "retries",
        "runner.worker.failure:decide_verdict",
        rejected_again,
        partial(test_items.test_an_exception_is_that_items_alone, "thread", "reject"),
    ),
    "what is to be skipped is done": Bug(
        "retries",
        f"{_LEDGER}.settle_lease",
        skipped_is_done,
        partial(test_items.test_on_error_in_its_four_words, "thread", "skip", 0, 0, 7),
    ),
    "time limits are never looked at": Bug(
        "retries", "runner.supervisor.timeouts:TimeoutWatchdog.check_timeouts", nothing, simulation
    ),
    # tests that stand in files
    "a missing item is not missed": Bug(
        "file tests",
        "runner.file_tests.comparison:_unmatched",
        lambda original, expected, got: ([], original(expected, got)[1]),
        partial(with_folder, test_file_tests.test_what_is_missing_alone_is_told),
    ),
    "the exit code of a test is not looked at": Bug(
        "file tests",
        "runner.file_tests.execution:compare",
        lambda original, expect, end: original(expect, replace(end, exit=expect.exit)),
        partial(with_folder, test_file_tests.test_an_exit_code_that_was_not_expected_is_told),
    ),
    "a fault happens on paper only": Bug(
        "file tests",
        "runner.file_tests.faults:FaultInjector._meet_fault",
        lambda original, self, slot, worker, fault: self.pending.remove(fault),
        partial(with_folder, test_file_tests.test_a_killed_worker_dies_over_its_item),
    ),
    "a fault that did not happen is forgotten": Bug(
        "file tests",
        "runner.file_tests.faults:FaultInjector.__init__",
        lambda original, self, faults: original(self, ()),
        partial(with_folder, test_file_tests.test_a_fault_that_did_not_happen_is_told),
    ),
    "stubs do not stand in": Bug(
        "file tests",
        "runner.file_tests.execution:with_stubs",
        lambda original, plan_, stubs: plan_,
        partial(with_folder, test_file_tests.test_a_stub_stands_in),
    ),
    "a retry does not hold its lane": Bug("lanes", f"{_LANES}.give_back", free_while_it_sleeps, everything),
    "what comes back is last in its lane": Bug("lanes", f"{_LANES}._add", last_of_its_bucket, everything),
    "two workers have one lane": Bug("lanes", f"{_LANES}._leave_next", never_busy, everything),
    "a lane goes on behind a failure": Bug(
        "lanes", "runner.supervisor.plan:Plan.keeps_lanes", always(False), everything
    ),
    "an earlier life's buckets are taken for others": Bug(
        "lanes", f"{_LANES}._bucket", with_other_buckets, laned_lives
    ),
    "a key's hash depends on its type": Bug(
        "lanes",
        "runner.worker.lanes:index",
        lambda original, lane: original(lane) + 1,
        test_lanes.test_equal_lanes_have_one_hash_in_every_process,
    ),
    # commands
    "a value is read by the shell": Bug(
        "commands",
        "runner.cli.each_file:_translate_text",
        values_in_the_program,
        partial(
            with_example,
            test_each_file.test_a_value_is_one_word_of_a_shell_whatever_is_in_it,
            "printf '%s|' {}",
            "a  b",
        ),
    ),
    "what a failed command has written is lost": Bug(
        "commands",
        "runner.std.shell:Shell._report",
        silent_failure,
        test_command_reports.test_a_command_that_fails_gives_all_that_it_has_written,
        CommandFailed,
    ),
    "a command's child is left running": Bug(
        "commands",
        "runner.std.commands:Command._read_rest",
        nothing,
        test_command_reports.test_a_child_that_holds_the_output_open_ends_with_its_command,
        psutil.TimeoutExpired,
    ),
    "a log of jobs does not know where it was": Bug(
        "commands",
        "runner.std.command_reports:WriteOutput.save",
        nothing,
        partial(with_folder, test_command_reports.test_a_log_goes_on_where_it_was_and_a_new_run_begins_it_anew),
    ),
    # results in Python
    "a slow caller is not waited for": Bug(
        "results",
        "runner.streamed_runs:Handover.put",
        lambda original, self, item: self._items.put(item),
        partial(with_folder, test_results.test_a_slow_caller_holds_the_run_back, "thread"),
    ),
    "what a feed raises is forgotten": Bug(
        "results",
        "runner.fed_runs:_Feed.raise_error",
        nothing,
        partial(with_folder, test_results.test_a_stream_yields_what_its_feed_gave_before_it_failed),
        NOT_RAISED,
    ),
    "a run whose caller has stopped drains all that is queued": Bug(
        "results",
        "runner.supervisor.shutdown:Shutdown.halt_run",
        lambda original, self, why: self.stop(why),
        partial(
            with_folder,
            test_results.test_a_run_that_its_caller_ended_hands_out_nothing_more_and_says_what_is_left,
        ),
    ),
    "of a feed that failed the tasks are told, not the caller": Bug(
        "results",
        "runner.fed_runs:FedQueues.raise_feed_error",
        nothing,
        partial(with_folder, test_results.test_an_item_that_cannot_be_pickled_is_named_by_queue_and_number),
        NOT_RAISED,
    ),
    # --watch
    "what a run writes itself runs it again for ever": Bug(
        "results",
        "runner.watching:CommandWatcher._is_written",
        lambda original, self, path: bool(original(self, path)) and False,
        partial(with_patch, test_watch.test_what_changes_during_runs_in_a_row_is_what_they_write),
    ),
    "a run under way is not drained": Bug(
        "results",
        "runner.watching:_send_signal",
        nothing,
        partial(with_patch, test_watch.test_an_input_drains_the_run_each_time_but_not_for_ever),
    ),
    "the last write of a run is a change after it": Bug(
        "results",
        "runner.watching:CommandWatcher._take_until_quiet",
        lambda original, self: (),
        partial(with_patch, test_watch.test_what_changes_during_runs_in_a_row_is_what_they_write),
    ),
}


# -- planting ------------------------------------------------------------------------------------------


def found(place: str) -> tuple[Any, str, Any]:
    """The owner of a place, its last name, and what is there now."""
    module, _, path = place.partition(":")
    *owners, name = path.split(".")
    try:
        owner: Any = importlib.import_module(module)
        for each in owners:
            owner = getattr(owner, each)
        return owner, name, inspect.getattr_static(owner, name)
    except (ImportError, AttributeError) as error:
        pytest.fail(f"no bug can be planted at {place}, which does not exist any more ({error}): give it a new place")


def plant(place: str, change: Callable[..., Any], patch: pytest.MonkeyPatch) -> list[str]:
    """Put `change(original, ...)` in the place; return the list that gets an entry for each time it is reached."""
    owner, name, original = found(place)
    reached: list[str] = []

    def planted(real: Any) -> Callable[..., Any]:
        def instead(*args: Any, **options: Any) -> Any:
            reached.append(place)
            return change(real, *args, **options)

        return instead

    wrong: Any
    if isinstance(original, property):
        wrong = property(planted(original.fget))
    elif isinstance(original, staticmethod):
        wrong = staticmethod(planted(original.__func__))
    elif callable(original):
        wrong = planted(original)
    else:  # a constant is reached by whoever reads it
        wrong = change(original)
        reached.append(place)
    patch.setattr(owner, name, wrong)
    return reached


#: Whoever changes the engine runs all of them (`-m slow`); by default every third one.
PLANTED = [pytest.param(name, marks=pytest.mark.slow if at % 3 else ()) for at, name in enumerate(BUGS)]


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bug = BUGS[name]
    monkeypatch.setattr(harness, "LIMIT", 3.0)
    monkeypatch.setattr(fake_engine.FakeReactor, "limit", limit_of(key_of(bug.check)))
    with monkeypatch.context() as patch:
        reached = plant(bug.place, bug.change, patch)
        with pytest.raises(bug.fails):
            bug.check()
    assert reached, f"the check does not come by {bug.place}"


def key_of(check: Callable[[], object]) -> str:
    """A name for a check, the same for equal ones."""
    if isinstance(check, partial):
        parts = [each.__name__ if callable(each) and not isinstance(each, type) else repr(each) for each in check.args]
        return f"{check.func.__name__}({', '.join(parts)})"[:150]
    return getattr(check, "__name__", repr(check))


def limit_of(check: str) -> int:
    return LONG_LIMIT if check in LONG_CHECKS else LIMIT


#: Each check once.
CHECKS = {key_of(bug.check): bug.check for bug in BUGS.values()}


def is_a_test(check: Callable[[], object]) -> bool:
    """Whether the default set has the check as it is, as a test of its own."""
    return inspect.isfunction(check) and check.__name__.startswith("test_") and check.__module__ != __name__


@pytest.mark.slow
@pytest.mark.parametrize(
    "check",
    [
        pytest.param(key, marks=pytest.mark.slow if check is compared_schedules else ())
        for key, check in CHECKS.items()
        if not is_a_test(check)
    ],
)
def test_without_a_bug_it_passes(check: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same limit, else that would be what notices."""
    monkeypatch.setattr(fake_engine.FakeReactor, "limit", limit_of(check))
    CHECKS[check]()


def functions_of(check: Any) -> Iterator[Any]:
    """The tests that a check calls, as far as it names them."""
    if isinstance(check, partial):
        for each in (check.func, *check.args):
            yield from functions_of(each)
    elif inspect.isfunction(check):
        yield check


def test_no_check_is_left_out_by_default() -> None:
    for check in CHECKS.values():
        for function in functions_of(check):
            marks = {mark.name for mark in getattr(function, "pytestmark", [])}
            assert "slow" not in marks, function.__name__


def test_every_floor_has_its_bugs() -> None:
    by_floor = Counter(bug.floor for bug in BUGS.values())
    assert set(by_floor) == set(FLOORS)
    assert min(by_floor.values()) >= LEAST
    bodies = Counter(name.partition(":")[0] for name, bug in BUGS.items() if bug.floor == "worker")
    assert set(bodies) == {"call", "pull", "produce", "async_runner"}
    assert len(BUGS) >= 36


@pytest.mark.parametrize("place", ["runner.nowhere:x", "runner.ledger.ledger:Ledger.nowhere", "runner.topology:Gone.x"])
def test_a_bug_that_cannot_be_planted_fails(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NOT_RAISED, match="does not exist any more"):
        plant(place, nothing, monkeypatch)


def test_a_chunk_size_that_never_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowness is no violation; but it must not turn into one."""
    monkeypatch.setattr(chunk_sizing.ChunkSizer, "items_to_grant", lambda self, available, *_: available)
    simulation()
