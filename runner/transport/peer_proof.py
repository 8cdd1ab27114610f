"""The proof at the beginning of a connection: what its two kinds, a key and TLS, have in common."""

from __future__ import annotations

import select
import time
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from runner.errors import RunnerError

READ, WRITE = select.POLLIN, select.POLLOUT
#: Seconds that a peer may take: three ways there and back, over the slowest network that is of use.
PROOF_SECONDS = 10.0
_Stream_co = TypeVar("_Stream_co", covariant=True)


class PeerRefused(RunnerError):
    """A peer that has not proved to be of this run; the message says who, and why."""

    exit_code = 1


class PeerProof(ABC, Generic[_Stream_co]):
    """The proof in steps, for a loop that must not wait for one peer. `peer` is the other side as messages name it.

    It owns the socket until `stream` is asked for, or it is closed.
    """

    def __init__(self, peer: str) -> None:
        self.peer = peer

    @abstractmethod
    def fileno(self) -> int:
        """Return the descriptor to wait for."""

    @abstractmethod
    def step(self) -> int:
        """Go on as far as possible; return what to wait for, `READ` or `WRITE`, or 0 at the end. Else PeerRefused."""

    @abstractmethod
    def stream(self) -> _Stream_co:
        """Return the connection, after the last step. It may have read what follows already."""

    @abstractmethod
    def close(self) -> None:
        """Close the socket of a peer that is refused."""

    def finish(self, seconds: float = PROOF_SECONDS) -> _Stream_co:
        """Take all steps, waiting at most `seconds`; PeerRefused, and the socket is closed, if that does not do."""
        until = time.monotonic() + seconds
        poll = select.poll()
        try:
            while wanted := self.step():
                poll.register(self.fileno(), wanted)
                left = until - time.monotonic()
                if left <= 0 or not poll.poll(left * 1000):
                    raise self.timed_out(seconds)
        except PeerRefused:
            self.close()
            raise
        return self.stream()

    def refusal(self, why: str) -> PeerRefused:
        """Return the refusal of the peer."""
        return PeerRefused(f"{self.peer} was refused: {why}")

    def timed_out(self, seconds: float = PROOF_SECONDS) -> PeerRefused:
        """Return the refusal of a peer that has taken longer."""
        return self.refusal(f"it has not proved who it is within {seconds:g} s")
