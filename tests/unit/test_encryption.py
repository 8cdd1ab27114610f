"""Connections of agents: who is refused, with which words, and what passes whole. `runner.cluster`."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import ssl
import struct
import sys
import threading
from pathlib import Path

import pytest
from helpers import examples
from hypothesis import given
from hypothesis import strategies as st

from runner.cluster import encryption
from runner.cluster.authority import make_identities
from runner.cluster.encryption import Handshake, Identity, client_context, server_context
from runner.errors import ResourceError
from runner.transport.peer_proof import PeerRefused

#: One that means "it hangs".
HANG = 20.0


@pytest.fixture(scope="module")
def identities():
    return make_identities("run-1")


@pytest.fixture(scope="module")
def other_identities():
    return make_identities("run-2")


class Listener:
    """The supervisor's side, for one peer: `verdict()` is the refusal, or the stream."""

    def __init__(self, identity, seconds=HANG):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.outcome = None
        self.thread = threading.Thread(target=self.serve, args=(server_context(identity), seconds))
        self.thread.start()

    def serve(self, context, seconds):
        peer, _ = self.socket.accept()
        with contextlib.closing(self.socket):
            try:
                self.outcome = Handshake(peer, context, "10.0.0.9").finish(seconds)
            except BaseException as error:
                self.outcome = error

    def verdict(self):
        self.thread.join(HANG)
        assert not self.thread.is_alive()
        return self.outcome

    def refusal(self):
        verdict = self.verdict()
        assert type(verdict) is PeerRefused, verdict
        text = str(verdict)
        assert text.startswith("10.0.0.9 was refused: ")
        return text.removeprefix("10.0.0.9 was refused: ")


def connected(identity, agent):
    """Return both streams of a proved connection."""
    listener = Listener(identity)
    theirs = Handshake(socket.create_connection(listener.address), client_context(agent), "the supervisor").finish(HANG)
    return listener.verdict(), theirs


def test_what_comes_right_behind_the_proof_is_there_at_once(identities):
    """The agent's first message comes in one piece with the end of its proof."""
    agent, supervisor = socket.socketpair()
    contexts = client_context(identities[1]), server_context(identities[0])
    sides = [Handshake(*each, "n1") for each in zip((agent, supervisor), contexts, strict=True)]
    assert [side.step() for side in sides] == [encryption.READ, encryption.READ]
    assert sides[0].step() == 0
    ours, early = sides[0].stream(), bytes(range(256)) * 200
    ours.send(early)
    assert sides[1].step() == 0
    theirs = sides[1].stream()
    buffer = memoryview(bytearray(1 << 18))
    assert bytes(buffer[: theirs.recv_into(buffer)]) == early
    assert not select.select([supervisor], [], [], 0)[0]
    ours.close()
    theirs.close()


def test_nothing_that_was_read_is_left_behind_in_a_large_buffer(identities):
    """A selector would not see it."""
    ours, theirs = connected(*identities)
    sent, got, buffer = b"x" * 2_000_000, 0, memoryview(bytearray(1 << 18))
    at = 0
    while got < len(sent):
        with contextlib.suppress(BlockingIOError):
            at += ours.send(sent[at:]) if at < len(sent) else 0
        assert select.select([theirs], [], [], HANG)[0]
        got += theirs.recv_into(buffer)
        assert theirs._tls.pending() == 0
    assert got == len(sent)
    for stream in (ours, theirs):
        stream.close()


def read(stream, most=1 << 16):
    """Read what comes next, waiting for it."""
    buffer = memoryview(bytearray(most))
    while True:
        try:
            return bytes(buffer[: stream.recv_into(buffer)])
        except BlockingIOError:
            assert select.select([stream], [], [], HANG)[0]


def test_both_sides_of_a_run_speak_in_tls_1_3(identities):
    ours, theirs = connected(*identities)
    with contextlib.closing(ours), contextlib.closing(theirs):
        assert ours._tls.version() == theirs._tls.version() == "TLSv1.3"
        theirs.send(b"hello")
        assert read(ours) == b"hello"
        ours.sendmsg([b"good ", b"day"])
        assert read(theirs) == b"good day"
        theirs.close()
        assert read(ours) == b""


def refused_agent(listener, context, name=encryption.SUPERVISOR_NAME):
    """Connect as an agent with another context; return what the agent is told."""
    with socket.create_connection(listener.address, HANG) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=name) as encrypted:
                encrypted.recv(1)
        except OSError as error:
            return encryption.describe_tls_error(error)
    raise AssertionError("it was let in")


def test_an_agent_of_another_run_is_refused_and_told_so(identities, other_identities):
    listener = Listener(identities[0])
    context = client_context(other_identities[1])
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # it would not even begin
    assert refused_agent(listener, context) == "it is of another run, whose authority did not make our certificate"
    assert listener.refusal() == "its certificate is not one of this run"


def test_an_agent_does_not_speak_to_the_supervisor_of_another_run(identities, other_identities):
    listener = Listener(identities[0])
    with pytest.raises(PeerRefused, match=r"n1 was refused: its certificate is not one of this run"):
        Handshake(socket.create_connection(listener.address), client_context(other_identities[1]), "n1").finish(HANG)
    assert listener.refusal() == "it is of another run, whose authority did not make our certificate"


def test_an_agent_s_key_does_not_make_a_supervisor(identities):
    """What the supervisor sends is unpickled."""
    listener = Listener(identities[1])
    with pytest.raises(PeerRefused, match=r"its certificate is not one of this run"):
        Handshake(socket.create_connection(listener.address), client_context(identities[1]), "n1").finish(HANG)
    listener.verdict()


def test_the_supervisor_s_key_does_not_make_an_agent(identities):
    listener = Listener(identities[0])
    refused_agent(listener, client_context(identities[0]))
    assert listener.refusal() == "its certificate is not one of this run"


def test_who_shows_no_certificate_is_refused(identities):
    listener = Listener(identities[0])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=identities[1].authority)
    assert refused_agent(listener, context) == "it wants a certificate, and was shown none"
    assert listener.refusal() == "it showed no certificate"


def test_an_older_tls_is_refused(identities):
    listener = Listener(identities[0])
    context = client_context(identities[1])
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert refused_agent(listener, context) == "it does not speak TLS 1.3"
    assert listener.refusal() == "it does not speak TLS 1.3"


@pytest.mark.parametrize(
    "text", [b"GET / HTTP/1.0\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\0" * 64, b"\x16\x03\x01\xff\xff" + b"x" * 300]
)
def test_plain_text_is_refused(identities, text):
    listener = Listener(identities[0])
    with socket.create_connection(listener.address) as scanner:
        scanner.sendall(text)
        with contextlib.suppress(OSError):  # it was refused before that
            scanner.shutdown(socket.SHUT_WR)
        assert listener.refusal() in {"it does not speak TLS", "it closed the connection without a word"}


@pytest.mark.parametrize("reset", [False, True])
def test_a_port_scanner_is_refused(identities, reset):
    listener = Listener(identities[0])
    scanner = socket.create_connection(listener.address)
    if reset:
        scanner.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    scanner.close()
    assert listener.refusal() == "it closed the connection without a word"


def test_who_says_nothing_is_refused_in_time(identities):
    listener = Listener(identities[0], 0.1)
    with socket.create_connection(listener.address):
        assert listener.refusal() == "it has not proved who it is within 0.1 s"


@examples(60, 1000)
@given(st.binary(max_size=600))
def test_no_bytes_raise_anything_else(data):
    context = server_context(FUZZED[0])
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(data)
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(PeerRefused):
            Handshake(ours, context, "it").finish(HANG)


FUZZED = make_identities("fuzz")


def test_large_messages_pass_whole_in_both_directions_at_once(identities):
    """Neither side reads while it writes, so both must take what is there, and offer again what was not taken."""
    streams = connected(*identities)
    noise = random.Random(1)
    sent = [[noise.randbytes(noise.choice([3, 17, 900, 20_000, 700_000])) for _ in range(60)] for _ in streams]
    got = [bytearray(), bytearray()]
    left = [list(buffers) for buffers in sent]
    buffer = memoryview(bytearray(1 << 18))
    whole = [b"".join(buffers) for buffers in sent]
    while any(left) or any(len(mine) < len(theirs) for mine, theirs in zip(got, reversed(whole), strict=True)):
        for stream, buffers, arrived in zip(streams, left, got, strict=True):
            with contextlib.suppress(BlockingIOError):
                while buffers:
                    done = stream.sendmsg(buffers[:8])
                    while buffers and done >= len(buffers[0]):
                        done -= len(buffers.pop(0))
                    if done:
                        buffers[0] = memoryview(buffers[0])[done:]
            with contextlib.suppress(BlockingIOError):
                while count := stream.recv_into(buffer):
                    arrived += buffer[:count]
    for stream in streams:
        stream.close()
    assert got == whole[::-1]


def test_a_key_is_neither_shown_nor_repeated(identities):
    secret = identities[1].key.splitlines()[1]
    assert secret not in repr(identities)
    assert secret not in str(identities[1])
    with pytest.raises(ValueError, match="PEM") as caught:
        Identity.from_text(identities[1].as_text() + "x")
    assert secret not in str(caught.value)
    with pytest.raises(PeerRefused) as refused:
        client_context(Identity(identities[0].authority, identities[0].certificate, identities[1].key))
    assert secret not in str(refused.value)


def test_an_identity_survives_as_text(identities):
    for identity in identities:
        assert Identity.from_text(identity.as_text()) == identity
    for text in ("", "x", identities[0].as_text()[:-40], identities[0].key * 3):
        with pytest.raises(ValueError, match="PEM"):
            Identity.from_text(text)


def test_nothing_of_the_machine_is_trusted(identities, monkeypatch, tmp_path):
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    for context in (server_context(identities[0]), client_context(identities[1])):
        assert context.cert_store_stats() == {"x509": 1, "crl": 0, "x509_ca": 1}
        assert context.keylog_filename is None


def test_two_runs_share_nothing(identities, other_identities):
    texts = [text for pair in (identities, other_identities) for each in pair for text in (each.certificate, each.key)]
    assert len(set(texts)) == 8
    assert identities[0].authority == identities[1].authority != other_identities[0].authority


def test_a_missing_library_is_named_with_what_installs_it(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "cryptography"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(ResourceError, match=r"pip install 'toml-runner\[cluster\]'"):
        make_identities("run")


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_descriptor_is_left_by_those_who_are_refused(identities):
    context = server_context(identities[0])
    before = open_descriptors()
    for _ in range(20):
        ours, theirs = socket.socketpair()
        theirs.sendall(b"nonsense")
        with pytest.raises(PeerRefused):
            Handshake(ours, context, "it").finish(HANG)
        theirs.close()
    assert open_descriptors() == before
