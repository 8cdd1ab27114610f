"""Agents on loopback, and the engine that has their workers: two machines, as far as anybody can tell."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.cluster.authority import make_identities
from runner.cluster.encryption import Handshake, server_context
from runner.engines.launcher import JOIN_VARIABLE, Launcher
from runner.engines.nodes import open_listener
from runner.engines.remote import RemoteEngine
from runner.shm.registry import ArenaRegistry
from runner.transport.agent_messages import AgentPlan
from runner.transport.join_file import JoinFile, write_join_file
from runner.transport.key_proof import KeyProof

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import ExitStack

    from runner.model import Resources
    from runner.tasks import Reference
    from runner.transport.frame_link import ByteStream
    from runner.transport.peer_proof import PeerProof

#: No agent takes so long to join, or to end.
LIMIT = 30.0


def print_at_once(name: str, data: bytes, stream: str, then: Callable[[], object]) -> None:
    os.write(1 if stream == "out" else 2, data)
    then()


class Machines:
    """Agents of one run, which are ended with it."""

    def __init__(self, stack: ExitStack, address: str, lost: float, *, encrypted: bool = False) -> None:
        self.key, self.context, identity = os.urandom(32), None, ""
        if encrypted:
            ours, theirs = make_identities("test")
            self.context, identity = server_context(ours), theirs.as_text()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.join_file = folder / "join"
        self.join_file.touch(0o600)
        self.join_file.write_bytes(write_join_file(JoinFile(address, "test", lost, self.key.hex(), identity)))
        self.agents: list[subprocess.Popen[bytes]] = []
        stack.callback(self.await_ends)

    def prove(self, sock: socket.socket, peer: str) -> PeerProof[ByteStream]:
        if self.context is not None:
            return Handshake(sock, self.context, peer)
        return KeyProof(sock, self.key, peer, is_agent=False)

    def add(self, name: str = "", places: int = 8) -> subprocess.Popen[bytes]:
        """Start an agent."""
        name = name or f"n{len(self.agents) + 1}"
        command = [sys.executable, "-P", "-m", "runner.agent", f"--join={self.join_file}", f"--places={places}"]
        self.agents.append(subprocess.Popen([*command, f"--name={name}", "--wait=10"]))
        return self.agents[-1]

    def await_ends(self) -> None:
        """All agents have ended, as they do with the run; one that has not fails the test."""
        left = []
        for agent in self.agents:
            try:
                agent.wait(LIMIT)
            except subprocess.TimeoutExpired:
                left.append(agent.pid)
                agent.kill()
                agent.wait()
        assert not left, f"agents that did not end: {left}"


def open_remote(
    hub: Any,
    stack: ExitStack,
    references: Sequence[Reference] = (),
    *,
    agents: int = 2,
    places: int = 8,
    lost: float = 10.0,
    weighed: Sequence[str] = (),
    needs_asyncio: bool = False,
    print_output: Callable[..., None] = print_at_once,
    encrypted: bool = False,
    resources: Mapping[str, Resources] | None = None,
    launcher: Sequence[str] = (),
) -> tuple[RemoteEngine, Machines]:
    """Return an engine that listens, and so many agents that will join; `stack` closes all of it."""
    listener, address = open_listener("127.0.0.1:0")
    machines = Machines(stack, address, lost, encrypted=encrypted)
    plan = AgentPlan(
        "test",
        str(Path.cwd()),
        tuple(each for each in sys.path if each),
        tuple((each.module, each.path) for each in references),
        needs_asyncio,
    )
    arenas = ArenaRegistry()
    engine = RemoteEngine(
        hub,
        listener,
        machines.prove,
        plan,
        lost=lost,
        invitation="join me",
        worker_count=10,
        print_output=print_output,
        finish_output=lambda name: None,
        weighed_tasks=weighed,
        resources=resources,
        arenas=arenas,
    )
    stack.callback(arenas.close)
    stack.callback(engine.close)
    if launcher:
        environment = {JOIN_VARIABLE: machines.join_file.read_text()}
        engine.use_launcher(lambda *calls: Launcher(launcher, environment, hub, *calls))
    for _ in range(agents):
        machines.add(places=places)
    return engine, machines


def wait_until(hub: Any, holds: Callable[[], bool]) -> list[Any]:
    """Let a reactor go on until something holds; return what it has heard."""
    heard: list[Any] = []
    until = time.monotonic() + LIMIT
    while not holds():
        heard += hub.wait(0.1)
        assert time.monotonic() < until, heard
    return heard
