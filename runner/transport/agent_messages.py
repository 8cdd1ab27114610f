"""All that the supervisor and the agents of other machines say to each other; `frame_link` has the frames.

supervisor ─▶ agent   PLAN (what workers will need) · START (a worker) · SEND (a message for it) · KILL · DUMP (its
                      stack) · PAUSE · WRITTEN (output was taken) · CLOSE · BLOCK (bytes of another machine's arena) ·
                      LENT (the blocks of the grant that follows) · FREED (blocks that no task needs) · GONE (an arena)
agent ─▶ supervisor   HELLO (who it is) · HEARD (a worker's message) · DIED · REFUSED (a start) · OUTPUT · SHOWS (its
                      position) · WEIGHS (its memory) · STACK · LEAVING (the machine is to be taken away) · UNABLE (it
                      can do nothing with the plan) · MADE (bytes of its own arenas, before the message that
                      names them) · TRAFFIC (for how long the network has held it up)

What an agent says executes nothing in the supervisor. A `START` is a pickle, so an agent reads nothing before the
supervisor has proved who it is.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from runner.shm.writer import MAX_BYTES_IN_USE
from runner.transport.framing import MAX_HEADER_BYTES, MAX_PAYLOAD_BYTES, FrameError, WireBuffer

PLAN, START, SEND, KILL, DUMP, PAUSE, WRITTEN, CLOSE, BLOCK, LENT, FREED, GONE = range(1, 13)
HELLO, HEARD, DIED, REFUSED, OUTPUT, SHOWS, WEIGHS, STACK, LEAVING, UNABLE, MADE = range(33, 44)
#: Seconds in which an agent had more to send than the network took.
TRAFFIC = 60

_SHORT, _TEXT = 1 << 16, 1 << 20
_MESSAGE = MAX_HEADER_BYTES + MAX_PAYLOAD_BYTES
#: What an agent takes, and how many bytes of each.
TO_AGENT = {PLAN: 1 << 28, START: 1 << 28, SEND: _MESSAGE, CLOSE: _TEXT}
TO_AGENT |= dict.fromkeys((LENT, FREED, GONE), 1 << 28) | {BLOCK: MAX_BYTES_IN_USE + 16}
TO_AGENT |= dict.fromkeys((KILL, DUMP, PAUSE, WRITTEN), _SHORT)
#: What the supervisor takes.
FROM_AGENT = {HEARD: _MESSAGE, HELLO: _TEXT, DIED: _TEXT, REFUSED: _TEXT, OUTPUT: _TEXT, STACK: _TEXT}
FROM_AGENT |= dict.fromkeys((SHOWS, WEIGHS, LEAVING, UNABLE, TRAFFIC), _SHORT) | {MADE: MAX_BYTES_IN_USE + 16}


class _AgentStruct(Struct, frozen=True, array_like=True):
    """Base of what a frame's body holds: its types are checked when it is read."""


class Hello(_AgentStruct, frozen=True):
    """An agent, and the machine that it is on. `places`: the CPUs that it lends, one to a worker in most cases.

    `memory`: the bytes that it lends; `gpus` as its programs name them; `distributions` are the folders of metadata of
    what is installed there. `page_size` is that of its shared memory; 0: it has none for large items.
    """

    node: str
    host: str
    pid: int
    cpus: int
    memory: int
    places: float
    runner: str
    python: str
    distributions: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    page_size: int = 0


class AgentPlan(_AgentStruct, frozen=True):
    """What the workers of a run will need, for the agent's fork server; `preload` are (module, file) pairs.

    `folder` is where they begin, if the agent's machine has it, and `sys_path` where the supervisor finds modules.
    `code` are the local plugins (`cluster.sent_code`); `shared` is the supervisor's folder that is `folder` there.
    `node_number` is what the numbers of its arenas begin with.
    """

    run: str
    folder: str
    sys_path: tuple[str, ...] = ()
    preload: tuple[tuple[str, str | None], ...] = ()
    needs_asyncio: bool = False
    has_env: bool = False
    code: bytes = b""
    shared: str = ""
    node_number: int = 0


class DeathReport(_AgentStruct, frozen=True):
    """A worker's end, as `WorkerExited` tells it."""

    code: int | None
    signal: int | None
    text: str
    lease: int
    index: int
    width: int
    stack: str
    socket_broken: bool


class ShownPosition(_AgentStruct, frozen=True):
    """What a worker's progress slot shows: `stands` if it has for over a second. `blocked`: its output is not taken."""

    lease: int
    index: int
    width: int = 1
    stands: bool = False
    blocked: bool = False


_Body = TypeVar("_Body")
encode_body = msgspec.msgpack.Encoder().encode


def decode_body(body: WireBuffer, kind: type[_Body]) -> _Body:
    """Return what a frame's body holds; FrameError if that is not one."""
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise FrameError(f"it sent what is not a {kind.__name__}: {error}") from None


def plain_text(text: Any) -> str:
    """Return a text that can be encoded: halves of surrogate pairs are escaped."""
    return str(text).encode("utf-8", "backslashreplace").decode()
