"""The machines of a run: who may join is let in here, and proved; `remote` has their workers.

listening ──▶ proof, in steps ──▶ first frame: HELLO ──▶ a node
                └▶ refused, told once; the run goes on
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

from runner.cluster.versions import describe_differences, told_versions
from runner.engines.reactor import READ, WRITE
from runner.errors import ResourceError, RunnerError
from runner.transport import agent_messages as frames
from runner.transport.agent_messages import AgentPlan, Hello, decode_body, encode_body
from runner.transport.frame_link import FrameLink, watch_silence
from runner.transport.framing import FrameError
from runner.transport.peer_proof import PROOF_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from runner.cluster.versions import NodeVersions
    from runner.engines.reactor import LocalReactor
    from runner.transport.frame_link import ByteStream, Frame
    from runner.transport.peer_proof import PeerProof

#: Peers that prove who they are at the same time; a scanner must not use up our descriptors.
_MAX_PEERS = 64
_BACKLOG = 128
#: Seconds in which refused nodes are gathered: a cluster's come together, and have the same fault.
_GATHER_SECONDS = 1.0
#: Different refusals that are told.
_MAX_TOLD = 20
#: A documentation address: no packet is sent to find out by which of its addresses this machine would reach it.
_FAR_AWAY = ("192.0.2.1", 9)
_ANY_ADDRESS = {"", "0.0.0.0", "::"}  # noqa: S104  recognized here, not bound


def outward_address() -> str:
    """Return the address by which other machines reach this one, as far as it knows; else its own."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(_FAR_AWAY)
        address: str = sock.getsockname()[0]
        return address
    return "127.0.0.1"


def open_listener(listen: str) -> tuple[socket.socket, str]:
    """Return a socket that listens at `host:port`, and the address for agents. ResourceError if it cannot.

    Without a host, at the one address by which other machines reach this one, not at all of them.
    """
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or outward_address()
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, int(port or 0)), family=family, backlog=_BACKLOG)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ResourceError(f"agents cannot be heard at {listen or host}: {why} (`listen` in [agents])") from None
    listener.setblocking(False)
    shown = outward_address() if host in _ANY_ADDRESS else host
    return (
        listener,
        f"[{shown}]:{listener.getsockname()[1]}" if ":" in shown else f"{shown}:{listener.getsockname()[1]}",
    )


class NodeDoor:
    """Lets machines in. `prove` begins the proof of a connection; `on_joined` is given what said HELLO."""

    def __init__(
        self,
        reactor: LocalReactor,
        listener: socket.socket,
        prove: Callable[[socket.socket, str], PeerProof[ByteStream]],
        versions: NodeVersions,
        lost: float,
        on_joined: Callable[[FrameLink, Hello, str, list[Frame]], None],
        tell: Callable[[str], None],
    ) -> None:
        self._reactor, self._listener, self._prove, self._lost = reactor, listener, prove, lost
        self._on_joined, self._tell = on_joined, tell
        #: What nodes must have, and nodes that have something else, as far as they have not been told yet.
        self._versions = versions
        self._other_versions: dict[str, NodeVersions] = {}
        #: Peers that have not said HELLO, by descriptor: what closes each.
        self._peers: dict[int, Callable[[], None]] = {}
        self._told: set[str] = set()
        reactor.watch_fd(listener.fileno(), READ, self._accept)

    def _accept(self, _mask: int) -> None:
        while True:
            try:
                sock, address = self._listener.accept()
            except OSError:  # nobody more; or one that has gone again, or no descriptor for it
                return
            if len(self._peers) >= _MAX_PEERS:
                sock.close()
                continue
            sock.setblocking(False)
            with contextlib.suppress(OSError):  # it may have gone again
                watch_silence(sock, self._lost)
            proof = self._prove(sock, f"an agent at {address[0]}")
            fd = proof.fileno()
            self._peers[fd] = proof.close
            self._reactor.watch_fd(fd, READ | WRITE, partial(self._go_on, proof, fd))
            self._reactor.call_later(PROOF_SECONDS, partial(self._give_up, fd, proof.close, proof))

    def _go_on(self, proof: PeerProof[ByteStream], fd: int, _mask: int) -> None:
        try:
            wanted = proof.step()
        except RunnerError as error:
            self._refuse(fd, str(error))
            return
        if wanted:
            self._reactor.change_fd_events(fd, wanted)
            return
        link = FrameLink(proof.stream(), frames.FROM_AGENT, frames.MADE)
        self._reactor.unwatch_fd(fd)
        self._reactor.watch_fd(fd, READ, lambda _mask: self._hear_hello(link, proof.peer, fd))
        self._hear_hello(link, proof.peer, fd)  # the connection may have read ahead

    def _hear_hello(self, link: FrameLink, peer: str, fd: int) -> None:
        got = link.receive()
        if not got and not link.end_reason:
            return
        try:
            if not got or got[0].kind != frames.HELLO:
                raise FrameError(link.end_reason or "it did not say who it is")  # noqa: TRY301  one way to refuse
            hello = decode_body(got[0].body, Hello)
        except FrameError as error:
            self._refuse(fd, f"{peer} was refused: {error}")
            return
        theirs = told_versions(hello.runner, hello.python, hello.distributions, self._versions.distributions)
        if why := describe_differences(self._versions, {hello.node: theirs}):
            link.send(frames.CLOSE, body=[f"refused: {why}".encode()])
            self._refuse_versions(fd, hello.node, theirs)
            return
        del self._peers[fd]
        self._reactor.unwatch_fd(fd)
        self._on_joined(link, hello, peer, got[1:])

    def _refuse_versions(self, fd: int, node: str, theirs: NodeVersions) -> None:
        """Refuse a node; what is other on several that come one after the other is told in one text."""
        self._forget_peer(fd)
        if not self._other_versions:
            self._reactor.call_later(_GATHER_SECONDS, self._tell_versions)
        self._other_versions[node] = theirs

    def _tell_versions(self) -> None:
        text = describe_differences(self._versions, self._other_versions)
        self._other_versions.clear()
        self._tell_once(f"refused: {text}")

    def _forget_peer(self, fd: int) -> None:
        self._reactor.unwatch_fd(fd)
        self._peers.pop(fd)()

    def _refuse(self, fd: int, why: str) -> None:
        self._forget_peer(fd)
        self._tell_once(why)

    def _tell_once(self, why: str) -> None:
        if why not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(why)
            self._tell(why)

    def _give_up(self, fd: int, close: Callable[[], None], proof: PeerProof[ByteStream]) -> None:
        if self._peers.get(fd) == close:
            self._refuse(fd, str(proof.timed_out()))

    def close_descriptors(self) -> None:
        """Let go of all sockets, without a word to the reactor."""
        self._listener.close()
        for close in self._peers.values():
            close()

    def close(self) -> None:
        """Let nobody in any more."""
        for fd in (self._listener.fileno(), *self._peers):
            self._reactor.unwatch_fd(fd)
        self.close_descriptors()
        self._peers.clear()


def send_plan(link: FrameLink, plan: AgentPlan) -> None:
    """Tell an agent what its workers will need."""
    link.send(frames.PLAN, body=[encode_body(plan)])


def end_agents(links: list[FrameLink], seconds: float) -> None:
    """Have agents end, wait so long for that, and close their connections."""
    for link in links:
        link.send(frames.CLOSE)
    until = time.monotonic() + seconds
    while (left := [link for link in links if not link.end_reason]) and time.monotonic() < until:
        poll = select.poll()
        for link in left:
            poll.register(link.fileno(), READ | (WRITE if link.wants_to_write else 0))
        poll.poll(max(0.0, until - time.monotonic()) * 1000)
        for link in left:
            link.flush()
            link.receive()
    for link in links:
        link.close()
