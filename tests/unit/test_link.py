"""The private socket: whole messages in order at either end, whatever their sizes and however they are cut on the way."""

from __future__ import annotations

import os
import resource
import select
import socket
import threading
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.error_text import ErrorText
from runner.transport import framing
from runner.transport.messages import (
    PICKLED,
    Ack,
    ArenaNotice,
    Credit,
    Failure,
    Grant,
    GrantedRange,
    Output,
    Ready,
    Reply,
    Stop,
)
from runner.transport.socket_link import SupervisorLink, WorkerLink, connected_pair, connected_pairs

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("short_diffs")
#: Near the sizes in which sockets hand bytes over.
_AHEAD = 1 << 15
SIZES = st.one_of(
    st.integers(1, 64),
    st.integers(framing.MAX_INLINE_BYTES - 1, framing.MAX_INLINE_BYTES + 1),
    st.integers(_AHEAD - 120, _AHEAD + 8),
    st.integers(1, 3 * _AHEAD),
    st.just(200_000),
)


def grant(number: int, size: int) -> Grant:
    return Grant(number, 0.05, (GrantedRange(number, 0, 1, 1, 0, PICKLED, bytes([number % 256]) * size),))


def same(one: Any, other: Any) -> bool:
    if type(one) is not Grant:
        return bool(one == other)
    return type(other) is Grant and one.lease == other.lease and bytes(one.parts[0].payload) == other.parts[0].payload


@given(
    st.lists(st.one_of(SIZES, st.none()), min_size=1, max_size=12),
    st.lists(st.sampled_from([1, 7, 40, _AHEAD, 100_000]), min_size=1, max_size=8),
)
@settings(max_examples=60, deadline=None)
def test_a_worker_reads_whole_messages_wherever_their_bytes_are_cut(sizes: list[int | None], cuts: list[int]) -> None:
    sent = [Credit(at, 0.05) if size is None else grant(at, size) for at, size in enumerate(sizes)]
    stream = b"".join(bytes(buffer) for message in sent for buffer in framing.pack_message(message))
    ours, theirs = socket.socketpair()

    def write() -> None:
        at = 0
        for step in islice(cycle(cuts), 500):
            at += ours.send(stream[at : at + step])
        ours.sendall(stream[at:])

    with ours, theirs:
        link = WorkerLink(theirs)
        writer = threading.Thread(target=write)
        writer.start()
        heard = [link.receive() for _ in sent]
        writer.join()
        assert not link.has_message()
    assert all(same(one, other) for one, other in zip(heard, sent, strict=True))


def test_a_worker_that_waits_keeps_no_large_message_alive() -> None:
    ours, theirs = connected_pair()
    with ours, theirs:
        worker = WorkerLink(theirs)
        SupervisorLink(ours).send(grant(1, 100_000))
        memory = worker.receive().parts[0].payload.obj
        memory.append(0)  # a BufferError while somebody has a view of it
        assert len(memory) > 100_000


@pytest.mark.parametrize("between", [0, 3])
def test_descriptors_belong_to_their_messages_even_when_many_are_read_at_once(between: int) -> None:
    ours, theirs = connected_pair()
    supervisor, worker = SupervisorLink(ours), WorkerLink(theirs)
    files = [os.memfd_create(f"arena{number}") for number in range(3)]
    try:
        for number, fd in enumerate(files):
            os.write(fd, f"arena {number}".encode())
            for _ in range(between):
                supervisor.send(Credit(number, 0.05))
            supervisor.send(ArenaNotice(number, fd))
        supervisor.send(Stop(inputs_ended=True))
        heard = []
        while not heard or type(heard[-1]) is not Stop:
            heard.append(worker.receive())
        arenas = [message for message in heard if type(message) is ArenaNotice]
        assert [os.pread(arena.fd, 20, 0) for arena in arenas] == [b"arena 0", b"arena 1", b"arena 2"]
        assert len(heard) == 4 + 3 * between
        for arena in arenas:
            os.close(arena.fd)
    finally:
        ours.close()
        theirs.close()
        for fd in files:
            os.close(fd)


def test_a_descriptor_for_which_there_was_no_room_is_not_replaced_by_the_next_one() -> None:
    ours, theirs = connected_pair()
    supervisor, worker = SupervisorLink(ours), WorkerLink(theirs)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fd = os.memfd_create("arena")
    with ours, theirs:
        for message in (Credit(1, 0.05), ArenaNotice(1, fd), ArenaNotice(2, fd)):
            supervisor.send(message)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            heard = [worker.receive(), worker.receive()]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert heard == [Credit(1, 0.05), ArenaNotice(1, -1)]
        notice = worker.receive()
        assert os.path.sameopenfile(notice.fd, fd)
        os.close(notice.fd)
    os.close(fd)


def test_an_arena_without_a_descriptor_takes_no_other_ones() -> None:
    ours, theirs = connected_pair()
    supervisor, worker = SupervisorLink(ours), WorkerLink(theirs)
    fd = os.memfd_create("arena")
    try:
        for message in (ArenaNotice(1), ArenaNotice(2, freed_offsets=(4096,)), ArenaNotice(3, fd), ArenaNotice(1)):
            supervisor.send(message)
        heard = [worker.receive() for _ in range(4)]
        assert [(arena.number, arena.fd >= 0, arena.freed_offsets) for arena in heard] == [
            (1, False, ()),
            (2, False, (4096,)),
            (3, True, ()),
            (1, False, ()),
        ]
        assert os.path.sameopenfile(heard[2].fd, fd)
        os.close(heard[2].fd)
    finally:
        ours.close()
        theirs.close()
        os.close(fd)


@given(st.lists(st.one_of(SIZES, st.none(), st.just(-1)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_what_the_socket_does_not_take_at_once_goes_out_in_order(sizes: list[int | None]) -> None:
    """`None`: a message without payload; -1: an arena, whose descriptor must come with it."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    fd = os.memfd_create("arena")
    sent: list[Any] = []
    for at, size in enumerate(sizes):
        sent.append(Credit(at, 0.05) if size is None else ArenaNotice(at, fd) if size < 0 else grant(at, size))
    heard: list[Any] = []
    supervisor, worker = SupervisorLink(ours), WorkerLink(theirs)
    reader = threading.Thread(target=lambda: heard.extend(worker.receive() for _ in sent))
    with ours, theirs:
        for message in sent:
            supervisor.send(message)
        reader.start()
        while supervisor.wants_to_write:
            select.select([], [ours], [], 10)
            supervisor.flush()
        reader.join()
    for one, other in zip(heard, sent, strict=True):
        if type(other) is ArenaNotice:
            assert os.path.sameopenfile(one.fd, fd)
            os.close(one.fd)
        else:
            assert same(one, other)
    os.close(fd)


@given(st.lists(SIZES, min_size=2, max_size=20), st.lists(st.sampled_from([0, 500, 5000]), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_nothing_overtakes_what_the_socket_did_not_take(sizes: list[int], reads: list[int]) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    theirs.setblocking(False)
    supervisor, stream = SupervisorLink(ours), b""
    sent = [grant(at, size) for at, size in enumerate(sizes)]

    def read(most: int) -> bytes:
        """What has arrived, so much of it at most."""
        try:
            return theirs.recv(most) if most else b""
        except BlockingIOError:
            return b""

    with ours, theirs:
        for message, most in zip(sent, cycle(reads), strict=False):
            supervisor.send(message)
            stream += read(most)
        while supervisor.wants_to_write:
            stream += read(1 << 20)
            supervisor.flush()
        while more := read(1 << 20):
            stream += more
    assert stream == b"".join(bytes(buffer) for message in sent for buffer in framing.pack_message(message))


def test_a_worker_that_is_gone_is_not_written_to() -> None:
    ours, theirs = connected_pair()
    supervisor = SupervisorLink(ours)
    theirs.close()
    supervisor.send(grant(1, 100))
    supervisor.send(Credit(1, 0.05))
    assert not supervisor.wants_to_write
    supervisor.close()


def linked(deed: Callable[[SupervisorLink, WorkerLink], None]) -> None:
    """Both ends of one socket."""
    ours, theirs = connected_pair()
    with ours, theirs:
        deed(SupervisorLink(ours), WorkerLink(theirs))


def test_an_answer_arrives_with_each_payload_and_each_failure_in_its_place() -> None:
    error = ErrorText("ValueError", "text \U0001f35e", "", ("ValueError", "Exception"))
    failures = (Failure(1, 1, error, "one", "retry", 0.5), Failure(2, 3, error, "two", "error"))
    sent = Reply(
        (Ack(7, 5, failures, keeps_rest=True), Ack(8, 1)),
        (Output(0, 2, 9, b"first"), Output(1, 1, 6, b""), Output(1, 4, 70_000, b"last" * 17_000)),
        1.5,
    )

    def deed(supervisor: SupervisorLink, worker: WorkerLink) -> None:
        worker.send(sent)
        heard, goes_on = supervisor.receive()
        assert goes_on
        [answer] = heard
        assert [bytes(output.payload) for output in answer.outputs] == [output.payload for output in sent.outputs]
        assert [(output.group_index, output.count, output.size) for output in answer.outputs] == [
            (0, 2, 9),
            (1, 1, 6),
            (1, 4, 70_000),
        ]
        assert tuple(answer.acks) == sent.acks
        assert answer.busy_seconds == sent.busy_seconds

    linked(deed)


def test_parts_of_one_chunk_and_of_others_arrive_each_with_its_bytes() -> None:
    one, other = b"one chunk", b"another"
    parts = tuple(
        GrantedRange(number, start, 1, 2, 1, PICKLED, payload)
        for number, start, payload in [(1, 0, one), (1, 5, one), (2, 0, other), (1, 7, one)]
    )
    sent = Grant(3, 0.05, parts, (Grant(4, 0.05, parts[2:3]), Grant(5, 0.05, parts[:1])), (4096, 8192))

    def deed(supervisor: SupervisorLink, worker: WorkerLink) -> None:
        supervisor.send(sent)
        heard = worker.receive()
        grants = (heard, *heard.other_grants)
        assert [grant.lease for grant in grants] == [3, 4, 5]
        given = [(part.chunk_number, part.start, bytes(part.payload)) for grant in grants for part in grant.parts]
        assert given == [(1, 0, one), (1, 5, one), (2, 0, other), (1, 7, one), (2, 0, other), (1, 0, one)]
        assert all((part.attempt, part.crashes) == (2, 1) for grant in grants for part in grant.parts)
        assert tuple(heard.freed_offsets) == (4096, 8192)

    linked(deed)


@pytest.mark.parametrize(
    "garbage",
    [
        bytes(framing.PREFIX_STRUCT.size),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\xff" * 100,
        b"".join(map(bytes, framing.pack_message(Ready(1))))[:-1] + b"\xc1" + bytes(100),
    ],
    ids=["zeros", "http", "ones", "header"],
)
def test_bytes_that_are_no_message_end_the_link_and_what_came_before_them_counts(garbage: bytes) -> None:
    ours, theirs = connected_pair()
    supervisor = SupervisorLink(ours)
    with ours, theirs:
        WorkerLink(theirs).send(Ready(1))
        theirs.sendall(garbage)
        heard, goes_on = supervisor.receive()
        assert heard == [Ready(1)]
        assert not goes_on
        assert supervisor.is_garbled


def times_asleep(thread: int) -> int:
    """How often a thread has begun to wait."""
    status = Path(f"/proc/self/task/{thread}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="what threads do is read there")
def test_a_waiting_worker_sleeps_on_when_the_supervisor_reads() -> None:
    """With one socket for both directions it woke for each message that it had sent, as there was room again."""
    ours, theirs = connected_pairs()
    supervisor, worker = SupervisorLink(*ours), WorkerLink(*theirs)
    reader = threading.Thread(target=worker.receive)
    reader.start()
    assert reader.native_id is not None
    before = times_asleep(reader.native_id)
    for number in range(200):
        worker.send(Ready(number))
        assert supervisor.receive() == ([Ready(number)], True)
    after = times_asleep(reader.native_id)
    supervisor.send(Stop(inputs_ended=True))
    reader.join()
    supervisor.close()
    worker.close()
    assert after - before < 50, (before, after)
