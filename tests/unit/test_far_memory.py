"""Large items of workers on other machines: played schedules, whose readers look at every byte."""

from __future__ import annotations

import os
import random
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from far_memory import World

from runner.shm import registry
from runner.shm.writer import ARENA_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs memory files")


@contextmanager
def world(seed: int, *, failing: float = 0.0) -> Iterator[World]:
    made = World(random.Random(seed), failing=failing)
    with pytest.MonkeyPatch.context() as patch:
        made.patch(patch)
        try:
            yield made
        finally:
            made.close()


def step(made: World, *, deaths: float) -> None:
    """Do one thing that may happen now."""
    draw = made.draw
    workers = list(made.workers())
    worker = draw.choice(workers)
    kind = draw.random()
    if kind < deaths:
        made.kill(worker)
        made.add_worker(worker.machine)
    elif kind < deaths * 1.2 and len(made.machines) > 1:
        made.lose(worker.machine)
        made.add_worker(made.add_machine())
    elif kind < 0.25:
        made.make(worker)
    elif kind < 0.45 and made.queue:
        made.grant(worker)
    elif kind < 0.6 and worker.leases:
        made.answer(worker, draw.choice(list(worker.leases)))
    elif kind < 0.7 and worker.viewed:
        made.look_again(worker)
    else:
        made.carry(draw.choice(made.machines), draw.choice([1, 40, 5_000, 100_000, 1 << 20]))


def check(
    seed: int,
    *,
    steps: int = 250,
    failing: float = 0.0,
    deaths: float = 0.01,
    mixed: bool = False,
    trims: bool = False,
) -> None:
    """Play a schedule: each reader finds the bytes of its item, and at the end nobody holds anything."""
    with world(seed, failing=failing) as made, pytest.MonkeyPatch.context() as patch:
        if trims:
            patch.setattr(registry, "MIN_TRIMMED_BYTES", 0)
            patch.setattr(registry, "_TRIM_RATIO", 1)
        for at in range(3):
            machine = made.add_machine(shares_memory=not mixed or at != 1)
            for _ in range(2):
                made.add_worker(machine)
        for _ in range(steps):
            step(made, deaths=deaths)
        made.settle()
        assert made.done or deaths > 0.1
        for machine in made.machines:
            assert not machine.memory._kept, "a machine keeps what nobody needs"
            for worker in machine.workers.values():
                assert not worker.writer.bytes_in_use, "memory that its writer never gets back"
            assert all(not arena.blocks for arena in machine.registry._arenas.values())
        assert not any(arena.blocks for arena in made.registry._arenas.values())
        living = {worker.writer.arena_number for worker in made.workers()}
        assert set(made.registry._arenas) <= living, "twins of arenas that are gone"
        if trims:
            assert not any(os.fstat(arena.fd).st_blocks for arena in made.registry._arenas.values())
        for machine in made.machines:
            assert set(machine.registry._arenas) <= living


@pytest.mark.parametrize("seed", range(6))
def test_readers_find_the_bytes_of_their_items(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("seed", range(4))
def test_workers_and_machines_die_while_bytes_are_under_way(seed: int) -> None:
    check(seed, deaths=0.08)


@pytest.mark.parametrize("seed", range(3))
def test_there_is_no_memory_now_and_then(seed: int) -> None:
    check(seed, failing=0.3)


@pytest.mark.parametrize("seed", range(3))
def test_twins_give_memory_back_while_bytes_are_under_way(seed: int) -> None:
    check(seed, trims=True, deaths=0.02)


@pytest.mark.parametrize("seed", range(2))
def test_a_machine_without_shared_memory_is_among_them(seed: int) -> None:
    check(seed, mixed=True, failing=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_schedules(seed: int) -> None:
    check(
        seed,
        steps=600,
        failing=(seed % 3) * 0.1,
        deaths=(seed % 4) * 0.03,
        mixed=seed % 5 == 0,
        trims=seed % 2 == 0,
    )


def test_a_twin_is_sparse_and_has_each_block_at_its_own_offset() -> None:
    with world(1) as made:
        machine = made.add_machine()
        worker, reader = made.add_worker(machine), made.add_worker(made.add_machine())
        for _ in range(3):
            made.make(worker)
        made.carry(machine, 1 << 40)
        made.queue.popleft()  # the first is over
        made.grant(reader)
        made.carry(reader.machine, 1 << 40)
        twin = reader.machine.registry.find_arena(worker.writer.arena_number)
        own = machine.registry.find_arena(worker.writer.arena_number)
        assert twin is not None
        assert own is not None
        (offset,) = twin.blocks
        block = twin.blocks[offset]
        assert offset > 0
        assert bytes(twin.bytes_at(offset, block.length)) == bytes(own.bytes_at(offset, block.length))
        found = os.fstat(twin.fd)
        assert found.st_size == ARENA_BYTES
        assert found.st_blocks * 512 <= -(-block.length // 4096) * 4096


def test_bytes_go_to_a_machine_once_and_never_to_the_one_that_made_them() -> None:
    with world(2) as made:
        machine, other = made.add_machine(), made.add_machine()
        maker, beside, far = made.add_worker(machine), made.add_worker(machine), made.add_worker(other)
        made.make(maker)
        made.carry(machine, 1 << 40)
        payload = made.queue[0][0]
        assert made.memory.has_bytes(machine.node, payload)
        assert not made.memory.has_bytes(other.node, payload)
        for reader, most in ((beside, 1000), (far, 1 << 20), (far, 1000)):
            made.queue.append(made.queue[0])
            made.grant(reader)
            reader.machine.ours.room = most
            reader.machine.node.link.flush()
            left, reader.machine.ours.room = reader.machine.ours.room, 0
            assert left > 0, "more than a handle went over the network"
            made.carry(reader.machine, 1 << 40)
            assert reader.leases
        assert made.memory.has_bytes(other.node, payload)
        made.settle()
