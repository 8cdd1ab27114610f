"""The connection to agents: frames cut anywhere, garbage, endless lengths; and the proof before them."""

from __future__ import annotations

import itertools
import socket
import struct
from collections import deque
from typing import Any

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.transport import agent_messages, join_file
from runner.transport.frame_link import BLOCK_HEAD, FRAME_HEAD, Frame, FrameLink, watch_silence
from runner.transport.framing import FrameError
from runner.transport.key_proof import WORD, KeyProof
from runner.transport.peer_proof import PeerRefused

BOUNDS = {1: 1 << 20, 2: 100}


class Scripted:
    """A stream that hands out pieces, and takes so many bytes at a time."""

    def __init__(self, pieces: list[bytes] | None = None, takes: list[int] | None = None) -> None:
        self.pieces, self.takes = deque(pieces or []), deque(takes or [])
        self.written = bytearray()
        self.closed = False

    def fileno(self) -> int:
        return 7

    def recv_into(self, buffer: memoryview) -> int:
        if not self.pieces:
            raise BlockingIOError
        piece = self.pieces.popleft()
        count = min(len(piece), len(buffer))
        buffer[:count] = piece[:count]
        if count < len(piece):
            self.pieces.appendleft(piece[count:])
        return count

    def sendmsg(self, buffers: list[Any]) -> int:
        room = self.takes.popleft() if self.takes else 1 << 30
        if not room:
            raise BlockingIOError
        data = b"".join(buffers)[:room]
        self.written += data
        return len(data)

    def close(self) -> None:
        self.closed = True


frames = st.lists(
    st.tuples(
        st.just(1),
        st.integers(0, 2**32 - 1),
        st.integers(0, 2**32 - 1),
        st.one_of(st.binary(max_size=300), st.just(b"x" * 300_000)),
    ),
    max_size=6,
)


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at some places, and in any case into what one read takes."""
    cuts = sorted({0, len(data), *(place % (len(data) + 1) for place in places), *range(0, len(data), 1 << 18)})
    return [data[start:end] for start, end in itertools.pairwise(cuts)]


@given(frames, st.lists(st.integers(0, 1 << 21), max_size=8), st.lists(st.integers(0, 70), max_size=8))
def test_frames_arrive_as_they_were_sent_wherever_they_are_cut(sent, places, takes):
    out = Scripted(takes=takes)
    link = FrameLink(out, BOUNDS)
    for kind, slot, generation, body in sent:
        link.send(kind, slot, generation, [body[:3], b"", body[3:]])
    while link.wants_to_write:
        link.flush()
    incoming = FrameLink(Scripted(cut_up(bytes(out.written), places)), BOUNDS)
    got: list[Frame] = []
    while incoming._stream.pieces:  # type: ignore[attr-defined]
        got += incoming.receive()
    assert [(each.kind, each.slot, each.generation, bytes(each.body)) for each in got] == sent
    assert not incoming.end_reason


blocks = st.lists(
    st.one_of(
        st.tuples(st.just(1), st.binary(max_size=300)),
        st.tuples(st.just(3), st.integers(1, 300)),
        st.tuples(st.just(3), st.integers(130_000, 300_000)),
    ),
    max_size=5,
)


@examples(30, 150)
@given(blocks, st.lists(st.integers(0, 1 << 22), max_size=8), st.lists(st.integers(0, 200_000), max_size=8))
def test_blocks_arrive_where_they_belong_and_in_turn(sent, places, takes):
    """Among other frames, wherever they are cut; each at its offset, and told when all of it is there."""
    out = Scripted(takes=takes)
    link, memory, expected, offset = FrameLink(out, BOUNDS), bytearray(2 << 20), bytearray(2 << 20), 0
    told = []
    for kind, what in sent:
        if kind == 1:
            link.gather(1, 5, 6, [what])
            told.append((1, what))
            continue
        bytes_ = (bytes([offset % 251]) + b"xyz") * (what // 4 + 1)
        link.gather(3, 7, 8, [BLOCK_HEAD.pack(9, offset), memoryview(bytes_)[:what]])
        expected[offset : offset + what] = bytes_[:what]
        told.append((3, (offset, what)))
        offset += what + 3
    while link.wants_to_write:
        link.flush()
    assert link._unsent_bytes == 0
    incoming = FrameLink(Scripted(cut_up(bytes(out.written), places)), {**BOUNDS, 3: 1 << 20}, 3)
    incoming.place_block = lambda number, offset, length: memoryview(memory)[offset : offset + length]
    got = []
    while incoming._stream.pieces:  # type: ignore[attr-defined]
        for frame in incoming.receive():
            if frame.kind == 3:
                at, length = BLOCK_HEAD.unpack(frame.body)[1], len(frame.block)
                assert memory[at : at + length] == expected[at : at + length]
                got.append((3, (at, length)))
            else:
                got.append((1, bytes(frame.body)))
    assert got == told
    assert memory == expected
    assert not incoming.end_reason


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (BLOCK_HEAD.pack(1, 0), "a block without bytes"),
        (BLOCK_HEAD.pack(1, 0)[:9], "a block without bytes"),
        (BLOCK_HEAD.pack(1, 0) + b"abc", "3 bytes of shared memory (1, 0) where none are taken"),
        (BLOCK_HEAD.pack(2, 0) + b"abc", "3 bytes for a place of 2"),
    ],
)
def test_a_block_that_has_no_place_ends_the_connection(body, words):
    refuse = FrameLink(Scripted(), {3: 100}, 3).place_block

    def place(number, offset, length):
        return memoryview(bytearray(2)) if number == 2 else refuse(number, offset, length)

    for pieces in ([0], range(len(body) + FRAME_HEAD.size)):
        data = FRAME_HEAD.pack(3, 0, 0, len(body)) + body + b"\0" * 40
        link = FrameLink(Scripted(cut_up(data, list(pieces))), {3: 100}, 3)
        link.place_block = place
        while not link.end_reason and link._stream.pieces:
            assert link.receive() == []
        assert words in link.end_reason


@given(st.binary(min_size=17, max_size=60), st.lists(st.integers(0, 60), max_size=4))
def test_garbage_ends_the_connection_and_nothing_more_is_taken_from_it(data, places):
    link = FrameLink(Scripted(cut_up(b"\xff" + data, places)), BOUNDS)
    while link._stream.pieces and not link.end_reason:
        assert link.receive() == []
    assert link.end_reason == "it sent what is not a message (kind 255)"


@pytest.mark.parametrize("length", [101, 1 << 40, (1 << 64) - 1])
def test_a_length_beyond_the_bound_is_refused_before_its_bytes_come(length):
    link = FrameLink(Scripted([FRAME_HEAD.pack(2, 0, 0, length)]), BOUNDS)
    assert link.receive() == []
    assert link.end_reason == f"it announced a message of {length:,} bytes (kind 2)"


def test_what_came_whole_before_garbage_is_handed_out():
    good = FRAME_HEAD.pack(1, 5, 6, 2) + b"ab"
    link = FrameLink(Scripted([good + b"\xff" * 20]), BOUNDS)
    assert [bytes(each.body) for each in link.receive()] == [b"ab"]
    assert link.end_reason


def test_an_end_is_told_and_what_waits_is_dropped():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    link = FrameLink(ours, BOUNDS)
    theirs.close()
    link.send(1, body=[b"x" * 100])
    link.flush()
    link.receive()
    assert link.end_reason
    assert not link.wants_to_write
    link.close()


@given(st.binary(max_size=80))
def test_a_body_that_is_not_what_it_should_be_is_an_error(data):
    kinds = [agent_messages.Hello, agent_messages.DeathReport, agent_messages.ShownPosition, agent_messages.AgentPlan]
    for kind in kinds:
        try:
            found = agent_messages.decode_body(data, kind)
        except FrameError:
            continue
        assert isinstance(found, kind)


def test_each_kind_has_one_meaning_and_a_bound():
    names = ("PLAN", "START", "SEND", "KILL", "DUMP", "PAUSE", "WRITTEN", "CLOSE", "BLOCK", "LENT", "FREED", "GONE")
    assert {getattr(agent_messages, name) for name in names} == set(agent_messages.TO_AGENT)
    names = (
        "HELLO", "HEARD", "DIED", "REFUSED", "OUTPUT", "SHOWS", "WEIGHS", "STACK", "LEAVING", "UNABLE", "MADE", "TRAFFIC",
    )  # fmt: skip
    assert {getattr(agent_messages, name) for name in names} == set(agent_messages.FROM_AGENT)
    assert not set(agent_messages.TO_AGENT) & set(agent_messages.FROM_AGENT)


def test_the_kernel_is_told_how_long_silence_may_last():
    with socket.socket() as sock:
        watch_silence(sock, 10.0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        asks = [sock.getsockopt(socket.IPPROTO_TCP, word) for word in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL)]
        assert sum(asks) < 10


# -- the proof -----------------------------------------------------------------------------------------


def prove(ours: bytes, theirs: bytes) -> tuple[Any, Any]:
    """Let both sides take their steps in turn; return how each ended: None, or the error."""
    pair = socket.socketpair()
    sides = [KeyProof(pair[0], ours, "the agent", is_agent=False), KeyProof(pair[1], theirs, "the run", is_agent=True)]
    ends: list[Any] = [1, 1]
    for _ in range(10):
        for at, side in enumerate(sides):
            if ends[at] == 1:
                try:
                    ends[at] = None if side.step() == 0 else 1
                except PeerRefused as error:
                    ends[at] = error
                    side.close()
    for side in sides:
        side.close()
    return ends[0], ends[1]


def test_both_ends_prove_that_they_have_the_key():
    assert prove(b"k" * 32, b"k" * 32) == (None, None)


def test_another_key_is_refused_at_both_ends():
    for end in prove(b"k" * 32, b"l" * 32):
        assert isinstance(end, PeerRefused)


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"runner-agent-2\n" + b"x" * 64, b"\0" * 200]
)
def test_what_is_not_an_agent_is_refused_at_its_first_bytes(data):
    ours, theirs = socket.socketpair()
    with theirs:
        proof = KeyProof(ours, b"k" * 32, "a scanner", is_agent=False)
        theirs.sendall(data)
        with pytest.raises(PeerRefused, match="a scanner was refused: it does not speak the language"):
            proof.step()
        proof.close()


def test_an_agent_answers_nobody_who_cannot_prove_to_be_the_run():
    ours, theirs = socket.socketpair()
    with theirs:
        proof = KeyProof(ours, b"k" * 32, "the run", is_agent=True)
        theirs.sendall(WORD + b"s" * 32)
        proof.step()
        theirs.sendall(b"m" * 32)
        with pytest.raises(PeerRefused, match="does not have the key"):
            proof.step()
        proof.close()


def test_a_proof_takes_nothing_of_what_comes_behind_it():
    pair = socket.socketpair()
    sides = [KeyProof(pair[0], b"k" * 32, "a", is_agent=False), KeyProof(pair[1], b"k" * 32, "b", is_agent=True)]
    sides[0].step()
    sides[1].step()
    assert sides[0].step() == 0
    sides[0].stream().sendall(struct.pack("<I", 77))
    assert sides[1].step() == 0
    assert sides[1].stream().recv(100) == struct.pack("<I", 77)
    for side in sides:
        side.close()


def test_a_silent_peer_is_given_up():
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(PeerRefused, match=r"has not proved who it is within 0\.01 s"):
        KeyProof(ours, b"k" * 32, "x", is_agent=True).finish(0.01)
    assert ours.fileno() == -1


# -- the join file -------------------------------------------------------------------------------------


def written(path, mode=0o600, **changes):
    made = {"address": "127.0.0.1:77", "name": "r", "key": "ab" * 32, "lost": 10.0, **changes}
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(join_file.write_join_file(join_file.JoinFile(**made)))
    path.chmod(mode)
    return path


def test_a_join_file_is_read_as_it_was_written(tmp_path):
    made = join_file.read_join_file(written(tmp_path / "join"))
    assert (made.host_and_port, made.name, made.key, made.lost) == (("127.0.0.1", 77), "r", "ab" * 32, 10.0)
    assert "ab" * 32 not in repr(made)


def test_the_file_of_the_last_run_is_the_newest(tmp_path):
    import os

    with pytest.raises(FileNotFoundError):
        join_file.read_join_file(tmp_path / "last" / "join")
    for at, name in enumerate(["b", "c", "a"]):
        os.utime(written(tmp_path / name / "join", name=name), (at, at))
    assert join_file.read_join_file(tmp_path / "last" / "join").name == "a"


@pytest.mark.parametrize("text", ["", "{}", '{"address": "x", "name": "r", "key": "zz", "lost": 1}', "\xff"])
def test_what_is_not_a_join_file_is_refused_and_not_repeated(text, tmp_path):
    path = tmp_path / "join"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(UsageError, match="is not a join file"):
        join_file.read_join_file(path)


def test_a_join_file_that_others_may_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match="chmod 600"):
        join_file.read_join_file(written(tmp_path / "join", 0o644))
