"""Mutual TLS 1.3 between the supervisor and its agents: nothing but the authority of this run is trusted.

Each side has an identity: the run's authority, a certificate of it, and the key to that. An agent's certificate is for
clients only and the supervisor's for servers only, so an agent's key cannot be used to pose as the supervisor, whose
words are unpickled. Neither the machine's own authorities nor names of machines count.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from runner.linux_only import readable_secret
from runner.transport.peer_proof import READ, WRITE, PeerProof, PeerRefused

if TYPE_CHECKING:
    import socket

#: The name in the supervisor's certificate, whatever the name of its machine.
SUPERVISOR_NAME = "supervisor.runner"
#: Read and encrypted at once: enough that system calls cost little, and no more than stays in a processor's cache.
#: bench.encryption, CPU ms for a MiB at the writer: 32 KiB 1.72, 64 KiB 0.99, 256 KiB 1.16
_PIECE_BYTES = 1 << 16
#: The most bytes of one record of TLS. What fits into one together is joined, as each write makes one of its own.
#: bench, a frame of 100 B sent by a `FrameLink`: apart 24 us, joined 19
_RECORD_BYTES = 1 << 14
_PEM_BLOCK = re.compile(r"-----BEGIN ([A-Z ]+)-----\n[A-Za-z0-9+/=\n]+-----END \1-----\n")

_REFUSALS = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "it showed no certificate",
    "CERTIFICATE_VERIFY_FAILED": "its certificate is not one of this run",
    "TLSV1_ALERT_UNKNOWN_CA": "it is of another run, whose authority did not make our certificate",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it wants a certificate, and was shown none",
    "UNSUPPORTED_PROTOCOL": "it does not speak TLS 1.3",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it does not speak TLS 1.3",
}


class Identity(Struct, frozen=True):
    """The proof of one side, as PEM texts: whom it trusts, its certificate, and its key, which no `repr` shows."""

    authority: str
    certificate: str
    key: str

    def __repr__(self) -> str:
        return "Identity(...)"

    def as_text(self) -> str:
        """Return it as one text, for the join file and the environment of a launcher: it holds the key."""
        return self.authority + self.certificate + self.key

    @classmethod
    def from_text(cls, text: str) -> Identity:
        """Return what `as_text` has written; ValueError for any other text, which the message does not repeat."""
        blocks = [found.group() for found in _PEM_BLOCK.finditer(text)]
        kinds = [found.group(1) for found in _PEM_BLOCK.finditer(text)]
        if kinds != ["CERTIFICATE", "CERTIFICATE", "PRIVATE KEY"] or "".join(blocks) != text:
            raise ValueError("not two certificates and a key in the form of PEM")
        return cls(*blocks)


def server_context(identity: Identity) -> ssl.SSLContext:
    """Return the supervisor's side: it asks every client for its certificate."""
    context = _make_context(ssl.PROTOCOL_TLS_SERVER, identity)
    context.num_tickets = 0  # nothing is resumed: each connection is proved anew
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """Return an agent's side: the server must be this run's supervisor."""
    return _make_context(ssl.PROTOCOL_TLS_CLIENT, identity)


def _make_context(protocol: int, identity: Identity) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)  # unlike `create_default_context`: no other authority, no SSLKEYLOGFILE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    secret = (identity.certificate + identity.key).encode()
    try:
        context.load_verify_locations(cadata=identity.authority)
        with readable_secret("runner-identity", secret) as path:  # a key can be loaded from a file only
            context.load_cert_chain(path)
    except (ssl.SSLError, ValueError):
        raise PeerRefused("the identity of this side is not valid: its certificate and key cannot be read") from None
    return context


class Handshake(PeerProof["EncryptedStream"]):
    """The proof by TLS."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, peer: str) -> None:
        super().__init__(peer)
        self._stream = EncryptedStream(sock, context)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._stream.fileno()

    def step(self) -> int:
        """Go on as far as possible; return what to wait for, `READ` or `WRITE`, or 0 at the end. Else PeerRefused."""
        try:
            return self._stream.go_on_proving()
        except OSError as error:
            raise self.refusal(describe_tls_error(error)) from None

    def stream(self) -> EncryptedStream:
        """Return the connection, after the last step. It may have read what follows already."""
        return self._stream

    def close(self) -> None:
        """Close the socket of a peer that is refused."""
        self._stream.close()


def describe_tls_error(error: Exception) -> str:
    """Return the reason why a peer was refused, or refuses this side.

    >>> describe_tls_error(ConnectionResetError())
    'it closed the connection without a word'
    """
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)) or not isinstance(error, ssl.SSLError):
        return "it closed the connection without a word"
    reason = error.reason or ""
    if reason in _REFUSALS:
        return _REFUSALS[reason]
    if "ALERT" in reason:
        return "it did not accept our certificate"
    return "it does not speak TLS"


class EncryptedStream:
    """A proved connection that never blocks, with the calls of a socket: `send`, `sendmsg` and `recv_into`.

    BlockingIOError: not now; wait for the descriptor, and offer the same bytes again. Other OSError: it has ended. What
    came right behind the proof has been read already, which no selector sees: a reader begins as soon as it has this.
    """

    #: A buffer of so many bytes takes all that has been read.
    least_read = 2 * _PIECE_BYTES

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server_side = context.protocol == ssl.PROTOCOL_TLS_SERVER
        name = None if server_side else SUPERVISOR_NAME
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side, server_hostname=name)
        self._buffer = memoryview(bytearray(_PIECE_BYTES))
        #: Encrypted bytes that the socket has not taken, and the number of plain ones that are owed for them.
        self._unsent = memoryview(b"")
        self._owed = 0
        #: What has been read has been handed out, but for the beginning of a record. To ask costs an exception.
        #: bench, a frame of 100 B received by a `FrameLink`: without this 41 us, with it 22
        self._is_drained = False

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def go_on_proving(self) -> int:
        """Take the next steps of the handshake; return what to wait for, or 0 at its end."""
        while True:
            done = False
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with contextlib.suppress(OSError):  # the peer is told why, if it still listens
                    self._flush()
                raise
            try:
                self._flush()
            except BlockingIOError:
                return WRITE
            if done:
                return 0
            try:
                if not self._receive():
                    raise ConnectionResetError
            except BlockingIOError:
                return READ

    def send(self, data: Any) -> int:
        """Write what the connection takes; return how many bytes."""
        return self.sendmsg([data])

    def sendmsg(self, buffers: list[Any], ancillary: Any = ()) -> int:
        """Write what the connection takes of several buffers; return how many bytes. No descriptors travel."""
        assert not ancillary, "no descriptor leaves a machine"
        if not self._owed:
            if sum(map(len, buffers)) <= _RECORD_BYTES:  # a frame's head and its body, in most cases
                buffers = [b"".join(buffers)]
            for buffer in buffers:
                room = _PIECE_BYTES - self._owed
                if room <= 0:
                    break
                if len(buffer):
                    self._owed += self._tls.write(memoryview(buffer)[:room])
        self._flush()
        sent, self._owed = self._owed, 0
        return sent

    def recv_into(self, buffer: memoryview) -> int:
        """Read what has arrived, as much as there is room for; return how many bytes, 0 at the end.

        A buffer of two pieces or more takes all that has been read: then a selector sees what is left.
        """
        got = 0 if self._is_drained else self._decrypt_into(buffer)
        while not got:
            if not self._receive():
                return 0
            got = self._decrypt_into(buffer)
        return got

    def _decrypt_into(self, buffer: memoryview) -> int:
        """Hand out what has been read; return how many bytes, 0 if there is no whole record."""
        got = 0
        self._is_drained = False
        try:
            while got < len(buffer) and not self._is_drained:
                more: Any = self._tls.read(len(buffer) - got, buffer[got:])
                got += more
                self._is_drained = not self._incoming.pending and not self._tls.pending()
        except ssl.SSLWantReadError:
            self._is_drained = True
        except ssl.SSLError as error:
            if not got:  # else the next call meets it again
                raise ConnectionResetError(describe_tls_error(error)) from None
        return got

    def _receive(self) -> int:
        """Take encrypted bytes off the socket; return how many, 0 at the end."""
        got = self._socket.recv_into(self._buffer)
        self._incoming.write(self._buffer[:got])
        return got

    def _flush(self) -> None:
        """Hand all encrypted bytes to the socket; BlockingIOError when it does not take them all."""
        if self._outgoing.pending:
            more = self._outgoing.read()
            self._unsent = memoryview(bytes(self._unsent) + more if self._unsent else more)
        while self._unsent:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]

    def close(self) -> None:
        """Close it, without farewell: the peer's frames say what is whole."""
        self._socket.close()
