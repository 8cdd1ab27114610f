"""The program `runner agent`: its options, how it joins a run, and its loop.

It is parsed by hand and imports neither typer nor rich nor pydantic: on each of a thousand machines it is to be there
at once, and small. What it does not understand it leaves to the command line, which says what is wrong.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from runner.agent.relay import Relay
from runner.cgroups import memory_limit, usable_cpus
from runner.cluster.placement import visible_gpus
from runner.engines import process_setup
from runner.engines.reactor import LocalReactor
from runner.errors import ResourceError, RunnerError, UsageError
from runner.linux_only import physical_memory
from runner.shm.linux_only import arenas_supported
from runner.shm.writer import PAGE_SIZE
from runner.transport import agent_messages as frames
from runner.transport.agent_messages import Hello, encode_body, plain_text
from runner.transport.frame_link import FrameLink, watch_silence
from runner.transport.join_file import JoinFile, read_join_file
from runner.transport.key_proof import KeyProof
from runner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from runner.transport.frame_link import ByteStream

#: Seconds in which the join file must be there and the run reachable, and between two tries.
DEFAULT_WAIT, _RETRY = 60.0, 0.1
_CONNECT_SECONDS = 10.0
#: As many places more would need the open files of the twins of other machines' arenas.
_TWIN_PLACES = 400
#: No machine lends more.
MAX_PLACES = 100_000
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class AgentOptions(Struct, frozen=True):
    """What the command line says: the join file, the CPUs and bytes to lend (0: all), a name, how long to try."""

    join: str
    places: float = 0.0
    memory: int = 0
    name: str = ""
    wait: float = DEFAULT_WAIT


def parse_options(words: Sequence[str]) -> AgentOptions | None:
    """Return what plain options say; None for anything else: the command line has the words for that.

    >>> parse_options(["--join", "f", "--places=2"])
    AgentOptions(join='f', places=2.0, memory=0, name='', wait=60.0)
    >>> parse_options(["--places", "2"]), parse_options(["--help"])
    (None, None)
    """
    found: dict[str, str] = {}
    left = list(words)
    while left:
        name, equals, value = left.pop(0).partition("=")
        if name not in {"--join", "--places", "--memory", "--name", "--wait"} or not (equals or left):
            return None
        found[name[2:]] = value if equals else left.pop(0)
    try:
        places, wait = float(found.pop("places", "0")), float(found.pop("wait", DEFAULT_WAIT))
        memory = int(found.pop("memory", "0"))
        is_plain = "join" in found and 0 <= places < MAX_PLACES and memory >= 0
        return AgentOptions(places=places, memory=memory, wait=wait, **found) if is_plain else None
    except ValueError:
        return None


def run_program(options: AgentOptions) -> int:
    """Be an agent; return the exit code."""
    try:
        run_agent(options)
    except RunnerError as error:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"runner agent: {error}\n")
        return error.exit_code
    return 0


def run_agent(options: AgentOptions) -> None:
    """Join the run, and lend this machine to it until either is over. RunnerError: it could not, or was cut off."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_setup.deliver_signals())
        reactor = LocalReactor()
        stack.callback(reactor.close)
        reactor.catch_signals(_SIGNALS)
        link, join_file = _connect(options, reactor)
        stack.callback(link.close)
        hello = describe_machine(options)
        for more in (0, _TWIN_PLACES):
            with contextlib.suppress(ResourceError):  # fewer than it says; a start beyond that is refused
                process_setup.raise_open_files_limit(2 * math.ceil(hello.places) + more, 0)
        os.environ["RUNNER_PID"] = str(os.getpid())
        link.send(frames.HELLO, body=[encode_body(hello)])
        relay = Relay(link, reactor)
        stack.callback(relay.close)
        while not relay.is_over:
            for event in reactor.wait(None):
                relay.handle_event(event)
        if relay.failure:
            raise ResourceError(f"the run {join_file.name} at {join_file.address}: {relay.failure}")


def _connect(options: AgentOptions, reactor: LocalReactor) -> tuple[FrameLink, JoinFile]:
    """Connect, and prove to be of the run as it does; tries again while it may not have begun to listen."""
    until = time.monotonic() + options.wait
    while True:
        try:
            join_file = read_join_file(Path(options.join))
            sock = socket.create_connection(join_file.host_and_port, timeout=_CONNECT_SECONDS)
            break
        except OSError as error:
            if reactor.has_pending_signal() or time.monotonic() >= until:
                what = options.join if isinstance(error, FileNotFoundError) else f"the run of {options.join}"
                raise UsageError(f"{what}: {error.strerror or error}") from None
            reactor.wait(_RETRY)
    watch_silence(sock, join_file.lost / 2)  # it has killed its workers before their items are given again
    return FrameLink(_prove(sock, join_file), frames.TO_AGENT, frames.BLOCK), join_file


def _prove(sock: socket.socket, join_file: JoinFile) -> ByteStream:
    """Prove to be of the run, and have the other end prove the same; return the connection."""
    run = f"the run at {join_file.address}"
    if not join_file.identity:
        return KeyProof(sock, bytes.fromhex(join_file.key), run, is_agent=True).finish()
    from runner.cluster.encryption import Handshake, Identity, client_context

    try:
        identity = Identity.from_text(join_file.identity)
    except ValueError as error:
        raise UsageError(f"the identity in the join file is {error}") from None
    return Handshake(sock, client_context(identity), run).finish()


def _usable_memory() -> int:
    """Return the bytes of this machine, or those that its container may use."""
    limit, there = memory_limit(), physical_memory()
    return there if limit is None else min(limit, there)


def describe_machine(options: AgentOptions) -> Hello:
    """Return what the supervisor is told of this machine."""
    host = plain_text(socket.gethostname())
    cpus = usable_cpus()
    return Hello(
        node=options.name or host.partition(".")[0],
        host=host,
        pid=os.getpid(),
        cpus=cpus,
        memory=options.memory or _usable_memory(),
        places=options.places or cpus,
        runner=__version__,
        python=platform.python_version(),
        distributions=tuple(_metadata_folders()),
        gpus=visible_gpus(os.environ, os.listdir("/dev")),  # noqa: PTH208  names are all that is wanted
        page_size=PAGE_SIZE if arenas_supported() else 0,
    )


def _metadata_folders() -> Iterator[str]:
    """Yield the folders of metadata of all that is installed here, in the order in which modules are looked for."""
    for site in dict.fromkeys(sys.path):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(site or ".")):  # noqa: PTH208  a Path for each of hundreds costs more
                if name.endswith((".dist-info", ".egg-info")):
                    yield plain_text(name)
