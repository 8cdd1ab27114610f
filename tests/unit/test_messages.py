"""Messages as bytes: each comes back as it was, and bytes that are not a message are a `FrameError`, nothing worse."""

from __future__ import annotations

import math
import os
from typing import Any

import msgspec
import pytest
from helpers import examples
from hypothesis import example, given
from hypothesis import strategies as st

from runner.error_text import ErrorText
from runner.transport import framing
from runner.transport.messages import (
    PICKLED,
    Ack,
    ArenaNotice,
    Credit,
    Failed,
    Failure,
    FailureText,
    Finished,
    Grant,
    GrantedRange,
    MeasuredTimes,
    Output,
    Produced,
    ProgressReport,
    Ready,
    Reply,
    SharedPayload,
    Stop,
    SuspectPreview,
)
from runner.transport.socket_link import SupervisorLink, WorkerLink, connected_pair

ERROR = ErrorText("ValueError", "no", "Traceback", ("ValueError", "builtins.ValueError"))
LETTER = FailureText("ValueError: no", "Traceback", "bake", "pa", 3)
MESSAGES = [
    Grant(
        7, 0.05, (GrantedRange(1, 2, 3, 1, 0, PICKLED, b"abcdef"), GrantedRange(2, 0, 1, 2, 1, PICKLED, b"xy", LETTER))
    ),
    Grant(7, 0.05, (), (Grant(8, 0.1, (GrantedRange(1, 0, 1, 1, 0, PICKLED, b"abc"),)),), (4096, 8192)),
    Credit(1000, 0.02, (4096,)),
    Stop(inputs_ended=True),
    ArenaNotice(3, freed_offsets=(0, 4096)),
    Ready(4711),
    Reply((Ack(1, 2), Ack(2, 0, (), True)), (Output(0, 2, 6, b"abcdef"), Output(1, 1, 1, b"")), 0.5, 0.25),
    Reply(
        (Ack(1, 2, (Failure(0, 2, ERROR, "'a'", "retry", 0.5, ("'a'", "'b'")),)),), (), 0.5, 0.0, ((1, 2),), ((3, 4),)
    ),
    Reply((), (Output(0, 2, 1 << 40, b"ab", ((1, 4096, 1 << 40),)),), 0.0),
    Produced(3, (Output(0, 3, 3, b"abc"),), 0.25),
    SuspectPreview(7, "'item'"),
    ProgressReport(math.inf, None),
    MeasuredTimes(((-40, 3), (5, 1)), 0.75, 1 << 30),
    Finished("[1]", returned_early=True),
    Failed("setup", ERROR, "retry", 2.0),
]
PREFIX = framing.PREFIX_STRUCT.size


def packed(message: Any) -> bytes:
    return b"".join(bytes(buffer) for buffer in framing.pack_message(message))


def unpacked(frame: bytes) -> Any:
    header, payload = framing.read_prefix(frame[:PREFIX])
    view = memoryview(frame)[PREFIX:]
    assert len(view) == header + payload
    return framing.unpack_message(view[:header], view[header:])


def read_back(frame: bytes) -> Any:
    """The message, or None if it is a `FrameError`; any other exception is a failure of the test."""
    try:
        header, payload = framing.read_prefix(frame[:PREFIX])
        view = memoryview(frame)[PREFIX:]
        return framing.unpack_message(view[:header], view[header : header + payload])
    except framing.FrameError:
        return None


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_comes_back_as_it_was(message: Any) -> None:
    assert unpacked(packed(message)) == message


def test_messages_are_frozen_values() -> None:
    ack = Ack(1, 2)
    assert len({ack, Ack(1, 2), Ack(1, 3)}) == 2
    assert msgspec.structs.replace(ack, done=3) == Ack(1, 3)
    with pytest.raises(AttributeError):
        ack.done = 3  # type: ignore[misc]


def test_payloads_are_neither_copied_nor_sent_twice() -> None:
    payload, other = bytearray(b"x" * 100_000), b"y" * 100_000
    ranges = [GrantedRange(1, at, 1, 1, 0, PICKLED, SharedPayload(other, ())) for at in range(2)]
    grant = Grant(1, 0.1, (GrantedRange(2, 0, 1, 1, 0, PICKLED, payload), ranges[0]), (Grant(2, 0.1, (ranges[1],)),))
    assert [id(buffer) for buffer in framing.pack_message(grant)[1:]] == [id(payload), id(other)]
    back = unpacked(packed(grant))
    assert back.other_grants[0].parts[0].payload is back.parts[1].payload
    assert (back.parts[0].payload, back.parts[1].payload) == (payload, other)


@pytest.mark.parametrize("kind", [Reply, Grant])
def test_many_short_payloads_do_not_fill_the_header(kind: type) -> None:
    """One call may yield a million items for a reader of single ones: as many chunks as have no bound."""
    payload = b"x" * framing.MAX_INLINE_BYTES
    message: Any = Reply((), (Output(0, 64, len(payload), payload),) * 1000, 0.0)
    if kind is Grant:
        message = Grant(1, 0.1, tuple(GrantedRange(at, 0, 64, 1, 0, PICKLED, bytes(payload)) for at in range(1000)))
    frame = packed(message)
    header, _ = framing.read_prefix(frame)
    assert header < 1000 * 100
    assert unpacked(frame) == message


def test_what_a_worker_sends_is_copied_out_of_the_buffer_it_was_read_into() -> None:
    frame = bytearray(packed(Produced(1, (Output(0, 1, 3, b"abc"),), 0.0)))
    made = unpacked(frame)  # type: ignore[arg-type]
    frame[:] = bytes(len(frame))
    assert made.outputs[0].payload == b"abc"


class Loud(str):
    """What a `__str__` may return."""

    __slots__ = ()


@pytest.mark.parametrize(
    ("text", "told"),
    [("a\udcffb", "a\\udcffb"), (Loud("loud"), "loud"), (Loud("\ud800"), "\\ud800"), ("ö😀\0", "ö😀\0")],
)
def test_any_text_of_the_users_can_be_told(text: str, told: str) -> None:
    error = ErrorText("OSError", text, text, (text,))
    sent = Reply((Ack(1, 1, (Failure(0, 1, error, text, previews=(text,)),)),), (Output(0, 1, 1, b"x"),), 0.0)
    heard = ErrorText("OSError", told, told, (told,))
    expected = Reply((Ack(1, 1, (Failure(0, 1, heard, told, previews=(told,)),)),), (Output(0, 1, 1, b"x"),), 0.0)
    assert unpacked(packed(sent)) == expected


def header_of(*body: Any, payload: bytes = b"") -> bytes:
    header = msgspec.msgpack.encode(body)
    return framing.PREFIX_STRUCT.pack(framing.MAGIC_BYTES, len(header), len(payload)) + header + payload


@pytest.mark.parametrize(
    "frame",
    [
        header_of(),
        header_of("Reply"),
        header_of(99, 1),
        header_of(5, "4711"),
        header_of(5, 1, payload=b"more"),
        header_of(7, 1, [[0, 1, 1, 4]], 0.1, payload=b"abc"),
        header_of(7, 1, [[0, 1, 1, 2]], 0.1, payload=b"abc"),
        header_of(7, 1, [[0, 1, 1, -1]], 0.1, payload=b"abc"),
        header_of(7, 1, [[0, 1, 1, "3"]], 0.1, payload=b"abc"),
        header_of(7, 1, [[0, 1, 1, None]], 0.1, payload=b"abc"),
        header_of(12, "lunch", ["E", "", "", []]),
        framing.PREFIX_STRUCT.pack(b"rm", 1, 0) + b"\0",
        framing.PREFIX_STRUCT.pack(b"rn", 1 << 30, 0),
        framing.PREFIX_STRUCT.pack(b"rn", 1, 1 << 63),
        framing.PREFIX_STRUCT.pack(b"rn", 5, 0) + b"\xdd\xff\xff\xff\xff",
        framing.PREFIX_STRUCT.pack(b"rn", 100_000, 0) + b"\x91" * 100_000,
        framing.PREFIX_STRUCT.pack(b"rn", 600_000, 0) + b"\x95\x01\x00\x00\x90\x91" * 100_000,
    ],
)
def test_what_is_not_a_message_is_a_frame_error(frame: bytes) -> None:
    assert read_back(frame) is None


@given(
    st.sampled_from(MESSAGES), st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=8), st.binary()
)
@example(MESSAGES[0], [], b"")
@examples(120, 500)
def test_damaged_bytes_are_another_message_or_a_frame_error(
    message: Any, changes: list[tuple[int, int]], more: bytes
) -> None:
    frame = bytearray(packed(message) + more)
    for at, value in changes:
        frame[PREFIX + at % (len(frame) - PREFIX)] = value
    found = read_back(bytes(frame))
    assert found is None or isinstance(found, msgspec.Struct)
    assert changes or found == message


def test_a_descriptor_is_never_taken_from_the_text_of_a_message() -> None:
    ours, theirs = connected_pair()
    supervisor, worker = SupervisorLink(ours), WorkerLink(theirs)
    with ours, theirs:
        theirs.sendall(packed(ArenaNotice(1, fd=0)))
        assert supervisor.receive() == ([ArenaNotice(1, fd=-1)], True)
        ours.sendall(packed(ArenaNotice(2, fd=0)))
        assert worker.receive() == ArenaNotice(2, fd=-1)
        read, write = os.pipe()
        worker.send(ArenaNotice(3, write))
        ((notice,), _) = supervisor.receive()
        assert os.path.sameopenfile(notice.fd, write)
        for fd in (read, write, notice.fd):
            os.close(fd)
