"""The proof that both ends of a connection have the run's key, before anything else is read.

    supervisor ── word, nonce S ─────────────────────────────▶ agent
               ◀── word, nonce A, HMAC(key, "agent" S A) ─────
               ── HMAC(key, "supervisor" S A) ───────────────▶

The key itself never travels. Nothing is encrypted by this: who can change what passes between the machines can change
it afterwards. So it is for one machine, for networks that only the run's own machines are on, and where the library
cryptography is missing; elsewhere the run has an authority of its own and TLS, which has this shape as well.
"""

from __future__ import annotations

import hmac
import os
from typing import TYPE_CHECKING

from runner.transport.peer_proof import READ, WRITE, PeerProof

if TYPE_CHECKING:
    import socket

#: The protocol and its version: other versions of runner end here.
WORD = b"runner-agent-1\n"
KEY_BYTES = NONCE_BYTES = 32
_MAC_BYTES = 32


class KeyProof(PeerProof["socket.socket"]):
    """The proof by a key."""

    def __init__(self, sock: socket.socket, key: bytes, peer: str, *, is_agent: bool) -> None:
        sock.setblocking(False)
        super().__init__(peer)
        self._socket, self._key, self._is_agent = sock, key, is_agent
        self._nonce = os.urandom(NONCE_BYTES)
        self._unsent = b"" if is_agent else WORD + self._nonce
        self._wanted = len(WORD) + NONCE_BYTES + (0 if is_agent else _MAC_BYTES)
        self._received = b""
        self._expected_mac = b""

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._socket.fileno()

    def step(self) -> int:
        """Go on as far as possible; return what to wait for, `READ` or `WRITE`, or 0 at the end. Else PeerRefused."""
        try:
            while True:
                while self._unsent:
                    self._unsent = self._unsent[self._socket.send(self._unsent) :]
                if not self._wanted:
                    return 0
                more = self._socket.recv(self._wanted - len(self._received))  # nothing of what comes after
                if not more:
                    raise self.refusal("it closed the connection, as one does that has another key")
                self._received += more
                self._check_word()
                if len(self._received) == self._wanted:
                    self._go_on()
        except BlockingIOError:
            return WRITE if self._unsent else READ
        except OSError as error:
            raise self.refusal(f"its connection ended: {error.strerror or error}") from None

    def _check_word(self) -> None:
        if not self._expected_mac and not (WORD.startswith(self._received) or self._received.startswith(WORD)):
            raise self.refusal("it does not speak the language of this version's agents")

    def _go_on(self) -> None:
        """Take the next step: a whole part of the other side's has arrived."""
        received, self._received = self._received, b""
        if self._expected_mac:  # the agent's last one
            if not hmac.compare_digest(received, self._expected_mac):
                raise self.refusal("it does not have the key of the run")
            self._wanted = 0
            return
        nonce = received[len(WORD) :][:NONCE_BYTES]
        nonces = nonce + self._nonce if self._is_agent else self._nonce + nonce
        agents, supervisors = (hmac.digest(self._key, word + nonces, "sha256") for word in (b"agent", b"supervisor"))
        if self._is_agent:
            self._unsent, self._expected_mac = WORD + self._nonce + agents, supervisors
            self._wanted = _MAC_BYTES
        elif hmac.compare_digest(received[-_MAC_BYTES:], agents):
            self._unsent, self._wanted = supervisors, 0
        else:
            raise self.refusal("it does not have the key of the run")

    def stream(self) -> socket.socket:
        """Return the connection, after the last step."""
        return self._socket

    def close(self) -> None:
        """Close the socket of a peer that is refused."""
        self._socket.close()
